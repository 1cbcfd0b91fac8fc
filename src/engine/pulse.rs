//! The machine of a membership as everybody but its own thread sees it: until when the host id, and each lease, is
//! held.
//!
//! "Held" is always judged against the clock, so it never depends on a thread having run. The watching thread does no
//! I/O: it tells of a loss at the deadline, and wakes those who wait.
//!
//! `status.rs` is what it says, `waiting.rs` how it is waited for.

mod status;
mod waiting;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::io::Io;
use super::troubles::Troubles;
use crate::disk::Process;
use crate::error::{DiskError, LossReason, Taker};
use crate::format::DeltaRecord;
use crate::protocol::holding;
use crate::protocol::member::{Key, Loss, Member as Machine, Trouble};
use crate::supervision::wake;
use crate::types::{Owner, Time, Version};
use status::until;

pub use status::{LeaseLoss, Status};
pub(crate) use status::{Standing, Subject};
pub(crate) use waiting::LONGEST_WAIT;

pub(crate) struct Pulse {
    me: Owner,
    /// The one that holds the id. In a child of it nothing is held, and no lock of this is waited for: another thread
    /// may have held it when the child was made.
    process: Process,
    /// The own record when the membership began. Of who holds the id it says the same as later ones.
    record: DeltaRecord,
    io: Io,
    machine: Mutex<Machine>,
    changed: Condvar,
    /// Why it is lost, once that was asked: what failed then is the cause.
    loss: Mutex<Option<LossReason>>,
    /// What the machine's I/Os failed with.
    pub(super) troubles: Troubles,
    /// Nobody is to be told any more.
    stopped: AtomicBool,
    /// Written to with each change, for those who wait for other descriptors too.
    wakes: Mutex<Vec<Weak<OwnedFd>>>,
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("me", &self.me()).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Pulse {
    pub(super) fn new(io: Io, machine: Machine) -> Pulse {
        Pulse {
            me: machine.me(),
            process: Process::this(),
            record: machine.tenure().record().clone(),
            io,
            machine: Mutex::new(machine),
            changed: Condvar::new(),
            loss: Mutex::default(),
            troubles: Troubles::default(),
            stopped: AtomicBool::new(false),
            wakes: Mutex::default(),
        }
    }

    /// Looks at the machine, or has its own thread drive it.
    pub(crate) fn with_machine<T>(&self, work: impl FnOnce(&mut Machine) -> T) -> T {
        work(&mut self.machine.lock())
    }

    pub(crate) const fn me(&self) -> Owner {
        self.me
    }

    /// The own record, but for its timestamp.
    pub(crate) const fn record(&self) -> &DeltaRecord {
        &self.record
    }

    /// Whether this process is a child of the one that holds the id, made by `fork`.
    pub(crate) fn is_forked(&self) -> bool {
        self.process.is_parent()
    }

    /// What a child of the process that holds the id is told.
    fn forked(&self) -> Option<Status> {
        self.is_forked().then_some(Status::Lost { reason: LossReason::Forked })
    }

    /// Has this descriptor written to with each change, as long as it is there.
    pub(crate) fn wake_by(&self, descriptor: &Arc<OwnedFd>) {
        let mut wakes = self.wakes.lock();
        wakes.retain(|descriptor| descriptor.strong_count() > 0);
        wakes.push(Arc::downgrade(descriptor));
    }

    pub(super) fn tell_waiters(&self) {
        self.changed.notify_all();
        self.wakes.lock().iter().filter_map(Weak::upgrade).for_each(|descriptor| wake(&descriptor));
    }

    /// This lease, whatever its versions will be.
    pub(crate) fn subject(&self, key: Key) -> Subject {
        if self.is_forked() {
            return Subject::Membership;
        }
        let began = self.with_machine(|machine| machine.leases().began(key));
        Subject::Lease { offset: key.0, began }
    }

    pub(crate) fn standing(&self, subject: Subject) -> Standing {
        if self.is_forked() {
            let now = self.io.now();
            return Standing { until: now, loss: Some((now, LossReason::Forked)) };
        }
        let mut machine = self.machine.lock();
        let now = self.io.now();
        let (status, until, since) = match subject {
            Subject::Membership => (self.status_of(&mut machine, now), machine.tenure().deadline(), None),
            Subject::Lease { offset, began } => match machine.leases().key(offset, began) {
                Some(key) => {
                    let since = machine.loss_of(key, now).and_then(|(since, _)| since);
                    (self.hold_status_of(&mut machine, key, now), machine.held_until(key), since)
                }
                None => (Status::Lost { reason: LossReason::Left }, now, None),
            },
        };
        let loss = self::until(status).err().map(|reason| (since.unwrap_or(now), reason));
        Standing { until, loss }
    }

    pub(crate) fn status(&self) -> Status {
        self.forked().unwrap_or_else(|| self.status_of(&mut self.machine.lock(), self.io.now()))
    }

    /// Whether the host id is held right now.
    pub(crate) fn held(&self) -> Result<Time, LossReason> {
        until(self.status())
    }

    /// The status of a lease.
    pub(crate) fn hold_status(&self, key: Key) -> Status {
        let status = || self.hold_status_of(&mut self.machine.lock(), key, self.io.now());
        self.forked().unwrap_or_else(status)
    }

    /// Whether a lease is held right now.
    pub(crate) fn held_here(&self, key: Key) -> Result<Time, LossReason> {
        until(self.hold_status(key))
    }

    fn status_of(&self, machine: &mut Machine, now: Time) -> Status {
        let mut known = self.loss.lock();
        if known.is_none()
            && let Some(loss) = machine.loss(now)
        {
            let trouble = machine.trouble();
            *known = Some(self.reason(machine, loss, trouble));
        }
        match &*known {
            Some(reason) => Status::Lost { reason: reason.clone() },
            None => held(machine, machine.tenure().deadline(), now),
        }
    }

    /// The status of a lease: it ends with the membership, or alone.
    fn hold_status_of(&self, machine: &mut Machine, key: Key, now: Time) -> Status {
        match machine.loss_of(key, now) {
            Some((_, loss @ Loss::Lease(_))) => {
                let trouble = machine.trouble_of(key);
                Status::Lost { reason: self.reason(machine, loss, trouble) }
            }
            Some((_, loss)) => match self.status_of(machine, now) {
                lost @ Status::Lost { .. } => lost,
                _ => Status::Lost { reason: self.reason(machine, loss, None) },
            },
            None => match self.status_of(machine, now) {
                lost @ Status::Lost { .. } => lost,
                _ => held(machine, machine.held_until(key), now),
            },
        }
    }

    /// In the words of the public errors, why something is lost.
    pub(crate) fn reason(&self, machine: &mut Machine, loss: Loss, trouble: Option<Trouble>) -> LossReason {
        let cause = || trouble.and_then(|trouble| self.troubles.error(&self.io, trouble));
        match loss {
            Loss::Left => LossReason::Left,
            Loss::Detached => LossReason::Detached,
            Loss::Panicked => LossReason::Panicked,
            Loss::Lease(holding::Loss::Unverified) => LossReason::Unverified { cause: cause() },
            Loss::Lease(holding::Loss::Taken { owner, version }) => LossReason::Fenced(taker(machine, owner, version)),
            Loss::Lease(holding::Loss::Erased) => LossReason::BlockErased,
            Loss::Lease(holding::Loss::Replaced) => LossReason::BlockReplaced,
            Loss::Host(loss) => LossReason::of_host(loss, cause),
        }
    }

    /// What an I/O of the machine's failed with.
    pub(crate) fn error(&self, trouble: Option<Trouble>) -> Option<DiskError> {
        let error = self.troubles.error(&self.io, trouble?)?;
        Some(Arc::unwrap_or_clone(error))
    }

    /// A thread has panicked: nothing goes on.
    pub(crate) fn panicked(&self) {
        self.with_machine(Machine::panicked);
        self.tell_waiters();
    }

    /// Ceases to answer for a lease.
    pub(crate) fn let_go(&self, key: Key) {
        self.with_machine(|machine| machine.let_go(key));
        self.tell_waiters();
    }

    /// Nobody is to be told any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.tell_waiters();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Who took a resource at `version`, as far as is known.
pub(super) fn taker(machine: &Machine, owner: Option<Owner>, version: Version) -> Taker {
    Taker { owner, name: owner.and_then(|owner| machine.name_of(owner)), version }
}

fn held(machine: &Machine, until: Time, now: Time) -> Status {
    let timeouts = machine.terms().timeouts;
    let late_after: Duration = timeouts.fail() - timeouts.late();
    match now + late_after >= until {
        true => Status::Late { until },
        false => Status::Held { until },
    }
}
