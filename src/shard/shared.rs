//! What all cores of the node know: settings, and state that is published whole.

use std::path::PathBuf;
use std::sync::{
    Arc, Mutex, OnceLock, RwLock,
    atomic::{
        AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::{
    census::{Census, LatencyLog, Totals},
    certificates::{CertificateFiles, TlsPort},
    changes::AtStart,
    durable::{Durability, Fsync, SavePoints},
    failover::Failovers,
    fleet::Fleet,
    follow::Rollbacks,
    handoff::Handover,
    keyring::Keyring,
    limits::{ClientsMemory, OutputLimits},
    meter::{CoreMeters, Lags},
    scopes::Ownership,
    tls::NodeTls,
};
use crate::{
    acl::{self, Users},
    base::{Ms, Position},
    cmd::Upstream,
    elect::{
        Epoch, NodeId,
        elector::{OtherView, Tally},
        role::{Counters, Role, Signal},
    },
    failover::Place,
    resp::Error,
    script::Scripts,
    store::Policy,
};

/// What the node was started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Client port.
    pub port: u16,
    /// Address to listen on.
    pub bind: String,
    /// Unix socket path, if any.
    pub unix: Option<String>,
    /// Number of cores.
    pub cores: usize,
    /// Number of shards.
    pub shards: usize,
    /// Databases of SELECT.
    pub databases: usize,
    /// How long a core looks for work before it sleeps.
    pub spin_us: u64,
    /// Data directory, if any.
    pub dir: Option<String>,
    /// Address that cluster clients are sent to.
    pub announce: String,
    /// Cluster mode: the port of the first shard. The others follow it.
    pub slots: Option<u16>,
    /// What is written is kept in the data directory.
    pub journals: bool,
    /// Port on which replicas of the first shard connect, if any. The others follow it.
    pub replication_port: Option<u16>,
    /// Bytes of a segment of a journal.
    pub segment_len: u64,
    /// Clients for which there are descriptors.
    pub clients_max: usize,
    /// How long requests take is told by the machine's clock. In a simulated world, which has another one,
    /// they take no time: what is cut short because it takes too long would differ from run to run.
    pub takes_time: bool,
}

#[cfg(test)]
impl Settings {
    /// A node in memory, for tests of its parts.
    pub(super) fn of_a_test(cores: usize, shards: usize) -> Self {
        Self {
            port: 0,
            bind: String::new(),
            unix: None,
            cores,
            shards,
            databases: 1,
            spin_us: 0,
            dir: None,
            journals: false,
            replication_port: None,
            segment_len: 1 << 20,
            clients_max: usize::MAX,
            takes_time: true,
            announce: String::new(),
            slots: None,
        }
    }
}

/// What CONFIG REWRITE does with all parameters. It waits for the disk: its caller is an operator, and a core
/// that stands still meanwhile is what Redis does, too.
pub struct Rewrite(pub Box<Rewriter>);

type Rewriter = dyn Fn(&[(String, String)]) -> Result<(), String> + Send + Sync;

impl std::fmt::Debug for Rewrite {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Rewrite")
    }
}

/// Parameters that CONFIG SET changes at run time.
#[derive(Clone, Debug)]
pub struct Tunables {
    /// Most client connections.
    pub conns_max: usize,
    /// Seconds after which an idle client is closed; 0: never.
    pub timeout_secs: u64,
    /// Longest argument.
    pub bulk_len_max: usize,
    /// Bytes of memory in use above which keys are evicted or writes that need memory are refused; 0: no
    /// limit.
    pub memory_max: usize,
    /// What is evicted.
    pub policy: Policy,
    /// Keys to look at for each one that is evicted.
    pub memory_samples: usize,
    /// How much more seldom a larger count of uses grows.
    pub lfu_log_factor: u32,
    /// Minutes after which the count of uses shrinks by one.
    pub lfu_decay_minutes: u32,
    /// Microseconds from which a command is slow; negative: none is.
    pub slow_us: i64,
    /// Length of the slow log.
    pub slow_len: usize,
    /// Length of ACL LOG.
    pub acl_log_len: usize,
    /// Milliseconds from which the latency monitor notes an event; 0: it notes none.
    pub latency_ms: u64,
    /// What CONFIG SET last made the password of the default user; empty: none.
    pub password: String,
    /// Without a password of the default user, clients of other machines are turned away.
    pub protects: bool,
    /// Bytes that a client may have waiting to be run, what MULTI queues included.
    pub queue_bytes_max: usize,
    /// Bytes that clients may be owed, by class.
    pub output_limits: OutputLimits,
    /// Bytes that all clients may hold together.
    pub clients_memory: ClientsMemory,
    /// Classes of keyspace events that are told.
    pub events: u16,
    /// Keys that the node remembers for clients that track; 0: no limit.
    pub tracking_keys_max: usize,
    /// Replicas without which writes are refused, and for how many seconds one may have said nothing.
    pub replicas_min: usize,
    /// See there.
    pub replica_lag_max_secs: u32,
    /// On a replica, data that is older than so many milliseconds is not read; 0: it is, however old.
    pub staleness_max_ms: u64,
    /// On a replica without a link to its primary, data is read.
    pub serves_stale: bool,
    /// When what was written is synced.
    pub fsync: Fsync,
    /// When snapshots are made by themselves.
    pub save_points: SavePoints,
    /// Bytes of each shard's stream that are kept in memory for replicas.
    pub backlog_len: usize,
    /// For how long they are kept when there is no replica; 0: for ever.
    pub backlog_ttl_secs: u64,
    /// What to show a primary as user and password; empty: nothing.
    pub primary_user: String,
    /// See there.
    pub primary_password: String,
    /// As the primary that members elected, replies wait until a majority has what they tell of.
    pub quorum_writes: bool,
    /// Milliseconds after which other clients are told that a script runs; 0: never.
    pub busy_ms: u64,
    /// What the TLS port serves with, and links between nodes.
    pub certificates: CertificateFiles,
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            conns_max: 10_000,
            timeout_secs: 0,
            bulk_len_max: 512 << 20,
            memory_max: 0,
            policy: Policy::NoEviction,
            memory_samples: 5,
            lfu_log_factor: 10,
            lfu_decay_minutes: 1,
            slow_us: 10_000,
            slow_len: 128,
            acl_log_len: acl::LOG_LEN,
            latency_ms: 0,
            password: String::new(),
            protects: false,
            queue_bytes_max: 1 << 30,
            output_limits: OutputLimits::default(),
            clients_memory: ClientsMemory::Bytes(0),
            events: 0,
            tracking_keys_max: 1_000_000,
            replicas_min: 0,
            replica_lag_max_secs: 10,
            staleness_max_ms: 0,
            serves_stale: true,
            fsync: Fsync::EverySecond,
            save_points: SavePoints::default(),
            backlog_len: 64 << 20,
            backlog_ttl_secs: 3600,
            primary_user: String::new(),
            primary_password: String::new(),
            quorum_writes: false,
            busy_ms: 5000,
            certificates: CertificateFiles::default(),
        }
    }
}

/// Counters of one core, published by it once per tick.
#[derive(Debug, Default)]
#[repr(align(128))]
#[allow(missing_docs)]
pub struct CoreStats {
    pub commands: AtomicU64,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub clients: AtomicUsize,
    pub used: AtomicUsize,
    pub waiting: AtomicUsize,
    pub evictable: AtomicUsize,
    pub evicted: AtomicU64,
    pub clients_bytes: AtomicUsize,
    pub blocked: AtomicUsize,
    pub subscribed: AtomicUsize,
    pub trackers: AtomicUsize,
    pub tracked_keys: AtomicUsize,
    pub tracked_items: AtomicUsize,
    pub tracked_prefixes: AtomicUsize,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub turns: AtomicU64,
    pub expired: AtomicU64,
    pub changes: AtomicU64,
    pub protocol_errors: AtomicU64,
    pub cut_output: AtomicU64,
    pub cut_input: AtomicU64,
    pub cut_idle: AtomicU64,
    pub cut_stalled: AtomicU64,
    pub evicted_clients: AtomicU64,
    pub turns_ended: AtomicU64,
    pub not_accepted: AtomicU64,
    /// CPU time of the thread.
    pub cpu_ns: AtomicU64,
}

/// A counter by its name.
type Counter = (&'static str, fn(&CoreStats) -> u64);

/// The counters that CONFIG RESETSTAT sets back.
pub(super) const COUNTERS: [Counter; 15] = [
    ("accepted", |stats| stats.accepted.load(Relaxed)),
    ("bytes_in", |stats| stats.bytes_in.load(Relaxed)),
    ("bytes_out", |stats| stats.bytes_out.load(Relaxed)),
    ("commands", |stats| stats.commands.load(Relaxed)),
    ("cut_idle", |stats| stats.cut_idle.load(Relaxed)),
    ("cut_input", |stats| stats.cut_input.load(Relaxed)),
    ("cut_output", |stats| stats.cut_output.load(Relaxed)),
    ("cut_stalled", |stats| stats.cut_stalled.load(Relaxed)),
    ("evicted", |stats| stats.evicted.load(Relaxed)),
    ("evicted_clients", |stats| {
        stats.evicted_clients.load(Relaxed)
    }),
    ("expired", |stats| stats.expired.load(Relaxed)),
    ("not_accepted", |stats| stats.not_accepted.load(Relaxed)),
    ("protocol_errors", |stats| {
        stats.protocol_errors.load(Relaxed)
    }),
    ("refused", |stats| stats.refused.load(Relaxed)),
    ("turns_ended", |stats| stats.turns_ended.load(Relaxed)),
];

/// How fast counters grew of late, per second.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Rate {
    pub commands: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Sizes of one database of one shard, published by its core once per tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbSize {
    /// Keys.
    pub keys: usize,
    /// Of them, with a deadline.
    pub expiring: usize,
    /// Bytes of the table.
    pub table_bytes: usize,
    /// Bytes of the index of deadlines.
    pub expiry_bytes: usize,
    /// Bytes held for entries and not in use.
    pub spare_bytes: usize,
}

/// One link to an upstream stream, for INFO.
#[derive(Clone, Debug, Default)]
pub struct LinkView {
    /// It streams.
    pub up: bool,
    /// A snapshot is on its way or being loaded.
    pub syncing: bool,
    /// When the primary was last heard.
    pub heard: Ms,
    /// The data is not older than this; 0: of that nothing is known.
    pub fresh_at: Ms,
    /// Frames applied: the next expected offset.
    pub applied: u64,
    /// The primary's next offset as last heard.
    pub primary_next: u64,
    /// Generation of the history; 0 if the primary has none.
    pub generation: u64,
}

/// One link of a replica, for INFO, ROLE and WAIT.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    /// Where it connects from.
    pub ip: std::net::IpAddr,
    /// Its client port, as far as its name tells.
    pub port: u16,
    /// It has all that there was when it came.
    pub is_online: bool,
    /// It has everything below this offset.
    pub acked: u64,
    /// What of that it would have again after a crash, if it tells.
    pub durable: Option<u64>,
    /// Of which epoch's primary it says that its acknowledgements are.
    pub epoch: Option<u64>,
    /// It is a kevy, which knows nothing of that.
    pub is_kevy: bool,
    /// When it said so.
    pub acked_at: Ms,
    /// How long that took.
    pub lags: Arc<Lags>,
}

/// What follows one shard.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Replicas {
    pub links: Mutex<Vec<ReplicaView>>,
    /// Bytes kept for them, and the offset of the oldest frame.
    pub bytes: AtomicU64,
    pub first: AtomicU64,
    /// Bytes sent to them since the start.
    pub sent: AtomicU64,
    /// How often one came back and went on, and got a snapshot.
    pub resumed: AtomicU64,
    pub shipped: AtomicU64,
    /// How often one came back within its snapshot, and went on with that.
    pub taken_up: AtomicU64,
    /// Sends to them, and those in place: without a copy into the kernel, if it agrees.
    pub sends: AtomicU64,
    pub sends_in_place: AtomicU64,
    /// Of those in place: what the kernel said afterwards.
    pub confirmed: AtomicU64,
    pub copied: AtomicU64,
    /// Links that went back to plain sends for that.
    pub fallbacks: AtomicU64,
    /// Bytes of snapshots, and those of them in memory for large sends that the kernel knows.
    pub ship_bytes: AtomicU64,
    pub ship_bytes_registered: AtomicU64,
    /// Bytes of frames sent, and bytes of frames that had to be composed anew for that.
    pub frame_bytes: AtomicU64,
    pub frame_bytes_copied: AtomicU64,
}

/// What INFO and ROLE say of the primary that this node follows.
#[derive(Clone, Debug, Default)]
pub struct FollowView {
    /// Host as given.
    pub host: String,
    /// Replication base port (as given, until it was found out).
    pub port: u16,
    /// One per upstream stream; empty while the primary is being looked for.
    pub links: Vec<LinkView>,
    /// Why there is no link, or why one ended last.
    pub trouble: String,
    /// What more there is to say of a Redis primary. It has one link.
    pub redis: Option<RedisView>,
}

/// The link to a Redis primary.
#[derive(Clone, Debug, Default)]
pub struct RedisView {
    /// As ROLE names it.
    pub state: &'static str,
    /// Names of its history and of the one before, and where that one ended.
    pub id: String,
    /// See there.
    pub previous: Option<(String, u64)>,
    /// Bytes of the data set that have arrived, and how many there are if that is known.
    pub synced: (u64, Option<u64>),
    /// Since when the link is down.
    pub down_since: Option<Ms>,
    /// Why it went down last.
    pub last_drop: String,
}

/// What all cores of a member of elections know.
#[derive(Debug, Default)]
pub struct Election {
    /// On the clock that goes on while the machine sleeps: from this time on no write is accepted.
    pub writes_until: AtomicU64,
    /// The epoch that this node leads; 0: none. Acknowledgements count that are of it.
    pub epoch_led: AtomicU64,
    /// See `Term` in `src/shard/durable/gate.rs`: of this node as the primary.
    pub term: AtomicU64,
    /// Together with this node, so many members are a majority.
    pub others_needed: AtomicUsize,
    /// Connections that were closed with replies that nobody can give any more.
    pub unanswered: AtomicU64,
    /// Connections to the port of elections that were closed here.
    pub cut: AtomicU64,
    /// How things stand, once the node takes part.
    pub view: Mutex<Option<ElectionView>>,
}

/// How elections stand, for INFO and ELECT.
#[derive(Clone, Debug)]
pub struct ElectionView {
    /// The role, what led to it, and for how many milliseconds it has been that.
    pub role: Role,
    /// See there.
    pub signal: Option<Signal>,
    /// See there.
    pub since: Ms,
    /// The epoch, and that of the primary whose data is here.
    pub epoch: Epoch,
    /// See there.
    pub history: Epoch,
    /// The primary, if one is heard.
    pub primary: Option<NodeId>,
    /// For how many milliseconds writes are accepted if nobody is heard any more.
    pub lease: Ms,
    /// The disk refused a ballot: the node neither votes nor stands.
    pub is_muted: bool,
    /// What happened to the role, and what else.
    pub role_counters: Counters,
    /// See there.
    pub tally: Tally,
    /// The sum of the positions of the data.
    pub offset: u64,
    /// All members, in the order of the list.
    pub members: Vec<MemberView>,
}

impl ElectionView {
    /// The other member that takes clients at this place. Members whose client port is not listed are known
    /// by their address alone.
    pub fn member_at(&self, place: &Place) -> Option<&MemberView> {
        let ip = place.host.parse().ok();
        let is_there = |member: &&MemberView| {
            let has_port = member.client_port.is_none_or(|port| port == place.port);
            member.other.is_some() && has_port && member.ip.is_some() && member.ip == ip
        };
        let mut found = self.members.iter().filter(is_there);
        let one = found.next();
        one.filter(|_| found.next().is_none())
    }

    /// What happened, by name.
    pub fn counts(&self) -> [(&'static str, u64); 15] {
        let (role, tally) = (&self.role_counters, &self.tally);
        [
            ("role_transitions_total", role.transitions.iter().sum()),
            ("leader_changes_total", role.leader_changes),
            ("election_missed_total", role.missed),
            ("election_thrash_total", role.thrash),
            (
                "role_rejected_total",
                role.invalid_pairs + role.signal_mismatches,
            ),
            ("dual_primary_observed_total", tally.dual_primaries),
            ("role_persist_failures_total", tally.persist_failures),
            ("elect_votes_total", tally.votes),
            ("elect_votes_refused_loyal_total", tally.loyal),
            ("elect_votes_refused_ahead_total", tally.ahead),
            ("elect_lease_lapses_total", tally.lapses),
            ("elect_catch_ups_total", tally.catch_ups),
            ("elect_outdated_total", tally.outdated),
            ("elect_handed_over_total", tally.handed_over),
            ("elect_messages_refused_total", tally.refused),
        ]
    }
}

/// A member.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Its name.
    pub id: NodeId,
    /// Its machine, and the address of it, as far as it is known.
    pub host: String,
    /// See there.
    pub ip: Option<std::net::IpAddr>,
    /// Its ports.
    pub elect_port: u16,
    /// See there.
    pub client_port: Option<u16>,
    /// There is a connection to it.
    pub is_reached: bool,
    /// What is wrong with the keys of the two.
    pub trouble: &'static str,
    /// What is known of it; nothing of this node itself.
    pub other: Option<OtherView>,
}

/// What keeps writes from being accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refuses {
    /// This primary may not be the only one any more.
    Fence,
    /// The journal cannot be written.
    Journal,
    /// Too few replicas have acknowledged anything of late.
    Replicas,
}

/// One entry of SLOWLOG.
#[derive(Clone, Debug)]
pub struct SlowEntry {
    /// Number of the entry.
    pub id: u64,
    /// When it ran.
    pub at_secs: u64,
    /// How long it ran.
    pub us: u64,
    /// The request, shortened.
    pub args: Vec<Vec<u8>>,
    /// The client's address.
    pub peer: String,
    /// The client's name.
    pub name: Vec<u8>,
}

/// See the module page.
pub struct Shared {
    /// What the node was started with.
    pub settings: Settings,
    /// Parameters that change at run time; each core copies them once per tick.
    pub tunables: RwLock<Tunables>,
    /// Raised when `tunables` changes.
    pub tunables_version: AtomicU64,
    /// The data set is being replaced: readers get `-LOADING`.
    pub loading: AtomicBool,
    /// This node follows a primary: clients' writes are refused.
    pub following: AtomicBool,
    /// How often the node has stopped to follow anybody: what it holds may have been changed since.
    pub epoch: AtomicU64,
    /// The data of the primary that this node follows is not older than this.
    pub fresh_at: AtomicU64,
    /// There is a link to it, and a data set of it.
    pub is_linked: AtomicBool,
    /// This node follows a primary that says when keys go.
    pub primary_expires: AtomicBool,
    /// Fewer replicas than are wanted for writes have acknowledged something of late.
    pub lacks_replicas: AtomicBool,
    /// Commands of a Redis primary that had no effect here, since its data set came.
    pub unapplied: AtomicU64,
    /// Keys that are due are removed although nobody asks for them.
    pub expires_by_itself: AtomicBool,
    /// The node is to stop.
    pub stop: AtomicBool,
    /// Cores that stop and have written down what they had.
    pub finished: AtomicUsize,
    /// Counts the signals that ask the node to stop.
    pub signals: OnceLock<&'static AtomicU32>,
    /// Whom the node is to follow, as it was said: the port may be that of clients.
    pub told_to_follow: Mutex<Option<(String, u16)>>,
    /// What may be changed at run time, as it was at the start.
    pub at_start: OnceLock<AtStart>,
    /// Brings the file of settings up to date, where there is one.
    pub rewrite: OnceLock<Rewrite>,
    /// Counters per core.
    pub stats: Vec<CoreStats>,
    /// What each core measures.
    pub meters: Vec<CoreMeters>,
    /// What each core counts of its commands.
    pub census: Vec<Arc<Census>>,
    /// What CONFIG RESETSTAT found: counts are shown from there on.
    pub reset: Mutex<Totals>,
    /// How fast counters grew of late, per second.
    pub rate: Mutex<Rate>,
    /// What the latency monitor saw.
    pub latency: Mutex<LatencyLog>,
    /// Sizes per shard and database.
    pub sizes: Vec<Mutex<Vec<DbSize>>>,
    /// The most bytes that were ever in use, as seen at the beats.
    pub used_peak: AtomicUsize,
    /// Replication, for INFO and ROLE.
    pub follow: Mutex<Option<FollowView>>,
    /// Sources of the scripts that were loaded.
    pub scripts: Scripts,
    /// Who may do what, and how often that was changed.
    pub users: Mutex<Arc<Users>>,
    /// See there.
    pub users_version: AtomicU64,
    /// The file that they are read from and written to.
    pub acl_file: Option<PathBuf>,
    /// What other nodes have to prove, and this one proves to them.
    pub node_key: Option<Keyring>,
    /// ACL LOG.
    pub acl_log: Mutex<acl::Log>,
    /// SLOWLOG.
    pub slow: Mutex<(u64, std::collections::VecDeque<SlowEntry>)>,
    /// Names this run of the node.
    pub run_id: String,
    /// When the node started.
    pub started: Ms,
    /// What the ring found, for INFO.
    pub ring: Mutex<String>,
    /// What is durable, and how that is going.
    pub durable: Durability,
    /// What the shards that were loaded are copies of, by shard.
    pub upstreams: Mutex<Vec<(usize, Upstream)>>,
    /// Where the histories of the shards that were loaded ended, with the shard, the newest last.
    pub found: Mutex<Vec<(usize, Position)>>,
    /// Other nodes have some of the slots.
    pub fleet: Option<Fleet>,
    /// The client port for TLS, if there is one.
    pub tls: Option<TlsPort>,
    /// Links between nodes are in TLS.
    pub node_tls: Option<NodeTls>,
    /// This node is a member of elections.
    pub election: Option<Election>,
    /// Keys that one node alone may write to.
    pub scopes: Option<Ownership>,
    /// Failovers to and from this node.
    pub failovers: Failovers,
    /// What this node did that its primary lacks.
    pub rollbacks: Rollbacks,
    /// Who follows each shard.
    pub replicas: Vec<Replicas>,
    /// How far the node is on its way to another process.
    pub handover: Handover,
    /// Clients that wait for replicas.
    pub waiters: AtomicUsize,
    next_client: AtomicU64,
}

impl Shared {
    /// The state of a node that starts now.
    pub fn new(settings: Settings, started: Ms, run_id: String) -> Self {
        Self {
            tunables: RwLock::default(),
            tunables_version: AtomicU64::new(0),
            loading: AtomicBool::new(false),
            following: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            fresh_at: AtomicU64::new(0),
            is_linked: AtomicBool::new(false),
            primary_expires: AtomicBool::new(false),
            lacks_replicas: AtomicBool::new(false),
            unapplied: AtomicU64::new(0),
            expires_by_itself: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            finished: AtomicUsize::new(0),
            signals: OnceLock::new(),
            told_to_follow: Mutex::default(),
            at_start: OnceLock::new(),
            rewrite: OnceLock::new(),
            stats: (0..settings.cores).map(|_| CoreStats::default()).collect(),
            meters: (0..settings.cores).map(|_| CoreMeters::default()).collect(),
            census: (0..settings.cores).map(|_| Arc::default()).collect(),
            reset: Mutex::default(),
            rate: Mutex::default(),
            latency: Mutex::default(),
            sizes: (0..settings.shards).map(|_| Mutex::default()).collect(),
            used_peak: AtomicUsize::new(0),
            follow: Mutex::default(),
            scripts: Scripts::default(),
            users: Mutex::default(),
            users_version: AtomicU64::new(0),
            acl_file: None,
            node_key: None,
            acl_log: Mutex::default(),
            slow: Mutex::default(),
            run_id,
            started,
            ring: Mutex::default(),
            upstreams: Mutex::default(),
            found: Mutex::default(),
            fleet: None,
            tls: None,
            node_tls: None,
            election: None,
            scopes: None,
            failovers: Failovers::default(),
            rollbacks: Rollbacks::default(),
            replicas: (0..settings.shards).map(|_| Replicas::default()).collect(),
            handover: Handover::default(),
            waiters: AtomicUsize::new(0),
            durable: Durability::new(settings.shards, settings.dir.is_some()),
            next_client: AtomicU64::new(1),
            settings,
        }
    }

    /// A number for a new client.
    pub fn next_client(&self) -> u64 {
        self.next_client.fetch_add(1, Relaxed)
    }

    /// Numbers below this one are others'.
    pub fn skip_clients(&self, next: u64) {
        self.next_client.fetch_max(next, Relaxed);
    }

    /// Must the node stop?
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Relaxed)
            || self
                .signals
                .get()
                .is_some_and(|signals| signals.load(Relaxed) > 0)
    }

    /// Sums one counter over all cores.
    pub fn sum(&self, counter: impl Fn(&CoreStats) -> u64) -> u64 {
        self.stats.iter().map(counter).sum()
    }

    /// Why writes are refused.
    pub fn refusal(&self, why: Refuses) -> Error {
        match why {
            Refuses::Fence => Error::fixed("NOREPLICAS primary lost quorum; writes fenced"),
            Refuses::Journal => self.durable.refusal(),
            Refuses::Replicas => Error::fixed("NOREPLICAS Not enough good replicas to write."),
        }
    }

    /// Does what this replica acknowledges count? While primaries are elected, a ringkeep says for which one.
    pub fn counts(&self, replica: &ReplicaView) -> bool {
        let led = |election: &Election| Some(election.epoch_led.load(SeqCst)) == replica.epoch;
        replica.is_kevy || self.election.as_ref().is_none_or(led)
    }

    /// Replicas that have said within so many seconds how far they are: of each shard at least so many.
    pub fn good_replicas(&self, lag_max_secs: u32, now: Ms) -> usize {
        let is_good = |link: &&ReplicaView| {
            let lag = now.saturating_sub(link.acked_at) / 1000;
            link.is_online && lag <= u64::from(lag_max_secs)
        };
        let counts = self.replicas.iter();
        let counts = counts.map(|replicas| lock(&replicas.links).iter().filter(is_good).count());
        counts.min().unwrap_or(0)
    }

    /// Changes by commands since the node started, as of the last beat.
    pub fn changes(&self) -> u64 {
        self.sum(|stats| stats.changes.load(Relaxed))
    }

    /// Those since the last good snapshots began.
    pub fn unsaved_changes(&self) -> u64 {
        let saved = self.durable.saves.good_changes.load(Relaxed);
        self.changes().saturating_sub(saved)
    }

    /// Bytes in use by keys, values and connections, and of values that wait to be freed, by the cores'
    /// own count.
    pub fn used_bytes(&self) -> usize {
        self.stats
            .iter()
            .map(|stats| stats.used.load(Relaxed) + stats.waiting.load(Relaxed))
            .sum()
    }

    /// Bytes that the clients of all cores hold, as they were told last.
    pub fn clients_bytes(&self) -> usize {
        let stats = self.stats.iter();
        stats.map(|stats| stats.clients_bytes.load(Relaxed)).sum()
    }

    /// Client connections of all cores.
    pub fn clients(&self) -> usize {
        self.stats
            .iter()
            .map(|stats| stats.clients.load(Relaxed))
            .sum()
    }
}

/// Locks, also when another thread panicked with the lock held: what is guarded is only ever replaced
/// whole.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
