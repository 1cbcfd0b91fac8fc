//! How an operation ends, who may be in its way, and what its host has then.

use super::{Kind, Operation};
use crate::format::Leader;
use crate::protocol::Defect;
use crate::protocol::holding::Loss;
use crate::types::{HostId, LeaseMode, Owner, Time, Version};

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The lease is held.
    Held(Version),
    /// The lease is not held, and nothing of this attempt is left behind that another host would respect.
    Blocked(Blocker),
    /// The lease is not held; the attempt was called off. As above.
    GaveUp,
    /// The lease is not held. As above.
    Refused(Refusal),
    /// The lease was held, and is free on disk.
    Released,
    /// The lease was held, and another host, whom it was handed over to, owns this version of it.
    HandedOver(Version),
}

impl Outcome {
    /// Why what the operation worked on is lost, where it leaves [`After::Lost`].
    pub fn why_lost(&self) -> Loss {
        match self {
            Outcome::Refused(Refusal::Overtaken { owner, version }) => Loss::Taken { owner: *owner, version: *version },
            Outcome::Refused(Refusal::NotHeld(loss)) => loss.clone(),
            _ => Loss::Unverified,
        }
    }
}

/// Why an operation can't be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The leader record is damaged.
    LeaderDamaged(Defect),
    /// The area was given up: there is no resource here.
    Cleared,
    /// The leader names another resource, another lockspace or other sizes.
    Foreign(Box<Leader>),
    /// The resource has room for fewer hosts.
    HostIdTooLarge {
        /// How many.
        num_hosts: u64,
    },
    /// A read or write failed.
    Storage,
    /// The own block holds what this host did not write.
    OwnBlockChanged,
    /// A version or ballot number can't grow any more.
    Exhausted,
    /// The resource is not at the version that was expected. Nothing was written.
    VersionChanged {
        /// The version that it is at.
        found: Version,
    },
    /// The owner can't be overridden: it is a sanlock host, which would not notice. Nothing was written.
    NotForced(Blocker),
    /// Nobody is there who could hand the resource over: it is free, or its owner is gone.
    NotHandedOver {
        /// The version that it is at.
        version: Version,
    },
    /// The destination of a handover does not ask for the next version, or not any more. The version is held as before.
    NotAsked,
    /// What is shared is not handed over. It is held as before.
    NotAlone,
    /// A handover of what is held was begun and nothing came of it: it can't be shared any more, only released.
    HandoverBegun,
    /// Two that share both wait to hold the resource alone. This one still shares it.
    WouldDeadlock(Blocker),
    /// What was held is not any more: its own block was erased or replaced. Nothing was written since that was seen.
    NotHeld(Loss),
    /// The version was taken over by force before it could be shared.
    Overtaken {
        /// By whom, as the leader says.
        owner: Option<Owner>,
        /// Its version.
        version: Version,
    },
}

/// Who is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blocker {
    /// The owner, or the host whose block is damaged.
    pub host: HostId,
    /// The generation that owns, when it is known.
    pub owner: Option<Owner>,
    /// The version that it has or may have.
    pub version: Version,
    /// When it could be taken over if its host shows no further life. `None`: not known yet.
    pub free_at: Option<Time>,
    /// What it has.
    pub hold: Hold,
}

/// What somebody who is in the way has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// The resource.
    Exclusive,
    /// The resource for a moment, until it has noted that it shares it.
    Short,
    /// The resource together with others.
    Shared,
    /// A damaged block: it may hold anything until its host writes it anew or is gone.
    Damaged,
}

/// What a host has of a resource when an operation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// A lease.
    Held(LeaseMode),
    /// Nothing to act on, but its block keeps others away: it was taken by force while the hold was changed. The holder
    /// must stop what it protects, and then release.
    Lost,
}

impl Operation {
    /// What the host has after this operation has ended with `outcome`.
    pub fn leaves(&self, outcome: &Outcome) -> After {
        match (outcome, self.kind) {
            (Outcome::Refused(Refusal::NotAlone), _) => After::Held(LeaseMode::Shared),
            (Outcome::Refused(Refusal::HandoverBegun), _) => After::Held(LeaseMode::Exclusive),
            (Outcome::Refused(Refusal::NotHeld(_)), _) => After::Lost,
            (Outcome::Refused(Refusal::Overtaken { .. }), _) if self.holds() => After::Lost,
            (Outcome::Held(_), _) => After::Held(self.wish.mode),
            (_, Kind::Upgrade) if !self.exposed => After::Held(LeaseMode::Shared),
            (_, Kind::Upgrade | Kind::Downgrade) => After::Lost,
            (_, Kind::HandOver { .. }) if !self.has_ceded() => After::Held(LeaseMode::Exclusive),
            (_, Kind::Acquire | Kind::Release | Kind::HandOver { .. }) => After::Nothing,
        }
    }
}
