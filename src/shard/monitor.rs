//! MONITOR: every request of every core, shown to who asked for it.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use uring::SocketId;

use super::{
    conn::Conn,
    message::{CoreId, Message},
    oddities::odd,
    state::State,
};
use crate::{
    cmd::{Verb, flag},
    resp::Args,
};

/// Who monitors.
#[derive(Default)]
pub(super) struct Monitors {
    /// Connections of this core.
    here: Vec<SocketId>,
    /// Other cores that have some.
    elsewhere: BTreeSet<CoreId>,
}

impl State {
    /// MONITOR.
    pub(super) fn start_monitoring(&mut self, conn: &mut Conn) {
        if conn.monitors {
            return;
        }
        conn.monitors = true;
        self.monitors.here.push(conn.socket);
        if self.monitors.here.len() == 1 {
            self.announce_monitors(true);
        }
        conn.out.ok();
    }

    pub(super) fn end_monitoring(&mut self, conn: &mut Conn) {
        if !std::mem::take(&mut conn.monitors) {
            return;
        }
        self.monitors.here.retain(|socket| *socket != conn.socket);
        if self.monitors.here.is_empty() {
            self.announce_monitors(false);
        }
    }

    fn announce_monitors(&mut self, on: bool) {
        self.tell_all(|| Message::Monitored(on));
        self.note_monitors();
    }

    /// Another core has clients that monitor, or no longer.
    pub(super) fn on_monitored(&mut self, core: CoreId, on: bool) {
        if on {
            self.monitors.elsewhere.insert(core);
        } else {
            self.monitors.elsewhere.remove(&core);
        }
        self.note_monitors();
    }

    fn note_monitors(&mut self) {
        if self.monitors.here.is_empty() && self.monitors.elsewhere.is_empty() {
            self.odd &= !odd::MONITORED;
        } else {
            self.odd |= odd::MONITORED;
        }
    }

    /// Shows a client's request, unless it is one for operators.
    pub(super) fn show(&mut self, conn: &Conn, args: Args<'_>) {
        let Some(spec) = self.table.find(args.at(0)) else {
            return;
        };
        let for_operators = [
            "client|kill",
            "client|list",
            "client|no-evict",
            "client|pause",
            "client|unblock",
            "client|unpause",
        ];
        let is_hidden = match spec.subcommand(args) {
            Ok(full) => full.is_some_and(|full| for_operators.contains(&full)),
            Err(_) => true,
        };
        if !is_hidden && spec.flags & flag::ADMIN == 0 {
            let hides = match () {
                _ if spec.run_is(Verb::Auth) => 1,
                _ if spec.run_is(Verb::Hello) => {
                    let mut words = args.iter();
                    let at = words.position(|word| word.eq_ignore_ascii_case(b"auth"));
                    at.map_or(usize::MAX, |at| at + 1)
                }
                _ => usize::MAX,
            };
            let from = conn.peer_text();
            self.feed_hiding(conn.db, &from, args, hides);
        }
    }

    /// Shows a request that EXEC runs.
    #[inline]
    pub(super) fn show_queued(&mut self, conn: &Conn, args: Args<'_>) {
        if self.odd & odd::MONITORED != 0 {
            self.show(conn, args);
        }
    }

    /// Shows a command that a script called, or another one whose arguments may be seen.
    pub(super) fn feed(&mut self, db: usize, from: &str, args: Args<'_>) {
        self.feed_hiding(db, from, args, usize::MAX);
    }

    fn feed_hiding(&mut self, db: usize, from: &str, args: Args<'_>, hides: usize) {
        let line = line(db, from, args, hides);
        for core in self.monitors.elsewhere.clone() {
            self.mesh.send(core, Message::Line(line.clone()));
        }
        if !self.monitors.here.is_empty() {
            self.lines.push(line);
        }
    }

    /// Writes pending lines to the clients that monitor. `current` is the connection being worked on,
    /// which is not in its place.
    pub(super) fn deliver_lines(&mut self, current: Option<&mut Conn>) {
        if self.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let mut current = current;
        for socket in self.monitors.here.clone() {
            self.with_conn(socket, &mut current, |conn| {
                for line in &lines {
                    conn.tell(|out| out.simple(line));
                }
            });
        }
    }
}

/// One line as Redis writes it; arguments from `hides` on, up to two, are not told.
fn line(db: usize, from: &str, args: Args<'_>, hides: usize) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut line = format!("{}.{:06} [{db} {from}]", now.as_secs(), now.subsec_micros());
    for (at, arg) in args.iter().enumerate() {
        line.push_str(" \"");
        if at >= hides && at - hides < 2 {
            line.push_str("(redacted)");
        } else {
            push_quoted(&mut line, arg);
        }
        line.push('"');
    }
    line
}

fn push_quoted(line: &mut String, text: &[u8]) {
    for byte in text {
        match byte {
            b'\\' | b'"' => {
                line.push('\\');
                line.push(char::from(*byte));
            }
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            7 => line.push_str("\\a"),
            8 => line.push_str("\\b"),
            b' '..=b'~' => line.push(char::from(*byte)),
            _ => line.push_str(&format!("\\x{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::OwnedArgs;

    #[test]
    fn a_line_quotes_what_is_not_plain_and_hides_passwords() {
        let args = OwnedArgs::copy([b"a".as_slice(), b"b\"\\\n\x00\xff c"]);
        let line = line(3, "lua", args.as_args(), usize::MAX);
        let (_, shown) = line.split_once(' ').unwrap_or_default();
        assert_eq!(shown, r#"[3 lua] "a" "b\"\\\n\x00\xff c""#);
        let args = OwnedArgs::copy([b"AUTH".as_slice(), b"user", b"word"]);
        let line = super::line(0, "x", args.as_args(), 1);
        assert!(
            line.ends_with(r#""AUTH" "(redacted)" "(redacted)""#),
            "{line}"
        );
    }
}
