//! The in-memory twin: any number of reactors in one world with virtual time, a network that can be
//! cut, disks that forget what was not synced, and faults drawn from a seed.
//!
//! One seed and one order of calls give one history: everything is ordered by `(instant, sequence)`,
//! maps are ordered, and there is one random sequence per world.
//!
//! Time moves in turns only. A turn that may wait lets time pass to the next thing that happens
//! anywhere, but never past something that another reactor has to look at first: then it returns
//! empty. So a loop that gives every reactor a turn in any fixed order runs them all fairly. Reactors
//! that are not given turns any more must be dropped or [suspended](FakeWorld::suspend).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod disk;

pub use disk::DiskFaults;

use bytes::Bytes;

use crate::arena::{Arena, Chunk};
use crate::reactor::{
    End, Endpoint, Event, FileId, Lease, Nanos, OpenHow, Outgoing, Reactor, SocketId, TimerId,
    Usage, Wait, Wake,
};
use crate::slots::{Slots, Token};
use crate::timers::Timers;
use disk::{Disk, FileNumber};

/// A computer of the world: an address and a disk. Reactors of one machine share both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Machine(pub u8);

impl Machine {
    /// The machine's own address, as other machines see it. Loopback works too, within the machine.
    pub fn ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.0))
    }
}

/// What may go wrong, and how long things take. [`Default`] is a fair network that still reads and
/// writes in odd pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faults {
    /// Shortest and longest way of bytes between sockets.
    pub network_span: (Nanos, Nanos),
    /// Shortest and longest time of an operation on files.
    pub disk_span: (Nanos, Nanos),
    /// How many of a million operations on files take longer.
    pub disk_stalls_per_million: u32,
    /// Shortest and longest time by which they do.
    pub disk_stall_span: (Nanos, Nanos),
    /// How many of a hundred reads and writes on sockets are shorter than they could be.
    pub short_percent: u8,
    /// How many of a hundred receives find no buffer at first.
    pub starved_percent: u8,
    /// How many of a hundred accepts fail with EMFILE at first.
    pub accept_fails_percent: u8,
    /// How many of a million deliveries reset their connection instead.
    pub reset_per_million: u32,
    /// How many of a million file writes fail with EIO.
    pub write_fails_per_million: u32,
    /// How many of a million file writes fail with ENOSPC.
    pub disk_full_per_million: u32,
    /// How many of a million syncs fail with EIO, those of durable writes included.
    pub sync_fails_per_million: u32,
    /// How many of a million renames and removals fail with EIO.
    pub name_fails_per_million: u32,
    /// Bytes that a connection holds per direction before its sender must wait.
    pub pipe_len: usize,
    /// How many of a hundred sends in place between machines are copied on the way.
    pub copied_percent: u8,
    /// How many of a hundred of them are refused, and are plain sends.
    pub refused_percent: u8,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            network_span: (10_000, 100_000),
            disk_span: (50_000, 500_000),
            disk_stalls_per_million: 0,
            disk_stall_span: (10_000_000, 2_000_000_000),
            short_percent: 20,
            starved_percent: 1,
            accept_fails_percent: 0,
            reset_per_million: 0,
            write_fails_per_million: 0,
            disk_full_per_million: 0,
            sync_fails_per_million: 0,
            name_fails_per_million: 0,
            pipe_len: 256 * 1024,
            copied_percent: 10,
            refused_percent: 1,
        }
    }
}

/// Receive buffers of a twin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FakeBuffers {
    /// How many leases may be out at once.
    pub count: u32,
    /// Bytes per buffer.
    pub len: u32,
}

impl Default for FakeBuffers {
    fn default() -> Self {
        FakeBuffers {
            count: 256,
            len: 16 * 1024,
        }
    }
}

/// A world. Clones are handles of the same world.
#[derive(Clone)]
pub struct FakeWorld(Rc<RefCell<World>>);

/// One core's ring in a [`FakeWorld`]. Dropping it is the end of its process: its connections end,
/// its disk stays as it is.
pub struct FakeReactor {
    world: Rc<RefCell<World>>,
    id: ReactorId,
    machine: Machine,
    leases: Vec<Option<Vec<u8>>>,
    free_leases: Vec<u32>,
    arena: Option<Arc<Arena>>,
    wake: FakeWaker,
}

/// Rouses a [`FakeReactor`].
#[derive(Clone, Debug)]
pub struct FakeWaker(Arc<AtomicBool>);

impl Wake for FakeWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

type ReactorId = u32;

/// A socket of the world.
type Address = (ReactorId, Token);

struct World {
    now: Nanos,
    sequence: u64,
    random: Random,
    faults: Faults,
    agenda: BTreeMap<(Nanos, u64), Action>,
    reactors: BTreeMap<ReactorId, Inside>,
    next_reactor: ReactorId,
    next_port: u16,
    tcp_listeners: BTreeMap<(Machine, u16), Vec<Address>>,
    unix_listeners: BTreeMap<(Machine, PathBuf), Address>,
    cuts: BTreeSet<(Machine, Machine)>,
    /// What travels over a cut, in order, until it heals.
    held: Vec<(Machine, Machine, Action)>,
    disks: BTreeMap<Machine, Disk>,
}

/// The one random sequence of a world.
struct Random(u64);

/// What the world keeps of a reactor.
struct Inside {
    machine: Machine,
    sockets: Slots<Socket>,
    files: Slots<OpenFile>,
    inbox: VecDeque<Notice>,
    timers: Timers<u64>,
    wake: FakeWaker,
    buffers: FakeBuffers,
    leased: u32,
    starved: VecDeque<Token>,
    /// Where its last wait wanted to end.
    waits_until: Option<Nanos>,
    is_suspended: bool,
}

struct Socket {
    role: Role,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    peer: Option<Address>,
    peer_machine: Machine,
    wants_data: bool,
    has_ended: bool,
    is_closing: bool,
    has_finished: bool,
    finish_after_send: bool,
    received: VecDeque<u8>,
    end: Option<End>,
    sending: Option<Sending>,
    /// Bytes sent that the other end has not taken yet.
    in_pipe: usize,
    /// No bytes overtake earlier ones.
    last_arrival: Nanos,
    /// Sends fail with this.
    broken: Option<i32>,
}

enum Role {
    TcpListener { port: u16, only_local: bool },
    UnixListener { path: PathBuf },
    Connecting,
    Stream,
}

struct Sending {
    outgoing: Outgoing,
    done: usize,
    total: usize,
    /// The memory is read where it lies until the other end has it.
    is_in_place: bool,
}

struct OpenFile {
    what: Opened,
    in_flight: u32,
    is_closing: bool,
    /// Of a folder: how many failed syncs of it this handle was told of.
    failures: u64,
}

#[derive(Clone)]
enum Opened {
    File(FileNumber),
    Folder(PathBuf),
}

/// Something on its way.
enum Action {
    Connect {
        client: Address,
        to: Endpoint,
    },
    Answer {
        client: Address,
        result: Result<Address, i32>,
        remote: Option<SocketAddr>,
    },
    Deliver {
        from: Address,
        to: Address,
        bytes: Vec<u8>,
    },
    DeliverEnd {
        to: Address,
        end: End,
    },
    Receive {
        socket: Address,
    },
    Send {
        socket: Address,
    },
    Notify {
        reactor: ReactorId,
        notice: Notice,
    },
    Disk(Job),
}

/// Something that a disk does.
struct Job {
    machine: Machine,
    reactor: ReactorId,
    /// `None` for work on names.
    file: Option<FileId>,
    mark: u64,
    work: Work,
}

enum Work {
    Write {
        number: FileNumber,
        offset: u64,
        block: Bytes,
        is_durable: bool,
    },
    Sync {
        what: Opened,
        covers: u64,
    },
    Reserve {
        number: FileNumber,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
}

/// What a reactor will be told in its next turn.
enum Notice {
    Plain(Event),
    Received {
        socket: Token,
        bytes: Vec<u8>,
    },
    Closed {
        socket: Token,
    },
    Released {
        socket: Token,
        /// Held until then.
        _pieces: Vec<Bytes>,
        usage: Usage,
    },
}

impl FakeWorld {
    /// A world in which everything follows from `seed` and from what is asked of it.
    pub fn seeded(seed: u64) -> FakeWorld {
        FakeWorld(Rc::new(RefCell::new(World {
            now: START,
            sequence: 0,
            random: Random(seed),
            faults: Faults::default(),
            agenda: BTreeMap::new(),
            reactors: BTreeMap::new(),
            next_reactor: 0,
            next_port: 40_000,
            tcp_listeners: BTreeMap::new(),
            unix_listeners: BTreeMap::new(),
            cuts: BTreeSet::new(),
            held: Vec::new(),
            disks: BTreeMap::new(),
        })))
    }

    /// A new reactor on a machine, with the usual buffers.
    pub fn reactor(&self, machine: Machine) -> FakeReactor {
        self.reactor_with(machine, FakeBuffers::default())
    }

    /// A new reactor on a machine.
    pub fn reactor_with(&self, machine: Machine, buffers: FakeBuffers) -> FakeReactor {
        let mut world = self.0.borrow_mut();
        let id = world.next_reactor;
        world.next_reactor += 1;
        let wake = FakeWaker(Arc::new(AtomicBool::new(false)));
        let inside = Inside {
            machine,
            sockets: Slots::default(),
            files: Slots::default(),
            inbox: VecDeque::new(),
            timers: Timers::default(),
            wake: wake.clone(),
            buffers: FakeBuffers {
                count: buffers.count.max(1),
                len: buffers.len.max(1),
            },
            leased: 0,
            starved: VecDeque::new(),
            waits_until: None,
            is_suspended: false,
        };
        world.reactors.insert(id, inside);
        FakeReactor {
            world: self.0.clone(),
            id,
            machine,
            leases: Vec::new(),
            free_leases: Vec::new(),
            arena: None,
            wake,
        }
    }

    /// The world's clock.
    pub fn now(&self) -> Nanos {
        self.0.borrow().now
    }

    /// Lets time pass for everybody, with everything that happens meanwhile.
    pub fn advance(&self, span: Nanos) {
        let mut world = self.0.borrow_mut();
        let until = world.now + span;
        while let Some(at) = world
            .agenda
            .keys()
            .next()
            .map(|(at, _)| *at)
            .filter(|at| *at <= until)
        {
            world.now = world.now.max(at);
            world.pump();
        }
        world.now = until;
    }

    /// True if some reactor that is not suspended has something to look at now.
    pub fn has_work(&self) -> bool {
        let mut world = self.0.borrow_mut();
        world.pump();
        world.has_ready_other_than(None)
    }

    /// Moves to the next thing that happens: an arrival, a timer, the end of a wait. False if nothing
    /// ever will.
    pub fn step(&self) -> bool {
        let mut world = self.0.borrow_mut();
        let Some(at) = world.next_at() else {
            return false;
        };
        world.now = world.now.max(at);
        world.pump();
        true
    }

    /// A number below `bound` (at least 1) from the world's sequence, for choices of the test itself.
    pub fn random(&self, bound: u64) -> u64 {
        self.0.borrow_mut().random.below(bound.max(1))
    }

    /// Changes what may go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// What may go wrong now.
    pub fn faults(&self) -> Faults {
        self.0.borrow().faults.clone()
    }

    /// Changes what is wrong with a machine's disk from now on. Stays over a crash.
    pub fn set_disk(&self, machine: Machine, faults: DiskFaults) {
        self.0.borrow_mut().disk(machine).faults = faults;
    }

    /// What is wrong with a machine's disk now.
    pub fn disk(&self, machine: Machine) -> DiskFaults {
        self.0.borrow_mut().disk(machine).faults.clone()
    }

    /// Lets the next `count` syncs on a machine fail.
    pub fn fail_syncs(&self, machine: Machine, count: u32) {
        self.0.borrow_mut().disk(machine).faults.failing_syncs = count;
    }

    /// Holds back everything that travels from one machine to another, until it heals. Nothing is
    /// lost: the network below would send it again.
    pub fn cut_one_way(&self, from: Machine, to: Machine) {
        if from != to {
            self.0.borrow_mut().cuts.insert((from, to));
        }
    }

    /// Both ways.
    pub fn cut(&self, a: Machine, b: Machine) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Lets everything travel again from one machine to another.
    pub fn heal_one_way(&self, from: Machine, to: Machine) {
        let mut world = self.0.borrow_mut();
        world.cuts.remove(&(from, to));
        let (freed, held) = std::mem::take(&mut world.held)
            .into_iter()
            .partition::<Vec<_>, _>(|(a, b, _)| (*a, *b) == (from, to));
        world.held = held;
        for (_, _, action) in freed {
            let now = world.now;
            world.schedule(now, action);
        }
    }

    /// Ends all cuts.
    pub fn heal(&self) {
        let cuts: Vec<_> = self.0.borrow().cuts.iter().copied().collect();
        for (from, to) in cuts {
            self.heal_one_way(from, to);
        }
    }

    /// Resets every connection between two machines.
    pub fn reset_between(&self, a: Machine, b: Machine) {
        let mut world = self.0.borrow_mut();
        let mut found = Vec::new();
        for (id, inside) in &world.reactors {
            for (token, socket) in inside.sockets.iter() {
                let ends = (inside.machine, socket.peer_machine);
                if socket.peer.is_some() && (ends == (a, b) || ends == (b, a)) {
                    found.push((*id, token));
                }
            }
        }
        for address in found {
            world.break_off(address, libc::ECONNRESET);
        }
    }

    /// Stops a reactor as SIGSTOP does, or lets it go on. A suspended reactor holds up nobody's time.
    pub fn suspend(&self, reactor: &FakeReactor, is_suspended: bool) {
        if let Some(inside) = self.0.borrow_mut().reactors.get_mut(&reactor.id) {
            inside.is_suspended = is_suspended;
        }
    }

    /// Takes the power from a machine: its reactors are gone without a word to their peers, and each
    /// write and each change of a name that no sync covered is kept, torn or lost, what was in flight
    /// included. The handles that are left do nothing.
    pub fn crash(&self, machine: Machine) {
        let mut world = self.0.borrow_mut();
        let gone: Vec<ReactorId> = world
            .reactors
            .iter()
            .filter(|(_, inside)| inside.machine == machine)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            world.reactors.remove(&id);
        }
        world.forget_listeners();
        // Only what had left the machine is still on its way.
        world.held.retain(|(from, _, _)| *from != machine);
        world.crash_disk(machine);
    }

    /// What a reader of the file sees now.
    pub fn read_file(&self, machine: Machine, path: &Path) -> Option<Vec<u8>> {
        let world = self.0.borrow();
        Some(world.disks.get(&machine)?.read(path)?.to_vec())
    }

    /// Puts a file there, durably.
    pub fn write_file(&self, machine: Machine, path: &Path, bytes: &[u8]) {
        self.0.borrow_mut().disk(machine).put(path, bytes);
    }

    /// Removes a file, durably. False if there is no such file.
    pub fn remove_file(&self, machine: Machine, path: &Path) -> bool {
        self.0.borrow_mut().disk(machine).take(path)
    }

    /// Every file of a machine, in order.
    pub fn files(&self, machine: Machine) -> Vec<PathBuf> {
        let world = self.0.borrow();
        let disk = world.disks.get(&machine);
        disk.map(|disk| disk.names().cloned().collect())
            .unwrap_or_default()
    }
}

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64: short, and any seed will do.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

impl World {
    // ---- Chance and time.

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn happens(&mut self, count: u32, of: u32) -> bool {
        count > 0 && self.below(u64::from(of)) < u64::from(count)
    }

    fn within(&mut self, (shortest, longest): (Nanos, Nanos)) -> Nanos {
        shortest + self.below(longest.saturating_sub(shortest) + 1)
    }

    fn schedule(&mut self, at: Nanos, action: Action) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), action);
    }

    fn soon(&mut self, action: Action) {
        let at = self.now + self.below(REACTION);
        self.schedule(at, action);
    }

    fn notify(&mut self, reactor: ReactorId, notice: Notice) {
        if let Some(inside) = self.reactors.get_mut(&reactor) {
            inside.inbox.push_back(notice);
        }
    }

    fn next_at(&mut self) -> Option<Nanos> {
        let mut earliest = self.agenda.keys().next().map(|(at, _)| *at);
        for inside in self
            .reactors
            .values_mut()
            .filter(|inside| !inside.is_suspended)
        {
            for at in [inside.timers.next_at(), inside.waits_until]
                .into_iter()
                .flatten()
            {
                earliest = Some(earliest.map_or(at, |other| other.min(at)));
            }
        }
        earliest
    }

    fn is_ready(&mut self, reactor: ReactorId) -> bool {
        let now = self.now;
        self.reactors.get_mut(&reactor).is_some_and(|inside| {
            !inside.inbox.is_empty()
                || inside.wake.0.load(Ordering::Acquire)
                || inside.timers.next_at().is_some_and(|at| at <= now)
        })
    }

    fn has_ready_other_than(&mut self, reactor: Option<ReactorId>) -> bool {
        let now = self.now;
        let others: Vec<ReactorId> = self
            .reactors
            .iter()
            .filter(|(id, inside)| Some(**id) != reactor && !inside.is_suspended)
            .map(|(id, _)| *id)
            .collect();
        others.into_iter().any(|id| {
            let has_waited = self.reactors[&id].waits_until.is_some_and(|at| at <= now);
            has_waited || self.is_ready(id)
        })
    }

    /// Lets happen what is due.
    fn pump(&mut self) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let action = entry.remove();
            self.happen(action);
        }
    }

    fn happen(&mut self, action: Action) {
        if let Some((from, to)) = self.way(&action)
            && self.cuts.contains(&(from, to))
        {
            self.held.push((from, to, action));
            return;
        }
        match action {
            Action::Connect { client, to } => self.on_connect(client, to),
            Action::Answer {
                client,
                result,
                remote,
            } => self.on_answer(client, result, remote),
            Action::Deliver { from, to, bytes } => self.on_deliver(from, to, bytes),
            Action::DeliverEnd { to, end } => self.on_deliver_end(to, end),
            Action::Receive { socket } => self.on_receive(socket),
            Action::Send { socket } => self.on_send(socket),
            Action::Notify { reactor, notice } => self.notify(reactor, notice),
            Action::Disk(job) => self.on_disk(job),
        }
    }

    /// From which machine to which an action travels, if it travels.
    fn way(&self, action: &Action) -> Option<(Machine, Machine)> {
        let machine =
            |address: &Address| self.reactors.get(&address.0).map(|inside| inside.machine);
        match action {
            Action::Connect {
                client,
                to: Endpoint::Tcp(to),
            } => {
                let from = machine(client)?;
                Some((from, machine_of(to, from)?))
            }
            Action::Deliver { to, .. } | Action::DeliverEnd { to, .. } => {
                Some((self.socket(*to)?.peer_machine, machine(to)?))
            }
            Action::Answer { client, .. } => {
                Some((self.socket(*client)?.peer_machine, machine(client)?))
            }
            _ => None,
        }
    }

    fn socket(&self, (reactor, token): Address) -> Option<&Socket> {
        self.reactors.get(&reactor)?.sockets.get(token)
    }

    fn socket_mut(&mut self, (reactor, token): Address) -> Option<&mut Socket> {
        self.reactors.get_mut(&reactor)?.sockets.get_mut(token)
    }

    // ---- Connecting.

    fn on_connect(&mut self, client: Address, to: Endpoint) {
        let Some(machine) = self.reactors.get(&client.0).map(|inside| inside.machine) else {
            return;
        };
        let (listener, peer_machine) = match &to {
            Endpoint::Tcp(to) => {
                let Some(there) = machine_of(to, machine) else {
                    self.answer(client, Err(libc::EHOSTUNREACH), None);
                    return;
                };
                (self.tcp_listener(there, to.port(), there == machine), there)
            }
            Endpoint::Unix(path) => (
                self.unix_listeners.get(&(machine, path.clone())).copied(),
                machine,
            ),
        };
        let Some(listener) = listener else {
            self.answer(client, Err(libc::ECONNREFUSED), None);
            return;
        };
        let id: SocketId = listener.1.into();
        let accept_fails = u32::from(self.faults.accept_fails_percent);
        if self.happens(accept_fails, 100) {
            let event = Event::AcceptFailed {
                listener: id,
                errno: libc::EMFILE,
            };
            self.notify(listener.0, Notice::Plain(event));
            self.schedule(self.now + ACCEPT_PAUSE, Action::Connect { client, to });
            return;
        }
        if self.socket(client).is_none_or(|socket| socket.is_closing) {
            return;
        }
        let remote = self.socket(client).and_then(|socket| socket.local);
        let local = match to {
            Endpoint::Tcp(at) => Some(at),
            Endpoint::Unix(_) => None,
        };
        let mut server = Socket::new(Role::Stream, machine);
        (server.local, server.remote, server.peer) = (local, remote, Some(client));
        let Some(inside) = self.reactors.get_mut(&listener.0) else {
            return;
        };
        let token = inside.sockets.insert(server);
        let event = Event::Accepted {
            listener: id,
            socket: token.into(),
            peer: remote,
        };
        inside.inbox.push_back(Notice::Plain(event));
        if let Some(client) = self.socket_mut(client) {
            client.peer_machine = peer_machine;
        }
        self.answer(client, Ok((listener.0, token)), local);
    }

    fn answer(
        &mut self,
        client: Address,
        result: Result<Address, i32>,
        remote: Option<SocketAddr>,
    ) {
        let at = self.now + self.within(self.faults.network_span);
        // What the new peer sends comes after the answer.
        if let Ok(server) = result
            && let Some(server) = self.socket_mut(server)
        {
            server.last_arrival = at;
        }
        self.schedule(
            at,
            Action::Answer {
                client,
                result,
                remote,
            },
        );
    }

    fn on_answer(
        &mut self,
        client: Address,
        result: Result<Address, i32>,
        remote: Option<SocketAddr>,
    ) {
        let Some(socket) = self.socket_mut(client).filter(|socket| !socket.is_closing) else {
            if let Ok(server) = result {
                self.break_off(server, libc::ECONNRESET);
            }
            return;
        };
        socket.remote = remote;
        let event_result = match result {
            Ok(server) => {
                socket.role = Role::Stream;
                socket.peer = Some(server);
                Ok(())
            }
            Err(errno) => {
                socket.has_ended = true;
                Err(errno)
            }
        };
        let event = Event::Connected {
            socket: client.1.into(),
            result: event_result,
        };
        self.notify(client.0, Notice::Plain(event));
        if let Ok(server) = result {
            if self.socket(server).is_none_or(|server| server.is_closing) {
                // Closed before we knew: its end is on its way, or its machine is gone.
                if !self.reactors.contains_key(&server.0) {
                    self.break_off(client, libc::ECONNRESET);
                }
            }
            self.soon(Action::Receive { socket: client });
        }
    }

    fn tcp_listener(&mut self, machine: Machine, port: u16, is_local: bool) -> Option<Address> {
        let all = self.tcp_listeners.get(&(machine, port))?.clone();
        let open: Vec<Address> = all
            .into_iter()
            .filter(|address| {
                let listener = self.socket(*address).filter(|socket| !socket.is_closing);
                listener.is_some_and(|socket| {
                    is_local
                        || !matches!(
                            socket.role,
                            Role::TcpListener {
                                only_local: true,
                                ..
                            }
                        )
                })
            })
            .collect();
        if open.is_empty() {
            return None;
        }
        // As the kernel spreads connections over listeners of one port.
        let chosen = self.below(open.len() as u64) as usize;
        Some(open[chosen])
    }

    fn forget_listeners(&mut self) {
        let reactors = &self.reactors;
        let is_there = |(reactor, token): &Address| {
            let inside = reactors.get(reactor);
            inside
                .and_then(|inside| inside.sockets.get(*token))
                .is_some_and(|socket| !socket.is_closing)
        };
        self.tcp_listeners.retain(|_, listeners| {
            listeners.retain(is_there);
            !listeners.is_empty()
        });
        self.unix_listeners.retain(|_, listener| is_there(listener));
    }

    // ---- Bytes.

    fn on_send(&mut self, address: Address) {
        let pipe_len = self.faults.pipe_len;
        let short = u32::from(self.faults.short_percent);
        let is_short = self.happens(short, 100);
        let random = self.below(u64::MAX);
        let span = self.within(self.faults.network_span);
        let now = self.now;
        let Some(socket) = self.socket_mut(address).filter(|socket| !socket.is_closing) else {
            return;
        };
        let broken = socket.broken;
        let peer = socket.peer;
        let Some(sending) = &mut socket.sending else {
            return;
        };
        let failure = if socket.has_finished {
            Some(libc::EPIPE)
        } else {
            broken
        };
        let (Some(peer), None) = (peer, failure) else {
            self.end_send(address, Err(failure.unwrap_or(libc::EPIPE)));
            return;
        };
        let room = pipe_len.saturating_sub(socket.in_pipe);
        if room == 0 {
            return; // The other end's next read brings us back.
        }
        let mut len = room.min(sending.total - sending.done);
        if is_short {
            len = 1 + (random % len as u64) as usize;
        }
        let bytes = sending.slice(len);
        sending.done += len;
        socket.in_pipe += len;
        socket.last_arrival = socket.last_arrival.max(now + span);
        let is_over = sending.done == sending.total;
        let arrival = socket.last_arrival;
        self.schedule(
            arrival,
            Action::Deliver {
                from: address,
                to: peer,
                bytes,
            },
        );
        if is_over {
            self.end_send(address, Ok(()));
        } else {
            self.soon(Action::Send { socket: address });
        }
    }

    fn end_send(&mut self, address: Address, result: Result<(), i32>) {
        let Some(socket) = self.socket_mut(address) else {
            return;
        };
        let Some(sending) = socket.sending.take() else {
            return;
        };
        let finish = std::mem::take(&mut socket.finish_after_send);
        let outgoing = sending.outgoing;
        let pieces = match &outgoing {
            Outgoing::Gather(pieces) if sending.is_in_place => Some(pieces.clone()),
            _ => None,
        };
        let event = Event::Sent {
            socket: address.1.into(),
            outgoing,
            result,
        };
        self.notify(address.0, Notice::Plain(event));
        if let Some(pieces) = pieces {
            self.release_later(address, pieces);
        }
        if finish {
            self.send_end(address, End::Eof);
        }
    }

    /// What was sent in place is let go of once the other machine has told that it has it.
    fn release_later(&mut self, address: Address, pieces: Vec<Bytes>) {
        let peer = self.socket(address).map(|socket| socket.peer_machine);
        let machine = self.reactors.get(&address.0).map(|inside| inside.machine);
        let Faults {
            copied_percent,
            refused_percent,
            network_span,
            ..
        } = self.faults;
        let usage = if self.happens(u32::from(refused_percent), 100) {
            Usage::Refused
        } else if peer == machine || self.happens(u32::from(copied_percent), 100) {
            Usage::Copied
        } else {
            Usage::InPlace
        };
        let at = self.now + 2 * self.within(network_span);
        let notice = Notice::Released {
            socket: address.1,
            _pieces: pieces,
            usage,
        };
        let reactor = address.0;
        self.schedule(at, Action::Notify { reactor, notice });
    }

    /// Puts an end behind everything that was sent.
    fn send_end(&mut self, address: Address, end: End) {
        let at = self.now + self.within(self.faults.network_span);
        let Some(socket) = self.socket_mut(address) else {
            return;
        };
        if socket.has_finished && end == End::Eof {
            return;
        }
        socket.has_finished = true;
        socket.last_arrival = socket.last_arrival.max(at);
        let (at, peer) = (socket.last_arrival, socket.peer);
        if let Some(to) = peer {
            self.schedule(at, Action::DeliverEnd { to, end });
        }
    }

    fn on_deliver(&mut self, from: Address, to: Address, bytes: Vec<u8>) {
        let reset = self.faults.reset_per_million;
        if self.happens(reset, 1_000_000) {
            self.break_off(from, libc::ECONNRESET);
            self.break_off(to, libc::ECONNRESET);
            return;
        }
        match self.socket_mut(to) {
            Some(socket) if !socket.is_closing => {
                if socket.broken.is_some() {
                    return;
                }
                socket.received.extend(bytes);
                self.soon(Action::Receive { socket: to });
            }
            // Nobody there: the sender learns of it.
            _ => {
                let at = self.now + self.within(self.faults.network_span);
                let end = End::Failed(libc::ECONNRESET);
                self.schedule(at, Action::DeliverEnd { to: from, end });
            }
        }
    }

    fn on_deliver_end(&mut self, to: Address, end: End) {
        match end {
            End::Failed(errno) => self.break_off(to, errno),
            End::Eof => {
                if let Some(socket) = self.socket_mut(to) {
                    socket.end.get_or_insert(end);
                    self.soon(Action::Receive { socket: to });
                }
            }
        }
    }

    /// The connection of this end is gone: unread bytes too, and a send in flight fails.
    fn break_off(&mut self, address: Address, errno: i32) {
        let Some(socket) = self.socket_mut(address).filter(|socket| !socket.is_closing) else {
            return;
        };
        if socket.broken.is_some() {
            return;
        }
        socket.broken = Some(libc::EPIPE);
        socket.received.clear();
        socket.end = Some(End::Failed(errno));
        self.end_send(address, Err(errno));
        self.soon(Action::Receive { socket: address });
    }

    fn on_receive(&mut self, address: Address) {
        let short = u32::from(self.faults.short_percent);
        let starved = u32::from(self.faults.starved_percent);
        let is_short = self.happens(short, 100);
        let is_starved = self.happens(starved, 100);
        let random = self.below(u64::MAX);
        let now = self.now;
        let Some(inside) = self.reactors.get_mut(&address.0) else {
            return;
        };
        let Some(socket) = inside.sockets.get_mut(address.1) else {
            return;
        };
        let is_stream = matches!(socket.role, Role::Stream);
        if socket.is_closing || !socket.wants_data || socket.has_ended || !is_stream {
            return;
        }
        if socket.received.is_empty() {
            if let Some(end) = socket.end {
                socket.has_ended = true;
                let event = Event::ReceiveEnded {
                    socket: address.1.into(),
                    end,
                };
                inside.inbox.push_back(Notice::Plain(event));
            }
            return;
        }
        if is_starved {
            self.schedule(now + STARVED_PAUSE, Action::Receive { socket: address });
            return;
        }
        if inside.leased >= inside.buffers.count {
            if !inside.starved.contains(&address.1) {
                inside.starved.push_back(address.1);
            }
            return;
        }
        let mut len = socket.received.len().min(inside.buffers.len as usize);
        if is_short {
            len = 1 + (random % len as u64) as usize;
        }
        let bytes: Vec<u8> = socket.received.drain(..len).collect();
        let goes_on = !socket.received.is_empty() || socket.end.is_some();
        let peer = socket.peer;
        inside.leased += 1;
        inside.inbox.push_back(Notice::Received {
            socket: address.1,
            bytes,
        });
        if goes_on {
            self.soon(Action::Receive { socket: address });
        }
        if let Some(peer) = peer
            && let Some(sender) = self.socket_mut(peer)
        {
            sender.in_pipe = sender.in_pipe.saturating_sub(len);
            if sender.sending.is_some() {
                self.soon(Action::Send { socket: peer });
            }
        }
    }

    fn lease_ended(&mut self, reactor: ReactorId) {
        let Some(inside) = self.reactors.get_mut(&reactor) else {
            return;
        };
        inside.leased = inside.leased.saturating_sub(1);
        if let Some(token) = inside.starved.pop_front() {
            self.soon(Action::Receive {
                socket: (reactor, token),
            });
        }
    }

    // ---- Closing.

    fn close(&mut self, address: Address) {
        let Some(socket) = self.socket_mut(address) else {
            return;
        };
        if socket.is_closing {
            return;
        }
        let is_unread = !socket.received.is_empty();
        let is_listener = matches!(
            socket.role,
            Role::TcpListener { .. } | Role::UnixListener { .. }
        );
        socket.received.clear();
        socket.sending = None;
        let end = if is_unread {
            End::Failed(libc::ECONNRESET)
        } else {
            End::Eof
        };
        self.send_end(address, end);
        if let Some(socket) = self.socket_mut(address) {
            socket.is_closing = true;
        }
        if is_listener {
            self.forget_listeners();
        }
        let notice = Notice::Closed { socket: address.1 };
        self.soon(Action::Notify {
            reactor: address.0,
            notice,
        });
    }

    // ---- Files.

    fn disk(&mut self, machine: Machine) -> &mut Disk {
        self.disks.entry(machine).or_default()
    }

    fn start_job(&mut self, job: Job) {
        let faults = &self.disk(job.machine).faults;
        let span = faults.span.unwrap_or(self.faults.disk_span);
        let mut at = self.now + self.within(span);
        if self.happens(self.faults.disk_stalls_per_million, 1_000_000) {
            at += self.within(self.faults.disk_stall_span);
        }
        self.schedule(at, Action::Disk(job));
    }

    fn on_disk(&mut self, job: Job) {
        let write_fails = self.happens(self.faults.write_fails_per_million, 1_000_000);
        let is_full = self.happens(self.faults.disk_full_per_million, 1_000_000);
        let sync_fails = self.happens(self.faults.sync_fails_per_million, 1_000_000);
        let name_fails = self.happens(self.faults.name_fails_per_million, 1_000_000);
        let drawn = match (write_fails, is_full) {
            (true, _) => Some(libc::EIO),
            (false, true) => Some(libc::ENOSPC),
            (false, false) => None,
        };
        let random = &mut self.random;
        let disk = self.disks.entry(job.machine).or_default();
        let result = match &job.work {
            Work::Write {
                number,
                offset,
                block,
                is_durable,
                ..
            } => {
                let before = disk.sequence();
                let written = disk.write(*number, *offset, block, drawn, random);
                if *is_durable && written.is_ok() {
                    disk.sync_write(*number, before, sync_fails, random)
                } else {
                    written
                }
            }
            Work::Sync { what, covers } => match what {
                Opened::File(number) => disk.sync_file(*number, *covers, sync_fails, random),
                Opened::Folder(path) => disk.sync_folder(path, *covers, sync_fails, random),
            },
            Work::Reserve { number, len } => disk.reserve(*number, *len),
            Work::Rename { .. } | Work::Remove { .. } if name_fails => Err(libc::EIO),
            Work::Rename { from, to } => disk.rename(from, to),
            Work::Remove { path } => disk.remove(path),
        };
        let result = result.and_then(|()| self.folder_is_sound(&job));
        let is_of_folder = !matches!(job.work, Work::Write { .. } | Work::Reserve { .. });
        if is_of_folder {
            self.collect_files(job.machine);
        }
        if let Some(file) = job.file {
            self.end_file(job.reactor, file.into());
        }
        self.notify(job.reactor, job.notice(result));
    }

    /// Forgets files without name and owner.
    fn collect_files(&mut self, machine: Machine) {
        let inside = self
            .reactors
            .values()
            .filter(|inside| inside.machine == machine);
        let open = inside.flat_map(|inside| inside.files.iter());
        let open = open.filter_map(|(_, file)| match file.what {
            Opened::File(number) => Some(number),
            Opened::Folder(_) => None,
        });
        let open = open.collect();
        self.disk(machine).collect(open);
    }

    /// What was in flight happens as if just before; then nothing of it was synced.
    fn crash_disk(&mut self, machine: Machine) {
        let (jobs, agenda): (Vec<_>, BTreeMap<_, _>) = {
            let is_job =
                |action: &Action| matches!(action, Action::Disk(job) if job.machine == machine);
            let (jobs, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.agenda)
                .into_iter()
                .partition(|(_, action)| is_job(action));
            (jobs, left.into_iter().collect())
        };
        self.agenda = agenda;
        let random = &mut self.random;
        let disk = self.disks.entry(machine).or_default();
        for (_, action) in jobs {
            let Action::Disk(job) = action else { continue };
            // Whether one of them fails is nobody's business any more.
            let _ = match job.work {
                Work::Write {
                    number,
                    offset,
                    block,
                    ..
                } => disk.write(number, offset, &block, None, random),
                Work::Reserve { number, len } => disk.reserve(number, len),
                Work::Rename { from, to } => disk.rename(&from, &to),
                Work::Remove { path } => disk.remove(&path),
                Work::Sync { .. } => Ok(()),
            };
        }
        disk.crash(random);
    }

    /// Whoever has a folder open is told once of each failed sync of it, whoever asked for that.
    fn folder_is_sound(&mut self, job: &Job) -> Result<(), i32> {
        let Work::Sync {
            what: Opened::Folder(path),
            ..
        } = &job.work
        else {
            return Ok(());
        };
        let failures = self.disk(job.machine).folder_failures(path);
        let inside = self.reactors.get_mut(&job.reactor);
        let file = job.file.map(Token::from);
        let open = inside.and_then(|inside| inside.files.get_mut(file?));
        match open {
            Some(open) if open.failures < failures => {
                open.failures = failures;
                Err(libc::EIO)
            }
            _ => Ok(()),
        }
    }

    fn end_file(&mut self, reactor: ReactorId, token: Token) {
        let Some(inside) = self.reactors.get_mut(&reactor) else {
            return;
        };
        if let Some(file) = inside.files.get_mut(token) {
            file.in_flight -= 1;
            if file.is_closing && file.in_flight == 0 {
                inside.files.remove(token);
            }
        }
    }
}

impl Job {
    fn notice(self, result: Result<(), i32>) -> Notice {
        let mark = self.mark;
        let event = match (self.work, self.file) {
            (Work::Write { block, .. }, Some(_)) => Event::Written {
                mark,
                block,
                result,
            },
            (Work::Sync { .. }, Some(file)) => Event::Synced { file, mark, result },
            _ => Event::Done { mark, result },
        };
        Notice::Plain(event)
    }
}

impl FakeReactor {
    /// The machine it runs on.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The world it is in.
    pub fn world(&self) -> FakeWorld {
        FakeWorld(self.world.clone())
    }

    fn address(&self, socket: SocketId) -> Address {
        (self.id, socket.into())
    }

    /// Sleeps as told, in the world's time.
    fn sleep(&mut self, wait: Wait) {
        let mut world = self.world.borrow_mut();
        world.now += TURN_COST;
        world.pump();
        let id = self.id;
        let Some(inside) = world.reactors.get_mut(&id) else {
            return;
        };
        inside.waits_until = None;
        let until = match wait {
            Wait::Look => return,
            Wait::Until(at) => Some(at),
            Wait::Event => None,
        };
        while !world.is_ready(id) && until.is_none_or(|at| at > world.now) {
            if world.has_ready_other_than(Some(id)) {
                // Time must not pass them by. We shall be called again, at the latest for our own end.
                if let Some(inside) = world.reactors.get_mut(&id) {
                    inside.waits_until = until;
                }
                return;
            }
            let next = match (world.next_at(), until) {
                (Some(a), Some(b)) => a.min(b),
                (Some(at), None) | (None, Some(at)) => at,
                // Nothing will ever happen; a turn that ends empty lets the caller notice.
                (None, None) => return,
            };
            world.now = world.now.max(next);
            world.pump();
        }
    }

    fn take_notice(&mut self) -> Option<Notice> {
        let mut world = self.world.borrow_mut();
        world.reactors.get_mut(&self.id)?.inbox.pop_front()
    }

    /// What a notice tells the caller; nothing if its socket was closed meanwhile.
    fn event_of(&mut self, notice: Notice) -> Option<Event> {
        match notice {
            Notice::Received { socket, bytes } => {
                if self.is_closing(socket) {
                    self.world.borrow_mut().lease_ended(self.id);
                    return None;
                }
                let len = bytes.len() as u32;
                let buffer = match self.free_leases.pop() {
                    Some(buffer) => {
                        self.leases[buffer as usize] = Some(bytes);
                        buffer
                    }
                    None => {
                        self.leases.push(Some(bytes));
                        self.leases.len() as u32 - 1
                    }
                };
                Some(Event::Received {
                    socket: socket.into(),
                    lease: Lease { buffer, len },
                })
            }
            Notice::Closed { socket } => {
                let mut world = self.world.borrow_mut();
                world.reactors.get_mut(&self.id)?.sockets.remove(socket)?;
                Some(Event::Closed {
                    socket: socket.into(),
                })
            }
            Notice::Released { socket, usage, .. } => {
                let is_heard = !self.is_closing(socket);
                is_heard.then(|| Event::Released {
                    socket: socket.into(),
                    usage,
                })
            }
            Notice::Plain(event) => {
                let subject = match &event {
                    Event::Accepted {
                        listener, socket, ..
                    } => {
                        if self.is_closing((*listener).into()) {
                            self.discard((*socket).into());
                            return None;
                        }
                        None
                    }
                    Event::AcceptFailed { listener, .. } => Some(*listener),
                    Event::Connected { socket, .. }
                    | Event::ReceiveEnded { socket, .. }
                    | Event::Sent { socket, .. } => Some(*socket),
                    _ => None,
                };
                if subject.is_some_and(|socket| self.is_closing(socket.into())) {
                    return None;
                }
                Some(event)
            }
        }
    }

    fn is_closing(&self, socket: Token) -> bool {
        let world = self.world.borrow();
        world
            .socket((self.id, socket))
            .is_none_or(|socket| socket.is_closing)
    }

    /// Ends a connection that the caller never heard of.
    fn discard(&mut self, socket: Token) {
        let mut world = self.world.borrow_mut();
        world.send_end((self.id, socket), End::Failed(libc::ECONNRESET));
        if let Some(inside) = world.reactors.get_mut(&self.id) {
            inside.sockets.remove(socket);
        }
    }

    fn start_send(
        &mut self,
        socket: SocketId,
        outgoing: Outgoing,
        is_in_place: bool,
    ) -> Result<(), Outgoing> {
        let total = match &outgoing {
            Outgoing::Block(block) => block.len(),
            Outgoing::Gather(pieces) => pieces.iter().map(bytes::Bytes::len).sum(),
        };
        let address = self.address(socket);
        let mut world = self.world.borrow_mut();
        let Some(socket) = world.socket_mut(address) else {
            return Err(outgoing);
        };
        let is_stream = matches!(socket.role, Role::Stream);
        if total == 0 || socket.sending.is_some() || socket.is_closing || !is_stream {
            return Err(outgoing);
        }
        socket.sending = Some(Sending {
            outgoing,
            done: 0,
            total,
            is_in_place,
        });
        world.soon(Action::Send { socket: address });
        Ok(())
    }

    /// Starts what `work` makes of an open file, or refuses with its errno.
    fn start_file(
        &mut self,
        file: FileId,
        mark: u64,
        work: impl FnOnce(&Opened, u64) -> (Work, Result<(), i32>),
    ) {
        let mut world = self.world.borrow_mut();
        let covers = world.disk(self.machine).sequence();
        let inside = world.reactors.get_mut(&self.id);
        let open = inside.and_then(|inside| inside.files.get_mut(file.into()));
        let mut open = open.filter(|open| !open.is_closing);
        let nothing = Opened::Folder(PathBuf::new());
        let (work, started) = work(open.as_ref().map_or(&nothing, |open| &open.what), covers);
        let job = Job {
            machine: self.machine,
            reactor: self.id,
            file: Some(file),
            mark,
            work,
        };
        let started = match &mut open {
            Some(open) => started.inspect(|()| open.in_flight += 1),
            None => Err(libc::EBADF),
        };
        match started {
            Ok(()) => world.start_job(job),
            Err(errno) => {
                let notice = job.notice(Err(errno));
                world.notify(self.id, notice);
            }
        }
    }

    fn start_write(
        &mut self,
        file: FileId,
        mark: u64,
        offset: u64,
        block: Bytes,
        is_durable: bool,
    ) {
        self.start_file(file, mark, |what, _| {
            let (number, result) = what.writable();
            let work = Work::Write {
                number,
                offset,
                block,
                is_durable,
            };
            (work, result)
        });
    }

    /// Starts work on names.
    fn start_name(&mut self, mark: u64, work: Work) {
        let job = Job {
            machine: self.machine,
            reactor: self.id,
            file: None,
            mark,
            work,
        };
        let mut world = self.world.borrow_mut();
        if world.reactors.contains_key(&self.id) {
            world.start_job(job);
        }
    }

    fn start_receive(&mut self, socket: Address) {
        self.world.borrow_mut().soon(Action::Receive { socket });
    }
}

impl Opened {
    /// A folder can be opened but not written.
    fn writable(&self) -> (FileNumber, Result<(), i32>) {
        match self {
            Opened::File(number) => (*number, Ok(())),
            Opened::Folder(_) => (0, Err(libc::EBADF)),
        }
    }
}

impl Drop for FakeReactor {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        let Some(inside) = world.reactors.get(&self.id) else {
            return;
        };
        let sockets: Vec<Token> = inside.sockets.iter().map(|(token, _)| token).collect();
        for token in sockets {
            world.close((self.id, token));
        }
        world.reactors.remove(&self.id);
        world.forget_listeners();
    }
}

impl Reactor for FakeReactor {
    type Waker = FakeWaker;

    fn now(&self) -> Nanos {
        self.world.borrow().now
    }

    fn wall_clock_ms(&self) -> u64 {
        self.now() / 1_000_000
    }

    fn boot_clock_ms(&self) -> u64 {
        self.now() / 1_000_000
    }

    /// This network loses nothing.
    fn limit_silence(&mut self, _socket: SocketId, _ms: u32) {}

    fn listen(&mut self, at: &Endpoint, _backlog: u32) -> io::Result<SocketId> {
        let mut world = self.world.borrow_mut();
        let machine = self.machine;
        let (role, local) = match at {
            Endpoint::Tcp(at) => {
                let ip = at.ip();
                if !ip.is_unspecified() && machine_of(at, machine) != Some(machine) {
                    return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
                }
                let port = if at.port() == 0 {
                    world.fresh_port()
                } else {
                    at.port()
                };
                let role = Role::TcpListener {
                    port,
                    only_local: ip.is_loopback(),
                };
                (role, Some(SocketAddr::new(ip, port)))
            }
            Endpoint::Unix(path) => {
                if world.unix_listeners.contains_key(&(machine, path.clone())) {
                    return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
                }
                (Role::UnixListener { path: path.clone() }, None)
            }
        };
        let names = match &role {
            Role::TcpListener { port, .. } => Ok(*port),
            Role::UnixListener { path } => Err(path.clone()),
            Role::Connecting | Role::Stream => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let mut socket = Socket::new(role, machine);
        socket.local = local;
        let inside = world.reactors.get_mut(&self.id).ok_or_else(gone)?;
        let token = inside.sockets.insert(socket);
        let address = (self.id, token);
        match names {
            Ok(port) => world
                .tcp_listeners
                .entry((machine, port))
                .or_default()
                .push(address),
            Err(path) => {
                world.unix_listeners.insert((machine, path), address);
            }
        }
        Ok(token.into())
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        self.world.borrow().socket(self.address(socket))?.local
    }

    fn connect(&mut self, to: &Endpoint) -> io::Result<SocketId> {
        let mut world = self.world.borrow_mut();
        let mut socket = Socket::new(Role::Connecting, self.machine);
        if let Endpoint::Tcp(to) = to {
            socket.peer_machine = machine_of(to, self.machine).unwrap_or(self.machine);
            let ip = if to.ip().is_loopback() {
                to.ip()
            } else {
                self.machine.ip()
            };
            socket.local = Some(SocketAddr::new(ip, world.fresh_port()));
        }
        let span = world.faults.network_span;
        let at = world.now + world.within(span);
        let inside = world.reactors.get_mut(&self.id).ok_or_else(gone)?;
        let token = inside.sockets.insert(socket);
        world.schedule(
            at,
            Action::Connect {
                client: (self.id, token),
                to: to.clone(),
            },
        );
        Ok(token.into())
    }

    fn start_receiving(&mut self, socket: SocketId) {
        let address = self.address(socket);
        if let Some(socket) = self.world.borrow_mut().socket_mut(address) {
            socket.wants_data = true;
        }
        self.start_receive(address);
    }

    fn stop_receiving(&mut self, socket: SocketId) {
        let address = self.address(socket);
        if let Some(socket) = self.world.borrow_mut().socket_mut(address) {
            socket.wants_data = false;
        }
    }

    fn received(&self, lease: &Lease) -> &[u8] {
        self.leases
            .get(lease.buffer as usize)
            .and_then(Option::as_deref)
            .unwrap_or_default()
    }

    fn give_back(&mut self, lease: Lease) {
        let Some(place) = self.leases.get_mut(lease.buffer as usize) else {
            return;
        };
        if place.take().is_some() {
            self.free_leases.push(lease.buffer);
            self.world.borrow_mut().lease_ended(self.id);
        }
    }

    fn send(&mut self, socket: SocketId, outgoing: Outgoing) -> Result<(), Outgoing> {
        self.start_send(socket, outgoing, false)
    }

    fn send_in_place(&mut self, socket: SocketId, pieces: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        match self.start_send(socket, Outgoing::Gather(pieces), true) {
            Err(Outgoing::Gather(pieces)) => Err(pieces),
            _ => Ok(()),
        }
    }

    fn may_send_in_place(&self, socket: SocketId) -> bool {
        let world = self.world.borrow();
        let socket = world.socket(self.address(socket));
        socket.is_some_and(|socket| socket.peer_machine != self.machine)
    }

    fn finish_sending(&mut self, socket: SocketId) {
        let address = self.address(socket);
        let mut world = self.world.borrow_mut();
        let Some(socket) = world.socket_mut(address) else {
            return;
        };
        if socket.sending.is_some() {
            socket.finish_after_send = true;
        } else if !socket.is_closing {
            world.send_end(address, End::Eof);
        }
    }

    fn close(&mut self, socket: SocketId) {
        let address = self.address(socket);
        self.world.borrow_mut().close(address);
    }

    fn open(&mut self, path: &Path, how: OpenHow) -> io::Result<FileId> {
        let mut world = self.world.borrow_mut();
        if !world.reactors.contains_key(&self.id) {
            return Err(gone());
        }
        let opened = world.disk(self.machine).open(path, how);
        let number = opened.map_err(io::Error::from_raw_os_error)?;
        let inside = world.reactors.get_mut(&self.id).ok_or_else(gone)?;
        let file = OpenFile {
            what: Opened::File(number),
            in_flight: 0,
            is_closing: false,
            failures: 0,
        };
        Ok(inside.files.insert(file).into())
    }

    fn write(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        self.start_write(file, mark, offset, block, false);
    }

    fn write_durable(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        self.start_write(file, mark, offset, block, true);
    }

    fn sync(&mut self, file: FileId, mark: u64) {
        self.start_file(file, mark, |what, covers| {
            let what = what.clone();
            (Work::Sync { what, covers }, Ok(()))
        });
    }

    fn reserve(&mut self, file: FileId, len: u64, mark: u64) {
        self.start_file(file, mark, |what, _| {
            let (number, result) = what.writable();
            (Work::Reserve { number, len }, result)
        });
    }

    fn open_dir(&mut self, path: &Path) -> io::Result<FileId> {
        let mut world = self.world.borrow_mut();
        if !world.disk(self.machine).may_be_folder(path) {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        let failures = world.disk(self.machine).folder_failures(path);
        let inside = world.reactors.get_mut(&self.id).ok_or_else(gone)?;
        let file = OpenFile {
            what: Opened::Folder(path.to_path_buf()),
            in_flight: 0,
            is_closing: false,
            failures,
        };
        Ok(inside.files.insert(file).into())
    }

    fn rename(&mut self, from: &Path, to: &Path, mark: u64) {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        self.start_name(mark, Work::Rename { from, to });
    }

    fn remove(&mut self, path: &Path, mark: u64) {
        let path = path.to_path_buf();
        self.start_name(mark, Work::Remove { path });
    }

    fn close_file(&mut self, file: FileId) {
        let mut world = self.world.borrow_mut();
        let token = file.into();
        let Some(inside) = world.reactors.get_mut(&self.id) else {
            return;
        };
        if let Some(open) = inside.files.get_mut(token) {
            open.is_closing = true;
            if open.in_flight == 0 {
                inside.files.remove(token);
            }
        }
    }

    fn make_arena(&mut self, count: u32, len: u32) -> io::Result<bool> {
        if self.arena.is_some() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.arena = Some(Arena::new(count, len)?);
        Ok(true)
    }

    fn take_chunk(&mut self) -> Option<Chunk> {
        self.arena.as_ref()?.take()
    }

    fn set_timer(&mut self, at: Nanos, mark: u64) -> TimerId {
        match self.world.borrow_mut().reactors.get_mut(&self.id) {
            Some(inside) => inside.timers.set(at, mark),
            None => TimerId(u64::MAX),
        }
    }

    fn cancel_timer(&mut self, timer: TimerId) {
        if let Some(inside) = self.world.borrow_mut().reactors.get_mut(&self.id) {
            inside.timers.cancel(timer);
        }
    }

    fn waker(&self) -> FakeWaker {
        self.wake.clone()
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        let room = events.len() + EVENTS_MAX;
        self.sleep(wait);
        if !self.world.borrow().reactors.contains_key(&self.id) {
            return Err(gone());
        }
        if self.wake.0.swap(false, Ordering::AcqRel) {
            events.push(Event::Woken);
        }
        while events.len() < room
            && let Some(notice) = self.take_notice()
        {
            events.extend(self.event_of(notice));
        }
        let mut world = self.world.borrow_mut();
        let now = world.now;
        if let Some(inside) = world.reactors.get_mut(&self.id) {
            while events.len() < room
                && let Some((timer, mark)) = inside.timers.pop_due(now)
            {
                events.push(Event::Timer { timer, mark });
            }
        }
        Ok(())
    }
}

impl World {
    fn fresh_port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
        self.next_port
    }
}

impl Socket {
    fn new(role: Role, peer_machine: Machine) -> Socket {
        Socket {
            role,
            local: None,
            remote: None,
            peer: None,
            peer_machine,
            wants_data: false,
            has_ended: false,
            is_closing: false,
            has_finished: false,
            finish_after_send: false,
            received: VecDeque::new(),
            end: None,
            sending: None,
            in_pipe: 0,
            last_arrival: 0,
            broken: None,
        }
    }
}

impl Sending {
    /// The next `len` bytes.
    fn slice(&self, len: usize) -> Vec<u8> {
        match &self.outgoing {
            Outgoing::Block(block) => block[self.done..self.done + len].to_vec(),
            Outgoing::Gather(pieces) => {
                let mut bytes = Vec::with_capacity(len);
                let mut skip = self.done;
                for piece in pieces {
                    if skip >= piece.len() {
                        skip -= piece.len();
                        continue;
                    }
                    let rest = &piece[skip..];
                    skip = 0;
                    bytes.extend_from_slice(&rest[..rest.len().min(len - bytes.len())]);
                    if bytes.len() == len {
                        break;
                    }
                }
                bytes
            }
        }
    }
}

/// Which machine an address means, seen from `from`.
fn machine_of(at: &SocketAddr, from: Machine) -> Option<Machine> {
    match at.ip() {
        ip if ip.is_loopback() || ip.is_unspecified() => Some(from),
        IpAddr::V4(ip) => match ip.octets() {
            [10, 0, 0, machine] => Some(Machine(machine)),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// The machine crashed: nothing of it works.
fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENODEV)
}

/// Time starts here, so that a test can subtract from now.
const START: Nanos = 1_000_000_000_000;
/// Every turn takes a little time, so that a loop that only looks gets on.
const TURN_COST: Nanos = 500;
/// The kernel takes up to this long to do what it could do at once.
const REACTION: Nanos = 5_000;
const ACCEPT_PAUSE: Nanos = 100_000_000;
const STARVED_PAUSE: Nanos = 50_000;
const EVENTS_MAX: usize = 1024;
