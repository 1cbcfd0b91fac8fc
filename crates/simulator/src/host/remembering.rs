//! What a process has seen is kept for the next one of its machine, as the engine keeps it: it outlives reboots, too.

use leasehold::protocol::sightings::Sightings;

use super::Member;
use crate::env::Env;

impl Member {
    /// Counts on from what earlier processes have seen.
    pub(super) fn recall_sightings(&mut self, index: usize, env: &Env) {
        let machine = &env.machines[index];
        self.machine.observer().recall(machine.sightings.clone().recalled(machine.boot.into()));
    }

    /// Keeps what was seen, once in a quarter of D.
    pub(super) fn keep_sightings(&mut self, index: usize, env: &mut Env) {
        let now = env.local(index);
        if self.kept.is_none_or(|kept| now.since(kept) >= self.machine.terms().timeouts.dead() / 4) {
            let (machine, nonce) = (&mut env.machines[index], self.machine.terms().nonce);
            machine.sightings = Sightings::of(machine.boot.into(), nonce, self.machine.observer());
            self.kept = Some(now);
        }
    }
}
