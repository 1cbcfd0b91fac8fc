//! What one read of a resource's area showed: its leader and the host blocks.

use std::collections::{BTreeMap, BTreeSet};

use super::delta::Terms;
use super::liveness::Observer;
use super::procedure::Sectors;
use super::resource::Hold;
use super::rules::Rule;
use super::{Defect, Seen, reading};
#[cfg(doc)]
use crate::format::LeaderExtension;
use crate::format::{Block, BlockExtension, Geometry, Leader, numbers};
use crate::types::{Generation, HostId, Name, Owner, Time, Version};

/// The leader and every block that is not empty. A host that is missing here has an empty block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AreaView {
    /// Sector 0.
    pub leader: Seen<Leader>,
    /// The blocks that hold something, damaged ones included.
    pub blocks: BTreeMap<HostId, Seen<Block>>,
}

impl AreaView {
    /// What the sectors of the area at byte `area` of its device say in the lockspace with that `nonce`.
    pub fn decode<'sector>(
        leader: Result<&[u8], Defect>,
        blocks: impl IntoIterator<Item = (HostId, Result<&'sector [u8], Defect>)>,
        area: u64,
        geometry: Geometry,
        nonce: u32,
    ) -> AreaView {
        let blocks = blocks.into_iter().filter_map(|(host, sector)| {
            let block = reading::block(sector, area + geometry.block_offset(host), nonce);
            (block != Seen::Good(Block::default())).then_some((host, block))
        });
        AreaView { leader: reading::leader(leader, area, nonce), blocks: blocks.collect() }
    }

    /// What the sectors of the area at byte `area` of its device say, from its first one on: leader, request, blocks.
    pub fn of(sectors: &Sectors, terms: &Terms, area: u64) -> AreaView {
        let mut all = sectors.iter();
        let leader = all.next().unwrap_or(Err(Defect::Unreadable));
        let blocks = all.skip(1).zip(1..).filter_map(|(sector, id)| Some((HostId::new(id)?, sector)));
        AreaView::decode(leader, blocks, area, terms.geometry, terms.nonce)
    }

    /// What a repair goes by: a sector with a number that no host reaches is damaged. But for the block that it has
    /// written itself: its numbers follow those that it found.
    pub(crate) fn within_reach(self, mine: Option<(HostId, &Block)>) -> AreaView {
        let blocks = self.blocks.into_iter().map(|(host, seen)| {
            let is_mine = seen.good().is_some_and(|block| mine == Some((host, block)));
            (host, if is_mine { seen } else { reading::within_reach(seen) })
        });
        AreaView { leader: reading::within_reach(self.leader), blocks: blocks.collect() }
    }

    /// The leader, if it is that of `resource` in `lockspace`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn leader_of(&self, lockspace: Name, resource: Name) -> Result<&Leader, Defect> {
        match &self.leader {
            Seen::Bad(defect) => Err(defect.clone()),
            Seen::Good(leader) if leader.cleared => Err(Defect::Deleted),
            Seen::Good(leader) if (leader.lockspace, leader.resource) != (lockspace, resource) => {
                Err(Defect::Foreign { resource: leader.resource, lockspace: leader.lockspace })
            }
            Seen::Good(leader) => Ok(leader),
        }
    }

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

    /// Hosts that may be alive and whose block is damaged: what they have of the resource nobody knows.
    pub fn unread<'view>(&'view self, observer: &'view Observer) -> impl Iterator<Item = HostId> + 'view {
        self.bad_blocks().filter(|host| !observer.judge_host(*host).is_gone())
    }

    /// The latest instance that any readable block belongs to.
    pub fn latest_instance(&self) -> Version {
        self.good_blocks().map(|(_, block)| block.instance).max().unwrap_or_default()
    }

    /// The largest version that the leader or any block shows, also one of another formatting of the device; of those
    /// that hosts reach.
    pub fn latest_shown(&self) -> Version {
        let other = |defect: &Defect| match defect {
            Defect::OtherFormatting { number, .. } => Version::new(*number),
            _ => Version::default(),
        };
        let leader = match &self.leader {
            Seen::Good(leader) => leader.version,
            Seen::Bad(defect) => other(defect),
        };
        let blocks = self.blocks.values().map(|seen| match seen {
            Seen::Good(block) => block.instance,
            Seen::Bad(defect) => other(defect),
        });
        let all = blocks.chain([leader]).filter(|version| numbers::is_reached(version.get()));
        all.max().unwrap_or_default()
    }

    /// Whether `owner` gave up `version`, as its own block shows: it says so, or belongs to a later instance, which no
    /// host starts while it holds an earlier one without saying that it does. Or it gave the version up in advance.
    pub fn released(&self, owner: Owner, version: Version) -> bool {
        Rule::ReleasedFlagFrees.is_in_force()
            && self.block(owner.host).is_some_and(|block| gave_up(owner, &block, version))
    }

    /// The owner that `leader` names, unless it says itself that it is free or the owner gave the version up.
    pub fn named(&self, leader: &Leader) -> Option<Owner> {
        leader.owner.filter(|owner| !leader.is_free() && !self.released(*owner, leader.version))
    }

    /// Who has or may have something of the resource, from which version, and what: the owner that `leader` names, who
    /// claims a version below `end`, and who shares. Whether their generations may be active is for the caller to
    /// judge; what a damaged block holds nobody knows (see [`AreaView::bad_blocks`]).
    pub fn holders(&self, leader: &Leader, end: Version) -> impl Iterator<Item = (Version, Owner, Hold)> {
        // Who committed another's value doesn't know for how long that is held.
        let hold = |owner: Owner| if leader.short_hold { Hold::Short } else { self.hold_of(owner.host) };
        let named = self.named(leader).map(|owner| (leader.version, owner, hold(owner)));
        let claims = self.unnamed(leader, end).filter(|_| Rule::ClaimsCount.is_in_force());
        let claims = claims.map(|(version, owner)| (version, owner, self.hold_of(owner.host)));
        let sharers = self.sharing().filter(|_| Rule::SharersCount.is_in_force());
        let sharers = sharers.map(|(version, owner)| (version, owner, Hold::Shared));
        named.into_iter().chain(claims).chain(sharers)
    }

    /// Who has or may have a version below `end` that `leader` does not name them for.
    pub fn unnamed(&self, leader: &Leader, end: Version) -> impl Iterator<Item = (Version, Owner)> {
        // The leader's owner is judged with what it says of being free.
        let (version, owner) = (leader.version, leader.owner);
        let claims = self.claims(Some(leader), end).chain(self.handed_over(leader.version, end));
        claims.filter(move |claim| (claim.0, Some(claim.1)) != (version, owner))
    }

    /// Who owns a version below `version`, which is `me`'s, and may be active: the resource was taken from them by
    /// force. Or shares it since: whoever did before the taking kept it from happening.
    pub fn overridden(&self, me: Owner, version: Version, observer: &mut Observer, now: Time) -> BTreeSet<Owner> {
        let leader = self.leader.good();
        let named = leader.and_then(|leader| self.named(leader));
        let claims = self.claims(leader, version);
        let shared = self.sharing().filter(|(shared, _)| *shared < version);
        let owners = named.into_iter().chain(claims.chain(shared).map(|(_, owner)| owner));
        owners.filter(|owner| *owner != me && !observer.judge(*owner, now).is_gone()).collect()
    }

    /// The versions below `end` that a host's own block says it owns and did not give up: it may hold them. Of those
    /// below the version of `leader`, which are over by now, only the claims of owners that were overridden by force
    /// mean anything. So none counts where they were [judged](AreaView::judged) before; nor does a sanlock host's: it
    /// is never overridden, and may leave the claim of a ballot that it lost in its block for good.
    fn claims(&self, leader: Option<&Leader>, end: Version) -> impl Iterator<Item = (Version, Owner)> {
        let current = leader.map_or(Version::default(), |leader| leader.version);
        let judged = leader.is_some_and(|leader| self.judged(leader)) && Rule::JudgedClaimsAreOver.is_in_force();
        let from = if judged || !Rule::EarlierClaimsCount.is_in_force() { current } else { Version::default() };
        self.good_blocks().filter_map(move |(host, block)| {
            let (version, owner) = claim(host, block)?;
            let may_stand = version > current || block.extension.is_some();
            (version >= from && version < end && may_stand).then_some((version, owner))
        })
    }

    /// Whether whoever committed `leader` had judged every claim below its version and passed over nobody
    /// ([`LeaderExtension::judged`]), in this area as it is now: its writer's own block shows that it came as far as
    /// that version. Where an area was wiped, or set back, versions begin again below a leader that was on its way.
    fn judged(&self, leader: &Leader) -> bool {
        let block = HostId::new(leader.writer.id).and_then(|host| self.blocks.get(&host)).and_then(Seen::good);
        let shown = block.is_some_and(|block| block.instance >= leader.version);
        leader.is_judged() && (shown || !Rule::JudgedIsShown.is_in_force())
    }

    /// The versions below `end` and after the leader's `current` one that were handed over to a host which asks for
    /// them and has not begun to own them: who runs a later instance would take them from it.
    fn handed_over(&self, current: Version, end: Version) -> impl Iterator<Item = (Version, Owner)> {
        let accepted = self.good_blocks().filter(|(_, block)| block.bal > 0);
        let accepted = accepted.filter_map(|(_, block)| Some((block.instance, block.inp?)));
        let between = accepted.filter(move |(version, _)| *version > current && *version < end);
        between.filter(|(version, owner)| self.asks(*owner) >= Some(*version) && !self.released(*owner, *version))
    }

    /// The version that `owner` is to own next if whoever owns the resource hands it over: it says so, and has not
    /// given that up since.
    pub fn asks(&self, owner: Owner) -> Option<Version> {
        let extension = self.extension(owner.host).filter(|it| it.generation == owner.generation.get())?;
        extension.receives.filter(|version| !self.released(owner, *version))
    }

    /// Who asks to be handed what is held at version `held`, and for which version.
    pub fn destinations(&self, held: Version) -> impl Iterator<Item = (Owner, Version)> {
        let latest = self.latest_instance().max(held.after(1));
        self.blocks.keys().filter_map(move |host| {
            let generation = Generation::new(self.extension(*host)?.generation)?;
            let owner = Owner { host: *host, generation };
            self.asks(owner).filter(|version| *version >= latest).map(|version| (owner, version))
        })
    }

    /// Whether `owner` knows that it owns `version`, or did: its own block claims it, or is of a later one and did not
    /// give this one up in advance.
    pub fn took(&self, owner: Owner, version: Version) -> bool {
        self.block(owner.host).is_some_and(|block| {
            let mine = block.extension.as_ref().is_some_and(|it| it.generation == owner.generation.get());
            let past = mine && block.instance > version && withdrawn(owner, &block) < Some(version);
            past || block.instance == version && block.bal > 0 && block.inp == Some(owner)
        })
    }

    /// Whether `owner` gave `version` up without ever having begun to own it.
    pub fn withdrew(&self, owner: Owner, version: Version) -> bool {
        let gave_up = self.block(owner.host).is_some_and(|block| withdrawn(owner, &block) >= Some(version));
        gave_up && !self.took(owner, version)
    }

    /// What a host whose own block claims a version has by that.
    fn hold_of(&self, host: HostId) -> Hold {
        if self.extension(host).is_some_and(|extension| extension.shares) { Hold::Short } else { Hold::Exclusive }
    }

    /// What leasehold adds to the block of `host`. A sanlock host's has nothing.
    fn extension(&self, host: HostId) -> Option<&BlockExtension> {
        self.blocks.get(&host).and_then(Seen::good).and_then(|block| block.extension.as_ref())
    }

    /// Who has taken the resource from `owner` at `version`, though it did not give it up: the first owner of a later
    /// version that the leader shows or that a block accepted; or nobody that is known, of the version before the one
    /// that another host has begun to take.
    pub fn fenced(&self, owner: Owner, version: Version) -> Option<(Option<Owner>, Version)> {
        self.fenced_by(self.leader.good(), owner, version)
    }

    /// As [`AreaView::fenced`], where `leader` is what counts of the leader.
    pub(super) fn fenced_by(
        &self,
        leader: Option<&Leader>,
        owner: Owner,
        version: Version,
    ) -> Option<(Option<Owner>, Version)> {
        let anothers = |leader: &&Leader| leader.owner.is_some_and(|other| other != owner);
        let led = leader.filter(|it| it.version > version || it.version == version && anothers(it));
        let led = led.map(|leader| (leader.owner, leader.version));
        let others = self.good_blocks().filter(|(host, _)| *host != owner.host && Rule::FencedByBlocks.is_in_force());
        let shown = others.filter_map(|(_, block)| match block.bal {
            0 => Some((None, begun_after(block)?)),
            _ => Some((block.inp, block.instance)),
        });
        let shown = shown.filter(|(_, shown)| *shown > version);
        led.into_iter().chain(shown).min_by_key(|(_, version)| *version)
    }

    /// What the blocks of other hosts than `me` say that they own, each by itself.
    pub fn claimed_by_others(&self, me: HostId) -> impl Iterator<Item = (Owner, Version)> {
        let claims =
            self.good_blocks().filter(move |(host, _)| *host != me).filter_map(|(host, block)| claim(host, block));
        claims.map(|(version, owner)| (owner, version))
    }

    /// Another owner than `me` that `leader` names, not for a moment only, and whose own block claims that version.
    pub(super) fn rival(&self, leader: &Leader, me: Owner) -> Option<(Owner, Version)> {
        let owner = self.named(leader).filter(|owner| *owner != me && !leader.short_hold)?;
        let mut claims = self.claimed_by_others(me.host);
        let alone = self.hold_of(owner.host) == Hold::Exclusive && claims.any(|it| it == (owner, leader.version));
        alone.then_some((owner, leader.version))
    }

    /// Whether somebody but `me` may own a version after `version`, or that one again where the area was wiped, without
    /// having seen that `me` shares.
    pub(super) fn overtakes(&self, me: Owner, leader: &Leader, version: Version) -> bool {
        let shares = |block: &Block| block.extension.as_ref().is_some_and(|extension| extension.shares);
        // The block of the leader's owner is not to be seen any more.
        let unseen = leader.version > self.latest_instance();
        let anothers = self.rival(leader, me).is_some_and(|(_, other)| other == version);
        let mut others = self.good_blocks().filter(|(host, _)| *host != me.host);
        unseen || anothers || others.any(|(_, block)| block.instance > version && !shares(block))
    }

    /// The generations that say they share the resource.
    pub fn sharers(&self) -> impl Iterator<Item = Owner> + '_ {
        self.sharing().map(|(_, owner)| owner)
    }

    fn sharing(&self) -> impl Iterator<Item = (Version, Owner)> {
        self.good_blocks().filter_map(|(host, block)| Some((block.instance, Owner { host, generation: block.shared? })))
    }
}

/// The owner that `block`, which is `host`'s own, names for its instance, if that is `host` itself and it did not give
/// the version up.
pub fn claimed(host: HostId, block: &Block) -> Option<Owner> {
    block.inp.filter(|owner| owner.host == host && block.bal > 0 && !block.released)
}

/// The version before the one for which the block's host has begun a ballot: that was decided, or nobody would begin
/// the next one. Who has skipped a version knows of none.
fn begun_after(block: &Block) -> Option<Version> {
    let burned = block.extension.as_ref().and_then(|extension| extension.burned);
    let before = block.instance.get().checked_sub(1).filter(|_| block.mbal > 0 && burned.is_none())?;
    Some(Version::new(before))
}

/// The version that `block`, which is `host`'s own, says it owns, and the owner: that of its instance, or an earlier
/// one that it still holds while it hands it over.
pub fn claim(host: HostId, block: &Block) -> Option<(Version, Owner)> {
    claimed(host, block).map(|owner| (block.instance, owner)).or_else(|| holds(host, block))
}

/// Whether `block`, which is that of `owner`'s host, says that `owner` gave up `version`.
pub(super) fn gave_up(owner: Owner, block: &Block, version: Version) -> bool {
    block.instance > version && holds(owner.host, block) != Some((version, owner))
        || block.instance == version && block.released && block.inp == Some(owner)
        || withdrawn(owner, block) >= Some(version)
}

/// Up to which version `owner` gave up in advance what it had asked for.
pub(super) fn withdrawn(owner: Owner, block: &Block) -> Option<Version> {
    let extension = block.extension.as_ref().filter(|extension| extension.generation == owner.generation.get());
    extension?.withdrawn
}

fn holds(host: HostId, block: &Block) -> Option<(Version, Owner)> {
    let extension = block.extension.as_ref()?;
    let owner = Owner { host, generation: Generation::new(extension.generation)? };
    Some((extension.holds?, owner))
}
