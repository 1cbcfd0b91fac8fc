//! `leasehold status`

use clap::Args;

use crate::failure::Failure;
use crate::look::{LookArgs, Parts, look};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold status /dev/vg/leases
  leasehold status leasehold.img --json --watch-for 5s
  leasehold status /dev/vg/leases --watch
  leasehold status /dev/vg/leases --watch --json --for 1m

Needs no host id and writes nothing. A host whose record changes while it is watched is live; one that can't be \
judged in that time is unknown. A resource that was taken by force has its former owner until that one has given it \
up or is gone, though the taker may have released it. `leasehold hosts --help` says what the columns mean, and how --watch goes.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    look: LookArgs,
}

pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    look(&args.look, Parts::All)
}
