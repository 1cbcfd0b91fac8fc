//! A lockspace in memory, and a host whose path to it misbehaves as told.

use std::sync::Arc;
use std::time::Duration;

use leasehold::disk::{BootClock, Clock, FaultDisk, ManualClock, MemoryDisk, Plan};
use leasehold::{FormatOptions, JoinOptions, Lockspace, Membership, Resource, Time, Timeouts, Wait, format};

use super::{PATIENCE, id, until_some};

/// A lockspace in memory with the resource `demo`, and one host whose path to it can be made to fail.
pub(crate) struct Scene {
    pub(crate) disk: MemoryDisk,
    pub(crate) path: Arc<FaultDisk>,
    pub(crate) membership: Membership,
    pub(crate) resource: Resource,
}

/// A boot-time clock that suspends move on: waits stand still meanwhile.
#[derive(Debug)]
pub(crate) struct Suspended(ManualClock);

impl Suspended {
    pub(crate) fn new() -> Suspended {
        Suspended(ManualClock::new(Time::ZERO))
    }

    /// The machine has slept for so long.
    pub(crate) fn suspend(&self, span: Duration) {
        self.0.advance(span);
    }
}

impl Clock for Suspended {
    fn now(&self) -> Time {
        BootClock.now() + self.0.now().since(Time::ZERO)
    }
}

/// A disk with an empty lockspace.
pub(crate) fn formatted(timeouts: Timeouts) -> MemoryDisk {
    let disk = MemoryDisk::new(8 << 20, None);
    format(Arc::new(disk.reopen()), &FormatOptions { timeouts, ..FormatOptions::default() }).unwrap();
    disk
}

/// A disk with a lockspace that has the resource `demo` and no host.
pub(crate) fn with_resource(timeouts: Timeouts) -> (MemoryDisk, Resource) {
    let disk = formatted(timeouts);
    let membership = join(&Lockspace::open(Arc::new(disk.reopen())).unwrap(), JoinOptions::new);
    let resource = membership.create("demo", Wait::For(PATIENCE)).unwrap();
    membership.leave().unwrap();
    (disk, resource)
}

/// The path of one host, on which all goes well until it is told otherwise.
pub(crate) fn path_to(disk: &MemoryDisk) -> Arc<FaultDisk> {
    Arc::new(FaultDisk::new(Arc::new(disk.reopen())))
}

/// Holds back every write to the sector at `at`.
pub(crate) fn hold_writes(path: &FaultDisk, at: u64) {
    path.set_rule(move |request| if request.is_write() && request.offset == at { Plan::Hold } else { Plan::Pass });
}

/// What was held back lands, and nothing is held back any more.
pub(crate) fn thaw(path: &FaultDisk) {
    path.clear_rule();
    path.release();
}

/// A sector of 512 bytes, past all hosts.
pub(crate) fn sector(disk: &MemoryDisk, at: u64) -> Vec<u8> {
    let mut sector = Vec::new();
    edit_sector(disk, at, |bytes| sector = bytes.to_vec());
    sector
}

/// Changes a sector of 512 bytes, past all hosts.
pub(crate) fn edit_sector(disk: &MemoryDisk, at: u64, change: impl FnOnce(&mut [u8])) {
    disk.edit(|bytes| change(&mut bytes[at as usize..][..512]));
}

/// A busy machine costs nobody a lease. A join takes no longer for it.
pub(crate) fn steady() -> Timeouts {
    super::timeouts([50, 200, 20_000, 300, 20_300])
}

/// For who waits until something is lost, a host is dead, or an answer comes though a write hangs.
pub(crate) fn brief() -> Timeouts {
    super::timeouts([50, 200, 4_000, 300, 4_400])
}

/// A membership, as [`super::join`].
#[track_caller]
pub(crate) fn join(lockspace: &Lockspace, options: impl Fn() -> JoinOptions) -> Membership {
    super::join(lockspace, options).unwrap()
}

/// A host of a machine of its own, where hosts are dead only after longer than any test lasts; again while this one is
/// too busy for it. An attempt that failed may have left its host's record, which the next one would have to wait out:
/// so that is taken away.
#[track_caller]
pub(crate) fn join_anew(disk: &MemoryDisk, lockspace: &Lockspace, host: u64) -> Membership {
    let at = lockspace.geometry().delta_offset(id(host));
    let before = sector(disk, at);
    until_some("a join", || {
        let options = JoinOptions::new().host_id(id(host)).machine(&format!("machine {host}"));
        let joined = lockspace.join(options).ok();
        if joined.is_none() {
            edit_sector(disk, at, |bytes| bytes.copy_from_slice(&before));
        }
        joined
    })
}

impl Scene {
    /// Host 1 is the one with the path.
    pub(crate) fn new() -> Scene {
        Scene::with(steady(), JoinOptions::new)
    }

    pub(crate) fn brief() -> Scene {
        Scene::with(brief(), JoinOptions::new)
    }

    pub(crate) fn with(timeouts: Timeouts, options: impl Fn() -> JoinOptions) -> Scene {
        let disk = formatted(timeouts);
        let path = path_to(&disk);
        let membership = join(&Lockspace::open(path.clone()).unwrap(), || options().host_id(id(1)));
        let resource = membership.create("demo", Wait::For(PATIENCE)).unwrap();
        Scene { disk, path, membership, resource }
    }

    /// Another host, with a path of its own on which all goes well.
    pub(crate) fn other(&self, host: u64) -> Membership {
        let lockspace = Lockspace::open(Arc::new(self.disk.reopen())).unwrap();
        join(&lockspace, || JoinOptions::new().host_id(id(host)))
    }

    /// Other hosts, which join at the same time.
    pub(crate) fn others<const N: usize>(&self, hosts: [u64; N]) -> [Membership; N] {
        std::thread::scope(|scope| {
            hosts.map(|host| scope.spawn(move || self.other(host))).map(|joining| joining.join().unwrap())
        })
    }

    pub(crate) fn leader_at(&self) -> u64 {
        self.resource.offset()
    }

    pub(crate) fn block_at(&self, host: u64) -> u64 {
        self.resource.offset() + self.membership.lockspace().geometry().block_offset(id(host))
    }

    /// Where the resource's area is.
    pub(crate) fn area(&self) -> std::ops::Range<u64> {
        self.leader_at()..self.leader_at() + self.membership.lockspace().geometry().area_bytes()
    }

    /// Holds back every write to the sector at `at`.
    pub(crate) fn hold_writes(&self, at: u64) {
        hold_writes(&self.path, at);
    }

    pub(crate) fn thaw(&self) {
        thaw(&self.path);
    }
}
