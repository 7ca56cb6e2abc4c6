//! The name that was meant.

use super::{kevy::FOREIGN, table::SETTINGS};

/// Every section and key that a file may have.
fn places() -> impl Iterator<Item = (&'static str, &'static str)> {
    let settings = SETTINGS.iter().map(|setting| setting.place);
    settings.chain(FOREIGN.iter().map(|foreign| foreign.place))
}

/// Is there such a section?
pub(super) fn is_section(name: &str) -> bool {
    places().any(|(section, _)| section == name)
}

/// What to tell who wrote an unknown section.
pub(super) fn section_hint(name: &str) -> String {
    nearest(name, places().map(|(section, _)| section))
        .map_or(String::new(), |found| format!(": did you mean '{found}'?"))
}

/// What to tell who wrote an unknown key.
pub(super) fn key_hint(section: &str, key: &str) -> String {
    let key = key.replace('-', "_").to_lowercase();
    let within = places().filter(|place| place.0 == section);
    if let Some(found) = nearest(&key, within.map(|place| place.1)) {
        return format!(": did you mean '{found}'?");
    }
    // It may stand in another section, or be the name of a flag or of CONFIG SET.
    let found = nearest(&key, places().map(|place| place.1));
    let place = places().find(|place| Some(place.1) == found).or_else(|| {
        let setting = SETTINGS.iter().find(|setting| {
            [setting.name, setting.parameter].contains(&&key.replace('_', "-")[..])
        });
        setting.map(|setting| setting.place)
    });
    match place {
        Some((section, key)) => format!(": did you mean '{key}' in [{section}]?"),
        None => String::new(),
    }
}

/// The name of all that is near enough, if one is.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = if name.len() < 4 { 1 } else { 2 };
    let measured = names.map(|other| (distance(name, other), other));
    let (_, found) = measured.filter(|(far, _)| *far <= most).min()?;
    Some(found)
}

/// How many letters have to be put in, left out, changed or swapped with the next one.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows = vec![(0..=right.len()).collect::<Vec<usize>>()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let is_other = usize::from(left[i - 1] != right[j - 1]);
            let mut least = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + is_other);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        assert_eq!(key_hint("server", "thread"), ": did you mean 'threads'?");
        assert_eq!(key_hint("server", "prot"), ": did you mean 'port'?");
        assert_eq!(
            key_hint("server", "max-clients"),
            ": did you mean 'max_clients'?"
        );
        assert_eq!(
            key_hint("server", "maxmemory"),
            ": did you mean 'maxmemory' in [memory]?"
        );
        assert_eq!(
            key_hint("", "repl-backlog-size"),
            ": did you mean 'replication_buffer_size' in [replication]?"
        );
        assert_eq!(key_hint("server", "colour"), "");
        assert_eq!(section_hint("sever"), ": did you mean 'server'?");
        assert_eq!(section_hint("x"), "");
    }

    #[test]
    fn distances_are_counted() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("port", "prot"), 1);
        assert_eq!(distance("threads", "thread"), 1);
        assert_eq!(distance("bind", "port"), 4);
    }
}
