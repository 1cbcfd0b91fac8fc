//! `leasehold create`

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{CreateError, Membership};

use crate::failure::Failure;
use crate::output::{tell, written};
use crate::prepare::{index_patience, open};
use crate::session::{Identity, Machine, with_membership};

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
    #[command(flatten)]
    pub(crate) machine: Machine,
}

pub(crate) fn create(args: &CreateArgs) -> Result<ExitCode, Failure> {
    let lockspace = open(&args.device, Access::ReadWrite)?;
    with_membership(&lockspace, &Identity::from(&args.machine), |membership, _| create_all(membership, &args.names))
}

fn create_all(membership: &Membership, names: &[String]) -> Result<(), Failure> {
    let mut refused = None;
    for name in names {
        match membership.create(name, index_patience(membership.lockspace())) {
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
    refused.map_or(Ok(()), Err)
}
