//! `leasehold run`: the supervisor.
//!
//! It joins, acquires all resources or none, has the guard start the command, and moves the guard's deadline with each
//! renewal. When the command is gone it releases and leaves. When the lease is lost it writes nothing more.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use leasehold::disk::Access;
use leasehold::{Ladder, LeaseMode, Lockspace, Membership, Resource, Status, Version};

use crate::args::{Patience, Target};
use crate::descendants::Outcome;
use crate::failure::{Failure, IO, LOST, USAGE};
use crate::guard::{Guard, GuardEvent, Signals};
use crate::leases::{How, Leases};
use crate::output::tell;
use crate::prepare::{DEFAULT_DEVICE, make_default, open, resource};
use crate::session::{Identity, leave_and_tell};
use crate::watchdog::Choice;
use crate::yielding::{OnRequest, Yielding};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold run demo -- sh -c 'echo version $LEASEHOLD_VERSION'
  leasehold run --device /dev/vg/leases --wait 1m database -- postgres -D /srv/db
  leasehold run --device /dev/vg/leases --wait forever vm-1 disk-1 -- ./start-vm vm-1
  leasehold run --device /dev/vg/leases db@3145728 -- ./backup
  leasehold run --device /dev/vg/leases --shared images -- ./serve images
  leasehold run --device /dev/vg/leases --take-version 17 vm-1 -- ./start-vm vm-1
  leasehold run --device /dev/vg/leases --watchdog /dev/watchdog vm-1 -- ./start-vm vm-1

The command finds LEASEHOLD_RESOURCE, LEASEHOLD_VERSION, LEASEHOLD_HOST_ID and LEASEHOLD_GENERATION in its
environment; with several names the first two are lists with commas. The version is the fencing token.

With --take-version the owner's own command is ended within F + G, and exits with 69: for how long it may still act
is told, and stands in LEASEHOLD_FORMER_OWNER_MS. Another version than the one given is refused (exit code 75).

Signals are passed on. When the command ends, whatever it started is ended too, then the leases are released.
When a lease is lost the command and all it started get SIGTERM, then SIGKILL, before another host may take it over.
With --on-request yield they get SIGTERM when another host asks for a resource, and all the time they need to end; where
it is asked for at once, SIGKILL follows as after a loss. Then the leases are released; the exit code is the command's.
A watchdog is switched off when all of it is gone. One that is left counting, because this command was killed, resets
the machine; `leasehold watchdog test` tries out whether a device will do.")]
pub(crate) struct RunArgs {
    /// Device with a lockspace [default: leasehold.img in the current folder, made when it is missing]
    #[arg(long)]
    pub(crate) device: Option<PathBuf>,
    /// Create resources that the index doesn't have (always so with the default device)
    #[arg(long)]
    pub(crate) create: bool,
    #[command(flatten)]
    pub(crate) identity: Identity,
    /// How long to wait for a resource that is held
    #[arg(long, value_name = "DUR|forever", default_value = "0s")]
    pub(crate) wait: Patience,
    /// Share the resources with other hosts that share them
    #[arg(long, conflicts_with = "take_version")]
    pub(crate) shared: bool,
    /// Take the resource by force from an owner that lives or can't be reached, if it is at this version
    #[arg(long, value_name = "V")]
    pub(crate) take_version: Option<u64>,
    /// What to do when another host asks for a resource (`leasehold request`, or sanlock's)
    #[arg(long, value_enum, default_value = "ignore", value_name = "ACTION")]
    pub(crate) on_request: OnRequest,
    /// What stops this host when this command is stopped itself: `self` kills it, a device such as /dev/watchdog resets
    /// the machine
    #[arg(long, value_name = "self|PATH")]
    pub(crate) watchdog: Option<Choice>,
    /// Resources: NAME, or NAME@OFFSET for one that stands at a byte offset of the device
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<Target>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// By convention: the command was not found, or can't be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// How often what is awaited is looked at while a signal may come.
const TICK: Duration = Duration::from_millis(2);
/// What all of it may take to be gone after SIGKILL, before the supervisor itself steps in.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    check_names(&args.names)?;
    if args.take_version.is_some() && args.names.len() > 1 {
        return Err(Failure::new(USAGE, "--take-version is for one resource: each has versions of its own"));
    }
    let guard = Arc::new(Guard::start().map_err(|error| Failure::new(IO, format!("no guard process: {error}")))?);
    let signals = Signaled::listen(guard.clone())?;
    let lockspace = match &args.device {
        Some(device) => open(device, Access::ReadWrite)?,
        None => {
            make_default(Path::new(DEFAULT_DEVICE))?;
            open(Path::new(DEFAULT_DEVICE), Access::ReadWrite)?
        }
    };
    let yielding = Arc::new(Yielding::new(args.on_request, guard.clone()));
    let Some(membership) = join(&lockspace, args, &signals, &yielding)? else {
        return Ok(signals.exit_code());
    };
    let result = hold_and_run(args, &guard, &membership, &signals, &yielding);
    leave_and_tell(&membership);
    result
}

/// How the resources are to be held.
fn how(args: &RunArgs) -> How {
    match args.take_version {
        Some(version) => How::TakenFrom(Version::new(version)),
        None if args.shared => How::Mode(LeaseMode::Shared),
        None => How::Mode(LeaseMode::Exclusive),
    }
}

fn check_names(names: &[Target]) -> Result<(), Failure> {
    for (at, target) in names.iter().enumerate() {
        if names[..at].iter().any(|earlier| earlier.name == target.name) {
            return Err(Failure::new(USAGE, format!("{} is named twice", target.name)));
        }
    }
    Ok(())
}

/// Signals that came before the command was started end the wait for it; later ones are the command's.
struct Signaled {
    received: Receiver<i32>,
    first: std::cell::Cell<Option<i32>>,
}

impl Signaled {
    fn listen(guard: Arc<Guard>) -> Result<Signaled, Failure> {
        let failed = |error| Failure::new(IO, format!("signals can't be caught: {error}"));
        let signals = Signals::new().map_err(failed)?;
        let (sender, received) = channel();
        let forward = move || {
            for signal in signals {
                if let Some(pass_on) = signal.pass_on {
                    // Nothing to pass it on to is no failure.
                    let _ = guard.signal(pass_on);
                }
                // Nobody listens any more once the command runs.
                let _ = sender.send(signal.signal);
            }
        };
        thread::Builder::new().name("leasehold-signals".into()).spawn(forward).map_err(failed)?;
        Ok(Signaled { received, first: std::cell::Cell::new(None) })
    }

    /// Waits until `done`; false when a signal that ends a process came first.
    fn wait(&self, mut done: impl FnMut() -> bool) -> bool {
        while !done() {
            match self.received.recv_timeout(TICK) {
                Ok(signal) if ends_a_process(signal) => {
                    self.first.set(Some(signal));
                    return false;
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
            }
        }
        true
    }

    fn exit_code(&self) -> ExitCode {
        code_of(Outcome::Signal(self.first.get().unwrap_or_default()))
    }
}

fn ends_a_process(signal: i32) -> bool {
    use rustix::process::Signal;
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].map(Signal::as_raw).contains(&signal)
}

fn code_of(outcome: Outcome) -> ExitCode {
    let code = match outcome {
        Outcome::Code(code) => code,
        Outcome::Signal(signal) => 128 + signal,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// `None`: a signal came.
fn join(
    lockspace: &Lockspace,
    args: &RunArgs,
    signals: &Signaled,
    yielding: &Arc<Yielding>,
) -> Result<Option<Membership>, Failure> {
    let mut options = args.identity.options();
    if let Some(watchdog) = &args.watchdog {
        options = watchdog.add_to(options);
    }
    let yielding = yielding.clone();
    let joining = lockspace.start_join(options.on_notice(move |notice| yielding.take_in(notice)))?;
    match signals.wait(|| joining.is_done()) {
        true => Ok(Some(joining.wait()?)),
        false => Ok(None),
    }
}

fn hold_and_run(
    args: &RunArgs,
    guard: &Arc<Guard>,
    membership: &Membership,
    signals: &Signaled,
    yielding: &Yielding,
) -> Result<ExitCode, Failure> {
    // Creating and waiting block: they run beside the wait for signals, which calls them off by leaving.
    let leases = thread::scope(|scope| {
        let acquiring = scope.spawn(|| {
            let create = args.create || args.device.is_none();
            let resources = args.names.iter().map(|target| resource(membership, target, create));
            let resources: Vec<Resource> = resources.collect::<Result<_, _>>()?;
            Leases::acquire(membership, &resources, how(args), args.wait)
        });
        let finished = signals.wait(|| acquiring.is_finished());
        if !finished {
            // It ends with an error, or with leases that are dropped, and so released, below.
            let _ = membership.leave();
        }
        let leases = acquiring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if finished { leases.map(Some) } else { Ok(None) }
    })?;
    let Some(leases) = leases else {
        return Ok(signals.exit_code());
    };
    supervise(args, guard, membership, leases, yielding)
}

fn supervise(
    args: &RunArgs,
    guard: &Arc<Guard>,
    membership: &Membership,
    leases: Leases,
    yielding: &Yielding,
) -> Result<ExitCode, Failure> {
    let timeouts = membership.lockspace().timeouts();
    let ladder = membership.ladder();
    let status = leases.status();
    let until = match &status {
        Status::Held { until } | Status::Late { until } => *until,
        Status::Lost { reason } => return Err(reason.clone().into()),
    };
    let environment = leases.environment(membership);
    guard
        .launch(&args.command, &environment, ladder.deadlines(until))
        .map_err(|error| Failure::new(USAGE, format!("{:?} can't be started: {error}", args.command[0])))?;
    yielding.launched(ladder.grace());
    let over = AtomicBool::new(false);
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut seen, mut renewed) = (status, membership.status());
            while !over.load(Ordering::Relaxed) {
                // Whatever changes, the membership renews soon.
                renewed = membership.status_change(&renewed, timeouts.renewal());
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
        });
        let ended = await_end(guard, membership, &leases, &ladder, yielding);
        over.store(true, Ordering::Relaxed);
        ended
    });
    match ended {
        End::NotStarted(failure) => {
            leases.release()?;
            Err(failure)
        }
        End::Ended(outcome) => {
            leases.release()?;
            Ok(code_of(outcome))
        }
        End::Lost => {
            // Nothing of it is left. Where the host id is still held, leaving switches the watchdog off, and the lease is
            // given up when it is dropped.
            if matches!(membership.status(), Status::Lost { .. })
                && let Err(error) = membership.disarm_watchdog()
            {
                tell(format_args!("the watchdog was not switched off: {error}"));
            }
            Err(lost(&leases))
        }
        End::Failed(failure) => {
            // Nothing of it is left: others may have the resources at once.
            leases.release()?;
            Err(failure)
        }
        End::Left(pids) => Err(Failure::new(
            IO,
            format!("processes {pids:?} can't be killed; the leases are not released, and run out when renewing ends"),
        )),
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
    /// The guard failed, and these are left.
    Left(Vec<i32>),
}

fn await_end(guard: &Guard, membership: &Membership, leases: &Leases, ladder: &Ladder, yielding: &Yielding) -> End {
    let interval = membership.lockspace().timeouts().renewal();
    let mut lost_since = None;
    let mut trouble_told = false;
    loop {
        match guard.next_event(interval) {
            Some(GuardEvent::Started) => {}
            Some(GuardEvent::SpawnFailed { error, not_found }) => {
                let code = if not_found { NOT_FOUND } else { NOT_EXECUTABLE };
                return End::NotStarted(Failure::new(code, format!("the command can't be started: {error}")));
            }
            Some(GuardEvent::Expired) => return End::Lost,
            Some(GuardEvent::Ended { by_deadline: false, by_loss: false, status }) => return End::Ended(status),
            Some(GuardEvent::Ended { by_deadline: false, status, .. })
                if yielding.at_once() && !matches!(leases.status(), Status::Lost { .. }) =>
            {
                return End::Ended(status);
            }
            Some(GuardEvent::Ended { .. }) => return End::Lost,
            Some(GuardEvent::Stuck { pids }) => {
                tell(format_args!("processes {pids:?} don't end after SIGKILL; the leases stay until they do"));
            }
            Some(GuardEvent::Gone) => {
                let left = guard.enforce(KILL_PATIENCE);
                return match left.is_empty() {
                    true => End::Failed(Failure::new(IO, "the guard process was killed; so was the command")),
                    false => End::Left(left),
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
            if since.elapsed() > ladder.grace() {
                let left = guard.enforce(KILL_PATIENCE);
                return if left.is_empty() { End::Lost } else { End::Left(left) };
            }
        }
    }
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
