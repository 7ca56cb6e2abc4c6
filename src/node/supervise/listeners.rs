//! The listeners of a service: opened, taken over from a service manager, or had back from the running node.

use std::{
    io,
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use uring::{Endpoint, affinity, pass, process, sys};

use super::{SuperviseError, random_id};
use crate::{
    handoff::{Decoder, Message, Role, VERSION, wire::LENDS},
    node::{Options, claim},
};

/// Clients that may wait for a process.
const BACKLOG: u32 = 1024;
/// How long a node may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Listeners and their names.
pub(super) struct Listeners {
    pub names: Vec<String>,
    pub fds: Vec<OwnedFd>,
}

impl Listeners {
    /// Opens as many on each address as the node has cores, so that the kernel spreads clients over them.
    ///
    /// # Errors
    /// An address is none, or taken.
    pub fn open(options: &Options, unix: Option<&str>) -> Result<Self, SuperviseError> {
        let cores = affinity::usable_cores().len();
        let cores = options.threads.unwrap_or(cores).max(1);
        let (mut tcp, mut local) = (Vec::new(), Vec::new());
        for text in &options.bind {
            let address: Result<IpAddr, _> = text.parse();
            let address = address.map_err(|_| SuperviseError::Address(text.clone()))?;
            let at = SocketAddr::new(address, options.port);
            let listen = |error| SuperviseError::Listen(at.to_string(), error);
            // Those of several cores share the port, so another one's would be shared, too.
            let _claim = claim(at).map_err(listen)?;
            let most = pass::DESCRIPTORS_MAX - 1;
            for _ in 0..cores.min(most / options.bind.len()).max(1) {
                tcp.push(sys::listener(&Endpoint::Tcp(at), BACKLOG).map_err(listen)?);
            }
        }
        if let Some(path) = unix {
            let listen = |error| SuperviseError::Listen(path.into(), error);
            local.push(sys::listener(&Endpoint::Unix(path.into()), BACKLOG).map_err(listen)?);
        }
        Ok(Self::named(tcp, local))
    }

    /// Takes those that a service manager has opened (sd_listen_fds(3)). Before anything else is opened.
    ///
    /// # Errors
    /// What was left is no listener.
    pub fn inherited(var: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, SuperviseError> {
        let number = |name: &str| var(name).and_then(|text| text.parse::<u32>().ok());
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(None);
        }
        let count = number("LISTEN_FDS").unwrap_or(0);
        let count = u16::try_from(count)
            .ok()
            .filter(|count| usize::from(*count) <= pass::DESCRIPTORS_MAX);
        let count = count.ok_or(SuperviseError::Inherited(ErrorKind::InvalidInput.into()))?;
        if count == 0 {
            return Ok(None);
        }
        let (fds, _) = sys::inherit(count, None).map_err(SuperviseError::Inherited)?;
        let (mut tcp, mut local) = (Vec::new(), Vec::new());
        for fd in fds {
            let listener = TcpListener::from(fd);
            match listener.local_addr() {
                Ok(_) => tcp.push(listener.into()),
                Err(_) => local.push(listener.into()),
            }
        }
        Ok(Some(Self::named(tcp, local)))
    }

    fn named(tcp: Vec<OwnedFd>, local: Vec<OwnedFd>) -> Self {
        let name = |kind: &'static str| move |at: usize| format!("{kind}-{at}");
        let mut names: Vec<String> = (0..tcp.len()).map(name("resp")).collect();
        names.extend((0..local.len()).map(name("unix")));
        Self {
            names,
            fds: tcp.into_iter().chain(local).collect(),
        }
    }
}

/// Who answers supervisors.
pub(super) struct Greeting {
    /// Its number.
    pub pid: u32,
    lends: bool,
    stream: UnixStream,
    decoder: Decoder,
}

impl Greeting {
    /// Asks at the path of a node. It serves if it answers: it opens the path when it does.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn hear(path: &Path) -> io::Result<Self> {
        let stream = process::connect_now(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut decoder = Decoder::default();
        let mut bytes = [0; 4096];
        loop {
            match decoder.take() {
                Ok(Some(Message::Hello {
                    role: Role::Incumbent,
                    pid,
                    capabilities,
                    ..
                })) => {
                    let lends = capabilities & LENDS != 0;
                    return Ok(Self {
                        pid,
                        lends,
                        stream,
                        decoder,
                    });
                }
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return Err(ErrorKind::InvalidData.into()),
            }
            match (&stream).read(&mut bytes)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                len => decoder.push(&bytes[..len]),
            }
        }
    }

    /// Has the listeners given back.
    ///
    /// # Errors
    /// The node does not do that, or has none.
    pub fn ask(mut self) -> io::Result<Listeners> {
        if !self.lends {
            return Err(ErrorKind::Unsupported.into());
        }
        let mut bytes = Vec::new();
        let ack = Message::HelloAck {
            version: VERSION,
            id: random_id(),
        };
        ack.encode(&mut bytes);
        Message::Ask.encode(&mut bytes);
        io::Write::write_all(&mut self.stream, &bytes)?;
        let (mut fds, mut room) = (Vec::new(), [0; 4096]);
        loop {
            let (len, more) = pass::receive_descriptors(&self.stream, &mut room)?;
            fds.extend(more);
            self.decoder.push(&room[..len]);
            match self.decoder.take() {
                Ok(Some(Message::Listeners(names))) => {
                    let are_good = fds.iter().all(|fd| process::is_listener(fd.as_fd()));
                    return match !names.is_empty() && names.len() == fds.len() && are_good {
                        true => Ok(Listeners { names, fds }),
                        false => Err(ErrorKind::Unsupported.into()),
                    };
                }
                Ok(None) if len > 0 => {}
                _ => return Err(ErrorKind::InvalidData.into()),
            }
        }
    }
}
