//! Scripts and functions over the cores of a node.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use crate::node::{Node, ONE, TWO};

/// So many connections that both cores have some.
const CLIENTS: usize = 16;
/// How long a busy node may take to answer those of the busy core.
const PATIENCE: Duration = Duration::from_secs(60);

fn library(says: &str) -> String {
    format!("#!lua name=lib\nredis.register_function('f', function() return '{says}' end)")
}

#[test]
fn libraries_are_on_every_core_at_once() {
    let node = Node::start(TWO);
    let mut clients = node.clients(CLIENTS);
    for round in 0..CLIENTS {
        let says = format!("round {round}");
        let load = [
            &b"FUNCTION"[..],
            b"LOAD",
            b"REPLACE",
            library(&says).as_bytes(),
        ]
        .map(Vec::from);
        let load: Vec<&[u8]> = load.iter().map(Vec::as_slice).collect();
        assert_eq!(clients[round].send(&load), "lib");
        for client in &mut clients {
            assert_eq!(client.say("FCALL f 0"), says);
        }
    }
    assert_eq!(clients[0].say("FUNCTION DELETE lib"), "+OK");
    for client in &mut clients {
        assert_eq!(client.say("FCALL f 0"), "-ERR Function not found");
    }
}

/// Runs a request that does not end by itself for a long time; what it answers, and what `other` said of
/// each other client that was served meanwhile.
fn beside(
    node: &Node,
    request: &[&[u8]],
    other: impl Fn(&mut crate::client::Client) -> Option<String> + Sync,
) -> (String, Vec<String>) {
    let mut clients = node.clients(CLIENTS);
    for client in &mut clients {
        client.set_patience(PATIENCE);
        assert_eq!(client.say("PING"), "+PONG");
    }
    let mut first = clients.remove(0);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let (other, ended) = (&other, &ended);
                scope.spawn(move || {
                    // PING needs no shard: whoever is on the other core is answered all the time.
                    while !ended.load(Relaxed) {
                        if client.say("PING").starts_with("-BUSY") {
                            return other(client);
                        }
                    }
                    None
                })
            })
            .collect();
        let reply = first.send(request);
        ended.store(true, Relaxed);
        let said = others.into_iter();
        let said = said.filter_map(|thread| thread.join().expect("no client failed"));
        (reply, said.collect())
    })
}

fn busy_soon(options: &[&str]) -> Node {
    let node = Node::start(options);
    let reply = node.client().say("CONFIG SET busy-reply-threshold 20");
    assert_eq!(reply, "+OK");
    node
}

#[test]
fn a_script_is_killed_from_another_core() {
    let node = busy_soon(TWO);
    let script = b"while true do pcall(function() while true do end end) end";
    let (reply, said) = beside(&node, &[b"EVAL", script, b"0"], |client| {
        Some(client.say("SCRIPT KILL"))
    });
    assert!(
        reply.starts_with("-ERR Script killed by user with SCRIPT KILL..."),
        "{reply}"
    );
    assert!(said.iter().any(|said| said == "+OK"), "{said:?}");
    assert_eq!(node.client().send(&[b"EVAL", b"return 1", b"0"]), ":1");
}

#[test]
fn a_script_that_has_written_is_not_killed() {
    let node = busy_soon(TWO);
    let script =
        b"redis.call('SET', 'a', 'b') local n = 0 while n < 1e8 do n = n + 1 end return 'done'";
    let (reply, said) = beside(&node, &[b"EVAL", script, b"1", b"a"], |client| {
        let stays = client.say("SCRIPT KILL");
        // It may just have ended.
        (!stays.starts_with("-NOTBUSY")).then_some(stays)
    });
    assert_eq!(reply, "done");
    assert!(!said.is_empty(), "the script ended too soon");
    for said in said {
        assert!(said.starts_with("-UNKILLABLE"), "{said}");
    }
}

#[test]
fn a_lone_core_stops_a_script_itself() {
    let node = busy_soon(ONE);
    let mut client = node.client();
    let reply = client.send(&[b"EVAL", b"while true do end", b"0"]);
    assert!(
        reply.starts_with("-ERR Script stopped after 20 ms"),
        "{reply}"
    );
    assert_eq!(client.say("PING"), "+PONG");
}
