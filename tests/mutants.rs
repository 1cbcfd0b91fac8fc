//! The net that the random runs are: without a rule of the protocol they find a violation. All rules are in
//! `examples/mutants.rs`; here are those whose mutant does not live for long.
//!
//! One test, in a program of its own: a rule is switched off for the whole process.

#![allow(clippy::print_stdout)]

use leasehold::sim::{Emphasis, Options, Rule};

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
    (Rule::JoinWaits, None),
    (Rule::FastOnlyAfterReboot, None),
    (Rule::LocalLock, None),
    (Rule::ResumeInTime, Some(Emphasis::Restarts)),
    (Rule::BootTime, None),
    (Rule::PeersOwnTimeouts, Some(Emphasis::SlowPeers)),
    (Rule::NoRemoteTime, None),
    (Rule::ConfirmedByMirror, Some(Emphasis::StaleScans)),
];

#[test]
fn without_a_rule_the_simulator_finds_a_violation() {
    for &(rule, emphasis) in QUICK {
        Rule::switch_off(Some(rule));
        let options = |seed| match emphasis {
            Some(_) => Options::about(seed, emphasis),
            None => Options::of_seed(seed),
        };
        let found = (0..SEEDS).find_map(|seed| options(seed).run().err());
        Rule::switch_off(None);
        let Some(failure) = found else { panic!("{rule:?} is out of force, and {SEEDS} seeds are clean") };
        println!("{rule:?}: seed {}, {}", failure.options.seed, failure.what);
    }
}
