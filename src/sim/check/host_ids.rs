//! Host ids: who holds one (S3), and which writes are made by the right of it (W).

use super::{Checker, Right};
use crate::sim::storage::is_of;
use crate::types::{HostId, Owner, Time};

impl Checker {
    /// A machine holds a host id, for now until `until`.
    pub(in crate::sim) fn joined(&mut self, host: usize, me: Owner, now: Time, until: Time) {
        self.counters.joins += 1;
        let holds = |tenure: &Option<Right<HostId>>| tenure.is_some_and(|it| it.what == me.host && it.until > now);
        // A known limit: see "Host ids" in docs/design/limits.md.
        let declared_late = self.declared_late.get(&me.host).is_some_and(|until| now < *until);
        if let Some(other) = self.tenures.iter().position(holds).filter(|_| !declared_late) {
            self.fail(format!("S3: machine {host} holds {me} while machine {other} does"));
        }
        let newest = self.generations.entry(me.host).or_default();
        let put_back = self.put_back.get(&me.host).is_some_and(|to| *to < me.generation.get());
        let grew = *newest < me.generation.get() || put_back;
        *newest = me.generation.get();
        if !grew {
            self.fail(format!("S3: {me} is not a new generation"));
        }
        self.tenures[host] = Some(Right { what: me.host, until });
    }

    /// The host id that a machine holds or held last.
    pub(in crate::sim) fn host_id(&self, host: usize) -> Option<HostId> {
        self.tenures[host].map(|tenure| tenure.what)
    }

    /// A renewal moved the deadline of the host id.
    pub(in crate::sim) fn renewed(&mut self, host: usize, until: Time) {
        if let Some(tenure) = &mut self.tenures[host] {
            tenure.until = until;
        }
    }

    /// A process goes on with the generation of the one before it. Whom others take for gone must not come back.
    pub(in crate::sim) fn resumed(&mut self, me: Owner, gone_to: Option<usize>) {
        self.counters.resumes += 1;
        if let Some(other) = gone_to {
            self.fail(format!("S3: a process goes on with {me}, which machine {other} takes for gone"));
        }
    }

    /// The machine knows that it no longer holds the host id.
    pub(in crate::sim) fn left(&mut self, host: usize) {
        self.tenures[host] = None;
    }

    /// A machine is about to submit a write by the right of the host id that it holds.
    pub(in crate::sim) fn writes(&mut self, host: usize, now: Time) {
        if self.tenures[host].is_some_and(|tenure| tenure.until <= now) {
            self.fail(format!("W: machine {host} writes after the deadline of its host id"));
        }
    }

    /// A write of a join or a declaration, or by the right of a host id, reaches the disk.
    pub(in crate::sim) fn landed(&mut self, host: usize, races: bool, offset: u64, now: Time) {
        let belongs = |tenure: &Right<HostId>| is_of(tenure.what, offset);
        let hit = |(other, tenure): (usize, &Option<Right<HostId>>)| {
            other != host && tenure.as_ref().is_some_and(|tenure| tenure.until > now && belongs(tenure))
        };
        let Some(other) = self.tenures.iter().enumerate().position(hit) else { return };
        let Some(id) = self.tenures[other].map(|tenure| tenure.what) else { return };
        if races {
            self.raced(id);
        } else if !self.raced.contains(&id) {
            self.fail(format!("W: a write of machine {host} lands in a sector of machine {other}"));
        }
    }

    /// The write of a join or a declaration has landed on an id while another machine has a write in flight to the id's
    /// sectors.
    pub(in crate::sim) fn raced(&mut self, id: HostId) {
        self.raced.insert(id);
    }

    /// The declaration of an earlier generation was written over the record of a later one, whose holder is lost by
    /// then.
    pub(in crate::sim) fn declared_late(&mut self, id: HostId, until: Time) {
        self.declared_late.insert(id, until);
    }

    /// A record of an earlier generation was written over that of a later one, or over a damaged one that may have been
    /// later, which nobody sees any more: by one who raced for the id, or late.
    pub(in crate::sim) fn set_back(&mut self, to: Option<Owner>) {
        if let Some(owner) = to {
            self.put_back.insert(owner.host, owner.generation.get() - 1);
        }
    }
}
