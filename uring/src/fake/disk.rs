//! A machine's disk: what readers see, what a loss of power leaves, and what may become of all between.
//!
//! Files have numbers, and names lead to numbers: writes and names become durable apart from each other,
//! as on real file systems. What no sync covered may be there after a crash, or not, or in pieces.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Random;
use crate::reactor::{Nanos, OpenHow};

/// What is wrong with one machine's disk. [`Default`] is a disk without end or fault.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskFaults {
    /// Bytes that all files together may have; what asks for more ends with ENOSPC.
    pub capacity: Option<u64>,
    /// Every change ends with EROFS, as after an error that made the kernel mount it anew.
    pub is_read_only: bool,
    /// The file system reserves nothing when asked to.
    pub reserves_nothing: bool,
    /// So many of the next writes fail with EIO.
    pub failing_writes: u32,
    /// So many of the next syncs fail with EIO, those of durable writes included.
    pub failing_syncs: u32,
    /// Shortest and longest time of an operation, instead of the world's.
    pub span: Option<(Nanos, Nanos)>,
}

/// Which file; names change, numbers do not.
pub(super) type FileNumber = u64;

#[derive(Default)]
pub(super) struct Disk {
    pub faults: DiskFaults,
    files: BTreeMap<FileNumber, File>,
    names: BTreeMap<PathBuf, FileNumber>,
    durable_names: BTreeMap<PathBuf, FileNumber>,
    /// In the order in which they were made.
    name_changes: Vec<NameChange>,
    /// Failed syncs of folders.
    folder_failures: BTreeMap<PathBuf, u64>,
    /// Counts files and changes.
    sequence: u64,
}

#[derive(Default)]
struct File {
    /// What a reader sees.
    cache: Vec<u8>,
    /// What a loss of power leaves at least.
    durable: Vec<u8>,
    /// What was made of `durable` since, in this order. The first one is not durable.
    changes: VecDeque<Change>,
}

struct Change {
    sequence: u64,
    /// Durable before earlier ones are.
    is_durable: bool,
    edit: Edit,
}

#[derive(Clone)]
enum Edit {
    Truncate,
    Extend { len: usize },
    Write { offset: usize, bytes: Vec<u8> },
}

/// A name made (`to` alone), changed (both), or removed (`from` alone).
struct NameChange {
    sequence: u64,
    file: FileNumber,
    from: Option<PathBuf>,
    to: Option<PathBuf>,
}

impl Disk {
    /// How many changes there were, for telling later ones from these.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn names(&self) -> impl Iterator<Item = &PathBuf> {
        self.names.keys()
    }

    /// How many syncs of a folder have failed.
    pub fn folder_failures(&self, path: &Path) -> u64 {
        self.folder_failures.get(path).copied().unwrap_or(0)
    }

    pub fn read(&self, path: &Path) -> Option<&[u8]> {
        Some(&self.files.get(self.names.get(path)?)?.cache)
    }

    /// Puts a file there, durably.
    pub fn put(&mut self, path: &Path, bytes: &[u8]) {
        self.take(path);
        let number = self.next();
        let file = File {
            cache: bytes.to_vec(),
            durable: bytes.to_vec(),
            changes: VecDeque::new(),
        };
        self.files.insert(number, file);
        self.names.insert(path.to_path_buf(), number);
        self.durable_names.insert(path.to_path_buf(), number);
    }

    /// Takes a file away, durably. False if there is none.
    pub fn take(&mut self, path: &Path) -> bool {
        let found = self.names.remove(path);
        if let Some(number) = found {
            self.name_changes.retain(|change| change.file != number);
            self.durable_names.retain(|_, of| *of != number);
        }
        self.durable_names.remove(path);
        found.is_some()
    }

    pub fn open(&mut self, path: &Path, how: OpenHow) -> Result<FileNumber, i32> {
        let found = self.names.get(path).copied();
        match found {
            Some(_) if how.create && how.exclusive => return Err(libc::EEXIST),
            None if !how.create => return Err(libc::ENOENT),
            _ => self.writable()?,
        }
        let number = match found {
            Some(number) => number,
            None => {
                let number = self.next();
                self.files.insert(number, File::default());
                self.change_name(number, None, Some(path));
                number
            }
        };
        if how.truncate && self.len(number) > 0 {
            self.edit(number, Edit::Truncate);
        }
        Ok(number)
    }

    /// True where a folder of this name can be opened. Folders need not be made.
    pub fn may_be_folder(&self, path: &Path) -> bool {
        !self.names.contains_key(path)
    }

    /// Writes, as far as there is room. `drawn` is what was drawn to go wrong.
    pub fn write(
        &mut self,
        number: FileNumber,
        offset: u64,
        bytes: &[u8],
        drawn: Option<i32>,
        random: &mut Random,
    ) -> Result<(), i32> {
        self.writable()?;
        let fails = spend(&mut self.faults.failing_writes).then_some(libc::EIO);
        let offset = usize::try_from(offset).map_err(|_| libc::EFBIG)?;
        let end = offset.checked_add(bytes.len()).ok_or(libc::EFBIG)?;
        if let Some(errno) = fails.or(drawn) {
            // Part of it may be there all the same.
            let whole = Edit::Write {
                offset,
                bytes: bytes.to_vec(),
            };
            for piece in whole.torn(random) {
                if self.has_room(number, piece.end()) {
                    self.edit(number, piece);
                }
            }
            return Err(errno);
        }
        let is_whole = self.has_room(number, end);
        let room = match self.faults.capacity {
            Some(capacity) if !is_whole => {
                let others = self.used() - self.len(number) as u64;
                (capacity.saturating_sub(others) as usize).saturating_sub(offset)
            }
            _ => bytes.len(),
        };
        if room > 0 && !bytes.is_empty() {
            let bytes = bytes[..room.min(bytes.len())].to_vec();
            self.edit(number, Edit::Write { offset, bytes });
        }
        if is_whole { Ok(()) } else { Err(libc::ENOSPC) }
    }

    pub fn reserve(&mut self, number: FileNumber, len: u64) -> Result<(), i32> {
        if self.faults.reserves_nothing || len == 0 {
            return Ok(());
        }
        self.writable()?;
        let len = usize::try_from(len).map_err(|_| libc::EFBIG)?;
        if !self.has_room(number, len) {
            return Err(libc::ENOSPC);
        }
        if len > self.len(number) {
            self.edit(number, Edit::Extend { len });
        }
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), i32> {
        let number = *self.names.get(from).ok_or(libc::ENOENT)?;
        self.writable()?;
        if from != to {
            self.change_name(number, Some(from), Some(to));
        }
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> Result<(), i32> {
        let number = *self.names.get(path).ok_or(libc::ENOENT)?;
        self.writable()?;
        self.change_name(number, Some(path), None);
        Ok(())
    }

    /// Syncs what `covers` covers of a file. `fails` is what was drawn.
    pub fn sync_file(
        &mut self,
        number: FileNumber,
        covers: u64,
        fails: bool,
        random: &mut Random,
    ) -> Result<(), i32> {
        let outcome = self.may_sync(fails);
        if let Some(file) = self.files.get_mut(&number) {
            let within = |change: &Change| change.sequence <= covers;
            match outcome {
                Ok(()) => file.settle(within),
                Err(_) => file.scatter(within, random),
            }
        }
        outcome
    }

    /// The sync of a durable write, whose changes came after `before`.
    pub fn sync_write(
        &mut self,
        number: FileNumber,
        before: u64,
        fails: bool,
        random: &mut Random,
    ) -> Result<(), i32> {
        let outcome = self.may_sync(fails);
        if let Some(file) = self.files.get_mut(&number) {
            // A file's length goes to the disk with every sync; other writes need not.
            let within = |change: &Change| {
                change.sequence > before || !matches!(change.edit, Edit::Write { .. })
            };
            match outcome {
                Ok(()) => file.settle(within),
                Err(_) => file.scatter(within, random),
            }
        }
        outcome
    }

    /// Syncs what `covers` covers of a folder's names, and of other folders what that builds on.
    pub fn sync_folder(
        &mut self,
        path: &Path,
        covers: u64,
        fails: bool,
        random: &mut Random,
    ) -> Result<(), i32> {
        let outcome = self.may_sync(fails);
        if outcome.is_err() {
            *self.folder_failures.entry(path.to_path_buf()).or_default() += 1;
        }
        let mut covered: Vec<NameChange> = Vec::new();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.name_changes).into_iter().rev() {
            let is_needed = covered.iter().any(|later| later.builds_on(&change));
            if is_needed || (change.sequence <= covers && change.is_in(path)) {
                covered.push(change);
            } else {
                left.push(change);
            }
        }
        left.reverse();
        self.name_changes = left;
        for change in covered.into_iter().rev() {
            // After a failure a later sync says nothing about these.
            if outcome.is_ok() || random.below(2) == 0 {
                self.name_durably(change);
            }
        }
        outcome
    }

    /// Forgets files that no name and none of `open` leads to.
    pub fn collect(&mut self, mut open: BTreeSet<FileNumber>) {
        open.extend(self.names.values());
        open.extend(self.durable_names.values());
        open.extend(self.name_changes.iter().map(|change| change.file));
        self.files.retain(|number, _| open.contains(number));
    }

    /// Loss of power: each change that no sync covered is kept, torn or lost.
    pub fn crash(&mut self, random: &mut Random) {
        for change in std::mem::take(&mut self.name_changes) {
            if random.below(2) == 0 {
                self.name_durably(change);
            }
        }
        self.names.clone_from(&self.durable_names);
        self.collect(BTreeSet::new());
        for file in self.files.values_mut() {
            file.scatter(|_| true, random);
            debug_assert!(file.changes.is_empty(), "a crash leaves nothing open");
            file.cache.clone_from(&file.durable);
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn writable(&self) -> Result<(), i32> {
        if self.faults.is_read_only {
            return Err(libc::EROFS);
        }
        Ok(())
    }

    fn may_sync(&mut self, fails: bool) -> Result<(), i32> {
        self.writable()?;
        if spend(&mut self.faults.failing_syncs) || fails {
            return Err(libc::EIO);
        }
        Ok(())
    }

    fn len(&self, number: FileNumber) -> usize {
        self.files.get(&number).map_or(0, |file| file.cache.len())
    }

    fn used(&self) -> u64 {
        self.files
            .values()
            .map(|file| file.cache.len() as u64)
            .sum()
    }

    fn has_room(&self, number: FileNumber, end: usize) -> bool {
        let growth = end.saturating_sub(self.len(number)) as u64;
        growth == 0
            || self
                .faults
                .capacity
                .is_none_or(|capacity| self.used() + growth <= capacity)
    }

    fn edit(&mut self, number: FileNumber, edit: Edit) {
        let sequence = self.next();
        // A file that is gone can still be written; nobody will ever see it.
        if let Some(file) = self.files.get_mut(&number) {
            edit.apply(&mut file.cache);
            file.changes.push_back(Change {
                sequence,
                is_durable: false,
                edit,
            });
        }
    }

    fn change_name(&mut self, file: FileNumber, from: Option<&Path>, to: Option<&Path>) {
        if let Some(from) = from {
            self.names.remove(from);
        }
        if let Some(to) = to {
            self.names.insert(to.to_path_buf(), file);
        }
        let sequence = self.next();
        self.name_changes.push(NameChange {
            sequence,
            file,
            from: from.map(Path::to_path_buf),
            to: to.map(Path::to_path_buf),
        });
    }

    fn name_durably(&mut self, change: NameChange) {
        self.durable_names.retain(|_, of| *of != change.file);
        if let Some(to) = change.to {
            self.durable_names.insert(to, change.file);
        }
    }
}

impl File {
    /// Makes some changes durable.
    fn settle(&mut self, within: impl Fn(&Change) -> bool) {
        for change in &mut self.changes {
            change.is_durable |= within(change);
        }
        while let Some(change) = self.changes.pop_front_if(|change| change.is_durable) {
            change.edit.apply(&mut self.durable);
        }
    }

    /// Keeps, tears or loses each of some changes, for good.
    fn scatter(&mut self, within: impl Fn(&Change) -> bool, random: &mut Random) {
        for change in std::mem::take(&mut self.changes) {
            if change.is_durable || !within(&change) {
                self.changes.push_back(change);
                continue;
            }
            let pieces = match random.below(3) {
                0 => vec![change.edit],
                1 => change.edit.torn(random),
                _ => Vec::new(),
            };
            self.changes.extend(pieces.into_iter().map(|edit| Change {
                sequence: change.sequence,
                is_durable: true,
                edit,
            }));
        }
        self.settle(|_| false);
    }
}

impl Edit {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Edit::Truncate => to.clear(),
            Edit::Extend { len } => to.resize(to.len().max(*len), 0),
            Edit::Write { offset, bytes } => {
                let end = offset + bytes.len();
                to.resize(to.len().max(end), 0);
                to[*offset..end].copy_from_slice(bytes);
            }
        }
    }

    /// The length that it asks of its file.
    fn end(&self) -> usize {
        match self {
            Edit::Truncate => 0,
            Edit::Extend { len } => *len,
            Edit::Write { offset, bytes } => offset + bytes.len(),
        }
    }

    /// What is left of a change in which something failed: of a write a piece, or all but a piece.
    fn torn(self, random: &mut Random) -> Vec<Edit> {
        let Edit::Write { offset, bytes } = self else {
            return vec![self];
        };
        let mut cut = || random.below(bytes.len() as u64 + 1) as usize;
        let (a, b) = (cut(), cut());
        let (start, end) = (a.min(b), a.max(b));
        let piece = |range: Range<usize>| {
            (!range.is_empty()).then(|| Edit::Write {
                offset: offset + range.start,
                bytes: bytes[range].to_vec(),
            })
        };
        let pieces = match random.below(2) {
            0 => [piece(start..end), None],
            _ => [piece(0..start), piece(end..bytes.len())],
        };
        pieces.into_iter().flatten().collect()
    }
}

impl NameChange {
    /// True if it is about a file or a name that the earlier one is about.
    fn builds_on(&self, earlier: &NameChange) -> bool {
        let paths = |change: &NameChange| [change.from.clone(), change.to.clone()];
        let names = paths(earlier);
        let is_shared = |path: &Option<PathBuf>| path.is_some() && names.contains(path);
        self.file == earlier.file || paths(self).iter().any(is_shared)
    }

    fn is_in(&self, folder: &Path) -> bool {
        [&self.from, &self.to]
            .into_iter()
            .flatten()
            .any(|path| path.parent() == Some(folder))
    }
}

/// Takes one from a count, if there is one.
fn spend(count: &mut u32) -> bool {
    let has_one = *count > 0;
    *count = count.saturating_sub(1);
    has_one
}
