//! Hosts of either kind that are declared dead, and what a repair has written, as the other kind sees it.

use rustix::process::Signal;

use super::common::sanlock::Sanlock;
use super::common::until;
use super::{Device, T};

/// `leasehold declare-dead` of the generation that the host's record shows ends with this exit code.
#[track_caller]
fn declare_dead(device: &Device, host: u64, code: i32) -> String {
    let (host, generation) = (host.to_string(), device.record(host).generation.to_string());
    device.leasehold(&["declare-dead", device.path(), &host, "--generation", &generation, "--fenced"], code)
}

/// The daemon sees that nobody holds the host id: then it doesn't list it.
#[track_caller]
fn is_free(daemon: &Sanlock, device: &Device, host: u64) {
    until("a free host id", || !daemon.states()[&device.lockspace].contains_key(&host));
}

/// Nobody here waits for as long as it takes until a host is dead by itself.
#[test]
fn a_host_of_sanlock_that_is_declared_dead_is_replaced_at_once() {
    let device = Device::ours(&["first"]);
    let [theirs, peer] = ["theirs", "peer"].map(|name| Sanlock::start(name, T));
    theirs.join(&device.host(1));
    peer.join(&device.host(2));
    let _held = device.sanlock_holds(&theirs, &device.resource("first", 3));
    let said = declare_dead(&device, 1, 75);
    assert!(said.contains("is alive"), "{said}");
    device.refused(3, &[], "first", 75);

    theirs.kill();
    declare_dead(&device, 1, 0);
    assert_eq!(device.take(3, &["--wait", "10s"], "first"), 2);
    is_free(&peer, &device, 1);
    device.sanlock_takes_at_last(&peer, &device.resource("first", 3));
    // Its host id is anybody's.
    let next = Sanlock::start("next", T);
    next.join(&device.host(1));
    device.sanlock_takes_at_last(&next, &device.resource("first", 3));
}

#[test]
fn a_host_of_leasehold_that_is_declared_dead_is_replaced_by_sanlock_at_once() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let (mut owner, version) = device.hold(2, &[], "first");
    assert_eq!(device.sanlock_takes(&theirs, &device.resource("first", 3)), Err(-243));
    owner.signal(Signal::KILL);
    assert_eq!(owner.code(), 128 + 9);
    until("the end of the guard and the command", || device.mark.living().is_empty());

    declare_dead(&device, 2, 0);
    device.sanlock_takes_at_last(&theirs, &device.resource("first", 3));
    assert!(device.leader(3).version.get() > version);
    is_free(&theirs, &device, 2);
}

/// A leader, a block and the index: sanlock takes what was written anew for its own.
#[test]
fn what_a_repair_has_written_is_valid_to_sanlock() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    assert_eq!(device.take(2, &[], "first"), 1);
    let resource = device.resource("first", 3);
    device.sanlock_takes_at_last(&theirs, &resource);
    // That writes the leader once more, after the command has ended.
    until("the release", || device.leader(3).is_free());
    let damage = || vec![0xff; device.geometry.sector_bytes()];
    let own_block = device.area(3) + device.geometry.block_offset(super::id(2));
    for at in [device.area(3), own_block, device.area(1) + device.geometry.index_entry_offset(0)] {
        device.write(at, damage());
    }
    assert!(device.sanlock_takes(&theirs, &resource).is_err());
    // Neither the index nor the area says what it was.
    device.leasehold(&["repair", device.path()], 65);
    device.leasehold(&["repair", device.path(), "--resource", &device.placed("first", 3)], 0);
    device.leasehold(&["repair", device.path()], 0);
    device.leasehold(&["status", device.path()], 0);
    let index = theirs.ask(&["lookup", "-x", &device.index(), "-e", "first"]).expect(0);
    assert!(index.said.contains(&device.area(3).to_string()), "{index:?}");
    device.sanlock_takes_at_last(&theirs, &resource);
    assert!(device.take(2, &["--wait", "10s"], "first") > 1 << 40);
}
