//! Options in the making: what each setting does.

use super::super::args::Options;
use crate::{
    base::is_host,
    elect::{NodeId, parse_peers},
    node::UsageError,
    route::Scopes,
    shard::{Fsync, SavePoints, Tunables},
};
use uring::Level;

/// Why a setting does not take a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// It is none that it takes.
    Value,
    /// And here is why.
    Because(String),
}

/// What settings add up to.
#[derive(Default, Debug)]
pub(super) struct Draft {
    options: Options,
    /// Addresses were named.
    is_bound: bool,
    protects: Option<bool>,
    is_cluster: bool,
    cluster_port: Option<u16>,
}

impl Draft {
    /// Sets one. An empty text is no value, where there may be none.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn set(&mut self, name: &'static str, text: &str) -> Result<(), Refused> {
        let options = &mut self.options;
        let words = || text.split([' ', ',']).filter(|word| !word.is_empty());
        match name {
            "port" => options.port = number(text, 1, 65_535)? as u16,
            "bind" => {
                options.bind = words().map(String::from).collect();
                self.is_bound = true;
            }
            "tls-port" => {
                let port = number(text, 0, 65_535)? as u16;
                options.tls_port = (port > 0).then_some(port);
            }
            "tls-replication" => options.tls_replication = yes_or_no(text)?,
            "unixsocket" => options.unix = filled(text),
            "threads" => {
                // kevy's 0 means all.
                let threads = number(text, 0, 1024)? as usize;
                options.threads = (threads > 0).then_some(threads);
            }
            "shards" => options.shards = Some(number(text, 1, 4096)? as usize),
            "databases" => options.databases = number(text, 1, 10_000)? as usize,
            "dir" => options.dir = filled(text),
            "handoff-socket" => options.handoff = filled(text),
            "handoff-pass-connections" => options.passes_clients = yes_or_no(text)?,
            "appendonly" => options.journals = Some(yes_or_no(text)?),
            "appendfsync" => options.fsync = Fsync::parse(text.as_bytes()).ok_or(Refused::Value)?,
            "min-replicas-to-write" => options.replicas_min = number(text, 0, 1000)? as usize,
            "replica-max-staleness-ms" => {
                options.staleness_max_ms = number(text, 0, u64::from(u32::MAX))?;
            }
            "save" => {
                let points = SavePoints::parse(text.as_bytes());
                options.save_points = points.ok_or(Refused::Value)?;
            }
            "spin-us" => options.spin_us = number(text, 0, 1_000_000)?,
            "pin" => options.pin = yes_or_no(text)?,
            "cpu-list" => {
                let cpus: Result<_, _> = text.split(',').map(|cpu| cpu.trim().parse()).collect();
                options.cpus = cpus.map_err(|_| Refused::Value)?;
            }
            "replicaof" => options.replica_of = place(text)?,
            "replication-port" => {
                options.replication_port = Some(number(text, 0, 65_535)? as u16);
            }
            "node-id" => {
                let id = filled(text).map(|text| NodeId::new(&text).ok_or(Refused::Value));
                options.node_id = id.transpose()?;
            }
            "peers" => {
                let peers = parse_peers(text);
                options.peers = peers.map_err(|fault| Refused::Because(fault.to_string()))?;
            }
            "metrics-port" => {
                let port = number(text, 0, 65_535)? as u16;
                options.metrics_port = (port > 0).then_some(port);
            }
            "scopes" => {
                let scopes = Scopes::parse(text);
                options.scopes = scopes.map_err(|fault| Refused::Because(fault.to_string()))?;
            }
            "elect-port" => options.elect_port = Some(number(text, 1, 65_535)? as u16),
            "elect-down-after-ms" => options.down_after_ms = number(text, 100, 600_000)?,
            "quorum-writes" => options.quorum_writes = yes_or_no(text)?,
            "requirepass" => options.password = text.into(),
            "aclfile" => options.acl_file = filled(text).map(Into::into),
            "protected-mode" => self.protects = Some(yes_or_no(text)?),
            "node-key-file" => options.node_key_file = filled(text).map(Into::into),
            "masterauth" => options.primary_password = text.into(),
            "masteruser" => options.primary_user = text.into(),
            "cluster" => self.is_cluster = yes_or_no(text)?,
            "cluster-port" => self.cluster_port = Some(number(text, 1, 65_535)? as u16),
            "cluster-announce-ip" => {
                let address = filled(text).map(|text| text.parse());
                options.announce = address.transpose().map_err(|_| Refused::Value)?;
            }
            "cluster-map" => options.map = filled(text).map(Into::into),
            "ring-level" => {
                options.level = Some(match text {
                    "basic" => Level::Basic,
                    "multishot" => Level::Multishot,
                    "full" => Level::Full,
                    _ => return Err(Refused::Value),
                });
            }
            _ => self.parameter(name, text)?,
        }
        Ok(())
    }

    /// What only CONFIG SET knows.
    fn parameter(&mut self, name: &'static str, text: &str) -> Result<(), Refused> {
        let mut parameters = Tunables::default();
        parameters.set(name, text).map_err(Refused::Because)?;
        self.options.parameters.push((name, text.into()));
        Ok(())
    }

    /// The options, if they fit together.
    ///
    /// # Errors
    /// What is missing, or excludes something else.
    pub fn finish(self) -> Result<Options, UsageError> {
        let mut options = self.options;
        if self.is_cluster && options.map.is_some() {
            return Err(UsageError::Incomplete(ONE_PORT));
        }
        if let Some(why) = conflict(&options) {
            return Err(UsageError::Incomplete(why));
        }
        options.protects = self.protects.unwrap_or(!self.is_bound);
        if self.is_cluster {
            // kevy's ports: a client port of 6004 has its shards on 6005, 6006 and so on.
            let behind = options.port.saturating_add(1);
            options.slots = Some(self.cluster_port.unwrap_or(behind));
        }
        Ok(options)
    }
}

const ONE_PORT: &str =
    "with --cluster-map the client port serves all slots of the node: leave out --cluster";

/// What keeps options from going together.
fn conflict(options: &Options) -> Option<&'static str> {
    let is_member = !options.peers.is_empty();
    let (is_named, is_scoped) = (options.node_id.is_some(), !options.scopes.is_empty());
    match () {
        _ if options.map.is_some() && !is_named => {
            Some("--cluster-map needs --node-id: which of its nodes is this one?")
        }
        _ if options.map.is_some() && options.replica_of.is_some() => {
            Some("with --cluster-map the primary of a range is elected: leave out --replicaof")
        }
        _ if is_scoped && !is_named => {
            Some("--scopes needs --node-id: by that name a scope is this node's")
        }
        _ if options.map.is_some() && !is_member => None,
        // A name alone is for scopes.
        _ if is_named != is_member && !is_scoped => {
            Some("elections need both --node-id and --peers")
        }
        _ if options.quorum_writes && !is_member => {
            Some("--quorum-writes needs --peers: without members there is no majority")
        }
        _ if is_member && options.dir.is_none() => {
            Some("elections need --dir: a member must not forget its vote")
        }
        _ if is_member && options.replica_of.is_some() => {
            Some("with --peers the primary is elected: leave out --replicaof")
        }
        _ if is_member && options.replication_port == Some(0) => {
            Some("a member that is elected serves replicas: leave out --replication-port 0")
        }
        _ if options.tls_port == Some(options.port) => {
            Some("--port and --tls-port are the same: plain and TLS clients need a port each")
        }
        _ if options.handoff.is_none() => None,
        _ if options.dir.is_none() || options.journals == Some(false) => {
            Some("a node is handed over with its journal: --handoff-socket needs --dir")
        }
        _ if options.unix.is_some() => {
            Some("with --handoff-socket the supervisor holds a Unix socket: leave out --unixsocket")
        }
        _ => None,
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

fn yes_or_no(text: &str) -> Result<bool, Refused> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Refused::Value),
    }
}

fn number(text: &str, least: u64, most: u64) -> Result<u64, Refused> {
    let number = text.parse().ok();
    let number = number.filter(|number| (least..=most).contains(number));
    number.ok_or(Refused::Value)
}

/// Reads host and port, with a colon or a blank between them.
fn place(text: &str) -> Result<Option<(String, u16)>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let (host, port) = text.rsplit_once([':', ' ']).ok_or(Refused::Value)?;
    let host = host.trim().trim_start_matches('[').trim_end_matches(']');
    let port = port.trim().parse().ok().filter(|port| *port > 0);
    match port {
        Some(port) if is_host(host) => Ok(Some((host.to_string(), port))),
        _ => Err(Refused::Value),
    }
}

/// Would a setting take a text?
///
/// # Errors
/// [`Refused`].
pub(super) fn check(name: &'static str, text: &str) -> Result<(), Refused> {
    // "yes" depends on the members, which are looked at in the end.
    Draft::default().set(name, text)
}

#[cfg(test)]
mod tests {
    use super::{super::table, *};

    #[test]
    fn every_default_is_what_a_node_has_anyway() {
        for setting in table::SETTINGS {
            if setting.default.is_empty() {
                continue;
            }
            let mut draft = Draft::default();
            draft
                .set(setting.name, setting.default)
                .expect(setting.name);
            let mut options = draft.finish().expect(setting.name);
            // Who names addresses wants to be reached there.
            options.protects |= setting.name == "bind";
            let mut tunables = Tunables::default();
            for (name, text) in options.parameters.drain(..) {
                tunables.set(name, &text).expect(name);
            }
            assert_eq!(options, Options::default(), "{}", setting.name);
            let want = format!("{:?}", Tunables::default());
            assert_eq!(format!("{tunables:?}"), want, "{}", setting.name);
        }
    }
}
