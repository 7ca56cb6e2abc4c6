//! Sources of scripts, shared by all cores.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sha1::{Digest, Sha1};

use super::{library::Libraries, running::Running};
use crate::resp::Error;

/// The SHA-1 of a script's source, by which EVALSHA names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sha([u8; 20]);

impl Sha {
    /// The sum of these bytes.
    pub fn of(source: &[u8]) -> Sha {
        Sha(Sha1::digest(source).into())
    }

    /// Reads forty hexadecimal digits.
    pub fn parse(text: &[u8]) -> Option<Sha> {
        let mut sum = [0; 20];
        if text.len() != 40 {
            return None;
        }
        for (byte, digits) in sum.iter_mut().zip(text.chunks_exact(2)) {
            let high = char::from(digits[0]).to_digit(16)?;
            let low = char::from(digits[1]).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        Some(Sha(sum))
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// What the engines of all cores share: sources that were loaded or evaluated, by their sum; libraries of
/// functions; and the script that runs. Cloning makes another handle to the same things.
///
/// Its locks are off the data path: a core asks only for what it has not compiled yet, and learns from
/// counters that scripts were flushed or libraries have changed.
#[derive(Clone, Debug, Default)]
pub struct Scripts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sources: Mutex<BTreeMap<Sha, Arc<[u8]>>>,
    /// Counts flushes, so that cores notice that what they have compiled is void.
    generation: AtomicU64,
    libraries: Mutex<Arc<Libraries>>,
    /// Counts changes of `libraries`.
    libraries_version: AtomicU64,
    running: Running,
}

impl Scripts {
    /// The script that runs.
    pub fn running(&self) -> &Running {
        &self.0.running
    }

    /// How often the libraries have changed.
    pub fn libraries_version(&self) -> u64 {
        self.0.libraries_version.load(Ordering::Acquire)
    }

    /// The libraries of functions, with their version.
    pub fn libraries(&self) -> (u64, Arc<Libraries>) {
        let guard = lock(&self.0.libraries);
        (self.libraries_version(), guard.clone())
    }

    /// The sources of all libraries.
    pub fn library_sources(&self) -> Vec<Vec<u8>> {
        let (_, libraries) = self.libraries();
        libraries
            .values()
            .map(|library| library.code.to_vec())
            .collect()
    }

    /// Changes the libraries; nothing changes where that fails.
    ///
    /// # Errors
    /// That of `change`.
    pub fn change_libraries(
        &self,
        change: impl FnOnce(&mut Libraries) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut guard = lock(&self.0.libraries);
        let mut changed = Libraries::clone(&guard);
        change(&mut changed)?;
        *guard = Arc::new(changed);
        self.0.libraries_version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// How often everything was flushed.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The source of a script.
    pub fn get(&self, sha: Sha) -> Option<Arc<[u8]>> {
        self.sources().get(&sha).cloned()
    }

    /// Keeps a source.
    pub fn add(&self, sha: Sha, source: &[u8]) {
        self.sources().entry(sha).or_insert_with(|| source.into());
    }

    /// Forgets all sources.
    pub fn flush(&self) {
        self.sources().clear();
        self.0.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Number of scripts and bytes of their sources, for INFO.
    pub fn usage(&self) -> (usize, usize) {
        let sources = self.sources();
        (
            sources.len(),
            sources.values().map(|source| source.len()).sum(),
        )
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<Sha, Arc<[u8]>>> {
        lock(&self.0.sources)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps are whole after a panic elsewhere: every change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
