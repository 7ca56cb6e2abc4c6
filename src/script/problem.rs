//! Errors that the engine's functions throw into a script.

use mlua::{Lua, Value};

use super::PRELUDE;

/// An error with a text of its own, as it travels through Lua.
#[derive(Debug)]
pub struct Problem {
    /// The text.
    pub text: String,
    /// The text begins with an error code and is an error reply as it stands. Otherwise it is what
    /// Lua's own functions throw.
    pub coded: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Problem {}

/// An error reply to throw.
pub fn coded(text: impl Into<String>) -> mlua::Error {
    mlua::Error::external(Problem {
        text: text.into(),
        coded: true,
    })
}

/// An error to throw that begins with the place of the caller, as those of Lua's libraries do.
pub fn at_line(lua: &Lua, text: &str) -> mlua::Error {
    let place = lua.inspect_stack(1, |frame| {
        let source = frame.source().short_src?.into_owned();
        Some((source, frame.current_line()?))
    });
    let text = match place.flatten() {
        Some((source, line)) => format!("{source}:{line}: {text}"),
        None => text.to_string(),
    };
    mlua::Error::external(Problem { text, coded: false })
}

/// The problem inside of what was caught.
fn find(error: &mlua::Error) -> Option<&Problem> {
    match error {
        mlua::Error::CallbackError { cause, .. } => find(cause),
        other => other.downcast_ref(),
    }
}

/// The text of an error that Rust code threw and whether it is coded; nothing for other values.
pub fn text_of(problem: &Value) -> (Option<String>, bool) {
    let Value::Error(error) = problem else {
        return (None, false);
    };
    match find(error) {
        Some(problem) => (Some(problem.text.clone()), problem.coded),
        None => match &**error {
            mlua::Error::CallbackError { cause, .. } => (Some(cause.to_string()), false),
            other => (Some(other.to_string()), false),
        },
    }
}

/// Turns whatever was thrown into a table with the text and the place in the script.
pub fn describe(lua: &Lua, problem: Value) -> mlua::Result<Value> {
    let table = match &problem {
        Value::Table(table) => table.clone(),
        other => {
            let text = match text_of(other) {
                (Some(text), true) => text,
                (Some(text), false) => format!("ERR {text}"),
                _ => match other {
                    Value::String(text) => format!("ERR {}", text.to_string_lossy()),
                    other => format!("ERR {}", other.to_string()?),
                },
            };
            let table = lua.create_table()?;
            table.raw_set("err", text)?;
            table
        }
    };
    for level in 1.. {
        let place = lua.inspect_stack(level, |frame| {
            let source = frame.source().source.map(|source| source.into_owned());
            (source, frame.current_line())
        });
        match place {
            Some((Some(source), Some(line))) if source != PRELUDE => {
                table.raw_set("source", source)?;
                table.raw_set("line", line)?;
                break;
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(Value::Table(table))
}
