//! Files, loop devices, and a file system that hangs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::disk::{Access, DirectDisk};
use leasehold::{FormatOptions, JoinOptions, Lockspace, Membership, OpenError, Timeouts};
use tempfile::TempDir;

use super::until_some;

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
    let disk = DirectDisk::open(path, Access::ReadWrite).unwrap();
    leasehold::format(Arc::new(disk), &FormatOptions { timeouts, ..FormatOptions::default() }).unwrap();
}

/// The lockspace on a device; again when the machine is too busy to read it.
pub(crate) fn open(device: &Path) -> Lockspace {
    let disk = Arc::new(DirectDisk::open(device, Access::ReadWrite).unwrap());
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

/// A loop device over `backing`, detached at the end.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    pub(crate) fn new(backing: &Path, options: &[&str]) -> Loop {
        let mut args = vec!["-f", "--show"];
        args.extend(options);
        args.push(text(backing));
        Loop(PathBuf::from(run("losetup", &args)))
    }

    /// The file behind it; none once it is detached. Detaching one that is open takes effect when it is closed.
    pub(crate) fn backing(&self) -> Option<String> {
        let name = self.0.file_name().unwrap();
        fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
    }

    pub(crate) fn detach(&self) {
        run("losetup", &["-d", text(&self.0)]);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // One that a test detached itself may be another's by now.
        if self.backing().is_some() {
            let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
        }
    }
}

/// An ext4 file system on `image`.
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    _device: Loop,
}

impl Mounted {
    pub(crate) fn new(folder: &Path, image: &Path, options: &[&str]) -> Mounted {
        let device = Loop::new(image, options);
        run("mkfs.ext4", &["-q", "-b", "4096", text(&device.0)]);
        let point = folder.join("mounted");
        fs::create_dir(&point).unwrap();
        run("mount", &[text(&device.0), text(&point)]);
        Mounted { point, _device: device }
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
