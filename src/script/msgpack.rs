//! The `cmsgpack` library.

use mlua::{Lua, MultiValue, Table, Value};

use super::problem;

/// Tables nested deeper are packed as nil, which also ends tables that contain themselves.
const DEPTH_MAX: usize = 16;

/// Lua's stack takes some thousands of results.
const RESULTS_MAX: usize = 7000;

/// The content of `cmsgpack`.
pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("pack", lua.create_function(pack)?)?;
    library.raw_set("unpack", lua.create_function(unpack)?)?;
    library.raw_set("unpack_one", lua.create_function(unpack_one)?)?;
    library.raw_set("unpack_limit", lua.create_function(unpack_limit)?)?;
    library.raw_set("_NAME", "cmsgpack")?;
    library.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    library.raw_set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    library.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(library)
}

/// All arguments one after another.
fn pack(lua: &Lua, values: MultiValue) -> mlua::Result<Value> {
    if values.is_empty() {
        let text = "bad argument #0 to 'pack' (MessagePack pack needs input.)";
        return Err(problem::at_line(lua, text));
    }
    let mut out = Vec::new();
    for value in &values {
        write(&mut out, value, 0);
    }
    Ok(Value::String(lua.create_string(&out)?))
}

/// All values in the text.
fn unpack(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let text = text_of(lua, "unpack", &args)?;
    some_of(lua, &text, None, 0)
}

/// The first value from an offset on, behind the offset of the next.
fn unpack_one(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let text = text_of(lua, "unpack_one", &args)?;
    let offset = whole(lua, "unpack_one", &args, 1, Some(0))?;
    some_of(lua, &text, Some(1), offset)
}

/// So many values from an offset on, behind the offset of the next.
fn unpack_limit(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    let text = text_of(lua, "unpack_limit", &args)?;
    let limit = whole(lua, "unpack_limit", &args, 1, None)?;
    let offset = whole(lua, "unpack_limit", &args, 2, Some(0))?;
    some_of(lua, &text, Some(limit), offset)
}

fn text_of(lua: &Lua, name: &str, args: &MultiValue) -> mlua::Result<Vec<u8>> {
    let value = args.front();
    let text = match value.cloned() {
        Some(value) => lua.coerce_string(value)?,
        None => None,
    };
    let text = text.ok_or_else(|| wrong_kind(lua, name, 0, "string", value))?;
    Ok(text.as_bytes().to_vec())
}

fn whole(
    lua: &Lua,
    name: &str,
    args: &MultiValue,
    at: usize,
    otherwise: Option<i64>,
) -> mlua::Result<i64> {
    let value = args.get(at);
    match (value.cloned(), otherwise) {
        (None | Some(Value::Nil), Some(otherwise)) => Ok(otherwise),
        (value, _) => {
            let number = lua.coerce_number(value.clone().unwrap_or(Value::Nil))?;
            let number =
                number.ok_or_else(|| wrong_kind(lua, name, at, "number", value.as_ref()))?;
            Ok(number as i64)
        }
    }
}

fn wrong_kind(lua: &Lua, name: &str, at: usize, wanted: &str, got: Option<&Value>) -> mlua::Error {
    let (at, got) = (at + 1, got.map_or("no value", Value::type_name));
    let text = format!("bad argument #{at} to '{name}' ({wanted} expected, got {got})");
    problem::at_line(lua, &text)
}

/// Values from an offset on. With a limit (0: none) the offset of what is left comes first, -1 if that is
/// nothing.
fn some_of(lua: &Lua, text: &[u8], limit: Option<i64>, offset: i64) -> mlua::Result<MultiValue> {
    let len = text.len();
    if offset < 0 || limit.is_some_and(|limit| limit < 0) {
        let text = format!("Invalid request to unpack with offset of {offset} and limit of {len}.");
        return Err(problem::at_line(lua, &text));
    }
    let Some(mut rest) = usize::try_from(offset)
        .ok()
        .and_then(|from| text.get(from..))
    else {
        let text = format!("Start offset {offset} greater than input length {len}.");
        return Err(problem::at_line(lua, &text));
    };
    let count_max = match limit {
        None | Some(0) => usize::MAX,
        Some(limit) => limit as usize,
    };
    let mut values = Vec::new();
    while !rest.is_empty() && values.len() < count_max {
        if values.len() >= RESULTS_MAX {
            return Err(problem::at_line(lua, "too many results to unpack"));
        }
        values.push(read(lua, &mut rest, 0).map_err(|stop| match stop {
            Stop::Short => problem::at_line(lua, "Missing bytes in input."),
            Stop::Bad => problem::at_line(lua, "Bad data format in input."),
            Stop::NoKey => problem::coded("ERR table index is nil"),
            Stop::Lua(error) => error,
        })?);
    }
    if limit.is_some_and(|limit| limit > 0) {
        let next = if rest.is_empty() {
            -1.0
        } else {
            (len - rest.len()) as f64
        };
        values.insert(0, Value::Number(next));
    }
    Ok(MultiValue::from_vec(values))
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) {
    match value {
        Value::Boolean(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(number) => write_integer(out, *number),
        Value::Number(number) => write_number(out, *number),
        Value::String(text) => {
            let text = text.as_bytes();
            match text.len() {
                len @ 0..32 => out.push(0xa0 | len as u8),
                len @ 32..256 => out.extend_from_slice(&[0xd9, len as u8]),
                len => write_len(out, len, 0xda, 0xdb),
            }
            out.extend_from_slice(&text);
        }
        Value::Table(table) if depth < DEPTH_MAX => write_table(out, table, depth),
        _ => out.push(0xc0),
    }
}

fn write_table(out: &mut Vec<u8>, table: &Table, depth: usize) {
    let pairs: Vec<(Value, Value)> = table.pairs().flatten().collect();
    let is_place = |key: &Value| match key {
        Value::Integer(at) => (1..=pairs.len() as i64).contains(at),
        Value::Number(at) => at.fract() == 0.0 && *at >= 1.0 && *at <= pairs.len() as f64,
        _ => false,
    };
    if pairs.iter().all(|(key, _)| is_place(key)) {
        match pairs.len() {
            len @ 0..16 => out.push(0x90 | len as u8),
            len => write_len(out, len, 0xdc, 0xdd),
        }
        for at in 1..=pairs.len() {
            write(out, &table.raw_get(at).unwrap_or(Value::Nil), depth + 1);
        }
        return;
    }
    match pairs.len() {
        len @ 0..16 => out.push(0x80 | len as u8),
        len => write_len(out, len, 0xde, 0xdf),
    }
    for (key, value) in &pairs {
        write(out, key, depth + 1);
        write(out, value, depth + 1);
    }
}

fn write_len(out: &mut Vec<u8>, len: usize, short: u8, long: u8) {
    if let Ok(len) = u16::try_from(len) {
        out.push(short);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(long);
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
}

fn write_number(out: &mut Vec<u8>, number: f64) {
    if number.fract() == 0.0 && number.abs() < 9.2e18 {
        return write_integer(out, number as i64);
    }
    let single = number as f32;
    if f64::from(single) == number {
        out.push(0xca);
        out.extend_from_slice(&single.to_be_bytes());
    } else {
        out.push(0xcb);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn write_integer(out: &mut Vec<u8>, number: i64) {
    if number >= 0 {
        if number < 0x80 {
            out.push(number as u8);
        } else if let Ok(number) = u8::try_from(number) {
            out.extend_from_slice(&[0xcc, number]);
        } else if let Ok(number) = u16::try_from(number) {
            out.push(0xcd);
            out.extend_from_slice(&number.to_be_bytes());
        } else if let Ok(number) = u32::try_from(number) {
            out.push(0xce);
            out.extend_from_slice(&number.to_be_bytes());
        } else {
            out.push(0xcf);
            out.extend_from_slice(&number.to_be_bytes());
        }
    } else if number >= -32 {
        out.push(number as i8 as u8);
    } else if let Ok(number) = i8::try_from(number) {
        out.extend_from_slice(&[0xd0, number as u8]);
    } else if let Ok(number) = i16::try_from(number) {
        out.push(0xd1);
        out.extend_from_slice(&number.to_be_bytes());
    } else if let Ok(number) = i32::try_from(number) {
        out.push(0xd2);
        out.extend_from_slice(&number.to_be_bytes());
    } else {
        out.push(0xd3);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

enum Stop {
    /// The text ends inside a value.
    Short,
    /// There is no such type, or values are nested too deep.
    Bad,
    /// A map has a key that a table cannot have.
    NoKey,
    Lua(mlua::Error),
}

impl From<mlua::Error> for Stop {
    fn from(error: mlua::Error) -> Self {
        Stop::Lua(error)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Stop> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(Stop::Short)?;
    *rest = after;
    Ok(*bytes)
}

fn read(lua: &Lua, rest: &mut &[u8], depth: usize) -> Result<Value, Stop> {
    if depth > 100 {
        return Err(Stop::Bad);
    }
    let [kind] = take(rest)?;
    let number = |number: f64| Ok(Value::Number(number));
    match kind {
        0x00..=0x7f => number(kind.into()),
        0xe0..=0xff => number((kind as i8).into()),
        0xc0 => Ok(Value::Nil),
        0xc2 => Ok(Value::Boolean(false)),
        0xc3 => Ok(Value::Boolean(true)),
        0xca => number(f32::from_be_bytes(take(rest)?).into()),
        0xcb => number(f64::from_be_bytes(take(rest)?)),
        0xcc => number(u8::from_be_bytes(take(rest)?).into()),
        0xcd => number(u16::from_be_bytes(take(rest)?).into()),
        0xce => number(u32::from_be_bytes(take(rest)?).into()),
        // As the library has it: 64 bits are signed.
        0xcf | 0xd3 => number(i64::from_be_bytes(take(rest)?) as f64),
        0xd0 => number(i8::from_be_bytes(take(rest)?).into()),
        0xd1 => number(i16::from_be_bytes(take(rest)?).into()),
        0xd2 => number(i32::from_be_bytes(take(rest)?).into()),
        0xa0..=0xbf => read_text(lua, rest, (kind & 0x1f).into()),
        0xd9 => {
            let len = u8::from_be_bytes(take(rest)?).into();
            read_text(lua, rest, len)
        }
        0xda => {
            let len = u16::from_be_bytes(take(rest)?).into();
            read_text(lua, rest, len)
        }
        0xdb => {
            let len = u32::from_be_bytes(take(rest)?);
            read_text(lua, rest, len as usize)
        }
        0x90..=0x9f => read_array(lua, rest, (kind & 0x0f).into(), depth),
        0xdc => {
            let len = u16::from_be_bytes(take(rest)?).into();
            read_array(lua, rest, len, depth)
        }
        0xdd => {
            let len = u32::from_be_bytes(take(rest)?);
            read_array(lua, rest, len, depth)
        }
        0x80..=0x8f => read_map(lua, rest, (kind & 0x0f).into(), depth),
        0xde => {
            let len = u16::from_be_bytes(take(rest)?).into();
            read_map(lua, rest, len, depth)
        }
        0xdf => {
            let len = u32::from_be_bytes(take(rest)?);
            read_map(lua, rest, len, depth)
        }
        _ => Err(Stop::Bad),
    }
}

fn read_text(lua: &Lua, rest: &mut &[u8], len: usize) -> Result<Value, Stop> {
    let (text, after) = rest.split_at_checked(len).ok_or(Stop::Short)?;
    *rest = after;
    Ok(Value::String(lua.create_string(text)?))
}

fn read_array(lua: &Lua, rest: &mut &[u8], len: u32, depth: usize) -> Result<Value, Stop> {
    let list = lua.create_table()?;
    for at in 1..=len {
        list.raw_set(at, read(lua, rest, depth + 1)?)?;
    }
    Ok(Value::Table(list))
}

fn read_map(lua: &Lua, rest: &mut &[u8], len: u32, depth: usize) -> Result<Value, Stop> {
    let map = lua.create_table()?;
    for _ in 0..len {
        let key = read(lua, rest, depth + 1)?;
        let value = read(lua, rest, depth + 1)?;
        match key {
            Value::Nil => return Err(Stop::NoKey),
            Value::Number(number) if number.is_nan() => return Err(Stop::NoKey),
            key => map.raw_set(key, value)?,
        }
    }
    Ok(Value::Table(map))
}
