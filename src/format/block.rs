//! The block of one host in a resource's area: its ballot, and its shared hold.

use super::bytes::{put, raw_record};
use super::checksum::checksum;
use super::numbers::Numbers;
use super::{Corrupt, Field, Geometry, SectorSize, extension};
use crate::types::{Generation, HostId, Owner, Version};

raw_record! {
    /// The ballot as it stands on disk, unchecked.
    RawBlock 0..56 {
        0 mbal: u64 as Number,
        8 bal: u64 as Number,
        16 inp: u64 as Number,
        24 inp2: u64 as Number,
        32 inp3: u64 as Number,
        40 lver: u64 as Number,
        48 checksum: u32 as Hex,
        52 flags: u32 as Hex,
    }
}

raw_record! {
    /// What follows the header of a block's extension.
    RawBlockExtension 64..120 {
        64 writer_generation: u64 as Number,
        72 waiting: u64 as Number,
        80 burned: u64 as Number,
        88 holds: u64 as Number,
        96 receives: u64 as Number,
        104 withdrawn: u64 as Number,
        112 nonce: u32 as Hex,
        116 extension_unused: u32 as Number,
    }
}

raw_record! {
    /// The mode block.
    RawMode 128..144 {
        128 mode_flags: u32 as Hex,
        132 mode_unused: u32 as Number,
        136 mode_generation: u64 as Number,
    }
}

/// The checksum's place, and the end of what it covers.
const CHECKSUM: usize = 48;
const RELEASED: u32 = 1;
const SHARED: u32 = 1;
const EXTENSION: usize = 56;
const EXTENSION_BYTES: u8 = 64;
/// In the extension's flags.
const SHARES: u8 = 1;
const MAKING: u8 = 2;
const _: () = assert!(EXTENSION + extension::HEADER == 64 && EXTENSION + EXTENSION_BYTES as usize == 120);

/// The block of host id N: sector 1+N of a resource's area. The default is the empty block of a formatted area.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Block {
    /// The largest ballot that the host began.
    pub mbal: u64,
    /// The largest ballot in which it accepted a value.
    pub bal: u64,
    /// The value it accepted: who is to own the resource.
    pub inp: Option<Owner>,
    /// That owner's clock in whole seconds.
    pub inp_timestamp: u64,
    /// The version of the resource that all this is about.
    pub instance: Version,
    /// Whether the host owned that version and released it.
    pub released: bool,
    /// The generation in which the host holds the resource shared.
    pub shared: Option<Generation>,
    /// What only leasehold hosts write and read.
    pub extension: Option<BlockExtension>,
}

/// What a leasehold host adds to its block. Version 0 can't be told from `None` on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockExtension {
    /// In which of its host id's holdings the host wrote this.
    pub generation: u64,
    /// The nonce of the lockspace, drawn when it was formatted.
    pub nonce: u32,
    /// Since which version the host waits for the resource.
    pub waiting: Option<Version>,
    /// The version up to which this ballot passed over, because a block that can't be read may have decided any of
    /// them. For people.
    pub burned: Option<Version>,
    /// Whether the ballot, or the wait, is for a hold that others may share: it does not keep them from sharing.
    pub shares: bool,
    /// The version that the host still owns while it runs a ballot of a later one, to hand it over.
    pub holds: Option<Version>,
    /// The version that the host is to own next, if whoever owns the resource hands it over.
    pub receives: Option<Version>,
    /// Up to which version the host gave up in advance what it had asked for and never owned.
    pub withdrawn: Option<Version>,
    /// Whether the host is making the resource: it may be clearing the area.
    pub making: bool,
}

impl Block {
    /// The block of a host that has not used it, in an area that the lockspace with that nonce has made. It says after
    /// which version.
    pub fn blank(nonce: u32, version: Version) -> Block {
        let extension = Some(BlockExtension { nonce, ..BlockExtension::default() });
        Block { instance: version, extension, ..Block::default() }
    }

    /// The nonce of the lockspace of which it is; `None`: it was written without an extension.
    pub fn nonce(&self) -> Option<u32> {
        Some(self.extension.as_ref()?.nonce)
    }

    /// Whether its host has not used it: it says no more than [`Block::blank`], or nothing.
    pub fn is_blank(&self) -> bool {
        *self == self.nonce().map_or_else(Block::default, |nonce| Block::blank(nonce, self.instance))
    }

    /// Reads a block from its sector, which stands at byte `at` of its device.
    ///
    /// # Errors
    /// [`Corrupt`], with the first check that failed. A corrupt block is not an empty one: it may have held an accepted
    /// value.
    pub fn decode(sector: &[u8], at: u64) -> Result<Block, Corrupt> {
        SectorSize::of(sector)?;
        let raw = RawBlock::read(sector);
        // A formatted block is all zero and has no checksum.
        let unwritten = raw.checksum == 0 && raw.mbal == 0 && raw.bal == 0 && raw.inp == 0 && raw.lver == 0;
        let computed = checksum(&sector[..CHECKSUM]);
        if !unwritten && raw.checksum != computed {
            return Err(Corrupt::Checksum { found: raw.checksum, computed });
        }
        let inp = match (raw.inp, HostId::new(raw.inp), Generation::new(raw.inp2)) {
            (0, ..) => None,
            (found, None, _) => return Err(Corrupt::OwnerId { found }),
            (id, Some(_), None) => return Err(Corrupt::NoOwner { id, generation: 0 }),
            (_, Some(host), Some(generation)) => Some(Owner { host, generation }),
        };
        let mode = RawMode::read(sector);
        let shared = if mode.mode_flags & SHARED != 0 { Generation::new(mode.mode_generation) } else { None };
        let extension = extension::open(sector, EXTENSION, EXTENSION_BYTES, at)?.map(|flags| {
            let raw = RawBlockExtension::read(sector);
            BlockExtension {
                generation: raw.writer_generation,
                nonce: raw.nonce,
                waiting: some_version(raw.waiting),
                burned: some_version(raw.burned),
                shares: flags & SHARES != 0,
                holds: some_version(raw.holds),
                receives: some_version(raw.receives),
                withdrawn: some_version(raw.withdrawn),
                making: flags & MAKING != 0,
            }
        });
        let block = Block {
            mbal: raw.mbal,
            bal: raw.bal,
            inp,
            inp_timestamp: if inp.is_some() { raw.inp3 } else { 0 },
            instance: Version::new(raw.lver),
            released: raw.flags & RELEASED != 0,
            shared,
            extension,
        };
        block.checked()
    }

    /// The sector that holds this block at byte `at` of its device. The timestamp of no owner is written as 0.
    pub fn encode(&self, geometry: Geometry, at: u64) -> Vec<u8> {
        let mut sector = vec![0; geometry.sector_bytes()];
        let raw = RawBlock {
            mbal: self.mbal,
            bal: self.bal,
            inp: self.inp.map_or(0, |owner| owner.host.get()),
            inp2: self.inp.map_or(0, |owner| owner.generation.get()),
            inp3: self.inp.map_or(0, |_| self.inp_timestamp),
            lver: self.instance.get(),
            checksum: 0,
            flags: if self.released { RELEASED } else { 0 },
        };
        raw.write(&mut sector);
        // An empty ballot stays without a checksum, as formatting leaves it.
        if sector[..CHECKSUM].iter().any(|byte| *byte != 0) {
            let checksum = checksum(&sector[..CHECKSUM]);
            put(&mut sector, CHECKSUM, &checksum);
        }
        let mode = RawMode {
            mode_flags: if self.shared.is_some() { SHARED } else { 0 },
            mode_unused: 0,
            mode_generation: self.shared.map_or(0, Generation::get),
        };
        mode.write(&mut sector);
        if let Some(extension) = &self.extension {
            let raw = RawBlockExtension {
                writer_generation: extension.generation,
                waiting: extension.waiting.map_or(0, Version::get),
                burned: extension.burned.map_or(0, Version::get),
                holds: extension.holds.map_or(0, Version::get),
                receives: extension.receives.map_or(0, Version::get),
                withdrawn: extension.withdrawn.map_or(0, Version::get),
                nonce: extension.nonce,
                extension_unused: 0,
            };
            raw.write(&mut sector);
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            let flags = flag(extension.shares, SHARES) | flag(extension.making, MAKING);
            extension::seal(&mut sector, EXTENSION, EXTENSION_BYTES, flags, at);
        }
        sector
    }
}

impl Numbers for Block {
    fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let version = |version: Option<Version>| version.map_or(0, Version::get);
        let generation = |generation: Option<Generation>| generation.map_or(0, Generation::get);
        let base = [
            ("mbal", self.mbal),
            ("bal", self.bal),
            ("inp2", generation(self.inp.map(|owner| owner.generation))),
            ("lver", self.instance.get()),
            ("mode_generation", generation(self.shared)),
        ];
        let added = self.extension.iter().flat_map(move |extension| {
            [
                ("writer_generation", extension.generation),
                ("waiting", version(extension.waiting)),
                ("burned", version(extension.burned)),
                ("holds", version(extension.holds)),
                ("receives", version(extension.receives)),
                ("withdrawn", version(extension.withdrawn)),
            ]
        });
        base.into_iter().chain(added)
    }
}

fn some_version(number: u64) -> Option<Version> {
    (number != 0).then(|| Version::new(number))
}

/// The fields of a block's sector, valid or not.
pub(super) fn fields(sector: &[u8]) -> Vec<Field> {
    let mut fields = RawBlock::read(sector).fields();
    if let Some(header) = extension::header_fields(sector, EXTENSION) {
        fields.extend(header);
        fields.extend(RawBlockExtension::read(sector).fields());
    }
    fields.extend(RawMode::read(sector).fields());
    fields
}
