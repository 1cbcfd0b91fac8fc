//! A device in use with anything written over parts of it, and everything that is done with a device.

use std::fmt::{Debug, Display};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use leasehold::disk::MemoryDisk;
use leasehold::format::{AreaSize, Block, DeltaRecord, Geometry, Leader, SectorSize};
use leasehold::{
    AcquireError, FormatOptions, HostId, JoinError, JoinOptions, Lease, Lockspace, Membership, Resource, Wait,
};

use super::input::Input;
use super::records::{Kind, LOCKSPACE, NAMES, record, reseal, timeouts};

/// The areas of the lockspace, the index, its guard, two resources, and room for one more.
const AREAS: u64 = 6;
/// How long a step may take of its own accord: timeouts that the fuzzer has written may be long. It is then called off.
const PATIENCE: Duration = Duration::from_millis(200);

/// A device on which `a` was released by a host that left, and `b` by none: its owner, host 2, is gone.
fn base(sector: SectorSize) -> &'static [u8] {
    static BASES: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    BASES[usize::from(sector == SectorSize::B4096)].get_or_init(|| {
        // On a busy machine a host may lose its id halfway.
        let mut tries = (0..100).map(|_| used(sector));
        let last = tries.find(Result::is_ok).expect("the device can be used");
        last.unwrap_or_else(|error| panic!("{error}"))
    })
}

fn used(sector: SectorSize) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let disk = Arc::new(MemoryDisk::new((AREAS << 20) as usize, None));
    let options = FormatOptions {
        name: LOCKSPACE.into(),
        timeouts: timeouts(),
        sector_size: Some(sector),
        area_size: Some(AreaSize::M1),
        max_resources: Some(12),
        ..FormatOptions::default()
    };
    let lockspace = leasehold::format(disk.clone(), &options)?;
    let join = |id, machine: &str| {
        let options = JoinOptions::new().host_id(HostId::new(id).expect("an id")).host_name(machine).machine(machine);
        lockspace.join(options)
    };
    let first = join(3, "ours")?;
    let a = first.create("a", Wait::No)?;
    let b = first.create("b", Wait::No)?;
    first.acquire(&a, Wait::No)?.release()?;
    first.leave()?;
    let second = join(2, "theirs")?;
    second.acquire(&a, Wait::No)?.release()?;
    let held = second.acquire(&b, Wait::No)?;
    let bytes = disk.bytes();
    held.release()?;
    Ok(bytes)
}

/// The sectors that matter, and what each is meant to hold.
fn places(geometry: Geometry) -> Vec<(u64, Kind)> {
    let area = geometry.area_bytes();
    let hosts = || (1..=4).filter_map(HostId::new);
    let mut places: Vec<(u64, Kind)> = hosts().map(|host| (geometry.delta_offset(host), Kind::Delta)).collect();
    places.push((area, Kind::Index));
    places.push((area + geometry.index_entry_offset(0), Kind::Entries));
    for at in (2..AREAS).map(|number| number * area) {
        places.push((at, Kind::Leader));
        places.push((at + geometry.request_offset(), Kind::Request));
        places.extend(hosts().map(|host| (at + geometry.block_offset(host), Kind::Block)));
    }
    places
}

fn spoil(image: &mut [u8], geometry: Geometry, input: &mut Input<'_>) {
    let size = geometry.sector_bytes();
    let first = DeltaRecord::decode(&image[..size], 0).expect("an id that was never held");
    let nonce = first.extension.map_or(0, |extension| extension.nonce);
    let places = places(geometry);
    for _ in 0..input.below(8) {
        let number = usize::from(input.byte());
        // Behind those that matter: any sector.
        let (at, kind) = match places.get(number) {
            Some(place) => *place,
            None => ((usize::from(input.word()) % (image.len() / size) * size) as u64, Kind::Block),
        };
        let start = at as usize;
        let sector = match input.below(6) {
            0 => vec![0; size],
            1 => vec![0xff; size],
            // A misdirected write.
            2 => {
                let (from, _) = places[input.below(places.len())];
                image[from as usize..from as usize + size].to_vec()
            }
            3 => record(kind, geometry, nonce, at, input),
            how => {
                let mut sector = image[start..start + size].to_vec();
                let place = usize::from(input.word()) % size;
                let count = 1 + input.below(16);
                let bytes = input.bytes(count.min(size - place));
                sector[place..place + bytes.len()].copy_from_slice(bytes);
                if how == 5 {
                    reseal(kind, &mut sector, at);
                }
                sector
            }
        };
        image[start..start + size].copy_from_slice(&sector);
    }
}

/// Whatever is on a device: to look at it, to join, to acquire and to create end, without a panic, and an answer that
/// says "held" is true on the device.
pub fn device(data: &[u8]) {
    let mut input = Input::new(data);
    let size = if input.flag() { SectorSize::B4096 } else { SectorSize::B512 };
    let geometry = Geometry::new(size, AreaSize::M1).expect("in the table");
    let mut image = base(size).to_vec();
    spoil(&mut image, geometry, &mut input);
    let short = input.byte();
    if short >= 250 {
        image.truncate(usize::from(short - 250) << 20 | usize::from(input.byte()) << 12);
    }
    let disk = Arc::new(MemoryDisk::with_bytes(image, None));
    look(&disk);
    if let Ok(lockspace) = show(Lockspace::open(disk.clone())) {
        take_part(&lockspace, &disk, &mut input);
        look(&disk);
    }
}

/// Errors are for people: to say them must not panic either.
fn show<T, E: Debug + Display>(result: Result<T, E>) -> Result<T, E> {
    if let Err(error) = &result {
        drop(format!("{error} {error:?}"));
    }
    result
}

fn look(disk: &MemoryDisk) {
    let Ok(lockspace) = show(Lockspace::open(Arc::new(disk.reopen()))) else { return };
    drop(format!("{:?}", show(lockspace.hosts(Duration::ZERO))));
    drop(format!("{:?}", show(lockspace.resources())));
    drop(format!("{:?}", show(lockspace.examine())));
    for name in NAMES {
        let _ = show(lockspace.find(name));
    }
    for at in 0..AREAS {
        let _ = show(lockspace.sectors(at << 20, 8));
    }
}

fn take_part(lockspace: &Lockspace, disk: &MemoryDisk, input: &mut Input<'_>) {
    let mut options = JoinOptions::new().host_name("ours").machine(input.pick(&["ours", "theirs", "another"]));
    if let Some(id) = HostId::new(input.pick(&[0, 1, 2, 3, 4, 250, 251, 2000])) {
        options = options.host_id(id);
    }
    let Ok(membership) = show(join(lockspace, options)) else { return };
    let me = membership.owner();
    let geometry = lockspace.geometry();
    let at = geometry.delta_offset(me.host);
    let own = |bytes: &[u8]| DeltaRecord::decode(sector_of(bytes, at, geometry), at);
    assert_eq!(own(&disk.bytes()).map(|record| record.owner()), Ok(Some(me)));

    for _ in 0..1 + input.below(3) {
        let wait = if input.below(4) == 1 { Wait::For(PATIENCE) } else { Wait::No };
        let resource = match input.below(5) {
            0 => lockspace.resource_at("a", 3 << 20),
            1 => lockspace.resource_at("b", 4 << 20),
            2 => lockspace.find("a"),
            3 => lockspace.find("b"),
            _ => create(&membership, lockspace, wait),
        };
        let Ok(resource) = show(resource) else { continue };
        let before = leader(&disk.bytes(), &resource, geometry);
        let Ok(lease) = show(acquire(&membership, &resource, wait)) else { continue };
        let bytes = disk.bytes();
        let version = lease.version();
        let named = before.filter(|it| (it.resource, it.lockspace) == (resource.name(), lockspace.name()));
        assert!(named.is_none_or(|leader| leader.version < version), "version {version} again");
        let block = block(&bytes, &resource, me.host, geometry).expect("the own block is good");
        assert_eq!((block.instance, block.inp, block.released), (version, Some(me), false));
        if input.flag() {
            drop(lease);
        } else if show(lease.release()).is_ok() {
            let bytes = disk.bytes();
            let block = self::block(&bytes, &resource, me.host, geometry).expect("the own block is good");
            let leader = leader(&bytes, &resource, geometry);
            let free = leader.is_some_and(|leader| leader.version >= version && leader.is_free());
            assert!(block.released || free, "version {version} is not released: {block:?}");
        }
    }
    if input.flag() && show(membership.leave()).is_ok() {
        let record = own(&disk.bytes()).expect("the own record is good");
        assert!(record.is_free(), "{record:?}");
    }
}

fn join(lockspace: &Lockspace, options: JoinOptions) -> Result<Membership, JoinError> {
    let joining = lockspace.start_join(options)?;
    for _ in 0..PATIENCE.as_millis() {
        if joining.is_done() {
            return joining.wait();
        }
        thread::sleep(Duration::from_millis(1));
    }
    joining.cancel();
    Err(JoinError::Cancelled)
}

/// To leave is what calls an acquire off.
fn within_patience<T: Send>(membership: &Membership, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let (sender, done) = channel();
        let worker = scope.spawn(move || {
            let result = work();
            // Nobody listens any more when it was called off.
            let _ = sender.send(());
            result
        });
        if done.recv_timeout(PATIENCE * 2) == Err(RecvTimeoutError::Timeout) {
            let _ = membership.leave();
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn acquire(membership: &Membership, resource: &Resource, wait: Wait) -> Result<Lease, AcquireError> {
    within_patience(membership, || membership.acquire(resource, wait))
}

fn create(membership: &Membership, lockspace: &Lockspace, wait: Wait) -> Result<Resource, leasehold::FindError> {
    match show(within_patience(membership, || membership.create("c", wait))) {
        Ok(created) => {
            let found = lockspace.find("c");
            assert_eq!(found.as_ref().ok(), Some(&created), "{found:?}");
            found
        }
        Err(_) => lockspace.find("c"),
    }
}

/// No bytes, which are no record: the device may have become too short.
fn sector_of(bytes: &[u8], at: u64, geometry: Geometry) -> &[u8] {
    bytes.get(at as usize..at as usize + geometry.sector_bytes()).unwrap_or_default()
}

fn leader(bytes: &[u8], resource: &Resource, geometry: Geometry) -> Option<Leader> {
    let at = resource.offset();
    Leader::decode(sector_of(bytes, at, geometry), at).ok().filter(|leader| !leader.cleared)
}

fn block(bytes: &[u8], resource: &Resource, host: HostId, geometry: Geometry) -> Option<Block> {
    let at = resource.offset() + geometry.block_offset(host);
    Block::decode(sector_of(bytes, at, geometry), at).ok()
}
