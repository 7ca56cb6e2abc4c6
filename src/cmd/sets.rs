//! Commands on sets.

use std::collections::BTreeSet;

use super::{
    Ctx, Keys, Spec, effects,
    flag::*,
    hashes::{REPEATS_MAX, random_count, shuffle_front},
    scan::{Found, Options, cursor},
};
use crate::{
    base::{Rng, parse_i64},
    resp::{Args, Error, OwnedArgs},
    store::{InValue, Set, Typed},
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "SADD",
        -3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds members to a set",
        sadd,
    ),
    Spec::store(
        "SCARD",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the number of members of a set",
        scard,
    ),
    Spec::store(
        "SDIFF",
        -2,
        READ,
        Keys::range(1, -1),
        "Returns the members of a set that others lack",
        sdiff,
    ),
    Spec::store(
        "SDIFFSTORE",
        -3,
        WRITE | DENY_OOM,
        Keys::range(1, -1),
        "Stores the members of a set that others lack",
        sdiffstore,
    ),
    Spec::store(
        "SINTER",
        -2,
        READ,
        Keys::range(1, -1),
        "Returns the members that all sets have",
        sinter,
    ),
    Spec::store(
        "SINTERCARD",
        -3,
        READ | MOVABLE_KEYS,
        Keys::Counted { count: 1, also: 0 },
        "Returns how many members all sets have",
        sintercard,
    ),
    Spec::store(
        "SINTERSTORE",
        -3,
        WRITE | DENY_OOM,
        Keys::range(1, -1),
        "Stores the members that all sets have",
        sinterstore,
    ),
    Spec::store(
        "SISMEMBER",
        3,
        READ | FAST,
        Keys::one(1),
        "Tells whether a set has a member",
        sismember,
    ),
    Spec::store(
        "SMEMBERS",
        2,
        READ,
        Keys::one(1),
        "Returns all members of a set",
        smembers,
    ),
    Spec::store(
        "SMISMEMBER",
        -3,
        READ | FAST,
        Keys::one(1),
        "Tells which of several members a set has",
        smismember,
    ),
    Spec::store(
        "SMOVE",
        4,
        WRITE | FAST,
        Keys::range(1, 2),
        "Moves a member from one set to another",
        smove,
    ),
    Spec::store(
        "SPOP",
        -2,
        WRITE | FAST | RANDOM,
        Keys::one(1),
        "Removes members chosen at random and returns them",
        spop,
    ),
    Spec::store(
        "SRANDMEMBER",
        -2,
        READ | RANDOM,
        Keys::one(1),
        "Returns members of a set chosen at random",
        srandmember,
    ),
    Spec::store(
        "SREM",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Removes members from a set",
        srem,
    ),
    Spec::store(
        "SSCAN",
        -3,
        READ,
        Keys::one(1),
        "Visits the members of a set in steps",
        sscan,
    ),
    Spec::store(
        "SUNION",
        -2,
        READ,
        Keys::range(1, -1),
        "Returns the members that any of the sets has",
        sunion,
    ),
    Spec::store(
        "SUNIONSTORE",
        -3,
        WRITE | DENY_OOM,
        Keys::range(1, -1),
        "Stores the members that any of the sets has",
        sunionstore,
    ),
];

fn sadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let set = ctx.keys(key).get_or_create::<Set>(key, now)?;
    let before = set.len();
    set.reserve(args.at(2), args.len() - 2);
    for member in args.rest(2).iter() {
        set.insert(member);
    }
    let added = set.len() - before;
    ctx.dirty += added as u64;
    ctx.out.len_int(added);
    Ok(())
}

fn srem(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.shards.of(ctx.db, key);
    let mut removed = 0;
    if let Some(set) = keys.get_mut::<Set>(key, now)? {
        let before = set.len();
        for member in args.rest(2).iter() {
            set.remove(member);
        }
        removed = before - set.len();
        keys.remove_if_empty(key);
    }
    ctx.dirty += removed as u64;
    ctx.out.len_int(removed);
    Ok(())
}

fn smembers(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let set = ctx.shards.of(ctx.db, key).get::<Set>(key, ctx.now)?;
    ctx.out.set(set.map_or(0, Set::len));
    for member in set.iter().flat_map(|set| set.iter()) {
        ctx.out.bulk(&member);
    }
    Ok(())
}

fn sismember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let set = ctx.shards.of(ctx.db, key).get::<Set>(key, ctx.now)?;
    ctx.out
        .flag(set.is_some_and(|set| set.contains(args.at(2))));
    Ok(())
}

fn smismember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let set = ctx.shards.of(ctx.db, key).get::<Set>(key, ctx.now)?;
    ctx.out.array(args.len() - 2);
    for member in args.rest(2).iter() {
        ctx.out.flag(set.is_some_and(|set| set.contains(member)));
    }
    Ok(())
}

fn scard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let set = ctx.shards.of(ctx.db, key).get::<Set>(key, ctx.now)?;
    ctx.out.len_int(set.map_or(0, Set::len));
    Ok(())
}

fn smove(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (from, to, member, now) = (args.at(1), args.at(2), args.at(3), ctx.now);
    let Some(set) = ctx.keys(from).get::<Set>(from, now)? else {
        ctx.out.flag(false);
        return Ok(());
    };
    let found = set.contains(member);
    ctx.keys(to).get::<Set>(to, now)?;
    if !found || from == to {
        ctx.out.flag(found);
        return Ok(());
    }
    let keys = ctx.keys(from);
    if let Some(set) = keys.get_mut::<Set>(from, now)? {
        set.remove(member);
        keys.remove_if_empty(from);
        ctx.changed();
    }
    if ctx.keys(to).get_or_create::<Set>(to, now)?.insert(member) {
        ctx.changed();
    }
    ctx.out.flag(true);
    Ok(())
}

fn spop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    let count = match args.get(2) {
        Some(text) => {
            let count = parse_i64(text).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(Error::NOT_POSITIVE)?)
        }
        None => None,
    };
    let is_recorded = ctx.shards.records();
    let keys = ctx.shards.of(ctx.db, key);
    let Some(set) = keys.get_mut::<Set>(key, now)? else {
        match count {
            Some(_) => ctx.out.set(0),
            None => ctx.out.null(),
        }
        return Ok(());
    };
    if count.is_some_and(|count| count >= set.len()) {
        // All of it goes; the memory is given back in slices.
        ctx.out.set(set.len());
        set.iter().for_each(|member| ctx.out.bulk(&member));
        ctx.dirty += set.len() as u64;
        keys.remove(key, now);
        effects::removed(ctx, b"SREM", key, std::iter::empty());
        return Ok(());
    }
    if let Some(count) = count {
        ctx.out.set(count);
    }
    let mut popped = OwnedArgs::default();
    for _ in 0..count.unwrap_or(1) {
        let Some(member) = set.random(ctx.rng).map(|member| member.to_vec()) else {
            break;
        };
        set.remove(&member);
        ctx.out.bulk(&member);
        ctx.dirty += 1;
        if is_recorded {
            popped.push(&member);
        }
    }
    keys.remove_if_empty(key);
    effects::removed(ctx, b"SREM", key, popped.as_args().iter());
    Ok(())
}

fn srandmember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    if args.len() == 2 {
        let set = ctx.shards.of(ctx.db, key).get::<Set>(key, ctx.now)?;
        match set.and_then(|set| set.random(ctx.rng)) {
            Some(member) => ctx.out.bulk(&member),
            None => ctx.out.null(),
        }
        return Ok(());
    }
    if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    let count = random_count(args)?;
    if count < 0 && count.unsigned_abs() > REPEATS_MAX {
        return Err(Error::fixed("ERR value is out of range"));
    }
    let Some(set) = ctx.shards.of(ctx.db, key).get::<Set>(key, ctx.now)? else {
        ctx.out.array(0);
        return Ok(());
    };
    if count < 0 {
        ctx.out.array(count.unsigned_abs() as usize);
        for _ in 0..-count {
            if let Some(member) = set.random(ctx.rng) {
                ctx.out.bulk(&member);
            }
        }
        return Ok(());
    }
    let count = (count as usize).min(set.len());
    ctx.out.array(count);
    distinct(set, count, ctx.rng, |member| ctx.out.bulk(member));
    Ok(())
}

/// Visits `count` members chosen at random, each at most once.
fn distinct(set: &Set, count: usize, rng: &mut Rng, mut visit: impl FnMut(&[u8])) {
    if set.encoding() == "hashtable" && count < set.len() / 3 {
        // Few of many: draw again what was drawn before.
        let mut drawn = BTreeSet::new();
        while drawn.len() < count {
            let Some(member) = set.random(rng) else { break };
            if !drawn.contains(&member[..]) {
                visit(&member);
                drawn.insert(member.to_vec());
            }
        }
        return;
    }
    let mut members: Vec<_> = set.iter().collect();
    shuffle_front(&mut members, count, rng);
    members.iter().for_each(|member| visit(member));
}

fn sscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let from = cursor(args.at(2))?;
    let mut found = Found::new(ctx);
    let Some(set) = ctx.shards.of(ctx.db, key).get::<Set>(key, ctx.now)? else {
        found.finish(ctx.out, 0);
        return Ok(());
    };
    let options = Options::parse(args, 3, false)?;
    let next = set.scan(from, options.count, |member| {
        if options.shows(member) {
            found.push(member);
        }
    });
    found.finish(ctx.out, next);
    Ok(())
}

/// How sets are put together.
#[derive(Clone, Copy)]
enum Combine {
    All,
    Any,
    FirstOnly,
}

fn sinter(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, Combine::All)
}

fn sunion(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, Combine::Any)
}

fn sdiff(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, Combine::FirstOnly)
}

fn sinterstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    store(ctx, args, Combine::All)
}

fn sunionstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    store(ctx, args, Combine::Any)
}

fn sdiffstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    store(ctx, args, Combine::FirstOnly)
}

fn answer(ctx: &mut Ctx<'_>, args: Args<'_>, how: Combine) -> Result<(), Error> {
    let result = combine(ctx, args.rest(1).iter(), how, usize::MAX)?;
    ctx.out.set(result.len());
    result.iter().for_each(|member| ctx.out.bulk(&member));
    Ok(())
}

fn store(ctx: &mut Ctx<'_>, args: Args<'_>, how: Combine) -> Result<(), Error> {
    let (target, now) = (args.at(1), ctx.now);
    let result = combine(ctx, args.rest(2).iter(), how, usize::MAX)?;
    let len = result.len();
    if len > 0 {
        ctx.keys(target).insert(target, result.wrap(), None);
        ctx.changed();
    } else if ctx.keys(target).remove(target, now) {
        ctx.changed();
    }
    ctx.out.len_int(len);
    Ok(())
}

/// The combination of the sets under all keys. One set is looked at at a time, because each may be on
/// another shard.
fn combine<'a>(
    ctx: &mut Ctx<'_>,
    keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    how: Combine,
    limit: usize,
) -> Result<Set, Error> {
    let now = ctx.now;
    let mut lens = Vec::with_capacity(keys.len());
    for key in keys.clone() {
        let set = ctx.keys(key).get::<Set>(key, now)?;
        lens.push(set.map_or(0, Set::len));
    }
    let mut result = Set::default();
    if let Combine::Any = how {
        for key in keys.clone() {
            if let Some(set) = ctx.keys(key).get::<Set>(key, now)? {
                set.iter().for_each(|member| {
                    result.insert(&member);
                });
            }
        }
        return Ok(result);
    }
    let start = match how {
        Combine::All => (0..lens.len()).min_by_key(|at| lens[*at]).unwrap_or(0),
        _ => 0,
    };
    if lens.contains(&0) && matches!(how, Combine::All) {
        return Ok(result);
    }
    let Some(key) = keys.clone().nth(start) else {
        return Ok(result);
    };
    let Some(set) = ctx.keys(key).get::<Set>(key, now)? else {
        return Ok(result);
    };
    let mut members: Vec<Box<[u8]>> = set.iter().map(|member| (*member).into()).collect();
    for (at, key) in keys.enumerate() {
        if at == start || members.is_empty() {
            continue;
        }
        if let Some(set) = ctx.keys(key).get::<Set>(key, now)? {
            let wanted = matches!(how, Combine::All);
            members.retain(|member| set.contains(member) == wanted);
        }
    }
    for member in members.iter().take(limit) {
        result.insert(member);
    }
    Ok(result)
}

fn sintercard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let number = parse_i64(args.at(1))
        .filter(|number| *number > 0)
        .ok_or(Error::fixed("ERR numkeys should be greater than 0"))?;
    if number > args.len() as i64 - 2 {
        return Err(Error::fixed(
            "ERR Number of keys can't be greater than number of args",
        ));
    }
    let behind = 2 + number as usize;
    let mut limit = 0;
    let mut at = behind;
    while let Some(word) = args.get(at) {
        let operand = args.get(at + 1);
        let Some(operand) = operand.filter(|_| word.eq_ignore_ascii_case(b"limit")) else {
            return Err(Error::SYNTAX);
        };
        limit = parse_i64(operand)
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or(Error::fixed("ERR LIMIT can't be negative"))?;
        at += 2;
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    let keys = args.rest(2).iter().take(number as usize);
    let result = combine(ctx, keys, Combine::All, limit)?;
    ctx.out.len_int(result.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Desk;
    use crate::resp::Proto;

    fn check(desk: &mut Desk, lines: &[(&str, &str)]) {
        for (line, want) in lines {
            assert_eq!(desk.say(line), *want, "{line}");
        }
    }

    #[test]
    fn members_come_and_go() {
        let mut desk = Desk::with_shards(3);
        check(
            &mut desk,
            &[
                ("SADD s 3 1 2 1", ":3"),
                ("SMEMBERS s", "*3 $1 1 $1 2 $1 3"),
                ("SADD s a", ":1"),
                ("SMEMBERS s", "*4 $1 1 $1 2 $1 3 $1 a"),
                ("SISMEMBER s a", ":1"),
                ("SISMEMBER s b", ":0"),
                ("SMISMEMBER s a b 1", "*3 :1 :0 :1"),
                ("SMISMEMBER none a", "*1 :0"),
                ("SCARD s", ":4"),
                ("SREM s a 1 x", ":2"),
                ("SMOVE s t 2", ":1"),
                ("SMOVE s t 9", ":0"),
                ("SMOVE t t 2", ":1"),
                ("SMOVE s t 3", ":1"),
                ("SCARD s", ":0"),
                ("SMEMBERS t", "*2 $1 2 $1 3"),
                ("SMEMBERS none", "*0"),
                ("SSCAN t 0 MATCH 2", "*2 $1 0 *1 $1 2"),
                ("SSCAN t 0 NOVALUES", "-ERR syntax error"),
                ("SET k v", "+OK"),
                (
                    "SMOVE t k 2",
                    "-WRONGTYPE Operation against a key holding the wrong kind of value",
                ),
                ("SMOVE none k 2", ":0"),
            ],
        );
        desk.proto = Proto::Three;
        check(&mut desk, &[("SMEMBERS t", "~2 $1 2 $1 3")]);
    }

    #[test]
    fn sets_are_combined() {
        check(
            &mut Desk::with_shards(4),
            &[
                ("SADD a 1 2 3 4", ":4"),
                ("SADD b 2 3 9", ":3"),
                ("SADD c 3", ":1"),
                ("SINTER a b", "*2 $1 2 $1 3"),
                ("SINTER a b c", "*1 $1 3"),
                ("SINTER a none", "*0"),
                ("SUNION a b none", "*5 $1 1 $1 2 $1 3 $1 4 $1 9"),
                ("SDIFF a b", "*2 $1 1 $1 4"),
                ("SDIFF none a", "*0"),
                ("SINTERSTORE t a b", ":2"),
                ("SMEMBERS t", "*2 $1 2 $1 3"),
                ("SUNIONSTORE t t c none", ":2"),
                ("SDIFFSTORE t t a", ":0"),
                ("SCARD t", ":0"),
                ("SINTERCARD 2 a b", ":2"),
                ("SINTERCARD 2 a b LIMIT 1", ":1"),
                ("SINTERCARD 0 a", "-ERR numkeys should be greater than 0"),
                (
                    "SINTERCARD 3 a b",
                    "-ERR Number of keys can't be greater than number of args",
                ),
                ("SINTERCARD 1 a LIMIT -1", "-ERR LIMIT can't be negative"),
                ("SINTERCARD 1 a LIMIT", "-ERR syntax error"),
                ("SET k v", "+OK"),
                (
                    "SINTER none k",
                    "-WRONGTYPE Operation against a key holding the wrong kind of value",
                ),
            ],
        );
    }

    #[test]
    fn chance_takes_members() {
        let mut desk = Desk::with_shards(2);
        for at in 0..300 {
            desk.say(&format!("SADD s m{at}"));
        }
        for (count, shown) in [(10, 10), (200, 200), (500, 300)] {
            let reply = desk.say(&format!("SRANDMEMBER s {count}"));
            let mut members: Vec<_> = reply
                .split(' ')
                .filter(|word| word.starts_with('m'))
                .collect();
            members.sort_unstable();
            members.dedup();
            assert_eq!(members.len(), shown);
        }
        assert!(desk.say("SRANDMEMBER s -400").starts_with("*400 "));
        assert!(desk.say("SPOP s 100").starts_with("*100 "));
        assert_eq!(desk.dirty, 100);
        assert!(desk.say("SPOP s").starts_with("$"));
        assert_eq!(desk.say("SCARD s"), ":199");
        assert!(desk.say("SPOP s 1000").starts_with("*199 "));
        check(
            &mut desk,
            &[
                ("SCARD s", ":0"),
                ("SPOP s", "$-1"),
                ("SPOP s 3", "*0"),
                ("SPOP s -1", "-ERR value is out of range, must be positive"),
                ("SRANDMEMBER s", "$-1"),
                ("SRANDMEMBER s 2", "*0"),
            ],
        );
    }
}
