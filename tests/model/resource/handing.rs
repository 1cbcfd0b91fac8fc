//! Handing over: how it begins, and what must be true of how it ends.

use leasehold::format::{Block, BlockExtension};
use leasehold::protocol::area::claim;
use leasehold::protocol::resource::{Basis, Effect, Operation, Outcome, Wish};
use leasehold::{Generation, Owner, Version};

use super::operations::subject;
use super::world::{Broken, End, Held, NOW, Role, State, id};

impl State {
    /// The generation of `host` that asks to be handed the resource.
    pub(super) fn asks(&self, host: usize) -> Option<Owner> {
        let extension = self.disk.blocks[host].good()?.extension.as_ref()?;
        let generation = Generation::new(extension.generation)?;
        extension.receives.map(|_| Owner { host: id(host), generation })
    }

    pub(super) fn receive(&mut self, host: usize) {
        self.hosts[host].change(|host| host.role = Some(Role::Destination));
        self.acquire(host, Wish { basis: Basis::HandedOver, ..Wish::exclusive(true) });
    }

    pub(super) fn hand_over(&mut self, host: usize, to: Owner) {
        let (own, held) = (self.hosts[host].own.clone(), self.hosts[host].active);
        let (Some(own), Some(Held { version, .. })) = (own, held) else { unreachable!("it holds") };
        self.hosts[host].change(|host| host.role = Some(Role::Source(version, to)));
        let (operation, effect) = Operation::hand_over(subject(self.me(host)), own, version, to, NOW);
        self.arrive(host, operation, effect);
    }

    /// `host` is about to do what an operation says.
    pub(super) fn submits(&mut self, host: usize, operation: &Operation, effect: &Effect) {
        if operation.has_ceded() {
            self.hosts[host].change(|host| host.active = None);
        }
        if let Effect::WriteBlock(_, Block { extension: Some(BlockExtension { receives: Some(version), .. }), .. }) =
            effect
        {
            let (me, version) = (self.me(host), *version);
            self.history.change(|history| history.asked.insert(me, version));
        }
        let Effect::WriteBlock(_, Block { instance, bal: 1.., inp: Some(owner), released: false, .. }) = effect else {
            return;
        };
        let (version, owner) = (*instance, *owner);
        match self.hosts[host].role {
            Some(Role::Source(_, to)) if to == owner => {
                self.history.change(|history| history.proposed.insert((version, owner)));
            }
            Some(Role::Destination) if self.me(host) == owner => {
                self.history.change(|history| history.begun.insert((version, owner)));
            }
            _ => {}
        }
    }

    /// What was promised to `host` it holds, or it does not want it any more, or is gone.
    pub(super) fn promise_ends(&mut self, host: usize) {
        let me = self.me(host);
        if self.history.promised.contains(&me) {
            self.history.change(|history| history.promised.remove(&me));
        }
    }

    /// A caller of `host` does not want to wait any longer.
    pub(super) fn wants_no_more(&mut self, host: usize) {
        self.promise_ends(host);
        self.hosts[host].change(|host| host.role = host.role.filter(|role| *role != Role::Destination));
    }

    /// `host` says that it holds `version`: nobody else was promised the resource, but for whom it passed over by
    /// force; and who waited to be handed it was.
    pub(super) fn receives(&mut self, host: usize, version: Version, operation: &Operation) {
        let (me, role) = (self.me(host), self.hosts[host].role);
        let own = self.disk.blocks[host].good().and_then(|block| block.extension.as_ref());
        let withdrawn = own.and_then(|extension| extension.withdrawn);
        let proposed = |(at, to): &(Version, Owner)| *to == me && *at <= version && Some(*at) > withdrawn;
        let handed = self.history.proposed.iter().any(proposed);
        self.break_if(role == Some(Role::Destination) && !handed, Broken::Answer);
        let end = match role {
            Some(Role::Source(..)) => Some(End::TakenBack),
            Some(Role::Destination) if self.history.promised.contains(&me) => Some(End::Received),
            Some(Role::Destination) => Some(End::Inherited),
            _ => None,
        };
        self.promise_ends(host);
        let passed = |owner: &Owner| operation.overridden().contains(owner);
        self.break_if(!self.history.promised.iter().all(passed), Broken::Answer);
        self.history.change(|history| {
            history.promised.clear();
            history.ends.extend(end);
            history.proposed.retain(|(_, to)| *to != me);
        });
    }

    /// An operation of `host`, which did not end with a lease that was not held before, is over.
    pub(super) fn handed(&mut self, host: usize, outcome: &Outcome) {
        let me = self.me(host);
        self.break_if(self.history.promised.contains(&me), Broken::Answer);
        if let Some(version) = self.history.asked.get(&me).copied() {
            self.history.change(|history| history.refused.insert(me, version));
        }
        match (self.hosts[host].role, outcome) {
            (Some(Role::Release(version)), _) => {
                self.history.change(|history| history.given_up.insert((version, me)));
            }
            (Some(Role::Source(held, to)), Outcome::HandedOver(version)) => {
                self.decide(*version, to);
                let of = (0..self.hosts.len()).find(|of| id(*of) == to.host);
                // It asks, or has asked and did not give that up before it knew of this.
                let unasked = !self.history.asked.contains_key(&to);
                let refused = self.history.refused.get(&to) >= Some(version);
                let lives = of.is_some_and(|of| self.me(of) == to);
                self.break_if(
                    (unasked || refused && lives) && !self.history.begun.contains(&(*version, to)),
                    Broken::Answer,
                );
                let waits = of.is_some_and(|of| lives && self.hosts[of].role == Some(Role::Destination));
                self.history.change(|history| {
                    history.given_up.insert((held, me));
                    if waits && !history.given_up.contains(&(*version, to)) {
                        history.promised.insert(to);
                    }
                });
            }
            (Some(Role::Source(held, _)), _) => {
                let claims =
                    self.disk.blocks[host].good().is_none_or(|block| claim(id(host), block) == Some((held, me)));
                if self.hosts[host].active.is_some() {
                    self.break_if(!claims, Broken::Answer);
                    self.history.change(|history| history.ends.insert(End::Kept));
                }
            }
            _ => {}
        }
    }
}
