//! What there is to see of a lockspace, as text and as JSON.

use std::io::{self, Write};
use std::time::Duration;

use leasehold::{
    Damage, FindError, HostInfo, HostState, Lockspace, Mode, Owner, Ownership, Renewals, Resource, ResourceInfo,
    Watching,
};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::Table;

/// What a look at the resources brought.
type Looked = Result<(Vec<ResourceInfo>, Vec<Damage>), FindError>;

/// The hosts of a lockspace, and perhaps its resources, at one moment.
pub(crate) struct Picture {
    lockspace: Lockspace,
    hosts: Vec<Host>,
    resources: Option<Vec<Held>>,
    pub(crate) damages: Vec<Damage>,
}

struct Host {
    info: HostInfo,
    renewals: Option<Renewals>,
}

struct Held {
    resource: Resource,
    ownership: Ownership,
    sharers: Vec<Owner>,
    /// Who waits to be handed it.
    asking: Vec<Owner>,
}

impl Picture {
    /// Of the hosts as they have been watched, and of the resources, if they are asked for.
    pub(crate) fn new(watching: &Watching, resources: Option<Looked>) -> Result<Picture, Failure> {
        let (whole, broken): (Vec<_>, Vec<_>) = watching.hosts().into_iter().partition(|host| host.damage.is_none());
        let hosts = whole.into_iter().map(|info| Host { renewals: watching.renewals(info.host), info }).collect();
        let mut picture = Picture {
            lockspace: watching.lockspace().clone(),
            hosts,
            resources: resources.is_some().then(Vec::new),
            damages: broken.into_iter().filter_map(|host| host.damage).collect(),
        };
        match resources {
            Some(Ok((infos, others))) => {
                picture.damages.extend(others);
                picture.resources = Some(infos.into_iter().filter_map(|info| picture.take_in(info)).collect());
            }
            // The hosts can be shown all the same.
            Some(Err(FindError::Damaged(damage))) => picture.damages.push(damage),
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
        Ok(picture)
    }

    fn take_in(&mut self, info: ResourceInfo) -> Option<Held> {
        let ResourceInfo { resource, ownership, sharers, claims, asking, damages } = info;
        let held = match ownership {
            Ok(mut ownership) => {
                // What keeps others away though the leader says that it is free.
                let claims = claims.into_iter().map(|(_, owner)| owner).find(|owner| !self.is_gone(*owner));
                if let (Mode::Free, Some(owner)) = (ownership.mode, claims) {
                    (ownership.mode, ownership.owner) = (Mode::Exclusive, Some(owner));
                }
                let waits = |owner: &Owner| ownership.owner.is_some() && !self.is_gone(*owner);
                let asking = asking.into_iter().filter(waits).collect();
                Some(Held { resource, ownership, sharers, asking })
            }
            Err(damage) => {
                self.damages.push(damage);
                None
            }
        };
        self.damages.extend(damages);
        held
    }

    /// Whether that process is known to be no host any more.
    fn is_gone(&self, owner: Owner) -> bool {
        let host = self.hosts.iter().map(|host| &host.info).find(|info| info.host == owner.host);
        host.is_some_and(|info| {
            let gone = [HostState::Free, HostState::Dead].contains(&info.state);
            info.generation > owner.generation.get() || info.generation == owner.generation.get() && gone
        })
    }

    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let lockspace = &self.lockspace;
        let timeouts: Map<String, Value> =
            timeouts(lockspace).into_iter().map(|(name, span)| (name.into(), millis(span).into())).collect();
        let mut json = Map::new();
        json.insert("lockspace".into(), lockspace.name().to_string().into());
        json.insert("sector_size".into(), lockspace.geometry().sector_bytes().into());
        json.insert("area_size".into(), lockspace.geometry().area_bytes().into());
        json.insert("timeouts_ms".into(), timeouts.into());
        json.insert("hosts".into(), self.hosts.iter().map(Host::to_json).collect());
        if let Some(resources) = &self.resources {
            json.insert("resources".into(), resources.iter().map(Held::to_json).collect());
        }
        if !self.damages.is_empty() {
            let damages = self.damages.iter().map(
                |damage| json!({ "what": damage.what, "offset": damage.offset, "reason": damage.reason.to_string() }),
            );
            json.insert("damaged".into(), damages.collect());
        }
        json
    }

    /// Everything but the damages. With `columns`, each host has a sparkline of its renewal intervals, and they take
    /// what is left of that width.
    pub(crate) fn print(&self, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
        let lockspace = &self.lockspace;
        writeln!(out, "lockspace {} on {}: {}", lockspace.name(), lockspace.device(), lockspace.geometry())?;
        let timeouts = timeouts(lockspace).map(|(name, span)| format!("{name} {} ms", span.as_millis()));
        writeln!(out, "timeouts: {}", timeouts.join(", "))?;
        writeln!(out)?;
        match self.hosts.is_empty() {
            true => writeln!(out, "no host id was ever in use")?,
            false => self.host_table(columns).write(out)?,
        }
        let Some(resources) = &self.resources else { return Ok(()) };
        writeln!(out)?;
        match resources.is_empty() {
            true => writeln!(out, "no resources"),
            false => self.resource_table(resources).write(out),
        }
    }

    fn host_table(&self, columns: Option<usize>) -> Table<8> {
        const SHORTEST: usize = 8;
        const LONGEST: usize = 60;
        let table = |cells: usize| {
            let heading = if cells == 0 { "" } else { "RENEWAL INTERVALS" };
            let mut table =
                Table::new(["HOST", "STATE", "NAME", "GENERATION", "TIMESTAMP", "UNCHANGED", "INTERVAL", heading]);
            for host in &self.hosts {
                table.push(host.row(cells));
            }
            table
        };
        match columns {
            Some(columns) => table(columns.saturating_sub(table(0).width()).clamp(SHORTEST, LONGEST)),
            None => table(0),
        }
    }

    fn resource_table(&self, resources: &[Held]) -> Table<6> {
        let heading = if resources.iter().all(|held| held.asking.is_empty()) { "" } else { "HANDOVER TO" };
        let mut table = Table::new(["RESOURCE", "STATE", "VERSION", "OFFSET", "OWNER", heading]);
        for Held { resource, ownership, sharers, asking } in resources {
            let describe = |owners: &mut dyn Iterator<Item = &Owner>| {
                owners.map(|owner| self.describe(*owner)).collect::<Vec<_>>().join("; ")
            };
            table.push([
                resource.name().to_string(),
                mode(ownership.mode).into(),
                ownership.version.to_string(),
                resource.offset().to_string(),
                describe(&mut ownership.owner.iter().chain(sharers)),
                describe(&mut asking.iter()),
            ]);
        }
        table
    }

    /// An owner with the name and the state of its host, if its record still shows the generation that owns.
    fn describe(&self, owner: Owner) -> String {
        let shown = |info: &&HostInfo| info.host == owner.host && info.generation == owner.generation.get();
        match self.hosts.iter().map(|host| &host.info).find(shown) {
            Some(HostInfo { name: Some(name), state: host_state, .. }) => {
                format!("host {} ({name}) generation {}, {}", owner.host, owner.generation, state(*host_state))
            }
            _ => owner.to_string(),
        }
    }
}

impl Host {
    fn to_json(&self) -> Value {
        let renewals = self.renewals.as_ref().map(|renewals| {
            json!({
                "expected_ms": millis(renewals.timeouts.renewal()),
                "fail_ms": millis(renewals.timeouts.fail()),
                "unchanged_ms": millis(renewals.unchanged_for),
                "intervals_ms": renewals.intervals.iter().copied().map(millis).collect::<Vec<_>>(),
            })
        });
        json!({
            "host_id": self.info.host.get(),
            "name": self.info.name.map(|name| name.to_string()),
            "generation": self.info.generation,
            "timestamp": self.info.timestamp,
            "state": state(self.info.state),
            "renewals": renewals,
        })
    }

    /// With a sparkline of so many cells.
    fn row(&self, cells: usize) -> [String; 8] {
        let renewals = self.renewals.as_ref();
        let latest = renewals.and_then(|renewals| renewals.intervals.last());
        [
            self.info.host.to_string(),
            state(self.info.state).into(),
            self.info.name.map(|name| name.to_string()).unwrap_or_default(),
            self.info.generation.to_string(),
            self.info.timestamp.to_string(),
            renewals.map(|renewals| seconds(renewals.unchanged_for)).unwrap_or_default(),
            latest.copied().map(seconds).unwrap_or_default(),
            renewals.map(|renewals| sparkline(renewals, cells)).unwrap_or_default(),
        ]
    }
}

impl Held {
    fn to_json(&self) -> Value {
        let owner = |owner: &Owner| json!({ "host_id": owner.host.get(), "generation": owner.generation.get() });
        json!({
            "name": self.resource.name().to_string(),
            "offset": self.resource.offset(),
            "state": mode(self.ownership.mode),
            "version": self.ownership.version.get(),
            "owner": self.ownership.owner.as_ref().map(owner),
            "sharers": self.sharers.iter().map(owner).collect::<Vec<_>>(),
            "asking": self.asking.iter().map(owner).collect::<Vec<_>>(),
        })
    }
}

/// The latest intervals as bars, the newest to the right. The height is a share of F and not of the longest one, so
/// that small differences look small: a full bar means that the host has stopped. An interval that is longer than R
/// already is shown before it ends.
fn sparkline(renewals: &Renewals, cells: usize) -> String {
    const BELOW_FAIL: [char; 7] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇'];
    const FAIL: char = '█';
    let Renewals { timeouts, unchanged_for, intervals } = renewals;
    let late = (*unchanged_for > timeouts.renewal()).then_some(unchanged_for);
    let bar = |interval: &Duration| {
        let share = interval.as_millis() * BELOW_FAIL.len() as u128 / timeouts.fail().as_millis();
        usize::try_from(share).ok().and_then(|share| BELOW_FAIL.get(share)).copied().unwrap_or(FAIL)
    };
    let bars: Vec<char> = intervals.iter().chain(late).map(bar).collect();
    bars[bars.len().saturating_sub(cells)..].iter().collect()
}

fn timeouts(lockspace: &Lockspace) -> [(&'static str, Duration); 5] {
    let timeouts = lockspace.timeouts();
    [
        ("renewal", timeouts.renewal()),
        ("io", timeouts.io()),
        ("fail", timeouts.fail()),
        ("fence", timeouts.fence()),
        ("dead", timeouts.dead()),
    ]
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
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

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold::Profile;

    #[test]
    fn a_sparkline_shows_the_latest_intervals_as_shares_of_f() {
        let ms = Duration::from_millis;
        let of = |intervals: &[u64], unchanged: u64, cells| {
            let intervals = intervals.iter().map(|millis| ms(*millis)).collect();
            let renewals = Renewals { timeouts: Profile::Fast.timeouts(), unchanged_for: ms(unchanged), intervals };
            sparkline(&renewals, cells)
        };
        assert_eq!(of(&[], 0, 8), "");
        assert_eq!(of(&[20, 100, 300, 549, 550, 9_000], 0, 8), "▁▂▄▇██");
        assert_eq!(of(&[20, 100, 300, 549, 550, 9_000], 0, 3), "▇██");
        // The interval that has not ended, from R on.
        assert_eq!(of(&[100, 100], 100, 8), "▂▂");
        assert_eq!(of(&[100, 100], 300, 8), "▂▂▄");
        assert_eq!(of(&[100, 100], 60_000, 2), "▂█");
        assert_eq!(of(&[100, 100], 60_000, 0), "");
    }
}
