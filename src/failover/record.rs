//! What a node must not forget about failovers, in its file `failover.meta`.
//!
//! ```text
//! epoch 7
//! stands replica 10.0.0.2 6004
//! open 00c0ffee00c0ffee ringkeep
//! ended 0123456789abcdef promoted
//! ended 89abcdef01234567 dead
//! crc 1a2b3c4d
//! ```
//!
//! `epoch` only grows. `stands` is `started` (as the command line says), `primary`, or `replica` with the
//! client port of the primary. `open` is a failover to it that was decided here and of which nobody knows
//! yet how it ended, with what the target is, `ringkeep` or `kevy`; else `-`. The last line is the CRC-32 of
//! everything before it.
//!
//! Written like the ballot: a new file beside the old one, synced, renamed, and the folder synced.

use std::collections::VecDeque;

use super::{Id, Place};
use crate::base::parse_u64;

/// Ends of failovers that are remembered.
const ENDED_MAX: usize = 64;

/// What the node is because of a failover.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stands {
    /// Whatever it was started as.
    #[default]
    AsStarted,
    /// The primary.
    Primary,
    /// A replica of this one.
    Replica(Place),
}

/// What a target is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// It keeps to all of the protocol.
    Ringkeep,
    /// It knows `REPLICAOF NO ONE`.
    Kevy,
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ringkeep => "ringkeep",
            Kind::Kevy => "kevy",
        }
    }
}

/// What became of a failover of which this node was the target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// This node became the primary.
    Promoted,
    /// It did not, and will not by this one.
    Dead,
}

/// See the module page.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Record {
    /// The highest epoch that this node has heard of.
    pub epoch: u64,
    /// See there.
    pub stands: Stands,
    /// Decided here, and not known how it ended.
    pub open: Option<(Id, Kind)>,
    /// Of failovers to this node, the newest last.
    pub ended: VecDeque<(Id, End)>,
}

/// A file that must not be used: the node does not start until an operator has looked at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordFault;

impl std::fmt::Display for RecordFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("it is damaged: its lines or its checksum do not fit")
    }
}

impl std::error::Error for RecordFault {}

impl Record {
    /// How a failover to this node ended.
    pub fn end_of(&self, id: Id) -> Option<End> {
        let found = self.ended.iter().find(|(other, _)| *other == id);
        found.map(|(_, end)| *end)
    }

    /// Remembers that.
    pub fn note_end(&mut self, id: Id, end: End) {
        self.ended.push_back((id, end));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    /// The file.
    pub fn compose(&self) -> Vec<u8> {
        let stands = match &self.stands {
            Stands::AsStarted => "started".into(),
            Stands::Primary => "primary".into(),
            Stands::Replica(Place { host, port }) => format!("replica {host} {port}"),
        };
        let open = match self.open {
            None => "-".into(),
            Some((id, kind)) => format!("{id} {}", kind.name()),
        };
        let mut text = format!("epoch {}\nstands {stands}\nopen {open}\n", self.epoch);
        for (id, end) in &self.ended {
            let end = match end {
                End::Promoted => "promoted",
                End::Dead => "dead",
            };
            text += &format!("ended {id} {end}\n");
        }
        text += &format!("crc {:08x}\n", crc32fast::hash(text.as_bytes()));
        text.into_bytes()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`RecordFault`]: whoever takes it for none may write where another one is the primary.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordFault> {
        Self::parse(bytes).ok_or(RecordFault)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let summed = text.strip_suffix('\n')?.rfind('\n')? + 1;
        let sum = format!("crc {:08x}\n", crc32fast::hash(&bytes[..summed]));
        if text[summed..] != sum {
            return None;
        }
        let mut lines = text[..summed].lines();
        let epoch = parse_u64(lines.next()?.strip_prefix("epoch ")?.as_bytes())?;
        let stands = lines.next()?.strip_prefix("stands ")?;
        let stands = match stands.split(' ').collect::<Vec<_>>()[..] {
            ["started"] => Stands::AsStarted,
            ["primary"] => Stands::Primary,
            ["replica", host, port] => Stands::Replica(Place {
                host: host.into(),
                port: port.parse().ok()?,
            }),
            _ => return None,
        };
        let open = match lines.next()?.strip_prefix("open ")? {
            "-" => None,
            open => {
                let (id, kind) = open.split_once(' ')?;
                let kinds = [Kind::Ringkeep, Kind::Kevy];
                let kind = kinds.into_iter().find(|known| known.name() == kind)?;
                Some((Id::parse(id.as_bytes())?, kind))
            }
        };
        let ended = lines.map(|line| {
            let (id, end) = line.strip_prefix("ended ")?.split_once(' ')?;
            let end = match end {
                "promoted" => End::Promoted,
                "dead" => End::Dead,
                _ => return None,
            };
            Some((Id::parse(id.as_bytes())?, end))
        });
        Some(Self {
            epoch,
            stands,
            open,
            ended: ended.collect::<Option<_>>()?,
        })
    }
}

/// The record, and how much of it is on the disk.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    record: Record,
    /// Counts changes; the last one that is on the disk, and the one on its way there.
    version: u64,
    durable: u64,
    writing: Option<u64>,
    /// The last one of which nobody knows whether it is there.
    failed: u64,
}

/// A change of the record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Change(u64);

impl Ledger {
    /// With what was found on the disk.
    pub fn new(record: Record) -> Self {
        Self {
            record,
            ..Self::default()
        }
    }

    /// What is to be there.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Changes it.
    pub fn change(&mut self, change: impl FnOnce(&mut Record)) -> Change {
        change(&mut self.record);
        self.version += 1;
        Change(self.version)
    }

    /// Is the change on the disk? `None`: nobody knows yet; `Some(false)`: it may be or not.
    pub fn is_durable(&self, change: Change) -> Option<bool> {
        match change.0 {
            change if change <= self.durable => Some(true),
            change if change <= self.failed => Some(false),
            _ => None,
        }
    }

    /// Is all of it on the disk?
    pub fn is_settled(&self) -> bool {
        self.version == self.durable
    }

    /// What is to be written now, if anything is: what failed is tried again.
    pub fn next_write(&mut self) -> Option<Vec<u8>> {
        let is_due = !self.is_settled() && self.writing.is_none();
        is_due.then(|| {
            self.writing = Some(self.version);
            self.record.compose()
        })
    }

    /// It was, or that failed.
    pub fn on_written(&mut self, is_good: bool) {
        let Some(version) = self.writing.take() else {
            return;
        };
        match is_good {
            true => self.durable = version,
            false => self.failed = version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Record {
        let host = "10.0.0.2".into();
        Record {
            epoch: 7,
            stands: Stands::Replica(Place { host, port: 6004 }),
            open: Some((Id(0x00c0_ffee_00c0_ffee), Kind::Ringkeep)),
            ended: [(Id(1), End::Promoted), (Id(2), End::Dead)].into(),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_damage_is_seen() {
        for record in [
            Record::default(),
            some(),
            Record {
                stands: Stands::Primary,
                open: None,
                ..some()
            },
        ] {
            let file = record.compose();
            assert_eq!(Record::read(&file), Ok(record));
            for cut in 0..file.len() {
                assert!(Record::read(&file[..cut]).is_err(), "cut at {cut}");
            }
            for at in 0..file.len() {
                let mut spoiled = file.clone();
                spoiled[at] ^= 1;
                assert!(Record::read(&spoiled).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn only_the_last_ends_are_kept() {
        let mut record = some();
        for id in 100..200 {
            record.note_end(Id(id), End::Dead);
        }
        assert_eq!(record.ended.len(), ENDED_MAX);
        assert_eq!(record.end_of(Id(199)), Some(End::Dead));
        assert_eq!(record.end_of(Id(1)), None);
    }
}
