//! CLIENT: what connections say of themselves and do to each other, on all cores.

use std::collections::HashMap;

use super::{
    conn::{Conn, Hold, ReplyMode},
    message::{Answer, Class, ClientAt, ClientFilter, Message, Question},
    session::{check_name, wrong_form},
    state::State,
    tracking::{Mode, Options, set_caching, tracking_info},
};
use crate::{
    acl::Users,
    base::{parse_i64, parse_u64},
    resp::{Args, Error, Out, Proto},
};

/// Questions of connections of this core that not all cores have answered yet.
#[derive(Default)]
pub(super) struct Gathers {
    open: HashMap<u64, Gather>,
    next: u64,
}

impl Gathers {
    /// A number for a question that is about to be asked.
    pub(super) fn next_question(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Answers of all cores on their way to one connection.
struct Gather {
    conn: uring::SocketId,
    slot: u64,
    waiting: usize,
    sum: Answer,
    form: Form,
}

/// How a connection is told the cores' answers.
enum Form {
    /// Their number.
    Count,
    /// OK, whatever they say.
    Ok,
    /// OK, or an error if nobody was meant.
    OkOrNobody,
    /// What became of CLIENT TRACKING with these options.
    Track(Box<Options>),
    /// The lines in the order of their numbers.
    Lines,
    /// The lines with these numbers, in this order.
    LinesOf(Vec<u64>),
    /// What the shards hold.
    Digest,
}

impl State {
    /// CLIENT; the number of arguments fits the subcommand.
    pub(super) fn client(&mut self, conn: &mut Conn, args: Args<'_>) {
        let sub = args.at(1).to_ascii_uppercase();
        let done = match &sub[..] {
            b"GETNAME" if conn.name.is_empty() => return conn.out.null(),
            b"GETNAME" => return conn.out.bulk(&conn.name),
            b"GETREDIR" => {
                let id = conn
                    .tracking
                    .as_ref()
                    .map(|tracking| tracking.redirect_id());
                return conn.out.int(id.map_or(-1, |id| id as i64));
            }
            b"HELP" => return conn.out.help("CLIENT", HELP),
            b"ID" => return conn.out.int(conn.id as i64),
            b"INFO" => {
                let line = self.client_line(conn);
                return conn.out.verbatim(&line);
            }
            b"KILL" => self.client_kill(conn, args),
            b"LIST" => self.client_list(conn, args),
            b"NO-EVICT" => switch(args).map(|on| {
                conn.no_evict = on;
                conn.out.ok();
            }),
            b"NO-TOUCH" => switch(args).map(|on| {
                conn.no_touch = on;
                conn.out.ok();
            }),
            b"PAUSE" if args.len() <= 4 => self.client_pause(conn, args),
            b"REPLY" => set_reply_mode(conn, args),
            b"SETINFO" => set_info(conn, args),
            b"SETNAME" => check_name(args.at(2)).map(|()| {
                conn.name = args.at(2).to_vec();
                conn.out.ok();
            }),
            b"CACHING" => set_caching(conn, args),
            b"TRACKING" => self.client_tracking(conn, args),
            b"TRACKINGINFO" => return tracking_info(conn),
            b"UNBLOCK" if args.len() <= 4 => self.client_unblock(conn, args),
            b"UNPAUSE" => {
                self.ask_all(conn, Question::Unpause, Form::Ok);
                Ok(())
            }
            _ => return wrong_form(conn, "CLIENT", args),
        };
        if let Err(error) = done {
            conn.out.error(&error);
        }
    }

    fn client_kill(&mut self, conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
        if args.len() == 3 {
            let addr = Some(String::from_utf8_lossy(args.at(2)).into_owned());
            let filter = ClientFilter {
                addr,
                ..ClientFilter::default()
            };
            self.ask_all(conn, Question::ClientKill(filter), Form::OkOrNobody);
            return Ok(());
        }
        let filter = kill_filter(args, conn.id, &self.users)?;
        self.ask_all(conn, Question::ClientKill(filter), Form::Count);
        Ok(())
    }

    fn client_list(&mut self, conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
        let mut filter = ClientFilter::default();
        let mut form = Form::Lines;
        let option = args.get(2).map(<[u8]>::to_ascii_lowercase);
        match (option.as_deref(), args.len()) {
            (None, _) => {}
            (Some(b"type"), 4) => filter.class = Some(class_of(args.at(3))?),
            (Some(b"id"), 4..) => {
                let ids = args.rest(3).iter().map(parse_i64);
                let ids: Option<Vec<i64>> = ids.collect();
                let ids = ids.ok_or(Error::fixed("ERR Invalid client ID"))?;
                let ids: Vec<u64> = ids
                    .iter()
                    .filter_map(|id| u64::try_from(*id).ok())
                    .collect();
                filter.ids = Some(ids.clone());
                form = Form::LinesOf(ids);
            }
            _ => return Err(Error::SYNTAX),
        }
        self.ask_all(conn, Question::ClientList(filter), form);
        Ok(())
    }

    fn client_pause(&mut self, conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
        let all = match args.get(3).map(<[u8]>::to_ascii_lowercase).as_deref() {
            None | Some(b"all") => true,
            Some(b"write") => false,
            Some(_) => {
                return Err(Error::fixed("ERR CLIENT PAUSE mode must be WRITE or ALL"));
            }
        };
        let timeout = parse_i64(args.at(2)).ok_or(Error::fixed(
            "ERR timeout is not an integer or out of range",
        ))?;
        let timeout = u64::try_from(timeout).map_err(|_| Error::TIMEOUT_NEGATIVE)?;
        let until = self
            .now
            .checked_add(timeout)
            .filter(|until| *until <= i64::MAX as u64)
            .ok_or(Error::fixed("ERR timeout is out of range"))?;
        self.ask_all(conn, Question::Pause(until, all), Form::Ok);
        Ok(())
    }

    fn client_tracking(&mut self, conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
        let options = Options::read(args)?;
        if let Some(id) = options.redirect {
            self.ask_all(conn, Question::Find(id), Form::Track(Box::new(options)));
            return Ok(());
        }
        self.set_tracking(conn, options, None)?;
        conn.out.ok();
        Ok(())
    }

    fn client_unblock(&mut self, conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
        let with_error = match args.get(3).map(<[u8]>::to_ascii_lowercase).as_deref() {
            None | Some(b"timeout") => false,
            Some(b"error") => true,
            Some(_) => {
                let text = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
                return Err(Error::fixed(text));
            }
        };
        let id = parse_i64(args.at(2)).ok_or(Error::NOT_INTEGER)?;
        let question = Question::Unblock(u64::try_from(id).unwrap_or(0), with_error);
        self.ask_all(conn, question, Form::Count);
        Ok(())
    }

    /// One line of CLIENT LIST.
    pub(super) fn client_line(&self, conn: &Conn) -> String {
        let unix = || {
            format!(
                "{}:0",
                self.shared.settings.unix.as_deref().unwrap_or("unix")
            )
        };
        let address = |at: Option<std::net::SocketAddr>| at.map_or_else(unix, |at| at.to_string());
        let block_len = conn.out.len();
        let tables = conn.watching.len() + conn.channels.len() + conn.patterns.len();
        let multi_len = conn.multi.as_ref().map_or(0, |multi| multi.bytes);
        let total =
            size_of::<Conn>() + conn.input.capacity() + conn.owed() + multi_len + 64 * tables;
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} \
             multi={} qbuf={} qbuf-free={} argv-mem=0 multi-mem={multi_len} rbs=0 rbp=0 obl={block_len} \
             oll={} omem={} tot-mem={total} events={} cmd={} user={} redir={} resp={} lib-name={} \
             lib-ver={}\n",
            conn.id,
            address(conn.peer),
            address(conn.local),
            conn.socket.index,
            String::from_utf8_lossy(&conn.name),
            self.beat.saturating_sub(conn.since) / 1000,
            self.beat.saturating_sub(conn.used) / 1000,
            flags(conn),
            conn.db,
            conn.channels.len(),
            conn.patterns.len(),
            conn.shard_channels.len(),
            conn.multi
                .as_ref()
                .map_or(-1, |multi| multi.queued.len() as i64),
            conn.input.len(),
            conn.input.capacity() - conn.input.len(),
            conn.pieces(),
            conn.owed() - block_len,
            if conn.sending && conn.owed() > 0 {
                "rw"
            } else {
                "r"
            },
            if conn.last.is_empty() {
                "NULL".to_string()
            } else {
                conn.last.to_lowercase()
            },
            String::from_utf8_lossy(conn.user.name()),
            conn.tracking
                .as_ref()
                .map_or(-1, |tracking| tracking.redirect_id() as i64),
            if conn.out.proto == Proto::Three { 3 } else { 2 },
            String::from_utf8_lossy(&conn.lib_name),
            String::from_utf8_lossy(&conn.lib_version),
        )
    }

    /// Asks every core, this one included, and answers the connection when all have answered.
    fn ask_all(&mut self, conn: &mut Conn, question: Question, form: Form) {
        let sum = self.answer_question(&question, Some(conn));
        let others = self.mesh.cores() - 1;
        if others == 0 {
            let fresh = Out::new(conn.out.proto);
            let mut out = std::mem::replace(&mut conn.out, fresh);
            self.write_answer(conn, &mut out, form, sum);
            conn.out = out;
            return;
        }
        let id = self.gathers.next_question();
        self.tell_all(|| Message::Ask(id, question.clone()));
        self.gather(conn, id, others, sum, form);
    }

    /// Asks every core for what this one, too, answers later.
    pub(super) fn ask_for_digests(&mut self, conn: &mut Conn) -> u64 {
        let id = self.gathers.next_question();
        self.tell_all(|| Message::Ask(id, Question::Digest));
        self.gather(conn, id, self.mesh.cores(), Answer::default(), Form::Digest);
        id
    }

    /// Answers the connection with OK when a question was answered so many times.
    pub(super) fn gather_ok(&mut self, conn: &mut Conn, question: u64, waiting: usize) {
        if waiting == 0 {
            return conn.out.ok();
        }
        self.gather(conn, question, waiting, Answer::default(), Form::Ok);
    }

    fn gather(&mut self, conn: &mut Conn, id: u64, waiting: usize, sum: Answer, form: Form) {
        let gather = Gather {
            conn: conn.socket,
            slot: conn.open_slot(),
            waiting,
            sum,
            form,
        };
        self.gathers.open.insert(id, gather);
        conn.hold = Hold::Gather;
    }

    /// This core's part of an answer. `current` is the connection being worked on, which is not in its
    /// place.
    pub(super) fn answer_question(
        &mut self,
        question: &Question,
        current: Option<&mut Conn>,
    ) -> Answer {
        let mut answer = Answer::default();
        match question {
            Question::ClientList(filter) => {
                let current = current.as_deref();
                let meant = self.conns().chain(current);
                let meant = meant.filter(|conn| self.is_meant(filter, conn));
                answer.lines = meant
                    .map(|conn| (conn.id, self.client_line(conn)))
                    .collect();
            }
            Question::ClientKill(filter) => {
                let victims: Vec<_> = self
                    .conns()
                    .filter(|conn| self.is_meant(filter, conn))
                    .map(|conn| conn.socket)
                    .collect();
                for socket in victims {
                    if let Some(mut conn) = self.take_conn(socket) {
                        answer.count += 1;
                        self.drop_conn(&mut conn);
                        self.put_conn(conn);
                    }
                }
                if let Some(conn) = current.filter(|conn| self.is_meant(filter, conn)) {
                    answer.count += 1;
                    conn.closing = true;
                }
            }
            // Its answer comes later.
            Question::Digest => {}
            Question::Pause(until, all) => self.start_pause(*until, *all),
            Question::Unpause => self.end_pause(u64::MAX),
            Question::Find(id) => {
                let all = self.conns().chain(current.as_deref());
                let socket = all.filter(|conn| conn.id == *id).map(|conn| conn.socket);
                let core = self.me;
                answer.found = socket.map(|conn| ClientAt { core, conn }).next();
            }
            Question::Unblock(id, with_error) => {
                let socket = self
                    .conns()
                    .find(|conn| conn.id == *id)
                    .map(|conn| conn.socket);
                if let Some(mut conn) = socket.and_then(|socket| self.take_conn(socket)) {
                    answer.count += i64::from(self.unblock_early(&mut conn, *with_error));
                    self.put_conn(conn);
                }
            }
        }
        answer
    }

    pub(super) fn on_answer(&mut self, id: u64, answer: Answer) {
        let Some(gather) = self.gathers.open.get_mut(&id) else {
            return;
        };
        gather.sum.count += answer.count;
        gather.sum.lines.extend(answer.lines);
        gather.sum.found = gather.sum.found.or(answer.found);
        gather.sum.digests.extend(answer.digests);
        gather.waiting -= 1;
        if gather.waiting > 0 {
            return;
        }
        let Some(gather) = self.gathers.open.remove(&id) else {
            return;
        };
        if let Some(mut conn) = self.take_conn(gather.conn) {
            let mut out = Out::new(conn.out.proto);
            self.write_answer(&mut conn, &mut out, gather.form, gather.sum);
            conn.fill_slot(gather.slot, out);
            self.wake(&mut conn);
            self.put_conn(conn);
        }
    }

    fn write_answer(&mut self, conn: &mut Conn, out: &mut Out, form: Form, sum: Answer) {
        match form {
            Form::Track(options) => match self.set_tracking(conn, *options, sum.found) {
                Ok(()) => out.ok(),
                Err(error) => out.error(&error),
            },
            Form::Digest => self.write_digest(out, sum.digests),
            form => write_answer(out, form, sum),
        }
    }

    /// Does the filter mean this connection?
    fn is_meant(&self, filter: &ClientFilter, conn: &Conn) -> bool {
        let unix = || {
            format!(
                "{}:0",
                self.shared.settings.unix.as_deref().unwrap_or("unix")
            )
        };
        let is = |wanted: &Option<String>, at: Option<std::net::SocketAddr>| {
            let wanted = wanted.as_ref();
            wanted.is_none_or(|wanted| *wanted == at.map_or_else(unix, |at| at.to_string()))
        };
        filter.ids.as_ref().is_none_or(|ids| ids.contains(&conn.id))
            && is(&filter.addr, conn.peer)
            && is(&filter.local, conn.local)
            && filter.class.is_none_or(|class| {
                class
                    == if conn.is_subscribed() {
                        Class::PubSub
                    } else {
                        Class::Normal
                    }
            })
            && filter
                .age_secs
                .is_none_or(|age| self.beat.saturating_sub(conn.since) / 1000 >= age)
            && filter
                .user
                .as_ref()
                .is_none_or(|user| user == conn.user.name())
            && filter.except != Some(conn.id)
    }
}

/// The letters of CLIENT LIST's `flags`.
fn flags(conn: &Conn) -> String {
    let tracking = conn.tracking.as_deref();
    let letters = [
        (conn.monitors, 'O'),
        (conn.is_subscribed(), 'P'),
        (conn.multi.is_some(), 'x'),
        (matches!(conn.hold, Hold::Blocked(_) | Hold::Paused), 'b'),
        (tracking.is_some(), 't'),
        (tracking.is_some_and(|tracking| tracking.broken), 'R'),
        (
            tracking.is_some_and(|tracking| tracking.mode == Mode::Broadcast),
            'B',
        ),
        (conn.tainted, 'd'),
        (conn.closing, 'c'),
        (conn.peer.is_none(), 'U'),
        (conn.no_evict, 'e'),
        (conn.no_touch, 'T'),
    ];
    let flags: String = letters
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, letter)| letter)
        .collect();
    if flags.is_empty() { "N".into() } else { flags }
}

fn switch(args: Args<'_>) -> Result<bool, Error> {
    match &args.at(2).to_ascii_lowercase()[..] {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(Error::SYNTAX),
    }
}

fn set_reply_mode(conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
    match &args.at(2).to_ascii_lowercase()[..] {
        b"on" => {
            conn.reply_mode = ReplyMode::On;
            conn.out.ok();
        }
        b"off" => conn.reply_mode = ReplyMode::Off,
        b"skip" if conn.reply_mode == ReplyMode::Off => {}
        b"skip" => conn.reply_mode = ReplyMode::SkipNext,
        _ => return Err(Error::SYNTAX),
    }
    Ok(())
}

fn set_info(conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
    let (option, value) = (args.at(2), args.at(3));
    let field = match &option.to_ascii_lowercase()[..] {
        b"lib-name" => &mut conn.lib_name,
        b"lib-ver" => &mut conn.lib_version,
        _ => {
            let option = String::from_utf8_lossy(option);
            return Err(Error::text(format!("ERR Unrecognized option '{option}'")));
        }
    };
    check_name(value).map_err(|_| {
        let option = String::from_utf8_lossy(option);
        Error::text(format!(
            "ERR {option} cannot contain spaces, newlines or special characters."
        ))
    })?;
    *field = value.to_vec();
    conn.out.ok();
    Ok(())
}

fn class_of(name: &[u8]) -> Result<Class, Error> {
    match &name.to_ascii_lowercase()[..] {
        b"normal" => Ok(Class::Normal),
        b"pubsub" => Ok(Class::PubSub),
        b"replica" | b"slave" => Ok(Class::Replica),
        b"master" => Ok(Class::Primary),
        _ => {
            let name = String::from_utf8_lossy(name);
            Err(Error::text(format!("ERR Unknown client type '{name}'")))
        }
    }
}

/// Reads the conditions of CLIENT KILL, said by the client `me`.
fn kill_filter(args: Args<'_>, me: u64, users: &Users) -> Result<ClientFilter, Error> {
    let mut filter = ClientFilter {
        except: Some(me),
        ..ClientFilter::default()
    };
    for at in (2..args.len()).step_by(2) {
        let value = args.get(at + 1).ok_or(Error::SYNTAX)?;
        let text = || String::from_utf8_lossy(value).into_owned();
        match &args.at(at).to_ascii_lowercase()[..] {
            b"id" => {
                let id = parse_u64(value).filter(|id| *id > 0 && *id <= i64::MAX as u64);
                let id = id.ok_or(Error::fixed("ERR client-id should be greater than 0"))?;
                filter.ids = Some(vec![id]);
            }
            b"type" => filter.class = Some(class_of(value)?),
            b"addr" => filter.addr = Some(text()),
            b"laddr" => filter.local = Some(text()),
            b"user" if users.get(value).is_none() => {
                return Err(Error::text(format!("ERR No such user '{}'", text())));
            }
            b"user" => filter.user = Some(value.to_vec()),
            b"skipme" => {
                filter.except = match &value.to_ascii_lowercase()[..] {
                    b"yes" => Some(me),
                    b"no" => None,
                    _ => return Err(Error::SYNTAX),
                };
            }
            b"maxage" => {
                let age = parse_i64(value)
                    .ok_or(Error::fixed("ERR maxage is not an integer or out of range"))?;
                let age = u64::try_from(age).ok().filter(|age| *age > 0);
                filter.age_secs =
                    Some(age.ok_or(Error::fixed("ERR maxage should be greater than 0"))?);
            }
            _ => return Err(Error::SYNTAX),
        }
    }
    Ok(filter)
}

fn write_answer(out: &mut Out, form: Form, mut sum: Answer) {
    let all = |lines: &[(u64, String)]| {
        let lines = lines.iter().map(|(_, line)| &line[..]);
        lines.collect::<String>()
    };
    match form {
        Form::Count => out.int(sum.count),
        Form::OkOrNobody if sum.count == 0 => out.error(&Error::fixed("ERR No such client")),
        // Tracking has begun by now, and digests are not written here.
        Form::Ok | Form::OkOrNobody | Form::Track(_) | Form::Digest => out.ok(),
        Form::Lines => {
            sum.lines.sort_unstable();
            out.verbatim(&all(&sum.lines));
        }
        Form::LinesOf(ids) => {
            let line_of = |id: &u64| sum.lines.iter().find(|(of, _)| of == id).cloned();
            let lines: Vec<_> = ids.iter().filter_map(line_of).collect();
            out.verbatim(&all(&lines));
        }
    }
}

const HELP: &[&str] = &[
    "CACHING (YES|NO)",
    "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "    * ID <client-id>",
    "      Kill connections by client id.",
    "    * MAXAGE <maxage>",
    "      Kill connections older than the specified age.",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are:",
    "    * LIB-NAME: the client lib name.",
    "    * LIB-VER: the client lib version.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
    "         [OPTIN] [OPTOUT] [NOLOOP]",
    "    Control server assisted client side caching.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
];
