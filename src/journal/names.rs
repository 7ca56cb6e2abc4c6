//! The names of the files in a data directory.

use std::fmt;

/// A file of the directory by what it is. `Display` gives its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileName {
    /// Held by the node that uses the directory.
    Lock,
    /// What is fixed for the directory.
    Meta,
    /// Blocks of one shard.
    Segment {
        /// The shard.
        shard: u32,
        /// Number among the segments of the shard.
        seq: u64,
    },
    /// All of one shard.
    Snapshot {
        /// The shard.
        shard: u32,
        /// Number among the snapshots of the shard.
        seq: u64,
    },
    /// Names snapshots of several shards that count together.
    Bundle {
        /// Its number.
        seq: u64,
    },
    /// Frames of one shard that were given up for the history of a primary which lacks them.
    Rollback {
        /// The shard.
        shard: u32,
        /// The history that they are of.
        generation: u64,
        /// The first of them.
        from: u64,
        /// Behind the last of them.
        to: u64,
    },
}

impl FileName {
    /// What the name stands for; `None` if it is not exactly a name of ours.
    pub fn parse(name: &str) -> Option<FileName> {
        match name {
            "LOCK" => Some(FileName::Lock),
            "ringkeep.meta" => Some(FileName::Meta),
            _ => {
                let segment = numbers(name, "journal-", ".rkj");
                let segment = segment.map(|(shard, seq)| FileName::Segment { shard, seq });
                let snapshot = numbers(name, "snapshot-", ".rks");
                let snapshot = snapshot.map(|(shard, seq)| FileName::Snapshot { shard, seq });
                let bundle = name.strip_prefix("bundle-");
                let bundle = bundle.and_then(|name| number(name.strip_suffix(".rkb")?));
                let bundle = bundle.map(|seq| FileName::Bundle { seq });
                segment.or(snapshot).or(bundle).or_else(|| rollback(name))
            }
        }
    }

    /// The name that the file has while it is being made. What is found under such a name at start was
    /// never finished and is removed.
    pub fn unfinished(self) -> String {
        format!("{self}{UNFINISHED_END}")
    }

    /// Is it a name of [`unfinished`](FileName::unfinished)?
    pub fn is_unfinished(name: &str) -> bool {
        let made = name.strip_suffix(UNFINISHED_END);
        made.is_some_and(|name| FileName::parse(name).is_some())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => out.write_str("LOCK"),
            Self::Meta => out.write_str("ringkeep.meta"),
            Self::Segment { shard, seq } => write!(out, "journal-{shard}-{seq:016x}.rkj"),
            Self::Snapshot { shard, seq } => write!(out, "snapshot-{shard}-{seq:016x}.rks"),
            Self::Bundle { seq } => write!(out, "bundle-{seq:016x}.rkb"),
            Self::Rollback {
                shard,
                generation,
                from,
                to,
            } => write!(out, "rollback-{shard}-{generation}-{from}-{to}.rkj"),
        }
    }
}

/// Decimal numbers, in the order in which they are written.
fn rollback(name: &str) -> Option<FileName> {
    let middle = name.strip_prefix("rollback-")?.strip_suffix(".rkj")?;
    let numbers = middle.split('-');
    let numbers = numbers.map(|number| crate::base::parse_u64(number.as_bytes()));
    let [shard, generation, from, to] = numbers.collect::<Option<Vec<_>>>()?.try_into().ok()?;
    Some(FileName::Rollback {
        shard: u32::try_from(shard).ok()?,
        generation,
        from,
        to,
    })
}

/// Shard and number between `start` and `end`, in the one form in which they are written.
fn numbers(name: &str, start: &str, end: &str) -> Option<(u32, u64)> {
    let middle = name.strip_prefix(start)?.strip_suffix(end)?;
    let (shard, seq) = middle.split_once('-')?;
    let shard = u32::try_from(crate::base::parse_u64(shard.as_bytes())?).ok()?;
    Some((shard, number(seq)?))
}

/// A number in the one form in which it is written.
fn number(text: &str) -> Option<u64> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_number = text.len() == 16 && text.bytes().all(is_digit);
    u64::from_str_radix(text, 16).ok().filter(|_| is_number)
}

const UNFINISHED_END: &str = ".tmp";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_the_one_form_in_which_they_are_written() {
        let segment = |shard, seq| FileName::Segment { shard, seq };
        let snapshot = |shard, seq| FileName::Snapshot { shard, seq };
        for (file, name) in [
            (FileName::Lock, "LOCK"),
            (FileName::Meta, "ringkeep.meta"),
            (segment(0, 1), "journal-0-0000000000000001.rkj"),
            (segment(12, u64::MAX), "journal-12-ffffffffffffffff.rkj"),
            (
                snapshot(u32::MAX, 0xabc),
                "snapshot-4294967295-0000000000000abc.rks",
            ),
            (
                FileName::Bundle { seq: 0xabc },
                "bundle-0000000000000abc.rkb",
            ),
            (
                FileName::Rollback {
                    shard: 3,
                    generation: u64::MAX,
                    from: 0,
                    to: 12,
                },
                "rollback-3-18446744073709551615-0-12.rkj",
            ),
        ] {
            assert_eq!(file.to_string(), name);
            assert_eq!(FileName::parse(name), Some(file));
            assert!(FileName::is_unfinished(&file.unfinished()) && !FileName::is_unfinished(name));
        }
        for name in [
            "",
            "lock",
            "journal-0-1.rkj",
            "journal-00-0000000000000001.rkj",
            "journal-0-000000000000000A.rkj",
            "journal-0-+000000000000001.rkj",
            "journal-4294967296-0000000000000001.rkj",
            "journal-0-0000000000000001.rks",
            "journal-0-0000000000000001.rkj.tmp",
            "journal-0-0000000000000001-.rkj",
            "other.tmp",
            "bundle-abc.rkb",
            "bundle-0-0000000000000abc.rkb",
            "rollback-0-1-2.rkj",
            "rollback-0-1-2-3-4.rkj",
            "rollback-0-1-02-3.rkj",
            "rollback-4294967296-1-2-3.rkj",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
        assert!(!FileName::is_unfinished("other.tmp"));
    }
}
