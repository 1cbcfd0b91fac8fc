//! Declares machines dead of which it is true that they were without power, and mends their records.

use super::procedures::Next;
use super::{Member, Signal, Tag, terms};
use crate::protocol::declare::{Declaration, Declared};
use crate::protocol::mend::{Mended, Mending};
use crate::protocol::procedure::Event;
use crate::sim::env::Env;
use crate::sim::storage::delta_at;
use crate::types::{HostId, Owner};

/// What a host writes for another one.
pub(super) enum Word {
    Declares(Box<Declaration>),
    Mends(Mending),
}

impl Member {
    /// Begins a declaration, now and then; or mends the record where that is damaged.
    pub(super) fn declare(&mut self, index: usize, env: &mut Env) {
        let declares = env.options.faults.declares;
        if declares == 0 || self.word.is_some() || env.fenced.is_empty() || !env.random.chance(declares) {
            return;
        }
        let damaged: Vec<Owner> = env.known_ids().filter_map(|id| env.fenced_and_damaged(id)).collect();
        let me = self.tenure.me().host;
        if let Some(target) = damaged.into_iter().find(|target| target.host != me) {
            env.trace(|| format!("host {index} mends the record of {target}"));
            let deadline = env.local(index) + self.timeouts.dead();
            let generation = target.generation.get();
            let mending = Mending::new(me, target.host, terms(self.timeouts), generation, true, deadline);
            self.word = Some(Word::Mends(mending));
            return self.go_on_declaring(index, env, Event::Begun(env.local(index)));
        }
        // Those of long ago have come back, or have been declared dead.
        let recent = env.fenced.len().saturating_sub(4);
        let target = env.fenced[recent + env.random.below((env.fenced.len() - recent) as u64) as usize];
        if target.host == me {
            return;
        }
        env.trace(|| format!("host {index} declares {target} dead"));
        let known = self.observer.record(target.host).and_then(|seen| seen.good().cloned());
        let known = known.zip(self.observer.first_seen(target.host));
        let declaration = Declaration::new(me, target, terms(self.timeouts), known);
        self.word = Some(Word::Declares(Box::new(declaration)));
        self.go_on_declaring(index, env, Event::Begun(env.local(index)));
    }

    pub(super) fn declaring(&mut self, index: usize, env: &mut Env, signal: Signal) {
        if let Some(event) = signal.event_of(Tag::Declare, env.local(index)) {
            self.go_on_declaring(index, env, event);
        }
    }

    fn go_on_declaring(&mut self, index: usize, env: &mut Env, event: Event) {
        let (driver, deadline) = ((index, Tag::Declare), self.tenure.deadline());
        match &mut self.word {
            Some(Word::Declares(declaration)) => {
                let next = env.carry_out(driver, deadline, &mut **declaration, &mut self.observer, event);
                let Next::Over(end) = next else { return };
                env.trace(|| format!("host {index} declared: {end:?}"));
                env.check.counters.declared += u64::from(end == Ok(Declared::Dead));
            }
            Some(Word::Mends(mending)) => {
                let next = env.carry_out(driver, deadline, mending, &mut self.observer, event);
                let Next::Over(end) = next else { return };
                env.trace(|| format!("host {index} mended: {end:?}"));
                env.check.counters.mended += u64::from(matches!(end, Ok(Mended::Written(_))));
            }
            None => return,
        }
        self.word = None;
    }
}

impl Env {
    /// Who held the id last, if that one lost its power since and the record is damaged.
    fn fenced_and_damaged(&self, id: HostId) -> Option<Owner> {
        let latest = self.check.latest(id).filter(|latest| self.fenced.contains(latest))?;
        self.storage.delta(delta_at(id)).bad().map(|_| latest)
    }
}
