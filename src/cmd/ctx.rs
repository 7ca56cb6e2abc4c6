//! What a running command has at hand.

use std::ops::Range;

use bytes::Bytes;

use super::{
    effects::{self, Writer},
    noted::Walking,
    upstream::{Adoption, Upstream},
};
use crate::{
    base::{Ms, Rng},
    journal::Stream,
    resp::{Args, Error, Out, OwnedArgs},
    route::Routing,
    store::{DueKeys, Keyspace, Lfu, WrongType},
};

/// The part of a request's memory that may be something else than the value kept from it.
const WASTE: usize = 16;

/// One shard: its databases.
#[derive(Debug)]
pub struct Shard {
    databases: Vec<Option<Box<Keyspace>>>,
    seed: u64,
    tracking: Tracking,
    /// The time of the last [`track`](Shard::track).
    tracked: Ms,
    /// What happens to its keys, in order, where that is kept. It is set before the shard is
    /// [put](Shards::put) in its place.
    pub stream: Option<Box<Stream>>,
    /// The keyspaces note what goes without a command.
    notes_gone: bool,
    /// Snapshots that are being made.
    pub(super) walking: Vec<Walking>,
    /// Streams of a primary that it is a copy of.
    pub(super) upstreams: Vec<Upstream>,
    /// Without a stream: where it is in the history of a primary.
    pub(super) place: Option<Box<Adoption>>,
    /// How often frames were lost to those who follow, in a history that goes on.
    pub(super) gaps: u64,
    /// What becomes of keys that are due.
    due_keys: DueKeys,
    /// Sources of libraries of functions that were read and not taken yet.
    pub(super) libraries: Vec<Vec<u8>>,
}

/// What keyspaces keep track of besides the time of the last use of each key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tracking {
    /// How uses are counted, if they are.
    pub lfu: Option<Lfu>,
    /// The memory of collections is counted, not only estimated.
    pub collections: bool,
}

impl Shard {
    /// An empty shard with `databases` databases, made when first used.
    pub fn new(databases: usize, seed: u64) -> Self {
        Self {
            databases: (0..databases).map(|_| None).collect(),
            seed,
            tracking: Tracking::default(),
            tracked: 0,
            stream: None,
            notes_gone: false,
            walking: Vec::new(),
            upstreams: Vec::new(),
            place: None,
            gaps: 0,
            due_keys: DueKeys::Go,
            libraries: Vec::new(),
        }
    }

    /// Has all databases, those included that are made later, keep track of this from now on.
    pub fn track(&mut self, tracking: Tracking, now: Ms) {
        self.tracked = now;
        if tracking != self.tracking {
            self.tracking = tracking;
            for (_, keys) in self.databases() {
                keys.track(tracking.lfu, now);
                keys.count_collections(tracking.collections);
            }
        }
    }

    /// A database. It must be in range; SELECT checks that.
    #[inline]
    pub fn database(&mut self, at: usize) -> &mut Keyspace {
        if self.databases[at].is_none() {
            self.make_database(at);
        }
        match &mut self.databases[at] {
            Some(keys) => keys,
            None => unreachable!("it was made above"),
        }
    }

    #[cold]
    fn make_database(&mut self, at: usize) {
        let seed = self.seed ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut keys = Box::new(Keyspace::new(seed));
        if self.tracked > 0 {
            keys.track(self.tracking.lfu, self.tracked);
        }
        keys.count_collections(self.tracking.collections);
        keys.note_gone(self.notes_gone);
        keys.due_keys(self.due_keys);
        self.databases[at] = Some(keys);
    }

    /// What becomes of keys that are due.
    pub fn due_keys(&self) -> DueKeys {
        self.due_keys
    }

    /// Has all databases, those included that are made later, do this with keys that are due.
    #[inline]
    pub fn set_due_keys(&mut self, due_keys: DueKeys) {
        if self.due_keys != due_keys {
            self.due_keys = due_keys;
            for keys in self.databases.iter_mut().flatten() {
                keys.due_keys(due_keys);
            }
        }
    }

    /// Puts the databases of another shard in the place of its own, which the other one gets. What is kept
    /// track of stays as it was with both. Nothing is recorded.
    pub fn exchange(&mut self, other: &mut Shard) {
        std::mem::swap(&mut self.databases, &mut other.databases);
        for shard in [self, other] {
            for keys in shard.databases.iter_mut().flatten() {
                if shard.tracked > 0 {
                    keys.track(shard.tracking.lfu, shard.tracked);
                }
                keys.count_collections(shard.tracking.collections);
                keys.note_gone(shard.notes_gone);
                keys.due_keys(shard.due_keys);
            }
        }
    }

    /// A database, and where the effects on it are written; `None` without a stream. What went of the
    /// database without a command is written first.
    #[inline]
    pub fn writer(&mut self, db: usize) -> Option<(&mut Keyspace, Writer<'_>)> {
        if self.databases[db].is_none() {
            self.make_database(db);
        }
        let (Some(keys), Some(stream)) = (&mut self.databases[db], &mut self.stream) else {
            return None;
        };
        let mut writer = Writer::new(stream, db);
        if keys.has_gone() {
            effects::record_gone(keys, &mut writer);
        }
        Some((keys, writer))
    }

    /// Has the keyspaces note what goes without a command where that has to be recorded.
    fn note_gone(&mut self) {
        self.notes_gone = self.stream.is_some();
        for keys in self.databases.iter_mut().flatten() {
            keys.note_gone(self.notes_gone);
        }
    }

    /// A database, if it was ever used.
    pub fn used_database(&self, at: usize) -> Option<&Keyspace> {
        self.databases[at].as_deref()
    }

    /// Number of databases.
    pub fn database_count(&self) -> usize {
        self.databases.len()
    }

    /// Swaps two databases in range.
    pub fn swap(&mut self, first: usize, second: usize) {
        self.databases.swap(first, second);
    }

    /// The databases that were ever used.
    pub fn databases(&mut self) -> impl Iterator<Item = (usize, &mut Keyspace)> {
        self.databases
            .iter_mut()
            .enumerate()
            .filter_map(|(at, db)| Some((at, &mut **db.as_mut()?)))
    }
}

/// The shards that the running command may touch. Which they are follows from its keys; a command
/// that reaches for a shard that is not here is a bug and stops the node.
#[derive(Debug, Default)]
pub struct Shards {
    pub(super) slots: Vec<Option<Box<Shard>>>,
    routing: Routing,
    narrowed: Option<usize>,
    /// A shard that was here had a stream, and effects are not left out.
    records: bool,
    /// Effects are left out.
    pub(super) is_muted: bool,
    /// Shards whose streams the open unit may have written to.
    pub(super) touched: Vec<usize>,
    /// The open unit came from a primary.
    pub(super) is_copied: bool,
    /// For [`end_unit`](Shards::end_unit), kept so that it allocates nothing.
    parts: Vec<(u32, u64)>,
}

impl Shards {
    /// Room for `count` shards, none of them here yet.
    pub fn none_of(count: u32) -> Self {
        Self {
            slots: (0..count).map(|_| None).collect(),
            routing: Routing::KevyHash,
            narrowed: None,
            records: false,
            is_muted: false,
            touched: Vec::new(),
            is_copied: false,
            parts: Vec::new(),
        }
    }

    /// Places keys in another way.
    pub fn routed(mut self, routing: Routing) -> Self {
        self.routing = routing;
        self
    }

    /// As many empty shards with so many databases, all of them here, on which keys are placed in the same
    /// way.
    pub fn fresh(&self, databases: usize, seed: u64) -> Shards {
        let mut fresh = Shards::none_of(self.slots.len() as u32).routed(self.routing);
        for at in 0..self.slots.len() {
            let seed = seed.wrapping_add((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            fresh.put(at, Box::new(Shard::new(databases, seed)));
        }
        fresh
    }

    /// Narrows commands on all keys to one shard, or to none in particular.
    pub fn narrow(&mut self, to: Option<usize>) {
        self.narrowed = to;
    }

    /// The shards that a command on all keys works on.
    pub fn each(&self) -> Range<usize> {
        match self.narrowed {
            Some(at) => at..at + 1,
            None => 0..self.slots.len(),
        }
    }

    /// The shard of a key.
    #[inline(always)]
    pub fn shard_of(&self, key: &[u8]) -> usize {
        self.routing.shard_of(key, self.slots.len())
    }

    /// The keyspace of a key in database `db`.
    #[inline(always)]
    pub fn of(&mut self, db: usize, key: &[u8]) -> &mut Keyspace {
        let at = self.routing.shard_of(key, self.slots.len());
        self.keyspace(at, db)
    }

    /// Database `db` of shard `at`.
    #[inline(always)]
    pub fn keyspace(&mut self, at: usize, db: usize) -> &mut Keyspace {
        match &mut self.slots[at] {
            Some(shard) => shard.database(db),
            None => panic!("a command reached for shard {at}, which is not on this core"),
        }
    }

    /// A shard that is here.
    pub fn shard(&mut self, at: usize) -> &mut Shard {
        match &mut self.slots[at] {
            Some(shard) => shard,
            None => panic!("shard {at} is not on this core"),
        }
    }

    /// Number of shards of the node, here or elsewhere.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Databases of each shard; 0 if none is here.
    pub fn databases(&self) -> usize {
        let here = self.slots.iter().flatten();
        here.map(|shard| shard.database_count()).next().unwrap_or(0)
    }

    /// Is the shard here?
    pub fn has(&self, at: usize) -> bool {
        self.slots[at].is_some()
    }

    /// Puts a shard in its place.
    pub fn put(&mut self, at: usize, mut shard: Box<Shard>) {
        assert!(self.slots[at].is_none(), "shard {at} is in two places");
        let has_stream = shard.stream.is_some();
        self.records |= has_stream;
        if has_stream != shard.notes_gone {
            shard.note_gone();
        }
        self.slots[at] = Some(shard);
    }

    /// Takes a shard out of its place. No unit is open.
    pub fn take(&mut self, at: usize) -> Option<Box<Shard>> {
        let shard = self.slots[at].take()?;
        let is_open = shard
            .stream
            .as_ref()
            .is_some_and(|stream| stream.unit_is_open());
        assert!(!is_open, "shard {at} leaves in the middle of a unit");
        Some(shard)
    }

    /// Has effects left out: of what is [copied](Shards::copy) as the primary said it. Whether there are any
    /// to [go on](Shards::unmute) with.
    #[inline]
    pub fn mute(&mut self) -> bool {
        self.is_muted = true;
        std::mem::take(&mut self.records)
    }

    /// Effects are recorded again.
    #[inline]
    pub fn unmute(&mut self, records: bool) {
        (self.is_muted, self.records) = (false, records);
    }

    /// Are effects recorded? False while no shard has a stream.
    #[inline(always)]
    pub fn records(&self) -> bool {
        self.records
    }

    /// Records one effect on a key of database `db` in the stream of the key's shard. It belongs to the
    /// unit that the next [`end_unit`](Shards::end_unit) ends.
    #[inline]
    pub fn record<'a>(
        &mut self,
        db: usize,
        key: &[u8],
        args: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) {
        if let Some((_, mut writer)) = self.writer(db, key) {
            writer.frame(args);
        }
    }

    /// The keyspace of a key, and where effects on it are written; `None` where they are not recorded.
    #[inline]
    pub fn writer(&mut self, db: usize, key: &[u8]) -> Option<(&mut Keyspace, Writer<'_>)> {
        if !self.records {
            return None;
        }
        let at = self.routing.shard_of(key, self.slots.len());
        self.open_writer(at, db)
    }

    /// The same for a shard that is here.
    pub fn writer_at(&mut self, at: usize, db: usize) -> Option<(&mut Keyspace, Writer<'_>)> {
        match self.is_muted {
            true => None,
            false => self.open_writer(at, db),
        }
    }

    #[inline]
    fn open_writer(&mut self, at: usize, db: usize) -> Option<(&mut Keyspace, Writer<'_>)> {
        let shard = self.slots[at].as_mut()?;
        if !shard.stream.as_ref()?.unit_is_open() {
            self.touched.push(at);
        }
        shard.writer(db)
    }

    /// Records what went without a command of a shard that is here.
    pub fn record_gone(&mut self, at: usize) {
        for db in 0..self.slots[at]
            .as_ref()
            .map_or(0, |shard| shard.databases.len())
        {
            let keys = self.slots[at]
                .as_ref()
                .and_then(|shard| shard.databases[db].as_ref());
            if keys.is_some_and(|keys| keys.has_gone()) {
                self.writer_at(at, db);
            }
        }
    }

    /// Forgets what went without a command of a shard that is here, because all that it held has been
    /// replaced since.
    pub fn forget_gone(&mut self, at: usize) {
        for (_, keys) in self.shard(at).databases() {
            keys.take_gone();
        }
    }

    /// Ends the open unit: what was recorded since the last call is applied whole or not at all, on
    /// however many shards it is. All of them are still here. The shards that were written to, ascending,
    /// and the offsets at which their streams go on.
    #[inline]
    pub fn end_unit(&mut self) -> &[(u32, u64)] {
        if self.touched.is_empty() {
            return &[];
        }
        self.end_open_unit()
    }

    /// Is something recorded of a unit that has not ended?
    pub fn unit_is_open(&self) -> bool {
        !self.touched.is_empty()
    }

    fn end_open_unit(&mut self) -> &[(u32, u64)] {
        self.touched.sort_unstable();
        self.touched.dedup();
        let mut parts = std::mem::take(&mut self.parts);
        parts.clear();
        parts.extend(self.touched.iter().filter_map(|at| {
            let first = self.slots[*at].as_ref()?.stream.as_ref()?.unit_first()?;
            Some((*at as u32, first))
        }));
        self.touched.clear();
        let is_shared = parts.len() > 1;
        // What is answered replaces the parts once each stream has seen them all.
        for at in 0..parts.len() {
            let is_copied = self.is_copied;
            let shard = self.shard(parts[at].0 as usize);
            if !shard.upstreams.is_empty() && !is_copied {
                shard.leave_upstreams();
            }
            if !shard.walking.is_empty() {
                shard.note_unit();
            }
            let Some(stream) = &mut shard.stream else {
                continue;
            };
            if is_shared {
                stream.end_shared_unit(&parts);
            } else {
                stream.end_unit();
            }
        }
        for (at, offset) in &mut parts {
            let stream = self.slots[*at as usize].as_ref();
            let stream = stream.and_then(|shard| shard.stream.as_ref());
            *offset = stream.map_or(*offset, |stream| stream.next());
        }
        self.is_copied = false;
        self.parts = parts;
        &self.parts
    }

    /// Every shard that is here.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Shard)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(at, shard)| Some((at, &mut **shard.as_mut()?)))
    }
}

/// What a blocked command answers when its time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnTimeout {
    /// A null array.
    NullArray,
    /// A null bulk.
    Null,
}

/// A command that found nothing to do and waits for one of its keys to change.
#[derive(Clone, Debug)]
pub struct Block {
    /// When it gives up; `None` waits for ever.
    pub deadline: Option<Ms>,
    /// What it then answers.
    pub on_timeout: OnTimeout,
    /// The request to run again instead of the original one (an XREAD whose `$` was resolved).
    pub again: Option<OwnedArgs>,
}

/// What a running command has at hand. `shards`, `out` and the rest are separate fields so that a
/// value borrowed from a shard can be written to `out`.
pub struct Ctx<'a> {
    /// The stores of all keys of the command.
    pub shards: &'a mut Shards,
    /// The database of the connection.
    pub db: usize,
    /// Where the reply goes. What is written before an error is returned is taken back.
    pub out: &'a mut Out,
    /// Wall clock of this turn.
    pub now: Ms,
    /// Chance.
    pub rng: &'a mut Rng,
    /// Raised by a command once for each change it made. A write command that leaves it at zero
    /// changed nothing: no watcher or waiter is told.
    pub dirty: u64,
    /// False inside MULTI, scripts and replicated frames: blocking commands then answer at once as
    /// they would when their time is up.
    pub may_block: bool,
    /// Set by a command that has to wait, which then has written no reply.
    pub block: Option<Block>,
    /// True when the command comes from the primary that this node follows: internal commands of a
    /// kevy stream are then accepted.
    pub from_primary: bool,
    /// The memory of a large request, from which a value can be kept without a copy.
    pub arrived: Option<&'a Bytes>,
}

impl Ctx<'_> {
    /// The keyspace of a key in the connection's database. To write a reply while a value is
    /// borrowed, use `ctx.shards.of(ctx.db, key)` instead.
    #[inline(always)]
    pub fn keys(&mut self, key: &[u8]) -> &mut Keyspace {
        self.shards.of(self.db, key)
    }

    /// Sets a string of the connection's database to one of the arguments.
    #[inline(always)]
    pub fn set_string(&mut self, key: &[u8], value: &[u8], deadline: Option<Ms>) {
        match self.arrived {
            None => self.keys(key).set_string(key, value, deadline),
            Some(arrived) => self.set_arrived(arrived, key, value, deadline),
        }
    }

    #[cold]
    fn set_arrived(&mut self, arrived: &Bytes, key: &[u8], value: &[u8], deadline: Option<Ms>) {
        let lies_in = arrived.as_ptr_range().contains(&value.as_ptr());
        // What else the memory holds stays with the value: it has to be little.
        if lies_in && arrived.len() - value.len() <= arrived.len() / WASTE {
            let value = arrived.slice_ref(value);
            self.keys(key).set_shared(key, value, deadline);
        } else {
            self.keys(key).set_string(key, value, deadline);
        }
    }

    /// Counts a change.
    pub fn changed(&mut self) {
        self.dirty += 1;
    }

    /// Waits for one of the command's keys to change, or answers as after the timeout where waiting
    /// is not possible. `timeout` in milliseconds, 0 for ever.
    pub fn wait(&mut self, timeout: Ms, on_timeout: OnTimeout, again: Option<OwnedArgs>) {
        if !self.may_block {
            match on_timeout {
                OnTimeout::NullArray => self.out.null_array(),
                OnTimeout::Null => self.out.null(),
            }
            return;
        }
        let deadline = (timeout > 0).then(|| self.now.saturating_add(timeout));
        self.block = Some(Block {
            deadline,
            on_timeout,
            again,
        });
    }
}

impl From<WrongType> for Error {
    fn from(_: WrongType) -> Error {
        Error::WRONG_TYPE
    }
}

/// Reads a blocking command's timeout argument (seconds, fractions allowed) as milliseconds.
///
/// # Errors
/// The texts of Redis for a value that is no number, negative or too large.
pub fn parse_timeout(text: &[u8]) -> Result<Ms, Error> {
    let seconds = crate::base::parse_f64(text).ok_or(Error::TIMEOUT_NOT_FLOAT)?;
    if seconds < 0.0 {
        return Err(Error::TIMEOUT_NEGATIVE);
    }
    let millis = (seconds * 1000.0).ceil();
    if millis >= i64::MAX as f64 {
        return Err(Error::fixed("ERR timeout is out of range"));
    }
    Ok(millis as Ms)
}

/// The database that SELECT names, of `count`.
///
/// # Errors
/// The reply of Redis, for which these numbers have 32 bits.
pub fn select(args: Args<'_>, count: usize) -> Result<usize, Error> {
    let index = int(args, 1)?;
    if i32::try_from(index).is_err() {
        return Err(Error::NOT_32_BITS);
    }
    match usize::try_from(index) {
        Ok(index) if index < count => Ok(index),
        _ => Err(Error::fixed("ERR DB index is out of range")),
    }
}

/// An integer argument.
///
/// # Errors
/// [`Error::NOT_INTEGER`].
pub fn int(args: Args<'_>, at: usize) -> Result<i64, Error> {
    crate::base::parse_i64(args.at(at)).ok_or(Error::NOT_INTEGER)
}
