//! Commands on the deadlines of keys.

use super::{Ctx, int};
use crate::{
    base::Ms,
    resp::{Args, Error},
};

pub(super) fn expire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    expire_at(ctx, args, Unit::Seconds, true)
}

pub(super) fn pexpire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    expire_at(ctx, args, Unit::Millis, true)
}

pub(super) fn expireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    expire_at(ctx, args, Unit::Seconds, false)
}

pub(super) fn pexpireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    expire_at(ctx, args, Unit::Millis, false)
}

pub(super) fn ttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    show(ctx, args, Unit::Seconds, true)
}

pub(super) fn pttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    show(ctx, args, Unit::Millis, true)
}

pub(super) fn expiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    show(ctx, args, Unit::Seconds, false)
}

pub(super) fn pexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    show(ctx, args, Unit::Millis, false)
}

pub(super) fn persist(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.keys(key);
    let had = keys
        .meta(key, now)
        .is_some_and(|meta| meta.deadline.is_some());
    if had {
        keys.set_deadline(key, None, now);
        ctx.changed();
    }
    ctx.out.flag(had);
    Ok(())
}

fn expire_at(ctx: &mut Ctx<'_>, args: Args<'_>, unit: Unit, relative: bool) -> Result<(), Error> {
    let only = Only::parse(args)?;
    let mut at = int(args, 2)?;
    let bad = || Error::invalid_expire(&String::from_utf8_lossy(args.at(0)));
    if let Unit::Seconds = unit {
        at = at.checked_mul(1000).ok_or_else(bad)?;
    }
    if relative {
        at = at.checked_add(ctx.now as i64).ok_or_else(bad)?;
    }

    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.keys(key);
    let Some(meta) = keys.meta(key, now) else {
        ctx.out.flag(false);
        return Ok(());
    };
    if !only.allows(meta.deadline, at) {
        ctx.out.flag(false);
        return Ok(());
    }
    match Ms::try_from(at) {
        Ok(at) if at > keys.over_by(now) => keys.set_deadline(key, Some(at), now),
        // A deadline that has passed already is a removal.
        _ => keys.remove(key, now),
    };
    ctx.changed();
    ctx.out.flag(true);
    Ok(())
}

fn show(ctx: &mut Ctx<'_>, args: Args<'_>, unit: Unit, relative: bool) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let reply = match ctx.keys(key).meta(key, now) {
        None => -2,
        Some(meta) => match meta.deadline {
            None => -1,
            Some(deadline) => {
                let value = match relative {
                    true => deadline.saturating_sub(now),
                    false => deadline,
                };
                match unit {
                    Unit::Millis => value as i64,
                    Unit::Seconds => (value.saturating_add(500) / 1000) as i64,
                }
            }
        },
    };
    ctx.out.int(reply);
    Ok(())
}

/// What a time argument or reply counts.
#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Millis,
}

/// Under which conditions a deadline is set.
#[derive(Default)]
struct Only {
    absent: bool,
    present: bool,
    later: bool,
    sooner: bool,
}

impl Only {
    fn parse(args: Args<'_>) -> Result<Self, Error> {
        let mut only = Only::default();
        for word in args.rest(3).iter() {
            match word.to_ascii_lowercase().as_slice() {
                b"nx" => only.absent = true,
                b"xx" => only.present = true,
                b"gt" => only.later = true,
                b"lt" => only.sooner = true,
                _ => {
                    let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
                    return Err(Error::text(format!("ERR Unsupported option {word}")));
                }
            }
        }
        if only.absent && (only.present || only.later || only.sooner) {
            return Err(Error::fixed(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if only.later && only.sooner {
            return Err(Error::fixed(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(only)
    }

    /// No deadline counts as one that never comes.
    fn allows(&self, old: Option<Ms>, new: i64) -> bool {
        let old = old.map(|old| old as i64);
        !(self.absent && old.is_some()
            || self.present && old.is_none()
            || self.later && old.is_none_or(|old| new <= old)
            || self.sooner && old.is_some_and(|old| new >= old))
    }
}

#[cfg(test)]
mod tests {
    use crate::{cmd::testing::Desk, store::DueKeys};

    #[test]
    fn deadlines_are_set_shown_and_taken_away() {
        let mut desk = Desk::with_shards(2);
        let big = "9223372036854775807";
        for (line, want) in [
            ("TTL a", ":-2"),
            ("EXPIRE a 10", ":0"),
            ("PERSIST a", ":0"),
            ("SET a 1", "+OK"),
            ("TTL a", ":-1"),
            ("PERSIST a", ":0"),
            ("EXPIRE a 10", ":1"),
            ("TTL a", ":10"),
            ("PTTL a", ":10000"),
            ("EXPIRETIME a", ":1000000010"),
            ("PEXPIRETIME a", ":1000000010000"),
            ("PEXPIRE a 1499", ":1"),
            ("TTL a", ":1"),
            ("PEXPIRE a 1500", ":1"),
            ("TTL a", ":2"),
            ("EXPIRE a 5 NX", ":0"),
            ("EXPIRE a 5 GT", ":1"),
            ("EXPIRE a 5 GT", ":0"),
            ("EXPIRE a 5 LT", ":0"),
            ("EXPIRE a 4 LT XX", ":1"),
            ("PERSIST a", ":1"),
            ("EXPIRE a 4 XX", ":0"),
            ("EXPIRE a 4 GT", ":0"),
            ("EXPIRE a 4 LT", ":1"),
            (&format!("PEXPIREAT a {big}"), ":1"),
            ("PEXPIRETIME a", &format!(":{big}")),
            ("EXPIREAT a 1000000020", ":1"),
            ("PTTL a", ":20000"),
            ("EXPIRE a x", "-ERR value is not an integer or out of range"),
            ("EXPIRE a 1 foo", "-ERR Unsupported option foo"),
            (
                "EXPIRE a 1 NX XX",
                "-ERR NX and XX, GT or LT options at the same time are not compatible",
            ),
            (
                "EXPIRE a 1 GT LT",
                "-ERR GT and LT options at the same time are not compatible",
            ),
            (
                &format!("EXPIRE a {big}"),
                "-ERR invalid expire time in 'expire' command",
            ),
            (
                &format!("PEXPIRE a {big}"),
                "-ERR invalid expire time in 'pexpire' command",
            ),
            (
                "EXPIREAT a -9223372036854775807",
                "-ERR invalid expire time in 'expireat' command",
            ),
            ("EXPIRE a -1", ":1"),
            ("EXISTS a", ":0"),
            ("SET a 1", "+OK"),
            ("EXPIRE a 0", ":1"),
            ("GET a", "$-1"),
            ("SET a 1", "+OK"),
            ("PEXPIREAT a 999999999999", ":1"),
            ("TYPE a", "+none"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
        assert_eq!(desk.dirty, 0);
        desk.say("SET a 1");
        desk.say("PEXPIRE a 100");
        desk.now += 99;
        assert_eq!(desk.say("PTTL a"), ":1");
        desk.now += 1;
        assert_eq!(desk.say("PTTL a"), ":-2");
    }

    #[test]
    fn deadlines_of_the_past_are_kept_where_the_primary_counts_the_time() {
        let mut desk = Desk::recording(1);
        let set_due = |desk: &mut Desk, due_keys| desk.shards.shard(0).set_due_keys(due_keys);
        desk.from_primary = true;
        for (line, want) in [
            ("SET a 1", "+OK"),
            ("PEXPIREAT a 5", ":1"),
            ("INCR a", ":2"),
            ("PTTL a", ":0"),
            ("RENAME a b", "+OK"),
            ("SET c 1 PXAT 5", "+OK"),
            ("GETEX c PXAT 6", "$1 1"),
            ("HSET h f 1 g 1", ":2"),
            ("HPEXPIREAT h 5 FIELDS 1 f", "*1 :1"),
            ("HSETEX h PXAT 5 FIELDS 1 g 2", ":1"),
            ("HINCRBY h f 1", ":2"),
            ("PERSIST b", ":1"),
        ] {
            set_due(&mut desk, DueKeys::Shown);
            assert_eq!(desk.say(line), want, "{line}");
            set_due(&mut desk, DueKeys::Hidden);
        }
        for (line, want) in [
            ("GET b", "$1 2"),
            ("EXISTS a c", ":0"),
            ("HLEN h", ":2"),
            ("DBSIZE", ":3"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
        // What is recorded says the same on another shard, at time 0.
        let effects = desk.effects();
        assert!(effects.contains(&"PEXPIREAT a 5".into()), "{effects:?}");
        assert!(!effects.iter().any(|line| line == "DEL c"), "{effects:?}");
    }
}
