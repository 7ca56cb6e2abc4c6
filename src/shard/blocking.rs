//! Who waits for a key: blocked commands, their time-outs, and the order in which they are served.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{
    conn::{Blocked, Conn, GiveUp, Hold},
    failover::UNANSWERED,
    homes::{Hear, KeyName, Listener, Place, Want},
    loans::Job,
    message::{After, CoreId, Message},
    requests::{Call, Work},
    state::State,
    wait,
};
use crate::{
    base::Ms,
    cmd::{self, Block, Spec},
    resp::{Args, Error, Out, OwnedArgs},
};

const DEMOTED: Error = Error::fixed(
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
);
const UNBLOCKED: Error = Error::fixed("UNBLOCKED client unblocked via CLIENT UNBLOCK");

/// What waits for keys, and who is yet to hear of changed ones.
#[derive(Default)]
pub(super) struct Waits {
    /// When blocked connections give up, by the index of their socket.
    pub deadlines: BTreeSet<(Ms, u32)>,
    pub heard: VecDeque<Hear>,
    /// Rounds that wait for a client of another core to try: shard and key.
    rounds: HashMap<u64, (usize, KeyName)>,
    next_round: u64,
}

impl State {
    /// A command found nothing to do: the connection waits for one of its keys.
    pub(super) fn start_block(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
        block: Block,
        slot: Option<u64>,
    ) -> bool {
        let args = block.again.unwrap_or_else(|| OwnedArgs::copy(args.iter()));
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: wants(spec),
        };
        let owned = args.as_args();
        spec.keys.for_each(owned, |at| {
            let shard = self.homes.shards.shard_of(owned.at(at));
            if self.homes.owner(shard) == self.me {
                self.homes
                    .listen(shard, conn.db, owned.at(at), listener, self.now);
            }
        });
        let slot = slot.unwrap_or_else(|| conn.open_slot());
        self.hold_blocked(
            conn,
            Blocked {
                spec,
                args,
                db: conn.db,
                deadline: block.deadline,
                on_timeout: GiveUp::Null(block.on_timeout),
                slot,
                trying: false,
                again: false,
            },
        );
        true
    }

    pub(super) fn hold_blocked(&mut self, conn: &mut Conn, mut blocked: Blocked) {
        if let Some((slot, deadline)) = conn.give_up_at.take()
            && slot == blocked.slot
        {
            blocked.deadline = deadline;
        }
        if let Some(deadline) = blocked.deadline {
            self.waits.deadlines.insert((deadline, conn.socket.index));
        }
        self.stats.blocked += 1;
        conn.hold = Hold::Blocked(Box::new(blocked));
    }

    /// Has the owners of a blocked command's borrowed shards register it.
    pub(super) fn listen_away(&mut self, conn: &Conn, away: &mut Vec<(usize, After)>) {
        let Hold::Blocked(blocked) = &conn.hold else {
            return;
        };
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: wants(blocked.spec),
        };
        let args = blocked.args.as_args();
        blocked.spec.keys.for_each(args, |at| {
            let shard = self.homes.shards.shard_of(args.at(at));
            if self.homes.owner(shard) != self.me {
                away.push((
                    shard,
                    After::Listen(blocked.db, args.at(at).to_vec(), listener),
                ));
            }
        });
    }

    /// Forgets that a connection is blocked; what it was blocked on.
    pub(super) fn leave_block(&mut self, conn: &mut Conn) -> Option<Box<Blocked>> {
        let Hold::Blocked(_) = conn.hold else {
            return None;
        };
        let Hold::Blocked(blocked) = std::mem::take(&mut conn.hold) else {
            return None;
        };
        if let Some(deadline) = blocked.deadline {
            self.waits.deadlines.remove(&(deadline, conn.socket.index));
        }
        self.stats.blocked -= 1;
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: wants(blocked.spec),
        };
        let args = blocked.args.as_args();
        blocked.spec.keys.for_each(args, |at| {
            let shard = self.homes.shards.shard_of(args.at(at));
            let owner = self.homes.owner(shard);
            if owner == self.me {
                let _ = self
                    .homes
                    .unlisten(shard, blocked.db, args.at(at), listener);
            } else {
                self.mesh.send(
                    owner,
                    Message::Unlisten(shard, blocked.db, args.at(at).to_vec(), listener),
                );
            }
        });
        Some(blocked)
    }

    /// Tries a blocked command again; false if that goes on until its shards have been collected.
    fn retry(&mut self, conn: &mut Conn, round: Option<(CoreId, u64)>) -> bool {
        let Hold::Blocked(blocked) = &mut conn.hold else {
            return true;
        };
        if blocked.trying {
            blocked.again = true;
            return true;
        }
        let (spec, db) = (blocked.spec, blocked.db);
        let Some(run) = Work::of(spec) else {
            return true;
        };
        let need = self.homes.shards_of([(spec, blocked.args.as_args())]);
        if let Place::Collect(need) = self.homes.place_of_all(need) {
            blocked.trying = true;
            let (conn, slot) = (conn.socket, blocked.slot);
            self.collect(need, Job::Retry { conn, slot, round });
            return false;
        }
        let args = blocked.args.clone();
        let mut out = Out::new(conn.out.proto);
        let call = Call::of(db, true);
        let before = self.acting;
        self.acting = self.acting_of(conn);
        let block = self.run_here(spec, run, &args.as_args(), call, &mut out, None);
        self.homes.shards.end_unit();
        self.acting = before;
        if block.is_none() && !stays_blocked(spec, &out) {
            self.unblock(conn, out);
        }
        true
    }

    pub(super) fn retry_collected(
        &mut self,
        conn: &mut Conn,
        slot: u64,
        away: &mut Vec<(usize, After)>,
    ) -> Option<Out> {
        // Its time may have run out meanwhile, and what it is blocked on now needs other shards.
        let Hold::Blocked(blocked) = &mut conn.hold else {
            return None;
        };
        if blocked.slot != slot {
            return None;
        }
        blocked.trying = false;
        let (spec, db, args) = (blocked.spec, blocked.db, blocked.args.clone());
        let run = Work::of(spec)?;
        let mut out = Out::new(conn.out.proto);
        let block = self.run_here(
            spec,
            run,
            &args.as_args(),
            Call::of(db, true),
            &mut out,
            Some(away),
        );
        (block.is_none() && !stays_blocked(spec, &out)).then_some(out)
    }

    /// Answers a blocked command; the connection's next requests may run.
    pub(super) fn unblock(&mut self, conn: &mut Conn, reply: Out) {
        let Some(blocked) = self.leave_block(conn) else {
            return;
        };
        conn.fill_slot(blocked.slot, reply);
        self.wake(conn);
    }

    /// CLIENT UNBLOCK: answers a blocked command as if its time were up, or with an error; false if the
    /// connection does not block.
    pub(super) fn unblock_early(&mut self, conn: &mut Conn, with_error: bool) -> bool {
        if !matches!(conn.hold, Hold::Blocked(_)) {
            return false;
        }
        if with_error {
            let mut out = Out::new(conn.out.proto);
            out.error(&UNBLOCKED);
            self.unblock(conn, out);
        } else {
            self.give_up(conn);
        }
        true
    }

    /// This node is a replica from now on: what clients wait for happens elsewhere. Who waits for replicas is
    /// told how many there were.
    pub(super) fn end_blocks(&mut self) {
        let blocked = self.conns().filter_map(|conn| match &conn.hold {
            Hold::Blocked(blocked) => Some((conn.socket, &blocked.on_timeout)),
            _ => None,
        });
        let blocked: Vec<_> = blocked
            .filter(|(_, on_timeout)| {
                !matches!(on_timeout, GiveUp::Misdirected | GiveUp::Unanswered)
            })
            .map(|(socket, on_timeout)| (socket, matches!(on_timeout, GiveUp::Null(_))))
            .collect();
        for (socket, wants_keys) in blocked {
            let Some(mut conn) = self.take_conn(socket) else {
                continue;
            };
            if wants_keys {
                let mut out = Out::new(conn.out.proto);
                out.error(&DEMOTED);
                self.unblock(&mut conn, out);
                conn.closing = true;
            } else {
                self.give_up(&mut conn);
            }
            self.put_conn(conn);
        }
    }

    pub(super) fn give_up(&mut self, conn: &mut Conn) {
        let Hold::Blocked(blocked) = &conn.hold else {
            return;
        };
        let mut out = Out::new(conn.out.proto);
        match blocked.on_timeout {
            GiveUp::Null(cmd::OnTimeout::Null) => out.null(),
            GiveUp::Null(cmd::OnTimeout::NullArray) => out.null_array(),
            GiveUp::Count(count) => out.int(count),
            GiveUp::Durable(local, replicas) => wait::write_durable(&mut out, local, replicas),
            GiveUp::Misdirected => out.error(&self.misdirected()),
            GiveUp::Unanswered => out.error(&UNANSWERED),
        }
        self.unblock(conn, out);
    }

    /// Notes who is to hear of a change, in the order they came.
    pub(super) fn note_heard(&mut self, heard: Vec<Hear>) {
        self.waits.heard.extend(heard);
    }

    pub(super) fn hear_all(&mut self) {
        while let Some(hear) = self.waits.heard.pop_front() {
            match hear {
                Hear::One(listener) => self.hear(listener),
                Hear::Round(shard, name) => self.go_round(shard, name),
            }
        }
    }

    /// Somebody of another core has tried.
    pub(super) fn go_on_round(&mut self, id: u64) {
        if let Some((shard, name)) = self.waits.rounds.remove(&id) {
            self.go_round(shard, name);
        }
    }

    /// Lets the next clients of a round try. They are served in the order they came: where one is of another
    /// core, those behind it wait until it says that it has tried.
    pub(super) fn go_round(&mut self, shard: usize, name: KeyName) {
        while let Some(next) = self.homes.next_of_round(shard, &name, self.now) {
            let listener = next.listener;
            if listener.core == self.me || next.is_last {
                self.hear(listener);
                continue;
            }
            let id = self.waits.next_round;
            self.waits.next_round += 1;
            self.waits.rounds.insert(id, (shard, name));
            let heard = Message::Heard(listener, Some(id));
            return self.mesh.send(listener.core, heard);
        }
    }

    /// Somebody's key changed: tries the blocked command again, or voids the transaction.
    pub(super) fn hear(&mut self, listener: Listener) {
        if listener.core != self.me {
            return self
                .mesh
                .send(listener.core, Message::Heard(listener, None));
        }
        self.hear_here(listener, None);
    }

    /// The same for a connection of this core. Whoever goes round is told once it has tried.
    pub(super) fn hear_here(&mut self, listener: Listener, round: Option<(CoreId, u64)>) {
        let mut tried = true;
        if let Some(mut conn) = self.take_conn(listener.conn) {
            match listener.want {
                Want::Taint(_) => conn.hear_taint(listener.want),
                Want::Retry { .. } => tried = self.retry(&mut conn, round),
            }
            self.put_conn(conn);
        }
        if tried {
            self.end_try(round);
        }
    }

    pub(super) fn end_try(&mut self, round: Option<(CoreId, u64)>) {
        if let Some((core, id)) = round {
            self.mesh.send(core, Message::Tried(id));
        }
    }
}

/// What a client that blocks wants to hear.
pub(super) fn wants(spec: &Spec) -> Want {
    let reads = matches!(spec.name, "XREAD" | "XREADGROUP");
    Want::Retry { reads }
}

/// A client that waits for elements of a list or sorted set goes on waiting when the key comes to
/// hold something else; one that reads for a group is told.
fn stays_blocked(spec: &Spec, reply: &Out) -> bool {
    reply.as_bytes().starts_with(b"-WRONGTYPE") && spec.name != "XREADGROUP"
}
