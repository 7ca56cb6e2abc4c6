//! The text that a Prometheus reads, format 0.0.4.

use std::fmt::{Display, Write};

use super::{
    super::{census::Totals, info::Facts, meter::Meter, shared::Shared, state::State},
    commands, families,
};
use crate::{base::Ms, cmd::Table};

/// Characters of a label: a script may make up names of errors, as long as it likes.
const LABEL_LEN: usize = 64;

/// What a family is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What the numbers of a meter have to be divided by, to be seconds or just numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scale {
    Nanos,
    Millis,
    Number,
}

impl Scale {
    fn show(self, value: u64) -> String {
        match self {
            Scale::Nanos => seconds(value).to_string(),
            Scale::Millis => (value as f64 / 1e3).to_string(),
            Scale::Number => value.to_string(),
        }
    }
}

pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// A page in the making.
#[derive(Default)]
pub(super) struct Page {
    text: String,
    /// The family that samples are of.
    name: &'static str,
}

/// Names and values.
pub(super) type Labels<'a> = &'a [(&'static str, &'a dyn Display)];

impl Page {
    /// Begins a family. It is told of also where there are no samples of it.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> &mut Self {
        let kind = kind.name();
        self.name = name;
        self.add(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        self
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        // Nothing can fail that is written to memory.
        let _ = self.text.write_fmt(text);
    }

    /// Adds a sample.
    pub fn put(&mut self, labels: Labels<'_>, value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// Adds what a meter has.
    pub fn meter<const LOW: u32>(&mut self, labels: Labels<'_>, scale: Scale, meter: &Meter<LOW>) {
        let mut all = 0;
        for (bound, count) in meter.curve() {
            let bound = bound.map_or_else(|| "+Inf".into(), |bound| scale.show(bound));
            self.sample("_bucket", labels, Some(&bound), count);
            all = count;
        }
        self.sample("_sum", labels, None, scale.show(meter.sum()));
        self.sample("_count", labels, None, all);
    }

    fn sample(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        let name = self.name;
        self.add(format_args!("{name}{suffix}"));
        let mut before = '{';
        for (name, value) in labels {
            let value = escaped(&value.to_string());
            self.add(format_args!("{before}{name}=\"{value}\""));
            before = ',';
        }
        if let Some(le) = le {
            self.add(format_args!("{before}le=\"{le}\""));
            before = ',';
        }
        let end = if before == ',' { "}" } else { "" };
        self.add(format_args!("{end} {value}\n"));
    }
}

/// The value of a label.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars().take(LABEL_LEN) {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            letter if letter.is_control() => escaped.push('?'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// The page as of the last beat.
pub(super) fn compose(state: &State) -> String {
    compose_from(&state.shared, &state.table, state.now)
}

fn compose_from(shared: &Shared, table: &Table, now: Ms) -> String {
    let facts = Facts {
        shared,
        table,
        now,
        // Who scrapes wants counters that only grow.
        totals: Totals::of(shared),
    };
    let mut page = Page::default();
    families::write(&facts, &mut page);
    commands::write(&facts, &mut page);
    page.text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::shard::{Election, Settings};

    const TABLE: &str = include_str!("../../docs/metrics.md");
    const DASHBOARD: &str = include_str!("../../docs/grafana.json");

    fn composed() -> String {
        let settings = Settings::of_a_test(2, 3);
        let mut shared = Shared::new(settings, 0, String::new());
        shared.election = Some(Election::default());
        shared.meters[1].turns.note(3000);
        compose_from(&shared, &Table::build(), 1000)
    }

    /// Families with what they are.
    fn families(text: &str) -> BTreeMap<&str, &str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        lines.filter_map(|line| line.split_once(' ')).collect()
    }

    #[test]
    fn every_sample_belongs_to_the_family_above_it() {
        let text = composed();
        let (mut name, mut kind) = ("", "");
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                (name, kind) = family.split_once(' ').expect("a kind");
                assert!(seen.insert(name), "{name} is there twice");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            } else if !line.starts_with('#') {
                let sample = line.split(['{', ' ']).next().expect("a name");
                let suffix = sample.strip_prefix(name).expect(line);
                let is_good = match kind {
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                    _ => suffix.is_empty(),
                };
                assert!(is_good, "{line}");
                let value = line.rsplit(' ').next().expect("a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains("ringkeep_turn_seconds_bucket{core=\"1\",le=\"0.000002048\"} 0\n"));
        assert!(text.contains("ringkeep_turn_seconds_bucket{core=\"1\",le=\"0.000004096\"} 1\n"));
        assert!(text.contains("ringkeep_turn_seconds_sum{core=\"1\"} 0.000003\n"));
        assert!(text.contains("ringkeep_turn_seconds_count{core=\"1\"} 1\n"));
    }

    #[test]
    fn the_page_on_metrics_lists_what_is_there() {
        let text = composed();
        let cells = TABLE.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.trim_end_matches('`');
            let kind = cells.next()?;
            Some((name, (kind, cells.nth(1)?.trim_end_matches(" |"))))
        });
        let listed: BTreeMap<_, _> = cells.collect();
        let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
        let helps: BTreeMap<_, _> = helps.filter_map(|line| line.split_once(' ')).collect();
        let there = families(&text).into_iter();
        let there: BTreeMap<_, _> = there
            .map(|(name, kind)| (name, (kind, helps[name])))
            .collect();
        assert_eq!(listed, there);
    }

    #[test]
    fn the_dashboard_names_only_what_is_there() {
        let text = composed();
        let families = families(&text);
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
        let mut names = 0;
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().expect("a query");
                let words = query.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
                let is_metric =
                    |word: &&str| word.starts_with("ringkeep_") || word.starts_with("process_");
                for word in words.filter(is_metric) {
                    let is_part = |suffix| {
                        let name = word.strip_suffix(suffix).unwrap_or_default();
                        families.get(name) == Some(&"histogram")
                    };
                    let is_plain = families.get(word).is_some_and(|kind| *kind != "histogram");
                    let is_known = is_plain || ["_bucket", "_sum", "_count"].iter().any(is_part);
                    assert!(is_known, "{word} in {query}");
                    names += 1;
                }
            }
        }
        assert!(names >= 30, "only {names} names");
    }

    #[test]
    fn labels_hold_whatever_a_script_calls_its_error() {
        assert_eq!(escaped("A\"B\\C\nD"), "A\\\"B\\\\C?D");
        assert_eq!(escaped(&"\u{e4}".repeat(100)).chars().count(), LABEL_LEN);
    }
}
