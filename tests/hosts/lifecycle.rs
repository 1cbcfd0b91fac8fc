//! How a membership and its leases end when nobody ends them in an orderly way: the lease file goes, or a handle is
//! dropped.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use leasehold::disk::{Fault, Lane, MemoryDisk, Plan, Request};
use leasehold::{AcquireError, CreateError, JoinOptions, LeaveError, Lockspace, LossReason, Status, Wait};

use crate::common::answers::{AtOnce, held_by};
use crate::common::devices::{disk, folder, join, lockspace, text, with_resources};
use crate::common::memory;
use crate::common::memory::{Scene, Suspended, formatted, path_to, sector, steady, with_resource};
use crate::common::{PATIENCE, id, resume, until};

/// The statuses that a program is told, and the options with which it is.
fn told() -> (Receiver<Status>, impl Fn() -> JoinOptions) {
    let (sender, told) = channel();
    let options = move || {
        let sender = sender.clone();
        // The test may have ended.
        JoinOptions::new().on_status(move |status| drop(sender.send(status.clone())))
    };
    (told, options)
}

/// The first loss that is told.
#[track_caller]
fn loss(told: &Receiver<Status>) -> LossReason {
    loop {
        if let Status::Lost { reason } = told.recv_timeout(PATIENCE).expect("a loss is told") {
            return reason;
        }
    }
}

/// Long before the deadline. What is left of the file by another name keeps it.
#[test]
fn scenario_58_a_lease_file_that_was_deleted_or_replaced_is_the_loss_at_the_next_renewal() {
    let delete: fn(&Path) = |path| fs::remove_file(path).unwrap();
    let replace: fn(&Path) = |path| {
        let other = path.with_extension("other");
        lockspace(&other, steady());
        fs::rename(&other, path).unwrap();
    };
    for part in [delete, replace] {
        let folder = folder();
        let (path, link) = (folder.path().join("disk"), folder.path().join("link"));
        fs::write(&path, vec![0; 8 << 20]).unwrap();
        with_resources(disk(&path), steady(), &["demo"]);
        let (told, options) = told();
        let membership = join(&path, options);
        let resource = membership.lockspace().find("demo").unwrap();
        let lease = membership.acquire(&resource, Wait::For(PATIENCE)).unwrap();

        fs::hard_link(&path, &link).unwrap();
        part(&path);
        let before = membership.renewal_latencies().len();
        until("renewals", || membership.renewal_latencies().len() >= before + 3);
        assert!(lease.is_held());

        part(&link);
        let gone = LossReason::Gone { path: text(&path).into() };
        assert_eq!(loss(&told), gone);
        assert!(gone.to_string().contains(text(&path)), "{gone}");
        assert_eq!(lease.status(), Status::Lost { reason: gone.clone() });
        let answer = membership.acquire(&resource, Wait::No);
        assert!(matches!(&answer, Err(AcquireError::Lost(reason)) if *reason == gone), "{answer:?}");
    }
}

/// As any other disk says it. To a look at what is held it is a failure like others.
#[test]
fn only_a_renewal_takes_a_disk_that_says_it_is_gone_for_the_loss() {
    let scene = Scene::new();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let says = |lane| {
        move |request: &Request| match request.lane == lane {
            true => Plan::Fail(Fault::Gone),
            false => Plan::Pass,
        }
    };
    scene.path.set_rule(says(Lane::General));
    let before = scene.membership.renewal_latencies().len();
    until("renewals", || scene.membership.renewal_latencies().len() >= before + 3);
    assert!(lease.is_held());
    scene.path.set_rule(says(Lane::Renewal));
    until("the loss", || !lease.is_held());
    assert_eq!(lease.status(), Status::Lost { reason: LossReason::Gone { path: "memory".into() } });
}

/// The thread that tells is the last of it, and keeps nothing.
#[test]
fn scenario_59_a_membership_that_is_dropped_with_a_lease_alive_is_told_as_lost_at_its_deadline() {
    let (told, options) = told();
    let (disk, resource) = with_resource(steady());
    let (path, clock) = (path_to(&disk), Arc::new(Suspended::new()));
    let membership = memory::join(&Lockspace::open_with_clock(path.clone(), clock.clone()).unwrap(), options);
    let host = membership.owner().host;
    let lease = membership.try_acquire(&resource).unwrap();
    drop(membership);
    let record = || sector(&disk, (host.get() - 1) * 512);
    let last = record();
    // A thread that had only stopped with the renewals would have ended by then.
    thread::sleep(Duration::from_millis(400));
    assert!(lease.is_held());
    assert!(told.try_iter().all(|status| !matches!(status, Status::Lost { .. })));
    clock.suspend(steady().fail());
    assert_eq!(loss(&told), LossReason::Expired { cause: None });
    assert_eq!(lease.status(), Status::Lost { reason: LossReason::Expired { cause: None } });
    assert!(record() == last, "it was renewed, or given back");
    assert_eq!(told.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "nothing follows the loss");
    drop(lease);
    until("the end of all that used the disk", || Arc::strong_count(&path) == 1);
}

/// The handle of a lease may outlive its membership; what it protects is stopped by its holder then.
#[test]
fn a_lease_whose_membership_was_dropped_is_released_until_the_deadline() {
    let scene = Scene::new();
    let other = scene.other(2);
    let Scene { membership, resource, .. } = scene;
    let lease = membership.try_acquire(&resource).unwrap();
    let version = lease.version();
    drop(membership);
    assert!(lease.is_held());
    lease.release().unwrap();
    assert!(other.try_acquire(&resource).unwrap().version() > version);
}

/// Drops them as a panic of the program does.
fn dropped_by_a_panic<T: Send + 'static>(what: T) {
    let panicked = thread::spawn(move || {
        let _held = what;
        panic!("expected by the test");
    });
    assert!(panicked.join().is_err());
}

/// The program that it protects may run. Whoever catches the panic has the lease again.
#[test]
fn scenario_59_a_lease_that_is_dropped_by_a_panic_stays_held_and_is_handed_out_again() {
    let scene = Scene::new();
    let other = scene.other(2);
    let membership = &scene.membership;
    let lease = membership.try_acquire(&scene.resource).unwrap();
    let version = lease.version();
    dropped_by_a_panic(lease);
    let before = membership.renewal_latencies().len();
    until("renewals", || membership.renewal_latencies().len() >= before + 3);
    held_by(&other, &scene.resource, 1);
    assert!(matches!(membership.try_acquire(&scene.resource), Err(AcquireError::AlreadyHeld { .. })));
    assert!(matches!(membership.leave(), Err(LeaveError::LeasesHeld { .. })));
    let orphans = membership.orphans();
    let [lease] = &orphans[..] else { panic!("{orphans:?}") };
    assert!(membership.orphans().is_empty(), "it is handed out once");
    assert!(lease.is_held());
    assert_eq!((lease.resource(), lease.version()), (&scene.resource, version));
    dropped_by_a_panic(orphans);
    membership.orphans().into_iter().for_each(|lease| lease.release().unwrap());
    assert!(other.try_acquire(&scene.resource).unwrap().version() > version);
    membership.leave().unwrap();
}

/// It is looked after as any other: its holder learns of a taking, and it is given back G later, though nobody has it.
#[test]
fn a_lease_that_a_panic_dropped_is_told_as_lost_when_it_is_taken_by_force() {
    let (sender, told) = channel();
    let scene = Scene::with(steady(), || {
        let sender = sender.clone();
        // The test may have ended.
        JoinOptions::new().on_lease_loss(move |loss| drop(sender.send(loss.clone())))
    });
    let other = scene.other(2);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let version = lease.version();
    dropped_by_a_panic(lease);
    let taken = other.try_take(&scene.resource, version).unwrap();
    let loss = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((loss.resource, loss.version), (scene.resource.name(), version));
    assert!(matches!(loss.reason, LossReason::Fenced(_)));
    until("its end", || scene.membership.leave().is_ok());
    assert!(taken.lease.is_held());
}

#[test]
fn a_lease_that_a_panic_dropped_is_handed_to_the_next_process() {
    let (disk, resource) = with_resource(steady());
    let lockspace = |disk: &MemoryDisk| Lockspace::open(Arc::new(disk.reopen())).unwrap();
    let options = || JoinOptions::new().machine("this one");
    let membership = memory::join(&lockspace(&disk), options);
    let lease = membership.try_acquire(&resource).unwrap();
    let version = lease.version();
    dropped_by_a_panic(lease);
    let token = membership.detach().unwrap();
    let resumed = resume(&lockspace(&disk), &token, options).unwrap();
    assert!(resumed.gone.is_empty());
    let held: Vec<_> = resumed.leases.iter().map(|lease| (*lease.resource(), lease.version())).collect();
    assert_eq!(held, [(resource, version)]);
}

/// As at the end of a program whose main thread panics: nothing is given back, and the protected program is told.
#[test]
fn scenario_59_a_membership_that_is_dropped_by_a_panic_gives_nothing_back() {
    for holds in [true, false] {
        let (told, options) = told();
        let (disk, resource) = with_resource(steady());
        let clock = Arc::new(Suspended::new());
        let lockspace = Lockspace::open_with_clock(path_to(&disk), clock.clone()).unwrap();
        let membership = memory::join(&lockspace, move || options().host_id(id(1)));
        let lease = holds.then(|| membership.try_acquire(&resource).unwrap());
        dropped_by_a_panic((membership, lease));
        let (record, area) = (sector(&disk, 0), sector(&disk, resource.offset() + 1024));
        clock.suspend(steady().fail());
        assert_eq!(loss(&told), LossReason::Expired { cause: None });
        assert_eq!(told.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
        assert!(sector(&disk, 0) == record && sector(&disk, resource.offset() + 1024) == area);
        let seen = &lockspace.hosts(Duration::ZERO).unwrap()[0];
        assert_ne!(seen.timestamp, 0, "the host id was given back");
    }
}

/// Nobody has had it, so nothing depends on it.
#[test]
fn a_join_that_is_dropped_by_a_panic_leaves_nothing_behind() {
    let disk = formatted(steady());
    let lockspace = Lockspace::open(Arc::new(disk)).unwrap();
    let joining = lockspace.start_join(JoinOptions::new()).unwrap();
    until("a join", || joining.is_done());
    dropped_by_a_panic(joining);
    assert!(lockspace.hosts(Duration::ZERO).unwrap().iter().all(|host| host.timestamp == 0));
}

/// Nobody knows what the program did not come to.
#[test]
fn a_program_that_panics_when_it_is_called_back_has_lost_its_membership_and_nothing_is_renewed_for_it() {
    let panics = || JoinOptions::new().on_status(|_| panic!("on purpose"));
    let scene = Scene::with(steady(), JoinOptions::new);
    let other = scene.other(3);
    let membership = memory::join(&Lockspace::open(scene.path.clone()).unwrap(), || panics().host_id(id(2)));
    until("the loss", || membership.status() == Status::Lost { reason: LossReason::Panicked });
    let refused = membership.try_acquire(&scene.resource).unwrap_err();
    assert!(matches!(refused, AcquireError::Lost(LossReason::Panicked)), "{refused}");
    let refused = membership.create("another", Wait::No).unwrap_err();
    assert!(matches!(refused, CreateError::Guard(AcquireError::Lost(_))), "{refused}");
    let at = membership.lockspace().geometry().delta_offset(id(2));
    let record = || sector(&scene.disk, at);
    let before = record();
    let renewals = other.renewal_latencies().len();
    until("renewals of others", || other.renewal_latencies().len() >= renewals + 3);
    assert_eq!(record(), before);
    assert!(matches!(membership.leave(), Err(LeaveError::Lost(LossReason::Panicked))));
}

/// Whoever leaves knows it by the answer.
#[test]
fn who_leaves_or_detaches_is_told_no_loss() {
    for detaches in [false, true] {
        let (told, options) = told();
        let scene = Scene::with(steady(), options);
        match detaches {
            true => drop(scene.membership.detach().unwrap()),
            false => scene.membership.leave().unwrap(),
        }
        let lost = told.iter().any(|status| matches!(status, Status::Lost { .. }));
        assert!(!lost);
    }
}
