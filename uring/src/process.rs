//! What a program needs that starts others and looks after them. No ring is met here.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use libc::c_int;

use crate::net::{self, Address, check};
use crate::reactor::Endpoint;

/// The signal that asks a process to end.
pub const ASKED: c_int = libc::SIGTERM;

/// The first number under which a program finds descriptors that were left to it.
const FIRST_LEFT: RawFd = 3;

/// A signal that a supervisor knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGHUP.
    Hangup,
    /// SIGINT or SIGTERM.
    Terminate,
}

/// Signals of this process as something to read. They do not interrupt the thread that made it, nor any
/// thread that is started later. Programs inherit that unless they are started with [`leave`].
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Takes SIGHUP, SIGINT and SIGTERM over. Before any other thread is started.
    ///
    /// # Errors
    /// What sigprocmask or signalfd said.
    pub fn new() -> io::Result<Self> {
        // SAFETY: zeros are a valid value of this plain C struct, and both calls write only to it.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
                libc::sigaddset(&raw mut set, signal);
            }
            set
        };
        // SAFETY: the kernel reads one set on this stack frame during the call.
        check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) })?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: as above.
        let fd = check(unsafe { libc::signalfd(-1, &raw const set, flags) })?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next one that has come; `None` if there is none.
    pub fn take(&self) -> Option<Signal> {
        // SAFETY: zeros are a valid value of this plain C struct.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most the given length into a struct of that size, during the call.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), len) };
        (got == len as isize).then_some(match info.ssi_signo as c_int {
            libc::SIGHUP => Signal::Hangup,
            _ => Signal::Terminate,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A process that may be another one's child. No later process with its number is taken for it.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// What pidfd_open(2) said: there is none. Since Linux 5.3.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| ErrorKind::InvalidInput)?;
        // SAFETY: plain integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = check(fd as c_int)?;
        // SAFETY: the kernel just made this descriptor for us, close-on-exec; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Asks it to end, or ends it. Nothing happens to one that has ended.
    pub fn end(&self, at_once: bool) {
        let signal = if at_once { libc::SIGKILL } else { ASKED };
        let info: *const libc::siginfo_t = ptr::null();
        // SAFETY: plain integers, and no structure to read.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                info,
                0,
            )
        };
    }
}

/// Readable once the process has ended.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of them can be read from, or has ended, or so long: which ones. Interrupted, it finds
/// none.
///
/// # Errors
/// What poll said.
pub fn wait(fds: &[BorrowedFd<'_>], limit: Duration) -> io::Result<Vec<bool>> {
    let waited = |fd: &BorrowedFd<'_>| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled: Vec<libc::pollfd> = fds.iter().map(waited).collect();
    // A part of a millisecond would be a busy loop.
    let ms = c_int::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
    let count = polled.len() as libc::nfds_t;
    // SAFETY: the kernel reads and writes exactly the entries of the vector, during the call.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), count, ms) }) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(polled.iter().map(|polled| polled.revents != 0).collect()),
    }
}

/// Leaves descriptors to the program that the command starts, under the numbers from 3 on, in this order. All
/// signals reach it, whatever [`Signals`] took over here.
pub fn leave(command: &mut Command, fds: &[BorrowedFd<'_>]) {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut copies = vec![-1; fds.len()];
    let first_free = FIRST_LEFT + fds.len() as RawFd;
    // SAFETY: zeros are a valid value of this plain C struct, and the call writes only to it.
    let none = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    };
    let place = move || {
        // SAFETY: the kernel reads one set that the closure owns, during the call.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) })?;
        // Above all of the places first: one of them may be a descriptor that is still to be copied.
        for (copy, fd) in copies.iter_mut().zip(&fds) {
            // SAFETY: plain integers.
            *copy = check(unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, first_free) })?;
        }
        for (place, copy) in (FIRST_LEFT..).zip(&copies) {
            // SAFETY: plain integers. What was at that place belongs to the program that is about to be left.
            check(unsafe { libc::dup2(*copy, place) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it calls sigprocmask, fcntl and dup2 only and allocates nothing; its
    // vectors were made before. The caller's descriptors are its own and stay as they are in this process.
    unsafe { command.pre_exec(place) };
}

/// Connects without waiting; where the other end has too many waiting, that is an error.
///
/// # Errors
/// What socket or connect said.
pub fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let at = Endpoint::Unix(path.to_path_buf());
    let (address, fd) = (Address::new(&at)?, net::outgoing(&at)?);
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    // SAFETY: the kernel reads `len` bytes of the address during the call.
    check(unsafe { libc::connect(stream.as_raw_fd(), address.as_ptr(), address.size()) })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Is this a listener for connections?
pub fn is_listener(fd: BorrowedFd<'_>) -> bool {
    net::is_listener(fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::IntoRawFd;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_program_finds_what_was_left_to_it_from_number_three_on() {
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let (mut other_near, other_far) = UnixStream::pair().expect("a pair");
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "echo three >&3; echo four >&4
             ls -l /proc/self/fd | grep -cF \"$(readlink /proc/self/fd/3)\"",
        ]);
        leave(&mut command, &[far.as_fd(), other_far.as_fd()]);
        let output = command
            .stdin(Stdio::null())
            .output()
            .expect("there is a shell");
        drop((far, other_far));
        let (mut three, mut four) = (String::new(), String::new());
        near.read_to_string(&mut three).expect("it ends");
        other_near.read_to_string(&mut four).expect("it ends");
        assert_eq!((three.as_str(), four.as_str()), ("three\n", "four\n"));
        // No copy of it is left on the way.
        assert_eq!(output.stdout.trim_ascii(), b"1");
    }

    #[test]
    fn the_end_of_a_process_can_be_waited_for_by_anybody() {
        // What is kept from us is not kept from it.
        let _signals = Signals::new().expect("nobody else has them");
        let mut command = Command::new("/bin/sleep");
        leave(command.arg("60"), &[]);
        let mut child = command.spawn().expect("there is one");
        let process = Process::open(child.id()).expect("it lives");
        let waited = wait(&[process.as_fd()], Duration::ZERO).expect("it works");
        assert_eq!(waited, [false]);
        process.end(false);
        let waited = wait(&[process.as_fd()], Duration::from_secs(30)).expect("it works");
        assert_eq!(waited, [true]);
        child.wait().expect("it is ours");
        assert!(Process::open(child.id()).is_err());
        process.end(true);
    }

    #[test]
    fn nobody_is_waited_for_where_nobody_listens() {
        let folder = std::env::temp_dir().join(format!("ringkeep-connect-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("socket");
        assert!(connect_now(&path).is_err());
        let listener = net::listen(&Endpoint::Unix(path.clone()), 1).expect("a listener");
        assert!(is_listener(listener.as_fd()));
        let stream = connect_now(&path).expect("it listens");
        assert!(stream.peer_addr().is_ok());
        // Nobody accepts: after a few there is no room, which is no reason to wait.
        let rest: Vec<_> = (0..8).map(|_| connect_now(&path)).collect();
        assert!(rest.iter().any(Result::is_err));
        let _ = listener.into_raw_fd();
        std::fs::remove_dir_all(folder).expect("it is ours");
    }
}
