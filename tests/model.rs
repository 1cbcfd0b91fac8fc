//! Exhaustive exploration of the protocol's state machines: every order of the steps of a few hosts on one disk, with
//! crashes, writes that fail or land late, releases and takeovers, up to a bound on versions and ballots.
//!
//! `cargo test --release --test model` with `LEASEHOLD_MODEL=full` explores larger configurations too.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "model/canonical.rs"]
mod canonical;
#[path = "model/delta.rs"]
mod delta;
#[path = "model/explore.rs"]
mod explore;
#[path = "model/resource/mod.rs"]
mod resource;
