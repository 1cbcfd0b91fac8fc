//! Switches off one rule of the protocol after the other, and shows that the simulator then finds a violation.
//!
//! `cargo run --release --features sim --example mutants` prints for each mutant which property failed, after how many
//! seeds and how long, and fails if one survives. Arguments are the names of rules, to try only those.
//! `LEASEHOLD_SEEDS=n` says after how many seeds a mutant has survived. The few rules that no run of the simulator is
//! about are named, and not tried here.

// A program that talks to people.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use leasehold::sim::{Emphasis, Options, Rule};

/// Several times what the rarest violation needs.
const SEEDS: u64 = 60_000;

/// Rules whose mutants survive nearly all runs but those of one emphasis: only those are run.
const RARE: &[(Rule, Emphasis)] = &[
    (Rule::NumberExceedsAllSeen, Emphasis::LongLife),
    (Rule::LaterInstanceEndsBallot, Emphasis::Damage),
    (Rule::SubmittedCounts, Emphasis::SeveralDisks),
    (Rule::CoverageIsFresh, Emphasis::NewIds),
    (Rule::DamagedIsNotEmpty, Emphasis::Damage),
    (Rule::DamagedIsJudged, Emphasis::Damage),
    (Rule::BurnSkipsInstance, Emphasis::Damage),
    (Rule::ClaimsCount, Emphasis::Damage),
    (Rule::JoinWriteIsPrompt, Emphasis::FewIds),
    (Rule::SameMachineTakes, Emphasis::FewIds),
    (Rule::UnknownIsNobody, Emphasis::Clones),
    (Rule::BoardIsKnown, Emphasis::Clones),
    (Rule::LocksAreShared, Emphasis::Clones),
    (Rule::UnknownBootIsNoReboot, Emphasis::Clones),
    (Rule::BootIsTheMachines, Emphasis::Clones),
    (Rule::OwnRecordIsVerified, Emphasis::FewIds),
    (Rule::NewerIsLive, Emphasis::FewIds),
    (Rule::SupersededByName, Emphasis::FewIds),
    (Rule::RebuildIsJudged, Emphasis::LostLeader),
    (Rule::RebuildSkipsVersions, Emphasis::LostLeader),
    (Rule::DeclarationNamesGeneration, Emphasis::Declared),
    (Rule::DeclaredIdIsNamed, Emphasis::Declared),
    (Rule::DeclaredIsWatched, Emphasis::Declared),
    (Rule::GenerationsJump, Emphasis::Declared),
    (Rule::MendedIsDeclared, Emphasis::Declared),
    (Rule::ResumeInTime, Emphasis::Restarts),
    (Rule::UnconfirmedGivesNothing, Emphasis::Restarts),
    (Rule::DeadlineFromStart, Emphasis::NoMargin),
    (Rule::ConfirmedByLaterRead, Emphasis::NoMargin),
    (Rule::SpansAreStretched, Emphasis::Clocks),
    (Rule::PeersOwnTimeouts, Emphasis::SlowPeers),
    (Rule::ConfirmedByMirror, Emphasis::StaleScans),
    (Rule::MirrorIsRecent, Emphasis::StaleScans),
    (Rule::SightingIsOfThisBoot, Emphasis::SlowPeers),
    (Rule::FlagGivesVersionUp, Emphasis::Modes),
    (Rule::FlagIsChecked, Emphasis::Modes),
    (Rule::UpgradeKeepsFlag, Emphasis::Modes),
    (Rule::VersionIsExpected, Emphasis::Modes),
    (Rule::EarlierClaimsCount, Emphasis::Modes),
    (Rule::HeldIsNotTaken, Emphasis::Modes),
    (Rule::LookedAtInTime, Emphasis::Modes),
    (Rule::OwnerVerifies, Emphasis::Modes),
    (Rule::FencedByBlocks, Emphasis::Modes),
    (Rule::AskingHolds, Emphasis::Handover),
    (Rule::ProposalCedes, Emphasis::Handover),
    (Rule::DestinationAsks, Emphasis::Handover),
    (Rule::WithdrawnInAdvance, Emphasis::Handover),
    (Rule::OnlyWhatIsHandedOver, Emphasis::Handover),
];

/// Rules whose violation no run of the simulator comes to, and the tests that see it without them.
const ELSEWHERE: &[(Rule, &str)] = &[
    (Rule::SanlockIsNotForced, "tests/mutants.rs: a_sanlock_owner_is_overridden"),
    (Rule::NonceIsChecked, "tests/scenarios/formatting.rs"),
    (Rule::FormatWatches, "tests/scenarios/formatting.rs"),
    (Rule::FormatReadsAllIds, "tests/scenarios/formatting.rs"),
    (Rule::FormatIsPrompt, "tests/scenarios/formatting.rs"),
    (Rule::FormatSettles, "tests/scenarios/formatting.rs"),
    (Rule::FormatIsChecked, "tests/scenarios/formatting.rs"),
    (Rule::GenerationsGoOn, "tests/scenarios/formatting.rs"),
    (Rule::VersionsGoOn, "tests/scenarios/formatting.rs"),
    (Rule::DeclarationEndsOne, "tests/scenarios/declared.rs"),
    (Rule::DeclaredHostIsCounted, "tests/scenarios/declared.rs"),
    (Rule::OwnBlockIsLookedAt, "tests/scenarios/looks.rs"),
    (Rule::RivalEndsHold, "tests/scenarios/looks.rs"),
    (Rule::HoldIsNotMadeUp, "tests/scenarios/looks.rs"),
    (Rule::JudgedIsShown, "tests/scenarios/ghosts.rs"),
    (Rule::MadeIsNotCleared, "tests/scenarios/catalog.rs"),
    (Rule::MakingIsRespected, "tests/scenarios/catalog.rs"),
    (Rule::MakingIsMarked, "tests/scenarios/catalog.rs"),
];

fn options(rule: Rule, seed: u64) -> Options {
    match RARE.iter().find(|(rare, _)| *rare == rule) {
        Some((_, emphasis)) => Options::about(seed, Some(*emphasis)),
        None => Options::of_seed(seed),
    }
}

/// The property that fails first without `rule`, at which seed, and after how long.
fn hunt(rule: Rule, seeds: u64) -> Option<(String, u64, Duration)> {
    Rule::switch_off(Some(rule));
    let started = Instant::now();
    let found = (0..seeds).find_map(|seed| Some((options(rule, seed).run().err()?.what, seed)));
    Rule::switch_off(None);
    found.map(|(what, seed)| (what, seed, started.elapsed()))
}

/// The rules with these names, or all.
fn chosen(names: &[String]) -> Result<Vec<Rule>, String> {
    if names.is_empty() {
        return Ok(Rule::ALL.to_vec());
    }
    let rule = |name: &String| Rule::ALL.iter().copied().find(|rule| format!("{rule:?}") == *name);
    names.iter().map(|name| rule(name).ok_or_else(|| format!("no such rule: {name}"))).collect()
}

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let rules = match chosen(&names) {
        Ok(rules) => rules,
        Err(refusal) => {
            println!("{refusal}");
            return ExitCode::FAILURE;
        }
    };
    let seeds = std::env::var("LEASEHOLD_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    // A panic is one way to find a mutant, and is told in the table.
    std::panic::set_hook(Box::new(|_| {}));
    println!("{:<24} {:<8} {:>6} {:>9}  rule, and the violation without it", "mutant", "found by", "seeds", "time");
    let (mut found, mut survivors, mut elsewhere) = (0, 0, 0);
    for rule in rules {
        let name = format!("{rule:?}");
        if let Some((_, test)) = ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == rule) {
            elsewhere += 1;
            println!("{name:<24} not run here               {}", rule.text());
            println!("{:52}{test}", "");
            continue;
        }
        match hunt(rule, seeds) {
            Some((what, seed, took)) => {
                found += 1;
                let property = what.split([':', ' ']).next().unwrap_or_default();
                println!("{name:<24} {property:<8} {:>6} {:>7.2} s  {}", seed + 1, took.as_secs_f64(), rule.text());
                println!("{:52}{what}", "");
            }
            None => {
                survivors += 1;
                println!("{name:<24} SURVIVED {seeds:>6}            {}", rule.text());
            }
        }
    }
    println!("{found} of {} mutants found; {elsewhere} by a scenario, not run here", found + survivors);
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
