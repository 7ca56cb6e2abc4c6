//! What the node says about itself: INFO, CONFIG.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{
    census::Totals,
    certificates::{AuthClients, Certificates},
    durable::{Fsync, Marks, SavePoints},
    fleet::Fleet,
    limits::ClientsMemory,
    log,
    shared::{
        CoreStats, FollowView, MemberView, RedisView, ReplicaView, Replicas, Shared, Tunables, lock,
    },
    tls::NodeCertificates,
};
use crate::{
    base::{Ms, parse_i64, parse_u64},
    cmd::{Table, events},
    elect::role::Signal,
    resp::{Args, Error, OwnedArgs},
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
        _ if view.redis.is_some() => view.redis.as_ref().map_or("", |redis| redis.state),
        _ if view.links.iter().any(|link| link.syncing) => "sync",
        _ if view.links.iter().all(|link| link.up) => "connected",
        _ => "connect",
    }
}

/// What the sections draw from.
pub(super) struct Facts<'a> {
    pub shared: &'a Shared,
    pub table: &'a Table,
    pub now: Ms,
    /// Counts since the last CONFIG RESETSTAT.
    pub totals: Totals,
}

type Section = (&'static str, fn(&Facts<'_>, &mut Lines<'_>));

/// Shown where another process can take over.
const HANDOFF: &str = "Handoff";

const SECTIONS: [Section; 16] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    (HANDOFF, handoff),
    ("CPU", cpu),
    ("Modules", |_, _| ()),
    ("Commandstats", command_stats),
    ("Errorstats", error_stats),
    ("Latencystats", latency_stats),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
    ("Cores", cores),
    ("Shards", shards),
];

/// The text of INFO: the wanted sections. Without a word those of `default`.
pub(super) fn text(facts: &Facts<'_>, args: Args<'_>) -> String {
    let is_long = |name: &str| matches!(name, "Commandstats" | "Latencystats" | "Cores" | "Shards");
    let wanted = |name: &str| {
        (args.len() == 1 && !is_long(name))
            || args
                .rest(1)
                .iter()
                .any(|arg| match &arg.to_ascii_lowercase()[..] {
                    b"all" | b"everything" => true,
                    b"default" => !is_long(name),
                    arg => arg == name.to_lowercase().as_bytes(),
                })
    };
    let mut text = String::new();
    let has_handoff = facts.shared.handover.owner.load(Relaxed) > 0;
    for (name, write) in SECTIONS {
        if wanted(name) && (name != HANDOFF || has_handoff) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            text.push_str(&format!("# {name}\r\n"));
            write(facts, &mut Lines(&mut text));
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

fn server(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let (shared, now) = (facts.shared, facts.now);
    lines.put("redis_version", REDIS_VERSION);
    lines.put("ringkeep_version", env!("CARGO_PKG_VERSION"));
    lines.put(
        "redis_mode",
        match shared.is_cluster() {
            true => "cluster",
            false => "standalone",
        },
    );
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let os = format!("Linux {} {}", release.trim(), std::env::consts::ARCH);
    lines.put("os", os);
    lines.put("arch_bits", usize::BITS);
    lines.put("monotonic_clock", "POSIX clock_gettime");
    lines.put("multiplexing_api", "io_uring");
    lines.put("process_id", std::process::id());
    lines.put("process_supervised", "no");
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
    lines.put("hz", 10);
    lines.put("configured_hz", 10);
    lines.put("lru_clock", (now / 1000) & 0xff_ffff);
    let program = std::env::current_exe().unwrap_or_default();
    lines.put("executable", program.display());
    lines.put("config_file", "");
    lines.put("io_threads_active", 0);
    lines.put("cores", shared.settings.cores);
    lines.put("shards", shared.settings.shards);
    lines.put("ring", lock(&shared.ring).as_str());
}

fn handoff(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let handover = &facts.shared.handover;
    lines.put("handoff_generation", handover.owner.load(Relaxed));
    lines.put("handoff_handoffs_total", handover.begun.load(Relaxed));
    lines.put("handoff_rolled_back_total", handover.resumed.load(Relaxed));
    let last = lock(&handover.last).map_or_else(String::new, |reason| reason.to_string());
    lines.put("handoff_last_reason", last);
    lines.put(
        "handoff_clients_taken",
        handover.passage.taken.load(Relaxed),
    );
    for (name, count) in [
        ("handoff_preloaded_shards", &handover.preloaded_shards),
        ("handoff_preloaded_bytes", &handover.preloaded_bytes),
        ("handoff_tail_bytes", &handover.tail_bytes),
        ("handoff_tail_frames", &handover.tail_frames),
    ] {
        lines.put(name, count.load(Relaxed));
    }
}

fn clients(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let shared = facts.shared;
    lines.put("connected_clients", shared.clients());
    lines.put(
        "maxclients",
        shared
            .tunables
            .read()
            .map_or(0, |tunables| tunables.conns_max)
            .min(shared.settings.clients_max),
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

fn memory(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    super::memory::info(facts.shared, lines);
}

fn persistence(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let shared = facts.shared;
    lines.put("loading", u8::from(shared.loading.load(Relaxed)));
    lines.put("async_loading", 0);
    let durable = &shared.durable;
    let loading = &durable.loading;
    if shared.loading.load(Relaxed) && loading.bytes.load(Relaxed) > 0 {
        let (all, done) = (loading.bytes.load(Relaxed), loading.done.load(Relaxed));
        let began = loading.began.load(Relaxed);
        let took = facts.now.saturating_sub(began) / 1000;
        lines.put("loading_start_time", began / 1000);
        lines.put("loading_total_bytes", all);
        lines.put("loading_loaded_bytes", done);
        lines.put(
            "loading_loaded_perc",
            format!("{:.2}", done as f64 * 100.0 / all as f64),
        );
        lines.put(
            "loading_eta_seconds",
            took * (all - done.min(all)) / done.max(1),
        );
    }
    let saves = durable.saves.view();
    let sum = |count: fn(&Marks) -> &AtomicU64| -> u64 {
        durable
            .shards
            .iter()
            .map(|marks| count(marks).load(Relaxed))
            .sum()
    };
    let good = if saves.last.2 { "err" } else { "ok" };
    let written = if durable.broken.load(Relaxed) {
        "err"
    } else {
        "ok"
    };
    lines.put("rdb_changes_since_last_save", shared.unsaved_changes());
    lines.put("rdb_bgsave_in_progress", u8::from(saves.open > 0));
    lines.put(
        "rdb_last_save_time",
        durable.saves.good_ms.load(Relaxed).max(shared.started) / 1000,
    );
    lines.put("rdb_last_bgsave_status", good);
    let took = match saves.open {
        0 => -1,
        _ => (facts.now.saturating_sub(saves.began) / 1000) as i64,
    };
    lines.put("rdb_current_bgsave_time_sec", took);
    lines.put("aof_enabled", u8::from(shared.settings.journals));
    lines.put("aof_rewrite_in_progress", 0);
    lines.put("aof_rewrite_scheduled", 0);
    lines.put("aof_last_bgrewrite_status", good);
    lines.put("aof_last_write_status", written);
    if let Some(why) = durable.trouble() {
        lines.put("journal_trouble", why);
    }
    if shared.settings.journals {
        lines.put("aof_current_size", sum(|marks| &marks.size));
        lines.put("aof_base_size", sum(|marks| &marks.snapshot));
        lines.put("journal_bytes_written", sum(|marks| &marks.bytes));
        lines.put("journal_writes", sum(|marks| &marks.writes));
        lines.put("journal_syncs", sum(|marks| &marks.syncs));
        for (shard, marks) in durable.shards.iter().enumerate() {
            lines.put(
                &format!("journal{shard}"),
                format!(
                    "generation={},next={},durable={}",
                    marks.generation.load(Relaxed),
                    marks.next.load(Relaxed),
                    marks.passed.load(Relaxed)
                ),
            );
        }
    }
}

fn stats(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let (shared, now) = (facts.shared, facts.now);
    let count = |name: &str| facts.totals.counter(name);
    let rate = *lock(&shared.rate);
    lines.put("total_connections_received", count("accepted"));
    lines.put("total_commands_processed", count("commands"));
    lines.put("instantaneous_ops_per_sec", rate.commands);
    lines.put(
        "average_ops_per_sec",
        shared.sum(|stats| stats.commands.load(Relaxed)) * 1000
            / now.saturating_sub(shared.started).max(1),
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
    lines.put("total_net_input_bytes", count("bytes_in"));
    lines.put("total_net_output_bytes", count("bytes_out"));
    let kilobytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1024.0);
    lines.put("instantaneous_input_kbps", kilobytes(rate.bytes_in));
    lines.put("instantaneous_output_kbps", kilobytes(rate.bytes_out));
    lines.put("rejected_connections", count("refused"));
    lines.put("expired_keys", count("expired"));
    lines.put("evicted_keys", count("evicted"));
    lines.put("evicted_clients", count("evicted_clients"));
    for (name, counter) in [
        ("client_query_buffer_limit_disconnections", "cut_input"),
        ("client_output_buffer_limit_disconnections", "cut_output"),
        ("idle_clients_closed", "cut_idle"),
        ("stalled_clients_closed", "cut_stalled"),
        ("connections_not_accepted", "not_accepted"),
        ("client_turns_ended", "turns_ended"),
    ] {
        lines.put(name, count(counter));
    }
    lines.put("latest_fork_usec", 0);
    lines.put("total_forks", 0);
    lines.put(
        "total_error_replies",
        facts.totals.errors().values().sum::<u64>(),
    );
    lines.put("protocol_errors", count("protocol_errors"));
    lines.put("ring_turns", shared.sum(|stats| stats.turns.load(Relaxed)));
}

fn command_stats(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    for (name, sum) in facts.totals.commands(facts.table) {
        lines.put(
            &format!("cmdstat_{name}"),
            format!(
                "calls={},usec={},usec_per_call={:.2},rejected_calls={},failed_calls={}",
                sum.calls,
                sum.micros(),
                sum.micros_per_call(),
                sum.rejected,
                sum.failed
            ),
        );
    }
}

fn error_stats(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    for (kind, count) in facts.totals.errors() {
        lines.put(&format!("errorstat_{kind}"), format!("count={count}"));
    }
}

fn latency_stats(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    for (name, sum) in facts.totals.commands(facts.table) {
        if sum.timed == 0 {
            continue;
        }
        let percentiles = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)]
            .map(|(name, percent)| format!("{name}={:.3}", sum.percentile(percent)));
        lines.put(
            &format!("latency_percentiles_usec_{name}"),
            percentiles.join(","),
        );
    }
}

fn cluster(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    lines.put("cluster_enabled", u8::from(facts.shared.is_cluster()));
    for (name, text) in facts.shared.fleet.iter().flat_map(Fleet::info) {
        lines.put(name, text);
    }
}

/// The nodes that follow this one. One has a link per shard; a node is there if all are.
pub(super) fn replicas(shared: &Shared) -> Vec<ReplicaView> {
    let mut nodes: Vec<(ReplicaView, usize)> = Vec::new();
    for replicas in &shared.replicas {
        for link in lock(&replicas.links).iter() {
            let node = nodes
                .iter_mut()
                .find(|(node, _)| (node.ip, node.port) == (link.ip, link.port));
            match node {
                None => nodes.push((link.clone(), 1)),
                Some((node, count)) => {
                    *count += 1;
                    node.acked += link.acked;
                    node.durable = node
                        .durable
                        .zip(link.durable)
                        .map(|(one, other)| one + other);
                    node.acked_at = node.acked_at.min(link.acked_at);
                    node.is_online &= link.is_online;
                }
            }
        }
    }
    let shards = shared.replicas.len();
    nodes
        .into_iter()
        .map(|(mut node, count)| {
            node.is_online &= count >= shards;
            node
        })
        .collect()
}

/// The sum of the offsets that the shards' next frames get.
pub(super) fn stream_end(shared: &Shared) -> u64 {
    let marks = shared.durable.shards.iter();
    marks.map(|marks| marks.next.load(Relaxed)).sum()
}

fn followed(shared: &Shared, now: Ms, lines: &mut Lines<'_>) {
    let replicas = replicas(shared);
    lines.put("connected_slaves", replicas.len());
    let tunables = shared.tunables.read();
    let tunables = tunables
        .map(|tunables| tunables.clone())
        .unwrap_or_default();
    let lag_max = tunables.replica_lag_max_secs;
    if tunables.replicas_min > 0 && lag_max > 0 {
        let good = shared.good_replicas(lag_max, now);
        lines.put("min_slaves_good_slaves", good);
    }
    for (number, replica) in replicas.iter().enumerate() {
        let state = if replica.is_online {
            "online"
        } else {
            "send_bulk"
        };
        let lag = now.saturating_sub(replica.acked_at) / 1000;
        let durable = replica
            .durable
            .map_or(String::new(), |durable| format!(",durable={durable}"));
        lines.put(
            &format!("slave{number}"),
            format!(
                "ip={},port={},state={state},offset={},lag={lag}{durable}",
                replica.ip, replica.port, replica.acked
            ),
        );
    }
    if let Some(port) = shared.settings.replication_port {
        lines.put("repl_port_base", port);
    }
    let rollbacks = &shared.rollbacks;
    lines.put("rollback_files", rollbacks.files.load(Relaxed));
    lines.put("rollback_frames_total", rollbacks.frames.load(Relaxed));
    lines.put("rollback_lost_frames_total", rollbacks.lost.load(Relaxed));
    let sum = |of: fn(&Replicas) -> &AtomicU64| -> u64 {
        let replicas = shared.replicas.iter();
        replicas.map(|replicas| of(replicas).load(Relaxed)).sum()
    };
    lines.put("sync_full", sum(|replicas| &replicas.shipped));
    lines.put("sync_partial_ok", sum(|replicas| &replicas.resumed));
    lines.put("sync_full_resumed", sum(|replicas| &replicas.taken_up));
    lines.put("repl_sent_bytes", sum(|replicas| &replicas.sent));
    lines.put("repl_sends", sum(|replicas| &replicas.sends));
    lines.put("repl_zc_sends", sum(|replicas| &replicas.sends_in_place));
    lines.put("repl_zc_confirmed", sum(|replicas| &replicas.confirmed));
    lines.put("repl_zc_copied", sum(|replicas| &replicas.copied));
    lines.put("repl_zc_fallbacks", sum(|replicas| &replicas.fallbacks));
    lines.put("repl_ship_bytes", sum(|replicas| &replicas.ship_bytes));
    let registered = sum(|replicas| &replicas.ship_bytes_registered);
    lines.put("repl_ship_bytes_registered", registered);
    let frames = sum(|replicas| &replicas.frame_bytes);
    lines.put("repl_frame_bytes_sent", frames);
    let copied = sum(|replicas| &replicas.frame_bytes_copied);
    lines.put("repl_frame_bytes_copied", copied);
}

fn backlog(shared: &Shared, lines: &mut Lines<'_>) {
    let bytes = shared
        .replicas
        .iter()
        .map(|replicas| replicas.bytes.load(Relaxed));
    let bytes: u64 = bytes.sum();
    let first = shared
        .replicas
        .iter()
        .map(|replicas| replicas.first.load(Relaxed));
    let size = shared
        .tunables
        .read()
        .map_or(0, |tunables| tunables.backlog_len);
    lines.put("repl_backlog_active", u8::from(bytes > 0));
    lines.put("repl_backlog_size", size * shared.settings.shards);
    lines.put("repl_backlog_first_byte_offset", first.sum::<u64>());
    lines.put("repl_backlog_histlen", bytes);
}

/// This node's part in elections.
fn election(shared: &Shared, lines: &mut Lines<'_>) {
    let Some(election) = &shared.election else {
        return;
    };
    let Some(view) = lock(&election.view).clone() else {
        return lines.put("node_role", "loading");
    };
    lines.put("node_role", view.role.name());
    lines.put("node_role_signal", view.signal.map_or("none", Signal::name));
    lines.put("node_role_since_ms", view.since);
    lines.put("role_epoch", view.epoch.0);
    lines.put("role_history", view.history.0);
    let primary = view.primary.as_ref().map_or("", |id| id.as_str());
    lines.put("elect_primary", primary);
    lines.put("elect_lease_ms", view.lease);
    lines.put("elect_muted", u8::from(view.is_muted));
    lines.put("elect_members", view.members.len());
    let heard = |member: &&MemberView| member.other.is_none_or(|other| other.silent.is_some());
    lines.put(
        "elect_members_heard",
        view.members.iter().filter(heard).count(),
    );
    for (name, count) in view.counts() {
        lines.put(name, count);
    }
    let unanswered = election.unanswered.load(Relaxed);
    lines.put("quorum_unanswered_total", unanswered);
    lines.put("elect_connections_cut", election.cut.load(Relaxed));
}

fn replication(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    links(facts, lines);
    election(facts.shared, lines);
    if let Some(ring) = &facts.shared.node_key {
        lines.put("node_key", 1);
        lines.put("node_key_refused_links", ring.refused.load(Relaxed));
        lines.put("node_key_last_refusal", ring.last());
    }
    if let Some(tls) = &facts.shared.node_tls {
        let (refused, failed, last) = tls.counts();
        lines.put("node_tls", 1);
        lines.put("node_tls_refused_links", refused);
        lines.put("node_tls_failed_links", failed);
        lines.put("node_tls_last_failure", last);
    }
}

fn failover(shared: &Shared, lines: &mut Lines<'_>) {
    let desk = lock(&shared.failovers.desk);
    lines.put("master_failover_state", desk.redis_state());
    for (name, value) in desk.lines() {
        // Elections number their epochs themselves.
        if name != "role_epoch" || shared.election.is_none() {
            lines.put(name, value);
        }
    }
}

fn links(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let (shared, now) = (facts.shared, facts.now);
    match &*lock(&shared.follow) {
        None => {
            lines.put("role", "master");
            followed(shared, now, lines);
            failover(shared, lines);
            lines.put("master_replid", "0".repeat(40));
            lines.put("master_replid2", "0".repeat(40));
            lines.put("master_repl_offset", stream_end(shared));
            lines.put("second_repl_offset", -1);
            backlog(shared, lines);
        }
        Some(view) => {
            lines.put("role", "slave");
            followed(shared, now, lines);
            lines.put("master_repl_offset", stream_end(shared));
            backlog(shared, lines);
            lines.put("master_host", &view.host);
            lines.put("master_port", view.port);
            let up = !view.links.is_empty() && view.links.iter().all(|link| link.up);
            lines.put("master_link_status", if up { "up" } else { "down" });
            let heard = view.links.iter().map(|link| link.heard).min().unwrap_or(0);
            let age = if heard == 0 || (view.redis.is_some() && !up) {
                -1
            } else {
                (now.saturating_sub(heard) / 1000) as i64
            };
            lines.put("master_last_io_seconds_ago", age);
            if let Some(redis) = &view.redis {
                return redis_replication(facts, view, redis, up, lines);
            }
            if !up && !view.trouble.is_empty() {
                lines.put("master_link_last_error", &view.trouble);
            }
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

/// What follows of a Redis primary.
fn redis_replication(
    facts: &Facts<'_>,
    view: &FollowView,
    redis: &RedisView,
    up: bool,
    lines: &mut Lines<'_>,
) {
    let syncing = view.links.iter().any(|link| link.syncing);
    let read = view.links.iter().map(|link| link.primary_next).sum::<u64>();
    let applied = view.links.iter().map(|link| link.applied).sum::<u64>();
    lines.put("master_sync_in_progress", u8::from(syncing));
    lines.put("slave_read_repl_offset", read);
    lines.put("slave_repl_offset", applied);
    if syncing {
        let (done, total) = (redis.synced.0, redis.synced.1.unwrap_or(0));
        lines.put("master_sync_total_bytes", total);
        lines.put("master_sync_read_bytes", done);
        lines.put("master_sync_left_bytes", total as i64 - done as i64);
        let percent = match total {
            0 => 0.0,
            _ => done as f64 / total as f64 * 100.0,
        };
        lines.put("master_sync_perc", format!("{percent:.2}"));
        let heard = view.links.iter().map(|link| link.heard).max().unwrap_or(0);
        let age = facts.now.saturating_sub(heard) / 1000;
        lines.put("master_sync_last_io_seconds_ago", age);
    }
    if !up {
        let since = redis.down_since.unwrap_or(facts.now);
        let age = facts.now.saturating_sub(since) / 1000;
        lines.put("master_link_down_since_seconds", age);
        lines.put("master_link_last_error", &redis.last_drop);
    }
    let unapplied = facts.shared.unapplied.load(Relaxed);
    lines.put("slave_unapplied_commands", unapplied);
    lines.put("slave_priority", 100);
    lines.put("slave_read_only", 1);
    lines.put("replica_announced", 1);
    lines.put("connected_slaves", 0);
    failover(facts.shared, lines);
    lines.put("master_replid", &redis.id);
    let none = ("0".repeat(40), 0);
    let (id, end) = redis.previous.as_ref().unwrap_or(&none);
    lines.put("master_replid2", id);
    lines.put("master_repl_offset", applied);
    let second = if *end == 0 { -1 } else { *end as i64 };
    lines.put("second_repl_offset", second);
    lines.put("repl_backlog_active", 0);
    lines.put("repl_backlog_size", 0);
    lines.put("repl_backlog_first_byte_offset", 0);
    lines.put("repl_backlog_histlen", 0);
}

fn cpu(_facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let nanos = uring::sys::process_cpu_ns();
    if let Some((user, system)) = cpu_seconds() {
        lines.put("used_cpu_sys", format!("{system:.6}"));
        lines.put("used_cpu_user", format!("{user:.6}"));
        lines.put("used_cpu_sys_children", "0.000000");
        lines.put("used_cpu_user_children", "0.000000");
    }
    lines.put("used_cpu_total", format!("{:.6}", nanos as f64 / 1e9));
}

/// Time spent in the process and in the kernel for it. The kernel counts it in hundredths of a second.
fn cpu_seconds() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name may hold anything; behind it there are only numbers and a letter.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / 100.0);
    Some((seconds()?, seconds()?))
}

fn keyspace(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let shared = facts.shared;
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

fn cores(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let cores = facts.shared.stats.iter().zip(&facts.shared.meters);
    for (number, (stats, meters)) in cores.enumerate() {
        lines.put(
            &format!("core{number}"),
            format!(
                "requests={},turns={},worked={},busy_usec={},cpu_usec={},clients={},blocked={},memory={},\
                 bytes_in={},bytes_out={}",
                stats.commands.load(Relaxed),
                stats.turns.load(Relaxed),
                meters.turns.count(),
                meters.turns.sum() / 1000,
                stats.cpu_ns.load(Relaxed) / 1000,
                stats.clients.load(Relaxed),
                stats.blocked.load(Relaxed),
                stats.used.load(Relaxed),
                stats.bytes_in.load(Relaxed),
                stats.bytes_out.load(Relaxed),
            ),
        );
    }
}

fn shards(facts: &Facts<'_>, lines: &mut Lines<'_>) {
    let shared = facts.shared;
    for (shard, marks) in shared.durable.shards.iter().enumerate() {
        let (mut keys, mut expiring) = (0, 0);
        for size in lock(&shared.sizes[shard]).iter() {
            keys += size.keys;
            expiring += size.expiring;
        }
        lines.put(
            &format!("shard{shard}"),
            format!(
                "keys={keys},expires={expiring},next={},durable={},syncs={},backlog={}",
                marks.next.load(Relaxed),
                marks.passed.load(Relaxed),
                marks.syncs.load(Relaxed),
                shared.replicas[shard].bytes.load(Relaxed),
            ),
        );
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
    let primary = lock(&shared.told_to_follow)
        .as_ref()
        .map_or(String::new(), |(host, port)| format!("{host} {port}"));
    let mut all: Vec<(String, String)> = [
        ("port", settings.port.to_string()),
        ("bind", settings.bind.clone()),
        ("unixsocket", settings.unix.clone().unwrap_or_default()),
        ("databases", settings.databases.to_string()),
        ("dir", settings.dir.clone().unwrap_or_else(|| ".".into())),
        // A kevy tool reads the number of shards from here.
        ("io-threads", settings.shards.to_string()),
        ("appendonly", yes_no(settings.journals)),
        ("save", tunables.save_points.to_string()),
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
        ("acllog-max-len", tunables.acl_log_len.to_string()),
        (
            "client-query-buffer-limit",
            tunables.queue_bytes_max.to_string(),
        ),
        (
            "client-output-buffer-limit",
            tunables.output_limits.to_string(),
        ),
        ("maxmemory-clients", tunables.clients_memory.to_string()),
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
        ("latency-monitor-threshold", tunables.latency_ms.to_string()),
        ("requirepass", tunables.password),
        ("protected-mode", yes_no(tunables.protects)),
        ("acl-pubsub-default", "resetchannels".into()),
        (
            "aclfile",
            shared
                .acl_file
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
        ),
        (
            "node-key-file",
            shared
                .node_key
                .as_ref()
                .map(|ring| ring.path.display().to_string())
                .unwrap_or_default(),
        ),
        (
            "tls-port",
            shared.tls.as_ref().map_or(0, |tls| tls.number).to_string(),
        ),
        ("tls-replication", yes_no(shared.node_tls.is_some())),
        ("tls-cert-file", tunables.certificates.cert.clone()),
        ("tls-key-file", tunables.certificates.key.clone()),
        ("tls-ca-cert-file", tunables.certificates.ca.clone()),
        (
            "tls-auth-clients",
            tunables.certificates.auth().name().into(),
        ),
        ("masteruser", tunables.primary_user),
        ("masterauth", tunables.primary_password),
        // What does not change here, for clients that look at it.
        ("latency-tracking", "yes".into()),
        ("latency-tracking-info-percentiles", "50 99 99.9".into()),
        ("cluster-enabled", yes_no(shared.is_cluster())),
        ("appendfsync", tunables.fsync.name().into()),
        ("min-replicas-to-write", tunables.replicas_min.to_string()),
        ("min-slaves-to-write", tunables.replicas_min.to_string()),
        (
            "min-replicas-max-lag",
            tunables.replica_lag_max_secs.to_string(),
        ),
        (
            "min-slaves-max-lag",
            tunables.replica_lag_max_secs.to_string(),
        ),
        (
            "replica-max-staleness-ms",
            tunables.staleness_max_ms.to_string(),
        ),
        (
            "scopes",
            shared
                .scopes
                .as_ref()
                .map(|scopes| scopes.scopes().to_string())
                .unwrap_or_default(),
        ),
        ("quorum-writes", yes_no(tunables.quorum_writes)),
        ("replica-serve-stale-data", yes_no(tunables.serves_stale)),
        ("slave-serve-stale-data", yes_no(tunables.serves_stale)),
        ("repl-backlog-size", tunables.backlog_len.to_string()),
        ("repl-backlog-ttl", tunables.backlog_ttl_secs.to_string()),
        ("daemonize", "no".into()),
        ("tcp-backlog", "1024".into()),
        ("tcp-keepalive", "0".into()),
        ("hz", "10".into()),
        ("activedefrag", "no".into()),
        ("lazyfree-lazy-eviction", "yes".into()),
        ("lazyfree-lazy-expire", "yes".into()),
        ("lazyfree-lazy-server-del", "yes".into()),
        ("lazyfree-lazy-user-del", "yes".into()),
        ("lazyfree-lazy-user-flush", "yes".into()),
        ("replica-read-only", "yes".into()),
        ("replicaof", primary.clone()),
        ("slaveof", primary),
        // How snapshots follow the journal: behind one more of its size, and a segment at least.
        ("auto-aof-rewrite-percentage", "100".into()),
        (
            "auto-aof-rewrite-min-size",
            settings.segment_len.to_string(),
        ),
        // There is no such file: data directories have files of their own.
        ("dbfilename", String::new()),
        ("appendfilename", String::new()),
        ("appenddirname", String::new()),
        ("logfile", String::new()),
        ("loglevel", "notice".into()),
        ("pidfile", String::new()),
        ("supervised", "no".into()),
        ("syslog-enabled", "no".into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_string(), value))
    .collect();
    all.sort();
    all
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
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
    change(&mut changed, Some(shared), pairs)?;
    let (for_clients, for_nodes) = renewed_certificates(shared, &changed, pairs)?;
    shared.scripts.running().set_busy_ms(changed.busy_ms);
    let mut names = (0..pairs.len()).step_by(2).map(|at| pairs.at(at));
    let password = names
        .any(|name| name.eq_ignore_ascii_case(b"requirepass"))
        .then(|| changed.password.clone());
    if let Ok(mut tunables) = shared.tunables.write() {
        *tunables = changed;
    }
    shared.tunables_version.fetch_add(1, Relaxed);
    if let (Some(tls), Some(certificates)) = (&shared.tls, for_clients) {
        tls.renew(certificates);
    }
    if let (Some(tls), Some(certificates)) = (&shared.node_tls, for_nodes) {
        tls.renew(certificates);
    }
    if let Some(password) = password {
        shared.set_default_password(&password);
    }
    Ok(())
}

/// What the TLS port is to serve with, and links between nodes, if the pairs are about that. The files are
/// read again also where their names stay. This waits for the disk, as CONFIG REWRITE does.
fn renewed_certificates(
    shared: &Shared,
    changed: &Tunables,
    pairs: Args<'_>,
) -> Result<(Option<Certificates>, Option<NodeCertificates>), Error> {
    let mut names = (0..pairs.len()).step_by(2).map(|at| pairs.at(at));
    let name = names.find(|name| name.to_ascii_lowercase().starts_with(b"tls-"));
    let Some(name) = name else {
        return Ok((None, None));
    };
    let files = &changed.certificates;
    let for_clients = shared.tls.as_ref().map(|_| files.read()).transpose();
    let for_nodes = || {
        let nodes = shared.node_tls.as_ref();
        nodes.map(|_| files.read_for_nodes()).transpose()
    };
    let read = for_clients.and_then(|for_clients| Ok((for_clients, for_nodes()?)));
    read.map_err(|why| {
        log(&format!("TLS: {why}"));
        let name = String::from_utf8_lossy(name).to_lowercase();
        Error::text(format!(
            "ERR CONFIG SET failed (possibly related to argument '{name}') - Unable to update TLS \
             configuration. Check server logs."
        ))
    })
}

impl Shared {
    /// All parameters with their values.
    pub fn parameters(&self) -> Vec<(String, String)> {
        parameters(self)
    }
}

impl Tunables {
    /// Changes one parameter before there is a node.
    ///
    /// # Errors
    /// Why not, as CONFIG SET would say it.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let pair = OwnedArgs::copy([name.as_bytes(), value.as_bytes()]);
        change(self, None, pair.as_args()).map_err(|error| {
            let text = error.as_str();
            match text.split_once("') - ") {
                Some((_, why)) => why.into(),
                None => text.into(),
            }
        })
    }
}

/// Changes all of them; what is wrong with a pair may depend on the node, if there is one.
fn change(changed: &mut Tunables, shared: Option<&Shared>, pairs: Args<'_>) -> Result<(), Error> {
    let known = shared.map(parameters).unwrap_or_default();
    let names: Vec<String> = (0..pairs.len())
        .step_by(2)
        .map(|at| String::from_utf8_lossy(pairs.at(at)).to_lowercase())
        .collect();
    for (at, name) in names.iter().enumerate() {
        let value = pairs.at(2 * at + 1);
        let failed = |why: &str| {
            Error::text(format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"
            ))
        };
        if names[..at].contains(name) {
            return Err(failed("duplicate parameter"));
        }
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
            "maxclients" => {
                let count = number()? as usize;
                if !(1..=u32::MAX as usize).contains(&count) {
                    return Err(failed(
                        "argument must be between 1 and 4294967295 inclusive",
                    ));
                }
                if let Some(most) = shared.map(|shared| shared.settings.clients_max)
                    && count > most
                {
                    return Err(failed(&format!(
                        "The operating system is not able to handle the specified number of clients, \
                         try with {most}"
                    )));
                }
                changed.conns_max = count;
            }
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
            "busy-reply-threshold" | "lua-time-limit" => changed.busy_ms = number()?,
            "slowlog-max-len" => changed.slow_len = number()?.min(100_000) as usize,
            "acllog-max-len" => changed.acl_log_len = number()?.min(100_000) as usize,
            "latency-monitor-threshold" => changed.latency_ms = number()?,
            "requirepass" => {
                changed.password = String::from_utf8(value.to_vec())
                    .map_err(|_| failed("the password is not UTF-8"))?;
            }
            "masteruser" | "masterauth" => {
                let text = String::from_utf8(value.to_vec())
                    .map_err(|_| failed("the text is not UTF-8"))?;
                match name.as_str() {
                    "masteruser" => changed.primary_user = text,
                    _ => changed.primary_password = text,
                }
            }
            "tls-cert-file" | "tls-key-file" | "tls-ca-cert-file" => {
                let text = String::from_utf8(value.to_vec())
                    .map_err(|_| failed("the text is not UTF-8"))?;
                let files = &mut changed.certificates;
                match name.as_str() {
                    "tls-cert-file" => files.cert = text,
                    "tls-key-file" => files.key = text,
                    _ => files.ca = text,
                }
            }
            "tls-auth-clients" => {
                changed.certificates.auth = Some(AuthClients::parse(value).ok_or_else(|| {
                    failed("argument(s) must be one of the following: no, yes, optional")
                })?);
            }
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
            "client-output-buffer-limit" => {
                let limits = changed.output_limits.changed(value, memory_value);
                changed.output_limits = limits.map_err(failed)?;
            }
            "maxmemory-clients" => {
                let limit = ClientsMemory::parse(value, memory_value);
                changed.clients_memory = limit.map_err(failed)?;
            }
            "notify-keyspace-events" => {
                let text = "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.";
                changed.events = events::parse_classes(value).ok_or_else(|| failed(text))?;
            }
            "tracking-table-max-keys" => changed.tracking_keys_max = number()? as usize,
            "save" => {
                changed.save_points =
                    SavePoints::parse(value).ok_or_else(|| failed("Invalid save parameters"))?;
            }
            // Clients and test suites switch persistence off, which it is.
            "appendonly"
                if value.eq_ignore_ascii_case(b"no")
                    && shared.is_some_and(|shared| !shared.settings.journals) => {}
            "repl-backlog-size" => {
                let len =
                    memory_value(value).ok_or_else(|| failed("argument must be a memory value"))?;
                if len == 0 {
                    return Err(failed(
                        "argument must be between 1 and 9223372036854775807 inclusive",
                    ));
                }
                changed.backlog_len = len;
            }
            "min-replicas-to-write" | "min-slaves-to-write" => {
                changed.replicas_min = between(0)? as usize;
            }
            "min-replicas-max-lag" | "min-slaves-max-lag" => {
                changed.replica_lag_max_secs = between(0)?;
            }
            "repl-backlog-ttl" => changed.backlog_ttl_secs = number()?,
            "replica-max-staleness-ms" => changed.staleness_max_ms = number()?,
            "replica-serve-stale-data" | "slave-serve-stale-data" => {
                changed.serves_stale = match &value.to_ascii_lowercase()[..] {
                    b"yes" => true,
                    b"no" => false,
                    _ => return Err(failed("argument must be 'yes' or 'no'")),
                };
            }
            "protected-mode" => {
                changed.protects = match &value.to_ascii_lowercase()[..] {
                    b"yes" => true,
                    b"no" => false,
                    _ => return Err(failed("argument must be 'yes' or 'no'")),
                };
            }
            "quorum-writes" => {
                changed.quorum_writes = match &value.to_ascii_lowercase()[..] {
                    b"yes" if shared.is_none_or(|shared| shared.election.is_none()) => {
                        return Err(failed(
                            "it needs --peers: without members there is no majority",
                        ));
                    }
                    b"yes" => true,
                    b"no" => false,
                    _ => return Err(failed("argument must be 'yes' or 'no'")),
                };
            }
            "appendfsync" => {
                changed.fsync = Fsync::parse(value).ok_or_else(|| {
                    failed("argument(s) must be one of the following: everysec, always, no")
                })?;
            }
            _ if known.iter().any(|(known, _)| known == name) => {
                return Err(failed("can't set immutable config"));
            }
            _ => {
                return Err(Error::text(format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
                )));
            }
        }
    }
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
