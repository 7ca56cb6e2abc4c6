//! A damaged journal file, cut off where it still was good. Only when somebody asks for it.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
};

use super::{DataDir, ToolError, check::verdict, io, publish::Unpublished};
use crate::journal::{
    FileName,
    scan::{Scan, Tail, stray_block},
    segment::BLOCK_MAGIC,
};

/// What to cut, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// The segment, in its data directory.
    pub file: PathBuf,
    /// The first byte to give up.
    pub at: u64,
}

/// Cuts a segment between two blocks. What it was is kept beside it. True if a node starts with the
/// directory then.
///
/// # Errors
/// [`ToolError`]: nothing was cut.
pub fn repair(repair: &Repair) -> Result<bool, ToolError> {
    let path = &repair.file;
    let at = repair.at;
    let refused = |why: String| ToolError::Refused(path.clone(), why);
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(FileName::Segment { .. }) = name.and_then(FileName::parse) else {
        return Err(refused("only journal files (*.rkj) can be cut".into()));
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let dir = DataDir::existing(parent).map_err(ToolError::Data)?;
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    let lost = lost_frames(&bytes, at).map_err(refused)?;
    let copy = PathBuf::from(format!("{}.damaged", path.display()));
    if copy.exists() {
        return Err(refused(format!(
            "{} is there from a repair before: move it away",
            copy.display()
        )));
    }
    let mut kept = Unpublished::create(&copy)?;
    kept.write(&bytes)?;
    kept.publish()?;
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| {
        file.set_len(at)?;
        file.sync_all()
    })
    .map_err(io("cut", path))?;
    let parent = File::open(parent).and_then(|dir| dir.sync_all());
    parent.map_err(io("sync", dir.path()))?;
    println!(
        "{}: cut off at byte {at} of {}; as it was: {}",
        path.display(),
        bytes.len(),
        copy.display()
    );
    if lost.is_empty() {
        println!("no frame is known to be given up");
    } else {
        println!("given up: frames {}..{}", lost.start, lost.end);
    }
    Ok(verdict(&dir))
}

/// The frames from byte `at` on as far as their blocks can still be told, or why nothing can be cut there.
fn lost_frames(bytes: &[u8], at: u64) -> Result<std::ops::Range<u64>, String> {
    let mut scan = Scan::default();
    scan.feed(bytes);
    let mut first = None;
    while let Some(block) = scan.next().map_err(|fault| fault.to_string())? {
        if block.at == at {
            first = Some(block.first);
        }
    }
    let segment = scan.segment().copied();
    let end = scan.finish().map_err(|fault| fault.to_string())?;
    if end.at == at {
        if matches!(end.tail, Tail::Clean | Tail::Zeros) {
            return Err(format!(
                "there is nothing to cut: it is good up to byte {at}"
            ));
        }
        first = Some(end.next);
    }
    let (Some(first), Some(segment)) = (first, segment) else {
        return Err(format!(
            "byte {at} is not between two blocks; the last good block ends at byte {}",
            end.at
        ));
    };
    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
    let rest = rest.unwrap_or_default();
    let starts = (0..rest.len()).filter(|place| rest[*place..].starts_with(&BLOCK_MAGIC));
    let strays = starts.filter_map(|place| stray_block(&rest[place..], &segment));
    let last = strays.map(|frames| frames.end).max();
    Ok(first..last.unwrap_or(end.next).max(end.next))
}
