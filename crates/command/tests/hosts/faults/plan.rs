//! What happens when: faults that overlap, made from one seed.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Milliseconds that are certainly shorter than F, and certainly longer than D.
const SHORT: std::ops::Range<u64> = 50..1_000;
const LONG: std::ops::Range<u64> = 2_300..5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Kill(usize),
    Start(usize),
    Stop(usize),
    Continue(usize),
    /// For that many milliseconds.
    Freeze(u64),
    Cut(usize),
    Restore(usize),
}

#[derive(Clone, Copy)]
enum Kind {
    Kill,
    Pause,
    LongPause,
    Freeze,
    LongFreeze,
    CutOne,
    CutBoth,
}

/// Faults that overlap, each with its end, by milliseconds from the start. Each kind comes up in every half minute;
/// what costs all hosts their leases is rare, because they then need seconds until there is something to lose again.
pub(super) fn plan(random: &mut StdRng, hosts: usize, millis: u64) -> Vec<(u64, Action)> {
    use Kind::*;
    let mut plan = Vec::new();
    let mut deck = Vec::new();
    let mut at = 1_000;
    let mut thawed = 0;
    while at < millis {
        if deck.is_empty() {
            deck.extend([Kill, Kill, Kill, Kill, Pause, Pause, Pause, LongPause, LongPause, LongPause, LongPause]);
            deck.extend([Freeze, Freeze, LongFreeze, CutOne, CutOne, CutOne, CutBoth]);
            deck.shuffle(random);
        }
        let kind = deck.pop().unwrap();
        let host = random.random_range(0..hosts);
        let span = match kind {
            Pause | Freeze => random.random_range(SHORT),
            LongPause => random.random_range(LONG),
            LongFreeze => random.random_range(1_600..4_000),
            Kill | CutOne | CutBoth => random.random_range(0..2_000),
        };
        match kind {
            Kill => plan.extend([(at, Action::Kill(host)), (at + span / 2, Action::Start(host))]),
            Pause | LongPause => plan.extend([(at, Action::Stop(host)), (at + span, Action::Continue(host))]),
            Freeze | LongFreeze => {
                let at = at.max(thawed);
                plan.push((at, Action::Freeze(span)));
                thawed = at + span + 500;
            }
            CutOne | CutBoth => {
                let path = random.random_range(0..2);
                for path in (0..2).filter(|each| matches!(kind, CutBoth) || *each == path) {
                    plan.extend([(at, Action::Cut(path)), (at + span, Action::Restore(path))]);
                }
            }
        }
        at += random.random_range(300..1_500);
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}

#[test]
fn a_seed_gives_one_plan_with_every_kind_of_fault_and_every_fault_ends() {
    let of = |seed| plan(&mut StdRng::seed_from_u64(seed), 5, 30_000);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    for seed in 0..100 {
        let plan = of(seed);
        assert!(plan.is_sorted_by_key(|(at, _)| *at));
        let count = |wanted: fn(&Action) -> bool| plan.iter().filter(|(_, action)| wanted(action)).count();
        assert!(count(|action| matches!(action, Action::Freeze(_))) >= 2);
        for (begun, ended) in [
            (count(|action| matches!(action, Action::Kill(_))), count(|action| matches!(action, Action::Start(_)))),
            (count(|action| matches!(action, Action::Stop(_))), count(|action| matches!(action, Action::Continue(_)))),
            (count(|action| matches!(action, Action::Cut(_))), count(|action| matches!(action, Action::Restore(_)))),
        ] {
            assert!(begun == ended && begun >= 2, "{plan:?}");
        }
    }
}
