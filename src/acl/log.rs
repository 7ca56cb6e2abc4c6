//! What was refused, the newest first.

use std::collections::VecDeque;

use crate::base::Ms;

/// Entries that are kept unless told otherwise.
pub const LOG_LEN: usize = 128;
/// Within this time, the same again is counted and not noted anew.
const SAME_WITHIN: Ms = 60_000;
/// The newest entries, among which the same is looked for.
const LOOKED_AT: usize = 10;

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A command.
    Command,
    /// A key.
    Key,
    /// A channel.
    Channel,
    /// To come in.
    Auth,
}

impl Reason {
    /// As ACL LOG says it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Key => "key",
            Reason::Channel => "channel",
            Reason::Auth => "auth",
        }
    }
}

/// Where it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// In a request of its own.
    TopLevel,
    /// In a transaction.
    Multi,
    /// In a script.
    Lua,
}

impl Context {
    /// As ACL LOG says it.
    pub fn name(self) -> &'static str {
        match self {
            Context::TopLevel => "toplevel",
            Context::Multi => "multi",
            Context::Lua => "lua",
        }
    }
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Entry {
    pub count: u64,
    pub reason: Reason,
    pub context: Context,
    /// The command, key or channel.
    pub object: Vec<u8>,
    /// The user, or the name that was shown.
    pub user: Vec<u8>,
    /// When it happened last.
    pub at: Ms,
    /// The client as CLIENT LIST shows it.
    pub client: String,
}

impl Entry {
    fn is_like(&self, other: &Entry) -> bool {
        self.reason == other.reason
            && self.context == other.context
            && self.at.abs_diff(other.at) <= SAME_WITHIN
            && self.object == other.object
            && self.user == other.user
    }
}

/// See the module page.
#[derive(Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
}

impl Log {
    /// Notes what happened; no more than so many entries are kept.
    pub fn note(&mut self, mut entry: Entry, len_max: usize) {
        let mut newest = self.entries.iter().take(LOOKED_AT);
        if let Some(at) = newest.position(|one| one.is_like(&entry)) {
            let before = self.entries.remove(at);
            entry.count += before.map_or(0, |before| before.count);
        }
        self.entries.push_front(entry);
        self.entries.truncate(len_max);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The newest entries.
    pub fn newest(&self, count: usize) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter().take(count)
    }
}
