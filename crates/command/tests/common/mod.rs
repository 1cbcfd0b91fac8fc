//! What tests of the command share, beside what they have in common with those of the library.

#![allow(dead_code)] // Each test program uses a part of it.

pub(crate) mod command;
pub(crate) mod sanlock;
pub(crate) mod scene;
#[path = "../../../../tests/common/mod.rs"]
mod shared;

pub(crate) use shared::*;
