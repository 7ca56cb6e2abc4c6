//! Rousing a ring from another thread: an eventfd whose read is armed on the ring.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::net::check;
use crate::reactor::Wake;

/// Rouses one [`KernelReactor`](crate::KernelReactor). May outlive it; then it does nothing.
#[derive(Clone, Debug)]
pub struct KernelWaker(Arc<OwnedFd>);

impl KernelWaker {
    pub(crate) fn new() -> io::Result<KernelWaker> {
        // Blocking on purpose: the first 5.10 ends reads of non-blocking descriptors at once.
        // SAFETY: plain integers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        Ok(KernelWaker(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }
}

impl KernelWaker {
    /// Another descriptor of the same eventfd.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl AsRawFd for KernelWaker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Wake for KernelWaker {
    fn wake(&self) {
        wake_descriptor(self.as_raw_fd());
    }
}

/// One write, so fit for a signal handler. Blocks only after 2^64 - 2 wakes that nobody took.
pub(crate) fn wake_descriptor(fd: RawFd) {
    let one = 1_u64;
    // SAFETY: the kernel reads eight bytes of this stack frame during the call.
    unsafe { libc::write(fd, (&raw const one).cast(), size_of::<u64>()) };
}
