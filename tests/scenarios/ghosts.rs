//! What is left of owners that are gone: it is judged once, and not by everybody who comes later.

use leasehold::format::{Leader, LeaderExtension};
use leasehold::protocol::Seen;
use leasehold::protocol::resource::{Operation, Outcome};
use leasehold::{Owner, Version};

use crate::world::*;

/// Everybody who `watches` has seen for D that A is dead.
fn is_dead(world: &mut World, host: u64, watches: &[u64]) {
    world.dies(host);
    for pass in 0..2 {
        watches.iter().for_each(|watcher| world.scan(id(*watcher)));
        if pass == 0 {
            world.now = world.now + timeouts().dead() * 2;
        }
    }
}

/// A has died with version 1, B has taken the resource over, and given it back. Nobody else has seen A die.
fn taken_over() -> World {
    let mut world = World::new();
    world.take(A);
    is_dead(&mut world, A, &[B]);
    assert_eq!(world.take(B), Version::new(2));
    world.give_back(B);
    world
}

/// What everybody judges who acquires.
fn claims(world: &World) -> Vec<(Version, Owner)> {
    world.view().unnamed(&world.leader, Version::new(u64::MAX)).collect()
}

/// Without waiting.
fn takes_at_once(world: &mut World, host: u64, version: u64) {
    let run = world.acquire(host, false);
    assert_eq!(world.finish(run), Outcome::Held(Version::new(version)));
}

#[test]
fn scenario_56_a_claim_that_was_judged_is_not_judged_by_everybody_who_comes_later() {
    let mut world = taken_over();
    assert!(world.leader.is_judged() && world.leader.is_free());
    assert_eq!(claims(&world), []);
    takes_at_once(&mut world, C, 3);
    world.give_back(C);
    takes_at_once(&mut world, D, 4);
}

/// Rule `JudgedIsProven`: whoever comes after the taker does not know whether A still acts.
#[test]
fn scenario_56_what_was_passed_over_by_force_was_not_judged() {
    let mut world = World::new();
    world.take(A);
    assert_eq!(world.takes_as(B, forced(1)), Version::new(2));
    assert!(!world.leader.is_judged());
    world.give_back(B);
    assert_eq!(claims(&world), [(Version::new(1), owner(A, 1))]);
    world.is_blocked_by(C, A);
    // It dies before it has seen that. The first one who has watched it judges it for all.
    is_dead(&mut world, A, &[C]);
    takes_at_once(&mut world, C, 3);
    assert!(world.leader.is_judged());
    world.give_back(C);
    takes_at_once(&mut world, D, 4);
}

/// It passed over nobody.
#[test]
fn scenario_56_a_taker_by_force_of_an_owner_that_is_gone_has_judged_it() {
    let mut world = World::new();
    world.take(A);
    is_dead(&mut world, A, &[B]);
    assert_eq!(world.takes_as(B, forced(1)), Version::new(2));
    world.give_back(B);
    takes_at_once(&mut world, C, 3);
}

/// Whoever completes the ballot of another host judges for itself.
#[test]
fn scenario_56_a_host_that_commits_the_value_of_another_has_judged_too() {
    let mut world = World::new();
    world.take(A);
    is_dead(&mut world, A, &[B, C]);
    let mut b = world.acquire(B, false);
    world.until(&mut b, writes_leader);
    world.is_blocked_by(C, B);
    assert_eq!(world.leader.owner, Some(owner(B, 1)));
    assert!(world.leader.is_judged());
    assert_eq!(world.end(&mut b), Outcome::Held(Version::new(2)));
    world.give_back(B);
    takes_at_once(&mut world, D, 3);
}

/// Nor does it, by that, say what a taker by force did not.
#[test]
fn scenario_56_nobody_commits_the_value_of_a_taker_by_force_while_the_former_owner_may_act() {
    let mut world = World::new();
    world.take(A);
    let mut b = world.acquire_as(B, forced(1));
    world.until(&mut b, writes_leader);
    world.is_blocked_by(C, A);
    assert_eq!(world.leader.version, Version::new(1));
    assert_eq!(world.end(&mut b), Outcome::Held(Version::new(2)));
    assert!(!world.leader.is_judged());
}

/// A judged leader is true of its own version only, whenever it lands.
#[test]
fn scenario_56_a_judged_leader_that_lands_late_says_nothing_of_later_versions() {
    let mut world = taken_over();
    let late = world.leader.clone();
    world.take(C);
    world.leader = late;
    assert!(world.leader.is_judged());
    world.is_blocked_by(D, C);
}

/// Rule `JudgedIsShown`: versions begin again in an area that was wiped, below a leader that was on its way.
#[test]
fn scenario_56_a_judged_leader_that_lands_in_an_area_that_was_wiped_says_nothing_of_those_who_came_since() {
    let mut world = taken_over();
    let free = world.leader.clone();
    world.take(C);
    let late = world.leader.clone();
    assert!(late.is_judged() && late.version == Version::new(3));
    is_dead(&mut world, C, &[D]);
    world.blocks.clear();
    world.leader =
        Leader { version: Version::new(0), extension: Some(LeaderExtension { nonce: NONCE, judged: false }), ..free };
    assert_eq!(world.take(B), Version::new(1), "a version of the past");
    world.leader = late;
    world.is_blocked_by(D, B);
    // Nor does it where its writer's block is damaged, and tells nothing.
    world.blocks.insert(id(C), damage());
    world.is_blocked_by(D, B);
}

/// What a late write of an earlier leader says counts, too: then all claims are judged again, which is safe.
#[test]
fn scenario_56_a_leader_that_was_not_judged_has_every_claim_judged_again() {
    let mut world = taken_over();
    world.leader.extension.as_mut().unwrap().judged = false;
    world.is_blocked_by(C, A);
    // A sanlock host's says nothing of it.
    world.leader.extension = None;
    world.is_blocked_by(D, A);
}

/// A leader that is lost is rebuilt by a ballot that has judged every claim.
#[test]
fn scenario_56_a_leader_that_is_rebuilt_is_judged() {
    let mut world = taken_over();
    world.leader_is_damaged = true;
    let me = owner(B, 1);
    let (operation, effect) = Operation::rebuild(World::subject(me), None, None, world.now);
    let outcome = world.finish(Run { me, operation, effect });
    let Outcome::Held(version) = outcome else { panic!("{outcome:?}") };
    assert!(world.leader.is_judged() && matches!(world.view().leader, Seen::Good(_)));
    world.give_back(B);
    takes_at_once(&mut world, C, version.get() + 1);
}

#[test]
fn scenario_56_what_was_handed_over_is_judged() {
    let mut world = taken_over();
    world.take(B);
    let mut c = world.receive(C);
    let asks = |world: &World| world.view().destinations(Version::new(3)).next().is_some();
    while !asks(&world) {
        world.step(&mut c);
    }
    let b = world.hand_over(B, 3, owner(C, 1));
    let mut runs = [b, c];
    world.interleave(&mut runs, |runs| runs.iter().all(|run| run.outcome().is_some()));
    assert_eq!(runs[1].outcome(), Some(&Outcome::Held(Version::new(4))));
    assert!(world.leader.is_judged());
    world.give_back(C);
    takes_at_once(&mut world, D, 5);
}
