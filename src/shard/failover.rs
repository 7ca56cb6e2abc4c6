//! Failovers to and from this node: the machines of `failover` meet commands, files, the other cores and the
//! connection to the target. What decides is behind one lock, which commands on any core take, and core 0
//! while something is under way.

mod line;
mod outcomes;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use uring::{Reactor, SocketId};

use self::line::Line;
use super::{
    alarm::Alarm,
    conn::Conn,
    elect::Election,
    follow::Follower,
    log,
    message::{Message, Order},
    orders::Orders,
    safe_file::{self, SafeFile},
    shared::{ReplicaView, Shared, lock},
    state::State,
    tls::Fault as TlsFault,
};
use crate::{
    base::{Ms, Position},
    cmd::Spec,
    elect::elector::NoHeir,
    failover::{
        Answer, Candidate, Command, Coordinator, Effect, Event, Facts, Id, Leader, Outcome, Phase,
        Place, Record, Request, Rule, Say, Settings, Stands, Target, Verdict,
        record::{Kind, Ledger},
        request,
    },
    resp::{Args, Error},
};

/// File of the data directory.
pub const RECORD: &str = "failover.meta";

/// Marks of the ring for what is here: the file, and the timer.
const FILE: u64 = 1 << 62;
pub(super) const MARK: u64 = safe_file::MARK | FILE;
/// Outcomes that are kept to be shown.
const OUTCOMES_MAX: usize = 16;
/// Answers for clients that may be gone.
const ANSWERS_MAX: usize = 64;
/// A target that was asked writes everything to its disk at once for so long: it is asked again before.
const HURRY_MS: Ms = 1000;
/// After the disk refused the record.
const NOTE_AGAIN_MS: Ms = 250;

/// The reply to who asks and gets no answer.
pub(super) const UNANSWERED: Error = Error::fixed("ERR FAILOVER has no answer yet");

/// What all cores know of failovers.
#[derive(Debug, Default)]
pub struct Failovers {
    /// What decides, and what it decided.
    pub desk: Mutex<Desk>,
    /// Core 0 has to look at it.
    is_due: AtomicBool,
    /// A target catches up: every acknowledgement may be the last one.
    waits: AtomicBool,
    questions: AtomicU64,
}

impl Failovers {
    /// With what the disk says.
    pub fn new(record: Record) -> Self {
        let desk = Desk::new(record);
        // A failover of which nobody knows the end is gone on with.
        let is_due = AtomicBool::new(desk.is_under_way());
        Self {
            desk: Mutex::new(desk),
            is_due,
            ..Self::default()
        }
    }

    /// Does a target catch up?
    pub(super) fn awaits_acks(&self) -> bool {
        self.waits.load(Relaxed)
    }
}

/// See there.
#[derive(Debug)]
pub struct Desk {
    ledger: Ledger,
    coordinator: Coordinator,
    target: Target,
    due: VecDeque<Effect>,
    /// What was asked and core 0 has not looked at, and what waits for an answer.
    heard: Vec<(u64, Say)>,
    waiting: Vec<(u64, Say)>,
    /// Answers, for those who wait for them.
    pub answers: std::collections::BTreeMap<u64, Answer>,
    outcomes: VecDeque<(Ms, Outcome)>,
    counts: [u64; Verdict::ALL.len()],
}

impl Default for Desk {
    fn default() -> Self {
        Self::new(Record::default())
    }
}

impl Desk {
    /// With what the disk says.
    pub fn new(record: Record) -> Self {
        let ledger = Ledger::new(record);
        Self {
            coordinator: Coordinator::new(0, Settings::default(), &ledger),
            ledger,
            target: Target::default(),
            due: VecDeque::new(),
            heard: Vec::new(),
            waiting: Vec::new(),
            answers: std::collections::BTreeMap::new(),
            outcomes: VecDeque::new(),
            counts: [0; Verdict::ALL.len()],
        }
    }

    /// Does a failover say what this node follows?
    pub fn is_under_way(&self) -> bool {
        self.coordinator.phase() != Phase::Idle || self.target.is_busy()
    }

    /// What the node is because of a failover; `None` if nobody knows yet whether its target took over.
    pub fn stands(&self) -> Option<Stands> {
        let record = self.ledger.record();
        record.open.is_none().then(|| record.stands.clone())
    }

    /// The state as redis-server tells it.
    pub fn redis_state(&self) -> &'static str {
        self.coordinator.phase().redis_name()
    }

    /// Lines for INFO: what is under way, and what was.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            (
                "failover_phase",
                self.coordinator.phase().name().to_string(),
            ),
            ("role_epoch", self.ledger.record().epoch.to_string()),
        ];
        if let Some(view) = self.coordinator.view() {
            let sum = |offsets: &mut dyn Iterator<Item = u64>| offsets.sum::<u64>().to_string();
            let target = view
                .target
                .map_or(String::new(), |target| target.to_string());
            lines.extend([
                ("failover_id", view.id.to_string()),
                ("failover_target", target),
                ("failover_timeout_ms", view.timeout.to_string()),
                (
                    "failover_frontier",
                    sum(&mut view.frontier.iter().map(|at| at.offset)),
                ),
                ("failover_reached", sum(&mut view.reached.into_iter())),
            ]);
        }
        let names = [
            "failovers_clean_total",
            "failovers_forced_total",
            "failovers_aborted_total",
            "failovers_reclaimed_total",
        ];
        let counts = self.counts.iter().map(u64::to_string);
        lines.extend(names.into_iter().zip(counts));
        if let Some((_, outcome)) = self.outcomes.back() {
            let Outcome { reason, .. } = outcome;
            lines.extend([
                ("failover_last_result", outcome.verdict.name().to_string()),
                ("failover_last_reason", reason.clone()),
                ("failover_last_frozen_ms", outcome.frozen_ms.to_string()),
                ("failover_last_skipped", outcome.skipped.to_string()),
            ]);
        }
        lines
    }
}

/// Core 0's part.
pub(super) struct Failing {
    file: Option<SafeFile>,
    /// Where outcomes are noted.
    dir: Option<PathBuf>,
    is_writing: bool,
    write_again_at: Ms,
    line: Line,
    alarm: Alarm,
    busy: Busy,
    orders: Orders,
}

/// What cores are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Busy {
    No,
    /// All are frozen once so many more rounds are over.
    Freezing(u8),
    /// What came from the primary is applied once so many more rounds are over.
    Leaving(u8),
    /// The new histories are being begun.
    Beginning,
}

impl Failing {
    pub fn new<R: Reactor>(dir: Option<&Path>, reactor: &mut R) -> std::io::Result<Self> {
        let file = match dir {
            None => None,
            Some(dir) => Some(SafeFile::new(FILE, dir, RECORD, reactor.open_dir(dir)?)),
        };
        Ok(Self {
            file,
            dir: dir.map(Path::to_path_buf),
            is_writing: false,
            write_again_at: 0,
            line: Line::default(),
            alarm: Alarm::new(MARK),
            busy: Busy::No,
            orders: Orders::default(),
        })
    }

    /// Takes in what came from a socket, if it is the target's.
    pub fn on_data(&mut self, socket: SocketId, bytes: &[u8], shared: &Shared) -> bool {
        let is_ours = self.line.on_data(socket, bytes);
        Self::note(is_ours, shared)
    }

    /// Something happened to the connection, if that is so.
    fn note(is_ours: bool, shared: &Shared) -> bool {
        if is_ours {
            shared.failovers.is_due.store(true, SeqCst);
        }
        is_ours
    }

    pub fn on_connected(&mut self, socket: SocketId, is_good: bool, shared: &Shared) -> bool {
        Self::note(self.line.on_connected(socket, is_good), shared)
    }

    /// TLS cannot be spoken with who was dialed.
    pub fn on_tls_fault(&mut self, socket: SocketId, fault: TlsFault, shared: &Shared) -> bool {
        Self::note(self.line.on_tls_fault(socket, fault), shared)
    }

    pub fn on_sent(&mut self, socket: SocketId, is_good: bool, shared: &Shared) -> bool {
        Self::note(self.line.on_sent(socket, is_good), shared)
    }

    pub fn on_end(&mut self, socket: SocketId, shared: &Shared) -> bool {
        Self::note(self.line.on_end(socket), shared)
    }

    /// A request to the ring for the file is over.
    pub fn on_done<R: Reactor>(
        &mut self,
        mark: u64,
        is_good: bool,
        shared: &Shared,
        reactor: &mut R,
    ) {
        let done = self
            .file
            .as_mut()
            .map(|file| file.on_done(mark, is_good, reactor));
        if let Some(Some(is_there)) = done {
            self.on_written(is_there, shared, reactor);
        }
    }

    fn on_written<R: Reactor>(&mut self, is_there: bool, shared: &Shared, reactor: &mut R) {
        self.is_writing = false;
        if !is_there {
            self.write_again_at = reactor.boot_clock_ms() + NOTE_AGAIN_MS;
        }
        lock(&shared.failovers.desk).ledger.on_written(is_there);
        shared.failovers.is_due.store(true, SeqCst);
    }

    /// The timer is due.
    pub fn on_timer(&mut self, shared: &Shared) {
        self.alarm.on_timer();
        shared.failovers.is_due.store(true, SeqCst);
    }

    /// A core has carried out an order.
    pub fn on_settled(&mut self, round: u64, shared: &Shared) {
        if self.orders.on_settled(round) {
            shared.failovers.is_due.store(true, SeqCst);
        }
    }

    /// Is the record on its way to the disk?
    pub fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Must the core not sleep?
    pub fn has_work(&self, shared: &Shared) -> bool {
        // What was found on the disk must be in its place before anybody is followed.
        let is_loaded = shared.durable.loading.shards.load(SeqCst) == 0;
        is_loaded && shared.failovers.is_due.load(SeqCst)
    }

    /// Lets the machines know of what happened, and does what they want.
    pub fn step<R: Reactor>(
        &mut self,
        state: &mut State,
        follower: &mut Follower,
        mut election: Option<&mut Election>,
        reactor: &mut R,
    ) -> bool {
        let waits = &state.shared.failovers.waits;
        if !self.has_work(&state.shared) && !waits.load(Relaxed) {
            return false;
        }
        let shared = state.shared.clone();
        shared.failovers.is_due.store(false, SeqCst);
        let now = reactor.boot_clock_ms();
        let mut desk = lock(&shared.failovers.desk);
        let desk = &mut *desk;
        self.hear(desk, state, follower, election.as_deref());
        let mut out = Vec::new();
        if self.busy != Busy::No && self.orders.are_settled(state) {
            self.on_all_settled(desk, &mut out, now, state, follower);
        }
        if let Some(election) = &election {
            let event = led(election, desk, &shared);
            desk.coordinator
                .step(now, event, &mut desk.ledger, &mut out);
        }
        for (id, answer) in self.line.take_answers() {
            let event = Event::Heard(id, answer);
            desk.coordinator
                .step(now, event, &mut desk.ledger, &mut out);
        }
        let event = match desk.coordinator.phase() {
            Phase::Waiting | Phase::Asking => Event::Replicas(joined(&shared)),
            _ => Event::Wake,
        };
        desk.coordinator
            .step(now, event, &mut desk.ledger, &mut out);
        desk.due.extend(out);
        if desk.target.step(&mut desk.ledger) {
            log("failover: this node is to be the primary");
            follower.stand_by(state);
            self.orders.give(Order::Settle, state);
            self.busy = Busy::Leaving(2);
        }
        while let Some(effect) = desk.due.pop_front() {
            match (effect, &mut election) {
                (Effect::HandOver(to), Some(election)) => {
                    let view = shared
                        .election
                        .as_ref()
                        .map(|election| lock(&election.view));
                    let id = view.and_then(|view| Some(view.as_ref()?.member_at(&to)?.id));
                    let handed = id.map(|id| election.hand_over(id, state, follower, reactor));
                    let reason = match handed {
                        Some(Ok(())) => continue,
                        Some(Err(why)) => why.to_string(),
                        None => NoHeir::Unknown.to_string(),
                    };
                    let mut out = Vec::new();
                    let event = Event::Kept(reason);
                    desk.coordinator
                        .step(now, event, &mut desk.ledger, &mut out);
                    desk.due.extend(out);
                }
                (effect, _) => self.carry_out(effect, desk, now, state, follower),
            }
        }
        self.answer(desk, state);
        self.persist(desk, now, &shared, reactor);
        self.line.step(now, &state.tunables, reactor);
        let phase = desk.coordinator.phase();
        // Elections are looked at in every turn.
        let is_elected = election.is_some() && phase != Phase::Idle;
        let waits = is_elected || matches!(phase, Phase::Waiting | Phase::Asking);
        shared.failovers.waits.store(waits, Relaxed);
        let again = match self.write_again_at > now && !desk.ledger.is_settled() {
            true => self.write_again_at,
            false => Ms::MAX,
        };
        let at = desk.coordinator.wakes_at().min(again);
        self.alarm.set(at, now, reactor);
        true
    }

    /// Questions that came.
    fn hear(
        &mut self,
        desk: &mut Desk,
        state: &mut State,
        follower: &Follower,
        election: Option<&Election>,
    ) {
        if desk.heard.is_empty() {
            return;
        }
        let shared = state.shared.clone();
        let elected = election.and_then(Election::obstacle);
        let obstacle = if shared.election.is_some() && (election.is_none() || elected.is_some()) {
            elected.or(Some("it takes no part in elections yet"))
        } else if shared.durable.broken.load(Relaxed) {
            Some("its journal cannot be written")
        } else if shared.is_stopping() {
            Some("it stops")
        } else if desk.coordinator.phase() != Phase::Idle {
            Some("it is handing its own part over")
        } else {
            None
        };
        let facts = Facts {
            at: follower.joined(),
            obstacle: obstacle.map(str::to_string),
            elected: shared.election.is_some().then(|| {
                let epoch = election.map(|election| election.leader().1);
                epoch.map_or(0, |epoch| epoch.0)
            }),
        };
        for (question, say) in std::mem::take(&mut desk.heard) {
            match desk.target.hear(&say, &facts, &mut desk.ledger) {
                Some(answer) => {
                    if matches!(answer, Answer::Ready(_)) {
                        // The other side may wait for the disk, and its clients do.
                        let until = state.now + HURRY_MS;
                        shared.durable.hurry_until.store(until, Relaxed);
                        state.tell_all(|| Message::Failover);
                    }
                    desk.answers.insert(question, answer);
                }
                None => desk.waiting.push((question, say)),
            }
        }
        while desk.answers.len() > ANSWERS_MAX {
            desk.answers.pop_first();
        }
    }

    /// Answers what waited for it.
    fn answer(&mut self, desk: &mut Desk, state: &mut State) {
        for (question, say) in std::mem::take(&mut desk.waiting) {
            match desk.target.answer(&say, &desk.ledger) {
                Some(answer) => drop(desk.answers.insert(question, answer)),
                None => desk.waiting.push((question, say)),
            }
        }
        if !desk.answers.is_empty() {
            state.tell_acks();
        }
    }

    fn carry_out(
        &mut self,
        effect: Effect,
        desk: &mut Desk,
        now: Ms,
        state: &mut State,
        follower: &mut Follower,
    ) {
        match effect {
            Effect::Freeze => {
                self.orders.give(Order::Freeze, state);
                self.busy = Busy::Freezing(2);
            }
            Effect::Thaw => {
                self.busy = Busy::No;
                self.orders.give(Order::Thaw, state);
            }
            // Where nobody is elected nobody is handed anything.
            Effect::HandOver(_) => {}
            Effect::AskAcks => state.ask_acks(),
            Effect::Say { to, kind, say } => self.line.say(now, &to, kind, &say),
            Effect::Demote => {
                follower.stand_by(state);
                log("failover: this node is no primary any more");
            }
            Effect::Follow(Place { host, port }) => follower.follow(state, Some((host, port))),
            Effect::Lead => follower.follow(state, None),
            Effect::Ended(outcome) => {
                let (verdict, id) = (outcome.verdict, outcome.id);
                let to = outcome
                    .to
                    .as_ref()
                    .map_or(String::new(), |to| format!(" to {to}"));
                let why = match &outcome.reason[..] {
                    "" => String::new(),
                    reason => format!(", {reason}"),
                };
                log(&format!(
                    "failover {id}{to}: {}{why}; epoch {}, {} ms without writes, {} frames skipped",
                    verdict.name(),
                    outcome.new_epoch,
                    outcome.frozen_ms,
                    outcome.skipped
                ));
                if matches!(verdict, Verdict::Clean | Verdict::Forced) {
                    let reached = outcome.frontier.iter().zip(&outcome.reached);
                    let reached = reached.map(|(at, offset)| Position {
                        offset: *offset,
                        ..*at
                    });
                    state.shared.rollbacks.hand_over(reached.collect());
                }
                if let Some(dir) = &self.dir {
                    outcomes::note(dir, state.now, &outcome);
                }
                let count = Verdict::ALL.iter().position(|other| *other == verdict);
                desk.counts[count.unwrap_or(0)] += 1;
                desk.outcomes.push_back((state.now, *outcome));
                if desk.outcomes.len() > OUTCOMES_MAX {
                    desk.outcomes.pop_front();
                }
                self.line.hang_up();
            }
        }
    }

    // ---- the other cores ----

    fn on_all_settled(
        &mut self,
        desk: &mut Desk,
        out: &mut Vec<Effect>,
        now: Ms,
        state: &mut State,
        follower: &mut Follower,
    ) {
        match self.busy {
            Busy::No => {}
            Busy::Freezing(0) => {
                self.busy = Busy::No;
                state.publish_ends();
                let shards = 0..state.shared.settings.shards;
                let frontier: Vec<Position> = shards.map(|at| state.told_position(at)).collect();
                let event = Event::Frozen(frontier);
                desk.coordinator.step(now, event, &mut desk.ledger, out);
            }
            Busy::Freezing(rounds) => {
                self.busy = Busy::Freezing(rounds - 1);
                self.orders.give(Order::Settle, state);
            }
            Busy::Leaving(0) => {
                self.busy = Busy::Beginning;
                self.orders.give(Order::Lead, state);
            }
            Busy::Leaving(rounds) => {
                self.busy = Busy::Leaving(rounds - 1);
                self.orders.give(Order::Settle, state);
            }
            Busy::Beginning => {
                self.busy = Busy::No;
                follower.follow(state, None);
                desk.target.begun();
                log(&format!(
                    "failover: this node is the primary of epoch {}",
                    desk.ledger.record().epoch
                ));
            }
        }
    }

    // ---- the disk ----

    fn persist<R: Reactor>(&mut self, desk: &mut Desk, now: Ms, shared: &Shared, reactor: &mut R) {
        if self.is_writing || now < self.write_again_at {
            return;
        }
        let Some(content) = desk.ledger.next_write() else {
            return;
        };
        let is_begun = match &mut self.file {
            // Nothing of this node survives its end.
            None => {
                desk.ledger.on_written(true);
                shared.failovers.is_due.store(true, SeqCst);
                return;
            }
            Some(file) => file.write(content, reactor),
        };
        self.is_writing = is_begun;
        if !is_begun {
            self.write_again_at = now + NOTE_AGAIN_MS;
            desk.ledger.on_written(false);
            shared.failovers.is_due.store(true, SeqCst);
        }
    }
}

/// The replicas of this node that can be told apart, and how far they are.
fn candidates(shared: &Shared) -> Vec<Candidate> {
    let views: Vec<Vec<ReplicaView>> = shared
        .replicas
        .iter()
        .map(|replicas| lock(&replicas.links).clone())
        .collect();
    let Some(first) = views.first() else {
        return Vec::new();
    };
    let named = first.iter().filter(|view| view.port > 0);
    let candidates = named.filter_map(|view| {
        let is_same = |other: &&ReplicaView| (other.ip, other.port) == (view.ip, view.port);
        let links: Option<Vec<_>> = views
            .iter()
            .map(|views| views.iter().rev().find(is_same))
            .collect();
        let links = links?;
        let place = Place {
            host: view.ip.to_canonical().to_string(),
            port: view.port,
        };
        Some(Candidate {
            place,
            kind: match view.is_kevy {
                true => Kind::Kevy,
                false => Kind::Ringkeep,
            },
            is_online: links.iter().all(|link| link.is_online),
            applied: links.iter().map(|link| link.acked).collect(),
            durable: links.iter().map(|link| link.durable).collect(),
        })
    });
    let mut candidates: Vec<_> = candidates.collect();
    candidates.dedup_by(|one, other| one.place == other.place);
    candidates
}

/// Those of them that can be elected: ringkeeps that are members.
fn heirs(shared: &Shared) -> Vec<Candidate> {
    let mut found = candidates(shared);
    if let Some(election) = &shared.election {
        let view = lock(&election.view);
        let is_heir = |candidate: &Candidate| {
            let member = view
                .as_ref()
                .and_then(|view| view.member_at(&candidate.place));
            let is_ringkeep = member.and_then(|member| Some(member.other?.is_ringkeep));
            candidate.kind == Kind::Ringkeep && is_ringkeep == Some(true)
        };
        found.retain(is_heir);
    }
    found
}

/// Where the member with this name follows from.
///
/// # Errors
/// The reply to the operator.
fn replica_named(shared: &Shared, node: &str) -> Result<Place, Error> {
    let Some(election) = &shared.election else {
        return Err(Error::fixed(
            "ERR FAILOVER TO NODE is for members of elections.",
        ));
    };
    let candidates = candidates(shared);
    let view = lock(&election.view);
    let members = view.iter().flat_map(|view| &view.members);
    let mut members = members.filter(|member| member.other.is_some());
    if !members.any(|member| member.id.as_str() == node) {
        return Err(Error::fixed(
            "ERR FAILOVER target is no member of the elections.",
        ));
    }
    let is_named = |place: &Place| {
        let member = view.as_ref().and_then(|view| view.member_at(place));
        member.is_some_and(|member| member.id.as_str() == node)
    };
    let mut places = candidates.into_iter().map(|other| other.place);
    places.find(is_named).ok_or(request::NO_REPLICA)
}

/// The same. Where primaries are elected, what somebody has counts from when it has joined this one.
fn joined(shared: &Shared) -> Vec<Candidate> {
    let mut found = heirs(shared);
    if let Some(election) = &shared.election {
        let led = election.epoch_led.load(SeqCst);
        let has_joined = |place: &Place| {
            shared.replicas.iter().all(|replicas| {
                let links = lock(&replicas.links);
                let mut links = links.iter().rev();
                let link = links.find(|link| is_at(link, place));
                link.is_some_and(|link| link.epoch == Some(led))
            })
        };
        for heir in &mut found {
            heir.is_online &= has_joined(&heir.place);
        }
    }
    found
}

fn is_at(link: &ReplicaView, place: &Place) -> bool {
    link.port == place.port && link.ip.to_canonical().to_string() == place.host
}

/// What elections say of the part that is handed over.
fn led(election: &Election, desk: &Desk, shared: &Shared) -> Event {
    let (primary, epoch) = election.leader();
    let target = desk.coordinator.view().and_then(|view| view.target);
    let is_target = |id| {
        let view = shared
            .election
            .as_ref()
            .map(|election| lock(&election.view));
        let member = |place| Some(view.as_ref()?.as_ref()?.member_at(place)?.id);
        target.as_ref().and_then(member) == Some(id)
    };
    let leader = match primary {
        None => Leader::Nobody,
        Some(id) if election.is_us(id) => Leader::Us,
        Some(id) if is_target(id) => Leader::Target,
        Some(_) => Leader::Another,
    };
    Event::Led(leader, epoch.0)
}

impl State {
    /// FAILOVER.
    pub(super) fn failover(&mut self, conn: &mut Conn, args: Args<'_>) {
        let shared = self.shared.clone();
        let result = match request::parse(args) {
            Err(error) => Err(error),
            Ok(Command::Status) => return self.failover_status(conn),
            Ok(Command::Begin(_) | Command::BeginTo(..)) if shared.settings.slots.is_some() => {
                Err(Error::fixed("ERR FAILOVER not allowed in cluster mode."))
            }
            Ok(Command::Begin(request)) => self.begin_failover(None, request),
            Ok(Command::BeginTo(node, request)) => self.begin_failover(Some(&node), request),
            Ok(Command::Abort(force)) => {
                let mut desk = lock(&shared.failovers.desk);
                let desk = &mut *desk;
                let mut out = Vec::new();
                let tools = (&mut desk.ledger, &mut out);
                let aborted = desk.coordinator.abort(self.boot_clock, force, tools);
                desk.due.extend(out);
                aborted
            }
        };
        match result {
            Ok(()) => {
                super::log(&format!("client {}: failover", conn.peer_text()));
                self.wake_failover();
                conn.out.ok();
            }
            Err(error) => conn.out.error(&error),
        }
    }

    fn begin_failover(&mut self, node: Option<&str>, mut request: Request) -> Result<(), Error> {
        let shared = self.shared.clone();
        let mut desk = lock(&shared.failovers.desk);
        let desk = &mut *desk;
        let is_replica = shared.following.load(SeqCst);
        if is_replica && desk.coordinator.phase() == Phase::Idle {
            return Err(Error::fixed(
                "ERR FAILOVER is not valid when server is a replica.",
            ));
        }
        if desk.target.is_busy() {
            return Err(Error::fixed("ERR FAILOVER already in progress."));
        }
        if let Some(node) = node {
            request.to = Some(replica_named(&shared, node)?);
        }
        let rule = match &shared.election {
            None => Rule::Records,
            Some(election) => self.check_heirs(election, &request)?,
        };
        // No two are the same, whatever the chance.
        let id = Id((self.now << 20) | self.rng.below(1 << 20));
        let mut out = Vec::new();
        desk.coordinator.begin(
            self.boot_clock,
            (id, request),
            &heirs(&shared),
            rule,
            (&desk.ledger, &mut out),
        )?;
        desk.due.extend(out);
        Ok(())
    }

    /// Can the part of this primary be handed over in elections? The epoch that it leads.
    ///
    /// # Errors
    /// The reply to the operator.
    fn check_heirs(&self, election: &super::Election, request: &Request) -> Result<Rule, Error> {
        let epoch = election.epoch_led.load(SeqCst);
        if epoch == 0 || self.boot_clock >= election.writes_until.load(SeqCst) {
            return Err(Error::fixed(
                "ERR FAILOVER not possible without a majority, see ELECT STATUS.",
            ));
        }
        let raw = candidates(&self.shared);
        let heirs = heirs(&self.shared);
        let is_meant = |place: &Place| request.to.as_ref().is_none_or(|to| to == place);
        let mut meant = raw.iter().filter(|other| is_meant(&other.place)).peekable();
        if meant.peek().is_some() && !heirs.iter().any(|other| is_meant(&other.place)) {
            return Err(match meant.any(|other| other.kind == Kind::Ringkeep) {
                true => Error::fixed("ERR FAILOVER target is no member of the elections."),
                false => {
                    Error::fixed("ERR FAILOVER target is a kevy, which cannot be told to stand.")
                }
            });
        }
        Ok(Rule::Elected(epoch))
    }

    /// FAILOVER STATUS: names and values.
    fn failover_status(&mut self, conn: &mut Conn) {
        let desk = lock(&self.shared.failovers.desk);
        let mut lines = vec![("master_failover_state", desk.redis_state().to_string())];
        lines.extend(desk.lines());
        if let Some(election) = &self.shared.election {
            // Elections number their epochs themselves.
            let epoch = lock(&election.view).as_ref().map_or(0, |view| view.epoch.0);
            let known = lines.iter_mut().find(|(name, _)| *name == "role_epoch");
            known
                .into_iter()
                .for_each(|(_, value)| *value = epoch.to_string());
        }
        let now = self.boot_clock;
        lines.extend(desk.coordinator.view().map(|view| {
            let ago = now.saturating_sub(view.started);
            ("failover_started_ms_ago", ago.to_string())
        }));
        let view = desk.coordinator.view();
        let frontier = view.as_ref().map_or(&[][..], |view| &view.frontier);
        let reached = view.as_ref().map_or(&[][..], |view| &view.reached);
        let out = &mut conn.out;
        out.map(lines.len() + 3);
        for (name, value) in &lines {
            out.bulk_str(name);
            out.bulk_str(value);
        }
        out.bulk_str("frontier");
        out.array(2 * frontier.len());
        for at in frontier {
            out.int(at.generation as i64);
            out.int(at.offset as i64);
        }
        out.bulk_str("reached");
        out.array(reached.len());
        for offset in reached {
            out.int(*offset as i64);
        }
        out.bulk_str("outcomes");
        out.array(desk.outcomes.len());
        for (at, outcome) in &desk.outcomes {
            let to = outcome.to.as_ref().map_or(String::new(), Place::to_string);
            let texts = [
                ("id", outcome.id.to_string()),
                ("result", outcome.verdict.name().to_string()),
                ("reason", outcome.reason.clone()),
                ("to", to),
            ];
            let numbers = [
                ("at-ms", *at),
                ("old-epoch", outcome.old_epoch),
                ("new-epoch", outcome.new_epoch),
                (
                    "frontier",
                    outcome.frontier.iter().map(|at| at.offset).sum(),
                ),
                ("reached", outcome.reached.iter().sum()),
                ("skipped", outcome.skipped),
                ("durable", u64::from(outcome.durable)),
                ("waited-ms", outcome.waited_ms),
                ("frozen-ms", outcome.frozen_ms),
            ];
            out.map(texts.len() + numbers.len());
            for (name, value) in texts {
                out.bulk_str(name);
                out.bulk_str(&value);
            }
            for (name, number) in numbers {
                out.bulk_str(name);
                out.int(number as i64);
            }
        }
    }

    /// REPL.FAILOVER: the primary that this node follows, or followed, speaks.
    pub(super) fn hear_failover(&mut self, conn: &mut Conn, spec: &'static Spec, args: Args<'_>) {
        let Some(say) = Say::parse(args) else {
            return conn.out.error(&Error::SYNTAX);
        };
        let failovers = &self.shared.failovers;
        let question = failovers.questions.fetch_add(1, Relaxed);
        lock(&failovers.desk).heard.push((question, say));
        self.wait_for_answer(conn, (spec, args), question);
        self.wake_failover();
    }

    fn wake_failover(&mut self) {
        self.shared.failovers.is_due.store(true, SeqCst);
        if self.me != 0 {
            self.mesh.send(0, Message::Failover);
        }
    }

    /// An operator says what this node follows: what a failover has said holds no more, also after a restart.
    pub(super) fn note_operator(&mut self, target: Option<&(String, u16)>) {
        let shared = self.shared.clone();
        let mut desk = lock(&shared.failovers.desk);
        let desk = &mut *desk;
        desk.target.forget();
        let stands = match target {
            Some((host, port)) => Stands::Replica(Place {
                host: host.clone(),
                port: *port,
            }),
            None => Stands::Primary,
        };
        let before = &desk.ledger.record().stands;
        if *before != Stands::AsStarted && *before != stands {
            desk.ledger.change(|record| record.stands = stands);
            self.wake_failover();
        }
    }
}
