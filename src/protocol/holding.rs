//! A lease while it is held: until when it is, beside the host id, when it is looked at, and when it is given back if
//! it is lost alone.
//!
//! Not in here: the host id, with which every lease ends ([`super::delta`]); what a look at the area shows
//! ([`super::looks`]).
//!
//! Invariants:
//! - A lease is held until F after the start of the last look that showed it as it is to be; or after an earlier
//!   moment, if the look does not show who may have taken it since then. So a host that takes it by force knows until
//!   when its former owner may act, though that one may see nothing any more; and whoever wipes the area of a resource
//!   ends every hold of it F + G later.
//! - Lost is latched.

use std::collections::BTreeSet;

use super::looks::{Look, Restoration, Verdict};
use super::resource::Subject;
use super::rules::Rule;
use crate::format::Leader;
use crate::timeouts::Timeouts;
use crate::types::{Owner, Time, Version};

/// Why a lease is lost though the host id is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// No look has shown for F that it is held.
    Unverified,
    /// Another host owns the resource.
    Taken {
        /// Which one, if that is known.
        owner: Option<Owner>,
        /// At which version.
        version: Version,
    },
    /// The own block was erased: the area was wiped, or made again.
    Erased,
    /// Another block stands in the place of the own one: the area was set back, or somebody else wrote there.
    Replaced,
}

impl Loss {
    /// Whether the area is not what this host left there. What stands there may be others', and a new count of
    /// versions.
    pub const fn is_of_the_area(&self) -> bool {
        matches!(self, Loss::Erased | Loss::Replaced)
    }
}

/// What is to be done now about a lease that is held, or was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// Look at the leader and at the blocks of all ids in use, the own one included; report that by
    /// [`Holding::looked`].
    Look,
    /// Release it, unless an operation is under way: what it protected is gone by now, and whoever comes next waits for
    /// its claim or flag to be. Report that by [`Holding::given_back`].
    GiveBack,
}

/// Writes what only this host may put right, unless it is `by` before it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Restore {
    /// What is written.
    pub what: Restoration,
    /// The latest moment of the submission.
    pub by: Time,
}

/// What its holder knows of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    timeouts: Timeouts,
    /// Start of the last look that showed it as it is to be. `None`: nobody looks.
    looked: Option<Time>,
    /// Nobody can have taken it unseen before that: `looked`, or earlier.
    untaken: Time,
    /// When the next look begins.
    due: Time,
    /// An upgrade is about to drop the flag: what it does next is not to be looked at.
    exposed: bool,
    /// Since when, and why.
    loss: Option<(Time, Loss)>,
    given_back: bool,
    /// What others claim that was seen while it was certain that this is held: they are gone, or were passed over by
    /// force.
    passed: BTreeSet<(Owner, Version)>,
    /// The leader as it was seen last when it was right.
    leader: Option<Leader>,
    /// While a leader with these bytes is there nobody has taken the lease since that look.
    stands: bool,
    /// The records of all ids are to be read before the next look.
    scan_first: bool,
}

impl Holding {
    /// A lease that is held; the read that showed it to be so began at `looked`. `passed` is what others claimed then.
    /// Of several disks none is looked at, and nothing is taken by force there.
    pub fn new(subject: &Subject, looked: Time, passed: BTreeSet<(Owner, Version)>) -> Holding {
        let Subject { timeouts, disks, .. } = *subject;
        let looks = disks == 1;
        Holding {
            timeouts,
            looked: looks.then_some(looked),
            untaken: looked,
            due: if looks { looked + timeouts.renewal() } else { Time::MAX },
            exposed: false,
            loss: None,
            given_back: false,
            passed,
            leader: None,
            stands: false,
            scan_first: false,
        }
    }

    /// A lease that an earlier process held: what the read showed is to be looked at once more, at once. Whose blocks
    /// were not read can have taken nothing before `unseen`.
    #[must_use]
    pub fn adopted(self, unseen: Time) -> Holding {
        let (due, untaken) = (self.looked.unwrap_or(self.due), self.untaken.min(unseen));
        Holding { due, untaken, scan_first: true, ..self }
    }

    /// Until when it is held if no further look succeeds. `None`: as long as the host id.
    pub fn deadline(&self) -> Option<Time> {
        self.looked.filter(|_| Rule::LookedAtInTime.is_in_force()).map(|_| self.untaken + self.timeouts.fail())
    }

    /// When the last look began that showed it as it is to be. `None`: nobody looks.
    pub const fn looked_at(&self) -> Option<Time> {
        self.looked
    }

    /// Since when it is lost alone, and why. Once it is it stays so.
    pub const fn loss(&self) -> Option<&(Time, Loss)> {
        self.loss.as_ref()
    }

    /// Whether it is lost alone.
    pub const fn is_lost(&self) -> bool {
        self.loss.is_some()
    }

    /// Whether the claim of `owner` was seen while it was certain that this is held.
    pub(super) fn has_passed(&self, owner: Owner, version: Version) -> bool {
        self.passed.contains(&(owner, version))
    }

    /// The leader as it was seen last when it was right.
    pub(super) const fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// Whether `leader` is that of the last good look, and has been there ever since.
    pub(super) fn knows(&self, leader: &Leader) -> bool {
        self.stands && self.leader.as_ref() == Some(leader)
    }

    /// Latches the loss if the deadline has passed.
    pub fn tick(&mut self, now: Time) {
        if let Some(deadline) = self.deadline().filter(|deadline| now >= *deadline) {
            self.loss.get_or_insert((deadline, Loss::Unverified));
        }
    }

    /// When something is to be done next.
    pub fn due(&self) -> Time {
        match &self.loss {
            Some(_) if self.given_back => Time::MAX,
            Some((since, _)) => self.due.max(*since + self.timeouts.fence()),
            None if self.exposed => Time::MAX,
            None => self.due,
        }
    }

    /// What is to be done now. What comes to nothing is to be done again R later.
    pub fn task(&mut self, now: Time) -> Option<Task> {
        self.tick(now);
        if now < self.due() {
            return None;
        }
        self.due = now + self.timeouts.renewal();
        Some(if self.is_lost() { Task::GiveBack } else { Task::Look })
    }

    /// Whether the delta records of all ids are to be read before the next look, which were last at `scanned`. Whoever
    /// has taken the resource may have joined since.
    pub fn needs_scan(&self, scanned: Option<Time>, now: Time) -> bool {
        self.scan_first || scanned.is_none_or(|since| now.since(since) > self.timeouts.fail())
    }

    /// It is shared and about to become exclusive, and its flag about to go.
    pub const fn expose(&mut self) {
        self.exposed = true;
    }

    /// A look that began at `started` has come to that verdict. What is to be written, if anything.
    pub fn looked(&mut self, started: Time, look: Look, now: Time) -> Option<Restore> {
        self.tick(now);
        if self.is_lost() || self.exposed {
            return None;
        }
        let scanned = std::mem::take(&mut self.scan_first);
        match look.verdict {
            Verdict::Good => {
                let untaken = look.unseen.map_or(started, |unseen| unseen.min(started));
                self.looked = self.looked.map(|before| before.max(started));
                self.untaken = self.untaken.max(untaken);
                self.stands = look.settled && untaken == started;
                self.leader = look.leader.or(self.leader.take());
                self.passed.extend(look.passed);
                if untaken < started {
                    self.scan_first = true;
                    // At once, but not again and again where scans fail or reads take too long.
                    self.due = if scanned { self.due } else { self.due.min(now) };
                }
            }
            Verdict::Unclear => {}
            Verdict::Lost(loss) => self.lose(loss, now),
            Verdict::Restore(what) => {
                self.stands = false;
                let by = self.deadline().unwrap_or(Time::MAX);
                return Some(Restore { what, by });
            }
        }
        None
    }

    /// What was to be restored is on disk: only a look that begins now can show so.
    pub fn restored(&mut self, now: Time) {
        self.due = self.due.min(now);
    }

    /// Its release has begun.
    pub const fn given_back(&mut self) {
        self.given_back = true;
    }

    /// How it is held after a conversion, whose last read began at `looked`. One that was lost meanwhile stays so,
    /// whatever the conversion has brought.
    #[must_use]
    pub fn converted(mut self, subject: &Subject, looked: Time, now: Time) -> Holding {
        self.tick(now);
        let Holding { loss, given_back, passed, .. } = self;
        Holding { loss, given_back, ..Holding::new(subject, looked, passed) }
    }

    /// It was taken, or can't be known to be held.
    pub fn lose(&mut self, loss: Loss, now: Time) {
        self.loss.get_or_insert((now, loss));
    }
}
