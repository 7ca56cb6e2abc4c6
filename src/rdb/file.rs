//! RDB files: keys with what stands around them.
//!
//! ```text
//! "REDIS"  version (4 digits)
//! (0xfe database | 0xfb keys, deadlines | 0xfa name, text | ... | key)*
//! key      [0xfc ms (8) | 0xfd seconds (4)] [0xf8 idle seconds | 0xf9 frequency (1)]
//!          encoding (1), name, value
//! 0xff     [from version 5: CRC-64 of all before it (8), 0 where none was made]
//! ```
//! Neither reader nor writer does input or output: the caller hands bytes in, takes bytes out. A reader
//! holds the largest key of the file and less than as much again, besides what it is fed at a time.

use super::{
    Borrowed, VERSION_MAX, crc64, kind,
    lzf::Packer,
    measure::{Fault, Walk},
    read::Reader,
    read_value,
    write::Writer,
};
use crate::{
    base::Ms,
    store::{Used, Value},
};

const MAGIC: &[u8; 5] = b"REDIS";
/// Files have a checksum from this version on.
const SUM_SINCE: u16 = 5;

/// What follows, where it is not a key.
mod op {
    /// What keys of a slot there are (Redis 7.4).
    pub const SLOT: u8 = 0xf4;
    pub const LIBRARY: u8 = 0xf5;
    pub const MODULE: u8 = 0xf7;
    pub const IDLE: u8 = 0xf8;
    pub const FREQUENCY: u8 = 0xf9;
    pub const AUX: u8 = 0xfa;
    pub const SIZES: u8 = 0xfb;
    pub const DEADLINE_MS: u8 = 0xfc;
    pub const DEADLINE_SECS: u8 = 0xfd;
    pub const DATABASE: u8 = 0xfe;
    pub const END: u8 = 0xff;
}

/// A value that a module made: `module, parts, end`.
const KIND_MODULE: u8 = 7;

/// A part of a file.
#[derive(Debug)]
pub enum Item {
    /// A note about the file or the server that wrote it.
    Aux {
        /// What is noted.
        name: Vec<u8>,
        /// The note.
        text: Vec<u8>,
    },
    /// The keys that follow are in this database.
    Database(u64),
    /// How many keys the database has; a hint.
    Sizes(u64),
    /// A key.
    Key(Key),
    /// The source of a library of functions.
    Library(Vec<u8>),
    /// Data of a module, which only that module understands: the module and, unless the data is the
    /// module's own, the key.
    Module {
        /// Name of the module's type.
        module: String,
        /// The key whose value it is.
        key: Option<Vec<u8>>,
    },
    /// The file is at its end and, if it has a checksum, that is right.
    End,
}

/// A key of a file.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Value,
    /// When it expires; that may be past.
    pub deadline: Option<Ms>,
    /// How it was used.
    pub used: Option<Used>,
}

/// What is wrong with a file, and where. Nothing behind it can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileError {
    /// Where the part begins.
    pub at: u64,
    /// What is wrong with it.
    pub fault: FileFault,
}

/// What is wrong with a part of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileFault {
    /// It does not begin as an RDB file does.
    NotRdb,
    /// Of a version that is not known.
    Version(String),
    /// The file ends here.
    CutShort,
    /// An encoding or mark that is not known.
    Unknown(u8, &'static str),
    /// The value of a key breaks the rules of its encoding.
    Value(Vec<u8>, u8),
    /// The bytes break the rules.
    Damaged,
    /// The checksum of the file is another one.
    Sum {
        /// The one that stands in the file.
        stored: u64,
        /// The one that its bytes have.
        computed: u64,
    },
}

impl std::fmt::Display for FileError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.at;
        match &self.fault {
            FileFault::NotRdb => write!(out, "byte {at}: no RDB file begins like this"),
            FileFault::Version(version) => {
                write!(
                    out,
                    "byte {at}: RDB version {version} is not known, only 1 to {VERSION_MAX}"
                )
            }
            FileFault::CutShort => write!(out, "byte {at}: the file ends inside what begins here"),
            FileFault::Unknown(code, name) => {
                write!(out, "byte {at}: type {code} ({name}) cannot be read")
            }
            FileFault::Value(key, kind) => write!(
                out,
                "byte {at}: the value of key '{}' (type {kind}) is damaged",
                key.escape_ascii()
            ),
            FileFault::Damaged => write!(out, "byte {at}: damaged"),
            FileFault::Sum { stored, computed } => write!(
                out,
                "byte {at}: the checksum is {stored:016x}, that of the bytes is {computed:016x}: the \
                 file is damaged somewhere"
            ),
        }
    }
}

impl std::error::Error for FileError {}

/// Reads a file part by part, out of pieces of any size.
#[derive(Debug, Default)]
pub struct FileReader {
    window: Vec<u8>,
    /// Where the next part begins in the window.
    at: usize,
    /// Where it begins in the file.
    offset: u64,
    /// Length of the window without which another try is in vain.
    wanted: usize,
    sum: u64,
    /// 0 before the header.
    version: u16,
    has_ended: bool,
}

impl FileReader {
    /// Takes in the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.window.drain(..self.at);
        self.wanted = self.wanted.saturating_sub(self.at);
        self.at = 0;
        self.window.extend_from_slice(bytes);
    }

    /// The next part. `None` after [`Item::End`], or until more bytes are fed, unless `is_all` says that
    /// there are no more.
    ///
    /// # Errors
    /// [`FileError`]: nothing more can be read.
    pub fn next(&mut self, is_all: bool) -> Result<Option<Item>, FileError> {
        while !self.has_ended && (is_all || self.window.len() >= self.wanted) {
            let window = &self.window[self.at..];
            let mut walk = Walk::new(window);
            let found = match self.version {
                0 => header(&mut walk),
                version => part(&mut walk, version),
            };
            let taken = walk.at();
            let found = match found {
                Ok(found) => found,
                Err(Trouble::Short(_)) if is_all => return Err(self.error(FileFault::CutShort)),
                Err(Trouble::Short(len)) => {
                    // Twice of what was too little, so that all tries cost no more than the reading.
                    self.wanted = self.at + len.max(2 * window.len());
                    return Ok(None);
                }
                Err(Trouble::Fault(fault)) => return Err(self.error(fault)),
            };
            // The checksum is not part of itself.
            let summed = match found {
                Found::End(Some(_)) => taken - 8,
                _ => taken,
            };
            self.sum = crc64(self.sum, &window[..summed]);
            let item = match found {
                Found::Version(version) => {
                    self.version = version;
                    None
                }
                Found::Hint => None,
                Found::End(Some(stored)) if stored != 0 && stored != self.sum => {
                    let computed = self.sum;
                    return Err(self.error(FileFault::Sum { stored, computed }));
                }
                Found::End(_) => {
                    self.has_ended = true;
                    Some(Item::End)
                }
                Found::Item(item) => Some(item),
            };
            self.at += taken;
            self.offset += taken as u64;
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    /// Where in the file the next part begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What was fed and not read: once the end was met, what stands behind the file.
    pub fn rest(&self) -> &[u8] {
        &self.window[self.at..]
    }

    fn error(&self, fault: FileFault) -> FileError {
        FileError {
            at: self.offset,
            fault,
        }
    }
}

enum Found {
    Version(u16),
    /// Something that is not needed.
    Hint,
    Item(Item),
    /// The end, with the checksum if there is one.
    End(Option<u64>),
}

enum Trouble {
    /// The window must reach up to here.
    Short(usize),
    Fault(FileFault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short(len) => Trouble::Short(len),
            Fault::Damaged => Trouble::Fault(FileFault::Damaged),
        }
    }
}

fn header(walk: &mut Walk<'_>) -> Result<Found, Trouble> {
    let found: [u8; 9] = walk.array()?;
    let Some(digits) = found.strip_prefix(MAGIC) else {
        return Err(Trouble::Fault(FileFault::NotRdb));
    };
    let digits = String::from_utf8_lossy(digits);
    match digits.parse() {
        Ok(version) if (1..=VERSION_MAX).contains(&version) => Ok(Found::Version(version)),
        _ => Err(Trouble::Fault(FileFault::Version(
            digits.escape_default().to_string(),
        ))),
    }
}

fn part(walk: &mut Walk<'_>, version: u16) -> Result<Found, Trouble> {
    let (mut deadline, mut used) = (None, None);
    loop {
        let [code] = walk.array()?;
        match code {
            op::DEADLINE_MS => {
                let ms = i64::from_le_bytes(walk.array()?);
                deadline = Some(ms.max(0) as Ms);
            }
            op::DEADLINE_SECS => {
                let secs = i32::from_le_bytes(walk.array()?);
                deadline = Some(secs.max(0) as Ms * 1000);
            }
            op::IDLE => used = Some(Used::SecsAgo(walk.number()?)),
            op::FREQUENCY => used = Some(Used::Counted(walk.array::<1>()?[0])),
            // What stands before a key belongs to a key.
            op::SLOT.. if deadline.is_some() || used.is_some() => {
                return Err(Trouble::Fault(FileFault::Damaged));
            }
            op::SLOT.. => return mark(walk, code, version),
            kind => return key(walk, kind, deadline, used),
        }
    }
}

fn mark(walk: &mut Walk<'_>, code: u8, version: u16) -> Result<Found, Trouble> {
    Ok(match code {
        op::AUX => Found::Item(Item::Aux {
            name: text(walk.string()?)?,
            text: text(walk.string()?)?,
        }),
        op::DATABASE => Found::Item(Item::Database(walk.number()?)),
        op::SIZES => {
            let keys = walk.number()?;
            walk.number()?;
            Found::Item(Item::Sizes(keys))
        }
        op::SLOT => {
            for _ in 0..3 {
                walk.number()?;
            }
            Found::Hint
        }
        op::LIBRARY => Found::Item(Item::Library(text(walk.string()?)?)),
        op::MODULE => {
            let module = module_name(walk.number()?);
            // When it is to be loaded, as a part of its own.
            walk.number()?;
            walk.number()?;
            walk.module()?;
            Found::Item(Item::Module { module, key: None })
        }
        op::END if version >= SUM_SINCE => Found::End(Some(u64::from_le_bytes(walk.array()?))),
        op::END => Found::End(None),
        // The one that is left.
        _ => {
            let name = "a library of functions as release candidates of 7.0 wrote it";
            return Err(Trouble::Fault(FileFault::Unknown(code, name)));
        }
    })
}

fn key(
    walk: &mut Walk<'_>,
    kind: u8,
    deadline: Option<Ms>,
    used: Option<Used>,
) -> Result<Found, Trouble> {
    if let Some(name) = unreadable(kind) {
        return Err(Trouble::Fault(FileFault::Unknown(kind, name)));
    }
    let name = text(walk.string()?)?;
    if kind == KIND_MODULE {
        let module = module_name(walk.number()?);
        walk.module()?;
        let key = Some(name);
        return Ok(Found::Item(Item::Module { module, key }));
    }
    let bad = |name| Trouble::Fault(FileFault::Value(name, kind));
    let mut bytes = match walk.value(kind) {
        Ok(bytes) => bytes,
        Err(Fault::Short(len)) => return Err(Trouble::Short(len)),
        Err(Fault::Damaged) => return Err(bad(name)),
    };
    match read_value(kind, &mut bytes) {
        Ok(value) if bytes.is_empty() => Ok(Found::Item(Item::Key(Key {
            name,
            value,
            deadline,
            used,
        }))),
        _ => Err(bad(name)),
    }
}

/// A string out of the form it is kept in.
fn text(bytes: &[u8]) -> Result<Vec<u8>, Trouble> {
    match Reader::new(bytes).string() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Trouble::Fault(FileFault::Damaged)),
    }
}

/// What an encoding is called that cannot be read; `None` if it can.
fn unreadable(kind: u8) -> Option<&'static str> {
    Some(match kind {
        KIND_MODULE => return None,
        6 => {
            "a module's value in the form of 4.0's release candidates, whose length only the module knows"
        }
        22 | 23 => {
            "a hash with deadlines of fields as release candidates of 7.4 wrote it, or of Valkey 9"
        }
        kind if kind::is_known(kind) => return None,
        _ => "of a server that is newer than all that are known here",
    })
}

/// The name in a module's number: nine characters of six bits, then ten bits of a version.
fn module_name(number: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..9)
        .map(|at| LETTERS[(number >> (58 - 6 * at)) as usize & 63] as char)
        .collect()
}

/// Writes a file part by part.
#[derive(Default)]
pub struct FileWriter {
    bytes: Vec<u8>,
    value: Vec<u8>,
    packer: Packer,
    sum: u64,
}

impl FileWriter {
    /// Begins a file: its version, and notes on it.
    pub fn new(version: u16, notes: &[(&str, &str)]) -> Self {
        let mut writer = Self {
            bytes: format!("REDIS{version:04}").into_bytes(),
            ..Self::default()
        };
        for (name, text) in notes {
            writer.bytes.push(op::AUX);
            writer.out().string(name.as_bytes());
            writer.out().string(text.as_bytes());
        }
        writer
    }

    /// The keys that follow are in this database, which has so many, and so many of them with a deadline.
    pub fn database(&mut self, database: u64, keys: u64, deadlines: u64) {
        self.bytes.push(op::DATABASE);
        self.out().number(database);
        self.bytes.push(op::SIZES);
        self.out().number(keys);
        self.out().number(deadlines);
    }

    /// A key.
    pub fn key(&mut self, name: &[u8], deadline: Option<Ms>, value: Borrowed<'_>) {
        if let Some(deadline) = deadline {
            self.bytes.push(op::DEADLINE_MS);
            self.bytes.extend(deadline.to_le_bytes());
        }
        // The name stands between the encoding and the value.
        self.value.clear();
        Writer::new(&mut self.value, &mut self.packer).value(value);
        self.bytes.push(self.value[0]);
        self.out().string(name);
        self.bytes.extend_from_slice(&self.value[1..]);
    }

    /// A library of functions.
    pub fn library(&mut self, source: &[u8]) {
        self.bytes.push(op::LIBRARY);
        self.out().string(source);
    }

    /// Ends the file.
    pub fn end(&mut self) {
        self.bytes.push(op::END);
        let sum = crc64(self.sum, &self.bytes);
        self.bytes.extend(sum.to_le_bytes());
    }

    /// Takes the bytes that are to be written next.
    pub fn take(&mut self) -> Vec<u8> {
        self.sum = crc64(self.sum, &self.bytes);
        std::mem::take(&mut self.bytes)
    }

    /// How many bytes wait to be taken.
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    fn out(&mut self) -> Writer<'_> {
        Writer::new(&mut self.bytes, &mut self.packer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything in a file, fed in pieces of `step` bytes, as text.
    fn read(bytes: &[u8], step: usize) -> Result<Vec<String>, FileError> {
        let mut reader = FileReader::default();
        let mut items = Vec::new();
        let mut pieces = bytes.chunks(step.max(1));
        let mut is_all = false;
        while !is_all {
            match pieces.next() {
                Some(piece) => reader.feed(piece),
                None => is_all = true,
            }
            while let Some(item) = reader.next(is_all)? {
                items.push(format!("{item:?}"));
            }
        }
        Ok(items)
    }

    fn small() -> Vec<u8> {
        let mut writer = FileWriter::new(10, &[("note", "text")]);
        writer.database(0, 2, 1);
        writer.key(b"name", None, Borrowed::String(b"value"));
        writer.key(b"due", Some(1_700_000_000_000), Borrowed::String(b"12"));
        let mut bytes = writer.take();
        writer.database(3, 1, 0);
        writer.library(b"#!lua name=l");
        writer.end();
        bytes.extend(writer.take());
        bytes
    }

    #[test]
    fn a_file_is_read_however_it_comes() {
        let bytes = small();
        let whole = read(&bytes, bytes.len()).expect("it is whole");
        assert_eq!(whole.len(), 9, "{whole:?}");
        assert!(whole[3].contains("1700000000000") || whole[4].contains("1700000000000"));
        assert_eq!(whole[8], "End");
        for step in 1..bytes.len() {
            assert_eq!(read(&bytes, step).as_ref(), Ok(&whole));
        }
    }

    #[test]
    fn a_file_that_ends_early_is_not_whole() {
        let bytes = small();
        for len in 0..bytes.len() {
            let error = read(&bytes[..len], 7).expect_err("a part is missing");
            assert_eq!(error.fault, FileFault::CutShort);
            assert!(error.at <= len as u64);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = small();
        // All but the checksum itself, which says nothing if it is 0.
        for at in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[at / 8] ^= 1 << (at % 8);
            // A version without a checksum has another end.
            if (5..9).contains(&(at / 8)) {
                continue;
            }
            assert!(read(&wrong, 1000).is_err(), "bit {at}");
        }
    }

    #[test]
    fn what_stands_behind_is_left() {
        let mut bytes = small();
        let len = bytes.len() as u64;
        bytes.extend(b"*1\r\n");
        let mut reader = FileReader::default();
        reader.feed(&bytes);
        while reader.next(true).expect("it is whole").is_some() {}
        assert_eq!((reader.offset(), reader.rest()), (len, &b"*1\r\n"[..]));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place() {
        let shown = |bytes: &[u8]| read(bytes, 3).map_err(|error| error.to_string());
        for (bytes, want) in [
            (&b"VALKEY080"[..], "byte 0: no RDB file begins like this"),
            (
                b"REDIS0080",
                "byte 0: RDB version 0080 is not known, only 1 to 12",
            ),
            (
                b"REDIS0011\xfe\x00\x16\x01k\x00",
                "byte 11: type 22 (a hash with deadlines of fields as release candidates of 7.4 wrote it, \
                 or of Valkey 9) cannot be read",
            ),
            (
                b"REDIS0011\x04\x01k\x00\xff",
                "byte 9: the value of key 'k' (type 4) is damaged",
            ),
        ] {
            assert_eq!(shown(bytes), Err(want.to_string()));
        }
        // A module's value: left out by name.
        let number = b"\x81\x04\xe2\x1a\xa2\x0c\x00\x00\x01".to_vec();
        let file = [
            b"REDIS0004\x07\x01k",
            &number[..],
            b"\x02\x05\x05\x01x\x00\xff",
        ]
        .concat();
        let items = read(&file, 1).expect("it is skipped");
        assert!(items[0].contains("Module") && items[0].contains("key: Some([107])"));
        assert_eq!(items[1], "End");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_wrong(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            step in 1usize..40,
        ) {
            let mut bytes = small();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            prop_assert_eq!(read(&bytes, step).is_ok(), read(&bytes, 1000).is_ok());
        }
    }
}
