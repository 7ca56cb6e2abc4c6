//! What the functions that Lua calls share with the engine: limits, and the state of one run.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
};

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::{
    Clock, Scripts, Sha, bits, json,
    library::{self, Flags, FunctionInfo},
    msgpack, problem,
    random::Random,
    running::View,
    structs,
};
use crate::{
    acl::{Asked, User},
    base::Ms,
    cmd,
    resp::{OwnedArgs, Proto},
};

/// Functions that the code of a library registered, by name.
pub type Registered = BTreeMap<String, (FunctionInfo, Function)>;
/// Lines of `redis.log` with their levels.
pub type Lines = Vec<(u8, String)>;

/// Why a run has to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The node stops.
    Stopping,
    /// It ran for too long, on a node where nobody else can end it.
    TooLong,
    /// SCRIPT KILL or FUNCTION KILL.
    Killed,
    /// A library took too long to load.
    LoadTooLong,
}

/// What Lua is running.
#[derive(Clone, Copy)]
enum Stage {
    Nothing,
    /// A script or function since then.
    Run(Ms),
    /// The code of a library, until then at most.
    Load(Ms),
}

/// See the module page.
pub struct Watch {
    clock: Clock,
    scripts: Scripts,
    /// Nobody else can end a script: there is one core, and the script has it.
    alone: bool,
    stage: Cell<Stage>,
    ended: Cell<Option<End>>,
    /// What to publish once it has run for a while.
    view: RefCell<Option<View>>,
    is_published: Cell<bool>,
    /// RESP version that replies to the script come in.
    pub proto: Cell<Proto>,
    pub random: RefCell<Random>,
    logged: RefCell<Lines>,
    /// Whose rights the script has; nothing if all.
    pub user: RefCell<Option<Arc<User>>>,
    /// `redis.call` and `redis.pcall` of the function that runs.
    pub calls: RefCell<Option<[Function; 2]>>,
    /// Settings of `cjson`, which last for one run.
    json: Rc<RefCell<json::Settings>>,
    /// What the library that is being loaded has registered.
    registered: RefCell<Registered>,
}

/// How long the code of a library may run: it is to register functions, not to work.
const LOAD_MS: Ms = 500;
/// Lines of `redis.log` that one run may leave.
const LINES_MAX: usize = 1000;

impl Watch {
    pub fn new(clock: Clock, scripts: Scripts, alone: bool) -> Self {
        Self {
            clock,
            scripts,
            alone,
            stage: Cell::new(Stage::Nothing),
            ended: Cell::new(None),
            view: RefCell::default(),
            is_published: Cell::new(false),
            proto: Cell::new(Proto::Two),
            random: RefCell::default(),
            logged: RefCell::default(),
            user: RefCell::default(),
            calls: RefCell::default(),
            json: Rc::default(),
            registered: RefCell::default(),
        }
    }

    /// A script or function is about to run.
    pub fn begin(&self, view: View) {
        self.ended.set(None);
        self.proto.set(Proto::Two);
        self.json.replace(json::Settings::default());
        self.stage.set(Stage::Run((self.clock)().unwrap_or(0)));
        self.is_published.set(false);
        self.view.replace(Some(view));
    }

    /// It has ended; what it logged.
    pub fn finish(&self) -> Lines {
        self.stage.set(Stage::Nothing);
        self.view.replace(None);
        self.calls.replace(None);
        if self.is_published.take() {
            self.scripts.running().end();
        }
        self.logged.take()
    }

    /// The code of a library is about to run.
    pub fn begin_load(&self) {
        self.ended.set(None);
        let now = (self.clock)().unwrap_or(0);
        self.stage.set(Stage::Load(now.saturating_add(LOAD_MS)));
    }

    /// It has ended; what it registered and what it logged.
    pub fn finish_load(&self) -> (Registered, Lines) {
        self.stage.set(Stage::Nothing);
        (self.registered.take(), self.logged.take())
    }

    /// Why the run had to end, if it had to.
    pub fn ended(&self) -> Option<End> {
        self.ended.get()
    }

    /// Looks whether the run has to end, and says how long it has gone on.
    ///
    /// # Errors
    /// It has to: what is thrown into the script, which cannot catch it.
    pub fn look(&self) -> mlua::Result<()> {
        match (self.stage.get(), (self.clock)()) {
            (Stage::Nothing, _) => Ok(()),
            (_, None) => self.end(End::Stopping),
            (Stage::Load(until), Some(now)) if now >= until => self.end(End::LoadTooLong),
            (Stage::Load(_), _) => Ok(()),
            (Stage::Run(since), Some(now)) => {
                let ran_ms = now.saturating_sub(since);
                let running = self.scripts.running();
                let is_slow = running.busy_ms() > 0 && ran_ms >= running.busy_ms();
                let view = self.view.borrow_mut();
                let is_ours = view.as_ref().is_some_and(|view| !view.from_primary);
                if self.alone && is_slow && is_ours {
                    return self.end(End::TooLong);
                }
                if !self.is_published.replace(true)
                    && let Some(view) = &*view
                {
                    running.begin(view.clone());
                }
                if running.note(ran_ms, is_slow) {
                    return self.end(End::Killed);
                }
                Ok(())
            }
        }
    }

    /// The script is about to write.
    ///
    /// # Errors
    /// It was killed just now.
    pub fn note_write(&self) -> mlua::Result<()> {
        let mut view = self.view.borrow_mut();
        let Some(view) = view.as_mut().filter(|view| !view.has_written) else {
            return Ok(());
        };
        if self.is_published.get() && !self.scripts.running().may_write() {
            return self.end(End::Killed);
        }
        view.has_written = true;
        Ok(())
    }

    /// Has the script called a command that writes?
    pub fn has_written(&self) -> bool {
        self.view
            .borrow()
            .as_ref()
            .is_some_and(|view| view.has_written)
    }

    fn end(&self, end: End) -> mlua::Result<()> {
        self.ended.set(Some(end));
        Err(mlua::Error::RuntimeError("ended".into()))
    }

    /// `redis.register_function`, its arguments checked for their kinds.
    fn register(
        &self,
        name: &[u8],
        callback: Function,
        description: Option<Vec<u8>>,
        flags: Flags,
    ) -> Result<(), &'static str> {
        if !matches!(self.stage.get(), Stage::Load(_)) {
            return Err("redis.register_function can only be called on FUNCTION LOAD command");
        }
        let name = library::check_name(name)?;
        let mut registered = self.registered.borrow_mut();
        if registered
            .keys()
            .any(|other| other.eq_ignore_ascii_case(&name))
        {
            return Err("Function already exists in the library");
        }
        registered.insert(name, (FunctionInfo { description, flags }, callback));
        Ok(())
    }
}

/// The functions that the prelude gets.
pub fn host_functions(
    lua: &Lua,
    watch: &Rc<Watch>,
    commands: &Rc<cmd::Table>,
) -> mlua::Result<Table> {
    let host = lua.create_table()?;
    let with = |name: &str, function: Function| host.raw_set(name, function);
    with(
        "text",
        lua.create_function(|_, problem: Value| Ok(problem::text_of(&problem)))?,
    )?;
    with(
        "front",
        lua.create_function(|lua, inner: Function| {
            lua.create_function(move |lua, args: MultiValue| {
                type Outcome = (Option<String>, Option<bool>, MultiValue);
                match inner.call::<Outcome>(args)? {
                    (None, _, values) => Ok(values),
                    (Some(text), Some(true), _) => Err(problem::at_line(lua, &text)),
                    (Some(text), _, _) => Err(problem::coded(text)),
                }
            })
        })?,
    )?;
    let own = watch.clone();
    with(
        "relay",
        lua.create_function(move |lua, at: usize| {
            let own = own.clone();
            lua.create_function(move |_, args: MultiValue| {
                match own.calls.borrow().as_ref().and_then(|calls| calls.get(at)) {
                    Some(call) => call.call::<Value>(args),
                    None => Err(problem::coded(
                        "ERR redis.call/pcall can only be called inside a script invocation",
                    )),
                }
            })
        })?,
    )?;
    let own = watch.clone();
    with(
        "ended",
        lua.create_function(move |_, ()| Ok(own.ended().is_some()))?,
    )?;
    let own = watch.clone();
    with(
        "clock",
        lua.create_function(move |_, ()| Ok((own.clock)().unwrap_or(0) as f64 / 1000.0))?,
    )?;
    let own = watch.clone();
    with(
        "random",
        lua.create_function(move |lua, args: MultiValue| {
            own.random.borrow_mut().between(lua, &args)
        })?,
    )?;
    let own = watch.clone();
    with(
        "randomseed",
        lua.create_function(move |_, seed: f64| {
            own.random.replace(Random::seeded(seed as i64 as u32));
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
            if logged.len() < LINES_MAX {
                logged.push((level, text.to_string_lossy()));
            }
            Ok(())
        })?,
    )?;
    let own = commands.clone();
    with(
        "is_command",
        lua.create_function(move |_, name: mlua::LuaString| {
            Ok(own.find(&name.as_bytes()).is_some())
        })?,
    )?;
    let (own, table) = (watch.clone(), commands.clone());
    with(
        "may_call",
        lua.create_function(move |_, words: mlua::Variadic<mlua::LuaString>| {
            let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            let request = OwnedArgs::copy(words.iter().map(Vec::as_slice));
            let spec = table.find(request.as_args().at(0));
            let asked = spec.and_then(|spec| Asked::of(spec, request.as_args()).ok());
            let user = own.user.borrow();
            let may =
                |asked: &Asked<'_>| user.as_ref().is_none_or(|user| user.check(asked).is_ok());
            Ok(asked.as_ref().is_some_and(may))
        })?,
    )?;
    let own = watch.clone();
    with(
        "register",
        lua.create_function(
            move |_,
                  (name, callback, description, names): (
                mlua::LuaString,
                Function,
                Option<mlua::LuaString>,
                Table,
            )| {
                let mut flags = Flags::default();
                for name in names.sequence_values::<Value>() {
                    let known = match name? {
                        Value::String(name) => flags.add(&name.to_string_lossy()),
                        _ => false,
                    };
                    if !known {
                        return Ok(Some("unknown flag given"));
                    }
                }
                let description = description.map(|text| text.as_bytes().to_vec());
                let name = name.as_bytes();
                Ok(own.register(&name, callback, description, flags).err())
            },
        )?,
    )?;
    with(
        "sha1hex",
        lua.create_function(|_, text: mlua::LuaString| Ok(Sha::of(&text.as_bytes()).to_string()))?,
    )?;
    with("describe", lua.create_function(problem::describe)?)?;
    host.raw_set("cjson", json::library(lua, watch.json.clone())?)?;
    host.raw_set("cmsgpack", msgpack::library(lua)?)?;
    bits::register(lua, &host)?;
    structs::register(lua, &host)?;
    host.raw_set("version", "7.2.0")?;
    host.raw_set("version_number", 0x0007_0200)?;
    Ok(host)
}
