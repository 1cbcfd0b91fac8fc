//! What an operation concludes from a read: whose the resource is, which instance may be run, what is to be written.

use std::collections::BTreeSet;

use super::backoff::MAX_SHORT_LOOKS;
use super::handover::Turn;
use super::round::merged;
use super::{Basis, Blocker, Effect, Goal, Hold, Operation, Outcome, Refusal, Step};
use crate::format::{Block, BlockExtension, Leader, Writer};
use crate::protocol::Seen;
use crate::protocol::area::{AreaView, claimed, withdrawn};
use crate::protocol::ballot::{Ballot, Phase, next_mbal};
use crate::protocol::liveness::{Observer, Verdict};
use crate::protocol::rules::in_force;
use crate::types::{Generation, HostId, LeaseMode, Owner, Time, Version};

/// A burn goes up to this many versions beyond what is needed: a damaged block that held a burn itself, of which nothing
/// is seen any more, then does not stand at the same instance but with a chance of one in 2^32.
const BURN_DISTANCE: u64 = 1 << 32;
/// A lost leader is rebuilt so many versions beyond what the blocks show. Only its first version may be one that they
/// don't: what the area had when the resource was made. No 255 burns before that could have come this far.
const REBUILD_DISTANCE: u64 = 1 << 40;
/// How often a host lets one that has waited longer go first before it takes a free lease itself.
const MAX_STAND_BACK: u32 = 2;

pub(super) struct Plan {
    instance: Version,
    ignored: BTreeSet<HostId>,
    burned: Option<Version>,
    /// What this host owns until it proposes something.
    holds: Option<Version>,
}

/// Why no instance may be run.
enum Obstacle {
    Blocker(Blocker),
    Refusal(Refusal),
}

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

impl Plan {
    /// Runs `instance`, with every block in it.
    pub(super) fn of(instance: Version) -> Plan {
        Plan { instance, ignored: BTreeSet::new(), burned: None, holds: None }
    }

    /// The same, while this host owns `held`.
    pub(super) fn holding(self, held: Option<Version>) -> Plan {
        Plan { holds: held.filter(|held| *held < self.instance && in_force!(AskingHolds)), ..self }
    }

    /// The same, but at `instance` if that is a later one.
    pub(super) fn no_earlier_than(self, instance: Version) -> Plan {
        Plan { instance: self.instance.max(instance), ..self }
    }

    /// What a damaged block held may have decided the instance after all that is `seen`, or the one after that where a
    /// late write has set the leader back by one. Burn beyond both, and never at an instance that somebody has begun:
    /// what is damaged now may have had a part in that.
    fn burn(seen: Version, ignored: BTreeSet<HostId>, random: u64) -> Plan {
        let skipped = if in_force!(BurnSkipsInstance) { 2 + random % BURN_DISTANCE } else { 0 };
        let burned = seen.after(skipped);
        Plan { instance: burned.after(1), ignored, burned: Some(burned), holds: None }
    }
}

impl Operation {
    pub(super) fn judge(&mut self, view: &AreaView, observer: &mut Observer, now: Time, random: u64) -> Effect {
        let me = self.subject.me;
        let recalled = self.recall_own(view);
        let bound = self.is_bound();
        if recalled == OwnBlock::SetBack && self.wants() && !bound {
            return self.refuse(Refusal::OwnBlockChanged);
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
        if self.has_flagged() {
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
            && (view.fenced(me, leader.version).is_none() || !in_force!(HeldIsNotTaken))
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
            Err(Obstacle::Blocker(blocker)) => return self.blocked(blocker, view, &leader, own_is_wrong, now, random),
        };
        self.blocker = None;
        let goes_first = self.receives() || self.stood_back >= MAX_STAND_BACK;
        if !goes_first && self.somebody_waited_longer(view, &leader, observer, now) {
            self.stood_back += 1;
            return self.look_later(now, random, None);
        }
        self.run(view, own, plan, now)
    }

    /// Begins a ballot.
    pub(super) fn run(&mut self, view: &AreaView, own: Block, plan: Plan, now: Time) -> Effect {
        let me = self.subject.me;
        let counts = |(host, _): &(HostId, &Block)| *host == me.host || in_force!(NumberExceedsAllSeen);
        let seen = view.good_blocks().filter(counts).map(|(_, block)| block.mbal).chain([own.mbal]);
        let Some(mbal) = next_mbal(me.host, self.subject.geometry.max_hosts(), seen) else {
            return self.refuse(Refusal::Exhausted);
        };
        self.started = now;
        let extension = BlockExtension { holds: plan.holds, ..self.extension(None, plan.burned) };
        let flag = self.kept_flag();
        let ballot = Ballot::new(me, self.subject.disks, plan.instance, &own, mbal, plan.ignored, flag, extension);
        self.write(ballot)
    }

    /// Concludes from what a read shows, and from what this host wrote, what its own block is.
    fn recall_own(&mut self, view: &AreaView) -> OwnBlock {
        let order = |block: &Block| (block.instance, block.mbal, block.bal);
        let several = self.subject.disks > 1;
        let over = view.leader.good().map(|leader| leader.version);
        let (own, state) = match (view.block(self.subject.me.host), self.own.take()) {
            // Of several disks, those that were read need not have what was submitted last, while others may.
            (seen, _) if self.unconfirmed && in_force!(SubmittedCounts) => {
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

    fn write(&mut self, ballot: Ballot) -> Effect {
        let block = ballot.block().clone();
        self.write_own(Step::Writing(ballot), block)
    }

    fn validated<'view>(&'view self, view: &'view AreaView) -> Result<&'view Leader, Refusal> {
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

    /// Whether nothing tells which version was decided last but the blocks.
    fn leader_is_lost(&self, view: &AreaView) -> bool {
        self.leader_may_be_lost && view.leader.good().is_none()
    }

    /// Which instance may be run, and beyond which damaged blocks.
    fn plan(
        &self,
        view: &AreaView,
        leader: &Leader,
        observer: &mut Observer,
        now: Time,
        random: u64,
    ) -> Result<Plan, Obstacle> {
        let own_instance = self.own.as_ref().map_or(Version::default(), |own| own.instance);
        let latest = view.latest_instance().max(own_instance);
        let damaged: BTreeSet<HostId> = view.bad_blocks().filter(|host| *host != self.subject.me.host).collect();
        let own_is_lost = view.block(self.subject.me.host).is_none() && self.own.is_none();
        let seen = match self.leader_is_lost(view) && in_force!(RebuildSkipsVersions) {
            true => latest.after(REBUILD_DISTANCE),
            false => latest.max(leader.version),
        };
        if seen.get() > u64::MAX / 2 {
            return Err(Obstacle::Refusal(Refusal::Exhausted));
        }
        if own_is_lost {
            // The own block is written anew before anybody else is judged: two hosts whose blocks are both damaged would
            // wait for each other to do it. A phase 1 block of a later instance says nothing, and erases nothing that
            // counts; phase 2 judges.
            let plan = Plan::burn(seen, damaged, random);
            return self.expected(plan, leader.version);
        }
        let plan = if damaged.is_empty() && seen == latest.max(leader.version) {
            // A block beyond the next version: the leader was set back by a late write.
            let latest = if in_force!(InstanceFromBlocks) { latest } else { leader.version };
            Plan::of(latest.max(leader.version.after(1)))
        } else {
            for host in &damaged {
                if let Verdict::Active { dead_at } = observer.judge_host(*host)
                    && in_force!(DamagedIsJudged)
                {
                    let version = leader.version;
                    let hold = Hold::Damaged;
                    return Err(Obstacle::Blocker(Blocker {
                        host: *host,
                        owner: None,
                        version,
                        free_at: dead_at,
                        hold,
                    }));
                }
            }
            Plan::burn(seen, damaged, random)
        };
        let plan = self.expected(plan, leader.version)?;
        // What this host gave up in advance it never owns. Passing over that takes nothing from anybody; unless somebody
        // else may have owned it, who is found by running it.
        let me = self.subject.me;
        let begun =
            |(_, block): (HostId, &Block)| block.bal > 0 && block.inp != Some(me) && block.instance >= plan.instance;
        let plan = match self.withdrawn.filter(|_| !view.good_blocks().any(begun)) {
            Some(version) => plan.no_earlier_than(version.after(1)),
            None => plan,
        };
        match self.blocker_of(plan.instance, view, leader, observer, now) {
            Some(blocker) if self.forces(blocker.hold, blocker.version) => {
                Err(Obstacle::Refusal(Refusal::NotForced(blocker)))
            }
            Some(blocker) => Err(Obstacle::Blocker(blocker)),
            None => Ok(plan),
        }
    }

    /// `plan`, if it takes the resource from the version that the wish names. What damaged blocks held may have been
    /// later versions.
    fn expected(&self, plan: Plan, leader: Version) -> Result<Plan, Obstacle> {
        let expected = self.wish.basis.version().filter(|_| in_force!(VersionIsExpected));
        match expected {
            Some(version) if plan.instance != version.after(1) => {
                let found = if plan.burned.is_some() { leader } else { Version::new(plan.instance.get() - 1) };
                Err(Obstacle::Refusal(Refusal::VersionChanged { found }))
            }
            _ => Ok(plan),
        }
    }

    /// A version between the one that the wish names and `instance` that somebody else may have owned.
    fn passes_over(&self, view: &AreaView, instance: Version) -> Option<Version> {
        let expected = self.wish.basis.version().filter(|_| in_force!(VersionIsExpected))?;
        let between = |block: &&Block| block.bal > 0 && block.instance > expected && block.instance < instance;
        let accepted = view.good_blocks().map(|(_, block)| block).filter(between);
        accepted.filter(|block| block.inp != Some(self.subject.me)).map(|block| block.instance).min()
    }

    /// Whether the wish passes over an owner of `version`: of the one that is expected, or one before that was passed over
    /// earlier.
    fn forces(&self, hold: Hold, version: Version) -> bool {
        let Basis::Forced(expected) = self.wish.basis else { return false };
        version <= expected && matches!(hold, Hold::Exclusive | Hold::Short)
    }

    /// Whether a forced takeover from `owner` takes effect: it looks at what it holds with each renewal.
    fn notices(owner: Owner, observer: &Observer) -> bool {
        let record = observer.record(owner.host).and_then(Seen::good);
        record.is_some_and(|record| record.extension.is_some()) || !in_force!(SanlockIsNotForced)
    }

    /// Who may hold a version below `instance`.
    pub(super) fn blocker_of(
        &self,
        instance: Version,
        view: &AreaView,
        leader: &Leader,
        observer: &mut Observer,
        now: Time,
    ) -> Option<Blocker> {
        if self.leader_is_lost(view) && !in_force!(RebuildIsJudged) {
            return None;
        }
        let shares = self.wish.mode == LeaseMode::Shared;
        let mut others = view.holders(leader, instance).filter(|(_, _, hold)| !shares || *hold != Hold::Shared);
        others.find_map(|(version, owner, hold)| {
            if owner == self.subject.me {
                // Left by an attempt of ours that a later one overwrites, or held shared by us who want more.
                return None;
            }
            if self.forces(hold, version) && Operation::notices(owner, observer) {
                return None;
            }
            // Several share at once, each since an instance of its own: what they have is what the leader shows.
            let version = if hold == Hold::Shared { leader.version } else { version };
            match observer.judge(owner, now) {
                Verdict::Active { dead_at } => {
                    Some(Blocker { host: owner.host, owner: Some(owner), version, free_at: dead_at, hold })
                }
                Verdict::Over | Verdict::Dead => None,
            }
        })
    }

    fn blocked(
        &mut self,
        blocker: Blocker,
        view: &AreaView,
        leader: &Leader,
        own_is_wrong: bool,
        now: Time,
        random: u64,
    ) -> Effect {
        let waits = self.wish.wait;
        let due = !waits || blocker.free_at.is_none_or(|at| at <= now);
        let free_at = blocker.free_at;
        let holds = |it: &Blocker| (it.owner, it.version);
        if self.blocker.as_ref().map(holds) != Some(holds(&blocker)) {
            // Each of many that come at once has its moment.
            self.short_looks = 0;
        }
        self.blocker = Some(blocker.clone());
        self.stood_back = 0;
        if blocker.hold == Hold::Short && self.short_looks < MAX_SHORT_LOOKS {
            // Two that came at once, each with a claim of what neither owns, would outlast each other's looks.
            let claim = self.own.clone().filter(|own| claimed(self.subject.me.host, own) == Some(self.subject.me));
            return match claim {
                Some(own) => self.mark(own, self.ticket),
                None => self.look_soon(now, random),
            };
        }
        if due && !std::mem::take(&mut self.scanned) {
            // Its record was not read, or not since it must have changed; or this is the last word.
            self.step = Step::Pausing;
            return self.scan();
        }
        if !waits {
            return self.leave(Outcome::Blocked(blocker));
        }
        if self.receives() {
            return self.announce(&blocker, view, own_is_wrong, now, random);
        }
        // Two that wait with a claim each would wait for each other; two whose blocks are damaged, too: what is known to
        // have been there is written anew. A damaged block that nobody knows is not marked: what it may have held would
        // look as if it had never been.
        let me = self.subject.me;
        let own = self.own.clone();
        // A ballot has no mark.
        let unmarked = |own: &Block| own.extension.as_ref().is_none_or(|extension| extension.waiting.is_none());
        match own.filter(|own| unmarked(own) || own_is_wrong || claimed(me.host, own) == Some(me)) {
            Some(own) => {
                let ticket = *self.ticket.get_or_insert(leader.version);
                self.mark(own, Some(ticket))
            }
            None => self.look_later(now, random, free_at),
        }
    }

    /// Gives the claim of the own block up, and says since when this host waits.
    fn mark(&mut self, own: Block, waiting: Option<Version>) -> Effect {
        let block = self.given_up(own, waiting);
        self.write_own(Step::Marking, block)
    }

    /// Whether a host that may be active has waited since an earlier version, or as long with a smaller id. Those who
    /// share don't wait for each other.
    fn somebody_waited_longer(&self, view: &AreaView, leader: &Leader, observer: &mut Observer, now: Time) -> bool {
        let mine = (self.ticket.unwrap_or(leader.version.after(1)), self.subject.me.host);
        let shares = self.wish.mode == LeaseMode::Shared;
        self.waiting(view).any(|(since, owner, block)| {
            let shares_too = shares && block.extension.as_ref().is_some_and(|extension| extension.shares);
            !shares_too && (since, owner.host) < mine && !observer.judge(owner, now).is_gone()
        })
    }

    /// The others who wait for the resource: since which version, who, and their blocks.
    pub(super) fn waiting<'view>(
        &self,
        view: &'view AreaView,
    ) -> impl Iterator<Item = (Version, Owner, &'view Block)> + use<'view> {
        let me = self.subject.me.host;
        view.good_blocks().filter(move |(host, _)| *host != me).filter_map(|(host, block)| {
            let extension = block.extension.as_ref()?;
            let generation = Generation::new(extension.generation)?;
            Some((extension.waiting?, Owner { host, generation }, block))
        })
    }

    /// The live owners that a forced takeover passes over.
    fn overrides(&self, view: &AreaView, observer: &mut Observer, now: Time) -> BTreeSet<Owner> {
        match self.wish.basis {
            Basis::Forced(version) => view.overridden(self.subject.me, version.after(1), observer, now),
            _ => BTreeSet::new(),
        }
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
            && in_force!(JudgedAfterPhaseOne)
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
        let given_up = view.released(owner, version) && in_force!(GivenUpIsNotHeld);
        let hold = owner == self.subject.me && !given_up;
        let num_hosts = match self.validated(&view) {
            Ok(leader) => leader.num_hosts,
            Err(refusal) => return self.refuse_or_end(refusal),
        };
        let me = self.subject.me;
        let timestamp = now.as_timestamp();
        let leader = Leader {
            short_hold: hold && self.wish.mode == LeaseMode::Shared,
            owner: Some(owner),
            timestamp: if given_up { 0 } else { ballot.block().inp_timestamp.max(1) },
            writer: Writer { id: me.host.get(), generation: me.generation.get(), timestamp },
            version,
            ..Leader::new_free(self.subject.geometry, self.subject.lockspace, self.subject.resource, num_hosts, version)
        };
        self.step = Step::Committing { version, hold };
        Effect::WriteLeader(self.next_round(), leader)
    }
}
