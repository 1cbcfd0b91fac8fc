//! A device that is formatted again, while writes of hosts of the lockspace that was here before are in flight.

use std::time::Duration;

use leasehold::format::{AreaSize, Block, BlockExtension, DeltaRecord, Geometry, Leader, LeaderExtension, SectorSize};
use leasehold::protocol::catalog::Found;
use leasehold::protocol::catalog::format::{Format, LARGEST_AREA, Plan, Refusal as Refused};
use leasehold::protocol::delta::{self, Acquire, Bid, Identity, Terms};
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::procedure::{Effect, Event, Extent, Procedure, Sectors};
use leasehold::protocol::record::{self, RecordProcedure};
use leasehold::protocol::resource::{self, Operation, Outcome, Refusal};
use leasehold::protocol::{Defect, Seen, Span, Written, reading};
use leasehold::{BootId, MachineId, Time, Version, stretched};

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
        assert!(!matches!(c.effect, resource::Effect::Done(_)), "{:?}", c.effect);
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
        let mut join = Acquire::new(Bid::new(me, timeouts().dead()), identity, terms(), 0);
        match RecordProcedure::step(&mut join, record::Event::Read(Span { started: now, ended: now }, seen)) {
            record::Effect::Done(Err(delta::Refusal::Damaged(Defect::OtherFormatting { number: 4, .. }))) => {}
            other => panic!("{other:?}"),
        }
    }
    former.extension = None;
    assert!(reading::record(Ok(&former.encode(at)), at, NONCE).good().is_some(), "a sanlock host has no nonce");
}

/// How many ids there are, as far as anybody looks here.
const IDS: u64 = 8;
/// Of the lockspace that the device is formatted with.
const NEW: u32 = NONCE + 7;

/// A device with a lockspace.
struct Device {
    bytes: Vec<u8>,
    now: Time,
    observer: Observer,
    /// How long a write takes.
    slow: Duration,
}

/// A format, and what it waits for.
#[derive(Clone)]
struct Formatting {
    format: Format,
    /// The size of one.
    sector: usize,
    effect: Effect<Result<(), Refused>>,
}

impl Device {
    /// Host A held its id and left, B's was never given back; the other ids were never used.
    fn new() -> Device {
        let now = Time::ZERO + Duration::from_secs(1_000);
        let bytes = vec![0; 6 << 20];
        let mut device = Device { bytes, now, observer: Observer::new(timeouts()), slow: Duration::ZERO };
        for host in 1..=IDS {
            device.put(&DeltaRecord::free(Geometry::default(), name("ls"), NONCE, timeouts()), host);
        }
        device.put(&DeltaRecord { timestamp: 0, ..record(owner(A, 4), timeouts()) }, A);
        device.put(&record(owner(B, 9), timeouts()), B);
        device
    }

    /// With room for areas of any sizes, and nothing on it.
    fn blank() -> Device {
        Device { bytes: vec![0; 32 << 20], ..Device::new() }
    }

    fn put(&mut self, record: &DeltaRecord, host: u64) {
        let at = (host - 1) * 512;
        self.write(at, &record.encode(at));
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn record(&self, host: u64) -> DeltaRecord {
        let at = (host - 1) * 512;
        DeltaRecord::decode(&self.bytes[at as usize..][..512], at).unwrap()
    }

    fn guard(&self) -> Leader {
        Leader::decode(&self.bytes[GUARD as usize..][..512], GUARD).unwrap()
    }

    /// Begins to format it as `nonce`.
    fn formats(&self, nonce: u32, force: bool) -> Formatting {
        self.plans(Plan {
            terms: Terms { nonce, ..terms() },
            index: None,
            guard: name("guard"),
            guard_offset: GUARD,
            force,
            len: self.bytes.len() as u64,
            searched: IDS * 512,
        })
    }

    /// The same, with these sizes and all ids.
    fn format_to(&self, geometry: Geometry, nonce: u32, force: bool) -> Formatting {
        self.plans(Plan {
            terms: Terms { geometry, nonce, ..terms() },
            index: None,
            guard: name("guard"),
            guard_offset: 2 * geometry.area_bytes(),
            force,
            len: self.bytes.len() as u64,
            searched: LARGEST_AREA,
        })
    }

    fn plans(&self, plan: Plan) -> Formatting {
        let sector = plan.terms.geometry.sector_bytes();
        let mut format = Format::new(plan);
        let effect = format.step(Event::Begun(self.now), &mut Observer::new(timeouts()));
        Formatting { format, sector, effect }
    }

    /// Carries out the effect that `run` waits for.
    fn step(&mut self, run: &mut Formatting) {
        let started = self.now;
        self.now = self.now + Duration::from_millis(1);
        let event = match run.effect.clone() {
            Effect::Read { extents, .. } => {
                let read =
                    |extent: &Extent| &self.bytes[extent.offset as usize..][..extent.sectors as usize * run.sector];
                let bytes: Vec<u8> = extents.iter().flat_map(read).copied().collect();
                Event::Read(Span { started, ended: self.now }, Sectors::whole(run.sector, bytes))
            }
            Effect::Write(write) if write.window.is_open(started) => {
                self.write(write.offset, &write.bytes);
                self.now = self.now + self.slow;
                Event::Wrote(Span { started, ended: self.now }, Written::Done)
            }
            Effect::Write(_) => Event::TooLate(self.now),
            Effect::Wait(until) => {
                self.now = self.now.max(until);
                Event::Woke(self.now)
            }
            Effect::Done(_) => unreachable!("it is over"),
        };
        run.effect = run.format.step(event, &mut self.observer);
    }

    /// Goes on until what is to be done next is `wanted`.
    fn until(&mut self, run: &mut Formatting, wanted: impl Fn(&Effect<Result<(), Refused>>) -> bool) {
        while !wanted(&run.effect) {
            assert!(!matches!(run.effect, Effect::Done(_)), "{:?}", run.effect);
            self.step(run);
        }
    }

    /// Goes on until so many writes are over, or the format is.
    fn after(&mut self, run: &mut Formatting, writes: usize) {
        for _ in 0..writes {
            while !matches!(run.effect, Effect::Write(_) | Effect::Done(_)) {
                self.step(run);
            }
            if matches!(run.effect, Effect::Done(_)) {
                return;
            }
            self.step(run);
        }
    }

    fn finish(&mut self, mut run: Formatting) -> Result<(), Refused> {
        loop {
            if let Effect::Done(answer) = run.effect {
                return answer;
            }
            self.step(&mut run);
        }
    }

    fn found(&self) -> Found {
        Found::search(&self.bytes[..IDS as usize * 512]).unwrap()
    }
}

const GUARD: u64 = 2 << 20;
/// For the write of the first record, which comes last.
const LAST: u64 = u64::MAX;

fn writes_at(offset: u64) -> impl Fn(&Effect<Result<(), Refused>>) -> bool {
    move |effect| matches!(effect, Effect::Write(write) if write.offset == offset)
}

fn waits(effect: &Effect<Result<(), Refused>>) -> bool {
    matches!(effect, Effect::Wait(_))
}

/// The largest sectors and areas.
fn large() -> Geometry {
    Geometry::new(SectorSize::B4096, AreaSize::M8).unwrap()
}

/// What a join of the former lockspace writes.
fn joiner(host: u64) -> DeltaRecord {
    record(owner(host, 1), timeouts())
}

/// A record of the lockspace with that nonce.
fn on(nonce: u32, mut record: DeltaRecord) -> DeltaRecord {
    record.extension.as_mut().unwrap().nonce = nonce;
    record
}

#[test]
fn a_lockspace_without_a_live_host_is_replaced_after_d() {
    let mut device = Device::new();
    let plain = device.formats(NEW, false);
    assert_eq!(device.finish(plain), Err(Refused::Exists(name("ls"))));
    let begun = device.now;
    let run = device.formats(NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    assert!(device.now.since(begun) >= stretched(timeouts().dead()), "host B may live");
    let found = device.found();
    assert_eq!((found.terms.nonce, found.complete), (NEW, true));
    // Nobody is left: then nobody has to be watched.
    let begun = device.now;
    let again = device.formats(NEW + 1, true);
    assert_eq!(device.finish(again), Ok(()));
    assert!(device.now.since(begun) < timeouts().dead());
}

#[test]
fn scenario_54_a_host_that_joins_while_the_device_is_formatted_is_seen() {
    let mut device = Device::new();
    let mut run = device.formats(NEW, true);
    device.until(&mut run, waits);
    // Its id is above all in use.
    device.put(&joiner(7), 7);
    assert_eq!(device.finish(run), Err(Refused::InUse(id(7), joiner(7).host_name)));
    assert_eq!(device.found().terms.nonce, NONCE);
}

/// It read its record before that was overwritten, and writes it within T.
#[test]
fn scenario_54_a_join_that_lands_after_the_overwriting_ends_the_format() {
    let mut device = Device::new();
    let mut run = device.formats(NEW, true);
    device.until(&mut run, writes_at(512));
    device.step(&mut run);
    device.until(&mut run, waits);
    device.put(&joiner(7), 7);
    assert_eq!(device.finish(run), Err(Refused::Overtaken(6 * 512)));
    assert!(!device.found().complete, "there is no lockspace");
    assert!(device.bytes[GUARD as usize + 512..][..512] == [0; 512], "and no block behind it was written");
}

/// A write of a record that takes longer than 2T may hit a host that has completed its join meanwhile.
#[test]
fn scenario_54_whoever_may_have_joined_behind_a_slow_write_is_waited_for() {
    for (slow, least) in [(timeouts().io(), timeouts().io() * 2), (timeouts().io() * 3, timeouts().dead())] {
        let mut device = Device::new();
        device.slow = slow;
        let mut run = device.formats(NEW, true);
        device.until(&mut run, writes_at(512));
        device.until(&mut run, waits);
        let written = device.now;
        device.step(&mut run);
        let settled = device.now.since(written);
        assert!(settled >= stretched(least), "{settled:?} after writes of {slow:?}");
        assert!(settled < least + timeouts().io() * 2, "{settled:?} after writes of {slow:?}");
        assert_eq!(device.finish(run), Ok(()));
    }
}

#[test]
fn scenario_54_an_interrupted_format_is_followed_only_by_one_that_watches() {
    let mut device = Device::new();
    let mut interrupted = device.formats(NEW, true);
    device.until(&mut interrupted, writes_at(512));
    device.step(&mut interrupted);
    assert!(!device.found().complete);
    let plain = device.formats(NEW + 1, false);
    assert_eq!(device.finish(plain), Err(Refused::Exists(name("ls"))), "host B may live");
    let again = device.formats(NEW + 1, true);
    assert_eq!(device.finish(again), Ok(()));
    assert_eq!(device.found().terms.nonce, NEW + 1);
    // Where no id was ever used a plain one will do; whoever may be at it is still watched.
    let mut device = Device::new();
    for host in [A, B] {
        device.put(&DeltaRecord::free(Geometry::default(), name("ls"), NONCE, timeouts()), host);
    }
    let mut interrupted = device.formats(NEW, true);
    device.until(&mut interrupted, writes_at(512));
    device.step(&mut interrupted);
    let again = device.formats(NEW + 1, false);
    assert_eq!(device.finish(again), Ok(()));
    device.until(&mut interrupted, |effect| matches!(effect, Effect::Done(_)));
    assert!(matches!(interrupted.effect, Effect::Done(Err(Refused::Overtaken(_)))), "it comes too late, and sees it");
    assert_eq!(device.found().terms.nonce, NEW + 1);
}

/// Its last write of records took long, and hit a host that had joined meanwhile. It would have waited for that one.
#[test]
fn scenario_54_a_format_that_wrote_all_records_and_went_no_further_is_followed_by_one_that_watches() {
    let mut device = Device::new();
    let mut interrupted = device.formats(NEW, true);
    device.until(&mut interrupted, writes_at((IDS - 1) * 512));
    device.step(&mut interrupted);
    let found = device.found();
    assert!(!found.complete && found.records.values().all(DeltaRecord::is_free), "nothing shows that anybody lives");
    let begun = device.now;
    let mut again = device.formats(NEW + 1, true);
    device.until(&mut again, writes_at(0));
    assert!(device.now.since(begun) >= stretched(timeouts().dead()));
    assert_eq!(device.finish(again), Ok(()));
}

/// It is paused between two of its writes, while another one formats the device and hosts join.
#[test]
fn scenario_54_a_format_that_was_paused_destroys_nothing() {
    for offset in [0, GUARD, 512, GUARD + 512, LAST] {
        let mut device = Device::new();
        let mut paused = device.formats(NEW, true);
        if offset == LAST {
            device.until(&mut paused, writes_at(GUARD + 512));
            device.until(&mut paused, writes_at(0));
        } else {
            device.until(&mut paused, writes_at(offset));
        }
        device.now = device.now + timeouts().dead();
        let other = device.formats(NEW + 1, true);
        assert_eq!(device.finish(other), Ok(()));
        let holder = DeltaRecord { generation: 1 << 30, ..joiner(3) };
        device.put(&holder, 3);
        let before = device.bytes.clone();
        let refused = device.finish(paused).unwrap_err();
        assert!(matches!(refused, Refused::Overtaken(_) | Refused::InUse(..)), "paused before its write at {offset}");
        assert!(device.bytes == before, "paused before its write at {offset}");
    }
}

#[test]
fn scenario_54_generations_go_on_and_ids_that_were_never_used_stay_so() {
    let mut device = Device::new();
    // A leader shows a later generation of A than its record, which was set back.
    let leader = Leader {
        owner: Some(owner(A, 5_000)),
        timestamp: 7,
        ..Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(3))
    };
    device.write(4 << 20, &leader.encode(4 << 20));
    // The record of host C is damaged.
    device.bytes[2 * 512 + 60] ^= 1;
    let run = device.formats(NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    for (host, former) in [(A, 5_000), (B, 9), (C, 1)] {
        let record = device.record(host);
        assert!(record.generation > former + 1_024, "host {host}: {record:?}");
        assert!(record.is_free() && record.owner_id == host, "{record:?}");
    }
    for host in 4..=IDS {
        let record = device.record(host);
        assert_eq!((record.generation, record.owner_id), (0, 0));
    }
}

/// Versions belong to places, and a resource may get another place. All of them go on from the largest.
#[test]
fn scenario_55_the_version_goes_on_from_the_largest_of_all_resources() {
    let mut device = Device::new();
    let free = |area: u64, version| {
        Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(version)).encode(area)
    };
    device.write(GUARD, &free(GUARD, 8));
    device.write(3 << 20, &free(3 << 20, 40));
    device.write(4 << 20, &free(4 << 20, 50));
    // That one was set back by a late write.
    let block = Block { mbal: 1, bal: 1, inp: Some(owner(B, 9)), instance: Version::new(51), ..Block::default() };
    let at = (4 << 20) + Geometry::default().block_offset(id(B));
    device.write(at, &block.encode(Geometry::default(), at));
    let run = device.formats(NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    assert_eq!((device.guard().version, device.guard().is_free()), (Version::new(51), true));
    assert_eq!(device.guard().extension.map(|extension| extension.nonce), Some(NEW));
}

/// From there nobody could go on.
#[test]
fn scenario_57_a_format_does_not_go_on_from_a_number_that_no_host_reaches() {
    let (mut device, far) = (Device::new(), 1 << 60);
    let leader = |area: u64, version| {
        Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(version)).encode(area)
    };
    device.write(3 << 20, &leader(3 << 20, 40));
    device.write(4 << 20, &leader(4 << 20, far));
    device.put(&record(owner(B, far), timeouts()), B);
    let block = Block { mbal: 1, bal: 1, inp: Some(owner(A, far)), instance: Version::new(far), ..Block::default() };
    let at = (4 << 20) + Geometry::default().block_offset(id(A));
    device.write(at, &block.encode(Geometry::default(), at));
    let run = device.formats(NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    assert_eq!(device.guard().version, Version::new(40));
    let generations = [A, B].map(|host| device.record(host).generation);
    assert!(generations.iter().all(|generation| (1 << 20..far / 2).contains(generation)), "{generations:?}");
}

/// The largest version is shown by one of the guard's own blocks, which the interrupted format writes over.
#[test]
fn scenario_55_the_version_outlasts_a_format_that_is_interrupted_anywhere() {
    for writes in 0..9 {
        let mut device = Device::new();
        let leader = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("guard"), 2_000, Version::new(8));
        device.write(GUARD, &leader.encode(GUARD));
        let block = Block { mbal: 1, bal: 1, inp: Some(owner(B, 9)), instance: Version::new(9), ..Block::default() };
        let at = GUARD + Geometry::default().block_offset(id(B));
        device.write(at, &block.encode(Geometry::default(), at));
        let mut run = device.formats(NEW, true);
        device.after(&mut run, writes);
        // And one write of a host of the former lockspace lands late.
        device.write(GUARD, &leader.encode(GUARD));
        let again = device.formats(NEW + 1, true);
        assert_eq!(device.finish(again), Ok(()));
        let version = device.guard().version;
        assert!(version >= Version::new(9), "{version} after {writes} writes");
        // The version outlasts the leader, too.
        let block = reading::block(Ok(&device.bytes[at as usize..][..512]), at, NEW + 1).good().unwrap().clone();
        assert_eq!((block.instance, block.is_blank()), (version, true));
    }
}

/// A late write has set the leader back to version 8, and one of an earlier format has hit the blocks, of which one
/// showed version 9.
#[test]
fn scenario_55_a_version_that_nothing_shows_any_more_is_not_used_again() {
    let mut device = Device::new();
    let leader = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("guard"), 2_000, Version::new(8));
    device.write(GUARD, &leader.encode(GUARD));
    let at = GUARD + Geometry::default().block_offset(id(B));
    device.write(at, &Block::blank(FORMER, Version::new(3)).encode(Geometry::default(), at));
    let run = device.formats(NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    assert!(device.guard().version >= Version::new(9), "{}", device.guard().version);
    // The same where the leader is lost, and a block shows that it was one of this lockspace.
    let mut device = Device::new();
    device.write(at, &Block::blank(NONCE, Version::new(8)).encode(Geometry::default(), at));
    let run = device.formats(NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    assert!(device.guard().version >= Version::new(9), "{}", device.guard().version);
}

/// An interrupted format has written the leader, which was damaged then; the blocks are of the lockspace before it.
#[test]
fn scenario_55_a_version_that_a_damaged_leader_showed_is_not_used_again() {
    let mut device = Device::new();
    let at = GUARD + Geometry::default().block_offset(id(B));
    device.write(at, &Block::blank(FORMER, Version::new(8)).encode(Geometry::default(), at));
    device.write(GUARD, &[0xa5; 512]);
    let run = device.formats(NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    assert!(device.guard().version >= Version::new(10), "{}", device.guard().version);
}

/// A late leader of the former lockspace and late blocks of a format that died are all that shows the versions.
#[test]
fn scenario_55_what_is_rebuilt_goes_on_from_what_late_writes_of_other_formattings_show() {
    let mut world = World::new();
    let former = Some(LeaderExtension { nonce: FORMER, judged: false });
    world.leader = Leader { extension: former, version: Version::new(9), timestamp: 0, ..world.leader.clone() };
    let held = Version::new(3 << 40);
    let me = world.present(C);
    world.edit_block(C, |block| *block = Block::blank(FORMER, held));
    let (operation, effect) = Operation::rebuild(World::subject(me), None, None, world.now);
    match world.finish(Run { me, operation, effect }) {
        Outcome::Held(version) => assert!(version > held, "{version}"),
        other => panic!("{other:?}"),
    }
}

/// The records of the former lockspace went on to where the areas of the new one are, and the other way round: what
/// shows the version is overwritten together with records.
#[test]
fn scenario_55_the_version_outlasts_a_format_to_other_sizes_that_is_interrupted_anywhere() {
    let (large, small) = (large(), Geometry::default());
    for (before, after) in [(small, large), (large, small)] {
        for writes in (0..8).chain((8..45).step_by(9)) {
            let mut device = Device::blank();
            let first = device.format_to(before, NONCE, false);
            assert_eq!(device.finish(first), Ok(()));
            let (guard, top) = (2 * before.area_bytes(), Version::new(9));
            let sole = Leader::new_free(before, name("ls"), NONCE, name("guard"), before.max_hosts(), top);
            device.write(guard, &sole.encode(guard));
            let mut run = device.format_to(after, NEW, true);
            device.after(&mut run, writes);
            let again = device.format_to(after, NEW + 1, true);
            assert_eq!(device.finish(again), Ok(()));
            let guard = 2 * after.area_bytes();
            let leader = Leader::decode(&device.bytes[guard as usize..][..after.sector_bytes()], guard).unwrap();
            assert!(leader.version >= top, "to {after} after {writes} writes");
        }
    }
}

/// A host whose join came to an end behind the overwriting has acquired something in an area of the former sizes, and
/// the format ended for it.
#[test]
fn scenario_55_a_version_in_an_area_of_other_sizes_outlasts_the_records_of_its_lockspace() {
    let (large, small) = (large(), Geometry::default());
    // No area of the other sizes begins at the first of these places, and the second one shows no leader of theirs.
    for (before, after, area) in [(small, large, 9 << 20), (large, small, 24 << 20)] {
        let mut device = Device::blank();
        let first = device.format_to(before, NONCE, false);
        assert_eq!(device.finish(first), Ok(()));
        let mut run = device.format_to(after, NEW, true);
        device.until(&mut run, waits);
        let top = Version::new(9);
        let leader = Leader::new_free(before, name("ls"), NONCE, name("res"), before.max_hosts(), top);
        device.write(area, &leader.encode(area));
        let again = device.format_to(after, NEW + 1, true);
        assert_eq!(device.finish(again), Ok(()));
        let guard = 2 * after.area_bytes();
        let leader = Leader::decode(&device.bytes[guard as usize..][..after.sector_bytes()], guard).unwrap();
        assert!(leader.version >= top, "to {after}: {}", leader.version);
    }
}

/// What the other format has written is not where the next piece of this one belongs.
#[test]
fn scenario_54_a_format_to_large_areas_that_was_paused_writes_nothing_into_another_lockspace() {
    let mut device = Device::blank();
    let mut paused = device.format_to(large(), NONCE, false);
    device.until(&mut paused, |effect| matches!(effect, Effect::Write(write) if write.offset > 4 << 20));
    device.step(&mut paused);
    let other = device.format_to(Geometry::default(), NEW, true);
    assert_eq!(device.finish(other), Ok(()));
    let before = device.bytes.clone();
    assert_eq!(device.finish(paused), Err(Refused::Overtaken(0)));
    assert!(device.bytes == before, "it has written something");
}

/// An owner's block shows the version still, which the leader of other sizes does not.
#[test]
fn scenario_55_a_late_leader_of_other_sizes_hides_no_version() {
    let (large, small) = (large(), Geometry::default());
    let mut device = Device::blank();
    let mut late = device.format_to(large, FORMER, false);
    device.until(&mut late, writes_at(16 << 20));
    let Effect::Write(note) = late.effect else { unreachable!() };
    device.bytes.fill(0);
    let first = device.format_to(small, NONCE, false);
    assert_eq!(device.finish(first), Ok(()));
    let (host, version) = (7, Version::new(9));
    device.put(&DeltaRecord { timestamp: 0, ..record(owner(host, 4), timeouts()) }, host);
    let at = (16 << 20) + small.block_offset(id(host));
    let block = Block { instance: version, released: true, ..Block::blank(NONCE, version) };
    device.write(at, &block.encode(small, at));
    device.write(note.offset, &note.bytes);
    let again = device.format_to(small, NEW, true);
    assert_eq!(device.finish(again), Ok(()));
    assert!(device.guard().version > version, "{}: it may have been a later one", device.guard().version);
}

/// What is left of areas of other sizes says nothing of what was lost in this lockspace.
#[test]
fn versions_do_not_jump_for_what_is_left_of_large_areas() {
    let (large, small) = (large(), Geometry::default());
    let mut device = Device::blank();
    for (geometry, nonce) in [(large, FORMER), (small, NONCE)] {
        let run = device.format_to(geometry, nonce, true);
        assert_eq!(device.finish(run), Ok(()));
    }
    device.put(&DeltaRecord { timestamp: 0, ..record(owner(7, 4), timeouts()) }, 7);
    // It takes the place of the leader before those areas.
    let leader = Leader::new_free(small, name("ls"), NONCE, name("res"), small.max_hosts(), Version::new(9));
    device.write(16 << 20, &leader.encode(16 << 20));
    for host in 1..=small.max_hosts() {
        let at = (16 << 20) + small.block_offset(id(host));
        device.write(at, &Block::blank(NONCE, Version::new(9)).encode(small, at));
    }
    let again = device.format_to(small, NEW, true);
    assert_eq!(device.finish(again), Ok(()));
    assert_eq!(device.guard().version, Version::new(9));
}

/// As `sanlock` makes one, which writes as much as its own records take.
#[test]
fn what_is_left_behind_a_lockspace_with_small_areas_is_not_taken_for_it() {
    let (large, small) = (large(), Geometry::default());
    let mut device = Device::blank();
    let first = device.format_to(small, NONCE, false);
    assert_eq!(device.finish(first), Ok(()));
    let records = device.bytes[..1 << 20].to_vec();
    device.bytes.fill(0);
    let before = device.format_to(large, FORMER, false);
    assert_eq!(device.finish(before), Ok(()));
    device.write(0, &records);
    let found = Found::search(&device.bytes[..LARGEST_AREA as usize]).unwrap();
    assert_eq!((found.terms.nonce, found.terms.geometry), (NONCE, small));
}

/// One write of a format with small records hits few large ones, of which there are no more than it has.
#[test]
fn scenario_54_a_lockspace_with_large_records_outlasts_a_late_piece_of_small_ones() {
    let few = Geometry::new(SectorSize::B4096, AreaSize::M1).unwrap();
    let mut device = Device::blank();
    let mut late = device.format_to(Geometry::default(), NONCE, false);
    device.after(&mut late, 1);
    device.until(&mut late, |effect| matches!(effect, Effect::Write(_)));
    let Effect::Write(piece) = late.effect else { unreachable!() };
    device.bytes.fill(0);
    let run = device.format_to(few, NEW, true);
    assert_eq!(device.finish(run), Ok(()));
    device.write(piece.offset, &piece.bytes);
    let found = Found::search(&device.bytes[..LARGEST_AREA as usize]).unwrap();
    assert_eq!((found.terms.nonce, found.terms.geometry, found.complete), (NEW, few, true));
}

/// The record of host A is overwritten by the first write of a format, which leaves it unfinished.
#[test]
fn scenario_54_a_generation_outlasts_a_format_that_is_interrupted() {
    let mut device = Device::new();
    device.put(&DeltaRecord { generation: 1 << 40, timestamp: 0, ..record(owner(A, 4), timeouts()) }, A);
    let mut run = device.formats(NEW, true);
    device.until(&mut run, writes_at(0));
    device.step(&mut run);
    let again = device.formats(NEW + 1, true);
    assert_eq!(device.finish(again), Ok(()));
    assert!(device.record(A).generation > 1 << 40);
    // What it has written of the others is no trace of a host.
    let mut run = device.formats(NEW + 2, true);
    device.until(&mut run, writes_at(512));
    device.step(&mut run);
    let again = device.formats(NEW + 3, true);
    assert_eq!(device.finish(again), Ok(()));
    assert_eq!(device.record(C).generation, 0);
}

/// A write of a former host lands on the first record, whose magic number a format has taken away. That format ends.
#[test]
fn scenario_54_a_late_write_does_not_bring_a_format_to_its_end() {
    let mut device = Device::new();
    let mut run = device.formats(NEW, true);
    device.until(&mut run, writes_at(7 * 512));
    device.step(&mut run);
    device.until(&mut run, waits);
    device.put(&DeltaRecord { timestamp: 0, ..record(owner(A, 4), timeouts()) }, A);
    assert_eq!(device.finish(run), Err(Refused::Overtaken(0)));
    let found = device.found();
    assert_eq!((found.terms.nonce, found.complete), (NEW, false));
    // In a lockspace that is complete it is the record of one host.
    let run = device.formats(NEW + 1, true);
    assert_eq!(device.finish(run), Ok(()));
    device.put(&DeltaRecord { timestamp: 0, ..record(owner(A, 4), timeouts()) }, A);
    let found = device.found();
    assert_eq!((found.terms.nonce, found.complete), (NEW + 1, true));
}

/// What a format writes of the records lands when another lockspace is in use. It shows the ids of that as free.
#[test]
fn scenario_54_a_late_piece_of_a_format_does_not_become_the_lockspace() {
    let mut device = Device::new();
    for host in 1..=IDS {
        device.put(&DeltaRecord { timestamp: 0, ..record(owner(host, 4), timeouts()) }, host);
    }
    let mut late = device.formats(NEW, true);
    device.until(&mut late, writes_at(512));
    let Effect::Write(write) = late.effect else { unreachable!("it was waited for") };
    let run = device.formats(NEW + 1, true);
    assert_eq!(device.finish(run), Ok(()));
    // Host B holds its id, and nobody else does.
    let holds = device.record(B).generation + 1;
    device.put(&on(NEW + 1, DeltaRecord { generation: holds, ..record(owner(B, 9), timeouts()) }), B);
    device.write(write.offset, &write.bytes);
    let found = device.found();
    assert_eq!((found.terms.nonce, found.complete), (NEW + 1, true));
    // Nothing shows host B any more, which may be active until it looks.
    let begun = device.now;
    let again = device.formats(NEW + 2, true);
    assert_eq!(device.finish(again), Ok(()));
    assert!(device.now.since(begun) >= stretched(timeouts().dead()), "host B may live");
    assert!(device.record(B).generation > holds, "nothing shows that, either");
}

/// Only a leader without a nonce could be taken for one of the new lockspace. What marks it as deleted has one.
#[test]
fn scenario_54_a_late_write_of_a_format_deletes_no_resource() {
    let mut device = Device::new();
    let (ours, theirs) = (3 << 20, 4 << 20);
    let leader = Leader::new_free(Geometry::default(), name("ls"), NONCE, name("res"), 2_000, Version::new(5));
    device.write(ours, &leader.encode(ours));
    device.write(theirs, &Leader { extension: None, ..leader.clone() }.encode(theirs));
    let mut run = device.formats(NEW, true);
    device.until(&mut run, writes_at(theirs));
    let Effect::Write(late) = run.effect.clone() else { unreachable!("it was waited for") };
    assert_eq!(device.finish(run), Ok(()));
    let read = |device: &Device, at: u64, nonce| {
        reading::leader(Ok(&device.bytes[at as usize..][..512]), at, nonce).good().map(|leader| leader.cleared)
    };
    assert_eq!((read(&device, ours, NONCE), read(&device, ours, NEW)), (Some(false), None), "it is left alone");
    assert_eq!(read(&device, theirs, NEW), Some(true));
    // It lands in a lockspace that was made since.
    device.write(late.offset, &late.bytes);
    assert_eq!(read(&device, theirs, NEW + 1), None);
}

/// What a format writes of the lease that guards the index lands while a host of a later lockspace runs a ballot there.
#[test]
fn scenario_54_a_late_write_of_a_format_erases_no_block() {
    let mut device = Device::new();
    let mut late = device.formats(NEW, true);
    device.until(&mut late, writes_at(GUARD + 512));
    let Effect::Write(write) = late.effect else { unreachable!("it was waited for") };
    let run = device.formats(NEW + 1, true);
    assert_eq!(device.finish(run), Ok(()));
    let at = GUARD + Geometry::default().block_offset(id(C));
    let block = |device: &Device| reading::block(Ok(&device.bytes[at as usize..][..512]), at, NEW + 1);
    assert_eq!(block(&device), Seen::Good(Block::default()), "nobody has used it");
    device.write(write.offset, &write.bytes);
    assert!(matches!(block(&device), Seen::Bad(Defect::OtherFormatting { nonce: NEW, .. })), "it is not empty");
    assert_eq!(device.guard().extension.map(|extension| extension.nonce), Some(NEW + 1), "the leader was not hit");
}

/// The very first write of a format lands when another format has long been through.
#[test]
fn scenario_54_a_late_beginning_of_a_format_damages_one_record() {
    let mut device = Device::new();
    let mut late = device.formats(NEW, true);
    device.until(&mut late, writes_at(0));
    let Effect::Write(write) = late.effect else { unreachable!("it was waited for") };
    let run = device.formats(NEW + 1, true);
    assert_eq!(device.finish(run), Ok(()));
    device.write(write.offset, &write.bytes);
    let found = device.found();
    assert_eq!((found.terms.nonce, found.complete), (NEW + 1, true), "the lockspace is there");
    assert!(reading::record(Ok(&device.bytes[..512]), 0, NEW + 1).good().is_none());
}
