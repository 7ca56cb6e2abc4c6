//! temp
pub mod frame;
pub mod meta;
pub mod names;
pub mod scan;
pub mod segment;
pub mod snapshot;
pub mod stream;

pub use crate::base::Position;
pub use names::FileName;
pub use stream::{Block, Stream};
