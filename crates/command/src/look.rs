//! Looking at a lockspace, once or for as long as somebody watches: what `status` and `hosts` have in common.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use leasehold::disk::Access;
use serde_json::Value;

use crate::failure::Failure;
use crate::live;
use crate::output::{damaged, written};
use crate::picture::Picture;
use crate::prepare::open;

#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    /// How long to watch the hosts before they are shown [default: two renewal intervals, at most 5s]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) watch_for: Option<Duration>,
    /// Go on watching, and show what changes
    #[arg(long, conflicts_with = "watch_for")]
    pub(crate) watch: bool,
    /// How often to show it
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration, default_value = "1s", requires = "watch")]
    pub(crate) interval: Duration,
    /// How long to go on [default: until q or Ctrl-C]
    #[arg(long = "for", value_name = "DUR", value_parser = humantime::parse_duration, requires = "watch")]
    pub(crate) span: Option<Duration>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    Hosts,
    /// Resources, too.
    All,
}

/// The longest that the hosts are watched when nothing is said.
const WATCH_AT_MOST: Duration = Duration::from_secs(5);

pub(crate) fn look(args: &LookArgs, parts: Parts) -> Result<(), Failure> {
    let lockspace = open(&args.device, Access::ReadOnly)?;
    if args.watch {
        return live::watch(lockspace, args, parts);
    }
    let watch_for = args.watch_for.unwrap_or((lockspace.timeouts().renewal() * 2).min(WATCH_AT_MOST));
    let mut watching = lockspace.watch();
    watching.watch_for(watch_for)?;
    let resources = (parts == Parts::All).then(|| lockspace.resources());
    let picture = Picture::new(&watching, resources)?;
    let mut out = io::stdout().lock();
    let result = match args.json {
        true => writeln!(out, "{:#}", Value::from(picture.to_json())),
        false => picture.print(&mut out, None),
    };
    written(result.and_then(|()| out.flush()))?;
    damaged(&picture.damages)
}
