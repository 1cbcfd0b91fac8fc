//! Writes the value blocks of resources that are held.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::member::Member;
use crate::disk::Lane;
use crate::error::ValueError;
use crate::protocol::procedure::Window;
use crate::types::{Resource, Version};

/// Under which version this membership has written the value of the resource at each place.
#[derive(Debug, Default)]
pub(crate) struct Values(Mutex<BTreeMap<u64, Version>>);

impl Values {
    /// Whether the holder of that version has written a value.
    pub(crate) fn written(&self, resource: &Resource, version: Version) -> bool {
        self.0.lock().get(&resource.offset) == Some(&version)
    }
}

impl Member {
    /// Writes the sector at `at` of the device, the value block of a resource that is held at `version`.
    pub(crate) fn write_value(
        &self,
        resource: &Resource,
        version: Version,
        at: u64,
        sector: Vec<u8>,
    ) -> Result<(), ValueError> {
        let held = || self.pulse.held_here((resource.offset, version)).map_err(ValueError::Lost);
        let window = Window { before: held()?, timeout: self.terms.timeouts.io() };
        self.io.write(Lane::General, at, sector, window)?;
        self.values.0.lock().insert(resource.offset, version);
        // What was confirmed too late may already have been over a value of the next owner.
        held().map(|_| ())
    }

    /// Waits until no write to the value block is in flight: once the lease is released it could land over a value of
    /// the next owner.
    pub(crate) fn settle_value(&self, resource: &Resource, timeout: Duration) -> bool {
        let Some(at) = self.terms.geometry.value_offset().map(|within| resource.offset + within) else { return true };
        self.io.settle(at..at + self.terms.geometry.sector_bytes() as u64, timeout)
    }
}
