//! What would make two owners of one resource, or two of one version.

use leasehold::Version;
use leasehold::format::Block;
use leasehold::protocol::Seen;
use leasehold::protocol::resource::{Effect, Outcome};

use crate::world::*;

#[test]
fn scenario_1_the_leader_write_of_a_host_that_gives_up_is_drained_before_anything_else() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_leader);
    a.operation.call_off();
    let late = world.times_out(&mut a);
    assert!(matches!(a.effect, Effect::Settle(_)), "{:?}", a.effect);
    // The accepted value stands: C completes A's ballot, and finds A live.
    world.is_blocked_by(C, A);
    world.land(late);
    assert!(!matches!(world.finish(a), Outcome::Held(_)));
    assert_eq!(world.take(C), Version::new(2));
}

#[test]
fn scenario_2_a_block_is_not_written_while_an_earlier_write_of_it_is_in_flight() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_phase_1);
    let late = world.times_out(&mut a);
    assert!(matches!(a.effect, Effect::Settle(_)), "{:?}", a.effect);
    world.land(late);
    assert_eq!(world.finish(a), Outcome::Held(Version::new(1)));
    world.is_blocked_by(B, A);
}

#[test]
fn scenario_4_a_release_keeps_the_value_for_those_who_still_run_the_instance() {
    let mut world = World::new();
    let before = world.leader.clone();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_1);
    assert_eq!(world.take(A), Version::new(1));
    world.give_back(A);
    let released = world.block_of(A);
    assert!(released.released && released.inp == Some(owner(A, 1)) && released.bal > 0, "{released:?}");
    // B doesn't see in the leader that instance 1 is over, only in A's block.
    world.leader = before;
    assert_eq!(world.finish(b), Outcome::Held(Version::new(2)));
}

#[test]
fn an_owner_that_commits_during_phase_1_of_a_later_instance_is_respected() {
    let mut world = World::new();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_2);
    // A sees C's burn, but not yet what B is about to write; B does not see the burn.
    let begun = Seen::Good(Block { mbal: 9 * 2_000 + C, instance: Version::new(5), ..Block::default() });
    world.blocks.insert(id(C), begun.clone());
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_phase_1);
    world.blocks.remove(&id(C));
    assert_eq!(world.finish(b), Outcome::Held(Version::new(1)));
    world.blocks.insert(id(C), begun);
    for _ in 0..1_000 {
        world.step(&mut a);
        assert!(!matches!(a.effect, Effect::Done(_)), "{:?}", a.effect);
    }
    assert_eq!(a.operation.blocker().unwrap().owner, Some(owner(B, 1)));
}

#[test]
fn blocks_are_not_judged_by_a_scan_that_is_older_than_a_join_takes() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.scan(id(A));
    world.now = world.now + timeouts().io() * 2;
    world.step(&mut a);
    assert!(matches!(a.effect, Effect::Scan(_)), "{:?}", a.effect);
}

#[test]
fn scenario_43_a_released_version_is_used_by_nobody_again_not_even_by_its_owner() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    let one_is_free = world.leader.clone();
    assert_eq!(world.take(B), Version::new(2));
    world.give_back(B);
    world.leader = one_is_free;
    assert_eq!(world.take(B), Version::new(3));
    world.is_blocked_by(A, B);
}
