//! Holds a lease for a while, and says what becomes of it.
//!
//! `cargo run --example holder -- DEVICE NAME [SECONDS]` acquires the resource NAME of a formatted device; start it
//! twice to see the second one wait. Without arguments it does the same on a disk in memory.

// A program that talks to people.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::disk::{Access, DirectDisk, Disk, MemoryDisk};
use leasehold::{FindError, FormatOptions, JoinOptions, Lease, Lockspace, Profile, Status, Wait};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (lockspace, name, seconds) = match arguments.as_slice() {
        [] => (in_memory()?, "demo", 1),
        [device, name] => (on_device(device)?, name.as_str(), 10),
        [device, name, seconds] => (on_device(device)?, name.as_str(), seconds.parse()?),
        _ => return Err("usage: holder [DEVICE NAME [SECONDS]]".into()),
    };
    // Called by a thread that storage can't hold up: the place to begin stopping what the lease protects.
    let options = JoinOptions::new().on_status(|status| match status {
        Status::Held { .. } => {}
        Status::Late { .. } => println!("the renewal is late: prepare to stop"),
        Status::Lost { reason } => println!("lost: {reason}"),
    });
    let membership = lockspace.join(options)?;
    println!("joined {} as host {}", lockspace.name(), membership.owner().host);

    let resource = match lockspace.find(name) {
        Err(FindError::NotFound { .. }) => membership.create(name, Wait::For(lockspace.timeouts().dead() * 2))?,
        found => found?,
    };
    let lease = membership.acquire(&resource, Wait::For(Duration::from_secs(30)))?;
    println!("acquired {name}, version {}: send it with everything that the lease protects", lease.version());
    hold(&lease, Duration::from_secs(seconds));

    if lease.is_held() {
        // What the lease protects has stopped.
        lease.release()?;
        membership.leave()?;
        println!("released");
    }
    Ok(())
}

fn hold(lease: &Lease, span: Duration) {
    let end = Instant::now() + span;
    let mut status = lease.status();
    let mut renewals = 0;
    while Instant::now() < end && lease.is_held() {
        let now = lease.status_change(&status, end.saturating_duration_since(Instant::now()));
        renewals += u32::from(matches!(now, Status::Held { .. }) && now != status);
        status = now;
    }
    println!("renewed {renewals} times; without another renewal it would last for {:?}", lease.remaining());
}

fn on_device(path: &str) -> Result<Lockspace, Box<dyn Error>> {
    Ok(Lockspace::open(Arc::new(DirectDisk::open(path, Access::ReadWrite)?))?)
}

fn in_memory() -> Result<Lockspace, Box<dyn Error>> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(8 << 20, None));
    let options = FormatOptions { timeouts: Profile::Fast.timeouts(), ..FormatOptions::default() };
    leasehold::format(disk.clone(), &options)?;
    Ok(Lockspace::open(disk)?)
}
