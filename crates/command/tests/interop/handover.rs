//! A lease goes from one leasehold host to another while a sanlock host wants it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use leasehold::{AcquireError, HandoverError, Wait};

use super::common::processes::calmly;
use super::common::sanlock::Sanlock;
use super::common::{PATIENCE, id};
use super::modes::{join, leader};
use super::{Device, T};

const LONG: Wait = Wait::For(PATIENCE);

#[test]
fn a_sanlock_host_finds_an_owner_at_every_moment_of_a_handover() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let (source, destination) = (join(&device, 2), join(&device, 3));
    let first = calmly("the index", || source.lockspace().find("first"));
    let alone = device.resource("first", 3);
    let refused = |when: &str| assert_eq!(device.sanlock_takes(&theirs, &alone), Err(-243), "{when}: {}", theirs.log());

    let lease = source.acquire(&first, LONG).unwrap();
    // A destination that gives up leaves what it said in its block.
    assert!(destination.receive(&first, Wait::For(Duration::from_secs(1))).is_err());
    refused("withdrawn");
    let received = thread::scope(|scope| {
        let answer = scope.spawn(|| destination.receive(&first, LONG));
        let to = lease.prepare_handover(id(3), LONG).unwrap();
        refused("asked");
        let handover = lease.hand_over(to, LONG).unwrap();
        let received = answer.join().unwrap().unwrap();
        handover.finish(LONG).unwrap();
        received
    });
    assert_eq!(leader(&alone), (3, received.version().get(), false));
    refused("handed over");
    let version = received.version();
    received.release().unwrap();
    device.sanlock_takes_at_last(&theirs, &alone);
    let (owner, next, _) = leader(&alone);
    assert!(owner == 1 && next > version.get(), "{owner} has version {next}");
}

#[test]
fn a_sanlock_host_neither_asks_nor_hands_over() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let (ours, other) = (join(&device, 2), join(&device, 3));
    let first = calmly("the index", || ours.lockspace().find("first"));
    let alone = device.resource("first", 3);
    let holder = device.sanlock_holds(&theirs, &alone);
    match ours.receive(&first, Wait::For(Duration::from_secs(1))) {
        Err(AcquireError::Held { holder, .. }) => assert_eq!(holder.host, id(1)),
        answer => panic!("{answer:?}"),
    }
    drop(holder);
    // Nothing that this left behind is in anybody's way.
    device.sanlock_takes_at_last(&theirs, &alone);
    let lease = ours.acquire(&first, LONG).unwrap();
    // It asks until that was seen, and then no more.
    let seen = AtomicBool::new(false);
    let to = thread::scope(|scope| {
        let asks = scope.spawn(|| {
            while !seen.load(Ordering::SeqCst) {
                assert!(other.receive(&first, Wait::For(Duration::from_secs(2))).is_err());
            }
        });
        let to = lease.prepare_handover(id(3), LONG);
        seen.store(true, Ordering::SeqCst);
        asks.join().unwrap();
        to.unwrap()
    });
    assert!(matches!(lease.hand_over(to, LONG), Err(HandoverError::NotAsked { .. })));
}
