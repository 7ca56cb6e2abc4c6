//! Bytes in memory of exactly their size: what small collections are made of.

use std::ops::{Deref, DerefMut, Range};

/// Bytes without spare room. There can be very many blocks, so room to grow would cost more than it
/// saves: an allocator rounds sizes up to classes anyway, and a change within the class moves nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Block(Box<[u8]>);

impl Block {
    /// Puts the parts, one behind the other, in the place of a range.
    pub fn splice(&mut self, range: Range<usize>, parts: &[&[u8]]) {
        let mut bytes = std::mem::take(&mut self.0).into_vec();
        let added: usize = parts.iter().map(|part| part.len()).sum();
        let old = bytes.len();
        bytes.reserve_exact(added.saturating_sub(range.len()));
        if range.start == old {
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
        } else {
            let new = old - range.len() + added;
            bytes.resize(old.max(new), 0);
            bytes.copy_within(range.end..old, range.start + added);
            bytes.truncate(new);
            let mut at = range.start;
            for part in parts {
                bytes[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        }
        self.0 = bytes.into_boxed_slice();
    }

    /// Bytes of memory held, as an allocator with four classes to each doubling rounds them.
    pub fn heap_bytes(&self) -> usize {
        let len = self.0.len();
        let step = 1 << (len.max(2) - 1).ilog2() >> 2;
        len.next_multiple_of(16.max(step))
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_grows_and_shrinks_in_the_middle() {
        let mut block = Block::default();
        block.splice(0..0, &[b"one", b"", b"three"]);
        block.splice(3..3, &[b"two"]);
        assert_eq!(&block[..], b"onetwothree");
        block.splice(0..6, &[b"1", b"2"]);
        assert_eq!(&block[..], b"12three");
        block.splice(2..7, &[]);
        block.splice(1..2, &[b"3"]);
        assert_eq!(&block[..], b"13");
        block.splice(0..2, &[]);
        assert_eq!((block.len(), block.heap_bytes()), (0, 0));
    }

    #[test]
    fn memory_is_counted_in_classes() {
        let held = |len: usize| {
            let mut block = Block::default();
            block.splice(0..0, &[&vec![0; len]]);
            block.heap_bytes()
        };
        let sizes = [1, 16, 17, 128, 129, 191, 193, 256, 257, 1100];
        let classes = [16, 16, 32, 128, 160, 192, 224, 256, 320, 1280];
        assert_eq!(sizes.map(held), classes);
    }
}
