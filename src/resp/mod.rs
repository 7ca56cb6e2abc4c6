//! RESP2 and RESP3: requests out of bytes, replies into bytes.

mod args;

pub use args::{Args, OwnedArgs, Span};
