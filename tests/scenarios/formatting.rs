//! A device that is formatted again, while writes of hosts of the lockspace that was here before are in flight.

use leasehold::format::{Block, BlockExtension, Leader, LeaderExtension};
use leasehold::protocol::delta::{self, Acquire, Identity};
use leasehold::protocol::record::{self, RecordProcedure};
use leasehold::protocol::resource::{Effect, Outcome, Refusal};
use leasehold::protocol::{Defect, Seen, Span, reading};
use leasehold::{BootId, MachineId, Version};

use crate::world::*;

/// Of the lockspace that was here before.
const FORMER: u32 = NONCE + 1;

fn is_former<T: std::fmt::Debug>(seen: &Seen<T>) {
    assert!(matches!(seen, Seen::Bad(Defect::OtherFormatting { nonce: FORMER, .. })), "{seen:?}");
}

/// A host of the former lockspace held the same version by the same generation, and its release lands now.
#[test]
fn scenario_54_a_late_release_of_the_former_lockspace_frees_nothing() {
    let mut world = World::new();
    assert_eq!(world.take(A), Version::new(1));
    world.edit_block(A, |block| {
        block.released = true;
        let former = BlockExtension { nonce: FORMER, ..block.extension.clone().unwrap() };
        block.extension = Some(former);
    });
    is_former(&world.view().blocks[&id(A)]);
    world.is_blocked_by(C, A);
    let mut c = world.acquire(C, true);
    for _ in 0..1_000 {
        world.step(&mut c);
        assert!(!matches!(c.effect, Effect::Done(_)), "{:?}", c.effect);
    }
    // What it had may have been anything: its version is not used again.
    world.dies(A);
    match world.finish(c) {
        Outcome::Held(version) => assert!(version > Version::new(1), "{version}"),
        other => panic!("{other:?}"),
    }
}

/// Host A of the former lockspace had no part in this one's resource, where A owns nothing.
#[test]
fn scenario_54_a_late_ballot_of_the_former_lockspace_claims_nothing() {
    let mut world = World::new();
    let extension = BlockExtension { generation: 1, nonce: FORMER, ..BlockExtension::default() };
    world.edit_block(A, |block| {
        let (instance, inp) = (Version::new(7), Some(owner(A, 1)));
        *block = Block { mbal: 9, bal: 9, inp, instance, extension: Some(extension), ..Block::default() };
    });
    assert_eq!(world.view().latest_instance(), Version::new(0));
    assert_eq!(world.view().latest_shown(), Version::new(7));
    // A host rewrites what stands in its own place; others wait for that while it may live.
    world.is_blocked_by(B, A);
    let version = world.take(A);
    let a = world.release(A);
    assert_eq!(world.finish(a), Outcome::Released);
    assert!(world.take(B) > version);
}

#[test]
fn scenario_54_a_late_leader_of_the_former_lockspace_is_no_leader() {
    let mut world = World::new();
    world.take(A);
    let former = Some(LeaderExtension { nonce: FORMER, judged: false });
    world.leader = Leader { extension: former, version: Version::new(9), timestamp: 0, ..world.leader.clone() };
    is_former(&world.view().leader);
    let c = world.acquire(C, false);
    match world.finish(c) {
        Outcome::Refused(Refusal::LeaderDamaged(Defect::OtherFormatting { nonce: FORMER, number: 9 })) => {}
        other => panic!("{other:?}"),
    }
    assert!(world.view().leader_of(name("ls"), name("res")).is_err());
}

/// Neither a renewal of the former lockspace nor its release says anything of the generation that holds the id now.
#[test]
fn scenario_54_a_late_host_record_of_the_former_lockspace_says_nothing() {
    let (me, at) = (id(A), leasehold::format::Geometry::default().delta_offset(id(A)));
    let mut former = record(owner(A, 4), timeouts());
    former.extension.as_mut().unwrap().nonce = FORMER;
    for timestamp in [former.timestamp, 0] {
        former.timestamp = timestamp;
        let sector = former.encode(at);
        let seen = reading::record(Ok(&sector), at, NONCE);
        is_former(&seen);
        // Who repairs it must not take it for a release.
        let rest = seen.bad().and_then(|defect| reading::rest(defect, &sector, |_| Ok::<_, ()>(())));
        assert_eq!(rest, None);
        let identity = Identity { name: name("host"), machine: MachineId::new(A), boot: BootId::new(1), session: 1 };
        let now = World::new().now;
        match Acquire::new(me, identity, terms(), 0).step(record::Event::Read(Span { started: now, ended: now }, seen))
        {
            record::Effect::Done(Err(delta::Refusal::Damaged(Defect::OtherFormatting { number: 4, .. }))) => {}
            other => panic!("{other:?}"),
        }
    }
    former.extension = None;
    assert!(reading::record(Ok(&former.encode(at)), at, NONCE).good().is_some(), "a sanlock host has no nonce");
}
