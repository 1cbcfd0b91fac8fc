//! The value block: a sector of the caller's own data with each resource.

use crate::disk::Lane;
use crate::engine::io::Io;
use crate::engine::pulse::Status;
use crate::engine::values::WriteError;
use crate::error::{Damage, ValueError};
use crate::format::{Corrupt, Geometry, Value};
use crate::lease::Lease;
use crate::lockspace::{FIRST_READ, Lockspace};
use crate::protocol::area::AreaView;
use crate::types::{LeaseMode, Resource, Version};

/// A value as somebody sees it who holds nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    /// The value; `None`: none was ever written.
    pub value: Option<Value>,
    /// The version of the resource's last ownership, which may last still: for [`Value::is_latest`].
    pub version: Version,
}

impl Lockspace {
    /// The value of a resource, which an owner may be about to change. Needs no host id. Takes two reads.
    ///
    /// # Errors
    /// See [`ValueError`].
    pub fn value(&self, resource: &Resource) -> Result<StoredValue, ValueError> {
        let geometry = self.geometry();
        let at = place(geometry, resource)?;
        let sector = geometry.sector_bytes();
        let (_, leader) = self.io.read_sectors(resource.offset, 0..1, sector, FIRST_READ)?;
        let view = AreaView::of(&leader, &self.terms, resource.offset);
        let version = self.leader(&view, resource)?.version;
        let (_, sector) = self.io.read(Lane::General, at, sector, FIRST_READ)?;
        Ok(StoredValue { value: decode(&self.io, &sector, at)?, version })
    }
}

impl Lease {
    /// The value of the resource; `None`: none was ever written. Takes one read.
    ///
    /// Another owner may have written it, and its last write may still have been in flight when it died: that one lands
    /// late, perhaps over a newer value. [`Value::is_latest`] with the version before this lease's says whether the
    /// value is surely the newest. Who has to know writes the value in each ownership.
    ///
    /// # Errors
    /// See [`ValueError`].
    pub fn value(&self) -> Result<Option<Value>, ValueError> {
        let (member, resource) = (self.member(), self.resource());
        let at = place(member.terms.geometry, resource)?;
        let timeout = member.terms.timeouts.io();
        let (_, sector) = member.io.read(Lane::General, at, member.terms.geometry.sector_bytes(), timeout)?;
        let value = decode(&member.io, &sector, at)?;
        if let Status::Lost { reason } = self.status() {
            return Err(ValueError::Lost(reason));
        }
        if member.is_overwritten(resource, self.version(), value.as_ref()) {
            return Err(ValueError::Overwritten { resource: resource.name, found: value });
        }
        Ok(value)
    }

    /// Replaces the value of the resource: at most [`Value::capacity`] bytes. Takes one write. `Ok`: it is durable, and
    /// was written under this lease.
    ///
    /// # Errors
    /// See [`ValueError`]. After `Disk` either value may stand there, and after a timeout the write may land at any
    /// later time; until it ends, another one is refused, and a release waits for it.
    pub fn set_value(&self, data: &[u8]) -> Result<(), ValueError> {
        let (member, resource) = (self.member(), self.resource());
        let geometry = member.terms.geometry;
        let at = place(geometry, resource)?;
        member.pulse.held_here(self.key()).map_err(ValueError::Lost)?;
        // Who shares must not see a write land.
        let _held = self.unchanging();
        let sector = Value::encode(data, self.version(), self.owner(), geometry, at)
            .ok_or(ValueError::TooLong { bytes: data.len(), max: Value::capacity(geometry) })?;
        if self.mode() == LeaseMode::Shared {
            return Err(ValueError::Shared { resource: resource.name });
        }
        member.write_value(resource, self.version(), sector).map_err(|error| match error {
            WriteError::Lost(reason) => ValueError::Lost(reason),
            WriteError::Disk(error) => error.into(),
        })
    }
}

/// Where on the device the value block stands.
fn place(geometry: Geometry, resource: &Resource) -> Result<u64, ValueError> {
    let within = geometry.value_offset().ok_or(ValueError::NoRoom { geometry })?;
    Ok(resource.offset + within)
}

fn decode(io: &Io, sector: &[u8], at: u64) -> Result<Option<Value>, Damage> {
    let damage =
        |reason: Corrupt| Damage { device: io.device(), offset: at, what: "value block", reason: reason.into() };
    Value::decode(sector, at).map_err(damage)
}
