//! What commands keep of what they have seen, for those that come after them; and the host id that a restarted one gets
//! back.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::processes::Process;
use crate::common::scene::{Ended, Scene, ended};
use crate::common::{timeouts, until};

/// A `run` that keeps what it sees in that folder, or nowhere.
pub(crate) fn run(scene: &Scene, folder: &str, options: &[&str], command: &[&str]) -> Process {
    let mut run = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    run.args(["run", "--device", "disk"]).args(options).args(["db", "--"]).args(command);
    Process::start(run.current_dir(scene.folder.path()).env("LEASEHOLD_REMEMBER", folder), &scene.mark)
}

fn holder(scene: &Scene) -> Process {
    loop {
        let mut holder = run(scene, "none", &["--host-name", "holder"], &["sh", "-c", "echo > held; sleep 1000"]);
        until("the holder", || scene.path("held").exists() || holder.ended().is_some());
        if holder.ended().is_none() {
            return holder;
        }
        assert!(ended(holder).is_busy());
    }
}

/// Each `run` lives for less than D: it joins in a quarter of that and waits for a third.
const MILLIS: [u64; 5] = [300, 360, 2_500, 750, 3_250];

/// What a `run` ends with that waits for a third of D.
fn short(scene: &Scene, folder: &str) -> Ended {
    ended(run(scene, folder, &["--wait", "1083ms"], &["true"]))
}

#[test]
fn runs_that_live_for_less_than_d_find_out_together_that_an_owner_is_dead() {
    let scene = Scene::formatted(timeouts(MILLIS));
    scene.run(&["create", "disk", "db"]).expect(0, &[]);
    let mut holder = holder(&scene);
    holder.signal(Signal::KILL);
    holder.wait();
    let folder = scene.path("kept");
    let folder = folder.to_str().unwrap();
    let mut refused = 0;
    until("one of them gets it", || {
        let ended = short(&scene, folder);
        refused += u32::from(ended.code == 75);
        assert!(ended.code == 0 || ended.code == 75 || ended.is_busy(), "{ended:?}");
        ended.code == 0
    });
    // On a busy machine the first one may have seen it die.
    assert!(refused < 12, "{refused} were refused");
    let kept: Vec<_> = fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path())).collect();
    assert!(kept.len() == 1 && kept[0].as_ref().unwrap().starts_with("leasehold sightings 1\n"), "{kept:?}");
}

/// It must not be needed, nor believed.
#[test]
fn a_run_does_without_what_was_kept() {
    let scene = Scene::formatted(timeouts(MILLIS));
    scene.run(&["create", "disk", "db"]).expect(0, &[]);
    scene.file("file", 512);
    for folder in ["none", "file", "missing/deep/folder", ""] {
        until("the run", || {
            let ended = ended(run(&scene, folder, &["--wait", "50s"], &["true"]));
            assert!(ended.code == 0 || ended.is_busy(), "{ended:?}");
            ended.code == 0
        });
    }
    assert!(!Path::new(&scene.path("missing")).exists());
}

/// A `run` of the host `a`, until its command has told its host id; and when that was.
fn host_a(scene: &Scene) -> (Process, u64, Instant) {
    let command = ["sh", "-c", "echo $LEASEHOLD_HOST_ID > id.new; mv id.new id; sleep 1000"];
    loop {
        let _ = fs::remove_file(scene.path("id"));
        let mut host = run(scene, "none", &["--host-name", "a", "--wait", "50s"], &command);
        until("the host", || scene.path("id").exists() || host.ended().is_some());
        if host.ended().is_none() {
            let id = fs::read_to_string(scene.path("id")).unwrap();
            return (host, id.trim().parse().unwrap(), Instant::now());
        }
        assert!(ended(host).is_busy());
    }
}

fn killed(mut host: Process) {
    host.signal(Signal::KILL);
    host.wait();
}

#[test]
fn a_host_that_is_killed_and_restarted_after_d_gets_its_id_back() {
    let scene = Scene::formatted(timeouts(MILLIS));
    scene.run(&["create", "disk", "db"]).expect(0, &[]);
    let (host, first, _) = host_a(&scene);
    let after = |host| {
        killed(host);
        sleep(Duration::from_millis(MILLIS[4]) * 11 / 10);
        host_a(&scene)
    };
    let mut host = host;
    for again in 0..3 {
        let (next, id, _) = after(host);
        assert_eq!(id, first, "{again}");
        host = next;
    }
    // At once it is not known whether all that it started is gone.
    let began = Instant::now();
    killed(host);
    let (host, second, held) = host_a(&scene);
    assert!(second != first || held - began > Duration::from_millis(MILLIS[4]), "{second}");
    let (_, third, _) = after(host);
    assert_eq!(third, first.min(second), "one of its own");
}
