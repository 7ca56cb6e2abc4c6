//! Sockets by system call: making, addressing and ending them. Everything else goes through the ring.

use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::reactor::Endpoint;

/// An address in the kernel's form.
pub(crate) struct Address {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Address {
    /// # Errors
    /// A Unix path that does not fit into the kernel's form.
    pub fn new(endpoint: &Endpoint) -> io::Result<Address> {
        match endpoint {
            Endpoint::Tcp(at) => Ok(Address::tcp(at)),
            Endpoint::Unix(path) => Address::unix(path),
        }
    }

    fn empty() -> Address {
        // SAFETY: a socket address of zeros is a valid value of this plain C struct.
        let storage = unsafe { std::mem::zeroed() };
        Address { storage, len: 0 }
    }

    fn tcp(at: &SocketAddr) -> Address {
        let mut address = Address::empty();
        match at {
            SocketAddr::V4(at) => {
                let plain = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: at.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from(*at.ip()).to_be(),
                    },
                    sin_zero: [0; 8],
                };
                address.set(plain);
            }
            SocketAddr::V6(at) => {
                let plain = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: at.port().to_be(),
                    sin6_flowinfo: at.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: at.ip().octets(),
                    },
                    sin6_scope_id: at.scope_id(),
                };
                address.set(plain);
            }
        }
        address
    }

    fn unix(path: &Path) -> io::Result<Address> {
        // SAFETY: zeros are a valid value of this plain C struct.
        let mut plain: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        plain.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let bytes = path.as_os_str().as_bytes();
        // One byte stays zero as the end mark; a path with a zero would be cut silently.
        if bytes.len() >= plain.sun_path.len() || bytes.is_empty() || bytes.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        for (to, from) in plain.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        let mut address = Address::empty();
        address.set(plain);
        Ok(address)
    }

    fn set<T>(&mut self, plain: T) {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        // SAFETY: the storage is large enough, as just asserted, and aligned for every address type.
        unsafe { (&raw mut self.storage).cast::<T>().write(plain) };
        self.len = size_of::<T>() as libc::socklen_t;
    }

    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub fn size(&self) -> libc::socklen_t {
        self.len
    }

    fn to_tcp(&self) -> Option<SocketAddr> {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the kernel wrote this form; the storage holds it.
                let plain = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(plain.sin_addr.s_addr));
                Some(SocketAddr::V4(SocketAddrV4::new(
                    ip,
                    u16::from_be(plain.sin_port),
                )))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let plain = unsafe {
                    (&raw const self.storage)
                        .cast::<libc::sockaddr_in6>()
                        .read()
                };
                let ip = Ipv6Addr::from(plain.sin6_addr.s6_addr);
                let port = u16::from_be(plain.sin6_port);
                let (flow, scope) = (plain.sin6_flowinfo, plain.sin6_scope_id);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
            }
            _ => None,
        }
    }
}

/// Opens a listener; see `Reactor::listen` for what it sets.
pub(crate) fn listen(at: &Endpoint, backlog: u32) -> io::Result<OwnedFd> {
    let address = Address::new(at)?;
    let fd = socket(at)?;
    if let Endpoint::Tcp(_) = at {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    }
    if let Endpoint::Tcp(SocketAddr::V6(_)) = at {
        // Otherwise ::1 and 127.0.0.1 on one port collide, depending on a sysctl.
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    if let Err(error) = bind(&fd, &address) {
        let Endpoint::Unix(path) = at else {
            return Err(error);
        };
        if error.raw_os_error() != Some(libc::EADDRINUSE) || !is_stale(path, &address)? {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        bind(&fd, &address)?;
    }
    let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
    // SAFETY: plain integers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(fd)
}

/// Takes a port that nobody may listen on, and keeps it without listening; see [`crate::sys::claim`].
pub(crate) fn claim(at: &SocketAddr) -> io::Result<OwnedFd> {
    let fd = socket(&Endpoint::Tcp(*at))?;
    // What was connected there and is over does not count.
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if at.is_ipv6() {
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    bind(&fd, &Address::tcp(at))?;
    // It does not share now, so this fails beside any listener and any other claim.
    // SAFETY: plain integers.
    check(unsafe { libc::listen(fd.as_raw_fd(), 1) })?;
    // From here on it takes no connection, and the port stays its own. Without SO_REUSEADDR, so that others
    // who have that are refused, too; who shares is not.
    // SAFETY: plain integers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD) })?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    Ok(fd)
}

/// A socket to connect with; the ring does the rest.
pub(crate) fn outgoing(to: &Endpoint) -> io::Result<OwnedFd> {
    let fd = socket(to)?;
    if let Endpoint::Tcp(_) = to {
        set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        set_option(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_S)?;
        set_option(
            &fd,
            libc::IPPROTO_TCP,
            libc::TCP_KEEPINTVL,
            KEEPALIVE_INTERVAL_S,
        )?;
        set_option(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES)?;
    }
    Ok(fd)
}

fn socket(endpoint: &Endpoint) -> io::Result<OwnedFd> {
    let family = match endpoint {
        Endpoint::Tcp(SocketAddr::V4(_)) => libc::AF_INET,
        Endpoint::Tcp(SocketAddr::V6(_)) => libc::AF_INET6,
        Endpoint::Unix(_) => libc::AF_UNIX,
    };
    // Sockets stay blocking: the first 5.10 ends operations on non-blocking ones at once.
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(fd: &OwnedFd, address: &Address) -> io::Result<()> {
    // SAFETY: the kernel reads `len` bytes of the address during the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.size()) }).map(drop)
}

/// True for a socket file that nobody listens on. Anything else at that path is not ours to remove.
fn is_stale(path: &Path, address: &Address) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = socket(&Endpoint::Unix(path.to_path_buf()))?;
    // A listener with a full queue must not hold us up.
    // SAFETY: plain integers.
    check(unsafe { libc::fcntl(probe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    // SAFETY: the kernel reads `len` bytes of the address during the call.
    let connected =
        check(unsafe { libc::connect(probe.as_raw_fd(), address.as_ptr(), address.size()) });
    Ok(matches!(connected, Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED)))
}

/// Has the kernel give a connection up whose other end acknowledges nothing for so long.
pub(crate) fn limit_silence(fd: &OwnedFd, ms: u32) {
    let ms = c_int::try_from(ms).unwrap_or(c_int::MAX);
    // What knows no such option, as a Unix socket, needs none.
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, ms);
}

fn set_option(fd: &OwnedFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one int on this stack frame during the call.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    check(done).map(drop)
}

/// The user of the process at the other end; `None` where the kernel does not know one.
pub(crate) fn peer_user(fd: &impl AsRawFd) -> Option<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: libc::uid_t::MAX,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: the kernel writes at most the given length into a struct of that size, during the call.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    (done == 0 && peer.pid != 0).then_some(peer.uid)
}

/// Has operations wait: the ring ends those on a socket that does not wait at once. The flag is that of all
/// processes that have the socket.
pub(crate) fn set_blocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain integers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let wanted = flags & !libc::O_NONBLOCK;
    if flags != wanted {
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) })?;
    }
    Ok(())
}

/// Is this a stream socket that listens?
pub(crate) fn is_listener(fd: RawFd) -> bool {
    let is_one = |name: c_int, wanted: c_int| {
        let (mut value, mut len) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
        let level = libc::SOL_SOCKET;
        // SAFETY: the kernel writes one int on this stack frame during the call.
        let done =
            unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
        done == 0 && value == wanted
    };
    is_one(libc::SO_TYPE, libc::SOCK_STREAM) && is_one(libc::SO_ACCEPTCONN, 1)
}

/// Is the other end of a connection on this machine?
pub(crate) fn is_near(fd: RawFd) -> bool {
    let Some(mut at) = peer_addr(fd) else {
        return true;
    };
    at.set_ip(at.ip().to_canonical());
    at.set_port(0);
    // Nobody binds to an address that is another machine's.
    at.ip().is_loopback() || std::net::UdpSocket::bind(at).is_ok()
}

/// The address at the other end; `None` for Unix sockets and connections that are gone.
pub(crate) fn peer_addr(fd: RawFd) -> Option<SocketAddr> {
    address_of(fd, libc::getpeername)
}

/// Our own address; `None` for Unix sockets.
pub(crate) fn local_addr(fd: RawFd) -> Option<SocketAddr> {
    address_of(fd, libc::getsockname)
}

type NameCall = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

fn address_of(fd: RawFd, call: NameCall) -> Option<SocketAddr> {
    let mut address = Address::empty();
    address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let storage = (&raw mut address.storage).cast();
    // SAFETY: the kernel writes at most the given length into storage of that size, during the call.
    let done = unsafe { call(fd, storage, &raw mut address.len) };
    if done != 0 {
        return None;
    }
    address.to_tcp()
}

/// Ends one direction (`SHUT_WR`) or both (`SHUT_RDWR`). Failure means that it had ended already.
pub(crate) fn shutdown(fd: RawFd, how: c_int) {
    // SAFETY: plain integers.
    unsafe { libc::shutdown(fd, how) };
}

pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A silent peer is noticed after about 30 + 3 x 10 seconds.
const KEEPALIVE_IDLE_S: c_int = 30;
const KEEPALIVE_INTERVAL_S: c_int = 10;
const KEEPALIVE_PROBES: c_int = 3;
