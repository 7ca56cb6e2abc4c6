//! XREAD and XREADGROUP.

use super::{BAD_ID, no_key_or_group, write_entries, write_entry, write_id};
use crate::{
    base::{Ms, parse_i64},
    cmd::{
        Ctx, OnTimeout,
        ctx::int,
        effects::{self, GroupChange},
    },
    resp::{Args, Error, Out, OwnedArgs, Proto},
    store::{Entry, Stream, StreamId},
};

/// A group and the consumer that reads for it.
#[derive(Clone, Copy)]
struct Reader<'a> {
    group: &'a [u8],
    consumer: &'a [u8],
    no_ack: bool,
}

/// Where to read from.
#[derive(Clone, Copy)]
enum From {
    /// Behind this id. For a group: what is pending for the consumer behind this id.
    After(StreamId),
    /// `>`: what the group has not given to anybody.
    New,
}

struct Request<'a> {
    reader: Option<Reader<'a>>,
    count: Option<u64>,
    timeout: Option<Ms>,
    /// The first key.
    first: usize,
    /// Number of keys; as many ids follow them.
    streams: usize,
}

/// XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]
pub fn xread(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let request = parse(args, false)?;
    read(ctx, args, &request)
}

/// `XREADGROUP GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key ...]
/// id [id ...]`
pub fn xreadgroup(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let request = parse(args, true)?;
    read(ctx, args, &request)
}

fn parse(args: Args<'_>, grouped: bool) -> Result<Request<'_>, Error> {
    let mut request = Request {
        reader: None,
        count: None,
        timeout: None,
        first: 0,
        streams: 0,
    };
    let mut group = None;
    let mut no_ack = false;
    let mut at = 1;
    while at < args.len() {
        let word = args.at(at);
        let more = args.len() - 1 - at;
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"BLOCK") && more > 0 {
            request.timeout = Some(timeout(args.at(at + 1))?);
            at += 2;
        } else if is(b"COUNT") && more > 0 {
            let count = int(args, at + 1)?;
            request.count = u64::try_from(count).ok().filter(|count| *count > 0);
            at += 2;
        } else if is(b"STREAMS") && more > 0 {
            if !more.is_multiple_of(2) {
                return Err(unbalanced(grouped));
            }
            request.first = at + 1;
            request.streams = more / 2;
            break;
        } else if is(b"GROUP") && more >= 2 {
            if !grouped {
                return Err(only_for_groups("GROUP"));
            }
            group = Some((args.at(at + 1), args.at(at + 2)));
            at += 3;
        } else if is(b"NOACK") {
            if !grouped {
                return Err(only_for_groups("NOACK"));
            }
            no_ack = true;
            at += 1;
        } else {
            return Err(Error::SYNTAX);
        }
    }
    if request.first == 0 {
        return Err(Error::SYNTAX);
    }
    request.reader = group.map(|(group, consumer)| Reader {
        group,
        consumer,
        no_ack,
    });
    if grouped && request.reader.is_none() {
        return Err(Error::fixed("ERR Missing GROUP option for XREADGROUP"));
    }
    Ok(request)
}

fn read(ctx: &mut Ctx<'_>, args: Args<'_>, request: &Request<'_>) -> Result<(), Error> {
    let mut from = Vec::with_capacity(request.streams);
    let mut resolved = false;
    for at in 0..request.streams {
        let (start, was_last) = start_of(ctx, args, request, at)?;
        from.push(start);
        resolved |= was_last;
    }
    let mut served = 0;
    let mut replies = Out::new(ctx.out.proto);
    for (at, from) in from.iter().enumerate() {
        let key = args.at(request.first + at);
        served += usize::from(match request.reader {
            Some(reader) => serve_group(ctx, key, *from, reader, request.count, &mut replies)?,
            None => serve(ctx, key, *from, request.count, &mut replies)?,
        });
    }
    if served > 0 {
        match replies.proto {
            Proto::Two => ctx.out.array(served),
            Proto::Three => ctx.out.map(served),
        }
        ctx.out.append(&mut replies);
        return Ok(());
    }
    match request.timeout {
        Some(timeout) => {
            let again = resolved.then(|| without_last(args, request, &from));
            ctx.wait(timeout, OnTimeout::NullArray, again);
        }
        None => ctx.out.null_array(),
    }
    Ok(())
}

/// Where reading begins, and whether that is `$`, the end of the stream as it is now.
fn start_of(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    request: &Request<'_>,
    at: usize,
) -> Result<(From, bool), Error> {
    let key = args.at(request.first + at);
    let id = args.at(request.first + request.streams + at);
    let now = ctx.now;
    let stream = ctx.keys(key).get::<Stream>(key, now)?;
    if let Some(reader) = request.reader
        && stream.is_none_or(|stream| stream.group(reader.group).is_none())
    {
        let within = " in XREADGROUP with GROUP option";
        return Err(no_key_or_group(key, reader.group, within));
    }
    match id {
        b"$" if request.reader.is_some() => Err(Error::fixed(
            "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history \
             of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ \
             ID would just return an empty result set.",
        )),
        b"$" => {
            let last = stream.map_or(StreamId::MIN, |stream| stream.log().last_id());
            Ok((From::After(last), true))
        }
        b">" if request.reader.is_none() => Err(Error::fixed(
            "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
             <consumer> option.",
        )),
        b">" => Ok((From::New, false)),
        _ => match StreamId::parse(id, 0) {
            // Nothing can come behind the highest id; as a place in a group's history it means `>`.
            Some(StreamId::MAX) if request.reader.is_some() => Ok((From::New, false)),
            Some(id) => Ok((From::After(id), false)),
            None => Err(BAD_ID),
        },
    }
}

/// Writes what one stream has behind the given id; false without such entries.
fn serve(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    from: From,
    count: Option<u64>,
    out: &mut Out,
) -> Result<bool, Error> {
    let From::After(after) = from else {
        return Ok(false);
    };
    let (Some(stream), Some(start)) = (
        ctx.shards.of(ctx.db, key).get::<Stream>(key, ctx.now)?,
        after.next(),
    ) else {
        return Ok(false);
    };
    let log = stream.log();
    // The last entry answers most waits without a search.
    if log.last().is_none_or(|last| last.id <= after) {
        return Ok(false);
    }
    write_key(out, key);
    let count = count.map_or(usize::MAX, |count| count as usize);
    write_entries(out, log.range(start, StreamId::MAX).take(count));
    Ok(true)
}

/// Writes what one stream has for a consumer of a group. A request for its history is always
/// answered, one for new entries only if there are some.
fn serve_group(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    from: From,
    reader: Reader<'_>,
    count: Option<u64>,
    out: &mut Out,
) -> Result<bool, Error> {
    // A kevy primary that sends this command counts deliveries in its own way: not when pending entries are
    // read again, but when a group was set back.
    let (now, counts_as_kevy) = (ctx.now, ctx.from_primary);
    let is_recorded = ctx.shards.records();
    let keys = ctx.shards.of(ctx.db, key);
    let Some(stream) = keys.get_mut::<Stream>(key, now)? else {
        return Ok(false);
    };
    let Some((log, group)) = stream.with_group(reader.group) else {
        return Ok(false);
    };
    let mut change = GroupChange::new(reader.group, reader.consumer, group, is_recorded);
    let mut changed = change.is_new;
    let consumer = group.create_consumer(reader.consumer, now, None);
    group.touch_seen(consumer, now);
    let served = match from {
        From::After(after) => {
            write_key(out, key);
            let mark = out.mark();
            let mut written = 0;
            let mut next = after.next();
            while count.is_none_or(|count| written < count)
                && let Some(start) = next
            {
                let Some(id) = group.pending_of(consumer, start..).next() else {
                    break;
                };
                match (log.get(id), group.pending(id).copied()) {
                    (Some(entry), Some(row)) => {
                        write_entry(out, &entry);
                        let count = row.count.saturating_add(u64::from(!counts_as_kevy));
                        group.assign(id, consumer, now, count);
                        change.note(id);
                        changed = true;
                    }
                    // It was deleted meanwhile: the consumer learns that by a null in its place.
                    _ => {
                        out.array(2);
                        write_id(out, id);
                        out.null_array();
                    }
                }
                written += 1;
                next = id.next();
            }
            out.array_since(mark, written as usize);
            true
        }
        From::New => {
            let delivered = group.last_id;
            if log.last().is_some_and(|last| last.id > delivered) {
                write_key(out, key);
                let mark = out.mark();
                let (group, no_ack) = (reader.group, reader.no_ack);
                let visit = |entry: Entry<'_>| {
                    write_entry(out, &entry);
                    if !no_ack {
                        change.note(entry.id);
                    }
                };
                let written =
                    stream.deliver(group, consumer, count, no_ack, counts_as_kevy, now, visit);
                out.array_since(mark, written);
                change.has_moved = true;
                changed = true;
                true
            } else {
                false
            }
        }
    };
    if changed {
        ctx.changed();
        effects::group_changed(ctx, key, &change);
    }
    Ok(served)
}

/// In RESP2 each stream is a pair, in RESP3 all of them are a map.
fn write_key(out: &mut Out, key: &[u8]) {
    if out.proto == Proto::Two {
        out.array(2);
    }
    out.bulk(key);
}

/// The same request with `$` replaced by the ids that it meant when it came.
fn without_last(args: Args<'_>, request: &Request<'_>, from: &[From]) -> OwnedArgs {
    let ids = request.first + request.streams;
    let mut again = OwnedArgs::default();
    for (at, arg) in args.iter().enumerate() {
        match at.checked_sub(ids).map(|at| from[at]) {
            Some(From::After(id)) => id.with_text(|text| again.push(text)),
            _ => again.push(arg),
        }
    }
    again
}

/// BLOCK's argument, in whole milliseconds.
fn timeout(text: &[u8]) -> Result<Ms, Error> {
    let value = parse_i64(text).ok_or(Error::fixed(
        "ERR timeout is not an integer or out of range",
    ))?;
    u64::try_from(value).map_err(|_| Error::TIMEOUT_NEGATIVE)
}

fn unbalanced(grouped: bool) -> Error {
    Error::fixed(if grouped {
        "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be \
         specified."
    } else {
        "ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be specified."
    })
}

fn only_for_groups(option: &str) -> Error {
    Error::text(format!(
        "ERR The {option} option is only supported by XREADGROUP. You called XREAD instead."
    ))
}
