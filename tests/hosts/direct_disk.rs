//! [`DirectDisk`] on real files, loop devices, and a file system that hangs.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use leasehold::SectorSize;
use leasehold::disk::{
    Access, DirectDisk, Disk, Fault, Lane, LockOutcome, Op, OpenError, Pending, Request, channel, channel_with,
};

use rustix::process::{Resource, Rlimit};

use crate::common::devices::{Frozen, Loop, Mounted, file, run, text};

/// Long enough for the slowest machine: a test that passes never waits for it.
const LONG: Duration = Duration::from_secs(120);

fn open(path: &Path) -> DirectDisk {
    DirectDisk::open(path, Access::ReadWrite).unwrap()
}

fn start(disk: &DirectDisk, lane: Lane, offset: u64, op: Op) -> Pending {
    let (reply, pending) = channel();
    disk.submit(Request { offset, lane, op }, reply);
    pending
}

fn finish(disk: &DirectDisk, offset: u64, op: Op) -> Result<Vec<u8>, Fault> {
    start(disk, Lane::General, offset, op).wait(LONG).expect("an answer")
}

fn read(disk: &DirectDisk, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
    finish(disk, offset, Op::Read { len })
}

fn write(disk: &DirectDisk, offset: u64, data: Vec<u8>) -> Result<Vec<u8>, Fault> {
    finish(disk, offset, Op::Write { data })
}

/// Bytes that differ at every sector and within it.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at + seed) % 251) as u8 ^ (at / 512) as u8).collect()
}

/// Writes of all sizes through one description come back through another, and nothing beside them changes.
fn reads_back(path: &Path, sector: usize) {
    let disk = open(path);
    let len = 4 << 20;
    assert_eq!(disk.len(), len as u64);
    let mut expected = pattern(len, 0);
    assert_eq!(write(&disk, 0, expected.clone()).unwrap(), Vec::<u8>::new());
    for (number, (offset, size)) in
        [(sector, sector), (len - sector, sector), (8192, 3 * sector), (4096, (1 << 20) + sector)].iter().enumerate()
    {
        let data = pattern(*size, 100 + number);
        expected[*offset..offset + size].copy_from_slice(&data);
        write(&disk, *offset as u64, data).unwrap();
    }
    let other = DirectDisk::open(path, Access::ReadOnly).unwrap();
    assert!(read(&other, 0, len).unwrap() == expected);
    assert!(read(&other, 8192, sector).unwrap() == expected[8192..8192 + sector]);
    assert!(fs::read(path).unwrap() == expected);
}

#[test]
fn a_file_reads_back_what_was_written() {
    let (_dir, path) = file(4 << 20);
    assert_eq!(open(&path).sector_size(), None);
    assert_eq!(open(&path).describe(), text(&path));
    reads_back(&path, 512);
    reads_back(&path, 4096);
}

#[test]
fn devices_of_both_sector_sizes_read_back_what_was_written() {
    for (bytes, sector, option) in
        [(512, SectorSize::B512, "--sector-size=512"), (4096, SectorSize::B4096, "--sector-size=4096")]
    {
        let (_dir, path) = file(4 << 20);
        let device = Loop::new(&path, &["--direct-io=on", option]);
        assert_eq!(open(&device.0).sector_size(), Some(sector));
        reads_back(&device.0, bytes);
        assert!(fs::read(&path).unwrap() == fs::read(&device.0).unwrap());
    }
}

#[test]
fn partial_sectors_are_refused_before_the_disk_is_asked() {
    let (_dir, path) = file(1 << 20);
    let device = Loop::new(&path, &["--sector-size=4096"]);
    for (disk, sector) in [(open(&path), 512), (open(&device.0), 4096)] {
        for (offset, len) in [(sector / 2, sector), (0, sector / 2), (1, sector), (sector, sector + 1)] {
            let fault = read(&disk, offset, len as usize).unwrap_err();
            assert!(matches!(fault, Fault::Unaligned { sector: said, .. } if said == sector), "{fault}");
            let fault = write(&disk, offset, vec![1; len as usize]).unwrap_err();
            assert!(matches!(fault, Fault::Unaligned { .. }), "{fault}");
        }
        assert!(read(&disk, 0, 1 << 20).unwrap().iter().all(|byte| *byte == 0));
    }
}

/// Small sectors on a file whose file system lies on a device with large ones.
#[test]
fn a_file_above_larger_sectors_says_so() {
    let (dir, image) = file(32 << 20);
    let mounted = Mounted::new(dir.path(), &image, &["--sector-size=4096"]);
    let path = mounted.point.join("disk");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let disk = open(&path);
    let fault = read(&disk, 512, 512).unwrap_err();
    assert!(matches!(fault, Fault::LargerSectors { offset: 512, len: 512 }), "{fault}");
    write(&disk, 4096, vec![1; 4096]).unwrap();
}

#[test]
fn requests_beyond_the_end_fail_and_make_no_file_longer() {
    let (_dir, path) = file(1 << 20);
    let device = Loop::new(&path, &[]);
    for disk in [open(&path), open(&device.0)] {
        for (offset, len) in [(1 << 20, 4096), ((1 << 20) - 4096, 8192), (u64::MAX - 4095, 4096), (1 << 62, 4096)] {
            for fault in [read(&disk, offset, len).unwrap_err(), write(&disk, offset, vec![1; len]).unwrap_err()] {
                assert!(matches!(fault, Fault::BeyondEnd { len } if len == 1 << 20), "{offset} {fault}");
            }
        }
    }
    assert!(fs::read(&path).unwrap() == vec![0; 1 << 20]);
}

#[test]
fn a_file_that_grew_is_seen_to_have_grown() {
    let (_dir, path) = file(1 << 20);
    let disk = open(&path);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    write(&disk, 1 << 20, vec![1; 512]).unwrap();
    assert_eq!(disk.len(), 2 << 20);
}

#[test]
fn a_file_cut_short_while_open_faults_and_is_not_made_longer_again() {
    let (_dir, path) = file(1 << 20);
    let disk = open(&path);
    write(&disk, 512 << 10, vec![1; 512]).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len((256 << 10) + 100).unwrap();
    let len = (256 << 10) + 100;
    // In the middle of a request, in the middle of a sector, and before it.
    for (offset, size) in [(0, 1 << 20), (256 << 10, 512), (512 << 10, 512)] {
        for fault in [read(&disk, offset, size).unwrap_err(), write(&disk, offset, vec![1; size]).unwrap_err()] {
            assert!(matches!(fault, Fault::BeyondEnd { len: said } if said == len), "{offset} {fault}");
        }
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), len);
    assert_eq!(disk.len(), len);
}

#[test]
fn a_device_whose_backing_is_gone_faults() {
    let (_dir, path) = file(1 << 20);
    let device = Loop::new(&path, &["--direct-io=on"]);
    let disk = open(&device.0);
    write(&disk, 512 << 10, vec![1; 4096]).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let fault = read(&disk, 512 << 10, 4096).unwrap_err();
    assert_eq!(fault.raw_os_error(), Some(5), "{fault:?}");
}

#[test]
fn what_is_no_disk_is_refused_by_kind() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name| dir.path().join(name);
    let open = |path: &Path| DirectDisk::open(path, Access::ReadWrite).unwrap_err();

    assert!(matches!(open(dir.path()), OpenError::Directory { .. }));
    assert!(matches!(open(&at("missing")), OpenError::NotFound { path } if path == at("missing")));
    assert!(matches!(open(Path::new("/dev/null")), OpenError::WrongKind { kind: "character device", .. }));
    let _listener = UnixListener::bind(at("socket")).unwrap();
    assert!(matches!(open(&at("socket")), OpenError::WrongKind { kind: "socket", .. }));
    // The kernel's own files are regular, and know no direct I/O.
    let kernel = DirectDisk::open("/proc/self/limits", Access::ReadOnly).unwrap_err();
    assert!(matches!(kernel, OpenError::NoDirectIo { .. }), "{kernel}");
    std::os::unix::fs::symlink("loop", at("loop")).unwrap();
    let looped = open(&at("loop"));
    assert!(matches!(looped, OpenError::Os { .. }), "{looped}");
    assert!(std::error::Error::source(&looped).is_some());
}

#[test]
fn a_fifo_without_another_end_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    run("mkfifo", &[text(&path)]);
    let (done, outcome) = mpsc::channel();
    // On a thread of its own: if it did block, this test would not end.
    thread::spawn(move || {
        for access in [Access::ReadWrite, Access::ReadOnly] {
            let _ = done.send(DirectDisk::open(&path, access).map(|_| ()));
        }
    });
    for _ in 0..2 {
        let opened = outcome.recv_timeout(LONG).expect("open blocks on a FIFO");
        assert!(matches!(opened, Err(OpenError::Fifo { .. })), "{opened:?}");
    }
}

#[test]
fn what_is_read_only_can_be_read_only() {
    let (_dir, path) = file(1 << 20);
    let disk = DirectDisk::open(&path, Access::ReadOnly).unwrap();
    assert!(matches!(write(&disk, 0, vec![1; 512]), Err(Fault::ReadOnly)));
    assert!(matches!(disk.lock(0, 512), Err(Fault::ReadOnly)));
    assert_eq!(read(&disk, 0, 512).unwrap(), [0; 512]);

    let device = Loop::new(&path, &["-r"]);
    let refused = DirectDisk::open(&device.0, Access::ReadWrite).unwrap_err();
    assert!(matches!(refused, OpenError::ReadOnly { .. }), "{refused}");
    assert_eq!(read(&DirectDisk::open(&device.0, Access::ReadOnly).unwrap(), 0, 512).unwrap(), [0; 512]);

    let (dir, image) = file(32 << 20);
    let mounted = Mounted::new(dir.path(), &image, &[]);
    let path = mounted.point.join("disk");
    fs::write(&path, [0; 4096]).unwrap();
    run("mount", &["-o", "remount,ro", text(&mounted.point)]);
    let refused = DirectDisk::open(&path, Access::ReadWrite).unwrap_err();
    assert!(matches!(refused, OpenError::ReadOnly { .. }), "{refused}");
}

#[test]
fn a_file_without_a_name_fails_every_request_and_one_that_has_a_link_left_none() {
    let (_dir, path) = file(1 << 20);
    let (renamed, other) = (path.with_extension("renamed"), path.with_extension("other"));
    let disks = [open(&path), DirectDisk::open(&path, Access::ReadOnly).unwrap()];
    fs::hard_link(&path, &renamed).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, [0; 4096]).unwrap();
    for disk in &disks {
        read(disk, 0, 512).unwrap();
    }
    write(&disks[0], 0, vec![1; 512]).unwrap();
    fs::write(&other, [0; 4096]).unwrap();
    fs::rename(&other, &renamed).unwrap();
    for disk in &disks {
        assert!(matches!(read(disk, 0, 512), Err(Fault::Gone)));
    }
    assert!(matches!(write(&disks[0], 0, vec![2; 512]), Err(Fault::Gone)));
    assert!(fs::read(&renamed).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_file_that_never_had_a_name_does_not_lose_it() {
    let (dir, _) = file(0);
    let unnamed = tempfile::tempfile_in(dir.path()).unwrap();
    unnamed.set_len(1 << 20).unwrap();
    let disk = open(Path::new(&format!("/proc/self/fd/{}", unnamed.as_raw_fd())));
    write(&disk, 0, vec![1; 512]).unwrap();
    assert_eq!(read(&disk, 0, 512).unwrap(), [1; 512]);
}

#[test]
fn ranges_are_locked_between_descriptions_until_unlocked_or_closed() {
    let (_dir, path) = file(1 << 20);
    let device = Loop::new(&path, &[]);
    for path in [&path, &device.0] {
        let (a, b) = (open(path), open(path));
        assert_eq!(a.lock(512, 512).unwrap(), LockOutcome::Locked);
        assert_eq!(a.lock(512, 512).unwrap(), LockOutcome::Locked);
        assert_eq!(b.lock(0, 1024).unwrap(), LockOutcome::HeldByAnother);
        assert_eq!(b.lock(1024, 0).unwrap(), LockOutcome::Locked);
        // Closing some other descriptor of the file does not end it, as it would a lock of the process.
        drop(File::open(path).unwrap());
        assert_eq!(b.lock(512, 512).unwrap(), LockOutcome::HeldByAnother);
        // Nor do requests that came and went.
        write(&a, 512, vec![1; 512]).unwrap();
        assert_eq!(b.lock(512, 512).unwrap(), LockOutcome::HeldByAnother);
        a.unlock(512, 512).unwrap();
        assert_eq!(b.lock(512, 512).unwrap(), LockOutcome::Locked);
    }
}

#[test]
fn a_disk_dropped_after_its_last_answer_gives_up_its_lock_at_once() {
    let (_dir, path) = file(1 << 20);
    // Neither a worker nor a child process between fork and exec keeps it.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let forker = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                run("true", &[]);
            }
        });
        let refused = (0..500).find(|_| {
            let disk = open(&path);
            let outcome = disk.lock(0, 512).unwrap();
            read(&disk, 0, 512).unwrap();
            outcome != LockOutcome::Locked
        });
        stop.store(true, Ordering::SeqCst);
        forker.join().unwrap();
        assert_eq!(refused, None);
    });
}

#[test]
fn many_requests_at_once_all_end_each_with_its_own_bytes() {
    let (_dir, path) = file(1 << 20);
    let disk = open(&path);
    write(&disk, 0, pattern(1 << 20, 0)).unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let pendings: Vec<_> = (0..2048_u64)
        .map(|number| {
            let ended = ended.clone();
            let (reply, pending) = channel_with(move |outcome| {
                assert!(outcome.is_ok());
                ended.fetch_add(1, Ordering::SeqCst);
            });
            disk.submit(Request { offset: number * 512, lane: Lane::General, op: Op::Read { len: 512 } }, reply);
            pending
        })
        .collect();
    let expected = pattern(1 << 20, 0);
    for (pending, expected) in pendings.iter().zip(expected.chunks(512)) {
        assert!(pending.wait(LONG).expect("an answer").unwrap() == expected);
    }
    assert_eq!(ended.load(Ordering::SeqCst), 2048);
}

#[test]
fn dropping_the_disk_ends_its_idle_threads() {
    let (_dir, path) = file(1 << 20);
    let disk = open(&path);
    // The hooks tell the threads apart, of which other tests have some too.
    let (ids, threads) = mpsc::channel();
    for lane in [Lane::Renewal, Lane::General] {
        let ids = ids.clone();
        let (reply, pending) = channel_with(move |_| {
            let id = fs::read_link("/proc/thread-self").unwrap();
            let name = thread::current().name().map(str::to_string);
            let _ = ids.send((Path::new("/proc").join(id), name));
        });
        disk.submit(Request { offset: 0, lane, op: Op::Read { len: 512 } }, reply);
        pending.wait(LONG).expect("an answer").unwrap();
    }
    drop(disk);
    for _ in 0..2 {
        let (id, name) = threads.recv_timeout(LONG).unwrap();
        assert_eq!(name.as_deref(), Some("leasehold-io"));
        // The thread for renewals would never end by itself.
        let ended = (0..6000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            !id.exists()
        });
        assert!(ended, "{} goes on", id.display());
    }
}

#[test]
fn writes_that_hang_block_nobody_and_end_after_the_hang() {
    let (dir, image) = file(64 << 20);
    let mounted = Mounted::new(dir.path(), &image, &[]);
    let path = mounted.point.join("disk");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let disk = open(&path);
    assert_eq!(disk.lock(0, 512).unwrap(), LockOutcome::Locked);
    let other = open(&path);

    let mut frozen = Frozen::new(&mounted.point);
    // As many as there are threads for, and more.
    let hung: Vec<_> = (0..80_u64)
        .map(|number| start(&disk, Lane::General, number * 4096, Op::Write { data: pattern(4096, number as usize) }))
        .collect();
    assert!(hung[0].wait(Duration::from_millis(200)).is_none());
    // The other lane has threads of its own; reads go on while the file system is frozen, and use other buffers.
    for _ in 0..20 {
        let renewal = start(&disk, Lane::Renewal, 512 << 10, Op::Read { len: 4096 });
        assert_eq!(renewal.wait(LONG).expect("an answer").unwrap(), [0; 4096]);
    }
    assert_eq!(hung.iter().filter(|pending| pending.is_done()).count(), 0);
    // A disk that is dropped with writes under way keeps its lock for as long as they are, and gives up those that
    // were still waiting for a thread.
    drop(disk);
    let given_up = hung.iter().filter(|pending| matches!(pending.wait(Duration::ZERO), Some(Err(Fault::Abandoned))));
    assert_eq!(given_up.count(), 16);
    assert_eq!(other.lock(0, 512).unwrap(), LockOutcome::HeldByAnother);

    frozen.thaw();
    for pending in &hung[..64] {
        pending.wait(LONG).expect("an answer after the thaw").unwrap();
    }
    assert_eq!(other.lock(0, 512).unwrap(), LockOutcome::Locked);
    // Long after everybody has given up waiting, each has landed with its own bytes.
    for number in 0..64_usize {
        assert!(read(&other, number as u64 * 4096, 4096).unwrap() == pattern(4096, number), "{number}");
    }
    assert!(read(&other, 64 * 4096, 16 * 4096).unwrap().iter().all(|byte| *byte == 0));
}

const ASK: &str = "LEASEHOLD_TEST_ASK_WITHOUT_ROOM";

/// In a process of its own that the next test starts: asks for a read when there is no room for another thread.
#[test]
fn asks_without_room_for_a_thread() {
    if std::env::var_os(ASK).is_none() {
        return;
    }
    let (_dir, path) = file(1 << 20);
    let disk = open(&path);
    let (reply, pending) = channel();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")).unwrap();
    let limit = Some(used.parse::<u64>().unwrap() * 1024 + 4096);
    rustix::process::setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    disk.submit(Request { offset: 0, lane: Lane::General, op: Op::Read { len: 512 } }, reply);
    let answer = pending.wait(Duration::ZERO);
    println!("answer: {answer:?}");
}

/// A read in the caller's own thread would be one without a timeout.
#[test]
fn a_request_that_no_thread_can_be_had_for_is_an_error_at_once() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "direct_disk::asks_without_room_for_a_thread", "--nocapture", "--test-threads=1"])
        .env(ASK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("answer: Some(Err(Os { doing: \"starting a thread\""), "{said}");
}
