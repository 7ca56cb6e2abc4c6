//! What the kernel offers, what was chosen from it and why.

use std::{fmt, io};

use crate::reactor::Nanos;

/// How much of the kernel's io_uring a reactor uses. Ordered: a higher level is faster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// What every kernel from 5.10 on has: one operation at a time, receive buffers lent when data is
    /// there.
    Basic,
    /// 5.19 and later: a shared buffer ring, multishot accept, cooperative task running; multishot
    /// receive from 6.0.
    Multishot,
    /// 6.1 and later: the same with deferred task running and a single issuer.
    Full,
}

impl Level {
    /// Every level, best first.
    pub const ALL: [Level; 3] = [Level::Full, Level::Multishot, Level::Basic];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Basic => "basic",
            Level::Multishot => "multishot",
            Level::Full => "full",
        })
    }
}

/// A text that names no [`Level`]; they are `basic`, `multishot` and `full`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownLevel;

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an io_uring level: use basic, multishot or full")
    }
}

impl std::error::Error for UnknownLevel {}

impl std::str::FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Level, UnknownLevel> {
        let named = |level: &Level| level.to_string() == text;
        Level::ALL.into_iter().find(named).ok_or(UnknownLevel)
    }
}

/// How to make a reactor. [`Default`] is right for a core of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingConfig {
    /// Use exactly this level, or fail. `None` takes the best that works.
    pub level: Option<Level>,
    /// Submission entries; halved while the memlock limit refuses them.
    pub sq_entries: u32,
    /// Completion entries; halved along.
    pub cq_entries: u32,
    /// Receive buffers handed out from the start.
    pub recv_buffers: u16,
    /// Receive buffers added once the others ran out. Not touched before, so they cost nothing.
    pub recv_reserve: u16,
    /// Bytes per receive buffer.
    pub recv_buffer_len: u32,
    /// Whether to use what came with 5.11 where the kernel has it: a wait's timeout in `enter`, and
    /// renaming and removing files through the ring. Off only in tests, to run the paths of the oldest
    /// kernels.
    pub use_5_11: bool,
    /// Whether to try the level on a loopback connection before trusting it.
    pub self_test: bool,
    /// How long a dropped reactor waits for the kernel to let go of its memory.
    pub drain_span: Nanos,
}

impl Default for RingConfig {
    fn default() -> Self {
        RingConfig {
            level: None,
            sq_entries: 4096,
            cq_entries: 16384,
            recv_buffers: 256,
            recv_reserve: 256,
            recv_buffer_len: 16 * 1024,
            use_5_11: true,
            self_test: true,
            drain_span: 5_000_000_000,
        }
    }
}

/// What a ring was found to have and uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Submission entries as the kernel made them.
    pub sq_entries: u32,
    /// Completion entries as the kernel made them.
    pub cq_entries: u32,
    /// Waits with a timeout need no operation of their own.
    pub ext_arg: bool,
    /// Files are renamed and removed through the ring.
    pub names: bool,
    /// Disk space is reserved through the ring.
    pub reserve: bool,
    /// A waiting ring does not count as waiting for a disk.
    pub no_iowait: bool,
    /// One accept serves any number of connections.
    pub accept_multishot: bool,
    /// One receive serves any number of arrivals.
    pub recv_multishot: bool,
    /// The kernel has zero-copy sends of one piece and of several.
    pub send_zc: bool,
    /// The kernel shows when it has work to run, so that looking costs no system call.
    pub taskrun_flag: bool,
    /// The ring is entered through a registered descriptor.
    pub registered_descriptor: bool,
}

/// Which level was taken, what it has, and why no better one was.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The level in use.
    pub level: Level,
    /// What the ring has.
    pub features: Features,
    /// Better levels and why they were left out.
    pub refused: Vec<Refusal>,
}

/// Why a level was not taken.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The level.
    pub level: Level,
    /// What stood in its way.
    pub reason: RefusalReason,
}

/// What stands in the way of a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalReason {
    /// The kernel refused the ring's flags or sizes (errno).
    Setup(i32),
    /// The kernel refused the shared buffer ring (errno).
    BufferRing(i32),
    /// The kernel has no multishot receive.
    NoMultishotReceive,
    /// The ring did not carry a loopback connection as it should.
    SelfTest(SelfTestStep),
}

/// Where the self-test ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SelfTestStep {
    /// No connection was accepted.
    Accept,
    /// The first bytes did not arrive whole.
    FirstReceive,
    /// The second bytes did not arrive whole.
    SecondReceive,
    /// A send was not confirmed.
    Send,
    /// The end of the stream was not seen.
    EndOfStream,
    /// Closing did not end.
    Close,
    /// The ring itself failed.
    Turn,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusalReason::Setup(errno) => {
                write!(
                    f,
                    "the kernel refuses its setup: {}",
                    io::Error::from_raw_os_error(*errno)
                )
            }
            RefusalReason::BufferRing(errno) => {
                write!(
                    f,
                    "the kernel refuses a buffer ring: {}",
                    io::Error::from_raw_os_error(*errno)
                )
            }
            RefusalReason::NoMultishotReceive => f.write_str("the kernel has no multishot receive"),
            RefusalReason::SelfTest(step) => {
                write!(f, "it failed a trial over loopback at the step {step:?}")
            }
        }
    }
}

/// Why there is no ring at all. Comes inside the [`io::Error`] of a reactor's making; its text says
/// what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// The kernel was built without io_uring, or a sandbox hides it.
    Missing,
    /// io_uring is there, but not for this process. Carries `kernel.io_uring_disabled`.
    Forbidden(Option<u8>),
    /// Even a small ring is refused.
    Memlock(Option<u64>),
    /// The forced level does not work here.
    LevelUnavailable(Level, RefusalReason),
    /// No level works; the last one's reason.
    NoLevel(RefusalReason),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Missing => f.write_str(
                "io_uring is not available: the kernel lacks it (Linux 5.10 or later with \
                 CONFIG_IO_URING is needed) or a sandbox hides it; run on such a kernel, or allow \
                 io_uring_setup, io_uring_enter and io_uring_register in the sandbox's seccomp profile",
            ),
            SetupError::Forbidden(Some(2)) => f.write_str(
                "io_uring is switched off: sysctl kernel.io_uring_disabled is 2; set it to 0 \
                 (sysctl -w kernel.io_uring_disabled=0)",
            ),
            SetupError::Forbidden(Some(1)) => f.write_str(
                "io_uring is restricted: sysctl kernel.io_uring_disabled is 1; set it to 0, or put this \
                 user into the group named by kernel.io_uring_group",
            ),
            SetupError::Forbidden(_) => f.write_str(
                "io_uring is forbidden to this process, most likely by a container's seccomp profile; \
                 allow io_uring_setup, io_uring_enter and io_uring_register there",
            ),
            SetupError::Memlock(limit) => {
                f.write_str("the kernel has no locked memory left for a ring of this user")?;
                if let Some(limit) = limit {
                    write!(f, " (RLIMIT_MEMLOCK is {limit} bytes)")?;
                }
                f.write_str("; raise it (LimitMEMLOCK=infinity in the service file, or ulimit -l)")
            }
            SetupError::LevelUnavailable(level, reason) => {
                write!(f, "the forced io_uring level {level} does not work here: {reason}; ")?;
                f.write_str("leave the level out to take the best that works")
            }
            SetupError::NoLevel(reason) => {
                write!(f, "no io_uring level works here: {reason}; a kernel from 5.10 on is needed, ")?;
                f.write_str("and no sandbox that forbids io_uring_enter or io_uring_register")
            }
        }
    }
}

impl std::error::Error for SetupError {}

impl From<SetupError> for io::Error {
    fn from(error: SetupError) -> io::Error {
        let kind = match error {
            SetupError::Missing | SetupError::LevelUnavailable(..) | SetupError::NoLevel(_) => {
                io::ErrorKind::Unsupported
            }
            SetupError::Forbidden(_) => io::ErrorKind::PermissionDenied,
            SetupError::Memlock(_) => io::ErrorKind::OutOfMemory,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_as_it_is_written() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("5.10".parse::<Level>(), Err(UnknownLevel));
    }

    #[test]
    fn every_refusal_names_reason_and_remedy() {
        let reason = RefusalReason::Setup(libc::EINVAL);
        let cases = [
            (SetupError::Missing, "run on such a kernel"),
            (SetupError::Forbidden(None), "allow io_uring_setup"),
            (SetupError::Forbidden(Some(1)), "kernel.io_uring_group"),
            (
                SetupError::Forbidden(Some(2)),
                "sysctl -w kernel.io_uring_disabled=0",
            ),
            (SetupError::Memlock(Some(65536)), "LimitMEMLOCK"),
            (
                SetupError::LevelUnavailable(Level::Full, reason),
                "leave the level out",
            ),
            (SetupError::NoLevel(reason), "5.10"),
        ];
        for (error, remedy) in cases {
            let error = io::Error::from(error);
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }
}
