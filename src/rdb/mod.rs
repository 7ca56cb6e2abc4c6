//! Values in the form that Redis keeps them in: what DUMP and RESTORE carry and what RDB files hold.
//!
//! Bytes in, values out, and back. [`FileReader`] and [`FileWriter`] do the frame of files; that of
//! DUMP is the caller's. Written is what Redis 7.0 reads. Read is every encoding that Redis has written
//! since 2.2, up to RDB version [`VERSION_MAX`]. Nothing that the bytes say is believed before it is
//! there: no count reserves memory, and what compressed parts may grow to is bounded ([`EXPANDED_MAX`]).

mod crc;
mod file;
mod listpack;
mod lzf;
mod measure;
mod old;
mod read;
mod stream;
mod write;

pub use crc::crc64;
pub use file::{FileError, FileFault, FileReader, FileWriter, Item, Key};
pub use read::{EXPANDED_MAX, read_value};
pub use write::{Borrowed, borrow_value, write_value};

/// The version of what [`write_value`] writes: Redis 7.0's.
pub const VERSION: u16 = 10;

/// The version that came with deadlines of hash fields: Redis 7.4's. A hash that has some is written in
/// it, for no older form could hold them.
pub const VERSION_FIELDS: u16 = 12;

/// The newest version that is read.
pub const VERSION_MAX: u16 = VERSION_FIELDS;

/// The bytes are not what they should be; nothing of the value is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

/// Which encoding follows, by the number that stands before it.
mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM_1: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    pub const HASH_DEADLINES: u8 = 24;
    pub const HASH_LISTPACK_DEADLINES: u8 = 25;

    /// Can values of this encoding be read?
    pub fn is_known(kind: u8) -> bool {
        matches!(kind, STRING..=ZSET_2 | HASH_ZIPMAP..=STREAM_3 | HASH_DEADLINES..)
            && kind <= HASH_LISTPACK_DEADLINES
    }
}

/// What stands before most things: a number, or the form of a string that is no plain bytes.
enum Length {
    Plain(u64),
    Form(u64),
}

/// Forms of a string that are no plain bytes: the low six bits behind two set ones.
mod form {
    pub const INT8: u64 = 0;
    pub const INT16: u64 = 1;
    pub const INT32: u64 = 2;
    pub const LZF: u64 = 3;
}

#[cfg(test)]
mod tests;
