//! The value block: what is written with a lease is what the next owner reads, or it is told that it may not be.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leasehold::disk::{FaultDisk, MemoryDisk, Plan};
use leasehold::{
    AcquireError, AcquireOptions, AreaSize, ConvertError, FormatOptions, Geometry, JoinOptions, LeaseMode, Lockspace,
    Membership, ReleaseError, Resource, SectorSize, Status, Timeouts, Value, ValueError, ValueOrigin, Wait, format,
};
use serde_json::Value as Json;

use crate::common::answers::AtOnce;
use crate::common::memory::{self, edit_sector, hold_writes, path_to, sector, thaw};
use crate::common::processes::is_busy;
use crate::common::scene::{Ended, Scene, played};
use crate::common::{PATIENCE, id, until};

/// A lockspace in memory with one resource, and a path to it for one host.
struct World {
    disk: MemoryDisk,
    path: Arc<FaultDisk>,
    resource: Resource,
}

impl World {
    fn new() -> World {
        World::with(memory::steady())
    }

    fn brief() -> World {
        World::with(memory::brief())
    }

    fn with(timeouts: Timeouts) -> World {
        let (disk, resource) = memory::with_resource(timeouts);
        World { path: path_to(&disk), disk, resource }
    }

    fn open(&self) -> Lockspace {
        Lockspace::open(Arc::new(self.disk.reopen())).unwrap()
    }

    /// Host 1 is the one with the path.
    fn join(&self, host: u64) -> Membership {
        let lockspace = if host == 1 { Lockspace::open(self.path.clone()).unwrap() } else { self.open() };
        memory::join(&lockspace, || JoinOptions::new().host_id(id(host)))
    }

    fn value_at(&self) -> u64 {
        self.resource.offset() + 2002 * 512
    }

    /// Holds back what host 1 writes to the value block.
    fn hold_writes(&self) {
        hold_writes(&self.path, self.value_at());
    }

    fn thaw(&self) {
        thaw(&self.path);
    }
}

#[test]
fn the_next_owner_reads_what_the_last_one_wrote_and_who_that_was() {
    let world = World::new();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.try_acquire(&world.resource).unwrap();
    assert_eq!(lease.value().unwrap(), None);
    lease.set_value(b"one").unwrap();
    lease.set_value(b"two").unwrap();
    let origin = ValueOrigin::Lease { version: lease.version(), owner: first.owner() };
    let value = Value { data: b"two".to_vec(), origin };
    assert_eq!(lease.value().unwrap().as_ref(), Some(&value));
    let version = lease.version();
    lease.release().unwrap();
    let lease = second.acquire(&world.resource, Wait::For(PATIENCE)).unwrap();
    assert_eq!(lease.value().unwrap().as_ref(), Some(&value));
    assert!(value.is_latest(version) && !value.is_latest(lease.version()));
    // Seen from outside, without a host id.
    let stored = world.open().value(&world.resource).unwrap();
    assert_eq!((stored.value.as_ref(), stored.version), (Some(&value), lease.version()));
    lease.set_value(b"").unwrap();
    assert_eq!(lease.value().unwrap().unwrap().data, b"");
    let refused = lease.set_value(&[0; 473]).unwrap_err();
    assert!(matches!(refused, ValueError::TooLong { bytes: 473, max: 472 }), "{refused}");
    lease.set_value(&[7; 472]).unwrap();
    assert_eq!(lease.value().unwrap().unwrap().data, [7; 472]);
    lease.release().unwrap();
}

/// Its release waits for the value, whoever asks meanwhile how things are.
#[test]
fn a_lease_that_is_dropped_while_its_value_hangs_is_given_back_when_that_has_landed() {
    let world = World::brief();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.try_acquire(&world.resource).unwrap();
    world.hold_writes();
    assert!(matches!(lease.set_value(b"late"), Err(ValueError::Disk(_))));
    drop(lease);
    assert!(!matches!(first.status(), Status::Lost { .. }));
    let refused = second.try_acquire(&world.resource).unwrap_err();
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused}");
    world.thaw();
    let taken = second.acquire(&world.resource, Wait::For(PATIENCE)).unwrap();
    assert_eq!(taken.value().unwrap().unwrap().data, b"late");
}

/// The former owner is dead, and its last write lands over the value of the next one.
#[test]
fn a_late_write_of_a_former_owner_is_told() {
    let world = World::brief();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.try_acquire(&world.resource).unwrap();
    world.hold_writes();
    let hangs = lease.set_value(b"late").unwrap_err();
    assert!(matches!(hangs, ValueError::Disk(_)), "{hangs}");
    // One write at a time: which of two were to land last could not be known.
    let refused = lease.set_value(b"later").unwrap_err();
    assert!(matches!(refused, ValueError::Disk(_)), "{refused}");
    // Renewing stops, and nothing is given back.
    drop(first);
    let taken = second.acquire(&world.resource, Wait::For(PATIENCE)).unwrap();
    assert!(matches!(lease.set_value(b"lost"), Err(ValueError::Lost(_))));
    assert!(matches!(lease.value(), Err(ValueError::Lost(_))));
    taken.set_value(b"new").unwrap();
    world.thaw();
    until("the late write", || sector(&world.disk, world.value_at()).starts_with(b"late"));
    let told = taken.value().unwrap_err();
    let ValueError::Overwritten { found: Some(found), .. } = told else { panic!("{told}") };
    assert_eq!(found.data, b"late");
    let stored = world.open().value(&world.resource).unwrap();
    assert!(!stored.value.unwrap().is_latest(stored.version));
    taken.set_value(b"new").unwrap();
    assert_eq!(taken.value().unwrap().unwrap().data, b"new");
}

/// It could land over a value of the next owner, who would not be the next one then.
#[test]
fn a_lease_is_not_released_while_its_value_is_being_written() {
    let world = World::brief();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.try_acquire(&world.resource).unwrap();
    world.hold_writes();
    lease.set_value(b"slow").unwrap_err();
    let answer = lease.release().unwrap_err();
    assert!(matches!(answer, ReleaseError::Unknown { .. }), "{answer}");
    let refused = second.try_acquire(&world.resource).unwrap_err();
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused}");
    world.thaw();
    let taken = second.acquire(&world.resource, Wait::For(PATIENCE)).unwrap();
    assert_eq!(taken.value().unwrap().unwrap().data, b"slow");
}

#[test]
fn a_value_is_written_by_who_holds_alone_and_read_by_all() {
    let world = World::new();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.try_acquire(&world.resource).unwrap();
    lease.set_value(b"alone").unwrap();
    lease.convert(LeaseMode::Shared, Wait::For(PATIENCE)).unwrap();
    let sharer = second
        .acquire(&world.resource, AcquireOptions::new().mode(LeaseMode::Shared).wait(Wait::For(PATIENCE)))
        .unwrap();
    for lease in [&lease, &sharer] {
        assert!(matches!(lease.set_value(b"shared"), Err(ValueError::Shared { .. })));
        assert_eq!(lease.value().unwrap().unwrap().data, b"alone");
    }
}

/// Sharers rely on what they read.
#[test]
fn a_lease_is_not_shared_while_its_value_is_being_written() {
    let world = World::brief();
    let membership = world.join(1);
    let lease = membership.try_acquire(&world.resource).unwrap();
    world.hold_writes();
    lease.set_value(b"slow").unwrap_err();
    let refused = lease.convert(LeaseMode::Shared, Wait::No).unwrap_err();
    assert!(matches!(refused, ConvertError::ValueInFlight { .. }), "{refused}");
    assert!(lease.is_held() && lease.mode() == LeaseMode::Exclusive);
    world.thaw();
    lease.convert(LeaseMode::Shared, Wait::For(PATIENCE)).unwrap();
    assert_eq!(lease.value().unwrap().unwrap().data, b"slow");
}

#[test]
fn what_another_program_wrote_is_read_and_marked_so() {
    let world = World::new();
    let membership = world.join(1);
    let lease = membership.try_acquire(&world.resource).unwrap();
    edit_sector(&world.disk, world.value_at(), |bytes| bytes[..5].copy_from_slice(b"plain"));
    let value = lease.value().unwrap().unwrap();
    assert_eq!((&value.data[..], value.origin), (&b"plain"[..], ValueOrigin::Unmarked));
    lease.set_value(b"marked").unwrap();
    edit_sector(&world.disk, world.value_at(), |bytes| bytes[..2].copy_from_slice(b"ov"));
    let told = lease.value().unwrap_err();
    assert!(matches!(told, ValueError::Overwritten { .. }), "{told}");
    let value = world.open().value(&world.resource).unwrap().value.unwrap();
    assert_eq!((&value.data[..], value.origin), (&b"ovrked"[..], ValueOrigin::Altered));
}

/// With 4096-byte sectors and small areas the value block's place is in a neighbour's area: nothing is read or written.
#[test]
fn scenario_14_where_an_area_has_no_room_for_a_value_nothing_is_written() {
    for area in [AreaSize::M1, AreaSize::M2, AreaSize::M4, AreaSize::M8] {
        let geometry = Geometry::new(SectorSize::B4096, area).unwrap();
        let disk = MemoryDisk::new(8 * area.bytes() as usize, None);
        let options = FormatOptions {
            timeouts: memory::steady(),
            sector_size: Some(SectorSize::B4096),
            area_size: Some(area),
            ..FormatOptions::default()
        };
        let path = path_to(&disk);
        let membership = memory::join(&format(path.clone(), &options).unwrap(), JoinOptions::new);
        assert_eq!(membership.lockspace().geometry(), geometry);
        let resource = membership.create("demo", Wait::For(PATIENCE)).unwrap();
        let lease = membership.try_acquire(&resource).unwrap();
        let offset = resource.offset() + 2002 * 4096;
        let touched = Arc::new(AtomicBool::new(false));
        let seen = touched.clone();
        path.set_rule(move |request| {
            seen.fetch_or(request.offset == offset, Ordering::SeqCst);
            Plan::Pass
        });
        let wrote = lease.set_value(b"here");
        let read = lease.value();
        let outside = membership.lockspace().value(&resource);
        match area {
            AreaSize::M8 => {
                wrote.unwrap();
                assert_eq!(read.unwrap().unwrap().data, b"here");
                assert_eq!(outside.unwrap().value.unwrap().data, b"here");
                lease.set_value(&[1; 4056]).unwrap();
                assert!(touched.load(Ordering::SeqCst), "the value is not where it was looked for");
            }
            _ => {
                for refused in [wrote.unwrap_err(), read.unwrap_err(), outside.unwrap_err()] {
                    assert!(matches!(refused, ValueError::NoRoom { .. }), "{refused}");
                    assert!(refused.to_string().contains(&geometry.to_string()), "{refused}");
                }
                assert!(!touched.load(Ordering::SeqCst));
            }
        }
    }
}

/// All that a command says.
#[track_caller]
fn call(scene: &Scene, args: &[&str], code: i32) -> String {
    let Ended { out, err, .. } = scene.run(args).expect(code, &[]);
    out + &err
}

fn gotten(scene: &Scene) -> Json {
    scene.run(&["value", "get", "disk", "demo", "--json"]).expect(0, &[]).json()
}

/// Two processes, one after the other and against each other.
#[test]
fn the_command_sets_and_gets_values() {
    let scene = Scene::with(&["demo"]).on_a_device();
    assert_eq!(call(&scene, &["value", "get", "disk", "demo"], 0), "");
    assert_eq!(gotten(&scene)["value"], Json::Null);
    call(&scene, &["value", "set", "disk", "demo", "primary=node2", "--host-id", "3"], 0);
    assert_eq!(call(&scene, &["value", "get", "disk", "demo"], 0), "primary=node2\n");
    assert_eq!(call(&scene, &["value", "get", "disk", "demo", "--raw"], 0), "primary=node2");
    let json = gotten(&scene);
    assert_eq!(
        (&json["value"], &json["origin"], &json["host_id"]),
        (&"primary=node2".into(), &"lease".into(), &3.into())
    );
    assert_eq!((&json["latest"], &json["version"]), (&true.into(), &json["last_version"]));
    let dumped = call(&scene, &["dump", "disk"], 0);
    assert!(dumped.contains("value of demo at offset") && dumped.contains("primary=node2"), "{dumped}");
    // By a command under the lease nothing is written, and then it is not certain that nothing was.
    call(&scene, &["run", "--device", "disk", "demo", "--", "true"], 0);
    assert!(call(&scene, &["value", "get", "disk", "demo"], 0).contains("nobody has written since, or a late write"));
    assert_eq!(gotten(&scene)["latest"], false);
    played(|| {
        let mut set = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        set.args(["value", "set", "disk", "demo", "--file", "-"]).current_dir(scene.folder.path());
        set.stdin(Stdio::piped()).stderr(Stdio::piped());
        scene.mark.put_on(&mut set);
        let mut set = set.spawn().unwrap();
        // One that is too busy to read it says so.
        let _ = set.stdin.take().unwrap().write_all(b"\x00\xff\x1b[2J");
        let set = set.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&set.stderr);
        assert!(set.status.success() || is_busy(&said), "{said}");
        set.status.success().then_some(())
    });
    assert_eq!(call(&scene, &["value", "get", "disk", "demo"], 0), "\\x00\\xff\\x1b[2J\n");
    assert_eq!(gotten(&scene)["hex"], "00ff1b5b324a");
    let long = "x".repeat(473);
    let refused = call(&scene, &["value", "set", "disk", "demo", &long], 73);
    assert!(refused.contains("at most 472 bytes"), "{refused}");
    // While another holds it.
    let script = concat!(env!("CARGO_BIN_EXE_leasehold"), " value set disk demo mine; echo ended $?");
    let said = call(&scene, &["run", "--device", "disk", "demo", "--", "sh", "-c", script], 0);
    assert!(said.contains("ended 75"), "{said}");
    call(&scene, &["value", "get", "disk", "nothing"], 66);
}

#[test]
fn a_value_that_nobody_vouches_for_is_printed_and_told() {
    let scene = Scene::with(&["demo"]).on_a_device();
    call(&scene, &["value", "set", "disk", "demo", "good"], 0);
    scene.overwrite((3 << 20) + 2002 * 512, b"b");
    let said = call(&scene, &["value", "get", "disk", "demo"], 65);
    assert!(said.starts_with("bood\n") && said.contains("nobody vouches for the value of demo"), "{said}");
    let said = call(&scene, &["value", "get", "disk", "demo", "--json"], 65);
    assert!(said.contains("\"origin\": \"altered\""), "{said}");
}
