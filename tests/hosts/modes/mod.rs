//! Shared leases, conversions, taking by force, and states to acquire from: what each answers, and what is held then,
//! on paths that misbehave and between processes that are killed.

mod conversions;
mod force;
mod hanging;
pub(crate) mod processes;
mod sharing;

use std::time::Duration;

use leasehold::{AcquireError, ConvertError, Lease, LeaseMode, Wait};

use crate::common::until_some;

/// What a conversion was refused for.
#[track_caller]
fn not_acquired(answer: Result<(), ConvertError>) -> AcquireError {
    match answer {
        Err(ConvertError::NotAcquired(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// What a conversion answers that is not waited for long; again where a busy machine did not get as far as the write.
fn convert(lease: &Lease, to: LeaseMode) -> Result<(), ConvertError> {
    until_some("the write of a conversion", || match lease.convert(to, Wait::For(Duration::from_millis(20))) {
        Err(ConvertError::NotAcquired(AcquireError::TimedOut { .. })) => None,
        answer => Some(answer),
    })
}

/// Releases it, and asserts that it was held until then.
#[track_caller]
fn release(lease: Lease) {
    assert!(lease.is_held(), "{:?}", lease.status());
    lease.release().unwrap();
}

/// Runs tests that wait more than they compute, all at once, each in a thread that has its name.
macro_rules! together {
    ($($test:ident),+ $(,)?) => {
        std::thread::scope(|scope| {
            $(std::thread::Builder::new().name(stringify!($test).into()).spawn_scoped(scope, $test).unwrap();)+
        })
    };
}
use together;
