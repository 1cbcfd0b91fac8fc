//! An exclusive acquire beside hosts that share, as sanlock hosts do. Such a host owns the resource for a moment; then
//! one write of its block sets the flag and gives the version up, and the leader is freed.

use leasehold::Version;
use leasehold::format::Leader;
use leasehold::protocol::resource::{Effect, Outcome};

use crate::world::*;

/// The host owns `version` for a moment, and has not set its flag yet.
fn takes_for_a_moment(world: &mut World, host: u64, version: u64) {
    world.is_taken_by_sanlock(host, version);
    world.leader.short_hold = true;
}

fn sets_flag(world: &mut World, host: u64) {
    let generation = world.present(host).generation;
    world.edit_block(host, |block| {
        block.shared = Some(generation);
        block.released = true;
    });
}

fn frees_leader(world: &mut World) {
    world.leader = Leader { timestamp: 0, short_hold: false, ..world.leader.clone() };
}

fn shares(world: &mut World, host: u64, version: u64) {
    takes_for_a_moment(world, host, version);
    sets_flag(world, host);
    frees_leader(world);
}

fn drops_flag(world: &mut World, host: u64) {
    world.edit_block(host, |block| block.shared = None);
}

/// Without the second judgement (rule `JudgedAfterPhaseOne`) C holds version 2 while B shares.
#[test]
fn scenario_5_a_flag_that_was_set_between_two_sectors_of_a_read_is_respected() {
    let mut world = World::new();
    takes_for_a_moment(&mut world, B, 1);
    let mut c = world.acquire(C, false);
    world.scan(id(C));
    // The read shows B's block as it was before the flag, and the leader as it was after.
    frees_leader(&mut world);
    world.until(&mut c, writes_phase_1);
    sets_flag(&mut world, B);
    match world.finish(c) {
        Outcome::Blocked(blocker) => assert_eq!(blocker.owner, Some(owner(B, 1))),
        other => panic!("{other:?}"),
    }
    // What C has begun is no claim.
    drops_flag(&mut world, B);
    assert_eq!(world.take(A), Version::new(2));
}

/// A leader that is free does not say that nobody shares. Nor may the sector of a sharer that is gone be written by
/// others: its flag is void by its generation.
#[test]
fn scenario_6_a_flag_outlasts_the_moment_in_which_its_host_owned_and_ends_with_its_generation() {
    for leaves in [true, false] {
        let mut world = World::new();
        shares(&mut world, A, 1);
        let block = world.block_of(A);
        world.is_blocked_by(C, A);
        match leaves {
            true => world.leaves(A),
            false => world.dies(A),
        }
        assert_eq!(world.take(C), Version::new(2));
        assert_eq!(world.block_of(A), block);
    }
}

/// A host that comes back under its id is live; its former generation does not share any more.
#[test]
fn scenario_13_a_new_generation_of_a_sharer_does_not_share() {
    let mut world = World::new();
    shares(&mut world, A, 1);
    world.is_blocked_by(C, A);
    let record = world.records.get_mut(&id(A)).unwrap();
    record.generation = 2;
    record.extension.as_mut().unwrap().superseded = 1;
    let c = world.acquire(C, false);
    assert_eq!(world.finish(c), Outcome::Held(Version::new(2)), "there is nobody to wait for");
}

/// A's value is accepted in instance 1 but B's is decided, and B shares. If A, which is refused, did not take its claim
/// back, that would stand in everybody's way when B is gone.
#[test]
fn scenario_23_an_acquire_that_a_sharer_refuses_takes_its_claim_back() {
    let mut world = World::new();
    let mut a = world.acquire(A, false);
    world.until(&mut a, writes_phase_2);
    let late = world.times_out(&mut a);
    shares(&mut world, B, 1);
    world.land(late);
    match world.finish(a) {
        Outcome::Blocked(blocker) => assert_eq!(blocker.owner, Some(owner(B, 1))),
        other => panic!("{other:?}"),
    }
    assert!(world.block_of(A).released, "{:?}", world.block_of(A));
    drops_flag(&mut world, B);
    assert_eq!(world.take(C), Version::new(2));
}

/// Whoever doesn't wait is told that it is shared only by what was read after a look at who lives.
#[test]
fn scenario_30_a_flag_that_has_just_been_dropped_is_read_again() {
    let mut world = World::new();
    shares(&mut world, B, 1);
    let mut c = world.acquire(C, false);
    world.scan(id(C));
    world.step(&mut c);
    assert!(matches!(c.effect, Effect::Scan(_)), "{:?}", c.effect);
    drops_flag(&mut world, B);
    assert_eq!(world.finish(c), Outcome::Held(Version::new(2)));
}

/// What is held for a moment is no reason to be refused at once; what is held for longer is, also for who doesn't wait.
#[test]
fn what_is_held_for_a_moment_is_looked_at_more_than_once() {
    let mut world = World::new();
    takes_for_a_moment(&mut world, B, 1);
    world.is_blocked_by(C, B);
    let mut c = world.acquire(C, false);
    let mut looks = 0;
    while looks < 3 {
        looks += u32::from(matches!(c.effect, Effect::Read(_)));
        world.step(&mut c);
    }
    sets_flag(&mut world, B);
    frees_leader(&mut world);
    drops_flag(&mut world, B);
    assert_eq!(world.finish(c), Outcome::Held(Version::new(2)));
}
