//! Data directories of kevy: for each shard a snapshot, a log, or a snapshot and the log that continues it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    Progress, Replay, Tally, ToolError, aof, empty,
    input::{self, Input},
    io, ms_of,
    publish::refuse_locked,
};
use crate::{
    aof::{Entry, Family, LogReader, ShardsMeta},
    base::Ms,
    cmd::Shards,
    image::{ImageReader, Record, check},
    route::{self, Routing},
};

/// What stands in front of a snapshot's number, at its end.
const SNAPSHOT_ID: &[u8; 8] = b"KEVYSNID";
/// Keys that are moved in one step.
const STEP: usize = 1000;

/// Takes a data directory. Which shard a key is in there does not matter here.
pub fn import(
    path: &Path,
    shards: &mut Shards,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    // Versions before 6 have no lock.
    refuse_locked(&path.join("LOCK"), path)?;
    let layout = Layout::read(path, tally)?;
    let mut size = 0;
    for shard in &layout.shards {
        for file in layout
            .files(*shard)
            .into_iter()
            .filter(|file| file.exists())
        {
            size += input::size(&file)?;
        }
    }
    progress.start("reading", size, "records and commands");
    let mut strangers = BTreeSet::new();
    for shard in &layout.shards {
        let mut loaded = load(&layout, *shard, tally, progress)?;
        layout.gather(*shard, &mut loaded, shards, &mut strangers, tally);
    }
    Ok(())
}

/// Which files there are.
struct Layout {
    path: PathBuf,
    meta: Option<ShardsMeta>,
    shards: BTreeSet<usize>,
}

impl Layout {
    fn read(path: &Path, tally: &mut Tally) -> Result<Self, ToolError> {
        let refused = |why: String| ToolError::Refused(path.to_path_buf(), why);
        let file = path.join("shards.meta");
        let meta = match std::fs::read(&file) {
            Ok(text) => {
                let meta = ShardsMeta::parse(&text);
                Some(meta.map_err(|error| ToolError::Manifest(file.clone(), error))?)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(io("read", &file)(error)),
        };
        let mut shards = BTreeSet::new();
        for entry in path.read_dir().map_err(io("read", path))? {
            let entry = entry.map_err(io("read", path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = |head: &str, tail: &str| {
                let digits = name.strip_prefix(head)?.strip_suffix(tail)?;
                digits.parse::<usize>().ok()
            };
            if let Some(shard) = number("aof-", ".aof")
                .or_else(|| number("dump-", ".rdb"))
                .or_else(|| number("dump-", ".rdb.prev"))
            {
                match meta {
                    Some(meta) if shard >= meta.count => {
                        let why = format!("files beyond the {} shards of shards.meta", meta.count);
                        tally.left_out(why, name.as_bytes());
                    }
                    _ => drop(shards.insert(shard)),
                }
            } else if number("aof-", ".aof.stage").is_some() {
                if has_content(&entry.path())? {
                    return Err(refused(format!(
                        "{name} holds writes that a killed kevy has not put into its log yet: start kevy \
                         on a copy of the directory, stop it, and import the copy"
                    )));
                }
            } else if number("segs-", "").is_some() && entry.path().is_dir() {
                let mut inside = entry.path().read_dir().map_err(io("read", &entry.path()))?;
                if inside.next().is_some() {
                    return Err(refused(format!(
                        "{name} holds rows that kevy has moved out of memory, in a form that is not known"
                    )));
                }
            }
        }
        if shards.is_empty() {
            return Err(ToolError::Nothing(
                path.to_path_buf(),
                "there is neither a snapshot (dump-N.rdb) nor a log (aof-N.aof) of kevy",
            ));
        }
        Ok(Self {
            path: path.to_path_buf(),
            meta,
            shards,
        })
    }

    fn log(&self, shard: usize) -> PathBuf {
        self.path.join(format!("aof-{shard}.aof"))
    }

    fn snapshots(&self, shard: usize) -> [PathBuf; 2] {
        let file = |tail: &str| self.path.join(format!("dump-{shard}.rdb{tail}"));
        [file(""), file(".prev")]
    }

    fn files(&self, shard: usize) -> Vec<PathBuf> {
        let [snapshot, _] = self.snapshots(shard);
        vec![snapshot, self.log(shard)]
    }

    /// How much a key belongs into a shard: 0 as kevy places it, 1 as old versions did, 2 not at all.
    fn strangeness(&self, key: &[u8], shard: usize) -> u8 {
        let Some(meta) = self.meta.filter(|meta| meta.count > 1) else {
            return 0;
        };
        let (now, before) = match meta.routing {
            Routing::Slots => (route::slot_shard(route::slot(key), meta.count), None),
            Routing::KevyHash => (
                route::hash_shard(route::kevy_hash(key), meta.count),
                Some(route::hash_shard(route::kevy_hash_whole(key), meta.count)),
            ),
        };
        if now == shard {
            0
        } else if before == Some(shard) {
            1
        } else {
            2
        }
    }

    /// Moves what was loaded of one shard to where it belongs here. Of a key that several shards have
    /// the one counts that clients could reach.
    fn gather(
        &self,
        shard: usize,
        loaded: &mut Shards,
        shards: &mut Shards,
        strangers: &mut BTreeSet<(Vec<u8>, u8)>,
        tally: &mut Tally,
    ) {
        let keys = loaded.keyspace(0, 0);
        let (mut cursor, mut names) = (0, Vec::new());
        loop {
            cursor = keys.scan(cursor, STEP, 0, |key, _| names.push(key.to_vec()));
            if cursor == 0 {
                break;
            }
        }
        for name in names {
            let Some((value, deadline)) = keys.take(&name, 0) else {
                continue;
            };
            let strangeness = self.strangeness(&name, shard);
            let target = shards.of(0, &name);
            if target.contains(&name, 0) {
                let why = "keys that another shard has too, where clients did not see them";
                tally.left_out(why, &name);
                // What is there may itself be the stranger.
                let rank = (0..=2).find(|rank| strangers.contains(&(name.clone(), *rank)));
                if rank.unwrap_or(0) <= strangeness {
                    continue;
                }
            }
            if strangeness == 2 {
                tally.note("a key was in another shard than its own, where clients did not see it");
            }
            if strangeness > 0 {
                strangers.insert((name.clone(), strangeness));
            }
            target.insert(&name, value, deadline);
        }
    }
}

fn has_content(path: &Path) -> Result<bool, ToolError> {
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    Ok(bytes.iter().any(|byte| *byte != 0))
}

/// Loads one shard.
fn load(
    layout: &Layout,
    shard: usize,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<Shards, ToolError> {
    let mut replay = Replay::new(empty(1, Routing::KevyHash))?;
    let log = layout.log(shard);
    let base = if log.exists() { base_of(&log)? } else { None };
    if let Some(snapshot) = snapshot_for(layout, shard, &log, base)? {
        load_image(&snapshot, replay.shards(), tally, progress)?;
    }
    if log.exists() {
        let mut input = Input::open(&log)?;
        replay.begin(modified(&log)?);
        let reader = LogReader::new(Family::Kevy, 0);
        let torn = aof::run(
            &log,
            reader,
            Vec::new(),
            &mut input,
            &mut replay,
            tally,
            progress,
        )?;
        if let Some(at) = torn {
            tally.note(format!(
                "{}: the log ends inside of a command or transaction: what stands from byte {at} on was \
                 cut off",
                log.display()
            ));
        }
    }
    Ok(replay.into_shards())
}

/// Which snapshot a log says that it continues: 0 for none at all.
fn base_of(log: &Path) -> Result<Option<u64>, ToolError> {
    let mut input = Input::open(log)?;
    let mut reader = LogReader::new(Family::Kevy, 0);
    // The first record is in the first piece or not there.
    reader.feed(input.next(&mut Progress::new())?);
    match reader.next(false) {
        Ok(Some(Entry::Base(id))) => Ok(Some(id)),
        Ok(_) => Ok(None),
        Err(error) => Err(ToolError::Log(log.to_path_buf(), error)),
    }
}

/// The snapshot to load before the log.
fn snapshot_for(
    layout: &Layout,
    shard: usize,
    log: &Path,
    base: Option<u64>,
) -> Result<Option<PathBuf>, ToolError> {
    let there = layout
        .snapshots(shard)
        .into_iter()
        .filter(|file| file.exists());
    match base {
        Some(0) => Ok(None),
        None => Ok({ there }.next()),
        Some(wanted) => {
            for file in there {
                let bytes = std::fs::read(&file).map_err(io("read", &file))?;
                let id = bytes.split_last_chunk::<8>().and_then(|(before, id)| {
                    before
                        .ends_with(SNAPSHOT_ID)
                        .then_some(u64::from_le_bytes(*id))
                });
                if id == Some(wanted) {
                    return Ok(Some(file));
                }
            }
            let why = format!("it continues snapshot {wanted:016x}, which is not there");
            Err(ToolError::Refused(log.to_path_buf(), why))
        }
    }
}

fn load_image(
    path: &Path,
    shards: &mut Shards,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    let bad = |error| ToolError::Image(path.to_path_buf(), error);
    let image = input::whole(path, progress)?;
    check(&image).map_err(bad)?;
    // Old versions tell how long keys have to live from when the image was written.
    let mut reader = ImageReader::new(image, modified(path)?).map_err(bad)?;
    loop {
        match reader.next().map_err(bad)? {
            None => return Ok(()),
            Some(Record::Aux(aux)) => {
                // A name, a time, a number, and definitions if there are some.
                if aux.parts.skip(3).any(|part| !part.is_empty()) {
                    tally.left_out("definitions of indexes, tables or views", b"");
                }
            }
            Some(record) => {
                if let Some(key) = record.key() {
                    shards.of(0, key).put_record(record, usize::MAX);
                }
            }
        }
        progress.things(1);
    }
}

fn modified(path: &Path) -> Result<Ms, ToolError> {
    let metadata = path.metadata().map_err(io("look at", path))?;
    Ok(metadata.modified().map_or(0, ms_of))
}
