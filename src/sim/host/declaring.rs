//! Declares machines dead of which it is true that they were without power.

use super::procedures::Next;
use super::{Member, Signal, Tag, terms};
use crate::protocol::declare::{Declaration, Declared};
use crate::protocol::procedure::Event;
use crate::sim::env::Env;

impl Member {
    /// Begins a declaration, now and then.
    pub(super) fn declare(&mut self, index: usize, env: &mut Env) {
        let declares = env.options.faults.declares;
        if declares == 0 || self.declaration.is_some() || env.fenced.is_empty() || !env.random.chance(declares) {
            return;
        }
        // Those of long ago have come back, or have been declared dead.
        let recent = env.fenced.len().saturating_sub(4);
        let target = env.fenced[recent + env.random.below((env.fenced.len() - recent) as u64) as usize];
        if target.host == self.tenure.me().host {
            return;
        }
        env.trace(|| format!("host {index} declares {target} dead"));
        let known = self.observer.record(target.host).and_then(|seen| seen.good().cloned());
        let known = known.zip(self.observer.first_seen(target.host));
        self.declaration = Some(Declaration::new(self.tenure.me().host, target, terms(self.timeouts), known));
        self.go_on_declaring(index, env, Event::Begun(env.local(index)));
    }

    pub(super) fn declaring(&mut self, index: usize, env: &mut Env, signal: Signal) {
        if let Some(event) = signal.event_of(Tag::Declare, env.local(index)) {
            self.go_on_declaring(index, env, event);
        }
    }

    fn go_on_declaring(&mut self, index: usize, env: &mut Env, event: Event) {
        let Some(declaration) = &mut self.declaration else { return };
        let (driver, deadline) = ((index, Tag::Declare), self.tenure.deadline());
        if let Next::Over(end) = env.carry_out(driver, deadline, declaration, &mut self.observer, event) {
            env.trace(|| format!("host {index} declared: {end:?}"));
            env.check.counters.declared += u64::from(end == Ok(Declared::Dead));
            self.declaration = None;
        }
    }
}
