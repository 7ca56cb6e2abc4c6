//! Who leads the other ranges: a node has no part in their elections, so it asks one member of each. On
//! core 0.
//!
//! Once a second, INFO of the section "cluster" over a connection that stands; ten times a second while there
//! is no good answer, and then another member each time. The last answer holds while nobody answers: it may
//! be this node that is cut off.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use uring::{Endpoint, Outgoing, Reactor, SocketId};

use super::{super::shared::Tunables, Fleet, NOBODY, Shared};
use crate::{
    base::{Ms, parse_u64},
    elect::NodeId,
    resp::{Out, Proto},
};

/// Lines of the answer.
pub(super) const PRIMARY: &str = "cluster_range_primary";
pub(super) const EPOCH: &str = "cluster_range_epoch";
pub(super) const UNREACHED: &str = "cluster_range_unreached";

const ASK_MS: Ms = 1000;
const ASK_AGAIN_MS: Ms = 100;
/// For a connection, and for an answer.
const PATIENCE_MS: Ms = 500;
/// An answer is a few lines.
const ANSWER_MAX: usize = 64 << 10;

/// See the module page.
pub(in crate::shard) struct Asking {
    shared: Arc<Shared>,
    links: Vec<Link>,
    closing: Vec<SocketId>,
}

/// The connection to one member of a range.
struct Link {
    range: usize,
    member: usize,
    line: Line,
    /// Nothing is done before this.
    due: Ms,
    input: Vec<u8>,
    /// Members in a row without a good answer, and of them those that know of no primary.
    misses: usize,
    primaryless: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Down,
    /// Given up at this time.
    Dialing(SocketId, Ms),
    /// Asked, and given up at this time.
    Asked(SocketId, Ms),
    Idle(SocketId),
}

impl Line {
    fn socket(self) -> Option<SocketId> {
        match self {
            Line::Down => None,
            Line::Dialing(on, _) | Line::Asked(on, _) | Line::Idle(on) => Some(on),
        }
    }
}

/// What a member says of its range.
#[derive(PartialEq, Eq, Debug)]
struct Answer {
    primary: Option<NodeId>,
    epoch: u64,
    unreached: Vec<NodeId>,
}

/// What has come in so far.
#[derive(PartialEq, Eq, Debug)]
enum Heard {
    Unfinished,
    Answer(Answer),
    /// An error, or something else that no member says.
    Nonsense,
}

impl Asking {
    /// Nothing where the node is alone.
    pub fn new(shared: &Arc<Shared>) -> Option<Self> {
        let fleet = shared.fleet.as_ref()?;
        let ranges = 0..fleet.map.ranges().len();
        let link = |range| Link {
            range,
            member: 0,
            line: Line::Down,
            due: 0,
            input: Vec::new(),
            misses: 0,
            primaryless: 0,
        };
        Some(Self {
            shared: shared.clone(),
            links: ranges
                .filter(|range| *range != fleet.own)
                .map(link)
                .collect(),
            closing: Vec::new(),
        })
    }

    /// Is it a connection that was given up?
    fn is_closing(&self, socket: SocketId) -> bool {
        self.closing.contains(&socket)
    }

    fn link_on(&mut self, socket: SocketId) -> Option<&mut Link> {
        let mut links = self.links.iter_mut();
        links.find(|link| link.line.socket() == Some(socket))
    }

    /// Dials, asks, and gives up. At every beat.
    pub fn tick<R: Reactor>(&mut self, now: Ms, tunables: &Tunables, reactor: &mut R) {
        let Some(fleet) = &self.shared.fleet else {
            return;
        };
        for link in &mut self.links {
            match link.line {
                Line::Down if now >= link.due => {
                    let at = fleet.members(link.range)[link.member].at;
                    match reactor.connect(&Endpoint::Tcp(at)) {
                        Ok(socket) => link.line = Line::Dialing(socket, now + PATIENCE_MS),
                        Err(_) => self.closing.extend(link.miss(now, fleet)),
                    }
                }
                Line::Idle(socket) if now >= link.due => {
                    let outgoing = Outgoing::Block(question(tunables));
                    match reactor.send(socket, outgoing) {
                        Ok(()) => link.line = Line::Asked(socket, now + PATIENCE_MS),
                        Err(_) => self.closing.extend(link.miss(now, fleet)),
                    }
                }
                Line::Dialing(_, until) | Line::Asked(_, until) if now >= until => {
                    self.closing.extend(link.miss(now, fleet));
                }
                Line::Down | Line::Idle(_) | Line::Dialing(..) | Line::Asked(..) => {}
            }
        }
        for socket in self.closing.drain(..) {
            reactor.close(socket);
        }
    }

    /// A connection stands, or does not; false if it is none of these.
    pub fn on_connected(&mut self, socket: SocketId, is_good: bool, now: Ms) -> bool {
        let shared = self.shared.clone();
        let (Some(link), Some(fleet)) = (self.link_on(socket), &shared.fleet) else {
            return self.is_closing(socket);
        };
        let gone = match is_good {
            true => {
                (link.line, link.due) = (Line::Idle(socket), now);
                None
            }
            false => link.miss(now, fleet),
        };
        self.closing.extend(gone);
        true
    }

    /// A question is sent; false if that was none of these.
    pub fn on_sent(&mut self, socket: SocketId, is_good: bool, now: Ms) -> bool {
        match is_good {
            true => self.link_on(socket).is_some() || self.is_closing(socket),
            false => self.on_end(socket, now),
        }
    }

    /// Nothing more comes from a socket; false if it is none of these.
    pub fn on_end(&mut self, socket: SocketId, now: Ms) -> bool {
        let shared = self.shared.clone();
        let (Some(link), Some(fleet)) = (self.link_on(socket), &shared.fleet) else {
            return self.is_closing(socket);
        };
        let gone = link.miss(now, fleet);
        self.closing.extend(gone);
        true
    }

    /// Takes in what came from a socket; false if it is none of these.
    pub fn on_data(&mut self, socket: SocketId, bytes: &[u8], now: Ms) -> bool {
        let shared = self.shared.clone();
        let (Some(link), Some(fleet)) = (self.link_on(socket), &shared.fleet) else {
            return self.is_closing(socket);
        };
        link.input.extend_from_slice(bytes);
        let gone = match hear(&link.input) {
            Heard::Unfinished => None,
            Heard::Nonsense => link.miss(now, fleet),
            Heard::Answer(answer) => link.learn(socket, &answer, now, fleet),
        };
        self.closing.extend(gone);
        true
    }
}

impl Link {
    /// An answer has come; what is to be closed.
    fn learn(&mut self, on: SocketId, answer: &Answer, now: Ms, fleet: &Fleet) -> Option<SocketId> {
        let Some(primary) = &answer.primary else {
            self.primaryless += 1;
            return self.miss(now, fleet);
        };
        if answer.epoch < fleet.epoch(self.range) {
            // It has missed an election.
            return self.miss(now, fleet);
        }
        fleet.note(
            self.range,
            Some(primary),
            answer.epoch,
            answer.unreached.iter(),
        );
        self.input.clear();
        (self.misses, self.primaryless) = (0, 0);
        let is_lost = answer.unreached.contains(primary);
        self.due = now + if is_lost { ASK_AGAIN_MS } else { ASK_MS };
        self.line = Line::Idle(on);
        None
    }

    /// The next member is asked; what is to be closed.
    fn miss(&mut self, now: Ms, fleet: &Fleet) -> Option<SocketId> {
        let members = fleet.members(self.range).len();
        let standing = &fleet.standings[self.range];
        self.misses += 1;
        self.member = (self.member + 1) % members;
        if self.misses >= members {
            // Members whose data is gone begin their epochs anew.
            standing.epoch.store(0, SeqCst);
            match self.primaryless {
                0 => standing.unreached.store(u64::MAX, SeqCst),
                _ => standing.primary.store(NOBODY, SeqCst),
            }
            (self.misses, self.primaryless) = (0, 0);
        }
        self.input.clear();
        self.due = now + ASK_AGAIN_MS;
        std::mem::replace(&mut self.line, Line::Down).socket()
    }
}

/// What is sent. A member that wants to know who asks is told on every question: passwords change.
fn question(tunables: &Tunables) -> Vec<u8> {
    let mut out = Out::new(Proto::Two);
    let (user, password) = (&tunables.primary_user, &tunables.primary_password);
    if !password.is_empty() {
        let words = [user, password];
        let words = &words[usize::from(user.is_empty())..];
        out.array(1 + words.len());
        out.bulk_str("AUTH");
        words.iter().for_each(|word| out.bulk_str(word));
    }
    out.array(2);
    out.bulk_str("INFO");
    out.bulk_str("cluster");
    out.as_bytes().to_vec()
}

/// Reads the answer to a question, behind that of AUTH.
fn hear(input: &[u8]) -> Heard {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        return limited(input);
    };
    let (line, rest) = (&input[..end], &input[end + 2..]);
    match line.first() {
        Some(b'+') => hear(rest),
        Some(b'$') => match parse_u64(&line[1..]) {
            Some(len) if len <= ANSWER_MAX as u64 => match rest.get(..len as usize) {
                Some(text) if rest.len() >= len as usize + 2 => understand(text),
                _ => Heard::Unfinished,
            },
            _ => Heard::Nonsense,
        },
        _ => Heard::Nonsense,
    }
}

fn limited(input: &[u8]) -> Heard {
    match input.len() < ANSWER_MAX {
        true => Heard::Unfinished,
        false => Heard::Nonsense,
    }
}

fn understand(text: &[u8]) -> Heard {
    let text = String::from_utf8_lossy(text);
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    };
    let (Some(primary), Some(epoch), Some(unreached)) =
        (value(PRIMARY), value(EPOCH), value(UNREACHED))
    else {
        return Heard::Nonsense;
    };
    let Some(epoch) = parse_u64(epoch.as_bytes()) else {
        return Heard::Nonsense;
    };
    Heard::Answer(Answer {
        primary: NodeId::new(primary),
        epoch,
        unreached: unreached.split(',').filter_map(NodeId::new).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Map;

    const TEXT: &str = "# Cluster\r\ncluster_enabled:1\r\ncluster_range_primary:b2\r\n\
                        cluster_range_epoch:7\r\ncluster_range_unreached:b1,b3\r\n";

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("is a name")
    }

    #[test]
    fn an_answer_is_read_wherever_it_is_cut() {
        let whole = format!("+OK\r\n${}\r\n{TEXT}\r\n", TEXT.len());
        for cut in 0..whole.len() {
            assert_eq!(hear(&whole.as_bytes()[..cut]), Heard::Unfinished, "{cut}");
        }
        let answer = Answer {
            primary: Some(id("b2")),
            epoch: 7,
            unreached: vec![id("b1"), id("b3")],
        };
        assert_eq!(hear(whole.as_bytes()), Heard::Answer(answer));
        for nonsense in [
            "-NOAUTH x\r\n",
            "$x\r\n",
            "$99999999\r\n",
            ":1\r\n",
            "$3\r\nabc\r\n",
        ] {
            assert_eq!(hear(nonsense.as_bytes()), Heard::Nonsense, "{nonsense}");
        }
        assert_eq!(hear(&vec![b'x'; ANSWER_MAX]), Heard::Nonsense);
    }

    #[test]
    fn a_question_shows_who_asks_where_that_is_set() {
        let mut tunables = Tunables::default();
        let info = "*2\r\n$4\r\nINFO\r\n$7\r\ncluster\r\n";
        let text = |tunables: &Tunables| String::from_utf8(question(tunables));
        assert_eq!(text(&tunables), Ok(info.into()));
        tunables.primary_password = "p".into();
        let alone = format!("*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n{info}");
        assert_eq!(text(&tunables), Ok(alone));
        tunables.primary_user = "u".into();
        let named = format!("*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n{info}");
        assert_eq!(text(&tunables), Ok(named));
    }

    #[test]
    fn the_last_answer_holds_until_all_members_know_of_no_primary() {
        let map = Map::read(
            "[[range]]\nslots = '0-1'\nmembers = 'a@10.0.0.1:1'\n\
             [[range]]\nslots = '2-16383'\nmembers = 'b1@10.0.0.2:1,b2@10.0.0.2:2'\n",
        );
        let fleet = Fleet::new(map.expect("it is a map"), &id("a")).expect("it has a");
        let mut link = Link {
            range: 1,
            member: 0,
            line: Line::Down,
            due: 0,
            input: Vec::new(),
            misses: 0,
            primaryless: 0,
        };
        let socket = SocketId {
            index: 1,
            generation: 1,
        };
        let said = |primary: Option<&str>, epoch| Answer {
            primary: primary.map(id),
            epoch,
            unreached: Vec::new(),
        };
        assert_eq!(link.learn(socket, &said(Some("b2"), 5), 0, &fleet), None);
        assert_eq!((fleet.primary(1), link.due), (Some(1), ASK_MS));
        // Who has missed an election does not take it back.
        assert_eq!(
            link.learn(socket, &said(Some("b1"), 4), 0, &fleet),
            Some(socket)
        );
        assert_eq!((fleet.primary(1), link.member), (Some(1), 1));
        // Nobody can be reached, which may be this node's fault.
        link.miss(0, &fleet);
        assert_eq!(fleet.primary(1), Some(1));
        assert!(!fleet.is_reached(1, 0) && !fleet.is_reached(1, 1));
        // One that answers knows of none, but another one may.
        link.learn(socket, &said(None, 6), 0, &fleet);
        assert_eq!(fleet.primary(1), Some(1));
        link.learn(socket, &said(None, 6), 0, &fleet);
        assert_eq!((fleet.primary(1), fleet.shown_primary(1)), (None, 1));
        // Epochs may have begun anew.
        assert_eq!(link.learn(socket, &said(Some("b1"), 1), 0, &fleet), None);
        assert_eq!((fleet.primary(1), fleet.epoch(1)), (Some(0), 1));
    }
}
