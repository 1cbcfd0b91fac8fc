//! A lease on a resource: one consensus instance for each version, a leader record that says what was decided
//! last, and the rules for when the next version may be begun.
//!
//! Not in here: I/O, timers, the caller's deadline, and which hosts' blocks a read covers (the caller says how old its
//! knowledge of that is, see [`Event::Read`]).
//!
//! Words: a host *claims* a version when its own block, not released, belongs to that instance and names it as owner.
//! It may hold a version only if it claims it, so ownership can be rebuilt from the blocks; the leader is a record of
//! what was decided that a late write can set back.
//!
//! Invariants:
//! - Instance n is begun only when the owner that the leader names is gone or gave its version up, and no generation
//!   that may be active claims a version between the leader's and n.
//! - The own block is overwritten only by a later step of its instance or by a later instance, so an accepted value and
//!   a release are never erased.
//! - From the submission of phase 2 on the outcome is open: this machine ends only when it holds, or when its block
//!   says that it gave the version up.
//! - "Held" is said only of a version that is decided, that the own block claims, and that a fresh read or a confirmed
//!   write of the leader shows; or, of a shared hold, when the own block's flag was there before anybody who could own
//!   a later version looked.
//!
//! | file | what is in it |
//! |---|---|
//! | `wish.rs` | what an acquire is to achieve |
//! | `effect.rs` | what an operation asks of its caller, and what the caller reports |
//! | `outcome.rs` | how it ends, who is in the way, what is held then |
//! | `goal.rs` | what it is for, and which step of that it is at |
//! | `round.rs` | what is collected from the disks, until a majority has answered |
//! | `judging.rs` | what it concludes from a read: whose the resource is, what is to be done next |
//! | `own_block.rs` | what a read says of its own block, and what it writes into it |
//! | `plan.rs` | which instance may be run, and who is in the way of it |
//! | `proposer.rs` | runs the ballot of an instance to its decision, and writes that into the leader |
//! | `waiting.rs` | waits for who is in the way, and knows whose turn it is |
//! | `backoff.rs` | when it looks again |
//! | `undo.rs` | releases, and takes back what came to nothing |
//! | `sharing.rs` | holding together with others, and converting between that and holding alone |
//! | `handover.rs` | from the owner to another host while both run |

mod backoff;
mod effect;
mod goal;
mod handover;
mod judging;
mod outcome;
mod own_block;
mod plan;
mod proposer;
mod round;
mod sharing;
#[cfg(test)]
mod tests;
mod undo;
mod waiting;
mod wish;

use std::collections::{BTreeMap, BTreeSet};

use super::area::AreaView;
use super::liveness::Observer;
use super::rules::Rule;
use crate::format::numbers::Numbers;
use crate::format::{Block, Geometry, Leader};
use crate::timeouts::Timeouts;
use crate::types::{Name, Owner, Time, Version};
use goal::{Goal, Kind, Step};

pub use effect::{Effect, Event};
pub use outcome::{After, Blocker, Hold, Outcome, Refusal};
pub use wish::{Basis, Wish};

/// Whose lease on what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The host that acts.
    pub me: Owner,
    /// Sizes of the lockspace, which the resource must share.
    pub geometry: Geometry,
    /// The lockspace's name.
    pub lockspace: Name,
    /// Its nonce.
    pub nonce: u32,
    /// The resource's name.
    pub resource: Name,
    /// The lockspace's timeouts.
    pub timeouts: Timeouts,
    /// How many disks hold a copy of the resource area; a majority of them decides.
    pub disks: usize,
}

/// An operation on one resource: an acquire or a conversion, which may turn into its undoing, or a release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    subject: Subject,
    kind: Kind,
    wish: Wish,
    goal: Goal,
    step: Step,
    round: u32,
    /// What a majority was collected of in this round.
    durable: BTreeSet<usize>,
    views: BTreeMap<usize, AreaView>,
    failed: BTreeSet<usize>,
    in_flight: bool,
    /// The own block as this host last knew it to be on disk in this generation, to restore it from when it rots.
    own: Option<Block>,
    /// The own block that was submitted last: it may be on disk though nobody confirmed it.
    attempt: Option<Block>,
    /// Of several disks, it is not known whether a majority has `attempt`.
    unconfirmed: bool,
    /// Whether the own block was durably written without a claim: a damaged one is then not written again.
    restored: bool,
    /// The latest version for which a phase 2 block was submitted in this operation.
    open: Option<Version>,
    /// The waiting mark: the version that was current when the wait began.
    ticket: Option<Version>,
    /// The latest version that this host has said it would own if it is handed over.
    announced: Option<Version>,
    /// Up to which version this host has given up in advance what it announced.
    withdrawn: Option<Version>,
    /// How often this host stood back for one that has waited longer.
    stood_back: u32,
    /// How often this host looked again because somebody held the resource for a moment only.
    short_looks: u32,
    /// A scan that was asked for because judging needed fresher records.
    scanned: bool,
    /// The last read came too long after the last scan, and was followed by another scan.
    stale: bool,
    aborts: u32,
    started: Time,
    /// When the last read began.
    looked: Time,
    blocker: Option<Blocker>,
    /// An upgrade has begun to drop its flag: it is exclusive, or lost.
    exposed: bool,
    /// The live owners that the ballot passes over.
    overridden: BTreeSet<Owner>,
    /// What others claimed when the ballot was judged for the last time.
    passed: BTreeSet<(Owner, Version)>,
    /// What stands for a damaged leader, where this operation is to rebuild it.
    stand_in: Option<Leader>,
    /// The stand-in knows nothing of the leader.
    leader_may_be_lost: bool,
    /// It is a repair: what shows a number that no host reaches is damaged.
    repairs: bool,
    /// The own block before somebody else erased or replaced it.
    disowned: Option<Block>,
}

impl Operation {
    /// An acquire. `own` is the block that this host knows it wrote last in this generation, if any. A wish that
    /// doesn't wait ends at once with [`Outcome::Blocked`] where others are in the way; else the caller ends it with
    /// [`Operation::call_off`].
    pub fn acquire(subject: Subject, own: Option<Block>, wish: Wish, now: Time) -> (Operation, Effect) {
        let mut operation = Operation::new(subject, Kind::Acquire, wish, own, now);
        let effect = operation.look();
        (operation, effect)
    }

    /// An acquire that doesn't wait and that rebuilds the leader if it is damaged. `rest` is what can still be read of
    /// it and has its checksum. Without that the leader is lost: the ballot is like any other, but far above all that
    /// the blocks show, and only when nobody who may be active claims any version.
    pub fn rebuild(subject: Subject, own: Option<Block>, rest: Option<Leader>, now: Time) -> (Operation, Effect) {
        let Subject { geometry, lockspace, nonce, resource, .. } = subject;
        let nothing = Leader::new_free(geometry, lockspace, nonce, resource, geometry.max_hosts(), Version::default());
        let (mut operation, effect) = Operation::repairing(subject, own, Wish::exclusive(false), now);
        let rest = rest.filter(|rest| rest.beyond_reach().is_none());
        operation.leader_may_be_lost = rest.is_none();
        operation.stand_in = Some(rest.unwrap_or(nothing));
        (operation, effect)
    }

    /// An acquire that waits, to write the own block anew if it is damaged: that is done whoever holds the resource.
    pub fn repair(subject: Subject, own: Option<Block>, now: Time) -> (Operation, Effect) {
        Operation::repairing(subject, own, Wish::exclusive(true), now)
    }

    fn repairing(subject: Subject, own: Option<Block>, wish: Wish, now: Time) -> (Operation, Effect) {
        let own = own.filter(|own| own.beyond_reach().is_none());
        let (mut operation, effect) = Operation::acquire(subject, own, wish, now);
        operation.repairs = true;
        (operation, effect)
    }

    /// Goes on with an acquire of an earlier process of this generation, which was cut short when it had claimed
    /// `version`: completes it as an exclusive one or, as soon as that is not possible, takes it back.
    pub fn complete(subject: Subject, version: Version, now: Time) -> (Operation, Effect) {
        let mut operation = Operation::new(subject, Kind::Acquire, Wish::exclusive(false), None, now);
        operation.open = Some(version);
        let effect = operation.look();
        (operation, effect)
    }

    fn new(subject: Subject, kind: Kind, wish: Wish, own: Option<Block>, started: Time) -> Operation {
        // An earlier process of this generation may have asked and not withdrawn that.
        let mine = own.as_ref().and_then(|own| own.extension.as_ref());
        let mine = mine.filter(|extension| extension.generation == subject.me.generation.get());
        let announced = mine.and_then(|extension| extension.receives);
        let withdrawn = mine.and_then(|extension| extension.withdrawn);
        Operation {
            subject,
            kind,
            wish,
            goal: Goal::Acquire,
            step: Step::Looking,
            round: 0,
            durable: BTreeSet::new(),
            views: BTreeMap::new(),
            failed: BTreeSet::new(),
            in_flight: false,
            own,
            attempt: None,
            unconfirmed: false,
            restored: false,
            open: None,
            ticket: None,
            announced,
            withdrawn,
            stood_back: 0,
            short_looks: 0,
            scanned: false,
            stale: false,
            aborts: 0,
            started,
            looked: started,
            blocker: None,
            exposed: false,
            overridden: BTreeSet::new(),
            passed: BTreeSet::new(),
            stand_in: None,
            leader_may_be_lost: false,
            repairs: false,
            disowned: None,
        }
    }

    /// The own block as last known to be on disk.
    pub const fn own_block(&self) -> Option<&Block> {
        self.own.as_ref()
    }

    /// Who was in the way when the resource was judged last.
    pub const fn blocker(&self) -> Option<&Blocker> {
        self.blocker.as_ref()
    }

    /// When the last read began, by which this operation goes.
    pub const fn looked(&self) -> Time {
        self.looked
    }

    /// Whether an upgrade has dropped its flag, or is about to: the resource may be taken by force from then on.
    pub const fn is_exposed(&self) -> bool {
        self.exposed
    }

    /// The owners that lived when this operation took the resource over by force: the last one, and any before it that
    /// was passed over in the same way and has not given up yet.
    pub const fn overridden(&self) -> &BTreeSet<Owner> {
        &self.overridden
    }

    /// What others claimed when the ballot was judged for the last time: of owners that were gone by then, and of those
    /// that were passed over.
    pub const fn passed(&self) -> &BTreeSet<(Owner, Version)> {
        &self.passed
    }

    /// Takes in what happened. `None`: wait for what the other disks say. `random` is any number.
    pub fn step(
        &mut self,
        round: u32,
        event: Event,
        observer: &mut Observer,
        now: Time,
        random: u64,
    ) -> Option<Effect> {
        if round != self.round {
            return None;
        }
        match event {
            Event::Woke | Event::Settled => Some(self.look()),
            Event::Scanned => {
                self.scanned = true;
                match std::mem::replace(&mut self.step, Step::Pausing) {
                    // The blocks were read too long after the last scan: read them again, in the same phase.
                    Step::Reading(ballot, durable) => Some(self.read(ballot, durable)),
                    _ => Some(self.look()),
                }
            }
            Event::Wrote { disk, written } => self.wrote(disk, written, now, random),
            Event::ReadFailed { disk } => {
                self.failed.insert(disk);
                self.without_majority().then(|| self.retry(now, random))
            }
            Event::Read { disk, span, since, mut view } => {
                self.looked = span.started;
                if self.repairs {
                    let mine = self.attempt.as_ref().or(self.own.as_ref());
                    view = view.within_reach(mine.map(|block| (self.subject.me.host, block)));
                }
                if !Rule::DamagedIsNotEmpty.is_in_force() {
                    view.blocks.retain(|_, seen| seen.good().is_some());
                }
                // A host that joined after the scan can't have written a block before it checked its delta lease. Who
                // only takes back what is its own needs no other host's block.
                let fresh = span.ended.since(since) < self.subject.timeouts.shortest_join()
                    || !Rule::CoverageIsFresh.is_in_force();
                let ballot = matches!(self.step, Step::Reading(..));
                if fresh || (!self.wants() && !ballot) {
                    self.stale = false;
                    self.saw(disk, view, observer, now, random)
                } else if !self.wants() {
                    Some(self.look())
                } else if std::mem::take(&mut self.stale) {
                    // Scanning and reading took too long, or scanning failed: again after a pause.
                    Some(self.retry(now, random))
                } else {
                    self.stale = true;
                    Some(self.scan())
                }
            }
        }
    }
}
