//! `leasehold run`: the supervisor.
//!
//! It joins, acquires all resources or none, has the guard start the command, and moves the guard's deadline with each
//! renewal. When the command is gone it releases and leaves. When the lease is lost it writes nothing more.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{LeaseMode, Lockspace, Membership, Resource, Version};

use crate::channel::Server;
use crate::failure::{Failure, IO, USAGE};
use crate::guard::Guard;
use crate::leases::{How, Leases};
use crate::output::tell;
use crate::prepare::{DEFAULT_DEVICE, make_default, open, resource};
use crate::session::{Identity, call_off, leave_and_tell};
use crate::signaled::Signaled;
use crate::supervise::Supervisor;
use crate::watchdog::Choice;
use crate::words::{Patience, Target};
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
  leasehold run --device /dev/vg/leases --receive vm-1 -- ./resume-vm vm-1
  leasehold run --device /dev/vg/leases --watchdog /dev/watchdog vm-1 -- ./start-vm vm-1
  leasehold run --device /dev/vg/leases --machine rack-4-blade-2 vm-1 -- ./start-vm vm-1

The command finds LEASEHOLD_RESOURCE, LEASEHOLD_VERSION, LEASEHOLD_HOST_ID and LEASEHOLD_GENERATION in its \
environment; with several names the first two are lists with commas. The version is the fencing token; it stands \
there as it was at the start, and `leasehold convert --to exclusive` makes it a larger one.

A host id that was not released is taken again only by its machine. That is known by /etc/machine-id and the \
board's UUID, which only root can read, and never in a container: there --machine or LEASEHOLD_MACHINE says it, or \
each end without a release uses a host id up, until `leasehold declare-dead`. Two machines that say the same may \
run the same command at once. So it names the hardware: never what moves between machines, nor what is copied.

With --take-version the owner's own command is ended within F + G, and exits with 69: for how long it may still \
act is told, and stands in LEASEHOLD_FORMER_OWNER_MS. Another version than the one given is refused (exit code \
75).

With --receive the command starts when the owner of the resource hands it over, and never otherwise: exit code 75 \
when nobody holds it any more, or when --wait is over, if that is given. The owner is told, and `leasehold status` \
shows who asks. It hands over by `leasehold handover`; or when its command ends with exit code 0, to the first who \
asks then. After any other end of its command the resource is released.

What it sees of other hosts it keeps for the next command of this user, until the machine is booted: so commands that \
end before they could know that an owner is dead find that out together. The folder is \
/run/leasehold/sightings, or leasehold/sightings in $XDG_RUNTIME_DIR; LEASEHOLD_REMEMBER names another one, or none.

Signals are passed on. When the command ends, whatever it started is ended too, then the leases are handed over or \
released. When a lease is lost the command and all it started get SIGTERM, then SIGKILL, before another host may \
take it over. With --on-request yield they get SIGTERM when another host asks for a resource, and all the time \
they need to end; where it is asked for at once, SIGKILL follows as after a loss. Then the leases are released; \
the exit code is the command's. A watchdog is switched off when all of it is gone. One that is left counting, \
because this command was killed, resets the machine; `leasehold watchdog test` tries out whether a device will do.")]
pub(crate) struct RunArgs {
    /// Device with a lockspace [default: leasehold.img in the current folder, made when it is missing]
    #[arg(long)]
    pub(crate) device: Option<PathBuf>,
    /// Create resources that the index doesn't have (always so with the default device)
    #[arg(long)]
    pub(crate) create: bool,
    #[command(flatten)]
    pub(crate) identity: Identity,
    /// How long to wait for a resource that is held [default: 0s, and with --receive forever]
    #[arg(long, value_name = "DUR|forever")]
    wait: Option<Patience>,
    /// Share the resources with other hosts that share them
    #[arg(long, conflicts_with = "take_version")]
    pub(crate) shared: bool,
    /// Take the resource by force from an owner that lives or can't be reached, if it is at this version
    #[arg(long, value_name = "V")]
    pub(crate) take_version: Option<u64>,
    /// Wait until the resource's owner hands it over, and take it in no other way
    #[arg(long, conflicts_with_all = ["shared", "take_version", "create"])]
    pub(crate) receive: bool,
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

impl RunArgs {
    fn device(&self) -> &Path {
        self.device.as_deref().unwrap_or(Path::new(DEFAULT_DEVICE))
    }

    /// Who waits to be handed a resource has somebody to wait for.
    fn wait(&self) -> Patience {
        self.wait.unwrap_or(if self.receive { Patience::Forever } else { Patience::For(Duration::ZERO) })
    }

    /// Whether what is missing is made. What is to be handed over somebody has.
    const fn creates_default(&self) -> bool {
        self.device.is_none() && !self.receive
    }
}

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    check_names(&args.names)?;
    if args.names.len() > 1 {
        if args.take_version.is_some() {
            return Err(Failure::new(USAGE, "--take-version is for one resource: each has versions of its own"));
        }
        if args.receive {
            return Err(Failure::new(USAGE, "--receive is for one resource: of several some might be handed over"));
        }
    }
    let guard = Arc::new(Guard::start().map_err(|error| Failure::new(IO, format!("no guard process: {error}")))?);
    let signals = Signaled::listen(guard.clone())?;
    if args.creates_default() {
        make_default(args.device())?;
    }
    let lockspace = open(args.device(), Access::ReadWrite)?;
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
        None if args.receive => How::Received,
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
            let create = args.create || args.creates_default();
            let resources = args.names.iter().map(|target| resource(membership, target, create));
            let resources: Vec<Resource> = resources.collect::<Result<_, _>>()?;
            Leases::acquire(membership, &resources, how(args), args.wait())
        });
        let finished = signals.wait(|| acquiring.is_finished());
        if !finished {
            // It ends with an error, or with leases that are dropped, and so released, below.
            call_off(membership, || acquiring.is_finished());
        }
        let leases = acquiring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if finished { leases.map(Some) } else { Ok(None) }
    })?;
    let Some(leases) = leases else {
        return Ok(signals.exit_code());
    };
    let channel = Server::listen(args.device(), membership.lockspace(), membership.owner().host)
        .inspect_err(|error| tell(format_args!("no other command can ask this one for anything: {error}")));
    Supervisor::new(guard, membership, leases, yielding, channel.ok()).run(&args.command, signals)
}
