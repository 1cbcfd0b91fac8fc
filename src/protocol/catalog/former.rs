//! The lockspace that a format is about to replace.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::found::{DEFAULT_IO_TIMEOUT, Found, SMALLEST_AREA};
use crate::format::{Block, Geometry, Leader, SectorSize, numbers};
use crate::protocol::declare::declared_by;
use crate::protocol::delta::Terms;
use crate::protocol::rules::Rule;
use crate::types::{Generation, HostId, Owner, Version};

/// More than generations and versions grow while a write is in flight, also over formattings.
const LOST: u64 = 1 << 40;

/// What is known of the former lockspace.
#[derive(Clone, Debug)]
pub(super) struct Former {
    pub(super) geometry: Geometry,
    /// The shortest R, the longest T and D of any record.
    pub(super) renewal: Duration,
    pub(super) io: Duration,
    pub(super) dead: Duration,
    /// Whether it is complete, and every id is known to be free: nobody has to be watched.
    pub(super) is_free: bool,
    /// Of the ids in use: the largest generation that anything on the device shows, of those that hosts reach; far
    /// beyond all where the record is damaged, or one of another formatting.
    pub(super) generations: BTreeMap<HostId, u64>,
    /// The largest version that any leader or block shows, of those that hosts reach.
    version: Version,
    /// The lockspace's.
    nonce: u32,
    /// A leader or a block of a resource is damaged, or of another formatting.
    lost: bool,
    /// The last area whose leader could be read.
    led: Option<Led>,
    /// Leaders that could be taken for those of the new lockspace, with their places.
    pub(super) lookalikes: Vec<(u64, Leader)>,
}

/// Whether there is a block of this lockspace, of another formatting, or one that is damaged.
#[derive(Default)]
struct Blocks {
    ours: bool,
    others: bool,
    damaged: bool,
}

/// An area with a leader.
#[derive(Clone, Copy, Debug)]
struct Led {
    start: u64,
    geometry: Geometry,
    /// Whether it is of this lockspace.
    is_ours: bool,
}

impl Led {
    const fn end(&self) -> u64 {
        self.start + self.geometry.area_bytes()
    }

    fn contains(&self, at: u64) -> bool {
        (self.start..self.end()).contains(&at)
    }
}

impl Former {
    /// `read`: how many bytes of the device were searched.
    pub(super) fn of(found: &Found, read: usize) -> Former {
        let geometry = found.terms.geometry;
        let timeouts = || found.records.values().map(|record| record.timeouts(DEFAULT_IO_TIMEOUT));
        let longest = |of: fn(_) -> Duration| timeouts().map(of).max().unwrap_or_default();
        let count = geometry.max_hosts().min((read / geometry.sector_bytes()) as u64);
        let ids = || (1..=count).filter_map(HostId::new);
        let reached = || found.records.values().map(|it| it.generation).filter(|it| numbers::is_reached(*it));
        let largest = reached().max().unwrap_or_default();
        // What an id had whose own record is lost may be beyond all that is shown.
        let generation = |host: HostId| {
            let record = found.records.get(&host).filter(|record| found.shows_generation(record));
            let shown = record.map(|record| record.generation).filter(|shown| numbers::is_reached(*shown));
            shown.unwrap_or(largest + LOST)
        };
        let generations = ids().map(|host| (host, generation(host))).filter(|(_, generation)| *generation != 0);
        let is_free = |host: HostId| {
            let record = found.records.get(&host).filter(|record| found.has(record));
            // A declaration may have landed over a later generation.
            record.is_some_and(|record| record.is_free() && declared_by(record).is_none())
        };
        Former {
            geometry,
            renewal: timeouts().map(|timeouts| timeouts.renewal()).min().unwrap_or_default(),
            io: longest(|timeouts| timeouts.io()),
            dead: longest(|timeouts| timeouts.dead()),
            // Who has left it unfinished may have hit a host that joined while it was slow, and did not wait for that
            // one.
            is_free: found.complete && ids().all(is_free),
            generations: generations.collect(),
            version: Version::default(),
            nonce: found.terms.nonce,
            lost: false,
            led: None,
            lookalikes: Vec::new(),
        }
    }

    /// Whose record byte `at` belongs to, and where that stands.
    pub(super) fn host_at(&self, at: usize) -> Option<(HostId, Range<usize>)> {
        let size = self.geometry.sector_bytes();
        let start = at / size * size;
        Some((HostId::new((at / size + 1) as u64)?, start..start + size))
    }

    /// Of all ids.
    pub(super) fn largest_generation(&self) -> Option<u64> {
        self.generations.values().max().copied()
    }

    /// The highest id in use.
    fn highest(&self) -> u64 {
        self.generations.last_key_value().map_or(0, |(host, _)| host.get())
    }

    /// Where something may stand next, from byte `at` on: not behind the blocks of the ids in use of an area of ours.
    pub(super) fn next_place(&self, at: u64) -> u64 {
        let passes =
            |led: &Led| led.is_ours && at >= led.start + (self.highest() + 2) * led.geometry.sector_bytes() as u64;
        self.led.filter(|led| led.contains(at)).filter(passes).map_or(at, |led| led.end())
    }

    /// How many of the [`SMALLEST_AREA`] bytes from where an area of any sizes may begin may show something: the leader
    /// and the blocks of the ids in use.
    pub(super) fn step_in_use(&self) -> u64 {
        SMALLEST_AREA.min((self.highest() + 2) * SectorSize::B4096.bytes() as u64)
    }

    /// Takes in what stands from byte `at` on, behind what was taken in before. `terms` are those of the new lockspace.
    pub(super) fn take_in(&mut self, at: u64, bytes: &[u8], terms: &Terms) {
        let decoded = |size: SectorSize| Leader::decode(bytes.get(..size.bytes())?, at).ok();
        if let Some(leader) = SectorSize::ALL.into_iter().find_map(decoded) {
            let is_ours = leader.nonce() == Some(self.nonce);
            self.led = Some(Led { start: at, geometry: leader.geometry, is_ours });
            self.shows(leader.version);
            self.owns(leader.owner);
            let writer = HostId::new(leader.writer.id).zip(Generation::new(leader.writer.generation));
            self.owns(writer.map(|(host, generation)| Owner { host, generation }));
            let named = (leader.lockspace, leader.geometry) == (terms.lockspace, terms.geometry);
            if named && leader.extension.is_none() && !leader.cleared {
                self.lookalikes.push((at, leader));
            }
        }
        let led = self.led.filter(|led| led.contains(at));
        if let Some(led) = led.filter(|led| led.is_ours) {
            let Blocks { others, damaged, .. } = self.blocks(led.geometry.sector(), led.start, at, bytes);
            self.lost |= others || damaged;
            return;
        }
        // Where its leader is not ours, one of a lockspace before this one may have landed late on an area of ours, and
        // be of other sizes.
        for size in SectorSize::ALL {
            let sized = led.filter(|led| led.geometry.sector() == size);
            let is_former = size == self.geometry.sector();
            let start = match sized {
                Some(led) => led.start,
                None if is_former => at / self.geometry.area_bytes() * self.geometry.area_bytes(),
                None => at,
            };
            let Blocks { ours, others, .. } = self.blocks(size, start, at, bytes);
            // Without a leader: there was one, perhaps one that an interrupted format wrote over what others had left.
            self.lost |= ours || others && is_former && led.is_none();
        }
    }

    /// Takes in the blocks that stand from byte `at` on, of an area that begins at `start`.
    fn blocks(&mut self, size: SectorSize, start: u64, at: u64, bytes: &[u8]) -> Blocks {
        let mut blocks = Blocks::default();
        let highest = if size == self.geometry.sector() { self.highest() } else { u64::MAX };
        for (place, sector) in (at..).step_by(size.bytes()).zip(bytes.chunks_exact(size.bytes())) {
            // The leader and the request come first.
            let number = (place - start) / size.bytes() as u64;
            let Some(host) = number.checked_sub(1).and_then(HostId::new) else { continue };
            if host.get() > highest {
                break;
            }
            let Ok(block) = Block::decode(sector, place) else {
                blocks.damaged = true;
                continue;
            };
            let nonce = block.nonce();
            blocks.ours |= nonce == Some(self.nonce);
            blocks.others |= nonce.is_some_and(|nonce| nonce != self.nonce);
            self.shows(block.instance);
            self.owns(block.inp);
            let wrote = block.extension.as_ref().and_then(|extension| Generation::new(extension.generation));
            for generation in wrote.into_iter().chain(block.shared) {
                self.owns(Some(Owner { host, generation }));
            }
        }
        blocks
    }

    /// The version after which those of the new lockspace come.
    pub(super) fn version(&self) -> Version {
        let lost = self.lost && Rule::LostIsPassedOver.is_in_force();
        if lost { self.version.after(LOST) } else { self.version }
    }

    fn shows(&mut self, version: Version) {
        if numbers::is_reached(version.get()) {
            self.version = self.version.max(version);
        }
    }

    fn owns(&mut self, owner: Option<Owner>) {
        let Some(owner) = owner.filter(|owner| numbers::is_reached(owner.generation.get())) else { return };
        let known = self.generations.entry(owner.host).or_default();
        *known = (*known).max(owner.generation.get());
    }
}
