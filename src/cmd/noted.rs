//! A snapshot that is being made of a shard, and what commands did to the keys that it has passed.

use super::{Shard, ShardSlice, ShardWalk};
use crate::{
    base::parse_u64,
    journal::{
        Position,
        frame::{self, NOTE, SHIPPED, SKIP},
    },
    resp::{Args, Parser},
    store::Budget,
};

/// For whom a shard is written down. Each has a walk of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walker {
    /// A file.
    Disk,
    /// Replicas.
    Replicas,
    /// A digest.
    Digest,
}

/// A walk and the frames that belong behind its slices.
#[derive(Debug)]
pub(super) struct Walking {
    walker: Walker,
    walk: ShardWalk,
    noted: Vec<Noted>,
    parser: Parser,
    /// What happens from here on is not noted.
    cut: Option<Position>,
}

/// Frames of one database.
#[derive(Debug)]
struct Noted {
    database: u32,
    count: u32,
    frames: Vec<u8>,
}

impl Shard {
    /// Begins to write the shard down: slices are taken by [`walk_on`](Shard::walk_on), and what commands do
    /// between them to keys that are written already by [`take_noted`](Shard::take_noted). It needs a stream.
    pub fn begin_walk(&mut self, walker: Walker) {
        self.end_walk(walker);
        self.walking.push(Walking {
            walker,
            walk: ShardWalk::new(self.database_count()),
            noted: Vec::new(),
            parser: Parser::default(),
            cut: None,
        });
    }

    /// Writes the next slice to the end of `out`.
    ///
    /// # Panics
    /// If no walk was begun.
    pub fn walk_on(&mut self, walker: Walker, budget: Budget, out: &mut Vec<u8>) -> ShardSlice {
        let at = self
            .walking
            .iter()
            .position(|walking| walking.walker == walker);
        let mut walking = self.walking.remove(at.expect("a walk was begun"));
        let slice = walking.walk.next_slice(self, budget, out);
        self.walking.push(walking);
        slice
    }

    /// Hands over what was noted since the last slice, in order: database, number of frames, frames.
    pub fn take_noted(&mut self, walker: Walker, mut write: impl FnMut(u32, u32, &[u8])) {
        let mut walks = self.walking.iter_mut();
        if let Some(walking) = walks.find(|walking| walking.walker == walker) {
            for noted in walking.noted.drain(..) {
                write(noted.database, noted.count, &noted.frames);
            }
        }
    }

    /// What was noted up to now for the disk is all that is noted.
    pub fn cut_walk(&mut self) {
        let at = self.position_in_files();
        let mut walks = self.walking.iter_mut();
        if let Some(walking) = walks.find(|walking| walking.walker == Walker::Disk) {
            walking.cut = Some(at);
        }
    }

    /// Where the walk for the disk was cut, if it was.
    pub fn walk_cut(&self) -> Option<Position> {
        let mut walks = self.walking.iter();
        walks.find(|walking| walking.walker == Walker::Disk)?.cut
    }

    /// Is there such a walk?
    pub fn is_walked(&self, walker: Walker) -> bool {
        self.walking.iter().any(|walking| walking.walker == walker)
    }

    /// The walk is over, or given up.
    pub fn end_walk(&mut self, walker: Walker) {
        self.walking.retain(|walking| walking.walker != walker);
    }

    /// Where its stream is; unknown without one.
    pub fn position(&self) -> Position {
        self.stream
            .as_ref()
            .map_or(Position::UNKNOWN, |stream| Position {
                generation: stream.generation(),
                offset: stream.next(),
            })
    }

    /// The same, with the history as files name it.
    pub fn position_in_files(&self) -> Position {
        let mut at = self.position();
        if let Some(stream) = &self.stream {
            at.generation = stream.generation_in_files();
        }
        at
    }

    /// Has the walk for the disk note a frame of these words that is in no stream. What the stream has next
    /// comes behind it.
    pub(super) fn note_for_disk(&mut self, words: &[&[u8]]) {
        let at = self.position();
        let mut walks = self.walking.iter_mut();
        if let Some(walking) = walks.find(|walking| walking.walker == Walker::Disk) {
            let before = at.offset.saturating_sub(1);
            note(&mut walking.noted, 0, before, words.iter().copied());
        }
    }

    /// Forgets what was recorded and not taken from the stream yet.
    pub fn drop_recorded(&mut self) {
        if let Some(stream) = &mut self.stream {
            while stream.take_block().is_some() {
                self.gaps += 1;
            }
        }
    }

    /// Notes what the open unit did to keys that the walk has passed.
    #[cold]
    pub(super) fn note_unit(&mut self) {
        let mut all = std::mem::take(&mut self.walking);
        for walking in &mut all {
            if let Some(stream) = &self.stream
                && walking.cut.is_none()
            {
                let mut frames = stream.open_frames(&mut walking.parser);
                let (walk, noted) = (&mut walking.walk, &mut walking.noted);
                // What was composed here can be read here.
                while let Ok(Some(frame)) = frames.next() {
                    if is_noted(walk, self, frame.database, frame.args) {
                        note(noted, frame.database, frame.offset, frame.args.iter());
                    }
                }
            }
        }
        self.walking = all;
    }
}

/// Does a frame belong behind the slices so far?
fn is_noted(walk: &mut ShardWalk, shard: &Shard, database: u32, args: Args<'_>) -> bool {
    let name = args.at(0);
    let number = |at: usize| {
        args.get(at)
            .and_then(parse_u64)
            .map(|number| number as usize)
    };
    match name {
        b"FLUSHALL" | b"FLUSHDB" => {}
        _ if name.starts_with(NOTE) => {
            return name != SHIPPED.as_bytes() && name != SKIP.as_bytes();
        }
        b"SWAPDB" => {
            if let (Some(first), Some(second)) = (number(1), number(2)) {
                walk.swapped(first, second);
            }
        }
        _ => {
            let key = args.get(if name == b"XGROUP" { 2 } else { 1 });
            return key.is_some_and(|key| walk.takes(shard, database as usize, key, name));
        }
    }
    true
}

fn note<'a>(
    noted: &mut Vec<Noted>,
    database: u32,
    offset: u64,
    words: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) {
    if noted.last().is_none_or(|last| last.database != database) {
        noted.push(Noted {
            database,
            count: 0,
            frames: Vec::new(),
        });
    }
    if let Some(last) = noted.last_mut() {
        last.count += 1;
        frame::compose(&mut last.frames, offset, words);
    }
}
