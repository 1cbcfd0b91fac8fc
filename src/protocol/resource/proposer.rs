//! The proposer: runs the ballot of an instance to its decision, and writes that into the leader.

use super::plan::Plan;
use super::round::merged;
use super::{Effect, Goal, Operation, Outcome, Refusal, Step, Subject};
use crate::format::{Block, BlockExtension, Leader, LeaderExtension, Writer, numbers};
use crate::protocol::area::AreaView;
use crate::protocol::ballot::{Ballot, Phase, next_mbal};
use crate::protocol::liveness::Observer;
use crate::protocol::rules::Rule;
use crate::types::{HostId, LeaseMode, Owner, Time};

impl Operation {
    /// Begins a ballot.
    pub(super) fn run(&mut self, view: &AreaView, own: Block, plan: Plan, now: Time) -> Effect {
        let me = self.subject.me;
        let counts = |(host, _): &(HostId, &Block)| *host == me.host || Rule::NumberExceedsAllSeen.is_in_force();
        let seen = view.good_blocks().filter(counts).map(|(_, block)| block.mbal).chain([own.mbal]);
        let mbal = next_mbal(me.host, self.subject.geometry.max_hosts(), seen);
        let Some(mbal) = mbal.filter(|_| numbers::is_reached(plan.instance.get())) else {
            return self.refuse(Refusal::Exhausted);
        };
        self.started = now;
        let extension = BlockExtension { holds: plan.holds, ..self.extension(None, plan.burned) };
        let flag = self.kept_flag();
        let ballot = Ballot::new(me, self.subject.disks, plan.instance, &own, mbal, plan.ignored, flag, extension);
        self.write(ballot)
    }

    /// Phase 1 is complete: judges again with what was read since the own block was visible, then proposes.
    pub(super) fn propose(&mut self, mut ballot: Ballot, observer: &mut Observer, now: Time) -> Effect {
        if !self.wants() {
            return self.look();
        }
        let view = merged(std::mem::take(&mut self.views));
        let leader = match self.validated(&view) {
            Ok(leader) => leader.clone(),
            Err(refusal) => return self.refuse_or_end(refusal),
        };
        if self.keeps(&view, observer, now).is_some() {
            return self.look();
        }
        if let Some(blocker) = self.blocker_of(ballot.instance(), &view, &leader, observer, now)
            && Rule::JudgedAfterPhaseOne.is_in_force()
        {
            if self.is_asking() {
                // An owner that was overridden may still act, of which the destination would know nothing.
                self.goal = Goal::Leave(Outcome::Blocked(blocker.clone()));
            }
            self.blocker = Some(blocker);
            return self.look();
        }
        if let Some(found) = self.passes_over(&view, ballot.instance()) {
            return self.refuse(Refusal::VersionChanged { found });
        }
        self.overridden = self.overrides(&view, observer, now);
        self.passed = view.claimed_by_others(self.subject.me.host).collect();
        ballot.propose(self.candidate(&view, ballot.instance()), now);
        debug_assert_eq!(ballot.phase(), Phase::Two);
        self.open = Some(ballot.instance());
        self.write(ballot)
    }

    /// The instance is decided: writes it into the leader.
    pub(super) fn commit(&mut self, owner: Owner, ballot: &Ballot, now: Time) -> Effect {
        let version = ballot.instance();
        let view = merged(std::mem::take(&mut self.views));
        if let Some(outcome) = self.handed_over(&view, owner, version) {
            return Effect::Done(outcome);
        }
        let given_up = view.released(owner, version) && Rule::GivenUpIsNotHeld.is_in_force();
        let hold = owner == self.subject.me && !given_up;
        let num_hosts = match self.validated(&view) {
            Ok(leader) => leader.num_hosts,
            Err(refusal) => return self.refuse_or_end(refusal),
        };
        let Subject { me, geometry, lockspace, nonce, resource, .. } = self.subject;
        let timestamp = now.as_timestamp();
        // Whom this ballot was about to pass over it has waited for, but for those whom it overrode.
        let judged = self.overridden.is_empty() || !Rule::JudgedIsProven.is_in_force();
        let leader = Leader {
            short_hold: hold && self.wish.mode == LeaseMode::Shared,
            owner: Some(owner),
            timestamp: if given_up { 0 } else { ballot.block().inp_timestamp.max(1) },
            writer: Writer { id: me.host.get(), generation: me.generation.get(), timestamp },
            version,
            extension: Some(LeaderExtension { nonce, judged }),
            ..Leader::new_free(geometry, lockspace, nonce, resource, num_hosts, version)
        };
        self.step = Step::Committing { version, hold };
        Effect::WriteLeader(self.next_round(), leader)
    }

    fn write(&mut self, ballot: Ballot) -> Effect {
        let block = ballot.block().clone();
        self.write_own(Step::Writing(ballot), block)
    }
}
