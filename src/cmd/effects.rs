//! Effects: what a command changed, as commands that change the same wherever and whenever they run.
//!
//! While a shard has a stream, every command that changed something leaves frames in it. A frame is one
//! command on one key: times in it are absolute, nothing in it depends on chance, on the time at which it
//! runs or on other keys. `rules.rs` has the rule of each command of the table, `rebuild.rs` the frames that
//! make a whole key anew, `replay.rs` runs frames again.

mod rebuild;
mod replay;
#[cfg(test)]
mod replayed;
mod rules;
#[cfg(test)]
mod tests;

pub use rebuild::rebuild;
pub use replay::{Replay, Unplayable};
pub(in crate::cmd) use rules::{GroupChange, group_changed, newer, popped, removed, trimmed};
pub use rules::{Rule, rule_of};

use super::{Ctx, Spec};
use crate::{
    journal::Stream,
    resp::{Args, Error, OwnedArgs},
    store::Keyspace,
};

/// Elements of a collection that one frame holds.
const ELEMENTS_MAX: usize = 128;
/// Bytes of words from which on a frame takes no more elements.
const BYTES_MAX: usize = 64 << 10;

/// Where effects on one database of one shard are written.
#[derive(Debug)]
pub struct Writer<'a> {
    stream: &'a mut Stream,
    db: usize,
}

impl<'a> Writer<'a> {
    /// Writes to this stream.
    pub fn new(stream: &'a mut Stream, db: usize) -> Self {
        Self { stream, db }
    }

    /// Writes one frame.
    #[inline]
    pub fn frame<'w>(&mut self, words: impl ExactSizeIterator<Item = &'w [u8]> + Clone) {
        self.stream.frame(self.db, words);
    }

    /// Writes one frame that not every peer understands.
    pub fn special<'w>(&mut self, words: impl ExactSizeIterator<Item = &'w [u8]> + Clone) {
        self.stream.special_frame(self.db, words);
    }

    /// Does somebody follow who knows few commands?
    fn is_plain(&self) -> bool {
        self.stream.is_plain()
    }

    /// Writes one frame of these words.
    fn say<const N: usize>(&mut self, words: [&[u8]; N]) {
        self.frame(words.into_iter());
    }
}

/// Runs a store command while effects are recorded.
///
/// # Errors
/// As the command itself.
pub fn run_recorded(
    ctx: &mut Ctx<'_>,
    spec: &Spec,
    run: fn(&mut Ctx<'_>, Args<'_>) -> Result<(), Error>,
    args: Args<'_>,
) -> Result<(), Error> {
    let before = ctx.dirty;
    let result = run(ctx, args);
    if ctx.dirty > before {
        match spec.effect {
            Rule::None | Rule::Itself => {}
            Rule::Same => record_as(ctx, spec.name, args),
            Rule::As(name) => record_as(ctx, name, args),
            Rule::Newer => newer(ctx, args.at(1), named(spec.name, args)),
            Rule::Told(tell) => tell(ctx, args),
        }
    }
    result
}

/// Records the command under this name. Its key is its first argument.
#[inline]
fn record_as(ctx: &mut Ctx<'_>, name: &'static str, args: Args<'_>) {
    ctx.shards.record(ctx.db, args.at(1), named(name, args));
}

/// The arguments with another name in front.
#[inline]
fn named<'a>(
    name: &'static str,
    args: Args<'a>,
) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
    (0..args.len()).map(move |at| match at {
        0 => name.as_bytes(),
        _ => args.at(at),
    })
}

/// Writes down what went of a keyspace without a command.
#[cold]
pub fn record_gone(keys: &mut Keyspace, writer: &mut Writer<'_>) {
    for gone in keys.take_gone() {
        if gone.fields.is_empty() {
            writer.say([b"DEL", &gone.key]);
        } else {
            let mut batch = Batch::new(writer, &[b"HDEL", &gone.key], &[]);
            gone.fields.iter().for_each(|field| batch.push(&[field]));
            batch.end();
        }
    }
}

/// A command with many elements behind the same head, cut into frames of bounded length.
struct Batch<'b, 'w> {
    writer: &'b mut Writer<'w>,
    words: OwnedArgs,
    head: usize,
    tail: &'b [&'b [u8]],
    elements: usize,
}

impl<'b, 'w> Batch<'b, 'w> {
    fn new(writer: &'b mut Writer<'w>, head: &[&[u8]], tail: &'b [&'b [u8]]) -> Self {
        Self {
            writer,
            words: OwnedArgs::copy(head.iter().copied()),
            head: head.len(),
            tail,
            elements: 0,
        }
    }

    /// Adds an element, which may be several words.
    fn push(&mut self, element: &[&[u8]]) {
        element.iter().for_each(|word| self.words.push(word));
        self.elements += 1;
        if self.elements == ELEMENTS_MAX || self.words.bytes_len() >= BYTES_MAX {
            self.flush();
        }
    }

    /// Writes what is left.
    fn end(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        if self.elements > 0 {
            self.tail.iter().for_each(|word| self.words.push(word));
            self.writer.frame(self.words.as_args().iter());
            self.words.truncate(self.head);
            self.elements = 0;
        }
    }
}
