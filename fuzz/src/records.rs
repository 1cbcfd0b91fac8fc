//! Records with any contents, and sectors whose checksums fit.

use std::time::Duration;

use leasehold::format::{
    AreaSize, Block, BlockExtension, DeltaExtension, DeltaRecord, Force, Geometry, IndexEntry, IndexHeader, Leader,
    LeaderExtension, Request, SectorSize, Writer, checksum,
};
use leasehold::{BootId, Generation, HostId, MachineId, Name, Owner, Timeouts, Version};

use super::input::Input;

/// What a sector is meant to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Delta,
    Leader,
    Request,
    Block,
    Index,
    Entries,
}

/// Of the lockspaces and resources that the targets make.
pub(super) const LOCKSPACE: &str = "fuzzed";
pub(super) const NAMES: [&str; 3] = ["a", "b", "rindex_lease"];

/// Short, so that a run is; not so short that a busy machine loses every host id.
pub(super) fn timeouts() -> Timeouts {
    timeouts_of([3, 3, 60, 10, 70]).expect("valid")
}

fn timeouts_of(millis: [u64; 5]) -> Option<Timeouts> {
    let [renewal, io, fail, fence, dead] = millis.map(Duration::from_millis);
    Timeouts::new(renewal, io, fail, fence, dead).ok()
}

pub(super) fn geometry(input: &mut Input<'_>) -> Geometry {
    let big = |area| Geometry::new(SectorSize::B4096, area).expect("in the table");
    match input.below(5) {
        0 => Geometry::default(),
        1 => big(AreaSize::M1),
        2 => big(AreaSize::M2),
        3 => big(AreaSize::M4),
        _ => big(AreaSize::M8),
    }
}

fn name(input: &mut Input<'_>) -> Name {
    match input.below(6) {
        0 => Name::lockspace(LOCKSPACE).expect("valid"),
        known @ 1..=3 => Name::resource(NAMES[known - 1]).expect("valid"),
        4 => Name::EMPTY,
        _ => {
            let mut field = [0; Name::FIELD];
            let bytes = input.bytes(Name::FIELD);
            field[..bytes.len()].copy_from_slice(bytes);
            Name::from_field(field)
        }
    }
}

fn owner(input: &mut Input<'_>) -> Option<Owner> {
    let host = HostId::new(match input.byte() {
        255 => input.word().into(),
        id => u64::from(id) % 6,
    })?;
    Some(Owner { host, generation: Generation::new(input.number())? })
}

/// Mostly the lockspace's own: what has another counts for nothing.
fn nonce(own: u32, input: &mut Input<'_>) -> u32 {
    if input.below(8) == 7 { input.number() as u32 } else { own }
}

/// A valid record of that kind, with contents off the input, for the offset `at` of a lockspace with that nonce.
pub(super) fn record(kind: Kind, geometry: Geometry, own: u32, at: u64, input: &mut Input<'_>) -> Vec<u8> {
    match kind {
        Kind::Delta => delta(geometry, own, input).encode(at),
        Kind::Leader => leader(geometry, own, input).encode(at),
        Kind::Request => {
            let force = input.pick(&[Force::None, Force::Kill, Force::Graceful]);
            Request { version: Version::new(input.number()), force }.encode(geometry)
        }
        Kind::Block => block(own, input).encode(geometry, at),
        Kind::Index => {
            let max_resources = match input.byte() {
                255 => geometry.max_index_entries(),
                few => 1 + u32::from(few),
            };
            IndexHeader { geometry, max_resources, offset: at, lockspace: name(input) }.encode()
        }
        Kind::Entries => {
            let mut sector = vec![0; geometry.sector_bytes()];
            for (number, bytes) in (0..1 + input.below(8) as u64).zip(sector.chunks_exact_mut(IndexEntry::BYTES)) {
                let offset = match input.byte() {
                    255 => input.number(),
                    area => (3 + number + u64::from(area)) * geometry.area_bytes(),
                };
                bytes.copy_from_slice(&IndexEntry { offset, name: name(input) }.encode());
            }
            sector
        }
    }
}

fn delta(geometry: Geometry, own: u32, input: &mut Input<'_>) -> DeltaRecord {
    let owner = owner(input).filter(|owner| geometry.has_host(owner.host));
    let extension = input.flag().then(|| {
        let small = |input: &mut Input<'_>| input.number() as u32;
        let (nonce, session, boot, started_us) = (nonce(own, input), small(input), small(input), small(input));
        let (machine, superseded, confirmed, left) = (input.number(), small(input), input.flag(), input.byte());
        // Of `left` only 64 values mean something.
        let declared_by = HostId::new(u64::from(session % 6)).filter(|_| left >= 192);
        DeltaExtension {
            nonce,
            session: if declared_by.is_some() { 0 } else { session },
            boot: BootId::new(boot),
            started_us,
            machine: MachineId::new(machine),
            superseded,
            confirmed,
            declared_by,
            left: left % 64,
            timeouts: match input.below(3) {
                0 => timeouts(),
                1 => timeouts_of([1, 1, 4, 1, 5]).expect("valid"),
                _ => timeouts_of([1, 30, 120, 60, 240]).expect("valid"),
            },
        }
    });
    DeltaRecord {
        geometry,
        lockspace: name(input),
        owner_id: owner.map_or(0, |owner| owner.host.get()),
        generation: owner.map_or(0, |owner| owner.generation.get()),
        host_name: name(input),
        timestamp: if owner.is_some() { input.number() } else { 0 },
        io_timeout: input.number() as u16,
        extension,
    }
}

fn leader(geometry: Geometry, own: u32, input: &mut Input<'_>) -> Leader {
    let owner = owner(input).filter(|owner| geometry.has_host(owner.host));
    Leader {
        geometry,
        cleared: input.byte() == 1,
        short_hold: input.flag(),
        num_hosts: match input.byte() {
            0 => geometry.max_hosts(),
            few => few.into(),
        },
        owner,
        version: Version::new(input.number()),
        lockspace: name(input),
        resource: name(input),
        timestamp: if owner.is_some() { input.number() } else { 0 },
        writer: Writer { id: input.number(), generation: input.number(), timestamp: input.number() },
        extension: input.flag().then(|| LeaderExtension { nonce: nonce(own, input), judged: input.flag() }),
    }
}

fn block(own: u32, input: &mut Input<'_>) -> Block {
    let inp = owner(input);
    let version = |input: &mut Input<'_>| Some(input.number()).filter(|number| *number != 0).map(Version::new);
    Block {
        mbal: input.number(),
        bal: input.number(),
        inp,
        inp_timestamp: if inp.is_some() { input.number() } else { 0 },
        instance: Version::new(input.number()),
        released: input.flag(),
        shared: Generation::new(input.number()),
        extension: input.flag().then(|| BlockExtension {
            generation: input.number(),
            waiting: version(input),
            burned: version(input),
            shares: input.flag(),
            holds: version(input),
            receives: version(input),
            withdrawn: version(input),
            nonce: nonce(own, input),
            making: input.flag(),
        }),
    }
}

/// Makes the checksums of a changed sector fit again, so that what it says is believed.
pub(super) fn reseal(kind: Kind, sector: &mut [u8], at: u64) {
    let (base, extension) = match kind {
        Kind::Delta | Kind::Leader => (168, 200),
        Kind::Block => (48, 56),
        Kind::Request | Kind::Index | Kind::Entries => return,
    };
    let sum = checksum(&sector[..base]);
    sector[base..base + 4].copy_from_slice(&sum.to_le_bytes());
    // The magic number of an extension.
    if sector[extension..extension + 2] == [0x4c, 0x48] {
        sector[extension + 4..extension + 8].fill(0);
        let sum = checksum(&[&*sector, &at.to_le_bytes()].concat());
        sector[extension + 4..extension + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Gives any sector the mark of a value block, with a checksum that fits.
pub(super) fn reseal_value(sector: &mut [u8], at: u64) {
    let mark = sector.len() - 40;
    sector[mark..mark + 8].copy_from_slice(&[0x4c, 0x48, 40, 0, 0, 0, 0, 0]);
    let sum = checksum(&[&*sector, &at.to_le_bytes()].concat());
    sector[mark + 4..mark + 8].copy_from_slice(&sum.to_le_bytes());
}
