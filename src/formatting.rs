//! Writes a lockspace with its index, and the areas of resources.
//!
//! Each record that makes an area valid is written last, and the lockspace's first record last of all: formatting that
//! was interrupted leaves no lockspace, rather than a part of one. Every sector of an area is written, so that a thinly
//! provisioned device has allocated it before it is needed.

use std::sync::Arc;

use crate::disk::{BootClock, Disk, Fault, Lane};
use crate::engine::blank::{Something, first_thing};
use crate::engine::hosts::Hosts;
use crate::engine::io::Io;
use crate::engine::procedure::Driver;
use crate::error::{DiskError, FormatError, OpenError};
use crate::format::{AreaSize, Geometry, IndexHeader, SectorSize};
use crate::lockspace::{FIRST_READ, Lockspace};
use crate::protocol::catalog::format::{FIXED_AREAS, Format, LARGEST_AREA, Plan, Refusal};
use crate::protocol::catalog::index::Index;
use crate::protocol::delta::Terms;
use crate::timeouts::{Profile, Timeouts};
use crate::types::Name;

/// What a lockspace is to be like.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// Its name: 1 to 47 bytes. `leasehold` if nothing else is said.
    pub name: String,
    /// Its timeouts. Those of [`Profile::Balanced`] if nothing else is said.
    pub timeouts: Timeouts,
    /// `None`: the device's own; 512 bytes for a regular file.
    pub sector_size: Option<SectorSize>,
    /// `None`: 1 MiB with sectors of 512 bytes, 8 MiB with 4096.
    pub area_size: Option<AreaSize>,
    /// How many entries the index has. `None`: 4096.
    pub max_resources: Option<u32>,
    /// Overwrite whatever is there; a lockspace only if no host is live in it. Takes the longest D of its hosts if any
    /// host id in it was not released, as does formatting again what was not formatted to the end; else twice its I/O
    /// timeout.
    pub force: bool,
}

impl Default for FormatOptions {
    fn default() -> FormatOptions {
        FormatOptions {
            name: "leasehold".into(),
            timeouts: Profile::default().timeouts(),
            sector_size: None,
            area_size: None,
            max_resources: None,
            force: false,
        }
    }
}

/// Formats the device: a lockspace, an empty resource index, and the lease that guards it, three areas in all.
///
/// Without [`FormatOptions::force`] a device that is not blank is refused: as far as can be seen from its first
/// mebibytes, the start of each area in 64 GiB, and its last mebibyte. A block device that is mounted, swapped to, or
/// part of an array or a volume is refused always; it is claimed against that until this returns.
///
/// With [`FormatOptions::force`] a lockspace that is there is replaced. Its hosts are watched first, and the new one
/// goes on from its generations and versions. What its hosts write later counts for nothing.
///
/// # Errors
/// See [`FormatError`]. Before the first write everything is checked; after a failed one there is no lockspace.
pub fn format(disk: Arc<dyn Disk>, options: &FormatOptions) -> Result<Lockspace, FormatError> {
    let io = Io::new(disk.clone(), Arc::new(BootClock));
    let device = io.device();
    let name = Name::lockspace(&options.name)?;
    let geometry = geometry(&io, options)?;
    let max = geometry.max_index_entries();
    let max_resources = options.max_resources.unwrap_or(IndexHeader::DEFAULT_MAX_RESOURCES);
    if max_resources == 0 || max_resources > max {
        return Err(FormatError::MaxResources { asked: max_resources, max });
    }
    // With one resource: without any it is of no use.
    let needed = (FIXED_AREAS + 1) * geometry.area_bytes();
    let len = io.disk().len();
    if len < needed {
        return Err(FormatError::TooSmall { device, len, needed });
    }
    let _claim = disk.claim().map_err(|fault| match fault {
        Fault::InUse => FormatError::Busy { device: device.clone() },
        source => FormatError::Claim { device: device.clone(), source },
    })?;
    if !options.force {
        refuse_what_is_there(&disk, &io, FIXED_AREAS * geometry.area_bytes())?;
    }
    let sector = geometry.sector_bytes() as u64;
    let plan = Plan {
        terms: Terms { geometry, lockspace: name, nonce: rand::random(), timeouts: options.timeouts },
        index: Some(IndexHeader { geometry, max_resources, offset: Index::offset(geometry), lockspace: name }),
        guard: Index::guard(geometry).name,
        guard_offset: Index::guard(geometry).offset,
        force: options.force,
        len,
        // A file may end within a sector.
        searched: len.min(LARGEST_AREA) / sector * sector,
    };
    // Nobody is judged: hosts are watched by the format itself.
    let hosts = Hosts::new(&plan.terms, FIRST_READ);
    let driver = Driver { io: &io, lane: Lane::General, geometry, hosts: &hosts };
    let Ok((formatted, failure)) = driver.carry_out(Format::new(plan), &());
    formatted.map_err(|refusal| explain(&io, refusal, failure))?;
    Lockspace::open(disk).map_err(|error| match error {
        OpenError::Disk(error) => error.into(),
        source => FormatError::NotReadBack { device, source },
    })
}

/// Refuses a device that is not blank, but for a lockspace: what becomes of that the format itself decides. What was
/// not formatted to the end may be written over, and nothing that came there since. `written`: how many bytes are to be
/// written.
fn refuse_what_is_there(disk: &Arc<dyn Disk>, io: &Io, written: u64) -> Result<(), FormatError> {
    let but_ours = match Lockspace::open(disk.clone()) {
        Ok(_) | Err(OpenError::SectorSize { .. }) => return Ok(()),
        Err(OpenError::Incomplete { .. }) => true,
        Err(OpenError::NotALockspace { .. } | OpenError::TooSmall { .. }) => false,
        Err(OpenError::Disk(error)) => return Err(error.into()),
    };
    match first_thing(io, written, but_ours)? {
        Some(Something { offset, what }) => Err(FormatError::NotBlank { device: io.device(), offset, what }),
        None => Ok(()),
    }
}

fn explain(io: &Io, refusal: Refusal, trouble: Option<DiskError>) -> FormatError {
    let device = io.device();
    match (refusal, trouble) {
        (Refusal::Exists(lockspace), _) => FormatError::Exists { device, lockspace },
        (Refusal::InUse(host, name), _) => FormatError::InUse { device, host, name },
        (Refusal::Overtaken(offset), _) => FormatError::Overtaken { device, offset },
        (Refusal::Storage, Some(error)) => error.into(),
        (Refusal::Slow | Refusal::Storage, _) => FormatError::Slow { device },
    }
}

fn geometry(io: &Io, options: &FormatOptions) -> Result<Geometry, FormatError> {
    let device = io.device();
    let logical = io.disk().sector_size();
    let sector = options.sector_size.or(logical).unwrap_or_default();
    if let Some(logical) = logical.filter(|logical| *logical != sector) {
        return Err(FormatError::Geometry(format!("{device} has sectors of {logical}, not of {sector}")));
    }
    let area = options.area_size.unwrap_or(Geometry::for_block_device(sector).area());
    Geometry::new(sector, area).map_err(|error| FormatError::Geometry(error.to_string()))
}
