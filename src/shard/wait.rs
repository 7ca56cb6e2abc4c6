//! WAIT: how many replicas have what a client wrote. WAITAOF: is it durable, here and there? REPL.WAIT: does
//! this replica have what a token names?

use std::{
    net::IpAddr,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use uring::SocketId;

use super::{
    conn::{Blocked, Conn, GiveUp, Hold},
    message::Message,
    shared::{ReplicaView, lock},
    state::State,
};
use crate::{
    base::{Ms, parse_i64, parse_u64},
    cmd::Spec,
    journal::Position,
    resp::{Args, Error, Out, OwnedArgs},
};

/// kevy's reply.
const NO_TOKEN: Error = Error::fixed(
    "ERR REPL.WAIT g0 off0 [g1 off1 ...] [TIMEOUT ms] \u{2014} pass a token from REPL.TOKEN",
);
const NOT_ON_REPLICAS: Error = Error::fixed(
    "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just \
     local and are not propagated.",
);
const NOT_WITHOUT_JOURNAL: Error =
    Error::fixed("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.");
/// Who asks REPL.FAILOVER asks again long before.
const ANSWER_WAIT_MS: Ms = 10_000;
/// How long REPL.WAIT waits if it does not say.
const PRIMARY_WAIT_MS: Ms = 1000;

/// A client that waits for replicas, or for the primary's stream.
#[derive(Debug)]
pub(super) struct Waiter {
    conn: SocketId,
    wants: Wants,
}

#[derive(Debug)]
enum Wants {
    /// So many replicas that have what each shard had when it began.
    Replicas(i64, Vec<u64>),
    /// That what each shard had when it began is durable here, if that is wanted, and on so many replicas.
    Disks(bool, i64, Vec<u64>),
    /// Of each stream of the primary this generation and offset.
    Primary(Vec<(u64, u64)>),
    /// The answer to this question of REPL.FAILOVER.
    Answer(u64),
}

/// What a replica says to a token.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Has {
    All,
    NotYet,
    /// It will never have it.
    Never(Error),
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
        let timeout = match parse_timeout(args.at(2), self.now) {
            Ok(timeout) => timeout,
            Err(error) => return conn.out.error(&error),
        };
        if self.shared.following.load(Relaxed) {
            return conn.out.error(&Error::fixed(
                "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 \
                 if a replica is configured to be writable (which is not the default) writes to replicas \
                 are just local and are not propagated.",
            ));
        }
        self.publish_ends();
        let ends = self.shared.durable.ends();
        let count = self.count_replicas(&ends);
        if count >= replicas || conn.ended {
            return conn.out.int(count);
        }
        let give_up = (timeout, GiveUp::Count(count));
        self.hold_waiter(conn, (spec, args), give_up, Wants::Replicas(replicas, ends));
        self.ask_acks();
    }

    /// All replicas are to say how far they are.
    pub(super) fn ask_acks(&mut self) {
        self.asks_acks = true;
        self.tell_all(|| Message::AskAcks);
    }

    /// WAITAOF. What all clients of this node had written by then is waited for.
    pub(super) fn wait_for_disks(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
        may_block: bool,
    ) {
        let wanted = match parse_disks(args, self.now) {
            Ok(wanted) => wanted,
            Err(error) => return conn.out.error(&error),
        };
        let (local, replicas, timeout) = wanted;
        if self.shared.following.load(Relaxed) {
            return conn.out.error(&NOT_ON_REPLICAS);
        }
        if local && !self.shared.settings.journals {
            return conn.out.error(&NOT_WITHOUT_JOURNAL);
        }
        self.publish_ends();
        self.publish_borrowed();
        let ends = self.shared.durable.ends();
        let (is_here, count) = self.count_disks(&ends);
        if (is_here || !local) && count >= replicas || conn.ended || !may_block {
            return write_durable(&mut conn.out, is_here, count);
        }
        let give_up = (timeout, GiveUp::Durable(is_here, count));
        self.hold_waiter(
            conn,
            (spec, args),
            give_up,
            Wants::Disks(local, replicas, ends),
        );
        self.ask_acks();
    }

    /// Is everything below these ends durable here, and on how many replicas?
    fn count_disks(&self, ends: &[u64]) -> (bool, i64) {
        let is_here = self.shared.settings.journals && self.shared.durable.has_passed(ends);
        let has = |link: &ReplicaView, end| link.durable.is_some_and(|durable| durable >= end);
        (is_here, self.count_having(ends, has))
    }

    /// Replicas that have everything below these ends, one for each shard.
    fn count_replicas(&self, ends: &[u64]) -> i64 {
        self.count_having(ends, |link, end| link.acked >= end)
    }

    fn count_having(&self, ends: &[u64], has: impl Fn(&ReplicaView, u64) -> bool) -> i64 {
        let shards = self.shared.replicas.iter().zip(ends);
        let having = shards.map(|(replicas, end)| {
            let links = lock(&replicas.links);
            let links = links.iter();
            let links = links.filter(|link| has(link, *end) && self.shared.counts(link));
            links.map(|link| (link.ip, link.port)).collect()
        });
        in_all(having) as i64
    }

    /// REPL.TOKEN: generation and next offset of each stream; of a replica, those of its primary.
    pub(super) fn replication_token(&mut self, conn: &mut Conn) {
        let of_primary = lock(&self.shared.follow).as_ref().map(|view| {
            let links = view.links.iter();
            links.map(|link| (link.generation, link.applied)).collect()
        });
        let places: Vec<(u64, u64)> = match of_primary {
            Some(places) => places,
            None => {
                self.publish_ends();
                let marks = self.shared.durable.shards.iter();
                marks
                    .map(|marks| (marks.generation.load(SeqCst), marks.next.load(SeqCst)))
                    .collect()
            }
        };
        conn.out.array(2 * places.len());
        for (generation, offset) in places {
            conn.out.int(generation as i64);
            conn.out.int(offset as i64);
        }
    }

    /// REPL.WAIT. A primary has everything.
    pub(super) fn wait_for_primary(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
        may_block: bool,
    ) {
        let Some((wanted, timeout)) = parse_token(args) else {
            return conn.out.error(&NO_TOKEN);
        };
        match self.has_of_primary(&wanted) {
            Has::All => return conn.out.ok(),
            Has::Never(error) => return conn.out.error(&error),
            Has::NotYet if !may_block || conn.ended => {
                return conn.out.error(&self.misdirected());
            }
            Has::NotYet => {}
        }
        let give_up = (timeout, GiveUp::Misdirected);
        self.hold_waiter(conn, (spec, args), give_up, Wants::Primary(wanted));
    }

    /// Has a client wait for the answer to a question of REPL.FAILOVER.
    pub(super) fn wait_for_answer(
        &mut self,
        conn: &mut Conn,
        (spec, args): (&'static Spec, Args<'_>),
        question: u64,
    ) {
        let give_up = (ANSWER_WAIT_MS, GiveUp::Unanswered);
        self.hold_waiter(conn, (spec, args), give_up, Wants::Answer(question));
    }

    /// Has a client wait, for so many milliseconds; 0 is for ever.
    fn hold_waiter(
        &mut self,
        conn: &mut Conn,
        (spec, args): (&'static Spec, Args<'_>),
        (timeout, on_timeout): (Ms, GiveUp),
        wants: Wants,
    ) {
        let slot = conn.open_slot();
        let blocked = Blocked {
            spec,
            args: OwnedArgs::copy(args.iter()),
            db: conn.db,
            deadline: (timeout > 0).then(|| self.now.saturating_add(timeout)),
            on_timeout,
            slot,
            trying: false,
            again: false,
        };
        self.hold_blocked(conn, blocked);
        self.shared.waiters.fetch_add(1, SeqCst);
        let conn = conn.socket;
        self.waiters.push(Waiter { conn, wants });
    }

    /// The reply to who has to ask the primary.
    pub(super) fn misdirected(&self) -> Error {
        let place = lock(&self.shared.follow)
            .as_ref()
            .map(|view| format!("{}:{}", view.host, view.port));
        Error::text(format!(
            "MISDIRECTED writer is {}",
            place.unwrap_or_default()
        ))
    }

    fn has_of_primary(&self, wanted: &[(u64, u64)]) -> Has {
        let has = match &*lock(&self.shared.follow) {
            None => return Has::All,
            Some(view) if view.links.len() != wanted.len() => {
                return Has::Never(Error::text(format!(
                    "ERR REPL.WAIT token has {} (gen, offset) pair(s) but this replica follows {} \
                     stream(s); take the token from this server's primary with REPL.TOKEN",
                    wanted.len(),
                    view.links.len()
                )));
            }
            Some(view) => {
                let mut pairs = view.links.iter().zip(wanted);
                let is_same = pairs.all(|(link, (generation, _))| link.generation == *generation);
                let mut pairs = view.links.iter().zip(wanted);
                let is_there =
                    pairs.all(|(link, (_, offset))| !link.syncing && link.applied >= *offset);
                (is_same, is_there)
            }
        };
        match has {
            (false, _) => Has::Never(self.misdirected()),
            (true, true) => Has::All,
            (true, false) => Has::NotYet,
        }
    }

    /// Replicas have said how far they are, or this one is further.
    pub(super) fn look_after_waiters(&mut self) {
        for waiter in std::mem::take(&mut self.waiters) {
            let waits = |conn: &Conn| match &conn.hold {
                Hold::Blocked(blocked) => !matches!(blocked.on_timeout, GiveUp::Null(_)),
                _ => false,
            };
            let conn = self.take_conn(waiter.conn);
            let Some(mut conn) = conn else {
                self.shared.waiters.fetch_sub(1, SeqCst);
                continue;
            };
            let mut out = Out::new(conn.out.proto);
            let is_over = match &waiter.wants {
                // It gave up.
                _ if !waits(&conn) => true,
                Wants::Replicas(replicas, ends) => {
                    let count = self.count_replicas(ends);
                    if let Hold::Blocked(blocked) = &mut conn.hold {
                        blocked.on_timeout = GiveUp::Count(count);
                    }
                    out.int(count);
                    count >= *replicas
                }
                Wants::Disks(local, replicas, ends) => {
                    let (is_here, count) = self.count_disks(ends);
                    if let Hold::Blocked(blocked) = &mut conn.hold {
                        blocked.on_timeout = GiveUp::Durable(is_here, count);
                    }
                    write_durable(&mut out, is_here, count);
                    (is_here || !local) && count >= *replicas
                }
                Wants::Primary(wanted) => {
                    let has = self.has_of_primary(wanted);
                    match &has {
                        Has::All => out.ok(),
                        Has::Never(error) => out.error(error),
                        Has::NotYet => {}
                    }
                    has != Has::NotYet
                }
                Wants::Answer(question) => {
                    let answer = lock(&self.shared.failovers.desk).answers.remove(question);
                    if let Some(answer) = &answer {
                        out.simple(&answer.text());
                    }
                    answer.is_some()
                }
            };
            if is_over && waits(&conn) {
                self.unblock(&mut conn, out);
            }
            self.put_conn(conn);
            if is_over {
                self.shared.waiters.fetch_sub(1, SeqCst);
            } else {
                self.waiters.push(waiter);
            }
        }
    }

    /// Tells how far the streams of this core's shards are, and of those that are here, before anybody hears
    /// of what is in them.
    pub(super) fn publish_ends(&mut self) {
        for shard in self.homes.own() {
            let end = self.homes.stream_position(shard);
            let marks = &self.shared.durable.shards[shard];
            if marks.generation.swap(end.generation, SeqCst) == end.generation {
                // Who has it on loan may have told more.
                marks.next.fetch_max(end.offset, SeqCst);
            } else {
                marks.next.store(end.offset, SeqCst);
                let home = self
                    .homes
                    .shards
                    .has(shard)
                    .then(|| self.homes.shards.shard(shard));
                let stream = home.and_then(|home| home.stream.as_ref());
                marks.note_own(stream.and_then(|stream| stream.own()));
            }
        }
    }

    /// Tells core 0 how far the shards are that live here, if it has asked and they are here; true if so.
    pub(super) fn answer_rollbacks(&mut self) -> bool {
        let round = self.shared.rollbacks.round();
        if round == self.rollbacks_told
            || self.homes.own().any(|shard| !self.homes.shards.has(shard))
        {
            return false;
        }
        self.rollbacks_told = round;
        self.publish_ends();
        for shard in self.homes.own() {
            self.shared.durable.shards[shard].told.store(round, SeqCst);
        }
        if self.me != 0 {
            self.mesh.send(0, Message::Failover);
        }
        true
    }

    /// Where a shard's stream was at the end of its core's last turn, if it has one.
    pub(super) fn told_position(&self, shard: usize) -> Position {
        let marks = &self.shared.durable.shards[shard];
        Position {
            generation: marks.generation.load(SeqCst),
            offset: marks.next.load(SeqCst),
        }
    }

    /// The same for borrowed shards, which are here.
    fn publish_borrowed(&mut self) {
        for (shard, home) in self.homes.shards.iter_mut() {
            if let Some(stream) = &home.stream {
                let marks = &self.shared.durable.shards[shard];
                marks.next.fetch_max(stream.next(), SeqCst);
            }
        }
    }
}

/// How many replicas are in each of these lists, one for each shard. One whose connection was lost may have
/// another one beside it, and is one all the same; those whose port nobody knows cannot be told apart.
fn in_all(mut shards: impl Iterator<Item = Vec<(IpAddr, u16)>>) -> usize {
    let unnamed = |links: &[(IpAddr, u16)]| links.iter().filter(|(_, port)| *port == 0).count();
    let Some(mut named) = shards.next() else {
        return 0;
    };
    let mut least = unnamed(&named);
    named.retain(|(_, port)| *port > 0);
    named.sort_unstable();
    named.dedup();
    for links in shards {
        least = least.min(unnamed(&links));
        named.retain(|replica| links.contains(replica));
    }
    named.len() + least
}

/// WAITAOF's reply.
pub(super) fn write_durable(out: &mut Out, is_here: bool, replicas: i64) {
    out.array(2);
    out.int(i64::from(is_here));
    out.int(replicas);
}

/// Milliseconds; 0 is for ever.
fn parse_timeout(word: &[u8], now: Ms) -> Result<Ms, Error> {
    match parse_i64(word) {
        None => Err(Error::fixed(
            "ERR timeout is not an integer or out of range",
        )),
        Some(timeout @ 0..) if timeout as u64 > i64::MAX as u64 - now => {
            Err(Error::fixed("ERR timeout is out of range"))
        }
        Some(timeout @ 0..) => Ok(timeout as Ms),
        Some(_) => Err(Error::TIMEOUT_NEGATIVE),
    }
}

/// What WAITAOF waits for: is it to be durable here, on how many replicas, and for how long?
fn parse_disks(args: Args<'_>, now: Ms) -> Result<(bool, i64, Ms), Error> {
    let local = match parse_i64(args.at(1)) {
        None => return Err(Error::NOT_INTEGER),
        Some(local @ 0..=1) => local == 1,
        Some(_) => {
            let text = "ERR value is out of range, value must between 0 and 1";
            return Err(Error::fixed(text));
        }
    };
    let replicas = parse_i64(args.at(2)).filter(|count| *count >= 0);
    let replicas =
        replicas.ok_or_else(|| Error::fixed("ERR value is out of range, must be positive"))?;
    Ok((local, replicas, parse_timeout(args.at(3), now)?))
}

/// Pairs of generation and offset, and how long to wait for them.
fn parse_token(args: Args<'_>) -> Option<(Vec<(u64, u64)>, Ms)> {
    let mut words: Vec<&[u8]> = args.rest(1).iter().collect();
    let mut timeout = PRIMARY_WAIT_MS;
    if let [.., word, ms] = words[..]
        && word.eq_ignore_ascii_case(b"TIMEOUT")
    {
        timeout = parse_u64(ms)?;
        words.truncate(words.len() - 2);
    }
    if words.is_empty() || !words.len().is_multiple_of(2) {
        return None;
    }
    let pairs = words.chunks(2);
    let pairs = pairs.map(|pair| Some((parse_u64(pair[0])?, parse_u64(pair[1])?)));
    Some((pairs.collect::<Option<_>>()?, timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_counts_once_and_only_with_all_shards() {
        let at = |host: u8, port: u16| (IpAddr::from([10, 0, 0, host]), port);
        let count = |shards: &[&[(IpAddr, u16)]]| in_all(shards.iter().map(|links| links.to_vec()));
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[&[at(1, 1), at(2, 1)]]), 2);
        assert_eq!(count(&[&[at(1, 1), at(1, 1)]]), 1, "it lost a connection");
        let apart: [&[_]; 2] = [&[at(1, 1)], &[at(1, 2)]];
        assert_eq!(count(&apart), 0, "each has one shard");
        let both: [&[_]; 2] = [&[at(1, 1), at(1, 2)], &[at(1, 2)]];
        assert_eq!(count(&both), 1);
        let unnamed: [&[_]; 2] = [&[at(1, 0), at(1, 0), at(1, 1)], &[at(1, 1), at(1, 0)]];
        assert_eq!(count(&unnamed), 2);
    }
}
