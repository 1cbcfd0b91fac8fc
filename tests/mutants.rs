//! The net that the random runs are: without a rule of the protocol they find a violation. All rules are in
//! `examples/mutants.rs`; here are those whose mutant does not live for long, and those that need a scenario.
//!
//! A rule is switched off for the thread of the test.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "common/values.rs"]
mod values;
#[allow(dead_code)] // The scenarios use all of it.
#[path = "scenarios/world.rs"]
mod world;

use leasehold::Version;
use leasehold::protocol::resource::Outcome;
use leasehold::sim::{Emphasis, Options, Rule};

use world::{A, B, World, forced, owner};

/// Several times what each of these needed when this was written.
const SEEDS: u64 = 400;

/// Rules whose mutants are found in any runs, or in those with an emphasis.
const QUICK: &[(Rule, Option<Emphasis>)] = &[
    (Rule::AcceptedValueStays, None),
    (Rule::ReleaseStays, None),
    (Rule::LargestAcceptedWins, None),
    (Rule::OneWriteInFlight, None),
    (Rule::DamagedIsNotEmpty, Some(Emphasis::Damage)),
    (Rule::GivenUpIsNotHeld, None),
    (Rule::InstanceFromBlocks, None),
    (Rule::ReleaseIsDurable, None),
    (Rule::ReleasedFlagFrees, None),
    (Rule::RebuildIsJudged, Some(Emphasis::LostLeader)),
    (Rule::RebuildSkipsVersions, Some(Emphasis::LostLeader)),
    (Rule::SharersCount, None),
    (Rule::FlagIsChecked, Some(Emphasis::Modes)),
    (Rule::UpgradeKeepsFlag, Some(Emphasis::Modes)),
    (Rule::VersionIsExpected, Some(Emphasis::Modes)),
    (Rule::OwnerVerifies, Some(Emphasis::Modes)),
    (Rule::JudgedIsProven, None),
    (Rule::JudgedClaimsAreOver, None),
    (Rule::OwnBlockIsLookedAt, Some(Emphasis::Wiped)),
    (Rule::HoldIsNotMadeUp, Some(Emphasis::Wiped)),
    (Rule::AskingHolds, Some(Emphasis::Handover)),
    (Rule::ProposalCedes, Some(Emphasis::Handover)),
    (Rule::DestinationAsks, Some(Emphasis::Handover)),
    (Rule::OnlyWhatIsHandedOver, Some(Emphasis::Handover)),
    (Rule::JoinWaits, None),
    (Rule::FastOnlyAfterReboot, None),
    (Rule::LocalLock, None),
    (Rule::UnknownIsNobody, Some(Emphasis::Clones)),
    (Rule::ResumeInTime, Some(Emphasis::Restarts)),
    (Rule::BootTime, None),
    (Rule::PeersOwnTimeouts, Some(Emphasis::SlowPeers)),
    (Rule::NoRemoteTime, None),
    (Rule::ConfirmedByMirror, Some(Emphasis::StaleScans)),
    (Rule::SightingIsOfSameRecord, None),
];

#[test]
fn without_a_rule_a_violation_is_found() {
    for &(rule, emphasis) in QUICK {
        let options = |seed| match emphasis {
            Some(_) => Options::about(seed, emphasis),
            None => Options::of_seed(seed),
        };
        let found = without(rule, || (0..SEEDS).find_map(|seed| options(seed).run().err()));
        let Some(failure) = found else { panic!("{rule:?} is out of force, and {SEEDS} seeds are clean") };
        println!("{rule:?}: seed {}, {}", failure.options.seed, failure.what);
    }
    // The simulator has no sanlock hosts.
    without(Rule::SanlockIsNotForced, a_sanlock_owner_is_overridden);
}

fn without<T>(rule: Rule, run: impl FnOnce() -> T) -> T {
    Rule::switch_off(Some(rule));
    let answer = run();
    Rule::switch_off(None);
    answer
}

/// It still runs what the lease protects, and goes on.
fn a_sanlock_owner_is_overridden() {
    let mut world = World::of_a_sanlock_owner();
    let mut b = world.acquire_as(B, forced(1));
    assert_eq!(world.end(&mut b), Outcome::Held(Version::new(2)));
    assert!(b.operation.overridden().contains(&owner(A, 1)));
}
