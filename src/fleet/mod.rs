//! Which node has which slots, where several nodes share the keys: the map, a file that all of them are
//! given.
//!
//! ```toml
//! [[range]]
//! slots = "0-5460"
//! members = ["a1@10.0.0.1:6379", "a2@10.0.0.2:6379", "a3@10.0.0.3:6379"]
//! ```
//!
//! A range may have several pieces, with commas between them or as a list. A member is the name of a node and
//! where its clients find it.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use sha1::{Digest, Sha1};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{elect::NodeId, route::SLOT_COUNT};

/// Members of a range at most: which of them are not reached is one number.
pub const MEMBERS_MAX: usize = 64;
/// A slot that nobody has.
const NOBODY: u16 = u16::MAX;

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name, as `--node-id` has it.
    pub id: NodeId,
    /// Where its clients find it.
    pub at: SocketAddr,
    /// What cluster clients call it: 40 digits, the SHA-1 of its name.
    pub name: String,
}

/// Some slots, and who has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// First and last slots of its pieces.
    pub slots: Vec<(u16, u16)>,
    /// In the order of the file.
    pub members: Vec<Member>,
}

/// See the module page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Map {
    ranges: Vec<Range>,
    /// By slot, the range that has it.
    owners: Vec<u16>,
}

/// Why a map was refused. Numbers are lines of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapFault {
    /// It is no TOML.
    Toml(usize, String),
    /// A key that means nothing.
    Key(usize, String),
    /// No slots, or no members, or a value of another form.
    Form(usize, &'static str),
    /// No slots.
    Slots(usize, String),
    /// No member.
    Member(usize, String),
    /// A slot is in two ranges, or twice in one.
    Overlap(usize, u16),
    /// No range has these.
    Gap(u16, u16),
    /// Two nodes of one name.
    Twice(usize, NodeId),
    /// Two nodes at one address.
    SameAddress(usize, SocketAddr),
    /// There are no ranges.
    Empty,
}

impl std::fmt::Display for MapFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Toml(line, why) => write!(out, "{why} at line {line}"),
            Self::Key(line, key) => write!(
                out,
                "unknown key '{key}' at line {line}: there are [[range]] with slots and members"
            ),
            Self::Form(line, what) => write!(out, "the range at line {line} needs {what}"),
            Self::Slots(line, text) => write!(
                out,
                "'{text}' at line {line}: slots are FIRST-LAST, from 0 to {}",
                SLOT_COUNT - 1
            ),
            Self::Member(line, text) => write!(
                out,
                "'{text}' at line {line}: a member is ID@ADDRESS:PORT, with an IP address"
            ),
            Self::Overlap(line, slot) => write!(out, "slot {slot} at line {line} is taken already"),
            Self::Gap(first, last) => write!(out, "no range has the slots {first}-{last}"),
            Self::Twice(line, id) => write!(out, "{id} at line {line} is listed already"),
            Self::SameAddress(line, at) => {
                write!(out, "{at} at line {line} is the address of another member")
            }
            Self::Empty => out.write_str("there is no [[range]]"),
        }
    }
}

impl std::error::Error for MapFault {}

impl Map {
    /// Reads the file.
    ///
    /// # Errors
    /// The first [`MapFault`] that is found.
    pub fn read(text: &str) -> Result<Self, MapFault> {
        Reading::new(text).read()
    }

    /// All ranges.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The range that has a slot.
    #[inline]
    pub fn owner(&self, slot: u16) -> usize {
        usize::from(self.owners[usize::from(slot)])
    }

    /// Range and place in it of the node of this name.
    pub fn find(&self, id: &NodeId) -> Option<(usize, usize)> {
        self.find_by(|member| member.id == *id)
    }

    /// The same of what cluster clients call it.
    pub fn find_named(&self, name: &[u8]) -> Option<(usize, usize)> {
        self.find_by(|member| member.name.as_bytes() == name)
    }

    fn find_by(&self, is_it: impl Fn(&Member) -> bool) -> Option<(usize, usize)> {
        let mut ranges = self.ranges.iter().enumerate();
        ranges.find_map(|(range, found)| {
            let at = found.members.iter().position(&is_it)?;
            Some((range, at))
        })
    }
}

/// What cluster clients call a node.
fn name_of(id: &NodeId) -> String {
    let mut name = String::new();
    for byte in Sha1::digest(id.as_str().as_bytes()) {
        // Text takes it all.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

struct Reading<'a> {
    text: &'a str,
    owners: Vec<u16>,
    ids: BTreeSet<String>,
    places: BTreeSet<(IpAddr, u16)>,
    ranges: Vec<Range>,
}

impl<'a> Reading<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            owners: vec![NOBODY; usize::from(SLOT_COUNT)],
            ids: BTreeSet::new(),
            places: BTreeSet::new(),
            ranges: Vec::new(),
        }
    }

    fn line(&self, span: &std::ops::Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn read(mut self) -> Result<Map, MapFault> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        if let Some(error) = errors.first() {
            let line = error.span().map_or(1, |span| self.line(&span));
            return Err(MapFault::Toml(line, error.message().replace('\n', ", ")));
        }
        for (key, value) in table.get_ref() {
            let line = self.line(&key.span());
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("range", DeValue::Array(ranges)) => {
                    for range in ranges {
                        self.range(range)?;
                    }
                }
                (key, _) => return Err(MapFault::Key(line, key.into())),
            }
        }
        self.finish()
    }

    fn range(&mut self, range: &Spanned<DeValue<'_>>) -> Result<(), MapFault> {
        let line = self.line(&range.span());
        let DeValue::Table(table) = range.get_ref() else {
            return Err(MapFault::Form(line, "slots and members"));
        };
        let (mut has_slots, mut members) = (false, Vec::new());
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "slots" => {
                    for (text, line) in self.texts(value, "slots as texts")? {
                        self.take_slots(&text, line)?;
                        has_slots = true;
                    }
                }
                "members" => {
                    for (text, line) in self.texts(value, "members as texts")? {
                        members.push(self.member(&text, line)?);
                    }
                }
                other => return Err(MapFault::Key(self.line(&key.span()), other.into())),
            }
        }
        match () {
            _ if !has_slots => Err(MapFault::Form(line, "slots")),
            _ if members.is_empty() => Err(MapFault::Form(line, "members")),
            _ if members.len() > MEMBERS_MAX => {
                Err(MapFault::Form(line, "no more than 64 members"))
            }
            _ => {
                self.ranges.push(Range {
                    slots: Vec::new(),
                    members,
                });
                Ok(())
            }
        }
    }

    /// Texts in a list, or with commas between them, and their lines.
    fn texts(
        &self,
        value: &Spanned<DeValue<'_>>,
        wanted: &'static str,
    ) -> Result<Vec<(String, usize)>, MapFault> {
        let text = |value: &Spanned<DeValue<'_>>| {
            let line = self.line(&value.span());
            match value.get_ref() {
                DeValue::String(text) => Ok((text.to_string(), line)),
                _ => Err(MapFault::Form(line, wanted)),
            }
        };
        let listed = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(text).collect::<Result<Vec<_>, _>>()?,
            _ => vec![text(value)?],
        };
        let words = listed.iter().flat_map(|(text, line)| {
            let words = text.split(',').map(str::trim);
            words
                .filter(|word| !word.is_empty())
                .map(|word| (word.to_string(), *line))
        });
        Ok(words.collect())
    }

    fn take_slots(&mut self, text: &str, line: usize) -> Result<(), MapFault> {
        let fault = || MapFault::Slots(line, text.into());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u16>().map_err(|_| fault());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= SLOT_COUNT {
            return Err(fault());
        }
        let range = self.ranges.len() as u16;
        for slot in first..=last {
            let owner = &mut self.owners[usize::from(slot)];
            if *owner != NOBODY {
                return Err(MapFault::Overlap(line, slot));
            }
            *owner = range;
        }
        Ok(())
    }

    fn member(&mut self, text: &str, line: usize) -> Result<Member, MapFault> {
        let fault = || MapFault::Member(line, text.into());
        let (id, at) = text.split_once('@').ok_or_else(fault)?;
        let id = NodeId::new(id).ok_or_else(fault)?;
        let at: SocketAddr = at.parse().map_err(|_| fault())?;
        if at.port() == 0 || at.ip().is_unspecified() {
            return Err(fault());
        }
        if !self.ids.insert(id.as_str().into()) {
            return Err(MapFault::Twice(line, id));
        }
        if !self.places.insert((at.ip().to_canonical(), at.port())) {
            return Err(MapFault::SameAddress(line, at));
        }
        let name = name_of(&id);
        Ok(Member { id, at, name })
    }

    /// Looks for gaps, and lists the pieces of every range.
    fn finish(mut self) -> Result<Map, MapFault> {
        if self.ranges.is_empty() {
            return Err(MapFault::Empty);
        }
        let mut first = 0;
        for piece in self.owners.chunk_by(|one, next| one == next) {
            let last = first + (piece.len() - 1) as u16;
            match piece[0] {
                NOBODY => return Err(MapFault::Gap(first, last)),
                range => self.ranges[usize::from(range)].slots.push((first, last)),
            }
            first = last + 1;
        }
        Ok(Map {
            ranges: self.ranges,
            owners: self.owners,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[range]]
slots = "0-5460"
members = ["a1@10.0.0.1:6379", "a2@10.0.0.2:6379"]

[[range]]
slots = ["5461-9999", "12000-16383"]
members = "b1@[::1]:6379, b2@10.0.0.2:6380"

[[range]]
slots = "10000,10001-11999"
members = ["c1@10.0.0.1:6380"]
"#;

    #[test]
    fn a_map_is_read_and_every_slot_has_its_range() {
        let map = Map::read(GOOD).expect("it is a map");
        let slots: Vec<_> = map.ranges().iter().map(|range| &range.slots[..]).collect();
        let wanted: [&[(u16, u16)]; 3] = [
            &[(0, 5460)],
            &[(5461, 9999), (12000, 16383)],
            &[(10000, 11999)],
        ];
        assert_eq!(slots, wanted);
        for (range, found) in map.ranges().iter().enumerate() {
            for (first, last) in &found.slots {
                assert!((*first..=*last).all(|slot| map.owner(slot) == range));
            }
        }
        let b2 = NodeId::new("b2").expect("is a name");
        assert_eq!(map.find(&b2), Some((1, 1)));
        let member = &map.ranges()[1].members[1];
        assert_eq!(member.at.to_string(), "10.0.0.2:6380");
        assert_eq!(map.find_named(member.name.as_bytes()), Some((1, 1)));
        // What `printf b2 | sha1sum` prints.
        assert_eq!(member.name, "32f28ea03b1b20126629d2ca63fc6665b0bbb604");
    }

    #[test]
    fn a_map_that_cannot_work_is_refused_with_one_line() {
        let refused = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            let fault = Map::read(&GOOD.replacen(from, to, 1)).expect_err(to);
            fault.to_string()
        };
        let cases = [
            ("0-5460", "0-5459", "no range has the slots 5460-5460"),
            (
                "12000-16383",
                "12000-16000",
                "no range has the slots 16001-16383",
            ),
            ("0-5460", "0-5461", "slot 5461 at line 7 is taken already"),
            (
                "0-5460",
                "5460-0",
                "'5460-0' at line 3: slots are FIRST-LAST, from 0 to 16383",
            ),
            (
                "12000-16383",
                "12000-16384",
                "'12000-16384' at line 7: slots are FIRST-LAST, from 0 to 16383",
            ),
            (
                "\"0-5460\"",
                "7",
                "the range at line 3 needs slots as texts",
            ),
            (
                "slots = \"0-5460\"\n",
                "",
                "the range at line 2 needs slots",
            ),
            (
                "[\"c1@10.0.0.1:6380\"]",
                "[]",
                "the range at line 10 needs members",
            ),
            ("c1@", "a1@", "a1 at line 12 is listed already"),
            (
                "10.0.0.1:6380",
                "10.0.0.1:6379",
                "10.0.0.1:6379 at line 12 is the address of another member",
            ),
            (
                "10.0.0.1:6380",
                "host:6380",
                "'c1@host:6380' at line 12: a member is ID@ADDRESS:PORT, with an IP address",
            ),
            (
                "10.0.0.1:6380",
                "0.0.0.0:6380",
                "'c1@0.0.0.0:6380' at line 12: a member is ID@ADDRESS:PORT, with an IP address",
            ),
            (
                "members",
                "replicas",
                "unknown key 'replicas' at line 4: there are [[range]] with slots and members",
            ),
            (
                "[[range]]",
                "[[ranges]]",
                "unknown key 'ranges' at line 2: there are [[range]] with slots and members",
            ),
        ];
        for (from, to, wanted) in cases {
            assert_eq!(refused(from, to), wanted);
        }
        assert_eq!(Map::read(""), Err(MapFault::Empty));
        assert!(matches!(Map::read("[[range"), Err(MapFault::Toml(1, _))));
    }
}
