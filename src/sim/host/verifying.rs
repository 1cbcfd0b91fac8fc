//! Carries out what [`Holding`](crate::protocol::holding::Holding) says of what is held, as the engine does.

use super::slot::Held;
use super::{Begun, End, Member, Signal, Tag, Wanted, view};
use crate::format::Geometry;
use crate::protocol::holding::{Restore, Task};
use crate::protocol::looks::{Look, Restoration, Verdict};
use crate::protocol::resource::{Effect, Operation};
use crate::sim::env::Env;
use crate::sim::host::Answer;
use crate::sim::storage::Area;
use crate::types::{Time, Version};

impl Member {
    /// Looks at what is held at `version`, or gives it back.
    pub(super) fn verify(&mut self, index: usize, env: &mut Env, (area, version): (Area, Version)) -> Option<End> {
        let now = env.local(index);
        let slot = self.slots.get_mut(&area)?;
        // Another signal is on its way.
        let held = slot.held.as_mut().filter(|held| held.version == version && held.signalled <= now)?;
        held.signalled = Time::MAX;
        match held.holding.task(now) {
            Some(Task::Look) if held.holding.needs_scan(self.known.as_ref().map(|(since, _)| *since), now) => {
                self.scan(index, env, Some(Wanted::Look(area, version)));
            }
            Some(Task::Look) => self.look(index, env, (area, version)),
            Some(Task::GiveBack) if slot.operation.is_none() => {
                self.verify_later(index, env, area);
                let begun = self.give_back(index, env, area)?;
                return self.begin(index, env, area, begun);
            }
            // The operation has an end, and then it is released.
            Some(Task::GiveBack) | None => {}
        }
        self.verify_later(index, env, area);
        None
    }

    pub(super) fn verify_later(&mut self, index: usize, env: &mut Env, area: Area) {
        let Some(held) = &mut self.slot(area).held else { return };
        let due = held.holding.due();
        if due < held.signalled {
            held.signalled = due;
            env.signal(index, due, Signal::Verify { area, version: held.version });
        }
    }

    pub(super) fn look(&mut self, index: usize, env: &mut Env, (area, version): (Area, Version)) {
        let slot = self.slot(area);
        slot.glance = slot.glance_at(version);
        if slot.glance.is_none() {
            return;
        }
        let (of, own) = (Begun { area, number: slot.begun }, self.tenure.me().host);
        let known = self.known.iter().flat_map(|(_, hosts)| hosts.iter().copied()).filter(|host| *host != own);
        env.read(index, Tag::Verify { of, version }, 0, area.offsets(known.chain([own])));
    }

    /// The read of a look that was begun after so many operations has ended.
    pub(super) fn verified(
        &mut self,
        index: usize,
        env: &mut Env,
        (of, version): (Begun, Version),
        started: Time,
        answer: Answer,
    ) {
        let (me, now, subject) = (self.tenure.me(), env.local(index), self.subject(env, of.area));
        let slot = self.slots.entry(of.area).or_default();
        let Some(before) = slot.glance.take_if(|glance| glance.begun == u64::from(of.number)) else { return };
        let Answer::Read(offsets, sectors) = answer else { return };
        let (view, after) = (view(&offsets, &sectors), slot.glance_at(version));
        let Some(held) = slot.held.as_mut().filter(|held| held.version == version) else { return };
        let what = (version, &held.holding);
        let look = Look::at(&subject, what, (&before, after.as_ref()), &view, &mut self.observer, now);
        let Some(look) = look else { return };
        slot.asked = look.asking.first().copied();
        let (was_lost, good) = (held.holding.is_lost(), look.verdict == Verdict::Good);
        if let Verdict::Lost(loss) = &look.verdict
            && !was_lost
        {
            env.trace(|| format!("host {index}: {me} has lost version {version}: {loss:?}"));
            env.check.of(of.area).loses(me, version, loss);
        }
        let restore = held.holding.looked(started, look, now);
        if good && !held.holding.is_lost() {
            env.check.of(of.area).looked(index, env.machines[index].clock.world(started));
        }
        self.extend(index, env, of.area);
        if let Some(restore) = restore {
            self.restore(index, env, (of, version), restore);
        }
        self.verify_later(index, env, of.area);
    }

    fn restore(&mut self, index: usize, env: &mut Env, (of, version): (Begun, Version), restore: Restore) {
        let (area, slot) = (of.area, self.slot(of.area));
        if slot.operation.is_some() || slot.begun != of.number || env.local(index) >= restore.by {
            return;
        }
        let (at, sector) = match restore.what {
            Restoration::Block(block) => {
                let at = area.block_at(self.tenure.me().host);
                (at, block.encode(Geometry::default(), at))
            }
            Restoration::Leader(leader) => (area.offset(), leader.encode(area.offset())),
        };
        if !env.storage.writing(index, |_, offset| offset == at) {
            env.check.counters.restored += 1;
            env.write(index, Tag::Restore { area, version }, 0, at, sector);
        }
    }

    pub(super) fn restored(&mut self, index: usize, env: &mut Env, (area, version): (Area, Version)) {
        if let Some(held) = self.slot(area).held.as_mut().filter(|held| held.version == version) {
            held.holding.restored(env.local(index));
        }
        self.verify_later(index, env, area);
    }

    /// Begins to release what is held.
    pub(super) fn give_back(&mut self, index: usize, env: &mut Env, area: Area) -> Option<(Operation, Effect)> {
        let subject = self.subject(env, area);
        let slot = self.slot(area);
        let Some(own) = slot.own.clone() else {
            env.check.fail(format!("S4: host {index} holds, but does not know its own block"));
            return None;
        };
        let held = slot.held.take()?;
        slot.begun += 1;
        slot.settling = None;
        env.trace(|| format!("host {index} releases"));
        env.check.of(area).releases(index);
        let now = env.local(index);
        Some(match held.holding.loss() {
            Some((_, loss)) if loss.is_of_the_area() => Operation::disown(subject, own, now),
            _ => Operation::release(subject, own, now),
        })
    }

    /// Says until when what is held may be acted on.
    pub(super) fn extend(&self, index: usize, env: &mut Env, area: Area) {
        let held = self.slots.get(&area).and_then(|slot| slot.held.as_ref());
        let Some(held) = held.filter(|held| !held.holding.is_lost()) else { return };
        let until = self.acts_until(index, env, held);
        env.check.of(area).extended(index, self.tenure.me(), env.now, until);
    }

    pub(super) fn acts_until(&self, index: usize, env: &Env, held: &Held) -> Time {
        let ends = held.holding.deadline().unwrap_or(Time::MAX);
        env.machines[index].clock.world(self.tenure.deadline().min(ends) + self.timeouts.fence())
    }
}
