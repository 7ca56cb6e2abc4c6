//! The loop of one core: reap, step, submit.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use uring::{End, Endpoint, Event, Nanos, Reactor, SocketId, Wait};

use super::{
    conn::Conn, follow::Follower, message::Message, requests::GROUP_LEN, shared::Shared,
    state::State,
};
use crate::{base::Ms, mesh::Mesh, script::EngineError};

/// Distance of the beats at which timeouts, expiry and counters are looked after.
const TICK: Nanos = 100_000_000;

const NANOS_PER_MS: Nanos = 1_000_000;

/// From this many events on it pays to fetch memory for the requests in them ahead.
const FETCH_EVENTS_MIN: usize = 4;

/// Marks of this core's timers.
const TICK_MARK: u64 = 1;

/// Messages of other cores that one turn handles.
const MESSAGES_PER_TURN: usize = 8192;

/// Ends a slow reader that took nothing for this long.
const STALL_MS: Ms = 60_000;

/// Wall clock time.
pub(crate) fn wall_clock() -> Ms {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as Ms)
}

/// One core: its ring and everything that lives on it.
pub struct Core<R: Reactor> {
    reactor: R,
    state: State,
    /// The links to the primary that this node follows; on core 0 only.
    follower: Option<Follower>,
    /// With the shard whose port it is, in cluster mode.
    listeners: Vec<(SocketId, Option<usize>)>,
    stopping: bool,
}

impl<R: Reactor> Core<R> {
    /// A core with its ring, not yet listening.
    ///
    /// # Errors
    /// The Lua state could not be made.
    pub fn new(
        reactor: R,
        mesh: Mesh<Message>,
        shared: Arc<Shared>,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let me = mesh.me();
        Ok(Self {
            reactor,
            follower: (me == 0).then(|| Follower::new(shared.clone())),
            state: State::new(mesh, shared, seed)?,
            listeners: Vec::new(),
            stopping: false,
        })
    }

    /// Opens a client listener: for all keys, or for those of one shard that lives here.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn listen(&mut self, at: &Endpoint, shard: Option<usize>) -> std::io::Result<()> {
        self.listeners.push((self.reactor.listen(at, 1024)?, shard));
        Ok(())
    }

    /// Follows a primary from the first turn on (core 0 only).
    pub fn follow(&mut self, host: String, port: u16) {
        if let Some(follower) = &mut self.follower {
            follower.follow(Some((host, port)));
        }
    }

    /// Serves until the node stops.
    ///
    /// # Errors
    /// The ring became unusable.
    pub fn run(mut self) -> std::io::Result<()> {
        let mut events = Vec::with_capacity(1024);
        let spin = self.state.shared.settings.spin_us * 1000;
        let mut useful = self.reactor.now();
        self.state.beat = useful / NANOS_PER_MS;
        self.reactor.set_timer(useful + TICK, TICK_MARK);
        let mut idle = false;
        while !self.stopping {
            let wait = if self.state.has_work()
                || self.follower.as_ref().is_some_and(Follower::has_work)
            {
                Wait::Look
            } else if idle
                && self.reactor.now().saturating_sub(useful) >= spin
                && self.state.mesh.park()
            {
                Wait::Event
            } else {
                Wait::Look
            };
            let turned = self.reactor.turn(wait, &mut events);
            if wait == Wait::Event {
                self.state.mesh.unpark();
            }
            turned?;
            let mut worked = self.begin_turn();
            let mut reaped = events.drain(..);
            while !reaped.as_slice().is_empty() {
                self.fetch_ahead(reaped.as_slice());
                for event in reaped.by_ref().take(GROUP_LEN) {
                    worked |= self.on_event(event);
                }
            }
            drop(reaped);
            worked |= self.end_turn();
            if worked && spin > 0 {
                useful = self.reactor.now();
            }
            idle = !worked;
        }
        Ok(())
    }

    /// Reads the clock and the mailboxes; true if a message was there.
    fn begin_turn(&mut self) -> bool {
        self.state.now = wall_clock();
        self.state.stats.turns += 1;
        self.state.begin_memory();
        self.state.scripts_busy = self.state.shared.scripts.running().is_busy();
        let mut worked = false;
        // What comes in while this runs may be more than is ever done: clients get their turn too.
        for _ in 0..MESSAGES_PER_TURN {
            let Some((from, message)) = self.state.mesh.receive() else {
                break;
            };
            worked = true;
            match message {
                Message::Follow(target) => {
                    if let Some(follower) = &mut self.follower {
                        follower.follow(target);
                    }
                }
                message => self.state.on_message(from, message),
            }
        }
        worked
    }

    /// Has the processor fetch what the requests in the next events will need.
    fn fetch_ahead(&mut self, events: &[Event]) {
        let next = &events[..events.len().min(GROUP_LEN)];
        if next.len() >= FETCH_EVENTS_MIN {
            let received = next.iter().filter_map(|event| match event {
                Event::Received { socket, lease } => Some((*socket, self.reactor.received(lease))),
                _ => None,
            });
            self.state.fetch_ahead_of(received);
        }
    }

    /// Handles one event; true if it was work (timers and wake-ups are not).
    fn on_event(&mut self, event: Event) -> bool {
        match event {
            Event::Received { socket, lease } => {
                self.state.stats.bytes_in += lease.len() as u64;
                let bytes = self.reactor.received(&lease);
                if let Some(mut conn) = self.state.take_conn(socket) {
                    self.state.on_data(&mut conn, bytes);
                    self.state.put_conn(conn);
                } else if let Some(follower) = &mut self.follower {
                    follower.on_data(&mut self.state, socket, bytes);
                }
                self.reactor.give_back(lease);
            }
            Event::Sent {
                socket,
                outgoing,
                result,
            } => {
                if let Some(mut conn) = self.state.take_conn(socket) {
                    conn.sending = false;
                    conn.progress = self.state.beat;
                    conn.reuse(outgoing);
                    match result {
                        Ok(()) => {
                            self.state.relieve(&mut conn);
                            self.state.list(&mut conn);
                        }
                        Err(_) => self.state.drop_conn(&mut conn),
                    }
                    self.state.put_conn(conn);
                } else if let Some(follower) = &mut self.follower {
                    follower.on_sent(socket);
                }
            }
            Event::Accepted {
                listener,
                socket,
                peer,
            } => {
                let mut listeners = self.listeners.iter();
                let shard = listeners
                    .find(|(other, _)| *other == listener)
                    .and_then(|(_, shard)| *shard);
                let local = self.reactor.local_addr(socket);
                if self.state.accept(socket, peer, local, shard) {
                    self.reactor.start_receiving(socket);
                }
            }
            Event::AcceptFailed { errno, .. } => {
                self.state
                    .log_seldom(&format!("cannot accept connections: {}", os_error(errno)));
            }
            Event::ReceiveEnded { socket, end } => {
                if let Some(mut conn) = self.state.take_conn(socket) {
                    conn.receiving = false;
                    self.state.on_end(&mut conn, end == End::Eof);
                    self.state.put_conn(conn);
                } else if let Some(follower) = &mut self.follower {
                    follower.on_closed(&mut self.state, socket);
                }
            }
            Event::Connected { socket, result } => {
                if let Some(follower) = &mut self.follower {
                    follower.on_connected(&mut self.state, socket, result.is_ok());
                    if result.is_ok() {
                        self.reactor.start_receiving(socket);
                    }
                }
            }
            Event::Timer { .. } => {
                self.reactor.set_timer(self.reactor.now() + TICK, TICK_MARK);
                self.tick();
                return false;
            }
            Event::Woken
            | Event::Closed { .. }
            | Event::Written { .. }
            | Event::Synced { .. }
            | Event::Done { .. } => {
                return false;
            }
        }
        true
    }

    /// Hands everything that the turn produced to the ring; true if there was anything.
    fn end_turn(&mut self) -> bool {
        let mut worked = false;
        if let Some(follower) = &mut self.follower {
            worked |= follower.step(&mut self.state, &mut self.reactor);
        }
        worked |= self.state.go_on();
        worked |= self.state.background();
        // Replies to other cores leave before the client sends: whoever sees a reply may rely on what
        // it announced having been posted.
        self.state.mesh.post();
        while let Some(index) = self.state.next_listed() {
            let Some(mut conn) = self.state.take_conn_at(index) else {
                continue;
            };
            worked = true;
            conn.listed = false;
            self.push_out(&mut conn);
            self.state.put_conn(conn);
        }
        while let Some(socket) = self.state.dropped.pop() {
            self.reactor.close(socket);
        }
        self.state.mesh.post();
        worked
    }

    /// Sends what a connection is owed, and adjusts what is received from it.
    fn push_out(&mut self, conn: &mut Conn) {
        if !conn.sending {
            match conn.next_outgoing() {
                Some(outgoing) => {
                    self.state.stats.bytes_out += outgoing_len(&outgoing) as u64;
                    if conn.owed() == 0 {
                        conn.progress = self.state.beat;
                    }
                    conn.sending = self.reactor.send(conn.socket, outgoing).is_ok();
                    if !conn.sending {
                        self.state.drop_conn(conn);
                    }
                }
                None if conn.closing && !conn.is_waiting() => self.state.drop_conn(conn),
                None => {}
            }
        }
        let wants = conn.wants_input();
        if wants != conn.receiving && !conn.ended {
            conn.receiving = wants;
            if wants {
                self.reactor.start_receiving(conn.socket);
            } else {
                self.reactor.stop_receiving(conn.socket);
            }
        }
    }

    /// Looks after time: blocked clients, idle clients, slow readers, expiry, counters, the stop.
    fn tick(&mut self) {
        let now = self.state.now;
        self.state.beat = self.reactor.now() / NANOS_PER_MS;
        self.state.tick(STALL_MS);
        if let Some(follower) = &mut self.follower {
            follower.tick(now);
        }
        if self.state.shared.is_stopping() {
            self.stopping = true;
            while let Some((listener, _)) = self.listeners.pop() {
                self.reactor.close(listener);
            }
        }
    }
}

fn outgoing_len(outgoing: &uring::Outgoing) -> usize {
    match outgoing {
        uring::Outgoing::Block(block) => block.len(),
        uring::Outgoing::Gather(pieces) => pieces.iter().map(bytes::Bytes::len).sum(),
    }
}

fn os_error(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}
