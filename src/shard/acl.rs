//! ACL.

use std::io::Read;

use super::{conn::Conn, shared::lock, state::State};
use crate::{
    acl::{Asked, CATEGORIES, DEFAULT, Denied, Misfit, Selector, User},
    base::parse_i64,
    cmd::{self, Spec},
    resp::{Args, Error, Out},
};

const STAYS: Error = Error::fixed("ERR The 'default' user cannot be removed");
const BITS: Error = Error::fixed(
    "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
     4096",
);
/// Entries of ACL LOG that are shown if nobody says how many.
const SHOWN: usize = 10;

impl State {
    /// ACL.
    pub(super) fn acl(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>, may_wait: bool) {
        if let Err(error) = cmd::subcommand(spec, args) {
            return conn.out.error(&error);
        }
        let done = match &args.at(1).to_ascii_lowercase()[..] {
            b"setuser" => self.set_user(conn, args),
            b"deluser" => self.delete_users(conn, args),
            b"load" => self.use_acl_file(conn, true, may_wait),
            b"save" => self.use_acl_file(conn, false, may_wait),
            b"whoami" => {
                conn.out.bulk(conn.user.name());
                Ok(())
            }
            b"users" | b"list" => {
                self.list_users(&mut conn.out, args);
                Ok(())
            }
            b"getuser" => {
                match self.users.get(args.at(2)) {
                    Some(user) => write_user(&mut conn.out, user),
                    None => conn.out.null(),
                }
                Ok(())
            }
            b"cat" => write_category(&mut conn.out, args),
            b"genpass" => write_password(&mut conn.out, args),
            b"log" => self.acl_log(&mut conn.out, args),
            b"dryrun" => self.dry_run(&mut conn.out, args),
            _ => {
                cmd::help(&mut conn.out, spec);
                Ok(())
            }
        };
        if let Err(error) = done {
            conn.out.error(&error);
        }
    }

    fn set_user(&mut self, conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
        let rules = args.rest(3).iter();
        let changed = self
            .shared
            .change_users(|users| users.with(args.at(2), rules));
        changed.map_err(|why| why.error())?;
        self.heed_users(Some(conn));
        conn.out.ok();
        Ok(())
    }

    fn delete_users(&mut self, conn: &mut Conn, args: Args<'_>) -> Result<(), Error> {
        let names = args.rest(2).iter();
        if names.clone().any(|name| name == DEFAULT) {
            return Err(STAYS);
        }
        let mut deleted = 0;
        let done: Result<(), Error> = self.shared.change_users(|users| {
            let (users, count) = users.without(names);
            deleted = count;
            Ok(users)
        });
        done?;
        self.heed_users(Some(conn));
        conn.out.len_int(deleted);
        Ok(())
    }

    fn list_users(&self, out: &mut Out, args: Args<'_>) {
        let names_only = args.at(1).eq_ignore_ascii_case(b"users");
        out.array(self.users.iter().len());
        for user in self.users.iter() {
            match names_only {
                true => out.bulk(user.name()),
                false => out.bulk(&user.line()),
            }
        }
    }

    fn acl_log(&self, out: &mut Out, args: Args<'_>) -> Result<(), Error> {
        let mut log = lock(&self.shared.acl_log);
        let count = match args.get(2) {
            None => SHOWN,
            Some(word) if word.eq_ignore_ascii_case(b"reset") => {
                log.clear();
                out.ok();
                return Ok(());
            }
            Some(count) => parse_i64(count).ok_or(Error::NOT_INTEGER)?.max(0) as usize,
        };
        let entries = log.newest(count);
        out.array(entries.len());
        for entry in entries {
            out.map(7);
            out.bulk_str("count");
            out.int(entry.count as i64);
            for (name, text) in [
                ("reason", entry.reason.name().as_bytes()),
                ("context", entry.context.name().as_bytes()),
                ("object", &entry.object),
                ("username", &entry.user),
            ] {
                out.bulk_str(name);
                out.bulk(text);
            }
            out.bulk_str("age-seconds");
            out.double(self.now.saturating_sub(entry.at) as f64 / 1000.0);
            out.bulk_str("client-info");
            out.bulk_str(&entry.client);
        }
        Ok(())
    }

    fn dry_run(&self, out: &mut Out, args: Args<'_>) -> Result<(), Error> {
        let shown = |at: usize| String::from_utf8_lossy(args.at(at));
        let user = self.users.get(args.at(2));
        let user = user.ok_or_else(|| Error::text(format!("ERR User '{}' not found", shown(2))))?;
        let request = args.rest(3);
        let unknown = || Error::text(format!("ERR Command '{}' not found", shown(3)));
        let spec = self.table.find(request.at(0)).ok_or_else(unknown)?;
        if !spec.fits(request.len()) {
            return Err(Error::arity(spec.name));
        }
        let asked =
            Asked::of(spec, request)
                .and_then(Asked::fits)
                .map_err(|misfit| match misfit {
                    Misfit::Unknown(..) => unknown(),
                    Misfit::Arity(_) => misfit.error(),
                })?;
        let Err(denied) = user.check(&asked) else {
            out.ok();
            return Ok(());
        };
        let object = |at: usize| String::from_utf8_lossy(request.at(at));
        let what = match denied {
            Denied::Command => format!("run the '{}' command", asked.name()),
            Denied::Key(at) => format!("access the '{}' key", object(at)),
            Denied::Channel(at) => format!("access the '{}' channel", object(at)),
        };
        out.bulk_str(&format!("This user has no permissions to {what}"));
        Ok(())
    }
}

fn write_user(out: &mut Out, user: &User) {
    let (own, others) = user.described();
    out.map(6);
    out.bulk_str("flags");
    let flags = user.flags();
    out.set(flags.len());
    flags.iter().for_each(|flag| out.bulk_str(flag));
    out.bulk_str("passwords");
    let passwords = user.passwords();
    out.array(passwords.len());
    passwords.for_each(|password| out.bulk_str(&password));
    write_selector(out, own);
    out.bulk_str("selectors");
    out.array(others.len());
    for selector in others {
        out.map(3);
        write_selector(out, selector);
    }
}

fn write_selector(out: &mut Out, selector: &Selector) {
    for (name, text) in [
        ("commands", selector.commands_text()),
        ("keys", selector.keys_text()),
        ("channels", selector.channels_text(false)),
    ] {
        out.bulk_str(name);
        out.bulk(&text);
    }
}

fn write_category(out: &mut Out, args: Args<'_>) -> Result<(), Error> {
    let Some(wanted) = args.get(2) else {
        out.array(CATEGORIES.len());
        CATEGORIES.iter().for_each(|name| out.bulk_str(name));
        return Ok(());
    };
    let wanted = String::from_utf8_lossy(wanted);
    if args.len() > 3 {
        return Err(cmd::unknown_subcommand("acl", args.at(1)));
    }
    let is_wanted = |name: &str| name.eq_ignore_ascii_case(&wanted);
    if !CATEGORIES.iter().any(|name| is_wanted(name)) {
        return Err(Error::text(format!("ERR Unknown category '{wanted}'")));
    }
    let names = cmd::in_category(&wanted.to_lowercase());
    out.array(names.len());
    names.iter().for_each(|name| out.bulk_str(name));
    Ok(())
}

fn write_password(out: &mut Out, args: Args<'_>) -> Result<(), Error> {
    let bits = match args.get(2).map(parse_i64) {
        None => 256,
        Some(Some(bits @ 1..=4096)) => bits as usize,
        Some(Some(_)) => return Err(BITS),
        Some(None) => return Err(Error::NOT_INTEGER),
    };
    let digits = bits.div_ceil(4);
    let mut bytes = vec![0; digits.div_ceil(2)];
    // The node's own chance is good for spreading keys, not for secrets.
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Error::text(format!("ERR /dev/urandom: {error}")))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    out.bulk_str(&text[..digits]);
    Ok(())
}
