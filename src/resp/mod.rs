//! RESP2 and RESP3: requests out of bytes, replies into bytes.

mod args;
mod error;
mod out;
mod parse;

pub use args::{Args, OwnedArgs, Span};
pub use error::Error;
pub use out::{Mark, Out, Proto, SHARE_MIN};
pub use parse::{ParseLimits, Parser, ProtocolError, Step, peek_argument, unquote};
