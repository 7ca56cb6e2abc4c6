//! DUMP and RESTORE: a value as a string of bytes, and back.
//!
//! `encoding (1) | value | RDB version (2) | CRC-64 of all before it (8)`, the numbers little-endian.

use super::{Ctx, Keys, Spec, flag::*, int};
use crate::{
    base::Ms,
    rdb::{Borrowed, VERSION_MAX, crc64, read_value, write_value},
    resp::{Args, Error},
    store::{Hash, Keyspace, Kind, List, Set, Stream, WrongType, Zset},
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "DUMP",
        2,
        READ,
        Keys::one(1),
        "Returns a serialized representation of the value stored at a key",
        dump,
    ),
    Spec::store(
        "RESTORE",
        -4,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Creates a key from the serialized representation of a value",
        restore,
    ),
    Spec::store(
        "RESTORE-ASKING",
        -4,
        WRITE | DENY_OOM,
        Keys::one(1),
        "An internal command for migrating keys in a cluster",
        restore,
    ),
];

fn dump(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let keys = ctx.keys(key);
    let Some(meta) = keys.meta(key, now) else {
        ctx.out.null();
        return Ok(());
    };
    let mut text = Vec::new();
    if let Some(version) = write_key(keys, key, meta.kind, now, &mut text)? {
        text.extend(version.to_le_bytes());
        text.extend(crc64(0, &text).to_le_bytes());
    }
    ctx.out.bulk_shared(&text.into());
    Ok(())
}

/// Appends the value of a key; the version of its bytes.
fn write_key(
    keys: &mut Keyspace,
    key: &[u8],
    kind: Kind,
    now: Ms,
    text: &mut Vec<u8>,
) -> Result<Option<u16>, WrongType> {
    let mut write = |value: Borrowed<'_>| write_value(value, text);
    Ok(match kind {
        Kind::String => {
            let found = keys.string(key, now)?;
            found.map(|found| write(Borrowed::String(found.as_bytes())))
        }
        Kind::Hash => keys
            .get::<Hash>(key, now)?
            .map(|hash| write(Borrowed::Hash(hash))),
        Kind::List => keys
            .get::<List>(key, now)?
            .map(|list| write(Borrowed::List(list))),
        Kind::Set => keys
            .get::<Set>(key, now)?
            .map(|set| write(Borrowed::Set(set))),
        Kind::Zset => keys
            .get::<Zset>(key, now)?
            .map(|zset| write(Borrowed::Zset(zset))),
        Kind::Stream => {
            let stream = keys.get::<Stream>(key, now)?;
            stream.map(|stream| write(Borrowed::Stream(stream)))
        }
    })
}

const BAD_PAYLOAD: Error = Error::fixed("ERR DUMP payload version or checksum are wrong");
const BAD_DATA: Error = Error::fixed("ERR Bad data format");

fn restore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let options = Options::parse(args)?;
    let is_taken = ctx.keys(key).contains(key, now);
    if is_taken && !options.replace {
        return Err(Error::fixed("BUSYKEY Target key name already exists."));
    }
    let ttl = Ms::try_from(int(args, 2)?)
        .map_err(|_| Error::fixed("ERR Invalid TTL value, must be >= 0"))?;
    let (kind, mut rest) = value_of(args.at(3))?;
    let value = read_value(kind, &mut rest).map_err(|_| BAD_DATA)?;
    let deadline = match ttl {
        0 => None,
        ttl if options.absolute => Some(ttl),
        ttl => Some(now.saturating_add(ttl).min(i64::MAX as Ms)),
    };
    let keys = ctx.keys(key);
    if deadline.is_some_and(|deadline| deadline <= now) {
        // It would be gone already.
        if keys.remove(key, now) {
            ctx.changed();
        }
    } else {
        keys.insert(key, value, deadline);
        if let Some(secs) = options.idle_secs {
            keys.set_idle(key, secs, now);
        }
        ctx.changed();
    }
    ctx.out.ok();
    Ok(())
}

/// The encoding and the bytes of a value whose version and checksum are right.
fn value_of(text: &[u8]) -> Result<(u8, &[u8]), Error> {
    let (text, sum) = text.split_last_chunk::<8>().ok_or(BAD_PAYLOAD)?;
    let (body, version) = text.split_last_chunk::<2>().ok_or(BAD_PAYLOAD)?;
    if u16::from_le_bytes(*version) > VERSION_MAX || u64::from_le_bytes(*sum) != crc64(0, text) {
        return Err(BAD_PAYLOAD);
    }
    let (kind, value) = body.split_first().ok_or(BAD_DATA)?;
    Ok((*kind, value))
}

#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
    idle_secs: Option<u64>,
}

impl Options {
    fn parse(args: Args<'_>) -> Result<Self, Error> {
        let mut options = Options::default();
        let (mut has_freq, mut at) = (false, 4);
        while let Some(word) = args.get(at) {
            let has_operand = at + 1 < args.len();
            match word.to_ascii_lowercase().as_slice() {
                b"replace" => options.replace = true,
                b"absttl" => options.absolute = true,
                b"idletime" if has_operand && !has_freq => {
                    let idle = u64::try_from(int(args, at + 1)?)
                        .map_err(|_| Error::fixed("ERR Invalid IDLETIME value, must be >= 0"))?;
                    options.idle_secs = Some(idle);
                    at += 1;
                }
                // Checked and without effect: how often a key is used is not counted.
                b"freq" if has_operand && options.idle_secs.is_none() => {
                    if !(0..=255).contains(&int(args, at + 1)?) {
                        return Err(Error::fixed(
                            "ERR Invalid FREQ value, must be >= 0 and <= 255",
                        ));
                    }
                    has_freq = true;
                    at += 1;
                }
                _ => return Err(Error::SYNTAX),
            }
            at += 1;
        }
        Ok(options)
    }
}
