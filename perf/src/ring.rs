//! One thread's io_uring over stream connections, for the limit responder and the load generator alike:
//! multishot accept and receive, a ring of provided buffers, deferred task work, at most one send in
//! flight per connection. This is one of the package's two homes for `unsafe`.
//!
//! Memory that the kernel may touch has one owner each, all of them in [`Ring`]: provided buffers in
//! [`Buffers`], the bytes of a send in the connection's slot. Dropping the ring first waits until
//! nothing is in flight; what the kernel does not give back in time is leaked, never freed.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::mem;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::error::Error;

/// Names a connection of one ring; reused after [`Event::Gone`].
pub type Link = usize;

/// The bytes of one send. Owned here while the kernel reads them, handed back with [`Event::Sent`].
pub enum Payload {
    /// A buffer of the caller, to be filled again.
    Own(Vec<u8>),
    /// The first `len` bytes of a region shared by all connections.
    Shared {
        /// The region.
        bytes: Arc<[u8]>,
        /// How much of it to send; at most its length.
        len: usize,
    },
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Own(bytes) => bytes,
            Payload::Shared { bytes, len } => &bytes[..*len],
        }
    }
}

/// What a turn of the ring brought.
pub enum Event<'a> {
    /// A client connected; its receive is armed.
    Accepted(Link),
    /// Bytes arrived. They are only valid during the call.
    Received(Link, &'a [u8]),
    /// A send is complete; the payload returns.
    Sent(Link, Payload),
    /// The connection ended, by end of stream or by an error. The link is closed and may be reused.
    Gone(Link, Option<io::Error>),
}

/// How long a turn may wait for the first completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Only look.
    No,
    /// Until something happens or this much time has passed.
    Up(Duration),
}

/// Sizes of a ring; the defaults are those the limit is defined with.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Provided buffers, a power of two up to 32768.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_len: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            buffers: 256,
            buffer_len: 16 * 1024,
        }
    }
}

/// The ring. Bound to the thread that made it.
pub struct Ring {
    ring: IoUring,
    buffers: Buffers,
    listener: Option<TcpListener>,
    accepting: bool,
    slots: Vec<Option<Slot>>,
    free: Vec<Link>,
    /// Connections with something to (re)submit, in the order it came up.
    todo: Vec<Link>,
}

struct Slot {
    /// A stream socket of any family: all that is asked of it here is to be shut down and closed.
    stream: TcpStream,
    receiving: bool,
    /// The payload in flight and how much of it the kernel has taken.
    sending: Option<(Payload, usize)>,
    submitted: bool,
    closing: bool,
    told: bool,
}

impl Slot {
    fn is_idle(&self) -> bool {
        !self.receiving && !self.submitted
    }
}

impl Ring {
    /// Sets up ring and buffers on the calling thread.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the remedy when io_uring is missing, forbidden or older than 6.1.
    pub fn new(sizes: Sizes) -> Result<Ring, Error> {
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(16384)
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun();
        let ring = builder.build(4096).map_err(Error::kernel)?;
        let buffers = Buffers::new(sizes.buffers, sizes.buffer_len);
        // SAFETY: the entry array is page-aligned, holds `buffers.count` entries, and lives in
        // `Buffers`, which is freed only after `Drop for Ring` saw the kernel idle.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.entries.as_ptr() as u64,
                buffers.count,
                GROUP,
                0,
            )
        }
        .map_err(Error::kernel)?;
        // A kernel without it only pays one descriptor lookup per turn.
        let _ = ring.submitter().register_ring_fd();
        Ok(Ring {
            ring,
            buffers,
            listener: None,
            accepting: false,
            slots: Vec::new(),
            free: Vec::new(),
            todo: Vec::new(),
        })
    }

    /// Accepts connections from `listener`, which should be in blocking mode.
    ///
    /// # Errors
    /// Those of submitting.
    pub fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        self.listener = Some(listener);
        self.arm_accept()
    }

    /// Takes a connected stream in and arms its receive.
    ///
    /// # Errors
    /// Those of submitting.
    pub fn add(&mut self, stream: impl Into<OwnedFd>) -> io::Result<Link> {
        let link = self.insert(TcpStream::from(stream.into()));
        self.arm_receive(link)?;
        Ok(link)
    }

    /// Whether the connection exists, is not closing, and has no send in flight.
    pub fn can_send(&self, link: Link) -> bool {
        matches!(self.slots.get(link), Some(Some(slot)) if slot.sending.is_none() && !slot.closing)
    }

    /// Queues a send; it leaves with the next turn.
    ///
    /// # Errors
    /// Those of submitting.
    ///
    /// # Panics
    /// When [`Ring::can_send`] is false: two sends in flight may overtake each other.
    pub fn send(&mut self, link: Link, payload: Payload) -> io::Result<()> {
        assert!(self.can_send(link), "one send in flight per connection");
        if let Some(slot) = self.slots[link].as_mut() {
            slot.sending = Some((payload, 0));
        }
        self.submit_send(link)
    }

    /// Ends a connection; [`Event::Gone`] follows once the kernel let go of it.
    pub fn close(&mut self, link: Link) {
        if let Some(Some(slot)) = self.slots.get_mut(link) {
            slot.closing = true;
            let _ = slot.stream.shutdown(Shutdown::Both);
            self.todo.push(link);
        }
    }

    /// Submits what is queued, runs the kernel's deferred work, waits if told so, and hands every
    /// completion to `on`. One system call unless the submission queue overflowed.
    ///
    /// # Errors
    /// Those of `io_uring_enter` that are no reason to go on.
    pub fn turn(&mut self, wait: Wait, mut on: impl FnMut(Event<'_>)) -> io::Result<()> {
        for link in mem::take(&mut self.todo) {
            self.settle(link, &mut on)?;
        }
        if self.listener.is_some() && !self.accepting {
            self.arm_accept()?;
        }
        self.buffers.publish();
        self.enter(wait)?;

        let mut accepted = Vec::new();
        let (_, _, mut completions) = self.ring.split();
        completions.sync();
        for entry in &mut completions {
            let (op, link) = (entry.user_data() >> 56, entry.user_data() as u32 as Link);
            let (result, more) = (entry.result(), cqueue::more(entry.flags()));
            if op == ACCEPT {
                self.accepting &= more;
                if result >= 0 {
                    // SAFETY: a successful accept completion hands over a new descriptor once.
                    accepted.push(unsafe { TcpStream::from_raw_fd(result) });
                }
                continue;
            }
            let Some(slot) = self.slots[link].as_mut() else {
                unreachable!("a slot outlives everything in flight for it");
            };
            if op == SEND {
                slot.submitted = false;
                if result < 0 {
                    slot.closing = true;
                } else if let Some((payload, sent)) = slot.sending.take() {
                    let sent = sent + result as usize;
                    if sent < payload.bytes().len() {
                        slot.sending = Some((payload, sent));
                    } else {
                        on(Event::Sent(link, payload));
                    }
                }
                if slot.sending.is_some() || slot.closing {
                    self.todo.push(link);
                }
                continue;
            }
            slot.receiving = more;
            if let Some(bid) = cqueue::buffer_select(entry.flags()) {
                if result > 0 && !slot.closing {
                    on(Event::Received(
                        link,
                        self.buffers.bytes(bid, result as usize),
                    ));
                }
                self.buffers.give_back(bid);
            } else if result <= 0 && !matches!(-result, libc::ENOBUFS | libc::EINTR | libc::EAGAIN)
            {
                slot.closing = true;
                let _ = slot.stream.shutdown(Shutdown::Both);
                if !slot.told {
                    slot.told = true;
                    on(Event::Gone(
                        link,
                        (result < 0).then(|| io::Error::from_raw_os_error(-result)),
                    ));
                }
            }
            if !more {
                self.todo.push(link);
            }
        }
        drop(completions);
        self.buffers.publish();
        for stream in accepted {
            let link = self.add(stream)?;
            on(Event::Accepted(link));
        }
        Ok(())
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let (submitter, mut submissions, completions) = self.ring.split();
        submissions.sync();
        let done = match wait {
            Wait::Up(span) if completions.is_empty() => {
                let span = types::Timespec::from(span);
                let limit = types::SubmitArgs::new().timespec(&span);
                submitter.submit_with_args(1, &limit)
            }
            // SAFETY: no argument is passed. GETEVENTS is what makes the kernel run deferred work.
            _ => unsafe {
                submitter.enter::<libc::sigset_t>(
                    submissions.len() as u32,
                    0,
                    ENTER_GETEVENTS,
                    None,
                )
            },
        };
        match done {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }

    /// Re-arms, resumes or frees one connection, whichever its state asks for.
    fn settle(&mut self, link: Link, on: &mut impl FnMut(Event<'_>)) -> io::Result<()> {
        let Some(slot) = self.slots[link].as_mut() else {
            return Ok(());
        };
        if slot.closing {
            let _ = slot.stream.shutdown(Shutdown::Both);
            if slot.is_idle() {
                if !slot.told {
                    on(Event::Gone(link, None));
                }
                self.slots[link] = None;
                self.free.push(link);
            }
            return Ok(());
        }
        if slot.sending.is_some() && !slot.submitted {
            self.submit_send(link)?;
        }
        if self.slots[link]
            .as_ref()
            .is_some_and(|slot| !slot.receiving)
        {
            self.arm_receive(link)?;
        }
        Ok(())
    }

    fn insert(&mut self, stream: TcpStream) -> Link {
        let slot = Slot {
            stream,
            receiving: false,
            sending: None,
            submitted: false,
            closing: false,
            told: false,
        };
        match self.free.pop() {
            Some(link) => {
                self.slots[link] = Some(slot);
                link
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        }
    }

    fn arm_accept(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.push(entry.user_data(ACCEPT << 56))?;
        self.accepting = true;
        Ok(())
    }

    fn arm_receive(&mut self, link: Link) -> io::Result<()> {
        let Some(slot) = self.slots[link].as_mut() else {
            return Ok(());
        };
        slot.receiving = true;
        let entry = opcode::RecvMulti::new(types::Fd(slot.stream.as_raw_fd()), GROUP).build();
        self.push(entry.user_data(RECV << 56 | link as u64))
    }

    fn submit_send(&mut self, link: Link) -> io::Result<()> {
        let Some(slot) = self.slots[link].as_mut() else {
            return Ok(());
        };
        let Some((payload, sent)) = &slot.sending else {
            return Ok(());
        };
        let rest = &payload.bytes()[*sent..];
        let fd = types::Fd(slot.stream.as_raw_fd());
        let entry = opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        slot.submitted = true;
        self.push(entry.user_data(SEND << 56 | link as u64))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: receives and accepts point nowhere; a send points into the payload its slot
            // holds, whose heap block neither moves nor is freed before the completion.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Ends everything in flight; false when the kernel did not comply in time.
    fn drain(&mut self) -> bool {
        if let Some(listener) = self.listener.take() {
            // SAFETY: the descriptor is open; shutdown touches no memory. It ends the accept.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
        for slot in self.slots.iter_mut().flatten() {
            slot.closing = true;
            let _ = slot.stream.shutdown(Shutdown::Both);
        }
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.accepting || self.slots.iter().flatten().any(|slot| !slot.is_idle()) {
            if Instant::now() > deadline
                || self
                    .turn(Wait::Up(Duration::from_millis(20)), |_| ())
                    .is_err()
            {
                return false;
            }
        }
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.drain() {
            // The kernel may still read a payload or fill a buffer: both must stay.
            mem::forget(mem::take(&mut self.slots));
            self.buffers.leaked = true;
        }
    }
}

/// The buffers the kernel chooses from, and the ring through which they are offered.
struct Buffers {
    entries: NonNull<types::BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    len: usize,
    tail: u16,
    leaked: bool,
}

impl Buffers {
    fn new(count: u16, len: usize) -> Buffers {
        assert!(count.is_power_of_two() && count <= 32768 && len > 0);
        let mut buffers = Buffers {
            entries: zeroed_pages(entries_layout(count)).cast(),
            memory: zeroed_pages(memory_layout(count, len)),
            count,
            len,
            tail: 0,
            leaked: false,
        };
        for bid in 0..count {
            buffers.give_back(bid);
        }
        buffers.publish();
        buffers
    }

    /// Puts a buffer in line again; the kernel sees it after [`Buffers::publish`].
    fn give_back(&mut self, bid: u16) {
        let at = (self.tail & (self.count - 1)) as usize;
        // SAFETY: `at < count`, so both pointers are inside their allocations. The kernel reads an
        // entry only below the published tail, and this one is at the tail.
        unsafe {
            let entry = self.entries.add(at).as_mut();
            entry.set_addr(self.memory.add(bid as usize * self.len).as_ptr() as u64);
            entry.set_len(self.len as u32);
            entry.set_bid(bid);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail is a u16 inside the first entry, aligned, and shared with the kernel,
        // which is why it is written atomically.
        let tail =
            unsafe { &*(types::BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// What the kernel wrote into buffer `bid`, which must not have been given back.
    fn bytes(&self, bid: u16, len: usize) -> &[u8] {
        assert!(bid < self.count && len <= self.len);
        // SAFETY: inside the allocation by the assert; initialised, as it was zeroed; the kernel
        // does not write to it again before `give_back`, which needs the borrow to have ended.
        unsafe {
            std::slice::from_raw_parts(self.memory.add(bid as usize * self.len).as_ptr(), len)
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: allocated with these layouts; `Drop for Ring` has seen the last completion, and
        // the kernel drops the registration with the ring without touching buffer memory.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout(self.count));
            dealloc(self.memory.as_ptr(), memory_layout(self.count, self.len));
        }
    }
}

fn entries_layout(count: u16) -> Layout {
    pages(count as usize * size_of::<types::BufRingEntry>())
}

fn memory_layout(count: u16, len: usize) -> Layout {
    pages(count as usize * len)
}

fn pages(len: usize) -> Layout {
    match Layout::from_size_align(len, PAGE) {
        Ok(layout) => layout,
        Err(_) => unreachable!("sizes are bounded by u16 times a buffer"),
    }
}

fn zeroed_pages(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout's size is not zero, as count and length are not.
    match NonNull::new(unsafe { alloc_zeroed(layout) }) {
        Some(memory) => memory,
        None => std::alloc::handle_alloc_error(layout),
    }
}

const PAGE: usize = 4096;
const GROUP: u16 = 0;
const ENTER_GETEVENTS: u32 = 1;
const ACCEPT: u64 = 1;
const RECV: u64 = 2;
const SEND: u64 = 3;
