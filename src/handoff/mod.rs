//! A new binary takes over a running node, without sockets, clocks and files.
//!
//! Three parties: the supervisor holds the listeners and leads; the incumbent is the process that serves; the
//! successor is the one that is to. What they say to each other is that of the `handoff` library
//! (`beyond-handoff` on crates.io), whose supervisor drives us unchanged. The page on
//! [handoff](crate::docs::handoff) tells the whole.
//!
//! - [`wire`] reads and writes frames.
//! - [`incumbent`], [`successor`] and [`supervisor`] decide: events in, effects out, and the caller's clock
//!   as an argument.
//! - [`passing`] is what goes with the connections of clients.
//! - [`files`] are the texts that processes leave in the data directory, [`notes`] is that of a supervisor.

pub mod files;
pub mod incumbent;
pub mod notes;
pub mod passing;
pub mod successor;
pub mod supervisor;
pub mod wire;

pub use files::{FileFault, Owner, Redirected, Seal};
pub use incumbent::Incumbent;
pub use notes::{Noted, Notes};
pub use successor::Successor;
pub use supervisor::Supervisor;
pub use wire::{Decoder, Message, Role, WireError};

use crate::base::Ms;

/// The version of the protocol that is spoken here. There is no other one.
pub const VERSION: u16 = 1;

/// Between two signs of life while something takes long. A supervisor gives up after ten seconds of silence.
pub const HEARTBEAT_MS: Ms = 2000;

/// Names one handoff.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// Of its text.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_hex(&self.0, out)
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_hex(&self.0, out)
    }
}

fn write_hex(bytes: &[u8], out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Exactly so many bytes in small digits.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits: Option<Vec<u8>> = text.bytes().map(digit).collect();
    let digits = digits.filter(|digits| digits.len() == 2 * N)?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(bytes)
}
