//! Rows of the scripting commands. Their work is done by `script::ScriptEngine`, of which each core has
//! one; whoever owns it says how it is called.

use super::{Keys, Run, Spec, effects::Rule, flag::*};

const EVAL: u32 = NO_SCRIPT | STALE | MOVABLE_KEYS;

/// Rows of this family.
///
/// A script may reach for any key, so that all shards have to be there ([`Keys::All`]). The rows are no
/// writes themselves: what a script calls is judged command by command.
pub const COMMANDS: &[Spec] = &[
    row("EVAL", -3, EVAL, Keys::All, "Runs a Lua script"),
    row(
        "EVALSHA",
        -3,
        EVAL,
        Keys::All,
        "Runs a Lua script by the SHA-1 of its source",
    ),
    row(
        "EVAL_RO",
        -3,
        EVAL | READ,
        Keys::All,
        "Runs a Lua script that must not write",
    ),
    row(
        "EVALSHA_RO",
        -3,
        EVAL | READ,
        Keys::All,
        "Runs a Lua script that must not write by the SHA-1 of its source",
    ),
    row("FCALL", -3, EVAL, Keys::All, "Runs a function"),
    row(
        "FCALL_RO",
        -3,
        EVAL | READ,
        Keys::All,
        "Runs a function that must not write",
    ),
    row(
        "FUNCTION",
        -2,
        NO_SCRIPT,
        Keys::Libraries,
        "Loads, shows and forgets libraries of functions",
    ),
    row(
        "SCRIPT",
        -2,
        NO_SCRIPT,
        Keys::None,
        "Loads, finds and forgets Lua scripts",
    ),
];

const fn row(
    name: &'static str,
    arity: i16,
    flags: u32,
    keys: Keys,
    summary: &'static str,
) -> Spec {
    Spec {
        name,
        arity,
        flags,
        keys,
        summary,
        run: Run::Script,
        effect: Rule::None,
    }
}
