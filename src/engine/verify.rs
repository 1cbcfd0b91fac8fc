//! Looks at what is held: a host whose resource was taken by force learns of it here, within R of its taking, or has
//! lost the lease F after the last look.

use super::member::Member;
use super::pulse::Until;
use crate::disk::Lane;
use crate::types::{LeaseMode, Resource, Version};

impl Member {
    /// The verifying thread. Each lease is looked at once in R, apart from the renewal: a slow read of an area must not
    /// cost the host id.
    pub(super) fn verify(&self) {
        let interval = self.terms.timeouts.renewal();
        let mut next = self.io.now();
        while self.pulse.sleep(next, Until::Stopped) {
            let started = self.io.now();
            let leases = self.resources.leases();
            // Who took one may have joined since the last look at all ids. The leader tells, too, unless it is set
            // back.
            let scanned = self.hosts.coverage().since;
            let old = scanned.is_none_or(|since| started.since(since) > self.terms.timeouts.fail());
            if old && leases.iter().any(|(_, mode, _)| *mode == LeaseMode::Exclusive) {
                // Its failure leaves the leader to look at.
                let _ = self.hosts.scan_all(&self.io, Some(&self.pulse));
            }
            for (resource, mode, version) in leases {
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
        let key = (resource.offset, version);
        let Some(begun) = self.resources.at_rest(resource, version) else { return };
        let (span, view) = match self.read_area(resource) {
            Ok(read) => read,
            Err(error) => return self.pulse.not_looked(key, error),
        };
        // A conversion that came in between looks like a taking: by ourselves, or by those who share since.
        if self.resources.at_rest(resource, version) != Some(begun) {
            return;
        }
        if view.block(self.host()).is_none() {
            self.restore(resource, version);
        }
        let me = self.pulse.me();
        let asking = view.destinations(version).map(|(owner, _)| owner).filter(|owner| owner.host != me.host);
        self.resources.set_asking(resource, asking.collect());
        let taken = view.fenced(me, version);
        self.pulse.looked(key, span.started, taken.map(|(owner, version)| self.taker(owner, version)));
    }

    /// Writes the own block anew, which others must take for anything while it is damaged.
    fn restore(&self, resource: &Resource, version: Version) {
        let now = self.io.now();
        // A conversion or a release that is under way does it, too.
        let Some((own, mode)) = self.resources.take_held(resource, version, now, false, || now) else { return };
        if self.pulse.held().is_ok() {
            let at = resource.offset + self.terms.geometry.block_offset(self.host());
            // What fails is tried again with the next look; what hangs keeps other writes from the sector.
            let _ = self.io.write(Lane::General, at, own.encode(self.terms.geometry, at), self.terms.timeouts.io());
        }
        self.put_back(resource, mode, version, Some(own));
    }
}
