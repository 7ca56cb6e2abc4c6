//! Shards on their way: commands that need several of them, errands for other cores, and the messages
//! of both.

use std::collections::{HashMap, VecDeque};

use uring::SocketId;

use super::{
    blocking::Hear,
    conn::{Conn, Hold},
    evict::OUT_OF_MEMORY,
    homes::{Listener, Want},
    load::Load,
    message::{After, Answer, Asker, ClientAt, CoreId, Errand, Message, Topics, Waiting},
    oddities::Acting,
    requests::{Call, Work},
    state::State,
};
use crate::{
    cmd::{Keys, Shard, Spec, flag},
    resp::{Args, Out, OwnedArgs},
};

/// What runs once all shards of a collection are here.
pub(super) enum Job {
    /// A request of a connection; the reply goes to the slot.
    Request {
        conn: SocketId,
        slot: u64,
        spec: &'static Spec,
        run: Work,
        args: OwnedArgs,
        db: usize,
        acting: Option<Acting>,
    },
    /// EXEC of a connection.
    Exec { conn: SocketId, slot: u64 },
    /// Another try of a blocked command; whose round waits for it.
    Retry {
        conn: SocketId,
        slot: u64,
        round: Option<(CoreId, u64)>,
    },
    /// A frame of the primary that this node follows.
    Frame {
        asker: Asker,
        run: Work,
        spec: &'static Spec,
        args: OwnedArgs,
    },
    /// The data set is being replaced by a snapshot, over many turns.
    Load(Box<Load>),
    /// Nothing: the shards are held for a load that is under way.
    Idle,
}

/// Shards on their way to this core, for one job.
pub(super) struct Collection {
    pub job: Job,
    pub need: Vec<usize>,
    #[expect(
        clippy::vec_box,
        reason = "shards arrive in their boxes and leave in them"
    )]
    pub got: Vec<Box<Shard>>,
}

/// The collections of this core.
#[derive(Default)]
pub(super) struct Loans {
    /// Those that still wait for a shard, by number.
    open: HashMap<u64, Collection>,
    next: u64,
    /// Collections that are complete. They run one after the other, never one inside another: a queue of
    /// them may be longer than the stack is deep.
    pub ready: VecDeque<Collection>,
    /// A load that owns all shards, worked on once per turn.
    pub load: Option<(Collection, Box<Load>)>,
}

impl State {
    /// Gathers shards for a job; runs it as soon as all are here.
    pub(super) fn collect(&mut self, need: Vec<usize>, job: Job) {
        let id = self.loans.next;
        self.loans.next += 1;
        self.loans.open.insert(
            id,
            Collection {
                job,
                need,
                got: Vec::new(),
            },
        );
        self.collect_more(id);
    }

    pub(super) fn collect_for(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        run: Work,
        args: Args<'_>,
        need: Vec<usize>,
    ) {
        let slot = conn.open_slot();
        conn.hold = Hold::Loan;
        let args = OwnedArgs::copy(args.iter());
        self.collect(
            need,
            Job::Request {
                conn: conn.socket,
                slot,
                spec,
                run,
                args,
                db: conn.db,
                acting: self.acting,
            },
        );
    }

    fn collect_more(&mut self, id: u64) {
        loop {
            let Some(collection) = self.loans.open.get_mut(&id) else {
                return;
            };
            let Some(shard) = collection.need.get(collection.got.len()).copied() else {
                break;
            };
            let owner = self.homes.owner(shard);
            if owner != self.me {
                return self.mesh.send(owner, Message::Borrow(shard, id));
            }
            match self.homes.lend(shard) {
                Some(lent) => collection.got.push(lent),
                None => return self.homes.wait_for(shard, Waiting::Loan(self.me, id)),
            }
        }
        if let Some(collection) = self.loans.open.remove(&id) {
            self.loans.ready.push_back(collection);
        }
    }

    fn on_lent(&mut self, id: u64, lent: Box<Shard>) {
        if let Some(collection) = self.loans.open.get_mut(&id) {
            collection.got.push(lent);
            self.collect_more(id);
        }
    }

    /// All shards of a job are in hand: runs it and gives them back.
    pub(super) fn run_collected(&mut self, collection: Collection) {
        let Collection { job, need, got } = collection;
        if let Job::Load(load) = job {
            self.loans.load = Some((
                Collection {
                    job: Job::Idle,
                    need,
                    got,
                },
                load,
            ));
            return;
        }
        for (shard, lent) in need.iter().zip(got) {
            self.homes.shards.put(*shard, lent);
        }
        let mut away = Vec::new();
        let mut tried = None;
        match job {
            Job::Request {
                conn: socket,
                slot,
                spec,
                run,
                args,
                db,
                acting,
            } => {
                self.acting = acting;
                let conn = self.take_conn(socket);
                let proto = conn.as_ref().map(|conn| conn.out.proto).unwrap_or_default();
                let may_block = conn.as_ref().is_some_and(|conn| !conn.ended);
                let mut out = Out::new(proto);
                let start = self.clock(spec);
                // Whoever works on all keys with fewer shards in hand came to the port of one of them.
                if let (Keys::All, [shard]) = (spec.keys, &need[..]) {
                    self.homes.shards.narrow(Some(*shard));
                }
                // A request whose client has gone is still run: it was received whole.
                let block = self.run_here(
                    spec,
                    run,
                    &args.as_args(),
                    Call::of(db, may_block),
                    &mut out,
                    Some(&mut away),
                );
                self.homes.shards.narrow(None);
                if let Some(start) = start {
                    self.note_time(conn.as_deref(), spec, args.as_args(), start);
                }
                if let Some(mut conn) = conn {
                    match block {
                        Some(block) => {
                            conn.hold = Hold::Free;
                            self.start_block(&mut conn, spec, args.as_args(), block, Some(slot));
                            self.listen_away(&conn, &mut away);
                        }
                        None => {
                            conn.fill_slot(slot, out);
                            self.wake(&mut conn);
                        }
                    }
                    // In its place before the shards go back: what waited for them may be what it waits
                    // for.
                    self.put_conn(conn);
                }
            }
            Job::Exec { conn: socket, slot } => {
                if let Some(mut conn) = self.take_conn(socket) {
                    self.acting = self.acting_of(&conn);
                    let mut out = Out::new(conn.out.proto);
                    self.exec_queued(&mut conn, &mut out, &mut away);
                    self.show_queued(&conn, OwnedArgs::copy([b"EXEC".as_slice()]).as_args());
                    conn.fill_slot(slot, out);
                    self.wake(&mut conn);
                    self.put_conn(conn);
                }
            }
            Job::Retry {
                conn: socket,
                slot,
                round,
            } => {
                tried = round;
                if let Some(mut conn) = self.take_conn(socket) {
                    self.acting = self.acting_of(&conn);
                    if let Some(reply) = self.retry_collected(&mut conn, slot, &mut away) {
                        self.unblock(&mut conn, reply);
                    } else if let Hold::Blocked(blocked) = &mut conn.hold
                        && blocked.slot == slot
                        && std::mem::take(&mut blocked.again)
                    {
                        self.waits.heard.push_back(Hear::One(Listener {
                            core: self.me,
                            conn: socket,
                            want: Want::Retry,
                        }));
                    }
                    self.put_conn(conn);
                }
            }
            Job::Frame {
                asker,
                run,
                spec,
                args,
            } => {
                let mut out = Out::default();
                self.run_here(
                    spec,
                    run,
                    &args.as_args(),
                    Call::FRAME,
                    &mut out,
                    Some(&mut away),
                );
                self.applied.push(asker);
            }
            Job::Load(_) | Job::Idle => {}
        }
        self.acting = None;
        self.give_back(&need, away);
        // Behind the shards in the mailbox: the next client of the round finds them at home.
        self.end_try(tried);
    }

    /// Returns collected shards to where they live, each with what its owner has to do. All
    /// connections are in their places.
    pub(super) fn give_back(&mut self, need: &[usize], mut away: Vec<(usize, After)>) {
        for shard in need {
            let Some(lent) = self.homes.shards.take(*shard) else {
                continue;
            };
            let owner = self.homes.owner(*shard);
            if owner == self.me {
                self.homes.come_home(*shard, lent);
            } else {
                let mine;
                (mine, away) = away.into_iter().partition(|(at, _)| at == shard);
                let after = mine.into_iter().map(|(_, after)| after).collect();
                self.mesh
                    .send(owner, Message::Returned(*shard, lent, after));
            }
        }
        // Before anything else can use the shards: a transaction that waits for them must know first
        // that a key it watches has changed, and who blocks is served before who comes later.
        self.hear_all();
        for shard in need {
            if self.homes.owner(*shard) == self.me {
                self.drain(*shard);
            }
        }
    }

    /// Runs what waited for a shard of ours, until it is lent again.
    pub(super) fn drain(&mut self, shard: usize) {
        while let Some(waiting) = self.homes.next_waiting(shard) {
            match waiting {
                Waiting::Errand(errand) => self.run_errand(*errand),
                Waiting::Loan(to, id) => self.lend(shard, to, id),
                Waiting::Listen(db, key, listener, confirm) => {
                    self.homes.listen(shard, db, &key, listener, self.now);
                    if let Some((to, question)) = confirm {
                        self.confirm(to, question);
                    }
                }
            }
        }
    }

    /// Lends a shard of ours, or notes that it is to be lent once it is back.
    fn lend(&mut self, shard: usize, to: CoreId, id: u64) {
        match self.homes.lend(shard) {
            None => self.homes.wait_for(shard, Waiting::Loan(to, id)),
            Some(lent) if to == self.me => self.on_lent(id, lent),
            Some(lent) => self.mesh.send(to, Message::Lent(shard, id, lent)),
        }
    }

    pub(super) fn errand(
        &self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
        shard: usize,
    ) -> Box<Errand> {
        Box::new(Errand {
            from: self.me,
            asker: Asker::Conn(conn.socket, conn.open_slot()),
            shard,
            db: conn.db,
            proto: conn.out.proto,
            spec,
            args: OwnedArgs::keep(args, self.arrived.as_ref()),
            remembers: self.acting.is_some_and(|acting| acting.remembers),
        })
    }

    /// Runs a command for another core (or for our own, which had to wait), and sends the reply.
    fn run_errand(&mut self, errand: Errand) {
        if !self.homes.shards.has(errand.shard) {
            let shard = errand.shard;
            return self
                .homes
                .wait_for(shard, Waiting::Errand(Box::new(errand)));
        }
        // It may come from a client that has just set a parameter on its core.
        self.heed_tunables();
        let mut out = Out::new(errand.proto);
        let Some(run) = Work::of(errand.spec) else {
            return;
        };
        match errand.asker {
            Asker::Conn(conn, _) => {
                let client = ClientAt {
                    core: errand.from,
                    conn,
                };
                self.act_for(client, errand.remembers);
                let start = self.clock(errand.spec);
                let args = errand.args.as_args();
                let call = Call::of(errand.db, false);
                let grows = errand.spec.flags & flag::DENY_OOM != 0;
                if self.memory.limit > 0 && grows && !self.make_room() {
                    self.count_refused(Some(errand.spec), &OUT_OF_MEMORY);
                    out.error(&OUT_OF_MEMORY);
                } else {
                    self.arrived = errand.args.shared().cloned();
                    self.run_here(errand.spec, run, &args, call, &mut out, None);
                    self.arrived = None;
                }
                if let Some(start) = start {
                    self.note_time(None, errand.spec, args, start);
                }
                self.acting = None;
            }
            Asker::Link { .. } => {
                self.run_here(
                    errand.spec,
                    run,
                    &errand.args.as_args(),
                    Call::FRAME,
                    &mut out,
                    None,
                );
            }
        }
        self.hear_all();
        self.answer(errand.from, errand.asker, out);
    }

    fn answer(&mut self, to: CoreId, asker: Asker, out: Out) {
        if to == self.me {
            self.on_ran(asker, out);
        } else {
            self.mesh.send(to, Message::Ran(asker, Box::new(out)));
        }
    }

    fn on_ran(&mut self, asker: Asker, reply: Out) {
        match asker {
            Asker::Conn(socket, slot) => {
                if let Some(mut conn) = self.take_conn(socket) {
                    conn.fill_slot(slot, reply);
                    self.relieve(&mut conn);
                    self.list(&mut conn);
                    self.put_conn(conn);
                }
            }
            Asker::Link { .. } => self.applied.push(asker),
        }
    }

    /// Tells another core that what it asked for is done.
    pub(super) fn confirm(&mut self, to: CoreId, question: u64) {
        self.mesh
            .send(to, Message::Answer(question, Answer::default()));
    }

    /// Handles a message of another core.
    pub(super) fn on_message(&mut self, from: CoreId, message: Message) {
        match message {
            Message::Run(errand) => self.run_errand(*errand),
            Message::Ran(asker, reply) => self.on_ran(asker, *reply),
            Message::Borrow(shard, id) => self.lend(shard, from, id),
            Message::Lent(_, id, lent) => self.on_lent(id, lent),
            Message::Returned(shard, lent, after) => {
                self.homes.come_home(shard, lent);
                let mut heard = Vec::new();
                for after in after {
                    match after {
                        After::Changed(db, key, by) => {
                            self.homes.changed(shard, db, &key, &mut heard);
                            self.invalidate(&key, by);
                        }
                        After::Remember(key, client) => self.remember_key(&key, client),
                        After::AllChanged(sweep) => {
                            self.homes.all_changed(shard, sweep, &mut heard)
                        }
                        After::Listen(db, key, listener) => {
                            self.homes.listen(shard, db, &key, listener, self.now);
                        }
                    }
                }
                self.note_heard(heard);
                self.freeing = true;
                // Before the shard goes on to who waits for it: see `give_back`.
                self.hear_all();
                self.drain(shard);
            }
            Message::Listen(shard, db, key, listener, question) => {
                if self.homes.shards.has(shard) {
                    self.homes.listen(shard, db, &key, listener, self.now);
                    self.confirm(from, question);
                } else {
                    let confirm = Some((from, question));
                    self.homes
                        .wait_for(shard, Waiting::Listen(db, key, listener, confirm));
                }
            }
            Message::Unlisten(shard, db, key, listener) => {
                if let Some((to, question)) = self.homes.unlisten(shard, db, &key, listener) {
                    self.confirm(to, question);
                }
            }
            Message::Heard(listener, round) => {
                self.hear_here(listener, round.map(|id| (from, id)));
                self.hear_all();
            }
            Message::Tried(round) => {
                self.go_round(round);
                self.hear_all();
            }
            Message::Subscribed {
                kind,
                channel,
                count,
            } => self.subs.note(from, kind, channel, count),
            Message::Published(channel, message) => {
                self.deliver(None, Topics::Channels, &channel, &message);
            }
            Message::ShardPublished(channel, message) => {
                self.deliver(None, Topics::Shards, &channel, &message);
            }
            Message::Monitored(on) => self.on_monitored(from, on),
            Message::Line(line) => self.lines.push(line),
            Message::Ask(gather, question) => {
                let answer = self.answer_question(&question, None);
                self.mesh.send(from, Message::Answer(gather, answer));
            }
            Message::Answer(gather, answer) => self.on_answer(gather, answer),
            Message::News(news) => self.on_news(*news),
            Message::Redirected(source, target, what) => {
                self.deliver_redirected(source, target, &what, &mut None);
            }
            Message::RedirectBroken(conn) => self.redirect_broken(conn, &mut None),
            Message::Flushed => self.on_flushed(),
            Message::Prefixes {
                conn,
                prefixes,
                no_loop,
                on,
            } => {
                let client = ClientAt { core: from, conn };
                self.on_prefixes(client, &prefixes, no_loop, on);
            }
            Message::Follow(_) => {}
        }
        self.run_ready();
    }
}
