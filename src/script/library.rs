//! Libraries of functions, as FUNCTION LOAD was given them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::shebang;
use crate::resp::Error;

/// What a function or a script says of itself in `flags`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(u8);

impl Flags {
    /// It writes nothing.
    pub const NO_WRITES: Flags = Flags(1);
    /// It may run, and write, above `maxmemory`.
    pub const ALLOW_OOM: Flags = Flags(1 << 1);

    /// In the order of FUNCTION LIST. The last three mean nothing here: a node always serves what it
    /// has, and is no cluster.
    const NAMES: [&str; 5] = [
        "no-writes",
        "allow-oom",
        "allow-stale",
        "no-cluster",
        "allow-cross-slot-keys",
    ];

    /// Adds a flag by its name; false if there is none.
    pub fn add(&mut self, name: &str) -> bool {
        let at = Self::NAMES.iter().position(|known| *known == name);
        if let Some(at) = at {
            self.0 |= 1 << at;
        }
        at.is_some()
    }

    /// Are all flags of `other` set?
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(at, _)| self.0 & 1 << at != 0)
            .map(|(_, name)| name)
    }
}

/// What a library says of one of its functions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FunctionInfo {
    /// For FUNCTION LIST.
    pub description: Option<Vec<u8>>,
    /// See [`Flags`].
    pub flags: Flags,
}

/// A library: its source, and what running it registered.
#[derive(PartialEq, Eq, Debug)]
pub struct Library {
    /// Its name.
    pub name: String,
    /// The whole source, header included.
    pub code: Arc<[u8]>,
    /// Its functions by name.
    pub functions: BTreeMap<String, FunctionInfo>,
}

/// Libraries by name.
pub type Libraries = BTreeMap<String, Arc<Library>>;

const BAD_NAME: &str = "Library names can only contain letters, numbers, or underscores(_) and must be at \
                        least one character long";

/// Checks the name of a library or function. The text of the error names libraries in both cases, as
/// that of Redis does.
///
/// # Errors
/// The text to show.
pub fn check_name(name: &[u8]) -> Result<String, &'static str> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match std::str::from_utf8(name) {
        Ok(text) if !name.is_empty() && name.iter().all(fits) => Ok(text.to_string()),
        _ => Err(BAD_NAME),
    }
}

/// Reads `#!lua name=...`: the name, and the code with the empty rest of the first line, so that line
/// numbers fit.
///
/// # Errors
/// The reply of Redis.
pub fn header(source: &[u8]) -> Result<(String, &[u8]), Error> {
    if !source.starts_with(b"#!") {
        return Err(Error::fixed("ERR Missing library metadata"));
    }
    let invalid = || Error::fixed("ERR Invalid library metadata");
    let end = source.iter().position(|byte| *byte == b'\n');
    let (line, code) = source.split_at(end.ok_or_else(invalid)?);
    let words = shebang::words(line).ok_or_else(invalid)?;
    let mut words = words.iter();
    let engine = words.next().ok_or_else(invalid)?;
    let engine = engine.strip_prefix(b"#!").unwrap_or(engine);
    let mut name = None;
    for word in words {
        let given = word
            .get(..5)
            .filter(|key| key.eq_ignore_ascii_case(b"name="));
        if given.is_none() {
            let word = String::from_utf8_lossy(word);
            return Err(Error::text(format!(
                "ERR Invalid metadata value given: {word}"
            )));
        }
        if name.replace(&word[5..]).is_some() {
            return Err(Error::fixed(
                "ERR Invalid metadata value, name argument was given multiple times",
            ));
        }
    }
    let name = name.ok_or(Error::fixed("ERR Library name was not given"))?;
    let name = check_name(name).map_err(|text| Error::text(format!("ERR {text}")))?;
    if !engine.eq_ignore_ascii_case(b"lua") {
        let engine = String::from_utf8_lossy(engine);
        return Err(Error::text(format!("ERR Engine '{engine}' not found")));
    }
    Ok((name, code))
}

/// Puts libraries beside those that are there, or in the place of those with the same names.
///
/// # Errors
/// A name of a library is taken (unless `replace`), or one of a function.
pub fn join(present: &mut Libraries, added: Libraries, replace: bool) -> Result<(), Error> {
    let taken = added.keys().find(|name| present.contains_key(*name));
    if let (Some(name), false) = (taken, replace) {
        return Err(Error::text(format!("ERR Library {name} already exists")));
    }
    let mut joined = present.clone();
    joined.retain(|name, _| !added.contains_key(name));
    // Names of functions are called in any case.
    let functions = |libraries: &Libraries| -> Vec<String> {
        let names = libraries
            .values()
            .flat_map(|library| library.functions.keys());
        names.cloned().collect()
    };
    let others: BTreeSet<_> = functions(&joined)
        .iter()
        .map(|name| name.to_lowercase())
        .collect();
    let added_names = functions(&added);
    let twice = added_names
        .iter()
        .find(|name| others.contains(&name.to_lowercase()));
    if let Some(name) = twice {
        return Err(Error::text(format!("ERR Function {name} already exists")));
    }
    joined.extend(added);
    *present = joined;
    Ok(())
}
