//! Bytes into values.

use std::borrow::Cow;

use super::{
    Damaged, Length, form, kind,
    listpack::{Item, Items},
    lzf,
    old::{Ziplist, Zipmap, intset},
    stream,
};
use crate::{
    base::{Ms, parse_f64},
    store::{End, Hash, InValue, List, Set, Typed, Value, Zset},
};

/// What the compressed parts of one value may expand to in all. Compression makes up to 88 bytes out of
/// one, so that the size of the input alone would be no bound.
pub const EXPANDED_MAX: usize = 1 << 30;

/// Longest string that a value may hold: the limit of arguments.
const STRING_MAX: usize = 512 << 20;

/// Reads the value of encoding `kind` off the front of `input`. Fields and members that come twice, empty
/// collections and scores that are no numbers are refused too: no server writes them. A hash may come
/// with fields whose deadlines have passed.
///
/// # Errors
/// [`Damaged`]; `input` is then somewhere inside the value.
pub fn read_value(kind: u8, input: &mut &[u8]) -> Result<Value, Damaged> {
    let mut reader = Reader::new(input);
    let value = match kind {
        kind::STRING => Value::string(reader.string()?.into_owned()),
        kind::LIST | kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => {
            Value::List(reader.list(kind)?)
        }
        kind::SET | kind::SET_INTSET | kind::SET_LISTPACK => Value::Set(reader.set(kind)?),
        kind::ZSET | kind::ZSET_2 | kind::ZSET_ZIPLIST | kind::ZSET_LISTPACK => {
            Value::Zset(reader.zset(kind)?)
        }
        kind::HASH
        | kind::HASH_ZIPMAP
        | kind::HASH_ZIPLIST
        | kind::HASH_LISTPACK
        | kind::HASH_DEADLINES
        | kind::HASH_LISTPACK_DEADLINES => Value::Hash(reader.hash(kind)?),
        kind::STREAM_1 | kind::STREAM_2 | kind::STREAM_3 => stream::read(&mut reader, kind)?.wrap(),
        _ => return Err(Damaged),
    };
    *input = reader.rest;
    Ok(value)
}

/// Takes the parts of a value off the front of its bytes.
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes that compressed parts may still expand to.
    room: usize,
}

impl<'a> Reader<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self {
            rest,
            room: EXPANDED_MAX,
        }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Damaged)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Counts bytes that the value takes beyond those that describe it.
    pub fn expand(&mut self, bytes: usize) -> Result<(), Damaged> {
        self.room = self.room.checked_sub(bytes).ok_or(Damaged)?;
        Ok(())
    }

    /// A length, or the form of a string that is no plain bytes.
    fn length(&mut self) -> Result<Length, Damaged> {
        let [first] = self.array()?;
        Ok(match first >> 6 {
            0 => Length::Plain((first & 0x3f).into()),
            1 => {
                let [low] = self.array()?;
                Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(low))
            }
            2 if first == 0x80 => Length::Plain(u32::from_be_bytes(self.array()?).into()),
            2 if first == 0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            2 => return Err(Damaged),
            _ => Length::Form((first & 0x3f).into()),
        })
    }

    /// A number.
    pub fn number(&mut self) -> Result<u64, Damaged> {
        match self.length()? {
            Length::Plain(number) => Ok(number),
            Length::Form(_) => Err(Damaged),
        }
    }

    fn size(&mut self) -> Result<usize, Damaged> {
        usize::try_from(self.number()?).map_err(|_| Damaged)
    }

    /// A time in milliseconds; one before 1970 is taken for 1970.
    pub fn time(&mut self) -> Result<Ms, Damaged> {
        Ok(i64::from_le_bytes(self.array()?).max(0) as Ms)
    }

    /// A string in any of its forms.
    pub fn string(&mut self) -> Result<Cow<'a, [u8]>, Damaged> {
        let number = match self.length()? {
            Length::Plain(len) => {
                let len = usize::try_from(len).map_err(|_| Damaged)?;
                return Ok(Cow::Borrowed(self.take(len)?));
            }
            Length::Form(form::LZF) => {
                let (packed, len) = (self.size()?, self.size()?);
                let packed = self.take(packed)?;
                if len > STRING_MAX {
                    return Err(Damaged);
                }
                self.expand(len)?;
                return lzf::unpack(packed, len).map(Cow::Owned);
            }
            Length::Form(form::INT8) => i8::from_le_bytes(self.array()?).into(),
            Length::Form(form::INT16) => i16::from_le_bytes(self.array()?).into(),
            Length::Form(form::INT32) => i32::from_le_bytes(self.array()?),
            Length::Form(_) => return Err(Damaged),
        };
        Ok(Cow::Owned(number.to_string().into_bytes()))
    }

    fn list(&mut self, kind: u8) -> Result<List, Damaged> {
        let mut list = List::default();
        if kind == kind::LIST_ZIPLIST {
            push_ziplist(&mut list, &self.string()?)?;
            return whole(list);
        }
        for _ in 0..self.number()? {
            let is_plain = match kind {
                kind::LIST => true,
                kind::LIST_QUICKLIST => false,
                _ => match self.number()? {
                    1 => true,
                    2 => false,
                    _ => return Err(Damaged),
                },
            };
            let text = self.string()?;
            if is_plain {
                list.push(End::Right, &text);
            } else if kind == kind::LIST_QUICKLIST {
                push_ziplist(&mut list, &text)?;
            } else {
                let mut items = Items::open(&text)?;
                let mut digits = itoa::Buffer::new();
                while let Some(item) = items.next()? {
                    list.push(End::Right, item.text(&mut digits));
                }
            }
        }
        whole(list)
    }

    fn set(&mut self, kind: u8) -> Result<Set, Damaged> {
        let mut set = Set::default();
        let mut digits = itoa::Buffer::new();
        match kind {
            kind::SET => {
                for _ in 0..self.number()? {
                    once(set.insert(&self.string()?))?;
                }
            }
            kind::SET_INTSET => {
                for member in intset(&self.string()?)? {
                    once(set.insert(digits.format(member).as_bytes()))?;
                }
            }
            _ => {
                let text = self.string()?;
                let mut items = Items::open(&text)?;
                while let Some(item) = items.next()? {
                    once(set.insert(item.text(&mut digits)))?;
                }
            }
        }
        whole(set)
    }

    fn zset(&mut self, kind: u8) -> Result<Zset, Damaged> {
        let mut zset = Zset::default();
        let mut insert = |member: &[u8], score: f64| {
            if score.is_nan() {
                return Err(Damaged);
            }
            once(zset.insert(member, score).is_none())
        };
        match kind {
            kind::ZSET | kind::ZSET_2 => {
                for _ in 0..self.number()? {
                    let member = self.string()?;
                    let score = if kind == kind::ZSET {
                        self.score_text()?
                    } else {
                        f64::from_le_bytes(self.array()?)
                    };
                    insert(&member, score)?;
                }
            }
            _ => self.pairs(kind == kind::ZSET_ZIPLIST, |member, score| {
                let score = match score {
                    Item::Int(score) => score as f64,
                    Item::Text(text) => parse_f64(text).ok_or(Damaged)?,
                };
                insert(member, score)
            })?,
        }
        whole(zset)
    }

    /// A score as digits, behind how many there are; the three highest counts stand for themselves.
    fn score_text(&mut self) -> Result<f64, Damaged> {
        match self.array()? {
            [253] => Err(Damaged),
            [254] => Ok(f64::INFINITY),
            [255] => Ok(f64::NEG_INFINITY),
            [len] => parse_f64(self.take(len.into())?).ok_or(Damaged),
        }
    }

    fn hash(&mut self, kind: u8) -> Result<Hash, Damaged> {
        let mut hash = Hash::default();
        let mut digits = itoa::Buffer::new();
        match kind {
            kind::HASH => {
                for _ in 0..self.number()? {
                    let field = self.string()?;
                    once(hash.set(&field, &self.string()?))?;
                }
            }
            kind::HASH_ZIPMAP => {
                let text = self.string()?;
                let mut pairs = Zipmap::open(&text)?;
                while let Some((field, value)) = pairs.next()? {
                    once(hash.set(field, value))?;
                }
            }
            kind::HASH_DEADLINES => {
                let first = self.time()?;
                for _ in 0..self.number()? {
                    // From the first deadline on, one more, so that 0 can say that there is none.
                    let after = self.number()?;
                    let field = self.string()?;
                    once(hash.set(&field, &self.string()?))?;
                    if after > 0 {
                        hash.set_deadline(&field, Some(deadline(first, after - 1)?));
                    }
                }
            }
            kind::HASH_LISTPACK_DEADLINES => {
                // The first deadline is told again by the fields.
                self.time()?;
                let text = self.string()?;
                let mut items = Items::open(&text)?;
                while let Some(field) = items.next()? {
                    let field = field.text(&mut digits);
                    let value = items.take()?;
                    let due = items.take()?.int()?;
                    once(hash.set(field, value.text(&mut itoa::Buffer::new())))?;
                    if due != 0 {
                        let due = Ms::try_from(due).map_err(|_| Damaged)?;
                        hash.set_deadline(field, Some(deadline(due, 0)?));
                    }
                }
            }
            _ => self.pairs(kind == kind::HASH_ZIPLIST, |field, value| {
                once(hash.set(field, value.text(&mut digits)))
            })?,
        }
        whole(hash)
    }

    /// Visits the pairs of a listpack or ziplist.
    fn pairs(
        &mut self,
        is_old: bool,
        mut visit: impl FnMut(&[u8], Item<'_>) -> Result<(), Damaged>,
    ) -> Result<(), Damaged> {
        let text = self.string()?;
        let mut digits = itoa::Buffer::new();
        if is_old {
            let mut items = Ziplist::open(&text)?;
            while let Some(name) = items.next()? {
                let value = items.next()?.ok_or(Damaged)?;
                visit(name.text(&mut digits), value)?;
            }
        } else {
            let mut items = Items::open(&text)?;
            while let Some(name) = items.next()? {
                visit(name.text(&mut digits), items.take()?)?;
            }
        }
        Ok(())
    }
}

fn push_ziplist(list: &mut List, bytes: &[u8]) -> Result<(), Damaged> {
    let mut items = Ziplist::open(bytes)?;
    let mut digits = itoa::Buffer::new();
    while let Some(item) = items.next()? {
        list.push(End::Right, item.text(&mut digits));
    }
    Ok(())
}

/// A field's deadline. Later ones than HPEXPIREAT takes are no server's.
fn deadline(first: Ms, after: u64) -> Result<Ms, Damaged> {
    first
        .checked_add(after)
        .filter(|due| *due <= i64::MAX as Ms)
        .ok_or(Damaged)
}

/// Nothing comes twice.
pub fn once(is_new: bool) -> Result<(), Damaged> {
    if is_new { Ok(()) } else { Err(Damaged) }
}

/// No collection is kept empty.
fn whole<T: Typed>(value: T) -> Result<T, Damaged> {
    if value.is_empty() {
        Err(Damaged)
    } else {
        Ok(value)
    }
}
