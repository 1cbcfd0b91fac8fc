//! What one read of a resource's area showed: its leader and the host blocks.

use std::collections::BTreeMap;

use super::Seen;
use super::resource::Hold;
use super::rules::in_force;
use crate::format::{Block, BlockExtension, Leader};
use crate::types::{HostId, Owner, Version};

/// The leader and every block that is not empty. A host that is missing here has an empty block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AreaView {
    /// Sector 0.
    pub leader: Seen<Leader>,
    /// The blocks that hold something, damaged ones included.
    pub blocks: BTreeMap<HostId, Seen<Block>>,
}

impl AreaView {
    /// The block of `host`, if it is readable; an empty one if nothing was ever written there.
    pub fn block(&self, host: HostId) -> Option<Block> {
        match self.blocks.get(&host) {
            Some(seen) => seen.good().cloned(),
            None => Some(Block::default()),
        }
    }

    /// The readable blocks.
    pub fn good_blocks(&self) -> impl Iterator<Item = (HostId, &Block)> {
        self.blocks.iter().filter_map(|(host, seen)| Some((*host, seen.good()?)))
    }

    /// Hosts whose block is damaged.
    pub fn bad_blocks(&self) -> impl Iterator<Item = HostId> + '_ {
        self.blocks.iter().filter(|(_, seen)| seen.good().is_none()).map(|(host, _)| *host)
    }

    /// The latest instance that any readable block belongs to.
    pub fn latest_instance(&self) -> Version {
        self.good_blocks().map(|(_, block)| block.instance).max().unwrap_or_default()
    }

    /// Whether `owner` gave up `version`, as its own block shows: it says so, or belongs to a later instance, which no
    /// host starts while it holds an earlier one.
    pub fn released(&self, owner: Owner, version: Version) -> bool {
        in_force!(ReleasedFlagFrees)
            && self.block(owner.host).is_some_and(|block| {
                block.instance > version || block.instance == version && block.released && block.inp == Some(owner)
            })
    }

    /// The versions from `first` up to, but without, `end` that a host's own unreleased block names it in: it may hold
    /// them.
    pub fn claims(&self, first: Version, end: Version) -> impl Iterator<Item = (Version, Owner)> + '_ {
        self.good_blocks().filter_map(move |(host, block)| {
            let version = block.instance;
            let owner = claimed(host, block)?;
            (version >= first && version < end).then_some((version, owner))
        })
    }

    /// What a host whose own block claims a version has by that.
    pub(super) fn hold_of(&self, host: HostId) -> Hold {
        if self.extension(host).is_some_and(|extension| extension.shares) { Hold::Short } else { Hold::Exclusive }
    }

    /// What leasehold adds to the block of `host`. A sanlock host's has nothing.
    pub(super) fn extension(&self, host: HostId) -> Option<&BlockExtension> {
        self.blocks.get(&host).and_then(Seen::good).and_then(|block| block.extension.as_ref())
    }

    /// Who has taken the resource from `owner` at `version`, though it did not give it up: the first owner of a later
    /// version that the leader shows or that a block accepted.
    pub fn fenced(&self, owner: Owner, version: Version) -> Option<(Option<Owner>, Version)> {
        let led = self
            .leader
            .good()
            .filter(|leader| leader.version > version || leader.version == version && leader.owner != Some(owner));
        let led = led.map(|leader| (leader.owner, leader.version));
        let accepted = self.good_blocks().filter(|(host, block)| {
            *host != owner.host && block.instance > version && block.bal > 0 && in_force!(FencedByBlocks)
        });
        let accepted = accepted.map(|(_, block)| (block.inp, block.instance));
        led.into_iter().chain(accepted).min_by_key(|(_, version)| *version)
    }

    /// Whether somebody but `me` may own a version after `version` without having seen that `me` shares.
    pub(super) fn overtakes(&self, me: HostId, leader: &Leader, version: Version) -> bool {
        let shares = |block: &Block| block.extension.as_ref().is_some_and(|extension| extension.shares);
        // The block of the leader's owner is not to be seen any more.
        let unseen = leader.version > self.latest_instance();
        unseen || self.good_blocks().any(|(host, block)| host != me && block.instance > version && !shares(block))
    }

    /// The generations that say they share the resource.
    pub fn sharers(&self) -> impl Iterator<Item = Owner> + '_ {
        self.good_blocks().filter_map(|(host, block)| Some(Owner { host, generation: block.shared? }))
    }
}

/// The owner that `block`, which is `host`'s own, names for its instance, if that is `host` itself and it did not give
/// the version up.
pub fn claimed(host: HostId, block: &Block) -> Option<Owner> {
    block.inp.filter(|owner| owner.host == host && block.bal > 0 && !block.released)
}
