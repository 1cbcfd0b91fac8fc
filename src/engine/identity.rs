//! What a process finds out about its machine and boot, and the locks that keep two of them from one host id.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::{Disk, Fault, LockOutcome, Process};
use crate::protocol::identity::{self, Board, Found, Unidentified};
use crate::types::{BootId, HostId, MachineId};

/// For how long a name may outlast its holder: a process that is being started has all that is open here until it has
/// become another program.
const OUTLASTS: Duration = Duration::from_millis(100);

/// Holds a host id of a lockspace against every other process in this network namespace, whatever device node it came
/// by. The lock on the device alone would not do: two nodes of one device don't see each other's locks.
///
/// It is a name in the abstract socket namespace: it needs no directory and no permission, and ends with the process.
#[derive(Debug)]
pub(crate) struct LocalLock {
    _socket: UnixDatagram,
}

impl LocalLock {
    /// `None`: another holder is there. `nonce` tells the lockspace from all others.
    pub(crate) fn take(nonce: u64, host: HostId) -> io::Result<Option<LocalLock>> {
        LocalLock::take_within(OUTLASTS, nonce, host)
    }

    fn take_within(patience: Duration, nonce: u64, host: HostId) -> io::Result<Option<LocalLock>> {
        let address = SocketAddr::from_abstract_name(format!("leasehold/{nonce:016x}/{host}"))?;
        let since = Instant::now();
        loop {
            match UnixDatagram::bind_addr(&address) {
                Ok(socket) => return Ok(Some(LocalLock { _socket: socket })),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                Err(_) if since.elapsed() >= patience => return Ok(None),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// Both halves of the lock on a host id: the host-local one, and the one on its record on the device.
#[derive(Debug)]
pub(crate) struct HostLock {
    disk: Arc<dyn Disk>,
    offset: u64,
    len: u64,
    process: Process,
    _local: LocalLock,
}

impl HostLock {
    /// Locks the record of a host id at `offset` of the disk, whose host-local lock is held.
    pub(crate) fn take(
        local: LocalLock,
        disk: Arc<dyn Disk>,
        offset: u64,
        len: u64,
    ) -> Result<Option<HostLock>, Fault> {
        let process = Process::this();
        Ok(match disk.lock(offset, len)? {
            LockOutcome::Locked | LockOutcome::Unsupported => {
                Some(HostLock { disk, offset, len, process, _local: local })
            }
            LockOutcome::HeldByAnother => None,
        })
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        // Before the other half: who has that may lock the record through the same description. A failure leaves this
        // half to end with the disk.
        if !self.process.is_parent() {
            let _ = self.disk.unlock(self.offset, self.len);
        }
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MOUNTS: &str = "/proc/self/mountinfo";

/// The machine of this process: the one that its caller named, else what can be known of it.
pub(crate) fn machine(named: Option<&str>) -> Result<MachineId, Unidentified> {
    named.map_or_else(|| identity::machine(&found()), identity::named)
}

/// The boot of the machine, if it can be known, and if its clock is this process's. A collision only costs a wait.
pub(crate) fn boot() -> Option<BootId> {
    identity::boot(&found())
}

/// The kernel's own boot id, if it can be known.
pub(crate) fn boot_id() -> Option<String> {
    identity::boot_id(text(BOOT_ID).as_deref(), text(MOUNTS).as_deref()).map(str::to_owned)
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn found() -> Found {
    let namespace = |path: &str| fs::metadata(path).ok().map(|file| file.ino());
    let board = match fs::read_to_string("/sys/class/dmi/id/product_uuid") {
        Ok(text) => Board::Text(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Board::Missing,
        Err(_) => Board::Unreadable,
    };
    Found {
        machine_id: text("/etc/machine-id"),
        board,
        pid_namespace: namespace("/proc/self/ns/pid"),
        user_namespace: namespace("/proc/self/ns/user"),
        // That in which this thread takes the local lock.
        network_namespace: namespace("/proc/thread-self/ns/net"),
        first_network_namespace: namespace("/proc/1/ns/net"),
        time_namespace: namespace("/proc/self/ns/time"),
        boot_id: text(BOOT_ID),
        mounts: text(MOUNTS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where these tests run nothing may be known; then they say little.
    #[test]
    fn what_is_found_stays_the_same_and_what_is_named_counts_first() {
        assert_eq!(found(), found());
        assert_eq!(machine(None), machine(None));
        assert_eq!(boot().is_some(), boot_id().is_some());
        assert_eq!(machine(Some("this one")), identity::named("this one"));
        assert_eq!(machine(Some("")), Err(Unidentified::Blank));
    }

    #[test]
    fn a_host_id_is_locked_once() -> io::Result<()> {
        let nonce = rand::random();
        let Some(host) = HostId::new(7) else { unreachable!() };
        let first = LocalLock::take(nonce, host)?;
        assert!(first.is_some());
        assert!(LocalLock::take(nonce, host)?.is_none());
        assert!(LocalLock::take(nonce.wrapping_add(1), host)?.is_some());
        drop(first);
        assert!(LocalLock::take(nonce, host)?.is_some());
        Ok(())
    }

    #[test]
    fn a_host_id_is_free_though_a_process_is_being_started_when_it_is_given_back() -> io::Result<()> {
        let nonce = rand::random();
        let Some(host) = HostId::new(7) else { unreachable!() };
        let Some(first) = LocalLock::take(nonce, host)? else { unreachable!() };
        let inherited = first._socket.try_clone()?;
        drop(first);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(5));
                drop(inherited);
            });
            let again = LocalLock::take_within(Duration::from_secs(60), nonce, host);
            assert!(again.is_ok_and(|lock| lock.is_some()));
        });
        Ok(())
    }
}
