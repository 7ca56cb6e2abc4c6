//! The `struct` library: numbers and strings as C lays them out.

use mlua::{Lua, LuaString, MultiValue, Table, Value};

use super::problem;

/// Widest integer that a format may name.
const INTEGER_MAX: usize = 32;
/// Widest natural alignment.
const ALIGN_MAX: usize = 8;
/// Lua's stack takes some thousands of results.
const RESULTS_MAX: usize = 7000;

/// Adds `struct_*` functions.
pub fn register(lua: &Lua, host: &Table) -> mlua::Result<()> {
    host.raw_set("struct_pack", lua.create_function(pack)?)?;
    host.raw_set("struct_unpack", lua.create_function(unpack)?)?;
    host.raw_set("struct_size", lua.create_function(size)?)
}

/// A format on its way through a function.
struct Format<'a> {
    lua: &'a Lua,
    /// The function's name, for errors.
    name: &'static str,
    rest: &'a [u8],
    big: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(lua: &'a Lua, name: &'static str, text: &'a [u8]) -> Self {
        let end = text.iter().position(|byte| *byte == 0);
        Self {
            lua,
            name,
            rest: &text[..end.unwrap_or(text.len())],
            big: false,
            align: 1,
        }
    }

    /// The next option with its size; `at` is moved to where it begins.
    fn next(&mut self, at: &mut usize) -> mlua::Result<Option<(u8, usize)>> {
        let Some((option, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        let size = match option {
            b'b' | b'B' | b'x' => 1,
            b'h' | b'H' => 2,
            b'f' => 4,
            b'l' | b'L' | b'T' | b'd' => 8,
            b'c' => self.number(1)?,
            b'i' | b'I' => match self.number(4)? {
                size @ ..=INTEGER_MAX => size,
                size => {
                    let text =
                        format!("integral size {size} is larger than limit of {INTEGER_MAX}");
                    return Err(problem::at_line(self.lua, &text));
                }
            },
            _ => 0,
        };
        if size > 0 && *option != b'c' {
            let align = size.min(self.align);
            *at += align.wrapping_sub(*at & align.wrapping_sub(1)) & align.wrapping_sub(1);
        }
        Ok(Some((*option, size)))
    }

    /// The digits that come next.
    fn number(&mut self, otherwise: usize) -> mlua::Result<usize> {
        let len = self.rest.iter().take_while(|byte| byte.is_ascii_digit());
        let (digits, rest) = self.rest.split_at(len.count());
        if digits.is_empty() {
            return Ok(otherwise);
        }
        self.rest = rest;
        let text = std::str::from_utf8(digits).unwrap_or_default();
        match text.parse::<i32>() {
            Ok(number) => Ok(number as usize),
            Err(_) => Err(problem::at_line(self.lua, "integral size overflow")),
        }
    }

    /// An option that only changes how those behind it are read.
    fn control(&mut self, option: u8) -> mlua::Result<()> {
        match option {
            b' ' => {}
            b'>' => self.big = true,
            b'<' => self.big = false,
            b'!' => {
                self.align = self.number(ALIGN_MAX)?;
                if !self.align.is_power_of_two() {
                    let text = format!("alignment {} is not a power of 2", self.align);
                    return Err(problem::at_line(self.lua, &text));
                }
            }
            other => {
                let option = char::from(other);
                return self.bad_argument(1, &format!("invalid format option '{option}'"));
            }
        }
        Ok(())
    }

    fn bad_argument<T>(&self, at: usize, what: &str) -> mlua::Result<T> {
        let text = format!("bad argument #{at} to '{}' ({what})", self.name);
        Err(problem::at_line(self.lua, &text))
    }
}

/// A text argument, as Lua takes one.
fn text_of(lua: &Lua, name: &str, args: &MultiValue, at: usize) -> mlua::Result<LuaString> {
    let value = args.get(at).cloned();
    let text = match value.clone() {
        Some(value) => lua.coerce_string(value)?,
        None => None,
    };
    text.ok_or_else(|| wrong_kind(lua, name, at, "string", value.as_ref()))
}

fn number_of(lua: &Lua, name: &str, args: &MultiValue, at: usize) -> mlua::Result<f64> {
    let value = args.get(at).cloned();
    let number = match value.clone() {
        Some(value) => lua.coerce_number(value)?,
        None => None,
    };
    // The function has filled its stack up by then.
    let value = value.unwrap_or(Value::Nil);
    number.ok_or_else(|| wrong_kind(lua, name, at, "number", Some(&value)))
}

fn wrong_kind(lua: &Lua, name: &str, at: usize, wanted: &str, got: Option<&Value>) -> mlua::Error {
    let (at, got) = (at + 1, got.map_or("no value", Value::type_name));
    problem::at_line(
        lua,
        &format!("bad argument #{at} to '{name}' ({wanted} expected, got {got})"),
    )
}

fn pack(lua: &Lua, args: MultiValue) -> mlua::Result<LuaString> {
    const NAME: &str = "pack";
    let text = text_of(lua, NAME, &args, 0)?.as_bytes().to_vec();
    let mut format = Format::new(lua, NAME, &text);
    let mut out: Vec<u8> = Vec::new();
    let mut from = 1;
    loop {
        let mut at = out.len();
        let Some((option, size)) = format.next(&mut at)? else {
            break;
        };
        out.resize(at, 0);
        let mut bytes = match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = number_of(lua, NAME, &args, from)?;
                // As C casts: a number below zero first becomes a signed one, and nothing is left of one
                // that is too large.
                let word = if number < 0.0 {
                    number as i64 as u64
                } else if number < 18_446_744_073_709_551_616.0 {
                    number as u64
                } else {
                    0
                };
                let mut bytes = word.to_le_bytes().to_vec();
                bytes.resize(size, 0);
                bytes
            }
            b'f' => (number_of(lua, NAME, &args, from)? as f32)
                .to_le_bytes()
                .to_vec(),
            b'd' => number_of(lua, NAME, &args, from)?.to_le_bytes().to_vec(),
            b'c' | b's' => {
                let given = text_of(lua, NAME, &args, from)?;
                let given = given.as_bytes();
                from += 1;
                let size = if size == 0 { given.len() } else { size };
                let Some(given) = given.get(..size) else {
                    return format.bad_argument(from + 1, "string too short");
                };
                out.extend_from_slice(given);
                if option == b's' {
                    out.push(0);
                }
                continue;
            }
            b'x' => {
                out.push(0);
                continue;
            }
            other => {
                format.control(other)?;
                continue;
            }
        };
        from += 1;
        if format.big {
            bytes.reverse();
        }
        out.extend_from_slice(&bytes);
    }
    lua.create_string(&out)
}

fn unpack(lua: &Lua, args: MultiValue) -> mlua::Result<MultiValue> {
    const NAME: &str = "unpack";
    let text = text_of(lua, NAME, &args, 0)?.as_bytes().to_vec();
    let data = text_of(lua, NAME, &args, 1)?.as_bytes().to_vec();
    let mut format = Format::new(lua, NAME, &text);
    let mut at = match args.get(2) {
        None | Some(Value::Nil) => 0,
        Some(_) => match number_of(lua, NAME, &args, 2)? as i64 {
            0 => return format.bad_argument(3, "offset must be 1 or greater"),
            // What is below zero is far behind the end.
            offset => usize::try_from(offset - 1).unwrap_or(usize::MAX >> 1),
        },
    };
    let mut values = Vec::new();
    while let Some((option, mut size)) = format.next(&mut at)? {
        let short = |size: usize| size > data.len() || at > data.len() - size;
        if short(size) {
            return format.bad_argument(2, "data string too short");
        }
        if values.len() > RESULTS_MAX {
            return Err(problem::at_line(lua, "stack overflow (too many results)"));
        }
        let mut bytes = data[at..at + size].to_vec();
        if format.big {
            bytes.reverse();
        }
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = integer(&bytes, option.is_ascii_lowercase());
                values.push(Value::Number(number));
            }
            b'x' => {}
            b'f' => {
                let bytes = bytes.first_chunk().copied().unwrap_or_default();
                values.push(Value::Number(f32::from_le_bytes(bytes).into()));
            }
            b'd' => {
                let bytes = bytes.first_chunk().copied().unwrap_or_default();
                values.push(Value::Number(f64::from_le_bytes(bytes)));
            }
            b'c' => {
                if size == 0 {
                    let last = values.pop().map(|value| lua.coerce_number(value));
                    let Some(Some(len)) = last.transpose()? else {
                        let text = "format 'c0' needs a previous size";
                        return Err(problem::at_line(lua, text));
                    };
                    size = len.max(0.0) as usize;
                    if short(size) {
                        return format.bad_argument(2, "data string too short");
                    }
                }
                values.push(Value::String(lua.create_string(&data[at..at + size])?));
            }
            b's' => {
                let Some(len) = data[at..].iter().position(|byte| *byte == 0) else {
                    return Err(problem::at_line(lua, "unfinished string in data"));
                };
                values.push(Value::String(lua.create_string(&data[at..at + len])?));
                size = len + 1;
            }
            other => format.control(other)?,
        }
        at += size;
    }
    values.push(Value::Number((at + 1) as f64));
    Ok(MultiValue::from_vec(values))
}

/// A number of any width, its lowest byte first.
fn integer(bytes: &[u8], is_signed: bool) -> f64 {
    let low = bytes.len().min(8);
    let mut word = [0; 8];
    word[..low].copy_from_slice(&bytes[..low]);
    let word = u64::from_le_bytes(word);
    if !is_signed || bytes.is_empty() {
        return word as f64;
    }
    // The highest bit of the number fills what is above it.
    let unused = 64 - low as u32 * 8;
    ((word << unused) as i64 >> unused) as f64
}

fn size(lua: &Lua, args: MultiValue) -> mlua::Result<f64> {
    const NAME: &str = "size";
    let text = text_of(lua, NAME, &args, 0)?.as_bytes().to_vec();
    let mut format = Format::new(lua, NAME, &text);
    let mut at = 0usize;
    while let Some((option, size)) = format.next(&mut at)? {
        match (option, size) {
            (b's', _) => return format.bad_argument(1, "option 's' has no fixed size"),
            (b'c', 0) => return format.bad_argument(1, "option 'c0' has no fixed size"),
            (other, _) if !other.is_ascii_alphanumeric() => format.control(other)?,
            _ => {}
        }
        at = at.saturating_add(size);
    }
    Ok(at as f64)
}
