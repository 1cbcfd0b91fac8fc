//! Drives the declaration that another host is dead, in the thread of the caller.

use super::hosts::read_record;
use super::io::outcome;
use super::member::Member;
use super::pulse::Until;
use crate::control::DeclareError;
use crate::disk::Lane;
use crate::error::{Damage, LossReason};
use crate::protocol::declare::{Declaration, Declared, Effect, Refusal};
use crate::protocol::delta::Event;
use crate::types::Owner;

impl Member {
    pub(crate) fn declare_dead(&self, target: Owner) -> Result<Declared, DeclareError> {
        let geometry = self.terms.geometry;
        let io_timeout = self.terms.timeouts.io();
        let at = geometry.delta_offset(target.host);
        let known = self.hosts.with_observer(|observer| {
            Some((observer.record(target.host)?.good()?.clone(), observer.first_seen(target.host)?))
        });
        let mut declaration = Declaration::new(self.host(), target, self.terms.clone(), known);
        let mut effect = Effect::Read;
        let mut trouble = None;
        loop {
            if !matches!(effect, Effect::Done(_)) {
                self.pulse.held().map_err(DeclareError::Lost)?;
            }
            let event = match effect {
                Effect::Read => match read_record(&self.io, Lane::General, &self.terms, target.host, io_timeout) {
                    Ok((span, seen)) => Event::Read(span, seen),
                    Err(error) => {
                        trouble = Some(error);
                        Event::ReadFailed
                    }
                },
                Effect::Write(record) => {
                    let writing = match self.io.submit_write(Lane::General, at, record.encode(at), io_timeout) {
                        Ok(writing) => writing,
                        // A write of an earlier declaration is in flight there.
                        Err(error) => return Err(DeclareError::Unknown { target, source: Some(error) }),
                    };
                    let (span, result) = self.io.finish(&writing);
                    let event = Event::Wrote(span, outcome(&result));
                    trouble = result.err();
                    event
                }
                Effect::Wait(until) => match self.pulse.sleep(until, Until::Closing) {
                    true => Event::Woke(self.io.now()),
                    false => return Err(DeclareError::Lost(self.pulse.held().err().unwrap_or(LossReason::Left))),
                },
                Effect::Done(result) => {
                    return result.map_err(|refusal| match (refusal, trouble) {
                        (Refusal::Storage, Some(error)) => error.into(),
                        (Refusal::Unknown, source) => DeclareError::Unknown { target, source },
                        (refusal, _) => self.explain_declaration(target, at, refusal),
                    });
                }
            };
            effect = declaration.step(event);
        }
    }

    fn explain_declaration(&self, target: Owner, offset: u64, refusal: Refusal) -> DeclareError {
        let device = self.io.device();
        match refusal {
            Refusal::Generation(record) => {
                DeclareError::Generation { device, target, name: record.host_name, found: record.generation }
            }
            Refusal::Live(record) => DeclareError::Live { device, target, name: record.host_name },
            Refusal::Damaged(reason) => Damage { device, offset, what: "host record", reason }.into(),
            Refusal::Foreign(record) => {
                DeclareError::Foreign { device, target, found: record.owner_id, lockspace: record.lockspace }
            }
            Refusal::Storage => DeclareError::Slow { device, target },
            Refusal::Unknown => DeclareError::Unknown { target, source: None },
        }
    }
}
