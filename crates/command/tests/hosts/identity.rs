//! Which machine a command is on, when a host id was not released: by option, by environment, and in a container.

use std::process::Command;

use rustix::process::Signal;

use crate::common::processes::Process;
use crate::common::scene::{Ended, Scene, ended};
use crate::common::until_some;

/// As host 7, once no process of this machine has the id any more.
fn run_as_7(scene: &Scene, before: &[&str], options: &[&str]) -> Ended {
    let args = ["run", "--device", "disk", "--host-id", "7", "--wait", "50s"];
    let command = [env!("CARGO_BIN_EXE_leasehold")];
    let words = [before, &command, &args, options, &["db", "--", "true"]].concat();
    until_some("an answer about the id", || {
        let mut command = Command::new(words[0]);
        let ended = ended(Process::start(command.args(&words[1..]).current_dir(scene.folder.path()), &scene.mark));
        (!ended.is_busy() && !ended.err.contains("another process on this machine")).then_some(ended)
    })
}

/// Host 7 was killed.
fn without_its_host(options: &[&str]) -> Scene {
    let scene = Scene::where_hosts_die(&["db"]);
    let holder = scene.holder(7, "first", options, "sleep 1000");
    holder.signal(Signal::KILL);
    ended(holder);
    scene
}

#[test]
fn scenario_53_an_id_that_was_not_released_is_for_who_says_the_same_machine() {
    let scene = without_its_host(&["--machine", "rack 4"]);
    let refused = run_as_7(&scene, &[], &["--machine", "rack 5"]);
    refused.expect(75, &["was not released by first generation", "another machine", "declare-dead"]);
    let variable = ["env", "LEASEHOLD_MACHINE=rack 4"];
    // The option counts more.
    run_as_7(&scene, &variable, &["--machine", "rack 5"]).expect(75, &["another machine"]);
    run_as_7(&scene, &variable, &[]).expect(0, &[]);
}

#[test]
fn an_empty_identity_is_a_mistake() {
    let scene = Scene::with(&["db"]);
    for command in [&["run", "--device", "disk", "db", "--", "true"][..], &["create", "disk", "other"]] {
        let named = [&command[..1], &["--machine", " "], &command[1..]].concat();
        scene.run(&named).expect(64, &["an empty identity says nothing"]);
        let words = [&["LEASEHOLD_MACHINE=", env!("CARGO_BIN_EXE_leasehold")], command].concat();
        let started = Process::start(Command::new("env").args(words).current_dir(scene.folder.path()), &scene.mark);
        ended(started).expect(64, &["an empty identity says nothing"]);
    }
}

/// It shares no local lock with who held the id.
#[test]
fn scenario_53_a_command_in_a_network_of_its_own_has_no_identity_unless_it_is_told() {
    let container = ["unshare", "--net", "env", "-u", "LEASEHOLD_MACHINE"];
    if !Command::new(container[0]).args(&container[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        println!("no network namespaces here");
        return;
    }
    let scene = without_its_host(&["--machine", "rack 4"]);
    let refused = run_as_7(&scene, &container, &[]);
    refused.expect(75, &["doesn't know its machine: it is in a container", "--machine or LEASEHOLD_MACHINE"]);
    run_as_7(&scene, &container, &["--machine", "rack 4"]).expect(0, &[]);
}
