//! Drives operations on resources: one at a time for each, in the thread of the caller, and what is left over when the
//! caller's time is up in the membership's own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::io::{Io, Sectors, outcome};
use super::member::Member;
use super::pulse::Until;
use crate::disk::Lane;
use crate::error::{AcquireError, Damage, DiskError, Holder, LossReason, ReleaseError};
use crate::format::{Block, Geometry, Leader};
use crate::protocol::area::AreaView;
use crate::protocol::liveness::Verdict;
use crate::protocol::resource::{Blocker, Effect, Event, Hold, Operation, Outcome, Refusal, Subject};
use crate::protocol::{Defect, Seen};
use crate::types::{HostId, Name, Owner, Time, Version};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Idle,
    /// An operation is under way, here or in the undoing thread.
    Busy,
    Held,
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
    /// What is held, at which version.
    pub(crate) fn held(&self) -> Vec<(Resource, Version)> {
        let slots = self.slots.lock();
        let held = slots.iter().filter(|(_, slot)| slot.state == SlotState::Held);
        let version = |slot: &Slot| slot.own.as_ref().map(|own| own.instance);
        held.filter_map(|(offset, slot)| Some((Resource { name: slot.name, offset: *offset }, version(slot)?)))
            .collect()
    }

    /// Waits until no operation is under way, and returns what is held or still under way then.
    pub(crate) fn wait_idle(&self, timeout: Duration) -> Vec<Name> {
        let mut slots = self.slots.lock();
        let busy = |slots: &mut BTreeMap<u64, Slot>| slots.values().any(|slot| slot.state == SlotState::Busy);
        self.changed.wait_while_for(&mut slots, busy, timeout);
        slots.values().filter(|slot| slot.state != SlotState::Idle).map(|slot| slot.name).collect()
    }

    fn begin(&self, resource: &Resource) -> Option<Option<Block>> {
        let mut slots = self.slots.lock();
        let slot = slots.entry(resource.offset).or_insert_with(|| Slot {
            name: resource.name,
            state: SlotState::Idle,
            own: None,
        });
        if slot.state != SlotState::Idle {
            return None;
        }
        slot.state = SlotState::Busy;
        slot.name = resource.name;
        Some(slot.own.clone())
    }

    fn end(&self, resource: &Resource, state: SlotState, own: Option<Block>) {
        if let Some(slot) = self.slots.lock().get_mut(&resource.offset) {
            slot.state = state;
            slot.own = own;
        }
        self.changed.notify_all();
    }
}

/// How far an operation may be driven.
#[derive(Clone, Copy)]
struct Limits {
    /// From then on an acquire is undone.
    call_off: Time,
    /// From then on the operation is left to the undoing thread.
    hand_over: Time,
}

enum Driven {
    Done(Outcome),
    Lost(LossReason),
    Unfinished(Effect),
}

/// What a failed operation is explained with.
#[derive(Default)]
struct Trouble {
    io: Option<DiskError>,
    blocks: BTreeMap<HostId, Defect>,
    /// Who says that it shares the resource, alive or not.
    sharers: Vec<Owner>,
}

impl Member {
    fn subject(&self, resource: &Resource) -> Subject {
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
    pub(crate) fn acquire(&self, resource: &Resource, deadline: Option<Time>) -> Result<Version, AcquireError> {
        self.pulse.held().map_err(AcquireError::Lost)?;
        if self.pulse.has_ended(Until::Closing) {
            return Err(AcquireError::Lost(LossReason::Left));
        }
        let Some(own) = self.resources.begin(resource) else {
            return Err(AcquireError::AlreadyHeld { resource: resource.name });
        };
        let now = self.io.now();
        let timeouts = &self.terms.timeouts;
        let call_off = deadline.unwrap_or(now + timeouts.fail());
        let limits = Limits { call_off, hand_over: call_off + timeouts.io() * 2 };
        let (mut operation, effect) = Operation::acquire(self.subject(resource), own, deadline.is_some(), now);
        let mut trouble = Trouble::default();
        let driven = self.drive(resource, &mut operation, effect, limits, &mut trouble);
        let own = operation.own_block().cloned();
        match driven {
            Driven::Done(Outcome::Held(version)) => {
                self.resources.end(resource, SlotState::Held, own);
                Ok(version)
            }
            Driven::Done(outcome) => {
                self.resources.end(resource, SlotState::Idle, own);
                if self.pulse.has_ended(Until::Closing) {
                    return Err(AcquireError::Lost(LossReason::Left));
                }
                Err(self.explain(resource, outcome, trouble))
            }
            Driven::Lost(reason) => {
                self.resources.end(resource, SlotState::Idle, None);
                Err(AcquireError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                self.leave_to_undo(*resource, operation, effect);
                Err(AcquireError::Unknown { resource: resource.name })
            }
        }
    }

    /// Releases a lease that is held.
    pub(crate) fn release(&self, resource: &Resource, timeout: Duration) -> Result<(), ReleaseError> {
        self.pulse.held().map_err(ReleaseError::Lost)?;
        let (mut operation, effect) = self.begin_release(resource);
        let limits = Limits { call_off: Time::MAX, hand_over: self.io.now() + timeout };
        match self.drive(resource, &mut operation, effect, limits, &mut Trouble::default()) {
            Driven::Done(_) => {
                self.resources.end(resource, SlotState::Idle, operation.own_block().cloned());
                Ok(())
            }
            Driven::Lost(reason) => {
                self.resources.end(resource, SlotState::Idle, None);
                Err(ReleaseError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                self.leave_to_undo(*resource, operation, effect);
                Err(ReleaseError::Unknown { resource: resource.name })
            }
        }
    }

    fn begin_release(&self, resource: &Resource) -> (Operation, Effect) {
        let own = {
            let mut slots = self.resources.slots.lock();
            let slot = slots.get_mut(&resource.offset).filter(|slot| slot.state == SlotState::Held);
            let Some((slot, own)) = slot.and_then(|slot| slot.own.take().map(|own| (slot, own))) else {
                unreachable!("a lease is released once, and its block is known");
            };
            slot.state = SlotState::Busy;
            own
        };
        Operation::release(self.subject(resource), own, self.io.now())
    }

    /// Has the undoing thread release a lease once no write of this host is in flight.
    pub(crate) fn release_when_settled(&self, resource: &Resource) {
        let (operation, effect) = self.begin_release(resource);
        let unfinished = Unfinished { resource: *resource, when_settled: true, operation, effect };
        self.resources.unfinished.lock().push_back(unfinished);
    }

    /// Has the undoing thread release a lease.
    pub(crate) fn release_later(&self, resource: &Resource) {
        // With no time at all it only ever hands over; that, and a loss, need no answer.
        let _ = self.release(resource, Duration::ZERO);
    }

    fn leave_to_undo(&self, resource: Resource, mut operation: Operation, effect: Effect) {
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
                Driven::Done(_) => {
                    self.resources.end(&job.resource, SlotState::Idle, job.operation.own_block().cloned());
                }
                Driven::Lost(_) => self.resources.end(&job.resource, SlotState::Idle, None),
                Driven::Unfinished(effect) => {
                    self.resources.unfinished.lock().push_back(Unfinished { effect, ..job });
                }
            }
        }
    }

    fn drive(
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
                let coverage = self.hosts.coverage();
                let highest = coverage.highest.max(self.host().get());
                let sectors = 0..highest + 2;
                let read = self.io.read_sectors(resource.offset, sectors, geometry.sector_bytes(), io_timeout);
                let event = match read {
                    Ok((span, sectors)) => {
                        let view = view(&sectors, geometry, resource.offset);
                        trouble.blocks = damaged(&view);
                        trouble.sharers = view.sharers().collect();
                        Event::Read { disk: DISK, span, since: coverage.since.unwrap_or_default(), view }
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

    fn holder(&self, blocker: &Blocker) -> Holder {
        let name = self.hosts.with_observer(|observer| {
            let record = observer.record(blocker.host)?.good()?;
            let same = blocker.owner.is_none_or(|owner| owner.generation.get() == record.generation);
            same.then_some(record.host_name)
        });
        Holder::new(blocker, name, self.io.now())
    }

    /// All that may be active of those who share, in the order of their ids: the one that was found in the way, too.
    fn sharers(&self, found: &Blocker, all: &[Owner]) -> Vec<Holder> {
        let now = self.io.now();
        let blockers =
            all.iter().filter_map(|owner| match self.hosts.with_observer(|observer| observer.judge(*owner, now)) {
                Verdict::Active { dead_at } => {
                    Some(Blocker { host: owner.host, owner: Some(*owner), free_at: dead_at, ..found.clone() })
                }
                Verdict::Over | Verdict::Dead => None,
            });
        let mut blockers: BTreeMap<HostId, Blocker> = blockers.map(|blocker| (blocker.host, blocker)).collect();
        blockers.entry(found.host).or_insert_with(|| found.clone());
        blockers.values().map(|blocker| self.holder(blocker)).collect()
    }

    fn explain(&self, resource: &Resource, outcome: Outcome, mut trouble: Trouble) -> AcquireError {
        let (device, name) = (self.io.device(), resource.name);
        let geometry = self.terms.geometry;
        match outcome {
            Outcome::Blocked(blocker) if blocker.hold == Hold::Damaged => {
                let offset = resource.offset + geometry.block_offset(blocker.host);
                let holder = self.holder(&blocker);
                match trouble.blocks.remove(&blocker.host) {
                    Some(reason) => {
                        let damage = Damage { device, offset, what: "block", reason };
                        AcquireError::BlockDamaged { resource: name, holder, damage }
                    }
                    None => AcquireError::Held { resource: name, holder },
                }
            }
            Outcome::Blocked(blocker) if blocker.hold == Hold::Shared => {
                AcquireError::Shared { resource: name, holders: self.sharers(&blocker, &trouble.sharers) }
            }
            Outcome::Blocked(blocker) => AcquireError::Held { resource: name, holder: self.holder(&blocker) },
            Outcome::Refused(Refusal::LeaderDamaged(reason)) => {
                Damage { device, offset: resource.offset, what: "leader", reason }.into()
            }
            Outcome::Refused(Refusal::Cleared) => {
                AcquireError::Deleted { device, resource: name, offset: resource.offset }
            }
            Outcome::Refused(Refusal::Foreign(leader)) => AcquireError::Foreign {
                device,
                resource: name,
                offset: resource.offset,
                found: leader.resource,
                lockspace: leader.lockspace,
            },
            Outcome::Refused(Refusal::HostIdTooLarge { num_hosts }) => {
                AcquireError::HostIdTooLarge { resource: name, host: self.host(), max: num_hosts }
            }
            Outcome::Refused(Refusal::OwnBlockChanged) => {
                AcquireError::BlockChanged { resource: name, host: self.host() }
            }
            Outcome::Refused(Refusal::Exhausted) => AcquireError::Exhausted { resource: name },
            Outcome::Refused(Refusal::Storage) => match trouble.io {
                Some(error) => error.into(),
                None => AcquireError::TimedOut { resource: name, source: None },
            },
            Outcome::GaveUp | Outcome::Held(_) | Outcome::Released => {
                AcquireError::TimedOut { resource: name, source: trouble.io }
            }
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
    let sectors = 0..geometry.max_hosts() + 2;
    let (_, sectors) = io.read_sectors(resource.offset, sectors, geometry.sector_bytes(), timeout)?;
    Ok(view(&sectors, geometry, resource.offset))
}

/// What the sectors of an area from its start say.
fn view(sectors: &Sectors, geometry: Geometry, area: u64) -> AreaView {
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
