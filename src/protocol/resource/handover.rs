//! Handover while both run: the owner of version n makes another host the owner of a later one.
//!
//! The destination announces a version m in its own block, as a mark beside its ballot, and looks on. The source runs
//! the ballot of m with the destination as its value. Its block says that it *holds n* until it proposes: from the
//! submission of phase 2 on it has no right to n any more. The destination sees the proposal, completes the ballot
//! itself, as any host does whose value was adopted, and writes the leader. The source writes no leader.
//!
//! A destination that no longer waits gives m up before it answers: whoever decides m for it after all decides a
//! version that is free. So nobody is made owner who doesn't look. A source that has proposed, and finds that the
//! destination gave up or was never seen to ask, acquires the resource for itself.
//!
//! Why the mark stands beside the ballot, and not in a block of instance m: a block of an instance that nobody has
//! begun would stand in the way of those who judge by blocks.

use super::plan::Plan;
use super::{Basis, Blocker, Effect, Goal, Hold, Kind, Operation, Outcome, Refusal, Step, Subject, Wish};
use crate::format::{Block, BlockExtension, Leader, numbers};
use crate::protocol::area::{AreaView, claim, gave_up};
use crate::protocol::liveness::Observer;
use crate::protocol::rules::Rule;
use crate::types::{HostId, Owner, Time, Version};

/// What a host finds that waits to be handed a resource and has nobody in its way.
pub(super) enum Turn {
    /// It is made the owner of this version, or is that already.
    Owner(Option<Version>),
    /// Another host is made the owner.
    Another,
    /// Nobody is there who hands anything over.
    Nobody(Outcome),
}

impl Operation {
    /// Makes `to` the owner of the next version, in the place of this host, which holds `held` by its block `own`. What
    /// the lease protects here has stopped. It ends with [`Outcome::HandedOver`]; or without anything changed, while it
    /// has not proposed that; or with [`Outcome::Held`] of a later version, where the destination was not there any
    /// more. It can be called off: after it [has proposed](Operation::has_ceded) nothing is held then, and the
    /// destination finds out.
    pub fn hand_over(subject: Subject, own: Block, held: Version, to: Owner, now: Time) -> (Operation, Effect) {
        let alone = claim(subject.me.host, &own) == Some((held, subject.me)) && own.shared.is_none();
        let mut operation = Operation::new(subject, Kind::HandOver { held, to }, Wish::exclusive(true), Some(own), now);
        let effect = match alone {
            true => operation.look(),
            false => Effect::Done(Outcome::Refused(Refusal::NotAlone)),
        };
        (operation, effect)
    }

    /// Acquires the resource again that was handed over at `version` to a destination which gave that up. It ends with
    /// [`Outcome::Held`]; with [`Outcome::HandedOver`] where the destination did not give it up after all; and with
    /// [`Refusal::Overtaken`] where anybody has owned the resource since.
    pub fn regain(subject: Subject, own: Option<Block>, to: Owner, version: Version, now: Time) -> (Operation, Effect) {
        let kind = Kind::HandOver { held: Version::default(), to };
        let mut operation = Operation::new(subject, kind, Wish::exclusive(true), own, now);
        operation.open = Some(version);
        let effect = operation.look();
        (operation, effect)
    }

    /// Which version was proposed to hand it over, if any was.
    pub fn proposed(&self) -> Option<Version> {
        self.open.filter(|_| self.has_ceded())
    }

    /// Whether a handover has been proposed, or is about to be: this host has no right to what it held any more.
    pub fn has_ceded(&self) -> bool {
        matches!(self.kind, Kind::HandOver { .. }) && self.open.is_some() && Rule::ProposalCedes.is_in_force()
    }

    // The source.

    /// Whether this host is to hand over what it holds, and has not proposed that: nothing of it is taken back.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.kind, Kind::HandOver { .. }) && self.open.is_none()
    }

    /// What a source that has proposed still says it holds: until the proposal is on disk the destination would believe
    /// otherwise that nobody is there who hands anything over.
    pub(super) fn says_it_holds(&self, own: &Block) -> Option<Version> {
        let Kind::HandOver { held, .. } = self.kind else { return None };
        (claim(self.subject.me.host, own) == Some((held, self.subject.me))).then_some(held)
    }

    /// Whom a ballot of `instance` proposes if nobody was accepted in it. A source that has proposed the destination
    /// for another version acquires for itself: while it does, the destination finds nobody, and may give up unseen.
    pub(super) fn candidate(&self, view: &AreaView, instance: Version) -> Owner {
        let asked = |to| view.asks(to) == Some(instance) || !Rule::DestinationAsks.is_in_force();
        match self.kind {
            Kind::HandOver { to, .. } if asked(to) && self.open.is_none_or(|open| open == instance) => to,
            _ => self.subject.me,
        }
    }

    /// Before anything is proposed: why what is held stays so, if it does.
    pub(super) fn keeps(&self, view: &AreaView, observer: &mut Observer, now: Time) -> Option<Outcome> {
        let Kind::HandOver { held, to } = self.kind else { return None };
        if self.open.is_some() {
            return None;
        }
        // Whoever calls it off is to know.
        if let Some((owner, version)) = view.fenced(self.subject.me, held) {
            return Some(Outcome::Refused(Refusal::Overtaken { owner, version }));
        }
        if let Goal::Leave(outcome) = &self.goal {
            return Some(outcome.clone());
        }
        // A damaged block of another host may have decided anything; its host, or whoever burns it, goes first.
        if let Some(host) = view.bad_blocks().find(|host| *host != self.subject.me.host) {
            let blocker = Blocker { host, owner: None, version: held, free_at: None, hold: Hold::Damaged };
            return Some(Outcome::Blocked(blocker));
        }
        let asked = view.destinations(held).any(|(owner, _)| owner == to) && !observer.judge(to, now).is_gone();
        (!asked && Rule::DestinationAsks.is_in_force()).then_some(Outcome::Refused(Refusal::NotAsked))
    }

    /// Begins the ballot, unless what is held stays so.
    pub(super) fn ask(&mut self, view: &AreaView, leader: &Leader, observer: &mut Observer, now: Time) -> Effect {
        let Kind::HandOver { held, to } = self.kind else { return self.look() };
        if let Some(outcome) = self.keeps(view, observer, now) {
            return Effect::Done(outcome);
        }
        let instance = view.asks(to).unwrap_or_else(|| view.latest_instance().after(1));
        // Where this host has taken the resource by force its block shows that to the one before, until that one has
        // stopped.
        if let Some(blocker) = self.blocker_of(instance, view, leader, observer, now) {
            return Effect::Done(Outcome::Blocked(blocker));
        }
        let own = self.own.clone().unwrap_or_default();
        self.run(view, own, Plan::of(instance).holding(Some(held)), now)
    }

    /// Something was proposed: what became of it, if that is known.
    pub(super) fn ceded(&self, view: &AreaView, leader: &Leader) -> Option<Outcome> {
        let (Kind::HandOver { to, .. }, Some(proposed)) = (self.kind, self.open) else { return None };
        if leader.version < proposed || leader.owner == Some(self.subject.me) {
            return None;
        }
        if leader.owner == Some(to) {
            // What this host wrote there as free the destination gave up in advance, whatever its block shows by now.
            let free = leader.is_free() && leader.writer.id == self.subject.me.host.get();
            return self.handed_over(view, to, leader.version).filter(|_| !free);
        }
        let Leader { owner, version, .. } = *leader;
        Some(Outcome::Refused(Refusal::Overtaken { owner, version }))
    }

    /// `version` is decided for `owner`: whether it was handed over by that. Who gave it up in advance never had it.
    pub(super) fn handed_over(&self, view: &AreaView, owner: Owner, version: Version) -> Option<Outcome> {
        let Kind::HandOver { to, .. } = self.kind else { return None };
        let withdrew = view.withdrew(to, version) && Rule::GivenUpIsNotHeld.is_in_force();
        (owner == to && !withdrew).then_some(Outcome::HandedOver(version))
    }

    // The destination.

    /// Whether this host waits to be handed the resource.
    pub(super) fn receives(&self) -> bool {
        self.wish.basis == Basis::HandedOver
    }

    /// Nobody is in the way: whether this host is being made the owner.
    pub(super) fn turn(&self, view: &AreaView, leader: &Leader, observer: &mut Observer, now: Time) -> Turn {
        let me = self.subject.me;
        let Some(own) = &self.own else {
            // Who asks in a damaged block is not heard; and what the leader names it for may be what it held.
            let (version, hold) = (leader.version, Hold::Damaged);
            let blocker = Blocker { host: me.host, owner: None, version, free_at: None, hold };
            return Turn::Nobody(Outcome::Blocked(blocker));
        };
        let latest = view.latest_instance();
        let open = self.open.filter(|open| *open >= latest && *open > leader.version);
        // What this host gave up it knows, though its block on disk may be damaged.
        let led = view.named(leader) == Some(me) && !gave_up(me, own, leader.version);
        let led = led.then_some(leader.version);
        let chosen = |(host, block): (HostId, &Block)| {
            let accepted = host != me.host && block.bal > 0 && block.instance > leader.version;
            let owner = block.inp.filter(|owner| accepted && !view.released(*owner, block.instance))?;
            Some((owner, block.instance))
        };
        let mine = view.good_blocks().filter_map(chosen).filter(|(owner, _)| *owner == me).map(|(_, version)| version);
        let owns = mine.chain(led).chain(open).max();
        if owns.is_some() || !Rule::OnlyWhatIsHandedOver.is_in_force() {
            return Turn::Owner(owns);
        }
        if view.good_blocks().filter_map(chosen).any(|(owner, _)| !observer.judge(owner, now).is_gone()) {
            return Turn::Another;
        }
        Turn::Nobody(Outcome::Refused(Refusal::NotHandedOver { version: leader.version }))
    }

    /// Gives up what was announced: whoever decides it for this host after all decides a free version.
    pub(super) fn withdraw(&mut self) {
        if Rule::WithdrawnInAdvance.is_in_force() {
            self.withdrawn = self.withdrawn.max(self.announced);
        }
    }

    /// Somebody is in the way, of whom this host hopes to be handed the resource: says so, and for which version. Where
    /// nobody can hand it over, a damaged own block of which it is known what it held is still written again: it is in
    /// everybody's way.
    pub(super) fn announce(
        &mut self,
        blocker: &Blocker,
        view: &AreaView,
        own_is_wrong: bool,
        now: Time,
        random: u64,
    ) -> Effect {
        let own_is_known = self.own.is_some();
        let own = self.own.clone().unwrap_or_default();
        let next = blocker.version.after(1).max(view.latest_instance());
        // What was given up is not asked for.
        let given_up = self.withdrawn.max((own.instance == next && own.released).then_some(next));
        let next = given_up.map_or(next, |version| next.max(version.after(1)));
        let announced = own.extension.as_ref().and_then(|extension| extension.receives);
        let asks = announced.is_some_and(|announced| announced >= next) && !own_is_wrong;
        if blocker.hold != Hold::Exclusive && own_is_wrong && own_is_known {
            return self.mark(own, None);
        }
        if blocker.hold != Hold::Exclusive || asks {
            return self.look_later(now, random, None);
        }
        if !numbers::is_reached(next.get()) {
            return self.refuse(Refusal::Exhausted);
        }
        self.announced = Some(next);
        let block = self.given_up(own, None);
        let extension = BlockExtension { receives: Some(next), ..self.extension(None, None) };
        let block = Block { extension: Some(extension), ..block };
        self.write_own(Step::Marking, block)
    }
}
