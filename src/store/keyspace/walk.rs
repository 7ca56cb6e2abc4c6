//! A walk through all keys that writes them down, a slice at a time, while others change them.

use super::{Keyspace, TEXT, number};
use crate::{
    image::Writer,
    store::{
        entry::Head,
        image::{Part, Progress, has_more_records, write_absence, write_value},
        table::{Entry, Place, Table},
    },
};

/// A walk through the keys of a keyspace in the order of scan cursors, which splits and merges do not
/// change. Its slices are bodies of [`image`](crate::image) records.
///
/// Between slices the keyspace may be changed, and [`takes`](Walk::takes) says of each change whether it
/// has to be noted behind the slices so far. The keys that the slices hold, with what was noted applied
/// in between as it came, are in the end exactly those of the keyspace: a key that the walk comes to is
/// written as it is by then, and a change is noted only if the walk has passed its key. The removal of all
/// keys is noted, and does not concern the walk.
///
/// Deadlines are written as they are and nobody is removed: of a key that is due but still there, too,
/// the removal will be noted when it comes.
#[derive(Debug)]
pub struct Walk {
    /// Keys before this place have been met; `None`: all.
    next: Option<Place>,
    /// Keys among these that are not, or not wholly, written: what was too much for a slice.
    open: Vec<Open>,
    batch: Vec<Entry>,
}

#[derive(Debug)]
struct Open {
    hash: u64,
    key: Box<[u8]>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing is written.
    Waiting,
    /// A part is.
    Begun(Progress),
    /// A part is, and something has changed that a part cannot live with: it is written anew, as a whole,
    /// so that this happens once.
    Spoiled,
}

/// How much a slice holds. It ends behind the record with which one of them is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Keys.
    pub records: usize,
    /// Bytes.
    pub bytes: usize,
}

/// What a slice was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slice {
    /// Keys that were begun.
    pub records: usize,
    /// It was the last one.
    pub is_last: bool,
    /// What its records say, for who does not pass on all of them.
    pub form: Form,
}

/// What the records of a slice are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Form {
    /// Each is the whole of a key that no other record is about.
    #[default]
    Plain,
    /// There may be parts of collections, field deadlines and group reads among them, each behind its key.
    Mixed,
    /// Some may replace what an earlier slice has of their keys.
    Again,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            next: Some(0),
            open: Vec::new(),
            batch: Vec::new(),
        }
    }
}

impl Walk {
    /// Writes some more keys to the end of `out`, and a part of a collection that is too large for a slice.
    /// A string, a list or a stream is written whole, however large. Allocates nothing but `out`, where no
    /// value is larger than a slice.
    pub fn next_slice(&mut self, keys: &Keyspace, budget: Budget, out: &mut Vec<u8>) -> Slice {
        let until = out.len().saturating_add(budget.bytes);
        let mut slice = Slice::default();
        let mut steps = budget.records.max(1).saturating_mul(STEPS_PER_RECORD);
        while slice.records < budget.records.max(1) && out.len() < until && steps > 0 {
            if let Some(open) = self.open.pop() {
                let form = match open.state {
                    State::Waiting => Form::Plain,
                    State::Begun(_) => Form::Mixed,
                    State::Spoiled => Form::Again,
                };
                let (begun, more) = self.write_open(keys, open, until, out);
                slice.form = slice.form.max(form).max(more);
                slice.records += usize::from(begun);
            } else if self.next.is_some() {
                let room = (budget.records - slice.records).clamp(1, BATCH);
                steps = steps.saturating_sub(self.gather(keys, room));
                slice.records += self.write_batch(keys, until, out, &mut slice.form);
            } else {
                break;
            }
        }
        slice.is_last = self.next.is_none() && self.open.is_empty();
        slice
    }

    /// Is a change of the key to be noted behind the slices so far? To be asked once for each change, in
    /// their order, and with no slice between the change and the question. `by_member`: what it does to one
    /// member of a collection, or to its deadline or the key's, does not depend on the others.
    pub fn takes(&mut self, keys: &Keyspace, key: &[u8], by_member: bool) -> bool {
        let hash = keys.cells.hash(key);
        if self.next.is_some_and(|next| Table::place(hash) >= next) {
            return false;
        }
        let is_it = |open: &Open| open.hash == hash && *open.key == *key;
        let Some(at) = self.open.iter().position(is_it) else {
            return true;
        };
        let state = &mut self.open[at].state;
        match (&state, by_member) {
            (State::Waiting | State::Spoiled, _) => false,
            (State::Begun(_), true) => true,
            (State::Begun(_), false) => {
                *state = State::Spoiled;
                false
            }
        }
    }

    /// Takes the next entries, about `room`; how many steps that took.
    fn gather(&mut self, keys: &Keyspace, room: usize) -> usize {
        self.batch.clear();
        let mut steps = 0;
        while self.batch.len() < room
            && steps < BATCH_STEPS
            && let Some(place) = self.next
        {
            let first = self.batch.len();
            self.next = keys.table.walk(place, |entry| self.batch.push(entry));
            steps += 1;
            if keys.table.is_within(place) {
                // A merge has put entries among these that were written before it.
                let mut at = first;
                while let Some(entry) = self.batch.get(at) {
                    let hash = keys.cells.hash(keys.cells.key(entry.cell()));
                    if Table::place(hash) < place {
                        self.batch.swap_remove(at);
                    } else {
                        at += 1;
                    }
                }
            }
        }
        steps
    }

    /// Writes the gathered entries; how many. Once the slice is full the rest is left open.
    fn write_batch(
        &mut self,
        keys: &Keyspace,
        until: usize,
        out: &mut Vec<u8>,
        form: &mut Form,
    ) -> usize {
        // These reads do not depend on each other, so the processor waits for memory once, not for every
        // key.
        let touched =
            (self.batch.iter()).fold(0, |sum, entry| sum ^ keys.cells.arena.at(entry.cell())[0]);
        std::hint::black_box(touched);
        let mut records = 0;
        for entry in &self.batch {
            let key = keys.cells.key(entry.cell());
            let mut left = (out.len() >= until).then_some(State::Waiting);
            if left.is_none() {
                records += 1;
                let written = write_entry(keys, *entry, key, None, until, out);
                *form = (*form).max(written.form);
                left = written.progress.map(State::Begun);
            }
            if let Some(state) = left {
                self.open.push(Open {
                    hash: keys.cells.hash(key),
                    key: key.into(),
                    state,
                });
            }
        }
        records
    }

    /// Writes what was left open, or more of it; true if that began a record, and what that is.
    fn write_open(
        &mut self,
        keys: &Keyspace,
        open: Open,
        until: usize,
        out: &mut Vec<u8>,
    ) -> (bool, Form) {
        let Open { hash, key, state } = open;
        let (is_there, from, until) = match state {
            State::Waiting => (false, None, until),
            State::Begun(progress) => (true, Some(progress), until),
            State::Spoiled => (true, None, usize::MAX),
        };
        let Some(found) = keys.find(hash, &key) else {
            // What the slices have of it has to go.
            if is_there {
                write_absence(out, &key);
            }
            return (is_there, Form::Again);
        };
        let written = write_entry(keys, found.entry, &key, from, until, out);
        let mut form = written.form;
        if is_there && written.begins {
            form = Form::Again;
        }
        if let Some(progress) = written.progress {
            let state = State::Begun(progress);
            self.open.push(Open { hash, key, state });
        }
        (written.begins, form)
    }
}

/// What was written of an entry.
struct Written {
    /// Its beginning.
    begins: bool,
    /// How far it came if not to its end.
    progress: Option<Progress>,
    form: Form,
}

/// Writes an entry, or more of it.
#[inline]
fn write_entry(
    keys: &Keyspace,
    entry: Entry,
    key: &[u8],
    from: Option<Progress>,
    until: usize,
    out: &mut Vec<u8>,
) -> Written {
    let cell = keys.cells.arena.at(entry.cell());
    let head = Head::read(cell);
    let deadline = head.deadline(cell);
    if entry.kind() == TEXT {
        let text = keys.cells.value(entry.cell(), head);
        Writer::new(out).string(key, deadline, text);
        return Written {
            begins: true,
            progress: None,
            form: Form::Plain,
        };
    }
    let value = keys
        .objects
        .at(number(keys.cells.value(entry.cell(), head)));
    let part = Part {
        key,
        deadline,
        until,
    };
    let begins = from.as_ref().is_none_or(|from| !from.fits(value));
    let progress = write_value(out, part, value, from);
    let is_plain = begins && progress.is_none() && !has_more_records(value);
    Written {
        begins,
        progress,
        form: if is_plain { Form::Plain } else { Form::Mixed },
    }
}

/// Entries whose cells are read side by side.
const BATCH: usize = 32;
/// Steps through the table for one batch, so that an empty table is no long way.
const BATCH_STEPS: usize = 64;
const STEPS_PER_RECORD: usize = 8;
