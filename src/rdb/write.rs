//! Values into bytes.

use super::{form, kind, listpack::Builder, lzf::Packer, old::to_intset, stream};
use crate::{
    base::{Ms, format_f64, parse_i64},
    store::{Hash, Keyspace, Kind, List, Set, Stream, Typed, Zset},
};

/// A value to be written, where it lies.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Borrowed<'a> {
    String(&'a [u8]),
    Hash(&'a Hash),
    List(&'a List),
    Set(&'a Set),
    Zset(&'a Zset),
    Stream(&'a Stream),
}

/// The value of a key; `None` if there is none.
pub fn borrow_value<'a>(keys: &'a mut Keyspace, key: &[u8], now: Ms) -> Option<Borrowed<'a>> {
    match keys.meta(key, now)?.kind {
        Kind::String => Some(Borrowed::String(keys.string(key, now).ok()??.as_bytes())),
        Kind::Hash => keys.get(key, now).ok()?.map(Borrowed::Hash),
        Kind::List => keys.get(key, now).ok()?.map(Borrowed::List),
        Kind::Set => keys.get(key, now).ok()?.map(Borrowed::Set),
        Kind::Zset => keys.get(key, now).ok()?.map(Borrowed::Zset),
        Kind::Stream => keys.get(key, now).ok()?.map(Borrowed::Stream),
    }
}

/// Appends a value: one byte for the encoding, then its bytes. Takes the encoding that Redis 7.0 has for
/// the name that OBJECT ENCODING answers. The version that the bytes are of.
pub fn write_value(value: Borrowed<'_>, out: &mut Vec<u8>) -> u16 {
    Writer::new(out, &mut Packer::default()).value(value)
}

/// Appends the parts of a value.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    packer: &'a mut Packer,
}

/// Bytes of elements in one listpack of a list, as Redis's default `list-max-listpack-size -2`, and what
/// it reckons for an element's head.
const LIST_NODE_BYTES: usize = 8192;
const LIST_ITEM_HEAD: usize = 8;

/// Strings up to this size are not compressed, and those that may be integers are no longer than that.
const PACK_MIN: usize = 20;
const INT_MAX: usize = 11;

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>, packer: &'a mut Packer) -> Self {
        Self { out, packer }
    }

    /// Appends a value as [`write_value`] does.
    pub fn value(&mut self, value: Borrowed<'_>) -> u16 {
        let at = self.out.len();
        self.out.push(0);
        let kind = match value {
            Borrowed::String(text) => {
                self.string(text);
                kind::STRING
            }
            Borrowed::Hash(hash) => self.hash(hash),
            Borrowed::List(list) => self.list(list),
            Borrowed::Set(set) => self.set(set),
            Borrowed::Zset(zset) => self.zset(zset),
            Borrowed::Stream(stream) => {
                stream::write(self, stream);
                kind::STREAM_2
            }
        };
        self.out[at] = kind;
        if kind == kind::HASH_DEADLINES {
            super::VERSION_FIELDS
        } else {
            super::VERSION
        }
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn number(&mut self, number: u64) {
        match number {
            0..64 => self.out.push(number as u8),
            64..16_384 => self.raw(&[0x40 | (number >> 8) as u8, number as u8]),
            _ => match u32::try_from(number) {
                Ok(number) => {
                    self.out.push(0x80);
                    self.raw(&number.to_be_bytes());
                }
                Err(_) => {
                    self.out.push(0x81);
                    self.raw(&number.to_be_bytes());
                }
            },
        }
    }

    /// A string: an integer if it is one, compressed if that makes it shorter.
    pub fn string(&mut self, text: &[u8]) {
        if text.len() <= INT_MAX
            && let Some(value) = parse_i64(text).and_then(|value| i32::try_from(value).ok())
        {
            return self.integer(value);
        }
        if text.len() > PACK_MIN
            && let Some(packed) = self.packer.pack(text, text.len() - 4)
        {
            self.out.push(0xc0 | form::LZF as u8);
            self.number(packed.len() as u64);
            self.number(text.len() as u64);
            self.raw(&packed);
            return;
        }
        self.number(text.len() as u64);
        self.raw(text);
    }

    fn integer(&mut self, value: i32) {
        let (form, size) = if i8::try_from(value).is_ok() {
            (form::INT8, 1)
        } else if i16::try_from(value).is_ok() {
            (form::INT16, 2)
        } else {
            (form::INT32, 4)
        };
        self.out.push(0xc0 | form as u8);
        self.raw(&value.to_le_bytes()[..size]);
    }

    fn list(&mut self, list: &List) -> u8 {
        let mut nodes = Vec::new();
        let mut node = Builder::new();
        for element in list.iter() {
            let element = element.as_bytes();
            let size = node.size() + element.len() + LIST_ITEM_HEAD;
            if node.len() > 0 && size > LIST_NODE_BYTES {
                nodes.push(std::mem::replace(&mut node, Builder::new()));
            }
            node.push(element);
        }
        nodes.push(node);
        self.number(nodes.len() as u64);
        for node in nodes {
            // Two stands for a listpack.
            self.number(2);
            self.string(&node.finish());
        }
        kind::LIST_QUICKLIST_2
    }

    fn set(&mut self, set: &Set) -> u8 {
        if set.encoding() == "intset" {
            let members: Vec<i64> = set.iter().filter_map(|member| parse_i64(&member)).collect();
            self.string(&to_intset(&members));
            return kind::SET_INTSET;
        }
        self.number(set.len() as u64);
        set.iter().for_each(|member| self.string(&member));
        kind::SET
    }

    fn zset(&mut self, zset: &Zset) -> u8 {
        if zset.encoding() == "listpack" {
            let mut pairs = Builder::new();
            for (member, score) in zset.iter() {
                pairs.push(member);
                pairs.push(format_f64(score).as_bytes());
            }
            self.string(&pairs.finish());
            return kind::ZSET_LISTPACK;
        }
        self.number(zset.len() as u64);
        // From the end, so that a reader always inserts at the front.
        for (member, score) in zset.range(0..zset.len(), true) {
            self.string(member);
            self.raw(&score.to_le_bytes());
        }
        kind::ZSET_2
    }

    fn hash(&mut self, hash: &Hash) -> u8 {
        if let Some(first) = hash.next_deadline() {
            self.raw(&first.to_le_bytes());
            self.number(hash.len() as u64);
            for (field, value) in hash.iter() {
                // One more than the distance, so that 0 says that there is none.
                let after = hash.deadline(field).map_or(0, |due| due - first + 1);
                self.number(after);
                self.string(field);
                self.string(value);
            }
            return kind::HASH_DEADLINES;
        }
        if hash.encoding() == "hashtable" {
            self.number(hash.len() as u64);
            for (field, value) in hash.iter() {
                self.string(field);
                self.string(value);
            }
            return kind::HASH;
        }
        let mut pairs = Builder::new();
        for (field, value) in hash.iter() {
            pairs.push(field);
            pairs.push(value);
        }
        self.string(&pairs.finish());
        kind::HASH_LISTPACK
    }
}
