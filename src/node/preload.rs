//! What a successor reads while the incumbent still serves, so that little is left when it is its turn.
//!
//! Nothing of it is trusted further than the files bear it out: when the directory is ours it is looked at
//! like at any start, only that what was read of a segment before need not be read again, and a shard for
//! which that has another plan is loaded from the beginning.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use uring::sys;

use super::boot::place;
use crate::{
    journal::meta::Meta,
    recover::{Filling, Plan, Survey, View},
    shard::{Settings, log},
    tools::Foreign,
};

/// Once no more than this came while the rest was read, the next look finds little.
const LITTLE: u64 = 256 << 10;
/// Looks that find something amiss, as they do where files come and go meanwhile.
const TRIES: u32 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// The incumbent comes first where cores are scarce.
const NICENESS: i32 = 5;

/// A preload under way.
pub(super) struct Preload {
    thread: JoinHandle<Option<Preloaded>>,
    is_turn: Arc<AtomicBool>,
}

/// What there is of a directory that is not ours yet.
pub(super) struct Preloaded {
    /// What is known of its files.
    pub survey: Survey,
    /// By shard.
    pub fillings: Vec<Option<Filling>>,
    /// Bytes of files that went into them.
    pub bytes: u64,
    from: Foreign,
}

impl Preload {
    /// Begins to read a directory in which another process writes.
    pub fn begin(dir: &Path, wanted: Meta, settings: &Settings, seed: u64) -> Self {
        let is_turn = Arc::new(AtomicBool::new(false));
        let reading = Reading {
            dir: dir.to_owned(),
            wanted,
            settings: settings.clone(),
            seed,
            is_turn: is_turn.clone(),
        };
        Self {
            thread: thread::spawn(move || reading.run()),
            is_turn,
        }
    }

    /// Has it read what there is?
    pub fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// The incumbent has ended: what was begun is read to its end, and handed over if it is of use.
    pub fn end(self) -> Option<Preloaded> {
        self.is_turn.store(true, Relaxed);
        let found = self.thread.join().ok().flatten();
        found.filter(|found| found.from.is_there())
    }
}

struct Reading {
    dir: PathBuf,
    wanted: Meta,
    settings: Settings,
    seed: u64,
    is_turn: Arc<AtomicBool>,
}

impl Reading {
    fn run(self) -> Option<Preloaded> {
        // Where there is nothing yet, or something else, that is told at our turn.
        let from = Foreign::find(&self.dir).ok()?;
        if from.meta != self.wanted {
            return None;
        }
        sys::yield_to_others(NICENESS);
        let mut found = Preloaded {
            survey: Survey::default(),
            fillings: (0..self.settings.shards).map(|_| None).collect(),
            bytes: 0,
            from,
        };
        let mut tries = 0;
        while tries < TRIES && (tries == 0 || !self.is_turn.load(Relaxed)) {
            let looked = found.survey.look(&found.from, &self.wanted, View::Live);
            let (Ok(plans), false) = (looked, found.survey.is_other) else {
                // What was read is of a file that is gone.
                if std::mem::take(&mut found.survey.is_other) {
                    found
                        .fillings
                        .iter_mut()
                        .for_each(|filling| *filling = None);
                }
                tries += 1;
                thread::sleep(TRY_AGAIN);
                continue;
            };
            let (bytes, is_whole) = self.fill(&found.from, &plans, &mut found.fillings);
            found.bytes += bytes;
            if !is_whole {
                tries += 1;
            } else if bytes <= LITTLE || self.is_turn.load(Relaxed) {
                break;
            }
        }
        Some(found)
    }

    /// Fills all shards as far as their plans go. Bytes that were read for it, and whether all went well.
    fn fill(
        &self,
        from: &Foreign,
        plans: &[Plan],
        fillings: &mut [Option<Filling>],
    ) -> (u64, bool) {
        let bytes = AtomicU64::new(0);
        let mut parts: Vec<Vec<_>> = (0..self.settings.cores).map(|_| Vec::new()).collect();
        for (at, part) in plans.iter().zip(fillings.iter_mut()).enumerate() {
            parts[at % self.settings.cores].push(part);
        }
        thread::scope(|scope| {
            for part in parts {
                scope.spawn(|| {
                    sys::yield_to_others(NICENESS);
                    part.into_iter().for_each(|(plan, filling)| {
                        *filling = self.fill_one(from, plan, filling.take(), &bytes);
                    });
                });
            }
        });
        let is_whole = fillings.iter().all(Option::is_some);
        (bytes.into_inner(), is_whole)
    }

    fn fill_one(
        &self,
        from: &Foreign,
        plan: &Plan,
        filling: Option<Filling>,
        bytes: &AtomicU64,
    ) -> Option<Filling> {
        let fitting = filling.filter(|filling| filling.fits(plan));
        let anew = || Filling::new(place(&self.settings, self.seed, plan.shard));
        let mut filling = fitting.unwrap_or_else(anew);
        let mut is_hurried = false;
        let filled = filling.fill(from, plan, &mut |len| {
            bytes.fetch_add(len, Relaxed);
            if !is_hurried && self.is_turn.load(Relaxed) {
                is_hurried = true;
                // Everybody waits now. Without privileges it stays as it is.
                sys::yield_to_others(0);
            }
        });
        match filled {
            Ok(()) => Some(filling),
            Err(error) => {
                // Files go while they are read, when a snapshot makes them superfluous.
                log(&format!("handoff: read ahead: {error}"));
                None
            }
        }
    }
}
