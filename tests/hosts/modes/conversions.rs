//! Between holding a resource alone and sharing it there is no moment in which it is not held.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::disk::{Fault, Plan};
use leasehold::{AcquireError, LeaseMode, Status, Wait};

use super::{convert, not_acquired, release};
use crate::common::answers::{AtOnce, held_by, shared, sharers};
use crate::common::memory::{Scene, steady};
use crate::common::{PATIENCE, until};

const EIO: i32 = 5;

#[test]
fn a_contender_never_gets_in_between() {
    const ROUNDS: usize = 50;
    let scene = Scene::new();
    let other = scene.other(2);
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    // So that there is time to look between any two writes of a conversion.
    let area = scene.area();
    scene.path.set_rule(move |request| match request.is_write() && area.contains(&request.offset) {
        true => Plan::Delay(Duration::from_millis(1)),
        false => Plan::Pass,
    });
    let (stop, attempts) = (AtomicBool::new(false), AtomicUsize::new(0));
    let refused_by = thread::scope(|scope| {
        let contender = scope.spawn(|| {
            let mut refused_by = BTreeSet::new();
            while !stop.load(Ordering::SeqCst) {
                refused_by.insert(match other.try_acquire(&scene.resource) {
                    Err(AcquireError::Held { .. }) => "alone",
                    Err(AcquireError::Shared { .. }) => "shared",
                    other => panic!("{other:?}"),
                });
                attempts.fetch_add(1, Ordering::SeqCst);
            }
            refused_by
        });
        // Not before the contender has looked at it since the last one.
        let await_attempt = || {
            let before = attempts.load(Ordering::SeqCst);
            while attempts.load(Ordering::SeqCst) < before + 2 && !contender.is_finished() {
                thread::yield_now();
            }
        };
        // Who watches it meanwhile never sees it as anything but held.
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                assert!(!matches!(lease.status(), Status::Lost { .. }), "{:?}", lease.status());
                // The others have work to do.
                thread::yield_now();
            }
        });
        for round in 0..ROUNDS {
            let before = lease.version();
            lease.convert(LeaseMode::Shared, Wait::For(PATIENCE)).unwrap();
            assert_eq!((lease.mode(), lease.version()), (LeaseMode::Shared, before));
            assert!(lease.is_held());
            if round % 10 == 0 {
                await_attempt();
            }
            lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)).unwrap();
            assert_eq!(lease.mode(), LeaseMode::Exclusive);
            assert!(lease.version() > before && lease.is_held());
            if round % 10 == 0 {
                await_attempt();
            }
        }
        stop.store(true, Ordering::SeqCst);
        contender.join().unwrap()
    });
    assert_eq!(refused_by, BTreeSet::from(["alone", "shared"]));
    let version = lease.version();
    // To what it is already: nothing.
    lease.convert(LeaseMode::Exclusive, Wait::No).unwrap();
    assert_eq!(lease.version(), version);
    release(lease);
    release(other.try_acquire(&scene.resource).unwrap());
}

#[test]
fn who_is_refused_to_hold_it_alone_still_shares_it() {
    let scene = Scene::new();
    let [second, third] = scene.others([2, 3]);
    let lease = scene.membership.try_share(&scene.resource).unwrap();
    let other = second.try_share(&scene.resource).unwrap();
    let version = lease.version();
    assert_eq!(sharers(not_acquired(convert(&lease, LeaseMode::Exclusive))), [2]);
    assert_eq!((lease.mode(), lease.version()), (LeaseMode::Shared, version));
    assert_eq!(sharers(third.try_acquire(&scene.resource).unwrap_err()), [1, 2]);
    release(other);
    assert_eq!(sharers(third.try_acquire(&scene.resource).unwrap_err()), [1]);
    convert(&lease, LeaseMode::Exclusive).unwrap();
    assert!(lease.version() > version);
    held_by(&third, &scene.resource, 1);
    release(lease);
}

#[test]
fn of_two_that_wait_to_hold_it_alone_one_gives_in_and_the_other_gets_it() {
    let scene = Scene::new();
    let other = scene.other(2);
    let hosts = [&scene.membership, &other];
    let leases = hosts.map(|host| host.try_share(&scene.resource).unwrap());
    let latest = leases.iter().map(|lease| lease.version()).max().unwrap();
    let (sender, answers) = channel();
    thread::scope(|scope| {
        for lease in leases {
            let sender = sender.clone();
            scope.spawn(move || {
                let answer = lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE));
                sender.send((answer, lease)).unwrap();
            });
        }
        let (answer, first) = answers.recv_timeout(PATIENCE).unwrap();
        let refused = not_acquired(answer);
        assert!(matches!(refused, AcquireError::WouldDeadlock { .. }), "{refused:?}");
        assert_eq!(first.mode(), LeaseMode::Shared);
        // It shares still: the other one goes on waiting for it.
        assert!(first.is_held() && answers.try_recv().is_err());
        release(first);
        let (answer, second) = answers.recv_timeout(PATIENCE).unwrap();
        answer.unwrap();
        assert!(second.mode() == LeaseMode::Exclusive && second.version() > latest);
        release(second);
    });
}

/// One write of a conversion fails, whether it reaches the disk or not. Then nobody but its host knows how it is held,
/// and what was answered is so.
#[test]
fn a_write_that_fails_leaves_held_what_the_answer_says() {
    let plans = [Plan::DoThenFail(Fault::errno("writing", EIO)), Plan::Fail(Fault::errno("writing", EIO))];
    thread::scope(|scope| {
        for (plan, to) in plans.iter().flat_map(|plan| [LeaseMode::Shared, LeaseMode::Exclusive].map(|to| (plan, to))) {
            scope.spawn(move || {
                // To exclusive: two blocks, the leader, and the block without its flag. To shared: block and leader.
                let writes = if to == LeaseMode::Exclusive { 4 } else { 2 };
                let scene = Scene::new();
                let other = scene.other(2);
                let from = if to == LeaseMode::Exclusive { LeaseMode::Shared } else { LeaseMode::Exclusive };
                let lease = scene.membership.try_share(&scene.resource).unwrap();
                let failed = AtomicUsize::new(0);
                for number in 0..writes {
                    lease.convert(from, Wait::For(PATIENCE)).unwrap();
                    let (area, plan, count) = (scene.area(), plan.clone(), AtomicUsize::new(0));
                    scene.path.set_rule(move |request| {
                        let counts = request.is_write() && area.contains(&request.offset);
                        match counts && count.fetch_add(1, Ordering::SeqCst) == number {
                            true => plan.clone(),
                            false => Plan::Pass,
                        }
                    });
                    let answer = lease.convert(to, Wait::No);
                    scene.path.clear_rule();
                    match (to, answer) {
                        (_, Ok(())) => {}
                        // What it asked for was not begun, or was undone.
                        (LeaseMode::Exclusive, answer) => {
                            failed.fetch_add(1, Ordering::SeqCst);
                            let refused = not_acquired(answer);
                            assert!(
                                matches!(refused, AcquireError::Disk(_) | AcquireError::TimedOut { .. }),
                                "{refused}"
                            );
                        }
                        (LeaseMode::Shared, answer) => panic!("write {number}: {answer:?}"),
                    }
                    assert!(lease.is_held());
                    match lease.mode() {
                        LeaseMode::Exclusive => held_by(&other, &scene.resource, 1),
                        LeaseMode::Shared => {
                            assert_eq!(sharers(other.try_acquire(&scene.resource).unwrap_err()), [1]);
                            release(other.acquire(&scene.resource, shared(Wait::For(PATIENCE))).unwrap());
                        }
                    }
                }
                // The write that can't be taken back any more is made again.
                assert!(failed.into_inner() < writes);
                release(lease);
                release(other.try_acquire(&scene.resource).unwrap());
            });
        }
    });
}

/// It reads what others wrote who share since, and knows of no conversion.
#[test]
fn a_look_that_began_before_a_lease_was_shared_shows_no_taking() {
    let scene = Scene::new();
    let other = scene.other(2);
    until("a look that ends in time", || {
        let lease = scene.membership.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
        let (leader, hangs) = (scene.leader_at(), AtomicBool::new(true));
        let start = Instant::now();
        scene.path.set_rule(move |request| {
            let looks = !request.is_write() && request.offset == leader;
            if looks && hangs.swap(false, Ordering::SeqCst) { Plan::Hold } else { Plan::Pass }
        });
        assert!(scene.path.wait_held(1, PATIENCE));
        lease.convert(LeaseMode::Shared, Wait::For(PATIENCE)).unwrap();
        let sharer = other.acquire(&scene.resource, shared(Wait::For(PATIENCE))).unwrap();
        scene.path.release();
        // Else it may have timed out, and shows nothing.
        let in_time = start.elapsed() < steady().io();
        for _ in 0..3 {
            let seen = scene.membership.status();
            until("a renewal", || scene.membership.status() != seen);
        }
        release(lease);
        release(sharer);
        in_time
    });
}
