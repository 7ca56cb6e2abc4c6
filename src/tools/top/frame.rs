//! What is shown: lines of text that fit.

use std::{collections::BTreeMap, time::Instant};

/// Lines that a table has at least: its head, a row, and how many more there are.
const TABLE_MIN: usize = 3;

/// What a node told of itself.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    at: Instant,
    fields: BTreeMap<String, String>,
}

impl Sample {
    /// Reads the text of INFO.
    pub fn read(text: &str, at: Instant) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_string(), value.to_string()));
        Self {
            at,
            fields: fields.collect(),
        }
    }

    fn text(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// The parts of a field such as `core0:clients=1,turns=2`.
    fn parts(&self, name: &str) -> Option<BTreeMap<&str, &str>> {
        let text = self.fields.get(name)?;
        Some(
            text.split(',')
                .filter_map(|part| part.split_once('='))
                .collect(),
        )
    }

    /// The fields `name0`, `name1` and so on, as far as they go.
    fn rows<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Row<'a>> {
        let parts = (0..).map_while(move |at| self.parts(&format!("{name}{at}")));
        parts.map(|parts| Row { parts })
    }
}

/// One of many.
struct Row<'a> {
    parts: BTreeMap<&'a str, &'a str>,
}

impl Row<'_> {
    fn text(&self, name: &str) -> &str {
        self.parts.get(name).copied().unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }
}

/// How fast things grew between two samples.
struct Rates<'a> {
    now: &'a Sample,
    before: Option<&'a Sample>,
}

impl Rates<'_> {
    fn seconds(&self) -> f64 {
        let before = self.before.map_or(self.now.at, |before| before.at);
        self.now.at.saturating_duration_since(before).as_secs_f64()
    }

    /// By the second; zero as long as there is nothing to compare, or if the node was started anew.
    fn of(&self, count: impl Fn(&Sample) -> u64) -> f64 {
        let seconds = self.seconds();
        match self.before {
            Some(before) if seconds > 0.0 => {
                count(self.now).saturating_sub(count(before)) as f64 / seconds
            }
            _ => 0.0,
        }
    }

    fn field(&self, name: &str) -> f64 {
        self.of(|sample| sample.number(name))
    }

    fn part(&self, field: &str, part: &str) -> f64 {
        self.of(|sample| {
            let parts = sample.parts(field).unwrap_or_default();
            parts
                .get(part)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        })
    }
}

/// A number with a unit, in at most six characters.
fn short(number: f64, step: f64) -> String {
    let mut number = number;
    for unit in ["", "K", "M", "G", "T"] {
        if number < 999.5 || unit == "T" {
            return match unit {
                "" => format!("{number:.0}"),
                _ if number < 99.95 => format!("{number:.1}{unit}"),
                _ => format!("{number:.0}{unit}"),
            };
        }
        number /= step;
    }
    String::new()
}

fn count(number: f64) -> String {
    short(number, 1000.0)
}

fn bytes(number: u64) -> String {
    short(number as f64, 1024.0)
}

fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match days {
        0 => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days} d {hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// All lines, at most as many as there is room for.
pub(super) fn compose(
    now: &Sample,
    before: Option<&Sample>,
    place: &str,
    (columns, rows): (usize, usize),
) -> Vec<String> {
    let rates = Rates { now, before };
    let mut lines = head(now, &rates, place);
    let mut tables = vec![cores(now, &rates), shards(now, &rates), links(now)];
    tables.retain(|table| table.len() > 1);
    // A blank line before each, and the last line tells how to leave.
    let room = rows.saturating_sub(lines.len() + tables.len() + 1);
    fit(&mut tables, room);
    for table in tables {
        lines.push(String::new());
        lines.extend(table);
    }
    finish(lines, (columns, rows))
}

/// Tells why there is nothing to tell.
pub(super) fn compose_failure(why: &str, place: &str, size: (usize, usize)) -> Vec<String> {
    let lines = vec![format!("{place}: {why}"), "it is tried again".into()];
    finish(lines, size)
}

fn finish(mut lines: Vec<String>, (columns, rows): (usize, usize)) -> Vec<String> {
    lines.truncate(rows.saturating_sub(1));
    lines.push("q: leave".into());
    for line in &mut lines {
        // Names come from others.
        line.retain(|letter| !letter.is_control());
        *line = line.chars().take(columns).collect();
    }
    lines
}

/// Shortens the longest ones until all have room.
fn fit(tables: &mut [Vec<String>], room: usize) {
    let mut hidden = vec![0; tables.len()];
    while tables.iter().map(Vec::len).sum::<usize>() > room {
        let longest = (0..tables.len()).max_by_key(|at| tables[*at].len());
        let Some(at) = longest.filter(|at| tables[*at].len() > TABLE_MIN) else {
            break;
        };
        // The line that tells takes one, too.
        let cut = if hidden[at] == 0 { 2 } else { 1 };
        let left = tables[at].len() - usize::from(hidden[at] > 0) - cut;
        tables[at].truncate(left);
        hidden[at] += cut;
        tables[at].push(format!("       and {} more", hidden[at]));
    }
}

fn head(now: &Sample, rates: &Rates<'_>, place: &str) -> Vec<String> {
    let limit = |name: &str| match now.number(name) {
        0 => String::new(),
        limit => format!(" of {}", bytes(limit)),
    };
    let (mut keys, mut expiring) = (0, 0);
    for shard in now.rows("shard") {
        keys += shard.number("keys");
        expiring += shard.number("expires");
    }
    let mut lines = vec![
        format!(
            "ringkeep {} at {place}   up {}   {}{}",
            now.text("ringkeep_version"),
            span(now.number("uptime_in_seconds")),
            role(now),
            match now.number("loading") {
                0 => "",
                _ => "   LOADING",
            }
        ),
        format!(
            "requests {:>7}/s   in {:>6}/s   out {:>6}/s   errors {:>5}/s",
            count(rates.field("total_commands_processed")),
            bytes(rates.field("total_net_input_bytes") as u64),
            bytes(rates.field("total_net_output_bytes") as u64),
            count(rates.field("total_error_replies")),
        ),
        format!(
            "clients  {:>7} of {}   blocked {}   subscribed {}   new {}/s",
            now.number("connected_clients"),
            now.number("maxclients"),
            now.number("blocked_clients"),
            now.number("pubsub_clients"),
            count(rates.field("total_connections_received")),
        ),
        format!(
            "memory   {:>7}{}   peak {}   resident {}",
            bytes(now.number("used_memory")),
            limit("maxmemory"),
            bytes(now.number("used_memory_peak")),
            bytes(now.number("used_memory_rss")),
        ),
        format!(
            "keys     {:>7}   with a deadline {}   expired {}/s   evicted {}/s",
            count(keys as f64),
            count(expiring as f64),
            count(rates.field("expired_keys")),
            count(rates.field("evicted_keys")),
        ),
    ];
    let trouble = now.text("journal_trouble");
    if !trouble.is_empty() {
        lines.push(format!("JOURNAL  {trouble}"));
    }
    lines.extend(election(now));
    lines
}

fn role(now: &Sample) -> String {
    match now.text("role") {
        "slave" => format!(
            "replica of {}:{} ({})",
            now.text("master_host"),
            now.text("master_port"),
            now.text("master_link_status")
        ),
        "master" => "primary".into(),
        // Not a ringkeep, perhaps.
        other => other.into(),
    }
}

fn election(now: &Sample) -> Option<String> {
    let role = now.fields.get("node_role")?;
    let primary = match now.text("elect_primary") {
        "" => "none",
        primary => primary,
    };
    Some(format!(
        "election {role:>7}   epoch {}   primary {primary}   lease {:.1} s   heard {} of {} members",
        now.number("role_epoch"),
        now.number("elect_lease_ms") as f64 / 1e3,
        now.number("elect_members_heard"),
        now.number("elect_members"),
    ))
}

fn cores(now: &Sample, rates: &Rates<'_>) -> Vec<String> {
    let head = format!(
        "{:>5} {:>11} {:>9} {:>9} {:>6} {:>6} {:>8} {:>8} {:>8}",
        "core", "requests/s", "turns/s", "req/turn", "busy", "cpu", "clients", "blocked", "memory"
    );
    let rows = now.rows("core").enumerate().map(|(at, core)| {
        let rate = |part: &str| rates.part(&format!("core{at}"), part);
        let (requests, turns) = (rate("requests"), rate("worked"));
        let per_turn = if turns > 0.0 { requests / turns } else { 0.0 };
        let share = |part: &str| format!("{:.0}%", (rate(part) / 1e4).min(100.0));
        format!(
            "{at:>5} {:>11} {:>9} {per_turn:>9.1} {:>6} {:>6} {:>8} {:>8} {:>8}",
            count(requests),
            count(turns),
            share("busy_usec"),
            share("cpu_usec"),
            core.number("clients"),
            core.number("blocked"),
            bytes(core.number("memory")),
        )
    });
    std::iter::once(head).chain(rows).collect()
}

fn shards(now: &Sample, rates: &Rates<'_>) -> Vec<String> {
    let head = format!(
        "{:>5} {:>11} {:>9} {:>14} {:>12} {:>9} {:>12}",
        "shard", "keys", "expiring", "offset", "not durable", "syncs/s", "for replicas"
    );
    let rows = now.rows("shard").enumerate().map(|(at, shard)| {
        let (next, durable) = (shard.number("next"), shard.number("durable"));
        let is_kept = now.number("aof_enabled") == 1;
        let behind = match is_kept {
            true => count(next.saturating_sub(durable) as f64),
            false => "-".into(),
        };
        format!(
            "{at:>5} {:>11} {:>9} {next:>14} {behind:>12} {:>9} {:>12}",
            count(shard.number("keys") as f64),
            count(shard.number("expires") as f64),
            count(rates.part(&format!("shard{at}"), "syncs")),
            bytes(shard.number("backlog")),
        )
    });
    std::iter::once(head).chain(rows).collect()
}

/// Who follows, and whom the node follows.
fn links(now: &Sample) -> Vec<String> {
    let end = now.number("master_repl_offset");
    let replicas = now.rows("slave").map(|replica| {
        let behind = end.saturating_sub(replica.number("offset"));
        format!(
            "       replica {}:{}   {}   {behind} frames behind   heard {} s ago",
            replica.text("ip"),
            replica.text("port"),
            replica.text("state"),
            replica.text("lag"),
        )
    });
    let streams = now.rows("upstream").enumerate().map(|(at, stream)| {
        let next = stream.number("primary_next");
        let behind = next.saturating_sub(stream.number("applied"));
        format!(
            "       stream {at} of the primary   {}   {behind} frames behind   heard {} ms ago",
            stream.text("state"),
            stream.text("heard_ms_ago"),
        )
    });
    let rows: Vec<_> = replicas.chain(streams).collect();
    std::iter::once("links".to_string()).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(cores: usize, factor: u64) -> String {
        let mut text = String::from(
            "# Server\r\nringkeep_version:0.1.0\r\nuptime_in_seconds:93784\r\nconnected_clients:7\r\n\
             maxclients:10000\r\nused_memory:1288490189\r\nmaxmemory:4294967296\r\nrole:master\r\n\
             aof_enabled:1\r\nmaster_repl_offset:500\r\n\
             slave0:ip=10.0.0.1,port=6379,state=online,offset=488,lag=1\r\n",
        );
        text.push_str(&format!("total_commands_processed:{}\r\n", 1000 * factor));
        for core in 0..cores {
            let (requests, worked, busy) = (1500 * factor, 100 * factor, 250_000 * factor);
            text.push_str(&format!(
                "core{core}:requests={requests},worked={worked},busy_usec={busy},clients=3\r\n\
                 shard{core}:keys=12345,expires=5,next=100,durable=40,syncs=0,backlog=2048\r\n",
            ));
        }
        text
    }

    fn shown(cores: usize, size: (usize, usize)) -> Vec<String> {
        let at = Instant::now();
        let before = Sample::read(&told(cores, 1), at);
        let now = Sample::read(&told(cores, 3), at + Duration::from_secs(2));
        compose(&now, Some(&before), "h:1", size)
    }

    #[test]
    fn rates_are_by_the_second() {
        let lines = shown(1, (80, 24));
        assert_eq!(
            lines[0],
            "ringkeep 0.1.0 at h:1   up 1 d 02:03:04   primary"
        );
        assert!(lines[1].starts_with("requests    1.0K/s"), "{}", lines[1]);
        assert!(
            lines[3].starts_with("memory      1.2G of 4.0G"),
            "{}",
            lines[3]
        );
        let words: Vec<_> = lines[7].split_whitespace().collect();
        assert_eq!(words[..7], ["0", "1.5K", "100", "15.0", "25%", "0%", "3"]);
        let words: Vec<_> = lines[10].split_whitespace().collect();
        assert_eq!(words, ["0", "12.3K", "5", "100", "60", "0", "2.0K"]);
        assert_eq!(
            lines[13],
            "       replica 10.0.0.1:6379   online   12 frames behind   heard 1 s ago"
        );
    }

    #[test]
    fn many_cores_fit_where_there_is_little_room() {
        for cores in [1, 2, 5, 64] {
            for size in [(80, 24), (40, 16), (200, 60), (10, 3), (1, 1)] {
                let lines = shown(cores, size);
                assert!(lines.len() <= size.1.max(1), "{cores} {size:?}");
                assert!(lines.iter().all(|line| line.chars().count() <= size.0));
            }
        }
        let lines = shown(64, (80, 24));
        let told: Vec<_> = lines.iter().filter(|line| line.contains("more")).collect();
        assert_eq!(told.len(), 2, "{lines:#?}");
        let rows = |lines: &[String]| lines.iter().filter(|line| line.contains("1.5K")).count();
        let hidden = told[0].split_whitespace().nth(1).expect("a number");
        assert_eq!(hidden.parse::<usize>(), Ok(64 - rows(&lines)));
    }

    #[test]
    fn names_of_others_do_not_reach_the_terminal_as_they_are() {
        let lines = compose_failure("\u{1b}[2J", "h:1", (80, 24));
        assert_eq!(lines[0], "h:1: [2J");
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0.0, 999.0, 1000.0, 99_940.0, 999_400.0, 1e15]
            .map(count)
            .into();
        assert_eq!(shown, ["0", "999", "1.0K", "99.9K", "999K", "1000T"]);
    }
}
