//! Random runs of the simulator. `LEASEHOLD_SEED=n` replays one; `LEASEHOLD_SEEDS=n` and `LEASEHOLD_SEED_START=n` say
//! how many there are, and which is the first; `LEASEHOLD_EMPHASIS=Name properties_hold_with_an_emphasis` runs those of
//! one emphasis. After a change of the protocol, many that nobody has run before:
//!
//! `LEASEHOLD_SEEDS=100000 LEASEHOLD_SEED_START=5000000 cargo test --release --test simulation properties`

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use leasehold_simulator::{Counters, Emphasis, Options};

/// Enough for every counter below to reach what is asked of it, with room.
const SEEDS: u64 = 800;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs as many seeds as the environment or the default says.
fn run_all(default: u64, options: impl Fn(u64) -> Options) -> Counters {
    run_these(from_environment("LEASEHOLD_SEEDS").unwrap_or(default), options)
}

/// Runs so many seeds, or the one that the environment says.
fn run_these(count: u64, options: impl Fn(u64) -> Options) -> Counters {
    let start = from_environment("LEASEHOLD_SEED_START").unwrap_or(0);
    let seeds = from_environment("LEASEHOLD_SEED").map_or(start..start + count, |seed| seed..seed + 1);
    let mut sum = Counters::default();
    for seed in seeds {
        sum += options(seed).run().unwrap_or_else(|failure| panic!("\n{failure}"));
    }
    println!("{sum:#?}");
    sum
}

/// Whether the counters are those of the default runs.
fn is_default() -> bool {
    from_environment("LEASEHOLD_SEED").or(from_environment("LEASEHOLD_SEEDS")).is_none()
}

#[test]
fn properties_hold_under_random_faults() {
    let sum = run_all(SEEDS, Options::of_seed);
    if !is_default() {
        return;
    }
    // The runs are worth something only if what the rules are for did happen.
    assert!(sum.held > 5_000 && sum.released > 5_000, "{sum:#?}");
    assert!(sum.takeovers > 200, "{sum:#?}");
    assert!(sum.adoptions > 200, "{sum:#?}");
    assert!(sum.regressions > 30 && sum.repairs > 50, "{sum:#?}");
    assert!(sum.late_landings > 500, "{sum:#?}");
    assert!(sum.burns > 50, "{sum:#?}");
    assert!(sum.joins > 1_000 && sum.refusals > 500 && sum.losses > 200, "{sum:#?}");
    assert!(sum.rebuilds > 100, "{sum:#?}");
    assert!(sum.declared > 5, "{sum:#?}");
    assert!(sum.without > 1_000, "{sum:#?}");
    assert!(sum.shared > 1_000 && sum.forced > 10 && sum.fenced > 15, "{sum:#?}");
}

/// `LEASEHOLD_EMPHASIS=Name` runs seeds of one emphasis.
#[test]
fn properties_hold_with_an_emphasis() {
    let Ok(name) = std::env::var("LEASEHOLD_EMPHASIS") else { return };
    let emphasis = Emphasis::ALL.iter().copied().find(|emphasis| format!("{emphasis:?}") == name);
    let emphasis = emphasis.unwrap_or_else(|| panic!("{name} is none of {:?}", Emphasis::ALL));
    run_all(SEEDS, |seed| Options::about(seed, Some(emphasis)));
}

#[test]
fn processes_work_on_several_resources_at_once() {
    let sum = run_all(SEEDS, |seed| Options::about(seed, Some(Emphasis::Several)));
    assert!(!is_default() || sum.held > 10_000 && sum.shared > 1_000 && sum.taken_up > 20, "{sum:#?}");
}

#[test]
fn resources_are_made_deleted_and_made_again_while_others_are_held() {
    let sum = run_all(SEEDS, |seed| Options::about(seed, Some(Emphasis::Catalog)));
    assert!(!is_default() || sum.made > 300 && sum.deleted > 300 && sum.held > 5_000, "{sum:#?}");
}

#[test]
fn processes_that_are_killed_and_restarted_go_on_with_what_is_theirs() {
    let sum = run_all(SEEDS / 4, |seed| Options::about(seed, Some(Emphasis::Restarts)));
    assert!(!is_default() || sum.resumes > 50 && sum.taken_up > 12, "{sum:#?}");
}

#[test]
fn what_is_handed_over_has_one_owner_all_along() {
    let sum = run_all(SEEDS, |seed| Options::about(seed, Some(Emphasis::Handover)));
    assert!(!is_default() || sum.handed_over > 70 && sum.received > 40, "{sum:#?}");
}

#[test]
fn a_join_that_lands_on_a_holder_and_is_declared_dead_ends_only_itself() {
    let sum = run_all(SEEDS / 2, |seed| Options::about(seed, Some(Emphasis::FencedJoins)));
    assert!(!is_default() || sum.declared > 100 && sum.joins > 1_000, "{sum:#?}");
}

#[test]
fn whoever_is_passed_over_by_a_host_that_it_has_not_seen_yet_learns_of_it() {
    let sum = run_all(SEEDS / 2, |seed| Options::about(seed, Some(Emphasis::NewTakers)));
    assert!(!is_default() || sum.forced > 100 && sum.fenced > 80, "{sum:#?}");
}

#[test]
fn whoever_holds_what_is_wiped_learns_of_it() {
    let sum = run_all(SEEDS / 4, |seed| Options::about(seed, Some(Emphasis::Wiped)));
    assert!(!is_default() || sum.wiped > 2_000 && sum.fenced > 100, "{sum:#?}");
}

#[test]
fn values_requests_and_events_say_what_is_true() {
    let sum = run_all(SEEDS, |seed| Options::about(seed, Some(Emphasis::Messages)));
    assert!(!is_default() || sum.newest > 200 && sum.requests > 150 && sum.events > 150, "{sum:#?}");
}

#[test]
fn hosts_that_run_sanlock_share_a_lockspace_with_others() {
    let sum = run_all(SEEDS / 2, |seed| Options::about(seed, Some(Emphasis::BesideSanlock)));
    let both = sum.held_by_sanlock > 2_000 && sum.held - sum.held_by_sanlock > 2_000;
    assert!(!is_default() || both && sum.forced > 5, "{sum:#?}");
}

#[test]
fn copies_of_a_machine_and_containers_of_one_keep_their_host_ids_apart() {
    let sum = run_all(SEEDS, |seed| Options::about(seed, Some(Emphasis::Clones)));
    assert!(!is_default() || sum.joins > 500 && sum.takeovers > 70, "{sum:#?}");
}

#[test]
fn a_device_is_formatted_again_while_hosts_are_stopped_or_about_to_join() {
    let sum = run_all(SEEDS, |seed| Options::about(seed, Some(Emphasis::Reformatted)));
    assert!(!is_default() || sum.formats > 200 && sum.not_formatted > 100 && sum.strangers > 5, "{sum:#?}");
}

/// Each of these runs costs as much as fifty others.
#[test]
fn a_device_is_formatted_to_other_sizes_and_back() {
    let seeds = from_environment("LEASEHOLD_SEEDS").map(|seeds| seeds.div_ceil(50));
    let sum = run_these(seeds.unwrap_or(SEEDS / 50), |seed| Options::about(seed, Some(Emphasis::Resized)));
    assert!(!is_default() || sum.formats > 5 && sum.not_formatted > 5, "{sum:#?}");
}

#[test]
fn a_run_is_the_same_every_time() {
    let run = || Options::of_seed(7).run().unwrap_or_else(|failure| panic!("\n{failure}"));
    assert_eq!(run(), run());
}

#[test]
fn two_thousand_hosts_share_a_lockspace() {
    let options = Options::calm(1, 2_000, Duration::from_secs(4));
    let counters = options.run().unwrap_or_else(|failure| panic!("\n{failure}"));
    println!("{counters:#?}");
    // They pick their ids at random: many meet, and try another.
    assert!(counters.joins > 800 && counters.refusals > 200, "{counters:#?}");
}
