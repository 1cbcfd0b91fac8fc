//! Making resources: what a creator that stalls, dies or is late may find, and leave.

use leasehold::Version;
use leasehold::format::{Block, BlockExtension, Geometry, Leader};
use leasehold::protocol::catalog::create::Failure;
use leasehold::protocol::procedure::{Event, Write};
use leasehold::protocol::resource::Outcome;
use leasehold::protocol::{Defect, Seen, Span, Written, reading};

use crate::device::{Device, Maker, NONCE, area, terms};
use crate::world::{A, B, C, D, id, name, owner};

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

/// Goes on until `maker` is about to write the leader that makes the resource, or the one before that says "deleted".
fn until_leader(device: &mut Device, maker: &mut Maker, cleared: bool) -> Write {
    let write = device.until_write(maker, |at| at == area(0));
    if Leader::decode(&write.bytes, area(0)).unwrap().cleared == cleared {
        return write;
    }
    device.step(maker);
    device.until_write(maker, |at| at == area(0))
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

/// The device may be formatted, and a resource made there, before it lands: the mark is of the former lockspace then.
#[test]
fn scenario_54_what_a_creator_clears_is_empty_only_in_its_own_lockspace() {
    let mut device = with_rubbish();
    let mut b = device.makes(B, "one", 1);
    let write = device.until_write(&mut b, |at| at == block_at(area(0), C));
    let read = |nonce| reading::block(Ok(&write.bytes[..512]), write.offset, nonce);
    assert_eq!(read(NONCE), Seen::Good(Block::default()));
    assert!(matches!(read(NONCE + 1), Seen::Bad(Defect::OtherFormatting { nonce: NONCE, .. })), "it is not empty");
}

/// From then on other threads of the creator's host may acquire it, and write the own block.
#[test]
fn a_creator_writes_nothing_to_the_area_once_its_leader_was_submitted() {
    for reported in [Written::Done, Written::Failed, Written::InFlight] {
        let mut device = with_rubbish();
        let mut a = device.makes(A, "one", 1);
        let leader = until_leader(&mut device, &mut a, false);
        device.lands(&leader);
        let span = Span { started: device.now, ended: device.now };
        device.report(&mut a, Event::Wrote(span, reported));
        assert_eq!(device.acquire(A, "one", area(0)), Outcome::Held(Version::new(1)));
        let held = device.bytes(area(0));
        assert_eq!(device.end(&mut a).is_ok(), reported == Written::Done);
        assert_eq!(device.bytes(area(0)), held);
    }
}

/// The mark is in the own block, which says what its generation has given up; a former lockspace's says nothing.
#[test]
fn what_stood_in_the_own_block_is_kept_only_where_the_area_is() {
    let geometry = Geometry::default();
    let at = block_at(area(0), A);
    let claims = Block { mbal: 3, bal: 3, inp: Some(owner(A, 1)), instance: Version::new(5), ..Block::default() };
    for own_lockspace in [true, false] {
        let mut device = Device::new();
        let extension =
            BlockExtension { generation: 1, nonce: NONCE, withdrawn: Some(Version::new(6)), ..Default::default() };
        let gone = Block { released: true, extension: Some(extension), ..claims.clone() };
        let own = if own_lockspace { gone } else { claims.clone() };
        let (lockspace, cleared) = if own_lockspace { (terms().lockspace, true) } else { (name("former"), false) };
        let leader = Leader::new_free(geometry, lockspace, NONCE, name("one"), 2_000, Version::new(5));
        device.put(area(0), &Leader { cleared, extension: None, ..leader }.encode(area(0)));
        device.put(at, &own.encode(geometry, at));
        assert_eq!(device.made(A, "one", 1), area(0));
        let block = device.view(area(0)).block(id(A)).unwrap();
        let withdrawn = block.extension.as_ref().and_then(|extension| extension.withdrawn);
        match own_lockspace {
            true => assert_eq!((block.instance, block.inp, withdrawn), (own.instance, own.inp, Some(Version::new(6)))),
            false => assert_eq!((block.instance, block.inp, withdrawn), (Version::new(0), None, None)),
        }
        assert!(matches!(device.acquire(C, "one", area(0)), Outcome::Held(version) if version == Version::new(6)));
    }
}

#[test]
fn scenario_49_a_leader_that_lands_late_meets_nobody() {
    let mut device = Device::new();
    let mut a = device.makes(A, "one", 1);
    let leader = until_leader(&mut device, &mut a, true);
    device.dies(A);
    assert_eq!(device.made(B, "one", 2), area(1));
    assert_eq!(device.acquire(C, "one", area(1)), Outcome::Held(Version::new(2)));
    device.lands(&leader);
    assert!(matches!(device.acquire(D, "one", area(1)), Outcome::Blocked(_)));
}

/// A resource of the same name stands there by then, or nothing.
#[test]
fn scenario_49_a_leader_that_makes_its_resource_late_makes_no_other_one() {
    for same in [true, false] {
        let mut device = Device::new();
        let mut a = device.makes(A, "one", 1);
        let leader = until_leader(&mut device, &mut a, false);
        device.dies(A);
        let next = if same { "one" } else { "two" };
        let made = device.made(B, next, 2);
        assert_eq!(made, area(u32::from(!same)));
        let Outcome::Held(version) = device.acquire(C, next, made) else { panic!("not held") };
        device.lands(&leader);
        assert!(matches!(device.acquire(D, next, made), Outcome::Blocked(blocker) if blocker.host == id(C)));
        assert_eq!(device.release(C, next, made), Outcome::Released);
        assert!(matches!(device.acquire(D, next, made), Outcome::Held(later) if later > version));
    }
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
    // Interrupted after each of its steps, up to the one that makes the resource.
    for steps in 0..6 {
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
