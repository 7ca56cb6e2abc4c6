//! What a data directory holds, found out and put into shards again.
//!
//! [`survey`] looks at every file of it and decides what counts; nothing is loaded before that is known of all
//! shards, because a unit over several of them counts in all or in none. [`load`] fills one shard.
//! No file is opened here: [`Files`] is the directory.

mod chain;
mod error;
mod load;

use std::{collections::BTreeMap, io};

use chain::{Piece, SharedAt};
pub use error::{Fault, RecoverError};
pub use load::{Place, load};

use crate::journal::{
    FileName, Position,
    scan::{Scan, Tail},
    segment::HeaderFault,
    snapshot::{FOOTER_LEN, SNAPSHOT_HEADER_LEN, Snapshot, Summary},
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

/// What is loaded of one shard, and how it goes on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The shard.
    pub shard: usize,
    /// The snapshot that is loaded, if any.
    pub snapshot: Option<u64>,
    /// Segments that are replayed behind it, with the frames of them that count.
    pub replay: Vec<Replayed>,
    /// Where what is loaded ends.
    pub end: Position,
    /// The node had stopped in order.
    pub is_clean: bool,
    /// A number that no segment and no snapshot has.
    pub next_seq: u64,
    /// The highest generation that any file names.
    pub generation: u64,
    /// Segments that count: number, end, bytes.
    pub segments: Vec<(u64, u64, u64)>,
    /// Snapshots that are there.
    pub snapshots: Vec<u64>,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// Files that hold nothing that counts.
    pub unused: Vec<FileName>,
    /// Bytes to read.
    pub bytes: u64,
    /// For the log.
    pub notes: Vec<String>,
}

/// The part of a segment that is replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Number of the segment.
    pub seq: u64,
    /// First frame.
    pub from: u64,
    /// Behind the last frame.
    pub to: u64,
}

/// The files of one shard.
#[derive(Debug, Default)]
struct Found {
    snapshots: BTreeMap<u64, Position>,
    pieces: Vec<Piece>,
    unused: Vec<FileName>,
    bad: Vec<RecoverError>,
    sizes: BTreeMap<FileName, u64>,
}

/// Looks at everything in a directory.
///
/// # Errors
/// [`RecoverError`]: something that had been durable cannot be read.
pub fn survey(files: &impl Files, shards: usize) -> Result<Vec<Plan>, RecoverError> {
    let mut found: Vec<Found> = (0..shards).map(|_| Found::default()).collect();
    let mut names: Vec<FileName> = files
        .names()
        .map_err(|error| RecoverError::directory(&error))?
        .iter()
        .filter_map(|name| FileName::parse(name))
        .collect();
    names.sort();
    for name in names {
        let (FileName::Segment { shard, .. } | FileName::Snapshot { shard, .. }) = name else {
            continue;
        };
        let Some(found) = found.get_mut(shard as usize) else {
            return Err(RecoverError::of(name, 0, Fault::Shard(shards)));
        };
        look(files, name, found)?;
    }
    let mut plans = Vec::new();
    for (shard, found) in found.into_iter().enumerate() {
        plans.push((chain::follow(shard, &found)?, found));
    }
    chain::cut_consistently(&mut plans);
    Ok(plans.into_iter().map(|(chain, found)| chain.plan(found)).collect())
}

/// Looks at one file.
fn look(files: &impl Files, name: FileName, found: &mut Found) -> Result<(), RecoverError> {
    let text = name.to_string();
    let failed = |error: io::Error| RecoverError::of(name, 0, Fault::Io(error.to_string()));
    let len = files.len(&text).map_err(failed)?;
    found.sizes.insert(name, len);
    match name {
        FileName::Snapshot { seq, .. } => match look_at_snapshot(files, name, len) {
            Ok(end) => drop(found.snapshots.insert(seq, end)),
            Err(error) => found.bad.push(error),
        },
        FileName::Segment { seq, .. } => match scan(files, name, len)? {
            Some(piece) => found.pieces.push(Piece { seq, len, ..piece }),
            None => found.unused.push(name),
        },
        FileName::Lock | FileName::Meta => {}
    }
    Ok(())
}

/// Reads a segment from its beginning to its end; `None` if nothing was ever written to it.
fn scan(files: &impl Files, name: FileName, len: u64) -> Result<Option<Piece>, RecoverError> {
    let mut scan = Scan::default();
    let (mut at, mut shared) = (0, Vec::new());
    let mut is_blank = true;
    let refused = |fault| RecoverError::of(name, 0, Fault::Header(fault));
    while at < len {
        let bytes = read(files, name, at)?;
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
        is_blank &= bytes.iter().all(|byte| *byte == 0);
        // A segment that was made and not used yet, or whose header was being written when the node died.
        let is_headless = is_blank || (scan.segment().is_none() && is_torn_header(&bytes, at >= len));
        if is_headless {
            continue;
        }
        scan.feed(&bytes);
        while let Some(block) = scan.next().map_err(refused)? {
            if block.participants().len() > 0 {
                shared.push(SharedAt {
                    first: block.first,
                    end: block.end,
                    parts: block
                        .participants()
                        .map(|(shard, first)| (shard as usize, first))
                        .collect(),
                });
            }
        }
    }
    let Some(header) = scan.segment().copied() else {
        return Ok(None);
    };
    let end = scan.finish().map_err(refused)?;
    if let Tail::Damaged { reason, .. } = end.tail {
        return Err(RecoverError::of(name, end.at, Fault::Block(reason)));
    }
    Ok(Some(Piece {
        seq: 0,
        len,
        start: header.start,
        parent: header.parent,
        end: end.next,
        end_at: end.at,
        tail: end.tail,
        shared,
    }))
}

/// Is this the whole of a file that has a torn header and nothing behind it?
fn is_torn_header(bytes: &[u8], is_all: bool) -> bool {
    use crate::journal::segment::{SEGMENT_HEADER_LEN, Segment};
    let head = &bytes[..bytes.len().min(SEGMENT_HEADER_LEN)];
    let is_bad = matches!(
        Segment::read(head),
        Err(HeaderFault::Cut | HeaderFault::Magic | HeaderFault::Sum)
    );
    let rest = &bytes[head.len()..];
    is_bad && rest.iter().all(|byte| *byte == 0) && (is_all || bytes.len() > SEGMENT_HEADER_LEN)
}

/// Where a snapshot ends, if it is whole as far as its footer tells.
fn look_at_snapshot(
    files: &impl Files,
    name: FileName,
    len: u64,
) -> Result<Position, RecoverError> {
    let tail_len = len.min(FOOTER_LEN as u64);
    let mut head = vec![0; SNAPSHOT_HEADER_LEN.min(len as usize)];
    let mut tail = vec![0; tail_len as usize];
    let failed = |error: io::Error| RecoverError::of(name, 0, Fault::Io(error.to_string()));
    let text = name.to_string();
    files.read(&text, 0, &mut head).map_err(failed)?;
    files.read(&text, len - tail_len, &mut tail).map_err(failed)?;
    let header = Snapshot::read(&head)
        .map_err(|fault| RecoverError::of(name, 0, Fault::Header(fault)))?;
    let summary = Summary::read(&tail, len)
        .map_err(|fault| RecoverError::of(name, fault.at, Fault::Snapshot(fault)))?;
    Ok(Position {
        generation: header.generation,
        offset: summary.end,
    })
}

/// The next piece of a file.
fn read(files: &impl Files, name: FileName, at: u64) -> Result<Vec<u8>, RecoverError> {
    let mut bytes = vec![0; PIECE_LEN];
    let len = files
        .read(&name.to_string(), at, &mut bytes)
        .map_err(|error| RecoverError::of(name, at, Fault::Io(error.to_string())))?;
    bytes.truncate(len);
    Ok(bytes)
}
