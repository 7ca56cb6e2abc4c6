//! Rules about commands, keys and channels, and whether they allow a request.

use std::collections::BTreeMap;

use super::{
    catalogue::{Number, catalogue, category},
    request::{Asked, Denied},
};
use crate::base::glob_match;

/// Words of a set of commands: enough for the catalogue, which a test watches.
const WORDS: usize = 8;
const WORD_BITS: usize = u64::BITS as usize;
/// Commands that a set can hold.
#[cfg(test)]
pub(super) const COMMANDS_MAX: usize = WORDS * WORD_BITS;

/// A set of commands and subcommands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct CommandSet([u64; WORDS]);

impl CommandSet {
    /// Every command that there could be.
    pub const ALL: CommandSet = CommandSet([u64::MAX; WORDS]);

    /// Is it in the set?
    pub fn has(&self, number: Number) -> bool {
        let at = usize::from(number);
        let word = self.0.get(at / WORD_BITS).copied().unwrap_or_default();
        word >> (at % WORD_BITS) & 1 != 0
    }

    fn set(&mut self, number: Number, is_in: bool) {
        let at = usize::from(number);
        if let Some(word) = self.0.get_mut(at / WORD_BITS) {
            let bit = 1 << (at % WORD_BITS);
            *word = if is_in { *word | bit } else { *word & !bit };
        }
    }

    /// Puts a command in or takes it out, with its subcommands.
    pub fn change(&mut self, number: Number, is_in: bool) {
        self.set(number, is_in);
        for sub in &catalogue().named(number).subs {
            self.set(*sub, is_in);
        }
    }

    /// The same with all commands of a category.
    pub fn change_category(&mut self, category: u32, is_in: bool) {
        for (number, _) in catalogue().in_category(category) {
            self.change(number, is_in);
        }
    }
}

/// What is done to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Its value is read.
    pub reads: bool,
    /// It is changed.
    pub writes: bool,
}

impl Access {
    /// Both.
    pub const ALL: Access = Access {
        reads: true,
        writes: true,
    };

    fn covers(self, asked: Access) -> bool {
        (self.reads || !asked.reads) && (self.writes || !asked.writes)
    }

    fn and(self, other: Access) -> Access {
        Access {
            reads: self.reads || other.reads,
            writes: self.writes || other.writes,
        }
    }
}

/// A rule that cannot be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleError {
    /// It is none.
    Syntax,
    /// It names what is not there.
    Unknown,
    /// All keys are allowed already.
    HasAllKeys,
    /// All channels are.
    HasAllChannels,
    /// The password to be taken away was not there.
    NoPassword,
    /// This is no SHA-256.
    NoHash,
    /// A first argument of a subcommand.
    ArgumentOfSub,
}

impl RuleError {
    /// As Redis says it.
    pub fn text(self) -> &'static str {
        match self {
            RuleError::Syntax => "Syntax error",
            RuleError::Unknown => "Unknown command or category name in ACL",
            RuleError::HasAllKeys => {
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not \
                 have any effect. Try 'resetkeys' to start with an empty list of patterns"
            }
            RuleError::HasAllChannels => {
                "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does \
                 not have any effect. Try 'resetchannels' to start with an empty list of channels"
            }
            RuleError::NoPassword => {
                "The password you are trying to remove from the user does not exist"
            }
            RuleError::NoHash => {
                "The password hash must be exactly 64 characters and contain only lowercase hexadecimal \
                 characters"
            }
            RuleError::ArgumentOfSub => "Allowing first-arg of a subcommand is not supported",
        }
    }
}

/// Keys whose names fit a pattern, and what may be done to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeyPattern {
    pub access: Access,
    pub pattern: Vec<u8>,
}

/// See the module page.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector {
    /// Nothing was taken from all commands.
    pub(super) all_commands: bool,
    /// It began with all commands: those that a later version brings are among them.
    pub(super) begins_with_all: bool,
    pub(super) commands: CommandSet,
    /// Of commands that are not allowed: with these first arguments they are.
    pub(super) first_args: BTreeMap<Number, Vec<Vec<u8>>>,
    pub(super) all_keys: bool,
    pub(super) keys: Vec<KeyPattern>,
    pub(super) all_channels: bool,
    pub(super) channels: Vec<Vec<u8>>,
}

/// Bytes that would break a rule or a line of rules.
pub(super) fn has_spaces(text: &[u8]) -> bool {
    let is_space = |byte: &u8| matches!(byte, 0 | b' ' | b'\t'..=b'\r');
    text.iter().any(is_space)
}

impl Selector {
    /// Follows a rule.
    ///
    /// # Errors
    /// Why it cannot; nothing was changed.
    pub fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        match &rule.to_ascii_lowercase()[..] {
            b"allkeys" | b"~*" => self.set_all_keys(true),
            b"resetkeys" => self.set_all_keys(false),
            b"allchannels" | b"&*" => self.set_all_channels(true),
            b"resetchannels" => self.set_all_channels(false),
            b"allcommands" | b"+@all" => self.set_all_commands(true),
            b"nocommands" | b"-@all" => self.set_all_commands(false),
            [b'~' | b'%', ..] => return self.add_keys(rule),
            [b'&', ..] => return self.add_channels(&rule[1..]),
            [sign @ (b'+' | b'-'), b'@', name @ ..] => {
                let category = category(name).ok_or(RuleError::Unknown)?;
                self.change_category(category, *sign == b'+');
            }
            [b'+', ..] => return self.allow(&rule[1..]),
            [b'-', ..] => {
                let number = catalogue().find(&rule[1..]).ok_or(RuleError::Unknown)?;
                self.change(number, false);
            }
            _ => return Err(RuleError::Syntax),
        }
        Ok(())
    }

    fn set_all_keys(&mut self, all: bool) {
        self.all_keys = all;
        self.keys.clear();
    }

    fn set_all_channels(&mut self, all: bool) {
        self.all_channels = all;
        self.channels.clear();
    }

    fn set_all_commands(&mut self, all: bool) {
        (self.all_commands, self.begins_with_all) = (all, all);
        self.commands = if all {
            CommandSet::ALL
        } else {
            CommandSet::default()
        };
        self.first_args.clear();
    }

    fn change(&mut self, number: Number, is_in: bool) {
        self.commands.change(number, is_in);
        self.first_args.remove(&number);
        self.all_commands &= is_in;
    }

    fn change_category(&mut self, category: u32, is_in: bool) {
        for (number, _) in catalogue().in_category(category) {
            self.change(number, is_in);
        }
    }

    fn add_keys(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::HasAllKeys);
        }
        let (access, pattern) = match rule {
            [b'%', rest @ ..] => key_access(rest)?,
            _ => (Access::ALL, &rule[1..]),
        };
        if has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        match self.keys.iter_mut().find(|one| one.pattern == pattern) {
            Some(one) => one.access = one.access.and(access),
            None => self.keys.push(KeyPattern {
                access,
                pattern: pattern.to_vec(),
            }),
        }
        Ok(())
    }

    fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::HasAllChannels);
        }
        if has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        if !self.channels.iter().any(|one| one == pattern) {
            self.channels.push(pattern.to_vec());
        }
        Ok(())
    }

    /// `+command`, `+container|sub`, `+command|argument`.
    fn allow(&mut self, name: &[u8]) -> Result<(), RuleError> {
        let catalogue = catalogue();
        let Some(bar) = name.iter().rposition(|byte| *byte == b'|') else {
            let number = catalogue.find(name).ok_or(RuleError::Unknown)?;
            self.change(number, true);
            return Ok(());
        };
        let argument = &name[bar + 1..];
        let number = catalogue.find(&name[..bar]).ok_or(RuleError::Unknown)?;
        let named = catalogue.named(number);
        if named.is_sub {
            return Err(RuleError::ArgumentOfSub);
        }
        if argument.is_empty() {
            return Err(RuleError::Syntax);
        }
        if !named.subs.is_empty() {
            let sub = catalogue.sub_of(number, argument);
            self.change(sub.ok_or(RuleError::Unknown)?, true);
            return Ok(());
        }
        let arguments = self.first_args.entry(number).or_default();
        if !arguments
            .iter()
            .any(|one| one.eq_ignore_ascii_case(argument))
        {
            arguments.push(argument.to_vec());
        }
        Ok(())
    }

    /// May everything be done?
    pub fn is_unlimited(&self) -> bool {
        self.all_commands && self.all_keys && self.all_channels
    }

    /// Why a request may not run.
    ///
    /// # Errors
    /// What stands against it.
    pub(super) fn check(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        if !self.allows_command(asked) {
            return Err(Denied::Command);
        }
        if !self.all_keys {
            let is_denied = |at: usize, access| !self.allows_key(asked.args.at(at), access);
            let mut keys = asked.keys().iter();
            if let Some((at, _)) = keys.find(|(at, access)| is_denied(*at, *access)) {
                return Err(Denied::Key(*at));
            }
        }
        if !self.all_channels {
            let is_denied = |at: &usize| {
                let channel = asked.args.at(*at);
                !self.allows_channel(channel, asked.names_patterns())
            };
            if let Some(at) = asked.channels().find(is_denied) {
                return Err(Denied::Channel(at));
            }
        }
        Ok(())
    }

    /// May the command be called, whatever its keys are?
    pub(super) fn allows_command(&self, asked: &Asked<'_>) -> bool {
        let with_argument = || {
            let arguments = self.first_args.get(&asked.number).into_iter().flatten();
            let mut given = asked.args.get(1).into_iter();
            given.any(|first| arguments.clone().any(|one| one.eq_ignore_ascii_case(first)))
        };
        self.all_commands || asked.is_open() || self.commands.has(asked.number) || with_argument()
    }

    fn allows_key(&self, key: &[u8], access: Access) -> bool {
        let fits = |one: &KeyPattern| one.access.covers(access) && glob_match(&one.pattern, key);
        self.keys.iter().any(fits)
    }

    /// May any key be read?
    pub(super) fn reads_all_keys(&self) -> bool {
        let reads_all = |one: &KeyPattern| one.access.reads && one.pattern == b"*";
        self.all_keys || self.keys.iter().any(reads_all)
    }

    /// May the channel be named? Patterns must stand in the rules as they are.
    pub(super) fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        let fits = |one: &Vec<u8>| match is_pattern {
            true => one == channel,
            false => glob_match(one, channel),
        };
        self.all_channels || self.channels.iter().any(fits)
    }
}

/// What `%RW~pattern` says behind the `%`.
fn key_access(rule: &[u8]) -> Result<(Access, &[u8]), RuleError> {
    let mut access = Access::default();
    let mut rest = rule;
    while let [letter, tail @ ..] = rest {
        rest = tail;
        match letter {
            b'R' | b'r' if !access.reads => access.reads = true,
            b'W' | b'w' if !access.writes => access.writes = true,
            b'~' if access != Access::default() => break,
            _ => return Err(RuleError::Syntax),
        }
    }
    if access == Access::default() {
        return Err(RuleError::Syntax);
    }
    Ok((access, rest))
}
