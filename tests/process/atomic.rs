//! Commands and transactions over keys of several cores.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    node::{Node, ONE, TWO, eventually},
};

/// How long concurrent clients work against each other.
const SPAN: Duration = Duration::from_millis(700);

/// Lets the other threads of a test end when one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Several clients set all keys to one value each; nobody ever sees two values.
fn equal_values(options: &[&str]) {
    let node = Node::start(options);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for writer in 0..3 {
            let mut client = node.client();
            let stop = &stop;
            scope.spawn(move || {
                let _stop = Stop(stop);
                let mut round = 0;
                while !stop.load(Relaxed) {
                    round += 1;
                    let pairs: Vec<String> = (0..6)
                        .map(|key| format!("eq{key} {writer}-{round}"))
                        .collect();
                    assert_eq!(client.say(&format!("MSET {}", pairs.join(" "))), "+OK");
                }
            });
        }
        for reader in 0..3 {
            let mut client = node.client();
            let stop = &stop;
            scope.spawn(move || {
                let end = Instant::now() + SPAN;
                let mut reads = 0;
                while Instant::now() < end {
                    // Transactions see one state too.
                    let text = if reader == 0 {
                        client.post_line("MULTI");
                        (0..6).for_each(|key| client.post_line(&format!("GET eq{key}")));
                        client.post_line("EXEC");
                        (0..7).for_each(|_| drop(client.reply()));
                        client.reply()
                    } else {
                        client.say("MGET eq5 eq4 eq3 eq2 eq1 eq0")
                    };
                    let values: Vec<&str> = text.trim_matches(['[', ']']).split(' ').collect();
                    assert!(values.iter().all(|value| *value == values[0]), "{text}");
                    reads += 1;
                }
                stop.store(true, Relaxed);
                assert!(reads > 10);
            });
        }
    });
}

#[test]
fn mset_and_mget_are_atomic_on_one_core() {
    equal_values(ONE);
}

#[test]
fn mset_and_mget_are_atomic_on_two_cores() {
    equal_values(TWO);
}

/// Clients move amounts between accounts on all shards; the sum stays.
fn money(options: &[&str]) {
    let node = Node::start(options);
    let mut client = node.client();
    for account in 0..8 {
        client.say(&format!("SET account{account} 100"));
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for mover in 0..3_u64 {
            let mut client = node.client();
            let stop = &stop;
            scope.spawn(move || {
                let mut random = 77 + mover;
                while !stop.load(Relaxed) {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let (from, to) = ((random >> 33) % 8, (random >> 40) % 8);
                    client.post_line("MULTI");
                    client.post_line(&format!("DECRBY account{from} 7"));
                    client.post_line(&format!("INCRBY account{to} 7"));
                    client.post_line("EXEC");
                    (0..3).for_each(|_| drop(client.reply()));
                    assert!(client.reply().starts_with("[:"));
                }
            });
        }
        // Moves by WATCH: read, compute, write, or try again.
        let mut watcher = node.client();
        let watched = &stop;
        scope.spawn(move || {
            let client = &mut watcher;
            let (mut done, mut lost) = (0, 0);
            while !watched.load(Relaxed) {
                client.say("WATCH account1 account6");
                let text = client.say("MGET account1 account6");
                let values: Vec<i64> = text
                    .trim_matches(['[', ']'])
                    .split(' ')
                    .map(|value| value.parse().expect("an amount"))
                    .collect();
                client.say("MULTI");
                client.say(&format!("SET account1 {}", values[0] - 3));
                client.say(&format!("SET account6 {}", values[1] + 3));
                match client.say("EXEC").as_str() {
                    "nil" => lost += 1,
                    "[+OK +OK]" => done += 1,
                    other => panic!("{other}"),
                }
            }
            assert!(done + lost > 5, "{done} {lost}");
        });
        let end = Instant::now() + SPAN;
        while Instant::now() < end {
            let text = client.say(
                "MGET account0 account1 account2 account3 account4 account5 account6 account7",
            );
            let sum: i64 = text
                .trim_matches(['[', ']'])
                .split(' ')
                .map(|value| value.parse::<i64>().expect("an amount"))
                .sum();
            assert_eq!(sum, 800, "{text}");
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn transactions_keep_the_sum_on_one_core() {
    money(ONE);
}

#[test]
fn transactions_keep_the_sum_on_two_cores() {
    money(TWO);
}

#[test]
fn rename_and_store_over_cores_are_atomic() {
    let node = Node::start(TWO);
    let mut clients = node.clients(4);
    clients[0].say("SADD one a b c");
    clients[0].say("SADD two b c d");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let (stop, node) = (&stop, &node);
        scope.spawn(move || {
            let mut client = node.client();
            let _stop = Stop(stop);
            client.say("SET ball 1");
            for at in 0.. {
                if stop.load(Relaxed) {
                    return;
                }
                let (from, to) = if at % 2 == 0 {
                    ("ball", "ball2")
                } else {
                    ("ball2", "ball")
                };
                assert_eq!(client.say(&format!("RENAME {from} {to}")), "+OK");
            }
        });
        scope.spawn(move || {
            let mut client = node.client();
            while !stop.load(Relaxed) {
                assert_eq!(client.say("SINTERSTORE both one two"), ":2");
                assert_eq!(client.say("SUNIONSTORE all one two both"), ":4");
                assert_eq!(client.say("SMOVE one other a"), ":1");
                assert_eq!(client.say("SMOVE other one a"), ":1");
            }
        });
        eventually("the ball was set", || {
            clients[1].say("EXISTS ball ball2") == ":1"
        });
        let end = Instant::now() + SPAN;
        while Instant::now() < end {
            for client in &mut clients {
                let text = client.say("MGET ball ball2");
                assert!(text == "[1 nil]" || text == "[nil 1]", "{text}");
                let text = client.say("SINTERCARD 2 one other");
                assert_eq!(text, ":0");
                let all = client.say("SUNION one other");
                assert_eq!(all.split(' ').count(), 3, "{all}");
            }
        }
        stop.store(true, Relaxed);
    });
}

fn transactions(options: &[&str]) {
    let node = Node::start(options);
    for client in &mut node.clients(4) {
        client.say("FLUSHALL");
        for line in [
            "MULTI",
            "SET a 1",
            "INCR b",
            "LPUSH a x",
            "GET a",
            "PING",
            "SELECT 1",
            "SET c 5",
            "SELECT 0",
        ] {
            let want = if line == "MULTI" { "+OK" } else { "+QUEUED" };
            assert_eq!(client.say(line), want);
        }
        assert_eq!(
            client.say("EXEC"),
            "[+OK :1 -WRONGTYPE Operation against a key holding the wrong kind of value 1 +PONG +OK +OK +OK]"
        );
        assert_eq!(client.say("MGET a b c"), "[1 1 nil]");
        assert_eq!(client.say("EXEC"), "-ERR EXEC without MULTI");
        assert_eq!(client.say("DISCARD"), "-ERR DISCARD without MULTI");
        assert_eq!(client.say("MULTI"), "+OK");
        assert_eq!(client.say("MULTI"), "-ERR MULTI calls can not be nested");
        assert_eq!(
            client.say("WATCH a"),
            "-ERR WATCH inside MULTI is not allowed"
        );
        assert_eq!(client.say("DISCARD"), "+OK");
        assert_eq!(client.say("MULTI"), "+OK");
        assert!(client.say("NOSUCH").starts_with("-ERR unknown command"));
        assert_eq!(client.say("SET a 2"), "+QUEUED");
        assert_eq!(
            client.say("EXEC"),
            "-EXECABORT Transaction discarded because of previous errors."
        );
        assert_eq!(client.say("MULTI"), "+OK");
        assert_eq!(
            client.say("GET"),
            "-ERR wrong number of arguments for 'get' command"
        );
        assert!(client.say("EXEC").starts_with("-EXECABORT"));
        assert_eq!(client.say("MULTI"), "+OK");
        assert!(client.say("CLIENT LIST").starts_with("-ERR"));
        assert!(client.say("EXEC").starts_with("-EXECABORT"));
        // Empty, and commands that would wait.
        assert_eq!(
            (client.say("MULTI"), client.say("EXEC")),
            ("+OK".into(), "[]".into())
        );
        client.say("MULTI");
        client.say("BLPOP none nowhere 0");
        client.say("WAIT 1 0");
        client.say("HELLO 2");
        client.say("FLUSHALL");
        client.say("DBSIZE");
        let reply = client.say("EXEC");
        assert!(reply.starts_with("[nil :0 [server redis"), "{reply}");
        assert!(reply.ends_with(" +OK :0]"), "{reply}");
        assert_eq!(client.say("GET a"), "nil");
        client.say("MULTI");
        assert_eq!(client.say("HELLO 3"), "+QUEUED");
        client.say("GET none");
        let reply = client.say("EXEC");
        assert!(
            reply.starts_with("[%[server redis") && reply.ends_with(" nil]"),
            "{reply}"
        );
        client.post_line("HGETALL none");
        assert_eq!(client.reply(), "%[]");
        client.say("HELLO 2");
    }
}

#[test]
fn transactions_answer_as_redis_does_on_one_core() {
    transactions(ONE);
}

#[test]
fn transactions_answer_as_redis_does_on_two_cores() {
    transactions(TWO);
}

fn exec(client: &mut Client, set: &str) -> String {
    client.post_line("MULTI");
    client.post_line(&format!("SET {set} 1"));
    client.post_line("EXEC");
    assert_eq!(
        (client.reply(), client.reply()),
        ("+OK".into(), "+QUEUED".into())
    );
    client.reply()
}

fn watch(options: &[&str]) {
    let node = Node::start(options);
    let mut clients = node.clients(5);
    let mut other = node.client();
    for client in &mut clients {
        for round in 0..30 {
            let key = format!("w{round}");
            let line = format!("WATCH x{round} {key} y{round}");
            // Unchanged.
            assert_eq!(client.say(&line), "+OK");
            assert_eq!(exec(client, "other"), "[+OK]", "{key}");
            // Changed by another client.
            assert_eq!(client.say(&line), "+OK");
            other.say(&format!("INCR {key}"));
            assert_eq!(exec(client, "other"), "nil", "{key}");
            // Changed by a command over several shards.
            assert_eq!(client.say(&line), "+OK");
            other.say(&format!("MSET x{round} 1 {key} 1 y{round} 1 z 1"));
            assert_eq!(exec(client, "other"), "nil", "{key}");
            // All three changes are forgotten with the transaction they voided.
            assert_eq!(exec(client, "other"), "[+OK]", "{key}");
            // Changed by the client itself.
            client.say(&line);
            client.say(&format!("SET {key} 2"));
            assert_eq!(exec(client, "other"), "nil", "{key}");
            // Forgotten.
            client.say(&line);
            other.say(&format!("MSET x{round} 1 {key} 1 y{round} 1"));
            client.say("UNWATCH");
            assert_eq!(exec(client, &key), "[+OK]", "{key}");
            client.say(&line);
            other.say(&format!("SET {key} 2"));
            client.say("MULTI");
            client.say("DISCARD");
            assert_eq!(exec(client, &key), "[+OK]", "{key}");
            // Another key of the same name in another database, and a command that changes nothing.
            client.say(&line);
            other.say("SELECT 3");
            other.say(&format!("SET {key} 2"));
            other.say("SELECT 0");
            other.say(&format!("SETNX {key} 2"));
            other.say(&format!("GET {key}"));
            assert_eq!(exec(client, &key), "[+OK]", "{key}");
            client.say(&line);
            other.say("FLUSHALL");
            assert_eq!(exec(client, &key), "nil", "{key}");
        }
    }
}

#[test]
fn watched_keys_void_a_transaction_only_when_changed_on_one_core() {
    watch(ONE);
}

#[test]
fn watched_keys_void_a_transaction_only_when_changed_on_two_cores() {
    watch(TWO);
}

/// Counters raised by WATCH, GET, SET under contention lose no step, while commands over many shards
/// keep these shards travelling between the cores.
#[test]
fn no_watched_change_is_overlooked_while_shards_travel() {
    let node = Node::start(TWO);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            let mut client = node.client();
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    client.say("MGET t0 t1 t2 t3 t4 t5 t6 t7 t8");
                    client.say("MSET u0 1 u1 1 u2 1 u3 1 u4 1");
                }
            });
        }
        let raisers: Vec<_> = (0..4)
            .map(|_| {
                let mut client = node.client();
                scope.spawn(move || {
                    let end = Instant::now() + SPAN;
                    let mut raised = 0;
                    while Instant::now() < end {
                        client.say("WATCH counter");
                        let old: u64 = client.say("GET counter").parse().unwrap_or(0);
                        client.post_line("MULTI");
                        client.post_line(&format!("MSET counter {} other{} 1", old + 1, old % 7));
                        client.post_line("EXEC");
                        (0..2).for_each(|_| drop(client.reply()));
                        raised += u64::from(client.reply() != "nil");
                    }
                    raised
                })
            })
            .collect();
        let raised: u64 = raisers
            .into_iter()
            .map(|raiser| raiser.join().expect("it ended well"))
            .sum();
        stop.store(true, Relaxed);
        assert!(raised > 0);
        assert_eq!(node.client().say("GET counter"), format!("{raised}"));
    });
}
