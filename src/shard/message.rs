//! What cores say to each other.

use uring::SocketId;

pub use crate::mesh::CoreId;
use crate::{
    base::{Ms, Position},
    cmd::{Shard, Spec, Upstream},
    resp::{Out, OwnedArgs, Proto},
};

use super::{
    access::Caller,
    frames::Copied,
    homes::{Listener, Sweep},
    oddities::Acting,
    tracking::{Invalid, News},
};

/// A connection of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientAt {
    /// Its core.
    pub core: CoreId,
    /// Its connection there.
    pub conn: SocketId,
}

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
        /// The primary is a ringkeep: number of its streams, and the generation of this one.
        ringkeep: Option<(u16, u64)>,
    },
    /// The link to a Redis primary.
    Redis {
        /// Which history of it.
        session: u64,
        /// The offset behind the frame.
        end: u64,
    },
}

impl Asker {
    /// What a shard is a copy of once it has what was asked for.
    pub fn upstream(&self) -> Option<Upstream> {
        match self {
            Asker::Link {
                stream,
                offset,
                ringkeep: Some((streams, generation)),
                ..
            } => Some(Upstream {
                stream: *stream as u64,
                streams: u64::from(*streams),
                generation: *generation,
                offset: offset + 1,
            }),
            _ => None,
        }
    }
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
    /// The client keeps what it reads: see [`tracking`](super::tracking).
    pub remembers: bool,
}

/// A script of a client of core 0, to be run on another core.
#[derive(Debug)]
pub struct SentScript {
    /// Who wants the reply there.
    pub asker: Asker,
    /// The database.
    pub db: usize,
    /// The form of the reply.
    pub proto: Proto,
    /// The command that runs it.
    pub spec: &'static Spec,
    /// Its arguments.
    pub args: OwnedArgs,
    /// Of all shards it sees this one.
    pub only: Option<usize>,
    /// For whom it runs, where that matters.
    pub(super) acting: Option<Acting>,
    /// Whose rights it has; nothing if all.
    pub(super) caller: Option<Box<Caller>>,
}

/// What waits for a shard that is away.
#[derive(Debug)]
pub enum Waiting {
    /// A command.
    Errand(Box<Errand>),
    /// Frames for this shard from that core, to be applied together.
    Copied(usize, Box<Copied>, CoreId),
    /// A loan, for a collection of that core.
    Loan(CoreId, u64),
    /// A listener to register, with database and key; who wants to know when it is, and the number of its
    /// question.
    Listen(usize, Vec<u8>, Listener, Option<(CoreId, u64)>),
}

/// What the owner of a returned shard has to do.
#[derive(Debug)]
pub enum After {
    /// Tell the listeners of a key, and who keeps it; with the client that changed it, if known.
    Changed(usize, Vec<u8>, Option<ClientAt>),
    /// Remember that a client keeps a key.
    Remember(Vec<u8>, ClientAt),
    /// Tell all listeners whom that concerns.
    AllChanged(Sweep),
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
    /// Hold requests (all, or those that may write) until this time.
    Pause(Ms, bool),
    /// Let them run again.
    Unpause,
    /// Answer the blocked command of this client as if its time were up, or with an error.
    Unblock(u64, bool),
    /// Find the client with this id.
    Find(u64),
    /// Read all shards; the answer comes later.
    Digest,
}

/// One core's part of an answer.
#[derive(Debug, Default)]
pub struct Answer {
    /// A number, to be added to the others'.
    pub count: i64,
    /// Lines with the number that orders them.
    pub lines: Vec<(u64, String)>,
    /// Where the wanted client lives.
    pub found: Option<ClientAt>,
    /// What shards hold, or that it changed each time they were read.
    pub digests: Vec<(usize, Option<ShardDigest>)>,
}

/// What a shard holds.
#[derive(Clone, Copy, Debug)]
pub struct ShardDigest {
    /// Where its stream was then.
    pub at: Position,
    /// Number of its keys.
    pub keys: u64,
    /// See [`Digest`](crate::cmd::Digest).
    pub sum: u128,
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
    /// Of this kind.
    pub class: Option<Class>,
    /// Of this user.
    pub user: Option<Vec<u8>>,
    /// Accepted so many seconds ago or earlier.
    pub age_secs: Option<u64>,
    /// All but this id.
    pub except: Option<u64>,
}

/// The kinds of clients that Redis tells apart. The last two are nobody here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Class {
    Normal,
    PubSub,
    Replica,
    Primary,
}

/// The kinds of names that clients listen to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topics {
    /// SUBSCRIBE.
    Channels,
    /// PSUBSCRIBE.
    Patterns,
    /// SSUBSCRIBE.
    Shards,
}

/// What all cores have to do before an election or a failover goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Hold back writes of clients, and end what was begun.
    Freeze,
    /// Hold them back no more.
    Thaw,
    /// See that the gate of writes is shut, and be done with what came before this.
    Settle,
    /// Feed no replica any more.
    Resign,
    /// Begin new histories: this node is the primary.
    Lead,
}

/// What cores say to each other.
#[derive(Debug)]
pub enum Message {
    /// Run this and send the reply.
    Run(Box<Errand>),
    /// What this connection asked for last took long.
    Slow(SocketId),
    /// Run this script.
    Script(Box<SentScript>),
    /// Apply these frames to a shard of yours together, and say so.
    Copy(usize, Box<Copied>),
    /// The reply.
    Ran(Asker, Box<Out>),
    /// What this connection of yours had asked is never answered, as this node is the primary no more.
    Unanswered(SocketId),
    /// Lend a shard to the sender's collection.
    Borrow(usize, u64),
    /// Here it is, for that collection; is somebody blocked on a key of it?
    Lent(u64, Box<Shard>, bool),
    /// Thank you.
    Returned(usize, Box<Shard>, Vec<After>),
    /// Register a listener for a key of a shard and database; answer the question with this number.
    Listen(usize, usize, Vec<u8>, Listener, u64),
    /// Remove a listener from a key.
    Unlisten(usize, usize, Vec<u8>, Listener),
    /// Tell a connection of yours what it listened for; with a number, say when it has tried.
    Heard(Listener, Option<u64>),
    /// A connection has tried: the round goes on.
    Tried(u64),
    /// The number of our connections that listen to a channel (or pattern) changed.
    Subscribed {
        /// What kind of name it is.
        kind: Topics,
        /// Its name.
        channel: Vec<u8>,
        /// Now that many.
        count: usize,
    },
    /// A message for the channel's listeners.
    Published(Vec<u8>, Vec<u8>),
    /// The same for a shard channel.
    ShardPublished(Vec<u8>, Vec<u8>),
    /// Our core has clients that monitor, or no longer.
    Monitored(bool),
    /// A line for your clients that monitor.
    Line(String),
    /// Have you come to an end, for a handoff? The number is that of the round of questions.
    Hush(u64),
    /// That round: whether, and how many messages were handled so far.
    Hushed(u64, bool, u64),
    /// Answer this.
    Ask(u64, Question),
    /// The answer.
    Answer(u64, Answer),
    /// News for a client that tracks.
    News(Box<News>),
    /// News for the first client, to be told to the second one, which is yours.
    Redirected(ClientAt, SocketId, Invalid),
    /// Whom your client redirects to is gone.
    RedirectBroken(SocketId),
    /// The data set was emptied: clients that track are to forget everything.
    Flushed,
    /// A connection of ours wants to hear of keys with these prefixes, or no longer.
    Prefixes {
        /// The connection.
        conn: SocketId,
        /// The prefixes.
        prefixes: Vec<Vec<u8>>,
        /// It is not told of its own changes.
        no_loop: bool,
        /// It wants to.
        on: bool,
    },
    /// Core 0 is to follow this primary, or nobody.
    Follow(Option<(String, u16)>),
    /// Core 0 has all cores do this, and say with this number when it is done.
    Order(Order, u64),
    /// It is.
    Settled(u64),
    /// More of our shards' streams is durable.
    Frontier,
    /// Replicas of our shards have said how far they are, or more of our shards is durable.
    Acked,
    /// Your replicas are to say how far they are.
    AskAcks,
    /// Core 0 has something to do for a failover.
    Failover,
}
