//! Mailboxes between cores, and the calls that rouse a sleeping one.
//!
//! One bounded one-way queue per ordered pair of cores; messages of one pair arrive in the order they
//! were sent. A core collects what it has to say during a turn and posts it at the end. Waking costs
//! a system call, so only a core that said it sleeps is woken:
//!
//! - the receiver stores `parked`, fences, looks into its mailboxes once more, and only then blocks;
//! - the sender pushes, fences, and looks at `parked`.
//!
//! Whichever fence comes first, either the receiver sees the message or the sender sees the flag.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use rtrb::{Consumer, Producer, RingBuffer};
use uring::Wake;

/// Index of a core of this node.
pub type CoreId = usize;

/// Messages one mailbox holds; what does not fit waits at the sender.
const MAILBOX_LEN: usize = 4096;

/// One core's end of all its mailboxes.
pub struct Mesh<M> {
    me: CoreId,
    inbound: Vec<Option<Consumer<M>>>,
    outbound: Vec<Option<Producer<M>>>,
    /// Messages of this turn, and those that did not fit into the mailbox.
    waiting: Vec<VecDeque<M>>,
    bells: Arc<[Bell]>,
}

/// What a sender needs to rouse a core. Aligned so that no two cores share a cache line.
#[repr(align(128))]
struct Bell {
    parked: AtomicBool,
    wake: Box<dyn Wake + Send + Sync>,
}

/// Builds the mailboxes of all cores; `wakers` has one entry per core.
pub fn build<M>(wakers: Vec<Box<dyn Wake + Send + Sync>>) -> Vec<Mesh<M>> {
    let count = wakers.len();
    let bells: Arc<[Bell]> = wakers
        .into_iter()
        .map(|wake| Bell {
            parked: AtomicBool::new(false),
            wake,
        })
        .collect();
    let mut meshes: Vec<Mesh<M>> = (0..count)
        .map(|me| Mesh {
            me,
            inbound: (0..count).map(|_| None).collect(),
            outbound: (0..count).map(|_| None).collect(),
            waiting: (0..count).map(|_| VecDeque::new()).collect(),
            bells: bells.clone(),
        })
        .collect();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            let (producer, consumer) = RingBuffer::new(MAILBOX_LEN);
            meshes[from].outbound[to] = Some(producer);
            meshes[to].inbound[from] = Some(consumer);
        }
    }
    meshes
}

impl<M> Mesh<M> {
    /// This core.
    pub fn me(&self) -> CoreId {
        self.me
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.bells.len()
    }

    /// Queues a message to another core until [`post`](Mesh::post). A message to this core itself is
    /// a bug.
    pub fn send(&mut self, to: CoreId, message: M) {
        assert_ne!(to, self.me, "a core wrote to itself");
        self.waiting[to].push_back(message);
    }

    /// Puts queued messages into the mailboxes and rouses receivers that sleep; true if everything
    /// fitted.
    pub fn post(&mut self) -> bool {
        let mut all = true;
        for to in 0..self.waiting.len() {
            if self.waiting[to].is_empty() {
                continue;
            }
            let Some(producer) = &mut self.outbound[to] else {
                continue;
            };
            while let Some(message) = self.waiting[to].pop_front() {
                if let Err(rtrb::PushError::Full(message)) = producer.push(message) {
                    self.waiting[to].push_front(message);
                    all = false;
                    break;
                }
            }
            fence(Ordering::SeqCst);
            let bell = &self.bells[to];
            if bell.parked.load(Ordering::Relaxed) && bell.parked.swap(false, Ordering::Relaxed) {
                bell.wake.wake();
            }
        }
        all
    }

    /// Is there a message that did not fit into its mailbox yet? Its core must not sleep then.
    pub fn has_unsent(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_empty())
    }

    /// Takes the next message from any mailbox, with its sender.
    pub fn receive(&mut self) -> Option<(CoreId, M)> {
        for (from, consumer) in self.inbound.iter_mut().enumerate() {
            if let Some(consumer) = consumer
                && let Ok(message) = consumer.pop()
            {
                return Some((from, message));
            }
        }
        None
    }

    /// Announces that this core is about to sleep; true if it may, false if a message is there.
    pub fn park(&mut self) -> bool {
        self.bells[self.me].parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let silent = self.inbound.iter().flatten().all(Consumer::is_empty);
        if !silent {
            self.unpark();
        }
        silent
    }

    /// This core is awake again.
    pub fn unpark(&mut self) {
        self.bells[self.me].parked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Arc<std::sync::atomic::AtomicUsize>);
    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_a_parked_core_is_woken() {
        let woken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let wakers = (0..2)
            .map(|_| Box::new(Count(woken.clone())) as Box<dyn Wake + Send + Sync>)
            .collect();
        let mut meshes = build::<u32>(wakers);
        let mut two = meshes.pop().expect("two were built");
        let mut one = meshes.pop().expect("two were built");
        one.send(1, 7);
        assert!(one.post());
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        assert!(!two.park(), "a message is there");
        assert_eq!(two.receive(), Some((0, 7)));
        assert!(two.park());
        one.send(1, 8);
        one.send(1, 9);
        assert!(one.post());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        assert_eq!((two.receive(), two.receive()), (Some((0, 8)), Some((0, 9))));
    }

    #[test]
    fn a_full_mailbox_keeps_the_rest_in_order() {
        let woken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let wakers = (0..2)
            .map(|_| Box::new(Count(woken.clone())) as Box<dyn Wake + Send + Sync>)
            .collect();
        let mut meshes = build::<usize>(wakers);
        let mut two = meshes.pop().expect("two were built");
        let mut one = meshes.pop().expect("two were built");
        for number in 0..MAILBOX_LEN + 10 {
            one.send(1, number);
        }
        assert!(!one.post());
        assert!(one.has_unsent());
        for number in 0..MAILBOX_LEN + 10 {
            if number == MAILBOX_LEN {
                assert!(one.post());
            }
            assert_eq!(two.receive(), Some((0, number)));
        }
    }
}
