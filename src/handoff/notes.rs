//! What a supervisor writes down, so that one that takes its place finds the processes.
//!
//! ```text
//! ringkeep-supervisor 1
//! node 4711 880134 /usr/bin/ringkeep
//! handoff 101112131415461798191a1b1c1d1e1f load 4750 881207 /usr/bin/ringkeep
//! ```
//!
//! The process that serves, and the one that is to while a handoff is under way, with how far it is: each
//! with its number, the moment at which the kernel started it, and its program. The moment tells a process
//! from a later one that has its number.

use std::fmt::Write;

use super::{FileFault, Id, supervisor::Step};

/// A process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Noted {
    /// Its number.
    pub pid: u32,
    /// When it was started, as the kernel counts that.
    pub started: u64,
    /// The path of its program; a path with a line end has none here.
    pub binary: String,
}

/// What is written down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notes {
    /// The process that serves.
    pub node: Option<Noted>,
    /// The handoff that is under way, how far it is, and the successor if there is one.
    pub handoff: Option<(Id, Step, Option<Noted>)>,
}

impl Notes {
    /// The text of the file.
    pub fn compose(&self) -> String {
        let mut text = format!("{TITLE}\n");
        // Writing to a string cannot fail.
        if let Some(node) = &self.node {
            let _ = writeln!(text, "node {node}");
        }
        if let Some((id, step, successor)) = &self.handoff {
            let _ = write!(text, "handoff {id} {}", step.word());
            if let Some(successor) = successor {
                let _ = write!(text, " {successor}");
            }
            text.push('\n');
        }
        text
    }

    /// Of the text of the file.
    ///
    /// # Errors
    /// [`FileFault::Form`].
    pub fn read(text: &[u8]) -> Result<Self, FileFault> {
        let parsed = std::str::from_utf8(text).ok().and_then(Self::parse);
        let whole = parsed.filter(|notes| notes.compose().as_bytes() == text);
        whole.ok_or(FileFault::Form)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == TITLE)?;
        let mut notes = Notes::default();
        for line in lines {
            match line.split_once(' ')? {
                ("node", rest) => notes.node = Some(Noted::parse(rest)?),
                ("handoff", rest) => {
                    let mut words = rest.splitn(3, ' ');
                    let id = Id::parse(words.next()?)?;
                    let word = words.next()?;
                    let step = Step::ALL.into_iter().find(|step| step.word() == word)?;
                    let successor = match words.next() {
                        None => None,
                        Some(rest) => Some(Noted::parse(rest)?),
                    };
                    notes.handoff = Some((id, step, successor));
                }
                _ => return None,
            }
        }
        Some(notes)
    }
}

impl Noted {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        Some(Noted {
            pid: words.next()?.parse().ok()?,
            started: words.next()?.parse().ok()?,
            binary: words.next()?.to_string(),
        })
    }
}

impl std::fmt::Display for Noted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} {}", self.pid, self.started, self.binary)
    }
}

const TITLE: &str = "ringkeep-supervisor 1";

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn noted(pid: u32, binary: &str) -> Noted {
        let binary = binary.into();
        Noted {
            pid,
            started: 12,
            binary,
        }
    }

    #[test]
    fn notes_are_read_as_they_were_written() {
        let id = Id([0x1f; 16]);
        let node = Some(noted(1, "/a b/ringkeep"));
        let handoff = [
            None,
            Some((id, Step::Start, None)),
            Some((id, Step::Load, Some(noted(2, "/c")))),
        ];
        for handoff in handoff {
            let notes = Notes {
                node: node.clone(),
                handoff,
            };
            assert_eq!(Notes::read(notes.compose().as_bytes()), Ok(notes));
        }
        let nothing = Notes::default();
        assert_eq!(Notes::read(nothing.compose().as_bytes()), Ok(nothing));
    }

    #[test]
    fn what_is_cut_or_something_else_is_refused() {
        let handoff = Some((Id([1; 16]), Step::Seal, Some(noted(2, "/c"))));
        let text = Notes {
            node: Some(noted(1, "/a")),
            handoff,
        }
        .compose();
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        for at in (0..text.len()).filter(|at| !ends.contains(at)) {
            assert!(Notes::read(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        for (from, to) in [
            ("seal", "sael"),
            ("node", "mode"),
            ("12", "+12"),
            (" 1\n", " 2\n"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert!(Notes::read(changed.as_bytes()).is_err(), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in vec(any::<u8>(), 0..200)) {
            let _ = Notes::read(&text);
        }
    }
}
