//! Lua scripts and functions: EVAL, FCALL, SCRIPT and FUNCTION.
//!
//! Each core owns one [`ScriptEngine`]; all of them share the sources ([`Scripts`]). A script runs with
//! all shards present and is atomic to clients. Commands that it calls go through a [`Host`], which is
//! how the node sees each of them as if a client had sent it.

mod bits;
mod calls;
mod convert;
mod functions;
mod json;
mod library;
mod msgpack;
mod payload;
mod problem;
mod random;
mod running;
mod scripts;
mod shebang;
mod structs;
#[cfg(test)]
mod tests;
mod watch;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use mlua::{
    Function, HookTriggers, Lua, LuaOptions, StdLib, Table as LuaTable, Value, VmState,
    chunk::ChunkMode,
};

pub use payload::write as payload;
pub use running::Running;
pub use scripts::{Scripts, Sha};

use self::{
    calls::Caller,
    functions::Loaded,
    library::{Flags, Library},
    running::View,
    watch::{End, Watch},
};
use crate::{
    acl::{Asked, Denied, User},
    base::{Ms, parse_i64},
    cmd::{self, Ctx, Run, Spec, Table},
    resp::{Args, Error, Out, OwnedArgs},
};

/// Tells monotonic milliseconds; nothing once the node stops, which ends what runs.
pub type Clock = Box<dyn Fn() -> Option<Ms>>;

/// What scripts may use at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nobody else is there to end a script, so it is stopped with an error where others would be told
    /// that the node is busy. What it wrote stays written.
    pub alone: bool,
    /// Bytes that the engine's Lua state may hold, its compiled scripts included.
    pub memory: usize,
}

/// Compiled scripts that an engine keeps; at this number it forgets them all and compiles anew.
const COMPILED_MAX: usize = 4096;
/// Machine steps between two looks at the clock.
const STEPS: u32 = 20_000;
/// The names that scripts and libraries have in error messages.
const CHUNK: &str = "@user_script";
const LIBRARY_CHUNK: &str = "@user_function";
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
                let _ = cmd::run(ctx, spec, function, args);
                true
            }
            _ => plain_session(ctx, spec, args),
        }
    }

    /// Whose rights the script has; nothing if it may do everything.
    fn user(&self) -> Option<Arc<User>> {
        None
    }

    /// It was refused something.
    fn note_denied(&mut self, asked: &Asked<'_>, denied: Denied) {
        let _ = (asked, denied);
    }

    /// Why a script that says of itself that it writes may not be run.
    fn why_no_writes(&self) -> Option<Error> {
        None
    }

    /// Does the node hold more than `maxmemory`?
    fn is_over_memory(&self) -> bool {
        false
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
        "SELECT" => {
            // For the rest of the script: the client's own database comes back behind it.
            let count = ctx
                .shards
                .iter_mut()
                .next()
                .map_or(0, |(_, shard)| shard.database_count());
            match cmd::select(args, count) {
                Ok(db) => {
                    ctx.db = db;
                    ctx.out.ok();
                }
                Err(error) => ctx.out.error(&error),
            }
        }
        "TIME" => {
            // The time stands still while a script runs.
            ctx.out.array(2);
            ctx.out.bulk_int((ctx.now / 1000) as i64);
            ctx.out.bulk_int((ctx.now % 1000 * 1000) as i64);
        }
        "MEMORY" => {
            if let Run::Store(function) = cmd::MEMORY_USAGE.run {
                let _ = cmd::run(ctx, &cmd::MEMORY_USAGE, function, args);
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
    /// Libraries that were run in this state, those of this version of `scripts`.
    libraries: BTreeMap<String, Loaded>,
    libraries_version: u64,
    /// Which library has the function of this name, which is in lower case here.
    functions: BTreeMap<Vec<u8>, (Arc<Library>, String)>,
    table: Rc<Table>,
    prelude: Prelude,
    watch: Rc<Watch>,
    limits: Limits,
}

/// What the prelude gives the engine.
struct Prelude {
    /// Globals of scripts, and of libraries.
    script_env: LuaTable,
    library_env: LuaTable,
    run_script: Function,
    run_function: Function,
    load_library: Function,
}

#[derive(Clone)]
struct Compiled {
    function: Function,
    /// What the script says of itself; nothing if it is of the kind that says nothing.
    flags: Option<Flags>,
}

/// What is to be run.
struct Job<'a> {
    /// The name in errors: the sum of a script, the name of a function.
    name: &'a str,
    function: &'a Function,
    is_function: bool,
    flags: Option<Flags>,
    /// It was called by a command that must not write.
    read_only: bool,
    args: Args<'a>,
    /// Arguments that are keys.
    keys: usize,
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
    /// An engine for this core.
    ///
    /// # Errors
    /// [`EngineError`]: the node should not start without scripts silently.
    pub fn new(scripts: Scripts, limits: Limits, clock: Clock) -> Result<Self, EngineError> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let watch = Watch::new(clock, scripts.clone(), limits.alone);
        let watch = Rc::new(watch);
        let table = Rc::new(Table::build());
        let host = watch::host_functions(&lua, &watch, &table)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name(PRELUDE);
        let (script_env, library_env, run_script, run_function, load_library) =
            prelude.call(host)?;
        let hook = watch.clone();
        lua.set_global_hook(
            HookTriggers::new().every_nth_instruction(STEPS),
            move |_, _| {
                hook.look()?;
                Ok(VmState::Continue)
            },
        )?;
        lua.set_memory_limit(limits.memory)?;
        Ok(Self {
            lua,
            generation: scripts.generation(),
            scripts,
            compiled: BTreeMap::new(),
            libraries: BTreeMap::new(),
            libraries_version: 0,
            functions: BTreeMap::new(),
            table,
            prelude: Prelude {
                script_env,
                library_env,
                run_script,
                run_function,
                load_library,
            },
            watch,
            limits,
        })
    }

    /// EVAL, EVALSHA, FCALL and their `_RO` forms as a client sent them. The reply is in `ctx.out` unless
    /// an error is returned. `ctx.dirty` counts the changes of all commands that the script called,
    /// also where it failed at the end.
    ///
    /// # Errors
    /// The reply of Redis: a script that is not known, does not compile, or fails.
    pub fn run(
        &mut self,
        ctx: &mut Ctx<'_>,
        host: &mut dyn Host,
        args: Args<'_>,
    ) -> Result<(), Error> {
        let starts = |word: &[u8]| {
            args.at(0)
                .get(..word.len())
                .is_some_and(|name| name.eq_ignore_ascii_case(word))
        };
        let read_only = args.at(0).to_ascii_uppercase().ends_with(b"_RO");
        if starts(b"FCALL") {
            return self.call_function(ctx, host, args, read_only);
        }
        if starts(b"EVALSHA") && args.at(1).len() != 40 {
            return Err(NO_SCRIPT);
        }
        let keys = parse_i64(args.at(2)).ok_or(Error::NOT_INTEGER)?;
        let keys = key_count(keys, args)?;
        self.forget_flushed();
        let (sha, compiled) = if starts(b"EVALSHA") {
            self.known(args.at(1))?
        } else {
            let sha = Sha::of(args.at(1));
            (sha, self.compile(sha, args.at(1), true)?)
        };
        let job = Job {
            name: &sha.to_string(),
            function: &compiled.function,
            is_function: false,
            flags: compiled.flags,
            read_only,
            args,
            keys,
        };
        self.execute(ctx, host, job)
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
            fits(args.len() == 2, "script|kill")?;
            self.scripts.running().kill(false)?;
            out.ok();
        } else if is(b"DEBUG") {
            fits(args.len() == 3, "script|debug")?;
            let mode = args[2].to_ascii_uppercase();
            match &mode[..] {
                b"NO" => out.ok(),
                b"YES" | b"SYNC" => {
                    return Err(Error::fixed("ERR SCRIPT DEBUG is not supported"));
                }
                _ => return Err(Error::fixed("ERR Use SCRIPT DEBUG YES/SYNC/NO")),
            }
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
        let (code, flags) = shebang::split(source)?;
        let env = self.prelude.script_env.clone();
        let function = self.chunk(code, CHUNK, env).map_err(|text| {
            Error::text(format!("ERR Error compiling script (new function): {text}"))
        })?;
        let compiled = Compiled { function, flags };
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(sha, compiled.clone());
        if share {
            self.scripts.add(sha, source);
        }
        Ok(compiled)
    }

    /// Compiles code, or says what is wrong with it.
    fn chunk(&self, code: &[u8], name: &str, env: LuaTable) -> Result<Function, String> {
        if code.first() == Some(&27) {
            // The machine trusts compiled code, and crafted code breaks out of it.
            let name = name.trim_start_matches('@');
            return Err(format!("{name}:1: unexpected symbol near 'char(27)'"));
        }
        let chunk = self.lua.load(code).set_name(name);
        let chunk = chunk.set_mode(ChunkMode::Text).set_environment(env);
        chunk.into_function().map_err(|error| match error {
            mlua::Error::SyntaxError { message, .. } => message,
            other => other.to_string(),
        })
    }

    fn execute(
        &mut self,
        ctx: &mut Ctx<'_>,
        host: &mut dyn Host,
        job: Job<'_>,
    ) -> Result<(), Error> {
        // Frames of a primary are obeyed: what ran there runs here.
        if !ctx.from_primary {
            permit(host, &job)?;
        }
        let flags = job.flags.unwrap_or_default();
        self.watch.begin(View {
            function: job
                .is_function
                .then(|| (job.name.to_string(), OwnedArgs::copy(job.args.iter()))),
            from_primary: ctx.from_primary,
            has_written: false,
        });
        let (may_block, db) = (std::mem::replace(&mut ctx.may_block, false), ctx.db);
        self.watch.user.replace(host.user());
        let mut caller = Caller {
            read_only: job.read_only || flags.has(Flags::NO_WRITES),
            refuse_growth: !ctx.from_primary
                && !flags.has(Flags::ALLOW_OOM)
                && host.is_over_memory(),
            ctx,
            host,
            table: &self.table,
            watch: &self.watch,
            replies: Out::default(),
            count: 0,
        };
        let result = self.enter(&mut caller, &job);
        let Caller { ctx, host, .. } = caller;
        self.watch.user.take();
        (ctx.may_block, ctx.db) = (may_block, db);
        for (level, text) in self.watch.finish() {
            host.log(level, &text);
        }
        // Lua 5.1 does not collect when it runs out of memory: the next script must not pay for it.
        if self.lua.used_memory() > self.limits.memory / 4 * 3 {
            let _ = self.lua.gc_collect();
        }
        match result {
            Ok((true, value)) => convert::write_reply(ctx.out, &value, self.watch.proto.get()),
            Ok((false, problem)) => Err(self.failure(job.name, &problem)),
            Err(error) => Err(Error::text(format!("ERR Error running script: {error}"))),
        }
    }

    fn enter(&self, caller: &mut Caller<'_, '_>, job: &Job<'_>) -> mlua::Result<(bool, Value)> {
        let strings = |from: usize, to: usize| {
            let list = self.lua.create_table_with_capacity(to - from, 0)?;
            for at in from..to {
                list.raw_push(self.lua.create_string(job.args.at(at))?)?;
            }
            Ok::<_, mlua::Error>(list)
        };
        // The command, what to run and the number of keys come first.
        let keys = strings(3, 3 + job.keys)?;
        let args = strings(3 + job.keys, job.args.len())?;
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
            if job.is_function {
                // A function may keep what it finds in `redis`, so that what it finds there stays.
                self.watch.calls.replace(Some([call, protected]));
                let run = &self.prelude.run_function;
                return run.call((job.function, keys, args));
            }
            let run = &self.prelude.run_script;
            run.call((job.function, call, protected, keys, args))
        })
    }

    /// The error reply of a script or function that failed.
    fn failure(&self, name: &str, problem: &Value) -> Error {
        let Value::Table(problem) = problem else {
            let text = problem.to_string().unwrap_or_default();
            return Error::text(format!("ERR {text} script: {name}"));
        };
        let field = |name: &str| match problem.raw_get::<Value>(name) {
            Ok(Value::Nil) | Err(_) => None,
            Ok(Value::String(text)) => Some(text.to_string_lossy()),
            Ok(value) => value.to_string().ok(),
        };
        let text = match self.watch.ended() {
            Some(End::TooLong) => format!(
                "ERR Script stopped after {} ms, the time limit of scripts on a node with one core.",
                self.scripts.running().busy_ms()
            ),
            Some(End::Stopping) => "ERR The node stops.".into(),
            Some(End::Killed) => "ERR Script killed by user with SCRIPT KILL...".into(),
            _ => field("err").unwrap_or_else(|| "ERR unknown error".into()),
        };
        match (field("source"), field("line")) {
            (Some(source), Some(line)) => {
                Error::text(format!("{text} script: {name}, on {source}:{line}."))
            }
            _ => Error::text(format!("{text} script: {name}")),
        }
    }
}

const NO_SCRIPT: Error = Error::fixed("NOSCRIPT No matching script. Please use EVAL.");

/// How many of the arguments behind the third are keys.
fn key_count(count: i64, args: Args<'_>) -> Result<usize, Error> {
    let count =
        usize::try_from(count).map_err(|_| Error::fixed("ERR Number of keys can't be negative"))?;
    if count > args.len() - 3 {
        return Err(Error::fixed(
            "ERR Number of keys can't be greater than number of args",
        ));
    }
    Ok(count)
}

/// Refuses what says of itself that it writes, where nothing may be written.
fn permit(host: &dyn Host, job: &Job<'_>) -> Result<(), Error> {
    let Some(flags) = job.flags else {
        return Ok(());
    };
    if flags.has(Flags::NO_WRITES) {
        return Ok(());
    }
    if let Some(error) = host.why_no_writes() {
        return Err(error);
    }
    if job.read_only {
        return Err(Error::fixed(
            "ERR Can not execute a script with write flag using *_ro command.",
        ));
    }
    if !flags.has(Flags::ALLOW_OOM) && host.is_over_memory() {
        return Err(Error::fixed(
            "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
        ));
    }
    Ok(())
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
