//! Another process takes this one's place: the machine of `handoff` meets sockets, the other cores and the
//! data directory. Its decisions live on core 0; how far they are is published, and every core goes by it.
//!
//! No request is refused on the way. Those that have begun end; the others wait in the order they came, at
//! their connections or in the kernel, and run when the node serves again, if another process does not.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering::SeqCst},
    },
};

use uring::{Endpoint, Nanos, Outgoing, Reactor, SocketId, pass};

use super::{
    conn::Hold,
    log,
    message::{CoreId, Message},
    passing::Passage,
    shared::lock,
    state::State,
};
use crate::{
    base::{Ms, Position},
    handoff::{
        Id, Incumbent,
        incumbent::{Effect, Event, Reason},
        passing::{GREETING_LEN, Greeting},
        wire,
    },
};

/// Marks the timer of this part.
pub(super) const MARK: u64 = 2;

/// Between two looks at whether all cores have come to an end.
const ROUND_NS: Nanos = 2_000_000;
/// What clients were told may take so long to reach them before the process ends.
const LEAVE_NS: Nanos = 100_000_000;
/// Clients may take so long to leave for the next process.
const PART_NS: Nanos = 10_000_000_000;
const NANOS_PER_MS: Nanos = 1_000_000;
/// A supervisor that does not take so much is none.
const OUT_MAX: usize = 64 << 10;
/// Who may be connected for clients and has not said who it is.
const GUESTS_MAX: usize = 16;
/// Between two lines in the log of who is turned away.
const REFUSALS_NS: Nanos = 10_000_000_000;
/// Longest name of a socket in the file system, as the kernel keeps it.
const PATH_MAX: usize = 107;

/// How far the node is on its way to another process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Stage {
    /// It is not.
    #[default]
    Serving,
    /// It is not any more, but clients of the process before it are still to come.
    Arriving,
    /// Requests that have begun end, others wait.
    Draining,
    /// Everything is written down.
    Sealing,
    /// The data directory may be another process's: nothing is written.
    Sealed,
    /// Another process serves.
    Over,
}

/// What all cores know of it.
#[derive(Debug, Default)]
pub struct Handover {
    stage: AtomicU8,
    /// Where the journal of each shard ended, as files name it, and told by its core.
    pub ends: Mutex<BTreeMap<usize, Position>>,
    /// Which owner of the data directory this process is; 0: it is not handed over.
    pub owner: AtomicU64,
    /// How often the node began to hand over, and went on serving after all.
    pub begun: AtomicU64,
    /// See there.
    pub resumed: AtomicU64,
    /// Why it went on serving the last time.
    pub last: Mutex<Option<Reason>>,
    /// Of a successor: shards that were loaded before it had the directory, bytes that were read for them,
    /// and what was left to read then.
    pub preloaded_shards: AtomicU64,
    /// See there.
    pub preloaded_bytes: AtomicU64,
    /// See there.
    pub tail_bytes: AtomicU64,
    /// See there.
    pub tail_frames: AtomicU64,
    /// The epoch that this node leads and that the next process may go on leading; 0: none.
    pub leads: AtomicU64,
    /// The way of clients from one process to the next.
    pub passage: Passage,
}

impl Handover {
    /// How far it is.
    pub fn stage(&self) -> Stage {
        let stages = [
            Stage::Arriving,
            Stage::Draining,
            Stage::Sealing,
            Stage::Sealed,
            Stage::Over,
        ];
        let stage = self.stage.load(SeqCst);
        if stage == Stage::Serving as u8 {
            return Stage::Serving;
        }
        let known = stages.into_iter().find(|known| *known as u8 == stage);
        known.unwrap_or_default()
    }

    fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, SeqCst);
    }

    /// Nobody is served before the clients of the process before this one are here, or before this one is the
    /// primary that it was: something for which there is one [`go`](Handover::go). Before the first turn.
    pub fn wait(&self) {
        self.passage.begin();
        self.set(Stage::Arriving);
    }

    /// It is waited for no more; clients that come later are taken in then. True if everybody may be served
    /// from now on, which the cores are to be told.
    pub fn go(&self) -> bool {
        self.settle(1)
    }

    /// So many that have come are at their cores; as [`go`](Handover::go).
    pub(super) fn settle(&self, count: usize) -> bool {
        let (old, new) = (Stage::Arriving as u8, Stage::Serving as u8);
        let swap = || self.stage.compare_exchange(old, new, SeqCst, SeqCst);
        self.passage.settle(count) && swap().is_ok()
    }
}

/// The data directory and the process, as far as a handoff needs them.
pub trait Estate: Send {
    /// Writes down where each shard ends and which epoch the node leads, or 0, for this handoff, and lets the
    /// data directory go. The checksum of what was written.
    ///
    /// # Errors
    /// It could not be written; the directory was kept.
    fn let_go(&mut self, id: Id, ends: Vec<Position>, leads: u64) -> io::Result<[u8; 32]>;

    /// The listeners that were left to this process, and their names.
    fn listeners(&self) -> (&[String], &[OwnedFd]);

    /// Tries to get the data directory back.
    fn take_back(&mut self) -> Back;

    /// Begins anew in this process, from what is on the disk: another one has written since.
    fn begin_anew(&mut self);

    /// The node serves, and answers supervisors.
    fn serves(&mut self);
}

/// Whose the data directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Back {
    /// Ours, as it was left.
    Ours,
    /// Ours, but another process has had it meanwhile.
    Changed,
    /// Another process's.
    Held,
}

/// A supervisor that is connected.
#[derive(Debug, Default)]
struct Line {
    heard: Vec<u8>,
    out: Vec<u8>,
    is_sending: bool,
}

/// What the cores are asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asking {
    No,
    /// The node itself, whether its files have all again.
    Mend,
    Drain,
    Seal(Id),
}

/// The part of core 0. See the module page.
pub(super) struct Control {
    estate: Box<dyn Estate>,
    machine: Incumbent,
    path: PathBuf,
    /// The listener, and which file of that path is its own.
    listener: Option<(SocketId, u64)>,
    /// The user that may lead.
    user: u32,
    lines: BTreeMap<u64, (SocketId, Line)>,
    side: Side,
    effects: Vec<Effect>,
    asking: Asking,
    /// The round of questions to all cores, and who has answered it how.
    round: u64,
    answers: Vec<Option<(bool, u64)>>,
    /// What the answers of the last round were, if all had come to an end.
    calm: Option<Vec<Option<(bool, u64)>>>,
    /// When the next round begins.
    ask_at: Option<Nanos>,
    leave_at: Option<Nanos>,
    /// Then it ends whoever is left.
    end_at: Nanos,
    timer: Option<Nanos>,
    /// When it was last said that somebody was turned away.
    refused_at: Option<Nanos>,
}

impl Control {
    /// Of a node with this path for supervisors.
    ///
    /// # Errors
    /// The path is too long for a socket.
    pub fn new(path: PathBuf, estate: Box<dyn Estate>) -> io::Result<Self> {
        if for_clients(&path).as_os_str().len() > PATH_MAX {
            return Err(io::Error::other(format!("longer than {PATH_MAX} bytes")));
        }
        let build = concat!("ringkeep ", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            estate,
            machine: Incumbent::new(std::process::id(), build.as_bytes()),
            path,
            listener: None,
            user: 0,
            lines: BTreeMap::new(),
            side: Side::default(),
            effects: Vec::new(),
            asking: Asking::No,
            round: 0,
            answers: Vec::new(),
            calm: None,
            ask_at: None,
            leave_at: None,
            end_at: 0,
            timer: None,
            refused_at: None,
        })
    }

    /// Answers supervisors from now on. The path is there at each moment, if it was before.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open<R: Reactor>(&mut self, reactor: &mut R) -> io::Result<()> {
        if self.listener.is_some() {
            return Ok(());
        }
        self.bind(reactor)?;
        self.estate.serves();
        Ok(())
    }

    fn bind<R: Reactor>(&mut self, reactor: &mut R) -> io::Result<()> {
        let beside = beside(&self.path);
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = reactor.listen(&Endpoint::Unix(beside.clone()), 16)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        let made = std::fs::metadata(&beside)?;
        std::fs::rename(&beside, &self.path)?;
        self.user = made.uid();
        if let Some((old, _)) = self.listener.replace((listener, made.ino())) {
            reactor.close(old);
        }
        Ok(())
    }

    /// Is the path still that of our listener?
    fn has_path(&self) -> bool {
        let there = std::fs::symlink_metadata(&self.path).map(|there| there.ino());
        self.listener
            .zip(there.ok())
            .is_some_and(|((_, ours), there)| ours == there)
    }

    /// Takes a supervisor in, if that is one.
    pub fn accept<R: Reactor>(
        &mut self,
        listener: SocketId,
        socket: SocketId,
        reactor: &mut R,
    ) -> bool {
        let leads = self.listener.is_some_and(|(ours, _)| ours == listener);
        if !leads && self.side.listener != Some(listener) {
            return false;
        }
        let user = reactor.peer_user(socket);
        if !user.is_some_and(|user| user == self.user || user == 0) {
            let now = reactor.now();
            if self.refused_at.is_none_or(|at| now >= at + REFUSALS_NS) {
                self.refused_at = Some(now);
                log("handoff: a process of another user was turned away");
            }
            reactor.close(socket);
            return true;
        }
        reactor.start_receiving(socket);
        if !leads {
            if self.side.guests.len() >= GUESTS_MAX {
                reactor.close(self.side.guests.remove(0).0);
            }
            self.side.guests.push((socket, Vec::new()));
            return true;
        }
        self.lines.insert(number(socket), (socket, Line::default()));
        self.tell(Event::Opened(number(socket)), reactor.now(), 0);
        true
    }

    /// Hears a supervisor or the next process; false if the socket is none's.
    pub fn on_data(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        if self.side.on_data(socket, bytes) {
            return true;
        }
        let line = self.lines.get_mut(&number(socket));
        line.map(|(_, line)| line.heard.extend_from_slice(bytes))
            .is_some()
    }

    /// Bytes have gone out; false if the socket is none of a supervisor.
    pub fn on_sent(&mut self, socket: SocketId) -> bool {
        let line = self.lines.get_mut(&number(socket));
        line.map(|(_, line)| line.is_sending = false).is_some()
    }

    /// A supervisor is gone; false if the socket is none's.
    pub fn on_end<R: Reactor>(&mut self, socket: SocketId, reactor: &mut R) -> bool {
        if self.side.on_end(socket) {
            reactor.close(socket);
            return true;
        }
        let Some((_, line)) = self.lines.remove(&number(socket)) else {
            return false;
        };
        // Its last word may have come with the end.
        let now = reactor.now();
        self.tell(Event::Bytes(number(socket), &line.heard), now, 0);
        self.tell(Event::Gone(number(socket)), now, 0);
        reactor.close(socket);
        true
    }

    /// A core has answered.
    pub fn on_calm(&mut self, from: CoreId, round: u64, calm: bool, work: u64) {
        if round == self.round
            && let Some(answer) = self.answers.get_mut(from)
        {
            *answer = Some((calm, work));
        }
    }

    /// The timer is due.
    pub fn on_timer(&mut self, state: &State, now: Nanos) {
        self.timer = None;
        self.tell(Event::Tick, now, state.now);
    }

    fn tell(&mut self, event: Event<'_>, now: Nanos, wall: Ms) {
        self.machine
            .step(now / NANOS_PER_MS, wall, event, &mut self.effects);
    }

    /// Does what is to be done; true if there was anything.
    pub fn step<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        if self.lines.is_empty() && self.effects.is_empty() && self.machine.is_idle() {
            return false;
        }
        let now = reactor.now();
        let heard = self.lines.iter_mut().map(|(session, (_, line))| {
            let heard = std::mem::take(&mut line.heard);
            (*session, heard)
        });
        let heard: Vec<_> = heard.filter(|(_, heard)| !heard.is_empty()).collect();
        for (session, bytes) in heard {
            self.tell(Event::Bytes(session, &bytes), now, state.now);
        }
        if self.leave_at.is_some_and(|at| at <= now) {
            if now < self.end_at && !state.shared.handover.passage.is_over() {
                self.leave_at = Some(now + ROUND_NS);
            } else {
                log("handoff: another process serves");
                std::process::exit(0);
            }
        }
        self.side.greet(reactor);
        if !self.answers.is_empty() && self.answers.iter().all(Option::is_some) {
            self.judge(state, now);
        }
        if matches!(self.asking, Asking::Seal(_)) && self.machine.has_given_up() {
            self.end_asking();
            self.tell(Event::SealFailed(String::new()), now, state.now);
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_at = None;
            match self.asking {
                Asking::Mend => self.drain(now, state),
                _ => self.ask(state),
            }
        }
        let mut worked = false;
        while !self.effects.is_empty() {
            worked = true;
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out(effect, now, state, reactor);
            }
        }
        let takes_nothing = |(session, (_, line)): (&u64, &(SocketId, Line))| {
            (line.out.len() > OUT_MAX).then_some(*session)
        };
        let deaf: Vec<u64> = self.lines.iter().filter_map(takes_nothing).collect();
        for session in deaf {
            self.effects.push(Effect::Close(session));
            self.tell(Event::Gone(session), now, state.now);
        }
        for (socket, line) in self.lines.values_mut() {
            if !line.is_sending && !line.out.is_empty() {
                let out = Outgoing::Block(std::mem::take(&mut line.out));
                line.is_sending = reactor.send(*socket, out).is_ok();
            }
        }
        let machine = self.machine.wakes_at().map(|at| at * NANOS_PER_MS);
        let wakes_at = [machine, self.ask_at, self.leave_at]
            .into_iter()
            .flatten()
            .min();
        if let Some(at) = wakes_at
            && self.timer.is_none_or(|timer| timer > at)
        {
            reactor.set_timer(at, MARK);
            self.timer = Some(at);
        }
        worked
    }

    fn carry_out<R: Reactor>(
        &mut self,
        effect: Effect,
        now: Nanos,
        state: &mut State,
        reactor: &mut R,
    ) {
        let handover = &state.shared.handover;
        match effect {
            Effect::Send(session, message) => {
                if let Some((_, line)) = self.lines.get_mut(&session) {
                    message.encode(&mut line.out);
                }
            }
            Effect::Close(session) => {
                if let Some((socket, _)) = self.lines.remove(&session) {
                    reactor.close(socket);
                }
            }
            Effect::Drain => {
                log("handoff: prepares");
                handover.begun.fetch_add(1, SeqCst);
                self.drain(now, state);
            }
            Effect::Seal(id) => {
                handover.set(Stage::Sealing);
                if let Err(error) = self.side.open(&self.path, id, reactor) {
                    log(&format!("handoff: clients cannot be passed on: {error}"));
                }
                self.begin(Asking::Seal(id), state);
            }
            Effect::Lend(session) => {
                if let Err(error) = self.lend(session, reactor) {
                    log(&format!("handoff: cannot give the listeners: {error}"));
                    self.effects.push(Effect::Close(session));
                    self.tell(Event::Gone(session), now, state.now);
                }
            }
            Effect::TakeBack => {
                let event = match self.estate.take_back() {
                    Back::Ours => Event::Back,
                    Back::Changed => {
                        log("handoff: another process has had the data: begins anew");
                        return self.estate.begin_anew();
                    }
                    Back::Held if self.has_path() => Event::Held,
                    Back::Held => Event::Replaced,
                };
                self.tell(event, now, state.now);
            }
            Effect::Resume(reason) => {
                log(&format!("handoff: serves again: {reason}"));
                *lock(&handover.last) = Some(reason);
                handover.resumed.fetch_add(1, SeqCst);
                handover.set(Stage::Serving);
                self.end_asking();
                self.side.close(&self.path, reactor);
                tell_cores(state);
                // A successor that came to nothing may have put its own there.
                if !self.has_path()
                    && let Err(error) = self.bind(reactor)
                {
                    log(&format!(
                        "handoff: cannot listen on {}: {error}",
                        self.path.display()
                    ));
                }
            }
            Effect::Exit => {
                self.leave_at = Some(now + LEAVE_NS);
                self.end_at = now + PART_NS;
                match self.side.next.take() {
                    // Cores hear of it once there is somebody to whom clients can go.
                    Some(next) => reactor.hand_out(next),
                    None => self.part(state),
                }
                self.side.close(&self.path, reactor);
            }
        }
    }

    /// Gives a supervisor the listeners. What it is sent is little and it has answered all that was sent
    /// before, so that this does not wait.
    fn lend<R: Reactor>(&self, session: u64, reactor: &R) -> io::Result<()> {
        let Some((socket, line)) = self.lines.get(&session) else {
            return Ok(());
        };
        if line.is_sending || !line.out.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (names, descriptors) = self.estate.listeners();
        let mut bytes = Vec::new();
        wire::Message::Listeners(names.to_vec()).encode(&mut bytes);
        let stream = UnixStream::from(reactor.duplicate(*socket)?);
        match pass::send_descriptors(&stream, &bytes, descriptors)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// The line to the next process is here as a descriptor.
    pub fn on_handed_out(&mut self, line: OwnedFd, state: &mut State) {
        Passage::open(&state.shared, UnixStream::from(line));
        self.part(state);
    }

    /// It is over: cores let clients go.
    fn part(&self, state: &mut State) {
        state.shared.handover.set(Stage::Over);
        tell_cores(state);
    }

    /// Brings the node to an end, as soon as that is possible.
    fn drain(&mut self, now: Nanos, state: &mut State) {
        if can_be_sealed(state) {
            state.shared.handover.set(Stage::Draining);
            self.begin(Asking::Drain, state);
        } else if can_be_sealed_soon(state) {
            // All are served meanwhile. If it takes too long, the supervisor gives up.
            (self.asking, self.ask_at) = (Asking::Mend, Some(now + ROUND_NS));
        } else {
            self.end_asking();
            self.tell(Event::CannotDrain, now, state.now);
        }
    }

    fn begin(&mut self, asking: Asking, state: &mut State) {
        self.asking = asking;
        self.calm = None;
        lock(&state.shared.handover.ends).clear();
        self.ask(state);
    }

    fn end_asking(&mut self) {
        self.asking = Asking::No;
        self.answers.clear();
        self.ask_at = None;
    }

    /// Asks all cores whether they have come to an end.
    fn ask(&mut self, state: &mut State) {
        self.round += 1;
        self.answers = vec![None; state.mesh.cores()];
        state.asked = Some((state.me, self.round));
        state.tell_all(|| Message::Hush(self.round));
    }

    /// All cores have answered. A core that had come to an end may have been given something by another one
    /// since: the drain is over when two rounds find the same.
    fn judge(&mut self, state: &mut State, now: Nanos) {
        let answers = std::mem::take(&mut self.answers);
        let all = answers.iter().flatten().all(|(calm, _)| *calm);
        let same = self.calm.as_ref() == Some(&answers);
        self.calm = all.then_some(answers);
        match self.asking {
            Asking::Drain if all && same => {
                self.end_asking();
                let conns = state.shared.clients().try_into().unwrap_or(u32::MAX);
                self.tell(Event::Drained(conns), now, state.now);
            }
            Asking::Seal(_) if !can_be_sealed(state) => {
                self.end_asking();
                let error = "the journal cannot be written".into();
                self.tell(Event::SealFailed(error), now, state.now);
            }
            Asking::Seal(id) if all => {
                self.end_asking();
                self.seal(id, state, now);
            }
            Asking::No | Asking::Mend => {}
            Asking::Drain | Asking::Seal(_) => self.ask_at = Some(now + ROUND_NS),
        }
    }

    fn seal(&mut self, id: Id, state: &mut State, now: Nanos) {
        let handover = &state.shared.handover;
        handover.set(Stage::Sealed);
        let ends: Vec<Position> = lock(&handover.ends).values().copied().collect();
        let revisions = ends.iter().map(|end| end.offset).collect();
        match self.estate.let_go(id, ends, handover.leads.load(SeqCst)) {
            Ok(fingerprint) => {
                log("handoff: sealed");
                self.tell(Event::Sealed(revisions, fingerprint), now, state.now);
            }
            Err(error) => self.tell(Event::SealFailed(error.to_string()), now, state.now),
        }
    }
}

/// Where the next process finds the way for clients.
#[derive(Debug, Default)]
struct Side {
    listener: Option<SocketId>,
    /// Names the handoff.
    id: Id,
    /// Who is connected and has not said who it is, and what it has said.
    guests: Vec<(SocketId, Vec<u8>)>,
    /// The next process.
    next: Option<SocketId>,
}

impl Side {
    fn open<R: Reactor>(&mut self, path: &Path, id: Id, reactor: &mut R) -> io::Result<()> {
        self.close(path, reactor);
        let path = for_clients(path);
        self.listener = Some(reactor.listen(&Endpoint::Unix(path.clone()), 4)?);
        self.id = id;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
    }

    fn on_data(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        let guest = self.guests.iter_mut().find(|(guest, _)| *guest == socket);
        if let Some((_, said)) = guest {
            // More than a greeting is none.
            let room = GREETING_LEN + 1 - said.len().min(GREETING_LEN + 1);
            said.extend_from_slice(&bytes[..bytes.len().min(room)]);
            return true;
        }
        self.next == Some(socket)
    }

    fn on_end(&mut self, socket: SocketId) -> bool {
        let before = self.guests.len();
        self.guests.retain(|(guest, _)| *guest != socket);
        self.next.take_if(|next| *next == socket).is_some() || self.guests.len() < before
    }

    /// Finds the next process among those that have said something.
    fn greet<R: Reactor>(&mut self, reactor: &mut R) {
        let (next, id) = (&mut self.next, self.id);
        self.guests.retain(|(guest, said)| {
            if said.len() < GREETING_LEN {
                return true;
            }
            if next.is_none() && Greeting::read(said) == Some(Greeting(id)) {
                *next = Some(*guest);
            } else {
                reactor.close(*guest);
            }
            false
        });
    }

    fn close<R: Reactor>(&mut self, path: &Path, reactor: &mut R) {
        if let Some(listener) = self.listener.take() {
            reactor.close(listener);
            // Where it is gone already, all is well.
            let _ = std::fs::remove_file(for_clients(path));
        }
        let guests = std::mem::take(&mut self.guests);
        let guests = guests.into_iter().map(|(guest, _)| guest);
        for socket in guests.chain(self.next.take()) {
            reactor.close(socket);
        }
    }
}

impl State {
    /// Has this core come to an end with all that its clients and the other cores asked for?
    pub(super) fn has_drained(&self) -> bool {
        // Of those that wait for a key, a time or for replicas nothing is under way.
        let is_over = |hold: &Hold, is_waiting: bool| match hold {
            Hold::Blocked(_) => true,
            Hold::Free | Hold::Paused | Hold::Behind | Hold::SlowReader => !is_waiting,
            Hold::Loan { .. } | Hold::Gather | Hold::Away | Hold::Mail | Hold::Turn => false,
        };
        self.loans.is_idle()
            && !self.gate.has_asked_majority()
            && self.clients.woken.is_empty()
            && !self.mesh.has_unsent()
            && !self.has_digest_work()
            && self.homes.own().all(|shard| self.homes.shards.has(shard))
            && self
                .conns()
                .all(|conn| is_over(&conn.hold, conn.is_waiting()))
    }
}

/// What cannot be written down now cannot be sealed. A new beginning of a journal, and a failover, need the
/// node.
fn can_be_sealed(state: &State) -> bool {
    let durable = &state.shared.durable;
    can_be_sealed_soon(state) && durable.is_kept() && !durable.is_mending()
}

/// Only a new beginning of the journals is missing, as behind the copy of a primary.
fn can_be_sealed_soon(state: &State) -> bool {
    let (durable, failovers) = (&state.shared.durable, &state.shared.failovers);
    !durable.broken.load(SeqCst) && !lock(&failovers.desk).is_under_way()
}

/// Rouses the other cores, which then see how far it is.
pub(super) fn tell_cores(state: &mut State) {
    state.tell_all(|| Message::Frontier);
}

/// The name under which the socket is made.
fn beside(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

/// Where a sealed node with this path for supervisors waits for the process that is to have its clients.
pub fn for_clients(path: &Path) -> PathBuf {
    with_suffix(path, ".pass")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The number of a session. No later one has it.
fn number(socket: SocketId) -> u64 {
    u64::from(socket.generation) << 32 | u64::from(socket.index)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{handoff::passing::Client, shard::Arrival};

    fn arrival() -> Arrival {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("it has one");
        Arrival {
            fd: TcpStream::connect(at).expect("it listens").into(),
            peer: None,
            local: None,
            client: Client::default(),
        }
    }

    #[test]
    fn nobody_is_served_before_all_that_came_are_taken_in() {
        let handover = Handover::default();
        assert_eq!(handover.stage(), Stage::Serving);
        handover.wait();
        for core in [0, 1, 1] {
            handover.passage.deliver(core, arrival());
        }
        assert_eq!(handover.passage.arrivals(1).len(), 2);
        assert!(!handover.settle(2));
        assert!(!handover.go(), "one is still on its way to core 0");
        assert_eq!(handover.stage(), Stage::Arriving);
        assert_eq!(handover.passage.arrivals(0).len(), 1);
        assert!(handover.settle(1));
        assert_eq!(handover.stage(), Stage::Serving);
        // Who comes later changes nothing.
        handover.passage.deliver(0, arrival());
        assert_eq!(handover.passage.arrivals(0).len(), 1);
        assert!(!handover.settle(1));
        assert!(handover.passage.arrivals(0).is_empty());
    }

    #[test]
    fn a_handoff_that_began_meanwhile_is_not_undone() {
        let handover = Handover::default();
        handover.wait();
        handover.set(Stage::Draining);
        assert!(!handover.go());
        assert_eq!(handover.stage(), Stage::Draining);
    }

    #[test]
    fn the_next_process_is_who_names_the_handoff() {
        let socket = |index| SocketId {
            index,
            generation: 0,
        };
        let id = Id([7; 16]);
        let mut side = Side {
            id,
            guests: vec![(socket(1), Vec::new()), (socket(2), Vec::new())],
            ..Side::default()
        };
        let mut reactor = uring::fake::FakeWorld::seeded(1).reactor(uring::fake::Machine(1));
        let (wrong, right) = (Greeting(Id([8; 16])).compose(), Greeting(id).compose());
        assert!(side.on_data(socket(1), &wrong));
        assert!(side.on_data(socket(2), &right[..9]));
        side.greet(&mut reactor);
        assert_eq!((side.next, side.guests.len()), (None, 1));
        assert!(side.on_data(socket(2), &right[9..]));
        side.greet(&mut reactor);
        assert_eq!((side.next, side.guests.len()), (Some(socket(2)), 0));
        // It says nothing more that counts, and is missed when it is gone.
        assert!(side.on_data(socket(2), b"more"));
        assert!(!side.on_data(socket(3), b"more"));
        assert!(side.on_end(socket(2)));
        assert_eq!(side.next, None);
    }
}
