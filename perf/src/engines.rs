//! Finding, starting and stopping the servers of a comparison.

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
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    #[serde(default = "stores")]
    pub stores: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EngineList {
    engine: Vec<Engine>,
}

/// Reads an engine list.
///
/// # Errors
/// [`Error::Engines`] with line and reason.
pub fn parse(text: &str) -> Result<Vec<Engine>, Error> {
    toml::from_str::<EngineList>(text)
        .map(|list| list.engine)
        .map_err(Error::Engines)
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

/// A started engine; stopped, and its directory removed, when dropped.
pub struct Running {
    /// Its name.
    pub name: String,
    /// The port it answers on.
    pub port: u16,
    /// The command line, for the record.
    pub command: String,
    child: Child,
    dir: PathBuf,
}

impl Running {
    /// Starts an engine on core `cpu` and waits until it answers PING.
    ///
    /// # Errors
    /// [`Error::Engine`] when it does not answer within ten seconds; its output is kept.
    pub fn start(
        engine: &Engine,
        program: &Path,
        cpu: usize,
        size: usize,
    ) -> Result<Running, Error> {
        let port = free_port()?;
        let dir = std::env::temp_dir().join(format!(
            "ringkeep-perf-{}-{}-{port}",
            std::process::id(),
            engine.name
        ));
        let data = dir.join("data");
        fs::create_dir_all(&data).map_err(Error::file(&data))?;
        let log = dir.join("log");
        let out = File::create(&log).map_err(Error::file(&log))?;
        let err = out.try_clone().map_err(Error::file(&log))?;
        let args: Vec<String> = engine
            .args
            .iter()
            .map(|arg| {
                arg.replace("{port}", &port.to_string())
                    .replace("{dir}", &data.to_string_lossy())
                    .replace("{size}", &size.to_string())
            })
            .collect();
        // taskset replaces itself, so the child's id is the engine's.
        let child = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .arg(program)
            .args(&args)
            .current_dir(&data)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(Error::os("starting an engine under taskset"))?;
        let mut running = Running {
            name: engine.name.clone(),
            port,
            command: format!("taskset -c {cpu} {} {}", program.display(), quoted(&args)),
            child,
            dir,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !answers_ping(port) {
            let died = !matches!(running.child.try_wait(), Ok(None));
            if sys::is_stopped() {
                return Err(Error::Stopped);
            }
            if died || Instant::now() > deadline {
                let name = running.name.clone();
                running.stop();
                running.dir = PathBuf::new(); // the output stays for whoever reads the message
                return Err(Error::Engine { name, log });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        sys::terminate(self.child.id());
        let deadline = Instant::now() + Duration::from_secs(5);
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
        self.stop();
        if !self.dir.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.dir);
        }
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

/// A port nobody listens on. Another process may take it before the engine does; then starting fails.
fn free_port() -> Result<u16, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::os("finding a free port"))?;
    Ok(listener
        .local_addr()
        .map_err(Error::os("finding a free port"))?
        .port())
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

fn stores() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_list_is_understood_and_names_each_engine_once() {
        let engines = parse(BUILT_IN).expect("understood");
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
        assert!(parse("[[engine]]\nname = 'x'").is_err());
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
