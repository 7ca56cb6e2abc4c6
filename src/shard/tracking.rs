//! CLIENT TRACKING: which clients keep which keys, and how they hear that a key is no longer what they keep.
//!
//! The core that owns a key's shard remembers who read it, wherever the reader's connection lives, so a
//! write asks one table and tells only those who care. What a reader is told is written behind the replies
//! that it is still owed: a value can never arrive behind the news that it is out of date.

use std::collections::BTreeMap;

use uring::SocketId;

use super::{
    conn::Conn,
    message::{ClientAt, CoreId, Message},
    oddities::odd,
    state::State,
};
use crate::{
    base::parse_i64,
    resp::{Args, Error, Out, Proto},
};

/// The channel of those who are told by messages.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// How a client says which keys it keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Mode {
    /// All that it reads.
    #[default]
    Reads,
    /// What it reads right after CLIENT CACHING YES.
    OptIn,
    /// What it reads, but not right after CLIENT CACHING NO.
    OptOut,
    /// All keys with its prefixes.
    Broadcast,
}

/// CLIENT TRACKING of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracking {
    pub mode: Mode,
    pub prefixes: Vec<Vec<u8>>,
    /// It is not told of its own changes.
    no_loop: bool,
    /// Whom to tell instead: the number of a client and where it lives.
    redirect: Option<(u64, ClientAt)>,
    /// That client is gone.
    pub broken: bool,
    /// CLIENT CACHING was said for the next command.
    pub caching: bool,
}

impl Tracking {
    /// Are the keys of the next command that reads to be remembered?
    pub(super) fn remembers(&self) -> bool {
        match self.mode {
            Mode::Reads => true,
            Mode::OptIn => self.caching,
            Mode::OptOut => !self.caching,
            Mode::Broadcast => false,
        }
    }

    /// The number of the client that is told instead, or 0.
    pub(super) fn redirect_id(&self) -> u64 {
        self.redirect.map_or(0, |(id, _)| id)
    }
}

/// What is no longer valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// These keys.
    Keys(Vec<Vec<u8>>),
    /// Every key.
    All,
}

/// News for a client that tracks.
#[derive(Clone, Debug)]
pub struct News {
    /// Its connection.
    pub conn: SocketId,
    /// What to tell.
    pub what: Invalid,
    /// It comes from the table of prefixes.
    pub broadcast: bool,
    /// The client changed the key itself.
    pub own: bool,
}

/// What this core knows of clients that track.
#[derive(Default)]
pub(super) struct Tracked {
    /// Connections of this core that track.
    pub clients: usize,
    /// Who keeps which key, of shards that live here.
    keys: BTreeMap<Vec<u8>, Vec<ClientAt>>,
    /// All entries of `keys`.
    items: usize,
    /// The last key that was forgotten because there were too many.
    forgotten: Vec<u8>,
    /// Who wants to hear of which prefixes, on all cores.
    prefixes: BTreeMap<Vec<u8>, Prefix>,
    /// Keys of this turn wait in `prefixes`.
    has_broadcast: bool,
    /// News for connections of this core.
    pending: Vec<News>,
}

#[derive(Default)]
struct Prefix {
    /// With NOLOOP or without.
    clients: Vec<(ClientAt, bool)>,
    /// Keys changed in this turn, with the client that changed them last.
    keys: BTreeMap<Vec<u8>, Option<ClientAt>>,
}

impl Tracked {
    /// Keys, entries and prefixes, for INFO.
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.keys.len(), self.items, self.prefixes.len()]
    }

    fn remember(&mut self, key: &[u8], client: ClientAt) {
        let clients = match self.keys.get_mut(key) {
            Some(clients) => clients,
            None => self.keys.entry(key.to_vec()).or_default(),
        };
        if !clients.contains(&client) {
            clients.push(client);
            self.items += 1;
        }
    }

    fn forget(&mut self, key: &[u8]) -> Vec<ClientAt> {
        let clients = self.keys.remove(key).unwrap_or_default();
        self.items -= clients.len();
        clients
    }

    /// The next key to forget when there are too many: each has its turn.
    fn next_victim(&mut self) -> Option<Vec<u8>> {
        let behind = (
            std::ops::Bound::Excluded(&self.forgotten[..]),
            std::ops::Bound::Unbounded,
        );
        let next = self.keys.range::<[u8], _>(behind).next();
        let key = next.or_else(|| self.keys.iter().next())?.0.clone();
        self.forgotten.clone_from(&key);
        Some(key)
    }

    fn set_prefix(&mut self, prefix: &[u8], client: ClientAt, no_loop: bool, on: bool) {
        let entry = self.prefixes.entry(prefix.to_vec()).or_default();
        entry.clients.retain(|(other, _)| *other != client);
        if on {
            entry.clients.push((client, no_loop));
        } else if entry.clients.is_empty() {
            self.prefixes.remove(prefix);
        }
    }

    /// Notes a changed key for whoever wants to hear of its prefix.
    fn note(&mut self, key: &[u8], by: Option<ClientAt>) {
        for (prefix, entry) in &mut self.prefixes {
            if key.starts_with(prefix) {
                entry.keys.insert(key.to_vec(), by);
                self.has_broadcast = true;
            }
        }
    }

    /// Takes what was noted: for each client the keys that it has not changed itself, if that matters to it.
    fn take_noted(&mut self) -> Vec<(ClientAt, Vec<Vec<u8>>)> {
        let mut news = Vec::new();
        if !std::mem::take(&mut self.has_broadcast) {
            return news;
        }
        for entry in self.prefixes.values_mut() {
            let keys = std::mem::take(&mut entry.keys);
            for (client, no_loop) in &entry.clients {
                let told = keys
                    .iter()
                    .filter(|(_, by)| !no_loop || **by != Some(*client));
                let told: Vec<_> = told.map(|(key, _)| key.clone()).collect();
                if !told.is_empty() {
                    news.push((*client, told));
                }
            }
        }
        news
    }
}

impl State {
    /// Remembers that a client keeps a key of a shard that lives here.
    pub(super) fn remember_key(&mut self, key: &[u8], client: ClientAt) {
        self.tracked.remember(key, client);
        let limit = self.tunables.tracking_keys_max;
        if limit > 0
            && self.tracked.keys.len() > (limit / self.mesh.cores()).max(1)
            && let Some(key) = self.tracked.next_victim()
        {
            // Whoever keeps it must not think that it would be told of a change.
            self.tell_readers(&key, None);
        }
        self.note_tracking();
    }

    /// Brings what the fast path looks at up to date.
    fn note_tracking(&mut self) {
        self.homes.tracked = self.tracked.keys.len() + self.tracked.prefixes.len();
        let is_used = self.homes.tracked + self.tracked.clients > 0;
        if is_used {
            self.odd |= odd::TRACKED;
        } else {
            self.odd &= !odd::TRACKED;
        }
    }

    /// A key of a shard that lives here changed: tells all who keep it.
    pub(super) fn invalidate(&mut self, key: &[u8], by: Option<ClientAt>) {
        if self.homes.tracked == 0 {
            return;
        }
        self.tracked.note(key, by);
        self.tell_readers(key, by);
        self.note_tracking();
    }

    fn tell_readers(&mut self, key: &[u8], by: Option<ClientAt>) {
        for client in self.tracked.forget(key) {
            let news = News {
                conn: client.conn,
                what: Invalid::Keys(vec![key.to_vec()]),
                broadcast: false,
                own: by == Some(client),
            };
            self.send_news(client.core, news);
        }
    }

    fn send_news(&mut self, core: CoreId, news: News) {
        if core == self.me {
            self.tracked.pending.push(news);
        } else {
            self.mesh.send(core, Message::News(Box::new(news)));
        }
    }

    /// News of another core for a connection of this one.
    pub(super) fn on_news(&mut self, news: News) {
        self.tracked.pending.push(news);
    }

    /// The data set was emptied, or replaced: tells all cores.
    pub(super) fn flushed(&mut self) {
        self.tell_all(|| Message::Flushed);
        self.on_flushed();
    }

    /// The data set was emptied: all clients of this core that track are told.
    pub(super) fn on_flushed(&mut self) {
        self.tracked.keys.clear();
        self.tracked.items = 0;
        if self.tracked.clients > 0 {
            let all = self.clients.places.iter().flatten().map(|conn| conn.socket);
            let mut all: Vec<_> = all.collect();
            // The one that is worked on is not in its place.
            all.extend(
                self.acting
                    .filter(|acting| acting.client.core == self.me)
                    .map(|acting| acting.client.conn),
            );
            self.tracked
                .pending
                .extend(all.into_iter().map(|conn| News {
                    conn,
                    what: Invalid::All,
                    broadcast: false,
                    own: false,
                }));
        }
        self.note_tracking();
    }

    /// Sends what the prefixes gathered in this turn.
    pub(super) fn broadcast_invalid(&mut self) {
        for (client, keys) in self.tracked.take_noted() {
            let news = News {
                conn: client.conn,
                what: Invalid::Keys(keys),
                broadcast: true,
                own: false,
            };
            self.send_news(client.core, news);
        }
    }

    /// Writes pending news to their connections. `current` is the one being worked on, which is not in
    /// its place; its reply is complete.
    pub(super) fn deliver_news(&mut self, mut current: Option<&mut Conn>) {
        for news in std::mem::take(&mut self.tracked.pending) {
            let redirect = self.with_conn(news.conn, &mut current, |conn| tell(conn, &news));
            if let Some(Some(target)) = redirect {
                let source = ClientAt {
                    core: self.me,
                    conn: news.conn,
                };
                if target.core == self.me {
                    self.deliver_redirected(source, target.conn, &news.what, &mut current);
                } else {
                    let message = Message::Redirected(source, target.conn, news.what);
                    self.mesh.send(target.core, message);
                }
            }
        }
    }

    /// Writes news for one client to another one, which lives here.
    pub(super) fn deliver_redirected(
        &mut self,
        source: ClientAt,
        target: SocketId,
        what: &Invalid,
        current: &mut Option<&mut Conn>,
    ) {
        let told = self.with_conn(target, current, |conn| {
            if conn.out.proto == Proto::Three || conn.is_subscribed() {
                conn.tell(|out| write(out, what));
            }
        });
        if told.is_some() {
        } else if source.core == self.me {
            self.redirect_broken(source.conn, current);
        } else {
            self.mesh
                .send(source.core, Message::RedirectBroken(source.conn));
        }
    }

    /// The client that a connection redirects to is gone.
    pub(super) fn redirect_broken(&mut self, socket: SocketId, current: &mut Option<&mut Conn>) {
        self.with_conn(socket, current, |conn| {
            let Some(tracking) = &mut conn.tracking else {
                return;
            };
            tracking.broken = true;
            let id = tracking.redirect_id();
            if conn.out.proto == Proto::Three {
                conn.tell(|out| {
                    out.push(2);
                    out.bulk_str("tracking-redir-broken");
                    out.int(id as i64);
                });
            }
        });
    }

    /// Works on a connection of this core, be it in its place or the current one. One that reads too
    /// slowly to be told so much is closed.
    pub(super) fn with_conn<R>(
        &mut self,
        socket: SocketId,
        current: &mut Option<&mut Conn>,
        work: impl FnOnce(&mut Conn) -> R,
    ) -> Option<R> {
        if let Some(conn) = current
            && conn.socket == socket
        {
            return Some(work(conn));
        }
        let mut conn = self.take_conn(socket)?;
        let result = work(&mut conn);
        self.cut_if_owed_too_much(&mut conn);
        self.list(&mut conn);
        self.put_conn(conn);
        Some(result)
    }

    /// CLIENT TRACKING; `found` is where the client lives that it names, if there is such a client.
    pub(super) fn set_tracking(
        &mut self,
        conn: &mut Conn,
        options: Options,
        found: Option<ClientAt>,
    ) -> Result<(), Error> {
        let Some(wanted) = options.checked(conn, found)? else {
            self.end_tracking(conn);
            return Ok(());
        };
        let client = ClientAt {
            core: self.me,
            conn: conn.socket,
        };
        for prefix in &wanted.prefixes {
            self.tracked
                .set_prefix(prefix, client, wanted.no_loop, true);
        }
        self.tell_prefixes(conn.socket, &wanted.prefixes, wanted.no_loop, true);
        if conn.tracking.replace(Box::new(wanted)).is_none() {
            self.tracked.clients += 1;
        }
        self.note_tracking();
        Ok(())
    }

    /// Stops tracking. What other cores remember of the connection dies with the next change of each key.
    pub(super) fn end_tracking(&mut self, conn: &mut Conn) {
        let Some(tracking) = conn.tracking.take() else {
            return;
        };
        self.tracked.clients -= 1;
        let client = ClientAt {
            core: self.me,
            conn: conn.socket,
        };
        for prefix in &tracking.prefixes {
            self.tracked.set_prefix(prefix, client, false, false);
        }
        self.tell_prefixes(conn.socket, &tracking.prefixes, false, false);
        self.note_tracking();
    }

    /// Whoever sees the reply may rely on all cores knowing: messages are posted before replies leave, and
    /// read before requests.
    fn tell_prefixes(&mut self, conn: SocketId, prefixes: &[Vec<u8>], no_loop: bool, on: bool) {
        if prefixes.is_empty() {
            return;
        }
        self.tell_all(|| Message::Prefixes {
            conn,
            prefixes: prefixes.to_vec(),
            no_loop,
            on,
        });
    }

    /// The prefixes of a connection of another core.
    pub(super) fn on_prefixes(
        &mut self,
        client: ClientAt,
        prefixes: &[Vec<u8>],
        no_loop: bool,
        on: bool,
    ) {
        for prefix in prefixes {
            self.tracked.set_prefix(prefix, client, no_loop, on);
        }
        self.note_tracking();
    }
}

/// Tells a connection that tracks, or says whom to tell instead.
fn tell(conn: &mut Conn, news: &News) -> Option<ClientAt> {
    let tracking = conn.tracking.as_ref()?;
    let for_mode =
        news.what == Invalid::All || news.broadcast == (tracking.mode == Mode::Broadcast);
    if !for_mode || (news.own && tracking.no_loop) {
        return None;
    }
    if let Some((_, target)) = tracking.redirect {
        return Some(target);
    }
    if conn.out.proto == Proto::Three {
        conn.tell(|out| write(out, &news.what));
    }
    None
}

fn write(out: &mut Out, what: &Invalid) {
    if out.proto == Proto::Three {
        out.push(2);
        out.bulk_str("invalidate");
    } else {
        out.push(3);
        out.bulk_str("message");
        out.bulk(CHANNEL);
    }
    match what {
        Invalid::Keys(keys) => {
            out.array(keys.len());
            keys.iter().for_each(|key| out.bulk(key));
        }
        Invalid::All => out.null(),
    }
}

/// The arguments of CLIENT TRACKING.
#[derive(Default)]
pub(super) struct Options {
    on: bool,
    pub redirect: Option<u64>,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    prefixes: Vec<Vec<u8>>,
}

impl Options {
    pub(super) fn read(args: Args<'_>) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut at = 3;
        while let Some(option) = args.get(at) {
            let value = args.get(at + 1);
            match (&option.to_ascii_lowercase()[..], value) {
                (b"redirect", Some(id)) => {
                    if options.redirect.is_some() {
                        let text = "ERR A client can only redirect to a single other client";
                        return Err(Error::fixed(text));
                    }
                    let id = parse_i64(id).ok_or(Error::NOT_INTEGER)?;
                    options.redirect = Some(u64::try_from(id).unwrap_or(0));
                    at += 1;
                }
                (b"bcast", _) => options.broadcast = true,
                (b"optin", _) => options.opt_in = true,
                (b"optout", _) => options.opt_out = true,
                (b"noloop", _) => options.no_loop = true,
                (b"prefix", Some(prefix)) => {
                    options.prefixes.push(prefix.to_vec());
                    at += 1;
                }
                _ => return Err(Error::SYNTAX),
            }
            at += 1;
        }
        match &args.at(2).to_ascii_lowercase()[..] {
            b"on" => options.on = true,
            b"off" => {}
            _ => return Err(Error::SYNTAX),
        }
        Ok(options)
    }

    /// Holds the options beside each other and what the connection does already; `None` to stop.
    fn checked(self, conn: &Conn, found: Option<ClientAt>) -> Result<Option<Tracking>, Error> {
        let redirect = match (self.redirect, found) {
            (None, _) => None,
            (Some(id), Some(at)) => Some((id, at)),
            (Some(_), None) => {
                let text = "ERR The client ID you want redirect to does not exist";
                return Err(Error::fixed(text));
            }
        };
        if !self.on {
            return Ok(None);
        }
        if !self.broadcast && !self.prefixes.is_empty() {
            return Err(Error::fixed(
                "ERR PREFIX option requires BCAST mode to be enabled",
            ));
        }
        let before = conn.tracking.as_deref();
        if before.is_some_and(|before| (before.mode == Mode::Broadcast) != self.broadcast) {
            return Err(Error::fixed(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then \
                 re-enabling it with a different mode.",
            ));
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err(Error::fixed(
                "ERR OPTIN and OPTOUT are not compatible with BCAST",
            ));
        }
        if self.opt_in && self.opt_out {
            return Err(Error::fixed(
                "ERR You can't specify both OPTIN mode and OPTOUT mode",
            ));
        }
        let was = |mode| before.is_some_and(|before| before.mode == mode);
        if (self.opt_in && was(Mode::OptOut)) || (self.opt_out && was(Mode::OptIn)) {
            return Err(Error::fixed(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then \
                 re-enabling it with a different mode.",
            ));
        }
        let names_prefixes = !self.prefixes.is_empty();
        let mut prefixes = before
            .map(|before| before.prefixes.clone())
            .unwrap_or_default();
        if self.broadcast {
            check_prefixes(&self.prefixes, &prefixes)?;
            prefixes.extend(self.prefixes);
            if !names_prefixes {
                prefixes.push(Vec::new());
            }
            prefixes.sort();
            prefixes.dedup();
        }
        Ok(Some(Tracking {
            mode: match () {
                _ if self.broadcast => Mode::Broadcast,
                _ if self.opt_in => Mode::OptIn,
                _ if self.opt_out => Mode::OptOut,
                _ => Mode::Reads,
            },
            prefixes,
            no_loop: self.no_loop,
            redirect,
            broken: false,
            caching: false,
        }))
    }
}

/// No key may have two of a client's prefixes.
fn check_prefixes(new: &[Vec<u8>], old: &[Vec<u8>]) -> Result<(), Error> {
    let overlap = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
    let error = |of: &[u8], kind: &str, with: &[u8]| {
        Error::text(format!(
            "ERR Prefix '{}' overlaps with {kind} prefix '{}'. Prefixes for a single client must not \
             overlap.",
            String::from_utf8_lossy(of),
            String::from_utf8_lossy(with)
        ))
    };
    for (at, prefix) in new.iter().enumerate() {
        if let Some(other) = old.iter().find(|other| overlap(other, prefix)) {
            return Err(error(prefix, "an existing", other));
        }
        if let Some(other) = new[at + 1..].iter().find(|other| overlap(other, prefix)) {
            return Err(error(prefix, "another provided", other));
        }
    }
    Ok(())
}

/// CLIENT CACHING.
pub(super) fn set_caching(conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
    let mode = conn.tracking.as_ref().map(|tracking| tracking.mode);
    let Some(tracking) = &mut conn.tracking else {
        return Err(Error::fixed(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT \
             mode enabled",
        ));
    };
    match (&args.at(2).to_ascii_lowercase()[..], mode) {
        (b"yes", Some(Mode::OptIn)) | (b"no", Some(Mode::OptOut)) => tracking.caching = true,
        (b"yes", _) => {
            return Err(Error::fixed(
                "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            ));
        }
        (b"no", _) => {
            return Err(Error::fixed(
                "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            ));
        }
        _ => return Err(Error::SYNTAX),
    }
    conn.out.ok();
    Ok(())
}

/// CLIENT TRACKINGINFO.
pub(super) fn tracking_info(conn: &mut Conn) {
    let tracking = conn.tracking.as_deref();
    let flags: Vec<&str> = match tracking {
        None => vec!["off"],
        Some(tracking) => [
            (true, "on"),
            (tracking.mode == Mode::Broadcast, "bcast"),
            (tracking.mode == Mode::OptIn, "optin"),
            (
                tracking.mode == Mode::OptIn && tracking.caching,
                "caching-yes",
            ),
            (tracking.mode == Mode::OptOut, "optout"),
            (
                tracking.mode == Mode::OptOut && tracking.caching,
                "caching-no",
            ),
            (tracking.no_loop, "noloop"),
            (tracking.broken, "broken_redirect"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
        .collect(),
    };
    conn.out.map(3);
    conn.out.bulk_str("flags");
    conn.out.set(flags.len());
    flags.iter().for_each(|flag| conn.out.bulk_str(flag));
    conn.out.bulk_str("redirect");
    conn.out
        .int(tracking.map_or(-1, |tracking| tracking.redirect_id() as i64));
    conn.out.bulk_str("prefixes");
    let prefixes = tracking
        .map(|tracking| &tracking.prefixes[..])
        .unwrap_or_default();
    conn.out.array(prefixes.len());
    prefixes.iter().for_each(|prefix| conn.out.bulk(prefix));
}
