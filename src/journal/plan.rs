//! From what all files of a directory say to what is loaded and replayed. Pure: the caller has read the
//! headers and footers of the snapshots and has scanned the segments; it gets a list for each shard, or the
//! one reason why the node must not start.

use std::fmt;

use super::{
    FileName, Position, from_files,
    meta::Meta,
    scan::{BlockFault, ScanEnd, Tail},
    segment::{HeaderFault, Segment},
    snapshot::{Snapshot, SnapshotFault, Summary},
};

/// The files of one shard, in any order.
#[derive(Clone, Debug, Default)]
pub struct ShardFiles {
    /// Its snapshots.
    pub snapshots: Vec<SnapshotFile>,
    /// Its segments.
    pub segments: Vec<SegmentFile>,
}

/// A snapshot by its header and its footer.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// The number in its name.
    pub seq: u64,
    /// What it says, or why it cannot be read.
    pub found: Result<(Snapshot, Summary), SnapshotFault>,
}

/// A segment and what a scan of it found.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// The number in its name.
    pub seq: u64,
    /// What it says, or why it cannot be read.
    pub found: Result<Scanned, HeaderFault>,
}

/// A segment from its header to its end.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The header.
    pub segment: Segment,
    /// How it ends.
    pub end: ScanEnd,
    /// The parts of units over several shards that it holds, in order.
    pub shared: Vec<SharedUnit>,
}

/// One part of a unit over several shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedUnit {
    /// Offset of its first frame.
    pub first: u64,
    /// All parts by shard and first offset there.
    pub participants: Vec<(u32, u64)>,
}

/// What to do for one shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardPlan {
    /// The snapshot to load, by its number; without one the shard begins empty.
    pub snapshot: Option<u64>,
    /// Then the frames to replay, in this order.
    pub replays: Vec<Replay>,
    /// Where the history ends: the parent of the next segment.
    pub end: Position,
    /// Frames that were read and do not count, because parts of their units are missing in other shards.
    pub cut_count: u64,
    /// The node had stopped in order.
    pub is_clean: bool,
    /// Files that nothing needs any more.
    pub unused: Vec<FileName>,
}

/// The frames of a segment with offsets `from <= offset < to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replay {
    /// Number of the segment.
    pub seq: u64,
    /// Its generation.
    pub generation: u64,
    /// First frame.
    pub from: u64,
    /// The frame behind the last one.
    pub to: u64,
}

/// Why a node must not start with these files. Nothing was changed; [`remedy`](PlanError::remedy) says what
/// the operator can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// The header of a segment cannot be read.
    Header {
        /// The segment.
        file: FileName,
        /// What is wrong.
        fault: HeaderFault,
    },
    /// The newest snapshot of a shard was published and cannot be read any more.
    Snapshot {
        /// The snapshot.
        file: FileName,
        /// What is wrong.
        fault: SnapshotFault,
    },
    /// The header belongs to a file of another name.
    Misnamed {
        /// The file.
        file: FileName,
    },
    /// The file was written for another number of shards, or another routing.
    OtherLayout {
        /// The file.
        file: FileName,
    },
    /// A block that had been durable cannot be read.
    Damaged {
        /// The segment.
        file: FileName,
        /// Where the bad block begins.
        at: u64,
        /// What is wrong with it.
        reason: BlockFault,
        /// Where a later block begins that proves it.
        proof: u64,
    },
    /// A segment ends before the place from which a later file goes on.
    Short {
        /// The segment.
        file: FileName,
        /// Where its last good block ends.
        at: u64,
        /// What follows that.
        tail: Tail,
        /// The offset that it reaches.
        end: u64,
        /// The offset from which the later file goes on.
        wanted: u64,
        /// The later file.
        later: FileName,
    },
    /// No file has the frames before this one.
    Gap {
        /// The file that goes on from them.
        file: FileName,
        /// Where it goes on from.
        wanted: Position,
    },
    /// What is complete over all shards ends before the snapshot of one of them does.
    CutBelowSnapshot {
        /// The snapshot.
        file: FileName,
        /// Where it ends.
        end: u64,
        /// Where the complete part ends.
        cut: u64,
    },
    /// A unit names a shard that the directory does not have.
    NoSuchShard {
        /// The segment.
        file: FileName,
        /// Offset of the unit.
        first: u64,
        /// The shard.
        shard: u32,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { file, fault } => write!(out, "{file}: byte 0: {fault}"),
            Self::Snapshot { file, fault } => write!(out, "{file}: {fault}"),
            Self::Misnamed { file } => {
                write!(out, "{file}: byte 0: the header is that of another file")
            }
            Self::OtherLayout { file } => write!(
                out,
                "{file}: byte 0: written for another number of shards or another routing than {} says",
                FileName::Meta
            ),
            Self::Damaged {
                file,
                at,
                reason,
                proof,
            } => write!(
                out,
                "{file}: byte {at}: {reason}, and the block at byte {proof} shows that it had been durable"
            ),
            Self::Short {
                file,
                at,
                tail,
                end,
                wanted,
                later,
            } => {
                write!(out, "{file}: byte {at}: ")?;
                match tail {
                    Tail::Torn(reason) | Tail::Damaged { reason, .. } => write!(out, "{reason}, ")?,
                    Tail::Clean | Tail::Zeros => {}
                }
                write!(
                    out,
                    "it ends before frame {end}, and {later} goes on from frame {wanted}"
                )
            }
            Self::Gap { file, wanted } => write!(
                out,
                "{file}: byte 0: it goes on from frame {} of generation {}, which no file has",
                wanted.offset, wanted.generation
            ),
            Self::CutBelowSnapshot { file, end, cut } => write!(
                out,
                "{file}: it holds frames up to {end}, but of units over several shards only those before \
                 frame {cut} are complete: the journal of another shard has lost its end"
            ),
            Self::NoSuchShard { file, first, shard } => write!(
                out,
                "{file}: the unit at frame {first} has a part in shard {shard}, which there is not"
            ),
        }
    }
}

impl std::error::Error for PlanError {}

impl PlanError {
    /// What the operator can do. `dir` stands before the names of files in commands.
    pub fn remedy(&self, dir: &str) -> String {
        let whole = "put the directory back from a backup, or let the node copy another one";
        match self {
            Self::Damaged { file, at, .. } => format!(
                "{whole}; or lose what the file holds from there on: \
                 ringkeep repair --truncate-at {at} {dir}{file}"
            ),
            Self::Short {
                end,
                later: later @ FileName::Segment { shard, .. },
                ..
            } => format!(
                "{whole}; or lose what shard {shard} holds from frame {end} on: move {dir}{later} away and \
                 all journal files of the shard with higher numbers"
            ),
            Self::Header {
                fault: HeaderFault::Version(_),
                ..
            } => "start the version of ringkeep that wrote it".to_string(),
            Self::OtherLayout { .. } => {
                "start the node with the directory that the file belongs to".to_string()
            }
            Self::Misnamed { .. } => "give the file its old name back".to_string(),
            Self::Gap { .. } => format!("put the missing files back; or {whole}"),
            Self::Header { .. }
            | Self::Snapshot { .. }
            | Self::Short { .. }
            | Self::CutBelowSnapshot { .. }
            | Self::NoSuchShard { .. } => whole.to_string(),
        }
    }
}

/// Decides for every shard what is loaded and replayed.
///
/// # Errors
/// [`PlanError`]: something is missing or damaged that had been durable.
pub fn plan(meta: &Meta, shards: &[ShardFiles]) -> Result<Vec<ShardPlan>, PlanError> {
    let chains = (0..)
        .zip(shards)
        .map(|(shard, files)| Chain::of(meta, shard, files))
        .collect::<Result<Vec<_>, _>>()?;
    let cuts = consistent_cut(&chains)?;
    chains
        .into_iter()
        .zip(cuts)
        .map(|(chain, cut)| chain.plan(cut))
        .collect()
}

/// The files of a shard that hang together, up to the end of the history.
struct Chain<'a> {
    shard: u32,
    snapshot: Option<(u64, Position)>,
    /// Oldest first.
    links: Vec<Link<'a>>,
    end: Position,
    is_clean: bool,
    unused: Vec<FileName>,
}

/// The part of a segment that counts.
struct Link<'a> {
    seq: u64,
    scanned: &'a Scanned,
    from: u64,
    to: u64,
}

impl<'a> Chain<'a> {
    fn of(meta: &Meta, shard: u32, files: &'a ShardFiles) -> Result<Self, PlanError> {
        let snapshot = newest_snapshot(meta, shard, files)?;
        let mut segments = readable_segments(meta, shard, files)?;
        segments.sort_unstable_by_key(|(seq, _)| *seq);
        let start = snapshot.map_or(Position::UNKNOWN, |(_, end)| end);
        let mut chain = Chain {
            shard,
            snapshot,
            links: Vec::new(),
            end: start,
            // What was imported has no history yet.
            is_clean: segments.is_empty() && start.offset == 0,
            unused: Vec::new(),
        };
        chain.connect(start, &segments)?;
        chain.links.reverse();
        if let Some(last) = chain.links.last() {
            chain.end = Position {
                generation: last.scanned.segment.start.generation,
                offset: last.to,
            };
            // A snapshot behind the newest segment says nothing of how the node ended.
            let newest = segments.last().map(|(seq, _)| *seq);
            chain.is_clean = last.scanned.end.tail == Tail::Clean && newest == Some(last.seq);
        }
        chain.unused = chain.left_over(files);
        Ok(chain)
    }

    /// Goes from the newest segment back to `start`, taking from each what the later one goes on from.
    fn connect(
        &mut self,
        start: Position,
        segments: &[(u64, &'a Scanned)],
    ) -> Result<(), PlanError> {
        // What the part still to be found ends with, and the file that says so.
        let mut wanted: Option<(Position, FileName)> = None;
        for &(seq, scanned) in segments.iter().rev() {
            let (before, after) = (scanned.segment.start.generation, start.generation);
            // A snapshot that begins another history has a higher number than what it makes useless.
            let has_lower = self.snapshot.is_some_and(|(number, _)| seq < number);
            let is_older =
                before != after && (has_lower || from_files(before).0 < from_files(after).0);
            // What is older than the snapshot and nothing newer goes on from: the snapshot was the beginning
            // of a new history.
            if wanted.map_or(is_older, |(end, _)| end == start) {
                return Ok(());
            }
            let file = self.segment_name(seq);
            let segment = &scanned.segment;
            let to = match wanted {
                // Cut off whole by the later one.
                Some((end, _)) if !reaches(segment, end) => continue,
                Some((end, later)) if scanned.end.next < end.offset => {
                    return Err(short(file, scanned, end.offset, later));
                }
                Some((end, _)) => end.offset,
                None => whole_end(file, scanned)?,
            };
            let holds_start = segment.start.generation == start.generation
                && segment.start.offset <= start.offset;
            if holds_start && to < start.offset {
                if wanted.is_none() && scanned.end.next < start.offset {
                    // Writing failed, and the snapshot has what could not be written.
                    return Ok(());
                }
                return Err(self.snapshot_is_ahead(file, scanned, start, to));
            }
            self.links.push(Link {
                seq,
                scanned,
                from: if holds_start {
                    start.offset
                } else {
                    segment.start.offset
                },
                to,
            });
            if holds_start {
                return Ok(());
            }
            wanted = Some((segment.parent, file));
        }
        match wanted {
            Some((wanted, file)) if wanted != start => Err(PlanError::Gap { file, wanted }),
            _ => Ok(()),
        }
    }

    /// A snapshot holds frames that the journal has not, although it was published after them.
    fn snapshot_is_ahead(
        &self,
        file: FileName,
        scanned: &Scanned,
        start: Position,
        to: u64,
    ) -> PlanError {
        let later = self.snapshot_name();
        if scanned.end.next < start.offset {
            return short(file, scanned, start.offset, later);
        }
        PlanError::CutBelowSnapshot {
            file: later,
            end: start.offset,
            cut: to,
        }
    }

    fn left_over(&self, files: &ShardFiles) -> Vec<FileName> {
        let shard = self.shard;
        let used = self.snapshot.map(|(seq, _)| seq);
        let snapshots = files.snapshots.iter().map(|file| file.seq);
        let snapshots = snapshots
            .filter(|seq| Some(*seq) != used)
            .map(|seq| FileName::Snapshot { shard, seq });
        let segments = files.segments.iter().map(|file| file.seq);
        let segments = segments
            .filter(|seq| self.links.iter().all(|link| link.seq != *seq))
            .map(|seq| FileName::Segment { shard, seq });
        let mut unused: Vec<FileName> = snapshots.chain(segments).collect();
        unused.sort_unstable();
        unused
    }

    /// The plan for the part of the history before `cut`.
    fn plan(mut self, cut: u64) -> Result<ShardPlan, PlanError> {
        let start = self.snapshot.map_or(Position::UNKNOWN, |(_, end)| end);
        let is_cut = cut < self.end.offset;
        if is_cut && cut < start.offset {
            return Err(PlanError::CutBelowSnapshot {
                file: self.snapshot_name(),
                end: start.offset,
                cut,
            });
        }
        let mut cut_count = 0;
        let mut end = self.end;
        if is_cut {
            for link in &mut self.links {
                let kept = link.to.min(cut).max(link.from);
                cut_count += link.to - kept;
                link.to = kept;
            }
            self.links.retain(|link| link.from <= cut);
            let last = self.links.last();
            end = last.map_or(start, |link| Position {
                generation: link.scanned.segment.start.generation,
                offset: link.to,
            });
        }
        let replay = |link: &Link<'_>| Replay {
            seq: link.seq,
            generation: link.scanned.segment.start.generation,
            from: link.from,
            to: link.to,
        };
        Ok(ShardPlan {
            snapshot: self.snapshot.map(|(seq, _)| seq),
            replays: self.links.iter().map(replay).collect(),
            end,
            cut_count,
            is_clean: self.is_clean,
            unused: self.unused,
        })
    }

    fn segment_name(&self, seq: u64) -> FileName {
        let shard = self.shard;
        FileName::Segment { shard, seq }
    }

    fn snapshot_name(&self) -> FileName {
        let seq = self.snapshot.map_or(0, |(seq, _)| seq);
        let shard = self.shard;
        FileName::Snapshot { shard, seq }
    }

    /// Is a frame below the end part of the history? After a crash a shard goes on far above what it lost.
    fn has(&self, offset: u64) -> bool {
        let mut end = self.snapshot.map_or(0, |(_, end)| end.offset);
        for link in &self.links {
            if (end..link.from).contains(&offset) {
                return false;
            }
            end = link.to;
        }
        true
    }

    /// The parts of shared units that count, in order.
    fn shared(&self) -> impl Iterator<Item = (&Link<'a>, &'a SharedUnit)> {
        self.links.iter().flat_map(|link| {
            let units = link.scanned.shared.iter();
            let counts = |unit: &&SharedUnit| (link.from..link.to).contains(&unit.first);
            units.filter(counts).map(move |unit| (link, unit))
        })
    }
}

/// The newest snapshot, by its number, and where it ends. It was published whole: if it cannot be read, it
/// was damaged since.
fn newest_snapshot(
    meta: &Meta,
    shard: u32,
    files: &ShardFiles,
) -> Result<Option<(u64, Position)>, PlanError> {
    let Some(newest) = files.snapshots.iter().max_by_key(|file| file.seq) else {
        return Ok(None);
    };
    let seq = newest.seq;
    let file = FileName::Snapshot { shard, seq };
    let (snapshot, summary) = newest
        .found
        .map_err(|fault| PlanError::Snapshot { file, fault })?;
    check_owner(meta, file, (snapshot.shard_count, snapshot.routing))?;
    if (snapshot.shard, snapshot.seq) != (shard, seq) {
        return Err(PlanError::Misnamed { file });
    }
    let end = Position {
        generation: snapshot.generation,
        offset: summary.end,
    };
    Ok(Some((seq, end)))
}

fn readable_segments<'a>(
    meta: &Meta,
    shard: u32,
    files: &'a ShardFiles,
) -> Result<Vec<(u64, &'a Scanned)>, PlanError> {
    let readable = files.segments.iter().map(|segment| {
        let seq = segment.seq;
        let file = FileName::Segment { shard, seq };
        let scanned = segment.found.as_ref();
        let scanned = scanned.map_err(|fault| PlanError::Header {
            file,
            fault: *fault,
        })?;
        let header = &scanned.segment;
        check_owner(meta, file, (header.shard_count, header.routing))?;
        if (header.shard, header.seq) != (shard, seq) {
            return Err(PlanError::Misnamed { file });
        }
        Ok((seq, scanned))
    });
    readable.collect()
}

fn check_owner(meta: &Meta, file: FileName, found: (u32, u32)) -> Result<(), PlanError> {
    if found != (meta.shard_count, meta.routing) {
        return Err(PlanError::OtherLayout { file });
    }
    Ok(())
}

/// Has the segment anything before `end`, or begins there?
fn reaches(segment: &Segment, end: Position) -> bool {
    segment.start.generation == end.generation && segment.start.offset <= end.offset
}

/// Where the newest segment ends.
fn whole_end(file: FileName, scanned: &Scanned) -> Result<u64, PlanError> {
    match scanned.end.tail {
        Tail::Damaged { reason, proof } => Err(PlanError::Damaged {
            file,
            at: scanned.end.at,
            reason,
            proof,
        }),
        Tail::Clean | Tail::Zeros | Tail::Torn(_) => Ok(scanned.end.next),
    }
}

fn short(file: FileName, scanned: &Scanned, wanted: u64, later: FileName) -> PlanError {
    PlanError::Short {
        file,
        at: scanned.end.at,
        tail: scanned.end.tail,
        end: scanned.end.next,
        wanted,
        later,
    }
}

/// Where each shard ends if a unit over several shards counts only with all of its parts. A cut in one
/// shard may leave units of others incomplete, so this goes round until nothing changes.
fn consistent_cut(chains: &[Chain<'_>]) -> Result<Vec<u64>, PlanError> {
    let mut ends: Vec<u64> = chains.iter().map(|chain| chain.end.offset).collect();
    loop {
        let mut has_changed = false;
        for (at, chain) in chains.iter().enumerate() {
            for (link, unit) in chain.shared() {
                if unit.first >= ends[at] {
                    break;
                }
                if !is_complete(unit, chains, &ends).map_err(|shard| PlanError::NoSuchShard {
                    file: chain.segment_name(link.seq),
                    first: unit.first,
                    shard,
                })? {
                    ends[at] = unit.first;
                    has_changed = true;
                    break;
                }
            }
        }
        if !has_changed {
            return Ok(ends);
        }
    }
}

/// Are all parts there? The shard that there is not, if one names it.
fn is_complete(unit: &SharedUnit, chains: &[Chain<'_>], ends: &[u64]) -> Result<bool, u32> {
    for (shard, first) in &unit.participants {
        let end = ends.get(*shard as usize).ok_or(*shard)?;
        if end <= first || !chains[*shard as usize].has(*first) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::in_files;

    const META: Meta = Meta {
        shard_count: 2,
        routing: 0,
    };

    fn position(generation: u64, offset: u64) -> Position {
        Position { generation, offset }
    }

    /// A segment of shard 0 with frames up to `next`.
    fn segment(seq: u64, start: (u64, u64), parent: (u64, u64), next: u64) -> SegmentFile {
        let segment = Segment {
            seq,
            shard: 0,
            shard_count: 2,
            routing: 0,
            start: position(start.0, start.1),
            parent: position(parent.0, parent.1),
        };
        let end = ScanEnd {
            next,
            at: next * 10,
            tail: Tail::Zeros,
        };
        SegmentFile {
            seq,
            found: Ok(Scanned {
                segment,
                end,
                shared: Vec::new(),
            }),
        }
    }

    fn snapshot(seq: u64, generation: u64, end: u64) -> SnapshotFile {
        let snapshot = Snapshot {
            seq,
            shard: 0,
            shard_count: 2,
            routing: 0,
            generation,
            start: end - 1,
        };
        let summary = Summary {
            end,
            ..Summary::default()
        };
        SnapshotFile {
            seq,
            found: Ok((snapshot, summary)),
        }
    }

    fn scanned(file: &mut SegmentFile) -> &mut Scanned {
        file.found.as_mut().unwrap()
    }

    fn ends_as(mut file: SegmentFile, tail: Tail) -> SegmentFile {
        scanned(&mut file).end.tail = tail;
        file
    }

    /// Of shard 1, with units shared with shard 0: first offset here, and there.
    fn of_shard_1(mut file: SegmentFile, units: &[(u64, u64)]) -> SegmentFile {
        scanned(&mut file).segment.shard = 1;
        let units = units.iter().map(|(here, there)| SharedUnit {
            first: *here,
            participants: vec![(0, *there), (1, *here)],
        });
        scanned(&mut file).shared = units.collect();
        file
    }

    /// Of shard 0, with units shared with shard 1.
    fn with_units(mut file: SegmentFile, units: &[(u64, u64)]) -> SegmentFile {
        let units = units.iter().map(|(here, there)| SharedUnit {
            first: *here,
            participants: vec![(0, *here), (1, *there)],
        });
        scanned(&mut file).shared = units.collect();
        file
    }

    fn one(
        snapshots: Vec<SnapshotFile>,
        segments: Vec<SegmentFile>,
    ) -> Result<ShardPlan, PlanError> {
        let files = ShardFiles {
            snapshots,
            segments,
        };
        plan(&META, &[files, ShardFiles::default()]).map(|mut plans| plans.remove(0))
    }

    fn two(first: SegmentFile, second: SegmentFile) -> Result<Vec<ShardPlan>, PlanError> {
        let files = [first, second].map(|segment| ShardFiles {
            snapshots: Vec::new(),
            segments: vec![segment],
        });
        plan(&META, &files)
    }

    fn replays(plan: &ShardPlan) -> Vec<(u64, u64, u64)> {
        let replays = plan.replays.iter();
        replays.map(|part| (part.seq, part.from, part.to)).collect()
    }

    const TORN: Tail = Tail::Torn(BlockFault::BodySum);
    const DAMAGED: Tail = Tail::Damaged {
        reason: BlockFault::BodySum,
        proof: 700,
    };

    #[test]
    fn an_empty_directory_begins_with_nothing() {
        let plan = one(vec![], vec![]).unwrap();
        assert_eq!((plan.end, plan.replays.len()), (Position::UNKNOWN, 0));
    }

    #[test]
    fn a_snapshot_may_begin_a_history_of_a_lower_generation() {
        let copied = |generation| in_files(generation, true);
        // What was removed after it is still there, or not.
        for (generation, end) in [(4, 90), (copied(9), 90), (8, 90)] {
            let old = segment(3, (generation, 10), (0, 0), end);
            let plan = one(vec![snapshot(5, copied(7), 50)], vec![old]).unwrap();
            assert_eq!(
                (plan.end, replays(&plan)),
                (position(copied(7), 50), vec![])
            );
            let old = segment(3, (generation, 10), (0, 0), end);
            let new = segment(6, (copied(7), 50), (copied(7), 50), 60);
            let plan = one(vec![snapshot(5, copied(7), 50)], vec![old, new]).unwrap();
            assert_eq!(replays(&plan), [(6, 50, 60)]);
        }
        // A history of our own that goes on from it.
        let kept = segment(4, (copied(7), 10), (0, 0), 60);
        let own = segment(6, (8, 60), (copied(7), 60), 70);
        let plan = one(vec![snapshot(5, copied(7), 50)], vec![kept, own]).unwrap();
        assert_eq!(plan.end, position(8, 70));
        assert_eq!(replays(&plan), [(4, 50, 60), (6, 60, 70)]);
    }

    #[test]
    fn segments_follow_one_another_from_the_beginning() {
        let plan = one(
            vec![],
            vec![
                segment(2, (7, 50), (7, 50), 80),
                ends_as(segment(1, (7, 10), (0, 0), 50), TORN),
                ends_as(segment(3, (7, 80), (7, 80), 90), TORN),
            ],
        )
        .unwrap();
        assert_eq!(replays(&plan), [(1, 10, 50), (2, 50, 80), (3, 80, 90)]);
        assert_eq!((plan.end, plan.is_clean), (position(7, 90), false));
        let clean = ends_as(segment(1, (7, 10), (0, 0), 50), Tail::Clean);
        assert!(one(vec![], vec![clean]).unwrap().is_clean);
    }

    #[test]
    fn a_snapshot_stands_for_all_before_its_end() {
        let plan = one(
            vec![snapshot(1, 7, 30), snapshot(2, 7, 60)],
            vec![
                segment(4, (7, 20), (7, 20), 50),
                segment(5, (7, 50), (7, 50), 80),
            ],
        )
        .unwrap();
        assert_eq!(
            (plan.snapshot, replays(&plan)),
            (Some(2), vec![(5, 60, 80)])
        );
        let (shard, old) = (0, 1);
        let unused = [
            FileName::Segment { shard, seq: 4 },
            FileName::Snapshot { shard, seq: old },
        ];
        assert_eq!(plan.unused, unused);
        // A snapshot that came from elsewhere: the journal begins with it.
        let plan = one(
            vec![snapshot(1, 7, 30)],
            vec![segment(9, (8, 999), (7, 30), 1001)],
        )
        .unwrap();
        assert_eq!(
            (plan.end, replays(&plan)),
            (position(8, 1001), vec![(9, 999, 1001)])
        );
        let plan = one(vec![snapshot(1, 7, 30)], vec![]).unwrap();
        assert_eq!((plan.end, replays(&plan)), (position(7, 30), vec![]));
    }

    #[test]
    fn a_later_segment_cuts_the_earlier_ones() {
        let plan = one(
            vec![],
            vec![
                segment(1, (7, 10), (0, 0), 50),
                segment(2, (7, 50), (7, 50), 60),
                ends_as(segment(3, (7, 60), (7, 60), 90), DAMAGED),
                segment(4, (8, 2000), (7, 40), 2001),
            ],
        )
        .unwrap();
        assert_eq!(replays(&plan), [(1, 10, 40), (4, 2000, 2001)]);
        assert_eq!(plan.end, position(8, 2001));
        assert_eq!(plan.unused.len(), 2);
    }

    #[test]
    fn what_is_missing_or_damaged_is_told() {
        let file = |seq| FileName::Segment { shard: 0, seq };
        let gap = one(vec![], vec![segment(2, (7, 50), (7, 50), 80)]).unwrap_err();
        let wanted = position(7, 50);
        assert_eq!(
            gap,
            PlanError::Gap {
                file: file(2),
                wanted
            }
        );
        assert_eq!(
            gap.to_string(),
            "journal-0-0000000000000002.rkj: byte 0: it goes on from frame 50 of generation 7, which no file \
             has"
        );
        let missing = one(
            vec![snapshot(1, 7, 30)],
            vec![
                segment(1, (7, 10), (0, 0), 40),
                segment(3, (7, 50), (7, 50), 80),
            ],
        );
        let missing = missing.unwrap_err();
        assert!(missing.remedy("data/").ends_with(
            "or lose what shard 0 holds from frame 40 on: move data/journal-0-0000000000000003.rkj away and \
             all journal files of the shard with higher numbers"
        ));
        assert_eq!(
            missing.to_string(),
            "journal-0-0000000000000001.rkj: byte 400: it ends before frame 40, and \
             journal-0-0000000000000003.rkj goes on from frame 50"
        );
        let damaged = one(
            vec![],
            vec![ends_as(segment(1, (7, 0), (0, 0), 40), DAMAGED)],
        )
        .unwrap_err();
        assert_eq!(
            damaged.to_string(),
            "journal-0-0000000000000001.rkj: byte 400: the sum of a block's body is wrong, and the block at \
             byte 700 shows that it had been durable"
        );
        assert!(
            damaged
                .remedy("data/")
                .ends_with("ringkeep repair --truncate-at 400 data/journal-0-0000000000000001.rkj")
        );
        let ahead = one(
            vec![snapshot(1, 7, 45)],
            vec![ends_as(segment(1, (7, 0), (0, 0), 40), TORN)],
        );
        let ahead = ahead.unwrap();
        assert_eq!(
            (ahead.end, replays(&ahead)),
            (position(7, 45), vec![]),
            "the snapshot has it"
        );
        let cut = one(
            vec![snapshot(1, 7, 45)],
            vec![
                segment(1, (7, 0), (0, 0), 50),
                segment(2, (8, 2000), (7, 42), 2001),
            ],
        );
        assert!(matches!(
            cut,
            Err(PlanError::CutBelowSnapshot {
                end: 45,
                cut: 42,
                ..
            })
        ));
    }

    #[test]
    fn a_snapshot_behind_a_clean_end_is_no_clean_end() {
        let clean = || ends_as(segment(1, (7, 10), (0, 0), 50), Tail::Clean);
        assert!(
            one(vec![snapshot(1, 7, 30)], vec![clean()])
                .unwrap()
                .is_clean
        );
        assert!(
            one(vec![snapshot(1, 7, 50)], vec![clean()])
                .unwrap()
                .is_clean
        );
        // Of the new history that the snapshot began nothing is known.
        assert!(
            !one(vec![snapshot(2, 8, 90)], vec![clean()])
                .unwrap()
                .is_clean
        );
        assert!(!one(vec![snapshot(2, 8, 90)], vec![]).unwrap().is_clean);
    }

    #[test]
    fn files_of_others_are_refused() {
        let mut other = segment(1, (7, 10), (0, 0), 50);
        scanned(&mut other).segment.routing = 1;
        assert!(matches!(
            one(vec![], vec![other]),
            Err(PlanError::OtherLayout { .. })
        ));
        let mut other = segment(1, (7, 10), (0, 0), 50);
        other.seq = 2;
        assert!(matches!(
            one(vec![], vec![other]),
            Err(PlanError::Misnamed { .. })
        ));
        let mut bad = snapshot(2, 7, 60);
        bad.found = Err(SnapshotFault {
            at: 5,
            reason: crate::journal::snapshot::SnapshotReason::Cut,
        });
        let refused = one(vec![snapshot(1, 7, 30), bad], vec![]);
        assert!(matches!(refused, Err(PlanError::Snapshot { .. })));
    }

    #[test]
    fn a_unit_counts_with_all_of_its_parts_only() {
        // The second unit is missing in shard 1.
        let first = with_units(segment(1, (7, 0), (0, 0), 90), &[(10, 5), (20, 15)]);
        let second = of_shard_1(segment(1, (7, 0), (0, 0), 15), &[(5, 10)]);
        let plans = two(first, second).unwrap();
        assert_eq!(
            (replays(&plans[0]), plans[0].cut_count),
            (vec![(1, 0, 20)], 70)
        );
        assert_eq!(
            (replays(&plans[1]), plans[1].cut_count),
            (vec![(1, 0, 15)], 0)
        );
        assert_eq!(plans[0].end, position(7, 20));
    }

    #[test]
    fn a_cut_may_cut_others_in_turn() {
        // Shard 1 lacks the part of the unit at 20, so shard 0 ends there, so the unit at 30 / 12 goes too.
        let first = with_units(segment(1, (7, 0), (0, 0), 90), &[(20, 99), (30, 12)]);
        let second = of_shard_1(segment(1, (7, 0), (0, 0), 50), &[(12, 30)]);
        let plans = two(first, second).unwrap();
        assert_eq!(plans[0].end, position(7, 20));
        assert_eq!((plans[1].end, plans[1].cut_count), (position(7, 12), 38));
        let bad = of_shard_1(segment(1, (7, 0), (0, 0), 50), &[(12, 30)]);
        let mut first = segment(1, (7, 0), (0, 0), 90);
        scanned(&mut first).shared = vec![SharedUnit {
            first: 3,
            participants: vec![(0, 3), (2, 1)],
        }];
        assert!(matches!(
            two(first, bad),
            Err(PlanError::NoSuchShard { shard: 2, .. })
        ));
    }

    #[test]
    fn what_was_cut_does_not_come_back_when_the_other_shard_goes_on() {
        // Shard 1 lost its part at 15, and wrote far above it after the next start. Shard 0 wrote nothing.
        let first = with_units(segment(1, (7, 0), (0, 0), 30), &[(20, 15)]);
        let (lost, new) = (
            segment(1, (7, 0), (0, 0), 15),
            segment(2, (8, 1000), (7, 15), 1010),
        );
        let (lost, new) = (of_shard_1(lost, &[]), of_shard_1(new, &[]));
        let plans = plan(
            &META,
            &[
                ShardFiles {
                    snapshots: vec![],
                    segments: vec![first],
                },
                ShardFiles {
                    snapshots: vec![],
                    segments: vec![lost, new],
                },
            ],
        )
        .unwrap();
        assert_eq!(
            (plans[0].end, plans[1].end),
            (position(7, 20), position(8, 1010))
        );
    }

    #[test]
    fn no_cut_goes_below_a_snapshot() {
        let files = [
            ShardFiles {
                snapshots: vec![snapshot(1, 7, 30)],
                segments: vec![with_units(
                    segment(1, (7, 0), (0, 0), 90),
                    &[(20, 99), (40, 12)],
                )],
            },
            ShardFiles {
                snapshots: vec![],
                segments: vec![of_shard_1(segment(1, (7, 0), (0, 0), 12), &[])],
            },
        ];
        // The unit at 20 is in the snapshot; the one at 40 is cut.
        let plans = plan(&META, &files).unwrap();
        assert_eq!(replays(&plans[0]), [(1, 30, 40)]);
        let later = with_units(segment(1, (7, 0), (0, 0), 90), &[(30, 99)]);
        let files = [
            ShardFiles {
                snapshots: vec![snapshot(1, 7, 30)],
                segments: vec![later],
            },
            files[1].clone(),
        ];
        let plans = plan(&META, &files).unwrap();
        assert_eq!(
            (plans[0].end, replays(&plans[0])),
            (position(7, 30), vec![(1, 30, 30)])
        );
    }

    /// The cut by trying: the largest ends under which every unit is whole.
    fn cut_by_steps(units: &[[u64; 2]], mut ends: [u64; 2]) -> [u64; 2] {
        loop {
            let torn = units.iter().find(|unit| {
                (unit[0] < ends[0] || unit[1] < ends[1])
                    && !(unit[0] < ends[0] && unit[1] < ends[1])
            });
            let Some(unit) = torn else {
                return ends;
            };
            ends = [ends[0].min(unit[0]), ends[1].min(unit[1])];
        }
    }

    proptest::proptest! {
        #[test]
        fn the_cut_is_the_largest_that_leaves_every_unit_whole(
            steps in proptest::collection::vec((1..9u64, 1..9u64), 0..20),
            ends in (0..120u64, 0..120u64),
        ) {
            let mut at = [0, 0];
            let units: Vec<[u64; 2]> = steps
                .iter()
                .map(|(first, second)| {
                    at = [at[0] + first, at[1] + second];
                    at
                })
                .collect();
            let there: Vec<(u64, u64)> = units.iter().map(|unit| (unit[0], unit[1])).collect();
            let here: Vec<(u64, u64)> = units.iter().map(|unit| (unit[1], unit[0])).collect();
            let first = with_units(segment(1, (7, 0), (0, 0), ends.0), &there);
            let second = of_shard_1(segment(1, (7, 0), (0, 0), ends.1), &here);
            let plans = two(first, second).unwrap();
            let found = [plans[0].end.offset, plans[1].end.offset];
            proptest::prop_assert_eq!(found, cut_by_steps(&units, [ends.0, ends.1]));
        }
    }
}
