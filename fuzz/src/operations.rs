//! What two hosts do on one device, in any order, each on a path of its own that fails as the fuzzer says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leasehold::disk::{Disk, Fault, FaultDisk, Lane, MemoryDisk, Plan};
use leasehold::{
    AcquireError, CreateError, DiskCause, DiskError, FindError, FormatOptions, HostId, JoinError, JoinOptions, Lease,
    Lockspace, Membership, Name, OpenError, Version, Wait,
};

use super::input::Input;
use super::records::{LOCKSPACE, timeouts};

const NAMES: [&str; 2] = ["a", "b"];
const STEPS: usize = 24;
const SECTOR: usize = 512;
/// EIO.
const ERRNO: i32 = 5;

struct Host {
    id: HostId,
    path: Arc<FaultDisk>,
    /// A create is under way.
    creating: Arc<AtomicBool>,
    membership: Option<Membership>,
    leases: BTreeMap<usize, Lease>,
}

struct World {
    disk: MemoryDisk,
    hosts: [Host; 2],
    /// The fuzzer has written to the device itself. What is promised then is no more than that nothing panics.
    damaged: bool,
    /// A write failed, or was held back.
    faulty: bool,
    created: [bool; 2],
    latest: [Version; 2],
}

fn formatted() -> Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let disk = Arc::new(MemoryDisk::new(5 << 20, None));
        let options = FormatOptions {
            name: LOCKSPACE.into(),
            timeouts: timeouts(),
            max_resources: Some(8),
            ..FormatOptions::default()
        };
        leasehold::format(disk.clone(), &options).expect("memory can be formatted");
        disk.bytes()
    };
    IMAGE.get_or_init(make).clone()
}

/// Without damage, whatever the order and whatever becomes of single writes: at most one host holds a resource,
/// versions grow, and nobody complains of damage.
pub fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = MemoryDisk::with_bytes(formatted(), None);
    let host = |id| {
        let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
        let id = HostId::new(id).expect("an id");
        Host { id, path, creating: Arc::default(), membership: None, leases: BTreeMap::new() }
    };
    let hosts = [host(1), host(2)];
    let mut world =
        World { disk, hosts, damaged: false, faulty: false, created: [false; 2], latest: [Version::default(); 2] };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    for host in &mut world.hosts {
        host.path.clear_rule();
        host.path.release();
        host.leases.clear();
        host.membership = None;
        host.path.release();
    }
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let host = usize::from(what >> 7);
        let resource = usize::from(what >> 6 & 1);
        match what & 15 {
            0..=3 => self.acquire(host, resource, Wait::No),
            4 => self.acquire(host, resource, Wait::For(Duration::from_millis(10))),
            5 | 6 => {
                if let Some(lease) = self.hosts[host].leases.remove(&resource) {
                    // A loss is an answer too.
                    let _ = lease.release();
                }
            }
            7 => drop(self.hosts[host].leases.remove(&resource)),
            8 => self.join(host),
            9 => {
                if let Some(membership) = &self.hosts[host].membership {
                    let left = membership.leave().is_ok();
                    assert!(!left || self.hosts[host].leases.values().all(|lease| !lease.is_held()));
                }
            }
            // Killed, if it still holds something.
            10 => {
                self.hosts[host].membership = None;
                self.hosts[host].leases.clear();
            }
            11 => self.create(host, resource),
            12 | 13 => self.fault(host, input),
            14 => drop(self.hosts[host].path.release()),
            _ => match input.byte() {
                0..128 => self.look(),
                _ => self.damage(input),
            },
        }
    }

    /// I/O fails only where it was made to, or on a machine that is too busy for it.
    fn explains(&self, error: &DiskError) {
        let busy = matches!(error.cause, DiskCause::TimedOut(_) | DiskCause::TooLate);
        assert!(busy || self.damaged || self.faulty, "{error}: {}", error.cause);
    }

    fn join(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        if host.membership.as_ref().is_some_and(|it| matches!(it.status(), leasehold::Status::Held { .. })) {
            return;
        }
        host.leases.clear();
        host.membership = None;
        let lockspace = match Lockspace::open(host.path.clone()) {
            Ok(lockspace) => lockspace,
            Err(OpenError::Disk(error)) => return self.explains(&error),
            Err(error) => return assert!(self.damaged || self.faulty, "{error}"),
        };
        let name = format!("host-{number}");
        let options = JoinOptions::new().host_id(host.id).host_name(&name).machine(&name);
        match lockspace.join(options) {
            Ok(membership) => host.membership = Some(membership),
            Err(error @ (JoinError::Damaged(_) | JoinError::Foreign { .. } | JoinError::TooLarge { .. })) => {
                assert!(self.damaged, "{error}");
            }
            Err(JoinError::Disk(error)) => self.explains(&error),
            Err(error @ JoinError::System { .. }) => assert!(self.damaged || self.faulty, "{error}"),
            Err(_) => {}
        }
    }

    fn acquire(&mut self, number: usize, resource: usize, wait: Wait) {
        let host = &self.hosts[number];
        let Some(membership) = &host.membership else { return };
        let offset = (3 + resource as u64) << 20;
        let Ok(place) = membership.lockspace().resource_at(NAMES[resource], offset) else { return };
        match membership.acquire(&place, wait) {
            Ok(lease) => {
                let version = lease.version();
                let other = self.hosts[1 - number].leases.get(&resource);
                if !self.damaged {
                    assert!(
                        !lease.is_held() || other.is_none_or(|other| !other.is_held()),
                        "both hold {}: {lease:?} {other:?}",
                        NAMES[resource]
                    );
                    assert!(version > self.latest[resource], "version {version} after {}", self.latest[resource]);
                }
                self.latest[resource] = version;
                self.hosts[number].leases.insert(resource, lease);
            }
            // Before it is created.
            Err(AcquireError::Damaged(_)) if !self.created[resource] => {}
            // The other name was created there.
            Err(AcquireError::Foreign { .. }) => {}
            Err(
                error @ (AcquireError::Damaged(_)
                | AcquireError::BlockDamaged { .. }
                | AcquireError::BlockChanged { .. }
                | AcquireError::Deleted { .. }
                | AcquireError::Exhausted { .. }
                | AcquireError::HostIdTooLarge { .. }),
            ) => assert!(self.damaged, "{error}"),
            Err(AcquireError::Disk(error)) => self.explains(&error),
            Err(_) => {}
        }
    }

    fn create(&mut self, number: usize, resource: usize) {
        let Some(membership) = &self.hosts[number].membership else { return };
        self.hosts[number].creating.store(true, Ordering::SeqCst);
        let created = membership.create(NAMES[resource], Wait::No);
        self.hosts[number].creating.store(false, Ordering::SeqCst);
        match created {
            Ok(place) => {
                let at_home = place.offset() == (3 + resource as u64) << 20;
                self.created[resource] |= at_home;
                let found = Lockspace::open(Arc::new(self.disk.reopen()))
                    .map_err(|error| error.to_string())
                    .and_then(|lockspace| lockspace.find(NAMES[resource]).map_err(|error| error.to_string()));
                assert!(self.damaged || found == Ok(place), "{found:?}");
            }
            Err(CreateError::Index(error @ FindError::Damaged(_))) => assert!(self.damaged, "{error}"),
            Err(CreateError::Disk(error)) => self.explains(&error),
            Err(_) => {}
        }
    }

    /// One of the next writes on a path goes wrong: a renewal, or another one.
    fn fault(&mut self, number: usize, input: &mut Input<'_>) {
        self.faulty = true;
        let (skip, how) = (input.below(8), input.byte());
        let lane = if how & 4 == 0 { Lane::General } else { Lane::Renewal };
        let (seen, creating) = (AtomicUsize::new(0), self.hosts[number].creating.clone());
        self.hosts[number].path.set_rule(move |request| {
            if !request.is_write() || request.lane != lane || seen.fetch_add(1, Ordering::SeqCst) != skip {
                return Plan::Pass;
            }
            let fault = || Fault::errno("writing", ERRNO);
            // A create waits for the write of an area for longer than a run may take.
            match how & if creating.load(Ordering::SeqCst) { 1 } else { 3 } {
                0 => Plan::Fail(fault()),
                1 => Plan::DoThenFail(fault()),
                2 => Plan::Hold,
                _ => Plan::HoldReply,
            }
        });
    }

    fn look(&self) {
        let Ok(lockspace) = Lockspace::open(Arc::new(self.disk.reopen())) else {
            return assert!(self.damaged, "the lockspace can't be opened");
        };
        let hosts = lockspace.hosts(Duration::ZERO).expect("memory can be read");
        let resources = lockspace.resources();
        if self.damaged {
            return;
        }
        assert!(hosts.iter().all(|host| host.damage.is_none()), "{hosts:?}");
        let (resources, damages) = resources.expect("the index is good");
        assert!(damages.is_empty(), "{damages:?}");
        let mut names: Vec<Name> = resources.iter().map(|info| info.resource.name()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), resources.len(), "a name stands twice: {names:?}");
        for info in resources {
            // A create that was cut off leaves an entry only behind an area that is whole.
            assert!(info.ownership.is_ok() && info.damages.is_empty(), "{info:?}");
        }
    }

    fn damage(&mut self, input: &mut Input<'_>) {
        self.damaged = true;
        let sectors = self.disk.len() as usize / SECTOR;
        // Those at the start of an area are those in use.
        let at = match input.byte() {
            255 => usize::from(input.word()) % sectors,
            place => usize::from(place >> 5) % 5 * 2048 + usize::from(place & 31) % 6,
        };
        let bytes = input.bytes(16);
        self.disk.edit(|all| {
            let sector = &mut all[at * SECTOR..(at + 1) * SECTOR];
            match bytes {
                [] => sector.fill(0),
                [place, bytes @ ..] => {
                    let place = usize::from(*place);
                    sector[place..place + bytes.len()].copy_from_slice(bytes);
                }
            }
        });
    }
}
