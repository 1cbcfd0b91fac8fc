//! Drives an operation: carries its effects out, and reports how they ended.

use super::areas::damaged;
use super::explain::Trouble;
use super::io::outcome;
use super::member::Member;
use super::pulse::Until;
use crate::disk::Lane;
use crate::error::LossReason;
use crate::protocol::procedure::Window;
use crate::protocol::resource::{Effect, Event, Operation, Outcome};
use crate::types::{Resource, Time};

/// How far an operation may be driven.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// From then on an acquire is undone.
    pub(super) call_off: Time,
    /// From then on the operation is left to the undoing thread.
    pub(super) hand_over: Time,
}

pub(super) enum Driven {
    Done(Outcome),
    Lost(LossReason),
    Unfinished(Effect),
}

impl Member {
    pub(super) fn drive(
        &self,
        resource: &Resource,
        operation: &mut Operation,
        mut effect: Effect,
        limits: Limits,
        trouble: &mut Trouble,
    ) -> Driven {
        loop {
            // Nothing is written, and nothing is answered, once the host id is lost.
            let held = match self.pulse.held() {
                Ok(until) => until,
                Err(reason) => return Driven::Lost(reason),
            };
            let now = self.io.now();
            if now >= limits.call_off || self.pulse.has_ended(Until::Closing) {
                operation.call_off();
            }
            if now >= limits.hand_over && !matches!(effect, Effect::Done(_)) {
                return Driven::Unfinished(effect);
            }
            if operation.has_ceded()
                && let Some(version) = self.resources.version_before(resource)
            {
                self.pulse.let_go((resource.offset, version));
            }
            if operation.is_exposed()
                && let Some(version) = self.resources.version_before(resource)
            {
                self.pulse.expose((resource.offset, version));
            }
            let Some((round, event)) = self.perform(resource, &effect, held, limits, trouble) else {
                if let Effect::Done(outcome) = effect {
                    return Driven::Done(outcome);
                }
                continue;
            };
            let now = self.io.now();
            let random = rand::random();
            let next = self.hosts.with_observer(|observer| operation.step(round, event, observer, now, random));
            effect = next.unwrap_or(effect);
        }
    }

    /// Carries one effect out; a write only before `held`, until when the host id is held. `None`: it is not over.
    fn perform(
        &self,
        resource: &Resource,
        effect: &Effect,
        held: Time,
        limits: Limits,
        trouble: &mut Trouble,
    ) -> Option<(u32, Event)> {
        const DISK: usize = 0;
        let left = limits.hand_over.since(self.io.now());
        // Nobody waits for longer, and a read that takes too long is followed by another.
        let io_timeout = self.terms.timeouts.io().min(left);
        let read_timeout = io_timeout.min(left / 2);
        let geometry = self.terms.geometry;
        let mut write = |offset: u64, sector: Vec<u8>| {
            let window = Window { before: held, timeout: io_timeout };
            let result = self.io.write(Lane::General, offset, sector, window).map(|_| ());
            let written = outcome(&result);
            // What an undoing writes well explains nothing.
            trouble.io = result.err().or(trouble.io.take());
            Event::Wrote { disk: DISK, written }
        };
        match effect {
            Effect::Read(round) => {
                let since = self.hosts.coverage().since.unwrap_or_default();
                let event = match self.read_area_within(resource, read_timeout) {
                    Ok((span, view)) => {
                        trouble.blocks = damaged(&view);
                        trouble.sharers = view.sharers().collect();
                        Event::Read { disk: DISK, span, since, view }
                    }
                    Err(error) => {
                        trouble.io = Some(error);
                        Event::ReadFailed { disk: DISK }
                    }
                };
                Some((*round, event))
            }
            Effect::WriteBlock(round, block) => {
                let at = resource.offset + geometry.block_offset(self.host());
                Some((*round, write(at, block.encode(geometry, at))))
            }
            Effect::WriteLeader(round, leader) => {
                Some((*round, write(resource.offset, leader.encode(resource.offset))))
            }
            Effect::Scan(round) => {
                if let Err(error) = self.hosts.scan_all_by(&self.io, &self.pulse, limits.hand_over) {
                    trouble.io = Some(error);
                }
                Some((*round, Event::Scanned))
            }
            Effect::Settle(round) => {
                let range = resource.offset..resource.offset + geometry.area_bytes();
                self.io.settle(range, io_timeout).then_some((*round, Event::Settled))
            }
            Effect::Wait(round, until) => {
                let undoing = self.io.now() >= limits.call_off || self.pulse.has_ended(Until::Closing);
                match undoing {
                    true => self.pulse.sleep(*until, Until::Stopped),
                    false => self.pulse.sleep(limits.call_off.min(*until), Until::Closing),
                };
                Some((*round, Event::Woke))
            }
            Effect::Done(_) => None,
        }
    }
}
