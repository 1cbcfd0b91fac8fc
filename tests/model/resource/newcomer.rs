//! A host that comes when all others are gone.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex};

use leasehold::format::Block;
use leasehold::protocol::Seen;
use leasehold::protocol::resource::Wish;

use super::world::{Host, Known, Process, State};
use crate::canonical::Part;

/// How many reads and writes an acquire takes at most when nothing comes in between.
const STEPS: u32 = 40;

/// The disks that are known to admit a newcomer: only what is on it counts, whatever came before.
static ADMITS: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

impl State {
    /// Whether a host that was never there acquires the resource when all others are gone and their writes with them.
    pub(super) fn admits_a_newcomer(&self) -> bool {
        let mut hasher = DefaultHasher::new();
        self.disk.hash(&mut hasher);
        let disk = hasher.finish();
        let admits = ADMITS.lock().unwrap().contains(&disk) || self.clone().let_in();
        if admits {
            ADMITS.lock().unwrap().insert(disk);
        }
        admits
    }

    fn let_in(mut self) -> bool {
        if self.history.broken.is_some() {
            return true;
        }
        let newcomer = self.hosts.len();
        let gone = (0..newcomer).map(|host| Known { dead: true, ..self.record(host) });
        let known = gone.chain([Known { generation: 1, free: false, dead: false }]).collect();
        for host in 0..newcomer {
            self.end(host, Process::Stopped);
        }
        self.in_flight.clear();
        let host =
            Host { generation: 1, process: Process::Idle, own: None, active: None, known, read: None, role: None };
        self.hosts.push(Part::new(host));
        self.disk.change(|disk| disk.blocks.push(Seen::Good(Block::default())));
        self.history.change(|history| history.promised.clear());
        self.acquire(newcomer, Wish::exclusive(true));
        for _ in 0..STEPS {
            if self.hosts[newcomer].effect().is_none() {
                break;
            }
            self.perform(newcomer);
        }
        self.hosts[newcomer].active.is_some() && self.history.broken.is_none()
    }
}
