//! Unions, intersections and differences of sorted sets. Sets take part with a score of 1.
//!
//! The inputs may lie on different shards, so they are looked at one after the other: one is copied,
//! the others are asked about its members.

use super::{pair, pairs_header, store};
use crate::{
    base::parse_f64,
    cmd::{Ctx, int, lists::at_least},
    resp::{Args, Error},
    store::{Keyspace, Kind, Set, Zset},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Union,
    Inter,
    Diff,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, left: f64, right: f64) -> f64 {
        match self {
            // Two infinities that cancel out count as nothing.
            Aggregate::Sum => or_zero(left + right),
            Aggregate::Min if right < left => right,
            Aggregate::Max if right > left => right,
            Aggregate::Min | Aggregate::Max => left,
        }
    }
}

fn or_zero(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// Members and scores copied out of an input.
type Elements = Vec<(Box<[u8]>, f64)>;

/// An input: a sorted set, a set or nothing, borrowed for a moment.
enum Input<'a> {
    Zset(&'a Zset),
    Set(&'a Set),
    Nothing,
}

impl<'a> Input<'a> {
    fn of(ctx: &'a mut Ctx<'_>, key: &[u8]) -> Result<Self, Error> {
        let now = ctx.now;
        let keys: &mut Keyspace = ctx.shards.of(ctx.db, key);
        Ok(match keys.meta(key, now).map(|meta| meta.kind) {
            None => Input::Nothing,
            Some(Kind::Set) => match keys.get::<Set>(key, now)? {
                Some(set) => Input::Set(set),
                None => Input::Nothing,
            },
            Some(_) => match keys.get::<Zset>(key, now)? {
                Some(zset) => Input::Zset(zset),
                None => Input::Nothing,
            },
        })
    }

    fn len(&self) -> usize {
        match self {
            Input::Zset(zset) => zset.len(),
            Input::Set(set) => set.len(),
            Input::Nothing => 0,
        }
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            Input::Zset(zset) => zset.score(member),
            Input::Set(set) => set.contains(member).then_some(1.0),
            Input::Nothing => None,
        }
    }

    fn for_each(&self, mut visit: impl FnMut(&[u8], f64)) {
        match self {
            Input::Zset(zset) => zset.iter().for_each(|(member, score)| visit(member, score)),
            Input::Set(set) => set.iter().for_each(|member| visit(&member, 1.0)),
            Input::Nothing => {}
        }
    }

    fn copy(&self) -> Elements {
        let mut elements = Vec::with_capacity(self.len());
        self.for_each(|member, score| elements.push((member.into(), score)));
        elements
    }
}

/// What a command asks for.
struct Request<'a> {
    keys: Vec<&'a [u8]>,
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    /// ZINTERCARD only: where counting may end, 0 for nowhere.
    limit: usize,
}

/// Which options a command knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Answer,
    Store,
    Count,
}

impl<'a> Request<'a> {
    fn parse(
        ctx: &mut Ctx<'_>,
        args: Args<'a>,
        name: &str,
        op: Op,
        form: Form,
    ) -> Result<Self, Error> {
        let first = if form == Form::Store { 3 } else { 2 };
        let number = int(args, first - 1)?;
        if number < 1 {
            return Err(Error::text(format!(
                "ERR at least 1 input key is needed for '{name}' command"
            )));
        }
        if number > (args.len() - first) as i64 {
            return Err(Error::SYNTAX);
        }
        let number = number as usize;
        let keys: Vec<&[u8]> = args.rest(first).iter().take(number).collect();
        // Wrong types are told before wrong options.
        for key in &keys {
            Input::of(ctx, key)?;
        }
        let mut request = Self {
            weights: vec![1.0; keys.len()],
            keys,
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: 0,
        };
        let weighted = op != Op::Diff && form != Form::Count;
        let mut at = first + number;
        while at < args.len() {
            let left = args.len() - at;
            let word = args.at(at).to_ascii_lowercase();
            match word.as_slice() {
                b"weights" if weighted && left > number => {
                    for (weight, text) in request.weights.iter_mut().zip(args.rest(at + 1).iter()) {
                        *weight = parse_f64(text)
                            .ok_or(Error::fixed("ERR weight value is not a float"))?;
                    }
                    at += 1 + number;
                }
                b"aggregate" if weighted && left > 1 => {
                    request.aggregate = match args.at(at + 1).to_ascii_lowercase().as_slice() {
                        b"sum" => Aggregate::Sum,
                        b"min" => Aggregate::Min,
                        b"max" => Aggregate::Max,
                        _ => return Err(Error::SYNTAX),
                    };
                    at += 2;
                }
                b"withscores" if form == Form::Answer => {
                    request.with_scores = true;
                    at += 1;
                }
                b"limit" if form == Form::Count && left > 1 => {
                    request.limit = at_least(args.at(at + 1), 0, "ERR LIMIT can't be negative")?;
                    at += 2;
                }
                _ => return Err(Error::SYNTAX),
            }
        }
        Ok(request)
    }

    /// Keys and weights, the smallest input first, as Redis goes through them: the order of the
    /// additions shows in the last digits of the sums.
    fn by_size(&self, ctx: &mut Ctx<'_>) -> Result<Vec<(&'a [u8], f64)>, Error> {
        let mut inputs = Vec::with_capacity(self.keys.len());
        for (key, weight) in self.keys.iter().zip(&self.weights) {
            inputs.push((Input::of(ctx, key)?.len(), *key, *weight));
        }
        inputs.sort_by_key(|(len, ..)| *len);
        Ok(inputs
            .into_iter()
            .map(|(_, key, weight)| (key, weight))
            .collect())
    }

    fn union(&self, ctx: &mut Ctx<'_>) -> Result<Zset, Error> {
        let mut result = Zset::default();
        for (key, weight) in self.by_size(ctx)? {
            Input::of(ctx, key)?.for_each(|member, score| {
                let score = or_zero(weight * score);
                let score = match result.score(member) {
                    Some(old) => self.aggregate.of(old, score),
                    None => score,
                };
                result.insert(member, score);
            });
        }
        Ok(result)
    }

    fn inter(&self, ctx: &mut Ctx<'_>) -> Result<Elements, Error> {
        let inputs = self.by_size(ctx)?;
        let Some(((key, weight), others)) = inputs.split_first() else {
            return Ok(Vec::new());
        };
        let mut elements = Input::of(ctx, key)?.copy();
        for (_, score) in &mut elements {
            *score = or_zero(weight * *score);
        }
        for (key, weight) in others {
            let input = Input::of(ctx, key)?;
            elements.retain_mut(|(member, score)| match input.score(member) {
                Some(other) => {
                    *score = self.aggregate.of(*score, weight * other);
                    true
                }
                None => false,
            });
        }
        Ok(elements)
    }

    fn diff(&self, ctx: &mut Ctx<'_>) -> Result<Elements, Error> {
        let Some((first, others)) = self.keys.split_first() else {
            return Ok(Vec::new());
        };
        let mut elements = Input::of(ctx, first)?.copy();
        for key in others {
            let input = Input::of(ctx, key)?;
            elements.retain(|(member, _)| input.score(member).is_none());
        }
        Ok(elements)
    }

    fn result(&self, ctx: &mut Ctx<'_>, op: Op) -> Result<Zset, Error> {
        let elements = match op {
            Op::Union => return self.union(ctx),
            Op::Inter => self.inter(ctx)?,
            Op::Diff => self.diff(ctx)?,
        };
        let mut result = Zset::default();
        for (member, score) in &elements {
            result.insert(member, *score);
        }
        Ok(result)
    }
}

fn answer(ctx: &mut Ctx<'_>, args: Args<'_>, name: &str, op: Op) -> Result<(), Error> {
    let request = Request::parse(ctx, args, name, op, Form::Answer)?;
    let result = request.result(ctx, op)?;
    pairs_header(ctx.out, result.len(), request.with_scores);
    for element in result.iter() {
        pair(ctx.out, element, request.with_scores);
    }
    Ok(())
}

fn store_result(ctx: &mut Ctx<'_>, args: Args<'_>, name: &str, op: Op) -> Result<(), Error> {
    let request = Request::parse(ctx, args, name, op, Form::Store)?;
    let result = request.result(ctx, op)?;
    store(ctx, args.at(1), result);
    Ok(())
}

pub fn zunion(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, "zunion", Op::Union)
}

pub fn zinter(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, "zinter", Op::Inter)
}

pub fn zdiff(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    answer(ctx, args, "zdiff", Op::Diff)
}

pub fn zunionstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    store_result(ctx, args, "zunionstore", Op::Union)
}

pub fn zinterstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    store_result(ctx, args, "zinterstore", Op::Inter)
}

pub fn zdiffstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    store_result(ctx, args, "zdiffstore", Op::Diff)
}

pub fn zintercard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let request = Request::parse(ctx, args, "zintercard", Op::Inter, Form::Count)?;
    let count = request.inter(ctx)?.len();
    ctx.out.len_int(match request.limit {
        0 => count,
        limit => count.min(limit),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::talk;
    use crate::{cmd::testing::Desk, resp::Proto};

    #[test]
    fn sets_of_any_shard_are_combined() {
        let mut desk = Desk::with_shards(3);
        desk.say("ZADD a 1 x 2 y 3 z");
        desk.say("ZADD b 10 y 20 z 30 w");
        desk.say("SADD s y q");
        talk(
            &mut desk,
            &[
                (
                    "ZUNION 2 a b WITHSCORES",
                    "*8 $1 x $1 1 $1 y $2 12 $1 z $2 23 $1 w $2 30",
                ),
                ("ZINTER 2 a b WITHSCORES", "*4 $1 y $2 12 $1 z $2 23"),
                (
                    "ZINTER 2 a b WEIGHTS 2 0.5 WITHSCORES",
                    "*4 $1 y $1 9 $1 z $2 16",
                ),
                (
                    "ZINTER 2 a b AGGREGATE MAX WITHSCORES",
                    "*4 $1 y $2 10 $1 z $2 20",
                ),
                ("ZINTER 3 a b s AGGREGATE MIN WITHSCORES", "*2 $1 y $1 1"),
                ("ZDIFF 2 a b WITHSCORES", "*2 $1 x $1 1"),
                ("ZDIFF 2 a none", "*3 $1 x $1 y $1 z"),
                ("ZDIFF 2 a b WEIGHTS 1 1", "-ERR syntax error"),
                ("ZINTERCARD 2 a b", ":2"),
                ("ZINTERCARD 2 a b LIMIT 1", ":1"),
                ("ZINTERCARD 2 a b LIMIT -1", "-ERR LIMIT can't be negative"),
                ("ZUNIONSTORE d 3 a s none", ":4"),
                (
                    "ZRANGE d 0 -1 WITHSCORES",
                    "*8 $1 q $1 1 $1 x $1 1 $1 y $1 3 $1 z $1 3",
                ),
                ("ZINTERSTORE d 2 a d WEIGHTS inf 0", ":3"),
                ("ZSCORE d x", "$3 inf"),
                ("ZDIFFSTORE d 1 none", ":0"),
                ("ZCARD d", ":0"),
                (
                    "ZUNION 0 a",
                    "-ERR at least 1 input key is needed for 'zunion' command",
                ),
                ("ZUNION 3 a b", "-ERR syntax error"),
                ("ZUNION 1 a WEIGHTS x", "-ERR weight value is not a float"),
                ("SET t v", "+OK"),
                (
                    "ZUNION 1 t WEIGHTS x",
                    "-WRONGTYPE Operation against a key holding the wrong kind of value",
                ),
            ],
        );
        desk.proto = Proto::Three;
        talk(
            &mut desk,
            &[
                ("ZDIFF 2 a b WITHSCORES", "*1 *2 $1 x ,1"),
                ("ZDIFF 2 a b", "*1 $1 x"),
            ],
        );
    }
}
