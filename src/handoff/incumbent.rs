//! The incumbent: answers supervisors, comes to an end when told, and takes everything back when nothing
//! comes of it.
//!
//! Any number of supervisors may have said hello. The first that goes on takes the machine; until its handoff
//! is over no other one gets further. Whatever goes wrong before [`Effect::Exit`], the node serves again:
//! before the seal at once, behind it as soon as the data directory is its own again, which is tried until it
//! is, or until somebody else serves.

use std::collections::BTreeMap;

use super::{Decoder, HEARTBEAT_MS, Id, Message, Role, VERSION, wire::LENDS};
use crate::base::Ms;

/// A supervisor that does not go on for so long is let go. The real one waits five seconds for a successor.
const IDLE_MS: Ms = 15_000;
/// A supervisor may be this much later than its own deadline.
const SLACK_MS: Ms = 6_000;
/// No deadline is longer than this, whatever a supervisor says.
const DEADLINE_MAX_MS: Ms = 24 * 3_600_000;
/// Between two tries to get the data directory back.
const RETRY_MS: Ms = 50;
/// Supervisors at a time.
const SESSIONS_MAX: usize = 16;

/// What happens to an incumbent.
#[derive(Debug)]
pub enum Event<'a> {
    /// A supervisor has connected. The number is the caller's, and not used again while it is open.
    Opened(u64),
    /// Bytes from one.
    Bytes(u64, &'a [u8]),
    /// One is gone.
    Gone(u64),
    /// Time has passed.
    Tick,
    /// Nothing is under way any more, and nothing is taken in; so many connections are left.
    Drained(u32),
    /// This keeps the node from coming to an end now.
    CannotDrain,
    /// All is written down, and the data directory is let go: where each shard ended, and the checksum of the
    /// seal.
    Sealed(Vec<u64>, [u8; 32]),
    /// That failed, and the data directory was kept.
    SealFailed(String),
    /// A try to get the data directory back: it is ours, as we left it.
    Back,
    /// Another process has it, which may not serve yet.
    Held,
    /// Another process has it and answers supervisors in our place.
    Replaced,
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Tell a supervisor.
    Send(u64, Message),
    /// Let one go. It is not heard of again.
    Close(u64),
    /// Take nothing in any more and come to an end with what is under way: answered by [`Event::Drained`] or
    /// [`Event::CannotDrain`].
    Drain,
    /// Write everything down, seal it for this handoff and let the data directory go: answered by
    /// [`Event::Sealed`] or [`Event::SealFailed`].
    Seal(Id),
    /// Try to get the data directory back: answered by [`Event::Back`], [`Event::Held`] or
    /// [`Event::Replaced`].
    TakeBack,
    /// Give this supervisor the listeners.
    Lend(u64),
    /// Serve again. The data directory is ours.
    Resume(Reason),
    /// Another process serves: end this one.
    Exit,
}

/// Why a handoff came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The supervisor wanted it so.
    Aborted,
    /// The supervisor went away, or said what it may not say.
    Lost,
    /// It took too long to come to an end.
    Drain,
    /// The node cannot come to an end now.
    Busy,
    /// The seal failed.
    Seal,
    /// The supervisor did not go on in time.
    Late,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Reason::Aborted => "the supervisor has given up",
            Reason::Lost => "the supervisor is gone",
            Reason::Drain => "what was under way did not end in time",
            Reason::Busy => "the node cannot come to an end now",
            Reason::Seal => "the seal failed",
            Reason::Late => "the supervisor did not go on in time",
        })
    }
}

#[derive(Debug)]
struct Session {
    decoder: Decoder,
    /// Of its hello.
    id: Option<Id>,
    /// It has the listeners. Once is enough for anybody.
    is_lent: bool,
    /// It has to go on until then.
    until: Ms,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Draining,
    Drained(Message),
    /// The answer of the seal is due also if nobody waits for it any more.
    Sealing(Option<Reason>),
    Sealed(Message),
    /// The data directory is to be ours again.
    Returning(Reason),
    Over,
}

/// Which handoff, led by whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lead {
    session: u64,
    id: Id,
    /// All has to be over until then, and the drain until there.
    until: Ms,
    drain_until: Ms,
}

/// See the module page.
#[derive(Debug)]
pub struct Incumbent {
    pid: u32,
    build: Vec<u8>,
    sessions: BTreeMap<u64, Session>,
    phase: Phase,
    lead: Option<Lead>,
    /// The next sign of life, or the next try.
    next: Ms,
}

impl Incumbent {
    /// A process that serves.
    pub fn new(pid: u32, build: &[u8]) -> Self {
        Self {
            pid,
            build: build.to_vec(),
            sessions: BTreeMap::new(),
            phase: Phase::Idle,
            lead: None,
            next: 0,
        }
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn wakes_at(&self) -> Option<Ms> {
        let waiting = self.sessions.iter();
        let waiting = waiting.filter(|(session, _)| !self.leads(**session));
        let waiting = waiting.map(|(_, session)| session.until).min();
        let until = self.lead.map(|lead| lead.until);
        let next = match self.phase {
            Phase::Idle | Phase::Drained(_) | Phase::Sealed(_) | Phase::Over => None,
            Phase::Draining => Some(
                self.next
                    .min(self.lead.map_or(Ms::MAX, |lead| lead.drain_until)),
            ),
            Phase::Sealing(_) | Phase::Returning(_) => Some(self.next),
        };
        [waiting, until, next].into_iter().flatten().min()
    }

    /// Is the node as it always is?
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Does nobody wait any more for the seal that is being made? It need not be finished then.
    pub fn has_given_up(&self) -> bool {
        matches!(self.phase, Phase::Sealing(Some(_)))
    }

    /// Goes on. `now` is of a clock that nobody sets, `wall` is only told.
    pub fn step(&mut self, now: Ms, wall: Ms, event: Event<'_>, out: &mut Vec<Effect>) {
        match event {
            Event::Opened(session) => self.open(session, now, out),
            Event::Bytes(session, bytes) => self.on_bytes(session, bytes, (now, wall), out),
            Event::Gone(session) => self.let_go(session, Reason::Lost, now, out),
            Event::Tick => self.on_tick(now, wall, out),
            Event::Drained(open_conns) => {
                if self.phase == Phase::Draining {
                    let drained = Message::Drained {
                        open_conns,
                        accept_closed: true,
                    };
                    self.tell(drained.clone(), out);
                    self.phase = Phase::Drained(drained);
                }
            }
            Event::CannotDrain => self.give_up(Reason::Busy, now, out),
            Event::Sealed(revisions, fingerprint) => {
                self.on_sealed(revisions, fingerprint, now, out)
            }
            Event::SealFailed(error) => self.on_seal_failed(error, out),
            Event::Back => {
                if let Phase::Returning(reason) = self.phase {
                    self.serve_on(reason, out);
                }
            }
            Event::Held => {}
            Event::Replaced => {
                if matches!(self.phase, Phase::Returning(_)) {
                    self.phase = Phase::Over;
                    out.push(Effect::Exit);
                }
            }
        }
    }

    fn open(&mut self, session: u64, now: Ms, out: &mut Vec<Effect>) {
        if self.sessions.len() >= SESSIONS_MAX {
            return out.push(Effect::Close(session));
        }
        let opened = Session {
            decoder: Decoder::default(),
            id: None,
            is_lent: false,
            until: now + IDLE_MS,
        };
        self.sessions.insert(session, opened);
        let hello = Message::Hello {
            role: Role::Incumbent,
            pid: self.pid,
            build: self.build.clone(),
            versions: (VERSION, VERSION),
            capabilities: LENDS,
        };
        out.push(Effect::Send(session, hello));
    }

    fn on_bytes(&mut self, from: u64, bytes: &[u8], (now, wall): (Ms, Ms), out: &mut Vec<Effect>) {
        if let Some(session) = self.sessions.get_mut(&from) {
            session.decoder.push(bytes);
        }
        // A session that is closed meanwhile says nothing more.
        while let Some(session) = self.sessions.get_mut(&from) {
            let is_good = match session.decoder.take() {
                Ok(Some(Message::Heartbeat { .. })) => {
                    out.push(Effect::Send(from, Message::Heartbeat { at_ms: wall }));
                    true
                }
                Ok(Some(message)) => self.on_message(from, message, now, out),
                Ok(None) => break,
                Err(_) => false,
            };
            if !is_good {
                out.push(Effect::Close(from));
                self.let_go(from, Reason::Lost, now, out);
            }
        }
    }

    /// False: that may not be said now.
    fn on_message(&mut self, from: u64, message: Message, now: Ms, out: &mut Vec<Effect>) -> bool {
        let Some(session) = self.sessions.get_mut(&from) else {
            return false;
        };
        let id = match (message, session.id) {
            (Message::HelloAck { version, id }, None) if version == VERSION => {
                session.id = Some(id);
                return true;
            }
            (Message::Ask, Some(_)) if !session.is_lent => {
                session.is_lent = true;
                out.push(Effect::Lend(from));
                return true;
            }
            (
                Message::Prepare {
                    id,
                    deadline_ms,
                    grace_ms,
                    ..
                },
                Some(known),
            ) if id == known => {
                let deadline = deadline_ms.min(DEADLINE_MAX_MS);
                let lead = Lead {
                    session: from,
                    id,
                    until: now + deadline + SLACK_MS,
                    drain_until: now + grace_ms.min(deadline),
                };
                return self.prepare(lead, now, out);
            }
            (message, Some(known)) if self.leads(from) => match (message, &self.phase) {
                (Message::SealRequest(id), Phase::Drained(_)) if id == known => {
                    self.phase = Phase::Sealing(None);
                    self.next = now + HEARTBEAT_MS;
                    out.push(Effect::Seal(id));
                    return true;
                }
                (Message::SealRequest(id), Phase::Sealed(complete)) if id == known => {
                    out.push(Effect::Send(from, complete.clone()));
                    return true;
                }
                (Message::Commit(id), Phase::Sealed(_)) if id == known => {
                    self.phase = Phase::Over;
                    out.push(Effect::Exit);
                    return true;
                }
                (Message::Resume(id) | Message::Abort { id, .. }, _) => (id == known).then_some(id),
                _ => None,
            },
            _ => None,
        };
        if id.is_some() {
            self.give_up(Reason::Aborted, now, out);
        }
        id.is_some()
    }

    fn prepare(&mut self, lead: Lead, now: Ms, out: &mut Vec<Effect>) -> bool {
        match &self.phase {
            Phase::Idle => {
                self.phase = Phase::Draining;
                self.lead = Some(lead);
                self.next = now + HEARTBEAT_MS;
                out.push(Effect::Drain);
                true
            }
            // Said again.
            Phase::Draining => self.leads(lead.session),
            Phase::Drained(drained) if self.leads(lead.session) => {
                out.push(Effect::Send(lead.session, drained.clone()));
                true
            }
            _ => false,
        }
    }

    fn on_sealed(
        &mut self,
        revisions: Vec<u64>,
        fingerprint: [u8; 32],
        now: Ms,
        out: &mut Vec<Effect>,
    ) {
        match (&self.phase, self.lead) {
            (Phase::Sealing(None), Some(lead)) => {
                let complete = Message::SealComplete {
                    id: lead.id,
                    revisions,
                    fingerprint,
                };
                self.tell(complete.clone(), out);
                self.phase = Phase::Sealed(complete);
            }
            (Phase::Sealing(Some(reason)), _) => {
                let reason = *reason;
                self.take_back(reason, now, out);
            }
            _ => {}
        }
    }

    fn on_seal_failed(&mut self, error: String, out: &mut Vec<Effect>) {
        if let (Phase::Sealing(None), Some(lead)) = (&self.phase, self.lead) {
            let failed = Message::SealFailed {
                id: lead.id,
                error,
                partial: String::new(),
            };
            self.tell(failed, out);
        }
        if let Phase::Sealing(given_up) = self.phase {
            self.serve_on(given_up.unwrap_or(Reason::Seal), out);
        }
    }

    fn on_tick(&mut self, now: Ms, wall: Ms, out: &mut Vec<Effect>) {
        let is_due =
            |(number, session): (&u64, &Session)| (session.until <= now).then_some(*number);
        let idle: Vec<u64> = self.sessions.iter().filter_map(is_due).collect();
        for session in idle {
            if !self.leads(session) {
                out.push(Effect::Close(session));
                self.sessions.remove(&session);
            }
        }
        let late = match self.lead {
            Some(lead) if now >= lead.until => Some((lead, Reason::Late)),
            Some(lead) if self.phase == Phase::Draining && now >= lead.drain_until => {
                Some((lead, Reason::Drain))
            }
            _ => None,
        };
        if let Some((lead, reason)) = late {
            out.push(Effect::Close(lead.session));
            self.let_go(lead.session, reason, now, out);
        }
        if now < self.next {
            return;
        }
        match self.phase {
            Phase::Draining | Phase::Sealing(None) => {
                self.next = now + HEARTBEAT_MS;
                self.tell(Message::Heartbeat { at_ms: wall }, out);
            }
            Phase::Sealing(Some(_)) => self.next = now + HEARTBEAT_MS,
            Phase::Returning(reason) => self.take_back(reason, now, out),
            Phase::Idle | Phase::Drained(_) | Phase::Sealed(_) | Phase::Over => {}
        }
    }

    /// A session is closed. If it led, nothing comes of its handoff.
    fn let_go(&mut self, session: u64, reason: Reason, now: Ms, out: &mut Vec<Effect>) {
        self.sessions.remove(&session);
        if self.leads(session) {
            self.give_up(reason, now, out);
        }
    }

    /// Nothing comes of the handoff.
    fn give_up(&mut self, reason: Reason, now: Ms, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Draining | Phase::Drained(_) => {
                if reason == Reason::Busy
                    && let Some(lead) = self.lead
                {
                    // There is no message that says so.
                    out.push(Effect::Close(lead.session));
                    self.sessions.remove(&lead.session);
                }
                self.serve_on(reason, out);
            }
            Phase::Sealing(None) => {
                self.phase = Phase::Sealing(Some(reason));
                self.lead = None;
            }
            Phase::Sealed(_) => self.take_back(reason, now, out),
            Phase::Idle | Phase::Sealing(Some(_)) | Phase::Returning(_) | Phase::Over => {}
        }
    }

    fn take_back(&mut self, reason: Reason, now: Ms, out: &mut Vec<Effect>) {
        self.phase = Phase::Returning(reason);
        self.lead = None;
        self.next = now + RETRY_MS;
        out.push(Effect::TakeBack);
    }

    fn serve_on(&mut self, reason: Reason, out: &mut Vec<Effect>) {
        self.phase = Phase::Idle;
        self.lead = None;
        out.push(Effect::Resume(reason));
    }

    fn tell(&self, message: Message, out: &mut Vec<Effect>) {
        if let Some(lead) = self.lead {
            out.push(Effect::Send(lead.session, message));
        }
    }

    fn leads(&self, session: u64) -> bool {
        self.lead.is_some_and(|lead| lead.session == session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id([7; 16]);
    const OTHER: Id = Id([8; 16]);

    struct Node {
        machine: Incumbent,
        now: Ms,
    }

    impl Node {
        /// One with a session of that number that has answered the hello.
        fn greeted(session: u64) -> Self {
            let mut node = Node {
                machine: Incumbent::new(1, b"b"),
                now: 1000,
            };
            node.greet(session, ID);
            node
        }

        fn greet(&mut self, session: u64, id: Id) {
            let hello = self.step(Event::Opened(session));
            let is_hello = |effect: &Effect| {
                let role = Role::Incumbent;
                matches!(effect, Effect::Send(to, Message::Hello { role: of, .. })
                    if (*to, *of) == (session, role))
            };
            assert!(hello.len() == 1 && is_hello(&hello[0]), "{hello:?}");
            assert_eq!(
                self.hear(session, &Message::HelloAck { version: 1, id }),
                []
            );
        }

        fn sealed() -> Self {
            let mut node = Node::greeted(1);
            assert_eq!(node.hear(1, &prepare()), [Effect::Drain]);
            node.step(Event::Drained(0));
            assert_eq!(node.hear(1, &Message::SealRequest(ID)), [Effect::Seal(ID)]);
            assert_eq!(
                node.step(Event::Sealed(vec![3], [9; 32])),
                [Effect::Send(1, complete())]
            );
            node
        }

        fn step(&mut self, event: Event<'_>) -> Vec<Effect> {
            let mut out = Vec::new();
            self.machine.step(self.now, 77, event, &mut out);
            out
        }

        fn hear(&mut self, session: u64, message: &Message) -> Vec<Effect> {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            self.step(Event::Bytes(session, &bytes))
        }

        /// The clock goes on to when the machine wants to be called, and it is.
        fn wake(&mut self) -> Vec<Effect> {
            self.now = self.machine.wakes_at().expect("waits for nothing");
            self.step(Event::Tick)
        }
    }

    fn prepare() -> Message {
        Message::Prepare {
            id: ID,
            successor: 2,
            deadline_ms: 30_000,
            grace_ms: 5_000,
        }
    }

    fn complete() -> Message {
        Message::SealComplete {
            id: ID,
            revisions: vec![3],
            fingerprint: [9; 32],
        }
    }

    #[test]
    fn one_that_commits_ends() {
        let mut node = Node::sealed();
        assert_eq!(node.hear(1, &Message::Commit(ID)), [Effect::Exit]);
        assert_eq!(node.step(Event::Gone(1)), []);
    }

    #[test]
    fn listeners_are_given_once_at_any_time() {
        for mut node in [Node::greeted(1), Node::sealed()] {
            assert_eq!(node.hear(1, &Message::Ask), [Effect::Lend(1)]);
            assert_eq!(node.hear(1, &Message::Ask)[0], Effect::Close(1));
        }
        let mut node = Node::greeted(1);
        node.step(Event::Opened(2));
        assert_eq!(
            node.hear(2, &Message::Ask),
            [Effect::Close(2)],
            "it has not said hello"
        );
    }

    #[test]
    fn signs_of_life_come_while_it_takes_long() {
        let mut node = Node::greeted(1);
        node.hear(1, &prepare());
        let beat = Effect::Send(1, Message::Heartbeat { at_ms: 77 });
        assert_eq!((node.wake(), node.now), (vec![beat.clone()], 3000));
        assert_eq!((node.wake(), node.now), (vec![beat.clone()], 5000));
        node.step(Event::Drained(3));
        node.hear(1, &Message::SealRequest(ID));
        assert_eq!((node.wake(), node.now), (vec![beat], 7000));
    }

    #[test]
    fn a_drain_that_takes_too_long_is_undone() {
        let mut node = Node::greeted(1);
        node.hear(1, &prepare());
        node.now += 5000;
        let undone = [Effect::Close(1), Effect::Resume(Reason::Drain)];
        assert_eq!(node.step(Event::Tick)[..2], undone);
        assert!(node.machine.is_idle());
        assert_eq!(node.step(Event::Drained(0)), [], "too late");
    }

    #[test]
    fn a_node_that_cannot_end_now_says_so_by_closing() {
        let mut node = Node::greeted(1);
        node.hear(1, &prepare());
        let effects = node.step(Event::CannotDrain);
        assert_eq!(effects, [Effect::Close(1), Effect::Resume(Reason::Busy)]);
    }

    #[test]
    fn the_first_that_prepares_leads_and_others_stay_out() {
        let mut node = Node::greeted(1);
        node.greet(2, OTHER);
        node.hear(1, &prepare());
        let other = Message::Prepare {
            id: OTHER,
            successor: 3,
            deadline_ms: 1,
            grace_ms: 1,
        };
        assert_eq!(node.hear(2, &other), [Effect::Close(2)]);
        node.greet(2, OTHER);
        assert_eq!(node.hear(2, &Message::Resume(OTHER)), [Effect::Close(2)]);
        assert_eq!(node.machine.phase, Phase::Draining);
    }

    #[test]
    fn idle_supervisors_are_let_go_and_hold_up_nobody() {
        let mut node = Node::greeted(1);
        node.now += 14_000;
        node.greet(2, OTHER);
        assert_eq!((node.wake(), node.now), (vec![Effect::Close(1)], 16_000));
        assert_eq!(node.machine.wakes_at(), Some(30_000));
        for session in 3..3 + SESSIONS_MAX as u64 - 1 {
            node.greet(session, ID);
        }
        assert_eq!(node.step(Event::Opened(99)), [Effect::Close(99)]);
    }

    #[test]
    fn what_was_sealed_is_taken_back_until_it_is_ours_or_somebody_serves() {
        let mut node = Node::sealed();
        assert_eq!(node.hear(1, &Message::Resume(ID)), [Effect::TakeBack]);
        assert_eq!(node.step(Event::Held), []);
        assert_eq!(node.wake(), [Effect::TakeBack]);
        assert_eq!(node.step(Event::Back), [Effect::Resume(Reason::Aborted)]);
        // The same supervisor may begin anew.
        assert_eq!(node.hear(1, &prepare()), [Effect::Drain]);

        let mut node = Node::sealed();
        assert_eq!(node.step(Event::Gone(1)), [Effect::TakeBack]);
        assert_eq!(node.step(Event::Replaced), [Effect::Exit]);
        assert_eq!(node.step(Event::Replaced), []);
    }

    #[test]
    fn a_supervisor_that_stands_still_is_not_waited_for() {
        let mut node = Node::sealed();
        let effects = node.wake();
        assert_eq!(
            (effects, node.now),
            (vec![Effect::Close(1), Effect::TakeBack], 37_000)
        );
        assert_eq!(node.step(Event::Back), [Effect::Resume(Reason::Late)]);
    }

    #[test]
    fn who_goes_away_during_the_seal_is_noticed_when_it_is_done() {
        let mut node = Node::greeted(1);
        node.hear(1, &prepare());
        node.step(Event::Drained(0));
        node.hear(1, &Message::SealRequest(ID));
        assert_eq!(node.step(Event::Gone(1)), []);
        assert!(node.machine.has_given_up());
        assert_eq!(
            node.step(Event::Sealed(vec![], [0; 32])),
            [Effect::TakeBack]
        );
        assert_eq!(node.step(Event::Back), [Effect::Resume(Reason::Lost)]);
    }

    #[test]
    fn a_seal_that_fails_is_told_and_undone() {
        let mut node = Node::greeted(1);
        node.hear(1, &prepare());
        node.step(Event::Drained(0));
        node.hear(1, &Message::SealRequest(ID));
        let failed = Message::SealFailed {
            id: ID,
            error: "disk".into(),
            partial: String::new(),
        };
        let effects = node.step(Event::SealFailed("disk".into()));
        assert_eq!(
            effects,
            [Effect::Send(1, failed), Effect::Resume(Reason::Seal)]
        );
        assert_eq!(node.hear(1, &prepare()), [Effect::Drain]);
    }
}
