//! What goes from the incumbent to the successor beside the data, on a line between the two that no
//! supervisor knows of: the connections of clients, and what was changed at run time.
//!
//! The successor says [`Greeting`] with the handoff's id. The incumbent answers only once it is over with it:
//!
//! ```text
//! frame     u8   kind: 1 clients, 2 go, 3 end, 4 changes
//!           u8   0
//!           u16  LE, how many clients; as many descriptors come with the frame's first byte
//!           u32  LE, bytes behind this field
//! clients   for each one: u32 LE bytes of its state, state (see [`Client`])
//! go        u64  LE, the number that the next client would have had here
//! end       u32  LE clients that were passed, u32 LE that were not
//! changes   what was changed at run time (see [`Changes`]), before the first clients; none if nothing was
//! ```
//!
//! A state is written as messages of the supervisor's protocol are: numbers are varints, byte strings and
//! lists have their length before them. What is received on this line was written by a process of the same
//! user; it is checked all the same.

use super::{
    Id,
    wire::{
        put_bytes, put_flag, put_list, put_number, take_array, take_bytes, take_flag, take_list,
        take_number,
    },
};
use crate::base::Ms;

/// Clients of one frame. No more descriptors fit into one send.
pub const CLIENTS_MAX: usize = 200;
/// Bytes of the state of one client, what it has sent and nobody has read included.
pub const STATE_MAX: usize = 64 << 20;
/// Bytes of a frame's body at which no further client is put into it.
pub const BODY_FULL: usize = 1 << 20;
/// Bytes of the longest body.
pub const BODY_MAX: usize = BODY_FULL + STATE_MAX + 4 * CLIENTS_MAX;
/// Bytes of a frame's head.
pub const HEAD_LEN: usize = 8;
/// Bytes of a greeting.
pub const GREETING_LEN: usize = 24;
/// The name of the protocol and, as its last byte, the version.
const NAME: [u8; 8] = *b"rkpass\0\x01";

/// The user of whom nothing is said.
const DEFAULT: &[u8] = b"default";

/// What a successor says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting(pub Id);

impl Greeting {
    /// Its bytes.
    pub fn compose(self) -> [u8; GREETING_LEN] {
        let mut bytes = [0; GREETING_LEN];
        bytes[..8].copy_from_slice(&NAME);
        bytes[8..].copy_from_slice(&self.0.0);
        bytes
    }

    /// Of its bytes; nothing if they are of something else, or of another version.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let id = bytes.strip_prefix(&NAME)?;
        id.try_into().ok().map(|id| Greeting(Id(id)))
    }
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// How many clients.
    pub clients: usize,
    /// Bytes of the body.
    pub len: usize,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Clients.
    Clients,
    /// All that could be passed at once were: serve.
    Go,
    /// Nothing comes behind this.
    End,
    /// What was changed at run time.
    Changes,
}

impl Head {
    /// Its bytes.
    pub fn compose(self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[0] = match self.kind {
            Kind::Clients => 1,
            Kind::Go => 2,
            Kind::End => 3,
            Kind::Changes => 4,
        };
        bytes[2..4].copy_from_slice(&(self.clients as u16).to_le_bytes());
        bytes[4..].copy_from_slice(&(self.len as u32).to_le_bytes());
        bytes
    }

    /// Of its bytes; nothing if there is no such frame.
    pub fn read(bytes: [u8; HEAD_LEN]) -> Option<Self> {
        let [kind, zero, c0, c1, len @ ..] = bytes;
        let (clients, len) = (
            usize::from(u16::from_le_bytes([c0, c1])),
            usize::try_from(u32::from_le_bytes(len)).ok()?,
        );
        let kind = match kind {
            1 => Kind::Clients,
            2 => Kind::Go,
            3 => Kind::End,
            4 => Kind::Changes,
            _ => return None,
        };
        let fits = match kind {
            Kind::Clients => (1..=CLIENTS_MAX).contains(&clients) && len <= BODY_MAX,
            Kind::Go | Kind::End => clients == 0 && len == 8,
            Kind::Changes => clients == 0 && len <= BODY_MAX,
        };
        (zero == 0 && fits).then_some(Head { kind, clients, len })
    }
}

/// Appends the state of a client to the body of a frame.
pub fn put_state(state: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(&(state.len() as u32).to_le_bytes());
    body.extend_from_slice(state);
}

/// The states in a frame's body; nothing if it does not hold so many and nothing else.
pub fn states(mut body: &[u8], clients: usize) -> Option<Vec<&[u8]>> {
    let mut states = Vec::new();
    for _ in 0..clients {
        let len = u32::from_le_bytes(take_array(&mut body)?);
        let (state, rest) = body.split_at_checked(usize::try_from(len).ok()?)?;
        states.push(state);
        body = rest;
    }
    body.is_empty().then_some(states)
}

/// What was changed at run time: the successor goes on with it where it began with the same.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Parameters that CONFIG SET changed.
    pub parameters: Vec<Change>,
    /// The users, as their file would have them.
    pub users: Option<Change>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The parameter; empty for the users.
    pub name: Vec<u8>,
    /// What the incumbent was started with.
    pub before: Vec<u8>,
    /// What it has now.
    pub now: Vec<u8>,
}

impl Changes {
    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty() && self.users.is_none()
    }

    /// As the body of a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_list(&self.parameters, out, put_change);
        let users = self.users.as_ref();
        put_flag(users.is_some(), out);
        users.iter().for_each(|users| put_change(users, out));
    }

    /// Of such a body; nothing if it is none.
    pub fn decode(mut rest: &[u8]) -> Option<Self> {
        let rest = &mut rest;
        let changes = Self {
            parameters: take_list(rest, take_change)?,
            users: match take_flag(rest)? {
                false => None,
                true => Some(take_change(rest)?),
            },
        };
        rest.is_empty().then_some(changes)
    }
}

fn put_change(change: &Change, out: &mut Vec<u8>) {
    put_bytes(&change.name, out);
    put_bytes(&change.before, out);
    put_bytes(&change.now, out);
}

fn take_change(rest: &mut &[u8]) -> Option<Change> {
    let mut text = || Some(take_bytes(rest)?.to_vec());
    Some(Change {
        name: text()?,
        before: text()?,
        now: text()?,
    })
}

/// CLIENT REPLY.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replies {
    /// Every reply is sent.
    #[default]
    On,
    /// None is.
    Off,
    /// The next one is not.
    SkipNext,
}

/// A command with its arguments.
pub type Words = Vec<Vec<u8>>;

/// Commands that wait for EXEC.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Queue {
    /// In order.
    pub commands: Vec<Words>,
    /// EXEC will refuse them.
    pub has_failed: bool,
}

/// A command that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The command.
    pub words: Words,
    /// When it gives up, by the wall clock.
    pub deadline: Option<Ms>,
}

/// All that is known of a connection but the connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Client {
    /// Its number.
    pub id: u64,
    /// It speaks RESP3.
    pub is_resp3: bool,
    /// The database that it has selected.
    pub db: u64,
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO.
    pub lib_name: Vec<u8>,
    /// CLIENT SETINFO.
    pub lib_version: Vec<u8>,
    /// CLIENT REPLY.
    pub replies: Replies,
    /// CLIENT NO-TOUCH.
    pub no_touch: bool,
    /// CLIENT NO-EVICT.
    pub no_evict: bool,
    /// It has shown the password.
    pub is_trusted: bool,
    /// The name of its user.
    pub user: Vec<u8>,
    /// It came to the port of this shard.
    pub port_shard: Option<u64>,
    /// For how long it has been connected.
    pub age_ms: Ms,
    /// For how long it has asked nothing.
    pub idle_ms: Ms,
    /// MULTI.
    pub queue: Option<Queue>,
    /// It watches keys: a transaction of it must fail, because nobody has looked after them meanwhile.
    pub is_tainted: bool,
    /// SUBSCRIBE.
    pub channels: Vec<Vec<u8>>,
    /// PSUBSCRIBE.
    pub patterns: Vec<Vec<u8>>,
    /// SSUBSCRIBE.
    pub shard_channels: Vec<Vec<u8>>,
    /// What it waits with.
    pub blocked: Option<Blocked>,
    /// What it has sent and nobody has answered, behind that.
    pub unread: Vec<u8>,
}

impl Client {
    /// Appends its state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_number(self.id, out);
        put_number(self.db, out);
        for text in [&self.name, &self.lib_name, &self.lib_version] {
            put_bytes(text, out);
        }
        put_number(
            match self.replies {
                Replies::On => 0,
                Replies::Off => 1,
                Replies::SkipNext => 2,
            },
            out,
        );
        for flag in [self.is_resp3, self.no_touch, self.no_evict] {
            put_flag(flag, out);
        }
        // Whoever knows of no users reads a flag here: it must not take this client for one that may do
        // everything.
        let is_named = self.user != DEFAULT;
        put_number(u64::from(self.is_trusted) | u64::from(is_named) << 1, out);
        if is_named {
            put_bytes(&self.user, out);
        }
        put_flag(self.is_tainted, out);
        put_optional(self.port_shard, out);
        put_number(self.age_ms, out);
        put_number(self.idle_ms, out);
        put_flag(self.queue.is_some(), out);
        if let Some(queue) = &self.queue {
            put_list(&queue.commands, out, |words, out| put_words(words, out));
            put_flag(queue.has_failed, out);
        }
        for names in [&self.channels, &self.patterns, &self.shard_channels] {
            put_words(names, out);
        }
        put_flag(self.blocked.is_some(), out);
        if let Some(blocked) = &self.blocked {
            put_words(&blocked.words, out);
            put_optional(blocked.deadline, out);
        }
        put_bytes(&self.unread, out);
    }

    /// Of its state; nothing if that is none. Takes memory in proportion to the bytes.
    pub fn decode(mut rest: &[u8]) -> Option<Client> {
        let rest = &mut rest;
        let id = take_number(rest)?;
        let db = take_number(rest)?;
        let mut text = || Some(take_bytes(rest)?.to_vec());
        let (name, lib_name, lib_version) = (text()?, text()?, text()?);
        let replies = match take_number(rest)? {
            0 => Replies::On,
            1 => Replies::Off,
            2 => Replies::SkipNext,
            _ => return None,
        };
        let (is_resp3, no_touch, no_evict) = (take_flag(rest)?, take_flag(rest)?, take_flag(rest)?);
        let trust = take_number(rest).filter(|trust| *trust <= 3)?;
        let user = match trust & 2 {
            0 => DEFAULT.to_vec(),
            _ => take_bytes(rest).filter(|user| *user != DEFAULT)?.to_vec(),
        };
        let client = Client {
            id,
            db,
            name,
            lib_name,
            lib_version,
            replies,
            is_resp3,
            no_touch,
            no_evict,
            is_trusted: trust & 1 != 0,
            user,
            is_tainted: take_flag(rest)?,
            port_shard: take_optional(rest)?,
            age_ms: take_number(rest)?,
            idle_ms: take_number(rest)?,
            queue: match take_flag(rest)? {
                false => None,
                true => Some(Queue {
                    commands: take_list(rest, take_words)?,
                    has_failed: take_flag(rest)?,
                }),
            },
            channels: take_words(rest)?,
            patterns: take_words(rest)?,
            shard_channels: take_words(rest)?,
            blocked: match take_flag(rest)? {
                false => None,
                true => Some(Blocked {
                    words: take_words(rest)?,
                    deadline: take_optional(rest)?,
                }),
            },
            unread: take_bytes(rest)?.to_vec(),
        };
        rest.is_empty().then_some(client)
    }
}

fn put_words(words: &[Vec<u8>], out: &mut Vec<u8>) {
    put_list(words, out, |word, out| put_bytes(word, out));
}

fn take_words(rest: &mut &[u8]) -> Option<Words> {
    take_list(rest, |rest| Some(take_bytes(rest)?.to_vec()))
}

fn put_optional(number: Option<u64>, out: &mut Vec<u8>) {
    put_flag(number.is_some(), out);
    if let Some(number) = number {
        put_number(number, out);
    }
}

fn take_optional(rest: &mut &[u8]) -> Option<Option<u64>> {
    match take_flag(rest)? {
        false => Some(None),
        true => take_number(rest).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn full() -> Client {
        let word = |text: &str| text.as_bytes().to_vec();
        let words = |text: &str| text.split(' ').map(word).collect::<Words>();
        Client {
            id: 77,
            is_resp3: true,
            db: 3,
            name: word("worker"),
            lib_name: word("lib"),
            lib_version: word("1.2"),
            replies: Replies::SkipNext,
            no_touch: true,
            no_evict: false,
            is_trusted: true,
            user: word("worker"),
            port_shard: Some(2),
            age_ms: 1 << 40,
            idle_ms: 300,
            queue: Some(Queue {
                commands: vec![words("SET k v"), words("INCR n")],
                has_failed: false,
            }),
            is_tainted: true,
            channels: words("news weather"),
            patterns: words("n*"),
            shard_channels: words("s"),
            blocked: Some(Blocked {
                words: words("BLPOP list 0"),
                deadline: Some(u64::MAX),
            }),
            unread: word("*1\r\n$4\r\nPI"),
        }
    }

    fn encoded(client: &Client) -> Vec<u8> {
        let mut bytes = Vec::new();
        client.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_client_is_read_as_it_was_written() {
        for client in [full(), Client::default()] {
            assert_eq!(Client::decode(&encoded(&client)), Some(client));
        }
    }

    #[test]
    fn a_cut_or_longer_state_is_refused_and_a_changed_one_harms_nobody() {
        let bytes = encoded(&full());
        for at in 0..bytes.len() {
            assert_eq!(Client::decode(&bytes[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                // It may be another client's, but never what would be written otherwise.
                if let Some(client) = Client::decode(&changed) {
                    assert_ne!(client, full());
                }
            }
        }
        assert_eq!(Client::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn heads_and_bodies_are_exactly_what_they_say() {
        for head in [
            Head {
                kind: Kind::Clients,
                clients: CLIENTS_MAX,
                len: BODY_MAX,
            },
            Head {
                kind: Kind::Go,
                clients: 0,
                len: 8,
            },
            Head {
                kind: Kind::End,
                clients: 0,
                len: 8,
            },
        ] {
            assert_eq!(Head::read(head.compose()), Some(head));
        }
        for bad in [
            [0, 0, 1, 0, 0, 0, 0, 0],
            [5, 0, 0, 0, 8, 0, 0, 0],
            [4, 0, 1, 0, 8, 0, 0, 0],
            [4, 0, 0, 0, 8, 0, 0, 255],
            [1, 1, 1, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0, 0],
            [1, 0, 201, 0, 0, 0, 0, 0],
            [1, 0, 1, 0, 0, 0, 0, 255],
            [2, 0, 0, 0, 9, 0, 0, 0],
            [3, 0, 1, 0, 8, 0, 0, 0],
        ] {
            assert_eq!(Head::read(bad), None, "{bad:?}");
        }
        let mut body = Vec::new();
        put_state(b"one", &mut body);
        put_state(b"", &mut body);
        assert_eq!(states(&body, 2), Some(vec![&b"one"[..], b""]));
        assert_eq!(states(&body, 1), None);
        assert_eq!(states(&body, 3), None);
        for cut in 0..body.len() {
            assert_eq!(states(&body[..cut], 2), None);
        }
    }

    #[test]
    fn changes_are_read_as_they_were_written() {
        let change = |name: &str| Change {
            name: name.into(),
            before: b"1".to_vec(),
            now: b"".to_vec(),
        };
        for (parameters, users) in [
            (vec![], None),
            (vec![change("a"), change("b")], None),
            (vec![change("a")], Some(change(""))),
        ] {
            let changes = Changes { parameters, users };
            let mut bytes = Vec::new();
            changes.encode(&mut bytes);
            assert_eq!(Changes::decode(&bytes), Some(changes));
            for cut in 0..bytes.len() {
                assert_eq!(Changes::decode(&bytes[..cut]), None);
            }
            bytes.push(0);
            assert_eq!(Changes::decode(&bytes), None);
        }
    }

    #[test]
    fn a_greeting_is_of_this_version() {
        let greeting = Greeting(Id([9; 16]));
        let bytes = greeting.compose();
        assert_eq!(Greeting::read(&bytes), Some(greeting));
        assert_eq!(Greeting::read(&bytes[1..]), None);
        assert_eq!(Greeting::read(&bytes[..23]), None);
        let mut other = bytes;
        other[7] = 2;
        assert_eq!(Greeting::read(&other), None);
    }

    proptest! {
        #[test]
        fn no_state_panics(bytes in vec(any::<u8>(), 0..300)) {
            if let Some(client) = Client::decode(&bytes) {
                prop_assert_eq!(Client::decode(&encoded(&client)), Some(client));
            }
            let _ = states(&bytes, 3);
        }
    }
}
