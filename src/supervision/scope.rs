//! What is ended together with a process, and how nothing of it escapes. No process is ever signalled by a number that
//! could have become another's.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open, pidfd_send_signal};

use super::cgroup::Cgroup;
use super::{SuperviseError, group};

/// What ends together with a supervised process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// The process alone.
    Process,
    /// The process group that it leads. A process that leaves the group (`setsid`) escapes. The process must not be
    /// reaped before its supervision is over: what is left of the group can't be told from a new one then, and is left
    /// alone. Nor is anything waited for that `/proc` hides from this process (`hidepid`).
    Group,
    /// The cgroup of version 2 with this folder, and all below it. Nothing escapes that has no right to move itself.
    /// The process must be in it, and this process must not. Needs Linux 5.14 (`cgroup.kill`).
    Cgroup(PathBuf),
}

/// A process and its scope.
#[derive(Debug)]
pub(super) struct Target {
    pid: Pid,
    process: OwnedFd,
    reach: Reach,
}

/// A [`Scope`] that is held.
#[derive(Debug)]
enum Reach {
    Process,
    Group,
    Cgroup(Cgroup),
}

/// A stopped process acts on SIGTERM only when it goes on.
const ASK: [Signal; 2] = [Signal::TERM, Signal::CONT];

impl Target {
    pub(super) fn find(pid: u32, scope: Scope) -> Result<Target, SuperviseError> {
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(SuperviseError::NotFound { pid })?;
        let process = pidfd_open(id, PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::SRCH => SuperviseError::NotFound { pid },
            errno => SuperviseError::System { what: "the process can't be watched", source: errno.into() },
        })?;
        if id == getpid() {
            return Err(SuperviseError::OwnProcess);
        }
        let reach = match scope {
            Scope::Process => Reach::Process,
            Scope::Group => {
                let what = "the group of the process can't be known";
                let leads = group::is_led_by(id).map_err(|source| SuperviseError::System { what, source })?;
                if !leads {
                    return Err(SuperviseError::NotALeader { pid });
                }
                Reach::Group
            }
            Scope::Cgroup(folder) => {
                let failed = |source| SuperviseError::NotACgroup { folder: folder.clone(), source };
                let cgroup = Cgroup::open(&folder).map_err(failed)?;
                let members = cgroup.members().map_err(failed)?;
                if members.contains(&getpid()) {
                    return Err(SuperviseError::OwnCgroup { folder });
                }
                if !members.contains(&id) {
                    return Err(SuperviseError::NotInCgroup { pid, folder });
                }
                Reach::Cgroup(cgroup)
            }
        };
        Ok(Target { pid: id, process, reach })
    }

    /// Readable once the process has ended.
    pub(super) const fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Whether the process itself has ended.
    pub(super) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.process, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// Whether it is certain that all of it has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.has_ended()
            && match &self.reach {
                Reach::Process => true,
                Reach::Group => self.is_reaped() == Some(true) || group::has_ended(self.pid),
                Reach::Cgroup(cgroup) => cgroup.is_empty(),
            }
    }

    /// Asks all of it to end. Who has ended, or is not this user's to signal, is left out.
    pub(super) fn terminate(&self) {
        match &self.reach {
            Reach::Process => send(&self.process, &ASK),
            Reach::Group => ASK.into_iter().for_each(|signal| self.signal_group(signal)),
            Reach::Cgroup(cgroup) => {
                for pid in cgroup.members().unwrap_or_default() {
                    // The number may belong to somebody else by now: get hold of whoever has it, look again, and only
                    // then use the hold.
                    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
                    if cgroup.members().is_ok_and(|members| members.contains(&pid)) {
                        send(&process, &ASK);
                    }
                }
            }
        }
    }

    /// Kills all of it.
    pub(super) fn kill(&self) {
        match &self.reach {
            Reach::Process => {}
            Reach::Group => self.signal_group(Signal::KILL),
            Reach::Cgroup(cgroup) => {
                // One that can't be written is tried again; the process itself is killed in any case.
                let _ = cgroup.kill();
            }
        }
        send(&self.process, &[Signal::KILL]);
    }

    /// To every process that is in the group at that moment. As long as the leader was not reaped its number is nobody
    /// else's.
    fn signal_group(&self, signal: Signal) {
        if self.is_reaped() == Some(false) {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Whether somebody has waited for the process, so that its number is free. `None`: that can't be known now.
    fn is_reaped(&self) -> Option<bool> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.process.as_raw_fd())).ok()?;
        let pid: i32 = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())?;
        Some(pid != self.pid.as_raw_nonzero().get())
    }
}

fn send(process: &OwnedFd, signals: &[Signal]) {
    for signal in signals {
        let _ = pidfd_send_signal(process, *signal);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that leads a group with a sleeper in it, whose end closes the standard output.
    fn group() -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 1004 & echo; wait"]).process_group(0).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = shell.spawn().expect("a shell");
        let out = child.stdout.as_mut().expect("piped");
        io::Read::read_exact(out, &mut [0]).expect("started");
        child
    }

    /// A shell that leads a group in which another one, with a name that is no text, lives as long as its input does.
    fn nameless_group() -> Child {
        let mut shell = Command::new("sh");
        let script = "exec 3<&0; (printf '\\377' > /proc/self/comm; echo; read end <&3) & wait";
        shell.args(["-c", script]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().expect("a shell");
        io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut [0]).expect("started");
        child
    }

    fn sleeper_of(group: &Child) -> Option<Pid> {
        let group = group.id().to_string();
        fs::read_dir("/proc").expect("/proc").flatten().find_map(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            let (name, rest) = stat.rsplit_once(") ")?;
            let mut fields = rest.split(' ');
            let sleeps = name.ends_with("(sleep") && !matches!(fields.next(), Some("Z"));
            (sleeps && fields.nth(1) == Some(&group)).then(|| Pid::from_raw(name.split(' ').next()?.parse().ok()?))?
        })
    }

    #[test]
    fn a_group_whose_leader_was_waited_for_is_left_alone() {
        let mut child = group();
        let target = Target::find(child.id(), Scope::Group).expect("it leads its group");
        // The shell that is to become it may not have yet.
        let sleeper = loop {
            if let Some(sleeper) = sleeper_of(&child) {
                break sleeper;
            }
            std::thread::yield_now();
        };
        assert_eq!(target.is_reaped(), Some(false));
        child.kill().expect("alive");
        child.wait().expect("a child");
        assert_eq!(target.is_reaped(), Some(true));
        target.terminate();
        target.kill();
        assert!(target.is_gone());
        // What was sent to it would have come by now: signals to it are acted on in their order.
        rustix::process::kill_process(sleeper, Signal::CONT)
            .expect("it was killed with a number that may be another's");
        assert_eq!(sleeper_of(&child), Some(sleeper));
        rustix::process::kill_process(sleeper, Signal::KILL).expect("alive");
    }

    #[test]
    fn a_group_is_gone_when_all_of_it_is() {
        let mut child = group();
        let target = Target::find(child.id(), Scope::Group).expect("it leads its group");
        pidfd_send_signal(target.process(), Signal::KILL).expect("alive");
        while !target.has_ended() {
            std::thread::yield_now();
        }
        assert!(!target.is_gone(), "the sleeper lives");
        target.kill();
        // Ends when nobody has it open any more.
        io::copy(child.stdout.as_mut().expect("piped"), &mut io::sink()).expect("read");
        while !target.is_gone() {
            std::thread::yield_now();
        }
        child.wait().expect("a child");
    }

    #[test]
    fn a_process_counts_whatever_its_name_is() {
        let mut child = nameless_group();
        let target = Target::find(child.id(), Scope::Group).expect("it leads its group");
        pidfd_send_signal(target.process(), Signal::KILL).expect("alive");
        while !target.has_ended() {
            std::thread::yield_now();
        }
        assert!(!target.is_gone(), "the nameless one lives");
        drop(child.stdin.take());
        io::copy(child.stdout.as_mut().expect("piped"), &mut io::sink()).expect("read");
        while !target.is_gone() {
            std::thread::yield_now();
        }
        child.wait().expect("a child");
    }
}
