//! Between Lua values and RESP.

use mlua::{Lua, Table, Value};

use crate::{
    base::format_f64,
    resp::{Error, Out, OwnedArgs, Proto},
};

/// The first number that a reply cannot hold.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;
/// How deep a reply may be nested.
const DEPTH_MAX: usize = 1000;

/// Appends a Lua value as an argument of a command; false if it is neither string nor number.
pub fn push_arg(request: &mut OwnedArgs, value: &Value) -> bool {
    match value {
        Value::String(text) => request.push(&text.as_bytes()),
        Value::Integer(number) => request.push(itoa::Buffer::new().format(*number).as_bytes()),
        Value::Number(number) if number.is_nan() && number.is_sign_negative() => {
            request.push(b"-nan");
        }
        Value::Number(number) => request.push(format_f64(*number).as_bytes()),
        _ => return false,
    }
    true
}

/// `{err = text}`
pub fn error_table(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    single(lua, "err", lua.create_string(text)?)
}

fn single(lua: &Lua, name: &str, value: impl mlua::IntoLua) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}

/// Reads one reply that this node wrote and moves `reply` behind it.
pub fn to_lua(lua: &Lua, reply: &mut &[u8]) -> mlua::Result<Value> {
    let (kind, line) = take_line(reply);
    let number = || -> i64 {
        let text = std::str::from_utf8(line).unwrap_or_default();
        text.parse().unwrap_or_default()
    };
    Ok(match kind {
        b'+' => single(lua, "ok", lua.create_string(line)?)?,
        b'-' => error_table(lua, line)?,
        b':' => Value::Number(number() as f64),
        b'$' | b'*' if number() < 0 => Value::Boolean(false),
        b'$' => Value::String(lua.create_string(take_bytes(reply, number()))?),
        b'*' | b'>' => {
            let count = number();
            let list = lua.create_table_with_capacity(count as usize, 0)?;
            for at in 1..=count {
                // A nil in the middle leaves a hole, so the place is given.
                list.raw_set(at, to_lua(lua, reply)?)?;
            }
            Value::Table(list)
        }
        b'%' => {
            let map = lua.create_table()?;
            for _ in 0..number() {
                let key = to_lua(lua, reply)?;
                let value = to_lua(lua, reply)?;
                map.raw_set(key, value)?;
            }
            single(lua, "map", map)?
        }
        b'~' => {
            let set = lua.create_table()?;
            for _ in 0..number() {
                set.raw_set(to_lua(lua, reply)?, true)?;
            }
            single(lua, "set", set)?
        }
        b',' => {
            let text = std::str::from_utf8(line).unwrap_or_default();
            single(lua, "double", text.parse::<f64>().unwrap_or(f64::NAN))?
        }
        b'#' => Value::Boolean(line == b"t"),
        b'(' => single(lua, "big_number", lua.create_string(line)?)?,
        b'=' => {
            let text = take_bytes(reply, number());
            let (format, text) = text.split_at(text.len().min(4));
            let parts = lua.create_table()?;
            parts.raw_set("string", lua.create_string(text)?)?;
            parts.raw_set("format", lua.create_string(&format[..format.len().min(3)])?)?;
            single(lua, "verbatim_string", parts)?
        }
        _ => Value::Nil,
    })
}

fn take_line<'a>(reply: &mut &'a [u8]) -> (u8, &'a [u8]) {
    let end = reply.iter().position(|byte| *byte == b'\r');
    let end = end.unwrap_or(reply.len());
    let (line, rest) = reply.split_at(end);
    *reply = rest.get(2..).unwrap_or_default();
    match line.split_first() {
        Some((kind, line)) => (*kind, line),
        None => (b'_', line),
    }
}

fn take_bytes<'a>(reply: &mut &'a [u8], count: i64) -> &'a [u8] {
    let count = (count.max(0) as usize).min(reply.len());
    let (bytes, rest) = reply.split_at(count);
    *reply = rest.get(2..).unwrap_or_default();
    bytes
}

/// Writes what a script returned. `script` is the RESP version that the script chose.
///
/// # Errors
/// An error that the script made itself.
pub fn write_reply(out: &mut Out, value: &Value, script: Proto) -> Result<(), Error> {
    if let Some(text) = field_text(value, "err") {
        return Err(reply_error(&text));
    }
    write_value(out, value, script, 0);
    Ok(())
}

fn write_value(out: &mut Out, value: &Value, script: Proto, depth: usize) {
    if depth > DEPTH_MAX {
        return out.error(&Error::fixed("ERR reached lua stack limit"));
    }
    match value {
        Value::String(text) => out.bulk(&text.as_bytes()),
        Value::Boolean(value) if script == Proto::Three => out.boolean(*value),
        Value::Boolean(true) => out.int(1),
        Value::Integer(number) => out.int(*number),
        // Towards zero; what does not fit becomes what a processor's conversion makes of it.
        Value::Number(number) if (-TWO_63..TWO_63).contains(number) => out.int(*number as i64),
        Value::Number(_) => out.int(i64::MIN),
        Value::Table(table) => write_table(out, table, value, script, depth),
        _ => out.null(),
    }
}

fn write_table(out: &mut Out, table: &Table, value: &Value, script: Proto, depth: usize) {
    let get = |key: &str| table.raw_get::<Value>(key).unwrap_or(Value::Nil);
    if let Some(text) = field_text(value, "err") {
        out.error(&reply_error(&text));
        return;
    }
    if let Some(text) = field_text(value, "ok") {
        let end = text.iter().position(|byte| *byte == 0);
        let line = text[..end.unwrap_or(text.len())].iter().copied();
        let line: Vec<u8> = line
            .map(|byte| if b"\r\n".contains(&byte) { b' ' } else { byte })
            .collect();
        out.raw(&[b"+", &line[..], b"\r\n"].concat());
        return;
    }
    match get("double") {
        Value::Number(number) => {
            out.double(number);
            return;
        }
        Value::Integer(number) => {
            out.double(number as f64);
            return;
        }
        _ => {}
    }
    if let Value::Table(map) = get("map") {
        let pairs: Vec<(Value, Value)> = map.pairs().flatten().collect();
        out.map(pairs.len());
        for (key, value) in &pairs {
            write_value(out, key, script, depth + 1);
            write_value(out, value, script, depth + 1);
        }
        return;
    }
    if let Value::Table(set) = get("set") {
        let members: Vec<(Value, Value)> = set.pairs().flatten().collect();
        out.set(members.len());
        for (member, _) in &members {
            write_value(out, member, script, depth + 1);
        }
        return;
    }
    if let Some(number) = field_text(value, "big_number") {
        let digits: Vec<u8> = number
            .into_iter()
            .map(|byte| if b"\r\n".contains(&byte) { b' ' } else { byte })
            .collect();
        if out.proto == Proto::Three {
            out.raw(&[b"(", &digits[..], b"\r\n"].concat());
        } else {
            out.bulk(&digits);
        }
        return;
    }
    let verbatim = get("verbatim_string");
    if let (Some(text), Some(format)) = (
        field_text(&verbatim, "string"),
        field_text(&verbatim, "format"),
    ) {
        if out.proto == Proto::Two {
            out.bulk(&text);
            return;
        }
        let mut kind = [b' '; 3];
        let len = format.len().min(3);
        kind[..len].copy_from_slice(&format[..len]);
        let head = format!("={}\r\n", text.len() + 4);
        out.raw(&[head.as_bytes(), &kind, b":", &text, b"\r\n"].concat());
        return;
    }
    let mark = out.mark();
    let mut count = 0;
    loop {
        match table.raw_get::<Value>(count + 1) {
            Ok(Value::Nil) | Err(_) => break,
            Ok(element) => write_value(out, &element, script, depth + 1),
        }
        count += 1;
    }
    out.array_since(mark, count);
}

fn field_text(value: &Value, name: &str) -> Option<Vec<u8>> {
    match value {
        Value::Table(table) => match table.raw_get::<Value>(name) {
            Ok(Value::String(text)) => Some(text.as_bytes().to_vec()),
            _ => None,
        },
        _ => None,
    }
}

fn reply_error(text: &[u8]) -> Error {
    Error::text(String::from_utf8_lossy(text).into_owned())
}
