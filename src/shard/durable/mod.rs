//! The durable side of one core: journals and snapshots of its shards, and the replies that wait for them.

mod frontier;
mod gate;
mod journal;
mod save;
mod snap;

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use bytes::Bytes;
use uring::Reactor;

pub use self::{gate::Gate, journal::OldSegment, save::Saves};
use self::{
    journal::{Journal, Place, Step, Trouble},
    snap::{Ended, Snap, SnapPlace, SnapStep},
};
use super::{
    message::{CoreId, Message},
    shared::lock,
    state::State,
};
use crate::{
    base::Ms,
    cmd::Shard,
    journal::{FileName, Position, Stream},
    recover::{Files, Plan},
    resp::Error,
};

/// When what was written is synced: `appendfsync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Fsync {
    /// Before the reply.
    Always,
    /// Once per second.
    #[default]
    EverySecond,
    /// When the kernel thinks so.
    No,
}

impl Fsync {
    /// By the name in a configuration.
    pub fn parse(text: &[u8]) -> Option<Fsync> {
        match &text.to_ascii_lowercase()[..] {
            b"always" => Some(Fsync::Always),
            b"everysec" => Some(Fsync::EverySecond),
            b"no" => Some(Fsync::No),
            _ => None,
        }
    }

    /// The name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Fsync::Always => "always",
            Fsync::EverySecond => "everysec",
            Fsync::No => "no",
        }
    }
}

/// The mark of a request to the ring: for which of the core's shards, in which era of its journal, what.
fn mark(own: usize, era: u8, step: u8) -> u64 {
    (own as u64) << 16 | u64::from(era) << 8 | u64::from(step)
}

/// What a core needs to know to go on with a shard's journal.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its shard.
    pub shard: usize,
    /// Where the stream goes on.
    pub at: Position,
    /// Where the history that was recovered ended.
    pub parent: Position,
    /// How keys are placed on shards, as a number.
    pub routing: u32,
    /// Number of the next segment, and of the next snapshot.
    pub next_seq: u64,
    /// Segments that are there.
    pub segments: Vec<OldSegment>,
    /// Numbers of the snapshots that are there.
    pub snapshots: Vec<u64>,
    /// Bytes of the newest of them.
    pub snapshot_bytes: u64,
}

impl Start {
    /// After a recovery.
    pub fn after(plan: Plan, routing: u32, now: Ms, is_same_boot: bool) -> Self {
        Self {
            shard: plan.shard,
            at: next_position(&plan, now, is_same_boot),
            parent: plan.end,
            routing,
            next_seq: plan.next_seq,
            segments: plan
                .segments
                .iter()
                .map(|(seq, end, bytes)| OldSegment {
                    seq: *seq,
                    end: *end,
                    bytes: *bytes,
                })
                .collect(),
            snapshots: plan.snapshots,
            snapshot_bytes: plan.snapshot_bytes,
        }
    }
}

/// Where a stream goes on: after a stop in order, where it was. So, too, if only the process ended: replicas
/// have nothing that was not written, and what was written is there as long as the machine has not gone
/// down. Otherwise something may be lost that others have seen, so a new history begins, far above whatever
/// the old one can have reached.
fn next_position(plan: &Plan, now: Ms, is_same_boot: bool) -> Position {
    let has_all = plan.is_clean || (is_same_boot && plan.is_whole);
    if has_all && plan.end.generation > 0 {
        return plan.end;
    }
    let newest = Position {
        generation: plan.generation,
        offset: plan.end.offset,
    };
    newest.renewed(now)
}

/// One shard of this core on the disk.
struct Kept {
    journal: Journal,
    place: SnapPlace,
    snap: Option<Snap>,
    /// Number of the next snapshot.
    next_snap: u64,
    /// Snapshots that are there.
    snapshots: Vec<u64>,
    /// Bytes of the journal when the newest of them was published.
    since: u64,
    /// Bytes of the newest of them.
    snapshot_bytes: u64,
    /// The newest round of snapshots that it has taken part in.
    round: u64,
    /// A snapshot failed: the next one that nobody asks for is not tried before this.
    retry_at: Ms,
    /// What was said of the journal last.
    told: Option<Trouble>,
    /// The last beats with what the stream had then, as far as that is not durable.
    beats: VecDeque<(Ms, u64)>,
    /// Without a journal: where the newest snapshot is.
    last: Position,
}

/// The journals and snapshots of a core.
pub struct Durable {
    kept: Vec<Kept>,
    tell: Vec<usize>,
    /// When the last sync of `everysec` was asked for.
    synced: Ms,
    fsync: Fsync,
    /// Replacements of the data set that were seen.
    replaced: u64,
    /// The last blocks were written.
    is_closed: bool,
}

impl Durable {
    /// The durable side of a core with these shards, in the order of the core's own.
    ///
    /// # Errors
    /// The directory could not be opened.
    pub fn new<R: Reactor>(
        dir: &Path,
        starts: Vec<Start>,
        state: &mut State,
        reactor: &mut R,
    ) -> std::io::Result<Self> {
        let folder = reactor.open_dir(dir)?;
        let settings = &state.shared.settings;
        let mut kept = Vec::new();
        for (own, start) in starts.into_iter().enumerate() {
            let place = Place {
                shard: start.shard,
                own,
                shards: settings.shards,
                routing: start.routing,
                dir: dir.to_owned(),
                folder,
                segment_len: settings.segment_len,
                next_seq: start.next_seq,
            };
            let marks = &state.shared.durable.shards[start.shard];
            marks.ready.store(start.at.offset, SeqCst);
            marks.passed.store(start.at.offset, SeqCst);
            let mut journal = Journal::new(place, start.at, start.parent);
            journal.old_segments = start.segments;
            kept.push(Kept {
                journal,
                place: SnapPlace {
                    shard: start.shard,
                    own,
                    shards: settings.shards,
                    routing: start.routing,
                    dir: dir.to_owned(),
                    folder,
                    write_len: (settings.segment_len / WRITES_PER_SEGMENT) as usize,
                },
                snap: None,
                next_snap: start.next_seq,
                snapshots: start.snapshots,
                since: 0,
                snapshot_bytes: start.snapshot_bytes,
                round: state.shared.durable.saves.round.load(Relaxed),
                retry_at: 0,
                told: None,
                beats: VecDeque::new(),
                last: start.at,
            });
        }
        state.read_tunables();
        let fsync = state.tunables.fsync;
        state.gate.on = fsync == Fsync::Always && state.shared.settings.journals;
        Ok(Self {
            kept,
            tell: Vec::new(),
            synced: 0,
            fsync,
            replaced: state.shared.durable.replaced.load(SeqCst),
            is_closed: false,
        })
    }

    /// Is there something to do that no event will tell of?
    pub fn has_work(&self) -> bool {
        self.kept
            .iter()
            .any(|kept| kept.snap.as_ref().is_some_and(Snap::has_work))
    }

    /// Hands to the ring what a turn produced; true if a snapshot went on.
    pub fn step<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        self.fsync = state.tunables.fsync;
        let replaced = state.shared.durable.replaced.load(SeqCst);
        if self.replaced != replaced {
            self.replaced = replaced;
            // What the journals hold is of data that is gone: they go on behind snapshots of the new data.
            for kept in &mut self.kept {
                kept.journal.suspend();
            }
        }
        let mut worked = false;
        for kept in &mut self.kept {
            let shard = kept.place.shard;
            if !state.homes.shards.has(shard) {
                continue;
            }
            let home = state.homes.shards.shard(shard);
            if let Some(stream) = &mut home.stream
                && state.shared.settings.journals
            {
                kept.journal.keeps = state.feeding[kept.place.own];
                kept.journal.step(stream, self.fsync, reactor);
            }
            worked |= kept.go_on(state, reactor);
        }
        if !state.watch.is_empty() {
            self.advance(state);
        }
        worked
    }

    /// The beat.
    pub fn tick<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        self.fsync = state.tunables.fsync;
        let shards = &state.shared.durable.shards;
        let is_late = shards.iter().any(|marks| marks.is_late.load(Relaxed));
        state.gate.on = match self.fsync {
            _ if !state.shared.settings.journals => false,
            Fsync::Always => true,
            // A disk that is slower than the writers must not make the loss of a crash grow.
            Fsync::EverySecond => is_late,
            Fsync::No => false,
        };
        if self.fsync == Fsync::EverySecond && state.now.abs_diff(self.synced) >= 1000 {
            self.synced = state.now;
            for kept in &mut self.kept {
                kept.journal.want_sync();
            }
        }
        for kept in &mut self.kept {
            kept.tick(state, reactor);
        }
        state.answer_saves();
    }

    /// A write of a file is over.
    pub fn on_written<R: Reactor>(
        &mut self,
        state: &mut State,
        (mark, block): (u64, Bytes),
        result: Result<(), i32>,
        reactor: &mut R,
    ) {
        let (own, era, step) = unmark(mark);
        let Some(kept) = self.kept.get_mut(own) else {
            return;
        };
        if let Some(step) = SnapStep::of(step) {
            kept.on_snap(era, step, result, state, reactor);
            if let Some(snap) = &mut kept.snap {
                snap.reuse(block.into());
            }
            return;
        }
        if let Some(step) = Step::of(step)
            && !kept.journal.is_stale(era)
        {
            let parts = kept.journal.on_written(step, result);
            if !parts.is_empty() {
                state
                    .written
                    .extend(parts.into_iter().map(|part| (own, part)));
                self.advance(state);
                return;
            }
        }
        let shard = kept.place.shard;
        if state.homes.shards.has(shard)
            && let Some(stream) = &mut state.homes.shards.shard(shard).stream
        {
            stream.reuse(block);
        }
        self.advance(state);
    }

    /// A sync or another request is over.
    pub fn on_done<R: Reactor>(
        &mut self,
        state: &mut State,
        mark: u64,
        result: Result<(), i32>,
        reactor: &mut R,
    ) {
        let (own, era, step) = unmark(mark);
        let Some(kept) = self.kept.get_mut(own) else {
            return;
        };
        if let Some(step) = SnapStep::of(step) {
            kept.on_snap(era, step, result, state, reactor);
        } else if let Some(step) = Step::of(step)
            && !kept.journal.is_stale(era)
        {
            kept.journal.on_done(step, result, reactor);
        }
        self.advance(state);
    }

    /// Writes down what is left; true once that is done.
    pub fn is_finished<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        if !state.shared.settings.journals {
            return true;
        }
        let mut is_settled = true;
        for kept in &mut self.kept {
            let shard = kept.place.shard;
            if !state.homes.shards.has(shard) {
                return false;
            }
            if let Some(stream) = &state.homes.shards.shard(shard).stream {
                kept.journal.want_sync();
                is_settled &= kept.journal.is_settled(stream.next());
            }
        }
        if is_settled && !self.is_closed {
            self.is_closed = true;
            for kept in &mut self.kept {
                let home = state.homes.shards.shard(kept.place.shard);
                if let Some(stream) = &mut home.stream {
                    kept.journal.close(stream, reactor);
                }
            }
        }
        is_settled && self.kept.iter().all(|kept| kept.journal.is_closed())
    }

    /// Moves the frontiers as far as they go, tells other cores, and lets go what waited.
    pub fn advance(&mut self, state: &mut State) {
        for kept in &mut self.kept {
            kept.tell_trouble(state);
        }
        let shared = state.shared.clone();
        let marks = &shared.durable.shards;
        loop {
            let mut moved = false;
            for kept in &mut self.kept {
                let shard = kept.place.shard;
                let frontier = &mut kept.journal.frontier;
                let before = frontier.ready();
                frontier.advance(
                    |ready| marks[shard].ready.store(ready, SeqCst),
                    |other| marks[other].ready.load(SeqCst),
                    &mut self.tell,
                );
                moved |= frontier.ready() != before;
                marks[shard].passed.store(frontier.passed(), SeqCst);
            }
            if !moved {
                break;
            }
        }
        let tell = self.tell.drain(..);
        let mut cores: Vec<CoreId> = tell.map(|shard| state.homes.owner(shard)).collect();
        state.watch.retain(|(shard, core, offset)| {
            let is_there = marks[*shard].passed.load(Relaxed) >= *offset;
            if is_there {
                cores.push(*core);
            }
            !is_there
        });
        cores.sort_unstable();
        cores.dedup();
        for core in cores {
            if core != state.me {
                state.mesh.send(core, Message::Frontier);
            }
        }
        state.let_go();
    }
}

impl Kept {
    /// Says so when the journal has stopped, or goes on.
    fn tell_trouble(&mut self, state: &mut State) {
        let trouble = self.journal.trouble;
        if trouble == self.told {
            return;
        }
        self.told = trouble;
        let text = trouble.map(|trouble| {
            let error = std::io::Error::from_raw_os_error(trouble.errno);
            format!("{}: {error}", trouble.step)
        });
        super::log(&match &text {
            Some(text) => format!(
                "shard {}: {text}: writes are refused until a snapshot has made a new beginning",
                self.place.shard
            ),
            None => format!("shard {}: the journal goes on", self.place.shard),
        });
        state.shared.durable.note_trouble(self.place.shard, text);
    }

    /// Goes on with the snapshot that is being made.
    fn go_on<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        let Some(snap) = &mut self.snap else {
            return false;
        };
        let has_work = snap.has_work();
        let heals = snap.heals;
        let home = state.homes.shards.shard(self.place.shard);
        let at = home.position();
        let passed = match state.shared.settings.journals {
            true => self.journal.frontier.passed(),
            false => u64::MAX,
        };
        let is_walked = snap.step(home, at, passed, reactor);
        if is_walked {
            if heals {
                // The snapshot has all that was recorded so far.
                home.drop_recorded();
            } else {
                self.journal.want_sync();
            }
            if !state.shared.settings.journals && !state.feeding[self.place.own] {
                home.stream = None;
                state.homes.refresh(self.place.shard);
            }
        }
        if !is_walked && snap.end().is_some() {
            self.journal.want_sync();
        }
        has_work
    }

    /// The beat: begins snapshots that are due, and tells how things are.
    fn tick<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        let shared = state.shared.clone();
        let shard = self.place.shard;
        let marks = &shared.durable.shards[shard];
        let journal = &self.journal;
        marks.bytes.store(journal.bytes, Relaxed);
        marks.writes.store(journal.writes, Relaxed);
        marks.syncs.store(journal.syncs, Relaxed);
        marks.size.store(journal.size(), Relaxed);
        marks.snapshot.store(self.snapshot_bytes, Relaxed);
        if !state.homes.shards.has(shard) {
            return;
        }
        let at = state.homes.shards.shard(shard).position();
        let passed = self.journal.frontier.passed();
        while self.beats.front().is_some_and(|(_, end)| *end <= passed) {
            self.beats.pop_front();
        }
        let oldest = self.beats.front().map_or(state.now, |(then, _)| *then);
        let is_late = state.now.saturating_sub(oldest) > LATE_MS;
        marks.is_late.store(is_late, Relaxed);
        if passed < at.offset && self.beats.len() < BEATS_MAX {
            self.beats.push_back((state.now, at.offset));
        }
        marks.next.store(at.offset, Relaxed);
        marks.generation.store(at.generation, Relaxed);
        if let Some(snap) = &self.snap {
            if !self.journal.is_suspended() || snap.heals {
                return;
            }
            // It waits for a journal that does not go on.
            let is_asked = snap.is_asked;
            snap.give_up(Some(state.homes.shards.shard(shard)), reactor);
            self.snap = None;
            self.end_failed("the journal failed during a snapshot", 0, is_asked, state);
        }
        let round = shared.durable.saves.round.load(Relaxed);
        let is_asked = self.round != round;
        let journal = &self.journal;
        let heals = journal.is_suspended() && state.now >= self.retry_at;
        let grown = journal.bytes - self.since;
        // By less than a segment it does not pay.
        let least = shared.settings.segment_len.max(self.snapshot_bytes);
        let is_large = grown > least && state.now >= self.retry_at;
        if is_asked || heals || is_large {
            self.round = round;
            let heals = journal.is_suspended();
            self.begin(is_asked, heals, state, reactor);
        }
    }

    fn begin<R: Reactor>(
        &mut self,
        is_asked: bool,
        heals: bool,
        state: &mut State,
        reactor: &mut R,
    ) {
        let shard = self.place.shard;
        let seq = self.next_snap;
        self.next_snap += 1;
        let has_stream = state.homes.shards.shard(shard).stream.is_some();
        if !state.shared.settings.journals && !has_stream {
            // The walk needs to hear of changes.
            let at = self.last.renewed(state.now);
            self.last = at;
            let home = state.homes.shards.shard(shard);
            home.stream = Some(Box::new(Stream::new(shard as u32, at)));
            state.homes.refresh(shard);
        }
        let home = state.homes.shards.shard(shard);
        if heals && let Some(stream) = &mut home.stream {
            // Some of what was recorded is in no file, so this is another history.
            let at = Position {
                generation: stream.generation(),
                offset: stream.next(),
            };
            let at = at.renewed(state.now);
            **stream = Stream::new(shard as u32, at);
        }
        let at = home.position();
        match Snap::begin(self.place.clone(), seq, home, at, reactor) {
            Ok(mut snap) => {
                (snap.is_asked, snap.heals) = (is_asked, heals);
                self.snap = Some(snap);
            }
            Err(errno) => self.end_failed("making a snapshot", errno, is_asked, state),
        }
    }

    fn on_snap<R: Reactor>(
        &mut self,
        era: u8,
        step: SnapStep,
        result: Result<(), i32>,
        state: &mut State,
        reactor: &mut R,
    ) {
        let is_current = self.snap.as_ref().is_some_and(|snap| snap.seq as u8 == era);
        if !is_current || step == SnapStep::Remove {
            return;
        }
        let Some(snap) = &mut self.snap else { return };
        match snap.on_done(step, result, reactor) {
            None => {}
            Some(Ended::Failed(what, errno)) => {
                let is_asked = snap.is_asked;
                let has = state.homes.shards.has(self.place.shard);
                let home = has.then(|| state.homes.shards.shard(self.place.shard));
                snap.give_up(home, reactor);
                self.snap = None;
                self.end_failed(what, errno, is_asked, state);
            }
            Some(Ended::Published(at)) => self.end_good(at, state, reactor),
        }
    }

    fn end_failed(&mut self, what: &str, errno: i32, is_asked: bool, state: &mut State) {
        let error = std::io::Error::from_raw_os_error(errno);
        state.log_seldom(&format!("shard {}: {what}: {error}", self.place.shard));
        self.retry_at = state.now + RETRY_MS;
        if is_asked {
            state.shared.durable.saves.end_one(false, state.now);
        }
    }

    /// A snapshot is published: what is older is of no more use.
    fn end_good<R: Reactor>(&mut self, at: Position, state: &mut State, reactor: &mut R) {
        let Some(snap) = self.snap.take() else { return };
        if snap.heals {
            self.journal.heal(at, reactor);
            // Other shards may have waited for what the snapshot has now.
            let marks = &state.shared.durable.shards[self.place.shard];
            marks.ready.store(at.offset, SeqCst);
            for core in (0..state.mesh.cores()).filter(|core| *core != state.me) {
                state.mesh.send(core, Message::Frontier);
            }
        }
        self.snapshot_bytes = snap.bytes;
        self.since = self.journal.bytes;
        let shard = self.place.shard as u32;
        let mut names: Vec<FileName> = self
            .snapshots
            .drain(..)
            .map(|seq| FileName::Snapshot { shard, seq })
            .collect();
        self.snapshots.push(snap.seq);
        // A snapshot that heals is the beginning of another history.
        let keep = match state.feeding[self.place.own] && !snap.heals {
            true => state.tunables.backlog_len as u64,
            false => 0,
        };
        let older = self.journal.take_older(at.offset, keep);
        names.extend(older.map(|seq| FileName::Segment { shard, seq }));
        for name in names {
            let path = self.place.dir.join(name.to_string());
            reactor.remove(&path, mark(self.place.own, 0, SnapStep::Remove as u8));
        }
        if snap.is_asked {
            state.shared.durable.saves.end_one(true, state.now);
        }
    }
}

/// With `everysec`, replies wait for the disk while something older than this is not durable.
const LATE_MS: Ms = 1500;
/// Beats that are remembered.
const BEATS_MAX: usize = 32;
/// A write of a snapshot has this part of a segment's length.
const WRITES_PER_SEGMENT: u64 = 256;
/// Between two tries of a snapshot that failed.
const RETRY_MS: Ms = 1000;

/// What cores tell each other, INFO and clients about durability.
#[derive(Default)]
pub struct Durability {
    /// One per shard of the node.
    pub shards: Vec<Marks>,
    /// There is a data directory.
    pub has_directory: bool,
    /// Snapshots that clients asked for.
    pub saves: Saves,
    /// Nothing is written down at present, for this reason: writes are refused.
    pub broken: AtomicBool,
    trouble: Mutex<BTreeMap<usize, String>>,
    /// What is being loaded at the start.
    pub loading: Loading,
    /// Counts how often the whole data set was replaced by a primary's.
    pub replaced: AtomicU64,
    /// The data directory, for threads that read what was written long ago.
    pub files: OnceLock<Arc<dyn Files + Send + Sync>>,
}

/// How far a shard's stream is durable, told by its core.
#[derive(Debug, Default)]
#[repr(align(128))]
#[allow(missing_docs)]
pub struct Marks {
    /// Synced here, up to and with the first unit over several shards that is not known to be complete.
    pub ready: AtomicU64,
    /// Durable and complete.
    pub passed: AtomicU64,
    /// Something has waited for the disk for too long.
    pub is_late: AtomicBool,
    /// The offset that its next frame gets, at the last beat.
    pub next: AtomicU64,
    /// Generation of its stream.
    pub generation: AtomicU64,
    pub bytes: AtomicU64,
    pub writes: AtomicU64,
    pub syncs: AtomicU64,
    /// Bytes of all segments that are there.
    pub size: AtomicU64,
    /// Bytes of the newest snapshot.
    pub snapshot: AtomicU64,
}

/// How far loading is.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Loading {
    pub began: AtomicU64,
    pub bytes: AtomicU64,
    pub done: AtomicU64,
    /// Shards that are not in their places yet.
    pub shards: AtomicUsize,
    loaded: Mutex<BTreeMap<usize, Loaded>>,
}

/// A shard as it was kept.
#[derive(Debug)]
pub struct Loaded {
    /// It, without a stream.
    pub shard: Box<Shard>,
    /// How its journal goes on.
    pub start: Start,
}

impl Loading {
    /// Hands over a shard that was loaded.
    pub fn put(&self, loaded: Loaded) {
        lock(&self.loaded).insert(loaded.start.shard, loaded);
    }

    /// Takes a shard over, if it was loaded.
    pub fn take(&self, shard: usize) -> Option<Loaded> {
        lock(&self.loaded).remove(&shard)
    }
}

impl Durability {
    /// Of a node with so many shards.
    pub fn new(shards: usize, has_directory: bool) -> Self {
        Self {
            shards: (0..shards).map(|_| Marks::default()).collect(),
            has_directory,
            ..Self::default()
        }
    }

    /// A shard's journal cannot be written, or can be again.
    pub fn note_trouble(&self, shard: usize, trouble: Option<String>) {
        let mut all = lock(&self.trouble);
        match trouble {
            Some(text) => drop(all.insert(shard, text)),
            None => drop(all.remove(&shard)),
        }
        self.broken.store(!all.is_empty(), Relaxed);
    }

    /// Why writes are refused.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).values().next().cloned()
    }

    /// The reply to a write while nothing can be written down.
    pub fn refusal(&self) -> Error {
        let why = self.trouble().unwrap_or_default();
        Error::text(format!(
            "MISCONF Errors writing to the journal: {why}. Commands that may modify the data set are \
             disabled."
        ))
    }
}

/// The three parts of a [`mark`].
fn unmark(mark: u64) -> (usize, u8, u8) {
    ((mark >> 16) as usize, (mark >> 8) as u8, mark as u8)
}
