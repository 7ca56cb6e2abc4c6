//! One row per command: what it is called, what it takes, what it touches, what runs it.

use super::{
    Ctx, Verb,
    effects::{Rule, rule_of},
};
use crate::{
    base::parse_i64,
    resp::{Args, Error},
};

/// Properties of a command, as COMMAND reports them and as the node acts on them.
pub mod flag {
    /// Changes data: refused on a replica, marks its keys as changed.
    pub const WRITE: u32 = 1;
    /// Reads data.
    pub const READ: u32 = 1 << 1;
    /// Constant or logarithmic time.
    pub const FAST: u32 = 1 << 2;
    /// May grow memory: refused over the memory limit.
    pub const DENY_OOM: u32 = 1 << 3;
    /// For operators.
    pub const ADMIN: u32 = 1 << 4;
    /// Publish and subscribe.
    pub const PUBSUB: u32 = 1 << 5;
    /// Not from scripts.
    pub const NO_SCRIPT: u32 = 1 << 6;
    /// May wait for another client.
    pub const BLOCKING: u32 = 1 << 7;
    /// Answered while the data set is being loaded.
    pub const LOADING: u32 = 1 << 8;
    /// Answered on a replica whose data is stale.
    pub const STALE: u32 = 1 << 9;
    /// Not inside MULTI.
    pub const NO_MULTI: u32 = 1 << 10;
    /// The number of keys is an argument.
    pub const MOVABLE_KEYS: u32 = 1 << 11;
    /// The result depends on chance or time.
    pub const RANDOM: u32 = 1 << 12;
    /// Is never slow, though COMMAND does not call it fast: its time is not taken.
    pub const QUICK: u32 = 1 << 13;
}

/// Where a command's keys stand among its arguments.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// It has none.
    None,
    /// From `first` to `last` (negative: counted from the end) in steps of `step`.
    Range {
        /// First key.
        first: i16,
        /// Last key.
        last: i16,
        /// Distance between keys.
        step: i16,
    },
    /// The argument at `count` says how many keys follow it; `also` names one more key, or 0.
    Counted {
        /// Where the number of keys stands.
        count: i16,
        /// One more key (a destination), or 0.
        also: i16,
    },
    /// Behind a keyword: the first half of the arguments after the keyword (STREAMS).
    Streams,
    /// A key at `first` and one behind the keyword STORE or STOREDIST (GEORADIUS).
    GeoStore {
        /// First key.
        first: i16,
    },
    /// A key at 1 and one behind the keyword STORE; patterns may name any other (SORT).
    Sort,
    /// Every key there is: all shards are needed.
    All,
    /// It has none. What changes libraries of functions needs the shard in whose journal they are (FUNCTION).
    Libraries,
}

impl Keys {
    /// One key at `at`.
    pub const fn one(at: i16) -> Keys {
        Keys::Range {
            first: at,
            last: at,
            step: 1,
        }
    }

    /// Keys from `first` to `last`, every one.
    pub const fn range(first: i16, last: i16) -> Keys {
        Keys::Range {
            first,
            last,
            step: 1,
        }
    }

    /// Does the command need every shard? SORT does where the keys that its patterns name are known only
    /// once the elements are.
    #[inline]
    pub fn needs_all(self, args: Args<'_>) -> bool {
        match self {
            Keys::All => true,
            Keys::Sort => {
                let mut has_star = false;
                sort_operands(args, |word, at| {
                    has_star |= word != b"store" && args[at].contains(&b'*');
                });
                has_star
            }
            _ => false,
        }
    }

    /// Does the command change libraries of functions?
    pub fn changes_libraries(self, args: Args<'_>) -> bool {
        let changes = |sub: &[u8]| {
            let all: [&[u8]; 4] = [b"LOAD", b"DELETE", b"FLUSH", b"RESTORE"];
            all.iter().any(|name| sub.eq_ignore_ascii_case(name))
        };
        matches!(self, Keys::Libraries) && changes(args.at(1))
    }

    /// Calls `visit` with the place of every key. Nothing is visited where the arguments do not fit;
    /// the command itself reports that.
    pub fn for_each(self, args: Args<'_>, mut visit: impl FnMut(usize)) {
        let len = args.len() as i64;
        match self {
            Keys::None | Keys::All | Keys::Libraries => {}
            Keys::Range { first, last, step } => {
                let last = if last < 0 {
                    len + i64::from(last)
                } else {
                    i64::from(last).min(len - 1)
                };
                let mut at = i64::from(first);
                while at <= last {
                    visit(at as usize);
                    at += i64::from(step);
                }
            }
            Keys::Counted { count, also } => {
                if also > 0 && i64::from(also) < len {
                    visit(also as usize);
                }
                let Some(number) = args.get(count as usize).and_then(parse_i64) else {
                    return;
                };
                let first = i64::from(count) + 1;
                if number > 0 && number <= len - first {
                    for at in first..first + number {
                        visit(at as usize);
                    }
                }
            }
            Keys::Streams => {
                // A group or consumer may be called like the keyword.
                let mut at = 1;
                while let Some(word) = args.get(at) {
                    let values = match &word.to_ascii_lowercase()[..] {
                        b"streams" => break,
                        b"group" => 2,
                        b"count" | b"block" => 1,
                        _ => 0,
                    };
                    at += 1 + values;
                }
                let first = at + 1;
                for at in first..first + args.len().saturating_sub(first) / 2 {
                    visit(at);
                }
            }
            Keys::Sort => {
                if len > 1 {
                    visit(1);
                }
                // The last target counts.
                let mut target = None;
                sort_operands(args, |word, at| {
                    if word == b"store" {
                        target = Some(at);
                    }
                });
                target.into_iter().for_each(visit);
            }
            Keys::GeoStore { first } => {
                if i64::from(first) < len {
                    visit(first as usize);
                }
                for at in 2..args.len() {
                    let word = args.at(at - 1);
                    if word.eq_ignore_ascii_case(b"store")
                        || word.eq_ignore_ascii_case(b"storedist")
                    {
                        visit(at);
                    }
                }
            }
        }
    }

    /// First key, last key and step as COMMAND INFO reports them.
    pub fn info(self) -> (i64, i64, i64) {
        match self {
            Keys::Range { first, last, step } => (first.into(), last.into(), step.into()),
            Keys::Counted { also, .. } if also > 0 => (also.into(), also.into(), 1),
            Keys::GeoStore { first } => (first.into(), first.into(), 1),
            Keys::Sort => (1, 1, 1),
            _ => (0, 0, 0),
        }
    }
}

/// Visits SORT's `by`, `get` and `store` with the places of their operands.
fn sort_operands(args: Args<'_>, mut visit: impl FnMut(&[u8], usize)) {
    let mut at = 2;
    while let Some(word) = args.get(at) {
        let word = word.to_ascii_lowercase();
        at += 1;
        match word.as_slice() {
            b"limit" => at += 2,
            b"by" | b"get" | b"store" => {
                if at < args.len() {
                    visit(&word, at);
                }
                at += 1;
            }
            _ => {}
        }
    }
}

/// What runs a command.
#[derive(Clone, Copy)]
pub enum Run {
    /// Works on stores alone: runs wherever the shards of its keys are.
    Store(fn(&mut Ctx<'_>, Args<'_>) -> Result<(), Error>),
    /// Runs a Lua script, or keeps one: needs the core's script engine.
    Script,
    /// Needs the connection, the core or the node.
    Session(Verb),
}

/// One command.
pub struct Spec {
    /// Name in capitals.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i16,
    /// Properties, from [`flag`].
    pub flags: u32,
    /// Where its keys are.
    pub keys: Keys,
    /// One sentence for COMMAND DOCS.
    pub summary: &'static str,
    /// What runs it.
    pub run: Run,
    /// What is recorded of it.
    pub effect: Rule,
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name)
    }
}

impl Spec {
    /// A row for a command that works on stores.
    pub const fn store(
        name: &'static str,
        arity: i16,
        flags: u32,
        keys: Keys,
        summary: &'static str,
        run: fn(&mut Ctx<'_>, Args<'_>) -> Result<(), Error>,
    ) -> Spec {
        Spec {
            name,
            arity,
            flags,
            keys,
            summary,
            run: Run::Store(run),
            effect: rule_of(name),
        }
    }

    /// A row for a command of the connection, core or node.
    pub const fn session(
        name: &'static str,
        arity: i16,
        flags: u32,
        summary: &'static str,
        verb: Verb,
    ) -> Spec {
        Spec {
            name,
            arity,
            flags,
            keys: Keys::None,
            summary,
            run: Run::Session(verb),
            effect: Rule::None,
        }
    }

    /// Does the command accept this many arguments?
    pub fn fits(&self, args: usize) -> bool {
        fits(self.arity, args)
    }

    /// The full name of the subcommand that the arguments name, of a command that has some; `None` for
    /// all others.
    ///
    /// # Errors
    /// There is no such subcommand, or it takes another number of arguments.
    pub fn subcommand(&self, args: Args<'_>) -> Result<Option<&'static str>, Error> {
        let Run::Session(verb) = self.run else {
            return Ok(None);
        };
        let (all, Some(sub)) = (verb.subcommands(), args.get(1)) else {
            return Ok(None);
        };
        if all.is_empty() {
            return Ok(None);
        }
        let names = |full: &str| {
            let name = full.split('|').nth(1).unwrap_or_default();
            name.as_bytes().eq_ignore_ascii_case(sub)
        };
        let Some((full, arity)) = all.iter().find(|(full, _)| names(full)) else {
            return Err(unknown_subcommand(self.name, sub));
        };
        if !fits(*arity, args.len()) {
            return Err(Error::arity(full));
        }
        Ok(Some(full))
    }

    /// Calls `visit` with the place of every key that the command may change: not with those that it only
    /// reads from.
    pub fn written(&self, args: Args<'_>, mut visit: impl FnMut(usize)) {
        let only = match self.name {
            "BITOP" | "COPY" => 2..3,
            "GEOSEARCHSTORE" | "PFMERGE" | "SDIFFSTORE" | "SINTERSTORE" | "SUNIONSTORE"
            | "ZDIFFSTORE" | "ZINTERSTORE" | "ZRANGESTORE" | "ZUNIONSTORE" => 1..2,
            "GEORADIUS" | "GEORADIUSBYMEMBER" | "SORT" => 2..usize::MAX,
            _ => 0..usize::MAX,
        };
        self.keys.for_each(args, |at| {
            if only.contains(&at) {
                visit(at);
            }
        });
    }

    /// Is it this command of the session?
    pub fn run_is(&self, verb: Verb) -> bool {
        matches!(self.run, Run::Session(other) if other == verb)
    }

    /// Does it change data?
    pub fn is_write(&self) -> bool {
        self.flags & flag::WRITE != 0
    }
}

fn fits(arity: i16, args: usize) -> bool {
    let least = arity.unsigned_abs() as usize;
    if arity < 0 {
        args >= least
    } else {
        args == least
    }
}

/// The reply to a subcommand that does not exist.
pub fn unknown_subcommand(command: &str, sub: &[u8]) -> Error {
    let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]).into_owned();
    Error::text(format!(
        "ERR unknown subcommand '{sub}'. Try {} HELP.",
        command.to_uppercase()
    ))
}
