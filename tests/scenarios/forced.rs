//! A resource that is taken by force: from an owner that lives, at the version that somebody knows.

use leasehold::format::Block;
use leasehold::protocol::Seen;
use leasehold::protocol::resource::{After, Basis, Effect, Outcome, Refusal, Wish};
use leasehold::{LeaseMode, Version};

use crate::world::*;

/// The whole of a taking by force that succeeds.
fn takes_by_force(world: &mut World, host: u64, version: u64) {
    assert_eq!(world.takes_as(host, forced(version)), Version::new(version + 1));
}

/// The owner sees it at its next look, also when a late write has set the leader back to it.
#[test]
fn scenario_19_an_owner_that_lives_sees_who_has_taken_its_resource_and_at_which_version() {
    let mut world = World::new();
    world.take(A);
    assert_eq!(world.view().fenced(owner(A, 1), Version::new(1)), None);
    let before = world.leader.clone();
    let mut b = world.acquire_as(B, forced(1));
    assert_eq!(world.end(&mut b), Outcome::Held(Version::new(2)));
    assert_eq!(b.operation.overridden().iter().copied().collect::<Vec<_>>(), [owner(A, 1)]);
    let taken = Some((Some(owner(B, 1)), Version::new(2)));
    assert_eq!(world.view().fenced(owner(A, 1), Version::new(1)), taken);
    world.leader = before;
    assert_eq!(world.view().fenced(owner(A, 1), Version::new(1)), taken);
    assert_eq!(world.view().fenced(owner(B, 1), Version::new(2)), None);
}

#[test]
fn scenario_19_nothing_is_written_when_the_version_is_another_than_the_expected_one() {
    let mut world = World::new();
    world.take(A);
    world.give_back(A);
    world.take(B);
    let before = world.view();
    for basis in [Basis::Forced, Basis::Unchanged] {
        for version in [0, 1, 3] {
            let wish = Wish { basis: basis(Version::new(version)), ..Wish::exclusive(false) };
            let c = world.acquire_as(C, wish);
            let found = Version::new(2);
            assert_eq!(world.finish(c), Outcome::Refused(Refusal::VersionChanged { found }), "{version}");
            assert_eq!(world.view(), before);
        }
    }
}

/// A state that was saved is good as long as nobody has owned the resource since.
#[test]
fn a_resource_is_taken_from_the_version_that_it_was_left_at() {
    for between in [false, true] {
        let mut world = World::new();
        world.take(A);
        world.give_back(A);
        if between {
            world.take(B);
            world.give_back(B);
        }
        let a = world.acquire_as(A, Wish { basis: Basis::Unchanged(Version::new(1)), ..Wish::exclusive(false) });
        let expected = match between {
            false => Outcome::Held(Version::new(2)),
            true => Outcome::Refused(Refusal::VersionChanged { found: Version::new(2) }),
        };
        assert_eq!(world.finish(a), expected);
    }
}

/// Who comes after the taker knows nothing of the owner that was overridden, but it may still act.
#[test]
fn an_owner_that_was_overridden_is_waited_for_by_whoever_comes_after_the_taker() {
    let mut world = World::new();
    world.take(A);
    takes_by_force(&mut world, B, 1);
    world.give_back(B);
    world.is_blocked_by(C, A);
    let shared = world.acquire_as(C, SHARED);
    assert!(matches!(world.finish(shared), Outcome::Blocked(blocker) if blocker.owner == Some(owner(A, 1))));
    // It has seen it, and has stopped what the lease protected.
    world.give_back(A);
    assert_eq!(world.take(C), Version::new(3));
}

#[test]
fn a_second_taker_is_told_of_every_owner_that_may_still_act() {
    let mut world = World::new();
    world.take(A);
    takes_by_force(&mut world, B, 1);
    let mut c = world.acquire_as(C, forced(2));
    assert_eq!(world.end(&mut c), Outcome::Held(Version::new(3)));
    assert_eq!(c.operation.overridden().iter().copied().collect::<Vec<_>>(), [owner(A, 1), owner(B, 1)]);
    // One that has given up acts no more, nor does one that is dead: B by the time D has watched it.
    world.give_back(A);
    world.dies(B);
    world.scan(id(D));
    world.now = world.now + timeouts().dead() * 2;
    world.scan(id(D));
    let mut d = world.acquire_as(D, forced(3));
    assert_eq!(world.end(&mut d), Outcome::Held(Version::new(4)));
    assert_eq!(d.operation.overridden().iter().copied().collect::<Vec<_>>(), [owner(C, 1)]);
}

/// It never looks at its leader again, so it would go on; also who waits is told so. Without the rule
/// (`SanlockIsNotForced`) B holds version 2 while A runs: `crates/simulator/examples/mutants`.
#[test]
fn a_sanlock_host_is_not_overridden() {
    for wait in [false, true] {
        let mut world = World::of_a_sanlock_owner();
        let before = world.view();
        let b = world.acquire_as(B, Wish { wait, ..forced(1) });
        let outcome = world.finish(b);
        let Outcome::Refused(Refusal::NotForced(blocker)) = &outcome else { panic!("{outcome:?}") };
        assert_eq!(blocker.owner, Some(owner(A, 1)));
        assert_eq!(world.view(), before);
    }
}

/// A sanlock host may leave the claim of a ballot that it lost in its block until it acquires again.
#[test]
fn the_claim_of_a_sanlock_host_that_lost_a_ballot_is_in_nobodys_way_when_the_leader_has_gone_on() {
    let mut world = World::new();
    world.take(A);
    let (instance, inp) = (Version::new(1), Some(owner(B, 1)));
    let lost = Block { mbal: B, bal: B, inp, inp_timestamp: 9, instance, ..Block::default() };
    world.blocks.insert(id(B), Seen::Good(lost));
    world.give_back(A);
    assert_eq!(world.take(C), Version::new(2));
    world.give_back(C);
    assert_eq!(world.take(A), Version::new(3));
}

#[test]
fn who_shares_is_not_overridden() {
    let mut world = World::new();
    world.share(A);
    let b = world.acquire_as(B, forced(1));
    assert!(matches!(world.finish(b), Outcome::Blocked(blocker) if blocker.owner == Some(owner(A, 1))));
    world.give_back(A);
    takes_by_force(&mut world, B, 1);
}

/// Another host commits A's value, a third takes it from A, and then A's own late write of the leader lands: A does not
/// take that for the moment at which it became the owner.
#[test]
fn a_version_that_a_late_leader_shows_is_not_held_when_it_was_overridden() {
    let mut world = World::new();
    let mut a = world.acquire(A, false);
    world.until(&mut a, writes_leader);
    let late = world.times_out(&mut a);
    world.is_blocked_by(B, A);
    takes_by_force(&mut world, C, 1);
    world.land(late);
    assert_eq!(world.leader.owner, Some(owner(A, 1)), "the leader is set back");
    let outcome = world.finish(a);
    assert!(matches!(&outcome, Outcome::Blocked(blocker) if blocker.owner == Some(owner(C, 1))), "{outcome:?}");
    world.give_back(C);
    assert!(matches!(world.take(B), version if version > Version::new(2)));
}

/// The taker reads everything, and then the flag lands that it would have respected.
#[test]
fn scenario_46_a_flag_that_lands_after_a_taker_has_looked_is_no_hold() {
    for downgrade in [false, true] {
        let mut world = World::new();
        let mut a = match downgrade {
            true => {
                world.take(A);
                world.convert(A, LeaseMode::Shared, false)
            }
            false => {
                let mut a = world.acquire_as(A, SHARED);
                world.until(&mut a, |effect| matches!(effect, Effect::WriteBlock(_, block) if block.shared.is_some()));
                a
            }
        };
        let mut b = world.acquire_as(B, forced(1));
        world.until(&mut b, writes_phase_2);
        world.step(&mut a);
        assert_eq!(world.end(&mut b), Outcome::Held(Version::new(2)));
        let outcome = world.end(&mut a);
        if downgrade {
            // What the lease protects runs still: the flag keeps others away until that has stopped.
            let overtaken = Refusal::Overtaken { owner: Some(owner(B, 1)), version: Version::new(2) };
            assert_eq!((a.operation.leaves(&outcome), &outcome), (After::Lost, &Outcome::Refused(overtaken)));
            world.give_back(B);
            world.is_blocked_by(C, A);
            world.give_back(A);
        } else {
            assert!(matches!(&outcome, Outcome::Blocked(it) if it.owner == Some(owner(B, 1))), "{outcome:?}");
            world.give_back(B);
        }
        assert_eq!(world.take(C), Version::new(3));
    }
}

/// From when its flag may be gone, an upgrade can be overtaken like any owner.
#[test]
fn an_upgrade_that_is_overtaken_when_its_flag_is_gone_is_lost() {
    let mut world = World::new();
    world.share(A);
    let mut a = world.convert(A, LeaseMode::Exclusive, true);
    while !a.operation.is_exposed() {
        world.step(&mut a);
    }
    let late = world.times_out(&mut a);
    world.land(late);
    takes_by_force(&mut world, B, 2);
    let outcome = world.end(&mut a);
    assert_eq!(a.operation.leaves(&outcome), After::Lost, "{outcome:?}");
    world.give_back(B);
    world.is_blocked_by(C, A);
}
