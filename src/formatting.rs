//! Writes a lockspace with its index, and the areas of resources.
//!
//! Each record that makes an area valid is written last, and the lockspace's first record last of all: formatting that
//! was interrupted leaves no lockspace, rather than a part of one. Every sector of an area is written, so that a thinly
//! provisioned device has allocated it before it is needed.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::{BootClock, Disk, Lane};
use crate::engine::io::Io;
use crate::error::{DiskError, FormatError, OpenError};
use crate::format::{AreaSize, DeltaRecord, Geometry, IndexHeader, Leader, Request, SectorSize};
use crate::index::Index;
use crate::lockspace::Lockspace;
use crate::protocol::delta::Terms;
use crate::timeouts::{Profile, Timeouts};
use crate::types::{HostId, Name, Version};

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
    /// Overwrite a lockspace that is there, if no host is live in it. Takes D if any host id in it was not released.
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

/// How long one write of at most [`CHUNK`] may take while a device is formatted.
const FORMAT_WRITE: Duration = Duration::from_secs(60);
/// Bytes that are written at once.
const CHUNK: usize = 1 << 20;
/// The lockspace, the index, the lease that guards it.
const FIXED_AREAS: u64 = 3;

/// Formats the device: a lockspace, an empty resource index, and the lease that guards it, three areas in all.
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
    let needed = FIXED_AREAS * geometry.area_bytes();
    let len = io.disk().len();
    if len < needed {
        return Err(FormatError::TooSmall { device, len, needed });
    }
    let former = match Lockspace::open(disk.clone()) {
        Ok(lockspace) => {
            if !options.force {
                return Err(FormatError::Exists { device, lockspace: lockspace.name() });
            }
            if let Some((host, name)) = lockspace.live_host()? {
                return Err(FormatError::InUse { device, host, name });
            }
            Some(lockspace)
        }
        Err(OpenError::Disk(error)) => return Err(error.into()),
        Err(_) => None,
    };
    let terms = Terms { geometry, lockspace: name, nonce: rand::random(), timeouts: options.timeouts };
    let area = geometry.area_bytes();
    let mut lockspace = free_records(&terms);
    let first_record = lockspace[..geometry.sector_bytes()].to_vec();
    // A record without its magic number: until it is written again there is no lockspace here.
    lockspace[..4].fill(0);
    write(&io, 0, lockspace[..geometry.sector_bytes()].to_vec())?;
    write(&io, 0, lockspace)?;
    let index = IndexHeader { geometry, max_resources, offset: Index::offset(geometry), lockspace: name };
    write_area(&io, geometry, index.offset, area_of(geometry, index.encode()), FORMAT_WRITE)?;
    let guard = Index::guard(geometry);
    debug_assert_eq!(guard.offset, FIXED_AREAS * area - area);
    let leader = Leader::new_free(geometry, name, terms.nonce, guard.name, geometry.max_hosts(), Version::default());
    write_area(&io, geometry, guard.offset, resource_area(&leader, guard.offset), FORMAT_WRITE)?;
    if let Some(former) = former {
        clear_resources(&io, &former, needed)?;
    }
    write(&io, 0, first_record)?;
    Lockspace::open(disk).map_err(|error| match error {
        OpenError::Disk(error) => error.into(),
        other => FormatError::Geometry(format!("what was written to {device} does not read back: {other}")),
    })
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

/// The area of a lockspace in which no id was ever held.
fn free_records(terms: &Terms) -> Vec<u8> {
    let geometry = terms.geometry;
    let record = DeltaRecord::free(geometry, terms.lockspace, terms.nonce, terms.timeouts);
    let hosts = (1..=geometry.max_hosts()).filter_map(HostId::new);
    let mut area: Vec<u8> = hosts.flat_map(|host| record.encode(geometry.delta_offset(host))).collect();
    area.resize(geometry.sectors_per_area() * geometry.sector_bytes(), 0);
    area
}

/// An area that holds nothing but its first sector.
fn area_of(geometry: Geometry, mut first_sector: Vec<u8>) -> Vec<u8> {
    first_sector.resize(geometry.sectors_per_area() * geometry.sector_bytes(), 0);
    first_sector
}

/// The area at byte `at` of a resource that nobody ever held. The request in it asks for nothing: where there is none
/// at all a sanlock host can't ask for the resource.
pub(crate) fn resource_area(leader: &Leader, at: u64) -> Vec<u8> {
    let geometry = leader.geometry;
    let mut area = area_of(geometry, leader.encode(at));
    let request = Request::default().encode(geometry);
    let start = geometry.request_offset() as usize;
    area[start..start + request.len()].copy_from_slice(&request);
    area
}

/// Writes an area; its first sector comes last and makes it valid. Each write may take `timeout`.
pub(crate) fn write_area(
    io: &Io,
    geometry: Geometry,
    at: u64,
    mut area: Vec<u8>,
    timeout: Duration,
) -> Result<(), DiskError> {
    let first = area[..geometry.sector_bytes()].to_vec();
    area[..first.len()].fill(0);
    write_within(io, at, area, timeout)?;
    write_within(io, at, first, timeout)
}

fn write(io: &Io, at: u64, data: Vec<u8>) -> Result<(), DiskError> {
    write_within(io, at, data, FORMAT_WRITE)
}

fn write_within(io: &Io, at: u64, data: Vec<u8>, timeout: Duration) -> Result<(), DiskError> {
    for (chunk, number) in data.chunks(CHUNK).zip(0..) {
        io.write(Lane::General, at + number * CHUNK as u64, chunk.to_vec(), timeout)?;
    }
    Ok(())
}

/// Marks the resources of the lockspace that was here before as deleted. Their versions stay: a resource that is made
/// in the same place goes on from them, so that a fencing token never comes back.
fn clear_resources(io: &Io, former: &Lockspace, from: u64) -> Result<(), DiskError> {
    let geometry = former.geometry();
    let area = geometry.area_bytes();
    let areas = io.disk().len() / area;
    let most = FIXED_AREAS + u64::from(geometry.max_index_entries());
    for at in (FIXED_AREAS..areas.min(most)).map(|number| number * area).filter(|at| *at >= from) {
        let (_, sector) = io.read(Lane::General, at, geometry.sector_bytes(), FORMAT_WRITE)?;
        if let Ok(leader) = Leader::decode(&sector, at)
            && !leader.cleared
        {
            write(io, at, Leader { cleared: true, timestamp: 0, ..leader }.encode(at))?;
        }
    }
    Ok(())
}
