//! Leases: who may act on one beside whom (S1), which versions are held (S2), what is said of them (S4).

use std::collections::BTreeMap;

use leasehold::protocol::area::claimed;
use leasehold::{LeaseMode, Owner, Time, Version};

use super::Right;
use super::resource::Resource;
use crate::storage::Storage;

#[derive(Clone, Copy)]
pub(super) struct Lease {
    pub(super) owner: Owner,
    pub(super) version: Version,
    pub(super) mode: LeaseMode,
    /// When the order was given by which it was got.
    pub(super) ordered: Time,
    /// Taken by force.
    taken: Option<Told>,
}

impl Lease {
    /// Nothing says any more that it was taken.
    pub(super) const fn forget_taker(&mut self) {
        self.taken = None;
    }

    /// Whether it was taken by force, and may be active until a moment that was told.
    pub(super) const fn was_taken(&self) -> bool {
        self.taken.is_some()
    }
}

/// That a lease was taken by force: who was told until when its owner may act.
#[derive(Clone, Copy)]
pub(super) struct Told {
    /// One bit for each machine.
    machines: u64,
    /// The earliest of what they were told.
    until: Time,
}

impl Told {
    pub(super) const fn one(machine: usize, until: Time) -> Told {
        Told { machines: 1 << machine, until }
    }

    pub(super) fn also(self, other: Option<Told>) -> Told {
        let other = other.unwrap_or(self);
        Told { machines: self.machines | other.machines, until: self.until.min(other.until) }
    }

    pub(super) const fn until(&self) -> Time {
        self.until
    }

    const fn knows(&self, machine: usize) -> bool {
        self.machines & (1 << machine) != 0
    }
}

impl Resource {
    /// "Held" is said. `taken`: whom it was taken from by force, and until when each of them may act.
    #[expect(clippy::too_many_arguments, reason = "what is to be checked comes from everywhere")]
    pub(crate) fn held(
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
        let passed = self.passed(me, (mode, version));
        let stays = self.still_has(host, me, version);
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
            let block = storage.block(disk, self.area, me.host);
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
        let lease = self.lease(host, me, (mode, version), bound);
        self.leases[host] = Some(Right { what: lease, until });
        self.begins(host, storage, now);
        self.passes_over(host, Version::new(version.get() - 1), taken);
        let others: Vec<(usize, Lease)> = self.conflicts(host, |lease| lease.mode, now).collect();
        for (index, other) in others {
            // What its owner has taken back by force since is none of what was taken from it.
            match taken.get(&other.owner).filter(|_| other.version < version) {
                Some(bound) => {
                    self.counters.forced += 1;
                    self.is_told(host, me, index, *bound);
                }
                _ if other.taken.is_some_and(|told| told.knows(host)) => {}
                _ if bound.is_some_and(|told| told.knows(index) && until <= told.until) => {}
                _ if self.wiped.excuses(&lease, &other) => {}
                _ => {
                    let (owner, theirs) = (other.owner, other.version);
                    self.fail_beside(format!("S1: {me} holds version {version} while {owner} is active with {theirs}"));
                }
            }
        }
    }

    /// Whether a machine, or its program after the end of its process, has that version and has not given it up.
    pub(crate) fn still_has(&self, host: usize, me: Owner, version: Version) -> bool {
        self.leases[host].is_some_and(|right| (right.what.owner, right.what.version) == (me, version))
    }

    /// A process goes on with the lease that one before it on its machine had.
    #[expect(clippy::too_many_arguments, reason = "what is to be checked comes from everywhere")]
    pub(crate) fn took_up(
        &mut self,
        host: usize,
        me: Owner,
        (mode, version): (LeaseMode, Version),
        told: &BTreeMap<Owner, Time>,
        now: Time,
        until: Time,
        storage: &Storage,
    ) {
        self.counters.taken_up += 1;
        let passed = self.passed(me, (mode, version));
        let before = self.leases[host].filter(|right| right.what.owner == me && right.what.version == version);
        // Who shares what was taken shares with whoever has it now.
        let taken = before.filter(|_| mode == LeaseMode::Exclusive).and_then(|right| right.what.taken);
        let bound = taken.or(passed);
        let lease = self.lease(host, me, (mode, version), bound);
        if mode == LeaseMode::Exclusive {
            // Where it has paused beyond its deadline it never acts on that.
            if version < self.latest && bound.is_none() && until > now {
                self.fail(format!("S2: {me} goes on with version {version}, but {} was held last", self.latest));
            }
            if until > now && bound.is_some_and(|told| until > told.until) {
                self.fail(format!("S1: {me} goes on with version {version} beyond what was told of it"));
            }
            // That of an acquire which was cut short is held for the first time.
            self.latest = self.latest.max(version);
            self.latest_was_released = false;
            self.decide(version, me);
        }
        self.leases[host] = Some(Right { what: lease, until });
        self.begins(host, storage, now);
        let others: Vec<(usize, Lease)> = self.conflicts(host, |lease| lease.mode, now).collect();
        self.passes_over(host, Version::new(version.get() - 1), told);
        for (index, other) in others {
            if let Some(bound) = told.get(&other.owner).filter(|_| other.version < version) {
                self.is_told(host, me, index, *bound);
                continue;
            }
            let told = other.taken.is_some_and(|told| told.knows(host))
                || bound.is_some_and(|told| told.knows(index) && until <= told.until);
            if !told && !self.wiped.excuses(&lease, &other) {
                let (owner, theirs) = (other.owner, other.version);
                self.fail_beside(format!(
                    "S1: {me} goes on with version {version} while {owner} is active with {theirs}"
                ));
            }
        }
    }

    /// What a machine has just got; of a change of what it had the order counts that it got that by.
    fn lease(&self, host: usize, me: Owner, how: (LeaseMode, Version), taken: Option<Told>) -> Lease {
        let before = self.leases[host].map(|right| right.what).filter(|lease| lease.owner == me);
        let ordered = before.map_or_else(|| self.wiped.ordered(host), |lease| lease.ordered);
        let (mode, version) = how;
        Lease { owner: me, version, mode, ordered, taken }
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

    /// A machine that goes on beside a former owner was told until when that one, on the machine `index`, may act.
    fn is_told(&mut self, host: usize, me: Owner, index: usize, bound: Time) {
        let Some(right) = &mut self.leases[index] else { return };
        let (owner, until) = (right.what.owner, right.until);
        right.what.taken = Some(Told::one(host, bound).also(right.what.taken));
        if until > bound {
            self.fail(format!("S1: {me} is told less than what {owner} may act for"));
        }
    }

    /// A machine begins to change its lease to a shared one: it no longer relies on being alone.
    pub(crate) fn shares(&mut self, host: usize) {
        if let Some(right) = &mut self.leases[host] {
            right.what.mode = LeaseMode::Shared;
        }
    }

    /// The lease of a machine may be acted on until then.
    pub(crate) fn extended(&mut self, host: usize, me: Owner, now: Time, until: Time) {
        // Not what is left of an earlier process.
        let Some(lease) = self.leases[host].map(|right| right.what).filter(|lease| lease.owner == me) else { return };
        let beside = || self.conflicts(host, |lease| lease.mode, now);
        let beside = || beside().filter(|(_, other)| !self.wiped.excuses(&lease, other));
        let (alone, others) = (beside().count() == 0, beside().filter(|(_, other)| other.taken.is_none()).count());
        let Some(right) = &mut self.leases[host] else { return };
        let grew = until > right.until;
        right.until = until;
        match right.what.taken {
            // Who took it shares it by now, and so does its owner, who may go on beside that one.
            Some(told) if until > told.until && lease.mode == LeaseMode::Shared && alone => {
                right.what.taken = None;
            }
            Some(told) if until > told.until => {
                self.fail(format!("S1: machine {host} renews a lease beyond what was told of it"));
            }
            None if others > 0 && grew => {
                self.fail_beside(format!("S1: machine {host} renews a lease while another is active"));
            }
            _ => {}
        }
    }

    /// A machine has learnt that its lease is lost: what the lease protects stops by then.
    pub(crate) fn ends_by(&mut self, host: usize, me: Owner, until: Time) {
        if let Some(right) = self.leases[host].as_mut().filter(|right| right.what.owner == me) {
            right.until = right.until.min(until);
        }
    }

    /// The release begins: what the lease protects has stopped.
    pub(crate) fn releases(&mut self, host: usize) {
        self.releasing[host] = self.leases[host].map(|right| (right.what.owner, right.what.version));
        self.stopped(host);
    }

    /// What the lease protects has stopped, for good.
    pub(crate) fn stopped(&mut self, host: usize) {
        self.leases[host] = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::storage::Area;
    use leasehold::{Generation, HostId};

    /// A host takes back by force what is being taken from it, and shares it, before the taker says that it holds it.
    #[test]
    fn what_was_taken_back_by_force_is_not_what_was_taken() {
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let owner = |id| HostId::new(id).zip(Generation::new(1)).map(|(host, generation)| Owner { host, generation });
        let (Some(a), Some(b)) = (owner(1), owner(2)) else { unreachable!("both are numbers of hosts") };
        let (area, mut storage) = (Area::of_resource(0), Storage::new(1));
        // Their blocks say nothing.
        [a, b].iter().for_each(|owner| storage.put(0, area.block_at(owner.host), [].into()));
        let mut resource = Resource::new(area, 2);
        let mut held = |host, me, mode, version, taken: &[(Owner, Time)], now| {
            let (taken, holding) = (taken.iter().copied().collect(), (mode, Version::new(version)));
            resource.held(host, me, holding, &taken, at(now), at(now + 800), &storage);
        };
        held(0, a, LeaseMode::Exclusive, 3, &[], 0);
        held(0, a, LeaseMode::Exclusive, 5, &[(b, at(950))], 100);
        held(0, a, LeaseMode::Shared, 5, &[], 101);
        held(1, b, LeaseMode::Exclusive, 4, &[(a, at(910))], 110);
        resource.extended(0, a, at(200), at(1_000));
        assert_eq!(resource.take_failure(), None);
    }
}
