//! What a node did that its new primary lacks is kept in files before a snapshot takes its place.
//!
//! Reading the journal and writing the files is done by a thread; the link that the snapshot came on waits
//! for it. The disk may refuse: after some tries the node goes on, because a replica that never comes back is
//! no better for the data that is left, and says what it gave up.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc,
    },
    time::SystemTime,
};

use crate::{
    base::{Ms, Position},
    journal::FileName,
    recover::{
        Files,
        tail::{self, CopyError, Lacking},
    },
    shard::{
        log,
        message::Message,
        shared::{Shared, lock},
        state::State,
    },
};

/// Files of one event are kept whole, whatever their size: they are no larger than the journal was. With
/// those from before they hold at most so many bytes, and are so many, or the oldest go: a primary that was
/// cut off leaves what it took within seconds, so that is weeks of trouble, and never fills a disk.
const BYTES_MAX: u64 = 256 << 20;
const FILES_MAX: usize = 1024;
/// What was done last must have reached the journal first; not longer than this.
const SYNC_MS: Ms = 5000;
/// The disk is asked so often, with this in between.
const TRIES_MAX: u32 = 5;
const AGAIN_MS: Ms = 1000;
/// Everything is synced as soon as it is written, for so long.
const HURRY_MS: Ms = 1000;

/// What INFO tells, and what a failover knows.
#[derive(Debug, Default)]
pub struct Rollbacks {
    /// Files that are there.
    pub files: AtomicU64,
    /// Frames that were kept since the start.
    pub frames: AtomicU64,
    /// Frames that were given up and could not be kept.
    pub lost: AtomicU64,
    /// Up to where the target of the last failover had each shard's history.
    handed_over: Mutex<Vec<Position>>,
}

/// Shards, and places at which others are known to have had the same as they.
type Known = Vec<(usize, Vec<Position>)>;

/// One look for what is given up.
pub(super) struct Keeping {
    known: Known,
    primary: String,
    began: Ms,
    ends: Vec<u64>,
    tries: u32,
    stage: Stage,
}

enum Stage {
    Syncing,
    Again(Ms),
    Working(mpsc::Receiver<Outcome>),
}

/// What the thread has done.
#[derive(Debug, Default)]
struct Outcome {
    kept: Vec<Kept>,
    /// Shards of which nothing is kept, and why.
    unkept: Vec<(usize, &'static str)>,
    /// Why it has not done more, and how many frames that concerns.
    failed: Option<(String, u64)>,
    /// Files that are there now.
    files: Option<u64>,
}

const UNKNOWN: &str = "nothing tells what of it is lacking there, so nothing is kept";
const UNWRITTEN: &str =
    "LOST: what it did last is not in its journal, which has a new beginning before it";

#[derive(Debug)]
struct Kept {
    shard: usize,
    file: Option<FileName>,
    frames: u64,
    missing: u64,
}

impl Keeping {
    /// Begins to look, where something may be given up to this primary; `None` where nothing can be kept,
    /// which is said if it is a loss.
    pub(super) fn begin(mut known: Known, primary: &str, state: &mut State) -> Option<Self> {
        let shared = state.shared.clone();
        known.retain(|(shard, known)| lacks(state.told_position(*shard), known) != Some(0));
        if known.is_empty() {
            return None;
        }
        let has_journal = shared.settings.journals && shared.durable.files.get().is_some();
        if !has_journal {
            for (shard, known) in known {
                if let Some(lacks) = lacks(state.told_position(shard), &known) {
                    shared.rollbacks.lost.fetch_add(lacks, Relaxed);
                    log(&format!(
                        "shard {shard}: LOST: {lacks} frames that {primary} lacks; without a journal nothing \
                         is kept of them"
                    ));
                }
            }
            return None;
        }
        let hurry = state.now + HURRY_MS;
        shared.durable.hurry_until.fetch_max(hurry, Relaxed);
        state.tell_all(|| Message::Failover);
        Some(Self {
            known,
            primary: primary.into(),
            began: state.now,
            ends: shared.durable.ends(),
            tries: 0,
            stage: Stage::Syncing,
        })
    }

    /// Goes on; true once all is done that can be.
    pub(super) fn step(&mut self, state: &State) -> bool {
        match &self.stage {
            Stage::Syncing => {
                let mut shards = state.shared.durable.shards.iter().zip(&self.ends);
                let is_there = shards.all(|(marks, end)| {
                    // One that gets a new beginning has in no file what is not there yet.
                    marks.passed.load(SeqCst) >= *end || marks.is_stuck.load(SeqCst)
                });
                let is_late = state.now.saturating_sub(self.began) > SYNC_MS;
                if is_there || is_late {
                    self.work(state);
                }
                false
            }
            Stage::Again(at) => {
                if state.now >= *at {
                    self.work(state);
                }
                false
            }
            Stage::Working(receiver) => match receiver.try_recv() {
                Err(mpsc::TryRecvError::Empty) => false,
                Ok(outcome) => self.on_done(outcome, state),
                Err(mpsc::TryRecvError::Disconnected) => {
                    let failed = Some(("its thread has ended".into(), 0));
                    self.on_done(
                        Outcome {
                            failed,
                            ..Outcome::default()
                        },
                        state,
                    )
                }
            },
        }
    }

    fn work(&mut self, state: &State) {
        self.tries += 1;
        let shared = state.shared.clone();
        let (Some(files), Some(dir)) = (shared.durable.files.get().cloned(), &shared.settings.dir)
        else {
            return;
        };
        let dir = PathBuf::from(dir);
        let shards = self.known.iter();
        let wanted =
            shards.map(|(shard, known)| (*shard, known.clone(), state.told_position(*shard)));
        let wanted: Vec<_> = wanted.collect();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Who asked may follow somebody else by now.
            let _ = sender.send(keep(&*files, &dir, &wanted));
        });
        self.stage = Stage::Working(receiver);
    }

    /// Says what was done. True if nothing more is tried.
    fn on_done(&mut self, outcome: Outcome, state: &State) -> bool {
        let (shared, primary) = (&state.shared, &self.primary);
        if let Some((why, lacks)) = &outcome.failed {
            log(&format!(
                "what {primary} lacks of this node's writes cannot be kept: {why}"
            ));
            if self.tries < TRIES_MAX {
                self.stage = Stage::Again(state.now + AGAIN_MS);
                return false;
            }
            shared.rollbacks.lost.fetch_add(*lacks, Relaxed);
            log(&format!(
                "LOST: about {lacks} frames that {primary} lacks, after {TRIES_MAX} tries to keep them"
            ));
        }
        tell(&outcome, primary, shared);
        if let Some(files) = outcome.files {
            shared.rollbacks.files.store(files, Relaxed);
        }
        true
    }
}

fn tell(outcome: &Outcome, primary: &str, shared: &Shared) {
    for one in &outcome.kept {
        let (shard, frames, missing) = (one.shard, one.frames, one.missing);
        if let Some(file) = one.file {
            shared.rollbacks.frames.fetch_add(frames, Relaxed);
            log(&format!(
                "shard {shard}: {frames} frames that {primary} lacks are kept in {file}"
            ));
        }
        if missing > 0 {
            shared.rollbacks.lost.fetch_add(missing, Relaxed);
            log(&format!(
                "shard {shard}: LOST: {missing} frames that {primary} lacks and that the journal does not \
                 have any more"
            ));
        }
    }
    for (shard, why) in &outcome.unkept {
        log(&format!(
            "shard {shard}: its data is replaced by that of {primary}: {why}"
        ));
    }
}

/// Frames of a shard behind the last place at which somebody else is known to have had the same; `None` where
/// nobody is known to have had anything of the shard's newest history.
fn lacks(at: Position, known: &[Position]) -> Option<u64> {
    let same = known.iter().filter(|of| of.generation == at.generation);
    let common = same.map(|of| of.offset.min(at.offset)).max();
    common.map(|common| at.offset - common)
}

/// Keeps what is lacking of each shard, which was last at this place.
fn keep(
    files: &(impl Files + ?Sized),
    dir: &Path,
    wanted: &[(usize, Vec<Position>, Position)],
) -> Outcome {
    let mut outcome = Outcome::default();
    for (shard, known, at) in wanted {
        let tails = match tail::lacking(files, *shard as u32, known) {
            Ok(Lacking::Tails(tails)) => tails,
            Ok(Lacking::Unknown(start)) => {
                // What was a copy, or has never been written to, is no loss.
                let is_loss = |start: Position| at.generation == start.generation && at > &start;
                if start.is_some_and(is_loss) {
                    outcome.unkept.push((*shard, UNKNOWN));
                }
                continue;
            }
            Err(error) => {
                let lacks = lacks(*at, known).unwrap_or(0);
                outcome.failed = Some((error.within(dir), lacks));
                return outcome;
            }
        };
        let is_written = |tail: &tail::Tail| tail.generation == at.generation;
        let is_there = tails.last().is_none_or(is_written);
        if !is_there && known.iter().all(|of| of.generation != at.generation) {
            outcome.unkept.push((*shard, UNWRITTEN));
        }
        for mut tail in tails {
            if tail.generation == at.generation && tail.to > at.offset {
                // Without its end nobody could tell what is missing there.
                tail.to = at.offset.max(tail.from);
            }
            if tail.from == tail.to {
                continue;
            }
            match keep_tail(files, dir, *shard, &tail) {
                Ok(kept) => outcome.kept.push(kept),
                Err(why) => {
                    let to = tail.to.min(at.offset).max(tail.from);
                    outcome.failed = Some((why, to - tail.from + tail.missing));
                    return outcome;
                }
            }
        }
    }
    match prune(dir, &outcome.kept) {
        Ok(left) => outcome.files = Some(left),
        Err(error) => log(&format!("rollback files: {error}")),
    }
    outcome
}

fn keep_tail(
    files: &(impl Files + ?Sized),
    dir: &Path,
    shard: usize,
    tail: &tail::Tail,
) -> Result<Kept, String> {
    let number = shard as u32;
    let name = |from, to| FileName::Rollback {
        shard: number,
        generation: tail.generation,
        from,
        to,
    };
    let beside = dir.join(name(tail.from, tail.from).unfinished());
    let mut file: Option<File> = None;
    let copied = tail::copy(files, number, tail, |bytes| {
        if file.is_none() {
            file = Some(File::create(&beside)?);
        }
        file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    });
    let failed = |error: io::Error| {
        // It would be of no use to anybody.
        let _ = fs::remove_file(&beside);
        format!("{}: {error}", beside.display())
    };
    let copied = match copied {
        Ok(copied) => copied,
        Err(CopyError::Write(error)) => return Err(failed(error)),
        Err(CopyError::Read(error)) => {
            let _ = fs::remove_file(&beside);
            return Err(error.within(dir));
        }
    };
    let mut kept = Kept {
        shard,
        file: None,
        frames: copied.to - copied.from,
        missing: copied.missing,
    };
    if let Some(file) = file {
        let name = name(copied.from, copied.to);
        let publish = || {
            file.sync_all()?;
            fs::rename(&beside, dir.join(name.to_string()))?;
            File::open(dir)?.sync_all()
        };
        publish().map_err(failed)?;
        kept.file = Some(name);
    }
    Ok(kept)
}

/// Removes the oldest files, but none of these, while there are too many; how many are left.
fn prune(dir: &Path, kept: &[Kept]) -> io::Result<u64> {
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    let (mut bytes, mut count) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name @ FileName::Rollback { .. }) = name.to_str().and_then(FileName::parse) else {
            continue;
        };
        let data = entry.metadata()?;
        bytes += data.len();
        count += 1;
        if !kept.iter().any(|kept| kept.file == Some(name)) {
            found.push((data.modified()?, data.len(), entry.path()));
        }
    }
    found.sort_unstable();
    for (_, len, path) in found {
        if bytes <= BYTES_MAX && count <= FILES_MAX {
            break;
        }
        fs::remove_file(&path)?;
        log(&format!(
            "{} is removed: there are too many",
            path.display()
        ));
        (bytes, count) = (bytes - len, count - 1);
    }
    Ok(count as u64)
}

impl Rollbacks {
    /// Counts the files that are there at the start.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn look_at(&self, dir: &impl Files) -> io::Result<()> {
        let is_one = |name: &&String| {
            let name = FileName::parse(name);
            matches!(name, Some(FileName::Rollback { .. }))
        };
        let count = dir.names()?.iter().filter(is_one).count();
        self.files.store(count as u64, Relaxed);
        Ok(())
    }

    /// A failover is over, and its target had the streams up to here.
    pub(in crate::shard) fn hand_over(&self, reached: Vec<Position>) {
        *lock(&self.handed_over) = reached;
    }

    /// A place in the shard's history that the target of the last failover had reached.
    pub(super) fn of_failover(&self, shard: usize) -> Option<Position> {
        lock(&self.handed_over).get(shard).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_is_known_to_have_is_not_lacking() {
        let at = |generation, offset| Position { generation, offset };
        let known = [at(7, 30), at(5, 40), at(5, 20)];
        assert_eq!(lacks(at(5, 45), &known), Some(5));
        assert_eq!(lacks(at(5, 35), &known), Some(0));
        assert_eq!(lacks(at(6, 35), &known), None, "nobody knows");
    }

    #[test]
    fn the_oldest_files_go_and_the_newest_stay() {
        let dir = std::env::temp_dir().join(format!("ringkeep-rollback-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let name = |number: u64| FileName::Rollback {
            shard: 0,
            generation: number,
            from: 1,
            to: 2,
        };
        fs::write(dir.join("other"), "text").unwrap();
        for number in 0..FILES_MAX as u64 + 5 {
            let file = File::create(dir.join(name(number).to_string())).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number))
                .unwrap();
        }
        let kept = Kept {
            shard: 0,
            file: Some(name(1)),
            frames: 1,
            missing: 0,
        };
        let there = |number| dir.join(name(number).to_string()).exists();
        assert_eq!(prune(&dir, &[kept]).unwrap(), FILES_MAX as u64);
        assert_eq!(
            [0, 1, 2, 5, 6].map(there),
            [false, true, false, false, true]
        );
        // One that is too large on its own stays while it is new.
        let large = File::options()
            .write(true)
            .open(dir.join(name(6).to_string()))
            .unwrap();
        large.set_len(BYTES_MAX + 1).unwrap();
        let kept = Kept {
            shard: 0,
            file: Some(name(6)),
            frames: 1,
            missing: 0,
        };
        assert_eq!(prune(&dir, &[kept]).unwrap(), 1);
        assert!(there(6) && dir.join("other").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
