//! Commands on sorted sets. Ranges are in `ranges`, unions and their like in `algebra`.

mod algebra;
mod ranges;

use std::collections::BTreeSet;

use super::{
    Ctx, Keys, OnTimeout, Spec, effects,
    flag::*,
    lists::{Mpop, positive},
    parse_timeout, scan,
};
use crate::{
    base::{format_f64, parse_f64},
    resp::{Args, Error, Out, OwnedArgs, Proto},
    store::Zset,
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "ZADD",
        -4,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds members to a sorted set or changes their scores",
        |ctx, args| add(ctx, args, false),
    ),
    Spec::store(
        "ZINCRBY",
        4,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds to the score of a member",
        |ctx, args| add(ctx, args, true),
    ),
    Spec::store(
        "ZREM",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Removes members of a sorted set",
        zrem,
    ),
    Spec::store(
        "ZCARD",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the number of members of a sorted set",
        zcard,
    ),
    Spec::store(
        "ZSCORE",
        3,
        READ | FAST,
        Keys::one(1),
        "Returns the score of a member",
        zscore,
    ),
    Spec::store(
        "ZMSCORE",
        -3,
        READ | FAST,
        Keys::one(1),
        "Returns the scores of several members",
        zmscore,
    ),
    Spec::store(
        "ZRANK",
        -3,
        READ | FAST,
        Keys::one(1),
        "Returns the index of a member, by rising scores",
        |ctx, args| rank(ctx, args, "zrank"),
    ),
    Spec::store(
        "ZREVRANK",
        -3,
        READ | FAST,
        Keys::one(1),
        "Returns the index of a member, by falling scores",
        |ctx, args| rank(ctx, args, "zrevrank"),
    ),
    Spec::store(
        "ZCOUNT",
        4,
        READ | FAST,
        Keys::one(1),
        "Counts the members in a range of scores",
        ranges::zcount,
    ),
    Spec::store(
        "ZLEXCOUNT",
        4,
        READ | FAST,
        Keys::one(1),
        "Counts the members in a lexicographic range",
        ranges::zlexcount,
    ),
    Spec::store(
        "ZRANGE",
        -4,
        READ,
        Keys::one(1),
        "Returns the members in a range of indexes, scores or members",
        ranges::zrange,
    ),
    Spec::store(
        "ZRANGESTORE",
        -5,
        WRITE | DENY_OOM,
        Keys::range(1, 2),
        "Stores the members in a range of a sorted set",
        ranges::zrangestore,
    ),
    Spec::store(
        "ZREVRANGE",
        -4,
        READ,
        Keys::one(1),
        "Returns the members in a range of indexes, by falling scores",
        ranges::zrevrange,
    ),
    Spec::store(
        "ZRANGEBYSCORE",
        -4,
        READ,
        Keys::one(1),
        "Returns the members in a range of scores",
        ranges::zrangebyscore,
    ),
    Spec::store(
        "ZREVRANGEBYSCORE",
        -4,
        READ,
        Keys::one(1),
        "Returns the members in a range of scores, by falling scores",
        ranges::zrevrangebyscore,
    ),
    Spec::store(
        "ZRANGEBYLEX",
        -4,
        READ,
        Keys::one(1),
        "Returns the members in a lexicographic range",
        ranges::zrangebylex,
    ),
    Spec::store(
        "ZREVRANGEBYLEX",
        -4,
        READ,
        Keys::one(1),
        "Returns the members in a lexicographic range, from the last one",
        ranges::zrevrangebylex,
    ),
    Spec::store(
        "ZREMRANGEBYRANK",
        4,
        WRITE,
        Keys::one(1),
        "Removes the members in a range of indexes",
        ranges::zremrangebyrank,
    ),
    Spec::store(
        "ZREMRANGEBYSCORE",
        4,
        WRITE,
        Keys::one(1),
        "Removes the members in a range of scores",
        ranges::zremrangebyscore,
    ),
    Spec::store(
        "ZREMRANGEBYLEX",
        4,
        WRITE,
        Keys::one(1),
        "Removes the members in a lexicographic range",
        ranges::zremrangebylex,
    ),
    Spec::store(
        "ZPOPMIN",
        -2,
        WRITE | FAST,
        Keys::one(1),
        "Removes and returns the members with the lowest scores",
        |ctx, args| pop(ctx, args, Side::Min),
    ),
    Spec::store(
        "ZPOPMAX",
        -2,
        WRITE | FAST,
        Keys::one(1),
        "Removes and returns the members with the highest scores",
        |ctx, args| pop(ctx, args, Side::Max),
    ),
    Spec::store(
        "ZMPOP",
        -4,
        WRITE | MOVABLE_KEYS,
        Keys::Counted { count: 1, also: 0 },
        "Removes members of the first of several sorted sets that has any",
        zmpop,
    ),
    Spec::store(
        "BZPOPMIN",
        -3,
        WRITE | BLOCKING | FAST,
        Keys::range(1, -2),
        "Removes the member with the lowest score of one of several sorted sets, waiting for one",
        |ctx, args| blocking_pop(ctx, args, Side::Min),
    ),
    Spec::store(
        "BZPOPMAX",
        -3,
        WRITE | BLOCKING | FAST,
        Keys::range(1, -2),
        "Removes the member with the highest score of one of several sorted sets, waiting for one",
        |ctx, args| blocking_pop(ctx, args, Side::Max),
    ),
    Spec::store(
        "BZMPOP",
        -5,
        WRITE | BLOCKING | MOVABLE_KEYS,
        Keys::Counted { count: 2, also: 0 },
        "Removes members of the first of several sorted sets that has any, waiting for one",
        bzmpop,
    ),
    Spec::store(
        "ZRANDMEMBER",
        -2,
        READ | RANDOM,
        Keys::one(1),
        "Returns members chosen at random",
        zrandmember,
    ),
    Spec::store(
        "ZSCAN",
        -3,
        READ,
        Keys::one(1),
        "Iterates over the members and scores of a sorted set",
        zscan,
    ),
    Spec::store(
        "ZUNION",
        -3,
        READ | MOVABLE_KEYS,
        Keys::Counted { count: 1, also: 0 },
        "Returns the union of sorted sets",
        algebra::zunion,
    ),
    Spec::store(
        "ZINTER",
        -3,
        READ | MOVABLE_KEYS,
        Keys::Counted { count: 1, also: 0 },
        "Returns the intersection of sorted sets",
        algebra::zinter,
    ),
    Spec::store(
        "ZDIFF",
        -3,
        READ | MOVABLE_KEYS,
        Keys::Counted { count: 1, also: 0 },
        "Returns the members of the first sorted set that are in no other",
        algebra::zdiff,
    ),
    Spec::store(
        "ZUNIONSTORE",
        -4,
        WRITE | DENY_OOM | MOVABLE_KEYS,
        Keys::Counted { count: 2, also: 1 },
        "Stores the union of sorted sets",
        algebra::zunionstore,
    ),
    Spec::store(
        "ZINTERSTORE",
        -4,
        WRITE | DENY_OOM | MOVABLE_KEYS,
        Keys::Counted { count: 2, also: 1 },
        "Stores the intersection of sorted sets",
        algebra::zinterstore,
    ),
    Spec::store(
        "ZDIFFSTORE",
        -4,
        WRITE | DENY_OOM | MOVABLE_KEYS,
        Keys::Counted { count: 2, also: 1 },
        "Stores the members of the first sorted set that are in no other",
        algebra::zdiffstore,
    ),
    Spec::store(
        "ZINTERCARD",
        -3,
        READ | MOVABLE_KEYS,
        Keys::Counted { count: 1, also: 0 },
        "Counts the members of the intersection of sorted sets",
        algebra::zintercard,
    ),
];

/// Two infinities that cancel out.
const NAN_SCORE: Error = Error::fixed("ERR resulting score is not a number (NaN)");

/// The options of ZADD and GEOADD.
#[derive(Clone, Copy, Default)]
pub(super) struct AddOptions {
    /// Only new members are added.
    pub only_new: bool,
    /// Only present members are changed.
    pub only_present: bool,
    /// Scores only grow.
    pub only_greater: bool,
    /// Scores only fall.
    pub only_less: bool,
    /// The answer counts changed members too.
    pub count_changed: bool,
    /// The score is added to the present one, and answered.
    pub increment: bool,
}

/// What one step of ZADD did.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Added {
    /// A new member with its score.
    New(f64),
    /// Another score.
    Changed(f64),
    /// The same score as before.
    Same(f64),
    /// The options forbid it.
    Refused,
}

impl AddOptions {
    fn step(self, zset: &mut Zset, member: &[u8], score: f64) -> Result<Added, Error> {
        let Some(old) = zset.score(member) else {
            if self.only_present {
                return Ok(Added::Refused);
            }
            zset.insert(member, score);
            return Ok(Added::New(score));
        };
        if self.only_new {
            return Ok(Added::Refused);
        }
        let score = if self.increment { old + score } else { score };
        if score.is_nan() {
            return Err(NAN_SCORE);
        }
        if (self.only_less && score >= old) || (self.only_greater && score <= old) {
            return Ok(Added::Refused);
        }
        if score == old {
            return Ok(Added::Same(score));
        }
        zset.insert(member, score);
        Ok(Added::Changed(score))
    }

    /// Adds all pairs and answers. The arguments are in order.
    pub fn apply<'m>(
        self,
        ctx: &mut Ctx<'_>,
        key: &[u8],
        pairs: impl Iterator<Item = (f64, &'m [u8])>,
    ) -> Result<(), Error> {
        let keys = ctx.shards.of(ctx.db, key);
        let zset = if self.only_present {
            let Some(zset) = keys.get_mut::<Zset>(key, ctx.now)? else {
                match self.increment {
                    true => ctx.out.null(),
                    false => ctx.out.int(0),
                }
                return Ok(());
            };
            zset
        } else {
            keys.get_or_create::<Zset>(key, ctx.now)?
        };
        let (mut new, mut changed, mut last) = (0, 0, Added::Refused);
        let mut signed_zero = false;
        for (score, member) in pairs {
            last = self.step(zset, member, score)?;
            let score = match last {
                Added::New(score) => {
                    new += 1;
                    score
                }
                Added::Changed(score) => {
                    changed += 1;
                    score
                }
                Added::Same(_) | Added::Refused => continue,
            };
            signed_zero |= score == 0.0 && score.is_sign_negative();
        }
        if signed_zero {
            zset.unsign_zeros();
        }
        ctx.dirty += new + changed;
        if self.increment {
            match last {
                Added::New(score) | Added::Changed(score) | Added::Same(score) => {
                    ctx.out.double(score);
                }
                Added::Refused => ctx.out.null(),
            }
        } else {
            let counted = if self.count_changed {
                new + changed
            } else {
                new
            };
            ctx.out.int(counted as i64);
        }
        Ok(())
    }
}

fn add(ctx: &mut Ctx<'_>, args: Args<'_>, increment: bool) -> Result<(), Error> {
    let mut options = AddOptions {
        increment,
        ..AddOptions::default()
    };
    let mut first = 2;
    while let Some(word) = args.get(first) {
        let option = match word.to_ascii_lowercase().as_slice() {
            b"nx" => &mut options.only_new,
            b"xx" => &mut options.only_present,
            b"gt" => &mut options.only_greater,
            b"lt" => &mut options.only_less,
            b"ch" => &mut options.count_changed,
            b"incr" => &mut options.increment,
            _ => break,
        };
        *option = true;
        first += 1;
    }
    let pairs = args.rest(first);
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(Error::SYNTAX);
    }
    if options.only_new && options.only_present {
        return Err(Error::fixed(
            "ERR XX and NX options at the same time are not compatible",
        ));
    }
    let one_way = u8::from(options.only_greater) + u8::from(options.only_less);
    if one_way + u8::from(options.only_new) > 1 {
        return Err(Error::fixed(
            "ERR GT, LT, and/or NX options at the same time are not compatible",
        ));
    }
    if options.increment && pairs.len() > 2 {
        return Err(Error::fixed(
            "ERR INCR option supports a single increment-element pair",
        ));
    }
    let score = |at: usize| parse_f64(pairs.at(at)).ok_or(Error::NOT_FLOAT);
    if pairs.len() == 2 {
        let pair = (score(0)?, pairs.at(1));
        return options.apply(ctx, args.at(1), std::iter::once(pair));
    }
    // A score that cannot be read leaves everything as it was.
    let scores: Vec<f64> = (0..pairs.len())
        .step_by(2)
        .map(score)
        .collect::<Result<_, _>>()?;
    let members = (1..pairs.len()).step_by(2).map(|at| pairs.at(at));
    options.apply(ctx, args.at(1), scores.into_iter().zip(members))
}

fn zrem(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let keys = ctx.shards.of(ctx.db, key);
    let Some(zset) = keys.get_mut::<Zset>(key, ctx.now)? else {
        ctx.out.int(0);
        return Ok(());
    };
    let members = args.rest(2);
    let removed = members
        .iter()
        .filter(|member| zset.remove(member).is_some())
        .count();
    if removed > 0 {
        keys.remove_if_empty(key);
        ctx.dirty += removed as u64;
    }
    ctx.out.len_int(removed);
    Ok(())
}

fn zcard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let zset = ctx.shards.of(ctx.db, args.at(1)).get(args.at(1), ctx.now)?;
    ctx.out.len_int(zset.map_or(0, Zset::len));
    Ok(())
}

fn zscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let zset = keys.get::<Zset>(args.at(1), ctx.now)?;
    match zset.and_then(|zset| zset.score(args.at(2))) {
        Some(score) => ctx.out.double(score),
        None => ctx.out.null(),
    }
    Ok(())
}

fn zmscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let zset = keys.get::<Zset>(args.at(1), ctx.now)?;
    ctx.out.array(args.len() - 2);
    for member in args.rest(2).iter() {
        match zset.and_then(|zset| zset.score(member)) {
            Some(score) => ctx.out.double(score),
            None => ctx.out.null(),
        }
    }
    Ok(())
}

fn rank(ctx: &mut Ctx<'_>, args: Args<'_>, name: &str) -> Result<(), Error> {
    let with_score = match args.get(3) {
        _ if args.len() > 4 => return Err(Error::arity(name)),
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"withscore") => true,
        Some(_) => return Err(Error::SYNTAX),
    };
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let zset = keys.get::<Zset>(args.at(1), ctx.now)?;
    let found = zset.and_then(|zset| {
        let (rank, score) = zset.rank(args.at(2))?;
        let back = name == "zrevrank";
        Some((if back { zset.len() - 1 - rank } else { rank }, score))
    });
    match found {
        Some((rank, score)) if with_score => {
            ctx.out.array(2);
            ctx.out.len_int(rank);
            ctx.out.double(score);
        }
        Some((rank, _)) => ctx.out.len_int(rank),
        None if with_score => ctx.out.null_array(),
        None => ctx.out.null(),
    }
    Ok(())
}

/// Which members are popped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// Those with the lowest scores.
    Min,
    /// Those with the highest scores.
    Max,
}

impl Side {
    fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.eq_ignore_ascii_case(b"min") {
            Ok(Side::Min)
        } else if text.eq_ignore_ascii_case(b"max") {
            Ok(Side::Max)
        } else {
            Err(Error::SYNTAX)
        }
    }

    /// Answers and removes `count` elements of a set that has as many; their names, if they are recorded.
    fn pop_into(
        self,
        out: &mut Out,
        zset: &mut Zset,
        count: usize,
        nested: bool,
        is_recorded: bool,
    ) -> OwnedArgs {
        let mut popped = OwnedArgs::default();
        let len = zset.len();
        let ranks = match self {
            Side::Min => 0..count,
            Side::Max => len - count..len,
        };
        for (member, score) in zset.range(ranks.clone(), self == Side::Max) {
            if nested {
                out.array(2);
            }
            out.bulk(member);
            out.double(score);
            if is_recorded {
                popped.push(member);
            }
        }
        zset.remove_range(ranks);
        popped
    }
}

fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, side: Side) -> Result<(), Error> {
    if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    let count = match args.get(2) {
        Some(count) => Some(positive(count)?),
        None => None,
    };
    let (key, is_recorded) = (args.at(1), ctx.shards.records());
    let keys = ctx.shards.of(ctx.db, key);
    let Some(zset) = keys.get_mut::<Zset>(key, ctx.now)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let popped = count.unwrap_or(1).min(zset.len());
    let nested = count.is_some() && ctx.out.proto == Proto::Three;
    ctx.out.array(if nested { popped } else { 2 * popped });
    let members = side.pop_into(ctx.out, zset, popped, nested, is_recorded);
    if popped > 0 {
        keys.remove_if_empty(key);
        ctx.dirty += popped as u64;
        effects::removed(ctx, b"ZREM", key, members.as_args().iter());
    }
    Ok(())
}

fn zmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let ask = Mpop::parse(args, 1, Side::parse)?;
    if !pop_first_of(ctx, args, &ask)? {
        ctx.out.null_array();
    }
    Ok(())
}

fn bzmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let ask = Mpop::parse(args, 2, Side::parse)?;
    let timeout = parse_timeout(args.at(1))?;
    if !pop_first_of(ctx, args, &ask)? {
        ctx.wait(timeout, OnTimeout::NullArray, None);
    }
    Ok(())
}

fn pop_first_of(ctx: &mut Ctx<'_>, args: Args<'_>, ask: &Mpop<Side>) -> Result<bool, Error> {
    let is_recorded = ctx.shards.records();
    for at in ask.keys.clone() {
        let key = args.at(at);
        let keys = ctx.shards.of(ctx.db, key);
        let Some(zset) = keys.get_mut::<Zset>(key, ctx.now)? else {
            continue;
        };
        if zset.is_empty() {
            continue;
        }
        let popped = ask.count.min(zset.len());
        ctx.out.array(2);
        ctx.out.bulk(key);
        ctx.out.array(popped);
        let members = ask.end.pop_into(ctx.out, zset, popped, true, is_recorded);
        keys.remove_if_empty(key);
        ctx.dirty += popped as u64;
        effects::removed(ctx, b"ZREM", key, members.as_args().iter());
        return Ok(true);
    }
    Ok(false)
}

fn blocking_pop(ctx: &mut Ctx<'_>, args: Args<'_>, side: Side) -> Result<(), Error> {
    let last = args.len() - 1;
    let timeout = parse_timeout(args.at(last))?;
    let is_recorded = ctx.shards.records();
    for at in 1..last {
        let key = args.at(at);
        let keys = ctx.shards.of(ctx.db, key);
        let Some(zset) = keys.get_mut::<Zset>(key, ctx.now)? else {
            continue;
        };
        if zset.is_empty() {
            continue;
        }
        ctx.out.array(3);
        ctx.out.bulk(key);
        let members = side.pop_into(ctx.out, zset, 1, false, is_recorded);
        keys.remove_if_empty(key);
        ctx.changed();
        effects::removed(ctx, b"ZREM", key, members.as_args().iter());
        return Ok(());
    }
    ctx.wait(timeout, OnTimeout::NullArray, None);
    Ok(())
}

fn zrandmember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let Some(count) = args.get(2) else {
        let keys = ctx.shards.of(ctx.db, key);
        let zset = keys.get::<Zset>(key, ctx.now)?;
        let chosen = zset.and_then(|zset| zset.at(ctx.rng.below(zset.len() as u64) as usize));
        ctx.out.bulk_or_null(chosen.map(|(member, _)| member));
        return Ok(());
    };
    let count = super::lists::symmetric(count)?;
    let with_scores = match args.get(3) {
        None => false,
        Some(word) if args.len() == 4 && word.eq_ignore_ascii_case(b"withscores") => true,
        Some(_) => return Err(Error::SYNTAX),
    };
    if with_scores && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(Error::fixed("ERR value is out of range"));
    }
    let keys = ctx.shards.of(ctx.db, key);
    let Some(zset) = keys.get::<Zset>(key, ctx.now)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let wanted = count.unsigned_abs() as usize;
    let len = zset.len();
    if count < 0 {
        if wanted > REPLY_ELEMENTS {
            return Err(Error::fixed("ERR value is out of range"));
        }
        pairs_header(ctx.out, wanted, with_scores);
        for _ in 0..wanted {
            if let Some(element) = zset.at(ctx.rng.below(len as u64) as usize) {
                pair(ctx.out, element, with_scores);
            }
        }
        return Ok(());
    }
    if wanted >= len {
        pairs_header(ctx.out, len, with_scores);
        for element in zset.iter() {
            pair(ctx.out, element, with_scores);
        }
        return Ok(());
    }
    // Floyd's way to choose: each of the last `wanted` ranks enters the choice, or an earlier one does.
    let mut chosen = BTreeSet::new();
    for rank in len - wanted..len {
        let other = ctx.rng.below(rank as u64 + 1) as usize;
        if !chosen.insert(other) {
            chosen.insert(rank);
        }
    }
    pairs_header(ctx.out, wanted, with_scores);
    for rank in chosen {
        if let Some(element) = zset.at(rank) {
            pair(ctx.out, element, with_scores);
        }
    }
    Ok(())
}

/// Most elements of a reply whose length is not bounded by the data, so that no request can ask for
/// more memory than there is.
const REPLY_ELEMENTS: usize = 1 << 24;

fn zscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let cursor = scan::cursor(args.at(2))?;
    let mut found = scan::Found::new(ctx);
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let next = match keys.get::<Zset>(args.at(1), ctx.now)? {
        None => 0,
        Some(zset) => {
            let options = scan::Options::parse(args, 3, false)?;
            zset.scan(cursor, options.count, |member, score| {
                if options.shows(member) {
                    found.push(member);
                    found.push(format_f64(score).as_bytes());
                }
            })
        }
    };
    found.finish(ctx.out, next);
    Ok(())
}

/// Header of a reply of members, each with its score if asked for: pairs in RESP3, flat in RESP2.
fn pairs_header(out: &mut Out, count: usize, with_scores: bool) {
    let flat = with_scores && out.proto == Proto::Two;
    out.array(if flat { 2 * count } else { count });
}

/// One member of such a reply.
fn pair(out: &mut Out, (member, score): (&[u8], f64), with_score: bool) {
    if with_score && out.proto == Proto::Three {
        out.array(2);
    }
    out.bulk(member);
    if with_score {
        out.double(score);
    }
}

/// Puts a result under a key, or removes the key if there is none, and answers the number of members.
pub(super) fn store(ctx: &mut Ctx<'_>, key: &[u8], mut result: Zset) {
    use crate::store::InValue;

    let (len, now) = (result.len(), ctx.now);
    if len > 0 {
        result.unsign_zeros();
        ctx.keys(key).insert(key, result.wrap(), None);
        ctx.changed();
    } else if ctx.keys(key).remove(key, now) {
        ctx.changed();
    }
    ctx.out.len_int(len);
}

#[cfg(test)]
mod tests {
    use crate::{cmd::testing::Desk, resp::Proto};

    pub(super) fn talk(desk: &mut Desk, lines: &[(&str, &str)]) {
        for (line, want) in lines {
            assert_eq!(desk.say(line), *want, "{line}");
        }
    }

    #[test]
    fn members_are_added_as_the_options_say() {
        let mut desk = Desk::with_shards(3);
        talk(
            &mut desk,
            &[
                ("ZADD z 1 a 2 b", ":2"),
                ("ZADD z 1 a 3 b 4 c", ":1"),
                ("ZADD z CH 1 a 5 b 4 c", ":1"),
                ("ZADD z NX 9 a", ":0"),
                ("ZADD z XX 9 n", ":0"),
                ("ZADD z GT CH 0 a", ":0"),
                ("ZADD z LT CH 0 a", ":1"),
                ("ZADD z INCR 2.5 a", "$3 2.5"),
                ("ZADD z NX INCR 2.5 a", "$-1"),
                ("ZADD none XX INCR 1 a", "$-1"),
                (
                    "ZADD z NX XX 1 a",
                    "-ERR XX and NX options at the same time are not compatible",
                ),
                (
                    "ZADD z GT LT 1 a",
                    "-ERR GT, LT, and/or NX options at the same time are not compatible",
                ),
                (
                    "ZADD z INCR 1 a 2 b",
                    "-ERR INCR option supports a single increment-element pair",
                ),
                ("ZADD z 1 a 2", "-ERR syntax error"),
                ("ZADD z x a", "-ERR value is not a valid float"),
                ("ZADD z 1 new x other", "-ERR value is not a valid float"),
                ("ZSCORE z new", "$-1"),
                ("ZADD z inf i", ":1"),
                (
                    "ZINCRBY z -inf i",
                    "-ERR resulting score is not a number (NaN)",
                ),
                ("ZINCRBY z 1 q", "$1 1"),
                ("ZSCORE z i", "$3 inf"),
                ("ZMSCORE z a none", "*2 $3 2.5 $-1"),
                ("ZCARD z", ":5"),
                ("ZRANK z b", ":3"),
                ("ZREVRANK z b", ":1"),
                ("ZREVRANK z b WITHSCORE", "*2 :1 $1 5"),
                ("ZRANK z none WITHSCORE", "*-1"),
                ("ZREM z a none b", ":2"),
                ("ZREM z c i q", ":3"),
                ("ZCARD z", ":0"),
            ],
        );
        desk.proto = Proto::Three;
        talk(&mut desk, &[("ZADD z 1.5 a", ":1"), ("ZSCORE z a", ",1.5")]);
    }

    #[test]
    fn small_sets_know_one_zero() {
        let mut desk = Desk::with_shards(3);
        talk(
            &mut desk,
            &[
                ("ZADD z -0 a 1 b", ":2"),
                ("ZSCORE z a", "$1 0"),
                (
                    "ZUNION 1 z WEIGHTS -1 WITHSCORES",
                    "*4 $1 b $2 -1 $1 a $2 -0",
                ),
                ("ZUNIONSTORE d 1 z WEIGHTS -1", ":2"),
                ("ZSCORE d a", "$1 0"),
            ],
        );
    }

    #[test]
    fn members_are_popped_from_both_sides() {
        let mut desk = Desk::with_shards(3);
        desk.say("ZADD z 1 a 2 b 3 c 4 d 5 e 6 f");
        talk(
            &mut desk,
            &[
                ("ZPOPMIN z", "*2 $1 a $1 1"),
                ("ZPOPMAX z 2", "*4 $1 f $1 6 $1 e $1 5"),
                ("ZPOPMAX none 2", "*0"),
                ("ZPOPMIN z 1 2", "-ERR syntax error"),
                ("ZMPOP 2 none z MIN", "*2 $1 z *1 *2 $1 b $1 2"),
                ("ZMPOP 1 none MAX", "*-1"),
                ("BZPOPMIN none z 0", "*3 $1 z $1 c $1 3"),
                ("BZMPOP 0 1 z MAX COUNT 9", "*2 $1 z *1 *2 $1 d $1 4"),
                ("BZPOPMAX z 0", ""),
            ],
        );
        assert!(desk.blocked);
        desk.proto = Proto::Three;
        desk.say("ZADD z 1 a 2 b 3 c 4 d");
        talk(
            &mut desk,
            &[
                ("ZPOPMIN z", "*2 $1 a ,1"),
                ("ZPOPMIN z 1", "*1 *2 $1 b ,2"),
                ("BZPOPMIN z 0", "*3 $1 z $1 c ,3"),
            ],
        );
    }

    #[test]
    fn random_members_are_distinct_or_not_as_asked() {
        let mut desk = Desk::with_shards(3);
        desk.say("ZADD z 1 a 2 b 3 c");
        for _ in 0..20 {
            let two = desk.say("ZRANDMEMBER z 2");
            let words: Vec<&str> = two.split(' ').collect();
            assert_eq!(words.len(), 5, "{two}");
            assert_ne!(words[2], words[4], "{two}");
        }
        assert!(desk.say("ZRANDMEMBER z -5 WITHSCORES").starts_with("*10 "));
        talk(
            &mut desk,
            &[
                ("ZRANDMEMBER z 9", "*3 $1 a $1 b $1 c"),
                ("ZRANDMEMBER none", "$-1"),
                ("ZRANDMEMBER none 1", "*0"),
                ("ZRANDMEMBER z 0", "*0"),
                ("ZRANDMEMBER z 1 x", "-ERR syntax error"),
                ("ZRANDMEMBER z -99999999999", "-ERR value is out of range"),
                (
                    "ZSCAN z 0 MATCH [ab] COUNT 1",
                    "*2 $1 0 *4 $1 a $1 1 $1 b $1 2",
                ),
                ("ZSCAN z x", "-ERR invalid cursor"),
            ],
        );
    }
}
