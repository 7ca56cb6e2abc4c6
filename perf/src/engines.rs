//! Finding, starting and stopping the servers of a comparison.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::sys;

/// One entry of `engines.toml`; that file says what the fields mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Name to choose it by and to report it under.
    pub name: String,
    /// Where to look for the program.
    pub program: Vec<String>,
    /// Its arguments, with placeholders.
    pub args: Vec<String>,
    /// Arguments that print its version.
    #[serde(default)]
    pub version: Vec<String>,
    /// Whether it keeps what it is given.
    #[serde(default = "yes")]
    pub stores: bool,
    /// Whether it is one of those to be measured against.
    #[serde(default)]
    pub peer: bool,
    /// The most cores it can use; any number when none.
    pub cores_max: Option<usize>,
    /// Further arguments for each durability it offers.
    pub durability: BTreeMap<Durability, Vec<String>>,
    /// Texts of a file for the placeholder `{config}` in them.
    #[serde(default)]
    pub durability_config: BTreeMap<Durability, String>,
    /// How it feeds a replica; none when it cannot.
    pub primary: Option<Primary>,
    /// How it follows a primary; none when it cannot.
    pub replica: Option<Role>,
    /// The command by which a primary hands its part over, with `{port}` for the replica's; empty when it
    /// has none.
    #[serde(default)]
    pub failover: Vec<String>,
}

/// What a server has done before it acknowledges a write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing is ever written to disk.
    None,
    /// Nothing but what SAVE and BGSAVE write.
    Snapshots,
    /// Writes reach the disk when the kernel thinks so.
    No,
    /// Writes reach the disk within about a second.
    Everysec,
    /// Writes are on the disk before they are acknowledged.
    Always,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::None => "none",
            Durability::Snapshots => "snapshots",
            Durability::No => "no",
            Durability::Everysec => "everysec",
            Durability::Always => "always",
        })
    }
}

/// What a role in replication adds to an engine's start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Further arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Text of a file for the placeholder `{config}`.
    #[serde(default)]
    pub config: String,
}

/// What being a primary adds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Primary {
    /// Further arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Text of a file for the placeholder `{config}`.
    #[serde(default)]
    pub config: String,
    /// What replicas add to the client port.
    #[serde(default)]
    pub port_offset: u16,
}

impl Primary {
    /// The part of it that starts the server.
    pub fn role(&self) -> Role {
        Role {
            args: self.args.clone(),
            config: self.config.clone(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EngineList {
    engine: Vec<Engine>,
}

/// Reads an engine list; `path` is for the message.
///
/// # Errors
/// [`Error::Data`] with file, line and reason.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Engine>, Error> {
    let list = toml::from_str::<EngineList>(text).map_err(Error::data(path))?;
    Ok(list.engine)
}

/// The engine list that comes with this program.
pub const BUILT_IN: &str = include_str!("../engines.toml");

/// Where programs are looked for.
#[derive(Clone, Debug)]
pub struct Places {
    /// This program.
    pub this: PathBuf,
    /// Directory of other engines.
    pub peers: PathBuf,
    /// The directories of PATH.
    pub path: Vec<PathBuf>,
}

impl Places {
    /// The first of an engine's programs that exists.
    pub fn find(&self, engine: &Engine) -> Option<PathBuf> {
        engine
            .program
            .iter()
            .find_map(|pattern| self.find_one(pattern))
    }

    /// The patterns of an engine with its places filled in, for a message.
    pub fn tried(&self, engine: &Engine) -> String {
        let tried: Vec<String> = engine
            .program
            .iter()
            .map(|pattern| self.fill(pattern))
            .collect();
        tried.join(", ")
    }

    fn fill(&self, pattern: &str) -> String {
        let here = self.this.parent().unwrap_or(Path::new("."));
        pattern
            .replace("{self}", &self.this.to_string_lossy())
            .replace("{here}", &here.to_string_lossy())
            .replace("{peers}", &self.peers.to_string_lossy())
    }

    fn find_one(&self, pattern: &str) -> Option<PathBuf> {
        let filled = self.fill(pattern);
        if !filled.contains('/') {
            return self
                .path
                .iter()
                .map(|dir| dir.join(&filled))
                .find(|path| path.is_file());
        }
        let mut found = vec![PathBuf::new()];
        for component in Path::new(&filled).components() {
            found = expand(found, component);
        }
        found.retain(|path| path.is_file());
        // The highest version: numbers in the path compare as numbers.
        found
            .into_iter()
            .max_by_key(|path| version_key(&path.to_string_lossy()))
    }
}

/// Appends a component, which may hold one `*`, to every path.
fn expand(paths: Vec<PathBuf>, component: Component<'_>) -> Vec<PathBuf> {
    let name = component.as_os_str();
    let Some((head, tail)) = name.to_str().and_then(|name| name.split_once('*')) else {
        return paths.into_iter().map(|path| path.join(name)).collect();
    };
    let entries = paths
        .iter()
        .filter_map(|path| fs::read_dir(path).ok())
        .flatten()
        .flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        })
        .map(|entry| entry.path())
        .collect()
}

/// Text cut into words and numbers, so that 1.10 sorts after 1.9.
fn version_key(text: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word_len = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word_len);
        let digits_len = tail
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(digits_len);
        key.push((word.to_owned(), digits.parse().unwrap_or(0)));
        rest = tail;
    }
    key
}

/// First line a program prints when asked for its version; empty when it does not say.
pub fn version_of(engine: &Engine, program: &Path) -> String {
    if engine.version.is_empty() {
        return String::new();
    }
    let asked = Command::new(program)
        .args(&engine.version)
        .stdin(Stdio::null())
        .output();
    let text = asked.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// How an engine is started.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// Cores it may run on.
    pub cpus: &'a [usize],
    /// Threads for commands.
    pub threads: usize,
    /// Its promise about writes.
    pub durability: Durability,
    /// Bytes of the values it will be asked for.
    pub size: usize,
    /// Its part in replication.
    pub role: Option<&'a Role>,
}

/// A started engine; stopped, and its directory removed, when dropped.
pub struct Running {
    /// Its name.
    pub name: String,
    /// The port it answers on.
    pub port: u16,
    /// The command line, for the record.
    pub command: String,
    child: Child,
    start: Start,
    dir: PathBuf,
    log: PathBuf,
}

/// What a start takes, for another one.
struct Start {
    program: PathBuf,
    args: Vec<String>,
    cpus: Vec<usize>,
}

impl Start {
    fn spawn(&self, data: &Path, log: &Path) -> Result<Child, Error> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.map_err(Error::file(log))?;
        let err = out.try_clone().map_err(Error::file(log))?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .current_dir(data)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        sys::tie_to_us(&mut command, &self.cpus);
        command.spawn().map_err(Error::os("starting an engine"))
    }
}

impl Running {
    /// Starts an engine and waits until it answers PING.
    ///
    /// # Errors
    /// [`Error::Engine`] with the end of its output when it does not answer within ten seconds.
    pub fn start(engine: &Engine, program: &Path, setting: Setting<'_>) -> Result<Running, Error> {
        let Some(durability) = engine.durability.get(&setting.durability) else {
            return Err(Error::Engine {
                name: engine.name.clone(),
                why: format!("offers no durability \"{}\"", setting.durability),
                log: Vec::new(),
            });
        };
        let port = free_port()?;
        let name = format!(
            "ringkeep-perf-{}-{}-{port}",
            std::process::id(),
            engine.name
        );
        let dir = std::env::temp_dir().join(name);
        let data = dir.join("data");
        fs::create_dir_all(&data).map_err(Error::file(&data))?;
        let (log, config) = (dir.join("log"), dir.join("config"));
        let fill = |text: &String| {
            text.replace("{port}", &port.to_string())
                .replace("{dir}", &data.to_string_lossy())
                .replace("{config}", &config.to_string_lossy())
                .replace("{threads}", &setting.threads.to_string())
                .replace("{size}", &setting.size.to_string())
        };
        let mut args: Vec<String> = engine.args.iter().chain(durability).map(fill).collect();
        if let Some(role) = setting.role {
            args.extend(role.args.iter().map(fill));
            fs::write(&config, fill(&role.config)).map_err(Error::file(&config))?;
        } else if let Some(text) = engine.durability_config.get(&setting.durability) {
            fs::write(&config, fill(text)).map_err(Error::file(&config))?;
        }
        let start = Start {
            program: program.to_owned(),
            args,
            cpus: setting.cpus.to_vec(),
        };
        let child = start.spawn(&data, &log)?;
        let cpus: Vec<String> = setting.cpus.iter().map(usize::to_string).collect();
        let mut running = Running {
            name: engine.name.clone(),
            port,
            command: format!(
                "taskset -c {} {} {}",
                cpus.join(","),
                program.display(),
                quoted(&start.args)
            )
            .replace(&*data.to_string_lossy(), "{dir}")
            .replace(&*config.to_string_lossy(), "{config}"),
            child,
            start,
            dir,
            log,
        };
        running.wait(Duration::from_secs(10), Duration::from_millis(20))?;
        Ok(running)
    }

    /// Waits until it answers PING.
    fn wait(&mut self, limit: Duration, pause: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        while !answers_ping(self.port) {
            if sys::is_stopped() {
                return Err(Error::Stopped);
            }
            if let Some(error) = self.death() {
                return Err(error);
            }
            if Instant::now() > deadline {
                let why = format!("did not answer within {} seconds", limit.as_secs());
                return Err(self.failed(why));
            }
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Stops it in order and starts it on the same directory; the time that the start took, until it
    /// answered.
    ///
    /// # Errors
    /// Those of [`start`](Running::start).
    pub fn restart(&mut self) -> Result<Duration, Error> {
        self.stop(Duration::from_secs(60));
        let begin = Instant::now();
        self.child = self.start.spawn(&self.dir.join("data"), &self.log)?;
        self.wait(Duration::from_secs(120), Duration::from_millis(1))?;
        Ok(begin.elapsed())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// That it has ended by itself, as an error with the end of its output; none while it runs.
    pub fn death(&mut self) -> Option<Error> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(self.failed(format!("ended by itself, {status}"))),
            _ => None,
        }
    }

    /// What to report for a failed measurement: the server's end, if it has ended, before what its
    /// connections saw of that.
    pub fn blame(&mut self, error: Error) -> Error {
        // A connection breaks a moment before its process is gone.
        let deadline = Instant::now() + Duration::from_millis(200);
        while !matches!(error, Error::Stopped | Error::Refused { .. }) && Instant::now() < deadline
        {
            if let Some(death) = self.death() {
                return death;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        error
    }

    fn failed(&self, why: String) -> Error {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        Error::Engine {
            name: self.name.clone(),
            why,
            log: lines[lines.len().saturating_sub(LOG_LINES)..]
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }

    fn stop(&mut self, limit: Duration) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        sys::terminate(self.child.id());
        let deadline = Instant::now() + limit;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn quoted(args: &[String]) -> String {
    let quote = |arg: &String| {
        if arg.is_empty() {
            "''".to_owned()
        } else {
            arg.clone()
        }
    };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// A port nobody listens on, low enough for a replication port 10 000 above it. Another process may
/// take it before the engine does; then starting fails.
fn free_port() -> Result<u16, Error> {
    loop {
        let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = bound.map_err(Error::os("finding a free port"))?.port();
        if port < 55_000 {
            return Ok(port);
        }
    }
}

fn answers_ping(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut byte = [0];
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .is_ok()
        && stream.write_all(b"*1\r\n$4\r\nPING\r\n").is_ok()
        && stream.read_exact(&mut byte).is_ok()
        && byte[0] == b'+'
}

fn yes() -> bool {
    true
}

/// Lines of a dead server's output that are reported.
const LOG_LINES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_list_is_understood_and_names_each_engine_once() {
        let path = Path::new("engines.toml");
        let engines = parse(path, BUILT_IN).expect("understood");
        let mut names: Vec<&str> = engines.iter().map(|engine| engine.name.as_str()).collect();
        assert_eq!(names[0], "limit");
        assert!(
            engines
                .iter()
                .all(|engine| engine.args.iter().any(|arg| arg == "{port}"))
        );
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let unknown = "[[engine]]\nname = 'x'\nprogramme = 'y'\n";
        let said = parse(path, unknown).expect_err("unknown key").to_string();
        assert!(
            said.starts_with("engines.toml: ") && said.contains("line 3"),
            "{said}"
        );
        assert!(said.contains("programme"), "{said}");
    }

    #[test]
    fn the_highest_version_is_found() {
        let peers = std::env::temp_dir().join(format!("ringkeep-perf-find-{}", std::process::id()));
        for version in ["kevy-1.9.0", "kevy-1.10.0", "kevy-1.2.0", "other-9"] {
            let bin = peers.join(version).join("bin");
            fs::create_dir_all(&bin).expect("writable");
            fs::write(bin.join("kevy"), "").expect("writable");
        }
        fs::create_dir_all(peers.join("kevy-2.0.0")).expect("writable");
        let places = Places {
            this: "/x/self".into(),
            peers: peers.clone(),
            path: vec![],
        };
        let found = places.find_one("{peers}/kevy-*/bin/kevy");
        let _ = fs::remove_dir_all(&peers);
        assert_eq!(found, Some(peers.join("kevy-1.10.0/bin/kevy")));
        assert_eq!(places.fill("{here}/y {self}"), "/x/y /x/self");
        assert_eq!(places.find_one("no-such-program"), None);
    }
}
