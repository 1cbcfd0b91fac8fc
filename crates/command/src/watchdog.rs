//! `leasehold watchdog test`, and which watchdog `run` has.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use leasehold::disk::{Access, BootClock, Clock};
use leasehold::{Armed, JoinOptions, KernelWatchdog, Profile, SelfKill, Timeouts, Watchdog};

use crate::failure::Failure;
use crate::output::{tell, written};
use crate::prepare::open;

#[derive(Debug, Subcommand)]
pub(crate) enum WatchdogCommand {
    /// Open a watchdog device, set it, feed it and switch it off, without resetting the machine
    Test(TestArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold watchdog test
  leasehold watchdog test --device /dev/watchdog1 --lockspace /dev/vg/leases

The device counts from the moment it is opened. It is switched off after about a second; if this command is killed \
in between, the machine is reset, and nothing but that reset makes the device available again. A device that was \
left counting, that another process has, that has no orderly close, or that can't be switched off (nowayout) is \
refused without being fed.

Exit codes: 0 it will do; 64 the lockspace's fence timeout is too short for it; 73 it was left counting, or it \
can't be switched off; 74 it can't be opened, or can't do what is needed; 75 another process has it.")]
pub(crate) struct TestArgs {
    /// The watchdog device
    #[arg(long, value_name = "PATH", default_value = "/dev/watchdog")]
    device: PathBuf,
    /// Device with a lockspace, for whose timeouts it is tested [default: those of the profile balanced]
    #[arg(long, value_name = "DEVICE")]
    lockspace: Option<PathBuf>,
    /// Print an object for programs
    #[arg(long)]
    json: bool,
}

pub(crate) fn watchdog(command: &WatchdogCommand) -> Result<(), Failure> {
    let WatchdogCommand::Test(args) = command;
    test(args)
}

fn test(args: &TestArgs) -> Result<(), Failure> {
    let timeouts = match &args.lockspace {
        Some(device) => open(device, Access::ReadOnly)?.timeouts(),
        None => Profile::default().timeouts(),
    };
    let watchdog = KernelWatchdog::new(&args.device);
    // Before the warning: what is refused here is not opened.
    watchdog.check(&timeouts)?;
    let device = args.device.display();
    tell(format_args!("opening {device}: if this command is killed before it ends, the machine is reset"));
    let mut armed = Box::new(watchdog).start(&timeouts)?;
    let pace = armed.pace();
    let fed = feed(armed.as_mut(), &timeouts);
    // Switched off in any case, before what went wrong is told.
    armed.disarm()?;
    fed?;
    let Timing { from, by } = Timing::new(pace.earliest, &timeouts);
    let out = &mut io::stdout();
    if args.json {
        let object = serde_json::json!({
            "device": args.device.to_string_lossy(),
            "every_ms": millis(pace.every),
            "reset_from_ms": millis(from),
            "reset_by_ms": millis(by),
        });
        return written(writeln!(out, "{object}"));
    }
    written(writeln!(
        out,
        "{device} was opened, set, fed and switched off\n\
         fed every {} ms; when renewals end it resets the machine {} to {} ms after the last one, if that is not called off",
        millis(pace.every),
        millis(from),
        millis(by),
    ))
}

/// When the machine is reset, from the start of the last confirmed renewal on.
struct Timing {
    from: Duration,
    by: Duration,
}

impl Timing {
    fn new(earliest: Duration, timeouts: &Timeouts) -> Timing {
        Timing { from: timeouts.fail() + earliest, by: timeouts.fail() + timeouts.fence() }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// As a membership does for about a second.
fn feed(armed: &mut dyn Armed, timeouts: &Timeouts) -> Result<(), Failure> {
    const TIMES: u32 = 4;
    let every = armed.pace().every;
    for _ in 0..TIMES {
        armed.feed(BootClock.now() + timeouts.fail())?;
        std::thread::sleep(every);
    }
    Ok(())
}

/// What `run --watchdog` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// End the supervisor, and with it all that it runs.
    Itself,
    /// A device of the kernel.
    Device(PathBuf),
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Choice, Infallible> {
        Ok(match text {
            "self" => Choice::Itself,
            path => Choice::Device(path.into()),
        })
    }
}

impl Choice {
    pub(crate) fn add_to(&self, options: JoinOptions) -> JoinOptions {
        match self {
            Choice::Itself => options.watchdog(SelfKill::new()),
            Choice::Device(path) => options.watchdog(KernelWatchdog::new(path)),
        }
    }
}
