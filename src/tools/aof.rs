//! Append-only files of Redis and Valkey: one file, or a directory of them with a manifest.

use std::path::{Path, PathBuf};

use super::{
    Progress, Replay, Tally, ToolError,
    input::{self, Input},
    io, ms_of, rdb,
};
use crate::aof::{Entry, Family, LogReader, Manifest};

/// What an RDB file begins with.
const RDB: &[u8] = b"REDIS";

/// Takes the log at `path`.
pub fn import(
    path: &Path,
    replay: &mut Replay,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    let files = files(path)?;
    let mut size = 0;
    for file in &files {
        size += input::size(file)?;
    }
    progress.start("reading", size, "commands");
    for (at, file) in files.iter().enumerate() {
        load(file, at + 1 == files.len(), replay, tally, progress)?;
    }
    Ok(())
}

/// The files of a log, in order.
fn files(path: &Path) -> Result<Vec<PathBuf>, ToolError> {
    let mut manifest = path.to_path_buf();
    if path.is_dir() {
        let mut found = Vec::new();
        for entry in path.read_dir().map_err(io("read", path))? {
            let name = entry.map_err(io("read", path))?.path();
            if name
                .extension()
                .is_some_and(|end| end == "manifest" || end == "aof")
            {
                found.push(name);
            }
        }
        let is_manifest = |path: &PathBuf| path.extension().is_some_and(|end| end == "manifest");
        let manifests = found.iter().filter(|path| is_manifest(path)).count();
        match found.as_slice() {
            _ if manifests == 1 => found.retain(is_manifest),
            [_] => {}
            [] => {
                return Err(ToolError::Nothing(
                    path.to_path_buf(),
                    "there is no manifest and no log",
                ));
            }
            _ => {
                let what = "there is more than one log: name the manifest or the file";
                return Err(ToolError::Nothing(path.to_path_buf(), what));
            }
        }
        manifest = found.swap_remove(0);
    }
    if manifest.extension().is_none_or(|end| end != "manifest") {
        return Ok(vec![manifest]);
    }
    let text = std::fs::read(&manifest).map_err(io("read", &manifest))?;
    let parsed = Manifest::parse(&text);
    let parsed = parsed.map_err(|error| ToolError::Manifest(manifest.clone(), error))?;
    let names = parsed.base.into_iter().chain(parsed.logs);
    Ok(names.map(|name| manifest.with_file_name(name)).collect())
}

fn load(
    path: &Path,
    is_last: bool,
    replay: &mut Replay,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    let mut input = Input::open(path)?;
    let first = input.next(progress)?.to_vec();
    let (offset, rest) = if first.starts_with(RDB) {
        rdb::load(path, &mut input, &first, replay.shards(), tally, progress)?
    } else {
        (0, first)
    };
    let metadata = path.metadata().map_err(io("look at", path))?;
    replay.begin(metadata.modified().map_or(0, ms_of));
    let reader = LogReader::new(Family::Redis, offset);
    let torn = run(path, reader, rest, &mut input, replay, tally, progress)?;
    if let Some(at) = torn {
        if !is_last {
            return Err(ToolError::TornInside(path.to_path_buf(), at));
        }
        tally.note(format!(
            "{}: the log ends inside of a command or transaction: what stands from byte {at} on was cut off",
            path.display()
        ));
    }
    Ok(())
}

/// Runs a log that begins with `first`. Where it is torn, if it is.
pub fn run(
    path: &Path,
    mut reader: LogReader,
    first: Vec<u8>,
    input: &mut Input,
    replay: &mut Replay,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<Option<u64>, ToolError> {
    let family = reader.family();
    let mut torn = None;
    let mut is_all = false;
    reader.feed(&first);
    drop(first);
    loop {
        loop {
            let at = reader.offset();
            let entry = reader.next(is_all);
            let entry = entry.map_err(|error| ToolError::Log(path.to_path_buf(), error))?;
            let Some(entry) = entry else { break };
            progress.things(1);
            if let Entry::Torn(_) = entry {
                torn = Some(at);
            } else if !replay.take(at, entry, family, tally) {
                let why = format!("byte {at}: MULTI or EXEC where none can be");
                return Err(ToolError::Refused(path.to_path_buf(), why));
            }
        }
        if is_all {
            // An open transaction begins before the tear.
            return Ok(replay.drop_open().or(torn));
        }
        let piece = input.next(progress)?;
        is_all = piece.is_empty();
        reader.feed(piece);
    }
}
