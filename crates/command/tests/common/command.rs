//! The command as a process: its exit code, and all it says.

use std::ffi::OsStr;
use std::process::Command;

use super::processes::{Mark, Process, answer, answer_of};

/// Runs the command `leasehold` to its end: exit code, and all it said.
pub(crate) fn leasehold<S: AsRef<OsStr>>(mark: &Mark, args: &[S]) -> (i32, String) {
    answer(start(mark, args))
}

/// As [`leasehold`]; again, if it could not be done because the machine is busy.
#[track_caller]
pub(crate) fn leasehold_calmly<S: AsRef<OsStr>>(mark: &Mark, args: &[S]) -> (i32, String) {
    answer_of(|| start(mark, args))
}

fn start<S: AsRef<OsStr>>(mark: &Mark, args: &[S]) -> Process {
    Process::start(Command::new(env!("CARGO_BIN_EXE_leasehold")).args(args), mark)
}
