//! One-shot timers in user space: a heap of due times over a table of payloads. No system calls.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::reactor::{Nanos, TimerId};
use crate::slots::{Slots, Token};

/// Timers with payloads. Equal times fire in the order they were set.
pub(crate) struct Timers<T> {
    payloads: Slots<T>,
    heap: BinaryHeap<Reverse<Due>>,
    /// Makes equal times fire in order.
    sequence: u64,
    live: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Nanos,
    sequence: u64,
    index: u32,
    generation: u32,
}

/// Cancelled entries may lie in the heap up to this many more than live ones before it is swept.
const STALE_SLACK: usize = 64;

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Timers {
            payloads: Slots::default(),
            heap: BinaryHeap::new(),
            sequence: 0,
            live: 0,
        }
    }
}

impl<T> Timers<T> {
    pub fn set(&mut self, at: Nanos, payload: T) -> TimerId {
        let token = self.payloads.insert(payload);
        let (index, generation) = (token.index, token.generation);
        self.heap.push(Reverse(Due {
            at,
            sequence: self.sequence,
            index,
            generation,
        }));
        self.sequence += 1;
        self.live += 1;
        TimerId(u64::from(generation) << 32 | u64::from(index))
    }

    pub fn cancel(&mut self, timer: TimerId) {
        let token = Token {
            index: timer.0 as u32,
            generation: (timer.0 >> 32) as u32,
        };
        if self.payloads.remove(token).is_none() {
            return;
        }
        self.live -= 1;
        if self.heap.len() > 2 * self.live + STALE_SLACK {
            let payloads = &self.payloads;
            self.heap
                .retain(|Reverse(due)| payloads.get(due.token()).is_some());
        }
    }

    /// The earliest due time.
    pub fn next_at(&mut self) -> Option<Nanos> {
        loop {
            let Reverse(due) = self.heap.peek()?;
            if self.payloads.get(due.token()).is_some() {
                return Some(due.at);
            }
            self.heap.pop();
        }
    }

    /// Takes the earliest timer that is due at `now`.
    pub fn pop_due(&mut self, now: Nanos) -> Option<(TimerId, T)> {
        loop {
            let Reverse(due) = self.heap.peek()?;
            let token = due.token();
            if self.payloads.get(token).is_some() && due.at > now {
                return None;
            }
            self.heap.pop();
            if let Some(payload) = self.payloads.remove(token) {
                self.live -= 1;
                let timer = TimerId(u64::from(token.generation) << 32 | u64::from(token.index));
                return Some((timer, payload));
            }
        }
    }
}

impl Due {
    fn token(&self) -> Token {
        Token {
            index: self.index,
            generation: self.generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_of_time_and_then_of_setting() {
        let mut timers = Timers::default();
        timers.set(30, 'c');
        timers.set(10, 'a');
        timers.set(30, 'd');
        timers.set(20, 'b');
        assert_eq!(timers.next_at(), Some(10));
        assert!(timers.pop_due(9).is_none());
        let order: String = std::iter::from_fn(|| timers.pop_due(30))
            .map(|(_, mark)| mark)
            .collect();
        assert_eq!(order, "abcd");
        assert_eq!(timers.next_at(), None);
    }

    #[test]
    fn a_cancelled_timer_never_fires_nor_does_its_id_hit_the_next_one() {
        let mut timers = Timers::default();
        let first = timers.set(10, 1);
        timers.cancel(first);
        let second = timers.set(10, 2);
        timers.cancel(first);
        assert_ne!(first, second);
        assert_eq!(timers.pop_due(10), Some((second, 2)));
        assert_eq!(timers.pop_due(10), None);
    }

    #[test]
    fn cancelling_many_timers_does_not_let_the_heap_grow() {
        let mut timers = Timers::default();
        for at in 0..10_000 {
            let timer = timers.set(at, ());
            timers.cancel(timer);
        }
        assert!(timers.heap.len() <= STALE_SLACK + 1);
    }
}
