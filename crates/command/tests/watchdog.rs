//! `run --watchdog` and `watchdog test`: when the device counts, and when it is given back. It is a stand-in, as for
//! the library.

#![allow(clippy::unwrap_used)]

mod common;
#[allow(dead_code)] // The library's tests use all of it.
#[path = "../../../tests/watchdog/node.rs"]
mod node;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use leasehold::disk::{Access, DirectDisk};
use leasehold::{FormatOptions, Profile, Timeouts};
use rustix::process::Signal;
use tempfile::TempDir;

use common::command::leasehold;
use common::devices::{self, file, lockspace, text};
use common::host_path::{HostPath, write_beside};
use common::processes::{self, Mark, Process};
use common::{timeouts, until};
use node::{Model, Node};

/// Not a test: what this program does in the processes that the tests start.
#[test]
fn worker() {
    let Some(task) = processes::task() else { return };
    match task.split('\n').collect::<Vec<_>>()[..] {
        ["stuck", file] => write_beside(Path::new(file)),
        _ => panic!("no such task: {task}"),
    }
}

/// A device of its own, a lockspace on a file, and what the command leaves outside of it.
struct Stand {
    folder: TempDir,
    node: Node,
    device: PathBuf,
    mark: Mark,
}

impl Stand {
    /// G has two of the seconds that a device counts in, and there is room for I/O that is slow for a while.
    fn new() -> Stand {
        Stand::with(timeouts([200, 750, 5_000, 2_500, 7_500]))
    }

    fn with(timeouts: Timeouts) -> Stand {
        let folder = devices::folder();
        let node = Node::new(folder.path(), Model::default());
        let device = folder.path().join("disk");
        lockspace(&device, timeouts);
        Stand { folder, node, device, mark: Mark::new() }
    }

    /// What runs a command that is still to be named.
    fn runner(&self) -> Command {
        let mut run = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        run.args(["run", "--create", "--device", text(&self.device), "--watchdog", text(&self.node.path)]);
        run.args(["demo", "--"]).current_dir(self.folder.path());
        run
    }

    fn run(&self, script: &str) -> Process {
        Process::start(self.runner().args(["sh", "-c", script]), &self.mark)
    }

    /// The end of a `run` that loses its host id, the first one.
    fn lost(&self, run: &mut Process) -> i32 {
        let device = fs::OpenOptions::new().write(true).open(&self.device).unwrap();
        // A renewal that has read already writes over it: until one reads it.
        until("the loss", || {
            device.write_all_at(&[7; 4096], 0).unwrap();
            run.ended().is_some()
        });
        run.code()
    }

    fn test(&self) -> (i32, String) {
        let words = ["watchdog", "test", "--device", text(&self.node.path), "--lockspace", text(&self.device)];
        leasehold(&self.mark, &words)
    }

    fn file(&self) -> PathBuf {
        let name = text(&self.node.path).trim_start_matches('/').replace('/', "-");
        Path::new("/run/leasehold").join(name)
    }

    fn assert_off(&self) {
        self.node.await_closed();
        assert_eq!(self.node.account().fires_at(), None, "it counts on");
        assert!(!self.file().exists(), "a mark was left");
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.file());
    }
}

#[test]
fn a_device_is_tried_out_without_a_reset() {
    let stand = Stand::new();
    let (code, said) = stand.test();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("was opened, set, fed and switched off"), "{said}");
    assert!(stand.node.account().feedings > 4);
    stand.assert_off();
    let (code, said) = leasehold(&stand.mark, &["watchdog", "test", "--device", text(&stand.device)]);
    assert_eq!(code, 74, "{said}");
    assert!(said.contains("is not a watchdog"), "{said}");
}

#[test]
fn a_lockspace_that_is_too_fast_for_it_is_told_without_opening_it() {
    let stand = Stand::new();
    let options = FormatOptions { timeouts: Profile::Fast.timeouts(), ..FormatOptions::default() };
    let disk = Arc::new(DirectDisk::open(&stand.device, Access::ReadWrite).unwrap());
    leasehold::format(disk, &FormatOptions { force: true, ..options }).unwrap();
    let (code, said) = stand.test();
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("2.025s"), "{said}");
    let mut run = stand.run("exit 7");
    assert_eq!(run.code(), 64, "{}", run.complained());
    assert_eq!(stand.node.account().opened, 0);
}

#[test]
fn it_is_switched_off_when_the_command_has_ended() {
    let stand = Stand::new();
    let mut run = stand.run("exit 7");
    assert_eq!(run.code(), 7, "{}", run.complained());
    assert_eq!(stand.node.account().opened, 1);
    stand.assert_off();
}

/// All that ran is gone by then.
#[test]
fn it_is_switched_off_after_a_loss_when_all_of_the_command_is_gone() {
    let stand = Stand::new();
    let mut run = stand.run("setsid sleep 1001 & echo > ready; exec sleep 1002");
    until("the command", || stand.folder.path().join("ready").exists() || run.ended().is_some());
    assert_eq!(stand.lost(&mut run), 69, "{}", run.complained());
    assert_eq!(stand.mark.living(), Vec::<i32>::new());
    stand.assert_off();
}

/// One thread of it is in a write that the kernel doesn't end; `/proc` shows a zombie.
#[test]
fn it_counts_on_after_a_loss_when_something_of_the_command_can_not_be_killed() {
    // When the end is given up the device may not have fired yet: it could be switched off.
    let stand = Stand::with(timeouts([200, 1_000, 50_000, 2_500, 52_500]));
    let (folder, file) = file(4096);
    let hung = HostPath::new(folder.path(), "hung", &file);
    hung.hang_writes_from(0);
    let mut run = stand.runner();
    let mut run = Process::start(processes::run_worker(&mut run, &["stuck", text(&hung.file)]), &stand.mark);
    // To be dropped before what waits for the processes: they end with their writes.
    let hung = hung;
    until("a write that hangs", || hung.held_back() > 0 || run.ended().is_some());
    assert!(run.ended().is_none(), "{}", run.complained());
    assert_eq!(stand.lost(&mut run), 74, "{}", run.complained());
    assert!(hung.held_back() > 0);
    assert!(run.complained().contains("can't be killed; nothing is given back"), "{}", run.complained());
    stand.node.await_closed();
    assert!(stand.node.account().fires_at().is_some(), "it was switched off");
    assert!(stand.file().exists(), "others may have the device");
}

#[test]
fn a_killed_supervisor_leaves_it_counting_and_nobody_else_takes_it() {
    let stand = Stand::new();
    let mut run = stand.run("echo > ready; exec sleep 1002");
    until("the command", || stand.folder.path().join("ready").exists() || run.ended().is_some());
    run.signal(Signal::KILL);
    run.wait();
    stand.node.await_closed();
    let left = stand.node.account();
    assert!(left.counts);
    let (code, said) = stand.test();
    assert_eq!(code, 73, "{said}");
    assert!(said.contains(text(&stand.file())), "{said}");
    assert_eq!(stand.node.account().fed, left.fed, "the reset was put off");
}
