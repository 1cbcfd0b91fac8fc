//! A resource whose area was wiped, made again or set back under those who hold it. They may not know that until F + G
//! later, nor until F + G after a write that was justified by what was there before, and lands late: it hides what
//! happened; nor until F + G after another host has then decided what such a write claims. So long
//! - a lease of before may be active beside any other (S1), and
//! - what is said of versions (S2) and of the disk (S4) may be of either count of versions.
//!
//! What holds all along: those who came since exclude each other, no look shows what is not there, and nobody writes a
//! hold again that it has just seen to be gone.

use std::collections::{BTreeMap, BTreeSet};

use leasehold::format::{Block, Leader};
use leasehold::protocol::area::{claim, claimed};
use leasehold::{HostId, LeaseMode, Owner, Time, Version};

use super::leases::Lease;
use super::resource::Resource;

/// What is known of wipes of an area, and who acts on what.
pub(super) struct Wiped {
    /// When the area was last not what those go by who began before.
    at: Option<Time>,
    /// Since when, and until when, leases of before may be active.
    doubt: Option<(Time, Time)>,
    /// The leader is one of before that landed since.
    leads_late: bool,
    /// Whose blocks are not what they wrote last.
    blocks: BTreeSet<HostId>,
    machines: Vec<Acts>,
    /// For each write on its way, by machine and place, the start of the read that justifies it.
    writes: BTreeMap<(usize, u64), Time>,
    /// What blocks claim since that were written by what was there before.
    claims: BTreeSet<(Version, Owner)>,
}

/// What a machine does with a resource.
#[derive(Clone, Copy, Default)]
struct Acts {
    /// When its program gave the last order.
    ordered: Time,
    /// When the latest read of the area began that has ended.
    read: Time,
    /// When the one began that ended last, and when it ended.
    last: (Time, Time),
}

impl Wiped {
    pub(super) fn new(machines: usize) -> Wiped {
        let machines = vec![Acts::default(); machines];
        let (blocks, writes, claims) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Wiped { at: None, doubt: None, leads_late: false, blocks, machines, writes, claims }
    }

    /// Whether somebody has ever wiped the area.
    pub(super) const fn ever(&self) -> bool {
        self.at.is_some()
    }

    /// Whether leases of before may be active.
    pub(super) const fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether the block of a host is not what it wrote last.
    pub(super) fn has_put(&self, host: HostId) -> bool {
        self.blocks.contains(&host)
    }

    /// When the order was given of which a machine holds what it has just got.
    pub(super) fn ordered(&self, host: usize) -> Time {
        self.machines[host].ordered
    }

    /// Whether two leases may be active beside each other, because one of them is of before.
    pub(super) fn excuses(&self, one: &Lease, other: &Lease) -> bool {
        self.is_in_doubt() && self.at >= Some(one.ordered.min(other.ordered))
    }
}

impl Resource {
    /// The sector at `offset` was wiped, or set back.
    pub(crate) fn wiped(&mut self, offset: u64) {
        self.counters.wiped += 1;
        match self.area.host_at(offset) {
            Some(host) => self.wiped.blocks.insert(host),
            None => std::mem::replace(&mut self.wiped.leads_late, true),
        };
        // What showed an owner that it was passed over may be what is gone.
        self.passed_over.clear();
        self.leases.iter_mut().flatten().for_each(|right| right.what.forget_taker());
    }

    /// Leases of before may be active until then. `anew`: what everybody has begun is of before.
    pub(crate) fn is_in_doubt(&mut self, anew: bool, now: Time, until: Time) {
        self.wiped.doubt = Some((now, until));
        if anew {
            self.wiped.at = Some(now);
        }
    }

    /// A program gives an order.
    pub(crate) fn ordered(&mut self, host: usize, now: Time) {
        self.wiped.machines[host].ordered = now;
    }

    /// A read of the area has ended that a machine began at `began`.
    pub(crate) fn reads(&mut self, host: usize, began: Time, now: Time) {
        let acts = &mut self.wiped.machines[host];
        (acts.read, acts.last) = (acts.read.max(began), (began, now));
    }

    /// A machine wants the sector at `offset` to be written; `block`: it is its own one, in an operation on what it
    /// holds. That it does not write again when the read that it goes by has shown that it is gone.
    pub(crate) fn submits(&mut self, host: usize, offset: u64, block: Option<&Block>, now: Time) {
        let Acts { read, last, .. } = self.wiped.machines[host];
        let goes_by = Some(last).filter(|(_, ended)| *ended == now).map(|(began, _)| began);
        self.wiped.writes.insert((host, offset), goes_by.unwrap_or(read));
        let Some((lease, block)) = self.leases[host].map(|right| right.what).zip(block) else { return };
        let me = lease.owner;
        let holds = claim(me.host, block).is_some_and(|(_, owner)| owner == me) || block.shared == Some(me.generation);
        let saw = goes_by.is_some_and(|read| self.hidden[host].is_seen_in_block(read));
        if holds && saw && self.wiped.ever() {
            let version = lease.version;
            self.fail_anyway(format!("S4: {me} writes again that it holds version {version}, which it saw was gone"));
        }
    }

    /// Whether a write that lands is justified by what was there before: it may hide what happened since.
    pub(crate) fn hides(&self, host: usize, offset: u64) -> bool {
        let read = self.wiped.writes.get(&(host, offset));
        read.is_some_and(|read| self.wiped.at >= Some(*read))
    }

    /// The block of a host has landed that is justified by what was there before.
    pub(crate) fn claims_by_what_was_before(&mut self, host: HostId, block: &Block) {
        self.wiped.claims.extend(claimed(host, block).map(|owner| (block.instance, owner)));
    }

    /// Whether a leader decides such a claim that another host has written than its owner.
    pub(crate) fn decides_what_was_before(&self, leader: &Leader) -> bool {
        let owner = leader.owner.filter(|owner| !leader.is_free() && leader.writer.id != owner.host.get());
        owner.is_some_and(|owner| self.wiped.claims.contains(&(leader.version, owner)))
    }

    /// A machine's write lands at `offset`; whether it is one of before.
    pub(crate) fn lands(&mut self, offset: u64, late: bool) {
        match self.area.host_at(offset) {
            Some(host) => self.wiped.blocks.remove(&host),
            None => std::mem::replace(&mut self.wiped.leads_late, late),
        };
    }

    /// Whether the leader is one of before that says of claims which it knows nothing of that they are over, and its
    /// writer's block lets it say so.
    pub(crate) fn misjudges(&self) -> bool {
        self.wiped.leads_late && self.judged.is_some()
    }

    /// From now on no lease of before is active, if nothing was wiped or hidden since.
    pub(crate) fn is_known(&mut self, now: Time) {
        let Some((since, _)) = self.wiped.doubt.filter(|(_, until)| *until <= now) else { return };
        self.wiped.doubt = None;
        self.wiped.claims.clear();
        let active = self.leases.iter().enumerate();
        let active = active.filter_map(|(host, right)| Some((host, right.filter(|right| right.until > now)?.what)));
        let active: Vec<(usize, Lease)> = active.collect();
        // Versions have begun again.
        self.latest = active.iter().map(|(_, lease)| lease.version).max().unwrap_or_default();
        self.decided.clear();
        for (index, (host, lease)) in active.iter().enumerate() {
            let both_share = |other: &Lease| (lease.mode, other.mode) == (LeaseMode::Shared, LeaseMode::Shared);
            let beside = active[..index].iter().map(|(_, other)| other);
            let mut beside = beside.filter(|other| !both_share(other) && !lease.was_taken() && !other.was_taken());
            let owner = lease.owner;
            if let Some(other) = beside.next() {
                self.fail(format!("S1: {owner} and {} both still hold what was wiped", other.owner));
            }
            if self.hidden[*host].is_seen(since, lease.mode) {
                self.fail(format!("S4: {owner} still holds what was wiped"));
            }
        }
    }
}
