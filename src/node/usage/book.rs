//! Every command and every option, once: the parser goes by these tables, and `--help`, the man page and the
//! completions of shells are made from them. What a setting takes and what it is without being set is in the
//! table of settings.

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Doctor,
    Import,
    Export,
    Check,
    Repair,
    Reshard,
    Rollback,
    Supervise,
    Upgrade,
    Top,
    ConfigCheck,
    ConfigShow,
    Man,
    Completions,
}

/// A command.
#[derive(Debug)]
pub struct Action {
    pub verb: Verb,
    /// One word, or two.
    pub words: &'static [&'static str],
    /// What follows it, as it is shown.
    pub form: &'static str,
    /// What it takes beside options; empty: nothing.
    pub operand: &'static str,
    /// Its own options.
    pub flags: &'static [Flag],
    /// It has the options of a node, too.
    pub has_node: bool,
    pub text: &'static str,
}

/// An option.
#[derive(Debug)]
pub struct Flag {
    /// With its dashes.
    pub name: &'static str,
    /// What its value is called; empty: it has none.
    pub value: &'static str,
    pub text: &'static str,
}

/// The command of a word, or the commands that begin with it.
pub fn actions(word: &str) -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().filter(move |action| action.words[0] == word)
}

impl Action {
    /// Does it have such an option of its own?
    pub fn knows(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.name == name)
    }

    /// All its words.
    pub fn name(&self) -> String {
        self.words.join(" ")
    }
}

/// What most rows share.
const ROW: Action = Action {
    verb: Verb::Doctor,
    words: &[],
    form: "",
    operand: "",
    flags: &[],
    has_node: false,
    text: "",
};

const fn flag(name: &'static str, value: &'static str, text: &'static str) -> Flag {
    Flag { name, value, text }
}

pub static ACTIONS: &[Action] = &[
    Action {
        verb: Verb::Doctor,
        words: &["doctor"],
        text: "show what this kernel offers and what is in the way",
        ..ROW
    },
    Action {
        verb: Verb::Import,
        words: &["import"],
        form: "--kevy DIR | --rdb FILE | --aof FILE|DIR  --dir OUT [--shards N] [--cluster]",
        flags: &[
            flag("--kevy", "DIR", "a data directory of kevy"),
            flag("--rdb", "FILE", "a snapshot of Redis or Valkey"),
            flag(
                "--aof",
                "FILE|DIR",
                "a log of Redis or Valkey: its directory, or its manifest, or one file",
            ),
            flag(
                "--dir",
                "DIR",
                "the data directory to make; it must be new or empty",
            ),
            flag(
                "--shards",
                "N",
                "the parts to split the keys into (as many as CPUs)",
            ),
            flag("--cluster", "", "make it for cluster mode"),
        ],
        text: "make a data directory out of the data of another server",
        ..ROW
    },
    Action {
        verb: Verb::Export,
        words: &["export"],
        form: "--dir DIR --rdb FILE",
        flags: &[
            flag("--dir", "DIR", "a data directory that no node runs on"),
            flag("--rdb", "FILE", "the file to make"),
        ],
        text: "make an RDB file out of a data directory",
        ..ROW
    },
    Action {
        verb: Verb::Check,
        words: &["check"],
        form: "FILE|DIR..",
        operand: "FILE|DIR",
        text: "tell what it holds and whether it is good",
        ..ROW
    },
    Action {
        verb: Verb::Repair,
        words: &["repair"],
        form: "--truncate-at OFFSET FILE",
        operand: "FILE",
        flags: &[flag(
            "--truncate-at",
            "OFFSET",
            "the first byte to give up, as the start of a node or 'check' has told it",
        )],
        text: "give up what a damaged journal file holds from this byte on",
        ..ROW
    },
    Action {
        verb: Verb::Reshard,
        words: &["reshard"],
        form: "DIR --shards N",
        operand: "DIR",
        flags: &[flag("--shards", "N", "how many there are to be")],
        text: "split a data directory into another number of shards",
        ..ROW
    },
    Action {
        verb: Verb::Rollback,
        words: &["rollback"],
        form: "FILE..",
        operand: "FILE",
        text: "print what a node did that its new primary lacks, as redis-cli --pipe takes it",
        ..ROW
    },
    Action {
        verb: Verb::Supervise,
        words: &["supervise"],
        form: "[--control PATH] [--deadline-ms N] [options]",
        flags: &[
            flag(
                "--control",
                "PATH",
                "the socket at which upgrades are asked for (ringkeep.control)",
            ),
            flag(
                "--deadline-ms",
                "N",
                "the time for an upgrade, loading included (60000)",
            ),
            flag(
                "--unixsocket",
                "PATH",
                "a Unix socket for clients, which the supervisor holds (none)",
            ),
        ],
        has_node: true,
        text: "serve in a process that is started anew when it crashes, and replaced by a new binary \
               without a lost write; SIGHUP: the one now at its path",
        ..ROW
    },
    Action {
        verb: Verb::Upgrade,
        words: &["upgrade"],
        form: "--binary PATH [--control PATH]",
        flags: &[
            flag("--binary", "PATH", "the program that is to serve"),
            flag(
                "--control",
                "PATH",
                "the supervisor's socket (ringkeep.control)",
            ),
        ],
        text: "replace it by this one",
        ..ROW
    },
    Action {
        verb: Verb::Top,
        words: &["top"],
        form: "[--host H] [--port N] [--once]",
        flags: &[
            flag("--host", "HOST", "where the node is (127.0.0.1)"),
            flag("--port", "N", "its client port (6379)"),
            flag("--once", "", "show one frame and end"),
        ],
        text: "show how a node is doing, every second (password: RINGKEEP_PASSWORD)",
        ..ROW
    },
    Action {
        verb: Verb::ConfigCheck,
        words: &["config", "check"],
        form: "[FILE] [options]",
        operand: "FILE",
        has_node: true,
        text: "tell what is wrong with a file of settings, and what is left out of it",
        ..ROW
    },
    Action {
        verb: Verb::ConfigShow,
        words: &["config", "show"],
        form: "[--origin] [options]",
        flags: &[flag("--origin", "", "tell for each where it comes from")],
        has_node: true,
        text: "show every setting, and where it comes from",
        ..ROW
    },
    Action {
        verb: Verb::Man,
        words: &["man"],
        text: "print the manual page",
        ..ROW
    },
    Action {
        verb: Verb::Completions,
        words: &["completions"],
        form: "bash|zsh|fish",
        operand: "bash|zsh|fish",
        text: "print what makes a shell complete these commands and options",
        ..ROW
    },
];

/// Options of a node that are no settings.
pub static PLAIN: &[Flag] = &[
    flag(
        "--config",
        "FILE",
        "read a kevy.toml or a ringkeep.toml (the first one of ringkeep.toml, in RINGKEEP_DIR, here and in \
         /etc/ringkeep, and kevy.toml, in KEVY_DIR, here and in /etc/kevy)",
    ),
    flag("--no-config", "", "look for none"),
    flag("--no-pin", "", "the same as --pin no"),
    flag("--no-aof", "", "the same as --appendonly no"),
];

/// Options that print something and end.
pub static ASKING: &[Flag] = &[
    flag("--help", "", "print this"),
    flag("--version", "", "print the version"),
];

/// Every setting by its name, with what its value is called. A text that does not say in parentheses what
/// holds without it has the default of the setting put there.
pub static SETTINGS: &[Flag] = &[
    flag("--port", "N", "client port"),
    flag("--bind", "ADDR", "address to listen on, may be repeated"),
    flag("--unixsocket", "PATH", "listen on a Unix socket too"),
    flag("--threads", "N", "cores to use (all)"),
    flag(
        "--shards",
        "N",
        "parts of the keyspace, fixed for a data set (as many as cores)",
    ),
    flag(
        "--cpu-list",
        "A,B,..",
        "CPUs to pin the cores to (all usable ones)",
    ),
    flag("--pin", "yes|no", "pin the cores"),
    flag(
        "--spin-us",
        "N",
        "look this long for work before sleeping (30; 0 on shared machines)",
    ),
    flag(
        "--ring-level",
        "LEVEL",
        "use no more of io_uring than this (the best that works)",
    ),
    flag("--databases", "N", "databases of SELECT"),
    flag(
        "--dir",
        "DIR",
        "data directory; what is written is kept there (none: memory only)",
    ),
    flag("--maxclients", "N", "connections of clients"),
    flag(
        "--timeout",
        "SECONDS",
        "close clients that are idle for so long; 0: never",
    ),
    flag(
        "--proto-max-bulk-len",
        "BYTES",
        "longest argument of a request",
    ),
    flag("--client-query-buffer-limit", "BYTES", "longest request"),
    flag(
        "--client-output-buffer-limit",
        "TEXT",
        "what clients of each class may be owed: CLASS HARD SOFT SECONDS ..",
    ),
    flag(
        "--maxmemory-clients",
        "BYTES",
        "what all clients may hold, or a part of maxmemory (5%); 0: no limit",
    ),
    flag(
        "--tracking-table-max-keys",
        "N",
        "keys that are remembered for CLIENT TRACKING",
    ),
    flag("--requirepass", "TEXT", "password of the default user"),
    flag(
        "--aclfile",
        "FILE",
        "users and their rights, as ACL SAVE writes them",
    ),
    flag("--acllog-max-len", "N", "entries of ACL LOG that are kept"),
    flag(
        "--protected-mode",
        "yes|no",
        "turn clients of other machines away while the default user has no password (no where --bind is \
         given)",
    ),
    flag("--tls-port", "N", "client port for TLS"),
    flag(
        "--tls-replication",
        "yes|no",
        "what nodes say to each other is in TLS, with certificates on both sides",
    ),
    flag(
        "--tls-cert-file",
        "FILE",
        "certificate that clients in TLS, and other nodes, are shown",
    ),
    flag("--tls-key-file", "FILE", "the key to it"),
    flag(
        "--tls-ca-cert-file",
        "FILE",
        "authorities that clients' certificates have to come from",
    ),
    flag(
        "--tls-auth-clients",
        "yes|no|optional",
        "clients have to show a certificate (yes where there is an authority)",
    ),
    flag(
        "--appendonly",
        "yes|no",
        "keep a journal in the data directory (yes where there is one)",
    ),
    flag(
        "--appendfsync",
        "WHEN",
        "always: before the reply; everysec: each second; no: never",
    ),
    flag(
        "--save",
        "'SECS N ..'",
        "snapshots SECS after the last ones if there were N changes (none; with a journal they are made when \
         it has grown by their size)",
    ),
    flag("--maxmemory", "BYTES", "memory for data; 0: no limit"),
    flag(
        "--maxmemory-policy",
        "POLICY",
        "what goes when it is used up",
    ),
    flag(
        "--maxmemory-samples",
        "N",
        "keys that are looked at to find the one that goes",
    ),
    flag(
        "--lfu-log-factor",
        "N",
        "how slowly the count of uses grows",
    ),
    flag(
        "--lfu-decay-time",
        "MINUTES",
        "after so long without a use the count goes down by one",
    ),
    flag(
        "--notify-keyspace-events",
        "CLASSES",
        "events that are published, as letters",
    ),
    flag(
        "--slowlog-log-slower-than",
        "US",
        "note commands that take longer; below 0: none",
    ),
    flag("--slowlog-max-len", "N", "so many of them are kept"),
    flag(
        "--latency-monitor-threshold",
        "MS",
        "note events that take as long; 0: none",
    ),
    flag(
        "--busy-reply-threshold",
        "MS",
        "clients are told BUSY while a script runs for longer",
    ),
    flag(
        "--cluster",
        "yes|no",
        "cluster mode: slots, and one more port for each shard; yes need not be said",
    ),
    flag(
        "--cluster-port",
        "N",
        "port of the first shard, the others follow (the one after the client port)",
    ),
    flag(
        "--cluster-announce-ip",
        "ADDR",
        "where cluster clients are sent (the first address to listen on)",
    ),
    flag(
        "--cluster-map",
        "FILE",
        "which nodes have which slots, this one (--node-id) included; the same file for all (none: this node \
         has them all)",
    ),
    flag(
        "--node-id",
        "NAME",
        "this node's name among the members that elect a primary",
    ),
    flag(
        "--peers",
        "LIST",
        "all members as kevy lists them, this one included: ID@HOST:ELECT:CLIENT[:REPL],.. (none: no \
         elections)",
    ),
    flag(
        "--elect-port",
        "N",
        "port on which members speak to each other (the client port + 200)",
    ),
    flag(
        "--elect-down-after-ms",
        "N",
        "a primary that is not heard for so long is gone; another value than kevy's is for fleets without \
         kevys, and the same for all",
    ),
    flag(
        "--scopes",
        "LIST",
        "keys that one node alone may write to, which --node-id names, and which one does while that is \
         down: PREFIX=NODE or PREFIX=NODE|FALLBACK,..",
    ),
    flag(
        "--quorum-writes",
        "yes|no",
        "a primary that was elected answers a write when a majority has it",
    ),
    flag(
        "--replicaof",
        "H:P",
        "follow a Redis at its client port, or a kevy at that or its replication base port",
    ),
    flag(
        "--replication-port",
        "N",
        "port for replicas of the first shard, the others follow; 0: none (the client port + 10000; with \
         --requirepass or --aclfile none but for --node-key-file)",
    ),
    flag(
        "--masterauth",
        "TEXT",
        "password that a Redis primary is shown",
    ),
    flag(
        "--masteruser",
        "NAME",
        "user that goes with it (the default one)",
    ),
    flag(
        "--node-key-file",
        "FILE",
        "file with a secret of 16 to 1024 bytes that nodes of a fleet share: whoever does not prove it is no \
         replica, primary or member here, kevys among them",
    ),
    flag(
        "--min-replicas-to-write",
        "N",
        "refuse writes while fewer replicas have acknowledged anything of late",
    ),
    flag(
        "--min-replicas-max-lag",
        "SECONDS",
        "what of late means there",
    ),
    flag(
        "--replica-max-staleness-ms",
        "N",
        "on a replica, refuse reads of data that may be older; 0: never",
    ),
    flag(
        "--replica-serve-stale-data",
        "yes|no",
        "on a replica without its primary, answer reads",
    ),
    flag(
        "--repl-backlog-size",
        "BYTES",
        "what is kept for replicas that come back, for each shard",
    ),
    flag(
        "--repl-backlog-ttl",
        "SECONDS",
        "it is kept for so long without a replica",
    ),
    flag(
        "--metrics-port",
        "N",
        "port where a Prometheus reads http://HOST:N/metrics; it asks nobody who they are",
    ),
    flag(
        "--handoff-socket",
        "PATH",
        "where a supervisor hands the node over to another process, without a lost write",
    ),
    flag(
        "--handoff-pass-connections",
        "yes|no",
        "as the successor, take the clients' connections over; no: they are closed",
    ),
];
