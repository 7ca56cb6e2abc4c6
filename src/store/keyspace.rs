//! One database of one shard.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{InValue, Kind, Typed, Value};
use crate::{
    base::{Ms, Rng},
    each_collection,
};

/// The key holds another type than the caller asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongType;

/// A string value, borrowed from the keyspace.
#[derive(Clone, Copy, Debug)]
pub enum Str<'a> {
    /// Kept inside the keyspace's own memory.
    Inline(&'a [u8]),
    /// Large, and shared by reference with replies under way.
    Shared(&'a Bytes),
}

impl Str<'_> {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Str::Inline(bytes) => bytes,
            Str::Shared(bytes) => bytes,
        }
    }
}

/// What is known of a key besides its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Its type.
    pub kind: Kind,
    /// When it expires.
    pub deadline: Option<Ms>,
    /// Whole seconds since it was last used.
    pub idle_secs: u64,
}

/// One database of one shard. Keys whose deadline has passed are never visible: every access takes
/// `now` and removes what is due.
#[derive(Debug, Default)]
pub struct Keyspace {
    keys: BTreeMap<Box<[u8]>, (Value, Option<Ms>)>,
}

impl Keyspace {
    /// An empty keyspace. The seed keeps clients from choosing keys that collide in its table.
    pub fn new(_seed: u64) -> Self {
        Self::default()
    }

    /// Number of keys, those included that are due but were not yet looked at.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Number of keys with a deadline.
    pub fn expiring(&self) -> usize {
        self.keys
            .values()
            .filter(|(_, deadline)| deadline.is_some())
            .count()
    }

    /// Type and deadline of a key, without counting as a use of it.
    pub fn meta(&mut self, key: &[u8], now: Ms) -> Option<Meta> {
        let (value, deadline) = self.live(key, now)?;
        Some(Meta {
            kind: value.kind(),
            deadline: *deadline,
            idle_secs: 0,
        })
    }

    /// Does the key exist? Counts as a use of it.
    pub fn contains(&mut self, key: &[u8], now: Ms) -> bool {
        self.live(key, now).is_some()
    }

    /// The name that OBJECT ENCODING answers.
    pub fn encoding(&mut self, key: &[u8], now: Ms) -> Option<&'static str> {
        let (value, _) = self.live(key, now)?;
        Some(each_collection!(value, _text => "raw", inner => inner.encoding()))
    }

    /// Bytes of memory that the key and its value take, roughly.
    pub fn memory(&mut self, key: &[u8], now: Ms) -> Option<usize> {
        let (value, _) = self.live(key, now)?;
        Some(
            key.len()
                + 16
                + each_collection!(value, text => text.len(), inner => inner.heap_bytes()),
        )
    }

    /// A string value.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds a collection.
    pub fn string(&mut self, key: &[u8], now: Ms) -> Result<Option<Str<'_>>, WrongType> {
        match self.live(key, now) {
            None => Ok(None),
            Some((Value::String(bytes), _)) => Ok(Some(Str::Shared(bytes))),
            Some(_) => Err(WrongType),
        }
    }

    /// Sets a string, whatever the key held before. The deadline becomes `deadline`.
    pub fn set_string(&mut self, key: &[u8], value: &[u8], deadline: Option<Ms>) {
        self.keys.insert(
            key.into(),
            (Value::String(Bytes::copy_from_slice(value)), deadline),
        );
    }

    /// Changes a string in place (an absent key starts empty and is created, unless the closure
    /// leaves it empty). The deadline stays.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds a collection.
    pub fn update_string<R>(
        &mut self,
        key: &[u8],
        now: Ms,
        change: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> Result<R, WrongType> {
        let (mut bytes, deadline) = match self.live(key, now) {
            None => (Vec::new(), None),
            Some((Value::String(bytes), deadline)) => (bytes.to_vec(), *deadline),
            Some(_) => return Err(WrongType),
        };
        let existed = self.keys.contains_key(key);
        let result = change(&mut bytes);
        if existed || !bytes.is_empty() {
            self.keys
                .insert(key.into(), (Value::String(bytes.into()), deadline));
        }
        Ok(result)
    }

    /// A collection.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds something else.
    pub fn get<T: InValue>(&mut self, key: &[u8], now: Ms) -> Result<Option<&T>, WrongType> {
        match self.live(key, now) {
            None => Ok(None),
            Some((value, _)) => T::borrow(value).map(Some).ok_or(WrongType),
        }
    }

    /// A collection, to change. The caller calls [`remove_if_empty`](Keyspace::remove_if_empty)
    /// after taking elements out.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds something else.
    pub fn get_mut<T: InValue>(
        &mut self,
        key: &[u8],
        now: Ms,
    ) -> Result<Option<&mut T>, WrongType> {
        match self.live(key, now) {
            None => Ok(None),
            Some((value, _)) => T::borrow_mut(value).map(Some).ok_or(WrongType),
        }
    }

    /// A collection, to change, created empty and without deadline if the key is absent.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds something else.
    pub fn get_or_create<T: InValue>(&mut self, key: &[u8], now: Ms) -> Result<&mut T, WrongType> {
        if self.live(key, now).is_none() {
            self.keys.insert(key.into(), (T::default().wrap(), None));
        }
        match self.keys.get_mut(key) {
            Some((value, _)) => T::borrow_mut(value).ok_or(WrongType),
            None => Err(WrongType),
        }
    }

    /// Removes the key if its collection has no elements left; true if it was removed.
    pub fn remove_if_empty(&mut self, key: &[u8]) -> bool {
        let empty = match self.keys.get(key) {
            Some((value, _)) => each_collection!(value, _text => false, inner => inner.is_empty()),
            None => false,
        };
        if empty {
            self.keys.remove(key);
        }
        empty
    }

    /// Puts a value under a key, whatever it held before.
    pub fn insert(&mut self, key: &[u8], value: Value, deadline: Option<Ms>) {
        self.keys.insert(key.into(), (value, deadline));
    }

    /// Takes a value and its deadline out.
    pub fn take(&mut self, key: &[u8], now: Ms) -> Option<(Value, Option<Ms>)> {
        self.live(key, now)?;
        self.keys.remove(key)
    }

    /// Removes a key; true if it was there. Large values are freed later, in slices.
    pub fn remove(&mut self, key: &[u8], now: Ms) -> bool {
        self.take(key, now).is_some()
    }

    /// Sets or clears a key's deadline; false if the key is absent.
    pub fn set_deadline(&mut self, key: &[u8], deadline: Option<Ms>, now: Ms) -> bool {
        match self.live(key, now) {
            None => false,
            Some((_, old)) => {
                *old = deadline;
                true
            }
        }
    }

    /// Removes every key. The memory is given back in slices.
    pub fn clear(&mut self) {
        self.keys.clear();
    }

    /// A key chosen at random.
    pub fn random_key(&mut self, rng: &mut Rng, now: Ms) -> Option<Vec<u8>> {
        let at = rng.below(self.keys.len() as u64) as usize;
        let key = self.keys.keys().nth(at)?.to_vec();
        self.live(&key, now).is_some().then_some(key)
    }

    /// Visits some keys, about `count`, from a cursor on; the next cursor, 0 at the end. A key that
    /// is there during the whole iteration is visited at least once, whatever is added or removed.
    pub fn scan(
        &mut self,
        cursor: u64,
        count: usize,
        now: Ms,
        mut visit: impl FnMut(&[u8], Kind),
    ) -> u64 {
        let mut seen = 0;
        for (key, (value, deadline)) in self.keys.iter().skip(cursor as usize).take(count) {
            seen += 1;
            if deadline.is_none_or(|deadline| deadline > now) {
                visit(key, value.kind());
            }
        }
        if seen < count {
            0
        } else {
            cursor + seen as u64
        }
    }

    /// Removes up to `budget` keys that are due, visiting each; true if more are due.
    pub fn expire_due(&mut self, now: Ms, budget: usize, mut visit: impl FnMut(&[u8])) -> bool {
        let due: Vec<Box<[u8]>> = self
            .keys
            .iter()
            .filter(|(_, (_, deadline))| deadline.is_some_and(|deadline| deadline <= now))
            .map(|(key, _)| key.clone())
            .take(budget)
            .collect();
        for key in &due {
            visit(key);
            self.keys.remove(key);
        }
        due.len() == budget
    }

    /// Reads a line of memory that an access to the key would need, so that it is near when the access
    /// comes.
    pub fn touch_line(&self, _key: &[u8]) -> u64 {
        0
    }

    /// Frees memory of removed values, at most about `budget` elements; true if more is waiting.
    pub fn free_some(&mut self, _budget: usize) -> bool {
        false
    }

    fn live(&mut self, key: &[u8], now: Ms) -> Option<&mut (Value, Option<Ms>)> {
        if self
            .keys
            .get(key)
            .is_some_and(|(_, deadline)| deadline.is_some_and(|deadline| deadline <= now))
        {
            self.keys.remove(key);
        }
        self.keys.get_mut(key)
    }
}

impl Keyspace {
    /// Notes that the deadlines inside a collection have changed.
    pub fn reindex(&mut self, _key: &[u8]) {}
}
