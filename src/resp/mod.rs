//! RESP2 and RESP3: requests out of bytes, replies into bytes.

mod args;
mod error;
mod out;

pub use args::{Args, OwnedArgs, Span};
pub use error::Error;
pub use out::{Mark, Out, Proto, SHARE_MIN};
