//! Keys and values as bytes: snapshot images of kevy, versions 2 to 6, and bodies of our own snapshots, which
//! hold the same records.
//!
//! An image carries neither a length nor a checksum, so its structure is the only thing that can be
//! checked. [`Checker`] does that while the image arrives; [`ImageReader`] then loads it record by record,
//! in slices as large as the caller likes. [`Writer`] appends records.
//!
//! ```text
//! "KEVYSNAP"  version u8  [version >= 5: generation u64, offset u64]
//! record*     type u8, ttl flag u8, [flag = 1: deadline u64], key, payload
//! 0x00        end
//! trailer*    0x09 auxiliary frame (at most one) | 0x0a group reads; anything else ends the reading
//! ```
//!
//! A body is `record*` as in version 6, to the end of the bytes, without header, end and trailer. A record is
//! in it where it belongs: field deadlines and group reads (0x0a) stand behind their key. One type is ours:
//!
//! ```text
//! more        0x0b, then a record of type 2 to 5: more items of this key, whose deadline is this one
//! ```
//! Any other record of a key stands for all of it and replaces what was there; one without items says that
//! the key is not there.
//!
//! Numbers are little-endian, a string is a u32 length and its bytes, a collection is a u32 count and its
//! items.

mod check;
mod reader;
mod write;

pub use check::{Checker, Span, SpanKind, check, spans};
pub use reader::{
    Aux, Consumer, Consumers, Elements, Entries, Entry, Fields, Group, GroupReads, ImageReader,
    Key, Members, Pairs, Parts, Pending, PendingRows, Record, StringRecord, Wide, WideCount,
};
pub use write::{ItemKind, Items, Writer};

/// First bytes of every image.
pub const MAGIC: &[u8; 8] = b"KEVYSNAP";

/// The record that ends an image.
pub const END: u8 = 0;

/// What is wrong with an image. Every variant means: drop the image whole, load nothing of it, and ask the
/// primary for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// The image ends before its end record, or inside a trailer record that begins at or after `at`.
    Truncated {
        /// Where the item begins that is not there in full.
        at: usize,
    },
    /// It does not begin as an image does.
    BadMagic,
    /// Written by a version this reader does not know.
    UnsupportedVersion(u8),
    /// A record of a type that this version of the image does not have.
    UnknownRecord {
        /// Where the record begins.
        at: usize,
        /// Its type byte.
        kind: u8,
    },
    /// The record stands for data in local files of the primary, which no other machine can read.
    SegmentStub {
        /// Where the record begins.
        at: usize,
    },
    /// A sorted set's score is not a number.
    BadScore {
        /// Where the member begins.
        at: usize,
    },
}

impl std::fmt::Display for ImageError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated { at } => {
                write!(out, "image is cut short inside the item at byte {at}")
            }
            Self::BadMagic => out.write_str("not an image"),
            Self::UnsupportedVersion(version) => {
                write!(out, "image version {version} is not known")
            }
            Self::UnknownRecord { at, kind } => {
                write!(out, "record type {kind} at byte {at} is not known")
            }
            Self::SegmentStub { at } => {
                write!(
                    out,
                    "record at byte {at} refers to local files of the primary"
                )
            }
            Self::BadScore { at } => write!(out, "score at byte {at} is not a number"),
        }
    }
}

impl std::error::Error for ImageError {}

/// What a whole image holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImageSummary {
    /// Version of the format.
    pub version: u8,
    /// Feed generation and offset of the header; both 0 on the wire and before version 5.
    pub feed: (u64, u64),
    /// Keys of all types.
    pub key_count: u64,
    /// Keys with a deadline.
    pub deadline_count: u64,
    /// Hash fields with a deadline, also those whose key is gone.
    pub field_deadline_count: u64,
    /// Consumer groups of all streams.
    pub group_count: u64,
    /// Where the reading ended: behind the last trailer record. What follows is ignored.
    pub end: usize,
}

/// Id of a stream entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct EntryId {
    /// Unix milliseconds.
    pub ms: u64,
    /// Number within the millisecond.
    pub seq: u64,
}

/// The state of a stream apart from its entries and groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamMeta {
    /// Highest id ever given.
    pub last_id: EntryId,
    /// Highest id ever deleted.
    pub max_deleted_id: EntryId,
    /// Entries ever added.
    pub entries_added: u64,
}

/// What stands before the records.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    version: u8,
    feed: (u64, u64),
    /// The records are a body: there is no header, and no end but that of the bytes.
    is_body: bool,
}

/// A record up to, not including, its items.
#[derive(Clone, Copy)]
enum Head<'a> {
    End,
    String {
        key: &'a [u8],
        ttl: Option<u64>,
        value: &'a [u8],
    },
    Items {
        kind: ItemKind,
        key: &'a [u8],
        ttl: Option<u64>,
        count: u32,
        is_more: bool,
    },
    Stream {
        key: &'a [u8],
        ttl: Option<u64>,
        meta: StreamMeta,
        count: u32,
    },
    FieldTtl {
        key: &'a [u8],
        field: &'a [u8],
        deadline: u64,
    },
    /// In bodies only; in images these stand in the trailer.
    Reads {
        count: u32,
    },
}

/// A trailer record up to, not including, its items.
#[derive(Clone, Copy)]
enum Tail<'a> {
    /// Nothing more to read, whatever follows.
    End,
    Aux {
        count: u32,
    },
    Reads {
        key: &'a [u8],
        group: &'a [u8],
        entries_read: Option<u64>,
        count: u32,
    },
}

/// Why a read did not happen.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The item is not there in full. More bytes may help.
    Short,
    /// More bytes will not help.
    Bad(ImageError),
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        Fault::Bad(error)
    }
}

/// A place in an image. Reads either take a whole item or leave with [`Fault::Short`].
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let found = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>());
        let array = *found.ok_or(Fault::Short)?;
        self.at += N;
        Ok(array)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    #[inline]
    fn string(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.u32()? as usize;
        let found = self.bytes.get(self.at..).and_then(|rest| rest.get(..len));
        let string = found.ok_or(Fault::Short)?;
        self.at += len;
        Ok(string)
    }

    #[inline]
    fn pair(&mut self) -> Result<(&'a [u8], &'a [u8]), Fault> {
        Ok((self.string()?, self.string()?))
    }

    #[inline]
    fn id(&mut self) -> Result<EntryId, Fault> {
        Ok(EntryId {
            ms: self.u64()?,
            seq: self.u64()?,
        })
    }

    #[inline]
    fn member(&mut self) -> Result<(&'a [u8], f64), Fault> {
        let start = self.at;
        let member = self.string()?;
        let score = f64::from_bits(self.u64()?);
        if score.is_nan() {
            return Err(ImageError::BadScore { at: start }.into());
        }
        Ok((member, score))
    }

    fn consumer(&mut self) -> Result<(&'a [u8], u64), Fault> {
        Ok((self.string()?, self.u64()?))
    }

    fn pending(&mut self) -> Result<Pending<'a>, Fault> {
        Ok(Pending {
            id: self.id()?,
            consumer: self.string()?,
            delivered_at: self.u64()?,
            delivery_count: self.u32()?,
        })
    }

    fn wide(&mut self) -> Result<WideCount, Fault> {
        Ok(WideCount {
            id: self.id()?,
            delivery_count: self.u64()?,
        })
    }

    fn header(&mut self) -> Result<Header, Fault> {
        // A wrong byte is wrong before the rest has arrived.
        let seen = self.bytes.len().min(MAGIC.len());
        if self.bytes[..seen] != MAGIC[..seen] {
            return Err(ImageError::BadMagic.into());
        }
        self.array::<8>()?;
        let version = self.u8()?;
        if !(2..=7).contains(&version) {
            return Err(ImageError::UnsupportedVersion(version).into());
        }
        let feed = if version >= 5 {
            (self.u64()?, self.u64()?)
        } else {
            (0, 0)
        };
        Ok(Header {
            version,
            feed,
            is_body: false,
        })
    }

    fn head(&mut self, header: Header) -> Result<Head<'a>, Fault> {
        let Header {
            version, is_body, ..
        } = header;
        let start = self.at;
        let mut kind = self.u8()?;
        let is_more = is_body && kind == MORE;
        if is_more {
            kind = self.u8()?;
            if !(HASH..=SORTED_SET).contains(&kind) {
                return Err(ImageError::UnknownRecord { at: start, kind }.into());
            }
        }
        match kind {
            END if !is_body => return Ok(Head::End),
            GROUP_READS if is_body => {
                let (_, _, _, count) = self.reads()?;
                return Ok(Head::Reads { count });
            }
            STRING..=STREAM => {}
            FIELD_TTL if version >= 6 => {
                let (key, field) = self.pair()?;
                return Ok(Head::FieldTtl {
                    key,
                    field,
                    deadline: self.u64()?,
                });
            }
            SEGMENT_STUB if version >= 7 => {
                return Err(ImageError::SegmentStub { at: start }.into());
            }
            _ => return Err(ImageError::UnknownRecord { at: start, kind }.into()),
        }
        let ttl = if self.u8()? == 1 {
            Some(self.u64()?)
        } else {
            None
        };
        let key = self.string()?;
        let items = |kind, count| Head::Items {
            kind,
            key,
            ttl,
            count,
            is_more,
        };
        Ok(match kind {
            STRING => Head::String {
                key,
                ttl,
                value: self.string()?,
            },
            HASH => items(ItemKind::Hash, self.u32()?),
            LIST => items(ItemKind::List, self.u32()?),
            SET => items(ItemKind::Set, self.u32()?),
            SORTED_SET => items(ItemKind::SortedSet, self.u32()?),
            _ => {
                let meta = StreamMeta {
                    last_id: self.id()?,
                    max_deleted_id: self.id()?,
                    entries_added: self.u64()?,
                };
                Head::Stream {
                    key,
                    ttl,
                    meta,
                    count: self.u32()?,
                }
            }
        })
    }

    /// Key, group, entries read and number of consumers, behind the type of the record.
    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    fn reads(&mut self) -> Result<(&'a [u8], &'a [u8], Option<u64>, u32), Fault> {
        let (key, group) = self.pair()?;
        let entries_read = if self.u8()? == 1 {
            Some(self.u64()?)
        } else {
            None
        };
        Ok((key, group, entries_read, self.u32()?))
    }

    /// `aux_seen`: the one auxiliary frame has been read; a second one ends the reading.
    fn tail(&mut self, aux_seen: bool) -> Result<Tail<'a>, Fault> {
        match self.bytes.get(self.at) {
            Some(&AUX) if !aux_seen => {
                self.at += 1;
                Ok(Tail::Aux { count: self.u32()? })
            }
            Some(&GROUP_READS) => {
                self.at += 1;
                let (key, group, entries_read, count) = self.reads()?;
                Ok(Tail::Reads {
                    key,
                    group,
                    entries_read,
                    count,
                })
            }
            Some(_) => Ok(Tail::End),
            None => Err(Fault::Short),
        }
    }
}

const STRING: u8 = 1;
const HASH: u8 = 2;
const LIST: u8 = 3;
const SET: u8 = 4;
const SORTED_SET: u8 = 5;
const STREAM: u8 = 6;
const FIELD_TTL: u8 = 7;
const SEGMENT_STUB: u8 = 8;
const AUX: u8 = 9;
const GROUP_READS: u8 = 10;
const MORE: u8 = 11;

/// The version whose records bodies hold.
const BODY_VERSION: u8 = 6;
/// From this version on a stream is followed by its consumer groups.
const GROUPS_SINCE: u8 = 4;
/// Until this version a key's time to live is what remained of it, in ms.
const RELATIVE_UNTIL: u8 = 2;

#[cfg(test)]
mod tests;
