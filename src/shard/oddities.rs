//! What few connections ask for and all requests then pay: CLIENT PAUSE and the like. While nobody asks,
//! a request pays one look at `State::odd`.

use super::{
    conn::{Conn, Hold},
    message::{After, ClientAt},
    requests::{Call, Work},
    state::State,
};
use crate::{
    base::Ms,
    cmd::{Block, Keys, Run, Spec, Verb, flag},
    resp::{Args, Error, Out},
};

/// Reasons for which requests take the long way.
pub(super) mod odd {
    /// CLIENT PAUSE.
    pub(crate) const PAUSED: u8 = 1;
    /// A client of this core tracks, or one of any core keeps keys of this core.
    pub(crate) const TRACKED: u8 = 1 << 1;
    /// MONITOR, of a client of any core.
    pub(crate) const MONITORED: u8 = 1 << 2;
}

/// CLIENT PAUSE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Ms,
    /// Requests that only read are held too.
    all: bool,
}

/// For whom a command runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acting {
    pub client: ClientAt,
    /// The client keeps what it reads.
    pub remembers: bool,
}

impl State {
    /// Does what [`carry_out`](State::carry_out) does, and what the oddities of this core ask for.
    #[cold]
    pub(super) fn carry_out_oddly(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: &Args<'_>,
    ) {
        let touches_keys = spec.flags & (flag::READ | flag::WRITE) != 0 || may_write(conn, spec);
        if conn.monitors && touches_keys {
            let error = Error::fixed("ERR Replica can't interact with the keyspace");
            return self.refuse(conn, &error);
        }
        if let Some(pause) = self.pause
            && (pause.all || may_write(conn, spec))
        {
            // It has not begun: it is parsed and judged again when the pause is over.
            self.stats.commands -= 1;
            conn.hold = Hold::Paused;
            return self.clients.paused.push(conn.socket);
        }
        // What a queue keeps is shown when it runs.
        let is_shown =
            self.odd & odd::MONITORED != 0 && (conn.multi.is_none() || self.runs_in_multi(spec));
        let calls_others = matches!(spec.run, Run::Script);
        if is_shown && calls_others {
            self.show(conn, *args);
        }
        self.acting = self.acting_of(conn);
        self.carry_out(conn, spec, args);
        self.acting = None;
        // EXEC that waits for shards is shown behind what it runs.
        let runs_later = spec.run_is(Verb::Exec) && matches!(conn.hold, Hold::Loan);
        if is_shown && !calls_others && !runs_later {
            self.show(conn, *args);
        }
        if let Some(tracking) = &mut conn.tracking
            && conn.multi.is_none()
            && !conn.last.starts_with("client|")
        {
            tracking.caching = false;
        }
    }

    /// A connection of this core as the one for which a command runs.
    pub(super) fn acting_of(&self, conn: &Conn) -> Option<Acting> {
        let client = ClientAt {
            core: self.me,
            conn: conn.socket,
        };
        (self.odd != 0).then(|| Acting {
            client,
            remembers: conn
                .tracking
                .as_ref()
                .is_some_and(|tracking| tracking.remembers()),
        })
    }

    /// The next command runs for a client of any core.
    pub(super) fn act_for(&mut self, client: ClientAt, remembers: bool) {
        if remembers {
            // Its keys are about to be kept, so that this core has to look from now on.
            self.odd |= odd::TRACKED;
        }
        self.acting = (self.odd != 0).then_some(Acting { client, remembers });
    }

    /// Does what [`run_work`](State::run_work) does, and what the oddities of this core ask for.
    #[cold]
    pub(super) fn run_here_oddly(
        &mut self,
        spec: &'static Spec,
        work: Work,
        args: &Args<'_>,
        call: Call,
        out: &mut Out,
        mut away: Option<&mut Vec<(usize, After)>>,
    ) -> Option<Block> {
        let block = self.run_work(spec, work, args, call, out, away.as_deref_mut());
        if spec.flags & flag::READ != 0 && matches!(work, Work::Store(_)) {
            self.remember(spec, *args, away);
        }
        block
    }

    /// Remembers that the client for which a command ran keeps the keys of the command.
    pub(super) fn remember(
        &mut self,
        spec: &'static Spec,
        args: Args<'_>,
        mut away: Option<&mut Vec<(usize, After)>>,
    ) {
        let Some(acting) = self.acting.filter(|acting| acting.remembers) else {
            return;
        };
        spec.keys.for_each(args, |at| {
            let key = args.at(at);
            let shard = self.homes.shards.shard_of(key);
            if self.homes.owner(shard) == self.me {
                self.remember_key(key, acting.client);
            } else if let Some(away) = &mut away {
                away.push((shard, After::Remember(key.to_vec(), acting.client)));
            }
        });
    }

    /// CLIENT PAUSE, as every core hears of it.
    pub(super) fn start_pause(&mut self, until: Ms, all: bool) {
        // A second pause makes the first one longer or stricter, never weaker.
        let before = self.pause;
        self.pause = Some(Pause {
            until: until.max(before.map_or(0, |pause| pause.until)),
            all: all || before.is_some_and(|pause| pause.all),
        });
        self.odd |= odd::PAUSED;
    }

    /// Ends a pause whose time is up.
    pub(super) fn end_pause(&mut self, now: Ms) {
        if self.pause.is_none_or(|pause| pause.until > now) {
            return;
        }
        self.pause = None;
        self.odd &= !odd::PAUSED;
        for socket in std::mem::take(&mut self.clients.paused) {
            if let Some(mut conn) = self.take_conn(socket) {
                if conn.is_paused() {
                    self.wake(&mut conn);
                }
                self.put_conn(conn);
            }
        }
    }
}

/// Could the request change data, here or at a listener?
fn may_write(conn: &Conn, spec: &Spec) -> bool {
    let writes = |spec: &Spec| {
        spec.is_write()
            || matches!(spec.name, "PFCOUNT" | "PUBLISH" | "SPUBLISH")
            || matches!((spec.run, spec.keys), (Run::Script, Keys::All))
                && spec.flags & flag::READ == 0
    };
    match spec.run {
        Run::Session(Verb::Exec) => conn
            .multi
            .iter()
            .flat_map(|multi| &multi.queued)
            .any(|(spec, _)| writes(spec)),
        _ => writes(spec),
    }
}
