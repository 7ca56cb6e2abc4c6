//! Who a connection is, and whether that one may do what it asks for.
//!
//! The users are the node's: [`Shared`] has the present set and counts how often it was changed, each
//! core keeps that set, and each connection its user. A core looks at the count before it runs what a
//! connection sent, so what was answered on one core holds on all.

use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Release},
};

use super::{
    conn::Conn,
    requests::Work,
    shared::{Shared, lock},
    state::State,
};
use crate::{
    acl::{Asked, Context, DEFAULT, Denied, Entry, Reason, User, Users},
    cmd::{Run, Spec, Verb},
    resp::{Args, Error},
};

const NO_AUTH: Error = Error::fixed("NOAUTH Authentication required.");
const WRONG_PASS: Error =
    Error::fixed("WRONGPASS invalid username-password pair or user is disabled.");
const NO_PASSWORD: Error = Error::fixed(
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
     configuration is correct?",
);
const NO_KEY: Error =
    Error::fixed("NOPERM this user has no permissions to access one of the keys used as arguments");
const NO_CHANNEL: Error = Error::fixed(
    "NOPERM this user has no permissions to access one of the channels used as arguments",
);

/// For whom a script runs that may not do everything.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub user: Arc<User>,
    /// As CLIENT LIST shows it.
    pub client: String,
}

impl Shared {
    /// Changes the users, for all cores.
    ///
    /// # Errors
    /// The change's own; nothing was changed then.
    pub fn change_users<E>(
        &self,
        change: impl FnOnce(&Users) -> Result<Users, E>,
    ) -> Result<(), E> {
        let mut users = lock(&self.users);
        *users = Arc::new(change(&users)?);
        self.users_version.fetch_add(1, Release);
        Ok(())
    }

    /// Gives the default user this one password; none if it is empty.
    pub fn set_default_password(&self, password: &str) {
        let rule = match password {
            "" => b"nopass".to_vec(),
            password => [b">", password.as_bytes()].concat(),
        };
        let rules = [&b"resetpass"[..], &rule];
        // These are rules at all times.
        let _ = self.change_users(|users| users.with(DEFAULT, rules.into_iter()));
    }
}

impl State {
    /// Takes over what became of the users. `current` is the connection being worked on, which is not in its
    /// place.
    #[inline]
    pub(super) fn heed_users(&mut self, current: Option<&mut Conn>) {
        if self.shared.users_version.load(Acquire) != self.users_version {
            self.read_users(current);
        }
    }

    #[cold]
    fn read_users(&mut self, current: Option<&mut Conn>) {
        // In this order: a change in between is found the next time.
        self.users_version = self.shared.users_version.load(Acquire);
        self.users = lock(&self.shared.users).clone();
        let sockets: Vec<_> = self.conns().map(|conn| conn.socket).collect();
        for socket in sockets {
            if let Some(mut conn) = self.take_conn(socket) {
                if !self.renew_user(&mut conn) {
                    self.drop_conn(&mut conn);
                }
                self.put_conn(conn);
            }
        }
        if let Some(conn) = current
            && !self.renew_user(conn)
        {
            conn.closing = true;
        }
    }

    /// Gives a connection its user as that is now; false if there is none any more, or if it listens to what
    /// that one may not hear.
    fn renew_user(&self, conn: &mut Conn) -> bool {
        let found = self.users.get(conn.user.name());
        let Some(user) = found.filter(|user| user.is_again(&conn.user)) else {
            return false;
        };
        if !Arc::ptr_eq(user, &conn.user) {
            let may = |channel: &Vec<u8>, is_pattern| user.allows_channel(channel, is_pattern);
            let mut channels = conn.channels.iter().chain(&conn.shard_channels);
            let hears = channels.all(|channel| may(channel, false));
            if !hears || !conn.patterns.iter().all(|pattern| may(pattern, true)) {
                return false;
            }
            conn.user = user.clone();
        }
        self.weigh(conn);
        true
    }

    /// Notes whether a connection's requests have to be judged.
    fn weigh(&self, conn: &mut Conn) {
        let may_ask = conn.trusted || self.users.is_open();
        conn.unlimited = may_ask && conn.user.is_unlimited();
    }

    /// Makes a connection one that has said nothing of itself.
    pub(super) fn forget_user(&self, conn: &mut Conn) {
        conn.user = self.users.default_user();
        conn.trusted = self.users.is_open();
        self.weigh(conn);
    }

    /// Lets a connection in, or not.
    pub(super) fn trust(&self, conn: &mut Conn, is_trusted: bool) {
        conn.trusted = is_trusted;
        self.weigh(conn);
    }

    /// May a connection ask for more than to be let in?
    pub(super) fn is_known(&self, conn: &Conn) -> bool {
        conn.trusted || self.users.is_open()
    }

    /// Why a request of a connection that may not do everything is refused.
    #[cold]
    pub(super) fn forbidden(
        &self,
        conn: &Conn,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Option<Error> {
        let is_free = matches!(
            spec.run,
            Run::Session(Verb::Auth | Verb::Hello | Verb::Quit | Verb::Reset)
        );
        if !is_free && !self.is_known(conn) {
            return Some(NO_AUTH);
        }
        let asked = match Asked::of(spec, args).and_then(Asked::fits) {
            Ok(asked) => asked,
            Err(misfit) => return Some(misfit.error()),
        };
        if let Err(denied) = conn.user.check(&asked) {
            let context = match conn.multi {
                Some(_) => Context::Multi,
                None => Context::TopLevel,
            };
            self.note_denied(conn, context, &asked, denied);
            return Some(match denied {
                Denied::Command => Error::text(format!(
                    "NOPERM this user has no permissions to run the '{}' command",
                    asked.name()
                )),
                Denied::Key(_) => NO_KEY,
                Denied::Channel(_) => NO_CHANNEL,
            });
        }
        // What is queued is looked at when it runs.
        match conn.multi {
            Some(_) => None,
            None => conn.user.check_sort(&asked).err(),
        }
    }

    /// The same for a request that EXEC is about to run.
    #[cold]
    pub(super) fn forbidden_in_exec(
        &self,
        conn: &Conn,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Option<Error> {
        let asked = match Asked::of(spec, args).and_then(Asked::fits) {
            Ok(asked) => asked,
            Err(misfit) => return Some(misfit.error()),
        };
        let Err(denied) = conn.user.check(&asked) else {
            return conn.user.check_sort(&asked).err();
        };
        self.note_denied(conn, Context::Multi, &asked, denied);
        let reason = match denied {
            Denied::Command => "no permission to execute the command or subcommand",
            Denied::Key(_) => "no permission to touch the specified keys",
            Denied::Channel(_) => "no permission to access one of the channels used as arguments",
        };
        Some(Error::text(format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC \
             call. This command is no longer allowed for the following reason: {reason}"
        )))
    }

    fn note_denied(&self, conn: &Conn, context: Context, asked: &Asked<'_>, denied: Denied) {
        let (reason, object) = asked.blamed(denied);
        let user = conn.user.name().to_vec();
        self.note_refusal(reason, context, object, user, self.client_line(conn));
    }

    /// Notes in ACL LOG what was refused to whom.
    pub(super) fn note_refusal(
        &self,
        reason: Reason,
        context: Context,
        object: Vec<u8>,
        user: Vec<u8>,
        client: String,
    ) {
        let entry = Entry {
            count: 1,
            reason,
            context,
            object,
            user,
            at: self.now,
            client: client.trim_end().to_string(),
        };
        lock(&self.shared.acl_log).note(entry, self.tunables.acl_log_len);
    }

    /// For whom a script that a connection calls runs; nothing if that one may do everything.
    pub(super) fn caller_of(&self, conn: &Conn) -> Option<Box<Caller>> {
        (!conn.unlimited).then(|| {
            Box::new(Caller {
                user: conn.user.clone(),
                client: self.client_line(conn),
            })
        })
    }

    /// The same for a request that may call none.
    #[inline]
    pub(super) fn script_caller(&self, conn: &Conn, work: Work) -> Option<Box<Caller>> {
        match work {
            Work::Script => self.caller_of(conn),
            Work::Store(_) => None,
        }
    }

    /// Notes what a script was refused.
    pub(super) fn note_script_refusals(&self, denied: Vec<(Reason, Vec<u8>)>) {
        let Some(caller) = &self.caller else {
            return;
        };
        for (reason, object) in denied {
            let (user, client) = (caller.user.name().to_vec(), caller.client.clone());
            self.note_refusal(reason, Context::Lua, object, user, client);
        }
    }

    /// AUTH.
    pub(super) fn auth(&mut self, conn: &mut Conn, args: Args<'_>) {
        let default = self.users.default_user();
        let (user, password) = match args.len() {
            2 if default.needs_no_password() => return conn.out.error(&NO_PASSWORD),
            2 => (DEFAULT, args.at(1)),
            3 => (args.at(1), args.at(2)),
            _ => return conn.out.error(&Error::SYNTAX),
        };
        match self.admit(conn, args.at(0), user, password) {
            Ok(()) => conn.out.ok(),
            Err(error) => conn.out.error(&error),
        }
    }

    /// Makes a connection that shows the right password one of this user; `by` is the command that shows it.
    pub(super) fn admit(
        &mut self,
        conn: &mut Conn,
        by: &[u8],
        name: &[u8],
        password: &[u8],
    ) -> Result<(), Error> {
        let found = self.users.get(name);
        let Some(user) = found.filter(|user| user.admits(password)).cloned() else {
            let context = match conn.multi.is_some() || self.runs_queue {
                true => Context::Multi,
                false => Context::TopLevel,
            };
            let client = self.client_line(conn);
            self.note_refusal(Reason::Auth, context, by.to_vec(), name.to_vec(), client);
            return Err(WRONG_PASS);
        };
        (conn.user, conn.trusted) = (user, true);
        self.weigh(conn);
        Ok(())
    }
}
