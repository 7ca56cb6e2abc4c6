//! DUMP and RESTORE: a value as a string of bytes, and back.
//!
//! `encoding (1) | value | RDB version (2) | CRC-64 of all before it (8)`, the numbers little-endian.

use super::{Ctx, Keys, Spec, flag::*, int};
use crate::{
    base::Ms,
    rdb::{VERSION_MAX, borrow_value, crc64, read_value, write_value},
    resp::{Args, Error},
    store::Used,
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
    let Some(value) = borrow_value(ctx.keys(key), key, now) else {
        ctx.out.null();
        return Ok(());
    };
    let mut text = Vec::new();
    let version = write_value(value, &mut text);
    text.extend(version.to_le_bytes());
    text.extend(crc64(0, &text).to_le_bytes());
    ctx.out.bulk_shared(&text.into());
    Ok(())
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
    if deadline.is_some_and(|deadline| deadline <= keys.over_by(now)) {
        // It would be gone already.
        if keys.remove(key, now) {
            ctx.changed();
        }
    } else {
        keys.insert(key, value, deadline);
        if let Some(used) = options.used {
            keys.set_used(key, used, now);
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
    used: Option<Used>,
}

impl Options {
    fn parse(args: Args<'_>) -> Result<Self, Error> {
        let mut options = Options::default();
        let mut at = 4;
        while let Some(word) = args.get(at) {
            let has_operand = at + 1 < args.len();
            match word.to_ascii_lowercase().as_slice() {
                b"replace" => options.replace = true,
                b"absttl" => options.absolute = true,
                b"idletime" if has_operand && !matches!(options.used, Some(Used::Counted(_))) => {
                    at += 1;
                    let secs = u64::try_from(int(args, at)?)
                        .map_err(|_| Error::fixed("ERR Invalid IDLETIME value, must be >= 0"))?;
                    options.used = Some(Used::SecsAgo(secs));
                }
                b"freq" if has_operand && !matches!(options.used, Some(Used::SecsAgo(_))) => {
                    at += 1;
                    let counter = u8::try_from(int(args, at)?).map_err(|_| {
                        Error::fixed("ERR Invalid FREQ value, must be >= 0 and <= 255")
                    })?;
                    options.used = Some(Used::Counted(counter));
                }
                _ => return Err(Error::SYNTAX),
            }
            at += 1;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use crate::cmd::testing::Desk;

    fn dumped(desk: &mut Desk, key: &str) -> Vec<u8> {
        let reply = desk.send(&[b"DUMP", key.as_bytes()]);
        let start = reply
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        reply[start..reply.len() - 2].to_vec()
    }

    #[test]
    fn values_come_back_with_deadline_and_use() {
        let mut desk = Desk::with_shards(3);
        desk.say("RPUSH l a b 3");
        let payload = dumped(&mut desk, "l");
        for (args, want) in [
            (&["m", "5000"][..], "+OK"),
            (&["m", "0"], "-BUSYKEY Target key name already exists."),
            (&["m", "0", "REPLACE", "IDLETIME", "77"], "+OK"),
            (&["n", "1000000007000", "ABSTTL"], "+OK"),
            (&["past", "1", "ABSTTL"], "+OK"),
            (&["n", "1", "ABSTTL", "REPLACE"], "+OK"),
            (&["o", "-1"], "-ERR Invalid TTL value, must be >= 0"),
        ] {
            let mut line: Vec<&[u8]> = vec![b"RESTORE"];
            line.extend(args[..2].iter().map(|arg| arg.as_bytes()));
            line.push(&payload);
            line.extend(args[2..].iter().map(|arg| arg.as_bytes()));
            let reply = desk.send(&line);
            assert_eq!(String::from_utf8_lossy(&reply).trim_end(), want, "{args:?}");
        }
        assert_eq!(desk.say("OBJECT IDLETIME m"), ":77");
        assert_eq!(desk.say("PTTL m"), ":-1");
        assert_eq!(desk.say("LRANGE m 0 -1"), "*3 $1 a $1 b $1 3");
        assert_eq!(desk.say("EXISTS n past o"), ":0");
    }

    #[test]
    fn a_payload_with_one_wrong_bit_is_refused() {
        let mut desk = Desk::with_shards(1);
        desk.say("SET s hello");
        let payload = dumped(&mut desk, "s");
        for at in 0..payload.len() * 8 {
            let mut wrong = payload.clone();
            wrong[at / 8] ^= 1 << (at % 8);
            let reply = desk.send(&[b"RESTORE", b"t", b"0", &wrong]);
            assert_eq!(
                reply,
                b"-ERR DUMP payload version or checksum are wrong\r\n"
            );
        }
    }
}
