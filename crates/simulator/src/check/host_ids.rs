//! Host ids: who holds one (S3), and which writes are made by the right of it (W).

use std::collections::BTreeSet;

use leasehold::protocol::delta::JUMP;
use leasehold::{Generation, HostId, Owner, Time};

use super::resource::Resource;
use super::{Checker, Right, Tenure};
use crate::host::Tag;
use crate::storage::{Area, delta_at, is_of};

impl Checker {
    /// A machine holds a host id, for now until `until`.
    pub(crate) fn joined(&mut self, host: usize, (me, nonce): (Owner, u32), now: Time, until: Time) {
        self.counters.joins += 1;
        // What a late write has put back nobody can tell from what it was, who reads nothing else.
        let strays = (nonce != self.nonce && self.revived.contains(&me.host)).then(|| until + until.since(now));
        if nonce != self.nonce && strays.is_none() && until > now {
            self.fail(format!("S3: machine {host} holds {me} of a former lockspace"));
        }
        let holds = |tenure: &Option<Right<Tenure>>| tenure.is_some_and(|it| it.what.id == me.host && it.until > now);
        if let Some(other) = self.tenures.iter().position(holds).filter(|_| !self.misnamed.contains(&me.host)) {
            self.fail(format!("S3: machine {host} holds {me} while machine {other} does"));
        }
        let (newest, all) = self.generations.entry(me.host).or_default();
        let beyond = |by: u64| self.put_back.get(&me.host).is_some_and(|to| *to + by < me.generation.get());
        let put_back = beyond(0);
        // Of two that jumped from one record nobody can know which is the larger.
        let twice = put_back && self.jumped.contains(&me.host);
        if beyond(JUMP) || *newest + JUMP < me.generation.get() {
            self.jumped.insert(me.host);
        }
        let grew = *newest < me.generation.get() || twice || put_back && self.raced.contains(&me.host);
        let is_new = all.insert(me.generation.get()) || put_back && self.raced.contains(&me.host);
        *newest = me.generation.get();
        if !grew || !is_new {
            self.fail(format!("S3: {me} is not a new generation"));
        }
        self.tenures[host] = Some(Right { what: Tenure { id: me.host, nonce, strays }, until });
    }

    /// There is another lockspace: nobody holds an id of the former one. `all`: all records are of this one.
    pub(crate) fn replaced(&mut self, nonce: u32, all: bool, now: Time) {
        self.nonce = nonce;
        self.complete = Some(now).filter(|_| all);
        // Generations go on beyond all of these.
        self.put_back.clear();
        self.raced.clear();
        self.revived.clear();
        let former = |tenure: &Option<Right<Tenure>>| tenure.is_some_and(|it| it.what.nonce != nonce && it.until > now);
        if let Some(other) = self.tenures.iter().position(former) {
            self.fail(format!("S3: machine {other} holds an id of the lockspace that was formatted over"));
        }
    }

    /// A late write has put a record of a former lockspace on this id.
    pub(crate) fn revives(&mut self, id: HostId) {
        self.revived.insert(id);
    }

    /// Whether the lockspace that there is was complete after `started`, and all records were of it.
    pub(crate) fn is_complete_since(&self, started: Time) -> bool {
        self.complete.is_some_and(|complete| started < complete)
    }

    /// The latest generation that held a host id.
    pub(crate) fn latest(&self, id: HostId) -> Option<Owner> {
        let (newest, _) = self.generations.get(&id)?;
        Some(Owner { host: id, generation: Generation::new(*newest)? })
    }

    /// Whether the machine has held this host id since it held no other.
    pub(crate) fn held(&self, host: usize, id: HostId) -> bool {
        self.host_id(host) == Some(id)
    }

    /// The host id that a machine holds or held last.
    pub(crate) fn host_id(&self, host: usize) -> Option<HostId> {
        self.tenures[host].map(|tenure| tenure.what.id)
    }

    /// A renewal moved the deadline of the host id.
    pub(crate) fn renewed(&mut self, host: usize, until: Time) {
        let Some(tenure) = &mut self.tenures[host] else { return };
        tenure.until = until;
        if tenure.what.strays.is_some_and(|bound| until > bound) {
            self.fail(format!("S3: machine {host} goes on with an id of a former lockspace"));
        }
    }

    /// A machine holds a resource.
    pub(crate) fn acts(&mut self, host: usize) {
        if self.tenures[host].is_some_and(|tenure| tenure.what.strays.is_some()) {
            self.fail(format!("S3: machine {host} holds a resource in a former lockspace"));
        }
    }

    /// A process goes on with the generation of the one before it. Whom others take for gone must not come back.
    pub(crate) fn resumed(&mut self, me: Owner, gone_to: Option<usize>) {
        self.counters.resumes += 1;
        if let Some(other) = gone_to {
            self.fail(format!("S3: a process goes on with {me}, which machine {other} takes for gone"));
        }
    }

    /// The machine knows that it no longer holds the host id.
    pub(crate) fn left(&mut self, host: usize) {
        self.tenures[host] = None;
    }

    /// A machine is about to submit a write by the right of the host id that it holds.
    pub(crate) fn writes(&mut self, host: usize, now: Time) {
        if self.tenures[host].is_some_and(|tenure| tenure.until <= now) {
            self.fail(format!("W: machine {host} writes after the deadline of its host id"));
        }
    }

    /// A write of a join or a declaration, or by the right of a host id, reaches the disk. It says that nonce: what is
    /// of another formatting says nothing in this one. Answers which id was hit, where it is of a join and another
    /// machine holds that.
    pub(crate) fn landed(
        &mut self,
        host: usize,
        tag: Tag,
        offset: u64,
        nonce: Option<u32>,
        now: Time,
    ) -> Option<HostId> {
        let (other, tenure) = self.hit(host, offset, now)?;
        if nonce.is_some_and(|nonce| nonce != tenure.nonce) {
            self.counters.strangers += 1;
        } else if tag.races() {
            self.raced(tenure.id);
            return Some(tenure.id);
        } else if !tag.strays() && !self.raced.contains(&tenure.id) {
            self.fail(format!("W: a write of machine {host} lands in a sector of machine {other}"));
        } else if !tag.strays() {
            match Area::at(offset) {
                Some(area) => self.of(area).meets(),
                None => {
                    self.misnamed.insert(tenure.id);
                    self.resources.values_mut().for_each(Resource::meets);
                }
            }
        }
        None
    }

    /// A write of a format reaches the disk. Whether it has hit a host.
    pub(crate) fn overwritten(&mut self, host: usize, offset: u64, in_time: bool, now: Time) -> bool {
        let Some((other, tenure)) = self.hit(host, offset, now) else { return false };
        self.counters.strangers += 1;
        // What takes longer is late for a host that joins meanwhile.
        if in_time {
            self.fail(format!("W: machine {host} formats a sector of id {}, which machine {other} holds", tenure.id));
        }
        true
    }

    /// A late write of a format has put that generation over the record of a later one, which nobody sees any more. Its
    /// claims are of another formatting than those of whoever has the same number again.
    pub(crate) fn forgotten(&mut self, id: HostId, generation: u64) {
        self.generations.insert(id, (generation, BTreeSet::new()));
    }

    /// Another machine that holds the id to which the sector at `offset` belongs.
    fn hit(&self, host: usize, offset: u64, now: Time) -> Option<(usize, Tenure)> {
        let held = self.tenures.iter().enumerate().filter_map(|(other, tenure)| Some((other, (*tenure)?)));
        let mut others = held.filter(|(other, tenure)| *other != host && tenure.until > now);
        others.find(|(_, tenure)| is_of(tenure.what.id, offset)).map(|(other, tenure)| (other, tenure.what))
    }

    /// The write of a join has landed on an id while another machine has a write in flight to the id's sectors.
    pub(crate) fn raced(&mut self, id: HostId) {
        self.raced.insert(id);
    }

    /// Whether another machine holds that id, which `host` had, because a join has raced for it.
    pub(crate) fn is_outrun(&self, host: usize, id: HostId, now: Time) -> bool {
        self.raced.contains(&id) && self.hit(host, delta_at(id), now).is_some()
    }

    /// The write of a join has landed in time on an id that was free by somebody's word: what was there before is over.
    pub(crate) fn vouched(&mut self, id: HostId) {
        self.raced.remove(&id);
    }

    /// A record of an earlier generation was written over that of a later one, or over a damaged one that may have been
    /// later, which nobody sees any more: by one who raced for the id, or late.
    pub(crate) fn set_back(&mut self, to: Option<Owner>) {
        if let Some(owner) = to {
            self.put_back.insert(owner.host, owner.generation.get() - 1);
        }
    }
}
