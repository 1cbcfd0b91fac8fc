//! The end of the channel at which a `run` answers.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use leasehold::{HostId, Lockspace};
use rustix::event::{PollFd, PollFlags, poll};

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

    /// Answers one after the other, until [`Server::stop`].
    pub(crate) fn serve(&self, answer: impl Fn(Request) -> Answer) {
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.stop.1, PollFlags::IN)];
            // An interrupted wait is a short one.
            let _ = poll(&mut fds, None);
            if !fds[1].revents().is_empty() {
                return;
            }
            match self.listener.accept() {
                // What became of one that asked is its own concern.
                Ok((stream, _)) => drop(serve(&stream, &answer)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}

fn serve(stream: &UnixStream, answer: impl Fn(Request) -> Answer) -> io::Result<()> {
    let answer = match peer::may_ask(stream) {
        Err(refusal) => Answer::Failed(refusal),
        Ok(()) => match Request::decode(&messages::receive(stream, MAX_REQUEST, PATIENCE)?) {
            Some(request) => answer(request),
            None => Answer::Failed(Failure::new(
                USAGE,
                "this `run` does not understand the request: it is of another version",
            )),
        },
    };
    messages::send(stream, &answer.encode(), PATIENCE)
}
