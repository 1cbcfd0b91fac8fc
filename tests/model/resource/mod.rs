//! Hosts that acquire and release one resource on one disk, with `protocol::resource::Operation` and a real `Observer`.
//!
//! What stands for what:
//! - Time is left out. That a generation is dead may be found at any moment at which nothing of it is active any more:
//!   that the timeouts see to this is argued in DESIGN.md, "Timing", and checked by the simulator. A wait ends at once;
//!   the next step comes whenever it comes.
//! - A pause is a step that does not come. A host whose process was killed, hangs for too long or lost its host id has
//!   *stopped*: it does nothing more, but the write that it had checked may be on its way to the disk.
//! - A write that timed out, or that a stopped host left, lands at any later moment, or never. Until it has ended no
//!   later generation of that host starts (the local lock).
//! - A host knows of the others' delta records what its last scan showed, which may be out of date.
//!
//! | file | what is in it |
//! |---|---|
//! | `configurations.rs` | what is explored: the tests |
//! | `limits.rs` | the bounds of a configuration |
//! | `begin.rs` | the states in which everything begins |
//! | `world.rs` | the state: hosts, disk, and what came of the versions |
//! | `actions.rs` | what may happen, and what it changes |
//! | `operations.rs` | how an operation is driven, and its answers checked |
//! | `handing.rs` | handing over, and what must be true of how it ends |
//! | `newcomer.rs` | a host that comes when all others are gone |
//! | `properties.rs` | what must hold, and what must be reached |

mod actions;
mod begin;
mod configurations;
mod handing;
mod limits;
mod newcomer;
mod operations;
mod properties;
mod world;

use stateright::{Model, Property};

use self::actions::Action;
use self::limits::Limits;
use self::world::State;

impl Model for Limits {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first_state()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.after(last, action)
    }

    fn within_boundary(&self, state: &State) -> bool {
        self.include(state)
    }

    fn properties(&self) -> Vec<Property<Limits>> {
        self.all_properties()
    }
}
