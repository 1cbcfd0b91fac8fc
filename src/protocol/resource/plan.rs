//! Planning: which instance may be run, and who is in the way of it.

use std::collections::BTreeSet;

use super::{Basis, Blocker, Hold, Operation, Refusal};
use crate::format::{Block, Leader};
use crate::protocol::Seen;
use crate::protocol::area::AreaView;
use crate::protocol::liveness::{Observer, Verdict};
use crate::protocol::rules::Rule;
use crate::types::{HostId, LeaseMode, Owner, Time, Version};

/// A burn goes up to this many versions beyond what is needed: a damaged block that held a burn itself, of which
/// nothing is seen any more, then does not stand at the same instance but with a chance of one in 2^32.
const BURN_DISTANCE: u64 = 1 << 32;
/// A lost leader is rebuilt so many versions beyond what the blocks show. Only its first version may be one that they
/// don't: what the area had when the resource was made. No 255 burns before that could have come this far.
const REBUILD_DISTANCE: u64 = 1 << 40;

pub(super) struct Plan {
    pub(super) instance: Version,
    pub(super) ignored: BTreeSet<HostId>,
    pub(super) burned: Option<Version>,
    /// What this host owns until it proposes something.
    pub(super) holds: Option<Version>,
}

impl Plan {
    /// Runs `instance`, with every block in it.
    pub(super) fn of(instance: Version) -> Plan {
        Plan { instance, ignored: BTreeSet::new(), burned: None, holds: None }
    }

    /// The same, while this host owns `held`.
    pub(super) fn holding(self, held: Option<Version>) -> Plan {
        Plan { holds: held.filter(|held| *held < self.instance && Rule::AskingHolds.is_in_force()), ..self }
    }

    /// The same, but at `instance` if that is a later one.
    pub(super) fn no_earlier_than(self, instance: Version) -> Plan {
        Plan { instance: self.instance.max(instance), ..self }
    }

    /// What a damaged block held may have decided the instance after all that is `seen`, or the one after that where a
    /// late write has set the leader back by one. Burn beyond both, and never at an instance that somebody has begun:
    /// what is damaged now may have had a part in that.
    fn burn(seen: Version, ignored: BTreeSet<HostId>, random: u64) -> Plan {
        let skipped = if Rule::BurnSkipsInstance.is_in_force() { 2 + random % BURN_DISTANCE } else { 0 };
        let burned = seen.after(skipped);
        Plan { instance: burned.after(1), ignored, burned: Some(burned), holds: None }
    }
}

/// Why no instance may be run.
pub(super) enum Obstacle {
    Blocker(Blocker),
    Refusal(Refusal),
}

impl Operation {
    /// Which instance may be run, and beyond which damaged blocks.
    pub(super) fn plan(
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
        let seen = match self.leader_is_lost(view) && Rule::RebuildSkipsVersions.is_in_force() {
            // Late writes of other formattings may be all that shows the versions that there were.
            true => latest.max(view.latest_shown()).after(REBUILD_DISTANCE),
            false => latest.max(leader.version),
        };
        if own_is_lost {
            // The own block is written anew before anybody else is judged: two hosts whose blocks are both damaged
            // would wait for each other to do it. A phase 1 block of a later instance says nothing, and erases nothing
            // that counts; phase 2 judges.
            let plan = Plan::burn(seen, damaged, random);
            return self.expected(plan, leader.version);
        }
        let plan = if damaged.is_empty() && seen == latest.max(leader.version) {
            // A block beyond the next version: the leader was set back by a late write.
            let latest = if Rule::InstanceFromBlocks.is_in_force() { latest } else { leader.version };
            Plan::of(latest.max(leader.version.after(1)))
        } else {
            for host in &damaged {
                if let Verdict::Active { dead_at } = observer.judge_host(*host)
                    && Rule::DamagedIsJudged.is_in_force()
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
        // What this host gave up in advance it never owns. Passing over that takes nothing from anybody; unless
        // somebody else may have owned it, who is found by running it.
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

    /// Whether nothing tells which version was decided last but the blocks.
    fn leader_is_lost(&self, view: &AreaView) -> bool {
        self.leader_may_be_lost && view.leader.good().is_none()
    }

    /// `plan`, if it takes the resource from the version that the wish names. What damaged blocks held may have been
    /// later versions.
    fn expected(&self, plan: Plan, leader: Version) -> Result<Plan, Obstacle> {
        let expected = self.wish.basis.version().filter(|_| Rule::VersionIsExpected.is_in_force());
        match expected {
            Some(version) if plan.instance != version.after(1) => {
                let found = if plan.burned.is_some() { leader } else { Version::new(plan.instance.get() - 1) };
                Err(Obstacle::Refusal(Refusal::VersionChanged { found }))
            }
            _ => Ok(plan),
        }
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
        if self.leader_is_lost(view) && !Rule::RebuildIsJudged.is_in_force() {
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

    /// Whether the wish passes over an owner of `version`: of the one that is expected, or one before that was passed
    /// over earlier.
    fn forces(&self, hold: Hold, version: Version) -> bool {
        let Basis::Forced(expected) = self.wish.basis else { return false };
        version <= expected && matches!(hold, Hold::Exclusive | Hold::Short)
    }

    /// Whether a forced takeover from `owner` takes effect: it looks at what it holds with each renewal.
    fn notices(owner: Owner, observer: &Observer) -> bool {
        let record = observer.record(owner.host).and_then(Seen::good);
        record.is_some_and(|record| record.extension.is_some()) || !Rule::SanlockIsNotForced.is_in_force()
    }

    /// A version between the one that the wish names and `instance` that somebody else may have owned.
    pub(super) fn passes_over(&self, view: &AreaView, instance: Version) -> Option<Version> {
        let expected = self.wish.basis.version().filter(|_| Rule::VersionIsExpected.is_in_force())?;
        let between = |block: &&Block| block.bal > 0 && block.instance > expected && block.instance < instance;
        let accepted = view.good_blocks().map(|(_, block)| block).filter(between);
        accepted.filter(|block| block.inp != Some(self.subject.me)).map(|block| block.instance).min()
    }

    /// The live owners that a forced takeover passes over.
    pub(super) fn overrides(&self, view: &AreaView, observer: &mut Observer, now: Time) -> BTreeSet<Owner> {
        match self.wish.basis {
            Basis::Forced(version) => view.overridden(self.subject.me, version.after(1), observer, now),
            _ => BTreeSet::new(),
        }
    }
}
