//! The engine on a disk that misbehaves for one host: what it answers, and what becomes of it afterwards.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use leasehold::disk::{Fault, Lane, MemoryDisk, Plan, Request};
use leasehold::{
    AcquireError, FindError, JoinError, JoinOptions, Lease, LeaveError, Lockspace, LossReason, OpenError, SectorSize,
    Status, Time, Timeouts, Wait,
};

use crate::common::answers::AtOnce;
use crate::common::memory::{Scene, Suspended, edit_sector, formatted, hold_writes, join, sector, steady};
use crate::common::{PATIENCE, id, timeouts, until, until_some};

const EIO: i32 = 5;
const SAY_DEADLINE: &str = "LEASEHOLD_TEST_SAY_DEADLINE";

fn covers(request: &Request, at: u64) -> bool {
    (request.offset..request.offset + request.len() as u64).contains(&at)
}

/// What an acquire answers whose write hangs for longer than it waits; again where a busy machine did not get as far as
/// the write.
fn acquire_that_hangs(scene: &Scene) -> Result<Lease, AcquireError> {
    let acquire = || scene.membership.acquire(&scene.resource, Wait::For(Duration::from_millis(50)));
    until_some("the write of an acquire", || match acquire() {
        Err(AcquireError::TimedOut { .. }) if scene.path.held() == 0 => None,
        answer => Some(answer),
    })
}

/// Whatever write of an acquire hangs: the caller is told that the outcome is unknown, nobody else gets the resource in
/// between against the protocol, and once the write lands the engine gives the lease back.
#[test]
fn an_acquire_whose_write_hangs_is_unknown_and_is_given_back() {
    for part in [Scene::leader_at, |scene: &Scene| scene.block_at(1)] {
        let scene = Scene::new();
        let other = scene.other(2);
        scene.hold_writes(part(&scene));
        let answer = acquire_that_hangs(&scene);
        assert!(matches!(answer, Err(AcquireError::Unknown { .. })), "{answer:?}");
        let again = scene.membership.try_acquire(&scene.resource);
        assert!(matches!(again, Err(AcquireError::AlreadyHeld { .. })), "{again:?}");
        scene.thaw();
        let taken = other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
        let version = taken.version();
        taken.release().unwrap();
        let lease = scene.membership.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap();
        assert!(lease.version() > version);
    }
}

#[test]
fn an_acquire_waits_for_what_this_host_is_giving_back() {
    let scene = Scene::new();
    scene.hold_writes(scene.block_at(1));
    let answer = acquire_that_hangs(&scene);
    assert!(matches!(answer, Err(AcquireError::Unknown { .. })), "{answer:?}");
    let (start, wait) = (Instant::now(), Duration::from_millis(50));
    let short = scene.membership.acquire(&scene.resource, Wait::For(wait));
    assert!(matches!(short, Err(AcquireError::AlreadyHeld { .. })), "{short:?}");
    assert!(start.elapsed() >= wait, "it did not wait");
    let begins = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            until("the acquire", || begins.load(Ordering::SeqCst));
            // Long enough for it to find what is still under way.
            thread::sleep(Duration::from_millis(100));
            scene.thaw();
        });
        begins.store(true, Ordering::SeqCst);
        scene.membership.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
    });
}

/// One write of an acquire or of a release reaches the disk and is said to have failed, or is not even begun.
#[test]
fn an_error_that_passes_leaves_no_lease_that_nobody_manages() {
    for number in 0..5 {
        for plan in [Plan::DoThenFail(Fault::errno("writing", EIO)), Plan::Fail(Fault::QueueFull)] {
            let scene = Scene::new();
            let other = scene.other(2);
            let area = scene.area();
            let (count, failed) = (Arc::new(AtomicUsize::new(0)), plan.clone());
            let written = count.clone();
            scene.path.set_rule(move |request| {
                let counts = request.is_write() && area.contains(&request.offset);
                match counts && count.fetch_add(1, Ordering::SeqCst) == number {
                    true => plan.clone(),
                    false => Plan::Pass,
                }
            });
            let answer = until_some("an acquire", || match scene.membership.acquire(&scene.resource, Wait::No) {
                // A busy machine did not get as far as that write.
                Err(AcquireError::TimedOut { source: None, .. }) if written.load(Ordering::SeqCst) <= number => None,
                answer => Some(answer),
            });
            let version = match answer {
                Ok(lease) => {
                    let version = lease.version();
                    lease.release().unwrap();
                    Some(version)
                }
                // What was written well since then doesn't hide the cause.
                Err(AcquireError::Disk(_) | AcquireError::TimedOut { source: Some(_), .. }) => None,
                Err(error) => panic!("write {number}, {failed:?}: {error}"),
            };
            // Host 1 lives on; nothing of it is in the way.
            let lease = other.acquire(&scene.resource, Wait::For(Duration::from_secs(30)));
            assert!(lease.as_ref().is_ok_and(|lease| Some(lease.version()) > version), "write {number}: {lease:?}");
        }
    }
}

/// The late write of an older leader would come after the newer one.
#[test]
fn nothing_is_written_to_a_sector_that_has_a_write_in_flight() {
    let scene = Scene::brief();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let version = lease.version();
    let at = scene.leader_at();
    scene.hold_writes(at);
    // What frees it is the flag in the block.
    lease.release().unwrap();
    assert_eq!(scene.path.held(), 1);
    let (sender, written) = channel();
    scene.path.set_rule(move |request| {
        if request.is_write() && request.offset == at {
            sender.send(()).unwrap();
        }
        Plan::Pass
    });
    let answer = scene.membership.try_acquire(&scene.resource);
    assert!(matches!(answer, Err(AcquireError::Unknown { .. })), "{answer:?}");
    assert!(written.try_recv().is_err(), "the leader was written");
    assert_eq!(scene.path.release(), 1);
    let other = scene.other(2);
    assert!(other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap().version() > version.after(1));
}

#[test]
fn a_decided_lease_whose_leader_hangs_is_not_given_to_another() {
    let scene = Scene::brief();
    let other = scene.other(2);
    scene.hold_writes(scene.leader_at());
    let answer = scene.membership.try_acquire(&scene.resource);
    assert!(matches!(answer, Err(AcquireError::Unknown { .. })), "{answer:?}");
    // It is decided for host 1, which lives: host 2 may commit that, and must respect it.
    match other.try_acquire(&scene.resource) {
        Err(AcquireError::Held { holder, .. }) => assert_eq!(holder.host, id(1)),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_renewal_that_hangs_is_told_as_late_and_then_lost_and_a_late_landing_revives_nothing() {
    let (sender, told) = channel();
    // So long that the thread which tells it does not miss being late.
    let scene = Scene::with(timeouts([50, 200, 6_000, 300, 6_400]), || {
        let sender = sender.clone();
        // The test may have ended.
        JoinOptions::new().on_status(move |status| drop(sender.send(status.clone())))
    });
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    assert!(lease.is_held());
    scene.hold_writes(0);
    let mut seen = Vec::new();
    loop {
        let status = told.recv_timeout(PATIENCE).unwrap();
        seen.push(status.clone());
        if matches!(status, Status::Lost { .. }) {
            break;
        }
    }
    let end = &seen[seen.len() - 2..];
    assert!(matches!(end, [Status::Late { .. }, Status::Lost { reason: LossReason::Expired { .. } }]), "{seen:?}");
    assert!(!lease.is_held());
    assert_eq!(lease.remaining(), Duration::ZERO);
    scene.thaw();
    until("the renewal's end", || scene.path.held() == 0);
    assert!(matches!(scene.membership.status(), Status::Lost { .. }));
    assert!(matches!(scene.membership.try_acquire(&scene.resource), Err(AcquireError::Lost(_))));
    assert!(matches!(lease.release(), Err(leasehold::ReleaseError::Lost(LossReason::Expired { .. }))));
    // Lost is lost: nothing was released on disk, so the lease is taken over only when the host counts as dead.
    let other = scene.other(2);
    assert!(matches!(other.try_acquire(&scene.resource), Err(AcquireError::Held { .. })));
    other.acquire(&scene.resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
}

#[test]
fn a_read_of_the_own_record_that_is_slower_than_the_io_timeout_loses_nothing() {
    let scene = Scene::new();
    let slow = steady().io() + steady().io() / 2;
    scene.path.set_rule(move |request| match request.lane {
        Lane::Renewal if !request.is_write() => Plan::Delay(slow),
        _ => Plan::Pass,
    });
    let before = scene.membership.renewal_latencies().len();
    until("slow renewals", || scene.membership.renewal_latencies().len() >= before + 5);
    assert!(!matches!(scene.membership.status(), Status::Lost { .. }));
}

/// Whichever it is: the renewal, or one to an area, which doesn't keep the host id from being renewed.
#[test]
fn a_host_id_is_not_given_back_while_a_write_is_in_flight() {
    let renewal = Scene::brief();
    renewal.hold_writes(0);
    assert!(renewal.path.wait_held(1, PATIENCE));
    let area = Scene::brief();
    let lease = area.membership.try_acquire(&area.resource).unwrap();
    area.hold_writes(area.leader_at());
    // What frees it is the flag in the block.
    lease.release().unwrap();
    assert_eq!(area.path.held(), 1);
    for scene in [renewal, area] {
        // It can only stop; it must neither hang for longer nor write a release.
        let left = scene.membership.leave();
        assert!(matches!(left, Err(LeaveError::InFlight { .. } | LeaveError::Lost(_))), "{left:?}");
        scene.thaw();
        let hosts = Lockspace::open(Arc::new(scene.disk.reopen())).unwrap().hosts(Duration::ZERO).unwrap();
        assert_ne!(hosts[0].timestamp, 0, "{hosts:?}");
    }
}

/// The second does not wait: it may be called by what the first waits for.
#[test]
fn of_two_threads_that_leave_one_is_told_that_the_other_does() {
    let scene = Scene::new();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    thread::scope(|scope| {
        // Who leaves waits for the release.
        scene.hold_writes(scene.block_at(1));
        let releasing = scope.spawn(|| lease.release());
        assert!(scene.path.wait_held(1, PATIENCE));
        until("two that leave at once", || {
            let another = scope.spawn(|| scene.membership.leave());
            let answers = [scene.membership.leave(), another.join().unwrap()];
            let told = |answer: &&Result<(), LeaveError>| matches!(answer, Err(LeaveError::UnderWay));
            let stay = |answer: &&Result<(), LeaveError>| matches!(answer, Err(LeaveError::LeasesHeld { .. }));
            assert!(answers.iter().all(|answer| told(&answer) || stay(&answer)), "{answers:?}");
            answers.iter().any(|answer| told(&answer))
        });
        scene.thaw();
        releasing.join().unwrap().unwrap();
        scene.membership.leave().unwrap();
    });
    assert!(matches!(scene.membership.leave(), Err(LeaveError::Lost(LossReason::Left))));
}

#[test]
fn threads_that_create_resources_at_once_take_turns() {
    let scene = Scene::new();
    let create = |name: &str| scene.membership.create(name, Wait::For(PATIENCE)).unwrap();
    let created = thread::scope(|scope| {
        let creating = ["a", "b", "c", "d"].map(|name| scope.spawn(move || create(name)));
        creating.map(|creating| creating.join().unwrap())
    });
    let places: std::collections::BTreeSet<u64> = created.iter().map(|resource| resource.offset()).collect();
    assert_eq!(places.len(), created.len());
}

#[test]
fn a_foreign_record_in_the_own_sector_is_the_loss_of_everything() {
    let scene = Scene::new();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let old = sector(&scene.disk, 0);
    until("the next renewal", || sector(&scene.disk, 0) != old);
    // A renewal that has read already writes over it: until one reads it.
    until("the loss", || {
        edit_sector(&scene.disk, 0, |bytes| bytes.copy_from_slice(&old));
        !lease.is_held()
    });
    assert!(matches!(lease.status(), Status::Lost { reason: LossReason::Overwritten { .. } }), "{:?}", lease.status());
}

/// While it is damaged, others could take it for anything.
#[test]
fn the_own_block_of_what_is_held_is_written_anew_when_it_rots() {
    let scene = Scene::new();
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    let block = || sector(&scene.disk, scene.block_at(1));
    let right = block();
    edit_sector(&scene.disk, scene.block_at(1), |bytes| bytes[3] ^= 0x55);
    until("the block", || block() == right);
    assert!(lease.is_held());
    lease.release().unwrap();
    assert_ne!(block(), right, "a release is written over it");
}

/// One bad sector fails the read of all: it is found, and the rest is read.
#[test]
fn a_sector_that_cannot_be_read_keeps_nobody_from_the_resource_when_its_host_is_gone() {
    let scene = Scene::new();
    let other = scene.other(2);
    let version = other.try_acquire(&scene.resource).unwrap().version();
    let at = scene.block_at(2);
    scene.path.set_rule(move |request| match !request.is_write() && covers(request, at) {
        true => Plan::Fail(Fault::errno("reading", EIO)),
        false => Plan::Pass,
    });
    // The lease was dropped, and host 2 lives: its block may hold anything.
    match scene.membership.try_acquire(&scene.resource) {
        Err(AcquireError::BlockDamaged { holder, damage, .. }) => {
            assert_eq!((holder.host, damage.offset), (id(2), at));
        }
        answer => panic!("{answer:?}"),
    }
    until("the release of the dropped lease", || other.leave().is_ok());
    let lease = scene.membership.try_acquire(&scene.resource).unwrap();
    assert!(lease.version() > version.after(1), "what the lost block may have decided is passed over");
}

#[test]
fn a_cancelled_join_ends_at_once_and_another_succeeds() {
    static SLOW: OnceLock<Timeouts> = OnceLock::new();
    let minute = Duration::from_secs(60);
    let slow = SLOW.get_or_init(|| Timeouts::new(minute, minute, minute * 4, minute, minute * 5).unwrap());
    let disk = formatted(*slow);
    let lockspace = Lockspace::open(Arc::new(disk)).unwrap();
    let start = Instant::now();
    let joining = lockspace.start_join(JoinOptions::new().host_id(id(1))).unwrap();
    until("the join's write", || lockspace.hosts(Duration::ZERO).unwrap().iter().any(|host| host.host == id(1)));
    assert!(!joining.is_done(), "a join waits 2T");
    joining.cancel();
    assert!(start.elapsed() < minute, "a cancelled join does not wait");
    // The lock went with it, so the id can be tried again; it will have to be waited for, and is cancelled in turn.
    let again = lockspace.start_join(JoinOptions::new().host_id(id(1))).unwrap();
    assert!(!again.is_done());
    again.cancel();
}

#[test]
fn a_suspend_for_longer_than_the_lease_lasts_is_the_loss_of_everything_when_it_ends() {
    let disk = formatted(steady());
    let clock = Arc::new(Suspended::new());
    let (sender, told) = channel();
    let membership = join(&Lockspace::open_with_clock(Arc::new(disk), clock.clone()).unwrap(), || {
        let sender = sender.clone();
        // The test may have ended.
        JoinOptions::new().host_id(id(1)).on_status(move |status| drop(sender.send(status.clone())))
    });
    let resource = membership.create("demo", Wait::For(PATIENCE)).unwrap();
    let lease = membership.try_acquire(&resource).unwrap();
    assert!(lease.is_held());
    // The watching thread may not have run yet; what it tells afterwards is what this is about.
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Status::Held { .. }));
    clock.suspend(steady().fail());
    // No thread has run for it.
    assert!(!lease.is_held());
    assert!(matches!(membership.try_acquire(&resource), Err(AcquireError::Lost(_))));
    assert!(matches!(lease.release(), Err(leasehold::ReleaseError::Lost(LossReason::Expired { .. }))));
    // Being late was due, too, but being lost is what counts now.
    loop {
        match told.recv_timeout(PATIENCE).unwrap() {
            Status::Held { .. } => {}
            Status::Late { until } => panic!("late, held until {until:?}"),
            Status::Lost { .. } => break,
        }
    }
}

/// In a process of its own that the next test starts: says until when a lease is held.
#[test]
fn deadline() {
    if std::env::var_os(SAY_DEADLINE).is_none() {
        return;
    }
    let scene = Scene::new();
    match scene.membership.status() {
        Status::Held { until } | Status::Late { until } => println!("held until {}", until.as_nanos()),
        Status::Lost { reason } => panic!("{reason}"),
    }
}

/// A time namespace moves the boot-time clock alone, as a suspend does. Needs root.
#[test]
fn a_lease_is_counted_by_the_clock_that_goes_on_in_suspend() {
    let suspended = Duration::from_secs(1_000_000);
    let output = Command::new("unshare")
        .args(["--time", "--boottime", &suspended.as_secs().to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "engine::deadline", "--nocapture"])
        .env(SAY_DEADLINE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let until = said.split("held until ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let until = Time::from_nanos(until.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr))));
    assert!(until.since(Time::ZERO) > suspended, "{until:?}");
}

#[test]
fn a_join_that_failed_leaves_nothing_behind() {
    let scene = Scene::brief();
    let record = scene.membership.lockspace().geometry().delta_offset(id(2));
    let lockspace = Lockspace::open(scene.path.clone()).unwrap();
    let options = || JoinOptions::new().host_id(id(2));
    // Again where this machine was too busy to get as far as the write.
    let try_join = || {
        until_some("a join that writes", || match lockspace.join(options()) {
            Err(JoinError::Attempt { .. }) => None,
            answer => Some(answer),
        })
    };
    let set_rule = |plan: fn() -> Plan| {
        scene.path.set_rule(move |request| match request.is_write() && request.offset == record {
            true => plan(),
            false => Plan::Pass,
        });
    };
    set_rule(|| Plan::Fail(Fault::errno("writing", EIO)));
    let failed = try_join();
    assert!(matches!(failed, Err(JoinError::Disk(_))), "{failed:?}");
    scene.path.clear_rule();
    // Nor does it keep the id from those who came by another description of the device.
    scene.other(2).leave().unwrap();
    // A write that hangs keeps the id from everybody on this machine for as long as it does, and no longer.
    set_rule(|| Plan::Hold);
    let failed = try_join();
    assert!(matches!(failed, Err(JoinError::Disk(_))), "{failed:?}");
    let refused = try_join();
    assert!(matches!(refused, Err(JoinError::HeldHere { .. })), "{refused:?}");
    scene.thaw();
    scene.other(2).leave().unwrap();
    join(&lockspace, options).leave().unwrap();
}

/// The entry of a resource that is held is erased by what an indexer that is dead by now had begun to write.
#[test]
fn a_late_write_to_the_index_gives_nobody_an_area_that_is_held() {
    let Scene { disk, path, membership, .. } = Scene::brief();
    let geometry = membership.lockspace().geometry();
    let entries = geometry.area_bytes() + geometry.sector_bytes() as u64;
    hold_writes(&path, entries);
    until("the write that hangs", || {
        assert!(membership.create("late", Wait::No).is_err());
        path.held() == 1
    });
    drop(membership);
    // It holds the lease that guards the index, until it counts as dead.
    let other = |host| {
        let lockspace = Lockspace::open(Arc::new(disk.reopen())).unwrap();
        join(&lockspace, || JoinOptions::new().host_id(id(host)))
    };
    let (holder, indexer) = (other(2), other(3));
    holder.create("first", Wait::For(PATIENCE)).unwrap();
    let second = holder.create("second", Wait::For(PATIENCE)).unwrap();
    let lease = holder.try_acquire(&second).unwrap();
    let area = |at: u64| disk.bytes()[at as usize..][..geometry.area_bytes() as usize].to_vec();
    let held = area(second.offset());
    path.clear_rule();
    assert_eq!(path.release(), 1);
    let lost = holder.lockspace().find("second");
    assert!(matches!(lost, Err(FindError::NotFound { .. })), "{lost:?}");
    let third = indexer.create("third", Wait::For(PATIENCE)).unwrap();
    assert_ne!(third.offset(), second.offset());
    assert!(area(second.offset()) == held, "the area was written");
    // Its name leads to it again.
    assert_eq!(indexer.create("second", Wait::For(PATIENCE)).unwrap(), second);
    match indexer.try_acquire(&second) {
        Err(AcquireError::Held { holder, .. }) => assert_eq!(holder.host, id(2)),
        answer => panic!("{answer:?}"),
    }
    lease.release().unwrap();
}

#[test]
fn a_device_that_does_not_fit_what_is_on_it_is_refused() {
    let scene = Scene::new();
    let bytes = scene.disk.bytes();
    let open = |bytes: &[u8], sector_size| Lockspace::open(Arc::new(MemoryDisk::with_bytes(bytes.into(), sector_size)));
    let sectors = open(&bytes, Some(SectorSize::B4096));
    assert!(matches!(sectors, Err(OpenError::SectorSize { formatted: 512, actual: 4096, .. })), "{sectors:?}");
    for len in [0, 512, 4096, (1 << 20) - 512] {
        let short = open(&bytes[..len], None);
        assert!(matches!(short, Err(OpenError::TooSmall { len: said, .. }) if said == len as u64), "{short:?}");
    }
    // A device that lost its end: whoever asks for what was there is told where it ends, and the rest goes on.
    let lockspace = open(&bytes[..scene.resource.offset() as usize + 512], None).unwrap();
    let host = join(&lockspace, || JoinOptions::new().host_id(id(2)));
    match host.try_acquire(&scene.resource) {
        Err(AcquireError::Disk(error)) => assert_eq!(error.offset, scene.resource.offset()),
        answer => panic!("{answer:?}"),
    }
    host.leave().unwrap();
}
