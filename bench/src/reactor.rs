//! The reactor without sockets: what a turn through the kernel costs, and timers.
//!
//! - Rousing: a wake and the turn that finds it, against a byte through a pipe, both on one thread. One
//!   operation is one of them: two system calls on either side.
//! - Timers: against a `BTreeMap` by time. One operation is one timer set; of 64, every fourth is taken
//!   back, and a turn that does not sleep brings the others. With the kernel's ring that turn may enter
//!   the kernel, with the in-memory twin of the reactor it never does.

use std::{
    collections::BTreeMap,
    hint::black_box,
    io::{Read, Write, pipe},
};

use ringkeep::base::Rng;
use uring::{
    Event, KernelReactor, Nanos, Reactor, RingConfig, TimerId, Wait, Wake,
    fake::{FakeWorld, Machine},
};

use crate::measure::{Meter, compare};

pub fn run() {
    let mut fake = Ours::new(FakeWorld::seeded(1).reactor(Machine(1)));
    timers("timers, in-memory reactor", &mut fake);
    match KernelReactor::new(RingConfig::default()) {
        Ok(kernel) => {
            let mut kernel = Ours::new(kernel);
            timers("timers, io_uring", &mut kernel);
            rousing(&mut kernel);
        }
        Err(error) => println!("  io_uring left out: {error}"),
    }
}

fn timers<R: Reactor>(what: &str, ours: &mut Ours<R>) {
    let mut naive = Naive::default();
    let [mut a, mut b] = [Rng::seeded(1), Rng::seeded(1)];
    let [mut due, mut due_naively] = [Vec::new(), Vec::new()];
    set_and_fire(ours, &mut a, &mut due);
    set_and_fire(&mut naive, &mut b, &mut due_naively);
    assert_eq!(due, due_naively);
    compare(
        what,
        BATCHES * TIMERS,
        |meter| rounds(meter, ours, &mut a),
        |meter| rounds(meter, &mut naive, &mut b),
    );
}

fn rounds(meter: &mut Meter, clockwork: &mut impl Clockwork, rng: &mut Rng) {
    let mut due = Vec::new();
    meter.time(|| {
        for _ in 0..BATCHES {
            due.clear();
            set_and_fire(clockwork, rng, &mut due);
            black_box(&due);
        }
    });
}

/// Sets timers that are due at once, takes every fourth back, and fires the others.
fn set_and_fire(clockwork: &mut impl Clockwork, rng: &mut Rng, due: &mut Vec<u64>) {
    for mark in 0..TIMERS {
        let timer = clockwork.set(rng.below(PAST), mark);
        if mark % 4 == 3 {
            clockwork.cancel(timer);
        }
    }
    clockwork.fire(PAST, due);
}

fn rousing(kernel: &mut Ours<KernelReactor>) {
    let waker = kernel.reactor.waker();
    let (mut reader, mut writer) = pipe().expect("two descriptors are free");
    compare(
        "wake and collect, against a pipe",
        WAKES,
        |meter| {
            meter.time(|| {
                for _ in 0..WAKES {
                    waker.wake();
                    kernel.turn(Wait::Event);
                    assert!(matches!(kernel.events[..], [Event::Woken]));
                }
            });
        },
        |meter| {
            meter.time(|| {
                for _ in 0..WAKES {
                    let mut byte = [0];
                    writer.write_all(&[1]).expect("a pipe takes a byte");
                    reader.read_exact(&mut byte).expect("the byte is there");
                    assert_eq!(byte, [1]);
                }
            });
        },
    );
}

/// What both can do.
trait Clockwork {
    type Id: Copy;
    fn set(&mut self, at: Nanos, mark: u64) -> Self::Id;
    fn cancel(&mut self, timer: Self::Id);

    /// Appends the marks of the timers that are due. `now` is for the twin, which has no clock.
    fn fire(&mut self, now: Nanos, due: &mut Vec<u64>);
}

/// A reactor, with the events of its last turn.
struct Ours<R> {
    reactor: R,
    events: Vec<Event>,
}

impl<R: Reactor> Ours<R> {
    fn new(reactor: R) -> Self {
        let events = Vec::new();
        Self { reactor, events }
    }

    fn turn(&mut self, wait: Wait) {
        self.events.clear();
        let turned = self.reactor.turn(wait, &mut self.events);
        turned.expect("the ring is usable");
    }
}

impl<R: Reactor> Clockwork for Ours<R> {
    type Id = TimerId;

    fn set(&mut self, at: Nanos, mark: u64) -> TimerId {
        self.reactor.set_timer(at, mark)
    }

    fn cancel(&mut self, timer: TimerId) {
        self.reactor.cancel_timer(timer);
    }

    fn fire(&mut self, _: Nanos, due: &mut Vec<u64>) {
        self.turn(Wait::Look);
        due.extend(self.events.iter().filter_map(|event| match event {
            Event::Timer { mark, .. } => Some(*mark),
            _ => None,
        }));
    }
}

/// The naive twin: timers by time and by the order in which they were set.
#[derive(Default)]
struct Naive {
    timers: BTreeMap<(Nanos, u64), u64>,
    count: u64,
}

impl Clockwork for Naive {
    type Id = (Nanos, u64);

    fn set(&mut self, at: Nanos, mark: u64) -> (Nanos, u64) {
        let id = (at, self.count);
        self.count += 1;
        self.timers.insert(id, mark);
        id
    }

    fn cancel(&mut self, timer: (Nanos, u64)) {
        self.timers.remove(&timer);
    }

    fn fire(&mut self, now: Nanos, due: &mut Vec<u64>) {
        while let Some(first) = self.timers.first_entry()
            && first.key().0 <= now
        {
            due.push(first.remove());
        }
    }
}

const TIMERS: u64 = 64;
const BATCHES: u64 = 500;
const WAKES: u64 = 5000;

/// Long ago on every reactor's clock, which begins when the machine does.
const PAST: Nanos = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn both_fire_the_same_timers_in_the_same_order(ops in vec((0..4u8, 0..50u64), 0..200)) {
            let world = FakeWorld::seeded(1);
            let mut ours = Ours::new(world.reactor(Machine(1)));
            let mut naive = Naive::default();
            let mut ids = Vec::new();
            for (mark, (op, value)) in ops.into_iter().enumerate() {
                let now = world.now();
                match op {
                    0 | 1 => {
                        let (at, mark) = (now + value, mark as u64);
                        ids.push((ours.set(at, mark), naive.set(at, mark)));
                    }
                    2 if !ids.is_empty() => {
                        let (ours_id, naive_id) = ids[value as usize % ids.len()];
                        ours.cancel(ours_id);
                        naive.cancel(naive_id);
                    }
                    _ => {
                        world.advance(value);
                        let [mut due, mut due_naively] = [Vec::new(), Vec::new()];
                        ours.fire(world.now(), &mut due);
                        naive.fire(world.now(), &mut due_naively);
                        prop_assert_eq!(due, due_naively);
                    }
                }
            }
        }
    }
}
