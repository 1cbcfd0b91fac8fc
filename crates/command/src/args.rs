//! What the command line may say: the commands. What one of them takes stands in its own file, and what several of them
//! do in `words.rs`.

use clap::{Parser, Subcommand};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
