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

/// Messages one mailbox holds at most; what does not fit waits at the sender.
const MAILBOX_LEN: usize = 4096;

/// Messages that all mailboxes to one core hold together: with many cores each is smaller.
const INBOUND_LEN: usize = 8 * MAILBOX_LEN;

/// Messages waiting at the sender above which it should make no more of them.
const CONGESTED: usize = 1 << 16;

/// One core's end of all its mailboxes.
pub struct Mesh<M> {
    me: CoreId,
    inbound: Vec<Option<Consumer<M>>>,
    outbound: Vec<Option<Producer<M>>>,
    /// Messages of this turn, and those that did not fit into the mailbox.
    waiting: Vec<VecDeque<M>>,
    /// Messages in `waiting`.
    waiting_len: usize,
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
            waiting_len: 0,
            bells: bells.clone(),
        })
        .collect();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            let len = (INBOUND_LEN / count).clamp(128, MAILBOX_LEN);
            let (producer, consumer) = RingBuffer::new(len);
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
        self.waiting_len += 1;
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
                self.waiting_len -= 1;
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
        self.waiting_len > 0
    }

    /// Do so many messages wait here that no more should be made for now?
    #[inline]
    pub fn is_congested(&self) -> bool {
        self.waiting_len > CONGESTED
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

    /// Messages that are there now.
    pub fn waiting(&self) -> usize {
        self.inbound.iter().flatten().map(Consumer::slots).sum()
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

    /// Every message arrives, in order, although the receivers sleep whenever they may and nothing but
    /// the bell wakes them.
    #[test]
    fn no_message_is_slept_through() {
        struct Thread(std::sync::Mutex<Option<std::thread::Thread>>);
        struct Bell(Arc<Thread>);
        impl Wake for Bell {
            fn wake(&self) {
                if let Some(thread) = &*self.0.0.lock().expect("nobody fails with it") {
                    thread.unpark();
                }
            }
        }
        const CORES: usize = 3;
        const EACH: u64 = 20_000;
        let threads: Vec<_> = (0..CORES)
            .map(|_| Arc::new(Thread(std::sync::Mutex::new(None))))
            .collect();
        let wakers = threads
            .iter()
            .map(|thread| Box::new(Bell(thread.clone())) as Box<dyn Wake + Send + Sync>)
            .collect();
        let meshes = build::<u64>(wakers);
        let ready = std::sync::Barrier::new(CORES);
        std::thread::scope(|scope| {
            for (mut mesh, thread) in meshes.into_iter().zip(&threads) {
                let ready = &ready;
                scope.spawn(move || {
                    let me = mesh.me();
                    *thread.0.lock().expect("nobody fails with it") = Some(std::thread::current());
                    ready.wait();
                    let mut next = [0; CORES];
                    let mut sent = 0;
                    let missing = |next: &[u64; CORES]| {
                        (0..CORES).any(|from| from != me && next[from] < EACH)
                    };
                    while sent < EACH || missing(&next) || mesh.has_unsent() {
                        // Few at a time, so that the others run dry and sleep often.
                        for _ in 0..(sent % 3 + 1).min(EACH - sent) {
                            (0..CORES)
                                .filter(|to| *to != me)
                                .for_each(|to| mesh.send(to, sent));
                            sent += 1;
                        }
                        mesh.post();
                        let mut quiet = true;
                        while let Some((from, number)) = mesh.receive() {
                            assert_eq!(number, next[from]);
                            next[from] += 1;
                            quiet = false;
                        }
                        // With everything sent there is nothing to do but to wait.
                        if quiet
                            && sent == EACH
                            && missing(&next)
                            && !mesh.has_unsent()
                            && mesh.park()
                        {
                            let start = std::time::Instant::now();
                            std::thread::park_timeout(std::time::Duration::from_secs(20));
                            assert!(start.elapsed().as_secs() < 19, "slept through a message");
                            mesh.unpark();
                        }
                    }
                });
            }
        });
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
