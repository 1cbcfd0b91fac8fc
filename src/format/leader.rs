//! The 200 bytes that delta records and paxos leaders have in common.

use super::bytes::{put, raw_record};
use super::checksum::checksum;
use super::{Corrupt, Geometry, SectorSize};
use crate::types::Name;

raw_record! {
    /// A leader record as it stands on disk, unchecked.
    RawLeader 0..200 {
        0 magic: u32 as Hex,
        4 version: u32 as Hex,
        8 flags: u32 as Hex,
        12 sector_size: u32 as Number,
        16 num_hosts: u64 as Number,
        24 max_hosts: u64 as Number,
        32 owner_id: u64 as Number,
        40 owner_generation: u64 as Number,
        48 lver: u64 as Number,
        56 space_name: Name as Text,
        104 resource_name: Name as Text,
        152 timestamp: u64 as Number,
        160 unused1: u64 as Number,
        168 checksum: u32 as Hex,
        172 unused2: u16 as Number,
        174 io_timeout: u16 as Number,
        176 write_id: u64 as Number,
        184 write_generation: u64 as Number,
        192 write_timestamp: u64 as Number,
    }
}

/// The checksum's place, and the end of what it covers.
const CHECKSUM: usize = 168;
/// Where the extension of either record starts.
pub(super) const EXTENSION: usize = 200;

impl RawLeader {
    /// The checks that both records have in common; gives their geometry. Magic numbers are the caller's.
    pub(super) fn check(&self, sector: &[u8], version: u32) -> Result<Geometry, Corrupt> {
        same_version(self.version, version)?;
        let computed = checksum(&sector[..CHECKSUM]);
        if self.checksum != computed {
            return Err(Corrupt::Checksum { found: self.checksum, computed });
        }
        let geometry = Geometry::from_leader(SectorSize::of(sector)?, self.sector_size, self.flags)?;
        if self.owner_id > geometry.max_hosts() {
            return Err(Corrupt::OwnerId { found: self.owner_id });
        }
        if self.timestamp != 0 && (self.owner_id == 0 || self.owner_generation == 0) {
            return Err(Corrupt::NoOwner { id: self.owner_id, generation: self.owner_generation });
        }
        Ok(geometry)
    }

    /// Writes the fields, and the checksum of what they are.
    pub(super) fn write_with_checksum(&self, sector: &mut [u8]) {
        self.write(sector);
        let checksum = checksum(&sector[..CHECKSUM]);
        put(sector, CHECKSUM, &checksum);
    }
}

/// The upper half of a version must match; the lower half may differ.
pub(super) fn same_version(found: u32, expected: u32) -> Result<(), Corrupt> {
    if found >> 16 == expected >> 16 { Ok(()) } else { Err(Corrupt::Version { found, expected }) }
}
