//! Files and variables of settings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::node::{Node, free_port, run};

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ringkeep-configure-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder can be made");
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A value of CONFIG GET.
fn shown(node: &Node, name: &str) -> String {
    let reply = node.client().say(&format!("CONFIG GET {name}"));
    let inner = reply.trim_start_matches('[').trim_end_matches(']');
    let value = inner.strip_prefix(name).map(str::trim);
    value.unwrap_or(&reply).to_string()
}

/// Runs the binary in a folder, with variables.
fn run_in(folder: &Folder, args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringkeep"))
        .args(args)
        .current_dir(folder.path())
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_kevy_toml_starts_a_node() {
    let folder = Folder::new();
    let data = folder.path().join("data");
    let file = folder.file(
        "kevy.toml",
        &format!(
            "[server]\nthreads = 2\nmax_clients = 77\ndata_dir = \"{}\"\n[persistence]\n\
             appendfsync = \"always\"\n[memory]\nmaxmemory = \"64mb\"\nmaxmemory_policy = \"ALLKEYS-LRU\"\n\
             [notification]\nnotify_keyspace_events = \"KEA\"\n[slowlog]\nslower_than_micros = 9\n\
             max_len = 3\n[audit]\nlog_path = \"audit.log\"\n",
            data.display()
        ),
    );
    let mut node = Node::start(&["--config", &file]);
    for (name, want) in [
        ("io-threads", "2"),
        ("maxclients", "77"),
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory", "67108864"),
        ("maxmemory-policy", "allkeys-lru"),
        ("notify-keyspace-events", "AKE"),
        ("slowlog-log-slower-than", "9"),
        ("slowlog-max-len", "3"),
        ("repl-backlog-size", "268435456"),
        ("dir", &data.display().to_string()),
    ] {
        assert_eq!(shown(&node, name), want, "{name}");
    }
    assert_eq!(node.client().say("SET a 1"), "+OK");
    node.client().post_line("SHUTDOWN");
    node.wait();
    let lines = node.all_lines();
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("[audit] log_path at line 16 is left out"), "{lines:?}");
    assert!(
        has("settings from ") && has("with kevy's defaults"),
        "{lines:?}"
    );
    let mut again = Node::start(&["--config", &file, "--databases", "3"]);
    again.wait_until_loaded();
    assert_eq!(again.client().say("GET a"), "1");
    assert_eq!(shown(&again, "databases"), "3");
}

#[test]
fn a_file_that_is_wrong_starts_nothing() {
    let folder = Folder::new();
    let file = folder.file(
        "kevy.toml",
        "[server]\n\nthread = 4\nport = 70000\n[sever]\n",
    );
    for args in [
        &["--config", &file][..],
        &["config", "check", &file],
        &["supervise", "--config", &file],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines,
            [
                &format!(
                    "ringkeep: {file}: unknown key 'thread' at line 3: did you mean 'threads'?"
                )[..],
                &format!(
                    "ringkeep: {file}: [server] port at line 4 is 70000, but takes a number from 1 to 65535"
                ),
                &format!(
                    "ringkeep: {file}: unknown section 'sever' at line 5: did you mean 'server'?"
                ),
            ]
        );
    }
    let output = run(&["--config", "no-such-file.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cannot read no-such-file.toml: "));
}

#[test]
fn settings_are_checked_and_shown_without_a_node() {
    let folder = Folder::new();
    folder.file(
        "kevy.toml",
        "[server]\nport = 7011\n[security]\nrequirepass = \"geheim\"\n",
    );
    let output = run_in(
        &folder,
        &["config", "show", "--origin"],
        &[("RINGKEEP_TIMEOUT", "9")],
    );
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}");
    let squeezed: Vec<String> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for want in [
        "port = 7011 ./kevy.toml line 2, [server] port",
        "timeout = 9 environment, RINGKEEP_TIMEOUT",
        "dir = . default of kevy",
        "requirepass = *** ./kevy.toml line 4, [security] requirepass",
    ] {
        assert!(squeezed.iter().any(|line| line == want), "{want}: {said}");
    }
    let output = run_in(&folder, &["config", "check"], &[]);
    assert!(text(&output.stdout).contains("./kevy.toml: good, 2 setting(s)"));
    let output = run_in(
        &folder,
        &["config", "show"],
        &[("KEVY_DIR", "nowhere"), ("KEVY_PORT", "7012")],
    );
    assert!(
        text(&output.stdout).contains("port = 7012\n"),
        "a variable goes before the file"
    );
}

#[test]
fn data_of_a_kevy_are_not_passed_over() {
    let folder = Folder::new();
    let data = folder.path().display().to_string();
    folder.file("aof-0.aof", "");
    let file = folder.file("kevy.toml", &format!("[server]\ndata_dir = \"{data}\"\n"));
    let port = free_port().to_string();
    let output = run(&["--config", &file, "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("holds data of a kevy (aof-0.aof)"), "{said}");
    assert!(said.contains("ringkeep import"), "{said}");
}

#[test]
fn config_rewrite_keeps_what_was_written_by_hand() {
    let folder = Folder::new();
    let file = folder.file(
        "ringkeep.toml",
        "# ours\n[memory]\nmaxmemory = \"1gb\" # enough\n\n[server] # the rest\ntimeout = 7\n",
    );
    let node = Node::start(&["--config", &file]);
    let mut client = node.client();
    let read = || fs::read_to_string(&file).expect("it is there");
    let before = read();
    assert_eq!(client.say("CONFIG REWRITE"), "+OK");
    assert_eq!(read(), before);
    assert_eq!(
        client.say("CONFIG SET maxmemory 2mb appendfsync always"),
        "+OK"
    );
    assert_eq!(client.say("CONFIG REWRITE"), "+OK");
    assert_eq!(
        read(),
        "# ours\n[memory]\nmaxmemory = 2097152 # enough\n\n[server] # the rest\ntimeout = 7\n\n\
         [persistence]\nappendfsync = \"always\"\n"
    );
    // Back to what it was at the start is a change, too.
    assert_eq!(client.say("CONFIG SET maxmemory 1073741824"), "+OK");
    assert_eq!(client.say("CONFIG REWRITE"), "+OK");
    assert!(read().contains("maxmemory = 1073741824 # enough\n"));
    drop(node);
    let again = Node::start(&["--config", &file]);
    assert_eq!(shown(&again, "appendfsync"), "always");
    assert_eq!(shown(&again, "maxmemory"), "1073741824");
    drop(again);
    // REPLICAOF is kept by it alone.
    let node = Node::start(&["--config", &file]);
    let mut client = node.client();
    assert_eq!(client.say("REPLICAOF 127.0.0.1 9"), "+OK");
    assert_eq!(client.say("CONFIG REWRITE"), "+OK");
    assert!(read().ends_with("\n[replication]\nupstream = \"127.0.0.1:9\"\n"));
    drop((client, node));
    let node = Node::start(&["--config", &file]);
    let mut client = node.client();
    assert_eq!(shown(&node, "replicaof"), "127.0.0.1 9");
    assert!(client.say("SET a 1").starts_with("-READONLY"));
    assert_eq!(client.say("REPLICAOF no one"), "+OK");
    assert_eq!(client.say("CONFIG REWRITE"), "+OK");
    assert!(read().ends_with("\n[replication]\n"));
    for host in [&b"a b"[..], b"a\n"] {
        let reply = client.send(&[b"REPLICAOF", host, b"1"]);
        assert_eq!(reply, "-ERR Invalid master host");
    }
    drop((client, node));
    let again = Node::start(&["--config", &file]);
    // What is no file of settings any more is left alone.
    fs::write(&file, "[server\n").expect("it can be written");
    let reply = again.client().say("CONFIG REWRITE");
    assert!(reply.starts_with("-ERR Rewriting config file: "), "{reply}");
    assert_eq!(read(), "[server\n");
    fs::remove_file(&file).expect("it is there");
    let reply = again.client().say("CONFIG REWRITE");
    assert_eq!(
        reply,
        "-ERR Rewriting config file: No such file or directory"
    );
    let bare = Node::start(&[]);
    assert_eq!(
        bare.client().say("CONFIG REWRITE"),
        "-ERR The server is running without a config file"
    );
}
