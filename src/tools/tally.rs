//! What came of it.

use std::{collections::BTreeMap, fmt};

use crate::{base::Ms, cmd::Shards, store::Kind};

/// Examples that are named of what was left out.
const EXAMPLES: usize = 3;
/// Keys that are counted or removed in one step.
const STEP: usize = 10_000;

/// Counts of what was taken and what was not.
#[derive(Debug, Default)]
pub struct Tally {
    /// Keys by type, in the order of [`KINDS`].
    keys: [u64; KINDS.len()],
    expired: u64,
    database_max: usize,
    left_out: BTreeMap<String, (u64, Vec<String>)>,
    notes: BTreeMap<String, u64>,
}

const KINDS: [Kind; 6] = [
    Kind::String,
    Kind::List,
    Kind::Set,
    Kind::Zset,
    Kind::Hash,
    Kind::Stream,
];

impl Tally {
    /// Something is not taken.
    pub fn left_out(&mut self, why: impl Into<String>, what: &[u8]) {
        let (count, examples) = self.left_out.entry(why.into()).or_default();
        *count += 1;
        if examples.len() < EXAMPLES && !what.is_empty() {
            let shown = &what[..what.len().min(100)];
            examples.push(shown.escape_ascii().to_string());
        }
    }

    /// Something that is taken, but that one may want to know of.
    pub fn note(&mut self, what: impl Into<String>) {
        *self.notes.entry(what.into()).or_default() += 1;
    }

    /// Was everything taken?
    pub fn is_complete(&self) -> bool {
        self.left_out.is_empty()
    }

    /// Removes what has expired and counts the rest.
    pub fn settle(&mut self, shards: &mut Shards, now: Ms) {
        for (_, shard) in shards.iter_mut() {
            for (database, keys) in shard.databases() {
                let before = keys.len();
                while keys.expire_due(now, STEP, |_| ()) {}
                self.expired += (before - keys.len()) as u64;
                if !keys.is_empty() {
                    self.database_max = self.database_max.max(database);
                }
                let mut cursor = 0;
                loop {
                    cursor = keys.scan(cursor, STEP, now, |_, kind| {
                        let at = KINDS.iter().position(|other| *other == kind);
                        self.keys[at.unwrap_or_default()] += 1;
                    });
                    if cursor == 0 {
                        break;
                    }
                }
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} keys", self.keys.iter().sum::<u64>())?;
        let mut divide = ": ";
        for (kind, count) in KINDS.iter().zip(self.keys) {
            if count > 0 {
                write!(out, "{divide}{count} {}", kind.name())?;
                divide = ", ";
            }
        }
        writeln!(out)?;
        if self.expired > 0 {
            writeln!(
                out,
                "{} keys left out because they have expired",
                self.expired
            )?;
        }
        if self.database_max >= 16 {
            let databases = self.database_max + 1;
            writeln!(
                out,
                "keys in database {}: the node needs --databases {databases}",
                self.database_max
            )?;
        }
        for (note, count) in &self.notes {
            match count {
                1 => writeln!(out, "{note}")?,
                _ => writeln!(out, "{note} ({count} times)")?,
            }
        }
        for (why, (count, examples)) in &self.left_out {
            write!(out, "NOT TAKEN: {count} x {why}")?;
            if !examples.is_empty() {
                write!(out, ": {}", examples.join(", "))?;
            }
            if (examples.len() as u64) < *count && !examples.is_empty() {
                write!(out, ", ...")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Routing;

    #[test]
    fn what_is_left_out_is_counted_and_named() {
        let mut tally = Tally::default();
        assert!(tally.is_complete());
        tally.note("one");
        for at in 0..5 {
            tally.left_out("a module's value", format!("key{at}").as_bytes());
            tally.note("two");
        }
        assert!(!tally.is_complete());
        let text = tally.to_string();
        assert_eq!(
            text,
            "0 keys\none\ntwo (5 times)\nNOT TAKEN: 5 x a module's value: key0, key1, key2, ...\n"
        );
    }

    #[test]
    fn what_has_expired_goes() {
        let mut shards = super::super::empty(2, Routing::KevyHash);
        for (key, deadline) in [("a", None), ("b", Some(5)), ("c", Some(2000))] {
            shards
                .of(0, key.as_bytes())
                .set_string(key.as_bytes(), b"x", deadline);
        }
        shards.of(20, b"d").set_string(b"d", b"x", None);
        let mut tally = Tally::default();
        tally.settle(&mut shards, 1000);
        let text = tally.to_string();
        assert_eq!(
            text,
            "3 keys: 3 string\n1 keys left out because they have expired\n\
             keys in database 20: the node needs --databases 21\n"
        );
    }
}
