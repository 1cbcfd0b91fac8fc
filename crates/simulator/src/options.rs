//! What a run is made of: its size, what its hosts do, and what goes wrong.

use std::time::Duration;

use leasehold::format::Geometry;
use leasehold::{Profile, Timeouts};

use super::machines::Kind;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random is drawn from it, behind the schedule.
    pub seed: u64,
    /// What decides before the seed does, two bytes for each decision: for a fuzzer. Empty: the seed decides all.
    pub schedule: Vec<u8>,
    /// Machines that contend for each resource.
    pub hosts: usize,
    /// Resources, each in an area of its own.
    pub resources: usize,
    /// Areas that an index lists, if there is one: what is there from the start, and what is made there.
    pub places: usize,
    /// Of 1000 times that a host has nothing to do in an area, how often it makes a resource.
    pub makes: u64,
    /// Disks with a copy of the resource; host ids live on the first.
    pub disks: usize,
    /// Host ids that they choose from.
    pub ids: u64,
    /// Who chooses takes the one after all that were used, as long as there is one.
    pub new_ids: bool,
    /// The lockspace's timeouts.
    pub timeouts: Timeouts,
    /// What every second machine goes by, and says in its record: T is the same.
    pub slower: Timeouts,
    /// How often a host scans.
    pub scan: Duration,
    /// The most that a host rests between two operations, but for some that hold for longer.
    pub rest: Duration,
    /// Of 1000 times that a host has nothing to do, how often it gives its host id back.
    pub leaves: u64,
    /// Of 1000 processes that are killed, how many have a successor that goes on with what they had.
    pub resumes: u64,
    /// Of 1000 times that a host has something to do with a resource, how often it writes or reads the value, asks for
    /// what another one owns, or sends an event.
    pub messages: u64,
    /// How long faults go on.
    pub duration: Duration,
    /// How the run ends: with one new host alone, or with all hosts running.
    pub lone_end: bool,
    /// What the hosts are, and can know of their machines. Those beyond are machines that are known.
    pub kinds: Vec<Kind>,
    /// How hosts hold the resource.
    pub modes: Modes,
    /// What goes wrong.
    pub faults: Faults,
}

/// How hosts hold the resource. All 0: each of them alone, as long as it likes. Only with one disk: of several copies
/// of a block that differ only in the flag nobody knows which is the later one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modes {
    /// Of 1000 acquires, how many are for a shared hold.
    pub shared: u64,
    /// Of 1000 times that a host holds, how often it changes how before it releases.
    pub converts: u64,
    /// Of 1000 acquires, how many are by force.
    pub forced: u64,
    /// Of 1000 other acquires, how many are only from the version that was the latest.
    pub unchanged: u64,
    /// Of 1000 acquires, how many wait to be handed the resource. Who holds it then mostly does that.
    pub received: u64,
}

/// What goes wrong, and how often.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Of 1000 I/Os, how many take up to 3 T.
    pub slow: u64,
    /// Of 1000 writes, how many take up to 3 D, or 6 D where the device is formatted.
    pub hung: u64,
    /// Of 1000 that declare a host dead, or mend its record, how many take up to 6 D, or at least as many as of others.
    pub hung_words: u64,
    /// Of 1000 writes of a join, how many take up to 3 D, or at least as many as of others.
    pub hung_joins: u64,
    /// Of 1000 writes of a leader, how many take up to 2 D, or at least as many as of others.
    pub hung_leaders: u64,
    /// Of 1000 I/Os, how many fail.
    pub eio: u64,
    /// Of 1000 writes, before how many the host is paused after the deadline was checked.
    pub stall: u64,
    /// The mean time between two kills, reboots or pauses; zero for none.
    pub upset: Duration,
    /// How many sectors rot: blocks and delta records.
    pub rot: u64,
    /// Of 1000 blocks that are written, how many are damaged within T from then.
    pub rot_written: u64,
    /// Of 1000 hosts that are killed or rebooted, how many find their block damaged.
    pub rot_killed: u64,
    /// How often the leader rots.
    pub rot_leader: u64,
    /// Of 1000 hosts that lose their power, how many find their record damaged.
    pub rot_record: u64,
    /// Of 1000 upsets, how many make a host's scans read a copy of the disk as it is then, until the next such upset.
    /// Who is there it doesn't hide: while the copy is younger than the own last renewal nothing tells that it is
    /// stale.
    pub stale: u64,
    /// Of 1000 joins whose write lands on an id that another machine holds, how many machines are fenced for that.
    pub fences: u64,
    /// Of 1000 joins, how many skip no generation: those that go on from one record may come to the same one.
    pub alike: u64,
    /// Of 1000 scans of a host, before how many it declares one dead that was without power since.
    pub declares: u64,
    /// Of 1000 upsets, how many delete a resource with which nobody has anything to do.
    pub deletes: u64,
    /// Of 1000 resources that are deleted, how many find their leader damaged then.
    pub rot_deleted: u64,
    /// How often somebody wipes the area of a resource, makes it again or sets it back.
    pub wipes: u64,
    /// Of 1000 writes to the area of a resource, how many take up to 3 T while somebody does that.
    pub wipes_written: u64,
    /// How often the device is formatted again, while hosts are stopped, dead, or about to join.
    pub formats: u64,
    /// Of 1000 late writes of a format that hit a host, after how many somebody formats the device again.
    pub reformats: u64,
    /// Of 1000 formats, how many are to sectors and areas of other sizes, with which no host joins.
    pub resizes: u64,
    /// Whether those sectors that rot are bad for good, and neither readable nor writable.
    pub bad_sector: bool,
    /// Bound on the rate error of clocks, in parts per million.
    pub clock_ppm: u64,
}

impl Options {
    /// A quiet world of many hosts, to see how much of it can be simulated in a minute.
    pub fn calm(seed: u64, hosts: usize, duration: Duration) -> Options {
        let timeouts = Profile::Balanced.timeouts();
        Options {
            seed,
            schedule: Vec::new(),
            hosts,
            resources: 1,
            places: 0,
            makes: 0,
            disks: 1,
            // One is left for the host that is alone in the end.
            ids: (hosts as u64 + 4).min(Geometry::default().max_hosts() - 1),
            new_ids: false,
            timeouts,
            slower: timeouts,
            scan: timeouts.dead() / 2,
            rest: timeouts.dead() * 4,
            leaves: 10,
            resumes: 0,
            messages: 0,
            kinds: Vec::new(),
            duration,
            lone_end: true,
            modes: Modes::default(),
            faults: Faults { slow: 5, hung: 1, eio: 2, upset: duration / 20, ..Faults::default() },
        }
    }
}
