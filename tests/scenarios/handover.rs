//! A resource that its owner hands over while both run. A is the source, B the destination, C anybody else.

use leasehold::format::Leader;
use leasehold::protocol::Written;
use leasehold::protocol::resource::{After, Blocker, Effect, Event, Hold, Outcome, Refusal};
use leasehold::{LeaseMode, Version};

use crate::world::*;

const KEPT: After = After::Held(LeaseMode::Exclusive);

fn asks(effect: &Effect) -> bool {
    let receives = |effect: &Effect| match effect {
        Effect::WriteBlock(_, block) => block.extension.as_ref()?.receives,
        _ => None,
    };
    receives(effect).is_some()
}

/// A owns version 1, and B has asked to be handed the next.
fn asked() -> (World, Run) {
    let mut world = World::new();
    world.take(A);
    let mut b = world.receive(B);
    world.until(&mut b, asks);
    world.step(&mut b);
    (world, b)
}

/// A runs the ballot of version 2 and has not proposed anything.
fn prepared() -> (World, Run, Run) {
    let (mut world, b) = asked();
    let mut a = world.hand_over(A, 1, b.me);
    world.until(&mut a, writes_phase_1);
    world.step(&mut a);
    (world, a, b)
}

/// A has proposed B, and knows nothing of what became of that.
fn proposed() -> (World, Run, Run) {
    let (mut world, mut a, b) = prepared();
    world.until(&mut a, writes_phase_2);
    world.step(&mut a);
    (world, a, b)
}

/// What `host` holds it holds as before, and it can be released.
fn keeps(world: &mut World, host: u64) {
    world.is_blocked_by(C, host);
    world.give_back(host);
    world.take(C);
}

fn held(version: u64) -> Outcome {
    Outcome::Held(Version::new(version))
}

fn handed_over(version: u64) -> Outcome {
    Outcome::HandedOver(Version::new(version))
}

impl World {
    /// The next generation of a host whose last one has ended.
    fn starts_anew(&mut self, host: u64) {
        let record = self.records.get_mut(&id(host)).unwrap();
        record.extension.as_mut().unwrap().superseded = record.generation as u32;
        record.generation += 1;
    }

    fn calls_off(&mut self, run: &mut Run) -> Outcome {
        run.operation.call_off();
        self.end(run)
    }
}

/// Tried: the destination does not take a proposal by its source for it (`mine` in `turn`).
#[test]
fn scenario_20_the_source_dies_right_after_it_has_proposed_the_destination() {
    let (mut world, _, mut b) = proposed();
    world.dies(A);
    assert_eq!(world.end(&mut b), held(2));
    world.is_blocked_by(C, B);
}

/// Tried: rule `LargestAcceptedWins` out of force: C owns the version that was decided for B.
#[test]
fn scenario_20_the_destination_dies_right_after_it_was_made_owner() {
    let (mut world, mut a, _) = proposed();
    assert_eq!(world.end(&mut a), handed_over(2));
    world.is_blocked_by(C, B);
    world.dies(B);
    assert_eq!(world.take(C), Version::new(3));
}

/// Tried: rule `LargestAcceptedWins` out of force: C owns the version that was decided for B.
#[test]
fn scenario_20_both_die_and_the_version_that_was_proposed_is_not_used_by_another() {
    for decided in [false, true] {
        let (mut world, mut a, _) = proposed();
        if decided {
            assert_eq!(world.end(&mut a), handed_over(2));
        }
        world.dies(A);
        world.dies(B);
        assert_eq!(world.take(C), Version::new(3));
    }
}

/// The evidence of version 1 is in the block of version 2 alone. Tried: rule `AskingHolds` out of force.
#[test]
fn scenario_45_a_source_that_stops_after_phase_1_holds_its_version_though_the_leader_is_set_back() {
    let mut world = World::new();
    let before = world.leader.clone();
    world.take(A);
    let mut b = world.receive(B);
    world.until(&mut b, asks);
    world.step(&mut b);
    let mut a = world.hand_over(A, 1, b.me);
    world.until(&mut a, writes_phase_1);
    world.step(&mut a);
    world.leader = Leader { version: Version::new(0), ..before };
    world.is_blocked_by(C, A);
    world.dies(A);
    assert_eq!(world.take(C), Version::new(2));
}

/// Nothing is written. Tried: rule `DestinationAsks` out of force.
#[test]
fn a_source_keeps_what_nobody_asks_for_any_more() {
    let (mut world, mut b) = asked();
    assert!(matches!(world.calls_off(&mut b), Outcome::Blocked(_)));
    let before = world.view();
    let mut a = world.hand_over(A, 1, b.me);
    let outcome = world.end(&mut a);
    assert_eq!((a.operation.leaves(&outcome), outcome), (KEPT, Outcome::Refused(Refusal::NotAsked)));
    assert_eq!(world.view(), before);
    keeps(&mut world, A);
}

/// Tried: what phase 1 shows of the destination does not count (`keeps` in `propose`).
#[test]
fn a_source_keeps_what_the_destination_gave_up_before_it_was_proposed() {
    let (mut world, mut a, mut b) = prepared();
    assert!(matches!(world.calls_off(&mut b), Outcome::Blocked(_)));
    let outcome = world.end(&mut a);
    assert_eq!((a.operation.leaves(&outcome), outcome), (KEPT, Outcome::Refused(Refusal::NotAsked)));
    keeps(&mut world, A);
}

/// The version that was proposed is B's, and free. Tried: rule `WithdrawnInAdvance` out of force: it is B's, who is
/// gone.
#[test]
fn a_source_owns_a_later_version_when_the_destination_gave_up_while_it_was_proposed() {
    let (mut world, mut a, mut b) = prepared();
    world.until(&mut a, writes_phase_2);
    assert!(matches!(world.calls_off(&mut b), Outcome::Blocked(_)));
    assert!(a.operation.has_ceded());
    assert_eq!(world.end(&mut a), held(3));
    world.is_blocked_by(C, A);
    // B asks anew, for a version that it has not given up.
    let mut b = world.receive(B);
    world.until(&mut b, asks);
    world.step(&mut b);
    let a = world.hand_over(A, 3, b.me);
    assert_eq!(world.finish(a), handed_over(4));
    assert_eq!(world.finish(b), held(4));
}

/// A has written that version 2 is free. Tried: the leader's owner counts alone (`ceded`): A says that it handed over
/// what B never had.
#[test]
fn a_destination_whose_block_is_damaged_after_it_gave_up_was_handed_nothing() {
    let (mut world, mut a, mut b) = prepared();
    world.until(&mut a, writes_phase_2);
    assert!(matches!(world.calls_off(&mut b), Outcome::Blocked(_)));
    world.until(&mut a, writes_leader);
    world.step(&mut a);
    world.blocks.insert(id(B), damage());
    world.leaves(B);
    assert!(matches!(world.end(&mut a), Outcome::Held(_)));
}

/// B gave version 2 up, and acquires for itself. Tried: B runs version 2, which A has proposed it for: its block looks
/// as if it had begun to own that.
#[test]
fn what_the_destination_gave_up_was_not_handed_over_though_it_acquires_for_itself() {
    let (mut world, mut a, mut b) = prepared();
    world.until(&mut a, writes_phase_2);
    assert!(matches!(world.calls_off(&mut b), Outcome::Blocked(_)));
    world.step(&mut a);
    let mut b = world.acquire(B, true);
    world.until(&mut b, writes_leader);
    world.step(&mut b);
    assert_ne!(world.end(&mut a), handed_over(2));
}

/// B has given up version 2, asks for version 3, and may find meanwhile that nobody hands anything over. Tried: A
/// proposes B again, and says that it handed version 3 over when B has given that up, too.
#[test]
fn a_source_that_takes_back_what_it_proposed_does_not_hand_over_what_it_takes() {
    let (mut world, mut a, mut b) = prepared();
    world.until(&mut a, writes_phase_2);
    assert!(matches!(world.calls_off(&mut b), Outcome::Blocked(_)));
    let mut b = world.receive(B);
    world.until(&mut b, asks);
    world.step(&mut b);
    assert_eq!(world.end(&mut a), held(3));
    world.is_blocked_by(C, A);
}

/// Tried: rule `ProposalCedes` out of force: A goes on beside B.
#[test]
fn a_source_that_is_called_off_keeps_what_it_held_until_it_has_proposed_and_nothing_after() {
    let (mut world, mut a, _) = prepared();
    let outcome = world.calls_off(&mut a);
    assert_eq!((a.operation.leaves(&outcome), outcome), (KEPT, Outcome::GaveUp));
    keeps(&mut world, A);

    let (mut world, mut a, mut b) = proposed();
    assert!(a.operation.has_ceded());
    let outcome = world.calls_off(&mut a);
    assert_eq!(a.operation.leaves(&outcome), After::Nothing, "{outcome:?}");
    assert_eq!(world.end(&mut b), held(2));
}

/// Tried: rules `DestinationAsks` and `OnlyWhatIsHandedOver` out of force.
#[test]
fn what_an_earlier_generation_of_the_destination_asked_for_is_not_the_next_ones() {
    let (mut world, mut a, _) = prepared();
    world.starts_anew(B);
    let next = world.hand_over(A, 1, world.present(B));
    assert_eq!(world.finish(next), Outcome::Refused(Refusal::NotAsked));
    // It looked before B started anew.
    assert_eq!(world.end(&mut a), handed_over(2));
    let b = world.receive(B);
    assert!(matches!(world.finish(b), Outcome::Refused(Refusal::NotHandedOver { .. })));
    assert_eq!(world.take(B), Version::new(3));
}

/// Tried: who took the resource by force does not end a handover (`fenced` in `keeps`).
#[test]
fn what_is_taken_by_force_during_a_prepared_handover_is_lost() {
    let (mut world, mut a, mut b) = prepared();
    let mut c = world.acquire_as(C, forced(1));
    assert_eq!(world.end(&mut c), held(2));
    assert_eq!(c.operation.overridden().iter().copied().collect::<Vec<_>>(), [owner(A, 1)]);
    let outcome = world.end(&mut a);
    let overtaken = Refusal::Overtaken { owner: Some(owner(C, 1)), version: Version::new(2) };
    assert_eq!((a.operation.leaves(&outcome), outcome), (After::Lost, Outcome::Refused(overtaken)));
    // A has stopped; B waits for C now, who hands over what it has.
    world.give_back(A);
    world.until(&mut b, asks);
    world.step(&mut b);
    let c = world.hand_over(C, 2, b.me);
    assert_eq!(world.finish(c), handed_over(3));
    assert_eq!(world.end(&mut b), held(3));
}

/// Nobody is overtaken by that. Tried: rule `VersionIsExpected` out of force.
#[test]
fn what_was_proposed_to_another_is_not_taken_by_force_from_the_source() {
    let (mut world, _, mut b) = proposed();
    let c = world.acquire_as(C, forced(1));
    let found = Version::new(2);
    assert_eq!(world.finish(c), Outcome::Refused(Refusal::VersionChanged { found }));
    assert!(matches!(world.end(&mut b), Outcome::Held(_)));
}

/// It lands before C writes the leader, or after it. Tried: rule `LargestAcceptedWins` out of force.
#[test]
fn a_late_proposal_makes_nobody_owner_of_what_another_has_decided() {
    for committed in [false, true] {
        let (mut world, mut a, mut b) = prepared();
        world.until(&mut a, writes_phase_2);
        let late = world.times_out(&mut a);
        world.dies(A);
        let mut c = world.acquire(C, true);
        world.until(&mut c, writes_leader);
        if committed {
            assert_eq!(world.end(&mut c), held(2));
        }
        world.land(late);
        for _ in 0..100 {
            world.step(&mut b);
            assert!(!matches!(b.effect, Effect::Done(_)), "{:?}", b.effect);
        }
        assert_eq!(world.leader.owner, Some(owner(C, 1)));
        let c = if committed {
            C
        } else {
            world.end(&mut c);
            C
        };
        world.is_blocked_by(D, c);
    }
}

/// A damaged block may have decided anything. Tried: `bad_blocks` in `keeps` passed over: A gives up what it holds, and
/// can't decide for whom.
#[test]
fn a_source_keeps_what_it_holds_while_the_block_of_another_is_damaged() {
    for durable in [false, true] {
        for host in [B, C] {
            let (mut world, mut a, mut b) = prepared();
            if !durable {
                (world, b) = asked();
                a = world.hand_over(A, 1, b.me);
            }
            world.blocks.insert(id(host), damage());
            let outcome = world.end(&mut a);
            let Outcome::Blocked(Blocker { host: found, hold, .. }) = outcome else { panic!("{outcome:?}") };
            assert_eq!((a.operation.leaves(&outcome), found, hold), (KEPT, id(host), Hold::Damaged));
            // B knows what it wrote.
            world.blocks.remove(&id(C));
            if host == B {
                world.until(&mut b, asks);
                world.step(&mut b);
            }
            let again = world.hand_over(A, 1, b.me);
            assert_eq!(world.finish(again), handed_over(2));
            assert_eq!(world.end(&mut b), held(2));
        }
    }
}

/// Before the handover, after phase 1, and after the proposal. Tried: rule `DamagedIsNotEmpty` out of
/// force.
#[test]
fn a_damaged_block_of_the_source_is_written_anew() {
    for steps in 0..3 {
        let (mut world, mut a, mut b) = match steps {
            0 => {
                let (world, b) = asked();
                let a = world.hand_over(A, 1, b.me);
                (world, a, b)
            }
            1 => prepared(),
            _ => proposed(),
        };
        world.blocks.insert(id(A), damage());
        assert_eq!(world.end(&mut a), handed_over(2), "{steps}");
        assert_eq!(world.end(&mut b), held(2));
        world.is_blocked_by(C, B);
    }
}

/// What the proposal said is lost. Tried: rule `DamagedIsNotEmpty` out of force: C owns what may have been decided for
/// B.
#[test]
fn the_damaged_block_of_a_source_that_died_with_its_proposal_is_burned() {
    let (mut world, _, mut b) = proposed();
    world.blocks.insert(id(A), damage());
    world.dies(A);
    assert!(matches!(world.end(&mut b), Outcome::Refused(Refusal::NotHandedOver { .. })));
    assert!(world.take(C) > Version::new(2));
}

/// Tried: rule `OnlyWhatIsHandedOver` out of force.
#[test]
fn who_waits_to_be_handed_a_resource_does_not_take_what_is_released_or_left_by_the_dead() {
    for dies in [false, true] {
        let (mut world, mut b) = asked();
        match dies {
            true => world.dies(A),
            false => world.give_back(A),
        }
        let version = Version::new(1);
        assert_eq!(world.end(&mut b), Outcome::Refused(Refusal::NotHandedOver { version }));
        world.take(C);
    }
}

/// It is in everybody's way, and only its host may write it. Tried: `announce` looks again whatever is damaged: C waits
/// for B, which waits for A.
#[test]
fn who_waits_to_be_handed_what_is_shared_writes_its_damaged_block_again() {
    let mut world = World::new();
    world.share(A);
    let mut b = world.receive(B);
    world.until(&mut b, |effect| matches!(effect, Effect::Wait(..)));
    world.blocks.insert(id(B), damage());
    world.step(&mut b);
    world.until(&mut b, |effect| matches!(effect, Effect::Wait(..)));
    assert!(world.view().bad_blocks().next().is_none());
    world.share(C);
}

/// Tried: `alone` in `hand_over` is true.
#[test]
fn what_is_shared_is_not_handed_over() {
    let mut world = World::new();
    world.share(A);
    let before = world.view();
    let a = world.hand_over(A, 1, owner(B, 1));
    assert_eq!(a.outcome(), Some(&Outcome::Refused(Refusal::NotAlone)));
    assert_eq!(a.operation.leaves(a.outcome().unwrap()), After::Held(LeaseMode::Shared));
    assert_eq!(world.view(), before);
}

/// The flag would stand in a block of a version that A doesn't own. Tried: the refusal in `convert` left out: B, who
/// takes by force, passes over what A shares.
#[test]
fn what_was_to_be_handed_over_is_not_shared_and_can_be_handed_over_again() {
    let (mut world, mut a, mut b) = prepared();
    world.calls_off(&mut a);
    let before = world.view();
    let shared = world.convert(A, LeaseMode::Shared, false);
    let outcome = shared.outcome().unwrap();
    assert_eq!((shared.operation.leaves(outcome), outcome), (KEPT, &Outcome::Refused(Refusal::HandoverBegun)));
    assert_eq!(world.view(), before);
    let a = world.hand_over(A, 1, b.me);
    assert_eq!(world.finish(a), handed_over(2));
    assert_eq!(world.end(&mut b), held(2));
}

/// A holds on: the leader may be repaired. Tried: what a source holds is taken back like what an acquire claims
/// (`refuse_or_end`): C gets it while A goes on.
#[test]
fn a_source_keeps_what_it_holds_when_it_finds_the_leader_damaged() {
    for durable in [false, true] {
        let (mut world, mut a, b) = prepared();
        if !durable {
            world = asked().0;
            a = world.hand_over(A, 1, b.me);
        }
        world.leader_is_damaged = true;
        let outcome = world.end(&mut a);
        assert!(matches!(outcome, Outcome::Refused(Refusal::LeaderDamaged(_))), "{outcome:?}");
        assert_eq!(a.operation.leaves(&outcome), KEPT);
        world.leader_is_damaged = false;
        keeps(&mut world, A);
    }
}

/// B took it from A, who has not seen that yet. C, whom B hands it over to, would know nothing of A. Tried: without a
/// word the ballot is run again and again.
#[test]
fn what_was_taken_by_force_is_not_handed_over_while_its_former_owner_may_act() {
    let mut world = World::new();
    world.take(A);
    assert_eq!(world.takes_as(B, forced(1)), Version::new(2));
    let mut c = world.receive(C);
    world.until(&mut c, asks);
    world.step(&mut c);
    let mut b = world.hand_over(B, 2, c.me);
    let shown = world.blocks.clone();
    let outcome = world.end(&mut b);
    assert!(matches!(&outcome, Outcome::Blocked(blocker) if blocker.owner == Some(owner(A, 1))), "{outcome:?}");
    // What shows A that it was taken stays.
    assert_eq!(world.blocks, shown);
    assert_eq!(b.operation.leaves(&outcome), KEPT);
    world.give_back(A);
    let b = world.hand_over(B, 2, c.me);
    assert_eq!(world.finish(b), handed_over(3));
    assert_eq!(world.end(&mut c), held(3));
}

/// C completes what A proposed, and waits for B, whose writes may fail. Tried: B's block does not say that B holds what
/// the leader shows when it runs the next version: C is not kept from that. And: B takes its own ballot for a sign that
/// it gave that up (`gave_up` and `open` in `turn`).
#[test]
fn a_destination_that_another_host_has_made_owner_is_not_overtaken() {
    for failing in 0..3 {
        let (mut world, mut a, mut b) = proposed();
        let mut c = world.acquire(C, true);
        world.until(&mut c, writes_leader);
        world.step(&mut c);
        assert_eq!(world.end(&mut a), handed_over(2));
        for write in 0..2 {
            world.until(&mut b, |effect| matches!(effect, Effect::WriteBlock(..)));
            match b.effect {
                Effect::WriteBlock(round, _) if write + 1 == failing => {
                    let late = Late(b.me.host, b.effect.clone());
                    world.land(late);
                    world.report(&mut b, round, Event::Wrote { disk: 0, written: Written::Failed });
                }
                _ => world.step(&mut b),
            }
            // In the last case C doesn't look, and completes nothing of what B has begun.
            let looks = if failing == 2 { 0 } else { 20 };
            for _ in 0..looks {
                world.step(&mut c);
                assert!(!matches!(c.effect, Effect::Done(_)), "{:?}", c.effect);
            }
        }
        assert!(matches!(world.end(&mut b), Outcome::Held(_)));
    }
}

/// The versions that a destination gave up are its own: passing over them takes nothing from anybody. Tried: they are
/// run as free ones: A is overtaken, and B does not own what it took.
#[test]
fn who_gave_up_what_it_asked_for_takes_the_resource_by_force_from_the_version_that_it_knows() {
    let (mut world, mut b) = asked();
    assert!(matches!(world.calls_off(&mut b), Outcome::Blocked(_)));
    let mut b = world.acquire_as(B, forced(1));
    let outcome = world.end(&mut b);
    assert!(matches!(outcome, Outcome::Held(_)), "{outcome:?}");
    assert_eq!(b.operation.overridden().iter().copied().collect::<Vec<_>>(), [owner(A, 1)]);
}

/// The write of the proposal fails, and B looks while A runs the ballot anew. Tried: A's block says nothing of what it
/// held (`says_it_holds`): B takes nothing and withdraws.
#[test]
fn a_destination_waits_while_the_source_proposes_it_again() {
    let (mut world, mut a, mut b) = prepared();
    world.until(&mut a, writes_phase_2);
    let Effect::WriteBlock(round, _) = a.effect else { panic!("{:?}", a.effect) };
    world.report(&mut a, round, Event::Wrote { disk: 0, written: Written::Failed });
    world.until(&mut a, |effect| matches!(effect, Effect::WriteBlock(..)));
    world.step(&mut a);
    for _ in 0..20 {
        world.step(&mut b);
        assert!(!matches!(b.effect, Effect::Done(_)), "{:?}", b.effect);
    }
    assert_eq!(world.end(&mut a), handed_over(2));
    assert_eq!(world.end(&mut b), held(2));
}

/// B was handed version 2 and has not looked yet. C has given up what it had asked for, and passes over that; or it
/// passes over what a damaged block may have held. Tried: only what the leader shows and what an owner's own block says
/// is in the way (`handed_over` in `holders`): C owns the next version.
#[test]
fn what_was_handed_over_is_not_passed_over() {
    for damaged in [false, true] {
        let (mut world, mut b) = asked();
        let mut c = world.receive(C);
        world.until(&mut c, asks);
        world.step(&mut c);
        assert!(matches!(world.calls_off(&mut c), Outcome::Blocked(_)));
        let mut a = world.hand_over(A, 1, b.me);
        assert_eq!(world.end(&mut a), handed_over(2));
        if damaged {
            world.leaves(D);
            world.blocks.insert(id(D), damage());
        }
        world.is_blocked_by(C, B);
        let Outcome::Held(version) = world.end(&mut b) else { panic!("{:?}", b.effect) };
        world.give_back(B);
        assert!(world.take(C) > version);
    }
}

/// What B gave up was handed to C, who is gone. Tried: B passes over it, also after phase 1
/// (`begun` in `plan`, `passes_over`): it takes from version 1 what is at 2.
#[test]
fn who_gave_up_what_another_was_handed_finds_another_version_than_it_knows() {
    let (mut world, mut b) = asked();
    let mut c = world.receive(C);
    world.until(&mut c, asks);
    world.step(&mut c);
    let a = world.hand_over(A, 1, c.me);
    assert_eq!(world.finish(a), handed_over(2));
    world.leaves(C);
    world.calls_off(&mut b);
    let b = world.acquire_as(B, forced(1));
    let found = Version::new(2);
    assert_eq!(world.finish(b), Outcome::Refused(Refusal::VersionChanged { found }));
}

/// Two wait; A makes one of them the owner, who has not looked yet. Tried: who isn't made owner is refused because
/// nobody seems to be in the way.
#[test]
fn who_is_not_chosen_waits_for_the_one_who_is() {
    let (mut world, mut b) = asked();
    let mut c = world.receive(C);
    world.until(&mut c, asks);
    world.step(&mut c);
    let mut a = world.hand_over(A, 1, b.me);
    world.until(&mut a, writes_phase_2);
    world.step(&mut a);
    for _ in 0..20 {
        world.step(&mut c);
        assert!(!matches!(c.effect, Effect::Done(_)), "{:?}", c.effect);
    }
    assert_eq!(world.end(&mut a), handed_over(2));
    assert_eq!(world.end(&mut b), held(2));
    world.until(&mut c, asks);
    world.step(&mut c);
    let b = world.hand_over(B, 2, c.me);
    assert_eq!(world.finish(b), handed_over(3));
    assert_eq!(world.end(&mut c), held(3));
}
