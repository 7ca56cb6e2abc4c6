//! Settings: options go before variables, these before the file, and that before the defaults.
//!
//! [`table`] has all settings. A kevy.toml is read as kevy reads it, with kevy's defaults for what it leaves
//! out; a ringkeep.toml has the same sections and more keys, and the defaults of the node. The name of the
//! file tells which one it is.

mod draft;
mod file;
mod kevy;
mod near;
mod rewrite;
mod scopes;
mod show;
mod table;

use std::{
    collections::BTreeMap,
    env,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use self::{
    draft::{Draft, Refused},
    file::{Entry, Value},
    kevy::{Foreign, Verdict},
    table::Kind,
};
use super::args::{Options, UsageError};
pub(super) use rewrite::rewriter;
pub(super) use table::{SETTINGS, Setting};

/// Does CONFIG SET change it?
pub(super) fn is_live(parameter: &str) -> bool {
    let mut settings = SETTINGS.iter();
    settings.any(|setting| setting.is_live && setting.parameter == parameter)
}

/// Reads a file.
type Read = Box<dyn Fn(&Path) -> io::Result<String>>;

/// What there is around a command line.
pub struct World {
    variables: Vec<(String, String)>,
    read: Read,
}

impl World {
    /// The one of this process.
    pub fn real() -> Self {
        let texts = env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            Some((name, value))
        });
        Self {
            variables: texts.collect(),
            read: Box::new(|path| std::fs::read_to_string(path)),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| &value[..])
            .filter(|value| !value.is_empty())
    }
}

/// One with nothing in it.
impl Default for World {
    fn default() -> Self {
        Self {
            variables: Vec::new(),
            read: Box::new(|_| Err(ErrorKind::NotFound.into())),
        }
    }
}

/// What a command line asks for.
#[derive(Default, Debug)]
pub(super) struct Asked {
    /// The file to read.
    pub file: Option<PathBuf>,
    /// None is looked for.
    pub is_alone: bool,
    flags: Vec<(&'static Setting, String)>,
}

impl Asked {
    /// Is there such an option?
    pub fn knows(flag: &str) -> bool {
        flag.strip_prefix("--")
            .is_some_and(|name| table::named(name).is_some())
    }

    /// Takes an option.
    ///
    /// # Errors
    /// There is none of that name, or it does not take that.
    pub fn flag(&mut self, flag: &str, text: String) -> Result<(), UsageError> {
        let setting = flag.strip_prefix("--").and_then(table::named);
        let setting = setting.ok_or_else(|| UsageError::Unknown(flag.into()))?;
        draft::check(setting.name, &text).map_err(|refused| match refused {
            Refused::Value => UsageError::BadValue(flag.into(), text.clone()),
            Refused::Because(why) => UsageError::Because(flag.into(), why),
        })?;
        self.flags.push((setting, text));
        Ok(())
    }
}

/// The file that settings were read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// It has kevy's defaults.
    pub is_kevy: bool,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Origin {
    /// The default of kevy, as a kevy.toml was read.
    Kevy,
    File(usize),
    Variable(String),
    Flag,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Given {
    text: String,
    origin: Origin,
}

/// All settings, with where they come from.
#[derive(Debug)]
pub(super) struct Resolved {
    /// What they add up to.
    pub options: Options,
    given: BTreeMap<&'static str, Given>,
}

/// Finds out what holds.
///
/// # Errors
/// Everything that is wrong in the file and in the environment, or what does not go together.
pub(super) fn resolve(asked: &Asked, world: &World) -> Result<Resolved, UsageError> {
    let mut layers = Layers::default();
    layers.read_file(asked, world);
    layers.read_variables(world);
    layers.read_flags(asked);
    layers.settle();
    if !layers.faults.is_empty() {
        return Err(UsageError::Config(layers.faults));
    }
    let mut draft = Draft::default();
    for (name, given) in &layers.given {
        // Each was looked at before.
        draft
            .set(name, &given.text)
            .map_err(|_| UsageError::BadValue((*name).into(), given.text.clone()))?;
    }
    let mut options = draft.finish()?;
    options.config = layers.file;
    options.notes = layers.notes;
    options.notes.extend(scopes::notes(&options));
    Ok(Resolved {
        options,
        given: layers.given,
    })
}

/// What was found so far.
#[derive(Default)]
struct Layers {
    file: Option<ConfigFile>,
    given: BTreeMap<&'static str, Given>,
    /// The role that the file gives the node, and the line.
    role: Option<(String, usize)>,
    notes: Vec<String>,
    faults: Vec<String>,
}

impl Layers {
    fn is_kevy(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.is_kevy)
    }

    fn read_file(&mut self, asked: &Asked, world: &World) {
        let found = match &asked.file {
            _ if asked.is_alone => return,
            Some(path) => Some((path.clone(), (world.read)(path))),
            None => find(world),
        };
        let Some((path, text)) = found else {
            return;
        };
        let shown = path.display().to_string();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.file = Some(ConfigFile {
            is_kevy: !name.contains("ringkeep"),
            path,
        });
        let text = match text {
            Ok(text) => text,
            Err(error) => return self.faults.push(format!("cannot read {shown}: {error}")),
        };
        let contents = match file::read(&text) {
            Ok(contents) => contents,
            Err(faults) => {
                let line = |(line, why): &(usize, String)| format!("{shown}: {why} at line {line}");
                return self.faults.extend(faults.iter().map(line));
            }
        };
        let mut faults = Vec::new();
        for section in &contents.sections {
            if !near::is_section(&section.name) {
                let hint = near::section_hint(&section.name);
                let text = format!(
                    "{shown}: unknown section '{}' at line {}{hint}",
                    section.name, section.line
                );
                faults.push((section.line, text));
            }
        }
        for entry in &contents.entries {
            if let Err(why) = self.take_entry(&shown, entry) {
                faults.push((entry.line, format!("{shown}: {why}")));
            }
        }
        faults.sort();
        self.faults.extend(faults.into_iter().map(|(_, text)| text));
    }

    fn take_entry(&mut self, file: &str, entry: &Entry) -> Result<(), String> {
        let (section, key) = (&entry.section[..], &entry.key[..]);
        if let Some(setting) = table::at(section, key) {
            return self.take_setting(setting, entry);
        }
        if let Some(foreign) = kevy::at(section, key) {
            return self.take_foreign(file, foreign, entry);
        }
        if !near::is_section(section) && !section.is_empty() {
            // The section was told of.
            return Ok(());
        }
        let hint = near::key_hint(section, key);
        Err(format!("unknown key '{key}' at line {}{hint}", entry.line))
    }

    fn take_setting(&mut self, setting: &'static Setting, entry: &Entry) -> Result<(), String> {
        let refused = |refused| match refused {
            // Nor is it told what the password is.
            _ if setting.is_secret => format!("{} takes {}", entry.place(), setting.kind.takes()),
            Refused::Value => entry.misfit(setting.kind),
            Refused::Because(why) => format!("{} is {}: {why}", entry.place(), entry.raw),
        };
        let text = plain(setting.kind, &entry.value).ok_or_else(|| refused(Refused::Value))?;
        let is_none = matches!(setting.kind, Kind::OrNone(..)) && text == "0";
        if is_none || (text.is_empty() && setting.default.is_empty()) {
            return Ok(());
        }
        draft::check(setting.name, &text).map_err(refused)?;
        let origin = Origin::File(entry.line);
        self.given.insert(setting.name, Given { text, origin });
        Ok(())
    }

    /// A key that only a kevy has.
    fn take_foreign(&mut self, file: &str, foreign: &Foreign, entry: &Entry) -> Result<(), String> {
        let text = plain(foreign.kind, &entry.value).ok_or_else(|| entry.misfit(foreign.kind))?;
        let (is_on, place) = (text != foreign.off, entry.place());
        match foreign.verdict {
            Verdict::Weighed => self.role = Some((text, entry.line)),
            Verdict::Told(why) if is_on => {
                self.notes
                    .push(format!("{file}: {place} is left out: {why}"));
            }
            Verdict::Refused(why) if is_on => return Err(format!("{place} cannot be had: {why}")),
            Verdict::Told(_) | Verdict::Refused(_) => {}
        }
        Ok(())
    }

    fn read_variables(&mut self, world: &World) {
        for setting in SETTINGS {
            // The later one counts.
            for variable in [setting.kevy_variable, &setting.variable()] {
                if let Some(text) = world.variable(variable) {
                    self.take_variable(setting, variable, text);
                }
            }
        }
        for (variable, off, verdict) in kevy::VARIABLES {
            match (world.variable(variable), verdict) {
                (Some(text), Verdict::Told(why)) if text != *off => {
                    self.notes.push(format!("{variable} is left out: {why}"));
                }
                (Some(text), Verdict::Refused(why)) if text != *off => {
                    self.faults.push(format!("{variable} cannot be had: {why}"));
                }
                _ => {}
            }
        }
        self.look_for_typos(world);
    }

    fn take_variable(&mut self, setting: &'static Setting, variable: &str, text: &str) {
        if text.contains("://") && setting.name == "port" {
            // Kubernetes sets it so, for a service of that name.
            let note = format!("{variable} is left out: '{text}' is the address of a service");
            return self.notes.push(note);
        }
        let text = match setting.kind {
            Kind::YesNo => match &text.to_ascii_lowercase()[..] {
                "0" | "off" | "false" | "no" => "no",
                "1" | "on" | "true" | "yes" => "yes",
                // As kevy does.
                _ if variable == setting.kevy_variable => "yes",
                _ => text,
            },
            _ => text,
        };
        let fault = match draft::check(setting.name, text) {
            Ok(()) => {
                let origin = Origin::Variable(variable.into());
                let text = text.into();
                self.given.insert(setting.name, Given { text, origin });
                return;
            }
            Err(_) if setting.is_secret => format!("{variable} is none"),
            Err(Refused::Value) => {
                format!("{variable} is '{text}', but takes {}", setting.kind.takes())
            }
            Err(Refused::Because(why)) => format!("{variable} is '{text}': {why}"),
        };
        self.faults.push(fault);
    }

    /// A variable may be for something else, so that one that is almost ours is only told of.
    fn look_for_typos(&mut self, world: &World) {
        let mut known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        // Of `ringkeep top`, which may run in the same environment.
        known.push("RINGKEEP_PASSWORD".into());
        for (name, _) in &world.variables {
            if !name.starts_with("RINGKEEP_") || known.contains(name) {
                continue;
            }
            if let Some(meant) = near::nearest(name, known.iter().map(|known| &known[..])) {
                let note = format!("{name} in the environment is no setting: is it {meant}?");
                self.notes.push(note);
            }
        }
    }

    fn read_flags(&mut self, asked: &Asked) {
        for (setting, text) in &asked.flags {
            let earlier = self.given.get(setting.name);
            let text = match earlier {
                // It may be repeated.
                Some(given) if setting.kind == Kind::Addresses && given.origin == Origin::Flag => {
                    format!("{} {text}", given.text)
                }
                _ => text.clone(),
            };
            let origin = Origin::Flag;
            self.given.insert(setting.name, Given { text, origin });
        }
    }

    /// Is it only the file that has it?
    fn line_of(&self, name: &str) -> Option<usize> {
        match self.given.get(name)?.origin {
            Origin::File(line) => Some(line),
            _ => None,
        }
    }

    /// Takes out what the file says, and tells it.
    fn drop_line(&mut self, name: &'static str, why: &str) {
        let (Some(line), Some(setting)) = (self.line_of(name), table::named(name)) else {
            return;
        };
        self.given.remove(name);
        let (section, key) = setting.place;
        let path = self
            .file
            .as_ref()
            .map(|file| file.path.display().to_string());
        self.notes.push(format!(
            "{}: [{section}] {key} at line {line} is left out: {why}",
            path.unwrap_or_default()
        ));
    }

    /// What keys mean together, as kevy has it, and kevy's defaults.
    fn settle(&mut self) {
        if self.is_kevy() {
            self.settle_names();
        }
        let is_member = self.given.contains_key("peers");
        let role = match &self.role {
            Some((role, line)) => Some((role.clone(), Some(*line))),
            None => self.is_kevy().then(|| ("standalone".to_string(), None)),
        };
        if let Some((role, line)) = role {
            self.settle_role(&role, line, is_member);
        }
        if is_member {
            self.drop_line("replicaof", "the members elect the primary");
        }
        if self.is_kevy() {
            self.fill_in();
        }
    }

    fn settle_names(&mut self) {
        let has = |name| self.given.contains_key(name);
        let (is_named, is_listed, is_scoped) = (has("node-id"), has("peers"), has("scopes"));
        // A name alone is for scopes.
        if is_named != is_listed && !(is_named && is_scoped) {
            let why = "elections need [cluster] node_id and peers";
            self.drop_line("node-id", why);
            self.drop_line("peers", why);
        }
        if !is_named {
            self.drop_line("scopes", "without [cluster] node_id none is this node's");
        }
    }

    fn settle_role(&mut self, role: &str, line: Option<usize>, is_member: bool) {
        if role != "replica" {
            self.drop_line("replicaof", "[replication] role is not \"replica\"");
        } else if !self.given.contains_key("replicaof") && !is_member {
            let path = self
                .file
                .as_ref()
                .map(|file| file.path.display().to_string());
            self.faults.push(format!(
                "{}: [replication] role at line {} is \"replica\", but there is no upstream: a node that \
                 follows nobody would take writes",
                path.unwrap_or_default(),
                line.unwrap_or_default()
            ));
        }
        let wanted = self.given.get("min-replicas-to-write");
        let is_on = wanted.is_some_and(|given| given.text != "0");
        if role != "primary" && is_on && !is_member {
            // Nobody could ever acknowledge anything.
            self.drop_line(
                "min-replicas-to-write",
                "[replication] role is not \"primary\"",
            );
        }
        if role == "standalone" && !is_member {
            self.drop_line("replication-port", "[replication] role is \"standalone\"");
            let origin = line.map_or(Origin::Kevy, Origin::File);
            let text = "0".to_string();
            let given = self.given.entry("replication-port");
            given.or_insert(Given { text, origin });
        }
    }

    fn fill_in(&mut self) {
        for setting in SETTINGS {
            if let Some(text) = setting.kevy_default {
                let given = self.given.entry(setting.name);
                given.or_insert_with(|| Given {
                    text: text.into(),
                    origin: Origin::Kevy,
                });
            }
        }
    }
}

/// The first file of those that are looked for, if there is one.
fn find(world: &World) -> Option<(PathBuf, io::Result<String>)> {
    let places = [
        ("RINGKEEP_DIR", "ringkeep.toml", "/etc/ringkeep"),
        ("KEVY_DIR", "kevy.toml", "/etc/kevy"),
    ];
    let paths = places.iter().flat_map(|(variable, name, etc)| {
        let named = world
            .variable(variable)
            .map(|dir| Path::new(dir).join(name));
        let here = Path::new(".").join(name);
        named.into_iter().chain([here, Path::new(etc).join(name)])
    });
    let mut read = paths.map(|path| {
        let text = (world.read)(&path);
        (path, text)
    });
    read.find(|(_, text)| {
        let error = text.as_ref().err().map(io::Error::kind);
        error != Some(ErrorKind::NotFound)
    })
}

/// A value of a file as an option has it, if it can be one.
fn plain(kind: Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (Kind::Number(..) | Kind::OrNone(..), Value::Number(number)) => {
            let (Kind::Number(least, most) | Kind::OrNone(least, most)) = kind else {
                return None;
            };
            (least..=most).contains(number).then(|| number.to_string())
        }
        (Kind::Connections, Value::Number(0)) => Some(u32::MAX.to_string()),
        (Kind::Connections, Value::Number(number)) => {
            u32::try_from(*number).ok().map(|number| number.to_string())
        }
        (Kind::Seconds, Value::Number(ms)) => {
            let ms = u64::try_from(*ms).ok()?;
            Some(ms.div_ceil(1000).max(1).to_string())
        }
        (Kind::Bytes, Value::Number(number)) => {
            u64::try_from(*number).ok().map(|number| number.to_string())
        }
        (Kind::Bytes, Value::Text(text)) => file::bytes(text).map(|number| number.to_string()),
        (Kind::YesNo, Value::YesNo(yes)) => Some(if *yes { "yes" } else { "no" }.into()),
        (Kind::Word(words), Value::Text(text)) => {
            let text = text.to_ascii_lowercase();
            words.contains(&&text[..]).then_some(text)
        }
        (Kind::Text | Kind::List | Kind::Any, Value::Text(text)) => Some(text.clone()),
        (Kind::Any, Value::Number(number)) => Some(number.to_string()),
        (Kind::List, Value::List(texts)) => Some(texts.join(",")),
        (Kind::Addresses, Value::Text(text)) => addresses(std::slice::from_ref(text)),
        (Kind::Addresses, Value::List(texts)) => addresses(texts),
        _ => None,
    }
}

fn addresses(texts: &[String]) -> Option<String> {
    let joined = texts.join(" ");
    let words: Vec<&str> = joined.split_whitespace().collect();
    let are_good = words
        .iter()
        .all(|word| word.parse::<std::net::IpAddr>().is_ok());
    (are_good && !words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
impl World {
    /// One with files and variables.
    pub(super) fn with(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Self {
        let own = |(name, text): &(&str, &str)| (name.to_string(), text.to_string());
        let files: Vec<(String, String)> = files.iter().map(own).collect();
        Self {
            variables: variables.iter().map(own).collect(),
            read: Box::new(move |path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found
                    .map(|(_, text)| text.clone())
                    .ok_or_else(|| ErrorKind::NotFound.into())
            }),
        }
    }
}

#[cfg(test)]
mod tests;
