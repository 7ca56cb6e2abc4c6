//! The supervisor's own socket: who wants an upgrade, and what they are told.
//!
//! A caller sends one line, `upgrade PATH`, and is answered with lines: `. TEXT` is how far it is, and the
//! last one is `+ TEXT` if the new program serves, or `- TEXT` with the reason if it does not.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use uring::{pass, process};

use super::SuperviseError;
use crate::shard::log;

/// Callers at a time.
const CALLERS_MAX: usize = 16;
/// The longest line, which is a path and a word.
const LINE_MAX: usize = 8192;
/// A caller says what it wants within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket and who is connected.
pub(super) struct Desk {
    path: PathBuf,
    listener: UnixListener,
    callers: Vec<Caller>,
    last: u64,
}

struct Caller {
    number: u64,
    stream: UnixStream,
    heard: Vec<u8>,
    since: Instant,
    /// It has said what it wants.
    waits: bool,
}

impl Desk {
    /// Opens the socket; only this user can reach it.
    ///
    /// # Errors
    /// Another supervisor answers there, or what the operating system said.
    pub fn open(path: &Path) -> Result<Self, SuperviseError> {
        if process::connect_now(path).is_ok() {
            return Err(SuperviseError::Taken(path.into()));
        }
        let opened = Self::bind(path);
        opened.map_err(|error| SuperviseError::Control(path.into(), error))
    }

    fn bind(path: &Path) -> io::Result<Self> {
        // Nobody can connect before it is closed to others.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&beside, path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            path: path.into(),
            listener,
            callers: Vec::new(),
            last: 0,
        })
    }

    /// What there is to wait for: the listener, then the callers.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let callers = self.callers.iter().map(|caller| caller.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(callers)
    }

    /// Hears everybody: the numbers of callers who want an upgrade now, and to which program.
    pub fn hear(&mut self) -> Vec<(u64, String)> {
        while let Ok((stream, _)) = self.listener.accept() {
            let user = pass::peer_user(&stream);
            if !user.is_some_and(|user| user == pass::own_user() || user == 0) {
                log("a caller of another user was turned away");
                continue;
            }
            if self.callers.len() < CALLERS_MAX && stream.set_nonblocking(true).is_ok() {
                self.last += 1;
                self.callers.push(Caller {
                    number: self.last,
                    stream,
                    heard: Vec::new(),
                    since: Instant::now(),
                    waits: false,
                });
            }
        }
        let mut wanted = Vec::new();
        self.callers.retain_mut(|caller| match caller.hear() {
            Heard::More => caller.waits || caller.since.elapsed() < PATIENCE,
            Heard::Upgrade(binary) => {
                wanted.push((caller.number, binary));
                true
            }
            Heard::Nonsense => {
                caller.say("- that is not understood");
                false
            }
            Heard::End => false,
        });
        wanted
    }

    /// Tells a caller, if it is still there.
    pub fn say(&mut self, number: u64, text: &str) {
        let caller = self
            .callers
            .iter_mut()
            .find(|caller| caller.number == number);
        if let Some(caller) = caller {
            caller.say(text);
        }
    }

    /// Tells a caller how it ended, and lets it go.
    pub fn finish(&mut self, number: u64, outcome: &Result<String, String>) {
        let text = match outcome {
            Ok(text) => format!("+ {text}"),
            Err(text) => format!("- {text}"),
        };
        self.say(number, &text);
        self.callers.retain(|caller| caller.number != number);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // It was ours; without a supervisor nobody answers there.
        let _ = fs::remove_file(&self.path);
    }
}

enum Heard {
    More,
    Upgrade(String),
    Nonsense,
    End,
}

impl Caller {
    fn hear(&mut self) -> Heard {
        let mut bytes = [0; 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Heard::End,
            Ok(len) => self.heard.extend_from_slice(&bytes[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Heard::More,
            Err(_) => return Heard::End,
        }
        let Some((b'\n', line)) = self.heard.split_last() else {
            return if self.heard.len() > LINE_MAX {
                Heard::Nonsense
            } else {
                Heard::More
            };
        };
        let line = std::str::from_utf8(line).ok();
        let binary = line.and_then(|line| line.strip_prefix("upgrade "));
        match binary {
            Some(binary) if !self.waits && binary.starts_with('/') && !binary.contains('\n') => {
                self.waits = true;
                Heard::Upgrade(binary.into())
            }
            _ => Heard::Nonsense,
        }
    }

    /// Who does not read what it is told is told less.
    fn say(&mut self, text: &str) {
        let line = text.replace('\n', " ") + "\n";
        let _ = self.stream.write_all(line.as_bytes());
    }
}
