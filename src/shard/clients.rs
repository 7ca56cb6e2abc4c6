//! The connections of a core: who is there, who has something to send, who may go on.

use std::{collections::VecDeque, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use uring::SocketId;

use super::{
    conn::{Conn, Hold},
    shared::Shared,
    state::State,
    tls::Session,
};
use crate::{
    base::Ms,
    resp::{Error, Out},
};

/// What a client port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// All keys.
    Plain,
    /// In cluster mode, those of one shard.
    Shard(usize),
    /// All keys, in TLS.
    Tls,
}

impl Door {
    /// The shard whose port it is.
    fn shard(self) -> Option<usize> {
        match self {
            Door::Shard(shard) => Some(shard),
            Door::Plain | Door::Tls => None,
        }
    }
}

/// The connections of this core. The one that is worked on is not in its place.
#[derive(Default)]
pub(super) struct Clients {
    /// By the index of their socket.
    pub places: Vec<Option<Box<Conn>>>,
    /// What they held when they were last looked at.
    pub bytes: usize,
    /// Those looked at in this round, and what they hold.
    pub swept: usize,
    pub sweeping: usize,
    /// Those in their places and the one that is worked on.
    pub count: usize,
    /// Connections with something to send.
    pub listed: Vec<u32>,
    /// Connections whose next requests may run. They run at the end of the turn: a queue of them may be
    /// longer than the stack is deep.
    pub woken: VecDeque<SocketId>,
    /// Those that have had their part of a turn, in the order in which they go on.
    pub rested: VecDeque<SocketId>,
    /// Connections that are held because other cores cannot follow.
    pub stalled: Vec<SocketId>,
    /// Connections that CLIENT PAUSE holds.
    pub paused: Vec<SocketId>,
    /// When a connection last could not be taken in, if that is still so.
    pub failed_at: Option<Ms>,
}

/// Connections are accepted again when there was no failure for so long.
const ACCEPTS_AGAIN_MS: Ms = 1000;

/// What a client of another machine is told while anybody could do anything.
const PROTECTED: Error = Error::fixed(
    "DENIED Redis is running in protected mode because protected mode is enabled and no password is set \
     for the default user. In this mode connections are only accepted from the loopback interface. If you \
     want to connect from external computers to Redis you may adopt one of the following solutions: 1) \
     Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback \
     interface by connecting to Redis from the same host the server is running, however MAKE SURE Redis \
     is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make this change \
     permanent. 2) Alternatively you can just disable the protected mode by editing the Redis \
     configuration file, and setting the protected mode option to 'no', and then restarting the server. \
     3) If you started the server manually just for testing, restart it with the '--protected-mode no' \
     option. 4) Setup a an authentication password for the default user. NOTE: You only need to do one of \
     the above things in order for the server to start accepting connections from the outside.",
);

/// The TLS of a new connection to the TLS port.
fn session(shared: &Shared) -> Option<Box<Session>> {
    let certificates = shared.tls.as_ref()?.certificates();
    let connection = certificates.connection().ok()?;
    Some(Box::new(Session::new(connection)))
}

impl State {
    /// Takes in a new connection; false if there are too many. It is then told so and closed, in TLS without
    /// a word, as in Redis: nobody shakes hands with it.
    pub(super) fn accept(
        &mut self,
        socket: SocketId,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        door: Door,
    ) -> bool {
        // CONFIG SET may have come to another core while this one slept.
        self.heed_tunables();
        let others = self
            .shared
            .clients()
            .saturating_sub(self.shared.stats[self.me].clients.load(Relaxed));
        let most = self.tunables.conns_max;
        let most = most.min(self.shared.settings.clients_max);
        let refused = others + self.clients.count >= most;
        let is_far = peer.is_some_and(|peer| !peer.ip().to_canonical().is_loopback());
        let is_denied = is_far && self.tunables.protects && self.users.needs_no_password();
        let id = self.shared.next_client();
        let mut conn = Box::new(Conn::new(
            socket,
            id,
            peer,
            self.users.default_user(),
            self.beat,
        ));
        conn.local = local;
        conn.port_shard = door.shard();
        if door == Door::Tls {
            conn.tls = session(&self.shared);
        } else if door == Door::Plain && self.shared.node_tls.is_some() {
            conn.tls = Some(Box::new(Session::undecided()));
        }
        let is_lost = door == Door::Tls && conn.tls.is_none();
        self.forget_user(&mut conn);
        self.clients.count += 1;
        if refused {
            self.stats.refused += 1;
            conn.receiving = false;
            conn.closing = true;
            conn.out
                .error(&Error::fixed("ERR max number of clients reached"));
            self.list(&mut conn);
        } else if is_lost {
            // Nobody comes in without it.
            self.stats.refused += 1;
            conn.receiving = false;
            conn.closing = true;
            self.list(&mut conn);
        } else if is_denied {
            self.stats.refused += 1;
            conn.receiving = false;
            conn.closing = true;
            conn.out.error(&PROTECTED);
            self.list(&mut conn);
        } else {
            self.stats.accepted += 1;
        }
        self.place_conn(conn);
        !refused && !is_denied && !is_lost
    }

    /// A connection could not be taken in. The ring tries again a little later; of a row of failures the log
    /// has the beginning and the end.
    pub(super) fn on_accept_failed(&mut self, errno: i32) {
        self.stats.not_accepted += 1;
        if self.clients.failed_at.replace(self.beat).is_none() {
            let error = std::io::Error::from_raw_os_error(errno);
            super::log(&format!(
                "cannot accept connections: {error}; they wait in the kernel"
            ));
        }
    }

    /// Has nothing been refused for a while?
    pub(super) fn end_accept_failure(&mut self) {
        let is_over = |at: &mut Ms| self.beat.saturating_sub(*at) > ACCEPTS_AGAIN_MS;
        if self.clients.failed_at.take_if(|at| is_over(at)).is_some() {
            super::log("accepts connections again");
        }
    }

    /// Puts a connection into its place for the first time.
    pub(super) fn place_conn(&mut self, conn: Box<Conn>) {
        let index = conn.socket.index as usize;
        if self.clients.places.len() <= index {
            self.clients.places.resize_with(index + 1, || None);
        }
        self.clients.places[index] = Some(conn);
    }

    pub(super) fn take_conn(&mut self, socket: SocketId) -> Option<Box<Conn>> {
        let place = self.clients.places.get_mut(socket.index as usize)?;
        if place.as_ref()?.socket != socket {
            return None;
        }
        place.take()
    }

    pub(super) fn take_conn_at(&mut self, index: u32) -> Option<Box<Conn>> {
        self.clients.places.get_mut(index as usize)?.take()
    }

    /// Puts a connection back after work on it; it is freed if that ended it.
    pub(super) fn put_conn(&mut self, conn: Box<Conn>) {
        if conn.is_gone() {
            return;
        }
        let index = conn.socket.index as usize;
        self.clients.places[index] = Some(conn);
    }

    pub(super) fn conns(&self) -> impl Iterator<Item = &Conn> {
        self.clients.places.iter().flatten().map(|conn| &**conn)
    }

    /// Notes that a connection may have something to send.
    #[inline]
    pub(super) fn list(&mut self, conn: &mut Conn) {
        if !conn.listed {
            conn.listed = true;
            self.clients.listed.push(conn.socket.index);
        }
    }

    pub(super) fn next_listed(&mut self) -> Option<u32> {
        self.clients.listed.pop()
    }

    /// A connection that had to wait may go on with its requests, at the end of this turn.
    pub(super) fn wake(&mut self, conn: &mut Conn) {
        conn.hold = Hold::Free;
        self.clients.woken.push_back(conn.socket);
        self.list(conn);
    }

    /// Wakes a connection that was held because too much was owed, or because replies were missing, if that
    /// is over.
    pub(super) fn relieve(&mut self, conn: &mut Conn) {
        let is_over = match conn.hold {
            Hold::SlowReader => conn.has_room(),
            Hold::Behind | Hold::Away => !conn.is_waiting(),
            _ => false,
        };
        if is_over {
            self.wake(conn);
        }
    }

    pub(super) fn resume(&mut self, conn: &mut Conn) {
        if !conn.input.is_empty() {
            self.run_kept(conn);
        }
        if conn.ended && conn.is_free() {
            conn.closing = true;
        }
        self.list(conn);
    }

    /// The peer finished sending, or the connection failed.
    pub(super) fn on_end(&mut self, conn: &mut Conn, finished: bool) {
        conn.ended = true;
        if conn.leaving.is_some() {
            // The next process sees it, too.
            return;
        }
        if !finished {
            return self.drop_conn(conn);
        }
        // Whoever sends nothing more and waits may be gone altogether, and is never told; what it is owed
        // for earlier requests is still sent.
        if let Some(blocked) = self.leave_block(conn) {
            conn.fill_slot(blocked.slot, Out::new(conn.out.proto));
        }
        self.unsubscribe_all(conn);
        // Requests that came before the end are still answered.
        conn.closing = conn.is_free();
        self.list(conn);
    }

    /// Ends a connection at once: nothing more is sent, what it waited for is forgotten.
    pub(super) fn drop_conn(&mut self, conn: &mut Conn) {
        if conn.is_gone() {
            return;
        }
        self.leave_block(conn);
        self.unwatch(conn);
        self.unsubscribe_all(conn);
        self.end_tracking(conn);
        self.end_monitoring(conn);
        self.dropped.push(conn.socket);
        self.clients.count -= 1;
        conn.mark_gone();
    }
}
