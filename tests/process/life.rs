//! Starting and stopping, options, sleep, and every level of the ring.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    node::{Node, ONE, TWO, free_port, run},
};

#[test]
fn a_node_stops_on_shutdown_and_on_signals() {
    for options in [ONE, TWO] {
        let mut node = Node::start(options);
        let mut client = node.client();
        client.say("SET a 1");
        client.post_line("SHUTDOWN NOSAVE");
        assert!(client.is_closed());
        assert_eq!(node.wait().code(), Some(0));
        for signal in ["-TERM", "-INT"] {
            let mut node = Node::start(options);
            // With clients that are idle, waiting and being answered.
            let mut clients = node.clients(4);
            clients[0].post_line("BLPOP a b c 0");
            clients[1].say("SUBSCRIBE c");
            let status = Command::new("kill")
                .args([signal, &node.pid().to_string()])
                .status()
                .expect("kill exists");
            assert!(status.success());
            assert_eq!(node.wait().code(), Some(0), "{signal}");
        }
    }
}

#[test]
fn a_second_node_on_the_port_is_refused() {
    let node = Node::start(TWO);
    let mut second = Node::spawn(node.port, TWO);
    let line = second
        .wait_for_line("cannot listen on")
        .expect("it says why");
    assert!(line.contains(&format!("127.0.0.1:{}", node.port)), "{line}");
    assert_eq!(second.wait().code(), Some(1));
    assert_eq!(node.client().say("PING"), "+PONG");
}

/// Each looks at the port before any of them listens there.
#[test]
fn of_nodes_that_start_together_one_has_the_port() {
    let port = free_port();
    let mut nodes = [(); 4].map(|()| Node::spawn(port, TWO));
    let ready = nodes
        .iter_mut()
        .filter_map(|node| node.wait_for_line("ready on").map(|_| node.pid()))
        .count();
    assert_eq!(ready, 1);
}

#[test]
fn a_unix_socket_serves_too() {
    let path = std::env::temp_dir().join(format!("ringkeep-test-{}.sock", std::process::id()));
    let text = path.to_str().expect("a plain path");
    // The second time the file of the first, which was killed, is there.
    for round in 0..2 {
        let mut node = Node::start(&["--threads", "2", "--shards", "5", "--unixsocket", text]);
        let mut clients: Vec<Client> = (0..3).map(|_| Client::unix(&path)).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.say(&format!("MSET a{at} 1 b{at} 2 c{at} 3")), "+OK");
            assert_eq!(client.say(&format!("MGET c{at} a{at}")), "[3 1]");
        }
        assert_eq!(node.client().say("GET a1"), "1");
        if round == 1 {
            clients[0].post_line("SHUTDOWN");
            assert_eq!(node.wait().code(), Some(0));
            assert!(!path.exists(), "the socket file stays");
        }
    }
}

#[test]
fn the_command_line_is_checked() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("--replicaof"));
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("ringkeep "));
    for (args, text) in [
        (&["--nosuch"][..], "unknown option '--nosuch'"),
        (&["--port"], "'--port' needs a value"),
        (&["--port", "70000"], "'--port' cannot be '70000'"),
        (&["--threads", "many"], "'--threads' cannot be 'many'"),
        (
            &["--ring-level", "turbo"],
            "'--ring-level' cannot be 'turbo'",
        ),
        (
            &["--replicaof", "nowhere"],
            "'--replicaof' cannot be 'nowhere'",
        ),
        (&["--cpu-list", "1,x"], "'--cpu-list' cannot be '1,x'"),
        (&["extra"], "unknown option 'extra'"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(text), "{said}");
        assert!(output.stdout.is_empty());
    }
    let output = run(&["--bind", "localhost:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no address to listen on"));
}

#[test]
fn the_doctor_reports() {
    let output = run(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("kernel ") && text.contains("ring level: "),
        "{text}"
    );
}

#[test]
fn what_nobody_reads_ends_without_a_word() {
    for args in [
        &["man"][..],
        &["doctor"],
        &["--help"],
        &["completions", "zsh"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_ringkeep"))
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("the binary starts");
        assert_eq!(output.status.signal(), Some(13), "{args:?}: SIGPIPE");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

/// A bit of everything, on each level of the ring and both shapes.
#[test]
fn every_level_of_the_ring_serves() {
    for level in ["basic", "multishot", "full"] {
        for shape in [ONE, TWO] {
            let mut options = shape.to_vec();
            options.extend(["--ring-level", level]);
            let mut node = Node::start(&options);
            let mut clients = node.clients(4);
            for (at, client) in clients.iter_mut().enumerate() {
                let info = client.say("INFO server");
                let ring = info
                    .lines()
                    .find(|line| line.starts_with("ring:"))
                    .expect("it says");
                assert!(
                    ["ring:basic", "ring:multishot", "ring:full"].contains(&ring),
                    "{ring}"
                );
                assert!(level != "basic" || ring == "ring:basic");
                for key in 0..50 {
                    client.post_line(&format!("SET k{key} {at}"));
                    client.post_line(&format!("MGET k{key} k{key}"));
                }
                for _ in 0..50 {
                    assert_eq!(client.reply(), "+OK");
                    assert_eq!(client.reply(), format!("[{at} {at}]"));
                }
                let value = vec![b'v'; 3 << 20];
                assert_eq!(client.send(&[b"SET", b"large", &value]), "+OK");
                for _ in 0..4 {
                    client.post_line("GET large");
                }
                for _ in 0..4 {
                    assert!(client.bulk() == value);
                }
                client.post_line("BLPOP x y z 0");
            }
            let mut pusher = node.client();
            for client in &mut clients {
                pusher.say("RPUSH y 1");
                let _ = client;
            }
            for client in &mut clients {
                assert_eq!(client.reply(), "[y 1]");
                client.half_close();
                assert!(client.is_closed());
            }
            for mut client in node.clients(30) {
                assert_eq!(client.say("PING"), "+PONG");
            }
            pusher.post_line("SHUTDOWN");
            assert_eq!(node.wait().code(), Some(0), "{level}");
        }
    }
}

#[test]
fn an_idle_node_sleeps() {
    let node = Node::start(TWO);
    let mut clients = node.clients(10);
    for client in &mut clients {
        client.say("MGET a b c d e f");
        client.post_line("BLPOP a b c d e f 0");
    }
    std::thread::sleep(Duration::from_millis(200));
    let (cpu, start) = (node.cpu(), Instant::now());
    std::thread::sleep(Duration::from_millis(1500));
    let used = node.cpu().saturating_sub(cpu);
    let share = used.as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.05, "{share} of a processor while idle");
}

#[test]
fn a_port_is_for_one_thing() {
    let port = free_port().to_string();
    for (options, told) in [
        (
            &["--replication-port", &port][..],
            "is to be for clients and for replicas",
        ),
        (
            &["--metrics-port", &port],
            "is to be for clients and for metrics",
        ),
    ] {
        let output = run(&[&["--port", &port][..], options].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("port {port} {told}")), "{text}");
    }
}
