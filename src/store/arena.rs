//! Memory for small entries: cells of fixed sizes in pages that are given back when empty.
//!
//! A cell is named by its offset in the arena in units of eight bytes. Cells of one page have one
//! size; a free cell holds the number of the next free one of its page.

use std::fmt;

/// Cells of up to [`CELL_MAX`] bytes.
pub(super) struct Arena {
    pages: Vec<Option<Box<Page>>>,
    infos: Vec<Info>,
    /// Numbers of pages that were given back.
    vacant: Vec<u32>,
    /// By size class, the pages with a free cell.
    partial: [Vec<u32>; CLASSES],
    cells: usize,
    /// Bytes of the cells in use.
    live_bytes: usize,
}

type Page = [u8; PAGE_BYTES];

/// What is known of a page besides its bytes.
#[derive(Clone, Copy)]
struct Info {
    class: u8,
    /// Cells in use.
    live: u16,
    /// First free cell, in units from the start of the page.
    free: u16,
    /// Where cells begin that were never used.
    fresh: u16,
    /// Place in the list of pages with room.
    listed: u32,
}

impl Arena {
    pub fn new() -> Self {
        Self {
            pages: Vec::new(),
            infos: Vec::new(),
            vacant: Vec::new(),
            partial: [const { Vec::new() }; CLASSES],
            cells: 0,
            live_bytes: 0,
        }
    }

    /// Cells in use.
    #[cfg(test)]
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// Bytes of the cells in use, as large as they are.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Bytes of memory held, free cells of pages in use among them.
    pub fn bytes(&self) -> usize {
        (self.pages.len() - self.vacant.len()) * PAGE_BYTES
            + self.pages.len() * (8 + size_of::<Info>())
    }

    /// Takes a cell of at least `size` bytes, which must not exceed [`CELL_MAX`]. Its bytes are
    /// whatever they were.
    pub fn take(&mut self, size: usize) -> u64 {
        let class = class_of(size);
        let page = match self.partial[class].last() {
            Some(page) => *page as usize,
            None => self.add_page(class),
        };
        let units = units_of(class);
        let info = &mut self.infos[page];
        let at = if info.free != NONE {
            let at = info.free;
            let bytes = page_of(&self.pages, page);
            let from = usize::from(at) * UNIT;
            info.free = u16::from_le_bytes([bytes[from], bytes[from + 1]]);
            at
        } else {
            let at = info.fresh;
            info.fresh += units as u16;
            at
        };
        info.live += 1;
        self.cells += 1;
        self.live_bytes += units * UNIT;
        if info.free == NONE && usize::from(info.fresh) + units > PAGE_UNITS {
            self.unlist(page);
        }
        (page * PAGE_UNITS) as u64 + u64::from(at)
    }

    /// Gives a cell back.
    pub fn free(&mut self, cell: u64) {
        let (page, from) = split(cell);
        let info = &mut self.infos[page];
        assert!(info.live > 0, "a free cell was given back");
        let class = usize::from(info.class);
        let had_room = info.free != NONE || usize::from(info.fresh) + units_of(class) <= PAGE_UNITS;
        let next = std::mem::replace(&mut info.free, (from / UNIT) as u16);
        info.live -= 1;
        let empty = info.live == 0;
        self.cells -= 1;
        self.live_bytes -= units_of(class) * UNIT;
        if let Some(bytes) = &mut self.pages[page] {
            bytes[from..from + 2].copy_from_slice(&next.to_le_bytes());
        }
        if !had_room {
            self.list(page);
        }
        if empty {
            // The last page with room stays, or a key that comes and goes would cost a page each
            // time.
            if self.partial[class].len() > 1 {
                self.unlist(page);
                self.pages[page] = None;
                self.vacant.push(page as u32);
            } else {
                self.infos[page].free = NONE;
                self.infos[page].fresh = 0;
            }
        }
    }

    /// The bytes of a cell, and of whatever follows it in its page.
    #[inline]
    pub fn at(&self, cell: u64) -> &[u8] {
        let (page, from) = split(cell);
        &page_of(&self.pages, page)[from..]
    }

    /// The bytes of a cell, to change. What follows the cell must be left alone.
    #[inline]
    pub fn at_mut(&mut self, cell: u64) -> &mut [u8] {
        let (page, from) = split(cell);
        match &mut self.pages[page] {
            Some(bytes) => &mut bytes[from..],
            None => panic!("a cell of a page that was given back"),
        }
    }

    /// True if an entry of `new` bytes goes where one of `old` bytes is.
    #[inline]
    pub fn same_class(old: usize, new: usize) -> bool {
        class_of(old) == class_of(new)
    }

    /// Size of the cell that an entry of `size` bytes takes.
    pub fn cell_bytes(size: usize) -> usize {
        units_of(class_of(size)) * UNIT
    }

    /// Gives one page's memory back, whatever is in it; false once nothing is left. The arena is of
    /// no use afterwards.
    pub fn free_page(&mut self) -> bool {
        let page = self.pages.pop();
        if matches!(page, Some(None)) {
            // Which of them it is matters no more, but how many there are does.
            self.vacant.pop();
        }
        page.is_some()
    }

    fn add_page(&mut self, class: usize) -> usize {
        let bytes: Box<[u8]> = vec![0; PAGE_BYTES].into_boxed_slice();
        let Ok(bytes) = bytes.try_into() else {
            unreachable!("the slice has a page's length")
        };
        let info = Info {
            class: class as u8,
            live: 0,
            free: NONE,
            fresh: 0,
            listed: 0,
        };
        let page = match self.vacant.pop() {
            Some(page) => {
                self.pages[page as usize] = Some(bytes);
                self.infos[page as usize] = info;
                page as usize
            }
            None => {
                assert!(self.pages.len() < PAGES_MAX, "the arena is full");
                self.pages.push(Some(bytes));
                self.infos.push(info);
                self.pages.len() - 1
            }
        };
        self.list(page);
        page
    }

    fn list(&mut self, page: usize) {
        let list = &mut self.partial[usize::from(self.infos[page].class)];
        self.infos[page].listed = list.len() as u32;
        list.push(page as u32);
    }

    fn unlist(&mut self, page: usize) {
        let Info { class, listed, .. } = self.infos[page];
        let list = &mut self.partial[usize::from(class)];
        list.swap_remove(listed as usize);
        if let Some(moved) = list.get(listed as usize) {
            self.infos[*moved as usize].listed = listed;
        }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("cells", &self.cells)
            .field("pages", &(self.pages.len() - self.vacant.len()))
            .finish()
    }
}

#[inline]
fn page_of(pages: &[Option<Box<Page>>], page: usize) -> &Page {
    match &pages[page] {
        Some(bytes) => bytes,
        None => panic!("a cell of a page that was given back"),
    }
}

/// Page and byte offset in it.
#[inline]
fn split(cell: u64) -> (usize, usize) {
    (
        cell as usize / PAGE_UNITS,
        cell as usize % PAGE_UNITS * UNIT,
    )
}

/// Steps of 8 bytes up to 256, of 32 up to 1024, of 128 up to 4096.
#[inline]
fn class_of(size: usize) -> usize {
    if size <= 256 {
        size.div_ceil(8).max(1) - 1
    } else if size <= 1024 {
        32 + (size - 256).div_ceil(32) - 1
    } else {
        56 + (size - 1024).div_ceil(128) - 1
    }
}

#[inline]
fn units_of(class: usize) -> usize {
    if class < 32 {
        class + 1
    } else if class < 56 {
        32 + (class - 31) * 4
    } else {
        128 + (class - 55) * 16
    }
}

/// The largest cell.
pub(super) const CELL_MAX: usize = 4096;
const CLASSES: usize = 80;
const UNIT: usize = 8;
const PAGE_BYTES: usize = 65536;
const PAGE_UNITS: usize = PAGE_BYTES / UNIT;
/// A cell's name has 36 bits.
const PAGES_MAX: usize = (1 << 36) / PAGE_UNITS;
const NONE: u16 = u16::MAX;
const _: () = assert!(PAGE_UNITS < NONE as usize);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_arena_that_is_taken_apart_counts_what_is_left() {
        let mut arena = Arena::new();
        let cells: Vec<u64> = (0..4 * PAGE_BYTES / CELL_MAX)
            .map(|_| arena.take(CELL_MAX))
            .collect();
        // All but the last page are given back.
        cells.iter().for_each(|cell| arena.free(*cell));
        assert!(arena.vacant.len() > 1);
        let mut before = arena.bytes();
        while arena.free_page() {
            assert!(arena.bytes() < before);
            before = arena.bytes();
        }
        assert_eq!(arena.bytes(), 0);
    }
    use crate::base::Rng;

    #[test]
    fn classes_and_sizes_agree() {
        for size in 1..=CELL_MAX {
            let cell = Arena::cell_bytes(size);
            assert!(
                cell >= size && cell <= size.next_multiple_of(8) + size / 8,
                "{size}: {cell}"
            );
            assert!(class_of(size) < CLASSES);
            assert_eq!(class_of(cell), class_of(size));
        }
        assert_eq!(class_of(CELL_MAX), CLASSES - 1);
    }

    #[test]
    fn no_cell_is_handed_out_twice_and_empty_pages_go_back() {
        let mut arena = Arena::new();
        let mut rng = Rng::seeded(3);
        // Live cells by start, with their end.
        let mut live = BTreeMap::<u64, (u64, u8)>::new();
        for step in 0..200_000u64 {
            let grow = if step < 100_000 { 70 } else { 30 };
            if rng.below(100) < grow {
                let size = if rng.below(10) == 0 {
                    1 + rng.below(CELL_MAX as u64) as usize
                } else {
                    16 + rng.below(60) as usize
                };
                let cell = arena.take(size);
                let end = cell + (Arena::cell_bytes(size) / UNIT) as u64;
                let before = live.range(..end).next_back();
                assert!(
                    before.is_none_or(|(_, (end, _))| *end <= cell),
                    "overlap at {cell}"
                );
                let mark = step as u8;
                arena.at_mut(cell)[..size].fill(mark);
                live.insert(cell, (end, mark));
            } else if !live.is_empty() {
                let from = rng.below(*live.keys().next_back().unwrap() + 1);
                let cell = *live.range(from..).next().unwrap().0;
                let (end, mark) = live.remove(&cell).unwrap();
                assert_eq!(arena.at(cell)[0], mark);
                assert!(end > cell);
                arena.free(cell);
            }
            assert_eq!(arena.cells(), live.len());
            if step % 1000 == 0 {
                let bytes: u64 = live
                    .iter()
                    .map(|(at, (end, _))| (end - at) * UNIT as u64)
                    .sum();
                assert_eq!(arena.live_bytes() as u64, bytes);
            }
        }
        for cell in live.keys() {
            arena.free(*cell);
        }
        assert_eq!((arena.cells(), arena.live_bytes()), (0, 0));
        assert!(arena.pages.iter().flatten().count() <= CLASSES);
    }
}
