//! A fencing token: the write of an owner that was paused for too long is refused by what the lease protects.
//!
//! `cargo run --example fencing_token` lets a process acquire a lease and be paused at the worst moment: after
//! it has made sure that it holds the lease, before it writes. Another one takes over and writes. The first one goes
//! on, knows nothing yet, and writes too, with its old version: refused. With `-- DEVICE` they use the resource
//! `example` of a formatted device.

// A program that talks to people.
#![allow(clippy::print_stdout)]

mod common;

use std::error::Error;
use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::{Device, RESOURCE, open};
use leasehold::{JoinOptions, Version, Wait};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

/// What the lease protects. It keeps the largest version that it was ever given, in real life as durably as the rest.
#[derive(Default)]
struct Protected {
    largest: Version,
    written: Vec<String>,
}

impl Protected {
    fn write(&mut self, token: Version, text: &str) -> Result<(), Version> {
        if token < self.largest {
            return Err(self.largest);
        }
        self.largest = token;
        self.written.push(text.into());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => pause_the_owner(&Device::new()?),
        ["writer", device, name] => write_as_owner(Path::new(device), name),
        [device] => pause_the_owner(&Device::named(device)?),
        _ => Err("usage: fencing_token [DEVICE]".into()),
    }
}

fn pause_the_owner(device: &Device) -> Result<(), Box<dyn Error>> {
    let mut protected = Protected::default();
    let mut early = Writer::start(device, "early")?;
    early.wait_until_paused()?;
    println!("the first owner is paused, just before it writes");

    let mut late = Writer::start(device, "late")?;
    late.wait_until_paused()?;
    println!("its lease has run out, and another host has taken it over");
    let accepted = late.go_on(&mut protected)?;
    let refused = !early.go_on(&mut protected)?;
    match (accepted, refused, protected.written.join(",").as_str()) {
        (true, true, "late") => Ok(()),
        (.., written) => Err(format!("the wrong one has written: {written}").into()),
    }
}

/// A process of this program that acquires, pauses and writes. Killed when it is dropped.
struct Writer {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    hears: ChildStdin,
}

impl Writer {
    fn start(device: &Device, name: &str) -> Result<Writer, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("writer").arg(device.path()).arg(name);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let says = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let hears = child.stdin.take().ok_or("no input")?;
        Ok(Writer { child, says, hears })
    }

    fn pid(&self) -> Result<Pid, Box<dyn Error>> {
        Ok(Pid::from_raw(self.child.id().try_into()?).ok_or("no process")?)
    }

    /// It stops itself, in the place of a long garbage collection or a swapping machine.
    fn wait_until_paused(&self) -> Result<(), Box<dyn Error>> {
        match waitpid(Some(self.pid()?), WaitOptions::UNTRACED)? {
            Some((_, status)) if status.stopped() => Ok(()),
            _ => Err("it has not acquired the lease".into()),
        }
    }

    /// Lets it write, and says whether that was accepted.
    fn go_on(&mut self, protected: &mut Protected) -> Result<bool, Box<dyn Error>> {
        kill_process(self.pid()?, Signal::CONT)?;
        let line = self.says.next().ok_or("it has not written")??;
        let (token, text) = line.split_once(' ').ok_or("it has no token")?;
        let token = Version::new(token.parse()?);
        let result = protected.write(token, text);
        match result {
            Ok(()) => println!("{text} writes with version {token}: accepted"),
            Err(largest) => println!("{text} writes with version {token}: refused, version {largest} has been here"),
        }
        writeln!(self.hears, "{}", if result.is_ok() { "accepted" } else { "refused" })?;
        match self.child.wait()? {
            status if status.success() => Ok(result.is_ok()),
            status => Err(format!("{text}: {status}").into()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // One that has ended needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_as_owner(device: &Path, name: &str) -> Result<(), Box<dyn Error>> {
    let lockspace = open(device)?;
    let membership = lockspace.join(JoinOptions::new().host_name(name))?;
    let resource = lockspace.find(RESOURCE)?;
    let lease = membership.acquire(&resource, Wait::For(lockspace.timeouts().dead() * 5))?;
    if lease.is_held() {
        kill_process(getpid(), Signal::STOP)?;
        // For this process no time has passed.
        println!("{} {name}", lease.version());
    }
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    match (answer.trim(), lease.is_held()) {
        ("accepted", true) => lease.release()?,
        ("refused", false) => return Ok(()),
        (answer, held) => return Err(format!("{answer} though held is {held}").into()),
    }
    Ok(membership.leave()?)
}
