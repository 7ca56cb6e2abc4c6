//! What the node says about itself: INFO, CONFIG.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::shared::{CoreStats, FollowView, Shared, lock};
use crate::{
    base::{Ms, parse_i64, parse_u64},
    cmd::events,
    resp::{Args, Error},
    store::Policy,
};

/// The Redis version whose behaviour clients may expect.
pub(super) const REDIS_VERSION: &str = "7.2.5";

/// A link that was heard within this time is up.
const HEARD_MS: Ms = 3000;

/// The state of the links as ROLE names it.
pub(super) fn link_state(view: &FollowView, _now: Ms) -> &'static str {
    match () {
        _ if view.links.is_empty() => "connect",
        _ if view.links.iter().any(|link| link.syncing) => "sync",
        _ if view.links.iter().all(|link| link.up) => "connected",
        _ => "connect",
    }
}

/// The text of INFO: the wanted sections, or all.
pub(super) fn text(shared: &Shared, now: Ms, args: Args<'_>) -> String {
    let wanted = |name: &str| {
        args.len() == 1
            || args.rest(1).iter().any(|arg| {
                let arg = arg.to_ascii_lowercase();
                arg == name.as_bytes() || matches!(&arg[..], b"all" | b"default" | b"everything")
            })
    };
    let mut text = String::new();
    type Section = (&'static str, fn(&Shared, Ms, &mut Lines<'_>));
    let sections: [Section; 8] = [
        ("server", server),
        ("clients", clients),
        ("memory", memory),
        ("persistence", persistence),
        ("stats", stats),
        ("replication", replication),
        ("cpu", cpu),
        ("keyspace", keyspace),
    ];
    for (name, write) in sections {
        if wanted(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let mut title = name.to_string();
            title[..1].make_ascii_uppercase();
            if name == "cpu" {
                title.make_ascii_uppercase();
            }
            text.push_str(&format!("# {title}\r\n"));
            write(shared, now, &mut Lines(&mut text));
        }
    }
    text
}

pub(super) struct Lines<'a>(&'a mut String);

impl Lines<'_> {
    pub(super) fn put(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!("{name}:{value}\r\n"));
    }
}

fn server(shared: &Shared, now: Ms, lines: &mut Lines<'_>) {
    lines.put("redis_version", REDIS_VERSION);
    lines.put("ringkeep_version", env!("CARGO_PKG_VERSION"));
    lines.put("redis_mode", "standalone");
    lines.put("os", "Linux");
    lines.put("arch_bits", 64);
    lines.put("multiplexing_api", "io_uring");
    lines.put("process_id", std::process::id());
    lines.put("run_id", &shared.run_id);
    lines.put("tcp_port", shared.settings.port);
    lines.put("server_time_usec", now * 1000);
    lines.put(
        "uptime_in_seconds",
        now.saturating_sub(shared.started) / 1000,
    );
    lines.put(
        "uptime_in_days",
        now.saturating_sub(shared.started) / 86_400_000,
    );
    lines.put("cores", shared.settings.cores);
    lines.put("shards", shared.settings.shards);
    lines.put("ring", lock(&shared.ring).as_str());
}

fn clients(shared: &Shared, _now: Ms, lines: &mut Lines<'_>) {
    lines.put("connected_clients", shared.clients());
    lines.put(
        "maxclients",
        shared
            .tunables
            .read()
            .map_or(0, |tunables| tunables.conns_max),
    );
    lines.put(
        "blocked_clients",
        shared
            .stats
            .iter()
            .map(|stats| stats.blocked.load(Relaxed))
            .sum::<usize>(),
    );
    lines.put(
        "tracking_clients",
        shared.sum(|stats| stats.trackers.load(Relaxed) as u64),
    );
    lines.put(
        "pubsub_clients",
        shared
            .stats
            .iter()
            .map(|stats| stats.subscribed.load(Relaxed))
            .sum::<usize>(),
    );
}

fn memory(shared: &Shared, _now: Ms, lines: &mut Lines<'_>) {
    super::memory::info(shared, lines);
}

fn persistence(shared: &Shared, _now: Ms, lines: &mut Lines<'_>) {
    lines.put("loading", u8::from(shared.loading.load(Relaxed)));
    lines.put("rdb_bgsave_in_progress", 0);
    lines.put("rdb_last_save_time", shared.started / 1000);
    lines.put("aof_enabled", 0);
    lines.put("aof_rewrite_in_progress", 0);
}

fn stats(shared: &Shared, now: Ms, lines: &mut Lines<'_>) {
    let commands = shared.sum(|stats| stats.commands.load(Relaxed));
    lines.put(
        "total_connections_received",
        shared.sum(|stats| stats.accepted.load(Relaxed)),
    );
    lines.put("total_commands_processed", commands);
    lines.put(
        "average_ops_per_sec",
        commands * 1000 / now.saturating_sub(shared.started).max(1),
    );
    lines.put(
        "total_net_input_bytes",
        shared.sum(|stats| stats.bytes_in.load(Relaxed)),
    );
    lines.put(
        "total_net_output_bytes",
        shared.sum(|stats| stats.bytes_out.load(Relaxed)),
    );
    lines.put(
        "rejected_connections",
        shared.sum(|stats| stats.refused.load(Relaxed)),
    );
    lines.put(
        "expired_keys",
        shared.sum(|stats| stats.expired.load(Relaxed)),
    );
    let sum =
        |size: fn(&CoreStats) -> &AtomicUsize| shared.sum(|stats| size(stats).load(Relaxed) as u64);
    lines.put("tracking_total_keys", sum(|stats| &stats.tracked_keys));
    lines.put("tracking_total_items", sum(|stats| &stats.tracked_items));
    // Every core knows all prefixes.
    lines.put(
        "tracking_total_prefixes",
        shared.stats[0].tracked_prefixes.load(Relaxed),
    );
    lines.put(
        "evicted_keys",
        shared.sum(|stats| stats.evicted.load(Relaxed)),
    );
    lines.put("evicted_clients", 0);
    lines.put(
        "protocol_errors",
        shared.sum(|stats| stats.protocol_errors.load(Relaxed)),
    );
    lines.put("ring_turns", shared.sum(|stats| stats.turns.load(Relaxed)));
}

fn replication(shared: &Shared, now: Ms, lines: &mut Lines<'_>) {
    match &*lock(&shared.follow) {
        None => {
            lines.put("role", "master");
            lines.put("connected_slaves", 0);
            lines.put("master_replid", "0".repeat(40));
            lines.put("master_repl_offset", 0);
        }
        Some(view) => {
            lines.put("role", "slave");
            lines.put("master_host", &view.host);
            lines.put("master_port", view.port);
            let up = !view.links.is_empty() && view.links.iter().all(|link| link.up);
            lines.put("master_link_status", if up { "up" } else { "down" });
            let heard = view.links.iter().map(|link| link.heard).min().unwrap_or(0);
            let age = if heard == 0 {
                -1
            } else {
                (now.saturating_sub(heard) / 1000) as i64
            };
            lines.put("master_last_io_seconds_ago", age);
            let syncing = view.links.is_empty() || view.links.iter().any(|link| link.syncing);
            lines.put("master_sync_in_progress", u8::from(syncing));
            lines.put("slave_read_only", 1);
            lines.put(
                "slave_repl_offset",
                view.links.iter().map(|link| link.applied).sum::<u64>(),
            );
            let lag = view
                .links
                .iter()
                .map(|link| link.primary_next.saturating_sub(link.applied))
                .sum::<u64>();
            lines.put("slave_lag_frames", lag);
            for (stream, link) in view.links.iter().enumerate() {
                let state = if link.up {
                    "up"
                } else if link.syncing {
                    "sync"
                } else {
                    "down"
                };
                let age = now.saturating_sub(link.heard);
                lines.put(
                    &format!("upstream{stream}"),
                    format!(
                        "state={state},generation={},applied={},primary_next={},heard_ms_ago={}",
                        link.generation,
                        link.applied,
                        link.primary_next,
                        if age > HEARD_MS && link.heard == 0 {
                            -1
                        } else {
                            age as i64
                        }
                    ),
                );
            }
            lines.put("connected_slaves", 0);
        }
    }
}

fn cpu(_shared: &Shared, _now: Ms, lines: &mut Lines<'_>) {
    let nanos = uring::sys::process_cpu_ns();
    lines.put("used_cpu_total", format!("{:.6}", nanos as f64 / 1e9));
}

fn keyspace(shared: &Shared, _now: Ms, lines: &mut Lines<'_>) {
    for db in 0..shared.settings.databases {
        let (mut keys, mut expiring) = (0, 0);
        for sizes in &shared.sizes {
            if let Some(size) = lock(sizes).get(db) {
                keys += size.keys;
                expiring += size.expiring;
            }
        }
        if keys > 0 {
            lines.put(
                &format!("db{db}"),
                format!("keys={keys},expires={expiring},avg_ttl=0"),
            );
        }
    }
}

/// All parameters with their values, as CONFIG GET shows them.
pub(super) fn parameters(shared: &Shared) -> Vec<(String, String)> {
    let settings = &shared.settings;
    let tunables = shared
        .tunables
        .read()
        .map(|tunables| tunables.clone())
        .unwrap_or_default();
    let mut all: Vec<(String, String)> = [
        ("port", settings.port.to_string()),
        ("bind", settings.bind.clone()),
        ("unixsocket", settings.unix.clone().unwrap_or_default()),
        ("databases", settings.databases.to_string()),
        ("dir", settings.dir.clone()),
        // A kevy tool reads the number of shards from here.
        ("io-threads", settings.shards.to_string()),
        ("appendonly", "no".into()),
        ("save", String::new()),
        ("maxmemory", tunables.memory_max.to_string()),
        ("maxmemory-policy", tunables.policy.name().into()),
        ("maxmemory-samples", tunables.memory_samples.to_string()),
        ("replica-ignore-maxmemory", "yes".into()),
        ("lfu-log-factor", tunables.lfu_log_factor.to_string()),
        ("lfu-decay-time", tunables.lfu_decay_minutes.to_string()),
        ("maxclients", tunables.conns_max.to_string()),
        ("timeout", tunables.timeout_secs.to_string()),
        ("proto-max-bulk-len", tunables.bulk_len_max.to_string()),
        ("slowlog-log-slower-than", tunables.slow_us.to_string()),
        ("slowlog-max-len", tunables.slow_len.to_string()),
        (
            "client-query-buffer-limit",
            tunables.queue_bytes_max.to_string(),
        ),
        (
            "notify-keyspace-events",
            events::show_classes(tunables.events),
        ),
        (
            "tracking-table-max-keys",
            tunables.tracking_keys_max.to_string(),
        ),
        (
            "busy-reply-threshold",
            shared.scripts.running().busy_ms().to_string(),
        ),
        (
            "lua-time-limit",
            shared.scripts.running().busy_ms().to_string(),
        ),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_string(), value))
    .collect();
    all.sort();
    all
}

/// CONFIG SET: all pairs or none.
///
/// # Errors
/// The text of Redis for an unknown or immutable parameter, or a value that does not fit.
pub(super) fn set_parameters(shared: &Shared, pairs: Args<'_>) -> Result<(), Error> {
    let mut changed = shared
        .tunables
        .read()
        .map(|tunables| tunables.clone())
        .unwrap_or_default();
    let mut busy_ms = None;
    let known = parameters(shared);
    for at in (0..pairs.len()).step_by(2) {
        let name = String::from_utf8_lossy(pairs.at(at)).to_lowercase();
        let value = pairs.at(at + 1);
        let failed = |why: &str| {
            Error::text(format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"
            ))
        };
        let number = || {
            parse_u64(value).ok_or_else(|| failed("argument couldn't be parsed into an integer"))
        };
        let between = |least: u32| {
            let number = parse_i64(value)
                .ok_or_else(|| failed("argument couldn't be parsed into an integer"))?;
            match u32::try_from(number) {
                Ok(number) if number >= least && number <= i32::MAX as u32 => Ok(number),
                _ => Err(failed(&format!(
                    "argument must be between {least} and 2147483647 inclusive"
                ))),
            }
        };
        match name.as_str() {
            "maxclients" => changed.conns_max = number()?.max(1) as usize,
            "maxmemory" => {
                changed.memory_max =
                    memory_value(value).ok_or_else(|| failed("argument must be a memory value"))?;
            }
            "maxmemory-policy" => {
                changed.policy = Policy::named(value).ok_or_else(|| {
                    let names: Vec<&str> = Policy::ALL.iter().map(|(name, _)| *name).collect();
                    let names = names.join(", ");
                    failed(&format!(
                        "argument(s) must be one of the following: {names}"
                    ))
                })?;
            }
            "maxmemory-samples" => changed.memory_samples = between(1)? as usize,
            "lfu-log-factor" => changed.lfu_log_factor = between(0)?,
            "lfu-decay-time" => changed.lfu_decay_minutes = between(0)?,
            "timeout" => changed.timeout_secs = number()?,
            "proto-max-bulk-len" => {
                let len = number()?;
                if !(1 << 20..=u64::from(u32::MAX / 2)).contains(&len) {
                    return Err(failed(
                        "argument must be between 1048576 and 2147483647 inclusive",
                    ));
                }
                changed.bulk_len_max = len as usize;
            }
            "slowlog-log-slower-than" => {
                changed.slow_us = parse_i64(value)
                    .ok_or_else(|| failed("argument couldn't be parsed into an integer"))?;
            }
            "busy-reply-threshold" | "lua-time-limit" => busy_ms = Some(number()?),
            "slowlog-max-len" => changed.slow_len = number()?.min(100_000) as usize,
            "client-query-buffer-limit" => {
                let len =
                    memory_value(value).ok_or_else(|| failed("argument must be a memory value"))?;
                if len < 1 << 20 {
                    return Err(failed(
                        "argument must be between 1048576 and 9223372036854775807 inclusive",
                    ));
                }
                changed.queue_bytes_max = len;
            }
            "notify-keyspace-events" => {
                let text = "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.";
                changed.events = events::parse_classes(value).ok_or_else(|| failed(text))?;
            }
            "tracking-table-max-keys" => changed.tracking_keys_max = number()? as usize,
            // Clients and test suites switch persistence off, which it is.
            "save" if value.is_empty() => {}
            "appendonly" if value.eq_ignore_ascii_case(b"no") => {}
            _ if known.iter().any(|(known, _)| *known == name) => {
                return Err(failed("can't set immutable config"));
            }
            _ => {
                return Err(Error::text(format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
                )));
            }
        }
    }
    if let Some(busy_ms) = busy_ms {
        shared.scripts.running().set_busy_ms(busy_ms);
    }
    if let Ok(mut tunables) = shared.tunables.write() {
        *tunables = changed;
    }
    shared.tunables_version.fetch_add(1, Relaxed);
    Ok(())
}

/// Reads `100mb` and the like.
fn memory_value(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = usize::try_from(parse_u64(&text[..digits])?).ok()?;
    let unit = match &text[digits..].to_ascii_lowercase()[..] {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}
