//! Declaring a host dead, mending its record, and rebuilding a leader.

use std::time::Duration;

use leasehold::format::{DeltaExtension, DeltaRecord, Geometry};
use leasehold::protocol::declare::{Declaration, Declared, Refusal};
use leasehold::protocol::delta::{self, Acquire, Identity};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::mend::Damaged;
use leasehold::protocol::record::{Effect, Event, RecordProcedure};
use leasehold::protocol::resource::{self, Operation, Outcome};
use leasehold::protocol::{Defect, Seen, Span, Written};
use leasehold::{BootId, Generation, LeaseMode, MachineId, Owner, Time, Timeouts, Version, stretched};

use crate::world::*;

fn at(now: Time) -> Span {
    Span { started: now, ended: now }
}

fn start() -> Time {
    Time::ZERO + Duration::from_secs(100)
}

fn declaration(target: Owner, known: Option<(DeltaRecord, Time)>) -> Declaration {
    Declaration::new(id(A), target, terms(), known)
}

/// What comes of a declaration of `target` while each read shows what `shown` gives for the moment; and when.
fn declared(target: Owner, shown: impl Fn(Duration) -> DeltaRecord) -> (Effect<Result<Declared, Refusal>>, Duration) {
    let mut declaration = declaration(target, None);
    let mut now = start();
    loop {
        let record = shown(now.since(start()));
        match declaration.step(Event::Read(at(now), Seen::Good(record))) {
            Effect::Wait(until) => now = until,
            end => return (end, now.since(start())),
        }
        assert_eq!(declaration.step(Event::Woke(now)), Effect::Read);
    }
}

#[test]
fn a_host_that_is_declared_dead_is_over_at_once_and_its_leases_are_free() {
    let mut world = World::new();
    let version = world.take(B);
    world.dies(B);
    world.is_blocked_by(C, B);
    let dead = world.records[&id(B)].clone();
    let (Effect::Write(ended, _), after) = declared(owner(B, 1), |_| dead.clone()) else { panic!("it is dead") };
    assert!(after >= timeouts().renewal() && after < timeouts().fail(), "{after:?}");
    assert!(ended.is_free() && ended.generation == 1 && ended.host_name == dead.host_name, "{ended:?}");
    // Who it is stays: its machine finds its id again.
    assert_eq!(ended.extension.as_ref().unwrap().machine, dead.extension.unwrap().machine);
    world.records.insert(id(B), ended);
    world.scan(id(C));
    let run = world.acquire(C, false);
    assert_eq!(world.finish(run), Outcome::Held(version.after(1)));
}

#[test]
fn who_has_watched_a_host_for_long_enough_declares_it_dead_without_waiting() {
    let dead = record(owner(B, 1), timeouts());
    let since = start() - (timeouts().renewal() + timeouts().io()) * 2;
    let mut waits = declaration(owner(B, 1), Some((record(owner(B, 1), timeouts()), start())));
    assert!(matches!(waits.step(Event::Read(at(start()), Seen::Good(dead.clone()))), Effect::Wait(_)));
    let mut prompt = declaration(owner(B, 1), Some((dead.clone(), since)));
    assert!(matches!(prompt.step(Event::Read(at(start()), Seen::Good(dead.clone()))), Effect::Write(..)));
    // What was watched must be what is there.
    let mut changed = dead.clone();
    changed.timestamp += 1;
    let mut other = declaration(owner(B, 1), Some((dead, since)));
    assert!(matches!(other.step(Event::Read(at(start()), Seen::Good(changed))), Effect::Wait(_)));
}

#[test]
fn a_host_that_renews_is_not_declared_dead() {
    let (end, _) = declared(owner(B, 1), |time| {
        let mut record = record(owner(B, 1), timeouts());
        record.extension.as_mut().unwrap().started_us = u32::from(time >= timeouts().renewal() / 2);
        record
    });
    assert!(matches!(end, Effect::Done(Err(Refusal::Live(_)))), "{end:?}");
}

/// Without the rule `DeclarationNamesGeneration` the host that came back is ended.
#[test]
fn a_host_that_came_back_is_not_hit_by_a_declaration_of_its_former_generation() {
    for shown in [owner(B, 2), owner(B, 9)] {
        let (end, _) = declared(owner(B, 3), |_| record(shown, timeouts()));
        assert!(matches!(end, Effect::Done(Err(Refusal::Generation(_)))), "{end:?}");
    }
    // It comes back while its record is watched, or leaves.
    let (end, _) = declared(owner(B, 3), |time| {
        let generation = if time.is_zero() { 3 } else { 4 };
        record(owner(B, generation), timeouts())
    });
    assert!(matches!(end, Effect::Done(Err(Refusal::Generation(_)))), "{end:?}");
    let (end, _) = declared(owner(B, 3), |time| {
        let timestamp = if time.is_zero() { 1_000 } else { 0 };
        DeltaRecord { timestamp, ..record(owner(B, 3), timeouts()) }
    });
    assert_eq!(end, Effect::Done(Ok(Declared::WasOver)));
}

#[test]
fn what_is_not_its_record_is_left_alone() {
    let step = |event| declaration(owner(B, 1), None).step(event);
    let read = |record| step(Event::Read(at(start()), record));
    assert!(matches!(read(damage()), Effect::Done(Err(Refusal::Damaged(_)))));
    assert!(matches!(read(Seen::Good(record(owner(C, 1), timeouts()))), Effect::Done(Err(Refusal::Foreign(_)))));
    let elsewhere = DeltaRecord { lockspace: name("other"), ..record(owner(B, 1), timeouts()) };
    assert!(matches!(read(Seen::Good(elsewhere)), Effect::Done(Err(Refusal::Foreign(_)))));
    assert_eq!(step(Event::ReadFailed), Effect::Done(Err(Refusal::Storage)));
}

#[test]
fn a_declaration_is_answered_only_when_it_is_durable() {
    let dead = record(owner(B, 1), timeouts());
    let writing = || {
        let mut declaration = declaration(owner(B, 1), Some((dead.clone(), Time::ZERO)));
        assert!(matches!(declaration.step(Event::Read(at(start()), Seen::Good(dead.clone()))), Effect::Write(..)));
        declaration
    };
    assert_eq!(writing().step(Event::Wrote(at(start()), Written::Done)), Effect::Done(Ok(Declared::Dead)));
    for written in [Written::Failed, Written::InFlight] {
        let end = writing().step(Event::Wrote(at(start()), written));
        assert_eq!(end, Effect::Done(Err(Refusal::Unknown)));
    }
    // A read that took too long justifies no write: the id may have another holder by now.
    let slow = Span { started: start(), ended: start() + timeouts().io() * 2 };
    let mut declaration = declaration(owner(B, 1), Some((dead.clone(), Time::ZERO)));
    assert_eq!(declaration.step(Event::Read(slow, Seen::Good(dead))), Effect::Done(Err(Refusal::Storage)));
}

/// It has to say that it is free by somebody's word alone.
#[test]
fn a_record_of_a_sanlock_host_keeps_its_timeouts() {
    let theirs = DeltaRecord { io_timeout: 10, extension: None, ..record(owner(B, 1), timeouts()) };
    let (end, _) = declared(owner(B, 1), |_| theirs.clone());
    let Effect::Write(ended, _) = end else { panic!("{end:?}") };
    assert_eq!(DeltaRecord { timestamp: theirs.timestamp, extension: None, ..ended.clone() }, theirs);
    assert_eq!(ended.timeouts(timeouts().io()), theirs.timeouts(timeouts().io()));
    assert_eq!(ended.extension.map(|extension| (extension.machine, extension.declared_by)), Some((None, Some(id(A)))));
}

#[test]
fn the_sector_says_who_declared_a_host_dead() {
    let dead = record(owner(B, 1), timeouts());
    let (Effect::Write(ended, _), _) = declared(owner(B, 1), |_| dead.clone()) else { panic!("it is dead") };
    let at = Geometry::default().delta_offset(id(B));
    assert_eq!(DeltaRecord::decode(&ended.encode(at), at), Ok(ended.clone()));
    assert_eq!(ended.extension.unwrap().declared_by, Some(id(A)));
    let held = DeltaExtension { declared_by: None, ..dead.extension.clone().unwrap() };
    assert_eq!(dead.extension, Some(held));
}

/// The record of a host that is damaged, with what is left of it; A mends it. `shown` by everything else on the device.
fn damaged(host: u64, shown: u64, rest: Option<DeltaRecord>, fenced: bool) -> Damaged {
    Damaged::new((id(A), fenced), (id(host), shown), terms(), Seen::Bad(Defect::Unreadable), rest).unwrap()
}

#[test]
fn a_record_that_was_mended_ends_no_generation_and_is_nobodys() {
    let mut observer = Observer::new(timeouts());
    let record = damaged(B, 7, None, false).mended();
    assert_eq!((record.generation, record.is_free()), (7, false));
    observer.observe(id(B), at(start()), Some(start()), Seen::Good(record.clone()));
    for generation in [6, 7, 8] {
        assert!(!observer.judge(owner(B, generation), start()).is_gone(), "{generation}");
    }
    // Nor does the machine that held it take the id again.
    let identity = Identity { name: name("host"), machine: MachineId::new(B), boot: BootId::new(2), session: 9 };
    let mut join = Acquire::new(bid(B), identity, terms(), 0);
    let mut now = start();
    let end = loop {
        match join.step(Event::Read(at(now), Seen::Good(record.clone()))) {
            Effect::Wait(until) => now = until,
            end => break end,
        }
        join.step(Event::Woke(now));
    };
    assert!(matches!(end, Effect::Done(Err(delta::Refusal::NotReleased(_)))), "{end:?}");
    // By somebody's word it is free, and says by whose.
    let freed = damaged(B, 7, None, true).mended();
    assert!(freed.is_free() && freed.extension.as_ref().unwrap().declared_by == Some(id(A)));
}

#[test]
fn what_is_left_of_a_record_is_kept_when_it_is_mended() {
    let rest = |timestamp| DeltaRecord { timestamp, extension: None, ..record(owner(B, 9), timeouts()) };
    let held = damaged(B, 7, Some(rest(5)), false).mended();
    assert_eq!((held.generation, held.is_free(), held.host_name), (9, false, rest(5).host_name));
    let left = damaged(B, 7, Some(rest(0)), false).mended();
    assert_eq!((left.generation, left.is_free()), (9, true));
    // What something else shows may be later, and is not released then.
    for timestamp in [5, 0] {
        let later = damaged(B, 12, Some(rest(timestamp)), false).mended();
        assert_eq!((later.generation, later.is_free()), (12, false));
    }
    // Another host's record is none of this one.
    let astray = damaged(C, 0, Some(rest(0)), false).mended();
    assert_eq!((astray.generation, astray.is_free()), (1, false));
    // The mending may land late: whoever it hits has blocks, which are read because the id was in use.
    assert_eq!(damaged(B, 0, None, true).mended().generation, 1);
}

/// After D, or after R + T of whoever in the lockspace takes the longest for it where the holder's end is known.
#[test]
fn a_record_is_mended_when_it_has_not_changed_for_as_long_as_its_holder_could_be_there() {
    let left = |host| DeltaRecord { timestamp: 0, extension: None, ..record(owner(host, 9), timeouts()) };
    let renewal = |timeouts: Timeouts| stretched(timeouts.renewal() + timeouts.io());
    let theirs = DeltaRecord { io_timeout: 10, extension: None, ..record(owner(C, 1), timeouts()) };
    let slow = theirs.timeouts(timeouts().io());
    for (neighbour, rest, fenced, expected) in [
        (None, None, false, stretched(timeouts().dead())),
        (None, Some(left(B)), false, renewal(timeouts())),
        (None, None, true, renewal(timeouts())),
        // It is another host that was released.
        (None, Some(left(C)), false, stretched(timeouts().dead())),
        (Some(&theirs), Some(left(B)), false, renewal(slow)),
        (Some(&theirs), None, false, stretched(slow.dead())),
    ] {
        let damaged = damaged(B, 0, rest, fenced);
        let mut observer = Observer::new(timeouts());
        assert_eq!(damaged.may_mend(at(start()), &observer), Err(None), "nobody has watched it");
        let mut observe = |now: Time| {
            let shown = neighbour.map(|record| (id(C), Seen::Good(record.clone())));
            for (host, seen) in shown.into_iter().chain([(id(B), Seen::Bad(Defect::Unreadable))]) {
                observer.observe(host, at(now), Some(now), seen);
            }
            observer.clone()
        };
        let early = observe(start());
        assert_eq!(damaged.may_mend(at(start()), &early), Err(Some(start() + expected)));
        let ready = start() + expected;
        let late = observe(ready);
        assert_eq!(damaged.may_mend(at(ready), &late), Ok(()));
        let slow = Span { started: ready, ended: ready + timeouts().io() + Duration::from_nanos(1) };
        assert!(damaged.may_mend(slow, &late).is_err(), "the read took too long");
        let before = Span { started: start(), ended: ready };
        assert!(damaged.may_mend(before, &late).is_err(), "the read began too early");
        // Damage of another kind is a change.
        let other = Damaged::new((id(A), true), (id(B), 0), terms(), Seen::Bad(Defect::Deleted), None).unwrap();
        assert_eq!(other.may_mend(at(ready), &late), Err(None));
    }
}

impl World {
    /// Acquires, and rebuilds the leader if it is damaged.
    fn rebuild(&self, host: u64) -> Run {
        let me = self.present(host);
        let own = self.blocks.contains_key(&me.host).then(|| self.block_of(host));
        let (operation, effect) = Operation::rebuild(World::subject(me), own, None, self.now);
        Run { me, operation, effect }
    }

    fn is_not_rebuilt_because_of(&mut self, host: u64) {
        let run = self.rebuild(C);
        match self.finish(run) {
            Outcome::Blocked(blocker) => assert_eq!(blocker.host, id(host)),
            other => panic!("{other:?}"),
        }
        assert!(self.leader_is_damaged, "nothing was written there");
    }
}

/// Without the rule `RebuildIsJudged` C gets what B holds.
#[test]
fn a_lost_leader_is_not_rebuilt_while_somebody_who_lives_claims_a_version() {
    let mut world = World::new();
    let version = world.take(B);
    world.leader_is_damaged = true;
    world.is_not_rebuilt_because_of(B);
    // Its release needs no leader.
    world.give_back(B);
    assert!(world.leader_is_damaged);
    let run = world.rebuild(C);
    let Outcome::Held(rebuilt) = world.finish(run) else { panic!("nobody holds it") };
    assert!(rebuilt > version && !world.leader_is_damaged);
    assert_eq!(world.leader.owner, Some(owner(C, 1)));
    world.is_blocked_by(B, C);
}

#[test]
fn a_lost_leader_is_not_rebuilt_while_somebody_who_lives_shares_the_resource_or_has_a_damaged_block() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    world.leader_is_damaged = true;
    world.edit_block(B, |block| block.shared = Generation::new(1));
    world.is_not_rebuilt_because_of(B);
    world.blocks.insert(id(B), damage());
    world.is_not_rebuilt_because_of(B);
    world.dies(B);
    let run = world.rebuild(C);
    assert!(matches!(world.finish(run), Outcome::Blocked(_)), "not before D");
    world.now = world.now + timeouts().dead() * 2;
    world.scan(id(C));
    let run = world.rebuild(C);
    assert!(matches!(world.finish(run), Outcome::Held(_)));
}

/// Without the rule `RebuildSkipsVersions` version 1 is used again.
#[test]
fn a_version_that_only_the_lost_leader_showed_is_not_used_again() {
    let mut world = World::new();
    // The area had a resource before.
    world.leader.version = Version::new(1 << 33);
    let before = world.leader.version;
    world.leader_is_damaged = true;
    let run = world.rebuild(C);
    let Outcome::Held(version) = world.finish(run) else { panic!("nobody holds it") };
    assert!(version > before, "{version}");
}

#[test]
fn what_is_left_of_a_leader_counts() {
    let mut world = World::new();
    let version = world.take(B);
    let rest = world.leader.clone();
    world.leader_is_damaged = true;
    let rebuild = |world: &World| {
        let (operation, effect) = Operation::rebuild(World::subject(owner(C, 1)), None, Some(rest.clone()), world.now);
        Run { me: owner(C, 1), operation, effect }
    };
    let run = rebuild(&world);
    assert!(matches!(world.finish(run), Outcome::Blocked(_)), "B lives");
    world.give_back(B);
    let run = rebuild(&world);
    assert_eq!(world.finish(run), Outcome::Held(version.after(1)));
}

/// B is at any step of an acquire when the leader rots, and goes on when C has rebuilt it, or tried to.
#[test]
fn a_leader_that_is_rebuilt_at_any_step_of_an_acquire_makes_no_second_owner() {
    for before in 0.. {
        let mut world = World::new();
        world.take(D);
        world.give_back(D);
        world.leaves(D);
        let mut b = world.acquire(B, true);
        for _ in 0..before {
            if !matches!(b.effect, resource::Effect::Done(_)) {
                world.step(&mut b);
            }
        }
        let is_over = matches!(b.effect, resource::Effect::Done(_));
        world.leader_is_damaged = true;
        let c = world.rebuild(C);
        let c = world.finish(c);
        if let Outcome::Held(_) = c {
            // It waits for C now, or holds: then C must not.
            for _ in 0..200 {
                if !matches!(b.effect, resource::Effect::Done(_)) {
                    world.step(&mut b);
                }
            }
        }
        match (c, &b.effect) {
            (Outcome::Held(_), resource::Effect::Done(Outcome::Held(_))) => panic!("two owners, before step {before}"),
            (Outcome::Held(_), _) => {}
            (_, resource::Effect::Done(_)) => {}
            _ => drop(world.finish(b)),
        }
        // Whatever became of the two, one who is alone gets it.
        world.dies(B);
        world.dies(C);
        world.now = world.now + timeouts().dead() * 3;
        world.scan(id(A));
        world.now = world.now + timeouts().dead() * 3;
        world.scan(id(A));
        let run = world.rebuild(A);
        assert!(matches!(world.finish(run), Outcome::Held(_)), "before step {before}");
        if is_over {
            assert!(before > 5, "{before}");
            break;
        }
    }
}

#[test]
fn of_two_who_rebuild_at_the_same_time_one_gets_it() {
    for ahead in 0..12 {
        let mut world = World::new();
        world.take(D);
        world.give_back(D);
        world.leader_is_damaged = true;
        let mut runs = [world.rebuild(B), world.rebuild(C)];
        for _ in 0..ahead {
            if !matches!(runs[0].effect, resource::Effect::Done(_)) {
                world.step(&mut runs[0]);
            }
        }
        for turn in 0..2_000 {
            let run = &mut runs[(turn + 1) % 2];
            if !matches!(run.effect, resource::Effect::Done(_)) {
                world.step(run);
            }
        }
        let held = runs.iter().filter(|run| matches!(run.effect, resource::Effect::Done(Outcome::Held(_)))).count();
        assert_eq!(held, 1, "{ahead} steps ahead: {:?}", runs.map(|run| run.effect));
    }
}

/// What it holds would keep everybody from rebuilding the leader.
#[test]
fn a_conversion_that_cannot_be_taken_back_does_not_wait_for_a_lost_leader() {
    let mut world = World::new();
    world.take(B);
    let me = world.present(B);
    let (operation, effect) =
        Operation::convert(World::subject(me), world.block_of(B), LeaseMode::Shared, true, world.now);
    let mut b = Run { me, operation, effect };
    world.until(&mut b, |effect| matches!(effect, resource::Effect::Read(_)));
    assert_eq!(world.block_of(B).shared, Some(me.generation));
    world.leader_is_damaged = true;
    world.until(&mut b, |effect| matches!(effect, resource::Effect::Done(_)));
    let resource::Effect::Done(outcome) = &b.effect else { unreachable!() };
    assert!(matches!(outcome, Outcome::Refused(resource::Refusal::LeaderDamaged(_))), "{outcome:?}");
    assert_eq!(b.operation.leaves(outcome), resource::After::Lost);
    world.is_not_rebuilt_because_of(B);
    world.give_back(B);
    let run = world.rebuild(C);
    assert!(matches!(world.finish(run), Outcome::Held(_)));
}
