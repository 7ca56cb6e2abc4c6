//! What is told about the command line: the help, the man page, and what shells complete. All of it is made
//! from [`book`], by which the parser goes, and from the table of settings.

pub(super) mod book;
mod complete;
mod man;

pub(super) use complete::completions;
pub(super) use man::page;

use self::book::{ACTIONS, ASKING, Action, Flag, PLAIN};
use super::config::{SETTINGS, Setting};

/// Columns of a line of the help.
const WIDTH: usize = 110;

/// A setting as an option.
struct Choice {
    setting: &'static Setting,
    flag: &'static Flag,
}

impl Choice {
    /// What it does, and what holds without it.
    fn text(&self) -> String {
        let text = self.flag.text;
        match self.setting.default {
            _ if text.contains('(') => text.into(),
            "" => format!("{text} (none)"),
            default => format!("{text} ({default})"),
        }
    }
}

/// The settings of a section of the settings file.
fn choices(section: &str) -> impl Iterator<Item = Choice> {
    SETTINGS.iter().filter_map(move |setting| {
        let names = |flag: &&Flag| flag.name.strip_prefix("--") == Some(setting.name);
        let flag = book::SETTINGS.iter().find(names)?;
        (setting.place.0 == section).then_some(Choice { setting, flag })
    })
}

/// The sections, in the order of the settings.
fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = SETTINGS.iter().map(|setting| setting.place.0).collect();
    sections.dedup();
    sections
}

/// The options of a node, for shells: name, value, text, and what the value may be.
fn node_options() -> Vec<(&'static Flag, String, Values)> {
    let plain = PLAIN.iter().chain(ASKING);
    let plain = plain.map(|flag| (flag, flag.text.to_string(), Values::of(flag.value)));
    let settings = sections().into_iter().flat_map(choices).map(|choice| {
        let values = match choice.setting.words() {
            _ if choice.setting.name == "cluster" => Values::None,
            Some(words) => Values::Words(words.to_vec()),
            None => Values::of(choice.flag.value),
        };
        (choice.flag, choice.text(), values)
    });
    plain.chain(settings).collect()
}

/// What may stand for a value or an operand.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Values {
    /// There is none.
    None,
    /// One of these.
    Words(Vec<&'static str>),
    /// A file or a directory.
    Path,
    /// A directory.
    Folder,
    /// Anything.
    Any,
}

impl Values {
    /// By what the value is called.
    fn of(name: &'static str) -> Self {
        let is_word = |word: &str| word.chars().all(|letter| letter.is_ascii_lowercase());
        match name {
            "" => Values::None,
            "DIR" => Values::Folder,
            "PATH" | "FILE" | "FILE|DIR" => Values::Path,
            _ if name.contains('|') && name.split('|').all(is_word) => {
                Values::Words(name.split('|').collect())
            }
            _ => Values::Any,
        }
    }
}

impl Action {
    /// What follows the name of the program.
    fn line(&self) -> String {
        let line = format!("{} {}", self.name(), self.form);
        line.trim_end().to_string()
    }
}

impl Flag {
    /// The option with its value.
    fn line(&self) -> String {
        let line = format!("{} {}", self.name, self.value);
        line.trim_end().to_string()
    }
}

/// The text of `--help`.
pub fn usage() -> String {
    let mut text = String::from("ringkeep: a Redis-protocol key-value node on io_uring\n\n");
    entry(&mut text, 35, "usage: ringkeep [options]", "serve");
    for action in ACTIONS {
        let left = format!("       ringkeep {}", action.line());
        entry(&mut text, 35, &left, action.text);
    }
    text += "\n";
    for flag in PLAIN {
        entry(&mut text, 23, &format!("  {}", flag.line()), flag.text);
    }
    for section in sections() {
        text += &format!("\n[{section}]\n");
        for choice in choices(section) {
            let left = format!("  {}", choice.flag.line());
            entry(&mut text, 23, &left, &choice.text());
        }
    }
    text += "\n  --help, --version\n\nOptions go before variables (RINGKEEP_PORT for --port, and those \
             of kevy), these before the file, which has\nthe sections named above.\n";
    text
}

/// Writes what is to the left, and a text beside it, or below if that is too long.
fn entry(out: &mut String, column: usize, left: &str, right: &str) {
    let mut line = left.to_string();
    if left.len() + 1 > column {
        *out += &format!("{line}\n");
        line.clear();
    }
    line += &" ".repeat(column - line.len());
    let mut is_first = true;
    for word in right.split(' ') {
        if !is_first && line.len() + 1 + word.len() > WIDTH {
            *out += &format!("{line}\n");
            line = " ".repeat(column);
            is_first = true;
        }
        if !is_first {
            line.push(' ');
        }
        line += word;
        is_first = false;
    }
    *out += &format!("{line}\n");
}

#[cfg(test)]
mod tests {
    use super::{super::args, *};
    use crate::node::{UsageError, World};

    fn parse(words: &[&str]) -> Result<args::Command, UsageError> {
        let words = words.iter().map(|word| word.to_string());
        args::parse(words, &World::default())
    }

    #[test]
    fn every_setting_is_told_of_once_and_nothing_else() {
        let mut told: Vec<&str> = book::SETTINGS.iter().map(|flag| flag.name).collect();
        let mut had: Vec<String> = SETTINGS
            .iter()
            .map(|one| format!("--{}", one.name))
            .collect();
        told.sort_unstable();
        had.sort_unstable();
        assert_eq!(told, had);
        let shown: Vec<&str> = sections()
            .into_iter()
            .flat_map(choices)
            .map(|one| one.setting.name)
            .collect();
        let all: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(shown, all, "the settings of a section stand together");
    }

    #[test]
    fn the_parser_knows_every_option_that_is_told_of() {
        for action in ACTIONS {
            for flag in action.flags {
                // A folder that is not there: whatever is asked for, nothing is done here.
                let mut words = action.words.to_vec();
                words.push(flag.name);
                let value = match flag.value {
                    "N" | "OFFSET" => "100",
                    _ => "x",
                };
                words.extend((!flag.value.is_empty()).then_some(value));
                if let Err(UsageError::Unknown(name)) = parse(&words) {
                    panic!("{}: {name} is not known", action.name());
                }
                assert!(
                    action.has_node || action.form.contains(flag.name),
                    "{}",
                    flag.name
                );
            }
        }
        for flag in PLAIN.iter().chain(ASKING) {
            let mut words = vec![flag.name];
            words.extend((!flag.value.is_empty()).then_some("x"));
            let got = parse(&words);
            assert!(!matches!(got, Err(UsageError::Unknown(_))), "{}", flag.name);
        }
    }

    #[test]
    fn the_parser_takes_no_option_that_is_not_told_of() {
        for action in ACTIONS {
            let mut words = action.words.to_vec();
            words.extend(["--nonsense", "1"]);
            let got = parse(&words);
            // These print whatever follows.
            let is_deaf = ["doctor", "man"].contains(&action.words[0]);
            assert!(
                is_deaf || matches!(got, Err(UsageError::Unknown(_))),
                "{}",
                action.name()
            );
        }
    }

    #[test]
    fn the_help_has_every_command_and_option_and_fits_a_terminal() {
        let help = usage();
        for action in ACTIONS {
            assert!(
                help.contains(&format!("ringkeep {}", action.line())),
                "{}",
                action.name()
            );
        }
        for flag in book::SETTINGS.iter().chain(PLAIN).chain(ASKING) {
            assert!(help.contains(&flag.line()), "{}", flag.name);
        }
        for line in help.lines() {
            assert!(line.len() <= WIDTH && line == line.trim_end(), "{line}");
        }
    }

    #[test]
    fn the_readme_has_every_option() {
        let readme = include_str!("../../../README.md");
        let options = readme.split("\n## Options\n").nth(1).expect("it has them");
        let options = options.split("\n## ").next().expect("and ends");
        for setting in SETTINGS {
            // The table has what a node is started with, the list below it what CONFIG SET changes.
            let row = format!("`--{}", setting.name);
            let is_there = |text: &String| {
                let behind = |at: usize| options[at + text.len()..].starts_with(['`', ' ']);
                options.match_indices(text).any(|(at, _)| behind(at))
            };
            let listed = setting.is_live.then(|| format!("`{}", setting.name));
            let pin = (setting.name == "pin").then(|| "`--no-pin".to_string());
            let places = [Some(row), listed, pin];
            assert!(
                places.iter().flatten().any(is_there),
                "README.md: {}",
                setting.name
            );
        }
        for action in ACTIONS {
            let name = format!("ringkeep {}", action.words[0]);
            assert!(readme.contains(&name), "README.md: {name}");
        }
    }
}
