//! Says in the words of the public errors why an operation on a resource failed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::member::Member;
use super::operations::Acquired;
use super::pulse::taker;
use crate::error::{AcquireError, Damage, DiskError, Holder, Taker};
use crate::protocol::liveness::Verdict;
use crate::protocol::member::Over;
use crate::protocol::resource::{Blocker, Hold, Outcome, Refusal};
use crate::types::{HostId, Owner, Resource, Version};

impl Member {
    pub(crate) fn holder(&self, blocker: &Blocker) -> Holder {
        let name = blocker.owner.map_or_else(
            || self.with_observer(|observer| Some(observer.record(blocker.host)?.good()?.host_name)),
            |owner| self.name_of(owner),
        );
        Holder::new(blocker, name, self.io.now())
    }

    /// Those of whom `acquired` was taken by force, and for how long from now on they may still act.
    pub(crate) fn previous(&self, acquired: &Acquired) -> Vec<(Holder, Duration)> {
        let now = self.io.now();
        let version = Version::new(acquired.version.get().saturating_sub(1));
        let previous = acquired.overridden.iter().map(|(owner, until)| {
            let (host, generation) = (owner.host, Some(owner.generation.get()));
            let holder = Holder { host, generation, name: self.name_of(*owner), version, takeover_in: None };
            (holder, until.since(now))
        });
        previous.collect()
    }

    /// Who took `version`, as far as is known.
    pub(super) fn taker(&self, owner: Option<Owner>, version: Version) -> Taker {
        self.pulse.with_machine(|machine| taker(machine, owner, version))
    }

    /// All that may be active of those who share, in the order of their ids: the one that was found in the way, too.
    fn sharers(&self, found: &Blocker, all: &BTreeSet<Owner>) -> Vec<Holder> {
        let now = self.io.now();
        let blockers =
            all.iter().filter_map(|owner| match self.with_observer(|observer| observer.judge(*owner, now)) {
                Verdict::Active { dead_at } => {
                    Some(Blocker { host: owner.host, owner: Some(*owner), free_at: dead_at, ..found.clone() })
                }
                Verdict::Over | Verdict::Dead => None,
            });
        let mut blockers: BTreeMap<HostId, Blocker> = blockers.map(|blocker| (blocker.host, blocker)).collect();
        blockers.remove(&self.host());
        blockers.entry(found.host).or_insert_with(|| found.clone());
        blockers.values().map(|blocker| self.holder(blocker)).collect()
    }

    pub(super) fn explain(&self, resource: &Resource, mut over: Over) -> AcquireError {
        let name = resource.name;
        let io = self.trouble(&over);
        match over.outcome {
            Outcome::Blocked(blocker) if blocker.hold == Hold::Damaged => {
                let holder = self.holder(&blocker);
                match over.damaged.remove(&blocker.host) {
                    Some(reason) => {
                        let offset = resource.offset + self.terms.geometry.block_offset(blocker.host);
                        let damage = Damage { device: self.io.device(), offset, what: "block", reason };
                        AcquireError::BlockDamaged { resource: name, holder, damage }
                    }
                    None => AcquireError::Held { resource: name, holder },
                }
            }
            Outcome::Blocked(blocker) if blocker.hold == Hold::Shared => {
                AcquireError::Shared { resource: name, holders: self.sharers(&blocker, &over.sharers) }
            }
            Outcome::Blocked(blocker) => AcquireError::Held { resource: name, holder: self.holder(&blocker) },
            Outcome::Refused(refusal) => self.explain_refusal(resource, refusal, io),
            Outcome::GaveUp | Outcome::Held(_) | Outcome::Released | Outcome::HandedOver(_) => {
                AcquireError::TimedOut { resource: name, source: io }
            }
        }
    }

    fn explain_refusal(&self, resource: &Resource, refusal: Refusal, io: Option<DiskError>) -> AcquireError {
        let (device, name) = (self.io.device(), resource.name);
        match refusal {
            Refusal::LeaderDamaged(reason) => Damage { device, offset: resource.offset, what: "leader", reason }.into(),
            Refusal::Cleared => AcquireError::Deleted { device, resource: name, offset: resource.offset },
            Refusal::Foreign(leader) => AcquireError::Foreign {
                device,
                resource: name,
                offset: resource.offset,
                found: leader.resource,
                lockspace: leader.lockspace,
            },
            Refusal::HostIdTooLarge { num_hosts } => {
                AcquireError::HostIdTooLarge { resource: name, host: self.host(), max: num_hosts }
            }
            Refusal::OwnBlockChanged | Refusal::NotHeld(_) => {
                AcquireError::BlockChanged { resource: name, host: self.host() }
            }
            Refusal::Exhausted => AcquireError::Exhausted { resource: name },
            Refusal::VersionChanged { found } => AcquireError::VersionChanged { resource: name, found },
            Refusal::NotForced(blocker) => AcquireError::NotForced { resource: name, holder: self.holder(&blocker) },
            Refusal::WouldDeadlock(blocker) => {
                AcquireError::WouldDeadlock { resource: name, holder: self.holder(&blocker) }
            }
            Refusal::Overtaken { owner, version } => {
                AcquireError::Overtaken { resource: name, by: self.taker(owner, version) }
            }
            Refusal::NotHandedOver { version } => AcquireError::NotHandedOver { resource: name, version },
            Refusal::NotAsked | Refusal::NotAlone | Refusal::HandoverBegun => {
                unreachable!("an acquire hands nothing over")
            }
            Refusal::Storage => match io {
                Some(error) => error.into(),
                None => AcquireError::TimedOut { resource: name, source: None },
            },
        }
    }
}
