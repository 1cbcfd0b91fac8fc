//! The value block: what is written with a lease is what the next owner reads, or it is told that it may not be.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leasehold::disk::{Access, DirectDisk, Disk, FaultDisk, Lane, MemoryDisk, Op, Plan, Request};
use leasehold::format::{AreaSize, Geometry, SectorSize, Value, ValueOrigin};
use leasehold::{
    AcquireError, AcquireOptions, ConvertError, FormatOptions, HostId, JoinOptions, LeaseMode, Lockspace, Membership,
    ReleaseError, Resource, Timeouts, ValueError, Wait, format,
};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::common::devices::{folder, text};
use crate::common::processes::{Mark, leasehold};
use crate::common::{PATIENCE, timeouts, until};

fn quick() -> Timeouts {
    timeouts([50, 200, 2_000, 300, 2_400])
}

fn id(host: u64) -> HostId {
    HostId::new(host).unwrap()
}

/// A lockspace in memory with one resource, and a path to it for one host.
struct World {
    disk: MemoryDisk,
    path: Arc<FaultDisk>,
    resource: Resource,
}

impl World {
    fn new() -> World {
        let disk = MemoryDisk::new(8 << 20, None);
        let options = FormatOptions { timeouts: quick(), ..FormatOptions::default() };
        let membership = format(Arc::new(disk.reopen()), &options).unwrap().join(JoinOptions::new()).unwrap();
        let resource = membership.create("demo", Wait::No).unwrap();
        membership.leave().unwrap();
        let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
        World { disk, path, resource }
    }

    fn open(&self) -> Lockspace {
        Lockspace::open(Arc::new(self.disk.reopen())).unwrap()
    }

    /// Host 1 is the one with the path.
    fn join(&self, host: u64) -> Membership {
        let lockspace = if host == 1 { Lockspace::open(self.path.clone()).unwrap() } else { self.open() };
        lockspace.join(JoinOptions::new().host_id(id(host))).unwrap()
    }

    fn value_at(&self) -> u64 {
        self.resource.offset() + 2002 * 512
    }

    fn io(&self, op: Op) -> Vec<u8> {
        let (reply, pending) = leasehold::disk::channel();
        self.disk.submit(Request { offset: self.value_at(), lane: Lane::General, op }, reply);
        pending.wait(PATIENCE).expect("an answer").unwrap()
    }

    /// Holds back what host 1 writes to the value block.
    fn hold_writes(&self) {
        let at = self.value_at();
        self.path
            .set_rule(move |request| if request.is_write() && request.offset == at { Plan::Hold } else { Plan::Pass });
    }

    fn thaw(&self) {
        self.path.clear_rule();
        self.path.release();
    }
}

#[test]
fn the_next_owner_reads_what_the_last_one_wrote_and_who_that_was() {
    let world = World::new();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.acquire(&world.resource, Wait::No).unwrap();
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

/// The former owner is dead, and its last write lands over the value of the next one.
#[test]
fn a_late_write_of_a_former_owner_is_told() {
    let world = World::new();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.acquire(&world.resource, Wait::No).unwrap();
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
    until("the late write", || world.io(Op::Read { len: 512 }).starts_with(b"late"));
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
    let world = World::new();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.acquire(&world.resource, Wait::No).unwrap();
    world.hold_writes();
    lease.set_value(b"slow").unwrap_err();
    let answer = lease.release().unwrap_err();
    assert!(matches!(answer, ReleaseError::Unknown { .. }), "{answer}");
    let refused = second.acquire(&world.resource, Wait::No).unwrap_err();
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused}");
    world.thaw();
    let taken = second.acquire(&world.resource, Wait::For(PATIENCE)).unwrap();
    assert_eq!(taken.value().unwrap().unwrap().data, b"slow");
}

#[test]
fn a_value_is_written_by_who_holds_alone_and_read_by_all() {
    let world = World::new();
    let (first, second) = (world.join(1), world.join(2));
    let lease = first.acquire(&world.resource, Wait::No).unwrap();
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
    let world = World::new();
    let membership = world.join(1);
    let lease = membership.acquire(&world.resource, Wait::No).unwrap();
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
    let lease = membership.acquire(&world.resource, Wait::No).unwrap();
    let mut sector = vec![0; 512];
    sector[..5].copy_from_slice(b"plain");
    world.io(Op::Write { data: sector });
    let value = lease.value().unwrap().unwrap();
    assert_eq!((&value.data[..], value.origin), (&b"plain"[..], ValueOrigin::Unmarked));
    lease.set_value(b"marked").unwrap();
    let mut sector = world.io(Op::Read { len: 512 });
    sector[..2].copy_from_slice(b"ov");
    world.io(Op::Write { data: sector });
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
            timeouts: quick(),
            sector_size: Some(SectorSize::B4096),
            area_size: Some(area),
            ..FormatOptions::default()
        };
        let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
        let membership = format(path.clone(), &options).unwrap().join(JoinOptions::new()).unwrap();
        assert_eq!(membership.lockspace().geometry(), geometry);
        let resource = membership.create("demo", Wait::No).unwrap();
        let lease = membership.acquire(&resource, Wait::No).unwrap();
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

/// A lockspace on a file, for processes.
struct Scene {
    mark: Mark,
    folder: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let folder = folder();
        let path = folder.path().join("disk");
        fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let options = FormatOptions { timeouts: timeouts([100, 250, 2_000, 500, 2_500]), ..FormatOptions::default() };
        format(Arc::new(DirectDisk::open(&path, Access::ReadWrite).unwrap()), &options).unwrap();
        let scene = Scene { mark: Mark::new(), folder };
        scene.call(&["create"], &["demo"], 0);
        scene
    }

    fn disk(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }

    #[track_caller]
    fn call(&self, command: &[&str], words: &[&str], code: i32) -> String {
        let (ended, said) = leasehold(&self.mark, &[command, &[text(&self.disk())], words].concat());
        assert_eq!(ended, code, "{said}");
        said
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.call(&["value", "get"], &["demo", "--json"], 0)).unwrap()
    }
}

/// Two processes, one after the other and against each other.
#[test]
fn the_command_sets_and_gets_values() {
    let scene = Scene::new();
    assert_eq!(scene.call(&["value", "get"], &["demo"], 0), "");
    assert_eq!(scene.json()["value"], Json::Null);
    scene.call(&["value", "set"], &["demo", "primary=node2", "--host-id", "3"], 0);
    assert_eq!(scene.call(&["value", "get"], &["demo"], 0), "primary=node2\n");
    assert_eq!(scene.call(&["value", "get"], &["demo", "--raw"], 0), "primary=node2");
    let json = scene.json();
    assert_eq!(
        (&json["value"], &json["origin"], &json["host_id"]),
        (&"primary=node2".into(), &"lease".into(), &3.into())
    );
    assert_eq!((&json["latest"], &json["version"]), (&true.into(), &json["last_version"]));
    let dumped = scene.call(&["dump"], &[], 0);
    assert!(dumped.contains("value of demo at offset") && dumped.contains("primary=node2"), "{dumped}");
    // By a command under the lease nothing is written, and then it is not certain that nothing was.
    scene.call(&["run", "--device"], &["demo", "--", "true"], 0);
    assert!(scene.call(&["value", "get"], &["demo"], 0).contains("nobody has written since, or a late write"));
    assert_eq!(scene.json()["latest"], false);
    let mut set = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    set.args(["value", "set", text(&scene.disk()), "demo", "--file", "-"]).stdin(Stdio::piped());
    scene.mark.put_on(&mut set);
    let mut set = set.spawn().unwrap();
    set.stdin.take().unwrap().write_all(b"\x00\xff\x1b[2J").unwrap();
    assert!(set.wait().unwrap().success());
    assert_eq!(scene.call(&["value", "get"], &["demo"], 0), "\\x00\\xff\\x1b[2J\n");
    assert_eq!(scene.json()["hex"], "00ff1b5b324a");
    let long = "x".repeat(473);
    let refused = scene.call(&["value", "set"], &["demo", &long], 73);
    assert!(refused.contains("at most 472 bytes"), "{refused}");
    // While another holds it.
    let script =
        format!("{} value set {} demo mine; echo ended $?", env!("CARGO_BIN_EXE_leasehold"), text(&scene.disk()));
    let said = scene.call(&["run", "--device"], &["demo", "--", "sh", "-c", &script], 0);
    assert!(said.contains("ended 75"), "{said}");
    scene.call(&["value", "get"], &["nothing"], 66);
}

#[test]
fn a_value_that_nobody_vouches_for_is_printed_and_told() {
    let scene = Scene::new();
    scene.call(&["value", "set"], &["demo", "good"], 0);
    change(&scene.disk(), (3 << 20) + 2002 * 512, b"b");
    let said = scene.call(&["value", "get"], &["demo"], 65);
    assert!(said.starts_with("bood\n") && said.contains("nobody vouches for the value of demo"), "{said}");
    let (_, said) = leasehold(&scene.mark, &["value", "get", text(&scene.disk()), "demo", "--json"]);
    assert!(said.contains("\"origin\": \"altered\""), "{said}");
}

fn change(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}
