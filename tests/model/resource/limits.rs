//! The bounds within which everything is explored.

use leasehold::LeaseMode;
use leasehold::format::{Block, Geometry};
use leasehold::protocol::Seen;

use super::properties::Sight;
use super::world::{Content, FIRST, State};

/// How much may happen.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) hosts: usize,
    /// How many versions may be begun.
    pub(super) versions: u64,
    /// How often ballot numbers may grow past all that were seen.
    pub(super) ballots: u64,
    /// Acquires wait for a lease that is held, instead of ending.
    pub(super) wait: bool,
    /// Reads show sectors as they were at different times.
    pub(super) split_reads: bool,
    /// Hosts share, too.
    pub(super) shares: bool,
    /// Hosts acquire other than by a handover or by force, too.
    pub(super) acquires: bool,
    pub(super) begin: Begin,
    pub(super) budget: Budget,
    /// What must be reached.
    pub(super) sights: &'static [Sight],
}

/// What has happened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// The resource was just created.
    Fresh,
    /// The leader write of a host that stopped is in flight, two versions late.
    LateLeader,
    /// A host stopped in phase 1.
    DeadBallot,
    /// The first host holds the resource.
    Held(LeaseMode),
}

/// What may happen only a few times: how often at all, or how often still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// How many hosts may stop, crashed or otherwise.
    pub(super) stops: u8,
    /// How many hosts may give their host id back.
    pub(super) leaves: u8,
    /// How many hosts that stopped or left may start anew, as the next generation.
    pub(super) starts: u8,
    /// How many writes may time out.
    pub(super) timeouts: u8,
    /// How many I/Os may fail.
    pub(super) failures: u8,
    /// How many acquires may be called off.
    pub(super) call_offs: u8,
    /// How many blocks may be damaged.
    pub(super) damages: u8,
    /// How often a hold may be changed between shared and exclusive.
    pub(super) converts: u8,
    /// How many acquires may be by force.
    pub(super) forces: u8,
    /// How many acquires may wait to be handed the resource.
    pub(super) receives: u8,
    /// How often what is held may be handed over.
    pub(super) hand_overs: u8,
}

impl Limits {
    /// Whether nothing has happened that goes beyond the limits: what follows from it is not explored.
    pub(super) fn include(&self, state: &State) -> bool {
        let in_flight = state.in_flight.values().filter_map(|content| match content {
            Content::Block(block) => Some(block),
            Content::Leader(_) => None,
        });
        // The budget for damage: it meets no leader that was set back by two versions.
        let damaged = state.disk.blocks.iter().any(|block| block.good().is_none());
        if damaged && state.disk.leader.version.after(1) < state.history.committed {
            return false;
        }
        let ballots_max = Geometry::default().max_hosts() * (self.ballots + 1);
        let within = |block: &Block| block.instance.get() <= FIRST + self.versions && block.mbal < ballots_max;
        state.disk.blocks.iter().filter_map(Seen::good).chain(in_flight).all(within)
    }
}
