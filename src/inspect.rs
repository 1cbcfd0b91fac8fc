//! What stands in the sectors of a lockspace, record by record and field by field: for tools that show or check a
//! device, a damaged one, too. A program that uses leases needs nothing of it; one that repairs a device begins with
//! [`Lockspace::examine`].
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::Arc;
//!
//! use leasehold::disk::{Disk, MemoryDisk};
//! use leasehold::{FormatOptions, Lockspace, inspect};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let disk = Arc::new(MemoryDisk::new(8 << 20, None));
//! leasehold::format(disk.clone(), &FormatOptions::default())?;
//!
//! let lockspace = Lockspace::open(disk)?;
//! let failed = inspect::each_record(&lockspace, |record| -> Result<(), Infallible> {
//!     println!("{} at offset {}: {} fields", record.title, record.offset, record.fields.len());
//!     assert_eq!(record.flaw, None);
//!     Ok(())
//! })?;
//! assert!(failed.is_empty());
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeSet;

use crate::error::DiskError;
use crate::format::{
    Block, Corrupt, HostBitmap, IndexEntry, IndexHeader, Leader, RecordKind, Request, Value as ValueBlock, fields,
};
use crate::lockspace::Lockspace;
use crate::protocol::{Defect, Seen, reading};
use crate::types::{HostId, Name};

pub use crate::format::{Field, FieldValue};

/// A record on the device, or what stands in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// What belongs there, in words: `host record of host 3`, `block of host 3 for database`.
    pub title: String,
    /// Where it stands, in bytes from the device's start.
    pub offset: u64,
    /// Its fields in the order in which they stand there, valid or not; none when it can't be read.
    pub fields: Vec<Field>,
    /// What is wrong with it, if anything is.
    pub flaw: Option<String>,
}

/// Tells of every record of the lockspace that is in use or damaged: those of hosts, the index, and what it lists; then
/// resources that the leaders on the device name though no index does, which are looked for as by
/// [`Lockspace::search`]. Reads only, a few megabytes at a time, and needs no host id. Others may write meanwhile.
///
/// Returns the reads that failed: of what they were for nothing was told.
///
/// # Errors
/// The first one that `tell` answers, which ends it.
pub fn each_record<E>(lockspace: &Lockspace, tell: impl FnMut(Record) -> Result<(), E>) -> Result<Vec<DiskError>, E> {
    let mut walk = Walk { lockspace, tell, failed: Vec::new() };
    walk.everything()?;
    Ok(walk.failed)
}

/// A sector, or why it can't be read.
type Sector = Result<Vec<u8>, Defect>;

struct Walk<'a, F> {
    lockspace: &'a Lockspace,
    tell: F,
    failed: Vec<DiskError>,
}

impl<E, F: FnMut(Record) -> Result<(), E>> Walk<'_, F> {
    fn everything(&mut self) -> Result<(), E> {
        self.hosts()?;
        let mut shown = BTreeSet::new();
        // Where that can't be read the rest is tried, and told, all the same.
        if self.lockspace.has_index().unwrap_or(true) {
            let entries = self.index(self.lockspace.geometry().area_bytes())?;
            let guard = self.lockspace.index_guard();
            self.resource(guard.name(), guard.offset())?;
            for entry in entries {
                self.resource(entry.name, entry.offset)?;
                shown.insert(entry.offset);
            }
        }
        match self.lockspace.search() {
            Ok(found) => {
                for resource in found.into_iter().filter(|resource| !shown.contains(&resource.offset())) {
                    self.resource(resource.name(), resource.offset())?;
                }
            }
            Err(error) => self.failed.push(error),
        }
        Ok(())
    }

    /// The delta records of the ids that were ever held, and damaged ones.
    fn hosts(&mut self) -> Result<(), E> {
        let geometry = self.lockspace.geometry();
        let sectors = self.sectors(0, geometry.max_hosts());
        for (sector, host) in sectors.iter().zip(1..).filter_map(|(sector, id)| Some((sector, HostId::new(id)?))) {
            let at = geometry.delta_offset(host);
            let record = judged(sector, |sector| reading::record(sector, at, self.lockspace.nonce()));
            let error = match &record {
                Ok(record) if record.generation == 0 && record.is_free() => continue,
                Ok(record) if record.owner_id != host.get() || record.lockspace != self.lockspace.name() => {
                    Some(format!("it belongs to host id {} of lockspace {}", record.owner_id, record.lockspace))
                }
                Ok(record) if record.geometry != geometry => Some(format!("it is for {}", record.geometry)),
                Ok(_) => None,
                Err(error) => Some(error.clone()),
            };
            let bytes = bytes(sector);
            let mut all = fields(RecordKind::Delta, bytes);
            if let Ok(bitmap) = HostBitmap::decode(bytes)
                && record.is_ok()
                && !bitmap.is_empty()
            {
                let called = (1..=geometry.max_hosts()).filter_map(HostId::new).filter(|host| bitmap.contains(*host));
                all.push(Field { name: "calls", value: FieldValue::Hosts(called.collect()) });
            }
            self.record(format!("host record of host {host}"), at, all, error)?;
        }
        Ok(())
    }

    /// The header of the index, and its entries that are used or damaged; returns where resources are.
    fn index(&mut self, at: u64) -> Result<Vec<IndexEntry>, E> {
        let geometry = self.lockspace.geometry();
        let size = geometry.sector_bytes();
        let sectors = self.sectors(at, geometry.sectors_per_area() as u64);
        let Some((first, rest)) = sectors.split_first() else { return Ok(Vec::new()) };
        let header = decoded(first, |bytes| IndexHeader::decode(bytes, at));
        let error = match &header {
            Ok(header) if header.geometry != geometry => Some(format!("it is for {}", header.geometry)),
            Ok(header) if header.lockspace != self.lockspace.name() => {
                Some(format!("it belongs to lockspace {}", header.lockspace))
            }
            Ok(_) => None,
            Err(error) => Some(error.clone()),
        };
        let all = fields(RecordKind::IndexHeader, bytes(first));
        self.record("index header".into(), at, all, error)?;
        // Where the header doesn't say how many entries there are, all that there may be are looked at.
        let assumed =
            IndexHeader { geometry, max_resources: geometry.max_index_entries(), offset: at, lockspace: Name::EMPTY };
        let header = header.ok().filter(|header| header.geometry == geometry).unwrap_or(assumed);
        let mut used = Vec::new();
        for number in 0..header.max_resources {
            let offset = geometry.index_entry_offset(number);
            let (sector, within) = (offset as usize / size - 1, offset as usize % size);
            let Some(sector) = rest.get(sector) else { break };
            let bytes = match sector {
                Ok(sector) => &sector[within..within + IndexEntry::BYTES],
                // Told once for all its entries.
                Err(_) if within != 0 => continue,
                Err(_) => &[],
            };
            let entry = decoded(sector, |_| match bytes.try_into() {
                Ok(bytes) => IndexEntry::decode(bytes),
                Err(_) => Err(Corrupt::Length { bytes: bytes.len() }),
            });
            let place = header.resource_offset(number);
            let error = match entry {
                Ok(None) => continue,
                Ok(Some(entry)) if entry.offset == place => {
                    used.push(entry);
                    None
                }
                entry => {
                    // The area of that entry may still be what it was.
                    let leader = self.lockspace.sectors(place, 1).ok().and_then(|mut sectors| sectors.pop()?.ok());
                    if let Some(Ok(leader)) = leader.map(|sector| Leader::decode(&sector, place)) {
                        used.push(IndexEntry { offset: place, name: leader.resource });
                    }
                    Some(entry.err().unwrap_or_else(|| format!("it must point to offset {place}")))
                }
            };
            let all = fields(RecordKind::IndexEntry, bytes);
            self.record(format!("index entry {number}"), at + offset, all, error)?;
        }
        Ok(used)
    }

    /// The leader of a resource, a request for it, and the blocks that hold something.
    fn resource(&mut self, name: Name, area: u64) -> Result<(), E> {
        let geometry = self.lockspace.geometry();
        let sectors = self.sectors(area, geometry.max_hosts() + 2);
        let [first, second, blocks @ ..] = sectors.as_slice() else { return Ok(()) };
        let nonce = self.lockspace.nonce();
        let error = match judged(first, |sector| reading::leader(sector, area, nonce)) {
            Ok(leader) if leader.resource != name || leader.lockspace != self.lockspace.name() => {
                Some(format!("it belongs to resource {} of lockspace {}", leader.resource, leader.lockspace))
            }
            Ok(leader) if leader.geometry != geometry => Some(format!("it is for {}", leader.geometry)),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let all = fields(RecordKind::Leader, bytes(first));
        self.record(format!("leader of {name}"), area, all, error)?;
        let request = decoded(second, Request::decode);
        if !is_zero(second) && request != Ok(Request::default()) {
            let error = request.err();
            let all = fields(RecordKind::Request, bytes(second));
            self.record(format!("request for {name}"), area + geometry.request_offset(), all, error)?;
        }
        for (sector, host) in blocks.iter().zip(1..).filter_map(|(sector, id)| Some((sector, HostId::new(id)?))) {
            let at = area + geometry.block_offset(host);
            let block = judged(sector, |sector| reading::block(sector, at, nonce));
            // Nobody has used it.
            if is_zero(sector) || block.as_ref().is_ok_and(Block::is_blank) {
                continue;
            }
            let error = block.err();
            let all = fields(RecordKind::Block, bytes(sector));
            self.record(format!("block of host {host} for {name}"), at, all, error)?;
        }
        self.value(name, area)
    }

    /// The value block of a resource: the mark, where it has one, and the data.
    fn value(&mut self, name: Name, area: u64) -> Result<(), E> {
        let Some(at) = self.lockspace.geometry().value_offset().map(|within| area + within) else { return Ok(()) };
        let sectors = self.sectors(at, 1);
        let Some(sector) = sectors.first().filter(|sector| !is_zero(sector)) else { return Ok(()) };
        let value = decoded(sector, |bytes| ValueBlock::decode(bytes, at));
        let mut all = fields(RecordKind::Value, bytes(sector));
        if let Ok(Some(value)) = &value {
            all.push(Field { name: "value", value: FieldValue::Bytes(value.data.clone()) });
        }
        self.record(format!("value of {name}"), at, all, value.err())
    }

    /// Whole sectors. What can't be read at all is one damage, and no sectors.
    fn sectors(&mut self, at: u64, count: u64) -> Vec<Sector> {
        match self.lockspace.sectors(at, count) {
            Ok(sectors) => sectors,
            Err(error) => {
                self.failed.push(error);
                Vec::new()
            }
        }
    }

    fn record(&mut self, title: String, offset: u64, fields: Vec<Field>, flaw: Option<String>) -> Result<(), E> {
        (self.tell)(Record { title, offset, fields, flaw })
    }
}

fn bytes(sector: &Sector) -> &[u8] {
    sector.as_deref().unwrap_or_default()
}

fn is_zero(sector: &Sector) -> bool {
    sector.as_ref().is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

/// What a sector says in this lockspace.
fn judged<T>(sector: &Sector, read: impl FnOnce(Result<&[u8], Defect>) -> Seen<T>) -> Result<T, String> {
    match read(sector.as_deref().map_err(Defect::clone)) {
        Seen::Good(record) => Ok(record),
        Seen::Bad(defect) => Err(defect.to_string()),
    }
}

fn decoded<T, E: ToString>(sector: &Sector, decode: impl FnOnce(&[u8]) -> Result<T, E>) -> Result<T, String> {
    decode(sector.as_ref().map_err(ToString::to_string)?).map_err(|error| error.to_string())
}
