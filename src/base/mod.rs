//! What every level may use: time, random numbers, numbers as text, patterns.

mod glob;
mod num;
mod rng;

pub use glob::glob_match;
pub use num::{format_f64, format_long, parse_f64, parse_i64, parse_u64};
pub use rng::Rng;

/// Milliseconds since 1970, as deadlines are kept and sent.
pub type Ms = u64;
