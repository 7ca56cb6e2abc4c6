//! Error replies: one table of the texts that clients know.

use std::borrow::Cow;

/// An error reply without the leading `-` and the line end. The first word is the code that client
/// libraries branch on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error(Cow<'static, str>);

impl Error {
    /// The key holds another type.
    pub const WRONG_TYPE: Error =
        Error::fixed("WRONGTYPE Operation against a key holding the wrong kind of value");
    /// The arguments do not fit the command's form.
    pub const SYNTAX: Error = Error::fixed("ERR syntax error");
    /// An argument or value is no 64-bit integer.
    pub const NOT_INTEGER: Error = Error::fixed("ERR value is not an integer or out of range");
    /// An integer argument needs more than 32 bits.
    pub const NOT_32_BITS: Error =
        Error::fixed("ERR value is out of range, value must between -2147483648 and 2147483647");
    /// An argument or value is no float.
    pub const NOT_FLOAT: Error = Error::fixed("ERR value is not a valid float");
    /// The named key must exist.
    pub const NO_SUCH_KEY: Error = Error::fixed("ERR no such key");
    /// A list index past the end.
    pub const INDEX_RANGE: Error = Error::fixed("ERR index out of range");
    /// An argument that must be positive is not.
    pub const NOT_POSITIVE: Error = Error::fixed("ERR value is out of range, must be positive");
    /// INCR and family went past 64 bits.
    pub const OVERFLOW: Error = Error::fixed("ERR increment or decrement would overflow");
    /// INCRBYFLOAT and family left the finite numbers.
    pub const NAN_OR_INFINITY: Error = Error::fixed("ERR increment would produce NaN or Infinity");
    /// A string would grow past the bulk limit.
    pub const STRING_TOO_LONG: Error =
        Error::fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    /// A timeout argument is no number.
    pub const TIMEOUT_NOT_FLOAT: Error = Error::fixed("ERR timeout is not a float or out of range");
    /// A timeout argument is negative.
    pub const TIMEOUT_NEGATIVE: Error = Error::fixed("ERR timeout is negative");
    /// A cursor argument is no number.
    pub const INVALID_CURSOR: Error = Error::fixed("ERR invalid cursor");

    /// An error with a text known when the program was built.
    pub const fn fixed(text: &'static str) -> Error {
        Error(Cow::Borrowed(text))
    }

    /// An error whose text names something of the request. An error reply is one line: line breaks at
    /// the end go, others become spaces.
    pub fn text(text: String) -> Error {
        let line = text.trim_end_matches(['\r', '\n']);
        Error(Cow::Owned(line.replace(['\r', '\n'], " ")))
    }

    /// Too few or too many arguments for `command`.
    pub fn arity(command: &str) -> Error {
        Error::text(format!(
            "ERR wrong number of arguments for '{}' command",
            command.to_lowercase()
        ))
    }

    /// An expiry that is no positive time in range.
    pub fn invalid_expire(command: &str) -> Error {
        Error::text(format!(
            "ERR invalid expire time in '{}' command",
            command.to_lowercase()
        ))
    }

    /// The whole line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
