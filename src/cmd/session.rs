//! Commands of the connection, the core and the node. Their rows are here; their work is done where
//! that state lives (`shard`).

use super::{Keys, Spec, effects::Rule, flag::*, spec::Run};

/// A command that is not run on stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Verb {
    Acl,
    Asking,
    Auth,
    BgRewriteAof,
    BgSave,
    Client,
    Cluster,
    Command,
    Config,
    Debug,
    Discard,
    Echo,
    Elect,
    Failover,
    ReplFailover,
    Exec,
    Hello,
    Info,
    LastSave,
    Latency,
    Lolwut,
    Memory,
    Monitor,
    Multi,
    Ping,
    PSubscribe,
    Publish,
    PubSub,
    PUnsubscribe,
    Quit,
    ReadOnly,
    ReadWrite,
    ReplicaOf,
    Reset,
    Role,
    Save,
    Select,
    Shutdown,
    SlowLog,
    SPublish,
    SSubscribe,
    Subscribe,
    SUnsubscribe,
    Time,
    Unsubscribe,
    Unwatch,
    ReplDigest,
    ReplToken,
    ReplWait,
    Wait,
    WaitAof,
    Watch,
}

impl Verb {
    /// The subcommands of a command that has some, as `command|subcommand` in small letters, with their
    /// arity. Empty for all others.
    pub fn subcommands(self) -> &'static [(&'static str, i16)] {
        match self {
            Verb::Client => CLIENT,
            Verb::PubSub => PUBSUB_SUBCOMMANDS,
            Verb::SlowLog => SLOWLOG,
            _ => &[],
        }
    }

    /// Does the reply tell nothing of any key or value, or of what became of other requests?
    pub fn is_blind(self) -> bool {
        matches!(
            self,
            Verb::Auth
                | Verb::Command
                | Verb::Config
                | Verb::Echo
                | Verb::Elect
                | Verb::Failover
                | Verb::Hello
                | Verb::Info
                | Verb::Ping
                | Verb::Role
                | Verb::Select
                | Verb::Time
        )
    }
}

const CLIENT: &[(&str, i16)] = &[
    ("client|caching", 3),
    ("client|getname", 2),
    ("client|getredir", 2),
    ("client|help", 2),
    ("client|id", 2),
    ("client|info", 2),
    ("client|kill", -3),
    ("client|list", -2),
    ("client|no-evict", 3),
    ("client|no-touch", 3),
    ("client|pause", -3),
    ("client|reply", 3),
    ("client|setinfo", 4),
    ("client|setname", 3),
    ("client|tracking", -3),
    ("client|trackinginfo", 2),
    ("client|unblock", -3),
    ("client|unpause", 2),
];

const PUBSUB_SUBCOMMANDS: &[(&str, i16)] = &[
    ("pubsub|channels", -2),
    ("pubsub|help", 2),
    ("pubsub|numpat", 2),
    ("pubsub|numsub", -2),
    ("pubsub|shardchannels", -2),
    ("pubsub|shardnumsub", -2),
];

const SLOWLOG: &[(&str, i16)] = &[
    ("slowlog|get", -2),
    ("slowlog|help", 2),
    ("slowlog|len", 2),
    ("slowlog|reset", 2),
];

const ALWAYS: u32 = LOADING | STALE | FAST;

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::session(
        "ACL",
        -2,
        ADMIN | LOADING | STALE | NO_SCRIPT,
        "Shows who may run commands",
        Verb::Acl,
    ),
    Spec::session(
        "ASKING",
        1,
        FAST,
        "Says that a cluster client was sent here for one request",
        Verb::Asking,
    ),
    Spec::session(
        "AUTH",
        -2,
        ALWAYS | NO_SCRIPT,
        "Authenticates the connection",
        Verb::Auth,
    ),
    Spec::session(
        "BGREWRITEAOF",
        1,
        ADMIN | NO_SCRIPT,
        "Rewrites the journal",
        Verb::BgRewriteAof,
    ),
    Spec::session(
        "BGSAVE",
        -1,
        ADMIN | NO_SCRIPT,
        "Saves the data set in the background",
        Verb::BgSave,
    ),
    Spec::session(
        "CLIENT",
        -2,
        LOADING | STALE | NO_SCRIPT,
        "Shows and controls connections",
        Verb::Client,
    ),
    Spec::session(
        "CLUSTER",
        -2,
        LOADING | STALE,
        "Shows the cluster view",
        Verb::Cluster,
    ),
    Spec::session(
        "COMMAND",
        -1,
        LOADING | STALE,
        "Describes the commands",
        Verb::Command,
    ),
    Spec::session(
        "CONFIG",
        -2,
        ADMIN | LOADING | STALE | NO_SCRIPT,
        "Reads and sets parameters",
        Verb::Config,
    ),
    Spec::session(
        "DEBUG",
        -2,
        ADMIN | LOADING | STALE | NO_SCRIPT,
        "Helps to test the node",
        Verb::Debug,
    ),
    Spec::session(
        "DISCARD",
        1,
        ALWAYS | NO_SCRIPT,
        "Drops the queued commands of MULTI",
        Verb::Discard,
    ),
    Spec::session("ECHO", 2, ALWAYS, "Answers the given text", Verb::Echo),
    Spec::session(
        "ELECT",
        -2,
        ADMIN | LOADING | STALE,
        "Tells who elects a primary, and whom",
        Verb::Elect,
    ),
    Spec::session(
        "FAILOVER",
        -1,
        ADMIN | STALE | NO_SCRIPT,
        "Hands the part of the primary over to a replica",
        Verb::Failover,
    ),
    Spec::session(
        "EXEC",
        1,
        LOADING | STALE | NO_SCRIPT,
        "Runs the queued commands of MULTI",
        Verb::Exec,
    ),
    Spec::session(
        "HELLO",
        -1,
        ALWAYS | NO_SCRIPT,
        "Chooses the protocol version",
        Verb::Hello,
    ),
    Spec::session(
        "INFO",
        -1,
        LOADING | STALE,
        "Tells about the node",
        Verb::Info,
    ),
    Spec::session(
        "LASTSAVE",
        1,
        ALWAYS,
        "Tells when the data set was last saved",
        Verb::LastSave,
    ),
    Spec::session(
        "LATENCY",
        -2,
        ADMIN | LOADING | STALE | NO_SCRIPT,
        "Shows latency events",
        Verb::Latency,
    ),
    Spec::session("LOLWUT", -1, READ | FAST, "Shows the version", Verb::Lolwut),
    Spec {
        name: "MEMORY",
        arity: -2,
        flags: READ,
        keys: Keys::one(2),
        summary: "Tells what memory is used for",
        run: Run::Session(Verb::Memory),
        effect: Rule::None,
    },
    Spec::session(
        "MONITOR",
        1,
        ADMIN | LOADING | STALE | NO_SCRIPT,
        "Shows every request that the node serves",
        Verb::Monitor,
    ),
    Spec::session(
        "MULTI",
        1,
        ALWAYS | NO_SCRIPT,
        "Starts to queue commands for EXEC",
        Verb::Multi,
    ),
    Spec::session(
        "PING",
        -1,
        FAST,
        "Answers PONG or the given text",
        Verb::Ping,
    ),
    Spec::session(
        "PSUBSCRIBE",
        -2,
        PUBSUB | LOADING | STALE | NO_SCRIPT,
        "Listens to channel patterns",
        Verb::PSubscribe,
    ),
    Spec::session(
        "PUBLISH",
        3,
        PUBSUB | ALWAYS,
        "Sends a message to a channel",
        Verb::Publish,
    ),
    Spec::session(
        "PUBSUB",
        -2,
        PUBSUB | LOADING | STALE,
        "Shows subscriptions",
        Verb::PubSub,
    ),
    Spec::session(
        "PUNSUBSCRIBE",
        -1,
        PUBSUB | LOADING | STALE | NO_SCRIPT,
        "Stops listening to patterns",
        Verb::PUnsubscribe,
    ),
    Spec::session(
        "QUIT",
        -1,
        ALWAYS | NO_SCRIPT,
        "Closes the connection",
        Verb::Quit,
    ),
    Spec::session(
        "READONLY",
        1,
        ALWAYS,
        "Lets a cluster client read from replicas",
        Verb::ReadOnly,
    ),
    Spec::session(
        "READWRITE",
        1,
        ALWAYS,
        "Ends what READONLY began",
        Verb::ReadWrite,
    ),
    Spec::session(
        "REPLICAOF",
        3,
        ADMIN | STALE | NO_SCRIPT,
        "Follows a primary, or stops",
        Verb::ReplicaOf,
    ),
    Spec::session(
        "RESET",
        1,
        ALWAYS | NO_SCRIPT,
        "Resets the connection",
        Verb::Reset,
    ),
    Spec::session(
        "ROLE",
        1,
        ALWAYS | NO_SCRIPT,
        "Tells the replication role",
        Verb::Role,
    ),
    Spec::session(
        "SAVE",
        1,
        ADMIN | NO_SCRIPT | NO_MULTI,
        "Saves the data set",
        Verb::Save,
    ),
    Spec::session("SELECT", 2, ALWAYS, "Chooses the database", Verb::Select),
    Spec::session(
        "SHUTDOWN",
        -1,
        ADMIN | LOADING | STALE | NO_SCRIPT | NO_MULTI,
        "Stops the node",
        Verb::Shutdown,
    ),
    Spec::session(
        "SLAVEOF",
        3,
        ADMIN | STALE | NO_SCRIPT,
        "Follows a primary, or stops",
        Verb::ReplicaOf,
    ),
    Spec::session(
        "SLOWLOG",
        -2,
        ADMIN | LOADING | STALE,
        "Shows slow commands",
        Verb::SlowLog,
    ),
    Spec {
        name: "SPUBLISH",
        arity: 3,
        flags: PUBSUB | ALWAYS,
        keys: Keys::one(1),
        summary: "Sends a message to a shard channel",
        run: Run::Session(Verb::SPublish),
        effect: Rule::None,
    },
    Spec {
        name: "SSUBSCRIBE",
        arity: -2,
        flags: PUBSUB | LOADING | STALE | NO_SCRIPT,
        keys: Keys::range(1, -1),
        summary: "Listens to shard channels",
        run: Run::Session(Verb::SSubscribe),
        effect: Rule::None,
    },
    Spec::session(
        "SUBSCRIBE",
        -2,
        PUBSUB | LOADING | STALE | NO_SCRIPT,
        "Listens to channels",
        Verb::Subscribe,
    ),
    Spec {
        name: "SUNSUBSCRIBE",
        arity: -1,
        flags: PUBSUB | LOADING | STALE | NO_SCRIPT,
        keys: Keys::range(1, -1),
        summary: "Stops listening to shard channels",
        run: Run::Session(Verb::SUnsubscribe),
        effect: Rule::None,
    },
    Spec::session(
        "TIME",
        1,
        ALWAYS | RANDOM,
        "Tells the node's clock",
        Verb::Time,
    ),
    Spec::session(
        "UNSUBSCRIBE",
        -1,
        PUBSUB | LOADING | STALE | NO_SCRIPT,
        "Stops listening to channels",
        Verb::Unsubscribe,
    ),
    Spec::session(
        "UNWATCH",
        1,
        ALWAYS | NO_SCRIPT,
        "Forgets the watched keys",
        Verb::Unwatch,
    ),
    Spec::session(
        "REPL.DIGEST",
        1,
        NO_MULTI,
        "Sums up all data, to be compared with what another node says",
        Verb::ReplDigest,
    ),
    Spec::session(
        "REPL.FAILOVER",
        -3,
        ADMIN | STALE | NO_SCRIPT | NO_MULTI,
        "What a primary that hands its part over says to the next one",
        Verb::ReplFailover,
    ),
    Spec::session(
        "REPL.TOKEN",
        1,
        0,
        "Names how far the streams are, for REPL.WAIT on a replica",
        Verb::ReplToken,
    ),
    Spec::session(
        "REPL.WAIT",
        -1,
        BLOCKING,
        "Waits until a replica is as far as a token says",
        Verb::ReplWait,
    ),
    Spec::session("WAIT", 3, BLOCKING, "Waits for replicas", Verb::Wait),
    Spec::session(
        "WAITAOF",
        4,
        BLOCKING,
        "Waits for the disk, of this node and of replicas",
        Verb::WaitAof,
    ),
    Spec {
        name: "WATCH",
        arity: -2,
        flags: ALWAYS | NO_SCRIPT,
        keys: Keys::range(1, -1),
        summary: "Makes EXEC depend on keys being unchanged",
        run: Run::Session(Verb::Watch),
        effect: Rule::None,
    },
];
