//! Repairs that the engine does in the thread of the caller: a damaged delta record, a leader.

use super::member::Member;
use super::operations::Acquired;
use crate::disk::Lane;
use crate::error::AcquireError;
use crate::format::Leader;
use crate::protocol::mend::{Mended, Mending, Refusal};
use crate::protocol::resource::Operation;
use crate::repair::{RepairError, Repaired};
use crate::types::{HostId, Resource, Time};

impl Member {
    /// Mends the delta record of another host, waiting until `deadline` until it may be. `shown` is the largest
    /// generation of the host that anything else on the device shows.
    pub(crate) fn repair_host(
        &self,
        host: HostId,
        shown: u64,
        fenced: bool,
        deadline: Time,
    ) -> Result<Repaired, RepairError> {
        // Scans of the ids in use watch it from then on.
        self.hosts.scan_all(&self.io, Some(&self.pulse))?;
        let mending = Mending::new(self.host(), host, self.terms.clone(), shown, fenced, deadline);
        let driver = self.driver(Lane::General);
        let (mended, failure) = driver.carry_out(mending, &self.pulse).map_err(RepairError::Lost)?;
        match (mended, failure) {
            (Ok(Mended::Sound), _) => Ok(Repaired::Sound),
            (Ok(Mended::Written(record)), _) => {
                Ok(Repaired::Host { generation: record.generation, free: record.is_free() })
            }
            (Err(Refusal::MayLive { gone_at }), _) => {
                let now = self.io.now();
                Err(RepairError::MayLive { host, gone_in: gone_at.map(|at| at.since(now)) })
            }
            (Err(Refusal::Storage | Refusal::Unknown), Some(error)) => Err(error.into()),
            (Err(Refusal::Storage | Refusal::Unknown), None) => unreachable!("an I/O failed, and its error was kept"),
        }
    }

    /// Acquires a resource in which the own block is damaged, which is written anew in any case.
    pub(crate) fn repair_block(&self, resource: &Resource) -> Result<Acquired, AcquireError> {
        let deadline = self.io.now() + self.terms.timeouts.io();
        self.acquire_by(resource, Some(deadline), Operation::repair)
    }

    /// Acquires a resource whose leader is damaged, and writes it anew. `rest` is what sanlock would read of it.
    pub(crate) fn rebuild_leader(&self, resource: &Resource, rest: Option<Leader>) -> Result<Acquired, AcquireError> {
        self.acquire_by(resource, None, |subject, own, now| Operation::rebuild(subject, own, rest, now))
    }
}
