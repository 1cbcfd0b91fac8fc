//! What the fuzz targets do with an input. The bodies are plain functions: libFuzzer calls them with what it makes up,
//! and the replay programs with the committed corpus, on the stable toolchain.
//!
//! | target | the input is |
//! |---|---|
//! | [`decoders`] | one sector: any bytes, or a valid record and changes to it |
//! | [`device`] | changes to the image of a device in use, and what is then done with it |
//! | [`member`] | what happens to two machines of a membership: I/O, time, pauses, commands |
//! | [`operations`] | what two hosts do, and what goes wrong with their writes |
//! | [`schedules`] | options of the simulator, and its decisions |
//!
//! A target panics when a property fails.

mod decoders;
mod device;
mod input;
mod member;
mod operations;
mod records;
pub mod replay;
mod schedules;

pub use decoders::decoders;
pub use device::device;
pub use member::member;
pub use operations::operations;
pub use schedules::schedules;
