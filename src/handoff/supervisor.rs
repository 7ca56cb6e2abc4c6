//! The supervisor: leads one handoff from the process that serves to the one that is to.
//!
//! The order is that of the library's supervisor, and so is what it says; the differences are that it hears
//! the successor at any time, so that one that ends early costs no drain, that it asks whether the successor
//! serves before the incumbent is told to end, and that it tells the incumbent of a failed drain instead of
//! going away.

use super::{Decoder, Id, Message, Role, VERSION, WireError};
use crate::base::Ms;

/// Either process has to say hello within this time.
const HELLO_MS: Ms = 5_000;
/// A successor that reads ahead may need longer, but no longer than an incumbent puts up with a supervisor
/// that wants nothing yet.
const HELLO_MAX_MS: Ms = 12_000;
/// Who is waited for has to give a sign of life within this time.
const SILENCE_MS: Ms = 10_000;
/// Answers may be this much later than the time that the other side was given.
const SLACK_MS: Ms = 1_000;
/// The least that is given to anybody.
const LEAST_MS: Ms = 100;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Names the handoff.
    pub id: Id,
    /// The process that serves.
    pub incumbent: u32,
    /// Milliseconds for all.
    pub deadline_ms: Ms,
    /// Of them for what is under way to end.
    pub grace_ms: Ms,
}

/// What happens to a supervisor.
#[derive(Debug)]
pub enum Event<'a> {
    /// Bytes from the incumbent.
    Old(&'a [u8]),
    /// Its channel has ended.
    OldGone,
    /// The successor was started and has this number.
    Started(u32),
    /// It could not be started.
    CannotStart(String),
    /// Bytes from the successor.
    New(&'a [u8]),
    /// Its channel has ended.
    NewGone,
    /// The process has ended, in words how.
    NewEnded(String),
    /// The successor serves, or does not.
    Checked(Result<(), String>),
    /// The operator wants no handoff any more.
    Stop,
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Write down how far it is, before anything that follows.
    Note(Step),
    /// Tell the incumbent.
    TellOld(Message),
    /// Tell the successor.
    TellNew(Message),
    /// Start the successor: answered by [`Event::Started`] or [`Event::CannotStart`].
    Start,
    /// Find out whether the successor serves: answered by [`Event::Checked`].
    Check,
    /// End the successor: answered by [`Event::NewEnded`]. One that may have served already writes down what
    /// it has: it is asked, and killed only if that takes long.
    EndNew {
        /// It is asked.
        gently: bool,
    },
    /// The handoff is over: the channels are of no more use. The successor serves, or the incumbent does.
    Over(Result<(), Failure>),
}

/// How far a handoff is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// The successor is being started.
    Start,
    /// What is under way comes to an end.
    Drain,
    /// The incumbent writes everything down.
    Seal,
    /// The data directory is the successor's.
    Load,
    /// The successor says that it serves.
    Check,
    /// The incumbent is told to end.
    Commit,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Step; 6] = [
        Step::Start,
        Step::Drain,
        Step::Seal,
        Step::Load,
        Step::Check,
        Step::Commit,
    ];

    /// A word for files.
    pub fn word(self) -> &'static str {
        match self {
            Step::Start => "start",
            Step::Drain => "drain",
            Step::Seal => "seal",
            Step::Load => "load",
            Step::Check => "check",
            Step::Commit => "commit",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Step::Start => "the new process is started",
            Step::Drain => "the old process ends what is under way",
            Step::Seal => "the old process writes everything down",
            Step::Load => "the new process loads the data",
            Step::Check => "the new process says that it serves; it is asked",
            Step::Commit => "the new process serves",
        })
    }
}

/// Why a handoff came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// One of the two sent what cannot be read.
    Wire(Side, WireError),
    /// One of the two said what it may not say now.
    Order(Side),
    /// Another process than the one that was meant says hello.
    Pid(Side, u32),
    /// It speaks other versions.
    Version(Side, (u16, u16)),
    /// The channel of the old one has ended.
    OldGone(Step),
    /// The successor could not be started.
    CannotStart(String),
    /// The successor closed its channel.
    NewGone(Step),
    /// It has ended, and how.
    NewEnded(Step, String),
    /// The incumbent could not write everything down.
    Seal(String),
    /// The successor says that it serves and does not.
    Unhealthy(String),
    /// Somebody has not said anything for too long.
    Silent(Step),
    /// A step took longer than it may.
    Late(Step),
    /// The operator wanted it so.
    Stopped,
}

/// One of the two processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The incumbent.
    Old,
    /// The successor.
    New,
}

impl std::fmt::Display for Side {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Side::Old => "the old process",
            Side::New => "the new process",
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Wire(side, error) => write!(out, "{side} sent {error}"),
            Failure::Order(side) => write!(out, "{side} sent what does not belong there"),
            Failure::Pid(side, pid) => write!(out, "process {pid} speaks for {side}"),
            Failure::Version(side, (least, most)) => {
                write!(
                    out,
                    "{side} speaks versions {least} to {most} of the protocol"
                )
            }
            Failure::OldGone(Step::Drain) => out.write_str(
                "the old process cannot end what is under way now (its log has the reason)",
            ),
            Failure::OldGone(_) => out.write_str("the old process closed its line"),
            Failure::CannotStart(why) => write!(out, "the new process cannot be started: {why}"),
            Failure::NewGone(step) => {
                write!(out, "the new process closed its line {}", Before(*step))
            }
            Failure::NewEnded(step, how) => {
                write!(out, "the new process {how} {}", Before(*step))
            }
            Failure::Seal(error) => write!(out, "seal failed: {error}"),
            Failure::Unhealthy(why) => write!(out, "the new process does not serve: {why}"),
            Failure::Silent(Step::Load) => out.write_str("the new process gives no sign of life"),
            Failure::Silent(_) => out.write_str("the old process gives no sign of life"),
            Failure::Late(Step::Start) => {
                out.write_str("no hello in time: is that a ringkeep, and is one running?")
            }
            Failure::Late(Step::Load | Step::Check | Step::Commit) => {
                out.write_str("the new process was not ready in time")
            }
            Failure::Late(Step::Drain) => {
                out.write_str("the old process did not end what is under way in time")
            }
            Failure::Late(Step::Seal) => {
                out.write_str("the old process did not write everything down in time")
            }
            Failure::Stopped => out.write_str("the supervisor is to stop"),
        }
    }
}

/// How far the successor was.
struct Before(Step);

impl std::fmt::Display for Before {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self.0 {
            Step::Start => "before it said hello",
            Step::Drain | Step::Seal => "before it was its turn",
            Step::Load => "before it was ready",
            Step::Check | Step::Commit => "as soon as it was ready",
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// The incumbent is to say hello.
    Greeting,
    /// The successor is.
    Starting(Option<u32>),
    Draining,
    Sealing,
    Loading,
    Checking,
    /// The successor is to end. Behind that the incumbent may have to be told.
    Ending(Failure, bool),
    Over,
}

/// See the module page.
#[derive(Debug)]
pub struct Supervisor {
    plan: Plan,
    stage: Stage,
    began: Ms,
    /// When the stage began, and when who is waited for was heard of.
    since: Ms,
    heard: Ms,
    old: Decoder,
    new: Decoder,
    is_old_there: bool,
    is_new_there: bool,
}

impl Supervisor {
    /// One that has just connected to the incumbent.
    pub fn new(plan: Plan, now: Ms) -> Self {
        Self {
            plan,
            stage: Stage::Greeting,
            began: now,
            since: now,
            heard: now,
            old: Decoder::default(),
            new: Decoder::default(),
            is_old_there: true,
            is_new_there: false,
        }
    }

    /// The successor has to say hello within this time. Before that it reads what there is while the other
    /// one serves.
    pub fn hello_ms(&self) -> Ms {
        (self.plan.deadline_ms / 3).clamp(HELLO_MS, HELLO_MAX_MS)
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn wakes_at(&self) -> Option<Ms> {
        let all = self.began + self.plan.deadline_ms + SLACK_MS;
        let silence = self.heard + SILENCE_MS;
        match self.stage {
            Stage::Greeting => Some(self.since + HELLO_MS),
            Stage::Starting(_) => Some(self.since + self.hello_ms()),
            Stage::Draining => Some(silence.min(self.since + self.plan.grace_ms + SLACK_MS)),
            Stage::Sealing | Stage::Loading => Some(silence.min(all.max(self.since + LEAST_MS))),
            Stage::Checking | Stage::Ending(..) | Stage::Over => None,
        }
    }

    /// Is the outcome known?
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Goes on. `now` is of a clock that nobody sets.
    pub fn step(&mut self, now: Ms, event: Event<'_>, out: &mut Vec<Effect>) {
        match event {
            Event::Old(bytes) => {
                self.old.push(bytes);
                while !self.is_deaf(Side::Old) {
                    match self.old.take() {
                        Ok(Some(message)) => self.on_old(message, now, out),
                        Ok(None) => break,
                        Err(error) => self.fail(Failure::Wire(Side::Old, error), out),
                    }
                }
            }
            Event::New(bytes) => {
                self.new.push(bytes);
                while !self.is_deaf(Side::New) {
                    match self.new.take() {
                        Ok(Some(message)) => self.on_new(message, now, out),
                        Ok(None) => break,
                        Err(error) => self.fail(Failure::Wire(Side::New, error), out),
                    }
                }
            }
            Event::OldGone => {
                self.is_old_there = false;
                // From the seal on the successor is who counts. The old one tries to go on by itself.
                if !matches!(self.stage, Stage::Loading | Stage::Checking) {
                    self.fail(Failure::OldGone(self.at()), out);
                }
            }
            Event::Started(pid) => {
                if let Stage::Starting(started) = &mut self.stage {
                    *started = Some(pid);
                    self.is_new_there = true;
                }
            }
            Event::CannotStart(why) => self.fail(Failure::CannotStart(why), out),
            // It closes its channel when it has said all it has to say.
            Event::NewGone if self.stage == Stage::Checking => {}
            Event::NewGone => self.fail(Failure::NewGone(self.at()), out),
            Event::NewEnded(how) => {
                self.is_new_there = false;
                self.fail(Failure::NewEnded(self.at(), how), out);
            }
            Event::Checked(result) => {
                if self.stage == Stage::Checking {
                    match result {
                        Ok(()) => self.commit(out),
                        Err(why) => self.fail(Failure::Unhealthy(why), out),
                    }
                }
            }
            Event::Stop => self.fail(Failure::Stopped, out),
            Event::Tick => {
                if self.wakes_at().is_some_and(|at| at <= now) {
                    let is_silent = now >= self.heard + SILENCE_MS;
                    let has_greeted = !matches!(self.stage, Stage::Greeting | Stage::Starting(_));
                    match is_silent && has_greeted {
                        true => self.fail(Failure::Silent(self.at()), out),
                        false => self.fail(Failure::Late(self.at()), out),
                    }
                }
            }
        }
    }

    fn is_deaf(&self, side: Side) -> bool {
        match self.stage {
            Stage::Ending(..) | Stage::Over => true,
            Stage::Checking => side == Side::New,
            _ => false,
        }
    }

    fn at(&self) -> Step {
        match self.stage {
            Stage::Greeting | Stage::Starting(_) => Step::Start,
            Stage::Draining => Step::Drain,
            Stage::Sealing => Step::Seal,
            Stage::Loading => Step::Load,
            Stage::Checking | Stage::Ending(..) => Step::Check,
            Stage::Over => Step::Commit,
        }
    }

    fn go_to(&mut self, stage: Stage, now: Ms) {
        self.stage = stage;
        self.since = now;
        self.heard = now;
    }

    fn on_old(&mut self, message: Message, now: Ms, out: &mut Vec<Effect>) {
        let id = self.plan.id;
        if matches!(self.stage, Stage::Draining | Stage::Sealing) {
            self.heard = now;
        }
        match (&self.stage, message) {
            (
                Stage::Greeting,
                Message::Hello {
                    role: Role::Incumbent,
                    pid,
                    versions,
                    ..
                },
            ) => {
                if pid != self.plan.incumbent {
                    return self.fail(Failure::Pid(Side::Old, pid), out);
                }
                if !speaks(versions) {
                    return self.fail(Failure::Version(Side::Old, versions), out);
                }
                self.go_to(Stage::Starting(None), now);
                let ack = Message::HelloAck {
                    version: VERSION,
                    id,
                };
                out.extend([
                    Effect::TellOld(ack),
                    Effect::Note(Step::Start),
                    Effect::Start,
                ]);
            }
            (Stage::Draining, Message::Drained { .. }) => {
                self.go_to(Stage::Sealing, now);
                let ask = Message::SealRequest(id);
                out.extend([Effect::Note(Step::Seal), Effect::TellOld(ask)]);
            }
            (Stage::Sealing, Message::SealComplete { id: of, .. }) if of == id => {
                self.go_to(Stage::Loading, now);
                let begin = Message::Begin(id);
                out.extend([Effect::Note(Step::Load), Effect::TellNew(begin)]);
            }
            (Stage::Sealing, Message::SealFailed { id: of, error, .. }) if of == id => {
                self.fail(Failure::Seal(error), out);
            }
            (Stage::Draining | Stage::Sealing, Message::SealProgress { .. }) => {}
            (_, Message::Heartbeat { .. }) => {}
            // See `OldGone`.
            (Stage::Loading | Stage::Checking, _) => {}
            _ => self.fail(Failure::Order(Side::Old), out),
        }
    }

    fn on_new(&mut self, message: Message, now: Ms, out: &mut Vec<Effect>) {
        let id = self.plan.id;
        if self.stage == Stage::Loading {
            self.heard = now;
        }
        match (&self.stage, message) {
            (
                Stage::Starting(started),
                Message::Hello {
                    role: Role::Successor,
                    pid,
                    versions,
                    ..
                },
            ) => {
                if *started != Some(pid) {
                    return self.fail(Failure::Pid(Side::New, pid), out);
                }
                if !speaks(versions) {
                    return self.fail(Failure::Version(Side::New, versions), out);
                }
                let left = (self.began + self.plan.deadline_ms).saturating_sub(now);
                let ack = Message::HelloAck {
                    version: VERSION,
                    id,
                };
                let prepare = Message::Prepare {
                    id,
                    successor: pid,
                    deadline_ms: left.max(LEAST_MS),
                    grace_ms: self.plan.grace_ms,
                };
                self.go_to(Stage::Draining, now);
                let note = Effect::Note(Step::Drain);
                out.extend([Effect::TellNew(ack), note, Effect::TellOld(prepare)]);
            }
            (
                Stage::Loading,
                Message::Ready {
                    id: of, is_healthy, ..
                },
            ) if of == id => match is_healthy {
                true => {
                    self.go_to(Stage::Checking, now);
                    out.extend([Effect::Note(Step::Check), Effect::Check]);
                }
                false => self.fail(Failure::Unhealthy("it says so itself".into()), out),
            },
            (Stage::Greeting | Stage::Starting(_), _) => self.fail(Failure::Order(Side::New), out),
            (_, Message::Heartbeat { .. }) => {}
            _ => self.fail(Failure::Order(Side::New), out),
        }
    }

    fn commit(&mut self, out: &mut Vec<Effect>) {
        self.stage = Stage::Over;
        out.push(Effect::Note(Step::Commit));
        if self.is_old_there {
            out.push(Effect::TellOld(Message::Commit(self.plan.id)));
        }
        out.push(Effect::Over(Ok(())));
    }

    /// Nothing comes of it. The old process goes on: before the data directory was the successor's at once,
    /// behind that when the successor has ended.
    fn fail(&mut self, failure: Failure, out: &mut Vec<Effect>) {
        let id = self.plan.id;
        let (begun, told) = match &self.stage {
            Stage::Over => return,
            Stage::Ending(why, resumes) => {
                if !self.is_new_there {
                    let (why, resumes) = (why.clone(), *resumes);
                    self.end(why, resumes, out);
                }
                return;
            }
            Stage::Greeting | Stage::Starting(_) => (false, false),
            Stage::Draining | Stage::Sealing => (false, true),
            Stage::Loading | Stage::Checking => (true, true),
        };
        // Who says that it cannot has gone on already.
        let mut resumes = told && !matches!(failure, Failure::Seal(_));
        let is_heard = self.is_new_there && !matches!(failure, Failure::NewGone(_));
        if told && is_heard {
            let reason = failure.to_string();
            out.push(Effect::TellNew(Message::Abort { id, reason }));
        }
        if resumes && !begun && self.is_old_there {
            out.push(Effect::TellOld(Message::Resume(id)));
            resumes = false;
        }
        if self.is_new_there {
            out.push(Effect::EndNew { gently: begun });
            self.stage = Stage::Ending(failure, resumes);
        } else {
            self.end(failure, resumes, out);
        }
    }

    fn end(&mut self, failure: Failure, resumes: bool, out: &mut Vec<Effect>) {
        self.stage = Stage::Over;
        if resumes && self.is_old_there {
            out.push(Effect::TellOld(Message::Resume(self.plan.id)));
        }
        out.push(Effect::Over(Err(failure)));
    }
}

fn speaks((least, most): (u16, u16)) -> bool {
    (least..=most).contains(&VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id([7; 16]);

    struct Lead {
        machine: Supervisor,
        now: Ms,
    }

    impl Lead {
        fn new() -> Self {
            let plan = Plan {
                id: ID,
                incumbent: 1,
                deadline_ms: 30_000,
                grace_ms: 5_000,
            };
            Lead {
                machine: Supervisor::new(plan, 1000),
                now: 1000,
            }
        }

        /// One that is so far.
        fn at(step: Step) -> Self {
            let mut lead = Lead::new();
            lead.old(&hello(Role::Incumbent, 1));
            lead.step(Event::Started(2));
            let ways: [fn(&mut Lead) -> Vec<Effect>; 4] = [
                |lead| lead.new_says(&hello(Role::Successor, 2)),
                |lead| lead.old(&drained()),
                |lead| lead.old(&complete()),
                |lead| lead.new_says(&ready(true)),
            ];
            for way in ways.iter().take(step as usize) {
                way(&mut lead);
            }
            lead
        }

        fn step(&mut self, event: Event<'_>) -> Vec<Effect> {
            let mut out = Vec::new();
            self.machine.step(self.now, event, &mut out);
            out
        }

        fn old(&mut self, message: &Message) -> Vec<Effect> {
            let bytes = frame(message);
            self.step(Event::Old(&bytes))
        }

        fn new_says(&mut self, message: &Message) -> Vec<Effect> {
            let bytes = frame(message);
            self.step(Event::New(&bytes))
        }

        /// The clock goes on to when the machine wants to be called, and it is.
        fn wake(&mut self) -> Vec<Effect> {
            self.now = self.machine.wakes_at().expect("waits for something");
            self.step(Event::Tick)
        }
    }

    fn frame(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    fn hello(role: Role, pid: u32) -> Message {
        let (build, versions) = (Vec::new(), (1, 3));
        Message::Hello {
            role,
            pid,
            build,
            versions,
            capabilities: 0,
        }
    }

    fn drained() -> Message {
        Message::Drained {
            open_conns: 3,
            accept_closed: true,
        }
    }

    fn complete() -> Message {
        Message::SealComplete {
            id: ID,
            revisions: vec![4],
            fingerprint: [9; 32],
        }
    }

    fn ready(is_healthy: bool) -> Message {
        let (listening, revisions) = (Vec::new(), vec![4]);
        Message::Ready {
            id: ID,
            listening,
            is_healthy,
            revisions,
        }
    }

    fn abort(failure: &Failure) -> Effect {
        let reason = failure.to_string();
        Effect::TellNew(Message::Abort { id: ID, reason })
    }

    fn resume() -> Effect {
        Effect::TellOld(Message::Resume(ID))
    }

    fn over(failure: &Failure) -> Effect {
        Effect::Over(Err(failure.clone()))
    }

    /// The successor ends as it was told.
    fn ended(lead: &mut Lead) -> Vec<Effect> {
        lead.step(Event::NewEnded("was killed".into()))
    }

    #[test]
    fn the_order_is_that_of_the_page() {
        let mut lead = Lead::new();
        let ack = Message::HelloAck { version: 1, id: ID };
        assert_eq!(
            lead.old(&hello(Role::Incumbent, 1)),
            [
                Effect::TellOld(ack.clone()),
                Effect::Note(Step::Start),
                Effect::Start
            ]
        );
        lead.now += 400;
        assert_eq!(lead.step(Event::Started(2)), []);
        let prepare = Message::Prepare {
            id: ID,
            successor: 2,
            deadline_ms: 29_600,
            grace_ms: 5_000,
        };
        assert_eq!(
            lead.new_says(&hello(Role::Successor, 2)),
            [
                Effect::TellNew(ack),
                Effect::Note(Step::Drain),
                Effect::TellOld(prepare)
            ]
        );
        assert_eq!(
            lead.old(&drained()),
            [
                Effect::Note(Step::Seal),
                Effect::TellOld(Message::SealRequest(ID))
            ]
        );
        assert_eq!(
            lead.old(&complete()),
            [
                Effect::Note(Step::Load),
                Effect::TellNew(Message::Begin(ID))
            ]
        );
        assert_eq!(
            lead.new_says(&ready(true)),
            [Effect::Note(Step::Check), Effect::Check]
        );
        // It has said all it has to say.
        assert_eq!(lead.step(Event::NewGone), []);
        assert_eq!(
            lead.step(Event::Checked(Ok(()))),
            [
                Effect::Note(Step::Commit),
                Effect::TellOld(Message::Commit(ID)),
                Effect::Over(Ok(()))
            ]
        );
        assert!(lead.machine.is_over() && lead.machine.wakes_at().is_none());
        assert_eq!(lead.step(Event::OldGone), []);
    }

    #[test]
    fn before_the_seal_is_made_the_old_one_goes_on_at_once() {
        for step in [Step::Drain, Step::Seal] {
            let mut lead = Lead::at(step);
            let failure = Failure::Stopped;
            let undone = [abort(&failure), resume(), Effect::EndNew { gently: false }];
            assert_eq!(lead.step(Event::Stop), undone);
            assert_eq!(ended(&mut lead), [over(&failure)]);
        }
        let mut lead = Lead::at(Step::Start);
        assert_eq!(lead.step(Event::Stop), [Effect::EndNew { gently: false }]);
        assert_eq!(ended(&mut lead), [over(&Failure::Stopped)]);
    }

    #[test]
    fn behind_the_seal_it_goes_on_when_the_new_one_has_ended() {
        for step in [Step::Load, Step::Check] {
            let mut lead = Lead::at(step);
            let failure = Failure::Stopped;
            let effects = lead.step(Event::Stop);
            assert_eq!(effects, [abort(&failure), Effect::EndNew { gently: true }]);
            assert_eq!(lead.step(Event::NewGone), []);
            assert_eq!(lead.step(Event::Stop), []);
            assert_eq!(ended(&mut lead), [resume(), over(&failure)]);
        }
    }

    #[test]
    fn a_successor_that_ends_is_noticed_at_any_time() {
        let how = "ended with status 1";
        for step in [
            Step::Start,
            Step::Drain,
            Step::Seal,
            Step::Load,
            Step::Check,
        ] {
            let mut lead = Lead::at(step);
            let failure = Failure::NewEnded(step, how.into());
            let told = [resume(), over(&failure)];
            let told = if step == Step::Start {
                &told[1..]
            } else {
                &told
            };
            assert_eq!(lead.step(Event::NewEnded(how.into())), told, "{step:?}");
        }
        // Its line ends a little earlier than the process.
        let mut lead = Lead::at(Step::Drain);
        let undone = [resume(), Effect::EndNew { gently: false }];
        assert_eq!(lead.step(Event::NewGone), undone);
        assert_eq!(ended(&mut lead), [over(&Failure::NewGone(Step::Drain))]);
        let mut lead = Lead::new();
        lead.old(&hello(Role::Incumbent, 1));
        let failure = Failure::CannotStart("no such file".into());
        assert_eq!(
            lead.step(Event::CannotStart("no such file".into())),
            [over(&failure)]
        );
    }

    #[test]
    fn an_incumbent_that_goes_away_costs_the_handoff_only_before_the_seal() {
        for step in [Step::Start, Step::Drain, Step::Seal] {
            let mut lead = Lead::at(step);
            let failure = Failure::OldGone(step);
            let effects = lead.step(Event::OldGone);
            assert_eq!(
                effects.last(),
                Some(&Effect::EndNew { gently: false }),
                "{step:?}"
            );
            assert!(!effects.contains(&resume()));
            assert_eq!(ended(&mut lead), [over(&failure)]);
        }
        let mut lead = Lead::at(Step::Load);
        assert_eq!(lead.step(Event::OldGone), []);
        lead.new_says(&ready(true));
        assert_eq!(
            lead.step(Event::Checked(Ok(()))),
            [Effect::Note(Step::Commit), Effect::Over(Ok(()))]
        );
    }

    #[test]
    fn a_successor_that_does_not_serve_is_asked_to_end_first() {
        let why = "nobody answers".to_string();
        let mut lead = Lead::at(Step::Check);
        let failure = Failure::Unhealthy(why.clone());
        let effects = lead.step(Event::Checked(Err(why)));
        assert_eq!(effects, [abort(&failure), Effect::EndNew { gently: true }]);
        assert_eq!(ended(&mut lead), [resume(), over(&failure)]);
        let mut lead = Lead::at(Step::Load);
        let effects = lead.new_says(&ready(false));
        assert_eq!(effects.last(), Some(&Effect::EndNew { gently: true }));
    }

    #[test]
    fn a_failed_seal_is_not_undone_twice() {
        let mut lead = Lead::at(Step::Seal);
        let (error, partial) = ("disk full".to_string(), String::new());
        let failure = Failure::Seal(error.clone());
        let effects = lead.old(&Message::SealFailed {
            id: ID,
            error,
            partial,
        });
        assert_eq!(effects, [abort(&failure), Effect::EndNew { gently: false }]);
        assert_eq!(ended(&mut lead), [over(&failure)]);
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let late = |step| Failure::Late(step);
        for (step, failure, at) in [
            (Step::Start, late(Step::Start), 11_000),
            (Step::Drain, late(Step::Drain), 7_000),
            (Step::Seal, Failure::Silent(Step::Seal), 11_000),
            (Step::Load, Failure::Silent(Step::Load), 11_000),
        ] {
            let mut lead = Lead::at(step);
            lead.wake();
            assert_eq!(lead.now, at, "{step:?}");
            assert_eq!(ended(&mut lead).last(), Some(&over(&failure)), "{step:?}");
        }
        let mut lead = Lead::new();
        assert_eq!(lead.wake(), [over(&late(Step::Start))]);
        // Signs of life do for as long as the deadline.
        let mut lead = Lead::at(Step::Load);
        while lead.machine.wakes_at() != Some(32_000) {
            lead.now += 2_000;
            assert_eq!(lead.new_says(&Message::Heartbeat { at_ms: 1 }), []);
        }
        lead.wake();
        assert_eq!(ended(&mut lead), [resume(), over(&late(Step::Load))]);
    }

    #[test]
    fn a_successor_may_read_ahead_for_a_while() {
        for (deadline_ms, hello_ms) in [(1000, 5000), (30_000, 10_000), (600_000, 12_000)] {
            let plan = Plan {
                deadline_ms,
                ..Lead::new().machine.plan
            };
            let mut lead = Lead {
                machine: Supervisor::new(plan, 1000),
                now: 1000,
            };
            assert_eq!(lead.machine.wakes_at(), Some(6000));
            lead.now = 1500;
            lead.old(&hello(Role::Incumbent, 1));
            lead.step(Event::Started(2));
            assert_eq!(lead.machine.wakes_at(), Some(1500 + hello_ms));
        }
    }

    #[test]
    fn who_is_not_meant_or_says_what_does_not_belong_there_is_not_believed() {
        let mut lead = Lead::new();
        let effects = lead.old(&hello(Role::Incumbent, 9));
        assert_eq!(effects, [over(&Failure::Pid(Side::Old, 9))]);
        let mut lead = Lead::new();
        let effects = lead.old(&hello(Role::Successor, 1));
        assert_eq!(effects, [over(&Failure::Order(Side::Old))]);
        let mut lead = Lead::at(Step::Start);
        lead.new_says(&hello(Role::Successor, 9));
        assert_eq!(ended(&mut lead), [over(&Failure::Pid(Side::New, 9))]);
        let mut lead = Lead::at(Step::Start);
        let (role, build, versions) = (Role::Successor, Vec::new(), (2, 2));
        lead.new_says(&Message::Hello {
            role,
            pid: 2,
            build,
            versions,
            capabilities: 0,
        });
        assert_eq!(
            ended(&mut lead),
            [over(&Failure::Version(Side::New, (2, 2)))]
        );
        let mut lead = Lead::at(Step::Load);
        let id = Id([8; 16]);
        let (listening, revisions) = (Vec::new(), Vec::new());
        lead.new_says(&Message::Ready {
            id,
            listening,
            is_healthy: true,
            revisions,
        });
        assert_eq!(
            ended(&mut lead),
            [resume(), over(&Failure::Order(Side::New))]
        );
        let mut lead = Lead::at(Step::Drain);
        lead.step(Event::Old(&[1, 0, 0, 0]));
        let failure = Failure::Wire(Side::Old, WireError::Length(1));
        assert_eq!(ended(&mut lead), [over(&failure)]);
    }
}
