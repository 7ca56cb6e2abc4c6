//! The link to a Redis primary, on core 0's ring.

use std::{collections::VecDeque, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use uring::{Endpoint, Outgoing, Reactor, SocketId};

use super::{
    super::{
        frames::Applied,
        log,
        message::Asker,
        scratch::Scratch,
        shared::{LinkView, RedisView, Tunables},
        state::State,
    },
    PENDING_MAX, REST_MAX,
};
use crate::{
    base::Ms,
    repl::{
        Login,
        psync::{Action, Event, LinkState, Psync},
    },
};

/// One link and its connection.
pub(super) struct Redis {
    link: Psync,
    /// Which history what is under way belongs to.
    session: u64,
    pub socket: Option<SocketId>,
    connected: bool,
    /// Received bytes that were not used yet.
    rest: Vec<u8>,
    /// Something must be done before the next command.
    paused: bool,
    receiving: bool,
    underway: Underway,
    /// The data set as it arrives.
    scratch: Option<Scratch>,
    /// The data set is being put in place; with the database that the stream goes on with.
    loading: Option<Option<u64>>,
    outgoing: Vec<u8>,
    sending: bool,
    last_drop: String,
}

/// Commands under way to other cores.
#[derive(Default)]
struct Underway {
    /// In order: where they end, and whether they were applied.
    sent: VecDeque<(u64, bool)>,
    /// One that must be applied before the next one is looked at.
    waits_for: Option<u64>,
}

impl Underway {
    /// Takes one more; true if the next one has to wait.
    fn add(&mut self, end: u64, applied: Applied) -> bool {
        self.sent.push_back((end, applied == Applied::Now));
        if applied == Applied::Alone {
            self.waits_for = Some(end);
        }
        self.waits_for.is_some() || self.sent.len() >= PENDING_MAX
    }

    /// One was applied; where the last one ends below which all are.
    fn on_applied(&mut self, end: u64) -> Option<u64> {
        if let Ok(at) = self.sent.binary_search_by_key(&end, |(end, _)| *end) {
            self.sent[at].1 = true;
        }
        if self.waits_for == Some(end) {
            self.waits_for = None;
        }
        let mut through = None;
        while let Some((end, true)) = self.sent.front() {
            through = Some(*end);
            self.sent.pop_front();
        }
        through
    }

    /// May a link that waited go on? What others did may be told later than what it waited for.
    fn has_room(&self) -> bool {
        self.waits_for.is_none() && self.sent.len() < PENDING_MAX / 2
    }
}

/// What to show a primary.
pub(super) fn login(tunables: &Tunables) -> Option<Login> {
    let (user, password) = (
        tunables.primary_user.clone(),
        tunables.primary_password.clone(),
    );
    (!password.is_empty()).then_some(Login { user, password })
}

impl Redis {
    pub(super) fn new(state: &State, session: u64) -> Self {
        let port = state.shared.settings.port;
        Self {
            link: Psync::new(port, login(&state.tunables), state.now),
            session,
            socket: None,
            connected: false,
            rest: Vec::new(),
            paused: false,
            receiving: false,
            underway: Underway::default(),
            scratch: None,
            loading: None,
            outgoing: Vec::new(),
            sending: false,
            last_drop: String::new(),
        }
    }

    pub(super) fn on_connected(&mut self, state: &State) {
        self.receiving = true;
        self.link.on_connected(state.now);
    }

    /// There is no TLS with the primary.
    pub(super) fn on_tls_fault(&mut self, why: &'static str, now: Ms) {
        self.link.refuse_tls(now, why);
    }

    pub(super) fn on_sent(&mut self) {
        self.sending = false;
    }

    /// The connection is over, or could not be made. What a paused link has not used is asked for again.
    pub(super) fn on_closed(&mut self, state: &State) {
        self.forget_socket();
        self.link.on_closed(state.now);
    }

    /// Takes in bytes: those that wait first.
    pub(super) fn on_data(&mut self, state: &mut State, bytes: &[u8], sessions: &mut u64) {
        if self.rest.is_empty() && !self.paused {
            let used = self.take(state, bytes, sessions);
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            self.rest.extend_from_slice(bytes);
            self.take_rest(state, sessions);
        }
    }

    pub(super) fn on_applied(&mut self, session: u64, end: u64) {
        if session != self.session {
            return;
        }
        if let Some(end) = self.underway.on_applied(end) {
            self.link.applied_through(end);
        }
        if self.underway.has_room() {
            self.paused = self.loading.is_some();
        }
    }

    /// The data set is in place.
    pub(super) fn on_loaded(&mut self, session: u64, now: Ms) {
        if session == self.session
            && let Some(db) = self.loading.take()
        {
            self.paused = false;
            self.link.loaded(now, db);
        }
    }

    /// Carries out what the link wants; true if there was anything.
    pub(super) fn step<R: Reactor>(
        &mut self,
        state: &mut State,
        reactor: &mut R,
        at: SocketAddr,
        sessions: &mut u64,
        closing: &mut Vec<SocketId>,
    ) -> bool {
        let now = state.now;
        let mut worked = self.take_rest(state, sessions);
        while let Some(action) = self.link.poll(now) {
            worked = true;
            match action {
                Action::Connect => match reactor.connect(&Endpoint::Tcp(at)) {
                    Ok(socket) => {
                        self.forget_socket();
                        self.socket = Some(socket);
                        self.link.set_login(login(&state.tunables));
                    }
                    Err(_) => self.link.on_closed(now),
                },
                Action::Send(bytes) => self.outgoing.extend_from_slice(&bytes),
                Action::Drop { reason, .. } => {
                    closing.extend(self.socket);
                    self.forget_socket();
                    if let Some(scratch) = self.scratch.take() {
                        state.retire(scratch.into_shards());
                    }
                    let text = reason.to_string();
                    if text != self.last_drop {
                        log(&format!("link to {at}: {text}"));
                        self.last_drop = text;
                    }
                }
            }
        }
        let Some(socket) = self.socket else {
            return worked;
        };
        if !self.sending && !self.outgoing.is_empty() {
            let outgoing = Outgoing::Block(std::mem::take(&mut self.outgoing));
            self.sending = reactor.send(socket, outgoing).is_ok();
        }
        // A link that is not paused needs more for its command to be whole.
        let wants = !self.paused || self.rest.len() < REST_MAX;
        if self.receiving && !wants {
            self.receiving = false;
            reactor.stop_receiving(socket);
        } else if self.connected && !self.receiving && wants {
            self.receiving = true;
            reactor.start_receiving(socket);
        }
        worked
    }

    /// Gives up; the socket to close.
    pub(super) fn end(self, state: &mut State) -> Option<SocketId> {
        if let Some(scratch) = self.scratch {
            state.retire(scratch.into_shards());
        }
        self.socket
    }

    fn forget_socket(&mut self) {
        self.socket = None;
        self.connected = false;
        self.receiving = false;
        self.sending = false;
        self.rest.clear();
        self.outgoing.clear();
    }

    fn take_rest(&mut self, state: &mut State, sessions: &mut u64) -> bool {
        if self.paused || !self.connected {
            return false;
        }
        // The link remembers where it is in an unfinished command: looking again costs little.
        let mut rest = std::mem::take(&mut self.rest);
        let used = self.take(state, &rest, sessions);
        rest.drain(..used);
        self.rest = rest;
        used > 0
    }

    /// Feeds bytes to the link and acts on what they say, until they end or something must be done
    /// first; how many were used.
    fn take(&mut self, state: &mut State, bytes: &[u8], sessions: &mut u64) -> usize {
        let now = state.now;
        self.connected = true;
        let mut at = 0;
        let mut through = None;
        while !self.paused {
            let (used, event) = self.link.feed(now, &bytes[at..]);
            at += used;
            let (end, applied) = match event {
                None => break,
                Some(Event::Resumed) => {
                    log("the primary's stream goes on where it was cut");
                    self.last_drop.clear();
                    continue;
                }
                Some(Event::SyncBegin) => {
                    let databases = state.shared.settings.databases;
                    let shards = state.homes.shards.fresh(databases, state.rng.next_u64());
                    self.scratch = Some(Scratch::new(shards, databases));
                    continue;
                }
                Some(Event::Rdb(piece)) => {
                    if let Some(scratch) = &mut self.scratch
                        && let Err(error) = scratch.feed(piece, now)
                    {
                        self.link.spoiled(now, error.to_string());
                    }
                    continue;
                }
                Some(Event::RdbEnd) => {
                    self.put_in_place(state, sessions);
                    continue;
                }
                Some(Event::Frame { end, db, args }) => {
                    let asker = Asker::Redis {
                        session: self.session,
                        end,
                    };
                    (end, state.apply_redis(asker, db, args))
                }
                Some(Event::Unit { end, frames }) => {
                    let asker = Asker::Redis {
                        session: self.session,
                        end,
                    };
                    (end, state.apply_unit(asker, frames))
                }
            };
            match applied {
                Applied::Now if self.underway.sent.is_empty() => through = Some(end),
                applied => self.paused = self.underway.add(end, applied),
            }
        }
        if let Some(end) = through {
            self.link.applied_through(end);
        }
        at
    }

    /// The data set has arrived: has it replace what the node holds, if it is good.
    fn put_in_place(&mut self, state: &mut State, sessions: &mut u64) {
        let Some(scratch) = self.scratch.take() else {
            return;
        };
        match scratch.finish(state.now) {
            Ok(received) => {
                log(&format!(
                    "the primary's data set has arrived: {} keys",
                    received.keys
                ));
                if received.left_out > 0 {
                    let count = received.left_out;
                    log(&format!("{count} values of modules are left out"));
                }
                self.last_drop.clear();
                // What had no effect is in the data set.
                state.shared.unapplied.store(0, Relaxed);
                self.loading = Some(received.stream_db);
                self.paused = true;
                // Commands of the old history that are still under way were sent to their shards before the
                // exchange asks for them, and are applied before it.
                self.underway = Underway::default();
                *sessions += 1;
                self.session = *sessions;
                state.start_exchange(self.session, received);
            }
            Err(refused) => {
                let (error, shards) = *refused;
                state.retire(shards);
                self.link.spoiled(state.now, error.to_string());
            }
        }
    }

    pub(super) fn view(&self) -> (LinkView, RedisView) {
        let status = self.link.status();
        let name = |id: &[u8]| String::from_utf8_lossy(id).into_owned();
        let link = LinkView {
            up: status.state == LinkState::Streaming,
            syncing: status.state == LinkState::Sync,
            heard: status.heard.unwrap_or(0),
            fresh_at: status.heard.unwrap_or(0),
            applied: status.applied,
            primary_next: status.place.map_or(0, |place| place.offset),
            generation: 0,
        };
        let redis = RedisView {
            state: match status.state {
                LinkState::Waiting => "connect",
                LinkState::Connecting => "connecting",
                LinkState::Handshake => "handshake",
                LinkState::Sync => "sync",
                LinkState::Streaming => "connected",
            },
            id: status.place.map_or("0".repeat(40), |place| name(&place.id)),
            previous: status.previous.map(|(id, end)| (name(&id), end)),
            synced: status.synced,
            down_since: status.down_since,
            last_drop: status
                .last_drop
                .map_or(String::new(), |reason| reason.to_string()),
        };
        (link, redis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_goes_on_in_whatever_order_it_hears() {
        let last = PENDING_MAX as u64 - 1;
        for one_is_alone in [false, true] {
            let mut underway = Underway::default();
            for end in 1..last {
                assert!(!underway.add(end, Applied::Later));
            }
            let applied = if one_is_alone {
                Applied::Alone
            } else {
                Applied::Now
            };
            assert_eq!(underway.add(last, applied), one_is_alone);
            // What was applied last is heard of first.
            assert_eq!(underway.on_applied(last), None);
            assert!(!underway.has_room());
            for end in (2..last).rev() {
                assert_eq!(underway.on_applied(end), None);
            }
            assert_eq!(underway.on_applied(1), Some(last));
            assert!(underway.has_room() && underway.sent.is_empty());
        }
        let mut underway = Underway::default();
        let waits: Vec<_> = (0..PENDING_MAX as u64)
            .map(|end| underway.add(end, Applied::Later))
            .collect();
        assert_eq!(waits.iter().position(|waits| *waits), Some(PENDING_MAX - 1));
    }
}
