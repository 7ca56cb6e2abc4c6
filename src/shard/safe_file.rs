//! Small files that must not be lost: written beside the old one, synced, renamed, and the folder synced, all
//! of it on the ring.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use uring::{FileId, OpenHow, Reactor};

/// Marks of requests to the ring for these files have this bit.
pub(super) const MARK: u64 = 1 << 63;

/// One file, of which one new content at a time is on its way.
pub(super) struct SafeFile {
    number: u64,
    at: PathBuf,
    beside: PathBuf,
    folder: FileId,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Rest,
    Writing(FileId),
    Renaming,
    Syncing,
}

impl SafeFile {
    /// `number` tells it from all others of the core, `folder` is the open folder that it is in.
    pub fn new(number: u64, dir: &Path, name: &str, folder: FileId) -> Self {
        Self {
            number,
            at: dir.join(name),
            beside: dir.join(format!("{name}.new")),
            folder,
            step: Step::Rest,
        }
    }

    /// Is nothing on its way?
    pub fn rests(&self) -> bool {
        matches!(self.step, Step::Rest)
    }

    fn mark(&self) -> u64 {
        MARK | self.number
    }

    /// Begins to put a new content in the place of the old one; false if that fails at once.
    pub fn write<R: Reactor>(&mut self, content: Vec<u8>, reactor: &mut R) -> bool {
        let how = OpenHow {
            create: true,
            truncate: true,
            ..OpenHow::default()
        };
        let Ok(file) = reactor.open(&self.beside, how) else {
            return false;
        };
        reactor.write_durable(file, Bytes::from(content), 0, self.mark());
        self.step = Step::Writing(file);
        true
    }

    /// A request of this mark is over. With the last one: is the new content there for good?
    pub fn on_done<R: Reactor>(
        &mut self,
        mark: u64,
        is_good: bool,
        reactor: &mut R,
    ) -> Option<bool> {
        if mark != self.mark() {
            return None;
        }
        if let Step::Writing(file) = self.step {
            reactor.close_file(file);
        }
        let next = match (self.step, is_good) {
            (Step::Rest, _) => return None,
            (_, false) | (Step::Syncing, true) => Step::Rest,
            (Step::Writing(_), true) => {
                reactor.rename(&self.beside, &self.at, mark);
                Step::Renaming
            }
            (Step::Renaming, true) => {
                reactor.sync(self.folder, mark);
                Step::Syncing
            }
        };
        self.step = next;
        matches!(next, Step::Rest).then_some(is_good)
    }
}
