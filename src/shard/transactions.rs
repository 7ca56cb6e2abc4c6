//! MULTI, EXEC and WATCH.

use super::{
    conn::{Conn, Hold},
    homes::{Listener, Place, Want},
    loans::Job,
    message::{After, Message},
    oddities::{Went, odd},
    requests::{Call, Work},
    state::State,
};
use crate::{
    cmd::{Keys, Run, Spec, flag},
    resp::{Args, Error, Out, OwnedArgs},
};

const EXEC_ABORT: Error =
    Error::fixed("EXECABORT Transaction discarded because of previous errors.");

/// The reply to EXEC if nothing of it is run, for this reason.
pub(super) fn exec_aborted(why: &Error) -> Error {
    let why = why.as_str().trim_start_matches("ERR ");
    Error::text(format!("EXECABORT Transaction discarded because of: {why}"))
}

impl State {
    pub(super) fn runs_in_multi(&self, spec: &Spec) -> bool {
        matches!(
            spec.name,
            "EXEC" | "DISCARD" | "MULTI" | "WATCH" | "RESET" | "QUIT"
        )
    }

    pub(super) fn queue(&mut self, conn: &mut Conn, spec: &'static Spec, args: Args<'_>) {
        let full = match spec.subcommand(args) {
            Ok(full) => full.unwrap_or_default(),
            Err(error) => return self.refuse(conn, Some(spec), &error),
        };
        // The answers of other cores come too late for EXEC.
        let asks_all = matches!(
            full,
            "client|kill" | "client|list" | "client|pause" | "client|unblock" | "client|unpause"
        ) || (full == "client|tracking" && args.len() > 4);
        if spec.flags & flag::NO_MULTI != 0 || asks_all {
            return self.refuse(
                conn,
                Some(spec),
                &Error::fixed("ERR Command not allowed inside a transaction"),
            );
        }
        if let Some(multi) = &mut conn.multi {
            multi.push(spec, OwnedArgs::copy(args.iter()));
            self.cut_if_asks_too_much(conn);
            if conn.closing {
                return;
            }
        }
        conn.out.simple("QUEUED");
    }

    /// EXEC.
    pub(super) fn exec(&mut self, conn: &mut Conn) {
        let Some(multi) = &conn.multi else {
            return conn.out.error(&Error::fixed("ERR EXEC without MULTI"));
        };
        if multi.failed {
            self.discard(conn);
            return conn.out.error(&EXEC_ABORT);
        }
        if conn.tainted {
            self.discard(conn);
            return conn.out.null_array();
        }
        let commands = multi
            .queued
            .iter()
            .map(|(spec, args)| (*spec, args.as_args()));
        let need = self.homes.shards_of(commands);
        // A watched key may be on another core, whose word that it changed may be on its way: holding
        // its shard makes sure that the word has come.
        let mut need = need;
        need.extend(
            conn.watching
                .iter()
                .map(|(_, key)| self.homes.shards.shard_of(key)),
        );
        need.sort_unstable();
        need.dedup();
        match self.homes.place_of_all(need) {
            Place::Collect(need) => {
                let slot = conn.open_slot();
                conn.hold = Hold::Loan {
                    requests: 1,
                    follow: None,
                };
                // In a loan of its own: a change that an earlier job made to a watched key of a borrowed
                // shard becomes known when the shard is home.
                self.collect_open(
                    need,
                    Job::Exec {
                        conn: conn.socket,
                        slot,
                    },
                );
            }
            _ => {
                let fresh = Out::new(conn.out.proto);
                let mut out = std::mem::replace(&mut conn.out, fresh);
                self.exec_queued(conn, &mut out, &mut Vec::new());
                conn.out = out;
            }
        }
    }

    /// Runs the queued commands; all their shards are here.
    pub(super) fn exec_queued(
        &mut self,
        conn: &mut Conn,
        out: &mut Out,
        away: &mut Vec<(usize, After)>,
    ) {
        let tainted = self.has_expired(&conn.watching, away) || conn.tainted;
        let multi = conn.multi.take().unwrap_or_default();
        self.unwatch(conn);
        if tainted {
            return out.null_array();
        }
        // The disk may have failed while the shards were collected.
        let writes = || multi.queued.iter().any(|(spec, _)| spec.is_write());
        if self.odd & odd::BROKEN != 0 && writes() {
            let why = self.refusal();
            return out.error(&exec_aborted(&why));
        }
        out.array(multi.queued.len());
        self.runs_queue = true;
        for (spec, args) in multi.queued {
            let args = args.as_args();
            let why_not = match spec.keys {
                Keys::Libraries => self.gate_of_scripts(spec, args),
                _ => None,
            };
            let barred = match conn.unlimited {
                true => None,
                false => self.forbidden_in_exec(conn, spec, args),
            };
            let barred = barred.or_else(|| self.gate(conn, spec)).or(why_not);
            if let Some(error) = barred.or_else(|| self.is_foreign(spec, args)) {
                self.count_refused(Some(spec), &error);
                out.error(&error);
                continue;
            }
            self.count_call(spec);
            let start = self.clock(spec);
            let before = out.as_bytes().len();
            let is_script = matches!(spec.run, Run::Script);
            if is_script {
                self.show_queued(conn, args);
            }
            match (spec.run, Work::of(spec)) {
                (_, Some(run))
                    if !matches!(spec.keys, Keys::None) || matches!(run, Work::Store(_)) =>
                {
                    self.homes.shards.narrow(self.narrowed(conn, spec));
                    self.caller = self.script_caller(conn, run);
                    self.run_here(spec, run, &args, Call::of(conn.db, false), out, Some(away));
                    self.caller = None;
                    self.homes.shards.narrow(None);
                }
                (Run::Session(verb), _) => {
                    // The reply goes where EXEC's replies go.
                    let mut outer = std::mem::replace(&mut conn.out, Out::new(out.proto));
                    self.session_in_exec(conn, spec, verb, args);
                    std::mem::swap(&mut outer, &mut conn.out);
                    // HELLO may have changed it.
                    out.proto = outer.proto;
                    out.append(&mut outer);
                }
                _ => {
                    let outer = std::mem::replace(&mut conn.out, Out::new(out.proto));
                    self.keep_script(conn, spec, args);
                    out.append(&mut std::mem::replace(&mut conn.out, outer));
                }
            }
            if !is_script {
                self.show_queued(conn, args);
            }
            if let Some(start) = start {
                self.note_time(Some(conn), spec, args, start);
            }
            if let Run::Session(_) = spec.run {
                self.count_reply(spec, &out.as_bytes()[before..]);
            }
        }
        self.runs_queue = false;
        conn.set_proto(out.proto);
        if let Some(tracking) = &mut conn.tracking {
            tracking.caching = false;
        }
    }

    /// Has one of some keys, whose shards are here, come due without anybody having looked? Tells who wants
    /// to know.
    fn has_expired(
        &mut self,
        watched: &[(usize, Vec<u8>)],
        away: &mut Vec<(usize, After)>,
    ) -> bool {
        let mut heard = Vec::new();
        let mut has = false;
        for (db, key) in watched {
            let shard = self.homes.shards.shard_of(key);
            let keys = self.homes.shards.keyspace(shard, *db);
            keys.note_expired(true);
            keys.meta(key, self.now);
            let expired = !keys.take_expired().is_empty();
            keys.note_expired(false);
            has |= expired;
            if !expired {
                continue;
            }
            if self.homes.owner(shard) == self.me {
                self.key_went(shard, *db, key, Went::Expired, &mut heard);
            } else {
                away.push((shard, After::Changed(*db, key.clone(), None)));
                self.tell_event(Went::Expired.event(*db, key));
            }
        }
        self.note_heard(heard);
        has
    }

    pub(super) fn discard(&mut self, conn: &mut Conn) {
        conn.multi = None;
        self.unwatch(conn);
    }

    /// WATCH.
    pub(super) fn watch(&mut self, conn: &mut Conn, args: Args<'_>) {
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: Want::Taint(conn.watch_round),
        };
        let question = self.gathers.next_question();
        let mut asked = 0;
        for key in args.rest(1).iter() {
            conn.watching.push((conn.db, key.to_vec()));
            let shard = self.homes.shards.shard_of(key);
            let owner = self.homes.owner(shard);
            if owner == self.me {
                self.homes.listen(shard, conn.db, key, listener, self.now);
            } else {
                let message = Message::Listen(shard, conn.db, key.to_vec(), listener, question);
                self.mesh.send(owner, message);
                asked += 1;
            }
        }
        // Whoever has seen the reply may rely on hearing of what anybody does from then on, and what
        // others ask of the owner may overtake this.
        self.gather_ok(conn, question, asked);
    }

    pub(super) fn unwatch(&mut self, conn: &mut Conn) {
        conn.tainted = false;
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: Want::Taint(conn.watch_round),
        };
        conn.watch_round += 1;
        for (db, key) in std::mem::take(&mut conn.watching) {
            let shard = self.homes.shards.shard_of(&key);
            let owner = self.homes.owner(shard);
            if owner == self.me {
                // Nobody waits for it: a listener of this core is never waiting.
                let _ = self.homes.unlisten(shard, db, &key, listener);
            } else {
                self.mesh
                    .send(owner, Message::Unlisten(shard, db, key, listener));
            }
        }
    }
}
