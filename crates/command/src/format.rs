//! `leasehold format`

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use leasehold::disk::{Access, DirectDisk, Disk};
use leasehold::{AreaSize, FormatOptions, Profile, SectorSize};

use crate::failure::{Failure, USAGE};
use crate::output::written;
use crate::words::{ProfileName, area_size, sector_size};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold format /dev/vg/leases --profile fast
  truncate -s 64M test.img && leasehold format test.img --lockspace test
  leasehold format /dev/vg/leases --profile sanlock --io-timeout 5s

Refuses (exit code 73) to overwrite anything without --force: a lockspace, leases, a file system, whatever is not \
zero at the start of the device, at the start of an area, or at its end. With it, a lockspace in which a host is live, \
and a block device that is mounted, swapped to, or part of an array or a volume, are refused still; for a file nobody \
can tell that. With --force it watches the hosts that did not leave for as long as it takes to be sure that they are dead.")]
pub(crate) struct FormatArgs {
    /// Block device or regular file; it must exist
    pub(crate) device: PathBuf,
    /// Name of the lockspace, at most 47 bytes
    #[arg(long, value_name = "NAME", default_value = "leasehold")]
    pub(crate) lockspace: String,
    /// Set of timeouts, which all hosts will use
    #[arg(long, value_enum, default_value_t = ProfileName::Balanced)]
    pub(crate) profile: ProfileName,
    /// Longest time that an I/O may take, at least 20ms; the profile's other timeouts follow in proportion
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) io_timeout: Option<Duration>,
    /// Bytes of a sector [default: the device's own, 512 for a file]
    #[arg(long, value_name = "512|4096", value_parser = sector_size)]
    pub(crate) sector_size: Option<SectorSize>,
    /// Bytes of an area [default: 1M with sectors of 512 bytes, 8M with 4096]
    #[arg(long, value_name = "1M|2M|4M|8M", value_parser = area_size)]
    pub(crate) area_size: Option<AreaSize>,
    /// How many resources the index has room for
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub(crate) max_resources: u32,
    /// Overwrite what is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Less is not enough for any device: a disk that wakes up, a path that fails over, a host that is busy for a moment
/// take longer now and then, and each time costs all leases.
const SHORTEST_IO: Duration = Duration::from_millis(20);

pub(crate) fn format(args: &FormatArgs) -> Result<(), Failure> {
    let profile = Profile::from(args.profile);
    if let Some(io) = args.io_timeout.filter(|io| *io < SHORTEST_IO) {
        return Err(Failure::new(USAGE, format!("an I/O timeout of {io:?} is too short for any device"))
            .hint(format!("at least {SHORTEST_IO:?}; `--profile fast` has {:?}", Profile::Fast.io_timeout())));
    }
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
    let lockspace = leasehold::format(disk.clone(), &options)?;
    // Behind the lockspace, the index, and the lease that guards it.
    let areas = disk.len() / lockspace.geometry().area_bytes() - 3;
    let room = areas.min(args.max_resources.into());
    let line = format!(
        "formatted {} as lockspace {}: {}, {} hosts, room for {room} resource{}, a dead owner is replaced after {} ms",
        lockspace.device(),
        lockspace.name(),
        lockspace.geometry(),
        lockspace.geometry().max_hosts(),
        if room == 1 { "" } else { "s" },
        timeouts.dead().as_millis(),
    );
    written(writeln!(io::stdout(), "{line}"))
}
