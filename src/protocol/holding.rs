//! A lease while it is held: until when it is, beside the host id, and how its holder learns that it was taken by
//! force.
//!
//! Not in here: the host id, with which every lease ends ([`super::delta`]); what a look at the area shows
//! ([`AreaView::fenced`](super::area::AreaView::fenced)).
//!
//! Invariants:
//! - What can be taken by force is held until F after the start of the last look that showed that nobody took it. So
//!   whoever takes it knows until when its former owner may act, though that one may see nothing any more.
//! - Lost is latched.

use std::time::Duration;

use super::rules::in_force;
use crate::types::{LeaseMode, Time};

/// What its holder knows of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    fail: Duration,
    /// Start of the last look that showed that nobody took it. `None`: nobody can.
    looked: Option<Time>,
    lost: bool,
}

impl Holding {
    /// A lease that is held in `mode`; the read that showed it to be so began at `looked`. What others share nobody
    /// takes by force. `fail` is the lockspace's F.
    pub fn new(mode: LeaseMode, looked: Time, fail: Duration) -> Holding {
        Holding { fail, looked: (mode == LeaseMode::Exclusive).then_some(looked), lost: false }
    }

    /// Until when it is held if no further look succeeds. `None`: as long as the host id.
    pub fn deadline(&self) -> Option<Time> {
        self.looked.filter(|_| in_force!(LookedAtInTime)).map(|looked| looked + self.fail)
    }

    /// Whether it is lost. Once true it stays so.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Latches the loss if the deadline has passed.
    pub fn tick(&mut self, now: Time) {
        self.lost |= self.deadline().is_some_and(|deadline| now >= deadline);
    }

    /// It is shared and can be taken by force from now on, as it is about to become exclusive; the last read began at
    /// `looked`.
    pub fn expose(&mut self, looked: Time) {
        self.looked.get_or_insert(looked);
    }

    /// A look that began at `started` has shown whether it was taken.
    pub fn looked(&mut self, started: Time, taken: bool, now: Time) {
        self.tick(now);
        self.lost |= taken && in_force!(OwnerVerifies);
        if !self.lost {
            self.looked = self.looked.map(|before| before.max(started));
        }
    }

    /// How it is held after a conversion to `mode`, whose last read began at `looked`. One that was lost meanwhile
    /// stays so, whatever the conversion has brought.
    #[must_use]
    pub fn converted(mut self, mode: LeaseMode, looked: Time, now: Time) -> Holding {
        self.tick(now);
        Holding { lost: self.lost, ..Holding::new(mode, looked, self.fail) }
    }

    /// It was taken before it could be shared, or can't be known to be held.
    pub fn lose(&mut self) {
        self.lost = true;
    }
}
