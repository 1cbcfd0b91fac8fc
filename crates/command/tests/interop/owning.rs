//! Each kind of host respects what the other has.

use leasehold::format::{Block, Leader};
use leasehold::{Generation, Owner};
use rustix::process::Signal;

use super::common::sanlock::Sanlock;
use super::common::until;
use super::{Device, T, await_held, holder, id};

#[test]
fn what_sanlock_holds_is_refused_to_leasehold() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let held = device.sanlock_holds(&theirs, &device.resource("first", 3));
    let said = device.refused(2, &[], "first", 75);
    let generation = device.record(1).generation;
    assert!(said.contains(&format!("held by {} at version 1", holder(1, "theirs", generation))), "{said}");

    // One that waits gets it when it is released, in the next version.
    let mut waiting = device.run(2, &["--wait", "forever"], "first");
    device.refused(3, &["--wait", "2s"], "first", 75);
    assert!(waiting.ended().is_none());
    drop(held);
    assert_eq!(await_held(&mut waiting).1, 2);
    assert_eq!(device.sanlock_takes(&theirs, &device.resource("first", 3)), Err(-243));
}

#[test]
fn what_leasehold_holds_is_refused_to_sanlock() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let (mut held, version) = device.hold(2, &[], "first");
    let resource = device.resource("first", 3);
    assert_eq!(device.sanlock_takes(&theirs, &resource), Err(-243));
    assert_eq!(device.sanlock_takes(&theirs, &device.shared("first", 3)), Err(-243));
    let generation = device.record(2).generation;
    let expected = format!("paxos_acquire owner 2 {generation} ");
    assert!(theirs.log().contains(&expected), "no {expected:?} in {}", theirs.log());
    let alive = format!("paxos_acquire owner 2 delta 2 {generation} ");
    assert!(theirs.log().lines().any(|line| line.contains(&alive) && line.ends_with(" alive")), "{}", theirs.log());

    held.signal(Signal::TERM);
    assert_eq!(held.code(), 128 + 15, "{}", held.complained());
    device.sanlock_takes_at_last(&theirs, &resource);
    assert_eq!(device.leader(3).version.get(), version + 1);
    assert_eq!(device.take(2, &["--wait", "30s"], "first"), version + 2);
}

#[test]
fn shared_holders_keep_an_exclusive_one_out_and_are_named() {
    let device = Device::ours(&["first"]);
    let sharers = [Sanlock::start("sharer1", T), Sanlock::start("sharer2", T)];
    let mut held = Vec::new();
    for (daemon, host) in sharers.iter().zip(1..) {
        daemon.join(&device.host(host));
        held.push(device.sanlock_holds(daemon, &device.shared("first", 3)));
    }
    let said = device.refused(3, &[], "first", 75);
    for (daemon, host) in sharers.iter().zip(1..) {
        let expected = holder(host, daemon.name(), device.record(host).generation);
        assert!(said.contains(&expected), "no {expected:?} in {said}");
    }
    let status = device.json("status", &[]);
    assert_eq!(status["resources"][0]["state"], "shared", "{status}");

    let mut waiting = device.run(3, &["--wait", "forever"], "first");
    held.pop();
    let said = device.refused(4, &["--wait", "3s"], "first", 75);
    assert!(said.contains(&holder(1, "sharer1", device.record(1).generation)), "{said}");
    assert!(!said.contains("sharer2"), "{said}");
    assert!(waiting.ended().is_none());
    held.pop();
    await_held(&mut waiting);
    assert_eq!(device.sanlock_takes(&sharers[0], &device.shared("first", 3)), Err(-243));
}

/// A host that is about to share owns the resource for a moment, and says so.
#[test]
fn a_short_hold_is_respected() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    drop(device.sanlock_holds(&theirs, &device.resource("first", 3)));
    until("the release", || device.leader(3).is_free());
    let released = device.leader(3);
    // The moment is too short to be met for certain: so it is made to last.
    let owner = Owner { host: id(1), generation: Generation::new(device.record(1).generation).unwrap() };
    let version = released.version.after(1);
    let holding = Leader {
        short_hold: true,
        owner: Some(owner),
        version,
        timestamp: released.writer.timestamp + 1,
        ..released.clone()
    };
    device.write(device.area(3), holding.encode(device.area(3)));
    let said = device.refused(2, &[], "first", 75);
    assert!(said.contains(&holder(1, "theirs", owner.generation.get())), "{said}");
    let mut waiting = device.run(2, &["--wait", "forever"], "first");
    device.refused(3, &["--wait", "3s"], "first", 75);
    assert!(waiting.ended().is_none());
    let over = Leader { short_hold: false, timestamp: 0, ..holding };
    device.write(device.area(3), over.encode(device.area(3)));
    assert_eq!(await_held(&mut waiting).1, version.get() + 1);
}

/// sanlock's owner does not write the leader again when another host had written it: it only says so in its block.
#[test]
fn a_release_that_stands_in_the_block_alone_counts() {
    let device = Device::ours(&["first"]);
    let daemons = [Sanlock::start("theirs1", T), Sanlock::start("theirs2", T)];
    for (daemon, host) in daemons.iter().zip(1..) {
        daemon.join(&device.host(host));
    }
    let resource = device.resource("first", 3);
    let at = device.area(3);
    // Two that acquire at once may complete each other's ballot. One time out of eight they do.
    let mut tries = 0;
    let leader = loop {
        tries += 1;
        assert!(tries < 500, "no ownership that another host wrote down");
        let mut both = daemons.each_ref().map(|daemon| daemon.start_command(&resource, &["/bin/true"]));
        both.iter_mut().for_each(|process| {
            process.wait();
        });
        let leader = device.leader(3);
        let other = leader.owner.filter(|owner| !leader.is_free() && owner.host.get() != leader.writer.id);
        let Some(owner) = other else { continue };
        let block = at + device.geometry.block_offset(owner.host);
        until("the release", || Block::decode(&device.sector(block), block).unwrap().released);
        if device.leader(3) == leader {
            break leader;
        }
    };
    println!("{tries} tries");
    let status = device.json("status", &[]);
    assert_eq!(status["resources"][0]["state"], "free", "{status}");
    assert_eq!(device.take(3, &[], "first"), leader.version.get() + 1);
    device.sanlock_takes_at_last(&daemons[0], &resource);
}

#[test]
fn what_sanlock_deleted_is_not_acquired() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    theirs.ask(&["delete", "-x", &device.index(), "-e", "first"]).expect(0);
    let said = device.refused(2, &[], &device.placed("first", 3), 66);
    assert!(said.contains("it was deleted"), "{said}");
    let said = device.refused(2, &[], "first", 66);
    assert!(said.contains("there is no resource first"), "{said}");
}

#[test]
fn a_host_that_a_resource_has_no_room_for_is_refused() {
    let device = Device::ours(&[]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    device.init_resource(&theirs, "few", 7, &["-m", "3"]);
    assert_eq!(device.leader(7).num_hosts, 3);
    let few = device.placed("few", 7);
    assert_eq!(device.take(3, &[], &few), 1);
    assert_eq!(device.leader(7).num_hosts, 3);
    let said = device.refused(4, &[], &few, 64);
    assert!(said.contains("few has room for 3 hosts, this is host 4"), "{said}");
    assert_eq!(device.sanlock_takes(&theirs, &device.resource("few", 7)), Ok(()));
    theirs.leave(&device.host(1));
    theirs.join(&device.host(5));
    assert_eq!(device.sanlock_takes(&theirs, &device.resource("few", 7)), Err(-228));
    assert_eq!(device.take(3, &[], &few), 3);
}
