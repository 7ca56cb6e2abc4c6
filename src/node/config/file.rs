//! A file as keys and values with the lines they stand on.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::table::Kind;

/// A value, as far as settings have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    YesNo(bool),
    List(Vec<String>),
    /// None that a setting has.
    Other,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub section: String,
    pub key: String,
    pub value: Value,
    /// The value as the file has it.
    pub raw: String,
    pub line: usize,
}

impl Entry {
    /// Where it stands, for who reads a message.
    pub(super) fn place(&self) -> String {
        format!("[{}] {} at line {}", self.section, self.key, self.line)
    }

    /// That its value is none of that kind.
    pub(super) fn misfit(&self, kind: Kind) -> String {
        format!(
            "{} is {}, but takes {}",
            self.place(),
            self.raw,
            kind.takes()
        )
    }
}

/// A section without keys is looked at, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Section {
    pub name: String,
    pub line: usize,
}

/// What a file holds.
#[derive(Default, Debug)]
pub(super) struct Contents {
    pub sections: Vec<Section>,
    pub entries: Vec<Entry>,
}

/// Reads a file.
///
/// # Errors
/// What is no TOML, each with its line.
pub(super) fn read(text: &str) -> Result<Contents, Vec<(usize, String)>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let line_of = |span: Range<usize>| {
        let before = text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    };
    if !errors.is_empty() {
        let fault = |error: &toml::de::Error| {
            let line = error.span().map_or(1, line_of);
            (line, error.message().replace('\n', ", "))
        };
        let mut faults: Vec<_> = errors.iter().map(fault).collect();
        faults.sort();
        faults.dedup();
        return Err(faults);
    }
    let mut contents = Contents::default();
    for (key, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(section) => {
                contents.sections.push(Section {
                    name: key.get_ref().to_string(),
                    line: line_of(key.span()),
                });
                for (inner, value) in section {
                    let entry = entry(text, key.get_ref(), inner.get_ref(), value);
                    contents.entries.push(Entry {
                        line: line_of(inner.span()),
                        ..entry
                    });
                }
            }
            _ => contents.entries.push(Entry {
                line: line_of(key.span()),
                ..entry(text, "", key.get_ref(), value)
            }),
        }
    }
    contents.entries.sort_by_key(|entry| entry.line);
    Ok(contents)
}

fn entry(text: &str, section: &str, key: &str, value: &Spanned<DeValue<'_>>) -> Entry {
    Entry {
        section: section.into(),
        key: key.into(),
        value: plain(value.get_ref()),
        raw: text.get(value.span()).unwrap_or_default().into(),
        line: 0,
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Other,
        },
        DeValue::Boolean(yes) => Value::YesNo(*yes),
        DeValue::Array(items) => {
            let text = |item: &Spanned<DeValue<'_>>| match plain(item.get_ref()) {
                Value::Text(text) => Some(text),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            };
            let texts: Option<Vec<_>> = items.iter().map(text).collect();
            texts.map_or(Value::Other, Value::List)
        }
        _ => Value::Other,
    }
}

/// Reads `64mb` and the like as kevy does: every unit is a power of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match &unit.trim().to_ascii_lowercase()[..] {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_lines() {
        let got = read("# a\n[server]\nport = 7000\n\n[a]\n[memory]\n  maxmemory = \"2gb\" # b\n")
            .expect("it is TOML");
        let told: Vec<_> = got
            .entries
            .iter()
            .map(|entry| (&entry.key[..], entry.line))
            .collect();
        assert_eq!(told, [("port", 3), ("maxmemory", 7)]);
        assert_eq!(got.entries[1].raw, "\"2gb\"");
        let mut sections: Vec<_> = got
            .sections
            .iter()
            .map(|found| (found.line, &found.name[..]))
            .collect();
        sections.sort_unstable();
        assert_eq!(sections, [(2, "server"), (5, "a"), (6, "memory")]);
    }

    #[test]
    fn all_that_is_no_toml_is_told() {
        let faults = read("[server]\nport = \nbind = 1.2.3\n[a\n").expect_err("it is none");
        let lines: Vec<usize> = faults.iter().map(|(line, _)| *line).collect();
        assert!(lines.contains(&2) && lines.contains(&4), "{faults:?}");
        let faults = read("[server]\nport = 1\n[server]\nport = 2\n").expect_err("twice");
        assert_eq!(faults[0].0, 3, "{faults:?}");
    }

    #[test]
    fn sizes_are_those_of_kevy() {
        let cases = [
            ("512", Some(512)),
            ("1k", Some(1024)),
            ("64 mb", Some(64 << 20)),
            ("2GB", Some(2 << 30)),
            ("1tb", Some(1 << 40)),
            ("1.5gb", None),
            ("mb", None),
            ("", None),
            ("-1", None),
            ("99999999tb", None),
        ];
        for (text, want) in cases {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
