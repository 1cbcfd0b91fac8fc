//! A deterministic world around the production protocol code: hosts with processes and clocks, disks, faults, in
//! virtual time. One seed gives one run; the same seed gives the same run.
//!
//! # Fault model
//! - **I/O**: takes a random time. It may be slow (beyond T), hang (beyond D), or fail; a write that failed has landed
//!   or not, a write that timed out lands at any later time, after writes of other hosts too. A read of several sectors
//!   is torn: each is seen as of one of two moments. So is a write of several: each lands at one of two moments, and
//!   perhaps never where the write fails or its machine loses power. Some sectors rot. In some runs scans, and only
//!   they, read a copy of the disk that is out of date.
//! - **Hosts**: a process is killed (its writes go on, and keep the local lock until they are over), and in some runs
//!   another one goes on with what it held; a machine reboots (each of its writes lands at that moment or never), a
//!   host is paused with its clock going on, also between the check of its deadline and the submission of the write
//!   that was checked. Clocks differ in rate by the bound that [`crate::stretched`] stands for, and in their zero.
//!   Every second pause is a suspend: a boot-time clock goes on. In some runs machines run sanlock.
//! - **Areas**: in some runs somebody wipes the area of a resource, makes it again or sets it back, at any time, in
//!   part, and while a write to it is on its way.
//! - **Budget**: faults stop after [`Options::duration`]. From then on I/O is prompt, what was in flight ends within T,
//!   and either every machine runs, or all are off for good and one that is new is alone. A few sectors rot in
//!   a run, but not so that they take the last trace of a version that was decided by two beyond the leader.
//!
//! # Properties
//! The names are those of the design; [`Failure`] says which one failed.
//! - **S1** At no moment are two leases active, unless both are shared. A lease is active from the answer "held" until
//!   its release begins, its machine reboots, or its local deadline + G, whatever became of the process. One that was
//!   taken by force may be active beside the one that took it, for as long as that was told at most. No two areas of
//!   one name have active leases.
//! - **S2** Each version that is held is larger than all held before; no version ever has two owners in a leader.
//! - **S3** A host id has one holder at a time; when the device is formatted again nobody holds one of the former
//!   lockspace, nor does anybody later; what a process goes on with nobody takes for gone; and each holding has
//!   a new generation, larger than the one before it. Where a late write puts back the record of an earlier one nobody
//!   can know of the later one: then it is larger than those that did not follow such a record themselves. So it is
//!   where a format to other sizes has overwritten the record (docs/design/limits.md).
//! - **S4** When "held" is said the own block on disk claims the version. After any other answer no block on disk
//!   claims a version at or above the leader's for the generation that was answered, or says that it waits.
//!
//!   Where an area was wiped, S1, S2 and S4 hold but for what `check/wiped.rs` says.
//! - **V** Whoever gave a resource up, or shares it, has no write of its value in flight. A value that is said to be
//!   surely the newest is: none that was written after it was confirmed before it was read.
//! - **N** A host is told of requests and events that somebody sent, and of none that is not for it or for what it
//!   holds. When a call is said to stand, it does.
//! - **W** A machine never has two writes to one sector in flight, submits none after the deadline of its host id,
//!   releases the id only when all are over, and none of them lands in a sector of an id that another machine holds;
//!   unless a late write of a join that failed had put that machine's name on the id before. Where it then lands on a
//!   block, S2 and S4 end for that resource: a known limit (docs/design/limits.md). A declaration, or a record
//!   that is mended, may land there, too; so may what clears an area in which nobody ever owned a resource, a write of
//!   a host of a former lockspace, or a late one of a format.
//! - **L1** After the faults, a new host that is alone acquires within four D: it may have to wait for a damaged block,
//!   and then for generations that no record shows. Where it may have to format the device first, or to try other ids,
//!   it has 20 D.
//! - **L2** After the faults, every host acquires.

mod catalog;
mod check;
mod counters;
mod env;
mod host;
mod io;
mod machines;
mod random;
mod storage;
mod wipes;
mod world;

use std::fmt;
use std::time::Duration;

pub use counters::Counters;
pub use machines::{Boot, Kind};

use crate::format::Geometry;
pub use crate::protocol::rules::Rule;
use crate::timeouts::{Profile, Timeouts};

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

macro_rules! emphases {
    ($($(#[doc = $text:literal])+ $emphasis:ident,)+) => {
        /// What hardly ever happens unless a run is about it. Every fourth seed has none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Emphasis {
            $($(#[doc = $text])+ $emphasis,)+
        }

        impl Emphasis {
            /// All of them.
            pub const ALL: &[Emphasis] = &[$(Emphasis::$emphasis,)+];
        }
    };
}

emphases! {
    /// Hosts want the same few ids, writes land late, and holders don't look often.
    FewIds,
    /// Ids that were never used are joined, and scans fail.
    NewIds,
    /// Many blocks are damaged.
    Damage,
    /// Scans read a stale copy.
    StaleScans,
    /// Every second host has longer timeouts than the lockspace says.
    SlowPeers,
    /// No time lies between the loss and the takeover, and writes and reads are slow.
    NoMargin,
    /// The same, and clocks differ as much as they may.
    Clocks,
    /// Hosts contend without rest for a minute, until all are off at once.
    LongLife,
    /// Hosts that lost their power are declared dead, some of them after they came back.
    Declared,
    /// Joins that hang land on those who hold the id by then. Their machines are fenced for it, and declared dead.
    FencedJoins,
    /// The leader rots.
    LostLeader,
    /// There are three disks.
    SeveralDisks,
    /// Processes are killed all the time, and their successors go on with what they had.
    Restarts,
    /// Hosts share, convert and take by force all the time, while writes hang and hosts stall.
    Modes,
    /// Hosts join as ids that were never used and take by force, while leaders land late.
    NewTakers,
    /// Hosts are copies of one machine, or containers on one, and want the same few ids.
    Clones,
    /// Hosts ask to be handed the resource and hand it over all the time, while writes hang and hosts stall.
    Handover,
    /// There are two or three resources, and each process works on all of them at once.
    Several,
    /// There is an index. Resources are made, deleted, and made again under other names, while hosts hold others.
    Catalog,
    /// Areas are wiped, made again or set back under those who hold the resource.
    Wiped,
    /// Hosts write and read values, ask for what others own, and send events, while writes hang.
    Messages,
    /// Some hosts run sanlock.
    BesideSanlock,
    /// The device is formatted again and again, while hosts are away or about to join, and their writes hang.
    Reformatted,
    /// The same, now and then to sectors and areas of other sizes and back. No write hangs, and no sector rots.
    Resized,
}

impl Emphasis {
    /// Those that most seeds have one of. Long lives cost too much for that; several disks or resources, modes and
    /// restarts go with any of them.
    const DRAWN: &[Emphasis] = &[
        Emphasis::FewIds,
        Emphasis::NewIds,
        Emphasis::Damage,
        Emphasis::StaleScans,
        Emphasis::SlowPeers,
        Emphasis::NoMargin,
        Emphasis::Clocks,
        Emphasis::Declared,
        Emphasis::LostLeader,
        Emphasis::Reformatted,
    ];
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
    /// The run that belongs to `seed`: its size and its faults are drawn from it too.
    pub fn of_seed(seed: u64) -> Options {
        let mut random = random::Random::new(seed ^ 0xe4a5);
        let drawn = random.below(12) as usize;
        // Copies on several disks cost as many times the work.
        let disks = if random.below(16) == 0 { 3 } else { 1 };
        // Every third run is about how the resource is held, too.
        let modes = match random.below(3) {
            0 if disks == 1 => Modes {
                shared: random.below(900),
                converts: random.below(700),
                forced: if random.chance(600) { random.below(300) } else { 0 },
                unchanged: 100,
                received: if random.chance(500) { random.below(600) } else { 0 },
            },
            _ => Modes::default(),
        };
        // What an earlier process has on one of several disks the engine doesn't know how to put together yet.
        let resumes = if random.chance(300) && disks == 1 { 700 } else { 0 };
        let usual = Options::about(seed, Emphasis::DRAWN.get(drawn).copied());
        // A format makes one lease, on one disk.
        if usual.faults.formats > 0 {
            return Options { modes, resumes, ..usual };
        }
        // So do several resources.
        let resources = if random.below(12) == 0 { 2 + random.below(2) as usize } else { usual.resources };
        Options { disks, modes, resumes, resources, ..usual }
    }

    /// As [`Options::of_seed`], with the emphasis given.
    pub fn about(seed: u64, emphasis: Option<Emphasis>) -> Options {
        let mut random = random::Random::new(!seed);
        let mut rate = |most: u64| if random.chance(300) { 0 } else { random.below(most + 1) };
        let faults = Faults {
            slow: rate(40),
            hung: rate(25),
            hung_words: 0,
            hung_joins: 0,
            hung_leaders: 0,
            eio: rate(30),
            stall: rate(15),
            upset: Duration::from_millis(rate(1_500)),
            rot: rate(4).saturating_sub(2),
            rot_written: 0,
            rot_killed: 0,
            rot_leader: 0,
            rot_record: 0,
            stale: 0,
            fences: 0,
            alike: 0,
            declares: 0,
            deletes: 0,
            rot_deleted: 0,
            wipes: 0,
            wipes_written: 0,
            formats: 0,
            reformats: 0,
            resizes: 0,
            bad_sector: rate(3) == 3,
            clock_ppm: rate(crate::timeouts::CLOCK_RATE_ERROR_PPM),
        };
        let hosts = 2 + random.below(3) as usize;
        let timeouts = Profile::Fast.timeouts();
        let usual = Options {
            seed,
            schedule: Vec::new(),
            hosts,
            resources: 1,
            places: 0,
            makes: 0,
            disks: 1,
            ids: hosts as u64 + 4,
            new_ids: false,
            timeouts,
            slower: timeouts,
            scan: timeouts.renewal() / 2,
            rest: Duration::from_millis(50),
            leaves: 50,
            resumes: 0,
            messages: 0,
            kinds: Vec::new(),
            duration: Duration::from_secs(6),
            lone_end: random.chance(300) || faults.bad_sector,
            modes: Modes::default(),
            faults,
        };
        match emphasis {
            Some(emphasis) => usual.with_emphasis(emphasis, &mut random),
            None => usual,
        }
    }

    fn with_emphasis(self, emphasis: Emphasis, random: &mut random::Random) -> Options {
        let upset = Duration::from_millis(100 + random.below(400));
        let rates = Faults { upset, rot: 0, bad_sector: false, ..self.faults.clone() };
        match emphasis {
            Emphasis::FewIds => {
                let timeouts = tight([300, 60, 550, 250, 800]);
                let faults = Faults { slow: 100, hung: 100, ..rates };
                Options { ids: 2, leaves: 300, lone_end: true, timeouts, slower: timeouts, faults, ..self }
            }
            Emphasis::NewIds => {
                Options { ids: 60, leaves: 300, faults: Faults { slow: 250, hung: 40, ..rates }, ..self }
            }
            Emphasis::Damage => {
                let rot = Faults { rot_written: 40, rot_killed: 400, ..rates };
                let faults = Faults { slow: 150, hung: 30, upset: upset * 4, ..rot };
                Options { ids: self.hosts as u64, duration: self.duration * 2, lone_end: true, faults, ..self }
            }
            Emphasis::StaleScans => {
                // Renewals so rare, and D so near to F, that the own record on disk may be as old as the copy.
                let timeouts = tight([300, 120, 550, 1, 551]);
                let faults = Faults { stale: 500, upset: upset * 3, ..rates };
                Options { timeouts, slower: timeouts, faults, ..self }
            }
            Emphasis::SlowPeers => {
                // No late join: it would leave nothing on disk that says how slow the peer is whose record it hits.
                let faults = Faults { slow: 0, hung: 0, stall: 0, ..rates };
                Options { slower: tight([100, 120, 1_100, 500, 1_600]), faults, ..self }
            }
            Emphasis::NoMargin => {
                let timeouts = tight([300, 120, 550, 1, 551]);
                let faults = Faults { slow: 80, eio: 10, stall: 10, upset: upset * 4, ..rates };
                let duration = self.duration * 2;
                Options { duration, timeouts, slower: timeouts, scan: Duration::from_millis(5), faults, ..self }
            }
            Emphasis::Clocks => {
                let timeouts = tight([1_000, 120, 5_000, 4_000, 9_000]);
                let faults =
                    Faults { slow: 0, hung: 0, eio: 0, stall: 0, upset: upset * 10, clock_ppm: 1_000, ..rates };
                let (scan, duration) = (Duration::from_millis(10), Duration::from_secs(60));
                Options { timeouts, slower: timeouts, scan, duration, faults, ..self }
            }
            Emphasis::LongLife => {
                let faults = Faults { slow: 0, hung: 0, stall: 0, upset: Duration::from_secs(2), ..rates };
                let (rest, duration) = (Duration::from_millis(1), Duration::from_secs(60));
                Options { rest, leaves: 0, duration, lone_end: true, faults, ..self }
            }
            Emphasis::Declared => {
                let words = Faults { declares: 300, hung_words: 500, rot_record: 500, ..rates };
                let faults = Faults { slow: 100, hung: 150, stall: 30, ..words };
                let (hosts, duration) = (self.hosts as u64, self.duration * 2);
                let roomy = Options { ids: hosts + 1, duration, faults, ..self };
                match random.chance(600) {
                    // Who has no id tries all of them.
                    true => {
                        let faults = Faults { rot_written: 60, ..roomy.faults };
                        Options { ids: hosts, leaves: 300, lone_end: true, faults, ..roomy }
                    }
                    false => roomy,
                }
            }
            Emphasis::FencedJoins => {
                // Whoever is hit does not see it for long, and is in the way of others.
                let timeouts = tight([450, 60, 900, 1, 901]);
                let faults = Faults { slow: 20, hung: 0, stall: 0, hung_joins: 500, fences: 900, ..rates };
                let words = Faults { declares: 1_000, hung_words: 500, rot_killed: 700, upset: upset * 8, ..faults };
                let faults = Faults { alike: 900, ..words };
                let (scan, duration) = (Duration::from_millis(10), self.duration * 2);
                let modes = Modes { shared: random.below(1_000), ..Modes::default() };
                let times = Options { timeouts, slower: timeouts, scan, duration, ..self };
                Options { hosts: 4, ids: 3, leaves: 200, lone_end: true, modes, faults, ..times }
            }
            Emphasis::LostLeader => {
                let faults = Faults { rot_leader: 30, slow: 60, hung: 15, upset: upset * 2, ..rates };
                Options { faults, ..self }
            }
            Emphasis::Restarts => {
                // A renewal that hangs may land when others have just taken its host for dead.
                let timeouts = tight([200, 100, 600, 1, 601]);
                let faults = Faults { slow: 40, hung: 30, stall: 0, upset: upset * 2, ..rates };
                let (scan, duration) = (Duration::from_millis(20), self.duration * 2);
                let times = Options { timeouts, slower: timeouts, scan, duration, ..self };
                let modes = match random.chance(500) {
                    true => Modes { shared: 400, converts: 300, forced: 100, unchanged: 0, received: 300 },
                    false => Modes::default(),
                };
                Options { resumes: 900, leaves: 0, lone_end: true, modes, faults, ..times }
            }
            Emphasis::SeveralDisks => Options { disks: 3, ..self },
            Emphasis::Modes => {
                let modes = Modes { shared: 500, converts: 500, forced: 200, unchanged: 100, received: 0 };
                let faults = Faults { slow: 60, hung: 40, eio: 20, stall: 20, ..rates };
                Options { hosts: 4, ids: 8, modes, faults, ..self }
            }
            Emphasis::NewTakers => {
                // An owner seldom looks at who is there.
                let timeouts = tight([200, 60, 1_000, 250, 1_250]);
                let modes = Modes { forced: 500, ..Modes::default() };
                let faults = Faults { slow: 60, hung: 10, hung_leaders: 300, eio: 5, stall: 20, ..rates };
                let faults = Faults { upset: upset * 3, ..faults };
                let times = Options { timeouts, slower: timeouts, rest: Duration::from_millis(300), ..self };
                Options { hosts: 4, ids: 40, new_ids: true, leaves: 300, modes, faults, ..times }
            }
            Emphasis::Clones => {
                // What ended acts for long after it, compared with a join without D.
                let timeouts = tight([100, 60, 550, 550, 1_100]);
                let (kinds, duration) = (Kind::draw(self.hosts, random), self.duration * 2);
                let faults = Faults { slow: 40, hung: 100, stall: 20, declares: 500, ..rates };
                // Who has no identity uses an id up with each end of a process.
                let ids = self.hosts as u64 + 6;
                let times = Options { timeouts, slower: timeouts, duration, ..self };
                Options { ids, leaves: 200, lone_end: true, kinds, faults, ..times }
            }
            Emphasis::Handover => {
                let forced = if random.chance(300) { 100 } else { 0 };
                let modes = Modes { received: 600, forced, ..Modes::default() };
                let faults = Faults { slow: 60, hung: 20, eio: 20, stall: 20, upset: upset * 2, ..rates };
                Options { hosts: 4, ids: 8, modes, faults, ..self }
            }
            Emphasis::Reformatted => {
                let timeouts = tight([100, 60, 400, 50, 450]);
                let faults = Faults {
                    formats: 4,
                    reformats: 500,
                    slow: 60,
                    hung: 60,
                    eio: 5,
                    stall: 20,
                    upset: upset * 6,
                    ..rates
                };
                // The latest version may be lost with the leader and the block of its owner.
                let rot = if random.chance(300) { 300 } else { 0 };
                let faults = Faults { rot_leader: rot / 10, rot_killed: rot, rot_written: rot / 10, ..faults };
                let (ids, duration) = (self.hosts as u64 + 5, self.duration * 2);
                let times = Options { timeouts, slower: timeouts, duration, ..self };
                // A format that a live host ended leaves a lockspace that nobody else can join before that has left.
                Options { ids, leaves: 200, lone_end: true, faults, ..times }
            }
            Emphasis::Resized => {
                let reformatted = Options::about(self.seed, Some(Emphasis::Reformatted));
                // A piece that lands late may wipe the area of the resource: that is `Wiped`'s. While a format goes on
                // the version stands in one sector alone.
                let prompt = Faults { slow: 0, hung: 0, stall: 0, ..reformatted.faults };
                let faults = Faults { resizes: 400, rot: 0, rot_leader: 0, rot_killed: 0, rot_written: 0, ..prompt };
                Options { ids: 7, faults, ..reformatted }
            }
            Emphasis::Several => {
                let modes = match random.chance(500) {
                    true => Modes { shared: 300, converts: 300, forced: 100, unchanged: 100, received: 200 },
                    false => Modes::default(),
                };
                let faults = Faults { slow: 60, hung: 30, eio: 20, stall: 20, upset: upset * 2, ..rates };
                let resources = if random.below(3) == 0 { 3 } else { 2 };
                let resumes = if random.chance(300) { 700 } else { 0 };
                Options { resources, resumes, modes, faults, ..self }
            }
            Emphasis::Messages => {
                let modes = match random.chance(500) {
                    true => Modes { shared: 200, converts: 200, forced: 200, unchanged: 0, received: 100 },
                    false => Modes::default(),
                };
                let faults = Faults { slow: 80, hung: 120, eio: 20, stall: 20, upset: upset * 4, ..rates };
                let resumes = if random.chance(300) { 700 } else { 0 };
                Options { messages: 700, resumes, modes, faults, duration: self.duration * 2, ..self }
            }
            Emphasis::BesideSanlock => {
                let mut kinds = vec![Kind::Machine, Kind::Sanlock];
                kinds.extend((2..self.hosts).map(|_| if random.chance(600) { Kind::Machine } else { Kind::Sanlock }));
                let timeouts = tight([2_000, 1_000, 8_000, 60_000, 68_000]);
                let modes = match random.chance(600) {
                    true => Modes { shared: 300, converts: 200, forced: 400, unchanged: 50, received: 250 },
                    false => Modes::default(),
                };
                let upset = Duration::from_secs(10 + random.below(40));
                // sanlock counts D without a margin for the rates of clocks.
                let faults = Faults { slow: 60, hung: 20, eio: 20, stall: 10, upset, clock_ppm: 0, ..rates };
                let (scan, rest) = (Duration::from_secs(1), Duration::from_secs(2));
                let (duration, hosts) = (Duration::from_secs(300), kinds.len());
                let times = Options { timeouts, slower: timeouts, scan, rest, duration, ..self };
                Options { hosts, kinds, modes, faults, ..times }
            }
            Emphasis::Catalog => {
                let faults = Faults { deletes: 400, rot_deleted: 100, slow: 80, hung: 60, eio: 20, stall: 30, ..rates };
                let (resources, places) = (random.below(3) as usize, 3);
                Options { resources, places, makes: 300, faults, ..self }
            }
            Emphasis::Wiped => {
                let modes = match random.chance(700) {
                    true => Modes { shared: 300, converts: 400, forced: 50, unchanged: 50, received: 200 },
                    false => Modes::default(),
                };
                let faults = Faults { wipes: 4, wipes_written: 6, slow: 40, hung: 15, eio: 10, stall: 15, ..rates };
                let faults = Faults { upset: upset * 3, ..faults };
                Options { duration: self.duration * 2, modes, faults, ..self }
            }
        }
    }

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

    /// Runs the world to its end.
    ///
    /// # Errors
    /// The first property that failed, with the last part of the trace. A panic of the protocol counts as one.
    pub fn run(&self) -> Result<Counters, Box<Failure>> {
        let attempt = |traced: bool| {
            let mut world = world::World::new(self.clone(), traced);
            let run = std::panic::AssertUnwindSafe(|| world.run());
            let result = std::panic::catch_unwind(run).unwrap_or_else(|_| Err("panic in the protocol".into()));
            (result, world.into_trace())
        };
        match attempt(false).0 {
            Ok(counters) => Ok(counters),
            // Again, for the trace: writing it costs more than the run.
            Err(what) => Err(Box::new(Failure { options: self.clone(), what, trace: attempt(true).1 })),
        }
    }
}

/// R, T, F, G and D in milliseconds.
fn tight(millis: [u32; 5]) -> Timeouts {
    match Timeouts::from_millis(millis) {
        Ok(timeouts) => timeouts,
        Err(error) => unreachable!("these keep every inequality: {error}"),
    }
}

/// A property that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub options: Options,
    /// Which property, and how.
    pub what: String,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{}", self.what)?;
        writeln!(f, "{:?}", self.options)?;
        write!(f, "LEASEHOLD_SEED={} cargo test --features sim --test simulation", self.options.seed)
    }
}
