//! What stands on a device beside the leases themselves.
//!
//! | file | what it decides |
//! |---|---|
//! | `found.rs` | which lockspace stands at the start of a device |
//! | `format.rs` | whether and how a device is formatted, also over a lockspace whose hosts may live |
//! | `index.rs` | what the resource index says |
//! | `place.rs` | whether a new resource may stand in an area, from one read of it |
//! | `create.rs` | making a resource: which writes, in which order |
//! | `blanks.rs` | what stands in an area that nobody has used |
//!
//! Resources are made under the lease that guards the index. It can be lost in the middle, and a write that was
//! submitted before may land at any later time. So nothing here relies on the guard for safety: see [`create`].

mod blanks;
pub mod create;
pub mod format;
mod former;
mod found;
pub mod index;
pub mod place;
mod region;

pub use found::{DEFAULT_IO_TIMEOUT, Found};
