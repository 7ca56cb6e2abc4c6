//! The reactor over a real ring.
//!
//! Every operation in flight is counted in the place it belongs to, and a place is freed only at a
//! count of zero; whatever an operation points to lives in that place until then. That is the whole
//! memory argument: a completion always finds the owner of its memory, and never a successor.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use bytes::Bytes;
use io_uring::types::{Fd, FsyncFlags, TimeoutFlags, Timespec};
use io_uring::{cqueue, opcode, squeue};

use crate::arena::{Arena, Chunk};
use crate::bufs::{BufferRing, Buffers, Region};
use crate::caps::{Choice, Features, Level, Refusal, RefusalReason, RingConfig, SetupError};
use crate::net::{self, Address};
use crate::reactor::{
    DIRECT_UNIT, End, Endpoint, Event, FileId, GATHER_MAX, Lease, Nanos, OpenHow, Outgoing,
    Reactor, SocketId, TimerId, Usage, Wait,
};
use crate::ring::{BUFFER_GROUP, Completion, ENTRIES_MIN, Entered, Ring};
use crate::slots::{Op, Slots, Token};
use crate::sys;
use crate::timers::Timers;
use crate::trial;
use crate::wake::KernelWaker;

/// One core's ring. Made, used and dropped on one thread.
pub struct KernelReactor {
    ring: Ring,
    choice: Choice,
    features: Features,
    buffers: Buffers,
    sockets: Slots<Socket>,
    files: Slots<OpenFile>,
    operations: Slots<FileOperation>,
    /// For writes past the page cache, not in use.
    aligned: Vec<Region>,
    arena: Option<Arc<Arena>>,
    is_arena_registered: bool,
    lent: Slots<Lent>,
    timers: Timers<Due>,
    waker: KernelWaker,
    /// Where the armed read of the waker puts its count.
    wake_count: Box<u64>,
    is_wake_armed: bool,
    timeouts: Timeouts,
    /// Sockets whose receive ended for want of a buffer, longest waiting first.
    starved: VecDeque<Token>,
    /// Closed sockets with nothing in flight; freed in the next turn, so that `Closed` comes before
    /// anything of the place's next owner.
    ended: Vec<Token>,
    /// Sockets that are being handed out.
    leaving: usize,
    /// Events that arose outside a turn.
    pending: Vec<Event>,
    /// Spare headers for gather sends.
    #[expect(
        clippy::vec_box,
        reason = "the kernel knows the header's address while it is in use"
    )]
    messages: Vec<Box<Message>>,
    batch: Vec<Completion>,
    counters: Counters,
    /// While the self-test runs nothing else is armed.
    is_trial: bool,
    drain_span: Nanos,
    /// The kernel ties a ring of the best level to the thread that made it.
    not_send: PhantomData<*const ()>,
}

/// What a reactor counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Calls of `turn`.
    pub turns: u64,
    /// Completions taken.
    pub completions: u64,
    /// Receives armed or armed again.
    pub receives_armed: u64,
    /// Receives that ended because no buffer was free.
    pub receives_starved: u64,
    /// Sends that the kernel ended short and that were continued.
    pub sends_short: u64,
    /// Accepts that failed and paused their listener.
    pub accepts_failed: u64,
    /// Turns in which the completion queue had overflowed: a sizing bug.
    pub overflows: u64,
    /// Turns in which the kernel took no entries before completions were taken.
    pub busy: u64,
}

struct Socket {
    fd: OwnedFd,
    role: Role,
    /// What receives: nothing, a receive, or the poll before it.
    receiving: Receiving,
    wants_data: bool,
    /// On the list of starved sockets.
    is_starved: bool,
    /// No more data will come.
    has_ended: bool,
    is_closing: bool,
    /// To be handed out once nothing is in flight.
    is_leaving: bool,
    finish_after_send: bool,
    /// Operations whose last completion is still to come, cancels not counted.
    in_flight: u8,
    /// The buffer that a receive without a shared ring fills.
    held: Option<u32>,
    sending: Option<Sending>,
    /// The other end, until the connect is over.
    address: Option<Box<Address>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Other processes may have one that was adopted.
    Listener {
        is_tcp: bool,
        is_adopted: bool,
    },
    Connecting,
    Stream,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Idle,
    Armed(Op),
    Cancelling(Op),
}

struct Sending {
    outgoing: Outgoing,
    done: usize,
    total: usize,
    /// Bytes of the operation in flight.
    asked: usize,
    message: Option<Box<Message>>,
    /// What it has lent, if it is a send in place.
    lent: Option<Token>,
    /// The kernel has refused to send it in place.
    is_refused: bool,
}

/// What the kernel reads of a send in place, also when the send is over and its socket gone.
struct Lent {
    socket: Token,
    /// Held, not looked at.
    _pieces: Vec<Bytes>,
    /// Operations whose last completion is still to come.
    waiting: u32,
    is_sent: bool,
    /// What the notifications said so far.
    usage: Option<Usage>,
}

/// What a gather send points to.
struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; GATHER_MAX],
}

struct OpenFile {
    fd: OwnedFd,
    /// The same file past the page cache.
    direct: Option<OwnedFd>,
    is_folder: bool,
    in_flight: u32,
    is_closing: bool,
}

struct FileOperation {
    /// `NOBODY` for work on names.
    file: Token,
    mark: u64,
    work: Work,
    offset: u64,
    done: usize,
    /// What is on its way past the page cache lies here.
    aligned: Option<Region>,
}

enum Work {
    Write { block: Bytes, is_durable: bool },
    Sync,
    Reserve { len: u64 },
    Rename { from: CString, to: CString },
    Remove { path: CString },
}

enum Due {
    Caller(u64),
    Accept(Token),
}

/// Armed timeouts, for kernels whose `enter` takes none.
struct Timeouts {
    /// Read by the kernel when it takes the entry; several, because an entry may wait for room.
    specs: Box<[Timespec; TIMEOUT_SPECS]>,
    count: u32,
    armed: Option<(u32, Nanos)>,
}

impl KernelReactor {
    /// Makes the ring, its buffers and its waker, at the best level that passes a trial over loopback
    /// (or at the forced level). Allocates; a few milliseconds.
    ///
    /// # Errors
    /// A [`SetupError`] inside, whose text says reason and remedy; or what making the waker said.
    pub fn new(config: RingConfig) -> io::Result<KernelReactor> {
        let mut refused = Vec::new();
        for level in Level::ALL {
            if config.level.is_some_and(|forced| forced != level) {
                continue;
            }
            match KernelReactor::at_level(level, &config)? {
                Ok(mut reactor) => {
                    reactor.choice.refused = refused;
                    return Ok(reactor);
                }
                Err(reason) => refused.push(Refusal { level, reason }),
            }
        }
        let Some(last) = refused.pop() else {
            return Err(SetupError::Missing.into());
        };
        Err(match (config.level, last.reason) {
            (_, RefusalReason::Setup(libc::ENOMEM)) => {
                SetupError::Memlock(crate::doctor::memlock_limit())
            }
            (Some(level), reason) => SetupError::LevelUnavailable(level, reason),
            (None, reason) => SetupError::NoLevel(reason),
        }
        .into())
    }

    /// Makes a reactor at one level, with smaller queues while the memlock limit has no room for the
    /// buffer ring beside them.
    fn at_level(
        level: Level,
        config: &RingConfig,
    ) -> io::Result<Result<KernelReactor, RefusalReason>> {
        let mut config = config.clone();
        loop {
            match KernelReactor::at_size(level, &config)? {
                Err(RefusalReason::BufferRing(libc::ENOMEM)) if config.sq_entries > ENTRIES_MIN => {
                    config.sq_entries /= 2;
                    config.cq_entries /= 2;
                }
                other => return Ok(other),
            }
        }
    }

    fn at_size(
        level: Level,
        config: &RingConfig,
    ) -> io::Result<Result<KernelReactor, RefusalReason>> {
        let mut ring = match Ring::new(
            level,
            (config.sq_entries, config.cq_entries),
            config.use_5_11,
        ) {
            Ok(ring) => ring,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOSYS) => return Err(SetupError::Missing.into()),
                Some(libc::EPERM | libc::EACCES) => {
                    return Err(SetupError::Forbidden(crate::doctor::uring_disabled()).into());
                }
                errno => return Ok(Err(RefusalReason::Setup(errno.unwrap_or(libc::EINVAL)))),
            },
        };
        if level == Level::Full && !ring.features().recv_multishot {
            return Ok(Err(RefusalReason::NoMultishotReceive));
        }
        let count = u32::from(config.recv_buffers.clamp(1, BUFFERS_MAX));
        let reserve = u32::from(config.recv_reserve).min(u32::from(BUFFERS_MAX) - count);
        let mut buffers = Buffers::new(count, reserve, config.recv_buffer_len.max(BUFFER_LEN_MIN))?;
        if level != Level::Basic {
            let shared = BufferRing::new(((count + reserve) as u16).next_power_of_two())?;
            // SAFETY: `shared` moves into `buffers`, which the reactor drops after it unregistered the
            // ring, or leaks. Its mapping does not move.
            if let Err(error) = unsafe { ring.register_buffer_ring(&shared) } {
                return Ok(Err(RefusalReason::BufferRing(
                    error.raw_os_error().unwrap_or(0),
                )));
            }
            buffers.attach(shared);
        }
        let features = ring.features();
        let mut reactor = KernelReactor {
            ring,
            choice: Choice {
                level,
                features,
                refused: Vec::new(),
            },
            features,
            buffers,
            sockets: Slots::default(),
            files: Slots::default(),
            operations: Slots::default(),
            aligned: Vec::new(),
            arena: None,
            is_arena_registered: false,
            lent: Slots::default(),
            timers: Timers::default(),
            waker: KernelWaker::new()?,
            wake_count: Box::new(0),
            is_wake_armed: false,
            timeouts: Timeouts {
                specs: Box::new([Timespec::new(); TIMEOUT_SPECS]),
                count: 0,
                armed: None,
            },
            starved: VecDeque::new(),
            ended: Vec::new(),
            leaving: 0,
            pending: Vec::new(),
            messages: Vec::new(),
            batch: vec![Completion::default(); BATCH],
            counters: Counters::default(),
            is_trial: true,
            drain_span: config.drain_span,
            not_send: PhantomData,
        };
        if config.self_test
            && let Err(step) = trial::run(&mut reactor)
        {
            return Ok(Err(RefusalReason::SelfTest(step)));
        }
        reactor.is_trial = false;
        reactor.counters = Counters::default();
        Ok(Ok(reactor))
    }

    /// The level in use, what the ring has, and why no better level was taken.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // ---- What a turn does before and after it enters the kernel.

    fn before_enter(&mut self) {
        if !self.is_wake_armed && !self.is_trial {
            self.arm_wake();
        }
        if !self.starved.is_empty() {
            self.rearm_starved();
        }
        self.buffers.publish();
    }

    /// Arms starved receives again, at most one per free buffer, so that a dry ring is not asked
    /// over and over.
    #[cold]
    fn rearm_starved(&mut self) {
        let count = self
            .buffers
            .free()
            .min(REARM_MAX)
            .min(self.starved.len() as u32);
        for _ in 0..count {
            let Some(token) = self.starved.pop_front() else {
                return;
            };
            let Some(socket) = self.sockets.get_mut(token) else {
                continue;
            };
            socket.is_starved = false;
            self.arm_receive(token);
        }
    }

    /// How long the kernel may sleep: `None` not at all, otherwise an optional span.
    fn sleep_span(&mut self, wait: Wait) -> Option<Option<Nanos>> {
        let has_work = wait == Wait::Look
            || !self.pending.is_empty()
            || !self.ended.is_empty()
            || (!self.starved.is_empty() && self.buffers.free() > 0)
            || self.ring.has_completions();
        if has_work {
            return None;
        }
        let until = match wait {
            Wait::Until(at) => Some(at),
            Wait::Look | Wait::Event => None,
        };
        let deadline = match (until, self.timers.next_at()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let Some(deadline) = deadline else {
            return Some(None);
        };
        let now = self.now();
        if deadline <= now {
            return None;
        }
        if !self.features.ext_arg {
            self.arm_timeout(now, deadline);
        }
        Some(Some(deadline - now))
    }

    fn reap(&mut self, room: usize, events: &mut Vec<Event>) {
        let mut batch = std::mem::take(&mut self.batch);
        while events.len() < room {
            let count = self.ring.reap(&mut batch);
            for completion in &batch[..count] {
                self.on_completion(*completion, events);
            }
            self.counters.completions += count as u64;
            if count < batch.len() {
                break;
            }
        }
        self.batch = batch;
    }

    fn fire_timers(&mut self, room: usize, events: &mut Vec<Event>) {
        if self.timers.next_at().is_none() {
            return;
        }
        let now = self.now();
        while events.len() < room
            && let Some((timer, due)) = self.timers.pop_due(now)
        {
            match due {
                Due::Caller(mark) => events.push(Event::Timer { timer, mark }),
                Due::Accept(token) => self.arm_accept(token),
            }
        }
    }

    #[inline]
    fn on_completion(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Completion {
            mark,
            result,
            flags,
        } = completion;
        let Some((op, token)) = Token::from_mark(mark) else {
            debug_assert!(false, "a completion of an operation that was never queued");
            return;
        };
        match op {
            Op::Recv => {
                self.on_receive(token, result, flags, events);
                self.finish_leaving(token, events);
            }
            Op::Send => self.on_send(token, result, events),
            Op::Lend => self.on_lent(token, result, flags, events),
            Op::Poll => {
                self.on_poll(token, result, events);
                self.finish_leaving(token, events);
            }
            Op::Accept => self.on_accept(token, result, flags, events),
            Op::Connect => self.on_connect(token, result, events),
            Op::File => self.on_file(token, result, events),
            Op::Wake => {
                self.is_wake_armed = false;
                events.push(Event::Woken);
            }
            Op::Timeout => {
                if self
                    .timeouts
                    .armed
                    .is_some_and(|(count, _)| count == token.index)
                {
                    self.timeouts.armed = None;
                }
            }
            // The state machines advance on the target's completion. Only a target that could not be
            // cancelled just now needs another try.
            Op::Cancel => {
                if result == -libc::EALREADY {
                    self.cancel_again(token);
                }
            }
        }
    }

    // ---- Receiving.

    fn arm_receive(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let is_ready = socket.receiving == Receiving::Idle && socket.role == Role::Stream;
        if !is_ready
            || !socket.wants_data
            || socket.has_ended
            || socket.is_closing
            || socket.is_starved
        {
            return;
        }
        let fd = Fd(socket.fd.as_raw_fd());
        let (op, entry) = if self.buffers.has_ring() {
            (
                Op::Recv,
                shared_receive(fd, self.features.recv_multishot, self.buffers.buffer_len()),
            )
        } else if self.buffers.is_plentiful()
            && let Some((buffer, start)) = self.buffers.take()
        {
            socket.held = Some(buffer);
            (
                Op::Recv,
                opcode::Recv::new(fd, start, self.buffers.buffer_len()).build(),
            )
        } else {
            (
                Op::Poll,
                opcode::PollAdd::new(fd, (libc::POLLIN | libc::POLLRDHUP) as u32).build(),
            )
        };
        socket.receiving = Receiving::Armed(op);
        socket.in_flight += 1;
        self.counters.receives_armed += 1;
        // SAFETY: the entry points to nothing, or to the held buffer, which stays in the region of
        // `buffers` and is offered to nobody until this receive's completion.
        unsafe { self.ring.push(entry.user_data(token.mark(op))) };
    }

    #[inline]
    fn on_receive(&mut self, token: Token, result: i32, flags: u32, events: &mut Vec<Event>) {
        let is_last = !cqueue::more(flags);
        let picked = cqueue::buffer_select(flags).map(u32::from);
        if picked.is_some() {
            self.buffers.picked();
        }
        let Some(socket) = self.sockets.get_mut(token) else {
            debug_assert!(false, "a place is freed only after its last completion");
            if let Some(buffer) = picked {
                self.buffers.unused(buffer);
            }
            return;
        };
        let buffer = picked.or(socket.held.take());
        if is_last {
            socket.receiving = Receiving::Idle;
            socket.in_flight -= 1;
        }
        if result > 0
            && !socket.is_closing
            && let Some(buffer) = buffer
        {
            self.buffers.lease(buffer, result as u32);
            let lease = Lease {
                buffer,
                len: result as u32,
            };
            events.push(Event::Received {
                socket: token.into(),
                lease,
            });
            if is_last {
                self.arm_receive(token);
            }
            return;
        }
        if let Some(buffer) = buffer {
            self.buffers.unused(buffer);
        }
        self.on_receive_end(token, result, is_last, events);
    }

    fn on_receive_end(
        &mut self,
        token: Token,
        result: i32,
        is_last: bool,
        events: &mut Vec<Event>,
    ) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if socket.is_closing {
            self.finish_close(token, events);
            return;
        }
        match -result {
            // Whatever the flags say, no bytes mean the end. (A positive result here had no buffer,
            // which no kernel does.)
            0 => self.end_receiving(token, End::Eof, events),
            libc::ENOBUFS => {
                self.counters.receives_starved += 1;
                self.starve(token);
            }
            // Stopped by us, perhaps started again meanwhile; or nothing was there after all.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                if is_last {
                    self.arm_receive(token);
                }
            }
            errno if errno > 0 => self.end_receiving(token, End::Failed(errno), events),
            _ => self.arm_receive(token),
        }
    }

    fn end_receiving(&mut self, token: Token, end: End, events: &mut Vec<Event>) {
        if let Some(socket) = self.sockets.get_mut(token)
            && !socket.has_ended
        {
            socket.has_ended = true;
            events.push(Event::ReceiveEnded {
                socket: token.into(),
                end,
            });
        }
    }

    #[cold]
    fn starve(&mut self, token: Token) {
        self.buffers.add_reserve();
        if let Some(socket) = self.sockets.get_mut(token)
            && !socket.is_starved
        {
            socket.is_starved = true;
            self.starved.push_back(token);
        }
    }

    /// Data may be there: lend a buffer for one receive.
    fn on_poll(&mut self, token: Token, result: i32, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        socket.receiving = Receiving::Idle;
        socket.in_flight -= 1;
        if socket.is_closing || result < 0 {
            self.on_receive_end(token, result, true, events);
            return;
        }
        if !socket.wants_data {
            return;
        }
        let Some((buffer, start)) = self.buffers.take() else {
            self.counters.receives_starved += 1;
            self.starve(token);
            return;
        };
        socket.held = Some(buffer);
        socket.receiving = Receiving::Armed(Op::Recv);
        socket.in_flight += 1;
        let fd = Fd(socket.fd.as_raw_fd());
        // Not waiting here: if nothing is there after all, the buffer must come back.
        let entry =
            opcode::Recv::new(fd, start, self.buffers.buffer_len()).flags(libc::MSG_DONTWAIT);
        // SAFETY: the entry points to the held buffer, which stays in the region of `buffers` and is
        // offered to nobody until this receive's completion.
        unsafe {
            self.ring
                .push(entry.build().user_data(token.mark(Op::Recv)))
        };
    }

    // ---- Sending.

    fn arm_send(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let Some(sending) = &mut socket.sending else {
            return;
        };
        let fd = Fd(socket.fd.as_raw_fd());
        let entry = match &sending.outgoing {
            Outgoing::Block(block) => {
                let rest = &block[sending.done..];
                sending.asked = rest.len().min(TRANSFER_MAX);
                opcode::Send::new(fd, rest.as_ptr(), sending.asked as u32)
                    .flags(SEND_FLAGS)
                    .build()
            }
            Outgoing::Gather(pieces) => {
                if let Some(lent) = sending.lent.filter(|_| !sending.is_refused) {
                    return self.arm_lent(token, lent);
                }
                let message = sending
                    .message
                    .get_or_insert_with(|| self.messages.pop().unwrap_or_else(Message::new));
                sending.asked = message.fill(pieces, sending.done);
                opcode::SendMsg::new(fd, &raw const message.header)
                    .flags(SEND_FLAGS as u32)
                    .build()
            }
        };
        socket.in_flight += 1;
        // SAFETY: block, pieces and message are heap memory owned by the socket's place, which is
        // neither changed nor freed before this send's completion: `sending` is only taken there, and
        // a place is removed only with nothing in flight.
        unsafe { self.ring.push(entry.user_data(token.mark(Op::Send))) };
    }

    /// The next operation of a send in place: a piece that is registered alone, others together.
    fn arm_lent(&mut self, token: Token, lent: Token) {
        let (Some(socket), Some(lease)) = (self.sockets.get_mut(token), self.lent.get_mut(lent))
        else {
            return;
        };
        let Some(sending) = &mut socket.sending else {
            return;
        };
        let Outgoing::Gather(pieces) = &sending.outgoing else {
            return;
        };
        let fd = Fd(socket.fd.as_raw_fd());
        let arena = self.arena.as_ref().filter(|_| self.is_arena_registered);
        let number = |piece: &Bytes| arena.and_then(|arena| arena.number_of(piece));
        let (mut first, mut skip) = (0, sending.done);
        while skip >= pieces[first].len() {
            skip -= pieces[first].len();
            first += 1;
        }
        let entry = match number(&pieces[first]) {
            Some(number) => {
                let rest = &pieces[first][skip..];
                sending.asked = rest.len();
                opcode::SendZc::new(fd, rest.as_ptr(), rest.len() as u32)
                    .buf_index(Some(number))
                    .flags(SEND_FLAGS)
                    .zc_flags(REPORT_USAGE)
                    .build()
            }
            None => {
                let others = pieces[first..]
                    .iter()
                    .take_while(|piece| number(piece).is_none());
                let end = first + others.count();
                let message = sending
                    .message
                    .get_or_insert_with(|| self.messages.pop().unwrap_or_else(Message::new));
                sending.asked = message.fill(&pieces[first..end], skip);
                opcode::SendMsgZc::new(fd, &raw const message.header)
                    .flags(SEND_FLAGS as u32)
                    .ioprio(REPORT_USAGE)
                    .build()
            }
        };
        socket.in_flight += 1;
        lease.waiting += 1;
        // SAFETY: the message is owned by the socket's place as in a plain send, and read no more after
        // the send's own completion. The pieces are owned by the place in `lent`, which is removed after
        // the last completion of every operation, the notification that nothing reads them any more.
        unsafe { self.ring.push(entry.user_data(lent.mark(Op::Lend))) };
    }

    /// A completion of a send in place: the end of an operation, or that its memory is not read any more.
    fn on_lent(&mut self, token: Token, result: i32, flags: u32, events: &mut Vec<Event>) {
        let Some(lent) = self.lent.get_mut(token) else {
            debug_assert!(false, "a place is freed only after its last completion");
            return;
        };
        if !cqueue::more(flags) {
            lent.waiting -= 1;
        }
        if cqueue::notif(flags) {
            let is_copied = result as u32 & USAGE_COPIED != 0;
            lent.usage = Some(match lent.usage {
                Some(known @ (Usage::Copied | Usage::Refused)) => known,
                _ if is_copied => Usage::Copied,
                _ => Usage::InPlace,
            });
        } else {
            let socket = lent.socket;
            self.on_send(socket, result, events);
        }
        self.release(token, events);
    }

    /// Lets go of what a send in place has lent once nothing reads it.
    fn release(&mut self, token: Token, events: &mut Vec<Event>) {
        let is_over = |lent: &Lent| lent.is_sent && lent.waiting == 0;
        if !self.lent.get(token).is_some_and(is_over) {
            return;
        }
        let Some(lent) = self.lent.remove(token) else {
            return;
        };
        let socket = self.sockets.get(lent.socket);
        if socket.is_some_and(|socket| !socket.is_closing) {
            events.push(Event::Released {
                socket: lent.socket.into(),
                usage: lent.usage.unwrap_or(Usage::Refused),
            });
        }
    }

    #[inline]
    fn on_send(&mut self, token: Token, result: i32, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(token) else {
            debug_assert!(false, "a place is freed only after its last completion");
            return;
        };
        socket.in_flight -= 1;
        let Some(sending) = &mut socket.sending else {
            debug_assert!(false, "a send in flight has its memory here");
            return;
        };
        let outcome = if result > 0 {
            sending.done += result as usize;
            Ok(())
        } else {
            match -result {
                // A send of something that takes nothing would be tried for ever.
                0 => Err(libc::EPIPE),
                libc::EINTR | libc::EAGAIN => Ok(()),
                // This kernel, or this kind of socket, sends nothing in place, or the memlock limit has no
                // room.
                libc::EINVAL | libc::EOPNOTSUPP | libc::ENOMEM
                    if sending.lent.is_some() && !sending.is_refused =>
                {
                    sending.is_refused = true;
                    Ok(())
                }
                errno => Err(errno),
            }
        };
        let is_over = outcome.is_err() || sending.done >= sending.total || socket.is_closing;
        if !is_over {
            self.counters.sends_short += u64::from(result.max(0) as usize != sending.asked);
            self.arm_send(token);
            return;
        }
        let finish = std::mem::take(&mut socket.finish_after_send);
        let (fd, is_closing) = (socket.fd.as_raw_fd(), socket.is_closing);
        let Some(sending) = socket.sending.take() else {
            return;
        };
        if let Some(message) = sending.message {
            self.messages.push(message);
        }
        if !is_closing {
            events.push(Event::Sent {
                socket: token.into(),
                outgoing: sending.outgoing,
                result: outcome,
            });
        }
        if let Some(lent) = sending.lent {
            self.end_lent(lent, sending.is_refused, events);
        }
        if is_closing {
            self.finish_close(token, events);
        } else if finish {
            net::shutdown(fd, libc::SHUT_WR);
        }
        self.finish_leaving(token, events);
    }

    /// The send is over; what it lent may be read still.
    fn end_lent(&mut self, token: Token, is_refused: bool, events: &mut Vec<Event>) {
        if let Some(lent) = self.lent.get_mut(token) {
            lent.is_sent = true;
            if is_refused {
                lent.usage = Some(Usage::Refused);
            }
        }
        self.release(token, events);
    }

    // ---- Accepting and connecting.

    fn arm_accept(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if socket.is_closing || socket.in_flight > 0 {
            return;
        }
        let fd = Fd(socket.fd.as_raw_fd());
        let entry = if self.features.accept_multishot {
            opcode::AcceptMulti::new(fd)
                .flags(libc::SOCK_CLOEXEC)
                .build()
        } else {
            opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build()
        };
        socket.in_flight += 1;
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(entry.user_data(token.mark(Op::Accept))) };
    }

    fn on_accept(&mut self, token: Token, result: i32, flags: u32, events: &mut Vec<Event>) {
        // SAFETY: a non-negative result of an accept is a new descriptor that nobody else owns.
        let accepted = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let Some(listener) = self.sockets.get_mut(token) else {
            debug_assert!(false, "a place is freed only after its last completion");
            return;
        };
        let is_last = !cqueue::more(flags);
        if is_last {
            listener.in_flight -= 1;
        }
        let (is_tcp, is_adopted) = match listener.role {
            Role::Listener { is_tcp, is_adopted } => (is_tcp, is_adopted),
            Role::Connecting | Role::Stream => (false, false),
        };
        let is_closing = listener.is_closing;
        // Who was taken from a listener that others go on with would be lost.
        if is_closing && (accepted.is_none() || !is_adopted) {
            self.finish_close(token, events);
            return;
        }
        if let Some(fd) = accepted {
            let peer = if is_tcp {
                net::peer_addr(fd.as_raw_fd())
            } else {
                None
            };
            let socket = self.sockets.insert(Socket::new(fd, Role::Stream));
            events.push(Event::Accepted {
                listener: token.into(),
                socket: socket.into(),
                peer,
            });
        } else {
            let is_passing = [
                libc::ECANCELED,
                libc::ECONNABORTED,
                libc::EINTR,
                libc::EAGAIN,
            ]
            .contains(&-result);
            if !is_passing {
                self.counters.accepts_failed += 1;
                events.push(Event::AcceptFailed {
                    listener: token.into(),
                    errno: -result,
                });
                if is_last {
                    let again = self.now() + ACCEPT_PAUSE;
                    self.timers.set(again, Due::Accept(token));
                }
                return;
            }
        }
        if is_closing {
            self.finish_close(token, events);
        } else if is_last {
            self.arm_accept(token);
        }
    }

    fn on_connect(&mut self, token: Token, result: i32, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        socket.in_flight -= 1;
        socket.address = None;
        if socket.is_closing {
            self.finish_close(token, events);
            return;
        }
        let result = if result < 0 { Err(-result) } else { Ok(()) };
        events.push(Event::Connected {
            socket: token.into(),
            result,
        });
        if result.is_ok() {
            socket.role = Role::Stream;
            self.arm_receive(token);
        } else {
            socket.has_ended = true;
        }
    }

    // ---- Closing.

    fn cancel(&mut self, token: Token, op: Op) {
        self.cancel_mark(token, token.mark(op));
    }

    fn cancel_mark(&mut self, token: Token, mark: u64) {
        let entry = opcode::AsyncCancel::new(mark).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(entry.user_data(token.mark(Op::Cancel))) };
    }

    /// Cancels whatever of a socket may wait for the other side.
    fn cancel_all(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let role = socket.role;
        let send = socket.sending.as_ref().map(|sending| match sending.lent {
            Some(lent) if !sending.is_refused => lent.mark(Op::Lend),
            _ => token.mark(Op::Send),
        });
        if let Receiving::Armed(op) | Receiving::Cancelling(op) = socket.receiving {
            socket.receiving = Receiving::Cancelling(op);
            self.cancel(token, op);
        }
        if let Some(mark) = send {
            self.cancel_mark(token, mark);
        }
        match role {
            Role::Listener { .. } => self.cancel(token, Op::Accept),
            Role::Connecting => self.cancel(token, Op::Connect),
            Role::Stream => {}
        }
    }

    /// A cancel came while its target ran; a closing or stopping socket asks again.
    fn cancel_again(&mut self, token: Token) {
        let Some(socket) = self.sockets.get(token) else {
            return;
        };
        if socket.is_closing && socket.in_flight > 0 {
            self.cancel_all(token);
        } else if let Receiving::Cancelling(op) = socket.receiving {
            self.cancel(token, op);
        }
    }

    /// Frees the place of a closing socket once nothing is in flight.
    fn finish_close(&mut self, token: Token, events: &mut Vec<Event>) {
        if self
            .sockets
            .get(token)
            .is_some_and(|socket| socket.in_flight == 0)
        {
            // Closes the descriptor.
            let ended = self.sockets.remove(token);
            self.leaving -= usize::from(ended.is_some_and(|socket| socket.is_leaving));
            events.push(Event::Closed {
                socket: token.into(),
            });
        }
    }

    /// Gives the descriptor of a leaving socket away once nothing is in flight.
    #[inline]
    fn finish_leaving(&mut self, token: Token, events: &mut Vec<Event>) {
        if self.leaving == 0 {
            return;
        }
        let is_over =
            |socket: &Socket| socket.is_leaving && !socket.is_closing && socket.in_flight == 0;
        if self.sockets.get(token).is_some_and(is_over)
            && let Some(Socket { fd, .. }) = self.sockets.remove(token)
        {
            self.leaving -= 1;
            events.push(Event::HandedOut {
                socket: token.into(),
                fd,
            });
        }
    }

    // ---- Files.

    fn keep_file(&mut self, file: std::fs::File, direct: Option<std::fs::File>) -> FileId {
        let open = OpenFile {
            fd: file.into(),
            direct: direct.map(OwnedFd::from),
            is_folder: false,
            in_flight: 0,
            is_closing: false,
        };
        self.files.insert(open).into()
    }

    fn start_file(&mut self, file: FileId, mark: u64, work: Work, offset: u64) {
        let operation = FileOperation {
            file: file.into(),
            mark,
            work,
            offset,
            done: 0,
            aligned: None,
        };
        if let Err(errno) = self.count_file(operation.file) {
            self.pending.push(operation.event(Err(errno)));
            return;
        }
        let operation = self.operations.insert(operation);
        self.arm_file(operation);
    }

    /// Work on names, which belongs to no file.
    fn start_name(&mut self, mark: u64, work: Work) {
        let operation = self.operations.insert(FileOperation {
            file: NOBODY,
            mark,
            work,
            offset: 0,
            done: 0,
            aligned: None,
        });
        self.arm_file(operation);
    }

    /// What was done within the call, as the event that the ring would have brought.
    fn done_at_once(&mut self, mark: u64, result: io::Result<()>) {
        let result = result.map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL));
        self.pending.push(Event::Done { mark, result });
    }

    /// Counts an operation in flight on its file.
    fn count_file(&mut self, file: Token) -> Result<(), i32> {
        let open = self
            .files
            .get_mut(file)
            .filter(|open| !open.is_closing)
            .ok_or(libc::EBADF)?;
        open.in_flight += 1;
        Ok(())
    }

    fn arm_file(&mut self, token: Token) {
        let Some(operation) = self.operations.get_mut(token) else {
            return;
        };
        let open = self.files.get(operation.file);
        let fd = Fd(open.map_or(libc::AT_FDCWD, |open| open.fd.as_raw_fd()));
        let offset = operation.offset + operation.done as u64;
        let direct = open.and_then(|open| open.direct.as_ref());
        let entry = match &operation.work {
            Work::Write { block, is_durable } => {
                let rest = &block[operation.done..];
                let is_whole = |n: u64| n.is_multiple_of(DIRECT_UNIT as u64);
                let fits = is_whole(offset) && is_whole(rest.len() as u64) && !rest.is_empty();
                let direct = direct.filter(|_| fits);
                if direct.is_none() {
                    self.aligned.extend(operation.aligned.take());
                } else if operation.aligned.is_none() {
                    let kept = self.aligned.pop();
                    operation.aligned = kept.or_else(|| Region::new(ALIGNED_LEN).ok());
                }
                let (fd, from, len) = match (direct, &operation.aligned) {
                    (Some(direct), Some(region)) => {
                        let (from, len) = (region.at(0), rest.len().min(ALIGNED_LEN));
                        // SAFETY: the region is that long, ours, and nothing in flight reads it.
                        unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), from, len) };
                        (Fd(direct.as_raw_fd()), from.cast_const(), len as u32)
                    }
                    _ => (fd, rest.as_ptr(), rest.len().min(TRANSFER_MAX) as u32),
                };
                // One write that waits for the disk takes no longer and less CPU than a write and an
                // fdatasync linked to it (perf/record/vm/2026-11-21T20-45-27-disk.csv, up to 4 KiB), and
                // no full ring can tear a link apart.
                let rw_flags = if *is_durable { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(fd, from, len)
                    .offset(offset)
                    .rw_flags(rw_flags)
                    .build()
            }
            Work::Sync => {
                // What fdatasync leaves out may be just what a folder's names need.
                let flags = if open.is_some_and(|open| open.is_folder) {
                    FsyncFlags::empty()
                } else {
                    FsyncFlags::DATASYNC
                };
                opcode::Fsync::new(fd).flags(flags).build()
            }
            Work::Reserve { len } => opcode::Fallocate::new(fd, *len).build(),
            Work::Rename { from, to } => {
                opcode::RenameAt::new(fd, from.as_ptr(), fd, to.as_ptr()).build()
            }
            Work::Remove { path } => opcode::UnlinkAt::new(fd, path.as_ptr()).build(),
        };
        // SAFETY: a block, path or aligned copy is memory owned by the operation and freed only after
        // this completion.
        unsafe { self.ring.push(entry.user_data(token.mark(Op::File))) };
    }

    fn on_file(&mut self, token: Token, result: i32, events: &mut Vec<Event>) {
        let Some(operation) = self.operations.get_mut(token) else {
            debug_assert!(false, "a place is freed only after its last completion");
            return;
        };
        let left = operation.work.len() - operation.done;
        let outcome = match (-result, &operation.work) {
            (libc::EINTR | libc::EAGAIN, _) => Ok(()),
            // This file system wants it some other way.
            (libc::EINVAL, Work::Write { .. }) if operation.aligned.is_some() => {
                if let Some(open) = self.files.get_mut(operation.file) {
                    open.direct = None;
                }
                Ok(())
            }
            (errno, Work::Reserve { .. }) if cannot_reserve(errno) => Ok(()),
            (errno, _) if errno > 0 => Err(errno),
            // The disk takes nothing and says no reason: do not ask for ever.
            (0, _) if left > 0 => Err(libc::EIO),
            _ => {
                operation.done += (result.max(0) as usize).min(left);
                Ok(())
            }
        };
        let is_interrupted = [libc::EINTR, libc::EAGAIN].contains(&-result);
        if is_interrupted || (outcome.is_ok() && operation.done < operation.work.len()) {
            self.arm_file(token);
            return;
        }
        let Some(mut operation) = self.operations.remove(token) else {
            return;
        };
        if self.aligned.len() < ALIGNED_KEPT {
            self.aligned.extend(operation.aligned.take());
        }
        if let Some(open) = self.files.get_mut(operation.file) {
            open.in_flight -= 1;
            if open.is_closing && open.in_flight == 0 {
                self.files.remove(operation.file);
            }
        }
        events.push(operation.event(outcome));
    }

    // ---- Waker and timeout.

    fn arm_wake(&mut self) {
        let fd = Fd(self.waker.as_raw_fd());
        let entry = opcode::Read::new(fd, (&raw mut *self.wake_count).cast(), WAKE_LEN).build();
        self.is_wake_armed = true;
        // SAFETY: the count is boxed, so it does not move, and the reactor frees it only after
        // draining; nobody reads it.
        unsafe { self.ring.push(entry.user_data(NOBODY.mark(Op::Wake))) };
    }

    fn arm_timeout(&mut self, now: Nanos, deadline: Nanos) {
        if let Some((count, at)) = self.timeouts.armed {
            if at <= deadline {
                return;
            }
            self.remove_timeout(count);
        }
        self.timeouts.count = self.timeouts.count.wrapping_add(1);
        let count = self.timeouts.count;
        let span = deadline - now;
        let spec = &mut self.timeouts.specs[count as usize % TIMEOUT_SPECS];
        *spec = Timespec::new()
            .sec(span / 1_000_000_000)
            .nsec((span % 1_000_000_000) as u32);
        let entry = opcode::Timeout::new(&raw const *spec)
            .flags(TimeoutFlags::empty())
            .build();
        self.timeouts.armed = Some((count, deadline));
        let token = Token {
            index: count,
            generation: 0,
        };
        // SAFETY: the spec is boxed and lives as long as the reactor; the kernel reads it when it
        // takes the entry, long before the place comes round again.
        unsafe { self.ring.push(entry.user_data(token.mark(Op::Timeout))) };
    }

    fn remove_timeout(&mut self, count: u32) {
        let token = Token {
            index: count,
            generation: 0,
        };
        let entry = opcode::TimeoutRemove::new(token.mark(Op::Timeout)).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(entry.user_data(NOBODY.mark(Op::Cancel))) };
    }

    // ---- Ending.

    /// Ends everything in flight and waits for it. True if the kernel let go of all our memory.
    fn drain(&mut self) -> bool {
        let sockets: Vec<Token> = self.sockets.iter().map(|(token, _)| token).collect();
        for token in sockets {
            if let Some(socket) = self.sockets.get_mut(token)
                && !socket.is_closing
            {
                socket.is_closing = true;
                socket.shut_down();
                self.cancel_all(token);
            }
            let is_idle = |socket: &Socket| socket.in_flight == 0;
            if self.sockets.get(token).is_some_and(is_idle) {
                // Only a closed socket lets go of what it has not sent yet.
                self.sockets.remove(token);
            }
        }
        if self.is_wake_armed {
            self.cancel(NOBODY, Op::Wake);
        }
        if let Some((count, _)) = self.timeouts.armed {
            self.remove_timeout(count);
        }
        self.is_trial = true;
        let deadline = self.now().saturating_add(self.drain_span);
        let mut events = Vec::new();
        while self.ring.in_flight() > 0 {
            if self.ring.submit_and_wait(0, None).is_err() || self.now() >= deadline {
                return false;
            }
            self.reap(usize::MAX, &mut events);
            for event in events.drain(..) {
                // What came in on the way is not read any more.
                if let Event::Accepted { socket, .. } = event {
                    self.sockets.remove(socket.into());
                }
            }
            if self.ring.in_flight() > 0 && !self.ring.has_completions() {
                self.ring.poll_outside(DRAIN_POLL_MS);
            }
        }
        true
    }

    /// Gives up what the kernel may still touch.
    #[cold]
    fn leak(&mut self) {
        self.buffers.leak();
        std::mem::forget(std::mem::take(&mut self.sockets));
        // With these the arena stays, too.
        std::mem::forget(std::mem::take(&mut self.lent));
        std::mem::forget(std::mem::take(&mut self.operations));
        std::mem::forget(std::mem::take(&mut self.wake_count));
        std::mem::forget(std::mem::replace(
            &mut self.timeouts.specs,
            Box::new([Timespec::new(); TIMEOUT_SPECS]),
        ));
    }
}

impl Drop for KernelReactor {
    fn drop(&mut self) {
        if self.drain() {
            self.ring.unregister_buffer_ring();
        } else {
            self.leak();
        }
    }
}

impl Reactor for KernelReactor {
    type Waker = KernelWaker;

    fn now(&self) -> Nanos {
        crate::sys::monotonic_ns()
    }

    fn wall_clock_ms(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64)
    }

    fn boot_clock_ms(&self) -> u64 {
        crate::sys::boottime_ms()
    }

    fn listen(&mut self, at: &Endpoint, backlog: u32) -> io::Result<SocketId> {
        let fd = net::listen(at, backlog)?;
        let is_tcp = matches!(at, Endpoint::Tcp(_));
        let token = self.sockets.insert(Socket::new(
            fd,
            Role::Listener {
                is_tcp,
                is_adopted: false,
            },
        ));
        self.arm_accept(token);
        Ok(token.into())
    }

    fn adopt(&mut self, listener: OwnedFd) -> io::Result<SocketId> {
        net::set_blocking(&listener)?;
        let role = Role::Listener {
            is_tcp: net::local_addr(listener.as_raw_fd()).is_some(),
            is_adopted: true,
        };
        let token = self.sockets.insert(Socket::new(listener, role));
        self.arm_accept(token);
        Ok(token.into())
    }

    fn take_in(&mut self, connection: OwnedFd) -> io::Result<SocketId> {
        net::set_blocking(&connection)?;
        let socket = Socket::new(connection, Role::Stream);
        Ok(self.sockets.insert(socket).into())
    }

    fn hand_out(&mut self, connection: SocketId) {
        let token = connection.into();
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if socket.is_closing || socket.is_leaving || socket.role != Role::Stream {
            return;
        }
        socket.is_leaving = true;
        self.leaving += 1;
        if socket.in_flight == 0 {
            self.ended.push(token);
        }
        self.stop_receiving(connection);
    }

    fn peer_user(&self, socket: SocketId) -> Option<u32> {
        net::peer_user(&self.sockets.get(socket.into())?.fd)
    }

    fn duplicate(&self, socket: SocketId) -> io::Result<OwnedFd> {
        let socket = self.sockets.get(socket.into());
        socket.ok_or(io::ErrorKind::NotConnected)?.fd.try_clone()
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        net::local_addr(self.sockets.get(socket.into())?.fd.as_raw_fd())
    }

    fn connect(&mut self, to: &Endpoint) -> io::Result<SocketId> {
        let address = Box::new(Address::new(to)?);
        let fd = net::outgoing(to)?;
        let entry =
            opcode::Connect::new(Fd(fd.as_raw_fd()), address.as_ptr(), address.size()).build();
        let mut socket = Socket::new(fd, Role::Connecting);
        socket.address = Some(address);
        socket.in_flight = 1;
        let token = self.sockets.insert(socket);
        // SAFETY: the address is boxed and stays in the socket's place until this completion.
        unsafe { self.ring.push(entry.user_data(token.mark(Op::Connect))) };
        Ok(token.into())
    }

    fn limit_silence(&mut self, socket: SocketId, ms: u32) {
        if let Some(socket) = self.sockets.get_mut(socket.into()) {
            net::limit_silence(&socket.fd, ms);
        }
    }

    fn start_receiving(&mut self, socket: SocketId) {
        let token = socket.into();
        if let Some(socket) = self.sockets.get_mut(token)
            && !socket.is_leaving
        {
            socket.wants_data = true;
            // With a cancel in flight, its target's completion arms again.
            self.arm_receive(token);
        }
    }

    fn stop_receiving(&mut self, socket: SocketId) {
        let token = socket.into();
        if let Some(socket) = self.sockets.get_mut(token) {
            socket.wants_data = false;
            if let Receiving::Armed(op) = socket.receiving {
                socket.receiving = Receiving::Cancelling(op);
                self.cancel(token, op);
            }
        }
    }

    #[inline]
    fn received(&self, lease: &Lease) -> &[u8] {
        self.buffers.leased(lease.buffer)
    }

    #[inline]
    fn give_back(&mut self, lease: Lease) {
        self.buffers.give_back(lease.buffer);
    }

    #[inline]
    fn send(&mut self, socket: SocketId, outgoing: Outgoing) -> Result<(), Outgoing> {
        let token = socket.into();
        let total = match &outgoing {
            Outgoing::Block(block) => block.len(),
            Outgoing::Gather(pieces) => pieces.iter().map(bytes::Bytes::len).sum(),
        };
        let Some(socket) = self.sockets.get_mut(token) else {
            return Err(outgoing);
        };
        if total == 0
            || socket.sending.is_some()
            || socket.is_closing
            || socket.is_leaving
            || socket.role != Role::Stream
        {
            return Err(outgoing);
        }
        socket.sending = Some(Sending {
            outgoing,
            done: 0,
            total,
            asked: 0,
            message: None,
            lent: None,
            is_refused: false,
        });
        self.arm_send(token);
        Ok(())
    }

    fn send_in_place(&mut self, socket: SocketId, pieces: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        let token = socket.into();
        let total = pieces.iter().map(Bytes::len).sum();
        let Some(socket) = self.sockets.get_mut(token) else {
            return Err(pieces);
        };
        if total == 0
            || socket.sending.is_some()
            || socket.is_closing
            || socket.is_leaving
            || socket.role != Role::Stream
        {
            return Err(pieces);
        }
        let lent = self.lent.insert(Lent {
            socket: token,
            _pieces: pieces.clone(),
            waiting: 0,
            is_sent: false,
            usage: None,
        });
        socket.sending = Some(Sending {
            outgoing: Outgoing::Gather(pieces),
            done: 0,
            total,
            asked: 0,
            message: None,
            lent: Some(lent),
            is_refused: !self.features.send_zc,
        });
        self.arm_send(token);
        Ok(())
    }

    fn may_send_in_place(&self, socket: SocketId) -> bool {
        let socket = self.sockets.get(socket.into());
        self.features.send_zc && socket.is_some_and(|socket| !net::is_near(socket.fd.as_raw_fd()))
    }

    fn finish_sending(&mut self, socket: SocketId) {
        let Some(socket) = self.sockets.get_mut(socket.into()) else {
            return;
        };
        if socket.is_closing || socket.role != Role::Stream {
            return;
        }
        if socket.sending.is_some() {
            socket.finish_after_send = true;
        } else {
            net::shutdown(socket.fd.as_raw_fd(), libc::SHUT_WR);
        }
    }

    fn close(&mut self, socket: SocketId) {
        let token = socket.into();
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if socket.is_closing {
            return;
        }
        socket.is_closing = true;
        if socket.in_flight == 0 {
            self.ended.push(token);
            return;
        }
        socket.shut_down();
        self.cancel_all(token);
    }

    fn open(&mut self, path: &Path, how: OpenHow) -> io::Result<FileId> {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(how.create)
            .create_new(how.create && how.exclusive)
            .truncate(how.truncate)
            .open(path)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).custom_flags(libc::O_DIRECT);
        let direct = how.direct.then(|| options.open(path).ok()).flatten();
        Ok(self.keep_file(file, direct))
    }

    fn write(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        let is_durable = false;
        self.start_file(file, mark, Work::Write { block, is_durable }, offset);
    }

    fn write_durable(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        let is_durable = true;
        self.start_file(file, mark, Work::Write { block, is_durable }, offset);
    }

    fn sync(&mut self, file: FileId, mark: u64) {
        self.start_file(file, mark, Work::Sync, 0);
    }

    fn reserve(&mut self, file: FileId, len: u64, mark: u64) {
        if len == 0 {
            return self.done_at_once(mark, Ok(()));
        }
        if self.features.reserve {
            return self.start_file(file, mark, Work::Reserve { len }, 0);
        }
        let open = self.files.get(file.into()).filter(|open| !open.is_closing);
        let reserved = match open {
            Some(open) => sys::reserve(open.fd.as_raw_fd(), len),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        self.done_at_once(
            mark,
            reserved.or_else(|error| match error.raw_os_error() {
                Some(errno) if cannot_reserve(errno) => Ok(()),
                _ => Err(error),
            }),
        );
    }

    fn open_dir(&mut self, path: &Path) -> io::Result<FileId> {
        let folder = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path)?;
        let id = self.keep_file(folder, None);
        if let Some(open) = self.files.get_mut(id.into()) {
            open.is_folder = true;
        }
        Ok(id)
    }

    fn rename(&mut self, from: &Path, to: &Path, mark: u64) {
        if !self.features.names {
            return self.done_at_once(mark, std::fs::rename(from, to));
        }
        match (c_path(from), c_path(to)) {
            (Ok(from), Ok(to)) => self.start_name(mark, Work::Rename { from, to }),
            (Err(error), _) | (_, Err(error)) => self.done_at_once(mark, Err(error)),
        }
    }

    fn remove(&mut self, path: &Path, mark: u64) {
        if !self.features.names {
            return self.done_at_once(mark, std::fs::remove_file(path));
        }
        match c_path(path) {
            Ok(path) => self.start_name(mark, Work::Remove { path }),
            Err(error) => self.done_at_once(mark, Err(error)),
        }
    }

    fn close_file(&mut self, file: FileId) {
        let token = file.into();
        if let Some(open) = self.files.get_mut(token) {
            open.is_closing = true;
            if open.in_flight == 0 {
                self.files.remove(token);
            }
        }
    }

    fn make_arena(&mut self, count: u32, len: u32) -> io::Result<bool> {
        if self.arena.is_some() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let arena = Arena::new(count, len)?;
        // SAFETY: the kernel pins the pages and reads them for operations alone, which hold their chunk.
        // Unmapping the region before the ring is closed takes nothing from either.
        self.is_arena_registered =
            self.features.send_zc && unsafe { self.ring.register_buffers(&arena.chunks()) }.is_ok();
        self.arena = Some(arena);
        Ok(self.is_arena_registered)
    }

    fn take_chunk(&mut self) -> Option<Chunk> {
        self.arena.as_ref()?.take()
    }

    fn set_timer(&mut self, at: Nanos, mark: u64) -> TimerId {
        self.timers.set(at, Due::Caller(mark))
    }

    fn cancel_timer(&mut self, timer: TimerId) {
        self.timers.cancel(timer);
    }

    fn waker(&self) -> KernelWaker {
        self.waker.clone()
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        let room = events.len() + EVENTS_MAX;
        self.counters.turns += 1;
        self.before_enter();
        let sleep = self.sleep_span(wait);
        if sleep.is_some() || self.ring.needs_enter() {
            if self.ring.has_overflowed() {
                self.counters.overflows += 1;
            }
            let entered = self
                .ring
                .submit_and_wait(u32::from(sleep.is_some()), sleep.flatten())?;
            if entered == Entered::Busy {
                self.counters.busy += 1;
            }
        }
        for token in std::mem::take(&mut self.ended) {
            self.finish_leaving(token, events);
            self.finish_close(token, events);
        }
        events.append(&mut self.pending);
        self.reap(room, events);
        self.fire_timers(room, events);
        Ok(())
    }
}

impl Socket {
    fn new(fd: OwnedFd, role: Role) -> Socket {
        Socket {
            fd,
            role,
            receiving: Receiving::Idle,
            wants_data: false,
            is_starved: false,
            has_ended: false,
            is_closing: false,
            is_leaving: false,
            finish_after_send: false,
            in_flight: 0,
            held: None,
            sending: None,
            address: None,
        }
    }

    /// Ends both directions, unless that would end them for other processes, too.
    fn shut_down(&self) {
        if !matches!(
            self.role,
            Role::Listener {
                is_adopted: true,
                ..
            }
        ) {
            net::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR);
        }
    }
}

impl Message {
    #[cold]
    fn new() -> Box<Message> {
        let nothing = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: zeros are a valid value of this plain C struct (null pointers, no lengths).
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message {
            header,
            pieces: [nothing; GATHER_MAX],
        })
    }

    /// Points at what is left of `pieces` after the first `done` bytes, as far as there is room; how many
    /// bytes that is.
    fn fill(&mut self, pieces: &[bytes::Bytes], done: usize) -> usize {
        let mut skip = done;
        let mut count = 0;
        let mut len = 0;
        for piece in pieces {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let rest = &piece[skip..];
            skip = 0;
            self.pieces[count] = libc::iovec {
                iov_base: rest.as_ptr().cast_mut().cast(),
                iov_len: rest.len(),
            };
            len += rest.len();
            count += 1;
            if count == GATHER_MAX {
                break;
            }
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = count as _;
        len
    }
}

impl Work {
    /// Bytes to transfer.
    fn len(&self) -> usize {
        match self {
            Work::Write { block, .. } => block.len(),
            Work::Sync | Work::Reserve { .. } | Work::Rename { .. } | Work::Remove { .. } => 0,
        }
    }
}

impl FileOperation {
    fn event(self, result: Result<(), i32>) -> Event {
        let (file, mark) = (self.file.into(), self.mark);
        let block = match self.work {
            Work::Write { block, .. } => block,
            Work::Sync => return Event::Synced { file, mark, result },
            Work::Reserve { .. } | Work::Rename { .. } | Work::Remove { .. } => {
                return Event::Done { mark, result };
            }
        };
        Event::Written {
            mark,
            block,
            result,
        }
    }
}

impl From<SocketId> for Token {
    fn from(socket: SocketId) -> Token {
        Token {
            index: socket.index,
            generation: socket.generation,
        }
    }
}

impl From<Token> for SocketId {
    fn from(token: Token) -> SocketId {
        SocketId {
            index: token.index,
            generation: token.generation,
        }
    }
}

impl From<FileId> for Token {
    fn from(file: FileId) -> Token {
        Token {
            index: file.index,
            generation: file.generation,
        }
    }
}

impl From<Token> for FileId {
    fn from(token: Token) -> FileId {
        FileId {
            index: token.index,
            generation: token.generation,
        }
    }
}

/// A receive into whatever buffer the kernel picks when data is there.
fn shared_receive(fd: Fd, is_multishot: bool, buffer_len: u32) -> squeue::Entry {
    if is_multishot {
        return opcode::RecvMulti::new(fd, BUFFER_GROUP).build();
    }
    opcode::Recv::new(fd, ptr::null_mut(), buffer_len)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// True for the errnos of a file system that reserves nothing.
fn cannot_reserve(errno: i32) -> bool {
    [libc::EOPNOTSUPP, libc::ENOSYS].contains(&errno)
}

/// For marks that belong to no place. No waker or timeout has a successor to confuse it with.
const NOBODY: Token = Token {
    index: u32::MAX,
    generation: 0,
};
/// Events of one turn, about.
const EVENTS_MAX: usize = 1024;
/// Completions copied out of the queue at a time.
const BATCH: usize = 64;
/// Starved receives armed again in one turn.
const REARM_MAX: u32 = 64;
const BUFFERS_MAX: u16 = 1 << 15;
const BUFFER_LEN_MIN: u32 = 64;
/// Bytes of one write past the page cache; a longer one takes several.
const ALIGNED_LEN: usize = 2 << 20;
const ALIGNED_KEPT: usize = 2;
/// Bytes of one send or write; the kernel takes at most a little less than 2 GiB.
const TRANSFER_MAX: usize = 1 << 30;
const TIMEOUT_SPECS: usize = 8;
const WAKE_LEN: u32 = size_of::<u64>() as u32;
const ACCEPT_PAUSE: Nanos = 100_000_000;
const DRAIN_POLL_MS: i32 = 20;
/// Of a zero-copy send: its notification shall say whether the data was copied.
const REPORT_USAGE: u16 = 1 << 3;
/// What it then says.
const USAGE_COPIED: u32 = 1 << 31;
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
