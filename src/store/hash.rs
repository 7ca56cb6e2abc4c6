//! The hash value.

use super::value::Typed;

/// A hash value.
#[derive(Clone, Debug, Default)]
pub struct Hash {}

impl Typed for Hash {
    const KIND: super::Kind = super::Kind::Hash;
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
