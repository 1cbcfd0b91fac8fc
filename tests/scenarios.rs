//! Schedules that went wrong, or would go wrong, in lock managers on shared disks: each step by step, on the machines
//! of `leasehold::protocol`. The numbers are those of the design's list of scenarios.
//!
//! | file | about |
//! |---|---|
//! | `two_owners.rs` | what would make two owners of one resource |
//! | `sharers.rs` | an exclusive acquire beside sanlock hosts that share |
//! | `modes.rs` | hosts that share, and that change between shared and exclusive |
//! | `forced.rs` | a resource that is taken by force |
//! | `looks.rs` | looks at what is held, where an area is wiped under its holder, or its leader is set back |
//! | `ghosts.rs` | what is left of owners that are gone |
//! | `handover.rs` | a resource that its owner hands over while both run |
//! | `damage.rs` | sectors that rot |
//! | `catalog.rs` | making resources |
//! | `device.rs` | a device on which they are made |
//! | `formatting.rs` | a device that is formatted again |
//! | `wedges.rs` | what would keep a resource from everybody for ever, or from some |
//! | `control.rs` | declaring a host dead, rebuilding a leader |
//! | `declared.rs` | a declaration or a repair that lands over the record of a later generation |
//! | `host_ids.rs` | holding a host id, and judging those who hold one |
//! | `numbers.rs` | numbers near their end |
//! | `resuming.rs` | going on with what an earlier process held |
//! | `world.rs` | what they run on |

#![allow(clippy::unwrap_used)]

#[path = "common/values.rs"]
mod values;

#[path = "scenarios/catalog.rs"]
mod catalog;
#[path = "scenarios/control.rs"]
mod control;
#[path = "scenarios/damage.rs"]
mod damage;
#[path = "scenarios/declared.rs"]
mod declared;
#[path = "scenarios/device.rs"]
mod device;
#[path = "scenarios/forced.rs"]
mod forced;
#[path = "scenarios/formatting.rs"]
mod formatting;
#[path = "scenarios/ghosts.rs"]
mod ghosts;
#[path = "scenarios/handover.rs"]
mod handover;
#[path = "scenarios/host_ids.rs"]
mod host_ids;
#[path = "scenarios/looks.rs"]
mod looks;
#[path = "scenarios/modes.rs"]
mod modes;
#[path = "scenarios/numbers.rs"]
mod numbers;
#[path = "scenarios/resuming.rs"]
mod resuming;
#[path = "scenarios/sharers.rs"]
mod sharers;
#[path = "scenarios/two_owners.rs"]
mod two_owners;
#[path = "scenarios/wedges.rs"]
mod wedges;
#[path = "scenarios/world.rs"]
mod world;
