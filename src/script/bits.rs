//! The `bit` library: operations on 32-bit numbers.

use mlua::{Lua, MultiValue, Table};

use super::problem;

/// Adds `bit_*` functions.
pub fn register(lua: &Lua, host: &Table) -> mlua::Result<()> {
    let one = |name: &'static str, run: fn(u32) -> u32| {
        let function = lua.create_function(move |lua, args: MultiValue| {
            Ok(f64::from(run(number(lua, &args, 0, name)?) as i32))
        })?;
        host.raw_set(format!("bit_{name}"), function)
    };
    one("tobit", |value| value)?;
    one("bnot", |value| !value)?;
    one("bswap", u32::swap_bytes)?;
    let many = |name: &'static str, run: fn(u32, u32) -> u32| {
        let function = lua.create_function(move |lua, args: MultiValue| {
            let mut value = number(lua, &args, 0, name)?;
            for at in 1..args.len() {
                value = run(value, number(lua, &args, at, name)?);
            }
            Ok(f64::from(value as i32))
        })?;
        host.raw_set(format!("bit_{name}"), function)
    };
    many("band", |left, right| left & right)?;
    many("bor", |left, right| left | right)?;
    many("bxor", |left, right| left ^ right)?;
    let shift = |name: &'static str, run: fn(u32, u32) -> u32| {
        let function = lua.create_function(move |lua, args: MultiValue| {
            let value = number(lua, &args, 0, name)?;
            let by = number(lua, &args, 1, name)?;
            Ok(f64::from(run(value, by & 31) as i32))
        })?;
        host.raw_set(format!("bit_{name}"), function)
    };
    shift("lshift", |value, by| value << by)?;
    shift("rshift", |value, by| value >> by)?;
    shift("arshift", |value, by| (value as i32 >> by) as u32)?;
    shift("rol", u32::rotate_left)?;
    shift("ror", u32::rotate_right)?;
    let tohex = lua.create_function(|lua, args: MultiValue| {
        let value = number(lua, &args, 0, "tohex")?;
        let digits = match args.get(1) {
            Some(_) => number(lua, &args, 1, "tohex")? as i32,
            None => 8,
        };
        let text = if digits < 0 {
            format!("{value:08X}")
        } else {
            format!("{value:08x}")
        };
        let shown = (digits.unsigned_abs() as usize).min(8);
        lua.create_string(&text[8 - shown..])
    })?;
    host.raw_set("bit_tohex", tohex)
}

/// An argument, reduced to 32 bits.
fn number(lua: &Lua, args: &MultiValue, at: usize, name: &str) -> mlua::Result<u32> {
    let got = match args.get(at) {
        Some(value) => match lua.coerce_number(value.clone())? {
            Some(number) => return Ok(reduce(number)),
            None => value.type_name(),
        },
        None => "no value",
    };
    let at = at + 1;
    let text = format!("bad argument #{at} to '{name}' (number expected, got {got})");
    Err(problem::at_line(lua, &text))
}

/// To the nearest whole number, ties to even, and then modulo 2^32; what is far too large becomes what the
/// addition of 1.5 * 2^52 leaves of it, as in the library that this one stands for.
fn reduce(value: f64) -> u32 {
    (value + 6_755_399_441_055_744.0).to_bits() as u32
}
