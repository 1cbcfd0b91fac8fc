//! The end of the channel at which another command asks a `run`.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::{HostId, Lockspace};

use super::messages::{self, Answer, Holding, MAX_ANSWER, Request};
use super::{address, peer};
use crate::failure::{Failure, IO};
use crate::words::Patience;

/// How long a request may take to be taken, which fits into the socket's buffer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection to a `run`, for one request.
#[derive(Debug)]
pub(crate) struct Connection(UnixStream);

impl Connection {
    /// To the `run` on this machine that has joined with that host id; `None`: there is none.
    ///
    /// # Errors
    /// Who answers is not to be believed.
    pub(crate) fn open(device: &Path, lockspace: &Lockspace, host: HostId) -> Result<Option<Connection>, Failure> {
        match address(device, lockspace, host).and_then(|address| UnixStream::connect_addr(&address)) {
            Ok(stream) => {
                peer::is_trusted(&stream)?;
                Ok(Some(Connection(stream)))
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Err(error) => Err(Failure::new(IO, format!("the `run` of host {host} can't be reached: {error}"))),
        }
    }

    /// Asks, and waits for the answer at most for `patience`.
    ///
    /// # Errors
    /// There was none: what was asked for may have been done, or may be later.
    pub(crate) fn ask(&self, request: &Request, patience: Duration) -> Result<Answer, Failure> {
        let Connection(stream) = self;
        let no_answer = |why: String| {
            Failure::new(IO, format!("the `run` that holds it has not answered: {why}"))
                .hint("what was asked for may have been done; `leasehold status` shows it")
        };
        // One that refuses does so without reading.
        let sent = messages::send(stream, &request.encode(), PATIENCE);
        let line = messages::receive(stream, MAX_ANSWER, patience)
            .map_err(|error| no_answer(sent.err().unwrap_or(error).to_string()))?;
        Answer::decode(&line).ok_or_else(|| no_answer("it is of another version".into()))
    }
}

/// Tries until it is done, and again as long as others are in the way and `wait` is not over; `attempt` is given what
/// is left of that.
pub(crate) fn until_done(
    lockspace: &Lockspace,
    wait: Patience,
    mut attempt: impl FnMut(Duration) -> Result<Answer, Failure>,
) -> Result<Holding, Failure> {
    let started = Instant::now();
    loop {
        let left = match wait {
            Patience::For(span) => span.saturating_sub(started.elapsed()),
            Patience::Forever => Duration::MAX,
        };
        match attempt(left)? {
            Answer::Done(holding) => return Ok(holding),
            Answer::Blocked(failure) if left.is_zero() => return Err(failure),
            Answer::Blocked(_) => thread::sleep(lockspace.timeouts().renewal().min(left).min(Duration::from_secs(1))),
            Answer::Failed(failure) => return Err(failure),
        }
    }
}
