//! A host: a process that contends for the resources, and writes down what it does.

use std::fmt::{Debug, Display};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leasehold::disk::{Access, DirectDisk};
use leasehold::{
    AcquireError, HostId, JoinOptions, Lease, Lockspace, LossReason, Membership, ReleaseError, Resource, Status, Wait,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{RESOURCES, nanos};
use crate::common::boottime;

pub(super) struct Host {
    pub(super) index: usize,
    /// `None`: any.
    pub(super) id: Option<HostId>,
    pub(super) node: PathBuf,
    pub(super) journal: File,
    pub(super) stop: PathBuf,
}

impl Host {
    fn say(&self, what: impl Display) {
        // In one piece: then it stands in one place, and is there whole or not at all when this process is killed.
        let line = format!("{} {what}\n", self.index);
        assert_eq!((&self.journal).write(line.as_bytes()).unwrap(), line.len());
    }

    /// The kind of a failure, and what it says.
    fn trouble(&self, error: impl Debug + Display) {
        let kind = format!("{error:?}");
        let kind = kind.split([' ', '(', '{']).next().unwrap_or_default();
        self.say(format_args!("trouble {kind} {}", error.to_string().replace('\n', " ")));
    }

    fn is_over(&self) -> bool {
        self.stop.exists()
    }

    /// Is a member of the lockspace again and again.
    pub(super) fn live(&self, random: &mut StdRng) {
        while !self.is_over() {
            self.be_member(random);
            thread::sleep(Duration::from_millis(random.random_range(10..100)));
        }
    }

    fn be_member(&self, random: &mut StdRng) {
        let disk = match DirectDisk::open(&self.node, Access::ReadWrite) {
            Ok(disk) => Arc::new(disk),
            Err(error) => return self.trouble(error),
        };
        let lockspace = match Lockspace::open(disk) {
            Ok(lockspace) => lockspace,
            Err(error) => return self.trouble(error),
        };
        let mut resources = Vec::new();
        for name in RESOURCES {
            match lockspace.find(name) {
                Ok(resource) => resources.push(resource),
                Err(error) => return self.trouble(error),
            }
        }
        let options = JoinOptions::new().host_name(format!("host-{}", self.index));
        let options = self.id.into_iter().fold(options, JoinOptions::host_id);
        let membership = match lockspace.join(options) {
            Ok(membership) => membership,
            Err(error) => return self.trouble(error),
        };
        let owner = membership.owner();
        self.say(format_args!("joined {} {}", owner.host, owner.generation));
        let end = boottime() + nanos(Duration::from_millis(random.random_range(2_000..20_000)));
        thread::scope(|scope| {
            for (number, resource) in resources.iter().enumerate() {
                let mut random = StdRng::seed_from_u64(random.random());
                let membership = &membership;
                scope.spawn(move || self.contend(membership, number, resource, end, &mut random));
            }
        });
        if let Err(error) = membership.leave() {
            self.trouble(error);
        }
    }

    fn contend(&self, membership: &Membership, number: usize, resource: &Resource, end: u64, random: &mut StdRng) {
        while boottime() < end && !self.is_over() {
            let wait = match random.random_range(0..4) {
                0 => Wait::No,
                _ => Wait::For(Duration::from_millis(random.random_range(100..1_500))),
            };
            match membership.acquire(resource, wait) {
                Ok(lease) => self.hold(lease, number, random),
                Err(AcquireError::Lost(reason)) => return self.trouble(reason),
                // They say no more than that another one was first.
                Err(AcquireError::Held { .. }) => {}
                Err(error) => self.trouble(error),
            }
            thread::sleep(Duration::from_millis(random.random_range(1..20)));
        }
    }

    fn hold(&self, lease: Lease, number: usize, random: &mut StdRng) {
        let this = format!("{number} {}", lease.version());
        let span = Duration::from_millis(match random.random_range(0..10) {
            0..3 => random.random_range(500..3_000),
            3..6 => random.random_range(50..500),
            _ => random.random_range(0..20),
        });
        let acquired = boottime();
        let mut status = lease.status();
        // Stopped in between, say: what was acquired is lost already.
        let Some(mut known) = deadline(&status) else { return self.say("trouble LostAtOnce") };
        let owner = lease.owner();
        self.say(format_args!("acquired {this} {} {} {acquired} {known}", owner.host, owner.generation));
        while lease.is_held() {
            self.say(format_args!("write {this}"));
            if lease.is_held() {
                self.say(format_args!("wrote {this}"));
            }
            let now = boottime();
            if now >= acquired + nanos(span) {
                break;
            }
            let left = Duration::from_nanos(acquired + nanos(span) - now);
            status = lease.status_change(&status, left.min(Duration::from_millis(20)));
            if let Some(deadline) = deadline(&status).filter(|deadline| *deadline != known) {
                known = deadline;
                self.say(format_args!("until {this} {known}"));
            }
        }
        let released = boottime();
        if let Status::Lost { reason } = lease.status() {
            self.say(format_args!("lost {this}"));
            let alone = matches!(reason, LossReason::Unverified { .. } | LossReason::Fenced(_));
            self.trouble(reason);
            // A write that was on its way when it was lost: the larger version must keep it out.
            self.say(format_args!("late {this}"));
            // What is lost alone is given back as soon as its holder has stopped; that is now, and not G later.
            if alone {
                self.say(format_args!("releasing {this} {}", boottime()));
            }
            return;
        }
        self.say(format_args!("releasing {this} {released}"));
        if random.random_range(0..8) == 0 {
            return drop(lease);
        }
        match lease.release() {
            Ok(()) => {}
            Err(ReleaseError::Lost(reason)) => self.trouble(reason),
            Err(error) => self.trouble(error),
        }
    }
}

fn deadline(status: &Status) -> Option<u64> {
    match status {
        Status::Held { until } | Status::Late { until } => Some(until.as_nanos()),
        Status::Lost { .. } => None,
    }
}
