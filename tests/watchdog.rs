//! Watchdogs: fed while the host id is held, never after it, and switched off only in an orderly end. The device is a
//! stand-in ([`node`]); what the kernel makes of a real one was not tried.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod common;
#[path = "watchdog/node.rs"]
mod node;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use leasehold::disk::{BootClock, Clock, FaultDisk, MemoryDisk, Plan};
use leasehold::{
    Armed, FormatOptions, JoinError, JoinOptions, KernelWatchdog, LeaveError, Lockspace, Membership, Pace, ResumeError,
    SelfKill, Status, Time, Timeouts, Wait, Watchdog, WatchdogError,
};
use rustix::process::Signal;
use tempfile::TempDir;

use common::devices::join;
use common::processes::{self, Mark, Process};
use common::{PATIENCE, id, timeouts, until, until_some};
use node::{Account, CAN_SET_TIMEOUT, HAS_MAGIC_CLOSE, Model, Node};

/// G has two of the seconds that a device counts in.
fn slow() -> Timeouts {
    timeouts([200, 500, 3_000, 2_500, 5_500])
}

/// The same, with room for I/O that is slow for a while.
fn roomy() -> Timeouts {
    timeouts([200, 750, 5_000, 2_500, 7_500])
}

/// A device of its own, and a lockspace in memory with a path to it that can hang.
struct Scene {
    folder: TempDir,
    node: Node,
    disk: MemoryDisk,
    path: Arc<FaultDisk>,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(Model::default(), slow())
    }

    fn with(model: Model, timeouts: Timeouts) -> Scene {
        let folder = common::devices::folder();
        let node = Node::new(folder.path(), model);
        let disk = MemoryDisk::new(8 << 20, None);
        let options = FormatOptions { timeouts, ..FormatOptions::default() };
        leasehold::format(Arc::new(disk.reopen()), &options).unwrap();
        let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
        Scene { folder, node, disk, path }
    }

    fn watchdog(&self) -> KernelWatchdog {
        KernelWatchdog::new(&self.node.path).marks(self.marks())
    }

    fn marks(&self) -> PathBuf {
        self.folder.path().join("marks")
    }

    fn join(&self, options: impl Fn() -> JoinOptions) -> Result<Membership, JoinError> {
        common::join(&Lockspace::open(self.path.clone()).unwrap(), || options().host_id(id(1)))
    }

    /// As most tests do it.
    fn watched(&self) -> Result<Membership, JoinError> {
        self.join(|| JoinOptions::new().watchdog(self.watchdog()))
    }

    /// Asserts that it is not fed after a loss, but by who had looked before that. Returns what became of it.
    fn assert_not_fed(&self) -> Account {
        let lost = self.node.account();
        let looks = [(); 2].map(|()| {
            // Twice the time from one feeding to the next, and more.
            thread::sleep(Duration::from_millis(600));
            self.node.account()
        });
        // One feeding sets it and keeps it alive.
        assert!(looks[0].feedings <= lost.feedings + 2, "it was fed after the loss");
        assert_eq!(looks[1].fed, looks[0].fed, "it was fed after the loss");
        looks[1]
    }

    /// The device is off, nothing marks it, and the host id is anybody's.
    fn assert_left(&self) {
        self.node.await_closed();
        assert_eq!(self.node.account().fires_at(), None, "it counts on");
        assert!(!self.node.account().fired);
        let marks = fs::read_dir(self.marks()).into_iter().flatten();
        assert_eq!(marks.count(), 0, "a mark was left");
        let hosts = Lockspace::open(Arc::new(self.disk.reopen())).unwrap().hosts(Duration::ZERO).unwrap();
        assert_eq!(hosts[0].timestamp, 0, "the host id was not given back");
    }
}

#[test]
fn it_counts_from_the_join_on_and_is_switched_off_by_leaving() {
    let scene = Scene::new();
    let membership = scene.watched().unwrap();
    let joined = scene.node.account();
    assert!(joined.counts && joined.feedings > 0, "{joined:?}");
    // Longer than any time that it is set to.
    let fail = slow().fail() + slow().fence();
    until("a while", || scene.node.account().fed.unwrap().since(joined.fed.unwrap()) > fail / 2);
    assert_eq!(membership.watchdog_trouble().map(|error| error.to_string()), None);
    assert!(matches!(membership.disarm_watchdog(), Err(WatchdogError::StillHeld)));
    assert!(scene.node.account().counts, "it was switched off while the host id is held");
    membership.leave().unwrap();
    scene.assert_left();
}

/// A loss by the deadline: what it was set to last fires by the deadline + G, and not before the deadline.
#[test]
fn it_is_not_fed_after_the_loss() {
    // It fires long after the deadline, and this process has that long to switch it off.
    let timeouts = timeouts([200, 500, 2_000, 8_500, 10_500]);
    let scene = Scene::with(Model::default(), timeouts);
    let (sender, told) = channel();
    let options = || {
        let sender = sender.clone();
        JoinOptions::new().watchdog(scene.watchdog()).on_status(move |status| {
            let _ = sender.send(status.clone());
        })
    };
    let membership = scene.join(options).unwrap();
    scene.path.set_rule(|request| if request.is_write() && request.offset == 0 { Plan::Hold } else { Plan::Pass });
    let mut deadline = Time::ZERO;
    while let Status::Held { until } | Status::Late { until } = told.recv_timeout(PATIENCE).unwrap() {
        deadline = until;
    }
    let lost = scene.assert_not_fed();
    let fires = lost.fires_at().unwrap();
    assert!(fires > deadline, "it fires before the deadline");
    assert!(fires <= deadline + timeouts.fence(), "it fires {:?} after the deadline", fires.since(deadline));
    // A machine that is this slow would have been reset.
    if BootClock.now() + Duration::from_secs(1) < fires {
        membership.disarm_watchdog().unwrap();
        scene.node.await_closed();
        assert_eq!(scene.node.account().fires_at(), None);
    }
    scene.path.clear_rule();
    scene.path.release();
}

/// A loss long before the deadline: nothing else than the loss keeps it from being fed.
#[test]
fn it_is_not_fed_when_the_host_id_is_somebody_elses() {
    let scene = Scene::with(Model::default(), timeouts([200, 500, 30_000, 2_500, 32_500]));
    let membership = scene.watched().unwrap();
    // A renewal that has read already writes over it: until one reads it.
    until("the loss", || {
        scene.disk.edit(|bytes| bytes[..512].fill(7));
        matches!(membership.status(), Status::Lost { .. })
    });
    scene.assert_not_fed();
    membership.disarm_watchdog().unwrap();
    scene.node.await_closed();
    assert_eq!(scene.node.account().fires_at(), None);
}

/// After it may have fired nothing is written to it any more, nor is it closed: either would put the reset off.
#[test]
fn it_is_not_switched_off_when_it_may_have_fired() {
    let scene = Scene::new();
    let mark = Mark::new();
    let words = [&scene.node.path, &scene.marks()].map(|path| path.to_str().unwrap().to_string());
    let mut process = Process::start(&mut processes::worker(&["too-late", &words[0], &words[1]]), &mark);
    until("the feeding", || process.said().contains("fed"));
    let fires = scene.node.account().fires_at();
    until("the attempts", || process.said().contains("refused") || process.ended().is_some());
    assert!(process.said().contains("refused"), "{}", process.complained());
    let account = scene.node.account();
    assert!(account.open && account.fires_at() == fires, "{account:?}");
    let again = Box::new(scene.watchdog()).start(&slow()).err().unwrap();
    assert!(matches!(again, WatchdogError::InUse { .. }), "{again}");
}

/// The time counts that the device has taken, not the one that it was asked for.
#[test]
fn one_that_counts_less_than_it_was_asked_to_is_not_switched_off_when_it_may_have_fired() {
    let scene = Scene::with(Model { takes: |asked| if asked == 2 { 1 } else { asked }, ..Model::default() }, slow());
    let mark = Mark::new();
    let words = [&scene.node.path, &scene.marks()].map(|path| path.to_str().unwrap().to_string());
    let mut process = Process::start(&mut processes::worker(&["hasty", &words[0], &words[1]]), &mark);
    until("the attempt", || process.said().contains("refused") || process.ended().is_some());
    assert!(process.said().contains("refused"), "{}", process.complained());
    let account = scene.node.account();
    assert!(account.open && account.timeout == Duration::from_secs(1), "{account:?}");
}

/// What a process goes on with is watched over again: by the same device, once its predecessor has switched that off.
#[test]
fn a_resumed_membership_is_watched_over() {
    let scene = Scene::with(Model::default(), timeouts([200, 500, 20_000, 2_500, 22_500]));
    let options = || JoinOptions::new().machine("the one").watchdog(scene.watchdog());
    let membership = scene.join(options).unwrap();
    let resource = membership.create("demo", Wait::For(PATIENCE)).unwrap();
    let lease = membership.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    until("a renewal", || membership.renewal_latencies().len() > 1);
    let token = membership.detach().unwrap();
    let lockspace = Lockspace::open(Arc::new(scene.disk.reopen())).unwrap();
    let refused = common::resume(&lockspace, &token, options).unwrap_err();
    assert!(matches!(refused, ResumeError::Watchdog(WatchdogError::InUse { .. })), "{refused}");
    let left = scene.node.account();
    assert!(left.counts && left.opened == 1, "{left:?}");
    membership.disarm_watchdog().unwrap();
    scene.node.await_closed();
    let mut resumed = common::resume(&lockspace, &token, options).unwrap();
    let begun = scene.node.account();
    assert!(begun.counts && begun.opened == 2 && begun.feedings > left.feedings, "{begun:?}");
    let held = resumed.leases.pop().unwrap();
    assert!(held.is_held() && held.version() == lease.version());
    until("a feeding", || scene.node.account().feedings > begun.feedings);
    held.release().unwrap();
    resumed.membership.leave().unwrap();
    scene.assert_left();
}

/// Scenario 16. With the mark taken out, the second process opens the device, and its orderly end cancels the reset.
#[test]
fn a_restarted_process_does_not_cancel_a_pending_reset() {
    let scene = Scene::new();
    let device = scene.folder.path().join("disk");
    common::devices::lockspace(&device, roomy());
    let mark = Mark::new();
    let words = [device.as_path(), &scene.node.path, &scene.marks()].map(|path| path.to_str().unwrap().to_string());
    let mut process = Process::start(&mut processes::worker(&["watched", &words[0], &words[1], &words[2]]), &mark);
    until("the join", || process.said().contains("joined") || process.ended().is_some());
    assert!(process.ended().is_none(), "{}", process.complained());
    let second = || Box::new(scene.watchdog()).start(&slow()).err().unwrap();
    assert!(matches!(second(), WatchdogError::InUse { .. }));
    process.signal(Signal::KILL);
    process.wait();
    scene.node.await_closed();
    let left = scene.node.account();
    let fires = left.fires_at().expect("an end that is not orderly switched it off");
    // Its last renewal had started before it was killed.
    assert!(fires <= BootClock.now() + roomy().fail() + roomy().fence());
    for _ in 0..2 {
        let error = second();
        assert!(matches!(error, WatchdogError::ResetPending { .. }), "{error}");
    }
    let joined = scene.watched();
    assert!(matches!(joined, Err(JoinError::Watchdog(WatchdogError::ResetPending { .. }))));
    let now = scene.node.account();
    assert_eq!((now.opened, now.fed), (left.opened, left.fed), "the pending reset was put off");
}

/// Not a test: what this program does in the processes that the tests start.
#[test]
fn worker() {
    let Some(task) = processes::task() else { return };
    match task.split('\n').collect::<Vec<_>>()[..] {
        ["watched", device, node, marks] => {
            let watchdog = || KernelWatchdog::new(node).marks(marks);
            let _membership = join(Path::new(device), || JoinOptions::new().watchdog(watchdog()));
            println!("\njoined");
            thread::sleep(PATIENCE);
        }
        ["too-late", node, marks] => {
            let mut armed = Box::new(KernelWatchdog::new(node).marks(marks)).start(&slow()).unwrap();
            armed.feed(BootClock.now() + Duration::from_millis(500)).unwrap();
            println!("\nfed");
            thread::sleep(slow().fence());
            assert!(matches!(armed.feed(BootClock.now()), Err(WatchdogError::TooLate { .. })));
            assert!(matches!(armed.disarm(), Err(WatchdogError::TooLate { .. })));
            println!("\nrefused");
            thread::sleep(PATIENCE);
        }
        ["hasty", node, marks] => {
            let timeouts = timeouts([200, 250, 4_000, 2_500, 6_500]);
            let mut armed = Box::new(KernelWatchdog::new(node).marks(marks)).start(&timeouts).unwrap();
            // Half of what is left until G after it.
            armed.feed(BootClock.now() + Duration::from_secs(2)).unwrap();
            thread::sleep(Duration::from_secs(1));
            assert!(matches!(armed.disarm(), Err(WatchdogError::TooLate { .. })));
            println!("\nrefused");
            thread::sleep(PATIENCE);
        }
        ["mortal", device, end] => {
            let membership = join(Path::new(device), || JoinOptions::new().watchdog(SelfKill::new()));
            let mut status = membership.status();
            while !Path::new(end).exists() {
                if let Status::Held { until } | Status::Late { until } = &status {
                    println!("\nuntil {}", until.as_nanos());
                }
                status = membership.status_change(&status, Duration::from_millis(50));
            }
            // A busy machine may keep the last write from being confirmed.
            let left = membership.leave();
            assert!(matches!(left, Ok(()) | Err(LeaveError::InFlight { .. })), "{left:?}");
            println!("\nleft");
            // It would be killed in this time, were the timer still set.
            let timeouts = membership.lockspace().timeouts();
            thread::sleep(timeouts.fail() + timeouts.fence());
        }
        _ => panic!("no such task: {task:?}"),
    }
}

/// A watchdog whose feedings hang once they are told to.
#[derive(Clone, Default)]
struct Hanging(Arc<(AtomicBool, AtomicBool)>);

impl Watchdog for Hanging {
    fn start(self: Box<Self>, _: &Timeouts) -> Result<Box<dyn Armed>, WatchdogError> {
        Ok(self)
    }
}

impl Armed for Hanging {
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_millis(20), earliest: Duration::from_secs(1) }
    }

    fn feed(&mut self, _: Time) -> Result<(), WatchdogError> {
        let (hang, hangs) = &*self.0;
        while hang.load(Ordering::Relaxed) {
            hangs.store(true, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn disarm(self: Box<Self>) -> Result<(), WatchdogError> {
        Ok(())
    }
}

/// A feeding that hangs in the device keeps nobody from the lease, its renewals, or leaving.
#[test]
fn a_device_that_hangs_holds_up_nothing_else() {
    let disk = common::memory::formatted(timeouts([200, 500, 20_000, 2_500, 22_500]));
    let hanging = Hanging::default();
    let options = || JoinOptions::new().host_id(id(1)).watchdog(hanging.clone());
    let membership = common::join(&Lockspace::open(Arc::new(disk.reopen())).unwrap(), options).unwrap();
    let (hang, hangs) = &*hanging.0;
    hang.store(true, Ordering::Relaxed);
    until("a feeding that hangs", || hangs.load(Ordering::Relaxed));
    let renewals = membership.renewal_latencies().len();
    until("further renewals", || membership.renewal_latencies().len() >= renewals + 3);
    let resource = membership.create("demo", Wait::For(PATIENCE)).unwrap();
    membership.acquire(&resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
    let left = membership.leave();
    assert!(matches!(left, Err(LeaveError::Watchdog(WatchdogError::Stuck))), "{left:?}");
    let hosts = Lockspace::open(Arc::new(disk.reopen())).unwrap().hosts(Duration::ZERO).unwrap();
    assert_eq!(hosts[0].timestamp, 0, "the host id was not given back");
    hang.store(false, Ordering::Relaxed);
}

#[test]
fn a_device_that_will_not_do_fails_the_join_and_leaves_nothing_behind() {
    let refused = |model: Model, timeouts: Timeouts| {
        let scene = Scene::with(model, timeouts);
        let joined = scene.watched();
        let Err(JoinError::Watchdog(error)) = joined else { panic!("{joined:?}") };
        scene.assert_left();
        (error, scene.node.account().opened)
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let (error, opened) = refused(Model::default(), timeouts([200, 750, 5_000, 500, 5_500]));
            assert!(matches!(error, WatchdogError::TooCoarse { .. }), "{error}");
            assert_eq!(opened, 0);
        });
        scope.spawn(|| {
            let (error, _) = refused(Model { options: CAN_SET_TIMEOUT, ..Model::default() }, roomy());
            assert!(matches!(error, WatchdogError::Unsupported { what: "orderly close", .. }), "{error}");
        });
        scope.spawn(|| {
            let (error, _) = refused(Model { options: HAS_MAGIC_CLOSE, ..Model::default() }, roomy());
            assert!(matches!(error, WatchdogError::Unsupported { .. }), "{error}");
        });
        scope.spawn(|| {
            // It counts minutes.
            let (error, _) = refused(Model { takes: |asked| asked.next_multiple_of(60), ..Model::default() }, roomy());
            assert!(matches!(error, WatchdogError::Timeout { got: Some(_), .. }), "{error}");
        });
        scope.spawn(|| {
            // It would fire while the host id is held.
            let (error, _) = refused(Model { takes: |asked| asked.min(1), ..Model::default() }, roomy());
            let got = Duration::from_secs(1);
            assert!(matches!(error, WatchdogError::Timeout { got: Some(is), .. } if is == got), "{error}");
        });
    });
}

#[test]
fn what_is_no_watchdog_is_refused() {
    let folder = common::devices::folder();
    let start = |path: &Path| Box::new(KernelWatchdog::new(path).marks(folder.path())).start(&slow()).err().unwrap();
    let file = folder.path().join("file");
    assert!(matches!(start(&file), WatchdogError::Open { .. }));
    fs::write(&file, "as it was").unwrap();
    for _ in 0..2 {
        assert!(matches!(start(&file), WatchdogError::NotAWatchdog { .. }));
    }
    assert_eq!(processes::read(&file), "as it was");
    assert!(matches!(start(Path::new("/dev/null")), WatchdogError::NotAWatchdog { .. }));
    assert!(matches!(start(folder.path()), WatchdogError::Open { .. }));
}

/// The kernel kills a process that is stopped too, and none that has left.
#[test]
fn a_process_that_kills_itself_is_gone_in_time_though_it_is_stopped() {
    // Three quarters of G are what a busy machine may take to feed it.
    let timeouts = timeouts([100, 500, 2_500, 2_500, 5_000]);
    let folder = common::devices::folder();
    let device = folder.path().join("disk");
    common::devices::lockspace(&device, timeouts);
    let mark = Mark::new();
    let start = |end: &str| {
        let end = folder.path().join(end);
        let mut worker = processes::worker(&["mortal", device.to_str().unwrap(), end.to_str().unwrap()]);
        (Process::start(&mut worker, &mark), end)
    };
    let (mut stopped, _) = start("never");
    let (mut leaver, end) = start("now");
    let deadline = |process: &Process| {
        let said = process.said();
        said.lines().filter_map(|line| line.strip_prefix("until ")?.parse().ok()).next_back().map(Time::from_nanos)
    };
    for process in [&mut stopped, &mut leaver] {
        let first = until_some("a deadline", || deadline(process).or_else(|| process.ended().map(|_| Time::ZERO)));
        let renewed = |process: &Process| deadline(process) > Some(first + timeouts.renewal());
        until("some renewals", || renewed(process) || process.ended().is_some());
        assert!(process.ended().is_none(), "{}", process.complained());
    }
    stopped.signal(Signal::STOP);
    fs::write(end, "").unwrap();
    assert_eq!(stopped.code(), 128 + 9);
    let died = BootClock.now();
    // The last renewal may not have been told, but none came after the stop.
    assert!(died >= deadline(&stopped).unwrap(), "killed before the deadline");
    assert_eq!(leaver.code(), 0, "{}", leaver.complained());
    assert!(leaver.said().contains("left"));
}
