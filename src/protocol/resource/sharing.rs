//! Holding a resource together with others, and changing between that and holding it alone.
//!
//! A host that wants to share owns the resource for a moment. Then one write of its block sets its flag and gives the
//! version up, so no host sees the version given up and not the flag. Who wants the resource alone looks at the flags
//! after its own block has become visible (phase 1), and is refused while one of a live generation is set.
//!
//! That leaves one gap: the flag may land late, when the host was taken over by force, or believed dead and come back.
//! So who has set its flag reads everything once more. If a block of a later instance is there that is not of somebody
//! who shares too, its owner may have looked before the flag landed: the flag is taken back. Who looks later sees the
//! flag.

use super::own_block::OwnBlock;
use super::{Basis, Effect, Goal, Kind, Operation, Outcome, Refusal, Step, Subject, Wish};
use crate::format::{Block, Leader};
use crate::protocol::area::{AreaView, claimed};
use crate::protocol::liveness::Observer;
use crate::protocol::rules::Rule;
use crate::types::{Generation, LeaseMode, Time, Version};

impl Operation {
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

    /// Whether this changes what is shared to exclusive, and every block that it has written has the flag.
    pub fn keeps_flag(&self) -> bool {
        self.kind == Kind::Upgrade && !self.exposed
    }

    /// The flag that the own block carries through a ballot or keeps when nothing comes of it: an upgrade holds the
    /// resource shared all along.
    pub(super) fn kept_flag(&self) -> Option<Generation> {
        (self.kind == Kind::Upgrade && Rule::UpgradeKeepsFlag.is_in_force()).then_some(self.subject.me.generation)
    }

    /// `version` is decided, the own block claims it and the leader shows it: holds it, once the own block says how.
    pub(super) fn owned(&mut self, version: Version) -> Effect {
        let Some(own) = self.own.clone() else { return self.look() };
        match self.wish.mode {
            LeaseMode::Shared => self.note_flag(own),
            LeaseMode::Exclusive if own.shared.is_some() => {
                self.exposed = true;
                self.note(Block { shared: None, ..own })
            }
            LeaseMode::Exclusive => Effect::Done(Outcome::Held(version)),
        }
    }

    /// Whether a conversion has gone so far that it can't be taken back: who shared or owned may have gone by what it
    /// wrote.
    pub(super) fn is_bound(&self) -> bool {
        self.kind == Kind::Downgrade || self.exposed
    }

    /// A write of a conversion that can't be taken back was not confirmed: writes it again, unless it is too late.
    pub(super) fn finish_conversion(
        &mut self,
        own: Block,
        state: OwnBlock,
        view: &AreaView,
        leader: &Leader,
    ) -> Effect {
        match self.kind {
            Kind::Downgrade => self.note_flag(own),
            _ if view.fenced(self.subject.me, own.instance).is_some() => self.overtaken(own.instance, view, leader),
            _ if state != OwnBlock::Right => self.note(own),
            _ => self.owned(own.instance),
        }
    }

    /// Who came after what this host owned is not known where it has only begun to.
    fn overtaken(&self, held: Version, view: &AreaView, leader: &Leader) -> Effect {
        let begun = (None, view.latest_instance());
        let (owner, version) = view.fenced_by(Some(leader), self.subject.me, held).unwrap_or(begun);
        Effect::Done(Outcome::Refused(Refusal::Overtaken { owner, version }))
    }

    /// Gives up the version that the own block claims, and sets the flag, in one write.
    pub(super) fn note_flag(&mut self, own: Block) -> Effect {
        let extension = Some(self.extension(None, own.extension.as_ref().and_then(|extension| extension.burned)));
        let released = Rule::FlagGivesVersionUp.is_in_force();
        self.note(Block { released, shared: Some(self.subject.me.generation), extension, ..own })
    }

    fn note(&mut self, block: Block) -> Effect {
        self.write_own(Step::Noting, block)
    }

    /// The own block as it was noted is durable.
    pub(super) fn noted(&mut self) -> Effect {
        let Some(version) = self.own.as_ref().map(|own| own.instance) else { return self.look() };
        match self.wish.mode {
            LeaseMode::Exclusive if self.wants() => Effect::Done(Outcome::Held(version)),
            LeaseMode::Shared if !Rule::FlagIsChecked.is_in_force() => Effect::Done(Outcome::Held(version)),
            LeaseMode::Exclusive | LeaseMode::Shared => self.look(),
        }
    }

    /// Whether the own block on disk carries the flag that this operation is to set.
    pub(super) fn has_flagged(&self) -> bool {
        let flag = self.own.as_ref().and_then(|own| own.shared);
        self.kind != Kind::Upgrade && flag == Some(self.subject.me.generation)
    }

    /// A read that began after the flag was durable: whether it stands, or may have come too late.
    pub(super) fn check_flag(
        &mut self,
        view: &AreaView,
        leader: &Leader,
        state: OwnBlock,
        observer: &Observer,
        now: Time,
        random: u64,
    ) -> Effect {
        let Some(own) = self.own.clone() else { return self.look() };
        if state != OwnBlock::Right {
            return self.note(own);
        }
        let version = own.instance;
        let unread = view.unread(observer).next().is_some();
        let overtaken = view.overtakes(self.subject.me, leader, version);
        if self.kind == Kind::Downgrade {
            // The holder is to learn of it first: until then the flag keeps others away.
            if overtaken {
                return self.overtaken(version, view, leader);
            }
            if unread {
                return self.look_later(now, random, None);
            }
        }
        if overtaken || unread {
            self.aborts += 1;
            let block = Block { shared: None, ..self.given_up(own, None) };
            return self.write_own(Step::Resigning, block);
        }
        // Nobody waits for what was the owner's only for a moment to be freed, but sanlock hosts. A leader that has
        // gone on is not set back.
        if self.may_free(leader) && leader.version == version {
            self.step = Step::Freeing;
            let freed = Leader { timestamp: 0, short_hold: false, ..self.rewritten(leader) };
            return Effect::WriteLeader(self.next_round(), freed);
        }
        Effect::Done(Outcome::Held(version))
    }

    /// The leader is free, or can't be freed.
    pub(super) fn freed(&mut self) -> Effect {
        match (&self.goal, &self.own) {
            (Goal::Acquire, Some(own)) => Effect::Done(Outcome::Held(own.instance)),
            // Called off meanwhile.
            (Goal::Leave(_), Some(_)) if self.has_flagged() => self.look(),
            _ => self.end(),
        }
    }

    /// Whether two that share both wait to hold the resource alone, and this one is the one to give in: each would wait
    /// for the other's flag.
    pub(super) fn would_deadlock(&self, view: &AreaView, observer: &mut Observer, now: Time) -> bool {
        let Some(since) = self.ticket.filter(|_| self.kind == Kind::Upgrade) else { return false };
        let mine = (since, self.subject.me.host);
        self.waiting(view).any(|(since, owner, block)| {
            let upgrades = block.shared == Some(owner.generation);
            upgrades && (since, owner.host) < mine && !observer.judge(owner, now).is_gone()
        })
    }
}
