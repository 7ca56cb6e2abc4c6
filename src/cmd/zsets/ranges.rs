//! Ranges of sorted sets by index, score and member: read, stored, counted and removed.

use std::ops::Range;

use super::{pair, pairs_header, store};
use crate::{
    base::parse_f64,
    cmd::{Ctx, effects, int, lists::clamp},
    resp::{Args, Error, OwnedArgs},
    store::{LexBound, LexRange, ScoreRange, Zset},
};

const NOT_SCORES: Error = Error::fixed("ERR min or max is not a float");
const NOT_MEMBERS: Error = Error::fixed("ERR min or max not valid string range item");

/// A range as the arguments say it.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Ranks(i64, i64),
    Scores(ScoreRange),
    Members(LexRange<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

impl<'a> Asked<'a> {
    /// Reads the two ends of a range.
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Self, Error> {
        Ok(match by {
            By::Rank => {
                let rank = |text| crate::base::parse_i64(text).ok_or(Error::NOT_INTEGER);
                Asked::Ranks(rank(min)?, rank(max)?)
            }
            By::Score => {
                let (min, above_min) = score_bound(min)?;
                let (max, below_max) = score_bound(max)?;
                Asked::Scores(ScoreRange {
                    min,
                    max,
                    above_min,
                    below_max,
                })
            }
            By::Lex => Asked::Members(LexRange {
                min: lex_bound(min)?,
                max: lex_bound(max)?,
            }),
        })
    }

    /// The ranks of the elements in it. Ranks that are asked for backwards count from the end.
    fn ranks(&self, zset: &Zset, back: bool) -> Range<usize> {
        match self {
            Asked::Ranks(start, stop) => {
                let len = zset.len();
                let ranks = clamp(*start, *stop, len);
                if back {
                    len - ranks.end..len - ranks.start
                } else {
                    ranks
                }
            }
            Asked::Scores(range) => zset.score_range(range),
            Asked::Members(range) => zset.lex_range(range),
        }
    }
}

/// A number, behind a `(` if it does not belong to the range itself. The C library's function that
/// other servers use reads an empty text as zero and skips spaces before a number.
fn score_bound(text: &[u8]) -> Result<(f64, bool), Error> {
    let (text, open) = match text {
        [b'(', rest @ ..] => (rest, true),
        _ => (text, false),
    };
    if text.is_empty() {
        return Ok((0.0, open));
    }
    let text = text.trim_ascii_start();
    let score = parse_f64(text).or_else(|| beyond(text));
    Ok((score.ok_or(NOT_SCORES)?, open))
}

/// A bound that no double holds is the nearest that one does: infinity or zero. As a score it is refused.
fn beyond(text: &[u8]) -> Option<f64> {
    let decimal = text
        .iter()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte));
    match decimal {
        true => std::str::from_utf8(text).ok()?.parse().ok(),
        false => None,
    }
}

fn lex_bound(text: &[u8]) -> Result<LexBound<'_>, Error> {
    match text {
        b"-" => Ok(LexBound::Lowest),
        b"+" => Ok(LexBound::Highest),
        [b'[', member @ ..] => Ok(LexBound::With(member)),
        [b'(', member @ ..] => Ok(LexBound::Without(member)),
        _ => Err(NOT_MEMBERS),
    }
}

/// What a command of the ZRANGE family asks for.
struct Request<'a> {
    asked: Asked<'a>,
    back: bool,
    with_scores: bool,
    /// Offset and number of elements; a negative number means all.
    limit: (i64, i64),
}

/// What the command's name fixes; the rest may be said by options.
#[derive(Clone, Copy)]
struct Form {
    by: Option<By>,
    back: Option<bool>,
    with_scores: bool,
}

impl<'a> Request<'a> {
    /// Reads the arguments from the lower end of the range on.
    fn parse(args: Args<'a>, form: Form) -> Result<Self, Error> {
        let (mut by, mut back) = (form.by, form.back);
        let (mut with_scores, mut limit) = (false, (0, -1));
        let mut at = 2;
        while let Some(word) = args.get(at) {
            match word.to_ascii_lowercase().as_slice() {
                b"withscores" if form.with_scores => with_scores = true,
                b"limit" if at + 2 < args.len() => {
                    limit = (int(args, at + 1)?, int(args, at + 2)?);
                    at += 2;
                }
                b"rev" if back.is_none() => back = Some(true),
                b"bylex" if by.is_none() => by = Some(By::Lex),
                b"byscore" if by.is_none() => by = Some(By::Score),
                _ => return Err(Error::SYNTAX),
            }
            at += 1;
        }
        let (by, back) = (by.unwrap_or(By::Rank), back.unwrap_or(false));
        if limit.1 != -1 && by == By::Rank {
            return Err(Error::fixed(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Lex {
            return Err(Error::fixed(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            ));
        }
        let (mut min, mut max) = (args.at(0), args.at(1));
        if back && by != By::Rank {
            std::mem::swap(&mut min, &mut max);
        }
        Ok(Self {
            asked: Asked::parse(by, min, max)?,
            back,
            with_scores,
            limit,
        })
    }

    /// The ranks of the elements that are asked for.
    fn ranks(&self, zset: &Zset) -> Range<usize> {
        let ranks = self.asked.ranks(zset, self.back);
        if matches!(self.asked, Asked::Ranks(..)) {
            return ranks;
        }
        let skip = match usize::try_from(self.limit.0) {
            Ok(skip) => skip.min(ranks.len()),
            // A negative offset is behind the end, as in Redis.
            Err(_) => ranks.len(),
        };
        let left = ranks.len() - skip;
        let count = usize::try_from(self.limit.1).map_or(left, |count| count.min(left));
        if self.back {
            let end = ranks.end - skip;
            end - count..end
        } else {
            let start = ranks.start + skip;
            start..start + count
        }
    }
}

fn answer(ctx: &mut Ctx<'_>, args: Args<'_>, form: Form) -> Result<(), Error> {
    let request = Request::parse(args.rest(2), form)?;
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let Some(zset) = keys.get::<Zset>(args.at(1), ctx.now)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let ranks = request.ranks(zset);
    pairs_header(ctx.out, ranks.len(), request.with_scores);
    for element in zset.range(ranks, request.back) {
        pair(ctx.out, element, request.with_scores);
    }
    Ok(())
}

fn fixed(by: By, back: bool) -> Form {
    Form {
        by: Some(by),
        back: Some(back),
        with_scores: true,
    }
}

pub fn zrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let form = Form {
        by: None,
        back: None,
        with_scores: true,
    };
    answer(ctx, args, form)
}

pub fn zrevrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, fixed(By::Rank, true))
}

pub fn zrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, fixed(By::Score, false))
}

pub fn zrevrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, fixed(By::Score, true))
}

pub fn zrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, fixed(By::Lex, false))
}

pub fn zrevrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, fixed(By::Lex, true))
}

pub fn zrangestore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let form = Form {
        by: None,
        back: None,
        with_scores: false,
    };
    let request = Request::parse(args.rest(3), form)?;
    let keys = ctx.shards.of(ctx.db, args.at(2));
    let mut result = Zset::default();
    if let Some(zset) = keys.get::<Zset>(args.at(2), ctx.now)? {
        for (member, score) in zset.range(request.ranks(zset), false) {
            result.insert(member, score);
        }
    }
    store(ctx, args.at(1), result);
    Ok(())
}

fn count(ctx: &mut Ctx<'_>, args: Args<'_>, by: By) -> Result<(), Error> {
    let asked = Asked::parse(by, args.at(2), args.at(3))?;
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let zset = keys.get::<Zset>(args.at(1), ctx.now)?;
    ctx.out
        .len_int(zset.map_or(0, |zset| asked.ranks(zset, false).len()));
    Ok(())
}

pub fn zcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    count(ctx, args, By::Score)
}

pub fn zlexcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    count(ctx, args, By::Lex)
}

fn remove(ctx: &mut Ctx<'_>, args: Args<'_>, by: By) -> Result<(), Error> {
    let asked = Asked::parse(by, args.at(2), args.at(3))?;
    let (key, is_recorded) = (args.at(1), ctx.shards.records());
    let keys = ctx.shards.of(ctx.db, key);
    let (mut removed, mut members) = (0, OwnedArgs::default());
    if let Some(zset) = keys.get_mut::<Zset>(key, ctx.now)? {
        let ranks = asked.ranks(zset, false);
        removed = ranks.len();
        if removed == zset.len() {
            // A whole set goes the way of large values: freed in slices.
            keys.remove(key, ctx.now);
        } else {
            if is_recorded {
                let names = zset.range(ranks.clone(), false);
                names.for_each(|(member, _)| members.push(member));
            }
            zset.remove_range(ranks);
        }
    }
    if removed > 0 {
        ctx.dirty += removed as u64;
        effects::removed(ctx, b"ZREM", key, members.as_args().iter());
    }
    ctx.out.len_int(removed);
    Ok(())
}

pub fn zremrangebyrank(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    remove(ctx, args, By::Rank)
}

pub fn zremrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    remove(ctx, args, By::Score)
}

pub fn zremrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    remove(ctx, args, By::Lex)
}

#[cfg(test)]
mod tests {
    use super::super::tests::talk;
    use crate::{cmd::testing::Desk, resp::Proto};

    #[test]
    fn ranges_answer_as_redis() {
        let mut desk = Desk::with_shards(3);
        desk.say("ZADD z 1 a 2 b 3 c 4 d");
        desk.say("ZADD l 0 a 0 b 0 c 0 d");
        talk(
            &mut desk,
            &[
                ("ZRANGE z 0 -1", "*4 $1 a $1 b $1 c $1 d"),
                ("ZRANGE z 0 1 REV", "*2 $1 d $1 c"),
                ("ZRANGE z 2 9 WITHSCORES", "*4 $1 c $1 3 $1 d $1 4"),
                ("ZREVRANGE z 1 1 WITHSCORES", "*2 $1 c $1 3"),
                ("ZRANGE z (1 3 BYSCORE", "*2 $1 b $1 c"),
                ("ZRANGE z 3 (1 BYSCORE REV", "*2 $1 c $1 b"),
                ("ZRANGE z -inf +inf BYSCORE LIMIT 1 2", "*2 $1 b $1 c"),
                (
                    "ZRANGE z +inf -inf BYSCORE REV LIMIT 1 -1",
                    "*3 $1 c $1 b $1 a",
                ),
                ("ZRANGE z -inf +inf BYSCORE LIMIT -1 2", "*0"),
                ("ZREVRANGEBYSCORE z 3 2", "*2 $1 c $1 b"),
                ("ZRANGEBYSCORE z 5 1", "*0"),
                ("ZRANGE l [b + BYLEX", "*3 $1 b $1 c $1 d"),
                ("ZRANGE l (c - BYLEX REV LIMIT 0 1", "*1 $1 b"),
                ("ZRANGEBYLEX l - (c", "*2 $1 a $1 b"),
                ("ZREVRANGEBYLEX l + [c", "*2 $1 d $1 c"),
                ("ZLEXCOUNT l (a [c", ":2"),
                ("ZCOUNT z (1 +inf", ":3"),
                ("ZCOUNT none 0 1", ":0"),
                ("ZRANGE z 0 1 BYSCORE BYLEX", "-ERR syntax error"),
                (
                    "ZRANGE z x 1",
                    "-ERR value is not an integer or out of range",
                ),
                ("ZRANGE z x 1 BYSCORE", "-ERR min or max is not a float"),
                ("ZCOUNT none -1e400 1e-400", ":0"),
                (
                    "ZRANGE z x 1 BYLEX",
                    "-ERR min or max not valid string range item",
                ),
                (
                    "ZRANGE z 0 1 LIMIT 0 1",
                    "-ERR syntax error, LIMIT is only supported in combination with either BYSCORE or \
                     BYLEX",
                ),
                (
                    "ZRANGE z - + BYLEX WITHSCORES",
                    "-ERR syntax error, WITHSCORES not supported in combination with BYLEX",
                ),
                ("ZRANGESTORE d z 1 2", ":2"),
                ("ZRANGE d 0 -1 WITHSCORES", "*4 $1 b $1 2 $1 c $1 3"),
                ("ZRANGESTORE d z 2 3 BYSCORE REV LIMIT 0 1", ":0"),
                ("ZRANGESTORE d z 3 2 BYSCORE REV LIMIT 0 1", ":1"),
                ("ZRANGE d 0 -1", "*1 $1 c"),
                ("ZRANGESTORE d none 0 -1", ":0"),
                ("ZCARD d", ":0"),
                ("ZRANGESTORE d z 0 1 WITHSCORES", "-ERR syntax error"),
                ("ZREMRANGEBYRANK z -1 -1", ":1"),
                ("ZREMRANGEBYSCORE z (1 2", ":1"),
                ("ZREMRANGEBYLEX l - (c", ":2"),
                ("ZRANGE l 0 -1", "*2 $1 c $1 d"),
                ("ZREMRANGEBYRANK z 0 -1", ":2"),
                ("ZREMRANGEBYRANK z 0 -1", ":0"),
            ],
        );
        desk.proto = Proto::Three;
        desk.say("ZADD z 1.5 a");
        talk(
            &mut desk,
            &[("ZRANGE z 0 -1 WITHSCORES", "*1 *2 $1 a ,1.5")],
        );
    }
}
