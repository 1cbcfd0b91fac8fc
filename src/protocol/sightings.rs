//! What a process has seen of the hosts' records, and since when: for the next process of the same boot. Without it a
//! process that lives for less than D never finds anybody dead.
//!
//! Invariants:
//! - A time counts only on the clock that it was taken from: the boot-time clock of the same boot.
//! - What was seen of a record counts only while the sector shows that very record. No two records of one id are equal:
//!   each has another generation or another time of writing than the one before it.
//! - A sighting only says since when. Whether the host is dead a read of this process decides, by the rules of
//!   [`liveness`](super::liveness).
//!
//! Not in here: where sightings are kept, and who may write there.

use std::collections::BTreeMap;

use super::liveness::Observer;
use super::rules::Rule;
use crate::format::DeltaRecord;
use crate::types::{HostId, Time};

/// That a record was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// A hash of the record: see [`print()`].
    pub print: u128,
    /// End of the read that first showed it.
    pub since: Time,
}

/// The records that were seen of the hosts that hold an id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sightings {
    /// The kernel's boot id.
    boot: u128,
    seen: BTreeMap<HostId, Sighting>,
}

impl Sightings {
    /// Those that were made in this boot.
    pub fn new(boot: u128, seen: impl IntoIterator<Item = (HostId, Sighting)>) -> Sightings {
        Sightings { boot, seen: seen.into_iter().collect() }
    }

    /// What `observer` has seen in this boot of the hosts that hold an id. `nonce` is the lockspace's.
    ///
    /// A record without the extension, of a lockspace without a nonce, is left out: after another `sanlock init` the
    /// same bytes may come back, as a host's first generation at the same second of its uptime.
    pub fn of(boot: u128, nonce: u32, observer: &Observer) -> Sightings {
        let seen = observer.hosts().filter_map(|host| {
            let record = observer.record(host)?.good()?;
            let unique = nonce != 0 || record.extension.is_some();
            let since = observer.first_seen(host)?;
            (unique && !record.is_free()).then(|| (host, Sighting { print: print(record), since }))
        });
        Sightings::new(boot, seen)
    }

    /// The boot in which they were made.
    pub const fn boot(&self) -> u128 {
        self.boot
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = (HostId, Sighting)> + '_ {
        self.seen.iter().map(|(host, sighting)| (*host, *sighting))
    }

    /// What counts of them for a process of this boot.
    #[must_use]
    pub fn recalled(self, boot: u128) -> Sightings {
        let counts = self.boot == boot || !Rule::SightingIsOfThisBoot.is_in_force();
        Sightings { boot, seen: if counts { self.seen } else { BTreeMap::new() } }
    }

    /// Since when `host`'s sector has shown `record`, if that was seen before `now`.
    pub(super) fn since(&self, host: HostId, record: &DeltaRecord, now: Time) -> Option<Time> {
        let sighting = self.seen.get(&host)?;
        let same = sighting.print == print(record) || !Rule::SightingIsOfSameRecord.is_in_force();
        (same && sighting.since <= now).then_some(sighting.since)
    }
}

/// A hash of all that a record says: FNV-1a of its sector, 128 bits, the same in every version of the crate.
pub fn print(record: &DeltaRecord) -> u128 {
    hash(&record.encode(0))
}

fn hash(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Geometry;
    use crate::timeouts::Profile;
    use crate::types::Name;

    #[test]
    fn a_print_is_that_of_one_record() {
        let free = DeltaRecord::free(Geometry::default(), Name::EMPTY, 7, Profile::Fast.timeouts());
        let mut held = DeltaRecord { owner_id: 1, generation: 1, ..free.clone() };
        let mut prints = vec![print(&free), print(&held)];
        // The clock stands still in between.
        for _ in 0..3 {
            held.begin_write(Time::from_nanos(5_000_000_000), Time::from_nanos(6_000_000_000));
            prints.push(print(&held));
        }
        let all = prints.len();
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), all);
    }

    #[test]
    fn the_hash_is_that_of_files_already_written() {
        assert_eq!(hash(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
