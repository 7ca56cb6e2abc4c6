//! TLS. What clients send is deciphered before it comes to the parser, and what they are sent is ciphered
//! where it is handed to the ring; all between knows nothing of it. What nodes say to each other goes through
//! `tunnels`.

mod machine;
mod nodes;
mod tunnel;
mod tunnels;

use std::io::IoSlice;

use bytes::Bytes;
use rustls::{Connection, Error, ServerConnection};
use uring::Outgoing;

use self::machine::{Exhausted, Machine, is_handshake};
use self::nodes::Peer;
pub use self::nodes::{NodeCertificates, NodeTls};
pub(super) use self::{
    machine::is_record,
    nodes::{Fault, NO_TLS_ANSWER, NO_TLS_HERE},
    tunnels::{Told, Tunnels, What},
};
use super::{conn::Conn, state::State};
use crate::base::Ms;

/// A client that has not shaken hands by then is closed.
const HANDSHAKE_MS: Ms = 10_000;
/// Memory of a connection for what has been sent, at most.
const SPARE_MAX: usize = 32 << 10;
/// What the library holds for an idle connection, roughly.
const MACHINE_LEN: usize = 12 << 10;

/// The TLS of one connection.
pub struct Session {
    /// Nothing as long as nobody knows whether it is to be in TLS.
    machine: Option<Machine>,
    /// Memory for the next block.
    spare: Vec<u8>,
    /// Nothing more is heard or said, but for what the library still has to say.
    is_over: bool,
    /// It came to the plain port: only nodes do that.
    is_node: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.is_open();
        out.debug_struct("Session").field("open", &open).finish()
    }
}

impl Session {
    /// That of a new connection.
    pub fn new(connection: ServerConnection) -> Self {
        Self {
            machine: Some(Machine::new(Connection::Server(connection))),
            spare: Vec::new(),
            is_over: false,
            is_node: false,
        }
    }

    /// That of a connection to the plain port, which may be another node's: those begin with TLS.
    pub fn undecided() -> Self {
        Self {
            machine: None,
            spare: Vec::new(),
            is_over: false,
            is_node: true,
        }
    }

    /// It is one.
    fn begin(&mut self, connection: ServerConnection) {
        self.machine = Some(Machine::new(Connection::Server(connection)));
    }

    /// Is nothing known yet, and nothing ciphered?
    pub fn is_undecided(&self) -> bool {
        self.machine.is_none()
    }

    /// Have both sides shaken hands?
    fn is_open(&self) -> bool {
        self.machine.as_ref().is_some_and(Machine::is_open)
    }

    /// Has the client, that came so long ago, not shaken hands in time?
    pub fn is_late(&self, age: Ms) -> bool {
        age > HANDSHAKE_MS && !self.is_open() && !self.is_undecided()
    }

    /// Bytes of memory that it holds, roughly.
    pub fn held_bytes(&self) -> usize {
        let machine = self.machine.as_ref().map_or(0, |_| MACHINE_LEN);
        machine + self.spare.capacity()
    }

    /// Takes back the memory of a finished send.
    pub fn reuse(&mut self, block: Vec<u8>) {
        if block.capacity() <= SPARE_MAX {
            self.spare = block;
        }
    }

    /// The next bytes to send: replies if the handshake is over, behind what the library has to say.
    fn next_block(&mut self, conn: &mut Conn) -> Result<Option<Vec<u8>>, Exhausted> {
        let Some(machine) = &mut self.machine else {
            return Ok(None);
        };
        let mut block = std::mem::take(&mut self.spare);
        block.clear();
        machine.take_said(&mut block);
        if machine.is_open() && !self.is_over {
            match conn.next_outgoing() {
                Some(Outgoing::Block(text)) => {
                    machine.cipher(&[IoSlice::new(&text)], &mut block)?;
                    conn.reuse(Outgoing::Block(text));
                }
                Some(Outgoing::Gather(pieces)) => {
                    let pieces: Vec<_> =
                        pieces.iter().map(Bytes::as_ref).map(IoSlice::new).collect();
                    machine.cipher(&pieces, &mut block)?;
                }
                None if conn.is_over() => {
                    self.is_over = true;
                    machine.take_leave(&mut block);
                }
                None => {}
            }
        }
        if block.is_empty() {
            self.spare = block;
            return Ok(None);
        }
        Ok(Some(block))
    }
}

/// The next bytes to send on a connection, in TLS or not.
///
/// # Errors
/// It is of no more use.
pub(super) fn next_outgoing(conn: &mut Conn) -> Result<Option<Outgoing>, Exhausted> {
    let Some(mut session) = conn.tls.take_if(|session| !session.is_undecided()) else {
        return Ok(conn.next_outgoing());
    };
    let block = session.next_block(conn);
    conn.tls = Some(session);
    Ok(block?.map(Outgoing::Block))
}

impl State {
    /// What a client of the TLS port has sent, or one of the plain port that may be another node.
    pub(super) fn on_ciphertext(&mut self, conn: &mut Conn, bytes: &[u8]) {
        if conn.closing || conn.ended {
            return;
        }
        let Some(mut session) = conn.tls.take() else {
            return;
        };
        if session.is_undecided() {
            match is_handshake(bytes).then_some(&self.shared.node_tls) {
                Some(Some(nodes)) => match nodes.of_client() {
                    Ok(connection) => session.begin(connection),
                    Err(_) => return self.drop_conn(conn),
                },
                // A client as any other.
                _ => return self.on_data(conn, bytes),
            }
        }
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
        let Some(machine) = &mut session.machine else {
            return Ok(());
        };
        while !bytes.is_empty()
            && !conn.ended
            && !conn.is_gone()
            && let Some(found) = machine.take_in(&mut bytes)?
        {
            if found.has_text {
                machine.hand_on(|text| {
                    self.on_data(conn, text);
                    !conn.is_gone()
                });
            }
            if found.has_closed {
                self.on_end(conn, true);
            }
        }
        Ok(())
    }

    /// What a client sent is no TLS, or not such as is wanted here.
    fn on_tls_fault(&mut self, conn: &mut Conn, session: &mut Session, error: &Error) {
        match &self.shared.node_tls {
            Some(nodes) if session.is_node => {
                let (peer, fault) = (Peer::Came(conn.peer), Fault::of(error));
                nodes.note(peer, fault, &error.to_string(), self.boot_clock);
            }
            _ => self.log_seldom(&format!("client {}: TLS: {error}", conn.peer_text())),
        }
        session.is_over = true;
        match session.is_open() {
            true => self.drop_conn(conn),
            // It is told why, as far as TLS has a word for it.
            false => conn.closing = true,
        }
    }
}
