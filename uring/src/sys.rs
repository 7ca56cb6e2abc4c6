//! Small matters between a process and its kernel that the node, which has no `unsafe`, needs.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};

use crate::net::{self, check};
use crate::reactor::{Endpoint, Nanos};
use crate::wake::{KernelWaker, wake_descriptor};

/// Writing to a closed peer shall be an error of that write, not the end of the process. Once per
/// process, before the first socket.
pub fn ignore_sigpipe() {
    // SAFETY: ignoring a signal installs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Writing what nobody reads any more (`ringkeep man | head`) shall end the process without a word. For what
/// only prints.
pub fn end_at_sigpipe() {
    // SAFETY: the default of a signal is no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Counts SIGINT and SIGTERM from the first call on and wakes the given ring at each. Every core may
/// register its waker, up to 256 of them; each costs a descriptor for ever.
///
/// # Errors
/// What dup or sigaction said, or `OutOfMemory` beyond 256 wakers.
pub fn watch_termination(waker: &KernelWaker) -> io::Result<&'static AtomicU32> {
    let place = WAKER_COUNT.fetch_add(1, Ordering::Relaxed);
    let Some(slot) = WAKERS.get(place) else {
        return Err(io::ErrorKind::OutOfMemory.into());
    };
    // The handler may run at any time from now on, so this descriptor is never closed.
    let fd = waker.duplicate()?.into_raw_fd();
    slot.store(fd, Ordering::Release);
    // SAFETY: zeros are a valid value of this plain C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_termination as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler touches atomics and calls write(2) only, both fit for a handler.
        check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })?;
    }
    Ok(&TERMINATIONS)
}

extern "C" fn on_termination(_signal: libc::c_int) {
    // SAFETY: the pointer to this thread's errno is valid; the interrupted code must find its value.
    let errno = unsafe { *libc::__errno_location() };
    TERMINATIONS.fetch_add(1, Ordering::Release);
    for slot in &WAKERS {
        let fd = slot.load(Ordering::Acquire);
        if fd >= 0 {
            wake_descriptor(fd);
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

static TERMINATIONS: AtomicU32 = AtomicU32::new(0);
static WAKER_COUNT: AtomicUsize = AtomicUsize::new(0);
static WAKERS: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];

/// Takes the sockets that whoever started this process left open for it: so many listeners from descriptor 3
/// on, and a connection. Processes started later do not get them. Once, before anything else is opened.
///
/// # Errors
/// One of them is not what it should be, or this was called before.
pub fn inherit(
    listeners: u16,
    channel: Option<RawFd>,
) -> io::Result<(Vec<OwnedFd>, Option<OwnedFd>)> {
    if WAS_INHERITED.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let numbers = FIRST_INHERITED..FIRST_INHERITED + RawFd::from(listeners);
    if channel.is_some_and(|channel| channel < FIRST_INHERITED || numbers.contains(&channel)) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // Nothing is taken before it is known that all of them are there.
    if !numbers.clone().all(net::is_listener) {
        return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
    }
    let listeners = numbers.map(take).collect::<io::Result<_>>()?;
    Ok((listeners, channel.map(take).transpose()?))
}

static WAS_INHERITED: AtomicBool = AtomicBool::new(false);
const FIRST_INHERITED: RawFd = 3;

fn take(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; a number that is no descriptor is refused.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, as the call just said; the process that started us left it to us, nothing else was
    // opened yet, and no number is taken twice.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Leaves a descriptor open, under its number, to the program that takes this one's place.
///
/// # Errors
/// What fcntl said.
pub fn leave_open(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain integers; the descriptor is open as long as it is borrowed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// Opens a listener as [`Reactor::listen`](crate::Reactor::listen) does, for
/// [`Reactor::adopt`](crate::Reactor::adopt).
///
/// # Errors
/// What socket, bind or listen said.
pub fn listener(at: &Endpoint, backlog: u32) -> io::Result<OwnedFd> {
    net::listen(at, backlog)
}

/// Takes a port that must be nobody's, until it is dropped: listeners of [`listener`] and
/// [`Reactor::listen`](crate::Reactor::listen) can be opened beside it by the same user, other claims cannot.
/// Listeners alone would share the port with those of another process without an error.
///
/// # Errors
/// What socket, bind or listen said: EADDRINUSE if somebody listens there or has claimed it.
pub fn claim(at: &SocketAddr) -> io::Result<OwnedFd> {
    net::claim(at)
}

/// Has the processor fetch the line of memory that holds `at`, without waiting for it. A hint: nothing
/// depends on it.
#[inline(always)]
pub fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing the program could see and faults on no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The monotonic clock, nanoseconds since some fixed point (boot).
#[inline]
pub fn monotonic_ns() -> Nanos {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The clock that goes on while the machine sleeps, milliseconds.
pub fn boottime_ms() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME) / 1_000_000
}

/// The real-time clock, milliseconds since 1970. May jump.
pub fn realtime_ms() -> u64 {
    clock_ns(libc::CLOCK_REALTIME) / 1_000_000
}

/// The real-time clock, microseconds since 1970. May jump.
pub fn realtime_us() -> u64 {
    clock_ns(libc::CLOCK_REALTIME) / 1_000
}

/// CPU time of the calling thread, nanoseconds, kernel work included.
pub fn thread_cpu_ns() -> Nanos {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of the process, nanoseconds, kernel work included.
pub fn process_cpu_ns() -> Nanos {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

#[inline]
fn clock_ns(clock: libc::clockid_t) -> Nanos {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec on this stack frame. These clocks always exist, so the
    // result needs no look.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Memory of this process that is in RAM, bytes. `None` without /proc.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: plain integers.
    let page_len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page_len).ok()?)
}

/// Memory of this machine, bytes.
pub fn total_memory_bytes() -> u64 {
    // SAFETY: plain integers.
    let (pages, page_len) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page_len).unwrap_or(0)
}

/// Raises the limit of open descriptors to the hard limit. Returns the limit now in force.
///
/// # Errors
/// What getrlimit or setrlimit said.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = resource_limit(libc::RLIMIT_NOFILE)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads one struct on this stack frame during the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

/// Has the kernel make this process's table of descriptors as large as for so many. It would grow as they are
/// opened, but once there are threads it then waits, each time, until none of them can be looking at the old
/// one: tens of milliseconds on a busy machine, while connections wait. To be called before there are any.
///
/// # Errors
/// What open or fcntl said.
pub fn make_room_for_descriptors(count: u64) -> io::Result<()> {
    let some = std::fs::File::open("/dev/null")?;
    let last = RawFd::try_from(count).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))? - 1;
    // SAFETY: plain integers; the descriptor is open while `some` is.
    let high = check(unsafe { libc::fcntl(some.as_raw_fd(), libc::F_DUPFD_CLOEXEC, last) })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(high) });
    Ok(())
}

/// Gives two files or directories each other's name, in one step.
///
/// # Errors
/// What renameat2 said: some file systems cannot do it.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let one = CString::new(one.as_os_str().as_bytes())?;
    let other = CString::new(other.as_os_str().as_bytes())?;
    let (at, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // Not every C library has a function for it.
    // SAFETY: both names end with a zero and outlive the call.
    let done = unsafe {
        let (one, other) = (one.as_ptr(), other.as_ptr());
        libc::syscall(libc::SYS_renameat2, at, one, at, other, flags)
    };
    check(done as libc::c_int)?;
    Ok(())
}

/// Has the calling thread yield to others that want its core: 0 is as usual, 19 the most. False if the kernel
/// refuses, as it does to go back without privileges.
pub fn yield_to_others(niceness: i32) -> bool {
    // SAFETY: plain integers; 0 names the calling thread, as Linux has it.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) == 0 }
}

/// Gives a file at least `len` bytes of disk and length. May wait for the disk.
///
/// # Errors
/// What fallocate said.
pub(crate) fn reserve(fd: RawFd, len: u64) -> io::Result<()> {
    let len =
        libc::off64_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: plain integers; the descriptor is open while the caller's file is.
    check(unsafe { libc::fallocate64(fd, 0, 0, len) })?;
    Ok(())
}

/// What names a limit, which not all C libraries write in the same way.
#[cfg(target_env = "musl")]
type Resource = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;

pub(crate) fn resource_limit(resource: Resource) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one struct on this stack frame during the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok(limit)
}

/// True if the process is exempt from the memlock limit: CAP_IPC_LOCK is in its effective set.
pub(crate) fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward_and_units_agree() {
        let (a, b) = (monotonic_ns(), monotonic_ns());
        assert!(a <= b);
        let (ms, us) = (realtime_ms(), realtime_us());
        assert!(us / 1000 - ms < 1000);
        assert!(process_cpu_ns() > 0 && thread_cpu_ns() > 0);
        assert!(resident_bytes().is_some_and(|bytes| bytes > 0 && bytes < total_memory_bytes()));
        std::thread::spawn(|| assert!(yield_to_others(5)))
            .join()
            .unwrap();
        let limit = raise_descriptor_limit().unwrap();
        assert!(make_room_for_descriptors(limit.min(4096)).is_ok());
        assert!(make_room_for_descriptors(limit + 1).is_err());
    }
}
