//! Hosts on one disk, driven event by event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leasehold::format::{Block, DeltaExtension, DeltaRecord, Geometry, Leader, Writer};
use leasehold::protocol::area::AreaView;
use leasehold::protocol::delta::{Bid, Terms};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::resource::{Basis, Effect, Event, Operation, Outcome, Subject, Wish};
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{BootId, HostId, LeaseMode, MachineId, Owner, Time, Timeouts, Version};

pub(crate) use crate::values::{A, B, damage, id, name, owner, timeouts};

/// One disk with one resource, hosts that are live or not, and a clock that all share.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) leader: Leader,
    /// Reads find the leader damaged, until it is written anew.
    pub(crate) leader_is_damaged: bool,
    pub(crate) blocks: BTreeMap<HostId, Seen<Block>>,
    pub(crate) records: BTreeMap<HostId, DeltaRecord>,
    /// Hosts that renew.
    pub(crate) live: BTreeSet<HostId>,
    pub(crate) observers: BTreeMap<HostId, Observer>,
    pub(crate) scanned: BTreeMap<HostId, Time>,
    /// Hosts with a write in flight to the resource.
    pub(crate) in_flight: BTreeSet<HostId>,
    pub(crate) random: u64,
}

/// An operation of a host, and the effect that it waits for.
pub(crate) struct Run {
    pub(crate) me: Owner,
    pub(crate) operation: Operation,
    pub(crate) effect: Effect,
}

impl Run {
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match &self.effect {
            Effect::Done(outcome) => Some(outcome),
            _ => None,
        }
    }
}

/// A write that timed out.
pub(crate) struct Late(pub(crate) HostId, pub(crate) Effect);

/// What a live holder with these timeouts has written.
pub(crate) fn record(me: Owner, timeouts: Timeouts) -> DeltaRecord {
    DeltaRecord {
        geometry: Geometry::default(),
        lockspace: name("ls"),
        owner_id: me.host.get(),
        generation: me.generation.get(),
        host_name: name("host"),
        timestamp: 1_000,
        io_timeout: timeouts.io_seconds(),
        extension: Some(DeltaExtension {
            nonce: NONCE,
            session: me.host.get() as u32,
            boot: BootId::new(1),
            started_us: 0,
            machine: MachineId::new(me.host.get()),
            superseded: 0,
            confirmed: true,
            declared_by: None,
            left: 0,
            timeouts,
        }),
    }
}

/// Of the lockspace.
pub(crate) const NONCE: u32 = 1;
/// Where the area of the resource starts.
const AREA: u64 = 3 << 20;

pub(crate) fn terms() -> Terms {
    Terms { geometry: Geometry::default(), lockspace: name("ls"), nonce: NONCE, timeouts: timeouts() }
}

/// Asks for an id, and vouches for nobody.
pub(crate) fn bid(host: u64) -> Bid {
    Bid::new(id(host), timeouts().dead())
}

pub(crate) const C: u64 = 3;

pub(crate) const D: u64 = 4;

/// To share, without waiting.
pub(crate) const SHARED: Wish = Wish { mode: LeaseMode::Shared, wait: false, basis: Basis::Any };

/// To take `version` by force, without waiting.
pub(crate) const fn forced(version: u64) -> Wish {
    Wish { basis: Basis::Forced(Version::new(version)), ..Wish::exclusive(false) }
}

/// To be handed the resource by whoever owns it.
const HANDED_OVER: Wish = Wish { basis: Basis::HandedOver, ..Wish::exclusive(true) };

impl World {
    /// Hosts 1 to 4 live in their first generation; the resource was never owned.
    pub(crate) fn new() -> World {
        let hosts = [A, B, C, D].map(|host| owner(host, 1));
        let geometry = Geometry::default();
        World {
            now: Time::ZERO + Duration::from_secs(1_000),
            leader: Leader::new_free(geometry, name("ls"), NONCE, name("res"), geometry.max_hosts(), Version::new(0)),
            leader_is_damaged: false,
            blocks: BTreeMap::new(),
            records: hosts.map(|me| (me.host, record(me, timeouts()))).into(),
            live: hosts.map(|me| me.host).into(),
            observers: hosts.map(|me| (me.host, Observer::new(timeouts()))).into(),
            scanned: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            random: 1,
        }
    }

    /// Host A runs sanlock, and owns the resource at version 1.
    pub(crate) fn of_a_sanlock_owner() -> World {
        let mut world = World::new();
        world.records.get_mut(&id(A)).unwrap().extension = None;
        world.is_taken_by_sanlock(A, 1);
        world
    }

    pub(crate) fn subject(me: Owner) -> Subject {
        let geometry = Geometry::default();
        let (lockspace, resource) = (name("ls"), name("res"));
        Subject { me, geometry, lockspace, nonce: NONCE, resource, timeouts: timeouts(), disks: 1 }
    }

    /// The generation that holds the host id.
    pub(crate) fn present(&self, host: u64) -> Owner {
        owner(host, self.records[&id(host)].generation)
    }

    pub(crate) fn block_of(&self, host: u64) -> Block {
        self.blocks.get(&id(host)).and_then(Seen::good).cloned().unwrap_or_default()
    }

    pub(crate) fn acquire(&self, host: u64, wait: bool) -> Run {
        self.acquire_as(host, Wish::exclusive(wait))
    }

    pub(crate) fn acquire_as(&self, host: u64, wish: Wish) -> Run {
        let me = self.present(host);
        let own = self.blocks.get(&id(host)).and_then(Seen::good).cloned();
        let (operation, effect) = Operation::acquire(World::subject(me), own, wish, self.now);
        Run { me, operation, effect }
    }

    pub(crate) fn convert(&self, host: u64, mode: LeaseMode, wait: bool) -> Run {
        let me = self.present(host);
        let (operation, effect) = Operation::convert(World::subject(me), self.block_of(host), mode, wait, self.now);
        Run { me, operation, effect }
    }

    pub(crate) fn release(&self, host: u64) -> Run {
        let me = self.present(host);
        let (operation, effect) = Operation::release(World::subject(me), self.block_of(host), self.now);
        Run { me, operation, effect }
    }

    /// Waits to be handed the resource.
    pub(crate) fn receive(&self, host: u64) -> Run {
        self.acquire_as(host, HANDED_OVER)
    }

    /// Hands what `host` holds over to `to`.
    pub(crate) fn hand_over(&self, host: u64, held: u64, to: Owner) -> Run {
        let (me, held) = (self.present(host), Version::new(held));
        let (operation, effect) = Operation::hand_over(World::subject(me), self.block_of(host), held, to, self.now);
        Run { me, operation, effect }
    }

    /// What a sanlock host leaves on disk that has just acquired `version`: nothing that is leasehold's own.
    pub(crate) fn is_taken_by_sanlock(&mut self, host: u64, version: u64) {
        let me = self.present(host);
        let ballot = self.leader.geometry.max_hosts() * version + host;
        let (instance, inp) = (Version::new(version), Some(me));
        let block = Block { mbal: ballot, bal: ballot, inp, inp_timestamp: 9, instance, ..Block::default() };
        self.blocks.insert(me.host, Seen::Good(block));
        let writer = Writer { id: host, generation: me.generation.get(), timestamp: 9 };
        self.leader =
            Leader { owner: inp, version: instance, timestamp: 9, writer, extension: None, ..self.leader.clone() };
    }

    /// Changes the block of a host.
    pub(crate) fn edit_block(&mut self, host: u64, change: impl FnOnce(&mut Block)) {
        let mut block = self.block_of(host);
        change(&mut block);
        self.blocks.insert(id(host), Seen::Good(block));
    }

    /// Stops renewing.
    pub(crate) fn dies(&mut self, host: u64) {
        self.live.remove(&id(host));
    }

    /// Gives its host id back.
    pub(crate) fn leaves(&mut self, host: u64) {
        self.dies(host);
        self.records.get_mut(&id(host)).unwrap().timestamp = 0;
    }

    /// Reads all delta records; those of hosts that live have changed.
    pub(crate) fn scan(&mut self, host: HostId) {
        let span = self.pass();
        for live in &self.live {
            let record = self.records.get_mut(live).unwrap();
            match &mut record.extension {
                Some(extension) => extension.started_us += 1,
                None => record.timestamp += 1,
            }
        }
        let observer = self.observers.get_mut(&host).unwrap();
        for (other, record) in &self.records {
            observer.observe(*other, span, Some(span.started), Seen::Good(record.clone()));
        }
        self.scanned.insert(host, span.started);
    }

    pub(crate) fn pass(&mut self) -> Span {
        let started = self.now;
        self.now = self.now + Duration::from_millis(1);
        Span { started, ended: self.now }
    }

    pub(crate) fn report(&mut self, run: &mut Run, round: u32, event: Event) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let observer = self.observers.get_mut(&run.me.host).unwrap();
        let next = run.operation.step(round, event, observer, self.now, self.random);
        run.effect = next.unwrap_or_else(|| panic!("one disk answers at once"));
    }

    /// What a read shows now.
    pub(crate) fn view(&self) -> AreaView {
        let geometry = Geometry::default();
        let leader = self.leader.encode(AREA);
        let leader = match damage::<Leader>() {
            Seen::Bad(defect) if self.leader_is_damaged => Err(defect),
            _ => Ok(&*leader),
        };
        let blocks = self.blocks.iter().map(|(host, seen)| match seen {
            Seen::Good(block) => (*host, Ok(block.encode(geometry, AREA + geometry.block_offset(*host)))),
            Seen::Bad(defect) => (*host, Err(defect.clone())),
        });
        let blocks: Vec<_> = blocks.collect();
        let blocks = blocks.iter().map(|(host, sector)| (*host, sector.as_deref().map_err(Clone::clone)));
        AreaView::decode(leader, blocks, AREA, geometry, NONCE)
    }

    /// Carries out the effect that `run` waits for.
    pub(crate) fn step(&mut self, run: &mut Run) {
        let host = run.me.host;
        match run.effect.clone() {
            Effect::Read(round) => {
                let (span, since) = (self.pass(), self.scanned.get(&host).copied().unwrap_or(Time::ZERO));
                let view = self.view();
                self.report(run, round, Event::Read { disk: 0, span, since, view });
            }
            Effect::WriteBlock(round, _) | Effect::WriteLeader(round, _) => {
                assert!(!self.in_flight.contains(&host), "an earlier write is in flight");
                self.land(Late(host, run.effect.clone()));
                self.pass();
                self.report(run, round, Event::Wrote { disk: 0, written: Written::Done });
            }
            Effect::Scan(round) => {
                self.scan(host);
                self.report(run, round, Event::Scanned);
            }
            Effect::Settle(round) => {
                assert!(!self.in_flight.contains(&host), "a write is in flight");
                self.report(run, round, Event::Settled);
            }
            Effect::Wait(round, until) => {
                self.now = self.now.max(until);
                self.report(run, round, Event::Woke);
            }
            Effect::Done(outcome) => panic!("already over: {outcome:?}"),
        }
    }

    /// Goes on until `run` is about to do something that `wanted` picks.
    pub(crate) fn until(&mut self, run: &mut Run, wanted: impl Fn(&Effect) -> bool) {
        for _ in 0..5_000 {
            if wanted(&run.effect) {
                return;
            }
            self.step(run);
        }
        panic!("no end, now before {:?}", run.effect);
    }

    pub(crate) fn end(&mut self, run: &mut Run) -> Outcome {
        self.until(run, |effect| matches!(effect, Effect::Done(_)));
        run.outcome().unwrap().clone()
    }

    pub(crate) fn finish(&mut self, mut run: Run) -> Outcome {
        self.end(&mut run)
    }

    /// Goes on with all of `runs`, in some order, until `enough` says so.
    pub(crate) fn interleave(&mut self, runs: &mut [Run], enough: impl Fn(&[Run]) -> bool) {
        for _ in 0..5_000 {
            if enough(runs) {
                return;
            }
            let due = |effect: &Effect| match effect {
                Effect::Done(_) => Time::MAX,
                Effect::Wait(_, until) => *until,
                _ => Time::ZERO,
            };
            let earliest = runs.iter().map(|run| due(&run.effect)).min().unwrap().max(self.now);
            let ready: Vec<usize> = (0..runs.len()).filter(|at| due(&runs[*at].effect) <= earliest).collect();
            let at = ready[(self.random >> 33) as usize % ready.len()];
            self.step(&mut runs[at]);
        }
        panic!("no end");
    }

    /// The whole of an acquire that succeeds.
    pub(crate) fn take(&mut self, host: u64) -> Version {
        self.takes_as(host, Wish::exclusive(true))
    }

    /// The whole of an acquire to share that succeeds.
    pub(crate) fn share(&mut self, host: u64) -> Version {
        self.takes_as(host, SHARED)
    }

    pub(crate) fn takes_as(&mut self, host: u64, wish: Wish) -> Version {
        let run = self.acquire_as(host, wish);
        match self.finish(run) {
            Outcome::Held(version) => version,
            other => panic!("host {host}: {other:?}"),
        }
    }

    pub(crate) fn give_back(&mut self, host: u64) {
        let run = self.release(host);
        assert_eq!(self.finish(run), Outcome::Released);
    }

    pub(crate) fn is_blocked_by(&mut self, host: u64, holder: u64) {
        let run = self.acquire(host, false);
        match self.finish(run) {
            Outcome::Blocked(blocker) => assert_eq!(blocker.host, id(holder)),
            other => panic!("host {host}: {other:?}"),
        }
    }

    /// The write that `run` is about to do times out.
    pub(crate) fn times_out(&mut self, run: &mut Run) -> Late {
        let (Effect::WriteBlock(round, _) | Effect::WriteLeader(round, _)) = run.effect else {
            panic!("no write: {:?}", run.effect)
        };
        let late = Late(run.me.host, run.effect.clone());
        self.in_flight.insert(run.me.host);
        self.report(run, round, Event::Wrote { disk: 0, written: Written::InFlight });
        late
    }

    pub(crate) fn land(&mut self, Late(host, effect): Late) {
        self.in_flight.remove(&host);
        match effect {
            Effect::WriteBlock(_, block) => drop(self.blocks.insert(host, Seen::Good(block))),
            Effect::WriteLeader(_, leader) => {
                self.leader = leader;
                self.leader_is_damaged = false;
            }
            other => panic!("no write: {other:?}"),
        }
    }
}

pub(crate) fn writes_leader(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteLeader(..))
}

pub(crate) fn writes_phase_1(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteBlock(_, block) if block.inp.is_none())
}

pub(crate) fn writes_phase_2(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteBlock(_, block) if block.inp.is_some() && !block.released)
}
