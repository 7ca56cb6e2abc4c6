//! Logs of commands: the append-only files of Redis and Valkey, and those of kevy.
//!
//! [`LogReader`] hands out their commands, whatever form they are in; [`Manifest`] says which files a
//! Redis log is made of, [`ShardsMeta`] how a kevy directory is split. No input or output is done here.
//!
//! ```text
//! Redis     command*         RESP arrays back to back; a line "#TS:seconds" may stand between them;
//!                            MULTI and EXEC around what belongs together
//! kevy      "KEVYAOF1\n" or nothing, command*
//!           "KEVYAOF2\n", (length u32, CRC-32C u32, command)*, zeros
//!           one-word commands that begin with a zero byte: around what belongs together, and in
//!           front, which snapshot the log continues
//! ```

mod crc32c;
mod manifest;
mod reader;

pub use crc32c::crc32c;
pub use manifest::{Manifest, ManifestError, ShardsMeta};
pub use reader::{Entry, Family, LogError, LogFault, LogReader};
