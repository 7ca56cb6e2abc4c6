//! The `cjson` library.

use mlua::{Lua, Table, Value};

use super::problem;

/// How deep values may be nested, both ways.
const DEPTH_MAX: usize = 1000;

/// `cjson.encode`
pub fn encode(lua: &Lua, value: Value) -> mlua::Result<Value> {
    let mut out = Vec::new();
    write(&mut out, &value, 1).map_err(|problem| problem::at_line(lua, &problem))?;
    Ok(Value::String(lua.create_string(&out)?))
}

/// `cjson.decode`
pub fn decode(lua: &Lua, text: mlua::LuaString) -> mlua::Result<Value> {
    let text = text.as_bytes();
    let mut parser = Parser {
        lua,
        text: &text,
        at: 0,
        depth: 0,
    };
    parser.document().map_err(|stop| match stop {
        Stop::Text(text) => problem::at_line(lua, &text),
        Stop::Lua(error) => error,
    })
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), String> {
    match value {
        Value::String(text) => write_text(out, &text.as_bytes()),
        Value::Integer(number) => write_number(out, *number as f64)?,
        Value::Number(number) => write_number(out, *number)?,
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Nil | Value::LightUserData(_) => out.extend_from_slice(b"null"),
        Value::Table(table) => {
            if depth > DEPTH_MAX {
                return Err(format!("Cannot serialise, excessive nesting ({depth})"));
            }
            match array_len(table)? {
                Some(len) => write_array(out, table, len, depth)?,
                None => write_object(out, table, depth)?,
            }
        }
        other => {
            let kind = other.type_name();
            return Err(format!("Cannot serialise {kind}: type not supported"));
        }
    }
    Ok(())
}

/// The length of a table that is an array: all keys are positive whole numbers, not too far apart.
fn array_len(table: &Table) -> Result<Option<i64>, String> {
    let (mut max, mut items) = (0, 0);
    for pair in table.pairs::<Value, Value>() {
        let key = match pair {
            Ok((Value::Integer(key), _)) => key,
            Ok((Value::Number(key), _)) if key.fract() == 0.0 => key as i64,
            _ => return Ok(None),
        };
        if key < 1 {
            return Ok(None);
        }
        max = max.max(key);
        items += 1;
    }
    if max > 2 * items && max > 10 {
        return Err("Cannot serialise table: excessively sparse array".into());
    }
    Ok((items > 0).then_some(max))
}

fn write_array(out: &mut Vec<u8>, table: &Table, len: i64, depth: usize) -> Result<(), String> {
    out.push(b'[');
    for at in 1..=len {
        if at > 1 {
            out.push(b',');
        }
        let value = table.raw_get(at).unwrap_or(Value::Nil);
        write(out, &value, depth + 1)?;
    }
    out.push(b']');
    Ok(())
}

fn write_object(out: &mut Vec<u8>, table: &Table, depth: usize) -> Result<(), String> {
    out.push(b'{');
    for (at, pair) in table.pairs::<Value, Value>().flatten().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match &pair.0 {
            Value::String(key) => write_text(out, &key.as_bytes()),
            key @ (Value::Integer(_) | Value::Number(_)) => {
                out.push(b'"');
                write(out, key, depth)?;
                out.push(b'"');
            }
            key => {
                let kind = key.type_name();
                return Err(format!(
                    "Cannot serialise {kind}: table key must be a number or string"
                ));
            }
        }
        out.push(b':');
        write(out, &pair.1, depth + 1)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'/' => out.extend_from_slice(b"\\/"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..32 | 127 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

fn write_number(out: &mut Vec<u8>, number: f64) -> Result<(), String> {
    if !number.is_finite() {
        return Err("Cannot serialise number: must not be NaN or Inf".into());
    }
    out.extend_from_slice(format_short(number).as_bytes());
    Ok(())
}

/// C's `%.14g`.
fn format_short(number: f64) -> String {
    const DIGITS: i32 = 14;
    if number == 0.0 {
        return if number.is_sign_negative() {
            "-0".into()
        } else {
            "0".into()
        };
    }
    let rounded = format!("{number:.13e}");
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if (-4..DIGITS).contains(&exponent) {
        let places = (DIGITS - 1 - exponent) as usize;
        return trim(&format!("{number:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

enum Stop {
    Text(String),
    Lua(mlua::Error),
}

impl From<mlua::Error> for Stop {
    fn from(error: mlua::Error) -> Self {
        Stop::Lua(error)
    }
}

/// One piece of the text. Positions in errors count from 1.
enum Token {
    Punctuation(u8),
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    End,
    Bad(&'static str),
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Token::Punctuation(b'{') => "T_OBJ_BEGIN",
            Token::Punctuation(b'}') => "T_OBJ_END",
            Token::Punctuation(b'[') => "T_ARR_BEGIN",
            Token::Punctuation(b']') => "T_ARR_END",
            Token::Punctuation(b':') => "T_COLON",
            Token::Punctuation(_) => "T_COMMA",
            Token::Text(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::End => "T_END",
            Token::Bad(problem) => problem,
        }
    }
}

struct Parser<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Value, Stop> {
        let (start, token) = self.token();
        let value = self.value(start, token)?;
        match self.token() {
            (_, Token::End) => Ok(value),
            (start, token) => Err(expected("the end", start, &token)),
        }
    }

    fn value(&mut self, start: usize, token: Token) -> Result<Value, Stop> {
        Ok(match token {
            Token::Text(text) => Value::String(self.lua.create_string(text)?),
            Token::Number(number) => Value::Number(number),
            Token::Boolean(value) => Value::Boolean(value),
            Token::Null => Value::NULL,
            Token::Punctuation(open @ (b'[' | b'{')) => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    let depth = self.depth;
                    return Err(Stop::Text(format!(
                        "Found too many nested data structures ({depth})"
                    )));
                }
                let value = if open == b'[' {
                    self.array()?
                } else {
                    self.object()?
                };
                self.depth -= 1;
                Value::Table(value)
            }
            token => return Err(expected("value", start, &token)),
        })
    }

    fn array(&mut self) -> Result<Table, Stop> {
        let list = self.lua.create_table()?;
        let (mut start, mut token) = self.token();
        if let Token::Punctuation(b']') = token {
            return Ok(list);
        }
        for at in 1.. {
            let value = self.value(start, token)?;
            list.raw_set(at, value)?;
            match self.token() {
                (_, Token::Punctuation(b']')) => break,
                (_, Token::Punctuation(b',')) => (start, token) = self.token(),
                (start, token) => return Err(expected("comma or array end", start, &token)),
            }
        }
        Ok(list)
    }

    fn object(&mut self) -> Result<Table, Stop> {
        let map = self.lua.create_table()?;
        let (mut start, mut token) = self.token();
        if let Token::Punctuation(b'}') = token {
            return Ok(map);
        }
        loop {
            let Token::Text(key) = token else {
                return Err(expected("object key string", start, &token));
            };
            match self.token() {
                (_, Token::Punctuation(b':')) => {}
                (start, token) => return Err(expected("colon", start, &token)),
            }
            let (value_start, value) = self.token();
            let value = self.value(value_start, value)?;
            map.raw_set(self.lua.create_string(key)?, value)?;
            match self.token() {
                (_, Token::Punctuation(b'}')) => return Ok(map),
                (_, Token::Punctuation(b',')) => (start, token) = self.token(),
                (start, token) => return Err(expected("comma or object end", start, &token)),
            }
        }
    }

    /// The next token and where it starts.
    fn token(&mut self) -> (usize, Token) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        let start = self.at;
        let rest = &self.text[start..];
        let token = match rest.first() {
            None => Token::End,
            Some(byte @ (b'{' | b'}' | b'[' | b']' | b':' | b',')) => {
                self.at += 1;
                Token::Punctuation(*byte)
            }
            Some(b'"') => return self.text_token(),
            Some(b'-' | b'0'..=b'9') => self.number_token(),
            _ => {
                let words = [
                    (&b"true"[..], Token::Boolean(true)),
                    (b"false", Token::Boolean(false)),
                    (b"null", Token::Null),
                ];
                match words.into_iter().find(|(word, _)| rest.starts_with(word)) {
                    Some((word, token)) => {
                        self.at += word.len();
                        token
                    }
                    None => Token::Bad("invalid token"),
                }
            }
        };
        (start, token)
    }

    fn number_token(&mut self) -> Token {
        let rest = &self.text[self.at..];
        let part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
        let end = rest
            .iter()
            .position(|byte| !part(byte))
            .unwrap_or(rest.len());
        let text = std::str::from_utf8(&rest[..end]).unwrap_or_default();
        match text.parse() {
            Ok(number) => {
                self.at += end;
                Token::Number(number)
            }
            Err(_) => Token::Bad("invalid number"),
        }
    }

    /// A string, or what is wrong with it and where.
    fn text_token(&mut self) -> (usize, Token) {
        let start = self.at;
        let mut text = Vec::new();
        let mut at = self.at + 1;
        loop {
            let Some(byte) = self.text.get(at) else {
                return (at, Token::Bad("unexpected end of string"));
            };
            at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    let place = at - 1;
                    let escape = self.text.get(at).copied();
                    at += 1;
                    text.push(match escape {
                        Some(byte @ (b'"' | b'\\' | b'/')) => byte,
                        Some(b'b') => 8,
                        Some(b'f') => 12,
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        Some(b'u') => {
                            let Some(letter) = self.unicode(&mut at) else {
                                return (place, Token::Bad("invalid unicode escape code"));
                            };
                            text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                            continue;
                        }
                        _ => return (place, Token::Bad("invalid escape code")),
                    });
                }
                byte => text.push(*byte),
            }
        }
        self.at = at;
        (start, Token::Text(text))
    }

    /// Reads the digits behind `\u`, and those of the second half of a pair.
    fn unicode(&self, at: &mut usize) -> Option<char> {
        let unit = |at: usize| -> Option<u32> {
            let digits = self.text.get(at..at + 4)?;
            digits.iter().try_fold(0, |value, digit| {
                Some(value << 4 | char::from(*digit).to_digit(16)?)
            })
        };
        let first = unit(*at)?;
        *at += 4;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        if self.text.get(*at..*at + 2)? != b"\\u" {
            return None;
        }
        let second = unit(*at + 2).filter(|unit| (0xdc00..0xe000).contains(unit))?;
        *at += 6;
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }
}

fn expected(what: &str, start: usize, found: &Token) -> Stop {
    let found = found.name();
    let place = start + 1;
    Stop::Text(format!(
        "Expected {what} but found {found} at character {place}"
    ))
}

#[cfg(test)]
#[test]
fn numbers_have_fourteen_digits() {
    for (number, want) in [
        (1.0, "1"),
        (-1.5, "-1.5"),
        (1.0 / 3.0, "0.33333333333333"),
        (1e20, "1e+20"),
        (9007199254740992.0, "9.007199254741e+15"),
        (0.00001, "1e-05"),
        (0.0001, "0.0001"),
        (99999999999999.0, "99999999999999"),
        (123456789.123, "123456789.123"),
    ] {
        assert_eq!(format_short(number), want);
    }
}
