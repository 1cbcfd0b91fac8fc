//! Makes resources and writes the index, under the lease that guards it, in the thread of the caller.

use super::io::Io;
use super::member::Member;
use super::procedure::Warrant;
use super::pulse::Pulse;
use crate::disk::Lane;
use crate::error::{CreateError, DiskCause, DiskError, FindError, LossReason};
use crate::index;
use crate::protocol::catalog::create::{Create, Failure, Order};
use crate::protocol::catalog::index::Index;
use crate::protocol::procedure::Window;
use crate::repair::RepairError;
use crate::types::{Name, Resource, Time, Version};

/// A lease that is held.
struct Guard<'pulse> {
    pulse: &'pulse Pulse,
    key: (u64, Version),
}

impl Warrant for Guard<'_> {
    type End = LossReason;

    fn until(&self) -> Result<Time, LossReason> {
        self.pulse.held_here(self.key)
    }

    fn sleep(&self, io: &Io, time: Time) -> Result<(), LossReason> {
        Warrant::sleep(self.pulse, io, time)
    }
}

impl Member {
    /// Makes a resource, under the guard of the index, which was read under it.
    pub(crate) fn create(
        &self,
        name: Name,
        (guard, version): (Resource, Version),
        index: Index,
    ) -> Result<Resource, CreateError> {
        let (device, len) = (self.io.device(), self.io.disk().len());
        // Whose records have not been watched yet may be live: their areas are passed over.
        self.hosts.scan_all(&self.io, Some(&self.pulse))?;
        let geometry = self.terms.geometry;
        let order = Order {
            me: self.pulse.me(),
            terms: self.terms.clone(),
            name,
            guard: version,
            area_sectors: geometry.sectors_per_area() as u64,
            device_bytes: len,
        };
        let warrant = Guard { pulse: &self.pulse, key: (guard.offset, version) };
        let create = Create::new(order, index.clone());
        let (end, trouble) = self.driver(Lane::General).carry_out(create, &warrant).map_err(CreateError::Lost)?;
        end.map_err(|failure| match failure {
            Failure::Exists => CreateError::Exists { device, name },
            Failure::Entry(number, reason) => FindError::from(index::damage(&self.io, &index, number, &reason)).into(),
            Failure::Full { passed_over } => match index::damages(&self.io, &index).next() {
                Some(damage) => FindError::from(damage).into(),
                None => {
                    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
                    let (used, passed_over) = (count(index.resources().count()), count(passed_over.len()));
                    CreateError::Full { device, used, max: index.room(len), len, passed_over }
                }
            },
            Failure::Storage => trouble.unwrap_or_else(|| self.still_in_flight(guard.offset)).into(),
        })
    }

    /// Writes sectors of the index by the right of its guard.
    pub(crate) fn write_index(
        &self,
        (guard, version): (Resource, Version),
        offset: u64,
        sectors: Vec<u8>,
    ) -> Result<(), RepairError> {
        let before = self.pulse.held_here((guard.offset, version)).map_err(RepairError::Lost)?;
        let window = Window { before, timeout: self.terms.timeouts.io() };
        self.io.write(Lane::General, offset, sectors, window)?;
        Ok(())
    }

    fn still_in_flight(&self, offset: u64) -> DiskError {
        let cause = DiskCause::TimedOut(self.terms.timeouts.io());
        self.io.error(offset, self.terms.geometry.sector_bytes(), true, cause)
    }
}
