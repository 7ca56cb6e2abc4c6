//! What CLUSTER tells of a fleet.

use super::{
    super::{conn::Conn, info, state::State},
    Fleet,
};
use crate::{
    cmd::{self, Spec},
    resp::{Args, Error, Out},
    route::{SLOT_COUNT, slot},
};

/// No member but this node has said how far it is.
const OFFSET_UNKNOWN: i64 = 0;

impl Fleet {
    fn slots(&self, out: &mut Out) {
        let ranges = self.map.ranges().iter().enumerate();
        let pieces =
            ranges.flat_map(|(at, range)| range.slots.iter().map(move |piece| (at, piece)));
        out.array(pieces.clone().count());
        for (range, (first, last)) in pieces {
            let shown = self.in_order(range);
            out.array(2 + shown.len());
            out.int(i64::from(*first));
            out.int(i64::from(*last));
            for at in shown {
                let member = &self.members(range)[at];
                out.array(4);
                out.bulk_str(&member.at.ip().to_string());
                out.int(i64::from(member.at.port()));
                out.bulk_str(&member.name);
                out.array(0);
            }
        }
    }

    /// The primary, and then the replicas that are reached: clients read from those.
    fn in_order(&self, range: usize) -> Vec<usize> {
        let primary = self.shown_primary(range);
        let others = (0..self.members(range).len()).filter(|at| *at != primary);
        let others = others.filter(|at| self.is_reached(range, *at));
        std::iter::once(primary).chain(others).collect()
    }

    fn shards(&self, out: &mut Out, own_offset: i64) {
        out.array(self.map.ranges().len());
        for (at, range) in self.map.ranges().iter().enumerate() {
            out.map(2);
            out.bulk_str("slots");
            out.array(2 * range.slots.len());
            for (first, last) in &range.slots {
                out.int(i64::from(*first));
                out.int(i64::from(*last));
            }
            out.bulk_str("nodes");
            out.array(range.members.len());
            for (place, member) in range.members.iter().enumerate() {
                let is_primary = place == self.shown_primary(at);
                let is_reached = self.is_reached(at, place);
                let is_own = (at, place) == (self.own, self.me);
                let ip = member.at.ip().to_string();
                out.map(7);
                out.bulk_str("id");
                out.bulk_str(&member.name);
                out.bulk_str("port");
                out.int(i64::from(member.at.port()));
                out.bulk_str("ip");
                out.bulk_str(&ip);
                out.bulk_str("endpoint");
                out.bulk_str(&ip);
                out.bulk_str("role");
                out.bulk_str(if is_primary { "master" } else { "replica" });
                out.bulk_str("replication-offset");
                out.int(if is_own { own_offset } else { OFFSET_UNKNOWN });
                out.bulk_str("health");
                out.bulk_str(if is_reached { "online" } else { "failed" });
            }
        }
    }

    fn nodes(&self) -> String {
        let ranges = self.map.ranges().iter().enumerate();
        let all = ranges.flat_map(|(at, range)| (0..range.members.len()).map(move |m| (at, m)));
        all.map(|(range, at)| self.node(range, at) + "\n").collect()
    }

    /// One line of CLUSTER NODES. There is no bus: its port is that of the clients.
    fn node(&self, range: usize, at: usize) -> String {
        let member = &self.members(range)[at];
        let primary = self.shown_primary(range);
        let mut flags = Vec::new();
        if (range, at) == (self.own, self.me) {
            flags.push("myself");
        }
        flags.push(if at == primary { "master" } else { "slave" });
        let is_reached = self.is_reached(range, at);
        if !is_reached {
            flags.push("fail");
        }
        let of = match at == primary {
            true => "-",
            false => &self.members(range)[primary].name,
        };
        let mut line = format!(
            "{} {}:{port}@{port} {} {of} 0 0 {} {}",
            member.name,
            member.at.ip(),
            flags.join(","),
            self.epoch(range),
            if is_reached {
                "connected"
            } else {
                "disconnected"
            },
            port = member.at.port(),
        );
        if at == primary {
            for (first, last) in &self.map.ranges()[range].slots {
                line += &match first == last {
                    true => format!(" {first}"),
                    false => format!(" {first}-{last}"),
                };
            }
        }
        line
    }

    fn summary(&self) -> String {
        let ranges = self.map.ranges();
        let width = |range: usize| -> usize {
            let pieces = ranges[range].slots.iter();
            pieces
                .map(|(first, last)| usize::from(last - first) + 1)
                .sum()
        };
        let served = (0..ranges.len()).filter(|range| self.primary(*range).is_some());
        let served: usize = served.map(width).sum();
        let unserved = usize::from(SLOT_COUNT) - served;
        let newest = (0..ranges.len()).map(|range| self.epoch(range)).max();
        let known: usize = ranges.iter().map(|range| range.members.len()).sum();
        [
            (
                "cluster_state",
                if unserved == 0 { "ok" } else { "fail" }.to_string(),
            ),
            ("cluster_slots_assigned", SLOT_COUNT.to_string()),
            ("cluster_slots_ok", served.to_string()),
            ("cluster_slots_pfail", "0".into()),
            ("cluster_slots_fail", unserved.to_string()),
            ("cluster_known_nodes", known.to_string()),
            ("cluster_size", ranges.len().to_string()),
            ("cluster_current_epoch", newest.unwrap_or(0).to_string()),
            ("cluster_my_epoch", self.epoch(self.own).to_string()),
            ("cluster_stats_messages_sent", "0".into()),
            ("cluster_stats_messages_received", "0".into()),
            ("total_cluster_links_buffer_limit_exceeded", "0".into()),
        ]
        .map(|(name, value)| format!("{name}:{value}\r\n"))
        .concat()
    }

    /// CLUSTER REPLICAS: the lines of a primary's replicas.
    fn replicas(&self, out: &mut Out, name: &[u8]) {
        let Some((range, at)) = self.map.find_named(name) else {
            return out.error(&unknown(name));
        };
        if at != self.shown_primary(range) {
            return out.error(&Error::fixed("ERR The specified node is not a master"));
        }
        let others = (0..self.members(range).len()).filter(|other| *other != at);
        out.array(others.clone().count());
        others.for_each(|other| out.bulk_str(&self.node(range, other)));
    }
}

fn unknown(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::text(format!("ERR Unknown node {name}"))
}

impl State {
    /// CLUSTER on a node of a fleet, for what changes nothing. `waits`: its reply may wait for another core.
    pub(in crate::shard) fn fleet_view(
        &mut self,
        conn: &mut Conn,
        sub: &[u8],
        (spec, args): (&Spec, Args<'_>),
        waits: bool,
    ) {
        let shared = self.shared.clone();
        let Some(fleet) = &shared.fleet else {
            return;
        };
        let out = &mut conn.out;
        match sub {
            b"slots" => fleet.slots(out),
            b"shards" => fleet.shards(out, info::stream_end(&shared) as i64),
            b"nodes" => out.verbatim(&fleet.nodes()),
            b"info" => out.verbatim(&fleet.summary()),
            b"myid" => out.bulk_str(&fleet.myself().name),
            // What its first member is called.
            b"myshardid" => out.bulk_str(&fleet.own_range().members[0].name),
            b"keyslot" => out.int(i64::from(slot(args.at(2)))),
            b"links" => out.array(0),
            b"replicas" | b"slaves" => fleet.replicas(out, args.at(2)),
            b"count-failure-reports" => match fleet.map.find_named(args.at(2)) {
                Some(_) => out.int(0),
                None => out.error(&unknown(args.at(2))),
            },
            b"countkeysinslot" | b"getkeysinslot" => self.keys_in_slot(conn, args, waits),
            _ => cmd::help(out, spec),
        }
    }
}
