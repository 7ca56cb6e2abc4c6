//! Who may run commands: AUTH, the password part of HELLO, and ACL. There is one user, `default`, with all
//! rights; it may have a password.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::{conn::Conn, shared::Tunables, state::State};
use crate::{
    base::parse_i64,
    cmd::{self, Run, Spec, Verb},
    resp::{Args, Error},
};

/// The only user.
const USER: &[u8] = b"default";

const NO_AUTH: Error = Error::fixed("NOAUTH Authentication required.");
const WRONG_PASS: Error =
    Error::fixed("WRONGPASS invalid username-password pair or user is disabled.");
const NO_PASSWORD: Error = Error::fixed(
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
     configuration is correct?",
);
const ONE_USER: Error = Error::fixed(
    "ERR this version of ringkeep has one user, 'default', with all rights; its password is set with \
     CONFIG SET requirepass",
);

/// ACL categories in the order of Redis.
const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

impl Tunables {
    /// May this user come in with this password?
    fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        user == USER && (self.password.is_empty() || same(self.password.as_bytes(), password))
    }
}

/// Compares in a time that does not tell where two passwords differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differ = one
        .iter()
        .zip(other)
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && differ == 0
}

impl State {
    /// The refusal for a client that has not shown the password, unless the command is one that all may
    /// call.
    #[cold]
    pub(super) fn who_are_you(&self, spec: &Spec) -> Option<Error> {
        let free = matches!(
            spec.run,
            Run::Session(Verb::Auth | Verb::Hello | Verb::Quit | Verb::Reset)
        );
        (!free && !self.tunables.password.is_empty()).then_some(NO_AUTH)
    }

    /// AUTH.
    pub(super) fn auth(&mut self, conn: &mut Conn, args: Args<'_>) {
        let (user, password) = match args.len() {
            2 if self.tunables.password.is_empty() => return conn.out.error(&NO_PASSWORD),
            2 => (USER, args.at(1)),
            3 => (args.at(1), args.at(2)),
            _ => return conn.out.error(&Error::SYNTAX),
        };
        match self.admit(conn, user, password) {
            Ok(()) => conn.out.ok(),
            Err(error) => conn.out.error(&error),
        }
    }

    /// Trusts a connection that shows the right password.
    pub(super) fn admit(
        &mut self,
        conn: &mut Conn,
        user: &[u8],
        password: &[u8],
    ) -> Result<(), Error> {
        if !self.tunables.admits(user, password) {
            return Err(WRONG_PASS);
        }
        conn.trusted = true;
        Ok(())
    }

    /// ACL.
    pub(super) fn acl(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>) {
        let sub = args.at(1).to_ascii_lowercase();
        if let b"setuser" | b"deluser" | b"load" | b"save" = &sub[..] {
            return conn.out.error(&ONE_USER);
        }
        if let Err(error) = cmd::subcommand(spec, args) {
            return conn.out.error(&error);
        }
        match &sub[..] {
            b"whoami" => conn.out.bulk(USER),
            b"users" => {
                conn.out.array(1);
                conn.out.bulk(USER);
            }
            b"list" => {
                let pass = match &self.tunables.password[..] {
                    "" => "nopass".to_string(),
                    password => format!("#{}", sha256(password)),
                };
                conn.out.array(1);
                conn.out
                    .bulk_str(&format!("user default on {pass} ~* &* +@all"));
            }
            b"getuser" if args.at(2) == USER => self.get_user(conn),
            b"getuser" => conn.out.null(),
            b"cat" => acl_cat(conn, args),
            b"genpass" => self.gen_pass(conn, args),
            b"log" => acl_log(conn, args),
            b"dryrun" => self.dry_run(conn, args),
            _ => cmd::help(&mut conn.out, spec),
        }
    }

    fn gen_pass(&mut self, conn: &mut Conn, args: Args<'_>) {
        let bits = match args.get(2).map(parse_i64) {
            None => 256,
            Some(Some(bits @ 1..=4096)) => bits as usize,
            Some(Some(_)) => {
                return conn.out.error(&Error::fixed(
                    "ERR ACL GENPASS argument must be the number of bits for the output password, a \
                     positive number up to 4096",
                ));
            }
            Some(None) => return conn.out.error(&Error::NOT_INTEGER),
        };
        let digits = bits.div_ceil(4);
        let mut bytes = vec![0; digits.div_ceil(2)];
        // The node's own chance is good for spreading keys, not for secrets.
        let read =
            std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
        match read {
            Ok(()) => conn.out.bulk_str(&hex(&bytes)[..digits]),
            Err(error) => conn
                .out
                .error(&Error::text(format!("ERR /dev/urandom: {error}"))),
        }
    }

    fn dry_run(&self, conn: &mut Conn, args: Args<'_>) {
        if args.at(2) != USER {
            let user = String::from_utf8_lossy(args.at(2)).into_owned();
            let text = format!("ERR User '{user}' not found");
            return conn.out.error(&Error::text(text));
        }
        match self.table.find(args.at(3)) {
            None => {
                let name = String::from_utf8_lossy(args.at(3)).into_owned();
                let text = format!("ERR Command '{name}' not found");
                conn.out.error(&Error::text(text));
            }
            Some(spec) if !spec.fits(args.len() - 3) => conn.out.error(&Error::arity(spec.name)),
            Some(_) => conn.out.ok(),
        }
    }

    fn get_user(&self, conn: &mut Conn) {
        let password = &self.tunables.password[..];
        let mut flags = vec!["on"];
        flags.extend(password.is_empty().then_some("nopass"));
        let out = &mut conn.out;
        out.map(6);
        out.bulk_str("flags");
        out.set(flags.len());
        flags.iter().for_each(|flag| out.bulk_str(flag));
        out.bulk_str("passwords");
        out.array(usize::from(!password.is_empty()));
        if !password.is_empty() {
            out.bulk_str(&sha256(password));
        }
        for (name, value) in [("commands", "+@all"), ("keys", "~*"), ("channels", "&*")] {
            out.bulk_str(name);
            out.bulk_str(value);
        }
        out.bulk_str("selectors");
        out.array(0);
    }
}

fn acl_cat(conn: &mut Conn, args: Args<'_>) {
    let Some(wanted) = args.get(2) else {
        conn.out.array(CATEGORIES.len());
        return CATEGORIES.iter().for_each(|name| conn.out.bulk_str(name));
    };
    let wanted = String::from_utf8_lossy(wanted);
    if args.len() > 3 {
        return conn.out.error(&Error::arity("acl|cat"));
    }
    if !CATEGORIES
        .iter()
        .any(|name| name.eq_ignore_ascii_case(&wanted))
    {
        let text = format!("ERR Unknown category '{wanted}'");
        return conn.out.error(&Error::text(text));
    }
    let names = cmd::in_category(&wanted.to_lowercase());
    conn.out.array(names.len());
    names.iter().for_each(|name| conn.out.bulk_str(name));
}

/// Nobody is ever refused but for a wrong password, and of that no record is kept.
fn acl_log(conn: &mut Conn, args: Args<'_>) {
    match args.get(2) {
        Some(word) if word.eq_ignore_ascii_case(b"reset") => conn.out.ok(),
        Some(count) if parse_i64(count).is_none() => conn.out.error(&Error::NOT_INTEGER),
        _ => conn.out.array(0),
    }
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_user_with_the_right_password_comes_in() {
        let mut tunables = Tunables::default();
        assert!(tunables.admits(b"default", b"anything"));
        assert!(!tunables.admits(b"other", b"anything"));
        tunables.password = "secret".into();
        for wrong in [&b""[..], b"secre", b"secrets", b"Secret"] {
            assert!(!tunables.admits(b"default", wrong));
        }
        assert!(tunables.admits(b"default", b"secret"));
    }
}
