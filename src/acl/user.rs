//! One user.

use sha2::{Digest, Sha256};

use super::{
    request::{Asked, Denied},
    selector::{RuleError, Selector},
};
use crate::resp::Error;

/// Bytes of a SHA-256.
const HASH_LEN: usize = 32;

/// The SHA-256 of a password.
pub(super) type Hash = [u8; HASH_LEN];

/// What is to be done with values of RESTORE. The node checks them all; the word is kept for those who
/// read rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Sanitize {
    #[default]
    Unsaid,
    Skip,
    Check,
}

/// See the module page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    pub(super) name: Vec<u8>,
    /// Tells it from others that had its name before.
    pub(super) birth: u64,
    pub(super) is_on: bool,
    pub(super) needs_no_password: bool,
    pub(super) sanitize: Sanitize,
    pub(super) passwords: Vec<Hash>,
    pub(super) own: Selector,
    pub(super) others: Vec<Selector>,
}

impl User {
    /// A user that may do nothing and cannot come in.
    pub fn new(name: &[u8]) -> Self {
        Self {
            name: name.to_vec(),
            birth: 0,
            is_on: false,
            needs_no_password: false,
            sanitize: Sanitize::default(),
            passwords: Vec::new(),
            own: Selector::default(),
            others: Vec::new(),
        }
    }

    /// A user that may do everything and needs no password.
    pub fn unlimited(name: &[u8]) -> Self {
        let mut user = Self::new(name);
        (user.is_on, user.needs_no_password) = (true, true);
        for rule in ["allcommands", "allkeys", "allchannels"] {
            // These are rules at all times.
            let _ = user.own.apply(rule.as_bytes());
        }
        user
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Is it this one, with other rules perhaps?
    pub fn is_again(&self, before: &User) -> bool {
        (&self.name, self.birth) == (&before.name, before.birth)
    }

    /// May it come in?
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// May it come in without a word?
    pub fn needs_no_password(&self) -> bool {
        self.needs_no_password
    }

    /// Follows a rule.
    ///
    /// # Errors
    /// Why it cannot; nothing was changed.
    pub fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        match &rule.to_ascii_lowercase()[..] {
            b"" => {}
            b"on" => self.is_on = true,
            b"off" => self.is_on = false,
            b"skip-sanitize-payload" => self.sanitize = Sanitize::Skip,
            b"sanitize-payload" => self.sanitize = Sanitize::Check,
            b"nopass" => self.forget_passwords(true),
            b"resetpass" => self.forget_passwords(false),
            b"clearselectors" => self.others.clear(),
            b"reset" => self.reset(),
            [b'>', ..] => self.add_password(hash(&rule[1..])),
            [b'#', ..] => self.add_password(read_hash(&rule[1..])?),
            [b'<', ..] => self.remove_password(hash(&rule[1..]))?,
            [b'!', ..] => self.remove_password(read_hash(&rule[1..])?)?,
            [b'(', .., b')'] => self.others.push(selector(&rule[1..rule.len() - 1])?),
            _ => self.own.apply(rule)?,
        }
        Ok(())
    }

    fn reset(&mut self) {
        let (name, birth) = (std::mem::take(&mut self.name), self.birth);
        *self = Self::new(&name);
        self.birth = birth;
        self.sanitize = Sanitize::Check;
    }

    fn forget_passwords(&mut self, needs_none: bool) {
        self.needs_no_password = needs_none;
        self.passwords.clear();
    }

    fn add_password(&mut self, hash: Hash) {
        self.needs_no_password = false;
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
    }

    fn remove_password(&mut self, hash: Hash) -> Result<(), RuleError> {
        let at = self.passwords.iter().position(|one| *one == hash);
        self.passwords.remove(at.ok_or(RuleError::NoPassword)?);
        Ok(())
    }

    /// May it come in with this password?
    pub fn admits(&self, password: &[u8]) -> bool {
        let shown = hash(password);
        // All are compared: the time tells neither which one fits nor where others differ.
        let fits = self
            .passwords
            .iter()
            .fold(false, |fits, one| fits | is_same(one, &shown));
        self.is_on && (self.needs_no_password || fits)
    }

    fn selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.own).chain(&self.others)
    }

    /// May it do everything?
    pub fn is_unlimited(&self) -> bool {
        self.selectors().any(Selector::is_unlimited)
    }

    /// May this request run?
    ///
    /// # Errors
    /// What stands against it by the selector that comes nearest.
    pub fn check(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        let mut why = Denied::Command;
        for selector in self.selectors() {
            let Err(denied) = selector.check(asked) else {
                return Ok(());
            };
            if (denied.rank(), denied.at()) > (why.rank(), why.at()) {
                why = denied;
            }
        }
        Err(why)
    }

    /// May SORT follow patterns to any key?
    ///
    /// # Errors
    /// What Redis says of the option that does.
    pub fn check_sort(&self, asked: &Asked<'_>) -> Result<(), Error> {
        let Some(option) = asked.sort_option() else {
            return Ok(());
        };
        let may = |one: &Selector| one.reads_all_keys() && one.allows_command(asked);
        if self.selectors().any(may) {
            return Ok(());
        }
        Err(Error::text(format!(
            "ERR {option} option of SORT denied due to insufficient ACL permissions."
        )))
    }

    /// May it listen to this channel, or channels of this pattern?
    pub fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.selectors()
            .any(|selector| selector.allows_channel(channel, is_pattern))
    }
}

pub(super) fn hash(password: &[u8]) -> Hash {
    Sha256::digest(password).into()
}

fn is_same(one: &Hash, other: &Hash) -> bool {
    let differ = one
        .iter()
        .zip(other)
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

fn read_hash(text: &[u8]) -> Result<Hash, RuleError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(RuleError::NoHash),
    };
    if text.len() != 2 * HASH_LEN {
        return Err(RuleError::NoHash);
    }
    let mut hash = [0; HASH_LEN];
    for (byte, pair) in hash.iter_mut().zip(text.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(hash)
}

/// The rules between parentheses.
fn selector(rules: &[u8]) -> Result<Selector, RuleError> {
    let mut selector = Selector::default();
    let rules = rules.split(u8::is_ascii_whitespace);
    for rule in rules.filter(|rule| !rule.is_empty()) {
        selector.apply(rule)?;
    }
    Ok(selector)
}
