//! An image on its way to replicas: framed as they take it, in the memory that it is sent from.
//!
//! That is the core's memory for large sends, and ordinary memory while all of that is in use. Chunks of the
//! wire never cross from one block of memory to the next, so that the last one can be made shorter.

use bytes::Bytes;
use uring::Chunk;

/// What a kevy replica takes as one chunk.
pub(super) const CHUNK_LEN: usize = 65_536;
const HEADER: &[u8] = b"$65536\r\n";
const END: &[u8] = b"\r\n";
pub(super) const FRAME_LEN: usize = HEADER.len() + CHUNK_LEN + END.len();
/// Bytes of a block: large enough that a larger one saves nothing when it is sent.
pub(super) const BLOCK_LEN: usize = 8 * FRAME_LEN;

/// See the module page.
#[derive(Default)]
pub(super) struct Chunks {
    block: Option<Block>,
    /// Where the open chunk of the wire begins in the block, and bytes that it has.
    open: Option<(usize, usize)>,
    ready: Vec<Bytes>,
    /// Bytes in memory for large sends, and all.
    total: (u64, u64),
}

enum Block {
    Large(Chunk),
    Other(Vec<u8>),
}

impl Chunks {
    /// Appends to the image; `take` has blocks of [`BLOCK_LEN`] bytes or more.
    pub fn put(&mut self, mut bytes: &[u8], take: &mut dyn FnMut() -> Option<Chunk>) {
        while !bytes.is_empty() {
            let (start, had) = match self.open {
                Some(open) => open,
                None => (self.begin(take), 0),
            };
            let Some(block) = &mut self.block else {
                return;
            };
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_LEN - had));
            block.put(now);
            bytes = rest;
            let has = had + now.len();
            self.open = (has < CHUNK_LEN).then_some((start, has));
            if self.open.is_none() {
                block.put(END);
            }
        }
    }

    /// Begins a chunk of the wire; where that is in the block.
    fn begin(&mut self, take: &mut dyn FnMut() -> Option<Chunk>) -> usize {
        if self
            .block
            .as_ref()
            .is_some_and(|block| block.room() < FRAME_LEN)
        {
            self.seal(0);
        }
        let block = self.block.get_or_insert_with(|| match take() {
            Some(chunk) if chunk.room() >= FRAME_LEN => Block::Large(chunk),
            _ => Block::Other(Vec::with_capacity(BLOCK_LEN)),
        });
        let start = block.bytes().len();
        block.put(HEADER);
        start
    }

    /// The block is full; so many bytes of it are not sent.
    fn seal(&mut self, gap: usize) {
        if let Some(block) = self.block.take() {
            let len = (block.bytes().len() - gap) as u64;
            let is_large = matches!(block, Block::Large(_));
            self.total = (
                self.total.0 + if is_large { len } else { 0 },
                self.total.1 + len,
            );
            self.ready.push(block.freeze());
        }
    }

    /// The image is complete: its last chunk is as long as it is.
    pub fn finish(&mut self) {
        let Some((start, has)) = self.open.take() else {
            return self.seal(0);
        };
        let header = format!("${has}\r\n");
        let gap = HEADER.len() - header.len();
        if let Some(block) = &mut self.block {
            block.put(END);
            block.bytes_mut()[start + gap..start + HEADER.len()].copy_from_slice(header.as_bytes());
        }
        self.seal(gap);
        if let Some(all) = self.ready.pop() {
            let before = all.slice(..start);
            self.ready.extend([before, all.slice(start + gap..)]);
            self.ready.retain(|piece| !piece.is_empty());
        }
    }

    /// Appends to `out` what can be sent.
    pub fn take_ready(&mut self, out: &mut Vec<Bytes>) {
        out.append(&mut self.ready);
    }

    /// Bytes so far that lie in memory for large sends, and all.
    pub fn total(&self) -> (u64, u64) {
        self.total
    }
}

impl Block {
    fn room(&self) -> usize {
        match self {
            Block::Large(chunk) => chunk.room(),
            Block::Other(bytes) => BLOCK_LEN - bytes.len(),
        }
    }

    /// What is put fits.
    fn put(&mut self, bytes: &[u8]) {
        match self {
            Block::Large(chunk) => {
                chunk.put(bytes);
            }
            Block::Other(other) => other.extend_from_slice(bytes),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Block::Large(chunk) => chunk,
            Block::Other(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Block::Large(chunk) => chunk,
            Block::Other(bytes) => bytes,
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Block::Large(chunk) => chunk.freeze(),
            Block::Other(bytes) => bytes.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uring::{Reactor, fake::FakeWorld, fake::Machine};

    /// The payloads of the chunks of the wire.
    fn payloads(mut wire: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !wire.is_empty() {
            let line = wire.iter().position(|byte| *byte == b'\r').unwrap();
            let len = std::str::from_utf8(&wire[1..line]).unwrap();
            let len: usize = len.parse().unwrap();
            assert_eq!((wire[0], &wire[line..line + 2]), (b'$', END));
            all.push(wire[line + 2..line + 2 + len].to_vec());
            assert_eq!(&wire[line + 2 + len..][..2], END);
            wire = &wire[line + 4 + len..];
        }
        all
    }

    #[test]
    fn any_image_is_framed_in_whole_chunks_and_one_shorter() {
        for len in [
            0,
            1,
            9,
            65_535,
            65_536,
            65_537,
            8 * CHUNK_LEN,
            19 * CHUNK_LEN + 77,
        ] {
            for step in [1_000, 65_536, 300_000] {
                // Two blocks of the first kind, then others.
                let mut reactor = FakeWorld::seeded(1).reactor(Machine(1));
                assert!(reactor.make_arena(2, BLOCK_LEN as u32).unwrap());
                let image: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
                let (mut chunks, mut out) = (Chunks::default(), Vec::new());
                for part in image.chunks(step) {
                    chunks.put(part, &mut || reactor.take_chunk());
                    chunks.take_ready(&mut out);
                }
                chunks.finish();
                chunks.take_ready(&mut out);
                let wire = out.concat();
                let (large, all) = chunks.total();
                assert_eq!(all, wire.len() as u64);
                assert_eq!(large, all.min(2 * BLOCK_LEN as u64));
                let found = payloads(&wire);
                assert!(found.concat() == image);
                let is_whole = |chunk: &Vec<u8>| chunk.len() == CHUNK_LEN;
                assert!(found.iter().rev().skip(1).all(is_whole));
                out.clear();
                assert!(reactor.take_chunk().is_some(), "its memory is free again");
            }
        }
    }
}
