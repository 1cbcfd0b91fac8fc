//! What a membership has of each resource, and what is still being undone of it. One operation at a time on each.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::format::Block;
use crate::protocol::looks::Glance;
use crate::protocol::resource::{Effect, Operation};
use crate::types::{LeaseMode, Name, Owner, Resource, Time, Version};

/// The resources that this membership has touched.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    slots: Mutex<BTreeMap<u64, Slot>>,
    changed: Condvar,
    pub(super) unfinished: Mutex<VecDeque<Unfinished>>,
}

#[derive(Debug)]
struct Slot {
    name: Name,
    state: SlotState,
    /// How many operations were begun.
    begun: u64,
    /// The own block as this generation last knew it to be on disk: what it is restored from when it rots.
    own: Option<Block>,
    /// Released by its holder while a conversion is under way.
    given_up: bool,
    /// The operation under way changes what is shared to exclusive.
    upgrades: bool,
    /// Who asked to be handed what is held, when it was looked at last.
    asking: Vec<Owner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    Idle,
    /// An operation is under way, here or in the undoing thread; on what was held at this version, if anything was.
    Busy(Option<Version>),
    Held(LeaseMode, Version),
}

/// Why no operation is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupied {
    /// Another one is under way.
    UnderWay,
    Held,
}

/// An operation that its caller no longer waits for.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) resource: Resource,
    /// Not before no write of this host is in flight.
    pub(super) when_settled: bool,
    pub(super) operation: Operation,
    pub(super) effect: Effect,
}

impl Resources {
    /// What is held, how, and at which version.
    pub(crate) fn leases(&self) -> Vec<(Resource, LeaseMode, Version)> {
        self.slots.lock().iter().filter_map(|(offset, slot)| slot.held(*offset)).collect()
    }

    /// What there is to look at of what is held at that version.
    pub(super) fn glance(&self, resource: &Resource, version: Version) -> Option<Glance> {
        let slots = self.slots.lock();
        let slot = slots.get(&resource.offset)?;
        let begun = slot.begun;
        match slot.state {
            SlotState::Held(mode, held) if held == version => {
                Some(Glance { begun, mode, own: Some(slot.own.clone()?) })
            }
            SlotState::Busy(Some(held)) if held == version && slot.upgrades => {
                Some(Glance { begun, mode: LeaseMode::Shared, own: None })
            }
            SlotState::Held(..) | SlotState::Busy(_) | SlotState::Idle => None,
        }
    }

    /// Takes the own block of what is held at `version`, to write it or the leader again, if no operation was begun
    /// since `begun` of them.
    pub(super) fn take_at_rest(&self, resource: &Resource, version: Version, begun: u64) -> Option<(Block, LeaseMode)> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&resource.offset).filter(|slot| slot.begun == begun)?;
        match slot.state {
            SlotState::Held(mode, held) if held == version => Some((slot.take(held)?, mode)),
            SlotState::Held(..) | SlotState::Busy(_) | SlotState::Idle => None,
        }
    }

    /// The operation under way changes what is shared to exclusive: until it says otherwise it is shared.
    pub(super) fn upgrades(&self, resource: &Resource) {
        if let Some(slot) = self.slots.lock().get_mut(&resource.offset) {
            slot.upgrades = true;
        }
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

    /// Begins an operation on what is not held; returns the own block as far as it is known.
    pub(super) fn begin(&self, resource: &Resource) -> Result<Option<Block>, Occupied> {
        let mut slots = self.slots.lock();
        let slot = slots.entry(resource.offset).or_insert_with(|| Slot::new(resource.name, SlotState::Idle));
        match slot.state {
            SlotState::Idle => {}
            SlotState::Busy(_) => return Err(Occupied::UnderWay),
            SlotState::Held(..) => return Err(Occupied::Held),
        }
        slot.state = SlotState::Busy(None);
        slot.begun += 1;
        slot.name = resource.name;
        Ok(slot.own.clone())
    }

    /// At which version the resource was held when the operation began that is under way.
    pub(super) fn version_before(&self, resource: &Resource) -> Option<Version> {
        match self.slots.lock().get(&resource.offset)?.state {
            SlotState::Busy(version) => version,
            SlotState::Idle | SlotState::Held(..) => None,
        }
    }

    /// Ends an operation. Where what is held then was given up meanwhile, its release is under way from this moment on,
    /// and the own block is returned for it.
    pub(super) fn end(&self, resource: &Resource, state: SlotState, own: Option<Block>) -> Option<Block> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&resource.offset)?;
        let given_up = std::mem::take(&mut slot.given_up);
        slot.upgrades = false;
        match (state, own) {
            (SlotState::Held(_, version), Some(own)) if given_up => {
                slot.state = SlotState::Busy(Some(version));
                return Some(own);
            }
            (state, own) => (slot.state, slot.own) = (state, own),
        }
        if state == SlotState::Idle {
            slot.asking.clear();
        }
        self.changed.notify_all();
        None
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

    /// Takes the own block of what is held at `version`, to work on it. Waits until `end` for a conversion of it that
    /// is under way; if that takes longer and `give_up`, what it leaves held is released.
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
                SlotState::Held(mode, held) if held == version => return Some((slot.take(held)?, mode)),
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
        Slot { name, state, begun: 0, own: None, given_up: false, upgrades: false, asking: Vec::new() }
    }

    /// The own block of what is held at `version`, for work on it.
    fn take(&mut self, version: Version) -> Option<Block> {
        let own = self.own.take()?;
        self.state = SlotState::Busy(Some(version));
        self.begun += 1;
        Some(own)
    }

    fn held(&self, offset: u64) -> Option<(Resource, LeaseMode, Version)> {
        match self.state {
            SlotState::Held(mode, version) => Some((Resource { name: self.name, offset }, mode, version)),
            SlotState::Idle | SlotState::Busy(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing_left() -> impl Fn() -> Time {
        || Time::ZERO
    }

    /// Whoever waits for the end of the conversion must not see it held in between.
    #[test]
    fn what_is_given_up_during_a_conversion_is_under_way_until_it_is_released() -> Result<(), Box<dyn std::error::Error>>
    {
        let resources = Resources::default();
        let (version, mode) = (Version::new(3), LeaseMode::Exclusive);
        let resource = Resource { name: Name::resource("demo")?, offset: 4096 };
        resources.adopt(&resource, mode, version, Block::default());
        let (own, _) = resources.take_held(&resource, version, Time::ZERO, false, nothing_left()).ok_or("held")?;
        assert!(resources.take_held(&resource, version, Time::ZERO, true, nothing_left()).is_none());
        let released = resources.end(&resource, SlotState::Held(mode, version), Some(own));
        assert_eq!(released, Some(Block::default()));
        assert_eq!(resources.leases(), []);
        assert_eq!(resources.begin(&resource), Err(Occupied::UnderWay));
        assert_eq!(resources.wait_idle(Duration::ZERO), [resource.name]);
        assert_eq!(resources.end(&resource, SlotState::Idle, None), None);
        assert_eq!(resources.begin(&resource), Ok(None));
        Ok(())
    }
}
