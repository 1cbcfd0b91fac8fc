//! The properties, and how often the interesting things happened.

use std::collections::{BTreeMap, BTreeSet};

use super::storage::{Storage, block_at, delta_at};
use crate::format::{Block, Leader};
use crate::protocol::area::claimed;
use crate::types::{HostId, LeaseMode, Owner, Time, Version};

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
    /// Processes that went on with the host id of the one before.
    pub resumes: u64,
    /// Leases that such a process went on with.
    pub taken_up: u64,
    /// Attempts at a host id that were refused.
    pub refusals: u64,
    /// Leader writes over a damaged one.
    pub rebuilds: u64,
    /// Hosts that were declared dead.
    pub declared: u64,
    /// Host ids lost by a process that ran.
    pub losses: u64,
    /// Acquires that ended without the lease.
    pub without: u64,
    /// Shared holds.
    pub shared: u64,
    /// Leases taken by force from an owner that lived.
    pub forced: u64,
    /// Leases that their owner found taken, or could not look at.
    pub fenced: u64,
    /// Leases handed over, as the source says.
    pub handed_over: u64,
    /// Leases that their new owner was handed.
    pub received: u64,
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
        self.resumes += other.resumes;
        self.taken_up += other.taken_up;
        self.refusals += other.refusals;
        self.rebuilds += other.rebuilds;
        self.declared += other.declared;
        self.losses += other.losses;
        self.without += other.without;
        self.shared += other.shared;
        self.forced += other.forced;
        self.fenced += other.fenced;
        self.handed_over += other.handed_over;
        self.received += other.received;
        self.upsets += other.upsets;
    }
}

/// A right of a machine that ends at a moment of the world's time.
#[derive(Clone, Copy)]
struct Right<T> {
    what: T,
    until: Time,
}

#[derive(Clone, Copy)]
struct Lease {
    owner: Owner,
    version: Version,
    mode: LeaseMode,
    /// Taken by force.
    taken: Option<Told>,
}

/// That a lease was taken by force: who was told until when its owner may act.
#[derive(Clone, Copy)]
struct Told {
    /// One bit for each machine.
    machines: u64,
    /// The earliest of what they were told.
    until: Time,
}

impl Told {
    const fn one(machine: usize, until: Time) -> Told {
        Told { machines: 1 << machine, until }
    }

    fn also(self, other: Option<Told>) -> Told {
        let other = other.unwrap_or(self);
        Told { machines: self.machines | other.machines, until: self.until.min(other.until) }
    }

    const fn knows(&self, machine: usize) -> bool {
        self.machines & (1 << machine) != 0
    }
}

/// Watches a run.
pub(super) struct Checker {
    pub(super) counters: Counters,
    failure: Option<String>,
    /// For each machine, the lease that anything on it may act on.
    leases: Vec<Option<Right<Lease>>>,
    /// For each machine, the version whose release began last and was not answered: a process that goes on with what the one
    /// before it had may hold it again.
    releasing: Vec<Option<(Owner, Version)>>,
    /// For each machine, its host id.
    tenures: Vec<Option<Right<HostId>>>,
    generations: BTreeMap<HostId, u64>,
    /// The generation that the next one exceeds at least, of ids whose record was set back.
    put_back: BTreeMap<HostId, u64>,
    /// Ids whose record a join that failed put over that of their holder, late: its machine takes them as its own.
    raced: BTreeSet<HostId>,
    decided: BTreeMap<Version, Owner>,
    /// Who was proposed as the next owner by another.
    proposed: BTreeSet<Owner>,
    /// Whose claims were passed over by force: up to which version, by which machine, and what that was told.
    passed_over: BTreeMap<Owner, (Version, usize, Time)>,
    latest: Version,
    latest_was_released: bool,
}

impl Checker {
    pub(super) fn new(hosts: usize) -> Checker {
        Checker {
            counters: Counters::default(),
            failure: None,
            leases: vec![None; hosts],
            releasing: vec![None; hosts],
            tenures: vec![None; hosts],
            generations: BTreeMap::new(),
            put_back: BTreeMap::new(),
            raced: BTreeSet::new(),
            decided: BTreeMap::new(),
            proposed: BTreeSet::new(),
            passed_over: BTreeMap::new(),
            latest: Version::default(),
            latest_was_released: true,
        }
    }

    /// The resource is made with this version.
    pub(super) fn made(&mut self, version: Version) {
        self.latest = version;
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

    /// A renewal moved the deadline of the host id.
    pub(super) fn renewed(&mut self, host: usize, until: Time) {
        if let Some(tenure) = &mut self.tenures[host] {
            tenure.until = until;
        }
    }

    /// The lease of a machine may be acted on until then.
    pub(super) fn extended(&mut self, host: usize, me: Owner, now: Time, until: Time) {
        let others = self.conflicts(host, |lease| lease.mode, now).filter(|(_, other)| other.taken.is_none()).count();
        // Not what is left of an earlier process.
        let Some(right) = self.leases[host].as_mut().filter(|right| right.what.owner == me) else { return };
        let grew = until > right.until;
        right.until = until;
        match right.what.taken {
            Some(told) if until > told.until => {
                self.fail(format!("S1: machine {host} renews a lease beyond what was told of it"));
            }
            None if others > 0 && grew => {
                self.fail(format!("S1: machine {host} renews a lease while another is active"));
            }
            _ => {}
        }
    }

    /// The leases of other machines that are active beside that of `host` and may not be.
    fn conflicts(
        &self,
        host: usize,
        mode: impl Fn(&Lease) -> LeaseMode,
        now: Time,
    ) -> impl Iterator<Item = (usize, Lease)> + '_ {
        let mine = self.leases[host].as_ref().map(|right| mode(&right.what));
        self.leases.iter().enumerate().filter_map(move |(index, right)| {
            let right = right.filter(|right| index != host && right.until > now)?;
            let both_share = mine == Some(LeaseMode::Shared) && right.what.mode == LeaseMode::Shared;
            (!both_share).then_some((index, right.what))
        })
    }

    /// A machine is about to submit a write by the right of the host id that it holds.
    pub(super) fn writes(&mut self, host: usize, now: Time) {
        if self.tenures[host].is_some_and(|tenure| tenure.until <= now) {
            self.fail(format!("W: machine {host} writes after the deadline of its host id"));
        }
    }

    /// The write of a join or a declaration has landed on an id while another machine has a write in flight to the id's sectors.
    pub(super) fn raced(&mut self, id: HostId) {
        self.raced.insert(id);
    }

    /// A write of a join or a declaration, or by the right of a host id, reaches the disk.
    pub(super) fn landed(&mut self, host: usize, races: bool, offset: u64, now: Time) {
        let belongs = |tenure: &Right<HostId>| [delta_at(tenure.what), block_at(tenure.what)].contains(&offset);
        let hit = |(other, tenure): (usize, &Option<Right<HostId>>)| {
            other != host && tenure.as_ref().is_some_and(|tenure| tenure.until > now && belongs(tenure))
        };
        let Some(other) = self.tenures.iter().enumerate().position(hit) else { return };
        let Some(id) = self.tenures[other].map(|tenure| tenure.what) else { return };
        if races {
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

    /// "Held" is said. `taken`: whom it was taken from by force, and until when each of them may act.
    #[expect(clippy::too_many_arguments, reason = "what is to be checked comes from everywhere")]
    pub(super) fn held(
        &mut self,
        host: usize,
        me: Owner,
        (mode, version): (LeaseMode, Version),
        taken: &BTreeMap<Owner, Time>,
        now: Time,
        until: Time,
        storage: &Storage,
    ) {
        self.counters.held += 1;
        // The version was taken before its owner could say that it holds it.
        let passed = self.passed_over.get(&me).filter(|(last, ..)| version <= *last && mode == LeaseMode::Exclusive);
        let passed = passed.map(|(_, by, bound)| Told::one(*by, *bound));
        let stays = self.leases[host].is_some_and(|right| right.what.owner == me && right.what.version == version);
        match mode {
            // Others may have set up their shared holds meanwhile.
            LeaseMode::Shared => self.counters.shared += 1,
            LeaseMode::Exclusive => {
                self.counters.takeovers += u64::from(!self.latest_was_released);
                let again = self.releasing[host] == Some((me, version)) && version == self.latest;
                if version <= self.latest && passed.is_none() && !again {
                    self.fail(format!("S2: {me} holds version {version}, but {} was held before", self.latest));
                }
            }
        }
        self.latest = self.latest.max(version);
        self.latest_was_released = mode == LeaseMode::Shared;
        self.decide(version, me);
        // Damage may have come after the write.
        let says = |disk| {
            let block = storage.block(disk, me.host);
            block.good().is_none_or(|block| match mode {
                LeaseMode::Exclusive => block.instance == version && claimed(me.host, block) == Some(me),
                LeaseMode::Shared => block.instance == version && block.shared == Some(me.generation),
            })
        };
        let copies = (0..storage.disks()).filter(|disk| says(*disk)).count();
        if copies * 2 <= storage.disks() {
            self.fail(format!("S4: {me} holds version {version}, but its block does not say so"));
        }
        // Who shares again what was taken shares with whoever has it now, and may go on.
        let stays = stays && mode == LeaseMode::Exclusive;
        let bound = self.leases[host].filter(|_| stays).and_then(|right| right.what.taken).or(passed);
        self.leases[host] = Some(Right { what: Lease { owner: me, version, mode, taken: bound }, until });
        for (owner, bound) in taken {
            self.passed_over.insert(*owner, (Version::new(version.get() - 1), host, *bound));
        }
        let others: Vec<(usize, Lease)> = self.conflicts(host, |lease| lease.mode, now).collect();
        for (index, other) in others {
            match taken.get(&other.owner) {
                Some(bound) => {
                    self.counters.forced += 1;
                    self.is_told(host, me, index, *bound);
                }
                _ if other.taken.is_some_and(|told| told.knows(host)) => {}
                _ if bound.is_some_and(|told| told.knows(index) && until <= told.until) => {}
                _ => {
                    let (owner, theirs) = (other.owner, other.version);
                    self.fail(format!("S1: {me} holds version {version} while {owner} is active with {theirs}"));
                }
            }
        }
    }

    /// A machine begins to change its lease to a shared one: it no longer relies on being alone.
    pub(super) fn shares(&mut self, host: usize) {
        if let Some(right) = &mut self.leases[host] {
            right.what.mode = LeaseMode::Shared;
        }
    }

    /// A process goes on with the generation of the one before it. Whom others take for gone must not come back.
    pub(super) fn resumed(&mut self, me: Owner, gone_to: Option<usize>) {
        self.counters.resumes += 1;
        if let Some(other) = gone_to {
            self.fail(format!("S3: a process goes on with {me}, which machine {other} takes for gone"));
        }
    }

    /// A process goes on with the lease that one before it on its machine had.
    pub(super) fn took_up(
        &mut self,
        host: usize,
        me: Owner,
        (mode, version): (LeaseMode, Version),
        told: &BTreeMap<Owner, Time>,
        now: Time,
        until: Time,
    ) {
        self.counters.taken_up += 1;
        let passed = self.passed_over.get(&me).filter(|(last, ..)| version <= *last && mode == LeaseMode::Exclusive);
        let passed = passed.map(|(_, by, bound)| Told::one(*by, *bound));
        let before = self.leases[host].filter(|right| right.what.owner == me && right.what.version == version);
        // Who shares what was taken shares with whoever has it now.
        let taken = before.filter(|_| mode == LeaseMode::Exclusive).and_then(|right| right.what.taken);
        let bound = taken.or(passed);
        if mode == LeaseMode::Exclusive {
            if version < self.latest && bound.is_none() {
                self.fail(format!("S2: {me} goes on with version {version}, but {} was held last", self.latest));
            }
            // That of an acquire which was cut short is held for the first time.
            self.latest = self.latest.max(version);
            self.latest_was_released = false;
            self.decide(version, me);
        }
        self.leases[host] = Some(Right { what: Lease { owner: me, version, mode, taken: bound }, until });
        let others: Vec<(usize, Lease)> = self.conflicts(host, |lease| lease.mode, now).collect();
        for (owner, bound) in told {
            self.passed_over.insert(*owner, (Version::new(version.get() - 1), host, *bound));
        }
        for (index, other) in others {
            if let Some(bound) = told.get(&other.owner) {
                self.is_told(host, me, index, *bound);
                continue;
            }
            let told = other.taken.is_some_and(|told| told.knows(host))
                || bound.is_some_and(|told| told.knows(index) && until <= told.until);
            if !told {
                let (owner, theirs) = (other.owner, other.version);
                self.fail(format!("S1: {me} goes on with version {version} while {owner} is active with {theirs}"));
            }
        }
    }

    /// A machine that goes on beside a former owner was told until when that one, on the machine `index`, may act.
    fn is_told(&mut self, host: usize, me: Owner, index: usize, bound: Time) {
        let Some(right) = &mut self.leases[index] else { return };
        let (owner, until) = (right.what.owner, right.until);
        right.what.taken = Some(Told::one(host, bound).also(right.what.taken));
        if until > bound {
            self.fail(format!("S1: {me} is told less than what {owner} may act for"));
        }
    }

    /// The release begins: what the lease protects has stopped.
    pub(super) fn releases(&mut self, host: usize) {
        self.releasing[host] = self.leases[host].map(|right| (right.what.owner, right.what.version));
        self.stopped(host);
    }

    /// What the lease protects has stopped, for good.
    pub(super) fn stopped(&mut self, host: usize) {
        self.leases[host] = None;
    }

    /// A machine is about to write its block.
    pub(super) fn proposes(&mut self, me: Owner, block: &Block) {
        self.proposed.extend(block.inp.filter(|owner| *owner != me && block.bal > 0));
    }

    /// Who waited to be handed the resource holds it.
    pub(super) fn received(&mut self, me: Owner) {
        self.counters.received += 1;
        if !self.proposed.contains(&me) {
            self.fail(format!("S4: {me} was handed the resource by nobody"));
        }
    }

    /// A machine answers that it handed `version` over: the destination asks for it, has begun it, or gave it up; unless
    /// another process of it has come since.
    pub(super) fn handed_over(&mut self, me: Owner, to: Option<Owner>, version: Version, storage: &Storage) {
        self.counters.handed_over += 1;
        let Some(to) = to else { return };
        self.decide(version, to);
        let knows = |disk| {
            let block = storage.block(disk, to.host);
            block.good().is_none_or(|block| {
                block.extension.as_ref().is_none_or(|extension| {
                    extension.generation != to.generation.get()
                        || block.instance >= version
                        || extension.receives.max(extension.withdrawn) >= Some(version)
                })
            })
        };
        let copies = (0..storage.disks()).filter(|disk| knows(*disk)).count();
        if copies * 2 <= storage.disks() {
            self.fail(format!("S4: {me} hands version {version} over to {to}, who does not know"));
        }
    }

    /// An operation ended, and the lease is not held, or `shared` as before.
    pub(super) fn ended(&mut self, me: Owner, released: bool, shared: bool, storage: &Storage) {
        if released {
            self.counters.released += 1;
            self.latest_was_released = true;
            self.releasing.iter_mut().for_each(|it| *it = it.filter(|(owner, _)| *owner != me));
        } else {
            self.counters.without += 1;
        }
        let says = |disk| {
            let (leader, block) = (storage.leader(disk), storage.block(disk, me.host));
            let (Some(leader), Some(block)) = (leader.good(), block.good()) else { return None };
            let waits =
                block.extension.as_ref().is_some_and(|it| it.generation == me.generation.get() && it.waiting.is_some());
            let claims = claimed(me.host, block) == Some(me) && block.instance >= leader.version;
            let shares = block.shared == Some(me.generation);
            (claims || waits || shares != shared).then(|| format!("{block:?}, leader at {}", leader.version))
        };
        let left: Vec<String> = (0..storage.disks()).filter_map(says).collect();
        if left.len() * 2 > storage.disks() {
            self.fail(format!(
                "S4: {me} answered that it has no more than before, shared: {shared}, but left {left:?}"
            ));
        }
    }

    /// A leader reaches a disk, over the one before it, if that was not damaged.
    pub(super) fn leader(&mut self, before: Option<&Leader>, after: &Leader) {
        let new = after.version;
        match before.map(|before| before.version) {
            Some(old) => {
                self.counters.regressions += u64::from(new < old);
                self.counters.repairs += u64::from(new > old.after(1));
            }
            None => self.counters.rebuilds += 1,
        }
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

    /// `owner` is about to hold `version`, which it was to take only from version `expected`. In between there may be what it
    /// had asked for and gave up.
    pub(super) fn follows(&mut self, expected: Version, version: Version, owner: Owner) {
        let between = || self.decided.range(expected.after(1)..version).all(|(_, decided)| *decided == owner);
        if version <= expected || !between() {
            self.fail(format!("S2: {owner} holds version {version}, not the one after {expected}"));
        }
    }

    fn decide(&mut self, version: Version, owner: Owner) {
        let first = *self.decided.entry(version).or_insert(owner);
        if first != owner {
            self.fail(format!("S2: version {version} belongs to {first} and to {owner}"));
        }
    }
}
