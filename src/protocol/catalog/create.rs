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
//! - The mark is taken away when everything else has ended.
//! - An index entry is a hint. One that is written late says what the leader in its area says, or is taken for a
//!   mistake.

use super::index::Index;
use super::place::{Ground, Place, Reason};
use crate::format::{Block, BlockExtension, Corrupt, IndexHeader, Leader, Request};
use crate::protocol::area::AreaView;
use crate::protocol::delta::Terms;
use crate::protocol::liveness::Observer;
use crate::protocol::procedure::{self, Event, Extent, Procedure, Sectors, Window, Write};
use crate::protocol::rules::in_force;
use crate::protocol::{Defect, Written};
use crate::types::{HostId, Name, Owner, Resource, Time, Version};

type Effect = procedure::Effect<End>;

/// At most so many leaders are looked at in one step, and so many bytes cleared by one write.
const LEADERS: usize = 256;
const CHUNK: usize = 1 << 20;

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
    /// Writing the leader.
    Leading(Site),
    /// Reading the sector of this entry. `Site`: what was made; without it, it was there.
    Entry(u32, Option<Site>),
    /// Writing that sector.
    Listing(u32, Option<Site>),
    /// Taking the mark away, to end with this.
    Unmarking(End),
    Over,
}

/// Where a resource is being made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Site {
    number: u32,
    ground: Ground,
    /// The own block, marked.
    mark: Block,
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
                (None, Some(true)) => return self.find_entry(number, None),
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
        let view = AreaView::decode(Ok(sector), [], at, terms.geometry, terms.nonce);
        let leader = view.leader.good().filter(|leader| !leader.cleared && leader.lockspace == terms.lockspace);
        leader.cloned()
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
        let at = self.area(number);
        let mut all = read.iter();
        let leader = all.next().unwrap_or(Err(Defect::Unreadable));
        let blocks = all.skip(1).zip(1..).filter_map(|(sector, id)| Some((HostId::new(id)?, sector)));
        let view = AreaView::decode(leader, blocks, at, terms.geometry, terms.nonce);
        match Place::of(&view, terms, *name, observer, now) {
            // Its entry is lost: a repair brings it back.
            Place::Resource(_) => self.look_at_area(free, passed_over),
            Place::Taken(reason) => {
                passed_over.push((number, reason));
                self.look_at_area(free, passed_over)
            }
            Place::Free(ground) => {
                let own = view.block(me.host).unwrap_or_default();
                let making = BlockExtension {
                    generation: me.generation.get(),
                    nonce: terms.nonce,
                    making: true,
                    ..BlockExtension::default()
                };
                let mark = Block { extension: Some(making), ..own };
                let site = Site { number, ground, mark };
                if !in_force!(MakingIsMarked) {
                    return self.clear(site);
                }
                let write = self.write_own(&site, &site.mark);
                self.step = Step::Marking(site);
                write
            }
        }
    }

    fn write_own(&self, site: &Site, block: &Block) -> Effect {
        let geometry = self.order.terms.geometry;
        let at = self.area(site.number) + geometry.block_offset(self.order.me.host);
        self.write(at, block.encode(geometry, at))
    }

    /// Whatever stood in the area before: all but the leader, and the own block with its mark. Writing all of it has a
    /// thin device allocate it.
    fn clear(&mut self, site: Site) -> Effect {
        let (geometry, area) = (self.order.terms.geometry, self.area(site.number));
        let sector = geometry.sector_bytes() as u64;
        let own = geometry.block_offset(self.order.me.host) / sector;
        let ranges = [1..own, own + 1..self.order.area_sectors];
        let most = (CHUNK as u64 / sector).max(1);
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

    /// The request in the area asks for nothing: where there is none at all a sanlock host can't ask for the resource.
    fn clear_next(&mut self, site: Site, extents: Vec<Extent>) -> Effect {
        let Some(Extent { offset, sectors }) = extents.last().copied() else {
            return self.lead(site);
        };
        let geometry = self.order.terms.geometry;
        let mut bytes = vec![0; sectors as usize * geometry.sector_bytes()];
        if offset == self.area(site.number) + geometry.request_offset() {
            let request = Request::default().encode(geometry);
            bytes[..request.len()].copy_from_slice(&request);
        }
        self.step = Step::Clearing(site, extents);
        self.write(offset, bytes)
    }

    fn lead(&mut self, site: Site) -> Effect {
        let Order { terms, name, guard, .. } = &self.order;
        // Above all that any resource had when the guard was made, so that a name which comes back has a larger
        // version.
        let before = Version::new(guard.get().saturating_sub(1));
        let version = site.ground.shown.max(before);
        let geometry = terms.geometry;
        let leader = Leader::new_free(geometry, terms.lockspace, terms.nonce, *name, geometry.max_hosts(), version);
        let at = self.area(site.number);
        self.step = Step::Leading(site);
        self.write(at, leader.encode(at))
    }

    fn find_entry(&mut self, number: u32, site: Option<Site>) -> Effect {
        let offset = Index::entry_sector(&self.header, number);
        self.step = Step::Entry(number, site);
        self.read(vec![Extent { offset, sectors: 1 }])
    }

    fn list(&mut self, number: u32, site: Option<Site>, read: &Sectors) -> Effect {
        let Ok(sector) = read.first() else {
            return match site {
                Some(site) => self.unmark(site, Err(Failure::Storage)),
                None => Effect::Done(Err(Failure::Storage)),
            };
        };
        let bytes = Index::with_entry(&self.header, number, sector.to_vec(), Some(self.order.name));
        self.step = Step::Listing(number, site);
        self.write(Index::entry_sector(&self.header, number), bytes)
    }

    /// Every other write has ended.
    fn unmark(&mut self, site: Site, end: End) -> Effect {
        let extension = site.mark.extension.clone().map(|extension| BlockExtension { making: false, ..extension });
        let write = self.write_own(&site, &Block { extension, ..site.mark.clone() });
        self.step = Step::Unmarking(end);
        write
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
            (Step::Entry(number, site), Event::Read(_, read)) => self.list(number, site, &read),
            (Step::Marking(site), Event::Wrote(_, Written::Done)) => self.clear(site),
            (Step::Clearing(site, extents), Event::Wrote(_, Written::Done)) => self.clear_rest(site, extents),
            (Step::Leading(site), Event::Wrote(_, Written::Done)) => {
                let number = site.number;
                self.find_entry(number, Some(site))
            }
            (Step::Listing(number, site), Event::Wrote(_, Written::Done)) => {
                let made = Ok(self.resource(number));
                match site {
                    Some(site) => self.unmark(site, made),
                    None => Effect::Done(made),
                }
            }
            (Step::Unmarking(end), _) => Effect::Done(end),
            // Nothing else may be written while a write is in flight: the mark says so to others.
            (_, Event::Wrote(_, Written::InFlight)) => Effect::Done(Err(Failure::Storage)),
            (
                Step::Marking(site)
                | Step::Clearing(site, _)
                | Step::Leading(site)
                | Step::Entry(_, Some(site))
                | Step::Listing(_, Some(site)),
                _,
            ) => self.unmark(site, Err(Failure::Storage)),
            _ => Effect::Done(Err(Failure::Storage)),
        }
    }
}
