//! What can stop a measurement, told so that the reader knows what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::resp::Errors;

/// Why a command ended early.
#[derive(Debug)]
pub enum Error {
    /// The command line does not make sense.
    Usage(lexopt::Error),
    /// A value of the command line is outside what can be measured.
    Value {
        /// The option.
        option: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// io_uring is missing, forbidden or too old.
    Kernel(io::Error),
    /// A system call failed.
    Os {
        /// What was attempted.
        doing: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// A file could not be read or written.
    File {
        /// Which one.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// A data file is not what this program understands.
    Data {
        /// Which one.
        path: PathBuf,
        /// Line and reason.
        reason: String,
    },
    /// The record could not be written as JSON.
    Record(serde_json::Error),
    /// The server ended a connection.
    Lost {
        /// Connection number, from 0.
        link: usize,
        /// The error, or none when the server closed it in order.
        source: Option<io::Error>,
    },
    /// The server sent something that is no RESP2 reply to what was asked.
    Reply {
        /// The byte where understanding ended.
        byte: u8,
    },
    /// More replies than requests: replies and requests can no longer be matched.
    Surplus,
    /// The server answered with an error, so the numbers would mean something else.
    Refused {
        /// How many error replies came.
        count: u64,
        /// The first of them, cut at 200 bytes.
        first: String,
    },
    /// Replies were wrong, or messages did not arrive.
    Wrong {
        /// Replies that checks found wrong.
        mismatches: u64,
        /// Messages that did not arrive.
        undelivered: u64,
        /// The first wrong reply.
        first: String,
    },
    /// A load ended before its time.
    Broken {
        /// Why.
        source: Box<Error>,
        /// Requests answered until then, whatever for.
        requests: u64,
        /// Seconds since connecting began.
        seconds: f64,
    },
    /// No request was answered in the time measured.
    Silent,
    /// A server holds another number of keys than it was given.
    Missing {
        /// What it says it holds.
        stored: u64,
        /// What it was given.
        keys: u64,
    },
    /// There is no process with the number given.
    NoProcess {
        /// The number.
        pid: u32,
    },
    /// Requests were still unanswered after the time allowed.
    Stuck {
        /// How many.
        outstanding: u64,
    },
    /// An engine could not be started, or ended by itself.
    Engine {
        /// Its name in the engine list.
        name: String,
        /// How that showed.
        why: String,
        /// The last lines of its output.
        log: Vec<String>,
    },
    /// No engine of the list is installed here.
    NoEngines,
    /// There is no record to report.
    NoRecord {
        /// Where none was found.
        dir: PathBuf,
    },
    /// Interrupted by a signal.
    Stopped,
}

impl Error {
    /// Wraps a failure to set up io_uring.
    pub fn kernel(source: io::Error) -> Error {
        Error::Kernel(source)
    }

    /// Wraps a failed system call.
    pub fn os(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Os { doing, source }
    }

    /// Error replies as an error, if there are any.
    ///
    /// # Errors
    /// [`Error::Refused`]
    pub fn refused(errors: &Errors) -> Result<(), Error> {
        match errors.list() {
            [] => Ok(()),
            [(first, _), ..] => Err(Error::Refused {
                count: errors.list().iter().map(|(_, count)| count).sum(),
                first: first.clone(),
            }),
        }
    }

    /// Wraps a failed access to a file.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}

impl Error {
    /// Wraps what a data file's reader complains of.
    pub fn data<E: fmt::Display>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Error {
        let path = path.into();
        move |e| Error::Data {
            path,
            reason: e.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(e) => write!(f, "{e}; --help lists the commands"),
            Error::Value { option, expected } => write!(f, "{option} must be {expected}"),
            Error::Kernel(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                write!(
                    f,
                    "io_uring is forbidden here ({e}): check kernel.io_uring_disabled \
                 and the container's seccomp profile"
                )
            }
            Error::Kernel(e) => write!(
                f,
                "this kernel's io_uring lacks what the limit is defined with ({e}): \
                 Linux 6.1 or later is needed (DEFER_TASKRUN, buffer rings, multishot receive)"
            ),
            Error::Os { doing, source } => write!(f, "{doing}: {source}"),
            Error::File { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Data { path, reason } => write!(f, "{}: {}", path.display(), reason.trim_end()),
            Error::Record(e) => write!(f, "record: {e}"),
            Error::Lost {
                link,
                source: Some(e),
            } => write!(f, "connection {link} lost: {e}"),
            Error::Lost { link, source: None } => {
                write!(f, "connection {link} closed by the server")
            }
            Error::Reply { byte } => write!(f, "unexpected byte {byte:#04x} in a reply"),
            Error::Surplus => write!(f, "the server sent more replies than there were requests"),
            Error::Refused { count, first } => {
                write!(f, "{count} error replies, the first: {first}")
            }
            Error::Wrong {
                mismatches,
                undelivered,
                first,
            } => {
                let colon = if first.is_empty() { "" } else { ": " };
                write!(
                    f,
                    "{mismatches} wrong replies, {undelivered} messages lost{colon}{first}"
                )
            }
            Error::Broken {
                source,
                requests,
                seconds,
            } => write!(
                f,
                "{source}; broken off {seconds:.2} s after the start with {requests} requests answered, \
                 nothing is averaged"
            ),
            Error::Silent => write!(f, "no request was answered in the time measured"),
            Error::Missing { stored, keys } => {
                write!(f, "the server holds {stored} keys instead of {keys}")
            }
            Error::NoProcess { pid } => write!(f, "there is no process {pid}"),
            Error::Stuck { outstanding } => {
                write!(f, "{outstanding} requests unanswered for ten seconds")
            }
            Error::Engine { name, why, log } => {
                write!(f, "{name} {why}")?;
                log.iter()
                    .try_for_each(|line| write!(f, "\n    {name}: {line}"))
            }
            Error::NoEngines => write!(f, "none of the chosen engines is installed here"),
            Error::NoRecord { dir } => write!(f, "no record in {}", dir.display()),
            Error::Stopped => write!(f, "interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl From<lexopt::Error> for Error {
    fn from(e: lexopt::Error) -> Self {
        Error::Usage(e)
    }
}
