//! The guard of `leasehold run`: a process of its own between the supervisor, which does the disk I/O, and the command.
//!
//! ```text
//! supervisor (leases, disk I/O) --socket--> guard (one thread, no disk, memory locked) --> command --> ...
//! ```
//!
//! The guard is the command's parent and the adopter of everything the command starts. It holds the deadline, and:
//! - climbs the [ladder](leasehold::Ladder): it asks all of it to end (SIGTERM) at the deadline and kills it later,
//!   unless the supervisor moved the deadline before; so a supervisor that is stopped or stuck can't let the command
//!   outlive the lease;
//! - kills all of it at once when the supervisor is gone;
//! - when the command ends by itself, ends what it left behind, and only then says "ended".
//!
//! If the guard dies, the kernel kills the command (parent-death signal), the rest becomes the supervisor's children,
//! and [`Guard::enforce`] kills them. What this can't do: when supervisor *and* guard are killed at the same moment,
//! the command dies with the guard, but what it started lives on. DESIGN.md names the means for that (watchdog, version
//! as fencing token). Nor can a guard that somebody stopped act, should the supervisor fail meanwhile.
//!
//! Both ends are this same program: [`guard_main`] and [`exec_main`] are hidden subcommands.
//! Needs Linux 5.4 or later (`pidfd_open`).

mod messages;
mod process;
mod signals;
mod stub;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leasehold::Deadlines;
use leasehold::disk::{BootClock, Clock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::descendants::{self, Outcome, Rest};
use messages::{Order, Report};

pub(crate) use process::guard_main;
pub(crate) use signals::{Received, Signals};
pub(crate) use stub::exec_main;

/// The hidden subcommand that runs [`guard_main`].
pub(crate) const GUARD_SUBCOMMAND: &str = "__guard";
/// The hidden subcommand that runs [`exec_main`].
pub(crate) const EXEC_SUBCOMMAND: &str = "__exec";

/// How long the start of the guard process may take. It reads the program from memory, so only a machine in deep
/// trouble needs this long, and then no lease should be taken on it.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a dropped `Guard` waits for the last descendant, and one that has nothing more to do for the guard process.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// What the guard says.
#[derive(Debug)]
pub(crate) enum GuardEvent {
    /// The command runs.
    Started,
    /// The command could not be started. Nothing is left of it.
    SpawnFailed {
        /// Why.
        error: io::Error,
        /// No such program (by convention exit code 127), else it can't be executed (126).
        not_found: bool,
    },
    /// The deadline had passed before the command could be started. Nothing was started.
    Expired,
    /// The command and everything it started is gone.
    Ended {
        /// How the command itself ended.
        status: Outcome,
        /// The deadline came while the command ran.
        by_deadline: bool,
        /// [`Guard::terminate`] came while the command ran.
        by_loss: bool,
    },
    /// Some processes are still there a while after SIGKILL (uninterruptible sleep, or not ours to kill). The guard
    /// goes on trying; the lease must not be released before `Ended`.
    Stuck {
        /// Their process ids, at most [`messages::MAX_STUCK`] of them. Empty when `/proc` hides them.
        pids: Vec<i32>,
    },
    /// The guard process is gone. Unless `Ended`, `SpawnFailed` or `Expired` came before, that is a failure: call
    /// [`Guard::enforce`].
    Gone,
}

/// The supervisor's end. Threads may share it: one for the events, one for the signals, one for the renewals.
///
/// Dropping it kills the guard and every other descendant of this process, and waits for that for at most a second.
#[derive(Debug)]
pub(crate) struct Guard {
    socket: OwnedFd,
    /// [`Guard::enforce`] was called, so that dropping does nothing.
    finished: AtomicBool,
}

impl Guard {
    /// Starts the guard process, which is idle until [`Guard::launch`], and makes this process adopt orphaned
    /// descendants. Best called early, and from the main thread: when another thread starts the guard, a supervisor
    /// that is killed while a disk write hangs is noticed only by the deadline.
    ///
    /// # Errors
    /// A process or socket can't be made, or the guard could not set itself up (it says why on standard error).
    pub(crate) fn start() -> io::Result<Guard> {
        descendants::adopt()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, guard_end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // The guard gets its end as standard input, the only way to pass a descriptor on that needs neither unsafe
        // code nor a moment in which another child could inherit it.
        Command::new("/proc/self/exe").arg0("leasehold").arg(GUARD_SUBCOMMAND).stdin(guard_end).spawn()?;
        let guard = Guard { socket, finished: AtomicBool::new(false) };
        match guard.next_report(START_PATIENCE)? {
            Some(Report::Ready) => Ok(guard),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer of the guard process")),
            None => Err(io::Error::new(io::ErrorKind::TimedOut, "the guard process does not start")),
        }
    }

    /// Has the guard start the command, with this process's standard streams and folder, and its environment plus
    /// `env`. All of it gets SIGTERM (and SIGCONT) and SIGKILL when `deadlines` says so. Returns before it runs: the
    /// answer is `Started`, `SpawnFailed` or `Expired`. To be called once.
    ///
    /// # Errors
    /// No command, a zero byte in a word, or the guard is gone or stuck. Nothing was started.
    pub(crate) fn launch(
        &self,
        command: &[OsString],
        env: &[(String, String)],
        deadlines: Deadlines,
    ) -> io::Result<()> {
        let mut text = Vec::new();
        let env = env.iter().map(|(name, value)| OsString::from(format!("{name}={value}")));
        for word in command.iter().cloned().chain(env) {
            if word.as_bytes().contains(&0) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a word of the command has a zero byte"));
            }
            text.extend_from_slice(word.as_bytes());
            text.push(0);
        }
        if command.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command"));
        }
        // A command line may be longer than a datagram.
        let mut words = File::from(memfd_create("command", MemfdFlags::CLOEXEC)?);
        words.write_all(&text)?;
        words.rewind()?;
        let stdin = io::stdin();
        messages::send_with_fds(
            &self.socket,
            &Order::Launch { deadlines, arguments: command.len() as u64 }.encode(),
            &[std::os::fd::AsFd::as_fd(&stdin), std::os::fd::AsFd::as_fd(&words)],
        )
    }

    /// Moves the deadline. Ignored once the command was asked to end. Never blocks.
    ///
    /// # Errors
    /// The guard is gone, or has not read for so long that the socket is full: then the old deadline may stand.
    pub(crate) fn extend(&self, deadlines: Deadlines) -> io::Result<()> {
        messages::send(&self.socket, &Order::Extend(deadlines).encode())
    }

    /// Passes a signal on to the command, and to it alone. Nothing happens when it has ended. Never blocks.
    ///
    /// # Errors
    /// As for [`Guard::extend`].
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        messages::send(&self.socket, &Order::Signal(signal).encode())
    }

    /// Asks all of it to end: SIGTERM, and it may take its time, up to the deadline, which can still be moved. Nothing
    /// happens before the launch. Never blocks.
    ///
    /// # Errors
    /// As for [`Guard::extend`].
    pub(crate) fn ask_to_end(&self) -> io::Result<()> {
        messages::send(&self.socket, &Order::AskToEnd.encode())
    }

    /// The lease is lost: SIGTERM now to all of it, SIGKILL after `grace`, or at the deadline if that is earlier.
    /// Never blocks. A guard that can't be told keeps to the deadline.
    pub(crate) fn terminate(&self, grace: Duration) {
        let kill_at = BootClock.now() + grace;
        let _ = messages::send(&self.socket, &Order::Terminate { kill_at }.encode());
    }

    /// Waits for the next event, at most for `timeout`; `None` then. After `Ended`, `SpawnFailed` or `Expired`, with
    /// which the guard process has ended too, only `Gone` follows.
    pub(crate) fn next_event(&self, timeout: Duration) -> Option<GuardEvent> {
        let event = match self.next_report(timeout) {
            Ok(None) => return None,
            // The guard says that only once, in answer to `start`.
            Ok(Some(Report::Ready)) => return None,
            Ok(Some(Report::Started)) => GuardEvent::Started,
            Ok(Some(Report::SpawnFailed { errno })) => {
                let error = io::Error::from_raw_os_error(errno);
                let not_found = error.kind() == io::ErrorKind::NotFound;
                GuardEvent::SpawnFailed { error, not_found }
            }
            Ok(Some(Report::Expired)) => GuardEvent::Expired,
            Ok(Some(Report::Ended { status, by_deadline, by_loss })) => {
                GuardEvent::Ended { status, by_deadline, by_loss }
            }
            Ok(Some(Report::Stuck { pids })) => GuardEvent::Stuck { pids },
            Err(_) => GuardEvent::Gone,
        };
        if matches!(event, GuardEvent::Ended { .. } | GuardEvent::SpawnFailed { .. } | GuardEvent::Expired) {
            // Only the guard is left, and about to exit.
            self.enforce(END_PATIENCE);
        }
        Some(event)
    }

    fn next_report(&self, timeout: Duration) -> io::Result<Option<Report>> {
        let start = Instant::now();
        loop {
            match messages::receive(&self.socket)? {
                Some(bytes) => {
                    let report = Report::decode(&bytes)
                        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown answer of the guard"))?;
                    return Ok(Some(report));
                }
                None => {
                    let left = timeout.saturating_sub(start.elapsed());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    let left = Timespec::try_from(left).ok();
                    match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], left.as_ref()) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    /// The last resort, when the guard is gone or has not said `Ended` by `kill_at`: kills the guard and every other
    /// descendant of this process, until none is left or `patience` is over.
    pub(crate) fn enforce(&self, patience: Duration) -> Rest {
        self.finished.store(true, Ordering::Relaxed);
        descendants::kill_all(patience)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) {
            descendants::kill_all(END_PATIENCE);
        }
    }
}
