//! What a core may ask of its ring, and what the ring tells it back.
//!
//! The trait is the contract that the kernel ring and its in-memory twin both keep; one conformance
//! test body runs over both. Ownership is the rule that shapes it: memory that the kernel may still
//! touch is owned by the reactor, never by the caller. It moves in with the request and comes back
//! with the event.

use std::{io, net::SocketAddr, os::fd::OwnedFd, path::Path, path::PathBuf};

use bytes::Bytes;

use crate::arena::Chunk;

/// Nanoseconds on the reactor's own monotonic clock (virtual in the twin).
pub type Nanos = u64;

/// A socket of this reactor: its place in the socket table and the generation of that place.
///
/// An id of a closed socket never names its successor in the same place: calls with it are ignored
/// and no event carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketId {
    /// Place in the socket table; small and dense, so callers may index their own tables by it.
    pub index: u32,
    /// How often the place was reused before.
    pub generation: u32,
}

/// An open file of this reactor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileId {
    /// Place in the file table.
    pub index: u32,
    /// How often the place was reused before.
    pub generation: u32,
}

/// A one-shot timer of this reactor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId(pub u64);

/// Where to listen or connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A stream socket in the file system.
    Unix(PathBuf),
}

/// Our right to read one piece of received data until it is given back. Deliberately not `Clone`:
/// a lease is returned exactly once, with [`Reactor::give_back`].
#[derive(Debug)]
pub struct Lease {
    /// Which buffer of the reactor's group (or private block) holds the data.
    pub(crate) buffer: u32,
    /// Bytes received.
    pub(crate) len: u32,
}

impl Lease {
    /// Number of received bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True for a lease without data (never delivered by a reactor).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Bytes on their way to a socket.
#[derive(Debug)]
pub enum Outgoing {
    /// One block, sent whole. Comes back in [`Event::Sent`] so that its memory can be used again.
    Block(Vec<u8>),
    /// Up to [`GATHER_MAX`] pieces in order, sent whole without being copied together first.
    Gather(Vec<Bytes>),
}

/// Pieces that one gather send may have.
pub const GATHER_MAX: usize = 64;

/// What became of the memory of a [`Reactor::send_in_place`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// The network took it from where it lay.
    InPlace,
    /// The kernel says that it had to copy some of it.
    Copied,
    /// The kernel did not take it this way; it went as a plain send.
    Refused,
}

/// Why no more data will come from a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The peer finished sending.
    Eof,
    /// The connection failed with this errno.
    Failed(i32),
}

/// What happened since the last turn.
#[derive(Debug)]
pub enum Event {
    /// A listener has a new connection; it does not receive until [`Reactor::start_receiving`].
    Accepted {
        /// The listener.
        listener: SocketId,
        /// The new connection.
        socket: SocketId,
        /// The other end; `None` for a Unix socket.
        peer: Option<SocketAddr>,
    },
    /// A listener could not accept (errno, such as EMFILE). The reactor tries again by itself after
    /// a pause.
    AcceptFailed {
        /// The listener.
        listener: SocketId,
        /// What the kernel said.
        errno: i32,
    },
    /// The end of a [`Reactor::connect`].
    Connected {
        /// The socket that `connect` returned.
        socket: SocketId,
        /// The errno on failure; the caller closes the socket.
        result: Result<(), i32>,
    },
    /// Data from a socket, readable with [`Reactor::received`] until given back.
    Received {
        /// The socket.
        socket: SocketId,
        /// The right to read the data.
        lease: Lease,
    },
    /// Nothing more will be received on this socket. Sending may still work after an end of file.
    ReceiveEnded {
        /// The socket.
        socket: SocketId,
        /// Why.
        end: End,
    },
    /// A send is over, successfully only if every byte was taken by the kernel.
    Sent {
        /// The socket.
        socket: SocketId,
        /// The memory that was sent, back in the caller's hands.
        outgoing: Outgoing,
        /// The errno on failure.
        result: Result<(), i32>,
    },
    /// Nothing reads the memory of a [`Reactor::send_in_place`] any more. Comes once for each of them,
    /// after its [`Event::Sent`], perhaps after the next ones; not for a socket that was closed.
    Released {
        /// The socket.
        socket: SocketId,
        /// What the kernel says became of it.
        usage: Usage,
    },
    /// The last event of a socket that the caller closed: the descriptor is gone and the place in
    /// the table is free.
    Closed {
        /// The socket.
        socket: SocketId,
    },
    /// The last event of a socket that the caller handed out: the place in the table is free.
    HandedOut {
        /// The socket.
        socket: SocketId,
        /// Its descriptor, of which nothing is in flight any more.
        fd: OwnedFd,
    },
    /// The end of a [`Reactor::write`] or [`Reactor::write_durable`].
    Written {
        /// The caller's mark.
        mark: u64,
        /// The memory of the write, back in the caller's hands.
        block: Bytes,
        /// The errno on failure. Success means that every byte was written, and of a durable write
        /// that it is durable.
        result: Result<(), i32>,
    },
    /// The end of a [`Reactor::sync`].
    Synced {
        /// The file.
        file: FileId,
        /// The caller's mark.
        mark: u64,
        /// The errno on failure.
        result: Result<(), i32>,
    },
    /// The end of a [`Reactor::reserve`], [`Reactor::rename`] or [`Reactor::remove`].
    Done {
        /// The caller's mark.
        mark: u64,
        /// The errno on failure.
        result: Result<(), i32>,
    },
    /// A timer is due.
    Timer {
        /// The timer.
        timer: TimerId,
        /// The caller's mark.
        mark: u64,
    },
    /// Somebody called [`Wake::wake`] (any number of times since the last such event).
    Woken,
}

/// How long a turn may wait for its first event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Submit, run the kernel's deferred work, look, and return.
    Look,
    /// Sleep in the kernel until an event or this time.
    Until(Nanos),
    /// Sleep in the kernel until an event.
    Event,
}

/// How to open a file for the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenHow {
    /// Create the file if it is not there.
    pub create: bool,
    /// Cut the file to nothing.
    pub truncate: bool,
    /// Fail if the file is there.
    pub exclusive: bool,
    /// Write past the page cache what begins and ends at a multiple of [`DIRECT_UNIT`], where the file
    /// system can. Such a write is copied once, so that its memory lies as the disk wants it; through
    /// the page cache a write that waits for the disk takes many times the CPU
    /// (`perf/record/vm/2026-11-21T20-45-27-disk.csv`).
    pub direct: bool,
}

/// Writes past the page cache begin and end at multiples of this; see [`OpenHow::direct`].
pub const DIRECT_UNIT: usize = 4096;

/// Rouses a reactor's turn from another thread.
pub trait Wake {
    /// Ends the wait of the reactor's current or next turn. One system call in the kernel reactor.
    fn wake(&self);
}

/// One core's ring. See the module page for the ownership rule.
///
/// Order of calls: queue any number of requests, then [`turn`](Reactor::turn), which submits them
/// all with one system call and collects what happened. Requests on ids of closed sockets are
/// ignored, because an event that names them may be on its way while the caller closes them.
pub trait Reactor {
    /// What rouses this reactor from another thread.
    type Waker: Wake + Clone + Send + Sync + 'static;

    /// The reactor's clock, read anew.
    fn now(&self) -> Nanos;

    /// What the machine's own clock says: milliseconds since 1970. Somebody may set it.
    fn wall_clock_ms(&self) -> u64;

    /// Milliseconds of a clock that nobody sets and that goes on while the machine sleeps, read anew.
    fn boot_clock_ms(&self) -> u64;

    /// Opens a listener and keeps an accept armed on it. TCP listeners get SO_REUSEADDR,
    /// SO_REUSEPORT and TCP_NODELAY (inherited by their connections); a stale Unix socket file that
    /// nobody listens on is replaced.
    ///
    /// # Errors
    /// What socket, bind or listen said.
    fn listen(&mut self, at: &Endpoint, backlog: u32) -> io::Result<SocketId>;

    /// Keeps an accept armed on a listener that somebody else has made. Other processes may have it, too, so
    /// that closing it here ends nothing but the accept: who connects from then on waits for the others, and
    /// who was accepted before is still told with [`Event::Accepted`]. It becomes a blocking one, for all.
    ///
    /// # Errors
    /// This reactor knows no descriptors.
    fn adopt(&mut self, _listener: OwnedFd) -> io::Result<SocketId> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes a connection in that was accepted elsewhere; it does not receive until
    /// [`Reactor::start_receiving`]. It becomes a blocking one, for all that have it.
    ///
    /// # Errors
    /// This reactor knows no descriptors.
    fn take_in(&mut self, _connection: OwnedFd) -> io::Result<SocketId> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives a connection away as it is: receiving is stopped, what is in flight is awaited, data that was
    /// received meanwhile is still delivered, and [`Event::HandedOut`] brings the descriptor. What nobody
    /// has received waits in the kernel for the next owner. A reactor that knows no descriptors closes it.
    fn hand_out(&mut self, connection: SocketId) {
        self.close(connection);
    }

    /// The user that runs the process at the other end of a Unix socket, as of when it connected.
    fn peer_user(&self, _socket: SocketId) -> Option<u32> {
        None
    }

    /// Another descriptor of a connection, for what is no ring's business.
    ///
    /// # Errors
    /// There is no such socket, or this reactor knows no descriptors.
    fn duplicate(&self, _socket: SocketId) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The address a TCP listener or connection is bound to.
    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr>;

    /// Starts to connect; ends in [`Event::Connected`]. TCP_NODELAY and TCP keepalive are set.
    ///
    /// # Errors
    /// What socket said; everything later is in the event.
    fn connect(&mut self, to: &Endpoint) -> io::Result<SocketId>;

    /// Ends a TCP connection once the other machine has not acknowledged what was sent for so long. Without
    /// it the kernel tries for a quarter of an hour, at ever longer distances.
    fn limit_silence(&mut self, socket: SocketId, ms: u32);

    /// Keeps a receive armed on the socket until it ends, is stopped or closed.
    fn start_receiving(&mut self, socket: SocketId);

    /// Stops receiving (backpressure). Data already received may still be delivered; receiving may
    /// be started again at any time.
    fn stop_receiving(&mut self, socket: SocketId);

    /// The bytes of a lease.
    fn received(&self, lease: &Lease) -> &[u8];

    /// Ends a lease: its buffer may be filled again. Leases should be given back within the turn.
    fn give_back(&mut self, lease: Lease);

    /// Sends all bytes; ends in [`Event::Sent`]. Short sends are continued by the reactor.
    ///
    /// # Errors
    /// The memory comes straight back if the socket already has a send in flight or is closed. An
    /// empty send is refused in the same way.
    fn send(&mut self, socket: SocketId, outgoing: Outgoing) -> Result<(), Outgoing>;

    /// As [`send`](Reactor::send) of a gather, but the network shall read the pieces where they lie: they
    /// are held until [`Event::Released`]. [`Event::Sent`] comes long before that, with references to them,
    /// and the next send may follow it. Pieces of chunks of [`take_chunk`](Reactor::take_chunk) cost the
    /// kernel least; each is an operation of its own. Where the kernel refuses, it is a plain send.
    ///
    /// # Errors
    /// As [`send`](Reactor::send).
    fn send_in_place(&mut self, socket: SocketId, pieces: Vec<Bytes>) -> Result<(), Vec<Bytes>>;

    /// Could the network take the memory of this connection's sends from where it lies? The kernel knows
    /// how, and the other end is not on this machine, where it is copied in any case.
    fn may_send_in_place(&self, socket: SocketId) -> bool;

    /// Tells the peer that we will send no more; receiving goes on.
    fn finish_sending(&mut self, socket: SocketId);

    /// Ends a socket or listener: both directions are shut down, what is in flight is cancelled
    /// and awaited, the descriptor is closed, and [`Event::Closed`] is the only event that still
    /// comes for this id.
    fn close(&mut self, socket: SocketId);

    /// Opens a file for writing through the ring.
    ///
    /// # Errors
    /// What open said.
    fn open(&mut self, path: &Path, how: OpenHow) -> io::Result<FileId>;

    /// Writes the whole block at `offset`; ends in [`Event::Written`]. Writes on one file may pass
    /// each other. The block may be shared: others read it, or send it, meanwhile.
    fn write(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64);

    /// Writes the whole block at `offset` and makes it durable; ends in one [`Event::Written`]. Covers
    /// no other write. After a failure nothing is known of the block's bytes on disk, and a later sync
    /// that succeeds says nothing about them.
    fn write_durable(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64);

    /// Makes the file's data durable; ends in [`Event::Synced`]. Covers every write whose
    /// [`Event::Written`] was seen before this call, and of a folder ([`Reactor::open_dir`]) every name
    /// that was made, changed or removed in it before this call. After a failure a later sync that
    /// succeeds says nothing about what this one should have covered.
    fn sync(&mut self, file: FileId, mark: u64);

    /// Gives the file at least `len` bytes of disk and length; what was not written reads as zeros. Ends
    /// in [`Event::Done`]. Where the file system cannot reserve, this is a success and nothing changed.
    ///
    /// A durable write into reserved space takes about half as long again as one over bytes that were
    /// written before, because the file system has to note that these bytes count now; through the page
    /// cache it is no faster than one that makes the file longer
    /// (`perf/record/vm/2026-11-21T20-45-27-disk.csv`, 4 and 64 KiB). So it pays to use old files again.
    fn reserve(&mut self, file: FileId, len: u64, mark: u64);

    /// Opens a folder, so that [`sync`](Reactor::sync) makes the names in it durable. Nothing else can
    /// be done with it.
    ///
    /// # Errors
    /// What open said.
    fn open_dir(&mut self, path: &Path) -> io::Result<FileId>;

    /// Gives a file another name in the same file system, replacing what had it; ends in
    /// [`Event::Done`]. In no order with other requests in flight. Allocates. Kernels before 5.11 do it
    /// within this call.
    fn rename(&mut self, from: &Path, to: &Path, mark: u64);

    /// Takes a file's name away; ends in [`Event::Done`]. As [`rename`](Reactor::rename) in all else.
    fn remove(&mut self, path: &Path, mark: u64);

    /// Closes a file once nothing is in flight on it.
    fn close_file(&mut self, file: FileId);

    /// Allocates `count` chunks of `len` bytes for large sends, registered with the ring where it sends in
    /// place and the memlock limit allows: true if they are. Once per reactor.
    ///
    /// # Errors
    /// Out of memory, or called twice.
    fn make_arena(&mut self, count: u32, len: u32) -> io::Result<bool>;

    /// An empty chunk, unless all are in use or there are none.
    fn take_chunk(&mut self) -> Option<Chunk>;

    /// Fires [`Event::Timer`] once at or after `at`.
    fn set_timer(&mut self, at: Nanos, mark: u64) -> TimerId;

    /// Takes a timer back. A timer that is due in the current turn may still be delivered.
    fn cancel_timer(&mut self, timer: TimerId);

    /// What rouses this reactor from another thread.
    fn waker(&self) -> Self::Waker;

    /// Submits everything queued, waits as told, and appends what happened to `events`, at most
    /// about a thousand; what is left over comes in the next turn, which then does not wait. One
    /// system call (one or none in [`Wait::Look`]).
    ///
    /// # Errors
    /// Only what makes the ring unusable. An interrupted wait is an empty turn.
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()>;
}

// Events are written and read once per completion: they stay within a cache line.
const _: () = assert!(size_of::<Event>() <= 56);
