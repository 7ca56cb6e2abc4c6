//! Dense tables whose places carry generations, and the 64-bit mark that names a place to the kernel.
//!
//! No system calls here: everything in this file runs under an interpreter.

/// Generations are this many bits wide, because they share a completion's mark with the operation
/// and the index.
pub(crate) const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// What a completion is about. The number is the top byte of the completion's mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Op {
    /// Index and generation name a listener.
    Accept = 1,
    /// Index and generation name a socket, as in the next four.
    Recv = 2,
    Poll = 3,
    Send = 4,
    Connect = 5,
    /// The completion of a cancel; carries nothing.
    Cancel = 6,
    /// Index and generation name a file operation.
    File = 7,
    /// The armed read of the waker.
    Wake = 8,
    /// The armed timeout; the index counts them.
    Timeout = 9,
    /// Index and generation name what a send in place has lent to the kernel.
    Lend = 10,
}

/// The mark of one operation: 8 bits operation, 24 bits generation, 32 bits index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub index: u32,
    pub generation: u32,
}

impl Token {
    pub fn mark(self, op: Op) -> u64 {
        (op as u64) << 56
            | u64::from(self.generation & GENERATION_MASK) << 32
            | u64::from(self.index)
    }

    /// `None` for a mark that was never made here.
    pub fn from_mark(mark: u64) -> Option<(Op, Token)> {
        let op = match mark >> 56 {
            1 => Op::Accept,
            2 => Op::Recv,
            3 => Op::Poll,
            4 => Op::Send,
            5 => Op::Connect,
            6 => Op::Cancel,
            7 => Op::File,
            8 => Op::Wake,
            9 => Op::Timeout,
            10 => Op::Lend,
            _ => return None,
        };
        let token = Token {
            index: mark as u32,
            generation: (mark >> 32) as u32 & GENERATION_MASK,
        };
        Some((op, token))
    }
}

/// A table of `T` with reusable places. A token of a freed place finds nothing, also after the place
/// was given to somebody else (until the generation wraps, 2^24 reuses later).
pub(crate) struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    /// Allocates only when no freed place is left.
    pub fn insert(&mut self, value: T) -> Token {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            debug_assert!(place.value.is_none(), "a free place is empty");
            place.value = Some(value);
            return Token {
                index,
                generation: place.generation,
            };
        }
        let index =
            u32::try_from(self.places.len()).expect("descriptors run out long before 2^32 places");
        self.places.push(Place {
            generation: 0,
            value: Some(value),
        });
        // Room for every place at once, so that freeing never allocates on the hot path.
        self.free.reserve(self.places.len() - self.free.len());
        Token {
            index,
            generation: 0,
        }
    }

    #[inline]
    pub fn get(&self, token: Token) -> Option<&T> {
        let place = self.places.get(token.index as usize)?;
        if place.generation != token.generation {
            return None;
        }
        place.value.as_ref()
    }

    #[inline]
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation != token.generation {
            return None;
        }
        place.value.as_mut()
    }

    /// Frees the place and raises its generation.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation != token.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = (place.generation + 1) & GENERATION_MASK;
        self.free.push(token.index);
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let token = Token {
                index: index as u32,
                generation: place.generation,
            };
            Some((token, place.value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_mark_names_operation_generation_and_index() {
        let token = Token {
            index: u32::MAX,
            generation: GENERATION_MASK,
        };
        for op in [
            Op::Accept,
            Op::Recv,
            Op::Poll,
            Op::Send,
            Op::Connect,
            Op::File,
            Op::Timeout,
            Op::Lend,
        ] {
            assert_eq!(Token::from_mark(token.mark(op)), Some((op, token)));
        }
        assert_eq!(Token::from_mark(0), None);
        assert_eq!(Token::from_mark(u64::MAX), None);
    }

    #[test]
    fn a_freed_place_does_not_answer_to_its_old_token() {
        let mut slots = Slots::default();
        let old = slots.insert("old");
        assert_eq!(slots.remove(old), Some("old"));
        let new = slots.insert("new");
        assert_eq!(new.index, old.index);
        assert_ne!(new.generation, old.generation);
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&"new"));
    }

    #[test]
    fn generations_wrap_within_their_bits() {
        let mut slots = Slots::default();
        let token = slots.insert(());
        slots.remove(token);
        slots.places[0].generation = GENERATION_MASK;
        let last = slots.insert(());
        assert_eq!(last.generation, GENERATION_MASK);
        slots.remove(last);
        assert_eq!(slots.insert(()).generation, 0);
    }

    #[test]
    fn slots_agree_with_a_map() {
        let mut slots = Slots::default();
        let mut map: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for step in 0..5_000_u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if random.is_multiple_of(3) {
                let Some((&(index, generation), _)) =
                    map.iter().nth(random as usize % map.len().max(1))
                else {
                    continue;
                };
                let removed = slots.remove(Token { index, generation });
                assert_eq!(removed, map.remove(&(index, generation)));
            } else {
                let token = slots.insert(step);
                assert!(map.insert((token.index, token.generation), step).is_none());
            }
            assert_eq!(slots.iter().count(), map.len());
        }
        for (&(index, generation), value) in &map {
            assert_eq!(slots.get(Token { index, generation }), Some(value));
        }
    }
}
