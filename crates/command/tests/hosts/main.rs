//! The command, on all that it may find below it: files, loop devices, frozen file systems, and FUSE files that hang
//! for one host; and the library in several processes.
//!
//! One program, because these tests wait for most of their time: for deadlines, for processes, for hosts to be dead. So
//! many of them wait at once.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // In a test these are assertions and its report.

#[path = "../common/mod.rs"]
mod common;

mod blank;
mod channel;
mod command;
mod control;
mod faults;
mod forced;
mod ghosts;
mod guard;
mod handover_command;
mod identity;
mod looks;
mod loop_devices;
mod migration;
mod remembering;
mod requests;
mod value;
mod views;

/// Not a test: what this program does in the processes that the tests start. The first word of a task says whose it is.
#[test]
fn worker() {
    let Some(task) = common::processes::task() else { return };
    let task: Vec<&str> = task.split('\n').collect();
    match task[0] {
        "control" => control::work(&task[1..]),
        "faults" => faults::work(&task[1..]),
        "guard" => guard::work(&task[1..]),
        "loop_devices" => loop_devices::work(&task[1..]),
        "migration" => migration::work(&task[1..]),
        _ => panic!("no such task: {task:?}"),
    }
}
