//! What is explored, with the number of states that each has.

use super::limits::{Begin, Budget, Limits};
use super::properties::Sight::*;
use crate::explore::{explore, in_full};

const NOTHING: Budget = Budget { stops: 0, leaves: 0, starts: 0, timeouts: 0, failures: 0, call_offs: 0, damages: 0 };

/// Two hosts that contend for one version while nothing goes wrong.
const PLAIN: Limits = Limits {
    hosts: 2,
    versions: 1,
    ballots: 1,
    wait: false,
    split_reads: false,
    begin: Begin::Fresh,
    budget: NOTHING,
    sights: &[],
};

#[test]
fn two_hosts_two_versions() {
    let sights = &[Takeover, Adoption, BothCommit, HeldAfterRelease];
    let limits = Limits { versions: 2, ballots: 2, budget: Budget { stops: 1, ..NOTHING }, sights, ..PLAIN };
    explore("two hosts, two versions, a crash", limits, 113_024);
}

#[test]
fn three_hosts_one_version() {
    let limits = Limits { hosts: 3, ballots: 0, sights: &[BothCommit, Adoption], ..PLAIN };
    explore("three hosts, one version", limits, 53_581);
}

#[test]
fn late_writes() {
    let sights = &[BothCommit, Adoption, GaveUpUndecided];
    let limits = Limits { ballots: 1, budget: Budget { stops: 1, timeouts: 1, ..NOTHING }, sights, ..PLAIN };
    explore("two hosts, a crash, a late write", limits, 34_426);
}

#[test]
fn a_leader_that_is_set_back() {
    let sights = &[SetBack, Repair, RepairByTwo];
    let limits = Limits { hosts: 3, versions: 4, ballots: 1, begin: Begin::LateLeader, sights, ..PLAIN };
    explore("a leader set back by two versions", limits, 34_365);
}

#[test]
fn waiting_and_calling_off() {
    let sights = &[GaveUpUndecided, CommittedAsFree];
    let limits =
        Limits { ballots: 1, wait: true, budget: Budget { stops: 1, call_offs: 1, ..NOTHING }, sights, ..PLAIN };
    explore("two hosts that wait, a crash, one called off", limits, 38_179);
}

#[test]
fn failed_io() {
    let limits =
        Limits { ballots: 1, budget: Budget { stops: 1, failures: 1, ..NOTHING }, sights: &[GaveUpUndecided], ..PLAIN };
    explore("two hosts, a crash, a failed read or write", limits, 42_232);
}

#[test]
fn the_next_generation_of_a_host() {
    let limits = Limits {
        ballots: 1,
        budget: Budget { stops: 1, leaves: 1, starts: 1, ..NOTHING },
        sights: &[NextGeneration],
        ..PLAIN
    };
    explore("two hosts, one starts anew", limits, 105_230);
}

#[test]
fn reads_that_show_sectors_of_different_times() {
    let limits =
        Limits { split_reads: true, budget: Budget { stops: 1, ..NOTHING }, sights: &[Adoption, BothCommit], ..PLAIN };
    explore("two hosts, a crash, split reads", limits, 37_842);
}

#[test]
fn damaged_blocks() {
    let limits = Limits {
        versions: 4,
        ballots: 0,
        budget: Budget { stops: 1, damages: 1, ..NOTHING },
        sights: &[Burn],
        ..PLAIN
    };
    explore("two hosts, a crash, a damaged block", limits, 17_018);
}

/// Two hosts that contend when one finds the block of a third damaged and the other did not.
const DEAD_BALLOT: Limits = Limits {
    hosts: 3,
    versions: 4,
    ballots: 2,
    begin: Begin::DeadBallot,
    budget: Budget { damages: 1, ..NOTHING },
    sights: &[Burn, BothCommit],
    ..PLAIN
};

#[test]
fn a_damaged_block_of_a_dead_host() {
    explore("three hosts, the damaged block of a dead one", Limits { ballots: 1, ..DEAD_BALLOT }, 42_244);
}

/// Minutes in release mode: only with `LEASEHOLD_MODEL=full`.
#[test]
fn larger_configurations() {
    if !in_full() {
        return;
    }
    let two = Limits { versions: 2, ballots: 2, budget: Budget { stops: 1, timeouts: 1, ..NOTHING }, ..PLAIN };
    let three = Limits { hosts: 3, budget: Budget { stops: 1, ..NOTHING }, ..PLAIN };
    let all = [
        (
            "two hosts, two versions, a crash, a late write",
            Limits { sights: &[SetBack, Repair], ..two.clone() },
            684_783,
        ),
        (
            "two hosts, two versions, two crashes, one starts anew",
            Limits {
                budget: Budget { stops: 2, starts: 1, ..NOTHING },
                sights: &[NextGeneration, Takeover],
                ..two.clone()
            },
            1_861_357,
        ),
        (
            "two hosts, two versions, split reads",
            Limits { split_reads: true, budget: Budget { stops: 1, ..NOTHING }, ..two.clone() },
            737_445,
        ),
        (
            "two hosts that wait, a late write",
            Limits { versions: 1, wait: true, budget: Budget { call_offs: 1, ..two.budget }, ..two.clone() },
            571_244,
        ),
        (
            "two hosts, a late write, a failure",
            Limits { versions: 1, ballots: 3, budget: Budget { failures: 1, ..two.budget }, ..two.clone() },
            1_146_014,
        ),
        (
            "two hosts, a crash, a damaged block",
            Limits { versions: 5, budget: Budget { stops: 1, damages: 1, ..NOTHING }, sights: &[Burn], ..two },
            1_809_179,
        ),
        ("three hosts, the damaged block of a dead one, more ballots", DEAD_BALLOT, 568_147),
        ("three hosts, one version, a crash", Limits { ballots: 0, ..three.clone() }, 322_710),
        ("three hosts, one version, more ballots", Limits { ballots: 2, budget: NOTHING, ..three.clone() }, 2_156_122),
        (
            "a leader set back by two versions, a crash",
            Limits {
                versions: 5,
                ballots: 2,
                begin: Begin::LateLeader,
                sights: &[SetBack, Repair, RepairByTwo],
                ..three
            },
            594_563,
        ),
    ];
    for (name, limits, states) in all {
        explore(name, limits, states);
    }
}
