//! A node of several that share the keys: the map says which range of slots it has, elections which member
//! of the range takes writes. Who comes with a key of another range, or with a write for the primary, is told
//! where to go. The node's one client port serves all its slots.

mod asking;
mod view;

use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

pub(super) use self::asking::Asking;
use super::{
    conn::Conn,
    shared::{Refuses, Shared},
    state::State,
};
use crate::{
    cmd::{Keys, Run, Spec, Verb},
    elect::NodeId,
    fleet::{Map, Member, Range},
    resp::{Args, Error},
    route::slot,
};

pub(super) const CROSS_SLOT: Error =
    Error::fixed("CROSSSLOT Keys in request don't hash to the same slot");
const DOWN: Error = Error::fixed("CLUSTERDOWN The cluster is down");
const NOT_SERVED: Error = Error::fixed("CLUSTERDOWN Hash slot not served");

/// No member of a range.
const NOBODY: usize = usize::MAX;

/// What all cores know of the nodes that share the keys.
#[derive(Debug)]
pub struct Fleet {
    map: Map,
    /// The range of this node, and which of its members it is.
    own: usize,
    me: usize,
    standings: Vec<Standing>,
}

/// How a range stands.
#[derive(Debug, Default)]
struct Standing {
    /// The member that takes writes, or [`NOBODY`], and the one that last did.
    primary: AtomicUsize,
    last: AtomicUsize,
    /// The epoch of that.
    epoch: AtomicU64,
    /// A bit for each member that is not reached.
    unreached: AtomicU64,
}

impl Fleet {
    /// As this node; `None`: the map does not have it.
    pub fn new(map: Map, id: &NodeId) -> Option<Self> {
        let (own, me) = map.find(id)?;
        let standings = map.ranges().iter().map(|range| {
            let standing = Standing::default();
            // Who is alone is never elected.
            let primary = if range.members.len() == 1 { 0 } else { NOBODY };
            standing.primary.store(primary, SeqCst);
            standing
        });
        let standings = standings.collect();
        Some(Self {
            map,
            own,
            me,
            standings,
        })
    }

    /// The range of this node.
    pub fn own_range(&self) -> &Range {
        &self.map.ranges()[self.own]
    }

    /// This node.
    pub fn myself(&self) -> &Member {
        &self.own_range().members[self.me]
    }

    fn members(&self, range: usize) -> &[Member] {
        &self.map.ranges()[range].members
    }

    fn primary(&self, range: usize) -> Option<usize> {
        let primary = self.standings[range].primary.load(SeqCst);
        (primary != NOBODY).then_some(primary)
    }

    /// The primary, or who was it last: somebody is always shown as that.
    fn shown_primary(&self, range: usize) -> usize {
        let last = || self.standings[range].last.load(SeqCst);
        self.primary(range).unwrap_or_else(last)
    }

    fn is_reached(&self, range: usize, member: usize) -> bool {
        self.standings[range].unreached.load(SeqCst) & (1 << member) == 0
    }

    fn epoch(&self, range: usize) -> u64 {
        self.standings[range].epoch.load(SeqCst)
    }

    /// What this node's elections say of its range.
    pub(super) fn note_own<'a>(
        &self,
        primary: Option<&NodeId>,
        epoch: u64,
        unreached: impl Iterator<Item = &'a NodeId>,
    ) {
        self.note(self.own, primary, epoch, unreached);
    }

    fn note<'a>(
        &self,
        range: usize,
        primary: Option<&NodeId>,
        epoch: u64,
        unreached: impl Iterator<Item = &'a NodeId>,
    ) {
        let standing = &self.standings[range];
        let member = |id: &NodeId| {
            let mut members = self.members(range).iter();
            members.position(|member| member.id == *id)
        };
        let bits = unreached
            .filter_map(member)
            .fold(0, |bits, at| bits | 1 << at);
        standing.unreached.store(bits, SeqCst);
        standing.epoch.store(epoch, SeqCst);
        let primary = primary.and_then(member);
        if let Some(primary) = primary {
            standing.last.store(primary, SeqCst);
        }
        standing.primary.store(primary.unwrap_or(NOBODY), SeqCst);
    }

    /// Where a slot of a range is asked for.
    fn moved(&self, range: usize, slot: u16) -> Option<Error> {
        let at = self.members(range)[self.primary(range)?].at;
        let (ip, port) = (at.ip(), at.port());
        Some(Error::text(format!("MOVED {slot} {ip}:{port}")))
    }

    /// What INFO tells; other ranges learn from it.
    pub(super) fn info(&self) -> [(&'static str, String); 3] {
        let members = self.own_range().members.iter().enumerate();
        let unreached = members.filter(|(at, _)| !self.is_reached(self.own, *at));
        let unreached: Vec<&str> = unreached.map(|(_, member)| member.id.as_str()).collect();
        let primary = self.primary(self.own);
        let primary = primary.map(|at| self.members(self.own)[at].id.to_string());
        [
            (asking::PRIMARY, primary.unwrap_or_default()),
            (asking::EPOCH, self.epoch(self.own).to_string()),
            (asking::UNREACHED, unreached.join(",")),
        ]
    }
}

impl Shared {
    /// Are clients to speak to the node as to one of a cluster?
    pub fn is_cluster(&self) -> bool {
        self.settings.slots.is_some() || self.fleet.is_some()
    }
}

/// The slot of the keys of a request, as far as it was looked at.
#[derive(Default)]
struct Wanted {
    slot: Option<u16>,
    has_several: bool,
    writes: bool,
}

impl Wanted {
    #[inline]
    fn look_at(&mut self, spec: &Spec, args: Args<'_>) {
        let keys = match (spec.keys, spec.run) {
            // A script's keys are those it says it has.
            (Keys::All, Run::Script) => Keys::Counted { count: 2, also: 0 },
            (keys, _) => keys,
        };
        // Listeners of a shard channel and who speaks there meet at the primary.
        self.writes |=
            spec.is_write() || matches!(spec.run, Run::Session(Verb::SPublish | Verb::SSubscribe));
        keys.for_each(args, |at| {
            let slot = slot(args.at(at));
            self.has_several |= self.slot.is_some_and(|one| one != slot);
            self.slot = Some(slot);
        });
    }
}

impl State {
    /// Why a request has to go to another node, if it has to.
    pub(super) fn elsewhere(&self, conn: &Conn, spec: &Spec, args: Args<'_>) -> Option<Error> {
        let fleet = self.shared.fleet.as_ref()?;
        let mut wanted = Wanted::default();
        match &conn.multi {
            // What was queued may have been for a primary that this node is no more.
            Some(multi) if spec.run_is(Verb::Exec) => {
                for (spec, args) in &multi.queued {
                    wanted.look_at(spec, args.as_args());
                }
            }
            _ => wanted.look_at(spec, args),
        }
        let slot = wanted.slot?;
        if wanted.has_several {
            return Some(CROSS_SLOT);
        }
        let range = fleet.map.owner(slot);
        if range != fleet.own {
            return Some(fleet.moved(range, slot).unwrap_or(NOT_SERVED));
        }
        if !self.shared.following.load(Relaxed) {
            // Another one may have been elected.
            return (self.refuses == Some(Refuses::Fence)).then_some(DOWN);
        }
        if conn.reads_replica && !wanted.writes {
            return None;
        }
        let is_other = fleet.primary(range) != Some(fleet.me);
        let moved = is_other.then(|| fleet.moved(range, slot)).flatten();
        Some(moved.unwrap_or(DOWN))
    }

    /// Is this, on a primary, a command on keys of one slot that the node has, or on none?
    #[inline]
    pub(super) fn is_for_this_node(&self, spec: &Spec, args: Args<'_>) -> bool {
        let Some(fleet) = &self.shared.fleet else {
            return true;
        };
        let mut wanted = Wanted::default();
        wanted.look_at(spec, args);
        let is_own = |slot: u16| fleet.map.owner(slot) == fleet.own;
        !wanted.has_several
            && wanted.slot.is_none_or(is_own)
            && !self.shared.following.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = r#"
        [[range]]
        slots = "0-8191"
        members = ["a1@10.0.0.1:1", "a2@10.0.0.1:2", "a3@10.0.0.1:3"]
        [[range]]
        slots = "8192-16383"
        members = ["b1@[::1]:4"]
    "#;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("is a name")
    }

    fn fleet() -> Fleet {
        let map = Map::read(MAP).expect("it is a map");
        Fleet::new(map, &id("a2")).expect("it has a2")
    }

    #[test]
    fn nobody_is_the_primary_before_one_is_heard_of_and_one_is_shown_for_good() {
        let fleet = fleet();
        assert_eq!(fleet.moved(0, 7), None);
        let alone = fleet.moved(1, 9000).expect("is alone");
        assert_eq!(alone.as_str(), "MOVED 9000 ::1:4");
        fleet.note_own(Some(&id("a3")), 4, [id("a1")].iter());
        let moved = fleet.moved(0, 7).expect("is known");
        assert_eq!(moved.as_str(), "MOVED 7 10.0.0.1:3");
        let reached: Vec<bool> = (0..3).map(|at| fleet.is_reached(0, at)).collect();
        assert_eq!(reached, [false, true, true]);
        fleet.note_own(None, 5, [].iter());
        assert_eq!(fleet.moved(0, 7), None);
        assert_eq!((fleet.shown_primary(0), fleet.epoch(0)), (2, 5));
        assert!(fleet.is_reached(0, 0));
    }

    #[test]
    fn a_node_that_the_map_does_not_have_is_none_of_it() {
        let map = Map::read(MAP).expect("it is a map");
        assert!(Fleet::new(map, &id("c1")).is_none());
    }
}
