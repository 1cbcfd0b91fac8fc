//! Valid records with any number in any place, as nobody but a broken program writes them.

use leasehold::format::{BlockExtension, DeltaRecord, Geometry};
use leasehold::protocol::declare::Declaration;
use leasehold::protocol::delta::{self, Acquire, Identity};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::mend::Damaged;
use leasehold::protocol::record::{Effect, Event, RecordProcedure};
use leasehold::protocol::resource::{Operation, Outcome, Refusal, Wish};
use leasehold::protocol::resumption::Resume;
use leasehold::protocol::{Seen, Span, reading};
use leasehold::{BootId, Generation, LeaseMode, MachineId, Owner, Time, Version};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::*;

/// Mostly near the end of something. But a version that is next to the end of those that hosts write is the end of its
/// resource, which [`the_last_version_that_a_host_writes_is_the_end_of_the_resource`] is about.
fn numbers() -> impl Strategy<Value = u64> {
    let ends = |(bit, more): (u32, u64)| (u64::MAX >> (64 - bit)).wrapping_add(more).wrapping_sub(1);
    let any = prop_oneof![any::<u64>(), (58..=64_u32, 0..4_u64).prop_map(ends), 0..100_u64];
    any.prop_map(|number| if (REACHED - (1 << 42)..REACHED).contains(&number) { REACHED } else { number })
}

/// What hosts reach.
const REACHED: u64 = 1 << 60;

/// Puts a number somewhere into the leader or into the block of `host`.
fn put(world: &mut World, host: u64, number: u64, which: &Index) {
    let version = Version::new(number);
    let generation = Generation::new(number.max(1)).unwrap();
    let places = 16;
    let place = which.index(places);
    match place {
        0 => world.leader.version = version,
        1 => world.leader.timestamp = number,
        2 => world.leader.writer.generation = number,
        3 => {
            let owner = Owner { host: id(host), generation };
            (world.leader.owner, world.leader.timestamp) = (Some(owner), 9);
        }
        _ => world.edit_block(host, |block| {
            let extension = block.extension.get_or_insert(BlockExtension { nonce: NONCE, ..Default::default() });
            match place {
                4 => block.mbal = number,
                5 => (block.bal, block.mbal) = (number, block.mbal.max(number)),
                6 => block.bal = number,
                7 => block.instance = version,
                8 => block.inp = Some(Owner { host: id(host), generation }),
                9 => block.shared = Some(generation),
                10 => extension.waiting = Some(version),
                11 => extension.holds = Some(version),
                12 => extension.receives = Some(version),
                13 => extension.withdrawn = Some(version),
                14 => extension.burned = Some(version),
                _ => extension.generation = number,
            }
        }),
    }
}

/// A world in which only host C lives, and the others have been dead for long.
fn with_one_left() -> World {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    world.take(B);
    world.give_back(B);
    // One of them dies while it holds.
    world.take(D);
    for host in [A, B, D] {
        world.dies(host);
    }
    world.waits_for_d(C);
    world
}

impl World {
    /// A generation that its record doesn't show may have joined since that was read: until D.
    fn patiently(&mut self, host: u64, attempt: impl Fn(&mut World) -> Outcome) -> Outcome {
        for _ in 0..10 {
            let outcome = attempt(self);
            if !matches!(outcome, Outcome::Blocked(_)) {
                return outcome;
            }
            self.waits_for_d(host);
        }
        panic!("no end");
    }

    fn waits_for_d(&mut self, host: u64) {
        for _ in 0..2 {
            self.scan(id(host));
            self.now = self.now + timeouts().dead() * 2;
        }
        self.scan(id(host));
    }

    /// Another process joins with this id.
    fn comes_back(&mut self, host: u64) {
        self.records.get_mut(&id(host)).unwrap().generation += 1_000;
        self.live.insert(id(host));
        self.waits_for_d(host);
    }

    fn repair_block(&mut self, host: u64) -> Outcome {
        let me = self.present(host);
        let (operation, effect) = Operation::repair(World::subject(me), None, self.now);
        self.finish(Run { me, operation, effect })
    }

    fn rebuild_alone(&mut self) -> Outcome {
        let me = self.present(C);
        let (operation, effect) = Operation::rebuild(World::subject(me), None, None, self.now);
        self.finish(Run { me, operation, effect })
    }

    fn alone(&mut self, mode: LeaseMode) -> Outcome {
        let me = self.present(C);
        let wish = Wish { mode, ..Wish::exclusive(false) };
        let (operation, effect) = Operation::acquire(World::subject(me), None, wish, self.now);
        self.finish(Run { me, operation, effect })
    }
}

fn modes() -> impl Strategy<Value = LeaseMode> {
    prop_oneof![Just(LeaseMode::Exclusive), Just(LeaseMode::Shared)]
}

/// One who is alone gets past these numbers, or is told what a repair mends.
fn gets_past(puts: &[(u64, u64, Index)], mode: LeaseMode) -> Result<(), TestCaseError> {
    let mut world = with_one_left();
    for (host, number, which) in puts {
        put(&mut world, *host, *number, which);
    }
    world.comes_back(C);
    match world.patiently(C, |world| world.alone(mode)) {
        Outcome::Held(version) => prop_assert!(version.get() < REACHED),
        Outcome::Refused(Refusal::Exhausted | Refusal::LeaderDamaged(_)) => {
            let rebuilt = world.patiently(C, World::rebuild_alone);
            prop_assert!(matches!(rebuilt, Outcome::Held(_)), "{rebuilt:?}");
            world.give_back(C);
            for host in [A, B, D] {
                world.comes_back(host);
                let repaired = world.patiently(host, |world| world.repair_block(host));
                prop_assert!(matches!(repaired, Outcome::Held(_)), "{host} {repaired:?}");
                world.give_back(host);
            }
            let after = world.patiently(C, |world| world.alone(mode));
            prop_assert!(matches!(after, Outcome::Held(version) if version.get() < REACHED), "{after:?}");
        }
        other => prop_assert!(false, "{other:?}"),
    }
    Ok(())
}

/// The generation of a join of host id A that read this, or why there is none.
fn takes(seen: &Seen<DeltaRecord>) -> Result<u64, delta::Refusal> {
    let identity = Identity { name: name("host"), machine: MachineId::new(77), boot: BootId::new(1), session: 1 };
    let mut acquire = Acquire::new(bid(A).vouched(), identity, terms(), 5);
    let mut now = Time::ZERO + timeouts().dead();
    loop {
        match acquire.step(Event::Read(Span { started: now, ended: now }, seen.clone())) {
            Effect::Wait(until) => now = until,
            Effect::Write(record, _) => return Ok(record.generation),
            Effect::Done(Err(refusal)) => return Err(refusal),
            other => panic!("{other:?}"),
        }
        acquire.step(Event::Woke(now));
    }
}

/// Everything else that reads a host's record. It must come back.
fn reads(seen: &Seen<DeltaRecord>, number: u64, now: Time) {
    let span = Span { started: now, ended: now };
    let me = Owner { host: id(A), generation: Generation::new(number.max(1)).unwrap() };
    let mut observer = Observer::new(timeouts());
    for _ in 0..2 {
        observer.observe(id(A), span, Some(now), seen.clone());
        let _ = (observer.judge(me, now), observer.judge_host(id(A)), observer.state(id(A), now));
        let _ = observer.acts_until(id(A), now);
    }
    let identity = Identity { name: name("host"), machine: MachineId::new(A), boot: BootId::new(1), session: 1 };
    let _ = Resume::new(me, identity, terms()).step(Event::Read(span, seen.clone()));
    let _ = Declaration::new(id(B), me, terms(), None).step(Event::Read(span, seen.clone()));
}

/// What may have been held stays below what is held later: no repair passes over it.
#[test]
fn the_last_version_that_a_host_writes_is_the_end_of_the_resource() {
    let mut world = with_one_left();
    world.leader.version = Version::new(REACHED - 2);
    assert_eq!(world.alone(LeaseMode::Exclusive), Outcome::Held(Version::new(REACHED - 1)));
    world.give_back(C);
    for outcome in [world.alone(LeaseMode::Exclusive), world.rebuild_alone()] {
        assert_eq!(outcome, Outcome::Refused(Refusal::Exhausted));
    }
    world.leader.version = Version::new(REACHED);
    assert_eq!(world.alone(LeaseMode::Exclusive), Outcome::Refused(Refusal::Exhausted), "nobody holds what is damage");
}

fn hosts() -> impl Strategy<Value = u64> {
    prop_oneof![Just(A), Just(B), Just(C), Just(D)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scenario_57_no_number_in_a_leader_or_a_block_wedges_a_resource(
        put in (hosts(), numbers(), any::<Index>()),
        mode in modes(),
    ) {
        gets_past(&[put], mode)?;
    }

    #[test]
    fn scenario_57_nor_do_several(
        puts in proptest::collection::vec((hosts(), numbers(), any::<Index>()), 2..5),
        mode in modes(),
    ) {
        gets_past(&puts, mode)?;
    }

    #[test]
    fn scenario_57_no_number_in_a_host_record_wedges_its_id(
        (number, shown, now) in (numbers(), numbers(), numbers()),
        (which, held) in any::<(Index, bool)>(),
    ) {
        let mut record = DeltaRecord { timestamp: u64::from(held) * 1_000, ..record(owner(A, 4), timeouts()) };
        let extension = record.extension.as_mut().unwrap();
        match which.index(6) {
            0 => record.generation = number.max(1),
            1 => record.timestamp = number,
            2 => extension.started_us = number as u32,
            3 => extension.superseded = number as u32,
            4 => extension.boot = BootId::new(number as u32),
            _ => extension.machine = MachineId::new(number),
        }
        let at = Geometry::default().delta_offset(id(A));
        let sector = record.encode(at);
        let seen = reading::record(Ok(&sector), at, NONCE);
        let now = Time::from_nanos(now);
        reads(&seen, number, now);
        if let Err(delta::Refusal::Damaged(_)) = takes(&seen) {
            let rest = seen.bad().and_then(|defect| reading::rest(defect, &sector, DeltaRecord::decode_base));
            let mended = Damaged::new((id(B), true), (id(A), shown), terms(), seen, rest).unwrap().mended();
            prop_assert!(mended.generation < REACHED);
            let seen = reading::record(Ok(&mended.encode(at)), at, NONCE);
            prop_assert!(takes(&seen).is_ok(), "{seen:?}");
        }
    }
}
