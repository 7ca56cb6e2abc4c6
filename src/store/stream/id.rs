//! Entry ids.

use crate::base::{Ms, parse_u64};

/// An entry's id: milliseconds and a sequence number, ordered by both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StreamId {
    /// Milliseconds since 1970 when the entry was added, by the clock of whoever chose the id.
    pub ms: Ms,
    /// Tells entries of one millisecond apart.
    pub seq: u64,
}

impl StreamId {
    /// `0-0`, below every entry.
    pub const MIN: StreamId = StreamId { ms: 0, seq: 0 };
    /// The largest id.
    pub const MAX: StreamId = StreamId {
        ms: u64::MAX,
        seq: u64::MAX,
    };

    /// Joins the two parts.
    pub const fn new(ms: Ms, seq: u64) -> Self {
        Self { ms, seq }
    }

    /// The id after this one.
    pub fn next(self) -> Option<StreamId> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { ms: self.ms, seq }),
            None => Some(Self::new(self.ms.checked_add(1)?, 0)),
        }
    }

    /// The id before this one.
    pub fn prev(self) -> Option<StreamId> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Self { ms: self.ms, seq }),
            None => Some(Self::new(self.ms.checked_sub(1)?, u64::MAX)),
        }
    }

    /// Reads `ms-seq` or `ms`; a missing sequence number becomes `missing`.
    pub fn parse(text: &[u8], missing: u64) -> Option<StreamId> {
        match text.iter().position(|byte| *byte == b'-') {
            None => Some(Self::new(lenient(text)?, missing)),
            Some(dash) => Some(Self::new(
                lenient(&text[..dash])?,
                lenient(&text[dash + 1..])?,
            )),
        }
    }

    /// Reads `ms-*` and returns the milliseconds.
    pub fn parse_auto_seq(text: &[u8]) -> Option<Ms> {
        lenient(text.strip_suffix(b"-*")?)
    }

    /// Calls `with` with the text `ms-seq`. Allocates nothing.
    pub fn with_text<R>(self, with: impl FnOnce(&[u8]) -> R) -> R {
        let mut text = [0u8; 41];
        let (mut ms, mut seq) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (ms, seq) = (
            ms.format(self.ms).as_bytes(),
            seq.format(self.seq).as_bytes(),
        );
        text[..ms.len()].copy_from_slice(ms);
        text[ms.len()] = b'-';
        let len = ms.len() + 1 + seq.len();
        text[ms.len() + 1..len].copy_from_slice(seq);
        with(&text[..len])
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Redis reads the parts with C's strtoull where the strict form does not fit: spaces in front, a
/// plus sign and leading zeros are accepted.
fn lenient(text: &[u8]) -> Option<u64> {
    if let Some(value) = parse_u64(text) {
        return Some(value);
    }
    let text = text.trim_ascii_start();
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
