//! The port of metrics: who scrapes is answered once, on the ring of core 0.
//!
//! Nobody there is waited for. A few connections have a place, each for a short time, and one that has not
//! asked yet makes room for the next; a request is a head of a bounded length; the page is composed once per
//! beat, however many ask for it.

use bytes::Bytes;
use uring::{Outgoing, Reactor, SocketId};

use super::{
    super::state::State,
    http::{Answer, HEAD_MAX, HEAD_TOO_LONG, compose, judge},
    page,
};
use crate::base::Ms;

/// Connections at one time.
const LINES_MAX: usize = 16;
/// For a request to come, for the answer to be taken, and for the other end to close.
const ASK_MS: Ms = 3000;
const ANSWER_MS: Ms = 10_000;
const LEAVE_MS: Ms = 1000;

/// See the module page.
#[derive(Default)]
pub(in crate::shard) struct Scrapes {
    listeners: Vec<SocketId>,
    /// The oldest first.
    lines: Vec<Line>,
    closing: Vec<SocketId>,
    /// As of this beat.
    page: (Ms, Bytes),
}

struct Line {
    socket: SocketId,
    stage: Stage,
    until: Ms,
    /// Nothing more comes from there.
    is_ended: bool,
}

enum Stage {
    /// What has come of the request.
    Asking(Vec<u8>),
    Asked(Answer),
    Answering,
    /// What still comes is of no interest. A socket that is closed with something unread in it takes its
    /// answer back.
    Leaving,
}

impl Scrapes {
    pub fn listens(&mut self, listener: SocketId) {
        self.listeners.push(listener);
    }

    /// Takes in a connection, if it came to this port.
    pub fn accept<R: Reactor>(
        &mut self,
        (listener, socket): (SocketId, SocketId),
        beat: Ms,
        reactor: &mut R,
    ) -> bool {
        if !self.listeners.contains(&listener) {
            return false;
        }
        if self.lines.len() >= LINES_MAX {
            let is_idle = |line: &Line| matches!(line.stage, Stage::Asking(_) | Stage::Leaving);
            let at = self.lines.iter().position(is_idle).unwrap_or(0);
            self.closing.push(self.lines.remove(at).socket);
        }
        reactor.start_receiving(socket);
        self.lines.push(Line {
            socket,
            stage: Stage::Asking(Vec::new()),
            until: beat + ASK_MS,
            is_ended: false,
        });
        true
    }

    fn line(&mut self, socket: SocketId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.socket == socket)
    }

    /// Takes in what came from a socket; false if it is none of ours.
    pub fn on_data(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        let Some(line) = self.line(socket) else {
            return false;
        };
        line.hear(bytes);
        true
    }

    pub fn on_sent<R: Reactor>(
        &mut self,
        socket: SocketId,
        (is_good, beat): (bool, Ms),
        reactor: &mut R,
    ) -> bool {
        let Some(line) = self.line(socket) else {
            return false;
        };
        if is_good && !line.is_ended {
            reactor.finish_sending(socket);
            (line.stage, line.until) = (Stage::Leaving, beat + LEAVE_MS);
        } else {
            self.hang_up(socket);
        }
        true
    }

    pub fn on_end(&mut self, socket: SocketId) -> bool {
        let Some(line) = self.line(socket) else {
            return false;
        };
        line.is_ended = true;
        if !matches!(line.stage, Stage::Asked(_) | Stage::Answering) {
            self.hang_up(socket);
        }
        true
    }

    fn hang_up(&mut self, socket: SocketId) {
        self.lines.retain(|line| line.socket != socket);
        self.closing.push(socket);
    }

    /// The beat: who takes too long goes.
    pub fn tick(&mut self, beat: Ms) {
        let late = self.lines.extract_if(.., |line| line.until < beat);
        self.closing.extend(late.map(|line| line.socket));
    }

    /// Answers and closes.
    pub fn step<R: Reactor>(&mut self, state: &State, reactor: &mut R) {
        for line in &mut self.lines {
            let Stage::Asked(answer) = line.stage else {
                continue;
            };
            if answer == Answer::Page && (self.page.0 != state.beat || self.page.1.is_empty()) {
                self.page = (state.beat, page::compose(state).into());
            }
            let pieces = compose(answer, &self.page.1);
            match reactor.send(line.socket, Outgoing::Gather(pieces)) {
                Ok(()) => (line.stage, line.until) = (Stage::Answering, state.beat + ANSWER_MS),
                Err(_) => line.until = 0,
            }
        }
        for socket in self.closing.drain(..) {
            reactor.close(socket);
        }
    }

    /// Closes everything: another process has the port.
    pub fn leave<R: Reactor>(&mut self, reactor: &mut R) {
        let lines = self.lines.drain(..).map(|line| line.socket);
        let sockets = self.listeners.drain(..).chain(lines);
        sockets
            .chain(self.closing.drain(..))
            .for_each(|socket| reactor.close(socket));
    }
}

impl Line {
    fn hear(&mut self, bytes: &[u8]) {
        let Stage::Asking(head) = &mut self.stage else {
            return;
        };
        let more = &bytes[..bytes.len().min(HEAD_MAX + 1 - head.len())];
        head.extend_from_slice(more);
        // A head ends with a line: who sends single bytes is not looked at for each.
        let judged = more.contains(&b'\n').then(|| judge(head)).flatten();
        let is_too_long = head.len() > HEAD_MAX;
        if let Some(answer) = judged.or(is_too_long.then_some(HEAD_TOO_LONG)) {
            self.stage = Stage::Asked(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            socket: SocketId {
                index: 0,
                generation: 0,
            },
            stage: Stage::Asking(Vec::new()),
            until: 0,
            is_ended: false,
        }
    }

    #[test]
    fn a_head_without_an_end_is_not_kept() {
        let mut line = line();
        line.hear(b"GET /metrics HTTP/1.1\r\n");
        for _ in 0..100 {
            line.hear(&[b'a'; 1000]);
        }
        assert!(matches!(line.stage, Stage::Asked(HEAD_TOO_LONG)));
    }

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let mut line = line();
        for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" {
            assert!(matches!(line.stage, Stage::Asking(_)));
            line.hear(&[*byte]);
        }
        assert!(matches!(line.stage, Stage::Asked(Answer::Page)));
        line.hear(b"GET /other HTTP/1.1\r\n\r\n");
        assert!(matches!(line.stage, Stage::Asked(Answer::Page)));
    }
}
