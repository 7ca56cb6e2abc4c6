//! What a kevy.toml may say that has no setting here, and what its roles mean.
//!
//! Read from the sources of kevy 1.19.0, 2.0.20, 3.17.3, 5.4.0 and 7.0.0: each of them knows all keys of the
//! one before it, and means the same by them, so that one list does for all.

use super::table::Kind;

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The node does without; why that is no harm.
    Told(&'static str),
    /// The node does not start; what would go wrong.
    Refused(&'static str),
    /// Looked at together with others.
    Weighed,
}

/// A key of kevy.
#[derive(Debug)]
pub(super) struct Foreign {
    pub place: (&'static str, &'static str),
    pub kind: Kind,
    /// The value with which nothing is asked for.
    pub off: &'static str,
    pub verdict: Verdict,
}

const fn told(
    place: (&'static str, &'static str),
    kind: Kind,
    off: &'static str,
    why: &'static str,
) -> Foreign {
    Foreign {
        place,
        kind,
        off,
        verdict: Verdict::Told(why),
    }
}

const fn refused(
    place: (&'static str, &'static str),
    kind: Kind,
    off: &'static str,
    why: &'static str,
) -> Foreign {
    Foreign {
        place,
        kind,
        off,
        verdict: Verdict::Refused(why),
    }
}

const COUNT: Kind = Kind::Number(0, i64::MAX);
const PORT: Kind = Kind::Number(0, 65_535);
const LOOPS: &str = "it tunes kevy's own loops";
const ENCRYPTED: &str = "kevy's encrypted links are not known here (ringkeeps have tls-replication), \
                         and what was to be secret would be sent openly";
const NO_KEYS: &str = "kevy's encrypted links are not known here, so that keys have no use";
const REWRITES: &str =
    "a snapshot is made when the journal has grown by the size of the last one, and by 64 MiB";
const LEVELS: &[&str] = &["trace", "debug", "info", "warn", "warning", "error"];

/// All of them.
pub(super) static FOREIGN: &[Foreign] = &[
    Foreign {
        place: ("replication", "role"),
        kind: Kind::Word(&["standalone", "primary", "replica"]),
        off: "",
        verdict: Verdict::Weighed,
    },
    told(
        ("server", "accept_shards"),
        COUNT,
        "",
        "every core accepts clients",
    ),
    told(
        ("server", "packed_rows"),
        Kind::YesNo,
        "no",
        "there are no tables",
    ),
    told(
        ("persistence", "auto_aof_rewrite_percentage"),
        COUNT,
        "100",
        REWRITES,
    ),
    told(
        ("persistence", "auto_aof_rewrite_min_size"),
        Kind::Bytes,
        "67108864",
        REWRITES,
    ),
    told(
        ("persistence", "auto_aof_rewrite_bytes"),
        Kind::Bytes,
        "0",
        REWRITES,
    ),
    told(
        ("persistence", "auto_aof_rewrite_interval_secs"),
        COUNT,
        "0",
        "--save makes snapshots by the clock",
    ),
    told(
        ("persistence", "replay_resync"),
        Kind::YesNo,
        "no",
        "a damaged journal is refused, and mended with 'ringkeep repair'",
    ),
    told(
        ("expiry", "hz"),
        COUNT,
        "10",
        "keys expire without a cycle that has a rate",
    ),
    told(
        ("expiry", "sample"),
        COUNT,
        "20",
        "keys expire without samples",
    ),
    told(
        ("log", "level"),
        Kind::Word(LEVELS),
        "info",
        "the log has one level; kevy does not look at this either",
    ),
    told(
        ("log", "output"),
        Kind::Text,
        "stderr",
        "the log goes to stderr, where kevy's goes too",
    ),
    told(("advanced", "spin_limit"), COUNT, "256", LOOPS),
    told(("advanced", "park_timeout_ms"), COUNT, "50", LOOPS),
    told(("advanced", "tick_check_every"), COUNT, "256", LOOPS),
    told(("advanced", "ring_capacity"), COUNT, "1024", LOOPS),
    told(("advanced", "recv_buffers"), COUNT, "1024", LOOPS),
    told(
        ("audit", "log_path"),
        Kind::Text,
        "",
        "there is no audit log; MONITOR and SLOWLOG show commands",
    ),
    told(
        ("feed", "enabled"),
        Kind::YesNo,
        "no",
        "there is no change feed: its commands are unknown",
    ),
    told(
        ("feed", "feed_buffer_size"),
        Kind::Bytes,
        "",
        "there is no change feed",
    ),
    told(
        ("lua", "allow_dialects"),
        Kind::List,
        "",
        "scripts are Lua 5.1 as in Redis, and no other",
    ),
    told(
        ("replication", "replica_read_only"),
        Kind::YesNo,
        "yes",
        "a replica takes no writes here",
    ),
    refused(
        ("replication", "single_source"),
        Kind::YesNo,
        "no",
        "its primary is a program with kevy inside, and a replica here asks the client port of a primary \
         for the number of its streams",
    ),
    refused(("replication", "secure"), Kind::YesNo, "no", ENCRYPTED),
    told(("replication", "upstream_key"), Kind::Text, "", NO_KEYS),
    told(("replication", "replica_keys"), Kind::List, "", NO_KEYS),
    refused(("cluster", "secure"), Kind::YesNo, "no", ENCRYPTED),
    told(("cluster", "peer_keys"), Kind::List, "", NO_KEYS),
    refused(
        ("cluster", "announce_port_base"),
        PORT,
        "0",
        "cluster clients would be sent to ports that are not there for them",
    ),
    refused(
        ("tiering", "budget"),
        Kind::Any,
        "",
        "all data stay in memory here, and what has room on kevy's disk may not have it in memory; \
         [memory] maxmemory limits it",
    ),
    refused(
        ("tiering", "spill_dir"),
        Kind::Text,
        "",
        "it asks for tiering, and all data stay in memory here",
    ),
    told(("secure", "private_key_file"), Kind::Text, "", NO_KEYS),
    refused(
        ("secure", "listen_port"),
        PORT,
        "0",
        "there is no encrypted port for clients, and those that ask for one would find nobody",
    ),
    told(("secure", "client_keys"), Kind::List, "", NO_KEYS),
    told(("secure", "cluster_port_base"), PORT, "0", NO_KEYS),
    told(("secure", "announce_cluster_port_base"), PORT, "0", NO_KEYS),
];

/// The key at a place.
pub(super) fn at(section: &str, key: &str) -> Option<&'static Foreign> {
    let place = (section, key);
    FOREIGN.iter().find(|foreign| foreign.place == place)
}

/// Variables of kevy without a setting here: the value with which nothing is asked for, and the verdict.
pub(super) static VARIABLES: &[(&str, &str, Verdict)] = &[
    (
        "KEVY_TIER_BUDGET",
        "",
        Verdict::Refused("all data stay in memory here; RINGKEEP_MAXMEMORY limits it"),
    ),
    (
        "KEVY_ACCEPT_SHARDS",
        "",
        Verdict::Told("every core accepts clients"),
    ),
    (
        "KEVY_IO_URING",
        "1",
        Verdict::Told("the node has no other way than io_uring"),
    ),
];
