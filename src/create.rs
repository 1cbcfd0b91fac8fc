//! Creating a resource: its area and its entry in the index, under the lease that guards the index.

use crate::acquire::Wait;
use crate::disk::Lane;
use crate::engine::areas::whole_view;
use crate::error::{AcquireError, CreateError, DiskError, FindError};
use crate::format::{IndexEntry, IndexHeader, Leader};
use crate::formatting::{resource_area, write_area};
use crate::index::Index;
use crate::membership::Membership;
use crate::protocol::delta::Terms;
use crate::protocol::resource::Basis;
use crate::protocol::{Seen, reading};
use crate::types::{LeaseMode, Name, Resource, Version};

impl Membership {
    /// Creates a resource: takes the first free entry of the index and makes its area. Its first lease has a version
    /// above any that the area held before. An area of that name whose entry was lost gets its entry back.
    ///
    /// Waits at most `wait` for the lease that guards the index, and writes an area: 1 to 8 MiB.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create(&self, name: &str, wait: Wait) -> Result<Resource, CreateError> {
        let name = Name::resource(name).map_err(FindError::from)?;
        // Where there is no index its guard's place may have anything.
        Index::header(&self.member.io, &self.lockspace.terms)?;
        self.guarded(wait, || self.create_guarded(name)).map_err(CreateError::Guard)?
    }

    /// Does `work` while holding the lease that guards the index.
    pub(crate) fn guarded<T>(&self, wait: Wait, work: impl FnOnce() -> T) -> Result<T, AcquireError> {
        let resource = self.lockspace.index_guard();
        let deadline = wait.deadline(self.member.io.now());
        let mut turn = None;
        let polled = self.member.poll(deadline, || {
            turn = self.member.index.try_lock();
            turn.is_some()
        });
        polled.map_err(AcquireError::Lost)?;
        let Some(_turn) = turn else { return Err(AcquireError::AlreadyHeld { resource: resource.name }) };
        let guard = self.acquire_by(&resource, LeaseMode::Exclusive, Basis::Any, deadline)?;
        let done = work();
        // A write that is still in flight could spoil what the next one writes here. The work is done, or its error is
        // known, whatever becomes of the guard: the engine goes on with it.
        match self.member.io.settle(0..u64::MAX, self.lockspace.timeouts().fail()) {
            true => {
                let _ = guard.release();
            }
            false => guard.release_when_settled(),
        }
        Ok(done)
    }

    fn create_guarded(&self, name: Name) -> Result<Resource, CreateError> {
        let io = &self.member.io;
        let geometry = self.lockspace.geometry();
        let device = io.device();
        let index = Index::read(io, &self.lockspace.terms)?;
        if index.resources().any(|resource| resource.name == name) {
            return Err(CreateError::Exists { device, name });
        }
        let free = match self.free_places(&index, name)? {
            Places::Lost(number) => {
                let resource = Resource { name, offset: index.header.resource_offset(number) };
                self.write_entry(&index.header, number, Some(name))?;
                return Ok(resource);
            }
            Places::Free(numbers) => numbers,
        };
        // Whose records have not been watched yet may be live: their areas are passed over.
        self.member.hosts.scan_all(io, Some(&self.member.pulse))?;
        for number in free {
            let resource = Resource { name, offset: index.header.resource_offset(number) };
            let Some(version) = self.version_to_start_from(&resource)? else { continue };
            let leader = self.new_leader(name, version);
            self.member.pulse.held().map_err(CreateError::Lost)?;
            // By then the guard is lost.
            let timeout = self.lockspace.timeouts().fail();
            write_area(io, geometry, resource.offset, resource_area(&leader, resource.offset), timeout)?;
            self.member.pulse.held().map_err(CreateError::Lost)?;
            self.write_entry(&index.header, number, Some(name))?;
            return Ok(resource);
        }
        if let Some(damage) = index.damages().next() {
            return Err(FindError::from(damage).into());
        }
        let used = index.resources().count();
        Err(CreateError::Full {
            device,
            used: u32::try_from(used).unwrap_or(u32::MAX),
            max: index.room(),
            len: io.disk().len(),
        })
    }

    /// The entries that a new resource could have. The leader behind each entry that names nothing is looked at,
    /// because two resources of one name could both be held: an area of that name gets its lost entry back, and an
    /// entry that is damaged must not stand for the name.
    fn free_places(&self, index: &Index, name: Name) -> Result<Places, CreateError> {
        let mut free = Vec::new();
        for (number, entry) in (0..index.room()).zip(&index.entries) {
            if matches!(entry, Ok(Some(_))) {
                continue;
            }
            let leader = self.leader_at(index.header.resource_offset(number))?;
            let named = leader.as_ref().is_some_and(|leader| leader.resource == name);
            match (entry, leader) {
                (Ok(_), _) if named => return Ok(Places::Lost(number)),
                (Ok(_), _) => free.push(number),
                (Err(_), Some(_)) if !named => {}
                (Err(reason), _) => return Err(FindError::from(index.damage(number, reason)).into()),
            }
        }
        Ok(Places::Free(free))
    }

    /// The leader of this lockspace at that place, if there is a valid one.
    fn leader_at(&self, offset: u64) -> Result<Option<Leader>, DiskError> {
        let sector = self.lockspace.geometry().sector_bytes();
        let (_, bytes) = self.member.io.read(Lane::General, offset, sector, self.lockspace.timeouts().io())?;
        let leader = reading::leader(Ok(&bytes), offset, self.lockspace.terms.nonce);
        Ok(leader.good().cloned().filter(|leader| !leader.cleared && leader.lockspace == self.lockspace.name()))
    }

    fn new_leader(&self, name: Name, version: Version) -> Leader {
        let Terms { geometry, lockspace, nonce, .. } = self.lockspace.terms;
        Leader::new_free(geometry, lockspace, nonce, name, geometry.max_hosts(), version)
    }

    /// The largest version that the area ever had, as far as it shows; `None` when somebody may hold or share a lease
    /// there though the index has lost it.
    fn version_to_start_from(&self, resource: &Resource) -> Result<Option<Version>, DiskError> {
        let io = &self.member.io;
        let view = whole_view(io, &self.lockspace.terms, resource, self.lockspace.timeouts().io())?;
        let version = view.latest_shown();
        let leader = match &view.leader {
            // Its blocks are those of a resource that was given up.
            Seen::Good(leader) if leader.cleared => return Ok(Some(version)),
            Seen::Good(leader) => leader.clone(),
            Seen::Bad(_) => self.new_leader(resource.name, Version::default()),
        };
        // Without a leader there was perhaps never a resource: what is no block there need not be the damage of one.
        let mut damaged = view.bad_blocks().filter(|_| view.leader.good().is_some());
        let now = io.now();
        let held = self.member.hosts.with_observer(|observer| {
            let mut holders = view.holders(&leader, Version::new(u64::MAX));
            holders.any(|(_, owner, _)| !observer.judge(owner, now).is_gone())
                || damaged.any(|host| !observer.judge_host(host).is_gone())
        });
        Ok((!held).then_some(version))
    }

    /// Makes an entry name the resource in its area, or none. Entries share a sector: the others in it are written as
    /// they were read, under the guard.
    pub(crate) fn write_entry(&self, header: &IndexHeader, number: u32, name: Option<Name>) -> Result<(), DiskError> {
        let io = &self.member.io;
        let geometry = self.lockspace.geometry();
        let sector = geometry.sector_bytes() as u64;
        let at = header.offset + geometry.index_entry_offset(number);
        let timeout = self.lockspace.timeouts().io();
        let (_, mut bytes) = io.read(Lane::General, at / sector * sector, sector as usize, timeout)?;
        let within = (at % sector) as usize;
        let entry = name.map(|name| IndexEntry { offset: header.resource_offset(number), name });
        let entry = entry.map_or([0; IndexEntry::BYTES], |entry| entry.encode());
        bytes[within..within + IndexEntry::BYTES].copy_from_slice(&entry);
        io.write(Lane::General, at / sector * sector, bytes, timeout)?;
        Ok(())
    }
}

/// Where a new resource could go.
enum Places {
    /// Its area is there; only this entry was lost.
    Lost(u32),
    /// To any of these.
    Free(Vec<u32>),
}
