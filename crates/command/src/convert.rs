//! `leasehold convert`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use leasehold::disk::Access;
use leasehold::{HostId, LeaseMode};

use crate::channel::{Action, Holders, until_done};
use crate::failure::Failure;
use crate::prepare::{existing, open};
use crate::words::{Patience, Target, host_id};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold convert /dev/vg/leases images --to shared
  leasehold convert /dev/vg/leases images --to exclusive --wait 1m && ./rewrite-images
  leasehold convert /dev/vg/leases images --to exclusive --host-id 3 --json

Has the `leasehold run` that holds the resource on this machine hold it in another way, without a moment in which \
it is not held. Its command runs on. To shared: see first that it does not rely on being alone any more; the \
version stays. To exclusive: hosts that share the resource are in the way, and are waited for; the version is a \
new one, so that in the environment of the command (LEASEHOLD_VERSION) is old then. Two that share and both wait \
to hold it alone would wait for each other: one is refused.

Exit code 75: others share it, or no `run` that holds it answers on this machine: convert it where it runs. It \
answers root and its own user, in its own network namespace, but never the command that it runs, nor what that has \
started. What was asked for may still be done when this is interrupted.")]
pub(crate) struct ConvertArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Resource: NAME, or NAME@OFFSET for one that stands at a byte offset of the device
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
    /// How it is to be held
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) to: To,
    /// Which holder, where several on this machine share it
    #[arg(long, value_name = "ID", value_parser = host_id)]
    pub(crate) host_id: Option<HostId>,
    /// How long to wait for others who share it
    #[arg(long, value_name = "DUR|forever", default_value = "0s")]
    pub(crate) wait: Patience,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// A [`LeaseMode`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum To {
    /// Together with other hosts that share it
    Shared,
    /// Alone
    Exclusive,
}

impl From<To> for LeaseMode {
    fn from(to: To) -> LeaseMode {
        match to {
            To::Shared => LeaseMode::Shared,
            To::Exclusive => LeaseMode::Exclusive,
        }
    }
}

pub(crate) fn convert(args: &ConvertArgs) -> Result<(), Failure> {
    let lockspace = open(&args.device, Access::ReadOnly)?;
    let resource = existing(&lockspace, &args.name)?;
    let holders = Holders::find(&args.device, &lockspace, resource, args.host_id)?;
    let holding =
        until_done(&lockspace, args.wait, |left| holders.ask(left, Duration::ZERO, &Action::Convert(args.to.into())))?;
    holding.show(args.json)
}
