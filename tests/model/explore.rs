//! Explores a model to the end and says how many states it has.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// Whether the large configurations are to be explored too: minutes, in release mode.
pub(crate) fn in_full() -> bool {
    std::env::var("LEASEHOLD_MODEL").is_ok_and(|value| value == "full")
}

/// Explores every state. Panics with the shortest path if a property that always holds is violated, if one that
/// sometimes holds never did, or if there are not `expected` states.
pub(crate) fn explore<M>(name: &str, model: M, expected: usize)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let threads = if in_full() { std::thread::available_parallelism().map_or(1, |count| count.get()) } else { 1 };
    let start = Instant::now();
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{name}: {states} states, depth {}, {:.1} s", checker.max_depth(), start.elapsed().as_secs_f64());
    for (property, path) in checker.discoveries() {
        let failed = checker.discovery_classification(property).to_string() == "counterexample";
        assert!(!failed, "{name}: {property} is violated after {states} states\n{path}{:#?}", path.last_state());
    }
    for property in checker.model().properties() {
        let failure = property.expectation.discovery_is_failure();
        assert!(failure || checker.discovery(property.name).is_some(), "{name}: never reached: {}", property.name);
    }
    assert_eq!(states, expected, "{name}: the number of states has changed");
}
