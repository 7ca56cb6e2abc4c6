//! Numbers as Redis reads and writes them.

/// Reads a decimal integer in its one canonical form: an optional `-`, no leading zeros, no spaces.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    match text {
        [b'-', digits @ ..] => {
            let value = canonical(digits)?;
            if value == 0 {
                return None;
            }
            if value == 1 << 63 {
                Some(i64::MIN)
            } else {
                Some(-i64::try_from(value).ok()?)
            }
        }
        digits => i64::try_from(canonical(digits)?).ok(),
    }
}

/// Reads an unsigned decimal integer in its canonical form.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    canonical(text)
}

fn canonical(digits: &[u8]) -> Option<u64> {
    match digits {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 20 => {
            let mut value = 0u64;
            for digit in digits {
                let digit = digit.wrapping_sub(b'0');
                if digit > 9 {
                    return None;
                }
                value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
            }
            Some(value)
        }
        _ => None,
    }
}

/// Reads a float: decimal, exponent, `inf` and `infinity` in any case, hexadecimal, as strtod does.
/// NaN, surrounding spaces, and numbers too large or too small for a double are refused.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || text.len() > 256 {
        return None;
    }
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if let [b'0', b'x' | b'X', digits @ ..] = digits {
        let value = parse_hex(digits)?;
        return Some(if negative { -value } else { value });
    }
    let value: f64 = text.parse().ok()?;
    let mantissa = digits.split(|byte| byte | 0x20 == b'e').next()?;
    let says_inf = matches!(digits[0], b'i' | b'I');
    let lost = value == 0.0 && mantissa.iter().any(|digit| (b'1'..=b'9').contains(digit));
    (!value.is_nan() && value.is_infinite() == says_inf && !lost).then_some(value)
}

/// Reads what follows `0x`: hexadecimal digits with a point, and a binary exponent behind `p`.
fn parse_hex(text: &[u8]) -> Option<f64> {
    let mut parts = text.splitn(2, |byte| byte | 0x20 == b'p');
    let digits = parts.next()?;
    let mut exponent: i32 = match parts.next() {
        None => 0,
        Some(digits) => std::str::from_utf8(digits).ok()?.parse().ok()?,
    };
    let (mut value, mut seen, mut point) = (0.0f64, false, false);
    for digit in digits {
        if *digit == b'.' && !point {
            point = true;
            continue;
        }
        // Past 53 bits this rounds digit by digit, which nobody asks scores for.
        value = value * 16.0 + f64::from(char::from(*digit).to_digit(16)?);
        exponent = exponent.checked_sub(if point { 4 } else { 0 })?;
        seen = true;
    }
    let result = value * 2f64.powi(exponent);
    let lost = result.is_infinite() || (result == 0.0 && value != 0.0);
    (seen && !lost).then_some(result)
}

/// Writes a double in the shortest form that reads back as the same value, as Redis 7.2 does: `3`,
/// `0.1`, `1e+20`, `1e-9`, `inf`. The form of scores in replies.
pub fn format_f64(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.into();
    }
    // Integers are written as such up to half of what 64 bits hold.
    if value.fract() == 0.0 && value.abs() <= (1u64 << 62) as f64 {
        return (value as i64).to_string();
    }
    // `{:e}` gives the shortest digits as d.ddde±x.
    let scientific = format!("{:e}", value.abs());
    let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.replace('.', "");
    let power: i32 = power.parse().unwrap_or(0);
    // The value is `digits` times ten to the `shift`.
    let shift = power - (digits.len() as i32 - 1);
    let sign = if value < 0.0 { "-" } else { "" };
    if shift >= 0 && power < digits.len() as i32 + 7 {
        return format!("{sign}{digits}{}", "0".repeat(shift as usize));
    }
    if shift < 0 && (shift > -7 || power.abs() < 4) {
        let whole = digits.len() as i32 + shift;
        if whole <= 0 {
            return format!(
                "{sign}0.{}{digits}",
                "0".repeat(whole.unsigned_abs() as usize)
            );
        }
        let (whole, fraction) = digits.split_at(whole as usize);
        return format!("{sign}{whole}.{fraction}");
    }
    let direction = if power < 0 { '-' } else { '+' };
    format!("{sign}{mantissa}e{direction}{}", power.abs())
}

/// Writes the result of INCRBYFLOAT and HINCRBYFLOAT: plain form, at most 17 digits behind the
/// point, no trailing zeros.
pub fn format_long(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    // The shortest digits already have at most 17 significant places; `{}` never uses an exponent.
    let text = format!("{value}");
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.len() > 17 => {
            let cut = format!("{value:.17}");
            let cut = cut.trim_end_matches('0').trim_end_matches('.');
            if cut == "-0" || cut.is_empty() {
                whole.to_string()
            } else {
                cut.to_string()
            }
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_form() {
        assert_eq!(parse_i64(b"0"), Some(0));
        assert_eq!(parse_i64(b"-1"), Some(-1));
        assert_eq!(parse_i64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "9223372036854775808",
            "1a",
            "99999999999999999999",
        ] {
            assert_eq!(parse_i64(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn doubles_are_written_short() {
        for (value, want) in [
            (3.0, "3"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e17, "100000000000000000"),
            (-1e20, "-1e+20"),
            (12345678901234567890.0, "12345678901234567000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-5, "0.00001"),
            (1e-7, "1e-7"),
            (1.25e-9, "1.25e-9"),
            (0.001234567, "0.001234567"),
            (1234567.25, "1234567.25"),
        ] {
            assert_eq!(format_f64(value), want);
        }
        for (text, want) in [
            ("0x10", Some(16.0)),
            ("-0x1.8p1", Some(-3.0)),
            ("0x", None),
            ("1e400", None),
            ("1e-400", None),
            ("0e-400", Some(0.0)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("nan", None),
            ("1 ", None),
        ] {
            assert_eq!(parse_f64(text.as_bytes()), want, "{text}");
        }
        assert_eq!(format_long(10.6), "10.6");
        assert_eq!(format_long(5.0e3), "5000");
    }
}
