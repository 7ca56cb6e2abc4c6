//! Objects under numbers, in chunks so that growing never moves them.

/// Numbered objects.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    /// The first free number, or [`NONE`].
    free: u32,
    len: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Used(T),
    /// The next free number.
    Free(u32),
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.len
    }

    /// One more than the largest number ever used.
    pub fn end(&self) -> u32 {
        let last = self.chunks.last().map_or(0, Vec::len);
        (self.chunks.len().saturating_sub(1) * CHUNK + last) as u32
    }

    pub fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free != NONE {
            let at = self.free;
            let slot = &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK];
            if let Slot::Free(next) = *slot {
                self.free = next;
            }
            *slot = Slot::Used(value);
            return at;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::new());
        }
        let at = self.end();
        assert!(at != NONE, "the slab is full");
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(Slot::Used(value));
        }
        at
    }

    /// The object under a number, if there is one.
    pub fn find(&self, at: u32) -> Option<&T> {
        match self
            .chunks
            .get(at as usize / CHUNK)?
            .get(at as usize % CHUNK)?
        {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// The object under a number in use.
    pub fn at(&self, at: u32) -> &T {
        match &self.chunks[at as usize / CHUNK][at as usize % CHUNK] {
            Slot::Used(value) => value,
            Slot::Free(_) => panic!("an object was used after its removal"),
        }
    }

    /// The object under a number in use, to change.
    pub fn at_mut(&mut self, at: u32) -> &mut T {
        match &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK] {
            Slot::Used(value) => value,
            Slot::Free(_) => panic!("an object was used after its removal"),
        }
    }

    pub fn remove(&mut self, at: u32) -> T {
        let slot = &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK];
        match std::mem::replace(slot, Slot::Free(self.free)) {
            Slot::Used(value) => {
                self.free = at;
                self.len -= 1;
                value
            }
            Slot::Free(_) => panic!("an object was removed twice"),
        }
    }

    /// Takes the object with the largest number out and its place away. Every `None` in between is
    /// a free place; [`end`](Slab::end) tells when nothing is left. No number is valid afterwards.
    pub fn pop(&mut self) -> Option<T> {
        let chunk = self.chunks.last_mut()?;
        let slot = chunk.pop();
        if chunk.is_empty() {
            self.chunks.pop();
        }
        match slot? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }
}

const CHUNK: usize = 256;
const NONE: u32 = u32::MAX;
