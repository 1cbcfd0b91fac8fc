//! Memberships that another process goes on with: detached, killed, paused, too late, twice at once.
//!
//! `LEASEHOLD_RESTART_SECONDS`: for how long a process is killed and restarted every second under load (2).

#![allow(clippy::unwrap_used, clippy::print_stdout)] // In a test these are assertions and its report.

mod common;

#[path = "resume/in_memory.rs"]
mod in_memory;
#[path = "resume/restarts.rs"]
mod restarts;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use leasehold::disk::{Access, BootClock, Clock, DirectDisk};
use leasehold::{
    AcquireError, FormatOptions, JoinOptions, Lease, Lockspace, Membership, ReleaseError, Resource, ResumeError,
    ResumeToken, Resumed, Status, Timeouts, Wait,
};
use rustix::process::Signal;
use tempfile::TempDir;

use common::devices::{Loop, file, join, open, text};
use common::processes::{self, Mark, Process};
use common::{PATIENCE, timeouts, until, until_some};

/// So long that a busy machine costs nobody a lease, and all that is to be in time is. A join that has to be made again
/// takes D.
fn steady() -> Timeouts {
    timeouts([200, 700, 10_000, 1_000, 11_000])
}

/// A lockspace on a loop device with two resources, and a folder.
struct Scene {
    mark: Mark,
    node: Loop,
    folder: TempDir,
}

const RESOURCES: [&str; 2] = ["first", "second"];

/// The lease on a resource; a busy machine may need more than one attempt at the index. None if the host id is lost.
fn acquire(membership: &Membership, name: &str) -> Option<Lease> {
    until_some("a lease", || {
        let resource = membership.lockspace().find(name).ok();
        let lease = resource.and_then(|resource| membership.acquire(&resource, Wait::For(PATIENCE)).ok());
        (lease.is_some() || matches!(membership.status(), Status::Lost { .. })).then_some(lease)
    })
}

impl Scene {
    fn new(timeouts: Timeouts) -> Scene {
        let (folder, backing) = file(8 << 20);
        let node = Loop::new(&backing, &["--direct-io=on"]);
        let disk = Arc::new(DirectDisk::open(&node.0, Access::ReadWrite).unwrap());
        leasehold::format(disk, &FormatOptions { timeouts, ..FormatOptions::default() }).unwrap();
        let scene = Scene { mark: Mark::new(), node, folder };
        until("the resources", || {
            // Of a machine that is too busy for the one before.
            let maker = scene.join("maker");
            let made = |name: &&str| maker.create(name, Wait::For(PATIENCE)).is_ok() || scene.open().find(name).is_ok();
            RESOURCES.iter().all(made)
        });
        scene
    }

    fn open(&self) -> Lockspace {
        open(&self.node.0)
    }

    fn join(&self, name: &str) -> Membership {
        join(&self.node.0, || JoinOptions::new().host_name(name))
    }

    fn resource(&self) -> Resource {
        until_some("the first resource", || self.open().find(RESOURCES[0]).ok())
    }

    /// A machine that is too busy for an I/O is asked again.
    fn resume(&self, token: &ResumeToken) -> Result<Resumed, ResumeError> {
        loop {
            match self.open().resume(token, JoinOptions::new()) {
                Err(ResumeError::Disk(_) | ResumeError::Index(_)) => {}
                outcome => return outcome,
            }
        }
    }

    /// A process that holds the first resource and was renewed, and its token.
    fn holder(&self) -> (Process, ResumeToken) {
        let start = || Process::start(&mut processes::worker(&["hold", text(&self.node.0)]), &self.mark);
        let mut process = start();
        until("a renewal of the holder", || {
            // A busy machine may keep it from joining, or cost it what it has.
            if process.ended().is_some() {
                process = start();
            }
            process.said().lines().filter(|line| line.starts_with("until ")).count() > 2
        });
        let token = process.said().lines().find_map(|line| line.strip_prefix("token ")?.parse().ok());
        (process, token.unwrap())
    }
}

fn kill(process: &mut Process) {
    process.signal(Signal::KILL);
    assert_eq!(process.code(), 128 + 9, "{}", process.complained());
}

/// Until when a holder says that it holds.
fn said_until(process: &Process) -> u64 {
    process.said().lines().filter_map(|line| line.strip_prefix("until ")?.parse().ok()).next_back().unwrap()
}

/// Not a test: what this program does in the processes that the tests start.
#[test]
fn worker() {
    let Some(task) = processes::task() else { return };
    match task.split('\n').collect::<Vec<_>>()[..] {
        ["hold", device] => hold(Path::new(device)),
        ["embed", device, token, journal] => restarts::embed(Path::new(device), Path::new(token), Path::new(journal)),
        ["contend", device, journal] => restarts::contend(Path::new(device), Path::new(journal)),
        _ => panic!("no such task: {task:?}"),
    }
}

/// Holds until it is killed, and says until when at each renewal.
fn hold(device: &Path) {
    let membership = join(device, || JoinOptions::new().host_name("holder"));
    let lease = acquire(&membership, RESOURCES[0]).expect("a busy machine");
    println!("\ntoken {}", membership.token());
    let mut status = lease.status();
    loop {
        match &status {
            Status::Held { until } | Status::Late { until } => println!("until {}", until.as_nanos()),
            Status::Lost { reason } => panic!("{reason}"),
        }
        status = lease.status_change(&status, PATIENCE);
    }
}

/// While others try to get the lease all the time.
#[test]
fn a_killed_process_is_continued_and_no_other_host_ever_sees_its_lease_free() {
    let scene = Scene::new(steady());
    let other = scene.join("other");
    let resource = scene.resource();
    let (mut holder, token) = scene.holder();
    let (_, _, version) = token.leases().next().unwrap();
    let over = scene.folder.path().join("over");
    thread::scope(|scope| {
        let contender = scope.spawn(|| {
            let mut refused = 0;
            while !over.exists() {
                match other.acquire(&resource, Wait::No) {
                    Err(AcquireError::Held { holder, .. }) => {
                        assert_eq!((holder.host, holder.version), (token.owner().host, version));
                        refused += 1;
                    }
                    Err(AcquireError::TimedOut { .. } | AcquireError::Disk(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
            refused
        });
        kill(&mut holder);
        let Resumed { leases, gone, membership, .. } = scene.resume(&token).unwrap();
        assert_eq!(membership.owner(), token.owner());
        assert!(gone.is_empty(), "{gone:?}");
        let [lease] = &leases[..] else { panic!("{leases:?}") };
        assert_eq!((*lease.resource(), lease.version()), (resource, version));
        // Renewed several times, so that it is no longer the predecessor's renewal that others count.
        for _ in 0..3 {
            let seen = lease.status();
            until("a renewal", || lease.status() != seen);
        }
        assert!(lease.is_held());
        fs::write(&over, "").unwrap();
        assert!(contender.join().unwrap() > 0);
        // A busy machine may keep it from being confirmed; then it goes on.
        for lease in leases {
            let released = lease.release();
            assert!(matches!(released, Ok(()) | Err(ReleaseError::Unknown { .. })), "{released:?}");
        }
    });
    let lease = other.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
}

#[test]
fn a_killed_process_is_not_continued_after_its_deadline() {
    let timeouts = timeouts([100, 300, 1_200, 300, 1_500]);
    let scene = Scene::new(timeouts);
    let (mut holder, token) = scene.holder();
    kill(&mut holder);
    // It may have been renewed once more than it said.
    let over = BootClock.now() + timeouts.fail();
    until("the deadline", || BootClock.now() > over);
    let refused = scene.resume(&token).unwrap_err();
    println!("{refused}");
    assert!(matches!(refused, ResumeError::TooLate { .. }), "{refused:?}");
    // What it held is another host's after D, which changes nothing. One that is lost on the way joins again.
    let resource = scene.resource();
    let version = until_some("the lease of another host", || {
        let other = scene.join("other");
        Some(other.acquire(&resource, Wait::For(PATIENCE)).ok()?.version())
    });
    assert!(version > token.leases().next().unwrap().2);
    assert!(matches!(scene.resume(&token), Err(ResumeError::TooLate { .. })));
}

#[test]
fn a_paused_predecessor_keeps_what_it_has() {
    let scene = Scene::new(steady());
    let (mut holder, token) = scene.holder();
    let held_here = |result: Result<Resumed, ResumeError>| {
        assert!(
            matches!(&result, Err(ResumeError::HeldHere { host, .. }) if *host == token.owner().host),
            "{result:?}"
        );
    };
    held_here(scene.resume(&token));
    holder.signal(Signal::STOP);
    held_here(scene.resume(&token));
    holder.signal(Signal::CONT);
    let seen = said_until(&holder);
    until("a renewal of the predecessor", || said_until(&holder) > seen);
    assert!(holder.ended().is_none());
    holder.signal(Signal::STOP);
    kill(&mut holder);
    let resumed = scene.resume(&token).unwrap();
    assert_eq!((resumed.leases.len(), resumed.gone.len()), (1, 0));
}

#[test]
fn of_two_successors_one_goes_on() {
    let scene = Scene::new(steady());
    let (mut holder, token) = scene.holder();
    kill(&mut holder);
    let outcomes: Vec<Result<Resumed, ResumeError>> = thread::scope(|scope| {
        let attempts: Vec<_> = (0..4).map(|_| scope.spawn(|| scene.resume(&token))).collect();
        attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().flatten().count(), 1, "{outcomes:?}");
    for outcome in &outcomes {
        assert!(matches!(outcome, Ok(_) | Err(ResumeError::HeldHere { .. })), "{outcome:?}");
    }
    let winner = outcomes.into_iter().flatten().next().unwrap();
    assert!(winner.leases[0].is_held());
    // Its refused rivals took nothing away from it.
    assert!(matches!(scene.resume(&token), Err(ResumeError::HeldHere { .. })));
}
