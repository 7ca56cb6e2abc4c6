//! What the two nodes say: `REPL.FAILOVER` with words, sent to the client port of the target, and its
//! replies.
//!
//! ```text
//! ASK id epoch forced g0 o0 g1 o1 ...    READY g0 o0 ... | REFUSED reason
//! GRANT id epoch                         PROMOTED epoch  | REFUSED reason
//! REVOKE id                              PROMOTED epoch  | REVOKED
//! ```
//!
//! `id` is 16 hexadecimal digits, `forced` 0 or 1; `g` and `o` are generation and next offset of each of the
//! old primary's streams. Replies are simple strings.

use super::Id;
use crate::{
    base::{Position, parse_u64},
    resp::Args,
};

/// The name of the command.
pub const NAME: &str = "REPL.FAILOVER";

/// The most streams that a node has.
const STREAMS_MAX: usize = 1024;

/// The old primary speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Say {
    /// Could you be the primary of this epoch, from this frontier on?
    Ask {
        /// The failover.
        id: Id,
        /// The epoch that would begin.
        epoch: u64,
        /// It may lack what is below the frontier.
        forced: bool,
        /// Where the streams stand.
        frontier: Vec<Position>,
    },
    /// You are.
    Grant {
        /// The failover.
        id: Id,
        /// The epoch.
        epoch: u64,
    },
    /// You are not to be; or are you already?
    Revoke {
        /// The failover.
        id: Id,
    },
}

/// The target answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It could be, and has this.
    Ready(Vec<Position>),
    /// It is the primary of this epoch.
    Promoted(u64),
    /// It is not, and never will be by this failover.
    Refused(String),
    /// The same, because it was told so.
    Revoked,
}

impl Say {
    /// The failover that it is about.
    pub fn id(&self) -> Id {
        match self {
            Say::Ask { id, .. } | Say::Grant { id, .. } | Say::Revoke { id } => *id,
        }
    }

    /// The words of the command, its name first.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![NAME.to_string()];
        match self {
            Say::Ask {
                id,
                epoch,
                forced,
                frontier,
            } => {
                let forced = u8::from(*forced).to_string();
                words.extend(["ASK".into(), id.to_string(), epoch.to_string(), forced]);
                words.extend(numbers(frontier));
            }
            Say::Grant { id, epoch } => {
                words.extend(["GRANT".into(), id.to_string(), epoch.to_string()]);
            }
            Say::Revoke { id } => words.extend(["REVOKE".into(), id.to_string()]),
        }
        words
    }

    /// Reads the command.
    pub fn parse(args: Args<'_>) -> Option<Say> {
        let id = Id::parse(args.get(2)?)?;
        let epoch = |at: usize| {
            args.get(at)
                .and_then(parse_u64)
                .filter(|epoch| *epoch < 1 << 62)
        };
        let word = args.at(1).to_ascii_uppercase();
        match (&word[..], args.len()) {
            (b"ASK", 7..) => Some(Say::Ask {
                id,
                epoch: epoch(3)?,
                forced: match args.at(4) {
                    b"0" => false,
                    b"1" => true,
                    _ => return None,
                },
                frontier: positions(args.rest(5).iter())?,
            }),
            (b"GRANT", 4) => Some(Say::Grant {
                id,
                epoch: epoch(3)?,
            }),
            (b"REVOKE", 3) => Some(Say::Revoke { id }),
            _ => None,
        }
    }
}

impl Answer {
    /// The reply's text.
    pub fn text(&self) -> String {
        match self {
            Answer::Ready(at) => {
                let words: Vec<String> = numbers(at).collect();
                format!("READY {}", words.join(" "))
            }
            Answer::Promoted(epoch) => format!("PROMOTED {epoch}"),
            Answer::Refused(reason) => format!("REFUSED {reason}"),
            Answer::Revoked => "REVOKED".into(),
        }
    }

    /// Reads it.
    pub fn parse(text: &str) -> Option<Answer> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "READY" => {
                let words = rest.split_ascii_whitespace().map(str::as_bytes);
                Some(Answer::Ready(positions(words)?))
            }
            "PROMOTED" => parse_u64(rest.as_bytes()).map(Answer::Promoted),
            "REFUSED" => Some(Answer::Refused(rest.into())),
            "REVOKED" if rest.is_empty() => Some(Answer::Revoked),
            _ => None,
        }
    }
}

fn numbers(at: &[Position]) -> impl Iterator<Item = String> {
    let pairs = at.iter().flat_map(|at| [at.generation, at.offset]);
    pairs.map(|number| number.to_string())
}

fn positions<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Position>> {
    let numbers: Option<Vec<u64>> = words.take(2 * STREAMS_MAX + 1).map(parse_u64).collect();
    let numbers = numbers.filter(|numbers| {
        numbers.len().is_multiple_of(2) && (2..=2 * STREAMS_MAX).contains(&numbers.len())
    })?;
    let pairs = numbers.chunks_exact(2);
    let at = pairs.map(|pair| Position {
        generation: pair[0],
        offset: pair[1],
    });
    Some(at.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::OwnedArgs;

    fn at(generation: u64, offset: u64) -> Position {
        Position { generation, offset }
    }

    #[test]
    fn what_is_said_is_understood() {
        let id = Id(0x12);
        let frontier = vec![at(7, 8), at(9, 10)];
        for say in [
            Say::Ask {
                id,
                epoch: 3,
                forced: true,
                frontier: frontier.clone(),
            },
            Say::Grant { id, epoch: 3 },
            Say::Revoke { id },
        ] {
            let words = say.words();
            let args = OwnedArgs::copy(words.iter().map(String::as_bytes));
            assert_eq!(Say::parse(args.as_args()), Some(say));
        }
        for answer in [
            Answer::Ready(frontier),
            Answer::Promoted(3),
            Answer::Refused("no room".into()),
            Answer::Revoked,
        ] {
            assert_eq!(Answer::parse(&answer.text()), Some(answer));
        }
    }

    #[test]
    fn nonsense_is_not() {
        for line in [
            "REPL.FAILOVER GRANT 12 3",
            "REPL.FAILOVER GRANT 0000000000000012 x",
            "REPL.FAILOVER GRANT 0000000000000012 9999999999999999999",
            "REPL.FAILOVER ASK 0000000000000012 3 2 1 1",
            "REPL.FAILOVER ASK 0000000000000012 3 1 1 1 1",
            "REPL.FAILOVER ASK 0000000000000012 3 1",
            "REPL.FAILOVER REVOKE 0000000000000012 1",
            "REPL.FAILOVER REVOKE",
        ] {
            let args = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
            assert_eq!(Say::parse(args.as_args()), None, "{line}");
        }
        for text in [
            "",
            "OK",
            "READY",
            "READY 1",
            "PROMOTED",
            "PROMOTED x",
            "REVOKED 1",
        ] {
            assert_eq!(Answer::parse(text), None, "{text}");
        }
    }
}
