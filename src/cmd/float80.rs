//! Sums of decimal numbers as INCRBYFLOAT and HINCRBYFLOAT make them: with the 64-bit mantissa of an
//! x87 `long double` and printed with 17 digits behind the point. Done in integers, because results
//! must be the same on every machine and the same as those of the servers that clients come from.

use std::cmp::Ordering;

/// A finite number `±mantissa × 2^exponent`, or an infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float80 {
    /// Finite.
    Finite {
        /// Below zero.
        negative: bool,
        /// Highest bit set, or zero.
        mantissa: u64,
        /// Power of two.
        exponent: i32,
    },
    /// Infinite.
    Infinite {
        /// Below zero.
        negative: bool,
    },
}

use Float80::{Finite, Infinite};

impl Float80 {
    /// Zero.
    pub const ZERO: Float80 = Finite {
        negative: false,
        mantissa: 0,
        exponent: 0,
    };

    /// Reads a decimal number: sign, digits, point, exponent; `inf` and `infinity` in any case. NaN
    /// and anything around the number are refused.
    pub fn parse(text: &[u8]) -> Option<Float80> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
            return Some(Infinite { negative });
        }
        if let [b'0', b'x' | b'X', number @ ..] = text {
            return hexadecimal(negative, number);
        }
        let split = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (number, power) = match split {
            Some(at) => (&text[..at], power_of_ten(&text[at + 1..])?),
            None => (text, 0),
        };
        let mut digits = Big::default();
        let (mut seen, mut behind, mut point) = (false, 0i32, false);
        for byte in number {
            match byte {
                b'.' if !point => point = true,
                b'0'..=b'9' => {
                    seen = true;
                    digits.mul_add(10, u32::from(byte - b'0'));
                    behind += i32::from(point);
                }
                _ => return None,
            }
        }
        if !seen {
            return None;
        }
        let power = power - behind;
        if digits.is_zero() {
            return Some(Finite {
                negative,
                mantissa: 0,
                exponent: 0,
            });
        }
        let size = digits.decimal_digits_at_most() as i32 + power;
        if size < -POWER_MAX || power > POWER_MAX {
            return None;
        }
        if power >= 0 {
            for _ in 0..power {
                digits.mul_add(10, 0);
            }
            return digits.round(negative, 0, false).in_range();
        }
        let mut divisor = Big::from(1);
        for _ in 0..-power {
            divisor.mul_add(10, 0);
        }
        // One of the two is shifted so that the quotient gets 67 or 68 bits: what is left then decides
        // the rounding alone.
        let shift = divisor.bits() as i32 + 67 - digits.bits() as i32;
        if shift >= 0 {
            digits.shift_left(shift as usize);
        } else {
            divisor.shift_left(shift.unsigned_abs() as usize);
        }
        let (quotient, rest) = digits.divide(&divisor);
        quotient.round(negative, -shift, rest).in_range()
    }

    /// The sum, rounded to 64 bits; `None` where it is not a number.
    pub fn plus(self, other: Float80) -> Option<Float80> {
        let (a, b) = match (self, other) {
            (Infinite { negative: a }, Infinite { negative: b }) => {
                return (a == b).then_some(self);
            }
            (Infinite { .. }, _) => return Some(self),
            (_, Infinite { .. }) => return Some(other),
            (a, b) if a.magnitude() >= b.magnitude() => (a, b),
            (a, b) => (b, a),
        };
        let (
            Finite {
                negative,
                mantissa: large,
                exponent,
            },
            Finite {
                negative: other_negative,
                mantissa: small,
                exponent: other_exponent,
            },
        ) = (a, b)
        else {
            return None;
        };
        if small == 0 {
            return Some(a);
        }
        // 62 spare bits below the larger number; what falls below them only says "a little more".
        let gap = (exponent - other_exponent) as u32;
        let large = u128::from(large) << 62;
        let small = u128::from(small) << 62;
        let (aligned, lost) = if gap >= 127 {
            (0, true)
        } else {
            (small >> gap, (small >> gap) << gap != small)
        };
        let (sum, sticky) = if negative == other_negative {
            (large + aligned, lost)
        } else {
            // Taking away a bit more than `aligned` is taking away one more and adding a bit.
            (large - aligned - u128::from(lost), lost)
        };
        Some(Big::from(sum).round(negative && (sum != 0 || sticky), exponent - 62, sticky))
    }

    /// False for the infinities.
    pub fn is_finite(self) -> bool {
        matches!(self, Finite { .. })
    }

    /// Itself, unless it is too large or too small to be read: strtold reports those.
    fn in_range(self) -> Option<Float80> {
        match self {
            Finite { exponent, .. } if exponent >= EXPONENT_MIN => Some(self),
            _ => None,
        }
    }

    fn magnitude(self) -> (i64, u64) {
        match self {
            Finite { mantissa: 0, .. } => (i64::MIN, 0),
            Finite {
                mantissa, exponent, ..
            } => (i64::from(exponent), mantissa),
            Infinite { .. } => (i64::MAX, 0),
        }
    }

    /// Plain digits, at most 17 behind the point, no zeros at the end.
    pub fn text(self) -> String {
        let (negative, mantissa, exponent) = match self {
            Infinite { negative: false } => return "inf".into(),
            Infinite { negative: true } => return "-inf".into(),
            Finite {
                negative,
                mantissa,
                exponent,
            } => (negative, mantissa, exponent),
        };
        let digits = if exponent >= 0 {
            let mut whole = Big::from(mantissa.into());
            whole.shift_left(exponent as usize);
            whole.decimal()
        } else {
            // Rounded to the nearest 17th digit, ties to even; 64 + 57 bits fit.
            let scaled = u128::from(mantissa) * 10u128.pow(17);
            let down = exponent.unsigned_abs();
            let rounded = if down >= 128 {
                0
            } else {
                let (kept, rest) = (scaled >> down, scaled & ((1 << down) - 1));
                match rest.cmp(&(1 << (down - 1))) {
                    Ordering::Less => kept,
                    Ordering::Equal => kept + (kept & 1),
                    Ordering::Greater => kept + 1,
                }
            };
            let text = format!("{rounded:018}");
            let (whole, fraction) = text.split_at(text.len() - 17);
            let fraction = fraction.trim_end_matches('0');
            if fraction.is_empty() {
                whole.to_string()
            } else {
                format!("{whole}.{fraction}")
            }
        };
        if negative && digits != "0" {
            format!("-{digits}")
        } else {
            digits
        }
    }
}

/// Reads what follows `0x`: digits, point, and a power of two behind `p`.
fn hexadecimal(negative: bool, text: &[u8]) -> Option<Float80> {
    let split = text.iter().position(|byte| matches!(byte, b'p' | b'P'));
    let (number, power) = match split {
        Some(at) => (&text[..at], power_of_ten(&text[at + 1..])?),
        None => (text, 0),
    };
    let mut digits = Big::default();
    let (mut seen, mut behind, mut point) = (false, 0i32, false);
    for byte in number {
        if *byte == b'.' && !point {
            point = true;
            continue;
        }
        digits.mul_add(16, char::from(*byte).to_digit(16)?);
        behind += i32::from(point);
        seen = true;
    }
    if !seen {
        return None;
    }
    if digits.is_zero() {
        return Some(Finite {
            negative,
            mantissa: 0,
            exponent: 0,
        });
    }
    digits.round(negative, power - 4 * behind, false).in_range()
}

/// The number behind the `e`, held to a range where every number is infinite or nothing anyway.
fn power_of_ten(text: &[u8]) -> Option<i32> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    let mut power = 0i32;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        power = (power * 10 + i32::from(digit - b'0')).min(100_000);
    }
    Some(if negative { -power } else { power })
}

/// An unsigned integer of any size, least limb first, no zero limbs at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Big(Vec<u32>);

impl Big {
    fn from(value: u128) -> Big {
        let mut big = Big((0..4).map(|limb| (value >> (32 * limb)) as u32).collect());
        big.trim();
        big
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> usize {
        match self.0.last() {
            Some(last) => self.0.len() * 32 - last.leading_zeros() as usize,
            None => 0,
        }
    }

    fn decimal_digits_at_most(&self) -> usize {
        self.bits() * 31 / 100 + 1
    }

    fn mul_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.0 {
            let value = u64::from(*limb) * u64::from(factor) + carry;
            *limb = value as u32;
            carry = value >> 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    /// Divides in place; the remainder.
    fn div_small(&mut self, divisor: u32) -> u32 {
        let mut rest = 0u64;
        for limb in self.0.iter_mut().rev() {
            let value = (rest << 32) | u64::from(*limb);
            *limb = (value / u64::from(divisor)) as u32;
            rest = value % u64::from(divisor);
        }
        self.trim();
        rest as u32
    }

    fn shift_left(&mut self, bits: usize) {
        if self.is_zero() {
            return;
        }
        let small = bits % 32;
        if small > 0 {
            let mut carry = 0;
            for limb in &mut self.0 {
                let value = (u64::from(*limb) << small) | carry;
                *limb = value as u32;
                carry = value >> 32;
            }
            self.0.push(carry as u32);
        }
        self.0.splice(0..0, std::iter::repeat_n(0, bits / 32));
        self.trim();
    }

    /// The quotient, of which about 67 bits are expected, and whether something is left.
    fn divide(self, divisor: &Big) -> (Big, bool) {
        let steps = self.bits().saturating_sub(divisor.bits());
        let mut shifted = divisor.clone();
        shifted.shift_left(steps);
        let (mut rest, mut quotient) = (self, 0u128);
        for _ in 0..=steps {
            quotient <<= 1;
            if rest.at_least(&shifted) {
                rest.subtract(&shifted);
                quotient |= 1;
            }
            shifted.halve();
        }
        (Big::from(quotient), !rest.is_zero())
    }

    fn at_least(&self, other: &Big) -> bool {
        let by_len = self.0.len().cmp(&other.0.len());
        by_len.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev())) != Ordering::Less
    }

    fn subtract(&mut self, other: &Big) {
        let mut borrow = false;
        for (at, limb) in self.0.iter_mut().enumerate() {
            let (value, first) = limb.overflowing_sub(other.0.get(at).copied().unwrap_or(0));
            let (value, second) = value.overflowing_sub(u32::from(borrow));
            *limb = value;
            borrow = first || second;
        }
        self.trim();
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for limb in self.0.iter_mut().rev() {
            let low = *limb & 1;
            *limb = (*limb >> 1) | (carry << 31);
            carry = low;
        }
        self.trim();
    }

    /// `self × 2^exponent` (and a little more if `sticky`) to 64 bits, ties to even.
    fn round(&self, negative: bool, exponent: i32, sticky: bool) -> Float80 {
        let bits = self.bits();
        if bits == 0 {
            return Finite {
                negative,
                mantissa: 0,
                exponent: 0,
            };
        }
        let bit = |at: usize| {
            self.0
                .get(at / 32)
                .is_some_and(|limb| limb >> (at % 32) & 1 == 1)
        };
        let low = bits as i32 - 64;
        let mut mantissa = 0u64;
        for at in 0..64 {
            let place = low + at;
            if place >= 0 && bit(place as usize) {
                mantissa |= 1 << at;
            }
        }
        let mut exponent = exponent + low;
        if low > 0 {
            let half = bit(low as usize - 1);
            let below = sticky || (0..low as usize - 1).any(bit);
            if half && (below || mantissa & 1 == 1) {
                match mantissa.checked_add(1) {
                    Some(more) => mantissa = more,
                    None => {
                        mantissa = 1 << 63;
                        exponent += 1;
                    }
                }
            }
        }
        if exponent > EXPONENT_MAX {
            return Infinite { negative };
        }
        Finite {
            negative,
            mantissa,
            exponent,
        }
    }

    fn decimal(mut self) -> String {
        let mut groups = Vec::new();
        while !self.is_zero() {
            groups.push(self.div_small(1_000_000_000));
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:09}"));
        }
        text
    }
}

/// Longest text that is read as a number.
const TEXT_MAX: usize = 5 * 1024;
/// Beyond this power of ten every number is infinite or zero.
const POWER_MAX: i32 = 5000;
/// The smallest number is 2^-16445. The last ones before it have fewer bits, which no sum shows.
const EXPONENT_MIN: i32 = -16445 - 63;
/// The largest number is just below 2^16384.
const EXPONENT_MAX: i32 = 16384 - 64;

#[cfg(test)]
mod tests {
    use super::Float80;

    fn sum(a: &str, b: &str) -> String {
        let a = Float80::parse(a.as_bytes()).unwrap();
        a.plus(Float80::parse(b.as_bytes()).unwrap())
            .unwrap()
            .text()
    }

    #[test]
    fn sums_are_those_of_long_doubles() {
        for (a, b, want) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-3", "0"),
            ("-0.5", "0.25", "-0.25"),
            ("1", "1e-18", "1"),
            ("0", "-1e-30", "0"),
            ("1e5", "1", "100001"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
            ("1234567.1", "0.1", "1234567.20000000000004547"),
            ("0x10", "0x1.8p4", "40"),
            ("inf", "1", "inf"),
            (".5", "1.", "1.5"),
            (
                "123456789012345678901234567890123456789012345.5",
                "0",
                "123456789012345678896802277657040928322355200",
            ),
            (
                "99999999999999999999999999999.99999999999999999999999999999999999999",
                "0.1",
                "99999999999999999997315645440",
            ),
        ] {
            assert_eq!(sum(a, b), want, "{a} + {b}");
        }
        assert!(!Float80::parse(b"-Infinity").unwrap().is_finite());
        for bad in [
            "", "a", "1a", " 1", "1 ", "nan", ".", "1e", "e5", "--1", "1.2.3", "1e5000", "1e-5000",
            "0x", "0xg",
        ] {
            assert_eq!(Float80::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
