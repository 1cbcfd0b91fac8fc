//! Handing what is held over to a host that asks for it.

use super::slot::Held;
use super::{Env, Member};
use crate::protocol::resource::{Effect, Operation};
use crate::sim::storage::Area;
use crate::types::{Generation, HostId, Owner, Time};

impl Member {
    /// Begins to hand over what is held: to who asks for it, or now and then to somebody who may not.
    pub(super) fn hand_over(
        &mut self,
        env: &mut Env,
        area: Area,
        held: &Held,
        now: Time,
    ) -> Option<(Operation, Effect)> {
        let modes = env.options.modes;
        if env.quiet || modes.received == 0 || held.holding.is_lost() || self.leaving {
            return None;
        }
        let to = match self.slot(area).asked.take() {
            Some(to) => Some(to).filter(|_| env.random.chance(700)),
            None if env.random.chance(50) => self.somebody(env),
            None => None,
        };
        let (to, own) = (to?, self.slot(area).own.clone()?);
        env.trace(|| format!("{} hands version {} over to {to}", self.tenure.me(), held.version));
        self.slot(area).destination = Some(to);
        Some(Operation::hand_over(self.subject(env, area), own, held.version, to, now))
    }

    fn somebody(&self, env: &mut Env) -> Option<Owner> {
        let host = HostId::new(1 + env.random.below(env.ids())).filter(|host| *host != self.tenure.me().host)?;
        let record = self.observer.record(host)?.good()?;
        Some(Owner { host, generation: Generation::new(record.generation)? })
    }

    /// Nothing is acted on any more when the proposal is submitted.
    pub(super) fn cede(&mut self, index: usize, env: &mut Env, area: Area) {
        let slot = self.slot(area);
        if slot.operation.as_ref().is_some_and(Operation::has_ceded) && slot.held.take().is_some() {
            env.check.of(area).stopped(index);
        }
    }
}
