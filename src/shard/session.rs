//! Commands that need the connection, the core or the node.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{
    census::Totals,
    conn::{Conn, ReplyMode},
    info,
    message::{Message, Topics},
    requests::LOADING,
    shared::{FollowView, lock},
    state::State,
};
use crate::{
    base::{glob_match, is_host, parse_i64, parse_u64},
    cmd::{self, Spec, Verb},
    elect::role::Signal,
    resp::{Args, Error, Proto},
};

const HELLO_FIRST: Error = Error::fixed(
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH \
     <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
     the same time",
);
const NO_PROTO: Error = Error::fixed("NOPROTO unsupported protocol version");

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
            Verb::Acl => self.acl(conn, spec, args, false),
            Verb::WaitAof => self.wait_for_disks(conn, spec, args, false),
            Verb::ReplWait => self.wait_for_primary(conn, spec, args, false),
            Verb::Debug => self.debug(conn, spec, args, false),
            Verb::Cluster => self.cluster(conn, spec, args, false),
            Verb::Memory => self.memory_command(conn, args, true),
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
            Err(error) => return self.refuse(conn, Some(spec), &error),
        }
        match verb {
            Verb::Ping => ping(conn, args),
            Verb::Echo => conn.out.bulk(args.at(1)),
            Verb::Hello => self.hello(conn, args),
            Verb::Auth => self.auth(conn, args),
            Verb::Acl => self.acl(conn, spec, args, true),
            Verb::Select => match parse_i64(args.at(1))
                .map_or(Ok(()), |db| self.may_select(db))
                .and_then(|()| cmd::select(args, self.shared.settings.databases))
            {
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
                self.forget_user(conn);
                conn.db = 0;
                conn.name.clear();
                conn.reply_mode = ReplyMode::On;
                conn.no_touch = false;
                conn.reads_replica = false;
                conn.out.simple("RESET");
            }
            Verb::Client => self.client(conn, args),
            Verb::Command => {
                let mark = conn.out.mark();
                if let Err(error) = cmd::command(&mut conn.out, &self.table, spec, args) {
                    conn.out.rewind(mark);
                    conn.out.error(&error);
                }
            }
            Verb::Config => self.config(conn, spec, args),
            Verb::Info => {
                // What this core last told may be a beat old.
                self.publish();
                let facts = info::Facts {
                    shared: &self.shared,
                    table: &self.table,
                    now: self.now,
                    totals: Totals::since_reset(&self.shared),
                };
                let text = info::text(&facts, args);
                conn.out.verbatim(&text);
            }
            Verb::Shutdown => {
                if let Err(error) = shutdown_options(args) {
                    return conn.out.error(&error);
                }
                super::log(&format!("client {}: SHUTDOWN", conn.peer_text()));
                self.shared.stop.store(true, Relaxed);
                conn.closing = true;
            }
            Verb::Role => self.role(conn),
            Verb::ReplicaOf => self.replica_of(conn, args),
            Verb::Elect => self.elect_status(conn, spec, args),
            Verb::Failover => self.failover(conn, args),
            Verb::ReplFailover => self.hear_failover(conn, spec, args),
            Verb::Wait => self.wait_for_replicas(conn, spec, args),
            Verb::WaitAof => self.wait_for_disks(conn, spec, args, true),
            Verb::ReplDigest => self.digest(conn),
            Verb::ReplToken => self.replication_token(conn),
            Verb::ReplWait => self.wait_for_primary(conn, spec, args, true),
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
                    return conn
                        .out
                        .error(&Error::fixed("ERR MULTI calls can not be nested"));
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
                    return conn
                        .out
                        .error(&Error::fixed("ERR WATCH inside MULTI is not allowed"));
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
            Verb::Save | Verb::BgSave | Verb::BgRewriteAof => self.save(conn, verb),
            Verb::LastSave => conn.out.int(self.last_save_secs() as i64),
            Verb::Debug => self.debug(conn, spec, args, true),
            Verb::SlowLog => self.slow_log(conn, spec, args),
            Verb::Latency => self.latency(conn, spec, args),
            Verb::Cluster => self.cluster(conn, spec, args, true),
            Verb::ReadOnly | Verb::ReadWrite | Verb::Asking => self.cluster_mode(conn, verb),
            Verb::Memory => self.memory_command(conn, args, false),
            Verb::Lolwut => conn
                .out
                .verbatim(&format!("ringkeep ver. {}\n", env!("CARGO_PKG_VERSION"))),
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
        let (mut name, mut shown) = (None, None);
        while at < args.len() {
            let option = args.at(at);
            if option.eq_ignore_ascii_case(b"setname") && at + 1 < args.len() {
                if let Err(error) = check_name(args.at(at + 1)) {
                    return conn.out.error(&error);
                }
                name = Some(args.at(at + 1).to_vec());
                at += 2;
            } else if option.eq_ignore_ascii_case(b"auth") && at + 2 < args.len() {
                shown = Some((args.at(at + 1), args.at(at + 2)));
                at += 3;
            } else {
                return conn.out.error(&Error::text(format!(
                    "ERR Syntax error in HELLO option '{}'",
                    String::from_utf8_lossy(option)
                )));
            }
        }
        if let Some((user, password)) = shown
            && let Err(error) = self.admit(conn, args.at(0), user, password)
        {
            return conn.out.error(&error);
        }
        if !self.is_known(conn) {
            return conn.out.error(&HELLO_FIRST);
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
        conn.out.bulk_str(if self.shared.is_cluster() {
            "cluster"
        } else {
            "standalone"
        });
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
            let replicas = info::replicas(&self.shared);
            conn.out.array(3);
            conn.out.bulk_str("master");
            conn.out.int(info::stream_end(&self.shared) as i64);
            conn.out.array(replicas.len());
            for replica in replicas {
                conn.out.array(3);
                conn.out.bulk_str(&replica.ip.to_string());
                conn.out.bulk_str(&replica.port.to_string());
                conn.out.bulk_str(&replica.acked.to_string());
            }
            return;
        };
        conn.out.array(5);
        conn.out.bulk_str("slave");
        conn.out.bulk_str(&view.host);
        conn.out.int(i64::from(view.port));
        conn.out.bulk_str(info::link_state(&view, self.now));
        conn.out
            .int(view.links.iter().map(|link| link.applied as i64).sum());
    }

    /// ELECT.
    fn elect_status(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>) {
        if let Err(error) = cmd::subcommand(spec, args) {
            return conn.out.error(&error);
        }
        let Some(election) = &self.shared.election else {
            return conn
                .out
                .error(&Error::fixed("ERR This instance has elections disabled"));
        };
        let Some(view) = lock(&election.view).clone() else {
            return conn.out.error(&LOADING);
        };
        let out = &mut conn.out;
        let counts = view.counts();
        out.map(9 + counts.len());
        out.bulk_str("role");
        out.bulk_str(view.role.name());
        out.bulk_str("signal");
        out.bulk_str(view.signal.map_or("none", Signal::name));
        let numbers = [
            ("since-ms", view.since),
            ("epoch", view.epoch.0),
            ("history", view.history.0),
            ("offset", view.offset),
            ("lease-ms", view.lease),
        ];
        for (name, number) in numbers {
            out.bulk_str(name);
            out.int(number as i64);
        }
        out.bulk_str("primary");
        match &view.primary {
            Some(id) => out.bulk_str(id.as_str()),
            None => out.null(),
        }
        for (name, count) in counts {
            out.bulk_str(name);
            out.int(count as i64);
        }
        out.bulk_str("members");
        out.array(view.members.len());
        for member in &view.members {
            let other = member.other.as_ref();
            out.map(9);
            out.bulk_str("id");
            out.bulk_str(member.id.as_str());
            out.bulk_str("host");
            out.bulk_str(&member.host);
            out.bulk_str("kind");
            out.bulk_str(match other {
                None => "myself",
                Some(other) if other.silent.is_none() => "unknown",
                Some(other) if other.is_ringkeep => "ringkeep",
                Some(_) => "kevy",
            });
            let silent = other.and_then(|other| other.silent);
            let numbers = [
                ("election-port", i64::from(member.elect_port)),
                ("client-port", i64::from(member.client_port.unwrap_or(0))),
                ("connected", i64::from(member.is_reached)),
                (
                    "silent-ms",
                    silent.map_or(if other.is_none() { 0 } else { -1 }, |ms| ms as i64),
                ),
                (
                    "epoch",
                    other.map_or(view.epoch.0, |other| other.epoch.0) as i64,
                ),
            ];
            for (name, number) in numbers {
                out.bulk_str(name);
                out.int(number);
            }
            out.bulk_str("trouble");
            out.bulk_str(member.trouble);
        }
    }

    fn replica_of(&mut self, conn: &mut Conn, args: Args<'_>) {
        if self.shared.election.is_some() {
            return conn.out.error(&Error::fixed(
                "ERR REPLICAOF not allowed while primaries are elected, see ELECT STATUS.",
            ));
        }
        if lock(&self.shared.failovers.desk).is_under_way() {
            return conn.out.error(&Error::fixed(
                "ERR REPLICAOF not allowed while failing over.",
            ));
        }
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
                Ok(host) if is_host(host) => Some((host.to_string(), port)),
                _ => return conn.out.error(&Error::fixed("ERR Invalid master host")),
            }
        };
        super::log(&match &target {
            Some((host, port)) => format!("client {}: following {host}:{port}", conn.peer_text()),
            None => format!("client {}: following nobody", conn.peer_text()),
        });
        self.note_operator(target.as_ref());
        lock(&self.shared.told_to_follow).clone_from(&target);
        // Writes are refused, or taken, from this reply on; the links follow in their own time.
        if target.is_none() {
            self.shared.epoch.fetch_add(1, SeqCst);
        }
        self.shared.following.store(target.is_some(), Relaxed);
        *lock(&self.shared.follow) = target.clone().map(|(host, port)| FollowView {
            host,
            port,
            links: Vec::new(),
            trouble: String::new(),
            redis: None,
        });
        if self.me == 0 {
            self.follow_request = Some(target);
        } else {
            self.mesh.send(0, Message::Follow(target));
        }
        conn.out.ok();
    }

    fn config(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>) {
        if let Err(error) = cmd::subcommand(spec, args) {
            return conn.out.error(&error);
        }
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
                        self.heed_users(Some(conn));
                        conn.out.ok();
                    }
                    Err(error) => conn.out.error(&error),
                }
            }
            (b"RESETSTAT", 2) => {
                Totals::reset(&self.shared);
                conn.out.ok();
            }
            (b"REWRITE", 2) => self.rewrite_config(conn),
            (b"SET", _) => conn.out.error(&Error::arity("config|set")),
            _ => cmd::help(&mut conn.out, spec),
        }
    }

    fn rewrite_config(&mut self, conn: &mut Conn) {
        let Some(rewrite) = self.shared.rewrite.get() else {
            return conn.out.error(&Error::fixed(
                "ERR The server is running without a config file",
            ));
        };
        match rewrite.0(&info::parameters(&self.shared)) {
            Ok(()) => conn.out.ok(),
            Err(why) => {
                let text = format!("ERR Rewriting config file: {why}");
                conn.out.error(&Error::text(text));
            }
        }
    }

    fn slow_log(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>) {
        if let Err(error) = cmd::subcommand(spec, args) {
            return conn.out.error(&error);
        }
        let sub = args.at(1).to_ascii_uppercase();
        match (&sub[..], args.len()) {
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
                    Some(_) => {
                        return conn.out.error(&Error::fixed(
                            "ERR count should be greater than or equal to -1",
                        ));
                    }
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
            (b"HELP", 2) => cmd::help(&mut conn.out, spec),
            _ => wrong_form(conn, "SLOWLOG", args),
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

/// Refuses a client name that would break the lines of CLIENT LIST.
pub(super) fn check_name(name: &[u8]) -> Result<(), Error> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(Error::fixed(
        "ERR Client names cannot contain spaces, newlines or special characters.",
    ))
}

/// SHUTDOWN's words: a slip of the pen must not end the node, nor a wish to save that it cannot meet.
fn shutdown_options(args: Args<'_>) -> Result<(), Error> {
    let (mut save, mut no_save, mut abort, mut force) = (false, false, false, false);
    for word in args.rest(1).iter() {
        match &word.to_ascii_lowercase()[..] {
            b"save" => save = true,
            b"nosave" => no_save = true,
            b"abort" => abort = true,
            b"force" => force = true,
            b"now" => {}
            _ => return Err(Error::SYNTAX),
        }
    }
    if (abort && args.len() > 2) || (save && no_save) {
        Err(Error::SYNTAX)
    } else if abort {
        Err(Error::fixed("ERR No shutdown in progress."))
    } else if save && !force {
        Err(Error::fixed("ERR Errors trying to SHUTDOWN. Check logs."))
    } else {
        Ok(())
    }
}
