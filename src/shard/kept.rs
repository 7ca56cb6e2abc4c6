//! What was sent of a snapshot and may not have arrived, so that a replica whose connection is lost goes on
//! with it over the next one.

use std::collections::VecDeque;

use bytes::Bytes;

use super::chunks::{CHUNK_LEN, FRAME_LEN};
use crate::base::Ms;

/// So long somebody may be away.
pub(super) const AWAY_MS: Ms = 10_000;

/// See the module page.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Of which snapshot.
    pub ship: u64,
    /// Once all of it was sent: the offset of the frame behind it.
    pub landed: Option<u64>,
    /// As they were sent: the image in chunks of the wire, then its end and what belongs behind it.
    pieces: VecDeque<Bytes>,
    /// Bytes that stood before the first of them.
    from: u64,
    len: usize,
}

/// A replica that is away within its snapshot.
pub(super) struct Away {
    pub own: usize,
    /// How it calls itself.
    pub id: String,
    pub kept: Kept,
    pub since: Ms,
}

impl Kept {
    /// Nothing was sent yet.
    pub fn new(ship: u64) -> Self {
        Self {
            ship,
            landed: None,
            pieces: VecDeque::new(),
            from: 0,
            len: 0,
        }
    }

    /// This is sent.
    pub fn extend(&mut self, pieces: &[Bytes]) {
        self.len += pieces.iter().map(Bytes::len).sum::<usize>();
        self.pieces.extend(pieces.iter().cloned());
    }

    /// Bytes that are kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The replica has so many bytes of the image.
    pub fn arrived(&mut self, image: u64) {
        let (before, _) = place(image);
        while let Some(first) = self.pieces.front()
            && self.from + first.len() as u64 <= before
        {
            self.from += first.len() as u64;
            self.len -= first.len();
            self.pieces.pop_front();
        }
    }

    /// What is to be sent to who has so many bytes of the image; `None` if that is not here.
    pub fn rest(&self, image: u64) -> Option<Vec<Bytes>> {
        let (before, had) = place(image);
        let mut skip = usize::try_from(before.checked_sub(self.from)?).ok()?;
        let mut rest = Vec::new();
        for piece in &self.pieces {
            let now = skip.min(piece.len());
            skip -= now;
            if now < piece.len() {
                rest.push(piece.slice(now..));
            }
        }
        if skip > 0 {
            return None;
        }
        if had > 0 {
            // Of a chunk a part has arrived: what is left is a shorter one.
            let first = rest.first()?.clone();
            let head = first.iter().position(|byte| *byte == b'\n')? + 1;
            let digits = first.strip_prefix(b"$")?.get(..head.checked_sub(3)?)?;
            let len: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
            let left = len.checked_sub(had)?;
            let last = match left {
                0 => vec![first.slice(head + len + 2..)],
                _ => vec![format!("${left}\r\n").into(), first.slice(head + had..)],
            };
            rest.splice(..1, last);
            rest.retain(|piece| !piece.is_empty());
        }
        Some(rest)
    }
}

/// Where the chunk begins that has a byte of the image, and how many bytes of the chunk stand before that.
fn place(image: u64) -> (u64, usize) {
    let (chunk, had) = (image / CHUNK_LEN as u64, image % CHUNK_LEN as u64);
    (chunk.saturating_mul(FRAME_LEN as u64), had as usize)
}

#[cfg(test)]
mod tests {
    use super::{super::chunks::Chunks, *};
    use crate::repl::wire::{Item, Parser, WireLimits};

    /// An image as it is sent, with its end.
    fn sent(image: &[u8]) -> Vec<Bytes> {
        let mut chunks = Chunks::default();
        let mut out = Vec::new();
        for part in image.chunks(10_000) {
            chunks.put(part, &mut || None);
            chunks.take_ready(&mut out);
        }
        chunks.finish();
        chunks.take_ready(&mut out);
        out.push(Bytes::from_static(b"+SNAPSHOT_END 9 9\r\n"));
        out
    }

    /// The image, or the part of it, that a replica finds in what was sent.
    fn read(pieces: &[Bytes]) -> Option<Vec<u8>> {
        let mut bytes = b"+ACK 1 0 0 0\r\n+SNAPSHOT 7\r\n".to_vec();
        bytes.extend(pieces.iter().flatten());
        let (mut parser, mut at, mut image) = (Parser::new(WireLimits::default()), 0, Vec::new());
        loop {
            let step = parser.next(&bytes[at..]).ok()??;
            match step.item {
                Item::Chunk { start, end } => image.extend(&bytes[at + start..at + end]),
                Item::SnapshotEnd { .. } => return Some(image),
                _ => {}
            }
            at += step.used;
        }
    }

    #[test]
    fn the_rest_goes_on_behind_any_byte() {
        for len in [
            1,
            CHUNK_LEN - 1,
            CHUNK_LEN,
            CHUNK_LEN + 1,
            12 * CHUNK_LEN + 77,
        ] {
            let image: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
            let mut kept = Kept::new(7);
            kept.extend(&sent(&image));
            assert_eq!(read(&kept.rest(0).unwrap()).as_ref(), Some(&image));
            for at in [
                1,
                2,
                9_999,
                CHUNK_LEN - 1,
                CHUNK_LEN,
                CHUNK_LEN + 1,
                9 * CHUNK_LEN + 5,
                len - 1,
                len,
            ] {
                let had = at.min(len);
                let rest = kept.rest(had as u64).unwrap();
                assert_eq!(
                    read(&rest).as_deref(),
                    Some(&image[had..]),
                    "{had} of {len}"
                );
            }
            // Nobody has more than there is.
            assert!(kept.rest(len as u64 + 1 + 2 * CHUNK_LEN as u64).is_none());
        }
    }

    #[test]
    fn what_has_arrived_is_kept_no_longer_and_cannot_be_sent_again() {
        let image = vec![1; 40 * CHUNK_LEN];
        let mut kept = Kept::new(7);
        kept.extend(&sent(&image));
        let all = kept.len();
        kept.arrived(20 * CHUNK_LEN as u64 + 3);
        assert!(
            kept.len() < all * 7 / 10 && kept.len() > all * 4 / 10,
            "{} of {all}",
            kept.len()
        );
        assert!(kept.rest(5).is_none());
        let had = 20 * CHUNK_LEN + 3;
        assert_eq!(
            read(&kept.rest(had as u64).unwrap()).as_deref(),
            Some(&image[had..])
        );
    }
}
