//! Following a primary: one link per stream of it, driven by core 0's ring.
//!
//! The state machines are in `repl`; here they meet sockets, and their frames the shards. A frame is
//! applied as soon as it is parsed, straight from the receive buffer, if its shard is on this core; it
//! is sent to the shard's core otherwise. Positions reported to the primary are those below which
//! every frame has been applied.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
};

use uring::{Endpoint, Outgoing, Reactor, SocketId};

use super::{
    load::{Load, Placement},
    message::Asker,
    requests::{Applied, State},
    shared::{FollowView, LinkView, Shared, lock},
};
use crate::{
    base::Ms,
    node::log,
    repl::{
        Position,
        discover::{self, Discovery, Upstream},
        link::{self, Link, LinkConfig, LinkState},
    },
};

/// Frames on their way to other cores at which a link stops being read.
const PENDING_MAX: usize = 8192;
/// Unparsed bytes of a waiting link at which nothing more is received.
const REST_MAX: usize = 1 << 20;
/// Pause after a search that found no primary.
const SEARCH_AGAIN_MS: Ms = 1000;

/// Follows one primary, or nobody. Lives on core 0.
pub(super) struct Follower {
    shared: Arc<Shared>,
    target: Option<Target>,
    /// Counts sessions over all links, so that what an old one left under way is told from the new.
    sessions: u64,
    /// Sockets whose use is over.
    closing: Vec<SocketId>,
}

struct Target {
    host: String,
    port: u16,
    ip: Option<IpAddr>,
    resolving: Option<mpsc::Receiver<Option<IpAddr>>>,
    search: Option<Search>,
    again_at: Ms,
    last_trouble: String,
    links: Vec<Run>,
    placement: Placement,
    base: u16,
}

struct Search {
    discovery: Discovery,
    socket: Option<SocketId>,
    outgoing: Vec<u8>,
    sending: bool,
}

/// One link and its connection.
struct Run {
    link: Link,
    stream: usize,
    session: u64,
    socket: Option<SocketId>,
    /// Received bytes that were not used yet.
    rest: Vec<u8>,
    /// A frame over several cores, or a snapshot, must be done before the next frame.
    paused: bool,
    receiving: bool,
    /// Frames under way to other cores, in order: offset, and whether it was applied.
    pending: VecDeque<(u64, bool)>,
    /// The offset below which everything was applied, had `pending` been empty.
    applied: u64,
    loading: Option<u64>,
    /// Has had its first full sync since the node follows.
    settled: bool,
    outgoing: Vec<u8>,
    last_drop: String,
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, target: None, sessions: 0, closing: Vec::new() }
    }

    /// Follows another primary, or nobody.
    pub(super) fn follow(&mut self, target: Option<(String, u16)>, _now: Ms) {
        if let Some(old) = self.target.take() {
            self.closing.extend(old.links.iter().filter_map(|run| run.socket));
            self.closing.extend(old.search.and_then(|search| search.socket));
        }
        self.shared.following.store(target.is_some(), Relaxed);
        *lock(&self.shared.follow) =
            target.clone().map(|(host, port)| FollowView { host, port, links: Vec::new() });
        if target.is_none() {
            self.shared.loading.store(false, Relaxed);
        }
        self.target = target.map(|(host, port)| Target {
            ip: host.parse().ok(),
            host,
            port,
            resolving: None,
            search: None,
            again_at: 0,
            last_trouble: String::new(),
            links: Vec::new(),
            placement: Placement::default(),
            base: port,
        });
    }

    /// Must the core not sleep?
    pub(super) fn has_work(&self) -> bool {
        !self.closing.is_empty()
    }

    pub(super) fn on_connected(&mut self, state: &mut State, socket: SocketId, connected: bool) {
        let Some(target) = &mut self.target else { return };
        if let Some(search) = target.search.as_mut().filter(|search| search.socket == Some(socket)) {
            if connected {
                search.discovery.on_connected();
            } else {
                self.closing.extend(search.socket.take());
                search.discovery.on_refused();
            }
        } else if let Some(run) = target.links.iter_mut().find(|run| run.socket == Some(socket)) {
            if connected {
                run.receiving = true;
                run.link.on_connected(state.now);
            } else {
                self.closing.extend(run.socket.take());
                run.link.on_closed(state.now);
            }
        }
    }

    pub(super) fn on_closed(&mut self, state: &mut State, socket: SocketId) {
        let Some(target) = &mut self.target else { return };
        if let Some(search) = target.search.as_mut().filter(|search| search.socket == Some(socket)) {
            self.closing.extend(search.socket.take());
            search.discovery.on_closed();
        } else if let Some(run) = target.links.iter_mut().find(|run| run.socket == Some(socket)) {
            // What came before the end still counts.
            run.pump(state, target.placement, target.links_len);
            self.closing.extend(run.socket.take());
            run.link.on_closed(state.now);
        }
    }

    pub(super) fn on_data(&mut self, state: &mut State, socket: SocketId, bytes: &[u8]) {
        let Some(target) = &mut self.target else { return };
        if let Some(search) = target.search.as_mut().filter(|search| search.socket == Some(socket)) {
            search.discovery.on_bytes(bytes);
        } else if let Some(run) = target.links.iter_mut().find(|run| run.socket == Some(socket)) {
            if run.rest.is_empty() && !run.paused {
                let used = run.take(state, bytes);
                run.rest.extend_from_slice(&bytes[used..]);
            } else {
                run.rest.extend_from_slice(bytes);
                run.pump(state);
            }
        }
    }
}
