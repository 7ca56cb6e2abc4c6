//! What a shard did that the primary it is to follow has not: found in its segments before they go.

use std::io;

use super::{Files, RecoverError, read};
use crate::{
    journal::{
        Block, FileName, Position,
        frame::{FrameFault, Frames},
        from_files,
        scan::Scan,
        segment::{SEGMENT_HEADER_LEN, Segment},
    },
    resp::Parser,
};

/// Frames of one history of a shard, as they are to be found in its segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tail {
    /// The history.
    pub generation: u64,
    /// The first frame that is wanted.
    pub from: u64,
    /// Behind the last one; `u64::MAX` where the history is the shard's last.
    pub to: u64,
    /// Frames before these that are wanted, too, and that no segment has any more.
    pub missing: u64,
    /// Segments by number, oldest first, each with the offset up to which it counts.
    segments: Vec<(u64, u64)>,
}

/// One history of a shard.
#[derive(Clone, Debug)]
struct Reign {
    tail: Tail,
    /// It is not a primary's.
    is_own: bool,
    /// Nothing of it is before its first segment.
    has_start: bool,
    /// There, another one ended.
    has_parent: bool,
}

impl Reign {
    fn own_start(&self) -> Option<Position> {
        let start = Position {
            generation: self.tail.generation,
            offset: self.tail.from,
        };
        self.is_own.then_some(start)
    }
}

/// What somebody lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lacking {
    /// These, in the order in which they happened.
    Tails(Vec<Tail>),
    /// Nothing tells it. The shard's newest history began there, and is no primary's, if that is known.
    Unknown(Option<Position>),
}

/// What a shard has that is not in a history which has the shard's frames up to the best of the `known`
/// places. Where none of them is of a history that the segments tell of, it is all of the shard's newest
/// one, if that began here from another one.
///
/// # Errors
/// A file cannot be read.
pub fn lacking(
    files: &(impl Files + ?Sized),
    shard: u32,
    known: &[Position],
) -> Result<Lacking, RecoverError> {
    let mut reigns = reigns(files, shard)?;
    let common = reigns.iter().flat_map(|reign| {
        let of = &reign.tail;
        let known = known.iter().filter(|at| at.generation == of.generation);
        known.map(|at| at.offset.min(of.to))
    });
    let common = match (common.max(), reigns.last()) {
        (Some(common), _) => common,
        (None, Some(newest)) if newest.is_own && newest.has_parent => newest.tail.from,
        (None, newest) => return Ok(Lacking::Unknown(newest.and_then(Reign::own_start))),
    };
    reigns.retain(|reign| reign.tail.to > common);
    if let Some(oldest) = reigns.first_mut() {
        let first = oldest.tail.from;
        if first > common && !oldest.has_start {
            oldest.tail.missing = first - common;
        }
        oldest.tail.from = first.max(common);
    }
    let tails = reigns.into_iter().map(|reign| reign.tail);
    Ok(Lacking::Tails(tails.collect()))
}

/// The histories of a shard, as far back as its segments go; the newest last.
fn reigns(files: &(impl Files + ?Sized), shard: u32) -> Result<Vec<Reign>, RecoverError> {
    let names = files
        .names()
        .map_err(|error| RecoverError::Io(None, 0, error.to_string()))?;
    let seqs = names.iter().filter_map(|name| match FileName::parse(name) {
        Some(FileName::Segment { shard: of, seq }) if of == shard => Some(seq),
        _ => None,
    });
    let mut seqs: Vec<u64> = seqs.collect();
    seqs.sort_unstable();
    let mut reigns: Vec<Reign> = Vec::new();
    // Where the one that is looked for ends.
    let mut parent: Option<Position> = None;
    for seq in seqs.into_iter().rev() {
        let Some(segment) = header(files, FileName::Segment { shard, seq })? else {
            continue;
        };
        let (generation, is_copied) = from_files(segment.start.generation);
        let limit = match parent {
            None => u64::MAX,
            Some(end) if end.generation == generation && segment.start.offset <= end.offset => {
                end.offset
            }
            // It was cut, or is of a history that was given up.
            Some(_) => continue,
        };
        let before = from_files(segment.parent.generation).0;
        parent = Some(Position {
            generation: before,
            offset: segment.parent.offset,
        });
        let start = segment.start.offset;
        let has_start = before != generation;
        let has_parent = has_start && before != 0;
        match reigns.last_mut() {
            Some(reign) if reign.tail.generation == generation => {
                reign.tail.segments.insert(0, (seq, limit));
                reign.tail.from = start;
                (reign.has_start, reign.has_parent) = (has_start, has_parent);
            }
            _ => reigns.push(Reign {
                tail: Tail {
                    generation,
                    from: start,
                    to: limit,
                    missing: 0,
                    segments: vec![(seq, limit)],
                },
                is_own: !is_copied,
                has_start,
                has_parent,
            }),
        }
    }
    reigns.reverse();
    Ok(reigns)
}

/// The header of a segment; `None` if there is none, or it has gone.
fn header(files: &(impl Files + ?Sized), name: FileName) -> Result<Option<Segment>, RecoverError> {
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    match files.read(&name.to_string(), 0, &mut bytes) {
        Ok(_) => Ok(Segment::read(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RecoverError::Io(Some(name), 0, error.to_string())),
    }
}

/// What came of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// The first frame, if there was one.
    pub from: u64,
    /// Behind the last one.
    pub to: u64,
    /// Frames that were wanted and are not there.
    pub missing: u64,
}

/// Why a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// A segment.
    Read(RecoverError),
    /// Who was to take it.
    Write(io::Error),
}

/// Copies frames into a file of the form of a segment, with number 0. `put` takes it piece by piece; where no
/// frame is found it is not asked.
///
/// # Errors
/// [`CopyError`].
pub fn copy(
    files: &(impl Files + ?Sized),
    shard: u32,
    tail: &Tail,
    mut put: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Copied, CopyError> {
    let mut parser = Parser::default();
    let mut next: Option<u64> = None;
    let mut copied = Copied {
        missing: tail.missing,
        ..Copied::default()
    };
    for (seq, limit) in &tail.segments {
        let name = FileName::Segment { shard, seq: *seq };
        let unreadable =
            |at, fault: FrameFault| CopyError::Read(RecoverError::Frame(name, at, fault));
        let (mut scan, mut memory, mut at) = (Scan::default(), Vec::new(), 0);
        loop {
            let bytes = match read(files, name, at, &mut memory) {
                Ok([]) => break,
                Ok(bytes) => bytes,
                // A snapshot may have removed it meanwhile: then its frames are missing.
                Err(_) if !is_there(files, name) => break,
                Err(error) => return Err(CopyError::Read(error)),
            };
            at += bytes.len() as u64;
            scan.feed(bytes);
            while let Ok(Some(block)) = scan.next() {
                let from = block.first.max(next.unwrap_or(tail.from));
                let to = block.end.min(*limit).min(tail.to);
                if from >= to {
                    continue;
                }
                let wanted = next.unwrap_or(tail.from);
                if from > wanted {
                    copied.missing += from - wanted;
                    if next.is_some() {
                        // A file has no gaps.
                        return Ok(copied.up_to(tail, from));
                    }
                }
                let (span, database) = ((block.first, block.end - block.first), block.database());
                let frames = block.frame_bytes();
                let mut reader = Frames::of_part(frames, span, database, &mut parser);
                let refused = |fault| unreadable(block.at, fault);
                let database = reader.database_at(from).map_err(refused)?;
                let begin = reader.skip_to(from).map_err(refused)?;
                let end = reader.skip_to(to).map_err(refused)?;
                let start = Position {
                    generation: tail.generation,
                    offset: from,
                };
                let mut made = Block::of_frames(shard, start, to, (database, &frames[begin..end]));
                made.seal(0, from);
                if next.is_none() {
                    copied.from = from;
                    let segment = header(files, name).map_err(CopyError::Read)?;
                    put(&of(shard, start, segment).compose()).map_err(CopyError::Write)?;
                }
                put(made.bytes()).map_err(CopyError::Write)?;
                (next, copied.to) = (Some(to), to);
            }
            if scan.segment().is_none() && at >= SEGMENT_HEADER_LEN as u64 {
                break;
            }
        }
    }
    Ok(copied.up_to(tail, next.unwrap_or(tail.from)))
}

impl Copied {
    /// Nothing behind this offset was copied, where the tail's end is known.
    fn up_to(mut self, tail: &Tail, reached: u64) -> Self {
        if tail.to < u64::MAX {
            self.missing += tail.to.saturating_sub(reached);
        }
        self
    }
}

fn is_there(files: &(impl Files + ?Sized), name: FileName) -> bool {
    let names = files.names();
    names.map_or(true, |names| names.contains(&name.to_string()))
}

/// The header of a copy that begins with this frame of a segment.
fn of(shard: u32, start: Position, segment: Option<Segment>) -> Segment {
    Segment {
        seq: 0,
        shard,
        shard_count: segment.map_or(shard + 1, |segment| segment.shard_count),
        routing: segment.map_or(0, |segment| segment.routing),
        start,
        parent: start,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::journal::{Stream, in_files};

    const SHARD: u32 = 1;

    /// Segments by number.
    #[derive(Default)]
    struct Shelf(BTreeMap<u64, Vec<u8>>);

    impl Files for Shelf {
        fn names(&self) -> io::Result<Vec<String>> {
            Ok(self.0.keys().map(|seq| name(*seq)).collect())
        }

        fn len(&self, _name: &str) -> io::Result<u64> {
            unreachable!("nobody asks for it")
        }

        fn read(&self, wanted: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
            let found = self.0.iter().find(|(seq, _)| name(**seq) == wanted);
            let (_, bytes) = found.ok_or(io::ErrorKind::NotFound)?;
            let rest = &bytes[bytes.len().min(at as usize)..];
            let len = rest.len().min(into.len());
            into[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    fn name(seq: u64) -> String {
        FileName::Segment { shard: SHARD, seq }.to_string()
    }

    fn at(generation: u64, offset: u64) -> Position {
        Position { generation, offset }
    }

    impl Shelf {
        /// A segment with these blocks of so many frames, each `SET` of what was the next offset; in a
        /// database of its own from the second block on, which a frame before them says.
        fn segment(mut self, seq: u64, start: Position, parent: Position, blocks: &[u64]) -> Self {
            let mut stream = Stream::new(SHARD, start);
            let segment = Segment {
                seq,
                shard: SHARD,
                shard_count: 2,
                routing: 0,
                start,
                parent,
            };
            let mut bytes = segment.compose().to_vec();
            for (number, frames) in blocks.iter().enumerate() {
                for _ in 0..*frames {
                    let text = stream.next().to_string();
                    let words = [&b"SET"[..], b"key", text.as_bytes()];
                    stream.frame(number, words.into_iter());
                    stream.end_unit();
                }
                let mut block = stream.take_block().expect("some units");
                block.seal(seq, block.first());
                bytes.extend_from_slice(block.bytes());
            }
            // Reserved, and never written to.
            bytes.resize(bytes.len() + 8192, 0);
            self.0.insert(seq, bytes);
            self
        }

        fn lacking(&self, known: &[Position]) -> Lacking {
            lacking(self, SHARD, known).expect("every header can be read")
        }

        /// Generation, first frame, end and what is missing of each tail.
        fn tails(&self, known: &[Position]) -> Option<Vec<(u64, u64, u64, u64)>> {
            let Lacking::Tails(tails) = self.lacking(known) else {
                return None;
            };
            let row = |tail: &Tail| (tail.generation, tail.from, tail.to, tail.missing);
            Some(tails.iter().map(row).collect())
        }
    }

    /// What a copy says of itself, and its frames with their databases.
    fn copied(shelf: &Shelf, tail: &Tail) -> (Copied, Vec<(u64, u32, String)>) {
        let mut file = Vec::new();
        let put = |bytes: &[u8]| {
            file.extend_from_slice(bytes);
            Ok(())
        };
        let copied = copy(shelf, SHARD, tail, put).expect("it can be read");
        let (mut scan, mut frames) = (Scan::default(), Vec::new());
        scan.feed(&file);
        while let Some(mut block) = scan.next().expect("it has a header") {
            let mut read = block.frames();
            while let Some(frame) = read.next().expect("whole frames") {
                let text = String::from_utf8_lossy(frame.args.at(2)).into_owned();
                frames.push((frame.offset, frame.database, text));
            }
        }
        if !file.is_empty() {
            let segment = *scan.segment().expect("a header");
            assert_eq!(segment.start, at(tail.generation, copied.from));
            let end = scan.finish().expect("a header");
            assert_eq!(
                (end.next, end.tail),
                (copied.to, crate::journal::scan::Tail::Zeros)
            );
        }
        (copied, frames)
    }

    const END: u64 = u64::MAX;

    /// As a primary of history 5 that began where it had followed history 3 up to 40.
    fn elected() -> Shelf {
        let copy = |offset| at(in_files(3, true), offset);
        Shelf::default()
            .segment(1, copy(20), copy(20), &[10])
            .segment(2, copy(30), copy(30), &[10])
            .segment(4, at(5, 40), copy(40), &[4, 4])
            .segment(6, at(5, 49), at(5, 49), &[3])
    }

    #[test]
    fn what_a_primary_lacks_begins_at_the_last_place_they_have_in_common() {
        let shelf = elected();
        let tails = |known: &[Position]| shelf.tails(known);
        assert_eq!(tails(&[at(9, 70), at(5, 47)]), Some(vec![(5, 47, END, 0)]));
        // It has all that was done here.
        assert_eq!(tails(&[at(9, 70), at(5, 60)]), Some(vec![(5, 60, END, 0)]));
        // It has never seen this history, but the one before.
        let both = vec![(3, 35, 40, 0), (5, 40, END, 0)];
        assert_eq!(tails(&[at(9, 70), at(3, 35)]), Some(both));
        // That one went on elsewhere.
        assert_eq!(tails(&[at(3, 55)]), Some(vec![(5, 40, END, 0)]));
        // Before the first segment.
        let all = vec![(3, 20, 40, 8), (5, 40, END, 0)];
        assert_eq!(tails(&[at(3, 12)]), Some(all));
        // The best place counts.
        assert_eq!(tails(&[at(3, 12), at(5, 50)]), Some(vec![(5, 50, END, 0)]));
        // Nobody knows; what was done since this node was a primary is its own.
        assert_eq!(tails(&[at(9, 70)]), Some(vec![(5, 40, END, 0)]));
    }

    #[test]
    fn where_nothing_tells_what_is_lacking_nothing_is_kept() {
        let stranger = [at(9, 70)];
        let born = Shelf::default().segment(1, at(5, 2), at(0, 0), &[10]);
        assert_eq!(born.lacking(&stranger), Lacking::Unknown(Some(at(5, 2))));
        let known = [at(9, 70), at(5, 3)];
        assert_eq!(born.tails(&known), Some(vec![(5, 3, END, 0)]));
        let copy = at(in_files(5, true), 7);
        let copy = Shelf::default().segment(1, copy, at(4, 7), &[10]);
        assert_eq!(copy.lacking(&stranger), Lacking::Unknown(None));
        let none = Shelf::default().lacking(&stranger);
        assert_eq!(none, Lacking::Unknown(None));
    }

    #[test]
    fn what_a_recovery_has_cut_is_not_counted() {
        let shelf = Shelf::default()
            .segment(1, at(5, 0), at(0, 0), &[10])
            // Of a history that was replaced by a snapshot.
            .segment(2, at(6, 30), at(6, 30), &[10])
            .segment(3, at(7, 1000), at(5, 8), &[5]);
        let tails = shelf.tails(&[at(5, 4)]);
        assert_eq!(tails, Some(vec![(5, 4, 8, 0), (7, 1000, END, 0)]));
    }

    #[test]
    fn a_copy_has_the_wanted_frames_in_their_databases() {
        let shelf = elected();
        let wanted = |from, to, missing| {
            let Lacking::Tails(mut tails) = shelf.lacking(&[at(5, from)]) else {
                panic!("it is known");
            };
            let mut tail = tails.remove(0);
            (tail.to, tail.missing) = (to, missing);
            tail
        };
        // The second block begins with a SELECT.
        let all = [40, 41, 42, 43, 45, 46, 47, 48, 49, 50, 51];
        for from in 40..=52 {
            for to in from..=52 {
                let (copied, frames) = copied(&shelf, &wanted(from, to, 0));
                let want = all.iter().filter(|offset| (from..to).contains(*offset));
                let want = want.map(|offset| {
                    let is_second = (44..49).contains(offset);
                    let text = offset - u64::from(*offset == 45);
                    (*offset, u32::from(is_second), text.to_string())
                });
                assert_eq!(frames, want.collect::<Vec<_>>(), "{from} to {to}");
                if from < to {
                    let whole = Copied {
                        from,
                        to,
                        missing: 0,
                    };
                    assert_eq!(copied, whole);
                }
            }
        }
        // More was there once than there is now.
        assert_eq!(copied(&shelf, &wanted(48, 60, 3)).0.missing, 3 + 8);
        let mut late = wanted(40, 52, 0);
        late.from = 38;
        let (copied, frames) = copied(&shelf, &late);
        assert_eq!(
            (copied.from, copied.to, copied.missing, frames.len()),
            (40, 52, 2, 11)
        );
    }

    #[test]
    fn a_segment_that_has_gone_leaves_a_copy_with_what_is_left() {
        let mut shelf = elected();
        let Lacking::Tails(tails) = shelf.lacking(&[at(3, 35)]) else {
            panic!("it is known");
        };
        shelf.0.remove(&4);
        let (first, _) = copied(&shelf, &tails[0]);
        assert_eq!((first.from, first.to, first.missing), (35, 40, 0));
        let (second, frames) = copied(&shelf, &tails[1]);
        assert_eq!((second.from, second.to, second.missing), (49, 52, 9));
        assert_eq!(frames.len(), 3);
    }
}
