//! Two memberships on one disk, each the whole machine of one, and whatever may happen to them in any order.

mod disk;
mod host;
mod orders;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use leasehold::format::{DeltaRecord, Geometry, IndexHeader, Leader};
use leasehold::protocol::catalog::index::Index;
use leasehold::protocol::delta::{Acquire, Bid, Identity, Tenure, Terms};
use leasehold::protocol::member::{Command, Event, Order};
use leasehold::protocol::record::{self, RecordProcedure};
use leasehold::protocol::resource::Wish;
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{BootId, HostId, LeaseMode, MachineId, Name, Profile, Resource, Time, Version};

use super::input::Input;
use super::records::{self, Kind, LOCKSPACE};
use disk::{Disk, End, Io, SECTOR};
use host::{Host, Runs};

/// How many host ids the lockspace has.
const IDS: u64 = 4;
/// How many resources the index has room for.
const ENTRIES: u32 = 4;
const NONCE: u32 = 7;
const ACTIONS: usize = 400;
/// Far above what any command may take once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(90);
/// So often a lone host tries to acquire a resource: at first it may still hold it without its program's knowledge.
const ATTEMPTS: usize = 4;
/// So often a carrier is woken at most in the time between two actions.
const WAKES: usize = 5_000;

struct World {
    now: Time,
    random: u64,
    disk: Disk,
    ios: Vec<Io>,
    hosts: [Host; 2],
    /// Nobody else has written to the disk, and no caller has said of a host that it is gone while it was not. What is
    /// promised otherwise is that nothing panics, and that each command is answered.
    sound: bool,
    /// What somebody wanted to take by force: two may act on it for a while.
    forced: BTreeSet<u64>,
    commands: u64,
}

fn terms() -> Terms {
    let (geometry, timeouts) = (Geometry::default(), Profile::Balanced.timeouts());
    Terms { geometry, lockspace: Name::lockspace(LOCKSPACE).expect("a name"), nonce: NONCE, timeouts }
}

fn id(number: u64) -> HostId {
    HostId::new(number).expect("an id")
}

/// The entries of an index that lists these.
fn entries(names: &[&str]) -> Vec<u8> {
    let list = |sector, (name, number): (&&str, u32)| {
        Index::with_entry(&header(), number, sector, Some(Name::resource(name).expect("a name")))
    };
    names.iter().zip(0..).fold(vec![0; SECTOR], list)
}

fn header() -> IndexHeader {
    Index::usual_header(&terms(), ENTRIES)
}

/// Two that are listed, one that may be made, and the one that guards the index.
fn resources() -> [Resource; 4] {
    static ALL: OnceLock<[Resource; 4]> = OnceLock::new();
    let make = || {
        let index = Index::decode(header(), &entries(&["a", "b", "c"]));
        let all: Vec<Resource> = index.resources().chain([Index::guard(terms().geometry)]).collect();
        all.try_into().expect("these are four")
    };
    *ALL.get_or_init(make)
}

/// A host id as a join leaves it on the disk, and the time when that is over.
fn joined(host: HostId, disk: &mut Disk, now: Time) -> (Tenure, Time) {
    let (offset, name) = (terms().geometry.delta_offset(host), Name::host("host").expect("a name"));
    let identity = Identity { name, machine: MachineId::new(host.get()), boot: BootId::new(1), session: 1 };
    let mut join = Acquire::new(Bid::new(host, terms().timeouts.dead()), identity, terms(), host.get());
    let free = DeltaRecord::free(terms().geometry, terms().lockspace, NONCE, terms().timeouts);
    let span = Span { started: now, ended: now };
    let record::Effect::Write(record, _) = join.step(record::Event::Read(span, Seen::Good(free))) else {
        unreachable!("a free id is taken")
    };
    disk.put(offset, record.encode(offset));
    let record::Effect::Wait(until) = join.step(record::Event::Wrote(span, Written::Done)) else {
        unreachable!("a join waits")
    };
    join.step(record::Event::Woke(until));
    match join.step(record::Event::Read(Span { started: until, ended: until }, Seen::Good(record))) {
        record::Effect::Done(Ok(tenure)) => (*tenure, until),
        other => unreachable!("nobody is in the way: {other:?}"),
    }
}

fn formatted() -> Disk {
    let (terms, mut disk) = (terms(), Disk::default());
    for host in 1..=IDS {
        let at = terms.geometry.delta_offset(id(host));
        disk.put(at, DeltaRecord::free(terms.geometry, terms.lockspace, NONCE, terms.timeouts).encode(at));
    }
    disk.put(header().offset, header().encode());
    disk.put(Index::entry_sector(&header(), 0), entries(&["a", "b"]));
    let [a, b, _, guard] = resources();
    for resource in [a, b, guard] {
        let (lockspace, hosts, at) = (terms.lockspace, terms.geometry.max_hosts(), resource.offset());
        let leader = Leader::new_free(terms.geometry, lockspace, NONCE, resource.name(), hosts, Version::new(0));
        disk.put(at, leader.encode(at));
    }
    disk
}

/// Whatever happens: no panic, and each command is answered once. Of the machine's writes: none after the host id is
/// lost, none later than its deadline, one in flight for each sector, only to the sectors that its commands are about,
/// and none but that of the own record while it leaves. While the disk and the callers are sound: no two hosts that
/// may act on a lease of which one is exclusive (S1); and a lone host that is left acquires every resource (L1).
pub fn member(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    for _ in 0..ACTIONS {
        if input.is_empty() {
            break;
        }
        world.act(&mut input);
    }
    world.ends();
}

impl World {
    fn new() -> World {
        let (began, mut disk) = (Time::ZERO + Duration::from_secs(1_000), formatted());
        let joined = [id(1), id(2)].map(|host| joined(host, &mut disk, began));
        let now = joined[0].1;
        let hosts = joined.map(|(tenure, _)| Host::new(tenure, now));
        let ios = Vec::new();
        let mut world = World { now, random: 0, disk, ios, hosts, sound: true, forced: BTreeSet::new(), commands: 0 };
        (0..2).for_each(|host| world.tell(host, Event::Ticked));
        world
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let host = usize::from(what >> 7);
        match what & 31 {
            0..=7 => self.command(host, input),
            8..=12 => {
                let (which, how) = (input.byte(), End::any(input));
                let mine: Vec<usize> = (0..self.ios.len()).filter(|number| self.ios[*number].host == host).collect();
                if !mine.is_empty() {
                    self.io_ends(mine[usize::from(which) % mine.len()], how);
                }
            }
            13..=19 => (0..=input.below(16)).for_each(|_| self.goes_well()),
            20 => self.pass(self.now + Duration::from_millis(20) * input.byte().into()),
            // Nobody is woken meanwhile.
            21 => self.now = self.now + Duration::from_millis(20) * input.byte().into(),
            22 => self.pass(self.hosts[host].machine.wakes_at().unwrap_or(self.now).max(self.now)),
            23 => {
                self.now = self.now.max(self.hosts[host].machine.tenure().deadline());
                self.tell(host, Event::Ticked);
            }
            24 => self.hosts[host].stops(Runs::ToNextWrite),
            25 => self.hosts[host].stops(Runs::Not),
            26 => self.goes_on(host),
            27 => self.scribble(input),
            28 => self.hosts[host].machine.abandon(),
            29 => self.tell(host, Event::Gone("disk".into())),
            30 => self.hosts[host].dies(),
            _ => self.tell(host, Event::Ticked),
        }
    }

    /// An I/O ends, and its carrier hears of that if it is so.
    fn io_ends(&mut self, number: usize, how: End) {
        let mut io = self.ios.remove(number);
        match self.disk.ends(&mut io, how) {
            Some(event) => self.tell(io.host, event),
            None => self.ios.insert(number, io),
        }
    }

    /// The oldest I/O of each host ends well; where there is none, time passes up to the next timer.
    fn goes_well(&mut self) {
        self.pass(self.now + Duration::from_millis(1));
        let oldest = |host| self.ios.iter().position(|io| io.host == host).map(|number| self.ios[number].id);
        let ids = [oldest(0), oldest(1)];
        for (host, io) in (0..).zip(ids) {
            if let Some(number) = self.ios.iter().position(|other| other.host == host && Some(other.id) == io) {
                self.io_ends(number, End::Well);
            }
        }
        if ids == [None; 2]
            && let Some(next) = self.next_wake()
        {
            self.pass(next);
        }
    }

    fn next_wake(&self) -> Option<Time> {
        self.hosts.iter().filter(|host| host.is_awake()).filter_map(|host| host.machine.wakes_at()).min()
    }

    /// Time passes, and each carrier wakes its machine when that is due.
    fn pass(&mut self, until: Time) {
        for wakes in 0.. {
            assert!(wakes < WAKES, "the machines are woken without an end");
            let Some(next) = self.next_wake().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            for host in 0..2 {
                if self.hosts[host].is_awake() && self.hosts[host].machine.wakes_at().is_some_and(|at| at <= self.now) {
                    self.tell(host, Event::Ticked);
                }
            }
        }
        self.now = self.now.max(until);
    }

    /// Somebody else writes to the disk.
    fn scribble(&mut self, input: &mut Input<'_>) {
        self.sound = false;
        let geometry = terms().geometry;
        let (kind, at) = match input.below(8) {
            0 | 1 => (Kind::Delta, geometry.delta_offset(id(1 + input.below(IDS as usize) as u64))),
            what => {
                let area = input.pick(&resources()).offset();
                match what {
                    2 => (Kind::Leader, area),
                    3 => (Kind::Request, area + geometry.request_offset()),
                    4 => (Kind::Entries, Index::entry_sector(&header(), 0)),
                    _ => (Kind::Block, area + geometry.block_offset(id(1 + input.below(IDS as usize) as u64))),
                }
            }
        };
        let bytes = match input.below(4) {
            0 => vec![0; SECTOR],
            1 => records::record(kind, geometry, NONCE, at, input),
            // What stood there, with a change.
            change => {
                let mut sector = self.disk.sector(at);
                sector[usize::from(input.byte())] ^= input.byte();
                if change == 2 {
                    records::reseal(kind, &mut sector, at);
                }
                sector
            }
        };
        self.disk.put(at, bytes);
    }

    /// Nothing goes wrong any more: every command is answered, and who is left acquires what it wants. When both are
    /// given up nothing is left of them.
    fn ends(&mut self) {
        (0..2).for_each(|host| self.goes_on(host));
        self.answers();
        // Who has waited for too long has lost its host id by then.
        let until = self.now + terms().timeouts.fail();
        while self.now < until && self.next_wake().is_some() {
            self.goes_well();
        }
        if let Some(host) = (0..2).find(|host| self.hosts[*host].may_acquire(self.now)) {
            self.hosts[1 - host].dies();
            [0, 1, 3].iter().for_each(|number| self.acquires(host, resources()[*number]));
        }
        for host in 0..2 {
            self.hosts[host].machine.abandon();
            self.now = self.now.max(self.hosts[host].machine.tenure().deadline());
            self.tell(host, Event::Ticked);
            let host = &mut self.hosts[host];
            assert!(host.is_dead() || host.machine.has_ended(self.now), "something goes on after the host id is lost");
        }
    }

    /// Everything goes well until each command is answered.
    fn answers(&mut self) {
        let until = self.now + PATIENCE;
        while self.hosts.iter().any(|host| !host.asked.is_empty()) {
            assert!(self.now < until, "not answered: {:?}", self.hosts.each_ref().map(|host| &host.asked));
            self.goes_well();
        }
    }

    /// L1: a lone live host acquires it. What the host still has of it, or is still undoing, ends first.
    fn acquires(&mut self, host: usize, resource: Resource) {
        for _ in 0..ATTEMPTS {
            let held: Vec<_> = self.hosts[host].machine.leases().held().collect();
            for (_, _, held) in held.iter().filter(|(held, ..)| *held == resource) {
                let order = Order::Release { held: *held, timeout: terms().timeouts.fail(), settled: false };
                self.ask(host, Command::Operate(resource, order));
            }
            self.answers();
            let order = Order::Acquire(Wish::exclusive(true), Some(self.now + PATIENCE / 2));
            self.ask(host, Command::Operate(resource, order));
            self.answers();
            if self.hosts[host].holds.contains_key(&resource.offset()) {
                return;
            }
        }
        let answer = &self.hosts[host].last;
        assert!(!self.sound, "L1: a lone live host can't acquire {}: {answer:?}", resource.name());
    }

    /// No two hosts act on one resource, unless they share it.
    fn excludes(&self) {
        let [one, other] = self.hosts.each_ref().map(Host::holds);
        for (place, mine) in one {
            let Some(theirs) = other.get(place).filter(|_| self.sound && !self.forced.contains(place)) else {
                continue;
            };
            let share = [mine, theirs].iter().all(|held| held.mode == LeaseMode::Shared);
            let active = [mine, theirs].iter().all(|held| held.until > self.now);
            assert!(share || !active, "S1: two act on {place} at {:?}: {mine:?} and {theirs:?}", self.now);
        }
    }
}

/// What a program acts on.
#[derive(Clone, Copy, Debug)]
struct Held {
    mode: LeaseMode,
    version: Version,
    /// It may be acted on until then, G after its deadline.
    until: Time,
}

type Holds = BTreeMap<u64, Held>;
