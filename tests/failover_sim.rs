//! Planned failovers in a simulated world.
//!
//! The shipped coordinator, target, record and messages run on two or three nodes with virtual time: messages
//! are lost, late, repeated and reordered, disks are slow and fail, processes stand still and crash at any
//! step. Replication is a small model: a log that replicas copy, with acknowledgements that take their time.
//! Failovers go to and fro, are forced, aborted, and meet each other. One seed is one history.
//!
//! After every step: one node at most takes writes; none whose disk says that it is a replica; epochs only
//! grow; who waits for something to come sleeps. When a target takes over and was not forced, it has every
//! write that was acknowledged, on its disk if that was asked for. A write that was held back runs once or is
//! refused once. When all has healed, every failover has ended and one node takes writes.
//!
//! `RINGKEEP_FAILOVER_SEEDS=100000 cargo test --release --test failover_sim` runs more seeds, and
//! `RINGKEEP_FAILOVER_FIRST` says from which one on.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use ringkeep::{
    base::{Position, Rng},
    failover::{
        Answer, Candidate, Coordinator, Effect, Event, Facts, Id, Phase, Place, Record, Request,
        Rule, Say, Settings, Stands, Target, Verdict,
        record::{Kind, Ledger},
    },
};

/// Seeds of the unit stage.
const SEEDS: u64 = 1000;
/// Seeds that failed once, if only by a mistake of the world.
const FAILED: [u64; 6] = [1250, 18_860, 25_093, 30_572, 53_982, 77_679];
/// Milliseconds of trouble, and of peace behind it.
const TROUBLE: u64 = 12_000;
const PEACE: u64 = 15_000;
/// So long nothing happens in the end.
const QUIET: u64 = 2000;

/// What must have been reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Mark {
    Phase(Phase),
    Verdict(Verdict),
    Lost,
    Repeated,
    Crashed(Phase),
    DiskFailed(Phase),
    TargetCrashed,
    TargetPaused,
    TargetDiskFailed,
    Refused,
    Aborted,
    AbortedLate,
    ResumedOpen,
    Parked,
}

#[derive(Clone)]
enum Parcel {
    Say(usize, Say),
    Answer(Id, Answer),
    Ack {
        from: usize,
        session: u64,
        applied: u64,
        durable: u64,
    },
}

struct Mail {
    due: u64,
    to: usize,
    incarnation: u64,
    parcel: Parcel,
}

struct Node {
    is_alive: bool,
    paused_until: u64,
    back_at: u64,
    incarnation: u64,
    disk: Vec<u8>,
    writing: Option<(u64, Vec<u8>, bool)>,
    ledger: Ledger,
    coordinator: Coordinator,
    target: Target,
    /// It takes writes, if it is not frozen.
    leads: bool,
    /// It crashed behind its decision, before it was known how that ended.
    has_crashed: bool,
    frozen: bool,
    /// All cores report so then.
    frozen_at: Option<u64>,
    begins_at: Option<u64>,
    follows: Option<usize>,
    /// The session of its link: of which incarnation of the primary, and number.
    link: Option<(u64, u64)>,
    generation: u64,
    log: Vec<u64>,
    synced: usize,
    parked: Vec<u64>,
    /// Messages that wait for an answer.
    asked: Vec<(usize, Say)>,
    /// Acknowledgements by replica: session, applied, durable.
    acks: BTreeMap<usize, (u64, u64, u64)>,
    epoch_seen: u64,
}

struct World {
    now: u64,
    rng: Rng,
    nodes: Vec<Node>,
    mail: Vec<Mail>,
    is_peace: bool,
    writes: u64,
    /// Acknowledged, and not lost with a disk of who acknowledged it.
    acknowledged: BTreeSet<u64>,
    parked: BTreeMap<u64, u8>,
    sessions: u64,
    begun: BTreeMap<Id, usize>,
    /// By incarnation: one that came back may find out once more.
    ended: BTreeMap<(Id, u64), Verdict>,
    marks: BTreeSet<Mark>,
    trace: Vec<String>,
    durable: bool,
}

fn place(node: usize) -> Place {
    let host = format!("n{node}");
    Place { host, port: 1 }
}

fn node_at(place: &Place) -> usize {
    place.host[1..].parse().expect("a node of this world")
}

impl Node {
    fn new(node: usize) -> Self {
        let ledger = Ledger::default();
        Self {
            is_alive: true,
            paused_until: 0,
            back_at: 0,
            incarnation: 0,
            disk: Record::default().compose(),
            writing: None,
            coordinator: Coordinator::new(0, Settings { timeout: 1500 }, &ledger),
            ledger,
            target: Target::default(),
            leads: node == 0,
            has_crashed: false,
            frozen: false,
            frozen_at: None,
            begins_at: None,
            follows: (node != 0).then_some(0),
            link: None,
            generation: 1,
            log: Vec::new(),
            synced: 0,
            parked: Vec::new(),
            asked: Vec::new(),
            acks: BTreeMap::new(),
            epoch_seen: 0,
        }
    }

    fn position(&self) -> Position {
        Position {
            generation: self.generation,
            offset: self.log.len() as u64,
        }
    }

    fn takes_writes(&self) -> bool {
        self.is_alive && self.leads && !self.frozen
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let count = 2 + rng.below(2) as usize;
        Self {
            now: 1,
            nodes: (0..count).map(Node::new).collect(),
            mail: Vec::new(),
            is_peace: false,
            writes: 0,
            acknowledged: BTreeSet::new(),
            parked: BTreeMap::new(),
            sessions: 0,
            begun: BTreeMap::new(),
            ended: BTreeMap::new(),
            marks: BTreeSet::new(),
            trace: Vec::new(),
            durable: rng.below(2) == 0,
            rng,
        }
    }

    fn note(&mut self, text: String) {
        self.trace.push(format!("{:>6} {text}", self.now));
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        self.rng.below(1000) < per_thousand
    }

    fn post(&mut self, to: usize, parcel: Parcel) {
        if !self.is_peace && self.chance(60) {
            self.marks.insert(Mark::Lost);
            return;
        }
        let copies = if !self.is_peace && self.chance(60) {
            2
        } else {
            1
        };
        if copies == 2 {
            self.marks.insert(Mark::Repeated);
        }
        for _ in 0..copies {
            let slow = if !self.is_peace && self.chance(50) {
                1500
            } else {
                4
            };
            let due = self.now + 1 + self.rng.below(slow);
            let incarnation = self.nodes[to].incarnation;
            self.mail.push(Mail {
                due,
                to,
                incarnation,
                parcel: parcel.clone(),
            });
        }
    }

    fn run(&mut self) {
        let mut quiet = 0;
        while self.now < TROUBLE + PEACE && quiet < QUIET {
            self.is_peace = self.now >= TROUBLE;
            self.now += 1;
            if !self.is_peace {
                self.trouble();
            }
            self.deliver();
            for at in 0..self.nodes.len() {
                self.wake_up(at);
                if self.nodes[at].is_alive && self.now >= self.nodes[at].paused_until {
                    self.turn(at);
                }
            }
            self.write();
            self.check();
            let is_quiet = |node: &Node| node.is_alive && node.coordinator.phase() == Phase::Idle;
            quiet = match self.is_peace && self.nodes.iter().all(is_quiet) {
                true => quiet + 1,
                false => 0,
            };
        }
        self.check_end();
    }

    /// What goes wrong, and what operators do.
    fn trouble(&mut self) {
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        // Most things happen while a failover is under way.
        let is_busy = self
            .nodes
            .iter()
            .any(|node| node.coordinator.phase() != Phase::Idle);
        let odds = if is_busy { 40 } else { 1 };
        match self.rng.below(8000) {
            roll if roll < odds => self.crash(at),
            roll if roll < 2 * odds && self.nodes[at].is_alive => {
                let long = 1 + self.rng.below(2500);
                self.note(format!("n{at} stands still for {long}"));
                if self.nodes[at].asked.is_empty() && !self.nodes[at].leads {
                    self.marks.insert(Mark::TargetPaused);
                }
                self.nodes[at].paused_until = self.now + long;
            }
            roll if (1000..1040).contains(&roll) => self.begin(at),
            roll if (2000..2004 + 4 * odds / 40).contains(&roll) => self.abort(at, false),
            _ => {}
        }
    }

    fn crash(&mut self, at: usize) {
        let disk_now = self.rng.below(2) == 0;
        let back = self.now + 1 + self.rng.below(2000);
        let node = &mut self.nodes[at];
        if !node.is_alive {
            return;
        }
        self.marks.insert(match node.coordinator.phase() {
            Phase::Idle => Mark::TargetCrashed,
            phase => Mark::Crashed(phase),
        });
        if let Some((_, bytes, _)) = node.writing.take()
            && disk_now
        {
            node.disk = bytes;
        }
        let is_decided = node.coordinator.phase() != Phase::Idle && !node.leads;
        node.has_crashed |= is_decided;
        (node.is_alive, node.back_at) = (false, back);
        node.incarnation += 1;
        let lost = node.log.split_off(node.synced);
        if node.leads {
            // Its own promise: what was not synced may be gone with it.
            for write in lost {
                if !self
                    .nodes
                    .iter()
                    .any(|other| other.is_alive && other.log.contains(&write))
                {
                    self.acknowledged.remove(&write);
                }
                // Who goes on from here need not have what others have of it.
                self.acknowledged.remove(&write);
            }
        }
        let node = &mut self.nodes[at];
        for write in std::mem::take(&mut node.parked) {
            // Its client saw the connection break.
            self.parked.remove(&write);
        }
        self.note(format!("n{at} crashes"));
    }

    fn wake_up(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.is_alive || self.now < node.back_at {
            return;
        }
        let record = Record::read(&node.disk).expect("a whole record");
        let ledger = Ledger::new(record.clone());
        node.coordinator = Coordinator::new(self.now, Settings { timeout: 1500 }, &ledger);
        (node.ledger, node.target) = (ledger, Target::default());
        (node.is_alive, node.frozen, node.frozen_at, node.begins_at) = (true, false, None, None);
        (node.leads, node.follows) = match &record.stands {
            Stands::AsStarted => (at == 0, (at != 0).then_some(0)),
            Stands::Primary => (true, None),
            Stands::Replica(_) if record.open.is_some() => (false, None),
            Stands::Replica(place) => (false, Some(node_at(place))),
        };
        (node.link, node.paused_until) = (None, 0);
        node.asked.clear();
        node.acks.clear();
        if node.leads {
            node.generation = 1000 * self.now + at as u64;
        }
        if node.leads && (!self.durable || std::mem::take(&mut node.has_crashed)) {
            // It crashed as the target, right behind its note, and nobody had asked for its disk; or when it
            // was about to be the primary again, and lost what it had not synced.
            let log: BTreeSet<u64> = node.log.iter().copied().collect();
            self.acknowledged.retain(|write| log.contains(write));
        }
        if record.open.is_some() {
            self.marks.insert(Mark::ResumedOpen);
        }
        self.note(format!("n{at} is back: {record:?}"));
    }

    // ---- operators ----

    fn begin(&mut self, at: usize) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != at).collect();
        let id = Id(self.rng.next_u64());
        let to = others[self.rng.below(others.len() as u64) as usize];
        let force = self.rng.below(4) == 0;
        let request = Request {
            to: (force || self.rng.below(2) == 0).then(|| place(to)),
            force,
            timeout: Some(1 + self.rng.below(1500)),
            durable: self.durable.then_some(true),
        };
        let candidates = self.candidates(at);
        let node = &mut self.nodes[at];
        if !node.is_alive || !node.leads || node.paused_until > self.now {
            return;
        }
        let mut out = Vec::new();
        let ask = (id, request.clone());
        let begun = node.coordinator.begin(
            self.now,
            ask,
            &candidates,
            Rule::Records,
            (&node.ledger, &mut out),
        );
        match begun {
            Ok(()) => {
                self.note(format!("n{at} begins {id}: {request:?}"));
                self.begun.insert(id, at);
                self.carry_out(at, out);
            }
            Err(_) => {
                self.marks.insert(Mark::Refused);
            }
        }
    }

    fn abort(&mut self, at: usize, force: bool) {
        let node = &mut self.nodes[at];
        if !node.is_alive || node.paused_until > self.now {
            return;
        }
        let is_busy = node.coordinator.phase() != Phase::Idle;
        let mut out = Vec::new();
        let aborted = node
            .coordinator
            .abort(self.now, force, (&mut node.ledger, &mut out));
        if is_busy {
            self.marks.insert(match aborted {
                Ok(()) => Mark::Aborted,
                Err(_) => Mark::AbortedLate,
            });
        }
        self.carry_out(at, out);
    }

    // ---- a node's turn ----

    fn candidates(&self, at: usize) -> Vec<Candidate> {
        let node = &self.nodes[at];
        let linked = node.acks.iter().filter(|(other, (session, ..))| {
            let link = self.nodes[**other].link;
            self.nodes[**other].follows == Some(at) && link == Some((node.incarnation, *session))
        });
        let candidates = linked.map(|(other, (_, applied, durable))| Candidate {
            place: place(*other),
            kind: Kind::Ringkeep,
            is_online: true,
            applied: vec![*applied],
            durable: self.durable.then(|| vec![*durable]),
        });
        candidates.collect()
    }

    fn turn(&mut self, at: usize) {
        let candidates = self.candidates(at);
        let now = self.now;
        let node = &mut self.nodes[at];
        if let Some((due, bytes, is_good)) = node.writing.take() {
            if due > now {
                node.writing = Some((due, bytes, is_good));
            } else {
                node.disk = bytes;
                let phase = node.coordinator.phase();
                node.ledger.on_written(is_good);
                if !is_good {
                    self.marks.insert(match phase {
                        Phase::Idle => Mark::TargetDiskFailed,
                        phase => Mark::DiskFailed(phase),
                    });
                }
            }
        }
        let mut out = Vec::new();
        let node = &mut self.nodes[at];
        if node.frozen_at.is_some_and(|due| due <= now) {
            node.frozen_at = None;
            let frontier = vec![node.position()];
            node.coordinator
                .step(now, Event::Frozen(frontier), &mut node.ledger, &mut out);
        }
        node.coordinator
            .step(now, Event::Replicas(candidates), &mut node.ledger, &mut out);
        if node.target.step(&mut node.ledger) {
            node.begins_at = Some(now + 1 + self.rng.below(3));
        }
        let node = &mut self.nodes[at];
        if node.begins_at.is_some_and(|due| due <= now) {
            node.begins_at = None;
            (node.leads, node.follows, node.link) = (true, None, None);
            node.generation = 1000 * now + at as u64;
            node.acks.clear();
            node.target.begun();
            self.took_over(at);
        }
        self.carry_out(at, out);
        // Answers that took their time.
        let node = &mut self.nodes[at];
        let mut answers = Vec::new();
        node.asked.retain(|(from, say)| {
            let answer = node.target.answer(say, &node.ledger);
            let is_there = answer.is_some();
            answers.extend(answer.map(|answer| (*from, say.id(), answer)));
            !is_there
        });
        for (from, id, answer) in answers {
            self.post(from, Parcel::Answer(id, answer));
        }
        let coordinator = &self.nodes[at].coordinator;
        assert!(coordinator.wakes_at() > now, "n{at} does not sleep");
        let phase = coordinator.phase();
        self.marks.insert(Mark::Phase(phase));
        self.persist(at);
        self.replicate(at);
    }

    fn persist(&mut self, at: usize) {
        let fails = !self.is_peace && self.chance(60);
        let slow = if !self.is_peace && self.chance(60) {
            1500
        } else {
            6
        };
        let due = self.now + 1 + self.rng.below(slow);
        // A write that failed may be there or not.
        let is_there = !fails || self.rng.below(2) == 0;
        let node = &mut self.nodes[at];
        if node.writing.is_none()
            && let Some(bytes) = node.ledger.next_write()
        {
            let bytes = if is_there { bytes } else { node.disk.clone() };
            node.writing = Some((due, bytes, !fails));
        }
        if self.rng.below(30) == 0 {
            node.synced = node.log.len();
        }
    }

    /// Copies from the primary, and acknowledges.
    fn replicate(&mut self, at: usize) {
        let Some(from) = self.nodes[at].follows else {
            return;
        };
        let is_up = self.nodes[from].is_alive && self.nodes[from].paused_until <= self.now;
        if !is_up || !self.nodes[at].asked.is_empty() {
            return;
        }
        let incarnation = self.nodes[from].incarnation;
        if self.nodes[at].link.is_none_or(|(of, _)| of != incarnation) {
            if self.rng.below(40) != 0 || self.nodes[from].follows == Some(at) {
                return;
            }
            self.sessions += 1;
            self.nodes[at].link = Some((incarnation, self.sessions));
            let theirs = self.nodes[from].log.clone();
            let node = &mut self.nodes[at];
            if !theirs.starts_with(&node.log) {
                node.log = theirs;
                node.synced = 0;
                // Who follows this one has something else, and comes again.
                for other in &mut self.nodes {
                    if other.follows == Some(at) {
                        other.link = None;
                    }
                }
            }
        }
        let more = self.rng.below(4) as usize;
        let generation = self.nodes[from].generation;
        let have = self.nodes[at].log.len();
        let next: Vec<u64> = self.nodes[from]
            .log
            .iter()
            .skip(have)
            .take(more)
            .copied()
            .collect();
        let node = &mut self.nodes[at];
        node.log.extend(next);
        node.generation = generation;
        let (applied, durable) = (node.log.len() as u64, node.synced as u64);
        let session = node.link.map_or(0, |(_, session)| session);
        if self.rng.below(8) == 0 {
            let parcel = Parcel::Ack {
                from: at,
                session,
                applied,
                durable,
            };
            self.post(from, parcel);
        }
    }

    fn deliver(&mut self) {
        let mut due = Vec::new();
        let now = self.now;
        let nodes = &self.nodes;
        self.mail.retain(|mail| {
            let node = &nodes[mail.to];
            // What was sent to a process is gone with it; one that stands still finds it later.
            if !node.is_alive || node.incarnation != mail.incarnation {
                return false;
            }
            let is_due = mail.due <= now && node.paused_until <= now;
            if is_due {
                due.push((mail.to, mail.parcel.clone()));
            }
            !is_due
        });
        while !due.is_empty() {
            let at = self.rng.below(due.len() as u64) as usize;
            let (to, parcel) = due.swap_remove(at);
            self.hand_over(to, parcel);
        }
    }

    fn hand_over(&mut self, at: usize, parcel: Parcel) {
        match parcel {
            Parcel::Say(from, say) => {
                let node = &self.nodes[at];
                let is_linked = node.follows.is_some_and(|from| {
                    let link = node.link;
                    link.is_some_and(|(of, _)| of == self.nodes[from].incarnation)
                });
                let facts = Facts {
                    at: is_linked.then(|| vec![node.position()]),
                    obstacle: None,
                    elected: None,
                };
                let node = &mut self.nodes[at];
                let answer = node.target.hear(&say, &facts, &mut node.ledger);
                self.note(format!("n{at} hears {say:?}: {answer:?}"));
                match answer {
                    Some(answer) => self.post(from, Parcel::Answer(say.id(), answer)),
                    None => self.nodes[at].asked.push((from, say)),
                }
            }
            Parcel::Answer(id, answer) => {
                let mut out = Vec::new();
                let node = &mut self.nodes[at];
                let event = Event::Heard(id, answer);
                node.coordinator
                    .step(self.now, event, &mut node.ledger, &mut out);
                self.carry_out(at, out);
            }
            Parcel::Ack {
                from,
                session,
                applied,
                durable,
            } => {
                let ack = self.nodes[at].acks.entry(from).or_default();
                if *ack <= (session, applied, durable) {
                    *ack = (session, applied, durable);
                }
            }
        }
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            if !matches!(effect, Effect::AskAcks) {
                self.note(format!("n{at}: {effect:?}"));
            }
            let slow = if !self.is_peace && self.chance(100) {
                1500
            } else {
                4
            };
            let due = self.now + 1 + self.rng.below(slow);
            let node = &mut self.nodes[at];
            match effect {
                Effect::Freeze => (node.frozen, node.frozen_at) = (true, Some(due)),
                Effect::Thaw => {
                    (node.frozen, node.frozen_at) = (false, None);
                    for write in std::mem::take(&mut node.parked) {
                        *self.parked.entry(write).or_default() += 1;
                        if node.leads {
                            node.log.push(write);
                            self.acknowledged.insert(write);
                        }
                    }
                }
                // Nobody is elected here.
                Effect::AskAcks | Effect::HandOver(_) => {}
                Effect::Say { to, say, .. } => self.post(node_at(&to), Parcel::Say(at, say)),
                Effect::Demote => (node.leads, node.follows) = (false, None),
                Effect::Follow(to) => (node.follows, node.link) = (Some(node_at(&to)), None),
                Effect::Lead => {
                    node.leads = true;
                    // It may have crashed meanwhile, and lost what it had not synced.
                    if std::mem::take(&mut node.has_crashed) {
                        let log: BTreeSet<u64> = node.log.iter().copied().collect();
                        self.acknowledged.retain(|write| log.contains(write));
                    }
                }
                Effect::Ended(outcome) => {
                    self.marks.insert(Mark::Verdict(outcome.verdict));
                    let incarnation = self.nodes[at].incarnation;
                    let before = self
                        .ended
                        .insert((outcome.id, incarnation), outcome.verdict);
                    assert_eq!(before, None, "two ends of {}", outcome.id);
                    let is_forced = outcome.verdict == Verdict::Forced;
                    assert!(is_forced || outcome.skipped == 0, "skipped without force");
                    if matches!(outcome.verdict, Verdict::Clean | Verdict::Forced) {
                        // Replicas are told where to go.
                        let new = outcome.to.as_ref().map(node_at);
                        for (other, node) in self.nodes.iter_mut().enumerate() {
                            let is_other = other != at && Some(other) != new;
                            if is_other && !node.leads && node.is_alive {
                                (node.follows, node.link) = (new, None);
                                node.target.forget();
                            }
                        }
                    }
                }
            }
        }
    }

    /// A target has begun to take writes.
    fn took_over(&mut self, at: usize) {
        self.note(format!("n{at} is the primary"));
        let is_forced = self
            .nodes
            .iter()
            .any(|node| node.coordinator.view().is_some_and(|view| view.forced));
        let node = &self.nodes[at];
        let log: BTreeSet<u64> = node.log.iter().copied().collect();
        let disk: BTreeSet<u64> = node.log[..node.synced].iter().copied().collect();
        let is_resumed = self.marks.contains(&Mark::ResumedOpen);
        if is_forced || is_resumed {
            // What the old one had more is given up; of one that came back nobody knows that any more.
            self.acknowledged.retain(|write| log.contains(write));
        }
        let missing = |set: &BTreeSet<u64>| self.acknowledged.difference(set).next().copied();
        assert_eq!(missing(&log), None, "n{at} lacks an acknowledged write");
        if self.durable && !is_forced && !is_resumed {
            assert_eq!(missing(&disk), None, "n{at} lacks one on its disk");
        }
    }

    /// Clients write to whoever they find.
    fn write(&mut self) {
        if self.rng.below(3) != 0 {
            return;
        }
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        let node = &mut self.nodes[at];
        if !node.is_alive || node.paused_until > self.now {
            return;
        }
        self.writes += 1;
        let write = self.writes;
        if node.frozen {
            self.marks.insert(Mark::Parked);
            self.parked.insert(write, 0);
            node.parked.push(write);
        } else if node.leads {
            node.log.push(write);
            self.acknowledged.insert(write);
        }
    }

    fn check(&mut self) {
        let mut writers = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let epoch = node.ledger.record().epoch;
            let disk = Record::read(&node.disk).expect("a whole record");
            if node.is_alive {
                assert!(epoch >= node.epoch_seen, "n{at}: the epoch went back");
                node.epoch_seen = disk.epoch;
            }
            if node.takes_writes() {
                writers.push(at);
                let is_replica = matches!(disk.stands, Stands::Replica(_));
                // A decision of which nobody knows whether it is there is undone by the next write, and the
                // target was granted nothing.
                assert!(
                    !is_replica || !node.ledger.is_settled(),
                    "n{at} takes writes, and its disk says that it is a replica"
                );
            }
        }
        assert!(writers.len() < 2, "{writers:?} take writes");
        assert!(
            self.parked.values().all(|count| *count < 2),
            "a write was answered twice"
        );
        self.parked.retain(|_, count| *count == 0);
    }

    fn check_end(&mut self) {
        let writers = self.nodes.iter().filter(|node| node.takes_writes()).count();
        assert_eq!(writers, 1, "nodes that take writes in the end");
        for (at, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.coordinator.phase(), Phase::Idle, "n{at} has not ended");
            assert!(node.parked.is_empty(), "n{at} holds writes back");
        }
        assert!(self.parked.is_empty(), "a write was never answered");
    }
}

fn run(seed: u64) -> Result<BTreeSet<Mark>, String> {
    let mut world = World::new(seed);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    match result {
        Ok(()) => Ok(world.marks),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
                .unwrap_or_default();
            let from = world.trace.len().saturating_sub(80);
            Err(format!(
                "seed {seed} at {}: {text}\n{}",
                world.now,
                world.trace[from..].join("\n")
            ))
        }
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

#[test]
fn no_seed_loses_a_write_or_has_two_primaries() {
    let seeds = number("RINGKEEP_FAILOVER_SEEDS").unwrap_or(SEEDS);
    let first = number("RINGKEEP_FAILOVER_FIRST").unwrap_or(1);
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            thread::spawn(move || {
                let mut marks = BTreeSet::new();
                let own = (first..first + seeds).filter(move |seed| seed % threads == worker);
                let failed = FAILED.into_iter().filter(|_| worker == 0);
                for seed in failed.chain(own) {
                    marks.extend(run(seed)?);
                }
                Ok::<_, String>(marks)
            })
        })
        .collect();
    let mut marks = BTreeSet::new();
    for worker in workers {
        match worker.join().expect("a worker") {
            Ok(found) => marks.extend(found),
            Err(text) => panic!("{text}"),
        }
    }
    let phases = Phase::ALL.into_iter();
    let mut wanted: BTreeSet<Mark> = phases.clone().map(Mark::Phase).collect();
    wanted.extend(
        phases
            .filter(|phase| *phase != Phase::Idle)
            .map(Mark::Crashed),
    );
    wanted.extend(Verdict::ALL.map(Mark::Verdict));
    wanted.extend([
        Mark::Lost,
        Mark::Repeated,
        Mark::DiskFailed(Phase::Deciding),
        Mark::DiskFailed(Phase::Reclaiming),
        Mark::TargetCrashed,
        Mark::TargetPaused,
        Mark::TargetDiskFailed,
        Mark::Refused,
        Mark::Aborted,
        Mark::AbortedLate,
        Mark::ResumedOpen,
        Mark::Parked,
    ]);
    if seeds >= SEEDS {
        let missing: Vec<_> = wanted.difference(&marks).collect();
        assert!(missing.is_empty(), "never reached: {missing:?}");
    }
}
