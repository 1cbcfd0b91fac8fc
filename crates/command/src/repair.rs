//! `leasehold repair`

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leasehold::disk::Access;
use leasehold::{Finding, HostId, Lockspace, Membership, RepairError, RepairOptions, Repaired, Resource, Status};
use serde_json::{Value, json};

use crate::failure::{DATA, Failure, IO};
use crate::output::{tell, written};
use crate::prepare::{index_patience, open};
use crate::session::{Identity, Interrupted, Machine, with_membership};
use crate::words::{Target, host_id};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leasehold repair /dev/vg/leases --dry-run
  leasehold repair /dev/vg/leases
  leasehold repair /dev/vg/leases --host 7
  leasehold repair /dev/vg/leases --resource database
  leasehold repair /dev/vg/leases --resource database@3145728
  leasehold repair /dev/vg/leases --index

Says what is damaged and what is done about it, one thing after the other; without --dry-run it joins the \
lockspace and does it. What somebody who may be alive holds or needs is left alone, which may take three times the \
dead time to find out. The record of a host is written with the generation that is known of it, and stays not \
released: `declare-dead` frees the host id, or --fenced at once. A block is written by who holds that host id, so \
a host id that is free is held for a moment; one that is free by `declare-dead` or by a repair only with --fenced. \
--index also lists the resources on the device that lack an entry. Exit code 65 when something is still damaged.")]
pub(crate) struct RepairArgs {
    /// Device with a lockspace
    pub(crate) device: PathBuf,
    /// Only the record of this host, and its blocks
    #[arg(long, value_name = "ID", value_parser = host_id)]
    pub(crate) host: Option<HostId>,
    /// Only the area of this resource: NAME or NAME@OFFSET
    #[arg(long, value_name = "NAME")]
    pub(crate) resource: Option<Target>,
    /// Only the index, which gets an entry for each resource on the device
    #[arg(long)]
    pub(crate) index: bool,
    /// I vouch that the host was fenced: nothing on it acts, and no write of it will reach the device
    #[arg(long, requires = "host")]
    pub(crate) fenced: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

impl RepairArgs {
    /// What is damaged of what is asked for.
    fn findings(&self, lockspace: &Lockspace) -> Result<Vec<Finding>, Failure> {
        // An area that nothing on the device names any more can be named here.
        if let Some(Target { name, offset: Some(offset) }) = &self.resource {
            return Ok(lockspace.examine_area(lockspace.resource_at(name, *offset)?)?);
        }
        Ok(lockspace.examine()?.into_iter().filter(|finding| self.wants(finding)).collect())
    }

    /// Whether it is asked for.
    fn wants(&self, finding: &Finding) -> bool {
        let all = self.host.is_none() && self.resource.is_none() && !self.index;
        let of_resource = |resource: &Resource| {
            self.resource.as_ref().is_some_and(|target| resource.name().to_string() == target.name)
        };
        match finding {
            Finding::HostRecord { host, .. } => all || self.host == Some(*host),
            Finding::Index { .. } => self.index || all && !finding.damages().is_empty(),
            Finding::Block { resource, host, .. } => all || self.host == Some(*host) || of_resource(resource),
            Finding::Leader { resource, .. } | Finding::Request { resource, .. } => all || of_resource(resource),
            _ => all,
        }
    }
}

pub(crate) fn repair(args: &RepairArgs) -> Result<ExitCode, Failure> {
    let access = if args.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let lockspace = open(&args.device, access)?;
    let mut report = Report { json: args.json, lines: Vec::new() };
    let findings = args.findings(&lockspace)?;
    if args.dry_run || findings.is_empty() {
        findings.iter().try_for_each(|finding| report.add(finding, None))?;
        report.end(findings.iter().any(|finding| !finding.damages().is_empty()))?;
        return Ok(ExitCode::SUCCESS);
    }
    with_membership(&lockspace, &Identity::from(&args.machine), |membership, interrupted| {
        repair_all(args, membership, interrupted, findings, report)
    })
}

fn repair_all(
    args: &RepairArgs,
    membership: &Membership,
    interrupted: &Interrupted,
    findings: Vec<Finding>,
    mut report: Report,
) -> Result<(), Failure> {
    // When one thing is whole, more may be seen: the resources that the index lists, above all.
    let (mut rest, mut tried, mut failed) = (findings, Vec::new(), false);
    while !rest.is_empty() {
        for finding in rest {
            let repaired = one(args, membership, interrupted, &finding);
            failed |= repaired.is_err();
            report.add(&finding, Some(&repaired))?;
            tried.push(finding);
            // Nothing more can be repaired, and each would be said to have failed.
            if let Status::Lost { reason } = membership.status() {
                return Err(Failure::from(reason).with_code(IO));
            }
        }
        rest = args.findings(membership.lockspace())?.into_iter().filter(|finding| !tried.contains(finding)).collect();
    }
    report.end(failed)
}

fn one(
    args: &RepairArgs,
    membership: &Membership,
    interrupted: &Interrupted,
    finding: &Finding,
) -> Result<Repaired, Failure> {
    let lockspace = membership.lockspace();
    let options = RepairOptions { wait: index_patience(lockspace), fenced: args.fenced };
    match finding {
        Finding::Block { host, .. } if *host != membership.owner().host => {
            let owner = args.machine.options();
            let owner = if args.fenced { owner.host_id(*host) } else { owner.host_id_unless_declared(*host) };
            let repaired =
                interrupted.with_membership(lockspace, owner, |owner| Ok(owner.repair(finding, options)?))?;
            repaired.ok_or_else(|| Failure::new(IO, "interrupted"))
        }
        _ => Ok(membership.repair(finding, options)?),
    }
}

/// What is told of each finding.
struct Report {
    json: bool,
    lines: Vec<Value>,
}

impl Report {
    fn add(&mut self, finding: &Finding, repaired: Option<&Result<Repaired, Failure>>) -> Result<(), Failure> {
        let damages = finding.damages();
        if self.json {
            let damages: Vec<Value> = damages
                .iter()
                .map(|damage| {
                    json!({ "what": damage.what, "offset": damage.offset, "reason": damage.reason.to_string() })
                })
                .collect();
            self.lines.push(json!({
                "damaged": damages,
                "remedy": finding.remedy(),
                "done": repaired.and_then(|repaired| repaired.as_ref().ok()).map(ToString::to_string),
                "error": repaired.and_then(|repaired| repaired.as_ref().err()).map(ToString::to_string),
            }));
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let told = damages.iter().try_for_each(|damage| writeln!(out, "{damage}"));
        written(told.and_then(|()| match repaired {
            None => writeln!(out, "  would {}", finding.remedy()),
            Some(Ok(repaired)) => writeln!(out, "  {repaired}"),
            Some(Err(failure)) => {
                tell(format_args!("not repaired: {failure}"));
                Ok(())
            }
        }))
    }

    /// Prints what is left to print; a failure when something is still damaged.
    fn end(self, damaged: bool) -> Result<(), Failure> {
        if self.json {
            written(writeln!(io::stdout(), "{:#}", Value::from(self.lines)))?;
        }
        if damaged { Err(Failure::new(DATA, "something is still damaged")) } else { Ok(()) }
    }
}

impl From<RepairError> for Failure {
    fn from(error: RepairError) -> Failure {
        let failure = Failure::of(error.kind(), &error);
        match error {
            RepairError::MayLive { gone_in: Some(span), .. } => {
                failure.hint(format!("if it shows no life it counts as dead in {} ms", span.as_millis()))
            }
            RepairError::Acquire(error) => error.into(),
            RepairError::Own { .. } | RepairError::OtherHost { .. } => {
                failure.hint("do it again: this host joins with another host id then")
            }
            RepairError::Damaged(_) => {
                failure.hint("where an entry and its area are damaged: repair --resource NAME@OFFSET first")
            }
            _ => failure,
        }
    }
}
