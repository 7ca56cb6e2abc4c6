//! A short list of short byte strings in one block of memory: the form of small sets.

use super::block::Block;

/// At most 255 byte strings of at most 255 bytes each: their number, then one behind the other, each
/// behind its length. Empty, it holds nothing. An item is named by the place of its length byte; places
/// are valid until the next change.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed(Block);

impl Packed {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.0.first().copied().unwrap_or(0).into()
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = self.0.get(1..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first()?;
            let (item, behind) = behind.split_at(usize::from(*len));
            rest = behind;
            Some(item)
        })
    }

    /// The place of an item.
    pub fn find(&self, text: &[u8]) -> Option<usize> {
        let mut place = 1;
        while place < self.0.len() {
            let after = self.after(place);
            if after - place - 1 == text.len() && self.0[place + 1..after] == *text {
                return Some(place);
            }
            place = after;
        }
        None
    }

    /// Appends an item; one that is too long, or one too many, is a bug of the caller.
    pub fn push(&mut self, text: &[u8]) {
        assert!(
            text.len() <= 255 && self.len() < 255,
            "too much for a packed list"
        );
        if self.0.is_empty() {
            self.0.splice(0..0, &[&[1, text.len() as u8], text]);
        } else {
            let end = self.0.len();
            self.0.splice(end..end, &[&[text.len() as u8], text]);
            self.0[0] += 1;
        }
    }

    /// Removes the item at a place.
    pub fn remove(&mut self, place: usize) {
        self.0.splice(place..self.after(place), &[]);
        self.0[0] -= 1;
    }

    /// Bytes held.
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    /// The place behind an item, which is the next item's.
    fn after(&self, place: usize) -> usize {
        place + 1 + usize::from(self.0[place])
    }
}
