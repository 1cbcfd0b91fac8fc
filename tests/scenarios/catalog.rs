//! Making resources: what a creator that stalls, dies or is late may find, and leave.

use leasehold::Version;
use leasehold::format::{Geometry, Leader};
use leasehold::protocol::Span;
use leasehold::protocol::Written;
use leasehold::protocol::catalog::create::Failure;
use leasehold::protocol::procedure::Event;
use leasehold::protocol::resource::Outcome;

use crate::device::{Device, area, terms};
use crate::world::{A, B, C, D, id, name};

fn block_at(area: u64, host: u64) -> u64 {
    area + Geometry::default().block_offset(id(host))
}

/// An area that something else left its bytes in.
fn with_rubbish() -> Device {
    let mut device = Device::new();
    for sector in 0..8 {
        device.put(area(0) + sector * 512, &[0xa5; 512]);
    }
    device
}

#[test]
fn a_new_resource_is_listed_and_starts_at_version_one() {
    let mut device = with_rubbish();
    assert_eq!(device.made(A, "one", 1), area(0));
    assert_eq!(device.made(B, "two", 2), area(1));
    let listed: Vec<u64> = device.index().resources().map(|resource| resource.offset()).collect();
    assert_eq!(listed, [area(0), area(1)]);
    assert_eq!(device.acquire(C, "one", area(0)), Outcome::Held(Version::new(1)));
    // Its versions are above all that there were when it was made.
    assert_eq!(device.acquire(C, "two", area(1)), Outcome::Held(Version::new(2)));
    let mut again = device.makes(D, "one", 3);
    assert_eq!(device.end(&mut again), Err(Failure::Exists));
    let left =
        device.view(area(0)).good_blocks().any(|(_, block)| block.extension.as_ref().is_some_and(|it| it.making));
    assert!(!left, "the mark stays");
}

#[test]
fn scenario_49_a_creator_that_stalls_before_its_first_write_clears_nothing_of_what_others_made_there() {
    let mut device = with_rubbish();
    let mut a = device.makes(A, "one", 1);
    let mark = device.until_write(&mut a, |at| at == block_at(area(0), A));
    device.dies(A);
    assert_eq!(device.made(B, "two", 2), area(0));
    assert_eq!(device.acquire(C, "two", area(0)), Outcome::Held(Version::new(2)));
    // A does nothing after it: its membership is lost.
    device.lands(&mark);
    assert!(matches!(device.acquire(D, "two", area(0)), Outcome::Blocked(blocker) if blocker.host == id(C)));
}

#[test]
fn scenario_49_what_a_creator_is_clearing_nobody_uses() {
    let mut device = with_rubbish();
    let mut a = device.makes(A, "one", 1);
    let clearing = device.until_write(&mut a, |at| at == area(0) + 512);
    device.dies(A);
    let made = device.made(B, "two", 2);
    assert_eq!(made, area(1));
    assert_eq!(device.acquire(C, "two", made), Outcome::Held(Version::new(2)));
    let before = device.bytes(made);
    device.lands(&clearing);
    assert_eq!(device.bytes(made), before);
    // Nor does anybody when more places are asked for than there are.
    for (number, guard) in (3..).zip(3..5) {
        device.made(B, &format!("more{number}"), guard);
    }
    let mut full = device.makes(B, "none", 9);
    assert!(matches!(device.end(&mut full), Err(Failure::Full { passed_over }) if passed_over.len() == 1));
    // When A's machine has its id again, nothing of the one before is in flight.
    device.comes_back(A);
    assert_eq!(device.made(B, "last", 10), area(0));
    assert!(matches!(device.acquire(D, "last", area(0)), Outcome::Held(_)));
}

#[test]
fn scenario_49_a_leader_that_lands_late_meets_nobody() {
    let mut device = Device::new();
    let mut a = device.makes(A, "one", 1);
    let leader = device.until_write(&mut a, |at| at == area(0));
    device.dies(A);
    assert_eq!(device.made(B, "one", 2), area(1));
    assert_eq!(device.acquire(C, "one", area(1)), Outcome::Held(Version::new(2)));
    device.lands(&leader);
    assert!(matches!(device.acquire(D, "one", area(1)), Outcome::Blocked(_)));
}

#[test]
fn scenario_50_a_creator_that_is_interrupted_loses_no_version() {
    let mut device = Device::new();
    device.made(A, "one", 1);
    for _ in 0..4 {
        assert!(matches!(device.acquire(C, "one", area(0)), Outcome::Held(_)));
        assert_eq!(device.release(C, "one", area(0)), Outcome::Released);
    }
    // As sanlock deletes a resource, but that it leaves the blocks.
    let geometry = Geometry::default();
    let leader = device.leader(area(0)).unwrap();
    device.put(area(0), &Leader { cleared: true, ..leader }.encode(area(0)));
    let sector = geometry.area_bytes() + 512;
    device.put(sector, &[0; 512]);
    // Interrupted after each of its writes.
    for steps in 0..4 {
        let mut b = device.makes(B, "one", 2);
        for _ in 0..steps {
            device.step(&mut b);
        }
        device.dies(B);
        device.comes_back(B);
    }
    let made = device.made(D, "one", 3);
    assert!(matches!(device.acquire(C, "one", made), Outcome::Held(version) if version == Version::new(5)));
}

#[test]
fn an_area_whose_leader_rotted_is_not_made_again() {
    let mut device = Device::new();
    device.made(A, "one", 1);
    assert!(matches!(device.acquire(C, "one", area(0)), Outcome::Held(_)));
    device.put(area(0), &[0x77; 512]);
    device.put(Geometry::default().area_bytes() + 512, &[0; 512]);
    assert_eq!(device.made(B, "two", 2), area(1));
}

#[test]
fn a_creation_that_fails_takes_its_mark_away() {
    let mut device = with_rubbish();
    let mut a = device.makes(A, "one", 1);
    device.until_write(&mut a, |at| at == area(0) + 512);
    let span = Span { started: device.now, ended: device.now };
    device.report(&mut a, Event::Wrote(span, Written::Failed));
    assert_eq!(device.end(&mut a), Err(Failure::Storage));
    assert_eq!(device.made(B, "two", 2), area(0));
    let leader = device.leader(area(0)).unwrap();
    assert_eq!((leader.resource, leader.lockspace), (name("two"), terms().lockspace));
}
