//! `math.random` as Redis has it: the same numbers on every machine from a given seed.

use mlua::{Lua, MultiValue, Value};

use super::problem;

/// A generator of 48 bits, that of `drand48`.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x1234_abcd_330e)
    }
}

impl Random {
    /// The generator after `math.randomseed(seed)`.
    pub fn seeded(seed: u32) -> Self {
        Self(u64::from(seed) << 16 | 0x330e)
    }

    /// 31 bits.
    fn next(&mut self) -> u32 {
        const MULTIPLIER: u64 = 0x5_deec_e66d;
        self.0 = self.0.wrapping_mul(MULTIPLIER).wrapping_add(0xb) & ((1 << 48) - 1);
        (self.0 >> 17) as u32
    }

    /// `math.random`.
    ///
    /// # Errors
    /// Those of the function of Lua.
    pub fn between(&mut self, lua: &Lua, args: &MultiValue) -> mlua::Result<f64> {
        const MAX: u32 = i32::MAX as u32;
        let chance = f64::from(self.next() % MAX) / f64::from(MAX);
        let empty = |at: usize| {
            let text = format!("bad argument #{at} to 'random' (interval is empty)");
            Err(problem::at_line(lua, &text))
        };
        match args.len() {
            0 => Ok(chance),
            1 => {
                let high = whole(lua, args, 0)?;
                if high < 1 {
                    return empty(1);
                }
                Ok((chance * high as f64).floor() + 1.0)
            }
            2 => {
                let (low, high) = (whole(lua, args, 0)?, whole(lua, args, 1)?);
                if low > high {
                    return empty(2);
                }
                let count = high.wrapping_sub(low).wrapping_add(1);
                Ok((chance * f64::from(count)).floor() + f64::from(low))
            }
            _ => Err(problem::at_line(lua, "wrong number of arguments")),
        }
    }
}

/// An argument as a 32-bit number.
fn whole(lua: &Lua, args: &MultiValue, at: usize) -> mlua::Result<i32> {
    let value = args.get(at).cloned().unwrap_or(Value::Nil);
    match lua.coerce_number(value.clone())? {
        Some(number) => Ok(number as i64 as i32),
        None => {
            let (at, got) = (at + 1, value.type_name());
            let text = format!("bad argument #{at} to 'random' (number expected, got {got})");
            Err(problem::at_line(lua, &text))
        }
    }
}
