//! Whole comparisons as processes: what they leave behind when they are ended, and what they make of
//! a server that dies. The engine is the limit, so that nothing else need be installed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringkeep-perf");

/// A directory with an engine list, a scenario and room for records; removed when dropped.
struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    fn new(name: &str, engine: &str, seconds: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("ringkeep-perf-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("scenarios")).expect("writable");
        let scenario = format!(
            "name = 'short'\ntitle = 't'\nanalysis = 'a'\nmetrics = ['ops_per_s']\nstore = false\n\
             rounds = 3\nseconds = {seconds}\nwarmup = 0.02\n[[cell]]\nload = {{ mix = 'get' }}\n"
        );
        fs::write(dir.join("scenarios/short.toml"), scenario).expect("writable");
        let limit = "[[engine]]\nname = 'limit'\nprogram = ['{self}']\nstores = false\n\
            durability = { none = [] }\nargs = ['limit', '--port', '{port}', '--size', '{size}']\n";
        fs::write(dir.join("engines.toml"), format!("{limit}{engine}")).expect("writable");
        Scratch { dir }
    }

    fn command(&self) -> Command {
        let path = |name: &str| self.dir.join(name).into_os_string();
        let mut command = Command::new(PROGRAM);
        command
            .arg("compare")
            .args(["--file".into(), path("engines.toml")])
            .args(["--scenarios".into(), path("scenarios")])
            .args(["--out".into(), path("record")])
            // Servers and their logs go where only this test looks.
            .env("TMPDIR", &self.dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Servers whose working directory is within this one.
    fn servers(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_ours = |pid: &u32| {
            let place = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            place.starts_with(&self.dir)
        };
        pids.filter(is_ours).collect()
    }

    fn wait_for_servers(&self, wanted: bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.servers().is_empty() == wanted {
            assert!(Instant::now() < deadline, "servers: {:?}", self.servers());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn record(&self) -> serde_json::Value {
        let machine = fs::read_dir(self.dir.join("record"))
            .expect("a record")
            .flatten()
            .next();
        let machine = machine.expect("a machine").path();
        let mut files = fs::read_dir(machine)
            .expect("files")
            .flatten()
            .map(|entry| entry.path());
        let is_json = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
        let file = files.find(is_json).expect("a JSON file");
        serde_json::from_str(&fs::read_to_string(file).expect("read")).expect("JSON")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {name}");
}

#[test]
fn a_comparison_that_is_ended_half_way_leaves_no_server() {
    for name in ["-INT", "-TERM", "-KILL"] {
        let scratch = Scratch::new(&format!("ended{name}"), "", "30");
        let mut child = scratch.command().spawn().expect("the program starts");
        scratch.wait_for_servers(true);
        signal(&child, name);
        let status = child.wait().expect("it ends");
        assert!(!status.success(), "{name}");
        scratch.wait_for_servers(false);
    }
}

#[test]
fn a_comparison_nobody_listens_to_ends_and_leaves_no_server() {
    let scratch = Scratch::new("closed", "", "0.3");
    let mut child = scratch
        .command()
        .args(["--rounds", "50"])
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    scratch.wait_for_servers(true);
    drop(lines);
    let status = child.wait().expect("it ends");
    assert!(!status.success());
    scratch.wait_for_servers(false);
}

#[test]
fn a_server_that_dies_is_reported_with_its_last_words_and_not_averaged() {
    // The limit behind a shell that ends it after a second with a complaint.
    let fragile = "[[engine]]\nname = 'fragile'\nprogram = ['sh']\nstores = false\n\
        durability = { none = [] }\nargs = ['-c', 'X limit --port {port} --size {size} & \
        sleep 1; echo first; echo out of luck in /var/lib/x >&2; kill $!; wait; exit 3']\n";
    let scratch = Scratch::new("dying", &fragile.replace('X', PROGRAM), "0.4");
    let output = scratch
        .command()
        .args(["--rounds", "9"])
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("fragile: failed in get") && said.contains("out of luck"),
        "{said}"
    );
    let record = scratch.record();
    let failure = &record["failures"][0];
    assert_eq!(
        (&failure["engine"], &failure["cell"]),
        (&"fragile".into(), &"get".into()),
        "{failure}"
    );
    assert_eq!(
        failure["why"], "ended by itself, exit status: 3",
        "{failure}"
    );
    // The shell's own word on the ended job may stand between.
    let log: Vec<&str> = failure["log"]
        .as_array()
        .expect("lines")
        .iter()
        .flat_map(|l| l.as_str())
        .collect();
    assert!(
        log.contains(&"first") && log.contains(&"out of luck in {path}/x"),
        "{log:?}"
    );
    let rows = record["rows"].as_array().expect("rows");
    assert!(rows.iter().all(|row| row["engine"] == "limit"), "{rows:?}");
    assert_eq!((rows.len(), &record["complete"]), (9, &true.into()));
    scratch.wait_for_servers(false);
}

#[test]
fn a_mistake_in_a_data_file_is_told_with_file_and_line() {
    let scratch = Scratch::new("mistake", "[[engine]]\nname = 'x'\nprogramm = []\n", "0.1");
    let said = |command: &mut Command| {
        let output = command.output().expect("the program runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let engines = said(&mut scratch.command());
    assert!(
        engines.contains("engines.toml: ") && engines.contains("line 9"),
        "{engines}"
    );
    assert!(engines.contains("unknown field `programm`"), "{engines}");
    let scenario = Path::new("scenarios/short.toml");
    let path = scratch.dir.join(scenario);
    let text = fs::read_to_string(&path)
        .expect("read")
        .replace("seconds", "secs");
    fs::write(&path, text).expect("writable");
    let scenarios = said(&mut scratch.command());
    assert!(
        scenarios.contains("short.toml: ") && scenarios.contains("line 7"),
        "{scenarios}"
    );
}
