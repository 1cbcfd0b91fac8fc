//! One lockspace, hosts of both kinds: the real sanlock and this project's command, on one loop device.
//!
//! Each sanlock host is a daemon of its own; T is 1 s, the shortest that sanlock has, so that a dead owner is replaced
//! after 68 s. What has to wait that long waits beside other tests.
//!
//! `LEASEHOLD_INTEROP_SECONDS`: how long the hosts contend (40).
//!
//! Needs root, `losetup`, `setpriv` and `sanlock`, which Debian has in util-linux and sanlock.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // In a test these are assertions and its report.

mod common;
#[path = "interop/contention.rs"]
mod contention;
#[path = "interop/control.rs"]
mod control;
#[path = "interop/death.rs"]
mod death;
#[path = "interop/dumps.rs"]
mod dumps;
#[path = "interop/handover.rs"]
mod handover;
#[path = "interop/lockspaces.rs"]
mod lockspaces;
#[path = "interop/modes.rs"]
mod modes;
#[path = "interop/notices.rs"]
mod notices;
#[path = "interop/owning.rs"]
mod owning;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use leasehold::Lockspace;
use leasehold::disk::{DirectDisk, Op};
use leasehold::format::{AreaSize, DeltaRecord, Geometry, Leader, SectorSize};
use serde_json::Value;
use tempfile::TempDir;

use common::command;
use common::devices::{Loop, disk, file, text, transfer};
use common::processes::{self, Mark, Process, is_busy};
use common::sanlock::{Sanlock, TOO_SLOW};
use common::{id, until};

/// T of all hosts where nothing else is said, in seconds.
const T: u64 = 1;

/// Not a test: what this program does in the processes that the tests start.
#[test]
fn worker() {
    let Some(task) = processes::task() else { return };
    contention::work(&task.split('\n').collect::<Vec<_>>());
}

/// A loop device with a lockspace of this name.
struct Device {
    lockspace: String,
    geometry: Geometry,
    node: Loop,
    mark: Mark,
    folder: TempDir,
}

/// What holders and their commands say when they hold: the clock in seconds, and for ours the version.
const HELD: &str = "read up rest < /proc/uptime; echo held $up ${LEASEHOLD_VERSION:-0}; exec sleep 1000";

impl Device {
    /// With nothing on it.
    fn empty(sector: SectorSize, area: AreaSize) -> Device {
        let (folder, backing) = file(128 << 20);
        let node = Loop::new(&backing, &["--direct-io=on", &format!("--sector-size={}", sector.bytes())]);
        let lockspace = format!("ls{}-{}M", sector.bytes(), area.mebibytes());
        Device { lockspace, geometry: Geometry::new(sector, area).unwrap(), node, mark: Mark::new(), folder }
    }

    fn small() -> Device {
        Device::empty(SectorSize::B512, AreaSize::M1)
    }

    /// Formatted by leasehold, with these resources.
    fn ours(resources: &[&str]) -> Device {
        let device = Device::small();
        device.format();
        if !resources.is_empty() {
            device.leasehold(&[&["create", device.path()], resources].concat(), 0);
        }
        device
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self) -> &str {
        text(&self.node.0)
    }

    /// Where an area starts.
    fn area(&self, number: u64) -> u64 {
        number * self.geometry.area_bytes()
    }

    /// As sanlock wants it.
    fn host(&self, host: u64) -> String {
        format!("{}:{host}:{}:0", self.lockspace, self.path())
    }

    /// As sanlock wants it: the resource in that area.
    fn resource(&self, name: &str, area: u64) -> String {
        format!("{}:{name}:{}:{}", self.lockspace, self.path(), self.area(area))
    }

    fn shared(&self, name: &str, area: u64) -> String {
        self.resource(name, area) + ":SH"
    }

    /// As sanlock wants it.
    fn index(&self) -> String {
        format!("{}:{}:{}", self.lockspace, self.path(), self.area(1))
    }

    /// As leasehold wants it: the resource in that area, whether it stands in the index or not.
    fn placed(&self, name: &str, area: u64) -> String {
        format!("{name}@{}", self.area(area))
    }

    /// What sanlock wants to know of the sizes.
    fn sizes(&self) -> [String; 4] {
        let (sector, area) = (self.geometry.sector_bytes(), self.geometry.area().mebibytes());
        ["-Z".into(), sector.to_string(), "-A".into(), format!("{area}M")]
    }

    /// Formats it with leasehold.
    fn format(&self) {
        let area = format!("{}M", self.geometry.area().mebibytes());
        let io = format!("{T}s");
        let options =
            ["--lockspace", &self.lockspace, "--profile", "sanlock", "--io-timeout", &io, "--area-size", &area];
        self.leasehold(&[&["format", self.path()], &options[..]].concat(), 0);
    }

    /// Runs a command of leasehold's; returns what it said.
    #[track_caller]
    fn leasehold(&self, words: &[&str], code: i32) -> String {
        for tried in 0..TRIES {
            let (ended, said) = command::leasehold(&self.mark, words);
            assert!(!said.contains("panicked"), "{said}");
            // What was made in an earlier try is there already.
            if ended == code || tried > 0 && code == 0 && said.contains("already has a resource") {
                return said;
            }
            assert!(is_busy(&said), "leasehold {words:?}: {ended}: {said}");
        }
        panic!("the machine is too busy");
    }

    /// `leasehold run`, with a command that says when it holds, and stays.
    fn run(&self, host: u64, options: &[&str], resource: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.args(["run", "--device", self.path(), "--host-id", &host.to_string(), "--host-name", &our_name(host)]);
        command.args(options).args([resource, "--", "sh", "-c", HELD]);
        Process::start(&mut command, &self.mark)
    }

    /// As [`Device::run`], once it holds: in which version.
    #[track_caller]
    fn hold(&self, host: u64, options: &[&str], resource: &str) -> (Process, u64) {
        for _ in 0..TRIES {
            let mut process = self.run(host, options, resource);
            until("an answer", || held(&process).is_some() || process.ended().is_some());
            match held(&process) {
                Some((_, version)) => return (process, version),
                None => assert!(is_busy(&process.complained()), "{}", process.complained()),
            }
        }
        panic!("the machine is too busy");
    }

    /// Acquires and releases, with nothing between; returns the version.
    #[track_caller]
    fn take(&self, host: u64, options: &[&str], resource: &str) -> u64 {
        let id = host.to_string();
        let words = ["run", "--device", self.path(), "--host-id", &id, "--host-name", &our_name(host)];
        let command = [resource, "--", "sh", "-c", "echo $LEASEHOLD_VERSION"];
        self.leasehold(&[&words[..], options, &command[..]].concat(), 0).trim().parse().unwrap()
    }

    /// `leasehold run` is refused with that exit code; returns what it said.
    #[track_caller]
    fn refused(&self, host: u64, options: &[&str], resource: &str, code: i32) -> String {
        let id = host.to_string();
        let words = ["run", "--device", self.path(), "--host-id", &id];
        self.leasehold(&[&words[..], options, &[resource, "--", "true"][..]].concat(), code)
    }

    /// `leasehold dump` or `status`, as it is for programs.
    #[track_caller]
    fn json(&self, command: &str, options: &[&str]) -> Value {
        let said = self.leasehold(&[&[command, self.path(), "--json"], options].concat(), 0);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// The states of the hosts as leasehold sees them, by host id.
    fn states(&self, watch_for: &str) -> Vec<(u64, String)> {
        states(&self.json("status", &["--watch-for", watch_for]))
    }

    fn disk(&self) -> Arc<DirectDisk> {
        disk(&self.node.0)
    }

    fn sector(&self, offset: u64) -> Vec<u8> {
        let lockspace = Lockspace::open(self.disk()).unwrap();
        lockspace.sectors(offset, 1).unwrap().pop().unwrap().unwrap()
    }

    fn write(&self, offset: u64, data: Vec<u8>) {
        transfer(&self.node.0, offset, Op::Write { data });
    }

    fn record(&self, host: u64) -> DeltaRecord {
        let at = self.geometry.delta_offset(id(host));
        DeltaRecord::decode(&self.sector(at), at).unwrap()
    }

    fn leader(&self, area: u64) -> Leader {
        let at = self.area(area);
        Leader::decode(&self.sector(at), at).unwrap()
    }

    /// sanlock makes the lockspace.
    fn init(&self, daemon: &Sanlock) {
        let (io, sizes) = (T.to_string(), self.sizes());
        let words = ["init", "-s", &self.host(0), "-o", &io];
        daemon.ask(&[&words[..], &sizes.each_ref().map(String::as_str)].concat()).expect(0);
    }

    /// sanlock makes the index.
    fn init_index(&self, daemon: &Sanlock) {
        let sizes = self.sizes();
        daemon.ask(&[&["format", "-x", &self.index()], &sizes.each_ref().map(String::as_str)[..]].concat()).expect(0);
    }

    /// sanlock makes a resource that stands alone.
    fn init_resource(&self, daemon: &Sanlock, name: &str, area: u64, options: &[&str]) {
        let (sizes, spec) = (self.sizes(), self.resource(name, area));
        let words = [&["init", "-r", &spec][..], &sizes.each_ref().map(String::as_str), options].concat();
        daemon.ask(&words).expect(0);
    }

    /// sanlock acquires it, and holds it until the process ends.
    #[track_caller]
    fn sanlock_holds(&self, daemon: &Sanlock, resource: &str) -> Process {
        for _ in 0..TRIES {
            let mut process = daemon.start_command(resource, &["/bin/sh", "-c", HELD]);
            until("an answer", || held(&process).is_some() || process.ended().is_some());
            if held(&process).is_some() {
                return process;
            }
            assert!(TOO_SLOW.contains(&refusal(&process)), "{}\n{}", process.said(), daemon.log());
        }
        panic!("the machine is too busy");
    }

    /// sanlock acquires and releases it; or the error that it gives.
    #[track_caller]
    fn sanlock_takes(&self, daemon: &Sanlock, resource: &str) -> Result<(), i64> {
        for _ in 0..TRIES {
            let mut process = daemon.start_command(resource, &["/bin/true"]);
            match process.code() {
                0 => return Ok(()),
                _ if TOO_SLOW.contains(&refusal(&process)) => {}
                _ => return Err(refusal(&process)),
            }
        }
        panic!("the machine is too busy");
    }

    /// As [`Device::sanlock_takes`], which goes on until it succeeds or is refused for another reason than a holder.
    #[track_caller]
    fn sanlock_takes_at_last(&self, daemon: &Sanlock, resource: &str) {
        until("sanlock's acquire", || match self.sanlock_takes(daemon, resource) {
            Ok(()) => true,
            Err(code) => {
                assert!(HELD_BY_ANOTHER.contains(&code), "{code}\n{}", daemon.log());
                false
            }
        });
    }
}

/// How often what fails because the machine is busy is tried.
const TRIES: usize = 10;

/// What sanlock answers when somebody else has the resource: live, owned, committed for another, sharers.
const HELD_BY_ANOTHER: [i64; 4] = [-243, -244, -245, -11];

/// Under what name the host with this id joins when it is ours.
fn our_name(host: u64) -> String {
    format!("ours{host}")
}

/// Why sanlock refused to acquire.
#[track_caller]
fn refusal(process: &Process) -> i64 {
    let said = process.said();
    let code = said.lines().rev().find_map(|line| line.strip_prefix("acquire done ")?.parse().ok());
    code.unwrap_or_else(|| panic!("neither held nor refused: {said}{}", process.complained()))
}

/// When a command began to hold, in seconds of the clock that all share, and in which version if it was told.
fn held(process: &Process) -> Option<(f64, u64)> {
    let said = process.said();
    let line = said.lines().find_map(|line| line.strip_prefix("held "))?;
    let (at, version) = line.split_once(' ')?;
    Some((at.parse().ok()?, version.parse().ok()?))
}

#[track_caller]
fn await_held(process: &mut Process) -> (f64, u64) {
    until("a holder", || {
        held(process).is_some() || {
            let ended = process.ended();
            assert!(ended.is_none(), "{ended:?}: {}{}", process.said(), process.complained());
            false
        }
    });
    held(process).unwrap()
}

fn states(status: &Value) -> Vec<(u64, String)> {
    let hosts = status["hosts"].as_array().unwrap().iter();
    hosts.map(|host| (host["host_id"].as_u64().unwrap(), host["state"].as_str().unwrap().into())).collect()
}

/// What leasehold says of a host.
fn holder(host: u64, name: &str, generation: u64) -> String {
    format!("host {host} ({name}) generation {generation}")
}
