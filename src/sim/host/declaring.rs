//! Declares machines dead of which it is true that they were without power.

use super::{Answer, Member, Signal, Tag, terms};
use crate::protocol::Span;
use crate::protocol::declare::{Declaration, Declared, Effect};
use crate::protocol::delta::Event;
use crate::sim::env::Env;
use crate::sim::storage::delta_at;

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
        let declaration = Declaration::new(self.tenure.me().host, target, terms(self.timeouts), known);
        self.declaration = Some((target.host, declaration));
        env.read(index, Tag::Declare, 0, vec![delta_at(target.host)]);
    }

    pub(super) fn declared(&mut self, index: usize, env: &mut Env, span: Span, answer: Answer) {
        let Some((host, _)) = &self.declaration else { return };
        let at = delta_at(*host);
        self.declaring(index, env, answer.of_record(span, at));
    }

    pub(super) fn declaring(&mut self, index: usize, env: &mut Env, event: Event) {
        let Some((host, declaration)) = &mut self.declaration else { return };
        let at = delta_at(*host);
        match declaration.step(event) {
            Effect::Read => env.read(index, Tag::Declare, 0, vec![at]),
            Effect::Write(record) if !env.storage.writing(index, |_, offset| offset == at) => {
                env.write(index, Tag::Declare, 0, at, record.encode(at));
            }
            // Of an earlier declaration.
            Effect::Write(_) => self.declaration = None,
            Effect::Wait(until) => env.signal(index, until, Signal::DeclarationWoke),
            Effect::Done(end) => {
                env.trace(|| format!("host {index} declared: {end:?}"));
                env.check.counters.declared += u64::from(end == Ok(Declared::Dead));
                self.declaration = None;
            }
        }
    }
}
