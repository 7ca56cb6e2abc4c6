//! HGETDEL, HGETEX and HSETEX: fields read or set, and removed or given a deadline in one step.

use super::{BAD_COUNT, field_deadline, fields};
use crate::{
    base::{Ms, parse_i64},
    cmd::Ctx,
    resp::{Args, Error},
    store::Hash,
};

pub fn hgetdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    get_and(ctx, args, 2, |hash, field, _| hash.remove(field))
}

pub fn hgetex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    // A key of another type is the first complaint.
    let now = ctx.now;
    ctx.keys(key).get::<Hash>(key, now)?;
    match Times::named(args.at(2)) {
        Some(times) => {
            let due = times.read(ctx, args, 3, "hgetex")?;
            get_and(ctx, args, 4, |hash, field, over_by| {
                expire(hash, field, due, over_by)
            })
        }
        _ if args.at(2).eq_ignore_ascii_case(b"persist") => {
            get_and(ctx, args, 3, |hash, field, _| {
                hash.deadline(field).is_some() && hash.set_deadline(field, None)
            })
        }
        _ => get_and(ctx, args, 2, |_, _, _| false),
    }
}

/// Answers the values of fields and changes each that is there.
fn get_and(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    at: usize,
    mut change: impl FnMut(&mut Hash, &[u8], Ms) -> bool,
) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.shards.of(ctx.db, key);
    keys.get::<Hash>(key, now)?;
    let fields = fields(args, at, BAD_COUNT)?;
    let over_by = keys.over_by(now);
    ctx.out.array(fields.len());
    let Some(hash) = keys.get_mut::<Hash>(key, now)? else {
        fields.iter().for_each(|_| ctx.out.null());
        return Ok(());
    };
    let mut changes = 0;
    for field in fields.iter() {
        let value = hash.get(field);
        ctx.out.bulk_or_null(value);
        if value.is_some() {
            changes += u64::from(change(hash, field, over_by));
        }
    }
    if changes > 0 {
        keys.reindex(key);
        keys.remove_if_empty(key);
    }
    ctx.dirty += changes;
    Ok(())
}

/// Gives a field a deadline, or removes it where that has passed.
fn expire(hash: &mut Hash, field: &[u8], due: Ms, over_by: Ms) -> bool {
    if due <= over_by {
        hash.remove(field)
    } else {
        hash.set_deadline(field, Some(due))
    }
}

pub fn hsetex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let options = SetOptions::parse(ctx, args)?;
    let pairs = args.rest(options.pairs_at);
    let keys = ctx.shards.of(ctx.db, key);
    let hash = keys.get::<Hash>(key, now)?;
    let has = |field: &[u8]| hash.is_some_and(|hash| hash.contains(field));
    let mut names = pairs.iter().step_by(2);
    let is_refused = match options.only {
        None => false,
        Some(Only::Absent) => names.any(has),
        Some(Only::Present) => !names.all(has),
    };
    if is_refused {
        ctx.out.flag(false);
        return Ok(());
    }
    let over_by = keys.over_by(now);
    let hash = keys.get_or_create::<Hash>(key, now)?;
    hash.reserve(pairs.len() / 2);
    for at in (0..pairs.len()).step_by(2) {
        let (field, value) = (pairs.at(at), pairs.at(at + 1));
        match options.expiry {
            None => {
                hash.set(field, value);
            }
            Some(SetExpiry::Keep) => {
                hash.put(field, value);
            }
            Some(SetExpiry::At(due)) => {
                hash.put(field, value);
                expire(hash, field, due, over_by);
            }
        }
        ctx.dirty += 1;
    }
    keys.reindex(key);
    keys.remove_if_empty(key);
    ctx.out.flag(true);
    Ok(())
}

/// How a time is told.
struct Times {
    /// Milliseconds in one.
    unit: i64,
    from_now: bool,
}

impl Times {
    fn named(word: &[u8]) -> Option<Times> {
        let (unit, from_now) = match word.to_ascii_lowercase().as_slice() {
            b"ex" => (1000, true),
            b"px" => (1, true),
            b"exat" => (1000, false),
            b"pxat" => (1, false),
            _ => return None,
        };
        Some(Times { unit, from_now })
    }

    fn read(&self, ctx: &Ctx<'_>, args: Args<'_>, at: usize, command: &str) -> Result<Ms, Error> {
        let start = if self.from_now { ctx.now } else { 0 };
        field_deadline(ctx, args, at, command, self.unit, start)
    }
}

enum Only {
    Absent,
    Present,
}

#[derive(Clone, Copy)]
enum SetExpiry {
    Keep,
    At(Ms),
}

struct SetOptions {
    only: Option<Only>,
    expiry: Option<SetExpiry>,
    /// Where the fields and values begin.
    pairs_at: usize,
}

impl SetOptions {
    fn parse(ctx: &Ctx<'_>, args: Args<'_>) -> Result<Self, Error> {
        let mut options = SetOptions {
            only: None,
            expiry: None,
            pairs_at: 0,
        };
        let mut at = 2;
        while let Some(word) = args.get(at) {
            let lower = word.to_ascii_lowercase();
            if lower == b"fields" {
                let count = args.get(at + 1).filter(|_| at + 3 < args.len());
                let count = count.ok_or_else(|| Error::arity("hsetex"))?;
                let count = parse_i64(count)
                    .filter(|count| (1..=i32::MAX.into()).contains(count))
                    .ok_or(Error::fixed("ERR invalid number of fields"))?;
                options.pairs_at = at + 2;
                if (args.len() - at - 2) as i64 != 2 * count {
                    return Err(Error::arity("hsetex"));
                }
                return Ok(options);
            }
            if lower == b"fnx" || lower == b"fxx" {
                let only = if lower == b"fnx" {
                    Only::Absent
                } else {
                    Only::Present
                };
                if options.only.replace(only).is_some() {
                    return Err(Error::fixed(
                        "ERR Only one of FXX or FNX arguments can be specified",
                    ));
                }
                at += 1;
                continue;
            }
            let times = Times::named(word);
            if times.is_none() && lower != b"keepttl" {
                let word = String::from_utf8_lossy(word);
                return Err(Error::text(format!("ERR unknown argument: {word}")));
            }
            if options.expiry.is_some() {
                return Err(Error::fixed(
                    "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
                ));
            }
            options.expiry = Some(match times {
                None => SetExpiry::Keep,
                Some(times) => {
                    at += 1;
                    if at >= args.len() {
                        return Err(Error::fixed("ERR missing expire time"));
                    }
                    SetExpiry::At(times.read(ctx, args, at, "hsetex")?)
                }
            });
            at += 1;
        }
        Err(Error::arity("hsetex"))
    }
}

#[cfg(test)]
mod tests {
    use crate::cmd::testing::Desk;

    #[test]
    fn fields_are_read_and_changed_in_one_step() {
        let mut desk = Desk::with_shards(2);
        for (line, want) in [
            ("HSETEX h EX 10 FIELDS 2 a 1 b 2", ":1"),
            ("HPTTL h FIELDS 2 a b", "*2 :10000 :10000"),
            ("HSETEX h KEEPTTL FIELDS 1 a 3", ":1"),
            ("HSETEX h FIELDS 1 b 4", ":1"),
            ("HPTTL h FIELDS 2 a b", "*2 :10000 :-1"),
            ("HSETEX h FNX FIELDS 2 a 5 x 6", ":0"),
            ("HSETEX h FXX FIELDS 2 a 5 x 6", ":0"),
            ("HSETEX none FXX FIELDS 1 a 5", ":0"),
            ("HSETEX h FXX PXAT 1 FIELDS 1 b 5", ":1"),
            ("HGETALL h", "*2 $1 a $1 3"),
            ("HGETEX h FIELDS 2 a x", "*2 $1 3 $-1"),
            ("HGETEX h PERSIST FIELDS 1 a", "*1 $1 3"),
            ("HTTL h FIELDS 1 a", "*1 :-1"),
            ("HGETEX h PX 50 FIELDS 1 a", "*1 $1 3"),
            ("HPTTL h FIELDS 1 a", "*1 :50"),
            ("HGETEX h EXAT 0 FIELDS 1 a", "*1 $1 3"),
            ("EXISTS h", ":0"),
            ("HSET h a 1 b 2", ":2"),
            ("HGETDEL h FIELDS 2 a x", "*2 $1 1 $-1"),
            ("HGETDEL h FIELDS 1 b", "*1 $1 2"),
            ("EXISTS h", ":0"),
            ("HGETDEL h FIELDS 1 b", "*1 $-1"),
            (
                "HGETDEL h FIELDS 0 b",
                "-ERR Number of fields must be a positive integer",
            ),
            (
                "HGETDEL h FIELDS 2 b",
                "-ERR The `numfields` parameter must match the number of arguments",
            ),
            (
                "HGETEX h FOO FIELDS 1 b",
                "-ERR Mandatory argument FIELDS is missing or not at the right position",
            ),
            (
                "HGETEX h EX -1 FIELDS 1 b",
                "-ERR invalid expire time, must be >= 0",
            ),
            (
                "HGETEX h EX 10 FIELDS",
                "-ERR Number of fields must be a positive integer",
            ),
            ("HSETEX h EX 1 KEEPTTL FIELDS 1 a 1", ONE_EXPIRY),
            (
                "HSETEX h FNX FXX FIELDS 1 a 1",
                "-ERR Only one of FXX or FNX arguments can be specified",
            ),
            ("HSETEX h FOO FIELDS 1 a 1", "-ERR unknown argument: FOO"),
            ("HSETEX h FIELDS 0 a 1", "-ERR invalid number of fields"),
            (
                "HSETEX h FIELDS 2 a 1",
                "-ERR wrong number of arguments for 'hsetex' command",
            ),
            ("HSETEX h FNX KEEPTTL EX 1", ONE_EXPIRY),
            (
                "HSETEX h FNX FNX a b",
                "-ERR Only one of FXX or FNX arguments can be specified",
            ),
            (
                "HSETEX h EX 99999999999999 FIELDS 1 a 1",
                "-ERR invalid expire time in 'hsetex' command",
            ),
            ("HLEN h", ":0"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
    }

    const ONE_EXPIRY: &str =
        "-ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified";
}
