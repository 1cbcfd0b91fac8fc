//! Declaring hosts dead: in memory with a path that hangs, and with several processes on a loop device.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use leasehold::disk::{FaultDisk, MemoryDisk, Op, Plan};
use leasehold::{
    AcquireError, DeclareError, Declared, Generation, HostState, JoinError, JoinOptions, Lease, Lockspace, LossReason,
    Membership, Resource, Status, Timeouts, Wait,
};
use rustix::process::Signal;

use crate::common::answers::held_by;
use crate::common::command::leasehold_calmly;
use crate::common::devices::{Loop, disk, file, text, transfer, with_resources};
use crate::common::memory::join_anew;
use crate::common::processes::{self, Mark, Process, calmly, is_busy};
use crate::common::scene::played;
use crate::common::{PATIENCE, id, memory, timeouts, until, until_some};

/// D is longer than any of these tests lasts: what is free before was not waited for.
fn long() -> Timeouts {
    timeouts([100, 500, 60_000, 5_000, 600_000])
}

/// D is waited for, but it is longer than a busy machine stalls.
fn short() -> Timeouts {
    timeouts([50, 500, 3_000, 200, 3_300])
}

fn find(lockspace: &Lockspace) -> Resource {
    calmly("the index", || lockspace.find("demo"))
}

fn in_memory(disk: &MemoryDisk, host: u64) -> Membership {
    join_anew(disk, &Lockspace::open(Arc::new(disk.reopen())).unwrap(), host)
}

pub(crate) fn work(task: &[&str]) {
    let ["hold", device, host] = task else { panic!("no such task: {task:?}") };
    hold(Path::new(device), host.parse().unwrap());
}

/// Holds until it is lost, and says why.
fn hold(device: &Path, host: u64) {
    let lockspace = open(device);
    // Once: what an attempt leaves that came to nothing would have to be waited out.
    let options = JoinOptions::new().host_id(id(host)).machine("the holder's");
    let membership = lockspace.join(options).unwrap_or_else(|error| panic!("{}", processes::with_sources(&error)));
    let lease = membership.acquire(&find(&lockspace), Wait::For(PATIENCE)).unwrap();
    println!("\nowner {} {}", lease.version(), membership.owner().generation);
    let mut status = membership.status();
    while !matches!(status, Status::Lost { .. }) {
        status = membership.status_change(&status, PATIENCE);
    }
    let Status::Lost { reason } = status else { unreachable!() };
    assert!(!lease.is_held());
    println!("\nlost {reason}");
}

fn open(device: &Path) -> Lockspace {
    Lockspace::open(disk(device)).unwrap()
}

/// It was waited for in vain: to the end for its holder, or, on a busy machine, for a read or a write.
fn is_refused(answer: &Result<Lease, AcquireError>) -> bool {
    matches!(answer, Err(AcquireError::Held { .. } | AcquireError::TimedOut { .. } | AcquireError::Unknown { .. }))
}

/// The words after the first one of the line that begins with it.
fn said(process: &Process, first: &str) -> Option<String> {
    process.said().lines().find_map(|line| Some(line.strip_prefix(first)?.trim().to_string()))
}

/// The holder is stopped: to all others it looks like one that was fenced. Then it goes on.
#[test]
fn a_stopped_holder_that_is_declared_dead_is_replaced_at_once_and_lost_when_it_goes_on() {
    let (_folder, backing) = file(16 << 20);
    let node = Loop::new(&backing, &["--direct-io=on"]);
    let lockspace = with_resources(disk(&node.0), long(), &["demo"]);
    let (mark, path) = (Mark::new(), text(&node.0));
    let mut hosts = 7..;
    let (mut holder, host, owner) = played(|| {
        let host = hosts.next()?;
        let mut holder = Process::start(&mut processes::worker(&["control", "hold", path, &host.to_string()]), &mark);
        until("the holder", || said(&holder, "owner").is_some() || holder.ended().is_some());
        let owner = said(&holder, "owner");
        assert!(owner.is_some() || is_busy(&holder.complained()), "{}", holder.complained());
        Some((holder, host, owner?))
    });
    let (version, generation) = owner.split_once(' ').unwrap();
    let (version, generation): (u64, u64) = (version.parse().unwrap(), generation.parse().unwrap());

    let declare = |generation: u64, options: &[&str]| {
        let generation = generation.to_string();
        let words = ["declare-dead", path, &host.to_string(), "--generation", &generation];
        leasehold_calmly(&mark, &[&words, options].concat())
    };
    // With any id, which a next attempt has another one of.
    let contender = calmly("a join", || lockspace.join(JoinOptions::new().machine("the contender's")));
    let resource = find(&lockspace);

    holder.signal(Signal::STOP);
    let (code, told) = declare(generation + 1, &["--fenced"]);
    assert!(code == 73 && told.contains(&format!("generation {generation}")), "{code}: {told}");
    let refused = contender.acquire(&resource, Wait::For(Duration::from_millis(500)));
    assert!(is_refused(&refused), "{refused:?}");
    let (code, _) = declare(generation, &[]);
    assert_eq!(code, 64, "nobody vouches by mistake");
    let (code, told) = declare(generation, &["--fenced"]);
    assert!(code == 0 && (told.contains("is declared dead") || told.contains("was over already")), "{code}: {told}");
    let lease = contender.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version().get() > version);
    // Its process is there and may still write: on this machine nobody takes its id.
    let again = lockspace.join(JoinOptions::new().host_id(id(host)).machine("another"));
    assert!(matches!(again, Err(JoinError::HeldHere { .. })), "{again:?}");

    // A renewal that had read before the stop writes over it: until one reads it.
    let at = lockspace.geometry().delta_offset(id(host));
    let declared = transfer(&node.0, at, Op::Read { len: 512 });
    holder.signal(Signal::CONT);
    until("the holder's end", || {
        transfer(&node.0, at, Op::Write { data: declared.clone() });
        holder.ended().is_some()
    });
    assert_eq!(holder.code(), 0, "{}", holder.complained());
    let lost = said(&holder, "lost").unwrap();
    assert!(lost.starts_with("this host was declared dead by host "), "{lost}");
    assert!(lease.is_held());
    // A renewal of its own may have landed last. Not even its machine takes the id, unless somebody names it.
    let shown = until_some("the answer about its id", || {
        transfer(&node.0, at, Op::Write { data: declared.clone() });
        match lockspace.join(JoinOptions::new().host_id_unless_declared(id(host)).machine("the holder's")) {
            Err(JoinError::Declared { generation, .. }) => Some(generation),
            _ => None,
        }
    });
    assert_eq!(shown, generation);
}

/// Nobody else can know that whoever had it meanwhile writes no more.
#[test]
fn an_id_that_was_declared_dead_is_taken_only_by_a_join_that_names_it() {
    let timeouts = short();
    let (disk, other, generation) = with_a_dead_host(timeouts);
    assert_eq!(other.declare_dead(id(2), generation).unwrap(), Declared::Dead);
    let since = Instant::now();
    let lockspace = Lockspace::open(Arc::new(disk.reopen())).unwrap();
    for machine in ["machine 2", "another"] {
        let automatic = calmly("a join", || lockspace.join(JoinOptions::new().machine(machine)));
        assert_ne!(automatic.owner().host, id(2));
        automatic.leave().unwrap();
        let unnamed = lockspace.join(JoinOptions::new().host_id_unless_declared(id(2)).machine(machine));
        assert!(matches!(&unnamed, Err(JoinError::Declared { .. })), "{unnamed:?}");
    }
    let named = in_memory(&disk, 2);
    assert!(since.elapsed() >= timeouts.dead());
    assert!(named.owner().generation.get() > generation.get() + 1_024);
}

/// No word of anybody's ends a host that renews.
#[test]
fn a_host_that_lives_is_not_declared_dead() {
    // It renews often, as against how long it is watched: a busy machine doesn't make it look dead.
    let disk = memory::formatted(timeouts([50, 2_000, 60_000, 5_000, 600_000]));
    let [lives, declarer] = std::thread::scope(|scope| {
        [1, 2]
            .map(|host| {
                scope.spawn({
                    let disk = &disk;
                    move || in_memory(disk, host)
                })
            })
            .map(|thread| thread.join().unwrap())
    });
    let owner = lives.owner();
    for _ in 0..2 {
        let answer = declarer.declare_dead(owner.host, owner.generation);
        assert!(matches!(answer, Err(DeclareError::Live { .. })), "{answer:?}");
    }
    assert!(matches!(lives.status(), Status::Held { .. }));
}

/// Two hosts and what a third one held that is gone without a word.
fn with_a_dead_host(timeouts: Timeouts) -> (MemoryDisk, Membership, Generation) {
    let disk = memory::formatted(timeouts);
    let first = in_memory(&disk, 1);
    first.create("demo", Wait::For(PATIENCE)).unwrap();
    // All that it does happens on a copy, but for what is on disk while it holds: to the others it is dead.
    let elsewhere = MemoryDisk::with_bytes(disk.bytes(), None);
    let gone = in_memory(&elsewhere, 2);
    let lease = gone.acquire(&find(gone.lockspace()), Wait::For(PATIENCE)).unwrap();
    let generation = gone.owner().generation;
    let image = elsewhere.bytes();
    disk.edit(|bytes| {
        let geometry = gone.lockspace().geometry();
        let demo = lease.resource().offset();
        let sector = geometry.sector_bytes();
        for at in [geometry.delta_offset(id(2)), demo, demo + geometry.block_offset(id(2))] {
            let range = at as usize..at as usize + sector;
            bytes[range.clone()].copy_from_slice(&image[range]);
        }
    });
    (disk, first, generation)
}

#[test]
fn a_declaration_names_what_it_is_about_or_changes_nothing() {
    let (disk, first, generation) = with_a_dead_host(long());
    let geometry = first.lockspace().geometry();
    let record = || disk.bytes()[geometry.delta_offset(id(2)) as usize..][..geometry.sector_bytes()].to_vec();
    let before = record();
    let me = first.owner();
    let own = first.declare_dead(me.host, me.generation);
    assert!(matches!(own, Err(DeclareError::Own { .. })), "{own:?}");
    let never_held = first.declare_dead(id(9), generation);
    assert!(matches!(never_held, Err(DeclareError::Generation { found: 0, .. })), "{never_held:?}");
    let other = first.declare_dead(id(2), Generation::new(generation.get() + 1).unwrap());
    assert!(matches!(other, Err(DeclareError::Generation { found, .. }) if found == generation.get()), "{other:?}");
    assert_eq!(record(), before);

    let resource = find(first.lockspace());
    held_by(&first, &resource, 2);
    assert_eq!(first.declare_dead(id(2), generation).unwrap(), Declared::Dead);
    assert_eq!(first.declare_dead(id(2), generation).unwrap(), Declared::WasOver, "again is safe");
    first.acquire(&resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
    until("the state", || first.hosts().iter().any(|host| host.host == id(2) && host.state == HostState::Free));

    disk.edit(|bytes| bytes[geometry.delta_offset(id(2)) as usize] ^= 1);
    let damaged = first.declare_dead(id(2), generation);
    assert!(matches!(damaged, Err(DeclareError::Damaged(_))), "{damaged:?}");
}

/// The declarer's write hangs; another one's does not, and somebody takes the id. Then the first one lands, late.
#[test]
fn a_declaration_that_lands_late_costs_the_next_holder_its_id_and_ends_nothing_of_it() {
    let timeouts = short();
    let (disk, other, generation) = with_a_dead_host(timeouts);
    let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
    let declarer = join_anew(&disk, &Lockspace::open(path.clone()).unwrap(), 3);
    let geometry = declarer.lockspace().geometry();
    let at = geometry.delta_offset(id(2));
    let (sender, late) = channel();
    path.set_rule(move |request| match &request.op {
        Op::Write { data } if request.offset == at => {
            sender.send(data.clone()).unwrap();
            Plan::Hold
        }
        _ => Plan::Pass,
    });
    for _ in 0..2 {
        let answer = declarer.declare_dead(id(2), generation);
        assert!(matches!(answer, Err(DeclareError::Unknown { .. })), "{answer:?}");
    }
    assert_eq!(path.held(), 1, "one write in flight for each sector");
    assert_eq!(other.declare_dead(id(2), generation).unwrap(), Declared::Dead);
    let next = in_memory(&disk, 2);
    let lease = next.acquire(&find(next.lockspace()), Wait::For(PATIENCE)).unwrap();

    let landed = Instant::now();
    assert_eq!(path.release(), 1);
    let late = late.recv().unwrap();
    // A renewal that has read already writes over it: until one reads it.
    until("the loss", || {
        disk.edit(|bytes| bytes[at as usize..][..late.len()].copy_from_slice(&late));
        !lease.is_held()
    });
    let status = next.status();
    assert!(
        matches!(&status, Status::Lost { reason: LossReason::Overwritten { generation: shown, .. } }
            if *shown == generation.get()),
        "{status:?}"
    );
    // What it held is not free before D: nobody vouched for that generation.
    other.acquire(&find(other.lockspace()), Wait::For(PATIENCE)).unwrap();
    assert!(landed.elapsed() >= timeouts.dead());
}
