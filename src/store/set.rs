//! The set value.

use super::value::Typed;

/// A set value.
#[derive(Clone, Debug, Default)]
pub struct Set {}

impl Typed for Set {
    const KIND: super::Kind = super::Kind::Set;
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
