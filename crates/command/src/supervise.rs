//! What `run` does while its command runs: it moves the guard's deadline with each renewal, answers other commands of
//! this machine, and when the command is gone it hands over or releases.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leasehold::{Ladder, Membership, Status};

use crate::channel::{Action, Asker, Request, Server};
use crate::descendants::{Outcome, Rest};
use crate::ending::Order;
use crate::failure::{Failure, IO, LOST, USAGE};
use crate::guard::{Guard, GuardEvent};
use crate::leases::Leases;
use crate::output::tell;
use crate::signaled::Signaled;
use crate::yielding::Yielding;

/// By convention: the command was not found, or can't be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// What all of it may take to be gone after SIGKILL, before the supervisor itself steps in.
const KILL_PATIENCE: Duration = Duration::from_secs(1);
/// The longest pause between two looks at the leases. The end of the command is not told to who looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What a command runs under.
pub(crate) struct Supervisor<'run> {
    guard: &'run Guard,
    membership: &'run Membership,
    leases: Leases,
    yielding: &'run Yielding,
    /// Where other commands ask.
    channel: Option<Server>,
    /// What the command was asked to end for, if it was: a handover that one of them has ordered.
    order: OnceLock<Order>,
    /// The command did not end in the time that it had for that.
    overdue: AtomicBool,
}

impl<'run> Supervisor<'run> {
    pub(crate) fn new(
        guard: &'run Guard,
        membership: &'run Membership,
        leases: Leases,
        yielding: &'run Yielding,
        channel: Option<Server>,
    ) -> Supervisor<'run> {
        let (order, overdue) = (OnceLock::new(), AtomicBool::default());
        Supervisor { guard, membership, leases, yielding, channel, order, overdue }
    }

    /// Runs the command to its end, and hands over or releases; not at all, if a signal has come.
    pub(crate) fn run(self, command: &[OsString], signals: &Signaled) -> Result<ExitCode, Failure> {
        let ladder = self.membership.ladder();
        let status = self.leases.status();
        let until = match &status {
            Status::Held { until } | Status::Late { until } => *until,
            Status::Lost { reason } => return Err(reason.clone().into()),
        };
        let environment = self.leases.environment(self.membership);
        let Some(launched) = signals.launch(|| self.guard.launch(command, &environment, ladder.deadlines(until)))
        else {
            return Ok(signals.exit_code());
        };
        launched.map_err(|error| Failure::new(USAGE, format!("{:?} can't be started: {error}", command[0])))?;
        self.yielding.launched(ladder.grace());
        let ended = self.watch(&ladder, status);
        self.conclude(ended)
    }

    /// Until the command is over; the leases were last seen as `seen`.
    fn watch(&self, ladder: &Ladder, seen: Status) -> End {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| self.extend(ladder, seen, &over));
            if let Some(channel) = &self.channel {
                scope.spawn(move || channel.serve(|request, asker| self.take(channel, &request, asker)));
            }
            let ended = self.await_end(ladder);
            over.store(true, Ordering::Relaxed);
            // What it does for somebody at this moment is waited for: the leases are about to be released.
            if let Some(channel) = &self.channel {
                channel.stop();
            }
            ended
        })
    }

    /// Does what another command of this machine asks for.
    fn take(&self, channel: &Server, request: &Request, asker: Asker) {
        let timeouts = self.membership.lockspace().timeouts();
        match request.action {
            Action::Convert(to) => asker.answer(&self.leases.convert(request, to, &timeouts)),
            Action::HandOver { to, grace } => match self.leases.prepare_handover(request, to, &timeouts) {
                Ok(to) => self.end_for(Order { offset: request.offset, to, asker }, grace, channel),
                Err(answer) => asker.answer(&answer),
            },
        }
    }

    /// Has the command end, for a handover. Nobody else is served any more.
    fn end_for(&self, order: Order, grace: Duration, channel: &Server) {
        tell(format_args!("the command is ended, to hand over to {}", order.to));
        self.order.set(order).unwrap_or_else(|_| unreachable!("nobody was served after the first"));
        // A guard that can't be told is gone, and the command with it.
        let _ = self.guard.ask_to_end();
        if !channel.stops_within(grace) {
            self.overdue.store(true, Ordering::Relaxed);
            self.guard.terminate(Duration::ZERO);
            channel.stops_within(Duration::MAX);
        }
    }

    /// Moves the guard's deadline with each renewal, until the command is over or the leases are lost.
    fn extend(&self, ladder: &Ladder, mut seen: Status, over: &AtomicBool) {
        let Supervisor { guard, membership, leases, .. } = self;
        let mut renewed = membership.status();
        while !over.load(Ordering::Relaxed) {
            // A lease that is lost alone changes nothing of the membership.
            renewed = membership.status_change(&renewed, self.pause());
            let now = leases.status();
            match &now {
                _ if now == seen => continue,
                // A guard that can't be told keeps to the deadline that it has.
                Status::Held { until } | Status::Late { until } => {
                    let _ = guard.extend(ladder.deadlines(*until));
                }
                Status::Lost { .. } => {
                    guard.terminate(ladder.grace());
                    return;
                }
            }
            seen = now;
        }
    }

    /// Between two looks at the leases: a small part of G, within which all must be gone after a loss.
    fn pause(&self) -> Duration {
        (self.membership.lockspace().timeouts().fence() / 8).min(LONGEST_PAUSE)
    }

    fn await_end(&self, ladder: &Ladder) -> End {
        let Supervisor { guard, membership, leases, .. } = self;
        let pause = self.pause();
        let mut lost_since = None;
        let mut trouble_told = false;
        loop {
            match guard.next_event(pause) {
                Some(GuardEvent::Started) => {}
                Some(GuardEvent::SpawnFailed { error, not_found }) => {
                    let code = if not_found { NOT_FOUND } else { NOT_EXECUTABLE };
                    return End::NotStarted(Failure::new(code, format!("the command can't be started: {error}")));
                }
                Some(GuardEvent::Expired) => return End::Lost,
                Some(GuardEvent::Ended { by_deadline: false, by_loss: false, status }) => return End::Ended(status),
                Some(GuardEvent::Ended { by_deadline: false, status, .. })
                    if self.was_ordered() && !matches!(leases.status(), Status::Lost { .. }) =>
                {
                    return End::Ended(status);
                }
                Some(GuardEvent::Ended { .. }) => return End::Lost,
                Some(GuardEvent::Stuck { pids }) => {
                    tell(format_args!("{} don't end after SIGKILL; the leases stay until they do", named(&pids)));
                }
                Some(GuardEvent::Gone) => {
                    return match guard.enforce(KILL_PATIENCE) {
                        Rest::Gone => End::Failed(Failure::new(IO, "the guard process was killed; so was the command")),
                        Rest::Left(pids) => End::Left(pids),
                    };
                }
                None => {}
            }
            if !trouble_told && let Some(error) = membership.watchdog_trouble() {
                trouble_told = true;
                tell(Failure::from(error).within("the watchdog is about to fire"));
            }
            if matches!(leases.status(), Status::Lost { .. }) {
                // A guard that neither ends the command nor says that it can't is itself stopped or stuck.
                let since = *lost_since.get_or_insert_with(Instant::now);
                if since.elapsed() > ladder.grace() + pause {
                    return match guard.enforce(KILL_PATIENCE) {
                        Rest::Gone => End::Lost,
                        Rest::Left(pids) => End::Left(pids),
                    };
                }
            }
        }
    }

    /// Whether the command was ended as it is when the lease is lost, for another reason.
    fn was_ordered(&self) -> bool {
        self.yielding.at_once() || self.overdue.load(Ordering::Relaxed)
    }

    fn conclude(self, ended: End) -> Result<ExitCode, Failure> {
        let Supervisor { membership, leases, order, .. } = self;
        let mut order = order.into_inner();
        let concluded = match ended {
            End::Ended(outcome) => leases.end(outcome, order.take(), &membership.lockspace().timeouts()),
            // Nothing of it is left: others may have the resources at once.
            End::NotStarted(failure) | End::Failed(failure) => leases.release().and(Err(failure)),
            End::Lost => {
                // Nothing of it is left. Where the host id is still held, leaving switches the watchdog off, and the
                // lease is given up when it is dropped.
                if matches!(membership.status(), Status::Lost { .. })
                    && let Err(error) = membership.disarm_watchdog()
                {
                    tell(format_args!("the watchdog was not switched off: {error}"));
                }
                Err(lost(&leases))
            }
            End::Left(pids) => {
                let failure = Failure::new(
                    IO,
                    format!("{} can't be killed; nothing is given back, and the leases run out", named(&pids)),
                );
                if let Some(order) = order {
                    order.fail(&failure);
                }
                end_holding(&failure);
            }
        };
        if let (Some(order), Err(failure)) = (order, &concluded) {
            order.fail(failure);
        }
        concluded
    }
}

/// How it ended.
enum End {
    NotStarted(Failure),
    Ended(Outcome),
    /// The command was ended because the lease was lost.
    Lost,
    /// The guard failed, and what it guarded was killed.
    Failed(Failure),
    /// The guard failed, and something is left: these, as far as can be seen.
    Left(Vec<i32>),
}

fn named(pids: &[i32]) -> String {
    match pids {
        [] => "processes that /proc does not show".into(),
        pids => format!("processes {pids:?}"),
    }
}

/// Ends this process as it is, with something left that may rely on what is held: no lease is released by being
/// dropped, no host id given back, no watchdog switched off. It all runs out, as nobody renews it any more.
fn end_holding(failure: &Failure) -> ! {
    tell(failure);
    std::process::exit(failure.code().into())
}

fn lost(leases: &Leases) -> Failure {
    match leases.status() {
        Status::Lost { reason } => {
            Failure::from(reason).within("the lease was lost while the command ran, which was ended")
        }
        // The guard went by the last deadline that reached it.
        Status::Held { .. } | Status::Late { .. } => {
            Failure::new(LOST, "the command was ended: the guard was not told of a renewal in time")
        }
    }
}
