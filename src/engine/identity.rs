//! Which machine and boot this is, and the locks that keep two of its processes from one host id.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::{Disk, Fault, LockOutcome};
use crate::types::HostId;

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
        Ok(match disk.lock(offset, len)? {
            LockOutcome::Locked | LockOutcome::Unsupported => Some(HostLock { disk, offset, len, _local: local }),
            LockOutcome::HeldByAnother => None,
        })
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        // Before the other half: who has that may lock the record through the same description. A failure leaves this
        // half to end with the disk.
        let _ = self.disk.unlock(self.offset, self.len);
    }
}

/// A hash of what tells this machine from all others across reboots. `None` when nothing does: then it can't prove
/// that an id which it did not release was its own.
pub(crate) fn machine() -> Option<u64> {
    let id = std::fs::read_to_string("/etc/machine-id").ok().filter(|id| !id.trim().is_empty())?;
    // A cloned image has the same machine id; its board has another one. It is readable for root only, so a process
    // without that right counts as another machine: it waits or takes another id.
    let board = std::fs::read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default();
    Some(hash(&[id.trim(), board.trim()]))
}

/// A hash of what tells this boot of the machine from the others. A collision only costs a wait.
pub(crate) fn boot() -> u32 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    hash(&[id.trim()]) as u32
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

    #[test]
    fn the_hash_is_the_one_on_disks_already_written() {
        assert_eq!(hash(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(&["a"]), hash(&["a"]));
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["leasehold"]), 0x2d03_51b0_872a_cffc);
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
