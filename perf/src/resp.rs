//! The two RESP readers a measurement needs: one counts commands, one counts replies. Both are exact
//! in any split of the stream, copy nothing, and have a direct path for what lies complete in the
//! buffer; only the piece cut by a buffer's end goes byte by byte.

/// The stream broke the protocol at this byte; nothing after it can be trusted.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Malformed(pub u8);

/// Counts client commands, multibulk or inline.
#[derive(Default)]
pub struct Commands {
    state: CommandState,
    /// Arguments of the current command still to come.
    left: u64,
    /// First letter of the current command, lower case; 0 before it was seen.
    name: u8,
}

#[derive(Default, Clone, Copy)]
enum CommandState {
    #[default]
    Start,
    Inline,
    Count(Digits),
    Dollar,
    Length(Digits),
    /// Bytes of an argument still to come, its line end included.
    Body(u64),
}

/// A decimal number read so far, up to its line feed.
#[derive(Default, Clone, Copy)]
struct Digits {
    value: u64,
    negative: bool,
    any: bool,
    ended: bool,
}

impl Digits {
    /// Takes one byte; true when the line is over.
    fn feed(&mut self, byte: u8) -> Result<bool, Malformed> {
        match byte {
            b'0'..=b'9' if !self.ended && self.value < LENGTH_LIMIT => {
                self.value = self.value * 10 + u64::from(byte - b'0');
                self.any = true;
                Ok(false)
            }
            b'-' if !self.any && !self.negative => {
                self.negative = true;
                Ok(false)
            }
            b'\r' if self.any && !self.ended => {
                self.ended = true;
                Ok(false)
            }
            b'\n' if self.ended => Ok(true),
            _ => Err(Malformed(byte)),
        }
    }
}

impl Commands {
    /// Calls `on` with the first letter (lower case) of every command that ends in `bytes`.
    ///
    /// # Errors
    /// [`Malformed`]; the connection should be closed.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(u8)) -> Result<(), Malformed> {
        while let Some(&byte) = bytes.first() {
            if let CommandState::Start = self.state
                && let Some((len, name)) = whole_command(bytes)
            {
                on(name);
                bytes = &bytes[len..];
                continue;
            }
            let mut taken = 1;
            match &mut self.state {
                CommandState::Start => match byte {
                    b'*' => self.state = CommandState::Count(Digits::default()),
                    b'\r' | b'\n' => {}
                    _ => {
                        self.name = byte.to_ascii_lowercase();
                        self.state = CommandState::Inline;
                    }
                },
                CommandState::Inline => {
                    if byte == b'\n' {
                        self.end(&mut on);
                    }
                }
                CommandState::Count(digits) => {
                    if digits.feed(byte)? {
                        let empty = digits.negative || digits.value == 0;
                        self.left = digits.value;
                        self.state = if empty {
                            CommandState::Start
                        } else {
                            CommandState::Dollar
                        };
                    }
                }
                CommandState::Dollar => match byte {
                    b'$' => self.state = CommandState::Length(Digits::default()),
                    _ => return Err(Malformed(byte)),
                },
                CommandState::Length(digits) => {
                    if digits.feed(byte)? {
                        if digits.negative {
                            return Err(Malformed(b'-'));
                        }
                        self.state = CommandState::Body(digits.value + 2);
                    }
                }
                CommandState::Body(body) => {
                    if self.name == 0 {
                        self.name = byte.to_ascii_lowercase();
                    }
                    taken = (*body).min(bytes.len() as u64) as usize;
                    *body -= taken as u64;
                    if *body == 0 {
                        self.left -= 1;
                        self.state = CommandState::Dollar;
                        if self.left == 0 {
                            self.end(&mut on);
                        }
                    }
                }
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn end(&mut self, on: &mut impl FnMut(u8)) {
        on(self.name);
        *self = Commands::default();
    }
}

/// Length and first letter of the multibulk command that starts `bytes`, if it is all there and
/// plainly formed; everything else is left to the byte-wise states.
#[inline]
fn whole_command(bytes: &[u8]) -> Option<(usize, u8)> {
    let (count, mut at) = header(bytes, 0, b'*')?;
    if count == 0 {
        return None;
    }
    let mut name = 0;
    for argument in 0..count {
        let (len, body) = header(bytes, at, b'$')?;
        if argument == 0 {
            name = bytes.get(body)?.to_ascii_lowercase();
        }
        at = body + len + 2;
        if at > bytes.len() {
            return None;
        }
    }
    Some((at, name))
}

/// The number after `mark` at `at`, and where its line ends. None unless complete and below 10^9.
#[inline]
fn header(bytes: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?;
    if *line.first()? != mark {
        return None;
    }
    // One and two digits are nearly all there is; each is one comparison of a few bytes.
    if let [_, a @ b'0'..=b'9', b'\r', b'\n', ..] = *line {
        return Some(((a - b'0') as usize, at + 4));
    }
    if let [_, a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] = *line {
        return Some(((a - b'0') as usize * 10 + (b - b'0') as usize, at + 5));
    }
    let mut value = 0;
    let mut i = 1;
    loop {
        let digit = line.get(i)?.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value * 10 + digit as usize;
        i += 1;
        if i > 10 {
            return None;
        }
    }
    if i == 1 || line.get(i..i + 2)? != b"\r\n" {
        return None;
    }
    Some((value, at + i + 2))
}

/// One reply, as far as a measurement cares.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Reply {
    /// `+...`
    Status,
    /// `:...`
    Integer(i64),
    /// `$-1` or `_`
    Nil,
    /// `$n` and n bytes.
    Bulk(u64),
    /// `-...`; the text of the first one is kept.
    Error,
}

/// Counts replies of a pipeline.
#[derive(Default)]
pub struct Replies {
    state: ReplyState,
    first_error: Vec<u8>,
    keeping: bool,
}

#[derive(Default, Clone, Copy)]
enum ReplyState {
    #[default]
    Start,
    Line(Reply),
    Integer(Digits),
    Length(Digits),
    Body {
        len: u64,
        left: u64,
    },
}

impl Replies {
    /// Calls `on` for every reply that ends in `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] also for arrays and RESP3 types, which nothing here asks for.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(Reply)) -> Result<(), Malformed> {
        while let Some(&byte) = bytes.first() {
            if let ReplyState::Start = self.state {
                if bytes.starts_with(b"+OK\r\n") {
                    on(Reply::Status);
                    bytes = &bytes[5..];
                    continue;
                }
                if let Some((len, body)) = header(bytes, 0, b'$')
                    && bytes.len() >= body + len + 2
                {
                    if &bytes[body + len..body + len + 2] != b"\r\n" {
                        return Err(Malformed(bytes[body + len]));
                    }
                    on(Reply::Bulk(len as u64));
                    bytes = &bytes[body + len + 2..];
                    continue;
                }
            }
            let mut taken = 1;
            match &mut self.state {
                ReplyState::Start => {
                    self.state = match byte {
                        b'+' => ReplyState::Line(Reply::Status),
                        b'-' => {
                            self.keeping = self.first_error.is_empty();
                            ReplyState::Line(Reply::Error)
                        }
                        b'_' => ReplyState::Line(Reply::Nil),
                        b':' => ReplyState::Integer(Digits::default()),
                        b'$' => ReplyState::Length(Digits::default()),
                        _ => return Err(Malformed(byte)),
                    }
                }
                ReplyState::Line(reply) => {
                    if byte == b'\n' {
                        on(*reply);
                        self.keeping = false;
                        self.state = ReplyState::Start;
                    } else if self.keeping && byte != b'\r' && self.first_error.len() < 200 {
                        self.first_error.push(byte);
                    }
                }
                ReplyState::Integer(digits) => {
                    if digits.feed(byte)? {
                        let value = digits.value as i64;
                        on(Reply::Integer(if digits.negative { -value } else { value }));
                        self.state = ReplyState::Start;
                    }
                }
                ReplyState::Length(digits) => {
                    if digits.feed(byte)? {
                        if digits.negative {
                            on(Reply::Nil);
                            self.state = ReplyState::Start;
                        } else {
                            let (len, left) = (digits.value, digits.value + 2);
                            self.state = ReplyState::Body { len, left };
                        }
                    }
                }
                ReplyState::Body { len, left } => {
                    taken = (*left).min(bytes.len() as u64) as usize;
                    *left -= taken as u64;
                    if *left == 0 {
                        if bytes[taken - 1] != b'\n' {
                            return Err(Malformed(bytes[taken - 1]));
                        }
                        on(Reply::Bulk(*len));
                        self.state = ReplyState::Start;
                    }
                }
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The text of the first error reply, empty if there was none.
    pub fn first_error(&self) -> String {
        String::from_utf8_lossy(&self.first_error).into_owned()
    }
}

/// No number in a header grows beyond ten times this; a RESP bulk is limited to 512 MB.
const LENGTH_LIMIT: u64 = 1 << 56;

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"*3\r\n$3\r\nSET\r\n$4\r\n*1\r\n\r\n$5\r\n$9\r\nx\r\n*2\r\n$3\r\nget\r\n$0\r\n\r\n\
        PING\r\n*0\r\n\r\n*1\r\n$7\r\nGETMORE\r\n";

    fn names(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut commands, mut names) = (Commands::default(), Vec::new());
        for piece in pieces {
            commands
                .feed(piece, |name| names.push(name))
                .expect("well formed");
        }
        names
    }

    #[test]
    fn commands_are_counted_the_same_in_every_split() {
        let want = b"sgpg";
        assert_eq!(names(&[STREAM]), want);
        for a in 0..=STREAM.len() {
            for b in a..=STREAM.len() {
                assert_eq!(
                    names(&[&STREAM[..a], &STREAM[a..b], &STREAM[b..]]),
                    want,
                    "cut at {a} and {b}"
                );
            }
        }
        let single: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(names(&single), want);
    }

    #[test]
    fn a_command_counts_only_when_its_last_byte_came() {
        let command = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        for cut in 0..command.len() {
            assert_eq!(names(&[&command[..cut]]), b"", "cut at {cut}");
        }
    }

    #[test]
    fn broken_headers_are_refused() {
        for bad in [
            &b"*x\r\n"[..],
            b"*1\r\n+3\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$\r\n",
            b"*1\n",
            b"*99999999999999999999\r\n",
        ] {
            assert!(Commands::default().feed(bad, |_| ()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn replies_are_told_apart_in_every_split() {
        let stream = b"+OK\r\n$4\r\nab\r\n\r\n$-1\r\n:-42\r\n-ERR no\r\n+PONG\r\n$0\r\n\r\n_\r\n\
            +OK\r\n-ERR two\r\n";
        let want = [
            Reply::Status,
            Reply::Bulk(4),
            Reply::Nil,
            Reply::Integer(-42),
            Reply::Error,
            Reply::Status,
            Reply::Bulk(0),
            Reply::Nil,
            Reply::Status,
            Reply::Error,
        ];
        for cut in 0..=stream.len() {
            let (mut replies, mut got) = (Replies::default(), Vec::new());
            for piece in [&stream[..cut], &stream[cut..]] {
                replies
                    .feed(piece, |reply| got.push(reply))
                    .expect("well formed");
            }
            assert_eq!(got, want, "cut at {cut}");
            assert_eq!(replies.first_error(), "ERR no");
        }
    }

    #[test]
    fn a_body_must_end_where_its_length_says() {
        for bad in [&b"$2\r\nabc\r\n"[..], b"$4\r\nab\r\n+OK\r\n"] {
            for cut in 0..bad.len() {
                let mut replies = Replies::default();
                let done = replies
                    .feed(&bad[..cut], |_| ())
                    .and_then(|()| replies.feed(&bad[cut..], |_| ()));
                assert!(done.is_err(), "{bad:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn arrays_are_no_reply_to_what_is_asked() {
        assert_eq!(
            Replies::default().feed(b"*1\r\n", |_| ()),
            Err(Malformed(b'*'))
        );
    }
}
