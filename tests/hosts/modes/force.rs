//! A lease that is taken by force: its former owner learns of it, or has lost it by itself, and keeps others away until
//! what it protected must have stopped.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::disk::Plan;
use leasehold::{
    AcquireError, ConvertError, JoinOptions, Lease, LeaseLoss, LeaseMode, LossReason, Membership, ReleaseError, Status,
    Taken, Timeouts, Wait, stretched,
};

use super::{convert, release, together};
use crate::common::answers::{AtOnce, held_by};
use crate::common::memory::{Scene, brief, steady};
use crate::common::{PATIENCE, until};

/// Host 1 holds `demo` and `second`; and what it is told of leases that are lost.
struct Owner {
    scene: Scene,
    lease: Lease,
    second: Lease,
    told: Receiver<LeaseLoss>,
}

impl Owner {
    fn new() -> Owner {
        Owner::with(steady())
    }

    fn with(timeouts: Timeouts) -> Owner {
        let (sender, told) = channel();
        let scene = Scene::with(timeouts, || {
            let sender = sender.clone();
            // The test may have ended.
            JoinOptions::new().on_lease_loss(move |loss| drop(sender.send(loss.clone())))
        });
        let second = scene.membership.create("second", Wait::For(PATIENCE)).unwrap();
        let lease = scene.membership.try_acquire(&scene.resource).unwrap();
        let second = scene.membership.try_acquire(&second).unwrap();
        Owner { scene, lease, second, told }
    }

    /// Another host takes `demo`.
    #[track_caller]
    fn taken_by(&self, taker: &Membership) -> Lease {
        let Taken { lease, previous, .. } = taker.try_take(&self.scene.resource, self.lease.version()).unwrap();
        assert!(lease.version() > self.lease.version());
        let [(holder, bound)] = &previous[..] else { panic!("{previous:?}") };
        let owner = self.lease.owner();
        assert_eq!((holder.host, holder.generation), (owner.host, Some(owner.generation.get())));
        assert_eq!(holder.version, self.lease.version());
        let timeouts = self.scene.membership.lockspace().timeouts();
        let longest = stretched(timeouts.fail() + timeouts.fence());
        assert!(*bound > Duration::ZERO && *bound <= longest, "{bound:?}");
        lease
    }
}

#[track_caller]
fn lost(lease: &Lease) -> LossReason {
    let start = Instant::now();
    let mut status = lease.status();
    while start.elapsed() < PATIENCE {
        match status {
            Status::Lost { reason } => return reason,
            held => status = lease.status_change(&held, PATIENCE),
        }
    }
    panic!("{status:?}")
}

#[track_caller]
fn fenced_by(taker: &Lease, reason: &LossReason) {
    let LossReason::Fenced(by) = reason else { panic!("{reason:?}") };
    assert_eq!((by.owner, by.version), (Some(taker.owner()), taker.version()));
}

#[test]
fn leases_that_are_taken_by_force() {
    together!(
        the_wrong_version_changes_nothing,
        the_owner_learns_who_took_it_and_keeps_the_rest,
        a_lease_stays_lost_for_its_own_reason,
        a_loss_that_nobody_answers_keeps_others_away_for_the_fence_time,
        an_owner_that_can_not_look_has_lost_the_lease_and_its_late_write_changes_no_answer,
    );
}

fn the_wrong_version_changes_nothing() {
    let Owner { scene, lease, .. } = Owner::new();
    let other = scene.other(2);
    let area = || scene.disk.bytes()[scene.area().start as usize..scene.area().end as usize].to_vec();
    let before = area();
    for wrong in [lease.version().get() - 1, lease.version().get() + 1, 1 << 40] {
        match other.try_take(&scene.resource, leasehold::Version::new(wrong)) {
            Err(AcquireError::VersionChanged { found, .. }) => assert_eq!(found, lease.version()),
            answer => panic!("{answer:?}"),
        }
    }
    assert!(area() == before, "the area was written");
    release(lease);
}

fn the_owner_learns_who_took_it_and_keeps_the_rest() {
    let owner = Owner::new();
    let [taker, third] = owner.scene.others([2, 3]);
    let taken = owner.taken_by(&taker);
    let Owner { scene, lease, second, told } = owner;
    fenced_by(&taken, &lost(&lease));
    assert!(!lease.is_held() && lease.remaining() == Duration::ZERO);
    let loss = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((loss.resource, loss.version), (lease.resource().name(), lease.version()));
    fenced_by(&taken, &loss.reason);
    match lease.release() {
        Err(ReleaseError::Lost(reason)) => fenced_by(&taken, &reason),
        answer => panic!("{answer:?}"),
    }
    assert!(!matches!(scene.membership.status(), Status::Lost { .. }));
    assert!(second.is_held());
    held_by(&third, &scene.resource, 2);
    held_by(&scene.membership, &scene.resource, 2);
    // The former owner said that it has stopped: nobody waits for it.
    release(taken);
    release(third.try_acquire(&scene.resource).unwrap());
    release(second);
    let more = told.try_recv();
    assert!(more.is_err(), "{more:?}");
}

/// That the whole membership is lost afterwards changes nothing for it.
fn a_lease_stays_lost_for_its_own_reason() {
    let owner = Owner::with(brief());
    let taker = owner.scene.other(2);
    let taken = owner.taken_by(&taker);
    let Owner { scene, lease, second, .. } = owner;
    fenced_by(&taken, &lost(&lease));
    scene.hold_writes(0);
    assert!(matches!(lost(&second), LossReason::Expired { .. }));
    fenced_by(&taken, &lost(&lease));
    release(taken);
}

/// What it protected may run on for G after the loss: whoever comes after the taker waits for that.
fn a_loss_that_nobody_answers_keeps_others_away_for_the_fence_time() {
    let owner = Owner::new();
    let [taker, third] = owner.scene.others([2, 3]);
    let start = Instant::now();
    let taken = owner.taken_by(&taker);
    let Owner { scene, lease, .. } = owner;
    fenced_by(&taken, &lost(&lease));
    release(taken);
    let after = match third.try_acquire(&scene.resource) {
        Err(AcquireError::Held { holder, .. }) => {
            assert_eq!(holder.host, lease.owner().host);
            third.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap()
        }
        // It was over before this process came to look.
        answer => answer.unwrap(),
    };
    assert!(start.elapsed() >= steady().fence(), "{:?}", start.elapsed());
    // Not by its host's death.
    assert!(!matches!(scene.membership.status(), Status::Lost { .. }));
    release(after);

    // What is acquired anew is not given up with the lease that was lost before.
    let at = scene.block_at(1);
    scene.hold_writes(at);
    let again = std::thread::scope(|scope| {
        let acquiring = scope.spawn(|| scene.membership.acquire(&scene.resource, Wait::For(PATIENCE)));
        assert!(scene.path.wait_held(1, PATIENCE));
        drop(lease);
        scene.thaw();
        acquiring.join().unwrap().unwrap()
    });
    // A release that was begun would be over after the next operation on the resource.
    let renewals = || scene.membership.renewal_latencies().len();
    let before = renewals();
    until("two more renewals", || renewals() > before + 1);
    held_by(&third, &scene.resource, 1);
    release(again);
}

/// Its path hangs for that resource, and what it had begun to write lands when it is another's.
fn an_owner_that_can_not_look_has_lost_the_lease_and_its_late_write_changes_no_answer() {
    let owner = Owner::with(brief());
    let [taker, third] = owner.scene.others([2, 3]);
    let area = owner.scene.area();
    owner.scene.path.set_rule(move |request| if area.contains(&request.offset) { Plan::Hold } else { Plan::Pass });
    let Owner { scene, lease, second, told } = owner;
    let version = lease.version();
    let answer = convert(&lease, LeaseMode::Shared);
    assert!(matches!(answer, Err(ConvertError::Unknown { .. })), "{answer:?}");
    let owner = Owner { scene, lease, second, told };
    let taken = owner.taken_by(&taker);
    let Owner { scene, lease, second, told } = owner;
    assert_eq!(lost(&lease), LossReason::Unverified { cause: None });
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().reason, LossReason::Unverified { cause: None });
    assert!(second.is_held());
    scene.thaw();
    until("the end of what was held back", || scene.path.held() == 0);
    assert!(taken.is_held());
    held_by(&third, &scene.resource, 2);
    assert_eq!(lost(&lease), LossReason::Unverified { cause: None });
    assert_eq!(lease.version(), version);
    let answer = lease.release();
    assert!(matches!(answer, Err(ReleaseError::Lost(LossReason::Unverified { .. }))), "{answer:?}");
    release(taken);
    release(third.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap());
    release(second);
}
