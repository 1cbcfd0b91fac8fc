//! What renewing, acquiring and releasing cost beside the I/O they are made of: everything on one file, then on one
//! loop device, in one run. `cargo bench --bench lease` prints the distributions and the ratios at the end.
//!
//! The floor is `pread` and `pwrite` with `O_DIRECT | O_DSYNC` in one thread, without the worker threads that keep
//! hanging storage away from the caller. What an acquire and a release read and write is recorded, and repeated in this
//! way right before or after, so that both see the same noise.
//!
//! A comparison with the sanlock daemon is not in here yet.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use leasehold::disk::{Access, DirectDisk, Disk, Fault, Lane, LockOutcome, Op, Reply, Request};
use leasehold::{FormatOptions, JoinOptions, Lockspace, Membership, SectorSize, Timeouts, Wait};
use parking_lot::Mutex;
use rustix::fs::OFlags;

const SECTOR: usize = 512;
const AREA: u64 = 1 << 20;
/// Lockspace, index, its guard, the resource, and one area for raw I/O.
const DISK_BYTES: u64 = 5 * AREA;
const RAW_AREA: u64 = 4 * AREA;
static CONTENT: [u8; AREA as usize] = [0x5a; AREA as usize];
/// A membership remembers 1024 renewals.
const RENEWALS_OF_A_MEMBERSHIP: usize = 1000;
/// Longer than a busy machine's storage takes.
const IO_TIMEOUT: Duration = Duration::from_millis(500);
/// So long after one acquire the next one reads all host ids anew.
const PAUSE: Duration = IO_TIMEOUT.saturating_mul(2).saturating_add(Duration::from_millis(50));

/// Every single duration of each benchmark; criterion itself keeps means.
#[derive(Default)]
struct Samples {
    /// In the order of the benchmarks.
    rows: Vec<Row>,
}

struct Row {
    name: String,
    times: Vec<Duration>,
    /// What it consists of: its kinds of I/O, and how often there was one in all.
    io: BTreeMap<Kind, u64>,
}

/// One I/O: whether it writes, and how many bytes.
type Kind = (bool, usize);

impl Samples {
    fn row(&mut self, name: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.into(), times: Vec::new(), io: BTreeMap::new() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("disk");
    File::create_new(&file).unwrap().set_len(DISK_BYTES).unwrap();
    let on_file = bench(&mut criterion, "file", &file);
    let backing = folder.path().join("backing");
    File::create_new(&backing).unwrap().set_len(DISK_BYTES).unwrap();
    let on_loop = Loop::attach(&backing).map(|device| bench(&mut criterion, "loop", &device.0));
    criterion.final_summary();
    println!("{on_file}");
    match on_loop {
        Ok(report) => println!("{report}"),
        Err(reason) => println!("loop: skipped, {reason}"),
    }
}

/// A loop device with direct I/O, detached at the end.
struct Loop(PathBuf);

impl Loop {
    fn attach(backing: &Path) -> Result<Loop, String> {
        let arguments = ["-f", "--show", "--direct-io=on", "--sector-size", "512"];
        let output = Command::new("losetup").args(arguments).arg(backing).output();
        let output = output.map_err(|error| format!("losetup: {error}"))?;
        match output.status.success() {
            true => Ok(Loop(String::from_utf8_lossy(&output.stdout).trim().into())),
            false => Err(format!("losetup (needs root): {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// Runs everything on one device, and returns what there is to say about it.
fn bench(criterion: &mut Criterion, device: &str, path: &Path) -> String {
    let mut bench = Bench { samples: RefCell::default(), raw: RefCell::new(Raw::open(path)) };
    let mut group = criterion.benchmark_group(device);
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    // Sectors that were never written cost more.
    bench.raw.get_mut().write(&CONTENT);
    bench.raw(&mut group, "raw read of 512 B", (false, SECTOR));
    bench.raw(&mut group, "raw write of 512 B", (true, SECTOR));
    bench.raw(&mut group, "raw read of 1 MiB", (false, AREA as usize));
    bench.renewal(&mut group, path);
    bench.leases(&mut group, path);
    group.finish();
    report(device, &bench.samples.borrow().rows)
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// What the row with the raw I/O of another row is called.
fn raw_of(name: &str) -> String {
    format!("  its raw I/O ({name})")
}

/// The benchmarks of one device.
struct Bench {
    samples: RefCell<Samples>,
    raw: RefCell<Raw>,
}

impl Bench {
    fn raw(&self, group: &mut BenchmarkGroup<'_, WallTime>, name: &str, io: Kind) {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let times: Vec<Duration> = (0..count).map(|_| self.raw.borrow_mut().replay(&[io])).collect();
                self.samples.borrow_mut().row(name).times.extend(&times);
                times.iter().sum()
            });
        });
    }

    /// The engine's own account of its renewals, at a short interval so that there are many.
    fn renewal(&self, group: &mut BenchmarkGroup<'_, WallTime>, path: &Path) {
        const NAME: &str = "renewal";
        let ms = Duration::from_millis;
        let timeouts = Timeouts::new(ms(2), IO_TIMEOUT, ms(10_000), ms(1_000), ms(11_000)).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(DirectDisk::open(path, Access::ReadWrite).unwrap());
        let mut membership = join_formatted(disk.clone(), timeouts);
        let mut seen = 0;
        group.bench_function(NAME, |bencher| {
            bencher.iter_custom(|count| {
                let mut times = Vec::new();
                let mut raw = Vec::new();
                while (times.len() as u64) < count {
                    if seen == RENEWALS_OF_A_MEMBERSHIP {
                        membership.leave().unwrap();
                        membership = Lockspace::open(disk.clone()).unwrap().join(JoinOptions::new()).unwrap();
                        seen = 0;
                    }
                    let known = membership.renewal_latencies();
                    let wanted = (count as usize - times.len()).min(RENEWALS_OF_A_MEMBERSHIP - seen);
                    let new = &known[seen..known.len().min(seen + wanted)];
                    seen += new.len();
                    times.extend_from_slice(new);
                    thread::sleep(timeouts.renewal());
                    raw.push(self.raw.borrow_mut().replay(&[(false, SECTOR), (true, SECTOR)]));
                }
                let mut samples = self.samples.borrow_mut();
                let row = samples.row(NAME);
                row.times.extend(&times);
                for io in [(false, SECTOR), (true, SECTOR)] {
                    *row.io.entry(io).or_default() += count;
                }
                samples.row(&raw_of(NAME)).times.extend(raw);
                times.iter().sum()
            });
        });
        membership.leave().unwrap();
    }

    /// A lease that is free, of a host that is alone: taken again and again, and taken after a pause so long that the
    /// host ids have to be read anew.
    fn leases(&self, group: &mut BenchmarkGroup<'_, WallTime>, path: &Path) {
        let ms = Duration::from_millis;
        let timeouts = Timeouts::new(ms(1_000), IO_TIMEOUT, ms(10_000), ms(1_000), ms(11_000)).unwrap();
        let recorder = Arc::new(Recorder::over(path));
        let membership = join_formatted(recorder.clone(), timeouts);
        let resource = membership.create("bench", Wait::No).unwrap();
        for (name, pause) in
            [("acquire + release, again and again", Duration::ZERO), ("acquire + release, after a pause", PAUSE)]
        {
            if !pause.is_zero() {
                group.sample_size(10).measurement_time(PAUSE * 11);
            }
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|count| {
                    let mut samples = self.samples.borrow_mut();
                    let mut sum = Duration::ZERO;
                    let mut trace = Vec::new();
                    for number in 0..count {
                        thread::sleep(pause);
                        // Storage may make the second of two bursts wait: neither is always the second.
                        let raw_first = number % 2 == 1;
                        let before = raw_first.then(|| self.raw.borrow_mut().replay(&trace));
                        recorder.take();
                        let time = timed(|| {
                            let lease = membership.acquire(&resource, Wait::No).unwrap();
                            lease.release().unwrap();
                        });
                        trace = recorder.take();
                        let raw = before.unwrap_or_else(|| self.raw.borrow_mut().replay(&trace));
                        let row = samples.row(name);
                        row.times.push(time);
                        for io in &trace {
                            *row.io.entry(*io).or_default() += 1;
                        }
                        samples.row(&raw_of(name)).times.push(raw);
                        sum += time;
                    }
                    sum
                });
            });
        }
        membership.leave().unwrap();
    }
}

fn join_formatted(disk: Arc<dyn Disk>, timeouts: Timeouts) -> Membership {
    let options = FormatOptions { timeouts, force: true, ..FormatOptions::default() };
    leasehold::format(disk.clone(), &options).unwrap();
    Lockspace::open(disk).unwrap().join(JoinOptions::new()).unwrap()
}

/// The device without any engine.
struct Raw {
    file: File,
    storage: Vec<u8>,
}

impl Raw {
    const ALIGN: usize = 4096;

    fn open(path: &Path) -> Raw {
        let flags = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap();
        Raw { file, storage: vec![0; AREA as usize + Raw::ALIGN] }
    }

    fn aligned(storage: &mut [u8], len: usize) -> &mut [u8] {
        let start = storage.as_ptr().align_offset(Raw::ALIGN);
        &mut storage[start..start + len]
    }

    fn read(&mut self, len: usize) {
        let got = rustix::io::pread(&self.file, Raw::aligned(&mut self.storage, len), RAW_AREA).unwrap();
        assert_eq!(got, len);
    }

    fn write(&mut self, data: &[u8]) {
        let space = Raw::aligned(&mut self.storage, data.len());
        space.copy_from_slice(data);
        assert_eq!(rustix::io::pwrite(&self.file, space, RAW_AREA).unwrap(), data.len());
    }

    /// How long these take, one after the other.
    fn replay(&mut self, trace: &[Kind]) -> Duration {
        timed(|| {
            for (write, bytes) in trace {
                match write {
                    true => self.write(&CONTENT[..*bytes]),
                    false => self.read(*bytes),
                }
            }
        })
    }
}

/// A disk that records what acquires and releases ask for, and not what a membership does without them.
#[derive(Debug)]
struct Recorder {
    disk: DirectDisk,
    trace: Mutex<Vec<Kind>>,
}

impl Recorder {
    fn over(path: &Path) -> Recorder {
        let disk = DirectDisk::open(path, Access::ReadWrite).unwrap();
        Recorder { disk, trace: Mutex::default() }
    }

    /// What was recorded since the last call.
    fn take(&self) -> Vec<Kind> {
        std::mem::take(&mut self.trace.lock())
    }
}

impl Disk for Recorder {
    fn describe(&self) -> String {
        self.disk.describe()
    }

    fn sector_size(&self) -> Option<SectorSize> {
        self.disk.sector_size()
    }

    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn submit(&self, request: Request, reply: Reply) {
        let kind = match &request.op {
            Op::Read { len } => (false, *len),
            Op::Write { data } => (true, data.len()),
        };
        // Renewals go on meanwhile, and so do the reads of the records of the few ids in use.
        let is_scan = request.offset < AREA && kind.1 < AREA as usize / 2;
        if request.lane == Lane::General && !is_scan {
            self.trace.lock().push(kind);
        }
        self.disk.submit(request, reply);
    }

    fn lock(&self, offset: u64, len: u64) -> Result<LockOutcome, Fault> {
        self.disk.lock(offset, len)
    }

    fn unlock(&self, offset: u64, len: u64) -> Result<(), Fault> {
        self.disk.unlock(offset, len)
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// Minimum, median and 99th percentile in microseconds.
fn distribution(times: &[Duration]) -> [f64; 3] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    [0, sorted.len() / 2, sorted.len() * 99 / 100].map(|at| micros(sorted[at]))
}

fn report(device: &str, rows: &[Row]) -> String {
    let title = format!("{device}, sectors of 512 B, in us");
    let mut lines = vec![format!("\n{title:<54} {:>9} {:>9} {:>9} {:>7}", "min", "median", "p99", "n")];
    for row in rows {
        let [min, median, p99] = distribution(&row.times);
        lines.push(format!("  {:<52} {min:>9.1} {median:>9.1} {p99:>9.1} {:>7}", row.name, row.times.len()));
    }
    for row in rows {
        let Some(raw) = rows.iter().find(|raw| raw.name == raw_of(&row.name)) else { continue };
        let ([_, median, _], [_, floor, _]) = (distribution(&row.times), distribution(&raw.times));
        let each = row.io.iter().map(|((write, bytes), count)| {
            let mean = *count as f64 / row.times.len() as f64;
            format!("{mean:.2} {} of {bytes} B", if *write { "writes" } else { "reads" })
        });
        let each = each.collect::<Vec<_>>().join(", ");
        lines.push(format!("  {}: {:.2} x its raw I/O ({each})", row.name, median / floor));
    }
    lines.join("\n")
}
