//! Shared leases, conversions, taking by force, and states to acquire from: what each answers, and what is held then, on
//! paths that misbehave and between processes that are killed.

mod conversions;
mod force;
mod hanging;
pub(crate) mod processes;
mod sharing;

use leasehold::{AcquireError, ConvertError, Lease};

/// What a conversion was refused for.
#[track_caller]
fn not_acquired(answer: Result<(), ConvertError>) -> AcquireError {
    match answer {
        Err(ConvertError::NotAcquired(refused)) => refused,
        other => panic!("{other:?}"),
    }
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
