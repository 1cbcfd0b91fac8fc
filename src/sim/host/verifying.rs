//! Looks at what is held, as the engine does, and says until when it may be acted on.

use super::{Held, Member, Tag};
use crate::protocol::area::AreaView;
use crate::sim::env::Env;
use crate::sim::storage::{AREA, block_at};
use crate::types::{LeaseMode, Time, Version};

impl Member {
    /// Looks at what is held, as the engine does.
    pub(super) fn verify(&mut self, index: usize, env: &mut Env, version: Version) {
        if self.looked_at(version).is_none() {
            return;
        }
        let hosts = self.known.iter().flat_map(|(_, hosts)| hosts.iter().copied().map(block_at));
        let offsets: Vec<u64> = std::iter::once(AREA).chain(hosts).collect();
        env.read(index, Tag::Verify { version }, 0, offsets);
    }

    pub(super) fn verified(&mut self, index: usize, env: &mut Env, version: Version, started: Time, view: &AreaView) {
        let (me, now) = (self.tenure.me(), env.local(index));
        self.listen(view, version);
        let Some(held) = self.looked_at(version) else { return };
        held.holding.looked(started, view.fenced(me, version).is_some(), now);
        if held.holding.is_lost() {
            env.trace(|| format!("host {index}: version {version} was taken from {me}"));
            env.check.counters.fenced += 1;
        }
        self.extend(index, env);
    }

    /// What is held at `version`, if it can be taken by force and is not known to be.
    pub(super) fn looked_at(&mut self, version: Version) -> Option<&mut Held> {
        let held = self.held.as_mut().filter(|held| held.version == version && held.mode == LeaseMode::Exclusive);
        held.filter(|held| !held.holding.is_lost())
    }

    /// Says until when what is held may be acted on.
    pub(super) fn extend(&self, index: usize, env: &mut Env) {
        let Some(held) = self.held.filter(|held| !held.holding.is_lost()) else { return };
        env.check.extended(index, self.tenure.me(), env.now, self.acts_until(index, env, &held));
    }

    pub(super) fn acts_until(&self, index: usize, env: &Env, held: &Held) -> Time {
        let ends = held.holding.deadline().unwrap_or(Time::MAX);
        env.machines[index].clock.world(self.tenure.deadline().min(ends) + self.timeouts.fence())
    }
}
