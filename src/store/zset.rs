//! The zset value.

use super::value::Typed;

/// A zset value.
#[derive(Clone, Debug, Default)]
pub struct Zset {}

impl Typed for Zset {
    const KIND: super::Kind = super::Kind::Zset;
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
