//! A lease on a resource: one consensus instance for each version, a leader record that says what was decided
//! last, and the rules for when the next version may be begun.
//!
//! Not in here: I/O, timers, the caller's deadline, and which hosts' blocks a read covers (the caller says how old its
//! knowledge of that is, see [`Event::Read`]).
//!
//! Words: a host *claims* a version when its own block, not released, belongs to that instance and names it as owner. It
//! may hold a version only if it claims it, so ownership can be rebuilt from the blocks; the leader is a record of what
//! was decided that a late write can set back.
//!
//! Invariants:
//! - Instance n is begun only when the owner that the leader names is gone or gave its version up, and no generation
//!   that may be active claims a version between the leader's and n.
//! - The own block is overwritten only by a later step of its instance or by a later instance, so an accepted value and
//!   a release are never erased.
//! - From the submission of phase 2 on the outcome is open: this machine ends only when it holds, or when its block says
//!   that it gave the version up.
//! - "Held" is said only of a version that is decided, that the own block claims, and that a fresh read or a confirmed
//!   write of the leader shows; or, of a shared hold, when the own block's flag was there before anybody who could own a
//!   later version looked.

mod handover;
mod judging;
mod sharing;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::area::{AreaView, claim, claimed};
use super::ballot::{Ballot, Progress};
use super::liveness::Observer;
use super::rules::in_force;
use super::{Defect, Seen, Span, Written};
use crate::format::{Block, BlockExtension, Geometry, Leader};
use crate::timeouts::Timeouts;
use crate::types::{HostId, LeaseMode, Name, Owner, Time, Version};

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
    /// The resource's name.
    pub resource: Name,
    /// The lockspace's timeouts.
    pub timeouts: Timeouts,
    /// How many disks hold a copy of the resource area; a majority of them decides.
    pub disks: usize,
}

/// What the caller of the machine does next. An effect with a round is reported back with it; an answer of an earlier
/// round is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// On every disk, read the leader and the blocks of all hosts in use, in one I/O.
    Read(u32),
    /// Write the own block to every disk.
    WriteBlock(u32, Block),
    /// Write the leader to every disk.
    WriteLeader(u32, Leader),
    /// Read the delta records of all host ids into the observer.
    Scan(u32),
    /// Wait until no write of this host to this area is in flight.
    Settle(u32),
    /// Do nothing until then.
    Wait(u32, Time),
    /// The operation is over.
    Done(Outcome),
}

/// What happened to an effect, or to one disk's part in it.
#[expect(clippy::large_enum_variant, reason = "one for each I/O, which costs far more than moving it")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `disk` was read. `since` is the start of the last scan of all host ids, which chose which blocks were read.
    Read {
        /// Which disk.
        disk: usize,
        /// When.
        span: Span,
        /// See above.
        since: Time,
        /// What it showed.
        view: AreaView,
    },
    /// `disk` could not be read, or not in time.
    ReadFailed {
        /// Which disk.
        disk: usize,
    },
    /// A write to `disk` ended, or its time did.
    Wrote {
        /// Which disk.
        disk: usize,
        /// How.
        written: Written,
    },
    /// The scan is complete, or failed: judging goes by what the observer has.
    Scanned,
    /// Nothing is in flight any more.
    Settled,
    /// The wait is over.
    Woke,
}

/// Who is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blocker {
    /// The owner, or the host whose block is damaged.
    pub host: HostId,
    /// The generation that owns, when it is known.
    pub owner: Option<Owner>,
    /// The version that it has or may have.
    pub version: Version,
    /// When it could be taken over if its host shows no further life. `None`: not known yet.
    pub free_at: Option<Time>,
    /// What it has.
    pub hold: Hold,
}

/// What somebody who is in the way has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// The resource.
    Exclusive,
    /// The resource for a moment, until it has noted that it shares it.
    Short,
    /// The resource together with others.
    Shared,
    /// A damaged block: it may hold anything until its host writes it anew or is gone.
    Damaged,
}

/// Why an operation can't be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The leader record is damaged.
    LeaderDamaged(Defect),
    /// The area was given up: there is no resource here.
    Cleared,
    /// The leader names another resource, another lockspace or other sizes.
    Foreign(Box<Leader>),
    /// The resource has room for fewer hosts.
    HostIdTooLarge {
        /// How many.
        num_hosts: u64,
    },
    /// A read or write failed.
    Storage,
    /// The own block holds what this host did not write.
    OwnBlockChanged,
    /// A version or ballot number can't grow any more.
    Exhausted,
    /// The resource is not at the version that was expected. Nothing was written.
    VersionChanged {
        /// The version that it is at.
        found: Version,
    },
    /// The owner can't be overridden: it is a sanlock host, which would not notice. Nothing was written.
    NotForced(Blocker),
    /// Nobody is there who could hand the resource over: it is free, or its owner is gone.
    NotHandedOver {
        /// The version that it is at.
        version: Version,
    },
    /// The destination of a handover does not ask for the next version, or not any more. The version is held as before.
    NotAsked,
    /// What is shared is not handed over. It is held as before.
    NotAlone,
    /// A handover of what is held was begun and nothing came of it: it can't be shared any more, only released.
    HandoverBegun,
    /// Two that share both wait to hold the resource alone. This one still shares it.
    WouldDeadlock(Blocker),
    /// The version was taken over by force before it could be shared.
    Overtaken {
        /// By whom, as the leader says.
        owner: Option<Owner>,
        /// Its version.
        version: Version,
    },
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The lease is held.
    Held(Version),
    /// The lease is not held, and nothing of this attempt is left behind that another host would respect.
    Blocked(Blocker),
    /// The lease is not held; the attempt was called off. As above.
    GaveUp,
    /// The lease is not held. As above.
    Refused(Refusal),
    /// The lease was held, and is free on disk.
    Released,
    /// The lease was held, and another host, whom it was handed over to, owns this version of it.
    HandedOver(Version),
}

/// What an operation began as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// With nothing held.
    Acquire,
    /// From shared to exclusive: whatever becomes of it, at least shared.
    Upgrade,
    /// From exclusive to shared.
    Downgrade,
    Release,
    /// From exclusive to nothing: another host is to own it.
    HandOver {
        held: Version,
        to: Owner,
    },
}

/// What a host has of a resource when an operation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// A lease.
    Held(LeaseMode),
    /// Nothing to act on, but its block keeps others away: it was taken by force while the hold was changed. The holder
    /// must stop what it protects, and then release.
    Lost,
}

/// What the operation is to achieve. It only ever moves down this list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Goal {
    Acquire,
    /// Leave nothing on disk that others respect, then end with this.
    Leave(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Reading, to judge anew.
    Looking,
    /// Running a ballot: writing its block, then reading.
    Writing(Ballot),
    /// With the disks where the block is durable: only they count.
    Reading(Ballot, BTreeSet<usize>),
    /// Writing what was decided into the leader; then look again, or hold.
    Committing { version: Version, hold: bool },
    /// Writing the own block with a waiting mark, or the claim in it anew.
    Marking,
    /// Writing into the own block how the version that it owns is held.
    Noting,
    /// Writing the released flag.
    Resigning,
    /// Freeing the leader.
    Freeing,
    /// Waiting for time, a scan or the end of a late write; then look again.
    Pausing,
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
    /// What stands for a damaged leader, where this operation is to rebuild it.
    stand_in: Option<Leader>,
    /// The stand-in knows nothing of the leader.
    leader_may_be_lost: bool,
}

/// A burn goes up to this many versions beyond what is needed: a damaged block that held a burn itself, of which nothing
/// is seen any more, then does not stand at the same instance but with a chance of one in 2^32.
const BURN_DISTANCE: u64 = 1 << 32;
/// A lost leader is rebuilt so many versions beyond what the blocks show. Only its first version may be one that they
/// don't: what the area had when the resource was made. No 255 burns before that could have come this far.
const REBUILD_DISTANCE: u64 = 1 << 40;
/// How often a host lets one that has waited longer go first before it takes a free lease itself.
const MAX_STAND_BACK: u32 = 2;
/// How often a host looks again at what another holds for a moment only, before it takes that for a longer one: by then
/// more time has passed than for which one backs off whose value others have committed.
const MAX_SHORT_LOOKS: u32 = 11;

impl Operation {
    /// An acquire. `own` is the block that this host knows it wrote last in this generation, if any. A wish that doesn't
    /// wait ends at once with [`Outcome::Blocked`] where others are in the way; else the caller ends it with
    /// [`Operation::call_off`].
    pub fn acquire(subject: Subject, own: Option<Block>, wish: Wish, now: Time) -> (Operation, Effect) {
        let mut operation = Operation::new(subject, Kind::Acquire, wish, own, now);
        let effect = operation.look();
        (operation, effect)
    }

    /// Changes how the resource is held, whose block is `own`, to the other `mode`. To exclusive it is an acquire that
    /// shares until it owns: when it ends without, also by [`Operation::call_off`], the resource is held shared as
    /// before. From when it drops its flag, and from the start when it is to shared, it can't be called off, and the
    /// resource may be taken by force: see [`Operation::leaves`].
    pub fn convert(subject: Subject, own: Block, mode: LeaseMode, wait: bool, now: Time) -> (Operation, Effect) {
        let kind = if mode == LeaseMode::Exclusive { Kind::Upgrade } else { Kind::Downgrade };
        let wish = Wish { mode, wait, basis: Basis::Any };
        let mut operation = Operation::new(subject, kind, wish, Some(own.clone()), now);
        let effect = match mode {
            LeaseMode::Exclusive => operation.look(),
            // The flag would stand in a block of a version that this host does not own.
            LeaseMode::Shared if claimed(operation.subject.me.host, &own).is_none() => {
                Effect::Done(Outcome::Refused(Refusal::HandoverBegun))
            }
            LeaseMode::Shared => {
                operation.open = Some(own.instance);
                operation.note_flag(own)
            }
        };
        (operation, effect)
    }

    /// An acquire that doesn't wait and that rebuilds the leader if it is damaged. `rest` is what can still be read of it
    /// and has its checksum. Without that the leader is lost: the ballot is like any other, but far above all that the
    /// blocks show, and only when nobody who may be active claims any version.
    pub fn rebuild(subject: Subject, own: Option<Block>, rest: Option<Leader>, now: Time) -> (Operation, Effect) {
        let Subject { geometry, lockspace, resource, .. } = subject;
        let nothing = Leader::new_free(geometry, lockspace, resource, geometry.max_hosts(), Version::default());
        let (mut operation, effect) = Operation::acquire(subject, own, Wish::exclusive(false), now);
        operation.leader_may_be_lost = rest.is_none();
        operation.stand_in = Some(rest.unwrap_or(nothing));
        (operation, effect)
    }

    /// Goes on with an acquire of an earlier process of this generation, which was cut short when it had claimed `version`:
    /// completes it as an exclusive one or, as soon as that is not possible, takes it back.
    pub fn complete(subject: Subject, version: Version, now: Time) -> (Operation, Effect) {
        let mut operation = Operation::new(subject, Kind::Acquire, Wish::exclusive(false), None, now);
        operation.open = Some(version);
        let effect = operation.look();
        (operation, effect)
    }

    /// A release of what `own` says that this host holds, exclusive or shared.
    pub fn release(subject: Subject, own: Block, now: Time) -> (Operation, Effect) {
        let shares = own.shared == Some(subject.me.generation);
        let mode = if shares { LeaseMode::Shared } else { LeaseMode::Exclusive };
        let wish = Wish { mode, wait: true, basis: Basis::Any };
        let mut operation = Operation::new(subject, Kind::Release, wish, Some(own.clone()), now);
        operation.goal = Goal::Leave(Outcome::Released);
        let effect = operation.resign(own);
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
            stand_in: None,
            leader_may_be_lost: false,
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

    /// What the host has after this operation has ended with `outcome`.
    pub fn leaves(&self, outcome: &Outcome) -> After {
        match (outcome, self.kind) {
            (Outcome::Refused(Refusal::NotAlone), _) => After::Held(LeaseMode::Shared),
            (Outcome::Refused(Refusal::HandoverBegun), _) => After::Held(LeaseMode::Exclusive),
            (Outcome::Refused(Refusal::Overtaken { .. }), Kind::HandOver { .. }) if !self.has_ceded() => After::Lost,
            (Outcome::Held(_), _) => After::Held(self.wish.mode),
            (_, Kind::Upgrade) if !self.exposed => After::Held(LeaseMode::Shared),
            (_, Kind::Upgrade | Kind::Downgrade) => After::Lost,
            (_, Kind::HandOver { .. }) if !self.has_ceded() => After::Held(LeaseMode::Exclusive),
            (_, Kind::Acquire | Kind::Release | Kind::HandOver { .. }) => After::Nothing,
        }
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

    /// Whether the operation must still write before it may end: others could respect what it has on disk.
    pub fn is_open(&self) -> bool {
        let me = self.subject.me;
        let claims = self.own.as_ref().and_then(|own| claim(me.host, own)).is_some_and(|(_, owner)| owner == me);
        // What is still held must be known.
        let forgotten = self.kind == Kind::Upgrade && self.own.is_none();
        claims
            || forgotten
            || self.has_flagged()
            || self.open.is_some() && in_force!(OutcomeStaysOpen)
            || self.ticket.is_some()
            || self.announced.is_some()
            || self.goal == Goal::Leave(Outcome::Released)
    }

    /// Turns an acquire into its undoing. The effect under way is carried out and reported first, as always.
    pub fn call_off(&mut self) {
        if self.goal == Goal::Acquire && !self.is_bound() {
            self.goal = Goal::Leave(self.blocker.clone().map_or(Outcome::GaveUp, Outcome::Blocked));
        }
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
                if !in_force!(DamagedIsNotEmpty) {
                    view.blocks.retain(|_, seen| seen.good().is_some());
                }
                // A host that joined after the scan can't have written a block before it checked its delta lease. Who
                // only takes back what is its own needs no other host's block.
                let fresh =
                    span.ended.since(since) < self.subject.timeouts.shortest_join() || !in_force!(CoverageIsFresh);
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

    // What is collected from the disks in a round.

    fn next_round(&mut self) -> u32 {
        self.round = self.round.wrapping_add(1);
        self.durable.clear();
        self.views.clear();
        self.failed.clear();
        self.in_flight = false;
        self.round
    }

    const fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.subject.disks
    }

    fn without_majority(&self) -> bool {
        !self.is_majority(self.subject.disks - self.failed.len())
    }

    fn wrote(&mut self, disk: usize, written: Written, now: Time, random: u64) -> Option<Effect> {
        match written {
            Written::Done => self.durable.insert(disk),
            Written::Failed => self.failed.insert(disk),
            Written::InFlight => {
                self.in_flight = in_force!(OneWriteInFlight);
                self.failed.insert(disk)
            }
        };
        if self.is_majority(self.durable.len()) {
            return Some(self.written(now, random));
        }
        if !self.without_majority() {
            return None;
        }
        // The released flag is what frees the lease; a leader that can't be freed is only out of date.
        if self.step == Step::Freeing || self.step == Step::Resigning && !in_force!(ReleaseIsDurable) {
            return Some(self.freed());
        }
        if self.in_flight {
            self.step = Step::Pausing;
            return Some(Effect::Settle(self.next_round()));
        }
        Some(self.retry(now, random))
    }

    /// The step's write is durable on a majority.
    fn written(&mut self, now: Time, random: u64) -> Effect {
        if let Step::Writing(_) | Step::Marking | Step::Noting | Step::Resigning = self.step {
            self.unconfirmed = false;
            self.own.clone_from(&self.attempt);
        }
        match std::mem::replace(&mut self.step, Step::Pausing) {
            Step::Writing(ballot) => {
                let durable = std::mem::take(&mut self.durable);
                self.read(ballot, durable)
            }
            Step::Committing { version, hold } if hold && self.wants() => self.owned(version),
            Step::Noting => self.noted(),
            Step::Freeing => self.freed(),
            Step::Marking => self.pause(now + self.subject.timeouts.poll()),
            Step::Resigning => {
                self.restored = true;
                self.announced = None;
                match self.wants() {
                    // A flag that came too late: who was in between goes first.
                    true => self.back_off(now, random),
                    false => self.look(),
                }
            }
            _ => self.look(),
        }
    }

    fn saw(&mut self, disk: usize, view: AreaView, observer: &mut Observer, now: Time, random: u64) -> Option<Effect> {
        if self.failed.contains(&disk) {
            return None;
        }
        match std::mem::replace(&mut self.step, Step::Pausing) {
            Step::Reading(mut ballot, durable) => {
                let committed = view.leader.good().is_some_and(|leader| leader.version >= ballot.instance());
                let back = |host: &HostId| !observer.judge_host(*host).is_gone() && in_force!(DamagedIsJudged);
                let back = ballot.ignored().iter().copied().find(back);
                let progress = match back {
                    // Another host committed this instance, or a later one.
                    _ if committed => Progress::Superseded,
                    // Somebody has taken that host id since: what its damaged block holds counts again.
                    Some(host) if view.block(host).is_none() => Progress::Damaged(host),
                    _ => ballot.read(disk, &view),
                };
                self.views.insert(disk, view);
                match progress {
                    Progress::Waiting => {
                        self.step = Step::Reading(ballot, durable);
                        None
                    }
                    Progress::Prepared => Some(self.propose(ballot, observer, now)),
                    Progress::Decided(owner) => Some(self.commit(owner, &ballot, now)),
                    // Another host burns too, further on: at once, each would only pass over the other again.
                    Progress::Superseded if !ballot.ignored().is_empty() => {
                        self.aborts += 1;
                        Some(self.back_off(now, random))
                    }
                    Progress::Superseded => Some(self.look()),
                    Progress::Aborted => {
                        self.aborts += 1;
                        Some(self.back_off(now, random))
                    }
                    Progress::Damaged(_) | Progress::OwnBlockChanged if self.subject.disks > 1 => {
                        self.failed.insert(disk);
                        if self.without_majority() {
                            return Some(self.retry(now, random));
                        }
                        self.step = Step::Reading(ballot, durable);
                        None
                    }
                    // Written a moment ago: writing it at once again would only spin.
                    Progress::Damaged(host) if host == self.subject.me.host => Some(self.retry(now, random)),
                    Progress::Damaged(_) => Some(self.look()),
                    Progress::OwnBlockChanged => Some(self.refuse(Refusal::OwnBlockChanged)),
                }
            }
            step => {
                self.step = step;
                if self.subject.disks > 1 && view.bad_blocks().next().is_some() {
                    self.failed.insert(disk);
                    return self.without_majority().then(|| self.retry(now, random));
                }
                self.views.insert(disk, view);
                if !self.is_majority(self.views.len()) {
                    return None;
                }
                let view = merged(std::mem::take(&mut self.views));
                Some(self.judge(&view, observer, now, random))
            }
        }
    }

    // Effects.

    fn look(&mut self) -> Effect {
        self.step = Step::Looking;
        Effect::Read(self.next_round())
    }

    fn scan(&mut self) -> Effect {
        Effect::Scan(self.next_round())
    }

    fn read(&mut self, ballot: Ballot, durable: BTreeSet<usize>) -> Effect {
        let round = self.next_round();
        self.failed = (0..self.subject.disks).filter(|disk| !durable.contains(disk)).collect();
        self.step = Step::Reading(ballot, durable);
        Effect::Read(round)
    }

    fn pause(&mut self, until: Time) -> Effect {
        self.step = Step::Pausing;
        Effect::Wait(self.next_round(), until)
    }

    /// Another look after a time between one and two polls, so that those who wait don't march in step.
    fn look_later(&mut self, now: Time, random: u64, until: Option<Time>) -> Effect {
        let poll = self.subject.timeouts.poll();
        let later = now + poll + fraction(poll, random);
        self.pause(until.filter(|until| *until > now).map_or(later, |until| until.min(later)))
    }

    /// Another look soon, then later and later, at what another holds for a moment only.
    fn look_soon(&mut self, now: Time, random: u64) -> Effect {
        self.short_looks += 1;
        let bound = self.longest_back_off() / 2u32.pow(MAX_SHORT_LOOKS.saturating_sub(self.short_looks));
        self.pause(now + bound / 2 + fraction(bound, random))
    }

    /// An I/O failed on too many disks. Who waits goes on until called off, and so does an undoing.
    fn retry(&mut self, now: Time, random: u64) -> Effect {
        match self.wants() && !self.wish.wait && !self.is_bound() {
            true => self.refuse(Refusal::Storage),
            false => self.look_later(now, random, None),
        }
    }

    fn longest_back_off(&self) -> Duration {
        self.subject.timeouts.poll() * 4
    }

    /// After an abort: at random within the time an attempt takes, growing with every abort.
    fn back_off(&mut self, now: Time, random: u64) -> Effect {
        let attempt = now.since(self.started).clamp(Duration::from_micros(100), self.subject.timeouts.io());
        let bound = (attempt * 2u32.saturating_pow(self.aborts.min(6))).min(self.longest_back_off());
        self.pause(now + fraction(bound, random))
    }

    /// Ends without the lease: undoes first what others could respect.
    fn refuse(&mut self, refusal: Refusal) -> Effect {
        self.leave(Outcome::Refused(refusal))
    }

    fn leave(&mut self, outcome: Outcome) -> Effect {
        if self.goal == Goal::Acquire {
            self.goal = Goal::Leave(outcome);
        }
        match self.is_open() {
            true => self.look(),
            false => self.end(),
        }
    }

    fn end(&mut self) -> Effect {
        match &self.goal {
            Goal::Leave(outcome) => Effect::Done(outcome.clone()),
            Goal::Acquire => Effect::Done(Outcome::GaveUp),
        }
    }

    const fn wants(&self) -> bool {
        matches!(self.goal, Goal::Acquire)
    }

    fn extension(&self, waiting: Option<Version>, burned: Option<Version>) -> BlockExtension {
        let shares = self.wish.mode == LeaseMode::Shared;
        let generation = self.subject.me.generation.get();
        BlockExtension { generation, waiting, burned, shares, holds: None, receives: None, withdrawn: self.withdrawn }
    }

    /// The own block with its claim given up, and with another waiting mark.
    fn given_up(&self, own: Block, waiting: Option<Version>) -> Block {
        let released = own.released || claimed(self.subject.me.host, &own).is_some();
        let burned = own.extension.as_ref().and_then(|extension| extension.burned);
        let extension = self.extension(waiting, burned);
        // What is given up, and what only waits, keeps nobody from sharing.
        let shares = extension.shares || self.kind == Kind::Upgrade;
        Block { released, shared: self.kept_flag(), extension: Some(BlockExtension { shares, ..extension }), ..own }
    }

    fn resign(&mut self, own: Block) -> Effect {
        self.withdraw();
        let block = self.given_up(own, None);
        self.write_own(Step::Resigning, block)
    }

    /// Until the write is confirmed nobody knows what the own block holds.
    fn write_own(&mut self, step: Step, block: Block) -> Effect {
        self.own = None;
        self.attempt = Some(block.clone());
        self.unconfirmed = self.subject.disks > 1;
        self.step = step;
        Effect::WriteBlock(self.next_round(), block)
    }
}

/// `part` of a whole that `random` picks.
fn fraction(whole: Duration, random: u64) -> Duration {
    let nanos = (u128::from(random) * whole.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// One view out of those of a majority of disks: the latest leader, and each host's latest block. A disk with a damaged
/// block is not among them, unless it is the only one.
fn merged(mut views: BTreeMap<usize, AreaView>) -> AreaView {
    let Some((_, mut all)) = views.pop_first() else {
        unreachable!("a majority of the disks was read");
    };
    for view in views.into_values() {
        let newer = match (view.leader.good(), all.leader.good()) {
            (Some(leader), Some(best)) => leader.version > best.version,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if newer {
            all.leader = view.leader;
        }
        for (host, seen) in view.blocks {
            let order =
                |seen: &Seen<Block>| seen.good().map(|block| (block.instance, block.mbal, block.bal, block.released));
            let best = all.blocks.entry(host).or_insert_with(|| seen.clone());
            if order(&seen) > order(best) {
                *best = seen;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeouts::Profile;
    use crate::types::Generation;

    fn subject() -> Result<Subject, Box<dyn std::error::Error>> {
        let host = HostId::new(1).ok_or("a host id")?;
        let generation = Generation::new(1).ok_or("a generation")?;
        Ok(Subject {
            me: Owner { host, generation },
            geometry: Geometry::default(),
            lockspace: Name::lockspace("test")?,
            resource: Name::resource("demo")?,
            timeouts: Profile::Fast.timeouts(),
            disks: 1,
        })
    }

    /// A machine that stalls for a moment makes a read too old for its scan. That must not be for ever: each time there
    /// is another scan.
    #[test]
    fn every_read_that_comes_too_late_after_its_scan_leads_to_another_scan() -> Result<(), Box<dyn std::error::Error>> {
        let subject = subject()?;
        let mut observer = Observer::new(subject.timeouts);
        let leader = Leader::new_free(subject.geometry, subject.lockspace, subject.resource, 2000, Version::new(7));
        let view = AreaView { leader: Seen::Good(leader), blocks: BTreeMap::new() };
        let now = Time::ZERO + subject.timeouts.io() * 10;
        let span = Span { started: now, ended: now };
        let (mut operation, mut effect) = Operation::acquire(subject, None, Wish::exclusive(true), now);
        let mut scans = 0;
        for _ in 0..100 {
            let (round, event) = match effect {
                // The scan was long ago each time.
                Effect::Read(round) => (round, Event::Read { disk: 0, span, since: Time::ZERO, view: view.clone() }),
                Effect::Scan(round) => {
                    scans += 1;
                    (round, Event::Scanned)
                }
                Effect::Wait(round, _) => (round, Event::Woke),
                other => panic!("{other:?} on blocks that may not be all"),
            };
            effect = operation.step(round, event, &mut observer, now, 0).ok_or("one disk")?;
        }
        assert!(scans > 20, "{scans}");
        Ok(())
    }
}
