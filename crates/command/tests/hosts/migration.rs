//! A program moves between two hosts by one handover after the other, while either side is killed at random moments.
//! What it counts shows whether it ever ran twice, or was begun with less than all that was done before.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use crate::common::devices::text;
use crate::common::processes::{Process, is_busy, read, run_worker};
use crate::common::scene::{Scene, WAIT};
use crate::common::{PATIENCE, boottime, number, until};

/// How many handovers there are when nothing is said.
const HANDOVERS: u64 = 2;

/// What a `run` says when its command is ended for a handover.
const TOLD_TO_END: &str = "the command is ended, to hand over";

/// The program that moves: `name` counts, in a file to which whoever owns the resource writes alone, until it is ended,
/// or its name stands in the file `end`.
pub(crate) fn work(task: &[&str]) {
    let ["count", folder, name] = *task else { panic!("no such task: {task:?}") };
    let version: u64 = std::env::var("LEASEHOLD_VERSION").unwrap().parse().unwrap();
    let path = |name: &str| Path::new(folder).join(name);
    let append = |name: &str| OpenOptions::new().create(true).append(true).open(path(name)).unwrap();
    let lock = append("lock");
    let alone = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    // From here on it counts by itself: what another one counts meanwhile stands twice in the file.
    let mut count = counts(&path("counts")).last().map_or(0, |last| last.count);
    let add = |mut file: &File, line: String| file.write_all(line.as_bytes()).unwrap();
    add(&append("begins"), format!("{name} {version} {} {count} {alone}\n", boottime()));
    let file = append("counts");
    while read(&path("end")) != name {
        count += 1;
        add(&file, format!("{version} {} {count}\n", boottime()));
        thread::sleep(Duration::from_millis(10));
    }
}

/// A line of what was counted.
struct Count {
    version: u64,
    at: u64,
    count: u64,
}

fn counts(path: &Path) -> Vec<Count> {
    let line = |line: &str| {
        let words: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let [version, at, count] = words[..] else { panic!("{line}") };
        Count { version, at, count }
    };
    read(path).lines().map(line).collect()
}

/// A command that began.
struct Begin {
    name: String,
    version: u64,
    at: u64,
    count: u64,
    alone: bool,
}

fn begins(path: &Path) -> Vec<Begin> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, version, at, count, alone] = words[..] else { panic!("{line}") };
        let number = |word: &str| word.parse::<u64>().unwrap();
        let (version, at, count) = (number(version), number(at), number(count));
        Begin { name: name.into(), version, at, count, alone: alone == "true" }
    };
    read(path).lines().map(line).collect()
}

/// What came of it all, by what has been written.
#[track_caller]
fn check(scene: &Scene) {
    let (begins, counts) = (begins(&scene.path("begins")), counts(&scene.path("counts")));
    for (at, count) in counts.iter().enumerate() {
        assert_eq!(count.count, at as u64 + 1, "lost, or counted twice, at version {}", count.version);
    }
    for pair in counts.windows(2) {
        assert!(pair[0].version <= pair[1].version && pair[0].at <= pair[1].at, "version {}", pair[0].version);
    }
    for pair in begins.windows(2) {
        assert!(pair[0].version < pair[1].version, "{} after {}", pair[1].version, pair[0].version);
    }
    for begin in &begins {
        let Begin { name, version, at, count, alone } = begin;
        assert!(alone, "{name} began while another one ran");
        let before = counts.iter().rfind(|count| count.version < *version);
        assert!(before.is_none_or(|last| last.at <= *at && last.count == *count), "{name} began before the end");
    }
}

/// A `run`, and the name of its host.
struct Run {
    process: Process,
    name: String,
}

/// Who is killed in one round, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Nobody,
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    victim: Victim,
    /// After the start of the round; or after the source's command was told to end.
    after: Duration,
    when_it_ends: bool,
    /// By `leasehold handover`, or by the end of the command.
    ordered: bool,
}

impl Round {
    fn new(random: &mut StdRng) -> Round {
        let victim = match random.random_range(0..4) {
            0 => Victim::Source,
            1 => Victim::Destination,
            _ => Victim::Nobody,
        };
        let when_it_ends = random.random();
        let latest = if when_it_ends { 300 } else { 2500 };
        let after = Duration::from_millis(random.random_range(0..latest));
        Round { victim, after, when_it_ends, ordered: random.random() }
    }
}

struct Migration {
    scene: Scene,
    started: usize,
    handovers: u64,
    killed: [u64; 2],
    /// Ends that a busy machine brought about.
    busy: u64,
}

impl Migration {
    fn start(&mut self, options: &[&str]) -> Run {
        self.started += 1;
        let name = format!("run{}", self.started);
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.current_dir(self.scene.folder.path()).args(["run", "--device", "disk", "--wait", WAIT]);
        command.args(["--host-name", &name]).args(options).args(["db", "--"]);
        let task = ["migration", "count", text(self.scene.folder.path()), &name];
        Run { process: Process::start(run_worker(&mut command, &task), &self.scene.mark), name }
    }

    fn has_begun(&self, run: &Run) -> bool {
        begins(&self.scene.path("begins")).iter().any(|begin| begin.name == run.name)
    }

    /// One that owns the resource, as if nobody had ever handed it over.
    #[track_caller]
    fn start_owner(&mut self) -> Run {
        loop {
            let mut run = self.start(&[]);
            until("the command of an owner", || run.process.ended().is_some() || self.has_begun(&run));
            if run.process.ended().is_none() {
                return run;
            }
            self.expect_end(&mut run, &[]);
        }
    }

    /// It has ended, or is about to, with one of these codes, unless the machine was busy.
    #[track_caller]
    fn expect_end(&mut self, run: &mut Run, codes: &[i32]) -> i32 {
        let code = run.process.code();
        let said = run.process.complained();
        if !codes.contains(&code) {
            let busy = is_busy(&said) || said.contains("has not confirmed");
            assert!(busy, "{} ended with {code}: {said}", run.name);
            self.busy += 1;
        }
        code
    }

    /// From one owner whose command runs to the next.
    #[track_caller]
    fn round(&mut self, mut source: Run, round: Round) -> Run {
        let mut dest = self.start(&["--receive"]);
        let (started, mut ends_since) = (Instant::now(), None);
        let mut to_kill = round.victim;
        let mut order: Option<Process> = None;
        loop {
            assert!(started.elapsed() < PATIENCE, "{round:?}: {}", source.process.complained());
            let due = if round.when_it_ends { ends_since } else { Some(started) };
            if due.is_some_and(|since: Instant| since.elapsed() >= round.after) {
                match std::mem::replace(&mut to_kill, Victim::Nobody) {
                    Victim::Nobody => {}
                    Victim::Source => self.killed[0] += u64::from(kill(&mut source)),
                    Victim::Destination => self.killed[1] += u64::from(kill(&mut dest)),
                }
            }
            let (begun, dest_ended) = (self.has_begun(&dest), dest.process.ended().is_some());
            if dest_ended || begun && to_kill == Victim::Nobody {
                break;
            }
            let told = source.process.complained();
            if round.ordered {
                // It may have waited in vain for a destination that takes its time.
                let waits = order.as_mut().is_some_and(|order| order.ended().is_none());
                if !waits && !begun && source.process.ended().is_none() {
                    let args = ["handover", "disk", "db", "--to", &dest.name, "--wait", "1s"];
                    order = Some(self.scene.start(&args));
                }
                if ends_since.is_none() && told.contains(TOLD_TO_END) {
                    ends_since = Some(Instant::now());
                }
            } else if ends_since.is_none() && told.contains(&format!("({}) generation", dest.name)) {
                fs::write(self.scene.path("end"), &source.name).unwrap();
                ends_since = Some(Instant::now());
            }
            thread::sleep(Duration::from_millis(2));
        }
        // What it was told to do at the last moment it does.
        if let Some(mut order) = order {
            order.wait();
        }
        self.settle(source, dest, round.victim)
    }

    /// Who goes on after a round.
    #[track_caller]
    fn settle(&mut self, mut source: Run, mut dest: Run, victim: Victim) -> Run {
        let begun = self.has_begun(&dest);
        self.handovers += u64::from(begun);
        let ends = source.process.complained().contains(TOLD_TO_END)
            || read(&self.scene.path("end")) == source.name
            || source.process.ended().is_some();
        let mut released = false;
        if begun || ends {
            // Killed; or told to end for a destination that was killed.
            let codes: &[i32] = match victim {
                Victim::Nobody => &[0],
                Victim::Source => &[0, 128 + 9],
                Victim::Destination => &[0, 128 + 15],
            };
            let code = self.expect_end(&mut source, codes);
            let said = source.process.complained();
            // The handover of one that is too busy for it comes to nothing, which leaves its command's code. So does
            // one to a destination of an earlier round, which was killed and is not known to be dead yet.
            let unconfirmed = said.contains("has not confirmed");
            released = code != 0 || unconfirmed || is_busy(&said) && said.contains("db was released");
            if !begun {
                println!("{} did not hand over: {said}", source.name);
            }
        }
        if begun && dest.process.ended().is_none() {
            return dest;
        }
        if !begun {
            let killed: &[i32] = if victim == Victim::Destination { &[128 + 9] } else { &[] };
            let left: &[i32] = if released { &[75] } else { &[] };
            self.expect_end(&mut dest, &[killed, left].concat());
        }
        if begun || ends { self.start_owner() } else { source }
    }
}

/// Whether it was there to be killed.
fn kill(run: &mut Run) -> bool {
    let lives = run.process.ended().is_none();
    if lives {
        run.process.signal(Signal::KILL);
        run.process.wait();
    }
    lives
}

#[test]
fn a_program_moves_to_and_fro_and_loses_nothing() {
    let handovers = number("LEASEHOLD_HANDOVERS").unwrap_or(HANDOVERS);
    let seed = number("LEASEHOLD_SEED").unwrap_or_else(rand::random);
    println!(
        "LEASEHOLD_SEED={seed} LEASEHOLD_HANDOVERS={handovers} cargo test -p leasehold-command --test hosts migration -- \
         --nocapture"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let scene = Scene::where_hosts_die(&["db"]).on_a_device();
    File::create(scene.path("counts")).unwrap();
    let mut migration = Migration { scene, started: 0, handovers: 0, killed: [0; 2], busy: 0 };
    let started = Instant::now();
    let mut owner = migration.start_owner();
    let mut rounds = 0;
    while migration.handovers < handovers {
        rounds += 1;
        let round = Round::new(&mut random);
        owner = migration.round(owner, round);
        check(&migration.scene);
    }
    let Migration { started: runs, killed: [sources, destinations], busy, .. } = migration;
    println!(
        "{handovers} handovers in {rounds} rounds of {runs} runs: killed {sources} sources and {destinations} \
         destinations, {busy} ended because the machine was busy, {:?}",
        started.elapsed()
    );
    drop(owner);
}
