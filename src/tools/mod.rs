//! Data directories without a server: `ringkeep import` and `export`, `check`, `repair`, `reshard` and
//! `rollback`, and what the node shares with them. And `ringkeep top`, which looks at a node that runs.
//!
//! What other servers have left in files is read whole into memory, as the node would hold it, and then
//! written as a data directory that a node starts from; a data directory is read the same way and written
//! as an RDB file. Nothing is published under its name before all of it is on the disk.

mod aof;
mod check;
mod data;
mod directory;
mod input;
mod kevy;
mod progress;
mod publish;
mod rdb;
mod repair;
mod replay;
mod reshard;
mod rollback;
mod tally;
mod top;

use std::{
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

pub use self::{
    check::check,
    data::{DataDir, DataError, Foreign, routing_number},
    repair::{Repair, repair},
    reshard::{Reshard, reshard},
    rollback::rollback,
    top::{Top, top},
};
use self::{progress::Progress, replay::Replay, tally::Tally};
use crate::{
    aof::{LogError, ManifestError},
    base::Ms,
    cmd::{Shard, Shards},
    image::ImageError,
    rdb::FileError,
    recover::RecoverError,
    route::Routing,
    script::EngineError,
};

/// What to import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A data directory of kevy.
    Kevy(PathBuf),
    /// An RDB file of Redis or Valkey.
    Rdb(PathBuf),
    /// An append-only file of Redis or Valkey, or the directory of one.
    Aof(PathBuf),
}

/// What to import, and to where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Import {
    /// Where the data is.
    pub source: Source,
    /// The data directory to make.
    pub dir: PathBuf,
    /// Its number of shards.
    pub shards: usize,
    /// How keys are placed on them.
    pub routing: Routing,
}

/// What to export, and to where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// The data directory.
    pub dir: PathBuf,
    /// The RDB file to make.
    pub rdb: PathBuf,
}

/// Why nothing was made.
#[derive(Debug)]
pub enum ToolError {
    /// The system refused an operation on a file.
    Io(&'static str, PathBuf, io::Error),
    /// The data directory has data, or the file is there already.
    Taken(PathBuf),
    /// There is nothing to import.
    Nothing(PathBuf, &'static str),
    /// A kevy is running on the directory.
    InUse(PathBuf),
    /// The data directory cannot be used.
    Data(DataError),
    /// What a data directory holds cannot be loaded.
    Recover(PathBuf, RecoverError),
    /// What stands there cannot be used, and why.
    Refused(PathBuf, String),
    /// An RDB file is damaged or not known.
    Rdb(PathBuf, FileError),
    /// A log is damaged or not known.
    Log(PathBuf, LogError),
    /// A log that others continue is cut off at this byte.
    TornInside(PathBuf, u64),
    /// A snapshot of kevy is damaged or not known.
    Image(PathBuf, ImageError),
    /// A small file that tells of the others is wrong.
    Manifest(PathBuf, ManifestError),
    /// A Lua state could not be made.
    Scripts(EngineError),
}

impl std::fmt::Display for ToolError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ToolError::Io(what, path, error) => {
                write!(out, "cannot {what} {}: {error}", path.display())
            }
            ToolError::Taken(path) => {
                write!(
                    out,
                    "{} has data already: choose another place",
                    path.display()
                )
            }
            ToolError::Nothing(path, what) => write!(out, "{}: {what}", path.display()),
            ToolError::InUse(path) => {
                write!(
                    out,
                    "{}: a server is running on it: stop it first",
                    path.display()
                )
            }
            ToolError::Data(error) => write!(out, "{error}"),
            ToolError::Recover(path, error) => {
                write!(out, "{}: {}", path.display(), error.within(path))
            }
            ToolError::Refused(path, why) => write!(out, "{}: {why}", path.display()),
            ToolError::Rdb(path, error) => write!(out, "{}: {error}", path.display()),
            ToolError::Log(path, error) => write!(out, "{}: {error}", path.display()),
            ToolError::TornInside(path, at) => write!(
                out,
                "{}: byte {at}: the file ends inside of a command or transaction, though other files \
                 continue it",
                path.display()
            ),
            ToolError::Image(path, error) => write!(out, "{}: {error}", path.display()),
            ToolError::Manifest(path, error) => write!(out, "{}: {error}", path.display()),
            ToolError::Scripts(error) => write!(out, "{error}"),
        }
    }
}

impl std::error::Error for ToolError {}

/// Imports, tells how far it is on standard error and what came of it on standard output. True if
/// everything was taken.
///
/// # Errors
/// [`ToolError`]: nothing was made.
pub fn import(import: &Import) -> Result<bool, ToolError> {
    directory::refuse_taken(&import.dir)?;
    let mut shards = empty(import.shards, import.routing);
    let mut tally = Tally::default();
    let mut progress = Progress::new();
    match &import.source {
        Source::Rdb(path) => rdb::import(path, &mut shards, &mut tally, &mut progress)?,
        Source::Aof(path) => {
            let mut replay = Replay::new(shards)?;
            aof::import(path, &mut replay, &mut tally, &mut progress)?;
            shards = replay.into_shards();
        }
        Source::Kevy(path) => kevy::import(path, &mut shards, &mut tally, &mut progress)?,
    }
    tally.settle(&mut shards, now());
    progress.start("writing", 0, "keys");
    directory::write(&import.dir, import.routing, &mut shards, &mut progress)?;
    progress.finish();
    print!("{tally}");
    println!(
        "imported into {} with {} shards",
        import.dir.display(),
        import.shards
    );
    Ok(tally.is_complete())
}

/// Exports; the rest as [`import`].
///
/// # Errors
/// [`ToolError`]: nothing was made.
pub fn export(export: &Export) -> Result<bool, ToolError> {
    if export.rdb.exists() {
        return Err(ToolError::Taken(export.rdb.clone()));
    }
    let mut tally = Tally::default();
    let mut progress = Progress::new();
    // Nobody else has it until all is written.
    let dir = DataDir::existing(&export.dir).map_err(ToolError::Data)?;
    let mut shards = directory::read(&dir, &mut progress)?;
    tally.settle(&mut shards, now());
    rdb::export(&export.rdb, &mut shards, &mut tally, &mut progress)?;
    progress.finish();
    print!("{tally}");
    println!("exported to {}", export.rdb.display());
    Ok(tally.is_complete())
}

/// More than any server has; a database takes nothing until it is used.
const DATABASES: usize = 10_000;

fn databases(routing: Routing) -> usize {
    match routing {
        Routing::KevyHash => DATABASES,
        // A cluster has one.
        Routing::Slots => 1,
    }
}

fn empty(count: usize, routing: Routing) -> Shards {
    let databases = databases(routing);
    let mut shards = Shards::none_of(count as u32).routed(routing);
    for at in 0..count {
        shards.put(at, Box::new(Shard::new(databases, at as u64)));
    }
    shards
}

/// Milliseconds since 1970.
fn now() -> Ms {
    ms_of(SystemTime::now())
}

fn ms_of(time: SystemTime) -> Ms {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as Ms)
}

/// An operation on a file that failed.
fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ToolError {
    let path = path.to_path_buf();
    move |error| ToolError::Io(what, path, error)
}
