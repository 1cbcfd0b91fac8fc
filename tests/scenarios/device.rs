//! A device, sector by sector, with hosts that make resources on it and acquire them.

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::format::{Geometry, Leader};
use leasehold::protocol::area::AreaView;
use leasehold::protocol::catalog::create::{Create, End, Order};
use leasehold::protocol::catalog::index::Index;
use leasehold::protocol::delta::Terms;
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::procedure::{Effect, Event, Extent, Procedure, Sectors, Write};
use leasehold::protocol::resource::{self, Operation, Outcome, Subject, Wish};
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{HostId, Name, Owner, Time, Version};

use crate::world::{A, B, C, D, id, name, owner, record, timeouts};

/// Room for this many resources.
const PLACES: u64 = 4;
/// Of each area so many sectors are in use.
const AREA_SECTORS: u64 = 8;
pub(crate) const NONCE: u32 = 1;

/// A device with an index, and hosts A to D, which live in their first generation.
pub(crate) struct Device {
    pub(crate) now: Time,
    sectors: BTreeMap<u64, Vec<u8>>,
    observer: Observer,
    generations: BTreeMap<HostId, (u64, bool)>,
}

/// A host that makes a resource, and the effect that it waits for.
pub(crate) struct Maker {
    create: Create,
    pub(crate) effect: Effect<End>,
}

pub(crate) fn terms() -> Terms {
    Terms { geometry: Geometry::default(), lockspace: name("ls"), nonce: NONCE, timeouts: timeouts() }
}

/// Where the area of entry `number` starts.
pub(crate) fn area(number: u32) -> u64 {
    Index::usual_header(&terms(), 4).resource_offset(number)
}

impl Device {
    pub(crate) fn new() -> Device {
        let mut device = Device {
            now: Time::ZERO + Duration::from_secs(1_000),
            sectors: BTreeMap::new(),
            observer: Observer::new(timeouts()),
            generations: [A, B, C, D].map(|host| (id(host), (1, true))).into(),
        };
        let header = Index::usual_header(&terms(), 4);
        device.put(header.offset, &header.encode());
        device.scan();
        device
    }

    /// Time for a host that shows no life to count as dead, in the eyes of all others.
    pub(crate) fn dies(&mut self, host: u64) {
        if let Some((_, live)) = self.generations.get_mut(&id(host)) {
            *live = false;
        }
        for _ in 0..4 {
            self.now = self.now + timeouts().dead();
            self.scan();
        }
        let gone = self.present(host);
        assert!(self.observer.judge(gone, self.now).is_gone());
    }

    /// The machine of a dead host takes its id again, in its next generation.
    pub(crate) fn comes_back(&mut self, host: u64) {
        let next = self.present(host).generation.get() + 1;
        self.generations.insert(id(host), (next, true));
        self.scan();
    }

    fn scan(&mut self) {
        let started = self.now;
        self.now = self.now + Duration::from_millis(1);
        let span = Span { started, ended: self.now };
        for (host, (generation, live)) in &self.generations {
            let mut record = record(owner(host.get(), *generation), timeouts());
            if *live {
                record.begin_write(self.now, self.now);
            }
            self.observer.observe(*host, span, Some(span.started), Seen::Good(record));
        }
    }

    pub(crate) fn present(&self, host: u64) -> Owner {
        owner(host, self.generations[&id(host)].0)
    }

    pub(crate) fn put(&mut self, offset: u64, bytes: &[u8]) {
        let size = Geometry::default().sector_bytes();
        for (at, sector) in (offset..).step_by(size).zip(bytes.chunks(size)) {
            self.sectors.insert(at, sector.to_vec());
        }
    }

    pub(crate) fn sector(&self, offset: u64) -> Vec<u8> {
        self.sectors.get(&offset).cloned().unwrap_or_else(|| vec![0; Geometry::default().sector_bytes()])
    }

    /// The sectors of an area that are in use.
    pub(crate) fn bytes(&self, area: u64) -> Vec<Vec<u8>> {
        let size = Geometry::default().sector_bytes() as u64;
        (0..AREA_SECTORS).map(|number| self.sector(area + number * size)).collect()
    }

    pub(crate) fn index(&self) -> Index {
        let header = Index::usual_header(&terms(), 4);
        let (offset, sectors) = Index::entries_extent(&header);
        let size = Geometry::default().sector_bytes() as u64;
        let bytes: Vec<u8> = (0..sectors).flat_map(|number| self.sector(offset + number * size)).collect();
        Index::decode(header, &bytes)
    }

    pub(crate) fn view(&self, area: u64) -> AreaView {
        let geometry = Geometry::default();
        let leader = self.sector(area);
        let blocks: Vec<(HostId, Vec<u8>)> =
            [A, B, C, D].map(|host| (id(host), self.sector(area + geometry.block_offset(id(host))))).into();
        let blocks = blocks.iter().map(|(host, sector)| (*host, Ok(sector.as_slice())));
        AreaView::decode(Ok(&leader), blocks, area, geometry, NONCE)
    }

    pub(crate) fn leader(&self, area: u64) -> Option<Leader> {
        self.view(area).leader.good().cloned()
    }

    /// A host begins to make a resource, as the holder of the guard at version `guard`.
    pub(crate) fn makes(&mut self, host: u64, resource: &str, guard: u64) -> Maker {
        let geometry = Geometry::default();
        let order = Order {
            me: self.present(host),
            terms: terms(),
            name: name(resource),
            guard: Version::new(guard),
            area_sectors: AREA_SECTORS,
            device_bytes: (3 + PLACES) * geometry.area_bytes(),
        };
        let mut create = Create::new(order, self.index());
        let effect = create.step(Event::Begun(self.now), &mut self.observer);
        Maker { create, effect }
    }

    /// Carries out the effect that `maker` waits for.
    pub(crate) fn step(&mut self, maker: &mut Maker) {
        let started = self.now;
        self.now = self.now + Duration::from_millis(1);
        let span = Span { started, ended: self.now };
        let event = match maker.effect.clone() {
            Effect::Read { extents, .. } => Event::Read(span, self.read(&extents)),
            Effect::Write(write) => {
                self.lands(&write);
                Event::Wrote(span, Written::Done)
            }
            Effect::Wait(until) => Event::Woke(until),
            Effect::Done(end) => panic!("already over: {end:?}"),
        };
        self.report(maker, event);
    }

    pub(crate) fn report(&mut self, maker: &mut Maker, event: Event) {
        maker.effect = maker.create.step(event, &mut self.observer);
    }

    fn read(&self, extents: &[Extent]) -> Sectors {
        let size = Geometry::default().sector_bytes();
        let mut all = Sectors::new(size);
        for Extent { offset, sectors } in extents {
            for number in 0..*sectors {
                all.push(Some(&self.sector(offset + number * size as u64)));
            }
        }
        all
    }

    /// A write reaches the disk, whoever has submitted it and whenever.
    pub(crate) fn lands(&mut self, write: &Write) {
        self.put(write.offset, &write.bytes);
    }

    /// Goes on until `maker` is about to write to a sector that `wanted` picks.
    pub(crate) fn until_write(&mut self, maker: &mut Maker, wanted: impl Fn(u64) -> bool) -> Write {
        for _ in 0..1_000 {
            if let Effect::Write(write) = &maker.effect
                && wanted(write.offset)
            {
                return write.clone();
            }
            self.step(maker);
        }
        panic!("no such write");
    }

    pub(crate) fn end(&mut self, maker: &mut Maker) -> End {
        for _ in 0..1_000 {
            if let Effect::Done(end) = &maker.effect {
                return end.clone();
            }
            self.step(maker);
        }
        panic!("no end");
    }

    /// The whole of a creation that succeeds; gives its area.
    pub(crate) fn made(&mut self, host: u64, resource: &str, guard: u64) -> u64 {
        let mut maker = self.makes(host, resource, guard);
        self.end(&mut maker).unwrap_or_else(|failure| panic!("{resource}: {failure:?}")).offset()
    }

    /// The whole of an acquire that doesn't wait.
    pub(crate) fn acquire(&mut self, host: u64, resource: &str, area: u64) -> Outcome {
        let subject = self.subject(host, name(resource));
        let own = self.view(area).block(id(host));
        let (operation, effect) = Operation::acquire(subject, own, Wish::exclusive(false), self.now);
        self.finish(area, host, operation, effect)
    }

    /// The whole of a release.
    pub(crate) fn release(&mut self, host: u64, resource: &str, area: u64) -> Outcome {
        let subject = self.subject(host, name(resource));
        let own = self.view(area).block(id(host)).unwrap();
        let (operation, effect) = Operation::release(subject, own, self.now);
        self.finish(area, host, operation, effect)
    }

    fn subject(&self, host: u64, resource: Name) -> Subject {
        let Terms { geometry, lockspace, nonce, timeouts } = terms();
        Subject { me: self.present(host), geometry, lockspace, resource, nonce, timeouts, disks: 1 }
    }

    fn finish(&mut self, area: u64, host: u64, mut operation: Operation, mut effect: resource::Effect) -> Outcome {
        let geometry = Geometry::default();
        for _ in 0..1_000 {
            let started = self.now;
            self.now = self.now + Duration::from_millis(1);
            let (round, event) = match effect {
                resource::Effect::Read(round) => {
                    let span = Span { started, ended: self.now };
                    (round, resource::Event::Read { disk: 0, span, since: started, view: self.view(area) })
                }
                resource::Effect::WriteBlock(round, block) => {
                    let at = area + geometry.block_offset(id(host));
                    self.put(at, &block.encode(geometry, at));
                    (round, resource::Event::Wrote { disk: 0, written: Written::Done })
                }
                resource::Effect::WriteLeader(round, leader) => {
                    self.put(area, &leader.encode(area));
                    (round, resource::Event::Wrote { disk: 0, written: Written::Done })
                }
                resource::Effect::Scan(round) => {
                    self.scan();
                    (round, resource::Event::Scanned)
                }
                resource::Effect::Settle(round) => (round, resource::Event::Settled),
                resource::Effect::Wait(round, until) => {
                    self.now = self.now.max(until);
                    (round, resource::Event::Woke)
                }
                resource::Effect::Done(outcome) => return outcome,
            };
            effect = operation.step(round, event, &mut self.observer, self.now, 7).unwrap();
        }
        panic!("no end");
    }
}
