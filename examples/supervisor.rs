//! A supervisor: acquires a lease, runs a program under it, has the library end the program in time when the lease is
//! lost, and releases when the program has ended.
//!
//! `cargo run --example supervisor` shows both on a new file: a program that ends by itself, and one that has to be
//! ended because the storage stops answering. `-- DEVICE COMMAND...` runs a command under the lease `example` of a
//! formatted device.
//!
//! Who is stopped can't end anybody: `leasehold run` does the same with a second process that does no I/O, follows all
//! that the program starts, and kills it when the first one is late.

// A program that talks to people.
#![allow(clippy::print_stdout)]

mod common;

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use common::{Device, RESOURCE, open};
use leasehold::disk::{Access, BootClock, Clock, DirectDisk, FaultDisk, Plan};
use leasehold::{JoinOptions, Lockspace, LossReason, Protected, Scope, Status, Step, Wait};

/// How often the deadline is looked at, to tell what it was. The program's end is told at once.
const TICK: Duration = Duration::from_millis(20);

/// How it went.
enum Ended {
    /// The program has ended by itself; the lease is released.
    Itself(ExitStatus),
    /// The lease was lost; the program was gone so long after the deadline.
    Lost { reason: LossReason, after_deadline: Duration },
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => show_both(),
        [device, program, rest @ ..] => {
            let device = Device::named(device)?;
            match supervise(&open(device.path())?, Command::new(program).args(rest), || {})? {
                Ended::Itself(status) if status.success() => Ok(()),
                Ended::Itself(status) => Err(status.to_string().into()),
                Ended::Lost { reason, .. } => Err(reason.into()),
            }
        }
        _ => Err("usage: supervisor [DEVICE COMMAND...]".into()),
    }
}

/// Runs the program under the lease; calls `started` when it runs.
fn supervise(lockspace: &Lockspace, program: &mut Command, started: impl FnOnce()) -> Result<Ended, Box<dyn Error>> {
    let membership = lockspace.join(JoinOptions::new())?;
    let resource = lockspace.find(RESOURCE)?;
    let lease = membership.acquire(&resource, Wait::For(lockspace.timeouts().dead() * 3))?;
    // A group of its own: what it starts is ended with it, unless it leaves the group.
    program.process_group(0).env("LEASEHOLD_VERSION", lease.version().to_string());
    let mut program = program.spawn()?;
    let protected = Protected::new(program.id()).scope(Scope::Group).on_step(|step| match step {
        Step::Warn => println!("the renewal is late"),
        Step::Terminate => println!("the program is asked to end"),
        Step::Kill => println!("the program is killed"),
    });
    let supervision = lease.supervise(protected).inspect_err(|_| drop(program.kill().and_then(|()| program.wait())))?;
    started();
    let mut deadline = BootClock.now();
    while !supervision.wait(TICK) {
        if let Status::Held { until } | Status::Late { until } = lease.status() {
            deadline = until;
        }
    }
    let after_deadline = BootClock.now().since(deadline);
    // Not before the supervision is over: until then its number, which is that of the group, can't be another's.
    let ended = program.wait()?;
    // After a loss nothing is written any more: the lease may be another host's.
    if let Status::Lost { reason } = lease.status() {
        return Ok(Ended::Lost { reason, after_deadline });
    }
    lease.release()?;
    membership.leave()?;
    Ok(Ended::Itself(ended))
}

fn show_both() -> Result<(), Box<dyn Error>> {
    let device = Device::new()?;

    let mut short = Command::new("sh");
    short.args(["-c", "echo the program runs with version $LEASEHOLD_VERSION"]);
    match supervise(&open(device.path())?, &mut short, || {})? {
        Ended::Itself(status) if status.success() => println!("it has ended, and the lease is released"),
        _ => return Err("the program has not ended by itself".into()),
    }

    let mut stubborn = Command::new("sh");
    stubborn.args(["-c", "trap '' TERM; sleep 30"]);
    let (lockspace, path) = with_faults(device.path())?;
    let hang = || {
        println!("a program runs that won't end, and the storage stops answering");
        path.set_rule(|request| if request.is_write() { Plan::Hold } else { Plan::Pass });
    };
    let fence = lockspace.timeouts().fence();
    let ended = supervise(&lockspace, &mut stubborn, hang)?;
    path.clear_rule();
    path.release();
    match ended {
        Ended::Lost { reason, after_deadline } if after_deadline < fence => {
            println!("lost: {reason}");
            println!("the program was gone {after_deadline:.0?} after the deadline, of {fence:?} that it has");
            Ok(())
        }
        Ended::Lost { after_deadline, .. } => Err(format!("gone only after {after_deadline:?}").into()),
        Ended::Itself(_) => Err("the lease was not lost".into()),
    }
}

/// The device, on a path that can be made to fail.
fn with_faults(path: &Path) -> Result<(Lockspace, Arc<FaultDisk>), Box<dyn Error>> {
    let disk = Arc::new(FaultDisk::new(Arc::new(DirectDisk::open(path, Access::ReadWrite)?)));
    Ok((Lockspace::open(disk.clone())?, disk))
}
