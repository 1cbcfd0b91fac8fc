//! `leasehold create`

use std::io::{self, Write};

use leasehold::disk::Access;
use leasehold::{CreateError, JoinOptions};

use crate::args::CreateArgs;
use crate::failure::Failure;
use crate::output::{tell, written};
use crate::prepare::{index_patience, open};

pub(crate) fn create(args: &CreateArgs) -> Result<(), Failure> {
    let lockspace = open(&args.device, Access::ReadWrite)?;
    let membership = lockspace.join(JoinOptions::new())?;
    let mut refused = None;
    for name in &args.names {
        match membership.create(name, index_patience(&lockspace)) {
            Ok(resource) => {
                let line = format!("created {} at offset {}", resource.name(), resource.offset());
                written(writeln!(io::stdout(), "{line}"))?;
            }
            Err(error @ CreateError::Exists { .. }) => {
                // The last one is told with the exit code.
                if let Some(earlier) = refused.replace(Failure::from(error)) {
                    tell(earlier);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let Err(error) = membership.leave() {
        tell(format_args!("the host id was not given back: {error}"));
    }
    refused.map_or(Ok(()), Err)
}
