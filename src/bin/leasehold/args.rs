//! What the command line may say: the commands, and the words that several of them use. What one of them takes stands
//! in its own file.

use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use leasehold::format::{AreaSize, SectorSize};
use leasehold::{HostId, Profile, Wait};

use crate::convert::ConvertArgs;
use crate::create::CreateArgs;
use crate::declare_dead::DeclareDeadArgs;
use crate::dump::DumpArgs;
use crate::format::FormatArgs;
use crate::handover::HandoverArgs;
use crate::hosts::HostsArgs;
use crate::repair::RepairArgs;
use crate::request::RequestArgs;
use crate::run::RunArgs;
use crate::status::StatusArgs;
use crate::value::ValueArgs;
use crate::watchdog::WatchdogCommand;

const EXIT_CODES: &str = "\
Exit codes:
  0    done; for `run`: the command's own, or 128 + n when signal n ended it
  64   usage: an argument is wrong
  65   not a lockspace, or what is on the device is damaged
  66   no such resource
  69   `run`: the lease was lost while the command ran; `convert`, `handover`: it was lost meanwhile
  73   refused: `format` or `create` would overwrite something, or the device is in use; there is no room; a
       watchdog was left counting; `declare-dead` is for another generation; nobody holds what `convert` or
       `handover` is for, or it takes no orders from who asks; `handover`: the command that was ended failed
  74   an I/O error
  75   held by another host, or not handed over; trying again later may succeed";

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
    /// Run a command while holding leases
    Run(RunArgs),
    /// Change how a running `run` of this machine holds a resource: shared or alone
    Convert(ConvertArgs),
    /// End the command of a running `run` of this machine, and make another host the owner
    Handover(HandoverArgs),
    /// Ask the owner of a resource to yield it, and wait until it does
    Request(RequestArgs),
    /// Show the hosts and resources of a lockspace
    Status(StatusArgs),
    /// Show the hosts of a lockspace and how regularly they renew
    Hosts(HostsArgs),
    /// Read or write the value of a resource: a sector of data of its users'
    Value(ValueArgs),
    /// Print every record in use, field by field
    Dump(DumpArgs),
    /// Free at once what a host holds that was fenced by other means
    DeclareDead(DeclareDeadArgs),
    /// Write anew what is damaged
    Repair(RepairArgs),
    /// Work with the machine's watchdog
    Watchdog {
        #[command(subcommand)]
        command: WatchdogCommand,
    },
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

impl From<Patience> for Wait {
    fn from(patience: Patience) -> Wait {
        match patience {
            Patience::Forever => Wait::Forever,
            Patience::For(span) if span.is_zero() => Wait::No,
            Patience::For(span) => Wait::For(span),
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

pub(crate) fn host_id(text: &str) -> Result<HostId, String> {
    let id = text.parse().ok().and_then(HostId::new);
    id.ok_or_else(|| format!("a host id is a number from 1 to {}", HostId::MAX))
}

pub(crate) fn sector_size(text: &str) -> Result<SectorSize, String> {
    let size = text.parse().ok().and_then(SectorSize::from_bytes);
    size.ok_or_else(|| "a sector has 512 or 4096 bytes".into())
}

pub(crate) fn area_size(text: &str) -> Result<AreaSize, String> {
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
