//! LATENCY: the events that the latency monitor noted, and how long commands took.

use super::{
    census::{LatencyEvent, Totals},
    conn::Conn,
    shared::lock,
    state::State,
};
use crate::{
    base::Ms,
    cmd::{self, Spec},
    resp::{Args, Error},
};

/// Columns and rows of a graph.
const COLUMNS: usize = 80;
const ROWS: usize = 4;
/// What stands for the three heights within one row.
const HEIGHTS: &[u8] = b"_o#";

impl State {
    /// LATENCY.
    pub(super) fn latency(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>) {
        if let Err(error) = cmd::subcommand(spec, args) {
            return conn.out.error(&error);
        }
        let mut log = lock(&self.shared.latency);
        match &args.at(1).to_ascii_lowercase()[..] {
            b"latest" => {
                conn.out.array(log.0.len());
                for (name, event) in &log.0 {
                    let (at, millis) = event.samples.back().copied().unwrap_or_default();
                    conn.out.array(4);
                    conn.out.bulk_str(name);
                    conn.out.int(at as i64);
                    conn.out.int(millis as i64);
                    conn.out.int(event.worst as i64);
                }
            }
            b"history" => {
                let samples = find(&log.0, args.at(2)).map(|(_, event)| &event.samples);
                let samples = samples.into_iter().flatten();
                conn.out.array(samples.clone().count());
                for (at, millis) in samples {
                    conn.out.array(2);
                    conn.out.int(*at as i64);
                    conn.out.int(*millis as i64);
                }
            }
            b"reset" => {
                let before = log.0.len();
                let named = args.rest(2);
                let is_named = |name: &str| named.iter().any(|arg| arg == name.as_bytes());
                log.0.retain(|name, _| !named.is_empty() && !is_named(name));
                conn.out.len_int(before - log.0.len());
            }
            b"graph" => match find(&log.0, args.at(2)) {
                Some((name, event)) => {
                    conn.out.verbatim(&graph(name, event, self.now / 1000));
                }
                None => {
                    let name = String::from_utf8_lossy(args.at(2)).into_owned();
                    conn.out.error(&Error::text(format!(
                        "ERR No samples available for event '{name}'"
                    )));
                }
            },
            b"doctor" => {
                let threshold = self.tunables.latency_ms;
                conn.out.verbatim(&report(threshold, &log.0));
            }
            b"histogram" => {
                drop(log);
                self.histogram(conn, args.rest(2));
            }
            _ => cmd::help(&mut conn.out, spec),
        }
    }

    fn histogram(&self, conn: &mut Conn, named: Args<'_>) {
        let totals = Totals::since_reset(&self.shared);
        let shown: Vec<_> = totals
            .commands(&self.table)
            .filter(|(name, _)| {
                let mut names = named.iter();
                named.is_empty() || names.any(|arg| arg.eq_ignore_ascii_case(name.as_bytes()))
            })
            .map(|(name, sum)| (name, sum.calls, sum.curve()))
            .filter(|(_, _, curve)| !curve.is_empty())
            .collect();
        conn.out.map(shown.len());
        for (name, calls, curve) in shown {
            conn.out.bulk_str(&name);
            conn.out.map(2);
            conn.out.bulk_str("calls");
            conn.out.int(calls as i64);
            conn.out.bulk_str("histogram_usec");
            conn.out.map(curve.len());
            for (bound, count) in curve {
                conn.out.int(bound as i64);
                conn.out.int(count as i64);
            }
        }
    }
}

type Events = std::collections::BTreeMap<&'static str, LatencyEvent>;

fn find<'a>(events: &'a Events, name: &[u8]) -> Option<(&'static str, &'a LatencyEvent)> {
    let found = events.iter().find(|(event, _)| event.as_bytes() == name)?;
    Some((*found.0, found.1))
}

/// A bar per sample, with its age below.
fn graph(name: &str, event: &LatencyEvent, now_secs: u64) -> String {
    let millis = || event.samples.iter().map(|(_, millis)| *millis);
    let (low, high) = (millis().min().unwrap_or(0), millis().max().unwrap_or(0));
    let mut text = format!(
        "{name} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n",
        event.worst,
        "-".repeat(COLUMNS)
    );
    let samples: Vec<(String, u64)> = event
        .samples
        .iter()
        .map(|(at, millis)| (age(now_secs.saturating_sub(*at)), *millis))
        .collect();
    for (number, part) in samples.chunks(COLUMNS).enumerate() {
        if number > 0 {
            text.push('\n');
        }
        draw(part, low, high, &mut text);
    }
    text
}

/// Draws up to a line's width of bars.
fn draw(samples: &[(String, u64)], low: u64, high: u64, text: &mut String) {
    let steps = HEIGHTS.len() * ROWS;
    let range = (high - low).max(1) as usize;
    let heights: Vec<usize> = samples
        .iter()
        .map(|(_, millis)| ((millis - low) as usize * steps / range).min(steps - 1))
        .collect();
    for row in (0..ROWS).rev() {
        let floor = row * HEIGHTS.len();
        text.extend(
            heights
                .iter()
                .map(|height| match height.checked_sub(floor) {
                    None => ' ',
                    Some(above) => HEIGHTS.get(above).map_or('|', |mark| char::from(*mark)),
                }),
        );
        text.push('\n');
    }
    text.push_str(&" ".repeat(samples.len()));
    text.push('\n');
    let longest = samples.iter().map(|(label, _)| label.len()).max();
    for at in 0..longest.unwrap_or(0) {
        let letter = |label: &str| {
            label
                .as_bytes()
                .get(at)
                .map_or(' ', |byte| char::from(*byte))
        };
        text.extend(samples.iter().map(|(label, _)| letter(label)));
        text.push('\n');
    }
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What LATENCY DOCTOR says.
fn report(threshold: Ms, events: &Events) -> String {
    if threshold == 0 {
        return "The latency monitor is off. CONFIG SET latency-monitor-threshold <milliseconds> switches \
                it on; from then on commands are timed, and what takes that long is noted.\n"
            .into();
    }
    if events.is_empty() {
        return format!("Nothing has taken {threshold} ms or longer.\n");
    }
    let mut text = format!("These took {threshold} ms or longer:\n\n");
    for (name, event) in events {
        let count = event.samples.len().max(1) as u64;
        let millis = || event.samples.iter().map(|(_, millis)| *millis);
        let average = millis().sum::<u64>() / count;
        let deviation = millis().map(|one| one.abs_diff(average)).sum::<u64>() / count;
        let first = event.samples.front().map_or(0, |(at, _)| *at);
        let last = event.samples.back().map_or(0, |(at, _)| *at);
        let period = (last - first) as f64 / (count - 1).max(1) as f64;
        text.push_str(&format!(
            "{name}: {count} times (average {average} ms, mean deviation {deviation} ms, one each \
             {period:.2} s), {} ms at worst.\n",
            event.worst
        ));
    }
    if events.contains_key("command") || events.contains_key("fast-command") {
        text.push_str("\nSLOWLOG GET shows slow commands with their arguments.\n");
    }
    if events.contains_key("expire-cycle") {
        text.push_str("\nMany keys are due at the same times: spread their deadlines.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(samples: &[(u64, u64)]) -> LatencyEvent {
        LatencyEvent {
            samples: samples.iter().copied().collect(),
            worst: samples.iter().map(|(_, millis)| *millis).max().unwrap_or(0),
        }
    }

    /// As redis-server draws the same samples.
    #[test]
    fn bars_grow_with_the_time_taken() {
        let event = event(&[(10, 10), (11, 20), (12, 5), (13, 30)]);
        let text = graph("command", &event, 14);
        let drawn: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            drawn,
            ["   #", " o |", " | |", "#|_|", "    ", "4321", "ssss"]
        );
        assert!(text.starts_with("command - high 30 ms, low 5 ms (all time high 30 ms)\n-----"));
    }

    #[test]
    fn long_histories_are_drawn_in_several_lines() {
        let samples: Vec<(u64, u64)> = (0..100).map(|at| (at, 7)).collect();
        let text = graph("command", &event(&samples), 100);
        assert_eq!(text.lines().filter(|line| line.len() == COLUMNS).count(), 9);
        assert!(text.lines().any(|line| line.len() == 20));
    }

    #[test]
    fn ages_are_short() {
        assert_eq!([5, 60, 7300, 200_000].map(age), ["5s", "1m", "2h", "2d"]);
    }
}
