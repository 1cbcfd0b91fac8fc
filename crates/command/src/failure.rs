//! How a failure is told: one line of what went wrong and why, what to do next, and the exit code.

use std::error::Error;
use std::fmt;
use std::path::Path;

use leasehold::{
    AcquireError, ConvertError, CreateError, DiskError, ErrorKind, FindError, FormatError, JoinError, LossReason,
    OpenError, PrepareError, ReleaseError, RequestError, ValueError, WatchdogError, disk,
};

use crate::prober::held_by;

/// An argument is wrong.
pub(crate) const USAGE: u8 = 64;
/// Not a lockspace, or damaged.
pub(crate) const DATA: u8 = 65;
/// No such resource.
pub(crate) const NO_RESOURCE: u8 = 66;
/// The lease was lost.
pub(crate) const LOST: u8 = 69;
/// Refused to overwrite, or no room.
pub(crate) const REFUSED: u8 = 73;
/// An I/O error.
pub(crate) const IO: u8 = 74;
/// Held by another host.
pub(crate) const HELD: u8 = 75;

/// What to do about damage.
pub(crate) const REPAIR: &str = "`leasehold repair` writes it anew, when that is safe";

/// Why a command failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

/// The exit code of a command that failed so.
const fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidArgument => USAGE,
        ErrorKind::Corrupt => DATA,
        ErrorKind::NotFound => NO_RESOURCE,
        ErrorKind::Lost => LOST,
        ErrorKind::Refused => REFUSED,
        ErrorKind::Held | ErrorKind::TimedOut | ErrorKind::Cancelled => HELD,
        _ => IO,
    }
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), hint: None }
    }

    /// With an error of that kind, and all its sources.
    pub(crate) fn of(kind: ErrorKind, error: &dyn Error) -> Failure {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            // A transparent error says the same as its source.
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            source = error.source();
        }
        Failure::new(exit_code(kind), message)
    }

    /// Says before it what it happened in.
    pub(crate) fn within(mut self, what: &str) -> Failure {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// What went wrong and why, without what to do next.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do next.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) const fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl From<disk::OpenError> for Failure {
    fn from(error: disk::OpenError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            disk::OpenError::NotFound { path } if path.starts_with("/dev") => {
                failure.hint("is the device there, and is its volume active?")
            }
            disk::OpenError::NotFound { path } => {
                failure.hint(format!("for a file: truncate -s 64M {}", path.display()))
            }
            disk::OpenError::PermissionDenied { .. } => {
                failure.hint("the user must be able to read and write the device")
            }
            _ => failure,
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match &error {
            OpenError::NotALockspace { device, blank: true, .. } => {
                failure.hint(format!("to make it one, if it is the right device: leasehold format {device}"))
            }
            OpenError::NotALockspace { device, .. } => match held_by(Path::new(device)) {
                Some(what) => failure.hint(format!("it holds {what}")),
                None => failure.hint("it is not blank either: is it the right device?"),
            },
            OpenError::Incomplete { device } => failure.hint(format!(
                "do it again: leasehold format {device}; with --force where it was to replace a lockspace"
            )),
            _ => failure,
        }
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Failure {
        Failure::of(error.kind(), &error)
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match &error {
            FormatError::Exists { device, .. } => match held_by(Path::new(device)) {
                Some(what) => failure.hint(format!(
                    "that is what is left of one, and it holds {what}, too: is it the right device? --force overwrites it"
                )),
                None => failure.hint("--force overwrites it, if no host is live in it"),
            },
            FormatError::NotBlank { what: Some(_), .. } => failure
                .hint("its hosts can't be seen there: stop all of them first; then --force overwrites it"),
            FormatError::NotBlank { device, .. } => {
                let what = held_by(Path::new(device)).map_or_else(String::new, |what| format!("it holds {what}; "));
                failure.hint(format!("{what}is it the right device? --force overwrites it"))
            }
            FormatError::Busy { device } => failure.hint(format!("`lsblk {device}` shows what it is part of")),
            FormatError::InUse { .. } => failure.hint("stop that host first"),
            _ => failure,
        }
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match &error {
            FindError::NotFound { name, known, .. } => failure.hint(similar(&name.to_string(), known)),
            FindError::NoIndex { .. } => {
                failure.hint("name it with its offset: NAME@OFFSET; `leasehold status` lists what it finds")
            }
            FindError::Damaged(_) => failure.hint(REPAIR),
            _ => failure,
        }
    }
}

/// What somebody who mistyped a name may have meant.
fn similar(name: &str, known: &[leasehold::Name]) -> String {
    const SHOWN: usize = 5;
    let mut ranked: Vec<(f64, String)> = known
        .iter()
        .map(|known| known.to_string())
        .map(|known| (strsim::jaro_winkler(name, &known), known))
        .filter(|(similarity, _)| *similarity > 0.7)
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let names: Vec<String> = ranked.into_iter().take(SHOWN).map(|(_, name)| name).collect();
    match (names.is_empty(), known.is_empty()) {
        (false, _) => format!("did you mean {}? --create makes a new one", names.join(" or ")),
        (true, true) => "there are no resources yet; --create makes it".into(),
        (true, false) => "none has a similar name; `leasehold status` lists them, --create makes a new one".into(),
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            JoinError::HeldHere { .. } | JoinError::Live { .. } => {
                failure.hint("take another host id, or leave the choice to leasehold")
            }
            JoinError::NotReleased { unidentified: Some(_), .. } => {
                failure.hint("--machine or LEASEHOLD_MACHINE says which machine this is; or take another host id")
            }
            JoinError::NotReleased { .. } => failure.hint(
                "take another host id; only that machine may take this one again, or who names it after `leasehold declare-dead`",
            ),
            JoinError::Declared { .. } => {
                failure.hint("--host-id takes it, and vouches that its earlier holders write nothing")
            }
            JoinError::NoneFree { .. } => {
                failure.hint("--host-id takes one of a host that will not come back, after `leasehold declare-dead`")
            }
            JoinError::Damaged(_) => failure.hint(REPAIR),
            JoinError::Watchdog(error) => error.into(),
            _ => failure,
        }
    }
}

impl From<WatchdogError> for Failure {
    fn from(error: WatchdogError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match &error {
            WatchdogError::TooCoarse { .. } => {
                failure.hint("format the lockspace with a longer fence timeout, or take the watchdog `self`")
            }
            WatchdogError::InUse { .. } => failure.hint("one process at a time can have it: wdmd and systemd may, too"),
            WatchdogError::ResetPending { mark, .. } => failure.hint(format!(
                "reset the machine; or, if it doesn't count and nothing of that process is left, remove {}",
                mark.display()
            )),
            WatchdogError::NoWayOut { .. } => failure.hint("load its module with nowayout=0"),
            _ => failure,
        }
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match &error {
            AcquireError::Held { holder, .. } => match holder.takeover_in {
                Some(span) => failure.hint(format!(
                    "if that host shows no further life it can be taken over in {} ms; --wait waits for it",
                    span.as_millis()
                )),
                None => failure.hint("--wait waits for it"),
            },
            AcquireError::Shared { .. } => failure.hint("--wait waits until none of them shares it"),
            AcquireError::VersionChanged { .. } => failure.hint("it has had another owner since; nothing was written"),
            AcquireError::NotHandedOver { .. } => failure.hint("`leasehold run` without --receive acquires it"),
            AcquireError::NotForced { .. } => {
                failure.hint("stop that host by other means, then `leasehold declare-dead` frees what it holds")
            }
            AcquireError::BlockDamaged { .. } | AcquireError::Damaged(_) | AcquireError::Exhausted { .. } => {
                failure.hint(REPAIR)
            }
            _ => failure,
        }
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            ConvertError::NotAcquired(error) => error.into(),
            ConvertError::Lost(reason) => Failure::from(reason).within("the lease was lost"),
            ConvertError::ValueInFlight { .. } | ConvertError::Unknown { .. } => failure.hint("doing it again is safe"),
            _ => failure,
        }
    }
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            PrepareError::NotAsked { .. } => {
                failure.hint("`leasehold run --receive` asks, on that host; --wait waits for it")
            }
            PrepareError::Shared { .. } => {
                failure.hint("`leasehold convert --to exclusive` has one host hold it alone")
            }
            PrepareError::Lost(reason) => Failure::from(reason).within("the lease was lost"),
            _ => failure,
        }
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            CreateError::Guard(error) => Failure::from(error).within("the index is busy"),
            CreateError::Index(FindError::NoIndex { .. }) => {
                failure.hint("sanlock makes one: sanlock client format -x LOCKSPACE:DEVICE:OFFSET, at the second area")
            }
            CreateError::Index(error) => error.into(),
            _ => failure,
        }
    }
}

impl From<ReleaseError> for Failure {
    fn from(error: ReleaseError) -> Failure {
        Failure::of(error.kind(), &error)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            // Nothing is held that it would protect.
            RequestError::Lost(_) => failure.with_code(IO),
            _ => failure,
        }
    }
}

impl From<ValueError> for Failure {
    fn from(error: ValueError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            // Nothing is held any more that it would protect.
            ValueError::Lost(_) => failure.with_code(IO),
            _ => failure,
        }
    }
}

impl From<LossReason> for Failure {
    fn from(reason: LossReason) -> Failure {
        Failure::of(ErrorKind::Lost, &reason)
    }
}
