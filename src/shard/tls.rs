//! TLS of clients: what they send is deciphered before it comes to the parser, and what they are sent is
//! ciphered where it is handed to the ring. All between knows nothing of it.

use std::io::{BufRead, IoSlice, Write};

use bytes::Bytes;
use rustls::{Error, ServerConnection};
use uring::Outgoing;

use super::{certificates::Certificates, conn::Conn, state::State};
use crate::base::Ms;

/// A client that has not shaken hands by then is closed.
const HANDSHAKE_MS: Ms = 10_000;
/// Text of one record.
const RECORD_LEN: usize = 16 << 10;
/// What a record adds to its text, at most.
const RECORD_EXTRA: usize = 64;
/// Memory of a connection for what has been sent, at most.
const SPARE_MAX: usize = 32 << 10;
/// What the library holds for an idle connection, roughly.
const MACHINE_LEN: usize = 12 << 10;

/// The TLS of one connection.
pub struct Session {
    machine: ServerConnection,
    /// Memory for the next block.
    spare: Vec<u8>,
    /// Nothing more is heard or said, but for what the library still has to say.
    is_over: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.is_open();
        out.debug_struct("Session").field("open", &open).finish()
    }
}

/// The keys of a connection have been used so often that nothing more may be ciphered with them, and its
/// version of TLS knows no way to new ones.
#[derive(Debug)]
pub(super) struct Exhausted;

impl Session {
    /// That of a new connection.
    ///
    /// # Errors
    /// The library cannot make one.
    pub fn new(certificates: &Certificates) -> Result<Self, Error> {
        let mut machine = certificates.connection()?;
        // What it ciphers is taken from it at once.
        machine.set_buffer_limit(None);
        Ok(Self {
            machine,
            spare: Vec::new(),
            is_over: false,
        })
    }

    /// Have both sides shaken hands?
    fn is_open(&self) -> bool {
        !self.machine.is_handshaking()
    }

    /// Has the client, that came so long ago, not shaken hands in time?
    pub fn is_late(&self, age: Ms) -> bool {
        age > HANDSHAKE_MS && !self.is_open()
    }

    /// Bytes of memory that it holds, roughly.
    pub fn held_bytes(&self) -> usize {
        MACHINE_LEN + self.spare.capacity()
    }

    /// Takes back the memory of a finished send.
    pub fn reuse(&mut self, block: Vec<u8>) {
        if block.capacity() <= SPARE_MAX {
            self.spare = block;
        }
    }

    /// The next bytes to send: replies if the handshake is over, behind what the library has to say.
    fn next_block(&mut self, conn: &mut Conn) -> Result<Option<Vec<u8>>, Exhausted> {
        let mut block = std::mem::take(&mut self.spare);
        block.clear();
        self.take_said(&mut block);
        if self.is_open() && !self.is_over {
            match conn.next_outgoing() {
                Some(Outgoing::Block(text)) => {
                    self.cipher(&[IoSlice::new(&text)], &mut block)?;
                    conn.reuse(Outgoing::Block(text));
                }
                Some(Outgoing::Gather(pieces)) => {
                    let pieces: Vec<_> =
                        pieces.iter().map(Bytes::as_ref).map(IoSlice::new).collect();
                    self.cipher(&pieces, &mut block)?;
                }
                None if conn.is_over() => self.take_leave(&mut block),
                None => {}
            }
        }
        if block.is_empty() {
            self.spare = block;
            return Ok(None);
        }
        Ok(Some(block))
    }

    /// Ciphers a text, of which all pieces share records, behind what is in the block.
    fn cipher(&mut self, pieces: &[IoSlice<'_>], block: &mut Vec<u8>) -> Result<(), Exhausted> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let from = block.len();
        block.reserve(len + (len / RECORD_LEN + 2) * RECORD_EXTRA);
        let taken = self.machine.writer().write_vectored(pieces);
        self.take_said(block);
        // The library says nothing where it has left something out: less came out than went in.
        match taken.is_ok_and(|taken| taken == len) && block.len() >= from + len {
            true => Ok(()),
            false => Err(Exhausted),
        }
    }

    /// Tells the client that nothing more comes, so that it knows that nothing was cut off.
    fn take_leave(&mut self, block: &mut Vec<u8>) {
        self.is_over = true;
        self.machine.send_close_notify();
        self.take_said(block);
    }

    /// Takes what the library has for the other side.
    fn take_said(&mut self, block: &mut Vec<u8>) {
        while self.machine.wants_write() {
            // Memory takes everything.
            if !self.machine.write_tls(block).is_ok_and(|len| len > 0) {
                return;
            }
        }
    }
}

/// The next bytes to send on a connection, in TLS or not.
///
/// # Errors
/// It is of no more use.
pub(super) fn next_outgoing(conn: &mut Conn) -> Result<Option<Outgoing>, Exhausted> {
    let Some(mut session) = conn.tls.take() else {
        return Ok(conn.next_outgoing());
    };
    let block = session.next_block(conn);
    conn.tls = Some(session);
    Ok(block?.map(Outgoing::Block))
}

impl State {
    /// What a client of the TLS port has sent.
    pub(super) fn on_ciphertext(&mut self, conn: &mut Conn, bytes: &[u8]) {
        if conn.closing || conn.ended {
            return;
        }
        let Some(mut session) = conn.tls.take() else {
            return;
        };
        if let Err(error) = self.decipher(conn, &mut session, bytes) {
            self.on_tls_fault(conn, &mut session, &error);
        }
        conn.tls = Some(session);
        self.list(conn);
    }

    /// Deciphers what is whole and hands it on.
    fn decipher(
        &mut self,
        conn: &mut Conn,
        session: &mut Session,
        mut bytes: &[u8],
    ) -> Result<(), Error> {
        while !bytes.is_empty() && !conn.ended && !conn.is_gone() {
            let taken = session.machine.read_tls(&mut bytes);
            // It takes nothing where it has more than it may.
            if taken.map_err(|error| Error::General(error.to_string()))? == 0 {
                break;
            }
            let found = session.machine.process_new_packets()?;
            if found.plaintext_bytes_to_read() > 0 {
                self.hand_on(conn, session);
            }
            if found.peer_has_closed() {
                self.on_end(conn, true);
            }
        }
        Ok(())
    }

    /// Hands on what was deciphered, from where the library has it.
    fn hand_on(&mut self, conn: &mut Conn, session: &mut Session) {
        let mut reader = session.machine.reader();
        while !conn.is_gone()
            && let Ok(text) = reader.fill_buf()
            && !text.is_empty()
        {
            let len = text.len();
            self.on_data(conn, text);
            reader.consume(len);
        }
    }

    /// What a client sent is no TLS, or not such as is wanted here.
    fn on_tls_fault(&mut self, conn: &mut Conn, session: &mut Session, error: &Error) {
        self.log_seldom(&format!("client {}: TLS: {error}", conn.peer_text()));
        session.is_over = true;
        match session.is_open() {
            true => self.drop_conn(conn),
            // It is told why, as far as TLS has a word for it.
            false => conn.closing = true,
        }
    }
}
