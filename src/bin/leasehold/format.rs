//! `leasehold format`

use std::io::{self, Write};
use std::sync::Arc;

use leasehold::disk::{Access, DirectDisk};
use leasehold::{FormatOptions, Profile};

use crate::args::FormatArgs;
use crate::failure::{Failure, USAGE};
use crate::output::written;

pub(crate) fn format(args: &FormatArgs) -> Result<(), Failure> {
    let profile = Profile::from(args.profile);
    let timeouts = profile
        .with_io_timeout(args.io_timeout.unwrap_or(profile.io_timeout()))
        .map_err(|error| Failure::new(USAGE, error.to_string()))?;
    let options = FormatOptions {
        name: args.lockspace.clone(),
        timeouts,
        sector_size: args.sector_size,
        area_size: args.area_size,
        max_resources: Some(args.max_resources),
        force: args.force,
    };
    let disk = Arc::new(DirectDisk::open(&args.device, Access::ReadWrite)?);
    let lockspace = leasehold::format(disk, &options)?;
    let line = format!(
        "formatted {} as lockspace {}: {}, {} hosts, a dead owner is replaced after {} ms",
        lockspace.device(),
        lockspace.name(),
        lockspace.geometry(),
        lockspace.geometry().max_hosts(),
        timeouts.dead().as_millis(),
    );
    written(writeln!(io::stdout(), "{line}"))
}
