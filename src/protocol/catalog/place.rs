//! Whether a new resource may stand in an area, judged from one read of the whole area.
//!
//! Invariants:
//! - An area in which a resource was ever made is never cleared: its blocks belong to their hosts, and show every
//!   version that was held there.
//! - An area is left alone while a generation that began to make something there may still have a write in flight.

use crate::protocol::area::AreaView;
use crate::protocol::delta::Terms;
use crate::protocol::liveness::Observer;
use crate::protocol::rules::Rule;
use crate::protocol::{Defect, Seen};
use crate::types::{Generation, HostId, Name, Owner, Time, Version};

/// What an area is, for who looks for a place for a new resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A resource of this lockspace stands there.
    Resource(Name),
    /// Nothing may be made there at present.
    Taken(Reason),
    /// A new resource may be made there.
    Free(Ground),
}

/// Why an area without a resource is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// This host may hold or share what stood there, or its block is damaged.
    Held(HostId),
    /// A write of this generation may still reach the area.
    Writes(Owner),
    /// A resource was made there, and its leader is damaged.
    Damaged,
}

/// A place for a new resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ground {
    /// Whether anything but the leader may have to be cleared: no resource of this lockspace was ever made there.
    pub fresh: bool,
    /// The largest version that the area shows.
    pub shown: Version,
}

impl Place {
    /// What the `view` of an area shows, of its leader and of every block that there is room for. `name`: the new
    /// resource's.
    pub fn of(view: &AreaView, terms: &Terms, name: Name, observer: &mut Observer, now: Time) -> Place {
        let ours = view
            .leader
            .good()
            .filter(|leader| (leader.lockspace, leader.geometry) == (terms.lockspace, terms.geometry));
        if let Some(leader) = ours.filter(|leader| !leader.cleared) {
            return Place::Resource(leader.resource);
        }
        let makes =
            |owner: &Owner| view.block(owner.host).and_then(|block| block.extension).is_some_and(|it| it.making);
        let late = writers(view).find(|owner| makes(owner) && !observer.has_ended(*owner));
        if let Some(owner) = late.filter(|_| Rule::MakingIsRespected.is_in_force()) {
            return Place::Taken(Reason::Writes(owner));
        }
        let shown = view.latest_shown();
        let Some(leader) = ours else {
            return match Rule::MadeIsNotCleared.is_in_force() && was_made(view) {
                true => Place::Taken(Reason::Damaged),
                false => Place::Free(Ground { fresh: true, shown }),
            };
        };
        let active = |owner: Owner, observer: &mut Observer| !observer.judge(owner, now).is_gone();
        let holds = view.holders(leader, Version::new(u64::MAX)).map(|(_, owner, _)| owner);
        if let Some(owner) = holds.into_iter().find(|owner| active(*owner, observer)) {
            return Place::Taken(Reason::Held(owner.host));
        }
        if let Some(host) = view.unread(observer).next() {
            return Place::Taken(Reason::Held(host));
        }
        // A late leader of theirs would name the resource that stood there.
        if leader.resource != name
            && let Some(owner) = writers(view).find(|owner| !observer.has_ended(*owner))
        {
            return Place::Taken(Reason::Writes(owner));
        }
        Place::Free(Ground { fresh: false, shown })
    }
}

/// The generations that wrote the blocks.
fn writers(view: &AreaView) -> impl Iterator<Item = Owner> + '_ {
    view.good_blocks().filter_map(|(host, block)| {
        let generation = Generation::new(block.extension.as_ref()?.generation)?;
        Some(Owner { host, generation })
    })
}

/// Whether a resource of this lockspace was made here, though no leader says so: some block took part in a ballot. What
/// a former lockspace left, or random bytes, is no such block. Blocks that say no lockspace count, unless the leader
/// says that it was another one.
fn was_made(view: &AreaView) -> bool {
    let former = match &view.leader {
        Seen::Good(_) | Seen::Bad(Defect::OtherFormatting { .. }) => true,
        Seen::Bad(_) => false,
    };
    let mut ballots = view.good_blocks().filter(|(_, block)| block.instance > Version::default());
    ballots.any(|(_, block)| block.extension.is_some() || !former)
}
