//! One connection between nodes, in TLS: bytes in and out, and what they mean.
//!
//! How to drive a [`Tunnel`]: hand what arrives to `hear`; whenever nothing is on its way to the other side,
//! send the next block, if there is one. What is to be said waits here as it came, and is ciphered a block at
//! a time, so that a slow peer costs one block.

use std::{collections::VecDeque, io::IoSlice, net::SocketAddr};

use bytes::Bytes;
use rustls::{Connection, Error};
use uring::Outgoing;

use super::{
    machine::{Exhausted, Machine, is_record},
    nodes::{Fault, NodeTls},
};

/// Text of one block, at most.
const BLOCK_LEN: usize = 256 << 10;
/// Memory that is kept for the next block, at most.
const SPARE_MAX: usize = 32 << 10;
/// What is said to who speaks without TLS: the alert for a message that was not expected.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// See the module page.
pub(super) struct Tunnel {
    machine: Machine,
    has_heard: bool,
    has_opened: bool,
    /// What is to be said.
    waiting: VecDeque<Bytes>,
    /// Nothing follows it, and that is to be said, too; or was.
    leaves: bool,
    has_left: bool,
    /// The other side speaks without TLS: it is to be told so.
    is_plain: bool,
    spare: Vec<u8>,
}

/// What came of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    /// Both sides have shaken hands with them.
    pub has_opened: bool,
    /// The other side says nothing more.
    pub has_closed: bool,
}

/// The other side is none for a link.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Broken {
    pub fault: Fault,
    /// What the library says of it.
    pub detail: String,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self {
            fault: Fault::of(&error),
            detail: error.to_string(),
        }
    }
}

impl Tunnel {
    /// To another node.
    pub fn dialed(nodes: &NodeTls, to: SocketAddr) -> Result<Self, Error> {
        Ok(Self::new(Connection::Client(nodes.of_dialed(to)?)))
    }

    /// From one.
    pub fn accepted(nodes: &NodeTls) -> Result<Self, Error> {
        Ok(Self::new(Connection::Server(nodes.of_client()?)))
    }

    fn new(connection: Connection) -> Self {
        Self {
            machine: Machine::new(connection),
            has_heard: false,
            has_opened: false,
            waiting: VecDeque::new(),
            leaves: false,
            has_left: false,
            is_plain: false,
            spare: Vec::new(),
        }
    }

    /// Takes in what came, and appends to `text` what it says.
    pub fn hear(&mut self, mut bytes: &[u8], text: &mut Vec<u8>) -> Result<Heard, Broken> {
        if !std::mem::replace(&mut self.has_heard, true) && !is_record(bytes) {
            self.is_plain = true;
            return Err(Broken {
                fault: Fault::Plain,
                detail: String::new(),
            });
        }
        let mut has_closed = false;
        while !bytes.is_empty()
            && !has_closed
            && let Some(found) = self.machine.take_in(&mut bytes)?
        {
            if found.has_text {
                self.machine.hand_on(|piece| {
                    text.extend_from_slice(piece);
                    true
                });
            }
            has_closed = found.has_closed;
        }
        let is_open = self.machine.is_open();
        Ok(Heard {
            has_opened: is_open && !std::mem::replace(&mut self.has_opened, is_open),
            has_closed,
        })
    }

    /// Something is to be said, behind what waits.
    pub fn say(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Block(block) => self.waiting.push_back(block.into()),
            Outgoing::Gather(pieces) => self.waiting.extend(pieces),
        }
    }

    /// Is all of that ciphered?
    pub fn is_said(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nothing more is to be said.
    pub fn leave(&mut self) {
        self.leaves = true;
    }

    /// Does nothing follow what was ciphered?
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// The next bytes to send.
    pub fn next_block(&mut self) -> Result<Option<Vec<u8>>, Exhausted> {
        let mut block = std::mem::take(&mut self.spare);
        block.clear();
        if std::mem::take(&mut self.is_plain) {
            self.has_left = true;
            block.extend_from_slice(&ALERT);
        }
        self.machine.take_said(&mut block);
        if self.has_opened && !self.has_left {
            self.cipher(&mut block)?;
        }
        if block.is_empty() {
            self.spare = block;
            return Ok(None);
        }
        Ok(Some(block))
    }

    /// Ciphers what waits, as much as one block has.
    fn cipher(&mut self, block: &mut Vec<u8>) -> Result<(), Exhausted> {
        let (mut pieces, mut len) = (Vec::with_capacity(self.waiting.len()), 0);
        while len < BLOCK_LEN
            && let Some(mut piece) = self.waiting.pop_front()
        {
            if piece.len() > BLOCK_LEN - len {
                self.waiting.push_front(piece.split_off(BLOCK_LEN - len));
            }
            len += piece.len();
            pieces.push(piece);
        }
        if len > 0 {
            let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            self.machine.cipher(&pieces, block)?;
        }
        if self.leaves && self.waiting.is_empty() {
            self.has_left = true;
            self.machine.take_leave(block);
        }
        Ok(())
    }

    /// Takes back the memory of a finished send.
    pub fn reuse(&mut self, block: Vec<u8>) {
        // While more waits the next block is as large.
        if block.capacity() <= SPARE_MAX || !self.waiting.is_empty() {
            self.spare = block;
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::ExtendedKeyUsagePurpose;

    use super::{
        super::{Session, nodes::tests::Authority},
        *,
    };

    /// Both ends of a link, and what each has heard.
    struct Ends {
        dialed: Tunnel,
        came: Tunnel,
        heard: [Vec<u8>; 2],
        opened: [bool; 2],
        closed: [bool; 2],
    }

    impl Ends {
        fn new(dials: &NodeTls, listens: &NodeTls) -> Self {
            let to = SocketAddr::from(([10, 0, 0, 1], 16_004));
            Self {
                dialed: Tunnel::dialed(dials, to).expect("it can be made"),
                came: Tunnel::accepted(listens).expect("it can be made"),
                heard: Default::default(),
                opened: [false; 2],
                closed: [false; 2],
            }
        }

        /// Carries what both have to say over, in pieces of so many bytes, until neither says more.
        fn talk(&mut self, step: usize) -> Result<usize, (usize, Fault)> {
            let mut carried = 0;
            loop {
                let before = carried;
                for to in [1, 0] {
                    let ends = [&mut self.dialed, &mut self.came];
                    let [from, end] = if to == 1 {
                        ends
                    } else {
                        let [a, b] = ends;
                        [b, a]
                    };
                    while let Some(block) = from.next_block().expect("keys are new") {
                        for piece in block.chunks(step) {
                            let heard = end.hear(piece, &mut self.heard[to]);
                            let heard = heard.map_err(|broken| (to, broken.fault))?;
                            self.opened[to] |= heard.has_opened;
                            self.closed[to] |= heard.has_closed;
                        }
                        carried += block.len();
                        from.reuse(block);
                    }
                }
                if carried == before {
                    return Ok(carried);
                }
            }
        }

        /// What is told at the end that does not accept the other, and then at that one.
        fn fault(&mut self) -> [(usize, Fault); 2] {
            let first = self.talk(usize::MAX).expect_err("it is not accepted");
            let second = self.talk(usize::MAX).expect_err("it is told");
            [first, second]
        }
    }

    fn block(text: &[u8]) -> Outgoing {
        Outgoing::Block(text.to_vec())
    }

    #[test]
    fn both_sides_hear_what_was_said_wherever_it_is_cut() {
        let node = Authority::new().node();
        for step in [1, 2, 3, 5, 7, 64, usize::MAX] {
            let mut ends = Ends::new(&node, &node);
            // What is said before waits for the handshake.
            ends.dialed.say(block(b"hello"));
            ends.talk(step).expect("they shake hands");
            assert_eq!(ends.opened, [true; 2], "{step}");
            let pieces = vec![Bytes::from_static(b"+ACK"), Bytes::from_static(b" 1\r\n")];
            ends.came.say(Outgoing::Gather(pieces));
            assert!(!ends.came.is_said());
            ends.came.leave();
            ends.talk(step).expect("they talk");
            assert!(ends.came.is_said() && ends.came.has_left());
            assert_eq!(ends.heard, [b"+ACK 1\r\n".to_vec(), b"hello".to_vec()]);
            assert_eq!(ends.closed, [true, false]);
        }
    }

    #[test]
    fn much_is_ciphered_a_block_at_a_time() {
        let node = Authority::new().node();
        let mut ends = Ends::new(&node, &node);
        ends.talk(usize::MAX).expect("they shake hands");
        let text: Vec<u8> = (0..3 * BLOCK_LEN + 77).map(|at| (at % 251) as u8).collect();
        let mut pieces: Vec<_> = text[..9].chunks(2).map(Bytes::copy_from_slice).collect();
        pieces.push(Bytes::copy_from_slice(&text[9..]));
        ends.dialed.say(Outgoing::Gather(pieces));
        let mut blocks = 0;
        while let Some(block) = ends.dialed.next_block().expect("keys are new") {
            assert!(block.len() < BLOCK_LEN + BLOCK_LEN / 16);
            assert_eq!(ends.dialed.is_said(), blocks == 3);
            ends.came
                .hear(&block, &mut ends.heard[1])
                .expect("it is good");
            ends.dialed.reuse(block);
            blocks += 1;
        }
        assert_eq!(blocks, 4);
        assert!(ends.heard[1] == text);
        assert!(ends.dialed.spare.capacity() <= SPARE_MAX);
    }

    #[test]
    fn a_certificate_of_another_authority_is_refused_on_both_sides() {
        let (ours, other) = (Authority::new(), Authority::new());
        let (node, stranger) = (ours.node(), other.node());
        // What the listener shows is looked at first.
        let told = [(0, Fault::Certificate), (1, Fault::Refused)];
        assert_eq!(Ends::new(&node, &stranger).fault(), told);
        let trusting = other.node_that_accepts(&ours);
        let told = [(1, Fault::Certificate), (0, Fault::Refused)];
        assert_eq!(Ends::new(&trusting, &node).fault(), told);
    }

    #[test]
    fn neither_an_old_certificate_nor_one_for_another_use_is_accepted() {
        let ours = Authority::new();
        let (node, old) = (ours.node(), ours.expired_node());
        assert_eq!(Ends::new(&node, &old).fault()[0], (0, Fault::Certificate));
        assert_eq!(Ends::new(&old, &node).fault()[0], (1, Fault::Certificate));
        let listens = ours.node_that_may_only(ExtendedKeyUsagePurpose::ServerAuth);
        let dials = ours.node_that_may_only(ExtendedKeyUsagePurpose::ClientAuth);
        assert!(Ends::new(&dials, &listens).talk(usize::MAX).is_ok());
        assert_eq!(Ends::new(&node, &dials).fault()[0], (0, Fault::Certificate));
        assert_eq!(
            Ends::new(&listens, &node).fault()[0],
            (1, Fault::Certificate)
        );
    }

    #[test]
    fn who_speaks_without_tls_is_told_so() {
        let node = Authority::new().node();
        for plain in [
            &b"*4\r\n$9\r\nREPLICATE\r\n"[..],
            b"+RINGKEY1 ",
            b"\n",
            b"\0",
        ] {
            let mut ends = Ends::new(&node, &node);
            ends.dialed
                .next_block()
                .expect("keys are new")
                .expect("it begins");
            for end in [&mut ends.came, &mut ends.dialed] {
                let broken = end.hear(plain, &mut Vec::new()).expect_err("it is plain");
                assert_eq!(broken.fault, Fault::Plain);
                let alert = end.next_block().expect("keys are new").expect("it is told");
                assert!(is_record(&alert));
                assert_eq!((alert, end.has_left()), (ALERT.to_vec(), true));
            }
        }
    }

    #[test]
    fn what_is_cut_off_opens_nothing_and_garbage_ends_it() {
        let node = Authority::new().node();
        let mut first = Ends::new(&node, &node);
        let hello = first
            .dialed
            .next_block()
            .expect("keys are new")
            .expect("it begins");
        for len in 1..hello.len() {
            let mut came = Tunnel::accepted(&node).expect("it can be made");
            let heard = came
                .hear(&hello[..len], &mut Vec::new())
                .expect("it is a part");
            let nothing = Heard {
                has_opened: false,
                has_closed: false,
            };
            assert_eq!((heard, came.next_block()), (nothing, Ok(None)), "{len}");
        }
        let (mut broken, mut silent) = (0, 0);
        for at in 0..hello.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = hello.clone();
                bytes[at] ^= flip;
                let mut came = Tunnel::accepted(&node).expect("it can be made");
                match came.hear(&bytes, &mut Vec::new()) {
                    Ok(heard) => assert!(!heard.has_opened),
                    Err(_) => broken += 1,
                }
                silent += u32::from(came.next_block() == Ok(None));
            }
        }
        assert!(broken > 100 && silent > 0, "{broken} {silent}");
        let mut ends = Ends::new(&node, &node);
        ends.talk(usize::MAX).expect("they shake hands");
        ends.dialed.say(block(b"hello"));
        let mut good = ends
            .dialed
            .next_block()
            .expect("keys are new")
            .expect("it is said");
        *good.last_mut().expect("it has bytes") ^= 1;
        let broken = ends
            .came
            .hear(&good, &mut ends.heard[1])
            .expect_err("it is another text");
        assert_eq!((broken.fault, &ends.heard[1]), (Fault::Broken, &Vec::new()));
    }

    #[test]
    fn a_client_of_the_plain_port_is_in_tls_only_once_it_says_so() {
        let mut session = Session::undecided();
        assert!(session.is_undecided() && !session.is_late(u64::MAX));
        session.reuse(vec![0; 8]);
        let connection = Authority::new().node().of_client();
        session.begin(connection.expect("it can be made"));
        assert!(!session.is_undecided() && session.is_late(u64::MAX) && !session.is_late(0));
    }
}
