//! What the node says about its memory: the section of INFO, and MEMORY.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    conn::Conn,
    info::Lines,
    requests::{Call, Work},
    session::unknown_subcommand,
    shared::{Shared, lock},
    state::State,
};
use crate::{
    cmd,
    resp::{Args, Out},
};

/// The node's memory, as the cores told at their last beat.
struct Report {
    /// In use: keys, values, connections, scripts, and what waits to be freed.
    used: usize,
    peak: usize,
    resident: usize,
    /// Held for entries and not in use.
    spare: usize,
    clients: usize,
    client_count: usize,
    scripts: usize,
    script_count: usize,
    keys: usize,
    /// Table and index of deadlines, per database with keys.
    databases: Vec<(usize, usize, usize)>,
}

impl Report {
    fn of(shared: &Shared) -> Report {
        let (script_count, scripts) = shared.scripts.usage();
        let used = shared.used_bytes() + scripts;
        let (mut spare, mut keys) = (0, 0);
        let mut databases = vec![(0, 0, 0); shared.settings.databases];
        let mut overheads = vec![(0, 0); shared.settings.databases];
        for sizes in &shared.sizes {
            for (db, size) in lock(sizes).iter().enumerate() {
                spare += size.spare_bytes;
                keys += size.keys;
                overheads[db].0 += size.table_bytes;
                overheads[db].1 += size.expiry_bytes;
                databases[db].0 += size.keys;
            }
        }
        let databases = databases
            .iter()
            .zip(overheads)
            .enumerate()
            .filter(|(_, ((keys, ..), _))| *keys > 0)
            .map(|(db, (_, (table, expiry)))| (db, table, expiry))
            .collect();
        let clients = shared
            .stats
            .iter()
            .map(|stats| stats.clients_bytes.load(Relaxed));
        Report {
            used,
            peak: shared.used_peak.load(Relaxed).max(used),
            resident: uring::sys::resident_bytes().unwrap_or(0) as usize,
            spare,
            clients: clients.sum(),
            client_count: shared.clients(),
            scripts,
            script_count,
            keys,
            databases,
        }
    }

    /// What is in use for other things than keys and values.
    fn overhead(&self) -> usize {
        let tables = self
            .databases
            .iter()
            .map(|(_, table, expiry)| table + expiry);
        self.clients + self.scripts + tables.sum::<usize>()
    }

    fn dataset(&self) -> usize {
        self.used.saturating_sub(self.overhead())
    }

    /// What the node holds of the allocator: in use or kept for entries.
    fn active(&self) -> usize {
        self.used + self.spare
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn difference(larger: usize, smaller: usize) -> i64 {
    larger as i64 - smaller as i64
}

/// Bytes as Redis shows them to people.
fn human(bytes: usize) -> String {
    let steps = [(50, 'P'), (40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    match steps.iter().find(|(bits, _)| bytes >> bits > 0) {
        Some((bits, unit)) => format!("{:.2}{unit}", bytes as f64 / (1u64 << bits) as f64),
        None => format!("{bytes}B"),
    }
}

/// The section of INFO.
pub(super) fn info(shared: &Shared, lines: &mut Lines<'_>) {
    let report = Report::of(shared);
    let tunables = shared
        .tunables
        .read()
        .map(|tunables| tunables.clone())
        .unwrap_or_default();
    let mut sized = |name: &str, bytes: usize| {
        lines.put(name, bytes);
        lines.put(&format!("{name}_human"), human(bytes));
    };
    sized("used_memory", report.used);
    sized("used_memory_rss", report.resident);
    sized("used_memory_peak", report.peak);
    let percent = |part, whole| format!("{:.2}%", 100.0 * ratio(part, whole));
    lines.put("used_memory_peak_perc", percent(report.used, report.peak));
    lines.put("used_memory_overhead", report.overhead());
    lines.put("used_memory_startup", 0);
    lines.put("used_memory_dataset", report.dataset());
    lines.put(
        "used_memory_dataset_perc",
        percent(report.dataset(), report.used),
    );
    lines.put("allocator_allocated", report.used);
    lines.put("allocator_active", report.active());
    lines.put("allocator_resident", report.resident);
    let total = uring::sys::total_memory_bytes() as usize;
    lines.put("total_system_memory", total);
    lines.put("total_system_memory_human", human(total));
    lines.put("used_memory_scripts", report.scripts);
    lines.put("used_memory_scripts_human", human(report.scripts));
    lines.put("number_of_cached_scripts", report.script_count);
    lines.put("maxmemory", tunables.memory_max);
    lines.put("maxmemory_human", human(tunables.memory_max));
    lines.put("maxmemory_policy", tunables.policy.name());
    let decimals = |value: f64| format!("{value:.2}");
    lines.put(
        "allocator_frag_ratio",
        decimals(ratio(report.active(), report.used)),
    );
    lines.put("allocator_frag_bytes", report.spare);
    lines.put(
        "allocator_rss_ratio",
        decimals(ratio(report.resident, report.active())),
    );
    lines.put(
        "allocator_rss_bytes",
        difference(report.resident, report.active()),
    );
    lines.put(
        "mem_fragmentation_ratio",
        decimals(ratio(report.resident, report.used)),
    );
    lines.put(
        "mem_fragmentation_bytes",
        difference(report.resident, report.used),
    );
    lines.put("mem_not_counted_for_evict", 0);
    lines.put("mem_clients_normal", report.clients);
    lines.put("mem_allocator", "mimalloc");
    let waiting = shared.stats.iter().map(|stats| stats.waiting.load(Relaxed));
    lines.put("mem_waiting_to_be_freed", waiting.sum::<usize>());
}

impl State {
    /// MEMORY. Inside EXEC the key's shard is here, wherever it lives.
    pub(super) fn memory_command(&mut self, conn: &mut Conn, args: Args<'_>, in_exec: bool) {
        let sub = args.at(1).to_ascii_lowercase();
        match (&sub[..], args.len()) {
            (b"stats", 2) => {
                self.publish();
                write_stats(&Report::of(&self.shared), &mut conn.out);
            }
            (b"doctor", 2) => {
                self.publish();
                conn.out.verbatim(&examine(&Report::of(&self.shared)));
            }
            (b"malloc-stats", 2) => {
                let text = "Stats not supported for the current allocator";
                conn.out.bulk_str(text);
            }
            // The allocator gives free pages back by itself; what it cannot know of is freed by now.
            (b"purge", 2) => {
                self.freeing = true;
                conn.out.ok();
            }
            (b"usage" | b"help" | b"stats" | b"doctor" | b"malloc-stats" | b"purge", _) => {
                let Some(work) = Work::of(&cmd::MEMORY_USAGE) else {
                    return;
                };
                if in_exec {
                    let (call, out) = (Call::of(conn.db, false), &mut conn.out);
                    self.run_here(&cmd::MEMORY_USAGE, work, &args, call, out, None);
                } else {
                    self.store_request(conn, &cmd::MEMORY_USAGE, work, &args);
                }
            }
            _ => unknown_subcommand(conn, "memory", args),
        }
    }
}

fn write_stats(report: &Report, out: &mut Out) {
    let count = |out: &mut Out, name: &str, value: usize| {
        out.bulk_str(name);
        out.len_int(value);
    };
    let signed = |out: &mut Out, name: &str, value: i64| {
        out.bulk_str(name);
        out.int(value);
    };
    let number = |out: &mut Out, name: &str, value: f64| {
        out.bulk_str(name);
        out.double(value);
    };
    out.map(27 + report.databases.len());
    count(out, "peak.allocated", report.peak);
    count(out, "total.allocated", report.used);
    count(out, "startup.allocated", 0);
    count(out, "replication.backlog", 0);
    count(out, "clients.slaves", 0);
    count(out, "clients.normal", report.clients);
    count(out, "cluster.links", 0);
    count(out, "aof.buffer", 0);
    count(out, "lua.caches", report.scripts);
    count(out, "functions.caches", 0);
    for (db, table, expiry) in &report.databases {
        out.bulk_str(&format!("db.{db}"));
        out.map(3);
        count(out, "overhead.hashtable.main", *table);
        count(out, "overhead.hashtable.expires", *expiry);
        count(out, "overhead.hashtable.slot-to-keys", 0);
    }
    count(out, "overhead.total", report.overhead());
    count(out, "keys.count", report.keys);
    count(
        out,
        "keys.bytes-per-key",
        report.used.checked_div(report.keys).unwrap_or(0),
    );
    count(out, "dataset.bytes", report.dataset());
    number(
        out,
        "dataset.percentage",
        100.0 * ratio(report.dataset(), report.used),
    );
    number(
        out,
        "peak.percentage",
        100.0 * ratio(report.used, report.peak),
    );
    count(out, "allocator.allocated", report.used);
    count(out, "allocator.active", report.active());
    count(out, "allocator.resident", report.resident);
    number(
        out,
        "allocator-fragmentation.ratio",
        ratio(report.active(), report.used),
    );
    count(out, "allocator-fragmentation.bytes", report.spare);
    number(
        out,
        "allocator-rss.ratio",
        ratio(report.resident, report.active()),
    );
    signed(
        out,
        "allocator-rss.bytes",
        difference(report.resident, report.active()),
    );
    number(out, "rss-overhead.ratio", 1.0);
    signed(out, "rss-overhead.bytes", 0);
    number(out, "fragmentation", ratio(report.resident, report.used));
    signed(
        out,
        "fragmentation.bytes",
        difference(report.resident, report.used),
    );
}

/// MEMORY DOCTOR, with the thresholds of Redis.
fn examine(report: &Report) -> String {
    if report.used < 5 << 20 {
        return DOCTOR_EMPTY.to_string();
    }
    let findings = [
        (ratio(report.peak, report.used) > 1.5, DOCTOR_PEAK),
        (
            ratio(report.resident, report.used) > 1.4
                && report.resident.saturating_sub(report.used) > 10 << 20,
            DOCTOR_RSS,
        ),
        (
            report.clients / report.client_count.max(1) > 200 << 10,
            DOCTOR_CLIENTS,
        ),
        (report.script_count > 1000, DOCTOR_SCRIPTS),
    ];
    let found: String = findings
        .iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, text)| *text)
        .collect();
    if found.is_empty() {
        DOCTOR_FINE.to_string()
    } else {
        format!("{DOCTOR_HEAD}{found}{DOCTOR_END}")
    }
}

/// Nothing can be said of so little memory.
const DOCTOR_EMPTY: &str = "\
    Hi Sam, this instance is empty or is using very little memory, my issues detector can't be used in \
    these conditions. Please, leave for your mission on Earth and fill it with some data. The new Sam \
    and I will be back to our programming as soon as I finished rebooting.\n";
const DOCTOR_FINE: &str = "\
    Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this \
    base.\n";
const DOCTOR_HEAD: &str =
    "Sam, I detected a few issues in this Redis instance memory implants:\n\n";
const DOCTOR_PEAK: &str = "\
    \x20* Peak memory: In the past this instance used more than 150% the memory that is currently using. \
    The allocator is normally not able to release memory after a peak, so you can expect to see a big \
    fragmentation ratio, however this is actually harmless and is only due to the memory peak, and if \
    the Redis instance Resident Set Size (RSS) is currently bigger than expected, the memory will be \
    used as soon as you fill the Redis instance with more data. If the memory peak was only \
    occasional and you want to try to reclaim memory, please try the MEMORY PURGE command, otherwise \
    the only other option is to shutdown and restart the instance.\n\n";
const DOCTOR_RSS: &str = "\
    \x20* High total RSS: This instance has a memory fragmentation and RSS overhead greater than 1.4 \
    (this means that the Resident Set Size of the Redis process is much larger than the sum of the \
    logical allocations Redis performed). This problem is usually due either to a large peak memory \
    (check if there is a peak memory entry above in the report) or may result from a workload that \
    causes the allocator to fragment memory a lot. If the problem is a large peak memory, then there \
    is no issue. Otherwise, make sure you are using the Jemalloc allocator and not the default libc \
    malloc. Note: The currently used allocator is \"mimalloc\".\n\n";
const DOCTOR_CLIENTS: &str = "\
    \x20* Big client buffers: The clients output buffers in this instance are greater than 200K per \
    client (on average). This may result from different causes, like Pub/Sub clients subscribed to \
    channels bot not receiving data fast enough, so that data piles on the Redis instance output \
    buffer, or clients sending commands with large replies or very large sequences of commands in the \
    same pipeline. Please use the CLIENT LIST command in order to investigate the issue if it causes \
    problems in your instance, or to understand better why certain clients are using a big amount of \
    memory.\n\n";
const DOCTOR_SCRIPTS: &str = "\
    \x20* Many scripts: There seem to be many cached scripts in this instance (more than 1000). This may \
    be because scripts are generated and `EVAL`ed, instead of being parameterized (with KEYS and \
    ARGV), `SCRIPT LOAD`ed and `EVALSHA`ed. Unless `SCRIPT FLUSH` is called periodically, the \
    scripts' caches may end up consuming most of your memory.\n\n";
const DOCTOR_END: &str = "I'm here to keep you safe, Sam. I want to help you.\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn report(used: usize) -> Report {
        Report {
            used,
            peak: used,
            resident: used,
            spare: 0,
            clients: 0,
            client_count: 1,
            scripts: 0,
            script_count: 0,
            keys: 1,
            databases: vec![(0, 10, 0)],
        }
    }

    #[test]
    fn bytes_are_shown_to_people_as_redis_shows_them() {
        for (bytes, want) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (964_032, "941.44K"),
            (25_276_510_208, "23.54G"),
        ] {
            assert_eq!(human(bytes), want);
        }
    }

    #[test]
    fn the_doctor_finds_what_is_wrong_and_only_that() {
        assert_eq!(examine(&report(1000)), DOCTOR_EMPTY);
        assert_eq!(examine(&report(50 << 20)), DOCTOR_FINE);
        let ill = Report {
            peak: 90 << 20,
            script_count: 2000,
            ..report(50 << 20)
        };
        let text = examine(&ill);
        assert_eq!(
            text,
            format!("{DOCTOR_HEAD}{DOCTOR_PEAK}{DOCTOR_SCRIPTS}{DOCTOR_END}")
        );
    }

    #[test]
    fn stats_have_as_many_fields_as_they_say() {
        let mut out = Out::default();
        write_stats(&report(1000), &mut out);
        let text = String::from_utf8_lossy(out.as_bytes()).into_owned();
        assert!(
            text.starts_with("*56\r\n$14\r\npeak.allocated\r\n:1000\r\n"),
            "{text}"
        );
        // Names and values of the map and of the one inside it.
        let items = text
            .lines()
            .filter(|line| line.starts_with(['$', ':', '*']));
        assert_eq!(items.count(), 1 + 56 + 6);
    }
}
