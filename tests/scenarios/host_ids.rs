//! Holding a host id, and judging those who hold one.

use std::time::Duration;

use leasehold::format::{DeltaExtension, DeltaRecord};
use leasehold::protocol::choice::choose;
use leasehold::protocol::delta::{Acquire, Identity, Loss, Refusal, Tenure};
use leasehold::protocol::identity::{Board, Found, boot, machine, named};
use leasehold::protocol::liveness::{Observer, Verdict};
use leasehold::protocol::record::{Effect, Event, RecordProcedure};
use leasehold::protocol::sightings::Sightings;
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{BootId, MachineId, Profile, Time, Unidentified};

use crate::world::*;

/// A host id held by `me`, as a join leaves it; and when that was.
pub(crate) fn tenure() -> (Tenure, DeltaRecord, Time) {
    let (mut acquire, written, mut now) = join(B);
    let settled = acquire.step(Event::Wrote(Span { started: now, ended: now }, Written::Done));
    let Effect::Wait(until) = settled else { panic!("{settled:?}") };
    now = until;
    assert_eq!(acquire.step(Event::Woke(now)), Effect::Read);
    match acquire.step(Event::Read(Span { started: now, ended: now }, Seen::Good(written.clone()))) {
        Effect::Done(Ok(tenure)) => (*tenure, written, now),
        other => panic!("{other:?}"),
    }
}

/// A join of a machine up to its write.
fn join(machine: u64) -> (Acquire, DeltaRecord, Time) {
    let now = Time::ZERO + Duration::from_secs(100);
    let identity = Identity { session: machine as u32, ..identity(machine, 1) };
    // Each skips another number of generations.
    let mut acquire = Acquire::new(bid(A), identity, terms(), machine);
    let free = DeltaRecord { timestamp: 0, ..record(owner(A, 4), timeouts()) };
    match acquire.step(Event::Read(Span { started: now, ended: now }, Seen::Good(free))) {
        Effect::Write(record, _) => (acquire, record, now),
        other => panic!("{other:?}"),
    }
}

fn identity(machine: u64, boot: u32) -> Identity {
    Identity { name: name("host"), machine: MachineId::new(machine), boot: BootId::new(boot), session: 9 }
}

/// How long `who` watches an unreleased record before it takes the id; `None` when it does not.
fn takes_after(who: Identity, seen: &DeltaRecord) -> Option<Duration> {
    let mut acquire = Acquire::new(bid(A), who, terms(), 0).by_boot_time();
    let start = Time::ZERO + Duration::from_secs(100);
    let mut now = start;
    loop {
        match acquire.step(Event::Read(Span { started: now, ended: now }, Seen::Good(seen.clone()))) {
            Effect::Wait(until) => now = until,
            Effect::Write(..) => return Some(now.since(start)),
            Effect::Done(Err(Refusal::NotReleased(_))) => return None,
            other => panic!("{other:?}"),
        }
        assert_eq!(acquire.step(Event::Woke(now)), Effect::Read);
    }
}

/// How long a machine watches an unreleased record of its own before it takes the id again.
fn watches(seen: &DeltaRecord, boot: u32) -> Duration {
    takes_after(identity(A, boot), seen).unwrap()
}

/// What root finds on a machine with this board, in this boot. All machines are made from one image.
fn copy(board: Board, boot: u32) -> Found {
    Found {
        machine_id: Some("3d1219c7c4c5404aaa1f6d2a48adfda4".into()),
        board,
        pid_namespace: Some(4_026_531_836),
        user_namespace: Some(4_026_531_837),
        network_namespace: Some(4_026_531_992),
        first_network_namespace: Some(4_026_531_992),
        time_namespace: Some(4_026_531_834),
        boot_id: Some(format!("boot {boot}")),
        mounts: Some("22 27 0:21 / /proc rw - proc proc rw".into()),
    }
}

fn board(number: u32) -> Board {
    Board::Text(format!("{number:08x}-0038-4b10-8056-b7c04f4d3232"))
}

fn of(found: &Found) -> Identity {
    Identity { machine: machine(found).ok(), boot: boot(found), ..identity(0, 0) }
}

/// The record of a holder that found this, and does not renew any more.
fn stalled(found: &Found) -> DeltaRecord {
    let mut held = record(owner(A, 4), timeouts());
    let Identity { machine, boot, .. } = of(found);
    held.extension = held.extension.map(|extension| DeltaExtension { machine, boot, ..extension });
    held
}

#[test]
fn scenario_7_a_generation_newer_than_its_record_as_last_read_is_alive() {
    let mut observer = Observer::new(timeouts());
    let now = Time::ZERO + Duration::from_secs(10);
    let free = DeltaRecord { timestamp: 0, ..record(owner(B, 1), timeouts()) };
    observer.observe(id(B), Span { started: now, ended: now }, Some(now), Seen::Good(free));
    assert_eq!(observer.judge(owner(B, 1), now), Verdict::Over);
    assert!(!observer.judge(owner(B, 2), now).is_gone());
}

#[test]
fn scenario_8_a_peer_is_counted_with_its_own_timeouts() {
    let mut observer = Observer::new(timeouts());
    let slow = Profile::Balanced.timeouts();
    let start = Time::ZERO + Duration::from_secs(10);
    let mut look = |at: Time| {
        observer.observe(id(A), Span { started: at, ended: at }, Some(at), Seen::Good(record(owner(A, 1), slow)));
        observer.judge(owner(A, 1), at)
    };
    look(start);
    assert!(!look(start + timeouts().dead() * 2).is_gone(), "the observer's own D is not A's");
    assert!(!look(start + slow.dead()).is_gone(), "clocks differ in rate");
    assert_eq!(look(start + slow.dead() * 2), Verdict::Dead);
}

#[test]
fn scenario_9_only_a_reboot_makes_taking_the_own_id_again_fast() {
    let held = record(owner(A, 4), timeouts());
    assert!(watches(&held, 1) >= timeouts().dead(), "the same boot: what it protected may still run");
    let quick = watches(&held, 2);
    assert!(quick < timeouts().dead() && quick >= (timeouts().renewal() + timeouts().io()) * 2, "{quick:?}");
    let mut unconfirmed = held;
    unconfirmed.extension.as_mut().unwrap().confirmed = false;
    assert!(watches(&unconfirmed, 2) >= timeouts().dead(), "it never surely held the id");
}

#[test]
fn scenario_10_a_renewal_that_was_read_in_time_is_not_written_after_the_deadline() {
    let (mut tenure, record, _) = tenure();
    let late = tenure.deadline();
    assert_eq!(tenure.renew(late, &Seen::Good(record.clone())), Err(Loss::Expired));
    assert_eq!(tenure.release(late, &Seen::Good(record)), Err(Loss::Expired), "nor is a release");
}

#[test]
fn scenario_13_a_corrupt_record_makes_nobody_dead() {
    let mut observer = Observer::new(timeouts());
    let now = Time::ZERO + Duration::from_secs(10);
    let at = |millis| now + Duration::from_millis(millis);
    let mut look = |at, value| observer.observe(id(A), Span { started: at, ended: at }, Some(at), value);
    look(at(0), Seen::Good(record(owner(A, 1), timeouts())));
    look(at(400), damage());
    look(at(900), damage());
    assert!(!observer.judge(owner(A, 1), at(900)).is_gone(), "damage restarts the count");
}

#[test]
fn scenario_17_a_timestamp_is_never_compared_with_the_local_clock() {
    let mut observer = Observer::new(timeouts());
    let now = Time::ZERO + Duration::from_secs(1_000_000);
    let ancient = DeltaRecord { timestamp: 1, ..record(owner(A, 1), timeouts()) };
    for _ in 0..2 {
        observer.observe(id(A), Span { started: now, ended: now }, Some(now), Seen::Good(ancient.clone()));
    }
    assert!(!observer.judge(owner(A, 1), now).is_gone());
}

#[test]
fn scenario_18_after_the_deadline_nothing_brings_the_lease_back() {
    let (mut tenure, record, now) = tenure();
    let deadline = tenure.deadline();
    assert!(tenure.held(now) && !tenure.held(deadline));
    tenure.renew(now, &Seen::Good(record)).unwrap();
    // The write was confirmed long ago, but the process that asked for it was paused.
    tenure.renewed(Span { started: now, ended: deadline }, Written::Done, deadline);
    assert!(!tenure.held(deadline) && !tenure.held(now));
    assert_eq!(tenure.lost(), Some(&Loss::Expired));
}

#[test]
fn scenario_34_a_damaged_or_foreign_own_record_is_the_loss_at_once() {
    let (mut first, record, now) = tenure();
    assert!(matches!(first.renew(now, &damage()), Err(Loss::Damaged(_))));
    assert!(first.renew(now, &Seen::Good(record.clone())).is_err(), "for good");
    let (mut second, ..) = tenure();
    let other = DeltaRecord { generation: record.generation + 1, ..record };
    assert!(matches!(second.renew(now, &Seen::Good(other)), Err(Loss::Overwritten(_))));
    assert!(!second.held(now));
}

#[test]
fn a_host_that_was_declared_dead_and_lives_is_lost_at_its_next_renewal_and_knows_by_whom() {
    let (mut tenure, record, now) = tenure();
    let mut ended = DeltaRecord { timestamp: 0, ..record };
    ended.extension.as_mut().unwrap().declared_by = Some(id(C));
    assert_eq!(tenure.renew(now, &Seen::Good(ended.clone())), Err(Loss::Declared(id(C))));
    assert!(!tenure.held(now));
    // One that lands late, over a later holder, was not about this one.
    let (mut tenure, ..) = self::tenure();
    ended.generation -= 1;
    assert!(matches!(tenure.renew(now, &Seen::Good(ended)), Err(Loss::Overwritten(_))));
}

#[test]
fn scenario_41_an_id_that_was_not_released_is_not_taken_by_another_machine() {
    assert_eq!(takes_after(identity(77, 1), &record(owner(A, 4), timeouts())), None);
}

/// The second of two machines that were made from one image finds the first one stalled. Rules `BoardIsKnown` and
/// `UnknownIsNobody`.
#[test]
fn scenario_53_a_copy_of_a_machine_does_not_take_its_id_as_rebooted() {
    // Root sees that they differ.
    assert_eq!(takes_after(of(&copy(board(2), 2)), &stalled(&copy(board(1), 1))), None);
    // Others can't see it, and so are no machine at all, in no boot.
    let (first, second) = (copy(Board::Unreadable, 1), copy(Board::Unreadable, 2));
    assert_eq!(machine(&second), Err(Unidentified::BoardUnreadable));
    for found in [&first, &second] {
        assert_eq!(takes_after(of(found), &stalled(&first)), None, "{found:?}");
    }
    assert_eq!(takes_after(of(&second), &stalled(&copy(board(1), 1))), None);
    // One machine that is known, rebooted or not.
    let (same, rebooted) = (copy(board(1), 1), copy(board(1), 2));
    assert!(takes_after(of(&same), &stalled(&same)) >= Some(timeouts().dead()));
    assert!(takes_after(of(&rebooted), &stalled(&same)) < Some(timeouts().dead()));
}

/// A container ends with a write in flight, and the next one has no lock that would tell. Rule `LocksAreShared`.
#[test]
fn scenario_53_a_container_takes_nothing_that_another_one_left() {
    let own = copy(board(1), 1);
    for container in [
        Found { pid_namespace: Some(4_026_532_200), ..own.clone() },
        Found { user_namespace: Some(4_026_532_200), ..own.clone() },
        Found { network_namespace: Some(4_026_532_200), ..own.clone() },
        // It may not look.
        Found { first_network_namespace: None, ..own.clone() },
    ] {
        assert_eq!(machine(&container), Err(Unidentified::Container));
        assert_eq!(takes_after(of(&container), &stalled(&container)), None, "{container:?}");
        assert_eq!(takes_after(of(&own), &stalled(&container)), None, "{container:?}");
    }
}

/// The machine below did not reboot: what the holder protected may run on, and its writes may land. Rules
/// `BootIsTheMachines` and `UnknownBootIsNoReboot`.
#[test]
fn scenario_53_a_containers_fresh_boot_is_no_reboot() {
    let name = Identity { machine: named("the machine").ok(), ..identity(0, 0) };
    let given = "40 22 0:33 /boot_id /proc/sys/kernel/random/boot_id ro - tmpfs tmpfs rw";
    let container = |boot| {
        let own = copy(Board::Missing, boot);
        Found { mounts: own.mounts.map(|mounts| format!("{mounts}\n{given}")), ..own }
    };
    let hidden = Found { boot_id: None, ..copy(Board::Missing, 1) };
    let boots = [container(1), container(2), hidden].map(|found| boot(&found));
    for before in boots {
        let mut held = stalled(&copy(board(1), 1));
        held.extension = held.extension.map(|it| DeltaExtension { machine: name.machine, boot: before, ..it });
        for now in boots.into_iter().chain([BootId::new(7)]) {
            let again = Identity { boot: now, ..name.clone() };
            assert!(takes_after(again, &held) >= Some(timeouts().dead()), "{before:?} {now:?}");
        }
    }
}

#[test]
fn scenario_42_a_join_that_took_too_long_writes_no_more_and_ends_no_generation() {
    let (mut slow, slow_record, now) = join(C);
    let took = Span { started: now, ended: now + timeouts().io() + Duration::from_millis(1) };
    let ended = slow.step(Event::Wrote(took, Written::Done));
    assert_eq!(ended, Effect::Done(Err(Refusal::Storage)));
    for event in [Event::Woke(took.ended), Event::Read(took, Seen::Good(slow_record.clone()))] {
        assert!(!matches!(slow.step(event), Effect::Write(_, _)), "it writes again");
    }
    // Its record lands over that of the host that has the id: that host is lost at once, but not gone for others.
    let (mut tenure, mine, held) = tenure();
    assert!(slow_record.generation > mine.generation);
    assert!(matches!(tenure.renew(held, &Seen::Good(slow_record.clone())), Err(Loss::Overwritten(_))));
    let mut observer = Observer::new(timeouts());
    observer.observe(id(A), Span { started: held, ended: held }, Some(held), Seen::Good(mine));
    observer.observe(id(A), Span { started: held, ended: held }, Some(held), Seen::Good(slow_record));
    assert!(!observer.judge(tenure.me(), held).is_gone());
}

#[test]
fn scenario_58_a_medium_without_a_name_is_the_loss_at_once() {
    let (mut first, record, now) = tenure();
    let write = Span { started: now, ended: now };
    first.renew(now, &Seen::Good(record.clone())).unwrap();
    first.gone(now, "/leases");
    assert!(!first.held(now));
    first.renewed(write, Written::Done, now);
    let gone = Loss::Gone("/leases".into());
    assert_eq!(first.renew(now, &Seen::Good(record)), Err(gone), "nothing more is written, and the path is told");
    let (mut second, ..) = tenure();
    second.gone(second.deadline(), "/leases");
    assert_eq!(second.lost(), Some(&Loss::Expired), "it was lost before");
}

#[test]
fn a_join_waits_until_no_write_of_another_join_can_land_in_time() {
    let (mut acquire, written, now) = join(B);
    let span = Span { started: now, ended: now };
    let Effect::Wait(until) = acquire.step(Event::Wrote(span, Written::Done)) else { panic!("no wait") };
    assert!(until.since(now) > timeouts().io() * 2);
    assert_eq!(acquire.step(Event::Woke(now)), Effect::Read);
    let early = acquire.step(Event::Read(span, Seen::Good(written)));
    assert!(matches!(early, Effect::Done(Err(_))), "{early:?}");
}

/// Both read the id as free and both write: only the one whose record is there at the end has it (rule
/// `JoinIsChecked`).
#[test]
fn scenario_42_of_two_that_join_at_once_the_one_that_was_overwritten_has_nothing() {
    let (mut first, ..) = join(B);
    let (_, second, now) = join(C);
    let ended = first.step(Event::Wrote(Span { started: now, ended: now }, Written::Done));
    let Effect::Wait(until) = ended else { panic!("{ended:?}") };
    assert_eq!(first.step(Event::Woke(until)), Effect::Read);
    let checked = first.step(Event::Read(Span { started: until, ended: until }, Seen::Good(second)));
    assert_eq!(checked, Effect::Done(Err(Refusal::Outrun)));
}

#[test]
fn the_deadline_is_counted_from_the_start_of_the_confirmed_write() {
    let (mut tenure, record, now) = tenure();
    tenure.renew(now, &Seen::Good(record)).unwrap();
    let ended = now + timeouts().io();
    tenure.renewed(Span { started: now, ended }, Written::Done, ended);
    assert_eq!(tenure.deadline(), now + timeouts().fail());
}

/// Rules `ConfirmedByLaterRead` and `ConfirmedByMirror`, and how old a copy may be.
#[test]
fn a_host_is_dead_only_by_a_read_that_began_after_d_and_shows_no_stale_copy() {
    let mut observer = Observer::new(timeouts());
    let first = Time::ZERO + Duration::from_secs(10);
    let late = first + timeouts().dead() * 2;
    let mut look = |at, content| {
        let value = Seen::Good(record(owner(A, 1), timeouts()));
        observer.observe(id(A), Span { started: at, ended: at }, content, value);
        observer.judge(owner(A, 1), late)
    };
    assert!(!look(first, Some(first)).is_gone(), "it was not read since");
    assert!(!look(late, None).is_gone(), "the copy may be of any age");
    assert!(!look(late, Some(first)).is_gone(), "the copy may be as old as the first look");
    assert_eq!(look(late, Some(late)), Verdict::Dead);
}

/// What a process finds of A, whose record is `record`, by one look at `at`, of which `recalled` is the past; and what
/// it leaves to the next one.
fn look_of_a_process(recalled: Sightings, at: Time, record: &DeltaRecord) -> (Verdict, Sightings) {
    let mut observer = Observer::new(timeouts());
    observer.recall(recalled.recalled(BOOT));
    // The first look is that of the join, which has nothing to read back yet.
    for content in [None, Some(at)] {
        observer.observe(id(A), Span { started: at, ended: at }, content, Seen::Good(record.clone()));
    }
    (observer.judge(owner(A, 1), at), Sightings::of(BOOT, 1, &observer))
}

const BOOT: u128 = 7;

/// A record of A's, renewed at `now`.
fn renewed(now: Time) -> DeltaRecord {
    let mut renewed = record(owner(A, 1), timeouts());
    renewed.begin_write(now, now);
    renewed
}

#[test]
fn scenario_56_processes_that_live_for_less_than_d_find_out_together_who_is_dead() {
    let start = Time::ZERO + Duration::from_secs(10);
    let record = renewed(start);
    let mut kept = Sightings::default();
    for third in 0..4 {
        let at = start + timeouts().dead() / 3 * third;
        let (verdict, seen) = look_of_a_process(kept, at, &record);
        // Clocks may differ in rate.
        assert!(!verdict.is_gone(), "process {third}");
        kept = seen;
    }
    let dead_at = start + leasehold::stretched(timeouts().dead());
    assert_eq!(look_of_a_process(kept, dead_at, &record).0, Verdict::Dead);
    assert!(!look_of_a_process(Sightings::default(), dead_at, &record).0.is_gone(), "nobody has seen anything");
}

/// Rule `SightingIsOfSameRecord`.
#[test]
fn scenario_56_what_was_seen_counts_for_the_same_record_only() {
    let start = Time::ZERO + Duration::from_secs(10);
    let (_, kept) = look_of_a_process(Sightings::default(), start, &renewed(start));
    let later = start + timeouts().dead() * 2;
    let (verdict, kept) = look_of_a_process(kept, later, &renewed(later));
    assert!(!verdict.is_gone(), "it has renewed");
    // It counts from then.
    let dead_at = later + leasehold::stretched(timeouts().dead());
    assert_eq!(look_of_a_process(kept, dead_at, &renewed(later)).0, Verdict::Dead);
}

/// Rule `SightingIsOfThisBoot`.
#[test]
fn scenario_56_what_was_seen_counts_in_the_same_boot_only() {
    let start = Time::ZERO + Duration::from_secs(10);
    let record = renewed(start);
    let (_, kept) = look_of_a_process(Sightings::default(), start, &record);
    let later = start + timeouts().dead() * 2;
    let before = Sightings::new(BOOT + 1, kept.iter());
    assert!(!look_of_a_process(before, later, &record).0.is_gone());
    let (_, future) = look_of_a_process(Sightings::default(), later + timeouts().dead(), &record);
    assert!(!look_of_a_process(future, later, &record).0.is_gone());
    assert_eq!(look_of_a_process(kept, later, &record).0, Verdict::Dead);
}

/// A read that shows no own record confirms nothing, however long the record was seen before.
#[test]
fn scenario_56_what_was_seen_needs_a_read_of_this_process_that_confirms_it() {
    let start = Time::ZERO + Duration::from_secs(10);
    let record = renewed(start);
    let (_, kept) = look_of_a_process(Sightings::default(), start, &record);
    let later = start + timeouts().dead() * 2;
    let mut observer = Observer::new(timeouts());
    observer.recall(kept.recalled(BOOT));
    let mut look = |content| {
        observer.observe(id(A), Span { started: later, ended: later }, content, Seen::Good(record.clone()));
        observer.judge(owner(A, 1), later)
    };
    assert!(!look(None).is_gone(), "the copy may be of any age");
    assert!(!look(Some(start)).is_gone(), "the copy may be as old as the sighting");
    assert_eq!(look(Some(later)), Verdict::Dead);
}

/// A host of sanlock's may come back with the same bytes after its lockspace was made again.
#[test]
fn scenario_56_what_may_come_back_is_not_kept() {
    let mut observer = Observer::new(timeouts());
    let now = Time::ZERO + Duration::from_secs(10);
    let plain = DeltaRecord { extension: None, ..record(owner(A, 1), timeouts()) };
    observer.observe(id(A), Span { started: now, ended: now }, Some(now), Seen::Good(plain));
    assert_eq!(Sightings::of(BOOT, 0, &observer).iter().count(), 0);
    assert_eq!(Sightings::of(BOOT, 1, &observer).iter().count(), 1, "another nonce, another file");
}

/// A record of A's machine, renewed at `now` in boot 1, that its holder did not give back.
fn left(number: u64, now: Time) -> DeltaRecord {
    let mut left = record(owner(number, 4), timeouts());
    left.extension.as_mut().unwrap().machine = MachineId::new(A);
    left.begin_write(now, now);
    left
}

#[test]
fn scenario_56_the_own_id_is_back_as_soon_as_d_has_passed_since_its_last_renewal() {
    // When `takes_after` looks first.
    let start = Time::ZERO + Duration::from_secs(100);
    let dead = leasehold::stretched(timeouts().dead());
    assert_eq!(watches(&left(A, start - dead), 1), Duration::ZERO);
    let half = watches(&left(A, start - dead / 2), 1);
    // A record's time is rounded down.
    assert!(half >= timeouts().dead() / 2 && half < dead, "{half:?}");
    // Of another clock nobody knows what its time means.
    let future = left(A, start + Duration::from_secs(1));
    assert!(watches(&future, 1) >= dead);
    let mut unknown = left(A, start - dead * 2);
    unknown.extension.as_mut().unwrap().boot = None;
    assert!(watches(&unknown, 1) >= dead);
    // A join that landed late: the holder that it hit may still have writes in flight.
    let mut unconfirmed = left(A, start - dead * 2);
    unconfirmed.extension.as_mut().unwrap().confirmed = false;
    assert!(watches(&unconfirmed, 1) >= dead);
    assert_eq!(takes_after(identity(B, 1), &left(A, start - dead * 2)), None, "another machine takes it never");
}

#[test]
fn scenario_56_a_restarted_host_gets_its_own_id_back() {
    let now = Time::ZERO + Duration::from_secs(100);
    let (dead, free) = (now - timeouts().dead() * 2, |number| DeltaRecord { timestamp: 0, ..left(number, now) });
    let others = |number| {
        let mut others = free(number);
        others.extension.as_mut().unwrap().machine = MachineId::new(B);
        others
    };
    let chosen = |boot: u32, records: &[DeltaRecord], tried: &[u64]| {
        let mut observer = Observer::new(timeouts());
        for record in records {
            let at = Span { started: now, ended: now };
            observer.observe(id(record.owner_id), at, None, Seen::Good(record.clone()));
        }
        let tried = tried.iter().map(|number| id(*number)).collect();
        choose(&observer, &identity(A, boot), timeouts(), &tried, now, 0).map(leasehold::HostId::get)
    };
    let named = |record: DeltaRecord| DeltaRecord { host_name: name("another"), ..record };
    // Its own that it did not give back, if nothing of that can be active any more.
    assert_eq!(chosen(1, &[others(1), free(2), left(3, dead)], &[]), Some(3));
    assert_eq!(chosen(1, &[others(1), free(2), left(3, dead)], &[3]), Some(2));
    assert_eq!(chosen(1, &[others(1), left(3, now)], &[]), Some(1), "it may still be active");
    assert_eq!(chosen(1, &[others(1), named(left(3, dead))], &[]), Some(1), "another host of this machine had it");
    assert_eq!(chosen(1, &[named(free(1)), free(2)], &[]), Some(2), "its own that it gave back");
    assert_eq!(chosen(2, &[others(1), left(3, dead)], &[]), Some(3), "of another boot");
    assert_eq!(chosen(2, &[free(1), left(3, dead)], &[]), Some(1), "that takes longer");
    assert_eq!(chosen(1, &[left(3, now)], &[]), Some(3), "there is no other");
    assert_eq!(chosen(1, &[left(3, now)], &[3]), None);
}
