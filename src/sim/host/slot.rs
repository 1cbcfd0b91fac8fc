//! What a process has of one resource, as in `engine/resources.rs`: one operation at a time, and what it knows by the
//! last one.

use super::Begun;
use crate::format::Block;
use crate::protocol::holding::Holding;
use crate::protocol::looks::Glance;
use crate::protocol::resource::Operation;
use crate::types::{LeaseMode, Owner, Time, Version};

#[derive(Default)]
pub(super) struct Slot {
    pub(super) operation: Option<Operation>,
    /// How many operations were begun.
    pub(super) begun: u32,
    /// The version that an acquire under way is to take the resource from.
    pub(super) expected: Option<Version>,
    /// The round of the effect that waits for writes in flight.
    pub(super) settling: Option<u32>,
    pub(super) own: Option<Block>,
    pub(super) held: Option<Held>,
    /// What a look that is under way goes by.
    pub(super) glance: Option<Glance>,
    /// It found the leader damaged.
    pub(super) rebuilds: bool,
    /// Who asked for what is held when it was last looked at.
    pub(super) asked: Option<Owner>,
    /// To whom this host hands over, or did last.
    pub(super) destination: Option<Owner>,
    /// The acquire under way is for what is handed over.
    pub(super) receiving: bool,
    /// What an earlier process had of it is being looked for.
    pub(super) taking_up: bool,
}

/// A lease that a process holds, or has lost alone and not given back yet.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) mode: LeaseMode,
    pub(super) version: Version,
    pub(super) holding: Holding,
    /// When a signal comes to look at it; [`Time::MAX`]: none does.
    pub(super) signalled: Time,
}

impl Slot {
    /// Whether nothing is held, and no operation is under way.
    pub(super) const fn is_idle(&self) -> bool {
        self.held.is_none() && self.operation.is_none() && !self.taking_up
    }

    /// The operation, if it is that one.
    pub(super) fn under_way(&mut self, of: Begun) -> Option<&mut Operation> {
        self.operation.as_mut().filter(|_| of.number == self.begun)
    }

    /// What there is to look at of what is held at `version`.
    pub(super) fn glance_at(&self, version: Version) -> Option<Glance> {
        let mode = self.held.as_ref().filter(|held| held.version == version)?.mode;
        let begun = u64::from(self.begun);
        match &self.operation {
            None => Some(Glance { begun, mode, own: Some(self.own.clone()?) }),
            Some(operation) if mode == LeaseMode::Shared && operation.keeps_flag() => {
                Some(Glance { begun, mode, own: None })
            }
            Some(_) => None,
        }
    }
}
