//! A FUSE file system that is a folder with one file.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{BackgroundSession, FileAttr, FileType, INodeNo};

pub(crate) const FILE: INodeNo = INodeNo(2);

/// Of the file, which has `len` bytes, or of the folder.
pub(crate) fn attributes(ino: INodeNo, len: u64) -> FileAttr {
    let (kind, perm) = if ino == FILE { (FileType::RegularFile, 0o600) } else { (FileType::Directory, 0o755) };
    FileAttr {
        ino,
        size: len,
        blocks: len / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}

/// Ends a file system once its file is no longer open: it is busy until then, and who closes does so behind the back of
/// who waits for the process.
pub(crate) fn unmount(session: &mut Option<BackgroundSession>, point: &Path, is_open: impl Fn() -> bool) {
    let start = Instant::now();
    while is_open() && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    if is_open() {
        // A process that ends with a file of its own server open would wait for itself for good.
        let _ = Command::new("umount").args(["-f", "-l"]).arg(point).status();
    }
    if let Some(session) = session.take() {
        let _ = session.umount_and_join();
    }
}
