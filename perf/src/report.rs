//! One page and its charts from records.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lexopt::prelude::*;

use crate::error::Error;
use crate::progress::tell;
use crate::record::{Note, Record};
use crate::summary::{self, Metric, Series};
use crate::svg::{self, Bar, Group, Panel, escape};

/// Reads the options of `report` and writes the page.
///
/// # Errors
/// [`Error::File`] and [`Error::Data`]; [`Error::NoRecord`] when there is nothing to report.
pub fn main(mut parser: lexopt::Parser, help: &str) -> Result<(), Error> {
    let (mut chosen, mut out) = (Vec::new(), PathBuf::from("target/report"));
    let mut dir = PathBuf::from("perf/record");
    while let Some(argument) = parser.next()? {
        match argument {
            Value(path) => chosen.push(PathBuf::from(path)),
            Long("records") => dir = parser.value()?.into(),
            Long("out") => out = parser.value()?.into(),
            Long("help") => {
                tell!("{}", help.trim_end());
                return Ok(());
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let records = if chosen.is_empty() {
        newest(&dir)?
    } else {
        read(&chosen)?
    };
    if records.is_empty() {
        return Err(Error::NoRecord { dir });
    }
    fs::create_dir_all(&out).map_err(Error::file(&out))?;
    let (page, charts) = page(&records);
    for (name, text) in &charts {
        let path = out.join(name);
        fs::write(&path, text).map_err(Error::file(&path))?;
    }
    let path = out.join("index.html");
    fs::write(&path, page).map_err(Error::file(&path))?;
    tell!("{} and {} charts", path.display(), charts.len());
    Ok(())
}

/// The newest record of each command and machine.
fn newest(dir: &Path) -> Result<Vec<Record>, Error> {
    let list = |dir: &Path| -> Result<Vec<PathBuf>, Error> {
        let entries = fs::read_dir(dir).map_err(Error::file(dir))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        Ok(paths)
    };
    let mut records = Vec::new();
    for machine in list(dir)?.iter().filter(|path| path.is_dir()) {
        let files = list(machine)?;
        for what in ["-compare.json", "-cluster.json", "-failover.json"] {
            let of_kind = |path: &&PathBuf| path.to_string_lossy().ends_with(what);
            records.extend(files.iter().rfind(of_kind).cloned());
        }
    }
    read(&records)
}

fn read(paths: &[PathBuf]) -> Result<Vec<Record>, Error> {
    paths.iter().map(|path| Record::read(path)).collect()
}

/// A page and the charts on it by file name.
fn page(records: &[Record]) -> (String, Vec<(String, String)>) {
    let (mut body, mut charts) = (String::new(), Vec::new());
    for record in records {
        head(&mut body, record);
        for note in &record.scenarios {
            section(&mut body, &mut charts, record, note);
        }
    }
    let colours = svg::page_colours();
    let page = format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ringkeep-perf report</title>
<style>
{colours}{STYLE}</style>
</head>
<body>
<h1>ringkeep-perf</h1>
<p>Bars and points are medians of the rounds, thin lines their spread. <em>tie</em> marks an engine whose
difference to the best of its group lies inside the spread; below five rounds nothing is ranked. Only
ratios travel between machines.</p>
{body}</body>
</html>
"#
    );
    (page, charts)
}

fn head(body: &mut String, record: &Record) {
    let context = &record.context;
    let _ = writeln!(
        body,
        "<h2>{} on {}</h2>",
        escape(&record.what),
        escape(&context.machine)
    );
    if !record.complete {
        body.push_str("<p class=\"warn\">Interrupted; the rows are those until then.</p>\n");
    }
    let mut lines = vec![
        ("Taken", context.date.clone()),
        ("Machine", format!("{} × {}", context.cpus, context.cpu)),
        (
            "Kernel",
            format!("{}, {}", context.kernel, context.congestion),
        ),
        ("Commit", context.commit.clone()),
        ("Command", context.flags.join(" ")),
    ];
    for engine in &record.engines {
        let version = if engine.version.is_empty() {
            ""
        } else {
            " · "
        };
        lines.push((
            "Engine",
            format!("{}{version}{}", engine.version, engine.command),
        ));
    }
    for skipped in record
        .skipped
        .iter()
        .filter(|skipped| skipped.scenario.is_empty())
    {
        lines.push(("Left out", format!("{}: {}", skipped.engine, skipped.why)));
    }
    body.push_str("<table class=\"facts\">\n");
    for (name, text) in lines {
        let _ = writeln!(body, "<tr><th>{name}</th><td>{}</td></tr>", escape(&text));
    }
    body.push_str("</table>\n");
}

fn section(body: &mut String, charts: &mut Vec<(String, String)>, record: &Record, note: &Note) {
    let _ = writeln!(
        body,
        "<section id=\"{0}\">\n<h3>{1}</h3>",
        escape(&note.name),
        escape(&note.title)
    );
    let _ = writeln!(body, "<p>{}</p>", escape(note.analysis.trim()));
    for placement in &note.placement {
        let list = |cpus: &[usize]| {
            cpus.iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let shared = placement
            .server_cpus
            .iter()
            .any(|cpu| placement.load_cpus.contains(cpu));
        let shared = if shared { ", which they share" } else { "" };
        let _ = writeln!(
            body,
            "<p class=\"soft\">Server on CPU {}, load on CPU {}{shared}.</p>",
            list(&placement.server_cpus),
            list(&placement.load_cpus)
        );
    }
    for failure in record
        .failures
        .iter()
        .filter(|failure| failure.scenario == note.name)
    {
        let text = format!(
            "{} failed in {}: {}",
            failure.engine, failure.cell, failure.why
        );
        let _ = writeln!(body, "<p class=\"warn\">{}</p>", escape(&text));
        if !failure.log.is_empty() {
            let _ = writeln!(body, "<pre>{}</pre>", escape(&failure.log.join("\n")));
        }
    }
    for skipped in record
        .skipped
        .iter()
        .filter(|skipped| skipped.scenario == note.name)
    {
        let text = format!("{} left out: {}", skipped.engine, skipped.why);
        let _ = writeln!(body, "<p class=\"soft\">{}</p>", escape(&text));
    }
    let drawn = drawn(record, note);
    body.push_str("<div class=\"charts\">\n");
    for (name, chart) in drawn {
        let name = format!("{}-{}-{name}.svg", record.what, note.name);
        let _ = writeln!(body, "<figure>{chart}</figure>");
        charts.push((name, chart));
    }
    body.push_str("</div>\n");
    numbers(body, record, note);
    body.push_str("</section>\n");
}

/// The charts of a scenario by name.
fn drawn(record: &Record, note: &Note) -> Vec<(String, String)> {
    let cells = summary::cells(&record.rows, &note.name);
    let of = |cell: (&str, usize), metric: &str| {
        Series::of(summary::rows_of(&record.rows, &note.name, cell), metric)
    };
    let metrics: Vec<&Metric> = note
        .metrics
        .iter()
        .filter_map(|name| Metric::named(name))
        .collect();
    let mut drawn = Vec::new();
    let is_percentile = |metric: &&Metric| PERCENTILES.iter().any(|(name, _)| *name == metric.name);
    let percentiles = metrics
        .iter()
        .filter(|metric| is_percentile(metric))
        .count()
        >= 3;
    if percentiles {
        let panels: Vec<Panel> = cells
            .iter()
            .filter(|cell| cells.len() == 1 || !of(**cell, "rate").names.is_empty())
            .map(|cell| {
                let marks = PERCENTILES.map(|(_, mark)| mark.to_owned()).to_vec();
                let all = PERCENTILES.map(|(name, _)| of(*cell, name));
                panel(cell.0.to_owned(), marks, &all)
            })
            .collect();
        if let (Some(metric), false) = (Metric::named("p50_us"), panels.is_empty()) {
            drawn.push((
                "percentiles".into(),
                svg::lines("Latency", metric, "share of requests", &panels),
            ));
        }
    }
    for metric in metrics
        .iter()
        .filter(|metric| !(percentiles && is_percentile(metric)))
    {
        let present: Vec<(&str, usize)> = cells
            .iter()
            .copied()
            .filter(|cell| !of(*cell, metric.name).names.is_empty())
            .collect();
        if present.is_empty() {
            continue;
        }
        let chart = match depth_panels(&present, |cell| of(cell, metric.name)) {
            Some((across, panels)) => svg::lines(metric.title, metric, across, &panels),
            None => {
                let groups: Vec<Group> = present
                    .iter()
                    .map(|cell| group(*cell, metric, &of(*cell, metric.name)))
                    .collect();
                svg::bars(metric.title, metric, &groups)
            }
        };
        drawn.push((metric.name.replace('_', "-"), chart));
    }
    drawn
}

/// Panels over numbers of cores or depths of pipelines, when the cells differ in one of these.
fn depth_panels<'a>(
    cells: &[(&'a str, usize)],
    of: impl Fn((&'a str, usize)) -> Series<'a>,
) -> Option<(&'static str, Vec<Panel>)> {
    let by_cores = cells.iter().any(|cell| cell.1 != cells[0].1);
    let parts: Option<Vec<(&str, usize)>> = if by_cores {
        Some(cells.to_vec())
    } else {
        let split = |(name, _): &(&'a str, usize)| {
            let (name, depth) = name.rsplit_once('/')?;
            Some((name, depth.parse().ok()?))
        };
        cells.iter().map(split).collect()
    };
    let parts = parts?;
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in &parts {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let panels: Vec<Panel> = names
        .iter()
        .map(|name| {
            let of_name = parts.iter().zip(cells).filter(|(part, _)| part.0 == *name);
            let (marks, all): (Vec<String>, Vec<Series<'_>>) = of_name
                .map(|(part, cell)| (part.1.to_string(), of(*cell)))
                .unzip();
            panel((*name).to_owned(), marks, &all)
        })
        .collect();
    let is_line = panels.iter().any(|panel| panel.marks.len() > 1);
    is_line.then_some((if by_cores { "cores" } else { "pipeline" }, panels))
}

fn panel(title: String, marks: Vec<String>, series: &[Series<'_>]) -> Panel {
    let mut engines: Vec<&str> = Vec::new();
    for name in series.iter().flat_map(|series| &series.names) {
        if !engines.contains(name) {
            engines.push(name);
        }
    }
    let points = |engine: &str| {
        let point =
            |series: &Series<'_>| Some(series.spread(engine)).filter(|s| !s.median.is_nan());
        series.iter().map(point).collect()
    };
    let lines = engines
        .into_iter()
        .map(|engine| (engine.to_owned(), points(engine)))
        .collect();
    Panel {
        title,
        marks,
        lines,
    }
}

fn group(cell: (&str, usize), metric: &Metric, series: &Series<'_>) -> Group {
    let best = best(metric, series);
    let bars = series
        .names
        .iter()
        .map(|name| Bar {
            engine: (*name).to_owned(),
            spread: series.spread(name),
            remark: match series.verdict(name, best) {
                Some(order) if order.is_eq() && *name != best => "tie",
                _ => "",
            },
        })
        .collect();
    Group {
        title: cell.0.to_owned(),
        bars,
    }
}

fn best<'a>(metric: &Metric, series: &Series<'a>) -> &'a str {
    let by_median =
        |a: &&&str, b: &&&str| series.spread(a).median.total_cmp(&series.spread(b).median);
    let names = series.names.iter();
    let best = if metric.more_is_better {
        names.max_by(by_median)
    } else {
        names.min_by(by_median)
    };
    best.copied().unwrap_or_default()
}

/// The figures behind the charts.
fn numbers(body: &mut String, record: &Record, note: &Note) {
    body.push_str("<details><summary>Numbers</summary>\n<table class=\"numbers\">\n");
    body.push_str(
        "<tr><th>Load</th><th>Figure</th><th>Engine</th><th>Median</th><th>Spread</th><th>Rounds</th>\
         <th>Ratio to ringkeep</th><th>Against ringkeep</th></tr>\n",
    );
    for cell in summary::cells(&record.rows, &note.name) {
        for metric in note.metrics.iter().filter_map(|name| Metric::named(name)) {
            let series = Series::of(
                summary::rows_of(&record.rows, &note.name, cell),
                metric.name,
            );
            for name in &series.names {
                let (spread, ratio) = (series.spread(name), series.ratio(name, OURS));
                let is_other = *name != OURS && !ratio.median.is_nan();
                let verdict = match series.verdict(name, OURS).filter(|_| is_other) {
                    None => "",
                    Some(order) if order.is_eq() => "tie",
                    Some(order) if order.is_gt() == metric.more_is_better => "better",
                    Some(_) => "worse",
                };
                let cores = if cell.1 == 1 {
                    String::new()
                } else {
                    format!(", {} cores", cell.1)
                };
                let ratio = if is_other {
                    summary::show_ratio(ratio)
                } else {
                    String::new()
                };
                let _ = writeln!(
                    body,
                    "<tr><td>{}{cores}</td><td>{}</td><td><i class=\"{}\"></i>{}</td><td>{}</td>\
                     <td>{} – {}</td><td>{}</td><td>{ratio}</td><td>{verdict}</td></tr>",
                    escape(cell.0),
                    metric.heading(),
                    svg::class_of(name),
                    escape(name),
                    metric.show(spread.median),
                    metric.show(spread.low),
                    metric.show(spread.high),
                    series.of_engine(name).len(),
                );
            }
        }
    }
    body.push_str("</table></details>\n");
}

/// The engine that the others are held against.
const OURS: &str = "ringkeep";
const PERCENTILES: [(&str, &str); 5] = [
    ("p50_us", "50 %"),
    ("p99_us", "99 %"),
    ("p999_us", "99.9 %"),
    ("p9999_us", "99.99 %"),
    ("max_us", "slowest"),
];
const STYLE: &str = "\
body { max-width: 92rem; margin: 2rem auto; padding: 0 1.2rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--grid) } h3 { margin: 2.2rem 0 .4rem }
p { max-width: 60rem } .soft { color: var(--soft); margin: .3rem 0 } .warn { font-weight: 600 }
.warn::before { content: '⚠ ' }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 36rem), 1fr)); gap: 1rem;
  align-items: start }
figure { margin: 0; border: 1px solid var(--grid); border-radius: 6px; overflow: hidden; max-width: 45rem }
figure svg { display: block; width: 100%; height: auto }
table { border-collapse: collapse; font-size: 13px } th, td { text-align: left; padding: .2rem .7rem .2rem 0;
  vertical-align: top } .numbers td, .numbers th { border-bottom: 1px solid var(--grid) }
.facts th { color: var(--soft); font-weight: 500 } .facts td { overflow-wrap: anywhere }
details { margin: .8rem 0; overflow-x: auto } summary { cursor: pointer; color: var(--soft) }
pre { overflow-x: auto; background: var(--grid); padding: .6rem; border-radius: 4px }
td i { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .4em }
td i.e-limit { background: var(--limit) } td i.e-ringkeep { background: var(--ringkeep) }
td i.e-kevy { background: var(--kevy) } td i.e-redis-server { background: var(--redis-server) }
td i.e-valkey-server { background: var(--valkey-server) } td i.e-other-1 { background: var(--other-1) }
td i.e-other-2 { background: var(--other-2) } td i.e-other-3 { background: var(--other-3) }
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, Context, Failure};

    fn record() -> Record {
        let mut record = Record::new("compare", Context::gather("cubic".into(), Vec::new()));
        record.scenarios.push(Note {
            name: "s".into(),
            title: "One & all".into(),
            analysis: "why".into(),
            metrics: ["ops_per_s", "p50_us", "p99_us", "max_us"]
                .map(Into::into)
                .to_vec(),
            placement: Vec::new(),
            definition: serde_json::Value::Null,
        });
        for round in 1..=5 {
            for (engine, factor) in [
                ("ringkeep", 2.0),
                ("kevy", 1.0),
                ("twin", 2.0 + round as f64 % 2.0 - 0.5),
            ] {
                for (cell, speed) in [("get/1", 1e5), ("get/16", 1e6)] {
                    let figures = [
                        ("ops_per_s", speed * factor),
                        ("p50_us", 10.0),
                        ("rate", 1.0),
                    ];
                    record
                        .rows
                        .push(record::row("s", cell, engine, round, 1, figures));
                }
            }
        }
        record.failures.push(Failure {
            scenario: "s".into(),
            cell: "get/64".into(),
            engine: "kevy".into(),
            round: 2,
            why: "ended by itself".into(),
            log: vec!["<last words>".into()],
        });
        record
    }

    #[test]
    fn a_page_holds_charts_numbers_failures_and_ties() {
        let (page, charts) = page(&[record()]);
        let names: Vec<&str> = charts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["compare-s-percentiles.svg", "compare-s-ops-per-s.svg"]
        );
        assert!(page.contains("One &amp; all") && page.contains("&lt;last words&gt;"));
        assert!(page.contains("<td>worse</td>") && page.contains("<td>tie</td>"));
        assert!(page.contains("ended by itself") && page.contains("Interrupted"));
        // One file: nothing is fetched from elsewhere.
        assert!(!page.contains("src=") && !page.contains("href="));
        assert!(charts[1].1.contains("pipeline"));
    }

    #[test]
    fn cells_that_differ_in_cores_become_one_panel_each() {
        let mut rows = Vec::new();
        for cores in [1, 2] {
            for cell in ["get", "mget"] {
                rows.push(record::row(
                    "s",
                    cell,
                    "kevy",
                    1,
                    cores,
                    [("ops_per_s", 1e5)],
                ));
            }
        }
        let cells = summary::cells(&rows, "s");
        let of = |cell| Series::of(summary::rows_of(&rows, "s", cell), "ops_per_s");
        let (across, panels) = depth_panels(&cells, of).expect("panels");
        let shown: Vec<(&str, &[String])> = panels
            .iter()
            .map(|panel| (panel.title.as_str(), &panel.marks[..]))
            .collect();
        let marks = ["1".to_owned(), "2".to_owned()];
        assert_eq!(
            (across, shown),
            ("cores", vec![("get", &marks[..]), ("mget", &marks[..])])
        );
        assert!(depth_panels(&cells[..2], of).is_none());
    }

    #[test]
    fn bars_mark_ties_with_the_best() {
        let record = record();
        let rows = || record.rows.iter().filter(|row| row.cell == "get/1");
        let metric = Metric::named("ops_per_s").expect("known");
        let group = group(("get/1", 1), metric, &Series::of(rows(), "ops_per_s"));
        let remarks: Vec<(&str, &str)> = group
            .bars
            .iter()
            .map(|b| (b.engine.as_str(), b.remark))
            .collect();
        assert_eq!(remarks, [("ringkeep", "tie"), ("kevy", ""), ("twin", "")]);
    }
}
