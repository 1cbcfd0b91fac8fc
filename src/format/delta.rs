//! The delta record: who holds a host id of a lockspace, and how fresh that is.

use std::time::Duration;

use super::bytes::{put, raw_record};
use super::calls::{BITMAP, Calls, HostEvent};
use super::leader::{EXTENSION, RawLeader};
use super::numbers::{self, Numbers};
use super::{Corrupt, Field, Geometry, SectorSize, extension};
use crate::timeouts::Timeouts;
use crate::types::{BootId, Generation, HostId, MachineId, Name, Owner, Time};

const MAGIC: u32 = 0x1221_2010;
const VERSION: u32 = 0x0003_0004;
/// What a delta record has in the field that is the number of hosts of a paxos leader.
const MAX_HOSTS: u64 = 1;

raw_record! {
    /// What follows the header of a delta record's extension.
    RawDeltaExtension 208..256 {
        208 nonce: u32 as Hex,
        212 session: u32 as Hex,
        216 boot: u32 as Hex,
        220 started_us: u32 as Number,
        224 machine: u64 as Hex,
        232 superseded: u32 as Number,
        236 renewal_ms: u32 as Number,
        240 io_ms: u32 as Number,
        244 fail_ms: u32 as Number,
        248 fence_ms: u32 as Number,
        252 dead_ms: u32 as Number,
    }
}

const EXTENSION_BYTES: u8 = 56;
const CONFIRMED: u8 = 1;
/// The holder was declared dead. The field of its session then holds the host id that declared it: no session goes on.
const DECLARED: u8 = 2;
/// The flags' other bits: what was left of F, in this many parts.
const LEFT_SHIFT: u32 = 2;
const LEFT_PARTS: u32 = 64;
const _: () = assert!(LEFT_PARTS << LEFT_SHIFT == 1 << u8::BITS);
const _: () = assert!(EXTENSION + EXTENSION_BYTES as usize == BITMAP && EXTENSION + extension::HEADER == 208);

/// Microseconds in a second.
const MICROS: u64 = 1_000_000;

/// The record of one host id in a lockspace: sector N-1 of the area for host id N.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeltaRecord {
    /// Sector and area size of the lockspace.
    pub geometry: Geometry,
    /// The lockspace's name.
    pub lockspace: Name,
    /// The host id; 0 when it was never held. At most [`Geometry::max_hosts`].
    pub owner_id: u64,
    /// Which holding of the id this is; 0 when it was never held.
    pub generation: u64,
    /// The name of the host that holds it or held it last.
    pub host_name: Name,
    /// The owner's clock in whole seconds; 0 means free.
    pub timestamp: u64,
    /// T in whole seconds; 0 means not said. A sanlock host writes no more than 255.
    pub io_timeout: u16,
    /// What only leasehold hosts write and read.
    pub extension: Option<DeltaExtension>,
}

/// What a leasehold host adds to its delta record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeltaExtension {
    /// The nonce of the lockspace, drawn when it was formatted.
    pub nonce: u32,
    /// The nonce of the engine that holds the id: two engines that claim the same generation differ in it.
    pub session: u32,
    /// The boot of the host's machine; `None` where it can't be known.
    pub boot: Option<BootId>,
    /// The low 32 bits of when this write began, in microseconds on the owner's clock: the timestamp, which has the
    /// rest, changes once a second, this with each write. [`DeltaRecord::started`] reads both.
    pub started_us: u32,
    /// The host's machine; `None` where it can't be known.
    pub machine: Option<MachineId>,
    /// How many generations back the one is that this one took the id from; 0 when the id was free.
    pub superseded: u32,
    /// Whether this generation was renewed after its check, so that it surely held the id.
    pub confirmed: bool,
    /// The host that declared the holder dead, in a record that is free since then. The session is then 0.
    pub declared_by: Option<HostId>,
    /// How much of F was left to the owner when this write began, if it comes to nothing: in 64ths, rounded down; below
    /// 64. [`DeltaRecord::held_until`] reads it.
    pub left: u8,
    /// The lockspace's timeouts.
    pub timeouts: Timeouts,
}

impl DeltaRecord {
    /// The record of an id that was never held, as formatting leaves it in every sector of the lockspace. `nonce` is
    /// the lockspace's, the `timeouts` are those that every host in it keeps to.
    pub fn free(geometry: Geometry, lockspace: Name, nonce: u32, timeouts: Timeouts) -> DeltaRecord {
        DeltaRecord {
            geometry,
            lockspace,
            owner_id: 0,
            generation: 0,
            host_name: Name::EMPTY,
            timestamp: 0,
            io_timeout: timeouts.io_seconds(),
            extension: Some(DeltaExtension {
                nonce,
                session: 0,
                boot: None,
                started_us: 0,
                machine: None,
                superseded: 0,
                confirmed: false,
                declared_by: None,
                left: 0,
                timeouts,
            }),
        }
    }

    /// Whether nobody holds the id: it was released, or never held.
    pub const fn is_free(&self) -> bool {
        self.timestamp == 0
    }

    /// Whether no host of this lockspace is known to have held the id: it was formatted so, or goes on from a
    /// generation of a lockspace that was here before.
    pub fn is_unheld(&self) -> bool {
        let declared = self.extension.as_ref().is_some_and(|extension| extension.declared_by.is_some());
        self.is_free() && (self.generation == 0 || self.host_name == Name::EMPTY && !declared)
    }

    /// The nonce of the lockspace of which it is; `None`: it was written without an extension.
    pub fn nonce(&self) -> Option<u32> {
        Some(self.extension.as_ref()?.nonce)
    }

    /// Who holds the id, or held it last. `None` when it was never held.
    pub fn owner(&self) -> Option<Owner> {
        Some(Owner { host: HostId::new(self.owner_id)?, generation: Generation::new(self.generation)? })
    }

    /// The timeouts that the owner keeps to: those of the extension, else sanlock's rule from the I/O timeout. A record
    /// that says none stands for the reader's own, `own`, rounded up to whole seconds (from 1 to 65535).
    pub fn timeouts(&self, own: Duration) -> Timeouts {
        if let Some(extension) = &self.extension {
            return extension.timeouts;
        }
        let seconds = match u64::from(self.io_timeout) {
            0 => (own.as_secs() + u64::from(own.subsec_nanos() != 0)).clamp(1, u16::MAX.into()),
            said => said,
        };
        Timeouts::from_sanlock_io_timeout(Duration::from_secs(seconds))
    }

    /// Marks this record as one whose write begins at `now`, by an owner that holds the id until `held_until` if the
    /// write comes to nothing. Two that are written one after the other differ, also when the clock stands still
    /// between them.
    pub fn begin_write(&mut self, now: Time, held_until: Time) {
        let before = self.started_micros();
        let Some(extension) = &mut self.extension else {
            self.timestamp = now.as_timestamp();
            return;
        };
        // A timestamp is never 0, so the clock's first second counts as over.
        let micros = (now.as_nanos() / 1_000).max(MICROS).max(before.map_or(0, |before| before.saturating_add(1)));
        let left = held_until.since(Time::from_nanos(micros.saturating_mul(1_000))).as_nanos() * u128::from(LEFT_PARTS);
        let parts = left / extension.timeouts.fail().as_nanos();
        self.timestamp = micros / MICROS;
        extension.started_us = micros as u32;
        extension.left = u8::try_from(parts).map_or(LEFT_PARTS as u8 - 1, |parts| parts.min(LEFT_PARTS as u8 - 1));
    }

    /// When the write of this record began, on its owner's clock: to the microsecond, rounded down. `None` where the
    /// record doesn't say, or the id is free.
    pub fn started(&self) -> Option<Time> {
        self.started_micros().map(|micros| Time::from_nanos(micros.saturating_mul(1_000)))
    }

    /// Until when the owner held the id for certain, on its own clock: also if the write of this very record was never
    /// confirmed to it. Rounded down, by less than a 64th of F. `None` as for [`DeltaRecord::started`], and where
    /// nothing was certain.
    pub fn held_until(&self) -> Option<Time> {
        let extension = self.extension.as_ref().filter(|extension| extension.left > 0)?;
        Some(self.started()? + extension.timeouts.fail() * u32::from(extension.left) / LEFT_PARTS)
    }

    fn started_micros(&self) -> Option<u64> {
        let extension = self.extension.as_ref().filter(|_| !self.is_free())?;
        let second = self.timestamp.checked_mul(MICROS)?;
        let within = extension.started_us.wrapping_sub(second as u32);
        second.checked_add(u64::from(within)).filter(|_| u64::from(within) < MICROS)
    }

    /// Reads a record from its sector, which stands at byte `at` of its device.
    ///
    /// # Errors
    /// [`Corrupt`], with the first check that failed.
    pub fn decode(sector: &[u8], at: u64) -> Result<DeltaRecord, Corrupt> {
        let base = DeltaRecord::decode_base(sector)?;
        let extension = match extension::open(sector, EXTENSION, EXTENSION_BYTES, at)? {
            Some(flags) => Some(DeltaExtension::from_raw(&RawDeltaExtension::read(sector), flags)?),
            None => None,
        };
        Ok(DeltaRecord { extension, ..base })
    }

    /// Reads what sanlock reads of a record, whatever stands in the place of the extension.
    ///
    /// # Errors
    /// As [`DeltaRecord::decode`].
    pub fn decode_base(sector: &[u8]) -> Result<DeltaRecord, Corrupt> {
        SectorSize::of(sector)?;
        let raw = RawLeader::read(sector);
        if raw.magic != MAGIC {
            return Err(Corrupt::Magic { found: raw.magic, expected: MAGIC });
        }
        let geometry = raw.check(sector, VERSION)?;
        let record = DeltaRecord {
            geometry,
            lockspace: raw.space_name,
            owner_id: raw.owner_id,
            generation: raw.owner_generation,
            host_name: raw.resource_name,
            timestamp: numbers::seconds("timestamp", raw.timestamp)?,
            io_timeout: raw.io_timeout,
            extension: None,
        };
        record.checked()
    }

    /// The sector that holds this record at byte `at` of its device, and calls nobody.
    pub fn encode(&self, at: u64) -> Vec<u8> {
        self.encode_with_calls(at, &Calls::default())
    }

    /// The sector that holds this record at byte `at` of its device, and says that to other hosts.
    pub fn encode_with_calls(&self, at: u64, calls: &Calls) -> Vec<u8> {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        let HostEvent { generation, event, data } = calls.event.unwrap_or_default();
        let raw = RawLeader {
            magic: MAGIC,
            version: VERSION,
            flags: self.geometry.area().leader_flag(),
            sector_size: self.geometry.sector_bytes() as u32,
            num_hosts: 0,
            max_hosts: MAX_HOSTS,
            owner_id: self.owner_id,
            owner_generation: self.generation,
            lver: 0,
            space_name: self.lockspace,
            resource_name: self.host_name,
            timestamp: self.timestamp,
            unused1: 0,
            checksum: 0,
            unused2: 0,
            io_timeout: self.io_timeout,
            // A paxos leader has its writer there.
            write_id: generation,
            write_generation: event,
            write_timestamp: data,
        };
        raw.write_with_checksum(&mut sector);
        calls.hosts.write(&mut sector);
        if let Some(extension) = &self.extension {
            extension.to_raw().write(&mut sector);
            extension::seal(&mut sector, EXTENSION, EXTENSION_BYTES, extension.flags(), at);
        }
        sector
    }
}

impl DeltaRecord {
    /// As [`DeltaRecord::encode`], but without the magic number: as formatting leaves the first record until everything
    /// else is written.
    pub fn encode_unfinished(&self, at: u64) -> Vec<u8> {
        let mut sector = self.encode(at);
        put(&mut sector, 0, &0u32);
        if let Some(extension) = &self.extension {
            extension::seal(&mut sector, EXTENSION, EXTENSION_BYTES, extension.flags(), at);
        }
        sector
    }

    /// The record that a formatting has left unfinished in this sector, at byte `at` of its device. `None`: it is
    /// finished, or that can't be told.
    pub fn unfinished(sector: &[u8], at: u64) -> Option<DeltaRecord> {
        SectorSize::of(sector).ok()?;
        if RawLeader::read(sector).magic != 0 {
            return None;
        }
        let flags = extension::open(sector, EXTENSION, EXTENSION_BYTES, at).ok().flatten()?;
        let mut finished = sector.to_vec();
        put(&mut finished, 0, &MAGIC);
        extension::seal(&mut finished, EXTENSION, EXTENSION_BYTES, flags, at);
        DeltaRecord::decode(&finished, at).ok()
    }
}

impl Numbers for DeltaRecord {
    fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("owner_generation", self.generation)].into_iter()
    }
}

impl DeltaExtension {
    fn from_raw(raw: &RawDeltaExtension, flags: u8) -> Result<DeltaExtension, Corrupt> {
        let millis = [raw.renewal_ms, raw.io_ms, raw.fail_ms, raw.fence_ms, raw.dead_ms];
        let declared_by = match (flags & DECLARED != 0, HostId::new(raw.session.into())) {
            (false, _) => None,
            (true, Some(host)) => Some(host),
            (true, None) => return Err(Corrupt::OwnerId { found: raw.session.into() }),
        };
        Ok(DeltaExtension {
            nonce: raw.nonce,
            session: if declared_by.is_some() { 0 } else { raw.session },
            boot: BootId::new(raw.boot),
            started_us: raw.started_us,
            machine: MachineId::new(raw.machine),
            superseded: raw.superseded,
            confirmed: flags & CONFIRMED != 0,
            declared_by,
            left: flags >> LEFT_SHIFT,
            timeouts: Timeouts::from_millis(millis).map_err(|_| Corrupt::ExtensionTimeouts { millis })?,
        })
    }

    fn flags(&self) -> u8 {
        let left = u32::from(self.left).min(LEFT_PARTS - 1) as u8;
        let confirmed = if self.confirmed { CONFIRMED } else { 0 };
        let declared = if self.declared_by.is_some() { DECLARED } else { 0 };
        left << LEFT_SHIFT | confirmed | declared
    }

    fn to_raw(&self) -> RawDeltaExtension {
        let [renewal_ms, io_ms, fail_ms, fence_ms, dead_ms] = self.timeouts.millis();
        RawDeltaExtension {
            nonce: self.nonce,
            session: self.declared_by.map_or(self.session, |host| host.get() as u32),
            boot: self.boot.map_or(0, BootId::get),
            started_us: self.started_us,
            machine: self.machine.map_or(0, MachineId::get),
            superseded: self.superseded,
            renewal_ms,
            io_ms,
            fail_ms,
            fence_ms,
            dead_ms,
        }
    }
}

/// The fields of a delta record's sector, valid or not.
pub(super) fn fields(sector: &[u8]) -> Vec<Field> {
    let mut fields = RawLeader::read(sector).fields();
    if let Some(header) = extension::header_fields(sector, EXTENSION) {
        fields.extend(header);
        fields.extend(RawDeltaExtension::read(sector).fields());
    }
    fields
}
