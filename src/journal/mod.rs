//! The durable form of what a shard did: its stream of frames in memory, and the bytes of the files that
//! keep it. No file is opened here and no clock is read; `src/docs/journal.md` draws every byte.
//!
//! - [`stream`] composes frames and cuts them into blocks, one block per group commit.
//! - [`segment`] has the layouts of a journal file.

pub mod segment;
pub mod stream;

pub use crate::base::Position;
pub use stream::{Block, Stream};
