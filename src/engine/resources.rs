//! Drives operations on resources: one at a time for each, in the thread of the caller, and what is left over when the
//! caller's time is up in the membership's own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::explain::Trouble;
use super::io::{Io, Sectors, outcome};
use super::member::Member;
use super::pulse::Until;
use crate::disk::Lane;
use crate::error::{AcquireError, ConvertError, DiskError, LossReason, ReleaseError};
use crate::format::{Block, Geometry, Leader};
use crate::protocol::area::AreaView;
use crate::protocol::resource::{After, Basis, Effect, Event, Operation, Outcome, Refusal, Subject, Wish};
use crate::protocol::{Defect, Seen, Span};
use crate::types::{HostId, LeaseMode, Name, Owner, Time, Version};

/// A resource by name and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    pub(crate) name: Name,
    pub(crate) offset: u64,
}

impl Resource {
    /// Its name.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Where its area starts, in bytes from the device's start.
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

/// The resources that this membership has touched.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    slots: Mutex<BTreeMap<u64, Slot>>,
    changed: Condvar,
    unfinished: Mutex<VecDeque<Unfinished>>,
}

#[derive(Debug)]
struct Slot {
    name: Name,
    state: SlotState,
    /// The own block as this generation last knew it to be on disk: what it is restored from when it rots.
    own: Option<Block>,
    /// Released by its holder while a conversion is under way.
    given_up: bool,
    /// Who asked to be handed what is held, when it was looked at last.
    asking: Vec<Owner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Idle,
    /// An operation is under way, here or in the undoing thread; on what was held at this version, if anything was.
    Busy(Option<Version>),
    Held(LeaseMode, Version),
}

/// What an acquire has brought.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) version: Version,
    /// Whom it was taken from by force, and until when they may still act.
    pub(crate) overridden: Vec<(Owner, Time)>,
}

/// An operation that its caller no longer waits for.
#[derive(Debug)]
struct Unfinished {
    resource: Resource,
    /// Not before no write of this host is in flight.
    when_settled: bool,
    operation: Operation,
    effect: Effect,
}

impl Resources {
    /// What is held, how, and at which version.
    pub(crate) fn leases(&self) -> Vec<(Resource, LeaseMode, Version)> {
        self.slots.lock().iter().filter_map(|(offset, slot)| slot.held(*offset)).collect()
    }

    /// What is held, at which version.
    pub(crate) fn held(&self) -> Vec<(Resource, Version)> {
        self.leases().into_iter().map(|(resource, _, version)| (resource, version)).collect()
    }

    /// Waits until no operation is under way, and returns what is held or still under way then.
    pub(crate) fn wait_idle(&self, timeout: Duration) -> Vec<Name> {
        let mut slots = self.slots.lock();
        let busy =
            |slots: &mut BTreeMap<u64, Slot>| slots.values().any(|slot| matches!(slot.state, SlotState::Busy(_)));
        self.changed.wait_while_for(&mut slots, busy, timeout);
        slots.values().filter(|slot| slot.state != SlotState::Idle).map(|slot| slot.name).collect()
    }

    /// Counts a lease as held that an earlier process of this generation acquired; `own` is its block.
    pub(crate) fn adopt(&self, resource: &Resource, mode: LeaseMode, version: Version, own: Block) {
        let state = SlotState::Held(mode, version);
        let slot = Slot { own: Some(own), ..Slot::new(resource.name, state) };
        self.slots.lock().insert(resource.offset, slot);
    }

    fn begin(&self, resource: &Resource) -> Option<Option<Block>> {
        let mut slots = self.slots.lock();
        let slot = slots.entry(resource.offset).or_insert_with(|| Slot::new(resource.name, SlotState::Idle));
        if slot.state != SlotState::Idle {
            return None;
        }
        slot.state = SlotState::Busy(None);
        slot.name = resource.name;
        Some(slot.own.clone())
    }

    /// At which version the resource was held when the operation began that is under way.
    fn version_before(&self, resource: &Resource) -> Option<Version> {
        match self.slots.lock().get(&resource.offset)?.state {
            SlotState::Busy(version) => version,
            SlotState::Idle | SlotState::Held(..) => None,
        }
    }

    /// Ends an operation; whether what is held then was given up meanwhile.
    fn end(&self, resource: &Resource, state: SlotState, own: Option<Block>) -> bool {
        let mut given_up = false;
        if let Some(slot) = self.slots.lock().get_mut(&resource.offset) {
            slot.state = state;
            slot.own = own;
            if state == SlotState::Idle {
                slot.asking.clear();
            }
            given_up = std::mem::take(&mut slot.given_up) && state != SlotState::Idle;
        }
        self.changed.notify_all();
        given_up
    }

    /// Keeps who asks to be handed what is held.
    pub(super) fn set_asking(&self, resource: &Resource, asking: Vec<Owner>) {
        if let Some(slot) = self.slots.lock().get_mut(&resource.offset) {
            slot.asking = asking;
        }
    }

    /// Who asks to be handed what is held, and at which version that is.
    pub(super) fn asking(&self) -> Vec<(Resource, Version, Owner)> {
        let slots = self.slots.lock();
        let held = slots.iter().filter_map(|(offset, slot)| Some((slot.held(*offset)?, &slot.asking)));
        held.flat_map(|((resource, _, version), asking)| asking.iter().map(move |owner| (resource, version, *owner)))
            .collect()
    }

    /// Takes the own block of what is held at `version`, to work on it. Waits until `end` for a conversion of it that is
    /// under way; if that takes longer and `give_up`, what it leaves held is released.
    pub(super) fn take_held(
        &self,
        resource: &Resource,
        version: Version,
        end: Time,
        give_up: bool,
        now: impl Fn() -> Time,
    ) -> Option<(Block, LeaseMode)> {
        let mut slots = self.slots.lock();
        loop {
            let slot = slots.get_mut(&resource.offset)?;
            match slot.state {
                SlotState::Held(mode, held) if held == version => {
                    slot.state = SlotState::Busy(Some(held));
                    return Some((slot.own.take()?, mode));
                }
                SlotState::Busy(Some(held)) if held == version => {}
                // It was released already, and may be acquired anew.
                SlotState::Held(..) | SlotState::Busy(_) | SlotState::Idle => return None,
            }
            let left = end.since(now());
            if left.is_zero() {
                slot.given_up |= give_up;
                return None;
            }
            self.changed.wait_for(&mut slots, left);
        }
    }
}

impl Slot {
    const fn new(name: Name, state: SlotState) -> Slot {
        Slot { name, state, own: None, given_up: false, asking: Vec::new() }
    }

    fn held(&self, offset: u64) -> Option<(Resource, LeaseMode, Version)> {
        match self.state {
            SlotState::Held(mode, version) => Some((Resource { name: self.name, offset }, mode, version)),
            SlotState::Idle | SlotState::Busy(_) => None,
        }
    }
}

/// How far an operation may be driven.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// From then on an acquire is undone.
    call_off: Time,
    /// From then on the operation is left to the undoing thread.
    hand_over: Time,
}

pub(super) enum Driven {
    Done(Outcome),
    Lost(LossReason),
    Unfinished(Effect),
}

impl Member {
    pub(super) fn subject(&self, resource: &Resource) -> Subject {
        Subject {
            me: self.pulse.me(),
            geometry: self.terms.geometry,
            lockspace: self.terms.lockspace,
            resource: resource.name,
            timeouts: self.terms.timeouts,
            disks: 1,
        }
    }

    /// Acquires; waits until `deadline` for a resource that is held. `None`: doesn't wait, but finishes what it begins.
    pub(crate) fn acquire(
        &self,
        resource: &Resource,
        mode: LeaseMode,
        basis: Basis,
        deadline: Option<Time>,
    ) -> Result<Acquired, AcquireError> {
        let wish = Wish { mode, wait: deadline.is_some(), basis };
        self.acquire_by(resource, deadline, |subject, own, now| Operation::acquire(subject, own, wish, now))
    }

    /// Completes the acquire of an earlier process of this generation that had claimed `version`, or takes it back.
    pub(crate) fn complete(&self, resource: &Resource, version: Version) -> Result<Acquired, AcquireError> {
        self.acquire_by(resource, None, |subject, _, now| Operation::complete(subject, version, now))
    }

    /// As [`Member::acquire`], by an operation that `begin` makes of the own block as far as it is known.
    pub(crate) fn acquire_by(
        &self,
        resource: &Resource,
        deadline: Option<Time>,
        begin: impl FnOnce(Subject, Option<Block>, Time) -> (Operation, Effect),
    ) -> Result<Acquired, AcquireError> {
        self.pulse.held().map_err(AcquireError::Lost)?;
        if self.pulse.has_ended(Until::Closing) {
            return Err(AcquireError::Lost(LossReason::Left));
        }
        let Some(own) = self.resources.begin(resource) else {
            return Err(AcquireError::AlreadyHeld { resource: resource.name });
        };
        let limits = self.limits(deadline);
        let (mut operation, effect) = begin(self.subject(resource), own, self.io.now());
        let mut trouble = Trouble::default();
        match self.drive(resource, &mut operation, effect, limits, &mut trouble) {
            Driven::Done(outcome) => {
                self.ended(resource, &operation, &outcome).map_err(AcquireError::Lost)?;
                match outcome {
                    Outcome::Held(version) => {
                        let now = self.io.now();
                        let until = |owner: Owner| self.hosts.with_observer(|it| it.acts_until(owner.host, now));
                        let overridden = operation.overridden().iter().map(|owner| (*owner, until(*owner))).collect();
                        Ok(Acquired { version, overridden })
                    }
                    _ if self.pulse.has_ended(Until::Closing) => Err(AcquireError::Lost(LossReason::Left)),
                    outcome => Err(self.explain(resource, outcome, trouble)),
                }
            }
            Driven::Lost(reason) => {
                self.forget(resource);
                Err(AcquireError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                self.leave_to_undo(*resource, operation, effect);
                Err(AcquireError::Unknown { resource: resource.name })
            }
        }
    }

    /// The membership is lost: nothing is held.
    pub(super) fn forget(&self, resource: &Resource) {
        self.resources.end(resource, SlotState::Idle, None);
    }

    pub(super) fn limits(&self, deadline: Option<Time>) -> Limits {
        let timeouts = &self.terms.timeouts;
        let call_off = deadline.unwrap_or_else(|| self.io.now() + timeouts.fail());
        Limits { call_off, hand_over: call_off + timeouts.io() * 2 }
    }

    /// An operation is over: keeps what is held then. What was given up meanwhile is released.
    ///
    /// # Errors
    /// The lease was lost meanwhile, and stays lost under the version that its holder knows, whatever the operation has
    /// brought: what is on disk keeps others away until it is released.
    pub(super) fn ended(
        &self,
        resource: &Resource,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<(), LossReason> {
        let own = operation.own_block().cloned();
        // What was handed over is not gone on with, though it may have been acquired anew.
        let before = self.resources.version_before(resource).filter(|_| !operation.has_ceded());
        let (mode, version) = match (operation.leaves(outcome), outcome, before) {
            (After::Held(mode), Outcome::Held(version), _) => (mode, *version),
            (After::Held(mode), _, Some(version)) => (mode, version),
            (After::Lost, outcome, Some(version)) => {
                self.pulse.lose_hold((resource.offset, version), self.why_too_late(outcome));
                (LeaseMode::Shared, version)
            }
            (After::Nothing, ..) | (_, _, None) => {
                self.resources.end(resource, SlotState::Idle, own);
                return Ok(());
            }
        };
        let held = match before {
            Some(before) => self.pulse.hold_on(resource, before, mode, version, operation.looked()),
            None => {
                self.pulse.hold(resource, mode, version, operation.looked());
                Ok(())
            }
        };
        let version = before.filter(|_| held.is_err()).unwrap_or(version);
        self.put_back(resource, mode, version, own);
        held
    }

    /// Ends work on what is held, which stays held; unless it was given up meanwhile: then nobody waits for its release.
    pub(super) fn put_back(&self, resource: &Resource, mode: LeaseMode, version: Version, own: Option<Block>) {
        if self.resources.end(resource, SlotState::Held(mode, version), own) {
            self.pulse.let_go((resource.offset, version));
            self.release_when_settled(resource, version);
        }
    }

    fn why_too_late(&self, outcome: &Outcome) -> LossReason {
        match outcome {
            Outcome::Refused(Refusal::Overtaken { owner, version }) => LossReason::Fenced(self.taker(*owner, *version)),
            _ => LossReason::Unverified { cause: None },
        }
    }

    /// Changes how a lease is held. Waits until `deadline` for those who share.
    pub(crate) fn convert(
        &self,
        resource: &Resource,
        to: LeaseMode,
        held: Version,
        deadline: Option<Time>,
    ) -> Result<Version, ConvertError> {
        self.pulse.held_here((resource.offset, held)).map_err(ConvertError::Lost)?;
        let unknown = || ConvertError::Unknown { resource: resource.name };
        if to == LeaseMode::Shared && !self.settle_value(resource, self.terms.timeouts.fail()) {
            return Err(ConvertError::ValueInFlight { resource: resource.name });
        }
        let now = || self.io.now();
        let patience = now() + self.terms.timeouts.fail();
        let (own, mode) = self.resources.take_held(resource, held, patience, false, now).ok_or_else(unknown)?;
        if mode == to {
            self.put_back(resource, mode, held, Some(own));
            return Ok(held);
        }
        let (mut operation, effect) =
            Operation::convert(self.subject(resource), own, to, deadline.is_some(), self.io.now());
        let mut trouble = Trouble::default();
        match self.drive(resource, &mut operation, effect, self.limits(deadline), &mut trouble) {
            Driven::Done(outcome) => {
                self.ended(resource, &operation, &outcome).map_err(ConvertError::Lost)?;
                match outcome {
                    Outcome::Held(version) => Ok(version),
                    Outcome::Refused(Refusal::HandoverBegun) => {
                        Err(ConvertError::HandoverBegun { resource: resource.name })
                    }
                    outcome => Err(ConvertError::NotAcquired(self.explain(resource, outcome, trouble))),
                }
            }
            Driven::Lost(reason) => {
                self.forget(resource);
                Err(ConvertError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                // It may be held alone by then, at a version that nobody is told of.
                if operation.is_exposed() {
                    self.pulse.lose_hold((resource.offset, held), LossReason::Unverified { cause: None });
                }
                self.leave_to_undo(*resource, operation, effect);
                self.pulse.held_here((resource.offset, held)).map_err(ConvertError::Lost)?;
                Err(unknown())
            }
        }
    }

    /// Releases a lease that is held. One that was taken by force is lost; that it is over is still written.
    pub(crate) fn release(&self, resource: &Resource, version: Version, timeout: Duration) -> Result<(), ReleaseError> {
        self.pulse.held().map_err(ReleaseError::Lost)?;
        let lost = self.pulse.held_here((resource.offset, version)).err();
        let end = self.io.now() + timeout;
        let unknown = ReleaseError::Unknown { resource: resource.name };
        if !self.settle_value(resource, timeout) {
            self.release_when_settled(resource, version);
            return Err(lost.map_or(unknown, ReleaseError::Lost));
        }
        let Some((own, _)) = self.resources.take_held(resource, version, end, true, || self.io.now()) else {
            return Err(lost.map_or(unknown, ReleaseError::Lost));
        };
        let (mut operation, effect) = Operation::release(self.subject(resource), own, self.io.now());
        let limits = Limits { call_off: Time::MAX, hand_over: end };
        match self.drive(resource, &mut operation, effect, limits, &mut Trouble::default()) {
            Driven::Done(outcome) => {
                self.ended(resource, &operation, &outcome).map_err(ReleaseError::Lost)?;
                lost.map_or(Ok(()), |reason| Err(ReleaseError::Lost(reason)))
            }
            Driven::Lost(reason) => {
                self.forget(resource);
                Err(ReleaseError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                self.leave_to_undo(*resource, operation, effect);
                Err(unknown)
            }
        }
    }

    /// Has the undoing thread release a lease once no write of this host is in flight.
    pub(crate) fn release_when_settled(&self, resource: &Resource, version: Version) {
        let now = self.io.now();
        let Some((own, _)) = self.resources.take_held(resource, version, now, true, || now) else { return };
        let (operation, effect) = Operation::release(self.subject(resource), own, now);
        let unfinished = Unfinished { resource: *resource, when_settled: true, operation, effect };
        self.resources.unfinished.lock().push_back(unfinished);
    }

    /// Has the undoing thread release a lease.
    pub(crate) fn release_later(&self, resource: &Resource, version: Version) {
        // With no time at all it only ever hands over; that, and a loss, need no answer.
        let _ = self.release(resource, version, Duration::ZERO);
    }

    pub(super) fn leave_to_undo(&self, resource: Resource, mut operation: Operation, effect: Effect) {
        operation.call_off();
        self.resources.unfinished.lock().push_back(Unfinished { resource, when_settled: false, operation, effect });
    }

    /// One round of the undoing thread: moves every unfinished operation on, without waiting long for any.
    pub(crate) fn undo_pending(&self) {
        let count = self.resources.unfinished.lock().len();
        for _ in 0..count {
            let Some(mut job) = self.resources.unfinished.lock().pop_front() else { return };
            if job.when_settled && !self.io.settle(0..u64::MAX, self.terms.timeouts.io()) {
                self.resources.unfinished.lock().push_back(job);
                continue;
            }
            let now = self.io.now();
            let limits = Limits { call_off: now, hand_over: now + self.terms.timeouts.io() };
            let mut trouble = Trouble::default();
            match self.drive(&job.resource, &mut job.operation, job.effect, limits, &mut trouble) {
                Driven::Done(outcome) => {
                    // Whoever still has the lease is told by its status.
                    let _ = self.ended(&job.resource, &job.operation, &outcome);
                }
                Driven::Lost(_) => self.forget(&job.resource),
                Driven::Unfinished(effect) => {
                    self.resources.unfinished.lock().push_back(Unfinished { effect, ..job });
                }
            }
        }
    }

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
            if let Err(reason) = self.pulse.held() {
                return Driven::Lost(reason);
            }
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
                self.pulse.expose((resource.offset, version), operation.looked());
            }
            let Some((round, event)) = self.perform(resource, &effect, limits, trouble) else {
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

    /// Reads the leader and the blocks of the ids in use.
    pub(crate) fn read_area(&self, resource: &Resource) -> Result<(Span, AreaView), DiskError> {
        let highest = self.hosts.coverage().highest.max(self.host().get());
        view_up_to(&self.io, self.terms.geometry, resource, highest, self.terms.timeouts.io())
    }

    /// Carries one effect out. `None`: it is not over.
    fn perform(
        &self,
        resource: &Resource,
        effect: &Effect,
        limits: Limits,
        trouble: &mut Trouble,
    ) -> Option<(u32, Event)> {
        const DISK: usize = 0;
        let io_timeout = self.terms.timeouts.io();
        let geometry = self.terms.geometry;
        let mut write = |offset: u64, sector: Vec<u8>| {
            let result = self.io.write(Lane::General, offset, sector, io_timeout).map(|_| ());
            let written = outcome(&result);
            // What an undoing writes well explains nothing.
            trouble.io = result.err().or(trouble.io.take());
            Event::Wrote { disk: DISK, written }
        };
        match effect {
            Effect::Read(round) => {
                let since = self.hosts.coverage().since.unwrap_or_default();
                let event = match self.read_area(resource) {
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
                if let Err(error) = self.hosts.scan_all(&self.io, Some(&self.pulse)) {
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

/// The leader and the blocks of all hosts that there is room for.
pub(crate) fn whole_view(
    io: &Io,
    geometry: Geometry,
    resource: &Resource,
    timeout: Duration,
) -> Result<AreaView, DiskError> {
    Ok(view_up_to(io, geometry, resource, geometry.max_hosts(), timeout)?.1)
}

/// The leader and the blocks of the hosts up to the id `highest`.
pub(crate) fn view_up_to(
    io: &Io,
    geometry: Geometry,
    resource: &Resource,
    highest: u64,
    timeout: Duration,
) -> Result<(Span, AreaView), DiskError> {
    let (span, sectors) = io.read_sectors(resource.offset, 0..highest + 2, geometry.sector_bytes(), timeout)?;
    Ok((span, view(&sectors, geometry, resource.offset)))
}

/// What the sectors of an area from its start say.
pub(crate) fn view(sectors: &Sectors, geometry: Geometry, area: u64) -> AreaView {
    let mut sectors = sectors.iter();
    let first = sectors.next().unwrap_or(Err(Defect::Unreadable));
    let leader = first.and_then(|sector| Ok(Leader::decode(sector, area)?)).into();
    // The request record comes first.
    let blocks = sectors.skip(1).zip(1..).filter_map(|(sector, id)| {
        let host = HostId::new(id)?;
        if sector.as_ref().is_ok_and(|sector| sector.iter().all(|byte| *byte == 0)) {
            return None;
        }
        let block = sector.and_then(|sector| Ok(Block::decode(sector, area + geometry.block_offset(host))?));
        Some((host, block.into()))
    });
    AreaView { leader, blocks: blocks.collect() }
}

fn damaged(view: &AreaView) -> BTreeMap<HostId, Defect> {
    let bad = view.blocks.iter().filter_map(|(host, seen)| match seen {
        Seen::Bad(defect) => Some((*host, defect.clone())),
        Seen::Good(_) => None,
    });
    bad.collect()
}
