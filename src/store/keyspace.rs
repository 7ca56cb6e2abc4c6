//! One database of one shard.
//!
//! A key is one slot in the [`Table`] and one cell in the [`Arena`] that holds its name, its
//! deadline and, if it is small, its value. Large strings and collections are objects in a
//! [`Slab`], named by the cell.

mod evict;
mod load;
mod walk;

pub use evict::Sampling;
pub use walk::{Budget, Form, Slice, Walk};

use std::hash::Hasher;

use bytes::Bytes;
use foldhash::{SharedSeed, quality::FoldHasher};

use super::{
    InValue, Kind, Typed, Value,
    arena::{Arena, CELL_MAX},
    entry::{DEADLINE, FIELDS, HEAD, Head, LONG_KEY, Lfu, TIMER, clock_of, idle, number},
    expiry::{Due, Expiry, Item},
    graveyard::{Graveyard, Whole},
    slab::Slab,
    table::{At, Entry, First, Table},
};
use crate::{
    base::{Ms, Rng, parse_i64},
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

impl<'a> Str<'a> {
    /// The bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
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
    /// Whole seconds since it was last used; without meaning where uses are counted.
    pub idle_secs: u64,
    /// How often it is used, on a logarithmic scale; where uses are counted.
    pub frequency: Option<u8>,
}

/// How a key was used where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Used {
    /// Last so many seconds ago.
    SecsAgo(u64),
    /// So often, on the logarithmic scale of [`Lfu`].
    Counted(u8),
}

/// A key that went without a command, or fields of a hash that did: they were due, or had to make room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gone {
    /// The key.
    pub key: Box<[u8]>,
    /// The fields that went while the hash lives on; none if the key went.
    pub fields: Vec<Box<[u8]>>,
}

/// What an access makes of a key whose deadline has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DueKeys {
    /// It goes.
    #[default]
    Go,
    /// It is there for nobody, and stays: a primary that counts time for this node will say when it goes.
    /// What changes the key removes it first all the same.
    Hidden,
    /// It is there: that primary itself speaks of it.
    Shown,
}

/// A key's hash in one keyspace.
#[derive(Clone, Copy, Debug)]
pub struct Hashed(u64);

/// One database of one shard. Keys whose deadline has passed are never visible: every access takes
/// `now` and removes what is due, unless [`due_keys`](Keyspace::due_keys) said otherwise.
#[derive(Debug)]
pub struct Keyspace {
    table: Table,
    cells: Cells,
    objects: Slab<Value>,
    expiry: Expiry,
    graveyard: Graveyard,
    /// Keys with a deadline.
    expiring: usize,
    /// The clock of entries at the latest `now` that was seen.
    clock: u32,
    /// How uses are counted; `None` where only the time of the last one is kept.
    lfu: Option<Lfu>,
    rng: Rng,
    /// A collection that was handed out to be changed: its fields' first deadline may differ from the
    /// index, and its size from what is counted. The next operation looks before it does anything
    /// else.
    unsettled: Option<u64>,
    heap: Heap,
    /// Bytes of large strings and long keys.
    text_bytes: usize,
    /// Keys removed because they were due, if somebody wants to know.
    expired: Option<Vec<Box<[u8]>>>,
    /// What went without a command, if that is recorded.
    gone: Option<Vec<Gone>>,
    due_keys: DueKeys,
    /// Kept so that steady work allocates nothing.
    scratch: Vec<u8>,
    batch: Vec<Entry>,
}

/// What is known of the memory of collections. While it is counted, every change of one is bracketed, so
/// that the sum is exact as far as [`Typed::heap_bytes`] is, at no cost that grows with their number.
#[derive(Debug, Default)]
struct Heap {
    /// Collections with smaller numbers are counted; 0 while nothing is counted.
    end: u32,
    /// How many they are.
    len: usize,
    /// What they hold.
    bytes: usize,
    /// What the unsettled collection held before it was handed out.
    before: usize,
}

/// The cells and what gives them meaning.
#[derive(Debug)]
struct Cells {
    arena: Arena,
    long_keys: Slab<Box<[u8]>>,
    seed: u64,
    shared_seed: Box<SharedSeed>,
}

/// A key that was found.
#[derive(Clone, Copy)]
struct Found {
    at: At,
    entry: Entry,
    head: Head,
}

impl Keyspace {
    /// An empty keyspace. The seed keeps clients from choosing keys that collide in its table.
    pub fn new(seed: u64) -> Self {
        Self {
            table: Table::new(),
            cells: Cells {
                arena: Arena::new(),
                long_keys: Slab::new(),
                seed: seed ^ 0x243f_6a88_85a3_08d3,
                shared_seed: Box::new(SharedSeed::from_u64(seed)),
            },
            objects: Slab::new(),
            expiry: Expiry::default(),
            graveyard: Graveyard::default(),
            expiring: 0,
            clock: 0,
            lfu: None,
            rng: Rng::seeded(seed),
            unsettled: None,
            heap: Heap::default(),
            text_bytes: 0,
            expired: None,
            gone: None,
            due_keys: DueKeys::Go,
            scratch: Vec::new(),
            batch: Vec::new(),
        }
    }

    /// Number of keys, those included that are due but were not yet looked at.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Number of keys with a deadline.
    pub fn expiring(&self) -> usize {
        self.expiring
    }

    /// Type and deadline of a key, without counting as a use of it.
    pub fn meta(&mut self, key: &[u8], now: Ms) -> Option<Meta> {
        let found = self.seen(key, now)?;
        let frequency = self
            .lfu
            .map(|lfu| lfu.counter(found.head.clock(), self.clock) as u8);
        Some(Meta {
            kind: kind_of(found.entry),
            deadline: found.head.deadline(self.cells.arena.at(found.entry.cell())),
            idle_secs: idle(found.head.clock(), clock_of(now)),
            frequency,
        })
    }

    /// Keeps track of uses in this way from now on. What entries hold of the other way is not
    /// converted, as in Redis: it takes some time until their clocks mean something again.
    pub fn track(&mut self, lfu: Option<Lfu>, now: Ms) {
        self.lfu = lfu;
        self.clock = self.clock_at(now);
    }

    /// Does the key exist? Counts as a use of it.
    pub fn contains(&mut self, key: &[u8], now: Ms) -> bool {
        self.read(key, now).is_some()
    }

    /// The name that OBJECT ENCODING answers.
    pub fn encoding(&mut self, key: &[u8], now: Ms) -> Option<&'static str> {
        let found = self.seen(key, now)?;
        Some(match self.value(found) {
            Held::Text(text) => encoding_of(text),
            Held::Object(value) => {
                each_collection!(value, text => encoding_of(text), inner => inner.encoding())
            }
        })
    }

    /// Bytes of memory that the key and its value take, roughly.
    pub fn memory(&mut self, key: &[u8], now: Ms) -> Option<usize> {
        let found = self.seen(key, now)?;
        let long_key = if found.head.has(LONG_KEY) {
            key.len()
        } else {
            0
        };
        let object = match self.value(found) {
            Held::Text(_) => 0,
            Held::Object(value) => {
                size_of::<Value>()
                    + each_collection!(value, text => text.len(), inner => inner.heap_bytes())
            }
        };
        // A slot and its part of the directory take about twelve bytes.
        Some(12 + Arena::cell_bytes(found.head.size()) + long_key + object)
    }

    /// A string value.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds a collection.
    #[inline(always)]
    pub fn string(&mut self, key: &[u8], now: Ms) -> Result<Option<Str<'_>>, WrongType> {
        let Some(found) = self.read(key, now) else {
            return Ok(None);
        };
        match self.value(found) {
            Held::Text(text) => Ok(Some(Str::Inline(text))),
            Held::Object(Value::String(text)) => Ok(Some(Str::Shared(text))),
            Held::Object(_) => Err(WrongType),
        }
    }

    /// A string value, if it is one, without counting as a use of it.
    pub fn glance(&mut self, key: &[u8], now: Ms) -> Option<Str<'_>> {
        let found = self.seen(key, now)?;
        match self.value(found) {
            Held::Text(text) => Some(Str::Inline(text)),
            Held::Object(Value::String(text)) => Some(Str::Shared(text)),
            Held::Object(_) => None,
        }
    }

    /// Sets a string, whatever the key held before. The deadline becomes `deadline`.
    #[inline]
    pub fn set_string(&mut self, key: &[u8], value: &[u8], deadline: Option<Ms>) {
        self.settle();
        let hash = self.cells.hash(key);
        self.set_text(hash, key, value, deadline, || Bytes::copy_from_slice(value));
    }

    /// The same with memory that may become the value.
    pub fn set_shared(&mut self, key: &[u8], value: Bytes, deadline: Option<Ms>) {
        self.settle();
        let hash = self.cells.hash(key);
        self.set_text(hash, key, &value, deadline, || value.clone());
    }

    #[inline(always)]
    fn set_text(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        deadline: Option<Ms>,
        take: impl FnOnce() -> Bytes,
    ) {
        let found = match self.find(hash, key) {
            Some(found) if self.lfu.is_some() => {
                let head = found.head.with_clock(self.touched(found.head.clock()));
                Some(Found { head, ..found })
            }
            found => found,
        };
        if let Some(found) = found
            && self.overwrite(found, value, deadline)
        {
            return;
        }
        let content = if fits_inline(key, value) {
            Content::Inline(value)
        } else {
            Content::Object(Value::string(take()))
        };
        self.store(hash, key, found, content, deadline);
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
        let found = self.used(key, now);
        let mut deadline = None;
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        if let Some(found) = found {
            deadline = found.head.deadline(self.cells.arena.at(found.entry.cell()));
            match found.entry.kind() {
                TEXT => text.extend_from_slice(self.cells.value(found.entry.cell(), found.head)),
                BIG_TEXT => {
                    let result = self.update_big(found, change);
                    self.scratch = text;
                    return Ok(result);
                }
                _ => {
                    self.scratch = text;
                    return Err(WrongType);
                }
            }
        }
        let result = change(&mut text);
        if found.is_none() && text.is_empty() {
            self.scratch = text;
            return Ok(result);
        }
        let overwritten = found.is_some_and(|found| self.overwrite(found, &text, deadline));
        if !overwritten {
            let hash = self.cells.hash(key);
            if fits_inline(key, &text) {
                self.store(hash, key, found, Content::Inline(&text), deadline);
            } else {
                let text = Bytes::from(std::mem::take(&mut text));
                self.store(
                    hash,
                    key,
                    found,
                    Content::Object(Value::string(text)),
                    deadline,
                );
            }
        }
        self.scratch = text;
        Ok(result)
    }

    /// A collection.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds something else.
    pub fn get<T: InValue>(&mut self, key: &[u8], now: Ms) -> Result<Option<&T>, WrongType> {
        let Some(found) = self.read(key, now) else {
            return Ok(None);
        };
        match self.value(found) {
            Held::Text(_) => Err(WrongType),
            Held::Object(value) => T::borrow(value).map(Some).ok_or(WrongType),
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
        match self.used(key, now) {
            None => Ok(None),
            Some(found) => self.borrow_mut(found).map(Some),
        }
    }

    /// A collection, to change, created empty and without deadline if the key is absent.
    ///
    /// # Errors
    /// [`WrongType`] if the key holds something else.
    pub fn get_or_create<T: InValue>(&mut self, key: &[u8], now: Ms) -> Result<&mut T, WrongType> {
        let found = match self.used(key, now) {
            Some(found) => found,
            None => {
                let hash = self.cells.hash(key);
                let value = Content::Object(T::default().wrap());
                self.store(hash, key, None, value, None);
                self.find(hash, key).ok_or(WrongType)?
            }
        };
        self.borrow_mut(found)
    }

    /// Removes the key if its collection has no elements left; true if it was removed.
    pub fn remove_if_empty(&mut self, key: &[u8]) -> bool {
        self.settle();
        let Some(found) = self.find(self.cells.hash(key), key) else {
            return false;
        };
        let empty = match self.value(found) {
            Held::Text(_) => false,
            Held::Object(value) => {
                each_collection!(value, _text => false, inner => inner.is_empty())
            }
        };
        if empty {
            self.bury(found);
        }
        empty
    }

    /// Puts a value under a key, whatever it held before.
    pub fn insert(&mut self, key: &[u8], value: Value, deadline: Option<Ms>) {
        self.settle();
        let hash = self.cells.hash(key);
        let found = self.find(hash, key);
        match value {
            Value::String(text) if fits_inline(key, &text) => {
                self.store(hash, key, found, Content::Inline(&text), deadline);
            }
            value => self.store(hash, key, found, Content::Object(value), deadline),
        }
    }

    /// Takes a value and its deadline out.
    pub fn take(&mut self, key: &[u8], now: Ms) -> Option<(Value, Option<Ms>)> {
        let found = self.live(key, now)?;
        let deadline = found.head.deadline(self.cells.arena.at(found.entry.cell()));
        let value = match found.entry.kind() {
            TEXT => {
                let text = self.cells.value(found.entry.cell(), found.head);
                Value::string(Bytes::copy_from_slice(text))
            }
            _ => self.release(found),
        };
        self.drop_entry(found);
        Some((value, deadline))
    }

    /// Copies a value and its deadline. A large string is shared, a collection is copied as a whole.
    pub fn copy(&mut self, key: &[u8], now: Ms) -> Option<(Value, Option<Ms>)> {
        let found = self.read(key, now)?;
        let deadline = found.head.deadline(self.cells.arena.at(found.entry.cell()));
        let value = match self.value(found) {
            Held::Text(text) => Value::string(Bytes::copy_from_slice(text)),
            Held::Object(value) => value.clone(),
        };
        Some((value, deadline))
    }

    /// Removes a key; true if it was there. Large values are freed later, in slices.
    pub fn remove(&mut self, key: &[u8], now: Ms) -> bool {
        match self.live(key, now) {
            None => false,
            Some(found) => {
                self.bury(found);
                true
            }
        }
    }

    /// Sets or clears a key's deadline; false if the key is absent.
    pub fn set_deadline(&mut self, key: &[u8], deadline: Option<Ms>, now: Ms) -> bool {
        let Some(found) = self.live(key, now) else {
            return false;
        };
        self.redate(found, deadline);
        true
    }

    /// Gives an entry another deadline, or none.
    fn redate(&mut self, found: Found, deadline: Option<Ms>) {
        match deadline {
            Some(due) if found.head.has(DEADLINE) => self.move_timer(found, due),
            None if !found.head.has(DEADLINE) => {}
            _ => {
                let fields = found
                    .head
                    .fields_due(self.cells.arena.at(found.entry.cell()));
                self.reshape(found, deadline, fields);
            }
        }
    }

    /// Makes a key look as if it had been used so, if that is how uses are tracked.
    pub fn set_used(&mut self, key: &[u8], used: Used, now: Ms) {
        let Some(found) = self.live(key, now) else {
            return;
        };
        let clock = match (self.lfu, used) {
            (None, Used::SecsAgo(secs)) => clock_of(now.saturating_sub(secs.saturating_mul(1000))),
            (Some(_), Used::Counted(counter)) => Lfu::clock_with(now, counter),
            _ => return,
        };
        let head = found.head.with_clock(clock);
        head.write(self.cells.arena.at_mut(found.entry.cell()));
    }

    /// Removes every key. The memory is given back in slices.
    pub fn clear(&mut self) {
        self.unsettled = None;
        self.expiring = 0;
        let outside = self.text_bytes + self.heap.bytes;
        self.text_bytes = 0;
        self.heap = Heap {
            end: if self.heap.end > 0 { u32::MAX } else { 0 },
            ..Heap::default()
        };
        self.graveyard.bury_whole(Whole {
            outside,
            table: std::mem::replace(&mut self.table, Table::new()),
            arena: std::mem::replace(&mut self.cells.arena, Arena::new()),
            objects: std::mem::replace(&mut self.objects, Slab::new()),
            long_keys: std::mem::replace(&mut self.cells.long_keys, Slab::new()),
            expiry: std::mem::take(&mut self.expiry),
        });
    }

    /// A key chosen at random.
    pub fn random_key(&mut self, rng: &mut Rng, now: Ms) -> Option<Vec<u8>> {
        self.settle();
        for _ in 0..RANDOM_TRIES {
            if self.is_empty() {
                return None;
            }
            let Some(entry) = self.table.pick(rng.next_u64(), rng.next_u64()) else {
                continue;
            };
            let key = self.cells.key(entry.cell()).to_vec();
            if self.seen(&key, now).is_some() {
                return Some(key);
            }
        }
        // Chance met only segments that are empty or full of due keys: take the next key there is.
        let mut place = Some(Table::place(rng.next_u64()));
        while let Some(from) = place {
            let mut first = None;
            place = self.table.walk(from, |entry| first = first.or(Some(entry)));
            if let Some(entry) = first {
                let key = self.cells.key(entry.cell()).to_vec();
                return self.seen(&key, now).is_some().then_some(key);
            }
        }
        None
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
        self.settle();
        self.clock = self.clock_at(now);
        let mut batch = std::mem::take(&mut self.batch);
        let (mut place, mut seen, mut steps) = (cursor, 0, 0);
        let end = loop {
            batch.clear();
            let next = self.table.walk(place, |entry| batch.push(entry));
            for entry in &batch {
                if self.is_due(*entry, now) && self.due_keys == DueKeys::Go {
                    let Some(found) = self.find_cell(entry.cell()) else {
                        continue;
                    };
                    if self.drop_due(found, now).is_none() {
                        continue;
                    }
                    // A hash that lost fields but not all: its cell may be another one now.
                    self.settle();
                }
                seen += 1;
            }
            // Cells may have moved, so they are read again.
            batch.clear();
            self.table.walk(place, |entry| batch.push(entry));
            for entry in &batch {
                if self.due_keys != DueKeys::Hidden || !self.has_passed(*entry, now) {
                    visit(self.cells.key(entry.cell()), kind_of(*entry));
                }
            }
            steps += 1;
            match next {
                None => break 0,
                Some(next) if seen >= count || steps >= count.saturating_mul(10).max(10) => {
                    break next;
                }
                Some(next) => place = next,
            }
        };
        self.batch = batch;
        end
    }

    /// What becomes of due keys from now on.
    pub fn due_keys(&mut self, due_keys: DueKeys) {
        self.due_keys = due_keys;
    }

    /// Deadlines up to this time have passed for who speaks at `now`: for a primary that says when keys go,
    /// none has.
    pub fn over_by(&self, now: Ms) -> Ms {
        match self.due_keys {
            DueKeys::Shown => 0,
            DueKeys::Go | DueKeys::Hidden => now,
        }
    }

    /// Removes up to `budget` keys that are due, visiting each; true if more are due.
    pub fn expire_due(&mut self, now: Ms, budget: usize, mut visit: impl FnMut(&[u8])) -> bool {
        self.settle();
        self.clock = self.clock_at(now);
        let mut looks = budget.saturating_mul(LOOKS_PER_KEY);
        let mut key = std::mem::take(&mut self.scratch);
        let mut more = true;
        for _ in 0..budget {
            match self.expiry.due(now, &mut looks) {
                Due::Nothing => {
                    more = false;
                    break;
                }
                Due::Later => break,
                Due::Item(item) => {
                    let Some(found) = self.find_cell(item.cell) else {
                        panic!("the expiry index names a cell without a key")
                    };
                    key.clear();
                    key.extend_from_slice(self.cells.key(item.cell));
                    let log = self.expired.take();
                    if self.drop_due(found, now).is_none() {
                        visit(&key);
                    }
                    self.expired = log;
                }
            }
        }
        self.scratch = key;
        more && self.expiry.next().is_some_and(|next| next <= now)
    }

    /// Frees memory of removed values, at most about `budget` elements; true if more is waiting.
    pub fn free_some(&mut self, budget: usize) -> bool {
        self.graveyard.free_some(budget)
    }

    /// The place in memory that an access to the key reads first, for a hint to the processor. Nothing
    /// is read. Of many keys in a row, all hints are given before the first access.
    #[inline]
    pub fn first_line(&self, key: &[u8]) -> (Hashed, &u64) {
        let hash = self.cells.hash(key);
        (Hashed(hash), self.table.line(hash))
    }

    /// The entry's bytes, if the table seems to have the key, for a second hint: once the first place
    /// is near. The entry itself is not read.
    #[inline]
    pub fn entry_bytes(&self, key: Hashed) -> Option<&[u8]> {
        let entry = self.table.guess(key.0)?;
        Some(self.cells.arena.at(entry.cell()))
    }

    /// Bytes of memory in use: by the table, by entries, values and deadlines. Collections count as
    /// [`count_collections`](Keyspace::count_collections) says. Costs the same however many keys there
    /// are.
    pub fn used_bytes(&mut self) -> usize {
        self.settle();
        self.table.bytes()
            + self.cells.arena.live_bytes()
            + self.expiry.bytes()
            + self.text_bytes
            + self.objects.len() * size_of::<Value>()
            + self.collections_bytes()
    }

    /// Bytes of removed values that are waiting to be freed.
    pub fn waiting_bytes(&self) -> usize {
        self.graveyard.bytes()
    }

    /// Bytes of memory held for entries that are not in use: free cells of pages in use.
    pub fn spare_bytes(&self) -> usize {
        self.cells.arena.bytes() - self.cells.arena.live_bytes()
    }

    /// Bytes of the table of keys.
    pub fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Bytes of the index of deadlines.
    pub fn expiry_bytes(&self) -> usize {
        self.expiry.bytes()
    }

    /// Collections by their count, and those that are not counted by the mean of the counted ones; where
    /// none is counted, by the mean of a sample.
    fn collections_bytes(&self) -> usize {
        let heap = &self.heap;
        let len = self.objects.len();
        if heap.len == len {
            return heap.bytes;
        }
        if heap.len > 0 {
            return (heap.bytes as u128 * len as u128 / heap.len as u128) as usize;
        }
        let step = (self.objects.end() / OBJECT_SAMPLE).max(1);
        let (mut sampled, mut bytes) = (0, 0);
        for at in (0..self.objects.end()).step_by(step as usize) {
            if let Some(value) = self.objects.find(at) {
                sampled += 1;
                bytes += heap_of(value);
            }
        }
        (bytes as u128 * len as u128 / sampled.max(1) as u128) as usize
    }

    /// Counts the memory of collections from now on, at a small cost for each change of one, or only
    /// estimates it. Those that are there are counted by [`count_some`](Keyspace::count_some).
    pub fn count_collections(&mut self, on: bool) {
        self.settle();
        if on != (self.heap.end > 0) {
            self.heap = Heap {
                end: u32::from(on),
                ..Heap::default()
            };
            if on && let Some(value) = self.objects.find(0) {
                self.heap.len = 1;
                self.heap.bytes = heap_of(value);
            }
        }
    }

    /// Counts some more collections, if they are to be counted; true if there are more.
    pub fn count_some(&mut self, budget: u32) -> bool {
        if self.heap.end == 0 || self.heap.end == u32::MAX {
            return false;
        }
        self.settle();
        let end = self.heap.end.saturating_add(budget).min(self.objects.end());
        for value in (self.heap.end..end).filter_map(|at| self.objects.find(at)) {
            self.heap.len += 1;
            self.heap.bytes += heap_of(value);
        }
        let done = end == self.objects.end();
        self.heap.end = if done { u32::MAX } else { end };
        !done
    }

    /// Nothing expires before this time; earlier than the first deadline by at most a second.
    pub fn next_expiry(&mut self) -> Option<Ms> {
        self.settle();
        self.expiry.next()
    }

    /// Where a key stands in the order of scan cursors. A scan whose next cursor is above this has
    /// visited the key, one whose next cursor is not above it has it still to come; this holds
    /// through splits and merges.
    pub fn place(&self, key: &[u8]) -> u64 {
        Table::place(self.cells.hash(key))
    }

    /// Brings the expiry index up to date with the deadlines inside a collection that was borrowed
    /// to be changed. The next operation does so anyway; this only does it now.
    pub fn reindex(&mut self, _key: &[u8]) {
        self.settle();
    }

    /// Starts or stops noting keys that an access finds due and removes, for
    /// [`take_expired`](Keyspace::take_expired).
    pub fn note_expired(&mut self, on: bool) {
        self.expired = on.then(Vec::new);
    }

    /// Takes the keys that were found due and removed by an access since the last call, in order;
    /// not those that [`expire_due`](Keyspace::expire_due) visited. Empty unless noting is on.
    pub fn take_expired(&mut self) -> Vec<Box<[u8]>> {
        self.expired
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Starts or stops noting what goes without a command, for [`take_gone`](Keyspace::take_gone).
    pub fn note_gone(&mut self, on: bool) {
        match on {
            true => drop(self.gone.get_or_insert_default()),
            false => self.gone = None,
        }
    }

    /// Has anything gone without a command since the last [`take_gone`](Keyspace::take_gone)?
    #[inline]
    pub fn has_gone(&self) -> bool {
        self.gone.as_ref().is_some_and(|gone| !gone.is_empty())
    }

    /// Takes what went without a command since the last call, in order. Empty unless noting is on.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        self.gone.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Finds a key that is not due, and counts that as a use.
    #[inline(always)]
    fn used(&mut self, key: &[u8], now: Ms) -> Option<Found> {
        let found = self.live(key, now)?;
        Some(self.use_of(found))
    }

    /// The same for who will not change it.
    #[inline(always)]
    fn read(&mut self, key: &[u8], now: Ms) -> Option<Found> {
        let found = self.seen(key, now)?;
        Some(self.use_of(found))
    }

    #[inline(always)]
    fn use_of(&mut self, found: Found) -> Found {
        if found.head.clock() != self.clock {
            let head = found.head.with_clock(self.touched(found.head.clock()));
            head.write(self.cells.arena.at_mut(found.entry.cell()));
            return Found { head, ..found };
        }
        found
    }

    /// The clock of new entries.
    #[inline]
    fn clock_at(&self, now: Ms) -> u32 {
        match self.lfu {
            None => clock_of(now),
            Some(_) => Lfu::clock_of(now),
        }
    }

    /// What a stored clock becomes by a use.
    #[inline]
    fn touched(&mut self, clock: u32) -> u32 {
        match self.lfu {
            None => self.clock,
            Some(lfu) => lfu.used(clock, self.clock, &mut self.rng),
        }
    }

    /// The clock of what is written over another value: a new time, or the old count.
    #[inline]
    fn clock_over(&self, old: Head) -> u32 {
        match self.lfu {
            None => self.clock,
            Some(_) => old.clock(),
        }
    }

    /// Finds a key that is not due.
    #[inline(always)]
    fn live(&mut self, key: &[u8], now: Ms) -> Option<Found> {
        self.settle();
        self.clock = self.clock_at(now);
        let found = self.find(self.cells.hash(key), key)?;
        if found.head.flags() & (DEADLINE | FIELDS) != 0 && self.is_due(found.entry, now) {
            return self.on_due(found, now, false);
        }
        Some(found)
    }

    /// The same for who will not change it.
    #[inline(always)]
    fn seen(&mut self, key: &[u8], now: Ms) -> Option<Found> {
        self.settle();
        self.clock = self.clock_at(now);
        let found = self.find(self.cells.hash(key), key)?;
        if found.head.flags() & (DEADLINE | FIELDS) != 0 && self.is_due(found.entry, now) {
            return self.on_due(found, now, true);
        }
        Some(found)
    }

    /// What an access finds where the key or one of its fields is due.
    #[cold]
    fn on_due(&mut self, found: Found, now: Ms, only_looks: bool) -> Option<Found> {
        match self.due_keys {
            DueKeys::Shown => Some(found),
            DueKeys::Hidden if only_looks => (!self.has_passed(found.entry, now)).then_some(found),
            DueKeys::Hidden | DueKeys::Go => self.drop_due(found, now),
        }
    }

    /// Is the key itself due?
    fn has_passed(&self, entry: Entry, now: Ms) -> bool {
        let cell = self.cells.arena.at(entry.cell());
        Head::read(cell)
            .deadline(cell)
            .is_some_and(|due| due <= now)
    }

    /// Is the key or one of its fields due?
    fn is_due(&self, entry: Entry, now: Ms) -> bool {
        let cell = self.cells.arena.at(entry.cell());
        let head = Head::read(cell);
        head.deadline(cell).is_some_and(|due| due <= now)
            || head.fields_due(cell).is_some_and(|due| due <= now)
    }

    /// Removes what is due of a key: all of it, or fields. What is left of it.
    #[cold]
    fn drop_due(&mut self, found: Found, now: Ms) -> Option<Found> {
        let cell = self.cells.arena.at(found.entry.cell());
        let deadline = found.head.deadline(cell);
        if deadline.is_none_or(|due| due > now) {
            let object = number(self.cells.value(found.entry.cell(), found.head));
            let value = self.objects.at_mut(object);
            let before = heap_of(value);
            let mut fields = Vec::new();
            if self.gone.is_some()
                && let Value::Hash(hash) = &*value
            {
                let due = hash.deadlines().take_while(|(due, _)| *due <= now);
                fields.extend(due.map(|(_, field)| Box::from(field)));
            }
            each_collection!(value, _text => (), inner => inner.expire(now));
            if object < self.heap.end {
                self.heap.bytes = self.heap.bytes + heap_of(value) - before;
            }
            let (empty, next) = each_collection!(value,
                _text => (false, None),
                inner => (inner.is_empty(), inner.next_deadline()));
            if !empty {
                if let Some(gone) = self.gone.as_mut().filter(|_| !fields.is_empty()) {
                    let key = self.cells.key(found.entry.cell()).into();
                    gone.push(Gone { key, fields });
                }
                return Some(self.reshape(found, deadline, next));
            }
        }
        if let Some(log) = &mut self.expired {
            log.push(self.cells.key(found.entry.cell()).into());
        }
        self.bury_gone(found);
        None
    }

    #[inline(always)]
    fn find(&self, hash: u64, key: &[u8]) -> Option<Found> {
        // In words of their own: a whole result of two origins would go through memory.
        let likely = match self.table.first(hash) {
            First::Nothing => return None,
            First::Likely(at, entry) => {
                (self.cells.head_if(entry, key)).map(|head| (at, entry, head))
            }
            First::Elsewhere => None,
        };
        let (at, entry, head) = match likely {
            Some(words) => words,
            None => {
                let at = self.find_further(hash, key)?;
                let entry = self.table.entry_at(at);
                (at, entry, Head::read(self.cells.arena.at(entry.cell())))
            }
        };
        Some(Found { at, entry, head })
    }

    /// The whole search, for the few keys that the first look does not find.
    #[inline(never)]
    fn find_further(&self, hash: u64, key: &[u8]) -> Option<At> {
        let is = |entry| self.cells.head_if(entry, key).is_some();
        Some(self.table.find(hash, is)?.0)
    }

    /// Finds the key that a cell holds.
    fn find_cell(&self, cell: u64) -> Option<Found> {
        let hash = self.cells.hash(self.cells.key(cell));
        let (at, entry) = self.table.find(hash, |entry| entry.cell() == cell)?;
        let head = Head::read(self.cells.arena.at(cell));
        Some(Found { at, entry, head })
    }

    #[inline]
    fn value(&self, found: Found) -> Held<'_> {
        let stored = self.cells.value(found.entry.cell(), found.head);
        if found.entry.kind() == TEXT {
            Held::Text(stored)
        } else {
            Held::Object(self.objects.at(number(stored)))
        }
    }

    fn borrow_mut<T: InValue>(&mut self, found: Found) -> Result<&mut T, WrongType> {
        if found.entry.kind() != code_of(T::KIND) {
            return Err(WrongType);
        }
        let object = number(self.cells.value(found.entry.cell(), found.head));
        if T::KIND == Kind::Hash || object < self.heap.end {
            self.unsettled = Some(found.entry.cell());
            if object < self.heap.end {
                self.heap.before = heap_of(self.objects.at(object));
            }
        }
        T::borrow_mut(self.objects.at_mut(object)).ok_or(WrongType)
    }

    #[inline]
    fn settle(&mut self) {
        if let Some(cell) = self.unsettled {
            self.settle_collection(cell);
        }
    }

    /// Brings the index and the count up to date with a collection that may have been changed.
    #[cold]
    fn settle_collection(&mut self, cell: u64) {
        self.unsettled = None;
        let bytes = self.cells.arena.at(cell);
        let head = Head::read(bytes);
        let object = number(self.cells.value(cell, head));
        let value = self.objects.at(object);
        if object < self.heap.end {
            self.heap.bytes = self.heap.bytes + heap_of(value) - self.heap.before;
        }
        let next = each_collection!(value, _text => None, inner => inner.next_deadline());
        if next != head.fields_due(bytes)
            && let Some(found) = self.find_cell(cell)
        {
            self.reshape(found, head.deadline(bytes), next);
        }
    }

    /// Writes a small string over another of the same size class, if that is all there is to do.
    #[inline]
    fn overwrite(&mut self, found: Found, value: &[u8], deadline: Option<Ms>) -> bool {
        if value.len() > CELL_MAX {
            return false;
        }
        let old = found.head;
        let clock = self.clock_over(old);
        let head = Head::new(old.flags(), clock, old.key_len(), value.len());
        if found.entry.kind() != TEXT
            || deadline.is_some() != head.has(DEADLINE)
            || HEAD + TIMER + head.key_len() + value.len() > CELL_MAX
            || !Arena::same_class(found.head.size(), head.size())
        {
            return false;
        }
        let cell = self.cells.arena.at_mut(found.entry.cell());
        head.write(cell);
        cell[head.value_at()..head.size()].copy_from_slice(value);
        if let Some(due) = deadline {
            self.move_timer(found, due);
        }
        true
    }

    /// Changes a large string. Its memory is used again unless a reply still holds it.
    fn update_big<R>(&mut self, found: Found, change: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let object = number(self.cells.value(found.entry.cell(), found.head));
        let slot = self.objects.at_mut(object);
        let mut text = match slot {
            Value::String(text) => Vec::from(std::mem::take(&mut **text)),
            _ => Vec::new(),
        };
        self.text_bytes -= text.len();
        let result = change(&mut text);
        self.text_bytes += text.len();
        let key = self.cells.key(found.entry.cell());
        if fits_inline(key, &text) {
            let key = key.to_vec();
            let deadline = found.head.deadline(self.cells.arena.at(found.entry.cell()));
            // The emptied object counts nothing when it is released.
            self.text_bytes -= text.len();
            let hash = self.cells.hash(&key);
            self.store(hash, &key, Some(found), Content::Inline(&text), deadline);
        } else {
            *slot = Value::string(text);
        }
        result
    }

    /// Puts a value under a key that was looked up before.
    fn store(
        &mut self,
        hash: u64,
        key: &[u8],
        found: Option<Found>,
        content: Content<'_>,
        deadline: Option<Ms>,
    ) {
        let mut long_key = None;
        if let Some(found) = found {
            self.unindex(found.entry.cell(), found.head);
            if found.entry.kind() != TEXT {
                let value = self.release(found);
                self.graveyard.bury(value);
            }
            if found.head.has(LONG_KEY) {
                let cell = self.cells.arena.at(found.entry.cell());
                long_key = Some(number(&cell[found.head.key_at()..]));
            }
        }

        let (name, payload);
        let mut fields = None;
        let (kind, value) = match content {
            Content::Inline(text) => (TEXT, text),
            Content::Object(value) => {
                let kind = match &value {
                    Value::String(text) => {
                        self.text_bytes += text.len();
                        BIG_TEXT
                    }
                    value => code_of(value.kind()),
                };
                fields = each_collection!(&value, _text => None, inner => inner.next_deadline());
                let object = self.objects.insert(value);
                if object < self.heap.end {
                    self.heap.len += 1;
                    self.heap.bytes += heap_of(self.objects.at(object));
                }
                payload = object.to_le_bytes();
                (kind, &payload[..])
            }
        };
        let mut flags = 0;
        let stored_key = if key.len() > KEY_MAX {
            flags |= LONG_KEY;
            let number = match long_key {
                Some(number) => number,
                None => {
                    self.text_bytes += key.len();
                    self.cells.long_keys.insert(key.into())
                }
            };
            name = number.to_le_bytes();
            name.as_slice()
        } else {
            key
        };
        if deadline.is_some() {
            flags |= DEADLINE;
        }
        if fields.is_some() {
            flags |= FIELDS;
        }
        let clock = found.map_or(self.clock, |found| self.clock_over(found.head));
        let head = Head::new(flags, clock, stored_key.len(), value.len());

        let cell = match found {
            Some(found) if Arena::same_class(found.head.size(), head.size()) => found.entry.cell(),
            Some(found) => {
                self.cells.arena.free(found.entry.cell());
                self.cells.arena.take(head.size())
            }
            None => self.cells.arena.take(head.size()),
        };
        let bytes = self.cells.arena.at_mut(cell);
        head.write(bytes);
        bytes[head.key_at()..head.value_at()].copy_from_slice(stored_key);
        bytes[head.value_at()..head.size()].copy_from_slice(value);
        self.index(cell, head, deadline, fields);
        let entry = Entry::new(kind, cell);
        match found {
            Some(found) => self.table.set(found.at, entry),
            None => {
                let cells = &self.cells;
                self.table
                    .insert(hash, entry, |entries, into| cells.hash_all(entries, into));
            }
        }
    }

    /// Gives an entry other timers; its cell may become another one.
    fn reshape(&mut self, found: Found, deadline: Option<Ms>, fields: Option<Ms>) -> Found {
        let old = found.head;
        self.unindex(found.entry.cell(), old);
        let mut flags = old.flags() & !(DEADLINE | FIELDS);
        if deadline.is_some() {
            flags |= DEADLINE;
        }
        if fields.is_some() {
            flags |= FIELDS;
        }
        let head = Head::new(flags, old.clock(), old.key_len(), old.value_len());
        let mut rest = std::mem::take(&mut self.scratch);
        rest.clear();
        rest.extend_from_slice(&self.cells.arena.at(found.entry.cell())[old.key_at()..old.size()]);
        let cell = if Arena::same_class(old.size(), head.size()) {
            found.entry.cell()
        } else {
            self.cells.arena.free(found.entry.cell());
            self.cells.arena.take(head.size())
        };
        let bytes = self.cells.arena.at_mut(cell);
        head.write(bytes);
        bytes[head.key_at()..head.size()].copy_from_slice(&rest);
        self.scratch = rest;
        self.index(cell, head, deadline, fields);
        let entry = Entry::new(found.entry.kind(), cell);
        self.table.set(found.at, entry);
        Found {
            entry,
            head,
            ..found
        }
    }

    /// Changes the deadline of a key that has one.
    fn move_timer(&mut self, found: Found, due: Ms) {
        let cell = found.entry.cell();
        let item = Item {
            cell,
            fields: false,
        };
        let (old, place) = found.head.timer(self.cells.arena.at(cell), false);
        let place = if old == due || self.expiry.nudge(old, due, place, item) {
            place
        } else {
            self.unindex_one(old, place);
            self.expiry.insert(due, item)
        };
        found
            .head
            .set_timer(self.cells.arena.at_mut(cell), false, due, place);
    }

    /// Adds the timers of an entry to the index.
    fn index(&mut self, cell: u64, head: Head, deadline: Option<Ms>, fields: Option<Ms>) {
        if deadline.is_some() {
            self.expiring += 1;
        }
        for (due, fields) in [(deadline, false), (fields, true)] {
            if let Some(due) = due {
                let place = self.expiry.insert(due, Item { cell, fields });
                head.set_timer(self.cells.arena.at_mut(cell), fields, due, place);
            }
        }
    }

    /// Takes the timers of an entry out of the index.
    fn unindex(&mut self, cell: u64, head: Head) {
        if head.has(DEADLINE) {
            self.expiring -= 1;
            let (due, place) = head.timer(self.cells.arena.at(cell), false);
            self.unindex_one(due, place);
        }
        if head.has(FIELDS) {
            // Read only now: the first removal may have moved this one.
            let (due, place) = head.timer(self.cells.arena.at(cell), true);
            self.unindex_one(due, place);
        }
    }

    fn unindex_one(&mut self, due: Ms, place: u32) {
        if let Some(moved) = self.expiry.remove(due, place) {
            let bytes = self.cells.arena.at_mut(moved.cell);
            let head = Head::read(bytes);
            let (due, _) = head.timer(bytes, moved.fields);
            head.set_timer(bytes, moved.fields, due, place);
        }
    }

    /// Removes a key that goes without a command.
    fn bury_gone(&mut self, found: Found) {
        if let Some(gone) = &mut self.gone {
            gone.push(Gone {
                key: self.cells.key(found.entry.cell()).into(),
                fields: Vec::new(),
            });
        }
        self.bury(found);
    }

    /// Removes a key and its value.
    fn bury(&mut self, found: Found) {
        if found.entry.kind() != TEXT {
            let value = self.release(found);
            self.graveyard.bury(value);
        }
        self.drop_entry(found);
    }

    /// Takes the object of an entry, which must not be used afterwards.
    fn release(&mut self, found: Found) -> Value {
        let object = number(self.cells.value(found.entry.cell(), found.head));
        let value = self.objects.remove(object);
        if let Value::String(text) = &value {
            self.text_bytes -= text.len();
        }
        if object < self.heap.end {
            self.heap.len -= 1;
            self.heap.bytes -= heap_of(&value);
        }
        value
    }

    /// Removes a key whose object, if it had one, was taken.
    fn drop_entry(&mut self, found: Found) {
        self.unindex(found.entry.cell(), found.head);
        let cells = &self.cells;
        self.table
            .remove(found.at, |entries, into| cells.hash_all(entries, into));
        if found.head.has(LONG_KEY) {
            let cell = self.cells.arena.at(found.entry.cell());
            let long_key = number(&cell[found.head.key_at()..]);
            self.text_bytes -= self.cells.long_keys.remove(long_key).len();
        }
        self.cells.arena.free(found.entry.cell());
    }
}

impl Cells {
    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared_seed);
        hasher.write(key);
        hasher.finish()
    }

    /// The hashes of many entries' keys.
    fn hash_all(&self, entries: &[Entry], into: &mut [u64]) {
        // These reads do not depend on each other, so the processor waits for memory once, not for
        // every key.
        let touched = entries
            .iter()
            .fold(0, |sum, entry| sum ^ self.arena.at(entry.cell())[0]);
        std::hint::black_box(touched);
        for (entry, into) in entries.iter().zip(into) {
            *into = self.hash(self.key(entry.cell()));
        }
    }

    /// The entry's head if this is its key.
    #[inline(always)]
    fn head_if(&self, entry: Entry, key: &[u8]) -> Option<Head> {
        let cell = self.arena.at(entry.cell());
        let head = Head::read(cell);
        let stored = &cell[head.key_at()..head.value_at()];
        let is_it = if head.has(LONG_KEY) {
            key.len() > KEY_MAX && **self.long_keys.at(number(stored)) == *key
        } else {
            is_same(stored, key)
        };
        is_it.then_some(head)
    }

    fn key(&self, cell: u64) -> &[u8] {
        let bytes = self.arena.at(cell);
        let head = Head::read(bytes);
        let stored = &bytes[head.key_at()..head.value_at()];
        if head.has(LONG_KEY) {
            self.long_keys.at(number(stored))
        } else {
            stored
        }
    }

    /// The stored value: a small string, or an object's number.
    #[inline]
    fn value(&self, cell: u64, head: Head) -> &[u8] {
        &self.arena.at(cell)[head.value_at()..head.size()]
    }
}

/// A value as it is kept.
enum Held<'a> {
    Text(&'a [u8]),
    Object(&'a Value),
}

/// A value on its way in.
enum Content<'a> {
    Inline(&'a [u8]),
    Object(Value),
}

/// Bytes of a collection outside of its object; large strings are counted by themselves.
#[inline]
fn heap_of(value: &Value) -> usize {
    each_collection!(value, _text => 0, inner => inner.heap_bytes())
}

/// Equality of keys: short ones, where a call into a library's comparison costs more than comparing.
#[inline(always)]
fn is_same(stored: &[u8], key: &[u8]) -> bool {
    let len = stored.len();
    if len != key.len() {
        return false;
    }
    if !(8..=32).contains(&len) {
        return stored == key;
    }
    let word = |bytes: &[u8], at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let mut differing = word(stored, len - 8) ^ word(key, len - 8);
    let mut at = 0;
    while at + 8 < len {
        differing |= word(stored, at) ^ word(key, at);
        at += 8;
    }
    differing == 0
}

fn fits_inline(key: &[u8], value: &[u8]) -> bool {
    let key_len = if key.len() > KEY_MAX { 4 } else { key.len() };
    // Room for a deadline is kept, so that EXPIRE never has to move a value out.
    HEAD + TIMER + key_len + value.len() <= CELL_MAX
}

fn encoding_of(text: &[u8]) -> &'static str {
    if text.len() <= 20 && parse_i64(text).is_some() {
        "int"
    } else if text.len() <= 44 {
        "embstr"
    } else {
        "raw"
    }
}

#[inline]
fn kind_of(entry: Entry) -> Kind {
    match entry.kind() {
        TEXT | BIG_TEXT => Kind::String,
        3 => Kind::Hash,
        4 => Kind::List,
        5 => Kind::Set,
        6 => Kind::Zset,
        _ => Kind::Stream,
    }
}

#[inline]
fn code_of(kind: Kind) -> u64 {
    match kind {
        Kind::String => BIG_TEXT,
        Kind::Hash => 3,
        Kind::List => 4,
        Kind::Set => 5,
        Kind::Zset => 6,
        Kind::Stream => 7,
    }
}

/// A small string, in the cell.
const TEXT: u64 = 1;
/// A large string, an object.
const BIG_TEXT: u64 = 2;
/// Longer keys are kept outside of their cell.
const KEY_MAX: usize = CELL_MAX - HEAD - 2 * TIMER - 4;
const RANDOM_TRIES: usize = 64;
/// Items of the current second that may be looked at for each key of the expiry budget.
const LOOKS_PER_KEY: usize = 16;
const OBJECT_SAMPLE: u32 = 16;

#[cfg(test)]
#[path = "keyspace_tests.rs"]
mod tests;
