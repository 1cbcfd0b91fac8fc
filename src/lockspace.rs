//! A lockspace on a device: formatting it, opening it, looking at it. Whoever only looks needs no host id and writes
//! nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{BootClock, Clock, Disk, Lane};
use crate::engine::areas::view_up_to;
use crate::engine::hosts::HostInfo;
use crate::engine::io::Io;
use crate::engine::join::Cancel;
use crate::error::{Damage, DiskError, FindError, JoinError, OpenError};
use crate::format::{Corrupt, DeltaRecord, Geometry, Leader, SectorSize};
use crate::index::{self, Area};
use crate::join::{JoinOptions, Joining};
use crate::membership::Membership;
use crate::protocol::area::AreaView;
use crate::protocol::catalog::Found;
use crate::protocol::catalog::index::Index;
use crate::protocol::delta::Terms;
use crate::protocol::{Defect, Seen};
use crate::timeouts::Timeouts;
use crate::types::{Name, Owner, Resource, Version};

/// How long a read may take of somebody who only looks. No lease depends on it.
pub(crate) const FIRST_READ: Duration = Duration::from_secs(10);
/// How much of the device is searched for a delta record that is not damaged.
const SEARCHED: u64 = 1 << 20;

/// A lockspace that was opened.
///
/// Cheap to clone; all clones use one open file description of the device.
#[derive(Clone, Debug)]
pub struct Lockspace {
    pub(crate) io: Io,
    pub(crate) terms: Terms,
}

/// How a resource is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By nobody.
    Free,
    /// By its owner alone.
    Exclusive,
    /// By any number of hosts that share it.
    Shared,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// Name and place.
    pub resource: Resource,
    /// What its leader says, or what is wrong with it.
    pub ownership: Result<Ownership, Damage>,
    /// The generations whose blocks say that they share it. One of them may be dead: see its state among the hosts.
    pub sharers: Vec<Owner>,
    /// Who may have the resource though the leader does not say so, and at which version, by what the hosts' blocks
    /// claim. They keep others away until they give that up or are gone: from most of them the resource was taken by
    /// force.
    pub claims: Vec<(Version, Owner)>,
    /// The generations whose blocks say that they wait to be handed it. One of them may be dead, too.
    pub asking: Vec<Owner>,
    /// What is wrong with the hosts' blocks.
    pub damages: Vec<Damage>,
}

/// Who owns a resource, as its leader says. The owner may be dead: see its state among the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ownership {
    /// How.
    pub mode: Mode,
    /// The version of the last ownership.
    pub version: Version,
    /// Its owner, while it owns.
    pub owner: Option<Owner>,
}

impl Lockspace {
    /// Opens the lockspace at the start of `disk`, on this host's boot-time clock.
    ///
    /// # Errors
    /// See [`OpenError`]. One damaged record doesn't keep a lockspace from being opened.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Lockspace, OpenError> {
        Lockspace::open_with_clock(disk, Arc::new(BootClock))
    }

    /// As [`Lockspace::open`], with another clock: for tests.
    ///
    /// # Errors
    /// As [`Lockspace::open`].
    pub fn open_with_clock(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Lockspace, OpenError> {
        let io = Io::new(disk, clock);
        let len = io.disk().len();
        let device = io.device();
        let smallest = SectorSize::B4096.bytes() as u64;
        if len < smallest {
            return Err(OpenError::TooSmall { device, len, needed: Geometry::default().area_bytes() });
        }
        let searched = len.min(SEARCHED) / smallest * smallest;
        let (_, bytes) = io.read(Lane::General, 0, searched as usize, FIRST_READ)?;
        let Some(Found { terms, complete, .. }) = Found::search(&bytes) else {
            let reason = match DeltaRecord::decode(&bytes[..SectorSize::B512.bytes()], 0) {
                Err(reason) => reason,
                Ok(record) => Corrupt::OwnerId { found: record.owner_id },
            };
            let blank = bytes.iter().all(|byte| *byte == 0);
            return Err(OpenError::NotALockspace { device, reason, blank });
        };
        if !complete {
            return Err(OpenError::Incomplete { device });
        }
        let geometry = terms.geometry;
        if let Some(actual) = io.disk().sector_size().filter(|actual| *actual != geometry.sector()) {
            let (formatted, actual) = (geometry.sector_bytes(), actual.bytes());
            return Err(OpenError::SectorSize { device, formatted, actual });
        }
        if len < geometry.area_bytes() {
            return Err(OpenError::TooSmall { device, len, needed: geometry.area_bytes() });
        }
        Ok(Lockspace { io, terms })
    }

    /// The lockspace's name.
    pub const fn name(&self) -> Name {
        self.terms.lockspace
    }

    /// Its sector and area size.
    pub const fn geometry(&self) -> Geometry {
        self.terms.geometry
    }

    /// Its nonce, drawn when it was formatted: it tells the lockspace from any other that the device is formatted with,
    /// also one of the same name. 0 where sanlock formatted it.
    pub const fn nonce(&self) -> u32 {
        self.terms.nonce
    }

    /// Its timeouts.
    pub const fn timeouts(&self) -> Timeouts {
        self.terms.timeouts
    }

    /// Path of the device.
    pub fn device(&self) -> String {
        self.io.device()
    }

    /// Acquires a host id, and waits until it is held: for 2T from a free id, for D where this machine died holding it.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn join(&self, options: JoinOptions) -> Result<Membership, JoinError> {
        Membership::join(self, options, &Cancel::default())
    }

    /// Begins to acquire a host id, in a thread of its own. Any number of joins may be under way at once.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start_join(&self, options: JoinOptions) -> Result<Joining, JoinError> {
        Joining::start(self.clone(), options)
    }

    /// The host ids that are or were in use, watched for `watch_for`: one whose record changes in that time is live;
    /// one that can't be judged in that time is unknown. Takes `watch_for` and two reads of all
    /// records. [`Lockspace::watch`] goes on.
    ///
    /// # Errors
    /// When the records can't be read.
    pub fn hosts(&self, watch_for: Duration) -> Result<Vec<HostInfo>, DiskError> {
        let mut watching = self.watch();
        watching.watch_for(watch_for)?;
        Ok(watching.hosts())
    }

    /// The resource of that name.
    ///
    /// # Errors
    /// See [`FindError`].
    pub fn find(&self, name: &str) -> Result<Resource, FindError> {
        let name = Name::resource(name)?;
        index::find(&self.io, &index::read(&self.io, &self.terms)?, name)
    }

    /// The resource of that name at that place, whether it stands in the index or not. What stands there is looked at
    /// when it is acquired.
    ///
    /// # Errors
    /// When it is no name, or no place for an area.
    pub fn resource_at(&self, name: &str, offset: u64) -> Result<Resource, FindError> {
        let name = Name::resource(name)?;
        self.check_place(offset)?;
        Ok(Resource { name, offset })
    }

    /// Whether an area can stand there.
    pub(crate) fn check_place(&self, offset: u64) -> Result<(), FindError> {
        let (area, len) = (self.terms.geometry.area_bytes(), self.io.disk().len());
        let fits = offset.checked_add(area).is_some_and(|end| end <= len);
        match offset >= area && offset.is_multiple_of(area) && fits {
            true => Ok(()),
            false => Err(FindError::Offset { device: self.device(), offset, area, len }),
        }
    }

    /// All resources in the index, then those that stand on the device without an entry, with what their leaders say.
    ///
    /// # Errors
    /// When the index can't be read. Damaged entries are in the second list, and what is damaged of the lease that
    /// guards the index; a damaged leader is with its resource.
    pub fn resources(&self) -> Result<(Vec<ResourceInfo>, Vec<Damage>), FindError> {
        self.resources_with(&self.search()?, self.geometry().max_hosts())
    }

    /// As [`Lockspace::resources`], of the hosts up to the id `highest`; `found` was found by a search before.
    pub(crate) fn resources_with(
        &self,
        found: &[Resource],
        highest: u64,
    ) -> Result<(Vec<ResourceInfo>, Vec<Damage>), FindError> {
        let (mut resources, mut damages) = (Vec::new(), Vec::new());
        match index::read(&self.io, &self.terms) {
            Ok(index) => {
                resources.extend(index.resources());
                let guard = self.info_up_to(self.index_guard(), highest);
                damages.extend(index::damages(&self.io, &index).chain(guard.ownership.err()).chain(guard.damages));
            }
            Err(FindError::NoIndex { .. }) => {}
            Err(error) => return Err(error),
        }
        let listed: BTreeSet<u64> = resources.iter().map(|resource| resource.offset).collect();
        resources.extend(found.iter().filter(|resource| !listed.contains(&resource.offset)));
        let infos = resources.into_iter().map(|resource| self.info_up_to(resource, highest));
        // What was found without an entry may have been deleted since.
        let deleted = |info: &ResourceInfo| {
            let reason = info.ownership.as_ref().err().map(|damage| &damage.reason);
            !listed.contains(&info.resource.offset) && reason == Some(&Defect::Deleted)
        };
        Ok((infos.filter(|info| !deleted(info)).collect(), damages))
    }

    /// Whether there is an index, readable or damaged.
    ///
    /// # Errors
    /// When its place can't be read.
    pub(crate) fn has_index(&self) -> Result<bool, DiskError> {
        match index::read_header(&self.io, &self.terms) {
            Err(FindError::NoIndex { .. }) => Ok(false),
            Err(FindError::Disk(error)) => Err(error),
            _ => Ok(true),
        }
    }

    /// The resources of this lockspace that the leaders on the device name, whether they are in the index or not, but
    /// for the lease that guards the index. The first [`Lockspace::SEARCHED_AREAS`] areas are looked at, a sector of
    /// each.
    ///
    /// # Errors
    /// When a read doesn't end in time. What can't be read names no resource.
    pub fn search(&self) -> Result<Vec<Resource>, DiskError> {
        let geometry = self.terms.geometry;
        let areas = (self.io.disk().len() / geometry.area_bytes()).min(Lockspace::SEARCHED_AREAS);
        let mut found = Vec::new();
        for offset in (1..areas).map(|number| number * geometry.area_bytes()) {
            if let Area::Resource(name) = Area::read(&self.io, &self.terms, offset, FIRST_READ)? {
                found.push(Resource { name, offset });
            }
        }
        Ok(found)
    }

    /// How far [`Lockspace::search`] goes: 64 GiB with areas of a mebibyte.
    pub const SEARCHED_AREAS: u64 = 1 << 16;

    /// The lease that guards the index.
    pub(crate) const fn index_guard(&self) -> Resource {
        Index::guard(self.terms.geometry)
    }

    /// The bytes of `count` sectors from `offset` on, whatever they hold: to look at a damaged device. One that can't
    /// be read doesn't keep the others from being seen.
    ///
    /// # Errors
    /// When none of them can be read, or they are not within the device.
    pub fn sectors(&self, offset: u64, count: u64) -> Result<Vec<Result<Vec<u8>, Defect>>, DiskError> {
        let size = self.terms.geometry.sector_bytes();
        let (_, sectors) = self.io.read_sectors(offset, 0..count, size, FIRST_READ)?;
        Ok(sectors.iter().map(|sector| sector.map(<[u8]>::to_vec)).collect())
    }

    /// Who holds a resource, as its leader and the hosts' blocks say. Needs no host id. Takes one read.
    pub fn resource_info(&self, resource: &Resource) -> ResourceInfo {
        self.info_up_to(*resource, self.geometry().max_hosts())
    }

    fn info_up_to(&self, resource: Resource, highest: u64) -> ResourceInfo {
        let geometry = self.terms.geometry;
        let damage = |offset, what, reason: &Defect| self.damage(offset, what, reason.clone());
        let Ok((_, view)) = view_up_to(&self.io, &self.terms, &resource, highest, FIRST_READ) else {
            let ownership = Err(damage(resource.offset, "leader", &Defect::Unreadable));
            let (sharers, claims) = (Vec::new(), Vec::new());
            return ResourceInfo { resource, ownership, sharers, claims, asking: Vec::new(), damages: Vec::new() };
        };
        let leader = self.leader(&view, &resource);
        let claims = leader.as_ref().map(|leader| view.unnamed(leader, Version::new(u64::MAX)).collect());
        let ownership = leader.clone().map(|leader| {
            let owner = view.named(leader);
            let shared = view.sharers().next().is_some();
            let mode = match (owner, shared) {
                (Some(_), _) if !leader.short_hold => Mode::Exclusive,
                (Some(_), _) | (None, true) => Mode::Shared,
                (None, false) => Mode::Free,
            };
            Ownership { mode, version: leader.version, owner }
        });
        let damages = view.blocks.iter().filter_map(|(host, seen)| match seen {
            Seen::Bad(reason) => Some(damage(resource.offset + geometry.block_offset(*host), "block", reason)),
            Seen::Good(_) => None,
        });
        let held = ownership.as_ref().map_or(Version::new(0), |ownership| ownership.version);
        ResourceInfo {
            resource,
            ownership,
            sharers: view.sharers().collect(),
            claims: claims.unwrap_or_default(),
            asking: view.destinations(held).map(|(owner, _)| owner).collect(),
            damages: damages.collect(),
        }
    }

    /// The leader that a read of a resource's area has shown, if it is that resource's.
    pub(crate) fn leader<'view>(&self, view: &'view AreaView, resource: &Resource) -> Result<&'view Leader, Damage> {
        let leader = view.leader_of(self.name(), resource.name);
        leader.map_err(|reason| self.damage(resource.offset, "leader", reason))
    }

    pub(crate) fn damage(&self, offset: u64, what: &'static str, reason: Defect) -> Damage {
        Damage { device: self.device(), offset, what, reason }
    }
}
