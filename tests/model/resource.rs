//! Hosts that acquire and release one resource on one disk, with `protocol::resource::Operation` and a real `Observer`.
//!
//! What stands for what:
//! - Time is left out. That a generation is dead may be found at any moment at which nothing of it is active any more:
//!   that the timeouts see to this is argued in DESIGN.md, "Timing", and checked by the simulator. A wait ends at once;
//!   the next step comes whenever it comes.
//! - A pause is a step that does not come. A host whose process was killed, hangs for too long or lost its host id has
//!   *stopped*: it does nothing more, but the write that it had checked may be on its way to the disk.
//! - A write that timed out, or that a stopped host left, lands at any later moment, or never. Until it has ended no
//!   later generation of that host starts (the local lock).
//! - A host knows of the others' delta records what its last scan showed, which may be out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use leasehold::format::{Block, Corrupt, DeltaExtension, DeltaRecord, Geometry, Leader};
use leasehold::protocol::area::{AreaView, claimed};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::resource::{Effect, Event, Operation, Outcome, Subject};
use leasehold::protocol::{Seen, Span, Written};
use leasehold::{Generation, HostId, Name, Owner, Profile, Time, Timeouts, Version};
use stateright::{Model, Property};

use crate::canonical::{Part, hash_operation};
use crate::explore::{explore, in_full};

/// The resource is free at this version when everything begins.
const FIRST: u64 = 1;
/// When everything happens.
const NOW: Time = Time::from_nanos(1_000_000_000_000);

/// How much may happen.
#[derive(Clone, Debug)]
struct Limits {
    hosts: usize,
    /// How many versions may be begun.
    versions: u64,
    /// How often ballot numbers may grow past all that were seen.
    ballots: u64,
    /// Acquires wait for a lease that is held, instead of ending.
    wait: bool,
    /// How many hosts may stop, crashed or otherwise.
    stops: u8,
    /// How many hosts may give their host id back.
    leaves: u8,
    /// How many hosts that stopped or left may start anew, as the next generation.
    starts: u8,
    /// How many writes may time out.
    timeouts: u8,
    /// How many I/Os may fail.
    failures: u8,
    /// How many acquires may be called off.
    call_offs: u8,
    /// How many blocks may be damaged.
    damages: u8,
    /// Reads show sectors as they were at different times.
    split_reads: bool,
    begin: Begin,
    /// What must be reached.
    sights: &'static [Sight],
}

const NONE: Limits = Limits {
    hosts: 2,
    versions: 1,
    ballots: 1,
    wait: false,
    stops: 0,
    leaves: 0,
    starts: 0,
    timeouts: 0,
    failures: 0,
    call_offs: 0,
    damages: 0,
    split_reads: false,
    begin: Begin::Fresh,
    sights: &[],
};

/// What has happened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// The resource was just created.
    Fresh,
    /// The leader write of a host that stopped is in flight, two versions late.
    LateLeader,
    /// A host stopped in phase 1.
    DeadBallot,
}

/// What is left of [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    stops: u8,
    leaves: u8,
    starts: u8,
    timeouts: u8,
    failures: u8,
    call_offs: u8,
    damages: u8,
}

/// What a host knows of another one's delta record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    /// 0: nothing.
    generation: u64,
    free: bool,
    /// Unchanged for D.
    dead: bool,
}

#[expect(clippy::large_enum_variant, reason = "most hosts run one")]
#[derive(Clone, Debug)]
enum Process {
    Stopped,
    /// Its host id was given back.
    Left,
    Idle,
    Running {
        operation: Operation,
        effect: Effect,
    },
}

impl Hash for Process {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        if let Process::Running { operation, effect } = self {
            hash_operation(operation, effect, state);
        }
    }
}

#[derive(Clone, Debug, Hash)]
struct Host {
    generation: u64,
    process: Process,
    /// The own block as this generation last knew it to be on disk.
    own: Option<Block>,
    /// The version that it, or what depends on it, acts on.
    active: Option<Version>,
    known: Vec<Known>,
    /// What a read that is under way has shown.
    read: Option<Reading>,
}

#[derive(Clone, Debug, Hash)]
struct Reading {
    leader: Option<Seen<Leader>>,
    blocks: BTreeMap<usize, Seen<Block>>,
}

#[derive(Clone, Debug, Hash)]
struct Disk {
    leader: Leader,
    blocks: Vec<Seen<Block>>,
}

/// What is written: the leader, or the block of the host that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Sector {
    Leader,
    Block(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Content {
    Leader(Leader),
    Block(Block),
}

/// What came of the versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct History {
    /// Who owns a version, as somebody concluded from a ballot.
    decided: BTreeMap<Version, Owner>,
    /// Who gave up a version.
    given_up: BTreeSet<(Version, Owner)>,
    /// The last version that was held.
    held: Version,
    /// The last version that a leader on disk showed.
    committed: Version,
    broken: Option<Broken>,
}

/// A property that was violated by what a host did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    /// S2
    Version,
    /// S4
    Answer,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct State {
    hosts: Vec<Part<Host>>,
    disk: Part<Disk>,
    in_flight: BTreeMap<(usize, Sector), Content>,
    history: Part<History>,
    left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// A caller wants the lease.
    Acquire(usize),
    /// A caller gives the lease back.
    Release(usize),
    /// A caller does not want to wait any longer.
    CallOff(usize),
    /// The effect that a host waits for is carried out.
    Perform(usize),
    /// A read shows one sector now, the rest later.
    ReadOne(usize, Sector),
    /// A read shows everything now, and is taken in later.
    ReadAll(usize),
    /// A read or write fails; the write has landed or not.
    Fail { host: usize, landed: bool },
    /// A write times out and stays in flight.
    TimeOut(usize),
    /// A write in flight lands.
    Land(usize, Sector),
    /// A write in flight ends without having landed.
    Vanish(usize, Sector),
    /// A host stops. Its write was not submitted yet, or it stays in flight.
    Stop { host: usize, writing: bool },
    /// A host gives its id back.
    Leave(usize),
    /// A host starts as the next generation.
    Start(usize),
    /// A host finds that another one's record has not changed for D.
    Bury { by: usize, dead: usize },
    /// A host reads all delta records, for itself.
    Scan(usize),
    /// A block on disk is damaged.
    Damage(usize),
}

/// What must be seen somewhere, lest a property holds only because nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Takeover,
    Adoption,
    BothCommit,
    SetBack,
    Repair,
    RepairByTwo,
    CommittedAsFree,
    GaveUpUndecided,
    HeldAfterRelease,
    NextGeneration,
    Burn,
}

fn id(host: usize) -> HostId {
    HostId::new(host as u64 + 1).unwrap()
}

fn timeouts() -> Timeouts {
    Profile::Balanced.timeouts()
}

fn name(text: &str) -> Name {
    Name::resource(text).unwrap()
}

impl Host {
    fn effect(&self) -> Option<&Effect> {
        match &self.process {
            Process::Running { effect, .. } => Some(effect),
            _ => None,
        }
    }

    /// What it is about to write.
    fn writes(&self, host: usize) -> Option<(Sector, Content)> {
        match self.effect()? {
            Effect::WriteBlock(_, block) => Some((Sector::Block(host), Content::Block(block.clone()))),
            Effect::WriteLeader(_, leader) => Some((Sector::Leader, Content::Leader(leader.clone()))),
            _ => None,
        }
    }

    /// The commit that it is about to write: not the freeing of a leader that stands already.
    fn commits(&self, disk: &Disk) -> Option<&Leader> {
        match self.effect()? {
            Effect::WriteLeader(_, leader) if leader.version != disk.leader.version || !leader.is_free() => {
                Some(leader)
            }
            _ => None,
        }
    }
}

impl State {
    fn me(&self, host: usize) -> Owner {
        Owner { host: id(host), generation: Generation::new(self.hosts[host].generation).unwrap() }
    }

    fn write(&mut self, content: Content, host: usize) {
        match content {
            Content::Leader(leader) => {
                let version = leader.version;
                self.disk.change(|disk| disk.leader = leader);
                if version > self.history.committed {
                    self.history.change(|history| history.committed = version);
                }
            }
            Content::Block(block) => self.disk.change(|disk| disk.blocks[host] = Seen::Good(block)),
        }
    }

    fn has_in_flight(&self, host: usize) -> bool {
        self.in_flight.keys().any(|(writer, _)| *writer == host)
    }

    /// The delta record of `host` as it is now.
    fn record(&self, host: usize) -> Known {
        let Host { generation, process, .. } = &*self.hosts[host];
        Known { generation: *generation, free: matches!(process, Process::Left), dead: false }
    }

    /// What a scan by `host` leaves it with: what it has counted for a generation stays.
    fn scan(&self, host: usize) -> Vec<Known> {
        let known = &self.hosts[host].known;
        let fresh = |(other, known): (usize, &Known)| {
            let now = self.record(other);
            Known { dead: known.dead && (known.generation, known.free) == (now.generation, now.free), ..now }
        };
        known.iter().enumerate().map(fresh).collect()
    }

    fn read_sector(&mut self, host: usize, sector: Sector) {
        let disk = self.disk.clone();
        self.hosts[host].change(|host| {
            let reading = host.read.get_or_insert_with(|| Reading { leader: None, blocks: BTreeMap::new() });
            match sector {
                Sector::Leader => {
                    reading.leader.get_or_insert_with(|| Seen::Good(disk.leader.clone()));
                }
                Sector::Block(of) => {
                    reading.blocks.entry(of).or_insert_with(|| disk.blocks[of].clone());
                }
            }
        });
    }

    fn read_rest(&mut self, host: usize) {
        self.read_sector(host, Sector::Leader);
        for of in 0..self.hosts.len() {
            self.read_sector(host, Sector::Block(of));
        }
    }

    fn break_if(&mut self, condition: bool, what: Broken) {
        if condition {
            self.history.change(|history| history.broken.get_or_insert(what).to_owned());
        }
    }

    /// An operation says what it does next.
    fn arrive(&mut self, host: usize, mut operation: Operation, effect: Effect) {
        let mut effect = effect;
        if let Effect::Wait(round, _) = effect {
            let mut observer = self.observer(host);
            effect = operation.step(round, Event::Woke, &mut observer, NOW, 0).unwrap();
        }
        match effect {
            Effect::Done(outcome) => self.finish(host, &operation, &outcome),
            effect => {
                if let Effect::WriteLeader(_, leader) = &effect {
                    self.decide(leader.version, leader.owner.unwrap());
                }
                self.hosts[host].change(|host| host.process = Process::Running { operation, effect });
            }
        }
    }

    fn decide(&mut self, version: Version, owner: Owner) {
        let first = self.history.decided.get(&version).copied();
        self.break_if(first.is_some_and(|first| first != owner), Broken::Version);
        if first.is_none() {
            self.history.change(|history| history.decided.insert(version, owner));
        }
    }

    fn finish(&mut self, host: usize, operation: &Operation, outcome: &Outcome) {
        let me = self.me(host);
        let own = operation.own_block().cloned();
        self.hosts[host].change(|host| {
            host.process = Process::Idle;
            host.own = own.clone();
        });
        let block = self.disk.blocks[host].good().cloned();
        // What is said must hold whatever happens next, a late landing included.
        self.break_if(self.in_flight.contains_key(&(host, Sector::Block(host))), Broken::Answer);
        if let Outcome::Held(version) = outcome {
            let claims = block.is_none_or(|block| block.instance == *version && claimed(me.host, &block) == Some(me));
            self.break_if(!claims, Broken::Answer);
            self.decide(*version, me);
            let again = *version <= self.history.held || self.history.given_up.contains(&(*version, me));
            self.break_if(again, Broken::Version);
            self.history.change(|history| history.held = *version);
            self.hosts[host].change(|host| host.active = Some(*version));
            return;
        }
        let leader = self.disk.leader.version;
        let left_behind = block.is_some_and(|block| {
            let waits = block.extension.as_ref().is_some_and(|extension| extension.waiting.is_some());
            claimed(me.host, &block) == Some(me) && block.instance >= leader || waits
        });
        self.break_if(left_behind, Broken::Answer);
        if let Some(own) = own.filter(|own| own.released && own.inp == Some(me)) {
            let given_up = (own.instance, me);
            if !self.history.given_up.contains(&given_up) {
                self.history.change(|history| history.given_up.insert(given_up));
            }
        }
    }

    /// An observer that has seen what `host` knows.
    fn observer(&self, host: usize) -> Observer {
        let timeouts = timeouts();
        let mut observer = Observer::new(timeouts);
        for (other, known) in self.hosts[host].known.iter().enumerate() {
            if known.generation == 0 {
                continue;
            }
            let record = DeltaRecord {
                geometry: Geometry::default(),
                lockspace: name("ls"),
                owner_id: id(other).get(),
                generation: known.generation,
                host_name: name("host"),
                timestamp: u64::from(!known.free),
                io_timeout: 1,
                extension: Some(DeltaExtension {
                    nonce: 1,
                    session: 1,
                    boot: 1,
                    counter: 1,
                    machine: id(other).get(),
                    superseded: u32::from(known.generation > 1),
                    confirmed: true,
                    timeouts,
                }),
            };
            let long_ago = Time::from_nanos(NOW.as_nanos() - 100_000_000_000);
            let first = if known.dead { long_ago } else { NOW };
            observer.observe(id(other), Span { started: first, ended: first }, true, Seen::Good(record.clone()));
            observer.observe(id(other), Span { started: NOW, ended: NOW }, true, Seen::Good(record));
        }
        observer
    }

    /// What an operation waited for has happened.
    fn feed(&mut self, host: usize, event: Event) {
        let mut observer = self.observer(host);
        let process = self.hosts[host].change(|host| {
            host.read = None;
            std::mem::replace(&mut host.process, Process::Idle)
        });
        let Process::Running { mut operation, effect } = process else { unreachable!("something is under way") };
        let next = operation.step(round(&effect), event, &mut observer, NOW, 0);
        // On one disk every event is the answer to the effect.
        self.arrive(host, operation, next.unwrap());
    }
}

fn round(effect: &Effect) -> u32 {
    match effect {
        Effect::Read(round)
        | Effect::WriteBlock(round, _)
        | Effect::WriteLeader(round, _)
        | Effect::Scan(round)
        | Effect::Settle(round)
        | Effect::Wait(round, _) => *round,
        Effect::Done(_) => unreachable!("an operation that is over is not kept"),
    }
}

impl Limits {
    fn subject(&self, me: Owner) -> Subject {
        Subject {
            me,
            geometry: Geometry::default(),
            lockspace: name("ls"),
            resource: name("res"),
            timeouts: timeouts(),
            disks: 1,
        }
    }

    fn sectors(&self, host: usize) -> impl Iterator<Item = Sector> {
        // Nobody but the host changes its own block while it reads.
        let others = (0..self.hosts).filter(move |of| *of != host).map(Sector::Block);
        std::iter::once(Sector::Leader).chain(others)
    }
}

impl Model for Limits {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let geometry = Geometry::default();
        let leader = Leader::new_free(geometry, name("ls"), name("res"), geometry.max_hosts(), Version::new(FIRST));
        let up = Known { generation: 1, free: false, dead: false };
        let host = Host {
            generation: 1,
            process: Process::Idle,
            own: None,
            active: None,
            known: vec![up; self.hosts],
            read: None,
        };
        let mut state = State {
            hosts: (0..self.hosts).map(|_| Part::new(host.clone())).collect(),
            disk: Part::new(Disk {
                leader: leader.clone(),
                blocks: (0..self.hosts).map(|_| Seen::Good(Block::default())).collect(),
            }),
            in_flight: BTreeMap::new(),
            history: Part::new(History {
                held: Version::new(FIRST),
                committed: Version::new(FIRST),
                ..History::default()
            }),
            left: Left {
                stops: self.stops,
                leaves: self.leaves,
                starts: self.starts,
                timeouts: self.timeouts,
                failures: self.failures,
                call_offs: self.call_offs,
                damages: self.damages,
            },
        };
        match self.begin {
            Begin::Fresh => {}
            Begin::LateLeader => state.begin_late(&leader),
            Begin::DeadBallot => {
                let block = Block { mbal: 1, instance: Version::new(FIRST + 1), ..Block::default() };
                state.write(Content::Block(block), 0);
                state.end(0, Process::Stopped);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.history.broken.is_some() {
            return;
        }
        let left = &state.left;
        for host in 0..self.hosts {
            let it = &state.hosts[host];
            match &it.process {
                Process::Stopped | Process::Left => {
                    if left.starts > 0 && !state.has_in_flight(host) {
                        actions.push(Action::Start(host));
                    }
                    continue;
                }
                Process::Idle => {
                    actions.push(if it.active.is_some() { Action::Release(host) } else { Action::Acquire(host) });
                    if left.leaves > 0 && it.active.is_none() && !state.has_in_flight(host) {
                        actions.push(Action::Leave(host));
                    }
                }
                Process::Running { effect, operation } => {
                    self.effect_actions(state, host, effect, actions);
                    let mut called_off = operation.clone();
                    called_off.call_off();
                    if left.call_offs > 0 && called_off != *operation {
                        actions.push(Action::CallOff(host));
                    }
                }
            }
            if left.stops > 0 {
                actions.push(Action::Stop { host, writing: false });
                if it.writes(host).is_some_and(|(sector, _)| !state.in_flight.contains_key(&(host, sector))) {
                    actions.push(Action::Stop { host, writing: true });
                }
            }
            if state.scan(host) != it.known {
                actions.push(Action::Scan(host));
            }
            for dead in 0..self.hosts {
                let stopped = matches!(state.hosts[dead].process, Process::Stopped);
                if stopped && !(it.known[dead].dead && it.known[dead].generation == state.hosts[dead].generation) {
                    actions.push(Action::Bury { by: host, dead });
                }
            }
        }
        for (host, sector) in state.in_flight.keys() {
            actions.push(Action::Land(*host, *sector));
            actions.push(Action::Vanish(*host, *sector));
        }
        if left.damages > 0 {
            let written = |block: &Seen<Block>| *block != Seen::Good(Block::default()) && block.good().is_some();
            let damaged = (0..self.hosts).filter(|host| written(&state.disk.blocks[*host]));
            actions.extend(damaged.map(Action::Damage));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Acquire(host) => {
                let subject = self.subject(state.me(host));
                let (operation, effect) = Operation::acquire(subject, state.hosts[host].own.clone(), self.wait, NOW);
                state.arrive(host, operation, effect);
            }
            Action::Release(host) => {
                let subject = self.subject(state.me(host));
                // What the lease protects has stopped before the release begins.
                let own = state.hosts[host].change(|host| {
                    host.active = None;
                    host.own.clone()
                });
                let (operation, effect) = Operation::release(subject, own.unwrap(), NOW);
                state.arrive(host, operation, effect);
            }
            Action::CallOff(host) => {
                state.left.call_offs -= 1;
                state.hosts[host].change(|host| {
                    if let Process::Running { operation, .. } = &mut host.process {
                        operation.call_off();
                    }
                });
            }
            Action::Perform(host) => self.perform(&mut state, host),
            Action::ReadOne(host, sector) => state.read_sector(host, sector),
            Action::ReadAll(host) => state.read_rest(host),
            Action::Fail { host, landed } => {
                state.left.failures -= 1;
                let event = match state.hosts[host].writes(host) {
                    Some((_, content)) => {
                        if landed {
                            state.write(content, host);
                        }
                        Event::Wrote { disk: 0, written: Written::Failed }
                    }
                    None => Event::ReadFailed { disk: 0 },
                };
                state.feed(host, event);
            }
            Action::TimeOut(host) => {
                state.left.timeouts -= 1;
                let (sector, content) = state.hosts[host].writes(host)?;
                state.in_flight.insert((host, sector), content);
                state.feed(host, Event::Wrote { disk: 0, written: Written::InFlight });
            }
            Action::Land(host, sector) => {
                let content = state.in_flight.remove(&(host, sector))?;
                state.write(content, host);
            }
            Action::Vanish(host, sector) => {
                state.in_flight.remove(&(host, sector))?;
            }
            Action::Stop { host, writing } => {
                state.left.stops -= 1;
                if writing {
                    let (sector, content) = state.hosts[host].writes(host)?;
                    state.in_flight.insert((host, sector), content);
                }
                state.end(host, Process::Stopped);
            }
            Action::Leave(host) => {
                state.left.leaves -= 1;
                state.end(host, Process::Left);
            }
            Action::Start(host) => {
                state.left.starts -= 1;
                state.hosts[host].change(|host| {
                    host.generation += 1;
                    host.process = Process::Idle;
                });
                let known = (0..self.hosts).map(|of| state.record(of)).collect();
                state.hosts[host].change(|host| host.known = known);
            }
            Action::Bury { by, dead } => {
                let record = Known { dead: true, ..state.record(dead) };
                state.hosts[by].change(|host| host.known[dead] = record);
            }
            Action::Scan(host) => {
                let known = state.scan(host);
                state.hosts[host].change(|host| host.known = known);
            }
            Action::Damage(host) => {
                state.left.damages -= 1;
                let defect = Corrupt::Checksum { found: 1, computed: 2 }.into();
                state.disk.change(|disk| disk.blocks[host] = Seen::Bad(defect));
            }
        }
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        let in_flight = state.in_flight.values().filter_map(|content| match content {
            Content::Block(block) => Some(block),
            Content::Leader(_) => None,
        });
        // The budget for damage: it meets no leader that was set back by two versions.
        let damaged = state.disk.blocks.iter().any(|block| block.good().is_none());
        if damaged && state.disk.leader.version.after(1) < state.history.committed {
            return false;
        }
        let ballots_max = Geometry::default().max_hosts() * (self.ballots + 1);
        let within = |block: &Block| block.instance.get() <= FIRST + self.versions && block.mbal < ballots_max;
        state.disk.blocks.iter().filter_map(Seen::good).chain(in_flight).all(within)
    }

    fn properties(&self) -> Vec<Property<Limits>> {
        let mut properties = vec![
            Property::always("S1: one active owner", |_, state: &State| {
                state.hosts.iter().filter(|host| host.active.is_some()).count() <= 1
            }),
            Property::always(
                "S2: the owner of a version never changes, versions grow, none is used again",
                |_, state: &State| state.history.broken != Some(Broken::Version),
            ),
            Property::always("S4: answers hold on disk", |_, state: &State| {
                state.history.broken != Some(Broken::Answer)
            }),
            Property::always("a host that is active claims its version", |_, state: &State| {
                state.hosts.iter().enumerate().all(|(host, it)| {
                    let Some(version) = it.active else { return true };
                    let Some(block) = state.disk.blocks[host].good() else { return true };
                    block.instance == version && claimed(id(host), block) == Some(state.me(host))
                })
            }),
        ];
        properties.extend(self.sights.iter().map(|sight| sight.property()));
        properties
    }
}

impl Limits {
    fn effect_actions(&self, state: &State, host: usize, effect: &Effect, actions: &mut Vec<Action>) {
        let left = &state.left;
        match effect {
            Effect::Read(_) => {
                actions.push(Action::Perform(host));
                if self.split_reads && state.hosts[host].read.is_none() {
                    actions.push(Action::ReadAll(host));
                    actions.extend(self.sectors(host).map(|sector| Action::ReadOne(host, sector)));
                }
                if left.failures > 0 {
                    actions.push(Action::Fail { host, landed: false });
                }
            }
            Effect::WriteBlock(..) | Effect::WriteLeader(..) => {
                actions.push(Action::Perform(host));
                let busy = state.hosts[host]
                    .writes(host)
                    .is_some_and(|(sector, _)| state.in_flight.contains_key(&(host, sector)));
                if busy {
                    return;
                }
                if left.failures > 0 {
                    actions.push(Action::Fail { host, landed: false });
                    actions.push(Action::Fail { host, landed: true });
                }
                if left.timeouts > 0 {
                    actions.push(Action::TimeOut(host));
                }
            }
            Effect::Scan(_) => actions.push(Action::Perform(host)),
            Effect::Settle(_) => {
                if !state.has_in_flight(host) {
                    actions.push(Action::Perform(host));
                }
            }
            Effect::Wait(..) | Effect::Done(_) => unreachable!("these are carried out at once"),
        }
    }

    fn perform(&self, state: &mut State, host: usize) {
        let Some(effect) = state.hosts[host].effect().cloned() else { unreachable!("something is under way") };
        let event = match effect {
            Effect::Read(_) => {
                state.read_rest(host);
                let Some(Reading { leader: Some(leader), blocks }) = state.hosts[host].read.clone() else {
                    unreachable!("everything was read");
                };
                let blocks = blocks.into_iter().filter(|(_, block)| *block != Seen::Good(Block::default()));
                let blocks = blocks.map(|(of, block)| (id(of), block)).collect();
                let view = AreaView { leader, blocks };
                Event::Read { disk: 0, span: Span { started: NOW, ended: NOW }, since: NOW, view }
            }
            Effect::WriteBlock(..) | Effect::WriteLeader(..) => {
                let Some((sector, content)) = state.hosts[host].writes(host) else { unreachable!("it is a write") };
                let written = match state.in_flight.contains_key(&(host, sector)) {
                    // One write in flight for each sector: the engine refuses another.
                    true => Written::InFlight,
                    false => {
                        state.write(content, host);
                        Written::Done
                    }
                };
                Event::Wrote { disk: 0, written }
            }
            Effect::Scan(_) => {
                let known = state.scan(host);
                state.hosts[host].change(|host| host.known = known);
                Event::Scanned
            }
            Effect::Settle(_) => Event::Settled,
            Effect::Wait(..) | Effect::Done(_) => unreachable!("these are carried out at once"),
        };
        state.feed(host, event);
    }
}

impl State {
    fn end(&mut self, host: usize, process: Process) {
        self.hosts[host].change(|host| {
            host.process = process;
            host.own = None;
            host.active = None;
            host.read = None;
            host.known.fill(Known::default());
        });
    }

    /// Host 0 acquired the first version, timed out when it wrote the leader, and stopped. Host 1 completed that
    /// version, found host 0 dead, acquired and released the second version, and holds the third.
    fn begin_late(&mut self, free: &Leader) {
        let block = |instance: u64, mbal: u64, owner: Owner, released: bool| Block {
            mbal,
            bal: mbal,
            inp: Some(owner),
            inp_timestamp: NOW.as_timestamp(),
            instance: Version::new(instance),
            released,
            ..Block::default()
        };
        let leader = |version: u64, owner: Owner| Leader {
            owner: Some(owner),
            version: Version::new(version),
            timestamp: NOW.as_timestamp(),
            writer: leasehold::format::Writer {
                id: owner.host.get(),
                generation: owner.generation.get(),
                timestamp: NOW.as_timestamp(),
            },
            ..free.clone()
        };
        let (dead, holder) = (self.me(0), self.me(1));
        let own = block(FIRST + 3, 2, holder, false);
        self.in_flight.insert((0, Sector::Leader), Content::Leader(leader(FIRST + 1, dead)));
        self.end(0, Process::Stopped);
        self.disk.change(|disk| {
            disk.leader = leader(FIRST + 3, holder);
            disk.blocks[0] = Seen::Good(block(FIRST + 1, 1, dead, false));
            disk.blocks[1] = Seen::Good(own.clone());
        });
        self.hosts[1].change(|host| {
            host.active = Some(Version::new(FIRST + 3));
            host.own = Some(own);
        });
        self.history.change(|history| {
            history.decided = [(FIRST + 1, dead), (FIRST + 2, holder), (FIRST + 3, holder)]
                .map(|(version, owner)| (Version::new(version), owner))
                .into();
            history.given_up.insert((Version::new(FIRST + 2), holder));
            history.held = Version::new(FIRST + 3);
            history.committed = Version::new(FIRST + 3);
        });
    }

    fn committing(&self) -> impl Iterator<Item = (usize, &Leader)> {
        self.hosts.iter().enumerate().filter_map(|(host, it)| Some((host, it.commits(&self.disk)?)))
    }
}

impl Sight {
    fn property(self) -> Property<Limits> {
        match self {
            Sight::Takeover => Property::sometimes("takeover of a dead owner", |_, state: &State| {
                state.hosts.iter().any(|host| {
                    let Some(version) = host.active else { return false };
                    let before = Version::new(version.get() - 1);
                    state.history.decided.get(&before).is_some_and(|owner| {
                        !state.history.given_up.contains(&(before, *owner))
                            && host.known.iter().enumerate().any(|(of, known)| known.dead && id(of) == owner.host)
                    })
                })
            }),
            Sight::Adoption => Property::sometimes("another host's value is committed", |_, state: &State| {
                state.committing().any(|(host, leader)| leader.owner.unwrap().host != id(host))
            }),
            Sight::BothCommit => Property::sometimes("two hosts commit one version", |_, state: &State| {
                state.committing().any(|(host, leader)| {
                    state.committing().any(|(other, it)| other != host && it.version == leader.version)
                })
            }),
            Sight::SetBack => Property::sometimes("a late write sets the leader back", |_, state: &State| {
                state.disk.leader.version < state.history.committed
            }),
            Sight::Repair => Property::sometimes("a leader that was set back is repaired", |_, state: &State| {
                state.committing().any(|(_, leader)| {
                    leader.version > state.disk.leader.version && leader.version <= state.history.committed
                })
            }),
            Sight::RepairByTwo => Property::sometimes("a leader is repaired by two versions", |_, state: &State| {
                state.committing().any(|(_, leader)| leader.version > state.disk.leader.version.after(1))
            }),
            Sight::CommittedAsFree => Property::sometimes("a version is committed as given up", |_, state: &State| {
                state.committing().any(|(_, leader)| leader.is_free())
            }),
            Sight::GaveUpUndecided => {
                Property::sometimes("an undecided version is given up", |_, state: &State| {
                    state.history.given_up.iter().any(|(version, owner)| {
                        state.history.decided.get(version).is_none_or(|decided| decided != owner)
                    })
                })
            }
            Sight::HeldAfterRelease => {
                Property::sometimes("held by another host after a release", |_, state: &State| {
                    state.hosts.iter().enumerate().any(|(host, it)| {
                        let Some(version) = it.active else { return false };
                        state
                            .history
                            .given_up
                            .iter()
                            .any(|(before, owner)| before.after(1) == version && owner.host != id(host))
                    })
                })
            }
            Sight::NextGeneration => {
                Property::sometimes("held by the next generation of a host", |_, state: &State| {
                    state.hosts.iter().any(|host| host.generation > 1 && host.active.is_some())
                })
            }
            Sight::Burn => Property::sometimes("held after a burn", |_, state: &State| {
                state.hosts.iter().any(|host| {
                    let burned = |own: &Block| own.extension.as_ref().is_some_and(|it| it.burned.is_some());
                    host.active.is_some() && host.own.as_ref().is_some_and(burned)
                })
            }),
        }
    }
}

#[test]
fn the_age_at_which_a_generation_is_shown_to_be_dead_is_more_than_d() {
    assert!(timeouts().dead() < Duration::from_secs(90));
}

use self::Sight::*;

#[test]
fn two_hosts_two_versions() {
    let sights = &[Takeover, Adoption, BothCommit, HeldAfterRelease];
    let limits = Limits { versions: 2, ballots: 2, stops: 1, sights, ..NONE };
    explore("two hosts, two versions, a crash", limits, 113_024);
}

#[test]
fn three_hosts_one_version() {
    let limits = Limits { hosts: 3, ballots: 0, sights: &[BothCommit, Adoption], ..NONE };
    explore("three hosts, one version", limits, 53_581);
}

#[test]
fn late_writes() {
    let sights = &[BothCommit, Adoption, GaveUpUndecided];
    let limits = Limits { ballots: 1, stops: 1, timeouts: 1, sights, ..NONE };
    explore("two hosts, a crash, a late write", limits, 34_426);
}

#[test]
fn a_leader_that_is_set_back() {
    let sights = &[SetBack, Repair, RepairByTwo];
    let limits = Limits { hosts: 3, versions: 4, ballots: 1, begin: Begin::LateLeader, sights, ..NONE };
    explore("a leader set back by two versions", limits, 34_365);
}

#[test]
fn waiting_and_calling_off() {
    let sights = &[GaveUpUndecided, CommittedAsFree];
    let limits = Limits { ballots: 1, wait: true, stops: 1, call_offs: 1, sights, ..NONE };
    explore("two hosts that wait, a crash, one called off", limits, 38_179);
}

#[test]
fn failed_io() {
    let limits = Limits { ballots: 1, failures: 1, stops: 1, sights: &[GaveUpUndecided], ..NONE };
    explore("two hosts, a crash, a failed read or write", limits, 42_232);
}

#[test]
fn the_next_generation_of_a_host() {
    let limits = Limits { ballots: 1, stops: 1, leaves: 1, starts: 1, sights: &[NextGeneration], ..NONE };
    explore("two hosts, one starts anew", limits, 105_230);
}

#[test]
fn reads_that_show_sectors_of_different_times() {
    let limits = Limits { stops: 1, split_reads: true, sights: &[Adoption, BothCommit], ..NONE };
    explore("two hosts, a crash, split reads", limits, 37_842);
}

#[test]
fn damaged_blocks() {
    let limits = Limits { versions: 4, ballots: 0, stops: 1, damages: 1, sights: &[Burn], ..NONE };
    explore("two hosts, a crash, a damaged block", limits, 16_924);
}

/// Two hosts that contend when one finds the block of a third damaged and the other did not.
const DEAD_BALLOT: Limits = Limits {
    hosts: 3,
    versions: 4,
    ballots: 2,
    damages: 1,
    begin: Begin::DeadBallot,
    sights: &[Burn, BothCommit],
    ..NONE
};

#[test]
fn a_damaged_block_of_a_dead_host() {
    explore("three hosts, the damaged block of a dead one", Limits { ballots: 1, ..DEAD_BALLOT }, 42_132);
}

/// Minutes in release mode: only with `LEASEHOLD_MODEL=full`.
#[test]
fn larger_configurations() {
    if !in_full() {
        return;
    }
    let two = Limits { versions: 2, ballots: 2, stops: 1, timeouts: 1, ..NONE };
    let three = Limits { hosts: 3, stops: 1, ..NONE };
    let all = [
        (
            "two hosts, two versions, a crash, a late write",
            Limits { sights: &[SetBack, Repair], ..two.clone() },
            684_783,
        ),
        (
            "two hosts, two versions, two crashes, one starts anew",
            Limits { stops: 2, starts: 1, timeouts: 0, sights: &[NextGeneration, Takeover], ..two.clone() },
            1_861_357,
        ),
        ("two hosts, two versions, split reads", Limits { split_reads: true, timeouts: 0, ..two.clone() }, 737_445),
        ("two hosts that wait, a late write", Limits { versions: 1, wait: true, call_offs: 1, ..two.clone() }, 571_244),
        (
            "two hosts, a late write, a failure",
            Limits { versions: 1, failures: 1, ballots: 3, ..two.clone() },
            1_146_014,
        ),
        (
            "two hosts, a crash, a damaged block",
            Limits { versions: 5, timeouts: 0, damages: 1, sights: &[Burn], ..two },
            1_803_416,
        ),
        ("three hosts, the damaged block of a dead one, more ballots", DEAD_BALLOT, 566_727),
        ("three hosts, one version, a crash", Limits { ballots: 0, ..three.clone() }, 322_710),
        ("three hosts, one version, more ballots", Limits { ballots: 2, stops: 0, ..three.clone() }, 2_156_122),
        (
            "a leader set back by two versions, a crash",
            Limits {
                versions: 5,
                ballots: 2,
                begin: Begin::LateLeader,
                sights: &[SetBack, Repair, RepairByTwo],
                ..three
            },
            594_563,
        ),
    ];
    for (name, limits, states) in all {
        explore(name, limits, states);
    }
}
