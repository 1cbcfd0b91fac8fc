//! `leasehold request`

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{Force, Membership, RequestError, Requested, Resource, Status};

use crate::failure::{Failure, HELD, IO};
use crate::output::written;
use crate::prepare::{existing, open};
use crate::session::{Identity, with_membership};
use crate::words::{Patience, Target};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold request /dev/vg/leases database
  leasehold request /dev/vg/leases database --wait 5m && leasehold run --device /dev/vg/leases database -- ./start
  leasehold request /dev/vg/leases vm-1 --force

Joins the lockspace, asks who holds the resource to yield it, and waits for that. Exit code 0: it was given up, or \
nobody held it; 75: it is still held. What the owner does is for it to decide: `leasehold run --on-request yield` \
ends its command, a sanlock host kills its process, others ignore it. The resource is not kept free: others may \
take it.")]
pub(crate) struct RequestArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Resource: NAME, or NAME@OFFSET for one that stands at a byte offset of the device
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
    /// Ask for it at once, rather than when it suits
    #[arg(long)]
    pub(crate) force: bool,
    /// How long to wait until it is given up [default: six I/O timeouts, as long as the owner is called]
    #[arg(long, value_name = "DUR|forever")]
    pub(crate) wait: Option<Patience>,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

pub(crate) fn request(args: &RequestArgs) -> Result<ExitCode, Failure> {
    let lockspace = open(&args.device, Access::ReadWrite)?;
    let resource = existing(&lockspace, &args.name)?;
    with_membership(&lockspace, &args.identity, |membership, _| ask(args, membership, &resource))
}

fn ask(args: &RequestArgs, membership: &Membership, resource: &Resource) -> Result<(), Failure> {
    let force = if args.force { Force::Kill } else { Force::Graceful };
    let name = resource.name();
    let mut out = io::stdout();
    let (version, patience) = match membership.request(resource, force)? {
        Requested::Asked { holders, version, stands } => {
            let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
            written(writeln!(out, "{name} is held by {}: asked for version {version}", holders.join(", ")))?;
            let patience = args.wait.unwrap_or(Patience::For(stands));
            (version, patience)
        }
        Requested::NotHeld | Requested::Cleared => return written(writeln!(out, "{name} is not held")),
    };
    let (started, mut status) = (Instant::now(), membership.status());
    loop {
        match membership.still_held(resource, version) {
            Ok(false) => return written(writeln!(out, "{name} was given up")),
            // A read that fails shows nothing, and the next one may succeed.
            Ok(true) | Err(RequestError::Disk(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if matches!(patience, Patience::For(span) if started.elapsed() >= span) {
            return Err(Failure::new(HELD, format!("{name} is still held")).hint("--force asks for it at once"));
        }
        // With each renewal it looks again.
        status = match membership.status_change(&status, membership.lockspace().timeouts().renewal()) {
            Status::Lost { reason } => return Err(Failure::from(reason).with_code(IO)),
            status => status,
        };
    }
}
