//! Why a data directory cannot be loaded.

use std::{fmt, io};

use crate::journal::{FileName, frame::FrameFault, scan::BlockFault, segment::HeaderFault, snapshot};

/// What is wrong, in which file, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoverError {
    file: Option<FileName>,
    at: u64,
    fault: Fault,
}

/// What is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It cannot be read.
    Io(String),
    /// Its header.
    Header(HeaderFault),
    /// A block that had been durable.
    Block(BlockFault),
    /// Frames of a block whose sums are right.
    Frame(FrameFault),
    /// A frame that does not run.
    Unplayable(String),
    /// A snapshot.
    Snapshot(snapshot::SnapshotFault),
    /// Records of a chunk whose sums are right.
    Records(String),
    /// Frames from the first offset to the second are nowhere.
    Missing(u64, u64),
    /// It has keys of a database that this node does not have.
    Database(usize),
    /// It is of a shard that this directory, with so many of them, does not have.
    Shard(usize),
}

impl RecoverError {
    /// Something is wrong with a file, at this byte.
    pub fn of(file: FileName, at: u64, fault: Fault) -> Self {
        Self {
            file: Some(file),
            at,
            fault,
        }
    }

    /// The directory cannot be read.
    pub fn directory(error: &io::Error) -> Self {
        Self {
            file: None,
            at: 0,
            fault: Fault::Io(error.to_string()),
        }
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(file) => write!(out, "{file}, byte {}: ", self.at)?,
            None => write!(out, "the data directory: ")?,
        }
        match &self.fault {
            Fault::Io(text) => write!(out, "cannot be read: {text}"),
            Fault::Header(fault) => fault.fmt(out),
            Fault::Block(fault) => fault.fmt(out),
            Fault::Frame(fault) => fault.fmt(out),
            Fault::Unplayable(text) => write!(out, "a frame does not run: {text}"),
            Fault::Snapshot(fault) => fault.fmt(out),
            Fault::Records(text) => write!(out, "a record cannot be read: {text}"),
            Fault::Missing(from, to) => {
                write!(out, "the frames from {from} to {to} are not in any file")
            }
            Fault::Database(number) => write!(
                out,
                "it has keys in database {number}: start with --databases {} or more",
                number + 1
            ),
            Fault::Shard(count) => write!(out, "the directory has only {count} shard(s)"),
        }?;
        if let (Fault::Block(_), Some(file)) = (&self.fault, self.file) {
            write!(
                out,
                ". What follows had been confirmed to clients and cannot be read. `ringkeep check` shows what \
                 is there; `ringkeep repair --truncate-at {} {file}` gives up everything from there on",
                self.at
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for RecoverError {}
