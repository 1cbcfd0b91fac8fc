//! The leader of a resource: which version it is at, and who owns that.

use super::bytes::raw_record;
use super::leader::{EXTENSION, RawLeader};
use super::numbers::Numbers;
use super::{Corrupt, Field, Geometry, SectorSize, extension};
use crate::types::{Generation, HostId, Name, Owner, Version};

const MAGIC: u32 = 0x0615_2010;
/// Of an area whose resource was deleted.
const MAGIC_CLEARED: u32 = 0x1128_2016;
const VERSION: u32 = 0x0006_0004;
const SHORT_HOLD: u32 = 1;

raw_record! {
    /// What follows the header of a leader's extension.
    RawLeaderExtension 208..216 {
        208 nonce: u32 as Hex,
        212 extension_unused: u32 as Number,
    }
}

const EXTENSION_BYTES: u8 = 16;
/// In the extension's flags.
const JUDGED: u8 = 1;
const _: () = assert!(EXTENSION + extension::HEADER == 208 && EXTENSION + EXTENSION_BYTES as usize == 216);

/// The first sector of a resource's area.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Sector and area size of the resource.
    pub geometry: Geometry,
    /// Whether the resource was deleted.
    pub cleared: bool,
    /// Whether the owner holds it only for a moment, to set its shared flag.
    pub short_hold: bool,
    /// How many hosts the resource is for: 1 to [`Geometry::max_hosts`].
    pub num_hosts: u64,
    /// Who owns it, or owned it last. `None` when it was never owned.
    pub owner: Option<Owner>,
    /// The version of that ownership.
    pub version: Version,
    /// The lockspace's name.
    pub lockspace: Name,
    /// The resource's name.
    pub resource: Name,
    /// The owner's clock in whole seconds when it was taken; 0 means free.
    pub timestamp: u64,
    /// Who wrote this record.
    pub writer: Writer,
    /// What only leasehold hosts write and read.
    pub extension: Option<LeaderExtension>,
}

/// What a leasehold host adds to a leader. Its checksum also covers the writer and the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaderExtension {
    /// The nonce of the lockspace, drawn when it was formatted.
    pub nonce: u32,
    /// Whether nobody who may be active claims an earlier version: when this one was begun each of those was given up,
    /// or its generation was over or dead. That stays true.
    pub judged: bool,
}

/// Who wrote a leader: the owner, or another host that completed its ballot. Not covered by the base checksum, and
/// not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its host id.
    pub id: u64,
    /// Which of the id's holdings.
    pub generation: u64,
    /// Its clock in whole seconds.
    pub timestamp: u64,
}

impl Leader {
    /// The leader of a resource that is free at `version`.
    pub const fn new_free(
        geometry: Geometry,
        lockspace: Name,
        nonce: u32,
        resource: Name,
        num_hosts: u64,
        version: Version,
    ) -> Leader {
        Leader {
            geometry,
            cleared: false,
            short_hold: false,
            num_hosts,
            owner: None,
            version,
            lockspace,
            resource,
            timestamp: 0,
            writer: Writer { id: 0, generation: 0, timestamp: 0 },
            extension: Some(LeaderExtension { nonce, judged: false }),
        }
    }

    /// Whether nobody owns it.
    pub const fn is_free(&self) -> bool {
        self.timestamp == 0
    }

    /// The nonce of the lockspace of which it is; `None`: it was written without an extension.
    pub fn nonce(&self) -> Option<u32> {
        Some(self.extension?.nonce)
    }

    /// Whether every claim below its version was judged, and is over.
    pub fn is_judged(&self) -> bool {
        self.extension.is_some_and(|extension| extension.judged)
    }

    /// Reads a leader from its sector, which stands at byte `at` of its device.
    ///
    /// # Errors
    /// [`Corrupt`], with the first check that failed.
    pub fn decode(sector: &[u8], at: u64) -> Result<Leader, Corrupt> {
        let base = Leader::decode_base(sector)?;
        let extension = extension::open(sector, EXTENSION, EXTENSION_BYTES, at)?.map(|flags| {
            let RawLeaderExtension { nonce, .. } = RawLeaderExtension::read(sector);
            LeaderExtension { nonce, judged: flags & JUDGED != 0 }
        });
        Ok(Leader { extension, ..base })
    }

    /// Reads what sanlock reads of a leader, whatever stands in the place of the extension.
    ///
    /// # Errors
    /// As [`Leader::decode`].
    pub fn decode_base(sector: &[u8]) -> Result<Leader, Corrupt> {
        SectorSize::of(sector)?;
        let raw = RawLeader::read(sector);
        if raw.magic != MAGIC && raw.magic != MAGIC_CLEARED {
            return Err(Corrupt::Magic { found: raw.magic, expected: MAGIC });
        }
        let geometry = raw.check(sector, VERSION)?;
        if raw.max_hosts != geometry.max_hosts() {
            return Err(Corrupt::MaxHosts { found: raw.max_hosts, expected: geometry.max_hosts() });
        }
        if raw.num_hosts == 0 || raw.num_hosts > raw.max_hosts {
            return Err(Corrupt::NumHosts { found: raw.num_hosts, max: raw.max_hosts });
        }
        let owner = match (HostId::new(raw.owner_id), Generation::new(raw.owner_generation)) {
            (Some(host), Some(generation)) => Some(Owner { host, generation }),
            _ => None,
        };
        let leader = Leader {
            geometry,
            cleared: raw.magic == MAGIC_CLEARED,
            short_hold: raw.flags & SHORT_HOLD != 0,
            num_hosts: raw.num_hosts,
            owner,
            version: Version::new(raw.lver),
            lockspace: raw.space_name,
            resource: raw.resource_name,
            timestamp: raw.timestamp,
            writer: Writer { id: raw.write_id, generation: raw.write_generation, timestamp: raw.write_timestamp },
            extension: None,
        };
        leader.checked()
    }

    /// The sector that holds this leader at byte `at` of its device.
    pub fn encode(&self, at: u64) -> Vec<u8> {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        let raw = RawLeader {
            magic: if self.cleared { MAGIC_CLEARED } else { MAGIC },
            version: VERSION,
            flags: self.geometry.area().leader_flag() | if self.short_hold { SHORT_HOLD } else { 0 },
            sector_size: self.geometry.sector_bytes() as u32,
            num_hosts: self.num_hosts,
            max_hosts: self.geometry.max_hosts(),
            owner_id: self.owner.map_or(0, |owner| owner.host.get()),
            owner_generation: self.owner.map_or(0, |owner| owner.generation.get()),
            lver: self.version.get(),
            space_name: self.lockspace,
            resource_name: self.resource,
            timestamp: self.timestamp,
            unused1: 0,
            checksum: 0,
            unused2: 0,
            io_timeout: 0,
            write_id: self.writer.id,
            write_generation: self.writer.generation,
            write_timestamp: self.writer.timestamp,
        };
        raw.write_with_checksum(&mut sector);
        if let Some(LeaderExtension { nonce, judged }) = self.extension {
            RawLeaderExtension { nonce, extension_unused: 0 }.write(&mut sector);
            let flags = if judged { JUDGED } else { 0 };
            extension::seal(&mut sector, EXTENSION, EXTENSION_BYTES, flags, at);
        }
        sector
    }
}

impl Numbers for Leader {
    /// Those of its writer sanlock's checksum doesn't cover: nothing rests on them.
    fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let generation = self.owner.map_or(0, |owner| owner.generation.get());
        [("lver", self.version.get()), ("owner_generation", generation)].into_iter()
    }
}

/// The fields of a leader's sector, valid or not.
pub(super) fn fields(sector: &[u8]) -> Vec<Field> {
    let mut fields = RawLeader::read(sector).fields();
    if let Some(header) = extension::header_fields(sector, EXTENSION) {
        fields.extend(header);
        fields.extend(RawLeaderExtension::read(sector).fields());
    }
    fields
}
