//! How far a part of an RDB file reaches, found out without decoding it.
//!
//! Values carry no length, and those who read a file hold a window of it only. What is found here is where
//! a part ends if it is in order; whether it is, the decoder says.

use super::{Length, form, kind};

/// Longest string: what the node takes as an argument, and the parts of large collections, which Redis
/// lets grow to 4 GiB.
const STRING_MAX: u64 = 4 << 30;

/// Why there is no end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is not in the window, which must reach at least up to here.
    Short(usize),
    /// More bytes will not help.
    Damaged,
}

/// A place in a window.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the walk is.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are taken as they are.
    pub fn take(&mut self, len: u64) -> Result<&'a [u8], Fault> {
        let len = usize::try_from(len).map_err(|_| Fault::Damaged)?;
        let end = self.at.checked_add(len).ok_or(Fault::Damaged)?;
        let taken = self.bytes.get(self.at..end).ok_or(Fault::Short(end))?;
        self.at = end;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk().ok_or(Fault::Short(self.at + N))?;
        self.at += N;
        Ok(*taken)
    }

    fn length(&mut self) -> Result<Length, Fault> {
        let [first] = self.array()?;
        Ok(match first >> 6 {
            0 => Length::Plain((first & 0x3f).into()),
            1 => {
                let [low] = self.array()?;
                Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(low))
            }
            2 if first == 0x80 => Length::Plain(u32::from_be_bytes(self.array()?).into()),
            2 if first == 0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            2 => return Err(Fault::Damaged),
            _ => Length::Form((first & 0x3f).into()),
        })
    }

    pub fn number(&mut self) -> Result<u64, Fault> {
        match self.length()? {
            Length::Plain(number) => Ok(number),
            Length::Form(_) => Err(Fault::Damaged),
        }
    }

    /// A string in any of its forms, as it stands there.
    pub fn string(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.at;
        let len = match self.length()? {
            Length::Plain(len) => len,
            Length::Form(form::INT8) => 1,
            Length::Form(form::INT16) => 2,
            Length::Form(form::INT32) => 4,
            Length::Form(form::LZF) => {
                let packed = self.number()?;
                self.number()?;
                packed
            }
            Length::Form(_) => return Err(Fault::Damaged),
        };
        if len > STRING_MAX {
            return Err(Fault::Damaged);
        }
        self.take(len)?;
        Ok(&self.bytes[start..self.at])
    }

    /// A value of encoding `kind`, as it stands there.
    pub fn value(&mut self, kind: u8) -> Result<&'a [u8], Fault> {
        let start = self.at;
        self.pass(kind)?;
        Ok(&self.bytes[start..self.at])
    }

    fn pass(&mut self, kind: u8) -> Result<(), Fault> {
        match kind {
            kind::STRING
            | kind::HASH_ZIPMAP
            | kind::LIST_ZIPLIST
            | kind::SET_INTSET
            | kind::ZSET_ZIPLIST
            | kind::HASH_ZIPLIST
            | kind::HASH_LISTPACK
            | kind::ZSET_LISTPACK
            | kind::SET_LISTPACK => self.string().map(drop),
            kind::LIST | kind::SET | kind::LIST_QUICKLIST => {
                self.each(|walk| walk.string().map(drop))
            }
            kind::LIST_QUICKLIST_2 => self.each(|walk| {
                walk.number()?;
                walk.string().map(drop)
            }),
            kind::HASH => self.each(|walk| {
                walk.string()?;
                walk.string().map(drop)
            }),
            kind::ZSET => self.each(|walk| {
                walk.string()?;
                match walk.array()? {
                    [253..=255] => Ok(()),
                    [len] => walk.take(len.into()).map(drop),
                }
            }),
            kind::ZSET_2 => self.each(|walk| {
                walk.string()?;
                walk.take(8).map(drop)
            }),
            kind::HASH_DEADLINES => {
                self.take(8)?;
                self.each(|walk| {
                    walk.number()?;
                    walk.string()?;
                    walk.string().map(drop)
                })
            }
            kind::HASH_LISTPACK_DEADLINES => {
                self.take(8)?;
                self.string().map(drop)
            }
            kind::STREAM_1 | kind::STREAM_2 | kind::STREAM_3 => self.stream(kind),
            _ => Err(Fault::Damaged),
        }
    }

    fn stream(&mut self, kind: u8) -> Result<(), Fault> {
        self.each(|walk| {
            walk.string()?;
            walk.string().map(drop)
        })?;
        // Entries and the last id; then the first id, the highest removed one, and entries ever added.
        let counters = if kind == kind::STREAM_1 { 3 } else { 8 };
        for _ in 0..counters {
            self.number()?;
        }
        self.each(|walk| {
            walk.string()?;
            let counters = if kind == kind::STREAM_1 { 2 } else { 3 };
            for _ in 0..counters {
                walk.number()?;
            }
            walk.each(|walk| {
                walk.take(16 + 8)?;
                walk.number().map(drop)
            })?;
            walk.each(|walk| {
                walk.string()?;
                walk.take(if kind == kind::STREAM_3 { 16 } else { 8 })?;
                walk.each(|walk| walk.take(16).map(drop))
            })
        })
    }

    /// Goes on behind a number and so many items. Each item takes bytes, so that no number keeps it
    /// going beyond the window.
    fn each(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        for _ in 0..self.number()? {
            item(self)?;
        }
        Ok(())
    }

    /// Goes on behind what a module wrote: values behind what they are, up to an end.
    pub fn module(&mut self) -> Result<(), Fault> {
        loop {
            match self.number()? {
                0 => return Ok(()),
                1 | 2 => drop(self.number()?),
                3 => drop(self.take(4)?),
                4 => drop(self.take(8)?),
                5 => drop(self.string()?),
                _ => return Err(Fault::Damaged),
            }
        }
    }
}
