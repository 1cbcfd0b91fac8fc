//! What is said on the channel: one line of JSON each way. The two ends may be of different versions.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use leasehold::{HostId, LeaseMode, Owner, Version};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::written;

/// The longest request, in bytes.
pub(super) const MAX_REQUEST: usize = 1 << 10;
/// The longest answer, in bytes.
pub(super) const MAX_ANSWER: usize = 1 << 16;
/// The longest text in an answer, in characters: in JSON one takes twelve bytes at most, and there are two.
const MAX_TEXT: usize = 2000;

/// What is asked of a `run`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) resource: String,
    /// Where it stands.
    pub(crate) offset: u64,
    /// How long to wait for others: never longer than the one who is asked likes.
    pub(crate) wait: Duration,
    pub(crate) action: Action,
}

/// What is to be done with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Hold it in another way.
    Convert(LeaseMode),
    /// Make this host its owner, when it asks for that: end the command first. It has `grace` between SIGTERM and
    /// SIGKILL.
    HandOver { to: HostId, grace: Duration },
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Request { resource, offset, wait, action } = self;
        let mut request = json!({ "resource": resource, "offset": offset, "wait_ms": millis(*wait) });
        line(match action {
            Action::Convert(to) => {
                request["to"] = to.to_string().into();
                json!({ "convert": request })
            }
            Action::HandOver { to, grace } => {
                request["to"] = to.get().into();
                request["grace_ms"] = millis(*grace).into();
                json!({ "hand_over": request })
            }
        })
    }

    pub(super) fn decode(line: &[u8]) -> Option<Request> {
        let request: Value = serde_json::from_slice(line).ok()?;
        let (action, request) = request.as_object()?.iter().next()?;
        let span = |name: &str| Some(Duration::from_millis(request.get(name)?.as_u64()?));
        let to = request.get("to")?;
        let action = match action.as_str() {
            "convert" => Action::Convert(mode(to)?),
            "hand_over" => Action::HandOver { to: HostId::new(to.as_u64()?)?, grace: span("grace_ms")? },
            _ => return None,
        };
        Some(Request {
            resource: request.get("resource")?.as_str()?.into(),
            offset: request.get("offset")?.as_u64()?,
            wait: span("wait_ms")?,
            action,
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

    fn to_json(&self) -> Value {
        json!({
            "resource": self.resource,
            "mode": self.mode.to_string(),
            "version": self.version,
            "host_id": self.host,
            "generation": self.generation,
        })
    }

    /// On standard output.
    pub(crate) fn show(&self, as_json: bool) -> Result<(), Failure> {
        written(match as_json {
            true => writeln!(io::stdout(), "{:#}", self.to_json()),
            false => writeln!(io::stdout(), "{self}"),
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

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
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
        let to = HostId::new(2000).expect("a host id");
        let actions = [LeaseMode::Exclusive, LeaseMode::Shared].map(Action::Convert);
        for action in actions.into_iter().chain([Action::HandOver { to, grace: Duration::from_secs(9 * 3600) }]) {
            let request = Request { resource: "größe".repeat(6), offset: u64::MAX, wait, action };
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
        for rubbish in [
            "",
            "\n",
            "{}",
            "[1]",
            "null",
            "{\"convert\":1}",
            "{\"hand_over\":{}}",
            "{\"done\":{}}",
            "{\"failed\":{\"code\":256}}",
            "\u{0}",
        ] {
            assert!(
                Request::decode(rubbish.as_bytes()).is_none() && Answer::decode(rubbish.as_bytes()).is_none(),
                "{rubbish}"
            );
        }
    }
}
