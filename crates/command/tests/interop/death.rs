//! A host that dies without a word is replaced by hosts of the other kind, when its time is over and not before.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::common::processes::Process;
use super::common::sanlock::{Sanlock, TOO_SLOW, direct};
use super::common::until;
use super::{Device, HELD_BY_ANOTHER, T, await_held, held, refusal, states};

/// More than anything here takes that is not wrong.
const LONG: Duration = Duration::from_secs(200);
/// What a takeover may take beyond the dead time, on a machine that has time for it.
const PROMPT: f64 = 10.0;
/// And on one that is busy.
const BUSY: f64 = 30.0;

/// D of a host with that T, in seconds.
const fn dead_after(io_timeout: u64) -> u64 {
    8 * io_timeout + 60
}

/// Whether it was replaced in time, given the last renewal of `host` that is on the disk.
#[track_caller]
fn in_time(who: &str, device: &Device, host: u64, io_timeout: u64, taken: f64) {
    let record = device.record(host);
    assert_eq!(u64::from(record.io_timeout), io_timeout);
    let (took, dead) = (taken - record.timestamp as f64, dead_after(io_timeout) as f64);
    println!("{who}: taken over {took:.1} s after the last renewal of host {host}, whose T is {io_timeout} s");
    assert!(took >= dead, "{who}: only {took} s");
    assert!(took <= dead + PROMPT + BUSY, "{who}: {took} s");
}

fn wait(process: &mut Process, patience: Duration) -> (f64, u64) {
    let start = Instant::now();
    while held(process).is_none() && process.ended().is_none() && start.elapsed() < patience {
        thread::sleep(Duration::from_millis(50));
    }
    await_held(process)
}

/// Asks until sanlock holds it. Until then somebody else has it.
fn sanlock_holds_at_last(daemon: &Sanlock, resource: &str) -> (Process, f64) {
    let start = Instant::now();
    loop {
        let mut process = daemon.start_command(resource, &["/bin/sh", "-c", super::HELD]);
        // It may wait itself for an owner to be over.
        while held(&process).is_none() && process.ended().is_none() {
            assert!(start.elapsed() < LONG, "{}", daemon.log());
            thread::sleep(Duration::from_millis(50));
        }
        if let Some((at, _)) = held(&process) {
            return (process, at);
        }
        let code = refusal(&process);
        assert!(HELD_BY_ANOTHER.contains(&code) || TOO_SLOW.contains(&code), "{code}\n{}", daemon.log());
        assert!(start.elapsed() < LONG, "{}", daemon.log());
        thread::sleep(Duration::from_millis(500));
    }
}

/// Two owners with different T: each counts by its own.
#[test]
fn owners_of_sanlock_that_die_are_replaced_by_leasehold() {
    let device = Device::ours(&["first", "second"]);
    let owners = [(1, T, "first"), (2, 2 * T, "second")];
    let daemons = owners.map(|(host, io_timeout, _)| Sanlock::start(&format!("theirs{host}"), io_timeout));
    let mut holders = Vec::new();
    for ((daemon, (host, _, name)), area) in daemons.iter().zip(owners).zip(3..) {
        daemon.join(&device.host(host));
        let holder = device.sanlock_holds(daemon, &device.resource(name, area));
        holders.push((holder, device.leader(area).version.get()));
    }
    let live = |state: &str| owners.map(|(host, ..)| (host, state.to_string()));
    assert_eq!(device.states("10s")[..2], live("live"));

    daemons.iter().for_each(Sanlock::kill);
    let mut watching = {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.args(["status", device.path(), "--json", "--watch-for", "85s"]);
        Process::start(&mut command, &device.mark)
    };
    let mut waiting = owners.map(|(host, _, name)| device.run(10 + host, &["--wait", "forever"], name));
    for ((process, (_, before)), (host, io_timeout, _)) in waiting.iter_mut().zip(&holders).zip(owners) {
        let (at, version) = wait(process, LONG);
        in_time("leasehold", &device, host, io_timeout, at);
        assert_eq!(version, before + 1);
    }
    let start = Instant::now();
    while watching.ended().is_none() && start.elapsed() < LONG {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(watching.code(), 0, "{}", watching.complained());
    let seen = states(&serde_json::from_str(&watching.said()).unwrap());
    assert_eq!(seen[..2], live("dead"), "{seen:?}");
    let seen = device.states("5s");
    assert!([11, 12].iter().all(|host| seen.contains(&(*host, "live".into()))), "{seen:?}");
}

#[test]
fn an_owner_of_leasehold_that_dies_is_replaced_by_sanlock() {
    let device = Device::ours(&["first"]);
    let theirs = Sanlock::start("theirs", T);
    theirs.join(&device.host(2));
    let (mut owner, version) = device.hold(1, &[], "first");
    theirs.await_state(&device.lockspace, 1, "LIVE", LONG);
    owner.signal(Signal::KILL);
    assert_eq!(owner.code(), 128 + 9);
    until("the end of the guard and the command", || device.mark.living().is_empty());

    let resource = device.resource("first", 3);
    let (_taken, at) = sanlock_holds_at_last(&theirs, &resource);
    in_time("sanlock", &device, 1, T, at);
    assert_eq!(device.leader(3).version.get(), version + 1);
    theirs.await_state(&device.lockspace, 1, "DEAD", LONG);
    let said = device.refused(3, &[], "first", 75);
    assert!(said.contains("held by host 2 (theirs) "), "{said}");
}

/// Two resources are shared by a host that dies. Each is then taken by one kind of host, and then by the other: sanlock
/// takes a dead sharer's block away altogether, also where it holds what only ours write.
#[test]
fn a_sharer_that_dies_is_replaced_by_either() {
    let device = Device::ours(&["first", "second"]);
    let resources = [("first", 3), ("second", 4)];
    // A block of the host id that will be the sharer's, with our extension.
    let [first, second] = resources.map(|(name, _)| device.take(1, &[], name));
    let (sharer, theirs) = (Sanlock::start("sharer", T), Sanlock::start("theirs", T));
    sharer.join(&device.host(1));
    theirs.join(&device.host(2));
    let _shared = resources.map(|(name, area)| device.sanlock_holds(&sharer, &device.shared(name, area)));
    sharer.kill();

    let mut ours = device.run(3, &["--wait", "forever"], "second");
    let (taken, at) = sanlock_holds_at_last(&theirs, &device.resource("first", 3));
    in_time("sanlock", &device, 1, T, at);
    let (at, version) = wait(&mut ours, LONG);
    in_time("leasehold", &device, 1, T, at);
    // Ours and the sharer's came before. An attempt of sanlock's that meets a sharer has owned it for a moment.
    assert_eq!(version, second + 2);
    let taken_at = device.leader(3).version.get();
    assert!(taken_at >= first + 2);
    let block = |area| device.sector(device.area(area) + device.geometry.block_offset(super::id(1)));
    assert!(block(3).iter().all(|byte| *byte == 0), "sanlock no longer clears a dead sharer's block: {:?}", block(3));

    drop(taken);
    assert_eq!(device.take(4, &["--wait", "30s"], "first"), taken_at + 1);
    assert_eq!(device.sanlock_takes(&theirs, &device.resource("second", 4)), Err(-243));
    ours.signal(Signal::TERM);
    ours.wait();
    device.sanlock_takes_at_last(&theirs, &device.resource("second", 4));
    let dumped = direct(&["dump", &format!("{}:0:{}", device.path(), device.area(5)), "-f", "1"]).said;
    assert!(!dumped.contains(" SH"), "{dumped}");
    device.leasehold(&["status", device.path()], 0);
}
