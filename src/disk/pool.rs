//! The threads that block in the kernel, so that nobody else does.
//!
//! A job goes to the worker that became idle last, else to a new worker, else into the lane's queue. Workers end when
//! they were idle for a while or the pool is closed; one that hangs in the kernel ends when the kernel lets it go.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Lane;

/// How long an idle worker stays.
const IDLE: Duration = Duration::from_secs(10);
/// How long a worker that has just run a job looks for the next one before it sleeps. An acquisition is a chain of
/// requests, each sent when the one before is answered, and waking a core that sleeps costs half as much as a read.
const LINGER: Duration = Duration::from_micros(20);
/// Jobs that may wait in one lane.
pub(super) const QUEUE_MAX: usize = 4096;
/// Jobs and their completion hooks need little; with all memory locked, each stack is resident in full.
const STACK_BYTES: usize = 256 << 10;

/// What a worker is given to do. Dropping a job unrun tells its submitter that it was abandoned.
pub(super) trait Job: Send + 'static {
    /// Runs on a worker, with the worker's buffer.
    fn run(self, buffer: &mut Buffer);
}

/// Memory at an address that every device accepts for direct I/O, kept by a worker from job to job: fresh pages for
/// each scan would cost more than the scan.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    storage: Vec<u8>,
}

impl Buffer {
    /// A page, the largest alignment that a device asks for.
    const ALIGN: usize = 4096;

    /// `len` bytes of any content.
    pub(super) fn bytes(&mut self, len: usize) -> &mut [u8] {
        if self.storage.len() < len + Buffer::ALIGN {
            self.storage = vec![0; len + Buffer::ALIGN];
        }
        let start = self.storage.as_ptr().align_offset(Buffer::ALIGN);
        &mut self.storage[start..start + len]
    }
}

#[derive(Debug)]
pub(super) struct Pool<J> {
    renewal: Mutex<LaneState<J>>,
    general: Mutex<LaneState<J>>,
}

#[derive(Debug)]
struct LaneState<J> {
    queue: VecDeque<J>,
    idle: Vec<Arc<Seat<J>>>,
    workers: usize,
    workers_max: usize,
    closed: bool,
}

/// Where an idle worker waits.
#[derive(Debug)]
struct Seat<J> {
    order: Mutex<Option<Order<J>>>,
    given: Condvar,
}

#[derive(Debug)]
enum Order<J> {
    Run(J),
    Leave,
}

/// Why a job was not taken; it comes back with the reason.
#[derive(Debug)]
pub(super) enum Refused<J> {
    QueueFull(J),
    NoThread(J, io::Error),
}

impl<J> Seat<J> {
    fn give(&self, order: Order<J>) {
        *self.order.lock() = Some(order);
        self.given.notify_one();
    }
}

impl<J: Job> Pool<J> {
    pub(super) fn new() -> Arc<Pool<J>> {
        let lane = |workers_max| {
            Mutex::new(LaneState { queue: VecDeque::new(), idle: Vec::new(), workers: 0, workers_max, closed: false })
        };
        Arc::new(Pool { renewal: lane(4), general: lane(64) })
    }

    fn lane(&self, lane: Lane) -> &Mutex<LaneState<J>> {
        match lane {
            Lane::Renewal => &self.renewal,
            Lane::General => &self.general,
        }
    }

    /// Has `job` run on some worker. Never waits for one.
    pub(super) fn submit(self: &Arc<Self>, lane: Lane, job: J) -> Result<(), Refused<J>> {
        let mut state = self.lane(lane).lock();
        if let Some(seat) = state.idle.pop() {
            drop(state);
            seat.give(Order::Run(job));
            return Ok(());
        }
        if state.workers == state.workers_max {
            if state.queue.len() >= QUEUE_MAX {
                return Err(Refused::QueueFull(job));
            }
            state.queue.push_back(job);
            return Ok(());
        }
        state.workers += 1;
        drop(state);
        // The job waits in the seat, from which it can be had back when there is no thread.
        let seat = Arc::new(Seat { order: Mutex::new(Some(Order::Run(job))), given: Condvar::new() });
        let spawned = {
            let (pool, seat) = (self.clone(), seat.clone());
            thread::Builder::new()
                .name("leasehold-io".into())
                .stack_size(STACK_BYTES)
                .spawn(move || pool.work(lane, &seat))
        };
        let Err(error) = spawned else { return Ok(()) };
        let mut state = self.lane(lane).lock();
        state.workers -= 1;
        let Some(Order::Run(job)) = seat.order.lock().take() else { return Ok(()) };
        if state.workers > 0 && state.queue.len() < QUEUE_MAX {
            // The workers there are take it in turn.
            match state.idle.pop() {
                Some(seat) => seat.give(Order::Run(job)),
                None => state.queue.push_back(job),
            }
            return Ok(());
        }
        Err(Refused::NoThread(job, error))
    }

    /// Sends idle workers home, and gives up what is still queued.
    pub(super) fn close(&self) {
        for lane in [&self.renewal, &self.general] {
            let mut state = lane.lock();
            state.closed = true;
            let (queue, idle) = (std::mem::take(&mut state.queue), std::mem::take(&mut state.idle));
            drop(state);
            for seat in idle {
                seat.give(Order::Leave);
            }
            drop(queue);
        }
    }

    fn work(&self, lane: Lane, seat: &Arc<Seat<J>>) {
        let mut buffer = Buffer::default();
        while let Some(mut job) = self.wait(lane, seat) {
            loop {
                // A panic in a completion hook ends the job only: the lane would be short of a worker for good.
                let _ = catch_unwind(AssertUnwindSafe(|| job.run(&mut buffer)));
                let mut state = self.lane(lane).lock();
                match state.queue.pop_front() {
                    Some(next) => job = next,
                    None if state.closed => {
                        state.workers -= 1;
                        return;
                    }
                    None => {
                        state.idle.push(seat.clone());
                        break;
                    }
                }
            }
        }
    }

    /// The next job from the seat; `None` when the worker is to end and is no longer counted.
    fn wait(&self, lane: Lane, seat: &Arc<Seat<J>>) -> Option<J> {
        // It yields rather than spins: on a busy machine the core goes to whoever has work.
        let since = Instant::now();
        while seat.order.try_lock().is_none_or(|order| order.is_none()) && since.elapsed() < LINGER {
            thread::yield_now();
        }
        loop {
            let order = {
                let mut order = seat.order.lock();
                seat.given.wait_while_for(&mut order, |order| order.is_none(), IDLE);
                order.take()
            };
            match order {
                Some(Order::Run(job)) => return Some(job),
                Some(Order::Leave) => {
                    self.lane(lane).lock().workers -= 1;
                    return None;
                }
                None => {}
            }
            let mut state = self.lane(lane).lock();
            // A renewal must not depend on whether the system has a thread to give just then.
            if lane == Lane::Renewal && state.workers == 1 {
                continue;
            }
            // Not among the idle: an order is on its way to the seat.
            if let Some(place) = state.idle.iter().position(|idle| Arc::ptr_eq(idle, seat)) {
                state.idle.remove(place);
                state.workers -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

    use super::*;

    struct Gate {
        started: Sender<usize>,
        open: Receiver<()>,
        number: usize,
    }

    impl Job for Gate {
        fn run(self, _: &mut Buffer) {
            self.started.send(self.number).expect("the test listens");
            // Ends when the test drops its end.
            let _ = self.open.recv();
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_full_lane_queues_in_order_refuses_at_the_bound_and_leaves_the_other_lane_alone() {
        let pool = Pool::new();
        let (started, starts) = channel();
        let mut gates = Vec::new();
        let mut gate = |number| {
            let (end, open) = channel();
            gates.push(end);
            Gate { started: started.clone(), open, number }
        };
        for number in 0..64 + QUEUE_MAX {
            assert!(pool.submit(Lane::General, gate(number)).is_ok(), "{number}");
        }
        let refused = pool.submit(Lane::General, gate(64 + QUEUE_MAX));
        assert!(matches!(refused, Err(Refused::QueueFull(Gate { number, .. })) if number == 64 + QUEUE_MAX));
        drop(refused);
        let mut running: Vec<usize> = (0..64).map(|_| starts.recv_timeout(LONG).expect("64 run")).collect();
        running.sort_unstable();
        assert_eq!(running, (0..64).collect::<Vec<_>>());
        assert!(pool.submit(Lane::Renewal, gate(usize::MAX)).is_ok());
        assert_eq!(starts.recv_timeout(LONG).expect("the other lane runs"), usize::MAX);
        // One worker becomes free, and takes the job that has waited longest.
        drop(gates.remove(5));
        assert_eq!(starts.recv_timeout(LONG).expect("a queued job runs"), 64);
        pool.close();
        drop(gates);
        drop(started);
        // Nothing that was still queued has run: all senders go without having sent.
        assert_eq!(starts.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    }

    struct Panics;
    impl Job for Panics {
        fn run(self, _: &mut Buffer) {
            panic!("expected by the test");
        }
    }

    #[test]
    fn panicking_jobs_use_up_no_workers() {
        let pool = Pool::new();
        for _ in 0..200 {
            assert!(pool.submit(Lane::Renewal, Panics).is_ok());
        }
        let settled = (0..6000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            let state = pool.renewal.lock();
            state.queue.is_empty() && state.idle.len() == state.workers
        });
        assert!(settled, "{:?}", pool.renewal.lock().workers);
        let workers = pool.renewal.lock().workers;
        assert!((1..=4).contains(&workers), "{workers}");
        pool.close();
    }

    #[test]
    fn buffers_are_aligned_at_every_size() {
        let mut buffer = Buffer::default();
        for len in [512, 4096, 1 << 20, 1024] {
            let bytes = buffer.bytes(len);
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes.as_ptr().align_offset(4096), 0);
        }
    }
}
