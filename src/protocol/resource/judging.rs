//! What an operation concludes from a read: whose the resource is, and what is to be done next.

use super::handover::Turn;
use super::own_block::OwnBlock;
use super::plan::Obstacle;
use super::waiting::MAX_STAND_BACK;
use super::{Effect, Goal, Operation, Outcome, Refusal, Step};
use crate::format::Leader;
use crate::protocol::Seen;
use crate::protocol::area::{AreaView, claimed};
use crate::protocol::liveness::Observer;
use crate::protocol::rules::Rule;
use crate::types::{LeaseMode, Time};

impl Operation {
    pub(super) fn judge(&mut self, view: &AreaView, observer: &mut Observer, now: Time, random: u64) -> Effect {
        let me = self.subject.me;
        if let Some(lost) = self.lost_hold(view) {
            return lost;
        }
        let recalled = self.recall_own(view);
        let bound = self.is_bound();
        if recalled == OwnBlock::SetBack && self.wants() && !bound {
            return self.refuse_as_changed();
        }
        let own_is_wrong = recalled != OwnBlock::Right;
        let leader = match self.validated(view) {
            Ok(leader) => leader.clone(),
            // It is lost for good: waiting for a repair would keep that from happening, for what is held is in its way.
            Err(refusal) if bound => return Effect::Done(Outcome::Refused(refusal)),
            Err(refusal) => return self.refuse_or_end(refusal),
        };
        if self.is_asking() {
            return self.ask(view, &leader, observer, now);
        }
        if let Some(outcome) = self.ceded(view, &leader) {
            self.goal = Goal::Leave(outcome);
        }
        if !self.wants() {
            return self.undo(view, &leader, own_is_wrong);
        }
        // A flag that this operation did not set was given up before: somebody has set the area back.
        let shares = self.wish.mode == LeaseMode::Shared && self.has_flagged();
        if shares && self.open == self.own.as_ref().map(|own| own.instance) {
            return self.check_flag(view, &leader, recalled, observer, now, random);
        }
        // What a damaged block held before this generation touched it belonged to a generation that is gone.
        let own = self.own.clone().unwrap_or_default();
        if bound {
            return self.finish_conversion(own, recalled, view, &leader);
        }
        // Our own phase 2 value was adopted and committed by another host; and nobody has taken that by force.
        if leader.owner == Some(me)
            && self.open == Some(leader.version)
            && !leader.is_free()
            && own.instance == leader.version
            && claimed(me.host, &own) == Some(me)
            && (view.fenced(me, leader.version).is_none() || !Rule::HeldIsNotTaken.is_in_force())
        {
            if own_is_wrong {
                return self.write_own(Step::Marking, own);
            }
            // An earlier process of this generation may have taken it by force. Those who share passed over nobody.
            if self.wish.mode == LeaseMode::Exclusive {
                self.overridden.append(&mut view.overridden(me, leader.version, observer, now));
            }
            return self.owned(leader.version);
        }
        let plan = match self.plan(view, &leader, observer, now, random) {
            Ok(plan) if self.receives() => match self.turn(view, &leader, observer, now) {
                Turn::Owner(version) => plan.no_earlier_than(self.announced.unwrap_or_default()).holding(version),
                Turn::Another => return self.look_later(now, random, None),
                Turn::Nobody(outcome) => return self.leave(outcome),
            },
            Ok(plan) => plan.holding(self.says_it_holds(&own)),
            Err(Obstacle::Refusal(refusal)) => return self.refuse(refusal),
            Err(Obstacle::Blocker(blocker)) if self.would_deadlock(view, observer, now) => {
                return self.refuse(Refusal::WouldDeadlock(blocker));
            }
            Err(Obstacle::Blocker(blocker)) => {
                return match self.disclaimed(view, &leader) {
                    Some(block) => self.write_own(Step::Marking, block),
                    None => self.blocked(blocker, view, &leader, own_is_wrong, now, random),
                };
            }
        };
        self.blocker = None;
        let goes_first = self.receives() || self.stood_back >= MAX_STAND_BACK;
        if !goes_first && self.somebody_waited_longer(view, &leader, observer, now) {
            self.stood_back += 1;
            return self.look_later(now, random, None);
        }
        self.run(view, own, plan, now)
    }

    pub(super) fn validated<'view>(&'view self, view: &'view AreaView) -> Result<&'view Leader, Refusal> {
        let leader = match (&view.leader, &self.stand_in) {
            (Seen::Good(leader), _) | (Seen::Bad(_), Some(leader)) => leader,
            (Seen::Bad(reason), None) => return Err(Refusal::LeaderDamaged(reason.clone())),
        };
        if leader.cleared {
            return Err(Refusal::Cleared);
        }
        let subject = &self.subject;
        if (leader.geometry, leader.lockspace, leader.resource)
            != (subject.geometry, subject.lockspace, subject.resource)
        {
            return Err(Refusal::Foreign(Box::new(leader.clone())));
        }
        if subject.me.host.get() > leader.num_hosts {
            return Err(Refusal::HostIdTooLarge { num_hosts: leader.num_hosts });
        }
        Ok(leader)
    }
}
