//! A release, and the undoing of what came to nothing: what others could respect is taken back before an operation
//! ends.

use super::{Basis, Effect, Goal, Kind, Operation, Outcome, Refusal, Step, Subject, Wish};
use crate::format::{Block, Leader, LeaderExtension};
use crate::protocol::area::{AreaView, claim};
use crate::protocol::rules::Rule;
use crate::types::{LeaseMode, Time};

impl Operation {
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

    /// A release of what was lost because the own block was erased or replaced; `own` is that block. What stands in the
    /// area by now may be others': nothing is written there but what takes back that the leader, or what is found in
    /// the place of the own block, still names this host.
    pub fn disown(subject: Subject, own: Block, now: Time) -> (Operation, Effect) {
        let mut operation = Operation::new(subject, Kind::Release, Wish::exclusive(true), None, now);
        operation.goal = Goal::Leave(Outcome::Released);
        operation.disowned = Some(own);
        let effect = operation.look();
        (operation, effect)
    }

    /// Turns an acquire into its undoing. The effect under way is carried out and reported first, as always.
    pub fn call_off(&mut self) {
        if self.goal == Goal::Acquire && !self.is_bound() {
            self.goal = Goal::Leave(self.blocker.clone().map_or(Outcome::GaveUp, Outcome::Blocked));
        }
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
            || self.open.is_some() && Rule::OutcomeStaysOpen.is_in_force()
            || self.ticket.is_some()
            || self.announced.is_some()
            || self.goal == Goal::Leave(Outcome::Released)
    }

    /// Ends without the lease: undoes first what others could respect.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> Effect {
        self.leave(Outcome::Refused(refusal))
    }

    /// Somebody else has wiped or set back the own block. Where what this host wrote there could be respected it is
    /// given up. Else it is forgotten: the next operation goes by what is there, as all others do.
    pub(super) fn refuse_as_changed(&mut self) -> Effect {
        if !self.is_open() {
            self.own = None;
        }
        self.refuse(Refusal::OwnBlockChanged)
    }

    /// The leader tells nothing: what others could respect is in the own block alone. Where there is no resource, or
    /// another one, nothing is written.
    pub(super) fn refuse_or_end(&mut self, refusal: Refusal) -> Effect {
        if self.is_asking() {
            // What is held stays so, though nobody can say who is the owner.
            return Effect::Done(Outcome::Refused(refusal));
        }
        let ours = matches!(refusal, Refusal::LeaderDamaged(_));
        if self.wants() {
            self.goal = Goal::Leave(Outcome::Refused(refusal));
        }
        match ours && self.is_open() {
            true => self.take_back(false).unwrap_or_else(|| self.end()),
            false => self.end(),
        }
    }

    pub(super) fn leave(&mut self, outcome: Outcome) -> Effect {
        if self.goal == Goal::Acquire {
            self.goal = Goal::Leave(outcome);
        }
        match self.is_open() {
            true => self.look(),
            false => self.end(),
        }
    }

    /// Takes back what the own block says, then what the leader says, then ends.
    pub(super) fn undo(&mut self, view: &AreaView, leader: &Leader, own_is_wrong: bool) -> Effect {
        let me = self.subject.me;
        if let Some(effect) = self.take_back(own_is_wrong) {
            return effect;
        }
        if let Some(own) = self.disowned.take().filter(|_| view.named(leader) == Some(me)) {
            return self.resign(own);
        }
        if self.may_free(leader) && view.released(me, leader.version) {
            self.step = Step::Freeing;
            let freed = Leader { timestamp: 0, ..self.rewritten(leader) };
            return Effect::WriteLeader(self.next_round(), freed);
        }
        self.end()
    }

    /// The write that takes back what the own block says, if it says anything that others respect; or that writes it
    /// anew, once, if it is damaged or not what was written.
    fn take_back(&mut self, own_is_wrong: bool) -> Option<Effect> {
        let own = self.own.clone()?;
        let me = self.subject.me;
        let waits = own.extension.as_ref().is_some_and(|extension| extension.waiting.is_some());
        let restore = own_is_wrong && !self.restored;
        let holds = claim(me.host, &own).is_some_and(|(_, owner)| owner == me) || self.has_flagged();
        (holds || waits || restore || self.announced.is_some()).then(|| self.resign(own))
    }

    fn resign(&mut self, own: Block) -> Effect {
        self.withdraw();
        let block = self.given_up(own, None);
        self.write_own(Step::Resigning, block)
    }

    /// Whether the leader says that we hold, and we wrote that. What others committed for us our block frees.
    pub(super) fn may_free(&self, leader: &Leader) -> bool {
        let me = self.subject.me;
        let written_by_us = (leader.writer.id, leader.writer.generation) == (me.host.get(), me.generation.get());
        leader.owner == Some(me) && !leader.is_free() && written_by_us
    }

    /// The leader as this host writes it again.
    pub(super) fn rewritten(&self, leader: &Leader) -> Leader {
        let extension = Some(LeaderExtension { nonce: self.subject.nonce, judged: leader.is_judged() });
        Leader { extension, ..leader.clone() }
    }

    pub(super) fn end(&mut self) -> Effect {
        match &self.goal {
            Goal::Leave(outcome) => Effect::Done(outcome.clone()),
            Goal::Acquire => Effect::Done(Outcome::GaveUp),
        }
    }
}
