//! Files, loop devices, and a file system that hangs.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::disk::{Access, DirectDisk, Disk, Lane, Op, Request, channel};
use leasehold::{CreateError, FormatOptions, JoinOptions, Lockspace, Membership, OpenError, Timeouts, Wait};
use tempfile::TempDir;

use super::processes::calmly;
use super::{PATIENCE, until_some};

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "these tests need root: {program} {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder on a file system that has direct I/O.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A file of `len` bytes in a folder of its own.
pub(crate) fn file(len: u64) -> (TempDir, PathBuf) {
    let folder = folder();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(len).unwrap();
    (folder, path)
}

/// Makes a file with a lockspace in it.
pub(crate) fn lockspace(path: &Path, timeouts: Timeouts) {
    File::create(path).unwrap().set_len(8 << 20).unwrap();
    leasehold::format(disk(path), &FormatOptions { timeouts, ..FormatOptions::default() }).unwrap();
}

pub(crate) fn disk(path: &Path) -> Arc<DirectDisk> {
    Arc::new(DirectDisk::open(path, Access::ReadWrite).unwrap())
}

/// The lockspace on a device; again when the machine is too busy to read it.
pub(crate) fn open(device: &Path) -> Lockspace {
    let disk = disk(device);
    until_some("the lockspace", || match Lockspace::open(disk.clone()) {
        Err(OpenError::Disk(_)) => None,
        opened => Some(opened.unwrap()),
    })
}

/// A membership in the lockspace on a device, as [`super::join`].
#[track_caller]
pub(crate) fn join(device: &Path, options: impl Fn() -> JoinOptions) -> Membership {
    super::join(&open(device), options).unwrap()
}

/// Formats a disk for a lockspace with these resources and no host.
#[track_caller]
pub(crate) fn with_resources(disk: Arc<dyn Disk>, timeouts: Timeouts, resources: &[&str]) -> Lockspace {
    let lockspace = leasehold::format(disk, &FormatOptions { timeouts, ..FormatOptions::default() }).unwrap();
    calmly("the resources", || -> Result<(), Box<dyn Error>> {
        let membership = lockspace.join(JoinOptions::new().host_name("maker"))?;
        for name in resources {
            match membership.create(name, Wait::For(PATIENCE)) {
                // By an attempt that came to nothing.
                Ok(_) | Err(CreateError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(membership.leave()?)
    });
    lockspace
}

/// Reads or writes, past all hosts and past the page cache: through that, a write would take what was beside it in its
/// page when that was read back to the disk.
#[track_caller]
pub(crate) fn transfer(path: &Path, offset: u64, op: Op) -> Vec<u8> {
    let (reply, pending) = channel();
    disk(path).submit(Request { offset, lane: Lane::General, op }, reply);
    pending.wait(PATIENCE).expect("an answer").unwrap()
}

/// A loop device over a file, detached at the end.
pub(crate) struct Loop(pub(crate) PathBuf, String);

impl Loop {
    pub(crate) fn new(backing: &Path, options: &[&str]) -> Loop {
        let mut args = vec!["-f", "--show"];
        args.extend(options);
        args.push(text(backing));
        let node = PathBuf::from(run("losetup", &args));
        let own = backing_of(&node).expect("a device that was just attached");
        Loop(node, own)
    }

    /// Whether its file is behind it: no longer once it is detached, though the number may be another device's then.
    /// Detaching one that is open takes effect when it is closed.
    pub(crate) fn is_attached(&self) -> bool {
        backing_of(&self.0).is_some_and(|backing| backing == self.1)
    }

    pub(crate) fn detach(&self) {
        run("losetup", &["-d", text(&self.0)]);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The number of one that a test detached itself may be another's by now.
        if self.is_attached() {
            let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
        }
    }
}

/// The file behind a loop device, if it is attached.
fn backing_of(node: &Path) -> Option<String> {
    let name = node.file_name().unwrap();
    let backing = fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()?;
    Some(backing.trim_end().trim_end_matches(" (deleted)").into())
}

/// An ext4 file system on `image`.
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    pub(crate) device: Loop,
}

impl Mounted {
    pub(crate) fn new(folder: &Path, image: &Path, options: &[&str]) -> Mounted {
        let device = Loop::new(image, options);
        run("mkfs.ext4", &["-q", "-b", "4096", text(&device.0)]);
        let point = folder.join("mounted");
        fs::create_dir(&point).unwrap();
        run("mount", &[text(&device.0), text(&point)]);
        Mounted { point, device }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A loop device above it may take a moment to let go of its file.
        let start = Instant::now();
        let unmount = |lazily: &[&str]| {
            let mut umount = Command::new("umount");
            umount.args(lazily).arg(&self.point).output().is_ok_and(|output| output.status.success())
        };
        while !unmount(&[]) {
            if start.elapsed() > Duration::from_secs(5) {
                unmount(&["-l"]);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A file system on which writes hang in the kernel. Thawed at the end, else they would hang for good; so it is to be
/// dropped before anything that waits for a process which writes there.
pub(crate) struct Frozen(Option<PathBuf>);

impl Frozen {
    pub(crate) fn new(point: &Path) -> Frozen {
        run("fsfreeze", &["-f", text(point)]);
        Frozen(Some(point.into()))
    }

    pub(crate) fn thaw(&mut self) {
        if let Some(point) = self.0.take() {
            let _ = Command::new("fsfreeze").arg("-u").arg(point).status();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
    }
}
