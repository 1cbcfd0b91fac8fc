//! What runs are about: the options that a seed stands for, alone or with an emphasis.

use std::time::Duration;

use leasehold::{CLOCK_RATE_ERROR_PPM, Profile, Timeouts};

use super::machines::Kind;
use super::options::{Faults, Modes, Options};
use super::random::Random;

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

impl Options {
    /// The run that belongs to `seed`: its size and its faults are drawn from it too.
    pub fn of_seed(seed: u64) -> Options {
        let mut random = Random::new(seed ^ 0xe4a5);
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
        let mut random = Random::new(!seed);
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
            clock_ppm: rate(CLOCK_RATE_ERROR_PPM),
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

    fn with_emphasis(self, emphasis: Emphasis, random: &mut Random) -> Options {
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
}

/// R, T, F, G and D in milliseconds.
fn tight(millis: [u64; 5]) -> Timeouts {
    let [renewal, io, fail, fence, dead] = millis.map(Duration::from_millis);
    match Timeouts::new(renewal, io, fail, fence, dead) {
        Ok(timeouts) => timeouts,
        Err(error) => unreachable!("these keep every inequality: {error}"),
    }
}
