//! Tries the mutants, one after the other on each processor.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use leasehold::protocol::rules::Rule;
use leasehold_simulator::{Emphasis, Options};

/// Several times what the rarest violation needs.
const SEEDS: u64 = 150_000;

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
    (Rule::DeclarationEndsOne, Emphasis::FencedJoins),
    (Rule::FailedJoinIsCounted, Emphasis::FencedJoins),
    (Rule::DeclaredHostIsCounted, Emphasis::FencedJoins),
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
    (Rule::NewcomersAreUnseen, Emphasis::NewTakers),
    (Rule::AskingHolds, Emphasis::Handover),
    (Rule::ProposalCedes, Emphasis::Handover),
    (Rule::DestinationAsks, Emphasis::Handover),
    (Rule::WithdrawnInAdvance, Emphasis::Handover),
    (Rule::OnlyWhatIsHandedOver, Emphasis::Handover),
    (Rule::MadeIsNotCleared, Emphasis::Catalog),
    (Rule::MakingIsRespected, Emphasis::Catalog),
    (Rule::MakingIsMarked, Emphasis::Catalog),
    (Rule::OwnBlockIsLookedAt, Emphasis::Wiped),
    (Rule::RivalEndsHold, Emphasis::Wiped),
    (Rule::HoldIsNotMadeUp, Emphasis::Wiped),
    (Rule::JudgedIsShown, Emphasis::Wiped),
    (Rule::ValueIsSettled, Emphasis::Messages),
    (Rule::RequestIsLater, Emphasis::Messages),
    (Rule::EventIsForUs, Emphasis::Messages),
    (Rule::SanlockIsNotForced, Emphasis::BesideSanlock),
    (Rule::NonceIsChecked, Emphasis::Reformatted),
    (Rule::FormatWatches, Emphasis::Reformatted),
    (Rule::FormatReadsAllIds, Emphasis::Reformatted),
    (Rule::FormatIsPrompt, Emphasis::Reformatted),
    (Rule::FormatSettles, Emphasis::Reformatted),
    (Rule::FormatIsChecked, Emphasis::Reformatted),
    (Rule::GenerationsGoOn, Emphasis::Reformatted),
    (Rule::VersionsGoOn, Emphasis::Reformatted),
    (Rule::BlankHasNonce, Emphasis::Reformatted),
    (Rule::BlankHasVersion, Emphasis::Reformatted),
    (Rule::LostIsPassedOver, Emphasis::Reformatted),
    (Rule::TwoRecordsCommit, Emphasis::Reformatted),
    (Rule::PiecesAreSmall, Emphasis::Reformatted),
    (Rule::StrangerIsNotFree, Emphasis::Reformatted),
    (Rule::VersionIsNoted, Emphasis::Resized),
    (Rule::LockspaceStands, Emphasis::Reformatted),
];

/// Rules whose mutants live longest: they are tried first, so that all processors are busy to the end.
const LONGEST: &[Rule] = &[
    Rule::BlankHasVersion,
    Rule::StrangerIsNotFree,
    Rule::RivalEndsHold,
    Rule::UnconfirmedGivesNothing,
    Rule::LocksAreShared,
    Rule::NewcomersAreUnseen,
    Rule::LockspaceStands,
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

/// Tries to find the mutant without `rule`: whether it was found, and what there is to tell of that.
fn tried(rule: Rule, seeds: u64) -> (bool, String) {
    let (name, text) = (format!("{rule:?}"), rule.text());
    match hunt(rule, seeds) {
        Some((what, seed, took)) => {
            let (property, took) = (what.split([':', ' ']).next().unwrap_or_default(), took.as_secs_f64());
            let told = format!("{name:<24} {property:<8} {:>6} {took:>7.2} s  {text}\n{:52}{what}", seed + 1, "");
            (true, told)
        }
        None => (false, format!("{name:<24} SURVIVED {seeds:>6}            {text}")),
    }
}

/// The rules with these names, or all.
fn chosen(names: &[String]) -> Result<Vec<Rule>, String> {
    if names.is_empty() {
        let (longest, others): (Vec<_>, Vec<_>) = Rule::ALL.iter().partition(|rule| LONGEST.contains(rule));
        return Ok([longest, others].concat());
    }
    let rule = |name: &String| Rule::ALL.iter().copied().find(|rule| format!("{rule:?}") == *name);
    names.iter().map(|name| rule(name).ok_or_else(|| format!("no such rule: {name}"))).collect()
}

/// Tries those of the rules with these names, or all: success if every mutant is found.
pub(super) fn run(names: &[String]) -> ExitCode {
    let rules = match chosen(names) {
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
    let queue = Mutex::new(rules.into_iter());
    let (found, survivors) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some(rule) = next() {
            let (is_found, told) = tried(rule, seeds);
            println!("{told}");
            let count = if is_found { &found } else { &survivors };
            count.fetch_add(1, Relaxed);
        }
    };
    thread::scope(|scope| {
        (0..thread::available_parallelism().map_or(1, usize::from)).for_each(|_| drop(scope.spawn(work)))
    });
    let (found, survivors) = (found.into_inner(), survivors.into_inner());
    println!("{found} of {} mutants found", found + survivors);
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
