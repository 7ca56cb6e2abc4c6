//! Both ends of the harness as processes: the limit under the generator, and what a bad server does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringkeep-perf");

struct Limit {
    child: Child,
    port: String,
}

impl Limit {
    fn start() -> Limit {
        let mut child = Command::new(PROGRAM)
            .args(["limit", "--port", "0", "--size", "32"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let port = line.trim().rsplit(' ').next().expect("a word").to_owned();
        assert!(port.parse::<u16>().is_ok(), "{line:?}");
        Limit { child, port }
    }

    fn against(&self, command: &str, more: &[&str]) -> Output {
        let pid = self.child.id().to_string();
        Command::new(PROGRAM)
            .args([
                command,
                "--port",
                &self.port,
                "--server-pid",
                &pid,
                "--size",
                "32",
                "--json",
            ])
            .args(more)
            .output()
            .expect("the program runs")
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parsed(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    serde_json::from_str(&text).expect("one JSON object")
}

#[test]
fn the_generator_measures_the_limit_without_a_lost_or_wrong_reply() {
    let limit = Limit::start();
    let loads: [&[&str]; 4] = [
        &["--mix", "set", "--pipeline", "1"],
        &[
            "--mix",
            "get",
            "--pipeline",
            "64",
            "--conns",
            "7",
            "--preload",
            "--keys",
            "1000",
        ],
        &[
            "--mix",
            "get:set=50:50",
            "--pipeline",
            "16",
            "--key-size",
            "40",
        ],
        &["--mix", "get", "--rate", "2000", "--pipeline", "4"],
    ];
    for load in loads {
        let output = limit.against(
            "run",
            &[load, &["--duration", "200ms", "--warmup", "50ms"]].concat(),
        );
        let measured = parsed(&output);
        assert!(
            measured["requests"].as_u64().is_some_and(|n| n > 100),
            "{load:?}: {measured}"
        );
        for wrong in ["errors", "nils", "wrong_length", "unanswered"] {
            assert_eq!(measured[wrong], 0, "{load:?}: {measured}");
        }
        let number = |name: &str| measured[name].as_f64().unwrap_or(0.0);
        assert!(
            number("server_cpu_ns") > 1.0 && number("server_resident_bytes") > 1e5,
            "{measured}"
        );
        let latency = |name: &str| measured["latency"][name].as_f64().unwrap_or(0.0);
        assert!(
            latency("p50_us") > 0.0 && latency("p50_us") <= latency("p99_us"),
            "{measured}"
        );
        assert!(latency("p999_us") <= latency("max_us"), "{measured}");
    }
}

#[test]
fn the_open_loop_charges_a_stall_to_every_request_that_fell_into_it() {
    let limit = Limit::start();
    let pid = limit.child.id().to_string();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {name}");
    };
    let measured = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let load = [
                "--rate",
                "5000",
                "--pipeline",
                "16",
                "--duration",
                "800ms",
                "--warmup",
                "100ms",
            ];
            parsed(&limit.against("run", &load))
        });
        std::thread::sleep(std::time::Duration::from_millis(400));
        signal("-STOP");
        std::thread::sleep(std::time::Duration::from_millis(250));
        signal("-CONT");
        run.join().expect("the run ends")
    });
    // A quarter of a second of 0.8 s stands still: far more than one request in a hundred waits
    // long, though only one per connection and window was on its way when it began.
    let latency = |name: &str| measured["latency"][name].as_f64().unwrap_or(0.0);
    assert!(
        latency("p99_us") > 150_000.0 && latency("mean_us") > 15_000.0,
        "{measured}"
    );
    assert_eq!(measured["unanswered"], 0, "{measured}");
    assert!(
        measured["requests"].as_u64().is_some_and(|n| n > 3_500),
        "{measured}"
    );
}

#[test]
fn a_fill_sends_every_key_once() {
    let limit = Limit::start();
    let report = parsed(&limit.against("fill", &["--keys", "20000", "--shuffle"]));
    assert_eq!(report["keys"], 20_000);
    assert_eq!(report["errors"], 0);
    assert!(
        report["latency"]["max_us"]
            .as_f64()
            .is_some_and(|us| us > 0.0),
        "{report}"
    );
}

#[test]
fn error_replies_and_broken_replies_fail_the_run() {
    for (reply, complaint) in [
        (&b"-LOADING not yet\r\n"[..], "LOADING not yet"),
        (b"?\r\n", "unexpected byte 0x3f"),
        (b"+OK\r\n+OK\r\n", "more replies than"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut bytes = [0; 4096];
            while stream.read(&mut bytes).is_ok_and(|n| n > 0) && stream.write_all(reply).is_ok() {}
        });
        let output = Command::new(PROGRAM)
            .args([
                "run",
                "--port",
                &port,
                "--conns",
                "1",
                "--duration",
                "50ms",
                "--warmup",
                "10ms",
            ])
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(complaint),
            "{said}"
        );
    }
}
