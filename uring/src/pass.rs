//! Descriptors on their way from one process to another, over a Unix stream socket.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::net;

/// Descriptors that one send may carry: the kernel's limit (`SCM_MAX_FD`, unix(7)).
pub const DESCRIPTORS_MAX: usize = 253;

/// Room for the kernel's notes of one message, aligned as it wants them.
#[repr(C, align(8))]
struct Notes([u8; NOTES_LEN]);

const FD_LEN: usize = size_of::<RawFd>();
// SAFETY: plain arithmetic on an integer.
const NOTES_LEN: usize = unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * FD_LEN) as u32) } as usize;

/// Sends bytes, at least one, and up to [`DESCRIPTORS_MAX`] descriptors with the first of them. Blocks. The
/// receiver gets duplicates; ours stay open. How many bytes were sent; the descriptors were in any case.
///
/// # Errors
/// What sendmsg said, `ETOOMANYREFS` where too many descriptors of this user are on their way; nothing was
/// sent then.
pub fn send_descriptors(line: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
    if bytes.is_empty() || fds.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut notes = Notes([0; NOTES_LEN]);
    let mut piece = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut header = empty_header();
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let len = (fds.len() * FD_LEN) as u32;
        header.msg_control = (&raw mut notes).cast();
        // SAFETY: plain arithmetic on an integer.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as _;
        // SAFETY: the header points to `notes`, which has room for one note with this many descriptors, as
        // was checked above, so that the first note and its data lie within it.
        unsafe {
            let note = libc::CMSG_FIRSTHDR(&raw const header);
            (*note).cmsg_level = libc::SOL_SOCKET;
            (*note).cmsg_type = libc::SCM_RIGHTS;
            (*note).cmsg_len = libc::CMSG_LEN(len) as _;
            let data = libc::CMSG_DATA(note).cast::<RawFd>();
            for (at, fd) in fds.iter().enumerate() {
                data.add(at).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: header, notes and bytes outlive the call, which only reads them.
    let sent = unsafe { libc::sendmsg(line.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives what one [`send_descriptors`] sent, or a part of its bytes: with the first of them come its
/// descriptors. Blocks as long as the stream's read time-out says. No bytes: the other side has ended.
///
/// # Errors
/// What recvmsg said.
pub fn receive_descriptors(
    line: &UnixStream,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut notes = Notes([0; NOTES_LEN]);
    let mut piece = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut header = empty_header();
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut notes).cast();
    header.msg_controllen = NOTES_LEN as _;
    // SAFETY: header, notes and bytes outlive the call, which writes no more than the lengths given.
    let got = unsafe { libc::recvmsg(line.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has written whole notes into `notes` and their length into the header; a note of
    // descriptors holds as many as its length says, each a new one that nobody else owns.
    unsafe {
        let mut note = libc::CMSG_FIRSTHDR(&raw const header);
        while !note.is_null() {
            if (*note).cmsg_level == libc::SOL_SOCKET && (*note).cmsg_type == libc::SCM_RIGHTS {
                let len = (*note).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(note).cast::<RawFd>();
                for at in 0..len / FD_LEN {
                    fds.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            note = libc::CMSG_NXTHDR(&raw const header, note);
        }
    }
    Ok((got, fds))
}

/// The user that runs the process at the other end, as of when it connected, or when it began to listen.
pub fn peer_user(line: &UnixStream) -> Option<u32> {
    net::peer_user(line)
}

/// The user that runs this process, by whose rights it acts.
pub fn own_user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

fn empty_header() -> libc::msghdr {
    // SAFETY: zeros are a valid value of this plain C struct (null pointers, no lengths).
    unsafe { std::mem::zeroed() }
}

const _: () = assert!(size_of::<c_int>() == FD_LEN);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn descriptors_come_with_the_bytes_they_were_sent_with() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pairs: Vec<_> = (0..DESCRIPTORS_MAX)
            .map(|_| UnixStream::pair().unwrap())
            .collect();
        let fds = |from: usize| -> Vec<OwnedFd> {
            let copies = pairs[from..]
                .iter()
                .map(|(_, far)| far.try_clone().unwrap());
            copies.map(OwnedFd::from).collect()
        };
        assert_eq!(send_descriptors(&ours, b"first", &fds(0)).unwrap(), 5);
        assert_eq!(send_descriptors(&ours, b"plain", &[]).unwrap(), 5);
        assert_eq!(
            send_descriptors(&ours, b"x", &fds(DESCRIPTORS_MAX - 1)).unwrap(),
            1
        );
        let mut bytes = [0; 64];
        let (len, all) = receive_descriptors(&theirs, &mut bytes).unwrap();
        assert_eq!((&bytes[..len], all.len()), (&b"first"[..], DESCRIPTORS_MAX));
        let mut rest = [0; 5];
        (&theirs).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"plain");
        let (len, one) = receive_descriptors(&theirs, &mut bytes).unwrap();
        assert_eq!((&bytes[..len], one.len()), (&b"x"[..], 1));
        for (at, fd) in all.into_iter().enumerate() {
            UnixStream::from(fd).write_all(&[at as u8]).unwrap();
            let mut byte = [0];
            (&pairs[at].0).read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], at as u8);
        }
        drop(ours);
        assert_eq!(receive_descriptors(&theirs, &mut bytes).unwrap().0, 0);
        assert_eq!(peer_user(&theirs), Some(own_user()));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(send_descriptors(&ours, b"", &[]).is_err());
        let fds: Vec<OwnedFd> = (0..=DESCRIPTORS_MAX)
            .map(|_| ours.try_clone().unwrap().into())
            .collect();
        assert!(send_descriptors(&ours, b"x", &fds).is_err());
    }
}
