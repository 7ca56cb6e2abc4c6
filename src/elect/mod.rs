//! Elections without sockets, clocks and files: who the primary is, and when it may accept writes.
//!
//! - [`role`] is the table of roles and signals.
//! - [`wire`] reads and writes what members say to each other, and the list of peers.
//! - [`ballot`] is what a node must not forget, and [`places`] how much it has.
//! - [`elector`] decides.
//!
//! # How a shell drives it
//!
//! 1. Read `elect.meta`: none is [`Ballot::default`], damage ([`BallotFault`]) keeps the node out. Parse the
//!    list of peers ([`peers`]) and make an [`Elector`]. It begins as a replica.
//! 2. Dial every other peer at its election port and write on that connection only; nothing ever comes back
//!    on it. Listen on the own election port and read only: one [`wire::Decoder`] for each accepted
//!    connection, to be closed at its first error.
//! 3. Call [`Elector::step`] for each [`Event`] and, with [`Event::Wake`], at [`Elector::wakes_at`]. `now` is
//!    in milliseconds, of a clock that also counts while the machine sleeps (`CLOCK_BOOTTIME`); read it after
//!    the wait, not before.
//! 4. Carry out the effects **in order, each one finished before the next begins**: when a ballot is written,
//!    every core has done what stood before it, so that no stream is followed or fed any more that should not
//!    be. Only the writing of a ballot goes on beside what comes behind it. Where that takes several turns,
//!    steps go on meanwhile and their effects queue up behind.
//! 5. Report [`Event::Position`] whenever the shards' positions were asked for anyhow, and always between an
//!    [`Effect::Follow`] and the [`Event::BallotDurable`] that answers the next [`Effect::PersistBallot`]: a
//!    vote compares positions that nobody moves any more.
//! 6. The gate of writes is the time in [`Effect::Writes`], and each core compares it with a clock that it
//!    reads itself. So a process that was stopped finds its gate shut when it goes on, whatever runs first.
//!
//! Messages that cannot be sent are dropped, not kept: all of them are repeated as long as they matter.

pub mod ballot;
pub mod elector;
pub mod peers;
pub mod places;
pub mod role;
pub mod wire;

pub use ballot::{Ballot, BallotFault};
pub use elector::{Effect, Elector, Event, Settings, SettingsFault, Timings, View};
pub use peers::{Peer, PeerFault, parse_peers};
pub use places::Places;
pub use wire::{Decoder, Message, Standing, WireError};

/// Raft's term: numbers elections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Messages above it are refused, so that no peer can leave this node without a next epoch.
    pub const MAX: Epoch = Epoch(1 << 62);

    /// The one after it.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// The name of a member: 1 to 32 printable characters of ASCII, compared bytewise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(arrayvec::ArrayString<32>);

impl NodeId {
    /// `None`: too long, empty, or with characters that the list of peers or the ballot give a meaning.
    pub fn new(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'@' && byte != b',';
        if text.is_empty() || text == "-" || !text.bytes().all(is_plain) {
            return None;
        }
        arrayvec::ArrayString::from(text).ok().map(Self)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for NodeId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}
