//! Disks as sectors of bytes, and the I/O in flight on them.

use std::collections::BTreeMap;
use std::rc::Rc;

use leasehold::format::{Block, DeltaRecord, Geometry, IndexEntry, Leader};
use leasehold::protocol::catalog::index::Index;
use leasehold::protocol::{Defect, Seen, reading};
use leasehold::{HostId, Name, Resource, Time, Version};

use super::env::{NONCE, name};
use super::host::Tag;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// An area of the device behind the lockspace's, which is the first: a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Area(u32);

/// Bytes of an area.
const AREA: u64 = 1 << 20;

impl Area {
    /// The index, behind the lockspace.
    pub(super) const INDEX: Area = Area(1);
    /// The lease that guards it.
    pub(super) const GUARD: Area = Area(2);

    /// The area of the resource with this number: behind the lockspace and the two areas of an index.
    pub(super) const fn of_resource(number: usize) -> Area {
        Area(3 + number as u32)
    }

    /// The number of the resource.
    pub(super) const fn number(self) -> usize {
        self.0 as usize - 3
    }

    /// Whose sector is at `offset`; `None`: it is one of the lockspace.
    pub(super) const fn at(offset: u64) -> Option<Area> {
        if offset < AREA { None } else { Some(Area((offset / AREA) as u32)) }
    }

    /// Where its leader stands.
    pub(super) const fn offset(self) -> u64 {
        self.0 as u64 * AREA
    }

    /// Where the block of `host` stands.
    pub(super) fn block_at(self, host: HostId) -> u64 {
        self.offset() + Geometry::default().block_offset(host)
    }

    /// Where its request stands.
    pub(super) fn request_at(self) -> u64 {
        self.offset() + Geometry::default().request_offset()
    }

    /// Where its value stands.
    pub(super) fn value_at(self) -> u64 {
        self.offset() + Geometry::default().value_offset().unwrap_or_default()
    }

    /// Whether the sector at `offset` is one that ownership follows from: the leader, or a block.
    pub(super) fn decides(self, offset: u64) -> bool {
        offset != self.request_at() && offset != self.value_at()
    }

    /// Where its leader and the blocks of these hosts stand.
    pub(super) fn offsets(self, hosts: impl IntoIterator<Item = HostId>) -> Vec<u64> {
        let blocks = hosts.into_iter().map(|host| self.block_at(host));
        std::iter::once(self.offset()).chain(blocks).collect()
    }

    /// Whose block the sector at `offset` would be.
    pub(super) fn host_at(self, offset: u64) -> Option<HostId> {
        HostId::new(((offset - self.offset()) / SECTOR).checked_sub(1)?)
    }

    /// The resource that is there from the start.
    pub(super) fn resource(self) -> Resource {
        match self {
            Area::GUARD => Index::guard(Geometry::default()),
            _ => Index::listed(&IndexEntry { offset: self.offset(), name: self.name() }),
        }
    }

    /// The resource's name.
    pub(super) fn name(self) -> Name {
        name(format!("res{}", self.0).as_bytes())
    }
}

/// The bytes of one sector, which many may have read.
pub(super) type Sector = Rc<[u8]>;

/// What an I/O does.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Read {
        offsets: Rc<[u64]>,
        sectors: Vec<Sector>,
    },
    /// Consecutive sectors, the first of them at `offset`.
    Write {
        offset: u64,
        parts: Vec<Part>,
    },
}

/// One sector of a write.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) bytes: Sector,
    /// Whether it is still going to land.
    pub(super) lands: bool,
}

impl Action {
    /// A write of `bytes`, which are one or more sectors.
    pub(super) fn write(offset: u64, bytes: &[u8]) -> Action {
        let parts = bytes.chunks(SECTOR as usize).map(|bytes| Part { bytes: bytes.into(), lands: true });
        Action::Write { offset, parts: parts.collect() }
    }

    /// The sectors that it writes.
    pub(super) fn written(&self) -> impl Iterator<Item = u64> + use<> {
        let (offset, count) = match self {
            Action::Write { offset, parts } => (*offset, parts.len() as u64),
            Action::Read { .. } => (0, 0),
        };
        (0..count).map(move |index| offset + index * SECTOR)
    }
}

/// An I/O between its submission and its completion.
#[derive(Clone, Debug)]
pub(super) struct Io {
    pub(super) host: usize,
    /// Which process of the host.
    pub(super) epoch: u64,
    pub(super) tag: Tag,
    pub(super) disk: usize,
    /// On the host's clock, before the check that came before the submission.
    pub(super) started: Time,
    pub(super) action: Action,
    /// Its process is told when it takes too long.
    pub(super) timed: bool,
    /// It is going to be reported as failed.
    pub(super) fails: bool,
    /// It is of several sectors, and its first moment has not come: each of them is seen or lands at the first or at
    /// the last one.
    pub(super) is_whole: bool,
    /// It was reported as timed out.
    pub(super) late: bool,
    /// A read: the first part of it came from a stale copy. Then all of it does.
    pub(super) stale: bool,
}

/// All disks.
pub(super) struct Storage {
    disks: Vec<BTreeMap<u64, Sector>>,
    empty: Sector,
    /// Of the lockspace that there is.
    pub(super) nonce: u32,
    pub(super) ios: BTreeMap<u64, Io>,
    next: u64,
}

impl Storage {
    pub(super) fn new(disks: usize) -> Storage {
        let empty = vec![0; SECTOR as usize].into();
        Storage { disks: vec![BTreeMap::new(); disks], empty, nonce: NONCE, ios: BTreeMap::new(), next: 0 }
    }

    pub(super) fn disks(&self) -> usize {
        self.disks.len()
    }

    pub(super) fn sector(&self, disk: usize, offset: u64) -> Sector {
        self.disks[disk].get(&offset).unwrap_or(&self.empty).clone()
    }

    /// Whether the sector is bad for good: it has no bytes, and takes none.
    pub(super) fn is_bad(&self, disk: usize, offset: u64) -> bool {
        self.disks[disk].get(&offset).is_some_and(|sector| sector.is_empty())
    }

    pub(super) fn put(&mut self, disk: usize, offset: u64, bytes: Sector) {
        self.disks[disk].insert(offset, bytes);
    }

    /// A copy of what is on disk now.
    pub(super) fn copy(&self) -> Storage {
        Storage { disks: self.disks.clone(), empty: self.empty.clone(), ios: BTreeMap::new(), ..*self }
    }

    pub(super) fn delta(&self, at: u64) -> Seen<DeltaRecord> {
        reading::record(readable(&self.sector(0, at)), at, self.nonce)
    }

    pub(super) fn leader(&self, disk: usize, area: Area) -> Seen<Leader> {
        let at = area.offset();
        reading::leader(readable(&self.sector(disk, at)), at, self.nonce)
    }

    pub(super) fn block(&self, disk: usize, area: Area, host: HostId) -> Seen<Block> {
        let at = area.block_at(host);
        reading::block(readable(&self.sector(disk, at)), at, self.nonce)
    }

    /// The latest version of a resource that a leader, or a value accepted by one of these hosts, shows.
    pub(super) fn latest_shown(&self, area: Area, hosts: impl Iterator<Item = HostId> + Clone) -> Version {
        let leaders = (0..self.disks()).filter_map(|disk| Some(self.leader(disk, area).good()?.version));
        let blocks = (0..self.disks()).flat_map(|disk| hosts.clone().map(move |host| (disk, host)));
        let blocks = blocks.filter_map(|(disk, host)| {
            Some(self.block(disk, area, host).good().filter(|block| block.bal > 0)?.instance)
        });
        leaders.chain(blocks).max().unwrap_or_default()
    }

    pub(super) fn begin(&mut self, io: Io) -> u64 {
        self.next += 1;
        self.ios.insert(self.next, io);
        self.next
    }

    /// Whether a machine has a write in flight to a sector that `which` picks.
    pub(super) fn writing(&self, host: usize, which: impl Fn(usize, u64) -> bool) -> bool {
        self.ios.values().filter(|io| io.host == host).any(|io| io.action.written().any(|at| which(io.disk, at)))
    }
}

/// The bytes of a sector; one that can't be read has none.
pub(super) fn readable(sector: &[u8]) -> Result<&[u8], Defect> {
    if sector.is_empty() { Err(Defect::Unreadable) } else { Ok(sector) }
}

/// The nonce that the bytes of a sector at `offset` say, if they are a record, a leader or a block with one.
pub(super) fn nonce_of(offset: u64, bytes: &[u8]) -> Option<u32> {
    match Area::at(offset) {
        None => DeltaRecord::decode(bytes, offset).ok()?.nonce(),
        Some(area) if area.offset() == offset => Leader::decode(bytes, offset).ok()?.nonce(),
        Some(_) => Block::decode(bytes, offset).ok()?.nonce(),
    }
}

/// The host record in a sector, also one that a format has begun and not finished.
pub(super) fn begun_record(offset: u64, bytes: &[u8]) -> Option<DeltaRecord> {
    DeltaRecord::decode(bytes, offset).ok().or_else(|| DeltaRecord::unfinished(bytes, offset))
}

/// Whether the sector at `offset` is the record or a block of `host`.
pub(super) fn is_of(host: HostId, offset: u64) -> bool {
    offset == Area::at(offset).map_or_else(|| delta_at(host), |area| area.block_at(host))
}

pub(super) fn delta_at(host: HostId) -> u64 {
    Geometry::default().delta_offset(host)
}
