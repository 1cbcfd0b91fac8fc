//! Valid sectors with a number near its end, on a disk in memory: who is alone gets past them, or is told what a repair
//! mends. `tests/scenarios/numbers.rs` has every number in every place.

use std::sync::Arc;

use leasehold::disk::MemoryDisk;
use leasehold::format::{Block, BlockExtension, DeltaRecord, Force, Leader, Request};
use leasehold::{
    AcquireError, Damage, Finding, JoinError, JoinOptions, Lockspace, Membership, RepairOptions, Repaired, Resource,
    Version, Wait,
};

use crate::common::memory::{edit_sector, join_anew, steady, with_resource};
use crate::common::{PATIENCE, id, until_some};

const ENDS: [u64; 6] = [1 << 60, (1 << 61) - 1, 1 << 61, (1 << 62) - 1, 1 << 62, u64::MAX];
const IN_TIME: RepairOptions = RepairOptions { wait: Wait::For(PATIENCE), fenced: true };

/// The host that is alone.
const ME: u64 = 1;
/// One that is not there, and perhaps never was.
const OTHER: u64 = 5;

fn lockspace(disk: &MemoryDisk) -> Lockspace {
    Lockspace::open(Arc::new(disk.reopen())).unwrap()
}

fn extension(lockspace: &Lockspace) -> BlockExtension {
    BlockExtension { nonce: lockspace.nonce(), generation: 1, ..BlockExtension::default() }
}

/// Repairs all that is found, as the command does.
fn repair(disk: &MemoryDisk, by: &Membership) {
    for finding in by.lockspace().examine().unwrap() {
        let repaired = until_some("a repair", || match &finding {
            Finding::Block { host, .. } if *host != by.owner().host => {
                let host = join_anew(disk, by.lockspace(), host.get());
                let repaired = host.repair(&finding, IN_TIME).ok();
                let _ = host.leave();
                repaired
            }
            _ => by.repair(&finding, IN_TIME).ok(),
        });
        assert_ne!(repaired, Repaired::Sound, "{finding:?}");
    }
}

/// Acquires and releases; again while the machine is too busy for that.
fn acquires(membership: &Membership, resource: &Resource) -> Result<Version, AcquireError> {
    until_some("an answer", || match membership.acquire(resource, Wait::No) {
        Ok(lease) => {
            let version = lease.version();
            lease.release().ok()?;
            Some(Ok(version))
        }
        Err(AcquireError::Disk(_) | AcquireError::TimedOut { .. } | AcquireError::Unknown { .. }) => None,
        Err(error) => Some(Err(error)),
    })
}

/// A lone host on a disk that was changed so.
fn gets_past(what: &str, change: impl FnOnce(&MemoryDisk, &Lockspace, &Resource)) {
    let (disk, resource) = with_resource(steady());
    change(&disk, &lockspace(&disk), &resource);
    let membership = join_anew(&disk, &lockspace(&disk), ME);
    match acquires(&membership, &resource) {
        Ok(version) => assert!(version.get() < 1 << 60, "{what}: {version}"),
        Err(AcquireError::Exhausted { .. } | AcquireError::Damaged(_)) => {
            assert!(!membership.lockspace().examine().unwrap().is_empty(), "{what}");
        }
        Err(other) => panic!("{what}: {other}"),
    }
    repair(&disk, &membership);
    let left = membership.lockspace().examine().unwrap();
    assert!(left.is_empty(), "{what}: {left:?}");
    let version = acquires(&membership, &resource).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(version.get() < 1 << 60, "{what}: {version}");
}

fn in_leader(change: impl Fn(&mut Leader, u64) + Sync) {
    each(|number| {
        gets_past(&format!("leader {number}"), |disk, _, resource| {
            let at = resource.offset();
            edit_sector(disk, at, |bytes| {
                let mut leader = Leader::decode(bytes, at).unwrap();
                change(&mut leader, number);
                bytes.copy_from_slice(&leader.encode(at));
            });
        });
    });
}

fn in_block(change: impl Fn(&mut Block, u64) + Sync) {
    for host in [ME, OTHER] {
        each(|number| {
            gets_past(&format!("block of {host} {number}"), |disk, lockspace, resource| {
                let at = resource.offset() + lockspace.geometry().block_offset(id(host));
                let mut block = Block { extension: Some(extension(lockspace)), ..Block::default() };
                change(&mut block, number);
                let bytes = block.encode(lockspace.geometry(), at);
                edit_sector(disk, at, |sector| sector.copy_from_slice(&bytes));
            });
        });
    }
}

fn each(test: impl Fn(u64) + Sync) {
    let test = &test;
    std::thread::scope(|scope| {
        let running = ENDS.map(|number| scope.spawn(move || test(number)));
        for one in running {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

#[test]
fn scenario_57_a_version_in_a_leader() {
    in_leader(|leader, number| leader.version = Version::new(number));
}

#[test]
fn scenario_57_a_version_in_a_block() {
    in_block(|block, number| block.instance = Version::new(number));
}

#[test]
fn scenario_57_a_ballot_number_in_a_block() {
    in_block(|block, number| block.mbal = number);
}

#[test]
fn scenario_57_marks_in_a_block() {
    in_block(|block, number| {
        let version = Some(Version::new(number));
        let extension = block.extension.take();
        block.extension =
            extension.map(|it| BlockExtension { withdrawn: version, burned: version, receives: version, ..it });
    });
}

#[test]
fn scenario_57_a_generation_or_a_time_in_a_host_record() {
    for is_time in [false, true] {
        each(|number| {
            let (disk, _) = with_resource(steady());
            let at = lockspace(&disk).geometry().delta_offset(id(OTHER));
            edit_sector(&disk, at, |bytes| {
                let mut record = DeltaRecord::decode(bytes, at).unwrap();
                (record.owner_id, record.generation) = (OTHER, if is_time { 7 } else { number });
                record.timestamp = if is_time { number } else { 0 };
                bytes.copy_from_slice(&record.encode(at));
            });
            let as_other = |options: JoinOptions| lockspace(&disk).join(options.host_id(id(OTHER)));
            let first = until_some("an answer", || match as_other(JoinOptions::new()) {
                Err(JoinError::Disk(_) | JoinError::Attempt { .. }) => None,
                answer => Some(answer),
            });
            match first {
                Ok(membership) => {
                    assert!(!is_time && membership.owner().generation.get() < 1 << 61, "{number}");
                    drop(membership);
                }
                Err(JoinError::Damaged(Damage { reason, .. })) => {
                    assert!(reason.to_string().contains("any host"), "{reason}")
                }
                Err(other) => panic!("{number}: {other}"),
            }
            let membership = join_anew(&disk, &lockspace(&disk), ME);
            repair(&disk, &membership);
            assert!(membership.lockspace().examine().unwrap().is_empty(), "{number}");
            let joined = join_anew(&disk, &lockspace(&disk), OTHER);
            assert!(joined.owner().generation.get() < 1 << 60, "{number}");
        });
    }
}

#[test]
fn scenario_57_a_version_in_a_request() {
    each(|number| {
        let (disk, resource) = with_resource(steady());
        let at = resource.offset() + lockspace(&disk).geometry().request_offset();
        let request = Request { version: Version::new(number), force: Force::Kill };
        let bytes = request.encode(lockspace(&disk).geometry());
        edit_sector(&disk, at, |sector| sector.copy_from_slice(&bytes));
        let membership = join_anew(&disk, &lockspace(&disk), ME);
        let findings = membership.lockspace().examine().unwrap();
        assert!(matches!(&findings[..], [Finding::Request { .. }]), "{number} {findings:?}");
        repair(&disk, &membership);
        assert!(membership.lockspace().examine().unwrap().is_empty(), "{number}");
    });
}
