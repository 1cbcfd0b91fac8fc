//! A lockspace in memory, and a host whose path to it misbehaves as told.

use std::sync::Arc;

use leasehold::disk::{FaultDisk, MemoryDisk, Plan};
use leasehold::{FormatOptions, HostId, JoinOptions, Lockspace, Membership, Resource, Timeouts, Wait, format};

/// A lockspace in memory with the resource `demo`, and one host whose path to it can be made to fail.
pub(crate) struct Scene {
    pub(crate) disk: MemoryDisk,
    pub(crate) path: Arc<FaultDisk>,
    pub(crate) membership: Membership,
    pub(crate) resource: Resource,
}

pub(crate) fn id(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

/// Of every scene.
pub(crate) fn timeouts() -> Timeouts {
    super::timeouts([50, 200, 2_000, 300, 2_400])
}

impl Scene {
    /// Host 1 is the one with the path.
    pub(crate) fn new() -> Scene {
        Scene::with_options(JoinOptions::new())
    }

    pub(crate) fn with_options(options: JoinOptions) -> Scene {
        let disk = MemoryDisk::new(8 << 20, None);
        format(Arc::new(disk.reopen()), &FormatOptions { timeouts: timeouts(), ..FormatOptions::default() }).unwrap();
        let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
        let membership = Lockspace::open(path.clone()).unwrap().join(options.host_id(id(1))).unwrap();
        let resource = membership.create("demo", Wait::For(super::PATIENCE)).unwrap();
        Scene { disk, path, membership, resource }
    }

    /// Another host, with a path of its own on which all goes well.
    pub(crate) fn other(&self, host: u64) -> Membership {
        let lockspace = Lockspace::open(Arc::new(self.disk.reopen())).unwrap();
        lockspace.join(JoinOptions::new().host_id(id(host))).unwrap()
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
        self.path
            .set_rule(move |request| if request.is_write() && request.offset == at { Plan::Hold } else { Plan::Pass });
    }

    pub(crate) fn thaw(&self) {
        self.path.clear_rule();
        self.path.release();
    }
}
