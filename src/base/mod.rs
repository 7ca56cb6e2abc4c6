//! What every level may use: time, random numbers, numbers as text, patterns.

mod glob;
mod num;
mod rng;

pub use glob::glob_match;
pub use num::{format_f64, format_long, parse_f64, parse_i64, parse_u64};
pub use rng::Rng;

/// Milliseconds since 1970, as deadlines are kept and sent.
pub type Ms = u64;

/// How far into which history. Ordered by generation first: a newer history ranks above all of an older one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
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
