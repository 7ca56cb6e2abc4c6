//! Proving the key that the nodes of a fleet share, before anything else is said on a link between two of
//! them.
//!
//! ```text
//! dialer    +RINGKEY1 purpose name nonce
//! listener  +RINGKEY1 name nonce
//! dialer    +PROOF proof
//! listener  +PROOF proof                 or -WRONGKEY text; to who speaks without a key: -NOKEY text
//! ```
//! A nonce is 32 bytes that were drawn for this link, a proof the HMAC-SHA256 of what both have said, of the
//! side that says it and of a label; both are written in hexadecimal digits. The listener computes nothing
//! with the key for who has not proven it. Each side waits for the other one's line, so whoever says more
//! than the line that is due does not keep to it.
//!
//! How to drive a [`Dialer`] or a [`Listener`]: hand what arrives to `hear`, send what it [`Heard::Say`]s
//! or [`Heard::Proven`] has, and go on with the link behind the latter. At a [`Fault`], or [`PATIENCE_MS`]
//! after the connection was there, send [`Fault::answer`], if there is one, and close.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::base::Ms;

/// Bytes that a side draws for a link.
pub type Nonce = [u8; 32];

/// A handshake may take so long.
pub const PATIENCE_MS: Ms = 5000;

/// The key, ready for use.
#[derive(Clone)]
pub struct NodeKey(Hmac<Sha256>);

/// A secret that is too short or too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadLength(pub usize);

impl std::fmt::Display for BadLength {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (least, most, is) = (SECRET_MIN, SECRET_MAX, self.0);
        write!(out, "a node key has {least} to {most} bytes, this one {is}")
    }
}

/// Nothing of the secret gets into a log.
impl std::fmt::Debug for NodeKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("NodeKey")
    }
}

impl NodeKey {
    /// Of what a file has; the end of its line does not count.
    ///
    /// # Errors
    /// [`BadLength`].
    pub fn of_file(bytes: &[u8]) -> Result<Self, BadLength> {
        let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if !(SECRET_MIN..=SECRET_MAX).contains(&secret.len()) {
            return Err(BadLength(secret.len()));
        }
        let key = Hmac::new_from_slice(secret);
        key.map(Self).map_err(|_| BadLength(secret.len()))
    }

    /// Every part has its length before it, so that no two different talks are the same bytes.
    fn mac(&self, side: Side, talk: &Talk) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        let purpose = talk.purpose.to_string();
        let parts: [&[u8]; 7] = [
            LABEL,
            side.name(),
            purpose.as_bytes(),
            talk.dialer.as_bytes(),
            talk.listener.as_bytes(),
            &talk.dialed_with,
            &talk.answered_with,
        ];
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    fn prove(&self, side: Side, talk: &Talk) -> String {
        let proof = self.mac(side, talk).finalize().into_bytes();
        format!("{PROOF}{}\r\n", hex(&proof))
    }

    /// Takes as long whatever is wrong with it.
    fn is_proven(&self, side: Side, talk: &Talk, line: &str) -> Result<bool, Fault> {
        let proof = line.strip_prefix(PROOF).and_then(unhex);
        let proof = proof.ok_or(Fault::Form)?;
        Ok(self.mac(side, talk).verify_slice(&proof).is_ok())
    }
}

/// Bytes of a secret.
const SECRET_MIN: usize = 16;
const SECRET_MAX: usize = 1024;
/// The most that a file with one can have.
pub const FILE_MAX: usize = SECRET_MAX + "\r\n".len();
/// What the proof is of, so that the key is good for nothing else.
const LABEL: &[u8] = b"ringkeep link 1";

/// How the lines begin.
const HELLO: &str = "+RINGKEY1 ";
const PROOF: &str = "+PROOF ";
const NO_KEY: &str = "-NOKEY ";
const WRONG_KEY: &str = "-WRONGKEY ";
/// Most bytes of a line: a hello has 125 at most.
const LINE_MAX: usize = 192;
/// Most bytes of a name.
pub const NAME_MAX: usize = 32;

/// Does a peer begin to prove a key? For a node that has none.
pub fn is_hello(bytes: &[u8]) -> bool {
    bytes.starts_with(HELLO.as_bytes())
}

/// Does a peer say that it wants a proof? For a node that gives none.
pub fn wants_key(bytes: &[u8]) -> bool {
    bytes.starts_with(NO_KEY.as_bytes())
}

/// What a link is for. A proof for one is none for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Messages of elections, from the dialer to the listener.
    Elections,
    /// The stream of the listener's shard of this number.
    Stream(u32),
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Elections => out.write_str("elections"),
            Self::Stream(stream) => write!(out, "stream:{stream}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Dialer,
    Listener,
}

impl Side {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Dialer => b"dialer",
            Self::Listener => b"listener",
        }
    }
}

/// Why a link does not come about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// The peer has no key, or does not know of keys.
    Plain,
    /// It says something else than the line that is due.
    Form,
    /// It has dialed another port than it believes.
    Purpose,
    /// It has another name than the node that is meant.
    Name,
    /// Its proof is none.
    Wrong,
    /// It says so of ours.
    Refused,
    /// It closed the connection, where a node with a key would have spoken.
    Closed,
    /// Its time is up.
    Late,
    /// It wants a key, and this node has none.
    Wanted,
    /// This node has nothing to draw a nonce from.
    NoChance,
}

impl Fault {
    /// For logs.
    pub fn text(self) -> &'static str {
        match self {
            Self::Plain => "it speaks without a node key",
            Self::Form => "it does not keep to the handshake of node keys",
            Self::Purpose => "it takes the port for another one",
            Self::Name => "it is not the node that it should be",
            Self::Wrong => "its node key is another one",
            Self::Refused => "it says that the node key is another one there",
            Self::Closed => {
                "closed instead of proving a node key: it has none, is no ringkeep, or starts"
            }
            Self::Late => "it has not proved the node key in time",
            Self::Wanted => "it wants a node key, and this node has none (--node-key-file)",
            Self::NoChance => "no random bytes to be had for the node key",
        }
    }

    /// What a listener says before it closes.
    pub fn answer(self) -> Option<&'static str> {
        match self {
            Self::Plain => Some("-NOKEY this port is for nodes with the key of this one\r\n"),
            Self::Wrong => Some("-WRONGKEY the node key is another one here\r\n"),
            _ => None,
        }
    }
}

/// What both have said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Talk {
    purpose: Purpose,
    dialer: String,
    listener: String,
    dialed_with: Nonce,
    answered_with: Nonce,
}

/// What came of bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// More has to come.
    Nothing,
    /// This is to be sent.
    Say(String),
    /// This is to be sent, if it is anything; then the link is one between two nodes with the key.
    Proven(String),
}

/// The line that is due.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Line {
    /// The line, once it is there. It begins in one of these ways, otherwise the fault is `other`; nothing
    /// follows it.
    fn take(
        &mut self,
        bytes: &[u8],
        starts: &[&str],
        other: Fault,
    ) -> Result<Option<String>, Fault> {
        let room = LINE_MAX - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let is_start = |start: &&str| {
            let start = start.as_bytes();
            self.0.starts_with(start) || start.starts_with(&self.0)
        };
        if !starts.iter().any(is_start) {
            return Err(other);
        }
        match self.0.iter().position(|byte| *byte == b'\n') {
            _ if bytes.len() > room => Err(Fault::Form),
            Some(end) if end + 1 == self.0.len() => {
                let line = std::mem::take(&mut self.0);
                let text = line.strip_suffix(b"\r\n").ok_or(Fault::Form)?;
                let text = std::str::from_utf8(text).map_err(|_| Fault::Form)?;
                Ok(Some(text.to_string()))
            }
            None if self.0.len() < LINE_MAX => Ok(None),
            Some(_) | None => Err(Fault::Form),
        }
    }
}

/// The side that has opened the connection.
#[derive(Debug)]
pub struct Dialer {
    key: NodeKey,
    talk: Talk,
    /// The name that the listener must have, if it is known.
    expected: Option<String>,
    has_proved: bool,
    line: Line,
}

impl Dialer {
    /// Of the node with this name.
    pub fn new(
        key: NodeKey,
        purpose: Purpose,
        own: &str,
        expected: Option<&str>,
        nonce: Nonce,
    ) -> Self {
        Self {
            key,
            talk: Talk {
                purpose,
                dialer: own.into(),
                listener: String::new(),
                dialed_with: nonce,
                answered_with: [0; 32],
            },
            expected: expected.map(String::from),
            has_proved: false,
            line: Line::default(),
        }
    }

    /// What is to be said first.
    pub fn hello(&self) -> String {
        let Talk {
            purpose,
            dialer,
            dialed_with,
            ..
        } = &self.talk;
        format!("{HELLO}{purpose} {dialer} {}\r\n", hex(dialed_with))
    }

    /// Takes in what arrived.
    ///
    /// # Errors
    /// [`Fault`]: the link is to be closed.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Heard, Fault> {
        let (due, other) = match self.has_proved {
            false => (HELLO, Fault::Plain),
            true => (PROOF, Fault::Form),
        };
        let Some(line) = self.line.take(bytes, &[due, WRONG_KEY], other)? else {
            return Ok(Heard::Nothing);
        };
        if line.starts_with(WRONG_KEY) {
            return Err(Fault::Refused);
        }
        if self.has_proved {
            return match self.key.is_proven(Side::Listener, &self.talk, &line)? {
                true => Ok(Heard::Proven(String::new())),
                false => Err(Fault::Wrong),
            };
        }
        let words = line
            .strip_prefix(HELLO)
            .and_then(|line| line.split_once(' '));
        let (name, nonce) = words.ok_or(Fault::Form)?;
        let nonce = unhex(nonce).ok_or(Fault::Form)?;
        check_name(name)?;
        // Who passes on what this node's own listener says is not the node that was dialed.
        let is_meant = self
            .expected
            .as_ref()
            .is_none_or(|expected| expected == name);
        if !is_meant || name == self.talk.dialer {
            return Err(Fault::Name);
        }
        (self.talk.listener, self.talk.answered_with) = (name.into(), nonce);
        self.has_proved = true;
        Ok(Heard::Say(self.key.prove(Side::Dialer, &self.talk)))
    }
}

/// The side that has taken the connection in.
#[derive(Debug)]
pub struct Listener {
    key: NodeKey,
    talk: Talk,
    has_answered: bool,
    line: Line,
}

impl Listener {
    /// Of the node with this name.
    pub fn new(key: NodeKey, purpose: Purpose, own: &str, nonce: Nonce) -> Self {
        Self {
            key,
            talk: Talk {
                purpose,
                dialer: String::new(),
                listener: own.into(),
                dialed_with: [0; 32],
                answered_with: nonce,
            },
            has_answered: false,
            line: Line::default(),
        }
    }

    /// The name of the dialer; it is known once the link is proven.
    pub fn peer(&self) -> &str {
        &self.talk.dialer
    }

    /// What the link is for.
    pub fn purpose(&self) -> Purpose {
        self.talk.purpose
    }

    /// Takes in what arrived.
    ///
    /// # Errors
    /// [`Fault`]: the link is to be closed.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Heard, Fault> {
        let (due, other) = match self.has_answered {
            false => (HELLO, Fault::Plain),
            true => (PROOF, Fault::Form),
        };
        let Some(line) = self.line.take(bytes, &[due], other)? else {
            return Ok(Heard::Nothing);
        };
        if self.has_answered {
            return match self.key.is_proven(Side::Dialer, &self.talk, &line)? {
                true => Ok(Heard::Proven(self.key.prove(Side::Listener, &self.talk))),
                false => Err(Fault::Wrong),
            };
        }
        let words = line.strip_prefix(HELLO).unwrap_or_default();
        let mut words = words.split(' ');
        let (Some(purpose), Some(name), Some(nonce), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Fault::Form);
        };
        let nonce = unhex(nonce).ok_or(Fault::Form)?;
        check_name(name)?;
        if purpose != self.talk.purpose.to_string() {
            return Err(Fault::Purpose);
        }
        if name == self.talk.listener {
            return Err(Fault::Name);
        }
        (self.talk.dialer, self.talk.dialed_with) = (name.into(), nonce);
        self.has_answered = true;
        let own = &self.talk.listener;
        let nonce = hex(&self.talk.answered_with);
        Ok(Heard::Say(format!("{HELLO}{own} {nonce}\r\n")))
    }
}

fn check_name(name: &str) -> Result<(), Fault> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
    match (1..=NAME_MAX).contains(&name.len()) && is_plain {
        true => Ok(()),
        false => Err(Fault::Form),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes in small digits; there is one way to write them.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
