//! `leasehold create`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{CreateError, JoinOptions};

use crate::failure::Failure;
use crate::output::{tell, written};
use crate::prepare::{index_patience, open};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold create /dev/vg/leases database
  leasehold create /dev/vg/leases vm-1 vm-2 vm-3

Joins the lockspace for it. A name that exists already is refused (exit code 73); the others are created.")]
pub(crate) struct CreateArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Names, at most 48 bytes each
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

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
