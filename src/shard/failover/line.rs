//! The connection to the target of a failover: requests to its client port, and the replies.

use std::{collections::VecDeque, net::SocketAddr};

use uring::{Endpoint, Outgoing, Reactor, SocketId};

use crate::{
    base::Ms,
    failover::{Answer, Id, Place, Say, record::Kind},
    shard::{log, shared::Tunables, tls::Fault as TlsFault},
};

/// A target that does not answer within this is dialled anew.
const SILENCE_MS: Ms = 1000;
/// No reply is longer.
const REPLY_MAX: usize = 64 << 10;

/// See the module page.
#[derive(Default)]
pub(super) struct Line {
    to: Option<Place>,
    socket: Option<SocketId>,
    is_up: bool,
    is_sending: bool,
    /// What is to be said, and of what replies are awaited.
    wanted: VecDeque<(Kind, Say)>,
    asked: VecDeque<Asked>,
    received: Vec<u8>,
    /// Since when the target owes something.
    since: Ms,
    answers: Vec<(Id, Answer)>,
    closing: Vec<SocketId>,
    /// What was wrong with the target when it was last asked.
    trouble: String,
    /// User and password to be shown first.
    login: Option<(String, String)>,
}

/// What a reply is to.
enum Asked {
    /// The password.
    Login,
    Ringkeep(Id),
    /// A kevy was told to be the primary of this epoch.
    Kevy(Id, u64),
}

impl Line {
    /// Says something, instead of what was not sent yet.
    pub fn say(&mut self, now: Ms, to: &Place, kind: Kind, say: &Say) {
        let is_stuck = !self.asked.is_empty() && now >= self.since + SILENCE_MS;
        if self.to.as_ref() != Some(to) || is_stuck {
            self.lose();
            self.to = Some(to.clone());
        }
        self.wanted.clear();
        if kind == Kind::Ringkeep || matches!(say, Say::Grant { .. }) {
            self.wanted.push_back((kind, say.clone()));
        }
    }

    /// Says nothing more.
    pub fn hang_up(&mut self) {
        self.lose();
        self.wanted.clear();
        (self.to, self.trouble) = (None, String::new());
    }

    /// Logs what is wrong with the target, once.
    fn complain(&mut self, trouble: String) {
        if self.trouble != trouble {
            log(&format!("failover: {trouble}"));
            self.trouble = trouble;
        }
    }

    fn drop_replies(&mut self) {
        self.asked.clear();
        self.received.clear();
    }

    /// What the target has said.
    pub fn take_answers(&mut self) -> Vec<(Id, Answer)> {
        std::mem::take(&mut self.answers)
    }

    pub fn on_connected(&mut self, socket: SocketId, is_good: bool) -> bool {
        if self.socket != Some(socket) {
            return false;
        }
        match is_good {
            true => self.is_up = true,
            false => self.lose(),
        }
        true
    }

    /// TLS cannot be spoken with the target. That the connection is over is told next.
    pub fn on_tls_fault(&mut self, socket: SocketId, fault: TlsFault) -> bool {
        let is_ours = self.socket == Some(socket);
        if is_ours {
            self.complain(format!("the target: {}", fault.text()));
        }
        is_ours
    }

    pub fn on_sent(&mut self, socket: SocketId, is_good: bool) -> bool {
        if self.socket != Some(socket) {
            return false;
        }
        self.is_sending = false;
        if !is_good {
            self.lose();
        }
        true
    }

    pub fn on_end(&mut self, socket: SocketId) -> bool {
        if self.socket != Some(socket) {
            return false;
        }
        self.lose();
        true
    }

    fn lose(&mut self) {
        self.closing.extend(self.socket.take());
        (self.is_up, self.is_sending) = (false, false);
        self.drop_replies();
    }

    /// Takes in what came from a socket, if it is the target's.
    pub fn on_data(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        if self.socket != Some(socket) {
            return false;
        }
        self.received.extend_from_slice(bytes);
        while let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = self.received.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&line[..end]).into_owned();
            let Some(asked) = self.asked.pop_front() else {
                break;
            };
            self.on_reply(&asked, &text);
        }
        if self.received.len() > REPLY_MAX {
            self.lose();
        }
        true
    }

    fn on_reply(&mut self, asked: &Asked, text: &str) {
        let (is_good, said) = match text.split_at_checked(1) {
            Some(("+", said)) => (true, said),
            Some(("-", said)) => (false, said),
            _ => (false, text),
        };
        match asked {
            Asked::Login if is_good => {}
            Asked::Login => self.complain(format!("the target refuses the password: {said}")),
            Asked::Ringkeep(id) => match Answer::parse(said).filter(|_| is_good) {
                Some(answer) => self.answers.push((*id, answer)),
                None => self.complain(format!("the target says {text:?}")),
            },
            Asked::Kevy(id, epoch) => {
                let answer = match is_good {
                    true => Answer::Promoted(*epoch),
                    false => Answer::Refused(said.into()),
                };
                self.answers.push((*id, answer));
            }
        }
    }

    /// Dials, sends and closes.
    pub fn step<R: Reactor>(&mut self, now: Ms, tunables: &Tunables, reactor: &mut R) {
        for socket in self.closing.drain(..) {
            reactor.close(socket);
        }
        if self.wanted.is_empty() {
            return;
        }
        let Some(socket) = self.socket else {
            let ip = self
                .to
                .as_ref()
                .and_then(|to| Some((to.host.parse().ok()?, to.port)));
            let dialed = ip.and_then(|(ip, port)| {
                reactor
                    .connect(&Endpoint::Tcp(SocketAddr::new(ip, port)))
                    .ok()
            });
            (self.socket, self.since) = (dialed, now);
            self.drop_replies();
            let (user, password) = (&tunables.primary_user, &tunables.primary_password);
            self.login = (!password.is_empty()).then(|| (user.clone(), password.clone()));
            return;
        };
        if !self.is_up || self.is_sending {
            if !self.is_up && now >= self.since + SILENCE_MS {
                self.lose();
            }
            return;
        }
        let mut words = Vec::new();
        if let Some((user, password)) = self.login.take() {
            let user = (!user.is_empty()).then_some(user);
            words.push(
                ["AUTH".into()]
                    .into_iter()
                    .chain(user)
                    .chain([password])
                    .collect(),
            );
            self.asked.push_back(Asked::Login);
        }
        for (kind, say) in self.wanted.drain(..) {
            match (kind, &say) {
                (Kind::Kevy, Say::Grant { id, epoch }) => {
                    words.push(["REPLICAOF", "NO", "ONE"].map(String::from).to_vec());
                    self.asked.push_back(Asked::Kevy(*id, *epoch));
                }
                _ => {
                    words.push(say.words());
                    self.asked.push_back(Asked::Ringkeep(say.id()));
                }
            }
        }
        self.since = now;
        let outgoing = Outgoing::Block(words.iter().flat_map(|words| request(words)).collect());
        self.is_sending = reactor.send(socket, outgoing).is_ok();
        if !self.is_sending {
            self.lose();
        }
    }
}

/// A request as it goes over the wire.
fn request(words: &[String]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text += &format!("${}\r\n{word}\r\n", word.len());
    }
    text.into_bytes()
}
