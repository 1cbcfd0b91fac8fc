//! The processes of a cgroup. It is held by its folder, so that one which is made under its name later is never taken
//! for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::Pid;

/// A cgroup of version 2.
#[derive(Debug)]
pub(super) struct Cgroup {
    folder: OwnedFd,
}

/// Of a folder that was removed. Only an empty one can be.
const REMOVED: [Errno; 2] = [Errno::NOENT, Errno::NODEV];

impl Cgroup {
    /// One whose processes this process may kill.
    pub(super) fn open(folder: &Path) -> io::Result<Cgroup> {
        let folder = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        open(&folder, "cgroup.kill", OFlags::WRONLY)?;
        Ok(Cgroup { folder })
    }

    /// The processes in it and in those below it.
    pub(super) fn members(&self) -> io::Result<Vec<Pid>> {
        Ok(members(&self.folder)?)
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        open(&self.folder, "cgroup.kill", OFlags::WRONLY)?.write_all(b"1")
    }

    /// Whether it is certain that nobody is in it, nor in those below it.
    pub(super) fn is_empty(&self) -> bool {
        match read(&self.folder, "cgroup.events") {
            Ok(events) => events.lines().any(|line| line == "populated 0"),
            Err(errno) => REMOVED.contains(&errno),
        }
    }
}

fn open(folder: impl AsFd, name: &str, access: OFlags) -> Result<File, Errno> {
    Ok(openat(folder, name, access | OFlags::CLOEXEC, Mode::empty())?.into())
}

fn read(folder: impl AsFd, name: &str) -> Result<String, Errno> {
    let mut text = String::new();
    let read = open(folder, name, OFlags::RDONLY)?.read_to_string(&mut text);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(text)
}

fn members(folder: &OwnedFd) -> Result<Vec<Pid>, Errno> {
    let text = read(folder, "cgroup.procs")?;
    let mut found: Vec<Pid> = text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || [c".", c".."].contains(&name) {
            continue;
        }
        let below = openat(folder, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        match below.and_then(|below| members(&below)) {
            Ok(below) => found.extend(below),
            // The processes whose threads are in a threaded one are told by the first above it that is not.
            Err(errno) if REMOVED.contains(&errno) || errno == Errno::OPNOTSUPP => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}
