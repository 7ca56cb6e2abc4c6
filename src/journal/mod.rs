//! The durable form of what a shard did: its stream of frames in memory, and the bytes of the files that
//! keep it. No file is opened here and no clock is read; [`docs::journal`](crate::docs::journal) draws
//! every byte.
//!
//! - [`stream`] composes frames and cuts them into blocks, one block per group commit.
//! - [`frame`] is the form of one frame, both ways.
//! - [`segment`] has the layouts of a journal file, [`scan`] reads one from its first byte to its end.
//! - [`snapshot`] composes and reads the file of a whole shard.
//! - [`meta`] is what is fixed for a whole directory, [`names`] the names of the files in it.
//! - [`bundle`] names snapshots that count together.
//! - [`plan`] decides, from what all files say, what is loaded and replayed.

pub mod bundle;
pub mod frame;
pub mod meta;
pub mod names;
pub mod plan;
pub mod scan;
pub mod segment;
pub mod snapshot;
pub mod stream;

pub use crate::base::Position;
pub use names::FileName;
pub use stream::{Ancestry, Block, Own, Stream, from_files, in_files};
