//! How to join a lockspace.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::disk::Process;
use crate::engine::join::{self, Cancel};
use crate::engine::member::Tell;
use crate::engine::pulse::{LeaseLoss, Status};
use crate::engine::sightings::Place;
use crate::error::JoinError;
use crate::lockspace::Lockspace;
use crate::membership::Membership;
use crate::protocol::member::Notice;
use crate::types::{HostId, Name};
use crate::watchdog::Watchdog;

/// How to join a lockspace.
#[derive(Default)]
pub struct JoinOptions {
    host_id: Option<HostId>,
    vouches: bool,
    host_name: Option<String>,
    pub(crate) machine: Option<String>,
    pub(crate) remember: Place,
    pub(crate) tell: Tell,
    pub(crate) watchdog: Option<Box<dyn Watchdog>>,
}

impl fmt::Debug for JoinOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinOptions")
            .field("host_id", &self.host_id)
            .field("host_name", &self.host_name)
            .field("machine", &self.machine)
            .field("remember", &self.remember)
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
    /// one that is free: see docs/design/host-ids.md.
    ///
    /// An id that was [declared dead], or that a [repair] has freed, is taken only by a join that names it, and after
    /// D. **That is the caller's word** for every earlier holder of the id: no write of theirs will reach the device.
    /// It covers also one that came after the declaration, since the write that declares may land late, over the record
    /// of a later holder. So where each machine has an id of its own, naming it is right. An id that other machines
    /// take, too, is named when they are known to have ended, by a release or by a fence.
    ///
    /// [declared dead]: Membership::declare_dead
    /// [repair]: Membership::repair
    #[must_use]
    pub fn host_id(mut self, host: HostId) -> JoinOptions {
        (self.host_id, self.vouches) = (Some(host), true);
        self
    }

    /// Asks for this host id without a word for its earlier holders: as [`JoinOptions::host_id`], but one that was
    /// declared dead, or that a repair has freed, is refused with [`JoinError::Declared`].
    #[must_use]
    pub fn host_id_unless_declared(mut self, host: HostId) -> JoinOptions {
        (self.host_id, self.vouches) = (Some(host), false);
        self
    }

    /// The name under which other hosts see this one: 1 to 47 bytes. A host that keeps its name finds its id again.
    #[must_use]
    pub fn host_name(mut self, name: impl Into<String>) -> JoinOptions {
        self.host_name = Some(name.into());
        self
    }

    /// The identity of this machine: what tells it from all others, across reboots, such as the hardware's UUID. Only
    /// the machine that held a host id takes it again when it was not released.
    ///
    /// Without it the machine is known by `/etc/machine-id` and the board's UUID. A process has no identity where these
    /// can't be read, and in a container. It then takes only ids that are free, and can't be [resumed]. The id that it
    /// does not release stays taken until it is [declared dead].
    ///
    /// **Two machines that say the same here can run the same thing at once**: one takes the other's id after 2R + 2T,
    /// as its own of before a reboot, though the other lives. So this names the hardware, not what may move from one
    /// machine to another: a pod, a guest that is migrated, a service. Containers of one machine that say the same must
    /// share its network namespace or its device nodes: else they share no local lock, and a write that one left behind
    /// lands in the sectors of the next.
    ///
    /// An empty text says that there is no identity.
    ///
    /// [resumed]: Lockspace::resume
    /// [declared dead]: Membership::declare_dead
    #[must_use]
    pub fn machine(mut self, identity: &str) -> JoinOptions {
        self.machine = Some(identity.into());
        self
    }

    /// Keeps what this process sees of the other hosts in this folder, for the next process of this user until the
    /// machine is booted: so processes that live for less than D find out together that a host is dead. The folder is
    /// made, and the one above it. Nobody but this user may be able to write to it, nor anybody but root and this user
    /// to one above it: a lie in it makes a live host look dead.
    ///
    /// Without this it is `/run/leasehold/sightings` for root and `leasehold/sightings` in `$XDG_RUNTIME_DIR` for
    /// others, for a device that other processes can have, too. What can't be kept is not missed. Nothing is kept with
    /// another clock than the host's boot-time clock, nor where the boot can't be known.
    #[must_use]
    pub fn remember_in(mut self, folder: impl Into<PathBuf>) -> JoinOptions {
        self.remember = Place::Folder(folder.into());
        self
    }

    /// Keeps nothing, and goes by nothing that was kept: see [`JoinOptions::remember_in`].
    #[must_use]
    pub fn remember_nothing(mut self) -> JoinOptions {
        self.remember = Place::Nowhere;
        self
    }

    /// Calls `tell` with the status after the join and whenever it changes: renewed, late, lost. It is called by a
    /// thread that does no I/O, so that storage can't hold it up; it must be quick.
    ///
    /// The loss is told also when it comes after the membership was dropped, with leases held. Leaving and detaching
    /// are told by the answers of those calls alone. Nothing follows the loss.
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
        self.tell.notice = Some(Box::new(tell));
        self
    }

    /// Has this watchdog fed while the host id is held. It fires by the deadline + G unless the membership is left, or
    /// [`Membership::disarm_watchdog`] was called, in time: also when this process is paused, or ends with leases held.
    /// A join starts it last, a [resumption](Lockspace::resume) before it takes up the leases; one that can't be
    /// started fails them.
    #[must_use]
    pub fn watchdog(mut self, watchdog: impl Watchdog + 'static) -> JoinOptions {
        self.watchdog = Some(Box::new(watchdog));
        self
    }
}

/// A join that is under way.
#[derive(Debug)]
pub struct Joining {
    process: Process,
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
        Ok(Joining { process: Process::this(), cancel, thread: Some(thread) })
    }

    /// Whether the outcome is there, so that [`Joining::wait`] doesn't wait.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Waits for the outcome. `Cancelled` in a child of the process that joins, made by `fork`.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn wait(mut self) -> Result<Membership, JoinError> {
        self.finish().unwrap_or(Err(JoinError::Cancelled))
    }

    /// Ends the join at once; a host id that was acquired meanwhile is released. At most one I/O is waited for.
    pub fn cancel(self) {}

    fn finish(&mut self) -> Option<Result<Membership, JoinError>> {
        if self.process.is_parent() {
            return None;
        }
        Some(match self.thread.take()?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if self.process.is_parent() {
            return;
        }
        self.cancel.cancel();
        // Nobody has had the membership that it may have become: it is left though a panic drops this.
        if let Some(Ok(membership)) = self.thread.take().and_then(|thread| thread.join().ok()) {
            let _ = membership.leave();
        }
    }
}

impl Membership {
    pub(crate) fn join(lockspace: &Lockspace, options: JoinOptions, cancel: &Cancel) -> Result<Membership, JoinError> {
        let name = match options.host_name {
            Some(name) => Name::host(&name)?,
            None => own_host_name(),
        };
        let JoinOptions { host_id, vouches, machine, remember, tell, watchdog, .. } = options;
        let request = join::Request { host: host_id, vouches, name, machine, remember, tell };
        let member = join::join(lockspace.io.for_member(), lockspace.terms.clone(), request, cancel)?;
        // Left when it is dropped.
        let membership = Membership::of(member, lockspace.clone());
        if let Some(watchdog) = watchdog {
            membership.member.watch_over(watchdog)?;
        }
        Ok(membership)
    }
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
