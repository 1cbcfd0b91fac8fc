//! Any one sector of a device damaged in any way: every command ends, without a panic, and either does its work or
//! says which device, where and why; what doesn't need the damaged sector goes on.
//!
//! What a resource needs of a device besides its own area:
//! - by its place (`NAME@OFFSET`): nothing that one sector holds. Of the lockspace any record will do, and the host
//!   takes an id whose record is good.
//! - by its name: also the index header, and the sector of the index in which its entry stands.
//!
//! `LEASEHOLD_SEED=n` replays one run; `LEASEHOLD_SEEDS=n` says how many there are. The seed chooses sectors and bytes;
//! the device that they are written to is made anew each time.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;

use common::devices::folder;
use common::processes::{Mark, Process};
use common::{PATIENCE, until};

const SEEDS: u64 = 1;
const SECTOR: usize = 512;
const AREA: u64 = 1 << 20;
const DISK_BYTES: u64 = 8 << 20;
/// Cases that are tried at the same time. They mostly wait.
const AT_ONCE: usize = 12;
/// How often a command may fail for another reason than the damage, which is that the machine is busy.
const TRIES: usize = 6;
/// The exit codes in `leasehold --help`, but those of the command that is run.
const DOCUMENTED: [i32; 8] = [0, 64, 65, 66, 69, 73, 74, 75];

/// A device with three resources, all of which were used: `crashed` by a host that was killed and did not release it.
struct Base {
    image: Vec<u8>,
    /// Hosts that left, and the one that was killed.
    hosts: Vec<u64>,
    killed: u64,
}

const NAMES: [&str; 3] = ["first", "second", "crashed"];

fn area_of(name: &str) -> u64 {
    let number = NAMES.iter().position(|known| *known == name).unwrap() as u64;
    (3 + number) * AREA
}

fn place_of(name: &str) -> String {
    format!("{name}@{}", area_of(name))
}

#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

fn leasehold(folder: &Path, mark: &Mark, args: &[&str]) -> Process {
    Process::start(Command::new(env!("CARGO_BIN_EXE_leasehold")).args(args).current_dir(folder), mark)
}

fn ended(folder: &Path, mark: &Mark, args: &[&str]) -> Ended {
    let mut process = leasehold(folder, mark, args);
    let code = process.code();
    Ended { code, out: process.said(), err: process.complained() }
}

/// `run` with these arguments before the command, which prints its version.
fn run<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--device", "disk", "--wait", "20s"], args, &["--", "sh", "-c", "echo $LEASEHOLD_VERSION"]].concat()
}

/// Made once for all tests.
fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(make_base)
}

fn make_base() -> Base {
    let (folder, mark) = (folder(), Mark::new());
    let folder = folder.path();
    File::create(folder.join("disk")).unwrap().set_len(DISK_BYTES).unwrap();
    // Each may fail because the machine is busy.
    let ok = |args: &[&str]| {
        let mut all = (0..TRIES).map(|_| ended(folder, &mark, args));
        let done = all.any(|ended| ended.code == 0 || ended.err.contains("already has a resource"));
        assert!(done, "{args:?}: {:?}", ended(folder, &mark, args));
    };
    ok(&["format", "disk", "--profile", "fast", "--force"]);
    NAMES.iter().for_each(|name| ok(&["create", "disk", name]));
    for (host, name) in [("3", "first"), ("5", "first"), ("3", "second"), ("5", "second"), ("5", "crashed")] {
        ok(&run(&["--host-id", host, "--host-name", &format!("host-{host}"), name]));
    }
    let hold = ["run", "--device", "disk", "--wait", "20s", "--host-id", "7", "--host-name", "host-7", "crashed"];
    let hold = [&hold[..], &["--", "sh", "-c", "echo > held; sleep 1000"]].concat();
    let mut holder = leasehold(folder, &mark, &hold);
    until("the holder", || {
        if holder.ended().is_some() {
            holder = leasehold(folder, &mark, &hold);
        }
        folder.join("held").exists()
    });
    holder.signal(Signal::KILL);
    holder.wait();
    let image = fs::read(folder.join("disk")).unwrap();
    let used = |id: &u64| image[(*id as usize - 1) * SECTOR + 40..][..8] != [0; 8];
    Base { hosts: (1..=2000).filter(used).filter(|id| *id != 7).collect(), killed: 7, image }
}

/// What stands in a sector.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    HostRecord(u64),
    /// Behind the records.
    Spare,
    IndexHeader,
    /// With the entries of all resources here.
    Entries,
    FreeEntries,
    Leader(&'static str),
    Request(&'static str),
    Block(&'static str, u64),
}

const INDEX_LEASE: &str = "rindex_lease";

impl What {
    fn offset(self) -> u64 {
        let sector = |number: u64| number * SECTOR as u64;
        let area = |name| if name == INDEX_LEASE { 2 * AREA } else { area_of(name) };
        match self {
            What::HostRecord(id) => sector(id - 1),
            What::Spare => sector(2010),
            What::IndexHeader => AREA,
            What::Entries => AREA + sector(1),
            What::FreeEntries => AREA + sector(9),
            What::Leader(name) => area(name),
            What::Request(name) => area(name) + sector(1),
            What::Block(name, id) => area(name) + sector(1 + id),
        }
    }

    /// The resource whose area it is in.
    fn resource(self) -> Option<&'static str> {
        match self {
            What::Leader(name) | What::Request(name) | What::Block(name, _) => {
                Some(name).filter(|name| *name != INDEX_LEASE)
            }
            _ => None,
        }
    }
}

/// What becomes of a sector.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Random,
    Zeros,
    Ones,
    /// The first half is random.
    Head,
    /// The second half is random.
    Tail,
}

const HARMS: [Harm; 5] = [Harm::Random, Harm::Zeros, Harm::Ones, Harm::Head, Harm::Tail];

impl Harm {
    fn apply(self, sector: &mut [u8], random: &mut StdRng) {
        let half = sector.len() / 2;
        match self {
            Harm::Random => random.fill_bytes(sector),
            Harm::Zeros => sector.fill(0),
            Harm::Ones => sector.fill(0xff),
            Harm::Head => random.fill_bytes(&mut sector[..half]),
            Harm::Tail => random.fill_bytes(&mut sector[half..]),
        }
    }

    /// Whether the damage can be seen in a sector that was in use or not. Nothing tells a block or an entry that was
    /// zeroed from one that is free, the index, a request and an unwritten block have no checksum, and nobody looks at
    /// what has no use.
    fn shows_in(self, what: What, in_use: bool) -> bool {
        match what {
            What::Spare => false,
            What::HostRecord(_) | What::Leader(_) => true,
            What::IndexHeader => self != Harm::Tail,
            What::Request(_) => !matches!(self, Harm::Zeros | Harm::Tail),
            What::Entries | What::FreeEntries => self != Harm::Zeros,
            What::Block(..) => self != Harm::Zeros && (in_use || self != Harm::Tail),
        }
    }
}

struct Case<'a> {
    base: &'a Base,
    seed: u64,
    what: What,
    harm: Harm,
    random: u64,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { seed, what, harm, .. } = self;
        write!(
            f,
            "{harm:?} in {what:?} at offset {}; replay: LEASEHOLD_SEED={seed} cargo test --test damage",
            what.offset()
        )
    }
}

impl Case<'_> {
    /// Writes the damaged device into the folder.
    fn spoil(&self, folder: &Path) {
        let disk = File::create(folder.join("disk")).unwrap();
        disk.set_len(DISK_BYTES).unwrap();
        for (page, at) in
            self.base.image.chunks(4096).zip(0u64..).filter(|(page, _)| page.iter().any(|byte| *byte != 0))
        {
            disk.write_all_at(page, at * 4096).unwrap();
        }
        let at = self.what.offset();
        let mut sector = self.base.image[at as usize..at as usize + SECTOR].to_vec();
        self.harm.apply(&mut sector, &mut StdRng::seed_from_u64(self.random));
        disk.write_all_at(&sector, at).unwrap();
        disk.sync_all().unwrap();
    }

    /// Whether a message names the device, and a place in the damaged sector.
    fn is_named_in(&self, err: &str) -> bool {
        let from = self.what.offset();
        let offsets = err.split("offset ").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse::<u64>().ok()
        });
        let mut offsets = offsets.filter(|offset| (from..from + SECTOR as u64).contains(offset));
        err.contains("of disk") && offsets.next().is_some()
    }

    /// Runs a command until it ends in one of these ways. It may fail a few times because the machine is busy; what
    /// never may happen is that it panics, hangs, or exits with a code that is not documented.
    fn until(
        &self,
        folder: &Path,
        mark: &Mark,
        args: &[&str],
        accepted: &dyn Fn(&Ended) -> bool,
    ) -> Result<Ended, String> {
        let mut ends: Vec<String> = Vec::new();
        let (mut tries, start) = (0, Instant::now());
        while tries < TRIES && start.elapsed() < PATIENCE {
            let ended = ended(folder, mark, args);
            if accepted(&ended) {
                return Ok(ended);
            }
            // In another case: the copies of one lockspace are the same one to what keeps a host id from being held
            // twice.
            match ended.err.contains("held by another process on this machine") {
                true => thread::sleep(Duration::from_millis(100)),
                false => tries += 1,
            }
            let end = format!("exit code {}: {}", ended.code, ended.err.trim_end());
            if !DOCUMENTED.contains(&ended.code) || ended.err.contains("panicked") {
                return Err(format!("{self}\n{args:?}\n{end}"));
            }
            if ends.last() != Some(&end) {
                ends.push(end);
            }
        }
        Err(format!("{self}\n{args:?}\n{}", ends.join("\n")))
    }

    fn check(&self) -> Result<(), String> {
        let (folder, mark) = (folder(), Mark::new());
        let folder = folder.path();
        self.spoil(folder);
        let in_use = self.base.image[self.what.offset() as usize..][..SECTOR].iter().any(|byte| *byte != 0);
        let shows = self.harm.shows_in(self.what, in_use);
        let named = |ended: &Ended| ended.code == 65 && self.is_named_in(&ended.err);
        let fine = |ended: &Ended| ended.code == 0;
        let until = |args: &[&str], accepted: &dyn Fn(&Ended) -> bool| self.until(folder, &mark, args, accepted);

        // Looking. Nothing looks at a request yet but `dump`.
        let dump = until(&["dump", "disk", "--json"], if shows { &named } else { &fine })?;
        let records: Value = serde_json::from_str(&dump.out).unwrap();
        let range = self.what.offset()..self.what.offset() + SECTOR as u64;
        for record in records.as_array().unwrap() {
            let hit = range.contains(&record["offset"].as_u64().unwrap());
            if !record["error"].is_null() && !hit {
                return Err(format!("{self}\nwhat is not damaged has an error: {record}"));
            }
        }
        if self.harm == Harm::Random {
            until(&["dump", "disk"], if shows { &named } else { &fine })?;
        }
        let in_status = shows && !matches!(self.what, What::Request(_));
        let status = until(&["status", "disk", "--json", "--watch-for", "0s"], if in_status { &named } else { &fine })?;
        let status: Value = serde_json::from_str(&status.out).unwrap();
        if status["damaged"].is_array() != in_status {
            return Err(format!("{self}\n{status}"));
        }

        // The others go on.
        let (hit, others): (Vec<_>, Vec<_>) = NAMES.iter().partition(|name| self.what.resource() == Some(name));
        let index_is_hit = matches!(self.what, What::IndexHeader | What::Entries);
        let other = others[self.random as usize % others.len()];
        until(&run(&[&place_of(other)]), &fine)?;
        match index_is_hit {
            false => until(&run(&[other]), &fine),
            true => until(&run(&[other]), &|ended| {
                fine(ended) || named(ended) || self.harm == Harm::Zeros && ended.code == 66
            }),
        }?;

        // The damaged one works or says why not. What its leader says can't be guessed.
        for name in hit {
            let refused = self.what == What::Leader(name);
            let ended = until(&run(&[&place_of(name)]), &|ended| {
                if refused { named(ended) } else { fine(ended) || named(ended) }
            })?;
            if fine(&ended) {
                let version: u64 = ended.out.trim().parse().unwrap();
                let before = self.leader_version(name);
                if version <= before {
                    return Err(format!("{self}\nversion {version} of {name} after {before}"));
                }
            }
        }
        if let What::HostRecord(id) = self.what {
            until(&run(&["--host-id", &id.to_string(), other]), &|ended| fine(ended) || named(ended))?;
        }

        // A new one has nothing to do with the areas of others.
        if self.what.resource().is_some() {
            return Ok(());
        }
        let created = until(&["create", "disk", "new"], &|ended| fine(ended) || named(ended))?;
        if fine(&created) {
            until(&run(&["new"]), &|ended| fine(ended) || index_is_hit && named(ended))?;
        }
        Ok(())
    }
}

impl Case<'_> {
    fn leader_version(&self, name: &str) -> u64 {
        let lver = area_of(name) as usize + 48;
        u64::from_le_bytes(self.base.image[lver..lver + 8].try_into().unwrap())
    }

    /// After a repair nothing is damaged, everything can be acquired, and no version comes back.
    fn check_repair(&self) -> Result<(), String> {
        let (folder, mark) = (folder(), Mark::new());
        let folder = folder.path();
        self.spoil(folder);
        let until = |args: &[&str], accepted: &dyn Fn(&Ended) -> bool| self.until(folder, &mark, args, accepted);
        let fine = |ended: &Ended| ended.code == 0;
        let wrong = |what: &str, ended: &Ended| Err(format!("{self}\n{what}: {ended:?}"));

        // Saying what would be done writes nothing.
        let spoiled = fs::read(folder.join("disk")).unwrap();
        let planned = until(&["repair", "disk", "--dry-run"], &|ended| fine(ended) || ended.code == 65)?;
        if fs::read(folder.join("disk")).unwrap() != spoiled {
            return wrong("a dry run wrote", &planned);
        }
        until(&["repair", "disk"], &|ended| fine(ended))?;
        if self.what == What::Entries {
            // Nothing is wrong with an entry that is free, but for the resource in its area.
            until(&["repair", "disk", "--index"], &fine)?;
        }
        let again = until(&["repair", "disk", "--json"], &fine)?;
        if again.out.trim() != "[]" {
            return wrong("something is damaged after the repair", &again);
        }
        // It looks at each record by itself, and not with the eyes of the repair.
        until(&["dump", "disk"], &fine)?;
        let status = until(&["status", "disk", "--json", "--watch-for", "0s"], &fine)?;

        // Whoever held a host id can be told from a record that only itself could read.
        if let What::HostRecord(id) = self.what
            && planned.code == 65
        {
            let status: Value = serde_json::from_str(&status.out).unwrap();
            let hosts = status["hosts"].as_array().unwrap();
            // An id that was never used is not among them.
            let host = hosts.iter().find(|host| host["host_id"] == id).unwrap_or(&Value::Null);
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            let record = &self.base.image[self.what.offset() as usize..][..SECTOR];
            let (before, generation) = (number(&record[40..48]), host["generation"].as_u64().unwrap_or(0));
            let right = match self.harm {
                // Sanlock's checksum covers nothing of the second half of the sector.
                Harm::Tail => generation == before,
                _ => generation <= before.max(1),
            };
            if !right {
                return Err(format!("{self}\ngeneration {before} became {host}"));
            }
            if !host.is_null() && host["state"] != "free" {
                let generation = generation.to_string();
                until(&["declare-dead", "disk", &id.to_string(), "--generation", &generation, "--fenced"], &fine)?;
            }
            until(&run(&["--host-id", &id.to_string(), "first"]), &fine)?;
        }
        for name in NAMES.iter().filter(|name| self.what.resource().is_none_or(|hit| hit == **name)) {
            // Its entry, too, is there.
            let ended = until(&run(&[name]), &fine)?;
            if ended.out.trim().parse::<u64>().unwrap() <= self.leader_version(name) {
                return wrong(&format!("after {}, {name}", self.leader_version(name)), &ended);
            }
        }
        until(&["create", "disk", "new"], &fine).map(|_| ())
    }
}

/// The sectors that one run damages: those that matter most, and some at random.
fn chosen(base: &Base, random: &mut StdRng) -> Vec<What> {
    let left = base.hosts[random.random_range(0..base.hosts.len())];
    let unused = random.random_range(100..=2000);
    vec![
        What::HostRecord(1),
        What::HostRecord(2),
        What::HostRecord(5),
        What::HostRecord(left),
        What::HostRecord(base.killed),
        What::HostRecord(unused),
        What::Spare,
        What::IndexHeader,
        What::Entries,
        What::FreeEntries,
        What::Leader(INDEX_LEASE),
        What::Block(INDEX_LEASE, left),
        What::Block(INDEX_LEASE, unused),
        What::Leader("first"),
        What::Request("first"),
        What::Block("first", 3),
        What::Block("first", 5),
        What::Block("second", unused),
        What::Leader("crashed"),
        What::Block("crashed", 5),
        What::Block("crashed", base.killed),
    ]
}

fn seeds() -> std::ops::Range<u64> {
    let from_environment = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match from_environment("LEASEHOLD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("LEASEHOLD_SEEDS").unwrap_or(SEEDS),
    }
}

/// In how many ways each sector is damaged: `LEASEHOLD_HARMS`, or in some of them, each sector in others.
fn harms_each() -> usize {
    std::env::var("LEASEHOLD_HARMS").map_or(2, |text| text.parse().unwrap()).min(HARMS.len())
}

/// Tries all `cases`, several at once.
fn all<'base>(cases: &[Case<'base>], check: impl Fn(&Case<'base>) -> Result<(), String> + Sync) {
    let queue = Mutex::new(cases.iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().next() else { return };
                    if let Err(failure) = check(case) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} cases:\n\n{}", failures.len(), cases.len(), failures.join("\n\n"));
}

#[test]
fn one_damaged_sector_is_named_and_keeps_nobody_else_from_working() {
    let base = base();
    assert!(base.hosts.contains(&3) && base.hosts.contains(&5), "{:?}", base.hosts);
    let mut cases = Vec::new();
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        for (what, number) in chosen(base, &mut random).into_iter().zip(seed as usize..) {
            let harms = HARMS.into_iter().cycle().skip(number).take(harms_each());
            cases.extend(harms.map(|harm| Case { base, seed, what, harm, random: random.random() }));
        }
    }
    all(&cases, Case::check);
}

/// Each sector in one way; the seed says in which one.
#[test]
fn what_one_damaged_sector_held_is_mended_by_a_repair() {
    let base = base();
    let mut cases = Vec::new();
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        for (what, number) in chosen(base, &mut random).into_iter().zip(seed as usize..) {
            cases.push(Case { base, seed, what, harm: HARMS[number % HARMS.len()], random: random.random() });
        }
    }
    all(&cases, Case::check_repair);
}
