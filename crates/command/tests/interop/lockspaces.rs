//! Lockspaces, host ids and indexes that hosts of one kind made, and those of the other use.

use leasehold::{AreaSize, SectorSize};

use super::common::sanlock::Sanlock;
use super::common::{PATIENCE, until};
use super::{Device, T, our_name};

/// A host id goes from hand to hand: held by sanlock, by leasehold, by sanlock, by leasehold. Each time the sector is
/// written by the other kind, so that what is ours alone is gone; and so is that of a resource's block.
fn pass_on(device: &Device, daemon: &Sanlock, host: u64, resource: &str, placed: &str) {
    let mut generation = 0;
    let mut grows = |who: &str, extended: bool| {
        let record = device.record(host);
        assert!(record.generation > generation, "{generation}, then {record:?}");
        generation = record.generation;
        assert!(record.is_free(), "{record:?}");
        assert_eq!((record.host_name.to_string().as_str(), record.extension.is_some()), (who, extended), "{record:?}");
    };
    let mut version = 0;
    for _ in 0..2 {
        daemon.join(&device.host(host));
        let status = device.json("status", &["--watch-for", "5s"]);
        let live = |seen: &serde_json::Value| seen["host_id"] == host && seen["state"] == "live";
        assert!(status["hosts"].as_array().unwrap().iter().any(live), "{status}");
        // Nobody else gets the id meanwhile.
        let said = device.refused(host, &["--host-name", "rival"], placed, 75);
        assert!(said.contains(&format!("held by the live host {} ", daemon.name())), "{said}");
        assert_eq!(device.sanlock_takes(daemon, resource), Ok(()));
        daemon.leave(&device.host(host));
        grows(daemon.name(), false);
        version += 1;
        assert_eq!(device.take(host, &["--wait", "20s"], placed), version + 1);
        grows(&our_name(host), true);
        version += 1;
    }
}

#[test]
fn a_lockspace_that_sanlock_made_is_shared() {
    let device = Device::small();
    let theirs = Sanlock::start("theirs", T);
    device.init(&theirs);
    device.init_resource(&theirs, "first", 3, &[]);
    assert_eq!(device.record(1).extension, None);
    let (resource, placed) = (device.resource("first", 3), device.placed("first", 3));
    for host in [1, 2000] {
        pass_on(&device, &theirs, host, &resource, &placed);
        // A host of ours held the id of the record before; it takes the other, and the resource with all that is gone.
        device.init_resource(&theirs, "first", 3, &[]);
    }
    // There is no index, which is no damage; what stands somewhere else is found.
    let status = device.json("status", &[]);
    let names: Vec<_> = status["resources"].as_array().unwrap().iter().map(|resource| &resource["name"]).collect();
    assert_eq!(names, ["first"], "{status}");
    assert_eq!(status["damaged"], serde_json::Value::Null, "{status}");
    let said = device.refused(5, &[], "first", 66);
    assert!(said.contains("index"), "{said}");
    let said = device.leasehold(&["create", device.path(), "second"], 73);
    assert!(said.contains("has no resource index"), "{said}");
}

#[test]
fn a_lockspace_that_leasehold_made_is_shared() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    pass_on(&device, &theirs, 1, &device.resource("first", 3), "first");
    // The record of host 1, which says what the timeouts are, was sanlock's for a while: the terms are still known.
    let status = device.json("status", &[]);
    assert_eq!((&status["timeouts_ms"]["io"], &status["timeouts_ms"]["dead"]), (&1000.into(), &68_000.into()));
}

#[test]
fn hosts_of_both_kinds_are_members_of_both_lockspaces_at_once() {
    let (ours, theirs) = (Device::ours(&["first"]), Device::empty(SectorSize::B4096, AreaSize::M2));
    let daemons = [Sanlock::start("theirs1", T), Sanlock::start("theirs2", T)];
    theirs.init(&daemons[0]);
    theirs.init_index(&daemons[0]);
    theirs.leasehold(&["create", theirs.path(), "first"], 0);
    let mut held = Vec::new();
    for (device, mine) in [(&ours, 3), (&theirs, 4)] {
        for (daemon, host) in daemons.iter().zip(1..) {
            daemon.join(&device.host(host));
        }
        held.push(device.hold(mine, &[], "first"));
        let states = device.states("5s");
        for host in [1, 2, mine] {
            assert!(states.contains(&(host, "live".into())), "{states:?}");
        }
        for daemon in &daemons {
            let record = device.record(mine);
            let expected = [
                format!("owner_id={mine}"),
                format!("owner_generation={}", record.generation),
                format!("io_timeout={T}"),
                format!("owner_name={}", our_name(mine)),
            ];
            until("our host's record", || {
                let shown = daemon.ask(&["host_status", "-D", "-s", &device.host(0)]).said;
                // Each host's part begins with its id, at the start of a line.
                let start = format!("{mine} timestamp ");
                let part = shown.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
                let part: Vec<&str> = part.take_while(|line| line.starts_with(' ')).map(str::trim).collect();
                expected.iter().all(|field| part.contains(&field.as_str()))
            });
            for host in [1, 2, mine] {
                daemon.await_state(&device.lockspace, host, "LIVE", PATIENCE);
            }
            assert_eq!(device.sanlock_takes(daemon, &device.resource("first", 3)), Err(-243));
        }
    }
}

#[test]
fn sanlock_uses_the_index_that_leasehold_made() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    use_index(&device, &theirs);
}

#[test]
fn leasehold_uses_the_index_that_sanlock_made() {
    let device = Device::small();
    let theirs = Sanlock::start("theirs", T);
    device.init(&theirs);
    device.init_index(&theirs);
    theirs.join(&device.host(1));
    device.leasehold(&["create", device.path(), "first"], 0);
    use_index(&device, &theirs);
}

/// With `first` in it, which leasehold created.
fn use_index(device: &Device, theirs: &Sanlock) {
    let index = device.index();
    let looked_up = |name: &str| {
        let answer = theirs.ask(&["lookup", "-x", &index, "-e", name]);
        let offset =
            answer.said.lines().find_map(|line| line.strip_prefix(&format!("name {name} offset "))?.parse().ok());
        match (answer.code, offset) {
            (Some(0), Some(offset)) => Ok(offset),
            (Some(code), None) if code < 0 => Err(code),
            _ => panic!("{answer:?}"),
        }
    };
    let ours = || {
        let status = device.json("status", &[]);
        let resources = status["resources"].as_array().unwrap().iter();
        let pair = |resource: &serde_json::Value| {
            (resource["name"].as_str().unwrap().into(), resource["offset"].as_u64().unwrap())
        };
        resources.map(pair).collect::<Vec<(String, u64)>>()
    };
    let place = |name: &str, area: u64| (name.to_string(), device.area(area));
    assert_eq!(looked_up("first"), Ok(device.area(3)));
    assert_eq!(looked_up("second"), Err(-2));
    assert_eq!(device.sanlock_takes(theirs, &device.resource("first", 3)), Ok(()));

    // The next place that is free goes to either.
    theirs.ask(&["create", "-x", &index, "-e", "second"]).expect(0);
    device.leasehold(&["create", device.path(), "third"], 0);
    assert_eq!(ours(), [place("first", 3), place("second", 4), place("third", 5)]);
    assert_eq!((looked_up("second"), looked_up("third")), (Ok(device.area(4)), Ok(device.area(5))));
    for (name, area) in [("second", 4), ("third", 5)] {
        let made = device.leader(area).version.get();
        assert_eq!(device.take(2, &[], name), made + 1);
        device.sanlock_takes_at_last(theirs, &device.resource(name, area));
        assert_eq!(device.leader(area).version.get(), made + 2);
    }
    // leasehold does not make what is there already, whoever made it.
    device.leasehold(&["create", device.path(), "second"], 73);

    // What is deleted is gone for both, and its place is used again.
    theirs.ask(&["delete", "-x", &index, "-e", "second"]).expect(0);
    assert_eq!(ours(), [place("first", 3), place("third", 5)]);
    assert_eq!(looked_up("second"), Err(-2));
    device.refused(2, &[], "second", 66);
    device.leasehold(&["create", device.path(), "fourth"], 0);
    assert_eq!(ours(), [place("first", 3), place("fourth", 4), place("third", 5)]);
    assert_eq!(looked_up("fourth"), Ok(device.area(4)));
    assert_eq!(device.sanlock_takes(theirs, &device.resource("fourth", 4)), Ok(()));
    theirs.ask(&["delete", "-x", &index, "-e", "fourth"]).expect(0);
    theirs.ask(&["create", "-x", &index, "-e", "fifth"]).expect(0);
    assert_eq!(ours(), [place("first", 3), place("fifth", 4), place("third", 5)]);
    assert!(device.take(2, &[], "fifth") >= 1);
    // A place that sanlock rebuilds the index from is what leasehold made too.
    theirs.ask(&["rebuild", "-x", &index]).expect(0);
    assert_eq!(ours(), [place("first", 3), place("fifth", 4), place("third", 5)]);
    device.leasehold(&["dump", device.path()], 0);
}
