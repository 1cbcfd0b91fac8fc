//! Being a host of the lockspace for as long as one piece of work takes.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use leasehold::{HostId, JoinOptions, Lockspace, Membership, Status};
use rustix::process::Signal;

use crate::args::host_id;
use crate::failure::{Failure, IO};
use crate::output::tell;

/// As whom to join.
#[derive(Debug, Args)]
pub(crate) struct Identity {
    /// Host id to join with [default: chosen automatically]
    #[arg(long, value_name = "N", value_parser = host_id)]
    pub(crate) host_id: Option<HostId>,
    /// Name under which other hosts see this one [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) host_name: Option<String>,
}

/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(10);

/// Joins, does the work, and leaves. A signal that would end this process ends waits, so that the host id is given back.
pub(crate) fn with_membership(
    lockspace: &Lockspace,
    identity: &Identity,
    work: impl FnOnce(&Membership, &Interrupted) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let interrupted = Interrupted::listen()?;
    let mut options = JoinOptions::new();
    if let Some(host) = identity.host_id {
        options = options.host_id(host);
    }
    if let Some(name) = &identity.host_name {
        options = options.host_name(name);
    }
    let joining = lockspace.start_join(options)?;
    if let Some(code) = interrupted.wait(|| joining.is_done()) {
        return Ok(code);
    }
    let membership = joining.wait()?;
    let result = work(&membership, &interrupted);
    if !matches!(membership.status(), Status::Lost { .. })
        && let Err(error) = membership.leave()
    {
        tell(format_args!("the host id was not given back: {error}"));
    }
    result
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

    /// Waits until `done`; the exit code when a signal comes first.
    pub(crate) fn wait(&self, mut done: impl FnMut() -> bool) -> Option<ExitCode> {
        while !done() {
            if let Some(code) = self.exit_code() {
                return Some(code);
            }
            thread::sleep(TICK);
        }
        None
    }

    /// Sleeps; the exit code when a signal comes first.
    pub(crate) fn sleep(&self, span: Duration) -> Option<ExitCode> {
        let started = Instant::now();
        self.wait(|| started.elapsed() >= span)
    }

    fn exit_code(&self) -> Option<ExitCode> {
        let signal = self.0.load(Ordering::Relaxed);
        (signal != 0).then(|| ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)))
    }
}
