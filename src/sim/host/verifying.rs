//! Carries out what [`Holding`](crate::protocol::holding::Holding) says of what is held, as the engine does.

use super::{End, Held, Member, Signal, Tag, Wanted, view};
use crate::format::Geometry;
use crate::protocol::holding::{Restore, Task};
use crate::protocol::looks::{Glance, Look, Restoration, Verdict};
use crate::protocol::resource::Operation;
use crate::sim::env::Env;
use crate::sim::host::Answer;
use crate::sim::storage::{AREA, block_at};
use crate::types::{LeaseMode, Time, Version};

impl Member {
    /// Looks at what is held at `version`, or gives it back.
    pub(super) fn verify(&mut self, index: usize, env: &mut Env, version: Version) -> Option<End> {
        let now = env.local(index);
        // Another signal is on its way.
        let held = self.held.as_mut().filter(|held| held.version == version && held.signalled <= now)?;
        held.signalled = Time::MAX;
        match held.holding.task(now) {
            Some(Task::Look) if held.holding.needs_scan(self.known.as_ref().map(|(since, _)| *since), now) => {
                self.scan(index, env, Some(Wanted::Look(version)));
            }
            Some(Task::Look) => self.look(index, env, version),
            Some(Task::GiveBack) if self.operation.is_none() => {
                self.verify_later(index, env);
                let begun = self.give_back(index, env)?;
                return self.begin(index, env, begun);
            }
            // The operation has an end, and then it is released.
            Some(Task::GiveBack) | None => {}
        }
        self.verify_later(index, env);
        None
    }

    pub(super) fn verify_later(&mut self, index: usize, env: &mut Env) {
        let Some(held) = &mut self.held else { return };
        let due = held.holding.due();
        if due < held.signalled {
            held.signalled = due;
            env.signal(index, due, Signal::Verify { version: held.version });
        }
    }

    pub(super) fn look(&mut self, index: usize, env: &mut Env, version: Version) {
        self.glance = self.glance_at(version);
        let Some(glance) = &self.glance else { return };
        let (begun, own) = (glance.begun, self.tenure.me().host);
        let known = self.known.iter().flat_map(|(_, hosts)| hosts.iter().copied()).filter(|host| *host != own);
        let offsets: Vec<u64> = std::iter::once(AREA).chain(known.chain([own]).map(block_at)).collect();
        env.read(index, Tag::Verify { version, begun }, 0, offsets);
    }

    /// What there is to look at of what is held at `version`.
    fn glance_at(&self, version: Version) -> Option<Glance> {
        let mode = self.held.as_ref().filter(|held| held.version == version)?.mode;
        let begun = self.operations;
        match &self.operation {
            None => Some(Glance { begun, mode, own: Some(self.own.clone()?) }),
            Some(operation) if mode == LeaseMode::Shared && operation.keeps_flag() => {
                Some(Glance { begun, mode, own: None })
            }
            Some(_) => None,
        }
    }

    /// The read of a look that was begun after so many operations has ended.
    pub(super) fn verified(
        &mut self,
        index: usize,
        env: &mut Env,
        (version, begun): (Version, u64),
        started: Time,
        answer: Answer,
    ) {
        let Some(before) = self.glance.take_if(|glance| glance.begun == begun) else { return };
        let Answer::Read(offsets, sectors) = answer else { return };
        let (me, now, subject) = (self.tenure.me(), env.local(index), self.subject(env));
        let (view, after) = (view(&offsets, &sectors), self.glance_at(version));
        let Some(held) = self.held.as_mut().filter(|held| held.version == version) else { return };
        let what = (version, &held.holding);
        let look = Look::at(&subject, what, (&before, after.as_ref()), &view, &mut self.observer, now);
        let Some(look) = look else { return };
        self.asked = look.asking.first().copied();
        let was_lost = held.holding.is_lost();
        if let Verdict::Lost(loss) = &look.verdict
            && !was_lost
        {
            env.trace(|| format!("host {index}: {me} has lost version {version}: {loss:?}"));
            env.check.counters.fenced += 1;
        }
        let restore = held.holding.looked(started, look, now);
        self.extend(index, env);
        if let Some(restore) = restore {
            self.restore(index, env, (version, begun), restore);
        }
        self.verify_later(index, env);
    }

    fn restore(&mut self, index: usize, env: &mut Env, (version, begun): (Version, u64), restore: Restore) {
        if self.operation.is_some() || self.operations != begun || env.local(index) >= restore.by {
            return;
        }
        let (at, sector) = match restore.what {
            Restoration::Block(block) => {
                let at = block_at(self.tenure.me().host);
                (at, block.encode(Geometry::default(), at))
            }
            Restoration::Leader(leader) => (AREA, leader.encode(AREA)),
        };
        if !env.storage.writing(index, |_, offset| offset == at) {
            env.check.counters.restored += 1;
            env.write(index, Tag::Restore { version }, 0, at, sector);
        }
    }

    pub(super) fn restored(&mut self, index: usize, env: &mut Env, version: Version) {
        if let Some(held) = self.held.as_mut().filter(|held| held.version == version) {
            held.holding.restored(env.local(index));
        }
        self.verify_later(index, env);
    }

    /// Begins to release what is held.
    pub(super) fn give_back(
        &mut self,
        index: usize,
        env: &mut Env,
    ) -> Option<(Operation, crate::protocol::resource::Effect)> {
        let Some(own) = self.own.clone() else {
            env.check.fail(format!("S4: host {index} holds, but does not know its own block"));
            return None;
        };
        let held = self.held.take()?;
        env.trace(|| format!("host {index} releases"));
        env.check.releases(index);
        let (subject, now) = (self.subject(env), env.local(index));
        self.operations += 1;
        self.settling = None;
        Some(match held.holding.loss() {
            Some((_, loss)) if loss.is_of_the_area() => Operation::disown(subject, own, now),
            _ => Operation::release(subject, own, now),
        })
    }

    /// Says until when what is held may be acted on.
    pub(super) fn extend(&self, index: usize, env: &mut Env) {
        let Some(held) = self.held.as_ref().filter(|held| !held.holding.is_lost()) else { return };
        env.check.extended(index, self.tenure.me(), env.now, self.acts_until(index, env, held));
    }

    pub(super) fn acts_until(&self, index: usize, env: &Env, held: &Held) -> Time {
        let ends = held.holding.deadline().unwrap_or(Time::MAX);
        env.machines[index].clock.world(self.tenure.deadline().min(ends) + self.timeouts.fence())
    }
}
