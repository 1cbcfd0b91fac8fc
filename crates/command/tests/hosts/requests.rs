//! Asking an owner to yield, and events: what reaches whom, and what becomes of the owner's command.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::disk::MemoryDisk;
use leasehold::format::{DeltaRecord, Force, HostBitmap, HostEvent, Request};
use leasehold::{
    AcquireOptions, EventError, JoinOptions, LeaseMode, Lockspace, Membership, Name, Notice, Owner, RequestError,
    Requested, Resource, Timeouts, Version, Wait,
};

use crate::common::answers::AtOnce;
use crate::common::memory::{self, edit_sector, sector};
use crate::common::processes::Process;
use crate::common::scene::{Ended, Scene, WAIT};
use crate::common::{PATIENCE, id, timeouts, until, until_some};

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
        World::with(memory::steady())
    }

    fn with(timeouts: Timeouts) -> World {
        let (disk, resource) = memory::with_resource(timeouts);
        World { disk, resource }
    }

    /// A host, and what it is told.
    fn join(&self, host: u64) -> (Membership, Receiver<Notice>) {
        let (sender, told) = channel();
        let membership = memory::join(&Lockspace::open(Arc::new(self.disk.reopen())).unwrap(), || {
            let sender = sender.clone();
            let options = JoinOptions::new().host_id(id(host)).host_name(format!("host{host}"));
            options.on_notice(move |notice| sender.send(notice.clone()).unwrap_or_default())
        });
        (membership, told)
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

fn event(event: u64) -> HostEvent {
    HostEvent { generation: 0, event, data: 9 }
}

/// How long a host is called: a busy machine may not look at what it says for longer.
fn call_span() -> Duration {
    memory::steady().io() * 6
}

/// Makes a call, and asserts that it stands when it is answered; again where it may have been withdrawn since.
#[track_caller]
fn stands(mut call: impl FnMut(), stands: impl Fn() -> bool) {
    until("a call that stands", || {
        let start = Instant::now();
        call();
        let stands = stands();
        assert!(stands || start.elapsed() >= call_span(), "it does not stand");
        stands
    });
}

/// What a host is told next; `again` calls it anew where it did not see that in time.
#[track_caller]
fn next_notice(told: &Receiver<Notice>, mut again: impl FnMut()) -> Notice {
    until_some("a notice", || {
        let notice = told.recv_timeout(call_span()).ok();
        if notice.is_none() {
            again();
        }
        notice
    })
}

/// The next request that `owner` is told of, whom `caller` calls.
#[track_caller]
fn next_request((owner, told): (&Membership, &Receiver<Notice>), caller: &Membership) -> Notice {
    let call = || drop(caller.send_event(owner.owner().host, event(1)));
    until_some("a request", || Some(next_notice(told, call)).filter(|notice| !matches!(notice, Notice::Event { .. })))
}

/// Asserts that `owner` is told nothing but events, which `caller` sends it: what it finds with the first of them it
/// was told of when it tells of the second.
#[track_caller]
fn told_nothing((owner, told): (&Membership, &Receiver<Notice>), caller: &Membership) {
    for sent in [event(101), event(102)] {
        until("the event", || {
            // Not before the one before it is withdrawn, and again where that one was.
            match caller.send_event(owner.owner().host, sent) {
                Ok(()) | Err(EventError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            let notice = told.recv_timeout(Duration::from_millis(100)).ok();
            notice.is_some_and(|notice| match notice {
                Notice::Event { event, .. } => event == sent,
                notice => panic!("{notice:?}"),
            })
        });
    }
}

#[test]
fn an_owner_is_told_once_who_asks_and_for_which_version() {
    let world = World::new();
    let (owner, told) = world.join(1);
    let (asker, _) = world.join(2);
    assert_eq!(asker.request(&world.resource, Force::Graceful).unwrap(), Requested::NotHeld);
    assert_eq!(world.request(), Request::default());
    let lease = owner.try_acquire(&world.resource).unwrap();
    let refused = owner.request(&world.resource, Force::Graceful).unwrap_err();
    assert!(matches!(refused, RequestError::HeldHere { .. }), "{refused}");
    let version = lease.version().after(1);
    let request = || asked(asker.request(&world.resource, Force::Graceful).unwrap());
    // It stands on disk when it was answered.
    stands(|| assert_eq!(request(), (vec![1], version)), || world.calls(2).0.contains(id(1)));
    assert_eq!(world.request(), Request { version, force: Force::Graceful });
    let expected = Notice::Request {
        from: id(2),
        name: Name::host("host2").unwrap(),
        resource: world.resource.name(),
        held: lease.version(),
        version,
        force: Force::Graceful,
        due: true,
    };
    assert_eq!(next_notice(&told, || drop(request())), expected);
    request();
    told_nothing((&owner, &told), &asker);
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
    let lease = owner.try_acquire(&world.resource).unwrap();
    let (_, version) = asked(asker.request(&world.resource, Force::Kill).unwrap());
    next_request((&owner, &told), &asker);
    lease.release().unwrap();
    let lease = owner.try_acquire(&world.resource).unwrap();
    assert_eq!((world.request().version, lease.version() >= version), (version, true));
    // Called again, with the old request standing.
    told_nothing((&owner, &told), &asker);
    assert!(!asker.still_held(&world.resource, version).unwrap());
    let far = Request { version: lease.version().after(20), force: Force::Kill };
    let geometry = owner.lockspace().geometry();
    edit_sector(&world.disk, world.request_at(), |bytes| bytes.copy_from_slice(&far.encode(geometry)));
    let notice = next_request((&owner, &told), &asker);
    assert!(matches!(notice, Notice::Request { due: false, version, .. } if version == far.version), "{notice:?}");
    // One that is due takes its place, so that it can't wait there for its version.
    let (_, version) = asked(asker.request(&world.resource, Force::Graceful).unwrap());
    assert_eq!(world.request(), Request { version, force: Force::Graceful });
    assert!(matches!(next_request((&owner, &told), &asker), Notice::Request { due: true, .. }));
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
    let lease = owner.try_acquire(&world.resource).unwrap();
    std::thread::scope(|scope| {
        for (host, asker, force) in &askers {
            let world = &world;
            scope.spawn(move || {
                let request = || asked(asker.request(&world.resource, *force).unwrap());
                stands(|| assert_eq!(request().0, [1]), || world.calls(*host).0.contains(id(1)));
            });
        }
    });
    let stands = world.request();
    assert_eq!(stands.version, lease.version().after(1));
    // The one before it may have been seen too.
    loop {
        let notice = next_request((&owner, &told), &askers[0].1);
        let Notice::Request { force, due: true, .. } = notice else { panic!("{notice:?}") };
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
    let lease = owner.try_acquire(&world.resource).unwrap();
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
    let lease = owner.try_acquire(&world.resource).unwrap();
    let taken = taker.try_take(&world.resource, lease.version()).unwrap().lease;
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
    let lease = owner.try_acquire(&world.resource).unwrap();
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
    for ((sharer, told), lease) in sharers.iter().zip([&first, &second]) {
        let notice = next_request((sharer, told), &asker);
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
    let world = World::with(memory::brief());
    let (owner, _) = world.join(1);
    let (asker, _) = world.join(2);
    let lease = owner.try_acquire(&world.resource).unwrap();
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
    let knows =
        |to: Owner| sender.hosts().iter().any(|info| (info.host, info.generation) == (to.host, to.generation.get()));
    until("the sender to know them", || knows(receiver.owner()) && knows(other.owner()));
    let send = |number| sender.send_event(id(2), event(number));
    stands(|| send(7).unwrap(), || world.calls(1).1 == Some(event(7)));
    let name = Name::host("host1").unwrap();
    let first = Notice::Event { from: id(1), name, event: event(7) };
    assert_eq!(next_notice(&told, || send(7).unwrap()), first);
    let start = Instant::now();
    send(7).unwrap();
    match send(8) {
        Err(EventError::Busy { left }) => assert!(left <= call_span(), "{left:?}"),
        answer => assert!(answer.is_ok() && start.elapsed() >= call_span(), "{answer:?}"),
    }
    until("the end of the first", || send(8).is_ok());
    let second = || next_notice(&told, || send(8).unwrap());
    until("the second", || match second() {
        Notice::Event { event: HostEvent { event: 8, .. }, .. } => true,
        again => {
            assert_eq!(again, first);
            false
        }
    });
    until("the end of the second", || world.calls(1) == (HostBitmap::default(), None));
    told_nothing((&other, &others), &sender);
}

/// `run` with a shell script, once it says that it runs.
#[track_caller]
fn owner(scene: &Scene, options: &[&str], script: &str) -> Process {
    let run = ["run", "--device", "disk", "--wait", WAIT, "--host-id", "1", "--host-name", "owner", "--create"];
    let run = [&run, options, &["demo", "--", "sh", "-c", script]].concat();
    scene.start_until(&run, |process| process.said().contains("runs"))
}

#[track_caller]
fn request(scene: &Scene, options: &[&str]) -> Ended {
    scene.run(&[&["request", "disk", "demo", "--host-id", "2"], options].concat())
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
    let times = timeouts([100, 500, 3_000, 500, 3_500]);
    let scene = Scene::formatted(times).on_a_device();
    let script = "trap 'echo > term; while [ ! -e go ]; do sleep 0.05; done; exit 3' TERM
        sh -c 'trap \"echo > child; exit\" TERM; echo > ready; while :; do sleep 0.05; done' &
        while [ ! -e ready ]; do sleep 0.05; done; echo runs; while :; do sleep 0.05; done";
    let mut owner = owner(&scene, &["--on-request", "yield"], script);
    let asked = request(&scene, &["--wait", "0s"]).expect(75, &["demo is still held"]);
    assert!(asked.out.contains("demo is held by host 1 (owner) generation "), "{asked:?}");
    // Its call was withdrawn when it left, perhaps too early: now the owner sees it.
    let asks = ["request", "disk", "demo", "--host-id", "2", "--wait", "forever"];
    let mut asker = scene.start_until(&asks, |asker| asker.said().contains("demo is held by host 1"));
    until("SIGTERM", || scene.path("term").exists() && scene.path("child").exists());
    let since = renewed(&scene);
    let patience = (times.fail() + times.fence()).as_secs() + 1;
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
    let scene = Scene::with(&[]).on_a_device();
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
    let scene = Scene::with(&[]).on_a_device();
    let mut owner = owner(&scene, &[], "trap 'echo > term' TERM; echo runs; while :; do sleep 0.05; done");
    request(&scene, &["--force", "--host-name", "asker"]).expect(75, &["demo is still held"]);
    until("the notice", || owner.complained().contains("host 2 (asker) asks for demo at version "));
    assert!(owner.ended().is_none() && !scene.path("term").exists() && !is_free(&scene));
    scene.run(&["request", "disk", "demon"]).expect(66, &[]);
}
