//! Commands of the connection and of the node.

use std::time::Duration;

use crate::{
    client::Client,
    node::{Node, ONE, TWO, eventually},
};

fn id(client: &mut Client) -> u64 {
    let text = client.say("CLIENT ID");
    text[1..].parse().expect("a number")
}

fn clients(options: &[&str]) {
    let node = Node::start(options);
    let mut clients = node.clients(6);
    let ids: Vec<u64> = clients.iter_mut().map(id).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.say(&format!("CLIENT SETNAME name{at}")), "+OK");
        assert_eq!(client.say("CLIENT GETNAME"), format!("name{at}"));
        assert_eq!(client.say("CLIENT SETINFO lib-name tester"), "+OK");
    }
    assert!(
        clients[0]
            .send(&[b"CLIENT", b"SETNAME", b"a b"])
            .starts_with("-ERR Client names")
    );
    for client in &mut clients {
        let list = client.say("CLIENT LIST");
        for (at, id) in ids.iter().enumerate() {
            let line = list
                .lines()
                .find(|line| line.starts_with(&format!("id={id} ")))
                .unwrap_or_else(|| panic!("no line for {id} in {list}"));
            assert!(line.contains(&format!(" name=name{at} ")), "{line}");
            assert!(line.contains(" lib-name=tester "), "{line}");
        }
        assert_eq!(list.lines().count(), 6);
        assert!(client.say("CLIENT INFO").contains("name=name"));
    }
    // The answers of all cores keep their place among other replies.
    clients[0].post_line("GET a");
    clients[0].post_line(&format!("CLIENT LIST ID {} {}", ids[2], ids[3]));
    clients[0].post_line("GET b");
    clients[0].post_line("PING");
    assert_eq!(clients[0].reply(), "nil");
    assert_eq!(clients[0].reply().lines().count(), 2);
    assert_eq!(
        (clients[0].reply(), clients[0].reply()),
        ("nil".into(), "+PONG".into())
    );
    // Killed: by id, while blocked, all others, and itself.
    assert_eq!(clients[0].say(&format!("CLIENT KILL ID {}", ids[1])), ":1");
    assert!(clients[1].is_closed());
    clients[2].post_line("BLPOP a b c 0");
    eventually("it is blocked", || {
        let list = clients[0].say(&format!("CLIENT LIST ID {}", ids[2]));
        list.contains("flags=b")
    });
    assert_eq!(clients[0].say(&format!("CLIENT KILL ID {}", ids[2])), ":1");
    assert!(clients[2].is_closed());
    assert_eq!(clients[0].say(&format!("CLIENT KILL ID {}", ids[2])), ":0");
    assert_eq!(clients[0].say("CLIENT KILL TYPE normal"), ":3");
    clients[3..]
        .iter_mut()
        .for_each(|client| assert!(client.is_closed()));
    clients[0].post_line(&format!("CLIENT KILL ID {} SKIPME no", ids[0]));
    clients[0].post_line("SET after 1");
    assert_eq!(clients[0].reply(), ":1");
    assert!(clients[0].is_closed());
    assert_eq!(node.client().say("EXISTS after"), ":0");
}

#[test]
fn clients_are_listed_named_and_killed_on_one_core() {
    clients(ONE);
}

#[test]
fn clients_are_listed_named_and_killed_on_two_cores() {
    clients(TWO);
}

fn reply_modes(options: &[&str]) {
    let node = Node::start(options);
    for client in &mut node.clients(4) {
        client.post_line("CLIENT REPLY OFF");
        // Keys of all shards, several of them, transactions, waiting.
        for at in 0..10 {
            client.post_line(&format!("SET off{at} {at}"));
            client.post_line(&format!("MGET off{at} off0 off1 off2 off3"));
        }
        for line in [
            "MULTI",
            "SET m1 1",
            "SET m2 1",
            "EXEC",
            "NOSUCH",
            "CLIENT LIST",
            "BLPOP no1 no2 no3 0.01",
        ] {
            client.post_line(line);
        }
        client.post_line("CLIENT REPLY ON");
        client.post_line("GET off7");
        assert_eq!(client.reply(), "+OK");
        assert_eq!(client.reply(), "7");
        for at in 0..10 {
            client.post_line("CLIENT REPLY SKIP");
            client.post_line(&format!("GET off{at}"));
            client.post_line(&format!("GET off{}", (at + 3) % 10));
            assert_eq!(client.reply(), format!("{}", (at + 3) % 10));
        }
        assert!(client.say("CLIENT REPLY maybe").starts_with("-ERR syntax"));
    }
}

#[test]
fn replies_can_be_switched_off_on_one_core() {
    reply_modes(ONE);
}

#[test]
fn replies_can_be_switched_off_on_two_cores() {
    reply_modes(TWO);
}

#[test]
fn a_connection_is_reset_and_quit() {
    let node = Node::start(TWO);
    let mut client = node.client();
    for line in [
        "SELECT 2",
        "CLIENT SETNAME x",
        "HELLO 3",
        "WATCH a b c",
        "MULTI",
        "SET a 1",
    ] {
        client.say(line);
    }
    assert_eq!(client.say("RESET"), "+RESET");
    assert_eq!(client.say("CLIENT GETNAME"), "nil");
    assert_eq!(client.say("EXEC"), "-ERR EXEC without MULTI");
    assert_eq!(client.say("HGETALL a"), "[]");
    assert!(client.say("CLIENT INFO").contains(" db=0 "));
    for at in 0..8 {
        client.post_line(&format!("SET quit{at} 1"));
    }
    client.post_line("QUIT");
    client.post_line("SET late 1");
    (0..9).for_each(|_| assert_eq!(client.reply(), "+OK"));
    assert!(client.is_closed());
    assert_eq!(node.client().say("EXISTS late"), ":0");
}

#[test]
fn databases_are_apart() {
    let node = Node::start(TWO);
    for client in &mut node.clients(4) {
        for db in [0, 1, 15] {
            assert_eq!(client.say(&format!("SELECT {db}")), "+OK");
            for key in 0..10 {
                client.say(&format!("SET key{key} {db}"));
            }
        }
        for db in [0, 1, 15] {
            client.say(&format!("SELECT {db}"));
            for key in 0..10 {
                assert_eq!(client.say(&format!("GET key{key}")), format!("{db}"));
            }
            assert_eq!(client.say("DBSIZE"), ":10");
        }
        assert_eq!(client.say("FLUSHDB"), "+OK");
        assert_eq!(client.say("DBSIZE"), ":0");
        client.say("SELECT 1");
        assert_eq!(client.say("DBSIZE"), ":10");
        assert_eq!(client.say("SELECT 16"), "-ERR DB index is out of range");
        assert_eq!(client.say("SELECT -1"), "-ERR DB index is out of range");
        assert!(client.say("SELECT x").starts_with("-ERR"));
        assert_eq!(client.say("GET key1"), "1");
    }
    eventually("INFO shows the sizes", || {
        node.client()
            .say("INFO keyspace")
            .contains("db1:keys=10,expires=0")
    });
}

#[test]
fn the_third_protocol_has_its_types() {
    let node = Node::start(TWO);
    for client in &mut node.clients(4) {
        assert_eq!(
            client.say("HELLO 4"),
            "-NOPROTO unsupported protocol version"
        );
        let hello = client.say("HELLO 3 SETNAME three");
        assert!(hello.starts_with("%[server redis version 7."), "{hello}");
        assert!(
            hello.contains(" proto :3 id :") && hello.ends_with(" modules []]"),
            "{hello}"
        );
        assert_eq!(client.say("CLIENT GETNAME"), "three");
        for key in 0..6 {
            client.say(&format!("HSET h{key} f v"));
            client.say(&format!("SADD s{key} m"));
            client.say(&format!("ZADD z{key} 1.5 m"));
            assert_eq!(client.say(&format!("HGETALL h{key}")), "%[f v]");
            assert_eq!(client.say(&format!("SMEMBERS s{key}")), "~[m]");
            assert_eq!(client.say(&format!("ZSCORE z{key} m")), ",1.5");
            assert_eq!(client.say(&format!("GET none{key}")), "nil");
            assert_eq!(
                client.say(&format!("ZRANGE z{key} 0 -1 WITHSCORES")),
                "[[m ,1.5]]"
            );
            assert_eq!(client.say(&format!("SINTER s{key} s0")), "~[m]");
        }
        let hello = client.say("HELLO 2");
        assert!(hello.starts_with("[server redis"), "{hello}");
        assert_eq!(client.say("HGETALL h1"), "[f v]");
        assert_eq!(client.say("ZSCORE z1 m"), "1.5");
    }
}

#[test]
fn there_are_no_more_clients_than_allowed() {
    let node = Node::start(&["--threads", "2", "--shards", "2"]);
    let mut admin = node.client();
    assert_eq!(admin.say("CONFIG SET maxclients 5"), "+OK");
    assert_eq!(admin.say("CONFIG GET maxclients"), "[maxclients 5]");
    let mut kept = Vec::new();
    // The cores learn of each other's numbers with every beat, so a few more may get in.
    eventually("clients are refused", || {
        std::thread::sleep(Duration::from_millis(50));
        let mut client = node.client();
        if client.try_write(b"PING\r\n").is_err() {
            return true;
        }
        client.set_patience(Duration::from_secs(10));
        let reply = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.reply()));
        match reply.as_deref() {
            Ok("+PONG") => {
                kept.push(client);
                assert!(kept.len() < 10);
                false
            }
            Ok(text) => {
                assert_eq!(text, "-ERR max number of clients reached");
                true
            }
            // The refusal may be lost with the reset.
            Err(_) => true,
        }
    });
    assert!(kept.len() >= 3, "{} clients", kept.len());
    assert_eq!(admin.say("PING"), "+PONG");
    kept.clear();
    admin.say("CONFIG SET maxclients 100");
    eventually("clients are welcome again", || {
        let mut client = node.client();
        client.try_write(b"PING\r\n").is_ok()
            && std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.reply()))
                .is_ok_and(|reply| reply == "+PONG")
    });
    eventually("refusals are counted", || {
        !admin.say("INFO stats").contains("rejected_connections:0\r")
    });
}

#[test]
fn idle_clients_are_closed_but_not_those_who_wait_or_listen() {
    let node = Node::start(TWO);
    let mut admin = node.client();
    let mut idle = node.clients(3);
    let (mut waits, mut listens) = (node.client(), node.client());
    waits.post_line("BLPOP q1 q2 q3 0");
    listens.say("SUBSCRIBE c");
    assert_eq!(admin.say("CONFIG SET timeout 1"), "+OK");
    for client in &mut idle {
        assert!(client.is_closed());
    }
    let mut admin = node.client();
    assert_eq!(admin.say("RPUSH q2 x"), ":1");
    assert_eq!(waits.reply(), "[q2 x]");
    assert_eq!(admin.say("PUBLISH c m"), ":1");
    assert_eq!(listens.reply(), "[message c m]");
    // As large as it gets.
    assert_eq!(admin.say("CONFIG SET timeout 18446744073709551615"), "+OK");
    assert_eq!(admin.say("CONFIG SET timeout 0"), "+OK");
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(node.client().say("PING"), "+PONG");
}

#[test]
fn parameters_and_counters_are_shown() {
    let node = Node::start(TWO);
    let mut client = node.client();
    assert_eq!(
        client.say("CONFIG GET port"),
        format!("[port {}]", node.port)
    );
    assert_eq!(
        client.say("CONFIG GET io-threads databases"),
        "[databases 16 io-threads 5]"
    );
    assert_eq!(
        client.say("CONFIG SET port 1"),
        "-ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config"
    );
    assert!(
        client
            .say("CONFIG SET nosuch 1")
            .starts_with("-ERR Unknown option")
    );
    assert!(
        client
            .say("CONFIG SET timeout abc maxclients 7")
            .starts_with("-ERR CONFIG SET failed")
    );
    assert_eq!(client.say("CONFIG GET maxclients"), "[maxclients 10000]");
    client.say("SET a 1");
    client.say("SET b 1 EX 100");
    eventually("INFO follows", || {
        let info = client.say("INFO");
        [
            "# Server\r\n",
            "redis_version:7.",
            "cores:2\r\n",
            "shards:5\r\n",
            "ring:",
            "# Clients\r\n",
            "connected_clients:1\r\n",
            "# Memory\r\n",
            "used_memory:",
            "# Persistence\r\n",
            "# Stats\r\n",
            "total_commands_processed:",
            "# Replication\r\n",
            "role:master\r\n",
            "# CPU\r\n",
            "# Keyspace\r\n",
            "db0:keys=2,expires=1",
        ]
        .iter()
        .all(|field| info.contains(field))
    });
    let part = client.say("INFO replication");
    assert!(part.starts_with("# Replication\r\nrole:master\r\n") && !part.contains("# Server"));
    assert_eq!(client.say("ROLE"), "[master :0 []]");
    assert!(
        client.say("COMMAND COUNT")[1..]
            .parse::<u32>()
            .expect("a number")
            > 150
    );
    assert_eq!(client.say("COMMAND GETKEYS MSET a 1 b 2"), "[a b]");
    client.say("CONFIG SET slowlog-log-slower-than 0");
    eventually("slow requests are noted", || {
        client.say("LRANGE list 0 -1");
        client.say("SLOWLOG GET 1").contains("LRANGE list 0 -1")
    });
}
