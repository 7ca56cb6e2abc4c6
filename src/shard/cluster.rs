//! Cluster mode: every shard looks like a node of its own, with a range of slots and a port that the core
//! of the shard listens on. A cluster client learns the ports from CLUSTER SLOTS and goes straight to the
//! core that has its keys; whoever comes to the wrong one is told the right one. The client port serves
//! all keys, as without cluster mode.

use super::{conn::Conn, fleet::CROSS_SLOT, requests::Work, state::State};
use crate::{
    base::parse_i64,
    cmd::{self, Keys, Run, Spec, Verb},
    resp::{Args, Error},
    route::{SLOT_COUNT, slot, slot_range, slot_shard},
};

const DISABLED: Error = Error::fixed("ERR This instance has cluster support disabled");
const FIXED: Error = Error::fixed(
    "ERR the slots of a ringkeep are fixed: nothing adds, moves or forgets slots and nodes",
);
const NO_SELECT: Error = Error::fixed("ERR SELECT is not allowed in cluster mode");

/// Subcommands of other servers that change nodes and slots.
const CHANGES: [&[u8]; 14] = [
    b"addslots",
    b"addslotsrange",
    b"bumpepoch",
    b"delslots",
    b"delslotsrange",
    b"failover",
    b"flushslots",
    b"forget",
    b"meet",
    b"replicate",
    b"reset",
    b"saveconfig",
    b"set-config-epoch",
    b"setslot",
];

/// The name of a shard's node, as kevy names them.
fn id(shard: usize) -> String {
    format!("{:040}", shard + 1)
}

impl State {
    /// Is the node a cluster of its own, with a port for each shard?
    pub(super) fn has_slots(&self) -> bool {
        self.shared.settings.slots.is_some()
    }

    fn address(&self, shard: usize) -> (&str, u16) {
        let settings = &self.shared.settings;
        let first = settings.slots.unwrap_or(settings.port);
        (&settings.announce, first + shard as u16)
    }

    /// Where a request that came to the port of a shard must go instead, if it may not run there.
    pub(super) fn misplaced(&self, shard: usize, spec: &Spec, args: Args<'_>) -> Option<Error> {
        let keys = match (spec.keys, spec.run) {
            // A script's keys are those it says it has.
            (Keys::All, Run::Script) => Keys::Counted { count: 2, also: 0 },
            (keys, _) => keys,
        };
        let (mut one, mut several) = (None, false);
        keys.for_each(args, |at| {
            let slot = slot(args.at(at));
            several |= one.is_some_and(|one| one != slot);
            one = Some(slot);
        });
        let slot = one?;
        if several {
            return Some(CROSS_SLOT);
        }
        let right = slot_shard(slot, self.homes.shards.count());
        let (host, port) = self.address(right);
        (right != shard).then(|| Error::text(format!("MOVED {slot} {host}:{port}")))
    }

    /// Is this a command on keys of the shard to whose port it came?
    pub(super) fn is_at_its_port(&self, shard: usize, spec: &Spec, args: Args<'_>) -> bool {
        !matches!(spec.keys, Keys::All) && self.misplaced(shard, spec, args).is_none()
    }

    /// The shard that a command on all keys is narrowed to: on the port of a shard it sees the keys that
    /// a cluster client expects there. Such a client adds up what all nodes answer.
    pub(super) fn narrowed(&self, conn: &Conn, spec: &Spec) -> Option<usize> {
        match (spec.keys, spec.run) {
            (Keys::All, Run::Store(_)) => conn.port_shard,
            _ => None,
        }
    }

    /// SELECT in cluster mode.
    pub(super) fn may_select(&self, db: i64) -> Result<(), Error> {
        if db != 0 && self.shared.is_cluster() {
            return Err(NO_SELECT);
        }
        Ok(())
    }

    /// READONLY, READWRITE and ASKING. Where no replica is asked they change nothing: every node has its
    /// slots for good.
    pub(super) fn cluster_mode(&self, conn: &mut Conn, verb: Verb) {
        if !self.shared.is_cluster() {
            return conn.out.error(&DISABLED);
        }
        match verb {
            Verb::ReadOnly => conn.reads_replica = true,
            Verb::ReadWrite => conn.reads_replica = false,
            _ => {}
        }
        conn.out.ok();
    }

    /// CLUSTER. `waits`: its reply may wait for another core.
    pub(super) fn cluster(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>, waits: bool) {
        if !self.shared.is_cluster() {
            return conn.out.error(&DISABLED);
        }
        let sub = args.at(1).to_ascii_lowercase();
        if CHANGES.contains(&&sub[..]) {
            return conn.out.error(&FIXED);
        }
        if let Err(error) = cmd::subcommand(spec, args) {
            return conn.out.error(&error);
        }
        if self.shared.fleet.is_some() {
            return self.fleet_view(conn, &sub, (spec, args), waits);
        }
        let myself = conn.port_shard.unwrap_or(0);
        match &sub[..] {
            b"slots" => self.cluster_slots(conn),
            b"shards" => self.cluster_shards(conn),
            b"nodes" => {
                let nodes = self.cluster_nodes(myself);
                conn.out.verbatim(&nodes);
            }
            b"info" => {
                let info = self.cluster_info(myself);
                conn.out.verbatim(&info);
            }
            b"myid" | b"myshardid" => conn.out.bulk_str(&id(myself)),
            b"keyslot" => conn.out.int(i64::from(slot(args.at(2)))),
            b"links" => conn.out.array(0),
            b"replicas" | b"slaves" if self.is_node(args.at(2)) => conn.out.array(0),
            b"count-failure-reports" if self.is_node(args.at(2)) => conn.out.int(0),
            b"replicas" | b"slaves" | b"count-failure-reports" => {
                let name = String::from_utf8_lossy(args.at(2)).into_owned();
                conn.out
                    .error(&Error::text(format!("ERR Unknown node {name}")));
            }
            b"countkeysinslot" | b"getkeysinslot" => self.keys_in_slot(conn, args, waits),
            _ => cmd::help(&mut conn.out, spec),
        }
    }

    fn is_node(&self, name: &[u8]) -> bool {
        (0..self.homes.shards.count()).any(|shard| id(shard).as_bytes() == name)
    }

    fn cluster_slots(&self, conn: &mut Conn) {
        let count = self.homes.shards.count();
        conn.out.array(count);
        for shard in 0..count {
            let (first, end) = slot_range(shard, count);
            let (host, port) = self.address(shard);
            conn.out.array(3);
            conn.out.int(i64::from(first));
            conn.out.int(i64::from(end) - 1);
            conn.out.array(4);
            conn.out.bulk_str(host);
            conn.out.int(i64::from(port));
            conn.out.bulk_str(&id(shard));
            conn.out.array(0);
        }
    }

    fn cluster_shards(&self, conn: &mut Conn) {
        let count = self.homes.shards.count();
        conn.out.array(count);
        for shard in 0..count {
            let (first, end) = slot_range(shard, count);
            let (host, port) = self.address(shard);
            let out = &mut conn.out;
            out.map(2);
            out.bulk_str("slots");
            out.array(2);
            out.int(i64::from(first));
            out.int(i64::from(end) - 1);
            out.bulk_str("nodes");
            out.array(1);
            out.map(7);
            out.bulk_str("id");
            out.bulk_str(&id(shard));
            out.bulk_str("port");
            out.int(i64::from(port));
            out.bulk_str("ip");
            out.bulk_str(host);
            out.bulk_str("endpoint");
            out.bulk_str(host);
            out.bulk_str("role");
            out.bulk_str("master");
            out.bulk_str("replication-offset");
            out.int(0);
            out.bulk_str("health");
            out.bulk_str("online");
        }
    }

    fn cluster_nodes(&self, myself: usize) -> String {
        let count = self.homes.shards.count();
        let line = |shard: usize| {
            let (first, end) = slot_range(shard, count);
            let (host, port) = self.address(shard);
            let mark = if shard == myself { "myself," } else { "" };
            let epoch = shard + 1;
            format!(
                "{} {host}:{port}@{port} {mark}master - 0 0 {epoch} connected {first}-{}\n",
                id(shard),
                end - 1
            )
        };
        (0..count).map(line).collect()
    }

    fn cluster_info(&self, myself: usize) -> String {
        let count = self.homes.shards.count();
        [
            ("cluster_enabled", "1".to_string()),
            ("cluster_state", "ok".into()),
            ("cluster_slots_assigned", SLOT_COUNT.to_string()),
            ("cluster_slots_ok", SLOT_COUNT.to_string()),
            ("cluster_slots_pfail", "0".into()),
            ("cluster_slots_fail", "0".into()),
            ("cluster_known_nodes", count.to_string()),
            ("cluster_size", count.to_string()),
            ("cluster_current_epoch", count.to_string()),
            ("cluster_my_epoch", (myself + 1).to_string()),
            ("cluster_stats_messages_sent", "0".into()),
            ("cluster_stats_messages_received", "0".into()),
        ]
        .map(|(name, value)| format!("{name}:{value}\r\n"))
        .concat()
    }

    /// COUNTKEYSINSLOT and GETKEYSINSLOT, which run where the slot's shard is, or on all where shards have no
    /// slots.
    pub(super) fn keys_in_slot(&mut self, conn: &mut Conn, args: Args<'_>, waits: bool) {
        let wants_keys = args.len() == 4;
        let in_range = |slot: &i64| (0..i64::from(SLOT_COUNT)).contains(slot);
        let Some(slot) = parse_i64(args.at(2)) else {
            return conn.out.error(&Error::NOT_INTEGER);
        };
        if wants_keys {
            let Some(count) = parse_i64(args.at(3)) else {
                return conn.out.error(&Error::NOT_INTEGER);
            };
            if !in_range(&slot) || count < 0 {
                let text = "ERR Invalid slot or number of keys";
                return conn.out.error(&Error::fixed(text));
            }
        } else if !in_range(&slot) {
            return conn.out.error(&Error::fixed("ERR Invalid slot"));
        }
        let Run::Store(run) = cmd::KEYS_IN_SLOT.run else {
            return;
        };
        if !waits {
            let text = "ERR keys of a slot cannot be counted inside a transaction";
            return conn.out.error(&Error::fixed(text));
        }
        let count = self.homes.shards.count();
        let only = self.has_slots().then(|| slot_shard(slot as u16, count));
        self.collect_for(
            conn,
            &cmd::KEYS_IN_SLOT,
            Work::Store(run),
            args,
            only.map_or_else(|| (0..count).collect(), |shard| vec![shard]),
            only,
        );
    }
}
