//! The argument vector of one request, as slices of the buffer it arrived in.

use std::ops::Index;

use bytes::Bytes;

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
    /// The memory that the arguments lie in instead of `buffer`.
    shared: Option<Bytes>,
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

    /// Keeps the arguments where they are if that is this memory, and copies them otherwise.
    pub fn keep(args: Args<'_>, memory: Option<&Bytes>) -> Self {
        match memory {
            Some(memory) if std::ptr::eq(&memory[..], args.buffer) => Self {
                buffer: Vec::new(),
                spans: args.spans.to_vec(),
                shared: Some(memory.clone()),
            },
            _ => Self::copy(args.iter()),
        }
    }

    /// The memory that [`keep`](OwnedArgs::keep) kept.
    pub fn shared(&self) -> Option<&Bytes> {
        self.shared.as_ref()
    }

    /// Appends one argument.
    pub fn push(&mut self, arg: &[u8]) {
        if let Some(shared) = self.shared.take() {
            self.buffer = shared.into();
        }
        self.spans.push(Span {
            start: self.buffer.len() as u32,
            len: arg.len() as u32,
        });
        self.buffer.extend_from_slice(arg);
    }

    /// Drops all arguments but the first `count`. The memory stays.
    pub fn truncate(&mut self, count: usize) {
        if let Some(first) = self.spans.get(count) {
            if self.shared.is_none() {
                self.buffer.truncate(first.start as usize);
            }
            self.spans.truncate(count);
        }
    }

    /// Bytes of all arguments.
    pub fn bytes_len(&self) -> usize {
        self.buffer.len()
    }

    /// The arguments, borrowed.
    pub fn as_args(&self) -> Args<'_> {
        let buffer = self.shared.as_deref().unwrap_or(&self.buffer);
        Args::new(buffer, &self.spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_kept_where_they_are_or_copied() {
        let memory = Bytes::from_static(b"SETkvalue");
        let spans = [(0, 3), (3, 1), (4, 5)].map(|(start, len)| Span { start, len });
        let args = Args::new(&memory, &spans);
        let other = Bytes::from_static(b"other");
        for shared in [None, Some(&other), Some(&memory)] {
            let mut kept = OwnedArgs::keep(args, shared);
            let stays = shared == Some(&memory);
            assert_eq!(kept.shared().is_some(), stays);
            assert_eq!(kept.as_args().at(2).as_ptr() == memory[4..].as_ptr(), stays);
            kept.push(b"NX");
            let want: [&[u8]; 4] = [b"SET", b"k", b"value", b"NX"];
            assert!(kept.as_args().iter().eq(want));
        }
    }
}
