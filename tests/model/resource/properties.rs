//! What must hold in every state, and what must be reached in some.

use leasehold::format::{Block, Leader};
use leasehold::protocol::area::claim;
use leasehold::protocol::resource::{Effect, Operation};
use leasehold::{LeaseMode, Version};
use stateright::Property;

use super::limits::Limits;
use super::world::{Broken, End, Held, Process, State, id};

/// What must be seen somewhere, lest a property holds only because nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Takeover,
    Adoption,
    BothCommit,
    SetBack,
    Repair,
    RepairByTwo,
    CommittedAsFree,
    GaveUpUndecided,
    HeldAfterRelease,
    NextGeneration,
    Burn,
    TwoShare,
    Upgrade,
    Forced,
    FlagTakenBack,
    TakenAndDowngraded,
    Received,
    Inherited,
    Kept,
    TakenBack,
}

impl Limits {
    pub(super) fn all_properties(&self) -> Vec<Property<Limits>> {
        let mut properties = vec![
            Property::always("S1: one active owner, or some that share, beside what was taken", |_, state: &State| {
                let rights = || state.hosts.iter().filter_map(|host| host.active).filter(|held| !held.taken);
                rights().count() <= 1 || rights().all(|held| held.mode == LeaseMode::Shared)
            }),
            Property::always(
                "S2: the owner of a version never changes, versions grow, none is used again",
                |_, state: &State| state.history.broken != Some(Broken::Version),
            ),
            Property::always("S4: answers hold on disk", |_, state: &State| {
                state.history.broken != Some(Broken::Answer)
            }),
            Property::always("a host that is active claims its version, or shares", |_, state: &State| {
                state.hosts.iter().enumerate().all(|(host, it)| {
                    let Some(held) = it.active else { return true };
                    let Some(block) = state.disk.blocks[host].good() else { return true };
                    let claims = claim(id(host), block);
                    match held.mode {
                        LeaseMode::Exclusive => claims == Some((held.version, state.me(host))),
                        LeaseMode::Shared => {
                            claims.is_some_and(|(_, owner)| owner == state.me(host))
                                || block.shared == Some(state.me(host).generation)
                        }
                    }
                })
            }),
            Property::always("L1: who comes when all others are gone acquires the resource", |_, state: &State| {
                state.admits_a_newcomer()
            }),
        ];
        properties.extend(self.sights.iter().map(|sight| sight.property()));
        properties
    }
}

impl State {
    fn operations(&self) -> impl Iterator<Item = (usize, &Operation, &Effect)> {
        self.hosts.iter().enumerate().filter_map(|(host, it)| match &it.process {
            Process::Running { operation, effect } => Some((host, operation, effect)),
            _ => None,
        })
    }

    fn committing(&self) -> impl Iterator<Item = (usize, &Leader)> {
        self.hosts.iter().enumerate().filter_map(|(host, it)| Some((host, it.commits(&self.disk)?)))
    }
}

impl Sight {
    fn property(self) -> Property<Limits> {
        match self {
            Sight::Takeover => Property::sometimes("takeover of a dead owner", |_, state: &State| {
                state.hosts.iter().any(|host| {
                    let Some(Held { version, .. }) = host.active else { return false };
                    let before = Version::new(version.get() - 1);
                    state.history.decided.get(&before).is_some_and(|owner| {
                        !state.history.given_up.contains(&(before, *owner))
                            && host.known.iter().enumerate().any(|(of, known)| known.dead && id(of) == owner.host)
                    })
                })
            }),
            Sight::Adoption => Property::sometimes("another host's value is committed", |_, state: &State| {
                state.committing().any(|(host, leader)| leader.owner.unwrap().host != id(host))
            }),
            Sight::BothCommit => Property::sometimes("two hosts commit one version", |_, state: &State| {
                state.committing().any(|(host, leader)| {
                    state.committing().any(|(other, it)| other != host && it.version == leader.version)
                })
            }),
            Sight::SetBack => Property::sometimes("a late write sets the leader back", |_, state: &State| {
                state.disk.leader.version < state.history.committed
            }),
            Sight::Repair => Property::sometimes("a leader that was set back is repaired", |_, state: &State| {
                state.committing().any(|(_, leader)| {
                    leader.version > state.disk.leader.version && leader.version <= state.history.committed
                })
            }),
            Sight::RepairByTwo => Property::sometimes("a leader is repaired by two versions", |_, state: &State| {
                state.committing().any(|(_, leader)| leader.version > state.disk.leader.version.after(1))
            }),
            Sight::CommittedAsFree => Property::sometimes("a version is committed as given up", |_, state: &State| {
                state.committing().any(|(_, leader)| leader.is_free())
            }),
            Sight::GaveUpUndecided => {
                Property::sometimes("an undecided version is given up", |_, state: &State| {
                    state.history.given_up.iter().any(|(version, owner)| {
                        state.history.decided.get(version).is_none_or(|decided| decided != owner)
                    })
                })
            }
            Sight::HeldAfterRelease => {
                Property::sometimes("held by another host after a release", |_, state: &State| {
                    state.hosts.iter().enumerate().any(|(host, it)| {
                        let Some(Held { version, .. }) = it.active else { return false };
                        state
                            .history
                            .given_up
                            .iter()
                            .any(|(before, owner)| before.after(1) == version && owner.host != id(host))
                    })
                })
            }
            Sight::NextGeneration => {
                Property::sometimes("held by the next generation of a host", |_, state: &State| {
                    state.hosts.iter().any(|host| host.generation > 1 && host.active.is_some())
                })
            }
            Sight::Burn => Property::sometimes("held after a burn", |_, state: &State| {
                state.hosts.iter().any(|host| {
                    let burned = |own: &Block| own.extension.as_ref().is_some_and(|it| it.burned.is_some());
                    host.active.is_some() && host.own.as_ref().is_some_and(burned)
                })
            }),
            Sight::TwoShare => Property::sometimes("two share", |_, state: &State| {
                let shares = |held: &Held| held.mode == LeaseMode::Shared && !held.taken;
                state.hosts.iter().filter(|host| host.active.as_ref().is_some_and(shares)).count() > 1
            }),
            Sight::Upgrade => Property::sometimes("an upgrade drops its flag", |_, state: &State| {
                state.operations().any(|(_, operation, _)| operation.is_exposed())
            }),
            Sight::Forced => Property::sometimes("a lease is taken by force", |_, state: &State| {
                let taken = |held: &Held| held.taken && !held.lost;
                state.hosts.iter().any(|host| host.active.as_ref().is_some_and(taken))
            }),
            Sight::FlagTakenBack => {
                Property::sometimes("a flag that came too late is taken back", |_, state: &State| {
                    state.operations().any(|(host, operation, effect)| {
                        let mut called_off = operation.clone();
                        called_off.call_off();
                        let flagged = state.disk.blocks[host].good().is_some_and(|block| block.shared.is_some());
                        let drops = matches!(effect, Effect::WriteBlock(_, block) if block.shared.is_none());
                        flagged && drops && called_off != *operation
                    })
                })
            }
            Sight::Received => Property::sometimes("handed over, and received", |_, state: &State| {
                state.history.ends.contains(&End::Received)
            }),
            Sight::Inherited => Property::sometimes(
                "received, and the source does not say that it handed it over",
                |_, state: &State| state.history.ends.contains(&End::Inherited),
            ),
            Sight::Kept => Property::sometimes("what was to be handed over is kept", |_, state: &State| {
                state.history.ends.contains(&End::Kept)
            }),
            Sight::TakenBack => {
                Property::sometimes("what was proposed to another is taken back", |_, state: &State| {
                    state.history.ends.contains(&End::TakenBack)
                })
            }
            Sight::TakenAndDowngraded => Property::sometimes("a downgrade is lost", |_, state: &State| {
                state.hosts.iter().any(|host| host.active.is_some_and(|held| held.lost))
            }),
        }
    }
}
