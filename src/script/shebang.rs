//! The first line of a script that says what the script is.

use super::library::Flags;
use crate::resp::{Error, unquote};

/// Splits `#!lua flags=...` off the first line of a script. Without that line a script is what scripts
/// were before there were flags, and has none, not even an empty set.
///
/// # Errors
/// The reply of Redis.
pub fn split(source: &[u8]) -> Result<(&[u8], Option<Flags>), Error> {
    if !source.starts_with(b"#!") {
        return Ok((source, None));
    }
    let invalid = || Error::fixed("ERR Invalid script shebang");
    let end = source.iter().position(|byte| *byte == b'\n');
    // The line end stays, so that line numbers fit.
    let (line, code) = source.split_at(end.ok_or_else(invalid)?);
    let words = words(line).ok_or_else(invalid)?;
    let mut words = words.iter().map(|word| String::from_utf8_lossy(word));
    let engine = words.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(Error::text(format!(
            "ERR Unexpected engine in script shebang: {engine}"
        )));
    }
    let mut flags = Flags::default();
    for word in words {
        let Some(names) = word.strip_prefix("flags=") else {
            return Err(Error::text(format!(
                "ERR Unknown lua shebang option: {word}"
            )));
        };
        if names.is_empty() {
            continue;
        }
        for name in names.split(',') {
            if !flags.add(name) {
                return Err(Error::text(format!(
                    "ERR Unexpected flag in script shebang: {name}"
                )));
            }
        }
    }
    Ok((code, Some(flags)))
}

/// The words of a line; `None` if its quotes do not close.
pub fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let words = unquote(line)?;
    Some(words.as_args().iter().map(<[u8]>::to_vec).collect())
}
