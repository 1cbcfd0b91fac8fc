//! What the examples work on: a device that the user names, or a new file that is gone at the end.

#![allow(dead_code)] // Each example uses a part of it.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leasehold::disk::{Access, DirectDisk};
use leasehold::{FindError, FormatOptions, JoinOptions, Lockspace, Timeouts, Wait};
use tempfile::TempDir;

/// The resource that the examples use.
pub(crate) const RESOURCE: &str = "example";

/// A device with a lockspace that has the resource.
pub(crate) struct Device {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Device {
    /// One that was formatted before.
    pub(crate) fn named(path: &str) -> Result<Device, Box<dyn Error>> {
        Device { path: path.into(), _folder: None }.with_resource()
    }

    /// A file in the current folder: that for temporary files is often in memory, without direct I/O. A lease on it
    /// outlasts the pauses of a busy machine, so that nothing happens but what is meant to; a takeover has to wait for
    /// four seconds.
    pub(crate) fn new() -> Result<Device, Box<dyn Error>> {
        let folder = tempfile::Builder::new().prefix("example").tempdir_in(".")?;
        let path = folder.path().join("device");
        File::create(&path)?.set_len(8 << 20)?;
        let disk = DirectDisk::open(&path, Access::ReadWrite)?;
        let [renewal, io, fail, fence, dead] = [100, 700, 2_800, 1_000, 3_800].map(Duration::from_millis);
        let timeouts = Timeouts::new(renewal, io, fail, fence, dead)?;
        leasehold::format(Arc::new(disk), &FormatOptions { timeouts, ..FormatOptions::default() })?;
        Device { path, _folder: Some(folder) }.with_resource()
    }

    fn with_resource(self) -> Result<Device, Box<dyn Error>> {
        let lockspace = open(&self.path)?;
        match lockspace.find(RESOURCE) {
            Err(FindError::NotFound { .. }) => {
                let membership = lockspace.join(JoinOptions::new())?;
                membership.create(RESOURCE, Wait::For(lockspace.timeouts().dead() * 3))?;
                membership.leave()?;
            }
            found => drop(found?),
        }
        Ok(self)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

pub(crate) fn open(path: &Path) -> Result<Lockspace, Box<dyn Error>> {
    Ok(Lockspace::open(Arc::new(DirectDisk::open(path, Access::ReadWrite)?))?)
}
