//! HyperLogLog: estimates how many different elements were added, kept in a string whose bytes are those
//! of Redis.

mod sketch;

use super::{Ctx, Keys, Spec, effects, flag::*};
use crate::{
    base::Rng,
    resp::{Args, Error},
};
use sketch::{Corrupt, REGISTERS, Registers, Sketch};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "PFADD",
        -2,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Adds elements to a HyperLogLog",
        pfadd,
    ),
    Spec::store(
        "PFCOUNT",
        -2,
        READ,
        Keys::range(1, -1),
        "Estimates how many elements were added to HyperLogLogs",
        pfcount,
    ),
    Spec::store(
        "PFDEBUG",
        3,
        WRITE | DENY_OOM | ADMIN,
        Keys::one(2),
        "Shows how a HyperLogLog is kept",
        pfdebug,
    ),
    Spec::store(
        "PFMERGE",
        -2,
        WRITE | DENY_OOM,
        Keys::range(1, -1),
        "Merges HyperLogLogs into one",
        pfmerge,
    ),
    Spec::store(
        "PFSELFTEST",
        1,
        ADMIN,
        Keys::None,
        "Checks the estimates of HyperLogLogs",
        pfselftest,
    ),
];

const NO_SKETCH: Error = Error::fixed("WRONGTYPE Key is not a valid HyperLogLog string value.");

impl From<Corrupt> for Error {
    fn from(_: Corrupt) -> Error {
        Error::fixed("INVALIDOBJ Corrupted HLL object detected")
    }
}

/// The bytes of a HyperLogLog; `None` without the key.
fn load<'a>(ctx: &'a mut Ctx<'_>, key: &[u8]) -> Result<Option<&'a [u8]>, Error> {
    let now = ctx.now;
    match ctx.keys(key).string(key, now)? {
        None => Ok(None),
        Some(text) => {
            let text = text.as_bytes();
            if sketch::is_one(text) {
                Ok(Some(text))
            } else {
                Err(NO_SKETCH)
            }
        }
    }
}

/// Changes a HyperLogLog in place, or a new one.
fn change<R>(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    change: impl FnOnce(&mut Sketch<'_>) -> Result<R, Corrupt>,
) -> Result<R, Error> {
    let now = ctx.now;
    ctx.keys(key)
        .update_string(key, now, |text| {
            if text.is_empty() {
                sketch::start(text);
            }
            Ok(change(&mut Sketch::new(text))?)
        })?
        .inspect_err(|_| {
            // What it did before it met a damaged part stays.
            ctx.changed();
        })
}

fn pfadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let is_new = load(ctx, key)?.is_none();
    let added = change(ctx, key, |sketch| {
        let mut added = 0;
        for element in args.rest(2).iter() {
            added += u64::from(sketch.add(element)?);
        }
        if is_new || added > 0 {
            sketch.forget_count();
        }
        Ok(added)
    })?;
    ctx.dirty += added + u64::from(is_new);
    ctx.out.flag(is_new || added > 0);
    Ok(())
}

fn pfcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let count = if args.len() > 2 {
        merged(ctx, args)?.0.count()
    } else {
        count_one(ctx, args.at(1))?
    };
    ctx.out.int(count as i64);
    Ok(())
}

/// The estimate of one key. It is kept in the value until that changes.
fn count_one(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<u64, Error> {
    let Some(text) = load(ctx, key)? else {
        return Ok(0);
    };
    if let Some(count) = sketch::known_count(text) {
        return Ok(count);
    }
    let count = sketch::count(text)?;
    change(ctx, key, |sketch| {
        sketch.know_count(count);
        Ok(())
    })?;
    let at = sketch::COUNT.start.to_string();
    let words = [b"SETRANGE", key, at.as_bytes(), &count.to_le_bytes()];
    effects::newer(ctx, key, words.into_iter());
    Ok(count)
}

/// The registers of several keys merged; is any of them dense?
fn merged(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(Registers, bool), Error> {
    let (mut registers, mut any_dense) = (Registers::default(), false);
    for key in args.rest(1).iter() {
        if let Some(text) = load(ctx, key)? {
            any_dense |= sketch::is_dense(text);
            registers.merge(text)?;
        }
    }
    Ok((registers, any_dense))
}

fn pfmerge(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (registers, any_dense) = merged(ctx, args)?;
    change(ctx, args.at(1), |sketch| {
        if any_dense {
            sketch.make_dense()?;
        }
        for (at, value) in registers.iter().enumerate().filter(|(_, value)| *value > 0) {
            sketch.raise(at, value)?;
        }
        sketch.forget_count();
        Ok(())
    })?;
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

fn pfdebug(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (word, key) = (args.at(1), args.at(2));
    let Some(text) = load(ctx, key)? else {
        return Err(Error::fixed("ERR The specified key does not exist"));
    };
    let is_dense = sketch::is_dense(text);
    match word.to_ascii_lowercase().as_slice() {
        b"getreg" => {
            // As in Redis the value becomes dense by being looked at.
            make_dense(ctx, key, is_dense)?;
            let mut registers = Registers::default();
            if let Some(text) = load(ctx, key)? {
                registers.merge(text)?;
            }
            ctx.out.array(REGISTERS);
            registers.iter().for_each(|value| ctx.out.int(value.into()));
        }
        b"decode" if is_dense => return Err(Error::fixed("ERR HLL encoding is not sparse")),
        b"decode" => {
            let shown = sketch::show(text);
            ctx.out.bulk_str(&shown);
        }
        b"encoding" => ctx.out.simple(if is_dense { "dense" } else { "sparse" }),
        b"todense" => {
            make_dense(ctx, key, is_dense)?;
            ctx.out.flag(!is_dense);
        }
        _ => {
            return Err(Error::text(format!(
                "ERR Unknown PFDEBUG subcommand '{}'",
                String::from_utf8_lossy(word)
            )));
        }
    }
    Ok(())
}

fn make_dense(ctx: &mut Ctx<'_>, key: &[u8], is_dense: bool) -> Result<(), Error> {
    if !is_dense {
        change(ctx, key, |sketch| sketch.make_dense())?;
        ctx.changed();
    }
    Ok(())
}

/// Adds many elements to a sparse and to a dense HyperLogLog: both have the same registers at every step,
/// and the estimate stays within four times the expected error.
fn pfselftest(ctx: &mut Ctx<'_>, _args: Args<'_>) -> Result<(), Error> {
    const ELEMENTS: u64 = 100_000;
    const ERROR: f64 = 4.0 * 1.04 / 128.0;
    let mut rng = Rng::seeded(ELEMENTS);
    let (mut sparse, mut dense) = (Vec::new(), Vec::new());
    sketch::start(&mut sparse);
    sketch::start(&mut dense);
    Sketch::new(&mut dense).make_dense()?;
    for added in 1..=ELEMENTS {
        let element = rng.next_u64().to_le_bytes();
        let changed = Sketch::new(&mut sparse).add(&element)?;
        if changed != Sketch::new(&mut dense).add(&element)? {
            return Err(Error::text(format!("ERR TESTFAILED at element {added}")));
        }
        if added.is_power_of_two() || added == ELEMENTS {
            let (one, other) = (sketch::count(&sparse)?, sketch::count(&dense)?);
            let off = one.abs_diff(added) as f64;
            if one != other || off > (ERROR * added as f64).max(2.0) {
                return Err(Error::text(format!(
                    "ERR TESTFAILED at element {added}: estimates {one} and {other}"
                )));
            }
        }
    }
    ctx.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::cmd::testing::Desk;

    #[test]
    fn elements_are_counted_and_merged() {
        let mut desk = Desk::with_shards(3);
        for (line, want) in [
            ("PFADD h a b c", ":1"),
            ("PFADD h a", ":0"),
            ("PFCOUNT h", ":3"),
            ("PFADD g c d", ":1"),
            ("PFCOUNT h g none", ":4"),
            ("PFMERGE m h g", "+OK"),
            ("PFCOUNT m", ":4"),
            ("PFCOUNT none", ":0"),
            ("PFADD empty", ":1"),
            ("PFADD empty", ":0"),
            ("STRLEN empty", ":18"),
            ("PFDEBUG ENCODING h", "+sparse"),
            ("PFDEBUG DECODE empty", "$7 Z:16384"),
            ("PFDEBUG TODENSE h", ":1"),
            ("PFDEBUG ENCODING h", "+dense"),
            ("STRLEN h", ":12304"),
            ("PFCOUNT h", ":3"),
            ("PFADD h d", ":1"),
            ("PFCOUNT h g", ":4"),
            ("PFSELFTEST", "+OK"),
            ("SET s text", "+OK"),
            (
                "PFADD s a",
                "-WRONGTYPE Key is not a valid HyperLogLog string value.",
            ),
            ("APPEND g x", ":25"),
            ("PFADD g more", ":1"),
            ("PFCOUNT g", "-INVALIDOBJ Corrupted HLL object detected"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
    }

    #[test]
    fn no_sparse_bytes_stop_it() {
        let mut desk = Desk::with_shards(1);
        let mut rng = crate::base::Rng::seeded(5);
        for _ in 0..2000 {
            let mut text = b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80".to_vec();
            for _ in 0..rng.below(40) {
                let byte = rng.next_u64() as u8;
                // Long runs of zeros come near to the number of registers.
                text.extend(if byte < 30 {
                    vec![0x7f, byte]
                } else {
                    vec![byte]
                });
            }
            desk.send(&[b"SET", b"h", &text]);
            for line in [
                "PFCOUNT h",
                "PFCOUNT h h",
                "PFMERGE m h",
                "PFDEBUG DECODE h",
                "PFADD h x y z",
            ] {
                assert!(!desk.say(line).is_empty());
            }
            assert!(desk.say("PFDEBUG GETREG h").starts_with(['*', '-']));
        }
    }
}
