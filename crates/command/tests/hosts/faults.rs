//! Processes that share a real disk, while everything fails at once, for as long as one likes.
//!
//! Some hosts contend for two resources, each host a process of its own. They come to the disk by two paths: partitions
//! of two loop devices over one file, on a file system of its own. Meanwhile a plan made from one seed
//! - kills hosts with SIGKILL and starts them again, also while what they wrote still hangs in the kernel;
//! - stops them with SIGSTOP, for less and for more than the dead time;
//! - freezes the file system below: what is being written then lands when it is thawed;
//! - takes one or both paths away, by making the partition so small that nothing but the record of host 1 is left.
//!   Truncating the file would be no fault of this kind: it loses what was confirmed.
//!
//! All hosts append what they do to one journal, on another file system, with times of `CLOCK_BOOTTIME`; the test reads
//! it from outside. [`Journal`] judges it: no resource has two holders at once, versions and generations grow, and
//! nothing is written to what a lease protects by a holder that was replaced and doesn't know. Afterwards all hosts
//! must make progress, and then the last one that is left.
//!
//! The journal is also what the leases protect: a holder appends its version, and whatever stands behind a larger one
//! counts as refused. A file with a lock would make the hosts wait for one that is stopped with the lock taken.
//!
//! `LEASEHOLD_FAULT_SECONDS`: how long (4). `LEASEHOLD_FAULT_HOSTS`: how many hosts (5). `LEASEHOLD_SEED`: repeats the
//! plan of a run; what the machine makes of it differs.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leasehold::disk::{Access, DirectDisk};
use leasehold::{
    AcquireError, HostId, JoinOptions, Lease, Lockspace, LossReason, Membership, ReleaseError, Resource, Status,
    Timeouts, Wait,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::devices::{Loop, Mounted, disk, folder, run, text, with_resources};
use crate::common::processes::{self, Mark, Process, read};
use crate::common::{boottime, number, timeouts, until};

/// Renewal, io, fail, fence, dead: short, so that much happens; the machine may be busy, which is one more fault.
fn times() -> Timeouts {
    timeouts([200, 300, 1_500, 500, 2_200])
}

/// Milliseconds that are certainly shorter than F, and certainly longer than D.
const SHORT: std::ops::Range<u64> = 50..1_000;
const LONG: std::ops::Range<u64> = 2_300..5_000;

const RESOURCES: [&str; 2] = ["first", "second"];

/// What comes when the faults are over may take long on a busy machine: only a failing test waits so long.
const RECOVERY: Duration = Duration::from_secs(240);

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

// ---- What happens when ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill(usize),
    Start(usize),
    Stop(usize),
    Continue(usize),
    /// For that many milliseconds.
    Freeze(u64),
    Cut(usize),
    Restore(usize),
}

#[derive(Clone, Copy)]
enum Kind {
    Kill,
    Pause,
    LongPause,
    Freeze,
    LongFreeze,
    CutOne,
    CutBoth,
}

/// Faults that overlap, each with its end, by milliseconds from the start. Each kind comes up in every half minute;
/// what costs all hosts their leases is rare, because they then need seconds until there is something to lose again.
fn plan(random: &mut StdRng, hosts: usize, millis: u64) -> Vec<(u64, Action)> {
    use Kind::*;
    let mut plan = Vec::new();
    let mut deck = Vec::new();
    let mut at = 1_000;
    let mut thawed = 0;
    while at < millis {
        if deck.is_empty() {
            deck.extend([Kill, Kill, Kill, Kill, Pause, Pause, Pause, LongPause, LongPause, LongPause, LongPause]);
            deck.extend([Freeze, Freeze, LongFreeze, CutOne, CutOne, CutOne, CutBoth]);
            deck.shuffle(random);
        }
        let kind = deck.pop().unwrap();
        let host = random.random_range(0..hosts);
        let span = match kind {
            Pause | Freeze => random.random_range(SHORT),
            LongPause => random.random_range(LONG),
            LongFreeze => random.random_range(1_600..4_000),
            Kill | CutOne | CutBoth => random.random_range(0..2_000),
        };
        match kind {
            Kill => plan.extend([(at, Action::Kill(host)), (at + span / 2, Action::Start(host))]),
            Pause | LongPause => plan.extend([(at, Action::Stop(host)), (at + span, Action::Continue(host))]),
            Freeze | LongFreeze => {
                let at = at.max(thawed);
                plan.push((at, Action::Freeze(span)));
                thawed = at + span + 500;
            }
            CutOne | CutBoth => {
                let path = random.random_range(0..2);
                for path in (0..2).filter(|each| matches!(kind, CutBoth) || *each == path) {
                    plan.extend([(at, Action::Cut(path)), (at + span, Action::Restore(path))]);
                }
            }
        }
        at += random.random_range(300..1_500);
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}

// ---- What the hosts wrote down ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing was heard of it: killed, or not yet over.
    Unknown,
    /// It stopped using the resource then, and gave it back.
    Released(u64),
    Lost,
}

/// One ownership of one resource, as its holder saw it.
#[derive(Clone, Debug)]
struct Holding {
    host: usize,
    owner: [u64; 2],
    acquired: u64,
    /// The last that it wrote down.
    deadline: u64,
    end: End,
    /// It wrote when a later holder had written already.
    refused: bool,
}

impl Holding {
    /// Who says nothing more counts as active until all that depends on the lease must have been stopped.
    fn active_until(&self) -> u64 {
        match self.end {
            End::Released(at) => at,
            End::Unknown | End::Lost => self.deadline + nanos(times().fence()),
        }
    }
}

#[derive(Debug, Default)]
struct Ledger {
    /// By version.
    holdings: BTreeMap<u64, Holding>,
    /// The largest version that was written to what the lease protects.
    written: u64,
    /// When each host acquired it last.
    latest: BTreeMap<usize, u64>,
}

/// Everything that was heard, and what must be true of it.
#[derive(Debug, Default)]
struct Journal {
    ledgers: [Ledger; 2],
    /// The last of each host id.
    generations: BTreeMap<u64, u64>,
    refused: usize,
    /// How often each kind of failure was met.
    troubles: BTreeMap<String, usize>,
}

/// Failures that no fault here explains.
const UNEXPLAINED: [&str; 14] = [
    "BlockChanged",
    "BlockDamaged",
    "Damaged",
    "Deleted",
    "Exhausted",
    "Foreign",
    "Geometry",
    "Incomplete",
    "NotALockspace",
    "NotFound",
    "Overwritten",
    "Panicked",
    "SectorSize",
    "TooLarge",
];

impl Journal {
    /// Takes one line in, in the order of the file.
    fn take(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let [host, what, rest @ ..] = &words[..] else { return Err(format!("a line that says nothing: {line:?}")) };
        if *what == "trouble" {
            let kind = rest.first().copied().unwrap_or_default();
            if UNEXPLAINED.contains(&kind) {
                return Err(format!("no fault explains this: {line}"));
            }
            *self.troubles.entry(kind.into()).or_default() += 1;
            return Ok(());
        }
        let parsed: Result<Vec<u64>, _> = [host].into_iter().chain(rest).map(|word| word.parse()).collect();
        let numbers = parsed.map_err(|error| format!("{error}: {line:?}"))?;
        let host = numbers[0] as usize;
        if let ("joined", [id, generation]) = (*what, &numbers[1..]) {
            return match self.generations.insert(*id, *generation) {
                Some(before) if before >= *generation => {
                    Err(format!("a generation that does not grow, {before} before: {line}"))
                }
                _ => Ok(()),
            };
        }
        let [_, resource, version, rest @ ..] = &numbers[..] else { return Err(format!("not understood: {line:?}")) };
        let ledger = &mut self.ledgers[*resource as usize];
        if let ("acquired", [id, generation, acquired, deadline]) = (*what, rest) {
            let holding = Holding {
                host,
                owner: [*id, *generation],
                acquired: *acquired,
                deadline: *deadline,
                end: End::Unknown,
                refused: false,
            };
            ledger.latest.insert(host, *acquired);
            return match ledger.holdings.insert(*version, holding) {
                Some(before) => Err(format!("a version with two owners, {before:?} before: {line}")),
                None => Ok(()),
            };
        }
        let Some(holding) = ledger.holdings.get_mut(version) else { return Err(format!("nobody acquired it: {line}")) };
        match (*what, rest) {
            ("until", [deadline]) => holding.deadline = holding.deadline.max(*deadline),
            // The write of a holder that saw itself hold just before, or knows that it has lost.
            ("write" | "late", []) => {
                holding.refused |= *version < ledger.written;
                self.refused += usize::from(*version < ledger.written);
                ledger.written = ledger.written.max(*version);
            }
            // And saw itself hold just after.
            ("wrote", []) if holding.refused => {
                return Err(format!("a holder whose writes are refused believes that it holds: {line}"));
            }
            ("wrote", []) => {}
            ("releasing", [at]) => holding.end = End::Released(*at),
            ("lost", []) => holding.end = End::Lost,
            _ => return Err(format!("not understood: {line:?}")),
        }
        Ok(())
    }

    /// No holding begins before the one with the version below has ended. That versions grow in time follows.
    fn check(&self) -> Result<(), String> {
        for (ledger, resource) in self.ledgers.iter().zip(RESOURCES) {
            let mut before: Option<(&u64, &Holding)> = None;
            for (version, holding) in &ledger.holdings {
                if let Some((former, first)) = before
                    && holding.acquired < first.active_until()
                {
                    let early = Duration::from_nanos(first.active_until() - holding.acquired);
                    return Err(format!(
                        "{resource}: version {version} was acquired {early:?} before version {former} was over:\n\
                         {former}: {first:?}\n{version}: {holding:?}"
                    ));
                }
                before = Some((version, holding));
            }
        }
        Ok(())
    }

    /// Whether the host has acquired every resource since.
    fn progressed(&self, host: usize, since: u64) -> bool {
        self.ledgers.iter().all(|ledger| ledger.latest.get(&host).is_some_and(|at| *at > since))
    }

    fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.ledgers.iter().flat_map(|ledger| ledger.holdings.values())
    }

    /// Holdings that ended otherwise than by a release, and that another one came after.
    fn taken_over(&self) -> usize {
        let of = |ledger: &Ledger| {
            let pairs = ledger.holdings.values().zip(ledger.holdings.values().skip(1));
            pairs.filter(|(first, next)| !matches!(first.end, End::Released(_)) && first.owner != next.owner).count()
        };
        self.ledgers.iter().map(of).sum()
    }
}

// ---- The hosts ----

pub(crate) fn work(task: &[&str]) {
    match *task {
        ["host", index, id, seed, node, journal, stop] => {
            let host = Host {
                index: index.parse().unwrap(),
                id: HostId::new(id.parse().unwrap()),
                node: node.into(),
                journal: OpenOptions::new().append(true).open(journal).unwrap(),
                stop: stop.into(),
            };
            host.live(&mut StdRng::seed_from_u64(seed.parse().unwrap()));
        }
        ["keeper", mark, folder, point] => keep(mark, Path::new(folder), point),
        _ => panic!("no such task: {task:?}"),
    }
}

struct Host {
    index: usize,
    /// `None`: any.
    id: Option<HostId>,
    node: PathBuf,
    journal: File,
    stop: PathBuf,
}

impl Host {
    fn say(&self, what: impl Display) {
        // In one piece: then it stands in one place, and is there whole or not at all when this process is killed.
        let line = format!("{} {what}\n", self.index);
        assert_eq!((&self.journal).write(line.as_bytes()).unwrap(), line.len());
    }

    /// The kind of a failure, and what it says.
    fn trouble(&self, error: impl Debug + Display) {
        let kind = format!("{error:?}");
        let kind = kind.split([' ', '(', '{']).next().unwrap_or_default();
        self.say(format_args!("trouble {kind} {}", error.to_string().replace('\n', " ")));
    }

    fn is_over(&self) -> bool {
        self.stop.exists()
    }

    /// Is a member of the lockspace again and again.
    fn live(&self, random: &mut StdRng) {
        while !self.is_over() {
            self.be_member(random);
            thread::sleep(Duration::from_millis(random.random_range(10..100)));
        }
    }

    fn be_member(&self, random: &mut StdRng) {
        let disk = match DirectDisk::open(&self.node, Access::ReadWrite) {
            Ok(disk) => Arc::new(disk),
            Err(error) => return self.trouble(error),
        };
        let lockspace = match Lockspace::open(disk) {
            Ok(lockspace) => lockspace,
            Err(error) => return self.trouble(error),
        };
        let mut resources = Vec::new();
        for name in RESOURCES {
            match lockspace.find(name) {
                Ok(resource) => resources.push(resource),
                Err(error) => return self.trouble(error),
            }
        }
        let options = JoinOptions::new().host_name(format!("host-{}", self.index));
        let options = self.id.into_iter().fold(options, JoinOptions::host_id);
        let membership = match lockspace.join(options) {
            Ok(membership) => membership,
            Err(error) => return self.trouble(error),
        };
        let owner = membership.owner();
        self.say(format_args!("joined {} {}", owner.host, owner.generation));
        let end = boottime() + nanos(Duration::from_millis(random.random_range(2_000..20_000)));
        thread::scope(|scope| {
            for (number, resource) in resources.iter().enumerate() {
                let mut random = StdRng::seed_from_u64(random.random());
                let membership = &membership;
                scope.spawn(move || self.contend(membership, number, resource, end, &mut random));
            }
        });
        if let Err(error) = membership.leave() {
            self.trouble(error);
        }
    }

    fn contend(&self, membership: &Membership, number: usize, resource: &Resource, end: u64, random: &mut StdRng) {
        while boottime() < end && !self.is_over() {
            let wait = match random.random_range(0..4) {
                0 => Wait::No,
                _ => Wait::For(Duration::from_millis(random.random_range(100..1_500))),
            };
            match membership.acquire(resource, wait) {
                Ok(lease) => self.hold(lease, number, random),
                Err(AcquireError::Lost(reason)) => return self.trouble(reason),
                // They say no more than that another one was first.
                Err(AcquireError::Held { .. }) => {}
                Err(error) => self.trouble(error),
            }
            thread::sleep(Duration::from_millis(random.random_range(1..20)));
        }
    }

    fn hold(&self, lease: Lease, number: usize, random: &mut StdRng) {
        let this = format!("{number} {}", lease.version());
        let span = Duration::from_millis(match random.random_range(0..10) {
            0..3 => random.random_range(500..3_000),
            3..6 => random.random_range(50..500),
            _ => random.random_range(0..20),
        });
        let acquired = boottime();
        let mut status = lease.status();
        // Stopped in between, say: what was acquired is lost already.
        let Some(mut known) = deadline(&status) else { return self.say("trouble LostAtOnce") };
        let owner = lease.owner();
        self.say(format_args!("acquired {this} {} {} {acquired} {known}", owner.host, owner.generation));
        while lease.is_held() {
            self.say(format_args!("write {this}"));
            if lease.is_held() {
                self.say(format_args!("wrote {this}"));
            }
            let now = boottime();
            if now >= acquired + nanos(span) {
                break;
            }
            let left = Duration::from_nanos(acquired + nanos(span) - now);
            status = lease.status_change(&status, left.min(Duration::from_millis(20)));
            if let Some(deadline) = deadline(&status).filter(|deadline| *deadline != known) {
                known = deadline;
                self.say(format_args!("until {this} {known}"));
            }
        }
        let released = boottime();
        if let Status::Lost { reason } = lease.status() {
            self.say(format_args!("lost {this}"));
            let alone = matches!(reason, LossReason::Unverified { .. } | LossReason::Fenced(_));
            self.trouble(reason);
            // A write that was on its way when it was lost: the larger version must keep it out.
            self.say(format_args!("late {this}"));
            // What is lost alone is given back as soon as its holder has stopped; that is now, and not G later.
            if alone {
                self.say(format_args!("releasing {this} {}", boottime()));
            }
            return;
        }
        self.say(format_args!("releasing {this} {released}"));
        if random.random_range(0..8) == 0 {
            return drop(lease);
        }
        match lease.release() {
            Ok(()) => {}
            Err(ReleaseError::Lost(reason)) => self.trouble(reason),
            Err(error) => self.trouble(error),
        }
    }
}

fn deadline(status: &Status) -> Option<u64> {
    match status {
        Status::Held { until } | Status::Late { until } => Some(until.as_nanos()),
        Status::Lost { .. } => None,
    }
}

// ---- The disk ----

/// Freezes the file system when told to, and thaws it: in a process of its own, so that it is thawed whatever becomes
/// of the test. When that ends without a word, it cleans up too.
fn keep(mark: &str, folder: &Path, point: &str) {
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["freeze", millis] => {
                let millis = millis.parse().unwrap();
                run("fsfreeze", &["-f", point]);
                thread::sleep(Duration::from_millis(millis));
                run("fsfreeze", &["-u", point]);
            }
            ["done"] => return,
            _ => panic!("no such order: {line}"),
        }
    }
    for pid in processes::living(mark) {
        processes::signal_process(pid, Signal::KILL);
    }
    until("the end of all hosts", || processes::living(mark).is_empty());
    // The one below the file system goes when that is unmounted.
    for device in fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap()) {
        let backing = read(&device.path().join("loop/backing_file"));
        if Path::new(&backing).starts_with(folder) {
            run("losetup", &["-d", text(&Path::new("/dev").join(device.file_name()))]);
        }
    }
    until("the unmounting", || Command::new("umount").arg(point).output().is_ok_and(|output| output.status.success()));
    fs::remove_dir_all(folder).unwrap();
}

/// The process that does [`keep`].
struct Keeper(Child);

impl Keeper {
    fn start(mark: &Mark, disk: &SharedDisk) -> Keeper {
        let task = ["faults", "keeper", mark.name(), text(disk.folder.path()), text(&disk.mounted.point)];
        // In a group of its own, so that an interrupt at the terminal ends the test only.
        let mut command = processes::worker(&task);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        Keeper(command.spawn().unwrap())
    }

    fn tell(&mut self, order: &str) {
        self.0.stdin.as_mut().unwrap().write_all(order.as_bytes()).expect("the process that freezes is there");
    }

    /// Whether it has done all that it was told. Everything is thawed afterwards.
    fn end(&mut self) -> bool {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        self.0.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Keeper {
    /// So that what comes then can end.
    fn drop(&mut self) {
        self.end();
    }
}

/// One way to the disk: a partition of a loop device of its own.
struct DiskPath {
    device: Loop,
    node: PathBuf,
    /// In units of 512 bytes.
    len: u64,
    sector: u64,
    /// How many faults have taken it away.
    cut: usize,
}

impl DiskPath {
    fn new(backing: &Path, sector: u64, folder: &Path, number: usize) -> DiskPath {
        const START: u64 = 2_048;
        // With `-P` there may be partitions; a table there is not.
        let device = Loop::new(backing, &["--direct-io=on", "-P", &format!("--sector-size={sector}")]);
        let len = fs::metadata(backing).unwrap().len() / 512 - START;
        run("addpart", &[text(&device.0), "1", &START.to_string(), &len.to_string()]);
        let name = device.0.file_name().unwrap().to_str().unwrap();
        let numbers = read(Path::new(&format!("/sys/block/{name}/{name}p1/dev")));
        let (major, minor) = numbers.trim().split_once(':').expect("the partition's numbers");
        let node = folder.join(format!("path-{number}"));
        run("mknod", &[text(&node), "b", major, minor]);
        DiskPath { device, node, len, sector, cut: 0 }
    }

    fn resize(&self, len: u64) {
        run("resizepart", &[text(&self.device.0), "1", &len.to_string()]);
    }

    fn cut(&mut self) {
        self.cut += 1;
        self.resize(self.sector / 512);
    }

    fn restore(&mut self) {
        self.cut -= 1;
        if self.cut == 0 {
            self.resize(self.len);
        }
    }
}

/// A file on a file system of its own, and two ways to it. Taken down in this order.
struct SharedDisk {
    paths: [DiskPath; 2],
    mounted: Mounted,
    folder: TempDir,
}

impl SharedDisk {
    fn new(sector: u64) -> SharedDisk {
        let folder = folder();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(160 << 20).unwrap();
        let mounted = Mounted::new(folder.path(), &image, &["--direct-io=on"]);
        let backing = mounted.point.join("disk");
        fs::write(&backing, vec![0; 64 << 20]).unwrap();
        File::open(&backing).unwrap().sync_all().unwrap();
        let paths = [0, 1].map(|number| DiskPath::new(&backing, sector, folder.path(), number));
        SharedDisk { paths, mounted, folder }
    }

    /// A lockspace with the resources.
    fn format(&self) {
        with_resources(disk(&self.paths[0].node), times(), &RESOURCES);
    }
}

// ---- The test ----

/// Hosts on a disk. Taken down in this order: nothing that hangs is waited for before it is thawed.
struct Stage {
    keeper: Keeper,
    /// `None`: killed, and not started again yet.
    hosts: Vec<Option<Process>>,
    /// Killed. One whose write hangs is not dead before the write has ended.
    killed: Vec<Process>,
    mark: Mark,
    disk: SharedDisk,
    random: StdRng,
    starts: usize,
    journal: Journal,
    lines: File,
    unfinished: Vec<u8>,
    path: PathBuf,
}

impl Stage {
    fn new(hosts: usize, mut random: StdRng) -> Stage {
        let disk = SharedDisk::new(if random.random() { 512 } else { 4096 });
        disk.format();
        let path = disk.folder.path().join("journal");
        File::create(&path).unwrap();
        let mark = Mark::new();
        let keeper = Keeper::start(&mark, &disk);
        let lines = File::open(&path).unwrap();
        let mut stage = Stage {
            keeper,
            hosts: (0..hosts).map(|_| None).collect(),
            killed: Vec::new(),
            mark,
            disk,
            random,
            starts: 0,
            journal: Journal::default(),
            lines,
            unfinished: Vec::new(),
            path,
        };
        (0..hosts).for_each(|host| stage.act(Action::Start(host)));
        stage
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Kill(host) => {
                if let Some(process) = self.hosts[host].take() {
                    process.signal(Signal::KILL);
                    self.killed.push(process);
                }
            }
            Action::Start(host) if self.hosts[host].is_none() => {
                let node = &self.disk.paths[(host + self.starts) % 2].node;
                // The last one takes any id. The others have theirs, and not 1, which is left of a path that is cut.
                let id = if host + 1 == self.hosts.len() { 0 } else { host + 2 };
                let [index, id, seed] = [host as u64, id as u64, self.random.random()].map(|word| word.to_string());
                let stop = self.stop_file();
                let task = ["faults", "host", &index, &id, &seed, text(node), text(&self.path), text(&stop)];
                self.hosts[host] = Some(Process::start(&mut processes::worker(&task), &self.mark));
                self.starts += 1;
            }
            Action::Start(_) => {}
            Action::Stop(host) => self.signal(host, Signal::STOP),
            Action::Continue(host) => self.signal(host, Signal::CONT),
            Action::Freeze(millis) => self.keeper.tell(&format!("freeze {millis}\n")),
            Action::Cut(path) => self.disk.paths[path].cut(),
            Action::Restore(path) => self.disk.paths[path].restore(),
        }
    }

    fn signal(&self, host: usize, signal: Signal) {
        if let Some(process) = &self.hosts[host] {
            process.signal(signal);
        }
    }

    /// Tells the hosts to end.
    fn stop_file(&self) -> PathBuf {
        self.disk.folder.path().join("stop")
    }

    /// Reads what was written since, and looks after the hosts.
    fn listen(&mut self) {
        for (host, process) in self.hosts.iter_mut().enumerate() {
            if let Some(process) = process
                && let Some(status) = process.ended()
            {
                panic!("host {host} ended by itself, {status}: {}{}", process.said(), process.complained());
            }
        }
        self.killed.retain_mut(|process| process.ended().is_none());
        self.take_lines();
    }

    fn take_lines(&mut self) {
        self.lines.read_to_end(&mut self.unfinished).unwrap();
        let end = self.unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = String::from_utf8(self.unfinished.drain(..end).collect()).unwrap();
        let verdict = lines.lines().try_for_each(|line| self.journal.take(line));
        self.demand(verdict);
    }

    /// A journal that shows a violation is kept.
    fn demand(&self, verdict: Result<(), String>) {
        if let Err(violation) = verdict {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.journal", std::process::id()));
            fs::copy(&self.path, &kept).unwrap();
            panic!("{violation}\nthe journal is kept as {}", kept.display());
        }
    }

    fn check(&self) {
        self.demand(self.journal.check());
    }

    /// Waits until all these hosts have acquired each resource since then.
    fn await_progress(&mut self, hosts: &[usize]) -> Duration {
        let since = boottime();
        while !hosts.iter().all(|host| self.journal.progressed(*host, since)) {
            self.listen();
            if boottime() > since + nanos(RECOVERY) {
                let verdict = hosts.iter().map(|host| format!("{host}: {}", self.journal.progressed(*host, since)));
                let stuck = verdict.collect::<Vec<_>>().join(", ");
                self.demand(Err(format!("not all hosts make progress after {RECOVERY:?}: {stuck}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Duration::from_nanos(boottime() - since)
    }
}

#[test]
fn nothing_that_fails_makes_two_holders_and_all_go_on_when_it_is_over() {
    let seed = number("LEASEHOLD_SEED").unwrap_or_else(rand::random);
    let seconds = number("LEASEHOLD_FAULT_SECONDS").unwrap_or(4);
    let hosts = number("LEASEHOLD_FAULT_HOSTS").unwrap_or(5).clamp(2, 64) as usize;
    println!(
        "LEASEHOLD_SEED={seed} LEASEHOLD_FAULT_SECONDS={seconds} LEASEHOLD_FAULT_HOSTS={hosts} \
         cargo test -p leasehold-command --test hosts faults:: -- --nocapture"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let plan = plan(&mut random, hosts, seconds * 1_000);
    let mut stage = Stage::new(hosts, random);

    let start = boottime();
    let mut checked = start;
    for (at, action) in &plan {
        let due = start + nanos(Duration::from_millis(*at));
        while boottime() < due {
            stage.listen();
            thread::sleep(Duration::from_nanos(due.saturating_sub(boottime())).min(Duration::from_millis(20)));
        }
        if boottime() - checked > nanos(Duration::from_secs(60)) {
            checked = boottime();
            stage.check();
            println!("{} s: {} holdings", (checked - start) / 1_000_000_000, stage.journal.holdings().count());
        }
        stage.act(*action);
    }

    // Every fault has been ended by the plan; a file system that took long to freeze is thawed in a moment.
    let all: Vec<usize> = (0..hosts).collect();
    let recovered = stage.await_progress(&all);
    let survivor = stage.random.random_range(0..hosts);
    all.iter().filter(|host| **host != survivor).for_each(|host| stage.act(Action::Kill(*host)));
    let alone = stage.await_progress(&[survivor]);
    fs::write(stage.stop_file(), "").unwrap();
    let mut last = stage.hosts[survivor].take().unwrap();
    assert_eq!(last.code(), 0, "{}{}", last.said(), last.complained());
    stage.take_lines();
    stage.check();
    assert!(stage.keeper.end(), "not every freeze was one");

    let journal = &stage.journal;
    let of_host = |host: usize| journal.holdings().filter(|holding| holding.host == host).count();
    let holdings: Vec<usize> = all.iter().map(|host| of_host(*host)).collect();
    let (taken_over, refused) = (journal.taken_over(), journal.refused);
    println!("{} actions, {} starts of hosts, sectors of {}", plan.len(), stage.starts, stage.disk.paths[0].sector);
    println!("holdings {holdings:?}, {taken_over} of them taken over, {refused} writes refused");
    println!("all went on after {recovered:?}, the last one after {alone:?}");
    println!("failures that hosts met: {:?}", journal.troubles);
    // The faults were felt. In half a minute of them there is one that costs every holder its lease.
    assert!(seconds < 30 || taken_over > 0);
}

// ---- The checker ----

/// Holder 1 acquires version 5 at 100 and holds until 1000; then what the lines say.
fn judge(lines: &[&str]) -> Result<(), String> {
    let mut journal = Journal::default();
    journal.take("1 acquired 0 5 7 1 100 1000")?;
    lines.iter().try_for_each(|line| journal.take(line))?;
    journal.check()
}

#[test]
fn the_checker_knows_when_a_holding_is_over() {
    let fence = nanos(times().fence());
    let next = |at: u64| format!("2 acquired 0 6 8 1 {at} 99999999999");
    assert_eq!(judge(&[&next(1_000 + fence)]), Ok(()));
    assert!(judge(&[&next(999 + fence)]).unwrap_err().contains("before version 5 was over"));
    assert!(judge(&["1 until 0 5 1001", &next(1_000 + fence)]).is_err());
    assert!(judge(&["1 lost 0 5", &next(999 + fence)]).is_err());
    assert_eq!(judge(&["1 lost 0 5", "1 releasing 0 5 1001", &next(1_001)]), Ok(()));
    assert_eq!(judge(&["1 releasing 0 5 200", &next(200)]), Ok(()));
    assert!(judge(&["1 releasing 0 5 200", &next(199)]).is_err());
    // The other resource is another matter.
    assert_eq!(judge(&["2 acquired 1 6 8 1 101 1000"]), Ok(()));
}

#[test]
fn the_checker_sees_versions_and_generations_that_do_not_grow() {
    let later = 1_000 + nanos(times().fence());
    assert!(judge(&[&format!("2 acquired 0 5 8 1 {later} {later}")]).unwrap_err().contains("two owners"));
    assert!(judge(&[&format!("2 acquired 0 4 8 1 {later} {later}")]).is_err());
    assert_eq!(judge(&["1 joined 7 1", "2 joined 8 1", "1 joined 7 2"]), Ok(()));
    assert!(judge(&["1 joined 7 1", "2 joined 7 1"]).unwrap_err().contains("does not grow"));
}

#[test]
fn the_checker_refuses_writes_behind_a_larger_version() {
    let next = "2 acquired 0 6 8 1 99999999999 99999999999";
    assert_eq!(judge(&["1 write 0 5", "1 wrote 0 5", next, "2 write 0 6", "2 wrote 0 6", "1 late 0 5"]), Ok(()));
    let blind = judge(&[next, "2 write 0 6", "1 write 0 5", "1 wrote 0 5"]);
    assert!(blind.unwrap_err().contains("believes that it holds"));
}

#[test]
fn the_checker_takes_no_failure_that_no_fault_explains() {
    assert_eq!(judge(&["1 trouble Disk reading 512 bytes"]), Ok(()));
    assert!(judge(&["1 trouble Overwritten by host-3"]).is_err());
    assert!(judge(&["1 trouble"]).is_ok());
    assert!(judge(&["gibberish"]).is_err());
    assert!(judge(&["1 write 0 9"]).is_err());
}

#[test]
fn a_seed_gives_one_plan_with_every_kind_of_fault_and_every_fault_ends() {
    let of = |seed| plan(&mut StdRng::seed_from_u64(seed), 5, 30_000);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    for seed in 0..100 {
        let plan = of(seed);
        assert!(plan.is_sorted_by_key(|(at, _)| *at));
        let count = |wanted: fn(&Action) -> bool| plan.iter().filter(|(_, action)| wanted(action)).count();
        assert!(count(|action| matches!(action, Action::Freeze(_))) >= 2);
        for (begun, ended) in [
            (count(|action| matches!(action, Action::Kill(_))), count(|action| matches!(action, Action::Start(_)))),
            (count(|action| matches!(action, Action::Stop(_))), count(|action| matches!(action, Action::Continue(_)))),
            (count(|action| matches!(action, Action::Cut(_))), count(|action| matches!(action, Action::Restore(_)))),
        ] {
            assert!(begun == ended && begun >= 2, "{plan:?}");
        }
    }
}
