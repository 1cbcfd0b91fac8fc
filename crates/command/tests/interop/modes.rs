//! Holding together and alone, changing between the two, and versions that are expected: hosts of both kinds beside
//! each other.

use leasehold::{AcquireError, AcquireOptions, ConvertError, JoinOptions, LeaseMode, Lockspace, Membership, Wait};

use super::common::answers::{held_by, shared, sharers};
use super::common::processes::{Process, calmly};
use super::common::sanlock::{Sanlock, direct};
use super::common::{PATIENCE, id};
use super::{Device, T, our_name};

pub(crate) fn join(device: &Device, host: u64) -> Membership {
    let options = || JoinOptions::new().host_id(id(host)).host_name(our_name(host));
    calmly("a join", || Lockspace::open(device.disk()).unwrap().join(options()))
}

/// What sanlock reads of the leader: owner, version, and whether it is free.
pub(crate) fn leader(resource: &str) -> (u64, u64, bool) {
    let fields = direct(&["read_leader", "-r", resource]).fields();
    let number = |name: &str| fields[name].parse().unwrap_or_else(|_| panic!("{name}: {fields:?}"));
    (number("owner_id"), number("lver"), number("timestamp") == 0)
}

#[test]
fn both_share_and_neither_gets_it_alone() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let (ours, third) = (join(&device, 2), join(&device, 3));
    let first = calmly("the index", || ours.lockspace().find("first"));
    let (alone, together) = (device.resource("first", 3), device.shared("first", 3));

    let lease = ours.acquire(&first, shared(Wait::For(PATIENCE))).unwrap();
    assert_eq!(device.sanlock_takes(&theirs, &alone), Err(-11), "{}", theirs.log());
    let holder = device.sanlock_holds(&theirs, &together);
    let convert = |to: &str| theirs.ask(&["convert", "-r", to, "-p", &holder.pid().to_string()]).code;
    assert_eq!(sharers(third.acquire(&first, Wait::No).unwrap_err()), [1, 2]);
    match lease.convert(LeaseMode::Exclusive, Wait::No) {
        Err(ConvertError::NotAcquired(refused)) => assert_eq!(sharers(refused), [1]),
        other => panic!("{other:?}"),
    }
    assert!(lease.is_held() && lease.mode() == LeaseMode::Shared);
    assert_eq!(convert(&alone), Some(-11), "{}", theirs.log());
    // What they were refused changed nothing.
    assert_eq!(sharers(third.acquire(&first, Wait::No).unwrap_err()), [1, 2]);

    let version = lease.version();
    lease.release().unwrap();
    assert_eq!(convert(&alone), Some(0), "{}", theirs.log());
    held_by(&third, &first, 1);
    assert_eq!(convert(&together), Some(0), "{}", theirs.log());
    let lease = third.acquire(&first, shared(Wait::For(PATIENCE))).unwrap();
    assert!(lease.version() > version);
    assert_eq!(sharers(ours.acquire(&first, Wait::No).unwrap_err()), [1, 3]);
    drop(holder);
    lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)).unwrap();
    assert_eq!(device.sanlock_takes(&theirs, &together), Err(-243), "{}", theirs.log());
    lease.release().unwrap();
}

#[test]
fn a_conversion_is_seen_by_sanlock() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let ours = join(&device, 2);
    let first = calmly("the index", || ours.lockspace().find("first"));
    let (alone, together) = (device.resource("first", 3), device.shared("first", 3));

    let lease = ours.acquire(&first, Wait::For(PATIENCE)).unwrap();
    let version = lease.version();
    assert_eq!(leader(&alone), (2, version.get(), false));
    assert_eq!(device.sanlock_takes(&theirs, &together), Err(-243));
    lease.convert(LeaseMode::Shared, Wait::For(PATIENCE)).unwrap();
    assert_eq!((lease.version(), leader(&alone)), (version, (2, version.get(), true)));
    assert_eq!(device.sanlock_takes(&theirs, &alone), Err(-11));
    assert_eq!(device.sanlock_takes(&theirs, &together), Ok(()));
    lease.convert(LeaseMode::Exclusive, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
    assert_eq!(leader(&alone), (2, lease.version().get(), false));
    assert_eq!(device.sanlock_takes(&theirs, &together), Err(-243));
    lease.release().unwrap();
    assert_eq!(device.sanlock_takes(&theirs, &alone), Ok(()));
}

/// What sanlock calls `lver` is what a lease state holds.
#[test]
fn a_version_that_is_expected_is_the_same_for_both() {
    let device = Device::ours(&["first", "second"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(1));
    let ours = join(&device, 2);
    let first = calmly("the index", || ours.lockspace().find("first"));
    let alone = device.resource("first", 3);
    // Only who is known to the daemon already can name a version.
    let program = device.sanlock_holds(&theirs, &device.resource("second", 4));
    let ask = |what: &str, resource: &str, program: &Process| {
        theirs.ask(&[what, "-r", resource, "-p", &program.pid().to_string()]).code
    };

    let lease = ours.acquire(&first, Wait::For(PATIENCE)).unwrap();
    let (state, version) = (lease.state(), lease.version().get());
    lease.release().unwrap();
    assert_eq!(ask("acquire", &format!("{alone}:{}", version + 1), &program), Some(-240), "{}", theirs.log());
    assert_eq!(ask("acquire", &format!("{alone}:{version}"), &program), Some(0), "{}", theirs.log());
    let (owner, taken, _) = leader(&alone);
    assert!(owner == 1 && taken > version);
    // It would not notice.
    match ours.take(&first, leasehold::Version::new(taken), Wait::No) {
        Err(AcquireError::NotForced { holder, .. }) => assert_eq!(holder.host, id(1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(leader(&alone), (1, taken, false));
    assert_eq!(ask("release", &alone, &program), Some(0));
    match ours.acquire(&first, AcquireOptions::new().unchanged(state)) {
        Err(AcquireError::VersionChanged { found, .. }) => assert_eq!(found.get(), taken),
        other => panic!("{other:?}"),
    }
    let theirs_was = format!("first:{taken}").parse().unwrap();
    ours.acquire(&first, AcquireOptions::new().unchanged(theirs_was)).unwrap().release().unwrap();
}
