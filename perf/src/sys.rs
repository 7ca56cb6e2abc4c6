//! The system calls the standard library lacks. The package's second home for `unsafe`.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Chooses the congestion control of a socket; accepted sockets inherit their listener's.
///
/// # Errors
/// Those of `setsockopt`: the module may be missing or reserved for privileged users.
pub fn set_congestion_control(socket: &impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`, which outlives the call; the kernel copies it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets TCP_NODELAY on a listener, so that every accepted socket has it without a call of its own,
/// and lengthens its backlog.
///
/// # Errors
/// Those of `setsockopt` and `listen`.
pub fn tune_listener(listener: &TcpListener) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: pointer and length describe `one`, which outlives the call; `listen` takes no memory.
    let done = unsafe {
        let fd = listener.as_raw_fd();
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const one).cast(),
            len,
        ) | libc::listen(fd, 4096)
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// CPU time of a process in nanoseconds: all threads, user and kernel, ended threads included, up to
/// date also for a thread that is running. None when there is no such process.
pub fn process_cpu_ns(pid: u32) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls write to the locals they are given and keep nothing.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    (!failed).then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes to the local and keeps nothing.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Counts how often thread `tid`, and every thread it starts from now on, passes the kernel tracepoint
/// of this number (perf_event_open(2)); reading the file gives the count as eight bytes.
///
/// # Errors
/// Those of `perf_event_open`: without CAP_PERFMON it is mostly forbidden.
pub fn count_tracepoint(tid: u32, tracepoint: u64) -> io::Result<File> {
    let attributes = EventAttributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<EventAttributes>() as u32,
        config: tracepoint,
        flags: PERF_INHERIT,
        ..EventAttributes::default()
    };
    // SAFETY: the kernel reads `size` bytes of the local and keeps none of them; the descriptor it
    // returns is new and has no other owner.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            tid as libc::pid_t,
            -1 as libc::c_int,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(fd as RawFd))
    }
}

/// The first version of `struct perf_event_attr`, which every kernel takes.
#[derive(Default)]
#[repr(C)]
struct EventAttributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

const _: () = assert!(size_of::<EventAttributes>() == 64);
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_INHERIT: u64 = 1 << 1;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// Length of a clock tick of /proc in nanoseconds.
pub fn tick_ns() -> u64 {
    // SAFETY: no memory is involved.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    1_000_000_000 / per_second.max(1) as u64
}

/// Raises the limit of open descriptors to the hard limit; failing that, connecting will tell.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only use the local.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Makes SIGINT and SIGTERM raise [`is_stopped`] once, so that engines are stopped and settings
/// restored on the way out. A second signal ends the process at once.
pub fn catch_stop_signals() {
    // SAFETY: the action is zeroed and then filled; the handler only stores to an atomic.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_stop as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND;
        for signal in [libc::SIGINT, libc::SIGTERM] {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Makes a child run on `cpus` only, out of reach of the terminal's Ctrl-C, and end at once when the
/// calling thread ends, however that comes about: no server outlives the harness.
pub fn tie_to_us(command: &mut Command, cpus: &[usize]) {
    let set = cpu_set(cpus);
    let parent = std::process::id() as libc::pid_t;
    let prepare = move || {
        // SAFETY: system calls on numbers and on the copied set; none touches memory of the parent.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                || libc::setpgid(0, 0) != 0
                || libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) != 0
            {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before the first call.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` only makes system calls; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Makes the calling thread, and those it starts, run on `cpus` only.
///
/// # Errors
/// That of `sched_setaffinity`: there may be no such CPU.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let set = cpu_set(cpus);
    // SAFETY: pointer and length describe the local.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn cpu_set(cpus: &[usize]) -> libc::cpu_set_t {
    // SAFETY: the set is plain bits, zeroed and then filled within its length.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus.iter().filter(|cpu| **cpu < libc::CPU_SETSIZE as usize) {
            libc::CPU_SET(cpu, &mut set);
        }
        set
    }
}

/// Stops (`true`) a process where it is, or lets it go on.
pub fn hold(pid: u32, stopped: bool) {
    let signal = if stopped {
        libc::SIGSTOP
    } else {
        libc::SIGCONT
    };
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Asks a process to end.
pub fn terminate(pid: u32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
}

/// Whether standard output is a pipe that nobody reads any more, or a terminal that is gone.
pub fn is_output_gone() -> bool {
    let mut output = libc::pollfd {
        fd: libc::STDOUT_FILENO,
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry, the local, which the call only writes to; a timeout of 0 returns at once.
    let ready = unsafe { libc::poll(&raw mut output, 1, 0) };
    ready == 1 && output.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
}

/// Whether a signal asked this process to end.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

extern "C" fn on_stop(_: libc::c_int) {
    STOPPED.store(true, Ordering::Relaxed);
}

static STOPPED: AtomicBool = AtomicBool::new(false);
