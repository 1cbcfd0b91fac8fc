//! What is said on the channel: one line of JSON each way. The two ends may be of different versions.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use leasehold::{LeaseMode, Owner, Version};
use serde_json::{Value, json};

use crate::failure::Failure;

/// The longest request, in bytes.
pub(super) const MAX_REQUEST: usize = 1 << 10;
/// The longest answer, in bytes.
pub(super) const MAX_ANSWER: usize = 1 << 16;
/// The longest text in an answer, in characters: in JSON one takes twelve bytes at most, and there are two.
const MAX_TEXT: usize = 2000;

/// What is asked of a `run`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To hold the resource at this place in another way.
    Convert {
        resource: String,
        offset: u64,
        to: LeaseMode,
        /// At most for so long, and never longer than the one who is asked likes.
        wait: Duration,
    },
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        line(match self {
            Request::Convert { resource, offset, to, wait } => {
                let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                json!({ "convert": { "resource": resource, "offset": offset, "to": to.to_string(), "wait_ms": wait } })
            }
        })
    }

    pub(super) fn decode(line: &[u8]) -> Option<Request> {
        let request: Value = serde_json::from_slice(line).ok()?;
        let convert = request.get("convert")?;
        Some(Request::Convert {
            resource: convert.get("resource")?.as_str()?.into(),
            offset: convert.get("offset")?.as_u64()?,
            to: mode(convert.get("to")?)?,
            wait: Duration::from_millis(convert.get("wait_ms")?.as_u64()?),
        })
    }
}

/// How a resource is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) resource: String,
    pub(crate) mode: LeaseMode,
    pub(crate) version: u64,
    pub(crate) host: u64,
    pub(crate) generation: u64,
}

impl Holding {
    pub(crate) fn new(resource: String, mode: LeaseMode, version: Version, owner: Owner) -> Holding {
        let (host, generation) = (owner.host.get(), owner.generation.get());
        Holding { resource, mode, version: version.get(), host, generation }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "resource": self.resource,
            "mode": self.mode.to_string(),
            "version": self.version,
            "host_id": self.host,
            "generation": self.generation,
        })
    }

    fn from_json(json: &Value) -> Option<Holding> {
        Some(Holding {
            resource: json.get("resource")?.as_str()?.into(),
            mode: mode(json.get("mode")?)?,
            version: json.get("version")?.as_u64()?,
            host: json.get("host_id")?.as_u64()?,
            generation: json.get("generation")?.as_u64()?,
        })
    }
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holding { resource, mode, version, host, generation } = self;
        write!(f, "{resource} is held {mode} by host {host} generation {generation} at version {version}")
    }
}

fn mode(json: &Value) -> Option<LeaseMode> {
    [LeaseMode::Exclusive, LeaseMode::Shared].into_iter().find(|mode| Some(mode.to_string().as_str()) == json.as_str())
}

/// What a `run` says to it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is held like this now.
    Done(Holding),
    /// Others were in the way, and may not always be.
    Blocked(Failure),
    /// Asking again would not help.
    Failed(Failure),
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let short = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
        let json = |failure: &Failure| {
            json!({
                "code": failure.code(),
                "message": short(failure.message()),
                "hint": failure.advice().map(short),
            })
        };
        line(match self {
            Answer::Done(holding) => json!({ "done": holding.to_json() }),
            Answer::Blocked(failure) => json!({ "blocked": json(failure) }),
            Answer::Failed(failure) => json!({ "failed": json(failure) }),
        })
    }

    pub(super) fn decode(line: &[u8]) -> Option<Answer> {
        let answer: Value = serde_json::from_slice(line).ok()?;
        let failure = |json: &Value| {
            let code = u8::try_from(json.get("code")?.as_u64()?).ok()?;
            let failure = Failure::new(code, json.get("message")?.as_str()?);
            Some(match json.get("hint").and_then(Value::as_str) {
                Some(hint) => failure.hint(hint),
                None => failure,
            })
        };
        match answer.as_object()?.iter().next()? {
            (kind, json) if kind == "done" => Some(Answer::Done(Holding::from_json(json)?)),
            (kind, json) if kind == "blocked" => Some(Answer::Blocked(failure(json)?)),
            (kind, json) if kind == "failed" => Some(Answer::Failed(failure(json)?)),
            _ => None,
        }
    }
}

fn line(json: Value) -> Vec<u8> {
    format!("{json}\n").into_bytes()
}

/// Sends one line within `patience`.
pub(super) fn send(mut stream: &UnixStream, line: &[u8], patience: Duration) -> io::Result<()> {
    // It fits into the socket's buffer, so that one wait is all there can be.
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(line)
}

/// Receives one line of at most `longest` bytes within `patience`, however slowly it comes.
pub(super) fn receive(mut stream: &UnixStream, longest: usize, patience: Duration) -> io::Result<Vec<u8>> {
    let (started, mut line, mut buffer) = (Instant::now(), Vec::new(), [0; 1024]);
    while line.last() != Some(&b'\n') {
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) if line.len() + count > longest => return Err(ErrorKind::InvalidData.into()),
            Ok(count) => line.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_way() {
        let wait = Duration::from_millis(1500);
        for to in [LeaseMode::Exclusive, LeaseMode::Shared] {
            let request = Request::Convert { resource: "größe".repeat(6), offset: u64::MAX, to, wait };
            assert!(request.encode().len() <= MAX_REQUEST);
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let holding = Holding { resource: "db".into(), mode: LeaseMode::Shared, version: 7, host: 3, generation: 9 };
        match Answer::decode(&Answer::Done(holding.clone()).encode()) {
            Some(Answer::Done(decoded)) => assert_eq!(decoded, holding),
            other => panic!("{other:?}"),
        }
        // What is too long is cut; each of these takes twelve bytes.
        let failure = |hint: &str| Failure::new(75, "\u{10ffff}\u{1}".repeat(MAX_TEXT)).hint(hint);
        let long = Answer::Blocked(failure(&"\u{1}".repeat(MAX_TEXT * 2))).encode();
        assert!(long.len() <= MAX_ANSWER);
        match Answer::decode(&long) {
            Some(Answer::Blocked(failure)) => {
                assert_eq!((failure.code(), failure.message().chars().count()), (75, MAX_TEXT));
            }
            other => panic!("{other:?}"),
        }
        match Answer::decode(&Answer::Failed(Failure::new(69, "lost")).encode()) {
            Some(Answer::Failed(failure)) => assert_eq!((failure.code(), failure.advice()), (69, None)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        for rubbish in
            ["", "\n", "{}", "[1]", "null", "{\"convert\":1}", "{\"done\":{}}", "{\"failed\":{\"code\":256}}", "\u{0}"]
        {
            assert!(
                Request::decode(rubbish.as_bytes()).is_none() && Answer::decode(rubbish.as_bytes()).is_none(),
                "{rubbish}"
            );
        }
    }
}
