//! Hosts beside each other, on all that they may find below them: in one process and in several, on disks in memory
//! that fail and hang, on files, loop devices, and frozen file systems.
//!
//! One program, because these tests wait for most of their time: for deadlines, for processes, for hosts to be dead. So
//! many of them wait at once.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // In a test these are assertions and its report.

#[path = "../common/mod.rs"]
mod common;

mod blank;
mod direct_disk;
mod engine;
mod forking;
mod formatting;
mod handover;
mod kinds;
mod lifecycle;
mod looks;
mod modes;
mod numbers;
mod repair;
mod watching;

/// Not a test: what this program does in the processes that the tests start. The first word of a task says whose it is.
#[test]
fn worker() {
    let Some(task) = common::processes::task() else { return };
    let task: Vec<&str> = task.split('\n').collect();
    match task[0] {
        "forking" => forking::work(&task[1..]),
        "modes" => modes::processes::work(&task[1..]),
        _ => panic!("no such task: {task:?}"),
    }
}
