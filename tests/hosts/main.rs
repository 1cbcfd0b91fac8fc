//! Hosts beside each other, on all that they may find below them: in one process and in several, on disks in memory
//! that fail and hang, on files, loop devices, frozen file systems, and FUSE files that hang for one host; and the
//! command.
//!
//! One program, because these tests wait for most of their time: for deadlines, for processes, for hosts to be dead. So
//! many of them wait at once.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // In a test these are assertions and its report.

#[path = "../common/mod.rs"]
mod common;

mod blank;
#[cfg(feature = "cli")]
mod channel;
#[cfg(feature = "cli")]
mod command;
#[cfg(feature = "cli")]
mod control;
mod direct_disk;
mod engine;
#[cfg(feature = "cli")]
mod faults;
#[cfg(feature = "cli")]
mod forced;
mod forking;
mod formatting;
#[cfg(feature = "cli")]
mod ghosts;
#[cfg(feature = "cli")]
mod guard;
mod handover;
#[cfg(feature = "cli")]
mod handover_command;
#[cfg(feature = "cli")]
mod identity;
mod kinds;
mod lifecycle;
mod looks;
#[cfg(feature = "cli")]
mod loop_devices;
#[cfg(feature = "cli")]
mod migration;
mod modes;
mod numbers;
#[cfg(feature = "cli")]
mod remembering;
mod repair;
#[cfg(feature = "cli")]
mod requests;
#[cfg(feature = "cli")]
mod value;
#[cfg(feature = "cli")]
mod views;
mod watching;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Not a test: what this program does in the processes that the tests start. The first word of a task says whose it is.
#[test]
fn worker() {
    let Some(task) = common::processes::task() else { return };
    let task: Vec<&str> = task.split('\n').collect();
    // What cleans up outlives its test; no other does.
    if !task.starts_with(&["faults", "keeper"]) {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    }
    match task[0] {
        #[cfg(feature = "cli")]
        "control" => control::work(&task[1..]),
        #[cfg(feature = "cli")]
        "faults" => faults::work(&task[1..]),
        #[cfg(feature = "cli")]
        "guard" => guard::work(&task[1..]),
        #[cfg(feature = "cli")]
        "loop_devices" => loop_devices::work(&task[1..]),
        #[cfg(feature = "cli")]
        "migration" => migration::work(&task[1..]),
        "forking" => forking::work(&task[1..]),
        "modes" => modes::processes::work(&task[1..]),
        _ => panic!("no such task: {task:?}"),
    }
}
