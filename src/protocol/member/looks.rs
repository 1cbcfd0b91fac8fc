//! Looking at what is held, each lease in its time, and giving back what was lost alone.

use std::time::Duration;

use super::account::{Pending, Purpose};
use super::command::Order;
use super::leases::Key;
use super::{Member, Phase, Submitted, Timer};
use crate::protocol::area::AreaView;
use crate::protocol::holding::{Loss, Restore, Task};
use crate::protocol::looks::{Glance, Look, Restoration, Sight, Verdict};
use crate::protocol::procedure::Sectors;
use crate::protocol::rules::Rule;
use crate::types::Time;

/// A look under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Looking {
    /// What was held when it began.
    before: Glance,
    /// Whose blocks are not read can have taken nothing before that.
    unseen: Time,
    /// Whether no write to the leader was in flight then.
    settled: bool,
}

impl Member {
    /// Has the lease looked at, or given back, when that is due.
    pub(super) fn look_when_due(&mut self, key: Key) {
        if let Some(due) = self.leases.holding_at(key).map(|holding| holding.due()) {
            self.wakes(due, Timer::Lease(key));
        }
    }

    /// Something may be due about a lease.
    pub(super) fn look_if_due(&mut self, key: Key) {
        let (now, scanned) = (self.now, self.scans.coverage.since);
        if !self.held() || self.phase == Phase::Stopped || !self.leases.answers_for(key) {
            return;
        }
        let Some(holding) = self.leases.holding(key) else { return };
        let task = holding.task(now);
        let needs_scan = holding.needs_scan(scanned, now);
        self.look_when_due(key);
        match task {
            None => {}
            // What it protected is gone by now. Whoever comes after the taker waits for its claim to be.
            Some(Task::GiveBack) => {
                if self.leases.glance(key).is_some()
                    && let Some(resource) = self.leases.resource(key.0)
                {
                    if let Some(holding) = self.leases.holding(key) {
                        holding.given_back();
                    }
                    let release = Order::Release { held: key.1, timeout: Duration::ZERO, settled: false };
                    self.operate(None, resource, release);
                }
            }
            Some(Task::Look) if needs_scan => self.look_after_scan(key),
            Some(Task::Look) => self.look(key),
        }
    }

    pub(super) fn look(&mut self, key: Key) {
        // One look at a time: what the first one finds is compared with what was held when that began.
        if self.looking.contains_key(&key) {
            return;
        }
        let (Some(before), Some(resource)) = (self.leases.glance(key), self.leases.resource(key.0)) else { return };
        let settled = !self.account.writes_anywhere(&(key.0..key.0 + self.terms.geometry.sector_bytes() as u64));
        self.looking.insert(key, Looking { before, unseen: self.unseen(), settled });
        let extents = vec![self.area_extent(&resource)];
        let expires = self.now + self.terms.timeouts.io();
        self.read(Purpose::Look(key.0, key.1), 0, false, extents, expires, true);
    }

    /// The area of a lease was read.
    pub(super) fn looked(&mut self, key: Key, pending: &Pending, sectors: &Sectors) {
        if !self.held() {
            return;
        }
        let (Some(looking), Some(resource)) = (self.looking.remove(&key), self.leases.resource(key.0)) else { return };
        let Looking { before, unseen, settled } = looking;
        let view = AreaView::of(sectors, &self.terms, key.0);
        let (subject, after, now) = (self.subject(&resource), self.leases.glance(key), self.now);
        let Some(holding) = self.leases.holding_at(key) else { return };
        let (looks, sight) = ((&before, after.as_ref()), Sight { view: &view, unseen, settled });
        let observer = &mut self.scans.observer;
        let Some(look) = Look::at(&subject, (key.1, holding), looks, sight, observer, now) else { return };
        self.leases.set_asking(key.0, look.asking.clone());
        // What could not be written is not forgotten because it can be read.
        if matches!(look.verdict, Verdict::Good) {
            self.troubles.remove(&key);
        }
        self.revision += 1;
        let restore = self.leases.holding(key).and_then(|holding| holding.looked(pending.started, look, now));
        self.look_when_due(key);
        // An operation that was begun since does it, too.
        let at_rest = |after: Glance| after.begun == before.begun && after.own.is_some();
        if let Some(Restore { what, by }) = restore.filter(|_| after.is_some_and(at_rest)) {
            self.restore(key, &what, by);
        }
    }

    /// Writes again what only this host may write. What fails is tried again with the next look; what hangs keeps other
    /// writes from the sector.
    fn restore(&mut self, key: Key, what: &Restoration, by: Time) {
        let geometry = self.terms.geometry;
        let (offset, bytes) = match what {
            Restoration::Block(block) => {
                let at = key.0 + geometry.block_offset(self.me().host);
                (at, block.encode(geometry, at))
            }
            Restoration::Leader(leader) => {
                // The next look is to show who has hidden that one, too.
                if Rule::NewcomersAreUnseen.is_in_force() {
                    self.scan_all();
                }
                (key.0, leader.encode(key.0))
            }
        };
        let window = (self.tenure.deadline().min(by), self.now + self.terms.timeouts.io());
        // Whether it is under way is seen by the next look.
        let _: Submitted = self.write(Purpose::Restore(key.0, key.1), 0, false, offset, bytes, window);
    }

    pub(super) fn restored(&mut self, key: Key) {
        let now = self.now;
        if let Some(holding) = self.leases.holding(key) {
            holding.restored(now);
        }
        self.look_when_due(key);
    }

    /// Latches the loss of one lease.
    pub(super) fn lose(&mut self, key: Key, loss: Loss) {
        let now = self.now;
        match self.leases.holding(key) {
            Some(holding) => holding.lose(loss, now),
            // Its handle is gone, and what is left of it is being given back.
            None if loss.is_of_the_area() => self.leases.disown(key),
            None => {}
        }
        self.revision += 1;
        self.look_when_due(key);
    }
}
