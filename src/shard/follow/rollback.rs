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
    journal::{FileName, Own},
    recover::{
        Files, RecoverError,
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
    /// How often all cores were asked how far their shards are.
    round: AtomicU64,
    /// Up to where the target of the last failover had each shard's history.
    handed_over: Mutex<Vec<Position>>,
}

/// Shards, and places at which others are known to have had the same as they.
type Known = Vec<(usize, Vec<Position>)>;

/// A shard whose data is to be replaced.
#[derive(Clone, Debug)]
struct Given {
    shard: usize,
    /// Places at which others are known to have had the same.
    known: Vec<Position>,
    /// Where it is.
    at: Position,
    /// What is our own, if its history went on from a primary's while the node was running.
    own: Option<Own>,
}

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
    /// Other cores are asked how far their shards are.
    Asking(u64),
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
    /// Begins to look where something may be given up to this primary.
    pub(super) fn begin(known: Known, primary: &str, state: &mut State) -> Self {
        let hurry = state.now + HURRY_MS;
        state.shared.durable.hurry_until.fetch_max(hurry, Relaxed);
        let round = state.shared.rollbacks.round.fetch_add(1, SeqCst) + 1;
        state.tell_all(|| Message::Failover);
        Self {
            known,
            primary: primary.into(),
            began: state.now,
            ends: Vec::new(),
            tries: 0,
            stage: Stage::Asking(round),
        }
    }

    /// Everybody has told how far they are, and nobody takes writes any more. True if nothing can be kept;
    /// where that is a loss it is said.
    fn on_told(&mut self, state: &State) -> bool {
        let shared = &state.shared;
        self.known
            .retain(|(shard, known)| lacks(state.told_position(*shard), known) != Some(0));
        let has_journal = shared.settings.journals && shared.durable.files.get().is_some();
        if has_journal {
            self.ends = shared.durable.ends();
            self.stage = Stage::Syncing;
            return self.known.is_empty();
        }
        let primary = &self.primary;
        for (shard, known) in self.known.drain(..) {
            let given = Given::of(state, shard, known);
            if let Some(lacks) = given.lacks().filter(|lacks| *lacks > 0) {
                shared.rollbacks.lost.fetch_add(lacks, Relaxed);
                log(&format!(
                    "shard {shard}: LOST: {lacks} frames that {primary} lacks; without a journal nothing is \
                     kept of them"
                ));
            }
        }
        true
    }

    /// Goes on; true once all is done that can be.
    pub(super) fn step(&mut self, state: &State) -> bool {
        match &self.stage {
            Stage::Asking(round) => {
                let marks = |shard: usize| &state.shared.durable.shards[shard];
                let mut shards = self.known.iter().map(|(shard, _)| marks(*shard));
                let are_told = shards.all(|marks| marks.told.load(SeqCst) >= *round);
                let is_late = state.now.saturating_sub(self.began) > SYNC_MS;
                (are_told || is_late) && self.on_told(state)
            }
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
        let given = shards.map(|(shard, known)| Given::of(state, *shard, known.clone()));
        let given: Vec<_> = given.collect();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Who asked may follow somebody else by now.
            let _ = sender.send(keep(&*files, &dir, &given));
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
                 have"
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

impl Given {
    fn of(state: &State, shard: usize, known: Vec<Position>) -> Self {
        Self {
            shard,
            known,
            at: state.told_position(shard),
            own: state.shared.durable.shards[shard].own(),
        }
    }

    /// Frames that the primary lacks, as far as somebody knows where they begin, be they in files or not.
    fn lacks(&self) -> Option<u64> {
        let own = |own: Own| own.before + self.at.offset.saturating_sub(own.from);
        lacks(self.at, &self.known).or_else(|| self.own.map(own))
    }

    /// Frames among them that are in no file, for sure: those of histories before the newest one.
    fn before(&self) -> u64 {
        match lacks(self.at, &self.known) {
            Some(_) => 0,
            None => self.own.map_or(0, |own| own.before),
        }
    }

    /// What is lacking, as far as its files tell.
    fn lacking(&self, files: &(impl Files + ?Sized)) -> Result<Lacking, RecoverError> {
        let shard = self.shard as u32;
        let found = tail::lacking(files, shard, &self.known)?;
        let (Lacking::Unknown(_), Some(own)) = (&found, self.own) else {
            return Ok(found);
        };
        // Files that got a new beginning since have lost what came before this history.
        let own = Position {
            generation: self.at.generation,
            offset: own.from,
        };
        tail::lacking(files, shard, &[own])
    }
}

/// Keeps what is lacking of each shard. One of which it cannot be kept is in nobody's way.
fn keep(files: &(impl Files + ?Sized), dir: &Path, given: &[Given]) -> Outcome {
    let mut outcome = Outcome::default();
    for one in given {
        if let Err((why, lacks)) = keep_shard(files, dir, one, &mut outcome) {
            let (_, lost) = outcome.failed.get_or_insert((why, 0));
            *lost += lacks;
        }
    }
    match prune(dir, &outcome.kept) {
        Ok(left) => outcome.files = Some(left),
        Err(error) => log(&format!("rollback files: {error}")),
    }
    outcome
}

/// The same of one; an error with how many frames are not kept because of it.
fn keep_shard(
    files: &(impl Files + ?Sized),
    dir: &Path,
    given: &Given,
    outcome: &mut Outcome,
) -> Result<(), (String, u64)> {
    let (shard, at) = (given.shard, given.at);
    let lost = |missing| Kept {
        shard,
        file: None,
        frames: 0,
        missing,
    };
    let lacking = given.lacking(files);
    let tails = match lacking.map_err(|error| (error.within(dir), given.lacks().unwrap_or(0)))? {
        Lacking::Tails(tails) => tails,
        Lacking::Unknown(start) => {
            // What was a copy, or has never been written to, is no loss.
            let is_loss = |start: Position| at.generation == start.generation && at > start;
            if given.own.is_some() {
                outcome.kept.extend(given.lacks().map(lost));
            } else if start.is_some_and(is_loss) {
                outcome.unkept.push((shard, UNKNOWN));
            }
            return Ok(());
        }
    };
    let is_written = |tail: &tail::Tail| tail.generation == at.generation;
    match (tails.last().is_none_or(is_written), given.lacks()) {
        (true, _) => outcome
            .kept
            .extend(Some(given.before()).filter(|before| *before > 0).map(lost)),
        (false, Some(missing)) => outcome.kept.push(lost(missing)),
        (false, None) => outcome.unkept.push((shard, UNWRITTEN)),
    }
    let mut failed: Option<(String, u64)> = None;
    for mut tail in tails {
        if tail.generation == at.generation && tail.to > at.offset {
            // Without its end nobody could tell what is missing there.
            tail.to = at.offset.max(tail.from);
        }
        if tail.from == tail.to && tail.missing == 0 {
            continue;
        }
        match keep_tail(files, dir, shard, &tail) {
            Ok(kept) => outcome.kept.push(kept),
            Err(why) => {
                let to = tail.to.min(at.offset).max(tail.from);
                let (_, lost) = failed.get_or_insert((why, 0));
                *lost += to - tail.from + tail.missing;
            }
        }
    }
    failed.map_or(Ok(()), Err)
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

    /// The newest question how far the shards are.
    pub(in crate::shard) fn round(&self) -> u64 {
        self.round.load(SeqCst)
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
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::journal::{Stream, segment::Segment};

    struct Folder<'a>(&'a Path);

    impl Files for Folder<'_> {
        fn names(&self) -> io::Result<Vec<String>> {
            let names = fs::read_dir(self.0)?;
            names
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        }

        fn len(&self, _name: &str) -> io::Result<u64> {
            unreachable!("nobody asks for it")
        }

        fn read(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
            File::open(self.0.join(name))?.read_at(into, at)
        }
    }

    #[test]
    fn what_somebody_is_known_to_have_is_not_lacking() {
        let at = |generation, offset| Position { generation, offset };
        let known = [at(7, 30), at(5, 40), at(5, 20)];
        assert_eq!(lacks(at(5, 45), &known), Some(5));
        assert_eq!(lacks(at(5, 35), &known), Some(0));
        assert_eq!(lacks(at(6, 35), &known), None, "nobody knows");
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ringkeep-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A segment of shard 0 in a history that went on from a primary's, with so many frames.
    fn write_segment(dir: &Path, seq: u64, start: Position, parent: Position, frames: u64) {
        let mut stream = Stream::new(0, start);
        let segment = Segment {
            seq,
            shard: 0,
            shard_count: 2,
            routing: 0,
            start,
            parent,
        };
        let mut bytes = segment.compose().to_vec();
        for number in 0..frames {
            let text = number.to_string();
            stream.frame(0, [&b"SET"[..], b"key", text.as_bytes()].into_iter());
            stream.end_unit();
        }
        if let Some(mut block) = stream.take_block() {
            block.seal(seq, block.first());
            bytes.extend_from_slice(block.bytes());
        }
        let name = FileName::Segment { shard: 0, seq };
        fs::write(dir.join(name.to_string()), bytes).unwrap();
    }

    #[test]
    fn what_no_file_has_is_counted_as_lost() {
        let dir = scratch("rollback-lost");
        let position = |generation, offset| Position { generation, offset };
        // Promoted at 40, it had no journal until 60.
        let given = |own: Option<(u64, u64)>| Given {
            shard: 0,
            known: vec![position(3, 40)],
            at: position(5, 70),
            own: own.map(|(from, before)| Own { from, before }),
        };
        let lost = |given: &Given| {
            let outcome = keep(&Folder(&dir), &dir, std::slice::from_ref(given));
            assert!(outcome.failed.is_none());
            let kept = outcome.kept.iter();
            kept.fold((0, 0), |(frames, missing), one| {
                (frames + one.frames, missing + one.missing)
            })
        };
        assert_eq!(lost(&given(Some((40, 0)))), (0, 30));
        assert_eq!(lost(&given(Some((40, 3)))), (0, 33));
        assert_eq!(lost(&given(None)), (0, 0), "nobody knows since when");
        // Its files are of what it was before.
        write_segment(&dir, 1, position(2, 10), position(2, 10), 5);
        assert_eq!(lost(&given(Some((40, 0)))), (0, 30));
        // A new beginning, without and with what was done behind it.
        write_segment(&dir, 2, position(5, 70), position(5, 70), 0);
        assert_eq!(lost(&given(Some((40, 0)))), (0, 30));
        write_segment(&dir, 2, position(5, 60), position(5, 60), 10);
        assert_eq!(lost(&given(Some((40, 0)))), (10, 20));
        assert_eq!(lost(&given(Some((60, 7)))), (10, 7));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_shard_that_cannot_be_kept_hides_no_other() {
        let dir = scratch("rollback-refused");
        let position = |offset| Position {
            generation: 5,
            offset,
        };
        write_segment(&dir, 1, position(40), position(40), 10);
        let name = FileName::Rollback {
            shard: 0,
            generation: 5,
            from: 40,
            to: 40,
        };
        fs::create_dir(dir.join(name.unfinished())).unwrap();
        let given = [0, 1].map(|shard| Given {
            shard,
            known: Vec::new(),
            at: position(50),
            own: Some(Own {
                from: 40,
                before: 0,
            }),
        });
        let outcome = keep(&Folder(&dir), &dir, &given);
        assert_eq!(outcome.failed.map(|(_, lost)| lost), Some(10));
        let other = outcome.kept.iter().map(|one| (one.shard, one.missing));
        assert_eq!(Vec::from_iter(other), [(1, 10)]);
        fs::remove_dir_all(&dir).unwrap();
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
