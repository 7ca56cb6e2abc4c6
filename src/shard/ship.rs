//! A snapshot of one shard on its way to replicas: an image as kevy reads them, and the frames that belong
//! behind it. For those that know more than one database, the others are frames too.
//!
//! The walk goes through the shard while commands change it. What is written when the walk meets a key goes
//! into the image; what happens to keys behind the walk, and parts of collections that come later, are
//! frames behind the image. The image alone is thus no state that ever was: the peer is told an offset so
//! far back that these frames fill the way to where the walk ended. Whoever leaves on that way starts over.

use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use uring::Chunk;

use super::{chunks::Chunks, shared::Shared};
use crate::{
    cmd::{
        Shard, Walker,
        effects::{self, Writer},
        libraries,
    },
    image::{END, MAGIC, SpanKind, spans},
    journal::{
        Position, Stream,
        frame::{self, Frames, LIBRARIES, NOTE, SHIPPED},
    },
    repl::history::Peer,
    resp::Parser,
    store::{Budget, Form, Keyspace},
};

/// What one slice writes down at most.
const SLICE: Budget = Budget {
    records: 256,
    bytes: 64 << 10,
};
/// The version that every kevy reads.
const VERSION: u8 = 4;

/// See the module page.
pub(super) struct Ship {
    /// For whom.
    pub peer: Peer,
    /// The database of the last frame behind the image.
    database: u32,
    /// The image on its way.
    image: Chunks,
    /// What a slice wrote.
    body: Vec<u8>,
    /// Frames behind the image without their offsets, one after the other, and the length of each.
    behind: Vec<u8>,
    lens: Vec<u32>,
    trailer: Vec<u8>,
    parser: Parser,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sailed {
    /// There is more.
    On,
    /// It is complete: peers are at `first` with the image, and at `end` with the frames behind it.
    Done { first: u64, end: u64 },
    /// All that it holds has been replaced meanwhile.
    Void,
}

impl Ship {
    /// Begins a walk through a shard that is here and has a stream.
    pub fn begin(shard: &mut Shard, peer: Peer) -> Self {
        shard.begin_walk(Walker::Replicas);
        Self {
            peer,
            database: 0,
            image: Chunks::default(),
            body: [&MAGIC[..], &[VERSION]].concat(),
            behind: Vec::new(),
            lens: Vec::new(),
            trailer: Vec::new(),
            parser: Parser::default(),
        }
    }

    /// Has the libraries of functions follow: what the peer has of them goes.
    pub fn tell_libraries(&mut self, sources: &[Vec<u8>]) {
        self.keep(0, libraries::words(sources).into_iter());
    }

    /// Takes what commands did since; false if they removed all that it holds. How much that is in all
    /// tells [`behind`](Ship::behind).
    pub fn follow(&mut self, shard: &mut Shard) -> bool {
        let mut is_void = false;
        let mut parser = std::mem::take(&mut self.parser);
        shard.take_noted(Walker::Replicas, |database, count, frames| {
            let mut frames = Frames::noted(frames, count, database, &mut parser);
            while let Ok(Some(frame)) = frames.next() {
                let is_told = frame.database == 0 || self.peer == Peer::All;
                match frame.args.at(0) {
                    name if name == LIBRARIES.as_bytes() && self.peer == Peer::All => {
                        self.keep(frame.database, frame.args.iter());
                    }
                    name if name.starts_with(NOTE) => {}
                    b"FLUSHALL" | b"SWAPDB" => is_void = true,
                    b"FLUSHDB" => is_void |= is_told,
                    _ if is_told => self.keep(frame.database, frame.args.iter()),
                    _ => {}
                }
            }
        });
        self.parser = parser;
        if is_void {
            shard.end_walk(Walker::Replicas);
        }
        !is_void
    }

    /// Bytes that belong behind the image so far.
    pub fn behind(&self) -> usize {
        self.behind.len()
    }

    /// Goes on for a turn. What is to be sent goes to `out`; `take` has memory to compose it in.
    pub fn sail(
        &mut self,
        shard: &mut Shard,
        take: &mut dyn FnMut() -> Option<Chunk>,
        shared: &Shared,
        out: &mut Vec<Bytes>,
    ) -> Sailed {
        if !self.follow(shard) {
            return Sailed::Void;
        }
        let before = self.body.len();
        let slice = shard.walk_on(Walker::Replicas, SLICE, &mut self.body);
        match (slice.database as u32, slice.form) {
            (0, Form::Plain) => {}
            (0, form) => self.sort(before, form, 0),
            // An image is of one database.
            (database, _) if self.peer == Peer::All => self.sort(before, Form::Again, database),
            _ => self.body.truncate(before),
        }
        if slice.is_last {
            shard.end_walk(Walker::Replicas);
            self.body.push(END);
            self.body.append(&mut self.trailer);
        }
        self.image.put(&self.body, take);
        self.body.clear();
        if slice.is_last {
            return self.arrive(shard, shared, out);
        }
        self.image.take_ready(out);
        Sailed::On
    }

    /// Bytes of the image so far, framing included, that lie in memory for large sends, and all.
    pub fn image_len(&self) -> (u64, u64) {
        self.image.total()
    }

    /// Sorts the records of a slice, those behind `from`, that do not all belong into an image.
    fn sort(&mut self, from: usize, form: Form, database: u32) {
        let body = self.body.split_off(from);
        // A key that follows as frames, with what stands behind it of its groups.
        let mut key = Vec::new();
        // What was written here can be read here.
        let _ = spans(&body, |span| {
            if !(key.is_empty() || matches!(span.kind, SpanKind::Reads)) {
                self.rebuild(&std::mem::take(&mut key), true, database);
            }
            match span.kind {
                SpanKind::Key if form == Form::Mixed => self.body.extend_from_slice(span.bytes),
                SpanKind::Key => key.extend_from_slice(span.bytes),
                SpanKind::More => self.rebuild(span.bytes, false, database),
                SpanKind::FieldDeadline {
                    key,
                    field,
                    deadline,
                } => {
                    let mut digits = itoa::Buffer::new();
                    let at = digits.format(deadline).as_bytes();
                    let words: [&[u8]; 6] = [b"HPEXPIREAT", key, at, b"FIELDS", b"1", field];
                    self.keep(database, words.into_iter());
                }
                SpanKind::Reads if key.is_empty() => self.trailer.extend_from_slice(span.bytes),
                SpanKind::Reads => key.extend_from_slice(span.bytes),
            }
        });
        if !key.is_empty() {
            self.rebuild(&key, true, database);
        }
    }

    /// Has a record follow as frames, behind what else is there of its key, or in its place.
    fn rebuild(&mut self, record: &[u8], replaces: bool, database: u32) {
        let mut keys = Keyspace::new(0);
        if keys.load(record).is_err() {
            return;
        }
        let mut stream = Stream::new(0, Position::UNKNOWN);
        stream.set_plain(self.peer == Peer::Kevy);
        let key = crate::image::ImageReader::of_body(record)
            .next()
            .ok()
            .flatten()
            .and_then(|record| record.key().map(<[u8]>::to_vec))
            .unwrap_or_default();
        if replaces {
            let words: [&[u8]; 2] = [b"DEL", &key];
            self.keep(database, words.into_iter());
        }
        effects::rebuild(&mut keys, &key, 0, &mut Writer::new(&mut stream, 0));
        stream.end_unit();
        while let Some(block) = stream.take_block() {
            let span = (block.first(), block.end() - block.first());
            let mut parser = std::mem::take(&mut self.parser);
            let mut frames = Frames::of_part(block.frames(), span, 0, &mut parser);
            while let Ok(Some(frame)) = frames.next() {
                self.keep(database, frame.args.iter());
            }
            self.parser = parser;
        }
    }

    /// Has a frame follow the image.
    fn keep<'a>(&mut self, database: u32, words: impl ExactSizeIterator<Item = &'a [u8]> + Clone) {
        self.select(database);
        keep(&mut self.behind, &mut self.lens, words);
    }

    fn select(&mut self, database: u32) {
        if self.database != database {
            self.database = database;
            let digits = database.to_string();
            let words = [b"SELECT", digits.as_bytes()];
            keep(&mut self.behind, &mut self.lens, words.into_iter());
        }
    }

    /// The walk is over: the rest of the image, and what belongs behind it. The stream notes how far back
    /// peers are sent.
    fn arrive(&mut self, shard: &mut Shard, shared: &Shared, out: &mut Vec<Bytes>) -> Sailed {
        let at = shard.position();
        if let (Peer::All, Some(stream)) = (self.peer, &shard.stream) {
            self.select(stream.database());
        }
        self.image.finish();
        self.image.take_ready(out);
        let first = at.offset.saturating_sub(self.lens.len() as u64);
        out.push(match self.peer {
            Peer::Kevy => format!("+SNAPSHOT_END {first}\r\n").into(),
            Peer::All => {
                let needs = needs(shard.stream.as_deref(), shared);
                format!("+SNAPSHOT_END {first} {}{needs}\r\n", at.offset).into()
            }
        });
        let mut frames = Vec::with_capacity(self.behind.len() + self.lens.len() * 32);
        let mut from = 0;
        for (number, len) in self.lens.iter().enumerate() {
            let offset = first + number as u64;
            frames.extend_from_slice(format!("*2\r\n:{offset}\r\n").as_bytes());
            frames.extend_from_slice(&self.behind[from..from + *len as usize]);
            from += *len as usize;
        }
        if !frames.is_empty() {
            out.push(frames.into());
        }
        // Only kevys forget where they were told to be, and have no part in a primary's history.
        if let Some(stream) = &mut shard.stream
            && !stream.is_adopted()
        {
            let first = first.to_string();
            stream.frame(0, [SHIPPED.as_bytes(), first.as_bytes()].into_iter());
            stream.end_unit();
        }
        Sailed::Done {
            first,
            end: at.offset,
        }
    }
}

/// Where the other streams have to be for the copy to be whole: a replica may have less of them. A stream
/// knows what it shared since it was made; where all were told to be covers what was before.
fn needs(stream: Option<&Stream>, shared: &Shared) -> String {
    let Some(stream) = stream else {
        return String::new();
    };
    let marks = (0..).zip(&shared.durable.shards);
    let others = marks.filter(|(at, _)| *at != stream.shard());
    others.fold(String::new(), |mut out, (at, marks)| {
        let need = stream.met(at).max(marks.next.load(SeqCst));
        if need > 0 {
            out.push_str(&format!(" {at} {need}"));
        }
        out
    })
}

fn keep<'a>(
    behind: &mut Vec<u8>,
    lens: &mut Vec<u32>,
    words: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) {
    let before = behind.len();
    frame::compose_args(behind, words);
    lens.push((behind.len() - before) as u32);
}
