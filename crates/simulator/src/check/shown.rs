//! What the disk shows of the leases that are held (S4): what keeps a lease must have seen it there, and what ends one
//! must not have.

use leasehold::protocol::area::claim;
use leasehold::protocol::holding::Loss;
use leasehold::protocol::resource::{Blocker, Hold};
use leasehold::{HostId, LeaseMode, Owner, Time, Version};

use super::resource::Resource;
use crate::storage::Storage;

/// Since when the disk does not show a lease.
#[derive(Clone, Copy, Default)]
pub(super) struct Hidden {
    leader: Option<Time>,
    block: Option<Time>,
}

impl Hidden {
    /// Whether a read that began at `began` shows that the disk does not show a lease.
    pub(super) fn is_seen(&self, began: Time, mode: LeaseMode) -> bool {
        let leader = self.leader.filter(|_| mode == LeaseMode::Exclusive);
        self.is_seen_in_block(began) || leader.is_some_and(|since| was_before(since, began))
    }

    /// Whether it shows that the own block does not.
    pub(super) fn is_seen_in_block(&self, began: Time) -> bool {
        self.block.is_some_and(|since| was_before(since, began))
    }
}

/// Whether what happened at `since` was there when a read began: a machine's clock is not as fine as the world's.
fn was_before(since: Time, began: Time) -> bool {
    began.since(since).as_micros() > 0
}

impl Resource {
    /// The sector at `offset` has changed.
    pub(crate) fn changed(&mut self, storage: &Storage, offset: u64, now: Time) {
        // Nobody looks at several disks.
        if storage.disks() > 1 {
            return;
        }
        let judged = self.judged_on(storage);
        let since = self.judged.filter(|(version, _)| Some(*version) == judged).map_or(now, |(_, since)| since);
        self.judged = judged.map(|version| (version, since));
        match self.area.host_at(offset) {
            None => {
                let leader = storage.leader(0, self.area);
                let leader = leader.good().filter(|leader| !leader.is_free());
                let shown = leader.map(|leader| (leader.owner, leader.version));
                for (right, hidden) in self.leases.iter().zip(&mut self.hidden) {
                    let lease = right.map(|right| (Some(right.what.owner), right.what.version));
                    hidden.leader = hidden.leader.or(Some(now)).filter(|_| lease.is_some() && lease != shown);
                }
            }
            Some(host) => {
                let block = storage.block(0, self.area, host);
                for (right, hidden) in self.leases.iter().zip(&mut self.hidden) {
                    let Some(lease) = right.map(|right| right.what).filter(|lease| lease.owner.host == host) else {
                        continue;
                    };
                    let shows = block.good().is_some_and(|block| match lease.mode {
                        LeaseMode::Exclusive => claim(host, block) == Some((lease.version, lease.owner)),
                        // Or it is just becoming shared, or exclusive.
                        LeaseMode::Shared => {
                            let owner = claim(host, block).map(|(_, owner)| owner);
                            block.shared == Some(lease.owner.generation) || owner == Some(lease.owner)
                        }
                    });
                    hidden.block = hidden.block.or(Some(now)).filter(|_| !shows);
                }
            }
        }
    }

    fn judged_on(&self, storage: &Storage) -> Option<Version> {
        let leader = storage.leader(0, self.area);
        let leader = leader.good().filter(|leader| leader.is_judged())?;
        let block = storage.block(0, self.area, HostId::new(leader.writer.id)?);
        block.good().is_some_and(|block| block.instance >= leader.version).then_some(leader.version)
    }

    /// A machine answers, of an operation that began at `began`, that `blocker` is in its way. The claims of owners
    /// that were gone or gave up are judged once, and not by everybody who comes later.
    pub(crate) fn blocked(&mut self, me: Owner, blocker: &Blocker, began: Time) {
        let Blocker { owner: Some(owner), version, hold: Hold::Exclusive | Hold::Short, .. } = *blocker else { return };
        if let Some((judged, _)) = self.judged.filter(|(judged, since)| version < *judged && *since < began) {
            self.fail(format!("L1: {me} waits for {owner} with {version}, though that was judged before {judged}"));
        }
    }

    /// The whole area is to be looked at anew for the lease of a machine that has just begun.
    pub(crate) fn begins(&mut self, host: usize, storage: &Storage, now: Time) {
        self.hidden[host] = Hidden::default();
        let Some(owner) = self.leases[host].map(|right| right.what.owner) else { return };
        self.changed(storage, self.area.offset(), now);
        self.changed(storage, self.area.block_at(owner.host), now);
    }

    /// A look that began at `began` has shown a machine that it holds its lease.
    pub(crate) fn looked(&mut self, host: usize, began: Time) {
        let Some(lease) = self.leases[host].map(|right| right.what) else { return };
        if self.hidden[host].is_seen(began, lease.mode) {
            let (owner, version) = (lease.owner, lease.version);
            self.fail_anyway(format!(
                "S4: {owner} goes on with version {version}, which the disk did not show when it looked"
            ));
        }
    }

    /// A machine says why its lease at `version` is lost.
    pub(crate) fn loses(&mut self, me: Owner, version: Version, loss: &Loss) {
        self.counters.fenced += 1;
        let is_true = match loss {
            Loss::Unverified => true,
            Loss::Taken { version: by, .. } => *by >= version,
            Loss::Erased | Loss::Replaced => false,
        };
        if !is_true && !self.wiped.ever() {
            self.fail(format!("S4: {me} has lost version {version} because it was {loss:?}, which nobody did"));
        }
    }
}
