//! What COMMAND tells of each command and subcommand besides what its row says: one page each, read
//! from `book.txt`, which says how it is written.

use std::{collections::BTreeMap, sync::OnceLock};

use super::Spec;
use crate::{base::parse_i64, resp::Args};

/// One command or subcommand (`client|list`).
#[derive(Debug, Default)]
pub struct Page {
    /// Name in small letters.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i64,
    /// First key, last key and step, as far as a range tells them.
    pub range: [i64; 3],
    /// Version of Redis that brought it.
    pub since: &'static str,
    /// Group of the documentation.
    pub group: &'static str,
    /// Subcommands only: one sentence.
    pub summary: &'static str,
    /// How its time grows.
    pub complexity: &'static str,
    /// Flags, between spaces.
    pub flags: &'static str,
    /// ACL categories, between spaces.
    pub categories: &'static str,
    /// Hints for proxies and cluster clients.
    pub tips: Vec<&'static str>,
    /// Where its keys are.
    pub keys: Vec<KeySpec>,
    /// Documentation flags, between spaces.
    pub doc_flags: &'static str,
    /// Version from which it should not be used any more.
    pub deprecated: &'static str,
    /// What should be used instead.
    pub replaced_by: &'static str,
    /// Its arguments, as `book.txt` writes them.
    pub arguments: &'static str,
    /// Containers only: what HELP says.
    pub help: Vec<&'static str>,
}

/// Where some of a command's keys are, and what happens to them.
#[derive(Debug)]
pub struct KeySpec {
    /// Flags, between commas.
    pub flags: &'static str,
    /// Where the search begins.
    pub begin: Begin,
    /// How keys are found from there.
    pub find: Find,
    /// A remark, or nothing.
    pub notes: &'static str,
}

/// Where the search for keys begins.
#[derive(Debug)]
pub enum Begin {
    /// At this argument.
    Index(i64),
    /// Behind this word, looked for from this argument on (negative: backwards from the end).
    Keyword(&'static str, i64),
    /// The arguments do not tell by rule.
    Unknown,
}

/// How keys are found.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Find {
    /// Up to `last` (negative: from the end; with `limit`, that part of what follows), every `step`th.
    Range { last: i64, step: i64, limit: i64 },
    /// Their number is an argument.
    Count { at: i64, first: i64, step: i64 },
    /// The arguments do not tell by rule.
    Unknown,
}

/// All pages by name.
pub struct Book(BTreeMap<&'static str, Page>);

/// The book.
pub fn book() -> &'static Book {
    static BOOK: OnceLock<Book> = OnceLock::new();
    BOOK.get_or_init(|| Book::read(include_str!("book.txt")))
}

impl Book {
    fn read(text: &'static str) -> Book {
        let mut pages = BTreeMap::new();
        let mut page = Page::default();
        for line in text.lines() {
            let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
            match mark {
                "=" => {
                    let done = std::mem::replace(&mut page, head(rest));
                    pages.insert(done.name, done);
                }
                "s" => page.summary = rest,
                "c" => page.complexity = rest,
                "f" => page.flags = rest,
                "a" => page.categories = rest,
                "t" => page.tips.push(rest),
                "k" => page.keys.push(key_spec(rest)),
                "o" => page.doc_flags = rest,
                "d" => page.deprecated = rest,
                "r" => page.replaced_by = rest,
                "g" => page.arguments = rest,
                "h" => page.help.push(rest),
                _ => {}
            }
        }
        pages.insert(page.name, page);
        // The lines above the first page made one without a name.
        pages.remove("");
        Book(pages)
    }

    /// The page of a command, by its name in small letters.
    pub fn page(&self, name: &str) -> Option<&Page> {
        self.0.get(name)
    }

    /// The page of a row of the table.
    pub fn page_of(&self, spec: &Spec) -> Option<&Page> {
        self.page(&spec.name.to_lowercase())
    }

    /// The page of a subcommand, in any case.
    pub fn subcommand(&self, command: &str, sub: &[u8]) -> Option<&Page> {
        let sub = std::str::from_utf8(sub).ok()?;
        self.page(&format!("{command}|{sub}").to_lowercase())
    }

    /// The pages of a command's subcommands.
    pub fn subcommands<'a>(&'a self, command: &'a str) -> impl Iterator<Item = &'a Page> {
        self.0
            .range(command..)
            .skip(1)
            .map(|(_, page)| page)
            .take_while(move |page| page.name.starts_with(command))
            .filter(move |page| page.name.as_bytes().get(command.len()) == Some(&b'|'))
    }
}

impl Page {
    /// Does the subcommand accept this many arguments?
    pub fn fits(&self, args: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        args == arity || (self.arity < 0 && args > arity)
    }

    /// The documented flags.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.flags.split_whitespace()
    }

    /// The ACL categories, without `@`.
    pub fn categories(&self) -> impl Iterator<Item = &'static str> {
        self.categories.split_whitespace()
    }

    /// May it have keys?
    pub fn has_keys(&self) -> bool {
        self.keys.iter().any(KeySpec::is_key)
    }

    /// The keys of a request with what happens to each: places and flags. Empty if the request does
    /// not fit.
    pub fn keys_of(&self, args: Args<'_>) -> Vec<(usize, &'static str)> {
        match self.name {
            "set" => return vec![(1, set_flags(args))],
            "bitfield" => return vec![(1, bitfield_flags(args))],
            "sort" => return sort_keys(args),
            "sort_ro" => return vec![(1, "RO,access")],
            _ => {}
        }
        let mut found = Vec::new();
        for spec in self.keys.iter().filter(|spec| spec.is_key()) {
            match spec.range(args) {
                Err(NoFit) => return Vec::new(),
                Ok(None) => {}
                Ok(Some((first, last, step))) => found.extend(
                    (first..=last)
                        .step_by(step as usize)
                        .map(|at| (at as usize, spec.flags)),
                ),
            }
        }
        found
    }
}

impl KeySpec {
    /// Does it name keys, rather than channels that live where keys of these names would?
    fn is_key(&self) -> bool {
        !self.flags.split(',').any(|flag| flag == "not_key")
    }

    /// First key, last key and step in a request; nothing where its keyword is not there, an error
    /// where the request does not fit.
    fn range(&self, args: Args<'_>) -> Result<Option<(i64, i64, i64)>, NoFit> {
        let len = args.len() as i64;
        let begin = match self.begin {
            Begin::Unknown => return Err(NoFit),
            Begin::Index(at) => at,
            Begin::Keyword(word, from) => {
                let is_word =
                    |at: &i64| args.at(*at as usize).eq_ignore_ascii_case(word.as_bytes());
                let found = if from > 0 {
                    (from..len - 1).find(is_word)
                } else {
                    (2..=len + from).rev().find(is_word)
                };
                match found {
                    Some(at) => at + 1,
                    None => return Ok(None),
                }
            }
        };
        let (first, last, step) = match self.find {
            Find::Unknown => return Err(NoFit),
            Find::Range { last, step, .. } if last >= 0 => (begin, begin + last, step),
            Find::Range {
                last, step, limit, ..
            } if limit > 0 => (begin, begin + (len - begin) / limit + last, step),
            Find::Range { last, step, .. } => (begin, len + last, step),
            Find::Count { at, first, step } => {
                let count = args.get((begin + at) as usize).and_then(parse_i64);
                // More than there are arguments is refused below.
                let count = count.filter(|count| *count >= 0).ok_or(NoFit)?.min(len);
                let first = begin + first;
                (first, first + (count - 1) * step, step)
            }
        };
        if last >= len || last < first || first >= len {
            return Err(NoFit);
        }
        Ok(Some((first, last, step.max(1))))
    }
}

/// The request does not have the form that a key specification wants.
struct NoFit;

fn set_flags(args: Args<'_>) -> &'static str {
    if args
        .rest(3)
        .iter()
        .any(|word| word.eq_ignore_ascii_case(b"get"))
    {
        "RW,access,update"
    } else {
        "OW,update"
    }
}

fn bitfield_flags(args: Args<'_>) -> &'static str {
    let mut at = 2;
    while let Some(word) = args.get(at) {
        at += match &word.to_ascii_lowercase()[..] {
            b"get" => 3,
            b"overflow" => 2,
            _ => return "RW,access,update",
        };
    }
    "RO,access"
}

/// The key, and what stands behind the last STORE.
fn sort_keys(args: Args<'_>) -> Vec<(usize, &'static str)> {
    let mut keys = vec![(1, "RO,access")];
    let mut store = None;
    let mut at = 2;
    while let Some(word) = args.get(at) {
        match &word.to_ascii_lowercase()[..] {
            b"limit" => at += 2,
            b"get" | b"by" => at += 1,
            b"store" if at + 1 < args.len() => {
                store = Some((at + 1, "OW,update"));
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    keys.extend(store);
    keys
}

fn head(line: &'static str) -> Page {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let name = word();
    let mut number = || parse_i64(word().as_bytes()).unwrap_or_default();
    Page {
        name,
        arity: number(),
        range: [number(), number(), number()],
        since: word(),
        group: word(),
        ..Page::default()
    }
}

fn key_spec(line: &'static str) -> KeySpec {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (flags, begin, find, notes) = (word(), word(), word(), word());
    let begin: Vec<&str> = begin.split(':').collect();
    let find: Vec<&str> = find.split(':').collect();
    let number = |text: &str| parse_i64(text.as_bytes()).unwrap_or_default();
    KeySpec {
        flags,
        begin: match begin[..] {
            ["index", at] => Begin::Index(number(at)),
            ["keyword", word, from] => Begin::Keyword(word, number(from)),
            _ => Begin::Unknown,
        },
        find: match find[..] {
            ["range", last, step, limit] => Find::Range {
                last: number(last),
                step: number(step),
                limit: number(limit),
            },
            ["keynum", at, first, step] => Find::Count {
                at: number(at),
                first: number(first),
                step: number(step),
            },
            _ => Find::Unknown,
        },
        notes,
    }
}
