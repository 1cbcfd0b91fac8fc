//! What stands on a device beside the leases themselves.
//!
//! | file | what it decides |
//! |---|---|
//! | `found.rs` | which lockspace stands at the start of a device |
//! | `format.rs` | whether and how a device is formatted, also over a lockspace whose hosts may live |

pub mod format;
mod former;
mod found;
mod region;

pub use found::{DEFAULT_IO_TIMEOUT, Found};
