//! XINFO.

use super::{
    misused_subcommand, no_group, unknown_subcommand, write_entries, write_entry, write_help,
    write_id,
};
use crate::{
    base::Ms,
    cmd::{Ctx, ctx::int},
    resp::{Args, Error, Out},
    store::{Group, Stream, StreamId},
};

/// XINFO STREAM key [FULL [COUNT count]] | GROUPS key | CONSUMERS key group | HELP
pub fn xinfo(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let word = args.at(1);
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    if is(b"HELP") {
        if args.len() != 2 {
            return Err(Error::arity("xinfo|help"));
        }
        write_help(ctx.out, "XINFO", HELP);
        return Ok(());
    }
    let (name, fits) = if is(b"STREAM") {
        ("xinfo|stream", args.len() >= 3)
    } else if is(b"GROUPS") {
        ("xinfo|groups", args.len() == 3)
    } else if is(b"CONSUMERS") {
        ("xinfo|consumers", args.len() == 4)
    } else {
        return Err(unknown_subcommand("XINFO", word));
    };
    if !fits {
        return Err(Error::arity(name));
    }
    let (key, now) = (args.at(2), ctx.now);
    let stream = ctx.shards.of(ctx.db, key).get::<Stream>(key, now)?;
    let stream = stream.ok_or(Error::NO_SUCH_KEY)?;
    let out = &mut *ctx.out;
    if is(b"STREAM") {
        match full_count(args)? {
            None => write_stream(out, stream),
            Some(count) => write_full(out, stream, count),
        }
    } else if is(b"GROUPS") {
        write_groups(out, stream);
    } else {
        let name = args.at(3);
        let group = stream.group(name).ok_or_else(|| no_group(key, name))?;
        write_consumers(out, group, now);
    }
    Ok(())
}

const HELP: &[&str] = &[
    "CONSUMERS <key> <groupname>",
    "    Show consumers of <groupname>.",
    "GROUPS <key>",
    "    Show the stream consumer groups.",
    "STREAM <key> [FULL [COUNT <count>]",
    "    Show information about the stream.",
];

/// How much FULL shows of each list; `None` without FULL.
fn full_count(args: Args<'_>) -> Result<Option<usize>, Error> {
    let misused = || misused_subcommand("XINFO", args.at(1));
    if args.len() == 3 {
        return Ok(None);
    }
    if !matches!(args.len(), 4 | 6) || !args[3].eq_ignore_ascii_case(b"FULL") {
        return Err(misused());
    }
    if args.len() == 4 {
        return Ok(Some(FULL_COUNT));
    }
    if !args[4].eq_ignore_ascii_case(b"COUNT") {
        return Err(misused());
    }
    Ok(Some(match int(args, 5)? {
        0 => usize::MAX,
        count => usize::try_from(count).unwrap_or(FULL_COUNT),
    }))
}

/// What FULL shows of each list unless COUNT says otherwise.
const FULL_COUNT: usize = 10;

fn write_counters(out: &mut Out, stream: &Stream) {
    let log = stream.log();
    out.bulk_str("length");
    out.int(log.len() as i64);
    // Redis keeps its nodes in a radix tree and tells how large that is.
    out.bulk_str("radix-tree-keys");
    out.len_int(log.node_count());
    out.bulk_str("radix-tree-nodes");
    out.len_int(log.node_count() + 1);
    out.bulk_str("last-generated-id");
    write_id(out, log.last_id());
    out.bulk_str("max-deleted-entry-id");
    write_id(out, log.max_deleted());
    out.bulk_str("entries-added");
    out.int(log.entries_added() as i64);
    out.bulk_str("recorded-first-entry-id");
    write_id(out, log.first_id());
}

fn write_stream(out: &mut Out, stream: &Stream) {
    out.map(10);
    write_counters(out, stream);
    out.bulk_str("groups");
    out.len_int(stream.groups().len());
    for (name, entry) in [
        ("first-entry", stream.log().first()),
        ("last-entry", stream.log().last()),
    ] {
        out.bulk_str(name);
        match entry {
            Some(entry) => write_entry(out, &entry),
            None => out.null(),
        }
    }
}

fn write_full(out: &mut Out, stream: &Stream, count: usize) {
    out.map(9);
    write_counters(out, stream);
    out.bulk_str("entries");
    let entries = stream.log().range(StreamId::MIN, StreamId::MAX);
    write_entries(out, entries.take(count));
    out.bulk_str("groups");
    out.array(stream.groups().len());
    for (name, group) in stream.groups() {
        out.map(7);
        out.bulk_str("name");
        out.bulk(name);
        out.bulk_str("last-delivered-id");
        write_id(out, group.last_id);
        write_progress(out, stream, group);
        out.bulk_str("pel-count");
        out.len_int(group.pending_len());
        out.bulk_str("pending");
        out.array(group.pending_len().min(count));
        for (id, row) in group.pending_range(..).take(count) {
            out.array(4);
            write_id(out, id);
            out.bulk(group.consumer(row.consumer).name());
            out.int(row.delivered as i64);
            out.int(row.count as i64);
        }
        out.bulk_str("consumers");
        out.array(group.consumer_count());
        for (at, consumer) in group.consumers() {
            out.map(5);
            out.bulk_str("name");
            out.bulk(consumer.name());
            out.bulk_str("seen-time");
            out.int(consumer.seen as i64);
            out.bulk_str("active-time");
            out.int(consumer.active.map_or(-1, |active| active as i64));
            out.bulk_str("pel-count");
            out.len_int(consumer.pending_len());
            out.bulk_str("pending");
            out.array(consumer.pending_len().min(count));
            for id in group.pending_of(at, ..).take(count) {
                let row = group.pending(id);
                out.array(3);
                write_id(out, id);
                out.int(row.map_or(0, |row| row.delivered as i64));
                out.int(row.map_or(0, |row| row.count as i64));
            }
        }
    }
}

fn write_groups(out: &mut Out, stream: &Stream) {
    out.array(stream.groups().len());
    for (name, group) in stream.groups() {
        out.map(6);
        out.bulk_str("name");
        out.bulk(name);
        out.bulk_str("consumers");
        out.len_int(group.consumer_count());
        out.bulk_str("pending");
        out.len_int(group.pending_len());
        out.bulk_str("last-delivered-id");
        write_id(out, group.last_id);
        write_progress(out, stream, group);
    }
}

fn write_progress(out: &mut Out, stream: &Stream, group: &Group) {
    for (name, value) in [
        ("entries-read", group.entries_read.map(|read| read as i64)),
        ("lag", stream.lag(group)),
    ] {
        out.bulk_str(name);
        match value {
            Some(value) => out.int(value),
            None => out.null(),
        }
    }
}

fn write_consumers(out: &mut Out, group: &Group, now: Ms) {
    out.array(group.consumer_count());
    for (_, consumer) in group.consumers() {
        out.map(4);
        out.bulk_str("name");
        out.bulk(consumer.name());
        out.bulk_str("pending");
        out.len_int(consumer.pending_len());
        out.bulk_str("idle");
        out.int(now.saturating_sub(consumer.seen) as i64);
        out.bulk_str("inactive");
        let inactive = |active| now.saturating_sub(active) as i64;
        out.int(consumer.active.map_or(-1, inactive));
    }
}
