//! Mailboxes between two cores: the mesh against a `Mutex<VecDeque>` and against std's `mpsc`. One operation
//! is one message of 8 bytes, sent in batches of 32 as a turn does.
//!
//! The receiver is awake all the time: what rousing it costs is measured in `reactor`.

use std::{
    collections::VecDeque,
    hint::black_box,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use ringkeep::mesh::{self, Mesh};
use uring::Wake;

use crate::measure::{Meter, compare};

pub fn run() {
    assert_eq!(pass(pair_of_meshes(), 1000), pass(naive_pair(), 1000));
    compare(
        "one thread, against a mutex",
        MESSAGES,
        alone(pair_of_meshes),
        alone(naive_pair),
    );
    compare(
        "one thread, against mpsc",
        MESSAGES,
        alone(pair_of_meshes),
        alone(mpsc::channel),
    );
    compare(
        "two threads, against a mutex",
        MESSAGES,
        across(pair_of_meshes),
        across(naive_pair),
    );
    compare(
        "two threads, against mpsc",
        MESSAGES,
        across(pair_of_meshes),
        across(mpsc::channel),
    );
}

trait Sending: Send {
    fn send(&mut self, message: u64);

    /// Makes what was sent visible; false if some of it did not fit.
    fn post(&mut self) -> bool {
        true
    }
}

trait Receiving: Send {
    fn receive(&mut self) -> Option<u64>;
}

impl Sending for Mesh<u64> {
    #[inline]
    fn send(&mut self, message: u64) {
        Mesh::send(self, 1, message);
    }

    #[inline]
    fn post(&mut self) -> bool {
        Mesh::post(self)
    }
}

impl Receiving for Mesh<u64> {
    #[inline]
    fn receive(&mut self) -> Option<u64> {
        Mesh::receive(self).map(|(_, message)| message)
    }
}

/// The naive twin. Unlike ours it has no bound.
#[derive(Clone, Default)]
struct Naive(Arc<Mutex<VecDeque<u64>>>);

impl Sending for Naive {
    #[inline]
    fn send(&mut self, message: u64) {
        self.0
            .lock()
            .expect("nobody fails with it")
            .push_back(message);
    }
}

impl Receiving for Naive {
    #[inline]
    fn receive(&mut self) -> Option<u64> {
        self.0.lock().expect("nobody fails with it").pop_front()
    }
}

impl Sending for mpsc::Sender<u64> {
    #[inline]
    fn send(&mut self, message: u64) {
        mpsc::Sender::send(self, message).expect("the receiver outlives the sender");
    }
}

impl Receiving for mpsc::Receiver<u64> {
    #[inline]
    fn receive(&mut self) -> Option<u64> {
        self.try_recv().ok()
    }
}

/// Rouses nobody.
struct Awake;

impl Wake for Awake {
    fn wake(&self) {}
}

fn pair_of_meshes() -> (Mesh<u64>, Mesh<u64>) {
    let bells = (0..2).map(|_| Box::new(Awake) as Box<dyn Wake + Send + Sync>);
    let mut meshes = mesh::build(bells.collect());
    let second = meshes.pop().expect("two were built");
    (meshes.pop().expect("two were built"), second)
}

fn naive_pair() -> (Naive, Naive) {
    let queue = Naive::default();
    (queue.clone(), queue)
}

/// A round in which one thread sends a batch and takes it out again.
fn alone<S: Sending, R: Receiving>(make: fn() -> (S, R)) -> impl FnMut(&mut Meter) {
    let (mut sender, mut receiver) = make();
    move |meter| {
        meter.time(|| {
            for batch in 0..MESSAGES / BATCH {
                (0..BATCH).for_each(|at| sender.send(batch * BATCH + at));
                sender.post();
                while let Some(message) = receiver.receive() {
                    black_box(message);
                }
            }
        });
    }
}

/// A round in which another thread receives all that this one sends.
fn across<S: Sending, R: Receiving>(make: fn() -> (S, R)) -> impl FnMut(&mut Meter) {
    move |meter| {
        let (sender, receiver) = make();
        let received = meter.time(|| send_all(sender, receiver, MESSAGES, |_| {}));
        assert_eq!(received, MESSAGES);
    }
}

/// What arrives of so many messages, in order.
fn pass(pair: (impl Sending, impl Receiving), count: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    send_all(pair.0, pair.1, count, |message| seen.push(message));
    seen
}

/// Sends from a thread of its own and receives here; how many arrived.
fn send_all(
    mut sender: impl Sending,
    mut receiver: impl Receiving,
    count: u64,
    mut seen: impl FnMut(u64),
) -> u64 {
    thread::scope(|scope| {
        scope.spawn(move || {
            for message in 0..count {
                sender.send(message);
                if (message + 1) % BATCH == 0 || message + 1 == count {
                    while !sender.post() {
                        thread::yield_now();
                    }
                }
            }
        });
        let mut received = 0;
        while received < count {
            match receiver.receive() {
                Some(message) => {
                    seen(black_box(message));
                    received += 1;
                }
                None => thread::yield_now(),
            }
        }
        received
    })
}

const BATCH: u64 = 32;
const MESSAGES: u64 = 32 * 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a mailbox holds, and no whole number of batches.
    #[test]
    fn everything_arrives_in_order_through_each() {
        let sent: Vec<u64> = (0..10_007).collect();
        assert_eq!(pass(pair_of_meshes(), 10_007), sent);
        assert_eq!(pass(naive_pair(), 10_007), sent);
        assert_eq!(pass(mpsc::channel(), 10_007), sent);
    }
}
