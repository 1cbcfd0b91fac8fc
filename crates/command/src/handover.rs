//! `leasehold handover`

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{HostId, Lockspace, Resource};

use crate::channel::{Action, Answer, Holders, until_done};
use crate::failure::{Failure, HELD, USAGE};
use crate::prepare::{existing, open};
use crate::words::{Patience, Target, host_id};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold handover /dev/vg/leases vm-1 --to 7
  leasehold handover /dev/vg/leases vm-1 --to node-b --wait 5m --grace 1m
  leasehold handover /dev/vg/leases vm-1 --to node-b --json

On the other host:
  leasehold run --device /dev/vg/leases --receive --wait 5m vm-1 -- ./resume-vm vm-1

Waits until that host asks for the resource; until then nothing changes. Then the `leasehold run` that holds it on \
this machine ends its command: all of it gets SIGTERM, and after --grace SIGKILL. When it is gone the other host \
is made the owner, and its command starts. That `run` exits with 0, and hands over or releases whatever else it \
holds. A command that does not end with exit code 0, or of that SIGTERM (also as exit code 143), is taken to have \
failed: then the resource is released, and not handed over. If the other host is gone by then the resource is \
released, too.

Exit code 0: the other host owns it, and knows. 75: it does not ask, and the command goes on; or it has asked and \
given up meanwhile; or no `run` that holds the resource answers on this machine. 73: the command failed; the \
resource is shared; nobody holds it; who asks may not. 69: the lease was lost. 74: what became of it is not known: \
see `leasehold status`. The `run` answers root and its own user, but never the command that it runs, nor what that \
has started: so a program can't hand itself over, but it can end with exit code 0, which hands over to the first \
host that asks. What was asked for may still be done when this is interrupted.")]
pub(crate) struct HandoverArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Resource: NAME, or NAME@OFFSET for one that stands at a byte offset of the device
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
    /// The next owner, by its host id or by its name
    #[arg(long, value_name = "HOST")]
    pub(crate) to: Host,
    /// Which holder hands over, by its host id
    #[arg(long, value_name = "ID", value_parser = host_id)]
    pub(crate) host_id: Option<HostId>,
    /// How long to wait for that host to ask
    #[arg(long, value_name = "DUR|forever", default_value = "0s")]
    pub(crate) wait: Patience,
    /// What the command has between SIGTERM and SIGKILL
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration, default_value = "10s")]
    pub(crate) grace: Duration,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// A host as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Id(HostId),
    Named(String),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Host, String> {
        match text.is_empty() || text.bytes().any(|byte| !byte.is_ascii_digit()) {
            true => Ok(Host::Named(text.into())),
            false => host_id(text).map(Host::Id),
        }
    }
}

pub(crate) fn handover(args: &HandoverArgs) -> Result<(), Failure> {
    let lockspace = open(&args.device, Access::ReadOnly)?;
    let resource = existing(&lockspace, &args.name)?;
    let holders = Holders::find(&args.device, &lockspace, resource, args.host_id)?;
    // To end the command, and then three waits, of F or D each, on storage that may hang.
    let longer = args.grace.saturating_add(lockspace.timeouts().dead() * 4);
    let holding = until_done(&lockspace, args.wait, |left| {
        let to = match &args.to {
            Host::Id(id) => *id,
            Host::Named(name) => match asking(&lockspace, &resource, name)?[..] {
                [id] => id,
                [] => return Ok(Answer::Blocked(nobody(&resource, name))),
                ref several => return Err(ambiguous(name, several)),
            },
        };
        if holders.include(to) {
            return Err(Failure::new(USAGE, format!("host {to} is who holds {} now", resource.name())));
        }
        holders.ask(left, longer, &Action::HandOver { to, grace: args.grace })
    })?;
    holding.show(args.json)
}

/// The hosts of that name that ask to be handed the resource.
fn asking(lockspace: &Lockspace, resource: &Resource, name: &str) -> Result<Vec<HostId>, Failure> {
    let asking = lockspace.resource_info(resource).asking;
    let hosts = lockspace.hosts(Duration::ZERO)?.into_iter().filter(|host| {
        let asks = asking.iter().any(|owner| (owner.host, owner.generation.get()) == (host.host, host.generation));
        asks && host.timestamp != 0 && host.name.is_some_and(|found| found.to_string() == name)
    });
    Ok(hosts.map(|host| host.host).collect())
}

fn nobody(resource: &Resource, name: &str) -> Failure {
    Failure::new(HELD, format!("no host named {name} asks to be handed {}", resource.name()))
        .hint("`leasehold run --receive` asks, on that host; --wait waits for it; `leasehold status` shows who asks")
}

fn ambiguous(name: &str, several: &[HostId]) -> Failure {
    let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
    Failure::new(USAGE, format!("several hosts named {name} ask: {}", ids.join(", "))).hint("--to takes a host id, too")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_id_or_a_name() {
        assert_eq!("7".parse::<Host>(), host_id("7").map(Host::Id));
        assert_eq!("7a".parse(), Ok(Host::Named("7a".into())));
        for wrong in ["0", "2001", "99999999999999999999"] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong}");
        }
    }
}
