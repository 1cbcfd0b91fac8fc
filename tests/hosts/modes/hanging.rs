//! Conversions whose writes hang: what is answered, what is held, and that nothing is left that nobody manages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use leasehold::disk::Plan;
use leasehold::{ConvertError, JoinOptions, LeaseMode, LossReason, ReleaseError, Status, Wait};

use super::{convert, release, together};
use crate::common::answers::{AtOnce, shared, sharers};
use crate::common::memory::{Scene, steady};
use crate::common::{PATIENCE, until};

#[track_caller]
fn unknown(answer: Result<(), ConvertError>) {
    assert!(matches!(answer, Err(ConvertError::Unknown { .. })), "{answer:?}");
}

#[test]
fn conversions_whose_writes_hang() {
    together!(
        a_conversion_to_shared_whose_write_hangs_ends_shared,
        a_lease_that_is_lost_during_a_conversion_stays_lost_and_is_released,
        a_conversion_that_has_waited_for_one_by_which_the_lease_was_lost_does_not_succeed,
        a_conversion_to_exclusive_whose_ballot_hangs_stays_shared,
        a_conversion_to_exclusive_whose_flag_hangs_is_lost_and_leaves_nothing,
        a_lease_that_is_dropped_while_a_conversion_hangs_is_released,
    );
}

fn a_conversion_to_shared_whose_write_hangs_ends_shared() {
    let scene = Scene::new();
    let [second, third] = scene.others([2, 3]);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let version = lease.version();
    scene.hold_writes(scene.block_at(1));
    unknown(convert(&lease, LeaseMode::Shared));
    assert_eq!((lease.mode(), lease.version()), (LeaseMode::Shared, version));
    scene.thaw();
    let other = second.acquire(&scene.resource, shared(Wait::For(PATIENCE))).unwrap();
    assert!(lease.is_held());
    assert_eq!(sharers(third.try_acquire(&scene.resource).unwrap_err()), [1, 2]);
    // The next conversion waits for what the first one left to do.
    release(other);
    lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
    release(lease);
}

/// For F nobody could tell whether it was taken by force: it is lost, and stays lost when the write lands.
fn a_lease_that_is_lost_during_a_conversion_stays_lost_and_is_released() {
    let scene = Scene::brief();
    let other = scene.other(2);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    scene.hold_writes(scene.block_at(1));
    let answer = lease.convert(LeaseMode::Shared, Wait::No);
    assert!(matches!(answer, Err(ConvertError::Lost(LossReason::Unverified { .. }))), "{answer:?}");
    scene.thaw();
    // Nobody answers the loss: the engine itself releases it after G.
    let after = other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
    assert_eq!(lease.status(), Status::Lost { reason: LossReason::Unverified { cause: None } });
    assert!(!matches!(scene.membership.status(), Status::Lost { .. }));
    release(after);
    drop(lease);
    until("the end of the membership", || scene.membership.leave().is_ok());
}

fn a_conversion_that_has_waited_for_one_by_which_the_lease_was_lost_does_not_succeed() {
    let scene = Scene::brief();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    scene.hold_writes(scene.block_at(1));
    unknown(convert(&lease, LeaseMode::Shared));
    let answer = thread::scope(|scope| {
        let waiting = scope.spawn(|| lease.convert(LeaseMode::Shared, Wait::For(PATIENCE)));
        until("the loss", || matches!(lease.status(), Status::Lost { .. }));
        scene.thaw();
        waiting.join().unwrap()
    });
    assert!(matches!(answer, Err(ConvertError::Lost(LossReason::Unverified { .. }))), "{answer:?}");
}

fn a_conversion_to_exclusive_whose_ballot_hangs_stays_shared() {
    let scene = Scene::brief();
    let other = scene.other(2);
    let lease = scene.membership.try_share(&scene.resource).unwrap();
    let version = lease.version();
    scene.hold_writes(scene.block_at(1));
    unknown(convert(&lease, LeaseMode::Exclusive));
    assert_eq!((lease.mode(), lease.version()), (LeaseMode::Shared, version));
    // One that waits for the first in vain changes nothing, and gives nothing up.
    unknown(convert(&lease, LeaseMode::Exclusive));
    assert!(lease.is_held());
    scene.thaw();
    assert_eq!(sharers(other.try_acquire(&scene.resource).unwrap_err()), [1]);
    lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
    release(lease);
    release(other.try_acquire(&scene.resource).unwrap());
}

/// Whether it was dropped can't be told, so it is neither held shared nor, at a version that was not answered, alone.
fn a_conversion_to_exclusive_whose_flag_hangs_is_lost_and_leaves_nothing() {
    let run = |releases| {
        let (sender, told) = channel();
        let scene = Scene::with(steady(), || {
            let sender = sender.clone();
            JoinOptions::new().on_lease_loss(move |loss| drop(sender.send(loss.clone())))
        });
        let other = scene.other(2);
        let lease = scene.membership.try_share(&scene.resource).unwrap();
        let version = lease.version();
        let (leader, block, led) = (scene.leader_at(), scene.block_at(1), AtomicBool::new(false));
        scene.path.set_rule(move |request| {
            led.fetch_or(request.is_write() && request.offset == leader, Ordering::SeqCst);
            let flag = request.is_write() && request.offset == block && led.load(Ordering::SeqCst);
            if flag { Plan::Hold } else { Plan::Pass }
        });
        // If that were over before the leader is written, what is undone would hang instead.
        let answer = lease.convert(LeaseMode::Exclusive, Wait::For(Duration::from_secs(2)));
        assert!(matches!(answer, Err(ConvertError::Lost(LossReason::Unverified { .. }))), "{answer:?}");
        let loss = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!((loss.version, loss.reason), (version, LossReason::Unverified { cause: None }));
        scene.thaw();
        if releases {
            let answer = lease.release();
            assert!(matches!(answer, Err(ReleaseError::Lost(LossReason::Unverified { .. }))), "{answer:?}");
        } else {
            drop(lease);
        }
        release(other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap());
        until("the end of the membership", || scene.membership.leave().is_ok());
        assert!(told.try_recv().is_err());
    };
    thread::scope(|scope| [true, false].map(|releases| scope.spawn(move || run(releases))).map(drop));
}

fn a_lease_that_is_dropped_while_a_conversion_hangs_is_released() {
    for (from, to) in [(LeaseMode::Exclusive, LeaseMode::Shared), (LeaseMode::Shared, LeaseMode::Exclusive)] {
        let scene = Scene::new();
        let other = scene.other(2);
        let options = leasehold::AcquireOptions::new().mode(from);
        let lease = scene.membership.acquire(&scene.resource, options).unwrap();
        scene.hold_writes(scene.block_at(1));
        unknown(convert(&lease, to));
        drop(lease);
        assert!(other.try_acquire(&scene.resource).is_err());
        scene.thaw();
        release(other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap());
        until("the end of the membership", || scene.membership.leave().is_ok());
    }
}
