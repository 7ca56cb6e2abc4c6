//! Elections in a simulated world.
//!
//! The shipped elector, its role machine, its ballot and its messages run on nodes with virtual time, clocks
//! that differ in rate, a network that loses, delays, repeats, reorders and is cut one way, disks that fail,
//! and processes that stop and crash. Replication is a small model: streams per shard that are pulled, whole
//! copies for who joins, acknowledgements that a majority makes good. One seed is one history.
//!
//! After every step: at most one node whose gate is open; one vote for each node and epoch; no vote and no
//! offer that the disk would forget; no ballot that goes back; and whatever a majority acknowledged is on
//! everyone who leads later. When all has healed: one primary that everybody follows.
//!
//! The rules of kevy run in the same world in a few named scenarios, which break them.
//!
//! `RINGKEEP_ELECT_SEEDS=100000 cargo test --release --test elect_sim` runs more seeds, and
//! `RINGKEEP_ELECT_FIRST` says from which one on.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    env, fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use ringkeep::{
    base::Rng,
    elect::{
        Ballot, Decoder, Effect, Elector, Epoch, Event, Message, NodeId, Peer, Settings, Timings,
        elector::Following, role::Role, wire::WireRole,
    },
};

/// As the node has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds of the unit stage.
const SEEDS: u64 = 1000;

/// Seeds that failed once, if only by a mistake of the world.
const FAILED: [u64; 3] = [49_848, 67_100, 746_229];

const MS: u64 = 1000;

/// After so many pulls of what it has it is known at the latest that a node has joined.
const UNTOLD_MAX: u32 = 40;

/// What a promotion adds to offsets, so that those of two histories do not meet.
const RENEWED: i64 = 1 << 20;

// ---- what must have been reached ----

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Mark {
    Lost,
    Late,
    Repeated,
    CutOneWay,
    ElectionsCut,
    Isolated,
    Paused,
    Crashed,
    Rebooted,
    DiskFull,
    DiskSlow,
    SyncFailedAndWritten,
    SyncFailedAndNot,
    CrashLeftOldBallot,
    CrashLeftNewBallot,
    Elected,
    Lapsed,
    Loyal,
    Ahead,
    CaughtUp,
    Outdated,
    Deposed,
    ElectionLost,
    Muted,
    Committed,
    WrittenAndLost,
    /// A primary gave way for a member, which is the next one;
    HandedOver,
    /// or the old one is again, or another one;
    HeirFailed,
    HeirPassedBy,
    /// or it could not.
    NoHeir,
    /// Another process took a primary's place;
    Continued,
    /// and it had a majority again.
    WritesOn,
}

const MARKS: [Mark; 32] = [
    Mark::Lost,
    Mark::Late,
    Mark::Repeated,
    Mark::CutOneWay,
    Mark::ElectionsCut,
    Mark::Isolated,
    Mark::Paused,
    Mark::Crashed,
    Mark::Rebooted,
    Mark::DiskFull,
    Mark::DiskSlow,
    Mark::SyncFailedAndWritten,
    Mark::SyncFailedAndNot,
    Mark::CrashLeftOldBallot,
    Mark::CrashLeftNewBallot,
    Mark::Elected,
    Mark::Lapsed,
    Mark::Loyal,
    Mark::Ahead,
    Mark::CaughtUp,
    Mark::Outdated,
    Mark::Deposed,
    Mark::ElectionLost,
    Mark::Muted,
    Mark::Committed,
    Mark::WrittenAndLost,
    Mark::HandedOver,
    Mark::HeirFailed,
    Mark::HeirPassedBy,
    Mark::NoHeir,
    Mark::Continued,
    Mark::WritesOn,
];

// ---- members ----

/// What decides on a node: ours, or kevy's rules.
trait Member {
    fn step(&mut self, now: u64, event: Event, out: &mut Vec<Effect>);
    fn wakes_at(&self) -> u64;
    fn role(&self) -> Role;
    fn epoch(&self) -> Epoch;
    fn tally(&self) -> Vec<(Mark, u64)>;
}

impl Member for Elector {
    fn step(&mut self, now: u64, event: Event, out: &mut Vec<Effect>) {
        Elector::step(self, now, event, out);
    }

    fn wakes_at(&self) -> u64 {
        Elector::wakes_at(self)
    }

    fn role(&self) -> Role {
        self.view().role
    }

    fn epoch(&self) -> Epoch {
        self.view().epoch
    }

    fn tally(&self) -> Vec<(Mark, u64)> {
        let view = self.view();
        vec![
            (Mark::Lapsed, view.tally.lapses),
            (Mark::Loyal, view.tally.loyal),
            (Mark::Ahead, view.tally.ahead),
            (Mark::CaughtUp, view.tally.catch_ups),
            (Mark::Outdated, view.tally.outdated),
            (Mark::Muted, view.tally.persist_failures),
            // The rows of the table that lose an election and a leadership.
            (Mark::ElectionLost, view.role_counters.transitions[3]),
            (Mark::Deposed, view.role_counters.transitions[12]),
        ]
    }
}

/// kevy's rules, as its members keep them from 2.0 on.
struct Kevy {
    id: NodeId,
    others: BTreeMap<NodeId, (Option<u64>, u64)>,
    epoch: Epoch,
    voted: Epoch,
    role: Role,
    primary: Option<NodeId>,
    /// The epoch that the shell was told last; the rules know only names.
    followed: Epoch,
    votes: BTreeSet<NodeId>,
    started: u64,
    stood_at: u64,
    back_off_until: u64,
    next_beat: u64,
    offset: u64,
    is_open: bool,
}

impl Kevy {
    fn new(now: u64, id: NodeId, peers: &[Peer], ballot: Ballot, offsets: &[u64]) -> Self {
        let others = peers
            .iter()
            .filter(|peer| peer.id != id)
            .map(|peer| (peer.id, (None, 0)));
        Self {
            id,
            others: others.collect(),
            epoch: ballot.epoch,
            voted: if ballot.voted.is_some() {
                ballot.epoch
            } else {
                Epoch(0)
            },
            role: Role::Replica,
            primary: None,
            followed: Epoch(0),
            votes: BTreeSet::new(),
            started: now,
            stood_at: 0,
            back_off_until: 0,
            next_beat: now,
            offset: offsets.iter().sum(),
            is_open: false,
        }
    }

    fn persist(&self, voted: Option<NodeId>, out: &mut Vec<Effect>) {
        // Its failure is logged and nothing else; nobody waits for it.
        out.push(Effect::PersistBallot(Ballot {
            epoch: self.epoch,
            voted,
            history: Epoch(0),
        }));
    }

    fn broadcast(&self, message: &Message, out: &mut Vec<Effect>) {
        out.extend(self.others.keys().map(|to| Effect::Send {
            to: *to,
            message: message.clone(),
        }));
    }

    fn follow(&mut self, primary: NodeId, out: &mut Vec<Effect>) {
        if self.role == Role::Leader {
            out.push(Effect::Resign);
        }
        self.role = Role::Replica;
        self.primary = Some(primary);
        self.followed = self.epoch;
        out.push(Effect::Follow(Some(Following {
            primary,
            epoch: self.epoch,
        })));
    }

    fn count(&mut self, out: &mut Vec<Effect>) {
        if self.role == Role::Candidate && self.votes.len() > self.others.len().div_ceil(2) {
            self.role = Role::Leader;
            self.primary = Some(self.id);
            out.push(Effect::Follow(None));
            out.push(Effect::Lead { epoch: self.epoch });
            let (epoch, from) = (self.epoch, self.id);
            self.broadcast(
                &Message::Announce {
                    epoch,
                    from,
                    address: String::new(),
                },
                out,
            );
        }
    }
}

impl Member for Kevy {
    fn step(&mut self, now: u64, event: Event, out: &mut Vec<Effect>) {
        let timings = Timings::KEVY;
        match event {
            Event::Position(offsets) => self.offset = offsets.iter().sum(),
            Event::Received {
                message:
                    Message::Heartbeat {
                        epoch,
                        from,
                        role,
                        offset,
                        ..
                    },
                ..
            } => {
                self.others.insert(from, (Some(now), offset));
                let is_first =
                    epoch == self.epoch && self.primary.is_none() && self.role == Role::Replica;
                let is_again =
                    epoch == self.epoch && self.primary == Some(from) && self.followed != epoch;
                if role == WireRole::Primary && (epoch > self.epoch || is_first || is_again) {
                    if epoch > self.epoch {
                        self.epoch = epoch;
                        self.persist(None, out);
                    }
                    self.follow(from, out);
                }
            }
            Event::Received {
                message:
                    Message::Offer {
                        epoch,
                        from,
                        offset,
                    },
                ..
            } => {
                let is_behind = self.offset > offset || (self.offset == offset && self.id < from);
                if epoch > self.epoch && !is_behind && self.voted < epoch {
                    (self.epoch, self.voted) = (epoch, epoch);
                    self.persist(Some(from), out);
                    out.push(Effect::Send {
                        to: from,
                        message: Message::Accept {
                            epoch,
                            from: self.id,
                        },
                    });
                }
            }
            Event::Received {
                message: Message::Accept { epoch, from },
                ..
            } if epoch == self.epoch => {
                self.votes.insert(from);
            }
            Event::Received {
                message: Message::Announce { epoch, from, .. },
                ..
            } if epoch > self.epoch || (epoch == self.epoch && self.primary != Some(from)) => {
                self.epoch = epoch;
                self.persist(Some(from), out);
                self.follow(from, out);
            }
            _ => {}
        }
        let is_heard = |at: Option<u64>| at.is_some_and(|at| now - at < timings.down_after);
        let is_lost = match self.primary {
            Some(primary) => primary != self.id && !is_heard(self.others[&primary].0),
            None => now >= self.started + timings.down_after,
        };
        let is_best = self.others.iter().all(|(id, (at, offset))| {
            !is_heard(*at)
                || self.primary == Some(*id)
                || (*offset, Reverse(id)) < (self.offset, Reverse(&self.id))
        });
        if self.role == Role::Replica && now >= self.back_off_until && is_lost && is_best {
            self.epoch = self.epoch.next();
            (self.voted, self.role, self.stood_at) = (self.epoch, Role::Candidate, now);
            self.persist(Some(self.id), out);
            self.votes = BTreeSet::from([self.id]);
            let offer = Message::Offer {
                epoch: self.epoch,
                from: self.id,
                offset: self.offset,
            };
            self.broadcast(&offer, out);
        }
        self.count(out);
        if self.role == Role::Candidate && now >= self.stood_at + timings.candidacy {
            self.role = Role::Replica;
            self.back_off_until = now + timings.back_off + 700;
        }
        let heard = self.others.values().filter(|(at, _)| is_heard(*at)).count();
        let is_open = self.role == Role::Leader && heard + 1 > self.others.len().div_ceil(2);
        if is_open != self.is_open {
            self.is_open = is_open;
            out.push(Effect::Writes {
                until: if is_open { u64::MAX } else { 0 },
            });
        }
        if now >= self.next_beat {
            self.next_beat = now + timings.heartbeat;
            let role = match self.role {
                Role::Leader => WireRole::Primary,
                Role::Candidate => WireRole::Candidate,
                _ => WireRole::Replica,
            };
            let (epoch, from, offset) = (self.epoch, self.id, self.offset);
            self.broadcast(
                &Message::Heartbeat {
                    epoch,
                    from,
                    role,
                    offset,
                    is_ringkeep: false,
                },
                out,
            );
        }
    }

    fn wakes_at(&self) -> u64 {
        self.next_beat
    }

    fn role(&self) -> Role {
        self.role
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn tally(&self) -> Vec<(Mark, u64)> {
        Vec::new()
    }
}

// ---- the world ----

/// What a node holds; it survives crashes.
#[derive(Clone, Default)]
struct Data {
    /// The epoch whose primary wrote it, or began with it.
    generation: Epoch,
    base: Vec<i64>,
    shards: Vec<Vec<u32>>,
}

impl Data {
    fn offsets(&self) -> Vec<u64> {
        let shards = self.shards.iter().zip(&self.base);
        shards
            .map(|(writes, base)| (base + writes.len() as i64) as u64)
            .collect()
    }

    fn lens(&self) -> [usize; SHARDS] {
        std::array::from_fn(|shard| self.shards[shard].len())
    }

    /// A new history begins: far above the old one, or, as kevy does it, at 0.
    fn renew(&mut self, epoch: Epoch, is_kevy: bool) {
        self.generation = epoch;
        for (base, writes) in self.base.iter_mut().zip(&self.shards) {
            *base = if is_kevy {
                -(writes.len() as i64)
            } else {
                *base + RENEWED
            };
        }
    }
}

#[derive(Clone)]
enum Packet {
    /// A message of elections as it is on the wire,
    Bytes(Vec<u8>),
    /// or as it is read from there.
    Elect(Message),
    /// Send me what I lack of this history.
    Pull {
        epoch: Epoch,
        data: Epoch,
        lens: [usize; SHARDS],
    },
    /// A whole copy, for who joins.
    Copy {
        epoch: Epoch,
        data: Data,
    },
    /// More of the same history.
    More {
        epoch: Epoch,
        from: [usize; SHARDS],
        more: Vec<Vec<u32>>,
    },
    Ack {
        epoch: Epoch,
        lens: [usize; SHARDS],
    },
}

impl Packet {
    fn is_of_election(&self) -> bool {
        matches!(self, Packet::Bytes(_) | Packet::Elect(_))
    }
}

#[derive(Clone)]
enum Happening {
    Wake {
        node: usize,
        run: u64,
        turn: u64,
    },
    Arrives {
        from: usize,
        to: usize,
        packet: Packet,
    },
    Written {
        node: usize,
        run: u64,
        ballot: Ballot,
        outcome: Outcome,
    },
    Pulls {
        node: usize,
        run: u64,
    },
    Resumes {
        node: usize,
    },
    Starts {
        node: usize,
    },
    Writes,
    Fault,
    /// Somebody wants the part of the primary to be elsewhere: writes are held back,
    Freezes,
    /// and it is handed over.
    HandsOver {
        node: usize,
        run: u64,
    },
    /// The process of a primary ends for another one, which then goes on.
    Seals,
    LeadsOn {
        node: usize,
        run: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Good,
    /// The disk is full: nothing happened.
    Full,
    /// The sync failed; the new file is there all the same, or not.
    Failed {
        is_there: bool,
    },
}

struct Node {
    id: NodeId,
    member: Option<Box<dyn Member>>,
    /// Counts starts, so that nothing of an earlier run reaches a later one.
    run: u64,
    turn: u64,
    paused: bool,
    waiting: Vec<Happening>,
    /// Local milliseconds are these parts of 1000 of real ones, and begin here.
    rate: u64,
    origin: u64,
    file: Vec<u8>,
    writing: Option<Ballot>,
    gate: u64,
    leading: Option<Epoch>,
    following: Option<Following>,
    catching_up: Option<NodeId>,
    may_acknowledge: Option<Epoch>,
    /// Pulls since it was told whom to follow, of that one's data.
    untold: u32,
    /// It takes no writes for now.
    is_frozen: bool,
    /// A primary that has not written since another process began to lead.
    is_continued: bool,
    data: Data,
    acked: BTreeMap<usize, [usize; SHARDS]>,
}

/// How likely bad things are; parts of 1000.
#[derive(Clone, Copy, Default)]
struct Weather {
    loss: u64,
    repeat: u64,
    late: u64,
    late_ms: u64,
    bad_disk: u64,
}

/// What is to happen, by time, and at one time in the order in which it was put in.
#[derive(Default)]
struct Queue {
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    sequence: u64,
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
}

impl Queue {
    fn push(&mut self, at: u64, happening: Happening) {
        self.sequence += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.happenings.push(None);
            self.happenings.len() - 1
        });
        self.happenings[place] = Some(happening);
        self.order.push(Reverse((at, self.sequence, place)));
    }

    /// Takes out the next one, unless it is later than this.
    fn pop_until(&mut self, end: u64) -> Option<(u64, Happening)> {
        let Reverse((at, _, _)) = *self.order.peek()?;
        if at > end {
            return None;
        }
        let Reverse((_, _, place)) = self.order.pop()?;
        self.free.push(place);
        Some((at, self.happenings[place].take().expect("it was put there")))
    }
}

struct World {
    now: u64,
    rng: Rng,
    queue: Queue,
    nodes: Vec<Node>,
    peers: Vec<Peer>,
    timings: Timings,
    /// The members that are kevys.
    kevys: BTreeSet<usize>,
    weather: Weather,
    cuts: BTreeSet<(usize, usize)>,
    /// Where messages of elections are lost and streams go on.
    silent: BTreeSet<(usize, usize)>,
    /// The span between two faults is up to so many times what makes a primary be gone.
    calm: u64,
    has_faults: bool,
    /// Draws who hands over to whom, in histories in which that happens.
    operator: Option<Rng>,
    /// Draws when processes of primaries are replaced, in histories in which that happens.
    upgrades: Option<Rng>,
    /// The last one who did: in which epoch, who and to whom.
    handing_over: Option<(Epoch, usize, usize)>,
    /// Messages of elections travel as bytes. That they are then read as they were written is shown beside
    /// the code that does it, so most histories are spared the time.
    has_wire: bool,
    /// Called for each message of an election that leaves; `true` drops it.
    filter: Option<Filter>,
    disk_fails: BTreeSet<usize>,
    writes: u32,
    /// Clients have stopped writing.
    is_quiet: bool,
    /// What a majority acknowledged, and the epoch in which it did.
    committed: BTreeMap<(usize, u32), Epoch>,
    /// Who led, and what it had when it began.
    led: Vec<Led>,
    votes: BTreeMap<(usize, Epoch), NodeId>,
    marks: BTreeMap<Mark, u64>,
    /// What happens is written down for people. Nothing else depends on it.
    is_told: bool,
    trace: Vec<String>,
    broken: Vec<String>,
    /// Empty, and kept for the room that it has.
    spare: Vec<Vec<Effect>>,
}

type Led = (Epoch, usize, BTreeSet<(usize, u32)>);

type Filter = Box<dyn FnMut(usize, usize, &Message) -> bool>;

const SHARDS: usize = 2;

impl World {
    fn new(seed: u64, count: usize, timings: Timings, kevys: &[usize]) -> Self {
        let mut rng = Rng::seeded(seed);
        let names = ["a", "b", "c", "d", "e"];
        let list: Vec<String> = names[..count]
            .iter()
            .map(|name| format!("{name}@h:1"))
            .collect();
        let peers = ringkeep::elect::parse_peers(&list.join(",")).expect("a list");
        let nodes = peers
            .iter()
            .map(|peer| Node::new(peer.id, rate(&mut rng), rng.below(1 << 40)));
        let nodes = nodes.collect();
        let mut world = Self {
            now: 0,
            rng,
            queue: Queue::default(),
            nodes,
            peers,
            timings,
            kevys: kevys.iter().copied().collect(),
            weather: Weather::default(),
            cuts: BTreeSet::new(),
            silent: BTreeSet::new(),
            calm: 1,
            has_faults: false,
            operator: None,
            upgrades: None,
            handing_over: None,
            has_wire: true,
            filter: None,
            disk_fails: BTreeSet::new(),
            writes: 0,
            is_quiet: false,
            committed: BTreeMap::new(),
            led: Vec::new(),
            votes: BTreeMap::new(),
            marks: BTreeMap::new(),
            is_told: true,
            trace: Vec::new(),
            broken: Vec::new(),
            spare: Vec::new(),
        };
        for node in 0..count {
            let at = world.rng.below(timings.heartbeat * MS);
            world.at(at, Happening::Starts { node });
        }
        world.at(timings.heartbeat * MS, Happening::Writes);
        world
    }

    fn at(&mut self, delay: u64, happening: Happening) {
        self.queue.push(self.now + delay, happening);
    }

    fn mark(&mut self, mark: Mark) {
        *self.marks.entry(mark).or_default() += 1;
    }

    fn note(&mut self, text: impl fmt::Display) {
        if !self.is_told {
            return;
        }
        let line = format!("{:>10.3} {text}", self.now as f64 / 1e6);
        self.trace.push(line);
    }

    fn break_rule(&mut self, text: String) {
        self.note(format_args!("BROKEN {text}"));
        self.broken.push(text);
    }

    fn clock(&self, node: usize) -> u64 {
        let node = &self.nodes[node];
        node.origin + self.now * node.rate / 1000 / MS
    }

    /// Runs for a while; stops at the first broken rule.
    fn run_for(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while self.broken.is_empty() {
            let Some((at, happening)) = self.queue.pop_until(end) else {
                break;
            };
            self.now = at;
            self.happen(happening);
            self.check();
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, happening: Happening) {
        let node = match &happening {
            Happening::Wake { node, .. }
            | Happening::Written { node, .. }
            | Happening::HandsOver { node, .. }
            | Happening::Pulls { node, .. } => Some(*node),
            Happening::Arrives { to, .. } => Some(*to),
            _ => None,
        };
        if let Some(node) = node.filter(|node| self.nodes[*node].paused) {
            self.nodes[node].waiting.push(happening);
            return;
        }
        match happening {
            Happening::Wake { node, run, turn } => {
                if (self.nodes[node].run, self.nodes[node].turn) == (run, turn) {
                    self.step(node, Event::Wake);
                }
            }
            Happening::Arrives { from, to, packet } => self.arrive(from, to, packet),
            Happening::Written {
                node,
                run,
                ballot,
                outcome,
            } => {
                if self.nodes[node].run == run {
                    self.written(node, ballot, outcome);
                }
            }
            Happening::Pulls { node, run } => {
                if self.nodes[node].run == run {
                    self.pull(node);
                    let delay = (self.timings.heartbeat / 2) * MS
                        + self.rng.below(self.timings.heartbeat * MS);
                    self.at(delay, Happening::Pulls { node, run });
                }
            }
            Happening::Resumes { node } => {
                self.nodes[node].paused = false;
                self.note(format_args!("{node} goes on"));
                let mut waiting = std::mem::take(&mut self.nodes[node].waiting);
                // Anything may come first: what was in the sockets, a timer, the disk.
                if !waiting.is_empty() {
                    let first = self.rng.below(waiting.len() as u64) as usize;
                    waiting.swap(0, first);
                }
                for happening in waiting {
                    self.happen(happening);
                    self.check();
                }
            }
            Happening::Starts { node } => self.start(node),
            Happening::Writes => {
                self.write();
                let delay = self.rng.below(self.timings.heartbeat * MS / 2) + MS;
                self.at(delay, Happening::Writes);
            }
            Happening::Fault => {
                if self.has_faults {
                    self.fault();
                    let delay = self.rng.below(self.timings.down_after * MS * self.calm);
                    self.at(delay, Happening::Fault);
                }
            }
            Happening::Freezes => self.freeze(),
            Happening::HandsOver { node, run } => {
                if self.nodes[node].run == run {
                    self.hand_over(node);
                }
            }
            Happening::Seals => self.seal(),
            Happening::LeadsOn { node, run } => {
                if self.nodes[node].run == run {
                    self.lead_on(node);
                }
            }
        }
    }

    fn freeze(&mut self) {
        let Some(mut operator) = self.operator.take().filter(|_| self.has_faults) else {
            return;
        };
        let leads = |at: &usize| self.nodes[*at].leading.is_some();
        if let Some(node) = (0..self.nodes.len()).find(leads) {
            let run = self.nodes[node].run;
            self.nodes[node].is_frozen = true;
            let delay = operator.below(8 * self.timings.heartbeat * MS);
            self.at(delay, Happening::HandsOver { node, run });
        }
        let delay = operator.below(3 * self.timings.down_after * MS);
        self.operator = Some(operator);
        self.at(delay, Happening::Freezes);
    }

    /// Gives the part of the primary to a member, whether that has all of the data or not.
    fn hand_over(&mut self, at: usize) {
        self.nodes[at].is_frozen = false;
        let Some(operator) = self.operator.as_mut() else {
            return;
        };
        let count = self.nodes.len();
        let heir = (at + 1 + operator.below(count as u64 - 1) as usize) % count;
        self.hand_over_to(at, heir);
    }

    fn hand_over_to(&mut self, at: usize, heir: usize) {
        let Some(epoch) = self.nodes[at].leading else {
            return;
        };
        let to = self.nodes[heir].id;
        self.note(format_args!("{at} hands over to {heir}"));
        self.step_position(at);
        self.handing_over = Some((epoch, at, heir));
        self.step(at, Event::HandOver { to });
        if self.nodes[at].leading == Some(epoch) {
            self.handing_over = None;
            self.mark(Mark::NoHeir);
        }
    }

    /// The process of a primary ends in order, and leaves everything to another one that comes soon.
    fn seal(&mut self) {
        let Some(mut upgrades) = self.upgrades.take().filter(|_| self.has_faults) else {
            return;
        };
        let rests = |at: &usize| {
            let node = &self.nodes[*at];
            let epoch = node.member.as_ref().map(|member| member.epoch());
            let leads = node.leading.is_some() && node.leading == epoch;
            leads && !node.paused && node.writing.is_none()
        };
        if let Some(node) = (0..self.nodes.len()).find(rests) {
            self.harvest(node);
            self.end_run(node);
            self.note(format_args!("{node} leaves its part to another process"));
            let run = self.nodes[node].run;
            let delay = upgrades.below(self.timings.down_after * 2 * MS);
            self.at(delay, Happening::LeadsOn { node, run });
        }
        let delay = upgrades.below(3 * self.timings.down_after * MS);
        self.upgrades = Some(upgrades);
        self.at(delay, Happening::Seals);
    }

    /// The other process is there.
    fn lead_on(&mut self, at: usize) {
        if self.nodes[at].member.is_some() {
            return;
        }
        self.mark(Mark::Continued);
        self.nodes[at].is_continued = true;
        self.start_with(at, |now, settings, ballot, offsets, out| {
            Elector::continued(now, settings, ballot, offsets, out).expect("good settings")
        });
    }

    /// Nothing is left of a process but what is on its disk.
    fn end_run(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.member = None;
        node.run += 1;
        (node.paused, node.is_frozen, node.is_continued) = (false, false, false);
        node.waiting.clear();
        node.gate = 0;
        (
            node.leading,
            node.following,
            node.catching_up,
            node.may_acknowledge,
        ) = (None, None, None, None);
        node.acked.clear();
    }

    fn start(&mut self, at: usize) {
        self.start_with(at, |now, settings, ballot, offsets, _| {
            Elector::new(now, settings, ballot, offsets).expect("good settings")
        });
    }

    fn start_with(
        &mut self,
        at: usize,
        make: impl FnOnce(u64, Settings, Ballot, Vec<u64>, &mut Vec<Effect>) -> Elector,
    ) {
        if self.nodes[at].member.is_some() {
            return;
        }
        let now = self.clock(at);
        let seed = self.rng.next_u64();
        let mut effects = Vec::new();
        let node = &mut self.nodes[at];
        let ballot = match node.file.is_empty() {
            true => Ballot::default(),
            false => Ballot::read(&node.file).expect("renamed files are whole"),
        };
        let offsets = node.data.offsets();
        node.member = Some(if self.kevys.contains(&at) {
            Box::new(Kevy::new(now, node.id, &self.peers, ballot, &offsets))
        } else {
            let settings = Settings {
                id: node.id,
                peers: self.peers.clone(),
                address: "h:1".into(),
                timings: self.timings,
                check_source: false,
                seed,
            };
            Box::new(make(now, settings, ballot, offsets, &mut effects))
        });
        // Of one that was sealed another process may come, of a start none.
        node.run += 1;
        let run = node.run;
        self.note(format_args!("{at} starts with {ballot:?}"));
        self.at(MS, Happening::Pulls { node: at, run });
        self.carry_out_all(at, effects);
        self.step(at, Event::Wake);
    }

    fn crash(&mut self, at: usize) {
        let is_new = self.rng.below(2) == 0;
        self.harvest(at);
        if self.nodes[at].member.is_none() {
            return;
        }
        self.end_run(at);
        let node = &mut self.nodes[at];
        // A file that was being replaced is the old one or the new one; a torn one never got the name.
        if let Some(ballot) = node.writing.take() {
            if is_new {
                node.file = ballot.compose();
            }
            self.mark(if is_new {
                Mark::CrashLeftNewBallot
            } else {
                Mark::CrashLeftOldBallot
            });
        }
        self.mark(Mark::Crashed);
        self.note(format_args!("{at} crashes"));
        // Its machine starts anew, and counts from elsewhere.
        if self.has_faults && self.rng.below(3) == 0 {
            self.nodes[at].origin = self.rng.below(1 << 40);
            self.mark(Mark::Rebooted);
        }
    }

    /// Takes over what a member counted.
    fn harvest(&mut self, at: usize) {
        for (mark, count) in self.nodes[at]
            .member
            .as_ref()
            .map(|member| member.tally())
            .unwrap_or_default()
        {
            if count > 0 {
                *self.marks.entry(mark).or_default() += count;
            }
        }
    }

    fn step(&mut self, at: usize, event: Event) {
        let now = self.clock(at);
        let Some(member) = &mut self.nodes[at].member else {
            return;
        };
        let mut effects = self.spare.pop().unwrap_or_default();
        member.step(now, event, &mut effects);
        let wakes_at = member.wakes_at();
        self.carry_out_all(at, effects);
        let node = &mut self.nodes[at];
        node.turn += 1;
        let (run, turn) = (node.run, node.turn);
        if wakes_at != u64::MAX {
            let delay = (wakes_at.saturating_sub(now) * 1000).div_ceil(node.rate) * MS + MS;
            // A busy core comes to it late.
            let delay = delay + self.rng.below(3 * MS);
            self.at(
                delay,
                Happening::Wake {
                    node: at,
                    run,
                    turn,
                },
            );
        }
    }

    fn carry_out_all(&mut self, at: usize, mut effects: Vec<Effect>) {
        for effect in effects.drain(..) {
            self.carry_out(at, effect);
        }
        self.spare.push(effects);
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        if !matches!(effect, Effect::Send { .. } | Effect::Writes { .. }) {
            self.note(format_args!("{at} {effect:?}"));
        }
        match effect {
            Effect::Writes { until } => {
                if (until == 0) != (self.nodes[at].gate == 0) {
                    self.note(format_args!(
                        "{at} writes until {until}, it is {}",
                        self.clock(at)
                    ));
                }
                self.nodes[at].gate = until;
            }
            Effect::Lead { epoch } => self.lead(at, epoch),
            Effect::LeadOn { epoch } => {
                if !self.led.iter().any(|led| (led.0, led.1) == (epoch, at)) {
                    self.break_rule(format!("{at} leads on in {epoch:?}, which it never led"));
                }
                self.nodes[at].leading = Some(epoch);
                self.step_position(at);
            }
            Effect::Resign => {
                self.nodes[at].leading = None;
                self.nodes[at].acked.clear();
            }
            Effect::Follow(following) => {
                let node = &mut self.nodes[at];
                (node.following, node.catching_up, node.may_acknowledge) = (following, None, None);
                node.untold = 0;
            }
            Effect::Acknowledge { epoch } => self.nodes[at].may_acknowledge = Some(epoch),
            Effect::CatchUp { from } => self.nodes[at].catching_up = Some(from),
            Effect::PersistBallot(ballot) => self.write_ballot(at, ballot),
            Effect::Send { to, message } => self.send_message(at, to, message),
            Effect::Role(_) => {}
        }
    }

    fn lead(&mut self, at: usize, epoch: Epoch) {
        self.mark(Mark::Elected);
        if let Some((before, from, heir)) = self.handing_over.take() {
            self.mark(match at {
                at if at == heir && epoch == before.next() => Mark::HandedOver,
                at if at == from => Mark::HeirFailed,
                _ => Mark::HeirPassedBy,
            });
        }
        let is_kevy = self.kevys.contains(&at);
        let node = &mut self.nodes[at];
        node.leading = Some(epoch);
        node.acked.clear();
        node.data.renew(epoch, is_kevy);
        let shards = node.data.shards.iter().enumerate();
        let has: BTreeSet<(usize, u32)> = shards
            .flat_map(|(shard, writes)| writes.iter().map(move |write| (shard, *write)))
            .collect();
        // Votes may come so late that a higher epoch has a primary; what it has got is nobody's here.
        let is_owed = |(write, by): &(&(usize, u32), &Epoch)| **by < epoch && !has.contains(write);
        let missing: Vec<_> = self
            .committed
            .iter()
            .filter(is_owed)
            .map(|(write, _)| *write)
            .collect();
        if !missing.is_empty() && !self.is_mixed() {
            self.break_rule(format!(
                "{at} leads {epoch:?} without acknowledged writes {missing:?}"
            ));
        }
        let other = self.led.iter().find(|led| led.0 == epoch && led.1 != at);
        if let Some(other) = other.map(|led| led.1).filter(|_| !self.is_mixed()) {
            self.break_rule(format!("{at} and {other} both lead {epoch:?}"));
        }
        self.led.push((epoch, at, has));
        self.step_position(at);
    }

    fn step_position(&mut self, at: usize) {
        let offsets = self.nodes[at].data.offsets();
        // Not through `step`: it may be in the middle of carrying out effects.
        let now = self.clock(at);
        let mut effects = self.spare.pop().unwrap_or_default();
        if let Some(member) = &mut self.nodes[at].member {
            member.step(now, Event::Position(offsets), &mut effects);
        }
        self.carry_out_all(at, effects);
    }

    // ---- the disk ----

    fn write_ballot(&mut self, at: usize, ballot: Ballot) {
        if self.nodes[at].writing.is_some() && !self.kevys.contains(&at) {
            self.break_rule(format!("{at} writes two ballots at once"));
        }
        self.nodes[at].writing = Some(ballot);
        let is_bad = self.disk_fails.contains(&at) || self.rng.below(1000) < self.weather.bad_disk;
        let outcome = match (is_bad, self.rng.below(3)) {
            (false, _) => Outcome::Good,
            (true, 0) => Outcome::Full,
            (true, 1) => Outcome::Failed { is_there: false },
            (true, _) => Outcome::Failed {
                is_there: !self.disk_fails.contains(&at),
            },
        };
        let run = self.nodes[at].run;
        // kevy waits for its disk in line.
        if self.kevys.contains(&at) {
            return self.written(at, ballot, outcome);
        }
        let mut delay = self.rng.below(self.timings.heartbeat * MS / 4) + 100;
        if self.weather.bad_disk > 0 && self.rng.below(4) == 0 {
            delay += self.rng.below(self.timings.down_after * MS);
            self.mark(Mark::DiskSlow);
        }
        self.at(
            delay,
            Happening::Written {
                node: at,
                run,
                ballot,
                outcome,
            },
        );
    }

    fn written(&mut self, at: usize, ballot: Ballot, outcome: Outcome) {
        self.nodes[at].writing = None;
        match outcome {
            Outcome::Good => {}
            Outcome::Full => self.mark(Mark::DiskFull),
            Outcome::Failed { is_there: true } => self.mark(Mark::SyncFailedAndWritten),
            Outcome::Failed { is_there: false } => self.mark(Mark::SyncFailedAndNot),
        }
        if matches!(outcome, Outcome::Good | Outcome::Failed { is_there: true }) {
            let old = match self.nodes[at].file.is_empty() {
                true => Ballot::default(),
                false => Ballot::read(&self.nodes[at].file).expect("whole"),
            };
            let is_changed = old.voted.is_some() && old.voted != ballot.voted;
            let goes_back = ballot.epoch < old.epoch || ballot.history < old.history;
            if !self.kevys.contains(&at) && (goes_back || (ballot.epoch == old.epoch && is_changed))
            {
                self.break_rule(format!("{at}: ballot {old:?} becomes {ballot:?}"));
            }
            self.nodes[at].file = ballot.compose();
        }
        if self.kevys.contains(&at) {
            return;
        }
        if outcome == Outcome::Good {
            self.step_position(at);
            self.step(at, Event::BallotDurable);
        } else {
            self.note(format_args!("{at} cannot write its ballot: {outcome:?}"));
            self.step(at, Event::BallotFailed);
        }
    }

    // ---- the network ----

    fn index(&self, id: NodeId) -> usize {
        self.peers
            .iter()
            .position(|peer| peer.id == id)
            .expect("a member")
    }

    fn send_message(&mut self, from: usize, to: NodeId, message: Message) {
        let voted = match &message {
            Message::Accept { epoch, .. } => Some((*epoch, to)),
            Message::Offer { epoch, .. } | Message::Ask { epoch, .. } => {
                Some((*epoch, self.nodes[from].id))
            }
            _ => None,
        };
        let is_held_to_it = !(self.is_mixed() && self.kevys.contains(&from));
        if let Some((epoch, candidate)) = voted.filter(|_| is_held_to_it) {
            self.note(format_args!("{from} says {message:?}"));
            let first = *self.votes.entry((from, epoch)).or_insert(candidate);
            if first != candidate {
                self.break_rule(format!(
                    "{from} votes for {first} and {candidate} in {epoch:?}"
                ));
            }
            let file = &self.nodes[from].file;
            let kept = if file.is_empty() {
                Ballot::default()
            } else {
                Ballot::read(file).expect("whole")
            };
            if (kept.epoch, kept.voted) != (epoch, Some(candidate)) {
                self.break_rule(format!(
                    "{from} votes in {epoch:?}, and its disk has {kept:?}"
                ));
            }
        }
        let to = self.index(to);
        if self
            .filter
            .as_mut()
            .is_some_and(|filter| filter(from, to, &message))
        {
            return;
        }
        let packet = if self.has_wire {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            Packet::Bytes(bytes)
        } else {
            Packet::Elect(message)
        };
        self.send(from, to, packet);
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let is_silent = packet.is_of_election() && self.silent.contains(&(from, to));
        if is_silent || self.cuts.contains(&(from, to)) {
            return;
        }
        if self.rng.below(1000) < self.weather.loss {
            return self.mark(Mark::Lost);
        }
        let copies = 1 + usize::from(self.rng.below(1000) < self.weather.repeat);
        if copies > 1 {
            self.mark(Mark::Repeated);
        }
        let mut packet = Some(packet);
        for copy in 1..=copies {
            let mut delay = 100 + self.rng.below(self.timings.heartbeat * MS / 8);
            if self.rng.below(1000) < self.weather.late {
                delay += self.rng.below(self.weather.late_ms * MS);
                self.mark(Mark::Late);
            }
            let packet = if copy < copies {
                packet.clone()
            } else {
                packet.take()
            };
            if let Some(packet) = packet {
                self.at(delay, Happening::Arrives { from, to, packet });
            }
        }
    }

    fn arrive(&mut self, from: usize, to: usize, packet: Packet) {
        if self.nodes[to].member.is_none() {
            return;
        }
        let sender = self.nodes[from].id;
        match packet {
            Packet::Elect(message) => {
                let source = None;
                self.step(to, Event::Received { message, source });
            }
            Packet::Bytes(bytes) => {
                let mut decoder = Decoder::default();
                decoder.push(&bytes);
                while let Some(message) = decoder.take().expect("our own message") {
                    self.step(
                        to,
                        Event::Received {
                            message,
                            source: None,
                        },
                    );
                }
            }
            Packet::Pull { epoch, data, lens } => self.serve(from, to, epoch, data, lens),
            Packet::Copy { epoch, data } => {
                let node = &mut self.nodes[to];
                let wanted = Following {
                    primary: sender,
                    epoch,
                };
                if node.following == Some(wanted) && node.data.generation != epoch {
                    let has: BTreeSet<u32> = data.shards.iter().flatten().copied().collect();
                    if node
                        .data
                        .shards
                        .iter()
                        .flatten()
                        .any(|write| !has.contains(write))
                    {
                        *self.marks.entry(Mark::WrittenAndLost).or_default() += 1;
                    }
                    self.nodes[to].data = data;
                    self.step_position(to);
                    self.step(to, Event::Joined(epoch));
                }
            }
            Packet::More { epoch, from, more } => {
                let node = &mut self.nodes[to];
                let is_wanted = node.following
                    == Some(Following {
                        primary: sender,
                        epoch,
                    })
                    || node.catching_up == Some(sender);
                if is_wanted && node.data.generation == epoch {
                    for ((mine, from), more) in node.data.shards.iter_mut().zip(from).zip(more) {
                        let known = mine.len().saturating_sub(from);
                        mine.extend(more.into_iter().skip(known));
                    }
                    // A shell need not tell at once where the streams stand.
                    if self.rng.below(2) == 0 || self.nodes[to].catching_up.is_some() {
                        self.step_position(to);
                    }
                    self.acknowledge(to);
                }
            }
            Packet::Ack { epoch, lens } => {
                if self.nodes[to].leading == Some(epoch) {
                    self.nodes[to].acked.insert(from, lens);
                    self.commit(to, epoch);
                }
            }
        }
    }

    // ---- replication ----

    fn pull(&mut self, at: usize) {
        let node = &self.nodes[at];
        let data = node.data.generation;
        let lens = node.data.lens();
        let (source, epoch) = match (node.following, node.catching_up) {
            (Some(following), _) => (following.primary, following.epoch),
            (None, Some(from)) => (from, data),
            (None, None) => return,
        };
        if self.kevys.contains(&at) {
            self.nodes[at].may_acknowledge = Some(epoch);
        }
        let to = self.index(source);
        // A link that broke is made anew, and tells again that it has joined. The first time takes no longer
        // than so many pulls.
        if self.nodes[at].following.is_some() && data == epoch {
            let by_chance = self.rng.below(8) == 0;
            let node = &mut self.nodes[at];
            node.untold += 1;
            if by_chance || (node.may_acknowledge.is_none() && node.untold > UNTOLD_MAX) {
                self.step(at, Event::Joined(epoch));
            }
        }
        self.send(at, to, Packet::Pull { epoch, data, lens });
        self.acknowledge(at);
    }

    fn serve(&mut self, asks: usize, at: usize, epoch: Epoch, data: Epoch, lens: [usize; SHARDS]) {
        let node = &self.nodes[at];
        let is_relay = node.leading.is_none() && data == epoch && node.data.generation == data;
        if node.leading != Some(epoch) && !is_relay {
            return;
        }
        if data != epoch {
            let data = node.data.clone();
            return self.send(at, asks, Packet::Copy { epoch, data });
        }
        let mut more = Vec::new();
        for (mine, len) in node.data.shards.iter().zip(lens) {
            // Streams do not come along evenly.
            let budget = self.rng.below(5) as usize;
            more.push(mine.iter().skip(len).take(budget).copied().collect());
        }
        self.send(
            at,
            asks,
            Packet::More {
                epoch,
                from: lens,
                more,
            },
        );
    }

    fn acknowledge(&mut self, at: usize) {
        let node = &self.nodes[at];
        let Some(following) = node.following else {
            return;
        };
        if node.may_acknowledge == Some(following.epoch) && node.data.generation == following.epoch
        {
            let lens = node.data.lens();
            let to = self.index(following.primary);
            self.send(
                at,
                to,
                Packet::Ack {
                    epoch: following.epoch,
                    lens,
                },
            );
        }
    }

    fn write(&mut self) {
        for at in 0..self.nodes.len() {
            let is_held = self.nodes[at].paused || self.nodes[at].is_frozen || self.is_quiet;
            let is_open = self.is_open(at) && !is_held;
            if is_open && self.nodes[at].leading.is_some() {
                let shard = self.rng.below(SHARDS as u64) as usize;
                self.writes += 1;
                let write = self.writes;
                if std::mem::take(&mut self.nodes[at].is_continued) {
                    self.mark(Mark::WritesOn);
                }
                self.nodes[at].data.shards[shard].push(write);
                self.step_position(at);
            }
        }
    }

    fn commit(&mut self, at: usize, epoch: Epoch) {
        let node = &self.nodes[at];
        let mut fresh = Vec::new();
        for shard in 0..SHARDS {
            let mut lens: Vec<usize> = node.acked.values().map(|lens| lens[shard]).collect();
            lens.push(node.data.shards[shard].len());
            lens.sort_unstable_by_key(|len| Reverse(*len));
            let reached = lens.get(self.peers.len() / 2).copied().unwrap_or(0);
            let writes = &node.data.shards[shard][..reached.min(node.data.shards[shard].len())];
            let is_new = |write: &&u32| !self.committed.contains_key(&(shard, **write));
            fresh.extend(
                writes
                    .iter()
                    .rev()
                    .take_while(is_new)
                    .map(|write| (shard, *write)),
            );
        }
        if fresh.is_empty() {
            return;
        }
        self.mark(Mark::Committed);
        for (shard, write) in fresh {
            let lacks = |led: &&Led| led.0 > epoch && !led.2.contains(&(shard, write));
            let found = self.led.iter().find(lacks);
            if let Some((later, by, _)) = found.filter(|_| !self.is_mixed()) {
                let text = format!(
                    "{at} acknowledges {write} in {epoch:?}, and {by} leads {later:?} without it"
                );
                self.break_rule(text);
            }
            self.committed.insert((shard, write), epoch);
        }
    }

    // ---- the rules ----

    fn is_open(&self, at: usize) -> bool {
        self.nodes[at].member.is_some() && self.clock(at) < self.nodes[at].gate
    }

    fn open(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|at| self.is_open(*at))
            .collect()
    }

    /// Among members of both kinds kevys may elect one another at any time, whatever they have. Then nobody
    /// but a ringkeep is held to anything, and that to its ballots and votes.
    fn is_mixed(&self) -> bool {
        (1..self.nodes.len()).contains(&self.kevys.len())
    }

    fn check(&mut self) {
        let count = (0..self.nodes.len()).filter(|at| self.is_open(*at)).count();
        if count > 1 && !self.is_mixed() {
            let open = self.open();
            self.break_rule(format!("{open:?} accept writes"));
        }
    }

    /// One primary, and everybody follows it.
    fn is_settled(&self) -> bool {
        let [leader] = self.open()[..] else {
            return false;
        };
        let primary = self.nodes[leader].id;
        let Some(epoch) = self.nodes[leader].leading else {
            return false;
        };
        self.nodes.iter().enumerate().all(|(at, node)| {
            at == leader
                || (node.following == Some(Following { primary, epoch })
                    && node.data.generation == epoch
                    && node.may_acknowledge == Some(epoch))
        })
    }

    // ---- faults ----

    fn fault(&mut self) {
        let count = self.nodes.len() as u64;
        let at = self.rng.below(count) as usize;
        let down_after = self.timings.down_after;
        match self.rng.below(14) {
            0 | 1 => {
                if self.nodes[at].member.is_some() && !self.nodes[at].paused {
                    self.nodes[at].paused = true;
                    self.mark(Mark::Paused);
                    self.note(format_args!("{at} stands still"));
                    let delay = self.rng.below(down_after * 2 * MS);
                    self.at(delay, Happening::Resumes { node: at });
                }
            }
            2 | 3 => {
                self.crash(at);
                let delay = self.rng.below(down_after * 2 * MS);
                self.at(delay, Happening::Starts { node: at });
            }
            4 | 5 => {
                let other = self.rng.below(count) as usize;
                self.cuts.insert((at, other));
                self.mark(Mark::CutOneWay);
                self.note(format_args!("cut {at} -> {other}"));
            }
            6 => {
                for other in 0..self.nodes.len() {
                    self.cuts.insert((at, other));
                    self.cuts.insert((other, at));
                }
                self.mark(Mark::Isolated);
                self.note(format_args!("{at} is alone"));
            }
            7 => {
                // Its heartbeats leave, and it hears nobody; or the other way round.
                let is_deaf = self.rng.below(2) == 0;
                for other in 0..self.nodes.len() {
                    self.cuts
                        .insert(if is_deaf { (other, at) } else { (at, other) });
                }
                self.note(format_args!(
                    "{at} is {}",
                    if is_deaf { "deaf" } else { "mute" }
                ));
            }
            8 | 9 => {
                self.cuts.clear();
                self.silent.clear();
                self.note("cuts are mended");
            }
            11 | 12 => {
                for other in 0..self.nodes.len() {
                    self.silent.insert((at, other));
                }
                self.mark(Mark::ElectionsCut);
                self.note(format_args!("{at} is not heard in elections"));
            }
            10 => {
                self.weather = Weather {
                    loss: self.rng.below(300),
                    repeat: self.rng.below(200),
                    late: self.rng.below(300),
                    late_ms: 1 + self.rng.below(down_after * 2),
                    bad_disk: 0,
                };
                self.note("the network gets bad");
            }
            _ => {
                self.weather.bad_disk = self.rng.below(500);
                self.note("disks get bad");
            }
        }
    }

    fn heal(&mut self) {
        self.has_faults = false;
        self.weather = Weather::default();
        self.cuts.clear();
        self.silent.clear();
        self.note("all heals");
        for at in 0..self.nodes.len() {
            if self.nodes[at].paused {
                self.at(0, Happening::Resumes { node: at });
            }
            self.at(0, Happening::Starts { node: at });
        }
    }

    /// The end of the history, for people.
    fn story(&self) -> String {
        let from = self.trace.len().saturating_sub(200);
        let mut story = self.trace[from..].join("\n");
        for (at, node) in self.nodes.iter().enumerate() {
            let role = node
                .member
                .as_ref()
                .map(|member| (member.role(), member.epoch()));
            let (leading, following) = (node.leading, node.following);
            let (data, offsets) = (node.data.generation, node.data.offsets());
            let file = String::from_utf8_lossy(&node.file).replace('\n', " ");
            story += &format!(
                "\n{at}: {role:?} leading {leading:?} following {following:?} \
                 data {data:?} {offsets:?} disk {file}"
            );
        }
        story
    }
}

/// How fast a clock runs: the slowest and the fastest are as likely as anything between.
fn rate(rng: &mut Rng) -> u64 {
    match rng.below(3) {
        0 => 970,
        1 => 1030,
        _ => 970 + rng.below(61),
    }
}

impl Node {
    fn new(id: NodeId, rate: u64, origin: u64) -> Self {
        Self {
            id,
            member: None,
            run: 0,
            turn: 0,
            paused: false,
            waiting: Vec::new(),
            rate,
            origin,
            file: Vec::new(),
            writing: None,
            gate: 0,
            leading: None,
            following: None,
            catching_up: None,
            may_acknowledge: None,
            untold: 0,
            is_frozen: false,
            is_continued: false,
            data: Data {
                base: vec![0; SHARDS],
                shards: vec![Vec::new(); SHARDS],
                ..Data::default()
            },
            acked: BTreeMap::new(),
        }
    }
}

// ---- histories ----

/// One history: all kinds of faults, then none.
fn history(seed: u64, is_told: bool) -> World {
    let count = match seed % 6 {
        0 | 3 => 5,
        1 => 4,
        _ => 3,
    };
    let timings = match seed % 4 {
        0 => Timings::KEVY,
        1 => Timings::within(300),
        _ => Timings::within(1000),
    };
    let mut world = World::new(seed, count, timings, &[]);
    world.is_told = is_told;
    // Of each size and each timing.
    world.has_wire = (seed / 12).is_multiple_of(8);
    if matches!(seed % 5, 1 | 2) {
        world.operator = Some(Rng::seeded(!seed));
        world.at(timings.down_after * MS, Happening::Freezes);
    }
    if matches!(seed % 7, 2 | 4 | 5) {
        world.upgrades = Some(Rng::seeded(seed.rotate_left(32)));
        world.at(timings.down_after * MS, Happening::Seals);
    }
    let span = world.goes_wrong_and_heals();
    if world.broken.is_empty() && !world.is_settled() {
        world.break_rule(format!("not settled {span} ms after all has healed"));
    }
    for at in 0..count {
        world.harvest(at);
    }
    world
}

/// After so long there is one primary that everybody follows, if nothing is broken any more: late messages
/// have come, a lease has run out, and a few elections were lost.
fn settle_span(timings: Timings) -> u64 {
    timings.down_after * 8 + (timings.candidacy + timings.back_off + timings.jitter) * 3
}

/// Three members of one kind, with a primary that the others follow.
fn settled(seed: u64, kevys: &[usize]) -> World {
    let mut world = World::new(seed, 3, Timings::KEVY, kevys);
    world.settle();
    world.note("---- settled ----");
    world
}

impl World {
    /// All kinds of faults for a while, then none until one primary is followed by everybody, or for the
    /// span that this may take.
    fn goes_wrong_and_heals(&mut self) -> u64 {
        let timings = self.timings;
        self.has_faults = true;
        self.calm = 1 + self.rng.below(4);
        self.at(timings.down_after * MS, Happening::Fault);
        self.run_for(timings.down_after * 25);
        self.heal();
        let span = settle_span(timings);
        let end = self.now + span * MS;
        while self.now < end && self.broken.is_empty() && !self.is_settled() {
            self.run_for(timings.heartbeat);
        }
        span
    }

    fn settle(&mut self) {
        self.run_until(|world| world.is_settled() || !world.broken.is_empty());
    }

    fn run_until(&mut self, is_so: impl Fn(&World) -> bool) {
        for _ in 0..600 {
            if is_so(self) {
                return;
            }
            self.run_for(100);
        }
        panic!("a minute passed\n{}", self.story());
    }

    fn leader(&self) -> usize {
        // Votes may come so late that a higher epoch has a primary.
        let newest = self.led.iter().max_by_key(|(epoch, ..)| *epoch);
        newest.expect("somebody led").1
    }

    /// The two that do not lead.
    fn replicas(&self) -> [usize; 2] {
        let leader = self.leader();
        [(leader + 1) % 3, (leader + 2) % 3]
    }

    /// These hear each other, and the others each other.
    fn split(&mut self, some: &[usize]) {
        let count = self.nodes.len();
        for (from, to) in (0..count * count).map(|pair| (pair / count, pair % count)) {
            if some.contains(&from) != some.contains(&to) {
                self.cuts.insert((from, to));
            }
        }
    }

    /// What waits in the sockets of elections is not listened to behind a long stop.
    fn forget_what_waits(&mut self, at: usize) {
        let is_heard = |waits: &Happening| match waits {
            Happening::Arrives { packet, .. } => !packet.is_of_election(),
            _ => true,
        };
        self.nodes[at].waiting.retain(is_heard);
    }

    fn isolate(&mut self, at: usize) {
        for other in 0..self.nodes.len() {
            self.cuts.insert((at, other));
            self.cuts.insert((other, at));
        }
    }
}

const OURS: &[usize] = &[];
const KEVYS: &[usize] = &[0, 1, 2];

/// Everybody has what the primary has.
fn is_level(world: &World) -> bool {
    let primary = world.leader();
    let has = |node: &Node| node.data.shards == world.nodes[primary].data.shards;
    world.nodes.iter().all(has)
}

#[test]
fn a_part_that_is_handed_over_is_taken_at_once() {
    for (kevys, count) in [(OURS, 3), (OURS, 5), (&[2][..], 3), (&[0], 3)] {
        for seed in 0..20 {
            let mut world = World::new(seed, count, Timings::KEVY, kevys);
            world.settle();
            let mut paused = None;
            for turn in 0..10 {
                let leader = world.leader();
                if kevys.contains(&leader) {
                    break;
                }
                let ours = |at: &usize| *at != leader && !kevys.contains(at) && Some(*at) != paused;
                let heir = (leader + 1..leader + count).map(|at| at % count).find(ours);
                let Some(heir) = heir else { break };
                let told = |world: &World| format!("{kevys:?} {seed} {turn}\n{}", world.story());
                let leads = world.nodes[leader].leading;
                let epoch = leads.unwrap_or_else(|| panic!("nobody leads: {}", told(&world)));
                world.nodes[leader].is_frozen = true;
                world.run_until(is_level);
                (0..count).for_each(|at| world.step_position(at));
                // One that stands still is not needed.
                let third = (0..count).find(|at| *at != leader && *at != heir);
                if turn % 3 == 1 {
                    paused = third;
                    third
                        .into_iter()
                        .for_each(|at| world.nodes[at].paused = true);
                }
                let elected = world.led.len();
                world.hand_over_to(leader, heir);
                world.nodes[leader].is_frozen = false;
                world.run_for(500);
                assert_eq!(world.broken, [""; 0], "{}", told(&world));
                let (now, by) = (world.nodes[heir].leading, world.led.len());
                assert_eq!(
                    (now, by),
                    (Some(epoch.next()), elected + 1),
                    "{}",
                    told(&world)
                );
                assert_eq!(world.open(), [heir], "{}", told(&world));
                let has_stood = |(vote, of): (&(usize, Epoch), &NodeId)| {
                    vote.1 > epoch && world.nodes[vote.0].id == *of && vote.0 != heir
                };
                assert!(!world.votes.iter().any(has_stood), "{}", told(&world));
                world.run_for(3000);
                if let Some(node) = paused.take() {
                    world.forget_what_waits(node);
                    world.at(0, Happening::Resumes { node });
                }
                world.settle();
                // Nobody was elected meanwhile.
                assert_eq!(world.led.len(), elected + 1, "{}", told(&world));
            }
        }
    }
}

#[test]
fn who_gave_way_in_vain_leads_again() {
    for seed in 0..20 {
        let mut world = settled(seed, OURS);
        world.is_quiet = true;
        world.run_until(is_level);
        let (leader, [heir, other]) = (world.leader(), world.replicas());
        let epoch = world.nodes[leader].leading.expect("it leads");
        let elected = world.led.len();
        world.crash(heir);
        world.hand_over_to(leader, heir);
        // The heir is given the time of a candidacy, and not more.
        world.run_for(2800);
        assert_eq!(world.led.len(), elected, "{seed}\n{}", world.story());
        world.run_for(7000);
        assert_eq!(world.broken, [""; 0], "{seed}\n{}", world.story());
        assert_eq!(world.led.len(), elected + 1, "{seed}\n{}", world.story());
        let (now, by, _) = world.led.last().expect("somebody led");
        assert!(*now > epoch && [leader, other].contains(by));
    }
}

#[test]
fn deaf_replica_deposes_nobody() {
    let run = |kevys| {
        let mut world = settled(1, kevys);
        let (leader, [deaf, _]) = (world.leader(), world.replicas());
        world.filter = Some(Box::new(move |from, to, _| (from, to) == (leader, deaf)));
        world.run_for(40_000);
        let elected = world.led.len();
        world.filter = None;
        (world, elected)
    };
    let (mut world, elected) = run(OURS);
    assert_eq!(
        (elected, &world.broken[..]),
        (1, &[][..]),
        "{}",
        world.story()
    );
    world.settle();
    assert_eq!(world.led.len(), 1);
    let (world, elected) = run(KEVYS);
    assert!(elected > 1 || !world.broken.is_empty(), "{}", world.story());
}

#[test]
fn lost_announcement_leaves_one_primary() {
    let run = |kevys| {
        let mut world = settled(2, kevys);
        let (leader, [deaf, _]) = (world.leader(), world.replicas());
        world.filter = Some(Box::new(move |from, to, message| {
            let is_vote = matches!(message, Message::Accept { .. });
            let is_announcement = matches!(message, Message::Announce { .. });
            ((from, to) == (leader, deaf) && !is_vote)
                || ((from, to) == (deaf, leader) && is_announcement)
        }));
        world.run_for(40_000);
        world
    };
    let mut world = run(OURS);
    assert_eq!(world.broken, [""; 0], "{}", world.story());
    // And when the primary does go, nobody needs to hear of it more than once.
    let leader = world.leader();
    world.crash(leader);
    world.filter = Some(Box::new(|_, _, message| {
        matches!(message, Message::Announce { .. })
    }));
    world.run_for(20_000);
    world.at(0, Happening::Starts { node: leader });
    world.settle();
    assert_ne!(world.leader(), leader);
    let world = run(KEVYS);
    assert!(
        world
            .broken
            .iter()
            .any(|rule| rule.ends_with("accept writes")),
        "{}",
        world.story()
    );
}

#[test]
fn failed_ballot_sync_silences_voter() {
    let run = |kevys| {
        let mut world = settled(3, kevys);
        let (leader, [voter, _]) = (world.leader(), world.replicas());
        world.disk_fails.insert(voter);
        world.crash(leader);
        world.run_for(30_000);
        world
    };
    let mut world = run(OURS);
    assert_eq!(
        (world.led.len(), &world.broken[..]),
        (1, &[][..]),
        "{}",
        world.story()
    );
    world.disk_fails.clear();
    world.run_for(20_000);
    assert_eq!(
        (world.led.len(), &world.broken[..]),
        (2, &[][..]),
        "{}",
        world.story()
    );
    let world = run(KEVYS);
    assert!(
        world
            .broken
            .iter()
            .any(|rule| rule.contains("and its disk has")),
        "{}",
        world.story()
    );
}

#[test]
fn old_generation_never_wins() {
    let run = |kevys| {
        let mut world = settled(4, kevys);
        world.run_for(30_000);
        let (first, [old, other]) = (world.leader(), world.replicas());
        world.isolate(old);
        world.crash(first);
        world.at(MS, Happening::Starts { node: first });
        world.run_until(|world| world.led.len() == 2);
        // A little is acknowledged by the two that are left, then the new primary goes.
        let before = world.committed.len();
        world.run_until(|world| world.committed.len() >= before + 5 || !world.broken.is_empty());
        let second = world.leader();
        assert!(second == first || second == other);
        world.crash(second);
        world.cuts.clear();
        world.run_for(40_000);
        (world, old)
    };
    let (world, old) = run(OURS);
    assert_eq!(world.broken, [""; 0], "{}", world.story());
    assert!(
        world.led.len() == 3 && world.leader() != old,
        "{}",
        world.story()
    );
    let (world, _) = run(KEVYS);
    let is_lost = |rule: &String| rule.contains("without acknowledged writes");
    assert!(world.broken.iter().any(is_lost), "{}", world.story());
}

#[test]
fn sum_of_offsets_hides_no_shard() {
    let run = |kevys| {
        let mut world = settled(5, kevys);
        world.is_quiet = true;
        world.run_for(3000);
        // Each replica has acknowledged what the other one lacks.
        let (leader, replicas) = (world.leader(), world.replicas());
        let epoch = world.nodes[leader].leading.expect("it leads");
        for (shard, count) in [(0, 10), (1, 5)] {
            for write in 0..count {
                let write = 1_000_000 + write;
                world.nodes[leader].data.shards[shard].push(write);
                world.nodes[replicas[shard]].data.shards[shard].push(write);
                world.committed.insert((shard, write), epoch);
            }
        }
        for at in replicas {
            world.step_position(at);
        }
        world.crash(leader);
        world.run_for(40_000);
        (world, leader)
    };
    let (mut world, leader) = run(OURS);
    assert_eq!(
        (world.led.len(), &world.broken[..]),
        (2, &[][..]),
        "{}",
        world.story()
    );
    assert_ne!(world.leader(), leader);
    (0..3).for_each(|at| world.harvest(at));
    assert!(world.marks.contains_key(&Mark::CaughtUp));
    let (world, _) = run(KEVYS);
    let is_lost = |rule: &String| rule.contains("without acknowledged writes");
    assert!(world.broken.iter().any(is_lost), "{}", world.story());
}

#[test]
fn deaf_primary_is_replaced() {
    let mut world = settled(8, OURS);
    let (leader, replicas) = (world.leader(), world.replicas());
    for from in replicas {
        world.cuts.insert((from, leader));
    }
    world.run_for(20_000);
    assert_eq!(
        (world.led.len(), &world.broken[..]),
        (2, &[][..]),
        "{}",
        world.story()
    );
    assert_ne!(world.leader(), leader);
}

#[test]
fn slow_clock_shuts_its_gate_before_fast_ones_vote() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Timings::KEVY, OURS);
        // Six hundredths apart, and whoever is lost is the slow one.
        for node in &mut world.nodes {
            node.rate = 1030;
        }
        world.settle();
        let leader = world.leader();
        let clock = world.clock(leader);
        world.nodes[leader].rate = 970;
        world.nodes[leader].origin += clock - world.clock(leader);
        world.run_for(3000);
        world.isolate(leader);
        world.run_for(20_000);
        assert_eq!(world.broken, [""; 0], "{seed}\n{}", world.story());
        assert!(world.led.len() > 1, "{seed}\n{}", world.story());
    }
}

#[test]
fn minority_accepts_no_writes() {
    for seed in 0..20 {
        let mut world = World::new(seed, 5, Timings::within(1000), OURS);
        world.settle();
        let leader = world.leader();
        world.split(&[leader, (leader + 1) % 5]);
        world.run_for(5000);
        assert_eq!(world.broken, [""; 0], "{seed}\n{}", world.story());
        assert!(world.led.len() > 1, "{seed}\n{}", world.story());
    }
}

#[test]
fn half_of_four_elects_nobody() {
    for seed in 0..20 {
        let mut world = World::new(seed, 4, Timings::within(1000), OURS);
        world.settle();
        let leader = world.leader();
        world.split(&[leader, (leader + 1) % 4]);
        world.run_for(5000);
        assert_eq!(
            (world.led.len(), &world.open()[..], &world.broken[..]),
            (1, &[][..], &[][..]),
            "{seed}\n{}",
            world.story()
        );
        world.cuts.clear();
        world.settle();
    }
}

#[test]
fn who_voted_acknowledges_no_more() {
    for seed in 0..20 {
        let mut world = settled(seed, OURS);
        let leader = world.leader();
        // Nobody hears the primary any more, and its streams go on.
        for other in 0..3 {
            world.silent.insert((leader, other));
        }
        let replicas = world.replicas();
        world.run_for(4900);
        for write in 0..40 {
            world.nodes[leader].data.shards[0].push(1_000_000 + write);
        }
        world.step_position(leader);
        world.cuts.insert((leader, replicas[0]));
        world.run_for(12_000);
        assert_eq!(world.broken, [""; 0], "{seed}\n{}", world.story());
        assert!(world.led.len() > 1, "{seed}\n{}", world.story());
    }
}

#[test]
fn acknowledgement_waits_for_the_disk() {
    let mut world = settled(9, OURS);
    let (first, [second, voter]) = (world.leader(), world.replicas());
    // One comes back with data of long ago, onto a disk that takes no ballot; the other one is away.
    world.run_for(5000);
    world.crash(voter);
    world.isolate(voter);
    world.run_for(1000);
    let mut file = Ballot::read(&world.nodes[voter].file).expect("whole");
    assert_eq!(file.history, world.nodes[first].leading.expect("it leads"));
    file.history = Epoch(0);
    world.nodes[voter].file = file.compose();
    world.nodes[voter].data.generation = Epoch(0);
    world.disk_fails.insert(voter);
    world.isolate(second);
    world
        .cuts
        .retain(|(from, to)| [*from, *to].contains(&second));
    world.at(0, Happening::Starts { node: voter });
    let before = world.committed.len();
    world.run_for(3000);
    assert_eq!(
        (world.committed.len(), &world.broken[..]),
        (before, &[][..]),
        "{}",
        world.story()
    );
    world.disk_fails.clear();
    world.run_for(3000);
    assert!(world.committed.len() > before, "{}", world.story());
}

#[test]
fn a_fresh_cluster_waits_for_nobody_who_is_there() {
    let mut world = World::new(6, 3, Timings::KEVY, OURS);
    world.run_for(2000);
    assert!(world.is_settled(), "{}", world.story());
    // Who is missing may be a primary that somebody promised something.
    let mut world = World::new(6, 3, Timings::KEVY, OURS);
    world.isolate(2);
    world.run_for(4500);
    assert!(world.led.is_empty(), "{}", world.story());
    world.run_for(2000);
    assert_eq!(world.led.len(), 1, "{}", world.story());
}

#[test]
fn a_loss_is_noticed_within_300_ms() {
    let mut world = World::new(7, 3, Timings::within(300), OURS);
    world.run_for(2000);
    assert!(world.is_settled(), "{}", world.story());
    let leader = world.leader();
    world.crash(leader);
    world.run_for(700);
    let open = world.open();
    assert!(open.len() == 1 && open != [leader], "{}", world.story());
}

#[test]
fn ringkeeps_and_kevys_elect_together() {
    for kevys in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 2]] {
        for seed in 0..20 {
            let mut world = World::new(seed, 3, Timings::KEVY, kevys);
            // What kevys do to writes and to each other is in the scenarios above.
            world.is_quiet = true;
            world.settle();
            let leader = world.leader();
            world.crash(leader);
            world.run_for(20_000);
            assert!(world.led.len() > 1, "{kevys:?} {seed}\n{}", world.story());
            world.at(0, Happening::Starts { node: leader });
            world.settle();
            assert_eq!(world.broken, [""; 0], "{kevys:?} {seed}\n{}", world.story());
        }
    }
}

#[test]
fn who_stood_in_vain_follows_a_live_kevy() {
    let mut tried = 0;
    for (kevys, count) in [
        (&[1, 2][..], 3),
        (&[2], 3),
        (&[0], 3),
        (&[1, 3], 5),
        (&[4], 5),
    ] {
        for seed in 0..40 {
            let mut world = World::new(seed, count, Timings::KEVY, kevys);
            world.is_quiet = true;
            world.settle();
            let leader = world.leader();
            if !kevys.contains(&leader) {
                continue;
            }
            tried += 1;
            let away = (0..count).rfind(|at| !kevys.contains(at));
            let away = away.expect("a ringkeep");
            world.crash(away);
            let mut file = Ballot::read(&world.nodes[away].file).expect("whole");
            (file.epoch.0, file.voted) = (file.epoch.0 + 3, Some(world.nodes[away].id));
            world.nodes[away].file = file.compose();
            world.at(0, Happening::Starts { node: away });
            world.run_for(6000);
            let told = |world: &World| format!("{kevys:?} {seed}\n{}", world.story());
            assert!(
                world.is_settled() && world.led.len() == 1,
                "{}",
                told(&world)
            );
            // And everything goes on from there.
            world.crash(leader);
            world.run_for(20_000);
            assert!(world.led.len() > 1, "{}", told(&world));
            world.at(0, Happening::Starts { node: leader });
            world.settle();
            assert_eq!(world.broken, [""; 0], "{}", told(&world));
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn who_was_away_waits_for_the_primary_of_an_election() {
    let mut tried = 0;
    for seed in 0..200 {
        let mut world = World::new(seed, 3, Timings::KEVY, &[1, 2]);
        world.is_quiet = true;
        world.settle();
        if world.leader() != 0 {
            continue;
        }
        tried += 1;
        world.nodes[0].paused = true;
        world.run_for(12_000);
        assert!(world.led.len() > 1, "{seed}\n{}", world.story());
        world.forget_what_waits(0);
        world.at(0, Happening::Resumes { node: 0 });
        world.run_for(6000);
        assert!(world.is_settled(), "{seed}\n{}", world.story());
        let first = world.led[0].0;
        let has_stood = world
            .votes
            .keys()
            .any(|(node, epoch)| *node == 0 && *epoch > first);
        assert!(!has_stood, "{seed}\n{}", world.story());
    }
    assert!(tried > 10);
}

#[test]
fn kevys_that_wait_for_who_gave_way_are_left_alone() {
    for seed in 0..40 {
        let mut world = World::new(seed, 3, Timings::KEVY, &[0, 1]);
        world.is_quiet = true;
        world.nodes[2].data.shards[0] = vec![1, 2, 3];
        world.settle();
        assert_eq!(world.leader(), 2, "{seed}\n{}", world.story());
        world.run_for(5000);
        // It is deaf until it has given way, and all the time the others hear it.
        world.cuts.extend([(0, 2), (1, 2)]);
        world.run_for(9000);
        world.cuts.clear();
        world.run_for(40_000);
        assert!(world.is_settled(), "{seed}\n{}", world.story());
        assert_eq!(world.broken, [""; 0], "{seed}\n{}", world.story());
    }
}

#[test]
fn kevys_make_no_ringkeep_break_a_rule() {
    let lists = [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 2]];
    let mut followed = 0;
    for seed in 0..300 {
        let mut world = World::new(seed, 3, Timings::KEVY, lists[seed as usize % lists.len()]);
        world.goes_wrong_and_heals();
        assert_eq!(world.broken, [""; 0], "{seed}\n{}", world.story());
        // kevys that stood in vain may be out for good, and so may be who stood with them. But a ringkeep
        // follows a kevy that is the only primary, if so many others have not left its epoch.
        let [leader] = world.open()[..] else { continue };
        let epoch_of = |at: usize| world.nodes[at].member.as_ref().map(|member| member.epoch());
        let Some(epoch) = epoch_of(leader).filter(|_| world.kevys.contains(&leader)) else {
            continue;
        };
        for at in (0..3).filter(|at| !world.kevys.contains(at)) {
            let stays = (0..3).filter(|other| *other != at && epoch_of(*other) <= Some(epoch));
            if stays.count() > 1 {
                followed += 1;
                let primary = world.nodes[at].following.map(|following| following.primary);
                assert_eq!(
                    primary,
                    Some(world.nodes[leader].id),
                    "{seed}\n{}",
                    world.story()
                );
            }
        }
    }
    assert!(followed > 50, "{followed}");
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn no_history_breaks_a_rule() {
    let first = number("RINGKEEP_ELECT_FIRST", 0);
    let seeds = number("RINGKEEP_ELECT_SEEDS", SEEDS);
    let workers = thread::available_parallelism()
        .map_or(1, |count| count.get())
        .min(4) as u64;
    let run = |worker: u64| {
        let mut marks: BTreeMap<Mark, u64> = BTreeMap::new();
        let again = FAILED.into_iter().filter(|seed| seed % workers == worker);
        for seed in (first + worker..first + seeds)
            .step_by(workers as usize)
            .chain(again)
        {
            let world = catch_unwind(AssertUnwindSafe(|| history(seed, false)))
                .unwrap_or_else(|_| panic!("seed {seed} panicked"));
            if !world.broken.is_empty() {
                // The same once more, for people.
                let told = history(seed, true);
                panic!("seed {seed}\n{}\n{:?}", told.story(), world.broken);
            }
            for (mark, count) in world.marks {
                *marks.entry(mark).or_default() += count;
            }
        }
        marks
    };
    let mut marks: BTreeMap<Mark, u64> = BTreeMap::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| scope.spawn(move || run(worker)))
            .collect();
        for thread in threads {
            let found = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for (mark, count) in found {
                *marks.entry(mark).or_default() += count;
            }
        }
    });
    println!("{marks:?}");
    if seeds >= SEEDS {
        let missed: Vec<Mark> = MARKS
            .into_iter()
            .filter(|mark| !marks.contains_key(mark))
            .collect();
        assert!(missed.is_empty(), "never reached: {missed:?}");
    }
}
