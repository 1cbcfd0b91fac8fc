//! What supervisor and guard say to each other: one datagram each, some 64-bit words, the first of which is the kind.
//! Both ends are the same program, so there are no versions.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use leasehold::{Deadlines, Time};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::descendants::Outcome;

/// The most process ids in one report.
pub(crate) const MAX_STUCK: usize = 24;
const MAX_WORDS: usize = MAX_STUCK + 1;
/// The most descriptors in one message.
const MAX_FDS: usize = 2;

/// From the supervisor to the guard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Start the command. Comes with two descriptors: its standard input, and a file of zero-terminated words, of
    /// which the first `arguments` are the command and the others `NAME=VALUE` for its environment.
    Launch {
        deadlines: Deadlines,
        arguments: u64,
    },
    Extend(Deadlines),
    Signal(i32),
    Terminate {
        kill_at: Time,
    },
    AskToEnd,
}

impl Order {
    pub(super) fn encode(&self) -> Vec<u8> {
        match *self {
            Order::Launch { deadlines, arguments } => {
                let [warn_at, terminate_at, kill_at] = words(deadlines);
                pack(&[1, warn_at, terminate_at, kill_at, arguments])
            }
            Order::Extend(deadlines) => {
                let [warn_at, terminate_at, kill_at] = words(deadlines);
                pack(&[2, warn_at, terminate_at, kill_at])
            }
            Order::Signal(signal) => pack(&[3, signal as u64]),
            Order::Terminate { kill_at } => pack(&[4, kill_at.as_nanos()]),
            Order::AskToEnd => pack(&[5]),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Order> {
        Some(match *unpack(bytes).as_slice() {
            [1, warn_at, terminate_at, kill_at, arguments] => {
                Order::Launch { deadlines: deadlines([warn_at, terminate_at, kill_at]), arguments }
            }
            [2, warn_at, terminate_at, kill_at] => Order::Extend(deadlines([warn_at, terminate_at, kill_at])),
            [3, signal] => Order::Signal(signal as i32),
            [4, kill_at] => Order::Terminate { kill_at: Time::from_nanos(kill_at) },
            [5] => Order::AskToEnd,
            _ => return None,
        })
    }
}

fn words(deadlines: Deadlines) -> [u64; 3] {
    [deadlines.warn_at, deadlines.terminate_at, deadlines.kill_at].map(Time::as_nanos)
}

fn deadlines(words: [u64; 3]) -> Deadlines {
    let [warn_at, terminate_at, kill_at] = words.map(Time::from_nanos);
    Deadlines { warn_at, terminate_at, kill_at }
}

/// From the guard to the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    Ready,
    Started,
    SpawnFailed { errno: i32 },
    Expired,
    Ended { status: Outcome, by_deadline: bool, by_loss: bool },
    Stuck { pids: Vec<i32> },
}

impl Report {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Report::Ready => pack(&[1]),
            Report::Started => pack(&[2]),
            Report::SpawnFailed { errno } => pack(&[3, *errno as u64]),
            Report::Expired => pack(&[4]),
            Report::Ended { status, by_deadline, by_loss } => {
                let (how, number) = match *status {
                    Outcome::Code(code) => (0, code),
                    Outcome::Signal(signal) => (1, signal),
                };
                pack(&[5, how, number as u64, u64::from(*by_deadline), u64::from(*by_loss)])
            }
            Report::Stuck { pids } => {
                let pids = pids.iter().take(MAX_STUCK).map(|pid| *pid as u64);
                pack(&[6].into_iter().chain(pids).collect::<Vec<_>>())
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Report> {
        Some(match *unpack(bytes).as_slice() {
            [1] => Report::Ready,
            [2] => Report::Started,
            [3, errno] => Report::SpawnFailed { errno: errno as i32 },
            [4] => Report::Expired,
            [5, how, number, by_deadline, by_loss] => {
                let number = number as i32;
                let status = if how == 0 { Outcome::Code(number) } else { Outcome::Signal(number) };
                Report::Ended { status, by_deadline: by_deadline != 0, by_loss: by_loss != 0 }
            }
            [6, ref pids @ ..] => Report::Stuck { pids: pids.iter().map(|pid| *pid as i32).collect() },
            _ => return None,
        })
    }
}

fn pack(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// Sends one message; does not block on a non-blocking socket.
pub(super) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    send_with_fds(socket, bytes, &[])
}

/// Sends one message that carries copies of descriptors, at most two.
pub(super) fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next message, without its descriptors; `None` when there is none yet.
///
/// # Errors
/// The other end is gone (`UnexpectedEof`), or the socket is broken.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    Ok(receive_with_fds(socket)?.map(|(bytes, _)| bytes))
}

/// The next message and its descriptors; `None` when there is none yet.
///
/// # Errors
/// As for [`receive`].
pub(super) fn receive_with_fds(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_WORDS * 8];
    let mut fds = Vec::new();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            // The other end closed with messages of ours unread. The kernel says so once, and before it hands out what
            // the other end had sent.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Ok(None),
            other => break other?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_way() {
        let deadlines = deadlines([5, 7, u64::MAX]);
        let launch = Order::Launch { deadlines, arguments: 3 };
        let terminate = Order::Terminate { kill_at: Time::from_nanos(9) };
        for order in [launch, Order::Extend(deadlines), Order::Signal(15), terminate, Order::AskToEnd] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        let ended = |status, by_deadline, by_loss| Report::Ended { status, by_deadline, by_loss };
        for report in [
            Report::Ready,
            Report::Started,
            Report::SpawnFailed { errno: 2 },
            Report::Expired,
            ended(Outcome::Code(255), true, false),
            ended(Outcome::Signal(9), false, true),
            Report::Stuck { pids: Vec::new() },
            Report::Stuck { pids: (1..=MAX_STUCK as i32).collect() },
        ] {
            let bytes = report.encode();
            assert!(bytes.len() <= MAX_WORDS * 8);
            assert_eq!(Report::decode(&bytes), Some(report));
        }
        assert_eq!(Order::decode(b""), None);
        assert_eq!(Report::decode(&pack(&[99])), None);
    }
}
