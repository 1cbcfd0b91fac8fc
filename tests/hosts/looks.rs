//! Areas that are wiped, made again or set back under those who hold a resource; leaders that are set back.

use std::time::Duration;

use leasehold::disk::{Fault, Plan};
use leasehold::format::Leader;
use leasehold::{AcquireError, LeaseMode, LossReason, ReleaseError, Status, Version, Wait};
use rustix::io::Errno;

use crate::common::answers::{AtOnce, shared};
use crate::common::memory::{Scene, edit_sector, sector};
use crate::common::{PATIENCE, until};

impl Scene {
    /// The leader is that of another state of the resource.
    fn sets_leader_back(&self, change: impl FnOnce(Leader) -> Leader) {
        let at = self.leader_at();
        let leader = Leader::decode(&sector(&self.disk, at), at).unwrap();
        edit_sector(&self.disk, at, |bytes| bytes.copy_from_slice(&change(leader).encode(at)));
    }

    /// As whoever makes a resource who knows nothing of those that hold it.
    fn makes_area_again(&self) {
        let (area, at) = (self.area(), self.leader_at());
        let leader = Leader::decode(&sector(&self.disk, at), at).unwrap();
        let made = Leader { version: Version::new(0), owner: None, timestamp: 0, ..leader };
        self.disk.edit(|bytes| {
            bytes[area.start as usize..area.end as usize].fill(0);
            bytes[at as usize..][..512].copy_from_slice(&made.encode(at));
        });
    }
}

/// The one that holds it learns why. What it gives back takes nothing from the one that came since.
#[test]
fn scenario_51_an_area_that_is_made_again_ends_what_is_held_there() {
    for mode in [LeaseMode::Exclusive, LeaseMode::Shared] {
        let scene = Scene::new();
        let other = scene.other(2);
        // So that the versions which come next are earlier ones.
        (0..3).for_each(|_| scene.membership.try_acquire(&scene.resource).unwrap().release().unwrap());
        let options = shared(Wait::No).mode(mode);
        let lease = scene.membership.acquire(&scene.resource, options).unwrap();
        scene.makes_area_again();
        let taken = other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
        assert!(taken.version() < lease.version());
        until("the loss", || !lease.is_held());
        assert_eq!(lease.status(), Status::Lost { reason: LossReason::BlockErased });
        assert!(lease.status() != scene.membership.status(), "nothing else is lost");
        assert!(matches!(lease.release(), Err(ReleaseError::Lost(LossReason::BlockErased))));
        // Not given back over what the other one has.
        assert_eq!(sector(&scene.disk, scene.block_at(1)), [0; 512]);
        taken.release().unwrap();
        let next = scene.membership.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
        assert!(next.is_held());
    }
}

/// As most programs do it, which have no use for an error then.
#[test]
fn scenario_51_a_lease_that_is_dropped_because_its_area_was_made_again_takes_nothing_from_the_next_one() {
    let scene = Scene::new();
    let other = scene.other(2);
    (0..3).for_each(|_| scene.membership.try_acquire(&scene.resource).unwrap().release().unwrap());
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    scene.makes_area_again();
    let taken = other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
    until("the loss", || !lease.is_held());
    drop(lease);
    // When its place is free again, what it gave back has been written.
    until("the release", || {
        !matches!(scene.membership.try_acquire(&scene.resource), Err(AcquireError::AlreadyHeld { .. }))
    });
    assert_eq!(sector(&scene.disk, scene.block_at(1)), [0; 512]);
    assert!(taken.is_held());
}

#[test]
fn scenario_51_an_own_block_that_is_set_back_is_the_loss_of_the_lease_and_of_no_other() {
    let scene = Scene::new();
    let other = scene.other(2);
    let elsewhere = scene.membership.create("elsewhere", Wait::For(PATIENCE)).unwrap();
    let beside = scene.membership.try_acquire(&elsewhere).unwrap();
    scene.membership.try_acquire(&scene.resource).unwrap().release().unwrap();
    let before = sector(&scene.disk, scene.block_at(1));
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    edit_sector(&scene.disk, scene.block_at(1), |bytes| bytes.copy_from_slice(&before));
    until("the loss", || !lease.is_held());
    assert_eq!(lease.status(), Status::Lost { reason: LossReason::BlockReplaced });
    // The engine gives it back, though nobody does: the leader still names this host.
    other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
    assert!(beside.is_held());
}

/// What a write that lands late says of the leader does not end a healthy program.
#[test]
fn an_owner_writes_its_leader_again() {
    let scene = Scene::new();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    // An owner that has never seen its leader does not know that its ballot judged everybody, nor when it was written.
    let leader = || {
        let leader = Leader::decode(&sector(&scene.disk, scene.leader_at()), scene.leader_at()).ok()?;
        Some((leader.version, leader.owner, leader.cleared, leader.is_free()))
    };
    let right = leader().unwrap();
    let is_right = || leader().as_ref() == Some(&right);
    let changes: [fn(Leader) -> Leader; 3] = [
        |leader| Leader { version: Version::new(0), owner: None, timestamp: 0, ..leader },
        |leader| Leader { cleared: true, ..leader },
        |leader| Leader { timestamp: 0, ..leader },
    ];
    for change in changes {
        scene.sets_leader_back(change);
        until("the leader", is_right);
    }
    edit_sector(&scene.disk, scene.leader_at(), |bytes| bytes[3] ^= 0x55);
    until("the leader", is_right);
    edit_sector(&scene.disk, scene.leader_at(), |bytes| bytes.fill(0));
    until("the leader", is_right);
    assert!(lease.is_held());
    lease.release().unwrap();
}

/// Nor does one that can't write it hold on for ever.
#[test]
fn an_owner_that_cannot_write_its_leader_again_loses_the_lease_after_f() {
    let scene = Scene::brief();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let leader = scene.leader_at();
    scene.path.set_rule(move |request| match request.is_write() && request.offset == leader {
        true => {
            // So most of the time a look has read the leader, and its write has not failed yet.
            std::thread::sleep(Duration::from_millis(150));
            Plan::Fail(Fault::errno("writing", Errno::IO.raw_os_error()))
        }
        false => Plan::Pass,
    });
    scene.sets_leader_back(|leader| Leader { version: Version::new(0), owner: None, timestamp: 0, ..leader });
    until("the loss", || !lease.is_held());
    let Status::Lost { reason: LossReason::Unverified { cause } } = lease.status() else {
        panic!("{:?}", lease.status())
    };
    assert!(cause.unwrap().write, "it says what failed");
    assert!(!matches!(scene.membership.status(), Status::Lost { .. }));
}

/// Its flag is looked at all along, and its ballot does not set it again.
#[test]
fn a_wiped_area_ends_what_is_shared_while_it_waits_to_be_exclusive() {
    let scene = Scene::new();
    let other = scene.other(2);
    let beside = other.try_share(&scene.resource).unwrap();
    let lease = scene.membership.try_share(&scene.resource).unwrap();
    std::thread::scope(|scope| {
        let converting = scope.spawn(|| lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)));
        std::thread::sleep(Duration::from_millis(200));
        let area = scene.area();
        scene.disk.edit(|bytes| bytes[area.start as usize..area.end as usize].fill(0));
        let answer = converting.join().unwrap();
        assert!(matches!(answer, Err(leasehold::ConvertError::Lost(LossReason::BlockErased))), "{answer:?}");
    });
    until("the other loss", || !beside.is_held());
    assert_eq!(beside.status(), Status::Lost { reason: LossReason::BlockErased });
}
