//! The mark that a watchdog was left counting. It outlives its process, so that a restarted one does not open the
//! device, which would feed it, nor close it in the orderly way, which would cancel a reset that is due.
//!
//! A file of each device, locked while a process has the device. It is there from before the device is opened until it
//! was switched off, and names the boot: after a reset nothing counts any more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::WatchdogError;
use crate::engine::identity::boot_id;

/// Held while the device is open.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    _lock: File,
}

impl Mark {
    /// Marks `device` as left counting, until [`Mark::clear`].
    pub(super) fn set(folder: &Path, device: &Path) -> Result<Mark, WatchdogError> {
        let path = folder.join(name(device));
        let failed = |source: io::Error| WatchdogError::Mark { mark: path.clone(), source: Arc::new(source) };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut file = loop {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = opened.map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(WatchdogError::InUse { device: device.into() }),
                Err(error) => return Err(failed(error.into())),
            }
            // Not one that was removed between the two calls.
            let same = |there: fs::Metadata| file.metadata().is_ok_and(|here| here.ino() == there.ino());
            if fs::metadata(&path).is_ok_and(same) {
                break file;
            }
        };
        let mut left = String::new();
        file.read_to_string(&mut left).map_err(failed)?;
        let boot = boot_id();
        if counts(&left, boot.as_deref()) {
            return Err(WatchdogError::ResetPending { device: device.into(), mark: path });
        }
        let mark = format!("{}\nprocess {}\n", boot.as_deref().unwrap_or(UNKNOWN), std::process::id());
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(mark.as_bytes()));
        written.and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(Mark { path, _lock: file })
    }

    /// The device was switched off, or never opened.
    pub(super) fn clear(self) -> Result<(), WatchdogError> {
        // While it is locked: who finds it removed makes it anew.
        fs::remove_file(&self.path).map_err(|source| WatchdogError::Mark { mark: self.path, source: Arc::new(source) })
    }
}

/// What stands in the place of a boot that can't be known.
const UNKNOWN: &str = "unknown boot";

/// Whether the mark that was `left` is of this boot, or may be.
fn counts(left: &str, boot: Option<&str>) -> bool {
    let theirs = left.lines().next().unwrap_or_default();
    !theirs.is_empty() && (theirs == UNKNOWN || boot.is_none_or(|boot| boot == theirs))
}

/// `/dev/watchdog` is the older name of `/dev/watchdog0`.
fn name(device: &Path) -> String {
    let device = fs::canonicalize(device).unwrap_or_else(|_| device.into());
    let device = if device == Path::new("/dev/watchdog") { Path::new("/dev/watchdog0") } else { &device };
    device.to_string_lossy().trim_start_matches('/').replace('/', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_has_one_mark_whatever_it_is_called() {
        assert_eq!(name(Path::new("/dev/watchdog")), name(Path::new("/dev/watchdog0")));
        assert_ne!(name(Path::new("/dev/watchdog0")), name(Path::new("/dev/watchdog1")));
        assert!(!name(Path::new("/a/b/../c")).contains('/'));
    }

    #[test]
    fn a_mark_outlives_its_process_and_not_the_boot() {
        let folder = tempfile::tempdir().expect("a folder");
        let device = Path::new("/dev/watchdog7");
        let set = || Mark::set(folder.path(), device);
        let first = set().expect("new");
        assert!(matches!(set(), Err(WatchdogError::InUse { .. })));
        first.clear().expect("cleared");
        let second = set().expect("switched off");
        // As its process ends.
        drop(second);
        let Err(WatchdogError::ResetPending { mark, .. }) = set() else { panic!("the mark is gone") };
        assert!(matches!(set(), Err(WatchdogError::ResetPending { .. })), "asking changed it");
        fs::write(mark, "another boot\nprocess 1\n").expect("written");
        set().expect("nothing counts after a reset");
    }
}
