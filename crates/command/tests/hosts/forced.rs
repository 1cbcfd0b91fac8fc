//! Forced handover between processes that reach one disk by paths of their own: the source's hangs, the destination's
//! does not.

use std::process::Command;
use std::sync::Arc;

use leasehold::disk::DirectDisk;
use leasehold::{Lockspace, Mode, Timeouts, Version};
use tempfile::TempDir;

use crate::common::command::leasehold_calmly;
use crate::common::devices::{self, file, text, with_resources};
use crate::common::host_path::HostPath;
use crate::common::processes::{Mark, Process, answer_of, calmly, command_line, is_busy};
use crate::common::scene::played;
use crate::common::{timeouts, until};

const RESOURCE: &str = "vm";

/// Two hosts' paths to one disk with a resource.
struct Scene {
    mark: Mark,
    source: HostPath,
    destination: HostPath,
    folder: TempDir,
}

impl Scene {
    fn new(timeouts: Timeouts) -> Scene {
        let (folder, disk) = file(8 << 20);
        let paths = ["source", "destination"].map(|name| HostPath::new(folder.path(), name, &disk));
        let [source, destination] = paths;
        let scene = Scene { mark: Mark::new(), source, destination, folder };
        with_resources(scene.disk(), timeouts, &[RESOURCE]);
        scene
    }

    /// By the path that never hangs.
    fn disk(&self) -> Arc<DirectDisk> {
        devices::disk(&self.destination.file)
    }

    /// A command under the lease that writes its version into the file `name`, and ends when it is told to.
    fn start(&self, path: &HostPath, name: &str, options: &[&str]) -> Process {
        let [began, stop] = [name.to_string(), format!("{name}.stop")].map(|name| self.folder.path().join(name));
        let script = format!(
            "echo $LEASEHOLD_VERSION > {0}.new && mv {0}.new {0}; while ! test -e {1}; do sleep 0.02; done",
            text(&began),
            text(&stop)
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.args(["run", "--device", text(&path.file)]).args(options).args([RESOURCE, "--", "sh", "-c", &script]);
        Process::start(&mut command, &self.mark)
    }

    fn version(&self, name: &str) -> Option<Version> {
        let said = std::fs::read_to_string(self.folder.path().join(name)).ok()?;
        Some(Version::new(said.trim().parse().unwrap()))
    }

    /// As [`Scene::start`], once the command runs: at which version. Again, where the machine is too busy for it.
    #[track_caller]
    fn run(&self, path: &HostPath, name: &str, options: &[&str]) -> (Process, Version) {
        played(|| {
            let mut process = self.start(path, name, options);
            until("a command that runs", || self.version(name).is_some() || process.ended().is_some());
            let said = process.complained();
            let version = self.version(name);
            assert!(version.is_some() || is_busy(&said), "{said}");
            Some((process, version?))
        })
    }

    /// What runs under leases.
    fn commands(&self) -> Vec<String> {
        let all = self.mark.living().into_iter().map(command_line);
        all.filter(|command| command.starts_with("sh ")).collect()
    }

    fn stop(&self, name: &str) {
        std::fs::write(self.folder.path().join(format!("{name}.stop")), "").unwrap();
    }

    /// The source, which runs a command, the destination, which runs another since, and its version.
    #[track_caller]
    fn taken_from_a_source_that_hangs(&self) -> (Process, Process, Version) {
        let (old, version) = self.run(&self.source, "old", &[]);
        self.source.hang();
        let (new, taken) = self.run(&self.destination, "new", &["--take-version", &version.to_string()]);
        assert_eq!(taken, version.after(1));
        (old, new, taken)
    }

    /// Who has the resource, and that nobody else gets it.
    #[track_caller]
    fn is_owned_at(&self, version: Version) {
        let lockspace = Lockspace::open(self.disk()).unwrap();
        let (resources, _) = calmly("the index", || lockspace.resources());
        let owned = resources[0].ownership.as_ref().unwrap();
        assert_eq!((owned.mode, owned.version), (Mode::Exclusive, version));
        let device = text(&self.destination.file);
        let (code, said) = leasehold_calmly(&self.mark, &["run", "--device", device, RESOURCE, "--", "true"]);
        assert_eq!(code, 75, "{said}");
    }
}

/// So long that nothing runs out: the source learns it from the disk.
fn patient() -> Timeouts {
    timeouts([200, 500, 40_000, 5_000, 45_000])
}

/// The destination does not wait for the source, whose path comes back in time for it to see what happened.
#[test]
fn a_source_whose_path_hangs_is_taken_from_at_once_and_learns_by_whom() {
    let scene = Scene::new(patient());
    let (mut old, mut new, taken) = scene.taken_from_a_source_that_hangs();
    assert!(old.ended().is_none() && scene.source.held_back() > 0, "the destination waits for nobody");
    let told = new.complained();
    assert!(told.contains("taken by force from host") && told.contains("which may act for up to"), "{told}");
    scene.source.thaw();
    assert_eq!(old.code(), 69, "{}", old.complained());
    let why = old.complained();
    assert!(why.contains("fenced by host") && why.contains(&format!("at version {taken}")), "{why}");
    scene.is_owned_at(taken);
    scene.stop("new");
    assert_eq!(new.code(), 0, "{}", new.complained());
}

/// The path comes back when all is over: what the source had in flight lands then.
#[test]
fn late_writes_of_a_source_that_was_taken_from_change_no_answer() {
    let scene = Scene::new(timeouts([200, 400, 2_000, 1_000, 3_000]));
    let (mut old, mut new, taken) = scene.taken_from_a_source_that_hangs();
    until("the end of the source's command", || !scene.commands().iter().any(|command| command.contains("old.stop")));
    // A process with a write in the kernel ends when that does.
    scene.source.thaw();
    assert_eq!(old.code(), 69, "{}", old.complained());
    // Late, not verified, or fenced: that depends on what it could read before its path hung, and after. Or its guard,
    // which goes by what it is told, was first.
    let why = old.complained();
    let causes = ["the lease was lost while the command ran", "the guard was not told of a renewal in time"];
    assert!(causes.iter().any(|cause| why.contains(cause)), "{why}");
    scene.is_owned_at(taken);
    scene.stop("new");
    assert_eq!(new.code(), 0, "{}", new.complained());
}

/// Of two that are told to take it one does, and a version of the past takes nothing from anybody.
#[test]
fn another_version_is_refused_and_nothing_is_changed() {
    let scene = Scene::new(patient());
    let (mut old, version) = scene.run(&scene.source, "old", &[]);
    for wrong in [version.get() - 1, version.get() + 1] {
        let wrong = wrong.to_string();
        let (code, said) = answer_of(|| scene.start(&scene.destination, "new", &["--take-version", &wrong]));
        assert_eq!(code, 75, "{said}");
        assert!(said.contains(&format!("is at version {version}")), "{said}");
    }
    scene.is_owned_at(version);
    scene.stop("old");
    assert_eq!(old.code(), 0, "{}", old.complained());
}
