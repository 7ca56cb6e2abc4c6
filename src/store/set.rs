//! The set value.

use std::ops::Deref;

use super::{Kind, block::Block, dict::Dict, packed::Packed, value::Typed};
use crate::base::{Rng, parse_i64};

/// A set value.
#[derive(Clone, Debug)]
pub struct Set {
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Ints(Ints),
    /// In the order of their insertion.
    Packed(Packed),
    Table(Box<Dict<()>>),
}

impl Default for Set {
    fn default() -> Self {
        Set {
            body: Body::Ints(Ints::default()),
        }
    }
}

/// A member of a set, borrowed from it or made of an integer. It is used as the bytes that it is.
pub enum Member<'a> {
    /// Borrowed.
    Bytes(&'a [u8]),
    /// The digits of an integer.
    Digits {
        /// The digits, and nothing of use behind them.
        digits: [u8; 20],
        /// How many digits.
        len: u8,
    },
}

impl Member<'_> {
    fn int(value: i64) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(value).as_bytes();
        let mut digits = [0; 20];
        digits[..text.len()].copy_from_slice(text);
        Member::Digits {
            digits,
            len: text.len() as u8,
        }
    }
}

impl Deref for Member<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Member::Bytes(bytes) => bytes,
            Member::Digits { digits, len } => &digits[..usize::from(*len)],
        }
    }
}

impl Set {
    /// Number of members.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Ints(ints) => ints.len(),
            Body::Packed(packed) => packed.len(),
            Body::Table(table) => table.len(),
        }
    }

    /// True without members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is it a member?
    pub fn contains(&self, member: &[u8]) -> bool {
        match &self.body {
            Body::Ints(ints) => parse_i64(member).is_some_and(|value| ints.find(value).is_ok()),
            Body::Packed(packed) => packed.find(member).is_some(),
            Body::Table(table) => table.contains(member),
        }
    }

    /// Makes ready for `members` new members, of which `first` is the first: they choose the form.
    pub fn reserve(&mut self, first: &[u8], members: usize) {
        let max = match &self.body {
            Body::Ints(ints) if ints.len() == 0 && parse_i64(first).is_none() => PACKED_MAX,
            Body::Ints(_) => INTS_MAX,
            Body::Packed(_) => PACKED_MAX,
            Body::Table(_) => return,
        };
        if members > max {
            self.table();
        }
    }

    /// Adds a member; true if it is new.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        match &mut self.body {
            Body::Ints(ints) => {
                if let Some(value) = parse_i64(member) {
                    let new = ints.insert(value);
                    if ints.len() > INTS_MAX {
                        self.table();
                    }
                    return new;
                }
                if ints.len() < PACKED_MAX && member.len() <= SHORT_MAX {
                    let mut packed = Packed::default();
                    ints.iter()
                        .for_each(|value| packed.push(&Member::int(value)));
                    packed.push(member);
                    self.body = Body::Packed(packed);
                    return true;
                }
            }
            Body::Packed(packed) => {
                if packed.find(member).is_some() {
                    return false;
                }
                if packed.len() < PACKED_MAX && member.len() <= SHORT_MAX {
                    packed.push(member);
                    return true;
                }
            }
            Body::Table(_) => {}
        }
        self.table().insert(member, ()).is_none()
    }

    /// Removes a member; true if it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match &mut self.body {
            Body::Ints(ints) => parse_i64(member).is_some_and(|value| ints.remove(value)),
            Body::Packed(packed) => match packed.find(member) {
                Some(place) => {
                    packed.remove(place);
                    true
                }
                None => false,
            },
            Body::Table(table) => table.remove(member).is_some(),
        }
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = Member<'_>> {
        let (ints, packed, table) = match &self.body {
            Body::Ints(ints) => (Some(ints), None, None),
            Body::Packed(packed) => (None, Some(packed), None),
            Body::Table(table) => (None, None, Some(table)),
        };
        let ints = ints.into_iter().flat_map(Ints::iter).map(Member::int);
        let packed = packed.into_iter().flat_map(Packed::iter);
        let table = table.into_iter().flat_map(|table| table.iter());
        let texts = packed.chain(table.map(|(member, ())| member));
        ints.chain(texts.map(Member::Bytes))
    }

    /// Visits some members, about `count`, from a cursor on; the next cursor, 0 at the end. Small
    /// forms are visited whole. A member that is there all the time is visited at least once.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8])) -> u64 {
        match &self.body {
            Body::Table(table) => table.scan(cursor, count, |member, ()| visit(member)),
            _ => {
                self.iter().for_each(|member| visit(&member));
                0
            }
        }
    }

    /// A member chosen at random.
    pub fn random(&self, rng: &mut Rng) -> Option<Member<'_>> {
        if self.is_empty() {
            return None;
        }
        let mut below = |len: usize| rng.below(len as u64) as usize;
        Some(match &self.body {
            Body::Ints(ints) => Member::int(ints.get(below(ints.len()))),
            Body::Packed(packed) => Member::Bytes(packed.iter().nth(below(packed.len()))?),
            Body::Table(table) => Member::Bytes(table.random(rng)?.0),
        })
    }

    /// The table, made out of another form if need be.
    fn table(&mut self) -> &mut Dict<()> {
        if !matches!(self.body, Body::Table(_)) {
            let mut table = Box::<Dict<()>>::default();
            for member in self.iter() {
                table.insert(&member, ());
            }
            self.body = Body::Table(table);
        }
        match &mut self.body {
            Body::Table(table) => table,
            _ => unreachable!("made a table just now"),
        }
    }
}

impl Typed for Set {
    const KIND: Kind = Kind::Set;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn free_slice(&mut self, budget: usize) -> bool {
        match &mut self.body {
            Body::Table(table) => table.free_slice(budget),
            _ => {
                *self = Set::default();
                true
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.body {
            Body::Ints(ints) => ints.bytes.heap_bytes(),
            Body::Packed(packed) => packed.heap_bytes(),
            Body::Table(table) => size_of::<Dict<()>>() + table.heap_bytes(),
        }
    }

    fn encoding(&self) -> &'static str {
        match self.body {
            Body::Ints(_) => "intset",
            Body::Packed(_) => "listpack",
            Body::Table(_) => "hashtable",
        }
    }
}

/// Integers in order, each in as many bytes as the widest of them needs.
#[derive(Clone, Debug, Default)]
struct Ints {
    width: Width,
    bytes: Block,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Width {
    #[default]
    Two = 2,
    Four = 4,
    Eight = 8,
}

impl Width {
    fn of(value: i64) -> Width {
        if i16::try_from(value).is_ok() {
            Width::Two
        } else if i32::try_from(value).is_ok() {
            Width::Four
        } else {
            Width::Eight
        }
    }
}

impl Ints {
    fn len(&self) -> usize {
        self.bytes.len() / self.width as usize
    }

    fn get(&self, at: usize) -> i64 {
        match self.width {
            Width::Two => i16::from_le_bytes(self.cell(at)).into(),
            Width::Four => i32::from_le_bytes(self.cell(at)).into(),
            Width::Eight => i64::from_le_bytes(self.cell(at)),
        }
    }

    fn cell<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut cell = [0; N];
        cell.copy_from_slice(&self.bytes[at * N..(at + 1) * N]);
        cell
    }

    fn iter(&self) -> impl Iterator<Item = i64> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Where the value is or where it would go.
    fn find(&self, value: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).cmp(&value) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn insert(&mut self, value: i64) -> bool {
        let Err(at) = self.find(value) else {
            return false;
        };
        if Width::of(value) > self.width {
            let width = Width::of(value);
            let mut wide = Vec::with_capacity(self.len() * width as usize);
            for old in self.iter() {
                wide.extend_from_slice(&old.to_le_bytes()[..width as usize]);
            }
            let mut bytes = Block::default();
            bytes.splice(0..0, &[&wide]);
            *self = Ints { width, bytes };
        }
        let width = self.width as usize;
        let cell = value.to_le_bytes();
        self.bytes.splice(at * width..at * width, &[&cell[..width]]);
        true
    }

    fn remove(&mut self, value: i64) -> bool {
        let Ok(at) = self.find(value) else {
            return false;
        };
        let width = self.width as usize;
        self.bytes.splice(at * width..(at + 1) * width, &[]);
        true
    }
}

/// Most integers of the form that holds nothing else.
const INTS_MAX: usize = 512;
/// Most members of the packed form.
const PACKED_MAX: usize = 128;
/// Longest member of the packed form.
const SHORT_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::base::Rng;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(Vec<u8>),
        Remove(Vec<u8>),
    }

    fn member() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            6 => (-300i64..300).prop_map(|value| value.to_string().into_bytes()),
            1 => (-5i64..5).prop_map(|value| (value << 40).to_string().into_bytes()),
            1 => (-5i64..5).prop_map(|value| (value << 20).to_string().into_bytes()),
            1 => "[a-c]{0,3}".prop_map(String::into_bytes),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => member().prop_map(Op::Insert),
            1 => member().prop_map(Op::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn a_set_behaves_as_a_set(
            ops in prop_oneof![
                prop::collection::vec(op(), 1..30),
                prop::collection::vec(op(), 1..800),
            ],
            ints_only in any::<bool>(),
        ) {
            let (mut set, mut model) = (Set::default(), BTreeSet::new());
            for op in &ops {
                let (Op::Insert(text) | Op::Remove(text)) = op;
                if ints_only && parse_i64(text).is_none() {
                    continue;
                }
                match op {
                    Op::Insert(text) => {
                        prop_assert_eq!(set.insert(text), model.insert(text.clone()));
                    }
                    Op::Remove(text) => prop_assert_eq!(set.remove(text), model.remove(text)),
                }
                prop_assert!(set.len() == model.len());
            }
            let all: BTreeSet<Vec<u8>> = set.iter().map(|member| member.to_vec()).collect();
            prop_assert_eq!(&all, &model);
            for member in &model {
                prop_assert!(set.contains(member));
            }
            prop_assert!(!set.contains(b"x") && !set.contains(b"12345"));
            let (mut seen, mut cursor) = (0, 0);
            loop {
                cursor = set.scan(cursor, 7, |_| seen += 1);
                if cursor == 0 {
                    break;
                }
            }
            prop_assert_eq!(seen, model.len());
            let mut rng = Rng::seeded(1);
            match set.random(&mut rng) {
                Some(member) => prop_assert!(model.contains(&member[..])),
                None => prop_assert!(model.is_empty()),
            }
            while !set.free_slice(9) {}
            prop_assert!(set.is_empty());
        }
    }

    #[test]
    fn encodings_change_at_the_limits() {
        let mut ints = Set::default();
        for at in 0..512 {
            ints.insert(format!("{at}").as_bytes());
        }
        assert_eq!(ints.encoding(), "intset");
        ints.insert(b"512");
        assert_eq!((ints.encoding(), ints.len()), ("hashtable", 513));

        let mut few = Set::default();
        (0..127).for_each(|at| assert!(few.insert(format!("{at}").as_bytes())));
        let mut many = few.clone();
        few.insert(b"word");
        assert_eq!((few.encoding(), few.len()), ("listpack", 128));
        few.insert(b"another");
        assert_eq!((few.encoding(), few.len()), ("hashtable", 129));
        many.insert(b"127");
        many.insert(b"word");
        assert_eq!((many.encoding(), many.len()), ("hashtable", 129));

        let mut long = Set::default();
        long.insert(&[b'a'; 64]);
        assert_eq!(long.encoding(), "listpack");
        long.insert(&[b'a'; 65]);
        assert_eq!(long.encoding(), "hashtable");
    }
}
