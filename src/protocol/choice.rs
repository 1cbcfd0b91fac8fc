//! Which host id an automatic join tries next.
//!
//! Not in here: whether the id may be taken. [`Acquire`](super::delta::Acquire) decides that from what it reads itself.

use std::collections::BTreeSet;

use super::declare::declared_by;
use super::delta::Identity;
use super::liveness::Observer;
use crate::format::DeltaRecord;
use crate::timeouts::{Timeouts, stretched};
use crate::types::{HostId, Time};

/// The first of these that was not tried: the id that this host held before, if nothing of that holding can be active
/// any more; else the one that it gave back; else the one that it held before a reboot; else a free one; else one that
/// this machine did not give back. `timeouts` are the lockspace's, `random` is any number. An id that is free by
/// somebody's word is none of these.
///
/// An id that was not given back comes before one that was: only this machine can take it, and until then others look
/// at what it left.
pub fn choose(
    observer: &Observer,
    identity: &Identity,
    timeouts: Timeouts,
    tried: &BTreeSet<HostId>,
    now: Time,
    random: u64,
) -> Option<HostId> {
    let untried = observer.hosts().filter(|host| !tried.contains(host));
    let records = untried.filter_map(|host| Some((host, observer.record(host)?.good()?)));
    let records: Vec<(HostId, &DeltaRecord)> = records.filter(|(_, record)| declared_by(record).is_none()).collect();
    let find = |wanted: &dyn Fn(&DeltaRecord) -> bool| {
        records.iter().find(|(_, record)| wanted(record)).map(|(host, _)| *host)
    };
    let mine = |record: &DeltaRecord| identity.wrote(record) && record.host_name == identity.name;
    let is_over = |record: &DeltaRecord| {
        let dead = stretched(record.timeouts(timeouts.io()).dead());
        !record.is_free() && identity.renewed(record).is_some_and(|renewed| renewed + dead <= now)
    };
    let free = || {
        // Few ids in use keep what every ballot reads short; a random one of them keeps hosts that start together
        // apart.
        let free: Vec<HostId> = records.iter().filter(|(_, record)| record.is_free()).map(|(host, _)| *host).collect();
        let window = free.len().min(8 + records.len() - free.len()) as u64;
        free.get(random.checked_rem(window)? as usize).copied()
    };
    find(&|record| mine(record) && is_over(record))
        .or_else(|| find(&|record| mine(record) && record.is_free()))
        .or_else(|| find(&|record| mine(record) && identity.rebooted_since(record)))
        .or_else(free)
        .or_else(|| find(&|record| identity.wrote(record)))
}
