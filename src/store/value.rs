//! The value of a key: a string or one of the collections.

use bytes::Bytes;

use super::{Hash, List, Set, Stream, Zset};
use crate::base::Ms;

/// What type a key has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    String,
    Hash,
    List,
    Set,
    Zset,
    Stream,
}

impl Kind {
    /// The name that TYPE answers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Hash => "hash",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::Zset => "zset",
            Kind::Stream => "stream",
        }
    }
}

/// What every collection type offers the keyspace.
pub trait Typed: Default + Clone {
    /// The kind of key it makes.
    const KIND: Kind;
    /// True without elements; such a key is removed (a stream is never empty in this sense).
    fn is_empty(&self) -> bool;
    /// Frees at least `budget` elements or all of them; true once nothing is left. Called in turns
    /// so that dropping a huge value stops nobody.
    fn free_slice(&mut self, budget: usize) -> bool;
    /// Heap bytes held, roughly.
    fn heap_bytes(&self) -> usize;
    /// The name that OBJECT ENCODING answers.
    fn encoding(&self) -> &'static str;
    /// When the first element expires by itself (hash fields can).
    fn next_deadline(&self) -> Option<Ms> {
        None
    }
    /// Removes the elements that are due. The keyspace calls this before anybody sees the value.
    fn expire(&mut self, _now: Ms) {}
}

/// A value as an object of the keyspace, or on its way in or out. Small, because there can be very many:
/// what is large or rare is behind a box.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Value {
    String(Box<Bytes>),
    Hash(Hash),
    List(List),
    Set(Set),
    Zset(Zset),
    Stream(Box<Stream>),
}
const _: () = assert!(size_of::<Value>() == 24);

impl Value {
    /// A string.
    pub fn string(text: impl Into<Bytes>) -> Value {
        Value::String(Box::new(text.into()))
    }

    /// The value's type.
    pub fn kind(&self) -> Kind {
        match self {
            Value::String(_) => Kind::String,
            Value::Hash(_) => Kind::Hash,
            Value::List(_) => Kind::List,
            Value::Set(_) => Kind::Set,
            Value::Zset(_) => Kind::Zset,
            Value::Stream(_) => Kind::Stream,
        }
    }
}

/// How a collection type lies in a [`Value`].
pub trait InValue: Typed {
    /// Wraps it.
    fn wrap(self) -> Value;
    /// Borrows it if the value is of this type.
    fn borrow(value: &Value) -> Option<&Self>;
    /// Borrows it mutably if the value is of this type.
    fn borrow_mut(value: &mut Value) -> Option<&mut Self>;
}

macro_rules! in_value {
    ($($kind:ident),*) => {$(
        impl InValue for $kind {
            fn wrap(self) -> Value {
                Value::$kind(self)
            }
            fn borrow(value: &Value) -> Option<&Self> {
                match value { Value::$kind(inner) => Some(inner), _ => None }
            }
            fn borrow_mut(value: &mut Value) -> Option<&mut Self> {
                match value { Value::$kind(inner) => Some(inner), _ => None }
            }
        }
    )*};
}
in_value!(Hash, List, Set, Zset);

impl InValue for Stream {
    fn wrap(self) -> Value {
        Value::Stream(Box::new(self))
    }
    fn borrow(value: &Value) -> Option<&Self> {
        match value {
            Value::Stream(inner) => Some(inner),
            _ => None,
        }
    }
    fn borrow_mut(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Stream(inner) => Some(inner),
            _ => None,
        }
    }
}

/// Calls the same method on whichever collection a value holds; `$string` for strings.
#[macro_export]
macro_rules! each_collection {
    ($value:expr, $string:pat => $on_string:expr, $inner:ident => $on_inner:expr) => {
        match $value {
            $crate::store::Value::String($string) => $on_string,
            $crate::store::Value::Hash($inner) => $on_inner,
            $crate::store::Value::List($inner) => $on_inner,
            $crate::store::Value::Set($inner) => $on_inner,
            $crate::store::Value::Zset($inner) => $on_inner,
            $crate::store::Value::Stream($inner) => $on_inner,
        }
    };
}
