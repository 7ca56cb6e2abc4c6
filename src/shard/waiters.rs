//! Who listens to one key: those who watch it, and those who block on it and are served in the order they
//! came.
//!
//! A change goes round among those who block, one after the other. What they are served changes the key
//! again, which is noted, and the round begins anew when it is through. Where the key is gone only those go
//! on who want to hear of that, too: so an element that a thousand wait for costs one try, not a thousand.

use std::collections::{BTreeMap, BTreeSet};

use super::homes::{Listener, Want};
use crate::shard::message::CoreId;

/// A connection of a core.
type Name = (CoreId, u32, u32);

/// See the module page.
#[derive(Default)]
pub struct Waiters {
    /// Who watches, and since which number; was the key there when they came? Emptying the database changes
    /// nothing for them otherwise.
    watch: BTreeMap<(Name, u64), bool>,
    /// Who blocks, in the order they came.
    blocked: BTreeMap<u64, Listener>,
    /// Those of them who hear of it where the key goes.
    readers: BTreeSet<u64>,
    places: BTreeMap<Name, u64>,
    next: u64,
    round: Option<Round>,
}

/// How far a change has gone round.
#[derive(Clone, Copy)]
struct Round {
    /// Those before this have tried.
    at: u64,
    /// The key has changed since.
    again: bool,
}

/// Who tries next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    pub listener: Listener,
    /// Nobody comes after: the round is over.
    pub is_last: bool,
}

fn name(listener: Listener) -> Name {
    (listener.core, listener.conn.index, listener.conn.generation)
}

impl Waiters {
    /// How many listen.
    pub fn len(&self) -> usize {
        self.watch.len() + self.blocked.len()
    }

    /// How many block.
    pub fn blocked(&self) -> usize {
        self.blocked.len()
    }

    /// Registers a listener, unless it is.
    pub fn listen(&mut self, listener: Listener, existed: bool) {
        let name = name(listener);
        let reads = match listener.want {
            Want::Taint(round) => {
                self.watch.entry((name, round)).or_insert(existed);
                return;
            }
            Want::Retry { reads } => reads,
        };
        if self.places.contains_key(&name) {
            return;
        }
        let place = self.next;
        self.next += 1;
        self.places.insert(name, place);
        self.blocked.insert(place, listener);
        if reads {
            self.readers.insert(place);
        }
    }

    /// Removes a listener.
    pub fn unlisten(&mut self, listener: Listener) {
        let name = name(listener);
        match listener.want {
            Want::Taint(round) => {
                self.watch.remove(&(name, round));
            }
            Want::Retry { .. } => {
                if let Some(place) = self.places.remove(&name) {
                    self.blocked.remove(&place);
                    self.readers.remove(&place);
                }
            }
        }
    }

    /// The key changed. Those who watch are told and removed: one change is enough for them. Where it was
    /// `removed`, or was due already, nothing has changed for who watches since it was not there. True if a
    /// round is to begin.
    pub fn changed(&mut self, removed: bool, mut tell: impl FnMut(Listener)) -> bool {
        self.watch.retain(|(name, round), existed| {
            let stays = removed && !*existed;
            if !stays {
                let (core, index, generation) = *name;
                tell(Listener {
                    core,
                    conn: uring::SocketId { index, generation },
                    want: Want::Taint(*round),
                });
            }
            stays
        });
        match &mut self.round {
            Some(round) => {
                round.again = true;
                false
            }
            None if self.blocked.is_empty() => false,
            round => {
                let (at, again) = (0, false);
                *round = Some(Round { at, again });
                true
            }
        }
    }

    /// Who tries next in the round that is on; `None` when it is over. `is_there`: there is such a key.
    pub fn next(&mut self, is_there: bool) -> Option<Next> {
        loop {
            let Round { at, again } = self.round?;
            let Some((place, listener)) = self.behind(at, is_there) else {
                let (at, once_more) = (0, false);
                self.round = again.then_some(Round {
                    at,
                    again: once_more,
                });
                continue;
            };
            let at = place + 1;
            let is_last = !again && self.behind(at, is_there).is_none();
            self.round = (!is_last).then_some(Round { at, again });
            return Some(Next { listener, is_last });
        }
    }

    fn behind(&self, at: u64, is_there: bool) -> Option<(u64, Listener)> {
        let place = match is_there {
            true => *self.blocked.range(at..).next()?.0,
            false => *self.readers.range(at..).next()?,
        };
        Some((place, *self.blocked.get(&place)?))
    }
}

#[cfg(test)]
mod tests {
    use uring::SocketId;

    use super::*;

    fn blocks(core: CoreId, index: u32, reads: bool) -> Listener {
        Listener {
            core,
            conn: SocketId {
                index,
                generation: 1,
            },
            want: Want::Retry { reads },
        }
    }

    fn watches(index: u32, round: u64) -> Listener {
        Listener {
            want: Want::Taint(round),
            ..blocks(0, index, false)
        }
    }

    fn of(clients: &[(u32, bool)]) -> Waiters {
        let mut waiters = Waiters::default();
        for (index, reads) in clients {
            waiters.listen(blocks(0, *index, *reads), true);
        }
        waiters
    }

    /// The clients that try, each of which is served if `serve` says so: that changes the key.
    fn round(waiters: &mut Waiters, mut is_there: impl FnMut() -> bool, serve: u32) -> Vec<u32> {
        let (mut tried, mut left) = (Vec::new(), serve);
        while let Some(next) = waiters.next(is_there()) {
            tried.push(next.listener.conn.index);
            if left > 0 {
                left -= 1;
                waiters.unlisten(next.listener);
                if waiters.changed(false, |_| ()) {
                    assert!(next.is_last, "there is one round at a time");
                }
            }
        }
        tried
    }

    #[test]
    fn one_element_is_tried_for_once() {
        let mut waiters = of(&[(5, false), (3, false), (4, false)]);
        assert!(waiters.changed(false, |_| ()));
        assert!(!waiters.changed(false, |_| ()), "it is on");
        let mut elements = [true, false, false].into_iter();
        let is_there = || elements.next().unwrap_or(false);
        assert_eq!(round(&mut waiters, is_there, 1), [5]);
        assert_eq!((waiters.len(), waiters.blocked()), (2, 2));
        // Who came first is served first, also in the next one.
        assert!(waiters.changed(false, |_| ()));
        assert_eq!(round(&mut waiters, || true, 2), [3, 4]);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn who_reads_hears_that_the_key_went() {
        let mut waiters = of(&[(1, false), (2, true), (3, false)]);
        assert!(waiters.changed(true, |_| ()));
        assert_eq!(round(&mut waiters, || false, 0), [2]);
        assert!(waiters.next(false).is_none(), "it is over");
    }

    #[test]
    fn what_changes_during_a_round_goes_round_again() {
        let mut waiters = of(&[(1, false), (2, false)]);
        waiters.changed(false, |_| ());
        assert_eq!(
            waiters.next(true).map(|next| next.listener.conn.index),
            Some(1)
        );
        assert!(!waiters.changed(false, |_| ()));
        let rest = |waiters: &mut Waiters| round(waiters, || true, 0);
        assert_eq!(rest(&mut waiters), [2, 1, 2]);
        assert!(rest(&mut waiters).is_empty());
    }

    #[test]
    fn the_last_one_is_known() {
        let mut waiters = of(&[(1, false), (2, false)]);
        waiters.changed(false, |_| ());
        let last: Vec<bool> = std::iter::from_fn(|| waiters.next(true))
            .map(|next| next.is_last)
            .collect();
        assert_eq!(last, [false, true]);
    }

    #[test]
    fn nobody_is_registered_twice() {
        let mut waiters = of(&[(1, false), (1, false)]);
        waiters.listen(watches(1, 7), false);
        waiters.listen(watches(1, 7), true);
        waiters.listen(watches(1, 8), true);
        assert_eq!((waiters.len(), waiters.blocked()), (3, 1));
        // Of a key that was not there its going is no news.
        let mut told = Vec::new();
        assert!(waiters.changed(true, |listener| told.push(listener)));
        assert_eq!(told, [watches(1, 8)]);
        waiters.changed(false, |listener| told.push(listener));
        assert_eq!(told, [watches(1, 8), watches(1, 7)]);
        waiters.unlisten(blocks(0, 1, false));
        assert_eq!((waiters.len(), waiters.next(true)), (0, None));
    }
}
