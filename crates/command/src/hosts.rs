//! `leasehold hosts`

use clap::Args;

use crate::failure::Failure;
use crate::look::{LookArgs, Parts, look};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold hosts /dev/vg/leases
  leasehold hosts /dev/vg/leases --watch
  leasehold hosts /dev/vg/leases --watch --interval 5s | grep dead
  leasehold hosts /dev/vg/leases --watch --json --for 1m

Needs no host id and writes nothing.
  STATE      live: its record changed within F; failing: not for F, so the host has lost its leases;
             dead: not for D; free: given back; unknown: not watched for long enough
  UNCHANGED  for how long its record has been seen as it is
  INTERVAL   between the latest two renewals, as seen from here, to about R / 5; how long a
             renewal takes only the host itself knows
With --watch, a terminal shows these intervals as bars, redrawn in place; a full bar is F. It ends with q, with \
Ctrl-C or after --for, and leaves the last picture. To a pipe or a file it writes a picture as text for each \
--interval, each after a line with the time; with --json a line of JSON. When the device can't be read that is \
shown instead, and it goes on. The exit code is that of the last look: 0, 65 or 74.")]
pub(crate) struct HostsArgs {
    #[command(flatten)]
    look: LookArgs,
}

pub(crate) fn hosts(args: &HostsArgs) -> Result<(), Failure> {
    look(&args.look, Parts::Hosts)
}
