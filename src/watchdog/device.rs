//! The calls that Linux has for a watchdog device (`Documentation/watchdog/watchdog-api.rst`).
//!
//! The only unsafe code of the crate: there is no safe way to set a watchdog's timeout.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

const GROUP: u8 = b'W';
const GET_SUPPORT: Opcode = opcode::read::<Support>(GROUP, 0);
const KEEP_ALIVE: Opcode = opcode::read::<c_int>(GROUP, 5);
const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(GROUP, 6);

const CAN_SET_TIMEOUT: u32 = 0x80;
const HAS_MAGIC_CLOSE: u32 = 0x100;
/// The character that makes the next close an orderly one.
const MAGIC: &[u8] = b"V";

/// `struct watchdog_info`.
#[repr(C)]
pub(super) struct Support {
    options: u32,
    _firmware: u32,
    _identity: [u8; 32],
}

impl Support {
    pub(super) const fn can_set_timeout(&self) -> bool {
        self.options & CAN_SET_TIMEOUT != 0
    }

    pub(super) const fn has_magic_close(&self) -> bool {
        self.options & HAS_MAGIC_CLOSE != 0
    }
}

/// An open watchdog device, which counts. When it is dropped the kernel feeds it once more, and it goes on counting.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// Opens it, by which it starts to count.
    pub(super) fn open(path: &Path) -> io::Result<Device> {
        OpenOptions::new().write(true).open(path).map(Device)
    }

    pub(super) fn support(&self) -> io::Result<Support> {
        // SAFETY: this call writes a `struct watchdog_info`, which `Support` is: 40 bytes, any of which are valid.
        Ok(unsafe { ioctl(&self.0, Getter::<GET_SUPPORT, Support>::new()) }?)
    }

    /// Sets the time after which it fires, in whole seconds; returns what the device makes of it. Feeds it, with most
    /// drivers.
    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<Duration> {
        let mut seconds = c_int::try_from(timeout.as_secs()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: this call reads and writes one int, which outlives it.
        unsafe { ioctl(&self.0, Updater::<SET_TIMEOUT, c_int>::new(&mut seconds)) }?;
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)))
    }

    pub(super) fn keep_alive(&self) -> io::Result<()> {
        let mut unused: c_int = 0;
        // SAFETY: this call writes at most one int, as its number says, and that outlives it.
        unsafe { ioctl(&self.0, Updater::<KEEP_ALIVE, c_int>::new(&mut unused)) }?;
        Ok(())
    }

    /// Switches it off.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.0.write_all(MAGIC)
    }
}
