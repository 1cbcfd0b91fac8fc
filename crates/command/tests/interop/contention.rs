//! Hosts of both kinds contend for the same resources.
//!
//! Every holding is written down with its beginning, its end and its version, on the clock that all processes share, by
//! what runs under it; and judged from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::format::Leader;
use leasehold::{AcquireError, JoinOptions, Lockspace, ReleaseError, Wait};
use rand::RngExt;

use super::common::devices::disk;
use super::common::processes::{Process, calmly, is_busy, read, run_worker, worker};
use super::common::sanlock::{Sanlock, TOO_SLOW};
use super::common::{boottime, until};
use super::{Device, HELD_BY_ANOTHER, T, id, refusal};

const RESOURCES: [&str; 3] = ["first", "second", "third"];
/// Hosts 1 and 2 are sanlock's, 3 and 4 ours.
const THEIRS: [u64; 2] = [1, 2];
const OURS: [u64; 2] = [3, 4];

/// How long a resource is held, and how long nothing is wanted after that, in milliseconds.
const HOLD: std::ops::Range<u64> = 2..40;
const PAUSE: std::ops::Range<u64> = 5..300;

fn sleep(span: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(rand::rng().random_range(span)));
}

/// In one piece: then it stands in one place.
fn log(path: &Path, line: &str) {
    let mut log = OpenOptions::new().append(true).open(path).unwrap();
    assert_eq!(log.write(line.as_bytes()).unwrap(), line.len());
}

pub(crate) fn work(task: &[&str]) {
    match task {
        ["contend", device, host, path, end] => {
            contend(Path::new(device), host.parse().unwrap(), Path::new(path), end.parse().unwrap());
        }
        ["hold", device, host, at, resource, mode, path] => {
            hold(Path::new(device), host.parse().unwrap(), at.parse().unwrap(), resource, mode, Path::new(path));
        }
        _ => panic!("no such task: {task:?}"),
    }
}

fn open(device: &Path) -> Lockspace {
    Lockspace::open(disk(device)).unwrap()
}

/// Our host: takes one resource after the other until then.
fn contend(device: &Path, host: u64, path: &Path, end: u64) {
    let lockspace = open(device);
    let membership = calmly("a join", || lockspace.join(JoinOptions::new().host_id(id(host))));
    let resources = RESOURCES.map(|name| calmly("the index", || lockspace.find(name)));
    while boottime() < end {
        let resource = &resources[rand::rng().random_range(0..RESOURCES.len())];
        match membership.acquire(resource, Wait::For(Duration::from_secs(3))) {
            Ok(lease) => {
                let began = boottime();
                sleep(HOLD);
                assert!(lease.is_held());
                let (name, version) = (resource.name(), lease.version());
                log(path, &format!("{name} {host} exclusive {version} {began} {}\n", boottime()));
                let released = lease.release();
                assert!(matches!(released, Ok(()) | Err(ReleaseError::Unknown { .. })), "{released:?}");
            }
            // Or one of its own that is still being released.
            Err(AcquireError::Held { .. } | AcquireError::Shared { .. } | AcquireError::AlreadyHeld { .. }) => {}
            Err(error) => assert!(is_busy(&error.to_string()), "{error}"),
        }
        sleep(PAUSE);
    }
    until("leaving", || membership.leave().is_ok());
}

/// What runs under a holding of sanlock's.
fn hold(device: &Path, host: u64, at: u64, resource: &str, mode: &str, path: &Path) {
    let began = boottime();
    // While it is held nobody else writes the leader.
    let leader = Leader::decode(&open(device).sectors(at, 1).unwrap().pop().unwrap().unwrap(), at).unwrap();
    if mode == "exclusive" {
        assert_eq!(leader.owner.map(|owner| owner.host), Some(id(host)), "{leader:?}");
        assert!(!leader.is_free(), "{leader:?}");
    }
    sleep(HOLD);
    log(path, &format!("{resource} {host} {mode} {} {began} {}\n", leader.version, boottime()));
}

/// sanlock's host: the same, with each holding in a process of its own. How often it was refused, by the answer.
fn contend_by_sanlock(device: &Device, daemon: &Sanlock, host: u64, path: &Path, end: u64) -> BTreeMap<i64, usize> {
    let mut refusals = BTreeMap::new();
    while boottime() < end {
        let number = rand::rng().random_range(0..RESOURCES.len());
        let (name, area) = (RESOURCES[number], 3 + number as u64);
        let shared = rand::rng().random_range(0..4) == 0;
        let (mode, spec) =
            if shared { ("shared", device.shared(name, area)) } else { ("exclusive", device.resource(name, area)) };
        let at = device.area(area).to_string();
        let task = ["hold", device.path(), &host.to_string(), &at, name, mode, super::text(path)];
        let mut command = daemon.client(&["command", "-r", &spec, "-c"]);
        let mut process = Process::start(run_worker(&mut command, &task), daemon.mark());
        if process.code() != 0 {
            assert!(!process.complained().contains("panicked"), "{}", process.complained());
            *refusals.entry(refusal(&process)).or_insert(0) += 1;
        }
        sleep(PAUSE);
    }
    refusals
}

#[derive(Clone, Debug)]
struct Holding {
    host: u64,
    shared: bool,
    version: u64,
    began: u64,
    ended: u64,
}

/// By resource, in the order of their beginnings.
fn holdings(log: &str) -> BTreeMap<String, Vec<Holding>> {
    let mut all = BTreeMap::<String, Vec<Holding>>::new();
    for line in log.lines() {
        let [resource, host, mode, version, began, ended] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line:?}")
        };
        let [host, version, began, ended] = [host, version, began, ended].map(|number| number.parse().unwrap());
        all.entry(resource.into()).or_default().push(Holding { host, shared: mode == "shared", version, began, ended });
    }
    all.values_mut().for_each(|holdings| holdings.sort_by_key(|holding| holding.began));
    all
}

/// Two that overlap are both shared; and versions grow from one exclusive holding to the next.
fn check(resource: &str, holdings: &[Holding]) {
    for (at, later) in holdings.iter().enumerate() {
        for earlier in &holdings[..at] {
            let apart = earlier.ended <= later.began || earlier.shared && later.shared;
            assert!(apart, "{resource} is held twice at once:\n{earlier:?}\n{later:?}");
            let grows = earlier.shared || later.shared || earlier.version < later.version;
            assert!(grows, "{resource}: a version that does not grow:\n{earlier:?}\n{later:?}");
        }
    }
}

/// Whether a daemon tells of what a rival explains, or a busy machine; of a host that joined since the last look, whose
/// T it doesn't know yet; or of its own T.
fn is_expected(line: &str) -> bool {
    let refused = HELD_BY_ANOTHER.iter().any(|code| line.ends_with(&format!("acquire_token held error {code}")));
    let slow = TOO_SLOW.iter().any(|code| line.contains(&code.to_string()));
    refused || slow || line.ends_with(&format!("use own io_timeout {T}")) || line.contains("cmd_add_lockspace")
}

/// What a line says that tells of something amiss.
const AMISS: [&str; 10] =
    ["error", "fail", "corrupt", "bad", "invalid", "unknown", "mismatch", "unexpected", "timeout", "wrong"];

#[test]
fn hosts_of_both_kinds_contend() {
    let seconds = std::env::var("LEASEHOLD_INTEROP_SECONDS").map_or(40, |seconds| seconds.parse().unwrap());
    let device = Device::ours(&RESOURCES);
    let path = device.folder().join("holdings");
    std::fs::write(&path, "").unwrap();
    let daemons = THEIRS.map(|host| Sanlock::start(&format!("theirs{host}"), T));
    thread::scope(|scope| {
        for (daemon, host) in daemons.iter().zip(THEIRS) {
            let device = &device;
            scope.spawn(move || daemon.join(&device.host(host)));
        }
    });
    let end = boottime() + seconds * 1_000_000_000;
    let mut ours = OURS.map(|host| {
        let task = ["contend", device.path(), &host.to_string(), super::text(&path), &end.to_string()];
        Process::start(&mut worker(&task), &device.mark)
    });
    let refusals = thread::scope(|scope| {
        let threads: Vec<_> = daemons
            .iter()
            .zip(THEIRS)
            .map(|(daemon, host)| {
                let (device, path) = (&device, &path);
                scope.spawn(move || contend_by_sanlock(device, daemon, host, path, end))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let start = Instant::now();
    for process in &mut ours {
        until("the end", || process.ended().is_some() || start.elapsed() > Duration::from_secs(50));
        assert_eq!(process.code(), 0, "{}{}", process.said(), process.complained());
    }

    let all = holdings(&read(&path));
    let mut counts = BTreeMap::<u64, BTreeMap<&str, [usize; 2]>>::new();
    for (resource, holdings) in &all {
        check(resource, holdings);
        for holding in holdings {
            counts.entry(holding.host).or_default().entry(resource).or_default()[usize::from(holding.shared)] += 1;
        }
    }
    println!("exclusive and shared holdings by host and resource in {seconds} s: {counts:?}");
    println!("refusals: {refusals:?}");
    for host in THEIRS.into_iter().chain(OURS) {
        let held: BTreeSet<_> = counts.get(&host).into_iter().flat_map(BTreeMap::keys).copied().collect();
        assert_eq!(held, BTreeSet::from(RESOURCES), "host {host} makes no progress: {counts:?}");
    }
    for refusals in refusals {
        let expected = |code| HELD_BY_ANOTHER.contains(code) || TOO_SLOW.contains(code);
        assert!(refusals.keys().all(expected), "{refusals:?}");
    }
    for daemon in &daemons {
        let log = daemon.log();
        let amiss = |line: &&str| AMISS.iter().any(|word| line.to_lowercase().contains(word)) && !is_expected(line);
        let amiss: Vec<_> = log.lines().filter(amiss).collect();
        assert!(amiss.is_empty(), "{amiss:#?}");
    }
    // And it is still a lockspace in which both get along.
    device.sanlock_takes_at_last(&daemons[0], &device.resource("first", 3));
    device.take(3, &["--wait", "20s"], "first");
    device.leasehold(&["dump", device.path()], 0);
}
