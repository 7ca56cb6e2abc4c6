//! A process of the service: one that was started here, or was found.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, Stdio},
    time::Instant,
};

use uring::process::{self, Process};

use super::listeners::Listeners;
use crate::{base::Ms, handoff::Noted};

/// A process that serves, or is to, or did.
pub(super) struct Node {
    /// What is written down of it.
    pub noted: Noted,
    /// To signal it, and to be told of its end.
    pub process: Process,
    /// Only of one that was started here.
    child: Option<Child>,
    /// It has said that it serves.
    pub is_ready: bool,
    /// Since when it is known.
    pub since: Instant,
}

/// How a process ended.
pub(super) struct End {
    /// In order, if that is known.
    pub is_well: bool,
    /// By the signal that asks for it, which it did not handle yet, or perhaps so.
    pub was_asked: bool,
    /// In words: "ended with status 1".
    pub how: String,
}

impl Node {
    /// Starts a program with the listeners and, if it is a successor, its channel and how long its hello is
    /// waited for.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        binary: &str,
        args: &[String],
        listeners: &Listeners,
        channel: Option<(&UnixStream, Ms)>,
    ) -> io::Result<Self> {
        let mut command = Command::new(binary);
        command.args(args).stdin(Stdio::null());
        // What the terminal sends is for the supervisor, which passes on what the node is to know.
        command.process_group(0);
        let count = listeners.fds.len();
        command.env("LISTEN_FDS", count.to_string());
        command.env("LISTEN_FDNAMES", listeners.names.join(":"));
        // These are of the supervisor, or of an earlier handoff.
        for name in [
            "LISTEN_PID",
            "NOTIFY_SOCKET",
            "WATCHDOG_PID",
            "WATCHDOG_USEC",
        ] {
            command.env_remove(name);
        }
        match channel {
            Some((_, hello_ms)) => {
                command.env("HANDOFF_ROLE", "successor");
                command.env("HANDOFF_HELLO_MS", hello_ms.to_string());
                command.env("HANDOFF_SOCK_FD", (3 + count).to_string())
            }
            None => command
                .env_remove("HANDOFF_ROLE")
                .env_remove("HANDOFF_SOCK_FD")
                .env_remove("HANDOFF_HELLO_MS"),
        };
        let mut left: Vec<_> = listeners.fds.iter().map(AsFd::as_fd).collect();
        left.extend(channel.map(|(channel, _)| channel.as_fd()));
        process::leave(&mut command, &left);
        let mut child = command.spawn()?;
        let found = Self::find(child.id(), binary);
        match found {
            Ok(node) => Ok(Self {
                child: Some(child),
                ..node
            }),
            Err(error) => {
                // It cannot be watched, so it must not run.
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// A process that is there already.
    ///
    /// # Errors
    /// It is not.
    pub fn find(pid: u32, binary: &str) -> io::Result<Self> {
        let process = Process::open(pid)?;
        let noted = Noted {
            pid,
            started: started(pid)?,
            binary: binary.into(),
        };
        Ok(Self {
            noted,
            process,
            child: None,
            is_ready: false,
            since: Instant::now(),
        })
    }

    /// The one that was written down, if it still runs.
    pub fn find_again(noted: &Noted) -> Option<Self> {
        let node = Self::find(noted.pid, &noted.binary).ok()?;
        (node.noted == *noted).then_some(node)
    }

    /// How it ended. Once it has.
    pub fn end(&mut self) -> End {
        let status = self.child.as_mut().map(Child::wait);
        match status {
            Some(Ok(status)) => End {
                is_well: status.success(),
                was_asked: status.signal() == Some(process::ASKED),
                how: match status.code() {
                    Some(code) => format!("ended with status {code}"),
                    None => format!("was ended by a signal ({status})"),
                },
            },
            // Only its parent is told.
            _ => End {
                is_well: false,
                was_asked: true,
                how: "ended".into(),
            },
        }
    }
}

/// When the kernel started it, in ticks since it booted.
fn started(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name stands in parentheses and may hold anything.
    let behind = stat.rsplit_once(')').map(|(_, behind)| behind);
    // Field 22 of proc(5); the one behind the name is the third.
    let field = behind.and_then(|behind| behind.split_whitespace().nth(22 - 3));
    let number = field.and_then(|field| field.parse().ok());
    number.ok_or(io::ErrorKind::InvalidData.into())
}
