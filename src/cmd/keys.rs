//! Commands on keys, whatever their type.

use super::{Ctx, Keys, Spec, expiry, flag::*, int, scan};
use crate::{
    base::{glob_match, parse_i64},
    resp::{Args, Error, Out},
    store::Kind,
};

/// The part of MEMORY that works on stores: USAGE, HELP, and the errors.
pub static MEMORY_USAGE: Spec = Spec::store(
    "MEMORY",
    -2,
    READ,
    Keys::one(2),
    "Returns the memory that a key takes",
    memory,
);

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "COPY",
        -3,
        WRITE | DENY_OOM,
        Keys::range(1, 2),
        "Copies the value of a key to another key",
        copy,
    ),
    Spec::store(
        "DBSIZE",
        1,
        READ | FAST,
        Keys::All,
        "Returns the number of keys in the database",
        dbsize,
    ),
    Spec::store("DEL", -2, WRITE, Keys::range(1, -1), "Deletes keys", delete),
    Spec::store(
        "EXISTS",
        -2,
        READ | FAST,
        Keys::range(1, -1),
        "Counts the named keys that exist",
        exists,
    ),
    Spec::store(
        "EXPIRE",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Sets the time to live of a key in seconds",
        expiry::expire,
    ),
    Spec::store(
        "EXPIREAT",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Sets the expiration time of a key as Unix seconds",
        expiry::expireat,
    ),
    Spec::store(
        "EXPIRETIME",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the expiration time of a key as Unix seconds",
        expiry::expiretime,
    ),
    Spec::store(
        "FLUSHALL",
        -1,
        WRITE,
        Keys::All,
        "Removes all keys from all databases",
        flushall,
    ),
    Spec::store(
        "FLUSHDB",
        -1,
        WRITE,
        Keys::All,
        "Removes all keys from the current database",
        flushdb,
    ),
    Spec::store(
        "KEYS",
        2,
        READ,
        Keys::All,
        "Returns all key names that match a pattern",
        keys,
    ),
    Spec::store(
        "MOVE",
        3,
        WRITE | FAST,
        Keys::one(1),
        "Moves a key to another database",
        move_key,
    ),
    Spec::store(
        "OBJECT",
        -2,
        READ,
        Keys::one(2),
        "Returns how a key's value is kept",
        object,
    ),
    Spec::store(
        "PERSIST",
        2,
        WRITE | FAST,
        Keys::one(1),
        "Removes the expiration time of a key",
        expiry::persist,
    ),
    Spec::store(
        "PEXPIRE",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Sets the time to live of a key in milliseconds",
        expiry::pexpire,
    ),
    Spec::store(
        "PEXPIREAT",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Sets the expiration time of a key as Unix milliseconds",
        expiry::pexpireat,
    ),
    Spec::store(
        "PEXPIRETIME",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the expiration time of a key as Unix milliseconds",
        expiry::pexpiretime,
    ),
    Spec::store(
        "PTTL",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the time to live of a key in milliseconds",
        expiry::pttl,
    ),
    Spec::store(
        "RANDOMKEY",
        1,
        READ | RANDOM,
        Keys::All,
        "Returns a random key name from the database",
        randomkey,
    ),
    Spec::store(
        "RENAME",
        3,
        WRITE,
        Keys::range(1, 2),
        "Renames a key and overwrites the destination",
        rename,
    ),
    Spec::store(
        "RENAMENX",
        3,
        WRITE | FAST,
        Keys::range(1, 2),
        "Renames a key unless the destination exists",
        renamenx,
    ),
    Spec::store(
        "SCAN",
        -2,
        READ,
        Keys::All,
        "Iterates over the key names of the database",
        scan_keys,
    ),
    Spec::store(
        "SWAPDB",
        3,
        WRITE | FAST,
        Keys::All,
        "Swaps two databases",
        swapdb,
    ),
    Spec::store(
        "TOUCH",
        -2,
        READ | FAST,
        Keys::range(1, -1),
        "Counts the named keys that exist and marks them as used",
        touch,
    ),
    Spec::store(
        "TTL",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the time to live of a key in seconds",
        expiry::ttl,
    ),
    Spec::store(
        "TYPE",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the type of a key's value",
        type_of,
    ),
    Spec::store(
        "UNLINK",
        -2,
        WRITE | FAST,
        Keys::range(1, -1),
        "Deletes keys and frees their memory later",
        delete,
    ),
];

/// DEBUG OBJECT, whose container has no keys.
pub static DEBUG_OBJECT: Spec = Spec::store(
    "DEBUG",
    -3,
    READ,
    Keys::one(2),
    "Shows how a key's value is kept",
    debug_object,
);

/// There is no address to show, and no clock of uses.
fn debug_object(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(2), ctx.now);
    let encoding = ctx.keys(key).encoding(key, now).ok_or(Error::NO_SUCH_KEY)?;
    let bytes = ctx.keys(key).memory(key, now).unwrap_or(0);
    ctx.out.simple(&format!(
        "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{bytes} lru:0 lru_seconds_idle:0"
    ));
    Ok(())
}

/// CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT, whose container has no keys.
pub static KEYS_IN_SLOT: Spec = Spec::store(
    "CLUSTER",
    -3,
    READ,
    Keys::All,
    "Counts or returns the keys of a slot",
    keys_in_slot,
);

/// Keys that are visited between two looks at whether there are enough.
const SLOT_STEP: usize = 1024;

/// Walks over the keys of the shard: nothing is kept per slot. Slot and count are known to fit.
fn keys_in_slot(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let slot = int(args, 2)?;
    let wanted = match args.len() {
        3 => None,
        _ => Some(int(args, 3)? as usize),
    };
    let enough = wanted.unwrap_or(usize::MAX);
    let (mark, out, mut count) = (ctx.out.mark(), &mut *ctx.out, 0);
    for at in ctx.shards.each() {
        let keys = ctx.shards.keyspace(at, ctx.db);
        let mut place = 0;
        while count < enough {
            place = keys.scan(place, SLOT_STEP, ctx.now, |key, _| {
                if i64::from(crate::route::slot(key)) == slot && count < enough {
                    count += 1;
                    if wanted.is_some() {
                        out.bulk(key);
                    }
                }
            });
            if place == 0 {
                break;
            }
        }
    }
    match wanted {
        Some(_) => out.array_since(mark, count),
        None => out.len_int(count),
    }
    Ok(())
}

/// DEL and UNLINK are one command here: what is large is always freed in slices.
fn delete(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut count = 0;
    for key in args.rest(1).iter() {
        let now = ctx.now;
        if ctx.keys(key).remove(key, now) {
            count += 1;
            ctx.changed();
            ctx.shards.record(ctx.db, key, [b"DEL", key].into_iter());
        }
    }
    ctx.out.int(count);
    Ok(())
}

fn exists(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    let count = args
        .rest(1)
        .iter()
        .filter(|key| ctx.keys(key).meta(key, now).is_some())
        .count();
    ctx.out.len_int(count);
    Ok(())
}

fn touch(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    let count = args
        .rest(1)
        .iter()
        .filter(|key| ctx.keys(key).contains(key, now))
        .count();
    ctx.out.len_int(count);
    Ok(())
}

fn type_of(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    let meta = ctx.keys(args.at(1)).meta(args.at(1), now);
    ctx.out.simple(meta.map_or("none", |meta| meta.kind.name()));
    Ok(())
}

fn rename(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    rename_to(ctx, args, true)?;
    ctx.out.ok();
    Ok(())
}

fn renamenx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let renamed = rename_to(ctx, args, false)?;
    ctx.out.flag(renamed);
    Ok(())
}

/// Renames a key; false if that was not wanted because the destination exists.
fn rename_to(ctx: &mut Ctx<'_>, args: Args<'_>, replace: bool) -> Result<bool, Error> {
    let (from, to, now) = (args.at(1), args.at(2), ctx.now);
    if ctx.keys(from).meta(from, now).is_none() {
        return Err(Error::NO_SUCH_KEY);
    }
    if from == to {
        return Ok(false);
    }
    if !replace && ctx.keys(to).meta(to, now).is_some() {
        return Ok(false);
    }
    if let Some((value, deadline)) = ctx.keys(from).take(from, now) {
        ctx.keys(to).insert(to, value, deadline);
        ctx.changed();
    }
    Ok(true)
}

fn copy(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (from, to, now) = (args.at(1), args.at(2), ctx.now);
    let (mut db, mut replace, mut at) = (ctx.db, false, 3);
    while at < args.len() {
        if args[at].eq_ignore_ascii_case(b"replace") {
            replace = true;
        } else if args[at].eq_ignore_ascii_case(b"db") && at + 1 < args.len() {
            at += 1;
            db = database(ctx, from, db_number(args, at)?)?;
        } else {
            return Err(Error::SYNTAX);
        }
        at += 1;
    }
    if db == ctx.db && from == to {
        return Err(SAME_OBJECTS);
    }
    let copied = match ctx.keys(from).copy(from, now) {
        Some((value, deadline)) if replace || ctx.shards.of(db, to).meta(to, now).is_none() => {
            ctx.shards.of(db, to).insert(to, value, deadline);
            ctx.changed();
            true
        }
        _ => false,
    };
    ctx.out.flag(copied);
    Ok(())
}

fn move_key(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let db = database(ctx, key, db_number(args, 2)?)?;
    if db == ctx.db {
        return Err(SAME_OBJECTS);
    }
    let mut moved = false;
    if ctx.shards.of(db, key).meta(key, now).is_none()
        && let Some((value, deadline)) = ctx.keys(key).take(key, now)
    {
        ctx.shards.of(db, key).insert(key, value, deadline);
        ctx.changed();
        moved = true;
    }
    ctx.out.flag(moved);
    Ok(())
}

fn swapdb(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let index = |at: usize, error: Error| {
        let index = parse_i64(args.at(at)).and_then(|index| i32::try_from(index).ok());
        index.ok_or(error)
    };
    let first = index(1, Error::fixed("ERR invalid first DB index"))?;
    let second = index(2, Error::fixed("ERR invalid second DB index"))?;
    let count = ctx.shards.databases();
    let in_range = |index: i32| match usize::try_from(index) {
        Ok(index) if index < count => Ok(index),
        _ => Err(DB_RANGE),
    };
    let (first, second) = (in_range(first)?, in_range(second)?);
    if first != second {
        for at in ctx.shards.each() {
            // What went of a database before is said while it has its number.
            ctx.shards.record_gone(at);
            ctx.shards.shard(at).swap(first, second);
            if let Some((_, mut writer)) = ctx.shards.writer_at(at, ctx.db) {
                writer.special([b"SWAPDB", args.at(1), args.at(2)].into_iter());
            }
        }
        ctx.changed();
    }
    ctx.out.ok();
    Ok(())
}

fn dbsize(ctx: &mut Ctx<'_>, _args: Args<'_>) -> Result<(), Error> {
    let each = ctx.shards.each();
    let count = each.map(|at| ctx.shards.keyspace(at, ctx.db).len()).sum();
    ctx.out.len_int(count);
    Ok(())
}

fn flushall(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    flush(ctx, args, None)
}

fn flushdb(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    flush(ctx, args, Some(ctx.db))
}

/// ASYNC and SYNC are both accepted and both mean: gone at once, freed in slices.
fn flush(ctx: &mut Ctx<'_>, args: Args<'_>, only: Option<usize>) -> Result<(), Error> {
    let plain = match args.get(1) {
        None => true,
        Some(word) => {
            args.len() == 2
                && (word.eq_ignore_ascii_case(b"async") || word.eq_ignore_ascii_case(b"sync"))
        }
    };
    if !plain {
        return Err(Error::SYNTAX);
    }
    for at in ctx.shards.each() {
        for (db, keys) in ctx.shards.shard(at).databases() {
            if only.is_none_or(|only| only == db) {
                keys.clear();
            }
        }
        if let Some((_, mut writer)) = ctx.shards.writer_at(at, ctx.db) {
            let name: &[u8] = if only.is_some() {
                b"FLUSHDB"
            } else {
                b"FLUSHALL"
            };
            writer.frame([name].into_iter());
        }
    }
    // Also where nothing was: clients that track are told all the same.
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

fn keys(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (pattern, mark, out) = (args.at(1), ctx.out.mark(), &mut *ctx.out);
    let mut count = 0;
    for at in ctx.shards.each() {
        ctx.shards
            .keyspace(at, ctx.db)
            .scan(0, usize::MAX, ctx.now, |key, _| {
                if pattern == b"*" || glob_match(pattern, key) {
                    out.bulk(key);
                    count += 1;
                }
            });
    }
    out.array_since(mark, count);
    Ok(())
}

/// SCAN's cursor: the shard above the place in its keyspace.
fn scan_keys(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let cursor = scan::cursor(args.at(1))?;
    let filter = Filter::parse(args)?;
    let each = ctx.shards.each();
    let mut shard = ((cursor >> PLACE_BITS) as usize).max(each.start);
    let mut place = cursor & ((1 << PLACE_BITS) - 1);

    // The cursor comes first in the reply and is known last.
    let mut found = Out::new(ctx.out.proto);
    let (mut seen, mut shown) = (0, 0);
    while shard < each.end && seen < filter.count {
        let left = filter.count - seen;
        place = ctx
            .shards
            .keyspace(shard, ctx.db)
            .scan(place, left, ctx.now, |key, kind| {
                seen += 1;
                if filter.shows(key, kind) {
                    found.bulk(key);
                    shown += 1;
                }
            });
        if place != 0 {
            break;
        }
        shard += 1;
    }
    let next = if shard < each.end {
        (shard as u64) << PLACE_BITS | place
    } else {
        0
    };
    ctx.out.array(2);
    ctx.out.bulk_str(&next.to_string());
    ctx.out.array(shown);
    ctx.out.append(&mut found);
    Ok(())
}

/// What SCAN shows.
struct Filter<'a> {
    pattern: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    count: usize,
}

impl<'a> Filter<'a> {
    fn parse(args: Args<'a>) -> Result<Self, Error> {
        let mut filter = Filter {
            pattern: None,
            kind: None,
            count: 10,
        };
        let mut at = 2;
        while let Some(word) = args.get(at) {
            let operand = args.get(at + 1).ok_or(Error::SYNTAX)?;
            if word.eq_ignore_ascii_case(b"count") {
                let count = int(args, at + 1)?;
                if count < 1 {
                    return Err(Error::SYNTAX);
                }
                filter.count = count as usize;
            } else if word.eq_ignore_ascii_case(b"match") {
                filter.pattern = (operand != b"*").then_some(operand);
            } else if word.eq_ignore_ascii_case(b"type") {
                filter.kind = Some(operand);
            } else {
                return Err(Error::SYNTAX);
            }
            at += 2;
        }
        Ok(filter)
    }

    fn shows(&self, key: &[u8], kind: Kind) -> bool {
        self.pattern.is_none_or(|pattern| glob_match(pattern, key))
            && self
                .kind
                .is_none_or(|name| kind.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

fn randomkey(ctx: &mut Ctx<'_>, _args: Args<'_>) -> Result<(), Error> {
    // A shard may turn out to hold nothing but due keys, which its own tries remove.
    for _ in 0..16 {
        let total: usize = ctx
            .shards
            .each()
            .map(|at| ctx.shards.keyspace(at, ctx.db).len())
            .sum();
        if total == 0 {
            break;
        }
        let mut chosen = ctx.rng.below(total as u64) as usize;
        for at in ctx.shards.each() {
            let keys = ctx.shards.keyspace(at, ctx.db);
            if chosen < keys.len() {
                if let Some(key) = keys.random_key(ctx.rng, ctx.now) {
                    ctx.out.bulk(&key);
                    return Ok(());
                }
                break;
            }
            chosen -= keys.len();
        }
    }
    ctx.out.null();
    Ok(())
}

fn object(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let word = args.at(1).to_ascii_lowercase();
    let (name, wanted) = match word.as_slice() {
        b"help" => ("object|help", 2),
        b"encoding" => ("object|encoding", 3),
        b"freq" => ("object|freq", 3),
        b"idletime" => ("object|idletime", 3),
        b"refcount" => ("object|refcount", 3),
        _ => return Err(unknown_subcommand(args.at(1), "OBJECT")),
    };
    if args.len() != wanted {
        return Err(Error::arity(name));
    }
    if wanted == 2 {
        help(ctx, OBJECT_HELP);
        return Ok(());
    }
    let (key, now) = (args.at(2), ctx.now);
    let Some(meta) = ctx.keys(key).meta(key, now) else {
        ctx.out.null();
        return Ok(());
    };
    match word.as_slice() {
        b"encoding" => {
            let encoding = ctx.keys(key).encoding(key, now).unwrap_or_default();
            ctx.out.bulk_str(encoding);
        }
        b"freq" => match meta.frequency {
            Some(frequency) => ctx.out.int(frequency.into()),
            None => return Err(NO_FREQUENCY),
        },
        b"idletime" if meta.frequency.is_some() => return Err(NO_IDLE_TIME),
        b"idletime" => ctx.out.int(meta.idle_secs as i64),
        _ => {
            // Small integers are shared objects elsewhere, and clients see this number for them.
            let small = ctx.keys(key).encoding(key, now) == Some("int")
                && ctx
                    .keys(key)
                    .string(key, now)?
                    .and_then(|text| parse_i64(text.as_bytes()))
                    .is_some_and(|value| (0..10_000).contains(&value));
            ctx.out.int(if small { i32::MAX.into() } else { 1 });
        }
    }
    Ok(())
}

fn memory(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    match args.at(1).to_ascii_lowercase().as_slice() {
        b"help" if args.len() == 2 => {
            help(ctx, MEMORY_HELP);
            Ok(())
        }
        b"help" => Err(Error::arity("memory|help")),
        b"doctor" => Err(Error::arity("memory|doctor")),
        b"malloc-stats" => Err(Error::arity("memory|malloc-stats")),
        b"purge" => Err(Error::arity("memory|purge")),
        b"stats" => Err(Error::arity("memory|stats")),
        b"usage" if args.len() < 3 => Err(Error::arity("memory|usage")),
        b"usage" => {
            // The estimate looks at no elements, so that SAMPLES is read and has no effect.
            for at in (3..args.len()).step_by(2) {
                if !args[at].eq_ignore_ascii_case(b"samples") || at + 1 >= args.len() {
                    return Err(Error::SYNTAX);
                }
                if int(args, at + 1)? < 0 {
                    return Err(Error::SYNTAX);
                }
            }
            let (key, now) = (args.at(2), ctx.now);
            match ctx.keys(key).memory(key, now) {
                Some(bytes) => ctx.out.len_int(bytes),
                None => ctx.out.null(),
            }
            Ok(())
        }
        _ => Err(unknown_subcommand(args.at(1), "MEMORY")),
    }
}

/// A database number, checked; `key` names a shard that is here.
/// The number of a database: 32 bits on the wire.
fn db_number(args: Args<'_>, at: usize) -> Result<i64, Error> {
    let index = int(args, at)?;
    match i32::try_from(index) {
        Ok(_) => Ok(index),
        Err(_) => Err(Error::NOT_32_BITS),
    }
}

fn database(ctx: &mut Ctx<'_>, key: &[u8], index: i64) -> Result<usize, Error> {
    let index = i32::try_from(index).map_err(|_| Error::NOT_INTEGER)?;
    let at = ctx.shards.shard_of(key);
    match usize::try_from(index) {
        Ok(index) if index < ctx.shards.shard(at).database_count() => Ok(index),
        _ => Err(DB_RANGE),
    }
}

fn unknown_subcommand(name: &[u8], command: &str) -> Error {
    let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
    Error::text(format!(
        "ERR unknown subcommand '{name}'. Try {command} HELP."
    ))
}

fn help(ctx: &mut Ctx<'_>, lines: &[&str]) {
    ctx.out.array(lines.len());
    for line in lines {
        ctx.out.simple(line);
    }
}

const NO_FREQUENCY: Error = Error::fixed(
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
     switching between policies at runtime LRU and LFU data will take some time to adjust.",
);
const NO_IDLE_TIME: Error = Error::fixed(
    "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching \
     between policies at runtime LRU and LFU data will take some time to adjust.",
);
const SAME_OBJECTS: Error = Error::fixed("ERR source and destination objects are the same");
const DB_RANGE: Error = Error::fixed("ERR DB index is out of range");
/// Cursors of keyspaces have this many bits.
const PLACE_BITS: u32 = 48;
const OBJECT_HELP: &[&str] = &[
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    Return the kind of internal representation used in order to store the value",
    "    associated with a <key>.",
    "FREQ <key>",
    "    Return the access frequency index of the <key>. The returned integer is",
    "    proportional to the logarithm of the recent access frequency of the key.",
    "IDLETIME <key>",
    "    Return the idle time of the <key>, that is the approximated number of",
    "    seconds elapsed since the last access to the key.",
    "REFCOUNT <key>",
    "    Return the number of references of the value associated with the specified",
    "    <key>.",
    "HELP",
    "    Prints this help.",
];
const MEMORY_HELP: &[&str] = &[
    "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Return memory problems reports.",
    "MALLOC-STATS",
    "    Return internal statistics report from the memory allocator.",
    "PURGE",
    "    Attempt to purge dirty pages for reclamation by the allocator.",
    "STATS",
    "    Return information about the memory usage of the server.",
    "USAGE <key> [SAMPLES <count>]",
    "    Return memory in bytes used by <key> and its value. Nested values are",
    "    sampled up to <count> times (default: 5, 0 means sample all).",
    "HELP",
    "    Prints this help.",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::cmd::testing::Desk;

    #[track_caller]
    fn says(desk: &mut Desk, lines: &[(&str, &str)]) {
        for (line, want) in lines {
            assert_eq!(desk.say(line), *want, "{line}");
        }
    }

    #[test]
    fn keys_are_deleted_counted_and_typed() {
        let mut desk = Desk::with_shards(3);
        says(
            &mut desk,
            &[
                ("SET a 1", "+OK"),
                ("SET b 2", "+OK"),
                ("EXISTS a b c a", ":3"),
                ("TOUCH a b c", ":2"),
                ("TYPE a", "+string"),
                ("TYPE c", "+none"),
                ("DBSIZE", ":2"),
                ("DEL a c a", ":1"),
                ("UNLINK b", ":1"),
                ("DBSIZE", ":0"),
                ("RANDOMKEY", "$-1"),
            ],
        );
        desk.say("RPUSH l x");
        says(&mut desk, &[("TYPE l", "+list"), ("RANDOMKEY", "$1 l")]);
        desk.say("DEL l x");
        assert_eq!(desk.dirty, 1);
        desk.say("DEL l x");
        assert_eq!(desk.dirty, 0);
    }

    #[test]
    fn keys_are_renamed_copied_moved_and_swapped() {
        let mut desk = Desk::with_shards(3);
        says(
            &mut desk,
            &[
                ("RENAME a b", "-ERR no such key"),
                ("RENAME a a", "-ERR no such key"),
                ("SET a 1 PX 5000", "+OK"),
                ("RENAME a a", "+OK"),
                ("RENAMENX a a", ":0"),
                ("SET b 2", "+OK"),
                ("RENAMENX a b", ":0"),
                ("RENAME a b", "+OK"),
                ("GET b", "$1 1"),
                ("PTTL b", ":5000"),
                (
                    "COPY b b",
                    "-ERR source and destination objects are the same",
                ),
                ("COPY none c", ":0"),
                ("COPY b c", ":1"),
                ("PTTL c", ":5000"),
                ("COPY b c", ":0"),
                ("SET b 3", "+OK"),
                ("COPY b c REPLACE", ":1"),
                ("GET c", "$1 3"),
                ("TTL c", ":-1"),
                ("COPY b b DB 1", ":1"),
                ("COPY b b DB 99", "-ERR DB index is out of range"),
                ("COPY b b DB", "-ERR syntax error"),
                ("MOVE b 1", ":0"),
                ("MOVE c 1", ":1"),
                (
                    "MOVE c 0",
                    "-ERR source and destination objects are the same",
                ),
                ("GET c", "$-1"),
                ("SWAPDB 0 1", "+OK"),
                ("GET c", "$1 3"),
                ("SWAPDB 0 99", "-ERR DB index is out of range"),
                ("SWAPDB x 1", "-ERR invalid first DB index"),
                ("SWAPDB 1 x", "-ERR invalid second DB index"),
                ("RPUSH l 1 2 3", ":3"),
                ("COPY l m", ":1"),
                ("RPUSH m 4", ":4"),
                ("LLEN l", ":3"),
                ("RENAME l b", "+OK"),
                ("LLEN b", ":3"),
                ("FLUSHDB", "+OK"),
                ("DBSIZE", ":0"),
                ("SWAPDB 1 0", "+OK"),
                ("DBSIZE", ":1"),
                ("SWAPDB 1 0", "+OK"),
                ("FLUSHALL async", "+OK"),
                ("FLUSHALL foo", "-ERR syntax error"),
                ("SWAPDB 1 0", "+OK"),
                ("DBSIZE", ":0"),
            ],
        );
    }

    #[test]
    fn scans_and_patterns_find_every_key_once() {
        let mut desk = Desk::with_shards(4);
        for at in 0..500 {
            desk.say(&format!("SET key:{at} 1"));
        }
        desk.say("RPUSH list 1");
        let mut seen = BTreeSet::new();
        let (mut cursor, mut calls) = (String::from("0"), 0);
        loop {
            let reply = desk.say(&format!("SCAN {cursor} COUNT 20 MATCH key* TYPE STRING"));
            let mut words = reply.split(' ').skip(2);
            cursor = words.next().unwrap().into();
            for key in words.skip(2).step_by(2) {
                assert!(seen.insert(key.to_string()), "{key} came twice");
            }
            calls += 1;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), 500);
        assert!((15..60).contains(&calls), "{calls} calls");
        assert_eq!(desk.say("KEYS l?st"), "*1 $4 list");
        assert!(desk.say("KEYS *").starts_with("*501 "));
        says(
            &mut desk,
            &[
                ("SCAN x", "-ERR invalid cursor"),
                ("SCAN 0 COUNT 0", "-ERR syntax error"),
                (
                    "SCAN 0 COUNT x",
                    "-ERR value is not an integer or out of range",
                ),
                ("SCAN 0 TYPE", "-ERR syntax error"),
                ("SCAN 0 COUNT 10000 TYPE foo", "*2 $1 0 *0"),
                ("SCAN 0 COUNT 10000 TYPE list", "*2 $1 0 *1 $4 list"),
                ("SCAN 18446744073709551615", "*2 $1 0 *0"),
            ],
        );
    }

    #[test]
    fn objects_and_memory_are_described() {
        let mut desk = Desk::with_shards(1);
        let long = "x".repeat(45);
        says(
            &mut desk,
            &[
                ("SET a 1", "+OK"),
                ("OBJECT ENCODING a", "$3 int"),
                ("OBJECT REFCOUNT a", ":2147483647"),
                ("SET a 10000", "+OK"),
                ("OBJECT refcount a", ":1"),
                ("SET a x", "+OK"),
                ("OBJECT ENCODING a", "$6 embstr"),
                (&format!("SET a {long}"), "+OK"),
                ("OBJECT ENCODING a", "$3 raw"),
                ("OBJECT ENCODING none", "$-1"),
                ("OBJECT FREQ none", "$-1"),
                (
                    "OBJECT ENCODING",
                    "-ERR wrong number of arguments for 'object|encoding' command",
                ),
                (
                    "OBJECT foo x",
                    "-ERR unknown subcommand 'foo'. Try OBJECT HELP.",
                ),
                ("MEMORY USAGE none", "$-1"),
                ("MEMORY USAGE a SAMPLES -1", "-ERR syntax error"),
                ("MEMORY USAGE a SAMPLES", "-ERR syntax error"),
                (
                    "MEMORY foo",
                    "-ERR unknown subcommand 'foo'. Try MEMORY HELP.",
                ),
            ],
        );
        assert!(desk.say("OBJECT HELP").starts_with("*15 +OBJECT <sub"));
        assert!(desk.say("MEMORY USAGE a SAMPLES 0").starts_with(':'));
        desk.say("TOUCH a");
        desk.now += 7_000;
        assert_eq!(desk.say("OBJECT IDLETIME a"), ":7");
    }
}
