//! A device is formatted only where nothing is destroyed by it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use leasehold::disk::{Access, DirectDisk, Disk, MemoryDisk};
use leasehold::format::DeltaRecord;
use leasehold::{ErrorKind, FormatError, FormatOptions, format};

use crate::common::devices::{Loop, Mounted, file, run, text};
use crate::common::memory::{brief, formatted, steady, with_resource};
use crate::common::until_some;

const MIB: usize = 1 << 20;
const LEN: usize = 40 * MIB;

/// The offset and the name that the refusal says of a device with these bytes, which are not changed.
#[track_caller]
fn refused(bytes: Vec<u8>) -> (u64, Option<&'static str>) {
    let disk = MemoryDisk::with_bytes(bytes.clone(), None);
    let refusal = format(Arc::new(disk.reopen()), &FormatOptions::default()).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Refused);
    assert!(disk.bytes() == bytes, "it was written to");
    let FormatError::NotBlank { offset, what, .. } = refusal else { panic!("{refusal:?}") };
    let force = FormatOptions { force: true, ..FormatOptions::default() };
    format(Arc::new(disk), &force).unwrap();
    (offset, what)
}

/// What each writes where, by its own description.
#[test]
fn what_holds_something_else_is_not_formatted() {
    let signs: [(&str, usize, &[u8]); 12] = [
        ("ext4", 0x438, &[0x53, 0xef]),
        ("xfs", 0, b"XFSB"),
        ("btrfs", 0x1_0040, b"_BHRfS_M"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("GPT", 512, b"EFI PART"),
        ("what is left of a GPT at the end", LEN - 512, b"EFI PART"),
        ("MBR", 510, &[0x55, 0xaa]),
        ("an LVM volume", 512, b"LABELONE"),
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("an array of md at the start", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
        ("an array of md at the end", LEN - 8192, &[0xfc, 0x4e, 0x2b, 0xa9]),
        ("zfs", 0x2_1000, &[0x0c, 0xb1, 0xba, 0x00]),
    ];
    for (name, at, sign) in signs {
        let mut bytes = vec![0; LEN];
        bytes[at..at + sign.len()].copy_from_slice(sign);
        assert_eq!(refused(bytes), (at as u64, None), "{name}");
    }
    assert_eq!(refused(vec![7; LEN]), (0, None), "random data");
}

/// As `sanlock` leaves leases on devices without a lockspace, or where that was wiped.
#[test]
fn what_is_left_of_a_lockspace_is_not_formatted() {
    let (disk, demo) = with_resource(steady());
    let mut bytes = disk.bytes();
    bytes.resize(LEN, 0);
    bytes[..MIB].fill(0);
    assert_eq!(refused(bytes.clone()), (MIB as u64, Some("the index of a lockspace")));
    bytes[MIB..2 * MIB].fill(0);
    assert_eq!(refused(bytes.clone()), (2 * MIB as u64, Some("the lease of a resource")));
    bytes[2 * MIB..3 * MIB].fill(0);
    assert_eq!(refused(bytes.clone()), (demo.offset(), Some("the lease of a resource")));
    // One that says it stands elsewhere is no lease, but it is something.
    let area = bytes[demo.offset() as usize..][..MIB].to_vec();
    bytes.fill(0);
    bytes[30 * MIB..31 * MIB].copy_from_slice(&area);
    assert_eq!(refused(bytes), (30 * MIB as u64, None));
}

/// The first two records of a lockspace have no magic number before it is formatted to the end.
#[test]
fn what_came_after_a_format_that_was_interrupted_is_not_overwritten() {
    let mut begun = formatted(brief()).bytes();
    begun.resize(LEN, 0);
    for at in [0, 512] {
        let sector = &mut begun[at..at + 512];
        let record = DeltaRecord::decode(sector, at as u64).unwrap();
        sector.copy_from_slice(&record.encode_unfinished(at as u64));
    }
    for (at, sign) in
        [(4096, &[0xfc, 0x4e, 0x2b, 0xa9]), (MIB + 9, b"data"), (5 * MIB + 600, b"data"), (20 * MIB, b"data")]
    {
        let mut bytes = begun.clone();
        bytes[at..at + sign.len()].copy_from_slice(sign);
        let (offset, what) = refused(bytes);
        assert_eq!(offset / 512, at as u64 / 512, "{offset}, {what:?}");
    }
    format(Arc::new(MemoryDisk::with_bytes(begun, None)), &FormatOptions::default()).unwrap();
}

#[track_caller]
fn is_busy(node: &Path) {
    for force in [false, true] {
        let disk = Arc::new(DirectDisk::open(node, Access::ReadWrite).unwrap());
        let refusal = format(disk, &FormatOptions { force, ..FormatOptions::default() }).unwrap_err();
        assert!(matches!(refusal, FormatError::Busy { .. }), "force {force}: {refusal:?}");
        assert_eq!(refusal.kind(), ErrorKind::Refused);
    }
}

#[test]
fn a_device_that_is_mounted_is_not_formatted() {
    let (folder, image) = file(64 << 20);
    let mounted = Mounted::new(folder.path(), &image, &[]);
    let kept = mounted.point.join("kept");
    fs::write(&kept, "kept").unwrap();
    is_busy(&mounted.device.0);
    let point = mounted.point.clone();
    drop(mounted);
    let node = Loop::new(&image, &[]);
    run("mount", &[text(&node.0), text(&point)]);
    let read = fs::read_to_string(&kept);
    run("umount", &[text(&point)]);
    assert_eq!(read.unwrap(), "kept");
    let disk = || Arc::new(DirectDisk::open(&node.0, Access::ReadWrite).unwrap());
    let refusal = format(disk(), &FormatOptions::default()).unwrap_err();
    assert!(matches!(refusal, FormatError::NotBlank { .. }), "{refusal:?}");
    // It is claimed no longer than it takes; but what other tests start has a copy of the claim until it runs.
    let force = FormatOptions { force: true, ..FormatOptions::default() };
    let formatted = || match format(disk(), &force) {
        Err(FormatError::Busy { .. }) => None,
        formatted => Some(formatted.unwrap()),
    };
    let lockspace = until_some("the device", formatted);
    drop(until_some("the device", || disk().claim().ok()));
    drop(lockspace);
}

#[test]
fn a_device_that_is_swapped_to_is_not_formatted() {
    let (_folder, image) = file(64 << 20);
    let node = Loop::new(&image, &[]);
    run("mkswap", &[text(&node.0)]);
    run("swapon", &[text(&node.0)]);
    let outcome = std::panic::catch_unwind(|| is_busy(&node.0));
    run("swapoff", &[text(&node.0)]);
    outcome.unwrap();
}
