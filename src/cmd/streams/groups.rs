//! Consumer groups: XGROUP, XACK, XCLAIM, XAUTOCLAIM, XPENDING and what a primary sends of them.

use super::{
    misused_subcommand, no_group, no_key_or_group, parse_edge, parse_end, parse_id, parse_start,
    unknown_subcommand, write_entry, write_help, write_id,
};
use crate::{
    base::{Ms, parse_i64, parse_u64},
    cmd::{
        Ctx,
        ctx::int,
        effects::{self, GroupChange},
        unknown,
    },
    resp::{Args, Error, Out},
    store::{Group, Log, Stream, StreamId},
};

/// XGROUP CREATE | SETID | DESTROY | CREATECONSUMER | DELCONSUMER | HELP
pub fn xgroup(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let word = args.at(1);
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    let fits = |name: &str, exact: bool, count: usize| {
        if args.len() == count || (!exact && args.len() > count) {
            Ok(())
        } else {
            Err(Error::arity(name))
        }
    };
    if is(b"CREATE") {
        fits("xgroup|create", false, 5)?;
        create(ctx, args)
    } else if is(b"SETID") {
        fits("xgroup|setid", false, 5)?;
        set_id(ctx, args)
    } else if is(b"DESTROY") {
        fits("xgroup|destroy", true, 4)?;
        destroy(ctx, args)
    } else if is(b"CREATECONSUMER") {
        fits("xgroup|createconsumer", true, 5)?;
        create_consumer(ctx, args)
    } else if is(b"DELCONSUMER") {
        fits("xgroup|delconsumer", true, 5)?;
        delete_consumer(ctx, args)
    } else if is(b"HELP") {
        fits("xgroup|help", true, 2)?;
        write_help(ctx.out, "XGROUP", HELP);
        Ok(())
    } else {
        Err(unknown_subcommand("XGROUP", word))
    }
}

const HELP: &[&str] = &[
    "CREATE <key> <groupname> <id|$> [option]",
    "    Create a new consumer group. Options are:",
    "    * MKSTREAM",
    "      Create the empty stream if it does not exist.",
    "    * ENTRIESREAD entries_read",
    "      Set the group's entries_read counter (internal use).",
    "CREATECONSUMER <key> <groupname> <consumer>",
    "    Create a new consumer in the specified group.",
    "DELCONSUMER <key> <groupname> <consumer>",
    "    Remove the specified consumer.",
    "DESTROY <key> <groupname>",
    "    Remove the specified group.",
    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
    "    Set the current group ID and entries_read counter.",
];

const NO_STREAM: Error = Error::fixed(
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use \
     the MKSTREAM option to create an empty stream automatically.",
);

fn create(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (make_stream, entries_read) = position_options(ctx, args, true)?;
    let (key, group, now) = (args.at(2), args.at(3), ctx.now);
    let keys = ctx.keys(key);
    let last = match keys.get::<Stream>(key, now)? {
        Some(stream) => stream.log().last_id(),
        None if make_stream => StreamId::MIN,
        None => return Err(NO_STREAM),
    };
    // An option given twice is one word too many.
    if args.len() > 8 {
        return Err(misused_subcommand("XGROUP", args.at(1)));
    }
    let id = match args.at(4) {
        b"$" => last,
        text => parse_id(text, 0)?,
    };
    let stream = keys.get_or_create::<Stream>(key, now)?;
    if stream.create_group(group, id, entries_read).is_none() {
        return Err(Error::fixed("BUSYGROUP Consumer Group name already exists"));
    }
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

fn set_id(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (_, entries_read) = position_options(ctx, args, false)?;
    let (log, group) = group_of(ctx, args)?;
    if args.len() > 7 {
        return Err(misused_subcommand("XGROUP", args.at(1)));
    }
    let id = match args.at(4) {
        b"$" => log.last_id(),
        text => parse_edge(text, 0)?,
    };
    group.last_id = id;
    group.entries_read = entries_read;
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

/// Reads `[MKSTREAM] [ENTRIESREAD n]`; -1 says that n is not known.
fn position_options(
    ctx: &Ctx<'_>,
    args: Args<'_>,
    creating: bool,
) -> Result<(bool, Option<u64>), Error> {
    let (mut make_stream, mut entries_read) = (false, None);
    let mut at = 5;
    while at < args.len() {
        let word = args.at(at);
        if creating && word.eq_ignore_ascii_case(b"MKSTREAM") {
            make_stream = true;
            at += 1;
        } else if word.eq_ignore_ascii_case(b"ENTRIESREAD") && at + 1 < args.len() {
            entries_read = parse_u64(args.at(at + 1)).filter(|_| ctx.from_primary);
            if entries_read.is_none() {
                let count = int(args, at + 1)?;
                if count < -1 {
                    return Err(Error::fixed(
                        "ERR value for ENTRIESREAD must be positive or -1",
                    ));
                }
                entries_read = u64::try_from(count).ok();
            }
            at += 2;
        } else {
            return Err(misused_subcommand("XGROUP", args.at(1)));
        }
    }
    Ok((make_stream, entries_read))
}

fn destroy(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(2), ctx.now);
    let stream = ctx.keys(key).get_mut::<Stream>(key, now)?;
    let destroyed = stream.ok_or(NO_STREAM)?.destroy_group(args.at(3));
    if destroyed {
        ctx.changed();
    }
    ctx.out.flag(destroyed);
    Ok(())
}

fn create_consumer(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let now = ctx.now;
    let (_, group) = group_of(ctx, args)?;
    let new = group.find(args.at(4)).is_none();
    if new {
        group.create_consumer(args.at(4), now, None);
        ctx.changed();
    }
    ctx.out.flag(new);
    Ok(())
}

fn delete_consumer(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (_, group) = group_of(ctx, args)?;
    let removed = group.remove_consumer(args.at(4));
    if removed.is_some() {
        ctx.changed();
    }
    ctx.out.len_int(removed.unwrap_or(0));
    Ok(())
}

/// The stream and group that a subcommand of XGROUP names.
fn group_of<'a>(ctx: &'a mut Ctx<'_>, args: Args<'_>) -> Result<(&'a Log, &'a mut Group), Error> {
    let (key, name, now) = (args.at(2), args.at(3), ctx.now);
    let stream = ctx.keys(key).get_mut::<Stream>(key, now)?;
    let stream = stream.ok_or(NO_STREAM)?;
    stream.with_group(name).ok_or_else(|| no_group(key, name))
}

/// XACK key group id [id ...]
pub fn xack(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let stream = ctx.keys(key).get_mut::<Stream>(key, now)?;
    let Some((_, group)) = stream.and_then(|stream| stream.with_group(args.at(2))) else {
        ctx.out.int(0);
        return Ok(());
    };
    let ids = || args.rest(3).iter().map(|text| parse_id(text, 0));
    // All ids are checked before the first one counts.
    ids().try_for_each(|id| id.map(drop))?;
    let count = ids().flatten().filter(|id| group.acknowledge(*id)).count();
    if count > 0 {
        ctx.changed();
    }
    ctx.out.len_int(count);
    Ok(())
}

/// What XCLAIM does besides naming entries.
struct Claim {
    min_idle: u64,
    delivered: Ms,
    retry_count: Option<u64>,
    force: bool,
    just_id: bool,
    last_id: StreamId,
    /// The argument behind the last id.
    ids_end: usize,
}

/// `XCLAIM key group consumer min-idle-time id [id ...] [IDLE ms] [TIME ms] [RETRYCOUNT n] [FORCE]
/// [JUSTID] [LASTID id]`
pub fn xclaim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, name, now) = (args.at(1), args.at(2), ctx.now);
    let (from_primary, is_recorded) = (ctx.from_primary, ctx.shards.records());
    let stream = ctx.shards.of(ctx.db, key).get_mut::<Stream>(key, now)?;
    let Some((log, group)) = stream.and_then(|stream| stream.with_group(name)) else {
        return Err(no_key_or_group(key, name, ""));
    };
    let claim = parse_claim(args, now, from_primary)?;
    let mut change = GroupChange::new(name, args.at(3), group, is_recorded);
    let mut changed = change.is_new;
    if claim.last_id > group.last_id {
        group.last_id = claim.last_id;
        change.has_moved = true;
        changed = true;
    }
    let consumer = group.create_consumer(args.at(3), now, None);
    group.touch_seen(consumer, now);
    let out = &mut *ctx.out;
    let mark = out.mark();
    let mut count = 0;
    for at in 5..claim.ids_end {
        let id = parse_id(args.at(at), 0)?;
        let old = group.pending(id).copied();
        let Some(entry) = log.get(id) else {
            // Nobody can ever be given a deleted entry again.
            if group.acknowledge(id) {
                change.note(id);
                changed = true;
            }
            continue;
        };
        let deliveries = match old {
            Some(row) if now.saturating_sub(row.delivered) < claim.min_idle => continue,
            Some(row) => row.count,
            None if claim.force => 1,
            None => continue,
        };
        let deliveries = match claim.retry_count {
            Some(count) => count,
            None if claim.just_id => deliveries,
            None => deliveries.saturating_add(1),
        };
        group.assign(id, consumer, claim.delivered, deliveries);
        group.touch_active(consumer, now);
        if claim.just_id {
            write_id(out, id);
        } else {
            write_entry(out, &entry);
        }
        change.note(id);
        count += 1;
        changed = true;
    }
    out.array_since(mark, count);
    if changed {
        ctx.changed();
        effects::group_changed(ctx, key, &change);
    }
    Ok(())
}

fn parse_claim(args: Args<'_>, now: Ms, from_primary: bool) -> Result<Claim, Error> {
    let number = |at: usize, name: &str| {
        parse_i64(args.at(at))
            .ok_or_else(|| Error::text(format!("ERR Invalid {name} argument for XCLAIM")))
    };
    let mut claim = Claim {
        min_idle: number(4, "min-idle-time")?.max(0) as u64,
        delivered: now,
        retry_count: None,
        force: false,
        just_id: false,
        last_id: StreamId::MIN,
        ids_end: 5,
    };
    while claim.ids_end < args.len() && parse_id(args.at(claim.ids_end), 0).is_ok() {
        claim.ids_end += 1;
    }
    let mut at = claim.ids_end;
    while at < args.len() {
        let word = args.at(at);
        let more = at + 1 < args.len();
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        at += 1;
        if is(b"FORCE") {
            claim.force = true;
            continue;
        }
        if is(b"JUSTID") {
            claim.just_id = true;
            continue;
        }
        if is(b"IDLE") && more {
            let idle = number(at, "IDLE option")?;
            claim.delivered = past(i128::from(now) - i128::from(idle), now, false);
        } else if is(b"TIME") && more {
            let time = number(at, "TIME option")?;
            claim.delivered = past(time.into(), now, from_primary);
        } else if is(b"RETRYCOUNT") && more {
            claim.retry_count = u64::try_from(number(at, "RETRYCOUNT option")?).ok();
        } else if is(b"LASTID") && more {
            claim.last_id = parse_id(args.at(at), 0)?;
        } else {
            let word = String::from_utf8_lossy(word);
            return Err(Error::text(format!(
                "ERR Unrecognized XCLAIM option '{word}'"
            )));
        }
        at += 1;
    }
    Ok(claim)
}

/// A delivery time that a client computed: nonsense and the future become now. A primary's times
/// stand as they are, because its clock may be a little ahead of this one.
fn past(time: i128, now: Ms, trusted: bool) -> Ms {
    match Ms::try_from(time) {
        Ok(time) if time <= now || trusted => time,
        _ => now,
    }
}

/// `XAUTOCLAIM key group consumer min-idle-time start [COUNT count] [JUSTID]`
pub fn xautoclaim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let min_idle = parse_i64(args.at(4)).ok_or(Error::fixed(
        "ERR Invalid min-idle-time argument for XAUTOCLAIM",
    ))?;
    let min_idle = min_idle.max(0) as u64;
    let start = parse_start(args.at(5))?;
    let (mut left, mut just_id) = (100u64, false);
    let mut at = 6;
    while at < args.len() {
        let word = args.at(at);
        if word.eq_ignore_ascii_case(b"COUNT") && at + 1 < args.len() {
            left = parse_i64(args.at(at + 1))
                .filter(|count| (1..=i64::MAX / 16).contains(count))
                .ok_or(Error::fixed("ERR COUNT must be > 0"))? as u64;
            at += 2;
        } else if word.eq_ignore_ascii_case(b"JUSTID") {
            just_id = true;
            at += 1;
        } else {
            return Err(Error::SYNTAX);
        }
    }
    let (key, name, now) = (args.at(1), args.at(2), ctx.now);
    let is_recorded = ctx.shards.records();
    let stream = ctx.shards.of(ctx.db, key).get_mut::<Stream>(key, now)?;
    let Some((log, group)) = stream.and_then(|stream| stream.with_group(name)) else {
        return Err(no_key_or_group(key, name, ""));
    };
    let mut change = GroupChange::new(name, args.at(3), group, is_recorded);
    let mut changed = change.is_new;
    let consumer = group.create_consumer(args.at(3), now, None);
    group.touch_seen(consumer, now);

    // At most ten entries are looked at for each one asked for, so that a call stays short.
    let mut attempts = left.saturating_mul(10);
    let mut claimed = Out::new(ctx.out.proto);
    let mut count = 0;
    let mut deleted = Vec::new();
    let mut next = Some(start);
    let mut cursor = StreamId::MIN;
    while let Some(from) = next {
        let found = group.pending_range(from..).next();
        let Some((id, row)) = found.map(|(id, row)| (id, *row)) else {
            break;
        };
        if attempts == 0 || left == 0 {
            cursor = id;
            break;
        }
        attempts -= 1;
        next = id.next();
        let Some(entry) = log.get(id) else {
            group.acknowledge(id);
            deleted.push(id);
            change.note(id);
            changed = true;
            left -= 1;
            continue;
        };
        if now.saturating_sub(row.delivered) < min_idle {
            continue;
        }
        let deliveries = row.count.saturating_add(u64::from(!just_id));
        group.assign(id, consumer, now, deliveries);
        group.touch_active(consumer, now);
        if just_id {
            write_id(&mut claimed, id);
        } else {
            write_entry(&mut claimed, &entry);
        }
        change.note(id);
        count += 1;
        left -= 1;
        changed = true;
    }
    ctx.out.array(3);
    write_id(ctx.out, cursor);
    ctx.out.array(count);
    ctx.out.append(&mut claimed);
    ctx.out.array(deleted.len());
    for id in deleted {
        write_id(ctx.out, id);
    }
    if changed {
        ctx.changed();
        effects::group_changed(ctx, key, &change);
    }
    Ok(())
}

/// `XPENDING key group [[IDLE min-idle-time] start end count [consumer]]`
pub fn xpending(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len() != 3 && !(6..=9).contains(&args.len()) {
        return Err(Error::SYNTAX);
    }
    let mut min_idle = 0;
    let mut at = 3;
    let mut range = None;
    if args.len() >= 6 {
        if args[3].eq_ignore_ascii_case(b"IDLE") {
            min_idle = int(args, 4)?.max(0) as u64;
            if args.len() < 8 {
                return Err(Error::SYNTAX);
            }
            at = 5;
        }
        let count = int(args, at + 2)?.max(0) as usize;
        range = Some((
            parse_start(args.at(at))?,
            parse_end(args.at(at + 1))?,
            count,
        ));
    }
    let (key, name, now) = (args.at(1), args.at(2), ctx.now);
    let stream = ctx.shards.of(ctx.db, key).get::<Stream>(key, now)?;
    let Some(group) = stream.and_then(|stream| stream.group(name)) else {
        return Err(no_key_or_group(key, name, ""));
    };
    let Some((start, end, count)) = range else {
        write_summary(ctx.out, group);
        return Ok(());
    };
    let owner = match args.get(at + 3) {
        Some(consumer) => match group.find(consumer) {
            Some(consumer) => Some(consumer),
            None => {
                ctx.out.array(0);
                return Ok(());
            }
        },
        None => None,
    };
    let mark = ctx.out.mark();
    let mut written = 0;
    let mut write = |id: StreamId| {
        let Some(row) = group.pending(id) else {
            return false;
        };
        let idle = now.saturating_sub(row.delivered);
        if idle < min_idle {
            return false;
        }
        ctx.out.array(4);
        write_id(ctx.out, id);
        ctx.out.bulk(group.consumer(row.consumer).name());
        ctx.out.int(idle as i64);
        ctx.out.int(row.count as i64);
        written += 1;
        written == count
    };
    if count > 0 && start <= end {
        match owner {
            Some(consumer) => {
                let _ = group.pending_of(consumer, start..=end).any(&mut write);
            }
            None => {
                let _ = group.pending_range(start..=end).any(|(id, _)| write(id));
            }
        }
    }
    ctx.out.array_since(mark, written);
    Ok(())
}

fn write_summary(out: &mut Out, group: &Group) {
    out.array(4);
    out.len_int(group.pending_len());
    let first = group.pending_range(..).next();
    let last = group.pending_range(..).next_back();
    let (Some((first, _)), Some((last, _))) = (first, last) else {
        out.null();
        out.null();
        out.null_array();
        return;
    };
    write_id(out, first);
    write_id(out, last);
    let mark = out.mark();
    let mut count = 0;
    for (_, consumer) in group.consumers() {
        if consumer.pending_len() > 0 {
            out.array(2);
            out.bulk(consumer.name());
            out.bulk_int(consumer.pending_len() as i64);
            count += 1;
        }
    }
    out.array_since(mark, count);
}

/// `XINTERNAL.CONSUMERSEEN key group consumer seen [active]`: sets the times of a consumer, which is
/// made if it is missing. Only a primary sends it.
pub fn consumer_seen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if !ctx.from_primary {
        return Err(unknown(args));
    }
    let malformed = || Error::fixed("ERR malformed internal consumer record");
    let seen = parse_u64(args.at(4)).ok_or_else(malformed)?;
    let active = match args.get(5) {
        Some(text) => Some(parse_u64(text).ok_or_else(malformed)?),
        None => None,
    };
    if args.len() > 6 {
        return Err(malformed());
    }
    let (key, now) = (args.at(1), ctx.now);
    let stream = ctx.keys(key).get_mut::<Stream>(key, now)?;
    let Some((_, group)) = stream.and_then(|stream| stream.with_group(args.at(2))) else {
        ctx.out.int(0);
        return Ok(());
    };
    let new = group.find(args.at(3)).is_none();
    let consumer = group.create_consumer(args.at(3), seen, active);
    group.touch_seen(consumer, seen);
    if let Some(active) = active {
        group.touch_active(consumer, active);
    }
    ctx.changed();
    ctx.out.flag(new);
    Ok(())
}

/// XINTERNAL.PENDING key group consumer delivered-ms deliveries id: makes an entry pending whether
/// or not the stream still has it. Only a primary sends it.
pub fn restore_pending(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if !ctx.from_primary {
        return Err(unknown(args));
    }
    let row = (parse_u64(args.at(4)), parse_u64(args.at(5)));
    let (Some(delivered), Some(count)) = row else {
        return Err(Error::fixed("ERR malformed internal pending record"));
    };
    let id = parse_id(args.at(6), 0)?;
    let (key, now) = (args.at(1), ctx.now);
    let stream = ctx.keys(key).get_mut::<Stream>(key, now)?;
    let Some((_, group)) = stream.and_then(|stream| stream.with_group(args.at(2))) else {
        ctx.out.int(0);
        return Ok(());
    };
    let consumer = group.create_consumer(args.at(3), 0, None);
    group.assign(id, consumer, delivered, count);
    ctx.changed();
    ctx.out.int(1);
    Ok(())
}

/// XINTERNAL.CATALOG: definitions of indexes and views, which this node does not keep.
pub fn ignore_catalog(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if !ctx.from_primary {
        return Err(unknown(args));
    }
    ctx.out.ok();
    Ok(())
}
