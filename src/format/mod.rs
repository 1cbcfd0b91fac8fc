//! The on-disk format: bytes to validated types and back, and nothing else.
//!
//! It is sanlock's (delta lease 3.4, paxos lease 6.4, resource index 1.2), so that hosts of both kinds can share one
//! lockspace. Everything is little endian. Reserved bytes are zero when written and ignored when read.
//!
//! ```text
//! a device as leasehold formats it          a lockspace's area       a resource's area
//! area 0    lockspace                       sector N-1  the delta    sector 0    leader
//! area 1    resource index                              record of    sector 1    request
//! area 2    lease that guards the index                 host id N    sector 1+N  block of host id N
//! area 3+N  resource of index entry N                                sector 2002 value block
//!
//! delta record                  leader                        block
//!   0..168 covered by checksum    0..168 covered by checksum    0..48  covered by checksum
//! 168..172 checksum             168..172 checksum              48..52  checksum
//! 172..200 I/O timeout, event   172..200 writer                52..56  released flag
//! 200..256 extension            200..216 extension             56..120 extension
//! 256..512 bitmap of hosts                                    128..144 shared flag, generation
//!
//! request                       index header                  index entry, from sector 1 on
//!   0..20  no checksum            0..80  no checksum            0..64
//!
//! value block
//!   0..    data of the users' own
//!   the last 40 bytes: mark
//! ```
//!
//! An extension stands in bytes that sanlock never reads, and its checksum covers the whole sector and the sector's
//! position. It is optional: a record without one is a sanlock host's. One that is there but wrong makes the record
//! [`Corrupt`].
//!
//! "Corrupt" is an error of this module. "Unreadable" is an error of the disk, "free" and "held" are states of a valid
//! record: the four are never mixed up.

mod block;
mod bytes;
mod calls;
mod checksum;
mod delta;
mod extension;
mod index;
mod layout;
mod leader;
pub(crate) mod numbers;
mod paxos;
mod request;
#[cfg(test)]
mod tests;
mod value;

pub use block::{Block, BlockExtension};
pub use calls::{Calls, HostBitmap, HostEvent};
pub use checksum::checksum;
pub use delta::{DeltaExtension, DeltaRecord};
pub use index::{IndexEntry, IndexHeader};
pub use layout::{AreaSize, Geometry, GeometryError, SectorSize};
pub use paxos::{Leader, LeaderExtension, Writer};
pub use request::{Force, Request};
pub use value::{Value, ValueOrigin};

use crate::timeouts::Timeouts;
use crate::types::{HostId, Name};

/// Why bytes are not a valid record of the kind that was expected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Corrupt {
    /// What was given isn't one sector.
    #[error("{bytes} bytes are not one sector of 512 or 4096 bytes")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// It is a record of another kind, or none.
    #[error("magic number {found:#010x} instead of {expected:#010x}")]
    Magic {
        /// What stands there.
        found: u32,
        /// The number of the expected kind.
        expected: u32,
    },
    /// Another major version of the format.
    #[error("format version {}.{}, this is for {}.x", found >> 16, found & 0xffff, expected >> 16)]
    Version {
        /// What stands there: major version in the upper half, minor in the lower.
        found: u32,
        /// The version that this program writes.
        expected: u32,
    },
    /// The record's own checksum is wrong.
    #[error("checksum {found:#010x} instead of {computed:#010x}")]
    Checksum {
        /// What stands there.
        found: u32,
        /// What it should be for these bytes.
        computed: u32,
    },
    /// The record is for sectors of another size than it was read with.
    #[error("written for sectors of {found} bytes, read with {expected}")]
    SectorSize {
        /// Bytes, as the record says.
        found: u32,
        /// Bytes, as it was read.
        expected: usize,
    },
    /// The area size is none, or doesn't go with the sector size.
    #[error("flags {flags:#x} are no area size that goes with the sector size")]
    AreaSize {
        /// The flags that stand for area sizes.
        flags: u32,
    },
    /// A leader says another maximum of hosts than its geometry has.
    #[error("room for {found} hosts, but its sector and area size give {expected}")]
    MaxHosts {
        /// What stands there.
        found: u64,
        /// What the geometry gives.
        expected: u64,
    },
    /// A leader is for no host, or for more than its area has room for.
    #[error("for {found} hosts, it must be 1 to {max}")]
    NumHosts {
        /// What stands there.
        found: u64,
        /// What the area has room for.
        max: u64,
    },
    /// The owner is no host that the area has room for.
    #[error("the owner's host id is {found}, the area has no room for it")]
    OwnerId {
        /// What stands there.
        found: u64,
    },
    /// The record is held, or names a value, but not a whole owner.
    #[error("held by host id {id} generation {generation}: neither may be 0")]
    NoOwner {
        /// The host id that stands there.
        id: u64,
        /// The generation that stands there.
        generation: u64,
    },
    /// A number that no host writes.
    #[error("{field} is {found}, where {limit} is more than any host comes to")]
    Number {
        /// The field, as it is named in a dump.
        field: &'static str,
        /// What stands there.
        found: u64,
        /// The least that is too much.
        limit: u64,
    },
    /// The extension has a wrong checksum or length: a sector that rotted, or that belongs to another place.
    #[error("the extension's checksum is wrong: damaged, or written for another place")]
    ExtensionChecksum,
    /// The extension's timeouts fail an inequality.
    #[error("the timeouts in the extension are invalid: {}", why_invalid(*millis))]
    ExtensionTimeouts {
        /// R, T, F, G and D in milliseconds.
        millis: [u32; 5],
    },
    /// A request asks for something unknown.
    #[error("unknown request {found}")]
    Force {
        /// What stands there.
        found: u32,
    },
    /// An index has no entries, or more than its area has room for.
    #[error("{found} index entries, it must be 1 to {max}")]
    MaxResources {
        /// What stands there.
        found: u32,
        /// What the area has room for.
        max: u32,
    },
    /// An index header says that it stands elsewhere.
    #[error("written for offset {found}, read at {expected}")]
    Position {
        /// Bytes, as the record says.
        found: u64,
        /// Bytes, where it was read.
        expected: u64,
    },
    /// An index entry has a name without an offset, or an offset without a name.
    #[error("an index entry with the name {name:?} and the offset {offset}")]
    IndexEntry {
        /// The offset that stands there.
        offset: u64,
        /// The name that stands there.
        name: Name,
    },
}

fn why_invalid(millis: [u32; 5]) -> String {
    Timeouts::from_millis(millis).err().map_or_else(String::new, |error| error.to_string())
}

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// [`DeltaRecord`].
    Delta,
    /// [`Leader`].
    Leader,
    /// [`Request`].
    Request,
    /// [`Block`].
    Block,
    /// [`IndexHeader`].
    IndexHeader,
    /// [`IndexEntry`].
    IndexEntry,
    /// [`Value`].
    Value,
}

/// A field of a record as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: FieldValue,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldValue {
    /// A number that is best read in decimal.
    Number(u64),
    /// A number that is best read in hexadecimal.
    Hex(u64),
    /// A name.
    Text(Name),
    /// The hosts that are called.
    Hosts(Vec<HostId>),
    /// The data of a value.
    Bytes(Vec<u8>),
}

/// The fields that `bytes` have when they are taken for a record of this kind, in disk order, valid or not: to look at
/// a damaged record. Those of the extension are there when its magic number is. Empty when there are too few bytes: an
/// index entry takes 64, all others a sector.
pub fn fields(kind: RecordKind, bytes: &[u8]) -> Vec<Field> {
    let wanted = if kind == RecordKind::IndexEntry { IndexEntry::BYTES } else { SectorSize::B512.bytes() };
    if bytes.len() < wanted {
        return Vec::new();
    }
    match kind {
        RecordKind::Delta => delta::fields(bytes),
        RecordKind::Leader => paxos::fields(bytes),
        RecordKind::Request => request::fields(bytes),
        RecordKind::Block => block::fields(bytes),
        RecordKind::IndexHeader => index::header_fields(bytes),
        RecordKind::IndexEntry => index::entry_fields(bytes),
        RecordKind::Value => value::fields(bytes),
    }
}
