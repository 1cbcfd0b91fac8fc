//! Who shares keeps others from holding the resource alone; and a lease that was given back is taken up again only if
//! nobody had it in between.

use leasehold::{AcquireError, AcquireOptions, LeaseState, Wait};

use super::release;
use crate::common::PATIENCE;
use crate::common::answers::{AtOnce, judged, shared, sharers};
use crate::common::memory::Scene;

#[test]
fn all_who_share_are_named_to_who_wants_it_alone() {
    let scene = Scene::new();
    let [second, third] = scene.others([2, 3]);
    let resource = &scene.resource;
    let first = scene.membership.try_share(resource).unwrap();
    let other = second.try_share(resource).unwrap();
    assert!(other.version() > first.version());
    assert_eq!(sharers(third.try_acquire(resource).unwrap_err()), [1, 2]);
    release(first);
    assert_eq!(sharers(third.try_acquire(resource).unwrap_err()), [2]);
    // Neither does force go over those who share.
    assert_eq!(sharers(third.try_take(resource, other.version()).unwrap_err()), [2]);
    let version = other.version();
    release(other);
    let alone = third.try_acquire(resource).unwrap();
    assert!(alone.version() > version);
    // And while one holds it alone nobody shares it.
    assert!(matches!(second.try_share(resource), Err(AcquireError::Held { .. })));
}

/// All of them own it for a moment, at the same time.
#[test]
fn many_begin_to_share_at_once() {
    let scene = Scene::new();
    let hosts = scene.others([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    let barrier = std::sync::Barrier::new(hosts.len());
    let leases = std::thread::scope(|scope| {
        let sharing = hosts.each_ref().map(|host| {
            let (barrier, resource) = (&barrier, &scene.resource);
            scope.spawn(move || {
                barrier.wait();
                host.acquire(resource, shared(Wait::For(PATIENCE)))
            })
        });
        sharing.map(|thread| thread.join().unwrap().unwrap())
    });
    let refused = scene.membership.try_acquire(&scene.resource).unwrap_err();
    assert_eq!(sharers(refused), (2..=13).collect::<Vec<_>>());
    leases.into_iter().for_each(release);
    release(scene.membership.try_acquire(&scene.resource).unwrap());
}

#[test]
fn a_lease_is_taken_up_again_only_if_nobody_had_it_in_between() {
    let scene = Scene::new();
    let other = scene.other(2);
    let (membership, resource) = (&scene.membership, &scene.resource);
    let unchanged = |state: LeaseState| judged(|| membership.acquire(resource, AcquireOptions::new().unchanged(state)));

    let lease = membership.try_acquire(resource).unwrap();
    let (state, version) = (lease.state(), lease.version());
    release(lease);
    let again = unchanged(state).unwrap();
    assert_eq!(again.version(), version.after(1));
    let later = again.state();
    release(again);
    // Each state is good for one time.
    let refused = unchanged(state);
    let found = later.version();
    assert!(matches!(refused, Err(AcquireError::VersionChanged { found: said, .. }) if said == found), "{refused:?}");

    let held = other.try_acquire(resource).unwrap();
    let found = held.version();
    let changed = |answer| match answer {
        Err(AcquireError::VersionChanged { found, .. }) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(changed(unchanged(later)), found);
    release(held);
    assert_eq!(changed(unchanged(later)), found);

    let wrong: LeaseState = format!("other:{found}").parse().unwrap();
    let refused = unchanged(wrong);
    assert!(matches!(&refused, Err(AcquireError::OtherResource { state, .. }) if *state == wrong), "{refused:?}");
    // Nor one that never was.
    let future = format!("demo:{}", found.after(1)).parse().unwrap();
    assert_eq!(changed(unchanged(future)), found);
}
