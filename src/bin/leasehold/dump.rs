//! `leasehold dump`

use std::collections::BTreeSet;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;

use clap::Args;
use leasehold::disk::Access;
use leasehold::format::{
    Block, Corrupt, Field, FieldValue, HostBitmap, IndexEntry, IndexHeader, Leader, RecordKind, Request,
    Value as ValueBlock, fields,
};
use leasehold::protocol::{Defect, Seen, reading};
use leasehold::{HostId, Lockspace, Name};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::{damaged, written};
use crate::prepare::open;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold dump /dev/vg/leases
  leasehold dump leasehold.img --json

Prints what it can read of a device that is damaged, and what is wrong with the rest. Writes nothing.")]
pub(crate) struct DumpArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let lockspace = open(&args.device, Access::ReadOnly)?;
    let out = BufWriter::new(io::stdout().lock());
    let mut dump = Dump { lockspace: &lockspace, out, json: args.json, printed: 0, damages: Vec::new() };
    let result = dump.everything();
    let Dump { damages, .. } = dump;
    written(result)?;
    damaged(&damages)
}

/// A sector, or why it can't be read.
type Sector = Result<Vec<u8>, String>;

struct Dump<'a> {
    lockspace: &'a Lockspace,
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    printed: u64,
    damages: Vec<String>,
}

impl Dump<'_> {
    fn everything(&mut self) -> io::Result<()> {
        if self.json {
            write!(self.out, "[")?;
        }
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
            Err(error) => self.damages.push(format!("{error}: {}", error.cause)),
        }
        if self.json {
            writeln!(self.out, "\n]")?;
        }
        self.out.flush()
    }

    /// The delta records of the ids that were ever held, and damaged ones.
    fn hosts(&mut self) -> io::Result<()> {
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
            let mut all = shown(RecordKind::Delta, bytes);
            if let Ok(bitmap) = HostBitmap::decode(bytes)
                && record.is_ok()
                && !bitmap.is_empty()
            {
                let called = (1..=geometry.max_hosts()).filter_map(HostId::new).filter(|host| bitmap.contains(*host));
                all.push(("calls", called.map(HostId::get).collect::<Vec<_>>().into()));
            }
            self.print(&format!("host record of host {host}"), at, &all, error)?;
        }
        Ok(())
    }

    /// The header of the index, and its entries that are used or damaged; returns where resources are.
    fn index(&mut self, at: u64) -> io::Result<Vec<IndexEntry>> {
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
        let all = shown(RecordKind::IndexHeader, bytes(first));
        self.print("index header", at, &all, error)?;
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
            let all = shown(RecordKind::IndexEntry, bytes);
            self.print(&format!("index entry {number}"), at + offset, &all, error)?;
        }
        Ok(used)
    }

    /// The leader of a resource, a request for it, and the blocks that hold something.
    fn resource(&mut self, name: Name, area: u64) -> io::Result<()> {
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
        let all = shown(RecordKind::Leader, bytes(first));
        self.print(&format!("leader of {name}"), area, &all, error)?;
        let request = decoded(second, Request::decode);
        if !is_zero(second) && request != Ok(Request::default()) {
            let error = request.err();
            let all = shown(RecordKind::Request, bytes(second));
            self.print(&format!("request for {name}"), area + geometry.request_offset(), &all, error)?;
        }
        for (sector, host) in blocks.iter().zip(1..).filter_map(|(sector, id)| Some((sector, HostId::new(id)?))) {
            let at = area + geometry.block_offset(host);
            let block = judged(sector, |sector| reading::block(sector, at, nonce));
            // Nobody has used it.
            if is_zero(sector) || block.as_ref().is_ok_and(Block::is_blank) {
                continue;
            }
            let error = block.err();
            let all = shown(RecordKind::Block, bytes(sector));
            self.print(&format!("block of host {host} for {name}"), at, &all, error)?;
        }
        self.value(name, area)
    }

    /// The value block of a resource: the mark, where it has one, and the data.
    fn value(&mut self, name: Name, area: u64) -> io::Result<()> {
        let Some(at) = self.lockspace.geometry().value_offset().map(|within| area + within) else { return Ok(()) };
        let sectors = self.sectors(at, 1);
        let Some(sector) = sectors.first().filter(|sector| !is_zero(sector)) else { return Ok(()) };
        let value = decoded(sector, |bytes| ValueBlock::decode(bytes, at));
        let mut all = shown(RecordKind::Value, bytes(sector));
        if let Ok(Some(value)) = &value {
            all.push(("value", value.data.escape_ascii().to_string().into()));
        }
        self.print(&format!("value of {name}"), at, &all, value.err())
    }

    /// Whole sectors. What can't be read at all is one damage, and no sectors.
    fn sectors(&mut self, at: u64, count: u64) -> Vec<Sector> {
        match self.lockspace.sectors(at, count) {
            Ok(sectors) => sectors.into_iter().map(|sector| sector.map_err(|defect| defect.to_string())).collect(),
            Err(error) => {
                self.damages.push(format!("{error}: {}", error.cause));
                Vec::new()
            }
        }
    }

    fn print(&mut self, record: &str, at: u64, all: &[(&str, Value)], error: Option<String>) -> io::Result<()> {
        if let Some(error) = &error {
            let device = self.lockspace.device();
            self.damages.push(format!("the {record} at offset {at} of {device} is damaged: {error}"));
        }
        let first = self.printed == 0;
        self.printed += 1;
        if self.json {
            let all: Map<String, Value> = all.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
            let json = json!({ "record": record, "offset": at, "fields": all, "error": error });
            return write!(self.out, "{}\n  {json}", if first { "" } else { "," });
        }
        if !first {
            writeln!(self.out)?;
        }
        writeln!(self.out, "{record} at offset {at}")?;
        if let Some(error) = error {
            writeln!(self.out, "  DAMAGED: {error}")?;
        }
        let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, value) in all {
            match value {
                Value::String(text) => writeln!(self.out, "  {name:width$}  {text}")?,
                value => writeln!(self.out, "  {name:width$}  {value}")?,
            }
        }
        Ok(())
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
    match read(Ok(sector.as_ref().map_err(String::clone)?)) {
        Seen::Good(record) => Ok(record),
        Seen::Bad(defect) => Err(defect.to_string()),
    }
}

fn decoded<T, E: ToString>(sector: &Sector, decode: impl FnOnce(&[u8]) -> Result<T, E>) -> Result<T, String> {
    decode(sector.as_ref().map_err(String::clone)?).map_err(|error| error.to_string())
}

/// The fields as they are printed: hexadecimal numbers and names as text.
fn shown(kind: RecordKind, bytes: &[u8]) -> Vec<(&'static str, Value)> {
    let value = |field: &Field| match &field.value {
        FieldValue::Number(number) => (*number).into(),
        FieldValue::Hex(number) => format!("{number:#x}").into(),
        FieldValue::Text(name) => name.to_string().into(),
    };
    fields(kind, bytes).iter().map(|field| (field.name, value(field))).collect()
}
