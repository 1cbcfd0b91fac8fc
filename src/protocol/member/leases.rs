//! What a membership has of each resource: one operation at a time on each, and each lease from its first answer until
//! it is given back.
//!
//! A conversion gives a lease another version, and a lease that was lost may stand beside one that was acquired after
//! it on the same resource. So a lease is known by its place and the version at which it *began*.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::JobId;
use crate::format::Block;
use crate::protocol::holding::{Holding, Loss};
use crate::protocol::looks::Glance;
use crate::types::{LeaseMode, Name, Owner, Resource, Time, Version};

/// Place and version of a lease.
pub type Key = (u64, Version);

/// The resources that a membership has touched, and its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leases {
    places: BTreeMap<u64, Place>,
    holds: BTreeMap<Key, Hold>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    name: Name,
    state: State,
    /// How many operations were begun.
    begun: u64,
    /// The own block as this generation last knew it to be on disk: what it is restored from when it rots.
    own: Option<Block>,
    /// Released by its holder while an operation on it is under way.
    given_up: bool,
    /// The version that was held here until the area was wiped, set back or made again.
    disowned: Option<Version>,
    /// The operation under way changes what is shared to exclusive.
    upgrades: bool,
    /// Who asked to be handed what is held, when it was looked at last.
    asking: Vec<Owner>,
    /// Operations that wait for the one under way, the first one first.
    queue: Vec<JobId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    Idle,
    /// An operation is under way; on what was held at this version, if anything was.
    Busy(Option<Version>),
    Held(LeaseMode, Version),
}

/// A lease that is held, or that was lost and not given back yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hold {
    name: Name,
    /// The version that it had before it was converted for the first time.
    began: Version,
    holding: Holding,
    /// Whether its loss was told.
    told: bool,
}

/// What became of a lease that was to be taken to work on.
pub(super) enum Take {
    /// The own block, and how it is held.
    Taken(Block, LeaseMode),
    /// An operation on it is under way.
    UnderWay,
    /// It is not held at that version any more.
    Gone,
}

impl Leases {
    /// What is held, how, and at which version.
    pub fn held(&self) -> impl Iterator<Item = (Resource, LeaseMode, Version)> + '_ {
        self.places.iter().filter_map(|(offset, place)| place.held(*offset))
    }

    pub(super) fn resource(&self, offset: u64) -> Option<Resource> {
        self.places.get(&offset).map(|place| Resource { name: place.name, offset })
    }

    /// What is held or under way.
    pub(super) fn not_idle(&self) -> impl Iterator<Item = (u64, Name, bool)> + '_ {
        let busy = |place: &Place| matches!(place.state, State::Busy(_));
        let all = self.places.iter().filter(|(_, place)| place.state != State::Idle);
        all.map(move |(offset, place)| (*offset, place.name, busy(place)))
    }

    /// What a look at a lease is compared with; `None`: it is not held any more.
    pub(super) fn glance(&self, (offset, version): Key) -> Option<Glance> {
        let place = self.places.get(&offset)?;
        let (mode, own) = match place.state {
            State::Held(mode, held) if held == version => (mode, Some(place.own.clone()?)),
            // Until it says otherwise it is shared.
            State::Busy(Some(held)) if held == version && place.upgrades => (LeaseMode::Shared, None),
            State::Idle | State::Busy(_) | State::Held(..) => return None,
        };
        Some(Glance { begun: place.begun, mode, own })
    }

    /// Counts a lease as held that an earlier process of this generation acquired; `own` is its block.
    pub(super) fn adopt(&mut self, resource: &Resource, mode: LeaseMode, version: Version, own: Block) {
        let place = Place { own: Some(own), ..Place::new(resource.name, State::Held(mode, version)) };
        self.places.insert(resource.offset, place);
    }

    /// Begins an operation on what is not held; returns the own block as far as it is known. `Err`: whether it is held.
    pub(super) fn begin(&mut self, resource: &Resource) -> Result<Option<Block>, bool> {
        let place = self.places.entry(resource.offset).or_insert_with(|| Place::new(resource.name, State::Idle));
        match place.state {
            State::Idle => {}
            State::Busy(_) => return Err(false),
            State::Held(..) => return Err(true),
        }
        place.state = State::Busy(None);
        place.begun += 1;
        place.name = resource.name;
        Ok(place.own.clone())
    }

    /// Has an operation wait for the one that is under way.
    pub(super) fn queue(&mut self, offset: u64, job: JobId) {
        if let Some(place) = self.places.get_mut(&offset) {
            place.queue.push(job);
        }
    }

    pub(super) fn unqueue(&mut self, offset: u64, job: JobId) {
        if let Some(place) = self.places.get_mut(&offset) {
            place.queue.retain(|other| *other != job);
        }
    }

    /// The operations that waited, now that none is under way.
    pub(super) fn queued(&mut self, offset: u64) -> Vec<JobId> {
        let idle = |place: &&mut Place| !matches!(place.state, State::Busy(_));
        self.places.get_mut(&offset).filter(idle).map(|place| std::mem::take(&mut place.queue)).unwrap_or_default()
    }

    /// At which version the resource was held when the operation began that is under way.
    pub(super) fn version_before(&self, offset: u64) -> Option<Version> {
        match self.places.get(&offset)?.state {
            State::Busy(version) => version,
            State::Idle | State::Held(..) => None,
        }
    }

    /// Ends an operation. Where what is held then was given up meanwhile, its release is under way from this moment on,
    /// and the own block is returned for it.
    pub(super) fn end(&mut self, offset: u64, state: State, own: Option<Block>) -> Option<Block> {
        let place = self.places.get_mut(&offset)?;
        let given_up = std::mem::take(&mut place.given_up);
        match (state, own) {
            (State::Held(_, version), Some(own)) if given_up => {
                place.state = State::Busy(Some(version));
                return Some(own);
            }
            (state, own) => (place.state, place.own) = (state, own),
        }
        if state == State::Idle {
            place.asking.clear();
        }
        None
    }

    /// Keeps who asks to be handed what is held.
    pub(super) fn set_asking(&mut self, offset: u64, asking: Vec<Owner>) {
        if let Some(place) = self.places.get_mut(&offset) {
            place.asking = asking;
        }
    }

    /// Who asks to be handed what is held, and at which version that is.
    pub fn asking(&self) -> impl Iterator<Item = (Resource, Version, Owner)> + '_ {
        let held = self.places.iter().filter_map(|(offset, place)| Some((place.held(*offset)?, &place.asking)));
        held.flat_map(|((resource, _, version), asking)| asking.iter().map(move |owner| (resource, version, *owner)))
    }

    /// Takes the own block of what is held at `version`, to work on it. The own block of what is under way is not
    /// known.
    pub(super) fn take(&mut self, offset: u64, version: Version) -> Take {
        let Some(place) = self.places.get_mut(&offset) else { return Take::Gone };
        match place.state {
            State::Held(mode, held) if held == version => {
                let Some(own) = place.own.take() else { return Take::Gone };
                place.state = State::Busy(Some(held));
                place.begun += 1;
                place.upgrades = false;
                Take::Taken(own, mode)
            }
            State::Busy(Some(held)) if held == version => Take::UnderWay,
            // It was released already, and may have been acquired again.
            State::Held(..) | State::Busy(_) | State::Idle => Take::Gone,
        }
    }

    /// The operation under way changes what is shared to exclusive.
    pub(super) fn upgrades(&mut self, offset: u64) {
        if let Some(place) = self.places.get_mut(&offset) {
            place.upgrades = true;
        }
    }

    /// What an operation under way leaves held at that version is to be released.
    pub(super) fn give_up(&mut self, (offset, version): Key) {
        if let Some(place) = self.places.get_mut(&offset)
            && place.state == State::Busy(Some(version))
        {
            place.given_up = true;
        }
    }

    // The leases.

    /// Begins to answer for a lease.
    pub(super) fn hold(&mut self, resource: &Resource, began: Version, version: Version, holding: Holding) {
        let hold = Hold { name: resource.name, began, holding, told: false };
        self.holds.insert((resource.offset, version), hold);
    }

    /// Goes on with the lease that was held at version `before`.
    pub(super) fn hold_on(&mut self, resource: &Resource, before: Version, version: Version, converted: Holding) {
        if let Some(hold) = self.holds.remove(&(resource.offset, before)) {
            self.hold(resource, hold.began, version, converted);
        }
    }

    /// Ceases to answer for a lease. What is lost because of its area stays known as that until it is given back.
    pub(super) fn let_go(&mut self, key: Key) {
        if self.is_of_another_area(key) {
            self.disown(key);
        }
        self.holds.remove(&key);
    }

    /// The area is not what this host left there when it held that version.
    pub(super) fn disown(&mut self, (offset, version): Key) {
        if let Some(place) = self.places.get_mut(&offset) {
            place.disowned = Some(version);
        }
    }

    /// Whether a lease was lost because the area is not what this host left there.
    pub(super) fn is_of_another_area(&self, key: Key) -> bool {
        let known = self.places.get(&key.0).is_some_and(|place| place.disowned == Some(key.1));
        known || self.known_lost(key).is_some_and(|(_, loss)| loss.is_of_the_area())
    }

    /// Whether a lease is answered for that is at this very version.
    pub(super) fn answers_for(&self, key: Key) -> bool {
        self.holds.contains_key(&key)
    }

    /// What its holder knows of a lease; a conversion moves it to a later version before its holder knows of that.
    pub(super) fn holding(&mut self, key: Key) -> Option<&mut Holding> {
        self.find_mut(key).map(|hold| &mut hold.holding)
    }

    /// What is known of a lease.
    pub(super) fn holding_at(&self, key: Key) -> Option<&Holding> {
        self.find(key).map(|hold| &hold.holding)
    }

    /// Since when a lease is known to be lost alone, and why.
    pub(super) fn known_lost(&self, key: Key) -> Option<(Time, Loss)> {
        self.holding_at(key).and_then(Holding::loss).cloned()
    }

    /// Since when a lease is lost alone, and why; latches it if its deadline has passed.
    pub(super) fn lost(&mut self, key: Key, now: Time) -> Option<(Time, Loss)> {
        let holding = self.holding(key)?;
        holding.tick(now);
        holding.loss().cloned()
    }

    /// Until when a lease is held if no further look succeeds; `None`: as long as the host id.
    pub(super) fn deadline(&self, key: Key) -> Option<Time> {
        self.holding_at(key).and_then(Holding::deadline)
    }

    /// When the last look at a lease began that showed it as it is to be.
    pub fn looked(&self, key: Key) -> Option<Time> {
        self.holding_at(key).and_then(Holding::looked_at)
    }

    /// The version at which the lease began that is known by this one.
    pub fn began(&self, key: Key) -> Version {
        self.find(key).map_or(key.1, |hold| hold.began)
    }

    /// The lease that began like this, as it is known now, if it is answered for.
    pub fn key(&self, offset: u64, began: Version) -> Option<Key> {
        let mut later = self.holds.range(from((offset, began)));
        later.find(|(_, hold)| hold.began == began).map(|(key, _)| *key)
    }

    /// The deadlines of leases that are held.
    pub fn deadlines(&self) -> impl Iterator<Item = Time> + '_ {
        self.holds.values().filter(|hold| !hold.holding.is_lost()).filter_map(|hold| hold.holding.deadline())
    }

    /// The losses of single leases that were not told yet.
    pub fn untold(&mut self, now: Time) -> Vec<(Key, Name, Loss)> {
        let keys: Vec<Key> = self.holds.keys().copied().collect();
        for key in keys {
            self.lost(key, now);
        }
        let untold = self.holds.iter_mut().filter(|(_, hold)| hold.holding.is_lost() && !hold.told);
        let tell = |(key, hold): (&Key, &mut Hold)| {
            hold.told = true;
            let (_, loss) = hold.holding.loss().cloned()?;
            Some((*key, hold.name, loss))
        };
        untold.filter_map(tell).collect()
    }

    fn find(&self, key: Key) -> Option<&Hold> {
        self.holds.get(&self.kept_at(key)?)
    }

    fn find_mut(&mut self, key: Key) -> Option<&mut Hold> {
        let key = self.kept_at(key)?;
        self.holds.get_mut(&key)
    }

    /// The key that the lease has by now which is known by `key`. Where the area was made again, versions have begun
    /// anew: another lease may have a later one.
    fn kept_at(&self, key: Key) -> Option<Key> {
        if self.holds.contains_key(&key) {
            return Some(key);
        }
        let converted = self.holds.range(from(key)).filter(|(_, hold)| hold.began <= key.1);
        converted.max_by_key(|(_, hold)| hold.began).map(|(key, _)| *key)
    }
}

impl Place {
    const fn new(name: Name, state: State) -> Place {
        Place {
            name,
            state,
            begun: 0,
            own: None,
            given_up: false,
            disowned: None,
            upgrades: false,
            asking: Vec::new(),
            queue: Vec::new(),
        }
    }

    fn held(&self, offset: u64) -> Option<(Resource, LeaseMode, Version)> {
        match self.state {
            State::Held(mode, version) => Some((Resource { name: self.name, offset }, mode, version)),
            State::Idle | State::Busy(_) => None,
        }
    }
}

/// Where a lease stands among what is held.
fn from((offset, version): Key) -> RangeInclusive<Key> {
    (offset, version)..=(offset, Version::new(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::format::Geometry;
    use crate::protocol::resource::Subject;
    use crate::timeouts::Profile;
    use crate::types::{Generation, HostId};

    const OFFSET: u64 = 3 << 20;

    fn key(version: u64) -> Key {
        (OFFSET, Version::new(version))
    }

    /// The area was wiped under a lease at version 8, and made again: what began at version 1 is not that one.
    #[test]
    fn a_lease_is_not_taken_for_one_that_began_at_a_later_version() {
        let name = Name::resource("db").expect("short");
        let owner = Owner { host: HostId::FIRST, generation: Generation::new(1).expect("not 0") };
        let (geometry, timeouts) = (Geometry::default(), Profile::Fast.timeouts());
        let subject = Subject { me: owner, geometry, lockspace: name, nonce: 1, resource: name, timeouts, disks: 1 };
        let holding = |looked| Holding::new(&subject, Time::ZERO + looked, BTreeSet::new());
        let [before, after] = [1, 2].map(std::time::Duration::from_secs);
        let resource = Resource { name, offset: OFFSET };
        let mut leases = Leases::default();
        leases.hold(&resource, Version::new(8), Version::new(8), holding(before));
        assert_eq!(leases.looked(key(8)), Some(Time::ZERO + before));
        leases.hold(&resource, Version::new(1), Version::new(1), holding(after));
        leases.hold_on(&resource, Version::new(1), Version::new(3), holding(after));
        // Its holder does not know yet that it was converted.
        assert_eq!(leases.looked(key(1)), Some(Time::ZERO + after));
        assert_eq!(leases.began(key(3)), Version::new(1));
        assert_eq!(leases.looked(key(8)), Some(Time::ZERO + before));
        leases.let_go(key(3));
        assert!(leases.holding_at(key(3)).is_none() && leases.holding(key(1)).is_none());
        assert!(leases.holding_at(key(8)).is_some());
        // One that began at version 5 was converted to 8, the other one to 6.
        let mut leases = Leases::default();
        leases.hold(&resource, Version::new(5), Version::new(8), holding(before));
        leases.hold(&resource, Version::new(1), Version::new(6), holding(after));
        assert_eq!(leases.looked(key(5)), Some(Time::ZERO + before));
        assert_eq!(leases.looked(key(6)), Some(Time::ZERO + after));
        assert_eq!(leases.looked(key(1)), Some(Time::ZERO + after));
    }
}
