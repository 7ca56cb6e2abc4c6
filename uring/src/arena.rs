//! A core's memory for large sends: chunks of one size, pinned and known to the ring where the memlock
//! limit allows. A chunk has one owner who fills it; frozen it is [`Bytes`], shared and sent in pieces, and
//! free again once the last of these is gone, those included that the kernel still reads.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::bufs::Region;

/// The chunks of a core. They outlive the reactor while somebody has one.
pub(crate) struct Arena {
    region: Region,
    chunk_len: usize,
    /// A chunk may end its life on another thread.
    free: Mutex<Vec<u16>>,
}

// SAFETY: the region is plain memory that no thread owns, and is unmapped with the last owner. Who may
// touch which bytes is decided by `free`: a place is in there or belongs to one `Chunk`.
unsafe impl Send for Arena {}
// SAFETY: as above; a shared arena hands out addresses alone.
unsafe impl Sync for Arena {}

impl Arena {
    /// `count` chunks of at least `len` bytes, each of whole pages. None is touched yet.
    ///
    /// # Errors
    /// Out of memory; EINVAL for no chunk, none of any length, or more than a ring takes.
    pub fn new(count: u32, len: u32) -> io::Result<Arc<Arena>> {
        let chunk_len = (len as usize).next_multiple_of(PAGE);
        if count == 0 || len == 0 || count > COUNT_MAX {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let region = Region::new(count as usize * chunk_len)?;
        region.prefer_huge_pages();
        Ok(Arc::new(Arena {
            region,
            chunk_len,
            free: Mutex::new((0..count as u16).rev().collect()),
        }))
    }

    /// What to register, in the order of the chunks' numbers.
    pub fn chunks(&self) -> Vec<libc::iovec> {
        let starts = (0..self.region.len()).step_by(self.chunk_len);
        let chunk = |start| libc::iovec {
            iov_base: self.region.at(start).cast(),
            iov_len: self.chunk_len,
        };
        starts.map(chunk).collect()
    }

    /// A chunk that nobody has.
    pub fn take(self: &Arc<Arena>) -> Option<Chunk> {
        let number = self.free().pop()?;
        Some(Chunk {
            arena: self.clone(),
            number,
            len: 0,
        })
    }

    /// The number of the chunk that has all of `piece`.
    pub fn number_of(&self, piece: &[u8]) -> Option<u16> {
        let at = (piece.as_ptr() as usize).checked_sub(self.region.at(0) as usize)?;
        let (first, last) = (
            at / self.chunk_len,
            (at + piece.len().max(1) - 1) / self.chunk_len,
        );
        (at + piece.len() <= self.region.len() && first == last).then_some(first as u16)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u16>> {
        // Nothing panics with the list in hand.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some of a core's memory for large sends, in one hand. See [`Reactor::take_chunk`].
///
/// [`Reactor::take_chunk`]: crate::Reactor::take_chunk
pub struct Chunk {
    arena: Arc<Arena>,
    number: u16,
    /// Bytes filled so far.
    len: usize,
}

impl Chunk {
    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.arena.chunk_len - self.len
    }

    /// Appends as much as fits; how much that was.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let before = self.len;
        self.len += count;
        self[before..].copy_from_slice(&bytes[..count]);
        count
    }

    /// Makes it something to share and send. Its memory is free again after the last of it.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn start(&self) -> *mut u8 {
        let at = usize::from(self.number) * self.arena.chunk_len;
        self.arena.region.at(at)
    }
}

impl Deref for Chunk {
    type Target = [u8];

    /// What was filled.
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes lie in the arena's mapping, which `arena` keeps and which began as zeros. The
        // place is not in the free list, so this is its one owner, and the kernel at most reads it.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; a chunk that the kernel reads is frozen, and nobody has a `Chunk` that is.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk {} with {} bytes", self.number, self.len)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // There is room for all of them.
        self.arena.free().push(self.number);
    }
}

const PAGE: usize = 4096;
/// Chunks that every kernel registers at once.
const COUNT_MAX: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_free_again_after_the_last_of_it() {
        let arena = Arena::new(2, 4000).unwrap();
        let (mut one, other) = (arena.take().unwrap(), arena.take().unwrap());
        assert!(arena.take().is_none());
        assert_eq!((one.room(), one.put(b"hello")), (4096, 5));
        one[0] = b'j';
        let frozen = one.freeze();
        let end = frozen.slice(3..);
        drop(frozen);
        assert!(arena.take().is_none(), "a piece of it is still there");
        assert_eq!(&end[..], b"lo");
        let thread = std::thread::spawn(move || drop(end));
        thread.join().unwrap();
        let again = arena.take().unwrap();
        assert!(again.is_empty() && arena.take().is_none());
        drop(arena);
        drop((again, other));
    }

    #[test]
    fn no_more_goes_in_than_fits() {
        let arena = Arena::new(1, 4096).unwrap();
        let mut chunk = arena.take().unwrap();
        assert_eq!(chunk.put(&[1; 4000]), 4000);
        assert_eq!(chunk.put(&[2; 4000]), 96);
        assert_eq!((chunk.put(b"more"), chunk.room()), (0, 0));
        assert!(chunk[..4000].iter().all(|byte| *byte == 1));
        assert!(chunk[4000..].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn a_piece_is_known_by_where_it_lies() {
        let arena = Arena::new(3, 4096).unwrap();
        let chunks: Vec<Bytes> = (0..3)
            .map(|_| {
                let mut chunk = arena.take().unwrap();
                chunk.put(&[0; 4096]);
                chunk.freeze()
            })
            .collect();
        for (number, chunk) in chunks.iter().enumerate() {
            for piece in [&chunk[..], &chunk[..1], &chunk[4095..], &chunk[10..20]] {
                assert_eq!(arena.number_of(piece), Some(number as u16));
            }
        }
        assert_eq!(arena.number_of(&[0; 4096]), None);
        assert!(Arena::new(0, 1).is_err() && Arena::new(1, 0).is_err());
        assert!(Arena::new(COUNT_MAX + 1, 1).is_err());
    }
}
