//! The command as a program: what it prints, what it leaves behind, and its exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::devices::text;
use crate::common::host_path::HostPath;
use crate::common::scene::{Ended, Scene, WAIT, ended, keys, played};
use crate::common::{timeouts, until};

#[test]
fn every_command_helps_with_examples() {
    let scene = Scene::empty();
    let help = scene.run(&["--help"]).expect(0, &[]);
    for command in ["format", "create", "run", "convert", "status", "hosts", "dump"] {
        assert!(help.out.contains(command), "{help:?}");
        let help = scene.run(&[command, "--help"]).expect(0, &[]);
        assert!(help.out.contains("Examples:") && help.out.contains(&format!("leasehold {command} ")), "{help:?}");
    }
    for code in ["64", "65", "66", "69", "73", "74", "75"] {
        assert!(help.out.contains(&format!("\n  {code}  ")), "{code} is not explained: {help:?}");
    }
}

#[test]
fn a_wrong_word_is_not_taken_for_one_that_declares_a_host_dead() {
    let scene = Scene::empty();
    for word in ["delete", "declare", "declare-dea", "declaredead"] {
        let said = scene.run(&[word]).expect(64, &["unrecognized subcommand"]).err;
        assert!(!said.contains("declare-dead"), "{said}");
    }
    scene.run(&["creat"]).expect(64, &["similar", "'create'"]);
}

#[test]
fn a_device_without_room_for_a_resource_is_not_formatted() {
    let scene = Scene::empty();
    scene.file("small", 3 << 20);
    scene
        .run(&["format", "small"])
        .expect(73, &["small has 3145728 bytes", "room for one resource needs at least 4194304"]);
    assert!(std::fs::read(scene.path("small")).unwrap().iter().all(|byte| *byte == 0));
    let formatted = |device: &str, options: &[&str], room: &str| {
        let said = scene.run(&[&["format", device], options].concat()).expect(0, &[]).out;
        assert!(said.contains(&format!(", room for {room}, ")), "{said}");
    };
    scene.file("one", 4 << 20);
    formatted("one", &[], "1 resource");
    scene.run(&["create", "one", "a"]).expect(0, &[]);
    scene.run(&["create", "one", "b"]).expect(73, &["no room for another resource"]);
    // The search for records ends with the last sector that is whole.
    scene.file("odd", (4 << 20) + 100);
    formatted("odd", &[], "1 resource");
    scene.file("large", 64 << 20);
    formatted("large", &[], "61 resources");
    formatted("large", &["--force", "--max-resources", "7"], "7 resources");
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let scene = Scene::with(&["db"]);
    scene.file("other", 8 << 20);
    let cases: &[&[&str]] = &[
        &[],
        &["unknown"],
        &["format"],
        &["format", "other", "--profile", "quick"],
        &["format", "other", "--sector-size", "1024"],
        &["format", "other", "--area-size", "2M"],
        &["format", "other", "--max-resources", "0"],
        &["format", "other", "--lockspace", "a b"],
        &["format", "other", "--profile", "sanlock", "--io-timeout", "1500ms"],
        &["format", "other", "--profile", "fast", "--io-timeout", "1ms"],
        &["format", "other", "--io-timeout", "19ms"],
        &["create", "disk"],
        &["create", "disk", "a/b"],
        &["run", "--device", "disk", "db"],
        &["run", "--device", "disk", "--", "true"],
        &["run", "--device", "disk", "--host-id", "0", "db", "--", "true"],
        &["run", "--device", "disk", "--host-id", "2001", "db", "--", "true"],
        &["run", "--device", "disk", "--host-name", "a b", "db", "--", "true"],
        &["run", "--device", "disk", "--wait", "soon", "db", "--", "true"],
        &["run", "--device", "disk", "db", "db", "--", "true"],
        &["run", "--device", "disk", "db@12", "--", "true"],
        &["run", "--device", "disk", "db@104857600", "--", "true"],
        &["convert", "disk", "db"],
        &["convert", "disk", "db", "--to", "alone"],
        &["convert", "disk", "db", "--to", "shared", "--host-id", "0"],
        &["status"],
        &["status", "disk", "--watch-for", "long"],
        &["status", "disk", "--interval", "1s"],
        &["status", "disk", "--for", "1s"],
        &["status", "disk", "--watch", "--watch-for", "1s"],
        &["hosts"],
        &["dump"],
    ];
    for args in cases {
        let ended = scene.run(args);
        assert_eq!(ended.code, 64, "{args:?}: {ended:?}");
        assert!(!ended.err.is_empty(), "{args:?}");
    }
    // None of them has written anything.
    assert!(fs::read(scene.path("other")).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_no_lockspace_is_told_by_every_command() {
    let scene = Scene::empty();
    scene.file("disk", 8 << 20);
    for args in [&["status"][..], &["hosts", "--watch"], &["dump"], &["create"], &["run", "--device"]] {
        let rest: &[&str] = match args[0] {
            "create" => &["db"],
            "run" => &["db", "--", "touch", "ran"],
            _ => &[],
        };
        scene.run(&[args, &["disk"], rest].concat()).expect(65, &["disk holds no lockspace", "magic number"]);
        scene.run(&[args, &["missing"], rest].concat()).expect(74, &["missing does not exist"]);
        scene.run(&[args, &["."], rest].concat()).expect(74, &[". is a directory"]);
    }
    scene.run(&["format", "missing"]).expect(74, &["missing does not exist"]);
    assert!(!scene.path("ran").exists());
}

#[test]
fn formatting_over_a_lockspace_is_refused() {
    let scene = Scene::with(&["db"]);
    scene.run(&["format", "disk"]).expect(73, &["disk already holds the lockspace leasehold", "--force"]);
    let holder = scene.hold(&["db"]);
    let before = scene.status()["resources"].clone();
    scene.run(&["format", "disk", "--force"]).expect(73, &["(holder) is live in the lockspace on disk"]);
    assert_eq!(scene.status()["resources"], before);
    holder.signal(Signal::TERM);
    ended(holder);
    scene.run(&["format", "disk", "--force", "--lockspace", "new"]).expect(0, &[]);
    let status = scene.status();
    assert_eq!((&status["lockspace"], &status["resources"]), (&"new".into(), &Value::Array(Vec::new())));
    scene.file("small", 2 << 20);
    scene.run(&["format", "small"]).expect(73, &["small has 2097152 bytes"]);
}

#[test]
fn an_existing_name_is_not_created_again() {
    let scene = Scene::with(&["db"]);
    let refused = scene.run(&["create", "disk", "db", "new"]).expect(73, &["disk already has a resource db"]);
    assert!(refused.out.contains("created new at offset"), "{refused:?}");
    // Three fixed areas and two resources leave room for three of the eight.
    let full = scene.run(&["create", "disk", "c", "d", "e", "f"]).expect(73, &["no room for another resource"]);
    assert_eq!(full.out.lines().count(), 3, "{full:?}");
}

#[test]
fn a_mistyped_name_runs_nothing() {
    let scene = Scene::with(&["database", "backup"]);
    scene.script(&["databse"], "touch ran").expect(66, &["no resource databse on disk", "did you mean database?"]);
    scene.script(&["database", "zzz"], "touch ran").expect(66, &["no resource zzz"]);
    assert!(!scene.path("ran").exists());
    // What was found before the failure is not left held.
    scene.run(&["run", "--device", "disk", "database", "--", "true"]).expect(0, &[]);
    let created = scene.run(&["run", "--device", "disk", "--create", "--wait", WAIT, "databse", "--", "touch", "ran"]);
    created.expect(0, &[]);
    assert!(scene.path("ran").exists());
    scene.offset_of("databse");
}

#[test]
fn the_holder_is_named_to_who_is_refused() {
    let scene = Scene::with(&["db", "other"]);
    let holder = scene.hold(&["db"]);
    let status = scene.run(&["status", "disk", "--json"]).expect(0, &[]).json();
    let shown = status["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == "db").unwrap();
    assert_eq!(shown["state"], "exclusive");
    let owner = format!(
        "db is held by host {} (holder) generation {} at version {}",
        shown["owner"]["host_id"], shown["owner"]["generation"], shown["version"]
    );
    let refused = scene.run(&["run", "--device", "disk", "other", "db", "--", "touch", "ran"]);
    refused.expect(75, &[&owner, "--wait"]);
    assert!(!scene.path("ran").exists());
    // All or none: the other name is free again.
    scene.run(&["run", "--device", "disk", "other", "--", "true"]).expect(0, &[]);
    // The host id itself is held, too.
    let id = shown["owner"]["host_id"].to_string();
    let refused = scene.run(&["run", "--device", "disk", "--host-id", &id, "other", "--", "touch", "ran"]);
    refused.expect(75, &[&format!("host id {id} of disk is held")]);
    let text = scene.run(&["status", "disk"]).expect(0, &[]).out;
    assert!(text.contains("(holder)"), "{text}");
    // Who waits gets it, with a later version.
    let script = ["--", "sh", "-c", "echo $LEASEHOLD_VERSION"];
    let waiting = scene.start(&[&["run", "--device", "disk", "--wait", "forever", "db"][..], &script].concat());
    holder.signal(Signal::TERM);
    assert_eq!(ended(holder).code, 128 + 15);
    let next: u64 = ended(waiting).expect(0, &[]).out.trim().parse().unwrap();
    assert!(next > shown["version"].as_u64().unwrap());
}

#[test]
fn a_signal_ends_the_wait_for_a_resource() {
    played(|| {
        let scene = Scene::with(&["db"]);
        let _holder = scene.hold(&["db"]);
        let waiting = ["run", "--device", "disk", "--wait", "forever", "db", "--", "touch", "ran"];
        let waiting = scene.start_until(&waiting, |_| somebody_waits(&scene));
        waiting.signal(Signal::TERM);
        let waited = ended(waiting).expect(128 + 15, &[]);
        assert!(!scene.path("ran").exists());
        only_the_holder_is_left(&scene, &waited)
    });
}

/// It holds the index while the signal comes, and is going to wait for another name after that.
#[test]
fn a_signal_ends_the_wait_that_comes_after_a_slow_create() {
    let scene = Scene::formatted(timeouts([200, 250, 20_000, 1_000, 21_000]));
    scene.run(&["create", "disk", "db"]).expect(0, &[]);
    let _holder = scene.hold(&["db"]);
    let path = HostPath::new(scene.folder.path(), "path", &scene.path("disk"));
    // The area of the next resource.
    path.hang_writes_from(4 << 20);
    let device = text(&path.file).to_string();
    let mut waiting =
        scene.start(&["run", "--device", &device, "--create", "--wait", "forever", "new", "db", "--", "touch", "ran"]);
    // To be dropped before what waits for the process: it ends with its writes.
    let path = path;
    until("a write that hangs", || path.held_back() > 0 || waiting.ended().is_some());
    waiting.signal(Signal::TERM);
    // It tries to leave meanwhile.
    std::thread::sleep(Duration::from_millis(500));
    path.thaw();
    let left = ended(waiting).expect(128 + 15, &[]);
    assert!(!scene.path("ran").exists());
    // A machine that is too busy to give the id back shows no more than that.
    let _ = only_the_holder_is_left(&scene, &left);
}

/// It takes a moment from the lease to the start of the command, which may be slow: what it does there is to look at
/// the device, for the name of its socket.
#[test]
fn a_signal_just_before_the_command_starts_is_not_forgotten() {
    let scene = Scene::with(&["db"]);
    let holder = scene.hold(&["db"]);
    let path = HostPath::new(scene.folder.path(), "path", &scene.path("disk"));
    let device = text(&path.file).to_string();
    let mut waiting = scene.start(&["run", "--device", &device, "--wait", "forever", "db", "--", "sleep", "1000"]);
    // To be dropped before what waits for the process.
    let path = path;
    until("the waiting host", || somebody_waits(&scene) || waiting.ended().is_some());
    path.hang_lookups();
    holder.signal(Signal::TERM);
    until("the lease", || path.held_back() > 0 || waiting.ended().is_some());
    waiting.signal(Signal::TERM);
    // It takes the signal meanwhile; if it takes it later the command has it.
    std::thread::sleep(Duration::from_millis(300));
    path.thaw();
    ended(waiting).expect(128 + 15, &[]);
    ended(holder).expect(128 + 15, &[]);
}

/// Whether the block of a host says that it waits for a resource.
fn somebody_waits(scene: &Scene) -> bool {
    let dump = scene.run(&["dump", "disk", "--json"]).json();
    dump.as_array().unwrap().iter().any(|record| record["fields"]["waiting"].as_u64() > Some(0))
}

/// `None`: the machine is too busy to tell.
#[track_caller]
fn only_the_holder_is_left(scene: &Scene, left: &Ended) -> Option<()> {
    if left.has_kept_its_id() {
        return None;
    }
    assert!(!somebody_waits(scene), "it still stands in the queue");
    let hosts = scene.run(&["hosts", "disk", "--json", "--watch-for", "0s"]).expect(0, &[]).json();
    let held = hosts["hosts"].as_array().unwrap().iter().filter(|host| host["state"] != "free");
    assert_eq!(held.count(), 1, "the host id was not given back: {hosts}");
    Some(())
}

#[test]
fn a_signal_ends_the_wait_for_the_index() {
    for args in [&["create", "disk", "b"][..], &["repair", "disk", "--index"]] {
        played(|| {
            let scene = Scene::with(&["a"]);
            // Something to repair.
            scene.overwrite((1 << 20) + 512, &[0xff; 64]);
            let _holder = scene.hold(&[&format!("rindex_lease@{}", 2 << 20)]);
            let waiting = scene.start_until(args, |_| somebody_waits(&scene));
            waiting.signal(Signal::INT);
            let waited = ended(waiting).expect(128 + 2, &[]);
            only_the_holder_is_left(&scene, &waited)
        });
    }
}

#[test]
fn the_command_is_told_what_it_holds() {
    let scene = Scene::with(&["a", "b"]);
    let say = "echo $LEASEHOLD_RESOURCE $LEASEHOLD_VERSION $LEASEHOLD_HOST_ID $LEASEHOLD_GENERATION";
    scene.script(&["b"], "true").expect(0, &[]);
    let (a, b) = ("a", "b");
    // The order is that of the command line, though it is not that of the places.
    let told = scene.script(&[b, a], say).expect(0, &[]).out;
    let words: Vec<&str> = told.split_whitespace().collect();
    let [names, versions, host, generation] = words[..] else { panic!("{told}") };
    assert_eq!(names, "b,a");
    let status = scene.status();
    let version_of = |name| {
        let resources = status["resources"].as_array().unwrap();
        resources.iter().find(|resource| resource["name"] == name).unwrap()["version"].clone()
    };
    assert_ne!(version_of(a), version_of(b));
    assert_eq!(versions, format!("{},{}", version_of(b), version_of(a)));
    let hosts = status["hosts"].as_array().unwrap();
    let holder = [host, generation].map(|number| Value::from(number.parse::<u64>().unwrap()));
    let shown = hosts.iter().any(|host| [&host["host_id"], &host["generation"]] == holder.each_ref());
    assert!(shown, "{told} {status}");
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let scene = Scene::with(&["db"]);
    scene.script(&["db"], "exit 0").expect(0, &[]);
    scene.script(&["db"], "exit 7").expect(7, &[]);
    scene.script(&["db"], "exit 255").expect(255, &[]);
    scene.script(&["db"], "kill -TERM $$").expect(128 + 15, &[]);
    scene.script(&["db"], "kill -KILL $$").expect(128 + 9, &[]);
    scene.run(&["run", "--device", "disk", "db", "--", "./no-such-command"]).expect(127, &["can't be started"]);
    fs::write(scene.path("no-program"), "").unwrap();
    scene.run(&["run", "--device", "disk", "db", "--", "./no-program"]).expect(126, &["can't be started"]);
    assert_eq!(scene.status()["resources"][0]["state"], "free");
}

#[test]
fn a_resource_can_be_named_by_its_place() {
    let scene = Scene::with(&["a", "b"]);
    let place = scene.offset_of("b");
    scene.script(&[&format!("b@{place}")], "echo $LEASEHOLD_RESOURCE").expect(0, &[]);
    // Each resource begins above the versions of those that were made before it.
    assert_eq!(scene.status()["resources"][1]["version"], 2);
    // Another name than the leader's, and a place where nothing is.
    let (wrong, nothing) = (format!("a@{place}"), format!("a@{}", 7 << 20));
    let belongs = format!("offset {place} of disk belongs to resource b");
    scene.script(&[&wrong], "touch ran").expect(66, &[&belongs]);
    scene.script(&[&nothing], "touch ran").expect(65, &[&format!("leader at offset {} of disk", 7 << 20)]);
    assert!(!scene.path("ran").exists());
}

#[test]
fn status_has_the_documented_shape_and_writes_nothing() {
    let scene = Scene::with(&["a", "b"]);
    scene.script(&["b"], "true").expect(0, &[]);
    let before = fs::read(scene.path("disk")).unwrap();
    let status = scene.run(&["status", "disk", "--json"]).expect(0, &[]).json();
    let top = ["lockspace", "sector_size", "area_size", "timeouts_ms", "hosts", "resources"];
    assert_eq!(keys(&status), top);
    assert_eq!((&status["lockspace"], &status["sector_size"]), (&"leasehold".into(), &512.into()));
    assert_eq!(status["area_size"], 1 << 20);
    assert_eq!(status["timeouts_ms"].to_string(), r#"{"renewal":300,"io":360,"fail":10000,"fence":750,"dead":10750}"#);
    for host in status["hosts"].as_array().unwrap() {
        assert_eq!(keys(host), ["host_id", "name", "generation", "timestamp", "state", "renewals"]);
        let nothing = (&"free".into(), &0.into(), &Value::Null);
        assert_eq!((&host["state"], &host["timestamp"], &host["renewals"]), nothing);
    }
    let [a, b] = &status["resources"].as_array().unwrap()[..] else { panic!("{status}") };
    assert_eq!(
        a.to_string(),
        r#"{"name":"a","offset":3145728,"state":"free","version":0,"owner":null,"sharers":[],"asking":[]}"#
    );
    assert_eq!(
        b.to_string(),
        r#"{"name":"b","offset":4194304,"state":"free","version":2,"owner":null,"sharers":[],"asking":[]}"#
    );
    for args in [&["status", "disk"][..], &["dump", "disk"], &["dump", "disk", "--json"]] {
        scene.run(args).expect(0, &[]);
    }
    assert!(fs::read(scene.path("disk")).unwrap() == before, "looking has changed the device");
}

#[test]
fn status_tells_live_from_dead() {
    let scene = Scene::where_hosts_die(&["a"]);
    let holder = scene.hold(&["a"]);
    let of_holder = |watch_for| {
        let status = scene.run(&["status", "disk", "--json", "--watch-for", watch_for]).expect(0, &[]).json();
        let hosts = status["hosts"].as_array().unwrap();
        hosts.iter().find(|host| host["name"] == "holder").unwrap()["state"].clone()
    };
    // Unless a slow command has seen a renewal between its own reads.
    until("a first sight", || of_holder("0s") == "unknown");
    // A renewal that a busy machine holds up comes later.
    until("a sign of life", || of_holder("2s") == "live");
    holder.signal(Signal::KILL);
    ended(holder);
    until("its death", || of_holder("6s") == "dead");
}

#[test]
fn dump_shows_each_record_in_use() {
    let scene = Scene::with(&["a", "b"]);
    scene.script(&["a"], "true").expect(0, &[]);
    scene.script(&["a"], "true").expect(0, &[]);
    let dump = scene.run(&["dump", "disk", "--json"]).expect(0, &[]).json();
    let records = dump.as_array().unwrap();
    for record in records {
        assert_eq!(keys(record), ["record", "offset", "fields", "error"]);
        assert_eq!(record["error"], Value::Null);
    }
    let of = |name: &str| records.iter().find(|record| record["record"] == name).unwrap_or_else(|| panic!("{name}"));
    let leader = of("leader of a");
    assert_eq!((&leader["offset"], &leader["fields"]["lver"]), (&(3 << 20).into(), &2.into()));
    assert_eq!(leader["fields"]["resource_name"], "a");
    assert_eq!(of("leader of b")["fields"]["lver"], 1);
    assert_eq!(of("index header")["fields"]["rx_offset"], 1 << 20);
    assert_eq!(of("index entry 1")["fields"]["name"], "b");
    assert_eq!(of("leader of rindex_lease")["fields"]["lver"], 2);
    let owner = leader["fields"]["owner_id"].as_u64().unwrap();
    let block = of(&format!("block of host {owner} for a"));
    assert_eq!((&block["fields"]["lver"], &block["fields"]["inp"]), (&2.into(), &owner.into()));
    assert_eq!(block["fields"]["writer_generation"], leader["fields"]["owner_generation"]);
    assert_eq!(of(&format!("host record of host {owner}"))["offset"], (owner - 1) * 512);
    // The same records as text.
    let text = scene.run(&["dump", "disk"]).expect(0, &[]).out;
    for record in records {
        let heading = format!("{} at offset {}", record["record"].as_str().unwrap(), record["offset"]);
        assert!(text.lines().any(|line| line == heading), "{heading}");
    }
}

#[test]
fn what_is_damaged_is_shown_beside_what_is_whole() {
    let scene = Scene::with(&["a", "b"]);
    scene.overwrite(3 << 20, &[0xff; 512]);
    let status = scene.run(&["status", "disk", "--json", "--watch-for", "0s"]);
    let status = status.expect(65, &["the leader at offset 3145728 of disk is damaged: magic number"]).json();
    let names: Vec<&Value> = status["resources"].as_array().unwrap().iter().map(|shown| &shown["name"]).collect();
    assert_eq!(names, ["b"]);
    let [damage] = &status["damaged"].as_array().unwrap()[..] else { panic!("{status}") };
    assert_eq!(keys(damage), ["what", "offset", "reason"]);
    assert_eq!((&damage["what"], &damage["offset"]), (&"leader".into(), &(3 << 20).into()));
    let dump = scene.run(&["dump", "disk"]).expect(65, &["the leader of a at offset 3145728 of disk is damaged"]).out;
    let lines: Vec<&str> = dump.lines().collect();
    let at = lines.iter().position(|line| *line == "leader of a at offset 3145728").unwrap();
    assert!(lines[at + 1].contains("magic number 0xffffffff"), "{dump}");
    assert!(lines.contains(&"leader of b at offset 4194304"), "{dump}");
}

#[test]
fn a_name_whose_entry_is_lost_gets_no_second_area() {
    let place = (4 << 20).to_string();
    let damage = "the index entry at offset 1049152 of disk is damaged";
    for (lost, code, says) in [([0xff; 64], 65, damage), ([0; 64], 0, "")] {
        let scene = Scene::with(&["a", "b"]);
        let _holder = scene.hold(&["b"]);
        scene.overwrite((1 << 20) + 512 + 64, &lost);
        let created = scene.run(&["create", "disk", "b"]).expect(code, &[says]);
        assert!(code != 0 || created.out.contains(&place), "{created:?}");
        // Whichever way it is named, it is still held.
        let place = format!("b@{place}");
        scene.run(&["run", "--device", "disk", &place, "--", "touch", "ran"]).expect(75, &["b is held by"]);
        let by_name = scene.run(&["run", "--device", "disk", "--create", "b", "--", "touch", "ran"]);
        assert_eq!(by_name.code, if code == 0 { 75 } else { code }, "{by_name:?}");
        assert!(!scene.path("ran").exists());
        scene.run(&["create", "disk", "c"]).expect(0, &[]);
    }
}

#[test]
fn an_interrupted_format_is_told_from_a_damaged_record() {
    let scene = Scene::with(&["a"]);
    // What formatting leaves until its last write.
    scene.overwrite(0, &[0; 4]);
    for args in [&["status", "disk"][..], &["dump", "disk"], &["create", "disk", "b"]] {
        scene.run(args).expect(65, &["disk was not completely formatted"]);
    }
    scene.overwrite(0, &[0; 512]);
    scene.run(&["status", "disk"]).expect(65, &["the host record at offset 0 of disk is damaged"]);
    scene.script(&["a"], "true").expect(0, &[]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let scene = Scene::with(&["a"]);
    for args in [&["status", "disk"][..], &["status", "disk", "--json"], &["dump", "disk"], &["dump", "disk", "--json"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.args(args).current_dir(scene.folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*err), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn two_can_start_at_once_in_an_empty_folder() {
    const SAY_VERSION: &str = "echo $LEASEHOLD_VERSION";
    for wait in [WAIT, "0s"] {
        let args = ["run", "--wait", wait, "demo", "--", "sh", "-c", SAY_VERSION];
        let (scene, both) = played(|| {
            let scene = Scene::empty();
            let both = [scene.start(&args), scene.start(&args)].map(ended);
            both.iter().all(|ended| ended.code == 75 || !ended.is_busy()).then_some((scene, both))
        });
        let mut versions: Vec<u64> =
            both.iter().filter(|ended| ended.code == 0).map(|ended| ended.out.trim().parse().unwrap()).collect();
        versions.sort_unstable();
        versions.dedup();
        let refused = both.iter().filter(|ended| ended.code == 75).count();
        assert_eq!(versions.len() + refused, 2, "{both:?}");
        assert!(refused == 0 || wait == "0s" && refused == 1, "{both:?}");
        assert_eq!(left_in(scene.folder.path()), ["leasehold.img"]);
        let status = scene.run(&["status", "leasehold.img", "--json"]).expect(0, &[]).json();
        assert_eq!(status["resources"].as_array().unwrap().len(), 1);
        // Not what `status` shows: the leader that the first of them wrote at its end may land after the other's.
        let next: u64 =
            scene.run(&["run", "demo", "--", "sh", "-c", SAY_VERSION]).expect(0, &[]).out.trim().parse().unwrap();
        assert!(next > *versions.last().unwrap(), "{next} after {versions:?}");
    }
}

fn left_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
