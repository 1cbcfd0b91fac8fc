//! What the command line may say.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use leasehold::format::{AreaSize, SectorSize};
use leasehold::{HostId, Profile};

const EXIT_CODES: &str = "\
Exit codes:
  0    done; for `run`: the command's own, or 128 + n when signal n ended it
  64   usage: an argument is wrong
  65   not a lockspace, or what is on the device is damaged
  66   no such resource
  69   `run`: the lease was lost while the command ran
  73   refused: `format` would overwrite a lockspace, `create` a resource; or there is no room
  74   an I/O error
  75   held by another host; trying again later may succeed";

/// Leases on a block device that several hosts share: one of them at a time runs a command.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write an empty lockspace with a resource index to a device
    Format(FormatArgs),
    /// Add resources to the index of a lockspace
    Create(CreateArgs),
    /// Run a command while holding exclusive leases
    Run(RunArgs),
    /// Show the hosts and resources of a lockspace
    Status(StatusArgs),
    /// Print every record in use, field by field
    Dump(DumpArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold format /dev/vg/leases --profile fast
  truncate -s 64M test.img && leasehold format test.img --lockspace test
  leasehold format /dev/vg/leases --profile sanlock --io-timeout 5s

Refuses (exit code 73) to overwrite a lockspace without --force, and with it while a host is live in it.
With --force it watches the hosts that did not leave for as long as it takes to be sure that they are dead.")]
pub(crate) struct FormatArgs {
    /// Block device or regular file; it must exist
    pub(crate) device: PathBuf,
    /// Name of the lockspace, at most 47 bytes
    #[arg(long, value_name = "NAME", default_value = "leasehold")]
    pub(crate) lockspace: String,
    /// Set of timeouts, which all hosts will use
    #[arg(long, value_enum, default_value_t = ProfileName::Balanced)]
    pub(crate) profile: ProfileName,
    /// Longest time that an I/O may take; the profile's other timeouts follow in proportion
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
    /// Overwrite a lockspace that is there
    #[arg(long)]
    pub(crate) force: bool,
}

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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold run demo -- sh -c 'echo version $LEASEHOLD_VERSION'
  leasehold run --device /dev/vg/leases --wait 1m database -- postgres -D /srv/db
  leasehold run --device /dev/vg/leases --wait forever vm-1 disk-1 -- ./start-vm vm-1
  leasehold run --device /dev/vg/leases db@3145728 -- ./backup

The command finds LEASEHOLD_RESOURCE, LEASEHOLD_VERSION, LEASEHOLD_HOST_ID and LEASEHOLD_GENERATION in its
environment; with several names the first two are lists with commas. The version is the fencing token.

Signals are passed on. When the command ends, whatever it started is ended too, then the leases are released.
When a lease is lost the command and all it started get SIGTERM, then SIGKILL, before another host may take it over.")]
pub(crate) struct RunArgs {
    /// Device with a lockspace [default: leasehold.img in the current folder, made when it is missing]
    #[arg(long)]
    pub(crate) device: Option<PathBuf>,
    /// Create resources that the index doesn't have (always so with the default device)
    #[arg(long)]
    pub(crate) create: bool,
    /// Host id to join with [default: chosen automatically]
    #[arg(long, value_name = "N", value_parser = host_id)]
    pub(crate) host_id: Option<HostId>,
    /// Name under which other hosts see this one [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) host_name: Option<String>,
    /// How long to wait for a resource that is held
    #[arg(long, value_name = "DUR|forever", default_value = "0s")]
    pub(crate) wait: Patience,
    /// Resources: NAME, or NAME@OFFSET for one that stands at a byte offset of the device
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<Target>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold status /dev/vg/leases
  leasehold status leasehold.img --json --watch-for 5s

Needs no host id and writes nothing. A host whose record changes while it is watched is live; one that can't be
judged in that time is unknown.")]
pub(crate) struct StatusArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    /// How long to watch the hosts [default: two renewal intervals, at most 5s]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) watch_for: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold dump /dev/vg/leases
  leasehold dump leasehold.img --json

Prints what it can read of a device that is damaged, and what is wrong with the rest. Writes nothing.")]
pub(crate) struct DumpArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// A [`Profile`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// A dead owner is replaced within a second
    Fast,
    /// A dead owner is replaced within ten seconds
    Balanced,
    /// The timeouts of sanlock, for lockspaces shared with it: minutes
    Sanlock,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Profile {
        match name {
            ProfileName::Fast => Profile::Fast,
            ProfileName::Balanced => Profile::Balanced,
            ProfileName::Sanlock => Profile::Sanlock,
        }
    }
}

/// How long to wait for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    For(Duration),
    Forever,
}

impl FromStr for Patience {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Patience, Self::Err> {
        match text {
            "forever" => Ok(Patience::Forever),
            text => humantime::parse_duration(text).map(Patience::For),
        }
    }
}

/// A resource as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// Byte offset of its area; `None`: the index says.
    pub(crate) offset: Option<u64>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (name, offset) = match text.rsplit_once('@') {
            Some((name, offset)) => {
                let offset = offset.parse().map_err(|error| format!("{offset:?} is no byte offset: {error}"))?;
                (name, Some(offset))
            }
            None => (text, None),
        };
        leasehold::Name::resource(name).map_err(|error| error.to_string())?;
        Ok(Target { name: name.into(), offset })
    }
}

fn host_id(text: &str) -> Result<HostId, String> {
    let id = text.parse().ok().and_then(HostId::new);
    id.ok_or_else(|| format!("a host id is a number from 1 to {}", HostId::MAX))
}

fn sector_size(text: &str) -> Result<SectorSize, String> {
    let size = text.parse().ok().and_then(SectorSize::from_bytes);
    size.ok_or_else(|| "a sector has 512 or 4096 bytes".into())
}

fn area_size(text: &str) -> Result<AreaSize, String> {
    let mebibytes = text.strip_suffix(['M', 'm']).and_then(|number| number.parse::<u64>().ok());
    let size = mebibytes.and_then(|number| number.checked_mul(1 << 20)).and_then(AreaSize::from_bytes);
    size.ok_or_else(|| "an area has 1M, 2M, 4M or 8M".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_target_is_a_name_and_perhaps_a_place() {
        assert_eq!("db".parse(), Ok(Target { name: "db".into(), offset: None }));
        assert_eq!("db@3145728".parse(), Ok(Target { name: "db".into(), offset: Some(3_145_728) }));
        for wrong in ["", "@5", "db@", "db@x", "db@-1", "a b", "db@99999999999999999999"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
