//! A folder in which commands run, and how they end.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use leasehold::Timeouts;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::devices::{Loop, folder, lockspace};
use super::processes::{Mark, Process, is_busy};
use super::{timeouts, until};

/// More than any wait in these tests takes. Who waits so long gets there however busy the machine is.
pub(crate) const WAIT: &str = "50s";
/// How often a command is tried that fails because the machine is busy.
pub(crate) const TRIES: usize = 10;

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect(self, code: i32, says: &[&str]) -> Ended {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        for text in says {
            assert!(self.err.contains(text), "{text:?} is missing: {self:?}");
        }
        self
    }

    /// Whether it failed because the machine is busy, which says nothing.
    pub(crate) fn is_busy(&self) -> bool {
        is_busy(&self.err)
    }

    /// Whether its host id stays taken though it has left, which is legal where the disk is slow.
    pub(crate) fn has_kept_its_id(&self) -> bool {
        self.err.contains("the host id was not given back")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A folder in which commands run.
pub(crate) struct Scene {
    pub(crate) mark: Mark,
    pub(crate) folder: TempDir,
    /// What `disk` is another name of, where it is no file.
    device: Option<Loop>,
}

impl Scene {
    /// With nothing in it.
    pub(crate) fn empty() -> Scene {
        Scene { mark: Mark::new(), folder: folder(), device: None }
    }

    /// With a lockspace in the file `disk`.
    pub(crate) fn formatted(timeouts: Timeouts) -> Scene {
        let scene = Scene::empty();
        lockspace(&scene.path("disk"), timeouts);
        scene
    }

    /// With a lockspace in the file `disk` that has these resources. A busy machine doesn't cost a host its id there.
    pub(crate) fn with(resources: &[&str]) -> Scene {
        Scene::formatted(timeouts([300, 360, 10_000, 750, 10_750])).having(resources)
    }

    /// As [`Scene::with`], but hosts that are killed are dead soon.
    pub(crate) fn where_hosts_die(resources: &[&str]) -> Scene {
        Scene::formatted(timeouts([300, 360, 2_500, 750, 3_250])).having(resources)
    }

    fn having(self, resources: &[&str]) -> Scene {
        if !resources.is_empty() {
            self.run(&[&["create", "disk"], resources].concat()).expect(0, &[]);
        }
        self
    }

    /// As it is, with a loop device for `disk`.
    pub(crate) fn on_a_device(mut self) -> Scene {
        let (disk, backing) = (self.path("disk"), self.path("backing"));
        fs::rename(&disk, &backing).unwrap();
        let device = Loop::new(&backing, &["--direct-io=on"]);
        std::os::unix::fs::symlink(&device.0, disk).unwrap();
        self.device = Some(device);
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, len: u64) {
        fs::File::create(self.path(name)).unwrap().set_len(len).unwrap();
    }

    /// Changes bytes of `disk`.
    pub(crate) fn overwrite(&self, offset: u64, bytes: &[u8]) {
        let disk = fs::File::options().write(true).open(self.path("disk")).unwrap();
        disk.write_all_at(bytes, offset).unwrap();
        disk.sync_all().unwrap();
    }

    pub(crate) fn start(&self, args: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        Process::start(command.args(args).current_dir(self.folder.path()), &self.mark)
    }

    /// Runs a command to its end; again, if it could not be done because the machine is busy.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        let mut last = ended(self.start(args));
        for _ in 1..TRIES {
            if !last.is_busy() {
                break;
            }
            last = ended(self.start(args));
        }
        last
    }

    /// Runs a shell script under leases on `disk`.
    #[track_caller]
    pub(crate) fn script(&self, names: &[&str], script: &str) -> Ended {
        self.run(&[&["run", "--device", "disk", "--wait", WAIT], names, &["--", "sh", "-c", script]].concat())
    }

    /// Starts a command until it is `ready`; again, if it ends before because the machine is busy.
    #[track_caller]
    pub(crate) fn start_until(&self, args: &[&str], ready: impl Fn(&Process) -> bool) -> Process {
        self.start_anew_until(args, || (), ready)
    }

    /// As [`Scene::start_until`], with what an earlier try has left cleared away before each.
    #[track_caller]
    fn start_anew_until(&self, args: &[&str], clear: impl Fn(), ready: impl Fn(&Process) -> bool) -> Process {
        for _ in 0..TRIES {
            clear();
            let mut process = self.start(args);
            until("the command", || ready(&process) || process.ended().is_some());
            if process.ended().is_none() {
                return process;
            }
            let ended = ended(process);
            assert!(ended.is_busy(), "{ended:?}");
        }
        panic!("the machine is too busy");
    }

    /// Holds resources of `disk` until the process is killed.
    #[track_caller]
    pub(crate) fn hold(&self, names: &[&str]) -> Process {
        let args = ["run", "--device", "disk", "--wait", WAIT, "--host-name", "holder"];
        let script = ["--", "sh", "-c", "echo > held; sleep 1000"];
        self.start_until_made(&[&args, names, &script].concat(), "held")
    }

    /// A `run` that holds `db` with that host id, once its command has made the file of that name.
    #[track_caller]
    pub(crate) fn holder(&self, host: u64, name: &str, options: &[&str], script: &str) -> Process {
        let id = host.to_string();
        let args = ["run", "--device", "disk", "--wait", WAIT, "--host-id", &id, "--host-name", name];
        let script = format!("echo > {name}; {script}");
        let args = [&args[..], options, &["db", "--", "sh", "-c", &script]].concat();
        self.start_until_made(&args, name)
    }

    /// Starts a command, until what it runs has made that file.
    #[track_caller]
    fn start_until_made(&self, args: &[&str], file: &str) -> Process {
        let path = self.path(file);
        self.start_anew_until(args, || fs::remove_file(&path).unwrap_or_default(), |_| path.exists())
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.run(&["status", "disk", "--json", "--watch-for", "0s"]).expect(0, &[]).json()
    }

    /// Where a resource stands, as `status` says.
    #[track_caller]
    pub(crate) fn offset_of(&self, name: &str) -> u64 {
        let status = self.status();
        let resources = status["resources"].as_array().unwrap();
        resources.iter().find(|resource| resource["name"] == name).unwrap()["offset"].as_u64().unwrap()
    }
}

/// Plays a scene until it is one that shows something: `None` where the machine was too busy for that.
#[track_caller]
pub(crate) fn played<T>(mut play: impl FnMut() -> Option<T>) -> T {
    (0..TRIES).find_map(|_| play()).expect("the machine is too busy")
}

/// Ends a `run` whose command was never ended before.
#[track_caller]
pub(crate) fn end(process: Process) {
    process.signal(Signal::TERM);
    ended(process).expect(128 + 15, &[]);
}

#[track_caller]
pub(crate) fn ended(mut process: Process) -> Ended {
    let code = process.code();
    Ended { code, out: process.said(), err: process.complained() }
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}
