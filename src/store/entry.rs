//! The bytes of one key in its cell.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | flags |
//! | 3 | second of the last use, modulo 2^24; 0 if unknown. Where uses are counted instead ([`Lfu`]): |
//! |   | minute of the last count, modulo 2^16, above the logarithmic counter |
//! | 2 | length of the key |
//! | 2 | length of the value |
//! | 8 + 4 | deadline, and its place in the expiry index; with [`DEADLINE`] |
//! | 8 + 4 | first deadline of the value's fields, and its place; with [`FIELDS`] |
//! | | key, or its number among the long keys; with [`LONG_KEY`] |
//! | | value, or the object's number |

use crate::base::{Ms, Rng};

/// The key has a deadline.
pub(super) const DEADLINE: u32 = 1;
/// Fields of the value have deadlines.
pub(super) const FIELDS: u32 = 2;
/// The key is kept elsewhere.
pub(super) const LONG_KEY: u32 = 4;
const _: () = assert!(DEADLINE == 1 && FIELDS == 2);
/// Bytes before the key without deadlines.
pub(super) const HEAD: usize = 8;
/// Bytes that a deadline adds.
pub(super) const TIMER: usize = 12;

/// An entry's fixed part, as it stands in the cell: one word, so that it is passed around in a register.
#[derive(Clone, Copy)]
pub(super) struct Head(u64);

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head")
            .field("flags", &self.flags())
            .field("clock", &self.clock())
            .field("key_len", &self.key_len())
            .field("value_len", &self.value_len())
            .finish()
    }
}

impl Head {
    #[inline]
    pub fn new(flags: u32, clock: u32, key_len: usize, value_len: usize) -> Self {
        debug_assert!(key_len <= 0xffff && value_len <= 0xffff);
        Self(
            u64::from(flags)
                | u64::from(clock & CLOCK_MASK) << 8
                | (key_len as u64) << 32
                | (value_len as u64) << 48,
        )
    }

    #[inline]
    pub fn read(cell: &[u8]) -> Self {
        let mut word = [0; HEAD];
        word.copy_from_slice(&cell[..HEAD]);
        Self(u64::from_le_bytes(word))
    }

    #[inline]
    pub fn write(self, cell: &mut [u8]) {
        cell[..HEAD].copy_from_slice(&self.0.to_le_bytes());
    }

    #[inline]
    pub fn flags(self) -> u32 {
        self.0 as u32 & 0xff
    }

    #[inline]
    pub fn clock(self) -> u32 {
        (self.0 >> 8) as u32 & CLOCK_MASK
    }

    #[inline]
    pub fn with_clock(self, clock: u32) -> Self {
        Self(self.0 & !(u64::from(CLOCK_MASK) << 8) | u64::from(clock & CLOCK_MASK) << 8)
    }

    #[inline]
    pub fn key_len(self) -> usize {
        (self.0 >> 32) as usize & 0xffff
    }

    #[inline]
    pub fn value_len(self) -> usize {
        (self.0 >> 48) as usize
    }

    #[inline]
    pub fn has(self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    /// Where the key begins.
    #[inline]
    pub fn key_at(self) -> usize {
        // Counting bits would be a call: not every processor that we run on has an instruction for it.
        HEAD + TIMER * (self.0 & 1) as usize + TIMER * (self.0 >> 1 & 1) as usize
    }

    #[inline]
    pub fn value_at(self) -> usize {
        self.key_at() + self.key_len()
    }

    /// Bytes of the whole entry.
    #[inline]
    pub fn size(self) -> usize {
        self.value_at() + self.value_len()
    }

    /// Where a timer that is there begins.
    #[inline]
    pub fn timer_at(self, fields: bool) -> usize {
        if fields && self.has(DEADLINE) {
            HEAD + TIMER
        } else {
            HEAD
        }
    }

    /// A timer that is there: its deadline and its place in the index.
    pub fn timer(self, cell: &[u8], fields: bool) -> (Ms, u32) {
        let at = self.timer_at(fields);
        let (mut due, mut place) = ([0; 8], [0; 4]);
        due.copy_from_slice(&cell[at..at + 8]);
        place.copy_from_slice(&cell[at + 8..at + 12]);
        (u64::from_le_bytes(due), u32::from_le_bytes(place))
    }

    pub fn set_timer(self, cell: &mut [u8], fields: bool, due: Ms, place: u32) {
        let at = self.timer_at(fields);
        cell[at..at + 8].copy_from_slice(&due.to_le_bytes());
        cell[at + 8..at + 12].copy_from_slice(&place.to_le_bytes());
    }

    /// The key's deadline.
    #[inline]
    pub fn deadline(self, cell: &[u8]) -> Option<Ms> {
        self.has(DEADLINE).then(|| self.timer(cell, false).0)
    }

    /// The first deadline of the value's fields.
    #[inline]
    pub fn fields_due(self, cell: &[u8]) -> Option<Ms> {
        self.has(FIELDS).then(|| self.timer(cell, true).0)
    }
}

/// The number in four bytes of a cell: of a long key or an object.
#[inline]
pub(super) fn number(bytes: &[u8]) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(word)
}

/// The clock of an entry at a time.
#[inline]
pub(super) fn clock_of(now: Ms) -> u32 {
    // 0 is "unknown"; one second in half a year is off by one.
    ((now / 1000) as u32 & CLOCK_MASK).max(1)
}

/// Seconds from one clock to another.
pub(super) fn idle(from: u32, to: u32) -> u64 {
    if from == 0 {
        0
    } else {
        u64::from(to.wrapping_sub(from) & CLOCK_MASK)
    }
}

/// How uses are counted, as Redis does it for its LFU policies: a counter of eight bits that grows ever
/// more slowly, and shrinks by one per period without use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lfu {
    /// How much more seldom a larger counter grows.
    pub log_factor: u32,
    /// Minutes after which the counter shrinks by one; 0: never.
    pub decay_minutes: u32,
}

impl Lfu {
    /// The clock of a new entry. Unlike any stored clock, so that every use is seen as one.
    #[inline]
    pub(super) fn clock_of(now: Ms) -> u32 {
        LFU_MARK | minute_of(now) << 8 | COUNTER_NEW
    }

    /// The clock of an entry whose counter is known.
    pub(super) fn clock_with(now: Ms, counter: u8) -> u32 {
        minute_of(now) << 8 | u32::from(counter)
    }

    /// The counter of a stored clock, at the time of the clock `now`.
    pub(super) fn counter(self, clock: u32, now: u32) -> u32 {
        let minutes = (now >> 8).wrapping_sub(clock >> 8) & MINUTE_MASK;
        let periods = minutes.checked_div(self.decay_minutes).unwrap_or(0);
        (clock & COUNTER_MASK).saturating_sub(periods)
    }

    /// A stored clock after one more use.
    pub(super) fn used(self, clock: u32, now: u32, rng: &mut Rng) -> u32 {
        let mut counter = self.counter(clock, now);
        // The chance is one in this many.
        let steps = u64::from(counter.saturating_sub(COUNTER_NEW)) * u64::from(self.log_factor) + 1;
        if counter < COUNTER_MASK && rng.below(steps) == 0 {
            counter += 1;
        }
        now & MINUTE_MASK << 8 | counter
    }

    /// Minutes from a stored clock to another.
    pub(super) fn age(clock: u32, now: u32) -> u32 {
        (now >> 8).wrapping_sub(clock >> 8) & MINUTE_MASK
    }
}

fn minute_of(now: Ms) -> u32 {
    (now / 60_000) as u32 & MINUTE_MASK
}

const CLOCK_MASK: u32 = 0xff_ffff;
const LFU_MARK: u32 = 1 << 24;
const MINUTE_MASK: u32 = 0xffff;
const COUNTER_MASK: u32 = 0xff;
/// A new key is not the first to go.
const COUNTER_NEW: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_grows_with_the_logarithm_of_uses_and_shrinks_with_time() {
        let lfu = Lfu {
            log_factor: 10,
            decay_minutes: 1,
        };
        let mut rng = Rng::seeded(1);
        let start = 70_000 * 60_000;
        let now = Lfu::clock_of(start);
        let mut clock = now & CLOCK_MASK;
        let mut seen = Vec::new();
        for uses in 1..=1_000_000u32 {
            clock = lfu.used(clock, now, &mut rng);
            if [100, 1000, 100_000, 1_000_000].contains(&uses) {
                seen.push(lfu.counter(clock, now));
            }
        }
        // The table in redis.conf says 10, 18, 142 and 255.
        assert!(
            (8..=13).contains(&seen[0]) && (15..=24).contains(&seen[1]),
            "{seen:?}"
        );
        assert!((130..=155).contains(&seen[2]) && seen[3] == 255, "{seen:?}");
        let later = Lfu::clock_of(start + 100 * 60_000);
        assert_eq!(lfu.counter(clock, later), 155);
        assert_eq!(Lfu::age(clock, later), 100);
        let never = Lfu {
            decay_minutes: 0,
            ..lfu
        };
        assert_eq!(never.counter(clock, later), 255);
    }
}
