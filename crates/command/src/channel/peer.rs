//! Who is at the other end, as the kernel says.

use std::os::unix::net::UnixStream;

use nix::sys::socket::getsockopt;
// rustix has this too, but there a process that this namespace doesn't see, whose id is given as 0, can't be.
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::process::geteuid;

use crate::descendants;
use crate::failure::{Failure, IO, REFUSED};

/// Whether it may ask this `run`: it is of the same user, or root's, and is not the command that this `run` protects,
/// nor anything which that has started. A program that is protected must not get a say in what it is protected by.
pub(super) fn may_ask(stream: &UnixStream) -> Result<(), Failure> {
    let (pid, user) = credentials(stream)?;
    let own = geteuid().as_raw();
    let refused =
        |why: String| Err(Failure::new(REFUSED, format!("this `run` takes no orders from process {pid}: {why}")));
    if user != own && user != 0 {
        return refused(format!("it is user {user}'s, only user {own} and root may ask"));
    }
    match descendants::descends(pid) {
        Some(false) => Ok(()),
        Some(true) => refused("it was started by the command that this `run` protects".into()),
        None => refused("who has started it can't be seen".into()),
    }
}

/// Whether what it says may be believed: it is of the same user, or root's. Root believes everybody, who may have
/// started a `run`.
pub(super) fn is_trusted(stream: &UnixStream) -> Result<(), Failure> {
    let (pid, user) = credentials(stream)?;
    let own = geteuid().as_raw();
    match own == 0 || user == own || user == 0 {
        true => Ok(()),
        false => Err(Failure::new(REFUSED, format!("process {pid} answers for the holder, but is user {user}'s"))),
    }
}

/// Process and user. The process is 0 where this namespace doesn't see it.
fn credentials(stream: &UnixStream) -> Result<(i32, u32), Failure> {
    let credentials = getsockopt(stream, PeerCredentials)
        .map_err(|error| Failure::new(IO, format!("who is at the other end can't be found out: {error}")))?;
    Ok((credentials.pid(), credentials.uid()))
}
