//! The small form of a hash: fields and values in one block.

use crate::store::block::Block;

/// At most [`PAIRS_MAX`] pairs in the order of their creation: their number, then for each the lengths,
/// the field, the value. Lengths below [`FIELDS`] and [`VALUES`] share a byte, others take two behind
/// [`LONG`]. Without pairs it holds nothing.
#[derive(Clone, Debug, Default)]
pub struct Pairs(Block);

/// Most pairs.
pub const PAIRS_MAX: usize = 128;
/// Longest field and value.
pub const SHORT_MAX: usize = 64;
/// Field lengths that may share a byte: names of up to eleven bytes.
const FIELDS: usize = 12;
/// Value lengths that may: whatever fits the digits of an integer.
const VALUES: usize = 21;
/// Two lengths follow.
const LONG: u8 = 255;
const _: () = assert!(FIELDS * VALUES <= LONG as usize);
const _: () = assert!(PAIRS_MAX <= 255 && SHORT_MAX <= 255);

/// Where a pair lies.
#[derive(Clone, Copy)]
struct Place {
    /// Its lengths.
    start: usize,
    field: usize,
    value: usize,
    end: usize,
}

impl Pairs {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.0.first().copied().unwrap_or(0).into()
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        let place = self.find(field)?;
        Some(&self.0[place.value..place.end])
    }

    /// Sets a field; true if it is new. `None`, and nothing is changed, if there is no room.
    pub fn put(&mut self, field: &[u8], value: &[u8]) -> Option<bool> {
        let place = self.find(field);
        if field.len() > SHORT_MAX
            || value.len() > SHORT_MAX
            || place.is_none() && self.len() >= PAIRS_MAX
        {
            return None;
        }
        if let Some(place) = place
            && place.end - place.value == value.len()
        {
            self.0[place.value..place.end].copy_from_slice(value);
            return Some(false);
        }
        let mut lens = [LONG, field.len() as u8, value.len() as u8];
        let lens = if field.len() < FIELDS && value.len() < VALUES {
            lens[0] = (field.len() * VALUES + value.len()) as u8;
            &lens[..1]
        } else {
            &lens[..]
        };
        match place {
            Some(place) => self.0.splice(place.start..place.end, &[lens, field, value]),
            None if self.0.is_empty() => self.0.splice(0..0, &[&[1], lens, field, value]),
            None => {
                let end = self.0.len();
                self.0.splice(end..end, &[lens, field, value]);
                self.0[0] += 1;
            }
        }
        Some(place.is_none())
    }

    /// Removes a field; true if it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let Some(place) = self.find(field) else {
            return false;
        };
        self.0.splice(place.start..place.end, &[]);
        self.0[0] -= 1;
        true
    }

    /// Fields and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut at = 1;
        std::iter::from_fn(move || {
            let place = self.place(at)?;
            at = place.end;
            Some((
                &self.0[place.field..place.value],
                &self.0[place.value..place.end],
            ))
        })
    }

    /// Bytes held.
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    #[inline]
    fn find(&self, field: &[u8]) -> Option<Place> {
        let mut at = 1;
        while let Some(place) = self.place(at) {
            if place.value - place.field == field.len()
                && self.0[place.field..place.value] == *field
            {
                return Some(place);
            }
            at = place.end;
        }
        None
    }

    /// The pair that begins at an offset, if it is not the end.
    #[inline]
    fn place(&self, start: usize) -> Option<Place> {
        let (head, field, value) = match *self.0.get(start..)? {
            [LONG, field, value, ..] => (3, field.into(), value.into()),
            [lens, ..] => (1, usize::from(lens) / VALUES, usize::from(lens) % VALUES),
            [] => return None,
        };
        let field_at = start + head;
        Some(Place {
            start,
            field: field_at,
            value: field_at + field,
            end: field_at + field + value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_all_lengths_are_found_again() {
        let text = |len: usize, at: usize| vec![b'a' + (at % 26) as u8; len];
        for base in [0, 6, 12, 20, 60] {
            let mut pairs = Pairs::default();
            for len in base..base + 5 {
                for longest in [0, 10, 20, 21, 64] {
                    assert_eq!(
                        pairs.put(&text(len, len), &text(longest, 1)),
                        Some(longest == 0)
                    );
                    assert_eq!(pairs.get(&text(len, len)), Some(&text(longest, 1)[..]));
                }
            }
            assert_eq!((pairs.len(), pairs.iter().count()), (5, 5));
            assert!(
                pairs.put(&text(65, 1), b"").is_none() && pairs.put(b"", &text(65, 1)).is_none()
            );
            assert!(pairs.remove(&text(base + 1, base + 1)) && !pairs.remove(b"absent"));
            assert_eq!(pairs.get(&text(base + 2, base + 2)), Some(&text(64, 1)[..]));
        }
    }

    #[test]
    fn short_pairs_cost_one_byte_each() {
        let mut pairs = Pairs::default();
        for at in 0..10 {
            pairs.put(format!("f{at}").as_bytes(), &[b'v'; 16]);
        }
        assert_eq!((pairs.0.len(), pairs.heap_bytes()), (191, 192));
    }
}
