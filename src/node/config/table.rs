//! Every setting: one row each.

/// What a value is, and how a file says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Kind {
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// The same; 0 in a file is as if it said nothing.
    OrNone(i64, i64),
    /// A number of connections; 0 in a file is no limit.
    Connections,
    /// Seconds, which a file gives in milliseconds.
    Seconds,
    Bytes,
    YesNo,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Texts with commas between them, which a file may give as an array.
    List,
    /// IP addresses with blanks between them.
    Addresses,
    /// A text, a number, or yes or no.
    Any,
}

impl Kind {
    /// What a file may say.
    pub(super) fn takes(self) -> String {
        match self {
            Kind::Number(least, most) | Kind::OrNone(least, most) => {
                format!("a number from {least} to {most}")
            }
            Kind::Connections => "a number of connections".into(),
            Kind::Seconds => "a number of milliseconds".into(),
            Kind::Bytes => "a number of bytes, or a text such as \"64mb\"".into(),
            Kind::YesNo => "true or false".into(),
            Kind::Text => "a text".into(),
            Kind::Word(words) => format!("one of: {}", words.join(", ")),
            Kind::List => "a list of texts, or a text with commas".into(),
            Kind::Addresses => "an IP address, or a list of them".into(),
            Kind::Any => "a text or a number".into(),
        }
    }
}

/// A setting.
#[derive(Debug)]
pub(in crate::node) struct Setting {
    /// Its name: the flag without dashes, and RINGKEEP_NAME in the environment.
    pub name: &'static str,
    /// Where it stands in a file: section and key. Those of kevy are its own.
    pub place: (&'static str, &'static str),
    pub kind: Kind,
    pub default: &'static str,
    /// What holds where a kevy.toml says nothing, if that is something else.
    pub kevy_default: Option<&'static str>,
    /// Its variable with kevy.
    pub kevy_variable: &'static str,
    /// Its name for CONFIG GET, if that has it.
    pub parameter: &'static str,
    /// CONFIG SET changes it.
    pub is_live: bool,
    /// It is not shown.
    pub is_secret: bool,
}

/// What most rows share.
const ROW: Setting = Setting {
    name: "",
    place: ("", ""),
    kind: Kind::Text,
    default: "",
    kevy_default: None,
    kevy_variable: "",
    parameter: "",
    is_live: false,
    is_secret: false,
};

/// A row for what a node is started with.
const fn fixed(
    name: &'static str,
    place: (&'static str, &'static str),
    kind: Kind,
    default: &'static str,
) -> Setting {
    Setting {
        name,
        place,
        kind,
        default,
        ..ROW
    }
}

/// A row for what CONFIG SET changes under the same name.
const fn live(
    name: &'static str,
    place: (&'static str, &'static str),
    kind: Kind,
    default: &'static str,
) -> Setting {
    Setting {
        parameter: name,
        is_live: true,
        ..fixed(name, place, kind, default)
    }
}

impl Setting {
    const fn kevy(self, variable: &'static str, default: Option<&'static str>) -> Self {
        Self {
            kevy_variable: variable,
            kevy_default: default,
            ..self
        }
    }

    const fn shown_as(self, parameter: &'static str) -> Self {
        Self { parameter, ..self }
    }

    const fn secret(self) -> Self {
        Self {
            is_secret: true,
            ..self
        }
    }

    /// What it takes, if that is one of some words.
    pub(in crate::node) fn words(&self) -> Option<&'static [&'static str]> {
        match self.kind {
            Kind::YesNo => Some(&["yes", "no"]),
            Kind::Word(words) => Some(words),
            _ => None,
        }
    }

    /// Its variable.
    pub(in crate::node) fn variable(&self) -> String {
        match self.name {
            // The plain name is taken: the tests have the folder of other servers there.
            "peers" => "RINGKEEP_CLUSTER_PEERS".into(),
            name => format!("RINGKEEP_{}", name.replace('-', "_").to_uppercase()),
        }
    }
}

const MAX: i64 = i64::MAX;
const PORT: Kind = Kind::Number(1, 65_535);
const PORT_OR_NONE: Kind = Kind::OrNone(0, 65_535);
const FSYNC: Kind = Kind::Word(&["always", "everysec", "no"]);
const POLICY: Kind = Kind::Word(&[
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]);
const LEVEL: Kind = Kind::Word(&["basic", "multishot", "full"]);

/// All settings, in the order in which they are shown.
pub(in crate::node) static SETTINGS: &[Setting] = &[
    fixed("port", ("server", "port"), PORT, "6379")
        .kevy("KEVY_PORT", Some("6004"))
        .shown_as("port"),
    fixed("bind", ("server", "bind"), Kind::Addresses, "127.0.0.1")
        .kevy("KEVY_BIND", None)
        .shown_as("bind"),
    fixed("unixsocket", ("server", "unixsocket"), Kind::Text, "")
        .kevy("KEVY_UNIX_SOCKET", None)
        .shown_as("unixsocket"),
    fixed("threads", ("server", "threads"), Kind::Number(0, 1024), "0").kevy("KEVY_THREADS", None),
    fixed("shards", ("server", "shards"), Kind::OrNone(0, 4096), ""),
    fixed("cpu-list", ("server", "cpu_list"), Kind::List, ""),
    fixed("pin", ("server", "pin"), Kind::YesNo, "yes"),
    fixed(
        "spin-us",
        ("server", "spin_us"),
        Kind::Number(0, 1_000_000),
        "30",
    ),
    fixed("ring-level", ("server", "ring_level"), LEVEL, ""),
    fixed(
        "databases",
        ("server", "databases"),
        Kind::Number(1, 10_000),
        "16",
    )
    .shown_as("databases"),
    fixed("dir", ("server", "data_dir"), Kind::Text, "")
        .kevy("KEVY_DIR", Some("."))
        .shown_as("dir"),
    live(
        "maxclients",
        ("server", "max_clients"),
        Kind::Connections,
        "10000",
    ),
    live("timeout", ("server", "timeout"), Kind::Number(0, MAX), "0"),
    live(
        "proto-max-bulk-len",
        ("server", "proto_max_bulk_len"),
        Kind::Bytes,
        "536870912",
    ),
    live(
        "client-query-buffer-limit",
        ("server", "client_query_buffer_limit"),
        Kind::Bytes,
        "1073741824",
    ),
    live(
        "client-output-buffer-limit",
        ("server", "client_output_buffer_limit"),
        Kind::Text,
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    ),
    live(
        "tracking-table-max-keys",
        ("server", "tracking_table_max_keys"),
        Kind::Number(0, MAX),
        "1000000",
    ),
    live("requirepass", ("security", "requirepass"), Kind::Text, "").secret(),
    fixed("aclfile", ("security", "aclfile"), Kind::Text, "").shown_as("aclfile"),
    live(
        "acllog-max-len",
        ("security", "acllog_max_len"),
        Kind::Number(0, MAX),
        "128",
    ),
    live(
        "protected-mode",
        ("security", "protected_mode"),
        Kind::YesNo,
        "",
    ),
    fixed("tls-port", ("tls", "port"), PORT_OR_NONE, "").shown_as("tls-port"),
    fixed("tls-replication", ("tls", "replication"), Kind::YesNo, "no").shown_as("tls-replication"),
    live("tls-cert-file", ("tls", "cert_file"), Kind::Text, ""),
    live("tls-key-file", ("tls", "key_file"), Kind::Text, ""),
    live("tls-ca-cert-file", ("tls", "ca_cert_file"), Kind::Text, ""),
    live(
        "tls-auth-clients",
        ("tls", "auth_clients"),
        Kind::Word(&["yes", "no", "optional"]),
        "",
    ),
    fixed("appendonly", ("persistence", "aof"), Kind::YesNo, "")
        .kevy("KEVY_AOF", None)
        .shown_as("appendonly"),
    live(
        "appendfsync",
        ("persistence", "appendfsync"),
        FSYNC,
        "everysec",
    ),
    live("save", ("persistence", "save"), Kind::Text, ""),
    live("maxmemory", ("memory", "maxmemory"), Kind::Bytes, "0"),
    live(
        "maxmemory-policy",
        ("memory", "maxmemory_policy"),
        POLICY,
        "noeviction",
    ),
    live(
        "maxmemory-clients",
        ("memory", "maxmemory_clients"),
        Kind::Text,
        "0",
    ),
    live(
        "maxmemory-samples",
        ("memory", "maxmemory_samples"),
        Kind::Number(1, MAX),
        "5",
    ),
    live(
        "lfu-log-factor",
        ("memory", "lfu_log_factor"),
        Kind::Number(0, MAX),
        "10",
    ),
    live(
        "lfu-decay-time",
        ("memory", "lfu_decay_time"),
        Kind::Number(0, MAX),
        "1",
    ),
    live(
        "notify-keyspace-events",
        ("notification", "notify_keyspace_events"),
        Kind::Text,
        "",
    ),
    live(
        "slowlog-log-slower-than",
        ("slowlog", "slower_than_micros"),
        Kind::Number(i64::MIN, MAX),
        "10000",
    )
    .kevy("", Some("-1")),
    live(
        "slowlog-max-len",
        ("slowlog", "max_len"),
        Kind::Number(0, MAX),
        "128",
    ),
    live(
        "latency-monitor-threshold",
        ("slowlog", "latency_monitor_threshold"),
        Kind::Number(0, MAX),
        "0",
    ),
    live(
        "busy-reply-threshold",
        ("lua", "time_limit_ms"),
        Kind::Number(0, MAX),
        "5000",
    ),
    fixed("cluster", ("cluster", "enabled"), Kind::YesNo, "no")
        .kevy("KEVY_CLUSTER", None)
        .shown_as("cluster-enabled"),
    fixed("cluster-port", ("cluster", "port_base"), PORT_OR_NONE, ""),
    fixed(
        "cluster-announce-ip",
        ("cluster", "announce_ip"),
        Kind::Text,
        "",
    ),
    fixed("cluster-map", ("cluster", "map"), Kind::Text, ""),
    fixed("node-id", ("cluster", "node_id"), Kind::Text, ""),
    fixed("peers", ("cluster", "peers"), Kind::List, ""),
    fixed(
        "elect-port",
        ("cluster", "elect_port_base"),
        PORT_OR_NONE,
        "",
    ),
    fixed(
        "elect-down-after-ms",
        ("cluster", "elect_down_after_ms"),
        Kind::Number(100, 600_000),
        "5000",
    ),
    fixed("scopes", ("cluster", "scopes"), Kind::List, "").shown_as("scopes"),
    live(
        "quorum-writes",
        ("cluster", "quorum_writes"),
        Kind::YesNo,
        "no",
    ),
    fixed("replicaof", ("replication", "upstream"), Kind::Text, ""),
    fixed(
        "replication-port",
        ("replication", "listen_port_base"),
        PORT_OR_NONE,
        "",
    ),
    fixed(
        "node-key-file",
        ("replication", "node_key_file"),
        Kind::Text,
        "",
    )
    .shown_as("node-key-file"),
    live("masterauth", ("replication", "masterauth"), Kind::Text, "").secret(),
    live("masteruser", ("replication", "masteruser"), Kind::Text, ""),
    live(
        "min-replicas-to-write",
        ("replication", "min_replicas_to_write"),
        Kind::Number(0, 1000),
        "0",
    ),
    live(
        "min-replicas-max-lag",
        ("replication", "min_replicas_max_lag_ms"),
        Kind::Seconds,
        "10",
    ),
    live(
        "replica-max-staleness-ms",
        ("replication", "replica_max_staleness_ms"),
        Kind::Number(0, u32::MAX as i64),
        "0",
    ),
    live(
        "replica-serve-stale-data",
        ("replication", "replica_serve_stale_data"),
        Kind::YesNo,
        "yes",
    ),
    live(
        "repl-backlog-size",
        ("replication", "replication_buffer_size"),
        Kind::Bytes,
        "67108864",
    )
    .kevy("", Some("268435456")),
    live(
        "repl-backlog-ttl",
        ("replication", "reconnect_window_ms"),
        Kind::Seconds,
        "3600",
    )
    .kevy("", Some("60")),
    fixed("metrics-port", ("metrics", "listen_port"), PORT_OR_NONE, ""),
    fixed("handoff-socket", ("handoff", "socket"), Kind::Text, ""),
    fixed(
        "handoff-pass-connections",
        ("handoff", "pass_connections"),
        Kind::YesNo,
        "yes",
    ),
];

/// The setting of a name.
pub(super) fn named(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The setting at a place of a file.
pub(super) fn at(section: &str, key: &str) -> Option<&'static Setting> {
    let place = (section, key);
    SETTINGS.iter().find(|setting| setting.place == place)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_settings_share_a_name_a_place_or_a_variable() {
        let mut seen = BTreeSet::new();
        for setting in SETTINGS {
            assert!(seen.insert(setting.name.to_string()), "{setting:?}");
            assert!(seen.insert(format!("{:?}", setting.place)), "{setting:?}");
            assert!(seen.insert(setting.variable()), "{setting:?}");
        }
    }
}
