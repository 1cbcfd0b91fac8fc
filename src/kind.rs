//! What kind of failure each error is, whichever call has answered it.

use std::fmt;

use crate::control::DeclareError;
use crate::disk;
use crate::error::{
    AcquireError, ConvertError, CreateError, Damage, DiskError, EventError, FindError, FormatError, JoinError,
    LeaveError, OpenError, ReleaseError, RequestError, ValueError,
};
use crate::handover::{HandoverError, PrepareError};
use crate::lease_state::LeaseStateError;
use crate::repair::RepairError;
use crate::resume::{ResumeError, TokenError};
use crate::supervision::{LadderError, SuperviseError};
use crate::timeouts::TimeoutsError;
use crate::types::NameError;
use crate::watchdog::WatchdogError;

/// What kind of failure an error is: enough to decide what to do next where the details don't matter, and for codes of
/// other interfaces. The error of each call has a method `kind`. What a kind means does not change; there may be more
/// of them.
///
/// ```
/// use leasehold::{ErrorKind, FindError, Lockspace};
///
/// fn offset_of(lockspace: &Lockspace, name: &str) -> Result<Option<u64>, FindError> {
///     match lockspace.find(name) {
///         Ok(resource) => Ok(Some(resource.offset())),
///         Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
///         Err(error) => Err(error),
///     }
/// }
/// # let _ = offset_of;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is wrong, or these sizes and timeouts don't allow it. It never succeeds as it is.
    InvalidArgument,
    /// What is on the device is damaged, belongs to something else, or is no lockspace.
    Corrupt,
    /// There is no such resource, host or process.
    NotFound,
    /// The lease, or the membership, is lost. What it protects must stop.
    Lost,
    /// It isn't allowed as things are: it would overwrite something, there is no room, or what is held is not held like
    /// that. Something else has to be done first.
    Refused,
    /// Another host or process has it, may have it, or has had it since; or this one has. Trying again later may
    /// succeed where nothing more is needed than that those give it up.
    Held,
    /// The deadline has passed, and nothing else went wrong. Trying again may succeed.
    TimedOut,
    /// A write is still in flight, and with it what was asked for: whether that was done is not known yet.
    Unknown,
    /// Storage or the system failed, or was too slow.
    Io,
    /// The caller has cancelled it.
    Cancelled,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::InvalidArgument => "invalid argument",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::NotFound => "not found",
            ErrorKind::Lost => "lost",
            ErrorKind::Refused => "refused",
            ErrorKind::Held => "held",
            ErrorKind::TimedOut => "timed out",
            ErrorKind::Unknown => "outcome unknown",
            ErrorKind::Io => "I/O error",
            ErrorKind::Cancelled => "cancelled",
        })
    }
}

macro_rules! kinds {
    ($($error:ty: $this:ident => $kind:expr;)*) => {$(
        impl $error {
            /// What kind of failure it is.
            pub fn kind(&self) -> ErrorKind {
                use ErrorKind::*;
                let $this = self;
                $kind
            }
        }
    )*};
}

kinds! {
    // The device.
    disk::OpenError: _error => Io;
    DiskError: _error => Io;
    Damage: _error => Corrupt;

    // Arguments.
    NameError: _error => InvalidArgument;
    TimeoutsError: _error => InvalidArgument;
    LadderError: _error => InvalidArgument;
    LeaseStateError: _error => InvalidArgument;
    TokenError: error => match error {
        TokenError::Damaged(_) => Corrupt,
        TokenError::Prefix | TokenError::Version { .. } | TokenError::TooLong { .. } => InvalidArgument,
    };

    // Lockspaces and resources.
    FormatError: error => match error {
        FormatError::Exists { .. }
        | FormatError::NotBlank { .. }
        | FormatError::Busy { .. }
        | FormatError::InUse { .. }
        | FormatError::TooSmall { .. } => Refused,
        FormatError::Geometry(_) | FormatError::MaxResources { .. } => InvalidArgument,
        FormatError::Timeouts(error) => error.kind(),
        FormatError::Name(error) => error.kind(),
        FormatError::Claim { .. } | FormatError::NotReadBack { .. } | FormatError::Overtaken { .. } | FormatError::Slow { .. } | FormatError::Disk(_) => Io,
    };
    OpenError: error => match error {
        OpenError::NotALockspace { .. }
        | OpenError::Incomplete { .. }
        | OpenError::TooSmall { .. }
        | OpenError::SectorSize { .. } => Corrupt,
        OpenError::Disk(error) => error.kind(),
    };
    FindError: error => match error {
        FindError::NotFound { .. } | FindError::NoIndex { .. } => NotFound,
        FindError::Offset { .. } => InvalidArgument,
        FindError::Name(error) => error.kind(),
        FindError::Damaged(error) => error.kind(),
        FindError::Disk(error) => error.kind(),
    };
    CreateError: error => match error {
        CreateError::Exists { .. } | CreateError::Full { .. } | CreateError::Index(FindError::NoIndex { .. }) => Refused,
        CreateError::Guard(error) => error.kind(),
        CreateError::Index(error) => error.kind(),
        CreateError::Lost(_) => Lost,
        CreateError::Disk(error) => error.kind(),
    };

    // Host ids.
    JoinError: error => match error {
        JoinError::HeldHere { .. }
        | JoinError::Live { .. }
        | JoinError::NotReleased { .. }
        | JoinError::Declared { .. }
        | JoinError::NoneFree { .. }
        | JoinError::Attempt { .. } => Held,
        JoinError::TooLarge { .. } => InvalidArgument,
        JoinError::Name(error) => error.kind(),
        JoinError::Damaged(error) => error.kind(),
        JoinError::Foreign { .. } => Corrupt,
        JoinError::Cancelled => Cancelled,
        JoinError::Watchdog(error) => error.kind(),
        JoinError::Disk(error) => error.kind(),
        JoinError::System { .. } => Io,
    };
    LeaveError: error => match error {
        LeaveError::LeasesHeld { .. } => Refused,
        LeaveError::UnderWay => Held,
        LeaveError::InFlight { .. } => Unknown,
        LeaveError::Lost(_) => Lost,
        LeaveError::Disk(error) => error.kind(),
        LeaveError::Watchdog(error) => error.kind(),
    };
    ResumeError: error => match error {
        ResumeError::HeldHere { .. } | ResumeError::Replaced { .. } => Held,
        ResumeError::TooLate { .. }
        | ResumeError::NeverRenewed { .. }
        | ResumeError::Released { .. }
        | ResumeError::Rebooted { .. } => Lost,
        ResumeError::OtherLockspace { .. } | ResumeError::OtherMachine { .. } => InvalidArgument,
        ResumeError::Unidentified { .. }
        | ResumeError::UnknownPredecessor { .. }
        | ResumeError::UnknownBoot { .. }
        | ResumeError::OtherClock { .. } => Refused,
        ResumeError::Foreign { .. } => Corrupt,
        ResumeError::Damaged(error) => error.kind(),
        ResumeError::Index(error) => error.kind(),
        ResumeError::Watchdog(error) => error.kind(),
        ResumeError::Disk(error) => error.kind(),
        ResumeError::System { .. } => Io,
    };
    DeclareError: error => match error {
        DeclareError::Own { .. } | DeclareError::TooLarge { .. } => InvalidArgument,
        DeclareError::Generation { .. } => Refused,
        DeclareError::Live { .. } => Held,
        DeclareError::Damaged(error) => error.kind(),
        DeclareError::Foreign { .. } => Corrupt,
        DeclareError::Unknown { .. } => Unknown,
        DeclareError::Lost(_) => Lost,
        DeclareError::Slow { .. } => Io,
        DeclareError::Disk(error) => error.kind(),
    };
    RepairError: error => match error {
        RepairError::MayLive { .. } | RepairError::Own { .. } | RepairError::OtherHost { .. } => Held,
        RepairError::Acquire(error) => error.kind(),
        RepairError::Damaged(error) => error.kind(),
        RepairError::Lost(_) => Lost,
        RepairError::Disk(error) => error.kind(),
    };

    // Leases.
    AcquireError: error => match error {
        AcquireError::Held { .. }
        | AcquireError::Shared { .. }
        | AcquireError::VersionChanged { .. }
        | AcquireError::NotHandedOver { .. }
        | AcquireError::NotForced { .. }
        | AcquireError::WouldDeadlock { .. }
        | AcquireError::Overtaken { .. }
        | AcquireError::AlreadyHeld { .. } => Held,
        AcquireError::TimedOut { source: None, .. } => TimedOut,
        AcquireError::TimedOut { source: Some(error), .. } => error.kind(),
        AcquireError::BlockDamaged { .. }
        | AcquireError::BlockChanged { .. }
        | AcquireError::Exhausted { .. } => Corrupt,
        AcquireError::Damaged(error) => error.kind(),
        AcquireError::Deleted { .. } | AcquireError::Foreign { .. } => NotFound,
        AcquireError::OtherResource { .. } | AcquireError::HostIdTooLarge { .. } => InvalidArgument,
        AcquireError::Unknown { .. } => Unknown,
        AcquireError::Lost(_) => Lost,
        AcquireError::Disk(error) => error.kind(),
    };
    ConvertError: error => match error {
        ConvertError::NotAcquired(error) => error.kind(),
        ConvertError::HandoverBegun { .. } => Refused,
        ConvertError::ValueInFlight { .. } | ConvertError::Unknown { .. } => Unknown,
        ConvertError::Lost(_) => Lost,
    };
    ReleaseError: error => match error {
        ReleaseError::Unknown { .. } => Unknown,
        ReleaseError::Lost(_) => Lost,
    };
    PrepareError: error => match error {
        PrepareError::NotAsked { .. } => TimedOut,
        PrepareError::Shared { .. } => Refused,
        PrepareError::Lost(_) => Lost,
        PrepareError::Disk(error) => error.kind(),
    };
    HandoverError: error => match error {
        HandoverError::NotAsked { .. } => TimedOut,
        HandoverError::Shared { .. } => Refused,
        HandoverError::Kept { source, .. } => source.kind(),
        HandoverError::TakenBack { .. }
        | HandoverError::NotTakenBack { .. }
        | HandoverError::Passed { .. } => Held,
        HandoverError::Lost(_) => Lost,
        HandoverError::Unknown { .. } | HandoverError::Unconfirmed { .. } => Unknown,
        HandoverError::Disk { source, .. } => source.kind(),
    };

    // What hosts say to each other.
    RequestError: error => match error {
        RequestError::HeldHere { .. } => Held,
        RequestError::Damaged(error) => error.kind(),
        RequestError::Lost(_) => Lost,
        RequestError::Disk(error) => error.kind(),
    };
    ValueError: error => match error {
        ValueError::NoRoom { .. } | ValueError::Shared { .. } | ValueError::TooLong { .. } => Refused,
        ValueError::Overwritten { .. } => Corrupt,
        ValueError::Damaged(error) => error.kind(),
        ValueError::Lost(_) => Lost,
        ValueError::Disk(error) => error.kind(),
    };
    EventError: error => match error {
        EventError::Empty => InvalidArgument,
        EventError::NotThere { .. } => NotFound,
        EventError::Busy { .. } => Held,
        EventError::Lost(_) => Lost,
    };

    // Programs and machines.
    SuperviseError: error => match error {
        SuperviseError::Lost(_) => Lost,
        SuperviseError::NotFound { .. } => NotFound,
        SuperviseError::OwnProcess
        | SuperviseError::NotALeader { .. }
        | SuperviseError::NotACgroup { .. }
        | SuperviseError::NotInCgroup { .. }
        | SuperviseError::OwnCgroup { .. } => InvalidArgument,
        SuperviseError::System { .. } => Io,
    };
    WatchdogError: error => match error {
        WatchdogError::TooCoarse { .. } => InvalidArgument,
        WatchdogError::InUse { .. } => Held,
        WatchdogError::ResetPending { .. } | WatchdogError::NoWayOut { .. } | WatchdogError::StillHeld => Refused,
        WatchdogError::Mark { .. }
        | WatchdogError::Open { .. }
        | WatchdogError::NotAWatchdog { .. }
        | WatchdogError::Unsupported { .. }
        | WatchdogError::Timeout { .. }
        | WatchdogError::Device { .. }
        | WatchdogError::TooLate { .. }
        | WatchdogError::Stuck
        | WatchdogError::System { .. } => Io,
    };
}
