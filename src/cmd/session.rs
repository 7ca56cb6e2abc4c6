//! Commands of the connection, the core and the node. Their rows are here, their work is done where
//! that state lives (`shard`).

use super::Spec;

/// A command that is not run on stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Verb {
    Ping,
}

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[Spec::session(
    "PING",
    -1,
    0,
    "Answers PONG or the given text",
    Verb::Ping,
)];
