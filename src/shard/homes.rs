//! The shards that live on one core, who has them on loan, and who waits for a key of theirs.
//!
//! A command whose keys are on several cores runs on the core of its connection: that core borrows
//! the shards it lacks, one after the other in ascending order, runs the command with all of them in
//! hand, and gives them back. A loan moves the shard itself, so nothing is ever shared and every
//! command is atomic; ascending order makes a circle of waiting cores impossible. While a shard is
//! away, requests for it wait here in the order they came.

use std::collections::{HashMap, VecDeque};

use uring::SocketId;

use super::{
    message::{CoreId, Waiting},
    shared::Settings,
    waiters::{Next, Waiters},
};
use crate::base::{Ms, Position};
use crate::cmd::{Keys, Shard, Shards, Spec, libraries};
use crate::resp::Args;
use crate::route::Routing;

/// A connection that wants to hear of a key: blocked on it, or watching it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its core.
    pub core: CoreId,
    /// Its connection there.
    pub conn: SocketId,
    /// What it wants.
    pub want: Want,
}

/// What a [`Listener`] wants to hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// That it may try its blocking command again.
    Retry {
        /// It is to hear of it, too, where the key goes: one that reads a stream.
        reads: bool,
    },
    /// That its transaction is void. The number tells the keys it watches now from those it watched
    /// before: word of a change may still be on its way when a client stops watching.
    Taint(u64),
}

/// Where a command can run.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Here and now.
    Here,
    /// Here, when the shard is back from its loan.
    Later(usize),
    /// On the core that owns the one shard it needs.
    There(usize, CoreId),
    /// Here, after these shards (ascending) have been collected.
    Collect(Vec<usize>),
}

/// What changed in a whole shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sweep {
    /// Perhaps everything.
    Any,
    /// This database was emptied, or all.
    Emptied(Option<usize>),
}

/// Database and key.
pub type KeyName = (usize, Box<[u8]>);

/// Who is to hear of a change.
#[derive(Debug)]
pub enum Hear {
    /// This one.
    One(Listener),
    /// Those who block on a key of a shard that lives here, one after the other.
    Round(usize, KeyName),
}

/// See the module page.
pub struct Homes {
    me: CoreId,
    cores: usize,
    /// The shards that are here: our own ones at home, and borrowed ones while a command runs.
    pub shards: Shards,
    /// One entry per shard of the node; used for those that live here.
    homes: Vec<Home>,
    /// Shards of the node that are not at home on this core; zero means that every command runs at
    /// once.
    absent: usize,
    listeners: usize,
    /// Keys and prefixes that clients track.
    pub tracked: usize,
}

#[derive(Default)]
struct Home {
    waiting: VecDeque<Waiting>,
    listeners: HashMap<KeyName, Waiters>,
    /// Those of them that are blocked.
    blocked: usize,
    /// How far its stream was when it was last here.
    end: Position,
}

impl Homes {
    /// The homes of the shards of core `me`, all empty.
    pub fn new(me: CoreId, settings: &Settings, seed: u64) -> Self {
        let (cores, shards, databases) = (settings.cores, settings.shards, settings.databases);
        let routing = match settings.slots {
            Some(_) => Routing::Slots,
            None => Routing::KevyHash,
        };
        let mut homes = Self {
            me,
            cores,
            shards: Shards::none_of(shards as u32).routed(routing),
            homes: (0..shards).map(|_| Home::default()).collect(),
            absent: shards,
            listeners: 0,
            tracked: 0,
        };
        for shard in 0..shards {
            if homes.owner(shard) == me {
                let seed = seed.wrapping_add((shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                homes
                    .shards
                    .put(shard, Box::new(Shard::new(databases, seed)));
                homes.absent -= 1;
            }
        }
        homes
    }

    /// The core on which a shard lives.
    pub fn owner(&self, shard: usize) -> CoreId {
        shard % self.cores
    }

    /// The shards that live on this core.
    pub fn own(&self) -> impl Iterator<Item = usize> + use<> {
        (self.me..self.homes.len()).step_by(self.cores)
    }

    /// Is every shard of the node at home here?
    #[inline]
    pub fn has_all(&self) -> bool {
        self.absent == 0
    }

    /// Can a command run here and now? False also where finding that out takes longer.
    #[inline(always)]
    pub fn is_surely_here(&self, spec: &Spec, args: &Args<'_>) -> bool {
        if self.has_all() {
            return true;
        }
        match spec.keys {
            Keys::None => true,
            Keys::Range { first, last, .. } if first == last => {
                let key = usize::try_from(first).ok().and_then(|at| args.get(at));
                key.is_some_and(|key| {
                    let shard = self.shards.shard_of(key);
                    self.owner(shard) == self.me && self.shards.has(shard)
                })
            }
            _ => false,
        }
    }

    /// Where a command can run.
    pub fn place(&self, spec: &Spec, args: Args<'_>) -> Place {
        if self.has_all() {
            return Place::Here;
        }
        let mut one = None;
        let mut several = false;
        if spec.keys.needs_all(args) {
            return self.place_of_all((0..self.homes.len()).collect());
        }
        spec.keys.for_each(args, |at| {
            let shard = self.shards.shard_of(args.at(at));
            several |= one.is_some_and(|one| one != shard);
            one = Some(shard);
        });
        match one {
            None if spec.keys.changes_libraries(args) => self.place_of_all(vec![libraries::HOME]),
            None => Place::Here,
            Some(shard) if !several => {
                let owner = self.owner(shard);
                match (owner == self.me, self.shards.has(shard)) {
                    (true, true) => Place::Here,
                    (true, false) => Place::Later(shard),
                    (false, _) => Place::There(shard, owner),
                }
            }
            Some(_) => self.place_of_all(self.shards_of([(spec, args)])),
        }
    }

    /// The shards that some commands need, ascending.
    pub fn shards_of<'a>(
        &self,
        commands: impl IntoIterator<Item = (&'a Spec, Args<'a>)>,
    ) -> Vec<usize> {
        let mut need: Vec<usize> = Vec::new();
        for (spec, args) in commands {
            if spec.keys.needs_all(args) {
                return (0..self.homes.len()).collect();
            }
            if spec.keys.changes_libraries(args) {
                need.push(libraries::HOME);
            }
            spec.keys
                .for_each(args, |at| need.push(self.shards.shard_of(args.at(at))));
        }
        need.sort_unstable();
        need.dedup();
        need
    }

    /// Where a command that needs these shards (ascending) can run.
    pub fn place_of_all(&self, need: Vec<usize>) -> Place {
        if need.iter().all(|shard| self.shards.has(*shard)) {
            Place::Here
        } else {
            Place::Collect(need)
        }
    }

    /// Has the place of one of our shards that is at home look anew at whether it has a stream.
    pub fn refresh(&mut self, shard: usize) {
        if let Some(home) = self.shards.take(shard) {
            self.shards.put(shard, home);
        }
    }

    /// Puts another shard in the place of one of ours that is at home.
    pub fn replace(&mut self, shard: usize, with: Box<Shard>) {
        self.shards.take(shard);
        self.shards.put(shard, with);
    }

    /// Takes a shard of ours out of its home, if it is in.
    pub fn lend(&mut self, shard: usize) -> Option<Box<Shard>> {
        let lent = self.shards.take(shard)?;
        if let Some(stream) = &lent.stream {
            self.homes[shard].end = stream.position();
        }
        self.absent += 1;
        Some(lent)
    }

    /// How far the stream of a shard that lives here is, or was when it was lent.
    pub fn stream_end(&mut self, shard: usize) -> u64 {
        self.stream_position(shard).offset
    }

    /// The same with the history.
    pub fn stream_position(&mut self, shard: usize) -> Position {
        if self.shards.has(shard)
            && let Some(stream) = &self.shards.shard(shard).stream
        {
            self.homes[shard].end = stream.position();
        }
        self.homes[shard].end
    }

    /// Puts a shard of ours back into its home.
    pub fn come_home(&mut self, shard: usize, lent: Box<Shard>) {
        self.shards.put(shard, lent);
        self.absent -= 1;
    }

    /// Keeps a request until the shard is back.
    pub fn wait_for(&mut self, shard: usize, waiting: Waiting) {
        self.homes[shard].waiting.push_back(waiting);
    }

    /// The next request that waited for a shard, if the shard is at home.
    pub fn next_waiting(&mut self, shard: usize) -> Option<Waiting> {
        if self.shards.has(shard) {
            self.homes[shard].waiting.pop_front()
        } else {
            None
        }
    }

    /// Does anything wait for a shard of ours?
    pub fn is_awaited(&self, shard: usize) -> bool {
        !self.homes[shard].waiting.is_empty()
    }

    /// Is anybody blocked on a key of a shard that lives here?
    pub fn is_wanted(&self, shard: usize) -> bool {
        self.homes[shard].blocked > 0
    }

    /// Does anybody listen to any key of this core, or keep one?
    #[inline]
    pub fn has_listeners(&self) -> bool {
        self.listeners | self.tracked > 0
    }

    /// Registers a listener for a key of a shard that lives here.
    pub fn listen(&mut self, shard: usize, db: usize, key: &[u8], listener: Listener, now: Ms) {
        // Of a shard that is away nothing is known.
        let existed = self.may_be_there(shard, db, key, now);
        let home = &mut self.homes[shard];
        let waiters = home.listeners.entry((db, key.into())).or_default();
        let before = (waiters.len(), waiters.blocked());
        waiters.listen(listener, existed);
        self.listeners += waiters.len() - before.0;
        home.blocked += waiters.blocked() - before.1;
    }

    /// Is there such a key, as far as is known?
    fn may_be_there(&mut self, shard: usize, db: usize, key: &[u8], now: Ms) -> bool {
        !self.shards.has(shard) || {
            // Nothing is due at time 0: a key that is due is found, and not removed.
            let meta = self.shards.keyspace(shard, db).meta(key, 0);
            meta.is_some_and(|meta| meta.deadline.is_none_or(|deadline| deadline > now))
        }
    }

    /// Removes a listener from a key. If it was not registered yet, because the shard is away, and somebody
    /// waits for that, it is said who.
    pub fn unlisten(
        &mut self,
        shard: usize,
        db: usize,
        key: &[u8],
        listener: Listener,
    ) -> Option<(CoreId, u64)> {
        let mut confirm = None;
        let home = &mut self.homes[shard];
        home.waiting.retain(|waiting| match waiting {
            Waiting::Listen(at, name, other, asker)
                if *at == db && name == key && *other == listener =>
            {
                confirm = confirm.or(*asker);
                false
            }
            _ => true,
        });
        let name = (db, key.into());
        if let Some(waiters) = home.listeners.get_mut(&name) {
            let before = (waiters.len(), waiters.blocked());
            waiters.unlisten(listener);
            self.listeners -= before.0 - waiters.len();
            home.blocked -= before.1 - waiters.blocked();
            if waiters.len() == 0 {
                home.listeners.remove(&name);
            }
        }
        confirm
    }

    /// Who is to hear that a key changed. Those who watch are removed: one change is enough for them.
    pub fn changed(&mut self, shard: usize, db: usize, key: &[u8], heard: &mut Vec<Hear>) {
        self.hear(shard, db, key, false, heard);
    }

    /// The same for a key that went by itself.
    pub fn went(&mut self, shard: usize, db: usize, key: &[u8], heard: &mut Vec<Hear>) {
        self.hear(shard, db, key, true, heard);
    }

    fn hear(&mut self, shard: usize, db: usize, key: &[u8], removed: bool, heard: &mut Vec<Hear>) {
        if self.listeners == 0 {
            return;
        }
        let name = (db, key.into());
        if let Some(waiters) = self.homes[shard].listeners.get_mut(&name) {
            self.listeners -= tell((shard, &name), waiters, removed, heard);
            if waiters.len() == 0 {
                self.homes[shard].listeners.remove(&name);
            }
        }
    }

    /// The same for every key of a shard.
    pub fn all_changed(&mut self, shard: usize, sweep: Sweep, heard: &mut Vec<Hear>) {
        let mut gone = 0;
        self.homes[shard].listeners.retain(|name, waiters| {
            let removed = match sweep {
                Sweep::Emptied(Some(only)) if only != name.0 => return true,
                Sweep::Emptied(_) => true,
                Sweep::Any => false,
            };
            gone += tell((shard, name), waiters, removed, heard);
            waiters.len() > 0
        });
        self.listeners -= gone;
    }

    /// Who tries next in the round of a key; `None` when it is over.
    pub fn next_of_round(&mut self, shard: usize, name: &KeyName, now: Ms) -> Option<Next> {
        if !self.homes[shard].listeners.contains_key(name) {
            return None;
        }
        let is_there = self.may_be_there(shard, name.0, &name.1, now);
        self.homes[shard].listeners.get_mut(name)?.next(is_there)
    }
}

/// Notes who is to hear of a change; how many listen no more.
fn tell(
    (shard, name): (usize, &KeyName),
    waiters: &mut Waiters,
    removed: bool,
    heard: &mut Vec<Hear>,
) -> usize {
    let before = waiters.len();
    let begins = waiters.changed(removed, |listener| heard.push(Hear::One(listener)));
    if begins {
        heard.push(Hear::Round(shard, name.clone()));
    }
    before - waiters.len()
}
