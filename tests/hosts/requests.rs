//! Asking an owner to yield, and events: what reaches whom, and what becomes of the owner's command.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::disk::MemoryDisk;
use leasehold::format::{DeltaRecord, Force, HostBitmap, HostEvent, Request};
use leasehold::{
    AcquireOptions, EventError, JoinOptions, LeaseMode, Lockspace, Membership, Name, Notice, RequestError, Requested,
    Resource, Timeouts, Version, Wait,
};

use crate::common::memory::{self, edit_sector, sector};
use crate::common::processes::Process;
use crate::common::scene::{Ended, Scene, WAIT, ended};
use crate::common::{PATIENCE, id, timeouts, until};

/// So that a busy machine doesn't cost a holder its lease.
fn steady() -> Timeouts {
    timeouts([100, 250, 2_000, 500, 2_500])
}

/// Hosts look at the disk so rarely that a test doesn't see it.
fn rarely() -> Timeouts {
    timeouts([25_000, 250, 55_000, 1_000, 56_000])
}

/// A lockspace in memory, with one resource.
struct World {
    disk: MemoryDisk,
    resource: Resource,
}

impl World {
    fn new() -> World {
        World::with(steady())
    }

    fn with(timeouts: Timeouts) -> World {
        let (disk, resource) = memory::with_resource(timeouts);
        World { disk, resource }
    }

    /// A host, and what it is told.
    fn join(&self, host: u64) -> (Membership, Receiver<Notice>) {
        let (sender, told) = channel();
        let options = JoinOptions::new().host_id(id(host)).host_name(format!("host{host}"));
        let options = options.on_notice(move |notice| sender.send(notice.clone()).unwrap_or_default());
        (Lockspace::open(Arc::new(self.disk.reopen())).unwrap().join(options).unwrap(), told)
    }

    fn leader(&self) -> Vec<u8> {
        sector(&self.disk, self.resource.offset())
    }

    fn set_leader(&self, data: &[u8]) {
        edit_sector(&self.disk, self.resource.offset(), |bytes| bytes.copy_from_slice(data));
    }

    fn request_at(&self) -> u64 {
        self.resource.offset() + 512
    }

    fn request(&self) -> Request {
        Request::decode(&sector(&self.disk, self.request_at())).unwrap()
    }

    /// Whom a host calls, and what it tells them.
    fn calls(&self, host: u64) -> (HostBitmap, Option<HostEvent>) {
        let sector = sector(&self.disk, (host - 1) * 512);
        DeltaRecord::decode(&sector, (host - 1) * 512).unwrap();
        (HostBitmap::decode(&sector).unwrap(), HostEvent::decode(&sector).unwrap())
    }
}

#[track_caller]
fn asked(requested: Requested) -> (Vec<u64>, Version) {
    let Requested::Asked { holders, version, .. } = requested else { panic!("{requested:?}") };
    (holders.iter().map(|holder| holder.host.get()).collect(), version)
}

/// Waits for more scans than an owner needs to see what stands on disk, and asserts that it was told nothing.
#[track_caller]
fn told_nothing(membership: &Membership, told: &Receiver<Notice>) {
    for _ in 0..3 {
        membership.status_change(&membership.status(), PATIENCE);
    }
    let notice = told.try_recv();
    assert!(notice.is_err(), "{notice:?}");
}

#[test]
fn an_owner_is_told_once_who_asks_and_for_which_version() {
    let world = World::new();
    let (owner, told) = world.join(1);
    let (asker, _) = world.join(2);
    assert_eq!(asker.request(&world.resource, Force::Graceful).unwrap(), Requested::NotHeld);
    assert_eq!(world.request(), Request::default());
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    let refused = owner.request(&world.resource, Force::Graceful).unwrap_err();
    assert!(matches!(refused, RequestError::HeldHere { .. }), "{refused}");
    let (holders, version) = asked(asker.request(&world.resource, Force::Graceful).unwrap());
    assert_eq!((holders, version), (vec![1], lease.version().after(1)));
    // It stands on disk when it was answered.
    assert_eq!(world.request(), Request { version, force: Force::Graceful });
    assert!(world.calls(2).0.contains(id(1)));
    let expected = Notice::Request {
        from: id(2),
        name: Name::host("host2").unwrap(),
        resource: world.resource.name(),
        held: lease.version(),
        version,
        force: Force::Graceful,
        due: true,
    };
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), expected);
    asker.request(&world.resource, Force::Graceful).unwrap();
    told_nothing(&owner, &told);
    assert!(asker.still_held(&world.resource, version).unwrap());
    lease.release().unwrap();
    assert!(!asker.still_held(&world.resource, version).unwrap());
    // Withdrawn in time, as sanlock hosts do it.
    until("the end of the call", || world.calls(2).0.is_empty());
}

/// A request for version 20 that is never cleared ends every later owner: the version that a request names is never
/// that of a later owner, and one for another version than the next, which sanlock hosts can make, is not due.
#[test]
fn scenario_38_a_request_concerns_no_later_owner() {
    let world = World::new();
    let (owner, told) = world.join(1);
    let (asker, _) = world.join(2);
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    let (_, version) = asked(asker.request(&world.resource, Force::Kill).unwrap());
    told.recv_timeout(PATIENCE).unwrap();
    lease.release().unwrap();
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    assert_eq!((world.request().version, lease.version() >= version), (version, true));
    // Called again, with the old request standing.
    asker.send_event(id(1), HostEvent { generation: 0, event: 1, data: 1 }).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Notice::Event { .. }));
    told_nothing(&owner, &told);
    assert!(!asker.still_held(&world.resource, version).unwrap());
    let far = Request { version: lease.version().after(20), force: Force::Kill };
    let geometry = owner.lockspace().geometry();
    edit_sector(&world.disk, world.request_at(), |bytes| bytes.copy_from_slice(&far.encode(geometry)));
    let notice = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(notice, Notice::Request { due: false, version, .. } if version == far.version), "{notice:?}");
    // One that is due takes its place, so that it can't wait there for its version.
    let (_, version) = asked(asker.request(&world.resource, Force::Graceful).unwrap());
    assert_eq!(world.request(), Request { version, force: Force::Graceful });
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Notice::Request { due: true, .. }));
    assert_eq!(asker.request(&world.resource, Force::None).unwrap(), Requested::Cleared);
    assert_eq!(world.request(), Request::default());
    lease.release().unwrap();
}

#[test]
fn of_several_who_ask_at_one_time_one_request_stands_and_all_call() {
    let world = World::new();
    let (owner, told) = world.join(1);
    let askers = [(2, Force::Graceful), (3, Force::Kill)];
    let askers = askers.map(|(host, force)| (host, world.join(host).0, force));
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    std::thread::scope(|scope| {
        for (host, asker, force) in &askers {
            let world = &world;
            // A call ends after a while, and this process may be slow to look.
            scope.spawn(move || {
                until("a call that stands", || {
                    assert_eq!(asked(asker.request(&world.resource, *force).unwrap()).0, [1]);
                    world.calls(*host).0.contains(id(1))
                });
            });
        }
    });
    let stands = world.request();
    assert_eq!(stands.version, lease.version().after(1));
    // The one before it may have been seen too.
    loop {
        let Notice::Request { force, due: true, .. } = told.recv_timeout(PATIENCE).unwrap() else { panic!("due") };
        if force == stands.force {
            break;
        }
    }
    lease.release().unwrap();
}

/// The leader may be out of date in both directions; the owner's block is not.
#[test]
fn who_is_asked_does_not_depend_on_a_leader_that_a_late_write_has_set_back() {
    let world = World::new();
    let (owner, asker) = (world.join(1).0, world.join(2).0);
    let before = world.leader();
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    let held = world.leader();
    world.set_leader(&before);
    assert_eq!(asked(asker.request(&world.resource, Force::Graceful).unwrap()), (vec![1], lease.version().after(1)));
    world.set_leader(&held);
    lease.release().unwrap();
    world.set_leader(&held);
    assert_eq!(asker.request(&world.resource, Force::Graceful).unwrap(), Requested::NotHeld);
}

/// Until it has looked at its lease it may act, and it has to yield like the one who took it.
#[test]
fn an_owner_that_was_taken_over_by_force_is_asked_too() {
    let world = World::with(rarely());
    let [owner, taker, asker] = [1, 2, 3].map(|host| world.join(host).0);
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    let taken = taker.take(&world.resource, lease.version(), Wait::No).unwrap().lease;
    let (holders, version) = asked(asker.request(&world.resource, Force::Graceful).unwrap());
    assert_eq!((holders, version), (vec![1, 2], taken.version().after(1)));
    assert!(asker.still_held(&world.resource, taken.version()).unwrap());
    lease.release().unwrap();
    assert!(!asker.still_held(&world.resource, taken.version()).unwrap());
    taken.release().unwrap();
}

#[test]
fn who_calls_does_not_wait_for_the_next_renewal() {
    let world = World::with(rarely());
    let renewal = Duration::from_secs(25);
    let (owner, asker) = (world.join(1).0, world.join(2).0);
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    let started = Instant::now();
    asked(asker.request(&world.resource, Force::Graceful).unwrap());
    assert!(started.elapsed() < renewal / 2);
    lease.release().unwrap();
}

/// All who share are asked, and each is told; one that yields doesn't do for the others.
#[test]
fn sharers_are_asked_together() {
    let world = World::new();
    let sharers = [world.join(1), world.join(2)];
    let (asker, _) = world.join(3);
    let share = |(membership, _): &(Membership, Receiver<Notice>)| {
        membership
            .acquire(&world.resource, AcquireOptions::new().mode(LeaseMode::Shared).wait(Wait::For(PATIENCE)))
            .unwrap()
    };
    let [first, second] = sharers.each_ref().map(share);
    let (holders, version) = asked(asker.request(&world.resource, Force::Graceful).unwrap());
    assert_eq!((holders, version), (vec![1, 2], first.version().max(second.version()).after(1)));
    for ((_, told), lease) in sharers.iter().zip([&first, &second]) {
        let notice = told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(notice, Notice::Request { due: true, held, .. } if held == lease.version()), "{notice:?}");
    }
    second.release().unwrap();
    assert!(asker.still_held(&world.resource, version).unwrap());
    // Who shares from now on was not asked.
    let third = share(&sharers[1]);
    assert!(third.version() >= version && asker.still_held(&world.resource, version).unwrap());
    first.release().unwrap();
    assert!(!asker.still_held(&world.resource, version).unwrap());
}

/// Who is dead can't yield; what it held can be acquired.
#[test]
fn nobody_is_asked_for_what_a_dead_host_held() {
    let world = World::new();
    let (owner, _) = world.join(1);
    let (asker, _) = world.join(2);
    let lease = owner.acquire(&world.resource, Wait::No).unwrap();
    // Renewing stops, and nothing is given back.
    drop(owner);
    until("the owner's death", || asker.request(&world.resource, Force::Graceful).unwrap() == Requested::NotHeld);
    drop(lease);
}

#[test]
fn an_event_reaches_its_host_and_is_withdrawn() {
    let world = World::new();
    let (sender, _) = world.join(1);
    let (receiver, told) = world.join(2);
    let (other, others) = world.join(3);
    let generation = receiver.owner().generation.get();
    let event = |event| HostEvent { generation, event, data: 9 };
    let missing = sender.send_event(id(2), HostEvent { generation: generation + 1, ..event(7) }).unwrap_err();
    assert!(matches!(missing, EventError::NotThere { .. }), "{missing}");
    let missing = sender.send_event(id(4), event(7)).unwrap_err();
    assert_eq!(missing.to_string(), format!("host 4 is not there in generation {generation}"));
    let empty = sender.send_event(id(2), HostEvent::default()).unwrap_err();
    assert!(matches!(empty, EventError::Empty), "{empty}");
    sender.send_event(id(2), event(7)).unwrap();
    assert_eq!(world.calls(1).1, Some(event(7)));
    let name = Name::host("host1").unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Notice::Event { from: id(1), name, event: event(7) });
    let busy = sender.send_event(id(2), event(8)).unwrap_err();
    let EventError::Busy { left } = busy else { panic!("{busy}") };
    assert!(left <= steady().io() * 6, "{left:?}");
    until("the end of the first", || sender.send_event(id(2), event(8)).is_ok());
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Notice::Event { event: HostEvent { event: 8, .. }, .. }));
    until("the end of the second", || world.calls(1) == (HostBitmap::default(), None));
    told_nothing(&other, &others);
}

/// `run` with a shell script, once it says that it runs.
#[track_caller]
fn owner(scene: &Scene, options: &[&str], script: &str) -> Process {
    let run = ["run", "--device", "disk", "--wait", WAIT, "--host-id", "1", "--host-name", "owner", "--create"];
    let run = [&run, options, &["demo", "--", "sh", "-c", script]].concat();
    scene.start_until(&run, |process| process.said().contains("runs"))
}

fn request(scene: &Scene, options: &[&str]) -> Ended {
    ended(scene.start(&[&["request", "disk", "demo", "--host-id", "2"], options].concat()))
}

fn is_free(scene: &Scene) -> bool {
    scene.status()["resources"][0]["state"] == "free"
}

/// The clock of host 1 at its last renewal, in seconds.
fn renewed(scene: &Scene) -> u64 {
    let record = fs::read(scene.path("disk")).unwrap()[..512].to_vec();
    DeltaRecord::decode(&record, 0).unwrap().timestamp
}

/// Which is all of it, may take longer than a lost lease would last, and ends with what the command says.
#[test]
fn run_yields_when_it_is_asked_to_and_its_command_has_ended() {
    let scene = Scene::formatted(steady()).on_a_device();
    let script = "trap 'echo > term; while [ ! -e go ]; do sleep 0.05; done; exit 3' TERM
        sh -c 'trap \"echo > child; exit\" TERM; echo > ready; while :; do sleep 0.05; done' &
        while [ ! -e ready ]; do sleep 0.05; done; echo runs; while :; do sleep 0.05; done";
    let mut owner = owner(&scene, &["--on-request", "yield"], script);
    let asked = request(&scene, &["--wait", "0s"]).expect(75, &["demo is still held"]);
    assert!(asked.out.contains("demo is held by host 1 (owner) generation "), "{asked:?}");
    // Its call was withdrawn when it left, perhaps too early: now the owner sees it.
    let mut asker = scene.start(&["request", "disk", "demo", "--host-id", "2", "--wait", "forever"]);
    until("SIGTERM", || scene.path("term").exists() && scene.path("child").exists());
    let since = renewed(&scene);
    let patience = (steady().fail() + steady().fence()).as_secs() + 1;
    until("renewals", || renewed(&scene) > since + patience);
    assert!(owner.ended().is_none() && asker.ended().is_none() && !is_free(&scene));
    fs::write(scene.path("go"), "").unwrap();
    assert_eq!((owner.code(), asker.code()), (3, 0), "{}", owner.complained());
    assert!(asker.said().ends_with("demo was given up\n"), "{}", asker.said());
    assert!(owner.complained().contains("to be given up when it suits; held at version"), "{}", owner.complained());
    assert!(is_free(&scene));
}

/// As after a loss, though it isn't one: the leases are released, and the exit code is not that of a loss.
#[test]
fn run_is_ended_at_once_where_that_is_asked_for() {
    let scene = Scene::formatted(steady()).on_a_device();
    let script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' &)
        echo runs; while :; do sleep 0.05; done";
    let mut owner = owner(&scene, &["--on-request", "yield"], script);
    request(&scene, &["--force", "--wait", "forever"]).expect(0, &[]);
    // It was released after everything was gone.
    let left = scene.mark.living().into_iter().filter(|pid| *pid != owner.pid()).count();
    assert_eq!((left, owner.code()), (0, 137), "{}", owner.complained());
    assert!(owner.complained().contains("to be given up at once"), "{}", owner.complained());
    assert!(is_free(&scene));
}

#[test]
fn run_tells_of_a_request_and_goes_on() {
    let scene = Scene::formatted(steady()).on_a_device();
    let mut owner = owner(&scene, &[], "trap 'echo > term' TERM; echo runs; while :; do sleep 0.05; done");
    request(&scene, &["--force", "--host-name", "asker"]).expect(75, &["demo is still held"]);
    until("the notice", || owner.complained().contains("host 2 (asker) asks for demo at version "));
    assert!(owner.ended().is_none() && !scene.path("term").exists() && !is_free(&scene));
    scene.run(&["request", "disk", "demon"]).expect(66, &[]);
}
