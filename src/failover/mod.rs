//! Planned failover without sockets, clocks and files: the role of primary moves to a replica, and no write
//! that was acknowledged is lost.
//!
//! - [`request`] reads what an operator asks for.
//! - [`coordinator`] is the old primary's part: freeze, wait for the target, ask, decide, grant.
//! - [`target`] is the new one's: ready, promoted, or never.
//! - [`wire`] is what the two say to each other.
//! - [`record`] is what either must not forget, in its file `failover.meta`.
//!
//! # The order
//!
//! 1. Every core of the old primary holds back new writes and ends those that it has begun. Where the streams
//!    stand then is the **frontier**.
//! 2. The target acknowledges all of it.
//! 3. The target is asked, and is ready.
//! 4. The old primary notes durably that it is one no more. That is the decision: before it everything can be
//!    undone by letting the writes go on, after it only the target's word makes this node a primary again.
//! 5. The target is granted the role, notes that durably, begins a new history and takes writes.
//! 6. The old primary follows it. Writes that were held back are answered as a replica answers them.
//!
//! So at any time one node at most takes writes. A target that is silent behind the decision leaves none:
//! then it is asked until it says that it is the primary, or that it never will be by this grant.
//!
//! # Where primaries are elected
//!
//! Steps 4 to 6 are the elections' own there ([`elect`](crate::elect)): the old primary gives way for the
//! target ([`Effect::HandOver`]), which is elected by votes as ever. Nothing is noted here.
//!
//! # How a shell drives it
//!
//! As with [`elect`](crate::elect): events in, effects out, to be carried out in their order. Times are
//! milliseconds of a clock that does not jump. Messages are repeated as long as they matter, so those that
//! cannot be sent are dropped.

pub mod coordinator;
pub mod record;
pub mod request;
pub mod target;
pub mod wire;

pub use coordinator::{
    Candidate, Coordinator, Effect, Event, Leader, Outcome, Phase, Rule, Settings, Verdict,
};
pub use record::{End, Record, RecordFault, Stands};
pub use request::{Command, Place, Request};
pub use target::{Facts, Target};
pub use wire::{Answer, Say};

/// The name of one failover: never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(pub u64);

impl std::fmt::Display for Id {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl Id {
    /// Reads what [`Display`](std::fmt::Display) writes.
    pub fn parse(text: &[u8]) -> Option<Id> {
        let text = std::str::from_utf8(text)
            .ok()
            .filter(|text| text.len() == 16)?;
        u64::from_str_radix(text, 16).ok().map(Id)
    }
}
