//! The thread that ends a program when its lease ends.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::ladder::{Escalation, Ladder, Step};
use super::scope::{Scope, Target};
use crate::disk::Process;
use crate::engine::member::{LostOnPanic, Member};
use crate::engine::pulse::{LONGEST_WAIT, Standing, Subject};
use crate::error::LossReason;

/// What the program left behind has this long between SIGTERM and SIGKILL.
const LEFTOVER_GRACE: Duration = Duration::from_millis(200);
/// How often SIGKILL is sent again, and the end looked for.
const KILL_PAUSE: Duration = Duration::from_millis(10);

/// A program to be ended when its lease ends.
pub struct Protected {
    pid: u32,
    scope: Scope,
    ladder: Option<Ladder>,
    tell: Option<Box<dyn Fn(Step) + Send>>,
}

impl fmt::Debug for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protected")
            .field("pid", &self.pid)
            .field("scope", &self.scope)
            .field("ladder", &self.ladder)
            .finish_non_exhaustive()
    }
}

impl Protected {
    /// The process with this id, alone: a child of this process that was not waited for, or one that the caller knows
    /// to live until the call that supervises it returns. From then on the number doesn't matter.
    pub fn new(pid: u32) -> Protected {
        Protected { pid, scope: Scope::Process, ladder: None, tell: None }
    }

    /// What ends together with it.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Protected {
        self.scope = scope;
        self
    }

    /// Other steps than those of [`Membership::ladder`](crate::Membership::ladder).
    #[must_use]
    pub fn ladder(mut self, ladder: Ladder) -> Protected {
        self.ladder = Some(ladder);
        self
    }

    /// Calls `tell` with each step that is taken, from a thread of its own: one that is slow holds up no step.
    #[must_use]
    pub fn on_step(mut self, tell: impl Fn(Step) + Send + 'static) -> Protected {
        self.tell = Some(Box::new(tell));
        self
    }
}

/// Why a program can't be supervised. Nothing was done to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperviseError {
    /// The lease, or the membership, is lost: the program must not go on.
    #[error("what the program depends on is lost")]
    Lost(#[source] LossReason),
    /// There is no such process, or it has ended and was waited for.
    #[error("there is no process {pid}")]
    NotFound {
        /// Its number.
        pid: u32,
    },
    /// It is this process itself: [`SelfKill`](crate::SelfKill) is for that.
    #[error("a process can't supervise itself")]
    OwnProcess,
    /// It leads no process group.
    #[error("process {pid} leads no process group")]
    NotALeader {
        /// Its number.
        pid: u32,
    },
    /// The folder is no cgroup of version 2 that this user may end, or the kernel is older than 5.14.
    #[error("{} is no cgroup whose processes can be killed", .folder.display())]
    NotACgroup {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process is in another cgroup.
    #[error("process {pid} is not in the cgroup {}", .folder.display())]
    NotInCgroup {
        /// Its number.
        pid: u32,
        /// The folder.
        folder: PathBuf,
    },
    /// This process is in that cgroup and would end with it.
    #[error("this process is itself in the cgroup {}", .folder.display())]
    OwnCgroup {
        /// The folder.
        folder: PathBuf,
    },
    /// The system refused what it takes: a descriptor, a thread.
    #[error("{what}")]
    System {
        /// What was refused.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A program that is supervised: the steps of its [`Ladder`] are taken when its lease, or the membership, ends,
/// whatever else this process does. When the program ends by itself, what it left in its scope is ended too.
///
/// Dropping it changes nothing of that; [`Supervision::stop`] does. It neither releases leases nor waits for the
/// process (`waitpid`): that is its parent's to do.
///
/// A child made by `fork` supervises nothing: what it asks for is not done, and it is told of no step and no end.
#[derive(Debug)]
pub struct Supervision {
    shared: Arc<Shared>,
    process: Process,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the thread.
    wake: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    reached: Option<Step>,
    gone: bool,
    stop: bool,
    /// The caller wants it ended, and killed after so long.
    end: Option<Duration>,
}

impl Supervision {
    pub(crate) fn start(
        member: &Arc<Member>,
        subject: Subject,
        program: Protected,
    ) -> Result<Supervision, SuperviseError> {
        let Standing { until, loss } = member.pulse.standing(subject);
        if let Some((_, reason)) = loss {
            return Err(SuperviseError::Lost(reason));
        }
        let refused = |what: &'static str| move |source: io::Error| SuperviseError::System { what, source };
        let target = Target::find(program.pid, program.scope)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.map_err(|errno| refused("no descriptor to be woken by")(errno.into()))?);
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wake: wake.clone() });
        let told = match program.tell {
            Some(tell) => Some(spawn_teller(tell).map_err(refused("the thread that tells could not be started"))?),
            None => None,
        };
        member.pulse.wake_by(&wake);
        let ladder = program.ladder.unwrap_or_else(|| member.ladder());
        let climber = Climber { member: member.clone(), subject, target, ladder, shared: shared.clone(), told };
        thread::Builder::new()
            .name("leasehold-super".into())
            .spawn(move || climber.run(Escalation::new(ladder.deadlines(until))))
            .map_err(refused("the supervising thread could not be started"))?;
        Ok(Supervision { shared, process: Process::this() })
    }

    /// Ends the program though the lease is held: it is asked to at once, and killed after `grace`, or when the lease
    /// says so.
    pub fn end(&self, grace: Duration) {
        if !self.process.is_parent() {
            self.shared.state.lock().end.get_or_insert(grace);
            wake(&self.shared.wake);
        }
    }

    /// Waits until the program and all of its scope have ended, at most `timeout`. True when they have: nothing of it
    /// depends on the lease any more.
    pub fn wait(&self, timeout: Duration) -> bool {
        if self.process.is_parent() {
            return false;
        }
        let start = Instant::now();
        let mut state = self.shared.state.lock();
        while !state.gone {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            self.shared.changed.wait_for(&mut state, left);
        }
        true
    }

    /// The last step that was taken. `None` while nothing is wrong, and when the program ended by itself and left
    /// nothing. After `Kill` and as long as [`Supervision::wait`] is false, something is left that SIGKILL doesn't end:
    /// it sleeps uninterruptibly, or is another user's.
    pub fn reached(&self) -> Option<Step> {
        if self.process.is_parent() { None } else { self.shared.state.lock().reached }
    }

    /// Ends the supervision and leaves the program as it is: the caller vouches that it no longer depends on the lease.
    pub fn stop(self) {
        if !self.process.is_parent() {
            self.shared.state.lock().stop = true;
            wake(&self.shared.wake);
        }
    }
}

/// Wakes who waits for this descriptor.
pub(crate) fn wake(descriptor: &OwnedFd) {
    // It is full when nobody has looked for 2^64 wakes: then it is readable, too.
    let _ = rustix::io::write(descriptor, &1u64.to_ne_bytes());
}

fn spawn_teller(tell: Box<dyn Fn(Step) + Send>) -> io::Result<Sender<Step>> {
    let (sender, steps) = channel();
    thread::Builder::new().name("leasehold-tell".into()).spawn(move || steps.into_iter().for_each(tell))?;
    Ok(sender)
}

struct Climber {
    member: Arc<Member>,
    subject: Subject,
    target: Target,
    ladder: Ladder,
    shared: Arc<Shared>,
    told: Option<Sender<Step>>,
}

impl Climber {
    fn run(&self, mut escalation: Escalation) {
        let _guard = LostOnPanic(&self.member.pulse);
        while !self.shared.state.lock().stop {
            let now = self.member.io.now();
            let Standing { until, loss } = self.member.pulse.standing(self.subject);
            escalation.extend(self.ladder.deadlines(until));
            // Not from now on: a lease that was lost alone is given back G after its loss.
            if let Some((since, _)) = loss {
                escalation.end(now, since + self.ladder.grace());
            }
            if let Some(grace) = self.shared.state.lock().end.take() {
                escalation.end(now, now + grace);
            }
            let ended = self.target.has_ended();
            if ended {
                if self.target.is_gone() {
                    break;
                }
                escalation.end(now, now + LEFTOVER_GRACE);
            }
            if let Some(step) = escalation.due(now) {
                self.take(step);
            }
            if escalation.reached() == Some(Step::Kill) {
                // Again and again: a process may have come to the scope after the last time.
                self.target.kill();
            }
            let pause = if ended || escalation.next_at().is_none() { KILL_PAUSE } else { LONGEST_WAIT };
            self.pause(pause.min(escalation.next_at().map_or(pause, |next| next.since(now))), ended);
        }
        let mut state = self.shared.state.lock();
        state.gone = !state.stop;
        self.shared.changed.notify_all();
    }

    fn take(&self, step: Step) {
        if step == Step::Terminate {
            self.target.terminate();
        }
        self.shared.state.lock().reached = Some(step);
        if let Some(told) = &self.told {
            // A callback that has panicked is told nothing more.
            let _ = told.send(step);
        }
    }

    /// Waits for the end of the process, for news, or for as long as this.
    fn pause(&self, pause: Duration, ended: bool) {
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if !ended {
            fds.push(PollFd::new(self.target.process(), PollFlags::IN));
        }
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Timespec::try_from(pause).ok().as_ref());
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::disk::MemoryDisk;
    use crate::protocol::holding::Loss;
    use crate::{FormatOptions, JoinOptions, LeaseMode, Membership, Resource, Timeouts, Wait};

    /// Kills soon after it asks. The deadline is far.
    fn member() -> (Membership, Resource) {
        let [renewal, io, fail, fence, dead] = [100, 500, 50_000, 100, 50_100].map(Duration::from_millis);
        let timeouts = Timeouts::new(renewal, io, fail, fence, dead).expect("valid");
        let options = FormatOptions { timeouts, ..FormatOptions::default() };
        let disk = Arc::new(MemoryDisk::new(8 << 20, None));
        let membership = crate::format(disk, &options).expect("formatted").join(JoinOptions::new()).expect("joined");
        let resource = membership.create("demo", Wait::No).expect("created");
        (membership, resource)
    }

    /// A lease has another version before its holder knows of that, and the next one on the resource is not it.
    #[test]
    fn a_lease_is_the_same_one_after_conversions_and_no_other_is() {
        let (membership, resource) = member();
        let pulse = &membership.member.pulse;
        let lease = membership.acquire(&resource, Wait::No).expect("acquired");
        let began = pulse.subject(lease.key());
        lease.convert(LeaseMode::Shared, Wait::No).expect("shared");
        lease.convert(LeaseMode::Exclusive, Wait::No).expect("exclusive");
        let before = lease.key();
        lease.convert(LeaseMode::Shared, Wait::No).expect("shared");
        lease.convert(LeaseMode::Exclusive, Wait::No).expect("exclusive");
        let during = pulse.subject(before);
        assert!(before < lease.key());
        for subject in [began, during] {
            assert!(pulse.standing(subject).loss.is_none());
        }
        lease.release().expect("released");
        let next = membership.acquire(&resource, Wait::No).expect("acquired");
        for subject in [began, during] {
            assert!(pulse.standing(subject).loss.is_some(), "it was taken for the next one");
        }
        next.release().expect("released");
    }

    /// As one that did not run in between. With the steps counted from the moment at which it sees the loss, the engine
    /// would give the lease back while the program runs.
    #[test]
    fn a_supervisor_that_learns_late_of_the_loss_of_a_lease_kills_at_once() {
        let (membership, resource) = member();
        let lease = membership.acquire(&resource, Wait::No).expect("acquired");
        let mut child = Command::new("sleep").arg("1004").stdout(Stdio::null()).spawn().expect("a sleeper");
        let member = membership.member.clone();
        let key = lease.key();
        let (subject, ladder) = (member.pulse.subject(key), member.ladder());
        let escalation = Escalation::new(ladder.deadlines(member.pulse.standing(subject).until));
        member.pulse.with_machine(|machine| machine.lose_lease(key, Loss::Unverified));
        thread::sleep(ladder.grace());
        let (told, steps) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("a descriptor"));
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wake });
        let target = Target::find(child.id(), Scope::Process).expect("a child");
        Climber { member, subject, target, ladder, shared, told: Some(told) }.run(escalation);
        assert_eq!(steps.into_iter().collect::<Vec<_>>(), [Step::Kill]);
        child.wait().expect("a child");
    }
}
