//! A program moves from one process to another while both run, as a virtual machine does.
//!
//! `cargo run --example handover` starts two hosts, each in a process of its own, and has the lease on a counter go to
//! and fro between them. Only its owner counts. With `-- DEVICE` they use the resource `example` of a formatted device.

// A program that talks to people.
#![allow(clippy::print_stdout)]

mod common;

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use common::{Device, RESOURCE, open};
use leasehold::{HostId, JoinOptions, Lease, Wait};

const MOVES: usize = 6;
/// Of whoever waits for the other side.
const PATIENCE: Wait = Wait::For(Duration::from_secs(60));

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show(&Device::new()?),
        ["host", device, counter] => be_a_host(Path::new(device), Path::new(counter)),
        [device] => show(&Device::named(device)?),
        _ => Err("usage: handover [DEVICE]".into()),
    }
}

fn show(device: &Device) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let counter = folder.path().join("counter");
    fs::write(&counter, "0")?;
    let mut hosts = [Host::start(device, &counter)?, Host::start(device, &counter)?];
    hosts[0].say("acquire")?;
    hosts[0].hear()?;
    let mut before = 0;
    for _ in 0..MOVES {
        thread::sleep(Duration::from_millis(100));
        let to = hosts[1].id.clone();
        hosts[1].say("receive")?;
        hosts[0].say(&format!("hand over {to}"))?;
        hosts.iter_mut().try_for_each(Host::hear)?;
        let counted: u64 = fs::read_to_string(&counter)?.parse()?;
        println!("  the counter is at {counted}");
        if counted <= before {
            return Err("nobody counted".into());
        }
        before = counted;
        hosts.swap(0, 1);
    }
    hosts.into_iter().try_for_each(Host::end)
}

/// A host as the program that shows sees it.
struct Host {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    id: String,
}

impl Host {
    fn start(device: &Device, counter: &Path) -> Result<Host, Box<dyn Error>> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([Path::new("host"), device.path(), counter])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().ok_or("no pipe")?;
        let mut answers = BufReader::new(process.stdout.take().ok_or("no pipe")?).lines();
        let id = answers.next().ok_or("the host is gone")??;
        Ok(Host { process, orders, answers, id })
    }

    fn say(&mut self, order: &str) -> Result<(), Box<dyn Error>> {
        Ok(writeln!(self.orders, "{order}")?)
    }

    /// Says what the host has to say.
    fn hear(&mut self) -> Result<(), Box<dyn Error>> {
        let answer = self.answers.next().ok_or("the host is gone")??;
        println!("host {} {answer}", self.id);
        Ok(())
    }

    fn end(mut self) -> Result<(), Box<dyn Error>> {
        drop(self.orders);
        match self.process.wait()?.success() {
            true => Ok(()),
            false => Err("a host failed".into()),
        }
    }
}

/// Joins, says its host id, and does as it is told until its input ends.
fn be_a_host(device: &Path, counter: &Path) -> Result<(), Box<dyn Error>> {
    let membership = open(device)?.join(JoinOptions::new())?;
    println!("{}", membership.owner().host);
    let resource = membership.lockspace().find(RESOURCE)?;
    let mut program = None;
    for order in std::io::stdin().lines() {
        let order = order?;
        match order.split_once(" over ") {
            None => {
                // A destination runs nothing before this returns.
                let lease = match order.as_str() {
                    "receive" => membership.receive(&resource, PATIENCE)?,
                    _ => membership.acquire(&resource, PATIENCE)?,
                };
                println!("owns version {}", lease.version());
                program = Some((Program::start(counter), lease));
            }
            Some((_, to)) => {
                let (running, lease): (Program, Lease) = program.take().ok_or("nothing runs here")?;
                let to = HostId::new(to.parse()?).ok_or("no host id")?;
                // The program goes on while the destination is not there yet.
                let to = lease.prepare_handover(to, PATIENCE)?;
                running.stop()?;
                let handover = lease.hand_over(to, PATIENCE)?;
                handover.finish(PATIENCE)?;
                println!("has handed it over");
            }
        }
    }
    if let Some((running, lease)) = program {
        running.stop()?;
        lease.release()?;
    }
    Ok(membership.leave()?)
}

/// What the lease protects: something that counts, and would lose counts if two did.
struct Program {
    thread: thread::JoinHandle<std::io::Result<()>>,
    stop: std::sync::mpsc::Sender<()>,
}

impl Program {
    fn start(counter: &Path) -> Program {
        let counter = counter.to_path_buf();
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(5)) {
                let count: u64 = fs::read_to_string(&counter)?.parse().map_err(std::io::Error::other)?;
                let next = counter.with_extension("next");
                fs::write(&next, (count + 1).to_string())?;
                fs::rename(next, &counter)?;
            }
            Ok(())
        });
        Program { thread, stop }
    }

    fn stop(self) -> Result<(), Box<dyn Error>> {
        drop(self.stop);
        Ok(self.thread.join().map_err(|_| "the program panicked")??)
    }
}
