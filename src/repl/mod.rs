//! Replication without sockets and clocks: what a kevy peer's bytes mean, and what to do about them.
//!
//! - [`image`] reads snapshot images: a checker that can run while the image arrives, and a reader that
//!   loads it in slices.
//! - [`wire`] cuts the bytes of one stream into acknowledgements, pings, snapshot chunks and frames.
//! - [`link`] follows one stream of an upstream: handshake, positions, acks, time-outs, reconnects.
//! - [`discover`] finds out which ports an upstream's streams are on.

pub mod discover;
pub mod image;
pub mod link;
pub mod wire;

/// How far into which history. Ordered by nothing: offsets of different generations do not compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Names the history. 0 is unknown and matches none.
    pub generation: u64,
    /// Number of the next frame, counted from the start of the history.
    pub offset: u64,
}

impl Position {
    /// Nothing is known: a primary answers this with a snapshot.
    pub const UNKNOWN: Position = Position {
        generation: 0,
        offset: 0,
    };
}
