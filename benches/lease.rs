//! What renewing, acquiring and releasing cost beside the I/O they are made of: everything on one file, then on one loop
//! device, in one run. `cargo bench --bench lease` prints the distributions and the ratios at the end.
//!
//! The floor is `pread` and `pwrite` with `O_DIRECT | O_DSYNC` in one thread, without the worker threads that keep
//! hanging storage away from the caller. How many I/Os an acquire and a release need is counted, not assumed.
//!
//! A comparison with the sanlock daemon is not in here yet.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use leasehold::disk::{Access, DirectDisk, Disk, Fault, LockOutcome, Op, Reply, Request};
use leasehold::format::SectorSize;
use leasehold::{FormatOptions, JoinOptions, Lockspace, Membership, Timeouts, Wait};
use parking_lot::Mutex;
use rustix::fs::OFlags;

const SECTOR: usize = 512;
const AREA: u64 = 1 << 20;
/// Lockspace, index, its guard, the resource, and one area for raw I/O.
const DISK_BYTES: u64 = 5 * AREA;
const RAW_AREA: u64 = 4 * AREA;
/// A membership remembers 1024 renewals.
const RENEWALS_OF_A_MEMBERSHIP: usize = 1000;
/// So long after one acquire the next one reads all host ids anew; the bench sleeps it off outside of what it times.
const IO_TIMEOUT: Duration = Duration::from_millis(50);

/// Every single duration of each benchmark; criterion itself keeps means.
type Samples = Rc<RefCell<BTreeMap<&'static str, Vec<Duration>>>>;

/// What one acquire or release did to the disk: whether it wrote, how many bytes, how often.
type Counts = BTreeMap<(bool, usize), u64>;

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
fn bench(criterion: &mut Criterion, name: &str, path: &Path) -> String {
    let samples = Samples::default();
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    let raw = RefCell::new(Raw::open(path));
    let sector = || vec![0x5a; SECTOR];
    raw.borrow_mut().write(RAW_AREA, &vec![0x5a; AREA as usize]);
    each(&mut group, &samples, "raw read of 512 B", || raw.borrow_mut().read(RAW_AREA, SECTOR));
    each(&mut group, &samples, "raw write of 512 B", || raw.borrow_mut().write(RAW_AREA, &sector()));
    each(&mut group, &samples, "raw read of 1 MiB", || raw.borrow_mut().read(RAW_AREA, AREA as usize));

    bench_renewal(&mut group, &samples, path);

    let ms = Duration::from_millis;
    let counter = Arc::new(Counter::over(path));
    let timeouts = Timeouts::new(ms(1_000), IO_TIMEOUT, ms(10_000), ms(1_000), ms(11_000)).unwrap();
    let membership = join_formatted(counter.clone(), timeouts);
    let resource = membership.create("bench", Wait::No).unwrap();
    let take = || {
        let lease = membership.acquire(&resource, Wait::No).unwrap();
        lease.release().unwrap();
    };
    take();
    let counts_of = |work: &dyn Fn()| {
        counter.take();
        work();
        counter.take()
    };
    each(&mut group, &samples, AGAIN, take);
    let again = counts_of(&take);
    each_after(&mut group, &samples, AFTER_PAUSE, || thread::sleep(3 * IO_TIMEOUT), take);
    thread::sleep(3 * IO_TIMEOUT);
    let after_pause = counts_of(&take);
    group.finish();
    membership.leave().unwrap();

    // The floor of each size that was counted.
    let mut floors = BTreeMap::new();
    for (write, bytes) in again.keys().chain(after_pause.keys()) {
        let mut raw = raw.borrow_mut();
        let content = vec![0x5a; *bytes];
        let mut once = || match write {
            true => raw.write(RAW_AREA, &content),
            false => raw.read(RAW_AREA, *bytes),
        };
        floors.entry((*write, *bytes)).or_insert_with(|| median((0..300).map(|_| timed(&mut once)).collect()));
    }
    report(name, &samples.borrow(), &floors, &[(AGAIN, again), (AFTER_PAUSE, after_pause)])
}

const RENEWAL: &str = "renewal";
const AGAIN: &str = "acquire + release, again and again";
const AFTER_PAUSE: &str = "acquire + release, after a pause";

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn each(group: &mut BenchmarkGroup<'_, WallTime>, samples: &Samples, name: &'static str, work: impl FnMut()) {
    each_after(group, samples, name, || (), work);
}

/// Times `work` alone, each time after `prepare`.
fn each_after(
    group: &mut BenchmarkGroup<'_, WallTime>,
    samples: &Samples,
    name: &'static str,
    mut prepare: impl FnMut(),
    mut work: impl FnMut(),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let one = |_| {
                prepare();
                timed(&mut work)
            };
            let times: Vec<Duration> = (0..count).map(one).collect();
            samples.borrow_mut().entry(name).or_default().extend(&times);
            times.iter().sum()
        });
    });
}

fn join_formatted(disk: Arc<dyn Disk>, timeouts: Timeouts) -> Membership {
    let options = FormatOptions { timeouts, force: true, ..FormatOptions::default() };
    leasehold::format(disk.clone(), &options).unwrap();
    Lockspace::open(disk).unwrap().join(JoinOptions::new()).unwrap()
}

/// The engine's own account of its renewals, at a short interval so that there are many.
fn bench_renewal(group: &mut BenchmarkGroup<'_, WallTime>, samples: &Samples, path: &Path) {
    let ms = Duration::from_millis;
    let timeouts = Timeouts::new(ms(2), IO_TIMEOUT, ms(10_000), ms(1_000), ms(11_000)).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(DirectDisk::open(path, Access::ReadWrite).unwrap());
    let membership = RefCell::new(join_formatted(disk.clone(), timeouts));
    let mut seen = 0;
    group.bench_function(RENEWAL, |bencher| {
        bencher.iter_custom(|count| {
            let mut times = Vec::new();
            while (times.len() as u64) < count {
                if seen == RENEWALS_OF_A_MEMBERSHIP {
                    membership.borrow().leave().unwrap();
                    membership.replace(Lockspace::open(disk.clone()).unwrap().join(JoinOptions::new()).unwrap());
                    seen = 0;
                }
                let known = membership.borrow().renewal_latencies();
                let wanted = (count as usize - times.len()).min(RENEWALS_OF_A_MEMBERSHIP - seen);
                let new = &known[seen..known.len().min(seen + wanted)];
                seen += new.len();
                times.extend_from_slice(new);
                thread::sleep(timeouts.renewal());
            }
            samples.borrow_mut().entry(RENEWAL).or_default().extend(&times);
            times.iter().sum()
        });
    });
    membership.borrow().leave().unwrap();
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

    fn read(&mut self, offset: u64, len: usize) {
        let got = rustix::io::pread(&self.file, Raw::aligned(&mut self.storage, len), offset).unwrap();
        assert_eq!(got, len);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let space = Raw::aligned(&mut self.storage, data.len());
        space.copy_from_slice(data);
        assert_eq!(rustix::io::pwrite(&self.file, space, offset).unwrap(), data.len());
    }
}

/// A disk that counts what the thread that made it asks for; the membership's own threads are not counted.
#[derive(Debug)]
struct Counter {
    disk: DirectDisk,
    thread: ThreadId,
    counts: Mutex<Counts>,
}

impl Counter {
    fn over(path: &Path) -> Counter {
        let disk = DirectDisk::open(path, Access::ReadWrite).unwrap();
        Counter { disk, thread: thread::current().id(), counts: Mutex::default() }
    }

    /// What was counted since the last call.
    fn take(&self) -> Counts {
        std::mem::take(&mut self.counts.lock())
    }
}

impl Disk for Counter {
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
        if thread::current().id() == self.thread {
            let kind = match &request.op {
                Op::Read { len } => (false, *len),
                Op::Write { data } => (true, data.len()),
            };
            *self.counts.lock().entry(kind).or_default() += 1;
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn report(
    device: &str,
    samples: &BTreeMap<&'static str, Vec<Duration>>,
    floors: &BTreeMap<(bool, usize), Duration>,
    counted: &[(&'static str, Counts)],
) -> String {
    let mut lines = vec![format!(
        "\n{device}, sectors of 512 B, in microseconds{:>17} {:>9} {:>9} {:>7}",
        "min", "median", "p99", "n"
    )];
    for (name, times) in samples {
        let mut sorted = times.clone();
        sorted.sort_unstable();
        let [min, median, p99] = [0, sorted.len() / 2, sorted.len() * 99 / 100].map(|at| micros(sorted[at]));
        lines.push(format!("  {name:<46} {min:>9.1} {median:>9.1} {p99:>9.1} {:>7}", sorted.len()));
    }
    let middle = |name: &str| samples.get(name).map(|times| micros(median(times.clone())));
    if let (Some(renewal), Some(read), Some(write)) =
        (middle(RENEWAL), middle("raw read of 512 B"), middle("raw write of 512 B"))
    {
        let floor = read + write;
        lines.push(format!("  {RENEWAL}: {:.2} x its raw read and write ({floor:.1})", renewal / floor));
    }
    for (name, counts) in counted {
        let Some(measured) = middle(name) else { continue };
        let floor: f64 = counts.iter().map(|(kind, count)| micros(floors[kind]) * *count as f64).sum();
        let list = counts
            .iter()
            .map(|((write, bytes), count)| format!("{count} {} of {bytes} B", if *write { "writes" } else { "reads" }));
        let list = list.collect::<Vec<_>>().join(", ");
        lines.push(format!("  {name}: {:.2} x its raw I/O ({floor:.1}: {list})", measured / floor));
    }
    lines.join("\n")
}
