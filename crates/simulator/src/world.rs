//! A run from its beginning to its end.

use std::time::Duration;

use leasehold::protocol::rules::Rule;
use leasehold::{HostId, Time};

use super::counters::Counters;
use super::env::{Due, Env, Event, Fenced};
use super::host::{Host, Signal};
use super::storage::Area;
use super::{Faults, Options};

/// A run.
pub(super) struct World {
    env: Env,
    hosts: Vec<Host>,
}

impl World {
    /// A formatted disk, and hosts that are about to start.
    pub(super) fn new(options: Options, traced: bool) -> World {
        let mut env = Env::new(options, traced);
        let count = env.machines.len();
        for host in 0..count {
            env.power_off(host);
            let start = env.random.millis(0, 100);
            if host + 1 < count {
                env.signal_after(host, start, Signal::Start);
            }
        }
        env.upset_later();
        let Faults { rot, rot_leader, wipes, formats, .. } = env.options.faults;
        env.sometime(rot, |env| Event::Rot { offset: env.any_sector() });
        env.sometime(rot_leader, |env| Event::Rot { offset: env.any_area().offset() });
        env.sometime(wipes, |env| Event::Wipe { area: env.any_area() });
        env.sometime(formats, |_| Event::Reformat);
        let quiet_at = Time::ZERO + env.options.duration;
        env.at(quiet_at, Event::Quiet);
        World { env, hosts: (0..count).map(Host::new).collect() }
    }

    pub(super) fn into_trace(self) -> Vec<String> {
        self.env.trace.unwrap_or_default().into()
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<Counters, String> {
        let alone = if self.env.options.faults.formats > 0 { 20 } else { 4 };
        let spans = if self.env.options.lone_end { alone } else { 40 };
        let bound = Time::ZERO + self.env.options.duration + self.env.options.slower.dead() * spans;
        let hosts = self.env.options.hosts;
        // Of a sanlock host nothing is promised.
        let contenders: Vec<usize> = match self.env.options.lone_end {
            true => vec![hosts],
            false => (0..hosts).filter(|host| self.env.sanlock_id(*host).is_none()).collect(),
        };
        while let Some(Due { at, event, .. }) = self.env.queue.pop() {
            self.env.now = at;
            self.handle(event);
            if let Some(me) = self.env.resumed.take() {
                let gone_to = self.hosts.iter_mut().find_map(|host| host.takes_for_gone(&self.env, me));
                self.env.check.resumed(me, gone_to);
            }
            if let Some(failure) = self.env.check.take_failure() {
                return Err(failure);
            }
            if self.env.quiet && contenders.iter().all(|host| self.env.has_acquired(*host)) {
                return Ok(self.env.check.counters());
            }
            if at > bound {
                break;
            }
        }
        let name = if self.env.options.lone_end { "L1" } else { "L2" };
        let stuck: Vec<usize> = contenders.into_iter().filter(|host| !self.env.has_acquired(*host)).collect();
        Err(format!("{name}: hosts {stuck:?} did not acquire after the faults"))
    }

    fn handle(&mut self, event: Event) {
        let env = &mut self.env;
        match event {
            Event::Takes(id) => env.takes(id),
            Event::Completes(id) => env.completes(id),
            Event::TimesOut(id) => env.times_out(id),
            Event::Signal { host, epoch, signal } => {
                if env.machines[host].epoch != epoch {
                    return;
                }
                if env.machines[host].paused {
                    env.machines[host].inbox.push_back((epoch, signal));
                } else {
                    self.hosts[host].handle(env, signal);
                }
            }
            Event::Resume { host, pause } if pause == env.machines[host].pauses => self.resume(host),
            Event::Resume { .. } => {}
            Event::Watchdog { host, epoch } => {
                if env.machines[host].epoch == epoch && self.hosts[host].is_reset(env) {
                    env.trace(|| format!("the watchdog of host {host} fires"));
                    self.restart(host, true);
                }
            }
            Event::Upset => self.upset(),
            Event::Fence { host, hit } => self.fence(host, hit),
            Event::Reformat => self.reformat(),
            Event::Rot { offset } => env.rot(offset),
            Event::Wipe { area } => env.wipe(area),
            Event::Wiped { offset, bytes } => env.wiped(offset, bytes),
            Event::IsKnown { area } => env.check.of(area).is_known(env.now),
            Event::Quiet => self.become_quiet(),
        }
    }

    fn resume(&mut self, host: usize) {
        let env = &mut self.env;
        if !std::mem::take(&mut env.machines[host].paused) {
            return;
        }
        env.trace(|| format!("host {host} runs again"));
        if let Some(since) = env.machines[host].suspended.take()
            && !Rule::BootTime.is_in_force()
        {
            let clock = &mut env.machines[host].clock;
            clock.started = clock.started + env.now.since(since);
        }
        for write in std::mem::take(&mut env.machines[host].stalled) {
            env.resume_write(write);
        }
        while !env.machines[host].paused
            && let Some((epoch, signal)) = env.machines[host].inbox.pop_front()
        {
            if env.machines[host].epoch == epoch {
                self.hosts[host].handle(env, signal);
            }
        }
    }

    fn upset(&mut self) {
        let env = &mut self.env;
        if env.quiet {
            return;
        }
        let host = env.random.below(env.options.hosts as u64) as usize;
        env.check.counters.upsets += 1;
        match env.random.below(4) {
            _ if env.random.chance(env.options.faults.stale) => {
                env.trace(|| format!("host {host} scans a stale copy from now on, or no more"));
                let machine = &mut env.machines[host];
                machine.stale = if machine.stale.is_some() { None } else { Some(Box::new(env.storage.copy())) };
            }
            _ if env.has_index() && env.random.chance(env.options.faults.deletes) => {
                let area = Area::of_resource(env.random.below(env.options.places as u64) as usize);
                if !self.hosts.iter().any(|host| host.uses(area)) {
                    env.delete(area);
                }
            }
            0 => self.restart(host, false),
            1 => self.restart(host, true),
            _ if !env.machines[host].paused => env.pause(host),
            _ => {}
        }
        self.env.upset_later();
    }

    /// An operator has the hosts stopped, as he believes, and formats the device again.
    fn reformat(&mut self) {
        let (hosts, dead) = (self.env.options.hosts, self.env.options.timeouts.dead());
        if self.env.quiet {
            return;
        }
        let operator = self.env.random.below(hosts as u64) as usize;
        for host in (0..hosts).filter(|host| *host != operator) {
            let env = &mut self.env;
            match env.random.below(10) {
                0 => self.restart(host, false),
                1..6 => {
                    env.kill(host);
                    self.hosts[host].process_is_gone();
                    let rest = env.random.span(Duration::ZERO, dead * 6);
                    env.signal_after(host, rest, Signal::Start);
                }
                6..9 if !env.machines[host].paused => {
                    let span = env.random.span(dead / 2, dead * 4);
                    env.pause_for(host, span);
                }
                _ => {}
            }
        }
        let env = &mut self.env;
        env.kill(operator);
        self.hosts[operator].process_is_gone();
        self.hosts[operator].formats_next();
        env.signal_after(operator, Duration::ZERO, Signal::Start);
    }

    /// What made a write hang damages what it hit as often as what its machine wrote.
    fn fence(&mut self, host: usize, hit: HostId) {
        self.env.trace(|| format!("host {host} is fenced, whose join has hit {hit}"));
        if self.env.random.chance(self.env.options.faults.rot_killed) {
            let offset = self.env.any_area().block_at(hit);
            self.env.rot(offset);
        }
        self.restart(host, true);
    }

    fn restart(&mut self, host: usize, power: bool) {
        let env = &mut self.env;
        // Where nobody resumes nothing is drawn for it: those runs stay what they are.
        let resumes = env.options.resumes;
        // Where its daemon is gone, the watchdog of a sanlock host resets it.
        let power = power || env.sanlock_id(host).is_some();
        let resumes = !power && resumes > 0 && env.random.chance(resumes) && self.hosts[host].leaves_token();
        let gone = if power { env.on_machine_of(host) } else { vec![host] };
        for host in gone {
            env.kill(host);
            if power {
                env.power_off(host);
                let held = self.hosts[host].latest();
                env.fenced.extend(held.map(|owner| Fenced { owner, left_by: None }));
                env.fenced_as_shown(host);
                env.rot_record(self.hosts[host].latest());
            }
            if let Some(id) = self.hosts[host].id()
                && env.random.chance(env.options.faults.rot_killed)
            {
                let offset = env.any_area().block_at(id);
                env.rot(offset);
            }
            self.hosts[host].process_is_gone();
            // Soon enough to be in time more often than not.
            let most = if resumes { env.options.timeouts.fail() * 3 / 4 } else { env.options.timeouts.dead() * 2 };
            let rest = env.random.span(Duration::ZERO, most);
            env.signal_after(host, rest, Signal::Start);
        }
    }

    /// The faults are over.
    fn become_quiet(&mut self) {
        self.env.trace(|| "faults are over".into());
        self.env.quiet = true;
        for machine in &mut self.env.machines {
            machine.stale = None;
        }
        // What a live sanlock host has left in its block of a ballot that it lost may be in the way for as long as it
        // lives.
        let lone_end = self.env.options.lone_end;
        for host in 0..self.env.options.hosts {
            if lone_end || self.env.sanlock_id(host).is_some() {
                self.env.kill(host);
                self.env.power_off(host);
                self.hosts[host].process_is_gone();
            }
        }
        if lone_end {
            self.env.signal_after(self.env.options.hosts, Duration::ZERO, Signal::Start);
            return;
        }
        // What is in flight ends within T, in the order in which it would have ended.
        let queue = std::mem::take(&mut self.env.queue);
        let (now, io) = (self.env.now, self.env.options.timeouts.io());
        self.env.queue.extend(queue.into_iter().map(|due| {
            let soon = matches!(due.event, Event::Takes(_) | Event::Completes(_) | Event::Resume { .. });
            let at = if soon { due.at.min(now + io) } else { due.at };
            Due { at, ..due }
        }));
    }
}
