//! Opening a device, making the default one, and finding resources in it.

use std::fs::{File, remove_file};
use std::io;
use std::path::Path;
use std::sync::Arc;

use leasehold::disk::{Access, DirectDisk};
use leasehold::{CreateError, FindError, FormatOptions, Lockspace, Membership, Profile, Resource, Wait};

use crate::failure::{Failure, IO};
use crate::words::Target;

/// The device that `run` uses when none is named.
pub(crate) const DEFAULT_DEVICE: &str = "leasehold.img";
/// Its size: room for 61 resources. It is sparse until they are made.
const DEFAULT_BYTES: u64 = 64 << 20;

pub(crate) fn open(device: &Path, access: Access) -> Result<Lockspace, Failure> {
    Ok(Lockspace::open(Arc::new(DirectDisk::open(device, access)?))?)
}

/// How long to wait for others who change the index: one that died holding it has to be waited out.
pub(crate) fn index_patience(lockspace: &Lockspace) -> Wait {
    Wait::For(lockspace.timeouts().dead() * 3)
}

/// Makes the default device, if it is missing. It appears under its name only when it is complete, so that several
/// processes may do this at once.
pub(crate) fn make_default(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension(format!("img.{}", std::process::id()));
    let make = || -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(IO, format!("can't make {}: {error}", path.display()));
        File::create_new(&unfinished).and_then(|file| file.set_len(DEFAULT_BYTES)).map_err(failed)?;
        let options = FormatOptions { timeouts: Profile::Fast.timeouts(), ..FormatOptions::default() };
        leasehold::format(Arc::new(DirectDisk::open(&unfinished, Access::ReadWrite)?), &options)?;
        match std::fs::hard_link(&unfinished, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Ok(()),
        }
    };
    let made = make();
    // What is left of a failed attempt is of no use.
    let _ = remove_file(&unfinished);
    made
}

/// The resource that is meant, which exists.
pub(crate) fn existing(lockspace: &Lockspace, target: &Target) -> Result<Resource, Failure> {
    Ok(find(lockspace, target)?)
}

fn find(lockspace: &Lockspace, target: &Target) -> Result<Resource, FindError> {
    match target.offset {
        Some(offset) => lockspace.resource_at(&target.name, offset),
        None => lockspace.find(&target.name),
    }
}

/// The resource that is meant; with `create` one that the index doesn't have is added to it.
pub(crate) fn resource(membership: &Membership, target: &Target, create: bool) -> Result<Resource, Failure> {
    let lockspace = membership.lockspace();
    match find(lockspace, target) {
        Err(FindError::NotFound { .. }) if create => {}
        found => return Ok(found?),
    }
    match membership.create(&target.name, index_patience(lockspace)) {
        // Another host was faster.
        Err(CreateError::Exists { .. }) => Ok(lockspace.find(&target.name)?),
        created => Ok(created?),
    }
}
