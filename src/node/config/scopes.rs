//! What an operator is told about scopes.

use crate::{elect::Peer, node::Options, route::Scope};

/// What may be another thing than was meant.
pub(super) fn notes(options: &Options) -> Vec<String> {
    let scopes = options.scopes.iter();
    scopes
        .flat_map(|scope| notes_on(scope, &options.peers))
        .collect()
}

fn notes_on(scope: &Scope, peers: &[Peer]) -> Vec<String> {
    let Scope {
        prefix,
        writer,
        fallback,
    } = scope;
    let mut notes = Vec::new();
    match fallback {
        None => notes.push(format!("while {writer} is down nobody writes there")),
        Some(fallback) if peers.is_empty() => notes.push(format!(
            "{fallback} never takes over: without --peers nobody knows who is down"
        )),
        Some(_) => {}
    }
    if !peers.is_empty() {
        let is_member = |name: &str| peers.iter().any(|peer| peer.id.as_str() == name);
        let strangers = [Some(writer), fallback.as_ref()].into_iter().flatten();
        for name in strangers.filter(|name| !is_member(name)) {
            notes.push(format!(
                "no member is called {name}: clients are told that name, and it never counts as down"
            ));
        }
    }
    let note = |note| format!("the scope {prefix}: {note}");
    notes.into_iter().map(note).collect()
}
