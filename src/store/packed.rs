//! A short list of short byte strings in one block of memory: the form of small hashes and sets.

/// Byte strings of at most 255 bytes each, one behind the other, each behind its length. An item is
/// named by the place of its length byte; places are valid until the next change.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    items: u16,
}

impl Packed {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.into()
    }

    /// The item at a place.
    pub fn item(&self, place: usize) -> &[u8] {
        &self.bytes[place + 1..self.after(place)]
    }

    /// The place behind an item, which is the next item's.
    pub fn after(&self, place: usize) -> usize {
        place + 1 + usize::from(self.bytes[place])
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first()?;
            let (item, behind) = behind.split_at(usize::from(*len));
            rest = behind;
            Some(item)
        })
    }

    /// The place of an item. With `step` 2 only every second item is looked at, the first included.
    pub fn find(&self, text: &[u8], step: usize) -> Option<usize> {
        let mut place = 0;
        while place < self.bytes.len() {
            if usize::from(self.bytes[place]) == text.len() && self.item(place) == text {
                return Some(place);
            }
            for _ in 0..step {
                place = self.after(place);
            }
        }
        None
    }

    /// The place of item number `at`, which must exist.
    pub fn nth(&self, at: usize) -> usize {
        (0..at).fold(0, |place, _| self.after(place))
    }

    /// Appends an item of at most 255 bytes.
    pub fn push(&mut self, text: &[u8]) {
        let len = short_len(text);
        // Small blocks grow in small steps: there can be very many of them.
        let need = self.bytes.len() + 1 + text.len();
        if need > self.bytes.capacity() {
            let room = (need + need / 4).next_multiple_of(16);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.push(len);
        self.bytes.extend_from_slice(text);
        self.items += 1;
    }

    /// Puts another text of at most 255 bytes in the place of an item.
    pub fn replace(&mut self, place: usize, text: &[u8]) {
        let (start, end) = (place + 1, self.after(place));
        if end - start == text.len() {
            self.bytes[start..end].copy_from_slice(text);
            return;
        }
        self.bytes[place] = short_len(text);
        self.bytes.splice(start..end, text.iter().copied());
    }

    /// Removes `count` items from a place on.
    pub fn remove(&mut self, place: usize, count: u16) {
        let end = (0..count).fold(place, |place, _| self.after(place));
        self.bytes.drain(place..end);
        self.items -= count;
    }

    /// Bytes held.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The length of an item; a longer one is a bug of the caller.
fn short_len(text: &[u8]) -> u8 {
    assert!(text.len() <= 255, "an item too long for a packed list");
    text.len() as u8
}
