//! A new beginning of journals that cannot go on: because writing failed, or because a primary's data has
//! replaced what they hold.
//!
//! Such a shard has in memory what no file has, among it parts of units over several shards. So snapshots of
//! all such shards have to count at once, and of one moment. Core 0 leads through a round of it:
//!
//! 1. **Walking.** The owner of each member writes a snapshot; one that has passed all keys waits, and goes
//!    on to take down what happens.
//! 2. **Cutting.** Core 0 borrows all shards. What the members hold then is what their snapshots end with.
//! 3. **Writing.** The snapshots are ended and synced. The journals of the other shards are synced up to
//!    where they were at the cut, so that units over members and others are whole.
//! 4. **Committing.** Core 0 writes down which snapshots count. Once that file has its name, durably, they
//!    do: a start gives them theirs, if the node could not.
//! 5. **Naming.** The snapshots get their names, and the journals go on behind them.
//!
//! What fails before the commit ends the round, and a second later another one begins. From the commit on
//! there is no way back: it is tried again until it is done.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use uring::{FileId, OpenHow, Reactor};

use super::{RETRY_MS, mark};
use crate::{
    base::Ms,
    cmd::Shards,
    journal::{FileName, bundle::Bundle},
    shard::shared::lock,
};

/// How far a round is; see the module page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// There is none.
    #[default]
    Over,
    /// Step 1.
    Walking,
    /// Step 2.
    Cutting,
    /// Step 3.
    Writing,
    /// Step 4.
    Committing,
    /// Step 5.
    Naming,
}

/// A round as a core finds it.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// How far it is.
    pub stage: Stage,
    /// Shards that get a new beginning.
    pub members: BTreeSet<usize>,
    /// Members and the numbers of their snapshots.
    pub snapshots: Vec<(u32, u64)>,
    /// Shards that are through with the stage.
    reached: BTreeSet<usize>,
    /// Where the streams were at the cut, by shard.
    pub cuts: Vec<u64>,
    /// How often the data set had been replaced.
    pub replaced: u64,
    /// All names are surely durable, not only given.
    is_sure: bool,
    /// No round begins before this.
    retry_at: Ms,
}

/// The rounds of a node.
#[derive(Debug, Default)]
pub struct Mending {
    /// Number of the round that is on; 0 if none.
    on: AtomicU64,
    round: Mutex<Round>,
}

impl Mending {
    /// Is a round on?
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(SeqCst) != 0
    }

    /// The round that is on, or was last.
    pub fn view(&self) -> Round {
        lock(&self.round).clone()
    }

    /// Core 0 begins a round for some shards, unless the last one has just failed.
    pub fn begin(&self, members: BTreeSet<usize>, replaced: u64, now: Ms) -> bool {
        let mut round = lock(&self.round);
        if round.stage != Stage::Over || now < round.retry_at {
            return false;
        }
        *round = Round {
            number: round.number + 1,
            stage: Stage::Walking,
            members,
            replaced,
            is_sure: true,
            ..Round::default()
        };
        self.on.store(round.number, SeqCst);
        true
    }

    /// A member's walk has passed all keys. True if others have to hear that.
    pub fn walked(&self, number: u64, shard: usize) -> bool {
        let mut round = lock(&self.round);
        let wanted = round.members.clone();
        round.reach(number, Stage::Walking, shard, &wanted, Stage::Cutting)
    }

    /// Core 0 has all shards in hand: what their walks have noted by now is what counts.
    pub fn cut(&self, shards: &mut Shards, replaced: u64, now: Ms) {
        let mut round = lock(&self.round);
        if round.stage != Stage::Cutting {
            return;
        }
        if round.replaced != replaced {
            // What the walks wrote is of data that is gone.
            return self.end(&mut round, now + RETRY_MS);
        }
        round.cuts = Vec::new();
        for (at, shard) in shards.iter_mut() {
            if round.members.contains(&at) {
                shard.cut_walk();
                // The snapshot has all that was recorded so far.
                shard.drop_recorded();
            }
            round.cuts.push(shard.position().offset);
        }
        round.stage = Stage::Writing;
    }

    /// A member's snapshot is synced, or the journal of another shard is, up to the cut. True if others have
    /// to hear that.
    pub fn written(&self, number: u64, shard: usize, snapshot: Option<u64>) -> bool {
        let mut round = lock(&self.round);
        let is_new = !round.reached.contains(&shard);
        if let Some(seq) = snapshot.filter(|_| is_new && round.stage == Stage::Writing) {
            round.snapshots.push((shard as u32, seq));
            round.snapshots.sort_unstable();
        }
        let wanted = (0..round.cuts.len()).collect();
        round.reach(number, Stage::Writing, shard, &wanted, Stage::Committing)
    }

    /// It is durable which snapshots count.
    fn committed(&self, number: u64) {
        let mut round = lock(&self.round);
        if round.number == number {
            round.stage = Stage::Naming;
        }
    }

    /// A member's snapshot has its name; is that surely durable?
    pub fn named(&self, number: u64, shard: usize, is_sure: bool) {
        let mut round = lock(&self.round);
        if round.number == number && round.stage == Stage::Naming {
            round.is_sure &= is_sure;
            round.reached.insert(shard);
        }
    }

    /// Ends a round whose snapshots all have their names. Are they surely durable?
    fn finish(&self) -> Option<bool> {
        let mut round = lock(&self.round);
        if round.stage != Stage::Naming || round.reached != round.members {
            return None;
        }
        self.end(&mut round, 0);
        Some(round.is_sure)
    }

    /// The round comes to nothing. Not once it is being committed, but for who commits it.
    /// True if it was on.
    pub fn fail(&self, number: u64, now: Ms) -> bool {
        let mut round = lock(&self.round);
        let stages = [Stage::Walking, Stage::Cutting, Stage::Writing];
        let is_on = round.number == number && stages.contains(&round.stage);
        if is_on {
            self.end(&mut round, now + RETRY_MS);
        }
        is_on
    }

    fn fail_commit(&self, now: Ms) {
        self.end(&mut lock(&self.round), now + RETRY_MS);
    }

    fn end(&self, round: &mut Round, retry_at: Ms) {
        (round.stage, round.retry_at) = (Stage::Over, retry_at);
        self.on.store(0, SeqCst);
    }
}

impl Round {
    /// A shard is through with a stage; true if all are, and the next one begins.
    fn reach(
        &mut self,
        number: u64,
        stage: Stage,
        shard: usize,
        wanted: &BTreeSet<usize>,
        next: Stage,
    ) -> bool {
        if (self.number, self.stage) != (number, stage) || !self.reached.insert(shard) {
            return false;
        }
        let is_all = self.reached == *wanted;
        if is_all {
            self.reached.clear();
            self.stage = next;
        }
        is_all
    }
}

/// What a request to the ring was for; see [`Step`](super::journal::Step).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BundleStep {
    /// The list was written and synced.
    Write = 32,
    /// The names that the snapshots have until then are durable.
    Folder,
    /// The list got its name.
    Rename,
    /// That is durable.
    Name,
    /// It was removed.
    Remove,
}

impl BundleStep {
    /// Of a mark.
    pub fn of(step: u8) -> Option<Self> {
        [
            Self::Write,
            Self::Folder,
            Self::Rename,
            Self::Name,
            Self::Remove,
        ]
        .into_iter()
        .find(|known| *known as u8 == step)
    }
}

/// Core 0 as it leads through rounds.
#[derive(Debug)]
pub struct Leader {
    dir: PathBuf,
    folder: FileId,
    /// The round for which all shards were asked for.
    asked: u64,
    commit: Option<Commit>,
    /// Number of the last bundle.
    seq: u64,
    /// So often the data set had been replaced when it was last made durable.
    covered: u64,
}

/// The commit of a round, under way.
#[derive(Debug)]
struct Commit {
    number: u64,
    seq: u64,
    file: Option<FileId>,
    /// The list may have its name.
    is_in_doubt: bool,
    /// Names may be lost, whatever a sync of the folder says.
    is_name_lost: bool,
    /// Something failed: it is tried again then.
    retry_at: Option<Ms>,
}

impl Leader {
    /// Of a node with this directory.
    pub fn new(dir: PathBuf, folder: FileId) -> Self {
        Self {
            dir,
            folder,
            asked: 0,
            commit: None,
            seq: 0,
            covered: 0,
        }
    }

    /// The beat: begins a round if one is needed. `stuck` are shards whose journals do not go on. True if
    /// others have to hear that.
    pub fn tick(
        &self,
        mending: &Mending,
        (shards, stuck): (usize, BTreeSet<usize>),
        replaced: u64,
        now: Ms,
    ) -> bool {
        let members = match replaced == self.covered {
            true => stuck,
            // Some may not have noticed yet.
            false => (0..shards).collect(),
        };
        !members.is_empty() && mending.begin(members, replaced, now)
    }

    /// Does the round want all shards in hand, and are they still to be asked for?
    pub fn asks(&mut self, round: &Round) -> bool {
        let asks = round.stage == Stage::Cutting && self.asked != round.number;
        if asks {
            self.asked = round.number;
        }
        asks
    }

    /// Does what is to be done now.
    pub fn step<R: Reactor>(&mut self, mending: &Mending, round: &Round, now: Ms, reactor: &mut R) {
        match (&mut self.commit, round.stage) {
            (None, Stage::Committing) => {
                self.seq = now.max(self.seq + 1);
                self.commit = Some(Commit {
                    number: round.number,
                    seq: self.seq,
                    file: None,
                    is_in_doubt: false,
                    is_name_lost: false,
                    retry_at: None,
                });
                self.write(mending, round, now, reactor);
            }
            (Some(commit), Stage::Committing) if commit.retry_at.is_some_and(|at| now >= at) => {
                commit.retry_at = None;
                self.write(mending, round, now, reactor);
            }
            (Some(commit), Stage::Naming) => {
                let seq = commit.seq;
                if let Some(is_sure) = mending.finish() {
                    (self.commit, self.covered) = (None, round.replaced);
                    // Otherwise a start needs it still.
                    if is_sure {
                        let name = FileName::Bundle { seq };
                        let path = self.dir.join(name.to_string());
                        reactor.remove(&path, bundle_mark(0, BundleStep::Remove));
                    }
                }
            }
            _ => {}
        }
    }

    fn write<R: Reactor>(&mut self, mending: &Mending, round: &Round, now: Ms, reactor: &mut R) {
        let Some(commit) = &mut self.commit else {
            return;
        };
        let how = OpenHow {
            create: true,
            truncate: true,
            ..OpenHow::default()
        };
        let name = FileName::Bundle { seq: commit.seq };
        match reactor.open(&self.dir.join(name.unfinished()), how) {
            Ok(file) => {
                let bundle = Bundle {
                    seq: commit.seq,
                    snapshots: round.snapshots.clone(),
                };
                commit.file = Some(file);
                // Of the snapshots' names there is no doubt once the list may have its own.
                commit.is_name_lost &= !commit.is_in_doubt;
                let mark = bundle_mark(commit.number, BundleStep::Write);
                reactor.write_durable(file, bundle.compose().into(), 0, mark);
            }
            Err(_) => self.failed(mending, now, reactor),
        }
    }

    /// A sync of the folder has failed on core 0, or was said to have failed elsewhere. A later one says
    /// nothing of the names that it should have covered. True if others have to hear what comes of it.
    pub fn folder_failed(&mut self, mending: &Mending, now: Ms) -> bool {
        if let Some(commit) = &mut self.commit {
            commit.is_name_lost = true;
        }
        mending.is_on() && mending.fail(mending.view().number, now)
    }

    /// A request is over. True if others have to hear what came of it.
    pub fn on_done<R: Reactor>(
        &mut self,
        (era, step): (u8, BundleStep),
        result: Result<(), i32>,
        (mending, now): (&Mending, Ms),
        reactor: &mut R,
    ) -> bool {
        let is_current = |commit: &&mut Commit| commit.number as u8 == era;
        let Some(commit) = self.commit.as_mut().filter(is_current) else {
            return false;
        };
        if step == BundleStep::Remove {
            return false;
        }
        if step == BundleStep::Write
            && let Some(file) = commit.file.take()
        {
            reactor.close_file(file);
        }
        let is_lost = commit.is_name_lost && matches!(step, BundleStep::Folder | BundleStep::Name);
        if result.is_err() || is_lost {
            self.failed(mending, now, reactor);
            return true;
        }
        let name = FileName::Bundle { seq: commit.seq };
        let (number, mark) = (commit.number, |step| bundle_mark(commit.number, step));
        match step {
            // The snapshots must not be lost once their list is found.
            BundleStep::Write => reactor.sync(self.folder, mark(BundleStep::Folder)),
            BundleStep::Folder => {
                let from = self.dir.join(name.unfinished());
                let to = self.dir.join(name.to_string());
                reactor.rename(&from, &to, mark(BundleStep::Rename));
                commit.is_in_doubt = true;
            }
            BundleStep::Rename => reactor.sync(self.folder, mark(BundleStep::Name)),
            BundleStep::Name => {
                mending.committed(number);
                return true;
            }
            BundleStep::Remove => {}
        }
        false
    }

    /// Something failed. Once the list may be found there is no way back.
    fn failed<R: Reactor>(&mut self, mending: &Mending, now: Ms, reactor: &mut R) {
        let Some(commit) = &mut self.commit else {
            return;
        };
        if commit.is_in_doubt {
            commit.retry_at = Some(now + RETRY_MS);
            return;
        }
        let name = FileName::Bundle { seq: commit.seq };
        let path = self.dir.join(name.unfinished());
        reactor.remove(&path, bundle_mark(0, BundleStep::Remove));
        self.commit = None;
        mending.fail_commit(now);
    }
}

/// The number that stands for no shard of the core, but for the leader.
pub const LEADER: usize = u32::MAX as usize;

fn bundle_mark(number: u64, step: BundleStep) -> u64 {
    mark(LEADER, number as u8, step as u8)
}
