//! `leasehold dump`
use crate::args::DumpArgs;
use crate::failure::Failure;
pub(crate) fn dump(_args: &DumpArgs) -> Result<(), Failure> {
    Ok(())
}
