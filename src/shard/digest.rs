//! REPL.DIGEST: a sum of what each shard holds. Shards are read in slices while they are used; one that was
//! written to meanwhile is read again.

use std::{collections::VecDeque, sync::atomic::Ordering::Relaxed};

use super::{
    conn::Conn,
    message::{Answer, CoreId, Message, ShardDigest},
    state::State,
};
use crate::{
    base::Position,
    cmd::{Digest, Walker},
    resp::{Error, Out},
    store::Budget,
};

/// What a turn reads at most.
const SLICE: Budget = Budget {
    records: 128,
    bytes: 32 << 10,
};
/// So often is a shard read before it is said to change all the time.
const TRIES_MAX: u32 = 20;

/// The digests that this core was asked for, one after the other.
#[derive(Default)]
pub(super) struct Digests {
    asked: VecDeque<Asked>,
    body: Vec<u8>,
}

struct Asked {
    by: CoreId,
    question: u64,
    /// Shards of this core that are not read yet; it is at the last of them.
    rest: Vec<usize>,
    reading: Option<Reading>,
    done: Vec<(usize, Option<ShardDigest>)>,
}

struct Reading {
    digest: Digest,
    /// Where the shard's stream was.
    from: Position,
    tries: u32,
}

impl State {
    /// REPL.DIGEST.
    pub(super) fn digest(&mut self, conn: &mut Conn) {
        let id = self.ask_for_digests(conn);
        self.digest_later(self.me, id);
    }

    /// A core wants to know what is in the shards of this one.
    pub(super) fn digest_later(&mut self, by: CoreId, question: u64) {
        self.digests.asked.push_back(Asked {
            by,
            question,
            rest: self.homes.own().collect(),
            reading: None,
            done: Vec::new(),
        });
    }

    /// Can something be read now?
    pub(super) fn has_digest_work(&self) -> bool {
        self.digests.asked.front().is_some_and(|asked| {
            let at = asked.rest.last();
            at.is_none_or(|shard| self.homes.shards.has(*shard)) && !self.is_loading()
        })
    }

    fn is_loading(&self) -> bool {
        self.shared.loading.load(Relaxed)
    }

    /// Reads a slice.
    pub(super) fn digest_on(&mut self) {
        let Some(mut asked) = self.digests.asked.pop_front() else {
            return;
        };
        let Some(shard) = asked.rest.last().copied() else {
            let answer = Answer {
                digests: asked.done,
                ..Answer::default()
            };
            match asked.by == self.me {
                true => self.on_answer(asked.question, answer),
                false => self
                    .mesh
                    .send(asked.by, Message::Answer(asked.question, answer)),
            }
            return;
        };
        if let Some(found) = self.read_on(shard, &mut asked.reading) {
            asked.done.push((shard, found));
            asked.rest.pop();
            asked.reading = None;
        }
        self.digests.asked.push_front(asked);
    }

    /// The digest of a shard, once it is there; nothing in it if the shard changes all the time.
    fn read_on(
        &mut self,
        shard: usize,
        reading: &mut Option<Reading>,
    ) -> Option<Option<ShardDigest>> {
        let own = self.homes.own().position(|own| own == shard)?;
        if !self.feeding[own] {
            // Without that nobody would tell of changes.
            self.start_stream(own, shard);
        }
        let home = self.homes.shards.shard(shard);
        let at = home.position();
        let mut is_changed = !home.is_walked(Walker::Digest);
        home.take_noted(Walker::Digest, |_, _, _| is_changed = true);
        let reading = reading.get_or_insert(Reading {
            digest: Digest::default(),
            from: at,
            tries: 0,
        });
        if is_changed || reading.from.generation != at.generation {
            if reading.tries == TRIES_MAX {
                home.end_walk(Walker::Digest);
                return Some(None);
            }
            home.begin_walk(Walker::Digest);
            (reading.digest, reading.from) = (Digest::default(), at);
            reading.tries += 1;
        }
        let body = &mut self.digests.body;
        body.clear();
        let slice = home.walk_on(Walker::Digest, SLICE, body);
        reading.digest.add(slice.database, body);
        if !slice.is_last {
            return None;
        }
        home.end_walk(Walker::Digest);
        Some(Some(ShardDigest {
            at,
            keys: reading.digest.keys,
            sum: reading.digest.sum,
        }))
    }

    /// The reply: a sum of everything, the number of keys, and for each shard its number, where its stream
    /// was, its keys and its sum.
    pub(super) fn write_digest(&self, out: &mut Out, mut found: Vec<(usize, Option<ShardDigest>)>) {
        found.sort_unstable_by_key(|(shard, _)| *shard);
        if let Some((shard, _)) = found.iter().find(|(_, digest)| digest.is_none()) {
            return out.error(&Error::text(format!(
                "TRYAGAIN shard {shard} was written to each of {TRIES_MAX} times it was read"
            )));
        }
        let mut libraries = Digest::default();
        for source in self.shared.scripts.library_sources() {
            libraries.add_library(&source);
        }
        let digests = || {
            found
                .iter()
                .filter_map(|(shard, digest)| Some((*shard, (*digest)?)))
        };
        let sum = digests().fold(libraries.sum, |sum, (_, digest)| {
            sum.wrapping_add(digest.sum)
        });
        let keys: u64 = digests().map(|(_, digest)| digest.keys).sum();
        out.array(3);
        out.bulk(format!("{sum:032x}").as_bytes());
        out.int(keys as i64);
        out.array(found.len());
        for (shard, digest) in digests() {
            out.array(5);
            out.int(shard as i64);
            out.int(digest.at.generation as i64);
            out.int(digest.at.offset as i64);
            out.int(digest.keys as i64);
            out.bulk(format!("{:032x}", digest.sum).as_bytes());
        }
    }
}
