//! Replication without sockets and clocks: what a kevy peer's bytes mean, and what to do about them.
//!
//! - [`wire`] cuts the bytes of one stream into acknowledgements, pings, snapshot chunks and frames.
//! - [`link`] follows one stream of an upstream: handshake, positions, acks, time-outs, reconnects.
//! - [`source`] understands what replicas say to us.
//! - [`history`] keeps what they are sent.
//! - [`psync`] follows a Redis primary: its data set and its stream of commands.
//! - [`discover`] finds out what an upstream is, and which ports a kevy's streams are on.

pub mod discover;
pub mod history;
pub mod link;
pub mod psync;
pub mod source;
pub mod wire;

use crate::{
    base::{parse_f64, parse_i64},
    resp::Args,
};

pub use crate::base::Position;
pub use history::{History, Part};

/// What to show a primary that asks who we are: `masteruser` and `masterauth`.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Empty: the default user.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl Login {
    /// Appends the command that shows it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (user, password) = (self.user.as_bytes(), self.password.as_bytes());
        match user {
            b"" => write_command(out, &[b"AUTH", password]),
            _ => write_command(out, &[b"AUTH", user, password]),
        }
    }
}

/// Without the password, so that it gets into no log.
impl std::fmt::Debug for Login {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Login({:?})", self.user)
    }
}

/// Appends a request.
fn write_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend_from_slice(word);
        out.extend(b"\r\n");
    }
}

/// Is this a command that every kevy primary answers with an error and streams all the same? Its own
/// data did not change, so neither may ours.
pub fn kevy_refuses(args: Args<'_>) -> bool {
    let Some(name) = args.get(0) else {
        return false;
    };
    let has = |from: usize, words: &[&str]| {
        let mut options = args.rest(from).iter();
        options.any(|option| {
            words
                .iter()
                .any(|word| option.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    let is = |names: &[&str]| {
        names
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
    };
    match args.len() {
        4.. if is(&["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"]) => true,
        4.. if is(&["SET"]) => has(3, &["GET", "KEEPTTL", "EXAT", "PXAT"]),
        3.. if is(&["GETEX"]) => has(2, &["EXAT", "PXAT", "PERSIST"]),
        _ => false,
    }
}

/// What a kevy does besides this command: whoever adds a number to a field takes its deadline away, even
/// where the field holds none.
pub fn kevy_does_besides<'a>(args: &Args<'a>) -> Option<[&'a [u8]; 5]> {
    if args.len() != 4 {
        return None;
    }
    let is = |name: &str| args.at(0).eq_ignore_ascii_case(name.as_bytes());
    let adds = is("HINCRBY") && parse_i64(args.at(3)).is_some()
        || is("HINCRBYFLOAT") && parse_f64(args.at(3)).is_some();
    adds.then(|| [b"HPERSIST", args.at(1), b"FIELDS", b"1", args.at(2)])
}

#[cfg(test)]
mod tests {
    use super::kevy_refuses;
    use crate::resp::OwnedArgs;

    #[test]
    fn what_kevy_refuses_is_known_by_its_options() {
        let refuses = |line: &str| {
            kevy_refuses(OwnedArgs::copy(line.split(' ').map(str::as_bytes)).as_args())
        };
        for line in [
            "EXPIRE k 10 NX",
            "set k v get",
            "SET k v EX 5 KEEPTTL",
            "GETEX k PERSIST",
        ] {
            assert!(refuses(line), "{line}");
        }
        for line in [
            "EXPIRE k 10",
            "SET k get",
            "SET k v EX 5 NX",
            "GETEX k EX 5",
            "GETEX k",
            "DEL get",
        ] {
            assert!(!refuses(line), "{line}");
        }
    }
}
