//! Bytes in and out: pipelines, order, large values, slow and half-closed clients, broken requests.

use std::time::Duration;

use crate::{
    client::{Client, request, request_line},
    node::{Node, ONE, TWO, eventually},
};

/// Commands on keys of all shards, with their replies.
fn script() -> (Vec<u8>, Vec<String>) {
    let mut bytes = Vec::new();
    let mut replies = Vec::new();
    for at in 0..12 {
        for (line, reply) in [
            (format!("SET key{at} value{at}"), "+OK".to_string()),
            (format!("INCRBY count{at} {at}"), format!(":{at}")),
            (format!("GET key{at}"), format!("value{at}")),
            (
                format!("MGET key{at} key0 none{at}"),
                format!("[value{at} value0 nil]"),
            ),
            ("PING".into(), "+PONG".into()),
            (format!("LPUSH list{at} a b"), ":2".into()),
            (format!("LRANGE list{at} 0 -1"), "[b a]".into()),
            (
                "NOSUCH a".into(),
                "-ERR unknown command 'NOSUCH', with args beginning with: 'a' ".into(),
            ),
            (format!("BLPOP list{at} 0"), format!("[list{at} b]")),
            (format!("RPOP list{at}"), "a".into()),
            (format!("GETDEL count{at}"), format!("{at}")),
        ] {
            bytes.extend(request_line(&line));
            replies.push(reply);
        }
    }
    (bytes, replies)
}

fn splits(options: &[&str]) {
    let node = Node::start(options);
    let (bytes, replies) = script();
    let mut random: u64 = 88_172_645_463_325_252;
    for part in [1, 2, 3, 7, 61, 1000, 100_000, 0] {
        let mut client = node.client();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let len = if part > 0 {
                part
            } else {
                1 + (random % 40) as usize
            };
            let (now, later) = rest.split_at(len.min(rest.len()));
            client.write(now);
            rest = later;
        }
        for reply in &replies {
            assert_eq!(client.reply(), *reply, "in parts of {part}");
        }
    }
}

#[test]
fn a_pipeline_may_be_cut_anywhere_on_one_core() {
    splits(ONE);
}

#[test]
fn a_pipeline_may_be_cut_anywhere_on_two_cores() {
    splits(TWO);
}

fn deep(options: &[&str]) {
    let node = Node::start(options);
    let mut client = node.client();
    let mut bytes = Vec::new();
    for at in 0..10_000 {
        match at % 4 {
            0 => bytes.extend(request_line(&format!("SET k{} {at}", at % 97))),
            1 => bytes.extend(request_line(&format!("GET k{}", (at - 1) % 97))),
            2 => bytes.extend(request_line(&format!("ECHO {at}"))),
            _ => bytes.extend(request_line(&format!(
                "MGET k{} k{}",
                (at - 3) % 97,
                (at - 3) % 97
            ))),
        }
    }
    let mut writer = client.writer();
    let sender = std::thread::spawn(move || writer.write(&bytes));
    for at in 0..10_000 {
        let want = match at % 4 {
            0 => "+OK".to_string(),
            1 => format!("{}", at - 1),
            2 => format!("{at}"),
            _ => format!("[{0} {0}]", at - 3),
        };
        assert_eq!(client.reply(), want, "request {at}");
    }
    sender.join().expect("it was all sent");
}

#[test]
fn ten_thousand_requests_are_answered_in_order_on_one_core() {
    deep(ONE);
}

#[test]
fn ten_thousand_requests_are_answered_in_order_on_two_cores() {
    deep(TWO);
}

fn values(options: &[&str]) {
    let node = Node::start(options);
    let mut clients = node.clients(4);
    let sizes = [
        0,
        1,
        4095,
        4096,
        4097,
        16_383,
        16_384,
        65_536,
        (1 << 20) - 20,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        (2 << 20) + 5,
    ];
    for (at, size) in sizes.into_iter().enumerate() {
        let value: Vec<u8> = (0..size).map(|byte| (byte * 31 + at) as u8).collect();
        let key = format!("value{at}");
        let writer = &mut clients[at % 4];
        assert_eq!(writer.send(&[b"SET", key.as_bytes(), &value]), "+OK");
        for client in &mut clients {
            // Between small replies, so that the pieces have neighbours.
            client.post_line("PING");
            client.post(&[b"GET", key.as_bytes()]);
            client.post(&[b"GET", key.as_bytes()]);
            client.post_line("PING");
            assert_eq!(client.reply(), "+PONG");
            assert_eq!(client.bulk(), value, "size {size}");
            assert_eq!(client.bulk(), value, "size {size}");
            assert_eq!(client.reply(), "+PONG");
        }
    }
}

#[test]
fn values_of_all_sizes_come_back_on_one_core() {
    values(ONE);
}

#[test]
fn values_of_all_sizes_come_back_on_two_cores() {
    values(TWO);
}

/// Large requests behind and before small ones, cut at any place.
fn neighbours(options: &[&str]) {
    let node = Node::start(options);
    let mut client = node.client();
    let value =
        |at: usize, len: usize| -> Vec<u8> { (0..len).map(|byte| (byte * 7 + at) as u8).collect() };
    for (at, len) in [32_700, 32_768, 50_000, 70_001, 1_200_000]
        .into_iter()
        .enumerate()
    {
        let (first, second) = (value(at, len), value(at + 1, len / 2 + 1));
        let mut bytes = request_line("PING");
        bytes.extend(request(&[&b"SET"[..], b"one", &first]));
        bytes.extend(request(&[&b"SET"[..], b"two", &second, b"GET"]));
        bytes.extend(request(&[
            &b"MSET"[..],
            b"three",
            &second,
            b"four",
            &first,
            b"five",
            b"5",
        ]));
        bytes.extend(request_line("APPEND one tail"));
        bytes.extend(request(&[
            &b"RPUSH"[..],
            b"list",
            &first,
            b"small",
            &second,
        ]));
        bytes.extend(request_line("DEL list two"));
        for cut in [
            1,
            17,
            33,
            20_000,
            len + 46,
            len + 47,
            len + 48,
            len + 49,
            bytes.len() - 1,
        ] {
            let (head, tail) = bytes.split_at(cut);
            client.write(head);
            std::thread::sleep(Duration::from_millis(2));
            client.write(tail);
            let mut longer = first.clone();
            longer.extend_from_slice(b"tail");
            for want in ["+PONG", "+OK", "nil", "+OK"] {
                assert_eq!(client.reply(), want, "{len} bytes cut at {cut}");
            }
            assert_eq!(client.reply(), format!(":{}", longer.len()));
            assert_eq!(client.reply(), ":3");
            assert_eq!(client.reply(), ":2");
            for (key, want) in [("one", &longer), ("three", &second), ("four", &first)] {
                client.post(&[b"GET", key.as_bytes()]);
                assert!(client.bulk() == *want, "{key}: {len} bytes cut at {cut}");
            }
        }
    }
    let late = value(9, 100_000);
    assert_eq!(client.say("CLIENT PAUSE 30 WRITE"), "+OK");
    assert_eq!(client.send(&[b"SET", b"late", &late]), "+OK");
    client.post(&[b"GET", b"late"]);
    assert!(client.bulk() == late);
    client.write(b"*3\r\n$3\r\nSET\r\n$3\r\nbad\r\n$40000\r\n");
    client.write(&[b'x'; 40_002]);
    assert_eq!(
        client.reply(),
        "-ERR Protocol error: expected line end after bulk"
    );
    assert!(client.is_closed());
    assert_eq!(node.client().say("EXISTS bad"), ":0");
}

/// Looked at from the start for each argument, it would not be done before the test gives up.
#[test]
fn a_request_of_countless_small_arguments_is_read_once() {
    let node = Node::start(ONE);
    let mut client = node.client();
    let mut bytes = b"*300002\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n".to_vec();
    bytes.extend(b"$1\r\nx\r\n".repeat(300_000));
    bytes.extend(request_line("PING"));
    client.write(&bytes);
    assert_eq!(client.reply(), ":300000");
    assert_eq!(client.reply(), "+PONG");
}

#[test]
fn large_requests_leave_their_neighbours_alone_on_one_core() {
    neighbours(ONE);
}

#[test]
fn large_requests_leave_their_neighbours_alone_on_two_cores() {
    neighbours(TWO);
}

#[test]
fn a_value_of_64_mb_goes_in_and_out() {
    let node = Node::start(TWO);
    let value: Vec<u8> = (0..64 << 20)
        .map(|at: u32| (at ^ (at >> 11)) as u8)
        .collect();
    let mut client = node.client();
    assert_eq!(client.send(&[b"SET", b"large", &value]), "+OK");
    for client in &mut node.clients(4) {
        client.post(&[b"GET", b"large"]);
        assert!(client.bulk() == value);
    }
    assert_eq!(client.say("STRLEN large"), format!(":{}", value.len()));
}

fn half_closed(options: &[&str]) {
    let node = Node::start(options);
    for _ in 0..4 {
        let mut client = node.client();
        let (bytes, replies) = script();
        client.write(&bytes);
        client.write(b"*2\r\n$3\r\nGET\r\n$1");
        client.half_close();
        for reply in &replies {
            assert_eq!(client.reply(), *reply);
        }
        assert!(client.is_closed());
    }
    // Whoever can send nothing more does not wait, but gets an answer.
    let mut client = node.client();
    client.write(&request_line("MSET a 1 b 2 c 3 d 4"));
    client.write(&request_line("BLPOP nothing nowhere 0"));
    client.half_close();
    assert_eq!(client.reply(), "+OK");
    assert!(client.is_closed());
    eventually("nobody is blocked", || {
        node.client()
            .say("INFO clients")
            .contains("blocked_clients:0")
    });
}

#[test]
fn half_closed_clients_get_their_replies_on_one_core() {
    half_closed(ONE);
}

#[test]
fn half_closed_clients_get_their_replies_on_two_cores() {
    half_closed(TWO);
}

fn slow_reader(options: &[&str]) {
    let node = Node::start(options);
    let mut other = node.client();
    // Not large enough to be sent by reference, and of all shards.
    for key in 0..10 {
        for at in 0..250 {
            let field = format!("f{at}");
            let key = format!("hash{key}");
            other.send(&[b"HSET", key.as_bytes(), field.as_bytes(), &[b'x'; 4000]]);
        }
    }
    let before = node.resident();
    let mut lazy: Vec<Client> = node.clients(4);
    let mut sent = Vec::new();
    for client in &mut lazy {
        client.set_patience(Duration::from_millis(300));
        let mut count = 0;
        // A million bytes each, until the node reads no more.
        while count < 3000
            && client
                .try_write(&request_line(&format!("HVALS hash{}", count % 10)))
                .is_ok()
        {
            count += 1;
        }
        sent.push(count);
    }
    for at in 0..100 {
        assert_eq!(other.say(&format!("SET other{at} {at}")), "+OK");
        assert_eq!(other.say(&format!("GET other{at}")), format!("{at}"));
    }
    let grown = node.resident().saturating_sub(before);
    assert!(
        grown < 3 << 30,
        "{grown} bytes are kept for clients that do not read"
    );
    // They get everything once they read.
    let client = &mut lazy[0];
    client.set_patience(crate::node::PATIENCE);
    let one = 250 * 4009 + 6;
    client.skip(20.min(sent[0]) * one);
}

#[test]
fn a_client_that_does_not_read_costs_little_on_one_core() {
    slow_reader(ONE);
}

#[test]
fn a_client_that_does_not_read_costs_little_on_two_cores() {
    slow_reader(TWO);
}

#[test]
fn broken_requests_are_refused_and_only_their_client_closed() {
    let node = Node::start(TWO);
    let mut other = node.client();
    for (bytes, reply) in [
        (
            &b"*1\r\n+PING\r\n"[..],
            "-ERR Protocol error: expected '$', got '+'",
        ),
        (b"*x\r\n", "-ERR Protocol error: invalid multibulk length"),
        (
            b"*3000000000\r\n",
            "-ERR Protocol error: invalid multibulk length",
        ),
        (b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length"),
        (
            b"*1\r\n$99999999999\r\n",
            "-ERR Protocol error: invalid bulk length",
        ),
        (
            b"SET \"a b\r\n",
            "-ERR Protocol error: unbalanced quotes in request",
        ),
    ] {
        let mut client = node.client();
        let mut all = request_line("SET before 1");
        all.extend_from_slice(bytes);
        client.write(&all);
        assert_eq!(client.reply(), "+OK");
        assert_eq!(client.reply(), reply);
        assert!(client.is_closed());
        assert_eq!(other.say("GET before"), "1");
    }
    let mut client = node.client();
    client.write(b"SET inline 5\r\n\r\nGET inline\r\n*0\r\n*-1\r\n");
    client.write(b"SET \"a b\" 'c d'\r\n");
    assert_eq!((client.reply(), client.reply()), ("+OK".into(), "5".into()));
    assert_eq!(client.reply(), "+OK");
    assert_eq!(client.send(&[b"GET", b"a b"]), "c d");
}

#[test]
fn a_long_request_without_end_is_bounded_by_its_limit() {
    let node = Node::start(ONE);
    let mut client = node.client();
    // An inline line that never ends.
    client.set_patience(Duration::from_secs(5));
    let chunk = vec![b'a'; 64 << 10];
    let mut sent = 0;
    while sent < 64 << 20 && client.try_write(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "the node took it all");
    // A header alone reserves little.
    let before = node.resident();
    let mut clients = node.clients(20);
    for client in &mut clients {
        client.write(b"*2\r\n$4\r\nECHO\r\n$500000000\r\nx");
    }
    assert_eq!(node.client().say("PING"), "+PONG");
    assert!(node.resident() < before + (200 << 20));
}
