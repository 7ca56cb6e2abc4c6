//! Who listens to which channel: on this core by connection, on other cores by number.

use std::collections::{BTreeMap, BTreeSet};

use uring::SocketId;

use super::{
    conn::Conn,
    message::{CoreId, Message, Topics},
    state::State,
};
use crate::{
    base::glob_match,
    cmd::Verb,
    resp::{Args, Out},
};

const HELP: &[&str] = &[
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "SHARDCHANNELS [<pattern>]",
    "    Return the currently active shard level channels matching a <pattern> (default: '*').",
    "SHARDNUMSUB [<shardchannel> ...]",
    "    Return the number of subscribers for the specified shard level channel(s)",
];

/// The subscriptions of the node as one core knows them. Other cores announce their counts, so
/// PUBLISH can answer at once with the number of receivers.
#[derive(Debug)]
pub(super) struct Subscriptions {
    channels: BTreeMap<Vec<u8>, Topic>,
    patterns: BTreeMap<Vec<u8>, Topic>,
    shards: BTreeMap<Vec<u8>, Topic>,
    cores: usize,
}

#[derive(Debug)]
struct Topic {
    here: BTreeSet<(u32, u32)>,
    elsewhere: Vec<usize>,
}

impl Topic {
    fn is_unused(&self) -> bool {
        self.here.is_empty() && self.elsewhere.iter().all(|count| *count == 0)
    }

    fn len(&self) -> usize {
        self.here.len() + self.elsewhere.iter().sum::<usize>()
    }
}

impl Subscriptions {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            channels: BTreeMap::new(),
            patterns: BTreeMap::new(),
            shards: BTreeMap::new(),
            cores,
        }
    }

    /// Channels and patterns with a listener on this core.
    pub(super) fn local_len(&self) -> usize {
        self.channels
            .values()
            .chain(self.patterns.values())
            .chain(self.shards.values())
            .filter(|topic| !topic.here.is_empty())
            .count()
    }

    /// Another core's number of listeners changed.
    pub(super) fn note(&mut self, core: CoreId, kind: Topics, channel: Vec<u8>, count: usize) {
        let cores = self.cores;
        let topics = self.topics(kind);
        let topic = topics.entry(channel.clone()).or_insert_with(|| Topic {
            here: BTreeSet::new(),
            elsewhere: vec![0; cores],
        });
        topic.elsewhere[core] = count;
        if topic.is_unused() {
            topics.remove(&channel);
        }
    }

    /// The topics that a message on a channel reaches.
    fn reached<'a>(&'a self, kind: Topics, channel: &'a [u8]) -> impl Iterator<Item = &'a Topic> {
        let (named, patterns) = match kind {
            Topics::Shards => (&self.shards, None),
            Topics::Channels | Topics::Patterns => (&self.channels, Some(&self.patterns)),
        };
        let matching = patterns
            .into_iter()
            .flatten()
            .filter(|(pattern, _)| glob_match(pattern, channel));
        named
            .get(channel)
            .into_iter()
            .chain(matching.map(|(_, topic)| topic))
    }

    /// How many listeners a message on a channel reaches, on all cores.
    pub(super) fn receivers(&self, kind: Topics, channel: &[u8]) -> usize {
        self.reached(kind, channel).map(Topic::len).sum()
    }

    /// The other cores that have a listener for a channel.
    pub(super) fn cores_of(&self, kind: Topics, channel: &[u8]) -> BTreeSet<CoreId> {
        let counts = self
            .reached(kind, channel)
            .flat_map(|topic| topic.elsewhere.iter().enumerate());
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(core, _)| core)
            .collect()
    }

    fn topics(&mut self, kind: Topics) -> &mut BTreeMap<Vec<u8>, Topic> {
        match kind {
            Topics::Channels => &mut self.channels,
            Topics::Patterns => &mut self.patterns,
            Topics::Shards => &mut self.shards,
        }
    }

    /// Adds or removes a connection; the number of listeners on this core.
    fn set(&mut self, kind: Topics, channel: &[u8], conn: SocketId, listens: bool) -> usize {
        let cores = self.cores;
        let topics = self.topics(kind);
        let topic = topics.entry(channel.to_vec()).or_insert_with(|| Topic {
            here: BTreeSet::new(),
            elsewhere: vec![0; cores],
        });
        let name = (conn.index, conn.generation);
        if listens {
            topic.here.insert(name);
        } else {
            topic.here.remove(&name);
        }
        let count = topic.here.len();
        if topic.is_unused() {
            topics.remove(channel);
        }
        count
    }
}

impl State {
    /// SUBSCRIBE, UNSUBSCRIBE and their kin for patterns and shard channels.
    pub(super) fn subscribe(&mut self, conn: &mut Conn, verb: Verb, args: Args<'_>) {
        let (kind, listens, word) = match verb {
            Verb::PSubscribe => (Topics::Patterns, true, "psubscribe"),
            Verb::PUnsubscribe => (Topics::Patterns, false, "punsubscribe"),
            Verb::SSubscribe => (Topics::Shards, true, "ssubscribe"),
            Verb::SUnsubscribe => (Topics::Shards, false, "sunsubscribe"),
            Verb::Subscribe => (Topics::Channels, true, "subscribe"),
            _ => (Topics::Channels, false, "unsubscribe"),
        };
        let names: Vec<Vec<u8>> = if !listens && args.len() == 1 {
            names_of(conn, kind).iter().cloned().collect()
        } else {
            args.rest(1).iter().map(<[u8]>::to_vec).collect()
        };
        let left = |conn: &Conn| match kind {
            Topics::Shards => conn.shard_channels.len(),
            Topics::Channels | Topics::Patterns => conn.channels.len() + conn.patterns.len(),
        };
        if names.is_empty() {
            conn.out.push(3);
            conn.out.bulk_str(word);
            conn.out.null();
            conn.out.len_int(left(conn));
        }
        for name in names {
            self.set_subscription(conn, kind, &name, listens);
            conn.out.push(3);
            conn.out.bulk_str(word);
            conn.out.bulk(&name);
            conn.out.len_int(left(conn));
        }
    }

    pub(super) fn set_subscription(
        &mut self,
        conn: &mut Conn,
        kind: Topics,
        name: &[u8],
        listens: bool,
    ) {
        let mine = names_of(conn, kind);
        let changed = if listens {
            mine.insert(name.to_vec())
        } else {
            mine.remove(name)
        };
        if changed {
            let count = self.subs.set(kind, name, conn.socket, listens);
            self.tell_all(|| Message::Subscribed {
                kind,
                channel: name.to_vec(),
                count,
            });
        }
    }

    pub(super) fn unsubscribe_all(&mut self, conn: &mut Conn) {
        for kind in [Topics::Channels, Topics::Patterns, Topics::Shards] {
            for name in names_of(conn, kind).clone() {
                self.set_subscription(conn, kind, &name, false);
            }
        }
    }

    /// Publishes what no client said: here at the end of the turn, when every connection is in its place.
    pub(super) fn publish_later(&mut self, kind: Topics, channel: Vec<u8>, message: Vec<u8>) {
        let published = |channel, message| match kind {
            Topics::Shards => Message::ShardPublished(channel, message),
            Topics::Channels | Topics::Patterns => Message::Published(channel, message),
        };
        for core in self.subs.cores_of(kind, &channel) {
            self.mesh
                .send(core, published(channel.clone(), message.clone()));
        }
        self.published.push(published(channel, message));
    }

    /// PUBLISH, SPUBLISH: delivers here, passes on to cores with listeners; the number of receivers.
    pub(super) fn publish_message(
        &mut self,
        conn: &mut Conn,
        kind: Topics,
        channel: &[u8],
        message: &[u8],
    ) -> usize {
        let receivers = self.subs.receivers(kind, channel);
        for core in self.subs.cores_of(kind, channel) {
            let (channel, message) = (channel.to_vec(), message.to_vec());
            let message = match kind {
                Topics::Shards => Message::ShardPublished(channel, message),
                Topics::Channels | Topics::Patterns => Message::Published(channel, message),
            };
            self.mesh.send(core, message);
        }
        self.deliver(Some(conn), kind, channel, message);
        receivers
    }

    /// Writes a message to every listener on this core. `current` is the connection being worked on,
    /// which is not in its place.
    pub(super) fn deliver(
        &mut self,
        mut current: Option<&mut Conn>,
        kind: Topics,
        channel: &[u8],
        message: &[u8],
    ) {
        let mut targets: Vec<(SocketId, Option<Vec<u8>>)> = Vec::new();
        let socket = |(index, generation)| SocketId { index, generation };
        let for_shard = kind == Topics::Shards;
        let named = if for_shard {
            &self.subs.shards
        } else {
            &self.subs.channels
        };
        if let Some(topic) = named.get(channel) {
            targets.extend(topic.here.iter().map(|conn| (socket(*conn), None)));
        }
        for (pattern, topic) in &self.subs.patterns {
            if !for_shard && glob_match(pattern, channel) {
                let here = topic.here.iter();
                targets.extend(here.map(|conn| (socket(*conn), Some(pattern.clone()))));
            }
        }
        for (socket, pattern) in targets {
            let write = |out: &mut Out| {
                out.push(if pattern.is_some() { 4 } else { 3 });
                out.bulk_str(match &pattern {
                    Some(_) => "pmessage",
                    None if for_shard => "smessage",
                    None => "message",
                });
                if let Some(pattern) = &pattern {
                    out.bulk(pattern);
                }
                out.bulk(channel);
                out.bulk(message);
            };
            match &mut current {
                Some(conn) if conn.socket == socket => write(&mut conn.out),
                _ => {
                    if let Some(mut conn) = self.take_conn(socket) {
                        write(&mut conn.out);
                        // A listener that does not read loses its connection, not the node its memory.
                        self.cut_if_owed_too_much(&mut conn);
                        self.list(&mut conn);
                        self.put_conn(conn);
                    }
                }
            }
        }
    }

    /// PUBSUB.
    pub(super) fn pubsub(&mut self, conn: &mut Conn, args: Args<'_>) {
        let sub = args.at(1).to_ascii_uppercase();
        match (&sub[..], args.len()) {
            (b"CHANNELS" | b"SHARDCHANNELS", 2 | 3) => {
                let known = if sub == b"CHANNELS" {
                    &self.subs.channels
                } else {
                    &self.subs.shards
                };
                let used = known.iter().filter(|(name, topic)| {
                    topic.len() > 0 && args.get(2).is_none_or(|pattern| glob_match(pattern, name))
                });
                let names: Vec<&Vec<u8>> = used.map(|(name, _)| name).collect();
                conn.out.array(names.len());
                for name in names {
                    conn.out.bulk(name);
                }
            }
            (b"NUMSUB" | b"SHARDNUMSUB", _) => {
                conn.out.array(2 * (args.len() - 2));
                for name in args.rest(2).iter() {
                    conn.out.bulk(name);
                    let known = if sub == b"NUMSUB" {
                        self.subs.channels.get(name)
                    } else {
                        self.subs.shards.get(name)
                    };
                    conn.out.len_int(known.map_or(0, Topic::len));
                }
            }
            (b"HELP", _) => conn.out.help("PUBSUB", HELP),
            (b"NUMPAT", 2) => conn.out.len_int(self.subs.patterns.len()),
            _ => super::session::wrong_form(conn, "PUBSUB", args),
        }
    }
}

/// What a connection listens to, of one kind.
fn names_of(conn: &mut Conn, kind: Topics) -> &mut BTreeSet<Vec<u8>> {
    match kind {
        Topics::Channels => &mut conn.channels,
        Topics::Patterns => &mut conn.patterns,
        Topics::Shards => &mut conn.shard_channels,
    }
}
