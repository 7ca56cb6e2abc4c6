//! Cursors and options that the SCAN family shares.

use super::{Ctx, int};
use crate::{
    base::glob_match,
    resp::{Args, Error, Out},
};

/// Reads a cursor argument. As with the C library's function behind other servers, a negative number
/// counts back from the largest one, which is behind the end of everything.
///
/// # Errors
/// [`Error::INVALID_CURSOR`].
pub(super) fn cursor(text: &[u8]) -> Result<u64, Error> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        _ => (false, text),
    };
    if text.is_empty() {
        return Ok(0);
    }
    if digits.is_empty() {
        return Err(Error::INVALID_CURSOR);
    }
    let mut value = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Error::INVALID_CURSOR);
        }
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add((digit - b'0').into()))
            .ok_or(Error::INVALID_CURSOR)?;
    }
    Ok(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// What follows the cursor.
pub(super) struct Options<'a> {
    /// Only what matches is shown.
    pattern: Option<&'a [u8]>,
    /// About how many elements to visit.
    pub count: usize,
    /// HSCAN only: fields without their values.
    pub no_values: bool,
}

impl<'a> Options<'a> {
    /// Reads `MATCH pattern`, `COUNT n` and, where allowed, `NOVALUES` from argument `from` on.
    ///
    /// # Errors
    /// Syntax, or a COUNT that is no positive number.
    pub fn parse(args: Args<'a>, from: usize, values: bool) -> Result<Self, Error> {
        let mut options = Options {
            pattern: None,
            count: 10,
            no_values: false,
        };
        let mut at = from;
        while let Some(word) = args.get(at) {
            if word.eq_ignore_ascii_case(b"novalues") && values {
                options.no_values = true;
                at += 1;
                continue;
            }
            let operand = args.get(at + 1).ok_or(Error::SYNTAX)?;
            if word.eq_ignore_ascii_case(b"count") {
                let count = int(args, at + 1)?;
                // More than fits in one reply is no use to anybody.
                options.count = usize::try_from(count).map_err(|_| Error::SYNTAX)?;
                if options.count == 0 {
                    return Err(Error::SYNTAX);
                }
            } else if word.eq_ignore_ascii_case(b"match") {
                options.pattern = (operand != b"*").then_some(operand);
            } else {
                return Err(Error::SYNTAX);
            }
            at += 2;
        }
        Ok(options)
    }

    /// Is this element asked for?
    pub fn shows(&self, text: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob_match(pattern, text))
    }
}

/// The elements of a reply whose cursor and number are known only at the end.
pub(super) struct Found {
    items: Out,
    count: usize,
}

impl Found {
    /// None yet.
    pub fn new(ctx: &Ctx<'_>) -> Self {
        Self {
            items: Out::new(ctx.out.proto),
            count: 0,
        }
    }

    /// Appends one.
    pub fn push(&mut self, text: &[u8]) {
        self.items.bulk(text);
        self.count += 1;
    }

    /// Writes the whole reply.
    pub fn finish(mut self, out: &mut Out, cursor: u64) {
        out.array(2);
        let mut digits = itoa::Buffer::new();
        out.bulk(digits.format(cursor).as_bytes());
        out.array(self.count);
        out.append(&mut self.items);
    }
}
