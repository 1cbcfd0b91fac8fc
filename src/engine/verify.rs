//! Looks at what is held: a host whose resource was taken by force learns of it here, within R of its taking, or has lost
//! the lease F after the last look.

use super::member::Member;
use super::pulse::Until;
use super::resources::Resource;
use crate::error::LossReason;
use crate::types::{LeaseMode, Version};

impl Member {
    /// The verifying thread. Each lease is looked at once in R, apart from the renewal: a slow read of an area must not
    /// cost the host id.
    pub(super) fn verify(&self) {
        let interval = self.terms.timeouts.renewal();
        let mut next = self.io.now();
        while self.pulse.sleep(next, Until::Stopped) {
            let started = self.io.now();
            // Who took it may have joined since the last look at all ids. The leader tells, too, unless it is set back.
            if self.hosts.coverage().since.is_none_or(|since| started.since(since) > self.terms.timeouts.fail()) {
                // Its failure leaves the leader to look at.
                let _ = self.hosts.scan_all(&self.io, Some(&self.pulse));
            }
            for (resource, mode, version) in self.resources.leases() {
                if self.pulse.lost_for((resource.offset, version), self.terms.timeouts.fence()) {
                    // What it protected is gone by now. Whoever comes after the taker waits for its claim to be.
                    self.release_later(&resource, version);
                } else if mode == LeaseMode::Exclusive {
                    self.verify_one(&resource, version);
                }
            }
            next = started + interval;
        }
    }

    fn verify_one(&self, resource: &Resource, version: Version) {
        let Ok((span, view)) = self.read_area(resource) else { return };
        let key = (resource.offset, version);
        match view.fenced(self.pulse.me(), version) {
            None => self.pulse.verified(key, span.started),
            Some((owner, taken)) => {
                let reason = LossReason::Fenced(self.taker(owner, taken));
                self.pulse.lose_hold(key, reason);
            }
        }
    }
}
