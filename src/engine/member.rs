//! The membership of one host in one lockspace, as the API uses it: the machine, the threads around it, and how callers
//! reach it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::areas::view_up_to;
use super::carrier::{Carrier, Inbox, Message};
use super::feeding::Feeder;
use super::hosts::Hosts;
use super::io::Io;
use super::pulse::{LeaseLoss, Pulse, Status};
use super::sightings::Keeping;
use crate::error::{DiskCause, DiskError, JoinError, LeaveError, LossReason};
use crate::protocol::Span;
use crate::protocol::area::AreaView;
use crate::protocol::delta::{Tenure, Terms};
use crate::protocol::liveness::Observer;
use crate::protocol::member::{Answer, Command, Finish, Loss, Member as Machine, NotClosed, NotFinished, Notice};
use crate::supervision::Ladder;
use crate::types::{HostId, LeaseMode, Name, Owner, Resource, Time, Version};
use crate::watchdog::{Watchdog, WatchdogError};

/// How many renewal latencies are remembered.
const HISTORY: usize = 1024;

/// What a program is told with, of its membership's changes and of leases that are lost alone.
#[derive(Default)]
pub(crate) struct Tell {
    pub(crate) status: Option<Callback<Status>>,
    pub(crate) loss: Option<Callback<LeaseLoss>>,
    pub(crate) notice: Option<Callback<Notice>>,
}

type Callback<T> = Box<dyn Fn(&T) + Send>;

/// Everything that the threads of a membership share.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) io: Io,
    pub(crate) terms: Terms,
    pub(crate) pulse: Pulse,
    pub(super) inbox: Inbox,
    /// Taken by whoever changes the index: its guard keeps other hosts away, and this the other threads of this one.
    pub(crate) index: Mutex<()>,
    /// What is held though a panic has dropped its handle, and how it was held then.
    pub(crate) orphans: Mutex<Vec<(Resource, LeaseMode, Version)>>,
    /// None without a watchdog.
    feeder: OnceLock<Feeder>,
    pub(super) keeping: Keeping,
    latencies: Mutex<VecDeque<Duration>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

/// A thread that panics has left something undone that nobody knows: the membership counts as lost.
pub(crate) struct LostOnPanic<'member>(pub(crate) &'member Pulse);

impl Drop for LostOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked();
        }
    }
}

impl Member {
    /// Starts the threads of a host id that was just acquired. `hosts` is what was seen of the records meanwhile.
    pub(crate) fn start(
        io: Io,
        terms: Terms,
        hosts: Hosts,
        tenure: Tenure,
        tell: Tell,
    ) -> Result<Arc<Member>, JoinError> {
        let all = (terms.geometry.max_hosts(), 1);
        let listens = tell.notice.is_some();
        let machine = Machine::new(
            terms.clone(),
            tenure,
            all,
            listens,
            terms.timeouts.renewal() / 2,
            hosts.into_seen(),
            io.now(),
        );
        let (inbox, messages) = Inbox::new();
        let member = Arc::new(Member {
            pulse: Pulse::new(io.clone(), machine),
            io,
            terms,
            inbox,
            index: Mutex::default(),
            orphans: Mutex::default(),
            feeder: OnceLock::new(),
            keeping: Keeping::default(),
            latencies: Mutex::default(),
            threads: Mutex::default(),
        });
        member.spawn_all(messages, tell).map_err(|source| {
            member.stop();
            JoinError::System { what: "a thread of the membership could not be started", source }
        })?;
        Ok(member)
    }

    fn spawn_all(self: &Arc<Self>, messages: Receiver<Message>, tell: Tell) -> std::io::Result<()> {
        let Tell { status, loss, notice } = tell;
        let (told, notices) = channel();
        self.spawn("leasehold-watch", move |member| {
            member
                .pulse
                .watch(|now| status.iter().for_each(|tell| tell(now)), |lost| loss.iter().for_each(|tell| tell(lost)));
        })?;
        let told = match notice {
            Some(tell) => {
                self.spawn("leasehold-notice", move |_| notices.iter().for_each(|notice| tell(&notice)))?;
                Some(told)
            }
            None => None,
        };
        let carrier = Carrier::new(self.clone(), messages, told);
        self.spawn("leasehold", move |_| carrier.run())
    }

    fn spawn(self: &Arc<Self>, name: &str, work: impl FnOnce(&Member) + Send + 'static) -> std::io::Result<()> {
        let member = self.clone();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let _guard = LostOnPanic(&member.pulse);
            work(&member);
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Starts a watchdog, which is fed from now on.
    pub(crate) fn watch_over(self: &Arc<Self>, watchdog: Box<dyn Watchdog>) -> Result<(), WatchdogError> {
        let feeder = Feeder::start(self, watchdog)?;
        // There is one at most: only what starts a membership calls this.
        let _ = self.feeder.set(feeder);
        Ok(())
    }

    pub(crate) fn feeder(&self) -> Option<&Feeder> {
        self.feeder.get()
    }

    /// When a program that depends on the membership is ended, ahead of the watchdog.
    pub(crate) fn ladder(&self) -> Ladder {
        let ladder = Ladder::new(&self.terms.timeouts);
        self.feeder().map_or(ladder, |feeder| ladder.ahead_of(feeder.pace.earliest))
    }

    /// Everything that depended on the leases has stopped.
    pub(crate) fn disarm(&self) -> Result<(), WatchdogError> {
        self.feeder().map_or(Ok(()), |feeder| feeder.disarm(self.terms.timeouts.fence()))
    }

    /// Looks, at least once, until it is `found` or the deadline has passed.
    ///
    /// # Errors
    /// The membership ends.
    pub(crate) fn poll(&self, deadline: Option<Time>, mut found: impl FnMut() -> bool) -> Result<(), LossReason> {
        loop {
            let over = found();
            let now = self.io.now();
            let Some(end) = deadline.filter(|end| *end > now && !over) else { return Ok(()) };
            if !self.pulse.sleep((now + self.terms.timeouts.poll()).min(end)) {
                self.pulse.held()?;
                return Err(LossReason::Left);
            }
        }
    }

    pub(crate) fn host(&self) -> HostId {
        self.pulse.me().host
    }

    /// How long the latest renewals took, from the start of the read to the confirmed write; the oldest first.
    pub(crate) fn latencies(&self) -> Vec<Duration> {
        if self.pulse.is_forked() {
            return Vec::new();
        }
        self.latencies.lock().iter().copied().collect()
    }

    pub(super) fn keep_latency(&self, latency: Duration) {
        let mut latencies = self.latencies.lock();
        if latencies.len() == HISTORY {
            latencies.pop_front();
        }
        latencies.push_back(latency);
    }

    pub(crate) fn with_observer<T>(&self, work: impl FnOnce(&mut Observer) -> T) -> T {
        self.pulse.with_machine(|machine| work(machine.observer()))
    }

    /// The name of the host that `owner` is, if its record as last read is of that generation.
    pub(crate) fn name_of(&self, owner: Owner) -> Option<Name> {
        self.pulse.with_machine(|machine| machine.name_of(owner))
    }

    /// Reads the leader and the blocks of the ids in use.
    pub(crate) fn read_area(&self, resource: &Resource) -> Result<(Span, AreaView), DiskError> {
        let highest = self.pulse.with_machine(|machine| machine.coverage().highest).max(self.host().get());
        view_up_to(&self.io, &self.terms, resource, highest, self.terms.timeouts.io())
    }

    /// Waits until the records of all ids were read.
    pub(crate) fn wait_for_scan(&self) -> Result<(), DiskError> {
        let timeout = self.terms.timeouts.fail();
        let scanned = |machine: &mut Machine, _| machine.coverage().since.map(drop);
        self.pulse.wait_for(timeout, scanned).ok_or_else(|| {
            let geometry = self.terms.geometry;
            let len = geometry.max_hosts() as usize * geometry.sector_bytes();
            self.io.error(0, len, false, DiskCause::TimedOut(timeout))
        })
    }

    /// Has a command carried out. Without the thread that does, the membership is lost.
    pub(super) fn ask(&self, command: Command) -> Result<Answer, LossReason> {
        if self.pulse.is_forked() {
            return Err(LossReason::Forked);
        }
        self.inbox.ask(command).ok_or_else(|| self.pulse.held().err().unwrap_or(LossReason::Panicked))
    }

    /// In the words of the public errors, why something is lost.
    pub(crate) fn reason(&self, loss: Loss) -> LossReason {
        self.pulse.with_machine(|machine| {
            let trouble = machine.trouble();
            self.pulse.reason(machine, loss, trouble)
        })
    }

    /// Begins to leave: acquires that wait end at once, and nothing new is acquired.
    pub(super) fn close(&self, but: Option<u64>) -> Result<(), LeaveError> {
        match self.ask(Command::Close { but }).map_err(LeaveError::Lost)? {
            Answer::Closed(Err(NotClosed::Held(resources))) => Err(LeaveError::LeasesHeld { resources }),
            // Waiting for it could be for ever: it may be what waits for this thread.
            Answer::Closed(Err(NotClosed::UnderWay)) => Err(LeaveError::UnderWay),
            Answer::Closed(Err(NotClosed::Lost(loss))) => Err(LeaveError::Lost(self.reason(loss))),
            _ => Ok(()),
        }
    }

    pub(super) fn finish(&self, how: Finish) -> Result<(), LeaveError> {
        let finished = self.ask(Command::Finish(how)).map_err(LeaveError::Lost)?;
        let result = match finished {
            Answer::Finished(Err(NotFinished::InFlight(writes))) => {
                Err(LeaveError::InFlight { host: self.host(), writes })
            }
            Answer::Finished(Err(NotFinished::Lost(loss))) => Err(LeaveError::Lost(self.reason(loss))),
            Answer::Finished(Err(NotFinished::Storage(trouble))) => match self.pulse.error(Some(trouble)) {
                Some(error) => Err(error.into()),
                None => Err(LeaveError::InFlight { host: self.host(), writes: 0 }),
            },
            _ => Ok(()),
        };
        self.stop();
        result
    }

    /// Leaves the lockspace in an orderly way.
    pub(crate) fn leave(&self) -> Result<(), LeaveError> {
        self.close(None)?;
        // While it is still renewed: what comes now may take longer than the watchdog waits.
        let disarmed = self.disarm();
        let finished = self.finish(Finish::Release);
        self.sightings_are_kept();
        finished.and(disarmed.map_err(LeaveError::Watchdog))
    }

    /// Ends the membership and leaves everything on disk as it is. Nothing may be under way, and the index not be held
    /// for a change.
    pub(crate) fn detach(&self, index_guard: &Resource) -> Result<(), LeaveError> {
        self.close(Some(index_guard.offset))?;
        self.finish(Finish::Detach)
    }

    /// Stops renewing, without giving anything back: what is held runs out at its deadline, and can be released until
    /// then. The threads live until the loss has been told. Returns when no renewal is in flight any more, at the
    /// latest at the deadline.
    pub(crate) fn abandon(&self) {
        self.pulse.with_machine(Machine::abandon);
        let timeout = self.terms.timeouts.fail();
        let over = |machine: &mut Machine, now| (!machine.is_renewing() || machine.loss(now).is_some()).then_some(());
        self.pulse.wait_for(timeout, over);
    }

    /// Ends the threads.
    fn stop(&self) {
        self.inbox.stop();
        self.pulse.stop();
        let this = thread::current().id();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A callback of the program's may be what drops the membership.
            if thread.thread().id() != this {
                // A panic was latched as a loss already.
                let _ = thread.join();
            }
        }
    }
}
