//! What few connections ask for and all requests then pay: CLIENT PAUSE and the like. While nobody asks,
//! a request pays one look at `State::odd`.

use super::{
    conn::{Conn, Hold},
    handoff::Stage,
    homes::Hear,
    message::{After, ClientAt, Topics},
    requests::{Call, Work},
    state::State,
};
use crate::{
    base::Ms,
    cmd::{
        Block, Ctx, Keys, Run, Spec, Verb,
        events::{Before, Event, class},
        flag,
    },
    resp::{Args, Error, Out},
    store::DueKeys,
};

/// Reasons for which requests take the long way.
pub(super) mod odd {
    /// CLIENT PAUSE, or a failover.
    pub(crate) const PAUSED: u8 = 1;
    /// A client of this core tracks, or one of any core keeps keys of this core.
    pub(crate) const TRACKED: u8 = 1 << 1;
    /// MONITOR, of a client of any core.
    pub(crate) const MONITORED: u8 = 1 << 2;
    /// Keyspace events are told.
    pub(crate) const EVENTS: u8 = 1 << 3;
    /// Nothing can be written to the journal, or too few replicas are there: writes are refused.
    pub(crate) const BROKEN: u8 = 1 << 4;
    /// The data of the primary is too old to be read.
    pub(crate) const STALE: u8 = 1 << 5;
}

/// CLIENT PAUSE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Ms,
    /// Requests that only read are held too.
    all: bool,
}

/// Why a key went without a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Went {
    /// Its time came.
    Expired,
    /// It had to make room.
    Evicted,
}

impl Went {
    pub(super) fn event(self, db: usize, key: &[u8]) -> Event {
        let (class, name) = match self {
            Went::Expired => (class::EXPIRED, "expired"),
            Went::Evicted => (class::EVICTED, "evicted"),
        };
        Event {
            class,
            name,
            db,
            key: key.to_vec(),
        }
    }
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
        (place, spec): (usize, &'static Spec),
        args: &Args<'_>,
    ) {
        let touches_keys = spec.flags & (flag::READ | flag::WRITE) != 0 || may_write(conn, spec);
        if conn.monitors && touches_keys {
            let error = Error::fixed("ERR Replica can't interact with the keyspace");
            return self.refuse(conn, Some(spec), &error);
        }
        let holds_all = self.is_hushed() || self.pause.is_some_and(|pause| pause.all);
        let holds_writes = self.is_frozen || self.pause.is_some();
        if holds_all || holds_writes && may_write(conn, spec) {
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
        self.carry_out(conn, (place, spec), args);
        self.acting = None;
        // EXEC that waits for shards is shown behind what it runs.
        let runs_later = spec.run_is(Verb::Exec) && matches!(conn.hold, Hold::Loan { .. });
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
        let wants_events = self.odd & odd::EVENTS != 0 && matches!(work, Work::Store(_));
        self.note_expired(spec, *args, call.db);
        let look = wants_events.then(|| {
            let mut ctx = self.ctx(call.db, out);
            Before::look(&mut ctx, spec, *args)
        });
        let (block, changed) = self.run_work(spec, work, args, call, out, away.as_deref_mut());
        let events = look.map(|look| {
            let mut ctx = self.ctx(call.db, out);
            look.events(&mut ctx, spec, *args, changed)
        });
        self.tell_expired(spec, *args, call.db, away.as_deref_mut());
        self.tell_events(events.unwrap_or_default());
        if spec.flags & flag::READ != 0 && matches!(work, Work::Store(_)) {
            self.remember(spec, *args, away);
        }
        block
    }

    /// A command's view of the stores, for looks beside the command itself.
    fn ctx<'a>(&'a mut self, db: usize, out: &'a mut Out) -> Ctx<'a> {
        Ctx {
            shards: &mut self.homes.shards,
            db,
            out,
            now: self.now,
            rng: &mut self.rng,
            dirty: 0,
            may_block: false,
            block: None,
            from_primary: false,
            arrived: None,
        }
    }

    /// The shards that a command may look into, and that are here.
    fn shards_looked_into(&self, spec: &Spec, args: Args<'_>) -> Vec<usize> {
        let mut shards = self.homes.shards_of([(spec, args)]);
        shards.retain(|shard| self.homes.shards.has(*shard));
        shards
    }

    /// From now on notes which keys a command finds due.
    fn note_expired(&mut self, spec: &Spec, args: Args<'_>, db: usize) {
        for shard in self.shards_looked_into(spec, args) {
            self.homes.shards.keyspace(shard, db).note_expired(true);
        }
    }

    /// Tells of the keys that a command found due.
    fn tell_expired(
        &mut self,
        spec: &Spec,
        args: Args<'_>,
        db: usize,
        mut away: Option<&mut Vec<(usize, After)>>,
    ) {
        let mut heard = Vec::new();
        for shard in self.shards_looked_into(spec, args) {
            let keys = self.homes.shards.keyspace(shard, db);
            let expired = keys.take_expired();
            keys.note_expired(false);
            for key in expired {
                if self.homes.owner(shard) == self.me {
                    self.key_went(shard, db, &key, Went::Expired, &mut heard);
                } else if let Some(away) = &mut away {
                    away.push((shard, After::Changed(db, key.to_vec(), None)));
                    self.tell_event(Went::Expired.event(db, &key));
                }
            }
        }
        self.note_heard(heard);
    }

    /// A key of a shard that lives here went without a command: tells all who want to know. `heard` is
    /// for [`note_heard`](State::note_heard).
    pub(super) fn key_went(
        &mut self,
        shard: usize,
        db: usize,
        key: &[u8],
        why: Went,
        heard: &mut Vec<Hear>,
    ) {
        self.homes.went(shard, db, key, heard);
        self.invalidate(key, None);
        self.tell_event(why.event(db, key));
    }

    /// Takes over which keyspace events are asked for.
    pub(super) fn note_events(&mut self) {
        let channels = class::KEYSPACE | class::KEYEVENT;
        let asked = self.tunables.events;
        if asked & channels != 0 && asked & !channels != 0 {
            self.odd |= odd::EVENTS;
        } else {
            self.odd &= !odd::EVENTS;
        }
    }

    /// Publishes keyspace events of the classes that are asked for.
    pub(super) fn tell_events(&mut self, events: Vec<Event>) {
        for event in events {
            self.tell_event(event);
        }
    }

    pub(super) fn tell_event(&mut self, event: Event) {
        let asked = self.tunables.events;
        if asked & event.class == 0 {
            return;
        }
        let Event { name, db, key, .. } = event;
        if asked & class::KEYSPACE != 0 {
            let mut channel = format!("__keyspace@{db}__:").into_bytes();
            channel.extend_from_slice(&key);
            self.publish_later(Topics::Channels, channel, name.as_bytes().to_vec());
        }
        if asked & class::KEYEVENT != 0 {
            let channel = format!("__keyevent@{db}__:{name}").into_bytes();
            self.publish_later(Topics::Channels, channel, key);
        }
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
        self.go_on_paused();
    }

    /// A failover begins: writes are held back, and no key goes by itself.
    pub(super) fn freeze(&mut self) {
        self.is_frozen = true;
        self.odd |= odd::PAUSED;
    }

    /// Has everything ended that was begun before? Then no key of this core's shards goes any more.
    pub(super) fn is_frozen_hard(&mut self) -> bool {
        if !self.is_frozen {
            // It is over already.
            return true;
        }
        let own: Vec<_> = self.homes.own().collect();
        if !self.loans.is_idle() || !own.iter().all(|shard| self.homes.shards.has(*shard)) {
            return false;
        }
        for shard in own {
            self.homes.shards.shard(shard).set_due_keys(DueKeys::Hidden);
        }
        true
    }

    /// It is over. What was held back is judged anew.
    pub(super) fn thaw(&mut self) {
        self.is_frozen = false;
        // Keys that were due meanwhile are looked at in this turn.
        self.more_due = true;
        self.go_on_paused();
    }

    /// Does every request wait, because another process is to serve?
    pub(super) fn is_hushed(&self) -> bool {
        self.stage != Stage::Serving
    }

    /// From now on every request waits.
    pub(super) fn hush(&mut self) {
        self.odd |= odd::PAUSED;
    }

    pub(super) fn go_on_paused(&mut self) {
        if self.is_hushed() {
            return;
        }
        if self.pause.is_none() && !self.is_frozen {
            self.odd &= !odd::PAUSED;
        }
        for socket in std::mem::take(&mut self.clients.paused) {
            if let Some(mut conn) = self.take_conn(socket) {
                match conn.carried.take() {
                    Some(carried) if conn.is_paused() => self.ask_again(&mut conn, carried),
                    _ if conn.is_paused() => self.wake(&mut conn),
                    _ => {}
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
