//! The own block: what a read says of it, and what an operation writes into it.

use super::{Effect, Kind, Operation, Outcome, Refusal, Step};
use crate::format::{Block, BlockExtension, Leader};
use crate::protocol::area::{AreaView, claim, claimed, withdrawn};
use crate::protocol::ballot::next_mbal;
use crate::protocol::holding::Loss;
use crate::protocol::rules::Rule;
use crate::types::{LeaseMode, Version};

/// What a read says of the own block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnBlock {
    /// It is what it must be.
    Right,
    /// It is damaged, or not known to be on a majority: it must be written anew before anything rests on it.
    Wrong,
    /// An earlier one is there than this host wrote.
    SetBack,
}

impl Operation {
    /// Concludes from what a read shows, and from what this host wrote, what its own block is.
    pub(super) fn recall_own(&mut self, view: &AreaView) -> OwnBlock {
        let order = |block: &Block| (block.instance, block.mbal, block.bal);
        let several = self.subject.disks > 1;
        let over = view.leader.good().map(|leader| leader.version);
        let (own, state) = match (view.block(self.subject.me.host), self.own.take()) {
            // Of several disks, those that were read need not have what was submitted last, while others may.
            (seen, _) if self.unconfirmed && Rule::SubmittedCounts.is_in_force() => {
                (seen.into_iter().chain(self.attempt.clone()).max_by_key(order), OwnBlock::Wrong)
            }
            // Equal but for what its order doesn't tell: a disk that missed the last write was read, too.
            (Some(seen), Some(known)) if several && order(&known) == order(&seen) => (Some(known), OwnBlock::Right),
            // An earlier generation left it on a disk that was not read before.
            (Some(seen), Some(known)) if several && order(&seen) > order(&known) => (Some(seen), OwnBlock::Wrong),
            // What was there was put back by somebody else, or read from elsewhere.
            (Some(seen), Some(known)) if order(&known) > order(&seen) && Some(known.instance) > over => {
                (Some(known), OwnBlock::SetBack)
            }
            (Some(seen), _) => (Some(seen), OwnBlock::Right),
            // Nothing of ours is in flight: it was what was submitted last, or what was there before. Writing the
            // later one is what a late landing would have done.
            (None, known) => (known.or_else(|| self.attempt.clone()), OwnBlock::Wrong),
        };
        self.own = own;
        let before = self.own_block().and_then(|own| withdrawn(self.subject.me, own));
        self.withdrawn = self.withdrawn.max(before);
        state
    }

    /// Whether what this host held when the operation began, and has not given up in it, is not in its own block any
    /// more: somebody has erased or replaced it, and what others have done since is not to be hidden by writing it
    /// again. A damaged block is not that, nor one that another disk may have.
    pub(super) fn lost_hold(&mut self, view: &AreaView) -> Option<Effect> {
        let me = self.subject.me;
        let seen = view.block(me.host).filter(|_| self.subject.disks == 1 && Rule::HoldIsNotMadeUp.is_in_force())?;
        let (claims, shares) = (claim(me.host, &seen), seen.shared == Some(me.generation));
        let holds = match self.kind {
            Kind::Upgrade if !self.exposed => shares || !Rule::UpgradeKeepsFlag.is_in_force(),
            Kind::Upgrade => claims.is_some_and(|(_, owner)| owner == me),
            Kind::Downgrade => self.open == Some(seen.instance) && (claims.is_some() || shares),
            Kind::HandOver { held, .. } if self.open.is_none() => claims == Some((held, me)),
            Kind::Acquire | Kind::Release | Kind::HandOver { .. } => true,
        };
        if holds {
            return None;
        }
        // What it was, as far as is known: without it nobody could give back what is lost.
        self.own = self.own.take().or_else(|| self.attempt.take());
        let loss = if seen == Block::default() { Loss::Erased } else { Loss::Replaced };
        Some(Effect::Done(Outcome::Refused(Refusal::NotHeld(loss))))
    }

    /// The own block, saying that this host gave up the version that the leader names it for, where nothing says so any
    /// more: that was wiped, and the leader landed late. A host that this one waits for would wait for it, too.
    pub(super) fn disclaimed(&self, view: &AreaView, leader: &Leader) -> Option<Block> {
        let me = self.subject.me;
        let own = self.own.clone().filter(|own| own.instance < leader.version && view.block(me.host).is_some())?;
        let holds_nothing = self.kind == Kind::Acquire && self.open.is_none() && !self.receives();
        if !holds_nothing || view.named(leader) != Some(me) {
            return None;
        }
        let mbal = next_mbal(me.host, self.subject.geometry.max_hosts(), [own.mbal].into_iter())?;
        let given_up = self.given_up(own, self.ticket);
        let (instance, inp, inp_timestamp) = (leader.version, Some(me), leader.timestamp);
        Some(Block { mbal, bal: mbal, inp, inp_timestamp, instance, released: true, ..given_up })
    }

    pub(super) fn extension(&self, waiting: Option<Version>, burned: Option<Version>) -> BlockExtension {
        let shares = self.wish.mode == LeaseMode::Shared;
        let (generation, nonce) = (self.subject.me.generation.get(), self.subject.nonce);
        let withdrawn = self.withdrawn;
        BlockExtension { generation, nonce, waiting, burned, shares, withdrawn, ..BlockExtension::default() }
    }

    /// The own block with its claim given up, and with another waiting mark.
    pub(super) fn given_up(&self, own: Block, waiting: Option<Version>) -> Block {
        let released = own.released || claimed(self.subject.me.host, &own).is_some();
        let burned = own.extension.as_ref().and_then(|extension| extension.burned);
        let extension = self.extension(waiting, burned);
        // What is given up, and what only waits, keeps nobody from sharing.
        let shares = extension.shares || self.kind == Kind::Upgrade;
        Block { released, shared: self.kept_flag(), extension: Some(BlockExtension { shares, ..extension }), ..own }
    }

    /// Until the write is confirmed nobody knows what the own block holds.
    pub(super) fn write_own(&mut self, step: Step, block: Block) -> Effect {
        self.own = None;
        self.attempt = Some(block.clone());
        self.unconfirmed = self.subject.disks > 1;
        self.step = step;
        Effect::WriteBlock(self.next_round(), block)
    }
}
