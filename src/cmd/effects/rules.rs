//! What each command records.

use super::{
    Batch, Writer, named,
    rebuild::{expire_at, expire_fields, group_at, pending, replace, seen},
    record_as,
};
use crate::{
    base::{format_f64, parse_i64},
    cmd::{Ctx, Keys},
    resp::Args,
    store::{End, Group, Hash, List, Stream, StreamId, Zset},
};

/// How the effects of a command are found once it has run and changed something.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// It never changes anything of its own.
    None,
    /// The command itself does the same again. Its one key is its first argument.
    Same,
    /// So does this one, but not every peer knows it: where such a one follows, the key is told anew.
    Newer,
    /// So does the command of this name with the same arguments.
    As(&'static str),
    /// This says them, from the arguments and from what is there now.
    Told(fn(&mut Ctx<'_>, Args<'_>)),
    /// It records them while it runs: afterwards nobody could tell.
    Itself,
}

/// The rule of a command; [`Rule::None`] for all that are not named here.
pub const fn rule_of(name: &str) -> Rule {
    let mut at = 0;
    while at < RULES.len() {
        if is_same(RULES[at].0, name) {
            return RULES[at].1;
        }
        at += 1;
    }
    Rule::None
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    one.len() == other.len() && at == one.len()
}

/// The rules by name.
pub(super) const RULES: &[(&str, Rule)] = &[
    ("SET", Rule::Told(set)),
    ("APPEND", Rule::Told(appended)),
    ("DECR", Rule::Same),
    ("DECRBY", Rule::Same),
    ("GETDEL", Rule::Told(|ctx, args| gone(ctx, args.at(1)))),
    ("GETEX", Rule::Told(|ctx, args| deadline(ctx, args.at(1)))),
    ("GETSET", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    ("INCR", Rule::Same),
    ("INCRBY", Rule::Same),
    (
        "INCRBYFLOAT",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    ("MSET", Rule::Told(pairs)),
    ("MSETNX", Rule::Told(pairs)),
    ("PSETEX", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    ("SETEX", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    ("SETNX", Rule::As("SET")),
    ("SETRANGE", Rule::Newer),
    ("BITFIELD", Rule::Newer),
    ("BITOP", Rule::Told(|ctx, args| whole(ctx, args.at(2)))),
    ("SETBIT", Rule::Newer),
    ("COPY", Rule::Told(copied)),
    ("DEL", Rule::Itself),
    ("EXPIRE", Rule::Told(|ctx, args| deadline(ctx, args.at(1)))),
    (
        "EXPIREAT",
        Rule::Told(|ctx, args| deadline(ctx, args.at(1))),
    ),
    ("FLUSHALL", Rule::Itself),
    ("FLUSHDB", Rule::Itself),
    ("MOVE", Rule::Told(moved_over)),
    ("PERSIST", Rule::Same),
    ("PEXPIRE", Rule::Told(|ctx, args| deadline(ctx, args.at(1)))),
    (
        "PEXPIREAT",
        Rule::Told(|ctx, args| deadline(ctx, args.at(1))),
    ),
    ("RENAME", Rule::Told(renamed)),
    ("RENAMENX", Rule::Told(renamed)),
    ("SWAPDB", Rule::Itself),
    ("UNLINK", Rule::Itself),
    ("RESTORE", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    (
        "RESTORE-ASKING",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    (
        "SORT",
        Rule::Told(|ctx, args| targets(ctx, args, Keys::Sort)),
    ),
    ("HDEL", Rule::Same),
    ("HEXPIRE", Rule::Told(fields_expired)),
    ("HEXPIREAT", Rule::Told(fields_expired)),
    ("HGETDEL", Rule::Told(fields_expired)),
    ("HGETEX", Rule::Told(fields_expired)),
    ("HINCRBY", Rule::Told(field_added)),
    (
        "HINCRBYFLOAT",
        Rule::Told(|ctx, args| fields_set(ctx, args.at(1), &[args.at(2)])),
    ),
    ("HMSET", Rule::As("HSET")),
    ("HPERSIST", Rule::Same),
    ("HPEXPIRE", Rule::Told(fields_expired)),
    ("HPEXPIREAT", Rule::Told(fields_expired)),
    ("HSET", Rule::Same),
    ("HSETEX", Rule::Told(fields_set_expiring)),
    ("HSETNX", Rule::As("HSET")),
    ("LPUSH", Rule::Same),
    ("RPUSH", Rule::Same),
    ("LPUSHX", Rule::As("LPUSH")),
    ("RPUSHX", Rule::As("RPUSH")),
    ("LPOP", Rule::Same),
    ("RPOP", Rule::Same),
    ("LSET", Rule::Same),
    ("LREM", Rule::Same),
    ("LTRIM", Rule::Same),
    ("LINSERT", Rule::Newer),
    (
        "LMOVE",
        Rule::Told(|ctx, args| moved(ctx, args, end(args.at(3)), end(args.at(4)))),
    ),
    (
        "RPOPLPUSH",
        Rule::Told(|ctx, args| moved(ctx, args, End::Right, End::Left)),
    ),
    ("LMPOP", Rule::Itself),
    ("BLPOP", Rule::Itself),
    ("BRPOP", Rule::Itself),
    (
        "BLMOVE",
        Rule::Told(|ctx, args| moved(ctx, args, end(args.at(3)), end(args.at(4)))),
    ),
    (
        "BRPOPLPUSH",
        Rule::Told(|ctx, args| moved(ctx, args, End::Right, End::Left)),
    ),
    ("BLMPOP", Rule::Itself),
    ("SADD", Rule::Same),
    ("SDIFFSTORE", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    (
        "SINTERSTORE",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    ("SMOVE", Rule::Told(member_moved)),
    ("SPOP", Rule::Itself),
    ("SREM", Rule::Same),
    (
        "SUNIONSTORE",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    ("ZADD", Rule::Told(scored)),
    (
        "ZINCRBY",
        Rule::Told(|ctx, args| scores(ctx, args.at(1), &[args.at(3)])),
    ),
    ("ZREM", Rule::Same),
    (
        "ZRANGESTORE",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    ("ZREMRANGEBYRANK", Rule::Itself),
    ("ZREMRANGEBYSCORE", Rule::Itself),
    ("ZREMRANGEBYLEX", Rule::Itself),
    ("ZPOPMIN", Rule::Itself),
    ("ZPOPMAX", Rule::Itself),
    ("ZMPOP", Rule::Itself),
    ("BZPOPMIN", Rule::Itself),
    ("BZPOPMAX", Rule::Itself),
    ("BZMPOP", Rule::Itself),
    (
        "ZUNIONSTORE",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    (
        "ZINTERSTORE",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    ("ZDIFFSTORE", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    ("GEOADD", Rule::Told(placed)),
    (
        "GEOSEARCHSTORE",
        Rule::Told(|ctx, args| whole(ctx, args.at(1))),
    ),
    (
        "GEORADIUS",
        Rule::Told(|ctx, args| targets(ctx, args, Keys::GeoStore { first: 1 })),
    ),
    (
        "GEORADIUSBYMEMBER",
        Rule::Told(|ctx, args| targets(ctx, args, Keys::GeoStore { first: 1 })),
    ),
    ("PFADD", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    ("PFCOUNT", Rule::Itself),
    ("PFDEBUG", Rule::Told(|ctx, args| whole(ctx, args.at(2)))),
    ("PFMERGE", Rule::Told(|ctx, args| whole(ctx, args.at(1)))),
    ("XADD", Rule::Itself),
    ("XDEL", Rule::Same),
    ("XTRIM", Rule::Told(|ctx, args| trimmed(ctx, args.at(1)))),
    ("XSETID", Rule::Same),
    ("XREADGROUP", Rule::Itself),
    ("XACK", Rule::Same),
    ("XCLAIM", Rule::Itself),
    ("XAUTOCLAIM", Rule::Itself),
    ("XGROUP", Rule::Told(groups)),
    ("XINTERNAL.CONSUMERSEEN", Rule::Same),
    ("XINTERNAL.PENDING", Rule::Same),
    // It is ignored.
    ("XINTERNAL.CATALOG", Rule::Itself),
];

/// Records a command that not every peer knows, or where such a one follows its key as it is now.
pub(in crate::cmd) fn newer<'a>(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    words: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) {
    if let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) {
        match writer.is_plain() {
            true => replace(keys, key, ctx.now, &mut writer),
            false => writer.special(words),
        }
    }
}

/// APPEND. Peers there are that do not append to what looks like a number; that is short.
fn appended(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let (key, added) = (args.at(1), args.at(2));
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) else {
        return;
    };
    let value = keys.glance(key, ctx.now);
    let was_number = value.is_some_and(|value| {
        let value = value.as_bytes();
        parse_i64(&value[..value.len().saturating_sub(added.len())]).is_some()
    });
    match was_number {
        true => replace(keys, key, ctx.now, &mut writer),
        false => writer.frame(named("APPEND", args)),
    }
}

/// The key went.
fn gone(ctx: &mut Ctx<'_>, key: &[u8]) {
    ctx.shards.record(ctx.db, key, [b"DEL", key].into_iter());
}

/// The key is another one than before, or went.
fn whole(ctx: &mut Ctx<'_>, key: &[u8]) {
    whole_in(ctx, ctx.db, key);
}

fn whole_in(ctx: &mut Ctx<'_>, db: usize, key: &[u8]) {
    if let Some((keys, mut writer)) = ctx.shards.writer(db, key) {
        replace(keys, key, ctx.now, &mut writer);
    }
}

/// The key has another deadline or none, or it went because that had passed.
fn deadline(ctx: &mut Ctx<'_>, key: &[u8]) {
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) else {
        return;
    };
    match keys.meta(key, ctx.now).map(|meta| meta.deadline) {
        None => writer.say([b"DEL", key]),
        Some(None) => writer.say([b"PERSIST", key]),
        Some(due) => expire_at(due, key, &mut writer),
    }
}

fn set(ctx: &mut Ctx<'_>, args: Args<'_>) {
    match args.len() {
        3 => record_as(ctx, "SET", args),
        _ => whole(ctx, args.at(1)),
    }
}

/// Each key of MSET is an effect of its own.
fn pairs(ctx: &mut Ctx<'_>, args: Args<'_>) {
    for at in (1..args.len()).step_by(2) {
        let words = [b"SET", args.at(at), args.at(at + 1)];
        ctx.shards.record(ctx.db, args.at(at), words.into_iter());
    }
}

fn renamed(ctx: &mut Ctx<'_>, args: Args<'_>) {
    gone(ctx, args.at(1));
    whole(ctx, args.at(2));
}

fn copied(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let mut db = ctx.db;
    for at in 3..args.len() {
        if args[at].eq_ignore_ascii_case(b"db") {
            db = database(args, at + 1).unwrap_or(db);
        }
    }
    whole_in(ctx, db, args.at(2));
}

fn moved_over(ctx: &mut Ctx<'_>, args: Args<'_>) {
    gone(ctx, args.at(1));
    whole_in(ctx, database(args, 2).unwrap_or(ctx.db), args.at(1));
}

/// The number of a database, which the command has checked.
fn database(args: Args<'_>, at: usize) -> Option<usize> {
    usize::try_from(parse_i64(args.get(at)?)?).ok()
}

/// The keys behind the first one that something may have been stored in.
fn targets(ctx: &mut Ctx<'_>, args: Args<'_>, keys: Keys) {
    keys.for_each(args, |at| {
        if at > 1 {
            whole(ctx, args.at(at));
        }
    });
}

/// The fields behind the word FIELDS and their number.
fn named_fields(args: Args<'_>) -> Args<'_> {
    let mut at = 2;
    while args
        .get(at)
        .is_some_and(|word| !word.eq_ignore_ascii_case(b"fields"))
    {
        at += 1;
    }
    args.rest(at + 2)
}

/// Fields have other deadlines or none, or went.
fn fields_expired(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let fields: Vec<&[u8]> = named_fields(args).iter().collect();
    fields_changed(ctx, args.at(1), &fields, false);
}

fn fields_set_expiring(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let fields: Vec<&[u8]> = named_fields(args).iter().step_by(2).collect();
    fields_set(ctx, args.at(1), &fields);
}

/// Fields have other values, and perhaps deadlines, or went.
fn fields_set(ctx: &mut Ctx<'_>, key: &[u8], fields: &[&[u8]]) {
    fields_changed(ctx, key, fields, true);
}

/// A kevy takes the deadline off a field that it adds to.
fn field_added(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let (key, field) = (args.at(1), args.at(2));
    let now = ctx.now;
    let hash = ctx.keys(key).get::<Hash>(key, now);
    match hash.is_ok_and(|hash| hash.is_some_and(|hash| hash.deadline(field).is_some())) {
        true => fields_set(ctx, key, &[field]),
        false => ctx.shards.record(ctx.db, key, named("HINCRBY", args)),
    }
}

fn fields_changed(ctx: &mut Ctx<'_>, key: &[u8], fields: &[&[u8]], were_set: bool) {
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) else {
        return;
    };
    let Ok(Some(hash)) = keys.get::<Hash>(key, ctx.now) else {
        return writer.say([b"DEL", key]);
    };
    if were_set {
        let mut batch = Batch::new(&mut writer, &[b"HSET", key], &[]);
        for field in fields {
            if let Some(value) = hash.get(field) {
                batch.push(&[field, value]);
            }
        }
        batch.end();
    }
    let mut batch = Batch::new(&mut writer, &[b"HDEL", key], &[]);
    for field in fields.iter().filter(|field| !hash.contains(field)) {
        batch.push(&[field]);
    }
    batch.end();
    let mut due: Vec<_> = fields
        .iter()
        .filter(|field| hash.contains(field))
        .map(|field| (hash.deadline(field), *field))
        // HSET has taken the deadline away.
        .filter(|(deadline, _)| !were_set || deadline.is_some())
        .collect();
    due.sort_by_key(|(deadline, _)| *deadline);
    for alike in due.chunk_by(|one, other| one.0 == other.0) {
        let names: Vec<&[u8]> = alike.iter().map(|(_, field)| *field).collect();
        expire_fields(alike[0].0, key, &names, &mut writer);
    }
}

fn end(word: &[u8]) -> End {
    match word.eq_ignore_ascii_case(b"left") {
        true => End::Left,
        false => End::Right,
    }
}

/// An element went from one end of a list to one of another, where it still is.
fn moved(ctx: &mut Ctx<'_>, args: Args<'_>, from: End, to: End) {
    let (source, target) = (args.at(1), args.at(2));
    popped(ctx, source, from, 1);
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, target) else {
        return;
    };
    let verb: &[u8] = match to {
        End::Left => b"LPUSH",
        End::Right => b"RPUSH",
    };
    let list = keys.get::<List>(target, ctx.now).unwrap_or_default();
    if let Some(element) = list.and_then(|list| list.peek(to)) {
        writer.say([verb, target, element.as_bytes()]);
    }
}

/// Records that so many elements went from an end of a list.
pub(in crate::cmd) fn popped(ctx: &mut Ctx<'_>, key: &[u8], end: End, count: usize) {
    let verb: &[u8] = match end {
        End::Left => b"LPOP",
        End::Right => b"RPOP",
    };
    if let Some((_, mut writer)) = ctx.shards.writer(ctx.db, key) {
        match count {
            1 => writer.say([verb, key]),
            _ => writer.say([verb, key, itoa::Buffer::new().format(count).as_bytes()]),
        }
    }
}

fn member_moved(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let (from, to, member) = (args.at(1), args.at(2), args.at(3));
    ctx.shards
        .record(ctx.db, from, [b"SREM", from, member].into_iter());
    ctx.shards
        .record(ctx.db, to, [b"SADD", to, member].into_iter());
}

/// Records that members went, by the command that removes them; or the key, if it went with them.
pub(in crate::cmd) fn removed<'m>(
    ctx: &mut Ctx<'_>,
    verb: &[u8],
    key: &[u8],
    members: impl Iterator<Item = &'m [u8]>,
) {
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) else {
        return;
    };
    if keys.meta(key, ctx.now).is_none() {
        return writer.say([b"DEL", key]);
    }
    let mut batch = Batch::new(&mut writer, &[verb, key], &[]);
    members.for_each(|member| batch.push(&[member]));
    batch.end();
}

/// ZADD. What its options let happen shows in the scores.
fn scored(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let first = behind_options(args, &["nx", "xx", "gt", "lt", "ch", "incr"]);
    if first == 2 {
        return record_as(ctx, "ZADD", args);
    }
    let members: Vec<&[u8]> = args.rest(first + 1).iter().step_by(2).collect();
    scores(ctx, args.at(1), &members);
}

/// GEOADD.
fn placed(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let first = behind_options(args, &["nx", "xx", "ch"]);
    let members: Vec<&[u8]> = args.rest(first + 2).iter().step_by(3).collect();
    scores(ctx, args.at(1), &members);
}

fn behind_options(args: Args<'_>, options: &[&str]) -> usize {
    let is_option = |word: &&[u8]| {
        options
            .iter()
            .any(|option| word.eq_ignore_ascii_case(option.as_bytes()))
    };
    2 + args.rest(2).iter().take_while(is_option).count()
}

/// Members may have other scores.
fn scores(ctx: &mut Ctx<'_>, key: &[u8], members: &[&[u8]]) {
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) else {
        return;
    };
    let Ok(Some(zset)) = keys.get::<Zset>(key, ctx.now) else {
        return;
    };
    let mut batch = Batch::new(&mut writer, &[b"ZADD", key], &[]);
    for member in members {
        if let Some(score) = zset.score(member) {
            batch.push(&[format_f64(score).as_bytes(), member]);
        }
    }
    batch.end();
}

/// The oldest entries of a stream went, up to those that are there now.
pub(in crate::cmd) fn trimmed(ctx: &mut Ctx<'_>, key: &[u8]) {
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) else {
        return;
    };
    let stream = keys.get::<Stream>(key, ctx.now).unwrap_or_default();
    match stream.and_then(|stream| stream.log().first()) {
        Some(first) => first
            .id
            .with_text(|id| writer.say([b"XTRIM", key, b"MINID", id])),
        None => writer.say([b"XTRIM", key, b"MAXLEN", b"0"]),
    }
}

/// XGROUP.
fn groups(ctx: &mut Ctx<'_>, args: Args<'_>) {
    let key = args.at(2);
    let option = |at: usize, name: &str| {
        let word = args.get(at);
        word.is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    if (5..7).any(|at| option(at, "entriesread"))
        && let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key)
        && let Ok(Some(stream)) = keys.get::<Stream>(key, ctx.now)
        && let Some(group) = stream.group(args.at(3))
    {
        // That makes the stream too, where it was not there.
        if (5..8).any(|at| option(at, "mkstream")) {
            writer.say([b"XGROUP", b"CREATE", key, args.at(3), b"0", b"MKSTREAM"]);
            return group_at(b"SETID", key, (args.at(3), group), &mut writer);
        }
        return group_at(args.at(1), key, (args.at(3), group), &mut writer);
    }
    ctx.shards.record(ctx.db, key, named("XGROUP", args));
    if args[1].eq_ignore_ascii_case(b"createconsumer")
        && let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key)
        && let Ok(Some(stream)) = keys.get::<Stream>(key, ctx.now)
        && let Some(group) = stream.group(args.at(3))
        && let Some(number) = group.find(args.at(4))
    {
        seen(key, args.at(3), group.consumer(number), &mut writer);
    }
}

/// What a consumer of a group did.
pub(in crate::cmd) struct GroupChange<'a> {
    pub group: &'a [u8],
    pub consumer: &'a [u8],
    /// The consumer was made for it.
    pub is_new: bool,
    /// The group has come further.
    pub has_moved: bool,
    entries: Vec<StreamId>,
    is_recorded: bool,
}

impl<'a> GroupChange<'a> {
    /// Nothing yet, for a consumer that may have to be made.
    pub fn new(group: &'a [u8], consumer: &'a [u8], found: &Group, is_recorded: bool) -> Self {
        Self {
            group,
            consumer,
            is_new: found.find(consumer).is_none(),
            has_moved: false,
            entries: Vec::new(),
            is_recorded,
        }
    }

    /// The entry is pending in another way than before, or no longer.
    pub fn note(&mut self, entry: StreamId) {
        if self.is_recorded {
            self.entries.push(entry);
        }
    }
}

/// Records what a consumer of a group did.
pub(in crate::cmd) fn group_changed(ctx: &mut Ctx<'_>, key: &[u8], change: &GroupChange<'_>) {
    let name = change.group;
    let Some((keys, mut writer)) = ctx.shards.writer(ctx.db, key) else {
        return;
    };
    let Ok(Some(stream)) = keys.get::<Stream>(key, ctx.now) else {
        return;
    };
    let Some(group) = stream.group(name) else {
        return;
    };
    if change.has_moved {
        group_at(b"SETID", key, (name, group), &mut writer);
    }
    if change.is_new {
        writer.say([b"XGROUP", b"CREATECONSUMER", key, name, change.consumer]);
    }
    acknowledged(key, (name, group), &change.entries, &mut writer);
    let ids = change.entries.iter().copied();
    pending(stream, key, (name, group), ids, &mut writer);
    if let Some(number) = group.find(change.consumer) {
        seen(key, name, group.consumer(number), &mut writer);
    }
}

/// Those of the entries that are no longer pending.
fn acknowledged(
    key: &[u8],
    (name, group): (&[u8], &Group),
    entries: &[StreamId],
    writer: &mut Writer<'_>,
) {
    let mut batch = Batch::new(writer, &[b"XACK", key, name], &[]);
    for id in entries.iter().filter(|id| group.pending(**id).is_none()) {
        id.with_text(|id| batch.push(&[id]));
    }
    batch.end();
}
