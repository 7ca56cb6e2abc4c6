//! Keys that another node writes to: what clients are told, and who writes while that one is down.
//!
//! What the command may change is looked at, not what it reads, before the request goes anywhere and again
//! for each command of EXEC and of a script. What a primary sends and what is recovered is never looked at:
//! it was accepted by whoever was the writer.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{
    conn::{GiveUp, Hold},
    log,
    state::State,
};
use crate::{
    cmd::Spec,
    elect::Peer,
    resp::{Args, Error, Out},
    route::{Scope, Scopes},
};

/// All scopes, as this node sees them.
#[derive(Debug)]
pub struct Ownership {
    scopes: Scopes,
    /// One for each of them.
    rows: Vec<Row>,
    /// How often a writer went down or came back.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Row {
    writer: Owner,
    fallback: Option<Owner>,
    is_down: AtomicBool,
}

#[derive(Debug)]
struct Owner {
    name: String,
    /// What clients are told; nothing if it is this node.
    refusal: Option<Error>,
}

impl Owner {
    fn new(name: &str, own: &str, peers: &[Peer]) -> Self {
        let peer = peers.iter().find(|peer| peer.id.as_str() == name);
        let place = peer.map_or_else(|| name.to_string(), Peer::client_place);
        let refusal = || Error::text(format!("MISDIRECTED writer is {place}"));
        Self {
            name: name.into(),
            refusal: (name != own).then(refusal),
        }
    }
}

impl Row {
    fn new(scope: &Scope, own: &str, peers: &[Peer]) -> Self {
        let owner = |name: &String| Owner::new(name, own, peers);
        Self {
            writer: owner(&scope.writer),
            fallback: scope.fallback.as_ref().map(owner),
            is_down: AtomicBool::new(false),
        }
    }

    /// Who writes now.
    fn owner(&self) -> &Owner {
        match &self.fallback {
            Some(fallback) if self.is_down.load(Relaxed) => fallback,
            _ => &self.writer,
        }
    }
}

impl Ownership {
    /// As the node of this name sees them; `peers` says where the others are.
    pub fn new(scopes: Scopes, own: &str, peers: &[Peer]) -> Self {
        let rows = scopes.iter().map(|scope| Row::new(scope, own, peers));
        Self {
            rows: rows.collect(),
            scopes,
            changes: AtomicU64::new(0),
        }
    }

    /// The list of them.
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// Why a command may not run here: it would write to a key of another node.
    pub(super) fn refuses(&self, spec: &Spec, args: Args<'_>) -> Option<Error> {
        if !spec.is_write() {
            return None;
        }
        let mut refusal = None;
        spec.written(args, |at| {
            if refusal.is_none()
                && let Some(at) = self.scopes.find(args.at(at))
            {
                refusal = self.rows[at].owner().refusal.as_ref();
            }
        });
        refusal.cloned()
    }

    /// Takes over who is down.
    pub(super) fn note_down(&self, is_down: impl Fn(&str) -> bool) {
        for (row, scope) in self.rows.iter().zip(self.scopes.iter()) {
            let (now, Some(fallback)) = (is_down(&row.writer.name), &row.fallback) else {
                continue;
            };
            if row.is_down.swap(now, Relaxed) == now {
                continue;
            }
            self.changes.fetch_add(1, Release);
            let (prefix, writer) = (&scope.prefix, &row.writer.name);
            log(&match now {
                true => format!(
                    "scopes: {writer} is down, {} writes to {prefix}",
                    fallback.name
                ),
                false => format!("scopes: {writer} is back and writes to {prefix}"),
            });
        }
    }
}

impl State {
    /// Why a client's command may not run here: it would write to a key of another node.
    #[inline]
    pub(super) fn is_foreign(&self, spec: &Spec, args: Args<'_>) -> Option<Error> {
        match self.is_scoped {
            false => None,
            true => self.shared.scopes.as_ref()?.refuses(spec, args),
        }
    }

    /// Clients that are blocked on keys which another node writes to from now on are told so: nothing comes
    /// there any more.
    pub(super) fn heed_scopes(&mut self) {
        let Some(scopes) = &self.shared.scopes else {
            return;
        };
        let changes = scopes.changes.load(Acquire);
        if std::mem::replace(&mut self.scopes_seen, changes) == changes {
            return;
        }
        let foreign = self.conns().filter_map(|conn| match &conn.hold {
            Hold::Blocked(blocked) if matches!(blocked.on_timeout, GiveUp::Null(_)) => {
                let refusal = scopes.refuses(blocked.spec, blocked.args.as_args())?;
                Some((conn.socket, refusal))
            }
            _ => None,
        });
        let foreign: Vec<_> = foreign.collect();
        for (socket, refusal) in foreign {
            if let Some(mut conn) = self.take_conn(socket) {
                let mut out = Out::new(conn.out.proto);
                out.error(&refusal);
                self.unblock(&mut conn, out);
                self.put_conn(conn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cmd::Table, elect::parse_peers, resp::OwnedArgs};

    fn seen_from(own: &str) -> Ownership {
        let scopes = Scopes::parse("a:=a,b:=b,c:=c|a,x:=far|a").expect("they are scopes");
        let peers = parse_peers("a@h:1:11,b@h:2:12,c@h:3").expect("it is a list");
        Ownership::new(scopes, own, &peers)
    }

    /// Whom a request is sent to.
    fn sent(ownership: &Ownership, request: &str) -> Option<String> {
        let args = OwnedArgs::copy(request.split(' ').map(str::as_bytes));
        let table = Table::build();
        let spec = table.find(args.as_args().at(0)).expect(request);
        let refusal = ownership.refuses(spec, args.as_args())?;
        let place = refusal.as_str().strip_prefix("MISDIRECTED writer is ");
        Some(place.expect("all say so").to_string())
    }

    #[test]
    fn what_a_command_may_change_decides() {
        let here = seen_from("a");
        for request in [
            "SET a:1 v",
            "SET other v",
            "GET b:1",
            "SUNIONSTORE a:1 b:1",
            "COPY b:1 a:1",
            "BITOP AND a:1 b:1 b:2",
            "ZRANGESTORE a:1 b:1 0 1",
            "SORT b:1",
            "GEORADIUS b:1 0 0 1 m",
            "XREAD STREAMS b:1 0",
            "FLUSHALL",
            "EVAL script 1 b:1",
        ] {
            assert_eq!(sent(&here, request), None, "{request}");
        }
        for request in [
            "SET b:1 v",
            "MSET a:1 v other v b:1 v",
            "DEL a:1 b:1",
            "RENAME a:1 b:1",
            "RENAME b:1 a:1",
            "COPY a:1 b:1",
            "SUNIONSTORE b:1 a:1",
            "SMOVE b:1 a:1 m",
            "LMOVE b:1 a:1 LEFT LEFT",
            "BLPOP a:1 b:1 0",
            "LMPOP 2 a:1 b:1 LEFT",
            "SORT a:1 STORE b:1",
            "GEORADIUS a:1 0 0 1 m STORE b:1",
            "XGROUP CREATE b:1 g $",
            "XREADGROUP GROUP g c STREAMS b:1 >",
            "GETEX b:1",
        ] {
            assert_eq!(sent(&here, request).as_deref(), Some("h:12"), "{request}");
        }
        assert_eq!(sent(&here, "MSET c:1 v b:1 v").as_deref(), Some("h:3"));
        assert_eq!(sent(&here, "DEL x:1").as_deref(), Some("far"));
    }

    #[test]
    fn a_fallback_writes_while_the_writer_is_down() {
        let (a, b, c) = (seen_from("a"), seen_from("b"), seen_from("c"));
        let told = |request: &str| [&a, &b, &c].map(|node| sent(node, request));
        let at = |place: &str| Some(place.to_string());
        assert_eq!(told("SET c:1 v"), [at("h:3"), at("h:3"), None]);
        for node in [&a, &b, &c] {
            node.note_down(|name| name == "b" || name == "c");
        }
        assert_eq!(told("SET c:1 v"), [None, at("h:11"), at("h:11")]);
        // There is nobody else for those.
        assert_eq!(told("SET b:1 v"), [at("h:12"), None, at("h:12")]);
        assert_eq!(a.changes.load(Acquire), 1);
        a.note_down(|name| name == "b");
        assert_eq!(sent(&a, "SET c:1 v"), at("h:3"));
        assert_eq!(a.changes.load(Acquire), 2);
    }
}
