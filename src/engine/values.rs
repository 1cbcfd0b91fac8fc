//! Single writes for a caller: value blocks, requests, sectors of the index.

use super::member::Member;
use crate::error::{DiskCause, DiskError, LossReason};
use crate::format::{Request, Value};
use crate::protocol::member::{Answer, Command, Key, Loss, Unwritten};
use crate::types::{Resource, Version};

/// Why something was not written, or counts as not written.
pub(crate) enum WriteError {
    /// What it is written under is lost.
    Lost(LossReason),
    Disk(DiskError),
}

impl Member {
    /// Writes the value block of a resource that is held at `version`.
    pub(crate) fn write_value(&self, resource: &Resource, version: Version, sector: Vec<u8>) -> Result<(), WriteError> {
        let at = resource.offset + self.terms.geometry.value_offset().unwrap_or_default();
        let len = sector.len();
        let command = Command::WriteValue { resource: *resource, version, sector };
        self.written(command, Some((resource.offset, version)), (at, len))
    }

    /// Writes a sector of the index, whose guard is held at `version`.
    pub(crate) fn write_index(
        &self,
        guard: (Resource, Version),
        offset: u64,
        sector: Vec<u8>,
    ) -> Result<(), WriteError> {
        let len = sector.len();
        let key = (guard.0.offset, guard.1);
        self.written(Command::WriteIndex { guard, offset, sector }, Some(key), (offset, len))
    }

    /// Writes the request record of a resource, unless it says so already.
    pub(crate) fn write_request(&self, resource: &Resource, request: Request) -> Result<(), WriteError> {
        let geometry = self.terms.geometry;
        let place = (resource.offset + geometry.request_offset(), geometry.sector_bytes());
        self.written(Command::WriteRequest(*resource, request), None, place)
    }

    fn written(&self, command: Command, under: Option<Key>, (offset, len): (u64, usize)) -> Result<(), WriteError> {
        let lost = |loss: Loss| match under {
            Some(key) => self.why_of(key, loss),
            None => self.why(loss),
        };
        match self.ask(command).map_err(WriteError::Lost)? {
            Answer::Wrote(Err(Unwritten::Lost(loss))) => Err(WriteError::Lost(lost(loss))),
            Answer::Wrote(Err(Unwritten::Failed(trouble))) => {
                let busy = || {
                    let cause = DiskCause::TimedOut(self.terms.timeouts.io());
                    self.io.error(offset, len, true, cause)
                };
                Err(WriteError::Disk(self.pulse.error(trouble).unwrap_or_else(busy)))
            }
            _ => Ok(()),
        }
    }

    /// Whether what the holder of that version has written is not what it has read now.
    pub(crate) fn is_overwritten(&self, resource: &Resource, version: Version, read: Option<&Value>) -> bool {
        self.pulse.with_machine(|machine| machine.is_overwritten(resource, version, read))
    }
}
