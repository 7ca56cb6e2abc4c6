//! The keyspace of one shard: values, expiry, iteration. No clock: `now` is an argument everywhere.

mod arena;
mod block;
mod dict;
mod entry;
mod evict;
mod expiry;
mod graveyard;
mod hash;
mod image;
mod keyspace;
mod list;
mod packed;
mod set;
mod slab;
mod stream;
mod table;
mod value;
mod zset;

pub use dict::{Dict, seed_collections};
pub use entry::Lfu;
pub use evict::{Candidate, EvictionPool, Policy};
pub use hash::Hash;
pub use keyspace::{
    Budget, DueKeys, Form, Gone, Hashed, Keyspace, Meta, Sampling, Slice, Str, Used, Walk,
    WrongType,
};
pub use list::{End, List};
pub use set::Set;
pub use stream::{
    Consumer, Entry, Group, IdTooSmall, Log, NewId, Pairs, Pending, Stream, StreamId, Trim,
};
pub use value::{InValue, Kind, Typed, Value};
pub use zset::{LexBound, LexRange, ScoreRange, Zset};
