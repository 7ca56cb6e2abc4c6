//! Commands on lists.

use bytes::Bytes;

use super::{Ctx, Keys, OnTimeout, Spec, effects, flag::*, int, parse_timeout};
use crate::{
    base::{Ms, parse_i64},
    resp::{Args, Error, Out},
    store::{End, Kind, List, Str},
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "LPUSH",
        -3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Prepends elements to a list and creates it if needed",
        |ctx, args| push(ctx, args, End::Left, false),
    ),
    Spec::store(
        "RPUSH",
        -3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Appends elements to a list and creates it if needed",
        |ctx, args| push(ctx, args, End::Right, false),
    ),
    Spec::store(
        "LPUSHX",
        -3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Prepends elements to a list that exists",
        |ctx, args| push(ctx, args, End::Left, true),
    ),
    Spec::store(
        "RPUSHX",
        -3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Appends elements to a list that exists",
        |ctx, args| push(ctx, args, End::Right, true),
    ),
    Spec::store(
        "LPOP",
        -2,
        WRITE | FAST,
        Keys::one(1),
        "Removes and returns the first elements of a list",
        |ctx, args| pop(ctx, args, End::Left, "lpop"),
    ),
    Spec::store(
        "RPOP",
        -2,
        WRITE | FAST,
        Keys::one(1),
        "Removes and returns the last elements of a list",
        |ctx, args| pop(ctx, args, End::Right, "rpop"),
    ),
    Spec::store(
        "LLEN",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the length of a list",
        llen,
    ),
    Spec::store(
        "LINDEX",
        3,
        READ,
        Keys::one(1),
        "Returns an element of a list by its index",
        lindex,
    ),
    Spec::store(
        "LSET",
        4,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Sets an element of a list by its index",
        lset,
    ),
    Spec::store(
        "LRANGE",
        4,
        READ,
        Keys::one(1),
        "Returns a range of elements of a list",
        lrange,
    ),
    Spec::store(
        "LREM",
        4,
        WRITE,
        Keys::one(1),
        "Removes elements equal to a value from a list",
        lrem,
    ),
    Spec::store(
        "LTRIM",
        4,
        WRITE,
        Keys::one(1),
        "Removes elements from both ends of a list",
        ltrim,
    ),
    Spec::store(
        "LINSERT",
        5,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Inserts an element before or after another one",
        linsert,
    ),
    Spec::store(
        "LPOS",
        -3,
        READ,
        Keys::one(1),
        "Returns the indexes of elements equal to a value",
        lpos,
    ),
    Spec::store(
        "LMOVE",
        5,
        WRITE | DENY_OOM,
        Keys::range(1, 2),
        "Takes an element from one list and puts it on another",
        lmove,
    ),
    Spec::store(
        "RPOPLPUSH",
        3,
        WRITE | DENY_OOM,
        Keys::range(1, 2),
        "Takes the last element of a list and puts it first on another",
        rpoplpush,
    ),
    Spec::store(
        "LMPOP",
        -4,
        WRITE | MOVABLE_KEYS,
        Keys::Counted { count: 1, also: 0 },
        "Removes elements from the first of several lists that has any",
        lmpop,
    ),
    Spec::store(
        "BLPOP",
        -3,
        WRITE | BLOCKING,
        Keys::range(1, -2),
        "Removes the first element of one of several lists, waiting for one",
        |ctx, args| blocking_pop(ctx, args, End::Left),
    ),
    Spec::store(
        "BRPOP",
        -3,
        WRITE | BLOCKING,
        Keys::range(1, -2),
        "Removes the last element of one of several lists, waiting for one",
        |ctx, args| blocking_pop(ctx, args, End::Right),
    ),
    Spec::store(
        "BLMOVE",
        6,
        WRITE | DENY_OOM | BLOCKING,
        Keys::range(1, 2),
        "Takes an element from one list and puts it on another, waiting for one",
        blmove,
    ),
    Spec::store(
        "BRPOPLPUSH",
        4,
        WRITE | DENY_OOM | BLOCKING,
        Keys::range(1, 2),
        "Takes the last element of a list and puts it first on another, waiting for one",
        brpoplpush,
    ),
    Spec::store(
        "BLMPOP",
        -5,
        WRITE | BLOCKING | MOVABLE_KEYS,
        Keys::Counted { count: 2, also: 0 },
        "Removes elements from the first of several lists that has any, waiting for one",
        blmpop,
    ),
];

fn push(ctx: &mut Ctx<'_>, args: Args<'_>, end: End, only_existing: bool) -> Result<(), Error> {
    let key = args.at(1);
    let keys = ctx.shards.of(ctx.db, key);
    let list = if only_existing {
        let Some(list) = keys.get_mut::<List>(key, ctx.now)? else {
            ctx.out.int(0);
            return Ok(());
        };
        list
    } else {
        keys.get_or_create::<List>(key, ctx.now)?
    };
    let values = args.rest(2);
    if values.len() > 1 {
        list.expect(values.iter().map(<[u8]>::len).sum());
    }
    for value in values.iter() {
        list.push(end, value);
    }
    ctx.out.len_int(list.len());
    ctx.dirty += values.len() as u64;
    Ok(())
}

fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, end: End, name: &str) -> Result<(), Error> {
    if args.len() > 3 {
        return Err(Error::arity(name));
    }
    let key = args.at(1);
    let count = match args.get(2) {
        Some(count) => Some(positive(count)?),
        None => None,
    };
    let keys = ctx.shards.of(ctx.db, key);
    let Some(list) = keys.get_mut::<List>(key, ctx.now)? else {
        match count {
            Some(_) => ctx.out.null_array(),
            None => ctx.out.null(),
        }
        return Ok(());
    };
    let popped = match count {
        Some(count) => {
            let popped = count.min(list.len());
            pop_into(ctx.out, list, end, popped);
            popped
        }
        None => {
            pop_one(ctx.out, list, end);
            1
        }
    };
    if popped > 0 {
        keys.remove_if_empty(key);
        ctx.dirty += popped as u64;
    }
    Ok(())
}

fn llen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let list = ctx.shards.of(ctx.db, args.at(1)).get(args.at(1), ctx.now)?;
    ctx.out.len_int(list.map_or(0, List::len));
    Ok(())
}

fn lindex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let Some(list) = ctx
        .shards
        .of(ctx.db, args.at(1))
        .get::<List>(args.at(1), ctx.now)?
    else {
        ctx.out.null();
        return Ok(());
    };
    let at = int(args, 2)?;
    match place(at, list.len()).and_then(|at| list.get(at)) {
        Some(element) => bulk(ctx.out, element),
        None => ctx.out.null(),
    }
    Ok(())
}

fn lset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let list = keys
        .get_mut::<List>(args.at(1), ctx.now)?
        .ok_or(Error::NO_SUCH_KEY)?;
    let at = int(args, 2)?;
    let at = place(at, list.len()).ok_or(Error::INDEX_RANGE)?;
    list.set(at, args.at(3));
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

fn lrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (start, stop) = (int(args, 2)?, int(args, 3)?);
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let Some(list) = keys.get::<List>(args.at(1), ctx.now)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let range = clamp(start, stop, list.len());
    ctx.out.array(range.len());
    for element in list.iter_from(range.start).take(range.len()) {
        bulk(ctx.out, element);
    }
    Ok(())
}

fn lrem(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let count = symmetric(args.at(2))?;
    let key = args.at(1);
    let keys = ctx.shards.of(ctx.db, key);
    let Some(list) = keys.get_mut::<List>(key, ctx.now)? else {
        ctx.out.int(0);
        return Ok(());
    };
    let from = if count < 0 { End::Right } else { End::Left };
    let limit = match count.unsigned_abs() {
        0 => usize::MAX,
        limit => limit as usize,
    };
    let removed = list.remove_equal(args.at(3), from, limit);
    if removed > 0 {
        keys.remove_if_empty(key);
        ctx.dirty += removed as u64;
    }
    ctx.out.len_int(removed);
    Ok(())
}

fn ltrim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (start, stop) = (int(args, 2)?, int(args, 3)?);
    let key = args.at(1);
    let keys = ctx.shards.of(ctx.db, key);
    if let Some(list) = keys.get_mut::<List>(key, ctx.now)? {
        let len = list.len();
        let range = clamp(start, stop, len);
        ctx.dirty += (len - range.len()) as u64;
        if range.is_empty() {
            // A whole list goes the way of large values: freed in slices.
            keys.remove(key, ctx.now);
        } else if range.len() < len {
            list.keep(range);
        }
    }
    ctx.out.ok();
    Ok(())
}

fn linsert(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let after = if args.at(2).eq_ignore_ascii_case(b"after") {
        1
    } else if args.at(2).eq_ignore_ascii_case(b"before") {
        0
    } else {
        return Err(Error::SYNTAX);
    };
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let Some(list) = keys.get_mut::<List>(args.at(1), ctx.now)? else {
        ctx.out.int(0);
        return Ok(());
    };
    let Some(at) = list.position(args.at(3)) else {
        ctx.out.int(-1);
        return Ok(());
    };
    list.insert(at + after, args.at(4));
    ctx.out.len_int(list.len());
    ctx.changed();
    Ok(())
}

fn lpos(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (mut rank, mut count, mut max_len) = (1, None, 0);
    let mut at = 3;
    while at < args.len() {
        let value = args.get(at + 1).ok_or(Error::SYNTAX)?;
        let option = args.at(at);
        if option.eq_ignore_ascii_case(b"rank") {
            rank = symmetric(value)?;
            if rank == 0 {
                return Err(Error::fixed(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second \
                     ... or use negative to start from the end of the list",
                ));
            }
        } else if option.eq_ignore_ascii_case(b"count") {
            count = Some(at_least(value, 0, "ERR COUNT can't be negative")?);
        } else if option.eq_ignore_ascii_case(b"maxlen") {
            max_len = at_least(value, 0, "ERR MAXLEN can't be negative")?;
        } else {
            return Err(Error::SYNTAX);
        }
        at += 2;
    }
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let Some(list) = keys.get::<List>(args.at(1), ctx.now)? else {
        match count {
            Some(_) => ctx.out.array(0),
            None => ctx.out.null(),
        }
        return Ok(());
    };
    let depth = if max_len == 0 { usize::MAX } else { max_len };
    let skip = (rank.unsigned_abs() - 1) as usize;
    let wanted = args.at(2);
    let is_match = |(_, element): &(usize, Str<'_>)| element.as_bytes() == wanted;
    let from_left = || {
        list.iter()
            .enumerate()
            .take(depth)
            .filter(is_match)
            .skip(skip)
    };
    let from_right = || {
        let steps = list.iter().rev().enumerate().take(depth);
        steps.filter(is_match).skip(skip)
    };
    let last = list.len().wrapping_sub(1);
    match count {
        None => {
            let found = if rank > 0 {
                from_left().next().map(|(at, _)| at)
            } else {
                from_right().next().map(|(step, _)| last - step)
            };
            match found {
                Some(at) => ctx.out.len_int(at),
                None => ctx.out.null(),
            }
        }
        Some(count) => {
            let limit = if count == 0 { usize::MAX } else { count };
            let mark = ctx.out.mark();
            let mut found = 0;
            if rank > 0 {
                for (at, _) in from_left().take(limit) {
                    ctx.out.len_int(at);
                    found += 1;
                }
            } else {
                for (step, _) in from_right().take(limit) {
                    ctx.out.len_int(last - step);
                    found += 1;
                }
            }
            ctx.out.array_since(mark, found);
        }
    }
    Ok(())
}

fn lmove(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (from, to) = (end(args.at(3))?, end(args.at(4))?);
    if !move_one(ctx, args, from, to)? {
        ctx.out.null();
    }
    Ok(())
}

fn rpoplpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if !move_one(ctx, args, End::Right, End::Left)? {
        ctx.out.null();
    }
    Ok(())
}

fn blmove(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (from, to) = (end(args.at(3))?, end(args.at(4))?);
    let timeout = parse_timeout(args.at(5))?;
    if !move_one(ctx, args, from, to)? {
        wait_to_move(ctx, timeout);
    }
    Ok(())
}

fn brpoplpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let timeout = parse_timeout(args.at(3))?;
    if !move_one(ctx, args, End::Right, End::Left)? {
        wait_to_move(ctx, timeout);
    }
    Ok(())
}

/// Redis answers a null array after a wait and a null where waiting is not possible.
fn wait_to_move(ctx: &mut Ctx<'_>, timeout: Ms) {
    if ctx.may_block {
        ctx.wait(timeout, OnTimeout::NullArray, None);
    } else {
        ctx.out.null();
    }
}

/// Moves one element from the list at argument 1 to the one at argument 2 and answers it; false, and
/// no answer, if there is none.
fn move_one(ctx: &mut Ctx<'_>, args: Args<'_>, from: End, to: End) -> Result<bool, Error> {
    let (source, target) = (args.at(1), args.at(2));
    let now = ctx.now;
    if ctx
        .keys(source)
        .get::<List>(source, now)?
        .is_none_or(List::is_empty)
    {
        return Ok(false);
    }
    if let Some(meta) = ctx.keys(target).meta(target, now)
        && meta.kind != Kind::List
    {
        return Err(Error::WRONG_TYPE);
    }
    let keys = ctx.shards.of(ctx.db, source);
    let Some(list) = keys.get_mut::<List>(source, now)? else {
        return Ok(false);
    };
    let Some(element) = list.peek(from) else {
        return Ok(false);
    };
    bulk(ctx.out, element);
    let element = match element {
        Str::Inline(bytes) => Bytes::copy_from_slice(bytes),
        Str::Shared(bytes) => bytes.clone(),
    };
    list.drop_end(from);
    if source == target {
        list.push(to, &element);
    } else {
        keys.remove_if_empty(source);
        let keys = ctx.shards.of(ctx.db, target);
        keys.get_or_create::<List>(target, now)?.push(to, &element);
    }
    ctx.changed();
    Ok(true)
}

fn blocking_pop(ctx: &mut Ctx<'_>, args: Args<'_>, end: End) -> Result<(), Error> {
    let last = args.len() - 1;
    let timeout = parse_timeout(args.at(last))?;
    for at in 1..last {
        let key = args.at(at);
        let keys = ctx.shards.of(ctx.db, key);
        let Some(list) = keys.get_mut::<List>(key, ctx.now)? else {
            continue;
        };
        if list.is_empty() {
            continue;
        }
        ctx.out.array(2);
        ctx.out.bulk(key);
        pop_one(ctx.out, list, end);
        keys.remove_if_empty(key);
        ctx.changed();
        effects::popped(ctx, key, end, 1);
        return Ok(());
    }
    ctx.wait(timeout, OnTimeout::NullArray, None);
    Ok(())
}

fn lmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let ask = Mpop::parse(args, 1, end)?;
    if !pop_first_of(ctx, args, &ask)? {
        ctx.out.null_array();
    }
    Ok(())
}

fn blmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let ask = Mpop::parse(args, 2, end)?;
    let timeout = parse_timeout(args.at(1))?;
    if !pop_first_of(ctx, args, &ask)? {
        ctx.wait(timeout, OnTimeout::NullArray, None);
    }
    Ok(())
}

fn pop_first_of(ctx: &mut Ctx<'_>, args: Args<'_>, ask: &Mpop<End>) -> Result<bool, Error> {
    for at in ask.keys.clone() {
        let key = args.at(at);
        let keys = ctx.shards.of(ctx.db, key);
        let Some(list) = keys.get_mut::<List>(key, ctx.now)? else {
            continue;
        };
        if list.is_empty() {
            continue;
        }
        let popped = ask.count.min(list.len());
        ctx.out.array(2);
        ctx.out.bulk(key);
        pop_into(ctx.out, list, ask.end, popped);
        keys.remove_if_empty(key);
        ctx.dirty += popped as u64;
        effects::popped(ctx, key, ask.end, popped);
        return Ok(true);
    }
    Ok(false)
}

/// What LMPOP, ZMPOP and their blocking forms ask for.
pub(super) struct Mpop<E> {
    /// Places of the keys among the arguments.
    pub keys: std::ops::Range<usize>,
    /// Which elements.
    pub end: E,
    /// How many at most.
    pub count: usize,
}

impl<E> Mpop<E> {
    /// Reads `numkeys key... END [COUNT n]` with the number of keys at `first`.
    pub fn parse(
        args: Args<'_>,
        first: usize,
        end: fn(&[u8]) -> Result<E, Error>,
    ) -> Result<Self, Error> {
        let number = at_least(args.at(first), 1, "ERR numkeys should be greater than 0")?;
        let place = number.saturating_add(first + 1);
        let end = end(args.get(place).ok_or(Error::SYNTAX)?)?;
        let count = match args.len() - place - 1 {
            0 => 1,
            2 if args.at(place + 1).eq_ignore_ascii_case(b"count") => {
                at_least(args.at(place + 2), 1, "ERR count should be greater than 0")?
            }
            // A wrong count is told before what stands behind it.
            more if more > 2 && args.at(place + 1).eq_ignore_ascii_case(b"count") => {
                at_least(args.at(place + 2), 1, "ERR count should be greater than 0")?;
                return Err(Error::SYNTAX);
            }
            _ => return Err(Error::SYNTAX),
        };
        Ok(Self {
            keys: first + 1..place,
            end,
            count,
        })
    }
}

/// Answers and drops one element of a list that has some.
fn pop_one(out: &mut Out, list: &mut List, end: End) {
    if let Some(element) = list.peek(end) {
        bulk(out, element);
        list.drop_end(end);
    }
}

/// Answers and drops `count` elements of a list that has as many.
fn pop_into(out: &mut Out, list: &mut List, end: End, count: usize) {
    out.array(count);
    for _ in 0..count {
        pop_one(out, list, end);
    }
}

fn bulk(out: &mut Out, element: Str<'_>) {
    match element {
        Str::Inline(bytes) => out.bulk(bytes),
        Str::Shared(bytes) => out.bulk_shared(bytes),
    }
}

fn end(text: &[u8]) -> Result<End, Error> {
    if text.eq_ignore_ascii_case(b"left") {
        Ok(End::Left)
    } else if text.eq_ignore_ascii_case(b"right") {
        Ok(End::Right)
    } else {
        Err(Error::SYNTAX)
    }
}

/// The place of an index that may count from the end, if there is one.
fn place(at: i64, len: usize) -> Option<usize> {
    let at = if at < 0 { at + len as i64 } else { at };
    usize::try_from(at).ok().filter(|at| *at < len)
}

/// The places from `start` to `stop`, both included and both counted from the end if negative.
pub(super) fn clamp(start: i64, stop: i64, len: usize) -> std::ops::Range<usize> {
    let len = len as i64;
    let from_end = |at: i64| if at < 0 { at + len } else { at };
    let start = from_end(start).max(0);
    let stop = from_end(stop).min(len - 1);
    if start > stop {
        return 0..0;
    }
    start as usize..stop as usize + 1
}

/// A count that must not be negative.
pub(super) fn positive(text: &[u8]) -> Result<usize, Error> {
    parse_i64(text)
        .and_then(|value| usize::try_from(value).ok())
        .ok_or(Error::NOT_POSITIVE)
}

/// An integer from `min` on, or the given error.
pub(super) fn at_least(text: &[u8], min: i64, error: &'static str) -> Result<usize, Error> {
    match parse_i64(text) {
        Some(value) if value >= min => Ok(value as usize),
        _ => Err(Error::fixed(error)),
    }
}

/// An integer whose negative is one too.
pub(super) fn symmetric(text: &[u8]) -> Result<i64, Error> {
    match parse_i64(text).ok_or(Error::NOT_INTEGER)? {
        i64::MIN => Err(Error::fixed(
            "ERR value is out of range, value must between -9223372036854775807 and \
             9223372036854775807",
        )),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use crate::cmd::testing::Desk;

    #[test]
    fn lists_answer_as_redis() {
        let mut desk = Desk::with_shards(3);
        for (line, want) in [
            ("RPUSH l a b c", ":3"),
            ("LPUSHX none a", ":0"),
            ("LPUSHX l z", ":4"),
            ("LRANGE l 0 -1", "*4 $1 z $1 a $1 b $1 c"),
            ("LRANGE l -100 0", "*1 $1 z"),
            ("LRANGE l 3 1", "*0"),
            ("LINDEX l -1", "$1 c"),
            ("LINDEX l 4", "$-1"),
            ("LINDEX none x", "$-1"),
            ("LSET l 9 x", "-ERR index out of range"),
            ("LSET none 0 x", "-ERR no such key"),
            ("LSET l 0 a", "+OK"),
            ("LPOS l a", ":0"),
            ("LPOS l a RANK -1", ":1"),
            ("LPOS l a COUNT 0 RANK -1", "*2 :1 :0"),
            ("LPOS l a COUNT 0 MAXLEN 1", "*1 :0"),
            ("LPOS l q COUNT 0", "*0"),
            ("LPOS l q", "$-1"),
            ("LINSERT l AFTER b x", ":5"),
            ("LINSERT l BEFORE q x", ":-1"),
            ("LINSERT l beside q x", "-ERR syntax error"),
            ("LREM l -1 a", ":1"),
            ("LRANGE l 0 -1", "*4 $1 a $1 b $1 x $1 c"),
            ("LTRIM l 1 -2", "+OK"),
            ("LPOP l 0", "*0"),
            ("LPOP l -1", "-ERR value is out of range, must be positive"),
            ("LPOP l 5", "*2 $1 b $1 x"),
            ("LLEN l", ":0"),
            ("LPOP l", "$-1"),
            ("LPOP l 1", "*-1"),
            (
                "LPOP l 1 2",
                "-ERR wrong number of arguments for 'lpop' command",
            ),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
    }

    #[test]
    fn elements_move_between_lists_of_any_shard() {
        let mut desk = Desk::with_shards(3);
        desk.say("RPUSH a 1 2 3");
        for (line, want) in [
            ("LMOVE a b LEFT RIGHT", "$1 1"),
            ("RPOPLPUSH a b", "$1 3"),
            ("LRANGE b 0 -1", "*2 $1 3 $1 1"),
            ("LMOVE a a LEFT RIGHT", "$1 2"),
            ("LMOVE none b LEFT RIGHT", "$-1"),
            ("SET s v", "+OK"),
            (
                "LMOVE a s LEFT RIGHT",
                "-WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
            ("LLEN a", ":1"),
            ("LMOVE none s LEFT RIGHT", "$-1"),
            ("LMPOP 2 none b RIGHT COUNT 5", "*2 $1 b *2 $1 1 $1 3"),
            ("LMPOP 1 none LEFT", "*-1"),
            ("LMPOP 0 a LEFT", "-ERR numkeys should be greater than 0"),
            (
                "LMPOP 1 a LEFT COUNT 0",
                "-ERR count should be greater than 0",
            ),
            ("LMPOP 2 a LEFT", "-ERR syntax error"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
    }

    #[test]
    fn blocking_forms_wait_only_without_elements() {
        let mut desk = Desk::with_shards(3);
        for line in [
            "BLPOP a b 0",
            "BRPOP a 1.5",
            "BLMOVE a b LEFT LEFT 0",
            "BRPOPLPUSH a b 0",
            "BLMPOP 0 2 a b LEFT",
        ] {
            assert_eq!(desk.say(line), "", "{line}");
            assert!(desk.blocked, "{line}");
        }
        desk.say("RPUSH b 1 2 3 4");
        for (line, want) in [
            ("BLPOP a b 0", "*2 $1 b $1 1"),
            ("BRPOP a b 0", "*2 $1 b $1 4"),
            ("BLMPOP 0 2 a b LEFT", "*2 $1 b *1 $1 2"),
            ("BRPOPLPUSH b a 0", "$1 3"),
            ("BLPOP a -1", "-ERR timeout is negative"),
            ("BLPOP a x", "-ERR timeout is not a float or out of range"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
            assert!(!desk.blocked, "{line}");
        }
    }
}
