//! What the data directory holds is put into the shards while the node answers that it is loading.

use std::{
    io::IsTerminal,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use uring::Wake;

use super::{StartError, handoff};
use crate::{
    handoff::{Id, Owner, files},
    journal::meta::Meta,
    recover::{self, Plan},
    route::Routing,
    shard::{Loaded, Shared, Start, log},
    tools::{DataDir, DataError, routing_number},
};

/// A data directory whose files were looked at.
pub(super) struct Boot {
    dir: Arc<DataDir>,
    plans: Vec<Plan>,
    seed: u64,
    began: Instant,
    /// As which owner the directory was taken.
    pub owner: Owner,
    /// Of a successor: where each shard goes on.
    pub revisions: Vec<u64>,
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
    /// Locks the directory and finds out what is to be loaded.
    ///
    /// # Errors
    /// What keeps the node from starting.
    pub(super) fn survey(
        dir: &Path,
        shared: &Shared,
        seed: u64,
        taking: Taking,
    ) -> Result<Self, StartError> {
        let began = Instant::now();
        let settings = &shared.settings;
        let routing = match settings.slots {
            Some(_) => Routing::Slots,
            None => Routing::KevyHash,
        };
        let wanted = Meta {
            shard_count: settings.shards as u32,
            routing: routing_number(routing),
        };
        let dir = DataDir::open(dir, wanted).map_err(StartError::Data)?;
        dir.check(&wanted).map_err(StartError::Data)?;
        let plans = recover::survey(&dir, &dir.meta)
            .map_err(|error| StartError::Recover(dir.path().to_owned(), error))?;
        let revisions = match taking {
            Taking::Over(id) => {
                handoff::check_seal(dir.path(), id, &plans).map_err(StartError::Handoff)?
            }
            Taking::Plainly | Taking::First => Vec::new(),
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
        }
        let bytes = plans.iter().map(|plan| plan.bytes).sum();
        let loading = &shared.durable.loading;
        loading.bytes.store(bytes, Relaxed);
        loading.began.store(now_ms(), Relaxed);
        loading.shards.store(settings.shards, Relaxed);
        shared.loading.store(true, Relaxed);
        Ok(Self {
            dir: Arc::new(dir),
            plans,
            seed,
            began,
            owner,
            revisions,
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
        let mut parts: Vec<Vec<Plan>> = (0..cores).map(|_| Vec::new()).collect();
        let bytes: u64 = self.plans.iter().map(|plan| plan.bytes).sum();
        for plan in self.plans {
            parts[plan.shard % cores].push(plan);
        }
        let mut threads = Vec::new();
        for (core, plans) in parts.into_iter().enumerate() {
            let (dir, shared) = (self.dir.clone(), shared.clone());
            let (waker, seed) = (wakers[core].clone(), self.seed);
            threads.push(thread::spawn(move || {
                for plan in plans {
                    load(&dir, plan, &shared, seed);
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

fn load(dir: &DataDir, plan: Plan, shared: &Shared, seed: u64) {
    let settings = &shared.settings;
    let place = recover::Place {
        shard: plan.shard,
        shards: settings.shards,
        databases: settings.databases,
        routing: match settings.slots {
            Some(_) => Routing::Slots,
            None => Routing::KevyHash,
        },
        seed: seed.wrapping_add((plan.shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    };
    let done = &shared.durable.loading.done;
    let loaded = match recover::load(dir, &plan, place, |bytes| {
        done.fetch_add(bytes, Relaxed);
    }) {
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
