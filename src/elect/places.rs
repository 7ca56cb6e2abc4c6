//! Where this node's data stands in the history that it is of, in its file `elect.places`.
//!
//! Data changes hands stream by stream: whoever follows a new primary has some streams of it and others of
//! the one before, for a while. Should the node be started anew just then, it must still know how much of the
//! old history it once acknowledged, or it would vote for somebody who has less. So this is written before
//! another primary is followed, and when its data is there.
//!
//! ```text
//! history 5
//! streams 1790@1048576 1791@1049000
//! crc 1a2b3c4d
//! ```
//!
//! One word for each stream: its generation, and the number of its next frame. The last line is the CRC-32 of
//! everything before it.

use super::{
    BallotFault, Epoch,
    ballot::{check_sum, line},
};
use crate::base::{Position, parse_u64};

/// Positions in every stream of a history.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// The epoch whose primary wrote it.
    pub history: Epoch,
    /// By stream.
    pub streams: Vec<Position>,
}

impl Places {
    /// The numbers of the next frames.
    pub fn offsets(&self) -> Vec<u64> {
        self.streams.iter().map(|at| at.offset).collect()
    }

    /// Where the data stands after a start, by what was found of each stream on the disk. What was found of
    /// other histories does not count: of such a stream everything is there that is noted here, and more
    /// cannot be told.
    pub fn found(&self, found: &[(usize, Position)]) -> Places {
        let mut places = self.clone();
        for (stream, at) in places.streams.iter_mut().enumerate() {
            let here = found.iter().filter(|(of, _)| *of == stream);
            let same = here.filter(|(_, found)| found.generation == at.generation);
            if let Some(offset) = same.map(|(_, found)| found.offset).min() {
                at.offset = offset;
            }
        }
        places
    }

    /// The file.
    pub fn compose(&self) -> Vec<u8> {
        let mut text = format!("history {}\nstreams", self.history.0);
        for at in &self.streams {
            text += &format!(" {}@{}", at.generation, at.offset);
        }
        text.push('\n');
        text += &format!("crc {:08x}\n", crc32fast::hash(text.as_bytes()));
        text.into_bytes()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// As of the ballot: keep the node out of elections.
    pub fn read(bytes: &[u8]) -> Result<Self, BallotFault> {
        let text = std::str::from_utf8(bytes).map_err(|_| BallotFault::Form)?;
        let (history, rest) = line(text, "history ")?;
        let (streams, rest) = line(rest, "streams")?;
        let summed = text.len() - rest.len();
        let (crc, rest) = line(rest, "crc ")?;
        if !rest.is_empty() {
            return Err(BallotFault::Form);
        }
        check_sum(&bytes[..summed], crc)?;
        let number = |text: &str| parse_u64(text.as_bytes()).ok_or(BallotFault::Form);
        let streams = streams.split_ascii_whitespace().map(|word| {
            let (generation, offset) = word.split_once('@').ok_or(BallotFault::Form)?;
            Ok(Position {
                generation: number(generation)?,
                offset: number(offset)?,
            })
        });
        Ok(Self {
            history: Epoch(number(history)?),
            streams: streams.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(generation: u64, offset: u64) -> Position {
        Position { generation, offset }
    }

    fn some() -> Places {
        Places {
            history: Epoch(5),
            streams: vec![at(1790, 1 << 20), at(1791, 1_049_000)],
        }
    }

    #[test]
    fn they_are_read_as_they_were_written_and_damage_is_seen() {
        for places in [Places::default(), some()] {
            let file = places.compose();
            assert_eq!(Places::read(&file), Ok(places));
            for cut in 0..file.len() {
                assert!(Places::read(&file[..cut]).is_err(), "cut at {cut}");
            }
            for at in 0..file.len() {
                let mut spoiled = file.clone();
                spoiled[at] ^= 1;
                assert!(Places::read(&spoiled).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn only_what_is_of_the_same_history_moves_a_place() {
        let found = [
            (0, at(1790, 2_000_000)),
            (0, at(1790, 1_900_000)),
            (1, at(9999, 5_000_000)),
        ];
        let wanted = vec![at(1790, 1_900_000), at(1791, 1_049_000)];
        assert_eq!(some().found(&found).streams, wanted);
        assert_eq!(some().found(&[]), some());
    }
}
