//! Finding the `run` that holds a resource: who holds it stands on the device, who of them answers is on this machine.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use leasehold::{HostId, HostInfo, Lockspace, Owner, Resource};

use super::{Action, Answer, Connection, Request};
use crate::failure::{Failure, HELD, REFUSED, REPAIR, USAGE};

/// Who holds a resource.
pub(crate) struct Holders<'run> {
    device: &'run Path,
    lockspace: &'run Lockspace,
    resource: Resource,
    /// At least one; each host once.
    owners: Vec<Owner>,
    hosts: Vec<HostInfo>,
}

impl<'run> Holders<'run> {
    /// Those of whom `only` is one, if that is given.
    ///
    /// # Errors
    /// Nobody holds it, or not that one; or who does can't be read.
    pub(crate) fn find(
        device: &'run Path,
        lockspace: &'run Lockspace,
        resource: Resource,
        only: Option<HostId>,
    ) -> Result<Holders<'run>, Failure> {
        let info = lockspace.resource_info(&resource);
        let ownership = info.ownership.map_err(|damage| Failure::of(damage.kind(), &damage).hint(REPAIR))?;
        let hosts = lockspace.hosts(Duration::ZERO)?;
        // Who was killed still holds it; who has left, or joined anew, does not.
        let holds = |owner: &Owner| {
            let host = hosts.iter().find(|host| host.host == owner.host && host.damage.is_none());
            host.is_none_or(|host| host.timestamp != 0 && host.generation == owner.generation.get())
        };
        let mut owners: Vec<Owner> = ownership.owner.into_iter().chain(info.sharers).filter(holds).collect();
        owners.sort_unstable();
        owners.dedup();
        let mut holders = Holders { device, lockspace, resource, owners, hosts };
        let name = resource.name();
        if holders.owners.is_empty() {
            return Err(Failure::new(REFUSED, format!("nobody holds {name}")));
        }
        if let Some(host) = only {
            let all = holders.to_string();
            holders.owners.retain(|owner| owner.host == host);
            if holders.owners.is_empty() {
                return Err(Failure::new(REFUSED, format!("host {host} does not hold {name}, which is held by {all}")));
            }
        }
        Ok(holders)
    }

    /// Whether that host is one of them.
    pub(crate) fn include(&self, host: HostId) -> bool {
        self.owners.iter().any(|owner| owner.host == host)
    }

    /// Asks the `run` of the only one of them that is on this machine, with which it may take as long as writes that
    /// hang, and `longer`.
    ///
    /// # Errors
    /// As [`Holders::connect`], and [`Connection::ask`].
    pub(crate) fn ask(&self, wait: Duration, longer: Duration, action: &Action) -> Result<Answer, Failure> {
        let (resource, offset) = (self.resource.name().to_string(), self.resource.offset());
        let patience = self.lockspace.timeouts().dead() * 4 + Duration::from_secs(10);
        let request = Request { resource, offset, wait, action: action.clone() };
        self.connect()?.ask(&request, patience.saturating_add(longer))
    }

    /// To the `run` of the only one of them that is on this machine.
    ///
    /// # Errors
    /// There is none, or more than one.
    fn connect(&self) -> Result<Connection, Failure> {
        let name = self.resource.name();
        let mut found = Vec::new();
        for owner in &self.owners {
            found.extend(
                Connection::open(self.device, self.lockspace, owner.host)?.map(|connection| (owner, connection)),
            );
        }
        match found.len() {
            0 => {
                Err(Failure::new(HELD, format!("{name} is held by {self}, of which no `run` answers on this machine"))
                    .hint("do it on the machine on which it runs, as its user or root"))
            }
            1 => Ok(found.remove(0).1),
            _ => Err(Failure::new(USAGE, format!("several on this machine hold {name}: {self}"))
                .hint("--host-id says which is meant")),
        }
    }
}

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, owner) in self.owners.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let host = self.hosts.iter().find(|host| host.host == owner.host);
            let name = host.and_then(|host| host.name).map_or_else(String::new, |name| format!(" ({name})"));
            write!(f, "{comma}host {}{name} generation {}", owner.host, owner.generation)?;
        }
        Ok(())
    }
}
