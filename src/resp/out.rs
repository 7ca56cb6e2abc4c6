//! Replies into bytes, for both protocol versions.

use bytes::Bytes;

use super::Error;

/// Values from this size on are sent by reference, smaller ones are copied into the reply.
pub const SHARE_MIN: usize = 4096;

/// Longest header with the line end behind the value.
const HEADER_MAX: usize = 32;

/// Protocol version of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Proto {
    /// RESP2.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`.
    Three,
}

/// The replies that a connection is owed, in order: one growing block, with references to large
/// values at places in it.
#[derive(Debug, Default)]
pub struct Out {
    block: Vec<u8>,
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
    /// Which form the types take that only RESP3 has.
    pub proto: Proto,
}

/// A place in an [`Out`] to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    block: usize,
    shared: usize,
}

impl Out {
    /// An empty reply in the given protocol.
    pub fn new(proto: Proto) -> Self {
        Self {
            proto,
            ..Self::default()
        }
    }

    /// Bytes owed, those of shared values included.
    pub fn len(&self) -> usize {
        self.block.len() + self.shared_bytes
    }

    /// True if nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// `+text`
    pub fn simple(&mut self, text: &str) {
        self.block.push(b'+');
        self.block.extend_from_slice(text.as_bytes());
        self.line_end();
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.block.extend_from_slice(b"+OK\r\n");
    }

    /// `-text`
    pub fn error(&mut self, error: &Error) {
        self.block.push(b'-');
        self.block.extend_from_slice(error.as_str().as_bytes());
        self.line_end();
    }

    /// `:value`
    pub fn int(&mut self, value: i64) {
        self.number(b':', value);
    }

    /// A length or count as integer reply.
    pub fn len_int(&mut self, value: usize) {
        self.int(value as i64);
    }

    /// `:1` or `:0`
    pub fn flag(&mut self, value: bool) {
        self.block
            .extend_from_slice(if value { b":1\r\n" } else { b":0\r\n" });
    }

    /// `$len bytes`, copied.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.block.reserve(bytes.len() + HEADER_MAX);
        self.number(b'$', bytes.len() as i64);
        self.block.extend_from_slice(bytes);
        self.line_end();
    }

    /// `$len bytes` with the value by reference if it is large enough to gain from it.
    pub fn bulk_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_MIN {
            return self.bulk(bytes);
        }
        self.number(b'$', bytes.len() as i64);
        self.shared.push((self.block.len(), bytes.clone()));
        self.shared_bytes += bytes.len();
        self.line_end();
    }

    /// A text as bulk.
    pub fn bulk_str(&mut self, text: &str) {
        self.bulk(text.as_bytes());
    }

    /// An integer as bulk.
    pub fn bulk_int(&mut self, value: i64) {
        let mut digits = itoa::Buffer::new();
        self.bulk(digits.format(value).as_bytes());
    }

    /// The value, or null without one.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// `$-1`, or `_` in RESP3.
    pub fn null(&mut self) {
        self.block.extend_from_slice(match self.proto {
            Proto::Two => b"$-1\r\n".as_slice(),
            Proto::Three => b"_\r\n",
        });
    }

    /// `*-1`, or `_` in RESP3.
    pub fn null_array(&mut self) {
        self.block.extend_from_slice(match self.proto {
            Proto::Two => b"*-1\r\n".as_slice(),
            Proto::Three => b"_\r\n",
        });
    }

    /// Header of an array of `len` replies.
    pub fn array(&mut self, len: usize) {
        self.number(b'*', len as i64);
    }

    /// Header of a map of `len` pairs; a flat array of twice that in RESP2.
    pub fn map(&mut self, len: usize) {
        match self.proto {
            Proto::Two => self.array(2 * len),
            Proto::Three => self.number(b'%', len as i64),
        }
    }

    /// Header of a set; an array in RESP2.
    pub fn set(&mut self, len: usize) {
        match self.proto {
            Proto::Two => self.array(len),
            Proto::Three => self.number(b'~', len as i64),
        }
    }

    /// Header of an out-of-band message; an array in RESP2.
    pub fn push(&mut self, len: usize) {
        match self.proto {
            Proto::Two => self.array(len),
            Proto::Three => self.number(b'>', len as i64),
        }
    }

    /// A double; in RESP2 a bulk with its shortest text.
    pub fn double(&mut self, value: f64) {
        let text = crate::base::format_f64(value);
        match self.proto {
            Proto::Two => self.bulk_str(&text),
            Proto::Three => {
                self.block.push(b',');
                self.block.extend_from_slice(text.as_bytes());
                self.line_end();
            }
        }
    }

    /// A boolean; `:1` or `:0` in RESP2.
    pub fn boolean(&mut self, value: bool) {
        match self.proto {
            Proto::Two => self.flag(value),
            Proto::Three => self
                .block
                .extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A text meant for people; a bulk in RESP2.
    pub fn verbatim(&mut self, text: &str) {
        match self.proto {
            Proto::Two => self.bulk_str(text),
            Proto::Three => {
                self.number(b'=', text.len() as i64 + 4);
                self.block.extend_from_slice(b"txt:");
                self.block.extend_from_slice(text.as_bytes());
                self.line_end();
            }
        }
    }

    /// The reply to HELP: what the subcommands of `command` do, line by line.
    pub fn help(&mut self, command: &str, lines: &[&str]) {
        self.array(lines.len() + 3);
        self.simple(&format!(
            "{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
        ));
        lines.iter().for_each(|line| self.simple(line));
        self.simple("HELP");
        self.simple("    Prints this help.");
    }

    /// Bytes that are replies already.
    pub fn raw(&mut self, replies: &[u8]) {
        self.block.extend_from_slice(replies);
    }

    /// Drops everything; the memory is kept.
    pub fn clear(&mut self) {
        self.block.clear();
        self.shared.clear();
        self.shared_bytes = 0;
    }

    /// The current end, for [`rewind`](Out::rewind) and [`array_since`](Out::array_since).
    pub fn mark(&self) -> Mark {
        Mark {
            block: self.block.len(),
            shared: self.shared.len(),
        }
    }

    /// Drops everything written since the mark.
    pub fn rewind(&mut self, mark: Mark) {
        self.block.truncate(mark.block);
        for (_, bytes) in self.shared.drain(mark.shared..) {
            self.shared_bytes -= bytes.len();
        }
    }

    /// Puts an array header before what was written since the mark, for counts known only at the
    /// end. Moves the bytes behind the mark.
    pub fn array_since(&mut self, mark: Mark, len: usize) {
        let mut header = Out::new(self.proto);
        header.array(len);
        self.block
            .splice(mark.block..mark.block, header.block.iter().copied());
        for (at, _) in &mut self.shared[mark.shared..] {
            *at += header.block.len();
        }
    }

    /// Appends all replies of another `Out`.
    pub fn append(&mut self, other: &mut Out) {
        let base = self.block.len();
        self.block.append(&mut other.block);
        self.shared_bytes += std::mem::take(&mut other.shared_bytes);
        self.shared
            .extend(other.shared.drain(..).map(|(at, bytes)| (base + at, bytes)));
    }

    /// The replies so far, without shared values (for tests and scripts that asked for none).
    pub fn as_bytes(&self) -> &[u8] {
        &self.block
    }

    /// Takes everything out: the block, and the shared values with their places in it. `spare`
    /// becomes the new block, so that its memory is used again.
    pub fn take(&mut self, mut spare: Vec<u8>) -> (Vec<u8>, Vec<(usize, Bytes)>) {
        spare.clear();
        self.shared_bytes = 0;
        (
            std::mem::replace(&mut self.block, spare),
            std::mem::take(&mut self.shared),
        )
    }

    /// All replies as one block, shared values copied in (for forwarding and tests).
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        let mut from = 0;
        for (at, bytes) in &self.shared {
            all.extend_from_slice(&self.block[from..*at]);
            all.extend_from_slice(bytes);
            from = *at;
        }
        all.extend_from_slice(&self.block[from..]);
        all
    }

    #[inline]
    fn number(&mut self, kind: u8, value: i64) {
        // One and two digits are nearly all headers; arrays of known size are written without a call.
        match value {
            0..10 => self
                .block
                .extend_from_slice(&[kind, b'0' + value as u8, b'\r', b'\n']),
            10..100 => {
                // In small numbers: a division of 64 bits costs more than the rest of the header.
                let value = value as u8;
                let (tens, ones) = (b'0' + value / 10, b'0' + value % 10);
                self.block
                    .extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
            }
            _ => {
                let mut digits = itoa::Buffer::new();
                self.block.push(kind);
                self.block
                    .extend_from_slice(digits.format(value).as_bytes());
                self.line_end();
            }
        }
    }

    #[inline]
    fn line_end(&mut self) {
        self.block.extend_from_slice(b"\r\n");
    }
}
