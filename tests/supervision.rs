//! Programs that end because their lease does: real processes, in groups and cgroups, under the library's supervision.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::disk::{BootClock, Clock, FaultDisk, MemoryDisk, Plan};
use leasehold::{
    AcquireOptions, FormatOptions, JoinOptions, Lease, LeaseMode, Lockspace, LossReason, Membership, Protected, Scope,
    Status, Step, SuperviseError, Supervision, Time, Timeouts, Wait,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tempfile::TempDir;

use common::devices::text;
use common::processes::{self, Mark, Process, command_line};
use common::{PATIENCE, timeouts, until};

/// Lost four seconds after the last renewal; there is room for a busy machine between the steps.
fn brief() -> Timeouts {
    timeouts([100, 250, 4_000, 5_000, 9_000])
}

/// Not lost by the deadline while a test runs.
fn lasting() -> Timeouts {
    timeouts([100, 500, 50_000, 3_000, 53_000])
}

/// The same, with more room for a program that is to end before it is killed.
fn patient() -> Timeouts {
    timeouts([100, 500, 50_000, 8_000, 58_000])
}

/// The same, where no program has to get anywhere between SIGTERM and SIGKILL.
fn hasty() -> Timeouts {
    timeouts([100, 500, 50_000, 600, 50_600])
}

/// A host whose path to the disk can hang, and a folder in which its programs leave files.
struct Scene {
    path: Arc<FaultDisk>,
    disk: MemoryDisk,
    membership: Membership,
    folder: TempDir,
    mark: Mark,
}

impl Scene {
    fn new(timeouts: Timeouts) -> Scene {
        let disk = MemoryDisk::new(8 << 20, None);
        let options = FormatOptions { timeouts, ..FormatOptions::default() };
        leasehold::format(Arc::new(disk.reopen()), &options).unwrap();
        let path = Arc::new(FaultDisk::new(Arc::new(disk.reopen())));
        let membership = common::join(&Lockspace::open(path.clone()).unwrap(), JoinOptions::new).unwrap();
        Scene { path, disk, membership, folder: common::devices::folder(), mark: Mark::new() }
    }

    fn script(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(self.folder.path()).process_group(0);
        self.mark.put_on(&mut command);
        command
    }

    /// A script, once it has written the file `ready`.
    fn start(&self, script: &str) -> Child {
        self.start_in("", script)
    }

    /// The same, in a folder of its own.
    fn start_in(&self, folder: &str, script: &str) -> Child {
        let folder = self.folder.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        let child = self.script(script).current_dir(&folder).spawn().unwrap();
        until("the program", || folder.join("ready").exists());
        child
    }

    /// Asserts that the program in that folder, which is [`STUBBORN`], was not asked to end: it answers, and would have
    /// heard of that first.
    #[track_caller]
    fn was_left_alone(&self, folder: &str) {
        let file = |name: &str| self.folder.path().join(folder).join(name);
        fs::write(file("ping"), "").unwrap();
        until("an answer of the program", || file("pong").exists());
        assert!(!file("term").exists(), "it was asked to end");
    }

    fn lease(&self, name: &str, mode: LeaseMode) -> Lease {
        let wait = Wait::For(PATIENCE);
        let resource = self.membership.create(name, wait).unwrap();
        self.membership.acquire(&resource, AcquireOptions::new().mode(mode).wait(wait)).unwrap()
    }

    /// Another host takes what this one holds.
    fn take(&self, lease: &Lease) -> (Membership, Lease) {
        let other = common::join(&Lockspace::open(Arc::new(self.disk.reopen())).unwrap(), JoinOptions::new).unwrap();
        let taken = other.take(lease.resource(), lease.version(), Wait::For(PATIENCE)).unwrap();
        (other, taken.lease)
    }

    fn supervise(&self, child: &Child, scope: Scope) -> Supervision {
        self.membership.supervise(Protected::new(child.id()).scope(scope)).unwrap()
    }

    fn exists(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }

    /// No renewal is confirmed any more: lost at the deadline.
    fn hang(&self) {
        self.path.set_rule(|request| if request.is_write() { Plan::Hold } else { Plan::Pass });
    }

    /// A renewal finds something else than the own record: lost at once.
    fn overwrite(&self) {
        let geometry = self.membership.lockspace().geometry();
        let at = usize::try_from(geometry.delta_offset(self.membership.owner().host)).unwrap();
        // A renewal that has read already writes over it: until one reads it.
        until("the loss", || {
            self.disk.edit(|bytes| bytes[at..at + 512].fill(7));
            matches!(self.membership.status(), Status::Lost { .. })
        });
    }

    fn running(&self, words: &str) -> bool {
        self.mark.living().iter().any(|pid| command_line(*pid) == words)
    }
}

/// Leaves a file when it is asked to end, and doesn't end. Answers when it is asked whether it lives.
const STUBBORN: &str =
    "trap 'echo > term' TERM; echo > ready; while :; do if test -e ping; then echo > pong; fi; sleep 0.02; done";
/// Ends when it is asked to.
const OBEDIENT: &str = "trap 'exit 5' TERM; echo > ready; while :; do sleep 0.02; done";
/// Ends when it is asked to; what it starts does what it can to get away.
const ESCAPERS: &str = "
    (setsid sleep 1001 &)
    (setsid sh -c 'trap \"\" TERM HUP; exec sleep 1002' &)
    echo > ready
    exec sleep 1003";
const SLEEPERS: [&str; 3] = ["sleep 1001", "sleep 1002", "sleep 1003"];

/// All that the script [`ESCAPERS`] started.
fn escaped(scene: &Scene) {
    for words in SLEEPERS {
        until(words, || scene.running(words));
    }
}

#[test]
fn a_program_is_warned_then_asked_then_killed_when_no_renewal_is_confirmed() {
    let scene = Scene::new(brief());
    let mut child = scene.start(STUBBORN);
    let (sender, told) = channel();
    let program = Protected::new(child.id()).on_step(move |step| {
        let _ = sender.send((step, BootClock.now()));
    });
    let supervision = scene.membership.supervise(program).unwrap();
    scene.hang();
    let mut deadline = scene.membership.status();
    while let Status::Held { until } | Status::Late { until } = deadline {
        deadline = scene.membership.status_change(&Status::Held { until }, PATIENCE);
    }
    until("being asked", || scene.exists("term") || supervision.reached() == Some(Step::Kill));
    assert!(scene.exists("term"), "it was killed and not asked");
    assert!(supervision.wait(PATIENCE));
    assert_eq!(supervision.reached(), Some(Step::Kill));
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let steps: Vec<(Step, Time)> = told.into_iter().collect();
    assert_eq!(steps.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [Step::Warn, Step::Terminate, Step::Kill]);
    assert!(steps.is_sorted_by_key(|(_, at)| *at));
    scene.path.clear_rule();
    scene.path.release();
}

#[test]
fn a_program_is_left_alone_while_renewals_are_confirmed() {
    let scene = Scene::new(brief());
    let mut child = scene.start(STUBBORN);
    let (sender, told) = channel();
    let program = Protected::new(child.id()).on_step(move |step| sender.send(step).unwrap_or_default());
    let supervision = scene.membership.supervise(program).unwrap();
    let begun = BootClock.now();
    until("the deadline that it began with", || BootClock.now() > begun + brief().fail());
    scene.was_left_alone("");
    // A renewal that a busy machine holds up is late, no more.
    assert!(told.try_iter().all(|step| step == Step::Warn), "a step without need");
    supervision.end(Duration::ZERO);
    assert!(supervision.wait(PATIENCE));
    child.wait().unwrap();
}

/// Long before the deadline. A callback that never returns keeps no step from being taken.
#[test]
fn a_program_is_ended_as_soon_as_the_host_id_is_somebody_elses() {
    let scene = Scene::new(patient());
    let mut child = scene.start(OBEDIENT);
    let Status::Held { until: deadline } = scene.membership.status() else { panic!("late already") };
    let program = Protected::new(child.id()).on_step(|_| thread::sleep(PATIENCE));
    let supervision = scene.membership.supervise(program).unwrap();
    scene.overwrite();
    assert!(supervision.wait(PATIENCE));
    assert!(BootClock.now() < deadline, "it waited for the deadline");
    assert_eq!(supervision.reached(), Some(Step::Terminate));
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

/// Scenario 37: with steps taken in turn the program would be asked first, and given time for it.
#[test]
fn a_supervisor_that_was_stopped_kills_at_once() {
    let (mark, folder) = (Mark::new(), common::devices::folder());
    let mut manager = Process::start(processes::worker(&["manage"]).current_dir(folder.path()), &mark);
    until("the program", || manager.said().contains("supervised") || manager.ended().is_some());
    manager.signal(Signal::STOP);
    // A thread may go on for a moment, and renew.
    until("the stop", || manager.is_stopped());
    let over = BootClock.now() + managed().fail() + managed().fence();
    until("the time in which all must be gone", || BootClock.now() > over);
    manager.signal(Signal::CONT);
    until("the end of the program", || manager.said().contains("gone") || manager.ended().is_some());
    assert!(manager.said().contains("gone Some(Kill)"), "{} {}", manager.said(), manager.complained());
    assert!(!folder.path().join("term").exists(), "it was asked to end when it had to be dead");
}

/// Not a test: what this program does in the processes that the tests start.
#[test]
fn worker() {
    let Some(task) = processes::task() else { return };
    match task.split('\n').collect::<Vec<_>>()[..] {
        ["manage"] => manage(),
        ["starve"] => starve(),
        _ => panic!("no such task: {task:?}"),
    }
}

fn managed() -> Timeouts {
    timeouts([100, 500, 3_000, 1_000, 4_000])
}

fn manage() {
    let scene = Scene::new(managed());
    let mut child = Command::new("sh").args(["-c", STUBBORN]).spawn().unwrap();
    until("the program", || Path::new("ready").exists());
    let supervision = scene.membership.supervise(Protected::new(child.id())).unwrap();
    println!("\nsupervised");
    while !supervision.wait(PATIENCE) {}
    println!("\ngone {:?}", supervision.reached());
    child.wait().unwrap();
}

/// Supervises two programs whose first process ends while another one lives on, and can open no file then.
fn starve() {
    let scene = Scene::new(lasting());
    let cgroup = Cgroup::new(scene.mark.name());
    let script = |before: &str| format!("{before} (trap '' TERM; exec sleep 1001) & echo > ready; exec sleep 1003");
    let join = format!("echo $$ > {};", text(&cgroup.0.join("cgroup.procs")));
    let mut children = [scene.start_in("group", &script("")), scene.start_in("cgroup", &script(&join))];
    let scopes = [Scope::Group, Scope::Cgroup(cgroup.0.clone())];
    let supervisions: Vec<Supervision> =
        children.iter().zip(scopes).map(|(child, scope)| scene.supervise(child, scope)).collect();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limit }).unwrap();
    for child in &mut children {
        child.kill().unwrap();
    }
    let gone: Vec<bool> = supervisions.iter().map(|supervision| supervision.wait(Duration::from_millis(500))).collect();
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(gone, [false, false], "it was taken for gone");
    assert!(supervisions.iter().all(|supervision| supervision.wait(PATIENCE)));
    for child in &mut children {
        child.wait().unwrap();
    }
    println!("\nstarved");
}

#[test]
fn nothing_escapes_from_a_cgroup() {
    let scene = Scene::new(lasting());
    let cgroup = Cgroup::new(scene.mark.name());
    let mut child = scene.start(&format!("echo $$ > {}; {ESCAPERS}", text(&cgroup.0.join("cgroup.procs"))));
    escaped(&scene);
    let supervision = scene.supervise(&child, Scope::Cgroup(cgroup.0.clone()));
    scene.overwrite();
    assert!(supervision.wait(PATIENCE));
    assert_eq!(scene.mark.living(), Vec::<i32>::new());
    child.wait().unwrap();
}

#[test]
fn what_a_program_leaves_in_its_cgroup_ends_after_it() {
    let scene = Scene::new(lasting());
    let cgroup = Cgroup::new(scene.mark.name());
    let script = format!("echo $$ > {}; {}", text(&cgroup.0.join("cgroup.procs")), ESCAPERS.replace("exec", ""));
    let mut child = scene.start(&script);
    escaped(&scene);
    let supervision = scene.supervise(&child, Scope::Cgroup(cgroup.0.clone()));
    common::processes::signal_process(child.id() as i32, Signal::KILL);
    assert!(supervision.wait(PATIENCE));
    assert_eq!(scene.mark.living(), Vec::<i32>::new());
    child.wait().unwrap();
    assert!(matches!(scene.membership.status(), Status::Held { .. }));
}

#[test]
fn a_process_group_ends_with_its_leader() {
    let scene = Scene::new(lasting());
    let mut child = scene
        .start("(trap '' TERM HUP; sleep 1001) & (trap '' TERM; exec sleep 1002) & echo > ready; sleep 1003; exit");
    escaped(&scene);
    let supervision = scene.supervise(&child, Scope::Group);
    common::processes::signal_process(child.id() as i32, Signal::KILL);
    assert!(supervision.wait(PATIENCE));
    assert_eq!(scene.mark.living(), Vec::<i32>::new());
    child.wait().unwrap();
}

/// Of the witnesses one stands beside the program that is ended, in its process group; the other one was supervised.
#[test]
fn nothing_else_ends_with_a_program() {
    let (lost, kept) = (Scene::new(hasty()), Scene::new(hasty()));
    let mut doomed = lost.start(STUBBORN);
    let mut beside = kept.script(STUBBORN);
    let mut beside = beside.process_group(doomed.id() as i32).spawn().unwrap();
    until("the witness", || kept.exists("ready"));
    let over = lost.supervise(&doomed, Scope::Process);
    let goes_on = kept.supervise(&beside, Scope::Process);
    lost.overwrite();
    assert!(over.wait(PATIENCE));
    doomed.wait().unwrap();
    kept.was_left_alone("");
    assert_eq!(goes_on.reached(), None);
    // No longer the supervision's business: a loss ends it no more, but what is supervised still.
    let mut doomed = kept.start_in("doomed", STUBBORN);
    let over = kept.supervise(&doomed, Scope::Process);
    goes_on.stop();
    fs::remove_file(kept.folder.path().join("pong")).unwrap();
    kept.overwrite();
    assert!(over.wait(PATIENCE));
    doomed.wait().unwrap();
    kept.was_left_alone("");
    let again = kept.membership.supervise(Protected::new(beside.id()));
    assert!(matches!(again, Err(SuperviseError::Lost(_))), "{again:?}");
    beside.kill().unwrap();
    beside.wait().unwrap();
}

/// Long before the deadline, and the membership goes on with its other leases and programs.
#[test]
fn a_program_ends_when_its_lease_is_taken_by_force() {
    let scene = Scene::new(patient());
    let mut leases = ["taken", "kept"].map(|name| scene.lease(name, LeaseMode::Shared));
    let mut children = [("taken", OBEDIENT), ("kept", STUBBORN), ("other", STUBBORN)]
        .map(|(name, script)| scene.start_in(name, script));
    let program = |of: usize| Protected::new(children[of].id());
    let [taken, kept] = [0, 1].map(|of| leases[of].supervise(program(of)).unwrap());
    let other = scene.membership.supervise(program(2)).unwrap();
    // A conversion changes the version, but not what the program depends on.
    for mode in [LeaseMode::Exclusive, LeaseMode::Shared, LeaseMode::Exclusive] {
        for lease in &mut leases {
            let version = lease.version();
            lease.convert(mode, Wait::For(PATIENCE)).unwrap();
            assert_eq!(lease.version() > version, mode == LeaseMode::Exclusive);
        }
    }
    assert_eq!(taken.reached(), None);
    let Status::Held { until: deadline } = leases[0].status() else { panic!("late already") };
    let by = scene.take(&leases[0]);
    assert!(taken.wait(PATIENCE));
    assert!(BootClock.now() < deadline, "it waited for the deadline");
    assert_eq!(children[0].wait().unwrap().code(), Some(5));
    assert!(matches!(leases[0].status(), Status::Lost { reason: LossReason::Fenced(_) }));
    let again = leases[0].supervise(Protected::new(children[1].id()));
    assert!(matches!(again, Err(SuperviseError::Lost(LossReason::Fenced(_)))), "{again:?}");
    for folder in ["kept", "other"] {
        scene.was_left_alone(folder);
    }
    assert_eq!((kept.reached(), other.reached()), (None, None));
    // Who gives up a lease before its program has ended ends it.
    let [_, lease] = leases;
    lease.release().unwrap();
    assert!(kept.wait(PATIENCE));
    assert!(BootClock.now() < deadline, "it waited for the deadline");
    assert_eq!(children[1].wait().unwrap().signal(), Some(9));
    assert_eq!(other.reached(), None);
    other.end(Duration::ZERO);
    assert!(other.wait(PATIENCE));
    children[2].wait().unwrap();
    drop(by);
}

/// The host id is renewed, but whether the lease was taken can't be looked at: it has a deadline of its own.
#[test]
fn a_program_is_warned_then_asked_then_killed_when_its_lease_can_not_be_verified() {
    let scene = Scene::new(brief());
    let lease = scene.lease("demo", LeaseMode::Exclusive);
    let mut child = scene.start(STUBBORN);
    let (sender, told) = channel();
    let program = Protected::new(child.id()).on_step(move |step| sender.send(step).unwrap_or_default());
    let supervision = lease.supervise(program).unwrap();
    let area = lease.resource().offset();
    scene.path.set_rule(move |request| if request.offset >= area { Plan::Hold } else { Plan::Pass });
    assert!(supervision.wait(PATIENCE));
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [Step::Warn, Step::Terminate, Step::Kill]);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(scene.exists("term"), "it was killed and not asked");
    assert!(matches!(lease.status(), Status::Lost { reason: LossReason::Unverified { .. } }));
    assert!(matches!(scene.membership.status(), Status::Held { .. }));
    scene.path.clear_rule();
    scene.path.release();
}

/// While this process can't open another file it can't know what is left of a program.
#[test]
fn what_can_not_be_read_is_not_gone() {
    let folder = common::devices::folder();
    let mark = Mark::new();
    let mut process = Process::start(processes::worker(&["starve"]).current_dir(folder.path()), &mark);
    assert_eq!(process.code(), 0, "{} {}", process.said(), process.complained());
    assert!(process.said().contains("starved"));
}

/// A folder is no name for what was in it: another one may have it by now.
#[test]
fn a_cgroup_that_was_made_anew_is_another_one() {
    let scene = Scene::new(lasting());
    let cgroup = Cgroup::new(scene.mark.name());
    let mut child = scene.start(&format!("echo $$ > {}; {STUBBORN}", text(&cgroup.0.join("cgroup.procs"))));
    let supervision = scene.supervise(&child, Scope::Cgroup(cgroup.0.clone()));
    // Its only process moves out, and another one moves in.
    fs::write(cgroup.0.parent().unwrap().join("cgroup.procs"), child.id().to_string()).unwrap();
    until("an empty cgroup", || fs::remove_dir(&cgroup.0).is_ok());
    fs::create_dir(&cgroup.0).unwrap();
    let mut stranger =
        scene.start_in("stranger", &format!("echo $$ > {}; {STUBBORN}", text(&cgroup.0.join("cgroup.procs"))));
    supervision.end(Duration::ZERO);
    assert!(supervision.wait(PATIENCE));
    child.wait().unwrap();
    scene.was_left_alone("stranger");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn what_cannot_be_supervised_is_refused() {
    let scene = Scene::new(lasting());
    let cgroup = Cgroup::new(scene.mark.name());
    let mut child = scene.start(STUBBORN);
    let mut member = Command::new("sleep");
    scene.mark.put_on(&mut member);
    let mut member = member.arg("1001").spawn().unwrap();
    let refused = |pid: u32, scope: Scope| scene.membership.supervise(Protected::new(pid).scope(scope)).err().unwrap();
    let own = std::process::id();
    assert!(matches!(refused(own, Scope::Process), SuperviseError::OwnProcess));
    assert!(matches!(refused(0, Scope::Process), SuperviseError::NotFound { pid: 0 }));
    assert!(matches!(refused(member.id(), Scope::Group), SuperviseError::NotALeader { .. }));
    let folder = |folder: &Path| Scope::Cgroup(folder.into());
    assert!(matches!(refused(child.id(), folder(scene.folder.path())), SuperviseError::NotACgroup { .. }));
    assert!(matches!(refused(child.id(), folder(&cgroup.0)), SuperviseError::NotInCgroup { .. }));
    assert!(!scene.exists("term"));
    for process in [&mut child, &mut member] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert!(matches!(refused(child.id(), Scope::Process), SuperviseError::NotFound { .. }));
}

/// A cgroup of version 2, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Cgroup {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists()).expect("no cgroup v2");
        let folder = root.join(format!("leasehold-test-{name}"));
        fs::create_dir(&folder).unwrap();
        Cgroup(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let start = Instant::now();
        while fs::remove_dir(&self.0).is_err() && start.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
