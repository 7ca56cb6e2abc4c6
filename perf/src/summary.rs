//! What the rows of a record say: medians, spreads, ratios and ranks, for the terminal and the report.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::record::{Note, Record, Row};
use crate::stats::{self, Spread};

/// A figure that rows may hold.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// Its name in rows and scenario files.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Its unit, or what 1 means.
    pub unit: &'static str,
    /// Whether more of it is better.
    pub more_is_better: bool,
    /// Whether engines differ so much in it that only a logarithmic axis shows all.
    pub is_log: bool,
}

const fn metric(name: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric {
        name,
        title,
        unit,
        more_is_better: false,
        is_log: false,
    }
}

const fn speed(name: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric {
        more_is_better: true,
        ..metric(name, title, unit)
    }
}

const fn wide(name: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric {
        is_log: true,
        ..metric(name, title, unit)
    }
}

const METRICS: [Metric; 41] = [
    speed("ops_per_s", "Throughput", "requests/s"),
    metric("server_cpu_ns", "Server CPU per request", "ns"),
    metric("server_busy", "Server CPU", "cores"),
    wide("mean_us", "Mean latency", "µs"),
    wide("p50_us", "Median latency", "µs"),
    wide("p99_us", "Latency, 99 %", "µs"),
    wide("p999_us", "Latency, 99.9 %", "µs"),
    wide("p9999_us", "Latency, 99.99 %", "µs"),
    wide("max_us", "Slowest request", "µs"),
    metric("p99_ratio", "99 % with over without", "1 = no change"),
    metric("p999_ratio", "99.9 % with over without", "1 = no change"),
    wide("event_ms", "Time the event took", "ms"),
    speed("events", "Events", "events"),
    speed("keys_per_s", "Loading", "keys/s"),
    metric("load_cpu_ns", "CPU per key loaded", "ns"),
    metric(
        "disk_bytes_per_request",
        "Written to files per request",
        "bytes",
    ),
    metric("bytes_per_key", "Resident memory per key", "bytes"),
    metric("bytes_per_conn", "Resident memory per connection", "bytes"),
    metric("server_resident_bytes", "Resident memory", "bytes"),
    metric("seconds", "Time", "s"),
    wide("delivery_p99_us", "Delivery, 99 %", "µs"),
    speed("delivered_per_s", "Messages delivered", "messages/s"),
    metric("sync_s_per_gb", "Full sync", "s per GB of keys and values"),
    metric("cpu_ns_per_key", "Replica CPU per key of a full sync", "ns"),
    speed("frames_per_s", "Catching up", "writes/s"),
    metric("cpu_ns_per_frame", "Replica CPU per write", "ns"),
    wide("lag_p50_us", "Median lag", "µs"),
    wide("lag_p99_us", "Lag, 99 %", "µs"),
    wide("lag_max_us", "Longest lag", "µs"),
    wide("gap_us", "Without an acknowledged write", "µs"),
    wide("quiet_gap_us", "The same just before", "µs"),
    wide("change_us", "Until both have changed parts", "µs"),
    speed("acknowledged", "Writes acknowledged", "writes"),
    metric("missing", "Of these missing", "writes"),
    speed("done", "Failovers done", "failovers"),
    metric("failed", "Failed", "failovers"),
    metric("hung", "Hung", "failovers"),
    wide("gap_p50_us", "Median gap", "µs"),
    wide("gap_p99_us", "Gap, 99 %", "µs"),
    wide("gap_max_us", "Longest gap", "µs"),
    metric("unanswered", "Unanswered requests", "requests"),
];

impl Metric {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Metric> {
        METRICS.iter().find(|metric| metric.name == name)
    }

    /// All names, for a message.
    pub fn names() -> String {
        METRICS.map(|metric| metric.name).join(", ")
    }

    /// A value in a readable length.
    pub fn show(&self, value: f64) -> String {
        let size = value.abs();
        if value.is_nan() {
            "-".into()
        } else if self.unit == MICROSECONDS {
            let (scale, unit) = match size {
                1e6.. => (1e6, "s"),
                1e3.. => (1e3, "ms"),
                _ => (1.0, "µs"),
            };
            format!("{} {unit}", digits(value / scale))
        } else if size >= 1e9 {
            format!("{:.2} G", value / 1e9)
        } else if size >= 1e7 {
            format!("{:.1} M", value / 1e6)
        } else if size >= 1e6 {
            format!("{:.2} M", value / 1e6)
        } else if size >= 1e4 {
            format!("{:.1} k", value / 1e3)
        } else {
            digits(value)
        }
    }

    /// Title and unit; times carry their unit themselves.
    pub fn heading(&self) -> String {
        if self.unit == MICROSECONDS {
            self.title.into()
        } else {
            format!("{} [{}]", self.title, self.unit)
        }
    }

    /// `median [low..high]`, the range only where there is one.
    pub fn show_spread(&self, spread: Spread) -> String {
        if spread.low == spread.high {
            return self.show(spread.median);
        }
        let [median, low, high] = [spread.median, spread.low, spread.high].map(|v| self.show(v));
        format!("{median} [{low}..{high}]")
    }
}

/// Three digits of a value below a thousand, or all before the point.
fn digits(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// A ratio with its range.
pub fn show_ratio(ratio: Spread) -> String {
    let Spread { median, low, high } = ratio;
    if low == high {
        return format!("{median:.2}");
    }
    format!("{median:.2} [{low:.2}..{high:.2}]")
}

/// One figure of one cell: the values of each engine by round, engines in the order of their turns.
pub struct Series<'a> {
    /// The engines.
    pub names: Vec<&'a str>,
    values: Vec<Vec<f64>>,
}

impl<'a> Series<'a> {
    /// Of the rows that hold the figure.
    pub fn of(rows: impl Iterator<Item = &'a Row>, metric: &str) -> Series<'a> {
        let mut series = Series {
            names: Vec::new(),
            values: Vec::new(),
        };
        for row in rows {
            let Some(value) = row.metrics.get(metric) else {
                continue;
            };
            let at = series.names.iter().position(|name| *name == row.engine);
            let at = at.unwrap_or_else(|| {
                series.names.push(&row.engine);
                series.values.push(Vec::new());
                series.names.len() - 1
            });
            series.values[at].push(*value);
        }
        series
    }

    /// The values of one engine; empty when it has none.
    pub fn of_engine(&self, name: &str) -> &[f64] {
        let at = self.names.iter().position(|known| *known == name);
        at.map_or(&[], |at| &self.values[at])
    }

    /// Median and range of an engine.
    pub fn spread(&self, name: &str) -> Spread {
        Spread::of(self.of_engine(name)).unwrap_or(NOTHING)
    }

    /// An engine's values over those of another, round by round.
    pub fn ratio(&self, name: &str, base: &str) -> Spread {
        Spread::of_ratios(self.of_engine(name), self.of_engine(base)).unwrap_or(NOTHING)
    }

    /// Most rounds of any engine.
    pub fn rounds(&self) -> usize {
        self.values.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// How an engine stands to another; none where rounds are too few to tell.
    pub fn verdict(&self, name: &str, base: &str) -> Option<Ordering> {
        let (values, base) = (self.of_engine(name), self.of_engine(base));
        let enough = values.len().min(base.len()) >= stats::ROUNDS_MIN;
        enough.then(|| stats::compare(values, base))
    }

    /// `a < b = c`: medians from the best on, `=` where neighbours differ by less than the spread.
    pub fn ranking(&self, more_is_better: bool) -> String {
        let mut names = self.names.clone();
        names.sort_by(|a, b| self.spread(a).median.total_cmp(&self.spread(b).median));
        if more_is_better {
            names.reverse();
        }
        let mut text = String::new();
        for (i, name) in names.iter().enumerate() {
            if i > 0 {
                let order = stats::compare(self.of_engine(names[i - 1]), self.of_engine(name));
                text.push_str(match order {
                    Ordering::Less => " < ",
                    Ordering::Equal => " = ",
                    Ordering::Greater => " > ",
                });
            }
            text.push_str(name);
        }
        text
    }
}

/// Cells of a scenario in the order of their rows, each with its number of cores.
pub fn cells<'a>(rows: &'a [Row], scenario: &str) -> Vec<(&'a str, usize)> {
    let mut cells = Vec::new();
    for row in rows.iter().filter(|row| row.scenario == scenario) {
        let cell = (row.cell.as_str(), row.cores);
        if !cells.contains(&cell) {
            cells.push(cell);
        }
    }
    cells
}

/// The rows of one cell.
pub fn rows_of<'a>(
    rows: &'a [Row],
    scenario: &str,
    cell: (&str, usize),
) -> impl Iterator<Item = &'a Row> {
    let (scenario, name, cores) = (scenario.to_owned(), cell.0.to_owned(), cell.1);
    rows.iter()
        .filter(move |row| row.scenario == scenario && row.cell == name && row.cores == cores)
}

/// The tables of one scenario for a terminal.
pub fn table(record: &Record, note: &Note) -> String {
    let mut text = String::new();
    for cell in cells(&record.rows, &note.name) {
        cell_table(&mut text, record, note, cell);
    }
    for failure in record
        .failures
        .iter()
        .filter(|failure| failure.scenario == note.name)
    {
        let _ = writeln!(
            text,
            "  {} failed in {}: {}",
            failure.engine, failure.cell, failure.why
        );
        for line in &failure.log {
            let _ = writeln!(text, "      {line}");
        }
    }
    for skipped in record
        .skipped
        .iter()
        .filter(|skipped| skipped.scenario == note.name)
    {
        let _ = writeln!(text, "  {} left out: {}", skipped.engine, skipped.why);
    }
    text
}

fn cell_table(text: &mut String, record: &Record, note: &Note, cell: (&str, usize)) {
    let of = |metric: &str| Series::of(rows_of(&record.rows, &note.name, cell), metric);
    let shown: Vec<(&Metric, Series<'_>)> = note
        .metrics
        .iter()
        .filter_map(|name| Metric::named(name))
        .map(|metric| (metric, of(metric.name)))
        .filter(|(_, series)| !series.names.is_empty())
        .collect();
    let Some((_, first)) = shown.first() else {
        return;
    };
    let (base, rounds) = (first.names[0], first.rounds());
    let cores = if cell.1 == 1 { "" } else { " cores" };
    let cores = if cores.is_empty() {
        String::new()
    } else {
        format!(", {}{cores}", cell.1)
    };
    let _ = writeln!(
        text,
        "\n  {}{cores}, {rounds} round(s): median [spread] (ratio to {base})",
        cell.0
    );
    let mut columns: Vec<Vec<String>> = vec![vec!["engine".into()]];
    columns[0].extend(first.names.iter().map(ToString::to_string));
    for (metric, series) in &shown {
        let mut column = vec![metric.heading()];
        column.extend(first.names.iter().map(|name| {
            let value = metric.show_spread(series.spread(name));
            let ratio = series.ratio(name, base).median;
            if *name == base || ratio.is_nan() {
                value
            } else {
                format!("{value} ({ratio:.2})")
            }
        }));
        columns.push(column);
    }
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| {
            column
                .iter()
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for line in 0..columns[0].len() {
        text.push_str("   ");
        for (column, &width) in columns.iter().zip(&widths) {
            let _ = write!(text, " {:<width$} ", column[line]);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    if rounds < stats::ROUNDS_MIN && first.names.len() > 1 {
        let _ = writeln!(
            text,
            "    fewer than {} rounds: no ranking",
            stats::ROUNDS_MIN
        );
    } else if first.names.len() > 1 {
        for (metric, series) in &shown {
            let ranking = series.ranking(metric.more_is_better);
            let _ = writeln!(
                text,
                "    {}, best first, = is a tie: {ranking}",
                metric.title
            );
        }
    }
    warnings(text, &of);
}

/// What makes the rows of a cell doubtful.
fn warnings<'a>(text: &mut String, of: &impl Fn(&str) -> Series<'a>) {
    let late = (of("generator_late_p99_us"), of("p99_us"));
    let is_late = |name: &&str| late.0.spread(name).median > late.1.spread(name).median / 2.0;
    let names: Vec<&str> = late.0.names.iter().copied().filter(is_late).collect();
    if !names.is_empty() {
        let names = names.join(", ");
        let _ = writeln!(
            text,
            "    the generator was late, latency may be its own: {names}"
        );
    }
    let mut warn = |metric: &str, over: f64, what: &str| {
        let series = of(metric);
        let names: Vec<&str> = series
            .names
            .iter()
            .copied()
            .filter(|name| series.spread(name).median > over)
            .collect();
        if !names.is_empty() {
            let _ = writeln!(text, "    {what}: {}", names.join(", "));
        }
    };
    let bound = "the generator was busy throughout, throughput may be its limit";
    warn("generator_busy", 0.95, bound);
    let disturbed = "other processes took over 5 % of a core, measure again";
    warn("others_busy", 0.05, disturbed);
    warn(
        "stolen",
        0.05,
        "the host took over 5 % of a core, measure again",
    );
    warn("nils", 0.0, "some requests found no value");
    warn("wrong_length", 0.0, "some values had another length");
    warn(
        "unanswered",
        0.0,
        "some requests of the open loop were never answered",
    );
}

/// The unit of times that are shown in whichever unit is short.
pub const MICROSECONDS: &str = "µs";
const NOTHING: Spread = Spread {
    median: f64::NAN,
    low: f64::NAN,
    high: f64::NAN,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    fn rows(values: &[(&str, [f64; 5])]) -> Vec<Row> {
        let mut rows = Vec::new();
        for round in 0..5 {
            for (engine, values) in values {
                rows.push(record::row(
                    "s",
                    "c",
                    engine,
                    round + 1,
                    1,
                    [("ops_per_s", values[round])],
                ));
            }
        }
        rows
    }

    #[test]
    fn a_ranking_marks_ties_and_a_verdict_needs_five_rounds() {
        let rows = rows(&[
            ("slow", [300.0, 310.0, 300.0, 310.0, 300.0]),
            ("a", [105.0, 95.0, 105.0, 95.0, 105.0]),
            ("b", [100.0, 110.0, 100.0, 110.0, 100.0]),
        ]);
        let series = Series::of(rows.iter(), "ops_per_s");
        assert_eq!(series.names, ["slow", "a", "b"]);
        assert_eq!(series.ranking(false), "b = a < slow");
        assert_eq!(series.ranking(true), "slow > a = b");
        assert_eq!(series.verdict("slow", "a"), Some(Ordering::Greater));
        assert_eq!(series.verdict("a", "b"), Some(Ordering::Equal));
        let few = Series::of(rows[..12].iter(), "ops_per_s");
        assert_eq!(few.verdict("slow", "a"), None);
        assert_eq!(Series::of(rows.iter(), "p99_us").names.len(), 0);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let rows = rows(&[
            ("a", [10.0, 20.0, 10.0, 10.0, 10.0]),
            ("b", [20.0, 40.0, 20.0, 20.0, 21.0]),
        ]);
        let series = Series::of(rows.iter(), "ops_per_s");
        let ratio = series.ratio("b", "a");
        assert_eq!((ratio.median, ratio.low, ratio.high), (2.0, 2.0, 2.1));
        assert!(series.ratio("b", "c").median.is_nan());
    }

    #[test]
    fn values_are_short_and_keep_their_order_of_magnitude() {
        let metric = Metric::named("ops_per_s").expect("known");
        for (value, text) in [
            (0.0, "0"),
            (0.00123, "0.0012"),
            (1.234, "1.23"),
            (56.78, "56.8"),
            (999.4, "999"),
            (12_345.0, "12.3 k"),
            (1_234_567.0, "1.23 M"),
            (4.6e9, "4.60 G"),
        ] {
            assert_eq!(metric.show(value), text);
        }
        let time = Metric::named("max_us").expect("known");
        let shown = [0.0, 12.3, 999.0, 1234.0, 56_789.0, 2_500_000.0].map(|us| time.show(us));
        assert_eq!(
            shown,
            ["0 µs", "12.3 µs", "999 µs", "1.23 ms", "56.8 ms", "2.50 s"]
        );
        assert_eq!(
            [time.heading(), metric.heading()],
            ["Slowest request", "Throughput [requests/s]"]
        );
        let same = Spread {
            median: 1.25,
            low: 1.25,
            high: 1.25,
        };
        assert_eq!(metric.show_spread(same), "1.25");
        let range = Spread {
            median: 2.0,
            low: 1.0,
            high: 3.0,
        };
        assert_eq!(metric.show_spread(range), "2.00 [1.00..3.00]");
    }
}
