//! Formatting a device that has, or had, a lockspace.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use leasehold::disk::{Fault, FaultDisk, MemoryDisk, Plan};
use leasehold::format::{AreaSize, DeltaRecord, SectorSize};
use leasehold::{
    AcquireError, Finding, FormatError, FormatOptions, JoinOptions, Lease, Lockspace, LossReason, Membership,
    OpenError, RepairOptions, Status, Wait, format,
};

use crate::common::memory::{Scene, brief, edit_sector, formatted, join, path_to, sector, steady, thaw, with_resource};
use crate::common::{PATIENCE, id, timeouts, until, until_some};

fn again(disk: &MemoryDisk, options: FormatOptions) -> Result<Lockspace, FormatError> {
    format(Arc::new(disk.reopen()), &FormatOptions { force: true, ..options })
}

fn generation(disk: &MemoryDisk, host: u64) -> u64 {
    DeltaRecord::decode(&sector(disk, (host - 1) * 512), (host - 1) * 512).unwrap().generation
}

/// Nothing that the former owner has in flight says anything in the new lockspace, whenever it lands.
#[test]
fn what_hosts_of_the_former_lockspace_write_late_counts_for_nothing() {
    let scene = Scene::brief();
    let lease = scene.membership.acquire(&scene.resource, Wait::No).unwrap();
    let version = lease.version();
    scene.path.set_rule(|request| if request.is_write() { Plan::Hold } else { Plan::Pass });
    // Its renewal, and its release.
    let releasing = std::thread::spawn(move || lease.release());
    let block = scene.block_at(1);
    until("the release", || scene.path.held() > 1);
    let options = FormatOptions { timeouts: brief(), ..FormatOptions::default() };
    let lockspace = until_some("a format", || match again(&scene.disk, options.clone()) {
        Ok(lockspace) => Some(lockspace),
        Err(FormatError::InUse { host, .. }) if host == id(1) => None,
        Err(error) => panic!("{error}"),
    });
    let host = join(&lockspace, || JoinOptions::new().host_id(id(2)));
    let demo = host.create("demo", Wait::For(PATIENCE)).unwrap();
    assert_eq!(demo.offset(), scene.resource.offset());
    let lease = host.acquire(&demo, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
    thaw(&scene.path);
    assert!(releasing.join().unwrap().is_err());
    until("the end of the former host", || matches!(scene.membership.status(), Status::Lost { .. }));
    let found = || {
        let findings = lockspace.examine().unwrap();
        findings.into_iter().find(|finding| matches!(finding, Finding::HostRecord { host, .. } if *host == id(1)))
    };
    let record = until_some("the late renewal", found);
    assert!(record.damages()[0].reason.to_string().contains("another formatting"), "{record:?}");
    assert!(sector(&scene.disk, block).iter().any(|byte| *byte != 0), "the release has landed");
    // The owner goes on, and so does whoever comes after it: what has landed is repaired, or passed over.
    assert!(matches!(lease.status(), Status::Held { .. } | Status::Late { .. }));
    host.repair(&record, RepairOptions { wait: Wait::For(PATIENCE), fenced: false }).unwrap();
    lease.release().unwrap();
    let lease = host.acquire(&demo, Wait::For(PATIENCE)).unwrap();
    lease.release().unwrap();
    host.leave().unwrap();
}

#[test]
fn a_format_that_was_interrupted_anywhere_is_done_again() {
    for number in 0.. {
        // Whoever formats again what was interrupted watches for D.
        let timeouts = timeouts([50, 100, 500, 100, 600]);
        let disk = formatted(timeouts);
        let lockspace = Lockspace::open(Arc::new(disk.reopen())).unwrap();
        let (at, before) = (4 * 512, 7);
        edit_sector(&disk, at, |bytes| {
            let free = DeltaRecord::decode(bytes, at).unwrap();
            bytes.copy_from_slice(&DeltaRecord { owner_id: 5, generation: before, ..free }.encode(at));
        });
        let path = FaultDisk::new(Arc::new(disk.reopen()));
        let writes = AtomicUsize::new(0);
        path.set_rule(move |request| match request.is_write() && writes.fetch_add(1, Ordering::Relaxed) == number {
            true => Plan::Fail(Fault::Os { doing: "writing", source: Arc::new(io::ErrorKind::Other.into()) }),
            false => Plan::Pass,
        });
        let options = FormatOptions { timeouts, ..FormatOptions::default() };
        match format(Arc::new(path), &FormatOptions { force: true, ..options.clone() }) {
            Ok(_) => {
                assert!(number > 8, "only {number} writes");
                return;
            }
            Err(FormatError::Disk(_)) => {}
            Err(error) => panic!("write {number}: {error}"),
        }
        // What is there was not formatted to the end; or its host records were hardly touched.
        match Lockspace::open(Arc::new(disk.reopen())) {
            Err(OpenError::Incomplete { .. }) => {}
            Ok(former) => assert!(former.nonce() == lockspace.nonce() && number < 3, "write {number}"),
            Err(error) => panic!("write {number}: {error}"),
        }
        // One that watches nobody would not know who may live.
        let plain = format(Arc::new(disk.reopen()), &options).unwrap_err();
        assert!(matches!(plain, FormatError::Exists { .. }), "write {number}: {plain}");
        again(&disk, options).unwrap();
        assert!(generation(&disk, 5) > before, "write {number}");
        assert_eq!(generation(&disk, 6), 0, "write {number}: it was never used");
    }
}

/// Host records of the former lockspace may stand where the new one has something else.
#[test]
fn a_lockspace_of_other_sizes_is_replaced() {
    let disk = MemoryDisk::new(32 << 20, None);
    let sizes =
        [(SectorSize::B4096, AreaSize::M8), (SectorSize::B512, AreaSize::M1), (SectorSize::B4096, AreaSize::M2)];
    for (sector, area) in sizes {
        let options = FormatOptions {
            timeouts: steady(),
            sector_size: Some(sector),
            area_size: Some(area),
            ..FormatOptions::default()
        };
        let lockspace = again(&disk, options).unwrap();
        assert_eq!((lockspace.geometry().sector(), lockspace.geometry().area()), (sector, area));
        let highest = lockspace.geometry().max_hosts();
        let host = join(&lockspace, || JoinOptions::new().host_id(id(highest)));
        let demo = host.create("demo", Wait::For(PATIENCE)).unwrap();
        host.acquire(&demo, Wait::No).unwrap().release().unwrap();
        host.leave().unwrap();
        assert!(lockspace.examine().unwrap().is_empty());
    }
}

/// A host that is about to join reads its record before it is overwritten, and writes it after that.
#[test]
fn a_host_that_joins_while_the_device_is_formatted_does_not_get_through() {
    let disk = formatted(timeouts([50, 400, 20_000, 300, 20_300]));
    let path = path_to(&disk);
    let lockspace = Lockspace::open(path.clone()).unwrap();
    path.set_rule(|request| if request.is_write() { Plan::Hold } else { Plan::Pass });
    let joining = lockspace.start_join(JoinOptions::new().host_id(id(9))).unwrap();
    until("the write of the join", || path.held() > 0);
    let options = FormatOptions { timeouts: steady(), ..FormatOptions::default() };
    let formats = std::thread::spawn({
        let disk = disk.reopen();
        move || again(&disk, options)
    });
    let at = 8 * 512;
    let former = sector(&disk, at);
    until("the overwriting", || sector(&disk, at) != former);
    thaw(&path);
    let formatted = formats.join().unwrap();
    let joined = joining.wait();
    match (&formatted, &joined) {
        // It came in time.
        (Err(FormatError::Overtaken { offset, .. }), _) => assert_eq!(*offset, at),
        // It took too long.
        (Ok(_), Err(_)) => {}
        (formatted, joined) => panic!("{formatted:?}, {joined:?}"),
    }
}

/// A host joins while the first bytes of the device, but for its record, are those of another lockspace with sectors of
/// this size and that nonce; and what it is told then when it acquires.
fn acquire_in(size: SectorSize, bytes: usize) -> (Membership, u32, Result<Lease, AcquireError>) {
    let (disk, resource) = with_resource(steady());
    let lockspace = Lockspace::open(Arc::new(disk.reopen())).unwrap();
    let another = MemoryDisk::new(40 << 20, Some(size));
    let options = FormatOptions { timeouts: steady(), ..FormatOptions::default() };
    let nonce = format(Arc::new(another.reopen()), &options).unwrap().nonce();
    // Not where the marks of a format stand, in sectors of any size.
    let host = id(100);
    let own = lockspace.geometry().delta_offset(host);
    let record = sector(&disk, own);
    disk.edit(|all| all[..bytes].copy_from_slice(&another.bytes()[..bytes]));
    edit_sector(&disk, own, |now| now.copy_from_slice(&record));
    let membership = join(&lockspace, || JoinOptions::new().host_id(host));
    let acquired = membership.acquire(&resource, Wait::For(PATIENCE));
    (membership, nonce, acquired)
}

/// A late write may put the record of a host of the former lockspace back, and a join that was paused while the device
/// was formatted takes that id. Its renewals show nothing of it. Without the rule (`LockspaceStands`) it goes on, and
/// may rebuild what is another's here.
#[test]
fn scenario_54_whoever_joined_a_lockspace_that_was_formatted_over_acquires_nothing() {
    for size in [SectorSize::B512, SectorSize::B4096] {
        let (membership, nonce, acquired) = acquire_in(size, 1 << 20);
        let lost = LossReason::FormattedOver { nonce };
        assert!(matches!(&acquired, Err(AcquireError::Lost(reason)) if *reason == lost), "{acquired:?}");
        assert_eq!(membership.status(), Status::Lost { reason: lost });
    }
}

/// A piece of a format that was given up may land at any time.
#[test]
fn scenario_54_a_late_piece_of_a_format_costs_no_other_host_its_id() {
    for size in [SectorSize::B512, SectorSize::B4096] {
        let (_membership, _, acquired) = acquire_in(size, 256 << 10);
        acquired.unwrap().release().unwrap();
    }
}
