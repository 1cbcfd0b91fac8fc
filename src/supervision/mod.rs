//! Ending what a lease protects when the lease ends.

mod cgroup;
mod group;
mod ladder;
mod scope;
mod supervisor;

pub use ladder::{Deadlines, Escalation, Ladder, LadderError, Step};
pub use scope::Scope;
pub(crate) use supervisor::wake;
pub use supervisor::{Protected, SuperviseError, Supervision};
