//! What there is to tell of the node, its cores, its shards, and its links to others.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use uring::sys;

use super::{
    super::{
        durable::Marks,
        info::{self, Facts},
        meter::CoreMeters,
        shared::{
            CoreStats, ElectionView, MemberView, ReplicaView, Replicas, Shared, Tunables, lock,
        },
    },
    page::{
        Kind::{self, Counter, Gauge, Histogram},
        Page, Scale, seconds,
    },
};
use crate::{elect::role, store::Policy};

/// A family that has a number for each of something.
type Row<T> = (Kind, &'static str, &'static str, fn(&T) -> f64);
type NodeRow = (Kind, &'static str, &'static str, fn(&Facts<'_>) -> f64);

pub(super) fn write(facts: &Facts<'_>, page: &mut Page) {
    node(facts, page);
    cores(facts.shared, page);
    shards(facts.shared, page);
    replicas(facts, page);
    upstreams(facts, page);
    election(facts.shared, page);
}

/// Milliseconds as seconds.
fn millis(millis: u64) -> f64 {
    millis as f64 / 1e3
}

fn number(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed) as f64
}

/// What is told of the node: one number each.
const NODE: [NodeRow; 20] = [
    (
        Gauge,
        "process_start_time_seconds",
        "When the process started, in Unix time.",
        |facts| millis(facts.shared.started),
    ),
    (
        Counter,
        "process_cpu_seconds_total",
        "CPU time of all threads. A core that looks for work counts as busy.",
        |_| seconds(sys::process_cpu_ns()),
    ),
    (
        Gauge,
        "process_resident_memory_bytes",
        "Memory that the kernel has given the process.",
        |_| sys::resident_bytes().unwrap_or(0) as f64,
    ),
    (
        Gauge,
        "ringkeep_memory_peak_bytes",
        "The most that was ever in use, as seen ten times in a second.",
        |facts| facts.shared.used_peak.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_memory_limit_bytes",
        "maxmemory; 0: no limit.",
        |facts| tunable(facts, |tunables| tunables.memory_max as f64),
    ),
    (
        Gauge,
        "ringkeep_memory_evicts",
        "1 if keys are evicted at the limit, 0 if writes are refused there.",
        |facts| {
            let evicts = |policy: Policy| f64::from(u8::from(policy != Policy::NoEviction));
            tunable(facts, |tunables| evicts(tunables.policy))
        },
    ),
    (Gauge, "ringkeep_clients_limit", "maxclients.", |facts| {
        tunable(facts, |tunables| tunables.conns_max as f64)
    }),
    (
        Gauge,
        "ringkeep_loading",
        "1 while the data set is being loaded or replaced.",
        |facts| yes(facts.shared.loading.load(Relaxed)),
    ),
    (
        Gauge,
        "ringkeep_loading_bytes",
        "Bytes to load at the start.",
        |facts| number(&facts.shared.durable.loading.bytes),
    ),
    (
        Gauge,
        "ringkeep_loaded_bytes",
        "Bytes of them that are loaded.",
        |facts| number(&facts.shared.durable.loading.done),
    ),
    (
        Gauge,
        "ringkeep_journal_broken",
        "1 while the journal cannot be written, so that writes are refused.",
        |facts| yes(facts.shared.durable.broken.load(Relaxed)),
    ),
    (
        Gauge,
        "ringkeep_changes_unsaved",
        "Changes since the last good snapshots began.",
        |facts| facts.shared.unsaved_changes() as f64,
    ),
    (
        Gauge,
        "ringkeep_snapshots_running",
        "1 while snapshots are made that were asked for.",
        |facts| yes(facts.shared.durable.saves.view().open > 0),
    ),
    (
        Gauge,
        "ringkeep_snapshots_failed",
        "1 if the last snapshots failed.",
        |facts| yes(facts.shared.durable.saves.view().last.2),
    ),
    (
        Gauge,
        "ringkeep_snapshots_good_timestamp_seconds",
        "When the last good snapshots ended, in Unix time; 0: there were none since the start.",
        |facts| millis(facts.shared.durable.saves.good_ms.load(Relaxed)),
    ),
    (
        Gauge,
        "ringkeep_replica",
        "1 if the node follows a primary, 0 if it is one.",
        |facts| yes(lock(&facts.shared.follow).is_some()),
    ),
    (
        Gauge,
        "ringkeep_replicas",
        "Nodes that follow this one.",
        |facts| info::replicas(facts.shared).len() as f64,
    ),
    (
        Gauge,
        "ringkeep_replicas_lacking",
        "1 while writes are refused for want of replicas.",
        |facts| yes(facts.shared.lacks_replicas.load(Relaxed)),
    ),
    (
        Counter,
        "ringkeep_handoffs_begun_total",
        "Handoffs to another process that began.",
        |facts| number(&facts.shared.handover.begun),
    ),
    (
        Counter,
        "ringkeep_handoffs_rolled_back_total",
        "Handoffs that came to nothing; the process serves on.",
        |facts| number(&facts.shared.handover.resumed),
    ),
];

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn tunable(facts: &Facts<'_>, of: impl Fn(&Tunables) -> f64) -> f64 {
    let tunables = facts.shared.tunables.read();
    tunables.map_or(0.0, |tunables| of(&tunables))
}

fn node(facts: &Facts<'_>, page: &mut Page) {
    let version = env!("CARGO_PKG_VERSION");
    let ring = lock(&facts.shared.ring).clone();
    page.family(Gauge, "ringkeep_build_info", "Always 1.")
        .put(&[("version", &version), ("ring", &ring)], 1);
    for (kind, name, help, value) in NODE {
        page.family(kind, name, help).put(&[], value(facts));
    }
}

/// What is told of each core.
const CORES: [Row<CoreStats>; 23] = [
    (
        Counter,
        "ringkeep_requests_total",
        "Requests of clients.",
        |core| number(&core.commands),
    ),
    (
        Counter,
        "ringkeep_connections_accepted_total",
        "Connections of clients that were taken in.",
        |core| number(&core.accepted),
    ),
    (
        Counter,
        "ringkeep_connections_refused_total",
        "Connections that were turned away at maxclients.",
        |core| number(&core.refused),
    ),
    (
        Counter,
        "ringkeep_connections_not_accepted_total",
        "Connections that could not be taken in, most often for want of descriptors.",
        |core| number(&core.not_accepted),
    ),
    (
        Counter,
        "ringkeep_client_turns_ended_total",
        "How often a client had had its part of a turn, and had to wait for the next one.",
        |core| number(&core.turns_ended),
    ),
    (
        Gauge,
        "ringkeep_clients",
        "Connections of clients.",
        |core| core.clients.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_clients_blocked",
        "Clients of them that wait in a blocking command.",
        |core| core.blocked.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_clients_subscribed",
        "Clients of them that are subscribed to something.",
        |core| core.subscribed.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_clients_tracking",
        "Clients of them that cache.",
        |core| core.trackers.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_clients_memory_bytes",
        "Memory that connections hold.",
        |core| core.clients_bytes.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_tracked_keys",
        "Keys that are remembered for clients that cache.",
        |core| core.tracked_keys.load(Relaxed) as f64,
    ),
    (
        Counter,
        "ringkeep_received_bytes_total",
        "Bytes that came from clients and other nodes.",
        |core| number(&core.bytes_in),
    ),
    (
        Counter,
        "ringkeep_sent_bytes_total",
        "Bytes that were sent to clients.",
        |core| number(&core.bytes_out),
    ),
    (
        Counter,
        "ringkeep_protocol_errors_total",
        "Clients that were closed because they did not speak the protocol.",
        |core| number(&core.protocol_errors),
    ),
    (
        Counter,
        "ringkeep_changes_total",
        "Changes that commands made.",
        |core| number(&core.changes),
    ),
    (
        Counter,
        "ringkeep_expired_keys_total",
        "Keys that went at their deadlines.",
        |core| number(&core.expired),
    ),
    (
        Counter,
        "ringkeep_evicted_keys_total",
        "Keys that went at the memory limit.",
        |core| number(&core.evicted),
    ),
    (
        Gauge,
        "ringkeep_memory_used_bytes",
        "Memory in use for keys, values and connections, by the node's own count.",
        |core| core.used.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_memory_waiting_bytes",
        "Memory of values that are gone and wait to be freed.",
        |core| core.waiting.load(Relaxed) as f64,
    ),
    (
        Gauge,
        "ringkeep_memory_evictable_bytes",
        "Memory of keys that may be evicted, while there is a limit.",
        |core| core.evictable.load(Relaxed) as f64,
    ),
    (
        Counter,
        "ringkeep_loop_turns_total",
        "Turns of the loop, those without work included.",
        |core| number(&core.turns),
    ),
    (
        Counter,
        "ringkeep_core_cpu_seconds_total",
        "CPU time of the thread. A core that looks for work counts as busy.",
        |core| seconds(core.cpu_ns.load(Relaxed)),
    ),
    (
        Gauge,
        "ringkeep_tracked_items",
        "Pairs of a key and a client that it is remembered for.",
        |core| core.tracked_items.load(Relaxed) as f64,
    ),
];

fn cores(shared: &Shared, page: &mut Page) {
    for (kind, name, help, value) in CORES {
        page.family(kind, name, help);
        for (core, stats) in shared.stats.iter().enumerate() {
            page.put(&[("core", &core)], value(stats));
        }
    }
    page.family(
        Counter,
        "ringkeep_clients_cut_total",
        "Clients that were closed because of what they held or did not do.",
    );
    for (core, stats) in shared.stats.iter().enumerate() {
        for (reason, count) in [
            ("output", &stats.cut_output),
            ("input", &stats.cut_input),
            ("memory", &stats.evicted_clients),
            ("idle", &stats.cut_idle),
            ("stalled", &stats.cut_stalled),
        ] {
            page.put(&[("core", &core), ("reason", &reason)], number(count));
        }
    }
    let mut each = |name, help, of: &dyn Fn(&mut Page, usize, &CoreMeters)| {
        page.family(Histogram, name, help);
        for (core, meters) in shared.meters.iter().enumerate() {
            of(page, core, meters);
        }
    };
    each(
        "ringkeep_turn_seconds",
        "How long turns of the loop took that had work, what is done for one in the kernel included.",
        &|page, core, meters| page.meter(&[("core", &core)], Scale::Nanos, &meters.turns),
    );
    each(
        "ringkeep_turn_requests",
        "Requests in a turn that had any.",
        &|page, core, meters| page.meter(&[("core", &core)], Scale::Number, &meters.requests),
    );
    each(
        "ringkeep_turn_completions",
        "What the ring told in a turn in which it told anything: received, sent, accepted, written.",
        &|page, core, meters| page.meter(&[("core", &core)], Scale::Number, &meters.completions),
    );
}

/// What is told of the journal of each shard, if the node has journals.
const JOURNALS: [Row<Marks>; 7] = [
    (
        Gauge,
        "ringkeep_stream_next_offset",
        "The offset that the next frame of the history gets.",
        |marks| number(&marks.next),
    ),
    (
        Gauge,
        "ringkeep_journal_durable_offset",
        "Frames below this offset are durable.",
        |marks| number(&marks.passed),
    ),
    (
        Counter,
        "ringkeep_journal_written_bytes_total",
        "Bytes that were written to the journal.",
        |marks| number(&marks.bytes),
    ),
    (
        Counter,
        "ringkeep_journal_writes_total",
        "Writes to the journal.",
        |marks| number(&marks.writes),
    ),
    (
        Counter,
        "ringkeep_journal_syncs_total",
        "Syncs of the journal, durable writes included.",
        |marks| number(&marks.syncs),
    ),
    (
        Gauge,
        "ringkeep_journal_size_bytes",
        "Bytes of the segments that are there.",
        |marks| number(&marks.size),
    ),
    (
        Gauge,
        "ringkeep_snapshot_size_bytes",
        "Bytes of the newest snapshot.",
        |marks| number(&marks.snapshot),
    ),
];

/// What is told of those who follow each shard.
const FOLLOWED: [Row<Replicas>; 6] = [
    (
        Gauge,
        "ringkeep_backlog_bytes",
        "Bytes that are kept for replicas.",
        |of| number(&of.bytes),
    ),
    (
        Counter,
        "ringkeep_replication_sent_bytes_total",
        "Bytes that were sent to replicas.",
        |of| number(&of.sent),
    ),
    (
        Counter,
        "ringkeep_replication_snapshot_bytes_total",
        "Bytes of them that were snapshots.",
        |of| number(&of.ship_bytes),
    ),
    (
        Counter,
        "ringkeep_replication_full_syncs_total",
        "Replicas that got a snapshot.",
        |of| number(&of.shipped),
    ),
    (
        Counter,
        "ringkeep_replication_partial_syncs_total",
        "Replicas that went on where they were.",
        |of| number(&of.resumed),
    ),
    (
        Counter,
        "ringkeep_replication_full_syncs_resumed_total",
        "Replicas that came back within their snapshot and went on with it.",
        |of| number(&of.taken_up),
    ),
];

fn shards(shared: &Shared, page: &mut Page) {
    sizes(shared, page);
    for (kind, name, help, value) in JOURNALS {
        page.family(kind, name, help);
        for (shard, marks) in shared.durable.shards.iter().enumerate() {
            page.put(&[("shard", &shard)], value(marks));
        }
    }
    page.family(
        Histogram,
        "ringkeep_commit_seconds",
        "How long syncs and durable writes of the journal took.",
    );
    for (shard, marks) in shared.durable.shards.iter().enumerate() {
        page.meter(&[("shard", &shard)], Scale::Nanos, &marks.commits);
    }
    for (kind, name, help, value) in FOLLOWED {
        page.family(kind, name, help);
        for (shard, replicas) in shared.replicas.iter().enumerate() {
            page.put(&[("shard", &shard)], value(replicas));
        }
    }
}

/// Databases without keys are left out, but for the first.
fn sizes(shared: &Shared, page: &mut Page) {
    let mut found = Vec::new();
    for (shard, sizes) in shared.sizes.iter().enumerate() {
        for (db, size) in lock(sizes).iter().enumerate() {
            if db == 0 || size.keys > 0 {
                found.push((shard, db, *size));
            }
        }
    }
    page.family(Gauge, "ringkeep_keys", "Keys.");
    for (shard, db, size) in &found {
        page.put(&[("shard", shard), ("db", db)], size.keys);
    }
    page.family(
        Gauge,
        "ringkeep_keys_expiring",
        "Keys of them with a deadline.",
    );
    for (shard, db, size) in &found {
        page.put(&[("shard", shard), ("db", db)], size.expiring);
    }
    page.family(
        Gauge,
        "ringkeep_memory_spare_bytes",
        "Memory that is held for entries and not in use.",
    );
    for (shard, db, size) in &found {
        page.put(&[("shard", shard), ("db", db)], size.spare_bytes);
    }
}

/// The links of replicas: one for each shard of a replica.
fn replicas(facts: &Facts<'_>, page: &mut Page) {
    let shared = facts.shared;
    let mut links: Vec<(usize, SocketAddr, ReplicaView)> = Vec::new();
    for (shard, replicas) in shared.replicas.iter().enumerate() {
        for link in lock(&replicas.links).iter() {
            let at = SocketAddr::new(link.ip.to_canonical(), link.port);
            // One whose connection was lost may have another one.
            match links
                .iter_mut()
                .find(|(of, other, _)| (*of, *other) == (shard, at))
            {
                Some((_, _, other)) if other.acked_at < link.acked_at => *other = link.clone(),
                Some(_) => {}
                None => links.push((shard, at, link.clone())),
            }
        }
    }
    page.family(
        Gauge,
        "ringkeep_replica_online",
        "1 if a replica has all that there was when it came.",
    );
    for (shard, at, link) in &links {
        page.put(
            &[("shard", shard), ("replica", at)],
            u8::from(link.is_online),
        );
    }
    page.family(
        Gauge,
        "ringkeep_replica_behind_frames",
        "Frames that it has not acknowledged.",
    );
    for (shard, at, link) in &links {
        let next = shared.durable.shards[*shard].next.load(Relaxed);
        let behind = next.saturating_sub(link.acked);
        page.put(&[("shard", shard), ("replica", at)], behind);
    }
    page.family(
        Gauge,
        "ringkeep_replica_silent_seconds",
        "Time since it last said how far it is.",
    );
    for (shard, at, link) in &links {
        let silent = facts.now.saturating_sub(link.acked_at);
        page.put(&[("shard", shard), ("replica", at)], millis(silent));
    }
    page.family(
        Histogram,
        "ringkeep_replica_lag_seconds",
        "Time from when a frame could be sent until the replica had acknowledged it, of one frame at a time.",
    );
    for (shard, at, link) in &links {
        page.meter(
            &[("shard", shard), ("replica", at)],
            Scale::Millis,
            &link.lags,
        );
    }
}

/// The links to the primary that the node follows.
fn upstreams(facts: &Facts<'_>, page: &mut Page) {
    let links = lock(&facts.shared.follow)
        .as_ref()
        .map(|view| view.links.clone())
        .unwrap_or_default();
    page.family(
        Gauge,
        "ringkeep_upstream_up",
        "1 if a stream of the primary comes in.",
    );
    for (stream, link) in links.iter().enumerate() {
        page.put(&[("stream", &stream)], u8::from(link.up));
    }
    page.family(
        Gauge,
        "ringkeep_upstream_syncing",
        "1 while a snapshot of it is loaded.",
    );
    for (stream, link) in links.iter().enumerate() {
        page.put(&[("stream", &stream)], u8::from(link.syncing));
    }
    page.family(
        Gauge,
        "ringkeep_upstream_behind_frames",
        "Frames that the primary has told of and that are not applied here. Of a Redis: bytes.",
    );
    for (stream, link) in links.iter().enumerate() {
        let behind = link.primary_next.saturating_sub(link.applied);
        page.put(&[("stream", &stream)], behind);
    }
    page.family(
        Gauge,
        "ringkeep_upstream_silent_seconds",
        "Time since the primary was heard.",
    );
    for (stream, link) in links.iter().enumerate() {
        if link.heard > 0 {
            let silent = facts.now.saturating_sub(link.heard);
            page.put(&[("stream", &stream)], millis(silent));
        }
    }
}

/// What is told of elections: one number each, of a node that takes part.
const ELECTION: [Row<ElectionView>; 14] = [
    (Gauge, "ringkeep_election_epoch", "The epoch.", |view| {
        view.epoch.0 as f64
    }),
    (
        Gauge,
        "ringkeep_election_lease_seconds",
        "For how long writes are accepted if nobody is heard any more.",
        |view| millis(view.lease),
    ),
    (
        Gauge,
        "ringkeep_election_muted",
        "1 if the disk refused a ballot, so that the node neither votes nor stands.",
        |view| yes(view.is_muted),
    ),
    (
        Gauge,
        "ringkeep_election_primary_known",
        "1 if a primary is heard.",
        |view| yes(view.primary.is_some()),
    ),
    (
        Gauge,
        "ringkeep_election_members",
        "Members, this node included.",
        |view| view.members.len() as f64,
    ),
    (
        Gauge,
        "ringkeep_election_members_reached",
        "Members of them that there is a connection to, this node included.",
        |view| {
            let is_reached = |member: &&MemberView| member.other.is_none() || member.is_reached;
            view.members.iter().filter(is_reached).count() as f64
        },
    ),
    (
        Counter,
        "ringkeep_election_role_changes_total",
        "How often the role changed.",
        |view| view.role_counters.transitions.iter().sum::<u64>() as f64,
    ),
    (
        Counter,
        "ringkeep_election_won_total",
        "How often this node became the primary.",
        |view| view.role_counters.leader_changes as f64,
    ),
    (
        Counter,
        "ringkeep_election_stood_total",
        "How often this node stood.",
        |view| view.role_counters.missed as f64,
    ),
    (
        Counter,
        "ringkeep_election_votes_total",
        "Votes that this node gave.",
        |view| view.tally.votes as f64,
    ),
    (
        Counter,
        "ringkeep_election_lease_lapses_total",
        "How often this primary had to stop accepting writes because it did not hear a majority.",
        |view| view.tally.lapses as f64,
    ),
    (
        Counter,
        "ringkeep_election_dual_primaries_total",
        "How often two primaries were seen in one epoch.",
        |view| view.tally.dual_primaries as f64,
    ),
    (
        Counter,
        "ringkeep_election_persist_failures_total",
        "Ballots that the disk refused.",
        |view| view.tally.persist_failures as f64,
    ),
    (
        Counter,
        "ringkeep_election_messages_refused_total",
        "Messages of nobody in the list of members.",
        |view| view.tally.refused as f64,
    ),
];

fn election(shared: &Shared, page: &mut Page) {
    let election = shared.election.as_ref();
    let view = election.and_then(|election| lock(&election.view).clone());
    page.family(
        Gauge,
        "ringkeep_election_role",
        "1 for the role that the node has in elections, 0 for the others.",
    );
    for role in role::ROLES.iter().filter(|_| view.is_some()) {
        let has = view.as_ref().is_some_and(|view| view.role == *role);
        page.put(&[("role", &role.name())], u8::from(has));
    }
    for (kind, name, help, value) in ELECTION {
        page.family(kind, name, help);
        if let Some(view) = &view {
            page.put(&[], value(view));
        }
    }
}
