//! The channel between a `run` and the other commands on its machine: for what only who holds a lease can do with it.
//!
//! ```text
//! convert, handover --request--> run
//!                   <--answer---
//! ```
//!
//! A `run` listens on a socket in the abstract namespace, of which nothing is left when it is killed. Its name is made
//! of what the device is, not of its path, of the lockspace and of the host id: one process at a time holds that. Each
//! connection carries one request and its answer, a line each, of limited length and within limited time. Who may ask
//! is decided by what the kernel says of the other process, before anything of it is read.

mod client;
mod holders;
mod messages;
mod peer;
mod server;

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::SocketAddr;
use std::path::Path;

use leasehold::{HostId, Lockspace};

pub(crate) use client::{Connection, until_done};
pub(crate) use holders::Holders;
pub(crate) use messages::{Action, Answer, Holding, Request};
pub(crate) use server::{Asker, Server};

/// Where the `run` listens that has joined the lockspace on `device` with that host id.
fn address(device: &Path, lockspace: &Lockspace, host: HostId) -> io::Result<SocketAddr> {
    let metadata = fs::metadata(device)?;
    let device = match metadata.file_type().is_block_device() {
        true => format!("b{:x}", metadata.rdev()),
        false => format!("f{:x}.{:x}", metadata.dev(), metadata.ino()),
    };
    // A name has at most 107 bytes: 14 and 34 and, with a slash before each, 48 and 4.
    let mut name = format!("leasehold/run/{device}/").into_bytes();
    name.extend_from_slice(lockspace.name().as_bytes());
    name.extend_from_slice(format!("/{host}").as_bytes());
    SocketAddr::from_abstract_name(name)
}
