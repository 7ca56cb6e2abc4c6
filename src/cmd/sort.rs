//! SORT: the elements of a list, set or sorted set in order, or what other keys say of them.

use std::cmp::Ordering;

use super::{Ctx, Keys, Spec, flag::*, int};
use crate::{
    base::parse_f64,
    resp::{Args, Error},
    store::{End, Hash, Kind, List, Set, Value, Zset},
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "SORT",
        -2,
        WRITE | DENY_OOM,
        Keys::Sort,
        "Sorts the elements of a list, a set or a sorted set, and may store the result",
        sort,
    ),
    Spec::store(
        "SORT_RO",
        -2,
        READ,
        Keys::Sort,
        "Sorts the elements of a list, a set or a sorted set",
        sort_ro,
    ),
];

fn sort(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    run(ctx, args, true)
}

fn sort_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    run(ctx, args, false)
}

fn run(ctx: &mut Ctx<'_>, args: Args<'_>, may_store: bool) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let mut order = Order::parse(args, may_store)?;
    let kind = ctx.keys(key).meta(key, now).map(|meta| meta.kind);
    let len = match kind {
        None => 0,
        Some(Kind::List) => ctx.keys(key).get::<List>(key, now)?.map_or(0, List::len),
        Some(Kind::Set) => ctx.keys(key).get::<Set>(key, now)?.map_or(0, Set::len),
        Some(Kind::Zset) => ctx.keys(key).get::<Zset>(key, now)?.map_or(0, Zset::len),
        Some(_) => return Err(Error::WRONG_TYPE),
    };
    // What is stored must not depend on how a set lies in memory.
    if order.by == By::Nothing && kind == Some(Kind::Set) && order.store.is_some() {
        (order.by, order.alpha) = (By::Element, true);
    }
    let (start, end) = order.window(len);
    let mut elements = Elements::default();
    // A list and a sorted set have an order of their own, so that only what is shown is looked at.
    let is_direct = order.by == By::Nothing && matches!(kind, Some(Kind::List | Kind::Zset));
    match kind {
        Some(Kind::List) => {
            if let Some(list) = ctx.keys(key).get::<List>(key, now)? {
                if !is_direct {
                    list.iter().for_each(|item| elements.push(item.as_bytes()));
                } else if order.descending {
                    let from = list.iter().rev().skip(start).take(end - start);
                    from.for_each(|item| elements.push(item.as_bytes()));
                } else {
                    let from = list.iter_from(start).take(end - start);
                    from.for_each(|item| elements.push(item.as_bytes()));
                }
            }
        }
        Some(Kind::Set) => {
            if let Some(set) = ctx.keys(key).get::<Set>(key, now)? {
                set.iter().for_each(|member| elements.push(&member));
            }
        }
        Some(Kind::Zset) => {
            if let Some(zset) = ctx.keys(key).get::<Zset>(key, now)? {
                let ranks = match (is_direct, order.descending) {
                    (false, _) => 0..len,
                    (true, false) => start..end,
                    (true, true) => len - end..len - start,
                };
                zset.range(ranks, is_direct && order.descending)
                    .for_each(|(member, _)| elements.push(member));
            }
        }
        _ => {}
    }
    let mut places: Vec<usize> = (0..elements.len()).collect();
    if order.by != By::Nothing {
        sort_places(ctx, &order, &elements, &mut places)?;
    }
    let shown = if is_direct {
        &places[..]
    } else {
        &places[start..end]
    };
    match order.store {
        None => show(ctx, &order, &elements, shown),
        Some(target) => store(ctx, &order, &elements, shown, target),
    }
    Ok(())
}

fn show(ctx: &mut Ctx<'_>, order: &Order<'_>, elements: &Elements, shown: &[usize]) {
    ctx.out.array(shown.len() * order.gets.len().max(1));
    for place in shown {
        let element = elements.at(*place);
        if order.gets.is_empty() {
            ctx.out.bulk(element);
        }
        for pattern in &order.gets {
            match lookup(ctx, pattern, element) {
                Some(value) => ctx.out.bulk(&value),
                None => ctx.out.null(),
            }
        }
    }
}

fn store(
    ctx: &mut Ctx<'_>,
    order: &Order<'_>,
    elements: &Elements,
    shown: &[usize],
    target: &[u8],
) {
    let mut list = List::default();
    for place in shown {
        let element = elements.at(*place);
        if order.gets.is_empty() {
            list.push(End::Right, element);
        }
        for pattern in &order.gets {
            let value = lookup(ctx, pattern, element);
            list.push(End::Right, value.as_deref().unwrap_or_default());
        }
    }
    let (len, now) = (list.len(), ctx.now);
    if len > 0 {
        ctx.keys(target).insert(target, Value::List(list), None);
        ctx.dirty += len as u64;
    } else if ctx.keys(target).remove(target, now) {
        ctx.changed();
    }
    ctx.out.len_int(len);
}

/// Puts the places of elements in order.
fn sort_places(
    ctx: &mut Ctx<'_>,
    order: &Order<'_>,
    elements: &Elements,
    places: &mut [usize],
) -> Result<(), Error> {
    let towards = |ordering: Ordering| {
        if order.descending {
            ordering.reverse()
        } else {
            ordering
        }
    };
    if order.alpha {
        let By::Pattern(pattern) = order.by else {
            places.sort_by(|one, other| towards(elements.at(*one).cmp(elements.at(*other))));
            return Ok(());
        };
        let weights: Vec<Option<Vec<u8>>> = (0..elements.len())
            .map(|at| lookup(ctx, pattern, elements.at(at)))
            .collect();
        places.sort_by(|one, other| towards(weights[*one].cmp(&weights[*other])));
        return Ok(());
    }
    let mut weights = Vec::with_capacity(elements.len());
    for at in 0..elements.len() {
        let element = elements.at(at);
        let weight = match order.by {
            // Without a weight it weighs nothing.
            By::Pattern(pattern) => match lookup(ctx, pattern, element) {
                Some(text) => number(&text),
                None => Some(0.0),
            },
            By::Element | By::Nothing => number(element),
        };
        weights.push(weight.ok_or(Error::fixed(
            "ERR One or more scores can't be converted into double",
        ))?);
    }
    places.sort_by(|one, other| {
        // No weight is a NaN.
        let by_weight = weights[*one].partial_cmp(&weights[*other]);
        let by_weight = by_weight.unwrap_or(Ordering::Equal);
        towards(by_weight.then_with(|| elements.at(*one).cmp(elements.at(*other))))
    });
    Ok(())
}

/// A weight as the C library's function reads it: up to a zero byte, behind spaces, nothing as 0.
fn number(text: &[u8]) -> Option<f64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some(0.0);
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let from = text.iter().position(|byte| !is_space(byte))?;
    parse_f64(&text[from..])
}

/// What a pattern says of an element: the element itself for `#`, else the string under the key that the
/// pattern names with the element for its first `*`, or the field behind `->` of the hash there.
fn lookup(ctx: &mut Ctx<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let (head, tail) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = tail.windows(2).position(|pair| pair == b"->");
    // Nothing behind it: then it is a part of the key.
    let arrow = arrow.filter(|at| at + 2 < tail.len());
    let (tail, field) = match arrow {
        Some(at) => (&tail[..at], Some(&tail[at + 2..])),
        None => (tail, None),
    };
    let (key, now) = ([head, element, tail].concat(), ctx.now);
    let keys = ctx.keys(&key);
    match field {
        Some(field) => Some(keys.get::<Hash>(&key, now).ok()??.get(field)?.to_vec()),
        None => Some(keys.string(&key, now).ok()??.as_bytes().to_vec()),
    }
}

/// Copies of the elements, one behind the other: they are looked at while other keys are.
#[derive(Default)]
struct Elements {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Elements {
    fn push(&mut self, element: &[u8]) {
        self.text.extend_from_slice(element);
        self.ends.push(self.text.len());
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn at(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[at]]
    }
}

/// What decides the order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By<'a> {
    /// The elements.
    Element,
    /// What a pattern says of them.
    Pattern(&'a [u8]),
    /// Nothing: they stay as they are.
    Nothing,
}

struct Order<'a> {
    by: By<'a>,
    alpha: bool,
    descending: bool,
    offset: i64,
    count: i64,
    gets: Vec<&'a [u8]>,
    store: Option<&'a [u8]>,
}

impl<'a> Order<'a> {
    fn parse(args: Args<'a>, may_store: bool) -> Result<Self, Error> {
        let mut order = Order {
            by: By::Element,
            alpha: false,
            descending: false,
            offset: 0,
            count: -1,
            gets: Vec::new(),
            store: None,
        };
        let mut at = 2;
        while let Some(word) = args.get(at) {
            let operand = args.get(at + 1).ok_or(Error::SYNTAX);
            at += 1;
            match word.to_ascii_lowercase().as_slice() {
                b"asc" => order.descending = false,
                b"desc" => order.descending = true,
                b"alpha" => order.alpha = true,
                b"limit" if at + 1 < args.len() => {
                    order.offset = int(args, at)?;
                    order.count = int(args, at + 1)?;
                    at += 2;
                }
                b"store" if may_store => {
                    order.store = Some(operand?);
                    at += 1;
                }
                b"by" => {
                    let pattern = operand?;
                    // Every element has the same weight where the pattern does not name it.
                    order.by = if pattern.contains(&b'*') {
                        By::Pattern(pattern)
                    } else {
                        By::Nothing
                    };
                    at += 1;
                }
                b"get" => {
                    order.gets.push(operand?);
                    at += 1;
                }
                _ => return Err(Error::SYNTAX),
            }
        }
        Ok(order)
    }

    /// The part of `len` elements that is shown.
    fn window(&self, len: usize) -> (usize, usize) {
        let start = (self.offset.max(0) as usize).min(len);
        let count = usize::try_from(self.count).unwrap_or(len);
        (start, start.saturating_add(count).min(len))
    }
}

#[cfg(test)]
mod tests {
    use crate::cmd::testing::Desk;

    fn check(lines: &[(&str, &str)]) {
        let mut desk = Desk::with_shards(7);
        for (line, want) in lines {
            assert_eq!(desk.say(line), *want, "{line}");
        }
    }

    #[test]
    fn elements_are_sorted_and_cut() {
        check(&[
            ("RPUSH l 3 10 2 -1", ":4"),
            ("SORT l", "*4 $2 -1 $1 2 $1 3 $2 10"),
            ("SORT l DESC", "*4 $2 10 $1 3 $1 2 $2 -1"),
            ("SORT l ALPHA", "*4 $2 -1 $2 10 $1 2 $1 3"),
            ("SORT l LIMIT 1 2", "*2 $1 2 $1 3"),
            ("SORT l LIMIT -5 1", "*1 $2 -1"),
            ("SORT l LIMIT 9 1", "*0"),
            ("SORT l LIMIT 3 -1", "*1 $2 10"),
            ("SORT l BY nosort", "*4 $1 3 $2 10 $1 2 $2 -1"),
            ("SORT l BY nosort DESC LIMIT 1 2", "*2 $1 2 $2 10"),
            ("SORT none", "*0"),
            ("ZADD z 1 c 2 b 3 a", ":3"),
            ("SORT z ALPHA", "*3 $1 a $1 b $1 c"),
            ("SORT z BY nosort LIMIT 0 2", "*2 $1 c $1 b"),
            ("SORT z BY nosort DESC LIMIT 0 2", "*2 $1 a $1 b"),
            (
                "SORT z",
                "-ERR One or more scores can't be converted into double",
            ),
            ("SORT l LIMIT 1", "-ERR syntax error"),
            (
                "SORT l LIMIT a 1",
                "-ERR value is not an integer or out of range",
            ),
            ("SORT_RO l STORE x", "-ERR syntax error"),
            ("SET s x", "+OK"),
            (
                "SORT s",
                "-WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
        ]);
    }

    #[test]
    fn other_keys_give_the_order_and_the_values() {
        check(&[
            ("SADD s a b c", ":3"),
            ("MSET w_a 3 w_b 1", "+OK"),
            ("HSET h_a f 9 n Ann", ":2"),
            ("HSET h_b f 8", ":1"),
            ("SORT s BY w_*", "*3 $1 c $1 b $1 a"),
            ("SORT s BY h_*->f DESC", "*3 $1 a $1 b $1 c"),
            (
                "SORT s BY w_* GET # GET h_*->n GET w_*",
                "*9 $1 c $-1 $-1 $1 b $-1 $1 1 $1 a $3 Ann $1 3",
            ),
            ("SORT s BY w_* GET w_ LIMIT 0 1", "*1 $-1"),
            ("SORT s BY w_* GET w_* STORE d", ":3"),
            ("LRANGE d 0 -1", "*3 $0  $1 1 $1 3"),
            ("SORT none STORE d", ":0"),
            ("EXISTS d", ":0"),
            ("SORT s BY h_* ALPHA DESC LIMIT 0 0", "*0"),
            ("SET w_*-> 5", "+OK"),
            ("SORT s BY w_*-> LIMIT 0 1", "*1 $1 a"),
            ("SORT s BY nosort STORE d", ":3"),
            ("LRANGE d 0 -1", "*3 $1 a $1 b $1 c"),
        ]);
    }
}
