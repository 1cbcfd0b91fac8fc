//! Procedures of a member, in the words of the API: declaring a host dead, mending records, making resources.

use super::member::Member;
use super::operations::Acquired;
use crate::control::DeclareError;
use crate::error::{AcquireError, CreateError, Damage, DiskCause, DiskError, FindError, LossReason};
use crate::format::Leader;
use crate::index;
use crate::protocol::catalog::create::Failure;
use crate::protocol::catalog::index::Index;
use crate::protocol::declare::{self, Declared};
use crate::protocol::member::{Answer, Command, Order, Trouble};
use crate::protocol::mend::{self, Mended};
use crate::repair::{RepairError, Repaired};
use crate::types::{HostId, Name, Owner, Resource, Time, Version};

impl Member {
    pub(crate) fn declare_dead(&self, target: Owner) -> Result<Declared, DeclareError> {
        let (declared, trouble) = match self.ask(Command::Declare(target)).map_err(DeclareError::Lost)? {
            Answer::Declared(declared, trouble) => (declared, trouble),
            _ => return Err(DeclareError::Lost(LossReason::Panicked)),
        };
        let refusal = match declared.map_err(|loss| DeclareError::Lost(self.why(loss)))? {
            Ok(declared) => return Ok(declared),
            Err(refusal) => refusal,
        };
        let device = self.io.device();
        Err(match (refusal, self.pulse.error(trouble)) {
            (declare::Refusal::Storage, Some(error)) => error.into(),
            (declare::Refusal::Unknown, source) => DeclareError::Unknown { target, source },
            (declare::Refusal::Generation(record), _) => {
                DeclareError::Generation { device, target, name: record.host_name, found: record.generation }
            }
            (declare::Refusal::Live(record), _) => DeclareError::Live { device, target, name: record.host_name },
            (declare::Refusal::Damaged(reason), _) => {
                let offset = self.terms.geometry.delta_offset(target.host);
                Damage { device, offset, what: "host record", reason }.into()
            }
            (declare::Refusal::Foreign(record), _) => {
                DeclareError::Foreign { device, target, found: record.owner_id, lockspace: record.lockspace }
            }
            (declare::Refusal::Storage, None) => DeclareError::Slow { device, target },
        })
    }

    /// Mends the delta record of another host, waiting until `deadline` until it may be. `shown` is the largest
    /// generation of the host that anything else on the device shows.
    pub(crate) fn repair_host(
        &self,
        host: HostId,
        shown: u64,
        fenced: bool,
        deadline: Time,
    ) -> Result<Repaired, RepairError> {
        let command = Command::Mend { host, shown, fenced, deadline };
        let (mended, trouble) = match self.ask(command).map_err(RepairError::Lost)? {
            Answer::Mended(mended, trouble) => (mended, trouble),
            _ => return Err(RepairError::Lost(LossReason::Panicked)),
        };
        match mended.map_err(|loss| RepairError::Lost(self.why(loss)))? {
            Ok(Mended::Sound) => Ok(Repaired::Sound),
            Ok(Mended::Written(record)) => Ok(Repaired::Host { generation: record.generation, free: record.is_free() }),
            Err(mend::Refusal::MayLive { gone_at }) => {
                let now = self.io.now();
                Err(RepairError::MayLive { host, gone_in: gone_at.map(|at| at.since(now)) })
            }
            Err(mend::Refusal::Storage | mend::Refusal::Unknown) => {
                let at = self.terms.geometry.delta_offset(host);
                Err(self.storage_error(trouble, at, self.terms.geometry.sector_bytes()).into())
            }
        }
    }

    /// Acquires a resource whose leader is damaged, and writes it again. `rest` is what sanlock would read of it.
    pub(crate) fn rebuild_leader(&self, resource: &Resource, rest: Option<Leader>) -> Result<Acquired, AcquireError> {
        self.acquire_by(resource, Order::Rebuild(rest))
    }

    /// Acquires a resource in which the own block is damaged, which is written anew in any case.
    pub(crate) fn repair_block(&self, resource: &Resource) -> Result<Acquired, AcquireError> {
        let deadline = self.io.now() + self.terms.timeouts.io();
        self.acquire_by(resource, Order::Repair(deadline))
    }

    /// Completes the acquire of an earlier process of this generation that had claimed `version`, or takes it back.
    pub(crate) fn complete(&self, resource: &Resource, version: Version) -> Result<Acquired, AcquireError> {
        self.acquire_by(resource, Order::Complete(version))
    }

    /// Makes a resource, under the guard of the index, which was read under it.
    pub(crate) fn create(&self, name: Name, guard: (Resource, Version), index: Index) -> Result<Resource, CreateError> {
        let (device, len) = (self.io.device(), self.io.disk().len());
        let used = u32::try_from(index.resources().count()).unwrap_or(u32::MAX);
        let room = index.room(len);
        let command = Command::Create { name, guard, index: index.clone(), device_bytes: len };
        let (created, trouble) = match self.ask(command).map_err(CreateError::Lost)? {
            Answer::Created(created, trouble) => (created, trouble),
            _ => return Err(CreateError::Lost(LossReason::Panicked)),
        };
        let key = (guard.0.offset, guard.1);
        let failure = match created.map_err(|loss| CreateError::Lost(self.why_of(key, loss)))? {
            Ok(resource) => return Ok(resource),
            Err(failure) => failure,
        };
        Err(match failure {
            Failure::Exists => CreateError::Exists { device, name },
            Failure::Entry(number, reason) => FindError::from(index::damage(&self.io, &index, number, &reason)).into(),
            Failure::Full { passed_over } => {
                if let Some(damage) = index::damages(&self.io, &index).next() {
                    return Err(FindError::from(damage).into());
                }
                let passed_over = u32::try_from(passed_over.len()).unwrap_or(u32::MAX);
                CreateError::Full { device, used, max: room, len, passed_over }
            }
            Failure::Storage => self.storage_error(trouble, guard.0.offset, 0).into(),
        })
    }

    /// What a procedure failed with; one that found a write of its own in flight has no error of its own.
    fn storage_error(&self, trouble: Option<Trouble>, offset: u64, len: usize) -> DiskError {
        let busy = || {
            let cause = DiskCause::TimedOut(self.terms.timeouts.io());
            self.io.error(offset, len, true, cause)
        };
        self.pulse.error(trouble).unwrap_or_else(busy)
    }
}
