//! Failures of different calls are of one kind where the same is to be done about them.

use std::sync::Arc;
use std::time::Duration;

use leasehold::disk::{Access, DirectDisk, Disk, MemoryDisk};
use leasehold::{ErrorKind, FormatOptions, JoinOptions, LeaseState, Lockspace, Name, Wait, format};

use crate::common::answers::AtOnce;
use crate::common::id;
use crate::common::memory::{Scene, formatted, steady};

#[test]
fn failures_without_a_lockspace_have_kinds() {
    let blank = || -> Arc<dyn Disk> { Arc::new(MemoryDisk::new(8 << 20, None)) };
    let options = FormatOptions::default;
    assert_eq!(Name::resource("a/b").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!("demo".parse::<LeaseState>().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(DirectDisk::open("/nowhere/at/all", Access::ReadOnly).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(Lockspace::open(blank()).unwrap_err().kind(), ErrorKind::Corrupt);
    let many = FormatOptions { max_resources: Some(u32::MAX), ..options() };
    assert_eq!(format(blank(), &many).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let unnamed = FormatOptions { name: String::new(), ..options() };
    assert_eq!(format(blank(), &unnamed).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let tiny = Arc::new(MemoryDisk::new(1 << 20, None));
    assert_eq!(format(tiny, &options()).unwrap_err().kind(), ErrorKind::Refused);
    let exists = format(Arc::new(formatted(steady())), &options()).unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::Refused);
}

#[test]
fn failures_of_hosts_and_resources_have_kinds() {
    let scene = Scene::new();
    let (here, there) = (&scene.membership, scene.other(2));
    let lockspace = here.lockspace();
    assert_eq!(lockspace.find("other").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(here.create("demo", Wait::No).unwrap_err().kind(), ErrorKind::Refused);
    let taken = || JoinOptions::new().host_id(here.owner().host);
    assert_eq!(lockspace.join(taken()).unwrap_err().kind(), ErrorKind::Held);
    let lease = here.try_acquire(&scene.resource).unwrap();
    assert_eq!(there.try_acquire(&scene.resource).unwrap_err().kind(), ErrorKind::Held);
    assert_eq!(here.try_acquire(&scene.resource).unwrap_err().kind(), ErrorKind::Held);
    assert_eq!(here.leave().unwrap_err().kind(), ErrorKind::Refused);
    let asked = lease.prepare_handover(id(2), Wait::For(Duration::ZERO));
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(there.receive(&scene.resource, Wait::No).unwrap_err().kind(), ErrorKind::Held);
    lease.release().unwrap();
    there.leave().unwrap();
    assert_eq!(there.try_acquire(&scene.resource).unwrap_err().kind(), ErrorKind::Lost);
}
