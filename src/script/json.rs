//! The `cjson` library.

use std::{cell::RefCell, rc::Rc};

use mlua::{Lua, MultiValue, Table, Value};

use super::problem;

/// What scripts may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sparse arrays become objects instead of an error.
    sparse_convert: bool,
    /// An array is sparse if it has more places than this times its items (0: never) ...
    sparse_ratio: i64,
    /// ... and more than these.
    sparse_safe: i64,
    encode_depth: i64,
    decode_depth: i64,
    encode_invalid: Invalid,
    decode_invalid: bool,
    precision: i64,
    keep_buffer: bool,
}

/// What becomes of numbers that JSON does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Invalid {
    Refused,
    Kept,
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth: 1000,
            decode_depth: 1000,
            encode_invalid: Invalid::Refused,
            decode_invalid: true,
            precision: PRECISION_MAX,
            keep_buffer: true,
        }
    }
}

/// Digits of a number at most.
const PRECISION_MAX: i64 = 14;

/// The content of `cjson`, or of what `cjson.new()` makes.
pub fn library(lua: &Lua, settings: Rc<RefCell<Settings>>) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    let own = settings.clone();
    let encode = lua.create_function(move |lua, args: MultiValue| {
        let value = only_argument(lua, "encode", &args)?;
        let mut out = Vec::new();
        let written = write(&mut out, value, 1, &own.borrow());
        written.map_err(|problem| problem::at_line(lua, &problem))?;
        lua.create_string(&out)
    })?;
    library.raw_set("encode", encode)?;
    let own = settings.clone();
    let decode = lua.create_function(move |lua, args: MultiValue| {
        let value = only_argument(lua, "decode", &args)?;
        let Some(text) = lua.coerce_string(value.clone())? else {
            let kind = value.type_name();
            let text = format!("bad argument #1 to 'decode' (string expected, got {kind})");
            return Err(problem::at_line(lua, &text));
        };
        let text = text.as_bytes();
        let mut parser = Parser {
            lua,
            text: &text,
            at: 0,
            depth: 0,
            settings: *own.borrow(),
        };
        parser.document().map_err(|stop| match stop {
            Stop::Text(text) => problem::at_line(lua, &text),
            Stop::Lua(error) => error,
        })
    })?;
    library.raw_set("decode", decode)?;
    type Change = fn(&Options<'_>, &mut Settings) -> mlua::Result<Vec<Value>>;
    let options: [(&'static str, usize, Change); 7] = [
        ("encode_sparse_array", 3, |options, settings| {
            Ok(vec![
                options.switch(0, &mut settings.sparse_convert)?,
                options.integer(1, &mut settings.sparse_ratio, 0, INTEGER_MAX)?,
                options.integer(2, &mut settings.sparse_safe, 0, INTEGER_MAX)?,
            ])
        }),
        ("encode_max_depth", 1, |options, settings| {
            Ok(vec![options.integer(
                0,
                &mut settings.encode_depth,
                1,
                INTEGER_MAX,
            )?])
        }),
        ("decode_max_depth", 1, |options, settings| {
            Ok(vec![options.integer(
                0,
                &mut settings.decode_depth,
                1,
                INTEGER_MAX,
            )?])
        }),
        ("encode_number_precision", 1, |options, settings| {
            Ok(vec![options.integer(
                0,
                &mut settings.precision,
                1,
                PRECISION_MAX,
            )?])
        }),
        ("encode_keep_buffer", 1, |options, settings| {
            Ok(vec![options.switch(0, &mut settings.keep_buffer)?])
        }),
        ("encode_invalid_numbers", 1, |options, settings| {
            Ok(vec![options.invalid(&mut settings.encode_invalid)?])
        }),
        ("decode_invalid_numbers", 1, |options, settings| {
            Ok(vec![options.switch(0, &mut settings.decode_invalid)?])
        }),
    ];
    for (name, count, change) in options {
        let own = settings.clone();
        let function = lua.create_function(move |lua, args: MultiValue| {
            let options = Options { lua, name, args };
            if options.args.len() > count {
                return options.refuse(count, "found too many arguments");
            }
            let mut changed = *own.borrow();
            let shown = change(&options, &mut changed)?;
            own.replace(changed);
            Ok(MultiValue::from_vec(shown))
        })?;
        library.raw_set(name, function)?;
    }
    let new = lua.create_function(|lua, ()| library_of_its_own(lua))?;
    library.raw_set("new", new)?;
    library.raw_set("null", Value::NULL)?;
    library.raw_set("_NAME", "cjson")?;
    library.raw_set("_VERSION", "2.1.0")?;
    Ok(library)
}

/// `cjson.new`
fn library_of_its_own(lua: &Lua) -> mlua::Result<Table> {
    library(lua, Rc::default())
}

fn only_argument<'a>(lua: &Lua, name: &str, args: &'a MultiValue) -> mlua::Result<&'a Value> {
    match args.front() {
        Some(value) if args.len() == 1 => Ok(value),
        _ => {
            let text = format!("bad argument #1 to '{name}' (expected 1 argument)");
            Err(problem::at_line(lua, &text))
        }
    }
}

const INTEGER_MAX: i64 = i32::MAX as i64;

/// The arguments of a function that shows and changes settings; nil leaves one as it is.
struct Options<'a> {
    lua: &'a Lua,
    name: &'static str,
    args: MultiValue,
}

impl Options<'_> {
    fn refuse<T>(&self, at: usize, why: &str) -> mlua::Result<T> {
        let text = format!("bad argument #{} to '{}' ({why})", at + 1, self.name);
        Err(problem::at_line(self.lua, &text))
    }

    fn given(&self, at: usize) -> Option<&Value> {
        self.args.get(at).filter(|value| !value.is_nil())
    }

    fn integer(&self, at: usize, setting: &mut i64, min: i64, max: i64) -> mlua::Result<Value> {
        if let Some(value) = self.given(at) {
            let Some(number) = self.lua.coerce_number(value.clone())? else {
                let kind = value.type_name();
                return self.refuse(at, &format!("number expected, got {kind}"));
            };
            let number = number as i64;
            if !(min..=max).contains(&number) {
                return self.refuse(0, &format!("expected integer between {min} and {max}"));
            }
            *setting = number;
        }
        Ok(Value::Number(*setting as f64))
    }

    fn switch(&self, at: usize, setting: &mut bool) -> mlua::Result<Value> {
        if let Some(value) = self.given(at) {
            *setting = self.choice(at, value, &["off", "on"])? == 1;
        }
        Ok(Value::Boolean(*setting))
    }

    fn invalid(&self, setting: &mut Invalid) -> mlua::Result<Value> {
        if let Some(value) = self.given(0) {
            *setting = match self.choice(0, value, &["off", "on", "null"])? {
                0 => Invalid::Refused,
                1 => Invalid::Kept,
                _ => Invalid::Null,
            };
        }
        Ok(match setting {
            Invalid::Refused => Value::Boolean(false),
            Invalid::Kept => Value::Boolean(true),
            Invalid::Null => Value::String(self.lua.create_string("null")?),
        })
    }

    /// Which of these words it is; false is the first and true the second.
    fn choice(&self, at: usize, value: &Value, words: &[&str]) -> mlua::Result<usize> {
        if let Value::Boolean(value) = value {
            return Ok(usize::from(*value));
        }
        let Some(text) = self.lua.coerce_string(value.clone())? else {
            let kind = value.type_name();
            return self.refuse(at, &format!("string expected, got {kind}"));
        };
        let text = text.to_string_lossy();
        match words.iter().position(|word| *word == text) {
            Some(place) => Ok(place),
            None => self.refuse(at, &format!("invalid option '{text}'")),
        }
    }
}

fn write(out: &mut Vec<u8>, value: &Value, depth: i64, settings: &Settings) -> Result<(), String> {
    match value {
        Value::String(text) => write_text(out, &text.as_bytes()),
        Value::Integer(number) => write_number(out, *number as f64, settings)?,
        Value::Number(number) => write_number(out, *number, settings)?,
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Nil | Value::LightUserData(_) => out.extend_from_slice(b"null"),
        Value::Table(table) => {
            // The engine's own stack holds no more, whatever the script sets.
            if depth > settings.encode_depth.min(DEPTH_MAX) {
                return Err(format!("Cannot serialise, excessive nesting ({depth})"));
            }
            match array_len(table, settings)? {
                Some(len) => write_array(out, table, len, depth, settings)?,
                None => write_object(out, table, depth, settings)?,
            }
        }
        other => {
            let kind = other.type_name();
            return Err(format!("Cannot serialise {kind}: type not supported"));
        }
    }
    Ok(())
}

/// How deep values may be nested at most, both ways.
const DEPTH_MAX: i64 = 1000;

/// The length of a table that is an array: all keys are positive whole numbers, not too far apart.
fn array_len(table: &Table, settings: &Settings) -> Result<Option<i64>, String> {
    let (mut max, mut items) = (0i64, 0i64);
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
    let ratio = settings.sparse_ratio;
    if ratio > 0 && max > items.saturating_mul(ratio) && max > settings.sparse_safe {
        if settings.sparse_convert {
            return Ok(None);
        }
        return Err("Cannot serialise table: excessively sparse array".into());
    }
    Ok((items > 0).then_some(max))
}

fn write_array(
    out: &mut Vec<u8>,
    table: &Table,
    len: i64,
    depth: i64,
    settings: &Settings,
) -> Result<(), String> {
    if len > PLACES_MAX {
        return Err("Cannot serialise table: not enough memory".into());
    }
    out.push(b'[');
    for at in 1..=len {
        if at > 1 {
            out.push(b',');
        }
        let value = table.raw_get(at).unwrap_or(Value::Nil);
        write(out, &value, depth + 1, settings)?;
    }
    out.push(b']');
    Ok(())
}

/// Places of an array: what a script that allows sparse ones may make the node write.
const PLACES_MAX: i64 = 1 << 24;

fn write_object(
    out: &mut Vec<u8>,
    table: &Table,
    depth: i64,
    settings: &Settings,
) -> Result<(), String> {
    out.push(b'{');
    for (at, pair) in table.pairs::<Value, Value>().flatten().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match &pair.0 {
            Value::String(key) => write_text(out, &key.as_bytes()),
            key @ (Value::Integer(_) | Value::Number(_)) => {
                out.push(b'"');
                write(out, key, depth, settings)?;
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
        write(out, &pair.1, depth + 1, settings)?;
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

fn write_number(out: &mut Vec<u8>, number: f64, settings: &Settings) -> Result<(), String> {
    if !number.is_finite() {
        out.extend_from_slice(match settings.encode_invalid {
            Invalid::Refused => {
                return Err("Cannot serialise number: must not be NaN or Inf".into());
            }
            Invalid::Null => b"null",
            Invalid::Kept if number.is_nan() => b"nan",
            Invalid::Kept if number < 0.0 => b"-inf",
            Invalid::Kept => b"inf",
        });
        return Ok(());
    }
    out.extend_from_slice(format_short(number, settings.precision as i32).as_bytes());
    Ok(())
}

/// C's `%.*g`.
fn format_short(number: f64, digits: i32) -> String {
    if number == 0.0 {
        return if number.is_sign_negative() {
            "-0".into()
        } else {
            "0".into()
        };
    }
    let rounded = format!("{number:.*e}", digits as usize - 1);
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if (-4..digits).contains(&exponent) {
        let places = (digits - 1 - exponent) as usize;
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
    depth: i64,
    settings: Settings,
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
                if self.depth > self.settings.decode_depth.min(DEPTH_MAX) {
                    let (depth, at) = (self.depth, self.at);
                    return Err(Stop::Text(format!(
                        "Found too many nested data structures ({depth}) at character {at}"
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
            None | Some(0) => Token::End,
            Some(byte @ (b'{' | b'}' | b'[' | b']' | b':' | b',')) => {
                self.at += 1;
                Token::Punctuation(*byte)
            }
            Some(b'"') => return self.text_token(),
            Some(b'-' | b'0'..=b'9') => {
                if !self.settings.decode_invalid && is_invalid_number(rest) {
                    Token::Bad("invalid number")
                } else {
                    self.number_token()
                }
            }
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
                    None if self.settings.decode_invalid && is_invalid_number(rest) => {
                        self.number_token()
                    }
                    None => Token::Bad("invalid token"),
                }
            }
        };
        (start, token)
    }

    fn number_token(&mut self) -> Token {
        match leading_number(&self.text[self.at..]) {
            Some((number, len)) => {
                self.at += len;
                Token::Number(number)
            }
            None => Token::Bad("invalid number"),
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

/// Is it a number that JSON does not have?
fn is_invalid_number(text: &[u8]) -> bool {
    if text.starts_with(b"+") {
        return true;
    }
    match text.strip_prefix(b"-").unwrap_or(text) {
        [b'0', b'x' | b'X' | b'0'..=b'9', ..] => true,
        [first, second, third, ..] => {
            let word = [*first, *second, *third].map(|byte| byte.to_ascii_lowercase());
            word == *b"inf" || word == *b"nan"
        }
        _ => false,
    }
}

/// What C's `strtod` reads, and how many bytes of it.
fn leading_number(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let apply = |number: f64| {
        if text.starts_with(b"-") {
            -number
        } else {
            number
        }
    };
    let body = &text[sign..];
    let starts = |word: &[u8]| {
        body.get(..word.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(word))
    };
    for (word, number) in [
        (&b"infinity"[..], f64::INFINITY),
        (b"inf", f64::INFINITY),
        (b"nan", f64::NAN),
    ] {
        if starts(word) {
            return Some((apply(number), sign + word.len()));
        }
    }
    let digits = |from: usize| {
        body[from.min(body.len())..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    if starts(b"0x") {
        let nibbles = body[2..]
            .iter()
            .map_while(|byte| char::from(*byte).to_digit(16));
        let (number, len) = nibbles.fold((0.0, 0), |(number, len), nibble| {
            (number * 16.0 + f64::from(nibble), len + 1)
        });
        if len > 0 {
            return Some((apply(number), sign + 2 + len));
        }
    }
    let mut len = digits(0);
    let mut count = len;
    if body.get(len) == Some(&b'.') {
        let fraction = digits(len + 1);
        count += fraction;
        len += 1 + fraction;
    }
    if count == 0 {
        return None;
    }
    if let Some(b'e' | b'E') = body.get(len) {
        let signed = usize::from(matches!(body.get(len + 1), Some(b'+' | b'-')));
        let exponent = digits(len + 1 + signed);
        if exponent > 0 {
            len += 1 + signed + exponent;
        }
    }
    let number = std::str::from_utf8(&body[..len])
        .ok()?
        .parse::<f64>()
        .ok()?;
    Some((apply(number), sign + len))
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
        assert_eq!(format_short(number, 14), want);
    }
}
