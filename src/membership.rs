//! Being a host of a lockspace: joining, acquiring, creating resources, leaving.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::Lane;
use crate::engine::areas::whole_view;
use crate::engine::feeding::Feeder;
use crate::engine::hosts::HostInfo;
use crate::engine::identity;
use crate::engine::join::{self, Cancel};
use crate::engine::member::{Member, Tell};
use crate::engine::notices::{Notice, TellNotice};
use crate::engine::pulse::{LeaseLoss, Status, Subject};
use crate::engine::resources::Resource;
use crate::error::{AcquireError, CreateError, DiskError, FindError, JoinError, LeaveError};
use crate::format::{IndexEntry, IndexHeader, Leader};
use crate::formatting::{resource_area, write_area};
use crate::index::Index;
use crate::lockspace::Lockspace;
use crate::protocol::Seen;
use crate::supervision::{Ladder, Protected, SuperviseError, Supervision};
use crate::types::{HostId, Name, Owner, Time, Version};
use crate::watchdog::{Watchdog, WatchdogError};

/// How to join a lockspace.
#[derive(Default)]
pub struct JoinOptions {
    host_id: Option<HostId>,
    host_name: Option<String>,
    pub(crate) machine: Option<u64>,
    pub(crate) tell: Tell,
    pub(crate) tell_notice: Option<TellNotice>,
    pub(crate) watchdog: Option<Box<dyn Watchdog>>,
}

impl fmt::Debug for JoinOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinOptions")
            .field("host_id", &self.host_id)
            .field("host_name", &self.host_name)
            .field("machine", &self.machine)
            .field("watchdog", &self.watchdog.is_some())
            .finish_non_exhaustive()
    }
}

impl JoinOptions {
    /// An automatic host id, and this machine's host name.
    pub fn new() -> JoinOptions {
        JoinOptions::default()
    }

    /// Asks for this host id. Without it the one that this host held before is taken, if that is quick and certain, or
    /// one that is free.
    #[must_use]
    pub fn host_id(mut self, host: HostId) -> JoinOptions {
        self.host_id = Some(host);
        self
    }

    /// The name under which other hosts see this one: 1 to 47 bytes. A host that keeps its name finds its id again.
    #[must_use]
    pub fn host_name(mut self, name: impl Into<String>) -> JoinOptions {
        self.host_name = Some(name.into());
        self
    }

    /// What tells this machine from all others, across reboots: such as the hardware's UUID. Without it the machine id
    /// and the board's UUID are used. Only the machine that held an id takes it again when it was not released, so two
    /// machines that say the same here can take each other's leases.
    #[must_use]
    pub fn machine(mut self, identity: &str) -> JoinOptions {
        self.machine = Some(identity::hash(&[identity]));
        self
    }

    /// Calls `tell` with the status after the join and whenever it changes: renewed, late, lost. It is called by a
    /// thread that does no I/O, so that storage can't hold it up; it must be quick.
    #[must_use]
    pub fn on_status(mut self, tell: impl Fn(&Status) + Send + 'static) -> JoinOptions {
        self.tell.status = Some(Box::new(tell));
        self
    }

    /// Calls `tell` when a lease is lost while the membership goes on, as when another host has taken it by force. The
    /// thread is that of [`JoinOptions::on_status`]. The loss of the membership is the loss of every lease, and is told
    /// there.
    #[must_use]
    pub fn on_lease_loss(mut self, tell: impl Fn(&LeaseLoss) + Send + 'static) -> JoinOptions {
        self.tell.loss = Some(Box::new(tell));
        self
    }

    /// Calls `tell` with what other hosts say to this one, within R / 2 of it standing on disk; 3T for a host that has
    /// joined since with an id above all others. It is called by a thread that reads the hosts' records: while it lasts
    /// nobody's death is noticed.
    #[must_use]
    pub fn on_notice(mut self, tell: impl Fn(&Notice) + Send + 'static) -> JoinOptions {
        self.tell_notice = Some(Box::new(tell));
        self
    }

    /// Has this watchdog fed while the host id is held. It fires by the deadline + G unless the membership is left, or
    /// [`Membership::disarm_watchdog`] was called, in time: also when this process is paused, or ends with leases held.
    /// A join starts it last, a [resumption](Lockspace::resume) before it takes up the leases; one that can't be started
    /// fails them.
    #[must_use]
    pub fn watchdog(mut self, watchdog: impl Watchdog + 'static) -> JoinOptions {
        self.watchdog = Some(Box::new(watchdog));
        self
    }
}

/// Until when an acquire waits for a resource that another host holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: it fails at once with who holds it.
    No,
    /// For this long. The answer comes at most three I/O timeouts later.
    For(Duration),
    /// Until it is acquired or the membership ends.
    Forever,
}

impl Wait {
    /// Until when to wait, from `now` on; `None`: not at all.
    pub(crate) fn deadline(self, now: Time) -> Option<Time> {
        match self {
            Wait::No => None,
            Wait::For(span) => Some(now + span),
            Wait::Forever => Some(Time::MAX),
        }
    }
}

/// A join that is under way.
#[derive(Debug)]
pub struct Joining {
    cancel: Arc<Cancel>,
    thread: Option<thread::JoinHandle<Result<Membership, JoinError>>>,
}

impl Joining {
    pub(crate) fn start(lockspace: Lockspace, options: JoinOptions) -> Result<Joining, JoinError> {
        let cancel = Arc::new(Cancel::default());
        let cancelled = cancel.clone();
        let thread = thread::Builder::new()
            .name("leasehold-join".into())
            .spawn(move || Membership::join(&lockspace, options, &cancelled))
            .map_err(|source| JoinError::System { what: "the joining thread could not be started", source })?;
        Ok(Joining { cancel, thread: Some(thread) })
    }

    /// Whether the outcome is there, so that [`Joining::wait`] doesn't wait.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn wait(mut self) -> Result<Membership, JoinError> {
        self.finish().unwrap_or(Err(JoinError::Cancelled))
    }

    /// Ends the join at once; a host id that was acquired meanwhile is released. At most one I/O is waited for.
    pub fn cancel(self) {}

    fn finish(&mut self) -> Option<Result<Membership, JoinError>> {
        Some(match self.thread.take()?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        self.cancel.cancel();
        // The membership that it may have become is left when it is dropped.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A host id that is held, and renewed until the membership is left or lost.
///
/// Dropping it leaves the lockspace as [`Membership::leave`] does, if no lease is held; else renewing just stops, and
/// the leases run out at their deadline.
#[derive(Debug)]
pub struct Membership {
    pub(crate) member: Arc<Member>,
    pub(crate) lockspace: Lockspace,
    left: Mutex<bool>,
}

impl Membership {
    pub(crate) fn join(lockspace: &Lockspace, options: JoinOptions, cancel: &Cancel) -> Result<Membership, JoinError> {
        let name = match options.host_name {
            Some(name) => Name::host(&name)?,
            None => own_host_name(),
        };
        let JoinOptions { host_id, machine, tell, tell_notice, watchdog, .. } = options;
        let request = join::Request { host: host_id, name, machine, tell, tell_notice };
        let member = join::join(lockspace.io.for_member(), lockspace.terms.clone(), request, cancel)?;
        // Left when it is dropped.
        let membership = Membership::of(member, lockspace.clone());
        if let Some(watchdog) = watchdog {
            membership.member.watch_over(watchdog)?;
        }
        Ok(membership)
    }

    pub(crate) fn of(member: Arc<Member>, lockspace: Lockspace) -> Membership {
        Membership { member, lockspace, left: Mutex::new(false) }
    }

    /// Nothing is left for dropping it to do.
    pub(crate) fn is_over(&self) {
        *self.left.lock() = true;
    }

    /// Host id and generation.
    pub fn owner(&self) -> Owner {
        self.member.pulse.me()
    }

    /// The lockspace.
    pub const fn lockspace(&self) -> &Lockspace {
        &self.lockspace
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// Whether it is held, late or lost, and until when.
    pub fn status(&self) -> Status {
        self.member.pulse.status()
    }

    /// Waits until the status is another than `seen`, at most `timeout`: the deadline has moved, the renewal is late, or
    /// the membership is lost. Storage can't hold this up.
    pub fn status_change(&self, seen: &Status, timeout: Duration) -> Status {
        self.member.pulse.changed(seen, timeout)
    }

    /// When a program that depends on the leases is warned, asked to end and killed: [`Ladder::new`] for the timeouts of
    /// the lockspace, and ahead of the watchdog if there is one.
    pub fn ladder(&self) -> Ladder {
        self.member.ladder()
    }

    /// Ends this program when the host id is lost, or given back, step by step, so that all of it is gone by the
    /// deadline + G: for a manager that starts programs of its own and names them. Any number can be supervised.
    ///
    /// A single lease that is lost alone, by force, ends nothing here: [`Lease::supervise`](crate::Lease::supervise)
    /// is for the program that depends on it.
    ///
    /// As the steps are taken by a thread of this process, nobody takes them while the process is stopped, or when it is
    /// gone: a [`Watchdog`] is for that, or a process in between, as `leasehold run` has one.
    ///
    /// # Errors
    /// See [`SuperviseError`].
    pub fn supervise(&self, program: Protected) -> Result<Supervision, SuperviseError> {
        Supervision::start(&self.member, Subject::Membership, program)
    }

    /// Why the watchdog could not be fed the last time; `None` when it was, or there is none. One that is not fed for
    /// long fires before the deadline.
    pub fn watchdog_trouble(&self) -> Option<WatchdogError> {
        self.member.feeder().and_then(Feeder::trouble)
    }

    /// Switches the watchdog off after a loss: the caller has made sure that everything which depended on the leases has
    /// stopped. To be called before the watchdog fires; [`Pace::earliest`](crate::Pace::earliest) says when that may be.
    /// Without a watchdog nothing happens. Waits at most G.
    ///
    /// # Errors
    /// `StillHeld` while the membership is held: then [`Membership::leave`] does it. After any other error the watchdog
    /// may fire.
    pub fn disarm_watchdog(&self) -> Result<(), WatchdogError> {
        match self.member.pulse.held() {
            Ok(_) => Err(WatchdogError::StillHeld),
            Err(_) => self.member.disarm(),
        }
    }

    /// How long each of the latest renewals took, from the start of its read to its confirmed write; the oldest first,
    /// 1024 at most.
    pub fn renewal_latencies(&self) -> Vec<Duration> {
        self.member.latencies()
    }

    /// The host ids that are or were in use, as this membership has watched them since it joined. Reads nothing.
    pub fn hosts(&self) -> Vec<HostInfo> {
        self.member.hosts.infos(&self.lockspace.device(), self.member.io.now())
    }

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
        let guard = self.acquire(&self.lockspace.index_guard(), wait)?;
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
            let leader = Leader::new_free(geometry, self.lockspace.name(), name, geometry.max_hosts(), version);
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

    /// The entries that a new resource could have. The leader behind each entry that names nothing is looked at, because
    /// two resources of one name could both be held: an area of that name gets its lost entry back, and an entry that is
    /// damaged must not stand for the name.
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
        let leader = Leader::decode(&bytes, offset).ok();
        Ok(leader.filter(|leader| !leader.cleared && leader.lockspace == self.lockspace.name()))
    }

    /// The largest version that the area ever had, as far as it shows; `None` when somebody may hold or share a lease there
    /// though the index has lost it.
    fn version_to_start_from(&self, resource: &Resource) -> Result<Option<Version>, DiskError> {
        let io = &self.member.io;
        let geometry = self.lockspace.geometry();
        let view = whole_view(io, geometry, resource, self.lockspace.timeouts().io())?;
        let version =
            view.leader.good().map_or(Version::default(), |leader| leader.version).max(view.latest_instance());
        let leader = match &view.leader {
            // Its blocks are those of a resource that was given up.
            Seen::Good(leader) if leader.cleared => return Ok(Some(version)),
            Seen::Good(leader) => leader.clone(),
            Seen::Bad(_) => Leader::new_free(geometry, self.lockspace.name(), resource.name, 0, Version::default()),
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

    /// Makes an entry name the resource in its area, or none. Entries share a sector: the others in it are written as they were read, under the guard.
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

    /// Gives the host id back. Acquires that wait in other threads end at once, and new ones are refused. Takes a few
    /// I/Os; at most F more when a renewal hangs.
    ///
    /// # Errors
    /// See [`LeaveError`]. After `LeasesHeld` the membership goes on; after any other error it is over.
    pub fn leave(&self) -> Result<(), LeaveError> {
        let result = self.member.leave();
        *self.left.lock() = !matches!(result, Err(LeaveError::LeasesHeld { .. }));
        result
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if !*self.left.lock() && self.member.leave().is_err() {
            self.member.stop();
        }
    }
}

/// Where a new resource could go.
enum Places {
    /// Its area is there; only this entry was lost.
    Lost(u32),
    /// To any of these.
    Free(Vec<u32>),
}

/// The system's host name as a name in the lockspace; characters that can't stand there are replaced.
fn own_host_name() -> Name {
    let system = rustix::system::uname();
    let name: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .map(|c| if Name::host(c.encode_utf8(&mut [0; 4])).is_ok() { c } else { '-' })
        .collect();
    let end = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= Name::MAX_TERMINATED);
    Name::host(&name[..end.last().unwrap_or(0)]).or_else(|_| Name::host("unnamed")).unwrap_or(Name::EMPTY)
}
