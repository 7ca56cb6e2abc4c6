//! The walk that writes all databases of a shard down while commands change them.

use super::Shard;
use crate::store::{Budget, Change, Walk};

/// A walk through the databases of a shard, one after the other. See [`Walk`]: its slices, with the frames
/// noted between them, are in the end exactly what is in the shard. Frames are the effects of commands.
///
/// FLUSHALL, FLUSHDB and SWAPDB are noted always, and the walk is told of them by
/// [`flushed`](ShardWalk::flushed) and [`swapped`](ShardWalk::swapped); all other frames are asked for by
/// [`takes`](ShardWalk::takes).
#[derive(Debug)]
pub struct ShardWalk {
    databases: Vec<Stage>,
}

/// How far the walk is with what is in a database now. When databases are swapped their stages are, too: so
/// is what the slices hold of them, once the noted SWAPDB is applied.
#[derive(Debug)]
enum Stage {
    Ahead,
    Here(Walk),
    Behind,
}

/// What a slice was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardSlice {
    /// The database of all its records.
    pub database: usize,
    /// Keys that were begun.
    pub records: usize,
    /// It was the last one of the shard.
    pub is_last: bool,
}

impl ShardWalk {
    /// A walk before the first key of a shard with so many databases.
    pub fn new(databases: usize) -> Self {
        Self {
            databases: (0..databases).map(|_| Stage::Ahead).collect(),
        }
    }

    /// Appends a slice to `out`; maybe an empty one. See [`Walk::next_slice`].
    pub fn next_slice(&mut self, shard: &Shard, budget: Budget, out: &mut Vec<u8>) -> ShardSlice {
        let mut slice = ShardSlice {
            database: 0,
            records: 0,
            is_last: false,
        };
        let is_here = |stage: &Stage| matches!(stage, Stage::Here(_));
        let is_ahead = |stage: &Stage| matches!(stage, Stage::Ahead);
        let here = self.databases.iter().position(is_here);
        if let Some(at) = here.or_else(|| self.databases.iter().position(is_ahead)) {
            slice.database = at;
            let stage = &mut self.databases[at];
            if let Stage::Ahead = stage {
                *stage = Stage::Here(Walk::default());
            }
            let is_done = match (&mut *stage, shard.used_database(at)) {
                (Stage::Here(walk), Some(keys)) => {
                    let part = walk.next_slice(keys, budget, out);
                    slice.records = part.records;
                    part.is_last
                }
                _ => true,
            };
            if is_done {
                *stage = Stage::Behind;
            }
        }
        let mut stages = self.databases.iter();
        slice.is_last = stages.all(|stage| matches!(stage, Stage::Behind));
        slice
    }

    /// Is a frame of the command `name` on a key of a database to be noted behind the slices so far? To be
    /// asked once for each frame, in their order.
    pub fn takes(&mut self, shard: &Shard, database: usize, key: &[u8], name: &[u8]) -> bool {
        match (&mut self.databases[database], shard.used_database(database)) {
            (Stage::Behind, _) => true,
            (Stage::Here(walk), Some(keys)) => walk.takes(keys, key, change_of(name)),
            (Stage::Here(_) | Stage::Ahead, _) => false,
        }
    }

    /// All keys of a database, or of all of them, were removed.
    pub fn flushed(&mut self, database: Option<usize>) {
        for (at, stage) in self.databases.iter_mut().enumerate() {
            if let Stage::Here(walk) = stage
                && database.is_none_or(|only| only == at)
            {
                walk.cleared();
            }
        }
    }

    /// Two databases were swapped.
    pub fn swapped(&mut self, first: usize, second: usize) {
        self.databases.swap(first, second);
    }
}

/// What a frame does to its key. Commands that are not here may be noted, too, but for a collection that is
/// written in part, which is then written anew.
fn change_of(name: &[u8]) -> Change {
    let is = |names: &[&str]| {
        let mut names = names.iter();
        names.any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    };
    if is(&["DEL", "UNLINK"]) {
        Change::Removal
    } else if is(&MEMBER_COMMANDS) {
        Change::Members
    } else {
        Change::Other
    }
}

/// Commands that do the same to each member they name whatever other members are there.
const MEMBER_COMMANDS: [&str; 12] = [
    "HSET",
    "HDEL",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HPEXPIREAT",
    "HPERSIST",
    "SADD",
    "SREM",
    "ZADD",
    "ZREM",
    "PEXPIREAT",
    "PERSIST",
];

#[cfg(test)]
mod tests;
