//! Handovers between `run`s: by the end of a command and by `leasehold handover`; what each side is told, and what
//! comes of it when one of them is not there any more.

use std::fs;

use leasehold::{JoinOptions, Lockspace, PrepareError, Wait};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::devices::{disk, text};
use crate::common::host_path::HostPath;
use crate::common::processes::{Process, calmly, read};
use crate::common::scene::{Ended, Scene, WAIT, end, ended, keys, played};
use crate::common::{PATIENCE, id, timeouts, until};

/// Waits with that host id to be handed a resource, once that is `so`.
#[track_caller]
fn receiver(scene: &Scene, host: u64, resource: &str, script: &str, so: impl Fn() -> bool) -> Process {
    let (id, name) = (host.to_string(), format!("host{host}"));
    let args = ["run", "--device", "disk", "--receive", "--host-id", &id, "--host-name", &name];
    scene.start_until(&[&args[..], &[resource, "--", "sh", "-c", script]].concat(), |_| so())
}

/// As [`receiver`], once it asks for `db`.
#[track_caller]
fn asking(scene: &Scene, host: u64, script: &str) -> Process {
    receiver(scene, host, "db", script, || asks(scene, "db").contains(&host))
}

/// Which hosts ask to be handed that resource, as `status` says.
fn asks(scene: &Scene, name: &str) -> Vec<u64> {
    let status = scene.status();
    let resources = status["resources"].as_array().unwrap();
    let resource = resources.iter().find(|resource| resource["name"] == name).unwrap();
    resource["asking"].as_array().unwrap().iter().map(|owner| owner["host_id"].as_u64().unwrap()).collect()
}

fn db(scene: &Scene) -> Value {
    scene.status()["resources"][0].clone()
}

fn handover(scene: &Scene, to: &str, options: &[&str]) -> Ended {
    scene.run(&[&["handover", "disk", "db", "--to", to], options].concat())
}

/// What a command does that ends when it is told to.
fn until_told(then: &str) -> String {
    format!("while [ ! -e go ]; do sleep 0.05; done; {then}")
}

#[test]
fn a_command_that_succeeds_hands_over_to_who_asks() {
    let scene = Scene::with(&["db", "other"]);
    let log = |what: &str| format!("echo {what} $LEASEHOLD_VERSION >> log");
    let script = until_told(&format!("{}; sleep 0.3; {}", log("end"), log("ended")));
    let source = scene.holder(5, "source", &["other"], &script);
    let dest = asking(&scene, 2, &format!("{}; while [ ! -e fail ]; do sleep 0.05; done; exit 7", log("begin")));
    let second = asking(&scene, 3, "touch ran");
    let of_other = receiver(&scene, 4, "other", "echo $LEASEHOLD_RESOURCE", || asks(&scene, "other") == [4]);
    // Each by its name, where the source has read its record by then.
    let told = |to: &str, what: &str| source.complained().lines().any(|line| line.contains(to) && line.contains(what));
    until("the source is told", || {
        told("host 2 ", "asks to be handed db, held at version 1") && told("host 4 ", "asks to be handed other")
    });
    let shown = scene.run(&["status", "disk", "--watch-for", "0s"]).expect(0, &[]).out;
    assert!(shown.contains("HANDOVER TO") && shown.contains("host 2 (host2) generation"), "{shown}");
    assert!(!scene.path("log").exists());
    fs::write(scene.path("go"), "").unwrap();
    ended(source).expect(0, &["db was handed over to host 2 ", "other was handed over to host 4 "]);
    until("who came second asks the next owner", || asks(&scene, "db") == [3]);
    fs::write(scene.path("fail"), "").unwrap();
    ended(dest).expect(7, &[]);
    ended(second).expect(75, &["db is not handed over: nobody holds it; it is at version 2"]);
    assert!(!scene.path("ran").exists());
    assert_eq!(read(&scene.path("log")), "end 2,1\nended 2,1\nbegin 2\n");
    assert_eq!(ended(of_other).expect(0, &[]).out, "other\n");
}

#[test]
fn a_command_that_fails_releases() {
    for (script, signal, code) in [("exit 3", None, 3), ("sleep 1000", Some(Signal::TERM), 128 + 15)] {
        let scene = Scene::with(&["db"]);
        let source = scene.holder(1, "source", &[], &until_told(script));
        let dest = asking(&scene, 2, "touch ran");
        fs::write(scene.path("go"), "").unwrap();
        signal.inspect(|signal| source.signal(*signal));
        ended(source).expect(code, &[]);
        ended(dest).expect(75, &["db is not handed over: nobody holds it", "without --receive"]);
        assert!(!scene.path("ran").exists());
        assert_eq!(db(&scene)["state"], "free");
    }
}

#[test]
fn what_is_not_there_to_be_handed_over_is_not_waited_for() {
    let scene = Scene::with(&["db", "other"]);
    let receive = ["run", "--device", "disk", "--receive"];
    scene.run(&[&receive[..], &["db", "--", "touch", "ran"]].concat()).expect(75, &["nobody holds it"]);
    scene.run(&[&receive[..], &["db", "other", "--", "touch", "ran"]].concat()).expect(64, &["one resource"]);
    for option in ["--shared", "--create", "--take-version=1"] {
        scene.run(&[&receive[..], &[option, "db", "--", "touch", "ran"]].concat()).expect(64, &["cannot be used with"]);
    }
    let source = scene.holder(1, "source", &[], "exec sleep 1000");
    for wait in ["0s", "500ms"] {
        scene
            .run(&[&receive[..], &["--wait", wait, "db", "--", "touch", "ran"]].concat())
            .expect(75, &["db is held by host 1 (source)", "without --wait it waits until that host hands it over"]);
    }
    assert!(asks(&scene, "db").is_empty());
    assert!(!scene.path("ran").exists());
    end(source);
}

#[test]
fn a_run_is_told_to_hand_over() {
    let scene = Scene::with(&["db"]);
    handover(&scene, "2", &[]).expect(73, &["nobody holds db"]);
    let script = "trap 'echo ended > order; exit 0' TERM; while true; do sleep 0.05; done";
    let mut source = scene.holder(1, "source", &[], script);
    handover(&scene, "1", &[]).expect(64, &["host 1 is who holds db now"]);
    handover(&scene, "2001", &[]).expect(64, &["a host id is a number from 1 to 2000"]);
    handover(&scene, "2", &[]).expect(75, &["host 2 does not ask to be handed db", "run --receive"]);
    handover(&scene, "host2", &["--wait", "300ms"]).expect(75, &["no host named host2 asks to be handed db"]);
    assert!(source.ended().is_none() && !scene.path("order").exists());
    // It waits for the destination, and the command goes on.
    let waiting = scene.start(&["handover", "disk", "db", "--to", "host2", "--wait", WAIT, "--json"]);
    let begun = || read(&scene.path("order")) == "ended\nbegan\n";
    let dest = receiver(&scene, 2, "db", "echo began >> order; exec sleep 1000", begun);
    let holding = ended(waiting).expect(0, &[]).json();
    assert_eq!(keys(&holding), ["resource", "mode", "version", "host_id", "generation"]);
    assert_eq!((&holding["version"], &holding["host_id"]), (&2.into(), &2.into()));
    ended(source).expect(0, &["the command is ended, to hand over to host 2 ", "db was handed over to host 2 "]);
    assert_eq!(db(&scene)["owner"]["host_id"], 2);
    // And back, to one that may take long, by its id. Its command dies of the signal.
    let third = asking(&scene, 3, "true");
    let said = handover(&scene, "3", &["--host-id", "2"]).expect(0, &[]).out;
    assert!(said.starts_with("db is held exclusive by host 3 generation ") && said.ends_with("version 3\n"), "{said}");
    ended(dest).expect(0, &[]);
    ended(third).expect(0, &[]);
}

/// Its work may be half done: that is for people.
#[test]
fn a_command_that_fails_when_it_is_told_to_end_is_not_handed_over() {
    for (script, options, says) in [
        ("trap 'exit 3' TERM; while true; do sleep 0.05; done", &[][..], "exit code 3"),
        ("trap '' TERM; while true; do sleep 0.05; done", &["--grace", "300ms"], "signal 9"),
    ] {
        let scene = Scene::with(&["db"]);
        let source = scene.holder(1, "source", &[], script);
        let dest = asking(&scene, 2, "touch ran");
        let told = format!("the command ended with {says}, and is taken to have failed: db was released");
        handover(&scene, "2", options).expect(73, &[&told]);
        let source = ended(source);
        assert!([3, 128 + 9].contains(&source.code) && !source.err.contains("lost"), "{source:?}");
        ended(dest).expect(75, &["nobody holds it"]);
        assert!(!scene.path("ran").exists());
    }
}

/// The destination gives up while the command ends, and then what is still held can't be released: that is told as when
/// nobody has asked, and not hidden by the end of the command.
#[test]
fn a_release_that_fails_instead_of_a_handover_is_a_failure() {
    let scene = Scene::formatted(timeouts([200, 250, 5_000, 1_000, 6_000]));
    scene.run(&["create", "disk", "db"]).expect(0, &[]);
    let path = HostPath::new(scene.folder.path(), "path", &scene.path("disk"));
    let device = text(&path.file).to_string();
    let script = "trap 'echo > told; while [ ! -e go ]; do sleep 0.05; done; exit 0' TERM; echo > held; \
        while true; do sleep 0.05; done";
    let source = ["run", "--device", &device, "--wait", WAIT, "--host-id", "1", "db", "--", "sh", "-c", script];
    let source = scene.start_until(&source, |_| scene.path("held").exists());
    let dest = asking(&scene, 2, "touch ran");
    let waiting = scene.start(&["handover", &device, "db", "--to", "2", "--grace", WAIT]);
    until("the order", || scene.path("told").exists());
    dest.signal(Signal::TERM);
    ended(dest).expect(128 + 15, &[]);
    // To be dropped before what waits for the processes: they end with their writes.
    let path = path;
    // The area of the resource; renewals go on.
    path.hang_writes_from(3 << 20);
    fs::write(scene.path("go"), "").unwrap();
    ended(waiting).expect(75, &["does not ask to be handed db any more", "db was not released"]);
    path.thaw();
    ended(source).expect(74, &["does not ask to be handed db any more", "db was not released"]);
    assert!(!scene.path("ran").exists());
}

#[test]
fn a_lease_that_is_taken_while_the_command_ends_is_not_handed_over() {
    let scene = Scene::with(&["db"]);
    let source = scene.holder(1, "source", &[], "trap '' TERM; while true; do sleep 0.05; done");
    let dest = asking(&scene, 2, "touch ran");
    let waiting = scene.start(&["handover", "disk", "db", "--to", "2", "--grace", WAIT]);
    until("the order", || source.complained().contains("the command is ended, to hand over"));
    let taker = scene.holder(3, "taker", &["--take-version", "1"], "exec sleep 1000");
    let why = "the lease was lost while the command ran, which was ended: ";
    ended(waiting).expect(69, &[why, "host 3"]);
    ended(source).expect(69, &[why, "host 3"]);
    // It waits for whoever has it.
    until("who asks the taker", || asks(&scene, "db") == [2]);
    assert!(!scene.path("ran").exists());
    end(taker);
    ended(dest).expect(75, &["nobody holds it"]);
}

#[test]
fn what_is_shared_or_protected_is_not_handed_over() {
    let scene = Scene::with(&["db"]);
    let ask = format!("{} handover disk db --to 2", env!("CARGO_BIN_EXE_leasehold"));
    let source = scene.holder(1, "source", &["--shared"], &format!("{ask} 2> said; exec sleep 1000"));
    until("the answer", || read(&scene.path("said")).contains("was started by the command that this `run` protects"));
    handover(&scene, "2", &[]).expect(73, &["db is shared", "convert --to exclusive"]);
    end(source);
}

#[test]
fn a_destination_that_is_told_to_end_asks_no_more() {
    let (scene, source) = played(|| {
        let scene = Scene::with(&["db"]);
        let source = scene.holder(1, "source", &[], &until_told("exit 0"));
        let dest = asking(&scene, 2, "touch ran");
        dest.signal(Signal::TERM);
        let told = ended(dest).expect(128 + 15, &[]);
        (!told.has_kept_its_id()).then_some((scene, source))
    });
    assert!(asks(&scene, "db").is_empty());
    assert_eq!(scene.status()["hosts"][1]["state"], "free");
    handover(&scene, "2", &[]).expect(75, &["host 2 does not ask"]);
    fs::write(scene.path("go"), "").unwrap();
    let source = ended(source).expect(0, &[]);
    assert!(!source.err.contains("handed over"), "{source:?}");
    assert_eq!(db(&scene)["state"], "free");
    assert!(!scene.path("ran").exists());
}

/// Its block goes on asking.
#[test]
fn a_destination_that_was_killed_asks_no_more_once_it_is_dead() {
    let scene = Scene::where_hosts_die(&["db"]);
    let lockspace = Lockspace::open(disk(&scene.path("disk"))).unwrap();
    let options = || JoinOptions::new().host_id(id(1)).host_name("source");
    let source = calmly("a join", || lockspace.join(options()));
    let lease = source.acquire(&calmly("the index", || lockspace.find("db")), Wait::For(PATIENCE)).unwrap();
    let dest = asking(&scene, 2, "touch ran");
    assert_eq!(lease.prepare_handover(id(2), Wait::For(PATIENCE)).unwrap().owner.host, id(2));
    dest.signal(Signal::KILL);
    ended(dest);
    until("it is dead", || lease.destinations().is_ok_and(|all| all.is_empty()));
    let asks = |watch_for| {
        let status = scene.run(&["status", "disk", "--json", "--watch-for", watch_for]).expect(0, &[]).json();
        !status["resources"][0]["asking"].as_array().unwrap().is_empty()
    };
    // Who has only just come can't tell.
    assert!(asks("0s"));
    until("that shows", || !asks("6s"));
    assert!(matches!(lease.prepare_handover(id(2), Wait::No), Err(PrepareError::NotAsked { .. })));
    assert!(lease.is_held());
    lease.release().unwrap();
    assert!(!scene.path("ran").exists());
}
