//! Repairs that the engine does in the thread of the caller: a damaged delta record, a leader.

use super::member::Member;
use super::operations::Acquired;
use super::pulse::Until;
use crate::disk::{Fault, Lane};
use crate::error::{AcquireError, DiskCause, DiskError, LossReason};
use crate::format::{DeltaRecord, Leader};
use crate::protocol::mend::Damaged;
use crate::protocol::resource::Operation;
use crate::protocol::{Defect, Seen, Span, reading};
use crate::repair::{RepairError, Repaired};
use crate::types::{HostId, Resource, Time};

impl Member {
    /// Mends the delta record of another host, waiting until `deadline` until it may be. `shown` finds the largest
    /// generation of the host that anything else on the device shows.
    pub(crate) fn repair_host(
        &self,
        host: HostId,
        shown: impl FnOnce() -> Result<u64, DiskError>,
        fenced: bool,
        deadline: Time,
    ) -> Result<Repaired, RepairError> {
        let at = self.terms.geometry.delta_offset(host);
        let io_timeout = self.terms.timeouts.io();
        let fenced_by = fenced.then(|| self.host());
        let (mut search, mut generation) = (Some(shown), 0);
        loop {
            self.pulse.held().map_err(RepairError::Lost)?;
            let started = self.io.now();
            let (seen, rest) = self.read_damaged(at)?;
            let Seen::Bad(defect) = seen else { return Ok(Repaired::Sound) };
            let now = self.io.now();
            let damaged = Damaged::new(host, self.terms.clone(), defect, rest, fenced_by);
            let span = Span { started, ended: now };
            let ready_at = match self.hosts.with_observer(|observer| damaged.may_mend(span, observer)) {
                Ok(()) => {
                    // Reading every area takes its time: the record is read once more after it.
                    if let Some(shown) = search.take() {
                        generation = shown()?;
                        continue;
                    }
                    let record = damaged.mended(generation);
                    self.pulse.held().map_err(RepairError::Lost)?;
                    self.io.write(Lane::General, at, record.encode(at), io_timeout)?;
                    return Ok(Repaired::Host { generation: record.generation, free: record.is_free() });
                }
                Err(ready_at) => ready_at,
            };
            if now >= deadline {
                return Err(RepairError::MayLive { host, gone_in: ready_at.map(|at| at.since(now)) });
            }
            let next = now + self.terms.timeouts.renewal() / 2;
            if !self.pulse.sleep(next.min(deadline), Until::Closing) {
                return Err(RepairError::Lost(self.pulse.held().err().unwrap_or(LossReason::Left)));
            }
        }
    }

    /// What a host's sector shows, and what sanlock would read of it.
    fn read_damaged(&self, at: u64) -> Result<(Seen<DeltaRecord>, Option<DeltaRecord>), DiskError> {
        match self.io.read(Lane::General, at, self.terms.geometry.sector_bytes(), self.terms.timeouts.io()) {
            Ok((_, sector)) => {
                let seen = reading::record(Ok(&sector), at, self.terms.nonce);
                let rest = seen.bad().and_then(|defect| reading::rest(defect, &sector, DeltaRecord::decode_base));
                Ok((seen, rest))
            }
            // Writing it may make it readable.
            Err(DiskError { cause: DiskCause::Fault(Fault::Os { .. }), .. }) => {
                Ok((Seen::Bad(Defect::Unreadable), None))
            }
            Err(error) => Err(error),
        }
    }

    /// Acquires a resource whose leader is damaged, and writes it anew. `rest` is what sanlock would read of it.
    pub(crate) fn rebuild_leader(&self, resource: &Resource, rest: Option<Leader>) -> Result<Acquired, AcquireError> {
        self.acquire_by(resource, None, |subject, own, now| Operation::rebuild(subject, own, rest, now))
    }
}
