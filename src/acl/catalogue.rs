//! Every command and subcommand that rules may name, by number, with its categories.

use std::{collections::BTreeMap, sync::OnceLock};

use crate::cmd::{Page, Spec, Table, pages};

/// Categories in the order of Redis.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// What Redis 7.0 has and this node does not, with its categories. Rules that were written there must not
/// fail here.
const ABSENT: [(&str, &str); 24] = [
    ("cluster|addslots", "admin slow dangerous"),
    ("cluster|addslotsrange", "admin slow dangerous"),
    ("cluster|bumpepoch", "admin slow dangerous"),
    ("cluster|delslots", "admin slow dangerous"),
    ("cluster|delslotsrange", "admin slow dangerous"),
    ("cluster|failover", "admin slow dangerous"),
    ("cluster|flushslots", "admin slow dangerous"),
    ("cluster|forget", "admin slow dangerous"),
    ("cluster|meet", "admin slow dangerous"),
    ("cluster|replicate", "admin slow dangerous"),
    ("cluster|reset", "admin slow dangerous"),
    ("cluster|saveconfig", "admin slow dangerous"),
    ("cluster|set-config-epoch", "admin slow dangerous"),
    ("cluster|setslot", "admin slow dangerous"),
    ("migrate", "keyspace write slow dangerous"),
    ("module", "slow"),
    ("module|help", "slow"),
    ("module|list", "admin slow dangerous"),
    ("module|load", "admin slow dangerous"),
    ("module|loadex", "admin slow dangerous"),
    ("module|unload", "admin slow dangerous"),
    ("psync", "admin slow dangerous"),
    ("replconf", "admin slow dangerous"),
    ("sync", "admin slow dangerous"),
];

/// The newest version whose commands are counted when rules are put into words.
const COUNTED: [u32; 2] = [7, 0];

/// A command or subcommand by its place in the catalogue.
pub type Number = u16;

/// A command or subcommand.
#[derive(Debug)]
pub struct Named {
    /// Name in small letters, `container|sub` for a subcommand.
    pub name: &'static str,
    /// What COMMAND tells of it, if the node has it.
    pub page: Option<&'static Page>,
    /// A bit per category.
    pub categories: u32,
    /// It is a subcommand.
    pub is_sub: bool,
    /// Its subcommands.
    pub subs: Vec<Number>,
    /// Redis 7.0 has it.
    pub is_counted: bool,
    /// Everybody may call it.
    pub is_open: bool,
}

/// All of them, in the order of their names: a container comes before its subcommands.
pub struct Catalogue {
    named: Vec<Named>,
    numbers: BTreeMap<&'static str, Number>,
    table: Table,
    by_place: Vec<Option<Number>>,
}

/// The catalogue.
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(Catalogue::build)
}

impl Catalogue {
    fn build() -> Self {
        let mut named: Vec<Named> = pages().map(of_page).collect();
        named.extend(ABSENT.iter().map(|(name, categories)| Named {
            name,
            page: None,
            categories: bits(categories.split(' ')),
            is_sub: name.contains('|'),
            subs: Vec::new(),
            is_counted: true,
            is_open: false,
        }));
        named.sort_by_key(|one| one.name);
        let numbers: BTreeMap<&str, Number> =
            (0..).zip(&named).map(|(n, one)| (one.name, n)).collect();
        for (name, number) in &numbers {
            let container = name.split_once('|').and_then(|(name, _)| numbers.get(name));
            if let Some(container) = container {
                named[usize::from(*container)].subs.push(*number);
            }
        }
        let table = Table::build();
        let number_at = |place| {
            let name = table.at(place)?.name.to_lowercase();
            numbers.get(&name[..]).copied()
        };
        let by_place = (0..crate::cmd::PLACES).map(number_at).collect();
        Self {
            named,
            numbers,
            table,
            by_place,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// One of them.
    pub fn named(&self, number: Number) -> &Named {
        &self.named[usize::from(number)]
    }

    /// All of them with their numbers.
    pub fn all(&self) -> impl Iterator<Item = (Number, &Named)> {
        (0..).zip(&self.named)
    }

    /// The number of a command, or of `container|sub`, in any case.
    pub fn find(&self, name: &[u8]) -> Option<Number> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        self.numbers.get(&name[..]).copied()
    }

    /// The number of a row of the table.
    pub fn number_of(&self, spec: &Spec) -> Option<Number> {
        *self.by_place.get(self.table.place(spec)?)?
    }

    /// The number of a container's subcommand.
    pub fn sub_of(&self, container: Number, sub: &[u8]) -> Option<Number> {
        let subs = &self.named(container).subs;
        let of = |number: &&Number| {
            let name = self.named(**number).name.split_once('|');
            name.is_some_and(|(_, name)| name.as_bytes().eq_ignore_ascii_case(sub))
        };
        subs.iter().find(of).copied()
    }

    /// Those of a category.
    pub fn in_category(&self, category: u32) -> impl Iterator<Item = (Number, &Named)> {
        self.all()
            .filter(move |(_, named)| named.categories & category != 0)
    }
}

/// The bit of a category, by its name in any case.
pub fn category(name: &[u8]) -> Option<u32> {
    let is = |one: &&str| one.as_bytes().eq_ignore_ascii_case(name);
    CATEGORIES.iter().position(is).map(|at| 1 << at)
}

fn bits<'a>(categories: impl Iterator<Item = &'a str>) -> u32 {
    categories
        .filter_map(|name| category(name.as_bytes()))
        .fold(0, |bits, bit| bits | bit)
}

fn of_page(page: &'static Page) -> Named {
    let mut version = page
        .since
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
    let version = [version.next().unwrap_or(0), version.next().unwrap_or(0)];
    // What is this node's own has other versions.
    let is_own = ["elect", "repl."]
        .iter()
        .any(|name| page.name.starts_with(name));
    Named {
        name: page.name,
        page: Some(page),
        categories: bits(page.categories()),
        is_sub: page.name.contains('|'),
        subs: Vec::new(),
        is_counted: version <= COUNTED && !is_own,
        is_open: page.flags().any(|flag| flag == "no_auth"),
    }
}
