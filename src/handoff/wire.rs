//! Frames and messages.
//!
//! ```text
//! u32 LE   bytes behind this field, 2 to 1 MiB
//! u16 LE   version of the protocol
//! ...      one message
//! ```
//!
//! Messages are as the `postcard` package writes them: a message is its number and its fields; numbers are
//! varints, low bits first; strings, byte strings and lists have their length before them, arrays do not;
//! the id of a handoff is a byte string of 16. What follows a message within its frame is left to later
//! versions and skipped.

use super::{Id, VERSION};

/// The longest frame, without its first field.
pub const FRAME_MAX: usize = 1 << 20;
/// The shortest: a version and nothing.
const FRAME_MIN: usize = 2;
const LENGTH_LEN: usize = 4;

/// A capability, and no part of the library's protocol: an incumbent gives its listeners to a supervisor that
/// asks for them, so that one that has lost them goes on with the same ones.
pub const LENDS: u64 = 1;

/// Who says hello.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// The process that serves.
    Incumbent,
    /// The one that is to.
    Successor,
}

/// What is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The first of either process.
    Hello {
        /// Which one it is.
        role: Role,
        /// Its number.
        pid: u32,
        /// Names its build. Nobody reads it.
        build: Vec<u8>,
        /// The versions that it speaks.
        versions: (u16, u16),
        /// Bits; the library has none. See [`LENDS`].
        capabilities: u64,
    },
    /// The supervisor's answer.
    HelloAck {
        /// What is spoken from now on.
        version: u16,
        /// Names the handoff.
        id: Id,
    },
    /// To the incumbent: come to an end with what is under way.
    Prepare {
        /// The handoff.
        id: Id,
        /// The process that waits.
        successor: u32,
        /// Milliseconds for all.
        deadline_ms: u64,
        /// Of them for this.
        grace_ms: u64,
    },
    /// The incumbent has.
    Drained {
        /// Connections that are still there.
        open_conns: u32,
        /// No new ones are taken.
        accept_closed: bool,
    },
    /// To the incumbent: write down everything and let the data directory go.
    SealRequest(Id),
    /// It is at it.
    SealProgress {
        /// Shards that are done.
        sealed: u32,
        /// Of so many.
        total: u32,
        /// Where the last one ended.
        revision: u64,
    },
    /// It has.
    SealComplete {
        /// The handoff.
        id: Id,
        /// Where each shard ended.
        revisions: Vec<u64>,
        /// The checksum of the seal.
        fingerprint: [u8; 32],
    },
    /// It could not, and goes on serving.
    SealFailed {
        /// The handoff.
        id: Id,
        /// Why.
        error: String,
        /// Of no meaning yet.
        partial: String,
    },
    /// To the successor: the data directory is yours.
    Begin(Id),
    /// It serves.
    Ready {
        /// The handoff.
        id: Id,
        /// Where it listens.
        listening: Vec<String>,
        /// It is well.
        is_healthy: bool,
        /// Where each shard went on.
        revisions: Vec<u64>,
    },
    /// To the incumbent: end.
    Commit(Id),
    /// To the successor: end.
    Abort {
        /// The handoff.
        id: Id,
        /// Why.
        reason: String,
    },
    /// To the incumbent: serve on.
    Resume(Id),
    /// Somebody is alive.
    Heartbeat {
        /// By its clock, milliseconds since 1970.
        at_ms: u64,
    },
    /// To the incumbent: give the listeners. Only said to one that has [`LENDS`].
    Ask,
    /// They come with this, as descriptors, in this order.
    Listeners(Vec<String>),
}

/// Why a channel is of no more use. Whoever sees one closes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// No frame is so long or so short.
    Length(u32),
    /// The frame is of another version.
    Version(u16),
    /// There is no such message, or it ends too soon, or a field cannot be what it is.
    Message,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WireError::Length(len) => write!(out, "a frame of {len} bytes"),
            WireError::Version(version) => write!(out, "a frame of version {version}"),
            WireError::Message => out.write_str("a message that cannot be read"),
        }
    }
}

impl Message {
    /// The message as a frame, behind what is in `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_LEN]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        self.write(out);
        let len = (out.len() - start - LENGTH_LEN) as u32;
        out[start..start + LENGTH_LEN].copy_from_slice(&len.to_le_bytes());
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_number(self.tag(), out);
        match self {
            Message::Hello {
                role,
                pid,
                build,
                versions,
                capabilities,
            } => {
                put_number(u64::from(*role == Role::Successor), out);
                put_number(u64::from(*pid), out);
                put_bytes(build, out);
                put_number(u64::from(versions.0), out);
                put_number(u64::from(versions.1), out);
                put_number(*capabilities, out);
            }
            Message::HelloAck { version, id } => {
                put_number(u64::from(*version), out);
                put_bytes(&id.0, out);
            }
            Message::Prepare {
                id,
                successor,
                deadline_ms,
                grace_ms,
            } => {
                put_bytes(&id.0, out);
                put_number(u64::from(*successor), out);
                put_number(*deadline_ms, out);
                put_number(*grace_ms, out);
            }
            Message::Drained {
                open_conns,
                accept_closed,
            } => {
                put_number(u64::from(*open_conns), out);
                put_flag(*accept_closed, out);
            }
            Message::SealProgress {
                sealed,
                total,
                revision,
            } => {
                put_number(u64::from(*sealed), out);
                put_number(u64::from(*total), out);
                put_number(*revision, out);
            }
            Message::SealComplete {
                id,
                revisions,
                fingerprint,
            } => {
                put_bytes(&id.0, out);
                put_numbers(revisions, out);
                out.extend_from_slice(fingerprint);
            }
            Message::SealFailed { id, error, partial } => {
                put_bytes(&id.0, out);
                put_bytes(error.as_bytes(), out);
                put_bytes(partial.as_bytes(), out);
            }
            Message::Ready {
                id,
                listening,
                is_healthy,
                revisions,
            } => {
                put_bytes(&id.0, out);
                put_texts(listening, out);
                put_flag(*is_healthy, out);
                put_numbers(revisions, out);
            }
            Message::Abort { id, reason } => {
                put_bytes(&id.0, out);
                put_bytes(reason.as_bytes(), out);
            }
            Message::SealRequest(id)
            | Message::Begin(id)
            | Message::Commit(id)
            | Message::Resume(id) => put_bytes(&id.0, out),
            Message::Heartbeat { at_ms } => put_number(*at_ms, out),
            Message::Ask => {}
            Message::Listeners(names) => put_texts(names, out),
        }
    }

    fn tag(&self) -> u64 {
        match self {
            Message::Hello { .. } => 0,
            Message::HelloAck { .. } => 1,
            Message::Prepare { .. } => 2,
            Message::Drained { .. } => 3,
            Message::SealRequest(_) => 4,
            Message::SealProgress { .. } => 5,
            Message::SealComplete { .. } => 6,
            Message::SealFailed { .. } => 7,
            Message::Begin(_) => 8,
            Message::Ready { .. } => 9,
            Message::Commit(_) => 10,
            Message::Abort { .. } => 11,
            Message::Resume(_) => 12,
            Message::Heartbeat { .. } => 13,
            // Far from what the library may add.
            Message::Ask => 96,
            Message::Listeners(_) => 97,
        }
    }

    fn read(bytes: &[u8]) -> Option<Message> {
        let rest = &mut { bytes };
        Some(match take_u32(rest)? {
            0 => Message::Hello {
                role: match take_u32(rest)? {
                    0 => Role::Incumbent,
                    1 => Role::Successor,
                    _ => return None,
                },
                pid: take_u32(rest)?,
                build: take_bytes(rest)?.to_vec(),
                versions: (take_u16(rest)?, take_u16(rest)?),
                capabilities: take_number(rest)?,
            },
            1 => Message::HelloAck {
                version: take_u16(rest)?,
                id: take_id(rest)?,
            },
            2 => Message::Prepare {
                id: take_id(rest)?,
                successor: take_u32(rest)?,
                deadline_ms: take_number(rest)?,
                grace_ms: take_number(rest)?,
            },
            3 => Message::Drained {
                open_conns: take_u32(rest)?,
                accept_closed: take_flag(rest)?,
            },
            4 => Message::SealRequest(take_id(rest)?),
            5 => Message::SealProgress {
                sealed: take_u32(rest)?,
                total: take_u32(rest)?,
                revision: take_number(rest)?,
            },
            6 => Message::SealComplete {
                id: take_id(rest)?,
                revisions: take_list(rest, take_number)?,
                fingerprint: take_array(rest)?,
            },
            7 => Message::SealFailed {
                id: take_id(rest)?,
                error: take_text(rest)?,
                partial: take_text(rest)?,
            },
            8 => Message::Begin(take_id(rest)?),
            9 => Message::Ready {
                id: take_id(rest)?,
                listening: take_list(rest, take_text)?,
                is_healthy: take_flag(rest)?,
                revisions: take_list(rest, take_number)?,
            },
            10 => Message::Commit(take_id(rest)?),
            11 => Message::Abort {
                id: take_id(rest)?,
                reason: take_text(rest)?,
            },
            12 => Message::Resume(take_id(rest)?),
            13 => Message::Heartbeat {
                at_ms: take_number(rest)?,
            },
            96 => Message::Ask,
            97 => Message::Listeners(take_list(rest, take_text)?),
            _ => return None,
        })
    }
}

/// Cuts what a channel brings into messages. It holds what has arrived of one frame and no more than
/// [`FRAME_MAX`] bytes of that; what a length promises is not allocated.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    used: usize,
}

impl Decoder {
    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that is there as a whole.
    ///
    /// # Errors
    /// [`WireError`]: the channel is to be closed.
    pub fn take(&mut self) -> Result<Option<Message>, WireError> {
        let there = &self.bytes[self.used..];
        let Some((length, _)) = there.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        let len = length as usize;
        if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
            return Err(WireError::Length(length));
        }
        let Some(frame) = there.get(LENGTH_LEN..LENGTH_LEN + len) else {
            return Ok(None);
        };
        let version = u16::from_le_bytes([frame[0], frame[1]]);
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let message = Message::read(&frame[FRAME_MIN..]).ok_or(WireError::Message)?;
        self.used += LENGTH_LEN + len;
        Ok(Some(message))
    }
}

pub(super) fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_numbers(numbers: &[u64], out: &mut Vec<u8>) {
    put_list(numbers, out, |number, out| put_number(*number, out));
}

fn put_texts(texts: &[String], out: &mut Vec<u8>) {
    put_list(texts, out, |text, out| put_bytes(text.as_bytes(), out));
}

pub(super) fn put_flag(flag: bool, out: &mut Vec<u8>) {
    out.push(u8::from(flag));
}

pub(super) fn put_list<T>(items: &[T], out: &mut Vec<u8>, put: fn(&T, &mut Vec<u8>)) {
    put_number(items.len() as u64, out);
    items.iter().for_each(|item| put(item, out));
}

pub(super) fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take_number(rest)?.try_into().ok()
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take_number(rest)?.try_into().ok()
}

pub(super) fn take_flag(rest: &mut &[u8]) -> Option<bool> {
    match take_array(rest)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

pub(super) fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (array, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*array)
}

pub(super) fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_number(rest)?.try_into().ok()?;
    let (bytes, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(bytes)
}

fn take_id(rest: &mut &[u8]) -> Option<Id> {
    take_bytes(rest)?.try_into().ok().map(Id)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(rest)?.to_vec()).ok()
}

/// Each item takes a byte at least, so what is there bounds what is made of it.
pub(super) fn take_list<T>(rest: &mut &[u8], take: fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = take_number(rest)?;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(take(rest)?);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn messages() -> impl Strategy<Value = Message> {
        let id = any::<[u8; 16]>().prop_map(Id);
        let role = prop_oneof![Just(Role::Incumbent), Just(Role::Successor)];
        let numbers = vec(any::<u64>(), 0..9);
        prop_oneof![
            (
                role,
                any::<u32>(),
                vec(any::<u8>(), 0..40),
                any::<(u16, u16)>(),
                any::<u64>()
            )
                .prop_map(|(role, pid, build, versions, capabilities)| {
                    Message::Hello {
                        role,
                        pid,
                        build,
                        versions,
                        capabilities,
                    }
                }),
            (any::<u16>(), id.clone()).prop_map(|(version, id)| Message::HelloAck { version, id }),
            (id.clone(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
                |(id, successor, deadline_ms, grace_ms)| Message::Prepare {
                    id,
                    successor,
                    deadline_ms,
                    grace_ms
                }
            ),
            any::<(u32, bool)>().prop_map(|(open_conns, accept_closed)| Message::Drained {
                open_conns,
                accept_closed
            }),
            any::<(u32, u32, u64)>().prop_map(|(sealed, total, revision)| Message::SealProgress {
                sealed,
                total,
                revision
            }),
            (id.clone(), numbers.clone(), any::<[u8; 32]>()).prop_map(
                |(id, revisions, fingerprint)| Message::SealComplete {
                    id,
                    revisions,
                    fingerprint
                }
            ),
            (id.clone(), any::<String>(), any::<String>())
                .prop_map(|(id, error, partial)| Message::SealFailed { id, error, partial }),
            (
                id.clone(),
                vec(any::<String>(), 0..4),
                any::<bool>(),
                numbers
            )
                .prop_map(|(id, listening, is_healthy, revisions)| Message::Ready {
                    id,
                    listening,
                    is_healthy,
                    revisions
                }),
            (id.clone(), any::<String>()).prop_map(|(id, reason)| Message::Abort { id, reason }),
            id.clone().prop_map(Message::SealRequest),
            id.clone().prop_map(Message::Begin),
            id.clone().prop_map(Message::Commit),
            id.prop_map(Message::Resume),
            any::<u64>().prop_map(|at_ms| Message::Heartbeat { at_ms }),
            Just(Message::Ask),
            vec(any::<String>(), 0..4).prop_map(Message::Listeners),
        ]
    }

    /// Everything that comes of the bytes in pieces of this length.
    fn decoded(bytes: &[u8], step: usize) -> (Vec<Message>, Option<WireError>) {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(step) {
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

    proptest! {
        #[test]
        fn what_is_written_is_read_wherever_it_is_cut(said in vec(messages(), 0..5), step in 1..40usize) {
            let mut bytes = Vec::new();
            said.iter().for_each(|message| message.encode(&mut bytes));
            prop_assert_eq!(decoded(&bytes, step), (said, None));
        }

        #[test]
        fn no_bytes_panic_and_cuts_change_nothing(bytes in vec(any::<u8>(), 0..200), step in 1..40usize) {
            prop_assert_eq!(decoded(&bytes, step), decoded(&bytes, bytes.len().max(1)));
        }
    }

    #[test]
    fn a_number_has_its_bits_and_no_more() {
        let read = |mut bytes: &[u8]| take_number(&mut bytes);
        assert_eq!(read(&[0x80, 0x00]), Some(0));
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&most), Some(u64::MAX));
        assert_eq!(read(&[&most[..9], &[2]].concat()), None);
        assert_eq!(read(&[0x80; 11]), None);
        assert_eq!(take_u16(&mut &[0x80, 0x80, 0x04][..]), None);
        assert_eq!(take_u32(&mut &[0x80, 0x80, 0x80, 0x80, 0x10][..]), None);
    }

    #[test]
    fn what_a_peer_promises_is_not_allocated() {
        // A list of 2^60 numbers in a frame of a few bytes.
        let mut payload = vec![6, 16];
        payload.extend([0; 16]);
        put_number(1 << 60, &mut payload);
        assert_eq!(Message::read(&payload), None);
        let mut decoder = Decoder::default();
        decoder.push(&(FRAME_MAX as u32).to_le_bytes());
        assert_eq!(decoder.take(), Ok(None));
        assert!(decoder.bytes.capacity() < 100);
    }
}
