//! Which machine and boot a process belongs to, judged from what it found.
//!
//! Invariants:
//! - What can't be known is no identity. A process without one takes only ids that are free: nothing that was left
//!   behind can be proved to be its machine's.
//! - An identity is shared by exactly those processes that share a local lock. So a process in a container has none, as
//!   it may have network and devices of its own.
//! - The boot is the kernel's. A boot id that a container was given says nothing of the machine below, where writes of
//!   an earlier container may still be in flight.
//!
//! Not in here: reading the files. What the caller of a join says of its machine stands in the place of all this.

use super::delta::Identity;
use super::rules::Rule;
use crate::format::DeltaRecord;
use crate::types::{BootId, MachineId, Time};

/// What a process found out about its machine. `None` is what can't be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The text of `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// The UUID of the board.
    pub board: Board,
    /// The inode of this process's pid namespace.
    pub pid_namespace: Option<u64>,
    /// The inode of its user namespace.
    pub user_namespace: Option<u64>,
    /// The inode of its network namespace.
    pub network_namespace: Option<u64>,
    /// The inode of the network namespace of process 1.
    pub first_network_namespace: Option<u64>,
    /// The inode of its time namespace; `None` where the kernel has none.
    pub time_namespace: Option<u64>,
    /// The text of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Option<String>,
    /// The text of `/proc/self/mountinfo`.
    pub mounts: Option<String>,
}

/// The UUID of the board, `/sys/class/dmi/id/product_uuid`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Board {
    /// There is no such file: the machine has no such UUID.
    #[default]
    Missing,
    /// The file is there. Only root may read it.
    Unreadable,
    /// Its text.
    Text(String),
}

/// Why a process has no identity of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Unidentified {
    /// It is in a container, or can't tell. Another one on the same machine may share no local lock with it.
    #[error("it is in a container, or not allowed to see that it is in none")]
    Container,
    /// `/etc/machine-id` is not there, or holds no machine id.
    #[error("/etc/machine-id holds no machine id")]
    NoMachineId,
    /// The board has a UUID, which only root may read. Copies of one machine differ in nothing else.
    #[error("the board's UUID can't be read, which root may")]
    BoardUnreadable,
    /// The identity that was given is empty.
    #[error("the identity that was given is empty")]
    Blank,
}

/// Inodes that Linux gives its first namespaces. The one of the network has it only in later versions; no other
/// namespace ever gets one of these.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;
const FIRST_TIME_NAMESPACE: u64 = 0xefff_fffa;
const FIRST_NETWORK_NAMESPACE: u64 = 0xefff_fff9;

/// UUIDs that makers of boards left as they were in a sample, the second in both orders of bytes. A UUID of one digit
/// only counts as one of them.
const PLACEHOLDERS: &[&str] = &[
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "01234567-8910-1112-1314-151617181920",
];

/// The machine of a process that found this.
///
/// # Errors
/// Why it can't be known.
pub fn machine(found: &Found) -> Result<MachineId, Unidentified> {
    if !shares_locks(found) && Rule::LocksAreShared.is_in_force() {
        return Err(Unidentified::Container);
    }
    let id = found.machine_id.as_deref().map(str::trim).filter(|id| is_machine_id(id));
    let id = id.ok_or(Unidentified::NoMachineId)?;
    let board = match &found.board {
        Board::Text(text) => text.trim().to_ascii_lowercase(),
        Board::Unreadable if Rule::BoardIsKnown.is_in_force() => return Err(Unidentified::BoardUnreadable),
        Board::Unreadable | Board::Missing => String::new(),
    };
    Ok(MachineId::of_hash(hash(&[id, if is_board(&board) { &board } else { "" }])))
}

/// The machine that a caller names so.
///
/// # Errors
/// It says nothing.
pub fn named(identity: &str) -> Result<MachineId, Unidentified> {
    match identity.trim().is_empty() {
        true => Err(Unidentified::Blank),
        false => Ok(MachineId::of_hash(hash(&[identity]))),
    }
}

/// The boot of the machine, if it can be known. In a time namespace of its own a process has another boot-time clock
/// than others of this boot.
pub fn boot(found: &Found) -> Option<BootId> {
    found.time_namespace.is_none_or(|namespace| namespace == FIRST_TIME_NAMESPACE).then_some(())?;
    boot_id(found.boot_id.as_deref(), found.mounts.as_deref()).map(|id| BootId::of_hash(hash(&[id])))
}

/// The boot id in `text`, if by these `mounts` it is the kernel's own.
pub fn boot_id<'text>(text: Option<&'text str>, mounts: Option<&str>) -> Option<&'text str> {
    let id = text.map(str::trim).filter(|id| !id.is_empty());
    id.filter(|_| mounts.is_some_and(shows_kernel) || !Rule::BootIsTheMachines.is_in_force())
}

/// Whether every process of the machine that takes itself for one of it meets this one's local lock.
fn shares_locks(found: &Found) -> bool {
    let network = found.network_namespace;
    found.pid_namespace == Some(FIRST_PID_NAMESPACE)
        && found.user_namespace == Some(FIRST_USER_NAMESPACE)
        && network.is_some()
        && (network == Some(FIRST_NETWORK_NAMESPACE) || network == found.first_network_namespace)
}

/// 32 hexadecimal digits. An image that was never started may say that it is not initialized.
fn is_machine_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && !is_uniform(text)
}

/// Whether `text` is a UUID that tells one board from another.
fn is_board(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    let digits = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    parts == [8, 4, 4, 4, 12] && digits && !is_uniform(text) && !PLACEHOLDERS.contains(&text)
}

fn is_uniform(text: &str) -> bool {
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    let first = digits.next();
    digits.all(|byte| Some(byte) == first)
}

/// Whether nothing but the kernel's own `/proc` is mounted where its boot id stands, by the text of
/// `/proc/self/mountinfo`. What lies below another mount counts, too: what is hidden there can't be told here.
fn shows_kernel(mounts: &str) -> bool {
    const FOLDER: &str = "/proc";
    const BELOW: &str = "/sys/kernel/random/boot_id";
    let above = |line: &str| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let within = point.strip_prefix(FOLDER)?;
        let rest = BELOW.strip_prefix(within).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let own = kind.split(' ').next() == Some("proc") && format!("{}{rest}", root.trim_end_matches('/')) == BELOW;
        Some(own)
    };
    let mut shown = mounts.lines().filter_map(above).peekable();
    shown.peek().is_some() && shown.all(|own| own)
}

impl Identity {
    /// Whether `record` was written on this machine. Where either can't be known it was not.
    pub fn wrote(&self, record: &DeltaRecord) -> bool {
        let theirs = record.extension.as_ref().and_then(|extension| extension.machine);
        match self.machine.zip(theirs) {
            Some((own, theirs)) => own == theirs,
            None => self.machine == theirs && record.extension.is_some() && !Rule::UnknownIsNobody.is_in_force(),
        }
    }

    /// Whether `record` was written in this boot of the machine. `None`: either can't be known.
    pub fn same_boot(&self, record: &DeltaRecord) -> Option<bool> {
        let (own, theirs) = self.boot.zip(record.extension.as_ref()?.boot)?;
        Some(own == theirs)
    }

    /// When the holder in `record` began its last renewal, if it did on this machine in this boot, and so on the clock
    /// of this process. A join that landed late, over the record of another holder, tells nothing of that one: so the
    /// holder must have been certain that it held.
    pub fn renewed(&self, record: &DeltaRecord) -> Option<Time> {
        let confirmed = record.extension.as_ref().is_some_and(|extension| extension.confirmed);
        let here = self.wrote(record) && self.same_boot(record) == Some(true);
        record.started().filter(|_| here && confirmed)
    }

    /// Whether the holding in `record`, one of this machine's, surely ended with a reboot: it was certain that it held,
    /// and all its writes are over.
    pub fn rebooted_since(&self, record: &DeltaRecord) -> bool {
        let confirmed = record.extension.as_ref().is_some_and(|extension| extension.confirmed);
        let other_boot = self.same_boot(record).map_or(!Rule::UnknownBootIsNoReboot.is_in_force(), |same| !same);
        self.wrote(record) && confirmed && (other_boot || !Rule::FastOnlyAfterReboot.is_in_force())
    }
}

/// FNV-1a, 64 bits: stable across versions of the compiler and the crate, as what is stored on disk must be.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3d1219c7c4c5404aaa1f6d2a48adfda4";
    const UUID: &str = "4c4c4544-0038-4b10-8056-b7c04f4d3232";
    const PROC: &str = "22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw";
    const MOUNTS: &str = "27 1 254:0 / / rw - ext4 /dev/vda rw\n22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n\
        23 27 0:22 / /sys rw - sysfs sysfs rw";

    /// What root finds on a machine of its own.
    fn found() -> Found {
        Found {
            machine_id: Some(format!("{ID}\n")),
            board: Board::Text(format!("{UUID}\n")),
            pid_namespace: Some(4_026_531_836),
            user_namespace: Some(4_026_531_837),
            network_namespace: Some(4_026_531_992),
            first_network_namespace: Some(4_026_531_992),
            time_namespace: Some(4_026_531_834),
            boot_id: Some("2c6b5312-1468-43eb-9a83-39248784f691\n".into()),
            mounts: Some(MOUNTS.into()),
        }
    }

    #[test]
    fn the_hash_is_the_one_on_disks_already_written() {
        assert_eq!(hash(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(&["a"]), hash(&["a"]));
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["leasehold"]), 0x2d03_51b0_872a_cffc);
        assert_eq!(machine(&found()), Ok(MachineId::of_hash(hash(&[ID, UUID]))));
        assert_eq!(named("the hardware"), Ok(MachineId::of_hash(hash(&["the hardware"]))));
    }

    /// Each machine id with each board, in each namespace.
    #[test]
    fn a_machine_is_known_only_by_all_that_tells_it_from_others() {
        let elsewhere = Some(4_026_532_300);
        let namespaces = [(Some(FIRST_PID_NAMESPACE), true), (elsewhere, false), (None, false)];
        let networks = [
            // Its own, and that of process 1.
            (Some(4_026_531_992), Some(4_026_531_992), true),
            (elsewhere, Some(4_026_531_992), false),
            (elsewhere, None, false),
            (None, None, false),
            (None, Some(4_026_531_992), false),
            // A kernel that numbers it, and a process that may not look at process 1.
            (Some(FIRST_NETWORK_NAMESPACE), None, true),
        ];
        let zeros = "0".repeat(32);
        let ids = [
            (Some(ID), true),
            (Some("\n"), false),
            (Some("uninitialized\n"), false),
            (Some(zeros.as_str()), false),
            (None, false),
        ];
        let boards = [
            (Board::Text(UUID.into()), Ok(UUID)),
            (Board::Text(UUID.to_uppercase()), Ok(UUID)),
            (Board::Missing, Ok("")),
            (Board::Text("00000000-0000-0000-0000-000000000000".into()), Ok("")),
            (Board::Text("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF".into()), Ok("")),
            (Board::Text("Not Settable".into()), Ok("")),
            (Board::Text("Not Present".into()), Ok("")),
            (Board::Text("To Be Filled By O.E.M.".into()), Ok("")),
            (Board::Text("03000200-0400-0500-0006-000700080009".into()), Ok("")),
            (Board::Text(String::new()), Ok("")),
            (Board::Unreadable, Err(Unidentified::BoardUnreadable)),
        ];
        for (pid, first_pid) in namespaces {
            for (user, first_user) in namespaces.map(|(user, first)| (user.map(|user| user + u64::from(first)), first))
            {
                for (network, first_network, same_network) in networks {
                    for (id, is_id) in ids {
                        for (board, read) in &boards {
                            let found = Found {
                                machine_id: id.map(str::to_owned),
                                board: board.clone(),
                                pid_namespace: pid,
                                user_namespace: user,
                                network_namespace: network,
                                first_network_namespace: first_network,
                                ..found()
                            };
                            let expected = match (first_pid && first_user && same_network, is_id, read) {
                                (false, ..) => Err(Unidentified::Container),
                                (true, false, _) => Err(Unidentified::NoMachineId),
                                (true, true, Err(reason)) => Err(*reason),
                                (true, true, Ok(board)) => Ok(MachineId::of_hash(hash(&[ID, board]))),
                            };
                            assert_eq!(machine(&found), expected, "{found:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_name_names_no_machine() {
        for empty in ["", " ", "\n"] {
            assert_eq!(named(empty), Err(Unidentified::Blank), "{empty:?}");
        }
    }

    #[test]
    fn a_boot_is_known_only_by_the_kernels_own_boot_id() {
        let with = |lines: &[&str]| Some(format!("{MOUNTS}\n{}", lines.join("\n")));
        let known = [
            Some(MOUNTS.into()),
            with(&["40 22 0:21 /sys /proc/sys ro - proc proc rw"]),
            with(&["40 22 0:21 /sys/kernel/random/boot_id /proc/sys/kernel/random/boot_id ro - proc proc rw"]),
            with(&["41 22 0:5 /null /proc/kcore rw - tmpfs tmpfs rw"]),
            with(&["42 22 0:30 / /proc/sys/kernel/random/boot rw - tmpfs tmpfs rw"]),
            with(&["43 27 0:31 / /procedures rw - tmpfs tmpfs rw"]),
        ];
        let unknown = [
            None,
            Some(String::new()),
            Some(MOUNTS.replace(PROC, "")),
            Some(MOUNTS.replace("- proc proc", "- fuse.lxcfs lxcfs")),
            with(&["40 22 0:33 /boot_id /proc/sys/kernel/random/boot_id ro - tmpfs tmpfs rw"]),
            with(&["40 22 0:21 /sys/kernel/random/uuid /proc/sys/kernel/random/boot_id ro - proc proc rw"]),
            with(&["40 22 0:33 / /proc/sys/kernel/random ro - tmpfs tmpfs rw"]),
            with(&["40 22 0:33 / /proc/sys ro - tmpfs tmpfs rw", "41 40 0:21 /sys /proc/sys ro - proc proc rw"]),
        ];
        for (all, is_known) in [(&known[..], true), (&unknown[..], false)] {
            for mounts in all {
                let found = Found { mounts: mounts.clone(), ..found() };
                assert_eq!(boot(&found).is_some(), is_known, "{mounts:?}");
            }
        }
        for nothing in [None, Some(String::new())] {
            assert_eq!(boot(&Found { boot_id: nothing, ..found() }), None);
        }
        for (time_namespace, is_known) in [(None, true), (Some(4_026_531_834), true), (Some(4_026_532_300), false)] {
            assert_eq!(boot(&Found { time_namespace, ..found() }).is_some(), is_known, "{time_namespace:?}");
        }
        assert_eq!(boot(&found()), Some(BootId::of_hash(hash(&["2c6b5312-1468-43eb-9a83-39248784f691"]))));
    }
}
