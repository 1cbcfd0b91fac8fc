//! Conversions whose writes hang: what is answered, what is held, and that nothing is left that nobody manages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use leasehold::disk::Plan;
use leasehold::{AcquireError, ConvertError, JoinOptions, Lease, LeaseMode, LossReason, ReleaseError, Status, Wait};

use super::{release, together};
use crate::common::answers::{shared, sharers};
use crate::common::memory::Scene;
use crate::common::{PATIENCE, until};

/// What a conversion answers that is not waited for long; again where a busy machine did not get as far as the write.
fn convert(lease: &Lease, to: LeaseMode) -> Result<(), ConvertError> {
    let mut answer = Ok(());
    until("the write of a conversion", || {
        answer = lease.convert(to, Wait::For(Duration::from_millis(20)));
        !matches!(answer, Err(ConvertError::NotAcquired(AcquireError::TimedOut { .. })))
    });
    answer
}

#[track_caller]
fn unknown(answer: Result<(), ConvertError>) {
    assert!(matches!(answer, Err(ConvertError::Unknown { .. })), "{answer:?}");
}

#[test]
fn conversions_whose_writes_hang() {
    together!(
        a_conversion_to_shared_whose_write_hangs_ends_shared,
        a_lease_that_is_lost_during_a_conversion_stays_lost_and_is_released,
        a_conversion_to_exclusive_whose_ballot_hangs_stays_shared,
        a_conversion_to_exclusive_whose_flag_hangs_is_lost_and_leaves_nothing,
        a_lease_that_is_dropped_while_a_conversion_hangs_is_released,
    );
}

fn a_conversion_to_shared_whose_write_hangs_ends_shared() {
    let scene = Scene::new();
    let [second, third] = scene.others([2, 3]);
    let lease = scene.membership.acquire(&scene.resource, Wait::No).unwrap();
    let version = lease.version();
    scene.hold_writes(scene.block_at(1));
    unknown(convert(&lease, LeaseMode::Shared));
    assert_eq!((lease.mode(), lease.version()), (LeaseMode::Shared, version));
    scene.thaw();
    let other = second.acquire(&scene.resource, shared(Wait::For(PATIENCE))).unwrap();
    assert!(lease.is_held());
    assert_eq!(sharers(third.acquire(&scene.resource, Wait::No).unwrap_err()), [1, 2]);
    // The next conversion waits for what the first one left to do.
    release(other);
    lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
    release(lease);
}

/// For F nobody could tell whether it was taken by force: it is lost, and stays lost when the write lands.
fn a_lease_that_is_lost_during_a_conversion_stays_lost_and_is_released() {
    let scene = Scene::new();
    let other = scene.other(2);
    let lease = scene.membership.acquire(&scene.resource, Wait::No).unwrap();
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
    scene.membership.leave().unwrap();
}

fn a_conversion_to_exclusive_whose_ballot_hangs_stays_shared() {
    let scene = Scene::new();
    let other = scene.other(2);
    let lease = scene.membership.acquire(&scene.resource, shared(Wait::No)).unwrap();
    let version = lease.version();
    scene.hold_writes(scene.block_at(1));
    unknown(convert(&lease, LeaseMode::Exclusive));
    assert_eq!((lease.mode(), lease.version()), (LeaseMode::Shared, version));
    // One that waits for the first in vain changes nothing, and gives nothing up.
    unknown(convert(&lease, LeaseMode::Exclusive));
    assert!(lease.is_held());
    scene.thaw();
    assert_eq!(sharers(other.acquire(&scene.resource, Wait::No).unwrap_err()), [1]);
    lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
    release(lease);
    release(other.acquire(&scene.resource, Wait::No).unwrap());
}

/// Whether it was dropped can't be told, so it is neither held shared nor, at a version that was not answered, alone.
fn a_conversion_to_exclusive_whose_flag_hangs_is_lost_and_leaves_nothing() {
    for releases in [true, false] {
        let (sender, told) = channel();
        let options = JoinOptions::new().on_lease_loss(move |loss| drop(sender.send(loss.clone())));
        let scene = Scene::with_options(options);
        let other = scene.other(2);
        let lease = scene.membership.acquire(&scene.resource, shared(Wait::No)).unwrap();
        let version = lease.version();
        let (leader, block, led) = (scene.leader_at(), scene.block_at(1), AtomicBool::new(false));
        scene.path.set_rule(move |request| {
            led.fetch_or(request.is_write() && request.offset == leader, Ordering::SeqCst);
            let flag = request.is_write() && request.offset == block && led.load(Ordering::SeqCst);
            if flag { Plan::Hold } else { Plan::Pass }
        });
        let answer = convert(&lease, LeaseMode::Exclusive);
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
    }
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
        assert!(other.acquire(&scene.resource, Wait::No).is_err());
        scene.thaw();
        release(other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap());
        until("the end of the membership", || scene.membership.leave().is_ok());
    }
}
