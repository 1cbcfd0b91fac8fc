//! Asking a `run` that holds something: who may, what comes of it, and what doesn't disturb it.

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;

use crate::common::processes::Process;
use crate::common::scene::{Ended, Scene, WAIT, end, ended, keys};
use crate::common::{PATIENCE, until};

/// No id of anybody's.
const NOBODY: u32 = 65534;

#[track_caller]
fn convert(scene: &Scene, to: &str, options: &[&str]) -> Ended {
    scene.run(&[&["convert", "disk", "db", "--to", to], options].concat())
}

/// Where the `run` with that host id answers.
fn address(scene: &Scene, host: u64) -> SocketAddr {
    let disk = fs::metadata(scene.path("disk")).unwrap();
    let name = format!("leasehold/run/f{:x}.{:x}/leasehold/{host}", disk.dev(), disk.ino());
    SocketAddr::from_abstract_name(name).unwrap()
}

#[test]
fn a_run_converts_while_its_command_goes_on() {
    let scene = Scene::with(&["db", "other"]).on_a_device();
    scene.run(&["convert", "disk", "db", "--to", "shared"]).expect(73, &["nobody holds db"]);
    scene.run(&["convert", "disk", "dbb", "--to", "shared"]).expect(66, &["did you mean db"]);
    let first = scene.holder(1, "first", &["--shared"], "exec sleep 1000");
    let second = scene.holder(2, "second", &["--shared"], "exec sleep 1000");
    // Which of them is meant has to be said.
    convert(&scene, "exclusive", &[])
        .expect(64, &["host 1 (first) generation", "host 2 (second) generation", "--host-id"]);
    convert(&scene, "exclusive", &["--host-id", "3"]).expect(73, &["host 3 does not hold db"]);
    convert(&scene, "exclusive", &["--host-id", "1"]).expect(75, &["db is shared by host 2 (second) generation"]);
    let before = scene.status()["resources"][0].clone();
    assert_eq!(before["state"], "shared");
    // It waits for the other one.
    let waiting =
        scene.start(&["convert", "disk", "db", "--to", "exclusive", "--host-id", "1", "--wait", WAIT, "--json"]);
    end(second);
    let holding = ended(waiting).expect(0, &[]).json();
    assert_eq!(keys(&holding), ["resource", "mode", "version", "host_id", "generation"]);
    assert_eq!((&holding["mode"], &holding["host_id"]), (&"exclusive".into(), &1.into()));
    let status = scene.status()["resources"][0].clone();
    assert_eq!((&status["state"], &status["version"]), (&"exclusive".into(), &holding["version"]));
    assert!(holding["version"].as_u64() > before["version"].as_u64());
    // Another run is kept out, and let in when it is shared again.
    let third = ["run", "--device", "disk", "--shared", "db", "--", "true"];
    scene.run(&third).expect(75, &["db is held by host 1 (first)"]);
    // To what it is: nothing.
    convert(&scene, "exclusive", &["--wait", WAIT]).expect(0, &[]);
    assert_eq!(scene.status()["resources"][0]["version"], holding["version"]);
    let shared = convert(&scene, "shared", &["--wait", WAIT]).expect(0, &[]);
    assert!(shared.out.starts_with("db is held shared by host 1 generation "), "{shared:?}");
    scene.run(&third).expect(0, &[]);
    assert_eq!(first.complained().matches("was converted to").count(), 2, "{}", first.complained());
    end(first);
    assert_eq!(scene.status()["resources"][0]["state"], "free");
}

/// However far they have got away from it.
#[test]
fn what_a_run_protects_has_no_say() {
    let scene = Scene::with(&["db"]);
    let ask = format!("{} convert disk db --to shared", env!("CARGO_BIN_EXE_leasehold"));
    let script = format!(
        "{ask} 2> near; echo $? >> near; (setsid sh -c '{ask} 2> far; echo $? >> far; echo > done' &); exec sleep 1000"
    );
    let holder = scene.holder(1, "holder", &[], &script);
    until("both answers", || scene.path("done").exists());
    for name in ["near", "far"] {
        let said = fs::read_to_string(scene.path(name)).unwrap();
        assert!(
            said.contains("was started by the command that this `run` protects") && said.ends_with("\n73\n"),
            "{said}"
        );
    }
    assert_eq!(scene.status()["resources"][0]["state"], "exclusive");
    // Nor has another user.
    fs::set_permissions(scene.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.args(["convert", "disk", "db", "--to", "shared"]).current_dir(scene.folder.path()).uid(NOBODY);
    let refused = ended(Process::start(&mut command, &scene.mark));
    refused.expect(73, &[&format!("it is user {NOBODY}'s, only user 0 and root may ask")]);
    assert_eq!(scene.status()["resources"][0]["state"], "exclusive");
    convert(&scene, "shared", &[]).expect(0, &[]);
    end(holder);
}

#[test]
fn rubbish_and_silence_change_nothing() {
    let scene = Scene::with(&["db"]);
    let mut holder = scene.holder(1, "holder", &[], "while [ ! -e go ]; do sleep 0.05; done; exit 7");
    let connect = || {
        let stream = UnixStream::connect_addr(&address(&scene, 1)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let said = |mut stream: &UnixStream| {
        let mut said = String::new();
        // One that was told too much at once hangs up.
        let _ = stream.read_to_string(&mut said);
        said
    };
    let silent = connect();
    let mut slow = connect();
    slow.write_all(b"{\"convert\":").unwrap();
    drop((0..100).map(|_| connect()).collect::<Vec<_>>());
    let mut endless = connect();
    // It may have hung up before all of it was written.
    let _ = endless.write_all(&[b'['; 1 << 16]);
    let mut rubbish = connect();
    rubbish.write_all(b"{\"convert\":{\"resource\":\"db\",\"offset\":-1}}\n").unwrap();
    let mut elsewhere = connect();
    elsewhere
        .write_all(
            b"{\"convert\":{\"resource\":\"db\",\"offset\":0,\"to\":\"shared\",\"wait_ms\":18446744073709551615}}\n",
        )
        .unwrap();
    for stream in [&silent, &slow, &endless] {
        assert_eq!(said(stream), "");
    }
    assert!(said(&rubbish).contains("does not understand"));
    assert!(said(&elsewhere).contains("does not hold db"));
    let open = fs::read_dir(format!("/proc/{}/fd", holder.pid())).unwrap().count();
    assert!(open < 50, "{open} descriptors are open");
    assert_eq!(scene.status()["resources"][0]["state"], "exclusive");
    convert(&scene, "shared", &[]).expect(0, &[]);
    fs::write(scene.path("go"), "").unwrap();
    assert_eq!(holder.code(), 7, "{}", holder.complained());
}

#[test]
fn nothing_is_left_of_a_run_that_was_killed() {
    let scene = Scene::where_hosts_die(&["db"]);
    let killed = scene.holder(1, "killed", &[], "exec sleep 1000");
    killed.signal(Signal::KILL);
    ended(killed);
    convert(&scene, "shared", &[]).expect(75, &["db is held by host 1 (killed)", "no `run` answers on this machine"]);
    // A machine's own id, though it was not given back.
    let next = scene.holder(1, "next", &[], "exec sleep 1000");
    convert(&scene, "shared", &[]).expect(0, &[]);
    end(next);
}

#[test]
fn a_run_whose_name_is_taken_runs_all_the_same() {
    let scene = Scene::with(&["db"]);
    let squatter = UnixListener::bind_addr(&address(&scene, 1)).unwrap();
    let holder = scene.holder(1, "holder", &[], "exec sleep 1000");
    assert!(holder.complained().contains("no other command can ask this one for anything"), "{}", holder.complained());
    // What answers instead of it is not waited for for ever, and says nothing that counts.
    let asking = scene.start(&["convert", "disk", "db", "--to", "shared"]);
    drop(squatter.accept().unwrap());
    ended(asking).expect(74, &["has not answered"]);
    end(holder);
}
