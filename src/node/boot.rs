//! What the data directory holds is put into the shards while the node answers that it is loading.

use std::{
    io::IsTerminal,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use uring::Wake;

use super::{
    StartError, handoff,
    preload::{Preload, Preloaded},
};
use crate::{
    cmd::Shard,
    handoff::{Id, Owner, Redirected, files},
    journal::meta::Meta,
    recover::{self, Filling, Place, Plan, RecoverError, Survey, View},
    route::Routing,
    shard::{Loaded, Settings, Shared, Start, log},
    tools::{DataDir, DataError, routing_number},
};

/// A data directory whose files were looked at.
pub(super) struct Boot {
    dir: Arc<DataDir>,
    plans: Vec<Plan>,
    /// What was loaded before the directory was ours, by shard.
    fillings: Vec<Option<Filling>>,
    seed: u64,
    began: Instant,
    /// As which owner the directory was taken.
    pub owner: Owner,
    /// Of a successor: where each shard goes on.
    pub revisions: Vec<u64>,
    /// The epoch that the incumbent led, or 0.
    pub led: u64,
    /// Whom the incumbent followed, where it was started to follow somebody else.
    pub redirected: Option<Redirected>,
}

/// Whether handoffs are wanted where a directory is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taking {
    /// They are not.
    Plainly,
    /// They are.
    First,
    /// It was sealed for this one.
    Over(Id),
}

impl Boot {
    /// Locks the directory and finds out what is to be loaded, and what of it was loaded before.
    ///
    /// # Errors
    /// What keeps the node from starting.
    pub(super) fn survey(
        dir: &Path,
        shared: &Shared,
        seed: u64,
        (taking, preload): (Taking, Option<Preload>),
    ) -> Result<Self, StartError> {
        let began = Instant::now();
        let settings = &shared.settings;
        let wanted = wanted(settings);
        let dir = DataDir::open(dir, wanted).map_err(StartError::Data)?;
        dir.check(&wanted).map_err(StartError::Data)?;
        let (mut survey, mut fillings, preloaded) = match preload.and_then(Preload::end) {
            Some(Preloaded {
                survey,
                fillings,
                bytes,
                ..
            }) => (survey, fillings, bytes),
            None => (Survey::default(), Vec::new(), 0),
        };
        let plans = survey
            .look(&dir, &dir.meta, View::Still)
            .map_err(|error| StartError::Recover(dir.path().to_owned(), error))?;
        let (revisions, led, redirected) = match taking {
            Taking::Over(id) => {
                let seal = handoff::check_seal(dir.path(), id, &plans);
                let seal = seal.map_err(StartError::Handoff)?;
                (seal.revisions(), seal.leads, seal.redirected)
            }
            Taking::Plainly | Taking::First => (Vec::new(), 0, None),
        };
        shared.rollbacks.look_at(&dir).map_err(|error| {
            StartError::Data(DataError::Io("read", dir.path().to_owned(), error))
        })?;
        // From here on the directory changes.
        let owner = handoff::take_over(dir.path(), taking != Taking::Plainly)
            .map_err(|error| StartError::Handoff(format!("{}: {error}", files::OWNER)))?;
        for plan in &plans {
            plan.notes.iter().for_each(|note| log(note));
            dir.remove(&plan.unused).map_err(|error| {
                StartError::Data(DataError::Io("tidy up", dir.path().to_owned(), error))
            })?;
            // Each start leaves a segment behind, and many of them are kept for replicas.
            for (name, len) in &plan.reserved {
                if let Err(error) = dir.shorten(*name, *len) {
                    log(&format!(
                        "{name}: reserved space is not given back: {error}"
                    ));
                }
            }
        }
        if survey.is_other {
            fillings.clear();
        }
        fillings.resize_with(plans.len(), || None);
        for (plan, filling) in plans.iter().zip(&mut fillings) {
            // What the incumbent did meanwhile may have taken another way.
            let fitting = filling.take_if(|filling| filling.fits(plan));
            *filling = fitting;
        }
        let handover = &shared.handover;
        let shards = fillings.iter().flatten().count() as u64;
        handover.preloaded_shards.store(shards, Relaxed);
        handover.preloaded_bytes.store(preloaded, Relaxed);
        let bytes = plans.iter().map(|plan| plan.bytes).sum();
        let loading = &shared.durable.loading;
        loading.bytes.store(bytes, Relaxed);
        loading.began.store(now_ms(), Relaxed);
        loading.shards.store(settings.shards, Relaxed);
        shared.loading.store(true, Relaxed);
        Ok(Self {
            dir: Arc::new(dir),
            plans,
            fillings,
            seed,
            began,
            owner,
            revisions,
            led,
            redirected,
        })
    }

    /// The directory.
    pub(super) fn dir(&self) -> Arc<DataDir> {
        self.dir.clone()
    }

    /// Loads, with a thread for each core.
    pub(super) fn start<W: Wake + Clone + Send + 'static>(
        self,
        shared: &Arc<Shared>,
        wakers: &[W],
    ) {
        let cores = wakers.len();
        // Nobody else sets it.
        let _ = shared.durable.files.set(self.dir.clone());
        let mut parts: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
        let bytes: u64 = self.plans.iter().map(|plan| plan.bytes).sum();
        for part in self.plans.into_iter().zip(self.fillings) {
            parts[part.0.shard % cores].push(part);
        }
        let mut threads = Vec::new();
        for (core, parts) in parts.into_iter().enumerate() {
            let (dir, shared) = (self.dir.clone(), shared.clone());
            let (waker, seed) = (wakers[core].clone(), self.seed);
            threads.push(thread::spawn(move || {
                for (plan, filling) in parts {
                    load(&dir, plan, filling, &shared, seed);
                    waker.wake();
                }
            }));
        }
        let (shared, began) = (shared.clone(), self.began);
        // The directory stays locked as long as the process lives.
        let dir = self.dir;
        thread::spawn(move || {
            if bytes > 0 {
                show_progress(&shared, bytes);
            }
            for thread in threads {
                let _ = thread.join();
            }
            if bytes > 0 {
                let seconds = began.elapsed().as_secs_f64();
                log(&format!("loaded {bytes} bytes in {seconds:.2} s"));
            }
            loop {
                thread::park();
                let _ = &dir;
            }
        });
    }
}

/// What a directory has to be for this node.
pub(super) fn wanted(settings: &Settings) -> Meta {
    Meta {
        shard_count: settings.shards as u32,
        routing: routing_number(routing(settings)),
    }
}

fn routing(settings: &Settings) -> Routing {
    match settings.slots {
        Some(_) => Routing::Slots,
        None => Routing::KevyHash,
    }
}

/// What a shard becomes.
pub(super) fn place(settings: &Settings, seed: u64, shard: usize) -> Place {
    Place {
        shard,
        shards: settings.shards,
        databases: settings.databases,
        routing: routing(settings),
        seed: seed.wrapping_add((shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    }
}

fn load(dir: &DataDir, plan: Plan, filling: Option<Filling>, shared: &Shared, seed: u64) {
    let done = &shared.durable.loading.done;
    let place = place(&shared.settings, seed, plan.shard);
    let loaded = match filling.map(|filling| finish(dir, &plan, filling, shared)) {
        Some(Ok(loaded)) => Ok(loaded),
        // What was loaded before is not needed.
        Some(Err(_)) | None => recover::load(dir, &plan, place, |bytes| {
            done.fetch_add(bytes, Relaxed);
        }),
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            log(&error.to_string());
            std::process::exit(1);
        }
    };
    shared.durable.loading.put(Loaded {
        shard: loaded,
        start: Start::after(plan, dir.meta.routing, now_ms(), dir.is_same_boot),
    });
}

/// Loads the rest of a shard.
fn finish(
    dir: &DataDir,
    plan: &Plan,
    mut filling: Filling,
    shared: &Shared,
) -> Result<Box<Shard>, RecoverError> {
    let handover = &shared.handover;
    let before = filling.frames;
    let filled = filling.fill(dir, plan, &mut |bytes| {
        handover.tail_bytes.fetch_add(bytes, Relaxed);
    });
    let frames = filling.frames - before;
    handover.tail_frames.fetch_add(frames, Relaxed);
    shared.durable.loading.done.fetch_add(plan.bytes, Relaxed);
    filled.map(|()| filling.finish())
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// A bar on a terminal; otherwise a line now and then.
fn show_progress(shared: &Shared, bytes: u64) {
    let loading = &shared.durable.loading;
    let bar = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    while shared.loading.load(Relaxed) && !shared.is_stopping() {
        let done = loading.done.load(Relaxed).min(bytes);
        let percent = done * 100 / bytes.max(1);
        if bar {
            let full = (percent / 4) as usize;
            eprint!(
                "\rloading [{}{}] {percent:3} %",
                "#".repeat(full),
                " ".repeat(25 - full)
            );
        } else if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            log(&format!("loading: {percent} % of {bytes} bytes"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    if bar {
        eprintln!();
    }
}
