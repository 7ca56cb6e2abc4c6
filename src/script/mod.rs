//! Lua scripts: EVAL and SCRIPT.
//!
//! Each core owns one [`ScriptEngine`]; all of them share the sources ([`Scripts`]). A script runs with
//! all shards present and is atomic to clients. Commands that it calls go through a [`Host`], which is
//! how the node sees each of them as if a client had sent it.

mod bits;
mod convert;
mod json;
mod msgpack;
mod problem;
mod scripts;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use mlua::{
    Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table as LuaTable, Value, VmState,
    chunk::ChunkMode,
};

pub use scripts::{Scripts, Sha};

use crate::{
    base::{Ms, Rng, parse_i64},
    cmd::{self, Ctx, Run, Spec, Table, flag},
    resp::{Args, Error, Out, OwnedArgs, Proto},
};

/// What a script may use at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a script runs before it is stopped with an error. What it wrote stays written.
    pub run_ms: Ms,
    /// Bytes that the engine's Lua state may hold, its compiled scripts included.
    pub memory: usize,
}

/// Compiled scripts that an engine keeps; at this number it forgets them all and compiles anew.
const COMPILED_MAX: usize = 4096;
/// Machine steps between two looks at the clock.
const STEPS: u32 = 20_000;
/// The name that scripts have in error messages.
const CHUNK: &str = "@user_script";
/// The name of the engine's own Lua code, which no error points at.
const PRELUDE: &str = "@prelude";

/// What runs the commands that a script calls. The node implements it to record effects, to refuse
/// writes on a replica and to answer commands that need more than stores.
pub trait Host {
    /// Runs one command that exists, has the right number of arguments and is allowed in scripts. The
    /// reply goes to `ctx.out`; `ctx.may_block` is false. False if the command cannot be called from
    /// scripts, and then nothing was written.
    fn command(&mut self, ctx: &mut Ctx<'_>, spec: &'static Spec, args: Args<'_>) -> bool {
        match spec.run {
            Run::Store(function) => {
                let _ = cmd::run(ctx, function, args);
                true
            }
            _ => plain_session(ctx, spec, args),
        }
    }

    /// A line of `redis.log`; levels from 0 (debug) to 3 (warning).
    fn log(&mut self, level: u8, text: &str) {
        let _ = (level, text);
    }
}

/// A host that runs store commands and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoresOnly;

impl Host for StoresOnly {}

/// The commands of a session that need neither connection nor node.
///
/// A host that answers more of them falls back to this.
pub fn plain_session(ctx: &mut Ctx<'_>, spec: &'static Spec, args: Args<'_>) -> bool {
    match spec.name {
        "PING" => match args.get(1) {
            Some(text) => ctx.out.bulk(text),
            None => ctx.out.simple("PONG"),
        },
        "ECHO" => ctx.out.bulk(args.at(1)),
        "TIME" => {
            // The time stands still while a script runs.
            ctx.out.array(2);
            ctx.out.bulk_int((ctx.now / 1000) as i64);
            ctx.out.bulk_int((ctx.now % 1000 * 1000) as i64);
        }
        "MEMORY" => {
            if let Run::Store(function) = cmd::MEMORY_USAGE.run {
                let _ = cmd::run(ctx, function, args);
            }
        }
        _ => return false,
    }
    true
}

/// One core's Lua state.
pub struct ScriptEngine {
    lua: Lua,
    scripts: Scripts,
    /// Compiled sources, valid for this generation of `scripts`.
    compiled: BTreeMap<Sha, Compiled>,
    generation: u64,
    table: Table,
    run: Function,
    env: LuaTable,
    watch: Rc<Watch>,
    limits: Limits,
}

#[derive(Clone)]
struct Compiled {
    function: Function,
    /// The script says of itself (`#!lua flags=no-writes`) that it writes nothing.
    read_only: bool,
}

/// What the functions that Lua calls share with the engine.
struct Watch {
    clock: Box<dyn Fn() -> Ms>,
    deadline: Cell<Ms>,
    expired: Cell<bool>,
    /// RESP version that replies to the script come in.
    proto: Cell<Proto>,
    rng: RefCell<Rng>,
    logged: RefCell<Vec<(u8, String)>>,
}

/// The engine cannot be built: the Lua state refused its own prelude or memory.
#[derive(Debug)]
pub struct EngineError(mlua::Error);

impl std::fmt::Display for EngineError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "the Lua state cannot be set up: {}", self.0)
    }
}

impl std::error::Error for EngineError {}

impl From<mlua::Error> for EngineError {
    fn from(error: mlua::Error) -> Self {
        EngineError(error)
    }
}

impl ScriptEngine {
    /// An engine for this core. `clock` tells monotonic milliseconds; it is asked while a script runs.
    ///
    /// # Errors
    /// [`EngineError`]: the node should not start without scripts silently.
    pub fn new(
        scripts: Scripts,
        limits: Limits,
        clock: Box<dyn Fn() -> Ms>,
    ) -> Result<Self, EngineError> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let watch = Rc::new(Watch {
            clock,
            deadline: Cell::new(Ms::MAX),
            expired: Cell::new(false),
            proto: Cell::new(Proto::Two),
            rng: RefCell::new(Rng::seeded(0)),
            logged: RefCell::new(Vec::new()),
        });
        let host = host_functions(&lua, &watch)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name(PRELUDE);
        let (env, run): (LuaTable, Function) = prelude.call(host)?;
        let hook = watch.clone();
        lua.set_global_hook(
            HookTriggers::new().every_nth_instruction(STEPS),
            move |_, _| {
                if (hook.clock)() >= hook.deadline.get() {
                    hook.expired.set(true);
                    return Err(mlua::Error::RuntimeError("timeout".into()));
                }
                Ok(VmState::Continue)
            },
        )?;
        lua.set_memory_limit(limits.memory)?;
        Ok(Self {
            lua,
            generation: scripts.generation(),
            scripts,
            compiled: BTreeMap::new(),
            table: Table::build(),
            run,
            env,
            watch,
            limits,
        })
    }

    /// EVAL, EVALSHA, EVAL_RO and EVALSHA_RO as a client sent them. The reply is in `ctx.out` unless
    /// an error is returned. `ctx.dirty` counts the changes of all commands that the script called,
    /// also where it failed at the end.
    ///
    /// # Errors
    /// The reply of Redis: a script that is not known, does not compile, or fails.
    pub fn eval(
        &mut self,
        ctx: &mut Ctx<'_>,
        host: &mut dyn Host,
        args: Args<'_>,
    ) -> Result<(), Error> {
        let name = args.at(0);
        let by_sha = name.len() >= 7 && name[..7].eq_ignore_ascii_case(b"EVALSHA");
        let read_only = name.len() > 3 && name[name.len() - 3..].eq_ignore_ascii_case(b"_RO");
        let keys = parse_i64(args.at(2)).ok_or(Error::NOT_INTEGER)?;
        let keys = usize::try_from(keys)
            .map_err(|_| Error::fixed("ERR Number of keys can't be negative"))?;
        if keys > args.len() - 3 {
            return Err(Error::fixed(
                "ERR Number of keys can't be greater than number of args",
            ));
        }
        self.forget_flushed();
        let (sha, compiled) = if by_sha {
            self.known(args.at(1))?
        } else {
            let sha = Sha::of(args.at(1));
            (sha, self.compile(sha, args.at(1), true)?)
        };
        self.execute(ctx, host, sha, &compiled, args.rest(3), keys, read_only)
    }

    /// SCRIPT LOAD, EXISTS, FLUSH, KILL, DEBUG and HELP.
    ///
    /// # Errors
    /// The reply of Redis.
    pub fn script(&mut self, out: &mut Out, args: Args<'_>) -> Result<(), Error> {
        let word = args.at(1);
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        let fits = |fits: bool, name: &str| {
            if fits {
                Ok(())
            } else {
                Err(Error::arity(name))
            }
        };
        self.forget_flushed();
        if is(b"LOAD") {
            fits(args.len() == 3, "script|load")?;
            let sha = Sha::of(args.at(2));
            self.compile(sha, args.at(2), true)?;
            out.bulk_str(&sha.to_string());
        } else if is(b"EXISTS") {
            fits(args.len() >= 3, "script|exists")?;
            out.array(args.len() - 2);
            for text in args.rest(2).iter() {
                out.flag(Sha::parse(text).is_some_and(|sha| self.scripts.get(sha).is_some()));
            }
        } else if is(b"FLUSH") {
            let mode = args.get(2).unwrap_or(b"SYNC");
            let known = mode.eq_ignore_ascii_case(b"SYNC") || mode.eq_ignore_ascii_case(b"ASYNC");
            if args.len() > 3 || !known {
                return Err(Error::fixed(
                    "ERR SCRIPT FLUSH only support SYNC|ASYNC option",
                ));
            }
            self.scripts.flush();
            self.forget_flushed();
            out.ok();
        } else if is(b"KILL") {
            // A script holds its core until it ends; whoever asks was not let in before.
            fits(args.len() == 2, "script|kill")?;
            return Err(Error::fixed("NOTBUSY No scripts in execution right now."));
        } else if is(b"DEBUG") {
            fits(args.len() == 3, "script|debug")?;
            if !args[2].eq_ignore_ascii_case(b"NO") {
                return Err(Error::fixed("ERR SCRIPT DEBUG is not supported"));
            }
            out.ok();
        } else if is(b"HELP") {
            fits(args.len() == 2, "script|help")?;
            out.array(HELP.len());
            for line in HELP {
                out.simple(line);
            }
        } else {
            let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
            return Err(Error::text(format!(
                "ERR unknown subcommand '{word}'. Try SCRIPT HELP."
            )));
        }
        Ok(())
    }

    /// Drops compiled scripts after SCRIPT FLUSH, wherever it was sent.
    fn forget_flushed(&mut self) {
        let generation = self.scripts.generation();
        if generation != self.generation {
            self.generation = generation;
            self.compiled.clear();
        }
    }

    fn known(&mut self, text: &[u8]) -> Result<(Sha, Compiled), Error> {
        const NO_SCRIPT: Error = Error::fixed("NOSCRIPT No matching script. Please use EVAL.");
        let sha = Sha::parse(text).ok_or(NO_SCRIPT)?;
        if let Some(compiled) = self.compiled.get(&sha) {
            return Ok((sha, compiled.clone()));
        }
        let source = self.scripts.get(sha).ok_or(NO_SCRIPT)?;
        Ok((sha, self.compile(sha, &source, false)?))
    }

    /// Compiles a source unless it is compiled, and shares it with the other cores if `share`.
    fn compile(&mut self, sha: Sha, source: &[u8], share: bool) -> Result<Compiled, Error> {
        if let Some(compiled) = self.compiled.get(&sha) {
            return Ok(compiled.clone());
        }
        let (code, read_only) = shebang(source)?;
        let chunk = self.lua.load(code).set_name(CHUNK);
        let chunk = chunk
            .set_mode(ChunkMode::Text)
            .set_environment(self.env.clone());
        let function = chunk.into_function().map_err(|error| {
            let text = match error {
                mlua::Error::SyntaxError { message, .. } => message,
                other => other.to_string(),
            };
            Error::text(format!("ERR Error compiling script (new function): {text}"))
        })?;
        let compiled = Compiled {
            function,
            read_only,
        };
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(sha, compiled.clone());
        if share {
            self.scripts.add(sha, source);
        }
        Ok(compiled)
    }

    #[allow(clippy::too_many_arguments)]
    fn execute(
        &mut self,
        ctx: &mut Ctx<'_>,
        host: &mut dyn Host,
        sha: Sha,
        compiled: &Compiled,
        args: Args<'_>,
        keys: usize,
        read_only: bool,
    ) -> Result<(), Error> {
        let watch = &self.watch;
        watch.expired.set(false);
        watch.proto.set(Proto::Two);
        watch.rng.replace(Rng::seeded(0));
        watch
            .deadline
            .set((watch.clock)().saturating_add(self.limits.run_ms));
        let (may_block, db) = (std::mem::replace(&mut ctx.may_block, false), ctx.db);

        let mut caller = Caller {
            ctx,
            host,
            table: &self.table,
            watch,
            read_only: read_only || compiled.read_only,
            replies: Out::default(),
        };
        let result = self.enter(&mut caller, compiled, args, keys);
        let Caller { ctx, host, .. } = caller;
        watch.deadline.set(Ms::MAX);
        (ctx.may_block, ctx.db) = (may_block, db);
        for (level, text) in watch.logged.take() {
            host.log(level, &text);
        }
        // Lua 5.1 does not collect when it runs out of memory: the next script must not pay for it.
        if self.lua.used_memory() > self.limits.memory / 4 * 3 {
            let _ = self.lua.gc_collect();
        }
        match result {
            Ok((true, value)) => convert::write_reply(ctx.out, &value, watch.proto.get()),
            Ok((false, problem)) => Err(self.failure(sha, &problem)),
            Err(error) => Err(Error::text(format!("ERR Error running script: {error}"))),
        }
    }

    fn enter(
        &self,
        caller: &mut Caller<'_, '_>,
        compiled: &Compiled,
        args: Args<'_>,
        keys: usize,
    ) -> mlua::Result<(bool, Value)> {
        let strings = |args: Args<'_>, from: usize, to: usize| {
            let list = self.lua.create_table_with_capacity(to - from, 0)?;
            for at in from..to {
                list.raw_push(self.lua.create_string(args.at(at))?)?;
            }
            Ok::<_, mlua::Error>(list)
        };
        let key_list = strings(args, 0, keys)?;
        let arg_list = strings(args, keys, args.len())?;
        let function = compiled.function.clone();
        let caller = RefCell::new(caller);
        self.lua.scope(|scope| {
            let call = scope.create_function(|lua, args| {
                match caller.borrow_mut().call(lua, args)? {
                    (value, None) => Ok(value),
                    (_, Some(text)) => Err(problem::coded(text)),
                }
            })?;
            let protected = scope.create_function(|lua, args| {
                match caller.borrow_mut().call(lua, args)? {
                    (value, None) => Ok(value),
                    (_, Some(text)) => convert::error_table(lua, text.as_bytes()),
                }
            })?;
            self.run
                .call((function, call, protected, key_list, arg_list))
        })
    }

    /// The error reply of a script that failed.
    fn failure(&self, sha: Sha, problem: &Value) -> Error {
        if self.watch.expired.get() {
            let limit = self.limits.run_ms;
            return Error::text(format!(
                "ERR Script stopped after {limit} ms, the time limit of scripts. script: {sha}"
            ));
        }
        let Value::Table(problem) = problem else {
            let text = problem.to_string().unwrap_or_default();
            return Error::text(format!("ERR {text} script: {sha}"));
        };
        let field = |name: &str| match problem.raw_get::<Value>(name) {
            Ok(Value::Nil) | Err(_) => None,
            Ok(value) => value.to_string().ok(),
        };
        let text = field("err").unwrap_or_else(|| "ERR unknown error".into());
        match (field("source"), field("line")) {
            (Some(source), Some(line)) => {
                Error::text(format!("{text} script: {sha}, on {source}:{line}."))
            }
            _ => Error::text(format!("{text} script: {sha}")),
        }
    }
}

const HELP: &[&str] = &[
    "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DEBUG (YES|SYNC|NO)",
    "    Set the debug mode for subsequent scripts executed.",
    "EXISTS <sha1> [<sha1> ...]",
    "    Return information about the existence of the scripts in the script cache.",
    "FLUSH [ASYNC|SYNC]",
    "    Flush the Lua scripts cache. Very dangerous on replicas.",
    "    When called without the optional mode argument, the behavior is determined by the",
    "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
    "    * ASYNC: Asynchronously flush the scripts cache.",
    "    * SYNC: Synchronously flush the scripts cache.",
    "KILL",
    "    Kill the currently executing Lua script.",
    "LOAD <script>",
    "    Load a script into the scripts cache without executing it.",
    "HELP",
    "    Prints this help.",
];

/// Splits `#!lua flags=...` off the first line; an empty line stays, so that line numbers fit.
fn shebang(source: &[u8]) -> Result<(&[u8], bool), Error> {
    if !source.starts_with(b"#!") {
        return Ok((source, false));
    }
    let end = source.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or(Error::fixed("ERR Invalid script shebang"))?;
    let line = String::from_utf8_lossy(&source[..end]);
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("#!lua") => {}
        other => {
            let engine = other.unwrap_or_default();
            return Err(Error::text(format!(
                "ERR Unexpected engine in script shebang: {engine}"
            )));
        }
    }
    let mut read_only = false;
    for word in words {
        let Some(flags) = word.strip_prefix("flags=") else {
            return Err(Error::text(format!(
                "ERR Unknown lua shebang option: {word}"
            )));
        };
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            match flag {
                "no-writes" => read_only = true,
                "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                _ => {
                    return Err(Error::text(format!(
                        "ERR Unexpected flag in script shebang: {flag}"
                    )));
                }
            }
        }
    }
    Ok((&source[end..], read_only))
}

/// What `redis.call` needs for the time of one run.
struct Caller<'c, 'a> {
    ctx: &'c mut Ctx<'a>,
    host: &'c mut dyn Host,
    table: &'c Table,
    watch: &'c Watch,
    read_only: bool,
    /// The reply to the command that the script called last.
    replies: Out,
}

impl Caller<'_, '_> {
    /// Runs one command; its reply as a value, or the text of an error.
    fn call(&mut self, lua: &Lua, args: MultiValue) -> mlua::Result<(Value, Option<String>)> {
        let refused = |text: &str| Ok((Value::Nil, Some(text.to_string())));
        if args.is_empty() {
            return refused("ERR Please specify at least one argument for this redis lib call");
        }
        let mut request = OwnedArgs::default();
        for arg in &args {
            if !convert::push_arg(&mut request, arg) {
                return refused("ERR Lua redis lib command arguments must be strings or integers");
            }
        }
        let request = request.as_args();
        let Some(spec) = self.table.find(request.at(0)) else {
            return refused("ERR Unknown Redis command called from script");
        };
        if !spec.fits(request.len()) {
            return refused("ERR Wrong number of args calling Redis command from script");
        }
        if spec.flags & flag::NO_SCRIPT != 0 {
            return refused("ERR This Redis command is not allowed from script");
        }
        if self.read_only && spec.is_write() {
            return refused("ERR Write commands are not allowed from read-only scripts.");
        }
        if spec.flags & flag::BLOCKING != 0 && waits(request) {
            let name = String::from_utf8_lossy(request.at(0));
            return refused(&format!(
                "ERR {name} command is not allowed with BLOCK option from scripts"
            ));
        }
        // The command writes where it always does; what the client is owed is put aside meanwhile.
        let proto = self.watch.proto.get();
        // Emptied, with its memory kept.
        let (block, _) = self.replies.take(Vec::new());
        self.replies.take(block);
        self.replies.proto = proto;
        std::mem::swap(self.ctx.out, &mut self.replies);
        let ran = self.host.command(self.ctx, spec, request);
        self.ctx.block = None;
        std::mem::swap(self.ctx.out, &mut self.replies);
        if !ran {
            return refused("ERR This Redis command is not allowed from script");
        }
        let whole;
        let mut reply = if self.replies.len() == self.replies.as_bytes().len() {
            self.replies.as_bytes()
        } else {
            whole = self.replies.to_vec();
            &whole
        };
        if let Some(line) = reply.strip_prefix(b"-") {
            return refused(String::from_utf8_lossy(line).trim_end());
        }
        Ok((convert::to_lua(lua, &mut reply)?, None))
    }
}

/// Does the request name BLOCK before its streams?
fn waits(request: Args<'_>) -> bool {
    let options = request
        .iter()
        .take_while(|arg| !arg.eq_ignore_ascii_case(b"STREAMS"));
    request.at(0)[..1].eq_ignore_ascii_case(b"X")
        && options
            .into_iter()
            .any(|arg| arg.eq_ignore_ascii_case(b"BLOCK"))
}

/// The functions that the prelude gets.
fn host_functions(lua: &Lua, watch: &Rc<Watch>) -> mlua::Result<LuaTable> {
    let host = lua.create_table()?;
    let with = |name: &str, function: Function| host.raw_set(name, function);
    with(
        "text",
        lua.create_function(|_, problem: Value| Ok(problem::text_of(&problem)))?,
    )?;
    with(
        "front",
        lua.create_function(|lua, inner: Function| {
            lua.create_function(move |_, args: MultiValue| {
                match inner.call::<(Value, Option<String>)>(args)? {
                    (value, None) => Ok(value),
                    (_, Some(text)) => Err(problem::coded(text)),
                }
            })
        })?,
    )?;
    let own = watch.clone();
    with(
        "expired",
        lua.create_function(move |_, ()| Ok(own.expired.get()))?,
    )?;
    let own = watch.clone();
    with(
        "chance",
        lua.create_function(move |_, ()| {
            let bits = own.rng.borrow_mut().next_u64() >> 11;
            Ok(bits as f64 / (1u64 << 53) as f64)
        })?,
    )?;
    let own = watch.clone();
    with(
        "randomseed",
        lua.create_function(move |_, seed: f64| {
            own.rng.replace(Rng::seeded(seed as i64 as u64));
            Ok(())
        })?,
    )?;
    let own = watch.clone();
    with(
        "setresp",
        lua.create_function(move |_, version: u8| {
            own.proto.set(if version == 3 {
                Proto::Three
            } else {
                Proto::Two
            });
            Ok(())
        })?,
    )?;
    let own = watch.clone();
    with(
        "log",
        lua.create_function(move |_, (level, text): (u8, mlua::LuaString)| {
            let mut logged = own.logged.borrow_mut();
            // A script in a loop must not fill the memory with lines.
            if logged.len() < 1000 {
                logged.push((level, text.to_string_lossy()));
            }
            Ok(())
        })?,
    )?;
    with(
        "sha1hex",
        lua.create_function(|_, text: mlua::LuaString| Ok(Sha::of(&text.as_bytes()).to_string()))?,
    )?;
    with("describe", lua.create_function(problem::describe)?)?;
    with("json_encode", lua.create_function(json::encode)?)?;
    with("json_decode", lua.create_function(json::decode)?)?;
    with("msgpack_encode", lua.create_function(msgpack::encode)?)?;
    with("msgpack_decode", lua.create_function(msgpack::decode)?)?;
    bits::register(lua, &host)?;
    host.raw_set("null", Value::NULL)?;
    host.raw_set("version", "7.2.0")?;
    host.raw_set("version_number", 0x0007_0200)?;
    Ok(host)
}
