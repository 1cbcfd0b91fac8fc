//! The membership of one host in one lockspace: its renewal, its scans, and the end of both.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::feeding::Feeder;
use super::hosts::{Hosts, read_record};
use super::io::{Io, Unsubmitted, outcome};
use super::notices::Notices;
use super::outbox::Outbox;
use super::pulse::{LeaseLoss, Pulse, Status, Until};
use super::resources::Resources;
use super::sightings::Keeping;
use super::values::Values;
use crate::disk::Lane;
use crate::error::{DiskError, JoinError, LeaveError, LossReason};
use crate::format::DeltaRecord;
use crate::protocol::Seen;
use crate::protocol::delta::{Tenure, Terms, may_release};
use crate::protocol::procedure::Window;
use crate::supervision::Ladder;
use crate::types::{HostId, LeaseMode, Resource, Time, Version};
use crate::watchdog::{Watchdog, WatchdogError};

/// For how many I/O timeouts a host that calls may be overlooked: half of the time for which it does.
const UNSEEN: u32 = 3;

/// How many renewal latencies are remembered.
const HISTORY: usize = 1024;

/// What a program is told with, of its membership's changes and of leases that are lost alone.
#[derive(Default)]
pub(crate) struct Tell {
    pub(crate) status: Option<Callback<Status>>,
    pub(crate) loss: Option<Callback<LeaseLoss>>,
}

type Callback<T> = Box<dyn Fn(&T) + Send>;

/// Everything that the threads of a membership share.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) io: Io,
    pub(crate) terms: Terms,
    pub(crate) hosts: Hosts,
    pub(crate) pulse: Pulse,
    pub(crate) resources: Resources,
    pub(crate) outbox: Outbox,
    pub(crate) values: Values,
    /// Taken by whoever changes the index: its guard keeps other hosts away, and this the other threads of this one.
    pub(crate) index: Mutex<()>,
    /// What is held though a panic has dropped its handle, and how it was held then.
    pub(crate) orphans: Mutex<Vec<(Resource, LeaseMode, Version)>>,
    /// None without a watchdog.
    feeder: OnceLock<Feeder>,
    pub(super) keeping: Keeping,
    latencies: Mutex<VecDeque<Duration>>,
    /// Each with what ends it.
    threads: Mutex<Vec<(Until, thread::JoinHandle<()>)>>,
}

/// A thread that panics has left something undone that nobody knows: the membership counts as lost.
pub(crate) struct LostOnPanic<'member>(pub(crate) &'member Pulse);

impl Drop for LostOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lose(LossReason::Panicked);
        }
    }
}

impl Member {
    /// Starts the threads of a host id that was just acquired.
    pub(crate) fn start(
        io: Io,
        terms: Terms,
        hosts: Hosts,
        tenure: Tenure,
        tell: Tell,
        notices: Option<Notices>,
    ) -> Result<Arc<Member>, JoinError> {
        let timeouts = terms.timeouts;
        let pulse = Pulse::new(tenure, io.clock().clone(), timeouts.late(), timeouts.fail());
        let member = Arc::new(Member {
            io,
            terms,
            hosts,
            pulse,
            resources: Resources::default(),
            outbox: Outbox::default(),
            values: Values::default(),
            index: Mutex::default(),
            orphans: Mutex::default(),
            feeder: OnceLock::new(),
            keeping: Keeping::default(),
            latencies: Mutex::default(),
            threads: Mutex::default(),
        });
        let started = member
            .spawn("leasehold-watch", Until::Over, move |member| {
                let Tell { status, loss } = tell;
                member.pulse.watch(
                    |now| status.iter().for_each(|tell| tell(now)),
                    |lost| loss.iter().for_each(|tell| tell(lost)),
                );
            })
            .and_then(|()| member.spawn("leasehold-renew", Until::Stopped, |member| member.renew()))
            .and_then(|()| member.spawn("leasehold-scan", Until::Stopped, |member| member.scan(notices)))
            .and_then(|()| member.spawn("leasehold-verify", Until::Stopped, |member| member.verify()))
            .and_then(|()| member.spawn("leasehold-undo", Until::Stopped, |member| member.undo()));
        match started {
            Ok(()) => Ok(member),
            Err(source) => {
                member.pulse.end(Until::Over);
                Err(JoinError::System { what: "a thread of the membership could not be started", source })
            }
        }
    }

    fn spawn(
        self: &Arc<Self>,
        name: &str,
        until: Until,
        work: impl FnOnce(&Member) + Send + 'static,
    ) -> std::io::Result<()> {
        let member = self.clone();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let _guard = LostOnPanic(&member.pulse);
            work(&member);
        })?;
        self.threads.lock().push((until, thread));
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
            if !self.pulse.sleep((now + self.terms.timeouts.poll()).min(end), Until::Closing) {
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
        self.latencies.lock().iter().copied().collect()
    }

    fn read_own(&self, timeout: Duration) -> Result<Seen<DeltaRecord>, DiskError> {
        Ok(read_record(&self.io, Lane::Renewal, &self.terms, self.host(), timeout)?.1)
    }

    /// Renews every R, and at once when there is something to say. A read or write that is slow is waited for, up to
    /// the deadline: giving it up and starting another would lose a lease on a disk that still answers.
    fn renew(&self) {
        let interval = self.terms.timeouts.renewal();
        let mut next = self.io.now();
        while self.pulse.sleep_to_renewal(next) {
            let started = self.io.now();
            next = match self.renew_once(started) {
                true => started + interval,
                // The disk reported a failure: it may be a passing one.
                false => self.io.now() + interval / 4,
            };
        }
    }

    fn until_deadline(&self) -> Duration {
        match self.pulse.held() {
            Ok(deadline) => deadline.since(self.io.now()),
            Err(_) => Duration::ZERO,
        }
    }

    fn renew_once(&self, started: Time) -> bool {
        let renewed = self.try_renew();
        if let Some(error) = renewed.as_ref().err().filter(|error| error.is_gone()) {
            self.pulse.with_tenure(|tenure| tenure.gone(self.io.now(), &error.device));
        }
        if let Ok(Some(ended)) = renewed {
            let mut latencies = self.latencies.lock();
            if latencies.len() == HISTORY {
                latencies.pop_front();
            }
            latencies.push_back(ended.since(started));
        }
        let confirmed = renewed.is_ok();
        self.pulse.set_trouble(renewed.err());
        confirmed
    }

    /// `Ok(None)`: the host id is lost.
    fn try_renew(&self) -> Result<Option<Time>, DiskError> {
        let seen = self.read_own(self.until_deadline())?;
        let Ok(record) = self.pulse.with_tenure(|tenure| tenure.renew(self.io.now(), &seen)) else {
            return Ok(None);
        };
        let at = self.terms.geometry.delta_offset(self.host());
        let said = self.outbox.said(self.io.now());
        let sector = record.encode_with_calls(at, &said);
        let Ok(before) = self.pulse.held() else { return Ok(None) };
        let window = Window { before, timeout: before.since(self.io.now()) };
        let writing = self.io.submit_within(Lane::Renewal, at, sector, window).map_err(Unsubmitted::into_error)?;
        let (span, result) = self.io.finish(&writing);
        if result.is_ok() {
            self.outbox.stands(&said, self.io.now());
        }
        // Before the deadline is judged with it: a loss that this is the cause of names it.
        self.pulse.set_trouble(result.clone().err());
        self.pulse.with_tenure(|tenure| tenure.renewed(span, outcome(&result), self.io.now()));
        result.map(|()| Some(span.ended))
    }

    fn scan(&self, mut notices: Option<Notices>) {
        let interval = self.terms.timeouts.renewal() / 2;
        let unseen = self.terms.timeouts.io() * UNSEEN;
        let mut next = self.io.now();
        while self.pulse.sleep(next, Until::Stopped) {
            // Who joined since with a larger id than all others is not among those in use, and may call.
            let all = notices.is_some() && self.hosts.coverage().since.is_none_or(|since| next >= since + unseen);
            let scanned = match all {
                true => self.hosts.scan_all(&self.io, Some(&self.pulse)),
                false => self.hosts.scan_used(&self.io, Some(&self.pulse)),
            };
            // A scan that fails shows nothing; the next one may.
            if let Ok(calls) = scanned
                && let Some(notices) = &mut notices
            {
                notices.take_in(&calls, self);
            }
            next = self.io.now() + interval;
        }
    }

    /// Finishes what acquires and releases could not by their deadline.
    fn undo(&self) {
        while self.pulse.sleep(self.io.now() + self.terms.timeouts.io() / 4, Until::Stopped) {
            self.undo_pending();
        }
    }

    /// Begins to leave: acquires that wait end at once, and nothing new is acquired.
    pub(super) fn close(&self) -> Result<(), LeaveError> {
        self.pulse.held().map_err(LeaveError::Lost)?;
        if !self.pulse.close() {
            // Waiting for it could be for ever: it may be what waits for this thread.
            return Err(LeaveError::UnderWay);
        }
        Ok(())
    }

    /// Leaves the lockspace in an orderly way.
    pub(crate) fn leave(&self) -> Result<(), LeaveError> {
        self.close()?;
        // Acquires that wait end at once; one that is writing ends within a few I/Os.
        let resources = self.resources.wait_idle(self.terms.timeouts.io() * 4);
        if !resources.is_empty() {
            self.pulse.reopen();
            return Err(LeaveError::LeasesHeld { resources });
        }
        // While it is still renewed: what comes now may take longer than the watchdog waits.
        let disarmed = self.disarm();
        self.end(Until::Over);
        self.io.close();
        let result = self.release_id();
        self.pulse.lose(LossReason::Left);
        self.sightings_are_kept();
        result.and(disarmed.map_err(LeaveError::Watchdog))
    }

    /// Ends the threads that do not outlast `until`, without giving anything back.
    pub(crate) fn end(&self, until: Until) {
        self.pulse.end(until);
        let this = thread::current().id();
        let ended: Vec<_> = self.threads.lock().extract_if(.., |(end, _)| *end <= until).collect();
        for (_, thread) in ended {
            // A callback of the program's may be what drops the membership.
            if thread.thread().id() != this {
                // A panic was latched as a loss already.
                let _ = thread.join();
            }
        }
    }

    /// Everything that this generation wrote must be over before others may have its id.
    fn release_id(&self) -> Result<(), LeaveError> {
        let host = self.host();
        let at = self.terms.geometry.delta_offset(host);
        let io_timeout = self.terms.timeouts.io();
        if !may_release(self.io.settle(0..u64::MAX, io_timeout)) {
            return Err(LeaveError::InFlight { host, writes: self.io.writes_in_flight() });
        }
        let seen = self.read_own(io_timeout)?;
        let window = Window { before: self.pulse.held().map_err(LeaveError::Lost)?, timeout: io_timeout };
        let record = self
            .pulse
            .with_tenure(|tenure| tenure.release(self.io.now(), &seen))
            .map_err(|loss| LeaveError::Lost(loss.into()))?;
        match self.io.write(Lane::Renewal, at, record.encode(at), window) {
            Ok(_) => {
                // Nothing is in flight: the id is anybody's.
                self.io.let_go();
                Ok(())
            }
            Err(error) if error.is_timeout() => Err(LeaveError::InFlight { host, writes: self.io.writes_in_flight() }),
            Err(error) => Err(error.into()),
        }
    }
}
