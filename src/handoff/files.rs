//! What processes that hand a data directory over leave in it.
//!
//! `handoff.gen` is one line, `OWNER PID TIME`: who had the directory last, counted. A process that takes the
//! directory raises the count before it changes anything, so who finds the count as it left it knows that
//! nobody has written since.
//!
//! `handoff.seal` says what the incumbent left behind:
//!
//! ```text
//! ringkeep-seal 1
//! id 101112131415461798191a1b1c1d1e1f
//! owner 7
//! shards 2
//! shard 0 3640114259558401 17
//! shard 1 3640114259558401 4
//! leads 12
//! asked 6379 10.0.0.1
//! follows nobody
//! sha256 ...
//! ```
//!
//! A line for each shard with the generation and the offset at which its journal ends; the epoch of elections
//! that the node led, if it led one; whom it was started to follow and whom it follows, if that is somebody
//! else since; and the checksum of all lines before the last one, which is also what the incumbent tells the
//! supervisor. A successor goes on only from exactly this.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{Id, parse_hex, write_hex};
use crate::base::{Ms, Position};

/// The name of the file with the [`Owner`].
pub const OWNER: &str = "handoff.gen";
/// The name of the file with the [`Seal`].
pub const SEAL: &str = "handoff.seal";

/// Shards that a node may have.
const SHARDS_MAX: usize = 4096;

/// Why a file is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileFault {
    /// It is not written like one.
    Form,
    /// The checksum is of something else.
    Sum,
}

impl std::fmt::Display for FileFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            FileFault::Form => "it is not written as one",
            FileFault::Sum => "the checksum does not match",
        })
    }
}

/// Who has the data directory, or had it last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// Counts those who had it.
    pub number: u64,
    /// The process.
    pub pid: u32,
    /// Since when.
    pub since: Ms,
}

impl Owner {
    /// The next one.
    pub fn next(self, pid: u32, now: Ms) -> Owner {
        Owner {
            number: self.number.saturating_add(1),
            pid,
            since: now,
        }
    }

    /// The text of the file.
    pub fn compose(&self) -> String {
        format!("{} {} {}\n", self.number, self.pid, self.since)
    }

    /// Of the text of the file.
    ///
    /// # Errors
    /// [`FileFault::Form`].
    pub fn read(text: &[u8]) -> Result<Owner, FileFault> {
        let read = || {
            let line = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
            let mut words = line.split(' ');
            let owner = Owner {
                number: number(words.next()?)?,
                pid: number(words.next()?)?.try_into().ok()?,
                since: number(words.next()?)?,
            };
            words.next().is_none().then_some(owner)
        };
        read().ok_or(FileFault::Form)
    }
}

/// What a sealed data directory holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seal {
    /// The handoff for which it was made.
    pub id: Id,
    /// The number of the owner that made it.
    pub owner: u64,
    /// Where the journal of each shard ends, as files name it.
    pub ends: Vec<Position>,
    /// The epoch that the node led, or 0.
    pub leads: u64,
    /// Set where the node does not follow whom it was started to follow.
    pub redirected: Option<Redirected>,
}

/// Somebody said that a node is to follow another one than it was started to follow: hosts and ports, none
/// for nobody. No host has a blank in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirected {
    /// As the node was started.
    pub asked: Option<(String, u16)>,
    /// As it is.
    pub follows: Option<(String, u16)>,
}

impl Seal {
    /// The text of the file, and its checksum.
    pub fn compose(&self) -> (String, [u8; 32]) {
        let mut text = format!("{TITLE}\nid {}\nowner {}\n", self.id, self.owner);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "shards {}", self.ends.len());
        for (shard, end) in self.ends.iter().enumerate() {
            let _ = writeln!(text, "shard {shard} {} {}", end.generation, end.offset);
        }
        if self.leads > 0 {
            let _ = writeln!(text, "leads {}", self.leads);
        }
        if let Some(Redirected { asked, follows }) = &self.redirected {
            for (what, whom) in [("asked", asked), ("follows", follows)] {
                let _ = match whom {
                    None => writeln!(text, "{what} nobody"),
                    Some((host, port)) => writeln!(text, "{what} {port} {host}"),
                };
            }
        }
        let sum: [u8; 32] = Sha256::digest(&text).into();
        let _ = writeln!(text, "sha256 {}", Sum(&sum));
        (text, sum)
    }

    /// Of the text of the file.
    ///
    /// # Errors
    /// [`FileFault`].
    pub fn read(text: &[u8]) -> Result<Seal, FileFault> {
        let text = std::str::from_utf8(text).map_err(|_| FileFault::Form)?;
        let (seal, sum) = Self::parse(text).ok_or(FileFault::Form)?;
        let (again, good) = seal.compose();
        match (sum == good, again == text) {
            (true, true) => Ok(seal),
            (false, _) => Err(FileFault::Sum),
            (true, false) => Err(FileFault::Form),
        }
    }

    fn parse(text: &str) -> Option<(Seal, [u8; 32])> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == TITLE)?;
        let id = Id::parse(lines.next()?.strip_prefix("id ")?)?;
        let owner = number(lines.next()?.strip_prefix("owner ")?)?;
        let count = number(lines.next()?.strip_prefix("shards ")?)?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= SHARDS_MAX)?;
        let mut ends = Vec::new();
        for shard in 0..count {
            let line = lines.next()?.strip_prefix("shard ")?;
            let mut words = line.split(' ').map(number);
            if words.next()?? != shard as u64 {
                return None;
            }
            ends.push(Position {
                generation: words.next()??,
                offset: words.next()??,
            });
        }
        let mut line = lines.next()?;
        let mut leads = 0;
        if let Some(epoch) = line.strip_prefix("leads ") {
            leads = number(epoch)?;
            line = lines.next()?;
        }
        let mut redirected = None;
        if let Some(asked) = line.strip_prefix("asked ") {
            redirected = Some(Redirected {
                asked: followed(asked)?,
                follows: followed(lines.next()?.strip_prefix("follows ")?)?,
            });
            line = lines.next()?;
        }
        let sum = parse_hex(line.strip_prefix("sha256 ")?)?;
        let seal = Seal {
            id,
            owner,
            ends,
            leads,
            redirected,
        };
        lines.next().is_none().then_some((seal, sum))
    }

    /// The offsets at which the shards end.
    pub fn revisions(&self) -> Vec<u64> {
        self.ends.iter().map(|end| end.offset).collect()
    }
}

const TITLE: &str = "ringkeep-seal 1";

struct Sum<'a>(&'a [u8; 32]);

impl std::fmt::Display for Sum<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_hex(self.0, out)
    }
}

/// Digits only: `parse` would also take a sign.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// Of `nobody` or `PORT HOST`.
fn followed(text: &str) -> Option<Option<(String, u16)>> {
    if text == "nobody" {
        return Some(None);
    }
    let (port, host) = text.split_once(' ')?;
    let port = u16::try_from(number(port)?).ok().filter(|port| *port > 0)?;
    Some(Some((host.to_string(), port)))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn seal() -> Seal {
        let at = |generation, offset| Position { generation, offset };
        Seal {
            id: Id([0xa5; 16]),
            owner: 7,
            ends: vec![at(3, 17), at(u64::MAX, 0)],
            leads: 0,
            redirected: None,
        }
    }

    #[test]
    fn whom_a_node_follows_is_read_as_it_was_written() {
        let to = |host: &str, port| Some((host.to_string(), port));
        for (asked, follows, text) in [
            (None, to("a", 1), "\nasked nobody\nfollows 1 a\nsha256 "),
            (
                to("::1", 65535),
                None,
                "\nasked 65535 ::1\nfollows nobody\nsha256 ",
            ),
            (
                to("a", 1),
                to("nobody", 2),
                "\nasked 1 a\nfollows 2 nobody\nsha256 ",
            ),
        ] {
            let seal = Seal {
                redirected: Some(Redirected { asked, follows }),
                ..seal()
            };
            let (composed, _) = seal.compose();
            assert!(composed.contains(text), "{composed}");
            assert_eq!(Seal::read(composed.as_bytes()), Ok(seal));
        }
        let (text, _) = seal().compose();
        for bad in [
            "asked nobody\n",
            "asked 1\nfollows nobody\n",
            "asked 0 a\nfollows nobody\n",
            "follows 1 a\n",
        ] {
            let bad = text.replace("sha256", &format!("{bad}sha256"));
            assert_eq!(Seal::read(bad.as_bytes()), Err(FileFault::Form), "{bad}");
        }
    }

    #[test]
    fn a_seal_is_read_as_it_was_written() {
        let (text, sum) = seal().compose();
        assert_eq!(Seal::read(text.as_bytes()), Ok(seal()));
        assert!(
            text.contains(
                "\nid a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\nowner 7\nshards 2\nshard 0 3 17\n"
            )
        );
        assert!(text.ends_with(&format!("\nsha256 {}\n", Sum(&sum))));
        assert_eq!(seal().revisions(), [17, 0]);
        let of_primary = Seal {
            leads: 12,
            ..seal()
        };
        let (text, _) = of_primary.compose();
        assert!(text.contains("\nshard 1 18446744073709551615 0\nleads 12\nsha256 "));
        assert_eq!(Seal::read(text.as_bytes()), Ok(of_primary));
        // An epoch that nobody can lead is never written.
        let none = text.replace("leads 12", "leads 0");
        assert!(Seal::read(none.as_bytes()).is_err());
    }

    #[test]
    fn a_changed_or_cut_seal_is_refused() {
        let (text, _) = seal().compose();
        for at in 0..text.len() {
            assert!(Seal::read(&text.as_bytes()[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1 << bit;
                assert!(Seal::read(&changed).is_err(), "bit {bit} of byte {at}");
            }
        }
        let more = text.replace("shard 1", "shard 1 1\nshard 1");
        assert_eq!(Seal::read(more.as_bytes()), Err(FileFault::Form));
        let other = text.replace("owner 7", "owner 8");
        assert_eq!(Seal::read(other.as_bytes()), Err(FileFault::Sum));
    }

    #[test]
    fn an_owner_is_one_line_of_three_numbers() {
        let owner = Owner::default().next(12, 1_700_000_000_000);
        assert_eq!(owner.compose(), "1 12 1700000000000\n");
        assert_eq!(Owner::read(owner.compose().as_bytes()), Ok(owner));
        for bad in [
            "",
            "1 2 3",
            "1 2\n",
            "1 2 3 4\n",
            "+1 2 3\n",
            "1 4294967296 3\n",
            "1  2 3\n",
        ] {
            assert_eq!(Owner::read(bad.as_bytes()), Err(FileFault::Form), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in vec(any::<u8>(), 0..200)) {
            prop_assert!(Seal::read(&text).is_err());
            if let Ok(owner) = Owner::read(&text) {
                prop_assert_eq!(Owner::read(owner.compose().as_bytes()), Ok(owner));
            }
        }
    }
}
