//! All users of a node.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    selector::{RuleError, has_spaces},
    user::User,
};
use crate::resp::Error;

/// The user of whoever says nothing.
pub const DEFAULT: &[u8] = b"default";

/// What an error of a file ends with.
const UNCHANGED: &str =
    "WARNING: ACL errors detected, no change to the previously active ACL rules was performed";

/// Why a user was not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetError {
    /// Nobody can be called that.
    Name,
    /// A selector has no end.
    Unmatched(Vec<u8>),
    /// A rule cannot be followed.
    Rule(Vec<u8>, RuleError),
}

impl SetError {
    /// As Redis says it.
    pub fn error(&self) -> Error {
        let lossy = String::from_utf8_lossy;
        Error::text(match self {
            SetError::Name => "ERR Usernames can't contain spaces or null characters".to_string(),
            SetError::Unmatched(rule) => format!(
                "ERR Unmatched parenthesis in acl selector starting at '{}'.",
                lossy(rule)
            ),
            SetError::Rule(rule, error) => format!(
                "ERR Error in ACL SETUSER modifier '{}': {}",
                lossy(rule),
                error.text()
            ),
        })
    }
}

/// See the module page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Users {
    by_name: BTreeMap<Vec<u8>, Arc<User>>,
    births: u64,
}

impl Default for Users {
    fn default() -> Self {
        let user = User::unlimited(DEFAULT);
        Self {
            by_name: BTreeMap::from([(DEFAULT.to_vec(), Arc::new(user))]),
            births: 0,
        }
    }
}

impl Users {
    /// A user by name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// The user of whoever says nothing.
    pub fn default_user(&self) -> Arc<User> {
        let found = self.get(DEFAULT).cloned();
        // There is one at all times; without one, nobody may do anything.
        found.unwrap_or_else(|| Arc::new(User::new(DEFAULT)))
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// The same users, but one made or changed by these rules.
    ///
    /// # Errors
    /// Why not.
    pub fn with<'a>(
        &self,
        name: &[u8],
        rules: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, SetError> {
        if has_spaces(name) {
            return Err(SetError::Name);
        }
        let rules = merged(rules).map_err(SetError::Unmatched)?;
        let mut users = self.clone();
        let mut user = match self.get(name) {
            Some(user) => User::clone(user),
            None => users.born(name),
        };
        for rule in rules {
            user.apply(&rule)
                .map_err(|error| SetError::Rule(rule, error))?;
        }
        users.by_name.insert(name.to_vec(), Arc::new(user));
        Ok(users)
    }

    fn born(&mut self, name: &[u8]) -> User {
        self.births += 1;
        let mut user = User::new(name);
        user.birth = self.births;
        user
    }

    /// These users in the place of others: who has the name of one of those is the same.
    pub fn replacing(mut self, before: &Users) -> Self {
        self.births = before.births;
        for (name, user) in &mut self.by_name {
            let mut known = User::clone(user);
            known.birth = match before.get(name) {
                Some(one) => one.birth,
                None => {
                    self.births += 1;
                    self.births
                }
            };
            *user = Arc::new(known);
        }
        self
    }

    /// Does the default user need no password, on or off?
    pub fn needs_no_password(&self) -> bool {
        self.get(DEFAULT)
            .is_some_and(|user| user.needs_no_password())
    }

    /// May everybody come in without a word?
    pub fn is_open(&self) -> bool {
        let default = self.get(DEFAULT);
        default.is_some_and(|user| user.is_on() && user.needs_no_password())
    }

    /// The same users but these, and how many of them there were.
    pub fn without<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> (Self, usize) {
        let mut users = self.clone();
        let count = names
            .filter(|name| users.by_name.remove(*name).is_some())
            .count();
        (users, count)
    }

    /// The text of a file that makes these users.
    pub fn text(&self) -> Vec<u8> {
        let lines = self.iter().map(|user| [&user.line()[..], b"\n"].concat());
        lines.collect::<Vec<_>>().concat()
    }

    /// Reads such a text. Without a user `default` in it, that one may do everything.
    ///
    /// # Errors
    /// What is wrong with it, a part for each error.
    pub fn read(text: &[u8], file: &str) -> Result<Self, Vec<String>> {
        let mut users = Self {
            by_name: BTreeMap::new(),
            births: 0,
        };
        let mut errors = Vec::new();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            users.read_line(
                line.trim_ascii(),
                &format!("{file}:{}", at + 1),
                &mut errors,
            );
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let default = || Arc::new(User::unlimited(DEFAULT));
        users
            .by_name
            .entry(DEFAULT.to_vec())
            .or_insert_with(default);
        Ok(users)
    }

    /// What ACL LOAD answers to the errors of a file.
    pub fn refused(errors: &[String]) -> Error {
        Error::text(format!("ERR {}{UNCHANGED}", errors.concat()))
    }

    fn read_line(&mut self, line: &[u8], place: &str, errors: &mut Vec<String>) {
        if line.is_empty() {
            return;
        }
        let mut words = line.split(|byte| *byte == b' ');
        let (first, name) = (words.next(), words.next());
        let (Some(b"user"), Some(name)) = (first, name) else {
            errors.push(format!(
                "{place} should start with user keyword followed by the username. "
            ));
            return;
        };
        let shown = String::from_utf8_lossy(name);
        if has_spaces(name) {
            errors.push(format!(
                "'{place}: username '{shown}' contains invalid characters. "
            ));
            return;
        }
        if self.by_name.contains_key(name) {
            errors.push(format!(
                "WARNING: Duplicate user '{shown}' found at {place}. "
            ));
            return;
        }
        let mut user = User::new(name);
        match merged(words) {
            Ok(rules) => {
                let mut is_told = false;
                for rule in rules {
                    let rule = rule.trim_ascii();
                    let Err(error) = user.apply(rule) else {
                        continue;
                    };
                    let text = error.text();
                    if error == RuleError::Unknown {
                        let rule = String::from_utf8_lossy(rule);
                        let what = format!("Error in applying operation '{rule}'");
                        errors.push(format!("{place}: {what}: {text}. "));
                    } else if !is_told {
                        // What comes behind it may be wrong for no other reason.
                        is_told = true;
                        errors.push(format!("{place}: {text}. "));
                    }
                }
            }
            Err(_) => errors.push(format!(
                "{place}: Unmatched parenthesis in selector definition. "
            )),
        }
        self.by_name.insert(name.to_vec(), Arc::new(user));
    }
}

/// Rules with those that are parts of one selector put together; an error is the start of one without an end.
fn merged<'a>(rules: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, Vec<u8>> {
    let mut whole: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
    for rule in rules {
        let ends = rule.ends_with(b")");
        open = match open.take() {
            _ if rule.starts_with(b"(") && !ends => Some((rule.to_vec(), rule.to_vec())),
            Some((first, mut parts)) => {
                parts.push(b' ');
                parts.extend_from_slice(rule);
                if !ends {
                    Some((first, parts))
                } else {
                    whole.push(parts);
                    None
                }
            }
            None => {
                whole.push(rule.to_vec());
                None
            }
        };
    }
    match open {
        Some((first, _)) => Err(first),
        None => Ok(whole),
    }
}
