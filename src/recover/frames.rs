//! Frames of a shard out of its segments, for replicas that were away for long.

use bytes::Bytes;

use super::{Files, RecoverError, read};
use crate::{
    base::parse_u64,
    journal::{FileName, frame::SHIPPED, scan::Scan},
    repl::{Part, history::is_special},
};

/// Which frames.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Of which shard.
    pub shard: u32,
    /// Of which history.
    pub generation: u64,
    /// From this offset on.
    pub from: u64,
    /// For a replica that comes back and says that it is there.
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
    let mut reading = Reading {
        wanted,
        parts: Vec::new(),
        len: 0,
        next: wanted.from,
        is_nowhere: false,
    };
    for seq in segments {
        let shard = wanted.shard;
        reading.segment(files, FileName::Segment { shard, seq })?;
    }
    let is_nowhere = wanted.comes_back && reading.is_nowhere;
    let is_there = reading.next > wanted.from && !is_nowhere;
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
                if block.generation() != self.wanted.generation || block.first > self.next {
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
                    let span = (block.first, block.end);
                    self.parts
                        .push(Part::read(span, block.database(), bytes, is_plain));
                }
                self.next = block.end;
            }
            if is_over && scan.segment().is_none() {
                return Ok(());
            }
        }
    }
}
