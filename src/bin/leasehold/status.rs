//! `leasehold status`

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{Damage, FindError, HostInfo, HostState, Lockspace, Mode, Name, Owner, Ownership};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::{Table, damaged, written};
use crate::prepare::open;

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

/// The longest that the hosts are watched when nothing is said.
const WATCH_AT_MOST: Duration = Duration::from_secs(5);

pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let lockspace = open(&args.device, Access::ReadOnly)?;
    let picture = Picture::take(&lockspace, args.watch_for)?;
    let mut out = io::stdout().lock();
    let result = match args.json {
        true => writeln!(out, "{:#}", picture.to_json(&lockspace)),
        false => picture.print(&lockspace, &mut out),
    };
    written(result.and_then(|()| out.flush()))?;
    damaged(&picture.damages)
}

/// What there is to see of a lockspace.
struct Picture {
    hosts: Vec<HostInfo>,
    resources: Vec<(Name, u64, Ownership)>,
    damages: Vec<Damage>,
}

impl Picture {
    fn take(lockspace: &Lockspace, watch_for: Option<Duration>) -> Result<Picture, Failure> {
        let watch_for = watch_for.unwrap_or((lockspace.timeouts().renewal() * 2).min(WATCH_AT_MOST));
        let (hosts, broken): (Vec<_>, Vec<_>) =
            lockspace.hosts(watch_for)?.into_iter().partition(|host| host.damage.is_none());
        let mut damages: Vec<Damage> = broken.into_iter().filter_map(|host| host.damage).collect();
        let mut resources = Vec::new();
        match lockspace.resources() {
            Ok((infos, others)) => {
                damages.extend(others);
                for info in infos {
                    match info.ownership {
                        Ok(ownership) => resources.push((info.resource.name(), info.resource.offset(), ownership)),
                        Err(damage) => damages.push(damage),
                    }
                    damages.extend(info.damages);
                }
            }
            // The hosts can be shown all the same.
            Err(FindError::Damaged(damage)) => damages.push(damage),
            Err(error) => return Err(error.into()),
        }
        Ok(Picture { hosts, resources, damages })
    }

    fn to_json(&self, lockspace: &Lockspace) -> Value {
        let hosts = self.hosts.iter().map(|host| {
            json!({
                "host_id": host.host.get(),
                "name": host.name.map(|name| name.to_string()),
                "generation": host.generation,
                "timestamp": host.timestamp,
                "state": state(host.state),
            })
        });
        let owner = |owner: Owner| json!({ "host_id": owner.host.get(), "generation": owner.generation.get() });
        let resources = self.resources.iter().map(|(name, offset, ownership)| {
            json!({
                "name": name.to_string(),
                "offset": offset,
                "state": mode(ownership.mode),
                "version": ownership.version.get(),
                "owner": ownership.owner.map(owner),
            })
        });
        let timeouts: Map<String, Value> =
            timeouts(lockspace).into_iter().map(|(name, millis)| (name.into(), millis.into())).collect();
        let mut json = json!({
            "lockspace": lockspace.name().to_string(),
            "sector_size": lockspace.geometry().sector_bytes(),
            "area_size": lockspace.geometry().area_bytes(),
            "timeouts_ms": timeouts,
            "hosts": hosts.collect::<Vec<_>>(),
            "resources": resources.collect::<Vec<_>>(),
        });
        if !self.damages.is_empty() {
            let damages = self.damages.iter().map(
                |damage| json!({ "what": damage.what, "offset": damage.offset, "reason": damage.reason.to_string() }),
            );
            json["damaged"] = damages.collect();
        }
        json
    }

    fn print(&self, lockspace: &Lockspace, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "lockspace {} on {}: {}", lockspace.name(), lockspace.device(), lockspace.geometry())?;
        let timeouts = timeouts(lockspace).map(|(name, millis)| format!("{name} {millis} ms"));
        writeln!(out, "timeouts: {}", timeouts.join(", "))?;
        writeln!(out)?;
        if self.hosts.is_empty() {
            writeln!(out, "no host id was ever in use")?;
        } else {
            let mut table = Table::new(["HOST", "STATE", "NAME", "GENERATION", "TIMESTAMP"]);
            for host in &self.hosts {
                table.push([
                    host.host.to_string(),
                    state(host.state).into(),
                    host.name.map(|name| name.to_string()).unwrap_or_default(),
                    host.generation.to_string(),
                    host.timestamp.to_string(),
                ]);
            }
            table.write(out)?;
        }
        writeln!(out)?;
        if self.resources.is_empty() {
            return writeln!(out, "no resources");
        }
        let mut table = Table::new(["RESOURCE", "STATE", "VERSION", "OFFSET", "OWNER"]);
        for (name, offset, ownership) in &self.resources {
            table.push([
                name.to_string(),
                mode(ownership.mode).into(),
                ownership.version.to_string(),
                offset.to_string(),
                ownership.owner.map(|owner| self.describe(owner)).unwrap_or_default(),
            ]);
        }
        table.write(out)
    }

    /// An owner with the name and the state of its host, if its record still shows the generation that owns.
    fn describe(&self, owner: Owner) -> String {
        let shown = |host: &&HostInfo| host.host == owner.host && host.generation == owner.generation.get();
        match self.hosts.iter().find(shown) {
            Some(HostInfo { name: Some(name), state: host_state, .. }) => {
                format!("host {} ({name}) generation {}, {}", owner.host, owner.generation, state(*host_state))
            }
            _ => owner.to_string(),
        }
    }
}

fn timeouts(lockspace: &Lockspace) -> [(&'static str, u64); 5] {
    let timeouts = lockspace.timeouts();
    let all = [
        ("renewal", timeouts.renewal()),
        ("io", timeouts.io()),
        ("fail", timeouts.fail()),
        ("fence", timeouts.fence()),
        ("dead", timeouts.dead()),
    ];
    all.map(|(name, span)| (name, u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

const fn state(state: HostState) -> &'static str {
    match state {
        HostState::Free => "free",
        HostState::Live => "live",
        HostState::Failing => "failing",
        HostState::Dead => "dead",
        HostState::Unknown => "unknown",
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Free => "free",
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
    }
}
