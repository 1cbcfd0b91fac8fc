//! What is written in the place of a damaged delta record.
//!
//! Not in here: when that may be done. Its holder has found the damage at its next renewal, and is lost; who mends the
//! record waits until the generation counts as dead, so as not to be what costs it the id.
//!
//! Invariants:
//! - What is mended is not released, unless its own checksum says that it was, or somebody vouches for its holder as for
//!   a host that is declared dead. So nobody takes it for a proof that a generation is over.
//! - Nobody proves to be the machine that held it: the id is taken again only after it was declared dead.
//! - Its generation is not below any that is known of this host.

use super::delta::Terms;
use crate::format::{DeltaExtension, DeltaRecord};
use crate::types::{HostId, Name};

/// The record that takes the place of the damaged one of `host`. `rest` is what sanlock would read of that, if it has its
/// checksum; `shown` the largest generation of the host that anything else on the device shows; `fenced_by` who vouches
/// that its holder was fenced.
pub fn mended(
    host: HostId,
    terms: &Terms,
    rest: Option<DeltaRecord>,
    shown: u64,
    fenced_by: Option<HostId>,
) -> DeltaRecord {
    let rest = rest.filter(|rest| terms.own(host, rest));
    let free = rest.as_ref().is_some_and(DeltaRecord::is_free) || fenced_by.is_some();
    let known = rest.as_ref().map_or(0, |rest| rest.generation).max(shown);
    // What is held has a generation, whether it is known or not.
    let generation = if free { known } else { known.max(1) };
    DeltaRecord {
        geometry: terms.geometry,
        lockspace: terms.lockspace,
        owner_id: if generation == 0 { 0 } else { host.get() },
        generation,
        host_name: rest.as_ref().map_or(Name::EMPTY, |rest| rest.host_name),
        // When it was renewed last nobody knows, and nobody asks.
        timestamp: if free { 0 } else { 1 },
        io_timeout: terms.timeouts.io_seconds(),
        extension: Some(DeltaExtension {
            nonce: terms.nonce,
            session: 0,
            boot: 0,
            started_us: 0,
            left: 0,
            machine: 0,
            superseded: 0,
            confirmed: false,
            declared_by: fenced_by,
            timeouts: terms.timeouts,
        }),
    }
}
