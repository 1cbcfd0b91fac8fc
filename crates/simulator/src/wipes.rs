//! Whoever wipes the area of a resource, makes it again or sets it back, as if nobody had it: with one write of many
//! sectors, which tears, and lands late or in part.

use std::time::Duration;

use leasehold::format::Geometry;
use leasehold::{Time, Version};
use leasehold::{Timeouts, stretched};

use super::env::{Env, Event};
use super::storage::{Area, Sector};

impl Env {
    /// Whether somebody wipes the area while a write to it is on its way.
    pub(super) fn is_wiped_meanwhile(&mut self) -> bool {
        let rate = self.options.faults.wipes_written;
        // Where nobody does nothing is drawn for it.
        rate > 0 && self.random.chance(rate)
    }

    /// Looks at the area now, and writes it at two later moments.
    pub(super) fn wipe(&mut self, area: Area) {
        let geometry = Geometry::default();
        let found = self.storage.leader(0, area).good().map_or(Version::default(), |leader| leader.version);
        // Of those who come since some have a version that is held.
        let versions = [found, Version::new(found.get().saturating_sub(1)), Version::default()];
        let version = versions[self.random.below(3) as usize];
        let made = self.made_leader(area.name(), version);
        let empty: Sector = vec![0; geometry.sector_bytes()].into();
        let sets_back = self.random.chance(200);
        let leader = match self.random.chance(200) {
            true => empty.clone(),
            false => made.encode(area.offset()).into(),
        };
        let most = if self.random.chance(300) { self.options.timeouts.dead() * 2 } else { self.options.timeouts.io() };
        let last = self.random.span(Duration::ZERO, most);
        let moments = [self.random.span(Duration::ZERO, last), last];
        let picks = [970, 970, 400, 0][self.random.below(4) as usize];
        let spares_leader = picks > 0 && self.random.chance(150);
        self.trace(|| format!("the area of {} is to be wiped", area.name()));
        for offset in area.offsets(self.known_ids()) {
            let leads = offset == area.offset();
            // The rest never lands.
            if leads && spares_leader || !leads && !self.random.chance(picks) {
                continue;
            }
            let moment = moments[usize::from(self.random.chance(if leads { 800 } else { 500 }))];
            let at = (self.now + moment).min(Time::ZERO + self.options.duration);
            let bytes = match sets_back {
                true => self.storage.sector(0, offset),
                false if leads => leader.clone(),
                false => empty.clone(),
            };
            self.at(at, Event::Wiped { offset, bytes });
        }
    }

    /// A part of that lands.
    pub(super) fn wiped(&mut self, offset: u64, bytes: Sector) {
        let Some(area) = Area::at(offset) else { return };
        self.trace(|| format!("sector {offset} is wiped"));
        self.storage.put(0, offset, bytes);
        self.check.of(area).wiped(offset);
        self.is_in_doubt(area, true);
        self.changed(offset);
    }

    /// Whoever holds a resource may not know yet that its area was wiped, or that was just hidden. `anew`: what
    /// everybody has begun is of before.
    pub(super) fn is_in_doubt(&mut self, area: Area, anew: bool) {
        let span = |timeouts: Timeouts| timeouts.fail() + timeouts.fence();
        let span = stretched(span(self.options.timeouts).max(span(self.options.slower)));
        // Their clocks are not as fine as the world's.
        let until = self.now + span + Duration::from_micros(10);
        self.check.of(area).is_in_doubt(anew, self.now, until);
        self.at(until, Event::IsKnown { area });
    }
}
