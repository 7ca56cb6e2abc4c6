//! The durable side of one core: journals and snapshots of its shards, and the replies that wait for them.

mod frontier;
mod gate;
mod journal;
mod mend;
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

pub use self::{
    gate::{Gate, Term, Verdict},
    journal::OldSegment,
    save::{SavePoints, Saves},
};
use self::{
    journal::{Journal, Place, Step, Trouble},
    mend::{BundleStep, LEADER, Leader, Mending, Round, Stage},
    snap::{Ended, Snap, SnapPlace, SnapStep},
};
use super::{
    handoff,
    loans::Job,
    message::{CoreId, Message},
    meter::Commits,
    shared::{Shared, lock},
    state::State,
};
use crate::{
    base::Ms,
    cmd::{Shard, libraries},
    journal::{Ancestry, FileName, Own, Position, from_files, in_files, plan::Replay},
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
    /// Where the history that was recovered ended, as files name it.
    pub parent: Position,
    /// It is a primary's history, and all that the shard has is in it.
    pub is_adopted: bool,
    /// The histories that it goes on from.
    pub ancestry: Ancestry,
    /// Every history of which something was recovered, and where it ended; the newest last.
    pub histories: Vec<Position>,
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
        let (generation, is_adopted) = from_files(plan.end.generation);
        let at = match is_adopted {
            // What others have seen of it and we have not is no loss: the primary has it.
            true => Position {
                generation,
                offset: plan.end.offset,
            },
            false => next_position(&plan, now, is_same_boot),
        };
        Self {
            shard: plan.shard,
            at,
            is_adopted,
            ancestry: ancestry_of(&plan.replays, at),
            parent: plan.end,
            histories: histories_of(&plan),
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

/// Every history of which something was recovered, and where it ended.
fn histories_of(plan: &Plan) -> Vec<Position> {
    let replays = plan.replays.iter();
    let replays = replays.map(|replay| (replay.generation, replay.to));
    let mut histories: Vec<Position> = Vec::new();
    for (generation, offset) in replays.chain([(plan.end.generation, plan.end.offset)]) {
        let (generation, _) = from_files(generation);
        histories.retain(|history| history.generation != generation);
        histories.push(Position { generation, offset });
    }
    histories
}

/// The histories that end where the next one begins, back from where a stream goes on.
fn ancestry_of(replays: &[Replay], at: Position) -> Ancestry {
    let (mut generation, mut next) = (at.generation, at.offset);
    let mut histories = Vec::new();
    for replay in replays.iter().rev() {
        if replay.to != next {
            break;
        }
        let (before, _) = from_files(replay.generation);
        if before != generation {
            histories.push(Position {
                generation: before,
                offset: next,
            });
        }
        (generation, next) = (before, replay.from);
    }
    Ancestry::of(histories)
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
        offset: plan.end.offset.max(plan.reached),
    };
    newest.renewed(now)
}

/// One shard of this core on the disk.
struct Kept {
    journal: Journal,
    place: SnapPlace,
    snap: Option<Snap>,
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
    /// The newest round of new beginnings that it has taken part in.
    mended: u64,
    /// A snapshot is to be made of its own accord.
    is_due: bool,
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
    /// Beats in which replies may still wait that began to under another policy.
    leftover: u32,
    /// Replacements of the data set that were seen.
    replaced: u64,
    /// On core 0: who leads through rounds of new beginnings.
    leader: Option<Leader>,
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
            let at = Position {
                generation: in_files(start.at.generation, start.is_adopted),
                ..start.at
            };
            let mut journal = Journal::new(place, at, start.parent);
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
                snapshots: start.snapshots,
                since: 0,
                snapshot_bytes: start.snapshot_bytes,
                round: state.shared.durable.saves.round.load(Relaxed),
                retry_at: 0,
                told: None,
                mended: 0,
                is_due: false,
                beats: VecDeque::new(),
                last: start.at,
            });
        }
        state.read_tunables();
        let fsync = state.tunables.fsync;
        let waits = fsync == Fsync::Always && state.shared.settings.journals;
        state.gate.wait_for_disk(waits);
        Ok(Self {
            kept,
            tell: Vec::new(),
            synced: 0,
            fsync,
            leftover: 0,
            replaced: state.shared.durable.replaced.load(SeqCst),
            leader: (state.me == 0).then(|| Leader::new(dir.to_owned(), folder)),
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
            for kept in &mut self.kept {
                kept.replaced(state, reactor);
            }
        }
        let hurries = state.now < state.shared.durable.hurry_until.load(Relaxed);
        let mut worked = false;
        for kept in &mut self.kept {
            if hurries {
                kept.journal.want_sync();
            }
            let shard = kept.place.shard;
            if !state.homes.shards.has(shard) {
                continue;
            }
            let is_ending = state.stage >= handoff::Stage::Sealing;
            let home = state.homes.shards.shard(shard);
            if let Some(stream) = &mut home.stream
                && state.shared.settings.journals
                // Behind its end, the next one who writes here may be another process.
                && !(is_ending && kept.journal.is_closed() && stream.pending_bytes() == 0)
            {
                kept.journal.keeps = state.feeding[kept.place.own];
                kept.journal.step(stream, self.fsync, reactor);
            }
            worked |= kept.go_on(state, reactor);
        }
        while self.mend(state, reactor) {
            tell_others(state);
        }
        if !state.watch.is_empty() {
            self.advance(state);
        }
        worked
    }

    /// Does its part of a round of new beginnings. True if the round has gone on, for others and this core.
    fn mend<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        let shared = state.shared.clone();
        let mending = &shared.durable.mending;
        let is_in = |kept: &Kept| kept.snap.as_ref().is_some_and(|snap| snap.mends.is_some());
        if !mending.is_on() && !self.kept.iter().any(is_in) {
            return false;
        }
        let round = mending.view();
        let mut goes_on = false;
        for kept in &mut self.kept {
            goes_on |= kept.mend(&round, state, reactor);
        }
        if let Some(leader) = &mut self.leader {
            if leader.asks(&round) {
                state.collect((0..shared.settings.shards).collect(), Job::Cut);
            }
            leader.step(mending, &round, state.now, reactor);
        }
        goes_on
    }

    /// The beat.
    pub fn tick<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        self.fsync = state.tunables.fsync;
        let shards = &state.shared.durable.shards;
        let is_late = shards.iter().any(|marks| marks.is_late.load(Relaxed));
        let is_on = match self.fsync {
            _ if !state.shared.settings.journals => false,
            Fsync::Always => true,
            // A disk that is slower than the writers must not make the loss of a crash grow.
            Fsync::EverySecond => is_late,
            Fsync::No => false,
        };
        self.leftover = match state.gate.wait_for_disk(is_on) && !is_on {
            true => LEFTOVER_BEATS,
            false => self.leftover.saturating_sub(1),
        };
        if self.leftover > 0 {
            // Of this core or another one, whose beat may be a little later.
            for kept in &mut self.kept {
                kept.journal.want_sync();
            }
        }
        if self.fsync == Fsync::EverySecond && state.now.abs_diff(self.synced) >= 1000 {
            self.synced = state.now;
            for kept in &mut self.kept {
                kept.journal.want_sync();
            }
        }
        for kept in &mut self.kept {
            kept.tick(state, reactor);
        }
        self.advance(state);
        if let Some(leader) = self
            .leader
            .as_ref()
            .filter(|_| state.shared.settings.journals)
        {
            let durable = &state.shared.durable;
            let stuck = |shard: &usize| durable.shards[*shard].is_stuck.load(SeqCst);
            let stuck = (0..durable.shards.len()).filter(stuck).collect();
            let replaced = durable.replaced.load(SeqCst);
            let shards = durable.shards.len();
            // Until the copy of a primary is whole it is no state that ever was, and who starts with it could
            // not tell.
            let is_whole = !state.shared.loading.load(SeqCst);
            if is_whole && leader.tick(&durable.mending, (shards, stuck), replaced, state.now) {
                tell_others(state);
            }
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
        if own == LEADER {
            return self.on_bundle(era, step, result, state, reactor);
        }
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
            let parts = kept.journal.on_written(step, &block, result, reactor);
            kept.note_commit(state);
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
        if result.is_err() && syncs_folder(step) {
            self.folder_failed(state);
        }
        if own == LEADER {
            return self.on_bundle(era, step, result, state, reactor);
        }
        let Some(kept) = self.kept.get_mut(own) else {
            return;
        };
        if let Some(step) = SnapStep::of(step) {
            kept.on_snap(era, step, result, state, reactor);
        } else if let Some(step) = Step::of(step)
            && !kept.journal.is_stale(era)
        {
            kept.journal.on_done(step, result, reactor);
            kept.note_commit(state);
        }
        self.advance(state);
    }

    /// A sync of the folder has failed: it may have been to cover what others have named, too.
    fn folder_failed(&mut self, state: &mut State) {
        for kept in &mut self.kept {
            kept.journal.folder_failed();
            if let Some(snap) = &mut kept.snap {
                snap.folder_failed();
            }
        }
        let mending = &state.shared.durable.mending;
        if let Some(leader) = &mut self.leader
            && leader.folder_failed(mending, state.now)
        {
            tell_others(state);
        }
    }

    /// Something that the leader had asked for is over.
    fn on_bundle<R: Reactor>(
        &mut self,
        era: u8,
        step: u8,
        result: Result<(), i32>,
        state: &mut State,
        reactor: &mut R,
    ) {
        let (Some(leader), Some(step)) = (&mut self.leader, BundleStep::of(step)) else {
            return;
        };
        let place = (&state.shared.durable.mending, state.now);
        if leader.on_done((era, step), result, place, reactor) {
            tell_others(state);
        }
    }

    /// Gives up the snapshots that are being made: another process is to have the directory.
    pub fn hush<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        for kept in &mut self.kept {
            kept.give_up("the node is handed over", 0, state, reactor);
        }
    }

    /// Makes the journals as short as they can be: the next process begins by reading them.
    pub fn trim(&self) {
        for kept in &self.kept {
            // Where it cannot be done, it takes longer.
            let _ = kept.journal.trim();
        }
    }

    /// Where the journals of this core end, as files name it. Nothing if they are not all here.
    pub fn ends(&self, state: &mut State) -> Vec<(usize, Position)> {
        let shards = self.kept.iter().map(|kept| kept.place.shard);
        let here: Vec<usize> = shards
            .filter(|shard| state.homes.shards.has(*shard))
            .collect();
        let end = |shard: usize| (shard, state.homes.shards.shard(shard).position_in_files());
        here.into_iter().map(end).collect()
    }

    /// Has a primary's data replaced what the files of this node hold, and can they get it?
    pub fn owes_beginning(&self, shared: &Shared) -> bool {
        let durable = &shared.durable;
        let replaced = durable.replaced.load(SeqCst);
        let is_behind = |marks: &Marks| marks.replaced.load(SeqCst) != replaced;
        shared.settings.journals
            // What has not come whole comes again.
            && !shared.loading.load(Relaxed)
            && !durable.broken.load(Relaxed)
            && durable.shards.iter().any(is_behind)
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
                is_settled &= kept.journal.is_settled(stream);
            }
        }
        if is_settled {
            for kept in &mut self.kept {
                if kept.journal.is_closing() {
                    continue;
                }
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
        let mut is_further = false;
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
                let passed = frontier.passed();
                is_further |= marks[shard].passed.swap(passed, SeqCst) != passed;
                marks[shard]
                    .is_rooted
                    .store(kept.journal.is_rooted(), SeqCst);
                let is_stuck = kept.journal.is_suspended();
                marks[shard].is_stuck.store(is_stuck, SeqCst);
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
        if is_further {
            // Those who wait for the disk with WAITAOF.
            state.tell_acks();
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
        let home = state.homes.shards.shard(self.place.shard);
        let at = home.position_in_files();
        if snap.end().is_none() && snap.generation != at.generation {
            let what = "the history went on as another one during a snapshot";
            self.give_up(what, 0, state, reactor);
            self.is_due = true;
            return true;
        }
        let is_walked = snap.step(home, at, reactor);
        if !state.shared.settings.journals {
            if is_walked && !state.feeding[self.place.own] {
                home.drop_stream(state.shared.epoch.load(SeqCst));
                state.homes.refresh(self.place.shard);
            }
            if snap.is_waiting() {
                snap.name(reactor);
            }
        } else if let Some(end) = snap.end().filter(|_| snap.mends.is_none()) {
            self.journal.want_sync();
            // It claims everything before its end, also what was cut off when the node started: by now each
            // other shard must have written down what was cut there.
            let marks = &state.shared.durable.shards;
            if snap.is_waiting()
                && end.offset <= self.journal.frontier.passed()
                && marks.iter().all(|marks| marks.is_rooted.load(SeqCst))
            {
                snap.name(reactor);
            }
        }
        has_work
    }

    /// A primary's data has replaced what the journal and an open snapshot hold.
    fn replaced<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        if state.shared.settings.journals {
            self.journal.suspend();
        } else {
            self.is_due = true;
        }
        let is_open = |snap: &Snap| snap.end().is_none() && snap.mends.is_none();
        if self.snap.as_ref().is_some_and(is_open) {
            self.give_up(
                "the data set was replaced during a snapshot",
                0,
                state,
                reactor,
            );
        }
    }

    /// Its part of a round of new beginnings. True if the round has gone on.
    fn mend<R: Reactor>(&mut self, round: &Round, state: &mut State, reactor: &mut R) -> bool {
        let shared = state.shared.clone();
        let mending = &shared.durable.mending;
        let (shard, number) = (self.place.shard, round.number);
        let is_over = |snap: &Snap| {
            let mends = snap.mends.is_some();
            mends && (snap.mends != Some(number) || round.stage == Stage::Over)
        };
        if self.snap.as_ref().is_some_and(is_over) {
            self.give_up(
                "other shards could not make a new beginning",
                0,
                state,
                reactor,
            );
        }
        let is_member = round.members.contains(&shard);
        let has_shard = state.homes.shards.has(shard);
        match (round.stage, &mut self.snap) {
            (Stage::Walking, _) if is_member && self.mended != number => {
                if !has_shard {
                    return false;
                }
                self.mended = number;
                self.journal.suspend();
                if self.snap.is_some() {
                    self.give_up("the journal failed during a snapshot", 0, state, reactor);
                }
                let is_asked = self.takes_round(state);
                self.begin(is_asked, Some(number), state, reactor);
                false
            }
            (Stage::Walking, Some(snap)) if is_member && snap.is_noting() => {
                mending.walked(number, shard)
            }
            (Stage::Writing, Some(snap)) if is_member && snap.is_waiting() => {
                mending.written(number, shard, Some(snap.seq))
            }
            (Stage::Writing, _) if !is_member => {
                let synced = self.journal.frontier.synced_end();
                let is_there = round.cuts.get(shard).is_some_and(|cut| synced >= *cut);
                if is_there && self.journal.is_rooted() {
                    return mending.written(number, shard, None);
                }
                self.journal.want_sync();
                if self.journal.is_suspended() {
                    mending.fail(number, state.now);
                }
                false
            }
            (Stage::Naming, Some(snap)) if snap.is_waiting() && state.now >= self.retry_at => {
                snap.name(reactor);
                false
            }
            _ => false,
        }
    }

    /// Takes part in the newest round of snapshots that clients asked for; true if it had not yet.
    fn takes_round(&mut self, state: &State) -> bool {
        let round = state.shared.durable.saves.round.load(Relaxed);
        let is_new = self.round != round;
        self.round = round;
        is_new
    }

    /// Notes how long it took what has become durable.
    fn note_commit(&mut self, state: &State) {
        if let Some(took) = self.journal.took.take() {
            let marks = &state.shared.durable.shards[self.place.shard];
            marks.commits.note(took);
        }
    }

    /// Gives the snapshot up that is being made.
    fn give_up<R: Reactor>(&mut self, what: &str, errno: i32, state: &mut State, reactor: &mut R) {
        let Some(snap) = self.snap.take() else { return };
        let has = state.homes.shards.has(self.place.shard);
        let home = has.then(|| state.homes.shards.shard(self.place.shard));
        snap.give_up(home, reactor);
        if let Some(number) = snap.mends {
            state.shared.durable.mending.fail(number, state.now);
        }
        self.end_failed(what, errno, snap.is_asked, state);
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
        let stream = state.homes.shards.shard(shard).stream.as_ref();
        marks.note_own(stream.and_then(|stream| stream.own()));
        if let Some(snap) = &self.snap {
            if self.journal.is_suspended() && snap.mends.is_none() {
                // It waits for a journal that does not go on.
                self.give_up("the journal failed during a snapshot", 0, state, reactor);
            }
            return;
        }
        if self.journal.is_suspended() || state.is_hushed() {
            return;
        }
        let grown = self.journal.bytes - self.since;
        // By less than a segment it does not pay.
        let least = shared.settings.segment_len.max(self.snapshot_bytes);
        let is_wanted = grown > least || self.is_due;
        let is_asked = self.takes_round(state);
        if is_asked || (is_wanted && state.now >= self.retry_at) {
            self.is_due = false;
            self.begin(is_asked, None, state, reactor);
        }
    }

    fn begin<R: Reactor>(
        &mut self,
        is_asked: bool,
        mends: Option<u64>,
        state: &mut State,
        reactor: &mut R,
    ) {
        let shard = self.place.shard;
        let seq = self.journal.take_seq();
        let has_stream = state.homes.shards.shard(shard).stream.is_some();
        if !state.shared.settings.journals && !has_stream {
            // The walk needs to hear of changes.
            self.last = self.last.renewed(state.now);
            state.make_stream(shard, self.last);
        }
        let home = state.homes.shards.shard(shard);
        if mends.is_some()
            && let Some(stream) = &mut home.stream
            && !stream.is_adopted()
        {
            // Some of what was recorded is in no file, so this is another history.
            let at = Position {
                generation: stream.generation(),
                offset: stream.next(),
            };
            let at = at.renewed(state.now);
            stream.renew(at);
        }
        let at = home.position_in_files();
        match Snap::begin(self.place.clone(), seq, home, at, reactor) {
            Ok(mut snap) => {
                let sources = state.shared.scripts.library_sources();
                if shard == libraries::HOME && !sources.is_empty() {
                    // As what it is a copy of: what is older than the walk may be gone.
                    state.homes.shards.shard(shard).keep_libraries(&sources);
                }
                (snap.is_asked, snap.mends) = (is_asked, mends);
                self.snap = Some(snap);
            }
            Err(errno) => {
                if let Some(number) = mends {
                    state.shared.durable.mending.fail(number, state.now);
                }
                self.end_failed("making a snapshot", errno, is_asked, state);
            }
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
            Some(Ended::Failed(what, errno)) => self.give_up(what, errno, state, reactor),
            Some(Ended::Unnamed(errno)) => {
                self.end_failed("naming a snapshot", errno, false, state);
            }
            Some(Ended::Published(at)) => self.end_good(at, state, reactor),
        }
    }

    fn end_failed(&mut self, what: &str, errno: i32, is_asked: bool, state: &mut State) {
        let why = match errno {
            0 => String::new(),
            errno => format!(": {}", std::io::Error::from_raw_os_error(errno)),
        };
        state.log_seldom(&format!("shard {}: {what}{why}", self.place.shard));
        self.retry_at = state.now + RETRY_MS;
        if is_asked {
            state.shared.durable.saves.end_one(false, state.now);
        }
    }

    /// A snapshot is published: what is older is of no more use.
    fn end_good<R: Reactor>(&mut self, at: Position, state: &mut State, reactor: &mut R) {
        let Some(snap) = self.snap.take() else { return };
        if let Some(number) = snap.mends {
            self.journal.heal(at, reactor);
            let durable = &state.shared.durable;
            let shard = self.place.shard;
            durable.mending.named(number, shard, snap.is_sure);
            let replaced = durable.mending.view().replaced;
            durable.shards[shard].replaced.store(replaced, SeqCst);
            if replaced != durable.replaced.load(SeqCst) {
                // The snapshot is of data that is gone, too.
                self.journal.suspend();
            }
            // Other shards may have waited for what the snapshot has now.
            let marks = &state.shared.durable.shards[self.place.shard];
            marks.ready.store(at.offset, SeqCst);
            tell_others(state);
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
        let keep = match state.may_be_followed(self.place.own) && snap.mends.is_none() {
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
/// When replies do not wait for the disk any more, what they waited for is still synced for so long.
const LEFTOVER_BEATS: u32 = 5;
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
    /// Until then everything is synced as soon as it is written.
    pub hurry_until: AtomicU64,
    trouble: Mutex<BTreeMap<usize, String>>,
    /// What is being loaded at the start.
    pub loading: Loading,
    /// Counts how often the whole data set was replaced by a primary's.
    pub replaced: AtomicU64,
    /// The data directory, for threads that read what was written long ago.
    pub files: OnceLock<Arc<dyn Files + Send + Sync>>,
    /// New beginnings of journals that do not go on.
    mending: Mending,
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
    /// A majority of the members has acknowledged it, to this node as the primary that it is.
    pub agreed: AtomicU64,
    /// A recovery would know where the history before the present one ended.
    pub is_rooted: AtomicBool,
    /// The journal does not go on before a new beginning.
    pub is_stuck: AtomicBool,
    /// Something has waited for the disk for too long.
    pub is_late: AtomicBool,
    /// Replacements of the data set that are on the disk.
    pub replaced: AtomicU64,
    /// The offset that its next frame gets, at the last beat.
    pub next: AtomicU64,
    /// Generation of its stream.
    pub generation: AtomicU64,
    /// The newest question of core 0 how far the shard is that is answered by these.
    pub told: AtomicU64,
    /// What of it is our own, if it went on from a primary's while the node was running: one more than where
    /// it began, or 0 if it did not, and what came before.
    own: [AtomicU64; 2],
    pub bytes: AtomicU64,
    pub writes: AtomicU64,
    pub syncs: AtomicU64,
    /// Bytes of all segments that are there.
    pub size: AtomicU64,
    /// Bytes of the newest snapshot.
    pub snapshot: AtomicU64,
    /// How long syncs and durable writes took.
    pub commits: Commits,
}

impl Marks {
    /// Notes what of the shard's history is our own, if it went on from a primary's.
    pub fn note_own(&self, own: Option<Own>) {
        let [from, before] = &self.own;
        from.store(own.map_or(0, |own| own.from + 1), SeqCst);
        before.store(own.map_or(0, |own| own.before), SeqCst);
    }

    /// What was noted last.
    pub fn own(&self) -> Option<Own> {
        let [from, before] = &self.own;
        let from = from.load(SeqCst).checked_sub(1)?;
        let before = before.load(SeqCst);
        Some(Own { from, before })
    }
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

impl State {
    /// All shards are in hand: snapshots that are to count together end with what there is now.
    pub(in crate::shard) fn cut_snapshots(&mut self) {
        let durable = &self.shared.durable;
        let replaced = durable.replaced.load(SeqCst);
        durable
            .mending
            .cut(&mut self.homes.shards, replaced, self.now);
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

    /// Is all that there is in the journals, or on its way there?
    pub fn is_kept(&self) -> bool {
        let replaced = self.replaced.load(SeqCst);
        self.shards
            .iter()
            .all(|marks| !marks.is_stuck.load(SeqCst) && marks.replaced.load(SeqCst) == replaced)
    }

    /// Where each shard's next frame goes, as far as it was told.
    pub fn ends(&self) -> Vec<u64> {
        let ends = self.shards.iter().map(|marks| marks.next.load(SeqCst));
        ends.collect()
    }

    /// Is each shard's stream durable, and complete, up to there?
    pub fn has_passed(&self, ends: &[u64]) -> bool {
        let mut shards = self.shards.iter().zip(ends);
        shards.all(|(marks, end)| marks.passed.load(SeqCst) >= *end)
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

    /// Do journals get a new beginning?
    pub fn is_mending(&self) -> bool {
        self.mending.is_on()
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

/// Does a request with this mark end with a sync of the folder?
fn syncs_folder(step: u8) -> bool {
    Step::of(step) == Some(Step::Name)
        || SnapStep::of(step) == Some(SnapStep::Name)
        || matches!(
            BundleStep::of(step),
            Some(BundleStep::Folder | BundleStep::Name)
        )
}

/// Has the other cores look at what has changed.
fn tell_others(state: &mut State) {
    state.tell_all(|| Message::Frontier);
}

/// What is said when a name may be lost though nobody said so: an error of input or output.
const EIO: i32 = 5;

/// The three parts of a [`mark`].
fn unmark(mark: u64) -> (usize, u8, u8) {
    ((mark >> 16) as usize, (mark >> 8) as u8, mark as u8)
}
