//! Single writes for a caller: a value block, a sector of the index, a request record.

use super::account::{Purpose, Trouble};
use super::command::{Answer, CommandId, Unwritten};
use super::effect::Effect;
use super::leases::Key;
use super::{Happened, JobId, Loss, Member, Submitted};
use crate::format::{Request, Value};
use crate::protocol::Written;
use crate::protocol::procedure::Extent;
use crate::types::{Resource, Version};

/// A write for a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Writing {
    id: JobId,
    command: CommandId,
    /// The lease that it is written under, and has to be held to the end.
    under: Option<Key>,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    /// Of the resource that is held.
    Value,
    Other,
    /// Reading what stands in the place of the request, at that byte.
    Request(u64, Request),
}

impl Member {
    pub(super) fn write_value(&mut self, command: CommandId, resource: Resource, version: Version, sector: Vec<u8>) {
        let Some(within) = self.terms.geometry.value_offset() else {
            return self.unwritten(command, Unwritten::Failed(None));
        };
        let job = self.writing(command, Some((resource.offset, version)), What::Value);
        job.submit(self, resource.offset + within, sector);
    }

    pub(super) fn write_index(&mut self, command: CommandId, guard: Key, offset: u64, sector: Vec<u8>) {
        let job = self.writing(command, Some(guard), What::Other);
        job.submit(self, offset, sector);
    }

    /// A write that lands late is harmless: whoever has that version by then is not asked for anything.
    pub(super) fn write_request(&mut self, command: CommandId, resource: Resource, request: Request) {
        let offset = resource.offset + self.terms.geometry.request_offset();
        let job = self.writing(command, None, What::Request(offset, request));
        if self.right(None).is_none() {
            return job.ends_with_loss(self);
        }
        let expires = self.now + self.terms.timeouts.io();
        self.read(Purpose::Job(job.id), 0, false, vec![Extent { offset, sectors: 1 }], expires, false);
        self.keep_write(job);
    }

    fn writing(&mut self, command: CommandId, under: Option<Key>, what: What) -> Writing {
        Writing { id: self.next_job(), command, under, what }
    }

    fn unwritten(&mut self, command: CommandId, why: Unwritten) {
        self.effects.push(Effect::Answer(command, Answer::Wrote(Err(why))));
    }

    /// Whether what the holder of that version has written is not what it has read now: a late write of an earlier
    /// owner has landed over it.
    pub fn is_overwritten(&self, resource: &Resource, version: Version, read: Option<&Value>) -> bool {
        let has_written = self.values.get(&resource.offset) == Some(&version);
        has_written && !read.is_some_and(|value| value.is_latest(version))
    }
}

impl Writing {
    pub(super) const fn id(&self) -> JobId {
        self.id
    }

    fn submit(self, member: &mut Member, offset: u64, bytes: Vec<u8>) {
        let Some(until) = member.right(self.under) else { return self.ends_with_loss(member) };
        let window = (until, member.now + member.terms.timeouts.io());
        match member.write(Purpose::Job(self.id), 0, false, offset, bytes, window) {
            Submitted::Yes(_) => member.keep_write(self),
            Submitted::Busy | Submitted::Over => member.unwritten(self.command, Unwritten::Failed(None)),
        }
    }

    pub(super) fn ends_with_loss(self, member: &mut Member) {
        let loss = self.loss(member).unwrap_or_else(|| member.why());
        member.unwritten(self.command, Unwritten::Lost(loss));
    }

    fn loss(&self, member: &mut Member) -> Option<Loss> {
        self.under.and_then(|key| member.lease_loss(key))
    }

    pub(super) fn happened(self, member: &mut Member, what: Happened) {
        match (what, &self.what) {
            (Happened::Read(_, _, sectors), What::Request(offset, request)) => {
                let (offset, request) = (*offset, *request);
                if sectors.first().is_ok_and(|sector| Request::decode(sector) == Ok(request)) {
                    return member.effects.push(Effect::Answer(self.command, Answer::Wrote(Ok(()))));
                }
                let bytes = request.encode(member.terms.geometry);
                Writing { what: What::Other, ..self }.submit(member, offset, bytes);
            }
            (Happened::Wrote(_, _, Written::Done, _), what) => {
                if let (What::Value, Some((offset, version))) = (what, self.under) {
                    member.values.insert(offset, version);
                }
                // What was confirmed too late may already have been over one of the next owner.
                match self.right_is_lost(member) {
                    true => self.ends_with_loss(member),
                    false => member.effects.push(Effect::Answer(self.command, Answer::Wrote(Ok(())))),
                }
            }
            (Happened::Failed(_, trouble), _) => self.failed(member, Some(trouble)),
            (Happened::Wrote(_, _, Written::Failed | Written::InFlight, trouble), _) => self.failed(member, trouble),
            (Happened::TooLate, _) => self.ends_with_loss(member),
            _ => member.keep_write(self),
        }
    }

    fn right_is_lost(&self, member: &mut Member) -> bool {
        member.right(self.under).is_none()
    }

    fn failed(self, member: &mut Member, trouble: Option<Trouble>) {
        member.unwritten(self.command, Unwritten::Failed(trouble));
    }
}
