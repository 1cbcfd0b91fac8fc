//! Shared-storage leases: hosts that share nothing but a block device agree on who owns what.
//!
//! Each host holds a *host id* by a delta lease that it renews, and takes *resources* by Disk Paxos ballots, all in
//! sectors of the device, in sanlock's disk format. A host that stops renewing is taken for dead after a time that is
//! written on the device; then others take what it held. Every ownership of a resource has a version that grows: the
//! fencing token.
//!
//! What it does not do: it does not start what a lease protects (the `leasehold run` command does), and it can't keep a
//! host that was paused together with its clock from writing; only a fencing token or a reset can. DESIGN.md argues
//! what is safe when, and why.
//!
//! ```
//! use std::sync::Arc;
//! use leasehold::disk::MemoryDisk;
//! use leasehold::{FormatOptions, JoinOptions, Lockspace, Profile, Wait};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On a real device: `DirectDisk::open("/dev/...", Access::ReadWrite)`.
//! let disk = Arc::new(MemoryDisk::new(8 << 20, None));
//! let options = FormatOptions { timeouts: Profile::Fast.timeouts(), ..FormatOptions::default() };
//! leasehold::format(disk.clone(), &options)?;
//!
//! let lockspace = Lockspace::open(disk)?;
//! let membership = lockspace.join(JoinOptions::new())?;
//! let resource = membership.create("database", Wait::No)?;
//!
//! let lease = membership.acquire(&resource, Wait::No)?;
//! assert!(lease.is_held());
//! println!("the fencing token is {}", lease.version());
//!
//! lease.release()?;
//! membership.leave()?;
//! # Ok(())
//! # }
//! ```
//!
//! Where to look: [`Lockspace`] opens a device, lists its hosts and resources, and [goes on](Lockspace::resume) with
//! what a process held that was restarted; [`Watching`] goes on looking; [`Membership`] acquires and creates; [`Lease`]
//! is what is held. [`Protected`] programs end when it does, and a [`Watchdog`] is for when nobody can end them.
//! What went wrong has a kind, [`ErrorKind`], whichever call it was.
//! [`disk`] is the seam to storage and clock; [`inspect`] shows what stands on a device.

#![deny(missing_docs, unsafe_code)]

mod acquire;
mod control;
mod create;
pub mod disk;
mod engine;
mod error;
#[doc(hidden)]
pub mod format;
mod formatting;
mod handover;
mod index;
pub mod inspect;
mod join;
mod kind;
mod lease;
mod lease_state;
mod lockspace;
mod membership;
#[doc(hidden)]
pub mod protocol;
mod repair;
mod requests;
mod resume;
mod supervision;
mod timeouts;
mod types;
mod value;
mod watchdog;
mod watching;

pub use acquire::{AcquireOptions, Taken, Wait};
pub use control::DeclareError;
pub use engine::handover::Destination;
pub use engine::hosts::HostInfo;
pub use engine::pulse::{LeaseLoss, Status};
pub use error::{
    AcquireError, ConvertError, CreateError, Damage, DiskCause, DiskError, EventError, FindError, FormatError, Holder,
    JoinError, LeaveError, LossReason, OpenError, ReleaseError, RequestError, Taker, ValueError,
};
pub use format::{AreaSize, Corrupt, Force, Geometry, GeometryError, HostEvent, SectorSize, Value, ValueOrigin};
pub use formatting::{FormatOptions, format};
pub use handover::{Handover, HandoverError, PrepareError};
pub use join::{JoinOptions, Joining};
pub use kind::ErrorKind;
pub use lease::Lease;
pub use lease_state::{LeaseState, LeaseStateError};
pub use lockspace::{Lockspace, Mode, Ownership, ResourceInfo};
pub use membership::Membership;
pub use protocol::Defect;
pub use protocol::declare::Declared;
pub use protocol::identity::Unidentified;
pub use protocol::liveness::HostState;
pub use protocol::member::Notice;
pub use repair::{EntryFlaw, Finding, RepairError, RepairOptions, Repaired};
pub use requests::Requested;
pub use resume::{Gone, GoneReason, ResumeError, ResumeToken, Resumed, TokenError};
pub use supervision::{
    Deadlines, Escalation, Ladder, LadderError, Protected, Scope, Step, SuperviseError, Supervision,
};
pub use timeouts::{CLOCK_RATE_ERROR_PPM, Profile, Timeouts, TimeoutsError, stretched};
pub use types::{BootId, Generation, HostId, LeaseMode, MachineId, Name, NameError, Owner, Resource, Time, Version};
pub use value::StoredValue;
pub use watchdog::{Armed, KernelWatchdog, Pace, SelfKill, Watchdog, WatchdogError};
pub use watching::{Renewals, Watching};
