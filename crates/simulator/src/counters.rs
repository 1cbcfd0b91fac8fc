//! How often the interesting things happened.

/// How often things happened, over one run or the sum of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Leases acquired.
    pub held: u64,
    /// Leases released.
    pub released: u64,
    /// Leases acquired after an owner that had not released.
    pub takeovers: u64,
    /// Leader writes by a host that committed another one's value.
    pub adoptions: u64,
    /// Leader writes of a version more than one above the leader on disk.
    pub repairs: u64,
    /// Leader writes that set the leader back to an earlier version.
    pub regressions: u64,
    /// Writes that landed after they were reported as timed out.
    pub late_landings: u64,
    /// Instances run beyond a damaged block.
    pub burns: u64,
    /// Host ids acquired.
    pub joins: u64,
    /// Processes that went on with the host id of the one before.
    pub resumes: u64,
    /// Leases that such a process went on with.
    pub taken_up: u64,
    /// Attempts at a host id that were refused.
    pub refusals: u64,
    /// Leader writes over a damaged one.
    pub rebuilds: u64,
    /// Hosts that were declared dead.
    pub declared: u64,
    /// Damaged records of hosts that were written again as free.
    pub mended: u64,
    /// Declarations and mended records that landed over the record of a later generation.
    pub outdated: u64,
    /// Attempts at a host id that was free by somebody's word, of hosts that vouched.
    pub vouched: u64,
    /// Host ids lost by a process that ran.
    pub losses: u64,
    /// Acquires that ended without the lease.
    pub without: u64,
    /// Shared holds.
    pub shared: u64,
    /// Leases taken by force from an owner that lived.
    pub forced: u64,
    /// Leases that their owner found taken, or could not look at.
    pub fenced: u64,
    /// Sectors that were wiped under those who hold a resource.
    pub wiped: u64,
    /// Leases handed over, as the source says.
    pub handed_over: u64,
    /// Leases that their new owner was handed.
    pub received: u64,
    /// Leases that sanlock hosts acquired.
    pub held_by_sanlock: u64,
    /// Of those, with a version that the same host had released before.
    pub used_again: u64,
    /// Writes that landed on the block of another holder of the same host id.
    pub met: u64,
    /// Values that were written.
    pub values: u64,
    /// Values that were read and were surely the newest.
    pub newest: u64,
    /// Requests that an owner was told.
    pub requests: u64,
    /// Events that a host was told.
    pub events: u64,
    /// Resources made.
    pub made: u64,
    /// Resources deleted.
    pub deleted: u64,
    /// Formats that ended well.
    pub formats: u64,
    /// Formats that were refused, or ended because something else wrote to the device.
    pub not_formatted: u64,
    /// Writes of another formatting that landed in the sectors of a host.
    pub strangers: u64,
    /// Kills, reboots, pauses, and pauses between check and submission.
    pub upsets: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.held += other.held;
        self.released += other.released;
        self.takeovers += other.takeovers;
        self.adoptions += other.adoptions;
        self.repairs += other.repairs;
        self.regressions += other.regressions;
        self.late_landings += other.late_landings;
        self.burns += other.burns;
        self.joins += other.joins;
        self.resumes += other.resumes;
        self.taken_up += other.taken_up;
        self.refusals += other.refusals;
        self.rebuilds += other.rebuilds;
        self.declared += other.declared;
        self.mended += other.mended;
        self.outdated += other.outdated;
        self.vouched += other.vouched;
        self.losses += other.losses;
        self.without += other.without;
        self.shared += other.shared;
        self.forced += other.forced;
        self.fenced += other.fenced;
        self.wiped += other.wiped;
        self.handed_over += other.handed_over;
        self.received += other.received;
        self.held_by_sanlock += other.held_by_sanlock;
        self.used_again += other.used_again;
        self.met += other.met;
        self.values += other.values;
        self.newest += other.newest;
        self.requests += other.requests;
        self.events += other.events;
        self.made += other.made;
        self.deleted += other.deleted;
        self.formats += other.formats;
        self.not_formatted += other.not_formatted;
        self.strangers += other.strangers;
        self.upsets += other.upsets;
    }
}
