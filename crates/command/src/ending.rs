//! What becomes of the leases of a `run` when its command has ended: handed over to the hosts that ask for them, or
//! released.

use std::process::ExitCode;
use std::time::Duration;

use leasehold::{Destination, HandoverError, Lease, LeaseMode, Timeouts, Wait};
use rustix::process::Signal;

use crate::channel::{Answer, Asker, Holding};
use crate::descendants::Outcome;
use crate::failure::{Failure, REFUSED};
use crate::output::tell;

/// A handover that another command has ordered: the command of this `run` was asked to end for it.
#[derive(Debug)]
pub(crate) struct Order {
    /// Where the resource stands.
    pub(crate) offset: u64,
    pub(crate) to: Destination,
    /// Who waits to be told what became of it.
    pub(crate) asker: Asker,
}

impl Order {
    /// Nothing comes of it, for another reason than those below.
    pub(crate) fn fail(self, failure: &Failure) {
        self.asker.answer(&Answer::Failed(failure.clone()));
    }
}

/// Hands the leases over, or releases them, and tells. The exit code is that of the command; where it was ended to hand
/// over, and that was done, 0.
///
/// # Errors
/// A lease was lost, or could not be released.
pub(crate) fn end(
    leases: Vec<Lease>,
    outcome: Outcome,
    mut order: Option<Order>,
    timeouts: &Timeouts,
) -> Result<ExitCode, Failure> {
    let well = ended_well(outcome, order.is_some());
    let (mut code, mut result) = (outcome.exit_code(), Ok(()));
    for lease in leases {
        let (name, offset) = (lease.resource().name(), lease.resource().offset());
        let order = order.take_if(|order| order.offset == offset);
        let to = match &order {
            _ if !well => None,
            Some(order) => Some(order.to.clone()),
            None => first_who_asks(&lease),
        };
        let Some(to) = to else {
            let released = release(lease);
            if let Some(order) = order {
                let state = released_or_not(&released);
                order.fail(&Failure::new(
                    REFUSED,
                    format!("the command ended with {outcome}, and is taken to have failed: {name} was {state}"),
                ));
            }
            result = result.and(released);
            continue;
        };
        let handed_over = hand_over(lease, to, timeouts);
        match handed_over {
            Ok((to, holding)) => {
                tell(format_args!("{name} was handed over to {to}, which owns version {}", to.version));
                if let Some(order) = order {
                    code = ExitCode::SUCCESS;
                    order.asker.answer(&Answer::Done(holding));
                }
            }
            Err(NotHandedOver { failure, released }) => {
                tell(&failure);
                if let Some(order) = order {
                    order.fail(&failure);
                }
                result = result.and(released);
            }
        }
    }
    result.map(|()| code)
}

/// Whether what the command has done may be gone on with elsewhere. One that was told to end may say so, in its own way
/// or as shells do.
fn ended_well(outcome: Outcome, told_to_end: bool) -> bool {
    let term = Signal::TERM.as_raw();
    match outcome {
        Outcome::Code(0) => true,
        Outcome::Code(code) => told_to_end && code == 128 + term,
        Outcome::Signal(signal) => told_to_end && signal == term,
    }
}

fn first_who_asks(lease: &Lease) -> Option<Destination> {
    if lease.mode() == LeaseMode::Shared {
        return None;
    }
    let asking = lease.destinations().inspect_err(|error| {
        tell(format_args!("{}: whether anybody asks for it can't be read: {error}", lease.resource().name()));
    });
    asking.ok()?.into_iter().next()
}

/// A handover that came to nothing.
struct NotHandedOver {
    /// Why.
    failure: Failure,
    /// What became of the lease: as if it had been released without a handover.
    released: Result<(), Failure>,
}

/// Makes `to` the owner, and waits until it knows. Where that fails what is still held is released.
fn hand_over(lease: Lease, to: Destination, timeouts: &Timeouts) -> Result<(Destination, Holding), NotHandedOver> {
    let name = lease.resource().name();
    let proposed = match lease.hand_over(to, Wait::For(timeouts.fail())) {
        Err(HandoverError::Unknown { handover }) => Ok(handover),
        answer => answer,
    };
    let done = proposed.and_then(|handover| {
        let to = handover.destination().clone();
        let holding = Holding::new(name.to_string(), LeaseMode::Exclusive, to.version, to.owner);
        handover.finish(Wait::For(patience(timeouts)))?;
        Ok((to, holding))
    });
    done.map_err(|error| {
        let failure = explain(&error);
        match error {
            HandoverError::NotAsked { lease, .. }
            | HandoverError::Shared { lease }
            | HandoverError::Kept { lease, .. }
            | HandoverError::TakenBack { lease } => {
                let released = release(lease);
                let state = released_or_not(&released);
                NotHandedOver { failure: failure.hint(format!("{name} was {state}")), released }
            }
            HandoverError::Lost(_) => NotHandedOver { released: Err(failure.clone()), failure },
            _ => NotHandedOver { failure, released: Ok(()) },
        }
    })
}

/// How long the destination has to show that it knows: after that it is dead, or no process of this version.
fn patience(timeouts: &Timeouts) -> Duration {
    timeouts.dead()
}

fn explain(error: &HandoverError) -> Failure {
    let failure = Failure::of(error.kind(), error);
    match error {
        HandoverError::NotTakenBack { .. } | HandoverError::Passed { .. } => {
            failure.hint("nothing is held here any more")
        }
        HandoverError::Unconfirmed { handover } | HandoverError::Disk { handover, .. } => failure.hint(format!(
            "{} is or may become the owner of {}; if it is dead others can take over from it as ever",
            handover.destination(),
            handover.resource().name()
        )),
        _ => failure,
    }
}

const fn released_or_not(released: &Result<(), Failure>) -> &'static str {
    if released.is_ok() { "released" } else { "not released" }
}

/// Tells what fails.
pub(crate) fn release(lease: Lease) -> Result<(), Failure> {
    let name = lease.resource().name();
    lease.release().map_err(|error| {
        let failure = Failure::from(error);
        tell(format_args!("{name}: {failure}"));
        failure
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_hands_nothing_over() {
        for (outcome, told_to_end, well) in [
            (Outcome::Code(0), false, true),
            (Outcome::Code(0), true, true),
            (Outcome::Code(1), true, false),
            (Outcome::Code(143), false, false),
            (Outcome::Code(143), true, true),
            (Outcome::Signal(15), false, false),
            (Outcome::Signal(15), true, true),
            (Outcome::Signal(9), true, false),
        ] {
            assert_eq!(ended_well(outcome, told_to_end), well, "{outcome} {told_to_end}");
        }
    }
}
