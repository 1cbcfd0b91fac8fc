//! The engine on a disk that misbehaves for one host: what it answers, and what becomes of it afterwards.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use leasehold::disk::{Fault, FaultDisk, MemoryDisk, Plan, Request};
use leasehold::{
    AcquireError, FormatOptions, HostId, JoinOptions, LeaveError, Lockspace, LossReason, Membership, Resource, Status,
    Timeouts, Wait, format,
};

/// For what must come at some time. Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(60);
const EIO: i32 = 5;

/// A lockspace in memory with the resource `demo`, and one host whose path to it can be made to fail.
struct Scene {
    disk: MemoryDisk,
    path: Arc<FaultDisk>,
    membership: Membership,
    resource: Resource,
}

fn id(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

fn timeouts() -> Timeouts {
    let ms = Duration::from_millis;
    Timeouts::new(ms(50), ms(200), ms(2_000), ms(1_000), ms(3_000)).unwrap()
}

impl Scene {
    /// Host 1 is the one with the path.
    fn new() -> Scene {
        Scene::with_options(JoinOptions::new())
    }

    fn with_options(options: JoinOptions) -> Scene {
        let disk = MemoryDisk::new(8 << 20, None);
        format(Arc::new(disk.reopen()), &FormatOptions { timeouts: timeouts(), ..FormatOptions::default() }).unwrap();
        let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
        let membership = Lockspace::open(path.clone()).unwrap().join(options.host_id(id(1))).unwrap();
        let resource = membership.create("demo", Wait::No).unwrap();
        Scene { disk, path, membership, resource }
    }

    /// Another host, with a path of its own on which all goes well.
    fn other(&self, host: u64) -> Membership {
        let lockspace = Lockspace::open(Arc::new(self.disk.reopen())).unwrap();
        lockspace.join(JoinOptions::new().host_id(id(host))).unwrap()
    }

    fn leader_at(&self) -> u64 {
        self.resource.offset()
    }

    fn block_at(&self, host: u64) -> u64 {
        self.resource.offset() + self.membership.lockspace().geometry().block_offset(id(host))
    }

    /// Holds back every write to the sector at `at`.
    fn hold_writes(&self, at: u64) {
        self.path
            .set_rule(move |request| if request.is_write() && request.offset == at { Plan::Hold } else { Plan::Pass });
    }

    fn thaw(&self) {
        self.path.clear_rule();
        self.path.release();
    }
}

fn covers(request: &Request, at: u64) -> bool {
    (request.offset..request.offset + request.len() as u64).contains(&at)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whatever write of an acquire hangs: the caller is told that the outcome is unknown, nobody else gets the resource in
/// between against the protocol, and once the write lands the engine gives the lease back.
#[test]
fn an_acquire_whose_write_hangs_is_unknown_and_is_given_back() {
    for part in [Scene::leader_at, |scene: &Scene| scene.block_at(1)] {
        let scene = Scene::new();
        let other = scene.other(2);
        scene.hold_writes(part(&scene));
        let answer = scene.membership.acquire(&scene.resource, Wait::For(Duration::from_millis(50)));
        assert!(matches!(answer, Err(AcquireError::Unknown { .. })), "{answer:?}");
        let again = scene.membership.acquire(&scene.resource, Wait::No);
        assert!(matches!(again, Err(AcquireError::AlreadyHeld { .. })), "{again:?}");
        scene.thaw();
        let taken = other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
        let version = taken.version();
        taken.release().unwrap();
        until("the end of the unfinished acquire", || {
            match scene.membership.acquire(&scene.resource, Wait::For(PATIENCE)) {
                Ok(lease) => lease.version() > version,
                Err(AcquireError::AlreadyHeld { .. }) => false,
                Err(error) => panic!("{error}"),
            }
        });
    }
}

#[test]
fn a_decided_lease_whose_leader_hangs_is_not_given_to_another() {
    let scene = Scene::new();
    let other = scene.other(2);
    scene.hold_writes(scene.leader_at());
    let answer = scene.membership.acquire(&scene.resource, Wait::No);
    assert!(matches!(answer, Err(AcquireError::Unknown { .. })), "{answer:?}");
    // It is decided for host 1, which lives: host 2 may commit that, and must respect it.
    match other.acquire(&scene.resource, Wait::No) {
        Err(AcquireError::Held { holder, .. }) => assert_eq!(holder.host, id(1)),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_renewal_that_hangs_is_told_as_late_and_then_lost_and_a_late_landing_revives_nothing() {
    let (sender, told) = channel();
    let scene = Scene::with_options(JoinOptions::new().on_status(move |status| {
        // The test may have ended.
        let _ = sender.send(status.clone());
    }));
    let lease = scene.membership.acquire(&scene.resource, Wait::No).unwrap();
    assert!(lease.is_held());
    scene.hold_writes(0);
    let mut seen = Vec::new();
    loop {
        let status = told.recv_timeout(PATIENCE).unwrap();
        seen.push(status.clone());
        if matches!(status, Status::Lost { .. }) {
            break;
        }
    }
    let end = &seen[seen.len() - 2..];
    assert!(matches!(end, [Status::Late { .. }, Status::Lost { reason: LossReason::Expired { .. } }]), "{seen:?}");
    assert!(!lease.is_held());
    assert_eq!(lease.remaining(), Duration::ZERO);
    scene.thaw();
    until("the renewal's end", || scene.path.held() == 0);
    assert!(matches!(scene.membership.status(), Status::Lost { .. }));
    assert!(matches!(scene.membership.acquire(&scene.resource, Wait::No), Err(AcquireError::Lost(_))));
    assert!(matches!(lease.release(), Err(leasehold::ReleaseError::Lost(LossReason::Expired { .. }))));
    // Lost is lost: nothing was released on disk, so the lease is taken over only when the host counts as dead.
    let other = scene.other(2);
    assert!(matches!(other.acquire(&scene.resource, Wait::No), Err(AcquireError::Held { .. })));
    other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
}

#[test]
fn a_read_of_the_own_record_that_is_slower_than_the_io_timeout_loses_nothing() {
    let scene = Scene::new();
    let slow = timeouts().io() + timeouts().io() / 2;
    scene.path.set_rule(move |request| match request.lane {
        leasehold::disk::Lane::Renewal if !request.is_write() => Plan::Delay(slow),
        _ => Plan::Pass,
    });
    let before = scene.membership.renewal_latencies().len();
    until("slow renewals", || scene.membership.renewal_latencies().len() >= before + 5);
    assert!(!matches!(scene.membership.status(), Status::Lost { .. }));
}

#[test]
fn a_host_id_is_not_given_back_while_a_write_is_in_flight() {
    let scene = Scene::new();
    scene.hold_writes(0);
    assert!(scene.path.wait_held(1, PATIENCE));
    // The renewal hangs, so leaving can only stop it; it must neither hang for longer nor write a release.
    let left = scene.membership.leave();
    assert!(matches!(left, Err(LeaveError::InFlight { .. } | LeaveError::Lost(_))), "{left:?}");
    scene.thaw();
    let hosts = Lockspace::open(Arc::new(scene.disk.reopen())).unwrap().hosts(Duration::ZERO).unwrap();
    assert_ne!(hosts[0].timestamp, 0, "{hosts:?}");
}

#[test]
fn a_foreign_record_in_the_own_sector_is_the_loss_of_everything() {
    let scene = Scene::new();
    let lease = scene.membership.acquire(&scene.resource, Wait::No).unwrap();
    let record = || {
        let mut record = Vec::new();
        scene.disk.edit(|bytes| record = bytes[..512].to_vec());
        record
    };
    let old = record();
    until("the next renewal", || record() != old);
    // A renewal that has read already writes over it: until one reads it.
    until("the loss", || {
        scene.disk.edit(|bytes| bytes[..512].copy_from_slice(&old));
        !lease.is_held()
    });
    assert!(matches!(lease.status(), Status::Lost { reason: LossReason::Overwritten { .. } }), "{:?}", lease.status());
}

/// One bad sector fails the read of all: it is found, and the rest is read.
#[test]
fn a_sector_that_cannot_be_read_keeps_nobody_from_the_resource_when_its_host_is_gone() {
    let scene = Scene::new();
    let other = scene.other(2);
    let version = other.acquire(&scene.resource, Wait::No).unwrap().version();
    let at = scene.block_at(2);
    scene.path.set_rule(move |request| match !request.is_write() && covers(request, at) {
        true => Plan::Fail(Fault::errno("reading", EIO)),
        false => Plan::Pass,
    });
    // The lease was dropped, and host 2 lives: its block may hold anything.
    match scene.membership.acquire(&scene.resource, Wait::No) {
        Err(AcquireError::BlockDamaged { holder, damage, .. }) => {
            assert_eq!((holder.host, damage.offset), (id(2), at));
        }
        answer => panic!("{answer:?}"),
    }
    until("the release of the dropped lease", || other.leave().is_ok());
    let lease = scene.membership.acquire(&scene.resource, Wait::No).unwrap();
    assert!(lease.version() > version.after(1), "what the lost block may have decided is passed over");
}

#[test]
fn a_cancelled_join_ends_at_once_and_another_succeeds() {
    static SLOW: OnceLock<Timeouts> = OnceLock::new();
    let minute = Duration::from_secs(60);
    let slow = SLOW.get_or_init(|| Timeouts::new(minute, minute, minute * 4, minute, minute * 5).unwrap());
    let disk = MemoryDisk::new(8 << 20, None);
    format(Arc::new(disk.reopen()), &FormatOptions { timeouts: *slow, ..FormatOptions::default() }).unwrap();
    let lockspace = Lockspace::open(Arc::new(disk)).unwrap();
    let start = Instant::now();
    let joining = lockspace.start_join(JoinOptions::new().host_id(id(1))).unwrap();
    until("the join's write", || lockspace.hosts(Duration::ZERO).unwrap().iter().any(|host| host.host == id(1)));
    assert!(!joining.is_done(), "a join waits 2T");
    joining.cancel();
    assert!(start.elapsed() < minute, "a cancelled join does not wait");
    // The lock went with it, so the id can be tried again; it will have to be waited for, and is cancelled in turn.
    let again = lockspace.start_join(JoinOptions::new().host_id(id(1))).unwrap();
    assert!(!again.is_done());
    again.cancel();
}
