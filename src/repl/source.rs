//! Understands what replicas say to us: the handshake, then acknowledgements.
//!
//! ```text
//! REPLICATE FROM [generation] offset ID id      once, as an array or as a line
//! REPLCONF ACK offset [FACK durable] [EPOCH n] [IMAGE bytes]   lines, any number
//! ```
//! A replica before kevy 4 names no generation. One whose name ends as that of a ringkeep gets the frames of
//! all databases; others know one. Nothing is ever answered to what cannot be understood: the
//! link is closed, which every replica takes as "ask again later".

use super::Position;

/// What a replica asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Where it is; with generation 0 it is nowhere.
    pub at: Position,
    /// It names generations, and understands them.
    pub has_generation: bool,
    /// It wants all databases.
    pub is_ringkeep: bool,
    /// How it calls itself.
    pub id: String,
    /// The snapshot that it has a part of, and how many bytes of the image.
    pub image: Option<(u64, u64)>,
}

/// What a replica said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// The handshake. Comes first, and once.
    Request(Request),
    /// How far it is.
    Ack(Ack),
}

/// How far a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// It has applied everything below this offset.
    pub applied: u64,
    /// It finds everything below this offset again after a crash. Only ringkeeps with a journal tell.
    pub durable: Option<u64>,
    /// It is of the epoch of this primary, and its disk says so. Only ringkeeps that are elected tell.
    pub epoch: Option<u64>,
    /// Bytes that it has of the image that it is being sent. Only ringkeeps tell.
    pub image: Option<u64>,
}

/// Why a link is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The handshake is none.
    Handshake,
    /// There is too much that is no handshake or no line.
    TooLong,
}

/// Takes in the bytes of one replica.
#[derive(Debug, Default)]
pub struct Listener {
    rest: Vec<u8>,
    is_followed: bool,
    /// Bytes without a line that can be used.
    useless: usize,
}

impl Listener {
    /// What the bytes say, together with those that came before; told one by one.
    ///
    /// # Errors
    /// [`Refusal`]: the link is to be closed.
    pub fn hear(&mut self, bytes: &[u8], mut tell: impl FnMut(Said)) -> Result<(), Refusal> {
        if self.rest.is_empty() {
            return self.hear_all(bytes, &mut tell);
        }
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(bytes);
        self.hear_all(&joined, &mut tell)
    }

    fn hear_all(&mut self, bytes: &[u8], tell: &mut impl FnMut(Said)) -> Result<(), Refusal> {
        let mut at = 0;
        if !self.is_followed {
            match request(bytes)? {
                Some((request, used)) => {
                    self.is_followed = true;
                    at = used;
                    tell(Said::Request(request));
                }
                None if bytes.len() > HANDSHAKE_MAX => return Err(Refusal::TooLong),
                None => {
                    self.rest = bytes.to_vec();
                    return Ok(());
                }
            }
        }
        while let Some(len) = bytes[at..].iter().position(|byte| *byte == b'\n') {
            let line = &bytes[at..at + len];
            at += len + 1;
            match ack(line.strip_suffix(b"\r").unwrap_or(line)) {
                Some(ack) => {
                    self.useless = 0;
                    tell(Said::Ack(ack));
                }
                None => self.useless += len,
            }
        }
        let rest = &bytes[at..];
        if self.useless + rest.len() > USELESS_MAX {
            return Err(Refusal::TooLong);
        }
        self.rest = rest.to_vec();
        Ok(())
    }
}

/// The handshake at the beginning, and how many bytes it is; `None` while it is not there in full.
fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let found = match bytes[0] {
        b'*' => array(bytes)?,
        _ => line(bytes),
    };
    let Some((words, used)) = found else {
        return Ok(None);
    };
    Ok(Some((understood(&words).ok_or(Refusal::Handshake)?, used)))
}

/// Words, and the bytes that they are together.
type Words<'a> = (Vec<&'a [u8]>, usize);

/// Words of an array of strings.
fn array(bytes: &[u8]) -> Result<Option<Words<'_>>, Refusal> {
    let mut at = 0;
    let Some(count) = number(bytes, &mut at, b'*')? else {
        return Ok(None);
    };
    if !(5..=6).contains(&count) {
        return Err(Refusal::Handshake);
    }
    let mut words = Vec::new();
    for _ in 0..count {
        let Some(len) = number(bytes, &mut at, b'$')? else {
            return Ok(None);
        };
        let Some(word) = bytes.get(at..at + len) else {
            return Ok(None);
        };
        match bytes.get(at + len..at + len + 2) {
            None => return Ok(None),
            Some(b"\r\n") => {}
            Some(_) => return Err(Refusal::Handshake),
        }
        words.push(word);
        at += len + 2;
    }
    Ok(Some((words, at)))
}

/// A sign, a small number and a line end.
fn number(bytes: &[u8], at: &mut usize, sign: u8) -> Result<Option<usize>, Refusal> {
    let rest = &bytes[*at..];
    match rest.first() {
        None => return Ok(None),
        Some(first) if *first == sign => {}
        Some(_) => return Err(Refusal::Handshake),
    }
    let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
        return match rest.len() > NUMBER_MAX {
            true => Err(Refusal::Handshake),
            false => Ok(None),
        };
    };
    let number = parse_decimal(&rest[1..end]).filter(|number| *number <= HANDSHAKE_MAX as u64);
    *at += end + 2;
    Ok(Some(number.ok_or(Refusal::Handshake)? as usize))
}

/// Words of a line, between spaces.
fn line(bytes: &[u8]) -> Option<Words<'_>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let words = line.split(|byte| *byte == b' ');
    Some((words.filter(|word| !word.is_empty()).collect(), end + 1))
}

fn understood(words: &[&[u8]]) -> Option<Request> {
    let is = |at: usize, word: &str| words[at].eq_ignore_ascii_case(word.as_bytes());
    let has_generation = match words.len() {
        5 => false,
        6 => true,
        _ => return None,
    };
    let last = words.len() - 1;
    if !(is(0, "REPLICATE") && is(1, "FROM") && is(last - 1, "ID")) {
        return None;
    }
    let generation = match has_generation {
        true => parse_decimal(words[2])?,
        false => 0,
    };
    let offset = parse_decimal(words[last - 2])?;
    let id = std::str::from_utf8(words[last]).ok()?;
    let is_ringkeep = id.ends_with(RINGKEEP);
    let (id, image) = match id.strip_suffix(RINGKEEP).and_then(part_of_image) {
        Some((name, image)) => (format!("{name}{RINGKEEP}"), Some(image)),
        None => (id.to_string(), None),
    };
    if is_ringkeep && !has_generation {
        // It takes us for somebody else, and will ask again in its own form.
        return None;
    }
    (!id.is_empty()).then_some(Request {
        at: Position { generation, offset },
        has_generation,
        is_ringkeep,
        id,
        image,
    })
}

/// A name, and what stands behind it of an image.
fn part_of_image(name: &str) -> Option<(&str, (u64, u64))> {
    let (name, image) = name.split_once(IMAGE)?;
    let (ship, bytes) = image.split_once(',')?;
    let number = |text: &str| parse_decimal(text.as_bytes());
    Some((name, (number(ship)?, number(bytes)?)))
}

fn ack(line: &[u8]) -> Option<Ack> {
    let mut words = line
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let is = |word: Option<&[u8]>, name: &str| {
        word.is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    if !is(words.next(), "REPLCONF") || !is(words.next(), "ACK") {
        return None;
    }
    let applied = parse_decimal(words.next()?)?;
    let (mut durable, mut epoch, mut image) = (None, None, None);
    while let Some(name) = words.next() {
        let told = match name {
            name if is(Some(name), "FACK") => &mut durable,
            name if is(Some(name), "EPOCH") => &mut epoch,
            name if is(Some(name), "IMAGE") => &mut image,
            _ => return None,
        };
        if told.replace(parse_decimal(words.next()?)?).is_some() {
            return None;
        }
    }
    Some(Ack {
        applied,
        durable,
        epoch,
        image,
    })
}

/// A number of digits alone; leading zeros are allowed.
fn parse_decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

/// How the name of a ringkeep replica ends.
pub const RINGKEEP: &str = "+ringkeep1";
/// What stands before that if it has a part of an image.
pub const IMAGE: &str = "+image,";

/// Most bytes before a handshake is complete.
const HANDSHAKE_MAX: usize = 4096;
/// Most bytes that are no acknowledgement.
const USELESS_MAX: usize = 64 << 10;
/// Most bytes of a number with its sign.
const NUMBER_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(chunks: &[&[u8]]) -> Result<Vec<Said>, Refusal> {
        let (mut listener, mut all) = (Listener::default(), Vec::new());
        for chunk in chunks {
            listener.hear(chunk, |said| all.push(said))?;
        }
        Ok(all)
    }

    fn asked(generation: u64, offset: u64, has_generation: bool, id: &str) -> Said {
        Said::Request(Request {
            at: Position { generation, offset },
            has_generation,
            is_ringkeep: false,
            id: id.into(),
            image: None,
        })
    }

    const W3: &[u8] =
        b"*6\r\n$9\r\nREPLICATE\r\n$4\r\nFROM\r\n$1\r\n0\r\n$1\r\n0\r\n$2\r\nID\r\n$20\r\n\
                        kevy-replica-21100#0\r\n";
    const W1: &[u8] = b"*5\r\n$9\r\nreplicate\r\n$4\r\nFROM\r\n$2\r\n07\r\n$2\r\nID\r\n$1\r\nx\r\n";

    #[test]
    fn both_forms_of_the_handshake_are_understood_however_they_are_cut() {
        let w3 = Ok(vec![asked(0, 0, true, "kevy-replica-21100#0")]);
        assert_eq!(heard(&[W3]), w3);
        assert_eq!(heard(&[W1]), Ok(vec![asked(0, 7, false, "x")]));
        for cut in 0..W3.len() {
            assert_eq!(heard(&[&W3[..cut], &W3[cut..]]), w3, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = W3.chunks(1).collect();
        assert_eq!(heard(&bytes), w3);
        let line: &[u8] = b"REPLICATE FROM 5 9 ID me\r\n";
        assert_eq!(heard(&[line]), Ok(vec![asked(5, 9, true, "me")]));
        let line: &[u8] = b"REPLICATE FROM 5 9 ID me#0+ringkeep1\r\n";
        let Ok([Said::Request(request)]) = heard(&[line]).as_deref().map(|all| [all[0].clone()])
        else {
            panic!("it is one");
        };
        assert!(request.is_ringkeep && request.has_generation);
        for (id, name, image) in [
            ("me#0+image,7,90+ringkeep1", "me#0+ringkeep1", Some((7, 90))),
            ("me#0+image,7,+ringkeep1", "me#0+image,7,+ringkeep1", None),
            ("me#0+image,7+ringkeep1", "me#0+image,7+ringkeep1", None),
            ("me#0+image,7,90", "me#0+image,7,90", None),
        ] {
            let line = format!("REPLICATE FROM 0 0 ID {id}\r\n");
            let Ok([Said::Request(request)]) = heard(&[line.as_bytes()])
                .as_deref()
                .map(|all| [all[0].clone()])
            else {
                panic!("it is one");
            };
            assert_eq!((&request.id[..], request.image), (name, image));
        }
    }

    #[test]
    fn acknowledgements_are_lines_and_the_rest_is_left_out() {
        let said = heard(&[
            W1,
            b"REPLCONF ACK 8\r\nwhat is this\r\nreplconf ack 9\r\n*3\r\n$8\r\nREPL",
            b"CONF\r\n$3\r\nACK\r\n$2\r\n10\r\nREPLCONF ACK",
            b" 11\r\nREPLCONF ACK 12 FACK 9\r\nREPLCONF ACK 13 FACK\r\nREPLCONF ACK 13 FACK 9 9\r\n\
              REPLCONF ACK 13 FACK 9 EPOCH 3\r\nREPLCONF ACK 14 EPOCH 3\r\nREPLCONF ACK 15 FACK 1 FACK 2\r\n\
              REPLCONF ACK 0 IMAGE 77\r\nREPLCONF ACK 0 IMAGE\r\n",
        ]);
        let acks = said.unwrap()[1..].to_vec();
        let ack = |applied, durable, epoch| {
            Said::Ack(Ack {
                applied,
                durable,
                epoch,
                image: None,
            })
        };
        let applied = [8, 9, 11].map(|offset| ack(offset, None, None));
        let more = [
            ack(12, Some(9), None),
            ack(13, Some(9), Some(3)),
            ack(14, None, Some(3)),
            Said::Ack(Ack {
                applied: 0,
                durable: None,
                epoch: None,
                image: Some(77),
            }),
        ];
        assert_eq!(acks, [&applied[..], &more].concat());
    }

    #[test]
    fn what_is_no_handshake_is_refused_and_nothing_is_kept_without_end() {
        for bad in [
            &b"PSYNC ? -1\r\n"[..],
            b"REPLICATE FROM +5 ID x\r\n",
            b"REPLICATE FROM 99999999999999999999 ID x\r\n",
            b"*5\r\n$9\r\nREPLICATE\r\n$4\r\nFROM\r\n$1\r\n0\r\n$2\r\nID\r\n$1\r\n\xff\r\n",
            b"*5\r\n$9\r\nREPLICATE\r\n$4\r\nFROM\r\n$1\r\n0\r\n$2\r\nID\r\n$0\r\n\r\n",
            b"*7\r\n",
            b"REPLICATE FROM 9 ID me#0+ringkeep1\r\n",
            b"*6\r\n:9\r\n",
            b"*999999999999999999999999999",
            b"*6\r\n$9\r\nREPLICATExx",
        ] {
            assert_eq!(heard(&[bad]), Err(Refusal::Handshake), "{bad:?}");
        }
        let much = vec![b'x'; 5000];
        assert_eq!(heard(&[&much]), Err(Refusal::TooLong));
        let lines = b"nothing at all\r\n".repeat(5000);
        assert_eq!(heard(&[W1, &lines]), Err(Refusal::TooLong));
        let some: Vec<u8> = [&lines[..32_000], b"\r\nREPLCONF ACK 1\r\n"].concat();
        assert!(heard(&[W1, &some, &some, &some]).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_a_peer_says_is_fatal(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        ) {
            let _ = heard(&[&bytes]);
            let _ = heard(&[W3, &bytes, &bytes]);
        }
    }
}
