//! The end of the channel at which a `run` answers.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::{HostId, Lockspace};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::messages::{self, Answer, MAX_REQUEST, Request};
use super::{address, peer};
use crate::failure::{Failure, USAGE};

/// How long a request may take to come, and an answer to be taken. Others wait behind it.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a connection that could not be accepted: the descriptors have run out, say.
const PAUSE: Duration = Duration::from_millis(100);

/// Where others can ask this process.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    /// What is done to the first of them the second one shows.
    stop: (UnixStream, UnixStream),
}

impl Server {
    /// Listens from now on; who asks waits until [`Server::serve`].
    ///
    /// # Errors
    /// The name is taken, which any user of the machine can do; the device is gone; descriptors have run out.
    pub(crate) fn listen(device: &Path, lockspace: &Lockspace, host: HostId) -> io::Result<Server> {
        let listener = UnixListener::bind_addr(&address(device, lockspace, host)?)?;
        // One that is gone again must not be waited for.
        listener.set_nonblocking(true)?;
        Ok(Server { listener, stop: UnixStream::pair()? })
    }

    /// Ends [`Server::serve`] when it has answered whom it is answering.
    pub(crate) fn stop(&self) {
        // A connected pair can't fail this.
        let _ = self.stop.0.shutdown(Shutdown::Both);
    }

    /// Whether [`Server::stop`] comes within that time.
    pub(crate) fn stops_within(&self, span: Duration) -> bool {
        let started = Instant::now();
        let mut fds = [PollFd::new(&self.stop.1, PollFlags::IN)];
        loop {
            let left = span.saturating_sub(started.elapsed());
            // An interrupted wait is a short one, and one that is too long for the kernel has no end.
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
            if !fds[0].revents().is_empty() || left.is_zero() {
                return !fds[0].revents().is_empty();
            }
        }
    }

    /// Takes requests one after the other, until [`Server::stop`].
    pub(crate) fn serve(&self, take: impl Fn(Request, Asker)) {
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.stop.1, PollFlags::IN)];
            // An interrupted wait is a short one.
            let _ = poll(&mut fds, None);
            if !fds[1].revents().is_empty() {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => serve(Asker(stream), &take),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}

/// Who has asked, and waits for the answer. One that gets none sees that the connection has ended.
#[derive(Debug)]
pub(crate) struct Asker(UnixStream);

impl Asker {
    /// What becomes of one that doesn't listen is its own concern.
    pub(crate) fn answer(self, answer: &Answer) {
        let _ = messages::send(&self.0, &answer.encode(), PATIENCE);
    }
}

fn serve(asker: Asker, take: impl Fn(Request, Asker)) {
    if let Err(refusal) = peer::may_ask(&asker.0) {
        return asker.answer(&Answer::Failed(refusal));
    }
    let Ok(line) = messages::receive(&asker.0, MAX_REQUEST, PATIENCE) else { return };
    match Request::decode(&line) {
        Some(request) => take(request, asker),
        None => asker.answer(&Answer::Failed(Failure::new(
            USAGE,
            "this `run` does not understand the request: it is of another version",
        ))),
    }
}
