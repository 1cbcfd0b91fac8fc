//! Signals that reach the supervisor, and which of them the command still has to get.
//!
//! The command is in the supervisor's process group. What the terminal sends (^C, ^\, ^Z, hangup) the kernel delivers
//! to the whole group, so the command has it already; what another process sends to the supervisor alone has to be
//! passed on. (A process that signals the whole group can't be told apart from one that signals the supervisor: then
//! the command gets the signal twice.)

use std::io;

use rustix::process::Signal;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;

/// `si_code` of a signal that the kernel itself sent, which here is the terminal.
const SI_KERNEL: i32 = 0x80;

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Its number.
    pub(crate) signal: i32,
    /// What to send to the command, if it runs.
    pub(crate) pass_on: Option<i32>,
}

/// The signals that would otherwise end or stop the supervisor, as an endless, blocking iterator; meant for a thread.
pub(crate) struct Signals(SignalsInfo<WithRawSiginfo>);

impl Signals {
    /// Catches HUP, INT, QUIT, TERM, USR1, USR2, ALRM, CONT, TSTP, TTIN and TTOU, apart from those that this process
    /// was told to ignore when it was started (`nohup`, background jobs).
    ///
    /// # Errors
    /// A handler can't be installed.
    pub(crate) fn new() -> io::Result<Signals> {
        let caught = [
            Signal::HUP,
            Signal::INT,
            Signal::QUIT,
            Signal::TERM,
            Signal::USR1,
            Signal::USR2,
            Signal::ALARM,
            Signal::CONT,
            Signal::TSTP,
            Signal::TTIN,
            Signal::TTOU,
        ];
        let ignored = Ignored::read()?;
        let caught = caught.map(Signal::as_raw).into_iter().filter(|signal| !ignored.contains(*signal));
        Ok(Signals(SignalsInfo::new(caught)?))
    }
}

impl Iterator for Signals {
    type Item = Received;

    fn next(&mut self) -> Option<Received> {
        let info = self.0.forever().next()?;
        let from_terminal = info.si_code == SI_KERNEL;
        Some(Received { signal: info.si_signo, pass_on: pass_on(info.si_signo, from_terminal) })
    }
}

fn pass_on(signal: i32, from_terminal: bool) -> Option<i32> {
    let stops = [Signal::TSTP, Signal::TTIN, Signal::TTOU].map(Signal::as_raw).contains(&signal);
    match (from_terminal, stops) {
        // The terminal stopped the command, but a lease goes on running and can't be stopped.
        (true, true) if signal == Signal::TSTP.as_raw() => Some(Signal::CONT.as_raw()),
        (true, _) => None,
        (false, _) => Some(signal),
    }
}

/// The signals that this process ignores.
pub(super) struct Ignored(u64);

impl Ignored {
    /// Reads them from `/proc`: there is no safe call that asks without changing anything.
    pub(super) fn read() -> io::Result<Ignored> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.map(Ignored).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status has no SigIgn"))
    }

    pub(super) fn contains(&self, signal: i32) -> bool {
        (1..=64).contains(&signal) && self.0 >> (signal - 1) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_command_has_not_got_is_passed_on() {
        let [interrupt, term, stop, cont] = [Signal::INT, Signal::TERM, Signal::TSTP, Signal::CONT].map(Signal::as_raw);
        assert_eq!(pass_on(interrupt, true), None);
        assert_eq!(pass_on(interrupt, false), Some(interrupt));
        assert_eq!(pass_on(term, false), Some(term));
        assert_eq!(pass_on(stop, true), Some(cont));
        assert_eq!(pass_on(stop, false), Some(stop));
        assert_eq!(pass_on(cont, false), Some(cont));
        assert_eq!(pass_on(Signal::TTIN.as_raw(), true), None);
    }
}
