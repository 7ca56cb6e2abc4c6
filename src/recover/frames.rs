//! Frames of a shard out of its segments, for replicas that were away for long.

use bytes::Bytes;

use super::{Files, RecoverError, read};
use crate::{
    base::parse_u64,
    journal::{Ancestry, FileName, Position, frame::SHIPPED, from_files, scan::Scan},
    repl::{Part, history::is_special},
};

/// Which frames.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of which shard.
    pub shard: u32,
    /// Of which history.
    pub generation: u64,
    /// The ones that it goes on from.
    pub ancestry: Ancestry,
    /// From this offset on.
    pub from: u64,
    /// For a kevy that comes back and says that it is there.
    pub comes_back: bool,
    /// About so many bytes.
    pub len: usize,
}

/// The wanted frames, as far as the segments have them; `None` if they do not have the first one, or if who
/// is at its offset is nowhere (see [`SHIPPED`]). The segment that is being written to may be among them.
///
/// # Errors
/// A file cannot be read.
pub fn frames(
    files: &(impl Files + ?Sized),
    wanted: Wanted,
) -> Result<Option<Vec<Part>>, RecoverError> {
    let names = files
        .names()
        .map_err(|error| RecoverError::Io(None, 0, error.to_string()))?;
    let mut segments: Vec<u64> = names
        .iter()
        .filter_map(|name| match FileName::parse(name) {
            Some(FileName::Segment { shard, seq }) if shard == wanted.shard => Some(seq),
            _ => None,
        })
        .collect();
    segments.sort_unstable();
    let (shard, from, comes_back) = (wanted.shard, wanted.from, wanted.comes_back);
    let mut reading = Reading {
        wanted,
        parts: Vec::new(),
        len: 0,
        next: from,
        is_nowhere: false,
    };
    for seq in segments {
        let name = FileName::Segment { shard, seq };
        if let Err(error) = reading.segment(files, name) {
            // A snapshot may have removed it meanwhile.
            let is_there = files
                .names()
                .map_or(true, |names| names.contains(&name.to_string()));
            if is_there {
                return Err(error);
            }
        }
    }
    let is_nowhere = comes_back && reading.is_nowhere;
    let is_there = reading.next > from && !is_nowhere;
    Ok(is_there.then_some(reading.parts))
}

struct Reading {
    wanted: Wanted,
    parts: Vec<Part>,
    len: usize,
    /// The offset up to which frames were met, from the first wanted one on.
    next: u64,
    is_nowhere: bool,
}

impl Reading {
    fn segment(
        &mut self,
        files: &(impl Files + ?Sized),
        name: FileName,
    ) -> Result<(), RecoverError> {
        let (mut scan, mut memory) = (Scan::default(), Vec::new());
        let mut at = 0;
        loop {
            let bytes = read(files, name, at, &mut memory)?;
            if bytes.is_empty() {
                return Ok(());
            }
            at += bytes.len() as u64;
            scan.feed(bytes);
            let mut is_over = true;
            // What is no segment has no frames.
            while let Ok(Some(mut block)) = scan.next() {
                is_over = false;
                let at = Position {
                    generation: from_files(block.generation()).0,
                    offset: block.end,
                };
                let is_wanted =
                    at.generation == self.wanted.generation || self.wanted.ancestry.has(at);
                if !is_wanted || block.first > self.next {
                    return Ok(());
                }
                if block.end <= self.next {
                    continue;
                }
                let mut is_plain = block.database() == 0;
                let mut count = 0;
                let mut frames = block.frames();
                while let Ok(Some(frame)) = frames.next() {
                    count += 1;
                    is_plain &= !is_special(frame.args);
                    if frame.args.at(0) == SHIPPED.as_bytes() {
                        let first = frame.args.get(1).and_then(parse_u64).unwrap_or(0);
                        self.is_nowhere |= (first..frame.offset).contains(&self.wanted.from);
                    }
                }
                // Those that were not shown are SELECT.
                is_plain &= count == block.end - block.first;
                if self.len < self.wanted.len {
                    let bytes = Bytes::copy_from_slice(block.frame_bytes());
                    self.len += bytes.len();
                    let participants = block.participants().collect();
                    let span = (block.first, block.end);
                    self.parts.push(Part::read(
                        span,
                        block.database(),
                        bytes,
                        is_plain,
                        participants,
                    ));
                }
                self.next = block.end;
            }
            if is_over && scan.segment().is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io};

    use super::*;
    use crate::{
        base::Position,
        journal::{Stream, segment::Segment},
    };

    /// Segments by number; those before `first` are removed after the names were first asked for.
    struct Shelf {
        segments: Vec<(u64, Vec<u8>)>,
        first: u64,
        asked: Cell<bool>,
    }

    impl Files for Shelf {
        fn names(&self) -> io::Result<Vec<String>> {
            let is_removed = self.asked.replace(true);
            let shown = self.segments.iter();
            let shown = shown.filter(|(seq, _)| !is_removed || *seq >= self.first);
            Ok(shown.map(|(seq, _)| name(*seq)).collect())
        }

        fn len(&self, _name: &str) -> io::Result<u64> {
            unreachable!("nobody asks for it")
        }

        fn read(&self, wanted: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
            let mut shown = self.segments.iter();
            let found = shown.find(|(seq, _)| *seq >= self.first && name(*seq) == wanted);
            let Some((_, bytes)) = found else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let rest = &bytes[bytes.len().min(at as usize)..];
            let len = rest.len().min(into.len());
            into[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    fn name(seq: u64) -> String {
        FileName::Segment { shard: 1, seq }.to_string()
    }

    /// A shelf of segments of two frames each, from offset 10 on.
    fn shelf(segments: u64, first: u64) -> Shelf {
        let start = Position {
            generation: 7,
            offset: 10,
        };
        let mut stream = Stream::new(1, start);
        let segments = (0..segments).map(|seq| {
            let start = Position {
                offset: stream.next(),
                ..start
            };
            let segment = Segment {
                seq,
                shard: 1,
                shard_count: 2,
                routing: 0,
                start,
                parent: start,
            };
            let mut bytes = segment.compose().to_vec();
            for _ in 0..2 {
                stream.frame(0, [&b"INCR"[..], b"key"].into_iter());
                stream.end_unit();
                let mut block = stream.take_block().expect("one unit");
                block.seal(seq, block.first());
                bytes.extend_from_slice(block.bytes());
            }
            (seq, bytes)
        });
        Shelf {
            segments: segments.collect(),
            first,
            asked: Cell::new(false),
        }
    }

    fn found(shelf: &Shelf, from: u64) -> Option<(usize, u64)> {
        let wanted = Wanted {
            shard: 1,
            generation: 7,
            ancestry: Ancestry::default(),
            from,
            comes_back: true,
            len: 1 << 20,
        };
        let parts = frames(shelf, wanted).expect("every file that is there can be read")?;
        parts.last().map(|last| (parts.len(), last.end()))
    }

    #[test]
    fn frames_are_found_from_the_wanted_one_on_while_older_segments_go() {
        for first in 0..3 {
            for from in 8..20 {
                let is_there = (10 + 2 * first..16).contains(&from);
                let want = is_there.then(|| ((16 - from) as usize, 16));
                assert_eq!(found(&shelf(3, first), from), want, "{from} of {first}");
            }
        }
    }
}
