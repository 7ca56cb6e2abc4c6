//! Every history of elections within a bound.
//!
//! Three shipped electors, whose states are compared by [`Elector::hash_state`], are led through all orders
//! of what can happen next: a message or acknowledgement arrives, a disk answers, a stream is pulled, a
//! client writes, time passes. Time passes in heartbeats, three of which make a primary be gone, and all
//! clocks are one; what clocks and chance do otherwise is the simulated world's (`tests/elect_sim.rs`). A
//! [`Bound`] says how much may go wrong:
//!
//! - **late**: so many messages and ballots may take longer than a heartbeat, however long, or for ever.
//!   Everything else is there before time passes, and heartbeats as soon as they are sent.
//! - **faults**: a crash, which leaves the old ballot or the new one, a stop, a failed sync, or a cut: of one
//!   link, or of all that a node says, hears, or both, for elections alone or for the streams, too. Start,
//!   going on and mending are free.
//! - **writes**: so many are accepted, in turn on two streams.
//! - **handovers**: so often a primary gives way for a member that is chosen, whatever that has.
//! - **epoch**: a history ends where a node comes to a higher one.
//!
//! One walk begins when all three start, the other one with a primary of epoch 2 that both others follow. In
//! every state: at most one gate is open, a node votes once in an epoch and for nothing that its disk would
//! forget, no ballot goes back, and what a majority acknowledged is on whoever leads a later epoch.
//!
//! That is 28 000 and 316 000 states after a start, with a write or with something late, and 411 000 with a
//! primary, a fault and a write; of each there is only a hash of 64 bits.
//! `RINGKEEP_ELECT_WALK=1 cargo test --release --test elect_walk -- --nocapture` walks further.

use std::{
    collections::{HashSet, VecDeque, hash_map::DefaultHasher},
    env,
    hash::{BuildHasherDefault, Hash, Hasher},
    rc::Rc,
};

use ringkeep::elect::{
    Ballot, Effect, Elector, Epoch, Event, Message, NodeId, Peer, Settings, Timings,
    elector::Following, parse_peers,
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Bound {
    late: u8,
    faults: u8,
    writes: u8,
    handovers: u8,
    epoch: u64,
}

const TICK: u64 = 10;

const TIMINGS: Timings = Timings {
    heartbeat: TICK,
    down_after: 3 * TICK,
    candidacy: 2 * TICK,
    back_off: TICK,
    jitter: 0,
};

const COUNT: usize = 3;

/// What a promotion adds to positions.
const RENEWED: u64 = 16;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Data {
    /// The epoch whose primary it is a copy of.
    generation: Epoch,
    base: u64,
    streams: [Vec<u8>; 2],
}

impl Data {
    fn offsets(&self) -> Vec<u64> {
        let streams = self.streams.iter();
        streams
            .map(|writes| self.base + writes.len() as u64)
            .collect()
    }

    fn lens(&self) -> [usize; 2] {
        [self.streams[0].len(), self.streams[1].len()]
    }

    fn has(&self, write: u8) -> bool {
        self.streams[usize::from(write % 2)].contains(&write)
    }
}

#[derive(Clone)]
struct Node {
    member: Option<Elector>,
    runs: u64,
    is_paused: bool,
    file: Ballot,
    writing: Option<Ballot>,
    /// The disk has taken longer than a heartbeat, and that is counted.
    is_slow: bool,
    gate: u64,
    leading: Option<Epoch>,
    following: Option<Following>,
    catching_up: Option<NodeId>,
    may_acknowledge: Option<Epoch>,
    data: Data,
    acked: [[usize; 2]; COUNT],
    voted: (Epoch, Option<NodeId>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Packet {
    Elect(Message),
    Ack { epoch: Epoch, lens: [usize; 2] },
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Parcel {
    from: usize,
    to: usize,
    packet: Packet,
    is_late: bool,
}

impl Parcel {
    /// Heartbeats arrive at once, if they are not late.
    fn is_prompt(&self) -> bool {
        let beats =
            |message: &Message| matches!(message, Message::Heartbeat { .. } | Message::Pulse(_));
        !self.is_late && matches!(&self.packet, Packet::Elect(message) if beats(message))
    }
}

#[derive(Clone)]
struct State {
    now: u64,
    nodes: [Rc<Node>; COUNT],
    /// The hashes of the nodes.
    prints: [u64; COUNT],
    bag: Vec<Parcel>,
    /// Bits of links, first those of elections.
    cuts: u32,
    left: Bound,
    written: u8,
    /// In which epoch a majority acknowledged each write.
    committed: Vec<Option<Epoch>>,
    led: Vec<(Epoch, usize, Vec<u8>)>,
    path: Path,
}

/// The acts that led to a state, the last one first.
#[derive(Clone, Default)]
struct Path(Option<Rc<(Path, Act)>>);

impl Drop for Path {
    /// One after the other: paths get longer than the stack is.
    fn drop(&mut self) {
        let mut last = self.0.take();
        while let Some(mut step) = last.and_then(Rc::into_inner) {
            last = step.0.0.take();
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Passes,
    Arrives(Parcel),
    IsLate(Parcel),
    HandsOver { node: usize, to: usize },
    Written(usize),
    NotWritten { node: usize, is_there: bool },
    Pulls { node: usize, stream: usize },
    CatchesUp(usize),
    Writes(usize),
    Crashes { node: usize, is_there: bool },
    Starts(usize),
    Stops(usize),
    GoesOn(usize),
    Cut(u32),
    Mended,
}

fn peers() -> Vec<Peer> {
    parse_peers("a@h:1,b@h:1,c@h:1").expect("a list")
}

fn name(node: usize) -> NodeId {
    NodeId::new(["a", "b", "c"][node]).expect("a name")
}

fn index(id: NodeId) -> usize {
    usize::from(id.as_str().as_bytes()[0] - b'a')
}

fn link(from: usize, to: usize, streams: bool) -> u32 {
    1 << (from * COUNT + to + if streams { 16 } else { 0 })
}

/// All cuts: of single links, and of what a node says, hears, or both; for elections alone, or for all.
fn cuts() -> Vec<u32> {
    let mut found = Vec::new();
    for with_streams in [false, true] {
        let whole = |from, to| {
            let streams = if with_streams {
                link(from, to, true)
            } else {
                0
            };
            link(from, to, false) | streams
        };
        for node in 0..COUNT {
            let others = || (0..COUNT).filter(move |other| *other != node);
            let says = others().fold(0, |cut, other| cut | whole(node, other));
            let hears = others().fold(0, |cut, other| cut | whole(other, node));
            found.extend([says, hears, says | hears]);
            found.extend(others().map(|other| whole(node, other)));
        }
    }
    found
}

impl State {
    fn new(bound: Bound) -> Self {
        let node = Node {
            member: None,
            runs: 0,
            is_paused: false,
            file: Ballot::default(),
            writing: None,
            is_slow: false,
            gate: 0,
            leading: None,
            following: None,
            catching_up: None,
            may_acknowledge: None,
            data: Data {
                generation: Epoch(0),
                base: 0,
                streams: [Vec::new(), Vec::new()],
            },
            acked: [[0; 2]; COUNT],
            voted: (Epoch(0), None),
        };
        let mut state = Self {
            now: 1000,
            nodes: [Rc::new(node.clone()), Rc::new(node.clone()), Rc::new(node)],
            prints: [0; COUNT],
            bag: Vec::new(),
            cuts: 0,
            left: bound,
            written: 0,
            committed: vec![None; usize::from(bound.writes)],
            led: Vec::new(),
            path: Path::default(),
        };
        for node in 0..COUNT {
            state.start(node);
        }
        state
    }

    /// With a primary that everybody follows.
    fn settled(bound: Bound) -> Self {
        let mut state = Self::new(bound);
        let mut queue = VecDeque::new();
        for _ in 0..200 {
            let epoch = state.led.first().map(|led| led.0);
            let joined = |node: &Rc<Node>| node.leading == epoch || node.may_acknowledge == epoch;
            let is_open = state.open().len() == 1;
            if is_open && state.bag.is_empty() && state.nodes.iter().all(joined) {
                state.path = Path::default();
                return state;
            }
            queue.extend(state.acts().into_iter().filter(|act| {
                matches!(act, Act::Arrives(_) | Act::Written(_) | Act::Pulls { .. })
            }));
            let act = queue.pop_front().unwrap_or(Act::Passes);
            queue.clear();
            state = state.after(&act).expect("nothing breaks");
        }
        panic!("no primary\n{}", state.story());
    }

    fn node(&mut self, at: usize) -> &mut Node {
        Rc::make_mut(&mut self.nodes[at])
    }

    /// Messages are a set: what they are doing in which order is not known before they arrive.
    fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.prints.hash(&mut hasher);
        let mut bag: Vec<u64> = self
            .bag
            .iter()
            .map(|parcel| self.print_of(parcel))
            .collect();
        bag.sort_unstable();
        bag.hash(&mut hasher);
        (self.cuts, self.left, self.written).hash(&mut hasher);
        (&self.committed, &self.led).hash(&mut hasher);
        hasher.finish()
    }

    fn print_of(&self, parcel: &Parcel) -> u64 {
        let mut hasher = DefaultHasher::new();
        (parcel.from, parcel.to, parcel.is_late).hash(&mut hasher);
        let age = |sent: u64| (self.now - sent).min(4 * TIMINGS.down_after);
        match &parcel.packet {
            Packet::Elect(Message::Pulse(pulse)) => {
                (pulse.epoch, pulse.role, &pulse.standing).hash(&mut hasher);
                (pulse.follows, pulse.is_free).hash(&mut hasher);
                (pulse.stamp.nonce, age(pulse.stamp.sent)).hash(&mut hasher);
                let echo = pulse.echo.map(|echo| (echo.nonce, age(echo.sent)));
                echo.hash(&mut hasher);
            }
            packet => packet.hash(&mut hasher),
        }
        hasher.finish()
    }

    fn print_node(&mut self, at: usize) {
        let node = &self.nodes[at];
        let mut hasher = DefaultHasher::new();
        match &node.member {
            Some(member) => member.hash_state(&mut hasher),
            None => node.runs.hash(&mut hasher),
        }
        (node.is_paused, node.file, node.writing, node.is_slow).hash(&mut hasher);
        node.gate.saturating_sub(self.now).hash(&mut hasher);
        (node.leading, node.following, node.catching_up).hash(&mut hasher);
        (node.may_acknowledge, &node.data, node.acked, node.voted).hash(&mut hasher);
        self.prints[at] = hasher.finish();
    }

    fn open(&self) -> Vec<usize> {
        let is_open = |at: &usize| self.nodes[*at].gate > self.now;
        (0..COUNT).filter(is_open).collect()
    }

    fn is_cut(&self, from: usize, to: usize, streams: bool) -> bool {
        self.cuts & link(from, to, streams) != 0
    }

    // ---- what can happen ----

    fn acts(&self) -> Vec<Act> {
        let is_prompt = |parcel: &&Parcel| parcel.is_prompt() && !self.nodes[parcel.to].is_paused;
        if let Some(beat) = self.bag.iter().find(is_prompt) {
            let arrives = Act::Arrives(beat.clone());
            return match self.left.late {
                0 => vec![arrives],
                _ => vec![arrives, Act::IsLate(beat.clone())],
            };
        }
        let mut acts = Vec::new();
        let is_up = |at: usize| self.nodes[at].member.is_some() && !self.nodes[at].is_paused;
        for (nth, parcel) in self.bag.iter().enumerate() {
            let is_again = self.bag[..nth].contains(parcel);
            if !self.nodes[parcel.to].is_paused && !is_again {
                acts.push(Act::Arrives(parcel.clone()));
            }
        }
        for at in 0..COUNT {
            let node = &self.nodes[at];
            if !is_up(at) {
                acts.push(if node.is_paused {
                    Act::GoesOn(at)
                } else {
                    Act::Starts(at)
                });
                continue;
            }
            if node.writing.is_some() {
                acts.push(Act::Written(at));
            }
            if let Some(Following { primary, epoch }) = node.following {
                let source = index(primary);
                let is_there = is_up(source)
                    && self.nodes[source].leading == Some(epoch)
                    && !self.is_cut(source, at, true)
                    && !self.is_cut(at, source, true);
                let theirs = self.nodes[source].data.lens();
                let ours = node.data.lens();
                for stream in 0..2 {
                    let is_new = match node.data.generation == epoch {
                        true => ours[stream] < theirs[stream],
                        false => stream == 0,
                    };
                    if is_there && is_new {
                        acts.push(Act::Pulls { node: at, stream });
                    }
                }
            } else if let Some(source) = node.catching_up.map(index) {
                let data = &self.nodes[source].data;
                let is_there = is_up(source)
                    && data.generation == node.data.generation
                    && !self.is_cut(source, at, true)
                    && !self.is_cut(at, source, true);
                if is_there && (0..2).any(|stream| node.data.lens()[stream] < data.lens()[stream]) {
                    acts.push(Act::CatchesUp(at));
                }
            }
            if node.gate > self.now && node.leading.is_some() && self.left.writes > 0 {
                acts.push(Act::Writes(at));
            }
            if node.leading.is_some() && self.left.handovers > 0 {
                let others = (0..COUNT).filter(|to| *to != at);
                acts.extend(others.map(|to| Act::HandsOver { node: at, to }));
            }
            if self.left.faults > 0 {
                acts.push(Act::Stops(at));
                acts.push(Act::Crashes {
                    node: at,
                    is_there: false,
                });
                if node.writing.is_some() {
                    acts.push(Act::Crashes {
                        node: at,
                        is_there: true,
                    });
                    acts.push(Act::NotWritten {
                        node: at,
                        is_there: false,
                    });
                    acts.push(Act::NotWritten {
                        node: at,
                        is_there: true,
                    });
                }
            }
        }
        if self.cuts != 0 {
            acts.push(Act::Mended);
        } else if self.left.faults > 0 {
            acts.extend(cuts().into_iter().map(Act::Cut));
        }
        if self.overdue() <= usize::from(self.left.late) {
            acts.push(Act::Passes);
        }
        acts
    }

    /// How much would be late if time passed now.
    fn overdue(&self) -> usize {
        let waits = |parcel: &&Parcel| !parcel.is_late && !self.nodes[parcel.to].is_paused;
        let parcels = self.bag.iter().filter(waits).count();
        let is_slow = |node: &&Rc<Node>| node.writing.is_some() && !node.is_slow && !node.is_paused;
        parcels + self.nodes.iter().filter(is_slow).count()
    }

    /// What comes of it, or the rule that it breaks.
    fn after(&self, act: &Act) -> Result<State, String> {
        let mut next = self.clone();
        next.path = Path(Some(Rc::new((self.path.clone(), act.clone()))));
        next.act(act)?;
        let open = next.open();
        if open.len() > 1 {
            return Err(format!("{open:?} accept writes\n{}", next.story()));
        }
        Ok(next)
    }

    fn act(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::Passes => return self.pass(),
            Act::Arrives(parcel) => {
                let at = self.bag.iter().position(|other| other == parcel);
                self.bag.remove(at.expect("it is on its way"));
                return self.arrive(parcel);
            }
            Act::IsLate(parcel) => {
                self.left.late -= 1;
                let at = self.bag.iter().position(|other| other == parcel);
                self.bag[at.expect("it is on its way")].is_late = true;
                return Ok(());
            }
            Act::HandsOver { node, to } => {
                self.left.handovers -= 1;
                let to = name(*to);
                self.tell_position(*node)?;
                return self.step(*node, Event::HandOver { to });
            }
            Act::Written(node) => {
                let ballot = self.nodes[*node].writing.expect("it is being written");
                self.put_file(*node, ballot)?;
                self.tell_position(*node)?;
                return self.step(*node, Event::BallotDurable);
            }
            Act::NotWritten { node, is_there } => {
                self.left.faults -= 1;
                let ballot = self.nodes[*node].writing.expect("it is being written");
                if *is_there {
                    self.put_file(*node, ballot)?;
                }
                self.node(*node).writing = None;
                return self.step(*node, Event::BallotFailed);
            }
            Act::Pulls { node, stream } => return self.pull(*node, *stream),
            Act::CatchesUp(node) => {
                let source = index(self.nodes[*node].catching_up.expect("it catches up"));
                let streams = self.nodes[source].data.streams.clone();
                for (mine, theirs) in self.node(*node).data.streams.iter_mut().zip(streams) {
                    let known = mine.len();
                    mine.extend(theirs.into_iter().skip(known));
                }
                return self.tell_position(*node);
            }
            Act::Writes(node) => {
                self.left.writes -= 1;
                let write = self.written;
                self.written += 1;
                self.node(*node).data.streams[usize::from(write % 2)].push(write);
                return self.tell_position(*node);
            }
            Act::Crashes { node, is_there } => {
                self.left.faults -= 1;
                if let (true, Some(ballot)) = (*is_there, self.nodes[*node].writing) {
                    self.put_file(*node, ballot)?;
                }
                let node = self.node(*node);
                (node.member, node.writing, node.is_slow) = (None, None, false);
                (node.gate, node.leading, node.following) = (0, None, None);
                (node.catching_up, node.may_acknowledge) = (None, None);
                node.acked = [[0; 2]; COUNT];
            }
            Act::Starts(node) => self.start(*node),
            Act::Stops(node) => {
                self.left.faults -= 1;
                self.node(*node).is_paused = true;
            }
            Act::GoesOn(node) => self.node(*node).is_paused = false,
            Act::Cut(cut) => {
                self.left.faults -= 1;
                self.cuts = *cut;
            }
            Act::Mended => self.cuts = 0,
        }
        (0..COUNT).for_each(|at| self.print_node(at));
        Ok(())
    }

    fn pass(&mut self) -> Result<(), String> {
        self.left.late -= self.overdue() as u8;
        for parcel in &mut self.bag {
            parcel.is_late |= !self.nodes[parcel.to].is_paused;
        }
        self.now += TICK;
        for at in 0..COUNT {
            if self.nodes[at].is_paused {
                self.print_node(at);
                continue;
            }
            if self.nodes[at].writing.is_some() {
                self.node(at).is_slow = true;
            }
            self.tell_position(at)?;
            self.step(at, Event::Wake)?;
        }
        Ok(())
    }

    fn start(&mut self, at: usize) {
        let now = self.now;
        let node = self.node(at);
        let settings = Settings {
            id: name(at),
            peers: peers(),
            address: String::new(),
            timings: TIMINGS,
            check_source: false,
            seed: node.runs * COUNT as u64 + at as u64,
        };
        node.runs += 1;
        let member = Elector::new(now, settings, node.file, node.data.offsets());
        node.member = Some(member.expect("good settings"));
        self.print_node(at);
    }

    fn arrive(&mut self, parcel: &Parcel) -> Result<(), String> {
        let Parcel { from, to, .. } = *parcel;
        match &parcel.packet {
            Packet::Elect(message) => {
                let (message, source) = (message.clone(), None);
                self.step(to, Event::Received { message, source })
            }
            Packet::Ack { epoch, lens } => {
                if self.nodes[to].leading == Some(*epoch) {
                    self.node(to).acked[from] = *lens;
                    self.commit(to, *epoch)?;
                }
                self.print_node(to);
                Ok(())
            }
        }
    }

    fn pull(&mut self, at: usize, stream: usize) -> Result<(), String> {
        let Following { primary, epoch } = self.nodes[at].following.expect("it follows");
        let theirs = self.nodes[index(primary)].data.clone();
        if self.nodes[at].data.generation == epoch {
            self.node(at).data.streams[stream] = theirs.streams[stream].clone();
        } else {
            self.node(at).data = theirs;
            self.tell_position(at)?;
            self.step(at, Event::Joined(epoch))?;
        }
        self.acknowledge(at);
        self.print_node(at);
        Ok(())
    }

    fn acknowledge(&mut self, at: usize) {
        let node = &self.nodes[at];
        let Some(Following { primary, epoch }) = node.following else {
            return;
        };
        if node.may_acknowledge == Some(epoch) && node.data.generation == epoch {
            let lens = node.data.lens();
            self.send(at, index(primary), Packet::Ack { epoch, lens });
        }
    }

    /// Where a majority has it, and whether somebody leads a later epoch without it.
    fn commit(&mut self, at: usize, epoch: Epoch) -> Result<(), String> {
        for stream in 0..2 {
            let node = &self.nodes[at];
            let mut lens: Vec<usize> = node.acked.iter().map(|lens| lens[stream]).collect();
            lens[at] = node.data.streams[stream].len();
            lens.sort_unstable();
            for &write in &node.data.streams[stream][..lens[COUNT / 2]] {
                if self.committed[usize::from(write)].is_some() {
                    continue;
                }
                self.committed[usize::from(write)] = Some(epoch);
                let lacks =
                    |led: &&(Epoch, usize, Vec<u8>)| led.0 > epoch && !led.2.contains(&write);
                if let Some((later, by, _)) = self.led.iter().find(lacks) {
                    let text =
                        format!("{write} is acknowledged in {epoch:?}, and {by} led {later:?}");
                    return Err(format!("{text}\n{}", self.story()));
                }
            }
        }
        Ok(())
    }

    fn put_file(&mut self, at: usize, ballot: Ballot) -> Result<(), String> {
        let node = self.node(at);
        let old = std::mem::replace(&mut node.file, ballot);
        (node.writing, node.is_slow) = (None, false);
        let is_changed = old.voted.is_some() && old.voted != ballot.voted;
        let goes_back = ballot.epoch < old.epoch || ballot.history < old.history;
        match goes_back || (old.epoch == ballot.epoch && is_changed) {
            true => Err(format!(
                "{at}: {old:?} becomes {ballot:?}\n{}",
                self.story()
            )),
            false => Ok(()),
        }
    }

    // ---- the shell ----

    fn tell_position(&mut self, at: usize) -> Result<(), String> {
        let offsets = self.nodes[at].data.offsets();
        self.step(at, Event::Position(offsets))
    }

    fn step(&mut self, at: usize, event: Event) -> Result<(), String> {
        let now = self.now;
        let mut effects = Vec::new();
        if let Some(member) = &mut self.node(at).member {
            member.step(now, event, &mut effects);
        }
        for effect in effects {
            self.carry_out(at, effect)?;
        }
        self.print_node(at);
        Ok(())
    }

    fn carry_out(&mut self, at: usize, effect: Effect) -> Result<(), String> {
        let node = self.node(at);
        match effect {
            Effect::Writes { until } => node.gate = until,
            Effect::Lead { epoch } => return self.lead(at, epoch),
            // No process takes the place of another one here.
            Effect::LeadOn { .. } => return Err(format!("{at} leads on\n{}", self.story())),
            Effect::Resign => {
                node.leading = None;
                node.acked = [[0; 2]; COUNT];
            }
            Effect::Follow(following) => {
                (node.following, node.catching_up, node.may_acknowledge) = (following, None, None);
            }
            Effect::Acknowledge { epoch } => {
                node.may_acknowledge = Some(epoch);
                self.acknowledge(at);
            }
            Effect::CatchUp { from } => node.catching_up = Some(from),
            Effect::PersistBallot(ballot) => {
                if node.writing.replace(ballot).is_some() {
                    return Err(format!("{at} writes two ballots at once\n{}", self.story()));
                }
            }
            Effect::Send { to, message } => {
                let voted = match &message {
                    Message::Accept { epoch, .. } => Some((*epoch, Some(to))),
                    Message::Offer { epoch, .. } | Message::Ask { epoch, .. } => {
                        Some((*epoch, Some(name(at))))
                    }
                    _ => None,
                };
                if let Some(voted) = voted {
                    let before = std::mem::replace(&mut node.voted, voted);
                    let is_kept = (node.file.epoch, node.file.voted) == voted;
                    if !is_kept || before.0 > voted.0 || (before.0 == voted.0 && before != voted) {
                        let text = format!("{at} votes {voted:?} after {before:?}");
                        return Err(format!("{text}\n{}", self.story()));
                    }
                }
                self.send(at, index(to), Packet::Elect(message));
            }
            Effect::Role(_) => {}
        }
        Ok(())
    }

    fn lead(&mut self, at: usize, epoch: Epoch) -> Result<(), String> {
        let node = self.node(at);
        node.leading = Some(epoch);
        node.acked = [[0; 2]; COUNT];
        node.data.generation = epoch;
        node.data.base += RENEWED;
        let data = node.data.clone();
        let owed = |write: &u8| {
            self.committed[usize::from(*write)].is_some_and(|by| by < epoch) && !data.has(*write)
        };
        if let Some(write) = (0..self.committed.len() as u8).find(owed) {
            let text = format!("{at} leads {epoch:?} without {write}");
            return Err(format!("{text}\n{}", self.story()));
        }
        if self.led.iter().any(|led| led.0 == epoch) {
            return Err(format!("{at} leads {epoch:?}, too\n{}", self.story()));
        }
        self.led.push((epoch, at, data.streams.concat()));
        self.tell_position(at)
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let is_stream = matches!(packet, Packet::Ack { .. });
        if self.is_cut(from, to, is_stream) || self.nodes[to].member.is_none() {
            return;
        }
        let parcel = Parcel {
            from,
            to,
            packet,
            is_late: false,
        };
        if self.nodes[to].is_paused && parcel.is_prompt() {
            // Of the heartbeats that wait for who stands still the last one says all.
            let is_old = |old: &Parcel| (old.from, old.to) == (from, to) && old.is_prompt();
            self.bag.retain(|old| !is_old(old));
        }
        self.bag.push(parcel);
    }

    fn is_over(&self) -> bool {
        let mut members = self.nodes.iter().filter_map(|node| node.member.as_ref());
        members.any(|member| member.view().epoch.0 > self.left.epoch)
    }

    /// How it came to this.
    fn story(&self) -> String {
        let mut lines = Vec::new();
        let mut path = &self.path;
        while let Some(step) = &path.0 {
            lines.push(format!("{:?}", step.1));
            path = &step.0;
        }
        lines.reverse();
        for node in self.nodes.iter() {
            let member = node.member.as_ref().map(Elector::view);
            let (gate, leading, following) = (node.gate, node.leading, node.following);
            lines.push(format!(
                "{member:?} gate {gate} leads {leading:?} follows {following:?}"
            ));
        }
        lines.push(format!("it is {}", self.now));
        lines.join("\n")
    }
}

/// What a walk came by.
#[derive(Default, Debug)]
struct Seen {
    states: usize,
    acts: usize,
    elected: usize,
    committed: usize,
}

#[derive(Default)]
struct Printed(u64);

impl Hasher for Printed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
}

/// Depth first, so that few states are held; of the others there is only the hash.
fn walk(first: State) -> Seen {
    let mut known: HashSet<u64, BuildHasherDefault<Printed>> = HashSet::default();
    known.insert(first.print());
    let elections = first.led.len();
    let mut seen = Seen::default();
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        seen.states += 1;
        seen.elected += usize::from(state.led.len() > elections);
        seen.committed += usize::from(state.committed.iter().any(Option::is_some));
        if state.is_over() {
            continue;
        }
        for act in state.acts() {
            seen.acts += 1;
            let next = state
                .after(&act)
                .unwrap_or_else(|broken| panic!("{broken}"));
            if known.insert(next.print()) {
                open.push(next);
            }
        }
    }
    seen
}

/// Walks from where the histories begin, within each of the bounds.
fn walk_all(first: fn(Bound) -> State, near: &[Bound], far: &[Bound]) {
    let is_far = env::var_os("RINGKEEP_ELECT_WALK").is_some();
    for bound in if is_far { far } else { near } {
        let seen = walk(first(*bound));
        println!("{bound:?}: {seen:?}");
        assert!(seen.elected > 0, "{bound:?}: nobody was elected");
        assert_eq!(seen.committed > 0, bound.writes > 0, "{bound:?}");
    }
}

const fn bound(late: u8, faults: u8, writes: u8) -> Bound {
    Bound {
        late,
        faults,
        writes,
        handovers: 0,
        epoch: 3,
    }
}

#[test]
fn no_order_after_a_start_breaks_a_rule() {
    let near = [bound(0, 0, 1), bound(1, 0, 0)];
    let far = [bound(1, 0, 1)];
    walk_all(State::new, &near, &far);
}

#[test]
fn no_order_breaks_a_rule_when_a_part_is_handed_over() {
    let handed = |bound| Bound {
        handovers: 1,
        ..bound
    };
    let near = [handed(bound(0, 0, 1)), handed(bound(1, 0, 0))];
    let far = [handed(bound(0, 1, 0)), handed(bound(1, 0, 1))];
    walk_all(State::settled, &near, &far);
}

#[test]
fn no_order_with_a_primary_breaks_a_rule() {
    let near = [bound(0, 1, 1)];
    let far = [bound(1, 1, 0), bound(0, 1, 2)];
    walk_all(State::settled, &near, &far);
}
