//! Keeps what a membership has seen of the other hosts in a file, for the next process of the same boot.
//!
//! A lie in such a file makes a live host look dead. So none is believed but that of this user alone, in a folder of
//! this user alone: who can write there may write the device, too. Whatever else is wrong with it, there is no file.
//! No lease waits for one: it is read once, before the join, and written by a thread that does nothing else.
//!
//! The text of a file, whose name is the lockspace's nonce:
//!
//! ```text
//! leasehold sightings 1
//! boot 0c7e7fb3e29b4f6fb3d2a2f1f0c6b1d4
//! host 3 2f6a...40 81726354000000
//! sum 1a2b3c4d
//! ```
//!
//! A host is its id, the print of its record, and since when that was seen, in nanoseconds of the boot-time clock. The
//! sum is the CRC-32C of all lines before it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::identity;
use super::io::Io;
use super::member::Member;
use crate::format::checksum;
use crate::protocol::delta::Terms;
use crate::protocol::identity::hash;
use crate::protocol::sightings::{Sighting, Sightings};
use crate::types::{HostId, Time};

/// Where what was seen is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// The folder of this user for what lasts until the next boot, if the device is one that other processes have, too.
    #[default]
    Usual,
    /// This folder.
    Folder(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// The file of one lockspace.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    name: String,
    boot: u128,
    nonce: u32,
}

/// The thread that writes the file.
#[derive(Debug, Default)]
pub(crate) struct Keeping(Mutex<Option<mpsc::Receiver<()>>>);

const TITLE: &str = "leasehold sightings 1";
/// Longer than any file: some 70 bytes for each host.
const MOST_BYTES: u64 = 1 << 18;
/// For how long the end of a membership waits for the file.
const PATIENCE: Duration = Duration::from_millis(200);

impl Keeper {
    /// `None`: nothing is kept. The clock is not that of the boot, or nothing tells this boot from others, or there is
    /// no place for it.
    pub(crate) fn of(place: &Place, io: &Io, terms: &Terms) -> Option<Keeper> {
        if !io.clock().is_boot_time() {
            return None;
        }
        let folder = match place {
            Place::Usual => usual_folder().filter(|_| io.disk().is_shared())?,
            Place::Folder(folder) => folder.clone(),
            Place::Nowhere => return None,
        };
        let name = match terms.nonce {
            0 => format!("{:016x}", hash(&[&terms.lockspace.to_string()])),
            nonce => format!("{nonce:08x}"),
        };
        Some(Keeper { folder, name, boot: boot()?, nonce: terms.nonce })
    }

    /// What counts of what was kept.
    pub(crate) fn recall(&self) -> Sightings {
        let kept = self.read().ok().and_then(|text| parse(&text));
        kept.unwrap_or_default().recalled(self.boot)
    }

    fn read(&self) -> io::Result<String> {
        let folder = open_folder(&self.folder)?;
        // What is no file must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&folder, &self.name, flags, Mode::empty())?;
        only_ours(&file, FileType::RegularFile)?;
        let mut text = String::new();
        File::from(file).take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Replaces the file as a whole.
    fn write(&self, sightings: &Sightings) -> io::Result<()> {
        make_folder(&self.folder)?;
        let folder = open_folder(&self.folder)?;
        let unfinished = format!("{}.{:08x}", self.name, rand::random::<u32>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, &unfinished, flags, Mode::RUSR | Mode::WUSR)?;
        let written = File::from(file).write_all(text(sightings).as_bytes());
        let written = written.and_then(|()| Ok(renameat(&folder, &unfinished, &folder, &self.name)?));
        if written.is_err() {
            // What is left of it is of no use.
            let _ = unlinkat(&folder, &unfinished, AtFlags::empty());
        }
        written
    }
}

impl Member {
    /// Keeps what this membership sees from now on, once in a quarter of D and when it ends.
    pub(crate) fn keep_sightings(self: &Arc<Self>, keeper: Keeper) {
        let (ended, end) = mpsc::channel();
        let member = self.clone();
        let work = move || {
            let _ended = ended;
            member.keep(&keeper);
        };
        // Without the thread nothing is kept.
        if thread::Builder::new().name("leasehold-keep".into()).spawn(work).is_ok() {
            *self.keeping.0.lock() = Some(end);
        }
    }

    fn keep(&self, keeper: &Keeper) {
        let mut kept = keeper.recall();
        let mut goes_on = true;
        loop {
            let seen = self.with_observer(|observer| Sightings::of(keeper.boot, keeper.nonce, observer));
            // What can't be written is not missed.
            if seen != kept && keeper.write(&seen).is_ok() {
                kept = seen;
            }
            if !goes_on {
                return;
            }
            goes_on = self.pulse.sleep_to_end(self.io.now() + self.terms.timeouts.dead() / 4);
        }
    }

    /// Waits until the file was written for the last time, unless that hangs. The threads of the membership have ended.
    pub(crate) fn sightings_are_kept(&self) {
        if let Some(end) = self.keeping.0.lock().take() {
            let _ = end.recv_timeout(PATIENCE);
        }
    }
}

/// The folder of this user that lasts until the next boot.
fn usual_folder() -> Option<PathBuf> {
    let folder = match geteuid().is_root() {
        true => "/run".into(),
        false => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?),
    };
    folder.is_absolute().then(|| folder.join("leasehold/sightings"))
}

/// Makes a folder that only this user can look into, and the one above it, which may hold other things, too.
fn make_folder(path: &Path) -> io::Result<()> {
    let make = || mkdirat(CWD, path, Mode::RWXU);
    let made = match (make(), path.parent()) {
        (Err(Errno::NOENT), Some(above)) => {
            let others = Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
            // Another process may be faster.
            let _ = mkdirat(CWD, above, Mode::RWXU | others);
            make()
        }
        (made, _) => made,
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty())?;
    only_ours(&folder, FileType::Directory)?;
    Ok(folder)
}

/// Whether nobody but this user can have written it.
fn only_ours(file: &OwnedFd, kind: FileType) -> io::Result<()> {
    let stat = fstat(file)?;
    let others = Mode::RWXG | Mode::RWXO;
    let ours = stat.st_uid == geteuid().as_raw() && !Mode::from_raw_mode(stat.st_mode).intersects(others);
    match ours && FileType::from_raw_mode(stat.st_mode) == kind {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The number of this boot, if it can be known, and if its clock is this process's.
fn boot() -> Option<u128> {
    identity::boot()?;
    u128::from_str_radix(&identity::boot_id()?.replace('-', ""), 16).ok()
}

fn text(sightings: &Sightings) -> String {
    let mut text = format!("{TITLE}\nboot {:032x}\n", sightings.boot());
    for (host, Sighting { print, since }) in sightings.iter() {
        // A string takes all that is written to it.
        let _ = writeln!(text, "host {host} {print:032x} {}", since.as_nanos());
    }
    let sum = checksum(text.as_bytes());
    let _ = writeln!(text, "sum {sum:08x}");
    text
}

fn parse(text: &str) -> Option<Sightings> {
    let end = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (lines, last) = text.split_at(end);
    let sum = u32::from_str_radix(last.trim_end().strip_prefix("sum ")?, 16).ok()?;
    let mut lines = lines.lines().take_while(|_| sum == checksum(lines.as_bytes()));
    if lines.next()? != TITLE {
        return None;
    }
    let boot = u128::from_str_radix(lines.next()?.strip_prefix("boot ")?, 16).ok()?;
    let sighting = |line: &str| {
        let mut words = line.strip_prefix("host ")?.split(' ');
        let host = HostId::new(words.next()?.parse().ok()?)?;
        let print = u128::from_str_radix(words.next()?, 16).ok()?;
        let since = Time::from_nanos(words.next()?.parse().ok()?);
        words.next().is_none().then_some((host, Sighting { print, since }))
    };
    Some(Sightings::new(boot, lines.map(sighting).collect::<Option<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn keeper(folder: &Path) -> Keeper {
        Keeper { folder: folder.into(), name: "01020304".into(), boot: 77, nonce: 0x0102_0304 }
    }

    fn sightings(boot: u128) -> Sightings {
        let sighting = |number: u64| Sighting { print: u128::from(number) << 70 | 5, since: Time::from_nanos(number) };
        let seen = [1, 2000].map(|id| (HostId::new(id), sighting(id)));
        Sightings::new(boot, seen.into_iter().filter_map(|(host, sighting)| Some((host?, sighting))))
    }

    fn recalls(keeper: &Keeper) -> bool {
        keeper.recall().iter().next().is_some()
    }

    #[test]
    fn what_was_kept_is_recalled_in_the_same_boot() -> io::Result<()> {
        let place = tempfile::tempdir()?;
        let keeper = keeper(&place.path().join("kept"));
        assert!(!recalls(&keeper), "there is nothing yet");
        for _ in 0..2 {
            keeper.write(&sightings(77))?;
            assert_eq!(keeper.recall(), sightings(77));
        }
        assert_eq!(fs::read_dir(&keeper.folder)?.count(), 1, "nothing unfinished is left");
        keeper.write(&sightings(78))?;
        assert!(!recalls(&keeper), "another boot has another clock");
        Ok(())
    }

    #[test]
    fn what_another_user_may_have_written_is_not_believed() -> io::Result<()> {
        let place = tempfile::tempdir()?;
        let keeper = keeper(&place.path().join("kept"));
        keeper.write(&sightings(77))?;
        let file = keeper.folder.join(&keeper.name);
        for path in [&keeper.folder, &file] {
            let right = fs::metadata(path)?.permissions();
            for wrong in [0o770, 0o702, 0o740] {
                fs::set_permissions(path, fs::Permissions::from_mode(wrong))?;
                assert!(!recalls(&keeper), "{path:?} {wrong:o}");
            }
            fs::set_permissions(path, right)?;
            assert!(recalls(&keeper));
        }
        // A link to what is right is as wrong: who made it may make another.
        let linked = Keeper { folder: place.path().join("link"), ..self::keeper(&keeper.folder) };
        symlink(&keeper.folder, &linked.folder)?;
        assert!(!recalls(&linked) && linked.write(&sightings(77)).is_err());
        let moved = place.path().join("moved");
        fs::rename(&file, &moved)?;
        symlink(&moved, &file)?;
        assert!(!recalls(&keeper));
        if geteuid().is_root() {
            fs::rename(&moved, &file)?;
            std::os::unix::fs::chown(&file, Some(12345), None)?;
            assert!(!recalls(&keeper));
        }
        Ok(())
    }

    #[test]
    fn what_is_damaged_is_no_file() -> io::Result<()> {
        let whole = text(&sightings(77));
        assert_eq!(parse(&whole), Some(sightings(77)));
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None, "cut off at {end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8_lossy(&bytes);
            assert_eq!(parse(&changed), None, "byte {at}: {changed}");
        }
        let sum = |lines: &str| format!("{lines}sum {:08x}\n", checksum(lines.as_bytes()));
        for lines in ["", "leasehold sightings 2\nboot 4d\n", "leasehold sightings 1\n"] {
            assert_eq!(parse(&sum(lines)), None, "{lines}");
        }
        for host in ["host 0 5 5", "host 2001 5 5", "host 1 5", "host 1 5 5 5", "host 1 5 99999999999999999999", ""] {
            assert_eq!(parse(&sum(&format!("{TITLE}\nboot 4d\n{host}\n"))), None, "{host}");
        }
        Ok(())
    }

    #[test]
    fn this_boot_has_a_number_where_it_is_known() {
        assert_eq!(boot().is_some(), identity::boot().is_some());
    }
}
