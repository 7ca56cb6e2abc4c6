//! Commands out of a log.

use super::crc32c;
use crate::resp::{Args, ParseLimits, Parser, ProtocolError, Step};

/// Longest command: what spans can address.
const COMMAND_MAX: usize = u32::MAX as usize;
/// Longest record of kevy.
const RECORD_MAX: u32 = 1 << 30;
const RECORD_HEAD: usize = 8;

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Redis or Valkey.
    Redis,
    /// kevy of any version.
    Kevy,
}

/// A part of a log.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// A command.
    Command(Args<'a>),
    /// What follows up to [`Entry::Commit`] is to be applied whole or not at all.
    Begin,
    /// The end of it.
    Commit,
    /// The log continues the snapshot with this number; with 0 it stands alone.
    Base(u64),
    /// When the next commands were run, in Unix seconds.
    Time(u64),
    /// The log ends inside of a part, which was being written when the server died: so many bytes of it
    /// are there. The last entry.
    Torn(u64),
}

/// What is wrong with a log, and where. Nothing behind it can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogError {
    /// Where the part begins.
    pub at: u64,
    /// What is wrong with it.
    pub fault: LogFault,
}

/// What is wrong with a part of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogFault {
    /// Something else than a command.
    NoCommand,
    /// A command that breaks the rules of its form.
    Command(ProtocolError),
    /// A command or record that is too long.
    TooLong,
    /// The checksum of a record is another one.
    Sum {
        /// The one that stands in the log.
        stored: u32,
        /// The one that the bytes have.
        computed: u32,
    },
    /// A record whose command does not end with it.
    Uneven,
    /// Zeros, with something else behind them.
    Gap,
    /// It does not begin as a log does that is known.
    NoLog,
}

impl std::fmt::Display for LogError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.at;
        match &self.fault {
            LogFault::NoCommand => write!(out, "byte {at}: no command begins like this"),
            LogFault::Command(error) => {
                let text = error.reply();
                let text = text.as_str().trim_start_matches("ERR Protocol error: ");
                write!(out, "byte {at}: damaged command: {text}")
            }
            LogFault::TooLong => write!(out, "byte {at}: longer than any command"),
            LogFault::Sum { stored, computed } => write!(
                out,
                "byte {at}: the checksum of the record is {stored:08x}, that of its bytes is \
                 {computed:08x}"
            ),
            LogFault::Uneven => write!(out, "byte {at}: the record is not one command"),
            LogFault::Gap => write!(out, "byte {at}: zeros in the middle of the log"),
            LogFault::NoLog => write!(out, "byte {at}: no log begins like this"),
        }
    }
}

impl std::error::Error for LogError {}

/// Reads a log part by part, out of pieces of any size.
#[derive(Debug)]
pub struct LogReader {
    family: Family,
    form: Form,
    window: Vec<u8>,
    /// Where the next part begins in the window.
    at: usize,
    /// Where it begins in the file.
    offset: u64,
    /// Length of the window without which another try is in vain.
    wanted: usize,
    parser: Parser,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Nothing is known yet.
    New,
    Commands,
    Records,
    /// Nothing but zeros may follow, from this place on.
    Zeros(u64),
    Ended,
}

/// What stands at a place of the window.
enum Found {
    /// Goes on behind so many bytes.
    Skip(usize),
    /// A command that the parser has, and where the next part begins.
    Command(usize),
    Time(u64, usize),
    /// The window must reach up to here.
    Short(usize),
    /// The torn end of the log.
    End,
}

impl LogReader {
    /// A reader at byte `offset` of a log.
    pub fn new(family: Family, offset: u64) -> Self {
        Self {
            family,
            form: if family == Family::Redis {
                Form::Commands
            } else {
                Form::New
            },
            window: Vec::new(),
            at: 0,
            offset,
            wanted: 0,
            parser: Parser::default(),
        }
    }

    /// Takes in the next bytes of the log.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.window.drain(..self.at);
        self.wanted = self.wanted.saturating_sub(self.at);
        self.at = 0;
        self.window.extend_from_slice(bytes);
    }

    /// Whose log it is.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Where in the file the next part begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next part. `None` at the end of the log, or until more bytes are fed, unless `is_all` says that
    /// there are no more.
    ///
    /// # Errors
    /// [`LogError`]: nothing more can be read.
    pub fn next(&mut self, is_all: bool) -> Result<Option<Entry<'_>>, LogError> {
        loop {
            let left = self.window.len() - self.at;
            let is_in_vain = !is_all && self.window.len() < self.wanted;
            if self.form == Form::Ended || left == 0 || is_in_vain {
                return Ok(None);
            }
            self.parser.clear();
            let found = match self.form {
                Form::New => self.header(is_all),
                Form::Commands => self.command(),
                Form::Records => self.record(is_all),
                Form::Zeros(_) => self.zeros(),
                Form::Ended => Ok(Found::End),
            };
            let (start, from) = (self.offset, self.at);
            let found = found.map_err(|fault| LogError {
                at: match self.form {
                    Form::Zeros(at) => at,
                    _ => start,
                },
                fault,
            })?;
            match found {
                Found::Short(len) if !is_all => {
                    // Twice of what was too little, so that all tries cost no more than the reading.
                    self.wanted = from + len.max(2 * left);
                    return Ok(None);
                }
                Found::Short(_) | Found::End => {
                    self.form = Form::Ended;
                    return Ok(Some(Entry::Torn(left as u64)));
                }
                Found::Skip(len) => {
                    self.at += len;
                    self.offset += len as u64;
                }
                Found::Time(seconds, len) => {
                    self.at += len;
                    self.offset += len as u64;
                    return Ok(Some(Entry::Time(seconds)));
                }
                Found::Command(len) => {
                    self.at += len;
                    self.offset += len as u64;
                    let args = Args::new(&self.window[from..], self.parser.spans());
                    return Ok(Some(entry_of(self.family, args)));
                }
            }
        }
    }

    /// The first bytes of a kevy log. Very old ones have none.
    fn header(&mut self, is_all: bool) -> Result<Found, LogFault> {
        const FORMS: [(&[u8; 9], Form); 2] = [
            (b"KEVYAOF1\n", Form::Commands),
            (b"KEVYAOF2\n", Form::Records),
        ];
        let found = &self.window[self.at..];
        for (magic, form) in FORMS {
            let seen = found.len().min(magic.len());
            if found.starts_with(magic) {
                self.form = form;
                return Ok(Found::Skip(magic.len()));
            }
            if found == &magic[..seen] {
                return Ok(if is_all {
                    Found::End
                } else {
                    Found::Short(magic.len())
                });
            }
        }
        if found.starts_with(b"KEVYAOF") || !found.starts_with(b"*") {
            return Err(LogFault::NoLog);
        }
        self.form = Form::Commands;
        Ok(Found::Skip(0))
    }

    fn command(&mut self) -> Result<Found, LogFault> {
        let found = &self.window[self.at..];
        match found.first() {
            Some(b'*') => {}
            // A note on the time, or another that Redis reads over.
            Some(b'#') if self.family == Family::Redis => {
                let Some(len) = found.iter().position(|byte| *byte == b'\n') else {
                    return if found.len() > 1 << 16 {
                        Err(LogFault::NoCommand)
                    } else {
                        Ok(Found::Short(found.len() + 1))
                    };
                };
                let line = found[..len].trim_ascii_end();
                let seconds = line.strip_prefix(b"#TS:").and_then(crate::base::parse_u64);
                return Ok(match seconds {
                    Some(seconds) => Found::Time(seconds, len + 1),
                    None => Found::Skip(len + 1),
                });
            }
            _ => return Err(LogFault::NoCommand),
        }
        parse(&mut self.parser, found)
    }

    fn record(&mut self, is_all: bool) -> Result<Found, LogFault> {
        let found = &self.window[self.at..];
        let Some((head, body)) = found.split_first_chunk::<RECORD_HEAD>() else {
            // What remains of zeros is no torn record.
            return Ok(if is_all && found.iter().all(|byte| *byte == 0) {
                Found::Skip(found.len())
            } else {
                Found::Short(RECORD_HEAD)
            });
        };
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (len, stored) = (word(0), word(4));
        if len == 0 {
            self.form = Form::Zeros(self.offset);
            return Ok(Found::Skip(0));
        }
        if len > RECORD_MAX {
            return Err(LogFault::TooLong);
        }
        let len = len as usize;
        let Some((body, behind)) = body.split_at_checked(len) else {
            return Ok(Found::Short(RECORD_HEAD + len));
        };
        let computed = crc32c(body);
        if computed != stored {
            // A record is torn if nothing was written behind it; a file may have been made longer
            // before.
            if behind.iter().any(|byte| *byte != 0) {
                return Err(LogFault::Sum { stored, computed });
            }
            return Ok(if is_all {
                Found::End
            } else {
                Found::Short(found.len() + 1)
            });
        }
        // Spans count from the record's first byte.
        match parse_at(&mut self.parser, found, RECORD_HEAD, RECORD_HEAD + len)? {
            Found::Command(end) if end == RECORD_HEAD + len => Ok(Found::Command(end)),
            _ => Err(LogFault::Uneven),
        }
    }

    fn zeros(&mut self) -> Result<Found, LogFault> {
        let found = &self.window[self.at..];
        if found.iter().any(|byte| *byte != 0) {
            return Err(LogFault::Gap);
        }
        Ok(Found::Skip(found.len()))
    }
}

fn parse(parser: &mut Parser, found: &[u8]) -> Result<Found, LogFault> {
    parse_at(parser, found, 0, found.len())
}

fn parse_at(parser: &mut Parser, found: &[u8], from: usize, to: usize) -> Result<Found, LogFault> {
    match parser.next(&found[..to], from, &ParseLimits::default()) {
        Ok(Step::Request { end, .. }) => Ok(Found::Command(end)),
        Ok(Step::More { len_min }) if len_min > COMMAND_MAX => Err(LogFault::TooLong),
        Ok(Step::More { len_min }) => Ok(Found::Short(len_min)),
        Ok(Step::Unquoted { .. } | Step::Empty { .. }) => Err(LogFault::NoCommand),
        Err(error) => Err(LogFault::Command(error)),
    }
}

fn entry_of(family: Family, args: Args<'_>) -> Entry<'_> {
    let name = args.at(0);
    match family {
        Family::Redis if name.eq_ignore_ascii_case(b"MULTI") => Entry::Begin,
        Family::Redis if name.eq_ignore_ascii_case(b"EXEC") => Entry::Commit,
        Family::Kevy => match (name, args.get(1)) {
            (b"\0KEVYTXNBEGIN", _) => Entry::Begin,
            (b"\0KEVYTXNCOMMIT", _) => Entry::Commit,
            (b"\0KEVYLOGBASE", Some(id)) => match id.first_chunk::<8>() {
                Some(id) if id.len() == 8 => Entry::Base(u64::from_le_bytes(*id)),
                _ => Entry::Command(args),
            },
            _ => Entry::Command(args),
        },
        Family::Redis => Entry::Command(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(family: Family, bytes: &[u8], step: usize) -> Result<Vec<String>, LogError> {
        let mut reader = LogReader::new(family, 0);
        let mut entries = Vec::new();
        let mut pieces = bytes.chunks(step);
        let mut is_all = false;
        while !is_all {
            match pieces.next() {
                Some(piece) => reader.feed(piece),
                None => is_all = true,
            }
            while let Some(entry) = reader.next(is_all)? {
                entries.push(match entry {
                    Entry::Command(args) => {
                        let args: Vec<_> = args.iter().map(String::from_utf8_lossy).collect();
                        args.join(" ")
                    }
                    other => format!("{other:?}"),
                });
            }
        }
        Ok(entries)
    }

    fn command(args: &[&[u8]]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            bytes.extend(format!("${}\r\n", arg.len()).into_bytes());
            bytes.extend_from_slice(arg);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    fn record(args: &[&[u8]]) -> Vec<u8> {
        let body = command(args);
        let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
        bytes.extend(crc32c(&body).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn records() -> Vec<u8> {
        let mut log = b"KEVYAOF2\n".to_vec();
        log.extend(record(&[b"\0KEVYLOGBASE", &7u64.to_le_bytes()]));
        log.extend(record(&[b"SET", b"k", b"v"]));
        log.extend(record(&[b"\0KEVYTXNBEGIN"]));
        log.extend(record(&[b"DEL", b"k"]));
        log.extend(record(&[b"\0KEVYTXNCOMMIT"]));
        log
    }

    #[test]
    fn logs_are_read_however_they_come() {
        let redis = [
            &command(&[b"SELECT", b"0"])[..],
            b"#TS:1700000000\r\n",
            b"# anything\r\n",
            &command(&[b"multi"]),
            &command(&[b"SET", b"k", b""]),
            &command(&[b"EXEC"]),
        ]
        .concat();
        let plain = [&b"KEVYAOF1\n"[..], &command(&[b"SET", b"k", b"v"])].concat();
        let cases: [(Family, &[u8], &[&str]); 5] = [
            (
                Family::Redis,
                &redis,
                &["SELECT 0", "Time(1700000000)", "Begin", "SET k ", "Commit"],
            ),
            (Family::Kevy, &plain, &["SET k v"]),
            (Family::Kevy, &plain[9..], &["SET k v"]),
            (
                Family::Kevy,
                &records(),
                &["Base(7)", "SET k v", "Begin", "DEL k", "Commit"],
            ),
            (Family::Kevy, b"", &[]),
        ];
        for (family, bytes, want) in cases {
            for step in 1..bytes.len() + 2 {
                let found = read(family, bytes, step).expect("is right");
                assert_eq!(found, want, "{step}");
            }
        }
    }

    #[test]
    fn a_log_may_end_anywhere_and_in_zeros() {
        let log = records();
        let whole = read(Family::Kevy, &log, 1000).expect("is whole");
        for len in 0..log.len() {
            let found = read(Family::Kevy, &log[..len], 3).expect("is only short");
            let torn = found
                .iter()
                .filter(|entry| entry.starts_with("Torn"))
                .count();
            assert!(
                torn <= 1 && found.len() - torn < whole.len(),
                "{len}: {found:?}"
            );
            assert!(whole.starts_with(&found[..found.len() - torn]));
        }
        for zeros in 1..20 {
            let mut log = log.clone();
            log.resize(log.len() + zeros, 0);
            for step in [1, 7, 1000] {
                assert_eq!(
                    read(Family::Kevy, &log, step).as_ref(),
                    Ok(&whole),
                    "{zeros}"
                );
            }
        }
        // The last record was not written whole into a file that was longer already.
        let mut torn = log.clone();
        let end = torn.len();
        torn[end - 6..].fill(0);
        torn.resize(end + 30, 0);
        let found = read(Family::Kevy, &torn, 9).expect("is only torn");
        assert_eq!(
            found.last().map(|last| last.starts_with("Torn")),
            Some(true)
        );
    }

    #[test]
    fn damage_inside_is_refused_with_its_place() {
        let log = records();
        for bit in 9 * 8..(log.len() - 30) * 8 {
            let mut wrong = log.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            match read(Family::Kevy, &wrong, 11) {
                Err(error) => assert!(error.at as usize <= bit / 8 && error.at >= 9),
                // A length that reaches beyond the end looks like a torn record.
                Ok(found) => assert!(found.last().is_some_and(|last| last.starts_with("Torn"))),
            }
        }
        let shown = |family, bytes: &[u8]| {
            let error = read(family, bytes, 5).expect_err("is wrong");
            error.to_string()
        };
        let mut gap = log.clone();
        gap.extend([0; 9]);
        gap.extend(record(&[b"PING"]));
        for (family, bytes, want) in [
            (
                Family::Redis,
                &b"*1\r\n$4\r\nPING\r\nSET k v\r\n"[..],
                "byte 14: no command begins like this",
            ),
            (
                Family::Redis,
                b"*1\r\n$4\r\nPINGx\r\n",
                "byte 0: damaged command: expected line end after bulk",
            ),
            (
                Family::Kevy,
                b"KEVYAOF3\n",
                "byte 0: no log begins like this",
            ),
            (
                Family::Kevy,
                b"SET k v\r\n",
                "byte 0: no log begins like this",
            ),
            (
                Family::Kevy,
                &gap,
                &format!("byte {}: zeros in the middle of the log", log.len()),
            ),
        ] {
            assert_eq!(shown(family, bytes), want);
        }
    }
}
