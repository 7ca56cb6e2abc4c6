//! The script that runs, as the other cores see it.
//!
//! A script holds every shard, so at most one runs on the node. Its engine publishes it here once it has
//! run for a while, and looks here now and then; whoever wants it to end says so here.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
};

use crate::{
    base::Ms,
    resp::{Error, OwnedArgs},
};

/// The patience of other clients unless it is set.
const BUSY_MS: Ms = 5000;
const NOT_BUSY: Error = Error::fixed("NOTBUSY No scripts in execution right now.");
const BUSY_SCRIPT: Error = Error::fixed(
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
);
const BUSY_FUNCTION: Error = Error::fixed(
    "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
);
const HAS_WRITTEN: Error = Error::fixed(
    "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait \
     the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
);
const FROM_PRIMARY: Error = Error::fixed(
    "UNKILLABLE The busy script was sent by a master instance in the context of replication and cannot be \
     killed.",
);

/// What runs.
#[derive(Clone, Debug)]
pub struct View {
    /// A function's name and the request that called it; `None` for EVAL and its kin.
    pub function: Option<(String, OwnedArgs)>,
    /// It is a frame of the primary that this node follows.
    pub from_primary: bool,
    /// It called a command that writes.
    pub has_written: bool,
}

/// The place where a script is published.
#[derive(Debug)]
pub struct Running {
    /// After how many milliseconds other clients are told; 0: never.
    busy_ms: AtomicU64,
    view: Mutex<Option<View>>,
    ran_ms: AtomicU64,
    /// It is to end. Set and read for decisions under the lock of `view`; looked at without it.
    killed: AtomicBool,
    /// 0, or which of the two texts others get.
    busy: AtomicU8,
}

impl Default for Running {
    fn default() -> Self {
        Self {
            busy_ms: AtomicU64::new(BUSY_MS),
            view: Mutex::default(),
            ran_ms: AtomicU64::default(),
            killed: AtomicBool::default(),
            busy: AtomicU8::default(),
        }
    }
}

impl Running {
    /// After how many milliseconds other clients are told that a script runs; 0: never.
    pub fn busy_ms(&self) -> Ms {
        self.busy_ms.load(Relaxed)
    }

    /// Changes that, also for what runs.
    pub fn set_busy_ms(&self, busy_ms: Ms) {
        self.busy_ms.store(busy_ms, Relaxed);
    }

    /// Does a script run for longer than it should?
    pub fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) != 0
    }

    /// The reply to other clients' commands then.
    pub fn busy(&self) -> Option<Error> {
        match self.busy.load(Relaxed) {
            0 => None,
            1 => Some(BUSY_SCRIPT),
            _ => Some(BUSY_FUNCTION),
        }
    }

    /// What runs, and for how long; nothing about scripts that have only begun.
    pub fn view(&self) -> Option<(View, Ms)> {
        let view = self.lock().clone()?;
        Some((view, self.ran_ms.load(Relaxed)))
    }

    /// SCRIPT KILL (`of_functions` is false) and FUNCTION KILL.
    ///
    /// # Errors
    /// The reply of Redis: there is nothing to kill, or it must not be killed.
    pub fn kill(&self, of_functions: bool) -> Result<(), Error> {
        let guard = self.lock();
        let view = guard.as_ref().ok_or(NOT_BUSY)?;
        if view.from_primary {
            return Err(FROM_PRIMARY);
        }
        if view.has_written {
            return Err(HAS_WRITTEN);
        }
        match (of_functions, &view.function) {
            (true, None) => Err(BUSY_SCRIPT),
            (false, Some(_)) => Err(BUSY_FUNCTION),
            _ => {
                self.killed.store(true, Relaxed);
                Ok(())
            }
        }
    }

    /// Publishes what runs on this core.
    pub fn begin(&self, view: View) {
        self.ran_ms.store(0, Relaxed);
        *self.lock() = Some(view);
    }

    /// What was published is over.
    pub fn end(&self) {
        let mut guard = self.lock();
        *guard = None;
        self.killed.store(false, Relaxed);
        self.busy.store(0, Relaxed);
    }

    /// Says how long it has run; true if it is to end.
    pub fn note(&self, ran_ms: Ms, is_slow: bool) -> bool {
        self.ran_ms.store(ran_ms, Relaxed);
        if is_slow && self.busy.load(Relaxed) == 0 {
            let kind = match &*self.lock() {
                Some(View {
                    function: Some(_), ..
                }) => 2,
                _ => 1,
            };
            self.busy.store(kind, Relaxed);
        }
        self.killed.load(Relaxed)
    }

    /// It is about to write, after which nobody may kill it; false if somebody just did.
    pub fn may_write(&self) -> bool {
        let mut guard = self.lock();
        if self.killed.load(Relaxed) {
            return false;
        }
        if let Some(view) = &mut *guard {
            view.has_written = true;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<View>> {
        // Replaced whole, so that it is sound after a panic elsewhere.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(function: bool) -> View {
        View {
            function: function.then(|| ("f".to_string(), OwnedArgs::default())),
            from_primary: false,
            has_written: false,
        }
    }

    #[test]
    fn only_what_has_not_written_can_be_killed() {
        let running = Running::default();
        assert_eq!(running.kill(false), Err(NOT_BUSY));
        running.begin(view(false));
        assert_eq!(running.kill(true), Err(BUSY_SCRIPT));
        assert!(!running.note(1, false));
        assert_eq!(running.kill(false), Ok(()));
        assert!(running.note(1, false));
        assert!(!running.may_write(), "it was told to end");
        running.end();
        running.begin(view(true));
        assert_eq!(running.kill(false), Err(BUSY_FUNCTION));
        assert!(running.may_write());
        assert_eq!(running.kill(true), Err(HAS_WRITTEN));
        assert!(!running.note(1, false));
    }

    #[test]
    fn others_are_told_while_a_slow_script_runs() {
        let running = Running::default();
        running.begin(view(true));
        running.note(1, false);
        assert_eq!(running.busy(), None);
        running.note(7, true);
        assert_eq!(running.busy(), Some(BUSY_FUNCTION));
        assert_eq!(running.view().map(|(_, ran_ms)| ran_ms), Some(7));
        running.end();
        assert_eq!(running.busy(), None);
        assert!(running.view().is_none());
    }
}
