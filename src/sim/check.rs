//! The properties, and how often the interesting things happened.

use std::collections::{BTreeMap, BTreeSet};

use super::storage::{Storage, block_at, delta_at};
use crate::format::Leader;
use crate::protocol::area::claimed;
use crate::types::{HostId, Owner, Time, Version};

/// How often things happened, over one run or the sum of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Leases acquired.
    pub held: u64,
    /// Leases released.
    pub released: u64,
    /// Leases acquired after an owner that had not released.
    pub takeovers: u64,
    /// Leader writes by a host that committed another one's value.
    pub adoptions: u64,
    /// Leader writes of a version more than one above the leader on disk.
    pub repairs: u64,
    /// Leader writes that set the leader back to an earlier version.
    pub regressions: u64,
    /// Writes that landed after they were reported as timed out.
    pub late_landings: u64,
    /// Instances run beyond a damaged block.
    pub burns: u64,
    /// Host ids acquired.
    pub joins: u64,
    /// Attempts at a host id that were refused.
    pub refusals: u64,
    /// Host ids lost by a process that ran.
    pub losses: u64,
    /// Acquires that ended without the lease.
    pub without: u64,
    /// Kills, reboots, pauses, and pauses between check and submission.
    pub upsets: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.held += other.held;
        self.released += other.released;
        self.takeovers += other.takeovers;
        self.adoptions += other.adoptions;
        self.repairs += other.repairs;
        self.regressions += other.regressions;
        self.late_landings += other.late_landings;
        self.burns += other.burns;
        self.joins += other.joins;
        self.refusals += other.refusals;
        self.losses += other.losses;
        self.without += other.without;
        self.upsets += other.upsets;
    }
}

/// A right of a machine that ends at a moment of the world's time.
#[derive(Clone, Copy)]
struct Right<T> {
    what: T,
    until: Time,
}

/// Watches a run.
pub(super) struct Checker {
    pub(super) counters: Counters,
    failure: Option<String>,
    /// For each machine, the lease that anything on it may act on.
    leases: Vec<Option<Right<(Owner, Version)>>>,
    /// For each machine, its host id.
    tenures: Vec<Option<Right<HostId>>>,
    generations: BTreeMap<HostId, u64>,
    /// The generation that the next one exceeds at least, of ids whose record was set back.
    put_back: BTreeMap<HostId, u64>,
    /// Ids whose record a join that failed put over that of their holder, late: its machine takes them as its own.
    raced: BTreeSet<HostId>,
    decided: BTreeMap<Version, Owner>,
    latest: Version,
    latest_was_released: bool,
}

impl Checker {
    pub(super) fn new(hosts: usize) -> Checker {
        Checker {
            counters: Counters::default(),
            failure: None,
            leases: vec![None; hosts],
            tenures: vec![None; hosts],
            generations: BTreeMap::new(),
            put_back: BTreeMap::new(),
            raced: BTreeSet::new(),
            decided: BTreeMap::new(),
            latest: Version::default(),
            latest_was_released: true,
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// A machine holds a host id, for now until `until`.
    pub(super) fn joined(&mut self, host: usize, me: Owner, now: Time, until: Time) {
        self.counters.joins += 1;
        let holds = |tenure: &Option<Right<HostId>>| tenure.is_some_and(|it| it.what == me.host && it.until > now);
        if let Some(other) = self.tenures.iter().position(holds) {
            self.fail(format!("S3: machine {host} holds {me} while machine {other} does"));
        }
        let newest = self.generations.entry(me.host).or_default();
        let put_back = self.put_back.get(&me.host).is_some_and(|to| *to < me.generation.get());
        let grew = *newest < me.generation.get() || put_back;
        *newest = me.generation.get();
        if !grew {
            self.fail(format!("S3: {me} is not a new generation"));
        }
        self.tenures[host] = Some(Right { what: me.host, until });
    }

    /// A renewal moved the deadline of the host id and, with G, that of the lease.
    pub(super) fn renewed(&mut self, host: usize, me: Owner, now: Time, until: Time, with_fence: Time) {
        if let Some(tenure) = &mut self.tenures[host] {
            tenure.until = until;
        }
        let others_active = self
            .leases
            .iter()
            .enumerate()
            .any(|(index, lease)| index != host && lease.is_some_and(|lease| lease.until > now));
        // Not what is left of an earlier process.
        if let Some(lease) = self.leases[host].as_mut().filter(|lease| lease.what.0 == me) {
            lease.until = with_fence;
            if others_active {
                self.fail(format!("S1: machine {host} renews a lease while another is active"));
            }
        }
    }

    /// A machine is about to submit a write by the right of the host id that it holds.
    pub(super) fn writes(&mut self, host: usize, now: Time) {
        if self.tenures[host].is_some_and(|tenure| tenure.until <= now) {
            self.fail(format!("W: machine {host} writes after the deadline of its host id"));
        }
    }

    /// A join's write has landed on an id while another machine has a write in flight to the id's sectors.
    pub(super) fn raced(&mut self, id: HostId) {
        self.raced.insert(id);
    }

    /// A write of a join, or by the right of a host id, reaches the disk.
    pub(super) fn landed(&mut self, host: usize, joins: bool, offset: u64, now: Time) {
        let belongs = |tenure: &Right<HostId>| [delta_at(tenure.what), block_at(tenure.what)].contains(&offset);
        let hit = |(other, tenure): (usize, &Option<Right<HostId>>)| {
            other != host && tenure.as_ref().is_some_and(|tenure| tenure.until > now && belongs(tenure))
        };
        let Some(other) = self.tenures.iter().enumerate().position(hit) else { return };
        let Some(id) = self.tenures[other].map(|tenure| tenure.what) else { return };
        if joins {
            self.raced(id);
        } else if !self.raced.contains(&id) {
            self.fail(format!("W: a write of machine {host} lands in a sector of machine {other}"));
        }
    }

    /// The machine knows that it no longer holds the host id.
    pub(super) fn left(&mut self, host: usize) {
        self.tenures[host] = None;
    }

    /// Everything on the machine has stopped.
    pub(super) fn rebooted(&mut self, host: usize) {
        self.tenures[host] = None;
        self.leases[host] = None;
    }

    pub(super) fn held(&mut self, host: usize, me: Owner, version: Version, now: Time, until: Time, storage: &Storage) {
        self.counters.held += 1;
        self.counters.takeovers += u64::from(!self.latest_was_released);
        if version <= self.latest {
            self.fail(format!("S2: {me} holds version {version}, but {} was held before", self.latest));
        }
        self.latest = version;
        self.latest_was_released = false;
        self.decide(version, me);
        // Damage may have come after the write.
        let claims = |disk| {
            let block = storage.block(disk, me.host);
            block.good().is_none_or(|block| block.instance == version && claimed(me.host, block) == Some(me))
        };
        let copies = (0..storage.disks()).filter(|disk| claims(*disk)).count();
        if copies * 2 <= storage.disks() {
            self.fail(format!("S4: {me} holds version {version}, but its block does not say so"));
        }
        let other = self.leases.iter().flatten().find(|lease| lease.until > now);
        if let Some((owner, theirs)) = other.map(|lease| lease.what) {
            self.fail(format!("S1: {me} holds version {version} while {owner} is active with {theirs}"));
        }
        self.leases[host] = Some(Right { what: (me, version), until });
    }

    /// The release begins: what the lease protects has stopped.
    pub(super) fn stopped(&mut self, host: usize) {
        self.leases[host] = None;
    }

    /// An operation ended, and the lease is not held.
    pub(super) fn ended(&mut self, me: Owner, released: bool, storage: &Storage) {
        if released {
            self.counters.released += 1;
            self.latest_was_released = true;
        } else {
            self.counters.without += 1;
        }
        let says = |disk| {
            let (leader, block) = (storage.leader(disk), storage.block(disk, me.host));
            let (Some(leader), Some(block)) = (leader.good(), block.good()) else { return None };
            let waits =
                block.extension.as_ref().is_some_and(|it| it.generation == me.generation.get() && it.waiting.is_some());
            let claims = claimed(me.host, block) == Some(me) && block.instance >= leader.version;
            (claims || waits).then(|| format!("{block:?}, leader at {}", leader.version))
        };
        let left: Vec<String> = (0..storage.disks()).filter_map(says).collect();
        if left.len() * 2 > storage.disks() {
            self.fail(format!("S4: {me} answered that it holds nothing, but left {left:?}"));
        }
    }

    /// A leader reaches a disk.
    pub(super) fn leader(&mut self, before: &Leader, after: &Leader) {
        let (old, new) = (before.version, after.version);
        self.counters.regressions += u64::from(new < old);
        self.counters.repairs += u64::from(new > old.after(1));
        if let Some(owner) = after.owner {
            self.counters.adoptions += u64::from(after.writer.id != owner.host.get());
            self.decide(new, owner);
        }
    }

    /// The latest version that a leader or an answer named.
    pub(super) fn latest_decided(&self) -> Version {
        self.decided.last_key_value().map(|(version, _)| *version).unwrap_or_default()
    }

    /// A record of an earlier generation was written over that of a later one, or over a damaged one that may have been
    /// later, which nobody sees any more: by one who raced for the id, or late.
    pub(super) fn set_back(&mut self, to: Option<Owner>) {
        if let Some(owner) = to {
            self.put_back.insert(owner.host, owner.generation.get() - 1);
        }
    }

    fn decide(&mut self, version: Version, owner: Owner) {
        let first = *self.decided.entry(version).or_insert(owner);
        if first != owner {
            self.fail(format!("S2: version {version} belongs to {first} and to {owner}"));
        }
    }
}
