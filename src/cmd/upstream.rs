//! Of which primary a shard is a copy, and up to where.

use super::{Shard, Shards};
use crate::{
    base::parse_u64,
    journal::frame::{ALONE, AT},
    resp::Args,
};

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
            if let Some(stream) = shard.stream.as_mut().filter(|stream| stream.unit_is_open()) {
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
