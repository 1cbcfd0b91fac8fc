//! Carries out what the protocol says of each lease ([`crate::protocol::holding`]): looks at it, writes what only this
//! host may put right, gives back what is lost.

use super::member::Member;
use crate::disk::Lane;
use crate::error::LossReason;
use crate::protocol::holding::{Loss, Restore, Task};
use crate::protocol::looks::{Look, Restoration, Verdict};
use crate::protocol::procedure::Window;
use crate::types::{Resource, Version};

impl Member {
    /// The verifying thread. It looks apart from the renewal: a slow read of an area must not cost the host id.
    pub(super) fn verify(&self) {
        while self.pulse.sleep_to_look() {
            for (resource, version, task) in self.pulse.tasks() {
                match task {
                    Task::Look => self.look(&resource, version),
                    Task::GiveBack if self.resources.glance(&resource, version).is_some() => {
                        self.release_later(&resource, version);
                        self.pulse.given_back((resource.offset, version));
                    }
                    Task::GiveBack => {}
                }
            }
        }
    }

    fn look(&self, resource: &Resource, version: Version) {
        let key = (resource.offset, version);
        let Some(before) = self.resources.glance(resource, version) else { return };
        let Some(holding) = self.pulse.holding(key) else { return };
        if holding.needs_scan(self.hosts.coverage().since, self.io.now()) {
            // Its failure leaves the leader to look at.
            let _ = self.hosts.scan_all(&self.io, Some(&self.pulse));
        }
        let (span, view) = match self.read_area(resource) {
            Ok(read) => read,
            Err(error) => return self.pulse.not_looked(key, error),
        };
        let (subject, after, now) = (self.subject(resource), self.resources.glance(resource, version), self.io.now());
        let look = self.hosts.with_observer(|observer| {
            Look::at(&subject, (version, &holding), (&before, after.as_ref()), &view, observer, now)
        });
        let Some(look) = look else { return };
        self.resources.set_asking(resource, look.asking.clone());
        let reason = match &look.verdict {
            Verdict::Lost(loss) => Some(self.reason_of(loss)),
            Verdict::Good | Verdict::Unclear | Verdict::Restore(_) => None,
        };
        if let Some(restore) = self.pulse.looked(key, span.started, look, reason) {
            self.restore(resource, version, before.begun, restore);
        }
    }

    /// Writes what was not right, unless an operation was begun since: that does it, too.
    fn restore(&self, resource: &Resource, version: Version, begun: u64, restore: Restore) {
        let Some((own, mode)) = self.resources.take_at_rest(resource, version, begun) else { return };
        let (offset, geometry) = (resource.offset, self.terms.geometry);
        let (at, sector) = match restore.what {
            Restoration::Block(block) => {
                let at = offset + geometry.block_offset(self.host());
                (at, block.encode(geometry, at))
            }
            Restoration::Leader(leader) => (offset, leader.encode(offset)),
        };
        let key = (offset, version);
        if let Ok(until) = self.pulse.held_here(key) {
            let window = Window { before: until.min(restore.by), timeout: self.terms.timeouts.io() };
            // What fails is tried again after the next look; what hangs keeps other writes from the sector.
            match self.io.write(Lane::General, at, sector, window) {
                Ok(_) => self.pulse.restored(key),
                Err(error) => self.pulse.not_looked(key, error),
            }
        }
        self.put_back(resource, mode, version, Some(own));
    }

    /// Why a lease is lost, in the words of the public errors.
    pub(super) fn reason_of(&self, loss: &Loss) -> LossReason {
        match *loss {
            Loss::Unverified => LossReason::Unverified { cause: None },
            Loss::Taken { owner, version } => LossReason::Fenced(self.taker(owner, version)),
            Loss::Erased => LossReason::BlockErased,
            Loss::Replaced => LossReason::BlockReplaced,
        }
    }

    /// Latches the loss of a lease.
    pub(super) fn lose_hold(&self, resource: &Resource, version: Version, loss: Loss) {
        let reason = self.reason_of(&loss);
        self.pulse.lose_hold((resource.offset, version), loss, reason);
    }
}
