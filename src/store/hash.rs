//! The hash value.

mod pairs;

use std::collections::BTreeSet;

use self::pairs::{PAIRS_MAX, Pairs};
use super::{
    Kind,
    dict::{Dict, Entry, Keyed, Short, Table},
    value::Typed,
};
use crate::base::{Ms, Rng};

/// A hash value: fields with values, each field with a deadline of its own if it was given one.
#[derive(Clone, Debug, Default)]
pub struct Hash {
    repr: Repr,
}

/// Most hashes are small and without deadlines: these take no more than they must.
#[derive(Clone, Debug)]
enum Repr {
    Packed(Pairs),
    Full(Box<Full>),
}

#[derive(Clone, Debug)]
struct Full {
    body: Body,
    /// From the first deadline on, even when none is left: the encoding's name stays.
    deadlines: Option<Deadlines>,
}

#[derive(Clone, Debug)]
enum Body {
    /// In the order of their creation.
    Packed(Pairs),
    Table(Table<Field>),
}

impl Default for Repr {
    fn default() -> Self {
        Repr::Packed(Pairs::default())
    }
}

/// What holds the fields.
enum View<P, T> {
    Packed(P),
    Table(T),
}

impl Hash {
    /// Number of fields.
    pub fn len(&self) -> usize {
        match self.body() {
            View::Packed(pairs) => pairs.len(),
            View::Table(table) => table.len(),
        }
    }

    /// True without fields.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        match self.body() {
            View::Packed(pairs) => pairs.get(field),
            View::Table(table) => table.find(field).map(Field::value),
        }
    }

    /// Is the field there?
    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Sets a field, which then has no deadline; true if it is new.
    pub fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.clear_deadline(field);
        self.put(field, value)
    }

    /// Sets a field, whose deadline stays; true if it is new.
    pub fn put(&mut self, field: &[u8], value: &[u8]) -> bool {
        if let View::Packed(pairs) = self.body_mut()
            && let Some(new) = pairs.put(field, value)
        {
            return new;
        }
        match self.table().entry(field) {
            Entry::Found(found) => {
                found.set_value(value);
                false
            }
            Entry::Absent(place) => {
                place.insert(Field::new(field, value));
                true
            }
        }
    }

    /// Makes ready for `fields` new fields, more than the packed form takes if need be.
    pub fn reserve(&mut self, fields: usize) {
        if fields > PAIRS_MAX {
            self.table();
        }
    }

    /// Removes a field; true if it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        self.clear_deadline(field);
        match self.body_mut() {
            View::Packed(pairs) => pairs.remove(field),
            View::Table(table) => table.remove(field).is_some(),
        }
    }

    /// All fields with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (pairs, table) = match self.body() {
            View::Packed(pairs) => (Some(pairs), None),
            View::Table(table) => (None, Some(table)),
        };
        let pairs = pairs.into_iter().flat_map(Pairs::iter);
        let fields = table.into_iter().flat_map(|table| table.iter());
        pairs.chain(fields.map(|field| (field.key(), field.value())))
    }

    /// Visits some fields, about `count`, from a cursor on; the next cursor, 0 at the end. The packed
    /// form is visited whole. A field that is there all the time is visited at least once.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], &[u8])) -> u64 {
        match self.body() {
            View::Packed(pairs) => {
                pairs.iter().for_each(|(field, value)| visit(field, value));
                0
            }
            View::Table(table) => {
                table.scan(cursor, count, |field| visit(field.key(), field.value()))
            }
        }
    }

    /// A field chosen at random with its value.
    pub fn random(&self, rng: &mut Rng) -> Option<(&[u8], &[u8])> {
        match self.body() {
            View::Packed(pairs) if pairs.len() == 0 => None,
            View::Packed(pairs) => pairs.iter().nth(rng.below(pairs.len() as u64) as usize),
            View::Table(table) => {
                let field = table.random(rng)?;
                Some((field.key(), field.value()))
            }
        }
    }

    /// When a field expires.
    pub fn deadline(&self, field: &[u8]) -> Option<Ms> {
        self.due()?.by_field.get(field).copied()
    }

    /// Sets or clears a field's deadline; false if the field is absent. After a change the keyspace
    /// has to be told.
    pub fn set_deadline(&mut self, field: &[u8], deadline: Option<Ms>) -> bool {
        if !self.contains(field) {
            return false;
        }
        match deadline {
            Some(deadline) => {
                let deadlines = self.full().deadlines.get_or_insert_default();
                deadlines.set(field, deadline);
            }
            None => self.clear_deadline(field),
        }
        true
    }

    /// The fields that have deadlines, the next one due first.
    pub fn deadlines(&self) -> impl Iterator<Item = (Ms, &[u8])> {
        self.due()
            .into_iter()
            .flat_map(|deadlines| &deadlines.by_time)
            .map(|(deadline, field)| (*deadline, field.as_slice()))
    }

    fn body(&self) -> View<&Pairs, &Table<Field>> {
        match &self.repr {
            Repr::Packed(pairs) => View::Packed(pairs),
            Repr::Full(full) => match &full.body {
                Body::Packed(pairs) => View::Packed(pairs),
                Body::Table(table) => View::Table(table),
            },
        }
    }

    fn body_mut(&mut self) -> View<&mut Pairs, &mut Table<Field>> {
        match &mut self.repr {
            Repr::Packed(pairs) => View::Packed(pairs),
            Repr::Full(full) => match &mut full.body {
                Body::Packed(pairs) => View::Packed(pairs),
                Body::Table(table) => View::Table(table),
            },
        }
    }

    fn due(&self) -> Option<&Deadlines> {
        match &self.repr {
            Repr::Packed(_) => None,
            Repr::Full(full) => full.deadlines.as_ref(),
        }
    }

    fn due_mut(&mut self) -> Option<&mut Deadlines> {
        match &mut self.repr {
            Repr::Packed(_) => None,
            Repr::Full(full) => full.deadlines.as_mut(),
        }
    }

    fn clear_deadline(&mut self, field: &[u8]) {
        if let Some(deadlines) = self.due_mut() {
            deadlines.clear(field);
        }
    }

    /// The form that can take deadlines and a table, made out of the small one if need be.
    fn full(&mut self) -> &mut Full {
        if let Repr::Packed(pairs) = &mut self.repr {
            self.repr = Repr::Full(Box::new(Full {
                body: Body::Packed(std::mem::take(pairs)),
                deadlines: None,
            }));
        }
        match &mut self.repr {
            Repr::Full(full) => full,
            Repr::Packed(_) => unreachable!("made a full one just now"),
        }
    }

    /// The table, made out of the packed form if need be.
    fn table(&mut self) -> &mut Table<Field> {
        let full = self.full();
        if let Body::Packed(pairs) = &full.body {
            let mut table = Table::<Field>::default();
            for (field, value) in pairs.iter() {
                if let Entry::Absent(place) = table.entry(field) {
                    place.insert(Field::new(field, value));
                }
            }
            full.body = Body::Table(table);
        }
        match &mut full.body {
            Body::Table(table) => table,
            Body::Packed(_) => unreachable!("made a table just now"),
        }
    }
}

impl Typed for Hash {
    const KIND: Kind = Kind::Hash;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn free_slice(&mut self, budget: usize) -> bool {
        let freed = match self.body_mut() {
            View::Packed(pairs) => {
                *pairs = Pairs::default();
                true
            }
            View::Table(table) => table.free_slice(budget),
        };
        let freed_deadlines = self
            .due_mut()
            .is_none_or(|deadlines| deadlines.free_slice(budget));
        freed && freed_deadlines
    }

    fn heap_bytes(&self) -> usize {
        let full = match &self.repr {
            Repr::Packed(_) => 0,
            Repr::Full(_) => size_of::<Full>(),
        };
        let body = match self.body() {
            View::Packed(pairs) => pairs.heap_bytes(),
            View::Table(table) => table.heap_bytes(),
        };
        // The second index of deadlines holds as much again as the first.
        full + body
            + self
                .due()
                .map_or(0, |deadlines| 2 * deadlines.by_field.heap_bytes())
    }

    fn encoding(&self) -> &'static str {
        match (self.body(), self.due()) {
            (View::Packed(_), None) => "listpack",
            (View::Packed(_), Some(_)) => "listpackex",
            (View::Table(_), _) => "hashtable",
        }
    }

    fn next_deadline(&self) -> Option<Ms> {
        self.due()?.next()
    }

    fn expire(&mut self, now: Ms) {
        while let Some(deadlines) = self.due_mut()
            && deadlines.next().is_some_and(|next| next <= now)
            && let Some((_, field)) = deadlines.by_time.pop_first()
        {
            deadlines.by_field.remove(field.as_slice());
            self.remove(field.as_slice());
        }
    }
}

/// Deadlines by field and in order of time.
#[derive(Clone, Debug, Default)]
struct Deadlines {
    by_field: Dict<Ms>,
    by_time: BTreeSet<(Ms, Short)>,
}

impl Deadlines {
    fn next(&self) -> Option<Ms> {
        self.by_time.first().map(|(deadline, _)| *deadline)
    }

    fn set(&mut self, field: &[u8], deadline: Ms) {
        if let Some(old) = self.by_field.insert(field, deadline) {
            self.by_time.remove(&(old, Short::new(field)));
        }
        self.by_time.insert((deadline, Short::new(field)));
    }

    fn clear(&mut self, field: &[u8]) {
        if let Some(old) = self.by_field.remove(field) {
            self.by_time.remove(&(old, Short::new(field)));
        }
    }

    fn free_slice(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            if self.by_time.pop_first().is_none() {
                break;
            }
        }
        let freed = self.by_field.free_slice(budget);
        freed && self.by_time.is_empty()
    }
}

/// A field and its value in one byte string: the field's length (one byte, or 255 and four bytes),
/// the field, the value.
#[derive(Clone, Debug)]
struct Field(Short);

impl Field {
    fn new(field: &[u8], value: &[u8]) -> Self {
        let mut header = [255; 5];
        let header = match u8::try_from(field.len()) {
            Ok(len) if len < 255 => {
                header[0] = len;
                &header[..1]
            }
            _ => {
                // Longer arguments than this are refused long before.
                header[1..].copy_from_slice(&(field.len() as u32).to_le_bytes());
                &header[..]
            }
        };
        Field(Short::concat(&[header, field, value]))
    }

    fn split(&self) -> (std::ops::Range<usize>, &[u8]) {
        let text = self.0.as_slice();
        match *text {
            [255, a, b, c, d, ..] => {
                let len = u32::from_le_bytes([a, b, c, d]) as usize;
                (5..5 + len, text)
            }
            [len, ..] => (1..1 + usize::from(len), text),
            [] => (0..0, text),
        }
    }

    fn value(&self) -> &[u8] {
        let (field, text) = self.split();
        &text[field.end..]
    }

    fn set_value(&mut self, value: &[u8]) {
        let (field, text) = self.split();
        if text.len() == field.end + value.len() {
            self.0.as_mut_slice()[field.end..].copy_from_slice(value);
        } else {
            *self = Field(Short::concat(&[&text[..field.end], value]));
        }
    }
}

impl Keyed for Field {
    fn key(&self) -> &[u8] {
        let (field, text) = self.split();
        &text[field]
    }

    fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Set(u16, u16),
        Put(u16, u16),
        Remove(u16),
        Deadline(u16, Option<u16>),
        Expire(u16),
    }

    fn op(fields: u16) -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..fields, 0u16..90).prop_map(|(field, value)| Op::Set(field, value)),
            2 => (0..fields, 0u16..60).prop_map(|(field, value)| Op::Put(field, value)),
            2 => (0..fields).prop_map(Op::Remove),
            2 => (0..fields, prop::option::of(0u16..1000))
                .prop_map(|(field, deadline)| Op::Deadline(field, deadline)),
            1 => (0u16..1000).prop_map(Op::Expire),
        ]
    }

    /// What the hash should hold: values and deadlines by field.
    type Model = BTreeMap<Vec<u8>, (Vec<u8>, Option<Ms>)>;

    fn name(field: u16) -> Vec<u8> {
        let len = if field % 97 == 96 { 300 } else { 3 };
        format!("{field:len$}").into_bytes()
    }

    fn text(value: u16) -> Vec<u8> {
        vec![b'v'; value.into()]
    }

    fn apply(hash: &mut Hash, model: &mut Model, op: &Op) {
        match *op {
            Op::Set(field, value) => {
                let new = model.insert(name(field), (text(value), None)).is_none();
                assert_eq!(hash.set(&name(field), &text(value)), new);
            }
            Op::Put(field, value) => {
                let old = model.get(&name(field)).map(|(_, deadline)| *deadline);
                model.insert(name(field), (text(value), old.flatten()));
                assert_eq!(hash.put(&name(field), &text(value)), old.is_none());
            }
            Op::Remove(field) => {
                let was = model.remove(&name(field)).is_some();
                assert_eq!(hash.remove(&name(field)), was);
            }
            Op::Deadline(field, deadline) => {
                let deadline = deadline.map(Ms::from);
                let found = model.get_mut(&name(field));
                assert_eq!(hash.set_deadline(&name(field), deadline), found.is_some());
                if let Some((_, old)) = found {
                    *old = deadline;
                }
            }
            Op::Expire(now) => {
                model.retain(|_, (_, deadline)| deadline.is_none_or(|due| due > now.into()));
                hash.expire(now.into());
            }
        }
    }

    fn same(hash: &Hash, model: &Model) {
        assert_eq!(hash.len(), model.len());
        for (field, (value, deadline)) in model {
            assert_eq!(hash.get(field), Some(&value[..]));
            assert_eq!(hash.deadline(field), *deadline);
        }
        let all: BTreeMap<&[u8], &[u8]> = hash.iter().collect();
        assert_eq!(all.len(), model.len());
        let next = model.values().filter_map(|(_, deadline)| *deadline).min();
        assert_eq!(hash.next_deadline(), next);
        let (mut seen, mut cursor) = (0, 0);
        loop {
            cursor = hash.scan(cursor, 10, |field, value| {
                seen += 1;
                assert_eq!(model.get(field).map(|(value, _)| &value[..]), Some(value));
            });
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(seen, model.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_hash_behaves_as_a_map(
            (fields, ops) in prop_oneof![Just(12u16), Just(400)]
                .prop_flat_map(|fields| (Just(fields), prop::collection::vec(op(fields), 1..600)))
        ) {
            let (mut hash, mut model) = (Hash::default(), Model::new());
            for op in &ops {
                apply(&mut hash, &mut model, op);
            }
            same(&hash, &model);
            let copy = hash.clone();
            while !hash.free_slice(7) {}
            same(&copy, &model);
            let _ = fields;
        }
    }

    #[test]
    fn encodings_change_at_the_limits() {
        let mut hash = Hash::default();
        for at in 0..128 {
            hash.set(format!("{at}").as_bytes(), &[b'v'; 64]);
        }
        assert_eq!(hash.encoding(), "listpack");
        hash.set_deadline(b"1", Some(5));
        assert_eq!(hash.encoding(), "listpackex");
        let mut wide = hash.clone();
        hash.set(b"one more", b"");
        assert_eq!((hash.encoding(), hash.len()), ("hashtable", 129));
        assert_eq!(hash.deadline(b"1"), Some(5));
        wide.set(b"1", &[b'v'; 65]);
        assert_eq!((wide.encoding(), wide.len()), ("hashtable", 128));
        assert_eq!(wide.deadline(b"1"), None);
    }
}
