//! The listpack: a run of byte strings and integers in one block, readable from both ends.
//!
//! `bytes in all (4) | items (2) | item ... | 0xff`, each item being `head, data | size of both` with the
//! size written backwards. Strings that are integers in their one canonical form are kept as such.

use super::Damaged;
use crate::base::parse_i64;

const HEAD: usize = 6;
const END: u8 = 0xff;

/// An item of a listpack or of one of its ancestors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    Text(&'a [u8]),
    Int(i64),
}

impl Item<'_> {
    /// The bytes that the item stands for.
    pub fn text<'b>(&'b self, digits: &'b mut itoa::Buffer) -> &'b [u8] {
        match self {
            Item::Text(text) => text,
            Item::Int(value) => digits.format(*value).as_bytes(),
        }
    }

    /// The item as an integer; no text of a listpack is one.
    pub fn int(self) -> Result<i64, Damaged> {
        match self {
            Item::Int(value) => Ok(value),
            Item::Text(_) => Err(Damaged),
        }
    }
}

/// Builds a listpack.
pub struct Builder {
    bytes: Vec<u8>,
    items: usize,
}

impl Builder {
    pub fn new() -> Self {
        Self {
            bytes: vec![0; HEAD],
            items: 0,
        }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Bytes that the finished listpack will have.
    pub fn size(&self) -> usize {
        self.bytes.len() + 1
    }

    pub fn push(&mut self, text: &[u8]) {
        if let Some(value) = parse_i64(text) {
            return self.push_int(value);
        }
        let from = self.bytes.len();
        match text.len() {
            len @ 0..64 => self.bytes.push(0x80 | len as u8),
            len @ 64..4096 => self.bytes.extend([0xe0 | (len >> 8) as u8, len as u8]),
            len => {
                self.bytes.push(0xf0);
                self.bytes.extend((len as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(text);
        self.end_item(from);
    }

    pub fn push_int(&mut self, value: i64) {
        let from = self.bytes.len();
        let bytes = value.to_le_bytes();
        match value {
            0..128 => self.bytes.push(value as u8),
            -4096..4096 => self.bytes.extend([0xc0 | bytes[1] & 0x1f, bytes[0]]),
            _ => {
                let (head, size) = match value {
                    -0x8000..0x8000 => (0xf1, 2),
                    -0x80_0000..0x80_0000 => (0xf2, 3),
                    -0x8000_0000..0x8000_0000 => (0xf3, 4),
                    _ => (0xf4, 8),
                };
                self.bytes.push(head);
                self.bytes.extend_from_slice(&bytes[..size]);
            }
        }
        self.end_item(from);
    }

    /// Changes the first item, which is an integer below 128, to another such.
    pub fn set_first(&mut self, value: u8) {
        self.bytes[HEAD] = value;
    }

    fn end_item(&mut self, from: usize) {
        let size = self.bytes.len() - from;
        let mut back = [0; 5];
        let len = back_size(size, &mut back);
        self.bytes.extend_from_slice(&back[..len]);
        self.items += 1;
    }

    /// The whole, ready to be kept.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(END);
        let len = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        // Too many to be counted: readers walk it.
        let items = u16::try_from(self.items).unwrap_or(u16::MAX);
        self.bytes[4..HEAD].copy_from_slice(&items.to_le_bytes());
        self.bytes
    }
}

/// Writes an item's size as it is read from behind: seven bits a byte, the last byte the lowest, all but
/// the first marked. How many bytes that took.
fn back_size(size: usize, back: &mut [u8; 5]) -> usize {
    let len = match size {
        0..128 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    for (at, byte) in back[..len].iter_mut().enumerate() {
        let bits = (size >> (7 * (len - 1 - at))) as u8 & 0x7f;
        *byte = if at == 0 { bits } else { bits | 0x80 };
    }
    len
}

/// The items of a listpack from the first one on, each checked when it is met.
pub struct Items<'a> {
    rest: &'a [u8],
    /// How many the head says are left; `None` where it does not say.
    left: Option<u16>,
}

impl<'a> Items<'a> {
    /// Opens a listpack.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(Damaged)?;
        let (size, items) = (
            u32::from_le_bytes([head[0], head[1], head[2], head[3]]),
            u16::from_le_bytes([head[4], head[5]]),
        );
        if size as usize != bytes.len() {
            return Err(Damaged);
        }
        Ok(Self {
            rest,
            left: (items != u16::MAX).then_some(items),
        })
    }

    /// The next item; `None` once at its proper end.
    pub fn next(&mut self) -> Result<Option<Item<'a>>, Damaged> {
        let (item, size) = match *self.rest {
            [END] => {
                return if self.left.unwrap_or(0) == 0 {
                    Ok(None)
                } else {
                    Err(Damaged)
                };
            }
            [head @ 0..0x80, ..] => (Item::Int(head.into()), 1),
            [head @ 0x80..0xc0, ..] => self.slice(1, usize::from(head & 0x3f))?,
            [head @ 0xc0..0xe0, low, ..] => {
                let bits = i16::from(head & 0x1f) << 8 | i16::from(low);
                // Thirteen bits, the highest of them the sign.
                (Item::Int(i64::from(bits << 3 >> 3)), 2)
            }
            [head @ 0xe0..=0xef, low, ..] => {
                self.slice(2, usize::from(head & 0xf) << 8 | usize::from(low))?
            }
            [0xf0, a, b, c, d, ..] => self.slice(5, u32::from_le_bytes([a, b, c, d]) as usize)?,
            [head @ 0xf1..=0xf4, ref data @ ..] => {
                let size = [2, 3, 4, 8][usize::from(head - 0xf1)];
                (Item::Int(int(data.get(..size).ok_or(Damaged)?)), 1 + size)
            }
            _ => return Err(Damaged),
        };
        let mut back = [0; 5];
        let len = back_size(size, &mut back);
        let (_, behind) = self.rest.split_at_checked(size).ok_or(Damaged)?;
        self.rest = behind.strip_prefix(&back[..len]).ok_or(Damaged)?;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or(Damaged)?;
        }
        Ok(Some(item))
    }

    /// An item that must be there.
    pub fn take(&mut self) -> Result<Item<'a>, Damaged> {
        self.next()?.ok_or(Damaged)
    }

    fn slice(&self, head: usize, len: usize) -> Result<(Item<'a>, usize), Damaged> {
        let text = self.rest.get(head..head + len).ok_or(Damaged)?;
        Ok((Item::Text(text), head + len))
    }
}

/// A little-endian integer of two to eight bytes, with its sign.
pub fn int(bytes: &[u8]) -> i64 {
    let mut wide = [0; 8];
    // Into the upper end, so that the shift back brings the sign down.
    wide[8 - bytes.len()..].copy_from_slice(bytes);
    i64::from_le_bytes(wide) >> (64 - 8 * bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Damaged> {
        let mut items = Items::open(bytes)?;
        let mut texts = Vec::new();
        while let Some(item) = items.next()? {
            texts.push(item.text(&mut itoa::Buffer::new()).to_vec());
        }
        Ok(texts)
    }

    fn build<'a>(items: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut builder = Builder::new();
        items.into_iter().for_each(|item| builder.push(item));
        builder.finish()
    }

    #[test]
    fn the_bytes_are_those_of_redis() {
        let bytes = build([&b"a"[..], b"1", b"-1", b"300"]);
        let want = [
            18, 0, 0, 0, 4, 0, 0x81, b'a', 2, 1, 1, 0xdf, 0xff, 2, 0xc1, 0x2c, 2, 0xff,
        ];
        assert_eq!(bytes, want);
    }

    #[test]
    fn every_size_comes_back() {
        let mut all: Vec<Vec<u8>> = [0, 1, 63, 64, 127, 128, 4095, 4096, 16_380, 16_400, 70_000]
            .map(|len| vec![b'x'; len])
            .into();
        for bits in 0..64 {
            for value in [
                1i64 << bits,
                -(1i64 << bits.min(62)),
                (1i64 << bits).wrapping_sub(1),
            ] {
                all.push(value.to_string().into_bytes());
            }
        }
        all.push(b"-0".to_vec());
        let bytes = build(all.iter().map(Vec::as_slice));
        assert_eq!(texts(&bytes), Ok(all));
    }

    proptest! {
        #[test]
        fn a_damaged_one_is_read_to_an_end(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = build(items.iter().map(Vec::as_slice));
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(texts) = texts(&bytes) {
                prop_assert!(texts.len() < bytes.len());
            }
        }
    }
}
