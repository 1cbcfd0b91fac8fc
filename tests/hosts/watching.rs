//! What an observer from outside makes of what it sees, with a clock that moves only when told to.

use std::sync::Arc;
use std::time::Duration;

use leasehold::disk::{Clock, ManualClock, MemoryDisk};
use leasehold::format::{Block, DeltaRecord, Geometry, Leader};
use leasehold::{
    Generation, HostId, HostState, Lockspace, Mode, Name, Owner, Ownership, Profile, Time, Version, Watching,
};

use crate::common::memory::formatted;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A lockspace with the profile fast, written to as other hosts would.
struct Scene {
    disk: MemoryDisk,
    clock: Arc<ManualClock>,
    watching: Watching,
}

impl Scene {
    fn new() -> Scene {
        let disk = formatted(Profile::Fast.timeouts());
        let clock = Arc::new(ManualClock::new(Time::ZERO));
        let watching = Lockspace::open_with_clock(Arc::new(disk.reopen()), clock.clone()).unwrap().watch();
        Scene { disk, clock, watching }
    }

    fn edit(&self, at: u64, change: impl FnOnce(&[u8]) -> Vec<u8>) {
        let at = usize::try_from(at).unwrap();
        self.disk.edit(|bytes| {
            let sector = change(&bytes[at..at + 512]);
            bytes[at..at + 512].copy_from_slice(&sector);
        });
    }

    /// Host `id` joins.
    fn join(&self, id: u64, generation: u64) {
        let at = Geometry::default().delta_offset(host(id));
        self.edit(at, |sector| {
            let mut record = DeltaRecord::decode(sector, at).unwrap();
            (record.owner_id, record.generation, record.timestamp) = (id, generation, 1);
            record.host_name = Name::host("peer").unwrap();
            record.encode(at)
        });
    }

    /// Host `id` renews: the timestamp, in whole seconds, may stay.
    fn renew(&self, id: u64) {
        let at = Geometry::default().delta_offset(host(id));
        self.edit(at, |sector| {
            let mut record = DeltaRecord::decode(sector, at).unwrap();
            record.extension.as_mut().unwrap().started_us += 1;
            record.encode(at)
        });
    }

    /// Makes a resource that the index doesn't have; returns where.
    fn resource(&self, name: &str) -> u64 {
        let (geometry, area) = (Geometry::default(), 5 << 20);
        let (lockspace, name) = (self.watching.lockspace().name(), Name::resource(name).unwrap());
        let nonce = self.watching.lockspace().nonce();
        let leader = Leader::new_free(geometry, lockspace, nonce, name, geometry.max_hosts(), Version::new(4));
        self.edit(area, |_| leader.encode(area));
        area
    }

    /// `after` later, looks.
    fn look(&mut self, after: Duration) {
        self.clock.advance(after);
        self.watching.refresh().unwrap();
    }

    fn intervals(&self, id: u64) -> Vec<Duration> {
        self.watching.renewals(host(id)).unwrap().intervals
    }

    fn state(&self, id: u64) -> HostState {
        self.watching.hosts().iter().find(|info| info.host == host(id)).unwrap().state
    }
}

fn host(id: u64) -> HostId {
    HostId::new(id).unwrap()
}

#[test]
fn the_intervals_are_those_between_seen_changes() {
    let mut scene = Scene::new();
    scene.join(1, 1);
    scene.look(ms(20));
    assert_eq!(scene.intervals(1), []);
    scene.renew(1);
    scene.look(ms(20));
    // When the record that was there at first was written nobody knows.
    assert_eq!(scene.intervals(1), []);
    for _ in 0..4 {
        scene.look(ms(20));
    }
    scene.renew(1);
    scene.look(ms(20));
    assert_eq!(scene.intervals(1), [ms(100)]);
    scene.look(ms(30));
    assert_eq!(scene.watching.renewals(host(1)).unwrap().unchanged_for, ms(30));
    scene.renew(1);
    scene.look(ms(30));
    assert_eq!(scene.intervals(1), [ms(100), ms(60)]);
    assert_eq!(scene.watching.renewals(host(1)).unwrap().timeouts, Profile::Fast.timeouts());
}

#[test]
fn an_observer_that_was_held_up_blames_nobody() {
    let mut scene = Scene::new();
    scene.join(1, 1);
    scene.look(ms(20));
    let renew_and_look = |scene: &mut Scene, after| {
        scene.renew(1);
        scene.look(after);
    };
    renew_and_look(&mut scene, ms(90));
    renew_and_look(&mut scene, ms(90));
    assert_eq!(scene.intervals(1), [ms(90)]);
    // Five renewals came while it did not look; the last of them was seen late.
    renew_and_look(&mut scene, ms(500));
    assert_eq!(scene.intervals(1), [ms(90)]);
    renew_and_look(&mut scene, ms(50));
    assert_eq!(scene.intervals(1), [ms(90)]);
    renew_and_look(&mut scene, ms(90));
    assert_eq!(scene.intervals(1), [ms(90), ms(90)]);
}

#[test]
fn a_new_generation_begins_a_new_history() {
    let mut scene = Scene::new();
    scene.join(1, 1);
    for _ in 0..3 {
        scene.look(ms(50));
        scene.renew(1);
    }
    assert_eq!(scene.intervals(1), [ms(50)]);
    scene.join(1, 2);
    scene.look(ms(50));
    assert_eq!(scene.intervals(1), []);
    // From the join to the first renewal is no renewal interval.
    scene.renew(1);
    scene.look(ms(80));
    assert_eq!(scene.intervals(1), []);
    scene.renew(1);
    scene.look(ms(70));
    assert_eq!(scene.intervals(1), [ms(70)]);
}

#[test]
fn the_history_has_an_end() {
    let mut scene = Scene::new();
    scene.join(1, 1);
    for _ in 0..leasehold::Renewals::KEPT + 20 {
        scene.look(ms(40));
        scene.renew(1);
    }
    assert_eq!(scene.intervals(1).len(), leasehold::Renewals::KEPT);
}

#[test]
fn one_observer_sees_a_host_live_fail_die_and_come_back() {
    let mut scene = Scene::new();
    scene.join(1, 1);
    scene.look(ms(20));
    assert_eq!(scene.state(1), HostState::Unknown);
    scene.renew(1);
    scene.look(ms(50));
    assert_eq!(scene.state(1), HostState::Live);
    for _ in 0..12 {
        scene.look(ms(50));
    }
    assert_eq!(scene.state(1), HostState::Failing);
    for _ in 0..5 {
        scene.look(ms(50));
    }
    assert_eq!(scene.state(1), HostState::Dead);
    scene.join(1, 2);
    scene.look(ms(50));
    assert_eq!(scene.state(1), HostState::Live);
}

#[test]
fn who_joins_beyond_the_known_ids_is_noticed_within_a_second() {
    let mut scene = Scene::new();
    scene.join(1, 1);
    scene.look(ms(20));
    scene.join(700, 1);
    for _ in 0..50 {
        scene.look(ms(20));
    }
    let ids: Vec<u64> = scene.watching.hosts().iter().map(|info| info.host.get()).collect();
    assert_eq!(ids, [1, 700]);
}

#[test]
fn a_record_that_is_damaged_for_a_while_leaves_no_interval_across() {
    let mut scene = Scene::new();
    scene.join(1, 1);
    scene.look(ms(50));
    scene.renew(1);
    scene.look(ms(50));
    let at = Geometry::default().delta_offset(host(1));
    let mut whole = Vec::new();
    scene.edit(at, |sector| {
        whole = sector.to_vec();
        vec![0xff; 512]
    });
    scene.look(ms(50));
    assert_eq!(scene.watching.renewals(host(1)), None);
    assert!(scene.watching.hosts()[0].damage.is_some());
    scene.edit(at, |_| whole);
    scene.renew(1);
    scene.look(ms(50));
    scene.renew(1);
    scene.look(ms(50));
    assert_eq!(scene.intervals(1), []);
    scene.renew(1);
    scene.look(ms(50));
    assert_eq!(scene.intervals(1), [ms(50)]);
}

#[test]
fn sharers_are_named() {
    let mut scene = Scene::new();
    let resource = scene.resource("shared");
    for id in [5, 7] {
        scene.join(id, 3);
        let at = resource + Geometry::default().block_offset(host(id));
        let shared = Block { shared: Generation::new(3), ..Block::default() };
        scene.edit(at, |_| shared.encode(Geometry::default(), at));
    }
    scene.look(ms(20));
    let (infos, damages) = scene.watching.resources().unwrap();
    assert_eq!(damages, []);
    let [info] = &infos[..] else { panic!("{infos:?}") };
    let owner = |id| Owner { host: host(id), generation: Generation::new(3).unwrap() };
    assert_eq!(info.sharers, [owner(5), owner(7)]);
    let expected = Ownership { mode: Mode::Shared, version: Version::new(4), owner: None };
    assert_eq!(info.ownership, Ok(expected));
    // Who looks once sees the same.
    assert_eq!(scene.watching.lockspace().resources().unwrap(), (infos, damages));
}

#[test]
fn a_resource_without_an_entry_is_searched_for_now_and_then() {
    let scene = Scene::new();
    let clock = Arc::new(Ticking(ManualClock::new(Time::ZERO)));
    let mut watching = Lockspace::open_with_clock(Arc::new(scene.disk.reopen()), clock.clone()).unwrap().watch();
    watching.refresh().unwrap();
    let began = clock.now();
    assert_eq!(watching.resources().unwrap().0, []);
    let searched = clock.now().since(began);
    let area = scene.resource("new");
    assert_eq!(watching.resources().unwrap().0, []);
    clock.0.advance(searched * 60);
    let (infos, damages) = watching.resources().unwrap();
    assert_eq!((infos.len(), damages), (1, vec![]));
    // Deleted since the last search: that is no damage.
    scene.edit(area, |sector| {
        let leader = Leader::decode(sector, area).unwrap();
        Leader { cleared: true, ..leader }.encode(area)
    });
    assert_eq!(watching.resources().unwrap(), (Vec::new(), Vec::new()));
}

/// A clock that goes on by a millisecond whenever somebody looks at it.
#[derive(Debug)]
struct Ticking(ManualClock);

impl Clock for Ticking {
    fn now(&self) -> Time {
        self.0.advance(ms(1))
    }
}
