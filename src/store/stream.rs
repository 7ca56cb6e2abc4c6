//! The stream value.

use super::value::Typed;

/// A stream value.
#[derive(Clone, Debug, Default)]
pub struct Stream {}

impl Typed for Stream {
    const KIND: super::Kind = super::Kind::Stream;
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
