//! What a data directory holds, found out and put into shards again.
//!
//! [`survey`] looks at every file of it and decides what counts; nothing is loaded before that is known of
//! all shards, because a unit over several of them counts in all or in none. [`load()`] fills one shard.
//! No file is opened here: [`Files`] is the directory.

mod frames;
mod load;
pub mod tail;

use std::{collections::BTreeMap, fmt, io, path::Path};

pub use frames::{Wanted, frames};
pub use load::{Filling, Place, load};

use crate::journal::{
    FileName, Position,
    bundle::Bundle,
    frame::FrameFault,
    from_files,
    meta::Meta,
    plan::{PlanError, Replay, Scanned, SegmentFile, ShardFiles, SharedUnit, SnapshotFile, plan},
    scan::{Mark, Scan, Tail},
    segment::{HeaderFault, SEGMENT_HEADER_LEN},
    snapshot::{FOOTER_LEN, SNAPSHOT_HEADER_LEN, Snapshot, SnapshotFault, SnapshotReason, Summary},
};

/// A data directory.
pub trait Files {
    /// The names in it, in any order.
    ///
    /// # Errors
    /// What the operating system said; so for the others.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Length of a file.
    ///
    /// # Errors
    /// See [`names`](Files::names).
    fn len(&self, name: &str) -> io::Result<u64>;

    /// Reads until `into` is full or the file ends; how much that was.
    ///
    /// # Errors
    /// See [`names`](Files::names).
    fn read(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// Bytes of a file that are read at once.
const PIECE_LEN: usize = 1 << 20;

/// Header and footer of the snapshot that a shard begins with.
pub type Origin = (Snapshot, Summary);

/// What is loaded of one shard, and how it goes on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The shard.
    pub shard: usize,
    /// The snapshot that is loaded, if any.
    pub snapshot: Option<u64>,
    /// What it says of itself.
    pub origin: Option<Origin>,
    /// The frames that are replayed behind it.
    pub replays: Vec<Replay>,
    /// Where what is loaded ends.
    pub end: Position,
    /// The node had stopped in order.
    pub is_clean: bool,
    /// Nothing was left out because other shards lack parts of it.
    pub is_whole: bool,
    /// A number that no segment and no snapshot has.
    pub next_seq: u64,
    /// The highest generation that any file names.
    pub generation: u64,
    /// Some file says that the shard's history had come this far, whether or not that is there.
    pub reached: u64,
    /// Segments that are kept: number, end, bytes in use.
    pub segments: Vec<(u64, u64, u64)>,
    /// Segments with nothing but zeros behind their last block, and the bytes up to there.
    pub reserved: Vec<(FileName, u64)>,
    /// Snapshots that are there.
    pub snapshots: Vec<u64>,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// Files that nothing needs.
    pub unused: Vec<FileName>,
    /// Bytes to read.
    pub bytes: u64,
    /// For the log.
    pub notes: Vec<String>,
}

/// Why a data directory cannot be loaded. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoverError {
    /// The directory, or a file from some byte on, cannot be read.
    Io(Option<FileName>, u64, String),
    /// Something is missing or damaged.
    Plan(Box<PlanError>),
    /// A frame, near some byte, is none.
    Frame(FileName, u64, FrameFault),
    /// A frame, near some byte, does not run; which one and why.
    Unplayable(FileName, u64, String),
    /// A record, before some byte, is none.
    Record(FileName, u64, String),
    /// There are keys in a database that this node does not have.
    Database(FileName, usize),
    /// The file is of a shard that the directory does not have.
    Shard(FileName, usize),
    /// A bundle cannot be read.
    Bundle(FileName, HeaderFault),
    /// A bundle names a snapshot that is not there.
    Incomplete(FileName, FileName),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(Some(file), at, why) => {
                write!(out, "{file}: byte {at}: cannot be read: {why}")
            }
            Self::Io(None, _, why) => write!(out, "the data directory cannot be read: {why}"),
            Self::Plan(error) => write!(out, "{error}. What can be done: {}", error.remedy("")),
            Self::Frame(file, at, fault) => write!(out, "{file}: near byte {at}: {fault}"),
            Self::Unplayable(file, at, why) => {
                write!(out, "{file}: near byte {at}: a frame does not run: {why}")
            }
            Self::Record(file, at, why) => {
                write!(
                    out,
                    "{file}: before byte {at}: a record cannot be read: {why}"
                )
            }
            Self::Database(file, number) => write!(
                out,
                "{file}: it has keys in database {number}: start with --databases {} or more",
                number + 1
            ),
            Self::Shard(file, count) => {
                write!(out, "{file}: the directory has only {count} shard(s)")
            }
            Self::Bundle(file, fault) => write!(out, "{file}: byte 0: {fault}"),
            Self::Incomplete(file, missing) => write!(
                out,
                "{file}: it says that {missing} counts, which is not there. What can be done: put the \
                 missing file back, or the whole directory from a backup"
            ),
        }
    }
}

impl std::error::Error for RecoverError {}

impl RecoverError {
    /// The error of a directory, with commands that work where the node was started.
    pub fn within(&self, dir: &Path) -> String {
        match self {
            Self::Plan(error) => {
                let dir = dir.join("");
                let remedy = error.remedy(&dir.display().to_string());
                format!("{error}. What can be done: {remedy}")
            }
            other => other.to_string(),
        }
    }
}

/// What is found of one shard besides what [`plan`] needs.
#[derive(Default)]
struct Found {
    files: ShardFiles,
    unused: Vec<FileName>,
    sizes: Vec<(FileName, u64)>,
}

/// Snapshots that count although they have no name yet, because the node stopped while it gave names to the
/// snapshots of a bundle.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unnamed {
    /// What has to get its name, durably, before the directory can be surveyed.
    pub snapshots: Vec<FileName>,
    /// What has to be removed once that is done.
    pub bundles: Vec<FileName>,
}

/// Looks for snapshots that have to get their names first.
///
/// # Errors
/// [`RecoverError`]: something that had been durable is missing or cannot be read.
pub fn unnamed(files: &impl Files) -> Result<Unnamed, RecoverError> {
    let names = files
        .names()
        .map_err(|error| RecoverError::Io(None, 0, error.to_string()))?;
    let known: Vec<FileName> = names
        .iter()
        .filter_map(|name| FileName::parse(name))
        .collect();
    let mut found = Unnamed::default();
    let mut listed = Vec::new();
    for name in &known {
        if !matches!(name, FileName::Bundle { .. }) {
            continue;
        }
        let mut memory = Vec::new();
        let bundle = Bundle::read(read(files, *name, 0, &mut memory)?)
            .map_err(|fault| RecoverError::Bundle(*name, fault))?;
        for (shard, seq) in bundle.snapshots {
            let snapshot = FileName::Snapshot { shard, seq };
            if names.contains(&snapshot.unfinished()) {
                found.snapshots.push(snapshot);
            } else {
                listed.push((*name, snapshot));
            }
        }
        found.bundles.push(*name);
    }
    for (bundle, missing) in listed {
        let FileName::Snapshot { shard, seq } = missing else {
            continue;
        };
        // What was removed since was replaced by a newer one.
        let stands_for = |other: &FileName| match other {
            FileName::Snapshot { shard: of, seq: at } => *of == shard && *at >= seq,
            _ => false,
        };
        let mut there = known.iter().chain(&found.snapshots);
        if !there.any(stands_for) {
            return Err(RecoverError::Incomplete(bundle, missing));
        }
    }
    Ok(found)
}

/// Looks at everything in a directory.
///
/// # Errors
/// [`RecoverError`]: something that had been durable cannot be read.
pub fn survey(files: &impl Files, meta: &Meta) -> Result<Vec<Plan>, RecoverError> {
    Survey::default().look(files, meta, View::Still)
}

/// What is known of the segments of a directory, so that another look costs only what came since.
#[derive(Debug, Default)]
pub struct Survey {
    known: BTreeMap<FileName, Known>,
    /// What a file's units say of where other shards have been.
    reached: BTreeMap<usize, u64>,
    /// A file was found to be another than before: what was loaded from it is of no use.
    pub is_other: bool,
}

/// A segment as far as it was read.
#[derive(Debug)]
struct Known {
    mark: Mark,
    /// The parts of units over several shards that may still lack others.
    shared: Vec<SharedUnit>,
}

/// Does a directory change while it is looked at?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// No.
    Still,
    /// Another process writes: a segment ends where no whole block begins, whatever is behind that, and an
    /// error may only mean that something was removed or came meanwhile.
    Live,
}

impl Survey {
    /// Looks at everything in a directory. What it finds is what a first look would find, as long as
    /// [`is_other`](Survey::is_other) does not become true.
    ///
    /// # Errors
    /// [`RecoverError`]: something that had been durable cannot be read.
    pub fn look(
        &mut self,
        files: &impl Files,
        meta: &Meta,
        view: View,
    ) -> Result<Vec<Plan>, RecoverError> {
        let shards = meta.shard_count as usize;
        let mut found: Vec<Found> = (0..shards).map(|_| Found::default()).collect();
        let mut names: Vec<FileName> = files
            .names()
            .map_err(|error| RecoverError::Io(None, 0, error.to_string()))?
            .iter()
            .filter_map(|name| FileName::parse(name))
            .collect();
        names.sort();
        self.known
            .retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            let (FileName::Segment { shard, .. } | FileName::Snapshot { shard, .. }) = name else {
                continue;
            };
            let found = found.get_mut(shard as usize);
            let found = found.ok_or(RecoverError::Shard(name, shards))?;
            self.look_at(files, name, view, found)?;
        }
        let all: Vec<ShardFiles> = found.iter().map(|found| found.files.clone()).collect();
        let plans = plan(meta, &all).map_err(|error| RecoverError::Plan(Box::new(error)))?;
        let scanned = all.iter().flat_map(|files| &files.segments);
        let scanned = scanned.filter_map(|file| file.found.as_ref().ok());
        for unit in scanned.flat_map(|scanned| &scanned.shared) {
            for (shard, first) in &unit.participants {
                let reached = self.reached.entry(*shard as usize).or_default();
                *reached = (*first + 1).max(*reached);
            }
        }
        let plans = plans.into_iter().zip(found).enumerate();
        let plans: Vec<Plan> = plans
            .map(|(shard, (plan, found))| {
                let reached = self.reached.get(&shard).copied().unwrap_or(0);
                found.plan(shard, plan, reached)
            })
            .collect();
        self.forget_whole_units(&plans);
        Ok(plans)
    }

    /// What counts now has all its parts, and has them for ever.
    fn forget_whole_units(&mut self, plans: &[Plan]) {
        for (name, known) in &mut self.known {
            let FileName::Segment { shard, seq } = *name else {
                continue;
            };
            let replays = plans.get(shard as usize).map(|plan| &plan.replays);
            let mut replays = replays.into_iter().flatten();
            if let Some(replay) = replays.find(|replay| replay.seq == seq) {
                let counts = |unit: &SharedUnit| (replay.from..replay.to).contains(&unit.first);
                known.shared.retain(|unit| !counts(unit));
            }
        }
    }

    /// Looks at one file.
    fn look_at(
        &mut self,
        files: &impl Files,
        name: FileName,
        view: View,
        found: &mut Found,
    ) -> Result<(), RecoverError> {
        let len = files
            .len(&name.to_string())
            .map_err(|error| RecoverError::Io(Some(name), 0, error.to_string()))?;
        found.sizes.push((name, len));
        match name {
            FileName::Snapshot { seq, .. } => found.files.snapshots.push(SnapshotFile {
                seq,
                found: look_at_snapshot(files, name, len)?,
            }),
            FileName::Segment { seq, .. } => match self.scan(files, name, len, view)? {
                Some(found_here) => found.files.segments.push(SegmentFile {
                    seq,
                    found: found_here,
                }),
                None => found.unused.push(name),
            },
            FileName::Lock
            | FileName::Meta
            | FileName::Bundle { .. }
            | FileName::Rollback { .. } => {}
        }
        Ok(())
    }

    /// What is known of a segment, if that holds.
    fn take_known(
        &mut self,
        files: &impl Files,
        name: FileName,
        len: u64,
    ) -> Result<Option<Known>, RecoverError> {
        let Some(known) = self.known.remove(&name) else {
            return Ok(None);
        };
        let mut is_same = len >= known.mark.at;
        for (at, bytes) in known.mark.landmarks() {
            let mut there = vec![0; bytes.len()];
            is_same = is_same
                && files
                    .read(&name.to_string(), at, &mut there)
                    .map_err(|error| RecoverError::Io(Some(name), at, error.to_string()))?
                    == bytes.len()
                && there == bytes;
        }
        self.is_other |= !is_same;
        Ok(is_same.then_some(known))
    }

    /// Reads a segment from its beginning to its end; `None` if nothing was ever written to it but, perhaps,
    /// a header that was cut off.
    fn scan(
        &mut self,
        files: &impl Files,
        name: FileName,
        len: u64,
        view: View,
    ) -> Result<Option<Result<Scanned, HeaderFault>>, RecoverError> {
        let known = self.take_known(files, name, len)?;
        let mut at = known.as_ref().map_or(0, |known| known.mark.at);
        let (mut scan, mut shared) = match known {
            Some(known) => (Scan::behind(known.mark), known.shared),
            None => (Scan::default(), Vec::new()),
        };
        let mut memory = Vec::new();
        let mut refused = None;
        while at < len {
            let bytes = read(files, name, at, &mut memory)?;
            if bytes.is_empty() {
                break;
            }
            let rest = if at == 0 {
                &bytes[bytes.len().min(SEGMENT_HEADER_LEN)..]
            } else {
                bytes
            };
            at += bytes.len() as u64;
            if refused.is_some() {
                // Behind a header that was cut off there is nothing.
                if rest.iter().any(|byte| *byte != 0) {
                    return Ok(refused.map(Err));
                }
                continue;
            }
            scan.feed(bytes);
            loop {
                match scan.next() {
                    Ok(None) => break,
                    Ok(Some(block)) => {
                        let participants: Vec<(u32, u64)> = block.participants().collect();
                        if !participants.is_empty() {
                            shared.push(SharedUnit {
                                first: block.first,
                                participants,
                            });
                        }
                    }
                    Err(fault) => {
                        let is_cut = !matches!(fault, HeaderFault::Version(_));
                        if !is_cut || rest.iter().any(|byte| *byte != 0) {
                            return Ok(Some(Err(fault)));
                        }
                        refused = Some(fault);
                        break;
                    }
                }
            }
            if view == View::Live && (scan.has_ended() || refused.is_some()) {
                break;
            }
        }
        if refused.is_some() {
            return Ok(None);
        }
        let (Some(segment), Some(mark)) = (scan.segment().copied(), scan.mark()) else {
            return Ok(None);
        };
        let known = Known {
            mark,
            shared: shared.clone(),
        };
        self.known.insert(name, known);
        let found = scan.finish().map(|end| Scanned {
            segment,
            end,
            shared,
        });
        Ok(Some(found))
    }
}

/// What the header and the footer of a snapshot say.
fn look_at_snapshot(
    files: &impl Files,
    name: FileName,
    len: u64,
) -> Result<Result<(Snapshot, Summary), SnapshotFault>, RecoverError> {
    let tail_len = len.min(FOOTER_LEN as u64);
    let mut head = vec![0; SNAPSHOT_HEADER_LEN.min(len as usize)];
    let mut tail = vec![0; tail_len as usize];
    let failed = |error: io::Error| RecoverError::Io(Some(name), 0, error.to_string());
    let text = name.to_string();
    files.read(&text, 0, &mut head).map_err(failed)?;
    files
        .read(&text, len - tail_len, &mut tail)
        .map_err(failed)?;
    let header = Snapshot::read(&head).map_err(|fault| SnapshotFault {
        at: 0,
        reason: SnapshotReason::Header(fault),
    });
    Ok(header.and_then(|header| Ok((header, Summary::read(&tail, len)?))))
}

/// The next piece of a file; `memory` is the same for all of its pieces.
fn read<'a>(
    files: &(impl Files + ?Sized),
    name: FileName,
    at: u64,
    memory: &'a mut Vec<u8>,
) -> Result<&'a [u8], RecoverError> {
    memory.resize(PIECE_LEN, 0);
    let len = files
        .read(&name.to_string(), at, memory)
        .map_err(|error| RecoverError::Io(Some(name), at, error.to_string()))?;
    Ok(&memory[..len])
}

impl Found {
    fn plan(self, shard: usize, plan: crate::journal::plan::ShardPlan, reached: u64) -> Plan {
        let size = |wanted: FileName| {
            let mut sizes = self.sizes.iter();
            sizes
                .find(|(name, _)| *name == wanted)
                .map_or(0, |(_, len)| *len)
        };
        let number = shard as u32;
        let mut notes = Vec::new();
        if plan.cut_count > 0 {
            notes.push(format!(
                "shard {shard}: {} frame(s) are left out: other shards lack parts of their units, which \
                 nobody was told had happened",
                plan.cut_count
            ));
        }
        let (mut segments, mut reserved) = (Vec::new(), Vec::new());
        let mut unused = [self.unused, plan.unused].concat();
        let mut generation = from_files(plan.end.generation).0;
        for file in &self.files.segments {
            let Ok(scanned) = &file.found else { continue };
            generation = generation.max(from_files(scanned.segment.start.generation).0);
            let name = FileName::Segment {
                shard: number,
                seq: file.seq,
            };
            // What the snapshot holds too may still be of use to replicas.
            let of = scanned.segment.start.generation;
            let is_history = from_files(of).0 == from_files(plan.end.generation).0
                && scanned.end.next <= plan.end.offset
                && !matches!(scanned.end.tail, Tail::Damaged { .. });
            unused.retain(|unused| *unused != name || !is_history);
            if let (Tail::Torn(reason), false) = (scanned.end.tail, unused.contains(&name)) {
                notes.push(format!(
                    "{name}: a write that was never confirmed is left out from byte {} on: {reason}",
                    scanned.end.at
                ));
            }
            if !unused.contains(&name) {
                segments.push((file.seq, scanned.end.next, scanned.end.at));
                if matches!(scanned.end.tail, Tail::Zeros | Tail::Clean)
                    && scanned.end.at < size(name)
                {
                    reserved.push((name, scanned.end.at));
                }
            }
        }
        let snapshot_bytes = plan
            .snapshot
            .map_or(0, |seq| size(FileName::Snapshot { shard: number, seq }));
        let replayed = plan.replays.iter().map(|replay| {
            let mut files = self.files.segments.iter();
            let file = files.find(|file| file.seq == replay.seq);
            file.and_then(|file| file.found.as_ref().ok())
                .map_or(0, |scanned| scanned.end.at)
        });
        let seqs = self.sizes.iter().map(|(name, _)| match name {
            FileName::Segment { seq, .. } | FileName::Snapshot { seq, .. } => *seq,
            FileName::Lock
            | FileName::Meta
            | FileName::Bundle { .. }
            | FileName::Rollback { .. } => 0,
        });
        Plan {
            shard,
            snapshot: plan.snapshot,
            origin: plan.snapshot.and_then(|seq| {
                let mut files = self.files.snapshots.iter();
                files.find(|file| file.seq == seq)?.found.ok()
            }),
            bytes: snapshot_bytes + replayed.sum::<u64>(),
            replays: plan.replays,
            end: plan.end,
            is_clean: plan.is_clean && plan.cut_count == 0,
            is_whole: plan.cut_count == 0,
            next_seq: seqs.max().unwrap_or(0) + 1,
            generation,
            // What lies below is no news, and the files that said so may be gone.
            reached: reached.max(plan.end.offset),
            segments,
            reserved,
            snapshots: plan.snapshot.into_iter().collect(),
            snapshot_bytes,
            unused,
            notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files by name.
    #[derive(Default)]
    struct Shelf(BTreeMap<String, Vec<u8>>);

    impl Shelf {
        fn with(mut self, name: String) -> Self {
            self.0.insert(name, Vec::new());
            self
        }

        fn with_bundle(mut self, seq: u64, snapshots: &[(u32, u64)]) -> Self {
            let bundle = Bundle {
                seq,
                snapshots: snapshots.to_vec(),
            };
            let name = FileName::Bundle { seq }.to_string();
            self.0.insert(name, bundle.compose());
            self
        }
    }

    impl Files for Shelf {
        fn names(&self) -> io::Result<Vec<String>> {
            Ok(self.0.keys().cloned().collect())
        }

        fn len(&self, name: &str) -> io::Result<u64> {
            Ok(self.0[name].len() as u64)
        }

        fn read(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
            let rest = &self.0[name][at as usize..];
            let len = rest.len().min(into.len());
            into[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    fn snapshot(shard: u32, seq: u64) -> FileName {
        FileName::Snapshot { shard, seq }
    }

    #[test]
    fn snapshots_of_a_bundle_count_all_or_none() {
        let [first, second] = [snapshot(0, 5), snapshot(1, 7)];
        let shelf = || {
            Shelf::default()
                .with(first.unfinished())
                .with(second.unfinished())
        };
        // Without a bundle they are what was never finished.
        assert_eq!(unnamed(&shelf()), Ok(Unnamed::default()));
        let bundle = [(0, 5), (1, 7)];
        let found = unnamed(&shelf().with_bundle(9, &bundle)).unwrap();
        assert_eq!(found.snapshots, [first, second]);
        assert_eq!(found.bundles, [FileName::Bundle { seq: 9 }]);
        let half = Shelf::default()
            .with(first.to_string())
            .with(second.unfinished());
        let found = unnamed(&half.with_bundle(9, &bundle)).unwrap();
        assert_eq!(found.snapshots, [second]);
    }

    #[test]
    fn what_a_bundle_names_and_is_not_there_was_replaced_or_is_missing() {
        let bundle = [(0, 5), (1, 7)];
        let shelf = || {
            Shelf::default()
                .with(snapshot(0, 5).to_string())
                .with_bundle(9, &bundle)
        };
        let missing = unnamed(&shelf()).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "bundle-0000000000000009.rkb: it says that snapshot-1-0000000000000007.rks counts, which is not \
             there. What can be done: put the missing file back, or the whole directory from a backup"
        );
        let newer = shelf().with(snapshot(1, 8).to_string());
        assert_eq!(unnamed(&newer).unwrap().snapshots, []);
        let listed = shelf()
            .with(snapshot(1, 8).unfinished())
            .with_bundle(10, &[(1, 8)]);
        assert_eq!(unnamed(&listed).unwrap().snapshots, [snapshot(1, 8)]);
        let older = shelf().with(snapshot(1, 6).to_string());
        assert!(unnamed(&older).is_err());
        let mut damaged = shelf();
        let name = FileName::Bundle { seq: 9 }.to_string();
        damaged.0.get_mut(&name).unwrap()[9] ^= 1;
        assert_eq!(
            unnamed(&damaged),
            Err(RecoverError::Bundle(
                FileName::Bundle { seq: 9 },
                HeaderFault::Sum
            ))
        );
    }
}
