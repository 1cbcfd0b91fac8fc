//! What is explored, with the number of states that each has.

use leasehold::LeaseMode;

use super::limits::{Begin, Budget, Limits};
use super::properties::Sight::*;
use crate::explore::{explore, in_full};

const NOTHING: Budget = Budget {
    stops: 0,
    leaves: 0,
    starts: 0,
    timeouts: 0,
    failures: 0,
    call_offs: 0,
    damages: 0,
    converts: 0,
    forces: 0,
    receives: 0,
    hand_overs: 0,
};

/// Two hosts that contend for one version while nothing goes wrong.
const PLAIN: Limits = Limits {
    hosts: 2,
    versions: 1,
    ballots: 1,
    wait: false,
    split_reads: false,
    shares: false,
    acquires: true,
    begin: Begin::Fresh,
    budget: NOTHING,
    sights: &[],
};

#[test]
fn two_hosts_two_versions() {
    let sights = &[Takeover, Adoption, BothCommit, HeldAfterRelease];
    let limits = Limits { versions: 2, ballots: 2, budget: Budget { stops: 1, ..NOTHING }, sights, ..PLAIN };
    explore("two hosts, two versions, a crash", limits, 113_925);
}

#[test]
fn three_hosts_one_version() {
    let limits = Limits { hosts: 3, ballots: 0, sights: &[BothCommit, Adoption], ..PLAIN };
    explore("three hosts, one version", limits, 55_837);
}

#[test]
fn late_writes() {
    let sights = &[BothCommit, Adoption, GaveUpUndecided];
    let limits = Limits { ballots: 1, budget: Budget { stops: 1, timeouts: 1, ..NOTHING }, sights, ..PLAIN };
    explore("two hosts, a crash, a late write", limits, 34_902);
}

#[test]
fn a_leader_that_is_set_back() {
    let sights = &[SetBack, Repair, RepairByTwo];
    let limits = Limits { hosts: 3, versions: 4, ballots: 1, begin: Begin::LateLeader, sights, ..PLAIN };
    explore("a leader set back by two versions", limits, 12_953);
}

#[test]
fn waiting_and_calling_off() {
    let sights = &[GaveUpUndecided, CommittedAsFree];
    let limits =
        Limits { ballots: 1, wait: true, budget: Budget { stops: 1, call_offs: 1, ..NOTHING }, sights, ..PLAIN };
    explore("two hosts that wait, a crash, one called off", limits, 38_452);
}

#[test]
fn failed_io() {
    let limits =
        Limits { ballots: 1, budget: Budget { stops: 1, failures: 1, ..NOTHING }, sights: &[GaveUpUndecided], ..PLAIN };
    explore("two hosts, a crash, a failed read or write", limits, 42_747);
}

#[test]
fn the_next_generation_of_a_host() {
    let limits = Limits {
        ballots: 1,
        budget: Budget { stops: 1, leaves: 1, starts: 1, ..NOTHING },
        sights: &[NextGeneration],
        ..PLAIN
    };
    explore("two hosts, one starts anew", limits, 105_410);
}

#[test]
fn reads_that_show_sectors_of_different_times() {
    let limits =
        Limits { split_reads: true, budget: Budget { stops: 1, ..NOTHING }, sights: &[Adoption, BothCommit], ..PLAIN };
    explore("two hosts, a crash, split reads", limits, 38_771);
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
    explore("two hosts, a crash, a damaged block", limits, 17_084);
}

/// What follows when one host shares already.
const SHARING: Limits = Limits {
    ballots: 1,
    shares: true,
    begin: Begin::Held(LeaseMode::Shared),
    budget: Budget { converts: 2, ..NOTHING },
    sights: &[TwoShare, Upgrade],
    ..PLAIN
};

#[test]
fn shared_holds() {
    explore("two hosts that share", SHARING, 52_021);
}

/// A holder that changes how it holds, and one that takes the resource by force.
const FORCING: Limits = Limits {
    begin: Begin::Held(LeaseMode::Exclusive),
    budget: Budget { converts: 1, forces: 1, ..NOTHING },
    sights: &[Forced, TakenAndDowngraded],
    ..SHARING
};

#[test]
fn a_takeover_by_force() {
    explore("two hosts, one by force", FORCING, 127_194);
}

/// A holder that hands over what it has to one that waits for that, either of which may be called off or stop.
const HANDING: Limits = Limits {
    versions: 2,
    ballots: 2,
    acquires: false,
    begin: Begin::Held(LeaseMode::Exclusive),
    budget: Budget { stops: 1, call_offs: 1, receives: 1, hand_overs: 1, ..NOTHING },
    sights: &[Received, Inherited, Kept, TakenBack],
    ..PLAIN
};

#[test]
fn a_handover() {
    let budget = Budget { receives: 2, hand_overs: 2, timeouts: 1, ..HANDING.budget };
    explore("two handovers, a crash, one called off, a late write", Limits { versions: 3, budget, ..HANDING }, 83_909);
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
    explore("three hosts, the damaged block of a dead one", Limits { ballots: 1, ..DEAD_BALLOT }, 42_332);
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
            702_886,
        ),
        (
            "two hosts, two versions, two crashes, one starts anew",
            Limits {
                budget: Budget { stops: 2, starts: 1, ..NOTHING },
                sights: &[NextGeneration, Takeover],
                ..two.clone()
            },
            1_912_617,
        ),
        (
            "two hosts, two versions, split reads",
            Limits { split_reads: true, budget: Budget { stops: 1, ..NOTHING }, ..two.clone() },
            770_462,
        ),
        (
            "two hosts that wait, a late write",
            Limits { versions: 1, wait: true, budget: Budget { call_offs: 1, ..two.budget }, ..two.clone() },
            593_111,
        ),
        (
            "two hosts, a late write, a failure",
            Limits { versions: 1, ballots: 3, budget: Budget { failures: 1, ..two.budget }, ..two.clone() },
            1_249_809,
        ),
        (
            "two hosts, a crash, a damaged block",
            Limits { versions: 5, budget: Budget { stops: 1, damages: 1, ..NOTHING }, sights: &[Burn], ..two },
            1_852_389,
        ),
        ("three hosts, the damaged block of a dead one, more ballots", DEAD_BALLOT, 572_751),
        ("three hosts, one version, a crash", Limits { ballots: 0, ..three.clone() }, 334_782),
        ("three hosts, one version, more ballots", Limits { ballots: 2, budget: NOTHING, ..three.clone() }, 2_572_554),
        (
            "a leader set back by two versions, a crash",
            Limits {
                versions: 5,
                ballots: 2,
                begin: Begin::LateLeader,
                sights: &[SetBack, Repair, RepairByTwo],
                ..three
            },
            248_406,
        ),
    ];
    let stops = |budget: Budget| Budget { stops: 1, timeouts: 1, ..budget };
    let forced = Budget { forces: 1, ..NOTHING };
    let sharing = [
        ("two hosts that share, a crash, a late write", Limits { budget: stops(SHARING.budget), ..SHARING }, 530_323),
        (
            "two hosts, one by force, a crash, a late write",
            Limits { budget: stops(FORCING.budget), ..FORCING },
            1_652_659,
        ),
        (
            "two hosts that share, one by force",
            Limits { versions: 2, begin: Begin::Fresh, budget: forced, sights: &[FlagTakenBack], ..SHARING },
            1_529_872,
        ),
    ];
    for (name, limits, states) in all.into_iter().chain(sharing) {
        explore(name, limits, states);
    }
}

/// Half a minute in release mode: only with `LEASEHOLD_MODEL=full`.
#[test]
fn larger_handovers() {
    if !in_full() {
        return;
    }
    let more = HANDING.budget;
    let handing = [
        ("a handover beside other acquires", Limits { acquires: true, ..HANDING }, 1_116_663),
        (
            "a handover, two that wait for it",
            Limits { hosts: 3, budget: Budget { receives: 2, ..more }, ..HANDING },
            125_279,
        ),
        (
            "a handover, a third host by force",
            Limits {
                hosts: 3,
                budget: Budget { forces: 1, stops: 0, ..more },
                sights: &[Forced, TakenBack],
                ..HANDING
            },
            129_412,
        ),
        (
            "a handover, two crashes, one starts anew",
            Limits { budget: Budget { stops: 2, starts: 1, receives: 2, ..more }, ..HANDING },
            62_397,
        ),
        (
            "a handover, a damaged block",
            Limits { versions: 5, budget: Budget { damages: 1, ..more }, ..HANDING },
            17_124,
        ),
    ];
    for (name, limits, states) in handing {
        explore(name, limits, states);
    }
}
