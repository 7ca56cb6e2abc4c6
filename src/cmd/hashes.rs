//! Commands on hashes.

mod expiring;

use std::collections::BTreeSet;

use super::{
    Ctx, Keys, Spec,
    flag::*,
    float80::Float80,
    int,
    scan::{Found, Options, cursor},
};
use crate::{
    base::{Ms, Rng, parse_i64},
    resp::{Args, Error, Out, Proto},
    store::{Hash, Typed},
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "HDEL",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Removes fields from a hash",
        hdel,
    ),
    Spec::store(
        "HEXISTS",
        3,
        READ | FAST,
        Keys::one(1),
        "Tells whether a hash has a field",
        hexists,
    ),
    Spec::store(
        "HEXPIRE",
        -6,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the expiry of hash fields in seconds from now",
        hexpire,
    ),
    Spec::store(
        "HEXPIREAT",
        -6,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the expiry of hash fields as a time in seconds",
        hexpireat,
    ),
    Spec::store(
        "HEXPIRETIME",
        -5,
        READ | FAST,
        Keys::one(1),
        "Returns when hash fields expire, in seconds",
        hexpiretime,
    ),
    Spec::store(
        "HGET",
        3,
        READ | FAST,
        Keys::one(1),
        "Returns the value of a hash field",
        hget,
    ),
    Spec::store(
        "HGETALL",
        2,
        READ,
        Keys::one(1),
        "Returns all fields and values of a hash",
        hgetall,
    ),
    Spec::store(
        "HGETDEL",
        -5,
        WRITE | FAST,
        Keys::one(1),
        "Returns the values of hash fields and removes them",
        expiring::hgetdel,
    ),
    Spec::store(
        "HGETEX",
        -5,
        WRITE | FAST,
        Keys::one(1),
        "Returns the values of hash fields and sets or clears their expiry",
        expiring::hgetex,
    ),
    Spec::store(
        "HINCRBY",
        4,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds a number to the integer value of a hash field",
        hincrby,
    ),
    Spec::store(
        "HINCRBYFLOAT",
        4,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds a decimal number to the value of a hash field",
        hincrbyfloat,
    ),
    Spec::store(
        "HKEYS",
        2,
        READ,
        Keys::one(1),
        "Returns all fields of a hash",
        hkeys,
    ),
    Spec::store(
        "HLEN",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the number of fields of a hash",
        hlen,
    ),
    Spec::store(
        "HMGET",
        -3,
        READ | FAST,
        Keys::one(1),
        "Returns the values of several hash fields",
        hmget,
    ),
    Spec::store(
        "HMSET",
        -4,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the values of several hash fields",
        hmset,
    ),
    Spec::store(
        "HPERSIST",
        -5,
        WRITE | FAST,
        Keys::one(1),
        "Clears the expiry of hash fields",
        hpersist,
    ),
    Spec::store(
        "HPEXPIRE",
        -6,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the expiry of hash fields in milliseconds from now",
        hpexpire,
    ),
    Spec::store(
        "HPEXPIREAT",
        -6,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the expiry of hash fields as a time in milliseconds",
        hpexpireat,
    ),
    Spec::store(
        "HPEXPIRETIME",
        -5,
        READ | FAST,
        Keys::one(1),
        "Returns when hash fields expire, in milliseconds",
        hpexpiretime,
    ),
    Spec::store(
        "HPTTL",
        -5,
        READ | FAST,
        Keys::one(1),
        "Returns how long hash fields have to live, in milliseconds",
        hpttl,
    ),
    Spec::store(
        "HRANDFIELD",
        -2,
        READ | RANDOM,
        Keys::one(1),
        "Returns fields of a hash chosen at random",
        hrandfield,
    ),
    Spec::store(
        "HSCAN",
        -3,
        READ,
        Keys::one(1),
        "Visits the fields and values of a hash in steps",
        hscan,
    ),
    Spec::store(
        "HSET",
        -4,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the values of one or more hash fields",
        hset,
    ),
    Spec::store(
        "HSETEX",
        -6,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the values of hash fields and their expiry",
        expiring::hsetex,
    ),
    Spec::store(
        "HSETNX",
        4,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the value of a hash field if it does not exist",
        hsetnx,
    ),
    Spec::store(
        "HSTRLEN",
        3,
        READ | FAST,
        Keys::one(1),
        "Returns the length of the value of a hash field",
        hstrlen,
    ),
    Spec::store(
        "HTTL",
        -5,
        READ | FAST,
        Keys::one(1),
        "Returns how long hash fields have to live, in seconds",
        httl,
    ),
    Spec::store(
        "HVALS",
        2,
        READ,
        Keys::one(1),
        "Returns all values of a hash",
        hvals,
    ),
];

fn hget(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    ctx.out
        .bulk_or_null(hash.and_then(|hash| hash.get(args.at(2))));
    Ok(())
}

fn hmget(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    ctx.out.array(args.len() - 2);
    for field in args.rest(2).iter() {
        ctx.out.bulk_or_null(hash.and_then(|hash| hash.get(field)));
    }
    Ok(())
}

fn hgetall(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    ctx.out.map(hash.map_or(0, Hash::len));
    for (field, value) in hash.iter().flat_map(|hash| hash.iter()) {
        ctx.out.bulk(field);
        ctx.out.bulk(value);
    }
    Ok(())
}

fn hkeys(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    ctx.out.array(hash.map_or(0, Hash::len));
    for (field, _) in hash.iter().flat_map(|hash| hash.iter()) {
        ctx.out.bulk(field);
    }
    Ok(())
}

fn hvals(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    ctx.out.array(hash.map_or(0, Hash::len));
    for (_, value) in hash.iter().flat_map(|hash| hash.iter()) {
        ctx.out.bulk(value);
    }
    Ok(())
}

fn hlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    ctx.out.len_int(hash.map_or(0, Hash::len));
    Ok(())
}

fn hexists(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    ctx.out
        .flag(hash.is_some_and(|hash| hash.contains(args.at(2))));
    Ok(())
}

fn hstrlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    let value = hash.and_then(|hash| hash.get(args.at(2)));
    ctx.out.len_int(value.map_or(0, <[u8]>::len));
    Ok(())
}

fn hset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let created = set_fields(ctx, args, "hset")?;
    ctx.out.len_int(created);
    Ok(())
}

fn hmset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    set_fields(ctx, args, "hmset")?;
    ctx.out.ok();
    Ok(())
}

fn set_fields(ctx: &mut Ctx<'_>, args: Args<'_>, command: &str) -> Result<usize, Error> {
    if args.len() % 2 == 1 {
        return Err(Error::arity(command));
    }
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.shards.of(ctx.db, key);
    let hash = keys.get_or_create::<Hash>(key, now)?;
    let next = hash.next_deadline();
    hash.reserve(args.len() / 2 - 1);
    let mut created = 0;
    for at in (2..args.len()).step_by(2) {
        created += usize::from(hash.set(args.at(at), args.at(at + 1)));
        ctx.dirty += 1;
    }
    if hash.next_deadline() != next {
        keys.reindex(key);
    }
    Ok(created)
}

fn hsetnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let hash = ctx.keys(key).get_or_create::<Hash>(key, now)?;
    let new = !hash.contains(args.at(2));
    if new {
        hash.set(args.at(2), args.at(3));
        ctx.changed();
    }
    ctx.out.flag(new);
    Ok(())
}

fn hdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.shards.of(ctx.db, key);
    let Some(hash) = keys.get_mut::<Hash>(key, now)? else {
        ctx.out.int(0);
        return Ok(());
    };
    let next = hash.next_deadline();
    let mut removed = 0;
    for field in args.rest(2).iter() {
        removed += usize::from(hash.remove(field));
    }
    if hash.next_deadline() != next {
        keys.reindex(key);
    }
    keys.remove_if_empty(key);
    ctx.dirty += removed as u64;
    ctx.out.len_int(removed);
    Ok(())
}

fn hincrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, field, now) = (args.at(1), args.at(2), ctx.now);
    let by = int(args, 3)?;
    let hash = ctx.keys(key).get_or_create::<Hash>(key, now)?;
    // A hash that was created just now has no field to complain about, so it never stays empty.
    let old = match hash.get(field) {
        Some(value) => parse_i64(value).ok_or(Error::fixed("ERR hash value is not an integer"))?,
        None => 0,
    };
    let sum = old.checked_add(by).ok_or(Error::OVERFLOW)?;
    hash.put(field, itoa::Buffer::new().format(sum).as_bytes());
    ctx.changed();
    ctx.out.int(sum);
    Ok(())
}

fn hincrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, field, now) = (args.at(1), args.at(2), ctx.now);
    let by = Float80::parse(args.at(3)).ok_or(Error::NOT_FLOAT)?;
    if !by.is_finite() {
        return Err(Error::fixed("ERR value is NaN or Infinity"));
    }
    let hash = ctx.keys(key).get_or_create::<Hash>(key, now)?;
    let old = match hash.get(field) {
        Some(value) => {
            Float80::parse(value).ok_or(Error::fixed("ERR hash value is not a float"))?
        }
        None => Float80::ZERO,
    };
    let sum = old
        .plus(by)
        .filter(|sum| sum.is_finite())
        .ok_or(Error::NAN_OR_INFINITY)?
        .text();
    hash.put(field, sum.as_bytes());
    ctx.changed();
    ctx.out.bulk_str(&sum);
    Ok(())
}

fn hscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let from = cursor(args.at(2))?;
    let mut found = Found::new(ctx);
    let Some(hash) = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)? else {
        found.finish(ctx.out, 0);
        return Ok(());
    };
    let options = Options::parse(args, 3, true)?;
    let next = hash.scan(from, options.count, |field, value| {
        if options.shows(field) {
            found.push(field);
            if !options.no_values {
                found.push(value);
            }
        }
    });
    found.finish(ctx.out, next);
    Ok(())
}

/// Reads the count of HRANDFIELD and SRANDMEMBER. One reply has to fit in memory, so there is a limit
/// to how often an element may be repeated.
pub(super) fn random_count(args: Args<'_>) -> Result<i64, Error> {
    let count = int(args, 2)?;
    if count == i64::MIN {
        return Err(Error::text(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        )));
    }
    Ok(count)
}

/// Most elements that a negative count may ask for.
pub(super) const REPEATS_MAX: u64 = 1 << 20;

fn hrandfield(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    if args.len() == 2 {
        let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
        let field = hash.and_then(|hash| hash.random(ctx.rng));
        ctx.out.bulk_or_null(field.map(|(field, _)| field));
        return Ok(());
    }
    let count = random_count(args)?;
    let with_values = match args.get(3) {
        None => false,
        Some(word) if args.len() == 4 && word.eq_ignore_ascii_case(b"withvalues") => true,
        Some(_) => return Err(Error::SYNTAX),
    };
    let out_of_range = with_values && count.unsigned_abs() > i64::MAX as u64 / 2;
    if out_of_range || (count < 0 && count.unsigned_abs() > REPEATS_MAX) {
        return Err(Error::fixed("ERR value is out of range"));
    }
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    let Some(hash) = hash else {
        ctx.out.array(0);
        return Ok(());
    };
    let picked = if count < 0 {
        (0..-count).filter_map(|_| hash.random(ctx.rng)).collect()
    } else {
        distinct(hash, count as usize, ctx.rng)
    };
    write_pairs(ctx.out, &picked, with_values);
    Ok(())
}

/// Fields chosen at random, each at most once.
fn distinct<'a>(hash: &'a Hash, count: usize, rng: &mut Rng) -> Vec<(&'a [u8], &'a [u8])> {
    if hash.encoding() == "hashtable" && count < hash.len() / 3 {
        // Few of many: draw again what was drawn before.
        let mut drawn = BTreeSet::new();
        let mut picked = Vec::with_capacity(count);
        while picked.len() < count {
            let Some(pair) = hash.random(rng) else { break };
            if drawn.insert(pair.0) {
                picked.push(pair);
            }
        }
        return picked;
    }
    let mut picked: Vec<_> = hash.iter().collect();
    if count < picked.len() {
        shuffle_front(&mut picked, count, rng);
    }
    picked
}

/// Keeps `count` elements chosen at random.
pub(super) fn shuffle_front<T>(items: &mut Vec<T>, count: usize, rng: &mut Rng) {
    for at in 0..count {
        let other = at + rng.below((items.len() - at) as u64) as usize;
        items.swap(at, other);
    }
    items.truncate(count);
}

fn write_pairs(out: &mut Out, pairs: &[(&[u8], &[u8])], with_values: bool) {
    let nested = with_values && out.proto == Proto::Three;
    let flat = with_values && !nested;
    out.array(if flat { 2 * pairs.len() } else { pairs.len() });
    for (field, value) in pairs {
        if nested {
            out.array(2);
        }
        out.bulk(field);
        if with_values {
            out.bulk(value);
        }
    }
}

/// The latest time a field may expire at: what 46 bits hold, as in other servers.
const DEADLINE_MAX: i64 = ((1 << 48) - 1) >> 2;

/// Which fields' expiry is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    Unset,
    Set,
    Later,
    Earlier,
}

impl Condition {
    fn named(word: &[u8]) -> Option<Condition> {
        match word.to_ascii_lowercase().as_slice() {
            b"nx" => Some(Condition::Unset),
            b"xx" => Some(Condition::Set),
            b"gt" => Some(Condition::Later),
            b"lt" => Some(Condition::Earlier),
            _ => None,
        }
    }

    /// A field without deadline counts as one that lives for ever.
    fn allows(self, old: Option<Ms>, new: Ms) -> bool {
        match self {
            Condition::Always => true,
            Condition::Unset => old.is_none(),
            Condition::Set => old.is_some(),
            Condition::Later => old.is_some_and(|old| new > old),
            Condition::Earlier => old.is_none_or(|old| new < old),
        }
    }
}

/// The fields behind `FIELDS count`, which stand at argument `at`.
fn fields<'a>(args: Args<'a>, at: usize, bad_count: Error) -> Result<Args<'a>, Error> {
    if !args
        .get(at)
        .is_some_and(|word| word.eq_ignore_ascii_case(b"fields"))
    {
        return Err(Error::fixed(
            "ERR Mandatory argument FIELDS is missing or not at the right position",
        ));
    }
    let count = args
        .get(at + 1)
        .and_then(parse_i64)
        .filter(|count| *count > 0);
    let count = count.ok_or(bad_count)?;
    let fields = args.rest(at + 2);
    if fields.len() as i64 != count {
        return Err(Error::fixed(
            "ERR The `numfields` parameter must match the number of arguments",
        ));
    }
    Ok(fields)
}

fn hexpire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    expire(ctx, args, "hexpire", 1000, now)
}

fn hpexpire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    expire(ctx, args, "hpexpire", 1, now)
}

fn hexpireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    expire(ctx, args, "hexpireat", 1000, 0)
}

fn hpexpireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    expire(ctx, args, "hpexpireat", 1, 0)
}

fn expire(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    command: &str,
    unit: i64,
    start: Ms,
) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    // A key of another type is the first complaint.
    ctx.keys(key).get::<Hash>(key, now)?;
    let deadline = field_deadline(ctx, args, 2, command, unit, start)?;
    let condition = Condition::named(args.at(3));
    let at = if condition.is_some() { 4 } else { 3 };
    let condition = condition.unwrap_or(Condition::Always);
    let bad_count = Error::fixed("ERR Parameter `numFields` should be greater than 0");
    let fields = fields(args, at, bad_count)?;
    let keys = ctx.shards.of(ctx.db, key);
    let over_by = keys.over_by(now);
    ctx.out.array(fields.len());
    let Some(hash) = keys.get_mut::<Hash>(key, now)? else {
        fields.iter().for_each(|_| ctx.out.int(NO_FIELD));
        return Ok(());
    };
    let mut changes = 0;
    for field in fields.iter() {
        if !hash.contains(field) {
            ctx.out.int(NO_FIELD);
        } else if !condition.allows(hash.deadline(field), deadline) {
            ctx.out.int(0);
        } else if deadline <= over_by {
            hash.remove(field);
            changes += 1;
            ctx.out.int(2);
        } else {
            hash.set_deadline(field, Some(deadline));
            changes += 1;
            ctx.out.int(1);
        }
    }
    if changes > 0 {
        keys.reindex(key);
        keys.remove_if_empty(key);
    }
    ctx.dirty += changes;
    Ok(())
}

/// Reads a field's deadline: `unit`s of milliseconds after `start`.
fn field_deadline(
    ctx: &Ctx<'_>,
    args: Args<'_>,
    at: usize,
    command: &str,
    unit: i64,
    start: Ms,
) -> Result<Ms, Error> {
    let number = int(args, at)?;
    if number < 0 {
        return Err(Error::fixed("ERR invalid expire time, must be >= 0"));
    }
    // A primary of another make may know later times; its replica has to follow.
    let max = if ctx.from_primary {
        i64::MAX
    } else {
        DEADLINE_MAX
    };
    let span = number
        .checked_mul(unit)
        .filter(|span| *span <= max - start as i64)
        .ok_or_else(|| Error::invalid_expire(command))?;
    Ok(span as Ms + start)
}

/// What the expiry commands answer for a field that is not there.
const NO_FIELD: i64 = -2;
/// What they answer for a field without expiry.
const NO_DEADLINE: i64 = -1;

fn hpersist(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.shards.of(ctx.db, key);
    keys.get::<Hash>(key, now)?;
    let fields = fields(args, 2, BAD_COUNT)?;
    ctx.out.array(fields.len());
    let Some(hash) = keys.get_mut::<Hash>(key, now)? else {
        fields.iter().for_each(|_| ctx.out.int(NO_FIELD));
        return Ok(());
    };
    let mut changes = 0;
    for field in fields.iter() {
        if !hash.contains(field) {
            ctx.out.int(NO_FIELD);
        } else if hash.deadline(field).is_none() {
            ctx.out.int(NO_DEADLINE);
        } else {
            hash.set_deadline(field, None);
            changes += 1;
            ctx.out.int(1);
        }
    }
    if changes > 0 {
        keys.reindex(key);
    }
    ctx.dirty += changes;
    Ok(())
}

const BAD_COUNT: Error = Error::fixed("ERR Number of fields must be a positive integer");

fn httl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    times(ctx, args, |deadline| {
        deadline.saturating_sub(now).div_ceil(1000)
    })
}

fn hpttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    times(ctx, args, |deadline| deadline.saturating_sub(now))
}

fn hexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    times(ctx, args, |deadline| deadline.div_ceil(1000))
}

fn hpexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    times(ctx, args, |deadline| deadline)
}

fn times(ctx: &mut Ctx<'_>, args: Args<'_>, shown: impl Fn(Ms) -> Ms) -> Result<(), Error> {
    let key = args.at(1);
    let hash = ctx.shards.of(ctx.db, key).get::<Hash>(key, ctx.now)?;
    let fields = fields(args, 2, BAD_COUNT)?;
    ctx.out.array(fields.len());
    for field in fields.iter() {
        ctx.out.int(match hash.filter(|hash| hash.contains(field)) {
            None => NO_FIELD,
            Some(hash) => hash
                .deadline(field)
                .map_or(NO_DEADLINE, |deadline| shown(deadline) as i64),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Desk;
    use crate::resp::Proto;

    fn check(lines: &[(&str, &str)]) {
        let mut desk = Desk::with_shards(3);
        for (line, want) in lines {
            assert_eq!(desk.say(line), *want, "{line}");
        }
    }

    #[test]
    fn fields_are_set_and_read() {
        check(&[
            ("HSET h a 1 b 2", ":2"),
            ("HSET h b 3 c 4", ":1"),
            ("HMSET h d 5", "+OK"),
            ("HGET h b", "$1 3"),
            ("HGET h x", "$-1"),
            ("HGET none x", "$-1"),
            ("HMGET h a x d", "*3 $1 1 $-1 $1 5"),
            ("HGETALL h", "*8 $1 a $1 1 $1 b $1 3 $1 c $1 4 $1 d $1 5"),
            ("HKEYS h", "*4 $1 a $1 b $1 c $1 d"),
            ("HVALS h", "*4 $1 1 $1 3 $1 4 $1 5"),
            ("HLEN h", ":4"),
            ("HSTRLEN h a", ":1"),
            ("HEXISTS h a", ":1"),
            ("HSETNX h a 9", ":0"),
            ("HSETNX h e 9", ":1"),
            ("HDEL h a b x", ":2"),
            ("HDEL h c d e", ":3"),
            ("HLEN h", ":0"),
            ("HGETALL h", "*0"),
            (
                "HSET h a",
                "-ERR wrong number of arguments for 'hset' command",
            ),
            (
                "HMSET h a 1 b",
                "-ERR wrong number of arguments for 'hmset' command",
            ),
            ("SET s v", "+OK"),
            (
                "HSET s a 1",
                "-WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
        ]);
    }

    #[test]
    fn fields_are_counted() {
        check(&[
            ("HINCRBY h n 5", ":5"),
            ("HINCRBY h n -7", ":-2"),
            ("HINCRBYFLOAT h n 0.5", "$4 -1.5"),
            ("HINCRBY h n 1", "-ERR hash value is not an integer"),
            ("HSET h t x", ":1"),
            ("HINCRBYFLOAT h t 1", "-ERR hash value is not a float"),
            ("HINCRBYFLOAT h n inf", "-ERR value is NaN or Infinity"),
            ("HINCRBYFLOAT h n x", "-ERR value is not a valid float"),
            (
                "HINCRBY none x a",
                "-ERR value is not an integer or out of range",
            ),
            ("HLEN none", ":0"),
        ]);
    }

    #[test]
    fn scans_show_what_matches() {
        check(&[
            ("HSET h a1 1 a2 2 b 3", ":3"),
            ("HSCAN h 0 MATCH a*", "*2 $1 0 *4 $2 a1 $1 1 $2 a2 $1 2"),
            ("HSCAN h 0 NOVALUES COUNT 1 MATCH b", "*2 $1 0 *1 $1 b"),
            ("HSCAN none 0 FOO", "*2 $1 0 *0"),
            ("HSCAN h x", "-ERR invalid cursor"),
            ("HSCAN h 0 COUNT 0", "-ERR syntax error"),
            (
                "HSCAN h 0 COUNT a",
                "-ERR value is not an integer or out of range",
            ),
            ("HSCAN h 0 FOO", "-ERR syntax error"),
            ("HSCAN h -1", "*2 $1 0 *6 $2 a1 $1 1 $2 a2 $1 2 $1 b $1 3"),
        ]);
    }

    #[test]
    fn random_fields_are_fields() {
        let mut desk = Desk::with_shards(2);
        desk.say("HSET h a 1");
        for (line, want) in [
            ("HRANDFIELD h", "$1 a"),
            ("HRANDFIELD h 5", "*1 $1 a"),
            ("HRANDFIELD h -3", "*3 $1 a $1 a $1 a"),
            ("HRANDFIELD h -2 WITHVALUES", "*4 $1 a $1 1 $1 a $1 1"),
            ("HRANDFIELD h 1 FOO", "-ERR syntax error"),
            (
                "HRANDFIELD h -9223372036854775807",
                "-ERR value is out of range",
            ),
            ("HRANDFIELD none", "$-1"),
            ("HRANDFIELD none 3", "*0"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
        desk.proto = Proto::Three;
        assert_eq!(desk.say("HRANDFIELD h 1 WITHVALUES"), "*1 *2 $1 a $1 1");
        for at in 0..500 {
            desk.say(&format!("HSET big f{at} v"));
        }
        for (count, shown) in [(10, 10), (400, 400), (900, 500)] {
            let reply = desk.say(&format!("HRANDFIELD big {count}"));
            let mut fields: Vec<_> = reply
                .split(' ')
                .filter(|word| word.starts_with('f'))
                .collect();
            fields.sort_unstable();
            fields.dedup();
            assert_eq!(fields.len(), shown);
        }
    }

    #[test]
    fn fields_have_deadlines() {
        let mut desk = Desk::with_shards(2);
        desk.say("HSET h a 1 b 2 c 3");
        for (line, want) in [
            ("HPEXPIRE h 1500 FIELDS 2 a x", "*2 :1 :-2"),
            ("HTTL h FIELDS 3 a b x", "*3 :2 :-1 :-2"),
            ("HPTTL h FIELDS 1 a", "*1 :1500"),
            ("HPEXPIRETIME h FIELDS 1 a", "*1 :1000000001500"),
            ("HEXPIRETIME h FIELDS 1 a", "*1 :1000000002"),
            ("HEXPIRE h 1 NX FIELDS 2 a b", "*2 :0 :1"),
            ("HEXPIRE h 1 GT FIELDS 3 a b c", "*3 :0 :0 :0"),
            ("HEXPIRE h 9 XX FIELDS 2 a c", "*2 :1 :0"),
            ("HEXPIRE h 5 LT FIELDS 2 a c", "*2 :1 :1"),
            ("HPERSIST h FIELDS 2 a a", "*2 :1 :-1"),
            ("HPEXPIREAT h 1000000005000 FIELDS 1 a", "*1 :1"),
            ("HEXPIREAT h 1 FIELDS 1 c", "*1 :2"),
            ("HKEYS h", "*2 $1 a $1 b"),
            ("HINCRBY h a 1", ":2"),
            ("HPTTL h FIELDS 1 a", "*1 :5000"),
            ("HSET h a 7", ":0"),
            ("HTTL h FIELDS 1 a", "*1 :-1"),
            ("HEXPIRE none 1 FIELDS 1 a", "*1 :-2"),
            ("HTTL none FIELDS 1 a", "*1 :-2"),
            ("HPERSIST none FIELDS 1 a", "*1 :-2"),
            (
                "HEXPIRE h 1 FIELD 1 a",
                "-ERR Mandatory argument FIELDS is missing or not at the right position",
            ),
            (
                "HEXPIRE h 1 FIELDS 0 a",
                "-ERR Parameter `numFields` should be greater than 0",
            ),
            (
                "HEXPIRE h 1 FIELDS 2 a",
                "-ERR The `numfields` parameter must match the number of arguments",
            ),
            (
                "HTTL h FIELDS x a",
                "-ERR Number of fields must be a positive integer",
            ),
            (
                "HEXPIRE h -1 FIELDS 1 a",
                "-ERR invalid expire time, must be >= 0",
            ),
            (
                "HPEXPIRE h 70368744177664 FIELDS 1 a",
                "-ERR invalid expire time in 'hpexpire' command",
            ),
            ("HEXPIRE h 0 FIELDS 2 a b", "*2 :2 :2"),
            ("HLEN h", ":0"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
    }
}
