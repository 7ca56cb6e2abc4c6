//! What cores say to each other.

use uring::SocketId;

pub use crate::mesh::CoreId;
use crate::{
    cmd::{Shard, Spec},
    resp::{Out, OwnedArgs, Proto},
};

use super::homes::Listener;

/// Who asked for a command to be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A connection of the asking core, and the place among its replies.
    Conn(SocketId, u64),
    /// The link to the primary that this node follows: stream and its session, and the frame's offset.
    Link {
        /// Which upstream stream.
        stream: usize,
        /// Which session of it.
        session: u64,
        /// Offset of the frame.
        offset: u64,
    },
}

/// A command for one shard, to be run where the shard is.
#[derive(Debug)]
pub struct Errand {
    /// The core that wants the reply.
    pub from: CoreId,
    /// Who asked there.
    pub asker: Asker,
    /// The shard it needs.
    pub shard: usize,
    /// The database.
    pub db: usize,
    /// The form of the reply.
    pub proto: Proto,
    /// The command.
    pub spec: &'static Spec,
    /// Its arguments.
    pub args: OwnedArgs,
}

/// What waits for a shard that is away.
#[derive(Debug)]
pub enum Waiting {
    /// A command.
    Errand(Box<Errand>),
    /// A loan, for a collection of that core.
    Loan(CoreId, u64),
    /// A listener to register, with database and key.
    Listen(usize, Vec<u8>, Listener),
}

/// What the owner of a returned shard has to do.
#[derive(Debug)]
pub enum After {
    /// Tell the listeners of a key.
    Changed(usize, Vec<u8>),
    /// Tell all listeners.
    AllChanged,
    /// Register a listener for a key.
    Listen(usize, Vec<u8>, Listener),
}

/// A question to every core.
#[derive(Clone, Debug)]
pub enum Question {
    /// Lines of CLIENT LIST.
    ClientList(ClientFilter),
    /// Close connections; how many were closed.
    ClientKill(ClientFilter),
}

/// Which connections CLIENT LIST and CLIENT KILL mean. Absent conditions hold for all.
#[derive(Clone, Debug, Default)]
pub struct ClientFilter {
    /// With one of these ids.
    pub ids: Option<Vec<u64>>,
    /// With this address.
    pub addr: Option<String>,
    /// Bound to this local address.
    pub local: Option<String>,
    /// `normal` or `pubsub`.
    pub class: Option<String>,
    /// All but this id.
    pub except: Option<u64>,
}

/// What cores say to each other.
#[derive(Debug)]
pub enum Message {
    /// Run this and send the reply.
    Run(Box<Errand>),
    /// The reply.
    Ran(Asker, Box<Out>),
    /// Lend a shard to the sender's collection.
    Borrow(usize, u64),
    /// Here it is, for that collection; is somebody blocked on a key of it?
    Lent(u64, Box<Shard>, bool),
    /// Thank you.
    Returned(usize, Box<Shard>, Vec<After>),
    /// Register a listener.
    Listen(usize, usize, Vec<u8>, Listener),
    /// Remove a listener from a key.
    Unlisten(usize, usize, Vec<u8>, Listener),
    /// Tell a connection of yours what it listened for; with a number, say when it has tried.
    Heard(Listener, Option<u64>),
    /// A connection has tried: the round goes on.
    Tried(u64),
    /// The number of our connections that listen to a channel (or pattern) changed.
    Subscribed {
        /// It is a pattern.
        pattern: bool,
        /// Its name.
        channel: Vec<u8>,
        /// Now that many.
        count: usize,
    },
    /// A message for the channel's listeners.
    Published(Vec<u8>, Vec<u8>),
    /// Answer this.
    Ask(u64, Question),
    /// The answer: a number and a text.
    Answer(u64, i64, Vec<u8>),
    /// Core 0 is to follow this primary, or nobody.
    Follow(Option<(String, u16)>),
}
