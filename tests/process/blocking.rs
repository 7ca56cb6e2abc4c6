//! Commands that wait.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    node::{Node, ONE, TWO, eventually},
};

fn wait_blocked(node: &Node, count: usize) {
    let mut client = node.client();
    eventually("clients are blocked", || {
        client.say("CLIENT LIST").matches(" flags=b ").count() == count
    });
}

fn served(options: &[&str]) {
    let node = Node::start(options);
    let mut pusher = node.client();
    for (round, waiter) in node.clients(6).iter_mut().enumerate() {
        for key in 0..6 {
            waiter.post_line(&format!("BLPOP q{key} r{key} s{key} 0"));
            waiter.post_line("PING");
            wait_blocked(&node, 1);
            pusher.say(&format!("RPUSH r{key} v{round} w"));
            assert_eq!(waiter.reply(), format!("[r{key} v{round}]"));
            assert_eq!(waiter.reply(), "+PONG");
            assert_eq!(pusher.say(&format!("DEL r{key}")), ":1");

            waiter.post_line(&format!("BLMOVE from{key} to{key} LEFT RIGHT 0"));
            wait_blocked(&node, 1);
            pusher.say(&format!("RPUSH from{key} m"));
            assert_eq!(waiter.reply(), "m");
            assert_eq!(pusher.say(&format!("RPOP to{key}")), "m");

            waiter.post_line(&format!("XREAD BLOCK 0 STREAMS st{key} tt{key} $ $"));
            wait_blocked(&node, 1);
            pusher.say(&format!("XADD tt{key} {}-1 f v", round + 1));
            assert_eq!(
                waiter.reply(),
                format!("[[tt{key} [[{}-1 [f v]]]]]", round + 1)
            );

            waiter.post_line(&format!("BZPOPMIN z{key} y{key} 0"));
            wait_blocked(&node, 1);
            pusher.say(&format!("ZADD y{key} 2 b 1 a"));
            assert_eq!(waiter.reply(), format!("[y{key} a 1]"));
            assert_eq!(pusher.say(&format!("ZREM y{key} b")), ":1");
        }
        // A chain: what one is served wakes the next.
        let mut next = node.client();
        next.post_line("BLPOP chain2 0");
        waiter.post_line("BLMOVE chain1 chain2 LEFT LEFT 0");
        wait_blocked(&node, 2);
        pusher.say("RPUSH chain1 x");
        assert_eq!(next.reply(), "[chain2 x]");
        assert_eq!(waiter.reply(), "x");
        // From a transaction, and another type in between.
        waiter.post_line("BLPOP typed 0");
        wait_blocked(&node, 1);
        pusher.say("SET typed 1");
        for line in [
            "MULTI",
            "DEL typed",
            "RPUSH typed a b",
            "SET elsewhere 1",
            "EXEC",
        ] {
            pusher.say(line);
        }
        assert_eq!(waiter.reply(), "[typed a]");
        pusher.say("DEL typed");
        waiter.post_line("BLPOP renamed 0");
        wait_blocked(&node, 1);
        pusher.say("RPUSH hidden a");
        pusher.say("RENAME hidden renamed");
        assert_eq!(waiter.reply(), "[renamed a]");
    }
}

#[test]
fn whoever_blocks_is_served_on_one_core() {
    served(ONE);
}

#[test]
fn whoever_blocks_is_served_on_two_cores() {
    served(TWO);
}

#[test]
fn those_who_came_first_are_served_first() {
    let node = Node::start(ONE);
    let mut waiters = node.clients(20);
    for (at, waiter) in waiters.iter_mut().enumerate() {
        waiter.post_line("BLPOP queue 0");
        wait_blocked(&node, at + 1);
    }
    let mut pusher = node.client();
    for at in 0..20 {
        pusher.say(&format!("RPUSH queue {at}"));
    }
    for (at, waiter) in waiters.iter_mut().enumerate() {
        assert_eq!(waiter.reply(), format!("[queue {at}]"));
    }
}

fn timeouts(options: &[&str]) {
    let node = Node::start(options);
    let mut waiters = node.clients(6);
    let start = Instant::now();
    for (at, waiter) in waiters.iter_mut().enumerate() {
        waiter.post_line(&format!("BLPOP n{at} o{at} 0.2"));
        waiter.post_line("PING");
        waiter.post_line(&format!("BLMOVE n{at} o{at} LEFT LEFT 0.1"));
        waiter.post_line(&format!("XREAD BLOCK 100 STREAMS n{at} o{at} $ $"));
        waiter.post_line("WAIT 1 100");
        waiter.post_line("BLPOP n 0.0001");
        waiter.post_line("BLPOP n -1");
        waiter.post_line("BLPOP n x");
    }
    for waiter in &mut waiters {
        assert_eq!(waiter.reply(), "nil");
        assert!(start.elapsed() >= Duration::from_millis(190));
        assert_eq!(waiter.reply(), "+PONG");
        assert_eq!(waiter.reply(), "nil");
        assert_eq!(waiter.reply(), "nil");
        assert_eq!(waiter.reply(), ":0");
        assert_eq!(waiter.reply(), "nil");
        assert_eq!(waiter.reply(), "-ERR timeout is negative");
        assert_eq!(
            waiter.reply(),
            "-ERR timeout is not a float or out of range"
        );
    }
    assert!(start.elapsed() < Duration::from_secs(15));
    wait_blocked(&node, 0);
}

#[test]
fn waiting_ends_in_time_on_one_core() {
    timeouts(ONE);
}

#[test]
fn waiting_ends_in_time_on_two_cores() {
    timeouts(TWO);
}

fn disconnect(options: &[&str]) {
    let node = Node::start(options);
    let mut pusher = node.client();
    for round in 0..6 {
        let mut gone = node.clients(4);
        for (at, client) in gone.iter_mut().enumerate() {
            client.post_line(&format!("BLPOP d{round} e{at} 0"));
        }
        wait_blocked(&node, 4);
        drop(gone);
        wait_blocked(&node, 0);
        // Nobody is left to take it.
        assert_eq!(pusher.say(&format!("RPUSH d{round} a")), ":1");
        assert_eq!(pusher.say(&format!("LLEN d{round}")), ":1");
    }
}

#[test]
fn who_disconnects_takes_nothing_on_one_core() {
    disconnect(ONE);
}

#[test]
fn who_disconnects_takes_nothing_on_two_cores() {
    disconnect(TWO);
}

/// Many clients push, pop and wait on lists of all shards at once. Every element comes out once.
fn conserved(options: &[&str]) {
    const PUSHERS: usize = 4;
    const WAITERS: usize = 100;
    const EACH: usize = 250;
    let node = Node::start(options);
    let (sum, count, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for at in 0..WAITERS {
            let mut client = node.client();
            let (sum, count, done) = (&sum, &count, &done);
            scope.spawn(move || {
                loop {
                    let line = match at % 5 {
                        0 => "BLPOP l0 l1 l2 l3 stop 0".to_string(),
                        1 => "BRPOP l3 l1 stop l2 l0 0".to_string(),
                        2 => "BLMPOP 0 5 stop l2 l0 l1 l3 LEFT COUNT 3".to_string(),
                        3 => "BLPOP l1 l0 l2 l3 stop 0.05".to_string(),
                        // Several requests ahead: what wakes the first lets the others run.
                        _ => {
                            client.post_line("BLPOP l0 l1 stop 0.02");
                            client.post_line("PING");
                            let first = client.reply();
                            assert_eq!(client.reply(), "+PONG");
                            add(&first, sum, count);
                            if first.starts_with("[stop") {
                                done.fetch_add(1, Relaxed);
                                return;
                            }
                            "BLPOP l2 l3 stop 0.02".to_string()
                        }
                    };
                    let reply = client.say(&line);
                    add(&reply, sum, count);
                    if reply.starts_with("[stop") {
                        done.fetch_add(1, Relaxed);
                        return;
                    }
                }
            });
        }
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|pusher| {
                let mut client = node.client();
                scope.spawn(move || {
                    for at in 0..EACH {
                        let element = pusher * EACH + at + 1;
                        match at % 3 {
                            0 => client.post_line(&format!("RPUSH l{} {element}", at % 4)),
                            1 => {
                                client.post_line(&format!("LPUSH l{} {element}", (at + pusher) % 4))
                            }
                            _ => {
                                client.post_line("MULTI");
                                client.post_line(&format!("RPUSH l{} {element}", at % 4));
                                client.post_line(&format!("SET other{pusher} {at}"));
                                client.post_line("EXEC");
                                (0..3).for_each(|_| drop(client.reply()));
                            }
                        }
                        assert!(!client.reply().starts_with('-'));
                    }
                })
            })
            .collect();
        pushers
            .into_iter()
            .for_each(|pusher| pusher.join().expect("it ended well"));
        let all = (PUSHERS * EACH) as u64;
        eventually("every element was taken", || count.load(Relaxed) == all);
        assert_eq!(sum.load(Relaxed), all * (all + 1) / 2);
        let mut client = node.client();
        // Some take several.
        eventually("every waiter was woken", || {
            client.say("RPUSH stop 0");
            done.load(Relaxed) == WAITERS as u64
        });
    });
    wait_blocked(&node, 0);
}

fn add(reply: &str, sum: &AtomicU64, count: &AtomicU64) {
    for word in reply.trim_matches(['[', ']']).split([' ', '[', ']']) {
        if let Ok(element @ 1..) = word.parse::<u64>() {
            sum.fetch_add(element, Relaxed);
            count.fetch_add(1, Relaxed);
        }
    }
}

#[test]
fn no_element_is_lost_and_no_waiter_forgotten_on_one_core() {
    conserved(ONE);
}

#[test]
fn no_element_is_lost_and_no_waiter_forgotten_on_two_cores() {
    conserved(TWO);
}

/// A chain of blocked clients, each of which wakes the next with its next request.
fn chain(options: &[&str]) {
    const LEN: usize = 800;
    let node = Node::start(options);
    let mut clients: Vec<Client> = node.clients(LEN);
    for (at, client) in clients.iter_mut().enumerate() {
        client.post_line(&format!("BLPOP c{at} 0"));
        client.post_line(&format!("RPUSH c{} x", at + 1));
    }
    wait_blocked(&node, LEN);
    let mut client = node.client();
    client.say("RPUSH c0 x");
    assert_eq!(
        client.say(&format!("BLPOP c{LEN} 0")),
        format!("[c{LEN} x]")
    );
}

#[test]
fn a_long_chain_of_waiters_runs_through_on_one_core() {
    chain(ONE);
}

#[test]
fn a_long_chain_of_waiters_runs_through_on_two_cores() {
    chain(TWO);
}
