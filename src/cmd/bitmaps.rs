//! Commands on the bits of strings. Bit 0 is the highest bit of the first byte.

use super::{Ctx, Keys, Spec, flag::*, int, strings::STRING_MAX, strings::take_bytes};
use crate::{
    base::parse_i64,
    resp::{Args, Error},
    store::Str,
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "BITCOUNT",
        -2,
        READ,
        Keys::one(1),
        "Counts the bits that are set in a string or a part of it",
        bitcount,
    ),
    Spec::store(
        "BITFIELD",
        -2,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Reads and changes integers of any width inside a string",
        bitfield,
    ),
    Spec::store(
        "BITFIELD_RO",
        -2,
        READ | FAST,
        Keys::one(1),
        "Reads integers of any width inside a string",
        bitfield_ro,
    ),
    Spec::store(
        "BITOP",
        -4,
        WRITE | DENY_OOM,
        Keys::range(2, -1),
        "Combines strings bit by bit and stores the result",
        bitop,
    ),
    Spec::store(
        "BITPOS",
        -3,
        READ,
        Keys::one(1),
        "Finds the first bit of a string that is set or clear",
        bitpos,
    ),
    Spec::store(
        "GETBIT",
        3,
        READ | FAST,
        Keys::one(1),
        "Returns one bit of a string",
        getbit,
    ),
    Spec::store(
        "SETBIT",
        4,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Sets or clears one bit of a string and returns what it was",
        setbit,
    ),
];

const BAD_OFFSET: Error = Error::fixed("ERR bit offset is not an integer or out of range");

/// The place of a bit: `n`, or `#n` as the number of a field that is `width` bits wide.
fn offset(text: &[u8], width: Option<u32>) -> Result<u64, Error> {
    let (text, factor) = match (text, width) {
        ([b'#', number @ ..], Some(width)) => (number, u64::from(width)),
        _ => (text, 1),
    };
    parse_i64(text)
        .and_then(|number| u64::try_from(number).ok())
        .and_then(|number| number.checked_mul(factor))
        .filter(|at| at / 8 < STRING_MAX as u64)
        .ok_or(BAD_OFFSET)
}

fn getbit(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let at = offset(args.at(2), None)?;
    let value = ctx.keys(key).string(key, now)?;
    let set = value.is_some_and(|value| bit(value.as_bytes(), at as usize));
    ctx.out.flag(set);
    Ok(())
}

fn bit(text: &[u8], at: usize) -> bool {
    text.get(at / 8)
        .is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1)
}

fn setbit(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let at = offset(args.at(2), None)? as usize;
    let on = match args.at(3) {
        b"0" => false,
        b"1" => true,
        _ => return Err(Error::fixed("ERR bit is not an integer or out of range")),
    };
    let (old, grew) = ctx.keys(key).update_string(key, now, |text| {
        let grew = text.len() <= at / 8;
        if grew {
            text.resize(at / 8 + 1, 0);
        }
        let old = bit(text, at);
        let mask = 0x80 >> (at % 8);
        if on {
            text[at / 8] |= mask;
        } else {
            text[at / 8] &= !mask;
        }
        (old, grew)
    })?;
    if grew || old != on {
        ctx.changed();
    }
    ctx.out.flag(old);
    Ok(())
}

/// A range of bits, the last one included.
struct Bits {
    first: u64,
    last: u64,
}

impl Bits {
    /// Reads `start [end [BYTE|BIT]]` at argument `from` for a string of `len` bytes; nothing where
    /// the range is empty.
    fn parse(args: Args<'_>, from: usize, len: usize) -> Result<Option<Bits>, Error> {
        let start = int(args, from)?;
        let end = match args.get(from + 1) {
            Some(_) => int(args, from + 1)?,
            None => -1,
        };
        let by_bit = Self::by_bit(args, from)?;
        let len = if by_bit { len as i64 * 8 } else { len as i64 };
        let from_end = |at: i64| if at < 0 { (len + at).max(0) } else { at };
        let (start, end) = (from_end(start), from_end(end).min(len - 1));
        if start > end {
            return Ok(None);
        }
        let (start, end) = (start as u64, end as u64);
        Ok(Some(if by_bit {
            Bits {
                first: start,
                last: end,
            }
        } else {
            Bits {
                first: start * 8,
                last: end * 8 + 7,
            }
        }))
    }

    fn by_bit(args: Args<'_>, from: usize) -> Result<bool, Error> {
        match args.get(from + 2) {
            None => Ok(false),
            Some(unit) if unit.eq_ignore_ascii_case(b"bit") => Ok(true),
            Some(unit) if unit.eq_ignore_ascii_case(b"byte") => Ok(false),
            Some(_) => Err(Error::SYNTAX),
        }
    }

    fn whole(len: usize) -> Option<Bits> {
        (len > 0).then(|| Bits {
            first: 0,
            last: len as u64 * 8 - 1,
        })
    }
}

fn bitcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    if args.len() == 3 || args.len() > 5 {
        // Reported before anything is looked at, as is a range that cannot be read.
        return Err(Error::SYNTAX);
    }
    if args.len() > 3 {
        Bits::parse(args, 2, 0)?;
    }
    let value = ctx.shards.of(ctx.db, key).string(key, now)?;
    let text = value.as_ref().map_or(&[][..], Str::as_bytes);
    let bits = if args.len() == 2 {
        Bits::whole(text.len())
    } else if (int(args, 3)?.saturating_add(1)..0).contains(&int(args, 2)?) {
        // Both from the end and in the wrong order: empty even where both are before the start,
        // which BITPOS takes for the first bit.
        None
    } else {
        Bits::parse(args, 2, text.len())?
    };
    ctx.out
        .int(bits.map_or(0, |bits| count(text, &bits)) as i64);
    Ok(())
}

fn count(text: &[u8], bits: &Bits) -> u64 {
    let (first, last) = ((bits.first / 8) as usize, (bits.last / 8) as usize);
    let bytes = &text[first..=last];
    let mut words = bytes.chunks_exact(8);
    let mut ones: u64 = words
        .by_ref()
        .map(|word| word.try_into().map_or(0, u64::from_ne_bytes).count_ones())
        .map(u64::from)
        .sum();
    ones += words
        .remainder()
        .iter()
        .map(|byte| u64::from(byte.count_ones()))
        .sum::<u64>();
    let before = text[first] & !(0xff_u8 >> (bits.first % 8));
    let behind = text[last] & (0x7f_u8 >> (bits.last % 8));
    ones - u64::from(before.count_ones()) - u64::from(behind.count_ones())
}

fn bitpos(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let (key, now) = (args.at(1), ctx.now);
    let wanted = match int(args, 2)? {
        0 => false,
        1 => true,
        _ => return Err(Error::fixed("ERR The bit argument must be 1 or 0.")),
    };
    if args.len() > 6 {
        return Err(Error::SYNTAX);
    }
    if args.len() > 3 {
        // The unit is looked at before the end.
        int(args, 3)?;
        Bits::by_bit(args, 3)?;
        Bits::parse(args, 3, 0)?;
    }
    let value = ctx.shards.of(ctx.db, key).string(key, now)?;
    let Some(value) = value else {
        // An absent string is all zeros and has no end.
        ctx.out.int(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let text = value.as_bytes();
    let bits = if args.len() > 3 {
        Bits::parse(args, 3, text.len())?
    } else {
        Bits::whole(text.len())
    };
    let Some(bits) = bits else {
        ctx.out.int(-1);
        return Ok(());
    };
    let found = find(text, &bits, wanted);
    // Without an end the string goes on with zeros.
    let open = args.len() < 5 && !wanted;
    ctx.out.int(match found {
        Some(at) => at as i64,
        None if open => bits.last as i64 + 1,
        None => -1,
    });
    Ok(())
}

fn find(text: &[u8], bits: &Bits, wanted: bool) -> Option<u64> {
    let dull = if wanted { 0x00 } else { 0xff };
    let (first, last) = ((bits.first / 8) as usize, (bits.last / 8) as usize);
    let mut at = first;
    while at <= last {
        let byte = text[at];
        if byte != dull {
            for bit in 0..8 {
                let place = at as u64 * 8 + bit;
                let set = byte >> (7 - bit) & 1 == 1;
                if set == wanted && place >= bits.first && place <= bits.last {
                    return Some(place);
                }
            }
        }
        at += 1;
        // Whole words of nothing are passed at once.
        while at + 8 <= last && text[at..at + 8] == [dull; 8] {
            at += 8;
        }
    }
    None
}

/// What BITOP does with its sources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Combine {
    And,
    Or,
    Xor,
    Not,
}

fn bitop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let combine = match args.at(1).to_ascii_lowercase().as_slice() {
        b"and" => Combine::And,
        b"or" => Combine::Or,
        b"xor" => Combine::Xor,
        b"not" => Combine::Not,
        _ => return Err(Error::SYNTAX),
    };
    if combine == Combine::Not && args.len() != 4 {
        return Err(Error::fixed(
            "ERR BITOP NOT must be called with a single source key.",
        ));
    }
    let mut result: Vec<u8> = Vec::new();
    for (at, key) in args.rest(3).iter().enumerate() {
        let text = take_bytes(ctx, key)?.unwrap_or_default();
        if at == 0 {
            result.extend_from_slice(&text);
            continue;
        }
        // The shorter one goes on with zeros.
        if result.len() < text.len() {
            result.resize(text.len(), 0);
        }
        let (both, rest) = result.split_at_mut(text.len());
        let pairs = both.iter_mut().zip(text.iter());
        match combine {
            Combine::And => {
                pairs.for_each(|(byte, other)| *byte &= other);
                rest.fill(0);
            }
            Combine::Or => pairs.for_each(|(byte, other)| *byte |= other),
            Combine::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
            Combine::Not => {}
        }
    }
    if combine == Combine::Not {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    let (target, now) = (args.at(2), ctx.now);
    if !result.is_empty() {
        ctx.keys(target).set_string(target, &result, None);
        ctx.changed();
    } else if ctx.keys(target).remove(target, now) {
        ctx.changed();
    }
    ctx.out.len_int(result.len());
    Ok(())
}

/// An integer's width and sign.
#[derive(Clone, Copy)]
struct Width {
    signed: bool,
    bits: u32,
}

impl Width {
    fn parse(text: &[u8]) -> Result<Width, Error> {
        const BAD: Error = Error::fixed(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not \
             supported but i64 is.",
        );
        let (signed, digits, max) = match text {
            [b'i', digits @ ..] => (true, digits, 64),
            [b'u', digits @ ..] => (false, digits, 63),
            _ => return Err(BAD),
        };
        match parse_i64(digits) {
            Some(bits) if (1..=max).contains(&bits) => Ok(Width {
                signed,
                bits: bits as u32,
            }),
            _ => Err(BAD),
        }
    }

    fn min(self) -> i128 {
        if self.signed {
            -(1 << (self.bits - 1))
        } else {
            0
        }
    }

    fn max(self) -> i128 {
        if self.signed {
            (1 << (self.bits - 1)) - 1
        } else {
            (1 << self.bits) - 1
        }
    }

    /// The value that the lowest bits of `value` mean.
    fn wrap(self, value: i128) -> i64 {
        let low = value & ((1 << self.bits) - 1);
        (if low > self.max() {
            low - (1 << self.bits)
        } else {
            low
        }) as i64
    }

    fn read(self, text: &[u8], at: u64) -> i64 {
        let mut value = 0i128;
        for place in at..at + u64::from(self.bits) {
            value = value << 1 | i128::from(bit(text, place as usize));
        }
        self.wrap(value)
    }

    fn write(self, text: &mut [u8], at: u64, value: i64) {
        for step in 0..self.bits {
            let place = (at + u64::from(step)) as usize;
            let mask = 0x80 >> (place % 8);
            if value >> (self.bits - 1 - step) & 1 == 1 {
                text[place / 8] |= mask;
            } else {
                text[place / 8] &= !mask;
            }
        }
    }

    /// Bytes that the string needs for an integer at bit `at`.
    fn reach(self, at: u64) -> usize {
        ((at + u64::from(self.bits) - 1) / 8 + 1) as usize
    }
}

/// What happens to a value that does not fit.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

impl Overflow {
    fn fit(self, width: Width, value: i128) -> Option<i64> {
        if (width.min()..=width.max()).contains(&value) {
            return Some(value as i64);
        }
        match self {
            Overflow::Wrap => Some(width.wrap(value)),
            Overflow::Saturate => Some(value.clamp(width.min(), width.max()) as i64),
            Overflow::Fail => None,
        }
    }
}

/// One step of BITFIELD.
struct Step {
    width: Width,
    at: u64,
    action: Action,
}

enum Action {
    Get,
    Set(i64, Overflow),
    Add(i64, Overflow),
}

fn steps(args: Args<'_>, read_only: bool) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut at = 2;
    while let Some(word) = args.get(at) {
        let word = word.to_ascii_lowercase();
        let left = args.len() - at - 1;
        let operands = match word.as_slice() {
            b"get" if left >= 2 => 2,
            b"set" | b"incrby" if left >= 3 => 3,
            b"overflow" if left >= 1 => {
                overflow = match args.at(at + 1).to_ascii_lowercase().as_slice() {
                    b"wrap" => Overflow::Wrap,
                    b"sat" => Overflow::Saturate,
                    b"fail" => Overflow::Fail,
                    _ => return Err(Error::fixed("ERR Invalid OVERFLOW type specified")),
                };
                at += 2;
                continue;
            }
            _ => return Err(Error::SYNTAX),
        };
        let width = Width::parse(args.at(at + 1))?;
        let place = offset(args.at(at + 2), Some(width.bits))?;
        let action = match word.as_slice() {
            b"get" => Action::Get,
            b"set" => Action::Set(int(args, at + 3)?, overflow),
            _ => Action::Add(int(args, at + 3)?, overflow),
        };
        steps.push(Step {
            width,
            at: place,
            action,
        });
        at += operands + 1;
    }
    if read_only && steps.iter().any(|step| !matches!(step.action, Action::Get)) {
        return Err(Error::fixed(
            "ERR BITFIELD_RO only supports the GET subcommand",
        ));
    }
    Ok(steps)
}

fn bitfield_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let steps = steps(args, true)?;
    read_fields(ctx, args.at(1), &steps)
}

fn bitfield(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let steps = steps(args, false)?;
    let (key, now) = (args.at(1), ctx.now);
    let reach = steps
        .iter()
        .filter(|step| !matches!(step.action, Action::Get))
        .map(|step| step.width.reach(step.at))
        .max();
    let Some(reach) = reach else {
        return read_fields(ctx, key, &steps);
    };
    let out = &mut *ctx.out;
    let changed = ctx.shards.of(ctx.db, key).update_string(key, now, |text| {
        let mut changed = text.len() < reach;
        if changed {
            text.resize(reach, 0);
        }
        out.array(steps.len());
        for step in &steps {
            let old = step.width.read(text, step.at);
            let (answer, new) = match step.action {
                Action::Get => (Some(old), None),
                // As elsewhere, an unsigned field takes a negative value as a very large one.
                Action::Set(value, overflow) if step.width.signed => {
                    let new = overflow.fit(step.width, value.into());
                    (new.map(|_| old), new)
                }
                Action::Set(value, overflow) => {
                    let new = overflow.fit(step.width, (value as u64).into());
                    (new.map(|_| old), new)
                }
                Action::Add(by, overflow) => {
                    let new = overflow.fit(step.width, i128::from(old) + i128::from(by));
                    (new, new)
                }
            };
            if let Some(new) = new {
                step.width.write(text, step.at, new);
                changed |= new != old;
            }
            match answer {
                Some(answer) => out.int(answer),
                None => out.null(),
            }
        }
        changed
    })?;
    if changed {
        ctx.changed();
    }
    Ok(())
}

fn read_fields(ctx: &mut Ctx<'_>, key: &[u8], steps: &[Step]) -> Result<(), Error> {
    let value = ctx.shards.of(ctx.db, key).string(key, ctx.now)?;
    let text = value.as_ref().map_or(&[][..], Str::as_bytes);
    ctx.out.array(steps.len());
    for step in steps {
        ctx.out.int(step.width.read(text, step.at));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Desk;

    fn check(lines: &[(&str, &str)]) {
        let mut desk = Desk::with_shards(3);
        for (line, want) in lines {
            assert_eq!(desk.say(line), *want, "{line}");
        }
    }

    #[test]
    fn bits_are_set_and_counted() {
        check(&[
            ("SETBIT k 7 1", ":0"),
            ("SETBIT k 7 1", ":1"),
            ("GETBIT k 7", ":1"),
            ("GETBIT k 100", ":0"),
            (
                "SETBIT k 4294967296 1",
                "-ERR bit offset is not an integer or out of range",
            ),
            (
                "SETBIT k -1 1",
                "-ERR bit offset is not an integer or out of range",
            ),
            ("SETBIT k 1 2", "-ERR bit is not an integer or out of range"),
            ("SET foo foobar", "+OK"),
            ("BITCOUNT foo", ":26"),
            ("BITCOUNT foo 0 0", ":4"),
            ("BITCOUNT foo 1 1 BYTE", ":6"),
            ("BITCOUNT foo 5 30 BIT", ":17"),
            ("BITCOUNT foo -2 -1", ":7"),
            ("BITCOUNT foo 0", "-ERR syntax error"),
            ("BITCOUNT foo 0 0 FOO", "-ERR syntax error"),
            ("BITCOUNT none", ":0"),
        ]);
    }

    #[test]
    fn bits_are_found() {
        let mut desk = Desk::with_shards(1);
        desk.send(&[b"SET", b"k", b"\xff\xf0\x00"]);
        for (line, want) in [
            ("BITPOS k 0", ":12"),
            ("BITPOS k 1 2", ":-1"),
            ("BITPOS k 0 0 0", ":-1"),
            ("BITPOS k 1 9 20 BIT", ":9"),
            ("BITPOS k 2", "-ERR The bit argument must be 1 or 0."),
            ("BITPOS none 0", ":0"),
            ("BITPOS none 1", ":-1"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
        desk.send(&[b"SET", b"k", b"\xff\xff\xff"]);
        assert_eq!(desk.say("BITPOS k 0"), ":24");
        assert_eq!(desk.say("BITPOS k 0 1"), ":24");
        assert_eq!(desk.say("BITPOS k 0 0 -1"), ":-1");
        desk.send(&[b"SET", b"k", &[0; 100]]);
        desk.say("SETBIT k 777 1");
        assert_eq!(desk.say("BITPOS k 1"), ":777");
    }

    #[test]
    fn strings_are_combined() {
        check(&[
            ("MSET a abc b abcdef", "+OK"),
            ("BITOP AND t a b", ":6"),
            ("GET t", "$6 abc\0\0\0"),
            ("BITOP XOR t a b", ":6"),
            ("GET t", "$6 \0\0\0def"),
            ("BITOP OR t a b", ":6"),
            (
                "BITOP NOT t a b",
                "-ERR BITOP NOT must be called with a single source key.",
            ),
            ("BITOP NOP t a", "-ERR syntax error"),
            ("BITOP OR t none", ":0"),
            ("GET t", "$-1"),
        ]);
    }

    #[test]
    fn fields_are_counters() {
        check(&[
            ("BITFIELD k INCRBY i5 100 1 GET u4 0", "*2 :1 :0"),
            ("BITFIELD c SET u8 #1 255", "*1 :0"),
            ("BITFIELD c INCRBY u8 #1 1", "*1 :0"),
            ("BITFIELD c OVERFLOW SAT INCRBY u8 0 300", "*1 :255"),
            ("BITFIELD c OVERFLOW FAIL INCRBY u8 0 1", "*1 $-1"),
            ("BITFIELD c SET i8 0 -1 GET i8 0", "*2 :-1 :-1"),
            (
                "BITFIELD c SET i64 0 -5 GET i64 0",
                "*2 :-72057594037927936 :-5",
            ),
            ("BITFIELD_RO c GET u4 0", "*1 :15"),
            (
                "BITFIELD_RO c SET u4 0 1",
                "-ERR BITFIELD_RO only supports the GET subcommand",
            ),
            ("BITFIELD c", "*0"),
            (
                "BITFIELD c OVERFLOW X",
                "-ERR Invalid OVERFLOW type specified",
            ),
            ("BITFIELD c GET u4", "-ERR syntax error"),
            (
                "BITFIELD c GET u64 0",
                "-ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not \
                 supported but i64 is.",
            ),
        ]);
    }
}
