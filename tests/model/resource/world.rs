//! The hosts, the disk between them, and what came of the versions.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use leasehold::format::{Block, Leader};
use leasehold::protocol::Seen;
use leasehold::protocol::resource::{Effect, Operation};
use leasehold::{Generation, HostId, LeaseMode, Name, Owner, Profile, Time, Timeouts, Version};

use super::limits::Budget;
use crate::canonical::{Part, hash_operation};

/// The resource is free at this version when everything begins.
pub(super) const FIRST: u64 = 1;
/// When everything happens.
pub(super) const NOW: Time = Time::from_nanos(1_000_000_000_000);

/// What a host knows of another one's delta record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Known {
    /// 0: nothing.
    pub(super) generation: u64,
    pub(super) free: bool,
    /// Unchanged for D.
    pub(super) dead: bool,
}

#[expect(clippy::large_enum_variant, reason = "most hosts run one")]
#[derive(Clone, Debug)]
pub(super) enum Process {
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
pub(super) struct Host {
    pub(super) generation: u64,
    pub(super) process: Process,
    /// The own block as this generation last knew it to be on disk.
    pub(super) own: Option<Block>,
    /// What it, or what depends on it, acts on.
    pub(super) active: Option<Held>,
    pub(super) known: Vec<Known>,
    /// What a read that is under way has shown.
    pub(super) read: Option<Reading>,
    pub(super) role: Option<Role>,
}

/// What a host does in a handover while its operation is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// It hands this version over to another host.
    Source(Version, Owner),
    /// It waits to be handed the resource.
    Destination,
    /// It releases this version, which it did not hand over in the end.
    Release(Version),
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Held {
    pub(super) version: Version,
    pub(super) mode: LeaseMode,
    /// By force: for how long it is still acted on is left to the simulator.
    pub(super) taken: bool,
    /// The host knows that.
    pub(super) lost: bool,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Reading {
    pub(super) leader: Option<Seen<Leader>>,
    pub(super) blocks: BTreeMap<usize, Seen<Block>>,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Disk {
    pub(super) leader: Leader,
    pub(super) blocks: Vec<Seen<Block>>,
}

/// What is written: the leader, or the block of the host that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sector {
    Leader,
    Block(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Content {
    Leader(Leader),
    Block(Block),
}

/// What came of the versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct History {
    /// Who owns a version, as somebody concluded from a ballot.
    pub(super) decided: BTreeMap<Version, Owner>,
    /// Who gave up a version.
    pub(super) given_up: BTreeSet<(Version, Owner)>,
    /// Which versions a source has proposed for whom, that were not held or given up yet.
    pub(super) proposed: BTreeSet<(Version, Owner)>,
    /// Who has begun to own which version.
    pub(super) begun: BTreeSet<(Version, Owner)>,
    /// Which version a host has asked to be handed last.
    pub(super) asked: BTreeMap<Owner, Version>,
    /// Up to which version a host has answered that it is not handed what it asked for.
    pub(super) refused: BTreeMap<Owner, Version>,
    /// Who was said to own the resource by a handover, and has not held it or given it up yet.
    pub(super) promised: BTreeSet<Owner>,
    /// How handovers have ended.
    pub(super) ends: BTreeSet<End>,
    /// The owners that were passed over by force, and up to which version.
    pub(super) passed: BTreeMap<Owner, Version>,
    /// The last version that was held.
    pub(super) held: Version,
    /// The last version that a leader on disk showed.
    pub(super) committed: Version,
    pub(super) broken: Option<Broken>,
}

/// How a handover ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum End {
    /// The source says that it handed the resource over, and the destination holds it.
    Received,
    /// The destination holds what a source died with, or was called off from.
    Inherited,
    /// The source keeps what it holds.
    Kept,
    /// The source holds a later version.
    TakenBack,
}

/// A property that was violated by what a host did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    /// S2
    Version,
    /// S4
    Answer,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub(super) struct State {
    pub(super) hosts: Vec<Part<Host>>,
    pub(super) disk: Part<Disk>,
    pub(super) in_flight: BTreeMap<(usize, Sector), Content>,
    pub(super) history: Part<History>,
    pub(super) left: Budget,
}

pub(super) fn id(host: usize) -> HostId {
    HostId::new(host as u64 + 1).unwrap()
}

pub(super) fn timeouts() -> Timeouts {
    Profile::Balanced.timeouts()
}

pub(super) fn name(text: &str) -> Name {
    Name::resource(text).unwrap()
}

impl Held {
    pub(super) const fn new(mode: LeaseMode, version: Version) -> Held {
        Held { version, mode, taken: false, lost: false }
    }
}

impl Host {
    pub(super) fn effect(&self) -> Option<&Effect> {
        match &self.process {
            Process::Running { effect, .. } => Some(effect),
            _ => None,
        }
    }

    /// What it is about to write.
    pub(super) fn writes(&self, host: usize) -> Option<(Sector, Content)> {
        match self.effect()? {
            Effect::WriteBlock(_, block) => Some((Sector::Block(host), Content::Block(block.clone()))),
            Effect::WriteLeader(_, leader) => Some((Sector::Leader, Content::Leader(leader.clone()))),
            _ => None,
        }
    }

    /// The commit that it is about to write: not the freeing of a leader that stands already.
    pub(super) fn commits(&self, disk: &Disk) -> Option<&Leader> {
        match self.effect()? {
            Effect::WriteLeader(_, leader) if leader.version != disk.leader.version || !leader.is_free() => {
                Some(leader)
            }
            _ => None,
        }
    }
}

impl State {
    pub(super) fn me(&self, host: usize) -> Owner {
        Owner { host: id(host), generation: Generation::new(self.hosts[host].generation).unwrap() }
    }

    pub(super) fn write(&mut self, content: Content, host: usize) {
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

    pub(super) fn has_in_flight(&self, host: usize) -> bool {
        self.in_flight.keys().any(|(writer, _)| *writer == host)
    }

    /// The delta record of `host` as it is now.
    pub(super) fn record(&self, host: usize) -> Known {
        let Host { generation, process, .. } = &*self.hosts[host];
        Known { generation: *generation, free: matches!(process, Process::Left), dead: false }
    }

    /// What a scan by `host` leaves it with: what it has counted for a generation stays.
    pub(super) fn scan(&self, host: usize) -> Vec<Known> {
        let known = &self.hosts[host].known;
        let fresh = |(other, known): (usize, &Known)| {
            let now = self.record(other);
            Known { dead: known.dead && (known.generation, known.free) == (now.generation, now.free), ..now }
        };
        known.iter().enumerate().map(fresh).collect()
    }

    pub(super) fn read_sector(&mut self, host: usize, sector: Sector) {
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

    pub(super) fn read_rest(&mut self, host: usize) {
        self.read_sector(host, Sector::Leader);
        for of in 0..self.hosts.len() {
            self.read_sector(host, Sector::Block(of));
        }
    }

    pub(super) fn break_if(&mut self, condition: bool, what: Broken) {
        if condition {
            self.history.change(|history| history.broken.get_or_insert(what).to_owned());
        }
    }

    pub(super) fn end(&mut self, host: usize, process: Process) {
        self.hosts[host].change(|host| {
            host.process = process;
            host.own = None;
            host.active = None;
            host.read = None;
            host.role = None;
            host.known.fill(Known::default());
        });
    }
}
