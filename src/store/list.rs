//! The list value.

use super::value::Typed;

/// A list value.
#[derive(Clone, Debug, Default)]
pub struct List {}

impl Typed for List {
    const KIND: super::Kind = super::Kind::List;
    fn is_empty(&self) -> bool {
        true
    }
    fn free_slice(&mut self, _budget: usize) -> bool {
        true
    }
    fn heap_bytes(&self) -> usize {
        0
    }
    fn encoding(&self) -> &'static str {
        "?"
    }
}
