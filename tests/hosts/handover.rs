//! Handing a lease over while both hosts run: what each side is told, what is held then, and what becomes of it when
//! either gives up or dies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use leasehold::disk::{Op, Plan};
use leasehold::format::Block;
use leasehold::{
    AcquireError, ConvertError, Destination, Handover, HandoverError, JoinOptions, Lease, LeaseMode, LossReason,
    Membership, Notice, PrepareError, Resource, Wait,
};

use super::common::answers::AtOnce;
use super::common::memory::{Scene, steady};
use super::common::{PATIENCE, id, until, until_some};

const LONG: Wait = Wait::For(PATIENCE);

/// Host 1 holds `demo`, and host 2 asks for it while `work` goes on with its lease and what host 2 is told.
fn with_destination<T>(scene: &Scene, work: impl FnOnce(Lease, Answer<'_>) -> T) -> T {
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let destination = scene.other(2);
    thread::scope(|scope| {
        let (asking, resource) = (&destination, &scene.resource);
        let answer = scope.spawn(move || asking.receive(resource, LONG));
        work(lease, Answer { destination: &destination, answer })
    })
}

struct Answer<'scope> {
    destination: &'scope Membership,
    answer: ScopedJoinHandle<'scope, Result<Lease, AcquireError>>,
}

#[test]
fn the_destination_owns_the_next_version_and_the_source_nothing() {
    let scene = Scene::new();
    with_destination(&scene, |lease, Answer { answer, .. }| {
        let held = lease.version();
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        assert!(lease.is_held() && to.version > held, "{to:?}");
        assert_eq!(lease.destinations().unwrap(), std::slice::from_ref(&to));
        assert!(!answer.is_finished(), "before it was made the owner");
        let handover = lease.hand_over(to, LONG).unwrap();
        let received = answer.join().unwrap().unwrap();
        assert_eq!(received.version(), handover.version());
        assert!(received.version() > held && received.is_held());
        handover.finish(LONG).unwrap();
        match scene.membership.try_acquire(&scene.resource) {
            Err(AcquireError::Held { holder, .. }) => assert_eq!(holder.host, id(2)),
            answer => panic!("{answer:?}"),
        }
        received.release().unwrap();
        scene.membership.acquire(&scene.resource, LONG).unwrap().release().unwrap();
    });
}

#[test]
fn the_source_is_told_who_asks_once() {
    let (sender, told) = channel();
    let scene = Scene::with(steady(), || {
        let sender = sender.clone();
        JoinOptions::new().on_notice(move |notice| drop(sender.send(notice.clone())))
    });
    with_destination(&scene, |lease, Answer { destination, answer }| {
        let Notice::HandoverAsked { from, name, resource, held } = told.recv_timeout(PATIENCE).unwrap() else {
            panic!("another notice")
        };
        assert_eq!((from, resource, held), (destination.owner(), lease.resource().name(), lease.version()));
        assert!(name.is_some());
        // Long enough for several looks.
        thread::sleep(scene.membership.lockspace().timeouts().renewal() * 6);
        assert_eq!(told.try_iter().count(), 0);
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        lease.hand_over(to, LONG).unwrap();
        answer.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn nobody_is_handed_what_nobody_holds() {
    let scene = Scene::new();
    let other = scene.other(2);
    match other.receive(&scene.resource, LONG) {
        Err(AcquireError::NotHandedOver { .. }) => {}
        answer => panic!("{answer:?}"),
    }
    // And it keeps nobody away.
    scene.membership.try_acquire(&scene.resource).unwrap().release().unwrap();
}

#[test]
fn who_waits_to_be_handed_a_lease_does_not_take_it_when_it_is_released() {
    let scene = Scene::new();
    with_destination(&scene, |lease, Answer { answer, .. }| {
        lease.prepare_handover(id(2), LONG).unwrap();
        lease.release().unwrap();
        match answer.join().unwrap() {
            Err(AcquireError::NotHandedOver { .. }) => {}
            answer => panic!("{answer:?}"),
        }
    });
}

#[test]
fn a_lease_is_prepared_only_for_who_asks_and_only_if_it_is_held_alone() {
    let scene = Scene::new();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    match lease.prepare_handover(id(2), Wait::For(Duration::from_millis(60))) {
        Err(PrepareError::NotAsked { to, .. }) => assert_eq!(to, id(2)),
        answer => panic!("{answer:?}"),
    }
    lease.convert(LeaseMode::Shared, LONG).unwrap();
    match lease.prepare_handover(id(2), LONG) {
        Err(PrepareError::Shared { .. }) => {}
        answer => panic!("{answer:?}"),
    }
    assert!(lease.is_held());
    lease.release().unwrap();
}

#[test]
fn a_destination_that_gives_up_leaves_the_lease_with_the_source_and_may_ask_again() {
    let scene = Scene::new();
    let destination = scene.other(2);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let held = lease.version();
    let prepared = AtomicBool::new(false);
    let to = thread::scope(|scope| {
        scope.spawn(|| asks_until(&destination, &scene.resource, || prepared.load(Ordering::SeqCst)));
        let to = lease.prepare_handover(id(2), LONG);
        prepared.store(true, Ordering::SeqCst);
        to.unwrap()
    });
    let lease = match lease.hand_over(to, LONG) {
        Err(HandoverError::NotAsked { lease, .. }) => lease,
        answer => panic!("{answer:?}"),
    };
    assert!(lease.is_held() && lease.version() == held);
    thread::scope(|scope| {
        let answer = scope.spawn(|| destination.receive(&scene.resource, LONG));
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        let handover = lease.hand_over(to, LONG).unwrap();
        let received = answer.join().unwrap().unwrap();
        assert_eq!(received.version(), handover.version());
        handover.finish(LONG).unwrap();
        received.release().unwrap();
    });
    assert_acquires(&scene.membership, &scene.resource);
}

/// Asks to be handed the resource for a short time, and gives up; again and again until it is `enough`.
#[track_caller]
fn asks_until(destination: &Membership, resource: &Resource, enough: impl Fn() -> bool) {
    until("enough of it", || {
        let answer = destination.receive(resource, Wait::For(Duration::from_millis(300))).unwrap_err();
        // The next attempt waits until this one has given up.
        enough() && !matches!(answer, AcquireError::Unknown { .. })
    });
}

#[test]
fn a_handover_that_hangs_before_the_proposal_is_kept_and_after_it_is_not_known() {
    let scene = Scene::new();
    with_destination(&scene, |lease, Answer { answer, .. }| {
        let held = lease.version();
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        let lease = hangs_before_the_proposal(&scene, lease, &to);
        assert!(lease.is_held() && lease.version() == held);
        scene.thaw();
        let handover = hand_over_again(lease, &to);
        let received = answer.join().unwrap().unwrap();
        assert_eq!(received.version(), handover.version());
        handover.finish(LONG).unwrap();
        received.release().unwrap();
    });
}

/// A handover whose first write, which says what is still held, hangs for longer than the caller waits; again where a
/// busy machine did not get as far as that.
#[track_caller]
fn hangs_before_the_proposal(scene: &Scene, lease: Lease, to: &Destination) -> Lease {
    scene.hold_writes(scene.block_at(1));
    let mut kept = Some(lease);
    until("the write that hangs", || {
        let lease = kept.take().unwrap();
        match lease.hand_over(to.clone(), Wait::For(Duration::from_millis(300))) {
            Err(HandoverError::Kept { lease, .. }) => kept = Some(lease),
            answer => panic!("{answer:?}"),
        }
        scene.path.held() > 0
    });
    kept.unwrap()
}

/// Until what is in the way is done: what the first attempt left, or a former owner.
fn hand_over_again(mut lease: Lease, to: &Destination) -> Handover {
    loop {
        lease = match lease.hand_over(to.clone(), LONG) {
            Err(HandoverError::Kept { lease, .. }) => lease,
            answer => return answer.unwrap(),
        };
    }
}

#[test]
fn a_begun_handover_can_not_be_shared_but_released() {
    let scene = Scene::new();
    with_destination(&scene, |lease, Answer { answer, .. }| {
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        let lease = hangs_before_the_proposal(&scene, lease, &to);
        scene.thaw();
        until("what the handover left to do is done", || match lease.convert(LeaseMode::Shared, LONG) {
            Err(ConvertError::Unknown { .. }) => false,
            Err(ConvertError::HandoverBegun { .. }) => true,
            answer => panic!("{answer:?}"),
        });
        assert!(lease.is_held() && lease.mode() == LeaseMode::Exclusive);
        lease.release().unwrap();
        assert!(matches!(answer.join().unwrap(), Err(AcquireError::NotHandedOver { .. })));
    });
    assert_acquires(&scene.membership, &scene.resource);
}

#[test]
fn a_destination_that_dies_with_what_it_was_handed_is_taken_over_as_any_owner() {
    let scene = Scene::brief();
    let dying = scene.other(2);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let version = thread::scope(|scope| {
        let answer = scope.spawn(|| dying.receive(&scene.resource, LONG));
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        let handover = lease.hand_over(to, LONG).unwrap();
        std::mem::forget(answer.join().unwrap().unwrap());
        handover.version()
    });
    drop(dying);
    let again = scene.membership.acquire(&scene.resource, LONG).unwrap();
    assert!(again.version() > version);
    again.release().unwrap();
}

#[test]
fn a_lease_that_was_taken_by_force_is_not_handed_over() {
    let scene = Scene::new();
    with_destination(&scene, |lease, Answer { answer, .. }| {
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        let taker = scene.other(3);
        let taken = taker.take(&scene.resource, lease.version(), LONG).unwrap();
        match lease.hand_over(to, LONG) {
            Err(HandoverError::Lost(LossReason::Fenced(by))) => assert_eq!(by.version, taken.lease.version()),
            answer => panic!("{answer:?}"),
        }
        // The destination waits for the one who has it now, and that one for its former owner to be through.
        let to = taken.lease.prepare_handover(id(2), LONG).unwrap();
        hand_over_again(taken.lease, &to).finish(LONG).unwrap();
        answer.join().unwrap().unwrap().release().unwrap();
    });
}

/// Holds back what host 1 writes to its block to propose host 2. In what it writes before, it says what it still holds.
fn hold_the_proposal(scene: &Scene) {
    let at = scene.block_at(1);
    scene.path.set_rule(move |request| match &request.op {
        Op::Write { data } if request.offset == at => {
            let proposed = Block::decode(data, at).unwrap().inp;
            if proposed.is_some_and(|owner| owner.host == id(2)) { Plan::Hold } else { Plan::Pass }
        }
        _ => Plan::Pass,
    });
}

/// A handover whose proposal hangs for longer than the caller waits; again where a busy machine did not get as far as
/// that, or the destination asks anew.
#[track_caller]
fn unknown(scene: &Scene, lease: Lease) -> Handover {
    hold_the_proposal(scene);
    let mut kept = Some(lease);
    until_some("the proposal", || {
        let lease = kept.take().unwrap();
        let to = lease.prepare_handover(id(2), LONG).unwrap();
        match lease.hand_over(to, Wait::For(Duration::from_millis(200))) {
            Err(HandoverError::Unknown { handover }) => return Some(handover),
            Err(HandoverError::Kept { lease, .. } | HandoverError::NotAsked { lease, .. })
                if scene.path.held() == 0 =>
            {
                kept = Some(lease);
            }
            answer => panic!("{answer:?}"),
        }
        None
    })
}

#[test]
fn what_became_of_a_proposal_that_hung_is_found_out() {
    let scene = Scene::new();
    with_destination(&scene, |lease, Answer { answer, .. }| {
        let held = lease.version();
        let handover = unknown(&scene, lease);
        assert!(handover.version() > held);
        assert!(!answer.is_finished(), "nothing of the proposal was there to see");
        let handover = match handover.finish(Wait::No) {
            Err(HandoverError::Unconfirmed { handover }) => handover,
            answer => panic!("{answer:?}"),
        };
        scene.thaw();
        let received = answer.join().unwrap().unwrap();
        assert_eq!(received.version(), handover.version());
        handover.finish(LONG).unwrap();
        received.release().unwrap();
    });
}

#[test]
fn a_destination_that_withdraws_while_it_is_proposed_leaves_the_resource_to_the_source() {
    let scene = Scene::new();
    let destination = scene.other(2);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let held = lease.version();
    hold_the_proposal(&scene);
    let again = thread::scope(|scope| {
        scope.spawn(|| {
            asks_until(&destination, &scene.resource, || scene.path.held() > 0);
            scene.thaw();
        });
        let mut kept = Some(lease);
        until_some("the end of the handover", || {
            let lease = kept.take().unwrap();
            let to = lease.prepare_handover(id(2), LONG).unwrap();
            match lease.hand_over(to, LONG) {
                Err(HandoverError::TakenBack { lease }) => Some(lease),
                // It had just given up, and asks anew.
                Err(HandoverError::NotAsked { lease, .. }) if scene.path.held() == 0 => {
                    kept = Some(lease);
                    None
                }
                answer => panic!("{answer:?}"),
            }
        })
    });
    assert!(again.version() > held && again.is_held());
    again.release().unwrap();
    assert_acquires(&destination, &scene.resource);
}

#[test]
fn what_was_stopped_does_not_go_on_when_another_host_has_had_the_resource() {
    let scene = Scene::new();
    let [destination, third] = scene.others([2, 3]);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let handover = thread::scope(|scope| {
        let asking = scope.spawn(|| asks_until(&destination, &scene.resource, || scene.path.held() > 0));
        let handover = unknown(&scene, lease);
        asking.join().unwrap();
        scene.thaw();
        handover
    });
    let between = third.acquire(&scene.resource, LONG).unwrap();
    let version = between.version();
    between.release().unwrap();
    match handover.finish(LONG) {
        Err(HandoverError::Passed { by, .. }) => assert_eq!((by.owner, by.version), (Some(third.owner()), version)),
        answer => panic!("{answer:?}"),
    }
    assert_acquires(&scene.membership, &scene.resource);
}

#[test]
fn a_source_whose_membership_ends_prepares_nothing() {
    let scene = Scene::brief();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    thread::scope(|scope| {
        let prepared = scope.spawn(|| lease.prepare_handover(id(2), LONG));
        // Nothing is renewed from now on.
        scene.path.set_rule(|request| if request.is_write() { Plan::Hold } else { Plan::Pass });
        match prepared.join().unwrap() {
            Err(PrepareError::Lost(_)) => {}
            answer => panic!("{answer:?}"),
        }
    });
    scene.thaw();
}

#[track_caller]
fn assert_acquires(membership: &Membership, resource: &Resource) {
    membership.acquire(resource, LONG).unwrap().release().unwrap();
}
