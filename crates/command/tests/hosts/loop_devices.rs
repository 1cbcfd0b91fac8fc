//! Several real processes on loop devices: contention, and everything that can happen to a holder.
//!
//! Processes log what they do with times of the clock that they all share; the tests judge the logs from outside. They
//! assert what happened in which order, and print how long it took.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::disk::Op;
use leasehold::format::DeltaRecord;
use leasehold::{
    AcquireError, HostState, JoinError, JoinOptions, Lockspace, LossReason, Membership, Name, Profile, Resource,
    Status, Timeouts, Wait,
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::answers::held_by;
use crate::common::command::leasehold_calmly;
use crate::common::devices::{Frozen, Loop, Mounted, disk, file, folder, run, text, transfer, with_resources};
use crate::common::processes::{self, Mark, Process, answer_of, calmly, signal_process, variable};
use crate::common::{PATIENCE, boottime, id, number, timeouts, until, until_some};

const RESOURCE: &str = "demo";

/// So that a busy machine doesn't cost a holder its lease where that isn't what is tested.
fn steady() -> Timeouts {
    timeouts([300, 1_000, 4_000, 1_500, 5_500])
}

/// A lockspace on a loop device, with one resource.
struct Device {
    node: Loop,
    backing: PathBuf,
    /// The file system that the backing file lies on, when it is one of its own.
    mounted: Option<Mounted>,
    folder: TempDir,
}

impl Device {
    fn new(sector: usize, timeouts: Timeouts) -> Device {
        let (folder, backing) = file(64 << 20);
        Device::over(folder, backing, None, sector, timeouts)
    }

    /// On a small file system that can be frozen.
    fn that_can_hang(sector: usize, timeouts: Timeouts) -> Device {
        let (folder, image) = file(160 << 20);
        let mounted = Mounted::new(folder.path(), &image, &[]);
        let backing = mounted.point.join("disk");
        fs::write(&backing, vec![0; 64 << 20]).unwrap();
        fs::File::open(&backing).unwrap().sync_all().unwrap();
        Device::over(folder, backing, Some(mounted), sector, timeouts)
    }

    fn over(folder: TempDir, backing: PathBuf, mounted: Option<Mounted>, sector: usize, timeouts: Timeouts) -> Device {
        let node = Loop::new(&backing, &["--direct-io=on", &format!("--sector-size={sector}")]);
        let lockspace = with_resources(disk(&node.0), timeouts, &[RESOURCE]);
        assert_eq!(lockspace.geometry().sector_bytes(), sector);
        Device { node, backing, mounted, folder }
    }

    fn path(&self) -> &Path {
        &self.node.0
    }

    /// Takes the backing file away until that is felt. Again and again: a write that is on its way makes the file long
    /// enough for itself and all that is before it.
    #[track_caller]
    fn vanish(&self, mut felt: impl FnMut() -> bool) {
        let backing = OpenOptions::new().write(true).open(&self.backing).unwrap();
        until("an effect of the loss of the device", || {
            backing.set_len(0).unwrap();
            felt()
        });
    }

    fn open(&self) -> Lockspace {
        Lockspace::open(disk(self.path())).unwrap()
    }

    /// What stands in the index. A busy disk may take longer than an I/O may: then it is asked again.
    fn resource(&self) -> Resource {
        calmly("the index", || self.open().find(RESOURCE))
    }

    /// Joins as a host of this test's own process; again, as above.
    fn join(&self, name: &str) -> Membership {
        calmly("a join", || self.open().join(JoinOptions::new().host_name(name)))
    }

    /// The names of the hosts that are seen to renew their ids.
    fn live(&self) -> Vec<String> {
        let lockspace = self.open();
        // A read that takes too long shows nothing.
        let hosts = lockspace.hosts(lockspace.timeouts().renewal() * 2).unwrap_or_default();
        let live = hosts.into_iter().filter(|host| host.state == HostState::Live);
        live.filter_map(|host| Some(host.name?.to_string())).collect()
    }

    /// Leader and blocks of the resource, as they are on the device.
    fn area(&self) -> Vec<u8> {
        let lockspace = self.open();
        let len = usize::try_from(lockspace.geometry().area_bytes()).unwrap();
        transfer(self.path(), self.resource().offset(), Op::Read { len })
    }

    fn record(&self, host: u64) -> DeltaRecord {
        let geometry = self.open().geometry();
        let (at, len) = (geometry.delta_offset(id(host)), geometry.sector_bytes());
        DeltaRecord::decode(&transfer(self.path(), at, Op::Read { len }), at).unwrap()
    }
}

fn start_worker(mark: &Mark, task: &[&str]) -> Process {
    Process::start(&mut processes::worker(&[&["loop_devices"], task].concat()), mark)
}

pub(crate) fn work(task: &[&str]) {
    match *task {
        ["contend", device, name, go] => contend(Path::new(device), name, Path::new(go)),
        ["hold", device, host] => hold(Path::new(device), host.parse().unwrap()),
        ["command", log] => command(Path::new(log)),
        _ => panic!("no such task: {task:?}"),
    }
}

/// Takes turns until the point that the file `go` names.
fn contend(device: &Path, name: &str, go: &Path) {
    let lockspace = Lockspace::open(disk(device)).unwrap();
    let membership = calmly("a join", || lockspace.join(JoinOptions::new().host_name(name)));
    let resource = calmly("the index", || lockspace.find(RESOURCE));
    println!("\njoined");
    until("the start", || go.exists());
    let end: u64 = processes::read(go).parse().unwrap();
    loop {
        let now = boottime();
        if now >= end {
            break;
        }
        match membership.acquire(&resource, Wait::For(Duration::from_nanos(end - now))) {
            Ok(lease) => {
                let acquired = boottime();
                thread::sleep(Duration::from_millis(5));
                assert!(lease.is_held());
                let version = lease.version();
                let released = boottime();
                lease.release().unwrap();
                println!("\nheld {version} {acquired} {released}");
            }
            Err(AcquireError::Held { .. } | AcquireError::TimedOut { .. } | AcquireError::Unknown { .. }) => {
                assert!(boottime() >= end, "it did not wait until the deadline");
            }
            Err(error) => panic!("{error}"),
        }
    }
    // What was still open at the deadline is given back first.
    until("leaving", || membership.leave().is_ok());
}

/// Holds until it is killed, and says until when at each renewal.
fn hold(device: &Path, host: u64) {
    let lockspace = Lockspace::open(disk(device)).unwrap();
    let membership = calmly("a join", || lockspace.join(JoinOptions::new().host_id(id(host))));
    let resource = calmly("the index", || lockspace.find(RESOURCE));
    let lease = membership.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    println!("\nowner {} {}", lease.version(), membership.owner().generation);
    let mut status = lease.status();
    loop {
        match &status {
            Status::Held { until } | Status::Late { until } => println!("\nuntil {}", until.as_nanos()),
            Status::Lost { reason } => panic!("{reason}"),
        }
        status = lease.status_change(&status, PATIENCE);
    }
}

/// What runs under `leasehold run`: logs its start, then stays with children that don't want to end, until told to.
/// Before anything else it looks for what an earlier owner of the lease has left.
fn command(log: &Path) {
    let now = boottime();
    let version = std::env::var("LEASEHOLD_VERSION").unwrap();
    let host = std::env::var("LEASEHOLD_HOST_ID").unwrap();
    let rivals = commands(&Mark::inherited().unwrap());
    let rivals = rivals.iter().filter(|(_, theirs)| *theirs != version).count();
    let line = format!("{now} {version} {host} {} {rivals}\n", std::process::id());
    let escape = "setsid sleep 1001 & (sh -c 'trap \"\" TERM HUP; exec sleep 1002' &); exec sleep 1003";
    let mut child = Command::new("sh").args(["-c", escape]).spawn().unwrap();
    OpenOptions::new().create(true).append(true).open(log).unwrap().write_all(line.as_bytes()).unwrap();
    while !stop_file(log).exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Tells the commands that write this log to end.
fn stop_file(log: &Path) -> PathBuf {
    log.with_extension("stop")
}

/// Commands under a lease, and what they started, of the test with this mark: process id and version.
fn commands(mark: &str) -> Vec<(i32, String)> {
    let living = processes::living(mark).into_iter();
    living.filter_map(|pid| Some((pid, variable(pid, "LEASEHOLD_VERSION")?))).collect()
}

/// The start of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    at: u64,
    version: u64,
    host: u64,
    pid: i32,
    /// Processes of other owners that were still there.
    rivals: usize,
}

/// Supervisors on one device, which log the starts of their commands.
struct Scene<'device> {
    device: &'device Device,
    mark: Mark,
    log: PathBuf,
    _folder: TempDir,
}

impl<'device> Scene<'device> {
    fn new(device: &'device Device) -> Scene<'device> {
        let folder = folder();
        Scene { device, mark: Mark::new(), log: folder.path().join("log"), _folder: folder }
    }

    /// `leasehold run`, waiting for the resource.
    fn run(&self, options: &[&str]) -> Process {
        self.run_on(self.device.path(), options)
    }

    /// The holder with this number, from 1. One that a busy disk kept from joining is started again.
    #[track_caller]
    fn holder(&self, number: usize, options: &[&str]) -> (Process, Start) {
        let mut process = self.run(options);
        until("a holder", || {
            if self.starts().len() < number && process.ended().is_some() {
                println!("started again after: {}", process.complained().trim());
                process = self.run(options);
            }
            self.starts().len() >= number
        });
        (process, self.await_start(number))
    }

    fn run_on(&self, node: &Path, options: &[&str]) -> Process {
        let mut run = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        run.args(["run", "--device", text(node), "--wait", "forever"]).args(options).args([RESOURCE, "--"]);
        Process::start(processes::run_worker(&mut run, &["loop_devices", "command", text(&self.log)]), &self.mark)
    }

    fn starts(&self) -> Vec<Start> {
        let lines = processes::read(&self.log);
        lines
            .lines()
            .map(|line| {
                let words: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
                let [at, version, host, pid, rivals] = words[..] else { panic!("{line}") };
                Start { at, version, host, pid: pid as i32, rivals: rivals as usize }
            })
            .collect()
    }

    /// Waits for the start with this number, from 1, and for the command's children; checks it against those before it.
    #[track_caller]
    fn await_start(&self, number: usize) -> Start {
        until(&format!("start {number}"), || self.starts().len() >= number);
        let starts = self.starts();
        assert!(
            starts.is_sorted_by_key(|start| start.at) && starts.windows(2).all(|two| two[0].version < two[1].version)
        );
        assert_eq!(starts.iter().map(|start| start.rivals).max(), Some(0), "an earlier command lived on: {starts:?}");
        let start = starts[number - 1].clone();
        until("the command's children, or its end", || {
            let commands = self.commands();
            let words: Vec<String> = commands.iter().map(|(pid, _)| processes::command_line(*pid)).collect();
            let all =
                ["sleep 1001", "sleep 1002", "sleep 1003"].iter().all(|child| words.iter().any(|had| had == child));
            all || commands.iter().all(|(pid, _)| *pid != start.pid)
        });
        start
    }

    fn commands(&self) -> Vec<(i32, String)> {
        commands(self.mark.name())
    }

    fn stop(&self) {
        fs::write(stop_file(&self.log), "").unwrap();
    }
}

/// For `LEASEHOLD_CONTENTION_SECONDS`, or a few seconds.
fn contention(sector: usize) {
    let device = Device::new(sector, timeouts([500, 2_000, 10_000, 2_000, 13_000]));
    let seconds = number("LEASEHOLD_CONTENTION_SECONDS").unwrap_or(6);
    let mark = Mark::new();
    let go = device.folder.path().join("go");
    let names: Vec<String> = (1..=6).map(|number| format!("host-{number}")).collect();
    let mut workers: Vec<Process> =
        names.iter().map(|name| start_worker(&mark, &["contend", text(device.path()), name, text(&go)])).collect();
    until("all workers", || workers.iter().all(|worker| worker.said().contains("\njoined\n")));
    // It appears with its content.
    let end = boottime() + Duration::from_secs(seconds).as_nanos() as u64;
    fs::write(go.with_extension("new"), end.to_string()).unwrap();
    fs::rename(go.with_extension("new"), &go).unwrap();
    thread::sleep(Duration::from_secs(seconds));

    // Acquired, released, version, who.
    let mut holdings = Vec::new();
    let mut counts = vec![0; workers.len()];
    for (number, worker) in workers.iter_mut().enumerate() {
        assert_eq!(worker.code(), 0, "{}: {}{}", names[number], worker.said(), worker.complained());
        for line in worker.said().lines().filter_map(|line| line.strip_prefix("held ")) {
            let words: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let [version, acquired, released] = words[..] else { panic!("{line}") };
            holdings.push((acquired, released, version, number));
            counts[number] += 1;
        }
    }
    holdings.sort_unstable();
    for two in holdings.windows(2) {
        let ((_, released, version, _), (acquired, _, next, _)) = (two[0], two[1]);
        assert!(released < acquired, "two holders at once: {two:?}");
        assert!(version < next, "a version that does not grow: {two:?}");
    }
    let total = holdings.len();
    println!("sectors of {sector}, {seconds} s: {total} holdings, {counts:?}");
    // On a disk that lets few have a turn, chance decides who had none.
    let few = total < 10 * counts.len();
    assert!(few || counts.iter().all(|count| count * counts.len() * 10 >= total), "an unfair share: {counts:?}");
}

#[test]
fn contending_processes_take_turns_and_all_get_some() {
    contention(512);
}

#[test]
fn contending_processes_take_turns_on_large_sectors() {
    contention(4096);
}

fn takeover(sector: usize, rounds: usize) {
    let timeouts = Profile::Fast.timeouts();
    let device = Device::new(sector, timeouts);
    let scene = Scene::new(&device);
    let mut supervisors: Vec<Process> = Vec::new();
    let mut took = Vec::new();
    let mut seen = 0;
    let began = Instant::now();
    // On a disk that is too slow for these timeouts one round has to do.
    while took.len() < rounds && (took.is_empty() || began.elapsed() < PATIENCE) {
        assert!(began.elapsed() < 3 * PATIENCE, "nobody could be killed while it held: {:?}", scene.starts());
        // On a busy machine one of them may lose what it has or waits for: it is replaced.
        supervisors.retain_mut(|supervisor| supervisor.ended().is_none());
        while supervisors.len() < 3 {
            supervisors.push(scene.run(&[]));
        }
        if scene.starts().len() == seen {
            thread::sleep(Duration::from_millis(2));
            continue;
        }
        scene.await_start(scene.starts().len());
        // Those that wait have joined, so that no join is part of what is measured.
        until("waiting hosts", || {
            device.live().len() >= 3 || supervisors.iter_mut().any(|supervisor| supervisor.ended().is_some())
        });
        let starts = scene.starts();
        let holder = starts.last().unwrap().clone();
        // Nobody else has its id while its command lives, which is looked at next.
        let generation = device.record(holder.host).generation;
        let parent = |supervisor: &Process| supervises(supervisor.pid(), holder.pid);
        let Some(supervisor) = supervisors.iter_mut().find(|supervisor| parent(supervisor)) else { continue };
        seen = starts.len();
        let killed = boottime();
        supervisor.signal(Signal::KILL);
        if supervisor.code() != 128 + 9 {
            continue;
        }
        // It may have lost before: what counts is what it wrote last, unless that is gone already.
        let last = device.record(holder.host);
        let Some(renewed) = last.started().filter(|_| last.generation == generation) else { continue };
        until("the next start", || {
            // As above.
            supervisors.retain_mut(|supervisor| supervisor.ended().is_none());
            while supervisors.len() < 2 {
                supervisors.push(scene.run(&[]));
            }
            scene.starts().len() > seen
        });
        let next = scene.await_start(seen + 1);
        let early = Duration::from_nanos((renewed + timeouts.dead()).as_nanos().saturating_sub(next.at));
        assert!(early.is_zero(), "taken over {early:?} before its holder was dead");
        took.push(Duration::from_nanos(next.at.saturating_sub(killed)));
    }
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!("sectors of {sector}, profile fast, kill -9 to the next command's start: median {median:?} of {took:?}");
}

/// Whether the command is a descendant of the supervisor.
fn supervises(supervisor: i32, command: i32) -> bool {
    let stat = processes::read(Path::new(&format!("/proc/{command}/stat")));
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    parent.is_some_and(|parent: i32| parent == supervisor || parent > 1 && supervises(supervisor, parent))
}

#[test]
fn a_killed_holder_is_replaced_when_all_of_its_command_is_gone() {
    takeover(512, 4);
}

#[test]
fn a_killed_holder_is_replaced_on_large_sectors() {
    takeover(4096, 2);
}

fn stopped(sector: usize) {
    let device = Device::new(sector, steady());
    let scene = Scene::new(&device);
    let observer = device.join("observer");
    let resource = device.resource();
    let answer = || {
        calmly("the answer", || match observer.acquire(&resource, Wait::No) {
            Err(AcquireError::Held { holder, .. }) => Ok((holder.host.get(), holder.generation, holder.version.get())),
            other => other.map(|lease| panic!("{lease:?}")),
        })
    };

    let (mut first, former) = scene.holder(1, &["--host-name", "first"]);
    assert_eq!((answer().0, answer().2), (former.host, former.version));
    let mut second = scene.run(&["--host-name", "second"]);
    first.signal(Signal::STOP);
    let stopped = boottime();
    let next = scene.await_start(2);
    println!("sectors of {sector}: taken over {:?} after SIGSTOP", Duration::from_nanos(next.at - stopped));
    let (area, said) = (device.area(), answer());
    assert_eq!((said.0, said.2), (next.host, next.version));

    first.signal(Signal::CONT);
    assert_eq!(first.code(), 69, "{}", first.complained());
    assert!(first.complained().contains("no renewal was confirmed in time"), "{}", first.complained());
    assert!(device.area() == area, "the host that was stopped wrote to the resource");
    assert_eq!(answer(), said);
    assert!(scene.commands().iter().any(|(pid, _)| *pid == next.pid), "the new owner's command was disturbed");
    scene.stop();
    assert_eq!(second.code(), 0, "{}", second.complained());
    observer.acquire(&resource, Wait::For(PATIENCE)).unwrap().release().unwrap();
    observer.leave().unwrap();
}

#[test]
fn a_stopped_holder_has_lost_when_it_goes_on() {
    stopped(512);
}

#[test]
fn a_stopped_holder_has_lost_on_large_sectors() {
    stopped(4096);
}

fn hanging(sector: usize) {
    let device = Device::that_can_hang(sector, steady());
    let scene = Scene::new(&device);
    let (mut first, former) = scene.holder(1, &["--host-name", "first"]);
    let area = device.area();

    let mut frozen = Frozen::new(&device.mounted.as_ref().unwrap().point);
    let since = boottime();
    until("the command's end", || scene.commands().is_empty());
    println!("sectors of {sector}: command gone {:?} after the freeze", Duration::from_nanos(boottime() - since));
    frozen.thaw();

    assert_eq!(first.code(), 69, "{}", first.complained());
    // What was in flight has landed.
    assert!(device.area() == area, "the host that had lost wrote to the resource");
    let lockspace = device.open();
    let (resources, damages) = calmly("the index", || lockspace.resources());
    assert!(damages.is_empty());
    let ownership = resources.iter().find(|info| info.resource.name() == Name::resource(RESOURCE).unwrap()).unwrap();
    let ownership = ownership.ownership.as_ref().unwrap();
    assert_eq!(ownership.owner.map(|owner| owner.host.get()), Some(former.host));
    assert_eq!(ownership.version.get(), former.version);

    let (mut second, next) = scene.holder(2, &["--host-name", "second"]);
    assert!(next.version > former.version);
    scene.stop();
    assert_eq!(second.code(), 0, "{}", second.complained());
}

#[test]
fn a_device_that_hangs_costs_the_lease_and_then_changes_nothing() {
    hanging(512);
}

#[test]
fn a_device_that_hangs_costs_the_lease_on_large_sectors() {
    hanging(4096);
}

fn gone(sector: usize) {
    let device = Device::new(sector, steady());
    let scene = Scene::new(&device);
    let (mut holder, _) = scene.holder(1, &[]);
    let mut waiting = scene.run(&["--host-name", "waiting"]);
    // Not any host: one that made the resource may still look alive.
    until("the waiting host", || device.live().contains(&"waiting".into()));
    device.vanish(|| holder.ended().is_some() && waiting.ended().is_some());
    assert_eq!(holder.code(), 69, "{}", holder.complained());
    println!("sectors of {sector}: {}", holder.complained().trim());
    let why = holder.complained();
    assert!(why.contains("the lease was lost"), "{why}");
    // Or what was begun just before the deadline. What is read in the moment of the truncation may be zeros: damage.
    let causes = ["Input/output error", "is still in flight", "damaged"];
    assert!(causes.iter().any(|cause| why.contains(cause)), "{why}");
    assert_eq!(scene.commands(), []);
    // It has nothing to lose but its membership.
    assert!([74, 65].contains(&waiting.code()), "{}", waiting.complained());
    println!("sectors of {sector}: {}", waiting.complained().trim());
    assert_eq!(scene.starts().len(), 1);
}

#[test]
fn a_device_that_is_gone_costs_the_lease() {
    gone(512);
}

#[test]
fn a_device_that_is_gone_costs_the_lease_on_large_sectors() {
    gone(4096);
}

#[test]
fn a_device_that_is_detached_while_open_stays_until_its_holder_ends() {
    let device = Device::new(512, steady());
    let scene = Scene::new(&device);
    let (mut holder, _) = scene.holder(1, &[]);
    device.node.detach();
    device.join("observer").leave().unwrap();
    scene.stop();
    assert_eq!(holder.code(), 0, "{}", holder.complained());
    until("the device's end", || !device.node.is_attached());
}

#[test]
fn one_host_id_is_not_held_twice_whatever_the_device_is_called() {
    for sector in [512, 4096] {
        let device = Device::new(sector, steady());
        let scene = Scene::new(&device);
        let (mut first, _) = scene.holder(1, &["--host-id", "3"]);
        let node = device.folder.path().join("node");
        let number = processes::read(&Path::new("/sys/block").join(device.path().file_name().unwrap()).join("dev"));
        let (major, minor) = number.trim().split_once(':').unwrap();
        run("mknod", &[text(&node), "b", major, minor]);
        for path in [device.path(), &node, &device.backing] {
            // They would wait for the resource for ever.
            let (code, said) = answer_of(|| scene.run_on(path, &["--host-id", "3"]));
            let expected = format!("host id 3 of {} is held by another process on this machine", path.display());
            assert!(code == 75 && said.contains(&expected), "{code}: {said}");
        }
        assert!(first.ended().is_none(), "{}", first.complained());
        scene.stop();
        assert_eq!(first.code(), 0, "{}", first.complained());
        assert_eq!(scene.starts().len(), 1);
    }
}

#[test]
fn a_device_in_use_is_not_formatted() {
    for sector in [512, 4096] {
        let device = Device::new(sector, steady());
        let scene = Scene::new(&device);
        let (mut holder, start) = scene.holder(1, &["--host-name", "holder"]);
        let area = device.area();
        for (options, expected) in [
            (&["--profile", "fast"][..], "already holds the lockspace leasehold".into()),
            (&["--force"], format!("host {} (holder) is live", start.host)),
        ] {
            let (code, said) = leasehold_calmly(&scene.mark, &[&["format", text(device.path())], options].concat());
            assert_eq!(code, 73, "{said}");
            assert!(said.contains(&expected), "{said}");
        }
        assert!(holder.ended().is_none(), "{}", holder.complained());
        assert!(device.area() == area);
        scene.stop();
        assert_eq!(holder.code(), 0, "{}", holder.complained());
        // Nobody is left: now it is.
        let (code, said) = leasehold_calmly(&scene.mark, &["format", text(device.path()), "--force"]);
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn two_memberships_of_one_process_are_lost_one_by_one() {
    let (lost, kept) = (Device::new(512, steady()), Device::new(4096, steady()));
    let hosts = [&lost, &kept].map(|device| device.join("both"));
    let [on_lost, on_kept] = [(&lost, 0), (&kept, 1)]
        .map(|(device, at)| hosts[at].acquire(&device.resource(), Wait::For(PATIENCE)).unwrap());
    lost.vanish(|| matches!(hosts[0].status(), Status::Lost { .. }));
    // The membership's renewals fail, and so do the reads that verify the lease: one of the two is late first.
    let status = on_lost.status();
    match &status {
        Status::Lost { reason: LossReason::Expired { cause } | LossReason::Unverified { cause } } => {
            assert!(cause.is_some(), "{status:?}");
        }
        // What is read in the moment of the truncation may be zeros.
        Status::Lost { reason: LossReason::Damaged(_) } => {}
        status => panic!("{status:?}"),
    }
    // Not only what was confirmed before: the other is renewed.
    let deadline = |status: &Status| match status {
        Status::Held { until } | Status::Late { until } => until.as_nanos(),
        Status::Lost { reason } => panic!("{reason}"),
    };
    let now = deadline(&on_kept.status());
    until("a renewal", || deadline(&on_kept.status()) > now);
    assert!(on_lost.release().is_err());
    on_kept.release().unwrap();
    assert!(hosts[0].leave().is_err());
    hosts[1].leave().unwrap();
}

#[test]
fn leaving_ends_an_acquire_that_waits() {
    let device = Device::new(512, steady());
    let (holder, leaver) = (device.join("holder"), device.join("leaver"));
    let resource = device.resource();
    let lease = holder.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| leaver.acquire(&resource, Wait::Forever));
        // Long enough for it to have asked and been told to wait; leaving earlier must end it too.
        for _ in 0..3 {
            let seen = leaver.status();
            until("a renewal", || leaver.status() != seen);
        }
        assert!(!waiting.is_finished());
        leaver.leave().unwrap();
        let outcome = waiting.join().unwrap();
        assert!(matches!(outcome, Err(AcquireError::Lost(LossReason::Left))), "{outcome:?}");
    });
    assert!(lease.is_held());
    lease.release().unwrap();
    holder.leave().unwrap();
}

#[test]
fn a_dropped_lease_is_released_while_its_host_lives_on() {
    let device = Device::new(512, steady());
    let (holder, other) = (device.join("holder"), device.join("other"));
    let resource = device.resource();
    let lease = holder.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    held_by(&other, &resource, holder.owner().host.get());
    let version = lease.version();
    drop(lease);
    let lease = other.acquire(&resource, Wait::For(PATIENCE)).unwrap();
    assert!(lease.version() > version);
    assert!(!matches!(holder.status(), Status::Lost { .. }), "{:?}", holder.status());
    lease.release().unwrap();
    holder.leave().unwrap();
    other.leave().unwrap();
}

#[test]
fn a_killed_processs_host_id_and_lease_are_free_after_the_dead_time_and_not_before() {
    let device = Device::new(512, steady());
    let waiting = device.join("waiting");
    let lockspace = device.open();
    let resource = device.resource();
    let mark = Mark::new();
    let mut holder = start_worker(&mark, &["hold", text(device.path()), "700"]);
    let said = |word: &str| {
        let said = holder.said();
        let lines = said.lines().filter_map(|line| Some(line.strip_prefix(word)?.strip_prefix(' ')?.to_string()));
        lines.collect::<Vec<String>>()
    };
    // It was renewed, so that it is not the join that counts.
    until("a renewal", || said("until").len() > 2 || !holder.complained().is_empty());
    assert_eq!(holder.complained(), "");
    let held_here = lockspace.join(JoinOptions::new().host_id(id(700)));
    assert!(matches!(&held_here, Err(JoinError::HeldHere { host, .. }) if host.get() == 700), "{held_here:?}");
    signal_process(holder.pid(), Signal::KILL);
    let until_then: u64 = said("until").last().unwrap().parse().unwrap();
    let owner: Vec<u64> = said("owner")[0].split(' ').map(|word| word.parse().unwrap()).collect();
    assert_eq!(holder.code(), 128 + 9);

    thread::scope(|scope| {
        let joining = scope.spawn(|| {
            let started = boottime();
            let again = calmly("a join", || lockspace.join(JoinOptions::new().host_id(id(700))));
            (Duration::from_nanos(boottime() - started), again)
        });
        let lease = waiting.acquire(&resource, Wait::For(PATIENCE)).unwrap();
        let acquired = boottime();
        let fence = steady().fence().as_nanos() as u64;
        assert!(acquired >= until_then + fence, "the former holder was still active");
        assert!(lease.version().get() > owner[0]);
        let (took, again) = joining.join().unwrap();
        // The id was not released: nobody but time says that its holder is dead.
        assert!(took >= steady().dead(), "{took:?}");
        assert!(again.owner().generation.get() > owner[1]);
        lease.release().unwrap();
        again.leave().unwrap();
        waiting.leave().unwrap();
    });
}

#[test]
fn one_process_does_not_hold_a_host_id_twice() {
    let device = Device::new(512, steady());
    let first = calmly("a join", || device.open().join(JoinOptions::new().host_id(id(5))));
    for lockspace in [first.lockspace().clone(), device.open()] {
        let second = lockspace.join(JoinOptions::new().host_id(id(5)));
        assert!(matches!(&second, Err(JoinError::HeldHere { host, .. }) if host.get() == 5), "{second:?}");
    }
    // The refused attempts took nothing away from it.
    assert_eq!(first.owner().host, id(5));
    first.leave().unwrap();
    // A child of another test that has not come to its `exec` yet keeps what locks the id a moment longer.
    let again = until_some("a join", || device.open().join(JoinOptions::new().host_id(id(5))).ok());
    again.leave().unwrap();
}
