//! What every level may use: time, random numbers, numbers as text, patterns.

use std::sync::OnceLock;

mod glob;
mod num;
mod rng;

pub use glob::glob_match;
pub use num::{format_f64, format_long, parse_f64, parse_i64, parse_u64};
pub use rng::Rng;

/// May this name a machine? A blank would cut it in two wherever it is written down.
pub fn is_host(text: &str) -> bool {
    let is_odd = |char: char| char.is_whitespace() || char.is_control();
    !text.is_empty() && !text.contains(is_odd)
}

/// Milliseconds since 1970, as deadlines are kept and sent.
pub type Ms = u64;

/// Bits of a generation that belong to the process. With those of the time, until the year 2109, below 2^53.
const SALT_BITS: u32 = 11;
static SALT: OnceLock<u64> = OnceLock::new();

/// Chooses what the names of all histories of this process have in common. It is called once; later calls
/// change nothing.
pub fn seed_histories(seed: u64) {
    let _ = SALT.set(seed & ((1 << SALT_BITS) - 1));
}

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

    /// Where a history begins that others must not take for this one going on: above whatever this one can
    /// have reached, also for peers that compare offsets alone. Below 2^53.
    ///
    /// The generation is the time and, below it, bits of this process: what two nodes begin in the same
    /// millisecond are two histories.
    pub fn renewed(self, now: Ms) -> Position {
        let own = SALT.get().copied().unwrap_or_default();
        // Who drew this one may have had another clock: ours still ends with our own bits.
        let at = now.max((self.generation >> SALT_BITS) + 1);
        Position {
            generation: (at << SALT_BITS) | own,
            // 2^20 for each second, and their parts: nodes are started anew within one.
            offset: (self.offset + (1 << 20))
                .max(((now / 1000) << 20) + (((now % 1000) << 20) / 1000)),
        }
    }
}
