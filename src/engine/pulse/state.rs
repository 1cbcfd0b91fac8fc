//! What the pulse guards: the tenure of the host id, and each lease, with what became of them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::status::{LeaseLoss, Status};
use super::waiting::Until;
use crate::error::{DiskError, LossReason};
use crate::protocol::delta::Tenure;
use crate::protocol::holding::{Holding, Task};
use crate::types::{Name, Resource, Time, Version};

#[derive(Debug)]
pub(super) struct State {
    pub(super) tenure: Tenure,
    pub(super) loss: Option<LossReason>,
    /// What the last renewal failed with.
    pub(super) trouble: Option<Arc<DiskError>>,
    pub(super) ended: Option<Until>,
    /// The next renewal is to be made at once.
    pub(super) hurried: bool,
    /// What is held, by the place of the resource and the version.
    pub(super) holds: BTreeMap<(u64, Version), Hold>,
}

/// A lease that is held, or that was lost and not given back yet.
#[derive(Debug)]
pub(super) struct Hold {
    name: Name,
    /// The version that it had before it was converted for the first time.
    pub(super) began: Version,
    pub(super) holding: Holding,
    /// What failed last since a look showed it as it is to be.
    pub(super) trouble: Option<Arc<DiskError>>,
    /// Why it is lost alone, in the words of the public errors.
    pub(super) reason: Option<LossReason>,
    /// Whether the loss was told.
    told: bool,
}

impl State {
    pub(super) fn status(&mut self, now: Time, late_after: Duration) -> Status {
        self.tenure.tick(now);
        if self.loss.is_none()
            && let Some(loss) = self.tenure.lost()
        {
            self.loss = Some(match loss.clone().into() {
                LossReason::Expired { .. } => LossReason::Expired { cause: self.trouble.take() },
                reason => reason,
            });
        }
        let until = self.tenure.deadline();
        match &self.loss {
            Some(reason) => Status::Lost { reason: reason.clone() },
            None if now + late_after >= until => Status::Late { until },
            None => Status::Held { until },
        }
    }

    pub(super) fn hold(&mut self, resource: &Resource, began: Version, version: Version, holding: Holding) {
        let hold = Hold { name: resource.name, began, holding, trouble: None, reason: None, told: false };
        self.holds.insert((resource.offset, version), hold);
    }

    /// The status of a lease: it ends with the membership, or by its own deadline.
    pub(super) fn hold_status(&mut self, key: (u64, Version), now: Time, late_after: Duration) -> Status {
        let whole = self.status(now, late_after);
        let Some((_, hold)) = self.holds.range_mut(from(key)).next() else {
            return Status::Lost { reason: LossReason::Left };
        };
        if let Some(reason) = &hold.reason {
            return Status::Lost { reason: reason.clone() };
        }
        if let Status::Lost { .. } = whole {
            return whole;
        }
        let until = hold.deadline(&self.tenure);
        hold.holding.tick(now);
        if hold.holding.is_lost() {
            let reason = LossReason::Unverified { cause: hold.trouble.take() };
            hold.reason = Some(reason.clone());
            return Status::Lost { reason };
        }
        match now + late_after >= until {
            true => Status::Late { until },
            false => Status::Held { until },
        }
    }

    /// The lease that began like this, as it is called now, if it is answered for.
    pub(super) fn key(&self, offset: u64, began: Version) -> Option<(u64, Version)> {
        let mut later = self.holds.range(from((offset, began)));
        later.find(|(_, hold)| hold.began == began).map(|(key, _)| *key)
    }

    /// When something changes that nobody does: a lease becomes late, or is lost.
    pub(super) fn next_due(&self, now: Time, late_after: Duration) -> Time {
        let held = self.holds.values().filter(|hold| hold.reason.is_none());
        let ends = held.filter_map(|hold| hold.holding.deadline()).chain([self.tenure.deadline()]);
        ends.flat_map(|end| [end - late_after, end]).filter(|due| *due > now).min().unwrap_or(Time::MAX)
    }

    /// What is to be looked at or given back now.
    pub(super) fn tasks(&mut self, now: Time) -> Vec<(Resource, Version, Task)> {
        let task = |(&(offset, version), hold): (&(u64, Version), &mut Hold)| {
            let resource = Resource { name: hold.name, offset };
            hold.holding.task(now).map(|task| (resource, version, task))
        };
        self.holds.iter_mut().filter_map(task).collect()
    }

    /// The losses of single leases that were not told yet.
    pub(super) fn untold(&mut self, now: Time) -> Vec<LeaseLoss> {
        let keys: Vec<(u64, Version)> = self.holds.keys().copied().collect();
        for key in keys {
            self.hold_status(key, now, Duration::ZERO);
        }
        let untold = self.holds.iter_mut().filter(|(_, hold)| hold.reason.is_some() && !hold.told);
        let tell = |(&(_, version), hold): (&(u64, Version), &mut Hold)| {
            hold.told = true;
            let reason = hold.reason.clone()?;
            Some(LeaseLoss { resource: hold.name, version, reason })
        };
        untold.filter_map(tell).collect()
    }
}

impl Hold {
    /// Since when it is lost alone, if it is.
    pub(super) fn lost_since(&self) -> Option<Time> {
        self.holding.loss().map(|(since, _)| *since)
    }

    /// The last deadline: its own, or that of the host id.
    pub(super) fn deadline(&self, tenure: &Tenure) -> Time {
        let host = tenure.deadline();
        self.holding.deadline().map_or(host, |own| own.min(host))
    }
}

/// Where a lease stands among what is held: a conversion moves it to a later version before its holder knows of that.
pub(super) fn from((offset, version): (u64, Version)) -> RangeInclusive<(u64, Version)> {
    (offset, version)..=(offset, Version::new(u64::MAX))
}
