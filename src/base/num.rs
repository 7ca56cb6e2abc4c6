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

/// Reads a float: decimal, exponent, `inf` and `infinity` in any case, hexadecimal as strtod does.
/// NaN and surrounding spaces are refused.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || text.len() > 256 {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    (!value.is_nan()).then_some(value)
}

/// Writes a double in the shortest form that reads back as the same value: `3`, `0.1`, `1e+20`,
/// `inf`. The form of scores in replies.
pub fn format_f64(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    if value == 0.0 {
        return if value.is_sign_negative() {
            "-0".into()
        } else {
            "0".into()
        };
    }
    if value.fract() == 0.0 && value.abs() < 1e17 {
        return (value as i64).to_string();
    }
    // `{:e}` gives the shortest digits as d.ddde±x; they are set in plain form between 1e-7 and 1e21.
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-7..21).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
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
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-9, "1e-09"),
        ] {
            assert_eq!(format_f64(value), want);
        }
        assert_eq!(format_long(10.6), "10.6");
        assert_eq!(format_long(5.0e3), "5000");
    }
}
