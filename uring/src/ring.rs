//! One io_uring: made at a given level, filled without ever losing an entry, entered once a turn.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use crate::bufs::BufferRing;
use crate::caps::{Features, Level};
use crate::reactor::Nanos;

/// The group of the receive buffers; there is only one.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// A ring and what waits for room in it.
pub(crate) struct Ring {
    uring: IoUring,
    /// Entries that found no room; pushed before all later ones.
    backlog: VecDeque<squeue::Entry>,
    /// Entries whose last completion is still to come, the unsubmitted ones included.
    in_flight: u64,
    /// The ring's own descriptor, or its registered index.
    enter_fd: i32,
    enter_flags: u32,
    features: Features,
    /// What was registered must be taken back before its memory goes.
    has_buffer_ring: bool,
}

/// How a call to enter ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entered {
    Done,
    /// Completions must be taken before the kernel takes more.
    Busy,
}

impl Ring {
    /// Makes a ring for `level`, halving the queues while the memlock limit refuses them.
    ///
    /// # Errors
    /// EINVAL where the kernel does not know the level's flags; ENOSYS, EPERM or ENOMEM where there
    /// is no ring to be had at all.
    pub fn new(level: Level, entries: (u32, u32), use_5_11: bool) -> io::Result<Ring> {
        let (mut sq_entries, mut cq_entries) = entries;
        let mut patience = MEMLOCK_TRIES;
        let uring = loop {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(cq_entries).setup_clamp();
            match level {
                Level::Basic => {}
                Level::Multishot => {
                    builder
                        .setup_coop_taskrun()
                        .setup_taskrun_flag()
                        .setup_submit_all();
                }
                Level::Full => {
                    builder.setup_single_issuer().setup_defer_taskrun();
                    builder.setup_taskrun_flag().setup_submit_all();
                }
            }
            match builder.build(sq_entries) {
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOMEM) && sq_entries > ENTRIES_MIN =>
                {
                    sq_entries /= 2;
                    cq_entries /= 2;
                }
                // Some kernels give the memory of a ring that was just closed back late.
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(MEMLOCK_PAUSE);
                }
                other => break other?,
            }
        };
        let features = Ring::look_at(&uring, level, use_5_11);
        let mut ring = Ring {
            enter_fd: uring.as_raw_fd(),
            enter_flags: if features.no_iowait {
                ENTER_NO_IOWAIT
            } else {
                0
            },
            uring,
            backlog: VecDeque::new(),
            in_flight: 0,
            features,
            has_buffer_ring: false,
        };
        if level != Level::Basic {
            ring.register_descriptor();
        }
        Ok(ring)
    }

    fn look_at(uring: &IoUring, level: Level, use_5_11: bool) -> Features {
        let mut probe = Probe::new();
        let probed = uring.submitter().register_probe(&mut probe).is_ok();
        let params = uring.params();
        let has = |code| probed && probe.is_supported(code);
        Features {
            sq_entries: params.sq_entries(),
            cq_entries: params.cq_entries(),
            ext_arg: use_5_11 && params.is_feature_ext_arg(),
            names: use_5_11 && has(opcode::RenameAt::CODE) && has(opcode::UnlinkAt::CODE),
            reserve: has(opcode::Fallocate::CODE),
            no_iowait: params.is_feature_no_iowait(),
            accept_multishot: level != Level::Basic,
            // Nothing shows a multishot receive; it came with the zero-copy send, which the probe shows.
            recv_multishot: level != Level::Basic && has(opcode::SendZc::CODE),
            send_zc: has(opcode::SendZc::CODE) && has(opcode::SendMsgZc::CODE),
            taskrun_flag: level != Level::Basic,
            registered_descriptor: false,
        }
    }

    /// Spares the kernel one descriptor lookup per enter; going without costs nothing else.
    fn register_descriptor(&mut self) {
        #[repr(C)]
        struct Update {
            offset: u32,
            reserved: u32,
            data: u64,
        }
        let fd = self.uring.as_raw_fd();
        let mut update = Update {
            offset: u32::MAX,
            reserved: 0,
            data: fd as u64,
        };
        // SAFETY: the kernel reads and writes the one 16-byte struct during the call, nothing later.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                fd,
                REGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
        if done == 1 {
            self.enter_fd = update.offset as i32;
            self.enter_flags |= ENTER_REGISTERED_RING;
            self.features.registered_descriptor = true;
        }
    }

    pub fn features(&self) -> Features {
        self.features
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// # Errors
    /// EINVAL from kernels without buffer rings, ENOMEM from the memlock limit.
    ///
    /// # Safety
    /// The memory of `buffers` stays until [`Ring::unregister_buffer_ring`] or for ever.
    pub unsafe fn register_buffer_ring(&mut self, buffers: &BufferRing) -> io::Result<()> {
        // SAFETY: address and entry count describe one live, page-aligned mapping, which the caller
        // keeps.
        unsafe {
            self.uring.submitter().register_buf_ring_with_flags(
                buffers.address(),
                buffers.entries(),
                BUFFER_GROUP,
                0,
            )?;
        }
        self.has_buffer_ring = true;
        Ok(())
    }

    pub fn unregister_buffer_ring(&mut self) {
        if self.has_buffer_ring {
            // A refusal changes nothing: closing the ring takes it back as well.
            let _ = self.uring.submitter().unregister_buf_ring(BUFFER_GROUP);
            self.has_buffer_ring = false;
        }
    }

    /// # Errors
    /// ENOMEM from the memlock limit.
    ///
    /// # Safety
    /// The memory stays until the ring is closed.
    pub unsafe fn register_buffers(&mut self, chunks: &[libc::iovec]) -> io::Result<()> {
        // SAFETY: the caller keeps the memory; the array itself is read during the call only.
        unsafe { self.uring.submitter().register_buffers(chunks) }
    }

    /// Queues an entry: now, or behind those that already wait for room.
    ///
    /// # Safety
    /// What the entry points to stays valid and untouched until its last completion is reaped, or for
    /// ever.
    #[inline]
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        if !self.backlog.is_empty() {
            self.backlog.push_back(entry);
            return;
        }
        // SAFETY: the caller's promise is the one that push asks for.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.make_room(entry);
        }
    }

    #[cold]
    fn make_room(&mut self, entry: squeue::Entry) {
        // Whatever this says, the entry is kept and the next turn tries again.
        let _ = self.enter(0, None, 0);
        // SAFETY: the promise made to `push` covers this entry.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the promise made to `push` covers every entry of the backlog.
            if unsafe { self.uring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// True if entering would submit or collect something that cannot be seen from user space.
    #[inline]
    pub fn needs_enter(&mut self) -> bool {
        let submission = self.uring.submission();
        !self.features.taskrun_flag
            || !submission.is_empty()
            || submission.taskrun()
            || submission.cq_overflow()
            || !self.backlog.is_empty()
    }

    pub fn has_overflowed(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    #[inline]
    pub fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Submits everything and waits for one completion or, with EXT_ARG, until the span is over.
    ///
    /// # Errors
    /// What makes the ring unusable.
    pub fn submit_and_wait(&mut self, want: u32, span: Option<Nanos>) -> io::Result<Entered> {
        loop {
            self.drain_backlog();
            // Entries left behind must not sleep through the wait for the others.
            let want = if self.backlog.is_empty() { want } else { 0 };
            let before = self.uring.submission().len();
            match self.enter(want, span, ENTER_GETEVENTS)? {
                Entered::Busy => return Ok(Entered::Busy),
                Entered::Done => {}
            }
            let left = self.uring.submission().len();
            if (left == 0 && self.backlog.is_empty()) || left >= before.max(1) {
                return Ok(Entered::Done);
            }
        }
    }

    fn enter(&mut self, want: u32, span: Option<Nanos>, flags: u32) -> io::Result<Entered> {
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanos: i64,
        }
        #[repr(C)]
        struct ExtArg {
            sigmask: u64,
            sigmask_len: u32,
            min_wait_us: u32,
            timespec: u64,
        }
        let to_submit = self.uring.submission().len() as u32;
        let timespec;
        let ext_arg;
        let (arg, arg_len, flags) = match span {
            Some(span) if want > 0 && self.features.ext_arg => {
                let seconds = i64::try_from(span / 1_000_000_000).unwrap_or(i64::MAX);
                timespec = Timespec {
                    seconds,
                    nanos: (span % 1_000_000_000) as i64,
                };
                let timespec = (&raw const timespec) as u64;
                ext_arg = ExtArg {
                    sigmask: 0,
                    sigmask_len: 0,
                    min_wait_us: 0,
                    timespec,
                };
                (
                    (&raw const ext_arg) as u64,
                    size_of::<ExtArg>(),
                    flags | ENTER_EXT_ARG,
                )
            }
            _ => (0, 0, flags),
        };
        let flags = flags | self.enter_flags;
        // SAFETY: the argument structs live on this stack frame until the call has returned, which is
        // as long as the kernel reads them; what the submitted entries point to is kept by the promise
        // made to `push`.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                to_submit,
                want,
                flags,
                arg,
                arg_len,
            )
        };
        if done >= 0 {
            return Ok(Entered::Done);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // A signal, or the time is over: an empty turn.
            Some(libc::EINTR | libc::ETIME) => Ok(Entered::Done),
            // No room for completions, or no memory for requests just now.
            Some(libc::EBUSY | libc::EAGAIN) => Ok(Entered::Busy),
            _ => Err(error),
        }
    }

    /// Takes up to `into.len()` completions; returns how many.
    #[inline]
    pub fn reap(&mut self, into: &mut [Completion]) -> usize {
        let mut count = 0;
        let mut queue = self.uring.completion();
        for (place, entry) in into.iter_mut().zip(&mut queue) {
            *place = Completion {
                mark: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            };
            count += 1;
            if !cqueue::more(entry.flags()) {
                self.in_flight -= 1;
            }
        }
        count
    }

    /// Waits outside the ring until completions may have come. For draining, where no timeout of the
    /// ring itself may be added.
    pub fn poll_outside(&self, milliseconds: i32) {
        let mut poll = libc::pollfd {
            fd: self.uring.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd on this stack frame, used during the call only.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    }
}

/// One completion, copied out of the queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct Completion {
    pub mark: u64,
    pub result: i32,
    pub flags: u32,
}

/// A ring smaller than this is not worth having; the refusal is reported instead.
pub(crate) const ENTRIES_MIN: u32 = 64;
const MEMLOCK_TRIES: u32 = 20;
const MEMLOCK_PAUSE: Duration = Duration::from_millis(25);
const REGISTER_RING_FDS: u32 = 20;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const ENTER_NO_IOWAIT: u32 = 1 << 7;
