//! How the files of a shard follow one another, and how much of them counts.

use super::{Fault, Found, Plan, RecoverError, Replayed};
use crate::journal::{FileName, Position, scan::Tail};

/// A segment that was read.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub seq: u64,
    pub len: u64,
    pub start: Position,
    pub parent: Position,
    /// Behind its last good frame.
    pub end: u64,
    /// Where in the file that is.
    pub end_at: u64,
    pub tail: Tail,
    /// Units over several shards.
    pub shared: Vec<SharedAt>,
}

/// One shard's part of a unit over several.
#[derive(Clone, Debug)]
pub(super) struct SharedAt {
    pub first: u64,
    pub end: u64,
    /// All parts: shard and first offset there.
    pub parts: Vec<(usize, u64)>,
}

/// What counts of one shard.
#[derive(Debug)]
pub(super) struct Chain {
    shard: usize,
    snapshot: Option<u64>,
    /// Segments in order, and the frames of each that are replayed.
    links: Vec<(Piece, u64, u64)>,
    /// Where it ends if nothing is replayed.
    base: Position,
}

/// Follows the segments of a shard from its newest good snapshot, or from the first one.
///
/// # Errors
/// A part of the history is missing or damaged.
pub(super) fn follow(shard: usize, found: &Found) -> Result<Chain, RecoverError> {
    let (snapshot, base) = match found.snapshots.last_key_value() {
        Some((seq, end)) => (Some(*seq), *end),
        None => (None, Position::UNKNOWN),
    };
    let mut chain = Chain {
        shard,
        snapshot,
        links: Vec::new(),
        base,
    };
    let pieces = &found.pieces;
    // A later segment says how much of an earlier one counts: what a recovery cut off is still there.
    let ends: Vec<u64> = (0..pieces.len())
        .map(|at| match pieces.get(at + 1) {
            Some(next) if next.parent.generation == pieces[at].start.generation => {
                next.parent.offset
            }
            _ => pieces[at].end,
        })
        .collect();
    let has = |at: usize, place: Position| {
        let start = pieces[at].start;
        start.generation == place.generation && (start.offset..=ends[at]).contains(&place.offset)
    };
    let first = match snapshot {
        Some(_) => (0..pieces.len())
            .rev()
            .find(|at| has(*at, base))
            .or_else(|| (0..pieces.len()).find(|at| pieces[*at].parent == base)),
        None => (!pieces.is_empty()).then_some(0),
    };
    let Some(first) = first else {
        // Nothing goes on from the snapshot. What is older does not count; what is newer must not be there.
        let newer = pieces.iter().find(|piece| piece.start > base);
        return match (newer, found.bad.first()) {
            (Some(piece), None) => Err(missing(shard, piece)),
            (Some(_), Some(bad)) => Err(bad.clone()),
            (None, Some(bad)) if snapshot.is_none() => Err(bad.clone()),
            (None, _) => Ok(chain),
        };
    };
    if snapshot.is_none() && pieces[first].parent != Position::UNKNOWN {
        let bad = found.bad.first().cloned();
        return Err(bad.unwrap_or_else(|| missing(shard, &pieces[first])));
    }
    let mut at = base;
    for (index, piece) in pieces.iter().enumerate().skip(first) {
        let goes_on = index == first || piece.parent == at || piece.start == at;
        if !goes_on {
            return Err(missing(shard, piece));
        }
        let name = FileName::Segment {
            shard: shard as u32,
            seq: piece.seq,
        };
        if ends[index] > piece.end {
            // The next segment was begun behind frames that cannot be read any more.
            let fault = match piece.tail {
                Tail::Torn(reason) | Tail::Damaged { reason, .. } => Fault::Block(reason),
                Tail::Clean | Tail::Zeros => Fault::Missing(piece.end, ends[index]),
            };
            return Err(RecoverError::of(name, piece.end_at, fault));
        }
        let from = match index == first && has(index, base) && snapshot.is_some() {
            true => base.offset,
            false => piece.start.offset,
        };
        at = Position {
            generation: piece.start.generation,
            offset: ends[index],
        };
        chain.links.push((piece.clone(), from, ends[index]));
    }
    Ok(chain)
}

fn missing(shard: usize, piece: &Piece) -> RecoverError {
    let name = FileName::Segment {
        shard: shard as u32,
        seq: piece.seq,
    };
    RecoverError::of(name, 0, Fault::Missing(piece.parent.offset, piece.start.offset))
}

/// Cuts each chain before the first unit over several shards that one of the others lacks.
pub(super) fn cut_consistently(chains: &mut [(Chain, Found)]) {
    loop {
        let ends: Vec<u64> = chains.iter().map(|(chain, _)| chain.end().offset).collect();
        let mut is_cut = false;
        for (chain, _) in chains.iter_mut() {
            let lacking = chain
                .links
                .iter()
                .flat_map(|(piece, from, to)| {
                    let units = piece.shared.iter();
                    units.filter(move |unit| unit.first >= *from && unit.end <= *to)
                })
                .filter(|unit| unit.parts.iter().any(|(shard, first)| ends[*shard] <= *first))
                .map(|unit| unit.first)
                .min();
            if let Some(first) = lacking {
                is_cut = true;
                chain.cut(first);
            }
        }
        if !is_cut {
            return;
        }
    }
}

impl Chain {
    /// Where what counts ends.
    fn end(&self) -> Position {
        self.links.last().map_or(self.base, |(piece, _, to)| Position {
            generation: piece.start.generation,
            offset: *to,
        })
    }

    /// Nothing from this frame on counts.
    fn cut(&mut self, first: u64) {
        self.links.retain(|(piece, ..)| piece.start.offset <= first);
        if let Some((_, _, to)) = self.links.last_mut() {
            *to = first.min(*to);
        }
    }

    /// The plan that follows.
    pub(super) fn plan(self, found: Found) -> Plan {
        let end = self.end();
        let last = self.links.last();
        let is_clean = last.is_none_or(|(piece, _, to)| piece.tail == Tail::Clean && *to == piece.end);
        let mut notes = Vec::new();
        for (piece, _, to) in &self.links {
            let cut = piece.end - to;
            let name = FileName::Segment {
                shard: self.shard as u32,
                seq: piece.seq,
            };
            if cut > 0 {
                notes.push(format!(
                    "{name}: {cut} frame(s) of units that other shards lack are left out"
                ));
            }
            if let Tail::Torn(reason) = piece.tail {
                notes.push(format!(
                    "{name}: a write that was never confirmed ends at byte {}: {reason}",
                    piece.end_at
                ));
            }
        }
        notes.extend(found.bad.iter().map(|bad| format!("not used: {bad}")));
        let seqs = found.sizes.keys().map(|name| match name {
            FileName::Segment { seq, .. } | FileName::Snapshot { seq, .. } => *seq,
            FileName::Lock | FileName::Meta => 0,
        });
        let generations = found.pieces.iter().map(|piece| piece.start.generation);
        let size = |name| found.sizes.get(&name).copied().unwrap_or(0);
        let shard = self.shard as u32;
        let snapshot_bytes = self.snapshot.map_or(0, |seq| size(FileName::Snapshot { shard, seq }));
        let replayed: u64 = self.links.iter().map(|(piece, ..)| piece.end_at).sum();
        Plan {
            shard: self.shard,
            snapshot: self.snapshot,
            replay: self
                .links
                .iter()
                .map(|(piece, from, to)| Replayed {
                    seq: piece.seq,
                    from: *from,
                    to: *to,
                })
                .collect(),
            end,
            is_clean,
            next_seq: seqs.max().unwrap_or(0) + 1,
            generation: generations.max().unwrap_or(0).max(end.generation),
            segments: found
                .pieces
                .iter()
                .map(|piece| (piece.seq, piece.end, piece.len))
                .collect(),
            snapshots: found.snapshots.into_keys().collect(),
            snapshot_bytes,
            unused: found.unused,
            bytes: snapshot_bytes + replayed,
            notes,
        }
    }
}
