//! `run` against real servers: every mix, both protocol versions, TCP and Unix sockets, replies checked;
//! and what it says when values are tampered with or the server ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringkeep-perf");

struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    /// Starts the server `name` with the arguments it needs to listen on a port and on `dir/socket`.
    fn start(name: &str, program: &Path, args: &[&str]) -> Server {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a port").port();
        let dir =
            std::env::temp_dir().join(format!("perf-run-{}-{name}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let child = Command::new(program)
            .args(args)
            .args(["--port", &port.to_string(), "--unixsocket", "socket"])
            .current_dir(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = Server { child, port, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !(server.socket().exists() && server.ask("PING").is_some_and(|pong| pong == "+PONG"))
        {
            assert!(Instant::now() < deadline, "{name} does not answer");
            sleep(Duration::from_millis(20));
        }
        server
    }

    /// The servers that are here: redis-server if installed, ringkeep if built.
    fn all() -> Vec<Server> {
        let mut all = Vec::new();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let redis = std::env::split_paths(&path).map(|dir| dir.join("redis-server"));
        if let Some(program) = redis.into_iter().find(|program| program.is_file()) {
            all.push(Server::start("redis-server", &program, &["--save", ""]));
        }
        let ringkeep = Path::new(PROGRAM).with_file_name("ringkeep");
        if ringkeep.is_file() {
            all.push(Server::start(
                "ringkeep",
                &ringkeep,
                &["--threads", "2", "--no-pin"],
            ));
        }
        if all.is_empty() {
            println!("neither redis-server nor ringkeep is here: nothing tested");
        }
        all
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// The first line of the answer to an inline command.
    fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    /// Runs a load with these options, words apart.
    fn run(&self, is_unix: bool, options: &str) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--json", "--warmup", "5ms"]);
        match is_unix {
            true => command.arg("--socket").arg(self.socket()),
            false => command.args(["--port", &self.port.to_string()]),
        };
        command
            .args(options.split_whitespace())
            .output()
            .expect("the program runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn measured(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

const MIXES: &str = "get set incr lpush lrange hset hget hgetall zadd zrange sadd smembers xadd mset mget \
    del publish get:set=90:10 get:set:del:mset:mget=4:3:1:1:1 lpush:lrange hset:hget:hgetall \
    sadd:smembers:zadd:zrange:incr:xadd";

#[test]
fn every_mix_is_answered_rightly_over_both_sockets_and_protocols() {
    for server in Server::all() {
        for (i, mix) in MIXES.split_whitespace().enumerate() {
            // Counted only, and checked; by one thread and by two.
            for (is_unix, proto, checked, threads) in [
                (false, 2, "--preload", 2),
                (true, 3, "--preload", 1),
                (i % 2 == 0, 2, "--verify", 1),
                (i % 2 == 1, 3, "--verify", 2),
            ] {
                let pipeline = [1, 16][i / 2 % 2];
                let load = format!(
                    "--mix {mix} --proto {proto} {checked} --threads {threads} --pipeline {pipeline} \
                     --keys 300 --conns 7 --requests 2000 --size 12-99"
                );
                let value = measured(&server.run(is_unix, &load));
                let what = format!("{load}: {value}");
                assert_eq!(value["requests"], 2000, "{what}");
                for wrong in ["errors", "wrong_length", "mismatches", "unanswered"] {
                    assert_eq!(value[wrong], 0, "{wrong} {what}");
                }
                if mix == "publish" {
                    // Two threads do not begin to measure at the same instant.
                    let delivered = value["delivered"].as_u64().expect("a number");
                    let is_exact = threads == 1 && delivered == 20_000;
                    assert!(is_exact || (threads == 2 && delivered > 10_000), "{what}");
                    assert_eq!(value["undelivered"], 0, "{what}");
                }
                if !mix.contains("del") {
                    assert_eq!(value["nils"], 0, "{what}");
                }
            }
        }
    }
}

#[test]
fn spreads_lifetimes_and_the_open_loop_are_checked_too() {
    for server in Server::all() {
        for load in [
            "--mix get:set --zipf 0.99 --pipeline 8 --duration 300ms",
            "--mix get:set --sequential --size 64:9,3000-20000:1 --duration 300ms",
            "--mix get:set --ttl-share 30% --ttl 1-100ms --duration 300ms",
            "--mix get:set:hset:hgetall --rate 5000 --pipeline 4 --threads 2 --duration 300ms",
            "--mix get:set --rate 5000 --requests 1000",
            "--mix publish --rate 2000 --channels 3 --subscribers 9 --duration 300ms",
        ] {
            let pid = server.child.id();
            let load = format!("{load} --verify --keys 500 --conns 10 --server-pid {pid}");
            let value = measured(&server.run(false, &load));
            let number = |name: &str| value[name].as_f64().unwrap_or(0.0);
            assert!(number("requests") > 300.0, "{load}: {value}");
            assert!(
                !load.contains("--requests") || number("requests") == 1000.0,
                "{load}: {value}"
            );
            assert!(
                !load.contains("publish") || number("delivered") > 900.0,
                "{load}: {value}"
            );
            assert!(
                number("server_cpu_ns") > 1.0 && number("server_resident_bytes") > 1e5,
                "{value}"
            );
            // Counting calls may be forbidden.
            let calls = &value["system_calls"];
            assert!(
                calls.is_null() || calls.as_f64().is_some_and(|n| n > 0.0),
                "{value}"
            );
        }
    }
}

#[test]
fn values_that_were_tampered_with_are_told() {
    for server in Server::all() {
        for (damage, complaint) in [
            ("FLUSHALL", "nothing where version"),
            (
                "SET key:000000000001 abcdefghijklmnop",
                "GET key:000000000001",
            ),
        ] {
            let load = "--mix get:set=9:1 --keys 50 --conns 5 --verify --duration 700ms";
            let output = std::thread::scope(|scope| {
                let run = scope.spawn(|| server.run(false, load));
                while !run.is_finished() {
                    sleep(Duration::from_millis(50));
                    assert_eq!(server.ask(damage).as_deref(), Some("+OK"));
                }
                run.join().expect("the run ends")
            });
            let text = said(&output);
            assert!(
                !output.status.success() && text.contains(complaint),
                "{text}"
            );
            let value: serde_json::Value =
                serde_json::from_slice(&output.stdout).expect("the measurement all the same");
            assert!(
                value["mismatches"].as_u64().is_some_and(|n| n > 0),
                "{value}"
            );
        }
    }
}

#[test]
fn a_server_that_ends_is_told_with_what_was_done_until_then() {
    for mut server in Server::all() {
        let output = std::thread::scope(|scope| {
            let (port, dir) = (server.port, server.dir.clone());
            let run = scope.spawn(move || {
                Command::new(PROGRAM)
                    .args([
                        "run",
                        "--json",
                        "--port",
                        &port.to_string(),
                        "--duration",
                        "30s",
                    ])
                    .args(["--threads", "2"])
                    .current_dir(dir)
                    .output()
                    .expect("the program runs")
            });
            sleep(Duration::from_millis(900));
            server.child.kill().expect("it runs");
            run.join().expect("it ends")
        });
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("broken off") && text.contains("requests answered"),
            "{text}"
        );
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert!(
            value["requests"].as_u64().is_some_and(|n| n > 100),
            "{value}"
        );
        assert!(
            value.get("ops_per_s").is_none() && value["failed"].is_string(),
            "{value}"
        );
    }
}

#[test]
fn error_replies_are_counted_by_text() {
    for server in Server::all() {
        assert_eq!(
            server.ask("SET lst:000000000000 text").as_deref(),
            Some("+OK")
        );
        let output = server.run(false, "--mix get:lpush --keys 1 --requests 1000");
        let text = said(&output);
        assert!(
            !output.status.success() && text.contains("WRONGTYPE"),
            "{text}"
        );
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("the measurement all the same");
        let kinds = value["errors_by_text"].as_array().expect("a list");
        assert_eq!(kinds.len(), 1, "{value}");
        assert_eq!(kinds[0][1], value["errors"], "{value}");
    }
}

#[test]
fn a_reader_that_went_away_does_not_change_the_verdict() {
    for server in Server::all().into_iter().take(1) {
        let port = server.port.to_string();
        let mut run = Command::new(PROGRAM)
            .args([
                "run",
                "--port",
                &port,
                "--duration",
                "400ms",
                "--warmup",
                "0",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop((run.stdout.take(), run.stderr.take()));
        assert!(run.wait().expect("it ends").success());
    }
}
