//! The owner of a resource is killed, and another process takes over.
//!
//! `cargo run --example failover` starts three workers that contend for one resource of a new file, kills the one that
//! gets it, and says how long it takes until another one has it. With `-- DEVICE` they contend for the resource
//! `example` of a formatted device; with the profile fast a takeover takes less than a second.

// A program that talks to people.
#![allow(clippy::print_stdout)]

mod common;

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{Device, RESOURCE, open};
use leasehold::{AcquireError, JoinOptions, Lockspace, Version, Wait};

/// How long a worker waits for the resource before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => kill_the_owner(&Device::new()?),
        ["worker", device, name] => work(Path::new(device), name),
        [device] => kill_the_owner(&Device::named(device)?),
        _ => Err("usage: failover [DEVICE]".into()),
    }
}

fn kill_the_owner(device: &Device) -> Result<(), Box<dyn Error>> {
    let longest = open(device.path())?.timeouts().dead() * 3 + Duration::from_secs(20);
    let (sender, owners) = channel();
    let start = |number| Worker::start(number, device, sender.clone());
    let mut workers = (1..=3).map(start).collect::<Result<Vec<_>, _>>()?;

    let first = owners.recv_timeout(longest)?;
    println!("worker {} owns it at version {}, and is killed", first.worker, first.version);
    // Dropped is killed, by SIGKILL.
    workers.retain(|worker| worker.number != first.worker);
    let killed = Instant::now();
    let second = next_owner(&owners, first.worker, longest)?;
    let took = killed.elapsed().as_secs_f64();
    println!("worker {} took over {took:.2} s later, at version {}", second.worker, second.version);
    if second.version <= first.version {
        return Err("the version did not grow".into());
    }
    workers.into_iter().try_for_each(Worker::end)
}

/// The next one that is not `other`.
fn next_owner(owners: &Receiver<Owner>, other: u32, longest: Duration) -> Result<Owner, Box<dyn Error>> {
    loop {
        let owner = owners.recv_timeout(longest)?;
        if owner.worker != other {
            return Ok(owner);
        }
    }
}

/// A worker that has acquired the resource.
struct Owner {
    worker: u32,
    version: Version,
}

/// A process of this program that contends. Killed when it is dropped.
struct Worker {
    number: u32,
    child: Child,
}

impl Worker {
    fn start(number: u32, device: &Device, owners: Sender<Owner>) -> Result<Worker, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("worker").arg(device.path()).arg(format!("worker-{number}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().ok_or("no output")?;
        thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                match line.parse().map(Version::new) {
                    // Nobody listens any more at the end.
                    Ok(version) => drop(owners.send(Owner { worker: number, version })),
                    Err(_) => println!("worker {number}: {line}"),
                }
            }
        });
        Ok(Worker { number, child })
    }

    /// Lets it release what it holds.
    fn end(mut self) -> Result<(), Box<dyn Error>> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("worker {}: {status}", self.number).into()) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Contends until the standard input is closed. Says the version whenever it owns the resource.
fn work(device: &Path, name: &str) -> Result<(), Box<dyn Error>> {
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let lockspace = open(device)?;
    while !ended.load(Ordering::Relaxed) {
        // A machine that stalls costs the membership, as it should. What is lost is acquired anew, not continued.
        if let Err(error) = own(&lockspace, name, &ended) {
            println!("begins again: {error}");
        }
    }
    Ok(())
}

fn own(lockspace: &Lockspace, name: &str, ended: &AtomicBool) -> Result<(), Box<dyn Error>> {
    let membership = lockspace.join(JoinOptions::new().host_name(name))?;
    let resource = lockspace.find(RESOURCE)?;
    while !ended.load(Ordering::Relaxed) {
        let lease = match membership.acquire(&resource, Wait::For(PATIENCE)) {
            Err(AcquireError::Held { .. } | AcquireError::TimedOut { .. }) => continue,
            acquired => acquired?,
        };
        println!("{}", lease.version());
        // Here it would do what the lease is for.
        while lease.is_held() && !ended.load(Ordering::Relaxed) {
            lease.status_change(&lease.status(), PATIENCE);
        }
        lease.release()?;
    }
    Ok(membership.leave()?)
}
