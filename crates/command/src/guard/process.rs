//! The guard process itself: one thread that waits for orders, for the deadline and for the ends of processes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use leasehold::disk::{BootClock, Clock};
use leasehold::{Deadlines, Escalation, Step, Time};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::messages::{self, Order, Report};
use super::signals::Ignored;
use super::stub;
use crate::descendants::{self, Outcome};

/// How long what the command left behind has between SIGTERM and SIGKILL. The release of the lease waits for it, so it
/// is short beside a takeover (about a second in the fastest profile), yet long enough for a handler that only tidies
/// up. Who needs longer has the command wait for its children.
const LEFTOVER_GRACE: Duration = Duration::from_millis(200);
/// How long after the first SIGKILL processes that are still there are reported. SIGKILL takes effect within
/// milliseconds on a busy machine too, unless the process sleeps uninterruptibly.
const STUCK_AFTER: Duration = Duration::from_millis(500);
/// The longest pause between two sweeps of SIGKILL.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The hidden subcommand `__guard`: standard input is the socket to the supervisor.
#[allow(clippy::print_stderr, reason = "the supervisor may be gone, and this is its standard error too")]
pub(crate) fn guard_main() -> ExitCode {
    let watched = Watch::set_up().and_then(|mut watch| watch.run());
    match watched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::tell(format_args!("guard: {error}"));
            // A guard that can't watch must leave nothing that needs watching.
            descendants::kill_all(Duration::MAX);
            ExitCode::FAILURE
        }
    }
}

struct Watch {
    socket: OwnedFd,
    timer: OwnedFd,
    /// Readable when a child has ended or the supervisor's thread died.
    child_ended: UnixStream,
    supervisor: i32,
    supervisor_gone: bool,
    /// The command, once it was started.
    command: Option<Launched>,
}

struct Launched {
    /// The command's process id. While `status` is none the kernel can't give the number to anybody else.
    pid: i32,
    escalation: Escalation,
    /// Open until the stub has become the command, or failed to.
    stub: Option<UnixStream>,
    /// Why the stub could not become the command.
    failure: Option<i32>,
    /// How the command itself ended.
    status: Option<Outcome>,
    by_deadline: bool,
    by_loss: bool,
    /// When the first SIGKILL was sent.
    killed_at: Option<Time>,
    pause: Duration,
    stuck_reported: bool,
}

/// Whether the guard has more to do.
#[derive(PartialEq, Eq)]
enum Next {
    Wait,
    Exit,
}

impl Watch {
    fn set_up() -> io::Result<Watch> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let supervisor = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        rustix::thread::set_name(c"leasehold-guard")?;
        descendants::adopt()?;
        // Handlers that do nothing, not "ignore": the command is to get the defaults, which exec restores for the
        // former only. What was ignored from the start (nohup) stays so, for the command too.
        let ignored = Ignored::read()?;
        let unused = Arc::new(AtomicBool::new(false));
        for signal in [
            Signal::HUP,
            Signal::INT,
            Signal::QUIT,
            Signal::TERM,
            Signal::USR1,
            Signal::USR2,
            Signal::ALARM,
            Signal::TSTP,
            Signal::TTIN,
            Signal::TTOU,
        ] {
            if !ignored.contains(signal.as_raw()) {
                signal_hook::flag::register(signal.as_raw(), Arc::clone(&unused))?;
            }
        }
        let (child_ended, wake) = UnixStream::pair()?;
        child_ended.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), wake)?;
        // The socket closes only when the last thread of the supervisor is gone, and one that hangs in a disk write
        // stays. This comes when the thread that started the guard is gone; see `supervisor_is_dead`.
        set_parent_process_death_signal(Some(Signal::CHILD))?;
        // Fails now, not when it is needed, on a kernel without pidfds.
        rustix::process::pidfd_open(getpid(), rustix::process::PidfdFlags::empty())?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // So that a hung disk under the program file or the swap can't stop the guard. Best effort: it needs a
        // privilege or a limit that is large enough. Future mappings are left out: under a limit they would fail.
        let _ = mlockall(MlockAllFlags::CURRENT);
        messages::send(&socket, &Report::Ready.encode())?;
        Ok(Watch { socket, timer, child_ended, supervisor, supervisor_gone: false, command: None })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            if self.read_orders()? == Next::Exit || self.act()? == Next::Exit {
                return Ok(());
            }
            self.wait()?;
        }
    }

    fn read_orders(&mut self) -> io::Result<Next> {
        while !self.supervisor_gone {
            let (order, fds) = match messages::receive_with_fds(&self.socket) {
                Ok(Some((bytes, fds))) => (Order::decode(&bytes), fds),
                Ok(None) => break,
                Err(_) => {
                    self.supervisor_gone = true;
                    break;
                }
            };
            match (order, &mut self.command) {
                (Some(Order::Launch { deadlines, arguments }), None) => {
                    if self.launch(deadlines, arguments, fds)? == Next::Exit {
                        return Ok(Next::Exit);
                    }
                }
                (Some(Order::Extend(deadlines)), Some(command)) => command.escalation.extend(deadlines),
                (Some(Order::Signal(signal)), Some(command)) => command.signal(signal),
                (Some(Order::Terminate { kill_at }), Some(command)) => {
                    command.by_loss |= command.status.is_none();
                    command.escalation.end(BootClock.now(), kill_at);
                }
                (Some(Order::AskToEnd), Some(_)) => ask_to_end()?,
                // Too late, or before the launch: there is nothing to apply it to.
                (Some(_), _) => {}
                (None, _) => return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown order")),
            }
        }
        if self.supervisor_gone && self.command.is_none() { Ok(Next::Exit) } else { Ok(Next::Wait) }
    }

    /// Starts the command, or says why not.
    fn launch(&mut self, deadlines: Deadlines, arguments: u64, fds: Vec<OwnedFd>) -> io::Result<Next> {
        if BootClock.now() >= deadlines.terminate_at {
            self.report(&Report::Expired);
            return Ok(Next::Exit);
        }
        match Launched::start(deadlines, arguments, fds) {
            Ok(command) => {
                self.command = Some(command);
                Ok(Next::Wait)
            }
            Err(error) => {
                // A stub that could not be given its standard input may be left; it must not become the command.
                descendants::kill_all(Duration::MAX);
                let errno = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
                self.report(&Report::SpawnFailed { errno });
                Ok(Next::Exit)
            }
        }
    }

    /// Does all that is due now.
    fn act(&mut self) -> io::Result<Next> {
        let gone = self.supervisor_gone;
        let Some(command) = &mut self.command else { return Ok(Next::Wait) };
        let started = command.poll_stub()?;
        let mut all_gone = command.reap()?;
        // The stub's last word was there before its end was.
        let started = command.poll_stub()? || started;
        let now = BootClock.now();
        if gone {
            command.escalation.end(now, now);
        }
        if !all_gone {
            let step = command.escalation.due(now);
            if step >= Some(Step::Terminate) {
                command.by_deadline |= !gone && !command.by_loss && command.status.is_none();
            }
            if step == Some(Step::Terminate) {
                ask_to_end()?;
            }
            if command.escalation.reached() == Some(Step::Kill) {
                all_gone = command.kill(now)?;
            }
        }
        let stuck = !all_gone && command.newly_stuck(now);
        let end = all_gone.then(|| command.end());
        if started {
            self.report(&Report::Started);
        }
        if stuck {
            self.report(&Report::Stuck { pids: descendants::living() });
        }
        let Some(end) = end else { return Ok(Next::Wait) };
        self.report(&end);
        Ok(Next::Exit)
    }

    /// Tells the supervisor, if it is there to be told.
    fn report(&self, report: &Report) {
        let _ = messages::send(&self.socket, &report.encode());
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut pause = None;
        if let Some(command) = &self.command {
            if command.killed_at.is_some() {
                pause = Timespec::try_from(command.pause).ok();
            } else if let Some(due) = command.escalation.next_at().map(Time::as_nanos) {
                let it_value = Timespec {
                    tv_sec: (due / 1_000_000_000).cast_signed(),
                    // Zero would switch the timer off.
                    tv_nsec: (due % 1_000_000_000).max(1).cast_signed(),
                };
                let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
                timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
            }
        }
        let mut fds = vec![PollFd::new(&self.child_ended, PollFlags::IN)];
        if pause.is_none() {
            fds.push(PollFd::new(&self.timer, PollFlags::IN));
        }
        if !self.supervisor_gone {
            fds.push(PollFd::new(&self.socket, PollFlags::IN));
        }
        if let Some(stub) = self.command.as_ref().and_then(|command| command.stub.as_ref()) {
            fds.push(PollFd::new(stub, PollFlags::IN));
        }
        match poll(&mut fds, pause.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut woken = false;
        while matches!(self.child_ended.read(&mut [0; 64]), Ok(1..)) {
            woken = true;
        }
        if woken && !self.supervisor_gone {
            self.supervisor_gone = self.supervisor_is_dead();
        }
        Ok(())
    }

    /// The supervisor's main thread has ended: nobody will release the lease any more.
    fn supervisor_is_dead(&self) -> bool {
        descendants::stat(self.supervisor).is_none_or(|stat| !stat.first_alive)
    }
}

/// SIGTERM to all of it.
fn ask_to_end() -> io::Result<()> {
    // A stopped process acts on SIGTERM only when it goes on.
    descendants::signal(&[Signal::TERM, Signal::CONT])
}

impl Launched {
    fn start(deadlines: Deadlines, arguments: u64, fds: Vec<OwnedFd>) -> io::Result<Launched> {
        let [stdin, words] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| Errno::BADF)?;
        let mut text = Vec::new();
        File::from(words).read_to_end(&mut text)?;
        let mut words: Vec<OsString> = text
            .split_inclusive(|byte| *byte == 0)
            .map(|word| OsString::from_vec(word[..word.len() - 1].into()))
            .collect();
        let env = words.split_off(words.len().min(usize::try_from(arguments).unwrap_or(usize::MAX)));
        let (socket, stub_end) = UnixStream::pair()?;
        let mut stub = stub::command(getpid().as_raw_nonzero().get(), &words, stub_end);
        for variable in env {
            let mut name = variable.into_vec();
            let Some(equals) = name.iter().position(|byte| *byte == b'=') else { continue };
            let value = name.split_off(equals + 1);
            name.truncate(equals);
            stub.env(OsString::from_vec(name), OsString::from_vec(value));
        }
        let child = stub.spawn()?;
        // The stub's end must be open in the stub alone, else it never closes.
        drop(stub);
        stub::send_stdin(&socket, stdin)?;
        socket.set_nonblocking(true)?;
        Ok(Launched {
            pid: child.id().cast_signed(),
            escalation: Escalation::new(deadlines),
            stub: Some(socket),
            failure: None,
            status: None,
            by_deadline: false,
            by_loss: false,
            killed_at: None,
            pause: Duration::from_millis(1),
            stuck_reported: false,
        })
    }

    /// True when the stub has just become the command.
    fn poll_stub(&mut self) -> io::Result<bool> {
        let Some(stub) = &mut self.stub else { return Ok(false) };
        match stub::read_failure(stub) {
            Ok(failure) => {
                self.stub = None;
                self.failure = failure;
                Ok(failure.is_none())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes in what has ended; when that is the command itself, asks what it left behind to end. True when nothing is
    /// left.
    fn reap(&mut self) -> io::Result<bool> {
        let ran = self.status.is_none();
        let nothing_left = descendants::reap(|pid, outcome| {
            if pid == self.pid && self.status.is_none() {
                self.status = Some(outcome);
            }
        });
        if ran && self.status.is_some() && !nothing_left {
            let now = BootClock.now();
            self.escalation.end(now, now + LEFTOVER_GRACE);
        }
        Ok(nothing_left)
    }

    /// SIGKILL to all that is there now. True when nothing is left.
    fn kill(&mut self, now: Time) -> io::Result<bool> {
        if self.killed_at.is_none() {
            self.killed_at = Some(now);
            // Before the list of processes, which takes some milliseconds to read.
            self.signal(Signal::KILL.as_raw());
        } else {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        descendants::signal(&[Signal::KILL])?;
        self.reap()
    }

    /// Sends a signal to the command itself, if it has not ended.
    fn signal(&self, signal: i32) {
        if let (None, Some(pid), Some(signal)) = (self.status, Pid::from_raw(self.pid), Signal::from_named_raw(signal))
        {
            // It may run as another user by now; there is nothing to do about it.
            let _ = kill_process(pid, signal);
        }
    }

    fn newly_stuck(&mut self, now: Time) -> bool {
        let stuck = self.killed_at.is_some_and(|killed_at| now >= killed_at + STUCK_AFTER);
        stuck && !std::mem::replace(&mut self.stuck_reported, stuck)
    }

    fn end(&self) -> Report {
        match self.failure {
            Some(errno) => Report::SpawnFailed { errno },
            None => Report::Ended {
                // The kernel has no child left, so it has told how the command ended.
                status: self.status.unwrap_or(Outcome::Signal(Signal::KILL.as_raw())),
                by_deadline: self.by_deadline,
                by_loss: self.by_loss,
            },
        }
    }
}
