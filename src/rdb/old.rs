//! Encodings of small collections that Redis does not write any more, and the set of integers.

use super::{
    Damaged,
    listpack::{Item, int},
};

/// The items of a ziplist: `bytes in all (4) | place of the last item (4) | items (2) | item ... | 0xff`,
/// each item being `size of the one before | head | data`.
pub struct Ziplist<'a> {
    rest: &'a [u8],
    /// Size of the item before, as the next one has to repeat it.
    before: usize,
    left: Option<u16>,
}

const ZIPLIST_HEAD: usize = 10;
const END: u8 = 0xff;

impl<'a> Ziplist<'a> {
    /// Opens a ziplist.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (head, rest) = bytes.split_first_chunk::<ZIPLIST_HEAD>().ok_or(Damaged)?;
        let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if size as usize != bytes.len() {
            return Err(Damaged);
        }
        let items = u16::from_le_bytes([head[8], head[9]]);
        Ok(Self {
            rest,
            before: 0,
            left: (items != u16::MAX).then_some(items),
        })
    }

    /// The next item; `None` once at its proper end.
    pub fn next(&mut self) -> Result<Option<Item<'a>>, Damaged> {
        let (before, head) = match *self.rest {
            [END] => {
                return if self.left.unwrap_or(0) == 0 {
                    Ok(None)
                } else {
                    Err(Damaged)
                };
            }
            [before @ 0..=0xfd, ..] => (usize::from(before), 1),
            [0xfe, a, b, c, d, ..] => (u32::from_le_bytes([a, b, c, d]) as usize, 5),
            _ => return Err(Damaged),
        };
        if before != self.before {
            return Err(Damaged);
        }
        let item = &self.rest[head..];
        let text = |head: usize, len: usize| {
            let text = item.get(head..head + len).ok_or(Damaged)?;
            Ok((Item::Text(text), head + len))
        };
        let (value, size) = match *item {
            [first @ 0..0x40, ..] => text(1, first.into())?,
            [first @ 0x40..0x80, low, ..] => {
                text(2, usize::from(first & 0x3f) << 8 | usize::from(low))?
            }
            [0x80..0xc0, a, b, c, d, ..] => text(5, u32::from_be_bytes([a, b, c, d]) as usize)?,
            [first @ 0xf1..=0xfd, ..] => (Item::Int(i64::from(first & 0xf) - 1), 1),
            [first, ref data @ ..] => {
                let size = match first {
                    0xfe => 1,
                    0xc0 => 2,
                    0xf0 => 3,
                    0xd0 => 4,
                    0xe0 => 8,
                    _ => return Err(Damaged),
                };
                (Item::Int(int(data.get(..size).ok_or(Damaged)?)), 1 + size)
            }
            [] => return Err(Damaged),
        };
        self.before = head + size;
        self.rest = &item[size..];
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or(Damaged)?;
        }
        Ok(Some(value))
    }
}

/// The pairs of a zipmap: `pairs (1) | size, field | size, spare (1), value, spare bytes | ... | 0xff`.
pub struct Zipmap<'a> {
    rest: &'a [u8],
}

/// A field and its value.
type Pair<'a> = (&'a [u8], &'a [u8]);

impl<'a> Zipmap<'a> {
    /// Opens a zipmap.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Damaged> {
        // The number of pairs is right only while it is small; the end mark counts.
        let (_, rest) = bytes.split_first().ok_or(Damaged)?;
        Ok(Self { rest })
    }

    /// The next pair; `None` once at its proper end.
    pub fn next(&mut self) -> Result<Option<Pair<'a>>, Damaged> {
        if self.rest == [END] {
            return Ok(None);
        }
        let size = self.size()?;
        let field = self.take(size)?;
        let size = self.size()?;
        let spare = self.take(1)?[0];
        let value = self.take(size)?;
        self.take(spare.into())?;
        Ok(Some((field, value)))
    }

    fn size(&mut self) -> Result<usize, Damaged> {
        match self.take(1)?[0] {
            0xfe => {
                let (size, rest) = self.rest.split_first_chunk::<4>().ok_or(Damaged)?;
                self.rest = rest;
                Ok(u32::from_le_bytes(*size) as usize)
            }
            0xff => Err(Damaged),
            short => Ok(short.into()),
        }
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or(Damaged)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The members of a set of integers: `bytes of each (4) | members (4) | member ...`, ascending.
pub fn intset(bytes: &[u8]) -> Result<impl Iterator<Item = i64>, Damaged> {
    let (head, members) = bytes.split_first_chunk::<8>().ok_or(Damaged)?;
    let width = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(members.len()) {
        return Err(Damaged);
    }
    let members = members.chunks_exact(width).map(int);
    if members.clone().is_sorted_by(|one, next| one < next) {
        Ok(members)
    } else {
        Err(Damaged)
    }
}

/// The same of ascending members.
pub fn to_intset(members: &[i64]) -> Vec<u8> {
    let fits = |bits: u32| {
        let limit = 1i64 << (bits - 1);
        let range = -limit..limit;
        members.iter().all(|member| range.contains(member))
    };
    let width: usize = if fits(16) {
        2
    } else if fits(32) {
        4
    } else {
        8
    };
    let mut bytes = Vec::with_capacity(8 + width * members.len());
    bytes.extend((width as u32).to_le_bytes());
    bytes.extend((members.len() as u32).to_le_bytes());
    for member in members {
        bytes.extend_from_slice(&member.to_le_bytes()[..width]);
    }
    bytes
}
