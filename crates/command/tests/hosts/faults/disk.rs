//! The disk that the hosts share: two ways to one file, and who freezes what is below.

use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{RESOURCES, times};
use crate::common::devices::{Loop, Mounted, disk, folder, run, text, with_resources};
use crate::common::processes::{self, Mark, read};
use crate::common::until;

/// Freezes the file system when told to, and thaws it: in a process of its own, so that it is thawed whatever becomes
/// of the test. When that ends without a word, it cleans up too.
pub(super) fn keep(mark: &str, folder: &Path, point: &str) {
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
pub(super) struct Keeper(Child);

impl Keeper {
    pub(super) fn start(mark: &Mark, disk: &SharedDisk) -> Keeper {
        let task = ["faults", "keeper", mark.name(), text(disk.folder.path()), text(&disk.mounted.point)];
        // In a group of its own, so that an interrupt at the terminal ends the test only.
        let mut command = processes::keeper(&task);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        Keeper(command.spawn().unwrap())
    }

    pub(super) fn tell(&mut self, order: &str) {
        self.0.stdin.as_mut().unwrap().write_all(order.as_bytes()).expect("the process that freezes is there");
    }

    /// Whether it has done all that it was told. Everything is thawed afterwards.
    pub(super) fn end(&mut self) -> bool {
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
pub(super) struct DiskPath {
    device: Loop,
    pub(super) node: PathBuf,
    /// In units of 512 bytes.
    len: u64,
    pub(super) sector: u64,
    /// How many faults have taken it away.
    cut: usize,
}

impl DiskPath {
    pub(super) fn new(backing: &Path, sector: u64, folder: &Path, number: usize) -> DiskPath {
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

    pub(super) fn cut(&mut self) {
        self.cut += 1;
        self.resize(self.sector / 512);
    }

    pub(super) fn restore(&mut self) {
        self.cut -= 1;
        if self.cut == 0 {
            self.resize(self.len);
        }
    }
}

/// A file on a file system of its own, and two ways to it. Taken down in this order.
pub(super) struct SharedDisk {
    pub(super) paths: [DiskPath; 2],
    pub(super) mounted: Mounted,
    pub(super) folder: TempDir,
}

impl SharedDisk {
    pub(super) fn new(sector: u64) -> SharedDisk {
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
    pub(super) fn format(&self) {
        with_resources(disk(&self.paths[0].node), times(), &RESOURCES);
    }
}
