//! Being a host of the lockspace for as long as one piece of work takes.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use leasehold::{HostId, JoinOptions, LeaveError, Lockspace, Membership, Status};
use rustix::process::Signal;

use crate::failure::{Failure, IO};
use crate::output::tell;
use crate::words::host_id;

/// As whom to join.
#[derive(Debug, Default, Args)]
pub(crate) struct Identity {
    /// Host id to join with [default: chosen automatically]. For one that was declared dead that is your word that
    /// nobody who held it writes any more
    #[arg(long, value_name = "N", value_parser = host_id)]
    pub(crate) host_id: Option<HostId>,
    /// Name under which other hosts see this one [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) host_name: Option<String>,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// On which machine to join.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Machine {
    /// Identity of this machine, which no other machine may say [default: by machine id and board UUID]
    #[arg(long = "machine", value_name = "ID", env = "LEASEHOLD_MACHINE", hide_env_values = true, value_parser = machine)]
    id: Option<String>,
}

fn machine(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("an empty identity says nothing") } else { Ok(text.into()) }
}

impl From<&Machine> for Identity {
    fn from(machine: &Machine) -> Identity {
        Identity { machine: machine.clone(), ..Identity::default() }
    }
}

impl Machine {
    pub(crate) fn options(&self) -> JoinOptions {
        match &self.id {
            Some(id) => JoinOptions::new().machine(id),
            None => JoinOptions::new(),
        }
    }
}

/// The folder in which what is seen of other hosts is kept for the next command, or `none`.
const REMEMBER: &str = "LEASEHOLD_REMEMBER";

impl Identity {
    pub(crate) fn options(&self) -> JoinOptions {
        let mut options = self.machine.options();
        if let Some(host) = self.host_id {
            options = options.host_id(host);
        }
        if let Some(name) = &self.host_name {
            options = options.host_name(name);
        }
        match std::env::var_os(REMEMBER) {
            Some(nothing) if nothing == "none" => options.remember_nothing(),
            Some(folder) if !folder.is_empty() => options.remember_in(folder),
            _ => options,
        }
    }
}

/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(10);

/// Joins, does the work, and leaves. A signal that would end this process calls the work off, so that the host id is
/// given back, and whatever is held for the work before it.
pub(crate) fn with_membership(
    lockspace: &Lockspace,
    identity: &Identity,
    work: impl FnOnce(&Membership, &Interrupted) -> Result<(), Failure> + Send,
) -> Result<ExitCode, Failure> {
    let interrupted = Interrupted::listen()?;
    let done = interrupted.with_membership(lockspace, identity.options(), |membership| work(membership, &interrupted));
    match interrupted.exit_code() {
        Some(code) => Ok(code),
        None => done.map(|_| ExitCode::SUCCESS),
    }
}

/// Calls work off that goes on beside this, by leaving: all that waits then ends with an error. Returns when the
/// membership is over, or the work has `ended`.
pub(crate) fn call_off(membership: &Membership, ended: impl Fn() -> bool) {
    while !ended() {
        match membership.leave() {
            // The work is about to release that, or goes on to acquire the next: that is to end, too.
            Err(LeaveError::LeasesHeld { .. }) => thread::sleep(TICK),
            left => return tell_left(left),
        }
    }
}

/// Gives the host id back, unless it is lost.
pub(crate) fn leave_and_tell(membership: &Membership) {
    if !matches!(membership.status(), Status::Lost { .. }) {
        tell_left(membership.leave());
    }
}

fn tell_left(left: Result<(), LeaveError>) {
    if let Err(error) = left {
        tell(format_args!("the host id was not given back: {error}"));
    }
}

/// A signal that would end this process, once it has come.
pub(crate) struct Interrupted(Arc<AtomicUsize>);

impl Interrupted {
    fn listen() -> Result<Interrupted, Failure> {
        let came = Arc::new(AtomicUsize::new(0));
        for signal in [Signal::HUP, Signal::INT, Signal::TERM].map(Signal::as_raw) {
            signal_hook::flag::register_usize(signal, came.clone(), signal.unsigned_abs() as usize)
                .map_err(|error| Failure::new(IO, format!("signals can't be caught: {error}")))?;
        }
        Ok(Interrupted(came))
    }

    /// Joins, does the work, and leaves. When a signal comes first it leaves at once, which ends all that waits with an
    /// error, and answers `None`.
    pub(crate) fn with_membership<T: Send>(
        &self,
        lockspace: &Lockspace,
        options: JoinOptions,
        work: impl FnOnce(&Membership) -> Result<T, Failure> + Send,
    ) -> Result<Option<T>, Failure> {
        let joining = lockspace.start_join(options)?;
        if !self.wait(|| joining.is_done()) {
            return Ok(None);
        }
        let membership = joining.wait()?;
        let done = thread::scope(|scope| {
            let working = scope.spawn(|| work(&membership));
            if !self.wait(|| working.is_finished()) {
                call_off(&membership, || working.is_finished());
            }
            working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        leave_and_tell(&membership);
        match self.exit_code() {
            Some(_) => Ok(None),
            None => done.map(Some),
        }
    }

    /// Waits until `done`; false when a signal comes first.
    fn wait(&self, mut done: impl FnMut() -> bool) -> bool {
        while !done() {
            if self.exit_code().is_some() {
                return false;
            }
            thread::sleep(TICK);
        }
        true
    }

    fn exit_code(&self) -> Option<ExitCode> {
        let signal = self.0.load(Ordering::Relaxed);
        (signal != 0).then(|| ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)))
    }
}
