//! Hosts that share, that change between shared and exclusive, and many that do it at once.

use std::time::Duration;

use leasehold::protocol::resource::{After, Effect, Event, Outcome, Refusal, Wish};
use leasehold::protocol::{Seen, Written};
use leasehold::{LeaseMode, Version};

use crate::world::*;

fn sets_flag(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteBlock(_, block) if block.shared.is_some() && block.released)
}

fn drops_flag(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteBlock(_, block) if block.shared.is_none() && block.inp.is_some())
}

/// The sector that carries the flag has one write in flight: a stale one can't wipe the flag.
#[test]
fn scenario_3_a_flag_is_not_written_while_an_earlier_write_of_its_block_is_in_flight() {
    let mut world = World::new();
    let mut a = world.acquire_as(A, SHARED);
    world.until(&mut a, writes_phase_1);
    let late = world.times_out(&mut a);
    assert!(matches!(a.effect, Effect::Settle(_)), "{:?}", a.effect);
    world.land(late);
    assert_eq!(world.finish(a), Outcome::Held(Version::new(1)));
    world.is_blocked_by(C, A);
}

/// One write sets the flag and gives the version up, in the block that won the ballot: who shares next has nothing to
/// wait for, though the host got no further, and who wants it alone finds the flag.
#[test]
fn scenario_5_the_flag_is_written_together_with_the_ballot_and_gives_the_version_up() {
    let mut world = World::new();
    let mut a = world.acquire_as(A, SHARED);
    world.until(&mut a, sets_flag);
    let won = world.block_of(A);
    world.step(&mut a);
    let flagged = world.block_of(A);
    assert_eq!((flagged.instance, flagged.mbal, flagged.inp), (won.instance, won.bal, Some(owner(A, 1))));
    // And stops there.
    drop(a);
    assert_eq!(world.share(B), Version::new(2));
    world.is_blocked_by(C, A);
}

#[test]
fn scenario_6_hosts_share_until_each_of_them_has_released() {
    let mut world = World::new();
    assert_eq!((world.share(A), world.share(B)), (Version::new(1), Version::new(2)));
    assert!(world.leader.is_free(), "no sanlock host waits for what was held for a moment");
    world.is_blocked_by(C, A);
    world.give_back(A);
    world.is_blocked_by(C, B);
    world.give_back(B);
    assert_eq!(world.take(C), Version::new(3));
}

/// A sharer whose host id was seen free joined after that.
#[test]
fn scenario_7_a_flag_of_a_generation_that_is_newer_than_its_record_as_read_counts() {
    let mut world = World::new();
    let present = world.records[&id(B)].clone();
    world.leaves(B);
    world.scan(id(C));
    let record = world.records.get_mut(&id(B)).unwrap();
    *record = present;
    record.generation = 2;
    world.live.insert(id(B));
    world.share(B);
    // C does not look at the records again before it judges.
    let mut c = world.acquire(C, true);
    world.scanned.insert(id(C), world.now);
    world.step(&mut c);
    assert_eq!(c.operation.blocker().and_then(|blocker| blocker.owner), Some(owner(B, 2)));
}

/// The leader is freed for sanlock hosts only: a write of it that hangs keeps no conversion from ending.
#[test]
fn scenario_15_a_downgrade_whose_write_of_the_leader_is_lost_or_not_confirmed_is_done() {
    for lands in [false, true] {
        let mut world = World::new();
        world.take(A);
        let mut a = world.convert(A, LeaseMode::Shared, false);
        world.until(&mut a, writes_leader);
        let late = world.times_out(&mut a);
        assert_eq!(a.effect, Effect::Done(Outcome::Held(Version::new(1))));
        if lands {
            world.land(late);
            assert_eq!(world.share(B), Version::new(2));
        } else {
            assert_eq!(world.share(B), Version::new(2));
            world.land(late);
        }
        world.is_blocked_by(C, A);
    }
}

#[test]
fn scenario_22_a_shared_hold_is_released_when_its_flag_is_durably_gone() {
    let mut world = World::new();
    world.share(A);
    let mut a = world.release(A);
    let Effect::WriteBlock(round, _) = a.effect else { panic!("{:?}", a.effect) };
    world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
    assert!(!matches!(a.effect, Effect::Done(_)), "{:?}", a.effect);
    world.is_blocked_by(C, A);
    assert_eq!(world.finish(a), Outcome::Released);
    assert_eq!(world.take(C), Version::new(2));
}

/// An upgrade that another sharer refuses leaves no claim, and its host shares as before.
#[test]
fn scenario_23_an_upgrade_that_is_refused_leaves_the_shared_hold() {
    let mut world = World::new();
    world.share(A);
    let mut a = world.convert(A, LeaseMode::Exclusive, false);
    world.until(&mut a, writes_phase_2);
    let late = world.times_out(&mut a);
    // B decides the next version, with what A had proposed given up or not, and shares.
    let mut b = world.acquire_as(B, SHARED);
    world.land(late);
    world.until(&mut a, |effect| matches!(effect, Effect::Read(_)));
    a.operation.call_off();
    let outcome = world.end(&mut a);
    assert_eq!(a.operation.leaves(&outcome), After::Held(LeaseMode::Shared));
    let block = world.block_of(A);
    assert!(block.released && block.shared.is_some(), "{block:?}");
    assert!(matches!(world.end(&mut b), Outcome::Held(_)));
    world.is_blocked_by(C, A);
    world.give_back(A);
    world.give_back(B);
    assert!(matches!(world.take(C), version if version > Version::new(2)));
}

/// Each owns the resource for a moment: none of those that come at once is refused though none waits.
#[test]
fn scenario_29_shared_acquires_that_come_at_once_all_succeed() {
    for seed in 1..500 {
        let mut world = World::new();
        world.random = seed;
        let mut runs = [A, B, C, D].map(|host| world.acquire_as(host, SHARED));
        world.interleave(&mut runs, |runs| runs.iter().all(|run| run.outcome().is_some()));
        for run in &runs {
            assert!(matches!(run.outcome(), Some(Outcome::Held(_))), "seed {seed}: {} {:?}", run.me, run.effect);
        }
    }
}

/// Neither gets it while the other shares. One is told; when it has released, the other holds.
#[test]
fn scenario_46_of_two_upgrades_one_would_deadlock_and_the_other_succeeds() {
    for seed in 1..50 {
        let mut world = World::new();
        world.random = seed;
        world.share(A);
        world.share(B);
        let mut runs: Vec<Run> = [A, B].map(|host| world.convert(host, LeaseMode::Exclusive, true)).into();
        world.interleave(&mut runs, |runs| runs.iter().any(|run| run.outcome().is_some()));
        runs.sort_by_key(|run| run.outcome().is_some());
        let (told, mut waits) = (runs.pop().unwrap(), runs.pop().unwrap());
        let outcome = told.outcome().unwrap();
        let Outcome::Refused(Refusal::WouldDeadlock(blocker)) = outcome else { panic!("seed {seed}: {outcome:?}") };
        assert_eq!(blocker.owner, Some(waits.me));
        assert_eq!(told.operation.leaves(outcome), After::Held(LeaseMode::Shared));
        // It goes on waiting while the other shares.
        for _ in 0..50 {
            world.step(&mut waits);
            assert_eq!(waits.outcome(), None, "seed {seed}");
        }
        world.give_back(told.me.host.get());
        assert!(matches!(world.end(&mut waits), Outcome::Held(_)));
        world.is_blocked_by(C, waits.me.host.get());
    }
}

/// Its flag stands through the ballot, so it is called off with nothing lost.
#[test]
fn an_upgrade_that_is_called_off_before_it_dropped_its_flag_shares_as_before() {
    let steps: [fn(&Effect) -> bool; 3] = [writes_phase_1, writes_phase_2, writes_leader];
    // When it is about to do that, and when it has done it: with the leader written it drops its flag.
    let exposed = [[false, false], [false, false], [false, true]];
    for (at, exposed) in steps.into_iter().zip(exposed) {
        for (done, exposed) in [false, true].into_iter().zip(exposed) {
            let mut world = World::new();
            world.share(A);
            let mut a = world.convert(A, LeaseMode::Exclusive, true);
            world.until(&mut a, at);
            if done {
                world.step(&mut a);
            }
            assert_eq!(a.operation.is_exposed(), exposed, "{:?}", a.effect);
            if exposed {
                continue;
            }
            assert!(world.block_of(A).shared.is_some(), "it shares until it owns");
            a.operation.call_off();
            let outcome = world.end(&mut a);
            assert_eq!(a.operation.leaves(&outcome), After::Held(LeaseMode::Shared), "{outcome:?}");
            world.is_blocked_by(C, A);
            world.share(B);
        }
    }
}

/// Who saw that the flag was dropped may have acted on it: the upgrade is finished, whoever calls.
#[test]
fn an_upgrade_that_has_dropped_its_flag_is_not_called_off() {
    for lands in [false, true] {
        let mut world = World::new();
        world.share(A);
        let mut a = world.convert(A, LeaseMode::Exclusive, true);
        world.until(&mut a, drops_flag);
        assert!(a.operation.is_exposed());
        a.operation.call_off();
        let Effect::WriteBlock(round, block) = a.effect.clone() else { unreachable!() };
        if lands {
            world.blocks.insert(id(A), Seen::Good(block));
        }
        world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
        assert_eq!(world.end(&mut a), Outcome::Held(Version::new(2)));
        assert!(world.block_of(A).shared.is_none());
        world.now = world.now + Duration::from_secs(1);
        world.is_blocked_by(B, A);
    }
}

/// A host that waits for all who share is not itself in their way.
#[test]
fn who_waits_to_upgrade_keeps_nobody_from_sharing() {
    let mut world = World::new();
    world.share(A);
    world.share(B);
    let mut a = world.convert(A, LeaseMode::Exclusive, true);
    for _ in 0..20 {
        world.step(&mut a);
    }
    let c = world.acquire_as(C, Wish { wait: false, ..SHARED });
    assert!(matches!(world.finish(c), Outcome::Held(_)));
}
