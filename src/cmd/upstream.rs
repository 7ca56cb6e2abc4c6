//! Of which primary a shard is a copy, and up to where.

use super::{Shard, Shards};
use crate::{
    base::{Ms, parse_u64},
    journal::{
        Ancestry, Position, Stream,
        frame::{ALONE, AT},
    },
    resp::Args,
};

/// A primary's history that a shard takes for its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// Where the shard is in it.
    pub at: Position,
    /// The histories that it goes on from.
    pub ancestry: Ancestry,
    /// The database that the primary's next frame finds itself in.
    pub database: u32,
    /// The history that begins with the first frame of our own.
    pub own: u64,
    /// How often the node had stopped to follow anybody.
    pub epoch: u64,
}

impl Adoption {
    /// A stream that goes on from there.
    pub fn stream(&self, shard: usize) -> Stream {
        let mut stream = Stream::resume(shard as u32, self.at);
        stream.adopt(self.at.generation, self.own, Some(self.database));
        stream.descend_from(self.ancestry.clone());
        stream
    }
}

/// How far a shard has what one stream of a primary had for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Which stream.
    pub stream: u64,
    /// How many the primary has.
    pub streams: u64,
    /// The history.
    pub generation: u64,
    /// Everything below this offset is there.
    pub offset: u64,
}

impl Upstream {
    /// A shard that is in the history of the stream of the same number, of as many streams as there are
    /// shards.
    pub fn own(shard: usize, shards: usize, at: Position) -> Self {
        Self {
            stream: shard as u64,
            streams: shards as u64,
            generation: at.generation,
            offset: at.offset,
        }
    }

    fn words(&self) -> [String; 5] {
        let numbers = [self.stream, self.streams, self.generation, self.offset];
        let [stream, streams, generation, offset] = numbers.map(|number| number.to_string());
        [AT.into(), stream, streams, generation, offset]
    }

    fn read(args: Args<'_>) -> Option<Self> {
        let number = |at: usize| args.get(at).and_then(parse_u64);
        Some(Self {
            stream: number(1)?,
            streams: number(2)?,
            generation: number(3)?,
            offset: number(4)?,
        })
    }
}

impl Shard {
    /// The streams that it is a copy of.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// Sets how far it is with a stream. Of another number of streams than before nothing else counts.
    pub fn set_upstream(&mut self, upstream: Upstream) {
        self.upstreams
            .retain(|old| old.stream != upstream.stream && old.streams == upstream.streams);
        self.upstreams.push(upstream);
    }

    /// Takes the primary's history for its own, at a place where it has all of that and nothing else.
    pub fn adopt(&mut self, adoption: &Adoption) {
        self.upstreams.clear();
        let Adoption { at, own, .. } = *adoption;
        match &mut self.stream {
            Some(stream) => {
                stream.adopt(at.generation, own, Some(adoption.database));
                stream.descend_from(adoption.ancestry.clone());
            }
            None => self.place = Some(Box::new(adoption.clone())),
        }
    }

    /// The same after everything was replaced by what is there in the primary's history.
    pub fn adopt_anew(&mut self, shard: usize, adoption: &Adoption) {
        match &mut self.stream {
            Some(stream) => {
                self.upstreams.clear();
                self.gaps += 1;
                **stream = adoption.stream(shard);
            }
            None => self.adopt(adoption),
        }
    }

    /// What it had of a primary's history is gone.
    pub fn forget_history(&mut self, shard: usize, now: Ms) {
        self.place = None;
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.is_adopted()) {
            let at = stream.position().renewed(now);
            **stream = Stream::new(shard as u32, at);
        }
    }

    /// Changes whenever what the stream has next is not what those who follow are to get next, though the
    /// history may be the same.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Where it is in which history, as far as that is known: also where nothing is recorded, if the history
    /// is a primary's. `epoch` is how often the node has stopped to follow.
    pub fn known_position(&self, epoch: u64) -> Position {
        match (&self.stream, &self.place) {
            (None, Some(place)) if place.epoch == epoch => place.at,
            _ => self.position(),
        }
    }

    /// The history of a primary that it is in while nothing is recorded.
    pub fn take_place(&mut self, epoch: u64) -> Option<Box<Adoption>> {
        self.place.take().filter(|place| place.epoch == epoch)
    }

    /// This shard, of so many, goes on in a history of its own, as a copy of the primary's stream of the same
    /// number.
    pub fn part_from_primary(&mut self, shard: usize, shards: usize, now: Ms) {
        let Some(history) = self.stream.as_mut().filter(|stream| stream.is_adopted()) else {
            return;
        };
        let at = history.position();
        history.turn(at.renewed(now));
        self.set_upstream(Upstream::own(shard, shards, at));
        self.tell_upstreams();
    }

    /// Nothing is recorded any more.
    pub fn drop_stream(&mut self, epoch: u64) {
        if let Some(stream) = self.stream.take() {
            self.place = stream.adoption().map(|(own, database)| {
                Box::new(Adoption {
                    at: stream.position(),
                    ancestry: stream.ancestry().clone(),
                    database,
                    own,
                    epoch,
                })
            });
        }
    }

    /// It is a copy of nothing.
    pub fn forget_upstreams(&mut self) {
        self.upstreams.clear();
    }

    /// Reads a note of ours out of a frame; false if it is none.
    pub(super) fn heed(&mut self, args: Args<'_>) -> bool {
        let name = args.at(0);
        if name == ALONE.as_bytes() {
            self.upstreams.clear();
        } else if name == AT.as_bytes() {
            if let Some(upstream) = Upstream::read(args) {
                self.set_upstream(upstream);
            }
        } else {
            return false;
        }
        true
    }

    /// Notes in the stream what it is a copy of.
    pub fn tell_upstreams(&mut self) {
        if self.upstreams.is_empty() {
            return;
        }
        let Some(stream) = &mut self.stream else {
            return;
        };
        for upstream in &self.upstreams {
            let words = upstream.words();
            stream.note(words.iter().map(|word| word.as_bytes()));
        }
        self.close_unit();
    }

    /// Its part of a unit is complete, and there are no others.
    pub(super) fn close_unit(&mut self) {
        if !self.walking.is_empty() {
            self.note_unit();
        }
        if let Some(stream) = &mut self.stream {
            stream.end_unit();
        }
    }

    /// The open unit came from nobody else: the shard is no copy any more.
    #[cold]
    pub(super) fn leave_upstreams(&mut self) {
        self.upstreams.clear();
        if let Some(stream) = &mut self.stream {
            stream.note(std::iter::once(ALONE.as_bytes()));
        }
    }
}

impl Shards {
    /// Is the last frame below `upstream` to be copied, because its shard is here and in the history of the
    /// primary? If it is in it, but not where it should be, it leaves it.
    pub fn takes(&mut self, upstream: &Upstream, db: usize) -> bool {
        let Some(Some(shard)) = self.slots.get_mut(upstream.stream as usize) else {
            return false;
        };
        let offset = upstream.offset - 1;
        match (&mut shard.stream, &shard.place) {
            (Some(stream), _) if stream.is_adopted() => {
                stream.generation() == upstream.generation && stream.awaits(offset, db as u32)
            }
            (None, Some(place)) => {
                place.at.generation == upstream.generation && place.at.offset <= offset
            }
            _ => false,
        }
    }

    /// Where the next frame of a shard that is here goes, if it has a stream.
    pub fn stream_next(&self, shard: usize) -> Option<u64> {
        let shard = self.slots.get(shard)?.as_ref()?;
        shard.stream.as_ref().map(|stream| stream.next())
    }

    /// Makes up for frames of the primary before `first`, which finds itself in database `db`, that are for
    /// nobody here.
    pub fn skip_to(&mut self, upstream: &Upstream, (first, db): (u64, u32)) {
        let shard = self.slots.get_mut(upstream.stream as usize);
        if let Some(Some(shard)) = shard
            && let Some(stream) = &mut shard.stream
            && stream.generation() == upstream.generation
            && !stream.unit_is_open()
            && stream.skip_to(first, db)
        {
            stream.end_unit();
        }
    }

    /// Copies the last frame of the primary below `upstream`, which its shard [takes](Shards::takes).
    pub fn copy<'a>(
        &mut self,
        upstream: &Upstream,
        db: usize,
        words: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) {
        let at = upstream.stream as usize;
        let Some(shard) = &mut self.slots[at] else {
            return;
        };
        match (&mut shard.stream, &mut shard.place) {
            (Some(stream), _) => {
                let begins = !stream.unit_is_open();
                if stream.copy(upstream.offset - 1, db as u32, words) && begins {
                    self.touched.push(at);
                }
            }
            (None, Some(place)) => (place.at.offset, place.database) = (upstream.offset, db as u32),
            (None, None) => {}
        }
    }

    /// The open unit, or its part of the given shard, came from this stream, and goes as far.
    pub fn note_upstream(&mut self, upstream: Upstream, only: Option<usize>) {
        let words = upstream.words();
        self.touched.sort_unstable();
        self.touched.dedup();
        for at in self.touched.clone() {
            if only.is_some_and(|only| only != at) {
                continue;
            }
            let Some(shard) = self.slots[at].as_mut() else {
                continue;
            };
            let is_told = |stream: &&mut Box<Stream>| stream.unit_is_open() && !stream.is_adopted();
            if let Some(stream) = shard.stream.as_mut().filter(is_told) {
                stream.note(words.iter().map(|word| word.as_bytes()));
                shard.set_upstream(upstream);
            }
        }
        self.is_copied = true;
    }

    /// The same, and each shard's part of the unit is one by itself.
    pub fn end_copied(&mut self, upstream: Upstream) {
        if self.touched.is_empty() {
            return;
        }
        self.note_upstream(upstream, None);
        self.is_copied = false;
        for at in std::mem::take(&mut self.touched) {
            if let Some(shard) = &mut self.slots[at] {
                shard.close_unit();
            }
        }
    }
}
