//! The RESP readers a measurement needs: one counts commands, one counts replies. Both are exact in any
//! split of the stream, copy nothing, and have a direct path for what lies complete in the buffer; only
//! the piece cut by a buffer's end goes byte by byte. A third cuts out whole replies for those who look
//! into them.

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

    fn signed(&self) -> i64 {
        let value = self.value as i64;
        if self.negative { -value } else { value }
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
    /// `+...`, and RESP3's numbers and truth values
    Status,
    /// `:...`
    Integer(i64),
    /// `$-1`, `*-1` or `_`
    Nil,
    /// `$n` and n bytes.
    Bulk(u64),
    /// An array, set or map, whatever it holds.
    Many {
        /// How many nils there are in it.
        nils: u64,
    },
    /// A message nobody asked for.
    Push,
    /// `-...`; see [`Replies::errors`].
    Error,
}

/// Error replies by their text.
#[derive(Default, Debug, Clone)]
pub struct Errors(Vec<(String, u64)>);

impl Errors {
    /// Counts `times` errors of this text.
    pub fn add(&mut self, text: &str, times: u64) {
        let is_full = self.0.len() >= ERROR_KINDS;
        match self.0.iter_mut().find(|(known, _)| known == text) {
            Some((_, count)) => *count += times,
            None if is_full && text != OTHER_ERRORS => self.add(OTHER_ERRORS, times),
            None => self.0.push((text.to_owned(), times)),
        }
    }

    /// Counts all that `other` counted.
    pub fn merge(&mut self, other: &Errors) {
        other
            .0
            .iter()
            .for_each(|(text, count)| self.add(text, *count));
    }

    /// Texts and counts, in the order they came up.
    pub fn list(&self) -> &[(String, u64)] {
        &self.0
    }
}

/// Counts replies of a pipeline.
#[derive(Default)]
pub struct Replies {
    state: ReplyState,
    /// Elements of the array being read that are still to come; 0 outside of one.
    left: u64,
    is_push: bool,
    nils: u64,
    /// The error line read so far.
    text: Vec<u8>,
    errors: Errors,
}

#[derive(Default, Clone, Copy)]
enum ReplyState {
    #[default]
    Start,
    Line(Reply),
    Integer(Digits),
    Length(Digits),
    /// The count of an array begun with this mark.
    Count(u8, Digits),
    Body {
        len: u64,
        left: u64,
    },
}

impl Replies {
    /// Calls `on` for every reply that ends in `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] also for RESP3 types that nothing here asks for.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(Reply)) -> Result<(), Malformed> {
        while let Some(&byte) = bytes.first() {
            if let ReplyState::Start = self.state {
                if bytes.starts_with(b"+OK\r\n") {
                    self.end(Reply::Status, &mut on);
                    bytes = &bytes[5..];
                    continue;
                }
                if let Some((len, body)) = header(bytes, 0, b'$')
                    && bytes.len() >= body + len + 2
                {
                    if &bytes[body + len..body + len + 2] != b"\r\n" {
                        return Err(Malformed(bytes[body + len]));
                    }
                    self.end(Reply::Bulk(len as u64), &mut on);
                    bytes = &bytes[body + len + 2..];
                    continue;
                }
                if let Some((value, end)) = header(bytes, 0, b':') {
                    self.end(Reply::Integer(value as i64), &mut on);
                    bytes = &bytes[end..];
                    continue;
                }
            }
            let mut taken = 1;
            match &mut self.state {
                ReplyState::Start => {
                    self.state = match byte {
                        b'+' | b',' | b'#' | b'(' => ReplyState::Line(Reply::Status),
                        b'-' => ReplyState::Line(Reply::Error),
                        b'_' => ReplyState::Line(Reply::Nil),
                        b':' => ReplyState::Integer(Digits::default()),
                        b'$' => ReplyState::Length(Digits::default()),
                        b'*' | b'~' | b'%' | b'>' => ReplyState::Count(byte, Digits::default()),
                        _ => return Err(Malformed(byte)),
                    }
                }
                ReplyState::Line(reply) => {
                    let reply = *reply;
                    if byte == b'\n' {
                        if reply == Reply::Error {
                            self.errors.add(&String::from_utf8_lossy(&self.text), 1);
                            self.text.clear();
                        }
                        self.end(reply, &mut on);
                    } else if reply == Reply::Error && byte != b'\r' && self.text.len() < 200 {
                        self.text.push(byte);
                    }
                }
                ReplyState::Integer(digits) => {
                    if digits.feed(byte)? {
                        let value = digits.signed();
                        self.end(Reply::Integer(value), &mut on);
                    }
                }
                ReplyState::Length(digits) => {
                    if digits.feed(byte)? {
                        if digits.negative {
                            self.end(Reply::Nil, &mut on);
                        } else {
                            let (len, left) = (digits.value, digits.value + 2);
                            self.state = ReplyState::Body { len, left };
                        }
                    }
                }
                ReplyState::Count(mark, digits) => {
                    if digits.feed(byte)? {
                        let (mark, count) = (*mark, digits.value);
                        if digits.negative {
                            self.end(Reply::Nil, &mut on);
                        } else {
                            self.begin(mark, count, &mut on);
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
                        let len = *len;
                        self.end(Reply::Bulk(len), &mut on);
                    }
                }
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// An array of `count` elements begins, maybe within another: as elements are only counted, those
    /// of the inner one simply come before the rest of the outer one.
    fn begin(&mut self, mark: u8, count: u64, on: &mut impl FnMut(Reply)) {
        if self.left == 0 {
            (self.left, self.is_push, self.nils) = (1, mark == b'>', 0);
        }
        self.left += count * if mark == b'%' { 2 } else { 1 };
        self.end(Reply::Many { nils: 0 }, on);
    }

    /// One element is over, and with the last one the reply it belongs to.
    #[inline]
    fn end(&mut self, reply: Reply, on: &mut impl FnMut(Reply)) {
        self.state = ReplyState::Start;
        if self.left == 0 {
            on(reply);
            return;
        }
        self.nils += u64::from(reply == Reply::Nil);
        self.left -= 1;
        if self.left == 0 {
            let nils = self.nils;
            on(if self.is_push {
                Reply::Push
            } else {
                Reply::Many { nils }
            });
        }
    }

    /// The error replies so far.
    pub fn errors(&self) -> &Errors {
        &self.errors
    }
}

/// Cuts a stream into whole replies, for those who look into them.
#[derive(Default)]
pub struct Frames {
    rest: Vec<u8>,
    /// Below this many bytes the reply at the start of `rest` is certainly not whole.
    wanted: usize,
}

impl Frames {
    /// Calls `on` with every reply that ends in `bytes`.
    ///
    /// # Errors
    /// [`Malformed`]; nothing after it can be trusted.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(&[u8])) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            let (taken, wanted) = cut_frames(bytes, &mut on)?;
            self.rest.extend_from_slice(&bytes[taken..]);
            self.wanted = wanted;
            return Ok(());
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() >= self.wanted {
            let (taken, wanted) = cut_frames(&self.rest, &mut on)?;
            self.rest.drain(..taken);
            self.wanted = wanted;
        }
        Ok(())
    }
}

/// Hands out the whole replies at the start of `bytes`; how long they are together, and how long the
/// piece after them has to become at least.
fn cut_frames(bytes: &[u8], on: &mut impl FnMut(&[u8])) -> Result<(usize, usize), Malformed> {
    let mut at = 0;
    loop {
        let mut reader = Reader { bytes, at };
        let mut left = 1u64;
        while left > 0 {
            match reader.next()? {
                Some(Value::Many { count, .. }) => left += count,
                Some(_) => {}
                None => return Ok((at, reader.at - at)),
            }
            left -= 1;
        }
        on(&bytes[at..reader.at]);
        at = reader.at;
    }
}

/// One value of a reply.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Value<'a> {
    /// `+...` and RESP3's numbers and truth values.
    Status(&'a [u8]),
    /// `-...`
    Error(&'a [u8]),
    /// `:...`
    Integer(i64),
    /// The absence of a value, or of an array.
    Nil,
    /// Bytes.
    Bulk(&'a [u8]),
    /// The start of an array, set, map or message.
    Many {
        /// How many values follow that belong to it; twice the pairs of a map.
        count: u64,
        /// Whether it is a message nobody asked for.
        is_push: bool,
    },
}

/// Reads the values of a reply one after the other, arrays flat.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Of a whole reply, as [`Frames`] cuts it.
    pub fn new(frame: &'a [u8]) -> Reader<'a> {
        Reader {
            bytes: frame,
            at: 0,
        }
    }

    /// The next value; None when the bytes end before it does, and `at` is then where they would have
    /// to reach at least.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn next(&mut self) -> Result<Option<Value<'a>>, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
            if rest.len() >= LINE_MAX {
                return Err(Malformed(rest[0]));
            }
            self.at = self.bytes.len() + 1;
            return Ok(None);
        };
        let (mark, line) = match rest[..end] {
            [mark, ref line @ .., b'\r'] => (mark, line),
            _ => return Err(Malformed(rest[0])),
        };
        let number = || {
            let text = std::str::from_utf8(line)
                .ok()
                .and_then(|text| text.parse::<i64>().ok());
            text.ok_or(Malformed(mark))
        };
        self.at += end + 1;
        Ok(Some(match mark {
            b'+' | b',' | b'#' | b'(' => Value::Status(line),
            b'-' => Value::Error(line),
            b'_' => Value::Nil,
            b':' => Value::Integer(number()?),
            b'$' => {
                let Ok(len) = usize::try_from(number()?) else {
                    return Ok(Some(Value::Nil));
                };
                let body = self.at;
                self.at = body.saturating_add(len).saturating_add(2);
                match self.bytes.get(body..self.at) {
                    None => return Ok(None),
                    Some([body @ .., b'\r', b'\n']) => Value::Bulk(body),
                    Some(_) => return Err(Malformed(mark)),
                }
            }
            b'*' | b'~' | b'%' | b'>' => match u64::try_from(number()?) {
                Ok(count) => Value::Many {
                    count: count.saturating_mul(if mark == b'%' { 2 } else { 1 }),
                    is_push: mark == b'>',
                },
                Err(_) => Value::Nil,
            },
            _ => return Err(Malformed(mark)),
        }))
    }
}

/// No number in a header grows beyond ten times this; a RESP bulk is limited to 512 MB.
const LENGTH_LIMIT: u64 = 1 << 56;
/// Longest line of a reply: error texts are short, statuses shorter.
const LINE_MAX: usize = 64 * 1024;
/// Different error texts kept apart.
const ERROR_KINDS: usize = 16;
const OTHER_ERRORS: &str = "other errors";

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

    const REPLIES: &[u8] =
        b"+OK\r\n$4\r\nab\r\n\r\n$-1\r\n:-42\r\n:1234567890123\r\n-ERR no\r\n+PONG\r\n\
        $0\r\n\r\n_\r\n*-1\r\n*0\r\n*3\r\n$1\r\nx\r\n$-1\r\n:7\r\n\
        %2\r\n+a\r\n*2\r\n_\r\n*0\r\n+b\r\n,1.5\r\n>2\r\n$1\r\nm\r\n#t\r\n~1\r\n*1\r\n+OK\r\n\
        -ERR two\r\n-ERR no\r\n";

    #[test]
    fn replies_are_told_apart_in_every_split() {
        let want = [
            Reply::Status,
            Reply::Bulk(4),
            Reply::Nil,
            Reply::Integer(-42),
            Reply::Integer(1_234_567_890_123),
            Reply::Error,
            Reply::Status,
            Reply::Bulk(0),
            Reply::Nil,
            Reply::Nil,
            Reply::Many { nils: 0 },
            Reply::Many { nils: 1 },
            Reply::Many { nils: 1 },
            Reply::Push,
            Reply::Many { nils: 0 },
            Reply::Error,
            Reply::Error,
        ];
        for cut in 0..=REPLIES.len() {
            let (mut replies, mut got) = (Replies::default(), Vec::new());
            for piece in [&REPLIES[..cut], &REPLIES[cut..]] {
                replies
                    .feed(piece, |reply| got.push(reply))
                    .expect("well formed");
            }
            assert_eq!(got, want, "cut at {cut}");
            let errors = [("ERR no".to_owned(), 2), ("ERR two".to_owned(), 1)];
            assert_eq!(replies.errors().list(), errors);
        }
    }

    #[test]
    fn frames_are_the_same_replies_in_every_split() {
        let mut whole: Vec<Vec<u8>> = Vec::new();
        Frames::default()
            .feed(REPLIES, |frame| whole.push(frame.to_vec()))
            .expect("well formed");
        assert_eq!(whole.len(), 17);
        assert_eq!(whole.concat(), REPLIES);
        for a in 0..=REPLIES.len() {
            for b in a..=REPLIES.len() {
                let (mut frames, mut got) = (Frames::default(), Vec::new());
                for piece in [&REPLIES[..a], &REPLIES[a..b], &REPLIES[b..]] {
                    frames
                        .feed(piece, |frame| got.push(frame.to_vec()))
                        .expect("well formed");
                }
                assert_eq!(got, whole, "cut at {a} and {b}");
            }
        }
        let mut reader = Reader::new(&whole[11]);
        let mut values = Vec::new();
        while let Some(value) = reader.next().expect("well formed") {
            values.push(value);
        }
        let many = Value::Many {
            count: 3,
            is_push: false,
        };
        assert_eq!(
            values,
            [many, Value::Bulk(b"x"), Value::Nil, Value::Integer(7)]
        );
        for bad in [&b"?\r\n"[..], b"$x\r\n", b"$1\r\nxyz", b"\n", b":\r\n"] {
            assert!(Frames::default().feed(bad, |_| ()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn error_texts_beyond_the_limit_are_counted_together() {
        let mut errors = Errors::default();
        (0..100).for_each(|i| errors.add(&format!("MOVED {i}"), 2));
        assert_eq!(errors.list().len(), ERROR_KINDS + 1);
        let sum: u64 = errors.list().iter().map(|(_, count)| count).sum();
        assert_eq!(sum, 200);
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
}
