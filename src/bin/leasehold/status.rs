//! `leasehold status`
use crate::args::StatusArgs;
use crate::failure::Failure;
pub(crate) fn status(_args: &StatusArgs) -> Result<(), Failure> {
    Ok(())
}
