//! A look at a lease that is held: what one read of its area says of it, and what is written for it.
//!
//! Not in here: when a look is due, until when the lease is held, and what follows from a verdict
//! ([`super::holding`]).
//!
//! The own block is what keeps others away, so it is looked at first. Nobody else writes its sector: where it is
//! readable and is not what this host wrote last, somebody has wiped the area, made it again or set it back. The lease
//! is lost then, because whoever came since has seen nothing of it. Where it is damaged others wait, and this host
//! writes it again.
//!
//! The leader is a cache. While the own block stands, a leader that shows less than what is held comes from a write
//! that landed late, of a host that may be dead by now. That must not end a healthy program: the owner of the version
//! writes it again. But it is no good look either, so an owner that can't write ceases to hold F after the last good
//! one.
//!
//! A late write may also hide that the lease was taken: the taker's leader is gone, and all that is left to show its
//! value is its block, perhaps that of an id that nobody used when this host last read all records. So a leader that is
//! not known to stand since the last good look shows nothing that those may have done who joined after that reading.
//! And one that is damaged or set back is not written again while a damaged block may be that of a taker.

use super::Seen;
use super::area::AreaView;
use super::holding::{Holding, Loss};
use super::liveness::Observer;
use super::resource::Subject;
use super::rules::Rule;
use crate::format::{Block, Leader, Writer};
use crate::types::{LeaseMode, Owner, Time, Version};

/// What a process has of a resource that it may look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glance {
    /// How many operations it has begun on the resource.
    pub begun: u64,
    /// How it holds it.
    pub mode: LeaseMode,
    /// The own block as it is known to be on disk. `None`: an operation is under way that writes it, a change from
    /// shared to exclusive; all that it writes has the flag, until it is [exposed](Holding::expose).
    pub own: Option<Block>,
}

/// What a look has read.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'area> {
    /// The area.
    pub view: &'area AreaView,
    /// Whose blocks were not read can have taken nothing before that.
    pub unseen: Time,
    /// No write of this host to the leader was in flight when the read began.
    pub settled: bool,
}

/// What a look says of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is held as it is to be.
    Good,
    /// It may be, and this host can't put right what is not.
    Unclear,
    /// It may be, and this host is to write what is not right.
    Restore(Restoration),
    /// It is not held any more.
    Lost(Loss),
}

/// What only this host may write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Restoration {
    /// Its own block.
    Block(Block),
    /// The leader of the version that it owns. It may land at any time: the leader is a cache, and its own block says
    /// what it has.
    Leader(Leader),
}

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    /// What it says of the lease.
    pub verdict: Verdict,
    /// Who asks to be handed the lease.
    pub asking: Vec<Owner>,
    /// The leader, where it is right.
    pub(super) leader: Option<Leader>,
    /// Whether a leader with the same bytes is the same one from now on: nobody writes it a second time.
    pub(super) settled: bool,
    /// Whoever may have taken the lease unseen did so after that. `None`: nobody may.
    pub(super) unseen: Option<Time>,
    /// What others claim beside what is held for certain.
    pub(super) passed: Vec<(Owner, Version)>,
}

impl Look {
    /// At what `holding` is the lease on `subject.resource` at `version`. `before` and `after` are what its process had
    /// when the read began and when it had ended. `None`: it says nothing, since an operation was begun in
    /// between: what that wrote, and what others wrote who saw that, can look like a loss.
    pub fn at(
        subject: &Subject,
        (version, holding): (Version, &Holding),
        (before, after): (&Glance, Option<&Glance>),
        Sight { view, unseen, settled }: Sight<'_>,
        observer: &mut Observer,
        now: Time,
    ) -> Option<Look> {
        let undisturbed = after.is_some_and(|after| after.begun == before.begun);
        if !undisturbed && Rule::OwnWorkIsNoLook.is_in_force() {
            return None;
        }
        let me = subject.me;
        let leader = view.leader_of(subject.lockspace, subject.resource).ok();
        let right = leader.filter(|leader| (leader.version, leader.owner) == (version, Some(me)) && !leader.is_free());
        let loss = lost(subject, version, before, view, leader)
            .or_else(|| rival(me, holding, view, leader, observer, now).filter(|_| Rule::RivalEndsHold.is_in_force()));
        let alone = before.mode == LeaseMode::Exclusive;
        // Those who share are shown by their blocks alone.
        let lower = alone && right.is_none() && Rule::LowerLeaderIsNoGoodLook.is_in_force();
        let verdict = match (loss, &before.own) {
            (Some(loss), _) => Verdict::Lost(loss),
            (None, None) if view.block(me.host).is_none() => Verdict::Unclear,
            (None, Some(own)) if view.block(me.host).is_none() => Verdict::Restore(Restoration::Block(own.clone())),
            // It may have been that of a taker, whose block is damaged, too: writing it again would hide that for good.
            (None, Some(_)) if lower && view.unread(observer).next().is_some() => Verdict::Unclear,
            (None, Some(own)) if lower => {
                Verdict::Restore(Restoration::Leader(again(subject, (version, holding), own, leader, now)))
            }
            (None, _) => Verdict::Good,
        };
        let asking = view.destinations(version).map(|(owner, _)| owner).filter(|owner| owner.host != me.host).collect();
        // Where the area was wiped its leader has most likely gone back.
        let certain = leader.is_some_and(|leader| leader.version >= version);
        let passed = view.claimed_by_others(me.host).filter(|(_, other)| certain && *other < version).collect();
        let stands = right.is_some_and(|leader| holding.knows(leader)) || !Rule::NewcomersAreUnseen.is_in_force();
        let unseen = (alone && !stands).then_some(unseen);
        Some(Look { verdict, asking, leader: right.cloned(), settled, unseen, passed })
    }
}

/// What the own block and those of others show that nobody can put right.
fn lost(
    subject: &Subject,
    version: Version,
    before: &Glance,
    view: &AreaView,
    leader: Option<&Leader>,
) -> Option<Loss> {
    let me = subject.me;
    if !holds_still(subject, before, view) && Rule::OwnBlockIsLookedAt.is_in_force() {
        let empty = view.block(me.host).is_some_and(|block| block == Block::default());
        return Some(if empty { Loss::Erased } else { Loss::Replaced });
    }
    let fenced = view.fenced_by(leader, me, version).filter(|_| before.mode == LeaseMode::Exclusive);
    let fenced = fenced.filter(|_| Rule::OwnerVerifies.is_in_force());
    fenced.map(|(owner, version)| Loss::Taken { owner, version })
}

/// Whether the own block is as it is to be, or damaged.
fn holds_still(subject: &Subject, before: &Glance, view: &AreaView) -> bool {
    match view.blocks.get(&subject.me.host) {
        // Others wait for it to be written again, also where a host of an earlier formatting has written over it late.
        Some(Seen::Bad(_)) => true,
        Some(Seen::Good(seen)) => shows(subject, before, seen),
        None => shows(subject, before, &Block::default()),
    }
}

fn shows(subject: &Subject, before: &Glance, seen: &Block) -> bool {
    // Some of what a block says has two names in memory, and one on disk.
    let on_disk = |block: &Block| block.encode(subject.geometry, 0);
    match &before.own {
        Some(own) => on_disk(own) == on_disk(seen),
        None => seen.shared == Some(subject.me.generation),
    }
}

/// Another host that owns the resource alone, as the leader and its own block say, though it did not when this one got
/// it: the area was wiped, the other one saw nothing, and what this host wrote there since hides that.
fn rival(
    me: Owner,
    holding: &Holding,
    view: &AreaView,
    leader: Option<&Leader>,
    observer: &mut Observer,
    now: Time,
) -> Option<Loss> {
    let (owner, version) = view.rival(leader?, me)?;
    let old = holding.has_passed(owner, version) || observer.judge(owner, now).is_gone();
    (!old).then_some(Loss::Taken { owner: Some(owner), version })
}

/// The leader of what is held alone: as it was seen last, or with what can be known of it.
fn again(
    subject: &Subject,
    (version, holding): (Version, &Holding),
    own: &Block,
    leader: Option<&Leader>,
    now: Time,
) -> Leader {
    let Subject { me, geometry, lockspace, nonce, resource, .. } = *subject;
    holding.leader().cloned().unwrap_or_else(|| {
        let num_hosts = leader.map_or(geometry.max_hosts(), |leader| leader.num_hosts);
        let writer = Writer { id: me.host.get(), generation: me.generation.get(), timestamp: now.as_timestamp() };
        let timestamp = own.inp_timestamp.max(1);
        let free = Leader::new_free(geometry, lockspace, nonce, resource, num_hosts, version);
        Leader { owner: Some(me), timestamp, writer, ..free }
    })
}
