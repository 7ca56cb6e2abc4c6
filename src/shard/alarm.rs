//! One timer of a ring, for who wants to be called again at one time and may change its mind.

use uring::{Nanos, Reactor, TimerId};

use crate::base::Ms;

const NANOS_PER_MS: Nanos = 1_000_000;

/// See the module page.
pub(super) struct Alarm {
    mark: u64,
    set: Option<(Ms, TimerId)>,
}

impl Alarm {
    /// Not set. Its events have this mark.
    pub fn new(mark: u64) -> Self {
        Self { mark, set: None }
    }

    /// Goes off at this time instead of any other, in milliseconds of the clock that says `now`; never if
    /// that is [`Ms::MAX`].
    pub fn set<R: Reactor>(&mut self, at: Ms, now: Ms, reactor: &mut R) {
        if self.set.is_some_and(|(set, _)| set == at) {
            return;
        }
        if let Some((_, timer)) = self.set.take() {
            reactor.cancel_timer(timer);
        }
        if at < Ms::MAX {
            let nanos = at.saturating_sub(now).saturating_mul(NANOS_PER_MS);
            let timer = reactor.set_timer(reactor.now().saturating_add(nanos), self.mark);
            self.set = Some((at, timer));
        }
    }

    /// It has gone off.
    pub fn on_timer(&mut self) {
        self.set = None;
    }
}
