//! Charts as SVG text, readable on light and dark ground, alone or within a page. Engines keep their
//! colours over all charts.

use std::fmt::Write as _;

use crate::stats::Spread;
use crate::summary::{MICROSECONDS, Metric};

/// A bar with its range.
pub struct Bar {
    /// The engine.
    pub engine: String,
    /// Its value.
    pub spread: Spread,
    /// What stands behind the value.
    pub remark: &'static str,
}

/// Bars that belong together.
pub struct Group {
    /// What they are of.
    pub title: String,
    /// One per engine.
    pub bars: Vec<Bar>,
}

/// Lines over the same marks of the x axis.
pub struct Panel {
    /// What they are of.
    pub title: String,
    /// The marks.
    pub marks: Vec<String>,
    /// An engine and its values, one for each mark.
    pub lines: Vec<(String, Vec<Option<Spread>>)>,
}

/// Horizontal bars, group below group. The axis starts at 0, or is logarithmic where the values differ
/// too much for that.
pub fn bars(title: &str, metric: &Metric, groups: &[Group]) -> String {
    let spreads = || {
        groups
            .iter()
            .flat_map(|group| &group.bars)
            .map(|bar| bar.spread)
    };
    let axis = Axis::over(metric, BAR_RANGE, spreads());
    let (left, right, width) = (118.0, 128.0, WIDTH);
    let x = |value: f64| left + axis.share(value) * (width - left - right);
    let mut body = String::new();
    let top = 40.0;
    let mut y = top;
    for group in groups {
        let _ = write!(body, "{}", text(8.0, y + 13.0, "b", "start", &group.title));
        y += 20.0;
        for bar in &group.bars {
            let (class, spread) = (class_of(&bar.engine), bar.spread);
            let _ = write!(
                body,
                "{}",
                text(left - 8.0, y + 12.0, "", "end", &bar.engine)
            );
            let (end, middle) = (x(spread.median), y + 7.0);
            if axis.is_log {
                // The length of a bar would say nothing where there is no 0.
                line(&mut body, "g", (left, middle), (end, middle));
                let _ = writeln!(
                    body,
                    r#"<circle class="{class}" cx="{end:.1}" cy="{middle:.1}" r="5"/>"#
                );
            } else {
                let length = (end - left).max(1.0);
                let _ = writeln!(
                    body,
                    r#"<rect class="{class}" x="{left}" y="{y:.1}" width="{length:.1}" height="14" rx="2"/>"#
                );
            }
            whisker(
                &mut body,
                "w",
                (x(spread.low), y + 7.0),
                (x(spread.high), y + 7.0),
            );
            let label = format!("{} {}", metric.show(spread.median), bar.remark);
            let end = x(spread.high.max(spread.median)) + 8.0;
            let _ = write!(
                body,
                "{}",
                text(end, y + 12.0, "", "start", label.trim_end())
            );
            y += 18.0;
        }
        y += 8.0;
    }
    let mut grid = String::new();
    for tick in axis.ticks(5) {
        let at = x(tick);
        line(&mut grid, "g", (at, top), (at, y));
        let _ = write!(
            grid,
            "{}",
            text(at, y + 14.0, "s", "middle", &axis.label(tick))
        );
    }
    let under = y + 32.0;
    let middle = (left + width - right) / 2.0;
    let _ = write!(
        grid,
        "{}",
        text(middle, under, "s", "middle", &axis.caption(metric))
    );
    whole(title, under + 10.0, &(grid + &body))
}

/// Lines in panels, two beside each other.
pub fn lines(title: &str, metric: &Metric, across: &str, panels: &[Panel]) -> String {
    let engines: Vec<&str> =
        panels
            .iter()
            .flat_map(|panel| &panel.lines)
            .fold(Vec::new(), |mut known, (engine, _)| {
                if !known.contains(&engine.as_str()) {
                    known.push(engine);
                }
                known
            });
    let mut body = String::new();
    let mut at = 8.0;
    for engine in &engines {
        let class = class_of(engine);
        let _ = writeln!(
            body,
            r#"<rect class="{class}" x="{at}" y="38" width="12" height="12" rx="2"/>"#
        );
        let _ = write!(body, "{}", text(at + 17.0, 48.0, "", "start", engine));
        at += 40.0 + 7.2 * engine.chars().count() as f64;
    }
    let columns = panels.len().clamp(1, 2);
    let outer = WIDTH / columns as f64;
    let (top, height, step) = (62.0, 190.0, 270.0);
    let of = |panel: &Panel| {
        let points = panel.lines.iter().flat_map(|(_, points)| points);
        points.flatten().copied().collect::<Vec<Spread>>()
    };
    let all = Axis::over(metric, WIDE_RANGE, panels.iter().flat_map(of));
    // One axis for all panels lets them be compared, unless that flattens some of them.
    let own: Vec<Axis> = panels
        .iter()
        .map(|panel| Axis::over(metric, WIDE_RANGE, of(panel).into_iter()))
        .collect();
    let is_flat = own
        .iter()
        .any(|axis| !all.is_log && axis.high * 3.0 < all.high);
    for (number, panel) in panels.iter().enumerate() {
        let axis = if is_flat { &own[number] } else { &all };
        let left = (number % columns) as f64 * outer + 58.0;
        let right = (number % columns + 1) as f64 * outer - 16.0;
        let head = top + (number / columns) as f64 * step;
        let (high, low) = (head + 22.0, head + 22.0 + height);
        let y = |value: f64| low - axis.share(value) * height;
        let gap = (right - left) / panel.marks.len().max(1) as f64;
        let x = |mark: usize| left + (mark as f64 + 0.5) * gap;
        let _ = write!(
            body,
            "{}",
            text(left, head + 10.0, "b", "start", &panel.title)
        );
        for tick in axis.ticks(5) {
            line(&mut body, "g", (left, y(tick)), (right, y(tick)));
            let _ = write!(
                body,
                "{}",
                text(left - 6.0, y(tick) + 4.0, "s", "end", &axis.label(tick))
            );
        }
        for (mark, name) in panel.marks.iter().enumerate() {
            let _ = write!(body, "{}", text(x(mark), low + 15.0, "s", "middle", name));
        }
        let _ = write!(
            body,
            "{}",
            text((left + right) / 2.0, low + 31.0, "s", "middle", across)
        );
        line(&mut body, "a", (left, high - 4.0), (left, low));
        line(&mut body, "a", (left, low), (right, low));
        for (place, (engine, points)) in panel.lines.iter().enumerate() {
            // Ranges of several engines at one mark stand beside each other.
            let shift = (place as f64 - (panel.lines.len() as f64 - 1.0) / 2.0) * 5.0;
            let class = class_of(engine);
            let known = points
                .iter()
                .enumerate()
                .filter_map(|(mark, point)| Some((mark, (*point)?)));
            let known: Vec<(f64, Spread)> = known.map(|(mark, p)| (x(mark) + shift, p)).collect();
            let path: Vec<String> = known
                .iter()
                .map(|(x, p)| format!("{x:.1},{:.1}", y(p.median)))
                .collect();
            let path = path.join(" ");
            let _ = writeln!(body, r#"<polyline class="l {class}" points="{path}"/>"#);
            for (x, point) in known {
                whisker(
                    &mut body,
                    &format!("v {class}"),
                    (x, y(point.low)),
                    (x, y(point.high)),
                );
                let middle = y(point.median);
                let _ = writeln!(
                    body,
                    r#"<circle class="{class}" cx="{x:.1}" cy="{middle:.1}" r="3.5"/>"#
                );
            }
        }
    }
    let rows = panels.len().div_ceil(columns) as f64;
    let title = format!("{title}, {}", all.caption(metric));
    whole(&title, top + rows * step, &body)
}

/// The ground of a page that holds charts.
pub fn page_colours() -> String {
    colours(":root")
}

struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    unit: &'static str,
}

impl Axis {
    fn over(metric: &Metric, range: f64, spreads: impl Iterator<Item = Spread>) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for spread in spreads {
            low = low.min(spread.low);
            high = high.max(spread.high);
        }
        let range = if metric.is_log { WIDE_RANGE } else { range };
        let is_log = low > 0.0 && high / low > range;
        let low = if is_log { decade(low) } else { 0.0 };
        let high = if high > low { high } else { low + 1.0 };
        Axis {
            low,
            high,
            is_log,
            unit: metric.unit,
        }
    }

    /// Where a value lies between the ends, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self, about: usize) -> Vec<f64> {
        let mut ticks = Vec::new();
        if self.is_log {
            let mut tick = self.low;
            while tick <= self.high * 1.001 {
                ticks.push(tick);
                if self.high / self.low < 100.0 {
                    ticks.extend(
                        [2.0, 5.0]
                            .map(|n| tick * n)
                            .into_iter()
                            .filter(|t| *t <= self.high),
                    );
                }
                tick *= 10.0;
            }
            return ticks;
        }
        let rough = self.high / about as f64;
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * decade(rough));
        let step = step
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let mut number = 0.0;
        while number * step <= self.high {
            ticks.push(number * step);
            number += 1.0;
        }
        ticks
    }

    fn label(&self, value: f64) -> String {
        let short = |value: f64| {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let scales: &[(f64, &str)] = if self.unit == MICROSECONDS {
            &[(1e6, " s"), (1e3, " ms"), (0.0, " µs")]
        } else {
            &[(1e9, " G"), (1e6, " M"), (1e3, " k"), (0.0, "")]
        };
        if value == 0.0 {
            return "0".into();
        }
        let scale = scales.iter().find(|(from, _)| value >= *from * 0.9999);
        let (from, suffix) = *scale.unwrap_or(&(0.0, ""));
        short(value / if from > 0.0 { from } else { 1.0 }) + suffix
    }

    fn caption(&self, metric: &Metric) -> String {
        let unit = if self.unit == MICROSECONDS {
            "time"
        } else {
            self.unit
        };
        let scale = if self.is_log { ", logarithmic" } else { "" };
        let better = if metric.more_is_better {
            "more is better"
        } else {
            "less is better"
        };
        format!("{unit}{scale} ({better})")
    }
}

fn decade(value: f64) -> f64 {
    10f64.powf(value.log10().floor())
}

fn whisker(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    if (from.0 - to.0).abs() > 0.5 || (from.1 - to.1).abs() > 0.5 {
        line(out, class, from, to);
    }
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        out,
        r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
    );
}

fn text(x: f64, y: f64, class: &str, anchor: &str, content: &str) -> String {
    let class = if class.is_empty() {
        String::new()
    } else {
        format!(r#" class="{class}""#)
    };
    let content = escape(content);
    format!("<text{class} x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>\n")
}

fn whole(title: &str, height: f64, body: &str) -> String {
    let (title, name) = (escape(title), text(8.0, 20.0, "h", "start", title));
    let colours = colours("svg");
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}"
  role="img" aria-label="{title}">
<style>{colours}
svg text {{ font: 12px system-ui, sans-serif; fill: var(--ink) }}
svg .h {{ font-size: 14px; font-weight: 600 }} svg .b {{ font-weight: 600 }} svg .s {{ fill: var(--soft) }}
svg .g {{ stroke: var(--grid) }} svg .a {{ stroke: var(--soft) }}
svg .w {{ stroke: var(--ink); stroke-width: 1.5 }}
svg .v {{ stroke-width: 1.5 }} svg .l {{ fill: none; stroke-width: 2 }}
</style>
<rect x="0" y="0" width="{WIDTH}" height="{height:.0}" style="fill: var(--ground)"/>
{name}{body}</svg>
"#
    )
}

/// Ground, ink and the colours of the engines, light and dark.
fn colours(scope: &str) -> String {
    let list = |dark: bool| {
        let mut text = String::new();
        let grounds = [
            ("ground", "#ffffff", "#16191d"),
            ("ink", "#1d2126", "#e4e7eb"),
            ("soft", "#5b6570", "#9aa5b1"),
            ("grid", "#e2e6ea", "#2d333a"),
        ];
        let engines = ENGINES.iter().copied().chain(OTHERS);
        for (name, light, night) in grounds.into_iter().chain(engines) {
            let _ = write!(text, "--{name}: {}; ", if dark { night } else { light });
        }
        text
    };
    let mut text = format!("{scope} {{ {}}}\n", list(false));
    let _ = writeln!(
        text,
        "@media (prefers-color-scheme: dark) {{ {scope} {{ {}}} }}",
        list(true)
    );
    for (name, _, _) in ENGINES.iter().copied().chain(OTHERS) {
        let _ = writeln!(
            text,
            ".e-{name} {{ fill: var(--{name}); stroke: var(--{name}) }}"
        );
    }
    text
}

/// The class that gives an engine its colour; engines without one of their own share a few by name.
pub fn class_of(engine: &str) -> String {
    let own = ENGINES.iter().find(|(name, _, _)| *name == engine);
    let sum = engine
        .bytes()
        .fold(0usize, |sum, byte| sum * 31 % 1009 + usize::from(byte));
    let (name, _, _) = own.copied().unwrap_or(OTHERS[sum % OTHERS.len()]);
    format!("e-{name}")
}

/// Makes text fit for XML and HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const WIDTH: f64 = 720.0;
/// From how many times the lowest value on an axis is logarithmic: bars should have their 0.
const BAR_RANGE: f64 = 40.0;
const WIDE_RANGE: f64 = 8.0;
/// Name, colour on light ground, colour on dark ground.
const ENGINES: [(&str, &str, &str); 5] = [
    ("limit", "#7d8790", "#8a949e"),
    ("ringkeep", "#1f6fd6", "#5aa2ff"),
    ("kevy", "#d97706", "#f5a524"),
    ("redis-server", "#c2303c", "#f0626c"),
    ("valkey-server", "#7c3aed", "#a78bfa"),
];
const OTHERS: [(&str, &str, &str); 3] = [
    ("other-1", "#0f8a6d", "#34c79c"),
    ("other-2", "#b0368f", "#ea7ccf"),
    ("other-3", "#6b7a12", "#b5c63c"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64) -> Spread {
        Spread {
            median,
            low: median * 0.9,
            high: median * 1.1,
        }
    }

    fn metric(name: &str) -> &'static Metric {
        Metric::named(name).expect("known")
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = Axis::over(
            metric("ops_per_s"),
            BAR_RANGE,
            [spread(1_000_000.0)].into_iter(),
        );
        let labels: Vec<String> = axis.ticks(5).into_iter().map(|t| axis.label(t)).collect();
        assert_eq!(labels, ["0", "500 k", "1 M"]);
        let axis = Axis::over(
            metric("max_us"),
            BAR_RANGE,
            [spread(50.0), spread(40_000.0)].into_iter(),
        );
        let labels: Vec<String> = axis.ticks(5).into_iter().map(|t| axis.label(t)).collect();
        assert_eq!(labels, ["10 µs", "100 µs", "1 ms", "10 ms"]);
        assert!(axis.share(44_000.0) == 1.0 && axis.share(5.0) == 0.0);
        let none = Axis::over(metric("max_us"), BAR_RANGE, std::iter::empty());
        assert!(none.ticks(5).iter().all(|tick| tick.is_finite()));
    }

    #[test]
    fn an_engine_keeps_its_colour_and_strangers_get_one() {
        assert_eq!(class_of("kevy"), "e-kevy");
        assert!(class_of("newcomer").starts_with("e-other-"));
        assert_eq!(class_of("newcomer"), class_of("newcomer"));
    }

    #[test]
    fn charts_hold_every_engine_and_no_raw_markup() {
        let bar = |engine: &str| Bar {
            engine: engine.into(),
            spread: spread(5.0),
            remark: "tie",
        };
        let group = Group {
            title: "a<b".into(),
            bars: vec![bar("kevy"), bar("x & y")],
        };
        let drawn = bars("t", metric("bytes_per_key"), &[group]);
        assert!(
            drawn.contains("a&lt;b") && drawn.contains("x &amp; y") && drawn.contains("5.00 tie")
        );
        let panel = Panel {
            title: "get".into(),
            marks: vec!["1".into(), "16".into()],
            lines: vec![("kevy".into(), vec![Some(spread(1.0)), None])],
        };
        let drawn = lines("t", metric("ops_per_s"), "pipeline", &[panel]);
        assert_eq!(drawn.matches("<circle").count(), 1);
        assert!(drawn.contains("pipeline") && drawn.contains("requests/s"));
    }
}
