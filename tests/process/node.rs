//! A node under test: one process on a port of its own.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use crate::client::Client;

/// How long a test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One core that owns everything.
pub const ONE: &[&str] = &["--threads", "1"];
/// Two cores that share five shards.
pub const TWO: &[&str] = &["--threads", "2", "--shards", "5"];

pub struct Node {
    pub port: u16,
    child: Child,
    log: Mutex<mpsc::Receiver<String>>,
    seen: Vec<String>,
}

impl Node {
    /// Starts a node and waits until it is ready.
    pub fn start(options: &[&str]) -> Node {
        for _ in 0..5 {
            let mut node = Node::spawn(free_port(), options);
            if node.wait_for_line("ready on").is_some() {
                return node;
            }
            // Another test may have taken the port in between.
            assert!(
                node.seen.iter().any(|line| line.contains("cannot listen")),
                "the node did not start: {:?}",
                node.seen
            );
        }
        panic!("no port is free");
    }

    /// Starts a node on a port, without waiting.
    pub fn spawn(port: u16, options: &[&str]) -> Node {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringkeep"))
            .args(["--port", &port.to_string(), "--no-pin"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Node {
            port,
            child,
            log: Mutex::new(log),
            seen: Vec::new(),
        }
    }

    /// The next log line that contains `text`; none if the node ends before it.
    pub fn wait_for_line(&mut self, text: &str) -> Option<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self
                .log
                .get_mut()
                .expect("no thread fails with it")
                .recv_timeout(left)
            {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Some(line);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("no line with '{text}': {:?}", self.seen)
                }
            }
        }
    }

    /// Waits until what a data directory holds is in memory.
    pub fn wait_until_loaded(&mut self) {
        let mut client = self.client();
        eventually("loading", || !client.say("DBSIZE").starts_with("-LOADING"));
    }

    /// The log of a node that has ended.
    pub fn all_lines(&mut self) -> &[String] {
        if let Ok(log) = self.log.get_mut() {
            self.seen.extend(log.iter());
        }
        &self.seen
    }

    pub fn client(&self) -> Client {
        Client::tcp(self.port)
    }

    /// Enough connections that every core has some.
    pub fn clients(&self, count: usize) -> Vec<Client> {
        (0..count).map(|_| self.client()).collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process to end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < end, "the node does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it lives");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .expect("there is a rest")
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .map(|field| field.parse::<u64>().expect("a number of ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        let path = format!("/proc/{}/statm", self.pid());
        let statm = std::fs::read_to_string(path).expect("it lives");
        let pages = statm.split_whitespace().nth(1).expect("the second field");
        pages.parse::<usize>().expect("a number of pages") * 4096
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            if let Ok(log) = self.log.get_mut() {
                self.seen.extend(log.try_iter());
            }
            eprintln!("log of the node: {:#?}", self.seen);
        }
    }
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringkeep"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let end = Instant::now() + PATIENCE;
    while child.try_wait().expect("it is our child").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = child.wait().expect("it has ended");
    if let Some(mut pipe) = child.stdout.take() {
        let _ = pipe.read_to_end(&mut stdout);
    }
    if let Some(mut pipe) = child.stderr.take() {
        let _ = pipe.read_to_end(&mut stderr);
    }
    Output {
        status,
        stdout,
        stderr,
    }
}

/// A port that nobody has, given out once. It and the ports of replicas that go with it are below those that
/// the kernel gives to connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 10_000;
    // Two runs at once do not begin at the same.
    let start = (std::process::id() % 100) as u16 * 100;
    loop {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Calls `done` until it is true; fails when it takes too long.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}
