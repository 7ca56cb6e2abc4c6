//! CONFIG REWRITE: the file has what CONFIG SET changed, and everything else stays as it was written.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use toml_edit::{DocumentMut, Item, Table, Value};

use super::table::{Kind, SETTINGS, Setting};
use crate::shard::{Rewrite, lock};

/// What was changed since the file was read or rewritten is put into it.
pub(in super::super) fn rewriter(path: PathBuf, at_start: Vec<(String, String)>) -> Rewrite {
    let known: Mutex<BTreeMap<String, String>> = Mutex::new(at_start.into_iter().collect());
    Rewrite(Box::new(move |parameters| {
        let mut known = lock(&known);
        let now: BTreeMap<String, String> = parameters.iter().cloned().collect();
        let changed = |setting: &&Setting| {
            setting.is_live && now.get(setting.parameter) != known.get(setting.parameter)
        };
        let changes: Vec<(&Setting, &str)> = SETTINGS
            .iter()
            .filter(changed)
            .filter_map(|setting| Some((setting, &now.get(setting.parameter)?[..])))
            .collect();
        // A link stays one, and what it leads to is replaced.
        let path = fs::canonicalize(&path).map_err(plain)?;
        let text = fs::read_to_string(&path).map_err(plain)?;
        let text = rewritten(&text, &changes)?;
        replace(&path, &text).map_err(plain)?;
        *known = now;
        Ok(())
    }))
}

/// What the operating system said, as Redis tells it: without the number.
fn plain(error: io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error ").unwrap_or(text.len());
    text[..end].into()
}

/// The text of the file with new values.
///
/// # Errors
/// It is no TOML any more.
fn rewritten(text: &str, changes: &[(&Setting, &str)]) -> Result<String, String> {
    let document = text.parse::<DocumentMut>();
    let mut document = document.map_err(|error| error.message().replace('\n', ", "))?;
    for (setting, text) in changes {
        let (section, key) = setting.place;
        let table = document.entry(section).or_insert_with(|| {
            let mut table = Table::new();
            table.decor_mut().set_prefix("\n");
            Item::Table(table)
        });
        let table = table.as_table_like_mut();
        let table = table.ok_or_else(|| format!("'{section}' is no section"))?;
        let mut value = value(setting.kind, text);
        match table.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => {
                // With the comment behind it.
                *value.decor_mut() = old.decor().clone();
                *old = value;
            }
            None => drop(table.insert(key, Item::Value(value))),
        }
    }
    Ok(document.to_string())
}

/// A value as a file has it.
fn value(kind: Kind, text: &str) -> Value {
    match (kind, text.parse::<i64>()) {
        (Kind::YesNo, _) => Value::from(text == "yes"),
        (Kind::Connections, Ok(number)) if number >= i64::from(u32::MAX) => Value::from(0),
        (Kind::Seconds, Ok(seconds)) => Value::from(seconds.saturating_mul(1000)),
        (Kind::Number(..) | Kind::OrNone(..) | Kind::Connections | Kind::Bytes, Ok(number)) => {
            Value::from(number)
        }
        _ => Value::from(text),
    }
}

/// Puts a text in the place of a file: after a crash it is the old one or the new one, whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = File::create(&beside)?;
    file.set_permissions(fs::metadata(path)?.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{super::table::named, *};

    fn after(text: &str, changes: &[(&str, &str)]) -> String {
        let changes: Vec<_> = changes
            .iter()
            .map(|(name, text)| (named(name).expect("it is one"), *text))
            .collect();
        rewritten(text, &changes).expect("it is TOML")
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# mine\n[memory] # all of it\nmaxmemory   = \"1gb\"  # not more\n\n# last\n[server]\n\
                    port = 7000\n";
        let got = after(
            text,
            &[("maxmemory", "2048"), ("timeout", "5"), ("save", "60 1")],
        );
        assert_eq!(
            got,
            "# mine\n[memory] # all of it\nmaxmemory   = 2048  # not more\n\n# last\n[server]\n\
             port = 7000\ntimeout = 5\n\n[persistence]\nsave = \"60 1\"\n"
        );
        assert_eq!(after(text, &[]), text);
    }

    #[test]
    fn values_have_the_units_of_the_file() {
        let got = after(
            "",
            &[
                ("min-replicas-max-lag", "7"),
                ("maxclients", "4294967295"),
                ("replica-serve-stale-data", "no"),
                ("requirepass", "a\"b"),
            ],
        );
        for line in [
            "min_replicas_max_lag_ms = 7000",
            "max_clients = 0",
            "replica_serve_stale_data = false",
            "requirepass = 'a\"b'",
        ] {
            assert!(got.lines().any(|found| found == line), "{line}: {got}");
        }
    }

    #[test]
    fn a_file_that_is_none_any_more_is_left_alone() {
        assert!(rewritten("[server\n", &[]).is_err());
    }
}
