//! A FUSE file system that is a folder with one file.

use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileType, INodeNo};

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
