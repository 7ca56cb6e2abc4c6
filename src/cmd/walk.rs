//! The walk that writes all databases of a shard down while commands change them.

use super::Shard;
use crate::store::{Budget, Form, Walk};

/// A walk through the databases of a shard, one after the other. See [`Walk`]: its slices, with the frames
/// noted between them, are in the end exactly what is in the shard. Frames are the effects of commands.
///
/// FLUSHALL, FLUSHDB and SWAPDB are always noted, and the walk is told of the last by
/// [`swapped`](ShardWalk::swapped). Of all other frames [`takes`](ShardWalk::takes) knows whether they are.
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
    /// What its records say.
    pub form: Form,
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
            form: Form::Plain,
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
                    (slice.records, slice.form) = (part.records, part.form);
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
            (Stage::Here(walk), Some(keys)) => walk.takes(keys, key, is_by_member(name)),
            (Stage::Here(_) | Stage::Ahead, _) => false,
        }
    }

    /// Two databases were swapped.
    pub fn swapped(&mut self, first: usize, second: usize) {
        self.databases.swap(first, second);
    }
}

/// Does a command do the same to each member it names, whatever other members are there? Others may be noted,
/// too, but a collection of which a part is written is then written anew.
fn is_by_member(name: &[u8]) -> bool {
    let mut names = BY_MEMBER.iter();
    names.any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

const BY_MEMBER: [&str; 14] = [
    "DEL",
    "HDEL",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HPERSIST",
    "HPEXPIREAT",
    "HSET",
    "PERSIST",
    "PEXPIREAT",
    "SADD",
    "SREM",
    "UNLINK",
    "ZADD",
    "ZREM",
];

#[cfg(test)]
mod tests;
