//! Memory that the kernel reads or writes: mapped regions, the receive buffers over one of them, and
//! the shared ring through which the kernel picks receive buffers.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// Miri, which runs the tests below, knows the first two alone.
const MAP_FLAGS: libc::c_int =
    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };

/// Anonymous zeroed memory, page aligned, not yet touched. Unmapped on drop unless leaked.
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
    leaked: bool,
}

impl Region {
    /// # Errors
    /// The kernel has no memory.
    pub fn new(len: usize) -> io::Result<Region> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory
        // of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                MAP_FLAGS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start =
            NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Region {
            start,
            len,
            leaked: false,
        })
    }

    /// Asks for huge pages; a hint, failure does not matter.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: the range is our own live mapping, and this advice does not change its bytes.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "inside the region");
        // SAFETY: the result stays inside the one mapping, as just asserted.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Keeps the mapping for ever, because the kernel may still write to it.
    pub fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: our own mapping, made in `new`; the owner drops it only when neither the kernel
            // nor a slice refers to it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

/// The receive buffers of a core: either picked by the kernel from a shared ring, or by us from a
/// free list.
pub(crate) struct Buffers {
    region: Region,
    len: u32,
    /// What each buffer is doing; decides who may touch it.
    states: Vec<State>,
    /// Buffers that neither the kernel nor the caller holds, below the shared-ring level only.
    free: Vec<u32>,
    ring: Option<BufferRing>,
    /// Buffers that were not handed out at first; added when the others run out.
    reserve: u32,
    in_use: u32,
    /// Buffers that the shared ring holds, less those whose completions were reaped.
    offered: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The kernel may write to it, or it lies idle.
    Ours,
    /// The caller may read this many bytes.
    Leased(u32),
    /// Not in circulation yet.
    Reserve,
}

impl Buffers {
    /// `count + reserve` buffers of `len` bytes, none of them touched yet.
    pub fn new(count: u32, reserve: u32, len: u32) -> io::Result<Buffers> {
        let total = count + reserve;
        let region = Region::new(total as usize * len as usize)?;
        let mut states = vec![State::Ours; count as usize];
        states.resize(total as usize, State::Reserve);
        Ok(Buffers {
            region,
            len,
            states,
            free: (0..count).rev().collect(),
            ring: None,
            reserve,
            in_use: count,
            offered: 0,
        })
    }

    /// Hands all free buffers to the kernel through `ring`, which is already registered.
    pub fn attach(&mut self, ring: BufferRing) {
        self.ring = Some(ring);
        for buffer in std::mem::take(&mut self.free).into_iter().rev() {
            self.offer(buffer);
        }
        self.publish();
    }

    pub fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    pub fn buffer_len(&self) -> u32 {
        self.len
    }

    fn offer(&mut self, buffer: u32) {
        let address = self.region.at(buffer as usize * self.len as usize) as u64;
        match &mut self.ring {
            Some(ring) => {
                ring.push(address, self.len, buffer as u16);
                self.offered += 1;
            }
            None => self.free.push(buffer),
        }
    }

    /// Shows the kernel what was given back. Once a turn is enough.
    #[inline]
    pub fn publish(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.publish();
        }
    }

    /// Brings the reserve into circulation. True if there was one.
    pub fn add_reserve(&mut self) -> bool {
        if self.reserve == 0 {
            return false;
        }
        for buffer in self.in_use..self.in_use + self.reserve {
            self.states[buffer as usize] = State::Ours;
            self.offer(buffer);
        }
        self.in_use += self.reserve;
        self.reserve = 0;
        true
    }

    /// Buffers that a receive could get now, as far as reaped completions tell.
    pub fn free(&self) -> u32 {
        if self.ring.is_some() {
            self.offered
        } else {
            self.free.len() as u32
        }
    }

    /// The kernel picked this buffer from the shared ring.
    #[inline]
    pub fn picked(&mut self) {
        self.offered = self.offered.saturating_sub(1);
    }

    /// True while armed receives may hold a buffer each: enough are left for those that poll first.
    pub fn is_plentiful(&self) -> bool {
        2 * self.free.len() > self.in_use as usize
    }

    /// A buffer for one receive, from the free list.
    pub fn take(&mut self) -> Option<(u32, *mut u8)> {
        let buffer = self.free.pop()?;
        Some((buffer, self.region.at(buffer as usize * self.len as usize)))
    }

    /// The kernel filled `len` bytes of the buffer: it is the caller's now.
    #[inline]
    pub fn lease(&mut self, buffer: u32, len: u32) {
        assert!(
            len <= self.len,
            "the kernel keeps to the length it was given"
        );
        debug_assert!(
            self.states[buffer as usize] == State::Ours,
            "a buffer has one owner"
        );
        self.states[buffer as usize] = State::Leased(len);
    }

    /// The kernel is done with the buffer and nobody will read it.
    #[inline]
    pub fn unused(&mut self, buffer: u32) {
        self.offer(buffer);
    }

    /// The caller is done with the buffer. A buffer that is not leased here stays as it is.
    #[inline]
    pub fn give_back(&mut self, buffer: u32) {
        let Some(state @ State::Leased(_)) = self.states.get_mut(buffer as usize) else {
            return;
        };
        *state = State::Ours;
        self.unused(buffer);
    }

    /// The leased bytes; nothing for a buffer that is not leased here.
    #[inline]
    pub fn leased(&self, buffer: u32) -> &[u8] {
        let Some(&State::Leased(len)) = self.states.get(buffer as usize) else {
            return &[];
        };
        let start = self.region.at(buffer as usize * self.len as usize);
        // SAFETY: `len` is at most the buffer's length, so the bytes lie in our mapping. While the
        // state says leased the kernel does not have the buffer; giving it back needs `&mut self`,
        // which the returned borrow forbids.
        unsafe { std::slice::from_raw_parts(start, len as usize) }
    }

    pub fn leak(&mut self) {
        self.region.leak();
        if let Some(ring) = &mut self.ring {
            ring.region.leak();
        }
    }
}

/// The ring of free buffers that we fill and the kernel empties.
pub(crate) struct BufferRing {
    region: Region,
    mask: u16,
    tail: u16,
}

impl BufferRing {
    /// # Errors
    /// Out of memory.
    pub fn new(entries: u16) -> io::Result<BufferRing> {
        assert!(entries.is_power_of_two(), "the kernel masks indices");
        let region = Region::new(usize::from(entries) * size_of::<BufRingEntry>())?;
        Ok(BufferRing {
            region,
            mask: entries - 1,
            tail: 0,
        })
    }

    pub fn address(&self) -> u64 {
        self.region.at(0) as u64
    }

    pub fn entries(&self) -> u16 {
        self.mask + 1
    }

    #[inline]
    fn push(&mut self, address: u64, len: u32, buffer: u16) {
        let at = usize::from(self.tail & self.mask) * size_of::<BufRingEntry>();
        let entry = self.region.at(at).cast::<BufRingEntry>();
        // SAFETY: the entry lies in our mapping, which is page aligned and all entries are 16 bytes.
        // There are at least as many entries as buffers, so the kernel has consumed this one, and it
        // reads no entry beyond the tail that `publish` shows it. The three setters leave the last
        // two bytes alone, where entry 0 holds the tail.
        unsafe {
            (*entry).set_addr(address);
            (*entry).set_len(len);
            (*entry).set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    #[inline]
    fn publish(&mut self) {
        let first = self.region.at(0).cast::<BufRingEntry>();
        // SAFETY: `first` is the start of our live mapping of entries; the tail is two aligned bytes
        // of it that only this thread writes and the kernel reads atomically.
        let tail = unsafe { &*BufRingEntry::tail(first).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_can_be_read_until_it_is_given_back_once() {
        let mut buffers = Buffers::new(2, 0, 64).unwrap();
        let (buffer, start) = buffers.take().unwrap();
        // SAFETY: the buffer was just taken from the free list; nobody else has it.
        unsafe { start.copy_from(b"hello".as_ptr(), 5) };
        buffers.lease(buffer, 5);
        assert_eq!(buffers.leased(buffer), b"hello");
        buffers.give_back(buffer);
        buffers.give_back(buffer);
        assert_eq!(buffers.leased(buffer), b"");
        assert!(buffers.take().is_some() && buffers.take().is_some());
        assert!(buffers.take().is_none());
    }

    #[test]
    fn the_reserve_comes_in_once() {
        let mut buffers = Buffers::new(1, 2, 64).unwrap();
        assert!(buffers.take().is_some());
        assert!(buffers.take().is_none());
        assert!(buffers.add_reserve());
        assert!(!buffers.add_reserve());
        assert!(buffers.take().is_some() && buffers.take().is_some());
        assert!(buffers.take().is_none());
    }
}
