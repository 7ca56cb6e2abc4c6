//! Commands on streams.

mod groups;
mod info;
mod read;
#[cfg(test)]
mod tests;

use super::{Ctx, Keys, Spec, ctx::int, effects, flag::*};
use crate::{
    base::parse_u64,
    resp::{Args, Error, Out},
    store::{Entry, NewId, Stream, StreamId, Trim},
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "XADD",
        -5,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Appends an entry to a stream",
        xadd,
    ),
    Spec::store(
        "XLEN",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the number of entries of a stream",
        xlen,
    ),
    Spec::store(
        "XRANGE",
        -4,
        READ,
        Keys::one(1),
        "Returns the entries of a range of ids",
        xrange,
    ),
    Spec::store(
        "XREVRANGE",
        -4,
        READ,
        Keys::one(1),
        "Returns the entries of a range of ids, newest first",
        xrevrange,
    ),
    Spec::store(
        "XDEL",
        -3,
        WRITE | FAST,
        Keys::one(1),
        "Removes entries by id",
        xdel,
    ),
    Spec::store(
        "XTRIM",
        -4,
        WRITE,
        Keys::one(1),
        "Removes entries from the beginning of a stream",
        xtrim,
    ),
    Spec::store(
        "XSETID",
        -3,
        WRITE | DENY_OOM | FAST,
        Keys::one(1),
        "Sets the last id and the counters of a stream",
        xsetid,
    ),
    Spec::store(
        "XREAD",
        -4,
        READ | BLOCKING | MOVABLE_KEYS,
        Keys::Streams,
        "Returns entries behind given ids of several streams, or waits for them",
        read::xread,
    ),
    Spec::store(
        "XREADGROUP",
        -7,
        WRITE | BLOCKING | MOVABLE_KEYS,
        Keys::Streams,
        "Returns new or pending entries for a consumer of a group, or waits for them",
        read::xreadgroup,
    ),
    Spec::store(
        "XACK",
        -4,
        WRITE | FAST,
        Keys::one(1),
        "Acknowledges entries that a consumer was given",
        groups::xack,
    ),
    Spec::store(
        "XCLAIM",
        -6,
        WRITE | FAST,
        Keys::one(1),
        "Gives pending entries to another consumer",
        groups::xclaim,
    ),
    Spec::store(
        "XAUTOCLAIM",
        -6,
        WRITE | FAST,
        Keys::one(1),
        "Gives entries that were pending for too long to another consumer",
        groups::xautoclaim,
    ),
    Spec::store(
        "XPENDING",
        -3,
        READ,
        Keys::one(1),
        "Returns what is pending in a consumer group",
        groups::xpending,
    ),
    Spec::store(
        "XGROUP",
        -2,
        WRITE | DENY_OOM,
        Keys::one(2),
        "Makes, moves and removes consumer groups and consumers",
        groups::xgroup,
    ),
    Spec::store(
        "XINFO",
        -2,
        READ,
        Keys::one(2),
        "Describes a stream, its groups and their consumers",
        info::xinfo,
    ),
    Spec::store(
        "XINTERNAL.CONSUMERSEEN",
        -5,
        WRITE,
        Keys::one(1),
        "Sets the times of a consumer (only on the stream of a primary)",
        groups::consumer_seen,
    ),
    Spec::store(
        "XINTERNAL.PENDING",
        7,
        WRITE,
        Keys::one(1),
        "Restores one pending entry (only on the stream of a primary)",
        groups::restore_pending,
    ),
    Spec::store(
        "XINTERNAL.CATALOG",
        -1,
        WRITE,
        Keys::None,
        "Ignored: definitions that this node has no use for (only on the stream of a primary)",
        groups::ignore_catalog,
    ),
];

/// An id argument that is not well formed.
const BAD_ID: Error = Error::fixed("ERR Invalid stream ID specified as stream command argument");
/// An exclusive start with nothing behind it.
const BAD_START: Error = Error::fixed("ERR invalid start ID for the interval");
/// An exclusive end with nothing before it.
const BAD_END: Error = Error::fixed("ERR invalid end ID for the interval");

fn xadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let options = Options::parse(args, true, ctx.from_primary)?;
    let fields = args.rest(options.end);
    if fields.is_empty() || !fields.len().is_multiple_of(2) {
        return Err(Error::arity("XADD"));
    }
    if options.id == NewId::Exact(StreamId::MIN) {
        return Err(Error::fixed(
            "ERR The ID specified in XADD must be greater than 0-0",
        ));
    }
    let key = args.at(1);
    let keys = ctx.shards.of(ctx.db, key);
    if options.no_create && keys.get::<Stream>(key, ctx.now)?.is_none() {
        ctx.out.null();
        return Ok(());
    }
    let stream = keys.get_or_create::<Stream>(key, ctx.now)?;
    if stream.log().last_id() == StreamId::MAX {
        return Err(Error::fixed(
            "ERR The stream has exhausted the last possible ID, unable to add more items",
        ));
    }
    let pairs = (0..fields.len() / 2).map(|at| (fields.at(2 * at), fields.at(2 * at + 1)));
    let id = stream.add(options.id, pairs, ctx.now).map_err(|_| {
        Error::fixed(
            "ERR The ID specified in XADD is equal or smaller than the target stream top item",
        )
    })?;
    let has_trimmed = options.trim(stream, ctx.from_primary) > 0;
    ctx.changed();
    write_id(ctx.out, id);
    if ctx.shards.records() {
        id.with_text(|id| {
            // The options are in front of the id.
            let words = (0..fields.len() + 3).map(|at| match at {
                0 => b"XADD",
                1 => key,
                2 => id,
                _ => fields.at(at - 3),
            });
            ctx.shards.record(ctx.db, key, words);
        });
        if has_trimmed {
            effects::trimmed(ctx, key);
        }
    }
    Ok(())
}

fn xlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let len = match ctx.shards.of(ctx.db, key).get::<Stream>(key, ctx.now)? {
        Some(stream) => stream.log().len(),
        None => 0,
    };
    ctx.out.int(len as i64);
    Ok(())
}

fn xrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    range(ctx, args, args.at(2), args.at(3), false)
}

fn xrevrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    range(ctx, args, args.at(3), args.at(2), true)
}

fn range(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    start: &[u8],
    end: &[u8],
    reverse: bool,
) -> Result<(), Error> {
    let start = parse_start(start)?;
    let end = parse_end(end)?;
    let mut count = usize::MAX;
    let mut at = 4;
    while at < args.len() {
        if !args[at].eq_ignore_ascii_case(b"COUNT") || at + 1 == args.len() {
            return Err(Error::SYNTAX);
        }
        count = int(args, at + 1)?.max(0) as usize;
        at += 2;
    }
    let key = args.at(1);
    let Some(stream) = ctx.shards.of(ctx.db, key).get::<Stream>(key, ctx.now)? else {
        ctx.out.array(0);
        return Ok(());
    };
    if count == 0 {
        ctx.out.null_array();
        return Ok(());
    }
    if reverse {
        write_entries(ctx.out, stream.log().range_rev(start, end).take(count));
    } else {
        write_entries(ctx.out, stream.log().range(start, end).take(count));
    }
    Ok(())
}

fn xdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = args.at(1);
    let Some(stream) = ctx.shards.of(ctx.db, key).get_mut::<Stream>(key, ctx.now)? else {
        ctx.out.int(0);
        return Ok(());
    };
    let ids = || args.rest(2).iter().map(|text| parse_id(text, 0));
    // All ids are checked before the first entry goes.
    ids().try_for_each(|id| id.map(drop))?;
    let removed = ids()
        .flatten()
        .filter(|id| stream.log_mut().remove(*id))
        .count();
    if removed > 0 {
        ctx.changed();
    }
    ctx.out.len_int(removed);
    Ok(())
}

fn xtrim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let options = Options::parse(args, false, ctx.from_primary)?;
    let key = args.at(1);
    let removed = match ctx.shards.of(ctx.db, key).get_mut::<Stream>(key, ctx.now)? {
        Some(stream) => options.trim(stream, ctx.from_primary),
        None => 0,
    };
    if removed > 0 {
        ctx.changed();
    }
    ctx.out.int(removed as i64);
    Ok(())
}

fn xsetid(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let id = parse_id(args.at(2), 0)?;
    let mut added = None;
    let mut max_deleted = StreamId::MIN;
    let mut at = 3;
    while at < args.len() {
        let word = args.at(at);
        if at + 1 == args.len() {
            return Err(Error::SYNTAX);
        }
        if word.eq_ignore_ascii_case(b"ENTRIESADDED") {
            added = Some(match parse_u64(args.at(at + 1)) {
                Some(count) if ctx.from_primary => count,
                _ => u64::try_from(int(args, at + 1)?)
                    .map_err(|_| Error::fixed("ERR entries_added must be positive"))?,
            });
        } else if word.eq_ignore_ascii_case(b"MAXDELETEDID") {
            max_deleted = parse_id(args.at(at + 1), 0)?;
            if id < max_deleted && !ctx.from_primary {
                return Err(Error::fixed(
                    "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                ));
            }
        } else {
            return Err(Error::SYNTAX);
        }
        at += 2;
    }
    // A stream that came from elsewhere may have counters that no command would set.
    let (key, is_trusted) = (args.at(1), ctx.from_primary);
    let keys = ctx.shards.of(ctx.db, key);
    let Some(stream) = keys.get_mut::<Stream>(key, ctx.now)? else {
        return Err(Error::NO_SUCH_KEY);
    };
    let log = stream.log_mut();
    if let Some(last) = log.last() {
        if id < last.id {
            return Err(Error::fixed(
                "ERR The ID specified in XSETID is smaller than the target stream top item",
            ));
        }
        if added.is_some_and(|added| added < log.len()) && !is_trusted {
            return Err(Error::fixed(
                "ERR The entries_added specified in XSETID is smaller than the target stream length",
            ));
        }
    }
    log.set_last_id(id);
    if let Some(added) = added {
        log.set_entries_added(added);
    }
    if max_deleted != StreamId::MIN {
        log.set_max_deleted(max_deleted);
    }
    ctx.changed();
    ctx.out.ok();
    Ok(())
}

/// What stands before the fields of XADD, and behind the key of XTRIM.
struct Options {
    no_create: bool,
    trim: Option<Trim>,
    approximate: bool,
    limit: Option<u64>,
    id: NewId,
    /// The argument behind the id.
    end: usize,
}

/// Entries that an approximate trim removes at most, unless LIMIT says otherwise: 100 nodes.
const TRIM_LIMIT: u64 = 10_000;

impl Options {
    fn parse(args: Args<'_>, adding: bool, from_primary: bool) -> Result<Options, Error> {
        let mut options = Options {
            no_create: false,
            trim: None,
            approximate: false,
            limit: None,
            id: NewId::Auto,
            end: args.len(),
        };
        let mut at = 2;
        while at < args.len() {
            let word = args.at(at);
            let more = args.len() - 1 - at;
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if adding && word == b"*" {
                options.end = at + 1;
                break;
            } else if (is(b"MAXLEN") || is(b"MINID")) && more > 0 {
                at = options.parse_trim(args, at, is(b"MAXLEN"))?;
            } else if is(b"LIMIT") && more > 0 {
                let limit = int(args, at + 1)?;
                options.limit = Some(
                    u64::try_from(limit)
                        .map_err(|_| Error::fixed("ERR The LIMIT argument must be >= 0."))?,
                );
                at += 2;
            } else if adding && is(b"NOMKSTREAM") {
                options.no_create = true;
                at += 1;
            } else if adding {
                options.id = parse_new_id(word)?;
                options.end = at + 1;
                break;
            } else {
                return Err(Error::SYNTAX);
            }
        }
        options.check(adding, from_primary)?;
        Ok(options)
    }

    /// Reads `MAXLEN|MINID [~|=] threshold` at `at` and returns the place behind it.
    fn parse_trim(&mut self, args: Args<'_>, at: usize, by_len: bool) -> Result<usize, Error> {
        if self.trim.is_some() {
            return Err(Error::fixed(
                "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
            ));
        }
        let mut at = at + 1;
        if at + 1 < args.len() && matches!(args.at(at), b"~" | b"=") {
            self.approximate = args.at(at) == b"~";
            at += 1;
        }
        self.trim = Some(if by_len {
            let max = int(args, at)?;
            Trim::MaxLen(
                u64::try_from(max)
                    .map_err(|_| Error::fixed("ERR The MAXLEN argument must be >= 0."))?,
            )
        } else {
            Trim::MinId(parse_id(args.at(at), 0)?)
        });
        Ok(at + 1)
    }

    fn check(&self, adding: bool, from_primary: bool) -> Result<(), Error> {
        if self.limit.is_some() && self.trim.is_none() {
            return Err(Error::fixed(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            ));
        }
        if !adding && self.trim.is_none() {
            return Err(Error::fixed(
                "ERR syntax error, XTRIM must be called with a trimming strategy",
            ));
        }
        // A Redis primary makes `~` a `=`, says what was left, and leaves the limit where it was.
        if self.limit.is_some() && !self.approximate && !from_primary {
            return Err(Error::fixed(
                "ERR syntax error, LIMIT cannot be used without the special ~ option",
            ));
        }
        Ok(())
    }

    /// Trims as asked; how many entries went. What a primary sends is exact: where its nodes begin
    /// and end is not known here, and kevy's own trims cut exactly with `~` too.
    fn trim(&self, stream: &mut Stream, from_primary: bool) -> u64 {
        let Some(to) = self.trim else {
            return 0;
        };
        let approximate = self.approximate && !from_primary;
        let limit = match self.limit {
            _ if !approximate => None,
            Some(0) => None,
            Some(limit) => Some(limit),
            None => Some(TRIM_LIMIT),
        };
        stream.log_mut().trim(to, approximate, limit)
    }
}

/// An id that must be spelled out (`-` and `+` are refused).
fn parse_id(text: &[u8], missing_seq: u64) -> Result<StreamId, Error> {
    StreamId::parse(text, missing_seq).ok_or(BAD_ID)
}

/// An id that may also be `-` or `+`.
fn parse_edge(text: &[u8], missing_seq: u64) -> Result<StreamId, Error> {
    match text {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => parse_id(text, missing_seq),
    }
}

/// The first id of an interval; `(` in front excludes it.
fn parse_start(text: &[u8]) -> Result<StreamId, Error> {
    match text.strip_prefix(b"(") {
        Some(id) if !id.is_empty() => parse_id(id, 0)?.next().ok_or(BAD_START),
        _ => parse_edge(text, 0),
    }
}

/// The last id of an interval; `(` in front excludes it.
fn parse_end(text: &[u8]) -> Result<StreamId, Error> {
    match text.strip_prefix(b"(") {
        Some(id) if !id.is_empty() => parse_id(id, u64::MAX)?.prev().ok_or(BAD_END),
        _ => parse_edge(text, u64::MAX),
    }
}

/// The id of an entry to add: `*` was seen before.
fn parse_new_id(text: &[u8]) -> Result<NewId, Error> {
    match StreamId::parse_auto_seq(text) {
        Some(ms) => Ok(NewId::AutoSeq(ms)),
        None => Ok(NewId::Exact(parse_id(text, 0)?)),
    }
}

fn write_id(out: &mut Out, id: StreamId) {
    id.with_text(|text| out.bulk(text));
}

fn write_entry(out: &mut Out, entry: &Entry<'_>) {
    out.array(2);
    write_id(out, entry.id);
    out.array(2 * entry.len());
    for (name, value) in entry.pairs() {
        out.bulk(name);
        out.bulk(value);
    }
}

fn write_entries<'a>(out: &mut Out, entries: impl Iterator<Item = Entry<'a>>) {
    let mark = out.mark();
    let mut count = 0;
    for entry in entries {
        write_entry(out, &entry);
        count += 1;
    }
    out.array_since(mark, count);
}

/// The reply to HELP: a heading and lines as simple strings.
fn write_help(out: &mut Out, command: &str, lines: &[&str]) {
    out.array(lines.len() + 3);
    out.simple(&format!(
        "{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ));
    for line in lines {
        out.simple(line);
    }
    out.simple("HELP");
    out.simple("    Prints this help.");
}

fn unknown_subcommand(command: &str, word: &[u8]) -> Error {
    let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
    Error::text(format!(
        "ERR unknown subcommand '{word}'. Try {command} HELP."
    ))
}

fn misused_subcommand(command: &str, word: &[u8]) -> Error {
    let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
    Error::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{word}'. Try {command} HELP."
    ))
}

fn no_key_or_group(key: &[u8], group: &[u8], within: &str) -> Error {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    Error::text(format!(
        "NOGROUP No such key '{key}' or consumer group '{group}'{within}"
    ))
}

fn no_group(key: &[u8], group: &[u8]) -> Error {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    Error::text(format!(
        "NOGROUP No such consumer group '{group}' for key name '{key}'"
    ))
}
