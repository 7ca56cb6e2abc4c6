//! Which layer counts, what a kevy.toml means, and what is said of one that is wrong.

use super::*;
use crate::node::{Command, parse};

fn world(files: &[(&str, &str)], variables: &[(&str, &str)]) -> World {
    World::with(files, variables)
}

fn started(line: &str, world: &World) -> Options {
    match parse(line.split_whitespace().map(String::from), world) {
        Ok(Command::Serve(options)) => *options,
        other => panic!("{other:?}"),
    }
}

fn printed(line: &str, world: &World) -> String {
    match parse(line.split_whitespace().map(String::from), world) {
        Ok(Command::Print(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Everything that is wrong with a kevy.toml.
fn faults(text: &str) -> Vec<String> {
    let world = world(&[("kevy.toml", text)], &[]);
    let args = ["--config", "kevy.toml"].map(String::from);
    match parse(args, &world) {
        Err(UsageError::Config(faults)) => faults,
        other => panic!("{other:?}"),
    }
}

fn parameter<'a>(options: &'a Options, name: &str) -> Option<&'a str> {
    let mut found = options
        .parameters
        .iter()
        .filter(|(known, _)| *known == name);
    found.next_back().map(|(_, text)| &text[..])
}

#[test]
fn an_option_goes_before_a_variable_and_that_before_the_file() {
    let file = (
        "k.toml",
        "[server]\nport = 7001\n[memory]\nmaxmemory = \"1gb\"\n",
    );
    let all = world(
        &[file],
        &[
            ("KEVY_PORT", "7002"),
            ("RINGKEEP_PORT", "7003"),
            ("RINGKEEP_MAXMEMORY", "2gb"),
        ],
    );
    let options = started("--config k.toml --port 7004 --maxmemory 3gb", &all);
    assert_eq!(options.port, 7004);
    assert_eq!(parameter(&options, "maxmemory"), Some("3gb"));
    let options = started("--config k.toml", &all);
    assert_eq!(options.port, 7003);
    assert_eq!(parameter(&options, "maxmemory"), Some("2gb"));
    let kevy = world(&[file], &[("KEVY_PORT", "7002"), ("RINGKEEP_PORT", "")]);
    assert_eq!(started("--config=k.toml", &kevy).port, 7002);
    let alone = world(&[file], &[]);
    let options = started("--config k.toml", &alone);
    assert_eq!(options.port, 7001);
    assert_eq!(parameter(&options, "maxmemory"), Some("1073741824"));
    assert_eq!(started("", &alone), Options::default());
    assert_eq!(started("", &world(&[], &[])), Options::default());
}

#[test]
fn a_file_is_looked_for_where_kevy_does() {
    let kevy = "[server]\nport = 7000\n";
    let etc = world(&[("/etc/kevy/kevy.toml", kevy)], &[]);
    assert_eq!(started("", &etc).port, 7000);
    assert_eq!(started("--no-config", &etc), Options::default());
    let named = world(
        &[
            ("d/kevy.toml", "[server]\nport = 7005\n"),
            ("./kevy.toml", kevy),
        ],
        &[("KEVY_DIR", "d")],
    );
    let options = started("", &named);
    assert_eq!((options.port, options.dir.as_deref()), (7005, Some("d")));
    let own = world(
        &[("./ringkeep.toml", "[server]\n"), ("./kevy.toml", kevy)],
        &[],
    );
    let options = started("", &own);
    assert_eq!((options.port, options.dir), (6379, None));
    let error = parse(["--config".into(), "no.toml".into()], &own).expect_err("it is not there");
    assert!(
        error.to_string().starts_with("cannot read no.toml: "),
        "{error}"
    );
}

#[test]
fn a_kevy_toml_has_the_defaults_of_kevy() {
    let options = started("--config k.toml", &world(&[("k.toml", "")], &[]));
    assert_eq!((options.port, options.dir.as_deref()), (6004, Some(".")));
    // A standalone kevy has no listener for replicas.
    assert_eq!(options.replication_port, Some(0));
    assert_eq!(parameter(&options, "repl-backlog-size"), Some("268435456"));
    assert_eq!(parameter(&options, "slowlog-log-slower-than"), Some("-1"));
    let text = "[server]\nmax_clients = 0\n[replication]\nrole = \"primary\"\n\
                min_replicas_to_write = 1\nmin_replicas_max_lag_ms = 2500\n";
    let options = started("--config k.toml", &world(&[("k.toml", text)], &[]));
    assert_eq!((options.replication_port, options.replicas_min), (None, 1));
    assert_eq!(parameter(&options, "min-replicas-max-lag"), Some("3"));
    assert_eq!(parameter(&options, "maxclients"), Some("4294967295"));
}

#[test]
fn roles_mean_what_they_mean_with_kevy() {
    let at = |text: &str| started("--config k.toml", &world(&[("k.toml", text)], &[]));
    let replica = at(
        "[replication]\nrole = \"replica\"\nupstream = \"h:16004\"\n\
                      min_replicas_to_write = 1\n",
    );
    assert_eq!(replica.replica_of, Some(("h".into(), 16004)));
    assert_eq!(replica.replicas_min, 0);
    assert!(replica.notes[0].contains("min_replicas_to_write at line 4 is left out"));
    let other = at("[replication]\nupstream = \"h:16004\"\nlisten_port_base = 7\n");
    assert_eq!((other.replica_of, other.replication_port), (None, Some(0)));
    assert_eq!(other.notes.len(), 2, "{:?}", other.notes);
    let member = at(
        "[replication]\nrole = \"replica\"\nupstream = \"h:16004\"\n[cluster]\n\
                     node_id = \"a\"\npeers = [\"a@h:1:2\", \"b@h:3:4\"]\n",
    );
    assert_eq!((member.peers.len(), member.replica_of), (2, None));
    let half = at("[cluster]\nnode_id = \"a\"\n");
    assert_eq!((half.node_id, half.notes.len()), (None, 1));
    let found = faults("[replication]\nrole = \"replica\"\n");
    assert!(found[0].contains("there is no upstream"), "{found:?}");
}

#[test]
fn everything_that_is_wrong_is_told_with_its_line() {
    let found = faults(
        "port = 1\n[server]\nthread = 4\nport = \"x\"\nbind = \"nowhere\"\n[memry]\nmaxmemory = 1\n\
         [memory]\nmaxmemory = \"2 GiB\"\nmaxmemory_policy = \"lru\"\n[persistence]\naof = 1\n\
         appendfsync = \"often\"\n[notification]\nnotify_keyspace_events = \"?\"\n",
    );
    let want = [
        "kevy.toml: unknown key 'port' at line 1: did you mean 'port' in [server]?",
        "kevy.toml: unknown key 'thread' at line 3: did you mean 'threads'?",
        "kevy.toml: [server] port at line 4 is \"x\", but takes a number from 1 to 65535",
        "kevy.toml: [server] bind at line 5 is \"nowhere\", but takes an IP address, or a list of them",
        "kevy.toml: unknown section 'memry' at line 6: did you mean 'memory'?",
        "kevy.toml: [memory] maxmemory at line 9 is \"2 GiB\", but takes a number of bytes, or a text such \
         as \"64mb\"",
        "kevy.toml: [memory] maxmemory_policy at line 10 is \"lru\", but takes one of: noeviction, \
         allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, volatile-lfu, volatile-random, volatile-ttl",
        "kevy.toml: [persistence] aof at line 12 is 1, but takes true or false",
        "kevy.toml: [persistence] appendfsync at line 13 is \"often\", but takes one of: \
         always, everysec, no",
        "kevy.toml: [notification] notify_keyspace_events at line 15 is \"?\": Invalid event class \
         character. Use 'Ag$lshzxeKEtmdn'.",
    ];
    assert_eq!(found, want);
}

#[test]
fn a_password_is_in_no_message() {
    let found = faults("[security]\nrequirepass = 4711\n[replication]\nmasterauth = true\n");
    assert_eq!(
        found,
        [
            "kevy.toml: [security] requirepass at line 2 takes a text",
            "kevy.toml: [replication] masterauth at line 4 takes a text",
        ]
    );
}

#[test]
fn variables_are_looked_at_too() {
    let bad = world(
        &[],
        &[("RINGKEEP_THREADS", "many"), ("KEVY_TIER_BUDGET", "auto")],
    );
    let error = parse(Vec::new(), &bad)
        .expect_err("they are wrong")
        .to_string();
    assert!(
        error.contains("RINGKEEP_THREADS is 'many', but takes a number from 0 to 1024"),
        "{error}"
    );
    assert!(error.contains("KEVY_TIER_BUDGET cannot be had"), "{error}");
    let good = world(
        &[],
        &[
            ("KEVY_AOF", "maybe"),
            ("RINGKEEP_CLUSTER", "on"),
            ("RINGKEEP_PORT", "tcp://10.0.0.1:6379"),
            ("RINGKEEP_PROT", "1"),
            ("RINGKEEP_PEERS", "a folder"),
            ("RINGKEEP_PASSWORD", "of another node"),
        ],
    );
    let options = started("", &good);
    assert_eq!((options.journals, options.slots), (Some(true), Some(6380)));
    assert_eq!(options.port, 6379);
    assert_eq!(options.notes.len(), 2, "{:?}", options.notes);
    assert!(
        options.notes[1].contains("is it RINGKEEP_PORT?"),
        "{:?}",
        options.notes
    );
}

#[test]
fn what_is_not_here_is_told_or_refused() {
    let text = "[audit]\nlog_path = \"a\"\n[feed]\nenabled = true\n[log]\nlevel = \"info\"\n\
                [server]\npacked_rows = false\n";
    let options = started("--config k.toml", &world(&[("k.toml", text)], &[]));
    assert_eq!(options.notes.len(), 2, "{:?}", options.notes);
    assert!(options.notes[0].starts_with("k.toml: [audit] log_path at line 2 is left out"));
    let found = faults(
        "[tiering]\nbudget = 4096\n[cluster]\nsecure = true\n[secure]\nlisten_port = 6005\n",
    );
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found.iter().all(|fault| fault.contains("cannot be had")),
        "{found:?}"
    );
}

#[test]
fn scopes_need_a_name_and_no_members() {
    let started = |line: &str, file: &str| started(line, &world(&[("kevy.toml", file)], &[]));
    let list = "u:=a|b,o:=b";
    let options = started(&format!("--no-config --node-id a --scopes {list}"), "");
    assert_eq!(options.scopes.to_string(), "o:=b,u:=a|b");
    assert!(options.node_id.is_some() && options.peers.is_empty());
    assert_eq!(options.notes.len(), 2, "{:?}", options.notes);
    for file in [
        format!("[cluster]\nnode_id = \"a\"\nscopes = \"{list}\"\n"),
        "[cluster]\nnode_id = \"a\"\nscopes = [\"u:=a|b\", \"o:=b\"]\n".to_string(),
    ] {
        let options = started("--config kevy.toml", &file);
        assert!(options.node_id.is_some());
        assert_eq!(options.scopes.to_string(), "o:=b,u:=a|b", "{file}");
    }
    // Without a name kevy does not look at them.
    let options = started("--config kevy.toml", "[cluster]\nscopes = \"u:=a|b\"\n");
    assert!(options.scopes.is_empty() && options.node_id.is_none());
    let told =
        "[cluster] scopes at line 2 is left out: without [cluster] node_id none is this node's";
    assert_eq!(options.notes, [format!("kevy.toml: {told}")]);
    let refused = |line: &str| {
        let parsed = parse(line.split(' ').map(String::from), &World::default());
        parsed.expect_err(line).to_string()
    };
    let told = refused("--scopes u:=a");
    assert!(told.starts_with("--scopes needs --node-id"), "{told}");
    assert_eq!(
        refused("--node-id a --scopes u:=a,x"),
        "option '--scopes': x: a scope is PREFIX=WRITER or PREFIX=WRITER|FALLBACK"
    );
    assert_eq!(
        faults("[cluster]\nnode_id = \"a\"\nscopes = \"u:=a,u:=b\"\n"),
        ["kevy.toml: [cluster] scopes at line 3 is \"u:=a,u:=b\": two scopes have the prefix u:"]
    );
}

#[test]
fn what_scopes_may_not_mean_is_told() {
    let line = "--dir d --node-id a --peers a@h:6579:6379,b@h:2 --scopes u:=a|b,v:=a|d,w:=c,x:=b|a";
    let options = started(line, &World::default());
    let stranger = |name| {
        format!(
            "no member is called {name}: clients are told that name, and it never counts as down"
        )
    };
    assert_eq!(
        options.notes,
        [
            format!("the scope v:: {}", stranger("d")),
            "the scope w:: while c is down nobody writes there".into(),
            format!("the scope w:: {}", stranger("c")),
        ]
    );
}

#[test]
fn settings_are_shown_with_their_origins_and_without_passwords() {
    let world = world(
        &[(
            "k.toml",
            "[server]\nthreads = 2\n[security]\nrequirepass = \"geheim\"\n",
        )],
        &[("KEVY_BIND", "0.0.0.0")],
    );
    let text = printed(
        "config show --origin --config k.toml --spin-us 0 --no-pin --cluster",
        &world,
    );
    let line = |name: &str| {
        let mut lines = text.lines();
        let found = lines.find(|line| line.starts_with(&format!("{name} = ")));
        found.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    for want in [
        "port = 6004 default of kevy",
        "threads = 2 k.toml line 2, [server] threads",
        "bind = 0.0.0.0 environment, KEVY_BIND",
        "spin-us = 0 command line",
        "pin = no command line",
        "cluster = yes command line",
        "databases = 16 default",
        "requirepass = *** k.toml line 4, [security] requirepass",
    ] {
        let name = want.split(' ').next().unwrap_or_default();
        assert_eq!(line(name).as_deref(), Some(want));
    }
    assert!(!text.contains("geheim"));
    assert_eq!(text.lines().count(), SETTINGS.len());
    let text = printed("config show --config k.toml", &world);
    assert!(text.starts_with("port = 6004\nbind = 0.0.0.0\n"), "{text}");
    let text = printed("config check k.toml", &world);
    assert!(
        text.starts_with("k.toml: good, 2 setting(s), kevy's defaults"),
        "{text}"
    );
}

#[test]
fn addresses_may_be_several() {
    let text = "[server]\nbind = [\"127.0.0.1\", \"::1\"]\n";
    let world = world(&[("ringkeep.toml", text)], &[]);
    assert_eq!(
        started("--config ringkeep.toml", &world).bind,
        ["127.0.0.1", "::1"]
    );
    let options = started(
        "--config ringkeep.toml --bind 10.0.0.1 --bind=10.0.0.2",
        &world,
    );
    assert_eq!(options.bind, ["10.0.0.1", "10.0.0.2"]);
}
