//! What was removed and is too large to be freed at once.

use super::{Typed, Value, arena::Arena, expiry::Expiry, slab::Slab, table::Table};
use crate::each_collection;

/// Memory waiting to be freed in slices.
#[derive(Debug, Default)]
pub(super) struct Graveyard {
    /// With the bytes that each had when it came.
    values: Vec<(Value, usize)>,
    values_bytes: usize,
    wholes: Vec<Whole>,
}

/// All parts of a keyspace that was cleared.
#[derive(Debug)]
pub(super) struct Whole {
    pub table: Table,
    pub arena: Arena,
    pub objects: Slab<Value>,
    pub long_keys: Slab<Box<[u8]>>,
    pub expiry: Expiry,
    /// Bytes of what was outside of these parts.
    pub outside: usize,
}

impl Graveyard {
    /// Frees a value, now if it is small.
    pub fn bury(&mut self, mut value: Value) {
        let small = each_collection!(&mut value,
            text => text.len() <= TEXT_SMALL,
            inner => inner.free_slice(AT_ONCE));
        if !small {
            let bytes = each_collection!(&value, text => text.len(), inner => inner.heap_bytes());
            self.values_bytes += bytes;
            self.values.push((value, bytes));
        }
    }

    /// Bytes of what waits, roughly.
    pub fn bytes(&self) -> usize {
        let whole = |whole: &Whole| {
            whole.table.bytes() + whole.arena.bytes() + whole.expiry.bytes() + whole.outside
        };
        self.values_bytes + self.wholes.iter().map(whole).sum::<usize>()
    }

    /// Takes a cleared keyspace.
    pub fn bury_whole(&mut self, whole: Whole) {
        self.wholes.push(whole);
    }

    /// Frees about `budget` elements' worth; true if more is waiting.
    pub fn free_some(&mut self, mut budget: usize) -> bool {
        while budget > 0 {
            let cost = if let Some((value, bytes)) = self.values.last_mut() {
                let slice = budget.min(SLICE);
                if each_collection!(value, _text => true, inner => inner.free_slice(slice)) {
                    self.values_bytes -= *bytes;
                    self.values.pop();
                }
                slice
            } else if let Some(whole) = self.wholes.last_mut() {
                if whole.objects.end() > 0 {
                    if let Some(value) = whole.objects.pop() {
                        let bytes = each_collection!(&value, text => text.len(), inner => inner.heap_bytes());
                        whole.outside = whole.outside.saturating_sub(bytes);
                        self.bury(value);
                    }
                    1
                } else if whole.long_keys.end() > 0 {
                    whole.long_keys.pop();
                    1
                } else if whole.expiry.free_bucket()
                    || whole.table.free_segment()
                    || whole.arena.free_page()
                {
                    PIECE
                } else {
                    self.wholes.pop();
                    PIECE
                }
            } else {
                return false;
            };
            budget = budget.saturating_sub(cost);
        }
        !self.values.is_empty() || !self.wholes.is_empty()
    }
}

/// Elements of a collection that are freed where it is removed.
const AT_ONCE: usize = 64;
const SLICE: usize = 256;
/// A segment, a page or a bucket costs as much as this many elements.
const PIECE: usize = 16;
/// Longer strings are unmapped by the allocator, which takes time.
const TEXT_SMALL: usize = 1 << 20;
