//! What is watched of one resource: each version has one owner (S2), and what a machine answers is on disk (S4).

use std::collections::{BTreeMap, BTreeSet};

use leasehold::format::{Block, Leader};
use leasehold::protocol::area::claimed;
use leasehold::{LeaseMode, Owner, Time, Version};

use super::Right;
use super::leases::{Lease, Told};
use super::shown::Hidden;
use super::wiped::Wiped;
use crate::counters::Counters;
use crate::storage::{Area, Storage};

/// Watches a resource.
pub(crate) struct Resource {
    pub(super) area: Area,
    pub(super) counters: Counters,
    failure: Option<String>,
    /// For each machine, the lease that anything on it may act on.
    pub(super) leases: Vec<Option<Right<Lease>>>,
    /// For each machine, since when the disk does not show its lease.
    pub(super) hidden: Vec<Hidden>,
    pub(super) wiped: Wiped,
    /// The version of the leader on disk, if that and its writer's block say that all claims below it were judged; and
    /// since when.
    pub(super) judged: Option<(Version, Time)>,
    /// For each machine, the version whose release began last and was not answered: a process that goes on with what
    /// the one before it had may hold it again.
    pub(super) releasing: Vec<Option<(Owner, Version)>>,
    pub(super) decided: BTreeMap<Version, Owner>,
    /// Who was proposed as the next owner by another.
    proposed: BTreeSet<Owner>,
    /// Whose claims were passed over by force, up to which version, and who was told what of that.
    pub(super) passed_over: BTreeMap<(Owner, Version), Told>,
    pub(super) latest: Version,
    pub(super) latest_was_released: bool,
}

impl Resource {
    pub(super) fn new(area: Area, machines: usize) -> Resource {
        Resource {
            area,
            counters: Counters::default(),
            failure: None,
            leases: vec![None; machines],
            hidden: vec![Hidden::default(); machines],
            wiped: Wiped::new(machines),
            judged: None,
            releasing: vec![None; machines],
            decided: BTreeMap::new(),
            proposed: BTreeSet::new(),
            passed_over: BTreeMap::new(),
            latest: Version::default(),
            latest_was_released: true,
        }
    }

    /// What nobody can know while leases may be active that are of before a wipe is no failure. Nor is what follows
    /// from a block that was lost where two held one host id.
    pub(super) fn fail(&mut self, what: String) {
        if !self.wiped.is_in_doubt() && self.counters.met == 0 {
            self.fail_anyway(what);
        }
    }

    /// A machine acts beside another one. What was wiped is left out already.
    pub(super) fn fail_beside(&mut self, what: String) {
        if self.counters.met == 0 {
            self.fail_anyway(what);
        }
    }

    /// A write of an earlier holder of a host id lands on the block, or on the record, of who took that as the id of
    /// its own failed join.
    pub(crate) fn meets(&mut self) {
        self.counters.met += 1;
    }

    /// What holds all along has failed.
    pub(super) fn fail_anyway(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// The resource is made with this version.
    pub(crate) fn made(&mut self, version: Version) {
        self.latest = version;
    }

    /// Whether anybody ever owned a resource there.
    pub(crate) fn was_owned(&self) -> bool {
        !self.decided.is_empty()
    }

    /// Whether a machine may act on a lease of it.
    pub(crate) fn is_held_by(&self, host: usize, now: Time) -> bool {
        self.leases[host].is_some_and(|right| right.until > now)
    }

    /// Whether anybody may act on a lease of it.
    pub(crate) fn is_held(&self, now: Time) -> bool {
        (0..self.leases.len()).any(|host| self.is_held_by(host, now))
    }

    /// What a sanlock host is about to hold may be a version of its own that it has released: nothing makes it keep its
    /// released flag. Nor does anything tell it of owners that were passed over before and may still act: these, and
    /// until when.
    pub(crate) fn sanlock_holds(&mut self, me: Owner, mode: LeaseMode, version: Version) -> BTreeMap<Owner, Time> {
        if mode == LeaseMode::Exclusive && version == self.latest && self.decided.get(&version) == Some(&me) {
            self.counters.used_again += 1;
            self.latest = Version::new(version.get() - 1);
        }
        let passed = self.passed_over.iter().filter(|((_, last), _)| self.decided.contains_key(&last.after(1)));
        passed.map(|((owner, _), told)| (*owner, told.until())).collect()
    }

    /// A machine has passed over claims of these up to `version`, which may act until then. It need not hold the
    /// resource now: its acquire may have failed behind that, or before anything came of it.
    pub(crate) fn passes_over(&mut self, host: usize, version: Version, told: &BTreeMap<Owner, Time>) {
        for (owner, bound) in told {
            let before = self.passed_over.get(&(*owner, version)).copied();
            self.passed_over.insert((*owner, version), Told::one(host, *bound).also(before));
        }
    }

    /// Who has passed over this version of an owner's, and until when that may act.
    pub(super) fn passed(&self, me: Owner, (mode, version): (LeaseMode, Version)) -> Option<Told> {
        let later = self.passed_over.range((me, version)..=(me, Version::new(u64::MAX)));
        let taken = later.filter(|((_, last), _)| self.decided.contains_key(&last.after(1)));
        let told = taken.map(|(_, told)| *told).reduce(|one, other| one.also(Some(other)));
        told.filter(|_| mode == LeaseMode::Exclusive)
    }

    /// A machine is about to write its block.
    pub(crate) fn proposes(&mut self, me: Owner, block: &Block) {
        self.proposed.extend(block.inp.filter(|owner| *owner != me && block.bal > 0));
    }

    /// Who waited to be handed the resource holds it.
    pub(crate) fn received(&mut self, me: Owner) {
        self.counters.received += 1;
        // What others have accepted may be all that was left of an earlier version when the area was wiped.
        if !self.proposed.contains(&me) && !self.wiped.ever() {
            self.fail(format!("S4: {me} was handed the resource by nobody"));
        }
    }

    /// A machine answers that it handed `version` over: the destination asks for it, has begun it, gave it up, or leads
    /// with it; unless another process of it has come since.
    pub(crate) fn handed_over(&mut self, me: Owner, to: Option<Owner>, version: Version, storage: &Storage) {
        self.counters.handed_over += 1;
        let Some(to) = to else { return };
        self.decide(version, to);
        let leads = |leader: &Leader| {
            leader.version == version && leader.owner == Some(to) && leader.writer.id == to.host.get()
        };
        let knows = |disk| {
            let block = storage.block(disk, self.area, to.host);
            block.good().is_none_or(|block| {
                block.extension.as_ref().is_none_or(|extension| {
                    extension.generation != to.generation.get()
                        || block.instance >= version
                        || extension.receives.max(extension.withdrawn) >= Some(version)
                })
            })
        };
        let led = |disk| storage.leader(disk, self.area).good().is_some_and(leads);
        let copies = (0..storage.disks()).filter(|disk| knows(*disk) || led(*disk)).count();
        if copies * 2 <= storage.disks() {
            self.fail(format!("S4: {me} hands version {version} over to {to}, who does not know"));
        }
    }

    /// An operation ended, and the lease is not held, or `shared` as before.
    pub(crate) fn ended(&mut self, me: Owner, released: bool, shared: bool, storage: &Storage) {
        if released {
            self.counters.released += 1;
            self.latest_was_released = true;
            self.releasing.iter_mut().for_each(|it| *it = it.filter(|(owner, _)| *owner != me));
        } else {
            self.counters.without += 1;
        }
        let says = |disk| {
            let (leader, block) = (storage.leader(disk, self.area), storage.block(disk, self.area, me.host));
            let (Some(leader), Some(block)) = (leader.good(), block.good()) else { return None };
            let waits =
                block.extension.as_ref().is_some_and(|it| it.generation == me.generation.get() && it.waiting.is_some());
            let claims = claimed(me.host, block) == Some(me) && block.instance >= leader.version;
            let shares = block.shared == Some(me.generation);
            (claims || waits || shares != shared).then(|| format!("{block:?}, leader at {}", leader.version))
        };
        let left: Vec<String> = (0..storage.disks()).filter_map(says).collect();
        if left.len() * 2 > storage.disks() && !self.wiped.has_put(me.host) {
            self.fail(format!(
                "S4: {me} answered that it has no more than before, shared: {shared}, but left {left:?}"
            ));
        }
    }

    /// A leader reaches a disk, over the one before it, if that was not damaged.
    pub(crate) fn leader(&mut self, before: Option<&Leader>, after: &Leader) {
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
            // Who had it before a wipe may say only now that it gave it up: a known limit (docs/design/limits.md).
            if !self.wiped.ever() || !after.is_free() {
                self.decide(new, owner);
            }
        }
    }

    /// The latest version that a leader or an answer named.
    pub(crate) fn latest_decided(&self) -> Version {
        self.decided.last_key_value().map(|(version, _)| *version).unwrap_or_default()
    }

    /// `owner` is about to hold `version`, which it was to take only from version `expected`. In between there may be
    /// what it had asked for and gave up.
    pub(crate) fn follows(&mut self, expected: Version, version: Version, owner: Owner) {
        let between = || self.decided.range(expected.after(1)..version).all(|(_, decided)| *decided == owner);
        if version <= expected || !between() {
            self.fail(format!("S2: {owner} holds version {version}, not the one after {expected}"));
        }
    }

    pub(super) fn decide(&mut self, version: Version, owner: Owner) {
        let first = *self.decided.entry(version).or_insert(owner);
        if first != owner {
            self.fail(format!("S2: version {version} belongs to {first} and to {owner}"));
        }
    }
}
