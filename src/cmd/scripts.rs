//! Rows of the scripting commands. Their work is done by `script::ScriptEngine`, of which each core has
//! one; whoever owns it says how it is called.

use super::{Keys, Run, Spec, flag::*};

/// The rows of EVAL and its family and of SCRIPT, run by `eval` and `script`.
///
/// A script may reach for any key, so that all shards have to be there ([`Keys::All`]). The rows are no
/// writes themselves: what a script calls is judged command by command.
pub const fn rows(eval: Run, script: Run) -> [Spec; 5] {
    const EVAL: u32 = NO_SCRIPT | STALE | MOVABLE_KEYS;
    [
        Spec {
            name: "EVAL",
            arity: -3,
            flags: EVAL,
            keys: Keys::All,
            summary: "Runs a Lua script",
            run: eval,
        },
        Spec {
            name: "EVALSHA",
            arity: -3,
            flags: EVAL,
            keys: Keys::All,
            summary: "Runs a Lua script by the SHA-1 of its source",
            run: eval,
        },
        Spec {
            name: "EVAL_RO",
            arity: -3,
            flags: EVAL | READ,
            keys: Keys::All,
            summary: "Runs a Lua script that must not write",
            run: eval,
        },
        Spec {
            name: "EVALSHA_RO",
            arity: -3,
            flags: EVAL | READ,
            keys: Keys::All,
            summary: "Runs a Lua script that must not write by the SHA-1 of its source",
            run: eval,
        },
        Spec {
            name: "SCRIPT",
            arity: -2,
            flags: NO_SCRIPT,
            keys: Keys::None,
            summary: "Loads, finds and forgets Lua scripts",
            run: script,
        },
    ]
}
