//! Finding and killing every descendant of this process.
//!
//! This works only in a process that called [`adopt`]: then a descendant whose parent dies becomes a child of this
//! process instead of init's, so that neither a double fork nor `setsid` leads out of the tree, and "no child is left"
//! means "no descendant is left". That is what the kernel answers to `waitpid`, without a race.
//!
//! The tree is read from `/proc/*/stat`, in the order of the process ids, and each descendant gets its signal as soon
//! as it is read. A process that has SIGKILL pending can't fork, so what escapes one sweep was forked by somebody the
//! sweep had not reached yet, and the next sweep finds it. New processes get higher numbers, so the sweep follows a
//! process that keeps forking and exiting.
//!
//! What stays out of reach: a descendant that this user may not signal (it ran a set-user-id program), and one with a
//! thread in an uninterruptible sleep, which dies when its sleep ends. That such are left the kernel says, too; which
//! they are [`living`] reports, as far as `/proc` shows it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper, wait,
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Outcome {
    /// As a shell gives it.
    pub(crate) fn exit_code(self) -> ExitCode {
        let code = match self {
            Outcome::Code(code) => code,
            Outcome::Signal(signal) => 128 + signal,
        };
        ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Code(code) => write!(f, "exit code {code}"),
            Outcome::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// From now on, orphaned descendants become children of this process.
pub(crate) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// What `/proc/PID/stat` says of a process.
pub(crate) struct Stat {
    pub(crate) parent: i32,
    /// Its first thread runs. Others may run without it.
    pub(crate) first_alive: bool,
    /// Any thread of it runs.
    pub(crate) alive: bool,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    // Longer than the fields up to the number of threads can be: the command's name has at most 64 bytes.
    let mut buffer = [0; 512];
    let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut buffer)).ok()?;
    Stat::parse(&buffer[..length])
}

impl Stat {
    fn parse(text: &[u8]) -> Option<Stat> {
        // The name is in parentheses and may itself have any byte.
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace();
        let first_alive = !matches!(fields.next()?, "Z" | "X" | "x");
        let parent = fields.next()?.parse().ok()?;
        // How many threads there are is the seventeenth field after the state.
        let alive = first_alive || !matches!(fields.nth(15)?, "0" | "1");
        Some(Stat { parent, first_alive, alive })
    }
}

/// Whether a process is this one or was started by it, or by what it started. `None`: it has ended, or can't be seen.
///
/// A process could pass for another one only by ending, and having its number given away, while this looks.
pub(crate) fn descends(mut pid: i32) -> Option<bool> {
    let own = getpid().as_raw_nonzero().get();
    while pid != own {
        // The first process of all, or of this namespace, has none.
        match stat(pid)?.parent {
            0 => return Some(false),
            parent => pid = parent,
        }
    }
    Some(true)
}

/// Calls `found` for each descendant, parents mostly before children, while it reads the list of processes.
fn for_each(mut found: impl FnMut(i32, &Stat, &BTreeSet<i32>)) -> io::Result<()> {
    let mut family = BTreeSet::from([getpid().as_raw_nonzero().get()]);
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(stat) = stat(pid) else { continue };
        if family.contains(&stat.parent) && family.insert(pid) {
            found(pid, &stat, &family);
        }
    }
    Ok(())
}

/// Sends the signals, in their order, to each descendant that one look at the list of processes finds.
///
/// # Errors
/// `/proc` can't be read.
pub(crate) fn signal(signals: &[Signal]) -> io::Result<()> {
    for_each(|pid, _, family| {
        // The number may already belong to somebody else. So: get hold of whatever process has it now, look whether
        // that number is still in the family, and only then use the hold.
        let Some(handle) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
        if stat(pid).is_some_and(|stat| family.contains(&stat.parent)) {
            for signal in signals {
                // It has ended, or is not ours to signal; `living` reports the latter.
                let _ = pidfd_send_signal(&handle, *signal);
            }
        }
    })
}

/// The descendants that one look at the list of processes finds, without those of which no thread runs. For reports:
/// that it finds none does not mean that none is left, as `/proc` may be hidden, or this process can open no file more.
pub(crate) fn living() -> Vec<i32> {
    let mut pids = Vec::new();
    let read = for_each(|pid, stat, _| {
        if stat.alive {
            pids.push(pid);
        }
    });
    if read.is_err() {
        pids.clear();
    }
    pids
}

/// Takes in every child that has ended. True when no child is left, and so no descendant.
pub(crate) fn reap(mut ended: impl FnMut(i32, Outcome)) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let outcome = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Outcome::Code(code),
                    (None, Some(signal)) => Outcome::Signal(signal),
                    (None, None) => continue,
                };
                ended(pid.as_raw_nonzero().get(), outcome);
            }
            Ok(None) => return false,
            Err(rustix::io::Errno::INTR) => {}
            // ECHILD; nothing else can go wrong.
            Err(_) => return true,
        }
    }
}

/// What is left after all descendants were killed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing, by the word of the kernel.
    Gone,
    /// Something. These are the processes that can be seen: perhaps none.
    Left(Vec<i32>),
}

/// Kills all descendants, again and again until none is left or `patience` is over.
pub(crate) fn kill_all(patience: Duration) -> Rest {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if reap(|_, _| {}) {
            return Rest::Gone;
        }
        // Without /proc there is nobody to find; the patience ends that.
        let _ = signal(&[Signal::KILL]);
        if reap(|_, _| {}) {
            return Rest::Gone;
        }
        if start.elapsed() >= patience {
            return Rest::Left(living());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_runs_as_long_as_any_thread_of_it() {
        let text = |name: &[u8], state: &str, threads: u32| {
            let rest =
                format!(") {state} 11750 11745 28955 0 -1 4227084 96 0 0 0 0 0 0 0 20 0 {threads} 0 3564322 0\n");
            [b"11752 (", name, rest.as_bytes()].concat()
        };
        for (state, threads, first_alive, alive) in [
            ("S", 1, true, true),
            ("D", 2, true, true),
            ("Z", 1, false, false),
            ("Z", 2, false, true),
            ("Z", 12, false, true),
            ("X", 0, false, false),
        ] {
            for name in [&b"sleep"[..], b"a) Z 1 (b", b"\xff"] {
                let stat = Stat::parse(&text(name, state, threads));
                let read = stat.map(|stat| (stat.parent, stat.first_alive, stat.alive));
                assert_eq!(read, Some((11750, first_alive, alive)), "{state} {threads}");
            }
        }
    }
}
