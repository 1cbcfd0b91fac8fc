//! What an acquire is told when somebody else has the resource.

use leasehold::{AcquireError, AcquireOptions, LeaseMode, Membership, Resource, Wait};

use super::id;

pub(crate) fn shared(wait: Wait) -> AcquireOptions {
    AcquireOptions::new().mode(LeaseMode::Shared).wait(wait)
}

/// The ids of those who share, whom a refused acquire names.
#[track_caller]
pub(crate) fn sharers(refused: AcquireError) -> Vec<u64> {
    match refused {
        AcquireError::Shared { holders, .. } => holders.iter().map(|holder| holder.host.get()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Asserts that the resource is refused as that host's.
#[track_caller]
pub(crate) fn held_by(asking: &Membership, resource: &Resource, owner: u64) {
    match asking.acquire(resource, Wait::No) {
        Err(AcquireError::Held { holder, .. }) => assert_eq!(holder.host, id(owner)),
        other => panic!("{other:?}"),
    }
}
