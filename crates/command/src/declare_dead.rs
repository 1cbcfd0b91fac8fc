//! `leasehold declare-dead`

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{DeclareError, Declared, Generation, HostId};

use crate::failure::Failure;
use crate::output::written;
use crate::prepare::open;
use crate::session::{Identity, Machine, with_membership};
use crate::words::host_id;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold status /dev/vg/leases
  leasehold declare-dead /dev/vg/leases 7 --generation 12 --fenced

You vouch for it: cut the power of that host first, or take its access to the device away. What it holds is then \
free at once. Its host id is taken again only by a join that names it (`--host-id`), and after the dead time: who \
names it vouches that no write of an earlier holder of that id will reach the device. `status` shows its generation \
and its name: your word is for the host of that name. \
A host that still renews is refused (exit code 75), one that came back with another generation too (exit code 73). A \
host that was declared dead and lives after all loses everything at its next renewal, and says by whom; until then \
two hosts may run the same. Joins the lockspace for it.")]
pub(crate) struct DeclareDeadArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Host id of the dead host
    #[arg(value_parser = host_id)]
    pub(crate) host: HostId,
    /// Its generation
    #[arg(long, value_name = "G", value_parser = generation)]
    pub(crate) generation: Generation,
    /// I vouch that it was fenced: nothing on it acts, and no write of it will reach the device
    #[arg(long, required = true)]
    pub(crate) fenced: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

fn generation(text: &str) -> Result<Generation, String> {
    let generation = text.parse().ok().and_then(Generation::new);
    generation.ok_or_else(|| "a generation is a number from 1 on".into())
}

pub(crate) fn declare_dead(args: &DeclareDeadArgs) -> Result<ExitCode, Failure> {
    let lockspace = open(&args.device, Access::ReadWrite)?;
    with_membership(&lockspace, &Identity::from(&args.machine), |membership, _| {
        let how = match membership.declare_dead(args.host, args.generation)? {
            Declared::Dead => "is declared dead",
            Declared::WasOver => "was over already",
        };
        written(writeln!(io::stdout(), "host {} generation {} {how}", args.host, args.generation))
    })
}

impl From<DeclareError> for Failure {
    fn from(error: DeclareError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match &error {
            DeclareError::Generation { .. } => failure.hint("`leasehold status` shows the hosts"),
            DeclareError::Live { .. } => failure.hint("fence it first"),
            DeclareError::Damaged(_) => failure.hint("`leasehold repair --host` mends it"),
            DeclareError::Unknown { .. } => failure.hint("doing it again is safe"),
            _ => failure,
        }
    }
}
