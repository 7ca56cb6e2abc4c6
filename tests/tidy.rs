//! The house rules that the compiler does not check. Reads the sources as text; needs nothing but the
//! checkout.
//!
//! The levels of the modules are not repeated here: they are read from the doc comment of `src/lib.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Breaches that are known and wait to be mended: importing module, path. Each must still be there, so
/// that the list only ever gets shorter.
const KNOWN_IMPORTS: &[(&str, &str)] = &[];

/// Levels below this module's do no input or output and know no ring.
const SHELL: &str = "mesh";

/// Longest line of Rust.
const COLUMNS: usize = 110;

/// Where `unsafe` may stand. Everything else forbids or denies it.
const UNSAFE_ISLANDS: [&str; 3] = ["uring/", "perf/src/ring.rs", "perf/src/sys.rs"];

// ---- the rules ----

#[test]
fn every_module_has_a_level() {
    let levels = levels();
    let text = read(&root().join("src/lib.rs"));
    let mut modules = BTreeSet::new();
    for line in text.lines() {
        let name = line
            .strip_prefix("pub mod ")
            .or_else(|| line.strip_prefix("mod "));
        if let Some(name) = name.and_then(|name| name.strip_suffix(';')) {
            modules.insert(name.to_string());
        }
    }
    let named: BTreeSet<String> = levels.keys().cloned().collect();
    assert_eq!(
        modules, named,
        "src/lib.rs: its modules and the levels in its page"
    );
}

#[test]
fn modules_import_lower_levels_only() {
    let levels = levels();
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for file in node_sources() {
        let Some(level) = levels.get(&file.module) else {
            continue;
        };
        for (line, path) in file.imports() {
            let Some(other) = levels.get(&path[0]) else {
                continue;
            };
            if path[0] == file.module || other < level {
                continue;
            }
            let name = path[..path.len().min(2)].join("::");
            if KNOWN_IMPORTS.contains(&(file.module.as_str(), name.as_str())) {
                known.insert((file.module.clone(), name));
                continue;
            }
            found.push(format!(
                "{}:{line}: {} (level {level}) reaches up to {name} (level {other})",
                file.name, file.module
            ));
        }
    }
    for (module, path) in KNOWN_IMPORTS {
        if !known.contains(&(module.to_string(), path.to_string())) {
            found.push(format!(
                "KNOWN_IMPORTS: {module} does not import {path} any more, strike it out"
            ));
        }
    }
    report(found);
}

#[test]
fn the_ring_is_met_from_the_mesh_up() {
    let levels = levels();
    let mut found = Vec::new();
    for file in node_sources() {
        if levels
            .get(&file.module)
            .is_some_and(|level| *level < levels[SHELL])
        {
            for (line, path) in file.paths() {
                if path[0] == "uring" {
                    found.push(format!("{}:{line}: {}", file.name, path.join("::")));
                }
            }
        }
    }
    report(found);
}

#[test]
fn what_is_below_the_shell_has_no_effects_of_its_own() {
    let levels = levels();
    let mut found = Vec::new();
    for file in node_sources() {
        if levels
            .get(&file.module)
            .is_none_or(|level| *level >= levels[SHELL])
        {
            continue;
        }
        for (line, path) in file.paths() {
            if let Some(what) = effect(&path) {
                found.push(format!("{}:{line}: {what}: {}", file.name, path.join("::")));
            }
        }
        for (at, text) in file.code.lines().enumerate() {
            for print in ["println!", "eprintln!", "print!", "eprint!"] {
                if has_word(text, print.trim_end_matches('!')) && text.contains(print) {
                    found.push(format!("{}:{}: {print}", file.name, at + 1));
                }
            }
        }
    }
    report(found);
}

#[test]
fn unsafe_stays_on_its_islands() {
    let mut found = Vec::new();
    for file in rust_sources() {
        if UNSAFE_ISLANDS
            .iter()
            .any(|island| file.name.starts_with(island))
        {
            continue;
        }
        for (at, text) in file.whole_code.lines().enumerate() {
            if has_word(text, "unsafe") {
                found.push(format!("{}:{}: {}", file.name, at + 1, text.trim()));
            }
        }
    }
    report(found);
}

#[test]
fn nothing_is_left_half_done() {
    let mut found = Vec::new();
    for file in rust_sources() {
        for (at, text) in file.whole_code.lines().enumerate() {
            let is_macro = |name: &str| has_word(text, name) && text.contains(&format!("{name}!"));
            if ["todo", "unimplemented", "dbg"].into_iter().any(is_macro)
                || text.contains("#[ignore")
            {
                found.push(format!("{}:{}: {}", file.name, at + 1, text.trim()));
            }
        }
    }
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    for (name, text) in texts() {
        for (at, line) in text.lines().enumerate() {
            if words.iter().any(|word| has_word(line, word)) {
                found.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    report(found);
}

#[test]
fn lines_are_short_and_end_where_they_seem_to() {
    let mut found = Vec::new();
    for (name, text) in texts() {
        for (at, line) in text.lines().enumerate() {
            let place = format!("{name}:{}", at + 1);
            if name.ends_with(".rs") && line.chars().count() > COLUMNS {
                found.push(format!("{place}: {} columns", line.chars().count()));
            }
            if line.contains('\t') {
                found.push(format!("{place}: a tab"));
            }
            if line.ends_with(char::is_whitespace) {
                found.push(format!("{place}: blanks at the end"));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            found.push(format!("{name}: no line end at the end"));
        }
    }
    report(found);
}

#[test]
fn no_text_knows_the_machine_it_was_written_on() {
    let folders = [
        concat!("/wo", "rk"),
        concat!("/ro", "ot"),
        concat!("/ho", "me"),
        concat!("/Us", "ers"),
    ];
    let mut found = Vec::new();
    for (name, text) in texts() {
        for (at, line) in text.lines().enumerate() {
            if folders.iter().any(|folder| has_absolute(line, folder)) {
                found.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    report(found);
}

#[test]
fn pages_name_files_and_tests_that_exist() {
    let mut found = Vec::new();
    let mut pages = pages();
    assert!(!pages.is_empty(), "src/docs has pages");
    for (name, text) in &pages {
        let first = text.split("\n\n").find(|part| part.starts_with("Binds "));
        let bound = first.map(quoted).unwrap_or_default();
        if !bound.iter().any(|word| is_place(word)) {
            found.push(format!(
                "{name}: opens without a paragraph \"Binds `file`, …\""
            ));
        }
    }
    for name in ["README.md", "CHANGELOG.md"] {
        if let Ok(text) = fs::read_to_string(root().join(name)) {
            pages.push((name.to_string(), text));
        }
    }
    for (name, text) in &pages {
        for word in quoted(text) {
            if is_place(&word) && !root().join(word.trim_end_matches('/')).exists() {
                found.push(format!("{name}: there is no {word}"));
            }
        }
        for (item, place) in citations(text) {
            let target = fs::read_to_string(root().join(&place)).unwrap_or_default();
            if !has_word(&target, &item) {
                found.push(format!("{name}: {place} has no {item}"));
            }
        }
    }
    report(found);
}

#[test]
fn mutants_fit_the_code() {
    let list = read(&root().join("tests/mutants/elect.txt"));
    let mutants: Vec<&str> = list.split("\n==== ").skip(1).collect();
    assert!(!mutants.is_empty(), "tests/mutants/elect.txt has mutants");
    let mut found = Vec::new();
    for mutant in mutants {
        let (head, change) = mutant.split_once("\n---- find\n").unwrap_or_default();
        let text = change.split("\n---- replace").next().unwrap_or_default();
        let mut lines = head.lines();
        let (name, place) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        let code = fs::read_to_string(root().join(place)).unwrap_or_default();
        let count = code.matches(text).count();
        if count != 1 || text.is_empty() {
            found.push(format!("{name}: its text stands {count} times in {place}"));
        }
    }
    report(found);
}

#[test]
fn invariants_are_numbered_without_gaps() {
    let text = read(&root().join("src/docs/architecture.md"));
    let mut numbers: Vec<usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix("- **I")?.split_once("**")?.0.parse().ok())
        .collect();
    // A number is a name that other files use: a new one stands where it belongs, with the next number.
    numbers.sort_unstable();
    let wanted: Vec<usize> = (1..=numbers.len()).collect();
    assert!(!numbers.is_empty());
    assert_eq!(numbers, wanted, "src/docs/architecture.md");
}

// ---- what the rules look at ----

/// The levels of the modules, from the page of `src/lib.rs`: names in backticks, then the level they share
/// in parentheses.
fn levels() -> BTreeMap<String, usize> {
    let text = read(&root().join("src/lib.rs"));
    let page: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .collect();
    let page = page
        .split("lower levels only:")
        .nth(1)
        .expect("the page lists the levels");
    let page = page.split(". ").next().unwrap_or(page);
    let mut levels = BTreeMap::new();
    let mut waiting = Vec::new();
    for (at, part) in page.split('`').enumerate() {
        if at % 2 == 1 {
            waiting.push(part.to_string());
        } else if let Some(level) = part
            .split('(')
            .nth(1)
            .and_then(|rest| rest.split(')').next())
        {
            let level = level.parse().expect("a level is a number");
            levels.extend(waiting.drain(..).map(|name| (name, level)));
        }
    }
    assert!(waiting.is_empty(), "without a level: {waiting:?}");
    levels
}

/// What is wrong with a path below the shell.
fn effect(path: &[String]) -> Option<&'static str> {
    let has = |name: &str| path.iter().any(|segment| segment == name);
    let follows = |first: &str, then: &str| {
        path.windows(2)
            .any(|pair| pair[0] == first && pair[1] == then)
    };
    let is_std = path[0] == "std";
    // Addresses are values; sockets are not.
    let addresses = [
        "IpAddr",
        "Ipv4Addr",
        "Ipv6Addr",
        "SocketAddr",
        "AddrParseError",
    ];
    let is_address = path
        .last()
        .is_some_and(|last| addresses.contains(&last.as_str()));
    match () {
        _ if has("SystemTime") || follows("time", "Instant") || follows("Instant", "now") => {
            Some("a clock")
        }
        _ if is_std && follows("std", "net") && !is_address => Some("a socket"),
        _ if has("TcpStream") || has("TcpListener") || has("UdpSocket") || has("UnixStream") => {
            Some("a socket")
        }
        _ if follows("std", "fs") || follows("File", "open") || follows("File", "create") => {
            Some("a file")
        }
        _ if is_std && (has("stdin") || has("stdout") || has("stderr")) => Some("a file"),
        _ if follows("std", "thread")
            || follows("thread", "spawn")
            || follows("thread", "sleep") =>
        {
            Some("a thread")
        }
        _ if follows("std", "env") || follows("env", "var") || follows("env", "args") => {
            Some("environment")
        }
        _ if follows("std", "process") => Some("a process"),
        _ if has("RandomState")
            || has("thread_rng")
            || path[0] == "getrandom"
            || path[0] == "rand" =>
        {
            Some("chance without a seed")
        }
        _ if ["HashMap", "HashSet"]
            .iter()
            .any(|map| follows("collections", map) || follows("hashbrown", map)) =>
        {
            Some("an order without a seed")
        }
        _ if is_std && path.len() > 1 && path.last().is_some_and(|last| last == "*") => {
            Some("all of a std module")
        }
        _ => None,
    }
}

/// One file of Rust.
struct Source {
    /// Path from the root of the checkout.
    name: String,
    /// For files of the node: the top module.
    module: String,
    /// For files of the node: all modules down to the file.
    within: Vec<String>,
    /// Text without comments and literals.
    whole_code: String,
    /// The same without tests.
    code: String,
}

impl Source {
    /// Paths of other items of the node, from its root, with their lines.
    fn imports(&self) -> Vec<(usize, Vec<String>)> {
        self.paths()
            .into_iter()
            .filter_map(|(line, path)| {
                let mut at = match path[0].as_str() {
                    "crate" => Vec::new(),
                    "self" => self.within.clone(),
                    "super" => self.within[..self.within.len().saturating_sub(1)].to_vec(),
                    _ => return None,
                };
                for segment in &path[1..] {
                    if segment == "super" {
                        at.pop();
                    } else {
                        at.push(segment.clone());
                    }
                }
                (!at.is_empty()).then_some((line, at))
            })
            .collect()
    }

    /// Every path of two or more segments, and every leaf of a `use`, with its line.
    fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        let tokens = tokens(&self.code);
        let mut at = 0;
        while at < tokens.len() {
            let (line, token) = &tokens[at];
            // `use<'a>` is a bound and no import.
            let is_bound = tokens.get(at + 1).is_some_and(|(_, next)| next == "<");
            if token == "use" && !is_bound {
                at = use_tree(&tokens, at + 1, &[], &mut found);
            } else if is_name(token) {
                let mut path = vec![token.clone()];
                while tokens.get(at + 1).is_some_and(|(_, token)| token == "::")
                    && tokens.get(at + 2).is_some_and(|(_, token)| is_name(token))
                {
                    path.push(tokens[at + 2].1.clone());
                    at += 2;
                }
                if path.len() > 1 {
                    found.push((*line, path));
                }
                at += 1;
            } else {
                at += 1;
            }
        }
        found
    }
}

/// Reads one tree of a `use` from `at` on; the place behind it.
fn use_tree(
    tokens: &[(usize, String)],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = before.to_vec();
    while let Some((line, token)) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|(_, token)| token != "}") {
                    at = use_tree(tokens, at, &path, found);
                    assert!(
                        tokens[at].1 != ";",
                        "line {}: an import that does not close",
                        tokens[at].0
                    );
                    if tokens.get(at).is_some_and(|(_, token)| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            "," | "}" | ";" => {
                if path.len() > before.len() {
                    // `self` in a tree is the module before it.
                    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                        path.pop();
                    }
                    found.push((*line, path));
                }
                return at;
            }
            _ => {
                path.push(token.clone());
                at += 1;
            }
        }
    }
    at
}

/// Names, `::`, and every other character by itself, with their lines.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let from = at;
            if is_name_char(chars[at]) {
                while at < chars.len() && is_name_char(chars[at]) {
                    at += 1;
                }
            } else if chars[at] == ':' && chars.get(at + 1) == Some(&':') {
                at += 2;
            } else {
                at += 1;
            }
            let token: String = chars[from..at].iter().collect();
            if !token.trim().is_empty() {
                tokens.push((line + 1, token));
            }
        }
    }
    tokens
}

fn is_name_char(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Blanks comments and the insides of literals; lines stay where they are.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let blank = |code: &mut String, char: char| code.push(if char == '\n' { '\n' } else { ' ' });
    let mut place = 0;
    while place < chars.len() {
        let char = chars[place];
        let is_word_start = place == 0 || !is_name_char(chars[place - 1]);
        let raw = if char == 'r' { place } else { place + 1 };
        if char == '/' && at(place + 1) == '/' {
            while place < chars.len() && chars[place] != '\n' {
                place += 1;
            }
        } else if char == '/' && at(place + 1) == '*' {
            let mut depth = 0;
            while place < chars.len() {
                match (chars[place], at(place + 1)) {
                    ('/', '*') => depth += 1,
                    ('*', '/') => depth -= 1,
                    _ => {
                        blank(&mut code, chars[place]);
                        place += 1;
                        continue;
                    }
                }
                place += 2;
                if depth == 0 {
                    break;
                }
            }
        } else if is_word_start
            && (char == 'r' || (matches!(char, 'b' | 'c') && at(place + 1) == 'r'))
            && matches!(at(raw + 1), '"' | '#')
        {
            let mut hashes = 0;
            while at(raw + 1 + hashes) == '#' {
                hashes += 1;
            }
            if at(raw + 1 + hashes) != '"' {
                // A raw name.
                place = raw + 1 + hashes;
                continue;
            }
            place = raw + 2 + hashes;
            let is_end = |place: usize| {
                chars[place] == '"' && (1..=hashes).all(|more| at(place + more) == '#')
            };
            while place < chars.len() && !is_end(place) {
                blank(&mut code, chars[place]);
                place += 1;
            }
            place += 1 + hashes;
        } else if char == '"' {
            place += 1;
            while place < chars.len() && chars[place] != '"' {
                if chars[place] == '\\' {
                    place += 1;
                }
                blank(&mut code, at(place));
                place += 1;
            }
            place += 1;
        } else if char == '\'' && (at(place + 1) == '\\' || at(place + 2) == '\'') {
            // A character, not a lifetime.
            place += if at(place + 1) == '\\' { 3 } else { 2 };
            while place < chars.len() && chars[place] != '\'' {
                place += 1;
            }
            place += 1;
        } else {
            code.push(char);
            place += 1;
        }
    }
    code
}

/// Blanks modules under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut left = String::with_capacity(code.len());
    let mut is_next = false;
    let mut depth = 0_usize;
    for line in code.lines() {
        let opened = line.matches('{').count();
        let closed = line.matches('}').count();
        if depth == 0 && !is_next {
            is_next = line.trim() == "#[cfg(test)]";
            left.push_str(line);
        } else {
            depth = (depth + opened).saturating_sub(closed);
            // The attribute may stand before an item that ends on its own line.
            is_next &= opened == 0 && !line.trim_end().ends_with(';');
        }
        left.push('\n');
    }
    left
}

/// The node's own sources, without files of tests.
fn node_sources() -> Vec<Source> {
    let is_test = |name: &str| {
        name.ends_with("/tests.rs") || name.ends_with("_tests.rs") || name.ends_with("/testing.rs")
    };
    let sources = rust_sources().into_iter();
    sources
        .filter(|file| !file.module.is_empty() && !is_test(&file.name))
        .collect()
}

fn rust_sources() -> Vec<Source> {
    let texts = texts()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"));
    texts
        .map(|(name, text)| {
            let path = name
                .strip_prefix("src/")
                .and_then(|path| path.strip_suffix(".rs"));
            let mut within: Vec<String> = path
                .into_iter()
                .flat_map(|path| path.split('/'))
                .map(String::from)
                .collect();
            within.retain(|name| name != "mod");
            if within
                .first()
                .is_some_and(|name| name == "lib" || name == "main")
            {
                within.clear();
            }
            let whole_code = code_of(&text);
            Source {
                module: within.first().cloned().unwrap_or_default(),
                within,
                code: without_tests(&whole_code),
                whole_code,
                name,
            }
        })
        .collect()
}

/// The pages of the documentation.
fn pages() -> Vec<(String, String)> {
    texts()
        .into_iter()
        .filter(|(name, _)| name.starts_with("src/docs/") && name.ends_with(".md"))
        .collect()
}

/// What stands in backticks, code blocks left out.
fn quoted(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 0 {
            words.extend(part.split('`').skip(1).step_by(2).map(String::from));
        }
    }
    words
}

/// Is it the name of a file or folder of the checkout?
fn is_place(word: &str) -> bool {
    let folders = ["src/", "uring/", "perf/", "bench/", "tests/"];
    folders.iter().any(|folder| word.starts_with(folder)) && !word.contains([' ', '*', '<', '{'])
}

/// Pairs of the form `item` in `file`.
fn citations(text: &str) -> Vec<(String, String)> {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (at, _) in flat.match_indices("` in `") {
        let item = flat[..at].rsplit('`').next().unwrap_or_default();
        let place = flat[at + 6..].split('`').next().unwrap_or_default();
        if is_place(place) && is_name(item) {
            found.push((item.trim_end_matches("()").to_string(), place.to_string()));
        }
    }
    found
}

/// Does the word stand there, not as part of a longer one?
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_name_char) && !after.is_some_and(is_name_char)
    })
}

/// Does the folder stand there as the start of a path?
fn has_absolute(text: &str, folder: &str) -> bool {
    text.match_indices(folder).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + folder.len()..].chars().next();
        // A path or an address goes on before it, or a longer name behind it.
        let goes_on = |char: char| {
            is_name_char(char) || matches!(char, '.' | '-' | '~' | '}' | ')' | '$' | '*')
        };
        !before.is_some_and(goes_on) && !after.is_some_and(|char| is_name_char(char) || char == '-')
    })
}

/// Every text that people wrote, by its path from the root.
fn texts() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    files.sort();
    let root = root();
    files
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .expect("it was found there")
                .to_string_lossy()
                .into_owned();
            (name, read(&path))
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    // Captures, corpora and results are data; the rest is not ours or is made by tools.
    let skipped = [
        "target",
        "golden",
        "node_modules",
        "corpus",
        "artifacts",
        "record",
        "venv",
        "__pycache__",
    ];
    let kinds = ["rs", "toml", "md", "sh", "py", "js", "yml", "yaml"];
    for entry in fs::read_dir(folder)
        .expect("the checkout is readable")
        .flatten()
    {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_hidden = name.starts_with('.') && name != ".github";
        if is_hidden || skipped.contains(&name.as_str()) {
            continue;
        }
        let has_kind = path
            .extension()
            .is_some_and(|end| kinds.iter().any(|kind| end == *kind));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, files),
            Ok(kind) if kind.is_file() && has_kind => files.push(path),
            _ => {}
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn report(found: Vec<String>) {
    assert!(
        found.is_empty(),
        "{} breaches:\n  {}\n",
        found.len(),
        found.join("\n  ")
    );
}

// ---- the rules' own tests: a rule that never fires is worse than none ----

#[test]
fn comments_and_literals_are_no_code() {
    let code = code_of(
        "let a = \"unsafe \\\" //\"; // unsafe\nlet b = 'u'; /* unsafe /* */ */ f::<'a>(r#\"unsafe\"#)",
    );
    assert!(!has_word(&code, "unsafe"), "{code}");
    assert!(
        code.contains("let a =") && code.contains("let b =") && code.contains("f::<'a>("),
        "{code}"
    );
    assert_eq!(code.lines().count(), 2);
}

#[test]
fn tests_are_left_out_and_what_follows_them_is_not() {
    let code = without_tests(
        "a\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nc\n#[cfg(test)]\nmod far;\nd\n",
    );
    assert_eq!(code, "a\n#[cfg(test)]\n\n\n\nc\n#[cfg(test)]\n\nd\n");
}

#[test]
fn a_use_is_taken_apart_into_its_leaves() {
    let file = Source {
        name: String::new(),
        module: "repl".into(),
        within: vec!["repl".into(), "link".into()],
        whole_code: String::new(),
        code: "use super::{Position, image::{self, Checker as C}};\npub use crate::resp::*;\n\
               x(crate::node::log(1));\nuse std::collections::HashMap;\nuse super::super::cmd;\n"
            .into(),
    };
    let imports: Vec<String> = file
        .imports()
        .into_iter()
        .map(|(line, path)| format!("{line} {}", path.join("::")))
        .collect();
    let wanted = [
        "1 repl::Position",
        "1 repl::image",
        "1 repl::image::Checker",
        "2 resp::*",
        "3 node::log",
        "5 cmd",
    ];
    assert_eq!(imports, wanted);
    assert!(
        file.paths()
            .iter()
            .any(|(_, path)| effect(path) == Some("an order without a seed"))
    );
}

#[test]
fn effects_are_told_from_values() {
    let of = |path: &str| effect(&path.split("::").map(String::from).collect::<Vec<_>>());
    assert_eq!(of("std::time::SystemTime"), Some("a clock"));
    assert_eq!(of("Instant::now"), Some("a clock"));
    assert_eq!(of("std::net::TcpStream"), Some("a socket"));
    assert_eq!(of("std::fs::read"), Some("a file"));
    assert_eq!(of("std::thread::spawn"), Some("a thread"));
    assert_eq!(of("std::env::var"), Some("environment"));
    assert_eq!(of("std::hash::RandomState"), Some("chance without a seed"));
    for value in [
        "std::net::SocketAddr",
        "std::io::Write",
        "std::collections::BTreeMap",
        "std::time::Duration",
    ] {
        assert_eq!(of(value), None, "{value}");
    }
}

#[test]
fn paths_of_machines_are_told_from_other_words() {
    let folder = concat!("/wo", "rk");
    for (line, is_one) in [
        ("at {}/x", true),
        ("`{}`", true),
        ("a{}", false),
        ("{}load", false),
        ("../..{}", false),
    ] {
        assert_eq!(
            has_absolute(&line.replace("{}", folder), folder),
            is_one,
            "{line}"
        );
    }
}
