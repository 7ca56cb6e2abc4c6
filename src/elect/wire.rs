//! What members say to each other.
//!
//! Arrays of bulk strings. The first four are kevy's and go to every member, the last two to those that are
//! known to be ringkeeps:
//!
//! ```text
//! HB        epoch id role offset
//! OFFER     epoch id offset
//! ACCEPT    epoch id
//! ANNOUNCE  epoch id address
//! RKHB      epoch id role history offsets follows free nonce sent nonce' sent'
//! RKOFFER   epoch id history offsets
//! ```
//!
//! Names of messages may be in any case, and kevy writes its own in capitals. A ringkeep writes `hb`: that is
//! how two of them know each other, while a kevy sees the heartbeat it expects. A kevy closes the connection
//! at a message that it does not know.

use super::{Epoch, NodeId};

/// A role, as members are told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WireRole {
    /// Accepts writes, or would if its lease held.
    Primary,
    /// Follows, or looks for whom to follow.
    Replica,
    /// Has asked for votes.
    Candidate,
}

/// What data a node has: enough to say whether it has all that another one has.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Standing {
    /// The epoch whose primary the data is a copy of.
    pub history: Epoch,
    /// The number of the next frame of each of that primary's streams.
    pub offsets: Vec<u64>,
}

impl Standing {
    /// Is everything that `other` has and a majority may have acknowledged here, too? A newer history
    /// begins with all of that; within one, every stream counts for itself.
    pub fn covers(&self, other: &Standing) -> bool {
        let reaches =
            |(at, offset): (usize, &u64)| self.offsets.get(at).copied().unwrap_or(0) >= *offset;
        self.history > other.history
            || (self.history == other.history && other.offsets.iter().enumerate().all(reaches))
    }

    /// The measure of kevy, which says nothing about single streams.
    pub fn sum(&self) -> u64 {
        self.offsets
            .iter()
            .fold(0, |sum, offset| sum.saturating_add(*offset))
    }
}

/// A moment of one run of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// Drawn anew at each start.
    pub nonce: u64,
    /// That node's clock.
    pub sent: u64,
}

/// What is said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// I am here.
    Heartbeat {
        /// The sender's epoch.
        epoch: Epoch,
        /// The sender.
        from: NodeId,
        /// Its role.
        role: WireRole,
        /// Its sum of offsets.
        offset: u64,
        /// It is a ringkeep.
        is_ringkeep: bool,
    },
    /// Vote for me.
    Offer {
        /// The epoch to be the primary of.
        epoch: Epoch,
        /// The candidate.
        from: NodeId,
        /// Its sum of offsets.
        offset: u64,
    },
    /// You have my vote.
    Accept {
        /// The epoch.
        epoch: Epoch,
        /// The voter.
        from: NodeId,
    },
    /// I am the primary.
    Announce {
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        from: NodeId,
        /// Where it serves clients. Nobody relies on it: the list of peers says where members are.
        address: String,
    },
    /// A heartbeat among ringkeeps.
    Pulse(Box<Pulse>),
    /// An offer among ringkeeps.
    Ask {
        /// The epoch to be the primary of.
        epoch: Epoch,
        /// The candidate.
        from: NodeId,
        /// What it has.
        standing: Standing,
    },
}

/// A heartbeat among ringkeeps.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pulse {
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The sender.
    pub from: NodeId,
    /// Its role.
    pub role: WireRole,
    /// What it has.
    pub standing: Standing,
    /// Whom it takes for the primary of its epoch. Who is free takes nobody for that, and is free for one
    /// alone if it names one: for whom it [gave way](Pulse::heir).
    pub follows: Option<NodeId>,
    /// It would vote, if asked by somebody who has all that it has.
    pub is_free: bool,
    /// When it was sent.
    pub stamp: Stamp,
    /// The last stamp that the sender got from the receiver.
    pub echo: Option<Stamp>,
}

impl Pulse {
    /// The member for which the sender led no more: it is to stand, and alone gets the sender's vote.
    pub fn heir(&self) -> Option<NodeId> {
        self.follows.filter(|_| self.is_free)
    }
}

impl Message {
    /// The member that speaks.
    pub fn from(&self) -> NodeId {
        match self {
            Self::Heartbeat { from, .. }
            | Self::Offer { from, .. }
            | Self::Accept { from, .. }
            | Self::Announce { from, .. }
            | Self::Ask { from, .. } => *from,
            Self::Pulse(pulse) => pulse.from,
        }
    }

    /// The epoch it speaks of.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Heartbeat { epoch, .. }
            | Self::Offer { epoch, .. }
            | Self::Accept { epoch, .. }
            | Self::Announce { epoch, .. }
            | Self::Ask { epoch, .. } => *epoch,
            Self::Pulse(pulse) => pulse.epoch,
        }
    }

    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (epoch, from) = (self.epoch().0.to_string(), self.from());
        let (epoch, from) = (epoch.as_str(), from.as_str());
        match self {
            Self::Heartbeat {
                role,
                offset,
                is_ringkeep,
                ..
            } => {
                let verb = if *is_ringkeep { MARKED } else { "HB" };
                array(
                    out,
                    &[verb, epoch, from, role_name(*role), &offset.to_string()],
                );
            }
            Self::Offer { offset, .. } => array(out, &["OFFER", epoch, from, &offset.to_string()]),
            Self::Accept { .. } => array(out, &["ACCEPT", epoch, from]),
            Self::Announce { address, .. } => array(out, &["ANNOUNCE", epoch, from, address]),
            Self::Pulse(pulse) => {
                let text = |stamp: Stamp| (stamp.nonce.to_string(), stamp.sent.to_string());
                let (nonce, sent) = text(pulse.stamp);
                let (echo_nonce, echo_sent) = pulse.echo.map_or((NONE.into(), NONE.into()), text);
                let (history, offsets) = standing_text(&pulse.standing);
                let follows = pulse.follows.as_ref().map_or(NONE, NodeId::as_str);
                let free = if pulse.is_free { "1" } else { "0" };
                let role = role_name(pulse.role);
                array(
                    out,
                    &[
                        "RKHB",
                        epoch,
                        from,
                        role,
                        &history,
                        &offsets,
                        follows,
                        free,
                        &nonce,
                        &sent,
                        &echo_nonce,
                        &echo_sent,
                    ],
                );
            }
            Self::Ask { standing, .. } => {
                let (history, offsets) = standing_text(standing);
                array(out, &["RKOFFER", epoch, from, &history, &offsets]);
            }
        }
    }

    /// Reads one message from the start of `bytes`, and how many of them it took. `None`: not all of it is
    /// there.
    ///
    /// # Errors
    /// [`WireError`]: close the connection.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, WireError> {
        let mut words: arrayvec::ArrayVec<&[u8], WORDS_MAX> = arrayvec::ArrayVec::new();
        let Some((count, mut at)) = header(bytes, 0, b'*')? else {
            return incomplete(bytes);
        };
        if count == 0 || count > WORDS_MAX {
            return Err(WireError::Form);
        }
        for _ in 0..count {
            let Some((len, start)) = header(bytes, at, b'$')? else {
                return incomplete(bytes);
            };
            if len > MESSAGE_LEN_MAX {
                return Err(WireError::TooLong);
            }
            let end = start + len;
            let line_end = &bytes[end.min(bytes.len())..(end + 2).min(bytes.len())];
            if !b"\r\n".starts_with(line_end) {
                return Err(WireError::Form);
            }
            if line_end.len() < 2 {
                return incomplete(bytes);
            }
            words.push(&bytes[start..end]);
            at = end + 2;
        }
        if at > MESSAGE_LEN_MAX {
            return Err(WireError::TooLong);
        }
        Ok(Some((Self::of(&words)?, at)))
    }

    fn of(words: &[&[u8]]) -> Result<Message, WireError> {
        let verb = words[0];
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        let wanted = match () {
            _ if is("HB") || is("RKOFFER") => 5,
            _ if is("OFFER") || is("ANNOUNCE") => 4,
            _ if is("ACCEPT") => 3,
            _ if is("RKHB") => 12,
            _ => return Err(WireError::Unknown),
        };
        if words.len() != wanted {
            return Err(WireError::Form);
        }
        let (epoch, from) = (epoch(words[1])?, id(words[2])?);
        Ok(match wanted {
            3 => Self::Accept { epoch, from },
            4 if is("OFFER") => Self::Offer {
                epoch,
                from,
                offset: number(words[3])?,
            },
            4 => Self::Announce {
                epoch,
                from,
                address: text(words[3])?.into(),
            },
            5 if is("HB") => Self::Heartbeat {
                epoch,
                from,
                role: role(words[3])?,
                offset: number(words[4])?,
                is_ringkeep: verb == MARKED.as_bytes(),
            },
            5 => Self::Ask {
                epoch,
                from,
                standing: standing(words[3], words[4])?,
            },
            _ => Self::Pulse(Box::new(Pulse {
                epoch,
                from,
                role: role(words[3])?,
                standing: standing(words[4], words[5])?,
                follows: optional(words[6], id)?,
                is_free: match words[7] {
                    b"0" => false,
                    b"1" => true,
                    _ => return Err(WireError::Form),
                },
                stamp: Stamp {
                    nonce: number(words[8])?,
                    sent: number(words[9])?,
                },
                echo: match (optional(words[10], number)?, optional(words[11], number)?) {
                    (Some(nonce), Some(sent)) => Some(Stamp { nonce, sent }),
                    (None, None) => None,
                    _ => return Err(WireError::Form),
                },
            })),
        })
    }
}

/// Why a connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// Not an array of bulk strings, or not the arguments that the message has.
    Form,
    /// No message of this name.
    Unknown,
    /// Longer than [`MESSAGE_LEN_MAX`].
    TooLong,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Form => "not a message of an election",
            Self::Unknown => "a message that no member sends",
            Self::TooLong => "a message that is too long",
        })
    }
}

impl std::error::Error for WireError {}

/// Longest message in bytes; kevy's limit. It leaves room for the offsets of 700 streams.
pub const MESSAGE_LEN_MAX: usize = 16 << 10;

/// Cuts the bytes of one connection into messages. Holds at most one unfinished message and what was pushed
/// behind it.
#[derive(Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    read: usize,
}

impl Decoder {
    /// Takes what arrived. Ask for messages until there is none before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Has part of a message arrived?
    pub fn is_within(&self) -> bool {
        self.read < self.bytes.len()
    }

    /// The next message that is there as a whole.
    ///
    /// # Errors
    /// [`WireError`]: close the connection.
    pub fn take(&mut self) -> Result<Option<Message>, WireError> {
        let found = Message::decode(&self.bytes[self.read..])?;
        Ok(found.map(|(message, len)| {
            self.read += len;
            message
        }))
    }
}

/// The most words that a message has.
const WORDS_MAX: usize = 12;

/// The name by which a ringkeep shows itself.
const MARKED: &str = "hb";

/// Stands where an optional argument would.
const NONE: &str = "-";

fn incomplete<T>(bytes: &[u8]) -> Result<Option<T>, WireError> {
    match bytes.len() > MESSAGE_LEN_MAX {
        true => Err(WireError::TooLong),
        false => Ok(None),
    }
}

/// Reads `*12\r\n` or `$12\r\n` at a place: the number and the place behind it.
fn header(bytes: &[u8], at: usize, kind: u8) -> Result<Option<(usize, usize)>, WireError> {
    // Five digits are more than any limit here.
    const DIGITS_MAX: usize = 5;
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
        return Ok(None);
    };
    if rest[0] != kind {
        return Err(WireError::Form);
    }
    let digits = rest[1..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let line_end = &rest[1 + digits..rest.len().min(digits + 3)];
    if digits > DIGITS_MAX
        || !b"\r\n".starts_with(line_end)
        || (digits == 0 && !line_end.is_empty())
    {
        return Err(WireError::Form);
    }
    if line_end.len() < 2 {
        return Ok(None);
    }
    let number = rest[1..=digits]
        .iter()
        .fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    Ok(Some((number, at + digits + 3)))
}

fn array(out: &mut Vec<u8>, words: &[&str]) {
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
}

fn text(word: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(word).map_err(|_| WireError::Form)
}

/// Decimal; zeros in front are let pass, as by kevy.
fn number(word: &[u8]) -> Result<u64, WireError> {
    if !word.iter().all(u8::is_ascii_digit) {
        return Err(WireError::Form);
    }
    text(word)?.parse().map_err(|_| WireError::Form)
}

fn epoch(word: &[u8]) -> Result<Epoch, WireError> {
    let epoch = Epoch(number(word)?);
    if epoch > Epoch::MAX {
        Err(WireError::Form)
    } else {
        Ok(epoch)
    }
}

fn id(word: &[u8]) -> Result<NodeId, WireError> {
    NodeId::new(text(word)?).ok_or(WireError::Form)
}

fn optional<T>(
    word: &[u8],
    read: impl Fn(&[u8]) -> Result<T, WireError>,
) -> Result<Option<T>, WireError> {
    if word == NONE.as_bytes() {
        Ok(None)
    } else {
        read(word).map(Some)
    }
}

fn role(word: &[u8]) -> Result<WireRole, WireError> {
    match word {
        b"primary" => Ok(WireRole::Primary),
        b"replica" => Ok(WireRole::Replica),
        b"candidate" => Ok(WireRole::Candidate),
        _ => Err(WireError::Form),
    }
}

fn role_name(role: WireRole) -> &'static str {
    match role {
        WireRole::Primary => "primary",
        WireRole::Replica => "replica",
        WireRole::Candidate => "candidate",
    }
}

fn standing(history: &[u8], offsets: &[u8]) -> Result<Standing, WireError> {
    let history = epoch(history)?;
    let offsets = optional(offsets, |word| {
        word.split(|byte| *byte == b',').map(number).collect()
    })?;
    Ok(Standing {
        history,
        offsets: offsets.unwrap_or_default(),
    })
}

fn standing_text(standing: &Standing) -> (String, String) {
    let offsets: Vec<String> = standing.offsets.iter().map(u64::to_string).collect();
    let offsets = if offsets.is_empty() {
        NONE.into()
    } else {
        offsets.join(",")
    };
    (standing.history.0.to_string(), offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What kevys of every generation said to each other: three nodes, and the primary killed.
    const CAPTURES: [&[u8]; 12] = [
        include_bytes!("../../tests/golden/kevy/1.19.0/elect-a-to-b-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/1.19.0/elect-b-to-c-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/2.0.20/elect-a-to-b-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/2.0.20/elect-b-to-c-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/3.17.3/elect-a-to-b-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/3.17.3/elect-b-to-c-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/5.4.0/elect-a-to-b-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/5.4.0/elect-b-to-c-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/7.0.0/elect-a-to-b-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/7.0.0/elect-b-to-a-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/7.0.0/elect-b-to-c-conn0.bin"),
        include_bytes!("../../tests/golden/kevy/7.0.0/elect-c-to-b-conn0.bin"),
    ];

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("a name")
    }

    /// One message of each kind, as the golden file has them.
    fn samples() -> Vec<Message> {
        let (epoch, from) = (Epoch(3), id("b"));
        let standing = Standing {
            history: Epoch(2),
            offsets: vec![1_048_576, 7],
        };
        let pulse = Pulse {
            epoch,
            from,
            role: WireRole::Replica,
            standing: standing.clone(),
            follows: Some(id("a")),
            is_free: false,
            stamp: Stamp {
                nonce: u64::MAX,
                sent: 12_345,
            },
            echo: Some(Stamp { nonce: 5, sent: 0 }),
        };
        let bare = Pulse {
            role: WireRole::Candidate,
            standing: Standing::default(),
            follows: None,
            is_free: true,
            echo: None,
            ..pulse.clone()
        };
        let beat = |is_ringkeep| Message::Heartbeat {
            epoch,
            from,
            role: WireRole::Primary,
            offset: 0,
            is_ringkeep,
        };
        vec![
            beat(false),
            beat(true),
            Message::Offer {
                epoch,
                from,
                offset: 11,
            },
            Message::Accept { epoch, from },
            Message::Announce {
                epoch,
                from,
                address: "127.0.0.1:22010".into(),
            },
            Message::Pulse(Box::new(pulse)),
            Message::Pulse(Box::new(bare)),
            Message::Ask {
                epoch,
                from,
                standing,
            },
        ]
    }

    fn encoded(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    fn decoded(pieces: &[&[u8]]) -> (Vec<Message>, Option<WireError>) {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.take() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error)),
                }
            }
        }
        (messages, None)
    }

    #[test]
    fn what_kevys_said_is_read_and_would_be_said_in_the_same_bytes() {
        let mut kinds = std::collections::BTreeSet::new();
        for capture in CAPTURES {
            let mut at = 0;
            while let Some((message, len)) =
                Message::decode(&capture[at..]).expect("a capture is well-formed")
            {
                assert_eq!(encoded(&message), &capture[at..at + len]);
                kinds.insert(match message {
                    Message::Heartbeat { is_ringkeep, .. } => {
                        assert!(!is_ringkeep);
                        "HB"
                    }
                    Message::Offer { .. } => "OFFER",
                    Message::Accept { .. } => "ACCEPT",
                    Message::Announce { .. } => "ANNOUNCE",
                    other => panic!("no kevy says {other:?}"),
                });
                at += len;
            }
            assert!(
                at > 0 && capture.len() - at < 200,
                "nothing but a cut message is left"
            );
        }
        assert_eq!(kinds.len(), 4, "{kinds:?}");
    }

    #[test]
    fn our_own_messages_are_frozen() {
        let golden = include_bytes!("../../tests/golden/elect/messages.bin");
        let bytes: Vec<u8> = samples().iter().flat_map(encoded).collect();
        assert_eq!(bytes, golden);
        assert_eq!(decoded(&[golden]), (samples(), None));
    }

    #[test]
    fn every_cut_is_incomplete() {
        for message in samples() {
            let bytes = encoded(&message);
            for cut in 0..bytes.len() {
                assert_eq!(
                    Message::decode(&bytes[..cut]),
                    Ok(None),
                    "{message:?} cut at {cut}"
                );
                assert_eq!(
                    decoded(&[&bytes[..cut], &bytes[cut..]]),
                    (vec![message.clone()], None)
                );
            }
        }
    }

    #[test]
    fn names_of_messages_are_in_any_case_and_arguments_are_counted() {
        let read = |words: &[&str]| {
            let mut bytes = Vec::new();
            array(&mut bytes, words);
            Message::decode(&bytes).map(|found| found.expect("all of it is there").0)
        };
        let offer = Message::Offer {
            epoch: Epoch(2),
            from: id("c"),
            offset: 7,
        };
        assert_eq!(read(&["oFFer", "2", "c", "007"]), Ok(offer));
        let beat = |verb| {
            matches!(
                read(&[verb, "1", "a", "replica", "0"]),
                Ok(Message::Heartbeat {
                    is_ringkeep: true,
                    ..
                })
            )
        };
        assert!(beat("hb") && !beat("HB") && !beat("Hb") && !beat("hB"));
        let long = "i".repeat(33);
        for (words, error) in [
            (&["OFFER", "2", "c"][..], WireError::Form),
            (&["OFFER", "2", "c", "7", "8"], WireError::Form),
            (&["OFFER", "2", "c", "+7"], WireError::Form),
            (&["OFFER", "2", "c", ""], WireError::Form),
            (
                &["OFFER", "2", "c", "18446744073709551616"],
                WireError::Form,
            ),
            (&["OFFER", "4611686018427387905", "c", "7"], WireError::Form),
            (&["OFFER", "2", &long, "7"], WireError::Form),
            (&["ACCEPT", "2", ""], WireError::Form),
            (&["HB", "1", "a", "idle", "0"], WireError::Form),
            (&["HB", "1", "a", "Primary", "0"], WireError::Form),
            (&["RKOFFER", "1", "a", "1", "1,,2"], WireError::Form),
            (&["PING"], WireError::Unknown),
        ] {
            assert_eq!(read(words), Err(error), "{words:?}");
        }
    }

    #[test]
    fn what_is_no_message_ends_the_connection_at_once() {
        for (bytes, error) in [
            (&b"PING\r\n"[..], WireError::Form),
            (b"*0\r\n", WireError::Form),
            (b"*-1\r\n", WireError::Form),
            (b"*13\r\n", WireError::Form),
            (b"*999999", WireError::Form),
            (b"*2\n", WireError::Form),
            (b"*1\r\n:1\r\n", WireError::Form),
            (b"*1\r\n$-1\r\n", WireError::Form),
            (b"*1\r\n$1\r\nab", WireError::Form),
            (b"*1\r\n$16385\r\n", WireError::TooLong),
        ] {
            assert_eq!(
                Message::decode(bytes),
                Err(error),
                "{}",
                bytes.escape_ascii()
            );
        }
        let mut endless = b"*4\r\n$8\r\nANNOUNCE\r\n$1\r\n1\r\n$1\r\na\r\n$16384\r\n".to_vec();
        endless.resize(MESSAGE_LEN_MAX, b'x');
        assert_eq!(Message::decode(&endless), Ok(None));
        endless.resize(MESSAGE_LEN_MAX + 1, b'x');
        assert_eq!(decoded(&[&endless]), (vec![], Some(WireError::TooLong)));
    }

    #[test]
    fn streams_count_for_themselves_within_one_history() {
        let at = |history, offsets: &[u64]| Standing {
            history: Epoch(history),
            offsets: offsets.to_vec(),
        };
        assert!(at(2, &[5, 5]).covers(&at(2, &[5, 4])));
        assert!(!at(2, &[900, 4]).covers(&at(2, &[5, 5])));
        assert!(at(3, &[]).covers(&at(2, &[5, 5])));
        assert!(!at(1, &[900, 900]).covers(&at(2, &[])));
        assert!(at(2, &[5]).covers(&at(2, &[5, 0])) && !at(2, &[5]).covers(&at(2, &[5, 1])));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_split_give_the_same_result(
            tail in prop::collection::vec(any::<u8>(), 0..64),
            picks in prop::collection::vec(0..8_usize, 0..4),
            flip in any::<Option<(u16, u8)>>(),
            cut in any::<u16>(),
        ) {
            let samples = samples();
            let mut bytes: Vec<u8> = picks.iter().flat_map(|pick| encoded(&samples[*pick])).collect();
            bytes.extend(tail);
            if let (Some((at, with)), false) = (flip, bytes.is_empty()) {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= with;
            }
            let cut = usize::from(cut) % (bytes.len() + 1);
            let whole = decoded(&[&bytes]);
            prop_assert_eq!(&whole, &decoded(&[&bytes[..cut], &bytes[cut..]]));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&whole, &decoded(&single));
        }
    }
}
