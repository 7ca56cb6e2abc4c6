//! FCALL and FUNCTION: libraries as one engine has them, and as all engines share them.

use std::{collections::BTreeMap, sync::Arc};

use mlua::{Function, Value};

use super::{
    Host, Job, LIBRARY_CHUNK, ScriptEngine, key_count,
    library::{self, Libraries, Library},
    payload,
    watch::{End, Registered},
};
use crate::{
    base::{glob_match, parse_i64},
    cmd::Ctx,
    resp::{Args, Error, Out},
};

/// A library that was run in this engine's state.
pub struct Loaded {
    library: Arc<Library>,
    /// Its functions; nothing if it loaded where it was sent but not here.
    functions: Option<BTreeMap<String, Function>>,
}

impl ScriptEngine {
    /// FCALL and FCALL_RO.
    pub(super) fn call_function(
        &mut self,
        ctx: &mut Ctx<'_>,
        host: &mut dyn Host,
        args: Args<'_>,
        read_only: bool,
    ) -> Result<(), Error> {
        const UNKNOWN: Error = Error::fixed("ERR Function not found");
        self.load_changed(host);
        let name = args.at(1).to_ascii_lowercase();
        let (library, name) = self.functions.get(&name[..]).ok_or(UNKNOWN)?.clone();
        let keys = parse_i64(args.at(2)).ok_or(Error::fixed("ERR Bad number of keys provided"))?;
        let keys = key_count(keys, args)?;
        let loaded = self
            .libraries
            .get(&library.name)
            .and_then(|loaded| loaded.functions.as_ref());
        let function = loaded.and_then(|functions| functions.get(&name)).cloned();
        let function = function.ok_or_else(|| {
            let library = &library.name;
            Error::text(format!(
                "ERR Library '{library}' does not load on this core"
            ))
        })?;
        let job = Job {
            name: &name,
            function: &function,
            is_function: true,
            flags: library.functions.get(&name).map(|info| info.flags),
            read_only,
            args,
            keys,
        };
        self.execute(ctx, host, job)
    }

    /// FUNCTION LOAD, DELETE, FLUSH, LIST, STATS, DUMP, RESTORE, KILL and HELP.
    ///
    /// # Errors
    /// The reply of Redis.
    pub fn function(
        &mut self,
        out: &mut Out,
        host: &mut dyn Host,
        args: Args<'_>,
    ) -> Result<(), Error> {
        let sub = args.at(1).to_ascii_uppercase();
        let (name, fits) = match &sub[..] {
            b"LOAD" => ("load", args.len() >= 3),
            b"DELETE" => ("delete", args.len() == 3),
            b"FLUSH" => ("flush", true),
            b"LIST" => ("list", true),
            b"STATS" => ("stats", args.len() == 2),
            b"DUMP" => ("dump", args.len() == 2),
            b"RESTORE" => ("restore", args.len() >= 3),
            b"KILL" => ("kill", args.len() == 2),
            b"HELP" => ("help", args.len() == 2),
            _ => ("", true),
        };
        if !fits {
            return Err(Error::arity(&format!("function|{name}")));
        }
        match name {
            "load" => self.load(out, host, args),
            "delete" => self.delete(out, args),
            "flush" => self.flush(out, args),
            "list" => self.list(out, args),
            "stats" => self.stats(out),
            "dump" => {
                let sources = self.scripts.library_sources();
                out.bulk(&payload::write(sources.iter().map(Vec::as_slice)));
                Ok(())
            }
            "restore" => self.restore(out, host, args),
            "kill" => {
                self.scripts.running().kill(true)?;
                out.ok();
                Ok(())
            }
            "help" => {
                out.array(HELP.len());
                HELP.iter().for_each(|line| out.simple(line));
                Ok(())
            }
            _ => {
                let word = args.at(1);
                let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
                Err(Error::text(format!(
                    "ERR unknown subcommand '{word}'. Try FUNCTION HELP."
                )))
            }
        }
    }

    fn load(&mut self, out: &mut Out, host: &mut dyn Host, args: Args<'_>) -> Result<(), Error> {
        let (mut replace, code) = (false, args.len() - 1);
        for at in 2..code {
            if !args.at(at).eq_ignore_ascii_case(b"REPLACE") {
                let word = String::from_utf8_lossy(args.at(at));
                return Err(Error::text(format!("ERR Unknown option given: {word}")));
            }
            replace = true;
        }
        let (_, present) = self.scripts.libraries();
        let loaded = self.make(host, args.at(code), &present, replace)?;
        let library = loaded.library.clone();
        self.scripts.change_libraries(|libraries| {
            // Another core may have been faster.
            refuse_taken(libraries, &library.name, replace)?;
            let added = Libraries::from([(library.name.clone(), library.clone())]);
            library::join(libraries, added, true)
        })?;
        out.bulk_str(&library.name);
        self.libraries.insert(library.name.clone(), loaded);
        Ok(())
    }

    /// Runs the code of a library that is to stand beside `present`.
    fn make(
        &self,
        host: &mut dyn Host,
        code: &[u8],
        present: &Libraries,
        replace: bool,
    ) -> Result<Loaded, Error> {
        let (name, body) = library::header(code)?;
        refuse_taken(present, &name, replace)?;
        let env = self.prelude.library_env.clone();
        let chunk = self.chunk(body, LIBRARY_CHUNK, env);
        let chunk =
            chunk.map_err(|text| Error::text(format!("ERR Error compiling function: {text}")))?;
        let registered = self.register(host, chunk)?;
        if registered.is_empty() {
            return Err(Error::fixed("ERR No functions registered"));
        }
        let mut functions = BTreeMap::new();
        let mut infos = BTreeMap::new();
        for (name, (info, function)) in registered {
            infos.insert(name.clone(), info);
            functions.insert(name, function);
        }
        Ok(Loaded {
            library: Arc::new(Library {
                name,
                code: code.into(),
                functions: infos,
            }),
            functions: Some(functions),
        })
    }

    /// What the code of a library registers.
    fn register(&self, host: &mut dyn Host, chunk: Function) -> Result<Registered, Error> {
        self.watch.begin_load();
        let result = self.prelude.load_library.call::<(bool, Value)>(chunk);
        let (registered, logged) = self.watch.finish_load();
        for (level, text) in logged {
            host.log(level, &text);
        }
        let text = match (self.watch.ended(), result) {
            (Some(End::LoadTooLong), _) => "ERR FUNCTION LOAD timeout".to_string(),
            (Some(_), _) => "ERR The node stops.".into(),
            (None, Ok((true, _))) => return Ok(registered),
            (None, Ok((false, Value::Table(problem)))) => {
                let text = problem
                    .raw_get::<Option<mlua::LuaString>>("err")
                    .ok()
                    .flatten();
                text.map_or("ERR unknown error".into(), |text| text.to_string_lossy())
            }
            (None, Ok((false, other))) => other.to_string().unwrap_or_default(),
            (None, Err(error)) => error.to_string(),
        };
        Err(Error::text(format!(
            "ERR Error registering functions: {text}"
        )))
    }

    /// Loads libraries that came on any core, and forgets those that are gone.
    fn load_changed(&mut self, host: &mut dyn Host) {
        if self.scripts.libraries_version() == self.libraries_version {
            return;
        }
        let (version, libraries) = self.scripts.libraries();
        self.libraries_version = version;
        self.libraries.retain(|name, loaded| {
            libraries
                .get(name)
                .is_some_and(|library| Arc::ptr_eq(library, &loaded.library))
        });
        self.functions.clear();
        for library in libraries.values() {
            for name in library.functions.keys() {
                let key = name.to_ascii_lowercase().into_bytes();
                self.functions.insert(key, (library.clone(), name.clone()));
            }
            if self.libraries.contains_key(&library.name) {
                continue;
            }
            let functions = match self.make(host, &library.code, &Libraries::new(), false) {
                Ok(loaded) => loaded.functions,
                Err(error) => {
                    let name = &library.name;
                    host.log(
                        3,
                        &format!("library {name} does not load: {}", error.as_str()),
                    );
                    None
                }
            };
            let library = library.clone();
            self.libraries
                .insert(library.name.clone(), Loaded { library, functions });
        }
    }

    fn delete(&mut self, out: &mut Out, args: Args<'_>) -> Result<(), Error> {
        let name = String::from_utf8_lossy(args.at(2));
        self.scripts.change_libraries(|libraries| {
            let gone = libraries.remove(&*name);
            gone.map(drop).ok_or(Error::fixed("ERR Library not found"))
        })?;
        out.ok();
        Ok(())
    }

    fn flush(&mut self, out: &mut Out, args: Args<'_>) -> Result<(), Error> {
        if args.len() > 3 {
            return Err(wrong_form("FLUSH"));
        }
        let mode = args.get(2).unwrap_or(b"SYNC");
        if !mode.eq_ignore_ascii_case(b"SYNC") && !mode.eq_ignore_ascii_case(b"ASYNC") {
            return Err(Error::fixed(
                "ERR FUNCTION FLUSH only supports SYNC|ASYNC option",
            ));
        }
        self.scripts.change_libraries(|libraries| {
            libraries.clear();
            Ok(())
        })?;
        out.ok();
        Ok(())
    }

    fn list(&mut self, out: &mut Out, args: Args<'_>) -> Result<(), Error> {
        let (mut pattern, mut with_code) = (None, false);
        let mut at = 2;
        while let Some(word) = args.get(at) {
            at += 1;
            if !with_code && word.eq_ignore_ascii_case(b"WITHCODE") {
                with_code = true;
            } else if pattern.is_none() && word.eq_ignore_ascii_case(b"LIBRARYNAME") {
                let given = args.get(at);
                let given = given.ok_or(Error::fixed("ERR library name argument was not given"))?;
                pattern = Some(given.to_ascii_lowercase());
                at += 1;
            } else {
                let word = String::from_utf8_lossy(word);
                return Err(Error::text(format!("ERR Unknown argument {word}")));
            }
        }
        let (_, libraries) = self.scripts.libraries();
        let shown = libraries.values().filter(|library| {
            pattern.as_ref().is_none_or(|pattern| {
                glob_match(pattern, library.name.to_ascii_lowercase().as_bytes())
            })
        });
        let shown: Vec<_> = shown.collect();
        out.array(shown.len());
        for library in shown {
            out.map(if with_code { 4 } else { 3 });
            out.bulk_str("library_name");
            out.bulk_str(&library.name);
            out.bulk_str("engine");
            out.bulk_str("LUA");
            out.bulk_str("functions");
            out.array(library.functions.len());
            for (name, info) in &library.functions {
                out.map(3);
                out.bulk_str("name");
                out.bulk_str(name);
                out.bulk_str("description");
                out.bulk_or_null(info.description.as_deref());
                out.bulk_str("flags");
                out.set(info.flags.names().count());
                info.flags.names().for_each(|name| out.simple(name));
            }
            if with_code {
                out.bulk_str("library_code");
                out.bulk(&library.code);
            }
        }
        Ok(())
    }

    fn stats(&mut self, out: &mut Out) -> Result<(), Error> {
        let running = self.scripts.running();
        let view = running.view();
        let is_script = view
            .as_ref()
            .is_some_and(|(view, _)| view.function.is_none());
        if is_script && let Some(busy) = running.busy() {
            return Err(busy);
        }
        let function = view.and_then(|(view, ran_ms)| Some((view.function?, ran_ms)));
        out.map(2);
        out.bulk_str("running_script");
        match function {
            None => out.null(),
            Some(((name, command), ran_ms)) => {
                let command = command.as_args();
                out.map(3);
                out.bulk_str("name");
                out.bulk_str(&name);
                out.bulk_str("command");
                out.array(command.len());
                command.iter().for_each(|arg| out.bulk(arg));
                out.bulk_str("duration_ms");
                out.int(ran_ms as i64);
            }
        }
        let (_, libraries) = self.scripts.libraries();
        let functions = libraries.values().map(|library| library.functions.len());
        out.bulk_str("engines");
        out.map(1);
        out.bulk_str("LUA");
        out.map(2);
        out.bulk_str("libraries_count");
        out.len_int(libraries.len());
        out.bulk_str("functions_count");
        out.len_int(functions.sum());
        Ok(())
    }

    /// Puts libraries in the place of all there are. Those that do not load here are left out, and the log
    /// says so.
    pub fn replace_libraries(&mut self, host: &mut dyn Host, sources: &[Vec<u8>]) {
        let mut added = Libraries::new();
        let mut made = Vec::new();
        for source in sources {
            let loaded = self.make(host, source, &added, false).and_then(|loaded| {
                let library = loaded.library.clone();
                let one = Libraries::from([(library.name.clone(), library)]);
                library::join(&mut added, one, false)?;
                Ok(loaded)
            });
            match loaded {
                Ok(loaded) => made.push(loaded),
                Err(error) => {
                    let text = format!("a library does not load here: {}", error.as_str());
                    host.log(3, &text);
                }
            }
        }
        // It fails only if the change does.
        let _ = self.scripts.change_libraries(|libraries| {
            *libraries = added;
            Ok(())
        });
        for loaded in made {
            self.libraries.insert(loaded.library.name.clone(), loaded);
        }
    }

    fn restore(&mut self, out: &mut Out, host: &mut dyn Host, args: Args<'_>) -> Result<(), Error> {
        if args.len() > 4 {
            return Err(wrong_form("RESTORE"));
        }
        let policy = args.get(3).unwrap_or(b"APPEND").to_ascii_uppercase();
        if !matches!(&policy[..], b"APPEND" | b"REPLACE" | b"FLUSH") {
            return Err(Error::fixed(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            ));
        }
        let mut added = Libraries::new();
        let mut made = Vec::new();
        for source in payload::read(args.at(2))? {
            let loaded = self.make(host, &source, &added, false)?;
            let library = loaded.library.clone();
            let one = Libraries::from([(library.name.clone(), library)]);
            library::join(&mut added, one, false)?;
            made.push(loaded);
        }
        self.scripts.change_libraries(|libraries| {
            if policy == b"FLUSH" {
                *libraries = added;
                return Ok(());
            }
            library::join(libraries, added, policy == b"REPLACE")
        })?;
        for loaded in made {
            self.libraries.insert(loaded.library.name.clone(), loaded);
        }
        out.ok();
        Ok(())
    }
}

fn refuse_taken(libraries: &Libraries, name: &str, replace: bool) -> Result<(), Error> {
    if libraries.contains_key(name) && !replace {
        return Err(Error::text(format!("ERR Library '{name}' already exists")));
    }
    Ok(())
}

fn wrong_form(sub: &str) -> Error {
    Error::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try FUNCTION HELP."
    ))
}

const HELP: &[&str] = &[
    "FUNCTION <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "LOAD [REPLACE] <FUNCTION CODE>",
    "    Create a new library with the given library name and code.",
    "DELETE <LIBRARY NAME>",
    "    Delete the given library.",
    "LIST [LIBRARYNAME PATTERN] [WITHCODE]",
    "    Return general information on all the libraries:",
    "    * Library name",
    "    * The engine used to run the Library",
    "    * Library description",
    "    * Functions list",
    "    * Library code (if WITHCODE is given)",
    "    It also possible to get only function that matches a pattern using LIBRARYNAME argument.",
    "STATS",
    "    Return information about the current function running:",
    "    * Function name",
    "    * Command used to run the function",
    "    * Duration in MS that the function is running",
    "    If no function is running, return nil",
    "    In addition, returns a list of available engines.",
    "KILL",
    "    Kill the current running function.",
    "FLUSH [ASYNC|SYNC]",
    "    Delete all the libraries.",
    "    When called without the optional mode argument, the behavior is determined by the",
    "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
    "    * ASYNC: Asynchronously flush the libraries.",
    "    * SYNC: Synchronously flush the libraries.",
    "DUMP",
    "    Return a serialized payload representing the current libraries, can be restored using FUNCTION \
     RESTORE command",
    "RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
    "    Restore the libraries represented by the given payload, it is possible to give a restore policy to",
    "    control how to handle existing libraries (default APPEND):",
    "    * FLUSH: delete all existing libraries.",
    "    * APPEND: appends the restored libraries to the existing libraries. On collision, abort.",
    "    * REPLACE: appends the restored libraries to the existing libraries, On collision, replace the old",
    "      libraries with the new libraries (notice that even on this option there is a chance of failure",
    "      in case of functions name collision with another library).",
    "HELP",
    "    Prints this help.",
];
