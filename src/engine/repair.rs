//! Repairs that the engine does in the thread of the caller: a damaged delta record, a leader.

use super::hosts::decode;
use super::member::Member;
use super::pulse::Until;
use super::resources::{Acquired, Resource};
use crate::disk::{Fault, Lane};
use crate::error::{AcquireError, DiskCause, DiskError, LossReason};
use crate::format::{DeltaRecord, Leader};
use crate::protocol::liveness::Verdict;
use crate::protocol::mend::mended;
use crate::protocol::resource::Operation;
use crate::protocol::{Defect, Seen};
use crate::repair::{RepairError, Repaired};
use crate::timeouts::stretched;
use crate::types::{HostId, Time};

impl Member {
    /// Mends the delta record of another host, waiting until `deadline` until it may be. `shown` is the largest generation
    /// of the host that anything else on the device shows.
    pub(crate) fn repair_host(
        &self,
        host: HostId,
        shown: u64,
        fenced: bool,
        deadline: Time,
    ) -> Result<Repaired, RepairError> {
        let at = self.terms.geometry.delta_offset(host);
        let io_timeout = self.terms.timeouts.io();
        loop {
            self.pulse.held().map_err(RepairError::Lost)?;
            let started = self.io.now();
            let (seen, rest) = self.read_damaged(host, at)?;
            let Seen::Bad(_) = seen else { return Ok(Repaired::Sound) };
            let rest_is_free = rest.as_ref().is_some_and(DeltaRecord::is_free);
            let now = self.io.now();
            let ready_at = self.gone_at(host, &seen, fenced || rest_is_free);
            if ready_at.is_some_and(|at| at <= started) && now.since(started) <= io_timeout {
                let fenced_by = fenced.then(|| self.host());
                let record = mended(host, &self.terms, rest, shown, fenced_by);
                self.pulse.held().map_err(RepairError::Lost)?;
                self.io.write(Lane::General, at, record.encode(at), io_timeout)?;
                return Ok(Repaired::Host { generation: record.generation, free: record.is_free() });
            }
            if now >= deadline {
                return Err(RepairError::MayLive { host, gone_in: ready_at.map(|at| at.since(now)) });
            }
            let next = now + self.terms.timeouts.renewal() / 2;
            if !self.pulse.sleep(next.min(deadline), Until::Closing) {
                return Err(RepairError::Lost(self.pulse.held().err().unwrap_or(LossReason::Left)));
            }
        }
    }

    /// From when on a host whose record is damaged, as `seen`, may be taken for gone: after D, or where its end is known
    /// otherwise when its record has not changed for as long as a host takes to renew. `None`: not known yet.
    fn gone_at(&self, host: HostId, seen: &Seen<DeltaRecord>, end_is_known: bool) -> Option<Time> {
        let timeouts = self.terms.timeouts;
        self.hosts.with_observer(|observer| {
            let since = observer.first_seen(host).filter(|_| observer.record(host) == Some(seen))?;
            match observer.judge_host(host) {
                _ if end_is_known => Some(since + stretched(timeouts.renewal() + timeouts.io())),
                Verdict::Active { dead_at } => Some(dead_at?.max(self.io.now() + timeouts.renewal() / 2)),
                Verdict::Over | Verdict::Dead => Some(since),
            }
        })
    }

    /// What a host's sector shows, and what sanlock would read of it.
    fn read_damaged(&self, host: HostId, at: u64) -> Result<(Seen<DeltaRecord>, Option<DeltaRecord>), DiskError> {
        let geometry = self.terms.geometry;
        match self.io.read(Lane::General, at, geometry.sector_bytes(), self.terms.timeouts.io()) {
            Ok((_, sector)) => Ok((decode(&sector, geometry, host).into(), DeltaRecord::decode_base(&sector).ok())),
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
