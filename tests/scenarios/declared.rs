//! Scenario 52: a declaration, or the repair of a record, lands when its host has come back, over the record of the
//! later generation.

use std::time::Duration;

use leasehold::format::{DeltaExtension, DeltaRecord};
use leasehold::protocol::declare::{self, Declaration};
use leasehold::protocol::delta::{Acquire, Bid, Identity, Joined, Loss, Refusal};
use leasehold::protocol::liveness::{Observer, Verdict};
use leasehold::protocol::mend::{Damaged, Mended, Mending};
use leasehold::protocol::procedure::{self, Sectors, Window};
use leasehold::protocol::record::{Effect, Event, RecordProcedure};
use leasehold::protocol::resource::Outcome;
use leasehold::protocol::{Defect, Seen, Span};
use leasehold::{BootId, MachineId, Time, stretched};

use crate::host_ids;
use crate::world::*;

fn at(now: Time) -> Span {
    Span { started: now, ended: now }
}

fn start() -> Time {
    Time::ZERO + Duration::from_secs(100)
}

/// The write by which A declares generation 7 of host B dead, and when it may be submitted.
fn declared() -> (DeltaRecord, Window) {
    let dead = record(owner(B, 7), timeouts());
    let mut declaration = Declaration::new(id(A), owner(B, 7), terms(), Some((dead.clone(), Time::ZERO)));
    match declaration.step(Event::Read(at(start()), Seen::Good(dead))) {
        Effect::Write(free, window) => (free, window),
        other => panic!("{other:?}"),
    }
}

/// What A writes in the place of the damaged record of host B, of which generation 7 is known: by its word that B was
/// fenced, or because the record itself says that it was released.
fn mended(fenced: bool) -> DeltaRecord {
    let rest = DeltaRecord { timestamp: 0, extension: None, ..record(owner(B, 7), timeouts()) };
    let seen = Seen::Bad(Defect::Unreadable);
    Damaged::new((id(A), fenced), (id(B), 7), terms(), seen, (!fenced).then_some(rest)).unwrap().mended()
}

/// Each of the writes that free the id of host B.
fn words() -> [DeltaRecord; 3] {
    [declared().0, mended(true), mended(false)]
}

/// A join of a machine that asks for the id of host B.
fn join(bid: Bid, machine: u64, random: u64) -> Acquire {
    let identity = Identity { name: name("host"), machine: MachineId::new(machine), boot: BootId::new(2), session: 9 };
    Acquire::new(bid, identity, terms(), random)
}

/// What a join does after it has read the same record for as long as it wants, and when.
fn after_watching(mut join: Acquire, shown: &DeltaRecord) -> (Effect<Joined>, Duration) {
    let mut now = start();
    loop {
        match join.step(Event::Read(at(now), Seen::Good(shown.clone()))) {
            Effect::Wait(until) => now = until,
            end => return (end, now.since(start())),
        }
        assert_eq!(join.step(Event::Woke(now)), Effect::Read);
    }
}

/// Its holder may not know of it yet, and may have writes in flight. Rules `DeclaredIdIsNamed` and `MendedIsDeclared`.
#[test]
fn scenario_52_nobody_takes_the_id_without_a_word_for_who_held_it() {
    for late in words() {
        // Also not the machine that held it: another may have had it since.
        for machine in [B, C] {
            let (end, after) = after_watching(join(bid(B), machine, 0), &late);
            assert!(matches!(end, Effect::Done(Err(Refusal::Declared(_)))), "{end:?}");
            assert_eq!(after, Duration::ZERO);
        }
    }
}

/// Generation 8 is lost before the id has another holder. Rules `DeclaredIsWatched` and `MendedIsDeclared`.
#[test]
fn scenario_52_the_id_is_taken_when_whoever_was_hit_has_ended() {
    let longest = timeouts().dead() * 3;
    for late in words() {
        for machine in [B, C] {
            let bid = Bid::new(id(B), longest).vouched();
            let (end, after) = after_watching(join(bid, machine, 0), &late);
            assert!(matches!(end, Effect::Write(..)), "{end:?}");
            assert!(after >= stretched(longest), "D of whoever there is in the lockspace, no reboot shortens it");
        }
        // The one that was hit puts its record back: it had looked at it before.
        let mut join = join(bid(B).vouched(), C, 0);
        let Effect::Wait(until) = join.step(Event::Read(at(start()), Seen::Good(late))) else { panic!("no wait") };
        join.step(Event::Woke(until));
        let back = join.step(Event::Read(at(until), Seen::Good(record(owner(B, 8), timeouts()))));
        assert!(matches!(back, Effect::Done(Err(Refusal::Live(_)))), "{back:?}");
    }
    // What it finds is no word about itself, and ends it all the same.
    let (mut tenure, _, now) = host_ids::tenure();
    let older = DeltaRecord { owner_id: A, generation: 1, ..declared().0 };
    assert!(matches!(tenure.renew(now, &Seen::Good(older)), Err(Loss::Overwritten(_))));
}

/// The declaration comes while somebody watches the record for another reason.
#[test]
fn scenario_52_a_word_that_comes_while_the_id_is_watched_is_watched_from_then() {
    let mut machine = join(bid(B).vouched(), B, 0);
    let held = record(owner(B, 7), timeouts());
    let Effect::Wait(until) = machine.step(Event::Read(at(start()), Seen::Good(held))) else { panic!("no wait") };
    machine.step(Event::Woke(until));
    let mut now = until;
    while let Effect::Wait(until) = machine.step(Event::Read(at(now), Seen::Good(declared().0))) {
        now = until;
        machine.step(Event::Woke(now));
    }
    assert!(now.since(until) >= stretched(timeouts().dead()), "{now:?}");
}

/// Rule `GenerationsJump`.
#[test]
fn scenario_52_no_generation_comes_twice() {
    for late in words() {
        let generation = |random| match after_watching(join(bid(B).vouched(), C, random), &late).0 {
            Effect::Write(record, _) => {
                assert_eq!(record.generation - u64::from(record.extension.unwrap().superseded), 7);
                record.generation
            }
            other => panic!("{other:?}"),
        };
        let drawn = [0, 1, 8, 1 << 40, u64::MAX].map(generation);
        // Others may have come and gone while the write was in flight.
        assert!(drawn.iter().all(|generation| *generation > 7 + 1_000 * 1_024), "{drawn:?}");
        assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2], "two that start from it differ");
    }
}

/// A join that failed may have landed over a holder's record, too. Rule `GenerationsJump`.
#[test]
fn scenario_42_what_follows_a_join_that_failed_is_beyond_what_it_hit() {
    let mut failed = record(owner(B, 7), timeouts());
    failed.extension.as_mut().unwrap().confirmed = false;
    let (end, after) = after_watching(join(Bid::new(id(B), timeouts().dead() * 2), B, 0), &failed);
    let Effect::Write(next, _) = end else { panic!("{end:?}") };
    assert!(next.generation > 7 + 1_000 * 1_024);
    assert!(after >= stretched(timeouts().dead() * 2), "whoever was hit may have a longer D");
}

/// Generation 8 holds a lease when the declaration of generation 7 lands: whatever its record shows, and whoever joins
/// with its id, nobody gets that before it is lost.
#[test]
fn scenario_52_what_the_later_generation_holds_is_free_when_it_is_dead() {
    for late in words() {
        let mut world = World::new();
        world.records.insert(id(B), record(owner(B, 8), timeouts()));
        let version = world.take(B);
        world.dies(B);
        world.scan(id(C));
        world.records.insert(id(B), late.clone());
        world.scan(id(C));
        let landed = world.now;
        world.is_blocked_by(C, B);
        // The machine D takes the id, and gives it back.
        let (end, after) = after_watching(join(bid(B).vouched(), D, 0), &late);
        let Effect::Write(next, _) = end else { panic!("{end:?}") };
        world.now = landed + after;
        world.records.insert(id(B), next);
        world.scan(id(C));
        assert!(world.now.since(landed) >= timeouts().fail() + timeouts().fence());
        world.records.get_mut(&id(B)).unwrap().timestamp = 0;
        world.scan(id(C));
        let run = world.acquire(C, false);
        assert_eq!(world.finish(run), Outcome::Held(version.after(1)));
    }
}

/// A join that failed has landed over generation 6, which lives, and its machine was fenced. Rule `DeclarationEndsOne`.
#[test]
fn scenario_52_a_word_ends_one_generation() {
    for word in words() {
        let mut observer = Observer::new(timeouts());
        let before = record(owner(B, 6), timeouts());
        observer.observe(id(B), at(start()), Some(start()), Seen::Good(before));
        let landed = start() + timeouts().renewal();
        observer.observe(id(B), at(landed), Some(landed), Seen::Good(word.clone()));
        assert_eq!(observer.judge(owner(B, 7), landed), Verdict::Over);
        assert!(matches!(observer.judge(owner(B, 6), landed), Verdict::Active { dead_at: Some(_) }));
        let late = landed + stretched(timeouts().dead());
        observer.observe(id(B), at(late), Some(late), Seen::Good(word.clone()));
        assert_eq!(observer.judge(owner(B, 6), late), Verdict::Dead);
        // The record says itself which one its holder had proved over.
        let mut named = word;
        named.extension.as_mut().unwrap().superseded = 1;
        observer.observe(id(B), at(late), Some(late), Seen::Good(named));
        assert_eq!(observer.judge(owner(B, 6), late), Verdict::Over);
    }
}

/// A join that failed has landed over a holder that has the same generation by chance, and its machine was fenced. Rule
/// `FailedJoinIsCounted`.
#[test]
fn scenario_52_a_word_does_not_end_what_a_join_left_that_was_never_renewed() {
    let mut observer = Observer::new(timeouts());
    observer.observe(id(B), at(start()), Some(start()), Seen::Good(record(owner(B, 7), timeouts())));
    let landed = start() + timeouts().renewal();
    let mut left = declared().0;
    left.extension.as_mut().unwrap().confirmed = false;
    observer.observe(id(B), at(landed), Some(landed), Seen::Good(left.clone()));
    assert!(matches!(observer.judge(owner(B, 7), landed), Verdict::Active { dead_at: Some(_) }));
    assert!(!observer.has_ended(owner(B, 7)));
    let late = landed + stretched(timeouts().dead());
    observer.observe(id(B), at(late), Some(late), Seen::Good(left));
    assert_eq!(observer.judge(owner(B, 7), late), Verdict::Dead);
}

/// It may be in flight still, though the join that landed over it has a larger one.
#[test]
fn scenario_52_a_failed_join_does_not_show_that_writes_of_an_earlier_generation_are_over() {
    let shown = |record: DeltaRecord| {
        let mut observer = Observer::new(timeouts());
        observer.observe(id(B), at(start()), Some(start()), Seen::Good(record));
        observer.has_ended(owner(B, 6))
    };
    let mut left = record(owner(B, 7), timeouts());
    assert!(shown(left.clone()), "whoever renews has its id from one whose writes were over");
    left.extension.as_mut().unwrap().confirmed = false;
    assert!(!shown(left.clone()));
    let superseded = |distance| {
        let extension = left.extension.clone().map(|extension| DeltaExtension { superseded: distance, ..extension });
        DeltaRecord { extension, ..left.clone() }
    };
    assert!(shown(superseded(1)) && !shown(superseded(2)), "it had proved one to be over");
    let mut word = declared().0;
    word.extension.as_mut().unwrap().confirmed = false;
    assert!(!shown(word));
    assert!(shown(DeltaRecord { timestamp: 0, ..record(owner(B, 7), timeouts()) }));
}

/// The record of a sanlock host does not say whether it was renewed: the word counts.
#[test]
fn a_word_ends_a_sanlock_host() {
    let dead = DeltaRecord { extension: None, ..record(owner(B, 7), timeouts()) };
    let mut declaration = Declaration::new(id(A), owner(B, 7), terms(), Some((dead.clone(), Time::ZERO)));
    let Effect::Write(free, _) = declaration.step(Event::Read(at(start()), Seen::Good(dead))) else {
        panic!("it was watched for long enough");
    };
    let mut observer = Observer::new(timeouts());
    observer.observe(id(B), at(start()), Some(start()), Seen::Good(free));
    assert_eq!(observer.judge(owner(B, 7), start()), Verdict::Over);
}

/// Generation 8 holds a lease, and its block is damaged. Rule `DeclaredHostIsCounted`.
#[test]
fn scenario_52_whoever_holds_the_id_is_counted_where_its_block_is_damaged() {
    for word in words() {
        let mut observer = Observer::new(timeouts());
        observer.observe(id(B), at(start()), Some(start()), Seen::Good(record(owner(B, 8), timeouts())));
        let landed = start() + timeouts().renewal();
        observer.observe(id(B), at(landed), Some(landed), Seen::Good(word.clone()));
        assert!(!observer.judge_host(id(B)).is_gone());
        let late = landed + stretched(timeouts().dead());
        observer.observe(id(B), at(late), Some(late), Seen::Good(word));
        assert!(observer.judge_host(id(B)).is_gone());
    }
}

/// A is paused between its look and its write. Rule `WriteIsInTime`.
#[test]
fn scenario_52_a_write_that_was_overtaken_by_a_pause_is_not_submitted() {
    let (_, window) = declared();
    assert!(window.is_open(start()) && !window.is_open(start() + timeouts().io()));
    let dead = record(owner(B, 7), timeouts());
    let mut declaration = Declaration::new(id(A), owner(B, 7), terms(), Some((dead.clone(), Time::ZERO)));
    declaration.step(Event::Read(at(start()), Seen::Good(dead)));
    let now = start() + timeouts().dead();
    assert_eq!(declaration.step(Event::TooLate(now)), Effect::Read);
    let end = declaration.step(Event::Read(at(now), Seen::Good(record(owner(B, 8), timeouts()))));
    assert!(matches!(end, Effect::Done(Err(declare::Refusal::Generation(_)))), "{end:?}");
}

/// The same while it repairs the record: another has done that before, and B has come back. Rule `WriteIsInTime`.
#[test]
fn scenario_52_a_repair_that_was_overtaken_by_a_pause_looks_again() {
    use leasehold::protocol::procedure::Procedure;

    let geometry = terms().geometry;
    let read = |now, second: Option<&[u8]>| {
        let mut sectors = Sectors::new(geometry.sector_bytes());
        let own = record(owner(A, 1), timeouts()).encode(geometry.delta_offset(id(A)));
        [Some(&*own), second].into_iter().for_each(|sector| sectors.push(sector));
        procedure::Event::Read(at(now), sectors)
    };
    let mut observer = Observer::new(timeouts());
    observer.observe(id(B), at(Time::ZERO), Some(Time::ZERO), Seen::Bad(Defect::Unreadable));
    let mut mending = Mending::new(id(A), id(B), terms(), 7, true, start());
    mending.step(procedure::Event::Begun(start()), &mut observer);
    let procedure::Effect::Write(write) = mending.step(read(start(), None), &mut observer) else { panic!("no write") };
    assert!(write.window.is_open(start()) && !write.window.is_open(start() + timeouts().io()));
    let now = start() + timeouts().dead();
    let again = mending.step(procedure::Event::TooLate(now), &mut observer);
    assert!(matches!(again, procedure::Effect::Read { .. }), "{again:?}");
    let back = record(owner(B, 8), timeouts()).encode(geometry.delta_offset(id(B)));
    let end = mending.step(read(now, Some(&back)), &mut observer);
    assert_eq!(end, procedure::Effect::Done(Ok(Mended::Sound)));
}
