//! Commands that need the connection, the core or the node.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    conn::{Blocked, Conn, GiveUp, ReplyMode},
    info,
    message::{Message, Topics},
    shared::{FollowView, lock},
    state::State,
};
use crate::{
    base::{glob_match, parse_i64, parse_u64},
    cmd::{self, Keys, Spec, Verb, flag},
    resp::{Args, Error, Out, OwnedArgs, Proto},
};

const NO_PERSISTENCE: Error =
    Error::fixed("ERR this version of ringkeep keeps its data in memory only and cannot save it");
const NO_CLUSTER: Error = Error::fixed("ERR This instance has cluster support disabled");
const NO_PROTO: Error = Error::fixed("NOPROTO unsupported protocol version");

const SLOWLOG_HELP: &[&str] = &[
    "GET [<count>]",
    "    Return top <count> entries from the slowlog (default: 10, -1 mean all).",
    "    Entries are made of:",
    "    id, timestamp, time in microseconds, arguments array, client IP and port,",
    "    client name",
    "LEN",
    "    Return the length of the slowlog.",
    "RESET",
    "    Reset the slowlog.",
];

/// The error for a subcommand that does not exist.
pub(super) fn unknown_subcommand(conn: &mut Conn, command: &str, args: Args<'_>) {
    conn.out
        .error(&cmd::unknown_subcommand(command, args.at(1)));
}

/// The error for a subcommand whose arguments have another form, though their number may be right.
pub(super) fn wrong_form(conn: &mut Conn, command: &str, args: Args<'_>) {
    let sub = args.at(1);
    let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]);
    conn.out.error(&Error::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try {command} HELP."
    )));
}

impl State {
    /// Runs a command inside EXEC. Commands that would have to wait answer at once.
    pub(super) fn session_in_exec(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        verb: Verb,
        args: Args<'_>,
    ) {
        match verb {
            Verb::Wait => conn.out.int(0),
            Verb::Monitor => conn.out.error(&Error::fixed(
                "ERR MONITOR isn't allowed for DENY BLOCKING client",
            )),
            _ => self.session(conn, spec, verb, args),
        }
    }

    pub(super) fn session(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        verb: Verb,
        args: Args<'_>,
    ) {
        match spec.subcommand(args) {
            Ok(full) => conn.last = full.unwrap_or(spec.name),
            Err(error) => return self.refuse(conn, &error),
        }
        match verb {
            Verb::Ping => ping(conn, args),
            Verb::Echo => conn.out.bulk(args.at(1)),
            Verb::Hello => self.hello(conn, args),
            // Nobody has a password, so every one will do for the only user there is.
            Verb::Auth if args.len() == 3 && args.at(1) == b"default" => conn.out.ok(),
            Verb::Auth if args.len() == 3 => conn.out.error(&Error::fixed(
                "WRONGPASS invalid username-password pair or user is disabled.",
            )),
            Verb::Auth if args.len() > 3 => conn.out.error(&Error::SYNTAX),
            Verb::Auth => conn.out.error(&Error::fixed(
                "ERR AUTH <password> called without any password configured for the default user. Are you \
                 sure your configuration is correct?",
            )),
            Verb::Select => match cmd::select(args, self.shared.settings.databases) {
                Ok(db) => {
                    conn.db = db;
                    conn.out.ok();
                }
                Err(error) => conn.out.error(&error),
            },
            Verb::Quit => {
                conn.out.ok();
                conn.closing = true;
            }
            Verb::Reset => {
                self.discard(conn);
                self.unsubscribe_all(conn);
                self.end_tracking(conn);
                self.end_monitoring(conn);
                conn.set_proto(Proto::Two);
                conn.db = 0;
                conn.name.clear();
                conn.reply_mode = ReplyMode::On;
                conn.no_touch = false;
                conn.out.simple("RESET");
            }
            Verb::Client => self.client(conn, args),
            Verb::Command => command(conn, &self.table, args),
            Verb::Config => self.config(conn, args),
            Verb::Info => {
                // What this core last told may be a beat old.
                self.publish();
                let text = info::text(&self.shared, self.now, args);
                conn.out.verbatim(&text);
            }
            Verb::Shutdown => {
                super::log(&format!("client {}: SHUTDOWN", conn.peer_text()));
                self.shared.stop.store(true, Relaxed);
                conn.closing = true;
            }
            Verb::Role => self.role(conn),
            Verb::ReplicaOf => self.replica_of(conn, args),
            Verb::Wait => self.wait_for_replicas(conn, spec, args),
            Verb::Time => {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                conn.out.array(2);
                conn.out.bulk_int(now.as_secs() as i64);
                conn.out.bulk_int(i64::from(now.subsec_micros()));
            }
            Verb::Multi => {
                if conn.multi.is_some() {
                    return conn.out.error(&Error::fixed("ERR MULTI calls can not be nested"));
                }
                conn.multi = Some(Default::default());
                conn.out.ok();
            }
            Verb::Exec => self.exec(conn),
            Verb::Discard => {
                if conn.multi.is_none() {
                    return conn.out.error(&Error::fixed("ERR DISCARD without MULTI"));
                }
                self.discard(conn);
                conn.out.ok();
            }
            Verb::Watch => {
                if conn.multi.is_some() {
                    return conn.out.error(&Error::fixed("ERR WATCH inside MULTI is not allowed"));
                }
                self.watch(conn, args);
            }
            Verb::Unwatch => {
                self.unwatch(conn);
                conn.out.ok();
            }
            Verb::Subscribe
            | Verb::PSubscribe
            | Verb::SSubscribe
            | Verb::Unsubscribe
            | Verb::PUnsubscribe
            | Verb::SUnsubscribe => self.subscribe(conn, verb, args),
            Verb::Publish => {
                let (channel, text) = (args.at(1), args.at(2));
                let receivers = self.publish_message(conn, Topics::Channels, channel, text);
                conn.out.len_int(receivers);
            }
            Verb::SPublish => {
                let (channel, text) = (args.at(1), args.at(2));
                let receivers = self.publish_message(conn, Topics::Shards, channel, text);
                conn.out.len_int(receivers);
            }
            Verb::Monitor => self.start_monitoring(conn),
            Verb::PubSub => self.pubsub(conn, args),
            Verb::Save | Verb::BgSave | Verb::BgRewriteAof => conn.out.error(&NO_PERSISTENCE),
            Verb::LastSave => conn.out.int((self.shared.started / 1000) as i64),
            Verb::Debug => self.debug(conn, args),
            Verb::SlowLog => self.slow_log(conn, args),
            Verb::Latency => latency(conn, args),
            Verb::Cluster => self.cluster(conn, args),
            Verb::Memory => self.memory_command(conn, args),
            Verb::Lolwut => conn.out.verbatim(&format!("ringkeep ver. {}\n", env!("CARGO_PKG_VERSION"))),
        }
    }

    fn hello(&mut self, conn: &mut Conn, args: Args<'_>) {
        let mut proto = conn.out.proto;
        let mut at = 1;
        if let Some(version) = args.get(1) {
            proto = match parse_i64(version) {
                Some(2) => Proto::Two,
                Some(3) => Proto::Three,
                Some(_) => return conn.out.error(&NO_PROTO),
                None => {
                    return conn.out.error(&Error::fixed(
                        "ERR Protocol version is not an integer or out of range",
                    ));
                }
            };
            at = 2;
        }
        let mut name = None;
        while at < args.len() {
            let option = args.at(at);
            if option.eq_ignore_ascii_case(b"setname") && at + 1 < args.len() {
                if let Err(error) = check_name(args.at(at + 1)) {
                    return conn.out.error(&error);
                }
                name = Some(args.at(at + 1).to_vec());
                at += 2;
            } else if option.eq_ignore_ascii_case(b"auth") && at + 2 < args.len() {
                // Nobody has a password, so every user may come in as the default one does.
                at += 3;
            } else {
                return conn.out.error(&Error::text(format!(
                    "ERR Syntax error in HELLO option '{}'",
                    String::from_utf8_lossy(option)
                )));
            }
        }
        if let Some(name) = name {
            conn.name = name;
        }
        conn.set_proto(proto);
        conn.out.map(7);
        conn.out.bulk_str("server");
        conn.out.bulk_str("redis");
        conn.out.bulk_str("version");
        conn.out.bulk_str(info::REDIS_VERSION);
        conn.out.bulk_str("proto");
        conn.out.int(if proto == Proto::Three { 3 } else { 2 });
        conn.out.bulk_str("id");
        conn.out.int(conn.id as i64);
        conn.out.bulk_str("mode");
        conn.out.bulk_str("standalone");
        conn.out.bulk_str("role");
        conn.out.bulk_str(if self.shared.following.load(Relaxed) {
            "replica"
        } else {
            "master"
        });
        conn.out.bulk_str("modules");
        conn.out.array(0);
    }

    fn role(&mut self, conn: &mut Conn) {
        let Some(view) = lock(&self.shared.follow).clone() else {
            conn.out.array(3);
            conn.out.bulk_str("master");
            conn.out.int(0);
            return conn.out.array(0);
        };
        conn.out.array(5);
        conn.out.bulk_str("slave");
        conn.out.bulk_str(&view.host);
        conn.out.int(i64::from(view.port));
        conn.out.bulk_str(info::link_state(&view, self.now));
        conn.out
            .int(view.links.iter().map(|link| link.applied as i64).sum());
    }

    fn replica_of(&mut self, conn: &mut Conn, args: Args<'_>) {
        let (host, port) = (args.at(1), args.at(2));
        let target = if host.eq_ignore_ascii_case(b"no") && port.eq_ignore_ascii_case(b"one") {
            None
        } else {
            let Some(port) = parse_u64(port)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0)
            else {
                return conn.out.error(&Error::NOT_INTEGER);
            };
            match std::str::from_utf8(host) {
                Ok(host) if !host.is_empty() => Some((host.to_string(), port)),
                _ => return conn.out.error(&Error::fixed("ERR Invalid master host")),
            }
        };
        super::log(&match &target {
            Some((host, port)) => format!("client {}: following {host}:{port}", conn.peer_text()),
            None => format!("client {}: following nobody", conn.peer_text()),
        });
        // Writes are refused, or taken, from this reply on; the links follow in their own time.
        self.shared.following.store(target.is_some(), Relaxed);
        *lock(&self.shared.follow) = target.clone().map(|(host, port)| FollowView {
            host,
            port,
            links: Vec::new(),
        });
        if self.me == 0 {
            self.follow_request = Some(target);
        } else {
            self.mesh.send(0, Message::Follow(target));
        }
        conn.out.ok();
    }

    /// WAIT: nobody follows this node yet, so either nothing is asked for or time runs out.
    fn wait_for_replicas(&mut self, conn: &mut Conn, spec: &'static Spec, args: Args<'_>) {
        let Some(replicas) = parse_i64(args.at(1)) else {
            return conn.out.error(&Error::NOT_INTEGER);
        };
        let Some(timeout) = parse_i64(args.at(2)) else {
            let text = "ERR timeout is not an integer or out of range";
            return conn.out.error(&Error::fixed(text));
        };
        if timeout < 0 {
            return conn.out.error(&Error::TIMEOUT_NEGATIVE);
        }
        if self.shared.following.load(Relaxed) {
            return conn.out.error(&Error::fixed(
                "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 \
                 if a replica is configured to be writable (which is not the default) writes to replicas \
                 are just local and are not propagated.",
            ));
        }
        if replicas <= 0 || conn.ended {
            return conn.out.int(0);
        }
        let slot = conn.open_slot();
        let deadline = (timeout > 0).then(|| self.now + timeout as u64);
        let blocked = Blocked {
            spec,
            args: OwnedArgs::copy(args.iter()),
            db: conn.db,
            deadline,
            on_timeout: GiveUp::Count(0),
            slot,
            trying: false,
            again: false,
        };
        self.hold_blocked(conn, blocked);
    }

    fn config(&mut self, conn: &mut Conn, args: Args<'_>) {
        let sub = args.at(1).to_ascii_uppercase();
        match (&sub[..], args.len()) {
            (b"GET", 3..) => {
                let all = info::parameters(&self.shared);
                let hits: Vec<_> = all
                    .iter()
                    .filter(|(name, _)| {
                        args.rest(2).iter().any(|pattern| {
                            glob_match(&pattern.to_ascii_lowercase(), name.as_bytes())
                        })
                    })
                    .collect();
                conn.out.map(hits.len());
                for (name, value) in hits {
                    conn.out.bulk_str(name);
                    conn.out.bulk_str(value);
                }
            }
            (b"SET", 4..) if args.len().is_multiple_of(2) => {
                match info::set_parameters(&self.shared, args.rest(2)) {
                    Ok(()) => {
                        // Here they hold at once, elsewhere from the next turn on.
                        self.begin_memory();
                        conn.out.ok();
                    }
                    Err(error) => conn.out.error(&error),
                }
            }
            (b"RESETSTAT", 2) => {
                self.stats.commands = 0;
                conn.out.ok();
            }
            (b"REWRITE", 2) => {
                conn.out.error(&Error::fixed(
                    "ERR The server is running without a config file",
                ));
            }
            (b"GET" | b"SET", _) => {
                let sub = String::from_utf8_lossy(&sub).to_lowercase();
                conn.out.error(&Error::arity(&format!("config|{sub}")));
            }
            _ => unknown_subcommand(conn, "config", args),
        }
    }

    fn debug(&mut self, conn: &mut Conn, args: Args<'_>) {
        let sub = args.at(1).to_ascii_uppercase();
        match (&sub[..], args.len()) {
            // Tests of client libraries switch these; both are how the node always is.
            (b"SET-ACTIVE-EXPIRE" | b"JMAP", _) => conn.out.ok(),
            (b"SLEEP", _) => conn.out.error(&Error::fixed(
                "ERR DEBUG SLEEP is not available: it would stop a core",
            )),
            _ => unknown_subcommand(conn, "debug", args),
        }
    }

    fn slow_log(&mut self, conn: &mut Conn, args: Args<'_>) {
        let sub = args.at(1).to_ascii_uppercase();
        match (&sub[..], args.len()) {
            (b"HELP", _) => conn.out.help("SLOWLOG", SLOWLOG_HELP),
            (b"LEN", 2) => {
                let len = lock(&self.shared.slow).1.len();
                conn.out.len_int(len);
            }
            (b"RESET", 2) => {
                lock(&self.shared.slow).1.clear();
                conn.out.ok();
            }
            (b"GET", 2 | 3) => {
                let count = match args.get(2).map(parse_i64) {
                    None => 10,
                    Some(Some(-1)) => usize::MAX,
                    Some(Some(count @ 0..)) => count as usize,
                    Some(Some(_)) => {
                        return conn.out.error(&Error::fixed(
                            "ERR count should be greater than or equal to -1",
                        ));
                    }
                    Some(None) => return conn.out.error(&Error::NOT_INTEGER),
                };
                let guard = lock(&self.shared.slow);
                let shown = guard.1.iter().take(count);
                conn.out.array(shown.len());
                for entry in shown {
                    conn.out.array(6);
                    conn.out.int(entry.id as i64);
                    conn.out.int(entry.at_secs as i64);
                    conn.out.int(entry.us as i64);
                    conn.out.array(entry.args.len());
                    for arg in &entry.args {
                        conn.out.bulk(arg);
                    }
                    conn.out.bulk_str(&entry.peer);
                    conn.out.bulk(&entry.name);
                }
            }
            _ => wrong_form(conn, "SLOWLOG", args),
        }
    }

    fn cluster(&mut self, conn: &mut Conn, args: Args<'_>) {
        let sub = args.at(1).to_ascii_uppercase();
        match (&sub[..], args.len()) {
            (b"KEYSLOT", 3) => conn.out.int(i64::from(crate::route::slot(args.at(2)))),
            (b"MYID", 2) => conn.out.bulk_str(&self.shared.run_id),
            _ => conn.out.error(&NO_CLUSTER),
        }
    }
}

fn ping(conn: &mut Conn, args: Args<'_>) {
    let subscribed = conn.is_subscribed() && conn.out.proto == Proto::Two;
    match (args.get(1), args.len()) {
        (text, 1 | 2) if subscribed => {
            conn.out.array(2);
            conn.out.bulk_str("pong");
            conn.out.bulk(text.unwrap_or_default());
        }
        (None, _) => conn.out.simple("PONG"),
        (Some(text), 2) => conn.out.bulk(text),
        _ => conn.out.error(&Error::arity("ping")),
    }
}

fn latency(conn: &mut Conn, args: Args<'_>) {
    let sub = args.at(1).to_ascii_uppercase();
    match (&sub[..], args.len()) {
        (b"LATEST" | b"HISTORY", _) => conn.out.array(0),
        (b"RESET", _) => conn.out.int(0),
        _ => unknown_subcommand(conn, "latency", args),
    }
}

/// Refuses a client name that would break the lines of CLIENT LIST.
pub(super) fn check_name(name: &[u8]) -> Result<(), Error> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(Error::fixed(
        "ERR Client names cannot contain spaces, newlines or special characters.",
    ))
}

// ---- COMMAND ----

fn command(conn: &mut Conn, table: &cmd::Table, args: Args<'_>) {
    let Some(sub) = args.get(1).map(<[u8]>::to_ascii_uppercase) else {
        conn.out.array(cmd::all().count());
        return cmd::all().for_each(|(group, spec)| describe(&mut conn.out, group, spec));
    };
    match (&sub[..], args.len()) {
        (b"COUNT", 2) => conn.out.len_int(cmd::all().count()),
        (b"LIST", 2) => {
            conn.out.array(cmd::all().count());
            cmd::all().for_each(|(_, spec)| conn.out.bulk_str(&spec.name.to_lowercase()));
        }
        (b"INFO", 2) => command(conn, table, args.rest(2)),
        (b"INFO", _) => {
            conn.out.array(args.len() - 2);
            for name in args.rest(2).iter() {
                match cmd::all().find(|(_, spec)| spec.name.as_bytes().eq_ignore_ascii_case(name)) {
                    Some((group, spec)) => describe(&mut conn.out, group, spec),
                    None => conn.out.null_array(),
                }
            }
        }
        (b"DOCS", _) => {
            let wanted: Vec<_> = cmd::all()
                .filter(|(_, spec)| {
                    args.len() == 2
                        || args
                            .rest(2)
                            .iter()
                            .any(|name| spec.name.as_bytes().eq_ignore_ascii_case(name))
                })
                .collect();
            conn.out.map(wanted.len());
            for (group, spec) in wanted {
                conn.out.bulk_str(&spec.name.to_lowercase());
                conn.out.map(2);
                conn.out.bulk_str("summary");
                conn.out.bulk_str(spec.summary);
                conn.out.bulk_str("group");
                conn.out.bulk_str(group);
            }
        }
        (b"GETKEYS", 3..) => {
            let inner = args.rest(2);
            let Some(spec) = table.find(inner.at(0)) else {
                return conn
                    .out
                    .error(&Error::fixed("ERR Invalid command specified"));
            };
            if !spec.fits(inner.len()) {
                return conn.out.error(&Error::fixed(
                    "ERR Invalid number of arguments specified for command",
                ));
            }
            let mut keys = Vec::new();
            spec.keys.for_each(inner, |at| keys.push(at));
            if keys.is_empty() {
                return conn
                    .out
                    .error(&Error::fixed("ERR The command has no key arguments"));
            }
            conn.out.array(keys.len());
            keys.iter().for_each(|at| conn.out.bulk(inner.at(*at)));
        }
        _ => unknown_subcommand(conn, "command", args),
    }
}

/// One command as COMMAND and COMMAND INFO show it.
fn describe(out: &mut Out, group: &str, spec: &Spec) {
    let (first, last, step) = spec.keys.info();
    let mut flags: Vec<&str> = Vec::new();
    for (bit, name) in [
        (flag::WRITE, "write"),
        (flag::READ, "readonly"),
        (flag::DENY_OOM, "denyoom"),
        (flag::ADMIN, "admin"),
        (flag::PUBSUB, "pubsub"),
        (flag::NO_SCRIPT, "noscript"),
        (flag::BLOCKING, "blocking"),
        (flag::LOADING, "loading"),
        (flag::STALE, "stale"),
        (flag::FAST, "fast"),
        (flag::NO_MULTI, "no_multi"),
        (flag::MOVABLE_KEYS, "movablekeys"),
    ] {
        if spec.flags & bit != 0 {
            flags.push(name);
        }
    }
    if matches!(
        spec.keys,
        Keys::Counted { .. } | Keys::Streams | Keys::GeoStore { .. } | Keys::Sort
    ) && !flags.contains(&"movablekeys")
    {
        flags.push("movablekeys");
    }
    out.array(7);
    out.bulk_str(&spec.name.to_lowercase());
    out.int(i64::from(spec.arity));
    out.set(flags.len());
    flags.iter().for_each(|name| out.simple(name));
    out.int(first);
    out.int(last);
    out.int(step);
    out.set(1);
    out.simple(&format!("@{}", group.replace('-', "")));
}
