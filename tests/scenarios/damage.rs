//! Sectors that rot.

use leasehold::Version;
use leasehold::protocol::Written;
use leasehold::protocol::resource::{Effect, Event, Outcome, Refusal};

use crate::world::*;

#[test]
fn scenario_12_a_damaged_block_is_neither_empty_nor_in_the_way_for_ever() {
    let mut world = World::new();
    // B finished phase 2: instance 1 is decided. Its block is the only trace, and rots.
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_leader);
    world.blocks.insert(id(B), damage());
    world.is_blocked_by(C, B);
    world.dies(B);
    let version = world.take(C);
    assert!(version > Version::new(1), "version 1 may be B's, {version} is held");
}

#[test]
fn scenario_44_the_late_leader_write_of_a_dead_owner_whose_block_rotted_admits_no_second_owner() {
    let mut world = World::new();
    let mut q = world.acquire(A, true);
    world.until(&mut q, writes_leader);
    let late = world.times_out(&mut q);
    world.dies(A);
    world.blocks.insert(id(A), damage());
    let version = world.take(B);
    assert!(version > Version::new(1), "version 1 is burned");
    world.land(late);
    assert_eq!(world.leader.owner, Some(owner(A, 1)));
    // C may judge A's damaged block only after D; all the while, and after it, B is in the way.
    let mut c = world.acquire(C, true);
    for _ in 0..1_000 {
        world.step(&mut c);
        assert!(!matches!(c.effect, Effect::Done(_)), "{:?}", c.effect);
    }
    assert_eq!(c.operation.blocker().unwrap().host, id(B));
    world.dies(B);
    match world.finish(c) {
        Outcome::Held(next) => assert!(next > version),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_release_ends_though_the_own_block_rots_and_its_first_write_fails() {
    let mut world = World::new();
    world.take(A);
    let mut a = world.release(A);
    world.blocks.insert(id(A), damage());
    let Effect::WriteBlock(round, _) = a.effect else { panic!("{:?}", a.effect) };
    world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
    assert_eq!(world.finish(a), Outcome::Released);
    assert_eq!(world.take(B), Version::new(2));
}

/// Where damage hits.
#[derive(Clone, Copy, Debug)]
enum Sector {
    Leader,
    Block(u64),
}

impl World {
    fn rots(&mut self, sector: Sector) {
        match sector {
            Sector::Leader => self.leader_is_damaged = true,
            Sector::Block(host) => drop(self.blocks.insert(id(host), damage())),
        }
    }
}

/// A acquires what B has used and left, and D died with. One sector rots before one of its steps.
#[test]
fn scenario_39_a_sector_that_rots_at_any_step_of_an_acquire_wedges_nobody_and_makes_no_second_owner() {
    for sector in [Sector::Leader, Sector::Block(A), Sector::Block(B), Sector::Block(D)] {
        for step in 0.. {
            let mut world = World::new();
            world.take(B);
            world.give_back(B);
            world.leaves(B);
            let used = world.take(D);
            world.dies(D);
            let mut a = world.acquire(A, true);
            for _ in 0..step {
                if !matches!(a.effect, Effect::Done(_)) {
                    world.step(&mut a);
                }
            }
            let is_over = matches!(a.effect, Effect::Done(_));
            world.rots(sector);
            let outcome = world.finish(a);
            let case = format!("{sector:?} before step {step}: {outcome:?}");
            let version = match (&outcome, sector) {
                (Outcome::Held(version), _) => {
                    world.leader_is_damaged = false;
                    let c = world.acquire(C, false);
                    assert!(matches!(world.finish(c), Outcome::Blocked(_)), "{case}, and C got it");
                    world.dies(A);
                    *version
                }
                // Nobody can say which version is next; what A had claimed is given up.
                (Outcome::Refused(Refusal::LeaderDamaged(_)), Sector::Leader) => {
                    world.leader_is_damaged = false;
                    used
                }
                _ => panic!("{case}"),
            };
            let next = world.take(C);
            assert!(version >= used && next > version, "{case}, then {next}");
            if is_over {
                assert!(step > 10, "{step}");
                break;
            }
        }
    }
}
