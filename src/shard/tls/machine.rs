//! One side of a connection in TLS, whoever is at the other end: bytes in, bytes out.

use std::io::{BufRead, IoSlice, Write};

use rustls::{Connection, Error};

/// Text of one record.
const RECORD_LEN: usize = 16 << 10;
/// What a record adds to its text, at most.
const RECORD_EXTRA: usize = 64;
/// The first byte of a record: all kinds of them, and the one that a handshake begins with.
const KINDS: std::ops::RangeInclusive<u8> = 20..=24;
const HANDSHAKE: u8 = 22;

/// See the module page.
pub(in crate::shard) struct Machine(Connection);

/// The keys of a connection have been used so often that nothing more may be ciphered with them, and its
/// version of TLS knows no way to new ones.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::shard) struct Exhausted;

/// What was in the bytes that came.
pub(in crate::shard) struct Found {
    /// Some text can be handed on.
    pub has_text: bool,
    /// The other side says nothing more.
    pub has_closed: bool,
}

impl Machine {
    pub fn new(mut connection: Connection) -> Self {
        // What it ciphers is taken from it at once.
        connection.set_buffer_limit(None);
        Self(connection)
    }

    /// Have both sides shaken hands?
    pub fn is_open(&self) -> bool {
        !self.0.is_handshaking()
    }

    /// Takes in the next of the bytes that came. Text is to be handed on before the rest of them. Nothing
    /// where no more can be taken in.
    ///
    /// # Errors
    /// This is no TLS, or not such as is wanted.
    pub fn take_in(&mut self, bytes: &mut &[u8]) -> Result<Option<Found>, Error> {
        let taken = self.0.read_tls(bytes);
        // It takes nothing where it has more than it may.
        if taken.map_err(|error| Error::General(error.to_string()))? == 0 {
            return Ok(None);
        }
        let found = self.0.process_new_packets()?;
        Ok(Some(Found {
            has_text: found.plaintext_bytes_to_read() > 0,
            has_closed: found.peer_has_closed(),
        }))
    }

    /// Hands on what was deciphered, from where the library has it, as long as `each` wants more.
    pub fn hand_on(&mut self, mut each: impl FnMut(&[u8]) -> bool) {
        let mut reader = self.0.reader();
        while let Ok(text) = reader.fill_buf()
            && !text.is_empty()
        {
            let len = text.len();
            let wants_more = each(text);
            reader.consume(len);
            if !wants_more {
                return;
            }
        }
    }

    /// Ciphers a text, of which all pieces share records, behind what is in the block.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn cipher(&mut self, pieces: &[IoSlice<'_>], block: &mut Vec<u8>) -> Result<(), Exhausted> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let from = block.len();
        block.reserve(len + (len / RECORD_LEN + 2) * RECORD_EXTRA);
        let taken = self.0.writer().write_vectored(pieces);
        self.take_said(block);
        // The library says nothing where it has left something out: less came out than went in.
        match taken.is_ok_and(|taken| taken == len) && block.len() >= from + len {
            true => Ok(()),
            false => Err(Exhausted),
        }
    }

    /// Tells the other side that nothing more comes, so that it knows that nothing was cut off.
    pub fn take_leave(&mut self, block: &mut Vec<u8>) {
        self.0.send_close_notify();
        self.take_said(block);
    }

    /// Takes what the library has for the other side.
    pub fn take_said(&mut self, block: &mut Vec<u8>) {
        while self.0.wants_write() {
            // Memory takes everything.
            if !self.0.write_tls(block).is_ok_and(|len| len > 0) {
                return;
            }
        }
    }
}

/// Do these bytes, the first of a connection, begin a handshake?
pub(in crate::shard) fn is_handshake(bytes: &[u8]) -> bool {
    bytes.first() == Some(&HANDSHAKE)
}

/// Are they TLS of any kind? No request, reply or other word of a node begins so.
pub(in crate::shard) fn is_record(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| KINDS.contains(first))
}
