//! What would keep a resource from everybody for ever, or from some.

use leasehold::Version;
use leasehold::format::Block;
use leasehold::protocol::resource::{Effect, Event, Outcome, Refusal};
use leasehold::protocol::{Seen, Written};

use crate::world::*;

/// What frees the lease is the flag in the own block. A leader that can't be freed keeps no release from ending,
/// whether it was freed or not.
#[test]
fn scenario_15_a_release_whose_write_of_the_leader_is_lost_or_not_confirmed_is_a_release() {
    for lands in [false, true] {
        let mut world = World::new();
        world.take(A);
        let mut a = world.release(A);
        world.until(&mut a, writes_leader);
        let late = world.times_out(&mut a);
        assert_eq!(a.effect, Effect::Done(Outcome::Released));
        if lands {
            world.land(late);
            assert!(world.leader.is_free());
            assert_eq!(world.take(B), Version::new(2));
        } else {
            assert_eq!(world.take(B), Version::new(2));
            world.land(late);
        }
        world.is_blocked_by(C, B);
    }
}

#[test]
fn scenario_21_a_late_leader_write_does_not_give_back_what_was_released() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_leader);
    // B completes A's ballot too; its leader write is slow.
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_leader);
    let late = world.times_out(&mut b);
    assert_eq!(world.finish(a), Outcome::Held(Version::new(1)));
    world.give_back(A);
    world.land(late);
    assert_eq!(world.leader.owner, Some(owner(A, 1)));
    assert!(!world.leader.is_free());
    assert_eq!(world.take(C), Version::new(2));
}

#[test]
fn scenario_22_released_is_answered_only_when_the_released_flag_is_durable() {
    let mut world = World::new();
    world.take(A);
    let mut a = world.release(A);
    for _ in 0..3 {
        world.until(&mut a, |effect| matches!(effect, Effect::WriteBlock(..)));
        let Effect::WriteBlock(round, _) = a.effect else { unreachable!() };
        world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
        assert!(!matches!(a.effect, Effect::Done(_)), "{:?}", a.effect);
    }
    assert_eq!(world.finish(a), Outcome::Released);
    assert!(world.block_of(A).released);
    assert_eq!(world.take(B), Version::new(2));
}

#[test]
fn scenario_24_a_value_that_another_host_commits_is_held_by_its_owner() {
    let mut world = World::new();
    let mut a = world.acquire(A, true);
    world.until(&mut a, writes_leader);
    world.is_blocked_by(B, A);
    assert_eq!((world.leader.owner, world.leader.writer.id), (Some(owner(A, 1)), B), "B committed it");
    assert_eq!(world.finish(a), Outcome::Held(Version::new(1)));
}

#[test]
fn scenario_25_a_leader_that_is_set_back_by_two_versions_neither_wedges_nor_lets_a_second_owner_in() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    let old = world.leader.clone();
    for host in [B, A] {
        world.take(host);
        if host == B {
            world.give_back(host);
        }
    }
    // A holds version 3; the leader says that 1 is free.
    world.leader = old;
    world.is_blocked_by(C, A);
    world.dies(A);
    assert_eq!(world.take(C), Version::new(4));
    assert_eq!(world.leader.version, Version::new(4), "the leader is repaired");
}

#[test]
fn scenario_25_a_version_below_a_later_instance_is_respected_though_the_leader_is_set_back() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    let old = world.leader.clone();
    assert_eq!(world.take(B), Version::new(2));
    // C began to burn versions that no block shows, and got no further; then the leader forgets B.
    let begun = Block { mbal: 9 * 2_000 + C, instance: Version::new(5), ..Block::default() };
    world.blocks.insert(id(C), Seen::Good(begun));
    world.leader = old;
    world.is_blocked_by(D, B);
    world.dies(B);
    assert_eq!(world.take(D), Version::new(5));
}

#[test]
fn scenario_26_after_a_wait_the_instance_is_chosen_anew() {
    let mut world = World::new();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_1);
    // B aims at version 1; meanwhile 1 is used up and 2 decided.
    world.take(A);
    world.give_back(A);
    world.take(C);
    b.operation.call_off();
    assert!(!matches!(world.finish(b), Outcome::Held(_)));
    let mut b = world.acquire(B, true);
    world.dies(C);
    world.until(&mut b, writes_phase_2);
    let Effect::WriteBlock(_, block) = &b.effect else { unreachable!() };
    assert_eq!(block.instance, Version::new(3));
}

#[test]
fn scenario_27_the_next_ballot_number_exceeds_all_that_were_seen() {
    let mut world = World::new();
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_phase_1);
    // A host with a far larger number is in the instance, and dies in it.
    let block = Block { mbal: 7 * 2_000 + D, instance: Version::new(1), ..Block::default() };
    world.blocks.insert(id(D), Seen::Good(block));
    world.step(&mut b);
    world.until(&mut b, writes_phase_1);
    let Effect::WriteBlock(_, block) = &b.effect else { unreachable!() };
    assert_eq!(block.mbal, 8 * 2_000 + B);
}

#[test]
fn scenario_28_a_write_that_failed_but_landed_leaves_nothing_that_nobody_manages() {
    let mut world = World::new();
    let mut a = world.acquire(A, false);
    world.until(&mut a, writes_phase_2);
    let Effect::WriteBlock(round, _) = a.effect else { unreachable!() };
    world.land(Late(id(A), a.effect.clone()));
    world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
    assert_eq!(world.finish(a), Outcome::Refused(Refusal::Storage));
    assert!(world.block_of(A).released);
    world.take(B);
}

#[test]
fn scenario_31_two_hosts_that_contend_both_make_progress() {
    let mut world = World::new();
    let mut held = [0_u32; 2];
    let mut runs = [A, B].map(|host| Some(world.acquire(host, true)));
    for turn in 0..60_000 {
        // A is four times as fast.
        let index = usize::from(turn % 5 == 0);
        let Some(mut run) = runs[index].take() else { continue };
        let host = run.me.host.get();
        // Waiting is no step: whoever waits is passed over until its time has come.
        match run.effect.clone() {
            Effect::Wait(_, until) if until > world.now => drop(world.pass()),
            Effect::Done(Outcome::Held(_)) => {
                held[index] += 1;
                run = world.release(host);
            }
            Effect::Done(_) => run = world.acquire(host, true),
            _ => world.step(&mut run),
        }
        runs[index] = Some(run);
    }
    let [fast, slow] = held;
    assert!(slow * 8 > fast && fast > 50, "{held:?}");
}

#[test]
fn two_whose_instance_was_passed_over_do_not_wait_for_each_other() {
    let mut world = World::new();
    let mut runs = [world.acquire(A, true), world.acquire(B, true)];
    for run in &mut runs {
        world.until(run, writes_phase_1);
    }
    // Both have read before either wrote phase 2, so both claim version 1.
    let [a, b] = &mut runs;
    world.step(a);
    let view = (world.leader.clone(), world.blocks.clone());
    world.step(b);
    let seen_by_b = std::mem::replace(&mut world.blocks, view.1);
    world.step(a);
    world.until(a, writes_phase_2);
    world.blocks.insert(id(B), seen_by_b[&id(B)].clone());
    world.step(b);
    world.until(b, writes_phase_2);
    world.step(a);
    world.step(b);
    // C passed over 1 when it burned 2, and died.
    let passed = Block { mbal: 9 * 2_000 + C, instance: Version::new(3), ..Block::default() };
    world.blocks.insert(id(C), Seen::Good(passed));
    world.dies(C);
    for _ in 0..2_000 {
        for run in &mut runs {
            if let Effect::Done(outcome) = &run.effect {
                assert_eq!(outcome, &Outcome::Held(Version::new(3)));
                return;
            }
            world.step(run);
        }
    }
    panic!("both wait: {:?}", runs.map(|run| run.effect));
}
