//! The leases that `run` holds: all that it was told to, or none.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use leasehold::{
    AcquireError, AcquireOptions, ConvertError, Destination, Holder, HostId, Lease, LeaseMode, Membership,
    PrepareError, Resource, Status, Timeouts, Version, Wait,
};

use crate::channel::{Answer, Holding, Request};
use crate::descendants::Outcome;
use crate::ending::{self, Order};
use crate::failure::{Failure, IO, REFUSED};
use crate::output::tell;
use crate::words::Patience;

/// How resources are to be held.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// Acquired in this mode.
    Mode(LeaseMode),
    /// Taken by force from this version.
    TakenFrom(Version),
    /// Handed over by their owner.
    Received,
}

pub(crate) struct Leases {
    all: Vec<Lease>,
    /// How much longer those may act from whom one was taken by force.
    overridden: Option<Duration>,
}

impl Leases {
    /// All, in the order of their places so that two who want the same ones don't wait for each other; or none.
    pub(crate) fn acquire(
        membership: &Membership,
        resources: &[Resource],
        how: How,
        wait: Patience,
    ) -> Result<Leases, Failure> {
        let started = Instant::now();
        let mut order: Vec<usize> = (0..resources.len()).collect();
        order.sort_by_key(|at| resources[*at].offset());
        let mut leases: Vec<(usize, Lease)> = Vec::new();
        let mut overridden = None;
        for at in order {
            let left = match wait {
                Patience::For(span) if !span.is_zero() => Wait::For(span.saturating_sub(started.elapsed())),
                wait => wait.into(),
            };
            let acquired = match how {
                How::Mode(mode) => membership.acquire(&resources[at], AcquireOptions::new().mode(mode).wait(left)),
                How::Received => membership.receive(&resources[at], left),
                How::TakenFrom(version) => membership.take(&resources[at], version, left).map(|taken| {
                    overridden = told_of(&taken.previous);
                    taken.lease
                }),
            };
            match acquired {
                Ok(lease) => leases.push((at, lease)),
                Err(error) => {
                    for (_, lease) in leases {
                        // What can't be released now the engine goes on with.
                        let _ = lease.release();
                    }
                    return Err(refused(error, how));
                }
            }
        }
        leases.sort_by_key(|(at, _)| *at);
        Ok(Leases { all: leases.into_iter().map(|(_, lease)| lease).collect(), overridden })
    }

    /// Lost when any is; else held until the first of them ends.
    pub(crate) fn status(&self) -> Status {
        let until = |status: &Status| match status {
            Status::Lost { .. } => None,
            Status::Held { until } | Status::Late { until } => Some(*until),
        };
        let first = self.all.iter().map(Lease::status).min_by_key(until);
        first.unwrap_or_else(|| unreachable!("at least one name is an argument"))
    }

    /// What the command finds in its environment.
    pub(crate) fn environment(&self, membership: &Membership) -> Vec<(String, String)> {
        let list = |text: &dyn Fn(&Lease) -> String| self.all.iter().map(text).collect::<Vec<_>>().join(",");
        let owner = membership.owner();
        let mut environment = vec![
            ("LEASEHOLD_RESOURCE".into(), list(&|lease| lease.resource().name().to_string())),
            ("LEASEHOLD_VERSION".into(), list(&|lease| lease.version().to_string())),
            ("LEASEHOLD_HOST_ID".into(), owner.host.to_string()),
            ("LEASEHOLD_GENERATION".into(), owner.generation.to_string()),
        ];
        if let Some(span) = self.overridden {
            environment.push(("LEASEHOLD_FORMER_OWNER_MS".into(), span.as_millis().to_string()));
        }
        environment
    }

    /// What another command of this machine asks about.
    fn find(&self, request: &Request) -> Result<&Lease, Answer> {
        let Request { resource, offset, .. } = request;
        let found = self
            .all
            .iter()
            .map(|lease| (lease, lease.resource()))
            .find(|(_, held)| held.name().to_string() == *resource && held.offset() == *offset);
        let gone = || Failure::new(REFUSED, format!("that `run` does not hold {resource} any more"));
        found.map(|(lease, _)| lease).ok_or_else(|| Answer::Failed(gone()))
    }

    /// Converts one as another command asks for.
    pub(crate) fn convert(&self, request: &Request, to: LeaseMode, timeouts: &Timeouts) -> Answer {
        match self.find(request) {
            Ok(lease) => convert(lease, to, request.wait.min(piece(timeouts))),
            Err(answer) => answer,
        }
    }

    /// Waits until the host `to` asks for one that is to be handed over to it. Nothing changes by that.
    ///
    /// # Errors
    /// It does not ask yet, or there is nothing to hand over.
    pub(crate) fn prepare_handover(
        &self,
        request: &Request,
        to: HostId,
        timeouts: &Timeouts,
    ) -> Result<Destination, Answer> {
        let wait = Wait::For(request.wait.min(piece(timeouts)));
        self.find(request)?.prepare_handover(to, wait).map_err(|error| match error {
            PrepareError::NotAsked { .. } => Answer::Blocked(error.into()),
            error => Answer::Failed(error.into()),
        })
    }

    /// When the command has ended: hands over what is asked for, if it ended well, and releases the rest.
    pub(crate) fn end(self, outcome: Outcome, order: Option<Order>, timeouts: &Timeouts) -> Result<ExitCode, Failure> {
        ending::end(self.all, outcome, order, timeouts)
    }

    /// Releases all; tells what fails.
    pub(crate) fn release(self) -> Result<(), Failure> {
        let released: Vec<_> = self.all.into_iter().map(ending::release).collect();
        released.into_iter().collect()
    }
}

/// The longest that one request waits for others. The end of the leases would wait for it.
fn piece(timeouts: &Timeouts) -> Duration {
    (timeouts.io() * 2).max(Duration::from_secs(1))
}

fn convert(lease: &Lease, to: LeaseMode, wait: Duration) -> Answer {
    let name = lease.resource().name();
    let (before, wait) = (lease.mode(), if wait.is_zero() { Wait::No } else { Wait::For(wait) });
    match lease.convert(to, wait) {
        Ok(()) => {
            let version = lease.version();
            if before != to {
                tell(format_args!("{name} was converted to {to}, and is held at version {version}"));
            }
            Answer::Done(Holding::new(name.to_string(), to, version, lease.owner()))
        }
        Err(error) => {
            let blocked = matches!(
                &error,
                ConvertError::NotAcquired(
                    AcquireError::Held { .. }
                        | AcquireError::Shared { .. }
                        | AcquireError::TimedOut { source: None, .. }
                )
            );
            let failure = Failure::from(error);
            if blocked { Answer::Blocked(failure) } else { Answer::Failed(failure) }
        }
    }
}

/// Tells from whom it was taken by force; how long they may still act.
fn told_of(previous: &[(Holder, Duration)]) -> Option<Duration> {
    for (holder, span) in previous {
        tell(format_args!("taken by force from {holder}, which may act for up to {} ms more", span.as_millis()));
    }
    previous.iter().map(|(_, span)| *span).max()
}

/// The membership that is lost before a command was started protects nothing.
fn refused(error: AcquireError, how: How) -> Failure {
    match (error, how) {
        (AcquireError::Lost(reason), _) => {
            Failure::from(reason).within("the membership was lost while acquiring").with_code(IO)
        }
        (error @ AcquireError::Held { .. }, How::Received) => {
            Failure::of(error.kind(), &error).hint("without --wait it waits until that host hands it over")
        }
        (error, _) => error.into(),
    }
}
