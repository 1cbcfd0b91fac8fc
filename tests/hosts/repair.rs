//! Repairs, in memory: what may be written anew, when, and by whom. `crates/command/tests/damage.rs` has the command,
//! on any damage.

use std::sync::Arc;
use std::time::Duration;

use leasehold::disk::MemoryDisk;
use leasehold::format::{Force, Geometry, IndexEntry, Leader, Request};
use leasehold::{
    AcquireError, AcquireOptions, EntryFlaw, Finding, JoinError, JoinOptions, LeaseMode, Lockspace, LossReason,
    Membership, RepairError, RepairOptions, Repaired, Status, Timeouts, Version, Wait,
};

use crate::common::answers::shared;
use crate::common::memory::join_anew;
use crate::common::memory::{edit_sector, formatted, sector};
use crate::common::{PATIENCE, id, timeouts, until};

/// D is longer than any of these tests lasts.
fn long() -> Timeouts {
    timeouts([50, 500, 60_000, 5_000, 600_000])
}

/// A lockspace with the resources `first` and `second`, at the entries 0 and 1.
struct Scene {
    disk: MemoryDisk,
    geometry: Geometry,
}

const AT_ONCE: RepairOptions = RepairOptions { wait: Wait::No, fenced: false };
const IN_TIME: RepairOptions = RepairOptions { wait: Wait::For(PATIENCE), fenced: false };

impl Scene {
    fn new() -> Scene {
        let scene = Scene::empty(long());
        let maker = scene.join(9);
        for name in ["first", "second"] {
            maker.create(name, Wait::For(PATIENCE)).unwrap();
        }
        maker.leave().unwrap();
        scene
    }

    fn empty(timeouts: Timeouts) -> Scene {
        let disk = formatted(timeouts);
        let geometry = Lockspace::open(Arc::new(disk.reopen())).unwrap().geometry();
        Scene { disk, geometry }
    }

    fn lockspace(&self) -> Lockspace {
        Lockspace::open(Arc::new(self.disk.reopen())).unwrap()
    }

    fn join(&self, host: u64) -> Membership {
        join_anew(&self.disk, &self.lockspace(), host)
    }

    /// Spoils so many bytes from `at` on.
    fn spoil(&self, at: u64, len: usize) {
        self.disk.edit(|bytes| bytes[at as usize..][..len].iter_mut().for_each(|byte| *byte ^= 0x5a));
    }

    /// Spoils the record of a host that renews it, until that has noticed: a renewal that has read already writes over
    /// it.
    fn spoil_record(&self, of: &Membership, change: impl FnOnce(&mut [u8])) {
        let at = self.geometry.delta_offset(of.owner().host);
        let mut spoilt = sector(&self.disk, at);
        change(&mut spoilt);
        until("the loss", || {
            edit_sector(&self.disk, at, |bytes| bytes.copy_from_slice(&spoilt));
            matches!(of.status(), Status::Lost { .. })
        });
    }

    fn area(&self, entry: u64) -> u64 {
        (3 + entry) * self.geometry.area_bytes()
    }

    fn entry(&self, number: u32) -> u64 {
        self.geometry.area_bytes() + self.geometry.index_entry_offset(number)
    }

    #[track_caller]
    fn one_finding(&self) -> Finding {
        let mut all = self.lockspace().examine().unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[track_caller]
    fn is_sound(&self) {
        let all = self.lockspace().examine().unwrap();
        assert!(all.is_empty(), "{all:?}");
    }

    fn names(&self) -> Vec<String> {
        let (resources, _) = self.lockspace().resources().unwrap();
        resources.iter().map(|info| info.resource.name().to_string()).collect()
    }

    /// What the index lists at these entries.
    fn flaws(&self) -> Vec<EntryFlaw> {
        match self.one_finding() {
            Finding::Index { entries, .. } => entries,
            other => panic!("{other:?}"),
        }
    }
}

/// Those who share don't write it; an owner does: see `an_owner_writes_its_leader_again`.
#[test]
fn a_leader_is_left_alone_while_somebody_who_lives_shares_the_resource() {
    let scene = Scene::new();
    let (holder, other) = (scene.join(1), scene.join(2));
    let resource = scene.lockspace().find("first").unwrap();
    let lease = holder.acquire(&resource, shared(Wait::For(PATIENCE))).unwrap();
    scene.spoil(resource.offset(), 1);
    let finding = scene.one_finding();
    assert!(matches!(finding, Finding::Leader { .. }), "{finding:?}");
    let before = scene.disk.bytes();
    let refused = other.repair(&finding, AT_ONCE);
    let holds = |error: &RepairError| match error {
        RepairError::Acquire(AcquireError::Shared { holders, .. }) => holders.iter().all(|holder| holder.host == id(1)),
        _ => false,
    };
    assert!(matches!(&refused, Err(error) if holds(error)), "{refused:?}");
    let waited = other.repair(&finding, RepairOptions { wait: Wait::For(Duration::from_millis(300)), ..AT_ONCE });
    assert!(matches!(&waited, Err(error) if holds(error)), "{waited:?}");
    let after = scene.disk.bytes();
    let sector = scene.area(0) as usize..scene.area(0) as usize + scene.geometry.sector_bytes();
    assert_eq!(before[sector.clone()], after[sector]);
    assert!(lease.is_held());

    let version = lease.version();
    lease.release().unwrap();
    let Ok(Repaired::Leader { version: rebuilt }) = other.repair(&finding, IN_TIME) else { panic!("it is free") };
    assert!(rebuilt > version);
    scene.is_sound();
    assert!(holder.acquire(&resource, Wait::For(PATIENCE)).unwrap().version() > rebuilt);
    assert_eq!(other.repair(&finding, IN_TIME).unwrap(), Repaired::Sound, "again is safe");
}

/// The leader alone knows the version: the area had another resource before.
#[test]
fn a_leader_that_is_rebuilt_goes_on_from_what_is_left_of_it_or_far_beyond() {
    // Bytes that no checksum of sanlock's covers, and bytes that it does.
    for (at, rest) in [(250, true), (60, false)] {
        let scene = Scene::new();
        let offset = scene.area(0) as usize;
        let before = Version::new(1 << 34);
        scene.disk.edit(|bytes| {
            let sector = &mut bytes[offset..offset + scene.geometry.sector_bytes()];
            let leader = Leader::decode(sector, offset as u64).unwrap();
            sector.copy_from_slice(&Leader { version: before, ..leader }.encode(offset as u64));
        });
        scene.spoil(offset as u64 + at, 1);
        let host = scene.join(1);
        let Ok(Repaired::Leader { version }) = host.repair(&scene.one_finding(), IN_TIME) else { panic!("it is free") };
        assert!(version > before);
        assert_eq!(version == before.after(1), rest, "{version}");
        scene.is_sound();
    }
}

#[test]
fn a_record_is_mended_when_its_host_is_gone_and_frees_nothing_by_itself() {
    let scene = Scene::new();
    let (lost, other) = (scene.join(1), scene.join(2));
    let lease = lost.acquire(&scene.lockspace().find("first").unwrap(), Wait::For(PATIENCE)).unwrap();
    let owner = lost.owner();
    scene.spoil_record(&lost, |bytes| bytes[..48].fill(0x5a));
    let finding = scene.one_finding();
    assert!(!lease.is_held());
    assert!(matches!(lost.status(), Status::Lost { reason: LossReason::Damaged(_) }));
    drop(lease);
    drop(lost);
    for options in [AT_ONCE, RepairOptions { wait: Wait::For(Duration::from_millis(500)), ..AT_ONCE }] {
        let early = other.repair(&finding, options);
        assert!(matches!(early, Err(RepairError::MayLive { .. })), "{early:?}");
    }
    let mended = other.repair(&finding, RepairOptions { fenced: true, ..IN_TIME }).unwrap();
    assert_eq!(mended, Repaired::Host { generation: owner.generation.get(), free: true }, "its block shows it");
    scene.is_sound();
    // Its generation is over by the caller's word: what it held is free.
    other.acquire(&scene.lockspace().find("first").unwrap(), Wait::For(PATIENCE)).unwrap();
    // Its id is taken only by who names it, after D.
    let unnamed = scene.lockspace().join(JoinOptions::new().host_id_unless_declared(id(1)).machine("machine 1"));
    assert!(matches!(&unnamed, Err(JoinError::Declared { .. })), "{unnamed:?}");
    let own = other.repair(&Finding::HostRecord { host: id(2), damage: finding.damages()[0].clone() }, IN_TIME);
    assert!(matches!(own, Err(RepairError::Own { .. })), "{own:?}");
}

/// The rest of the record has its checksum: it says itself whether it was released.
#[test]
fn what_is_left_of_a_record_says_whether_it_was_released() {
    let scene = Scene::new();
    let other = scene.join(2);
    let kept = other.hosts().into_iter().find(|host| host.host == id(9)).unwrap().generation;
    scene.spoil(scene.geometry.delta_offset(id(9)) + 300, 1);
    let mended = other.repair(&scene.one_finding(), IN_TIME).unwrap();
    assert_eq!(mended, Repaired::Host { generation: kept, free: true });

    let lost = scene.join(1);
    let generation = lost.owner().generation;
    scene.spoil_record(&lost, |bytes| bytes[300] ^= 0x5a);
    drop(lost);
    let early = other.repair(&scene.one_finding(), RepairOptions { wait: Wait::For(long().io() * 2), ..AT_ONCE });
    assert!(matches!(early, Err(RepairError::MayLive { .. })), "{early:?}");
    let mended = other.repair(&scene.one_finding(), RepairOptions { fenced: true, ..IN_TIME }).unwrap();
    assert_eq!(mended, Repaired::Host { generation: generation.get(), free: true });
}

/// A write that went astray: the sector says that another host was released, and nothing of its own.
#[test]
fn the_rest_of_another_hosts_record_says_nothing() {
    let scene = Scene::new();
    let (lost, other) = (scene.join(1), scene.join(2));
    let another = sector(&scene.disk, scene.geometry.delta_offset(id(9)));
    scene.spoil_record(&lost, |bytes| bytes.copy_from_slice(&another));
    drop(lost);
    // Longer than a record is watched that says itself that it was released.
    let options = RepairOptions { wait: Wait::For((long().renewal() + long().io()) * 4), ..AT_ONCE };
    let early = other.repair(&scene.one_finding(), options);
    assert!(matches!(early, Err(RepairError::MayLive { .. })), "{early:?}");
}

/// D is short here: the host counts as dead, and nobody vouches for it.
#[test]
fn the_id_of_a_record_that_was_mended_is_taken_again_only_after_its_host_was_declared_dead() {
    let scene = Scene::empty(timeouts([50, 500, 3_000, 200, 3_300]));
    let (lost, other) = (scene.join(1), scene.join(2));
    let owner = lost.owner();
    scene.spoil_record(&lost, |bytes| bytes[..48].fill(0x5a));
    let finding = scene.one_finding();
    drop(lost);
    let mended = other.repair(&finding, IN_TIME);
    let Ok(Repaired::Host { generation, free: false }) = mended else { panic!("it was not released: {mended:?}") };
    let joined = scene.lockspace().join(JoinOptions::new().host_id(id(1)).machine("machine 1"));
    assert!(matches!(joined, Err(JoinError::NotReleased { .. })), "{joined:?}");
    other.declare_dead(id(1), leasehold::Generation::new(generation).unwrap()).unwrap();
    assert!(scene.join(1).owner().generation.get() > generation);
    assert!(owner.generation.get() >= generation, "nothing shows a later one");
}

#[test]
fn a_block_is_mended_by_who_holds_its_host_id_whoever_holds_the_resource() {
    let scene = Scene::new();
    let (holder, other) = (scene.join(1), scene.join(2));
    let resource = scene.lockspace().find("first").unwrap();
    other.acquire(&resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
    let lease = holder.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    scene.spoil(resource.offset() + scene.geometry.block_offset(id(2)), 48);
    let finding = scene.one_finding();
    let refused = holder.repair(&finding, IN_TIME);
    assert!(matches!(refused, Err(RepairError::OtherHost { host, .. }) if host == id(2)), "{refused:?}");
    assert_eq!(other.repair(&finding, IN_TIME).unwrap(), Repaired::Block);
    scene.is_sound();
    assert!(lease.is_held());
    lease.release().unwrap();
    other.acquire(&resource, Wait::For(PATIENCE)).unwrap();
}

#[test]
fn the_index_is_written_as_the_areas_say() {
    let scene = Scene::new();
    let host = scene.join(1);
    // All of it is gone, but for the areas.
    scene.spoil(scene.geometry.area_bytes(), 2 * scene.geometry.sector_bytes());
    assert!(scene.lockspace().find("first").is_err());
    assert_eq!(host.repair(&scene.one_finding(), IN_TIME).unwrap(), Repaired::Index { entries: 8 });
    scene.is_sound();
    assert_eq!(scene.names(), ["first", "second"]);

    // An entry that was lost, one that names another resource, and one whose resource was deleted.
    let third = host.create("third", Wait::For(PATIENCE)).unwrap();
    scene.disk.edit(|bytes| {
        bytes[scene.entry(0) as usize..][..IndexEntry::BYTES].fill(0);
        let wrong = IndexEntry { offset: scene.area(1), name: leasehold::Name::resource("other").unwrap() };
        bytes[scene.entry(1) as usize..][..IndexEntry::BYTES].copy_from_slice(&wrong.encode());
        let sector = &mut bytes[third.offset() as usize..][..scene.geometry.sector_bytes()];
        let leader = Leader::decode(sector, third.offset()).unwrap();
        sector.copy_from_slice(&Leader { cleared: true, ..leader }.encode(third.offset()));
    });
    let right: Vec<_> = scene.flaws().iter().map(|flaw| flaw.right.map(|name| name.map(|it| it.to_string()))).collect();
    assert_eq!(right, [Ok(Some("first".into())), Ok(Some("second".into())), Ok(None)]);
    host.repair(&scene.one_finding(), IN_TIME).unwrap();
    scene.is_sound();
    assert_eq!(scene.names(), ["first", "second"]);
}

/// Hosts go on with what they have of a resource whose entry was lost, and a repair brings it back.
#[test]
fn an_area_that_is_not_listed_any_more_is_left_alone() {
    // What is damaged besides: nothing, the leader, the holder's block.
    let (nothing, leader, block) = ([false, false], [true, false], [false, true]);
    let (shared, exclusive) = (LeaseMode::Shared, LeaseMode::Exclusive);
    let cases = [(shared, nothing), (exclusive, nothing), (exclusive, leader), (shared, block)];
    std::thread::scope(|scope| {
        for (mode, damaged) in cases {
            scope.spawn(move || an_area_that_is_not_listed_is_passed_over(mode, damaged));
        }
    });
}

fn an_area_that_is_not_listed_is_passed_over(mode: LeaseMode, [leader, block]: [bool; 2]) {
    let scene = Scene::new();
    let (holder, maker) = (scene.join(1), scene.join(2));
    let resource = scene.lockspace().find("first").unwrap();
    let lease = holder.acquire(&resource, AcquireOptions::new().mode(mode).wait(Wait::For(PATIENCE))).unwrap();
    scene.disk.edit(|bytes| bytes[scene.entry(0) as usize..][..IndexEntry::BYTES].fill(0));
    let places = [(leader, resource.offset()), (block, resource.offset() + scene.geometry.block_offset(id(1)))];
    places.iter().filter(|(damaged, _)| *damaged).for_each(|(_, at)| scene.spoil(*at, 48));
    let other = maker.create("other", Wait::For(PATIENCE)).unwrap();
    assert_eq!(other.offset(), scene.area(2), "{mode:?}, leader damaged: {leader}, block damaged: {block}");
    let gone = holder.owner();
    drop(lease);
    drop(holder);
    maker.declare_dead(gone.host, gone.generation).unwrap();
    assert_eq!(maker.create("next", Wait::For(PATIENCE)).unwrap().offset(), scene.area(3));
    if !leader {
        let findings = scene.lockspace().examine().unwrap();
        let of_index = findings.iter().find(|finding| matches!(finding, Finding::Index { .. }));
        maker.repair(of_index.unwrap(), IN_TIME).unwrap();
        assert_eq!(scene.names(), ["first", "second", "other", "next"]);
    }
}

#[test]
fn an_index_that_is_rebuilt_has_no_name_twice_and_invents_none() {
    let scene = Scene::new();
    let host = scene.join(1);
    let third = host.create("third", Wait::For(PATIENCE)).unwrap();
    scene.disk.edit(|bytes| {
        // The third area has the first one's name, too, and its entry is lost.
        let sector = &mut bytes[third.offset() as usize..][..scene.geometry.sector_bytes()];
        let leader = Leader::decode(sector, third.offset()).unwrap();
        let twice = Leader { resource: leasehold::Name::resource("first").unwrap(), ..leader };
        sector.copy_from_slice(&twice.encode(third.offset()));
        bytes[scene.entry(2) as usize..][..IndexEntry::BYTES].fill(0xff);
    });
    host.repair(&scene.one_finding(), IN_TIME).unwrap();
    let listed = |scene: &Scene| scene.disk.bytes()[scene.entry(2) as usize..][..IndexEntry::BYTES].to_vec();
    assert!(listed(&scene).iter().all(|byte| *byte == 0));

    // Entry and area are both damaged: what was there can't be known.
    scene.disk.edit(|bytes| {
        bytes[scene.entry(1) as usize..][..IndexEntry::BYTES].fill(0xff);
        bytes[scene.area(1) as usize..][..512].fill(0xff);
    });
    assert_eq!(scene.flaws()[0].right, Err(()));
    let unknown = host.repair(&scene.one_finding(), IN_TIME);
    assert!(matches!(unknown, Err(RepairError::Damaged(_))), "{unknown:?}");
    // By its name the area can be made whole, and then the entry.
    let resource = scene.lockspace().resource_at("second", scene.area(1)).unwrap();
    let damage = scene.one_finding().damages()[0].clone();
    host.repair(&Finding::Leader { resource, damage }, IN_TIME).unwrap();
    host.repair(&scene.one_finding(), IN_TIME).unwrap();
    scene.is_sound();
    assert_eq!(scene.names()[..2], ["first", "second"]);
}

#[test]
fn a_request_that_is_damaged_asks_for_nothing_afterwards() {
    let scene = Scene::new();
    let (host, at) = (scene.join(1), (scene.area(0) + scene.geometry.request_offset()) as usize);
    let asked = Request { version: Version::new(20), force: Force::Kill };
    let written = asked.encode(scene.geometry);
    scene.disk.edit(|bytes| bytes[at..at + written.len()].copy_from_slice(&written));
    // Its bytes are still those of a request, but for the magic number.
    scene.spoil(at as u64, 4);
    assert_eq!(host.repair(&scene.one_finding(), IN_TIME).unwrap(), Repaired::Request);
    scene.is_sound();
    assert_eq!(Request::decode(&scene.disk.bytes()[at..at + written.len()]), Ok(Request::default()));
}

/// Scans of the ids in use don't show it: nobody was above id 1 when the last of all ids was made.
#[test]
fn a_record_above_all_that_are_in_use_is_mended() {
    let scene = Scene::empty(long());
    let other = scene.join(1);
    let at = scene.geometry.delta_offset(id(1_900));
    scene.spoil(at, 16);
    let finding = scene.one_finding();
    let repaired = other.repair(&finding, RepairOptions { fenced: true, ..IN_TIME });
    assert_eq!(repaired.unwrap(), Repaired::Host { generation: 1, free: true });
    scene.is_sound();
}
