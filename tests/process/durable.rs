//! A data directory: what was written is there again, and what is damaged is not taken for good.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use crate::{
    client::Client,
    node::{Node, eventually, free_port, run},
};

/// A data directory of one test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        let name = format!("ringkeep-durable-{}-{test}", std::process::id());
        let dir = Dir(std::env::temp_dir().join(name));
        dir.remove();
        dir
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    fn beside(&self, end: &str) -> PathBuf {
        PathBuf::from(format!("{}{end}", self.text()))
    }

    fn remove(&self) {
        for end in ["", ".old", ".reshard"] {
            let _ = fs::remove_dir_all(self.beside(end));
        }
    }

    fn start(&self, shards: &str, more: &[&str]) -> Node {
        let mut node = Node::start(&self.options(shards, more));
        node.wait_until_loaded();
        node
    }

    fn options<'a>(&'a self, shards: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let first = ["--threads", "2", "--shards", shards, "--dir", self.text()];
        first.into_iter().chain(more.iter().copied()).collect()
    }

    /// Why a node does not start with it.
    fn refusal(&self, shards: &str) -> String {
        let mut node = Node::spawn(free_port(), &self.options(shards, &[]));
        assert_eq!(node.wait().code(), Some(1));
        node.all_lines().join("\n")
    }

    /// Its files of a kind, oldest first.
    fn files(&self, end: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("it is there");
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.retain(|file| file.to_string_lossy().ends_with(end));
        files.sort();
        files
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        self.remove();
    }
}

const ALWAYS: &[&str] = &["--appendfsync", "always"];

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn stop(mut node: Node) {
    node.client().post_line("SHUTDOWN");
    assert_eq!(node.wait().code(), Some(0));
}

fn kill(node: Node) {
    // Dropped, a node is killed.
    drop(node);
}

/// Every type, deadlines, two databases, and a transaction over several shards.
fn fill(client: &mut Client) {
    for (line, reply) in [
        ("SET s1 v", "+OK"),
        ("INCRBYFLOAT s2 1.5", "1.5"),
        ("SET s3 v PXAT 99999999999999", "+OK"),
        ("RPUSH list a b c", ":3"),
        ("SADD set m", ":1"),
        ("ZADD zset 1 a 2 b", ":2"),
        ("HSET hash f v", ":1"),
        ("XADD stream 5-1 f v", "5-1"),
        ("XGROUP CREATE stream g 0", "+OK"),
        ("MSET m1 1 m2 2 m3 3 m4 4", "+OK"),
        ("RENAME m4 m5", "+OK"),
        ("SELECT 3", "+OK"),
        ("SET other 1", "+OK"),
        ("SELECT 0", "+OK"),
    ] {
        assert_eq!(client.say(line), reply, "{line}");
    }
    for name in ["kept", "gone", "queued"] {
        let is_queued = name == "queued";
        if is_queued {
            assert_eq!(client.say("MULTI"), "+OK");
        }
        let call = format!("redis.register_function('{name}', function() return '{name}' end)");
        let source = format!("#!lua name={name}\n{call}");
        let reply = client.send(&[b"FUNCTION", b"LOAD", source.as_bytes()]);
        assert_eq!(reply, if is_queued { "+QUEUED" } else { name });
    }
    assert_eq!(client.say("EXEC"), "[queued]");
    assert_eq!(client.say("FUNCTION DELETE gone"), "+OK");
}

fn expect_filled(client: &mut Client) {
    for (line, reply) in [
        ("GET s1", "v"),
        ("GET s2", "1.5"),
        ("PEXPIRETIME s3", ":99999999999999"),
        ("LRANGE list 0 -1", "[a b c]"),
        ("SMEMBERS set", "[m]"),
        ("ZRANGE zset 0 -1 WITHSCORES", "[a 1 b 2]"),
        ("HGETALL hash", "[f v]"),
        ("XRANGE stream - +", "[[5-1 [f v]]]"),
        ("XLEN stream", ":1"),
        ("XGROUP CREATECONSUMER stream g c", ":1"),
        ("XGROUP DELCONSUMER stream g c", ":0"),
        ("MGET m1 m2 m3 m5", "[1 2 3 4]"),
        ("EXISTS m4", ":0"),
        ("SELECT 3", "+OK"),
        ("GET other", "1"),
        ("SELECT 0", "+OK"),
        ("DBSIZE", ":12"),
        ("FCALL kept 0", "kept"),
        ("FCALL queued 0", "queued"),
        ("FCALL gone 0", "-ERR Function not found"),
    ] {
        assert_eq!(client.say(line), reply, "{line}");
    }
}

#[test]
fn all_is_there_after_a_stop_a_kill_and_a_snapshot() {
    let dir = Dir::new("stop");
    let node = dir.start("5", ALWAYS);
    fill(&mut node.client());
    kill(node);
    let node = dir.start("5", ALWAYS);
    expect_filled(&mut node.client());
    stop(node);
    let node = dir.start("5", &[]);
    let mut client = node.client();
    expect_filled(&mut client);
    assert_eq!(client.say("SAVE"), "+OK");
    assert_eq!(dir.files(".rks").len(), 5);
    kill(node);
    let node = dir.start("5", &[]);
    expect_filled(&mut node.client());
}

#[test]
fn what_was_confirmed_survives_a_kill() {
    let dir = Dir::new("kill");
    let node = dir.start("5", ALWAYS);
    let mut clients = node.clients(8);
    for round in 0..50 {
        for (at, client) in clients.iter_mut().enumerate() {
            client.post_line(&format!("SET k{at}:{round} {round}"));
        }
        for client in &mut clients {
            assert_eq!(client.reply(), "+OK");
        }
    }
    kill(node);
    let node = dir.start("5", ALWAYS);
    let mut client = node.client();
    assert_eq!(client.say("DBSIZE"), ":400");
    for at in 0..8 {
        for round in 0..50 {
            assert_eq!(client.say(&format!("GET k{at}:{round}")), round.to_string());
        }
    }
}

#[test]
fn another_number_of_shards_takes_a_reshard() {
    let dir = Dir::new("reshard");
    let node = dir.start("5", &[]);
    fill(&mut node.client());
    let reshard = |shards| run(&["reshard", dir.text(), "--shards", shards]);
    let in_use = reshard("2");
    assert_eq!(in_use.status.code(), Some(1));
    assert!(stdout(&in_use).contains("another node runs on"));
    let second = dir.refusal("5");
    assert!(second.contains("another node runs on"), "{second}");
    stop(node);
    let refusal = dir.refusal("2");
    assert!(refusal.contains("has 5 shard(s), not 2"), "{refusal}");
    assert!(refusal.contains("ringkeep reshard"), "{refusal}");
    assert!(stdout(&reshard("5")).contains("it has 5 shards already"));
    let done = reshard("2");
    assert!(done.status.success(), "{}", stdout(&done));
    assert!(stdout(&done).contains("has 2 shards now, not 5"));
    assert!(dir.beside(".old").is_dir() && !dir.beside(".reshard").exists());
    let node = dir.start("2", &[]);
    expect_filled(&mut node.client());
    stop(node);
    let good = run(&[
        "check",
        dir.text(),
        dir.beside(".old").to_str().expect("plain"),
    ]);
    assert!(good.status.success(), "{}", stdout(&good));
    assert!(stdout(&good).contains("a node starts with it"));
    assert!(stdout(&reshard("1")).contains("it is there from a reshard before"));
}

/// One shard with ten blocks; its only segment.
fn ten_blocks(dir: &Dir) -> PathBuf {
    let node = dir.start("1", ALWAYS);
    let mut client = node.client();
    for at in 0..10 {
        assert_eq!(client.say(&format!("SET k{at} value-of-{at}")), "+OK");
    }
    kill(node);
    let mut segments = dir.files(".rkj");
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments.remove(0)
}

/// Where a text stands in a file.
fn find(file: &Path, text: &str) -> usize {
    let bytes = fs::read(file).expect("it is there");
    let mut windows = bytes.windows(text.len());
    windows
        .position(|window| window == text.as_bytes())
        .expect("the text is there")
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("it is there");
    bytes[at] ^= 1;
    fs::write(file, bytes).expect("it can be written");
}

#[test]
fn damage_in_a_journal_is_named_and_cut_only_when_asked_for() {
    let dir = Dir::new("damage");
    let segment = ten_blocks(&dir);
    flip(&segment, find(&segment, "value-of-5"));
    let path = segment.to_str().expect("plain");
    let refusal = dir.refusal("1");
    let (_, command) = refusal
        .split_once("ringkeep repair --truncate-at ")
        .expect("it says what can be done");
    let at = command.split(' ').next().expect("the byte");
    assert!(
        refusal.contains(&format!("--truncate-at {at} {path}")),
        "{refusal}"
    );
    for checked in [path, dir.text()] {
        let found = run(&["check", checked]);
        assert_eq!(found.status.code(), Some(1));
        let text = stdout(&found);
        assert!(text.contains("DAMAGED"), "{text}");
        assert!(
            text.contains(&format!("--truncate-at {at} {path}")),
            "{text}"
        );
    }
    let cut = |at: &str| run(&["repair", "--truncate-at", at, path]);
    let beyond: u64 = at.parse().expect("a number");
    let refused = cut(&(beyond + 1).to_string());
    assert_eq!(refused.status.code(), Some(1));
    assert!(stdout(&refused).contains("is not between two blocks"));
    let before = fs::read(&segment).expect("it is there");
    let done = cut(at);
    assert!(done.status.success(), "{}", stdout(&done));
    assert!(
        stdout(&done).contains("given up: frames "),
        "{}",
        stdout(&done)
    );
    let copy = fs::read(format!("{path}.damaged")).expect("the copy");
    assert!(copy == before, "the copy is another");
    let node = dir.start("1", &[]);
    let mut client = node.client();
    assert_eq!(client.say("DBSIZE"), ":5");
    assert_eq!(client.say("MGET k0 k4 k5"), "[value-of-0 value-of-4 nil]");
    let in_use = cut(at);
    assert!(stdout(&in_use).contains("another node runs on"));
}

/// Replicas that were away get what they lack from the files, also from those of before a restart.
#[test]
fn starts_leave_short_segments_behind_which_snapshots_do_not_end() {
    let dir = Dir::new("segments");
    const STARTS: usize = 5;
    for at in 0..STARTS {
        let node = dir.start("1", ALWAYS);
        let mut client = node.client();
        assert_eq!(client.say(&format!("SET k{at} value-of-{at}")), "+OK");
        assert_eq!(client.say("SAVE"), "+OK");
        if at % 2 == 0 {
            kill(node);
        } else {
            stop(node);
        }
    }
    let node = dir.start("1", &[]);
    assert_eq!(node.client().say("DBSIZE"), format!(":{STARTS}"));
    let segments = dir.files(".rkj");
    assert!(segments.len() >= STARTS, "{segments:?}");
    for (at, segment) in segments[..STARTS].iter().enumerate() {
        find(segment, &format!("value-of-{at}"));
        let len = segment.metadata().expect("it is there").len();
        assert!(len < 64 << 10, "{segment:?} has {len} bytes");
    }
}

#[test]
fn a_torn_end_is_left_out_with_a_note() {
    let dir = Dir::new("torn");
    let segment = ten_blocks(&dir);
    // In the last block: nothing after it says that it was durable.
    flip(&segment, find(&segment, "value-of-9"));
    let found = run(&["check", segment.to_str().expect("plain")]);
    assert!(found.status.success());
    assert!(
        stdout(&found).contains("never confirmed"),
        "{}",
        stdout(&found)
    );
    let mut node = Node::spawn(free_port(), &dir.options("1", &[]));
    let note = node.wait_for_line("never confirmed").expect("a note");
    assert!(note.contains(".rkj: "), "{note}");
    node.wait_for_line("ready on").expect("it starts");
    node.wait_until_loaded();
    let mut client = node.client();
    assert_eq!(client.say("DBSIZE"), ":9");
    assert_eq!(client.say("GET k8"), "value-of-8");
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let dir = Dir::new("snapshot");
    let node = dir.start("1", &[]);
    let mut client = node.client();
    client.say("SET k value-of-k");
    assert_eq!(client.say("SAVE"), "+OK");
    stop(node);
    let snapshot = dir.files(".rks").remove(0);
    flip(&snapshot, find(&snapshot, "value-of-k"));
    let refusal = dir.refusal("1");
    assert!(refusal.contains(".rks: byte 48: "), "{refusal}");
    let found = run(&["check", dir.text()]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        stdout(&found).contains(".rks: byte 48: "),
        "{}",
        stdout(&found)
    );
}

#[test]
fn saving_is_told_and_syncing_can_be_changed() {
    let dir = Dir::new("save");
    let node = dir.start("2", &[]);
    let mut client = node.client();
    let field = |client: &mut Client, name: &str| {
        let info = client.say("INFO persistence");
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_string())
    };
    assert_eq!(field(&mut client, "aof_enabled").as_deref(), Some("1"));
    assert_eq!(client.say("SET a 1"), "+OK");
    assert_eq!(client.say("BGSAVE"), "+Background saving started");
    eventually("BGSAVE", || {
        field(&mut client, "rdb_bgsave_in_progress").as_deref() == Some("0")
            && dir.files(".rks").len() == 2
    });
    assert_eq!(
        field(&mut client, "rdb_last_bgsave_status").as_deref(),
        Some("ok")
    );
    let told = client.say("LASTSAVE");
    let seconds: u64 = told.trim_start_matches(':').parse().expect("seconds");
    assert!(seconds > 1_600_000_000, "{told}");
    assert_eq!(client.say("CONFIG SET appendfsync always"), "+OK");
    assert_eq!(client.say("CONFIG GET appendfsync"), "[appendfsync always]");
    let bad = client.send(&[b"CONFIG", b"SET", b"save", b"60"]);
    assert!(bad.ends_with("- Invalid save parameters"), "{bad}");
    // Every core takes a setting over at its next beat.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(client.say("SET b 2"), "+OK");
    kill(node);
    let node = dir.start("2", &[]);
    assert_eq!(node.client().say("MGET a b"), "[1 2]");
}

#[test]
fn snapshots_are_made_at_save_points_without_a_journal() {
    let dir = Dir::new("points");
    let snapshots_only = ["--appendonly", "no", "--save", "3600 1 1 3"];
    let node = dir.start("2", &snapshots_only);
    let mut client = node.client();
    assert_eq!(client.say("CONFIG GET save"), "[save 3600 1 1 3]");
    let unsaved = |client: &mut Client| {
        let info = client.say("INFO persistence");
        let line = info.lines().find(|line| line.contains("rdb_changes"));
        line.unwrap_or_default().trim().to_string()
    };
    for (at, key) in ["a", "b", "c"].iter().enumerate() {
        assert_eq!(dir.files(".rks").len(), 0);
        let told = format!("rdb_changes_since_last_save:{at}");
        eventually(&told, || unsaved(&mut client) == told);
        assert_eq!(client.say(&format!("SET {key} 1")), "+OK");
    }
    eventually("a snapshot", || {
        unsaved(&mut client) == "rdb_changes_since_last_save:0" && dir.files(".rks").len() == 2
    });
    kill(node);
    let node = dir.start("2", &snapshots_only);
    assert_eq!(node.client().say("MGET a b c"), "[1 1 1]");
}

#[test]
fn what_came_from_a_primary_is_there_after_an_orderly_end() {
    let stream = free_port().to_string();
    let primary = Node::start(&["--threads", "1", "--replication-port", &stream]);
    let mut client = primary.client();
    // So much that writing it down takes a while.
    let fill = b"for i = 1, 20000 do redis.call('SET', 'key' .. i, string.rep('x', 3000)) end";
    assert_eq!(client.send(&[b"EVAL", fill, b"0"]), "nil");
    for round in 0..3 {
        let dir = Dir::new(&format!("received-{round}"));
        let mut replica = dir.start("3", &[]);
        let mut client = replica.client();
        assert_eq!(client.say("SET own 1"), "+OK");
        assert_eq!(
            client.say(&format!("REPLICAOF 127.0.0.1 {}", primary.port)),
            "+OK"
        );
        eventually("all keys", || client.say("DBSIZE") == ":20000");
        eventually("in step", || {
            client
                .say("INFO replication")
                .contains("master_link_status:up")
        });
        client.write(b"REPLICAOF NO ONE\r\nSHUTDOWN\r\n");
        assert!(replica.wait().success());
        let again = dir.start("3", &[]);
        let mut client = again.client();
        assert_eq!(client.say("DBSIZE"), ":20000", "round {round}");
    }
}
