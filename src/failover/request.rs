//! The FAILOVER command: forms and error texts of redis-server 7.0.15, kevy's short form, and STATUS.

use crate::{
    base::{Ms, parse_i64, parse_u64},
    resp::{Args, Error},
};

/// Where a node takes clients.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// Host or address.
    pub host: String,
    /// Client port.
    pub port: u16,
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Begin.
    Begin(Request),
    /// The same, to the member of elections with this name.
    BeginTo(String, Request),
    /// Undo what was begun; with `true` also behind the decision: the operator says that the target is not
    /// and will not be a primary.
    Abort(bool),
    /// Tell how it stands.
    Status,
}

/// A failover.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// To whom; otherwise to the first replica that has everything.
    pub to: Option<Place>,
    /// Once the time is up, to a target that lacks writes, too.
    pub force: bool,
    /// How long the target may take to have everything.
    pub timeout: Option<Ms>,
    /// The target must have everything on its disk; otherwise it must if it says what it has there.
    pub durable: Option<bool>,
}

/// The reply to FORCE without what it needs.
pub const FORCE_NEEDS: Error =
    Error::fixed("ERR FAILOVER with force option requires both a timeout and target HOST and IP.");
/// The reply where nobody follows from the place that is named.
pub const NO_REPLICA: Error = Error::fixed("ERR FAILOVER target HOST and PORT is not a replica.");
const TIMEOUT_ZERO: Error = Error::fixed("ERR FAILOVER timeout must be greater than 0");

/// Reads the command.
///
/// # Errors
/// As redis-server says it.
pub fn parse(args: Args<'_>) -> Result<Command, Error> {
    let is = |at: usize, word: &str| args.at(at).eq_ignore_ascii_case(word.as_bytes());
    if args.len() == 2 && is(1, "status") {
        return Ok(Command::Status);
    }
    let mut request = Request::default();
    let (mut aborts, mut node) = (None, None);
    let mut at = 1;
    while at < args.len() {
        if is(at, "abort") && aborts.is_none() && at == 1 {
            aborts = Some(false);
            at += 1;
        } else if is(at, "timeout") && at + 1 < args.len() && request.timeout.is_none() {
            let timeout = parse_i64(args.at(at + 1)).ok_or(Error::NOT_INTEGER)?;
            if timeout <= 0 {
                return Err(TIMEOUT_ZERO);
            }
            request.timeout = Some(timeout as Ms);
            at += 2;
        } else if is(at, "force") && aborts == Some(false) && at == 2 {
            aborts = Some(true);
            at += 1;
        } else if is(at, "force") && !request.force {
            request.force = true;
            at += 1;
        } else if is(at, "durable") && at + 1 < args.len() && request.durable.is_none() {
            request.durable = Some(match () {
                () if is(at + 1, "yes") => true,
                () if is(at + 1, "no") => false,
                () => return Err(Error::SYNTAX),
            });
            at += 2;
        } else if is(at, "to") && is(at + 1, "node") && at + 2 < args.len() && node.is_none() {
            // Redis has no such form. A machine that is called "node" is to be had by its address.
            node = Some(String::from_utf8_lossy(args.at(at + 2)).into_owned());
            at += 3;
        } else if is(at, "to") && at + 2 < args.len() && request.to.is_none() {
            request.to = Some(place(args.at(at + 1), args.at(at + 2))?);
            at += 3;
        } else if at == 1 && args.len() > 2 && parse_u64(args.at(2)).is_some() {
            // As kevy has it: the target comes first and without a word before it.
            request.to = Some(place(args.at(1), args.at(2))?);
            at += 2;
        } else {
            return Err(Error::SYNTAX);
        }
    }
    if let Some(force) = aborts {
        return match request == Request::default() && node.is_none() {
            true => Ok(Command::Abort(force)),
            false => Err(Error::SYNTAX),
        };
    }
    match node {
        None => Ok(Command::Begin(request)),
        Some(_) if request.to.is_some() => Err(Error::SYNTAX),
        Some(node) => Ok(Command::BeginTo(node, request)),
    }
}

fn place(host: &[u8], port: &[u8]) -> Result<Place, Error> {
    let port = parse_i64(port).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or(Error::NOT_INTEGER)?;
    let host = String::from_utf8_lossy(host).into_owned();
    Ok(Place { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::OwnedArgs;

    fn read(line: &str) -> Result<Command, String> {
        let args = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
        parse(args.as_args()).map_err(|error| error.as_str().to_string())
    }

    fn to(host: &str, port: u16) -> Option<Place> {
        let host = host.into();
        Some(Place { host, port })
    }

    #[test]
    fn a_member_is_named() {
        let request = Request {
            timeout: Some(300),
            ..Request::default()
        };
        let wanted = Ok(Command::BeginTo("a".into(), request));
        assert_eq!(read("FAILOVER TO NODE a TIMEOUT 300"), wanted);
        assert_eq!(read("failover timeout 300 to node a"), wanted);
    }

    #[test]
    fn all_forms_are_read() {
        let begin = |request| Ok(Command::Begin(request));
        assert_eq!(read("FAILOVER"), begin(Request::default()));
        assert_eq!(read("FAILOVER STATUS"), Ok(Command::Status));
        assert_eq!(read("FAILOVER ABORT"), Ok(Command::Abort(false)));
        assert_eq!(read("FAILOVER abort force"), Ok(Command::Abort(true)));
        let whole = Request {
            to: to("a", 7),
            force: true,
            timeout: Some(300),
            durable: Some(true),
        };
        for line in [
            "FAILOVER TO a 7 FORCE TIMEOUT 300 DURABLE yes",
            "failover durable YES timeout 300 to a 7 force",
            "FAILOVER a 7 FORCE TIMEOUT 300 DURABLE yes",
        ] {
            assert_eq!(read(line), begin(whole.clone()), "{line}");
        }
    }

    #[test]
    fn errors_are_those_of_redis() {
        for (line, wanted) in [
            (
                "FAILOVER TO a x",
                "ERR value is not an integer or out of range",
            ),
            (
                "FAILOVER TO a 70000",
                "ERR value is not an integer or out of range",
            ),
            (
                "FAILOVER TIMEOUT x",
                "ERR value is not an integer or out of range",
            ),
            (
                "FAILOVER TIMEOUT 0",
                "ERR FAILOVER timeout must be greater than 0",
            ),
            (
                "FAILOVER TIMEOUT -5",
                "ERR FAILOVER timeout must be greater than 0",
            ),
            ("FAILOVER ABORT TIMEOUT 5", "ERR syntax error"),
            ("FAILOVER ABORT TO a 1", "ERR syntax error"),
            ("FAILOVER TO a", "ERR syntax error"),
            ("FAILOVER TO NODE", "ERR syntax error"),
            (
                "FAILOVER TO NODE a TO NODE b",
                "ERR value is not an integer or out of range",
            ),
            ("FAILOVER TO NODE a TO b 7", "ERR syntax error"),
            ("FAILOVER ABORT TO NODE a", "ERR syntax error"),
            ("FAILOVER TIMEOUT", "ERR syntax error"),
            ("FAILOVER NOW", "ERR syntax error"),
            ("FAILOVER FORCE FORCE", "ERR syntax error"),
            ("FAILOVER DURABLE maybe", "ERR syntax error"),
        ] {
            assert_eq!(read(line), Err(wanted.into()), "{line}");
        }
    }
}
