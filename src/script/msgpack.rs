//! The `cmsgpack` library.

use mlua::{Lua, MultiValue, Table, Value};

use super::problem;

/// Tables nested deeper are packed as nil, which also ends tables that contain themselves.
const DEPTH_MAX: usize = 16;

/// `cmsgpack.pack`: all arguments one after another.
pub fn encode(lua: &Lua, values: MultiValue) -> mlua::Result<Value> {
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

/// `cmsgpack.unpack`: all values in the text.
pub fn decode(lua: &Lua, text: mlua::LuaString) -> mlua::Result<MultiValue> {
    let text = text.as_bytes();
    let mut rest = &text[..];
    let mut values = Vec::new();
    while !rest.is_empty() {
        // Lua's stack takes some thousands of results.
        if values.len() >= 1000 {
            return Err(problem::at_line(lua, "too many results to unpack"));
        }
        values.push(read(lua, &mut rest, 0).map_err(|stop| match stop {
            Stop::Short => problem::at_line(lua, "Missing bytes in input."),
            Stop::Bad => problem::at_line(lua, "Bad data format in input."),
            Stop::Lua(error) => error,
        })?);
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
        0xcf => number(u64::from_be_bytes(take(rest)?) as f64),
        0xd0 => number(i8::from_be_bytes(take(rest)?).into()),
        0xd1 => number(i16::from_be_bytes(take(rest)?).into()),
        0xd2 => number(i32::from_be_bytes(take(rest)?).into()),
        0xd3 => number(i64::from_be_bytes(take(rest)?) as f64),
        0xa0..=0xbf => read_text(lua, rest, (kind & 0x1f).into()),
        0xc4 | 0xd9 => {
            let len = u8::from_be_bytes(take(rest)?).into();
            read_text(lua, rest, len)
        }
        0xc5 | 0xda => {
            let len = u16::from_be_bytes(take(rest)?).into();
            read_text(lua, rest, len)
        }
        0xc6 | 0xdb => {
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
            Value::Nil => return Err(Stop::Bad),
            Value::Number(number) if number.is_nan() => return Err(Stop::Bad),
            key => map.raw_set(key, value)?,
        }
    }
    Ok(Value::Table(map))
}
