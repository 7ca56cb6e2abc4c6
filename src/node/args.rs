//! What the command line says.

use std::{net::IpAddr, path::PathBuf};

use uring::{Level, affinity};

use super::{
    config::{self, Asked, ConfigFile, World},
    usage::{
        self,
        book::{self, Action, Verb},
    },
};
use crate::{
    elect::{NodeId, Peer, Timings},
    route::{Routing, Scopes},
    tools::{Export, Import, Repair, Reshard, Source, Top},
};

use crate::shard::{Fsync, SavePoints};

/// What to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<Options>),
    /// Print what the kernel offers.
    Doctor,
    /// Make a data directory out of the data of another server.
    Import(Import),
    /// Make an RDB file out of a data directory.
    Export(Export),
    /// Tell what files of data directories, or whole ones, hold and whether they are good.
    Check(Vec<PathBuf>),
    /// Cut off a damaged end.
    Repair(Repair),
    /// Split a data directory into another number of shards.
    Reshard(Reshard),
    /// Print the commands in files of what was given up for a primary.
    Rollback(Vec<PathBuf>),
    /// Keep a node running and replace it when asked.
    Supervise(Box<Supervise>),
    /// Ask for that.
    Upgrade(Upgrade),
    /// Show how a node is doing.
    Top(Top),
    /// Print what was asked for: settings, the manual page, completions.
    Print(String),
    /// Print the usage.
    Help,
    /// Print the version.
    Version,
}

/// How to keep a node running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Supervise {
    /// Where upgrades are asked for.
    pub control: PathBuf,
    /// The program of the node.
    pub binary: String,
    /// Milliseconds for a handoff.
    pub deadline_ms: u64,
    /// A Unix socket for clients, which the supervisor holds.
    pub unix: Option<String>,
    /// The command line of the node, and what it means.
    pub node: Vec<String>,
    /// See there.
    pub options: Box<Options>,
}

/// A request for an upgrade.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// The supervisor's socket.
    pub control: PathBuf,
    /// The program that is to serve.
    pub binary: PathBuf,
}

/// Where a supervisor is asked if nobody says otherwise: a name in the working directory.
const CONTROL: &str = "ringkeep.control";
/// Milliseconds for a handoff, as the library's own program has it.
const DEADLINE_MS: u64 = 60_000;

/// How to serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Client port.
    pub port: u16,
    /// Client port for TLS, if there is one.
    pub tls_port: Option<u16>,
    /// Links between nodes are in TLS.
    pub tls_replication: bool,
    /// Addresses to listen on.
    pub bind: Vec<String>,
    /// Unix socket path.
    pub unix: Option<String>,
    /// Number of cores; as many as there are CPUs if absent.
    pub threads: Option<usize>,
    /// Number of shards; as many as cores if absent.
    pub shards: Option<usize>,
    /// CPUs to pin the cores to; all usable ones if empty.
    pub cpus: Vec<usize>,
    /// Pin the cores.
    pub pin: bool,
    /// Databases of SELECT.
    pub databases: usize,
    /// Path at which supervisors hand the node over to another process.
    pub handoff: Option<String>,
    /// A successor takes the connections of the incumbent's clients over.
    pub passes_clients: bool,
    /// Data directory; without one nothing is kept.
    pub dir: Option<String>,
    /// Keep a journal; absent: where there is a data directory.
    pub journals: Option<bool>,
    /// When what was written is synced.
    pub fsync: Fsync,
    /// Replicas without which writes are refused.
    pub replicas_min: usize,
    /// On a replica, data that is older than so many milliseconds is not read; 0: it is.
    pub staleness_max_ms: u64,
    /// When snapshots are made by themselves.
    pub save_points: SavePoints,
    /// Microseconds that a core looks for work before it sleeps.
    pub spin_us: u64,
    /// Primary to follow: host and port.
    pub replica_of: Option<(String, u16)>,
    /// Port on which replicas of the first shard connect; 0: they cannot. If absent, the client port and
    /// 10000 more.
    pub replication_port: Option<u16>,
    /// Password that clients have to show; empty: none.
    pub password: String,
    /// File of users.
    pub acl_file: Option<PathBuf>,
    /// Clients of other machines are turned away while the default user needs no password. Said by
    /// nobody: only where nobody said on which addresses to listen.
    pub protects: bool,
    /// User and password that a primary is shown; empty: none.
    pub primary_user: String,
    /// See there.
    pub primary_password: String,
    /// File with the key that links between nodes prove.
    pub node_key_file: Option<PathBuf>,
    /// Address that cluster clients are sent to; the first one to listen on if absent.
    pub announce: Option<IpAddr>,
    /// Cluster mode: the port of the first shard.
    pub slots: Option<u16>,
    /// Port where metrics are read, if any.
    pub metrics_port: Option<u16>,
    /// Which node has which slots, where several share the keys.
    pub map: Option<PathBuf>,
    /// Use no more of io_uring than this level.
    pub level: Option<Level>,
    /// This node's name among the members of elections.
    pub node_id: Option<NodeId>,
    /// All members, this node included; without them there are no elections.
    pub peers: Vec<Peer>,
    /// Keys that one node alone may write to.
    pub scopes: Scopes,
    /// Port on which members speak to each other; the client port and 200 more if absent.
    pub elect_port: Option<u16>,
    /// Milliseconds after which a primary that is not heard is gone.
    pub down_after_ms: u64,
    /// As the primary, replies wait until a majority of the members has what they tell of.
    pub quorum_writes: bool,
    /// Further parameters as CONFIG SET takes them, each of which is good.
    pub parameters: Vec<(&'static str, String)>,
    /// The file that settings were read from.
    pub config: Option<ConfigFile>,
    /// What there is to tell about the settings.
    pub notes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 6379,
            tls_port: None,
            tls_replication: false,
            bind: vec!["127.0.0.1".into()],
            unix: None,
            threads: None,
            shards: None,
            cpus: Vec::new(),
            pin: true,
            databases: 16,
            handoff: None,
            passes_clients: true,
            dir: None,
            journals: None,
            fsync: Fsync::default(),
            replicas_min: 0,
            staleness_max_ms: 0,
            save_points: SavePoints::default(),
            spin_us: 30,
            replica_of: None,
            replication_port: None,
            password: String::new(),
            acl_file: None,
            protects: true,
            primary_user: String::new(),
            primary_password: String::new(),
            node_key_file: None,
            announce: None,
            slots: None,
            metrics_port: None,
            map: None,
            level: None,
            node_id: None,
            peers: Vec::new(),
            scopes: Scopes::default(),
            elect_port: None,
            down_after_ms: Timings::KEVY.down_after,
            quorum_writes: false,
            parameters: Vec::new(),
            config: None,
            notes: Vec::new(),
        }
    }
}

/// What is wrong with the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UsageError {
    /// No such option or argument.
    Unknown(String),
    /// The option needs a value.
    NoValue(String),
    /// The value does not fit.
    BadValue(String, String),
    /// The subcommand needs an option that is not there, or has two that exclude each other.
    Incomplete(&'static str),
    /// The value does not fit, and that is why.
    Because(String, String),
    /// Files or variables are wrong: a line for each fault.
    Config(Vec<String>),
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UsageError::Unknown(name) => write!(out, "unknown option '{name}', see --help"),
            UsageError::NoValue(name) => write!(out, "option '{name}' needs a value"),
            UsageError::BadValue(name, value) => write!(out, "option '{name}' cannot be '{value}'"),
            UsageError::Because(name, why) => write!(out, "option '{name}': {why}"),
            UsageError::Config(faults) => out.write_str(&faults.join("\nringkeep: ")),
            UsageError::Incomplete(what) => write!(out, "{what}, see --help"),
        }
    }
}

/// Reads the command line, without the program's name, and what it leaves open from the environment and from
/// a file. Values follow as the next argument or behind `=`.
///
/// # Errors
/// [`UsageError`].
pub fn parse(args: impl IntoIterator<Item = String>, world: &World) -> Result<Command, UsageError> {
    let mut asked = Asked::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if let Some(action) = take_action(&arg, &mut args)? {
            return parse_action(action, args, world);
        }
        match arg.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            _ => take_option(&mut asked, arg, &mut args)?,
        }
    }
    let resolved = config::resolve(&asked, world)?;
    Ok(Command::Serve(Box::new(resolved.options)))
}

/// The command that a word begins, if it does; the second word of one that has two is taken.
fn take_action(
    word: &str,
    args: &mut impl Iterator<Item = String>,
) -> Result<Option<&'static Action>, UsageError> {
    let Some(first) = book::actions(word).next() else {
        return Ok(None);
    };
    if first.words.len() == 1 {
        return Ok(Some(first));
    }
    let second = args.next().unwrap_or_default();
    let found = book::actions(word).find(|action| action.words[1] == second);
    let found = found.ok_or(UsageError::Incomplete("config needs 'check' or 'show'"))?;
    Ok(Some(found))
}

fn parse_action(
    action: &'static Action,
    args: impl Iterator<Item = String>,
    world: &World,
) -> Result<Command, UsageError> {
    match action.verb {
        Verb::Doctor => Ok(Command::Doctor),
        Verb::Import => parse_import(action, args),
        Verb::Export => parse_export(action, args),
        Verb::Check => parse_paths(args, "check needs a file or a directory").map(Command::Check),
        Verb::Repair => parse_repair(action, args),
        Verb::Reshard => parse_reshard(action, args),
        Verb::Rollback => parse_paths(args, "rollback needs a file").map(Command::Rollback),
        Verb::Supervise => parse_supervise(action, args, world),
        Verb::Upgrade => parse_upgrade(action, args),
        Verb::Top => parse_top(action, args),
        Verb::ConfigCheck | Verb::ConfigShow => parse_config(action, args, world),
        Verb::Man => Ok(Command::Print(usage::page())),
        Verb::Completions => parse_completions(action, args),
    }
}

/// One option of a node, with its value.
fn take_option(
    asked: &mut Asked,
    arg: String,
    args: &mut impl Iterator<Item = String>,
) -> Result<(), UsageError> {
    let (name, inline) = match arg.split_once('=') {
        Some((name, value)) if name.starts_with("--") => {
            (name.to_string(), Some(value.to_string()))
        }
        _ => (arg, None),
    };
    match name.as_str() {
        "--no-config" => asked.is_alone = true,
        "--no-aof" => asked.flag("--appendonly", "no".into())?,
        "--no-pin" => asked.flag("--pin", "no".into())?,
        "--cluster" => asked.flag("--cluster", inline.unwrap_or_else(|| "yes".into()))?,
        _ if name != "--config" && !Asked::knows(&name) => return Err(UsageError::Unknown(name)),
        _ => {
            let value = inline.or_else(|| args.next());
            let value = value.ok_or_else(|| UsageError::NoValue(name.clone()))?;
            match name.as_str() {
                "--config" => asked.file = Some(value.into()),
                _ => asked.flag(&name, value)?,
            }
        }
    }
    Ok(())
}

/// `config check [FILE]` and `config show [--origin]`, with the options of a node.
fn parse_config(
    action: &Action,
    mut args: impl Iterator<Item = String>,
    world: &World,
) -> Result<Command, UsageError> {
    let (mut asked, mut shows_origin) = (Asked::default(), false);
    while let Some(arg) = args.next() {
        match &arg[..] {
            flag if action.knows(flag) => shows_origin = true,
            path if !action.operand.is_empty() && !path.starts_with("--") => {
                asked.file = Some(path.into());
            }
            _ => take_option(&mut asked, arg, &mut args)?,
        }
    }
    let resolved = config::resolve(&asked, world)?;
    Ok(Command::Print(match action.verb {
        Verb::ConfigCheck => resolved.report(),
        _ => resolved.show(shows_origin),
    }))
}

fn parse_completions(
    action: &Action,
    mut args: impl Iterator<Item = String>,
) -> Result<Command, UsageError> {
    let shell = args.next();
    let shell = shell.ok_or(UsageError::Incomplete("completions needs a shell"))?;
    if shell.starts_with("--") {
        return Err(UsageError::Unknown(shell));
    }
    let script = usage::completions(&shell);
    script.map(Command::Print).ok_or_else(|| {
        let why = format!("'{shell}' is none of {}", action.operand.replace('|', ", "));
        UsageError::Because(action.name(), why)
    })
}

fn parse_import(
    action: &Action,
    args: impl Iterator<Item = String>,
) -> Result<Command, UsageError> {
    let (mut sources, mut dir, mut shards) = (Vec::new(), None, None);
    let (cluster, args): (Vec<_>, Vec<_>) = args.partition(|arg| arg == "--cluster");
    each_option(action, args.into_iter(), |name, value| {
        match name {
            "--kevy" => sources.push(Source::Kevy(value.into())),
            "--rdb" => sources.push(Source::Rdb(value.into())),
            "--aof" => sources.push(Source::Aof(value.into())),
            "--dir" => dir = Some(value.into()),
            "--shards" => shards = Some(number(name, value, 1, 4096)? as usize),
            _ => return Err(UsageError::Unknown(name.into())),
        }
        Ok(())
    })?;
    let (Some(source), true) = (sources.pop(), sources.is_empty()) else {
        return Err(UsageError::Incomplete(
            "import needs one of --kevy, --rdb and --aof",
        ));
    };
    Ok(Command::Import(Import {
        source,
        dir: dir.ok_or(UsageError::Incomplete("import needs --dir"))?,
        // As many as a node has that is started without the option.
        shards: shards.unwrap_or_else(|| affinity::usable_cores().len().max(1)),
        routing: if cluster.is_empty() {
            Routing::KevyHash
        } else {
            Routing::Slots
        },
    }))
}

fn parse_export(
    action: &Action,
    args: impl Iterator<Item = String>,
) -> Result<Command, UsageError> {
    let (mut dir, mut rdb) = (None, None);
    each_option(action, args, |name, value| {
        match name {
            "--dir" => dir = Some(value.into()),
            "--rdb" => rdb = Some(value.into()),
            _ => return Err(UsageError::Unknown(name.into())),
        }
        Ok(())
    })?;
    Ok(Command::Export(Export {
        dir: dir.ok_or(UsageError::Incomplete("export needs --dir"))?,
        rdb: rdb.ok_or(UsageError::Incomplete("export needs --rdb"))?,
    }))
}

fn parse_paths(
    args: impl Iterator<Item = String>,
    wanted: &'static str,
) -> Result<Vec<PathBuf>, UsageError> {
    let mut paths = Vec::new();
    for arg in args {
        if arg.starts_with("--") {
            return Err(UsageError::Unknown(arg));
        }
        paths.push(PathBuf::from(arg));
    }
    if paths.is_empty() {
        return Err(UsageError::Incomplete(wanted));
    }
    Ok(paths)
}

fn parse_repair(
    action: &Action,
    args: impl Iterator<Item = String>,
) -> Result<Command, UsageError> {
    let (mut file, mut at) = (None, None);
    each_argument(action, args, |name, value| {
        match name {
            "" if file.is_none() => file = Some(PathBuf::from(value)),
            "--truncate-at" => at = Some(number(name, value, 0, u64::MAX)?),
            "" => return Err(UsageError::Unknown(value)),
            _ => return Err(UsageError::Unknown(name.into())),
        }
        Ok(())
    })?;
    Ok(Command::Repair(Repair {
        file: file.ok_or(UsageError::Incomplete("repair needs a file"))?,
        at: at.ok_or(UsageError::Incomplete("repair needs --truncate-at"))?,
    }))
}

fn parse_reshard(
    action: &Action,
    args: impl Iterator<Item = String>,
) -> Result<Command, UsageError> {
    let (mut dir, mut shards) = (None, None);
    each_argument(action, args, |name, value| {
        match name {
            "" if dir.is_none() => dir = Some(PathBuf::from(value)),
            "--shards" => shards = Some(number(name, value, 1, 4096)? as usize),
            "" => return Err(UsageError::Unknown(value)),
            _ => return Err(UsageError::Unknown(name.into())),
        }
        Ok(())
    })?;
    Ok(Command::Reshard(Reshard {
        dir: dir.ok_or(UsageError::Incomplete("reshard needs a data directory"))?,
        shards: shards.ok_or(UsageError::Incomplete("reshard needs --shards"))?,
    }))
}

/// The supervisor's own options, and those of the node that it starts.
fn parse_supervise(
    action: &Action,
    mut args: impl Iterator<Item = String>,
    world: &World,
) -> Result<Command, UsageError> {
    let (mut control, mut deadline_ms, mut unix) = (PathBuf::from(CONTROL), DEADLINE_MS, None);
    let mut node = Vec::new();
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.to_string())),
            None => (arg.clone(), None),
        };
        if !action.knows(&name) {
            node.push(arg);
            continue;
        }
        let mut value = || {
            let value = inline.clone().or_else(|| args.next());
            value.ok_or_else(|| UsageError::NoValue(name.clone()))
        };
        match name.as_str() {
            "--control" => control = value()?.into(),
            "--deadline-ms" => deadline_ms = number(&name, value()?, 100, 86_400_000)?,
            "--unixsocket" => unix = Some(value()?),
            _ => return Err(UsageError::Unknown(name)),
        }
    }
    // A file or a variable may have one as well, and the node is to leave it alone.
    let asked = node.iter().cloned();
    let alone = asked.chain(["--handoff-socket=".to_string()]);
    if let Command::Serve(options) = parse(alone, world)?
        && let Some(path) = options.unix
    {
        unix = unix.or(Some(path));
        node.push("--unixsocket=".into());
    }
    // Any of them in `--name=value`, too, and a later one counts.
    let names_socket = |arg: &String| arg.split('=').next() == Some("--handoff-socket");
    if !node.iter().any(names_socket) {
        node.push(format!("--handoff-socket={}.node", control.display()));
    }
    match parse(node.clone(), world)? {
        Command::Serve(options) => Ok(Command::Supervise(Box::new(Supervise {
            control,
            binary: own_path(),
            deadline_ms,
            unix,
            node,
            options,
        }))),
        Command::Help => Ok(Command::Help),
        Command::Version => Ok(Command::Version),
        _ => Err(UsageError::Incomplete(
            "supervise has the options of a node, and no other command",
        )),
    }
}

/// The path by which this program was started, links in it unresolved, so that it leads to whatever is put
/// there.
fn own_path() -> String {
    let asked = std::env::args().next().unwrap_or_default();
    let asked = Some(PathBuf::from(asked)).filter(|path| path.components().count() > 1);
    let found = asked.or_else(|| std::env::current_exe().ok());
    let found = found.and_then(|path| std::path::absolute(path).ok());
    found.map_or_else(String::new, |path| path.display().to_string())
}

fn parse_upgrade(
    action: &Action,
    args: impl Iterator<Item = String>,
) -> Result<Command, UsageError> {
    let (mut control, mut binary) = (PathBuf::from(CONTROL), None);
    each_option(action, args, |name, value| {
        match name {
            "--control" => control = value.into(),
            "--binary" => binary = Some(PathBuf::from(value)),
            _ => return Err(UsageError::Unknown(name.into())),
        }
        Ok(())
    })?;
    Ok(Command::Upgrade(Upgrade {
        control,
        binary: binary.ok_or(UsageError::Incomplete("upgrade needs --binary"))?,
    }))
}

fn parse_top(action: &Action, args: impl Iterator<Item = String>) -> Result<Command, UsageError> {
    let (once, args): (Vec<_>, Vec<_>) = args.partition(|arg| arg == "--once");
    let mut top = Top {
        host: "127.0.0.1".into(),
        port: Options::default().port,
        is_once: !once.is_empty(),
    };
    each_option(action, args.into_iter(), |name, value| {
        match name {
            "--host" => top.host = value,
            "--port" => top.port = number(name, value, 1, 65_535)? as u16,
            _ => return Err(UsageError::Unknown(name.into())),
        }
        Ok(())
    })?;
    Ok(Command::Top(top))
}

/// Visits options of a command that have a value each.
fn each_option(
    action: &Action,
    args: impl Iterator<Item = String>,
    mut visit: impl FnMut(&str, String) -> Result<(), UsageError>,
) -> Result<(), UsageError> {
    each_argument(action, args, |name, value| match name {
        "" => Err(UsageError::Unknown(value)),
        _ => visit(name, value),
    })
}

/// The same, and what is no option, without a name.
fn each_argument(
    action: &Action,
    mut args: impl Iterator<Item = String>,
    mut visit: impl FnMut(&str, String) -> Result<(), UsageError>,
) -> Result<(), UsageError> {
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            visit("", arg)?;
            continue;
        }
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (&arg[..], None),
        };
        if !action.knows(name) {
            return Err(UsageError::Unknown(name.into()));
        }
        let value = inline.or_else(|| args.next());
        visit(name, value.ok_or_else(|| UsageError::NoValue(name.into()))?)?;
    }
    Ok(())
}

fn number(name: &str, text: String, min: u64, max: u64) -> Result<u64, UsageError> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(UsageError::BadValue(name.to_string(), text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, UsageError> {
        match parse(line.split_whitespace().map(String::from), &World::default())? {
            Command::Serve(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let got = options("--port 7000 --bind=0.0.0.0 --threads 0 --replicaof=[::1]:16004")
            .expect("is right");
        assert_eq!((got.port, got.threads), (7000, None));
        assert_eq!(got.bind, ["0.0.0.0"]);
        assert_eq!(got.replica_of, Some(("::1".into(), 16004)));
    }

    #[test]
    fn tools_have_options_of_their_own() {
        let parsed = |line: &str| {
            let args = line.split_whitespace().map(String::from);
            parse(args, &World::default())
        };
        match parsed("import --aof=x --cluster --dir out --shards 3") {
            Ok(Command::Import(import)) => {
                assert_eq!(import.source, Source::Aof("x".into()));
                assert_eq!((import.dir, import.shards), ("out".into(), 3));
                assert_eq!(import.routing, Routing::Slots);
            }
            other => panic!("{other:?}"),
        }
        match parsed("top --once --port 7000") {
            Ok(Command::Top(top)) => {
                assert_eq!(
                    (&top.host[..], top.port, top.is_once),
                    ("127.0.0.1", 7000, true)
                );
            }
            other => panic!("{other:?}"),
        }
        match parsed("export --dir d --rdb r") {
            Ok(Command::Export(export)) => assert_eq!(export.rdb, std::path::Path::new("r")),
            other => panic!("{other:?}"),
        }
        for (line, want) in [
            ("import --rdb x", "import needs --dir, see --help"),
            (
                "import --dir x",
                "import needs one of --kevy, --rdb and --aof, see --help",
            ),
            (
                "import --rdb x --aof y --dir z",
                "import needs one of --kevy, --rdb and --aof, see --help",
            ),
            ("import --rdb", "option '--rdb' needs a value"),
            ("top --port x", "option '--port' cannot be 'x'"),
            (
                "top --password x",
                "unknown option '--password', see --help",
            ),
            ("export --port 1", "unknown option '--port', see --help"),
            ("export x", "unknown option 'x', see --help"),
            ("check", "check needs a file or a directory, see --help"),
            ("check --x", "unknown option '--x', see --help"),
            ("rollback", "rollback needs a file, see --help"),
            ("repair x", "repair needs --truncate-at, see --help"),
            ("repair --truncate-at 5", "repair needs a file, see --help"),
            (
                "repair --truncate-at 5 x y",
                "unknown option 'y', see --help",
            ),
            ("reshard x", "reshard needs --shards, see --help"),
            ("reshard x --shards 0", "option '--shards' cannot be '0'"),
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn a_supervisor_has_options_of_its_own_and_passes_on_the_rest() {
        let parsed = |line: &str| {
            let args = line.split_whitespace().map(String::from);
            parse(args, &World::default())
        };
        match parsed("supervise --control=c --dir d --unixsocket s --deadline-ms 500 --port 7000") {
            Ok(Command::Supervise(supervise)) => {
                assert_eq!(supervise.control, PathBuf::from("c"));
                assert_eq!((supervise.deadline_ms, supervise.options.port), (500, 7000));
                assert_eq!(supervise.unix.as_deref(), Some("s"));
                let node = ["--dir", "d", "--port", "7000", "--handoff-socket=c.node"];
                assert_eq!(supervise.node, node);
                assert_eq!(supervise.options.handoff.as_deref(), Some("c.node"));
            }
            other => panic!("{other:?}"),
        }
        match parsed("supervise --dir d --handoff-socket x") {
            Ok(Command::Supervise(supervise)) => {
                assert_eq!(supervise.control, PathBuf::from(CONTROL));
                assert_eq!(supervise.node, ["--dir", "d", "--handoff-socket", "x"]);
            }
            other => panic!("{other:?}"),
        }
        let named = World::with(&[], &[("KEVY_UNIX_SOCKET", "s")]);
        let args = ["supervise", "--dir=d"].map(String::from);
        match parse(args, &named) {
            Ok(Command::Supervise(supervise)) => {
                assert_eq!(supervise.unix.as_deref(), Some("s"));
                assert_eq!(supervise.node[1], "--unixsocket=");
                assert_eq!(supervise.options.unix, None);
            }
            other => panic!("{other:?}"),
        }
        match parsed("upgrade --binary b") {
            Ok(Command::Upgrade(upgrade)) => {
                assert_eq!(upgrade.binary, PathBuf::from("b"));
                assert_eq!(upgrade.control, PathBuf::from(CONTROL));
            }
            other => panic!("{other:?}"),
        }
        for (line, want) in [
            (
                "supervise",
                "a node is handed over with its journal: --handoff-socket needs --dir, see --help",
            ),
            ("supervise --prot 1", "unknown option '--prot', see --help"),
            ("supervise --control", "option '--control' needs a value"),
            (
                "supervise --dir d doctor",
                "supervise has the options of a node, and no other command, see --help",
            ),
            ("upgrade", "upgrade needs --binary, see --help"),
            ("upgrade --port 1", "unknown option '--port', see --help"),
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            options("--prot 1"),
            Err(UsageError::Unknown("--prot".into()))
        );
        assert_eq!(options("--port"), Err(UsageError::NoValue("--port".into())));
        assert_eq!(
            options("--port 70000"),
            Err(UsageError::BadValue("--port".into(), "70000".into()))
        );
        assert_eq!(
            options("--replicaof x"),
            Err(UsageError::BadValue("--replicaof".into(), "x".into()))
        );
    }
}
