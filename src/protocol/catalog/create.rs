//! Makes a resource: finds it a place, makes its area, and lists it in the index.
//!
//! Not in here: the lease that guards the index, which the caller holds. It only keeps creators from getting in each
//! other's way. A creator that stalls loses it, and its writes may land when others have come; so safety does not rest
//! on it:
//! - The first write is the own block of the area, with the mark *making*. What follows is submitted only when that is
//!   durable. Nobody else makes anything in the area before every write of the marked generation has ended
//!   ([`Place::of`]).
//! - Only an area in which no resource of this lockspace was ever made is cleared, and nobody uses it before its leader
//!   stands, which is written last. In any other area the blocks stay, and the versions go on.
//! - The mark is taken away when a leader stands that says "deleted", and every write so far has ended. Only then is
//!   the leader written that makes the resource. From then on other threads of this host may acquire it, and write the
//!   own block: nothing more is written to the area. Should that leader land late, it says at worst what it said
//!   before: nobody makes anything of another name there before this generation has ended.
//! - An index entry is a hint. One that is written late says what the leader in its area says, or is taken for a
//!   mistake.

use super::blanks;
use super::index::Index;
use super::place::{Ground, Place, Reason};
use crate::format::{Block, BlockExtension, Corrupt, IndexHeader, Leader};
use crate::protocol::area::AreaView;
use crate::protocol::delta::Terms;
use crate::protocol::liveness::Observer;
use crate::protocol::procedure::{self, Event, Extent, Procedure, Sectors, Window, Write};
use crate::protocol::rules::Rule;
use crate::protocol::{Written, reading};
use crate::types::{Name, Owner, Resource, Time, Version};

type Effect = procedure::Effect<End>;

/// At most so many leaders are looked at in one step.
const LEADERS: usize = 256;

/// How a creation ended.
pub type End = Result<Resource, Failure>;

/// Why a resource was not created. Creating it again is always safe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The index lists the name. Nothing was written.
    Exists,
    /// This entry is damaged, and may stand for the name. Nothing was written.
    Entry(u32, Corrupt),
    /// No place is free. Nothing was written.
    Full {
        /// The places that are left alone though the index lists nothing there, and why.
        passed_over: Vec<(u32, Reason)>,
    },
    /// An I/O failed or took too long. The resource exists or not.
    Storage,
}

/// What a creation is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// Who makes it.
    pub me: Owner,
    /// The lockspace.
    pub terms: Terms,
    /// The new resource's name.
    pub name: Name,
    /// The version at which `me` holds the lease that guards the index.
    pub guard: Version,
    /// How many sectors of an area are in use, at most those that it has.
    pub area_sectors: u64,
    /// The device's size in bytes.
    pub device_bytes: u64,
}

/// A creation under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Create {
    order: Order,
    header: IndexHeader,
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Begin(Index),
    /// Looking at the leaders behind the first of `unlisted`, all of which are entries that name nothing.
    Leaders {
        unlisted: Vec<(u32, Option<Corrupt>)>,
        free: Vec<u32>,
    },
    /// Looking at the area of the last of `free`.
    Area {
        free: Vec<u32>,
        passed_over: Vec<(u32, Reason)>,
    },
    /// Writing the mark.
    Marking(Site),
    /// Clearing the first of these extents.
    Clearing(Site, Vec<Extent>),
    /// Writing a leader of the new name that says "deleted".
    Claiming(Site),
    /// Taking the mark away.
    Unmarking(Site),
    /// Writing the leader.
    Leading(u32),
    /// Reading the sector of this entry.
    Entry(u32),
    /// Writing that sector.
    Listing(u32),
    /// Putting the own block back after a failure.
    Restoring,
    Over,
}

/// Where a resource is being made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Site {
    number: u32,
    ground: Ground,
    /// The own block as it was.
    own: Block,
}

impl Create {
    /// A creation that was not begun; `index` was read under the guard.
    pub fn new(order: Order, index: Index) -> Create {
        Create { order, header: index.header.clone(), step: Step::Begin(index) }
    }

    fn begin(&mut self, index: &Index) -> Effect {
        if index.resources().any(|resource| resource.name == self.order.name) {
            return Effect::Done(Err(Failure::Exists));
        }
        let entries = (0..index.room(self.order.device_bytes)).zip(&index.entries);
        let mut unlisted: Vec<(u32, Option<Corrupt>)> = entries
            .filter(|(_, entry)| !matches!(entry, Ok(Some(_))))
            .map(|(number, entry)| (number, entry.as_ref().err().cloned()))
            .collect();
        // The last one is taken off first.
        unlisted.reverse();
        self.look_at_leaders(unlisted, Vec::new())
    }

    /// Nothing depends on when a write is submitted: the driver submits none when the membership or the guard is lost.
    fn write(&self, offset: u64, bytes: Vec<u8>) -> Effect {
        let window = Window { before: Time::MAX, timeout: self.order.terms.timeouts.fail() };
        Effect::Write(Write { offset, bytes, window })
    }

    fn read(&self, extents: Vec<Extent>) -> Effect {
        Effect::Read { extents, timeout: self.order.terms.timeouts.io() }
    }

    fn resource(&self, number: u32) -> Resource {
        Resource { name: self.order.name, offset: self.header.resource_offset(number) }
    }

    fn area(&self, number: u32) -> u64 {
        self.header.resource_offset(number)
    }

    /// Two resources of one name could both be held. So the leader behind each entry that names nothing is looked at:
    /// an area of that name gets its lost entry back, and a damaged entry must not stand for the name.
    fn look_at_leaders(&mut self, unlisted: Vec<(u32, Option<Corrupt>)>, free: Vec<u32>) -> Effect {
        if unlisted.is_empty() {
            return self.look_at_area(free, Vec::new());
        }
        let batch = unlisted.iter().rev().take(LEADERS);
        let extents = batch.map(|(number, _)| Extent { offset: self.area(*number), sectors: 1 }).collect();
        self.step = Step::Leaders { unlisted, free };
        self.read(extents)
    }

    fn saw_leaders(&mut self, mut unlisted: Vec<(u32, Option<Corrupt>)>, mut free: Vec<u32>, read: &Sectors) -> Effect {
        for sector in read.iter() {
            let Some((number, damage)) = unlisted.pop() else { break };
            let leader = sector.ok().and_then(|sector| self.leader(sector, self.area(number)));
            match (damage, leader.map(|leader| leader.resource == self.order.name)) {
                (None, Some(true)) => return self.find_entry(number),
                (None, _) => free.push(number),
                (Some(_), Some(false)) => {}
                (Some(reason), _) => return Effect::Done(Err(Failure::Entry(number, reason))),
            }
        }
        if unlisted.is_empty() {
            free.reverse();
        }
        self.look_at_leaders(unlisted, free)
    }

    /// The leader of a resource of this lockspace that stands there, if there is one.
    fn leader(&self, sector: &[u8], at: u64) -> Option<Leader> {
        let terms = &self.order.terms;
        let leader = reading::leader(Ok(sector), at, terms.nonce).good().cloned();
        leader.filter(|leader| !leader.cleared && leader.lockspace == terms.lockspace)
    }

    fn look_at_area(&mut self, free: Vec<u32>, passed_over: Vec<(u32, Reason)>) -> Effect {
        let Some(number) = free.last() else {
            return Effect::Done(Err(Failure::Full { passed_over }));
        };
        let offset = self.area(*number);
        self.step = Step::Area { free, passed_over };
        self.read(vec![Extent { offset, sectors: self.block_sectors() }])
    }

    /// Leader, request, and a block for each host that there is room for.
    fn block_sectors(&self) -> u64 {
        self.order.area_sectors.min(self.order.terms.geometry.max_hosts() + 2)
    }

    fn saw_area(
        &mut self,
        mut free: Vec<u32>,
        mut passed_over: Vec<(u32, Reason)>,
        read: &Sectors,
        observer: &mut Observer,
        now: Time,
    ) -> Effect {
        let Some(number) = free.pop() else {
            return Effect::Done(Err(Failure::Full { passed_over }));
        };
        let Order { me, terms, name, .. } = &self.order;
        let view = AreaView::of(read, terms, self.area(number));
        match Place::of(&view, terms, *name, observer, now) {
            // Its entry is lost: a repair brings it back.
            Place::Resource(_) => self.look_at_area(free, passed_over),
            Place::Taken(reason) => {
                passed_over.push((number, reason));
                self.look_at_area(free, passed_over)
            }
            Place::Free(ground) => {
                // Where nothing is kept, what a former lockspace left in the own block isn't either.
                let own = view.block(me.host).filter(|_| !ground.fresh).unwrap_or_default();
                let site = Site { number, ground, own };
                if !Rule::MakingIsMarked.is_in_force() {
                    return self.clear(site);
                }
                let write = self.write_own(number, &self.signed(&site.own, true));
                self.step = Step::Marking(site);
                write
            }
        }
    }

    /// As written by this generation, which may have given a version up in it in advance.
    fn signed(&self, own: &Block, making: bool) -> Block {
        let Order { me, terms, .. } = &self.order;
        let generation = me.generation.get();
        let said = own.extension.clone().filter(|extension| extension.generation == generation).unwrap_or_default();
        let extension = BlockExtension { generation, nonce: terms.nonce, making, ..said };
        Block { extension: Some(extension), ..own.clone() }
    }

    fn write_own(&self, number: u32, block: &Block) -> Effect {
        let geometry = self.order.terms.geometry;
        let at = self.area(number) + geometry.block_offset(self.order.me.host);
        self.write(at, block.encode(geometry, at))
    }

    /// Whatever stood in the area before: all but the leader, and the own block with its mark. Writing all of it has a
    /// thin device allocate it.
    fn clear(&mut self, site: Site) -> Effect {
        let (geometry, area) = (self.order.terms.geometry, self.area(site.number));
        let sector = geometry.sector_bytes() as u64;
        let own = geometry.block_offset(self.order.me.host) / sector;
        let ranges = [1..own, own + 1..self.order.area_sectors];
        let most = (blanks::CHUNK as u64 / sector).max(1);
        let extents = ranges.into_iter().filter(|_| site.ground.fresh).flat_map(|range| {
            let end = range.end;
            let chunks = range.step_by(most as usize);
            chunks.map(move |first| Extent { offset: area + first * sector, sectors: most.min(end - first) })
        });
        let extents: Vec<Extent> = extents.collect();
        self.clear_next(site, extents)
    }

    fn clear_rest(&mut self, site: Site, mut extents: Vec<Extent>) -> Effect {
        extents.pop();
        self.clear_next(site, extents)
    }

    fn clear_next(&mut self, site: Site, extents: Vec<Extent>) -> Effect {
        let Some(extent) = extents.last().copied() else {
            return self.claim(site);
        };
        let Terms { geometry, nonce, .. } = self.order.terms;
        let bytes = blanks::sectors(geometry, self.area(site.number), extent, nonce, Version::default());
        self.step = Step::Clearing(site, extents);
        self.write(extent.offset, bytes)
    }

    fn claim(&mut self, site: Site) -> Effect {
        let write = self.write_leader(&site, true);
        self.step = Step::Claiming(site);
        write
    }

    fn unmark(&mut self, site: Site) -> Effect {
        let write = self.write_own(site.number, &self.signed(&site.own, false));
        self.step = Step::Unmarking(site);
        write
    }

    fn lead(&mut self, site: &Site) -> Effect {
        self.step = Step::Leading(site.number);
        self.write_leader(site, false)
    }

    fn write_leader(&self, site: &Site, cleared: bool) -> Effect {
        let Order { terms, name, guard, .. } = &self.order;
        // Above all that any resource had when the guard was made, so that a name which comes back has a larger
        // version.
        let before = Version::new(guard.get().saturating_sub(1));
        let version = site.ground.shown.max(before);
        let geometry = terms.geometry;
        let leader = Leader::new_free(geometry, terms.lockspace, terms.nonce, *name, geometry.max_hosts(), version);
        let at = self.area(site.number);
        self.write(at, Leader { cleared, ..leader }.encode(at))
    }

    fn find_entry(&mut self, number: u32) -> Effect {
        let offset = Index::entry_sector(&self.header, number);
        self.step = Step::Entry(number);
        self.read(vec![Extent { offset, sectors: 1 }])
    }

    fn list(&mut self, number: u32, read: &Sectors) -> Effect {
        let Ok(sector) = read.first() else { return Effect::Done(Err(Failure::Storage)) };
        let bytes = Index::with_entry(&self.header, number, sector.to_vec(), Some(self.order.name));
        self.step = Step::Listing(number);
        self.write(Index::entry_sector(&self.header, number), bytes)
    }

    /// Every other write has ended.
    fn restore(&mut self, site: &Site) -> Effect {
        self.step = Step::Restoring;
        self.write_own(site.number, &site.own)
    }
}

impl Procedure for Create {
    type Answer = End;

    fn step(&mut self, event: Event, observer: &mut Observer) -> Effect {
        match (std::mem::replace(&mut self.step, Step::Over), event) {
            (Step::Begin(index), Event::Begun(_)) => self.begin(&index),
            (Step::Leaders { unlisted, free }, Event::Read(_, read)) => self.saw_leaders(unlisted, free, &read),
            (Step::Area { free, passed_over }, Event::Read(span, read)) => {
                self.saw_area(free, passed_over, &read, observer, span.ended)
            }
            (Step::Entry(number), Event::Read(_, read)) => self.list(number, &read),
            (Step::Marking(site), Event::Wrote(_, Written::Done)) => self.clear(site),
            (Step::Clearing(site, extents), Event::Wrote(_, Written::Done)) => self.clear_rest(site, extents),
            (Step::Claiming(site), Event::Wrote(_, Written::Done)) => self.unmark(site),
            (Step::Unmarking(site), Event::Wrote(_, Written::Done)) => self.lead(&site),
            (Step::Leading(number), Event::Wrote(_, Written::Done)) => self.find_entry(number),
            (Step::Listing(number), Event::Wrote(_, Written::Done)) => Effect::Done(Ok(self.resource(number))),
            // Nothing else may be written while a write is in flight: the mark says so to others.
            (_, Event::Wrote(_, Written::InFlight)) => Effect::Done(Err(Failure::Storage)),
            (Step::Marking(site) | Step::Clearing(site, _) | Step::Claiming(site), _) => self.restore(&site),
            _ => Effect::Done(Err(Failure::Storage)),
        }
    }
}
