//! Commands on strings.

use bytes::Bytes;

use super::{Ctx, Keys, Spec, flag::*, float80::Float80, int};
use crate::{
    base::{Ms, parse_i64},
    resp::{Args, Error, Out},
    store::Str,
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "APPEND",
        3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Appends to a string, which it creates if it is absent",
        append,
    ),
    Spec::store(
        "DECR",
        2,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Takes one from the integer value of a key, which starts at 0",
        decr,
    ),
    Spec::store(
        "DECRBY",
        3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Takes a number from the integer value of a key, which starts at 0",
        decrby,
    ),
    Spec::store(
        "GET",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the string value of a key",
        get,
    ),
    Spec::store(
        "GETDEL",
        2,
        WRITE | FAST,
        Keys::one(1),
        "Returns the string value of a key and removes the key",
        getdel,
    ),
    Spec::store(
        "GETEX",
        -2,
        WRITE | FAST,
        Keys::one(1),
        "Returns the string value of a key and sets or clears its expiry",
        getex,
    ),
    Spec::store(
        "GETRANGE",
        4,
        READ,
        Keys::one(1),
        "Returns a part of a string",
        getrange,
    ),
    Spec::store(
        "GETSET",
        3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the string value of a key and returns the old one",
        getset,
    ),
    Spec::store(
        "INCR",
        2,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds one to the integer value of a key, which starts at 0",
        incr,
    ),
    Spec::store(
        "INCRBY",
        3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds a number to the integer value of a key, which starts at 0",
        incrby,
    ),
    Spec::store(
        "INCRBYFLOAT",
        3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds a decimal number to the value of a key, which starts at 0",
        incrbyfloat,
    ),
    Spec::store(
        "LCS",
        -3,
        READ,
        Keys::range(1, 2),
        "Finds the longest common subsequence of two strings",
        lcs,
    ),
    Spec::store(
        "MGET",
        -2,
        READ | FAST,
        Keys::range(1, -1),
        "Returns the string values of several keys",
        mget,
    ),
    Spec::store(
        "MSET",
        -3,
        WRITE | DENY_OOM,
        Keys::Range {
            first: 1,
            last: -1,
            step: 2,
        },
        "Sets the string values of several keys, all of them at once",
        mset,
    ),
    Spec::store(
        "MSETNX",
        -3,
        WRITE | DENY_OOM,
        Keys::Range {
            first: 1,
            last: -1,
            step: 2,
        },
        "Sets the string values of several keys if none of them exists",
        msetnx,
    ),
    Spec::store(
        "PSETEX",
        4,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Sets the string value of a key and its expiry in milliseconds",
        psetex,
    ),
    Spec::store(
        "SET",
        -3,
        WRITE | DENY_OOM | QUICK,
        Keys::one(1),
        "Sets the string value of a key",
        set,
    ),
    Spec::store(
        "SETEX",
        4,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Sets the string value of a key and its expiry in seconds",
        setex,
    ),
    Spec::store(
        "SETNX",
        3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the string value of a key if it does not exist",
        setnx,
    ),
    Spec::store(
        "SETRANGE",
        4,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Overwrites a part of a string from an offset on",
        setrange,
    ),
    Spec::store(
        "STRLEN",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the length of a string",
        strlen,
    ),
    Spec::store(
        "SUBSTR",
        4,
        READ,
        Keys::one(1),
        "Returns a part of a string; the old name of GETRANGE",
        getrange,
    ),
];

/// Longest string value.
pub(super) const STRING_MAX: usize = 512 << 20;

fn get(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    write(ctx.out, ctx.shards.of(ctx.db, key).string(key, ctx.now)?);
    Ok(())
}

fn write(out: &mut Out, value: Option<Str<'_>>) {
    match value {
        Some(Str::Inline(bytes)) => out.bulk(bytes),
        Some(Str::Shared(bytes)) => out.bulk_shared(bytes),
        None => out.null(),
    }
}

/// The bytes of a string value to keep while other keys are looked at; large ones are shared.
pub(super) fn take_bytes(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Option<Bytes>, Error> {
    let now = ctx.now;
    Ok(match ctx.keys(key).string(key, now)? {
        Some(Str::Inline(bytes)) => Some(Bytes::copy_from_slice(bytes)),
        Some(Str::Shared(bytes)) => Some(bytes.clone()),
        None => None,
    })
}

fn set(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len() > 3 {
        return set_with(ctx, args);
    }
    ctx.set_string(args.at(1), args.at(2), None);
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

/// SET with options.
fn set_with(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, value, now) = (args.at(1), args.at(2), ctx.now);
    let options = Options::parse(args, 3, false)?;
    let expiry = match options.expiry {
        Some(expiry) => Some(expiry.deadline("set", now)?),
        None => None,
    };
    let keys = ctx.shards.of(ctx.db, key);
    let conditional = options.absent_only || options.present_only;
    let mut exists = false;
    if options.get {
        let old = keys.string(key, now)?;
        exists = old.is_some();
        write(ctx.out, old);
    } else if conditional {
        exists = keys.meta(key, now).is_some();
    }
    if (options.absent_only && exists) || (options.present_only && !exists) {
        if !options.get {
            ctx.out.null();
        }
        return Ok(());
    }
    let deadline = if options.keep {
        keys.meta(key, now).and_then(|meta| meta.deadline)
    } else {
        expiry
    };
    if deadline.is_some_and(|deadline| deadline <= keys.over_by(now)) {
        // Set and over in the same instant.
        keys.remove(key, now);
    } else {
        ctx.set_string(key, value, deadline);
    }
    ctx.changed();
    if !options.get {
        ctx.out.ok();
    }
    Ok(())
}

/// An expiry argument and how to read it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Expiry<'a> {
    text: &'a [u8],
    unit: i64,
    absolute: bool,
}

impl<'a> Expiry<'a> {
    fn named(option: &[u8], text: &'a [u8]) -> Option<Self> {
        let (unit, absolute) = match option.to_ascii_lowercase().as_slice() {
            b"ex" => (1000, false),
            b"px" => (1, false),
            b"exat" => (1000, true),
            b"pxat" => (1, true),
            _ => return None,
        };
        Some(Self {
            text,
            unit,
            absolute,
        })
    }

    fn deadline(self, command: &str, now: Ms) -> Result<Ms, Error> {
        let number = parse_i64(self.text).ok_or(Error::NOT_INTEGER)?;
        let start = if self.absolute { 0 } else { now as i64 };
        let deadline = number
            .checked_mul(self.unit)
            .filter(|span| *span > 0)
            .and_then(|span| span.checked_add(start));
        match deadline {
            Some(deadline) => Ok(deadline as Ms),
            None => Err(Error::invalid_expire(command)),
        }
    }

    fn same_option(self, other: Expiry<'_>) -> bool {
        self.unit == other.unit && self.absolute == other.absolute
    }
}

/// The options of SET and GETEX.
#[derive(Default)]
struct Options<'a> {
    absent_only: bool,
    present_only: bool,
    get: bool,
    keep: bool,
    persist: bool,
    expiry: Option<Expiry<'a>>,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>, from: usize, getex: bool) -> Result<Self, Error> {
        let mut options = Options::default();
        let mut at = from;
        while let Some(word) = args.get(at) {
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            if !getex && is("nx") && !options.present_only {
                options.absent_only = true;
            } else if !getex && is("xx") && !options.absent_only {
                options.present_only = true;
            } else if !getex && is("get") {
                options.get = true;
            } else if !getex && is("keepttl") && options.expiry.is_none() {
                options.keep = true;
            } else if getex && is("persist") && options.expiry.is_none() {
                options.persist = true;
            } else {
                let expiry = args.get(at + 1).and_then(|text| Expiry::named(word, text));
                let Some(expiry) = expiry else {
                    return Err(Error::SYNTAX);
                };
                let other = options.expiry.is_some_and(|old| !old.same_option(expiry));
                if options.keep || options.persist || other {
                    return Err(Error::SYNTAX);
                }
                options.expiry = Some(expiry);
                at += 1;
            }
            at += 1;
        }
        Ok(options)
    }
}

fn setnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let absent = ctx.keys(key).meta(key, now).is_none();
    if absent {
        ctx.set_string(key, args.at(2), None);
        ctx.changed();
    }
    ctx.out.flag(absent);
    Ok(())
}

fn setex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    set_expiring(ctx, args, "setex", 1000)
}

fn psetex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    set_expiring(ctx, args, "psetex", 1)
}

fn set_expiring(ctx: &mut Ctx<'_>, args: Args<'_>, command: &str, unit: i64) -> Result<(), Error> {
    let expiry = Expiry {
        text: args.at(2),
        unit,
        absolute: false,
    };
    let deadline = expiry.deadline(command, ctx.now)?;
    ctx.set_string(args.at(1), args.at(3), Some(deadline));
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

fn getset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let keys = ctx.shards.of(ctx.db, key);
    write(ctx.out, keys.string(key, ctx.now)?);
    ctx.set_string(key, args.at(2), None);
    ctx.changed();
    Ok(())
}

fn getdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let keys = ctx.shards.of(ctx.db, key);
    write(ctx.out, keys.string(key, ctx.now)?);
    if keys.remove(key, ctx.now) {
        ctx.changed();
    }
    Ok(())
}

fn getex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let options = Options::parse(args, 2, true)?;
    let keys = ctx.shards.of(ctx.db, key);
    let value = keys.string(key, now)?;
    let exists = value.is_some();
    write(ctx.out, value);
    if !exists {
        return Ok(());
    }
    if options.persist {
        if keys
            .meta(key, now)
            .is_some_and(|meta| meta.deadline.is_some())
        {
            keys.set_deadline(key, None, now);
            ctx.changed();
        }
    } else if let Some(expiry) = options.expiry {
        let deadline = expiry.deadline("getex", now)?;
        if deadline <= keys.over_by(now) {
            keys.remove(key, now);
        } else {
            keys.set_deadline(key, Some(deadline), now);
        }
        ctx.changed();
    }
    Ok(())
}

fn strlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let value = ctx.keys(key).string(key, now)?;
    let len = value.map_or(0, |value| value.as_bytes().len());
    ctx.out.len_int(len);
    Ok(())
}

fn append(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, tail, now) = (args.at(1), args.at(2), ctx.now);
    let keys = ctx.keys(key);
    if tail.is_empty() && keys.string(key, now)?.is_none() {
        // `update_string` creates nothing for an empty value, but APPEND does.
        keys.set_string(key, tail, None);
        ctx.changed();
        ctx.out.int(0);
        return Ok(());
    }
    let len = keys.update_string(key, now, |text| {
        if text.len() + tail.len() > STRING_MAX {
            return Err(Error::STRING_TOO_LONG);
        }
        text.extend_from_slice(tail);
        Ok(text.len())
    })??;
    ctx.changed();
    ctx.out.len_int(len);
    Ok(())
}

fn setrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, part, now) = (args.at(1), args.at(3), ctx.now);
    let offset = int(args, 2)?;
    if offset < 0 {
        return Err(Error::fixed("ERR offset is out of range"));
    }
    if part.is_empty() {
        return strlen(ctx, args);
    }
    let keys = ctx.keys(key);
    let end = (offset as usize).saturating_add(part.len());
    if end > STRING_MAX {
        // A key of another type is the first complaint.
        keys.string(key, now)?;
        return Err(Error::STRING_TOO_LONG);
    }
    let len = keys.update_string(key, now, |text| {
        if text.len() < end {
            text.resize(end, 0);
        }
        text[offset as usize..end].copy_from_slice(part);
        text.len()
    })?;
    ctx.changed();
    ctx.out.len_int(len);
    Ok(())
}

fn getrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let (start, end) = (int(args, 2)?, int(args, 3)?);
    let value = ctx.shards.of(ctx.db, key).string(key, ctx.now)?;
    let Some(value) = value else {
        ctx.out.bulk(b"");
        return Ok(());
    };
    let range = range_of(value.as_bytes().len(), start, end);
    match value {
        Str::Inline(bytes) => ctx.out.bulk(&bytes[range]),
        Str::Shared(bytes) => ctx.out.bulk_shared(&bytes.slice(range)),
    }
    Ok(())
}

/// The bytes from `start` to `end`, both included and counted from the end where negative.
fn range_of(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let len = len as i64;
    let from_end = |at: i64| if at < 0 { (len + at).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end {
        0..0
    } else {
        start as usize..end as usize + 1
    }
}

fn incr(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    add(ctx, args.at(1), 1)
}

fn decr(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    add(ctx, args.at(1), -1)
}

fn incrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let by = int(args, 2)?;
    add(ctx, args.at(1), by)
}

fn decrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let by = int(args, 2)?
        .checked_neg()
        .ok_or(Error::fixed("ERR decrement would overflow"))?;
    add(ctx, args.at(1), by)
}

fn add(ctx: &mut Ctx<'_>, key: &[u8], by: i64) -> Result<(), Error> {
    let now = ctx.now;
    let keys = ctx.keys(key);
    let mut digits = itoa::Buffer::new();
    let sum = keys.update_string(key, now, |text| {
        if text.is_empty() {
            return Ok::<_, Error>(None);
        }
        let sum = parse_i64(text)
            .ok_or(Error::NOT_INTEGER)?
            .checked_add(by)
            .ok_or(Error::OVERFLOW)?;
        text.clear();
        text.extend_from_slice(digits.format(sum).as_bytes());
        Ok(Some(sum))
    })??;
    let sum = match sum {
        Some(sum) => sum,
        // Absent, or an empty string, which is no number.
        None if keys.meta(key, now).is_some() => return Err(Error::NOT_INTEGER),
        None => {
            keys.set_string(key, digits.format(by).as_bytes(), None);
            by
        }
    };
    ctx.changed();
    ctx.out.int(sum);
    Ok(())
}

fn incrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.keys(key);
    let old = match keys.string(key, now)? {
        Some(value) => Float80::parse(value.as_bytes()).ok_or(Error::NOT_FLOAT)?,
        None => Float80::ZERO,
    };
    let by = Float80::parse(args.at(2)).ok_or(Error::NOT_FLOAT)?;
    let sum = old
        .plus(by)
        .filter(|sum| sum.is_finite())
        .ok_or(Error::NAN_OR_INFINITY)?
        .text();
    keys.update_string(key, now, |text| {
        text.clear();
        text.extend_from_slice(sum.as_bytes());
    })?;
    ctx.changed();
    ctx.out.bulk_str(&sum);
    Ok(())
}

fn mget(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    ctx.out.array(args.len() - 1);
    for key in args.rest(1).iter() {
        // A key of another type is as good as none.
        let value = ctx.shards.of(ctx.db, key).string(key, ctx.now);
        write(ctx.out, value.unwrap_or(None));
    }
    Ok(())
}

fn mset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity("mset"));
    }
    set_pairs(ctx, args);
    ctx.out.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity("msetnx"));
    }
    let now = ctx.now;
    let none = (1..args.len())
        .step_by(2)
        .all(|at| ctx.keys(args.at(at)).meta(args.at(at), now).is_none());
    if none {
        set_pairs(ctx, args);
    }
    ctx.out.flag(none);
    Ok(())
}

fn set_pairs(ctx: &mut Ctx<'_>, args: Args<'_>) {
    for at in (1..args.len()).step_by(2) {
        ctx.set_string(args.at(at), args.at(at + 1), None);
        ctx.changed();
    }
}

fn lcs(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    const NOT_STRINGS: Error = Error::fixed("ERR The specified keys must contain string values");
    let a = take_bytes(ctx, args.at(1)).map_err(|_| NOT_STRINGS)?;
    let b = take_bytes(ctx, args.at(2)).map_err(|_| NOT_STRINGS)?;
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    let (mut length_only, mut indexes, mut with_length, mut min_length) = (false, false, false, 0);
    let mut at = 3;
    while let Some(word) = args.get(at) {
        match word.to_ascii_lowercase().as_slice() {
            b"idx" => indexes = true,
            b"len" => length_only = true,
            b"withmatchlen" => with_length = true,
            b"minmatchlen" if at + 1 < args.len() => {
                min_length = int(args, at + 1)?.max(0);
                at += 1;
            }
            _ => return Err(Error::SYNTAX),
        }
        at += 1;
    }
    if length_only && indexes {
        return Err(Error::fixed(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    let cells = (a.len() as u64 + 1) * (b.len() as u64 + 1);
    if cells * 4 > STRING_MAX as u64 {
        return Err(Error::fixed(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let lengths = common_lengths(&a, &b);
    let total = lengths[lengths.len() - 1];
    if length_only {
        ctx.out.int(total.into());
    } else if indexes {
        let matches = matches(&a, &b, &lengths, min_length as usize);
        ctx.out.map(2);
        ctx.out.bulk_str("matches");
        ctx.out.array(matches.len());
        for found in &matches {
            ctx.out.array(if with_length { 3 } else { 2 });
            for start in [found.a, found.b] {
                ctx.out.array(2);
                ctx.out.len_int(start);
                ctx.out.len_int(start + found.len - 1);
            }
            if with_length {
                ctx.out.len_int(found.len);
            }
        }
        ctx.out.bulk_str("len");
        ctx.out.int(total.into());
    } else {
        let mut text = Vec::with_capacity(total as usize);
        for found in matches(&a, &b, &lengths, 0).iter().rev() {
            text.extend_from_slice(&a[found.a..found.a + found.len]);
        }
        ctx.out.bulk(&text);
    }
    Ok(())
}

/// The length of the longest common subsequence of the first `i` bytes of `a` and the first `j` of
/// `b`, at `i * (b.len() + 1) + j`.
fn common_lengths(a: &[u8], b: &[u8]) -> Vec<u32> {
    let width = b.len() + 1;
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for (i, byte) in a.iter().enumerate() {
        let (above, row) = lengths[i * width..(i + 2) * width].split_at_mut(width);
        for (j, other) in b.iter().enumerate() {
            row[j + 1] = if byte == other {
                above[j] + 1
            } else {
                above[j + 1].max(row[j])
            };
        }
    }
    lengths
}

/// A run of bytes that both strings have.
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

/// The runs of the subsequence, from the last to the first, those shorter than `min_len` left out.
fn matches(a: &[u8], b: &[u8], lengths: &[u32], min_len: usize) -> Vec<Match> {
    let at = |i: usize, j: usize| lengths[i * (b.len() + 1) + j];
    let (mut i, mut j) = (a.len(), b.len());
    let mut found: Vec<Match> = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            match found.last_mut() {
                Some(run) if run.a == i && run.b == j => {
                    (run.a, run.b, run.len) = (i - 1, j - 1, run.len + 1);
                }
                _ => found.push(Match {
                    a: i - 1,
                    b: j - 1,
                    len: 1,
                }),
            }
            (i, j) = (i - 1, j - 1);
        } else if at(i - 1, j) > at(i, j - 1) {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    found.retain(|run| run.len >= min_len);
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::Desk;

    fn check(lines: &[(&str, &str)]) {
        let mut desk = Desk::with_shards(3);
        for (line, want) in lines {
            assert_eq!(desk.say(line), *want, "{line}");
        }
    }

    #[test]
    fn set_takes_its_options() {
        check(&[
            ("SET k v NX", "+OK"),
            ("SET k w NX", "$-1"),
            ("SET k w XX GET", "$1 v"),
            ("SET k x NX GET", "$1 w"),
            ("SET new x GET", "$-1"),
            ("SET new y XX EX 10", "+OK"),
            ("SET new z KEEPTTL", "+OK"),
            ("SET k v EX 10 PX 10", "-ERR syntax error"),
            ("SET k v NX XX", "-ERR syntax error"),
            ("SET k v KEEPTTL EX 10", "-ERR syntax error"),
            ("SET k v EX", "-ERR syntax error"),
            ("SET k v EX 0", "-ERR invalid expire time in 'set' command"),
            (
                "SET k v EX a",
                "-ERR value is not an integer or out of range",
            ),
            (
                "SET k v EX 9223372036854775807",
                "-ERR invalid expire time in 'set' command",
            ),
            ("SET k v PXAT 1", "+OK"),
            ("GET k", "$-1"),
            ("SETEX k 0 v", "-ERR invalid expire time in 'setex' command"),
            ("SETNX k v", ":1"),
            ("SETNX k v", ":0"),
            ("GETSET k w", "$1 v"),
            ("GETDEL k", "$1 w"),
            ("GETDEL k", "$-1"),
        ]);
    }

    #[test]
    fn expiries_end_values() {
        let mut desk = Desk::with_shards(2);
        desk.say("SET k v PX 100");
        desk.say("SET k w KEEPTTL");
        desk.say("SET p v EX 100");
        assert_eq!(desk.say("GETEX p PERSIST"), "$1 v");
        assert_eq!(desk.dirty, 1);
        assert_eq!(desk.say("GETEX p PERSIST"), "$1 v");
        assert_eq!(desk.dirty, 0);
        desk.now += 100;
        assert_eq!(desk.say("GET k"), "$-1");
        assert_eq!(desk.say("GETEX p PXAT 5"), "$1 v");
        assert_eq!(desk.say("GET p"), "$-1");
    }

    #[test]
    fn numbers_are_counted() {
        check(&[
            ("INCR n", ":1"),
            ("INCRBY n 41", ":42"),
            ("DECR n", ":41"),
            ("DECRBY n 41", ":0"),
            ("GET n", "$1 0"),
            ("SET n 9223372036854775807", "+OK"),
            ("INCR n", "-ERR increment or decrement would overflow"),
            (
                "DECRBY n -9223372036854775808",
                "-ERR decrement would overflow",
            ),
            ("SET n a", "+OK"),
            ("INCR n", "-ERR value is not an integer or out of range"),
            ("INCRBYFLOAT n 1", "-ERR value is not a valid float"),
            ("SET n \"\"", "+OK"),
            ("INCR n", "-ERR value is not an integer or out of range"),
            ("INCRBYFLOAT f 10.5", "$4 10.5"),
            ("INCRBYFLOAT f 0.1", "$4 10.6"),
            ("INCRBYFLOAT f -10.6", "$1 0"),
            (
                "INCRBYFLOAT f inf",
                "-ERR increment would produce NaN or Infinity",
            ),
        ]);
    }

    #[test]
    fn parts_are_read_and_written() {
        check(&[
            ("APPEND k Hello", ":5"),
            ("APPEND k World", ":10"),
            ("GETRANGE k 0 4", "$5 Hello"),
            ("GETRANGE k -5 -1", "$5 World"),
            ("GETRANGE k 5 100", "$5 World"),
            ("GETRANGE k 7 5", "$0"),
            ("SUBSTR none 0 -1", "$0"),
            ("SETRANGE k 5 Redis", ":10"),
            ("GET k", "$10 HelloRedis"),
            ("SETRANGE pad 2 x", ":3"),
            ("GET pad", "$3 \0\0x"),
            ("SETRANGE pad -1 x", "-ERR offset is out of range"),
            (
                "SETRANGE pad 536870912 x",
                "-ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            ),
            ("SETRANGE none 4 \"\"", ":0"),
            ("STRLEN k", ":10"),
            ("STRLEN none", ":0"),
        ]);
    }

    #[test]
    fn several_keys_at_once() {
        check(&[
            ("MSET a 1 b 2", "+OK"),
            ("MGET a none b", "*3 $1 1 $-1 $1 2"),
            ("MSETNX c 3 a 4", ":0"),
            ("MSETNX c 3 d 4", ":1"),
            ("GET c", "$1 3"),
            (
                "MSET a",
                "-ERR wrong number of arguments for 'mset' command",
            ),
            (
                "MSET a b c",
                "-ERR wrong number of arguments for 'mset' command",
            ),
        ]);
    }

    #[test]
    fn common_subsequences_are_found() {
        check(&[
            ("MSET a ohmytext b mynewtext", "+OK"),
            ("LCS a b", "$6 mytext"),
            ("LCS a b LEN", ":6"),
            (
                "LCS a b IDX",
                "*4 $7 matches *2 *2 *2 :4 :7 *2 :5 :8 *2 *2 :2 :3 *2 :0 :1 $3 len :6",
            ),
            (
                "LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN",
                "*4 $7 matches *1 *3 *2 :4 :7 *2 :5 :8 :4 $3 len :6",
            ),
            ("LCS a none", "$0"),
        ]);
    }
}
