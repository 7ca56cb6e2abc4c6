//! CONFIG REWRITE: the file has what CONFIG SET changed, and everything else stays as it was written.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Mutex,
};

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::{
    ConfigFile,
    table::{Kind, SETTINGS, Setting},
};
use crate::shard::{Rewrite, lock};

/// Whom REPLICAOF named is in this parameter: `HOST PORT`, or nothing for nobody.
const FOLLOWED: &str = "replicaof";

/// What was changed since the file was read or rewritten is put into it; whom the node follows only where
/// that is not told by elections.
pub(in super::super) fn rewriter(
    file: &ConfigFile,
    at_start: Vec<(String, String)>,
    is_led: bool,
) -> Rewrite {
    let ConfigFile { path, is_kevy } = file.clone();
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
        let followed = now.get(FOLLOWED);
        let followed = followed.filter(|_| !is_led && followed != known.get(FOLLOWED));
        let text = rewritten(&text, &changes, followed.map(|whom| (&whom[..], is_kevy)))?;
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

/// The text of the file with new values, and with another primary in a file that is a kevy's or not.
///
/// # Errors
/// It is no TOML any more.
fn rewritten(
    text: &str,
    changes: &[(&Setting, &str)],
    followed: Option<(&str, bool)>,
) -> Result<String, String> {
    let document = text.parse::<DocumentMut>();
    let mut document = document.map_err(|error| error.message().replace('\n', ", "))?;
    for (setting, text) in changes {
        let (section, key) = setting.place;
        put(
            table(&mut document, section)?,
            key,
            value(setting.kind, text),
        );
    }
    if let Some((whom, is_kevy)) = followed {
        let table = table(&mut document, "replication")?;
        let role = table.get("role").and_then(Item::as_str).map(String::from);
        match whom.rsplit_once(' ') {
            None => {
                table.remove("upstream");
                // What is no replica any more takes replicas.
                if role.as_deref() == Some("replica") {
                    put(table, "role", Value::from("primary"));
                }
            }
            Some((host, port)) => {
                let upstream = match host.contains(':') {
                    true => format!("[{host}]:{port}"),
                    false => format!("{host}:{port}"),
                };
                put(table, "upstream", Value::from(upstream));
                // Without that a kevy would follow nobody.
                if is_kevy || role.is_some() {
                    put(table, "role", Value::from("replica"));
                }
            }
        }
    }
    Ok(document.to_string())
}

/// A section of a file, which is there from now on.
fn table<'a>(
    document: &'a mut DocumentMut,
    section: &str,
) -> Result<&'a mut dyn TableLike, String> {
    let table = document.entry(section).or_insert_with(|| {
        let mut table = Table::new();
        table.decor_mut().set_prefix("\n");
        Item::Table(table)
    });
    let table = table.as_table_like_mut();
    table.ok_or_else(|| format!("'{section}' is no section"))
}

/// Puts a value into the place of another one, with the comment behind it.
fn put(table: &mut dyn TableLike, key: &str, mut value: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => drop(table.insert(key, Item::Value(value))),
    }
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
        rewritten(text, &changes, None).expect("it is TOML")
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
    fn whom_a_node_follows_is_written() {
        let follow = |text: &str, whom, is_kevy| {
            rewritten(text, &[], Some((whom, is_kevy))).expect("it is TOML")
        };
        let text = "[replication]\nrole = \"replica\" # mine\nupstream = \"a:1\" # theirs\n";
        assert_eq!(
            follow(text, "b 2", false),
            "[replication]\nrole = \"replica\" # mine\nupstream = \"b:2\" # theirs\n"
        );
        assert_eq!(
            follow(text, "", true),
            "[replication]\nrole = \"primary\" # mine\n"
        );
        assert_eq!(
            follow("", "::1 2", false),
            "\n[replication]\nupstream = \"[::1]:2\"\n"
        );
        assert_eq!(
            follow("[replication]\nupstream = \"a:1\"\n", "", false),
            "[replication]\n"
        );
        assert_eq!(
            follow("", "b 2", true),
            "\n[replication]\nupstream = \"b:2\"\nrole = \"replica\"\n"
        );
    }

    #[test]
    fn a_file_that_is_none_any_more_is_left_alone() {
        assert!(rewritten("[server\n", &[], None).is_err());
    }
}
