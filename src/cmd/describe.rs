//! COMMAND: what the table and the book tell of each command.

use super::{
    Spec, Table, all,
    book::{Begin, Book, Find, KeySpec, Page, book},
};
use crate::{
    base::glob_match,
    resp::{Args, Error, Out},
};

/// Every page whose command is in the table, those of subcommands included.
pub fn pages() -> impl Iterator<Item = &'static Page> {
    let book = book();
    all().flat_map(move |(_, spec)| {
        let page = book.page_of(spec);
        page.into_iter().chain(
            page.into_iter()
                .flat_map(|page| book.subcommands(page.name)),
        )
    })
}

/// The page of a command or `command|subcommand` that is there.
fn named(table: &Table, name: &[u8]) -> Option<&'static Page> {
    let name = std::str::from_utf8(name).ok()?.to_lowercase();
    let command = name.split('|').next().unwrap_or_default();
    table.find(command.as_bytes())?;
    book().page(&name)
}

/// The page of the subcommand that a request names.
///
/// # Errors
/// There is none of this name, or it takes another number of arguments.
pub fn subcommand(spec: &Spec, args: Args<'_>) -> Result<&'static Page, Error> {
    let name = args.get(1).unwrap_or_default();
    let Some(page) = book().subcommand(&spec.name.to_lowercase(), name) else {
        return Err(Error::text(format!(
            "ERR unknown subcommand '{}'. Try {} HELP.",
            String::from_utf8_lossy(&name[..name.len().min(128)]),
            spec.name
        )));
    };
    if !page.fits(args.len()) {
        return Err(Error::arity(page.name));
    }
    Ok(page)
}

/// COMMAND.
///
/// # Errors
/// The texts of Redis for what does not fit.
pub fn command(out: &mut Out, table: &Table, spec: &Spec, args: Args<'_>) -> Result<(), Error> {
    let book = book();
    if args.len() == 1 {
        write_rows(out, book);
        return Ok(());
    }
    match &subcommand(spec, args)?.name["command|".len()..] {
        "count" => out.len_int(all().filter_map(|(_, spec)| book.page_of(spec)).count()),
        "list" => list(out, args)?,
        "info" if args.len() == 2 => write_rows(out, book),
        "info" => {
            out.array(args.len() - 2);
            for name in args.rest(2).iter() {
                match named(table, name) {
                    Some(page) => write_row(out, book, page),
                    None => out.null_array(),
                }
            }
        }
        "docs" => {
            let wanted: Vec<&Page> = if args.len() == 2 {
                all().filter_map(|(_, spec)| book.page_of(spec)).collect()
            } else {
                let names = args.rest(2);
                names.iter().filter_map(|name| named(table, name)).collect()
            };
            out.map(wanted.len());
            for page in wanted {
                out.bulk_str(page.name);
                write_docs(out, book, table, page);
            }
        }
        "getkeys" => {
            let keys = keys_of(table, args.rest(2))?;
            out.array(keys.len());
            keys.iter().for_each(|(at, _)| out.bulk(args.at(at + 2)));
        }
        "getkeysandflags" => {
            let keys = keys_of(table, args.rest(2))?;
            out.array(keys.len());
            for (at, flags) in keys {
                out.array(2);
                out.bulk(args.at(at + 2));
                write_set(out, flags.split(','));
            }
        }
        _ => help(out, spec),
    }
    Ok(())
}

/// HELP of a container.
pub fn help(out: &mut Out, spec: &Spec) {
    let lines: &[&str] = book().page_of(spec).map_or(&[], |page| &page.help);
    out.array(lines.len() + 3);
    out.simple(&format!(
        "{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        spec.name
    ));
    lines.iter().for_each(|line| out.simple(line));
    out.simple("HELP");
    out.simple("    Prints this help.");
}

fn list(out: &mut Out, args: Args<'_>) -> Result<(), Error> {
    let pattern;
    let wanted: Box<dyn Fn(&Page) -> bool> = match args.len() {
        2 => Box::new(|_| true),
        5 if args.at(2).eq_ignore_ascii_case(b"filterby") => {
            pattern = args.at(4).to_ascii_lowercase();
            match &args.at(3).to_ascii_lowercase()[..] {
                // There are no modules, so none has a command.
                b"module" => Box::new(|_| false),
                b"aclcat" => Box::new(|page| {
                    let mut categories = page.categories();
                    categories.any(|category| category.as_bytes() == &pattern[..])
                }),
                b"pattern" => Box::new(|page| glob_match(&pattern, page.name.as_bytes())),
                _ => return Err(Error::SYNTAX),
            }
        }
        _ => return Err(Error::SYNTAX),
    };
    let names: Vec<&str> = pages()
        .filter(|page| wanted(page))
        .map(|page| page.name)
        .collect();
    out.array(names.len());
    names.iter().for_each(|name| out.bulk_str(name));
    Ok(())
}

/// The commands and subcommands of an ACL category.
pub fn in_category(category: &str) -> Vec<&'static str> {
    pages()
        .filter(|page| page.categories().any(|other| other == category))
        .map(|page| page.name)
        .collect()
}

/// The keys of a request, by the book.
fn keys_of(table: &Table, request: Args<'_>) -> Result<Vec<(usize, &'static str)>, Error> {
    let spec = table.find(request.at(0));
    let mut page = spec.and_then(|spec| book().page_of(spec));
    if let (Some(command), Some(sub)) = (page, request.get(1))
        && book().subcommands(command.name).next().is_some()
    {
        page = book().subcommand(command.name, sub);
    }
    let page = page.ok_or(Error::fixed("ERR Invalid command specified"))?;
    if !page.has_keys() {
        return Err(Error::fixed("ERR The command has no key arguments"));
    }
    if !page.fits(request.len()) {
        return Err(Error::fixed(
            "ERR Invalid number of arguments specified for command",
        ));
    }
    let keys = page.keys_of(request);
    if keys.is_empty() && !page.flags().any(|flag| flag == "no_mandatory_keys") {
        return Err(Error::fixed("ERR Invalid arguments specified for command"));
    }
    Ok(keys)
}

fn write_rows(out: &mut Out, book: &Book) {
    let pages: Vec<&Page> = all().filter_map(|(_, spec)| book.page_of(spec)).collect();
    out.array(pages.len());
    pages.iter().for_each(|page| write_row(out, book, page));
}

fn write_set<'a>(out: &mut Out, words: impl Iterator<Item = &'a str>) {
    let words: Vec<&str> = words.collect();
    out.set(words.len());
    words.iter().for_each(|word| out.simple(word));
}

/// One command as COMMAND and COMMAND INFO show it.
fn write_row(out: &mut Out, book: &Book, page: &Page) {
    out.array(10);
    out.bulk_str(page.name);
    out.int(page.arity);
    write_set(out, page.flags());
    page.range.iter().for_each(|number| out.int(*number));
    let categories: Vec<String> = page.categories().map(|name| format!("@{name}")).collect();
    write_set(out, categories.iter().map(String::as_str));
    out.set(page.tips.len());
    page.tips.iter().for_each(|tip| out.bulk_str(tip));
    out.set(page.keys.len());
    page.keys.iter().for_each(|spec| write_key_spec(out, spec));
    let subs: Vec<&Page> = book.subcommands(page.name).collect();
    match subs.len() {
        0 => out.set(0),
        count => out.array(count),
    }
    subs.iter().for_each(|page| write_row(out, book, page));
}

fn write_key_spec(out: &mut Out, spec: &KeySpec) {
    out.map(3 + usize::from(!spec.notes.is_empty()));
    if !spec.notes.is_empty() {
        out.bulk_str("notes");
        out.bulk_str(spec.notes);
    }
    out.bulk_str("flags");
    write_set(out, spec.flags.split(','));
    let mut part = |name: &str, kind: &str, numbers: &[(&str, i64)], word: Option<&str>| {
        out.bulk_str(name);
        out.map(2);
        out.bulk_str("type");
        out.bulk_str(kind);
        out.bulk_str("spec");
        out.map(numbers.len() + usize::from(word.is_some()));
        if let Some(word) = word {
            out.bulk_str("keyword");
            out.bulk_str(word);
        }
        for (name, number) in numbers {
            out.bulk_str(name);
            out.int(*number);
        }
    };
    match spec.begin {
        Begin::Index(at) => part("begin_search", "index", &[("index", at)], None),
        Begin::Keyword(word, from) => {
            part(
                "begin_search",
                "keyword",
                &[("startfrom", from)],
                Some(word),
            );
        }
        Begin::Unknown => part("begin_search", "unknown", &[], None),
    }
    match spec.find {
        Find::Range { last, step, limit } => {
            let numbers = [("lastkey", last), ("keystep", step), ("limit", limit)];
            part("find_keys", "range", &numbers, None);
        }
        Find::Count { at, first, step } => {
            let numbers = [("keynumidx", at), ("firstkey", first), ("keystep", step)];
            part("find_keys", "keynum", &numbers, None);
        }
        Find::Unknown => part("find_keys", "unknown", &[], None),
    }
}

/// One command as COMMAND DOCS shows it, without its name.
fn write_docs(out: &mut Out, book: &Book, table: &Table, page: &Page) {
    let row = table.find(page.name.as_bytes());
    let summary = row.map_or(page.summary, |spec: &Spec| spec.summary);
    let texts: Vec<(&str, &str)> = [
        ("summary", summary),
        ("since", page.since),
        ("group", page.group),
        ("complexity", page.complexity),
    ]
    .into_iter()
    .filter(|(_, text)| !text.is_empty())
    .collect();
    let late: Vec<(&str, &str)> = [
        ("deprecated_since", page.deprecated),
        ("replaced_by", page.replaced_by),
    ]
    .into_iter()
    .filter(|(_, text)| !text.is_empty())
    .collect();
    let subs: Vec<&Page> = book.subcommands(page.name).collect();
    let more = [
        page.doc_flags.is_empty(),
        page.arguments.is_empty(),
        subs.is_empty(),
    ];
    let more = more.iter().filter(|empty| !**empty).count();
    out.map(texts.len() + late.len() + more);
    let write = |out: &mut Out, texts: &[(&str, &str)]| {
        for (name, text) in texts {
            out.bulk_str(name);
            out.bulk_str(text);
        }
    };
    write(out, &texts);
    if !page.doc_flags.is_empty() {
        out.bulk_str("doc_flags");
        write_set(out, page.doc_flags.split_whitespace());
    }
    write(out, &late);
    if !page.arguments.is_empty() {
        out.bulk_str("arguments");
        let mut words = page.arguments.split(' ').peekable();
        write_arguments(out, &mut words);
    }
    if !subs.is_empty() {
        out.bulk_str("subcommands");
        out.map(subs.len());
        for sub in subs {
            out.bulk_str(sub.name);
            write_docs(out, book, table, sub);
        }
    }
}

type Words<'a> = std::iter::Peekable<std::str::Split<'a, char>>;

/// The arguments up to the brace that ends them, or the end.
fn write_arguments(out: &mut Out, words: &mut Words<'_>) {
    let mark = out.mark();
    let mut count = 0;
    while let Some(word) = words.next().filter(|word| *word != "}") {
        write_argument(out, word, words);
        count += 1;
    }
    out.array_since(mark, count);
}

/// `name:type#key?*+@since!deprecated=TOKEN`, and what is inside it.
fn write_argument(out: &mut Out, word: &str, words: &mut Words<'_>) {
    let (plain, token) = match word.split_once('=') {
        Some((plain, token)) => (plain, Some(token)),
        None => (word, None),
    };
    let (name, rest) = plain.rsplit_once(':').unwrap_or((plain, ""));
    let (kind, mut rest) = rest.split_at(
        rest.find(['#', '?', '*', '+', '@', '!'])
            .unwrap_or(rest.len()),
    );
    let mut take = |mark: char| {
        let part = rest.strip_prefix(mark)?;
        let (text, tail) =
            part.split_at(part.find(['?', '*', '+', '@', '!']).unwrap_or(part.len()));
        rest = tail;
        Some(text)
    };
    let key = take('#').and_then(|text| text.parse::<i64>().ok());
    let flags: Vec<&str> = [
        ('?', "optional"),
        ('*', "multiple"),
        ('+', "multiple_token"),
    ]
    .into_iter()
    .filter_map(|(mark, name)| take(mark).map(|_| name))
    .collect();
    let texts = [
        ("token", token),
        ("since", take('@')),
        ("deprecated_since", take('!')),
    ];
    let inner = words.next_if_eq(&"{").is_some();
    let given = texts.iter().filter(|(_, text)| text.is_some()).count();
    let more = [key.is_some(), !flags.is_empty(), inner];
    out.map(2 + given + more.iter().filter(|there| **there).count());
    out.bulk_str("name");
    out.bulk_str(name);
    out.bulk_str("type");
    out.bulk_str(kind);
    if let Some(key) = key {
        out.bulk_str("key_spec_index");
        out.int(key);
    }
    for (name, text) in texts {
        if let Some(text) = text {
            out.bulk_str(name);
            out.bulk_str(text);
        }
    }
    if !flags.is_empty() {
        out.bulk_str("flags");
        write_set(out, flags.into_iter());
    }
    if inner {
        out.bulk_str("arguments");
        write_arguments(out, words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Keys, flag};

    #[test]
    fn every_row_has_its_page() {
        let mut wrong = Vec::new();
        for (_, spec) in all() {
            // Only a primary's stream has these.
            if spec.name.starts_with("XINTERNAL.") {
                continue;
            }
            let Some(page) = book().page_of(spec) else {
                wrong.push(format!("{}: no page", spec.name));
                continue;
            };
            if page.arity != i64::from(spec.arity) {
                wrong.push(format!(
                    "{}: {} arguments by the book",
                    spec.name, page.arity
                ));
            }
            if page.summary.is_empty() == spec.summary.is_empty() {
                wrong.push(format!("{}: no summary, or two", spec.name));
            }
            for (bit, name) in [
                (flag::WRITE, "write"),
                (flag::READ, "readonly"),
                (flag::DENY_OOM, "denyoom"),
                (flag::NO_SCRIPT, "noscript"),
                (flag::BLOCKING, "blocking"),
                (flag::LOADING, "loading"),
                (flag::NO_MULTI, "no_multi"),
                (flag::FAST, "fast"),
            ] {
                let mut pages = book().subcommands(page.name).chain([page]);
                let by_book = pages.any(|page| page.flags().any(|flag| flag == name));
                // HELP is always answered.
                let has = spec.flags & bit != 0;
                let is_help = name == "loading" && !has && page.flags.is_empty();
                // Most of what FUNCTION does writes nothing; what does is judged by its subcommand.
                let is_judged_later =
                    spec.name == "FUNCTION" && matches!(name, "write" | "denyoom");
                if !is_help && !is_judged_later && has != by_book {
                    wrong.push(format!("{}: {name} is {by_book} by the book", spec.name));
                }
            }
            if matches!(spec.keys, Keys::Range { .. })
                && book().subcommands(page.name).next().is_none()
            {
                let (first, last, step) = spec.keys.info();
                if page.range != [first, last, step] {
                    wrong.push(format!("{}: keys {:?} by the book", spec.name, page.range));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
