//! WAIT: how many replicas have what a client wrote.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use uring::SocketId;

use super::{
    conn::{Blocked, Conn, GiveUp, Hold},
    message::Message,
    shared::lock,
    state::State,
};
use crate::{
    base::parse_i64,
    cmd::Spec,
    resp::{Args, Error, Out, OwnedArgs},
};

/// A client that waits for replicas.
#[derive(Debug)]
pub(super) struct Waiter {
    conn: SocketId,
    replicas: i64,
    /// What each shard had when it began.
    ends: Vec<u64>,
}

impl State {
    /// WAIT. What all clients of this node had written by then is waited for.
    pub(super) fn wait_for_replicas(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        let Some(replicas) = parse_i64(args.at(1)) else {
            return conn.out.error(&Error::NOT_INTEGER);
        };
        let Some(timeout) = parse_i64(args.at(2)) else {
            let text = "ERR timeout is not an integer or out of range";
            return conn.out.error(&Error::fixed(text));
        };
        if timeout < 0 {
            return conn.out.error(&Error::TIMEOUT_NEGATIVE);
        }
        if self.shared.following.load(Relaxed) {
            return conn.out.error(&Error::fixed(
                "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 \
                 if a replica is configured to be writable (which is not the default) writes to replicas \
                 are just local and are not propagated.",
            ));
        }
        self.publish_ends();
        let marks = self.shared.durable.shards.iter();
        let ends: Vec<u64> = marks.map(|marks| marks.next.load(SeqCst)).collect();
        let count = self.count_replicas(&ends);
        if count >= replicas || conn.ended {
            return conn.out.int(count);
        }
        let slot = conn.open_slot();
        let deadline = (timeout > 0).then(|| self.now + timeout as u64);
        let blocked = Blocked {
            spec,
            args: OwnedArgs::copy(args.iter()),
            db: conn.db,
            deadline,
            on_timeout: GiveUp::Count(count),
            slot,
            trying: false,
            again: false,
        };
        self.hold_blocked(conn, blocked);
        self.shared.waiters.fetch_add(1, SeqCst);
        self.waiters.push(Waiter {
            conn: conn.socket,
            replicas,
            ends,
        });
        self.asks_acks = true;
        for core in (0..self.mesh.cores()).filter(|core| *core != self.me) {
            self.mesh.send(core, Message::AskAcks);
        }
    }

    /// Replicas that have everything below these ends, one for each shard.
    fn count_replicas(&self, ends: &[u64]) -> i64 {
        let shards = self.shared.replicas.iter().zip(ends);
        let counts = shards.map(|(replicas, end)| {
            let links = lock(&replicas.links);
            links.iter().filter(|link| link.acked >= *end).count()
        });
        counts.min().unwrap_or(0) as i64
    }

    /// Replicas have said how far they are.
    pub(super) fn look_after_waiters(&mut self) {
        for mut waiter in std::mem::take(&mut self.waiters) {
            let count = self.count_replicas(&waiter.ends);
            let Some(mut conn) = self.take_conn(waiter.conn) else {
                self.shared.waiters.fetch_sub(1, SeqCst);
                continue;
            };
            let is_over = match &mut conn.hold {
                Hold::Blocked(blocked) if matches!(blocked.on_timeout, GiveUp::Count(_)) => {
                    blocked.on_timeout = GiveUp::Count(count);
                    count >= waiter.replicas
                }
                // It gave up.
                _ => {
                    waiter.replicas = i64::MIN;
                    false
                }
            };
            if is_over {
                let mut out = Out::new(conn.out.proto);
                out.int(count);
                self.unblock(&mut conn, out);
            }
            self.put_conn(conn);
            if is_over || waiter.replicas == i64::MIN {
                self.shared.waiters.fetch_sub(1, SeqCst);
            } else {
                self.waiters.push(waiter);
            }
        }
    }

    /// Tells how far the streams of this core's shards are, before anybody hears of what is in them.
    pub(super) fn publish_ends(&mut self) {
        for shard in self.homes.own() {
            let end = self.homes.stream_end(shard);
            self.shared.durable.shards[shard].next.store(end, SeqCst);
        }
    }
}
