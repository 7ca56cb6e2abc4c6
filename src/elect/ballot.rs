//! What a node must not forget about elections, in its file `elect.meta`.
//!
//! Text, so that kevy's file of this name is read as it is:
//!
//! ```text
//! epoch 7
//! voted b
//! history 5
//! crc 1a2b3c4d
//! ```
//!
//! The first two lines are kevy's. A file of kevy's has no others; ours has all four, and the last one is
//! the CRC-32 of everything before it. A file that is neither is damage. Then the node must not take part:
//! who takes it for a fresh one may vote twice.
//!
//! The shell writes a new file beside the old one, syncs it, renames it and syncs the folder.

use super::{Epoch, NodeId};

/// Epoch and vote, and whose data this is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ballot {
    /// The highest epoch that this node has taken part in.
    pub epoch: Epoch,
    /// Whom it voted for in that epoch. A primary that was announced counts as voted for.
    pub voted: Option<NodeId>,
    /// The epoch whose primary this node's data is a copy of. 0 before the first.
    pub history: Epoch,
}

impl Default for Ballot {
    /// Of a node that was never part of an election.
    fn default() -> Self {
        Self {
            epoch: Epoch(1),
            voted: None,
            history: Epoch(0),
        }
    }
}

/// A file that must not be used. The node stays out of elections until an operator has looked at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BallotFault {
    /// The checksum is not that of the lines before it.
    Checksum,
    /// Not the lines that it should have.
    Form,
}

impl std::fmt::Display for BallotFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Checksum => "the checksum of the ballot does not fit",
            Self::Form => "the ballot does not have the lines of one",
        })
    }
}

impl std::error::Error for BallotFault {}

impl Ballot {
    /// The file.
    pub fn compose(&self) -> Vec<u8> {
        let voted = self.voted.as_ref().map_or(NOBODY, NodeId::as_str);
        let (epoch, history) = (self.epoch.0, self.history.0);
        let mut text = format!("epoch {epoch}\nvoted {voted}\nhistory {history}\n");
        text += &format!("crc {:08x}\n", crc32fast::hash(text.as_bytes()));
        text.into_bytes()
    }

    /// Reads the file, ours or kevy's.
    ///
    /// # Errors
    /// [`BallotFault`]: keep the node out of elections.
    pub fn read(bytes: &[u8]) -> Result<Self, BallotFault> {
        let text = std::str::from_utf8(bytes).map_err(|_| BallotFault::Form)?;
        let (epoch, rest) = line(text, "epoch ")?;
        let (voted, rest) = line(rest, "voted ")?;
        let ballot = Self {
            epoch: number(epoch)?.max(Epoch(1)),
            voted: match voted {
                NOBODY => None,
                id => Some(NodeId::new(id).ok_or(BallotFault::Form)?),
            },
            history: Epoch(0),
        };
        if rest.is_empty() {
            return Ok(ballot);
        }
        let (history, rest) = line(rest, "history ")?;
        let summed = text.len() - rest.len();
        let (crc, rest) = line(rest, "crc ")?;
        if !rest.is_empty() {
            return Err(BallotFault::Form);
        }
        check_sum(&bytes[..summed], crc)?;
        Ok(Self {
            history: number(history)?,
            ..ballot
        })
    }
}

/// Stands where a vote would.
const NOBODY: &str = "-";

/// The rest of the first line, which begins like this, and what follows it.
pub(super) fn line<'a>(text: &'a str, name: &str) -> Result<(&'a str, &'a str), BallotFault> {
    let (line, rest) = text.split_once('\n').ok_or(BallotFault::Form)?;
    Ok((line.strip_prefix(name).ok_or(BallotFault::Form)?, rest))
}

/// Is this the checksum of these bytes, as it is written?
pub(super) fn check_sum(bytes: &[u8], crc: &str) -> Result<(), BallotFault> {
    match crc.len() {
        8 if crc == format!("{:08x}", crc32fast::hash(bytes)) => Ok(()),
        8 => Err(BallotFault::Checksum),
        _ => Err(BallotFault::Form),
    }
}

fn number(text: &str) -> Result<Epoch, BallotFault> {
    let epoch = crate::base::parse_u64(text.as_bytes()).map(Epoch);
    epoch
        .filter(|epoch| *epoch <= Epoch::MAX)
        .ok_or(BallotFault::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Ballot {
        Ballot {
            epoch: Epoch(7),
            voted: NodeId::new("b"),
            history: Epoch(5),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        for ballot in [
            Ballot::default(),
            some(),
            Ballot {
                voted: None,
                ..some()
            },
        ] {
            assert_eq!(Ballot::read(&ballot.compose()), Ok(ballot));
        }
        let wanted = include_bytes!("../../tests/golden/elect/elect.meta");
        assert_eq!(some().compose(), wanted);
    }

    #[test]
    fn the_file_of_kevy_is_read_too() {
        let read = |text: &str| Ballot::read(text.as_bytes());
        let wanted = Ballot {
            history: Epoch(0),
            ..some()
        };
        assert_eq!(read("epoch 7\nvoted b\n"), Ok(wanted));
        assert_eq!(
            read("epoch 7\nvoted -\n"),
            Ok(Ballot {
                voted: None,
                ..wanted
            })
        );
        assert_eq!(read("epoch 0\nvoted -\n"), Ok(Ballot::default()));
    }

    #[test]
    fn damage_is_no_fresh_start() {
        let whole = some().compose();
        // What kevy writes is all that may be left of it, and only a cut by hand leaves that.
        let kevy = b"epoch 7\nvoted b\n".len();
        for cut in (0..whole.len()).filter(|cut| *cut != kevy) {
            assert!(Ballot::read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut spoiled = whole.clone();
                spoiled[at] ^= 1 << bit;
                assert!(Ballot::read(&spoiled).is_err(), "bit {bit} of byte {at}");
            }
        }
        for text in [
            "",
            "\0\0\0\0",
            "epoch -1\nvoted -\n",
            "epoch 1\nvoted \n",
            "epoch 1\nvoted a b\n",
        ] {
            assert!(Ballot::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Ballot::read(&[whole, b"x".to_vec()].concat()).is_err());
    }
}
