//! The argument vector of one request, as slices of the buffer it arrived in.

use std::ops::Index;

/// Place of one argument in its buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

/// One request's arguments, borrowed from the buffer they were parsed in. The command's name is
/// argument 0. Copying it copies two pairs of pointer and length.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Joins a buffer and the places of the arguments in it. Every span lies inside the buffer.
    pub fn new(buffer: &'a [u8], spans: &'a [Span]) -> Self {
        Self { buffer, spans }
    }

    /// Number of arguments, the command's name included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True without any argument.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `at`; panics past the end, as a slice does.
    pub fn at(&self, at: usize) -> &'a [u8] {
        let span = self.spans[at];
        &self.buffer[span.start as usize..span.start as usize + span.len as usize]
    }

    /// Argument `at`, if there is one.
    pub fn get(&self, at: usize) -> Option<&'a [u8]> {
        (at < self.spans.len()).then(|| self.at(at))
    }

    /// The arguments from `from` on.
    pub fn rest(&self, from: usize) -> Args<'a> {
        Args {
            buffer: self.buffer,
            spans: &self.spans[from.min(self.spans.len())..],
        }
    }

    /// All arguments in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let buffer = self.buffer;
        self.spans
            .iter()
            .map(move |span| &buffer[span.start as usize..(span.start + span.len) as usize])
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    fn index(&self, at: usize) -> &[u8] {
        self.at(at)
    }
}

/// An argument vector that owns its bytes: a request that has to outlive the turn it arrived in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnedArgs {
    buffer: Vec<u8>,
    spans: Vec<Span>,
}

impl OwnedArgs {
    /// Copies the arguments out of their buffer.
    pub fn copy<'a>(args: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut owned = Self::default();
        for arg in args {
            owned.push(arg);
        }
        owned
    }

    /// Appends one argument.
    pub fn push(&mut self, arg: &[u8]) {
        self.spans.push(Span {
            start: self.buffer.len() as u32,
            len: arg.len() as u32,
        });
        self.buffer.extend_from_slice(arg);
    }

    /// Bytes of all arguments.
    pub fn bytes_len(&self) -> usize {
        self.buffer.len()
    }

    /// The arguments, borrowed.
    pub fn as_args(&self) -> Args<'_> {
        Args::new(&self.buffer, &self.spans)
    }
}
