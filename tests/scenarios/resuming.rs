//! A process that is restarted goes on with what it held, or not.

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::format::{Block, BlockExtension, DeltaExtension, DeltaRecord, Geometry, Leader};
use leasehold::protocol::area::AreaView;
use leasehold::protocol::delta::{Identity, Loss, Tenure};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::record::{Effect, Event, RecordProcedure};
use leasehold::protocol::resumption::{Refusal, Resume, Standing};
use leasehold::protocol::{Defect, Seen, Span, Written};
use leasehold::{BootId, LeaseMode, MachineId, Owner, Time, Version};

use crate::host_ids;
use crate::world::*;

const SUCCESSOR: u32 = 99;

fn instant(now: Time) -> Span {
    Span { started: now, ended: now }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The process whose holding of host id A is to be continued, its record, and when that was written. It was renewed
/// twice, R apart, and both renewals were confirmed.
fn predecessor() -> (Tenure, DeltaRecord, Time) {
    let (mut tenure, mut record, mut now) = host_ids::tenure();
    for _ in 0..2 {
        now = now + timeouts().renewal();
        record = tenure.renew(now, &Seen::Good(record)).unwrap();
        tenure.renewed(instant(now), Written::Done, now);
    }
    (tenure, record, now)
}

/// An attempt of a process of that machine and boot to go on with `me`.
fn attempt(me: Owner, machine: u64, boot: u32) -> Resume {
    let (machine, boot) = (MachineId::new(machine), BootId::new(boot));
    let identity = Identity { name: name("host"), machine, boot, session: SUCCESSOR };
    Resume::new(me, identity, terms())
}

/// What comes of going on with `me` by `record`, where the record is read and the write confirmed in these moments.
fn resume(me: Owner, record: &DeltaRecord, read: Time, wrote: Time) -> Result<(Tenure, DeltaRecord), Refusal> {
    let mut machine = attempt(me, B, 1);
    match machine.step(Event::Read(instant(read), Seen::Good(record.clone()))) {
        Effect::Write(written, window) => {
            assert!(window.is_open(read));
            match machine.step(Event::Wrote(Span { started: read, ended: wrote }, Written::Done)) {
                Effect::Done(result) => result.map(|tenure| (*tenure, written)),
                other => panic!("{other:?}"),
            }
        }
        Effect::Done(result) => Err(result.unwrap_err()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn scenario_9_a_process_that_is_restarted_in_time_is_the_same_host_to_others() {
    let (before, record, renewed) = predecessor();
    let mut observer = Observer::new(timeouts());
    observer.observe(id(A), instant(renewed), Some(renewed), Seen::Good(record.clone()));
    let now = renewed + timeouts().renewal();
    let (after, written) = resume(before.me(), &record, now, now + ms(1)).unwrap();
    assert_eq!(after.me(), before.me());
    assert_eq!(after.deadline(), now + timeouts().fail(), "from the start of the write");
    // A renewal like any other: until D from here nobody takes it for dead.
    let seen = now + timeouts().dead();
    observer.observe(id(A), instant(seen), Some(seen), Seen::Good(written.clone()));
    assert!(!observer.judge(after.me(), seen).is_gone());
    // Its own successor may come at once.
    assert_eq!(resume(after.me(), &written, now + ms(2), now + ms(3)).unwrap().0.me(), before.me());
}

#[test]
fn scenario_18_a_predecessor_that_wakes_up_is_lost() {
    let (mut before, record, renewed) = predecessor();
    let now = renewed + ms(10);
    let (mut after, written) = resume(before.me(), &record, now, now).unwrap();
    assert!(matches!(before.renew(now, &Seen::Good(written.clone())), Err(Loss::Overwritten(_))));
    let next = after.renew(now + ms(1), &Seen::Good(written)).unwrap();
    assert_eq!(next.extension.unwrap().session, SUCCESSOR);
}

/// Rule `ResumeInTime`.
#[test]
fn scenario_9_what_is_not_continued_before_the_deadline_is_not_continued() {
    let (before, record, renewed) = predecessor();
    // The renewal before the last is the last one that it knew of when it began that.
    let certain = renewed - timeouts().renewal() + timeouts().fail();
    let last = certain - timeouts().fail() / 128;
    assert!(resume(before.me(), &record, last - ms(2), last - ms(1)).is_ok());
    let late = attempt(before.me(), B, 1).step(Event::Read(instant(certain), Seen::Good(record.clone())));
    assert!(matches!(late, Effect::Done(Err(Refusal::TooLate { .. }))), "nothing is written: {late:?}");
    for (read, wrote) in [(certain, certain), (last - ms(1), certain)] {
        let refusal = resume(before.me(), &record, read, wrote);
        assert!(matches!(&refusal, Err(Refusal::TooLate { deadline, now }) if deadline <= now), "{refusal:?}");
    }
}

/// A process may be paused between its read and its write. Rule `ResumeInTime`.
#[test]
fn scenario_9_a_successor_that_was_paused_writes_nothing_after_the_deadline() {
    let (before, record, renewed) = predecessor();
    let mut machine = attempt(before.me(), B, 1);
    let read = machine.step(Event::Read(instant(renewed), Seen::Good(record)));
    let Effect::Write(_, window) = read else { panic!("{read:?}") };
    let deadline = window.before;
    assert!(deadline < renewed + timeouts().fail());
    assert!(window.is_open(renewed + ms(1)) && !window.is_open(deadline));
    let late = machine.step(Event::TooLate(deadline));
    assert_eq!(late, Effect::Done(Err(Refusal::TooLate { deadline, now: deadline })));
    let late = machine.step(Event::Wrote(instant(renewed), Written::Done));
    assert!(matches!(late, Effect::Done(Err(_))), "{late:?}");
}

#[test]
fn a_block_that_is_damaged_says_nothing_of_what_was_held() {
    let leader = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(6));
    let view = AreaView { leader: Seen::Good(leader), blocks: BTreeMap::from([(id(A), damage())]) };
    let listed = Some((LeaseMode::Exclusive, Version::new(6)));
    assert!(Standing::of(owner(A, 3), &view, listed, &Observer::new(timeouts())).is_err());
}

/// A renewal that hangs lands when others have counted D from the one before it, and is there for the successor to
/// read. Rule `UnconfirmedGivesNothing`.
#[test]
fn scenario_9_a_renewal_that_lands_late_gives_its_process_no_successor() {
    let (mut before, record, renewed) = predecessor();
    let mut observer = Observer::new(timeouts());
    observer.observe(id(A), instant(renewed), Some(renewed), Seen::Good(record.clone()));
    // It begins in time, and the process is killed while it hangs.
    let begun = before.deadline() - ms(1);
    let hung = before.renew(begun, &Seen::Good(record.clone())).unwrap();
    // Others take it for dead.
    let dead = renewed + timeouts().dead() + ms(10);
    observer.observe(id(A), instant(dead), Some(dead), Seen::Good(record));
    assert!(observer.judge(before.me(), dead).is_gone());
    // Then the write lands, and its end lets the local lock go.
    assert!(dead < begun + timeouts().fail(), "the start of the late write would allow it");
    assert!(matches!(resume(before.me(), &hung, dead, dead), Err(Refusal::TooLate { .. })));
}

#[test]
fn what_is_no_holding_of_this_machine_and_boot_is_not_continued() {
    let (before, record, renewed) = predecessor();
    let me = before.me();
    let step = |machine: &mut Resume, seen| match machine.step(Event::Read(instant(renewed), seen)) {
        Effect::Done(Err(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let refused = |record: DeltaRecord| step(&mut attempt(me, B, 1), Seen::Good(record));
    assert!(matches!(step(&mut attempt(me, A, 1), Seen::Good(record.clone())), Refusal::OtherClock));
    assert!(matches!(step(&mut attempt(me, B, 2), Seen::Good(record.clone())), Refusal::OtherClock));
    // Nor one that doesn't know its machine or boot, whether that which was held is known or not.
    let mut unknown = record.clone();
    unknown.extension = unknown.extension.map(|it| DeltaExtension { machine: None, boot: None, ..it });
    for (machine, boot) in [(0, 1), (B, 0), (0, 0)] {
        for held in [&record, &unknown] {
            let refusal = step(&mut attempt(me, machine, boot), Seen::Good(held.clone()));
            assert!(matches!(refusal, Refusal::OtherClock), "{machine} {boot} {held:?}");
        }
    }
    assert!(matches!(step(&mut attempt(me, B, 1), damage()), Refusal::Damaged(_)));
    assert_eq!(refused(DeltaRecord { timestamp: 0, ..record.clone() }), Refusal::Released);
    let later = DeltaRecord { generation: record.generation + 1, ..record.clone() };
    assert!(matches!(refused(later), Refusal::Replaced(_)));
    let future = DeltaRecord { timestamp: record.timestamp + 5, ..record.clone() };
    assert_eq!(refused(future), Refusal::OtherClock);
    assert!(matches!(refused(DeltaRecord { extension: None, ..record.clone() }), Refusal::Foreign(_)));
    let mut joined = record;
    joined.extension.as_mut().unwrap().confirmed = false;
    assert_eq!(refused(joined), Refusal::NeverRenewed);
}

fn found(me: Owner, view: &AreaView, listed: Option<(LeaseMode, Version)>) -> Standing {
    found_by(&Observer::new(timeouts()), me, view, listed)
}

fn found_by(observer: &Observer, me: Owner, view: &AreaView, listed: Option<(LeaseMode, Version)>) -> Standing {
    let (standing, own) = Standing::of(me, view, listed, observer).unwrap();
    assert_eq!(Some(own), view.block(me.host));
    standing
}

fn standing(leader: Seen<Leader>, own: &Block, listed: Option<(LeaseMode, Version)>) -> Standing {
    let view = AreaView { leader, blocks: BTreeMap::from([(id(A), Seen::Good(own.clone()))]) };
    found(owner(A, 3), &view, listed)
}

#[test]
fn a_lease_is_taken_up_at_the_version_that_is_known_to_be_decided() {
    let (me, other, n) = (owner(A, 3), owner(B, 1), Version::new(7));
    let own = Block { mbal: 1, bal: 1, inp: Some(me), instance: n, ..Block::default() };
    let free = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(6));
    let leader = |owner, version| Leader { owner: Some(owner), timestamp: 5, version, ..free.clone() };
    let of = |leader: &Leader, own: &Block, listed: Option<Version>| {
        standing(Seen::Good(leader.clone()), own, listed.map(|version| (LeaseMode::Exclusive, version)))
    };
    let held = Standing::Held(LeaseMode::Exclusive, n);
    assert_eq!(of(&leader(me, n), &own, None), held);
    // An acquire may have been cut short before its ballot decided; of a version that was held that is known.
    assert_eq!(of(&free, &own, None), Standing::Open(n));
    assert_eq!(of(&free, &own, Some(n)), held);
    assert_eq!(of(&free, &own, Some(Version::new(6))), Standing::Open(n), "that is another holding");
    assert_eq!(standing(damage(), &own, None), Standing::Open(n));
    assert_eq!(standing(damage(), &own, Some((LeaseMode::Exclusive, n))), held);
    for by in [n, n.after(1)] {
        let superseded = Standing::Superseded { mode: LeaseMode::Exclusive, version: n, by, owner: Some(other) };
        assert_eq!(of(&leader(other, by), &own, Some(n)), superseded, "whatever was listed");
    }
    // Somebody has set the area back while nobody looked.
    let set_back = Block { instance: Version::new(5), ..own.clone() };
    assert_eq!(of(&leader(me, Version::new(5)), &set_back, Some(n)), Standing::Leftover);
    let released = Block { released: true, ..own.clone() };
    assert_eq!(of(&leader(me, n), &released, Some(n)), Standing::Nothing);
    let earlier = Block { inp: Some(owner(A, 2)), ..own.clone() };
    assert_eq!(of(&leader(owner(A, 2), n), &earlier, Some(n)), Standing::Nothing, "an earlier generation's");
    let extended = |generation, waiting, shares, block: &Block| {
        let extension = BlockExtension { generation, waiting, shares, ..BlockExtension::default() };
        of(&leader(me, n), &Block { extension: Some(extension), ..block.clone() }, None)
    };
    assert_eq!(extended(3, Some(n), false, &released), Standing::Leftover);
    assert_eq!(extended(2, Some(n), false, &released), Standing::Nothing);
    assert_eq!(extended(3, None, true, &own), Standing::Leftover, "it owned for a moment, in order to share");
}

#[test]
fn a_lease_that_is_taken_by_force_is_not_taken_up_though_the_leader_does_not_show_it_yet() {
    let (me, n) = (owner(A, 3), Version::new(7));
    let own = Block { mbal: 1, bal: 1, inp: Some(me), instance: n, ..Block::default() };
    let free = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(6));
    let leader = Leader { owner: Some(me), timestamp: 5, version: n, ..free };
    let taker = Block { mbal: 2_002, bal: 2_002, inp: Some(owner(B, 1)), instance: n.after(1), ..Block::default() };
    let blocks = [(id(A), own.clone()), (id(B), taker)].map(|(host, block)| (host, Seen::Good(block)));
    let view = AreaView { leader: Seen::Good(leader), blocks: blocks.into() };
    let (mode, by) = (LeaseMode::Exclusive, n.after(1));
    let superseded = Standing::Superseded { mode, version: n, by, owner: Some(owner(B, 1)) };
    assert_eq!(found(me, &view, Some((LeaseMode::Exclusive, n))), superseded);
}

#[test]
fn a_shared_lease_is_taken_up_when_it_is_known_that_its_flag_was_in_time() {
    let (me, n) = (owner(A, 3), Version::new(7));
    let own = Block { inp: Some(me), instance: n, released: true, shared: Some(me.generation), ..Block::default() };
    let leader = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, n);
    let with = |other: Block, listed| {
        let blocks = [(id(A), own.clone()), (id(B), other)].map(|(host, block)| (host, Seen::Good(block)));
        let view = AreaView { leader: Seen::Good(leader.clone()), blocks: blocks.into() };
        found(me, &view, listed)
    };
    let shared = Some((LeaseMode::Shared, n));
    let held = Standing::Held(LeaseMode::Shared, n);
    let later = Block { mbal: 2_002, instance: n.after(1), ..Block::default() };
    assert_eq!(with(Block::default(), None), held);
    assert_eq!(with(later.clone(), shared), held, "it was looked at before");
    let unknown = Standing::Superseded { mode: LeaseMode::Shared, version: n, by: n, owner: None };
    assert_eq!(with(later.clone(), None), unknown, "its owner may have looked before the flag was there");
    assert_eq!(with(later, Some((LeaseMode::Exclusive, n))), unknown, "nor that it was changed to shared");
    let claims = Block { bal: 1, released: false, ..own.clone() };
    assert_eq!(standing(Seen::Good(leader), &claims, None), Standing::Upgrading(n));
}

/// B has taken the lease by force. Its block is damaged, and the leader is damaged, or set back.
#[test]
fn scenario_46_damage_does_not_hide_a_taker_from_a_successor() {
    let (me, n) = (owner(A, 3), Version::new(7));
    let own = Block { mbal: 1, bal: 1, inp: Some(me), instance: n, ..Block::default() };
    let free = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(6));
    let listed = Some((LeaseMode::Exclusive, n));
    for leader in [damage(), Seen::Good(free)] {
        let mut blocks = BTreeMap::from([(id(A), Seen::Good(own.clone()))]);
        let alone = AreaView { leader: leader.clone(), blocks: blocks.clone() };
        assert_eq!(found(me, &alone, listed), Standing::Held(LeaseMode::Exclusive, n));
        blocks.insert(id(B), damage());
        let view = AreaView { leader, blocks };
        assert_eq!(found(me, &view, listed), Standing::Unverified(LeaseMode::Exclusive, n));
        let mut observer = Observer::new(timeouts());
        let left = DeltaRecord { timestamp: 0, ..predecessor().1 };
        observer.observe(id(B), instant(Time::ZERO), None, Seen::Good(left));
        assert_eq!(found_by(&observer, me, &view, listed), Standing::Held(LeaseMode::Exclusive, n), "B is gone");
    }
}

/// Its block is at the version that it wants, of which it has not accepted anything. Another host's is damaged.
#[test]
fn a_shared_lease_is_taken_up_though_a_change_to_exclusive_was_cut_short_before_it_claimed_anything() {
    let (me, n) = (owner(A, 3), Version::new(7));
    let leader = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, n);
    let extension = Some(BlockExtension { generation: 3, ..BlockExtension::default() });
    let own = Block { mbal: 1, instance: n.after(2), shared: Some(me.generation), extension, ..Block::default() };
    let blocks = [(id(A), Seen::Good(own)), (id(B), Seen::Bad(Defect::Unreadable))];
    let view = AreaView { leader: Seen::Good(leader), blocks: blocks.into() };
    assert_eq!(found(me, &view, Some((LeaseMode::Shared, n))), Standing::Upgrading(n));
    assert_eq!(found(me, &view, None), Standing::Upgrading(n), "not the version that nobody owns");
}
