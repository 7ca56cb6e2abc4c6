//! Is a data directory good, or a file of one?

use std::path::{Path, PathBuf};

use super::{DataDir, Progress, ToolError, input, input::Input};
use crate::{
    cmd::Shard,
    journal::{
        FileName,
        bundle::Bundle,
        from_files,
        meta::Meta,
        plan::PlanError,
        scan::{Scan, Tail},
        segment::{HeaderFault, SEGMENT_HEADER_LEN},
        snapshot::{Chunk, Reader, SnapshotFault},
    },
    recover::{self, Files, RecoverError},
};

/// Prints what files hold, or all files of directories, and what is wrong with them. True if all is good.
///
/// # Errors
/// [`ToolError`]: something could not be looked at.
pub fn check(paths: &[PathBuf]) -> Result<bool, ToolError> {
    let mut progress = Progress::new();
    let mut is_good = true;
    for path in paths {
        is_good &= if path.is_dir() {
            check_directory(path, &mut progress)?
        } else {
            check_file(path, &mut progress)?
        };
    }
    Ok(is_good)
}

fn check_directory(path: &Path, progress: &mut Progress) -> Result<bool, ToolError> {
    let dir = DataDir::existing(path).map_err(ToolError::Data)?;
    let names = dir.names().map_err(super::io("read", path))?;
    let mut is_good = true;
    for name in names {
        match FileName::parse(&name) {
            None | Some(FileName::Lock) => {}
            Some(_) => is_good &= check_file(&dir.place(&name), progress)?,
        }
    }
    Ok(verdict(&dir) && is_good)
}

/// Prints what a start would load. False if it would refuse.
pub fn verdict(dir: &DataDir) -> bool {
    let shown = dir.path().display();
    let plans = match recover::survey(dir, &dir.meta) {
        Ok(plans) => plans,
        Err(error) => {
            println!(
                "{shown}: DAMAGED: a node does not start with it\n  {}",
                error.within(dir.path())
            );
            return false;
        }
    };
    println!("{shown}: a node starts with it");
    for plan in &plans {
        print!("  shard {}: ", plan.shard);
        match plan.snapshot {
            Some(seq) => {
                let shard = plan.shard as u32;
                print!("{}", FileName::Snapshot { shard, seq });
            }
            None => print!("no snapshot"),
        }
        let frames: u64 = plan.replays.iter().map(|part| part.to - part.from).sum();
        println!(
            ", {frames} frames of {} segments, up to frame {} of generation {}{}",
            plan.replays.len(),
            plan.end.offset,
            from_files(plan.end.generation).0,
            if plan.is_clean {
                ""
            } else {
                ", not stopped in order"
            }
        );
        for note in &plan.notes {
            println!("  note: {note}");
        }
    }
    true
}

/// What a file holds, and what has to be known besides.
struct Good {
    holds: String,
    note: Option<String>,
}

fn check_file(path: &Path, progress: &mut Progress) -> Result<bool, ToolError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = FileName::parse(
        name.strip_suffix(".damaged")
            .or(name.strip_suffix(".tmp"))
            .unwrap_or(&name),
    );
    progress.start(
        format!("reading {}", path.display()),
        input::size(path)?,
        "parts",
    );
    let found = match name {
        Some(name @ (FileName::Segment { .. } | FileName::Rollback { .. })) => {
            segment(path, name, progress)?
        }
        Some(name @ FileName::Snapshot { .. }) => snapshot(path, name, progress)?,
        Some(FileName::Meta) => meta(path, progress)?,
        Some(FileName::Bundle { .. }) => bundle(path, progress)?,
        Some(FileName::Lock) | None => {
            let why = "its name is not that of a journal file, a snapshot or ringkeep.meta";
            return Err(ToolError::Refused(path.to_path_buf(), why.into()));
        }
    };
    progress.finish();
    let shown = path.display();
    match &found {
        Ok(good) => {
            println!("{shown}: good: {}", good.holds);
            if let Some(note) = &good.note {
                println!("  note: {note}");
            }
        }
        Err(fault) => println!("{shown}: DAMAGED\n  {fault}"),
    }
    Ok(found.is_ok())
}

fn meta(path: &Path, progress: &mut Progress) -> Result<Result<Good, String>, ToolError> {
    let bytes = input::whole(path, progress)?;
    Ok(Meta::read(&bytes)
        .map(|meta| Good {
            holds: format!("{} shards, routing {}", meta.shard_count, meta.routing),
            note: None,
        })
        .map_err(|fault| fault.to_string()))
}

fn bundle(path: &Path, progress: &mut Progress) -> Result<Result<Good, String>, ToolError> {
    let bytes = input::whole(path, progress)?;
    Ok(Bundle::read(&bytes)
        .map(|bundle| Good {
            holds: format!("{} snapshots that count together", bundle.snapshots.len()),
            note: None,
        })
        .map_err(|fault| fault.to_string()))
}

fn segment(
    path: &Path,
    name: FileName,
    progress: &mut Progress,
) -> Result<Result<Good, String>, ToolError> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let damaged = |error| Ok(Err(RecoverError::Plan(Box::new(error)).within(dir)));
    let mut input = Input::open(path)?;
    let mut scan = Scan::default();
    let (mut blocks, mut len) = (0, 0);
    loop {
        let piece = input.next(progress)?;
        if piece.is_empty() {
            break;
        }
        let header_len = if len == 0 { SEGMENT_HEADER_LEN } else { 0 };
        let is_empty = is_zero(&piece[header_len.min(piece.len())..]);
        len += piece.len() as u64;
        scan.feed(piece);
        loop {
            match scan.next() {
                Ok(None) => break,
                Ok(Some(mut block)) => {
                    let at = block.at;
                    let mut frames = block.frames();
                    loop {
                        match frames.next() {
                            Ok(Some(_)) => {}
                            Ok(None) => break,
                            Err(fault) => {
                                return Ok(Err(RecoverError::Frame(name, at, fault).to_string()));
                            }
                        }
                    }
                    blocks += 1;
                    progress.things(1);
                }
                Err(fault) => {
                    let is_version = matches!(fault, HeaderFault::Version(_));
                    if !is_version && is_empty && rest_is_zero(&mut input, progress)? {
                        return Ok(Ok(untouched()));
                    }
                    return damaged(PlanError::Header { file: name, fault });
                }
            }
        }
    }
    let Some(segment) = scan.segment().copied() else {
        return Ok(Ok(untouched()));
    };
    let (shard, seq) = (segment.shard, segment.seq);
    let end = match scan.finish() {
        Ok(end) => end,
        Err(fault) => return damaged(PlanError::Header { file: name, fault }),
    };
    let fits = match name {
        FileName::Rollback { .. } => {
            name == FileName::Rollback {
                shard,
                generation: segment.start.generation,
                from: segment.start.offset,
                to: end.next,
            }
        }
        _ => name == FileName::Segment { shard, seq },
    };
    if !fits {
        return damaged(PlanError::Misnamed { file: name });
    }
    let mut note = None;
    let tail = match end.tail {
        Tail::Clean => "stopped in order",
        Tail::Zeros => "nothing follows",
        Tail::Torn(reason) => {
            note = Some(format!(
                "byte {}: {reason}: a write that was never confirmed, as far as this file tells; a start \
                 leaves it out",
                end.at
            ));
            "a torn end follows"
        }
        Tail::Damaged { reason, proof } => {
            let (file, at) = (name, end.at);
            return damaged(PlanError::Damaged {
                file,
                at,
                reason,
                proof,
            });
        }
    };
    let holds = format!(
        "shard {shard} of {}, generation {}, frames {}..{} in {blocks} blocks, {} of {len} bytes, {tail}",
        segment.shard_count, segment.start.generation, segment.start.offset, end.next, end.at,
    );
    Ok(Ok(Good { holds, note }))
}

/// A segment that a crash left behind before anything was in it.
fn untouched() -> Good {
    Good {
        holds: "nothing was ever written to it".into(),
        note: None,
    }
}

fn rest_is_zero(input: &mut Input, progress: &mut Progress) -> Result<bool, ToolError> {
    loop {
        let piece = input.next(progress)?;
        if piece.is_empty() || !is_zero(piece) {
            return Ok(piece.is_empty());
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn snapshot(
    path: &Path,
    name: FileName,
    progress: &mut Progress,
) -> Result<Result<Good, String>, ToolError> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let damaged = |error| Ok(Err(RecoverError::Plan(Box::new(error)).within(dir)));
    let refused = |fault: SnapshotFault| damaged(PlanError::Snapshot { file: name, fault });
    let mut input = Input::open(path)?;
    let mut reader = Reader::default();
    let mut read = 0;
    loop {
        let piece = input.next(progress)?;
        if piece.is_empty() {
            break;
        }
        read += piece.len() as u64;
        reader.feed(piece);
        loop {
            let chunk = match reader.next() {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(fault) => return refused(fault),
            };
            progress.things(1);
            if let Err(fault) = check_chunk(name, read, chunk) {
                return Ok(Err(fault.to_string()));
            }
        }
    }
    let header = reader.snapshot().copied();
    let summary = match reader.finish() {
        Ok(summary) => summary,
        Err(fault) => return refused(fault),
    };
    let Some(header) = header else {
        return damaged(PlanError::Misnamed { file: name });
    };
    let (shard, seq) = (header.shard, header.seq);
    if (FileName::Snapshot { shard, seq }) != name {
        return damaged(PlanError::Misnamed { file: name });
    }
    let holds = format!(
        "shard {shard} of {}, generation {}, taken at frames {}..{}: {} records and {} frames in {} chunks, \
         {} bytes",
        header.shard_count,
        header.generation,
        header.start,
        summary.end,
        summary.record_count,
        summary.frame_count,
        summary.chunk_count,
        summary.file_len
    );
    Ok(Ok(Good { holds, note: None }))
}

/// Takes a chunk apart, as a load would, and forgets it.
fn check_chunk(name: FileName, at: u64, chunk: Chunk<'_>) -> Result<(), RecoverError> {
    match chunk {
        Chunk::Records { body, .. } => {
            let mut shard = Shard::new(1, 0);
            let loaded = shard.database(0).load(body);
            loaded.map_err(|error| RecoverError::Record(name, at, error.to_string()))?;
        }
        Chunk::Frames(mut frames) => {
            let refused = |fault| RecoverError::Frame(name, at, fault);
            while frames.next().map_err(refused)?.is_some() {}
        }
    }
    Ok(())
}
